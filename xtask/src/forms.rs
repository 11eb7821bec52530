//! Which instruction forms are modelled, which raise #UD on purpose, which are still to come? A part of `docs/coverage.md` and rows of
//! README's table, from `x86_emu::coverage`.

use iced_x86::Code;
use softvirt_machine::CpuBus;
use std::collections::{BTreeMap, BTreeSet};
use std::fmt::Write;
use x86_emu::coverage::{Status, forms, status};

/// Forms of one CPU feature, or of one combination.
#[derive(Default)]
struct Group {
    forms: usize,
    mnemonics: BTreeSet<String>,
}

/// By reason, then by CPU feature. What is modelled has the reason "".
type Groups = BTreeMap<&'static str, BTreeMap<String, Group>>;

/// Every form, sorted by where it stands.
struct Sorted {
    modelled: Groups,
    undefined: Groups,
    not_yet: Groups,
}

/// Sorts all forms.
///
/// # Errors
/// Forms of which nobody has decided.
fn sort() -> Result<Sorted, String> {
    let mut sorted = Sorted { modelled: Groups::new(), undefined: Groups::new(), not_yet: Groups::new() };
    for code in forms() {
        let (groups, reason) = match status::<CpuBus>(code) {
            Status::Modelled => (&mut sorted.modelled, ""),
            Status::UndefinedOnPurpose(reason) => (&mut sorted.undefined, reason),
            Status::NotYet(reason) => (&mut sorted.not_yet, reason),
            Status::Undecided => return Err(format!("x86_emu::coverage has not decided about {code:?}")),
        };
        let group = groups.entry(reason).or_default().entry(features(code)).or_default();
        group.forms += 1;
        group.mnemonics.insert(format!("{:?}", code.mnemonic()).to_uppercase());
    }
    Ok(sorted)
}

/// The CPU features that a form needs, as iced-x86 names them.
fn features(code: Code) -> String {
    let names: Vec<String> = code.cpuid_features().iter().map(|feature| format!("{feature:?}")).collect();
    names.join(" and ")
}

fn count(groups: &Groups) -> usize {
    groups.values().flat_map(BTreeMap::values).map(|group| group.forms).sum()
}

/// The rows of README's table.
pub(crate) fn rows() -> Result<String, String> {
    let sorted = sort()?;
    let mut out = String::new();
    let counts = [&sorted.modelled, &sorted.undefined, &sorted.not_yet].map(count);
    let _ = writeln!(out, "| instruction forms | {} |", counts.iter().sum::<usize>());
    for (words, count) in ["executed", "#UD on purpose", "not yet executed (#UD)"].iter().zip(counts) {
        let _ = writeln!(out, "| - {words} | {count} |");
    }
    Ok(out)
}

/// The chapter of `docs/coverage.md`.
pub(crate) fn chapter() -> Result<String, String> {
    let Sorted { modelled, undefined, not_yet } = sort()?;
    let [executed, on_purpose, to_come] = [&modelled, &undefined, &not_yet].map(count);
    let mut out = format!(
        "\n## Instruction forms\n\nWhat `x86-emu` executes. A form is an opcode as iced-x86 counts them: one for each operand size and each kind of operands. Of \
         {} forms {executed} are executed, {on_purpose} raise #UD on purpose, {to_come} are not executed yet and raise #UD until then. One that is \
         executed raises #UD, too, on a processor that does not announce it, where processors do so. The instructions of MPX are the NOPs that they are while \
         bound checking is off. CPU features have the names of iced-x86.\n",
        executed + on_purpose + to_come
    );
    table(&mut out, "Executed", None, &modelled);
    table(&mut out, "#UD on purpose", Some("why"), &undefined);
    table(&mut out, "Not yet", Some("belongs to"), &not_yet);
    Ok(out)
}

fn table(out: &mut String, title: &str, reason_is: Option<&str>, groups: &Groups) {
    let _ = write!(out, "\n### {title}\n\n|");
    if let Some(words) = reason_is {
        let _ = write!(out, " {words} |");
    }
    out.push_str(" CPU feature | forms | instructions |\n|---|---|---|");
    out.push_str(if reason_is.is_some() { "---|\n" } else { "\n" });
    for (reason, features) in groups {
        for (feature, group) in features {
            if reason_is.is_some() {
                let _ = write!(out, "| {reason} ");
            }
            let mnemonics = group.mnemonics.iter().map(String::as_str).collect::<Vec<_>>().join(", ");
            let _ = writeln!(out, "| {feature} | {} | {mnemonics} |", group.forms);
        }
    }
}
