//! Which rule stopped the walk, and what is the guest or its hypervisor told?

use super::render::Walk;
use super::rights;
use super::steps::{Second, Step, Tables};
use crate::commands::tables::{entry_name, misconfiguration};
use serde::Serialize;
use softvirt::ept::entry::{epte, sub_page_reserved_bits};
use softvirt::ept::{Dimension, Ept, EptEvent, Failure, FailureKind, Purpose};
use softvirt::vmx_model::describe::BitList;
use softvirt::vmx_model::qualification::Qualification;
use softvirt::vmx_model::reasons::ExitReason;

/// What a failed walk ends in. Numbers are hexadecimal strings, as everywhere in softvirt's JSON.
#[derive(Serialize)]
pub(super) struct Stop {
    /// The entry that decided.
    pub(super) rule: String,
    /// Where the rule stands.
    pub(super) source: &'static str,
    pub(super) event: Event,
}

#[derive(Serialize)]
#[serde(rename_all = "snake_case")]
pub(super) enum Event {
    PageFault {
        error_code: String,
        words: String,
        cr2: String,
    },
    /// Loading the PDPTEs met a reserved bit.
    GeneralProtection,
    /// The pointer means no linear address.
    NotCanonical {
        exception: &'static str,
    },
    VmExit {
        reason: u32,
        name: &'static str,
        qualification: Option<String>,
        words: Option<String>,
        /// `None` if the field is undefined.
        guest_physical_address: Option<String>,
        /// `None` if the field is undefined.
        guest_linear_address: Option<String>,
        /// What may come instead of the exit.
        #[serde(skip_serializing_if = "Option::is_none")]
        instead: Option<&'static str>,
    },
    NestedPageFault {
        exit_info_1: String,
        words: String,
        exit_info_2: String,
    },
    /// The entry has changed during the walk: the access is made again.
    Retry,
}

/// SDM 3C 25.5.7.1, Convertible EPT Violations.
const CONVERTED: &str = "a virtualization exception (#VE, vector 20), if CR0.PE is 1, no event is being delivered and bytes 4 to 7 of the \
                         virtualization-exception information area are 0 (SDM 3C 25.5.7.1, Convertible EPT Violations)";

pub(super) fn explain(failure: &Failure, walk: &Walk<'_>) -> Stop {
    let (rule, source) = match failure.dimension {
        Dimension::Guest => guest_rule(failure, walk),
        Dimension::Ept | Dimension::Npt => second_rule(failure, walk),
    };
    Stop { rule, source, event: event(failure, walk) }
}

fn event(failure: &Failure, walk: &Walk<'_>) -> Event {
    let ept_event = match walk.second {
        Second::Ept(ept) => failure.ept_event(ept, walk.access),
        _ => None,
    };
    let nested = match walk.second {
        Second::Npt(npt) => failure.npf_exit_info_1(npt, walk.access),
        _ => None,
    };
    // An EPT misconfiguration has no qualification, and does not save the linear address.
    let exit =
        |reason: ExitReason, qualification: Option<u64>, linear: bool, instead: Option<&'static str>| Event::VmExit {
            reason: reason.0,
            name: reason.row().map_or("unknown", |row| row.name),
            qualification: qualification.map(|value| format!("{value:#x}")),
            words: qualification.map(|value| Qualification { reason: reason.0, value }.to_string()),
            // Undefined for the exits that SDM 3C 27.2.1 does not name.
            guest_physical_address: (reason != ExitReason::PAGE_MODIFICATION_LOG_FULL)
                .then(|| format!("{:#x}", failure.gpa.0)),
            guest_linear_address: linear.then(|| format!("{:#x}", walk.gva)),
            instead,
        };
    match (ept_event, nested) {
        (Some(EptEvent::Violation { qualification, convertible }), _) => {
            let linear = qualification >> 7 & 1 == 1;
            exit(ExitReason::EPT_VIOLATION, Some(qualification), linear, convertible.then_some(CONVERTED))
        }
        (Some(EptEvent::Misconfiguration), _) => exit(ExitReason::EPT_MISCONFIGURATION, None, false, None),
        (Some(EptEvent::SubPage { qualification }), _) => {
            exit(ExitReason::SPP_RELATED_EVENT, Some(qualification), true, None)
        }
        (Some(EptEvent::LogFull), _) => exit(ExitReason::PAGE_MODIFICATION_LOG_FULL, None, false, None),
        (None, Some(information)) => Event::NestedPageFault {
            exit_info_1: format!("{information:#x}"),
            words: exit_info_words(information),
            exit_info_2: format!("{:#x}", failure.gpa.0),
        },
        (None, None) if failure.is_page_fault() => {
            let code = failure.page_fault_error_code(walk.paging, walk.access);
            Event::PageFault {
                error_code: format!("{code:#x}"),
                words: error_code_words(code),
                cr2: format!("{:#x}", walk.gva),
            }
        }
        _ => Event::Retry,
    }
}

/// Names from a table of bits; `clear` is what bit 0 says when it is 0.
fn bit_words(value: u64, clear: &'static str, table: &[(u32, &'static str)]) -> String {
    let mut words = if value & 1 == 0 { vec![clear] } else { Vec::new() };
    words.extend(table.iter().filter(|(bit, _)| value >> bit & 1 == 1).map(|(_, name)| *name));
    words.join(", ")
}

/// SDM 3A figure 4-12, Page-Fault Error Code.
fn error_code_words(code: u32) -> String {
    const BITS: [(u32, &str); 9] = [
        (0, "the page is present"),
        (1, "write"),
        (2, "user-mode access"),
        (3, "reserved bit set"),
        (4, "instruction fetch"),
        (5, "protection key"),
        (6, "shadow stack"),
        (7, "HLAT paging"),
        (15, "SGX"),
    ];
    let mut words = bit_words(code.into(), "not present", &BITS);
    if code & 0b1_0010 == 0 {
        words += ", no write";
    }
    if code & 0b100 == 0 {
        words += ", supervisor-mode access";
    }
    words
}

/// APM 2 15.25.6, Nested versus Guest Page Faults, Fault Ordering.
fn exit_info_words(information: u64) -> String {
    const BITS: [(u32, &str); 9] = [
        (0, "the nested page is present"),
        (1, "write"),
        (2, "user access"),
        (3, "reserved bit set"),
        (4, "instruction fetch"),
        (6, "shadow stack"),
        (32, "at the guest's final address"),
        (33, "at a guest page table"),
        (37, "supervisor shadow-stack page"),
    ];
    bit_words(information, "not present", &BITS)
}

fn guest_rule(failure: &Failure, walk: &Walk<'_>) -> (String, &'static str) {
    let tables = if failure.hlat { Tables::Hlat } else { Tables::Guest };
    let (name, level) = (tables.entry_name(failure.level), failure.level);
    match failure.kind {
        FailureKind::NotPresent => {
            (format!("the {name} (level {level}) is not present: bit 0 is 0"), "SDM 3A 4.7, Page-Fault Exceptions")
        }
        FailureKind::Reserved => {
            let bits = BitList(walk.paging.reserved(level).set_in(level, failure.entry));
            (format!("the {name} (level {level}) sets reserved {bits}"), "SDM 3A 4.7, Page-Fault Exceptions")
        }
        FailureKind::Rights => (rights::guest(failure, walk), "SDM 3A 4.6.1, Determination of Access Rights"),
        _ => (format!("the {name} (level {level}) changed during the walk"), "SDM 3A 4.8, Accessed and Dirty Flags"),
    }
}

fn second_rule(failure: &Failure, walk: &Walk<'_>) -> (String, &'static str) {
    let (name, level) = (entry_name(failure.dimension, failure.level), failure.level);
    let gpa = failure.gpa.0;
    let ept = failure.dimension == Dimension::Ept;
    let target = match failure.purpose {
        Purpose::Page => format!("guest-physical {gpa:#x}"),
        Purpose::Table { level, write } => {
            let how = if write { " (which the walk writes)" } else { "" };
            format!("the guest's {} at {gpa:#x}{how}", entry_name(Dimension::Guest, level))
        }
        Purpose::PdpteLoad => format!("the PDPTEs at {gpa:#x}"),
    };
    let violation =
        if ept { "SDM 3C 28.3.3.2, EPT Violations" } else { "APM 2 15.25.6, Nested versus Guest Page Faults" };
    let rule = match (failure.kind, walk.second) {
        (FailureKind::NotPresent, Second::Ept(ept)) => {
            let bits = if ept.controls().mode_based_execute { "bits 10 and 2:0 are 0" } else { "bits 2:0 are 0" };
            format!("the {name} (level {level}) for {target} is not present: {bits}")
        }
        (FailureKind::NotPresent, _) => {
            format!("the {name} (level {level}) for {target} is not present: bit 0 is 0")
        }
        (FailureKind::Misconfigured, Second::Ept(ept)) => {
            let why = misconfiguration(ept, level, failure.entry).unwrap_or_default();
            let rule = format!("the {name} (level {level}) for {target} is misconfigured: {why}");
            return (rule, "SDM 3C 28.3.3.1, EPT Misconfigurations");
        }
        (FailureKind::Reserved, Second::Npt(npt)) => {
            let bits = BitList(npt.host().reserved(level).set_in(level, failure.entry));
            format!("the {name} (level {level}) for {target} sets reserved {bits}")
        }
        (FailureKind::TooWide, _) => format!("{target} has more bits than the tables translate"),
        (FailureKind::Rights, _) => rights::second(failure, walk, &target),
        (FailureKind::Verification, _) => {
            return (unverified(walk, name), "SDM 3C 28.3.3.2, EPT Violations (guest-paging verification)");
        }
        (FailureKind::SubPageMiss | FailureKind::SubPageMisconfigured, Second::Ept(ept)) => {
            return (
                sub_page_rule(ept, walk.steps),
                "SDM 3C 28.3.4.2, Determining an Access's Sub-Page Write Permission",
            );
        }
        (FailureKind::LogFull, Second::Ept(ept)) => {
            let index = ept.log().map_or(0, |log| log.index.get());
            let rule =
                format!("a flag has to be set for {target}, and the log has no entry left: the PML index is {index}");
            return (rule, "SDM 3C 28.3.6, Page-Modification Logging");
        }
        _ => format!("the {name} (level {level}) for {target} stopped it"),
    };
    (rule, violation)
}

/// Which guest tables lie in pages without paging-write access?
fn unverified(walk: &Walk<'_>, name: &str) -> String {
    let leaves = walk.steps.iter().zip(walk.steps.iter().skip(1)).filter_map(|(leaf, next)| {
        // The entry that maps the page of a guest entry is read just before that entry.
        let guest = next.tables.is_some_and(Tables::first_dimension);
        let denied = leaf.tables == Some(Tables::Ept) && leaf.read.value & epte::PAGING_WRITE == 0;
        (guest && denied).then(|| format!("{} at {:#x}", entry_name(Dimension::Guest, next.level), next.gpa))
    });
    let tables: Vec<String> = leaves.collect();
    format!(
        "bit 57 of the {name} asks that every guest table allow paging writes (bit 58), and these do not: {}",
        tables.join(", ")
    )
}

fn sub_page_rule(ept: &Ept<'_>, steps: &[Step]) -> String {
    let Some(step) = steps.iter().rev().find(|step| step.tables == Some(Tables::SubPage)) else {
        return "no sub-page permission vector is found".to_owned();
    };
    let name = Tables::SubPage.entry_name(step.level);
    let reserved = step.read.value & sub_page_reserved_bits(step.level, ept.support().address);
    match (step.level, step.read.value & 1) {
        (2.., 0) => format!("the {name} is not valid: bit 0 is 0"),
        _ => format!("the {name} sets reserved {}", BitList(reserved)),
    }
}
