//! Which blocking may the guest's interruptibility state claim, alone and beside an injected event?
//!
//! Source: SDM 3C 26.3.1.5 (rev 077), Checks on Guest Non-Register State, interruptibility state; 24.4.2, Guest Non-Register State,
//! Table 24-3; 26.8, VM-Entry Failures During or After Loading Guest State (exit qualification 3).
//!
//! ```text
//!  31          5   4     3     2      1      0
//! +-------------+-----+-----+-----+--------+-----+
//! |  reserved   | encl| NMI | SMI | MOV SS | STI |
//! +-------------+-----+-----+-----+--------+-----+
//! ```

use super::table::{Paragraph, rules};
use crate::control::Control;
use crate::fields::Field;
use crate::state::EntryState;
use crate::view::{CpuInput, VmxInput};
use x86_state::{EventType, Feature, InterruptionInfo};

const STI: u64 = 1;
const MOV_SS: u64 = 1 << 1;
const SMI: u64 = 1 << 2;
const NMI: u64 = 1 << 3;
const ENCLAVE: u64 = 1 << 4;
const DEFINED: u64 = 0x1f;

/// Injects an event without error code.
pub(super) fn inject(s: &mut EntryState, kind: EventType, vector: u32) {
    s.set(Field::VM_ENTRY_INTERRUPTION_INFO, 1 << 31 | u64::from(kind.bits()) << 8 | u64::from(vector));
}

/// Clears the valid bit of an injected event that `refused` is true of.
pub(super) fn refuse_injection(s: &mut EntryState, refused: impl FnOnce(InterruptionInfo) -> bool) {
    let event = InterruptionInfo(s.get(Field::VM_ENTRY_INTERRUPTION_INFO) as u32);
    if event.is_valid() && refused(event) {
        s.clear_bits(Field::VM_ENTRY_INTERRUPTION_INFO, 1 << 31);
    }
}

/// Makes an ordinary VM entry one to SMM, as an SMM-transfer monitor executes it.
pub(super) fn enter_smm(s: &mut EntryState) {
    s.set_cpu(CpuInput::InSmm, 1);
    s.set_vmx(VmxInput::DualMonitorActive, 1);
    s.on(Control::ENTRY_TO_SMM);
    s.set_bits(Field::GUEST_INTERRUPTIBILITY_STATE, SMI);
}

/// Sets blocking by STI, with the IF that it needs.
fn block_by_sti(s: &mut EntryState) {
    s.set_bits(Field::GUEST_RFLAGS, 1 << 9);
    s.set_bits(Field::GUEST_INTERRUPTIBILITY_STATE, STI);
}

/// The mend of a rule on one blocking bit beside one type of event.
fn let_go(s: &mut EntryState, blocking: u64, kind: EventType) {
    if s.get(Field::GUEST_INTERRUPTIBILITY_STATE) & blocking != 0 {
        refuse_injection(s, |event| event.kind() == kind);
    }
}

rules! {
    "26.3.1.5" when |c| true => {
        "guest.interruptibility.reserved" at 2 {
            says "Bits 31:5 of the interruptibility state are 0.";
            fails InvalidGuestState { qualification: 0 };
            reads [field(Field::GUEST_INTERRUPTIBILITY_STATE)];
            holds |c| c.field(Field::GUEST_INTERRUPTIBILITY_STATE)? & !DEFINED == 0;
            hint "The field was not initialized, or another field's value was written to it.";
            breaks |s| s.set_bits(Field::GUEST_INTERRUPTIBILITY_STATE, 1 << 5);
            mends |s| s.clear_bits(Field::GUEST_INTERRUPTIBILITY_STATE, !DEFINED);
        }
        "guest.interruptibility.sti_and_mov_ss" at 2 {
            says "Blocking by STI (bit 0) and blocking by MOV SS (bit 1) are not both 1.";
            fails InvalidGuestState { qualification: 0 };
            reads [field(Field::GUEST_INTERRUPTIBILITY_STATE)];
            holds |c| c.field(Field::GUEST_INTERRUPTIBILITY_STATE)? & (STI | MOV_SS) != STI | MOV_SS;
            hint "When emulating STI or MOV SS replace the other blocking instead of adding to it: each lasts for one instruction.";
            breaks |s| { block_by_sti(s); s.set_bits(Field::GUEST_INTERRUPTIBILITY_STATE, MOV_SS) };
            mends |s| if s.get(Field::GUEST_INTERRUPTIBILITY_STATE) & MOV_SS != 0 {
                s.clear_bits(Field::GUEST_INTERRUPTIBILITY_STATE, STI);
            };
        }
        "guest.interruptibility.sti_needs_if" at 2 {
            says "If RFLAGS.IF (bit 9) is 0, blocking by STI (bit 0) is 0.";
            fails InvalidGuestState { qualification: 0 };
            reads [field(Field::GUEST_INTERRUPTIBILITY_STATE), field(Field::GUEST_RFLAGS)];
            when |c| c.field(Field::GUEST_RFLAGS)? >> 9 & 1 == 0;
            holds |c| c.field(Field::GUEST_INTERRUPTIBILITY_STATE)? & STI == 0;
            hint "RFLAGS was rewritten (an emulated CLI, POPF or interrupt) and the STI blocking of an earlier exit was kept.";
            breaks |s| s.set_bits(Field::GUEST_INTERRUPTIBILITY_STATE, STI);
            mends |s| if s.get(Field::GUEST_RFLAGS) >> 9 & 1 == 0 { s.clear_bits(Field::GUEST_INTERRUPTIBILITY_STATE, STI) };
        }
    }
    "26.3.1.5" when |c| c.injection()?.is_valid() => {
        "guest.interruptibility.external_interrupt_sti" at 2 {
            says "If an external interrupt is injected, blocking by STI (bit 0) is 0.";
            fails InvalidGuestState { qualification: 0 };
            reads [field(Field::VM_ENTRY_INTERRUPTION_INFO), field(Field::GUEST_INTERRUPTIBILITY_STATE)];
            when |c| c.injection()?.kind() == EventType::EXTERNAL_INTERRUPT;
            holds |c| c.field(Field::GUEST_INTERRUPTIBILITY_STATE)? & STI == 0;
            hint "The guest is in the shadow of STI: wait for the interrupt window, or clear the blocking if you have emulated the \
                instruction.";
            breaks |s| { block_by_sti(s); inject(s, EventType::EXTERNAL_INTERRUPT, 0x20) };
            mends |s| let_go(s, STI, EventType::EXTERNAL_INTERRUPT);
        }
        "guest.interruptibility.external_interrupt_mov_ss" at 2 {
            says "If an external interrupt is injected, blocking by MOV SS (bit 1) is 0.";
            fails InvalidGuestState { qualification: 0 };
            reads [field(Field::VM_ENTRY_INTERRUPTION_INFO), field(Field::GUEST_INTERRUPTIBILITY_STATE)];
            when |c| c.injection()?.kind() == EventType::EXTERNAL_INTERRUPT;
            holds |c| c.field(Field::GUEST_INTERRUPTIBILITY_STATE)? & MOV_SS == 0;
            hint "The guest is in the shadow of MOV SS: wait for the interrupt window, or clear the blocking if you have emulated the \
                instruction.";
            breaks |s| {
                s.set_bits(Field::GUEST_RFLAGS, 1 << 9);
                s.set_bits(Field::GUEST_INTERRUPTIBILITY_STATE, MOV_SS);
                inject(s, EventType::EXTERNAL_INTERRUPT, 0x20);
            };
            mends |s| let_go(s, MOV_SS, EventType::EXTERNAL_INTERRUPT);
        }
        "guest.interruptibility.nmi_sti" at 2 {
            says "If an NMI is injected, blocking by STI (bit 0) is 0.";
            fails InvalidGuestState { qualification: 3 };
            reads [field(Field::VM_ENTRY_INTERRUPTION_INFO), field(Field::GUEST_INTERRUPTIBILITY_STATE)];
            when |c| c.injection()?.kind() == EventType::NMI;
            holds |c| c.field(Field::GUEST_INTERRUPTIBILITY_STATE)? & STI == 0;
            hint "The guest is in the shadow of STI, which VM entry lets block NMIs too: clear bit 0 before injecting the NMI, or wait.";
            doubt "STI need not block NMIs outside VM entry (Table 24-3, note 1: \"may\"). 26.3.1.5 demands the bit to be 0 all the same, \
                and 26.8 keeps qualification 3 for this case; read so.";
            breaks |s| { block_by_sti(s); inject(s, EventType::NMI, 2) };
            mends |s| let_go(s, STI, EventType::NMI);
        }
        "guest.interruptibility.nmi_mov_ss" at 2 {
            says "If an NMI is injected, blocking by MOV SS (bit 1) is 0.";
            fails InvalidGuestState { qualification: 0 };
            reads [field(Field::VM_ENTRY_INTERRUPTION_INFO), field(Field::GUEST_INTERRUPTIBILITY_STATE)];
            when |c| c.injection()?.kind() == EventType::NMI;
            holds |c| c.field(Field::GUEST_INTERRUPTIBILITY_STATE)? & MOV_SS == 0;
            hint "The guest is in the shadow of MOV SS: request an NMI-window exit and inject then.";
            breaks |s| { s.set_bits(Field::GUEST_INTERRUPTIBILITY_STATE, MOV_SS); inject(s, EventType::NMI, 2) };
            mends |s| let_go(s, MOV_SS, EventType::NMI);
        }
    }
    "26.3.1.5" when |c| true => {
        "guest.interruptibility.smi_outside_smm" at 2 {
            says "If the processor is not in SMM, blocking by SMI (bit 2) is 0.";
            fails InvalidGuestState { qualification: 0 };
            reads [field(Field::GUEST_INTERRUPTIBILITY_STATE), cpu(CpuInput::InSmm)];
            when |c| c.cpu(CpuInput::InSmm)? == 0;
            holds |c| c.field(Field::GUEST_INTERRUPTIBILITY_STATE)? & SMI == 0;
            hint "Only an SMM-transfer monitor sees this bit set: a hypervisor outside SMM always writes 0.";
            breaks |s| s.set_bits(Field::GUEST_INTERRUPTIBILITY_STATE, SMI);
            mends |s| if s.cpu_input(CpuInput::InSmm) == 0 { s.clear_bits(Field::GUEST_INTERRUPTIBILITY_STATE, SMI) };
        }
        "guest.interruptibility.smi_entry_to_smm" at 2 {
            says "If \"entry to SMM\" is 1, blocking by SMI (bit 2) is 1.";
            fails InvalidGuestState { qualification: 0 };
            reads [field(Field::GUEST_INTERRUPTIBILITY_STATE), ctl(Control::ENTRY_TO_SMM)];
            when |c| c.ctl(Control::ENTRY_TO_SMM)?;
            holds |c| c.field(Field::GUEST_INTERRUPTIBILITY_STATE)? & SMI != 0;
            hint "The guest will run in SMM, where SMIs are blocked: set bit 2.";
            breaks |s| { enter_smm(s); s.clear_bits(Field::GUEST_INTERRUPTIBILITY_STATE, SMI) };
            // Outside SMM the control itself is wrong, and its own rule mends that.
            mends |s| if s.ctl(Control::ENTRY_TO_SMM) { s.set_bits(Field::GUEST_INTERRUPTIBILITY_STATE, SMI) };
        }
    }
    "26.3.1.5" when |c| c.injection()?.is_valid() => {
        "guest.interruptibility.nmi_virtual_nmis" at 2 {
            says "If \"virtual NMIs\" is 1 and an NMI is injected, blocking by NMI (bit 3) is 0.";
            fails InvalidGuestState { qualification: 0 };
            reads [field(Field::VM_ENTRY_INTERRUPTION_INFO), field(Field::GUEST_INTERRUPTIBILITY_STATE), ctl(Control::VIRTUAL_NMIS)];
            when |c| c.injection()?.kind() == EventType::NMI && c.ctl(Control::VIRTUAL_NMIS)?;
            holds |c| c.field(Field::GUEST_INTERRUPTIBILITY_STATE)? & NMI == 0;
            hint "An exit during the delivery of an NMI sets bit 3 and leaves the NMI in the IDT-vectoring information: clear bit 3 when \
                injecting it again.";
            breaks |s| {
                s.on(Control::NMI_EXITING);
                s.on(Control::VIRTUAL_NMIS);
                s.set_bits(Field::GUEST_INTERRUPTIBILITY_STATE, NMI);
                inject(s, EventType::NMI, 2);
            };
            // Without looking at the control: during a return from SMM it is another VMCS's.
            mends |s| let_go(s, NMI, EventType::NMI);
        }
    }
    "26.3.1.5" when |c| c.field(Field::GUEST_INTERRUPTIBILITY_STATE)? & ENCLAVE != 0 => {
        "guest.interruptibility.enclave_mov_ss" at 2 {
            says "If the interruptibility state indicates an enclave interruption (bit 4), blocking by MOV SS (bit 1) is 0.";
            fails InvalidGuestState { qualification: 0 };
            reads [field(Field::GUEST_INTERRUPTIBILITY_STATE)];
            holds |c| c.field(Field::GUEST_INTERRUPTIBILITY_STATE)? & MOV_SS == 0;
            hint "An enclave cannot execute MOV SS: bit 4 is left over from an earlier exit.";
            breaks |s| s.set_bits(Field::GUEST_INTERRUPTIBILITY_STATE, ENCLAVE | MOV_SS);
            mends |s| if s.get(Field::GUEST_INTERRUPTIBILITY_STATE) & MOV_SS != 0 {
                s.clear_bits(Field::GUEST_INTERRUPTIBILITY_STATE, ENCLAVE);
            };
        }
    }
    // Put the other way round than in the manual: where the field is unknown, no processor's lack of SGX is held against it.
    "26.3.1.5" when |c| !c.has(Feature::SGX)? => {
        "guest.interruptibility.enclave_sgx" at 2 {
            says "If the processor does not support SGX, bit 4 (enclave interruption) of the interruptibility state is 0.";
            fails InvalidGuestState { qualification: 0 };
            reads [field(Field::GUEST_INTERRUPTIBILITY_STATE), has(Feature::SGX)];
            holds |c| c.field(Field::GUEST_INTERRUPTIBILITY_STATE)? & ENCLAVE == 0;
            hint "Bit 4 is reserved on processors without SGX.";
            breaks |s| {
                s.profile = s.profile.with_feature(Feature::SGX, false);
                s.set_bits(Field::GUEST_INTERRUPTIBILITY_STATE, ENCLAVE);
            };
            mends |s| if s.profile.has(Feature::SGX) != Some(true) { s.clear_bits(Field::GUEST_INTERRUPTIBILITY_STATE, ENCLAVE) };
        }
    }
}

pub(crate) const PARAGRAPHS: &[Paragraph] = &[Paragraph::rules("26.3.1.5", 2, "interruptibility state")];
