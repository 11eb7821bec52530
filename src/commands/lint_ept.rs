//! `softvirt lint-ept`: what is wrong in all of an EPT?

mod findings;
mod tree;

use super::image::{Image, Source, address};
use super::layout::{HEAD, Table, beside};
use super::tables::{ept, ept_support, ept_words};
use super::{Answer, Failure, Format, cpu};
use findings::{Finding, Findings, Kind};
use indicatif::{ProgressBar, ProgressDrawTarget, ProgressStyle};
use serde::Serialize;
use softvirt::ept::{Ept, EptControls};
use std::fmt::Write;
use std::io::IsTerminal;
use tree::{Tally, Tree};

/// What to look through.
#[derive(clap::Args)]
#[command(after_help = "\
Examples:
  softvirt lint-ept --mem host.elf --eptp 0x10001e
  softvirt lint-ept --mem host.raw --base 0x100000 --eptp 0x10001e --cpu skylake-sp --format json

misconfigured             an entry has a value that is not supported: an access is EPT misconfiguration (exit reason 49)
unreachable               what an entry permits or points to is denied by the entries above, or only an entry that is
                          not present leads to a table
writable-and-executable   the guest can write code there
aliased                   the same host-physical memory, or the same table, is at another guest-physical address too
loop                      a table is its own ancestor
outside-image             a table is not in the file

Exit codes: 0 nothing is found; 1 something is, or the limit left tables unread; 2 the input cannot be read.")]
pub(crate) struct Args {
    #[command(flatten)]
    source: Source,
    /// The EPT pointer (hexadecimal). Only an address means 4 levels
    #[arg(long, value_name = "X", value_parser = address)]
    eptp: u64,
    /// The processor, which decides about reserved bits: a name that `softvirt cpu` lists [default: 52 address bits, every page size]
    #[arg(long, value_name = "NAME")]
    cpu: Option<String>,
    /// Mode-based execute control: bit 2 is for supervisor-mode addresses, bit 10 for user-mode ones
    #[arg(long)]
    mbec: bool,
    /// EPT paging-write control: bit 58 needs bit 0
    #[arg(long)]
    paging_write: bool,
    /// How many tables to read at most (the default maps 512 GiB in 4-KByte pages, and takes some ten seconds)
    #[arg(long, value_name = "TABLES", default_value_t = 1 << 18)]
    limit: u64,
}

pub(crate) fn run(args: &Args, format: Format) -> Result<Answer, Failure> {
    let profile = args.cpu.as_deref().map(cpu::find).transpose()?;
    let controls =
        EptControls { mode_based_execute: args.mbec, paging_write: args.paging_write, ..EptControls::default() };
    let ept = ept(args.eptp, controls, &ept_support(profile))?;
    let image = Image::open(&args.source)?;
    let progress = progress_bar();
    let (findings, tally) = Tree::new(&image, &ept, args.limit, &progress).lint();
    progress.finish_and_clear();
    image.finish()?;
    let report = Report::new(&image, &ept, args.limit, &findings, &tally);
    let answer = match format {
        Format::Json => Answer::json(&report)?,
        Format::Text => Answer::fine(text(&report, &findings)),
    };
    Ok(Answer { found: !findings.is_empty() || tally.beyond_limit > 0, ..answer })
}

/// A bar on standard error, if that is a terminal.
fn progress_bar() -> ProgressBar {
    if !std::io::stderr().is_terminal() {
        return ProgressBar::hidden();
    }
    let bar = ProgressBar::with_draw_target(Some(0), ProgressDrawTarget::stderr());
    match ProgressStyle::with_template("{bar:40} {pos}/{len} {msg}") {
        Ok(style) => bar.with_style(style),
        Err(_) => bar,
    }
}

#[derive(Serialize)]
struct Report {
    memory: String,
    ept: String,
    tables: u64,
    pages: u64,
    /// Everything was read: the limit left nothing out.
    complete: bool,
    /// What limits the answer.
    notes: Vec<String>,
    findings: Vec<Row>,
}

#[derive(Serialize)]
struct Row {
    kind: Kind,
    guest_physical: String,
    last: String,
    bytes: u64,
    entries: u64,
    why: String,
    entry_at: Option<String>,
    entry: Option<String>,
}

impl Row {
    fn new(finding: &Finding) -> Self {
        Self {
            kind: finding.kind,
            guest_physical: format!("{:#x}", finding.start),
            last: format!("{:#x}", finding.end - 1),
            bytes: finding.end - finding.start,
            entries: finding.entries,
            why: finding.why.clone(),
            entry_at: finding.first.map(|(at, _)| format!("{at:#x}")),
            entry: finding.first.map(|(_, entry)| format!("{entry:#018x}")),
        }
    }
}

impl Report {
    fn new(image: &Image, ept: &Ept<'_>, limit: u64, findings: &Findings, tally: &Tally) -> Self {
        let mut notes = Vec::new();
        if tally.beyond_limit > 0 {
            notes.push(format!(
                "STOPPED at the limit of {limit} tables: {} entries lead to tables that were not read. To go on: --limit {}",
                tally.beyond_limit,
                limit.saturating_mul(4)
            ));
        }
        if tally.shared > 0 {
            notes.push("what a table holds that several ranges share is listed once, at the first range".to_owned());
        }
        if tally.runs_dropped > 0 {
            notes.push(format!("{} ranges were not compared in the search for aliases: too many", tally.runs_dropped));
        }
        if tally.suspects_dropped > 0 {
            notes.push(format!("{} entries that are not present were not followed: too many", tally.suspects_dropped));
        }
        for kind in Kind::ALL {
            let (_, dropped) = findings.count(kind);
            if dropped > 0 {
                notes.push(format!("{}: {dropped} more ranges are not listed", kind.words()));
            }
        }
        Self {
            memory: image.words(),
            ept: ept_words(ept),
            tables: tally.tables,
            complete: tally.beyond_limit == 0,
            pages: tally.pages,
            notes,
            findings: findings.all().map(Row::new).collect(),
        }
    }
}

fn text(report: &Report, findings: &Findings) -> String {
    let mut text =
        format!("{HEAD}{}{HEAD:#}: {} tables, {} pages\n{}\n", report.ept, report.tables, report.pages, report.memory);
    if !report.findings.is_empty() {
        let mut table = Table::new(&["KIND", "GUEST-PHYSICAL", "ENTRIES", "FIRST ENTRY", "WHY"]);
        for row in &report.findings {
            let first = match (&row.entry_at, &row.entry) {
                (Some(at), Some(entry)) => format!("{at} = {entry}"),
                _ => "-".to_owned(),
            };
            table.row([
                row.kind.words().to_owned(),
                format!("{}-{}", row.guest_physical, row.last),
                row.entries.to_string(),
                first,
                row.why.clone(),
            ]);
        }
        let _ = write!(text, "\n{}", table.render(0));
    }
    text.push('\n');
    let counts: Vec<String> = Kind::ALL
        .into_iter()
        .map(|kind| (findings.count(kind).0, kind.words()))
        .filter(|(count, _)| *count > 0)
        .map(|(count, words)| format!("{count} {words}"))
        .collect();
    text += &beside(
        "",
        &match (counts.is_empty(), report.complete) {
            (true, true) => "Nothing is found.".to_owned(),
            (true, false) => "Nothing is found in what was read.".to_owned(),
            (false, _) => format!("Ranges: {}.", counts.join(", ")),
        },
    );
    for note in &report.notes {
        text += &beside("note: ", note);
    }
    text
}
