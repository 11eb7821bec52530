//! What has become of the groups? A table, JSON, Markdown.

use super::output::Output;
use crate::commands::Failure;
use crate::commands::layout::{HEAD, Table};
use anstyle::{AnsiColor, Style};
use serde::Serialize;
use std::collections::BTreeMap;
use std::fmt::Write;
use std::path::Path;

/// What has become of one group.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize)]
#[serde(rename_all = "lowercase")]
pub(super) enum Outcome {
    Pass,
    Skip,
    Fail,
    Hang,
    Abort,
}

impl Outcome {
    const ALL: [Self; 5] = [Self::Pass, Self::Skip, Self::Fail, Self::Hang, Self::Abort];

    const fn name(self) -> &'static str {
        match self {
            Self::Pass => "pass",
            Self::Skip => "skip",
            Self::Fail => "fail",
            Self::Hang => "hang",
            Self::Abort => "abort",
        }
    }

    const fn style(self) -> Style {
        match self {
            Self::Pass => AnsiColor::Green.on_default(),
            Self::Skip => AnsiColor::Yellow.on_default(),
            Self::Fail | Self::Hang | Self::Abort => AnsiColor::Red.on_default().bold(),
        }
    }
}

/// One group's run.
#[derive(Clone, Debug, Serialize)]
pub(super) struct GroupResult {
    pub(super) name: String,
    pub(super) outcome: Outcome,
    /// How the machine stopped.
    pub(super) ended: String,
    pub(super) instructions: u64,
    pub(super) seconds: f64,
    /// What of the configuration could not be applied.
    pub(super) notes: Vec<String>,
    pub(super) output: Output,
}

impl GroupResult {
    /// In a line.
    pub(super) fn line(&self) -> String {
        let Output { passed, failed, skipped, .. } = &self.output;
        let outcome = self.outcome.name();
        let name = &self.name;
        format!(
            "{outcome:5} {name}: {passed} passed, {failed} failed, {skipped} skipped, {:.1} s; {}",
            self.seconds, self.ended
        )
    }
}

/// Why groups do not pass, as a file says.
#[derive(Default)]
pub(super) struct Notes(BTreeMap<String, String>);

impl Notes {
    pub(super) fn read(path: &Path) -> Result<Self, Failure> {
        let failed = |error: &dyn std::fmt::Display| Failure(format!("{}: {error}", path.display()));
        let text = std::fs::read_to_string(path).map_err(|error| failed(&error))?;
        toml::from_str(&text).map(Self).map_err(|error| failed(&error))
    }
}

/// All results.
#[derive(Serialize)]
pub(super) struct Report {
    counts: BTreeMap<&'static str, usize>,
    groups: Vec<Row>,
}

#[derive(Serialize)]
struct Row {
    #[serde(flatten)]
    result: GroupResult,
    #[serde(skip_serializing_if = "Option::is_none")]
    why: Option<String>,
}

impl Report {
    pub(super) fn new(results: Vec<GroupResult>, notes: &Notes) -> Self {
        let mut counts = BTreeMap::new();
        for outcome in Outcome::ALL {
            counts.insert(outcome.name(), results.iter().filter(|result| result.outcome == outcome).count());
        }
        let why = |result: &GroupResult| (result.outcome != Outcome::Pass).then(|| notes.0.get(&result.name).cloned());
        let groups = results.into_iter().map(|result| Row { why: why(&result).flatten(), result }).collect();
        Self { counts, groups }
    }

    pub(super) fn found_something(&self) -> bool {
        self.groups.iter().any(|row| row.result.outcome > Outcome::Skip)
    }

    pub(super) fn text(&self, show: bool) -> String {
        let mut table = Table::new(&["group", "", "passed", "failed", "skipped", "time", "M insns"]);
        for Row { result, .. } in &self.groups {
            let style = result.outcome.style();
            table.row([
                result.name.clone(),
                format!("{style}{}{style:#}", result.outcome.name()),
                result.output.passed.to_string(),
                result.output.failed.to_string(),
                result.output.skipped.to_string(),
                format!("{:.1} s", result.seconds),
                (result.instructions / 1_000_000).to_string(),
            ]);
        }
        let mut out = table.render(0);
        for Row { result, why } in self.groups.iter().filter(|row| row.result.outcome > Outcome::Skip) {
            if !show && why.is_none() {
                continue;
            }
            let _ = writeln!(out, "\n{HEAD}{}{HEAD:#}: {}", result.name, result.ended);
            if let Some(why) = why {
                let _ = writeln!(out, "  {why}");
            }
            if show {
                for line in &result.output.failures {
                    let _ = writeln!(out, "  {line}");
                }
                if result.outcome > Outcome::Fail {
                    let _ = writeln!(out, "  the last lines:");
                    for line in &result.output.last_lines {
                        let _ = writeln!(out, "    {line}");
                    }
                }
            }
        }
        let _ = writeln!(out, "\n{}", self.summary());
        out
    }

    fn summary(&self) -> String {
        let counts: Vec<String> =
            Outcome::ALL.iter().map(|outcome| format!("{} {}", self.counts[outcome.name()], outcome.name())).collect();
        format!("{} groups: {}", self.groups.len(), counts.join(", "))
    }

    /// The table of docs/conformance.md.
    pub(super) fn markdown(&self) -> String {
        let mut out = format!(
            "{}.\n\n| group | result | passed | failed | skipped | why |\n|---|---|---|---|---|---|\n",
            self.summary()
        );
        for Row { result, why } in &self.groups {
            let why = match (why, result.outcome) {
                (Some(why), _) => why.clone(),
                (None, Outcome::Pass) => String::new(),
                (None, Outcome::Skip) => result
                    .output
                    .skips
                    .first()
                    .map_or_else(String::new, |line| line.trim_start_matches("SKIP: ").to_owned()),
                (None, _) => format!("not explained: {}", result.ended),
            };
            let Output { passed, failed, skipped, .. } = &result.output;
            let _ = writeln!(
                out,
                "| {} | {} | {passed} | {failed} | {skipped} | {} |",
                result.name,
                result.outcome.name(),
                why.replace('|', "\\|")
            );
        }
        out
    }
}
