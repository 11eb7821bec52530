//! Which registers does a VM entry load, and from where?
//!
//! # Choices
//! - Segment registers that will be unusable: what is "undefined after VM entry" has the value of its field. Bits of the access rights
//!   that no segment register has (31:17 and 11:8) are 0.
//! - RSP is loaded in full, also where bits 63:32 may be ignored.
//! - An LDTR that will be unusable gets base 0 if its field is not canonical.
//! - IA32_EFER is left alone on processors that are known to lack Intel 64 architecture, unless "load IA32_EFER" loads it.
//!
//! Not loaded, as the manual has it: general-purpose registers but RSP, CR2, CR8 (the TPR shadow is in the virtual-APIC page), DR0 to DR3,
//! DR6, XCR0, SMBASE, and every MSR that the manual does not name.
//!
//! Source: SDM 3C (rev 077) 26.3.2, Loading Guest State; FRED specification (rev 2.0) 9.5.3, State Loading by VM Entries. The controls
//! "load UINV" and "load IA32_SPEC_CTRL" are later than revision 077.

use crate::control::Control;
use crate::controls::Controls;
use crate::fields::Field;
use crate::vmcs::Vmcs;
use x86_state::addr::is_canonical;
use x86_state::{
    AccessRights, Cpu, CpuProfile, Cr0, Cr4, DebugCtl, DescriptorTable, Dr7, Efer, Feature, Gpr, Hpa, PagingMode,
    PhysMemory, Platform, Rflags, Segment, SegmentRegister, Selector,
};

/// The bits of CR0 that no VM entry modifies: ET, 15:6, 17, 28:19, NW and CD (26.3.2.1).
pub const CR0_NEVER_MODIFIED: u64 = 1 << 4 | 0xffc0 | 1 << 17 | 0x1ff8_0000 | 1 << 29 | 1 << 30;
/// DR7 bits 12, 14 and 15 are always 0 (26.3.2.1).
const DR7_ALWAYS_0: u64 = 1 << 12 | 0b11 << 14;
/// CR3 bits 31:5 are the address of the page-directory-pointer table.
const PDPT_ADDRESS: u64 = 0xffff_ffe0;

/// Loads the registers of the guest.
pub fn load<M, R>(cpu: &mut Cpu, vmcs: &Vmcs, controls: &Controls, platform: &Platform<'_, M, R>)
where
    M: PhysMemory + ?Sized,
    R: ?Sized,
{
    load_control_and_debug_registers(cpu, vmcs, controls);
    load_efer(cpu, vmcs, controls, platform.profile);
    load_rows(cpu, vmcs, controls);
    for register in SegmentRegister::ALL {
        cpu.segments[register] = segment(vmcs, register, platform.profile);
    }
    cpu.gdtr = table(vmcs, Field::GUEST_GDTR_BASE, Field::GUEST_GDTR_LIMIT);
    cpu.idtr = table(vmcs, Field::GUEST_IDTR_BASE, Field::GUEST_IDTR_LIMIT);
    cpu.rflags = Rflags::from_bits_retain(vmcs.get(Field::GUEST_RFLAGS));
    load_pdptes(cpu, vmcs, controls, platform);
}

/// 26.3.2.1, Loading Guest Control Registers, Debug Registers, and MSRs: the registers.
fn load_control_and_debug_registers(cpu: &mut Cpu, vmcs: &Vmcs, controls: &Controls) {
    let kept = cpu.cr0.bits() & CR0_NEVER_MODIFIED;
    cpu.cr0 = Cr0::from_bits_retain(vmcs.get(Field::GUEST_CR0) & !CR0_NEVER_MODIFIED | kept);
    cpu.cr4 = Cr4::from_bits_retain(vmcs.get(Field::GUEST_CR4));
    if controls.has(Control::LOAD_DEBUG_CONTROLS) {
        let dr7 = vmcs.get(Field::GUEST_DR7) & !DR7_ALWAYS_0 | Dr7::FIXED_1.bits();
        cpu.dr7 = Dr7::from_bits_retain(dr7);
        cpu.debugctl = DebugCtl::from_bits_retain(vmcs.get(Field::GUEST_IA32_DEBUGCTL));
    }
}

/// IA32_EFER: the field, or LMA and perhaps LME by "IA-32e mode guest". CR0 is the guest's already.
fn load_efer(cpu: &mut Cpu, vmcs: &Vmcs, controls: &Controls, profile: &CpuProfile) {
    if controls.has(Control::LOAD_EFER) {
        cpu.efer = Efer::from_bits_retain(vmcs.get(Field::GUEST_IA32_EFER));
    } else if profile.has(Feature::LM) != Some(false) {
        let ia32e = controls.has(Control::IA32E_MODE_GUEST);
        cpu.efer.set(Efer::LMA, ia32e);
        if cpu.cr0.contains(Cr0::PG) {
            cpu.efer.set(Efer::LME, ia32e);
        }
    }
}

/// A register that a VM entry loads from one field as it is.
#[derive(Clone, Copy, Debug)]
pub struct LoadRow {
    /// The VM-entry control that asks for it; `None` if it is always loaded.
    pub control: Option<Control>,
    /// The field.
    pub field: Field,
    /// Manual, section number and title.
    pub source: &'static str,
}

macro_rules! loads {
    (@section later) => { "later than SDM rev 077; the VM-entry control's name says what is loaded" };
    (@section fred) => { "FRED specification 9.5.3, State Loading by VM Entries" };
    (@section rip) => { "SDM 3C 26.3.2.3, Loading Guest RIP, RSP, RFLAGS, and SSP" };
    (@section msrs) => { "SDM 3C 26.3.2.1, Loading Guest Control Registers, Debug Registers, and MSRs" };
    (|$cpu:ident| always { $($always:ident => $always_place:expr, $always_section:tt;)* }
        $($control:ident { $($field:ident => $place:expr, $section:tt;)* })*) => {
        /// One row for each register that is loaded from one field as it is. The others have code of their own: control and debug
        /// registers, IA32_EFER, segments, PDPTEs.
        pub const LOADS: &[LoadRow] = &[
            $(LoadRow { control: None, field: Field::$always, source: loads!(@section $always_section) },)*
            $($(LoadRow {
                control: Some(Control::$control),
                field: Field::$field,
                source: loads!(@section $section),
            },)*)*
        ];

        fn load_rows($cpu: &mut Cpu, vmcs: &Vmcs, controls: &Controls) {
            $($always_place = vmcs.get(Field::$always) as _;)*
            $(if controls.has(Control::$control) {
                $($place = vmcs.get(Field::$field) as _;)*
            })*
        }
    };
}

loads! {
    |cpu|
    always {
        GUEST_CR3 => cpu.cr3, msrs;
        GUEST_IA32_SYSENTER_CS => cpu.sysenter_cs, msrs;
        GUEST_IA32_SYSENTER_ESP => cpu.sysenter_esp, msrs;
        GUEST_IA32_SYSENTER_EIP => cpu.sysenter_eip, msrs;
        GUEST_RSP => cpu.gpr[Gpr::Rsp], rip;
        GUEST_RIP => cpu.rip, rip;
    }
    LOAD_PERF_GLOBAL_CTRL { GUEST_IA32_PERF_GLOBAL_CTRL => cpu.perf_global_ctrl, msrs; }
    LOAD_PAT { GUEST_IA32_PAT => cpu.pat, msrs; }
    LOAD_BNDCFGS { GUEST_IA32_BNDCFGS => cpu.bndcfgs, msrs; }
    LOAD_RTIT_CTL { GUEST_IA32_RTIT_CTL => cpu.rtit_ctl, msrs; }
    LOAD_CET_STATE {
        GUEST_IA32_S_CET => cpu.cet.s_cet, msrs;
        GUEST_IA32_INTERRUPT_SSP_TABLE_ADDR => cpu.cet.interrupt_ssp_table_addr, msrs;
        GUEST_SSP => cpu.cet.ssp, rip;
    }
    LOAD_LBR_CTL { GUEST_IA32_LBR_CTL => cpu.lbr_ctl, msrs; }
    LOAD_PKRS { GUEST_IA32_PKRS => cpu.pkrs, msrs; }
    LOAD_UINV { GUEST_UINV => cpu.uinv, later; }
    LOAD_SPEC_CTRL { GUEST_IA32_SPEC_CTRL => cpu.spec_ctrl, later; }
    LOAD_FRED {
        GUEST_IA32_FRED_CONFIG => cpu.fred.config, fred;
        GUEST_IA32_FRED_RSP1 => cpu.fred.rsp[1], fred;
        GUEST_IA32_FRED_RSP2 => cpu.fred.rsp[2], fred;
        GUEST_IA32_FRED_RSP3 => cpu.fred.rsp[3], fred;
        GUEST_IA32_FRED_STACK_LEVELS => cpu.fred.stack_levels, fred;
        GUEST_IA32_FRED_SSP1 => cpu.fred.ssp[0], fred;
        GUEST_IA32_FRED_SSP2 => cpu.fred.ssp[1], fred;
        GUEST_IA32_FRED_SSP3 => cpu.fred.ssp[2], fred;
    }
}

/// 26.3.2.2, Loading Guest Segment Registers and Descriptor-Table Registers.
fn segment(vmcs: &Vmcs, register: SegmentRegister, profile: &CpuProfile) -> Segment {
    use SegmentRegister::{Cs, Ds, Es, Fs, Gs, Ldtr, Ss, Tr};
    /// Bit 14 of the access rights.
    const BIG: u32 = 1 << 14;
    const BITS_31_0: u64 = 0xffff_ffff;

    let defined = !(AccessRights::RESERVED_LOW | AccessRights::RESERVED_HIGH);
    let mut loaded = Segment {
        selector: Selector(vmcs.get(Field::guest_selector(register)) as u16),
        base: vmcs.get(Field::guest_base(register)),
        limit: vmcs.get(Field::guest_limit(register)) as u32,
        rights: AccessRights(vmcs.get(Field::guest_access_rights(register)) as u32 & defined),
    };
    if loaded.rights.usable() {
        return loaded;
    }
    match register {
        // SS.DPL, which is the CPL, is loaded in any case.
        Ss => {
            loaded.base &= BITS_31_0 & !0xf;
            loaded.rights.0 |= BIG;
        }
        Ds | Es => loaded.base &= BITS_31_0,
        Ldtr if !is_canonical(loaded.base, profile.linear_width()) => loaded.base = 0,
        Cs | Fs | Gs | Ldtr | Tr => {}
    }
    loaded
}

const fn table(vmcs: &Vmcs, base: Field, limit: Field) -> DescriptorTable {
    DescriptorTable { base: vmcs.get(base), limit: vmcs.get(limit) as u32 }
}

/// 26.3.2.4, Loading Page-Directory-Pointer-Table Entries: with EPT from the VMCS, without from memory. Paging is the guest's already.
fn load_pdptes<M, R>(cpu: &mut Cpu, vmcs: &Vmcs, controls: &Controls, platform: &Platform<'_, M, R>)
where
    M: PhysMemory + ?Sized,
    R: ?Sized,
{
    if cpu.paging_mode() != PagingMode::Pae {
        return;
    }
    const FIELDS: [Field; 4] = [Field::GUEST_PDPTE0, Field::GUEST_PDPTE1, Field::GUEST_PDPTE2, Field::GUEST_PDPTE3];
    let ept = controls.has(Control::ENABLE_EPT);
    let at = cpu.cr3 & PDPT_ADDRESS;
    for (n, (register, field)) in (0..).zip(cpu.pdptes.iter_mut().zip(FIELDS)) {
        *register = if ept { vmcs.get(field) } else { platform.memory.read_u64(Hpa(at + 8 * n)) };
    }
}
