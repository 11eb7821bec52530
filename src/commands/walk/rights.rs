//! Which entries and which register bits deny an access that has a translation?

use super::render::{Walk, nested_rights};
use super::steps::{Second, Step, Tables};
use crate::commands::tables::{entry_name, rights_words};
use softvirt::ept::entry::{epte, pte};
use softvirt::ept::{Access, Dimension, Ept, Failure, Npt, Operation, Privilege, Purpose};

/// The names of the steps that have (`set`) or lack a bit.
fn names<'a>(steps: impl IntoIterator<Item = &'a Step>, bit: u64, set: bool) -> String {
    let names: Vec<&str> = steps
        .into_iter()
        .filter(|step| (step.read.value & bit != 0) == set)
        .filter_map(|step| Some(step.tables?.entry_name(step.level)))
        .collect();
    names.join(", ")
}

/// SDM 3A 4.6.1, Determination of Access Rights, and 4.6.2, Protection Keys.
pub(super) fn guest(failure: &Failure, walk: &Walk<'_>) -> String {
    let (paging, access) = (walk.paging, walk.access);
    // After a restart of HLAT paging only the entries of ordinary paging decide. PDPTEs of PAE paging give no rights.
    let restarted = walk.steps.iter().any(|step| step.tables == Some(Tables::Guest));
    let tables = if restarted { Tables::Guest } else { Tables::Hlat };
    let pae = paging.mode() == softvirt::x86_state::PagingMode::Pae;
    let entries: Vec<&Step> =
        walk.steps.iter().filter(|step| step.tables == Some(tables) && !(pae && step.level == 3)).collect();
    let where_is = |bit: u64, set: bool| names(entries.iter().copied(), bit, set);
    let mut reasons = Vec::new();
    let user_address = failure.rights & pte::USER != 0;
    let modifiers = &paging.modifiers;
    if access.is_user() && !user_address {
        reasons.push(format!("a user-mode access, and U/S is 0 in: {}", where_is(pte::USER, false)));
    }
    if access.shadow_stack {
        reasons.extend(shadow_stack(failure, access, &entries));
    } else {
        if !access.is_user() && user_address {
            if access.is_fetch() && modifiers.smep {
                reasons.push("the supervisor fetches from a user-mode address while CR4.SMEP is 1".to_owned());
            }
            if !access.is_fetch() && modifiers.smap {
                let flag = match access.privilege {
                    Privilege::ImplicitSupervisor => "; EFLAGS.AC does not help an implicit access",
                    _ => " and EFLAGS.AC is 0",
                };
                reasons.push(format!("the supervisor accesses a user-mode address while CR4.SMAP is 1{flag}"));
            }
        }
        if access.is_write() && failure.rights & pte::WRITE == 0 && (access.is_user() || modifiers.write_protect) {
            let why = if access.is_user() { "" } else { " while CR0.WP is 1" };
            reasons.push(format!("a write{why}, and R/W is 0 in: {}", where_is(pte::WRITE, false)));
        }
        if access.is_fetch() && failure.rights & pte::EXECUTE_DISABLE == 0 {
            reasons.push(format!("an instruction fetch, and NX is 1 in: {}", where_is(pte::EXECUTE_DISABLE, true)));
        }
    }
    if paging.key_denies(failure.entry, user_address, access) {
        let (name, register) = if user_address { ("PKRU", paging.pkru) } else { ("IA32_PKRS", paging.pkrs) };
        let key = failure.entry >> 59 & 0xf;
        let (bit, what) =
            if register >> (2 * key) & 1 == 1 { (2 * key, "access-disable") } else { (2 * key + 1, "write-disable") };
        reasons.push(format!("protection key {key} denies it: {name} {register:#x} has {what} (bit {bit})"));
    }
    if reasons.is_empty() {
        reasons.push("the rights do not allow the access".to_owned());
    }
    reasons.join("; ")
}

/// A shadow-stack page has R/W 0 and the dirty flag in the entry that maps it, and R/W 1 above.
fn shadow_stack(failure: &Failure, access: Access, entries: &[&Step]) -> Vec<String> {
    let mut reasons = Vec::new();
    let leaf = failure.entry;
    if leaf & pte::WRITE != 0 {
        reasons.push(
            "a shadow-stack access, and R/W is 1 in the entry that maps the page: not a shadow-stack page".to_owned(),
        );
    } else if leaf & pte::DIRTY == 0 {
        reasons.push("a shadow-stack access, and the entry that maps the page is read-only and not dirty: not a shadow-stack page".to_owned());
    }
    let upper: Vec<&Step> = entries.split_last().map_or(Vec::new(), |(_, upper)| upper.to_vec());
    let denied = names(upper, pte::WRITE, false);
    if !denied.is_empty() {
        reasons.push(format!("a shadow-stack access, and R/W is 0 in: {denied}"));
    }
    if !access.is_user() && failure.rights & pte::USER != 0 {
        reasons.push("a supervisor shadow-stack access to a user-mode address".to_owned());
    }
    reasons
}

/// The rights of EPT or nested entries that do not allow an access to `target`.
pub(super) fn second(failure: &Failure, walk: &Walk<'_>, target: &str) -> String {
    let operation = match failure.purpose {
        Purpose::Page => walk.access.operation,
        Purpose::Table { write: true, .. } => Operation::Write,
        Purpose::Table { .. } | Purpose::PdpteLoad => Operation::Read,
    };
    // The entries for the address: those of its last translation.
    let entries: Vec<&Step> = walk
        .steps
        .iter()
        .filter(|step| step.tables.is_some_and(|tables| !tables.first_dimension()) && step.gpa == failure.gpa.0)
        .collect();
    match walk.second {
        Second::Ept(ept) => {
            let denied = ept_denied(ept, failure, walk.access, operation, &entries);
            format!("the entries for {target} together allow {}; {denied}", rights_words(ept, failure.rights))
        }
        Second::Npt(npt) => {
            let user = if failure.rights & pte::USER != 0 { "U/S 1" } else { "U/S 0" };
            let denied = npt_denied(npt, failure, walk.access, operation, &entries);
            format!("the entries for {target} together allow {}, {user}; {denied}", nested_rights(npt, failure.rights))
        }
        Second::Direct => format!("{target} may not be accessed"),
    }
}

fn ept_denied(ept: &Ept<'_>, failure: &Failure, access: Access, operation: Operation, steps: &[&Step]) -> String {
    let entries = || steps.iter().copied().filter(|step| step.tables == Some(Tables::Ept));
    let page = failure.purpose == Purpose::Page;
    if page && access.shadow_stack && !access.is_user() && ept.supervisor_shadow_stack_control() {
        return "a supervisor shadow-stack access asks for read in all, write in all above the entry that maps the page, and bit 60 in it"
            .to_owned();
    }
    let (what, bit) = match operation {
        Operation::Read => ("read", epte::READ),
        Operation::Write => ("write", epte::WRITE),
        Operation::Fetch if !ept.controls().mode_based_execute => ("execute", epte::EXECUTE),
        Operation::Fetch if failure.guest_rights & pte::USER != 0 => {
            ("execute at a user-mode address (bit 10)", epte::EXECUTE_USER)
        }
        Operation::Fetch => ("execute at a supervisor-mode address (bit 2)", epte::EXECUTE),
    };
    let mut words = format!("{what} is denied by: {}", names(entries(), bit, false));
    if steps.iter().any(|step| step.tables == Some(Tables::SubPage) && step.level == 1) {
        words += ", and by the sub-page permission vector";
    }
    if matches!(failure.purpose, Purpose::Table { write: true, .. }) && ept.controls().paging_write {
        words += "; there is no paging-write access either (bit 58 of the entry that maps the page, bit 1 above it)";
    }
    words
}

fn npt_denied(npt: &Npt, failure: &Failure, access: Access, operation: Operation, entries: &[&Step]) -> String {
    let controls = npt.controls();
    let page = failure.purpose == Purpose::Page;
    let supervisor = page && !access.is_user();
    if page && access.shadow_stack && supervisor && controls.supervisor_shadow_stack {
        return "a supervisor shadow-stack access asks for NX 1 and U/S 0 in the entry that maps the page, and R/W 1 above it".to_owned();
    }
    let mut reasons = Vec::new();
    if operation == Operation::Write && failure.rights & pte::WRITE == 0 {
        reasons.push(format!("write is denied by: {}", names(entries.iter().copied(), pte::WRITE, false)));
    }
    if operation == Operation::Fetch && failure.rights & pte::EXECUTE_DISABLE == 0 {
        reasons.push(format!("execute is denied by: {}", names(entries.iter().copied(), pte::EXECUTE_DISABLE, true)));
    }
    if controls.gmet && supervisor && operation == Operation::Fetch && failure.rights & pte::USER != 0 {
        reasons.push(
            "with the guest-mode execute trap the supervisor does not execute where U/S is 1 in all entries".to_owned(),
        );
    }
    if !controls.gmet && failure.rights & pte::USER == 0 {
        let denied = names(entries.iter().copied(), pte::USER, false);
        reasons.push(format!("every access of the guest is a user access, and U/S is 0 in: {denied}"));
    }
    if reasons.is_empty() {
        reasons.push(format!("the {} denies it", entry_name(Dimension::Npt, failure.level)));
    }
    reasons.join("; ")
}
