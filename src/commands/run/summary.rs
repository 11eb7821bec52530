//! What is to be said when a run has ended? How it ended, what was counted, and why entries failed.

use super::ending;
use super::failures::Kind;
use super::timeline::Timeline;
use crate::commands::layout::{HEAD, Table};
use serde::Serialize;
use softvirt::machine::{Ended, Machine};
use std::collections::BTreeMap;
use std::fmt::Write;

/// The end of a run.
#[derive(Serialize)]
pub(super) struct Summary {
    image: String,
    ended: String,
    exit_status: u8,
    #[serde(skip_serializing_if = "Option::is_none")]
    debug_exit: Option<u32>,
    #[serde(skip_serializing_if = "Vec::is_empty")]
    positions: Vec<String>,
    instructions: u64,
    instructions_per_second: u64,
    seconds: f64,
    vm_entries: u64,
    failed_vm_entries: u64,
    /// Exits by name.
    vm_exits: BTreeMap<String, u64>,
    #[serde(skip)]
    exits_in_order: Vec<(String, u64)>,
    page_walks: u64,
    page_faults: u64,
    interrupts: u64,
    exceptions: u64,
    failures: Vec<serde_json::Value>,
    #[serde(skip)]
    explanations: String,
    serial: String,
}

impl Summary {
    pub(super) fn new(image: &str, machine: &Machine, ended: &Ended, seconds: f64, timeline: Timeline<'_>) -> Self {
        let counters = machine.counters();
        let instructions = counters.cpus.iter().map(|cpu| cpu.instructions).sum();
        let exits: Vec<(String, u64)> =
            counters.exits.iter().map(|(reason, &count)| (reason.to_string(), count)).collect();
        Self {
            image: image.to_owned(),
            ended: ending::words(ended),
            exit_status: ending::status(ended),
            debug_exit: match ended {
                Ended::DebugExit(value) => Some(*value),
                _ => None,
            },
            positions: if ending::is_stuck(ended) { ending::positions(machine) } else { Vec::new() },
            instructions,
            instructions_per_second: if seconds > 0.0 { (instructions as f64 / seconds) as u64 } else { 0 },
            seconds,
            vm_entries: counters.entries,
            failed_vm_entries: timeline.failures.total,
            vm_exits: exits.iter().cloned().collect(),
            exits_in_order: exits,
            page_walks: machine.page_walks(),
            page_faults: counters.page_faults,
            interrupts: counters.interrupts,
            exceptions: counters.exceptions,
            failures: timeline.failures.kinds().iter().map(|kind: &&Kind| serde_json::json!(kind)).collect(),
            explanations: timeline.failures.text(),
            serial: String::from_utf8_lossy(&timeline.serial).into_owned(),
        }
    }

    pub(super) fn text(&self) -> String {
        let mut out = String::new();
        let _ = writeln!(out, "\n{HEAD}{}{HEAD:#}: {}", self.image, self.ended);
        for line in &self.positions {
            let _ = writeln!(out, "  {line}");
        }
        let _ = writeln!(
            out,
            "{} instructions in {:.2} s ({:.1} million a second); {} page walks, {} page faults, {} other exceptions, {} interrupts",
            self.instructions,
            self.seconds,
            self.instructions_per_second as f64 / 1e6,
            self.page_walks,
            self.page_faults,
            self.exceptions,
            self.interrupts
        );
        if self.vm_entries + self.failed_vm_entries != 0 {
            let total: u64 = self.vm_exits.values().sum();
            let _ = writeln!(
                out,
                "{} VM entries, {} failed ones, {total} VM exits from L2 to L1{}",
                self.vm_entries,
                self.failed_vm_entries,
                if total == 0 { "" } else { ":" }
            );
            if total != 0 {
                let mut table = Table::new(&["count", "exit reason"]);
                for (name, count) in &self.exits_in_order {
                    table.row([format!("{count:>9}"), name.clone()]);
                }
                out += &table.render(2);
            }
        }
        out += &self.explanations;
        out
    }
}
