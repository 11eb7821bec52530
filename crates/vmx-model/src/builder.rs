//! What does a valid VM entry look like? States that enter, for the usual guests, on any processor.

use crate::control::{Control, ControlVector};
use crate::fields::Field;
use crate::rules::GuestKind;
use crate::state::{EntryState, Words};
use crate::view::{CpuInput, VmxInput};
use crate::vmcs::Vmcs;
use x86_state::{CpuProfile, SegmentRegister, VmxMsr};

/// Where [`build`] puts the VMXON region (host-physical).
pub const VMXON_POINTER: u64 = 0x1000;
/// Where [`build`] puts the current VMCS (host-physical).
pub const CURRENT_VMCS_POINTER: u64 = 0x2000;
/// Where [`build`] puts the executive VMCS of a return from SMM (host-physical).
pub const EXECUTIVE_VMCS_POINTER: u64 = 0x3000;
/// Where [`build`] puts the guest's page-directory-pointer table (physical).
pub const PDPT_ADDRESS: u64 = 0x8000;

const PDPTE_PRESENT: u64 = 0x9001;
const PAT_RESET: u64 = 0x0007_0406_0007_0406;
const CR0_PE: u64 = 1;
const CR0_ET: u64 = 1 << 4;
const CR0_NE: u64 = 1 << 5;
const CR0_WP: u64 = 1 << 16;
const CR0_PG: u64 = 1 << 31;
const CR4_PAE: u64 = 1 << 5;
const CR4_VMXE: u64 = 1 << 13;
const EFER_LME: u64 = 1 << 8;
const EFER_LMA: u64 = 1 << 10;

/// Does the processor support this kind of guest (and does softvirt know enough of it)?
#[must_use]
pub fn supports(kind: GuestKind, profile: &CpuProfile) -> bool {
    let long = profile.has(x86_state::Feature::LM) != Some(false);
    match kind {
        GuestKind::Long64 | GuestKind::Compatibility => long,
        // Bit 6 of IA32_VMX_MISC: the HLT activity state; bit 8: wait-for-SIPI (SDM 3D A.6).
        GuestKind::Hlt => long && profile.vmx(VmxMsr::Misc).is_some_and(|misc| misc >> 6 & 1 == 1),
        GuestKind::WaitForSipi => long && profile.vmx(VmxMsr::Misc).is_some_and(|misc| misc >> 8 & 1 == 1),
        GuestKind::RealUnrestricted => {
            let state = blank(profile);
            state.can_set(Control::UNRESTRICTED_GUEST) && state.can_set(Control::ENABLE_EPT)
        }
        // IA32_VMX_BASIC[49]: the dual-monitor treatment is supported.
        GuestKind::ReturnFromSmm => long && profile.vmx(VmxMsr::Basic).is_some_and(|basic| basic >> 49 & 1 == 1),
        GuestKind::Protected32 | GuestKind::Pae | GuestKind::Virtual8086 => true,
    }
}

/// A state of all zeros on a processor: the canvas for [`build`] and for states that come from elsewhere.
#[must_use]
pub fn blank(profile: &CpuProfile) -> EntryState {
    EntryState {
        vmcs: Vmcs::new(),
        executive: Vmcs::new(),
        cpu: [0; CpuInput::COUNT],
        vmx: [0; VmxInput::COUNT],
        memory: Words::EMPTY,
        profile: *profile,
    }
}

/// A state that enters a guest of this kind on this processor. On a processor that does not [support](supports) the kind the state breaks
/// the rules that say so.
///
/// Only what the kind needs is enabled; fields that no enabled control reads are 0.
#[must_use]
pub fn build(kind: GuestKind, profile: &CpuProfile) -> EntryState {
    let mut state = blank(profile);
    host(&mut state);
    controls(&mut state);
    match kind {
        GuestKind::Long64 => long_mode(&mut state, true),
        GuestKind::Compatibility => long_mode(&mut state, false),
        GuestKind::Protected32 => protected(&mut state, 0),
        GuestKind::Pae => {
            protected(&mut state, CR4_PAE);
            pdptes(&mut state);
        }
        GuestKind::Virtual8086 => virtual_8086(&mut state),
        GuestKind::RealUnrestricted => real_mode(&mut state),
        GuestKind::Hlt => {
            long_mode(&mut state, true);
            state.set(Field::GUEST_ACTIVITY_STATE, 1);
        }
        GuestKind::WaitForSipi => {
            long_mode(&mut state, true);
            state.set(Field::GUEST_ACTIVITY_STATE, 3);
        }
        GuestKind::ReturnFromSmm => {
            long_mode(&mut state, true);
            return_from_smm(&mut state);
        }
    }
    state
}

/// Processor and VMX state: 64-bit root operation with a current, clear VMCS, about to execute VMLAUNCH.
fn host(state: &mut EntryState) {
    let long = state.profile.has(x86_state::Feature::LM) != Some(false);
    let cr0 = fixed(state, VmxMsr::Cr0Fixed0, VmxMsr::Cr0Fixed1, CR0_PE | CR0_ET | CR0_NE | CR0_WP | CR0_PG);
    let cr4 = fixed(state, VmxMsr::Cr4Fixed0, VmxMsr::Cr4Fixed1, CR4_PAE | CR4_VMXE);
    let efer = if long { EFER_LME | EFER_LMA } else { 0 };

    state.set_cpu(CpuInput::Rflags, 0x2);
    state.set_cpu(CpuInput::CsAccessRights, if long { 0xa09b } else { 0xc09b });
    state.set_cpu(CpuInput::Cr0, cr0);
    state.set_cpu(CpuInput::Cr3, 0x10_0000);
    state.set_cpu(CpuInput::Cr4, cr4);
    state.set_cpu(CpuInput::Efer, efer);
    state.set_vmx(VmxInput::Operation, 1);
    state.set_vmx(VmxInput::CurrentVmcsPointer, CURRENT_VMCS_POINTER);
    state.set_vmx(VmxInput::VmxonPointer, VMXON_POINTER);

    state.set(Field::HOST_CR0, cr0);
    state.set(Field::HOST_CR3, 0x10_0000);
    state.set(Field::HOST_CR4, cr4);
    state.set(Field::HOST_CS_SELECTOR, 0x10);
    state.set(Field::HOST_SS_SELECTOR, 0x18);
    state.set(Field::HOST_TR_SELECTOR, 0x40);
    let (top, text) = if long { (0xffff_8000_0000_0000, 0xffff_ffff_8100_0000) } else { (0x8000_0000, 0x8100_0000) };
    state.set(Field::HOST_FS_BASE, 0x7000);
    state.set(Field::HOST_GS_BASE, top + 0x1000);
    state.set(Field::HOST_TR_BASE, top + 0x2000);
    state.set(Field::HOST_GDTR_BASE, top + 0x3000);
    state.set(Field::HOST_IDTR_BASE, top + 0x4000);
    state.set(Field::HOST_IA32_SYSENTER_CS, 0x10);
    state.set(Field::HOST_IA32_SYSENTER_ESP, top + 0x5000);
    state.set(Field::HOST_IA32_SYSENTER_EIP, text + 0x100);
    state.set(Field::HOST_RSP, top + 0x6000);
    state.set(Field::HOST_RIP, text);
    state.set(Field::HOST_IA32_PAT, PAT_RESET);
    state.set(Field::HOST_IA32_EFER, efer);
}

/// Every vector at its must-be-1 bits, and the host's address-space size.
fn controls(state: &mut EntryState) {
    for vector in [ControlVector::Pin, ControlVector::Proc, ControlVector::Exit, ControlVector::Entry] {
        let must = state.settings(vector).map_or(0, |settings| settings.must_be_one);
        state.set(vector.field(), must);
    }
    if state.profile.has(x86_state::Feature::LM) != Some(false) {
        state.on(Control::HOST_ADDRESS_SPACE_SIZE);
    }
    // Loading PAT and EFER where possible exercises the checks of a usual hypervisor.
    for control in [Control::HOST_LOAD_PAT, Control::HOST_LOAD_EFER, Control::LOAD_PAT, Control::LOAD_EFER] {
        if state.can_set(control) {
            state.on(control);
        }
    }
    state.set(Field::VMCS_LINK_POINTER, u64::MAX);
}

/// `wanted` with the bits that VMX operation fixes (SDM 3C 23.8, Restrictions on VMX Operation).
fn fixed(state: &EntryState, zero: VmxMsr, one: VmxMsr, wanted: u64) -> u64 {
    let must = state.profile.vmx(zero).unwrap_or(0);
    let may = state.profile.vmx(one).unwrap_or(u64::MAX);
    (wanted | must) & may
}

fn segment(state: &mut EntryState, register: SegmentRegister, selector: u64, base: u64, limit: u64, rights: u32) {
    state.set(Field::guest_selector(register), selector);
    state.set(Field::guest_base(register), base);
    state.set(Field::guest_limit(register), limit);
    state.set_rights(register, rights);
}

/// What all kinds of guest share.
fn common(state: &mut EntryState) {
    use SegmentRegister::{Ldtr, Tr};
    segment(state, Tr, 0x40, 0x2000, 0x67, 0x8b);
    segment(state, Ldtr, 0, 0, 0, 0x1_0000);
    state.set(Field::GUEST_GDTR_BASE, 0x3000);
    state.set(Field::GUEST_GDTR_LIMIT, 0x7f);
    state.set(Field::GUEST_IDTR_BASE, 0x4000);
    state.set(Field::GUEST_IDTR_LIMIT, 0xfff);
    state.set(Field::GUEST_DR7, 0x400);
    state.set(Field::GUEST_RFLAGS, 0x2);
    state.set(Field::GUEST_RSP, 0x7_0000);
    state.set(Field::GUEST_RIP, 0x40_0000);
    state.set(Field::GUEST_IA32_PAT, PAT_RESET);
}

fn protected(state: &mut EntryState, cr4: u64) {
    use SegmentRegister::{Cs, Ds, Es, Fs, Gs, Ss};
    common(state);
    segment(state, Cs, 0x8, 0, 0xffff_ffff, 0xc09b);
    for register in [Es, Ss, Ds, Fs, Gs] {
        segment(state, register, 0x10, 0, 0xffff_ffff, 0xc093);
    }
    let cr0 = fixed(state, VmxMsr::Cr0Fixed0, VmxMsr::Cr0Fixed1, CR0_PE | CR0_ET | CR0_NE | CR0_WP | CR0_PG);
    let cr4 = fixed(state, VmxMsr::Cr4Fixed0, VmxMsr::Cr4Fixed1, cr4 | CR4_VMXE);
    state.set(Field::GUEST_CR0, cr0);
    state.set(Field::GUEST_CR4, cr4);
    state.set(Field::GUEST_CR3, PDPT_ADDRESS);
}

fn long_mode(state: &mut EntryState, cs_l: bool) {
    use SegmentRegister::Cs;
    protected(state, CR4_PAE);
    state.on(Control::IA32E_MODE_GUEST);
    if cs_l {
        state.set_rights(Cs, 0xa09b);
        state.set(Field::GUEST_RIP, 0xffff_ffff_8100_0000);
    }
    state.set(Field::GUEST_IA32_EFER, EFER_LME | EFER_LMA);
}

/// A page-directory-pointer table in memory and the same in the PDPTE fields: whichever the entry checks is valid.
fn pdptes(state: &mut EntryState) {
    for (i, field) in
        [Field::GUEST_PDPTE0, Field::GUEST_PDPTE1, Field::GUEST_PDPTE2, Field::GUEST_PDPTE3].into_iter().enumerate()
    {
        let entry = PDPTE_PRESENT + 0x1000 * i as u64;
        state.set(field, entry);
        state.memory.set(PDPT_ADDRESS + 8 * i as u64, entry);
    }
}

fn virtual_8086(state: &mut EntryState) {
    use SegmentRegister::{Cs, Ds, Es, Fs, Gs, Ss};
    protected(state, 0);
    for (register, selector) in [(Cs, 0x1000), (Ss, 0x2000), (Ds, 0x3000), (Es, 0x4000), (Fs, 0x5000), (Gs, 0x6000)] {
        segment(state, register, selector, selector << 4, 0xffff, 0xf3);
    }
    state.set(Field::GUEST_RFLAGS, 1 << 17 | 0x2);
    state.set(Field::GUEST_RIP, 0x100);
    state.set(Field::GUEST_RSP, 0xfffe);
}

fn real_mode(state: &mut EntryState) {
    use SegmentRegister::{Cs, Ds, Es, Fs, Gs, Ss};
    common(state);
    state.on(Control::UNRESTRICTED_GUEST);
    enable_ept(state);
    for (register, selector) in [(Ss, 0x2000), (Ds, 0x3000), (Es, 0x4000), (Fs, 0x5000), (Gs, 0x6000)] {
        segment(state, register, selector, selector << 4, 0xffff, 0x93);
    }
    segment(state, Cs, 0xf000, 0xf_0000, 0xffff, 0x9b);
    let cr0 = fixed(state, VmxMsr::Cr0Fixed0, VmxMsr::Cr0Fixed1, CR0_ET | CR0_NE) & !(CR0_PE | CR0_PG);
    let cr4 = fixed(state, VmxMsr::Cr4Fixed0, VmxMsr::Cr4Fixed1, CR4_VMXE);
    state.set(Field::GUEST_CR0, cr0);
    state.set(Field::GUEST_CR4, cr4);
    state.set(Field::GUEST_RIP, 0xfff0);
    state.set(Field::GUEST_RSP, 0xfffe);
    // LMA and LME must be 0 where EFER is loaded.
    state.set(Field::GUEST_IA32_EFER, 0);
}

/// Turns "enable EPT" on with a pointer that the processor accepts.
pub fn enable_ept(state: &mut EntryState) {
    state.on(Control::ENABLE_EPT);
    // Walk length 4 (bits 5:3 = 3); memory type WB (6) where supported, else UC (0).
    let capability = state.profile.vmx(VmxMsr::EptVpidCap).unwrap_or(1 << 14);
    let memory_type = if capability >> 14 & 1 == 1 { 6 } else { 0 };
    state.set(Field::EPT_POINTER, 0x5000 | 3 << 3 | memory_type);
}

/// Executed by an SMM-transfer monitor: the execution controls are those of the executive VMCS, the link pointer differs from it.
fn return_from_smm(state: &mut EntryState) {
    state.set_cpu(CpuInput::InSmm, 1);
    state.set_vmx(VmxInput::DualMonitorActive, 1);
    state.set_vmx(VmxInput::ExecutiveLaunchState, 1);
    state.set(Field::EXECUTIVE_VMCS_POINTER, EXECUTIVE_VMCS_POINTER);
    let revision = state.profile.vmx(VmxMsr::Basic).unwrap_or(0) & 0x7fff_ffff;
    state.memory.set(EXECUTIVE_VMCS_POINTER, revision);
    state.executive = state.vmcs;
    state.set(Field::GUEST_INTERRUPTIBILITY_STATE, 0);
}
