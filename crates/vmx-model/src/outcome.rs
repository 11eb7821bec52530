//! What does a processor report of a set of violations? One policy on top of the set.
//!
//! Source: SDM 3C (rev 077) 26.1, Basic VM-Entry Checks; 26.2, Checks on VMX Controls and Host-State Area; 26.8, VM-Entry Failures
//! During or After Loading Guest State; 30.3, VMX Instructions, VMLAUNCH/VMRESUME; 30.4, VM Instruction Error Numbers.

use crate::rules::{Consequence, RuleId, Violations};
use x86_state::CpuProfile;
use x86_state::profile::{ControlHostOrder, GuestFailureOrder};

/// What VMLAUNCH or VMRESUME does. The cases exclude each other.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Outcome {
    /// The guest runs.
    Entered,
    /// #UD.
    InvalidOpcode,
    /// A VM exit from VMX non-root operation.
    VmExit,
    /// #GP(0).
    GeneralProtection,
    /// RFLAGS.CF is set.
    VmFailInvalid,
    /// RFLAGS.ZF is set; the VM-instruction error field holds the number.
    VmFailValid(u8),
    /// The entry fails after it began to load guest state: bit 31 of the reason is set, host state is loaded.
    EntryFailed {
        /// The exit-reason field, bit 31 included.
        reason: u32,
        /// The exit qualification. For MSR loading: the number of the failing entry, counted from 1.
        qualification: u64,
    },
}

/// Reports, in the stage order of the manual: the basic checks, one after the other; the controls and the host state in the profile's order;
/// the guest state; the MSR-load list.
///
/// Undecided rules count as holding. `msr_entry` is the number of the first MSR-load entry that fails, counted from 1; it matters only if
/// nothing else is broken.
#[must_use]
pub fn hardware_outcome(violations: &Violations, profile: &CpuProfile, msr_entry: u32) -> Outcome {
    outcome_of(reported_rule(violations, profile), violations, msr_entry)
}

/// The same for an instruction whose own conditions (#UD, VM exit, #GP) are known to hold: these cases are never the answer. The number of
/// the MSR-load entry is 0.
pub(crate) fn outcome_of_checks(violations: &Violations, profile: &CpuProfile) -> Outcome {
    // The usual case, without a look at every rule.
    if violations.none_broken() {
        return Outcome::Entered;
    }
    let own = |rule: RuleId| {
        use Consequence::{GeneralProtection, InvalidOpcode, VmExit};
        matches!(violations.consequence(rule), InvalidOpcode | VmExit | GeneralProtection)
    };
    outcome_of(first(violations.broken().filter(|rule| !own(*rule)), violations, profile), violations, 0)
}

fn outcome_of(reported: Option<RuleId>, violations: &Violations, msr_entry: u32) -> Outcome {
    match reported {
        None => Outcome::Entered,
        Some(rule) => match violations.consequence(rule) {
            Consequence::InvalidOpcode => Outcome::InvalidOpcode,
            Consequence::VmExit => Outcome::VmExit,
            Consequence::GeneralProtection => Outcome::GeneralProtection,
            Consequence::VmFailInvalid => Outcome::VmFailInvalid,
            Consequence::VmFailValid(number) => Outcome::VmFailValid(number),
            Consequence::InvalidGuestState { qualification } => {
                Outcome::EntryFailed { reason: 0x8000_0021, qualification: u64::from(qualification) }
            }
            Consequence::MsrLoading => {
                Outcome::EntryFailed { reason: 0x8000_0022, qualification: u64::from(msr_entry) }
            }
        },
    }
}

/// The broken rule whose consequence the processor shows.
#[must_use]
pub fn reported_rule(violations: &Violations, profile: &CpuProfile) -> Option<RuleId> {
    first(violations.broken(), violations, profile)
}

fn first(rules: impl Iterator<Item = RuleId>, violations: &Violations, profile: &CpuProfile) -> Option<RuleId> {
    rules.min_by_key(|rule| (rank(violations.consequence(*rule), profile), *rule))
}

fn rank(consequence: Consequence, profile: &CpuProfile) -> u8 {
    let host_first = profile.knobs().control_host_order == ControlHostOrder::HostFirst;
    match consequence {
        Consequence::InvalidOpcode => 0,
        Consequence::VmExit => 1,
        Consequence::GeneralProtection => 2,
        Consequence::VmFailInvalid => 3,
        // 26 (MOV SS blocking), 4 and 5 (launch state) and, for returns from SMM, 16, 17 and 18 come before the checks of the fields.
        Consequence::VmFailValid(7 | 25) => 6,
        Consequence::VmFailValid(8) => {
            if host_first {
                5
            } else {
                7
            }
        }
        Consequence::VmFailValid(_) => 4,
        Consequence::InvalidGuestState { qualification } => match profile.knobs().guest_failure_order {
            GuestFailureOrder::ManualOrder => 8,
            GuestFailureOrder::SpecificFirst => match qualification {
                2 => 8,
                4 => 9,
                3 => 10,
                _ => 11,
            },
        },
        Consequence::MsrLoading => 12,
    }
}
