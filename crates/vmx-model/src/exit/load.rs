//! Which state does the host get back at a VM exit?
//!
//! Source: SDM 3C (rev 077) 27.5, Loading Host State; 24.7.1, VM-Exit Controls ("clear IA32_LBR_CTL"); 23.8, Restrictions on VMX Operation.
//! IA32_SPEC_CTRL, UINV, CR4.FRED and the FRED registers: rev 092, 30.5.1, and FRED specification 9.6.1.
//!
//! "Load" is unconditional otherwise: what the checks of VM entry have accepted is loaded. What the manual leaves undefined (parts of unusable
//! segment registers) is 0, but FS and GS keep the base of their fields. Address-range monitoring (27.5.6) is not part of [`Cpu`]: whoever
//! keeps it disarms it at each VM exit.

use crate::control::Control;
use crate::controls::Controls;
use crate::exit::Abort;
use crate::exit::save::uses_pae_paging;
use crate::fields::Field;
use crate::vmcs::Vmcs;
use softvirt_ept::{Direct, Invalidate, PagingSupport, load_pdptes};
use x86_state::profile::PdpteRecheck;
use x86_state::{
    AccessRights, ActivityState, Cpu, CpuProfile, Cr0, Cr4, DebugCtl, DescriptorTable, Dr7, Efer, Feature, Gpr,
    Interruptibility, MaskedMsr, MsrFile, PendingDebug, PhysMemory, Platform, Rflags, Segment, SegmentRegister,
    Selector, VmxMsr, addr,
};

/// Loads the host's state. `nmi` says that an NMI caused the VM exit directly.
pub(crate) fn load<M, R>(
    cpu: &mut Cpu,
    vmcs: &Vmcs,
    controls: &Controls,
    platform: &Platform<'_, M, R>,
    nmi: bool,
) -> Result<Invalidate, Abort>
where
    M: PhysMemory + ?Sized,
    R: MsrFile + ?Sized,
{
    let profile = platform.profile;
    let long = controls.has(Control::HOST_ADDRESS_SPACE_SIZE);
    if cpu.efer.contains(Efer::LMA) && !long {
        return Err(Abort::IA32E_TO_LEGACY);
    }
    let pae_before = uses_pae_paging(cpu);
    let cr3_before = cpu.cr3;

    control_registers(cpu, vmcs, profile, long);
    msrs(cpu, vmcs, controls, profile, long);
    segments(cpu, vmcs, profile, long);
    cpu.rip = vmcs.get(Field::HOST_RIP);
    cpu.gpr[Gpr::Rsp] = vmcs.get(Field::HOST_RSP);
    cpu.rflags = Rflags::FIXED_1;
    if controls.has(Control::HOST_LOAD_CET_STATE) {
        cpu.cet.ssp = vmcs.get(Field::HOST_SSP);
    }
    if uses_pae_paging(cpu) {
        let check = !pae_before || cpu.cr3 != cr3_before || profile.knobs().pdpte_recheck == PdpteRecheck::Always;
        cpu.pdptes = host_pdptes(platform, cpu.cr3, check)?;
    }
    non_register_state(cpu, nmi);
    Ok(Invalidate::VmExit { vpid: controls.has(Control::ENABLE_VPID) })
}

/// Bits of CR0 that no VM exit modifies: ET, 15:6, 17, 28:19, NW, CD and 63:32 (SDM 3C 27.5.1).
const CR0_KEPT: Cr0 = Cr0::from_bits_retain(0xffff_ffff_7ffa_ffd0);

/// CR3.LAM_U57 and CR3.LAM_U48 (later than revision 077).
const CR3_LAM: u64 = 1 << 61 | 1 << 62;

/// The bits that are fixed in VMX operation, to 1 or to 0 (SDM 3C 23.8). What is not known counts as not fixed.
fn fixed(profile: &CpuProfile, zero: VmxMsr, one: VmxMsr) -> u64 {
    profile.vmx(zero).unwrap_or(0) | !profile.vmx(one).unwrap_or(u64::MAX)
}

/// CR0, CR3, CR4 and DR7.
///
/// An unrestricted guest may have left PE and PG 0, although they are fixed: they are always loaded, and the checks on the host-state area see
/// to it that they are 1.
fn control_registers(cpu: &mut Cpu, vmcs: &Vmcs, profile: &CpuProfile, long: bool) {
    let fixed_cr0 = Cr0::from_bits_retain(fixed(profile, VmxMsr::Cr0Fixed0, VmxMsr::Cr0Fixed1));
    let kept = CR0_KEPT.union(fixed_cr0).difference(Cr0::PE | Cr0::PG);
    let host = Cr0::from_bits_retain(vmcs.get(Field::HOST_CR0));
    cpu.cr0 = host.difference(kept).union(cpu.cr0.intersection(kept));

    // Revision 077 clears 63:52. Where linear-address masking exists, bits 62:61 are not reserved: VM entry accepts them in the field
    // (rule host.cr3.width), and they are the host's.
    let masking = if profile.has(Feature::LAM) == Some(true) { CR3_LAM } else { 0 };
    let reserved = (profile.physical_bits_beyond() | addr::bits_beyond(52)) & !masking;
    cpu.cr3 = vmcs.get(Field::HOST_CR3) & !reserved;

    let kept = Cr4::from_bits_retain(fixed(profile, VmxMsr::Cr4Fixed0, VmxMsr::Cr4Fixed1));
    let host = Cr4::from_bits_retain(vmcs.get(Field::HOST_CR4));
    cpu.cr4 = host.difference(kept).union(cpu.cr4.intersection(kept));
    if long {
        cpu.cr4.insert(Cr4::PAE);
    } else {
        cpu.cr4.remove(Cr4::PCIDE | Cr4::FRED);
    }
    cpu.dr7 = Dr7::FIXED_1;
}

/// An address as its register takes it: sign-extended from the processor's linear-address width, or cut to 32 bits without Intel 64.
fn linear(profile: &CpuProfile, vmcs: &Vmcs, field: Field) -> u64 {
    let address = vmcs.get(field);
    if intel64(profile) { addr::canonicalize(address, profile.linear_width()) } else { address & 0xffff_ffff }
}

/// A processor of which it is not known is taken for one with Intel 64 architecture.
fn intel64(profile: &CpuProfile) -> bool {
    profile.has(Feature::LM) != Some(false)
}

/// The field's value, with the bits that are reserved in the register as they are there.
fn masked(profile: &CpuProfile, msr: MaskedMsr, value: u64, before: u64) -> u64 {
    let reserved = profile.mask(msr).reserved();
    value & !reserved | before & reserved
}

/// The MSRs of 27.5.1. What a control does not name stays as the guest had it.
fn msrs(cpu: &mut Cpu, vmcs: &Vmcs, controls: &Controls, profile: &CpuProfile, long: bool) {
    cpu.debugctl = DebugCtl::empty();
    cpu.sysenter_cs = vmcs.get(Field::HOST_IA32_SYSENTER_CS);
    cpu.sysenter_esp = linear(profile, vmcs, Field::HOST_IA32_SYSENTER_ESP);
    cpu.sysenter_eip = linear(profile, vmcs, Field::HOST_IA32_SYSENTER_EIP);

    if controls.has(Control::HOST_LOAD_EFER) {
        let value = vmcs.get(Field::HOST_IA32_EFER);
        cpu.efer = Efer::from_bits_retain(masked(profile, MaskedMsr::Efer, value, cpu.efer.bits()));
    }
    if intel64(profile) {
        // The checks on the host-state area make the field agree with the control.
        cpu.efer.set(Efer::LMA | Efer::LME, long);
    }
    if controls.has(Control::HOST_LOAD_PERF_GLOBAL_CTRL) {
        let value = vmcs.get(Field::HOST_IA32_PERF_GLOBAL_CTRL);
        cpu.perf_global_ctrl = masked(profile, MaskedMsr::PerfGlobalCtrl, value, cpu.perf_global_ctrl);
    }
    if controls.has(Control::HOST_LOAD_PAT) {
        cpu.pat = vmcs.get(Field::HOST_IA32_PAT);
    }
    if controls.has(Control::CLEAR_BNDCFGS) {
        cpu.bndcfgs = 0;
    }
    if controls.has(Control::CLEAR_RTIT_CTL) {
        cpu.rtit_ctl = 0;
    }
    if controls.has(Control::CLEAR_LBR_CTL) {
        cpu.lbr_ctl = 0;
    }
    if controls.has(Control::CLEAR_UINV) {
        cpu.uinv = 0;
    }
    if controls.has(Control::HOST_LOAD_CET_STATE) {
        cpu.cet.s_cet = linear(profile, vmcs, Field::HOST_IA32_S_CET);
        cpu.cet.interrupt_ssp_table_addr = linear(profile, vmcs, Field::HOST_IA32_INTERRUPT_SSP_TABLE_ADDR);
    }
    if controls.has(Control::HOST_LOAD_PKRS) {
        cpu.pkrs = vmcs.get(Field::HOST_IA32_PKRS) as u32;
    }
    if controls.has(Control::HOST_LOAD_SPEC_CTRL) {
        let value = vmcs.get(Field::HOST_IA32_SPEC_CTRL);
        cpu.spec_ctrl = masked(profile, MaskedMsr::SpecCtrl, value, cpu.spec_ctrl);
    }
    if controls.has(Control::HOST_LOAD_FRED) {
        let fred = &mut cpu.fred;
        fred.config = vmcs.get(Field::HOST_IA32_FRED_CONFIG);
        fred.rsp[1] = vmcs.get(Field::HOST_IA32_FRED_RSP1);
        fred.rsp[2] = vmcs.get(Field::HOST_IA32_FRED_RSP2);
        fred.rsp[3] = vmcs.get(Field::HOST_IA32_FRED_RSP3);
        fred.stack_levels = vmcs.get(Field::HOST_IA32_FRED_STACK_LEVELS);
        fred.ssp = [
            vmcs.get(Field::HOST_IA32_FRED_SSP1),
            vmcs.get(Field::HOST_IA32_FRED_SSP2),
            vmcs.get(Field::HOST_IA32_FRED_SSP3),
        ];
    }
}

/// Segment and descriptor-table registers (SDM 3C 27.5.2).
fn segments(cpu: &mut Cpu, vmcs: &Vmcs, profile: &CpuProfile, long: bool) {
    use SegmentRegister::{Cs, Ds, Es, Fs, Gs, Ldtr, Ss, Tr};
    let selector = |field| Selector(vmcs.get(field) as u16);
    let code = if long { AccessRights::CODE_64 } else { AccessRights::CODE_32 };
    cpu.segments[Cs] = Segment { selector: selector(Field::HOST_CS_SELECTOR), base: 0, limit: u32::MAX, rights: code };
    for (register, field, base) in [
        (Ss, Field::HOST_SS_SELECTOR, 0),
        (Ds, Field::HOST_DS_SELECTOR, 0),
        (Es, Field::HOST_ES_SELECTOR, 0),
        (Fs, Field::HOST_FS_SELECTOR, linear(profile, vmcs, Field::HOST_FS_BASE)),
        (Gs, Field::HOST_GS_SELECTOR, linear(profile, vmcs, Field::HOST_GS_BASE)),
    ] {
        let selector = selector(field);
        cpu.segments[register] = if selector.0 == 0 {
            // The manual sets D/B of SS without an exception for an unusable one.
            let rights = if register == Ss { AccessRights(AccessRights::UNUSABLE | D_B) } else { AccessRights::NULL };
            Segment { selector, base, limit: 0, rights }
        } else {
            Segment { selector, base, limit: u32::MAX, rights: AccessRights::DATA_32 }
        };
    }
    cpu.segments[Tr] = Segment {
        selector: selector(Field::HOST_TR_SELECTOR),
        base: linear(profile, vmcs, Field::HOST_TR_BASE),
        limit: 0x67,
        rights: AccessRights::TSS_BUSY,
    };
    cpu.segments[Ldtr] = Segment::NULL;
    cpu.gdtr = DescriptorTable { base: linear(profile, vmcs, Field::HOST_GDTR_BASE), limit: 0xffff };
    cpu.idtr = DescriptorTable { base: linear(profile, vmcs, Field::HOST_IDTR_BASE), limit: 0xffff };
}

const D_B: u32 = 1 << 14;

/// The PDPTEs of a host with PAE paging, checked if need be (SDM 3C 27.5.4).
fn host_pdptes<M, R>(platform: &Platform<'_, M, R>, cr3: u64, check: bool) -> Result<[u64; 4], Abort>
where
    M: PhysMemory + ?Sized,
    R: MsrFile + ?Sized,
{
    if check {
        let support = PagingSupport::from_profile(platform.profile);
        return load_pdptes(platform.memory, &support, &Direct, cr3).map_err(|_| Abort::HOST_PDPTES);
    }
    Ok([0, 8, 16, 24].map(|offset| platform.read_u64(cr3 & 0xffff_ffe0, offset)))
}

/// Activity, blocking, pending debug exceptions (SDM 3C 27.5.5).
fn non_register_state(cpu: &mut Cpu, nmi: bool) {
    cpu.activity = ActivityState::ACTIVE;
    cpu.interruptibility.remove(Interruptibility::STI | Interruptibility::MOV_SS);
    if nmi {
        cpu.interruptibility.insert(Interruptibility::NMI);
    }
    cpu.pending_debug = PendingDebug::empty();
}
