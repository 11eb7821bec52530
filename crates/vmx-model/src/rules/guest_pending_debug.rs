//! Which debug exceptions may be pending when the guest is entered?
//!
//! Source: SDM 3C 26.3.1.5 (rev 077), Checks on Guest Non-Register State, pending debug exceptions; 24.4.2, Guest Non-Register State,
//! Table 24-4.
//!
//! ```text
//!  63        17   16   15   14   13   12    11   10    4   3   0
//! +------------+-----+----+----+----+-----+-----+-------+-------+
//! |  reserved  | RTM |  0 | BS |  0 | en. | BLD | rsvd  | B3-B0 |   BLD: later than rev 077
//! +------------+-----+----+----+----+-----+-----+-------+-------+
//! ```

use super::table::{Paragraph, rules};
use crate::fields::Field;
use crate::state::EntryState;
use x86_state::Feature;

/// Bits 10:4, 13, 15 and 63:17.
const RESERVED: u64 = !0 << 17 | 1 << 15 | 1 << 13 | 0x7f << 4;
const BUS_LOCK: u64 = 1 << 11;
const ENABLED_BREAKPOINT: u64 = 1 << 12;
const BS: u64 = 1 << 14;
const RTM: u64 = 1 << 16;
/// Bits 11:0, 15:13 and 63:17, which must be 0 beside RTM.
const NOT_BESIDE_RTM: u64 = !(RTM | ENABLED_BREAKPOINT);

const TF: u64 = 1 << 8;
const BTF: u64 = 1 << 1;

/// Blocking by STI or by MOV SS, or activity state HLT.
fn single_step_is_checked(s: &EntryState) -> bool {
    s.get(Field::GUEST_INTERRUPTIBILITY_STATE) & 0b11 != 0 || s.get(Field::GUEST_ACTIVITY_STATE) == 1
}

fn single_steps(s: &EntryState) -> bool {
    s.get(Field::GUEST_RFLAGS) & TF != 0 && s.get(Field::GUEST_IA32_DEBUGCTL) & BTF == 0
}

const BTF_DOUBT: &str = "26.3.1.5 names the IA32_DEBUGCTL field whether or not \"load debug controls\" is 1; read literally. \
    With that control 0 the guest runs with the host's IA32_DEBUGCTL, which the check does not see.";

rules! {
    "26.3.1.5" when |c| true => {
        "guest.pending_debug.reserved" at 3 {
            says "Bits 10:4, bit 13, bit 15 and bits 63:17 of the pending debug exceptions are 0.";
            fails InvalidGuestState { qualification: 0 };
            reads [field(Field::GUEST_PENDING_DEBUG_EXCEPTIONS)];
            holds |c| c.field(Field::GUEST_PENDING_DEBUG_EXCEPTIONS)? & RESERVED == 0;
            hint "DR6 was copied into the field: its bits 11:4 and 31:16 read as 1, and bits 13 and 15 have no place here.";
            breaks |s| s.set_bits(Field::GUEST_PENDING_DEBUG_EXCEPTIONS, 1 << 4);
            mends |s| s.clear_bits(Field::GUEST_PENDING_DEBUG_EXCEPTIONS, RESERVED);
        }
        "guest.pending_debug.bus_lock" at 3 {
            says "If the processor has no OS bus-lock detection, bit 11 of the pending debug exceptions is 0.";
            fails InvalidGuestState { qualification: 0 };
            reads [field(Field::GUEST_PENDING_DEBUG_EXCEPTIONS), has(Feature::BUS_LOCK_DETECT)];
            when |c| !c.has(Feature::BUS_LOCK_DETECT)?;
            holds |c| c.field(Field::GUEST_PENDING_DEBUG_EXCEPTIONS)? & BUS_LOCK == 0;
            hint "Bit 11 (a bus lock was acquired) is reserved on processors that do not announce bus-lock detection (CPUID.7.0:ECX bit \
                24).";
            doubt "Revision 077 reserves bit 11 always (Table 24-4). Later revisions give it to OS bus-lock detection, whose #DB can be \
                pending like others; processors that announce the feature are not accused.";
            breaks |s| {
                s.profile = s.profile.with_feature(Feature::BUS_LOCK_DETECT, false);
                s.set_bits(Field::GUEST_PENDING_DEBUG_EXCEPTIONS, BUS_LOCK);
            };
            mends |s| if s.profile.has(Feature::BUS_LOCK_DETECT) != Some(true) {
                s.clear_bits(Field::GUEST_PENDING_DEBUG_EXCEPTIONS, BUS_LOCK);
            };
        }
    }
    "26.3.1.5" when |c| c.field(Field::GUEST_INTERRUPTIBILITY_STATE)? & 0b11 != 0 || c.field(Field::GUEST_ACTIVITY_STATE)? == 1 => {
        "guest.pending_debug.bs_set" at 3 {
            says "If the guest is blocked by STI or by MOV SS or is halted, RFLAGS.TF is 1 and IA32_DEBUGCTL.BTF is 0, then BS (bit 14) \
                is 1.";
            fails InvalidGuestState { qualification: 0 };
            reads [
                field(Field::GUEST_INTERRUPTIBILITY_STATE), field(Field::GUEST_ACTIVITY_STATE), field(Field::GUEST_RFLAGS),
                field(Field::GUEST_IA32_DEBUGCTL), field(Field::GUEST_PENDING_DEBUG_EXCEPTIONS),
            ];
            when |c| c.field(Field::GUEST_RFLAGS)? & TF != 0 && c.field(Field::GUEST_IA32_DEBUGCTL)? & BTF == 0;
            holds |c| c.field(Field::GUEST_PENDING_DEBUG_EXCEPTIONS)? & BS != 0;
            hint "The guest single-steps, so a trap is due when the blocking ends: set bit 14 when you set the blocking (or TF) yourself, \
                as for an intercepted #DB or ICEBP.";
            doubt BTF_DOUBT;
            breaks |s| { s.set_bits(Field::GUEST_RFLAGS, TF | 1 << 9); s.set(Field::GUEST_INTERRUPTIBILITY_STATE, 1) };
            // BS and RTM exclude each other.
            mends |s| if single_step_is_checked(s) && single_steps(s) {
                s.clear_bits(Field::GUEST_PENDING_DEBUG_EXCEPTIONS, RTM);
                s.set_bits(Field::GUEST_PENDING_DEBUG_EXCEPTIONS, BS);
            };
        }
        "guest.pending_debug.bs_clear" at 3 {
            says "If the guest is blocked by STI or by MOV SS or is halted, and RFLAGS.TF is 0 or IA32_DEBUGCTL.BTF is 1, then BS (bit \
                14) is 0.";
            fails InvalidGuestState { qualification: 0 };
            reads [
                field(Field::GUEST_INTERRUPTIBILITY_STATE), field(Field::GUEST_ACTIVITY_STATE), field(Field::GUEST_RFLAGS),
                field(Field::GUEST_IA32_DEBUGCTL), field(Field::GUEST_PENDING_DEBUG_EXCEPTIONS),
            ];
            when |c| c.field(Field::GUEST_RFLAGS)? & TF == 0 || c.field(Field::GUEST_IA32_DEBUGCTL)? & BTF != 0;
            holds |c| c.field(Field::GUEST_PENDING_DEBUG_EXCEPTIONS)? & BS == 0;
            hint "A single-step trap cannot be pending while TF is 0: clear bit 14 together with TF.";
            doubt BTF_DOUBT;
            breaks |s| {
                s.set(Field::GUEST_INTERRUPTIBILITY_STATE, 1 << 1);
                s.set_bits(Field::GUEST_PENDING_DEBUG_EXCEPTIONS, BS);
            };
            mends |s| if single_step_is_checked(s) && !single_steps(s) { s.clear_bits(Field::GUEST_PENDING_DEBUG_EXCEPTIONS, BS) };
        }
    }
    "26.3.1.5" when |c| c.field(Field::GUEST_PENDING_DEBUG_EXCEPTIONS)? & RTM != 0 => {
        "guest.pending_debug.rtm_alone" at 3 {
            says "If RTM (bit 16) of the pending debug exceptions is 1, bits 11:0, bits 15:13 and bits 63:17 are 0.";
            fails InvalidGuestState { qualification: 0 };
            reads [field(Field::GUEST_PENDING_DEBUG_EXCEPTIONS)];
            holds |c| c.field(Field::GUEST_PENDING_DEBUG_EXCEPTIONS)? & NOT_BESIDE_RTM == 0;
            hint "In this field RTM is 1 to report an exception inside a transaction; in DR6 it is 0. DR6 was copied without inverting it.";
            breaks |s| s.set(Field::GUEST_PENDING_DEBUG_EXCEPTIONS, RTM | ENABLED_BREAKPOINT | 1);
            mends |s| if s.get(Field::GUEST_PENDING_DEBUG_EXCEPTIONS) & RTM != 0 {
                s.clear_bits(Field::GUEST_PENDING_DEBUG_EXCEPTIONS, NOT_BESIDE_RTM);
            };
        }
        "guest.pending_debug.rtm_enabled_breakpoint" at 3 {
            says "If RTM (bit 16) of the pending debug exceptions is 1, bit 12 (enabled breakpoint) is 1.";
            fails InvalidGuestState { qualification: 0 };
            reads [field(Field::GUEST_PENDING_DEBUG_EXCEPTIONS)];
            holds |c| c.field(Field::GUEST_PENDING_DEBUG_EXCEPTIONS)? & ENABLED_BREAKPOINT != 0;
            hint "In this field RTM is 1 to report an exception inside a transaction; in DR6 it is 0. DR6 was copied without inverting it.";
            breaks |s| s.set(Field::GUEST_PENDING_DEBUG_EXCEPTIONS, RTM);
            mends |s| if s.get(Field::GUEST_PENDING_DEBUG_EXCEPTIONS) & RTM != 0 {
                s.set_bits(Field::GUEST_PENDING_DEBUG_EXCEPTIONS, ENABLED_BREAKPOINT);
            };
        }
        "guest.pending_debug.rtm_mov_ss" at 3 {
            says "If RTM (bit 16) of the pending debug exceptions is 1, there is no blocking by MOV SS.";
            fails InvalidGuestState { qualification: 0 };
            reads [field(Field::GUEST_PENDING_DEBUG_EXCEPTIONS), field(Field::GUEST_INTERRUPTIBILITY_STATE)];
            holds |c| c.field(Field::GUEST_INTERRUPTIBILITY_STATE)? & 0b10 == 0;
            hint "A processor does not report both at once: one of them is left over from an earlier exit.";
            breaks |s| {
                s.set(Field::GUEST_PENDING_DEBUG_EXCEPTIONS, RTM | ENABLED_BREAKPOINT);
                s.set(Field::GUEST_INTERRUPTIBILITY_STATE, 0b10);
            };
            mends |s| if s.get(Field::GUEST_INTERRUPTIBILITY_STATE) & 0b10 != 0 {
                s.clear_bits(Field::GUEST_PENDING_DEBUG_EXCEPTIONS, RTM);
            };
        }
    }
    // Put the other way round than in the manual: where the field is unknown, no processor's lack of RTM is held against it.
    "26.3.1.5" when |c| !c.has(Feature::RTM)? => {
        "guest.pending_debug.rtm_supported" at 3 {
            says "If the processor does not support RTM, bit 16 (RTM) of the pending debug exceptions is 0.";
            fails InvalidGuestState { qualification: 0 };
            reads [field(Field::GUEST_PENDING_DEBUG_EXCEPTIONS), has(Feature::RTM)];
            holds |c| c.field(Field::GUEST_PENDING_DEBUG_EXCEPTIONS)? & RTM == 0;
            hint "Bit 16 is reserved on processors without RTM, which includes those whose microcode or IA32_TSX_CTRL hides it from CPUID.";
            breaks |s| {
                s.profile = s.profile.with_feature(Feature::RTM, false);
                s.set(Field::GUEST_PENDING_DEBUG_EXCEPTIONS, RTM | ENABLED_BREAKPOINT);
            };
            mends |s| if s.profile.has(Feature::RTM) != Some(true) { s.clear_bits(Field::GUEST_PENDING_DEBUG_EXCEPTIONS, RTM) };
        }
    }
}

pub(crate) const PARAGRAPHS: &[Paragraph] = &[Paragraph::rules("26.3.1.5", 3, "pending debug exceptions")];
