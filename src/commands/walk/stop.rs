//! Which rule stopped the walk, and what is the guest or its hypervisor told?

use super::steps::{Second, Step};
use crate::commands::tables::{entry_name, reserved, rights_words};
use serde::Serialize;
use softvirt::ept::entry::{epte, pte};
use softvirt::ept::{Access, Dimension, EptEvent, Failure, FailureKind, Operation, Paging, Purpose};
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
    VmExit {
        reason: u32,
        name: &'static str,
        qualification: Option<String>,
        words: Option<String>,
        guest_physical_address: String,
        /// `None` if the field is undefined.
        guest_linear_address: Option<String>,
    },
    NestedPageFault {
        exit_info_1: String,
        words: String,
        exit_info_2: String,
    },
    /// The entry has changed during the walk: the access is made again.
    Retry,
}

pub(super) fn explain(
    failure: &Failure,
    paging: &Paging,
    second: &Second,
    access: Access,
    gva: u64,
    steps: &[Step],
) -> Stop {
    let (rule, source) = match failure.dimension {
        Dimension::Guest => guest_rule(failure, paging, access, steps),
        Dimension::Ept | Dimension::Npt => second_rule(failure, second, access, steps),
    };
    Stop { rule, source, event: event(failure, paging, second, access, gva) }
}

fn event(failure: &Failure, paging: &Paging, second: &Second, access: Access, gva: u64) -> Event {
    let ept_event = match second {
        Second::Ept(extended) => failure.ept_event(&extended.ept, access),
        _ => None,
    };
    let nested = match second {
        Second::Npt(npt) => failure.npf_exit_info_1(npt, access),
        _ => None,
    };
    let exit = |reason: ExitReason, qualification: Option<u64>| Event::VmExit {
        reason: reason.0,
        name: reason.row().map_or("unknown", |row| row.name),
        qualification: qualification.map(|value| format!("{value:#x}")),
        words: qualification.map(|value| Qualification { reason: reason.0, value }.to_string()),
        guest_physical_address: format!("{:#x}", failure.gpa.0),
        guest_linear_address: qualification.filter(|value| value >> 7 & 1 == 1).map(|_| format!("{gva:#x}")),
    };
    match (ept_event, nested) {
        (Some(EptEvent::Violation { qualification, .. }), _) => exit(ExitReason::EPT_VIOLATION, Some(qualification)),
        (Some(EptEvent::Misconfiguration), _) => exit(ExitReason::EPT_MISCONFIGURATION, None),
        (Some(EptEvent::SubPage { qualification }), _) => exit(ExitReason::SPP_RELATED_EVENT, Some(qualification)),
        (Some(EptEvent::LogFull), _) => exit(ExitReason::PAGE_MODIFICATION_LOG_FULL, None),
        (None, Some(information)) => Event::NestedPageFault {
            exit_info_1: format!("{information:#x}"),
            words: exit_info_words(information),
            exit_info_2: format!("{:#x}", failure.gpa.0),
        },
        (None, None) if failure.is_page_fault() => {
            let code = failure.page_fault_error_code(paging, access);
            Event::PageFault {
                error_code: format!("{code:#x}"),
                words: error_code_words(code),
                cr2: format!("{gva:#x}"),
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

fn guest_rule(failure: &Failure, paging: &Paging, access: Access, steps: &[Step]) -> (String, &'static str) {
    let name = entry_name(Dimension::Guest, failure.level);
    let level = failure.level;
    match failure.kind {
        FailureKind::NotPresent => {
            (format!("the {name} (level {level}) is not present: bit 0 is 0"), "SDM 3A 4.7, Page-Fault Exceptions")
        }
        FailureKind::Reserved => {
            let bits = BitList(reserved(paging, level, failure.entry));
            (format!("the {name} (level {level}) sets reserved {bits}"), "SDM 3A 4.7, Page-Fault Exceptions")
        }
        FailureKind::Rights => {
            let entries: Vec<&Step> = steps.iter().filter(|step| step.dimension == Some(Dimension::Guest)).collect();
            (guest_rights(failure, paging, access, &entries), "SDM 3A 4.6.1, Determination of Access Rights")
        }
        _ => (format!("the {name} (level {level}) changed during the walk"), "SDM 3A 4.8, Accessed and Dirty Flags"),
    }
}

fn guest_rights(failure: &Failure, paging: &Paging, access: Access, entries: &[&Step]) -> String {
    let where_is = |bit: u64, set: bool| {
        let names: Vec<&str> = entries
            .iter()
            .filter(|step| (step.read.value & bit != 0) == set)
            .map(|step| entry_name(Dimension::Guest, step.level))
            .collect();
        names.join(", ")
    };
    let mut reasons = Vec::new();
    let user_address = failure.rights & pte::USER != 0;
    let modifiers = &paging.modifiers;
    if access.is_user() && !user_address {
        reasons.push(format!("a user-mode access, and U/S is 0 in: {}", where_is(pte::USER, false)));
    }
    if !access.is_user() && user_address {
        if access.is_fetch() && modifiers.smep {
            reasons.push("the supervisor fetches from a user-mode address while CR4.SMEP is 1".to_owned());
        }
        if !access.is_fetch() && modifiers.smap {
            reasons
                .push("the supervisor accesses a user-mode address while CR4.SMAP is 1 and EFLAGS.AC is 0".to_owned());
        }
    }
    if access.is_write() && failure.rights & pte::WRITE == 0 && (access.is_user() || modifiers.write_protect) {
        let why = if access.is_user() { "" } else { " while CR0.WP is 1" };
        reasons.push(format!("a write{why}, and R/W is 0 in: {}", where_is(pte::WRITE, false)));
    }
    if access.operation == Operation::Fetch && failure.rights & pte::EXECUTE_DISABLE == 0 {
        reasons.push(format!("an instruction fetch, and NX is 1 in: {}", where_is(pte::EXECUTE_DISABLE, true)));
    }
    if paging.key_denies(failure.entry, user_address, access) {
        reasons.push(format!("protection key {} denies it", failure.entry >> 59 & 0xf));
    }
    if reasons.is_empty() {
        reasons.push("the rights do not allow the access".to_owned());
    }
    reasons.join("; ")
}

fn second_rule(failure: &Failure, second: &Second, access: Access, steps: &[Step]) -> (String, &'static str) {
    let name = entry_name(failure.dimension, failure.level);
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
    let rule = match (failure.kind, second) {
        (FailureKind::NotPresent, _) => {
            let bits = if ept { "bits 2:0 are 0" } else { "bit 0 is 0" };
            format!("the {name} (level {}) for {target} is not present: {bits}", failure.level)
        }
        (FailureKind::Misconfigured, Second::Ept(extended)) => {
            let why = extended.misconfiguration(failure.level, failure.entry).unwrap_or_default();
            let rule = format!("the {name} (level {}) for {target} is misconfigured: {why}", failure.level);
            return (rule, "SDM 3C 28.3.3.1, EPT Misconfigurations");
        }
        (FailureKind::Reserved, Second::Npt(npt)) => {
            let bits = BitList(reserved(npt.host(), failure.level, failure.entry));
            format!("the {name} (level {}) for {target} sets reserved {bits}", failure.level)
        }
        (FailureKind::TooWide, _) => format!("{target} has more bits than the tables translate"),
        (FailureKind::Rights, _) => {
            let rights = if ept { rights_words(failure.rights) } else { nested_rights(failure.rights) };
            let blocking = blocking(failure, access, steps);
            format!("the entries for {target} together allow {rights}; {blocking}")
        }
        _ => format!("the {name} (level {}) for {target} stopped it", failure.level),
    };
    (rule, violation)
}

fn nested_rights(rights: u64) -> String {
    let write = if rights & pte::WRITE != 0 { "write" } else { "no write" };
    let user = if rights & pte::USER != 0 { "user" } else { "no user access" };
    let execute = if rights & pte::EXECUTE_DISABLE != 0 { "execute" } else { "no execute" };
    format!("{write}, {user}, {execute}")
}

/// Which of the entries for the last address deny it?
fn blocking(failure: &Failure, access: Access, steps: &[Step]) -> String {
    let operation = match failure.purpose {
        Purpose::Page => access.operation,
        Purpose::Table { write: true, .. } => Operation::Write,
        Purpose::Table { .. } | Purpose::PdpteLoad => Operation::Read,
    };
    let denies = |entry: u64| match (failure.dimension, operation) {
        (Dimension::Ept, Operation::Read) => entry & epte::READ == 0,
        (Dimension::Ept, Operation::Write) => entry & epte::WRITE == 0,
        (Dimension::Ept, Operation::Fetch) => entry & epte::EXECUTE == 0,
        (_, Operation::Read) => entry & pte::USER == 0,
        (_, Operation::Write) => entry & pte::WRITE == 0 || entry & pte::USER == 0,
        (_, Operation::Fetch) => entry & pte::EXECUTE_DISABLE != 0 || entry & pte::USER == 0,
    };
    let names: Vec<&str> = steps
        .iter()
        .filter(|step| step.dimension == Some(failure.dimension) && step.gpa == failure.gpa.0)
        .filter(|step| denies(step.read.value))
        .map(|step| entry_name(failure.dimension, step.level))
        .collect();
    let what = match operation {
        Operation::Read => "read",
        Operation::Write => "write",
        Operation::Fetch => "execute",
    };
    format!("{what} is denied by: {}", names.join(", "))
}
