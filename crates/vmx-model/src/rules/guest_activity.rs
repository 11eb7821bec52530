//! Which activity state may the guest enter: supported, at the right privilege level, not blocked, and open to the injected event?
//!
//! Source: SDM 3C 26.3.1.5 (rev 077), Checks on Guest Non-Register State, activity state; 24.4.2, Guest Non-Register State;
//! SDM 3D A.6, Miscellaneous Data.

use super::guest_interruptibility::{enter_smm, inject, refuse_injection};
use super::table::{Paragraph, rules};
use crate::control::Control;
use crate::fields::Field;
use crate::state::EntryState;
use x86_state::{EventType, InterruptionInfo, SegmentRegister, VmxMsr};

const ACTIVE: u64 = 0;
const HLT: u64 = 1;
const SHUTDOWN: u64 = 2;
const WAIT_FOR_SIPI: u64 = 3;

const DEBUG_EXCEPTION: u8 = 1;
const MACHINE_CHECK: u8 = 18;
const PENDING_MTF: u8 = 0;

/// The bit of IA32_VMX_MISC that reports support of activity state 1, 2 or 3: 6, 7 or 8.
const fn support(misc: u64, activity: u64) -> bool {
    misc >> (5 + activity) & 1 == 1
}

/// "Those with interruption type external interrupt or NMI; hardware exception and vector 1 or 18; other event and vector 0."
const fn allowed_in_hlt(event: InterruptionInfo) -> bool {
    match event.kind() {
        EventType::EXTERNAL_INTERRUPT | EventType::NMI => true,
        EventType::HARDWARE_EXCEPTION => matches!(event.vector(), DEBUG_EXCEPTION | MACHINE_CHECK),
        EventType::OTHER_EVENT => event.vector() == PENDING_MTF,
        _ => false,
    }
}

const fn allowed_in_shutdown(event: InterruptionInfo) -> bool {
    match event.kind() {
        EventType::NMI => true,
        EventType::HARDWARE_EXCEPTION => event.vector() == MACHINE_CHECK,
        _ => false,
    }
}

/// Moves a valid protected-mode guest to CPL 3.
fn user_mode(s: &mut EntryState) {
    for register in [SegmentRegister::Cs, SegmentRegister::Ss] {
        s.set_bits(Field::guest_selector(register), 3);
        s.set_rights_field(register, 6, 5, 3);
    }
}

rules! {
    "26.3.1.5" when |c| true => {
        "guest.activity.range" at 1 {
            says "The activity state is 0 (active), 1 (HLT), 2 (shutdown) or 3 (wait-for-SIPI).";
            fails InvalidGuestState { qualification: 0 };
            reads [field(Field::GUEST_ACTIVITY_STATE)];
            holds |c| c.field(Field::GUEST_ACTIVITY_STATE)? <= WAIT_FOR_SIPI;
            hint "The field was not initialized, or holds an operating system's own number for a sleeping processor.";
            breaks |s| s.set(Field::GUEST_ACTIVITY_STATE, 4);
            mends |s| if s.get(Field::GUEST_ACTIVITY_STATE) > WAIT_FOR_SIPI { s.set(Field::GUEST_ACTIVITY_STATE, ACTIVE) };
        }
        "guest.activity.supported" at 1 {
            says "The processor supports the activity state if it is 1, 2 or 3: bit 6, 7 or 8 of IA32_VMX_MISC is 1.";
            fails InvalidGuestState { qualification: 0 };
            reads [field(Field::GUEST_ACTIVITY_STATE), cap(VmxMsr::Misc)];
            when |c| matches!(c.field(Field::GUEST_ACTIVITY_STATE)?, HLT..=WAIT_FOR_SIPI);
            holds |c| support(c.cap(VmxMsr::Misc)?, c.field(Field::GUEST_ACTIVITY_STATE)? & 3);
            hint "IA32_VMX_MISC bits 8:6 say which states exist; most hypervisors enter as active and keep a halted guest off the \
                processor.";
            breaks |s| {
                let misc = s.profile.vmx(VmxMsr::Misc).unwrap_or(0);
                s.profile = s.profile.with_vmx(VmxMsr::Misc, Some(misc & !(1 << 7)));
                s.set(Field::GUEST_ACTIVITY_STATE, SHUTDOWN);
            };
            mends |s| {
                let activity = s.get(Field::GUEST_ACTIVITY_STATE);
                if matches!(activity, HLT..=WAIT_FOR_SIPI) && s.profile.vmx(VmxMsr::Misc).is_none_or(|misc| !support(misc, activity)) {
                    s.set(Field::GUEST_ACTIVITY_STATE, ACTIVE);
                }
            };
        }
        "guest.activity.hlt_ss_dpl" at 1 {
            says "If the activity state is HLT, the DPL of SS (the guest's privilege level) is 0.";
            fails InvalidGuestState { qualification: 0 };
            reads [field(Field::GUEST_ACTIVITY_STATE), field(Field::GUEST_SS_ACCESS_RIGHTS)];
            when |c| c.field(Field::GUEST_ACTIVITY_STATE)? == HLT;
            holds |c| c.rights(SegmentRegister::Ss)?.dpl() == 0;
            hint "HLT is a privileged instruction: a guest at CPL 1 to 3 cannot be halted. The activity state was kept from an earlier \
                exit.";
            base Hlt;
            breaks |s| user_mode(s);
            mends |s| if s.get(Field::GUEST_ACTIVITY_STATE) == HLT && s.rights(SegmentRegister::Ss) >> 5 & 3 != 0 {
                s.set(Field::GUEST_ACTIVITY_STATE, ACTIVE);
            };
        }
        "guest.activity.active_while_blocking" at 1 {
            says "If the interruptibility state indicates blocking by STI or by MOV SS (bit 0 or bit 1), the activity state is active.";
            fails InvalidGuestState { qualification: 0 };
            reads [field(Field::GUEST_INTERRUPTIBILITY_STATE), field(Field::GUEST_ACTIVITY_STATE)];
            when |c| c.field(Field::GUEST_INTERRUPTIBILITY_STATE)? & 0b11 != 0;
            holds |c| c.field(Field::GUEST_ACTIVITY_STATE)? == ACTIVE;
            hint "After emulating STI; HLT clear the STI blocking before entering as halted: the blocking lasts for one instruction only.";
            base Hlt;
            breaks |s| { s.set_bits(Field::GUEST_RFLAGS, 1 << 9); s.set(Field::GUEST_INTERRUPTIBILITY_STATE, 1) };
            mends |s| if s.get(Field::GUEST_INTERRUPTIBILITY_STATE) & 0b11 != 0 { s.set(Field::GUEST_ACTIVITY_STATE, ACTIVE) };
        }
    }
    "26.3.1.5" when |c| c.injection()?.is_valid() => {
        "guest.activity.hlt_injection" at 1 {
            says "If the activity state is HLT, an injected event is an external interrupt, an NMI, #DB (hardware exception 1), #MC \
                (hardware exception 18) or a pending MTF VM exit.";
            fails InvalidGuestState { qualification: 0 };
            reads [field(Field::VM_ENTRY_INTERRUPTION_INFO), field(Field::GUEST_ACTIVITY_STATE)];
            when |c| c.field(Field::GUEST_ACTIVITY_STATE)? == HLT;
            holds |c| allowed_in_hlt(c.injection()?);
            hint "A halted processor meets no other exception: set the activity state to active when you inject one.";
            base Hlt;
            breaks |s| inject(s, EventType::HARDWARE_EXCEPTION, 6);
            mends |s| if s.get(Field::GUEST_ACTIVITY_STATE) == HLT { refuse_injection(s, |event| !allowed_in_hlt(event)) };
        }
        "guest.activity.shutdown_injection" at 1 {
            says "If the activity state is shutdown, an injected event is an NMI or #MC (hardware exception 18).";
            fails InvalidGuestState { qualification: 0 };
            reads [field(Field::VM_ENTRY_INTERRUPTION_INFO), field(Field::GUEST_ACTIVITY_STATE)];
            when |c| c.field(Field::GUEST_ACTIVITY_STATE)? == SHUTDOWN;
            holds |c| allowed_in_shutdown(c.injection()?);
            hint "Only an NMI or a machine check ends shutdown: enter as active, or hold the event back.";
            breaks |s| {
                s.set(Field::GUEST_ACTIVITY_STATE, SHUTDOWN);
                s.set_bits(Field::GUEST_RFLAGS, 1 << 9);
                inject(s, EventType::EXTERNAL_INTERRUPT, 0x20);
            };
            mends |s| if s.get(Field::GUEST_ACTIVITY_STATE) == SHUTDOWN { refuse_injection(s, |event| !allowed_in_shutdown(event)) };
        }
        "guest.activity.wait_for_sipi_injection" at 1 {
            says "If the activity state is wait-for-SIPI, no event is injected.";
            fails InvalidGuestState { qualification: 0 };
            reads [field(Field::VM_ENTRY_INTERRUPTION_INFO), field(Field::GUEST_ACTIVITY_STATE)];
            // Where the group applies an event is injected: only the activity state is left to ask.
            holds |c| c.field(Field::GUEST_ACTIVITY_STATE)? != WAIT_FOR_SIPI;
            hint "Clear bit 31 of the VM-entry interruption information: a processor that waits for SIPI takes nothing else.";
            base WaitForSipi;
            breaks |s| inject(s, EventType::NMI, 2);
            mends |s| if s.get(Field::GUEST_ACTIVITY_STATE) == WAIT_FOR_SIPI { refuse_injection(s, |_| true) };
        }
    }
    "26.3.1.5" when |c| c.ctl(Control::ENTRY_TO_SMM)? => {
        "guest.activity.wait_for_sipi_entry_to_smm" at 1 {
            says "If \"entry to SMM\" is 1, the activity state is not wait-for-SIPI.";
            fails InvalidGuestState { qualification: 0 };
            reads [field(Field::GUEST_ACTIVITY_STATE), ctl(Control::ENTRY_TO_SMM)];
            holds |c| c.field(Field::GUEST_ACTIVITY_STATE)? != WAIT_FOR_SIPI;
            hint "A processor in SMM cannot wait for a startup IPI.";
            base WaitForSipi;
            breaks |s| enter_smm(s);
            mends |s| if s.ctl(Control::ENTRY_TO_SMM) && s.get(Field::GUEST_ACTIVITY_STATE) == WAIT_FOR_SIPI {
                s.set(Field::GUEST_ACTIVITY_STATE, ACTIVE);
            };
        }
    }
}

pub(crate) const PARAGRAPHS: &[Paragraph] = &[Paragraph::rules("26.3.1.5", 1, "activity state")];
