//! `softvirt exits`: which VM exits are there, what causes them, and what do they record?

use super::layout::{HEAD, Table, labelled};
use super::{Answer, Failure, Format, unknown};
use serde::Serialize;
use softvirt::vmx_model::handbook::{self, Bits};
use softvirt::vmx_model::reasons::{ExitReason, ReasonRow, Records, Status};

/// What to look up.
#[derive(clap::Args)]
#[command(after_help = "\
Examples:
  softvirt exits                 every basic exit reason
  softvirt exits 48              one: cause, what is recorded, how the fields are laid out
  softvirt exits 0x80000021      a whole exit-reason field, bits 31:16 included
  softvirt exits msr             all whose name contains it
A value in words: softvirt fields exit_reason=48 exit_qualification=0x182")]
pub(crate) struct Args {
    /// A number, an exit-reason field, a name or a part of a name; everything if there is none
    #[arg(value_name = "N|FIELD|NAME|PATTERN")]
    queries: Vec<String>,
}

pub(crate) fn run(args: &Args, format: Format) -> Result<Answer, Failure> {
    let mut found: Vec<ExitReason> = Vec::new();
    for query in &args.queries {
        found.extend(look_up(query)?);
    }
    if args.queries.is_empty() {
        found.extend(all());
    }
    found.sort();
    found.dedup();
    match (format, found.as_slice()) {
        (Format::Json, _) => Answer::json(
            &found.iter().map(|&reason| row(reason).map(|row| Row::new(reason, row))).collect::<Result<Vec<_>, _>>()?,
        ),
        (Format::Text, &[reason]) => Ok(Answer::fine(detail(reason, row(reason)?))),
        (Format::Text, _) => Ok(Answer::fine(list(&found))),
    }
}

fn all() -> impl Iterator<Item = ExitReason> {
    ExitReason::TABLE.iter().map(|row| ExitReason(u32::from(row.number)))
}

fn row(reason: ExitReason) -> Result<&'static ReasonRow, Failure> {
    let last = ExitReason::TABLE.len() - 1;
    reason.row().ok_or_else(|| {
        Failure(format!("{} is no basic exit reason that softvirt knows: they go from 0 to {last}", reason.basic()))
    })
}

/// The reasons that a query means: one by its number, or all whose name contains it.
fn look_up(query: &str) -> Result<Vec<ExitReason>, Failure> {
    let lower = query.to_lowercase();
    let number = match lower.strip_prefix("0x") {
        Some(digits) => u32::from_str_radix(digits, 16).ok(),
        None => lower.parse().ok(),
    };
    if let Some(number) = number {
        row(ExitReason(number))?;
        return Ok(vec![ExitReason(number)]);
    }
    let name = |reason: &ExitReason| reason.row().map_or("", |row| row.name);
    let found: Vec<ExitReason> = all().filter(|reason| name(reason).to_lowercase().contains(&lower)).collect();
    let names = ExitReason::TABLE.iter().filter(|row| row.status != Status::Reserved).map(|row| row.name);
    if found.is_empty() { Err(unknown("exit reason", query, names)) } else { Ok(found) }
}

/// What is recorded, in the order of the VMCS's fields.
fn records(row: &ReasonRow) -> Vec<&'static str> {
    const WORDS: [(Records, &str); 7] = [
        (Records::QUALIFICATION, "exit_qualification"),
        (Records::LINEAR, "guest_linear_address"),
        (Records::PHYSICAL, "guest_physical_address"),
        (Records::EVENT, "vm_exit_interruption_info"),
        (Records::VECTORING, "idt_vectoring_info"),
        (Records::LENGTH, "vm_exit_instruction_length"),
        (Records::INFORMATION, "vm_exit_instruction_info"),
    ];
    let records = row.records().unwrap_or(Records::empty());
    WORDS.iter().filter(|(bit, _)| records.contains(*bit)).map(|(_, words)| *words).collect()
}

#[derive(Serialize)]
struct Row {
    number: u16,
    name: &'static str,
    cause: &'static str,
    source: String,
    trap_like: bool,
    /// Fields that are filled, at least in some cases.
    records: Vec<&'static str>,
    qualification: Vec<Range>,
    instruction_information: Vec<Range>,
    /// The whole field in words, with its upper bits.
    words: String,
}

#[derive(Serialize)]
struct Range {
    bits: String,
    holds: &'static str,
}

impl Row {
    fn new(reason: ExitReason, row: &ReasonRow) -> Self {
        let ranges = |rows: &[Bits]| rows.iter().map(|row| Range { bits: range(row), holds: row.holds }).collect();
        Self {
            number: row.number,
            name: row.name,
            cause: row.cause,
            source: row.status.to_string(),
            trap_like: trap_like(row),
            records: records(row),
            qualification: ranges(handbook::qualification(reason)),
            instruction_information: ranges(handbook::instruction_information(reason)),
            words: reason.to_string(),
        }
    }
}

fn trap_like(row: &ReasonRow) -> bool {
    row.records().is_some_and(|records| records.contains(Records::TRAP))
}

fn range(row: &Bits) -> String {
    if row.high == row.low { row.high.to_string() } else { format!("{}:{}", row.high, row.low) }
}

fn list(reasons: &[ExitReason]) -> String {
    let mut table = Table::new(&["N", "SOURCE", "NAME", "CAUSE"]);
    for row in reasons.iter().filter_map(|reason| reason.row()) {
        let source = match row.status {
            Status::Manual => "rev 077",
            Status::Later => "later",
            Status::NamedOnly => "named only",
            Status::Disputed => "disputed",
            Status::Reserved => "",
        };
        table.row([row.number.to_string(), source.to_owned(), row.name.to_owned(), row.cause.to_owned()]);
    }
    table.render(0)
}

fn detail(reason: ExitReason, row: &ReasonRow) -> String {
    let mut text = format!("{HEAD}{}{HEAD:#}: {}\n", row.number, row.name);
    if reason.0 != u32::from(row.number) {
        text += &labelled("field", 8, &format!("{:#x}: {reason}", reason.0));
    }
    let recorded = match (row.records(), row.status) {
        (None, Status::Reserved) => "nothing".to_owned(),
        (None, _) => "not known".to_owned(),
        (Some(_), _) if records(row).is_empty() => "the exit reason alone".to_owned(),
        (Some(_), _) => records(row).join(", "),
    };
    let cause = if row.cause.is_empty() { "no VM exit uses the number" } else { row.cause };
    for (label, words) in [("cause", cause), ("source", &row.status.to_string()), ("records", &recorded)] {
        text += &labelled(label, 8, words);
    }
    if trap_like(row) {
        text += &labelled("rip", 8, "trap-like: RIP references the next instruction");
    }
    for (title, rows) in [
        ("exit qualification", handbook::qualification(reason)),
        ("VM-exit instruction information", handbook::instruction_information(reason)),
    ] {
        if rows.is_empty() {
            continue;
        }
        let mut table = Table::new(&["BITS", "HOLDS"]);
        for row in rows {
            table.row([range(row), row.holds.to_owned()]);
        }
        text += &format!("\n{HEAD}{title}{HEAD:#}\n{}", table.render(2));
    }
    text
}
