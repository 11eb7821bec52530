//! Which states do the dumps in `testdata/dumps` show? Valid states written by hand, each for a guest that hypervisors really run.
//!
//! They break no rule of VM entry that does not depend on the processor model; a test plants one fault in a copy.

use super::Text;
use vmx_model::{Field, Vmcs};
use x86_state::SegmentRegister::{self, Cs, Ds, Es, Fs, Gs, Ldtr, Ss, Tr};

/// The page attributes that Linux sets.
const LINUX_PAT: u64 = 0x0407_0506_0007_0106;
/// The page attributes after reset.
const RESET_PAT: u64 = 0x0007_0406_0007_0406;

fn set_all(vmcs: &mut Vmcs, fields: &[(Field, u64)]) {
    for &(field, value) in fields {
        vmcs.set(field, value);
    }
}

fn segment(vmcs: &mut Vmcs, register: SegmentRegister, selector: u64, rights: u64, limit: u64, base: u64) {
    vmcs.set(Field::guest_selector(register), selector);
    vmcs.set(Field::guest_access_rights(register), rights);
    vmcs.set(Field::guest_limit(register), limit);
    vmcs.set(Field::guest_base(register), base);
}

/// A hypervisor that is a 64-bit Linux, its exit information after an EPT violation, and controls without APIC virtualization.
fn linux_host() -> Vmcs {
    let mut vmcs = Vmcs::new();
    set_all(
        &mut vmcs,
        &[
            (Field::HOST_CS_SELECTOR, 0x10),
            (Field::HOST_SS_SELECTOR, 0x18),
            (Field::HOST_TR_SELECTOR, 0x40),
            (Field::HOST_IA32_PAT, LINUX_PAT),
            (Field::HOST_IA32_EFER, 0xd01),
            (Field::HOST_IA32_SYSENTER_CS, 0x10),
            (Field::HOST_CR0, 0x8005_0033),
            (Field::HOST_CR3, 0x1_2a4c_6004),
            (Field::HOST_CR4, 0x0037_26f0),
            (Field::HOST_FS_BASE, 0x0000_7f3a_95bf_e640),
            (Field::HOST_GS_BASE, 0xffff_9c1d_7fcc_0000),
            (Field::HOST_TR_BASE, 0xffff_fe2b_7a0c_3000),
            (Field::HOST_GDTR_BASE, 0xffff_fe2b_7a0c_1000),
            (Field::HOST_IDTR_BASE, 0xffff_fe00_0000_0000),
            (Field::HOST_IA32_SYSENTER_ESP, 0xffff_fe2b_7a0c_3000),
            (Field::HOST_IA32_SYSENTER_EIP, 0xffff_ffff_9c00_1a50),
            (Field::HOST_RSP, 0xffff_b2c4_0123_bd18),
            (Field::HOST_RIP, 0xffff_ffff_c0a1_4e30),
            (Field::PIN_BASED_CONTROLS, 0x7f),
            (Field::PRIMARY_PROC_BASED_CONTROLS, 0xb5a0_6dfa),
            (Field::SECONDARY_PROC_BASED_CONTROLS, 0x0010_14ea),
            (Field::VM_EXIT_CONTROLS, 0x002b_efff),
            (Field::VM_ENTRY_CONTROLS, 0xd3ff),
            (Field::EXCEPTION_BITMAP, 0x0006_0042),
            (Field::TSC_OFFSET, 0xffff_fb91_26c4_07aa),
            (Field::VIRTUAL_APIC_ADDRESS, 0x1_3d07_2000),
            (Field::EPT_POINTER, 0x1_58e3_305e),
            (Field::VPID, 1),
            (Field::PLE_GAP, 0x80),
            (Field::PLE_WINDOW, 0x1000),
            (Field::VMX_PREEMPTION_TIMER_VALUE, 0x0001_86a0),
            (Field::IO_BITMAP_A_ADDRESS, 0x1_1f20_0000),
            (Field::IO_BITMAP_B_ADDRESS, 0x1_1f20_1000),
            (Field::MSR_BITMAPS_ADDRESS, 0x1_1f20_2000),
            (Field::VMCS_LINK_POINTER, u64::MAX),
            (Field::EXIT_REASON, 0x30),
            (Field::EXIT_QUALIFICATION, 0x181),
            (Field::GUEST_PHYSICAL_ADDRESS, 0xfee0_00b0),
            (Field::GUEST_LINEAR_ADDRESS, 0xffff_ffff_ff5f_c0b0),
            (Field::VM_EXIT_INSTRUCTION_LENGTH, 2),
            (Field::CR0_GUEST_HOST_MASK, 0xffff_ffff_fffe_fff7),
            (Field::CR4_GUEST_HOST_MASK, 0xffff_ffff_fffe_f871),
        ],
    );
    vmcs
}

/// A 64-bit Linux in its kernel, under a 64-bit hypervisor with EPT and unrestricted guest.
#[must_use]
pub fn linux_guest() -> Vmcs {
    let mut vmcs = linux_host();
    segment(&mut vmcs, Cs, 0x10, 0xa09b, 0xffff_ffff, 0);
    segment(&mut vmcs, Ss, 0x18, 0xc093, 0xffff_ffff, 0);
    segment(&mut vmcs, Ds, 0, 0x1c000, 0xffff_ffff, 0);
    segment(&mut vmcs, Es, 0, 0x1c000, 0xffff_ffff, 0);
    segment(&mut vmcs, Fs, 0, 0x1c000, 0xffff_ffff, 0x0000_7f81_24d0_0740);
    segment(&mut vmcs, Gs, 0, 0x1c000, 0xffff_ffff, 0xffff_8882_37c0_0000);
    segment(&mut vmcs, Ldtr, 0, 0x1c000, 0xffff_ffff, 0);
    segment(&mut vmcs, Tr, 0x40, 0x8b, 0x4087, 0xffff_fe00_0000_3000);
    set_all(
        &mut vmcs,
        &[
            (Field::GUEST_CR0, 0x8005_0033),
            (Field::CR0_READ_SHADOW, 0x8005_0033),
            (Field::GUEST_CR3, 0x0445_2000),
            (Field::GUEST_CR4, 0x0037_26f0),
            (Field::CR4_READ_SHADOW, 0x0037_06f0),
            (Field::GUEST_RSP, 0xffff_c900_0001_7e48),
            (Field::GUEST_RIP, 0xffff_ffff_8196_2c1f),
            (Field::GUEST_RFLAGS, 0x246),
            (Field::GUEST_DR7, 0x400),
            (Field::GUEST_IA32_SYSENTER_CS, 0x10),
            (Field::GUEST_IA32_SYSENTER_ESP, 0xffff_fe00_0000_3000),
            (Field::GUEST_IA32_SYSENTER_EIP, 0xffff_ffff_81a0_1450),
            (Field::GUEST_GDTR_LIMIT, 0x7f),
            (Field::GUEST_GDTR_BASE, 0xffff_fe00_0000_1000),
            (Field::GUEST_IDTR_LIMIT, 0xfff),
            (Field::GUEST_IDTR_BASE, 0xffff_fe00_0000_0000),
            (Field::GUEST_IA32_EFER, 0xd01),
            (Field::GUEST_IA32_PAT, LINUX_PAT),
        ],
    );
    vmcs
}

/// [`linux_guest`] halted, its interrupts enabled, the exit a HLT.
#[must_use]
pub fn guest_hlt() -> Vmcs {
    let mut vmcs = linux_guest();
    set_all(
        &mut vmcs,
        &[
            (Field::GUEST_ACTIVITY_STATE, 1),
            (Field::EXIT_REASON, 12),
            (Field::EXIT_QUALIFICATION, 0),
            (Field::VM_EXIT_INSTRUCTION_LENGTH, 1),
        ],
    );
    vmcs
}

/// A guest in real mode at the reset vector, which only "unrestricted guest" allows.
#[must_use]
pub fn real_mode_guest() -> Vmcs {
    let mut vmcs = linux_host();
    segment(&mut vmcs, Cs, 0xf000, 0x9b, 0xffff, 0xffff_0000);
    for register in [Ss, Ds, Es, Fs, Gs] {
        segment(&mut vmcs, register, 0, 0x93, 0xffff, 0);
    }
    segment(&mut vmcs, Ldtr, 0, 0x82, 0xffff, 0);
    segment(&mut vmcs, Tr, 0, 0x8b, 0xffff, 0);
    set_all(
        &mut vmcs,
        &[
            // Not an IA-32e mode guest.
            (Field::VM_ENTRY_CONTROLS, 0xd1ff),
            (Field::GUEST_CR0, 0x30),
            (Field::CR0_READ_SHADOW, 0x6000_0010),
            (Field::GUEST_CR4, 0x2000),
            (Field::GUEST_RIP, 0xfff0),
            (Field::GUEST_RFLAGS, 2),
            (Field::GUEST_DR7, 0x400),
            (Field::GUEST_GDTR_LIMIT, 0xffff),
            (Field::GUEST_IDTR_LIMIT, 0xffff),
            (Field::GUEST_IA32_PAT, RESET_PAT),
        ],
    );
    vmcs
}

/// The beginning of a VMCB dump as KVM prints it.
#[must_use]
pub fn svm_stub() -> Text {
    let mut text = Text::default();
    for line in [
        "VMCB 00000000a1b2c3d4, last attempted VMRUN on CPU 5",
        "VMCB Control Area:",
        "cr_read:            0010",
        "cr_write:           0010",
        "intercepts:         bc4c8027 0000624f",
        "asid:               1",
        "exit_code:          ffffffff",
        "exit_info1:         0000000000000000",
        "VMCB State Save Area:",
        "cs:   s: 0010 a: 029b l: ffffffff b: 0000000000000000",
        "cr0:            0000000080050033 cr2:         0000000000000000",
    ] {
        text.line(line);
    }
    text
}
