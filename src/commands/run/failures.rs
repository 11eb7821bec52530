//! Which VM entries have failed, and why? The same failure again is counted, not told again.

use serde::Serialize;
use softvirt::dump::{Happened, VmInstruction};
use softvirt::explain::{Report, broken_rules, explain_entry, render_entry};
use softvirt::vmx_model::rules::RuleId;
use softvirt::vmx_model::{EntryInstruction, Field, KnownEntry};
use softvirt::x86_emu::{Attempt, State, VmEntry};
use softvirt::x86_state::{CpuProfile, PhysMemory};
use std::collections::BTreeMap;

/// How many different failures are kept.
const KINDS: usize = 1000;

/// What the processor answered to VMLAUNCH or VMRESUME.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize)]
#[serde(rename_all = "kebab-case")]
pub(crate) enum Answer {
    /// VMfailInvalid.
    FailInvalid,
    /// VMfailValid with this VM-instruction error.
    FailValid(u32),
    /// A failed entry with this exit reason.
    ExitReason(u32),
}

/// One kind of failure: the same answer and the same broken rules.
#[derive(Debug, Serialize)]
pub(crate) struct Kind {
    /// The answer of the processor.
    pub(crate) answer: Answer,
    /// The identifiers of the broken rules.
    pub(crate) rules: Vec<&'static str>,
    /// How often.
    pub(crate) count: u64,
    /// The processor on which it was first met.
    pub(crate) cpu: usize,
    /// Where VMLAUNCH or VMRESUME was, there.
    pub(crate) rip: u64,
    /// When: the time-stamp counter.
    pub(crate) tsc: u64,
    /// The explanation, of the first ones.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(crate) report: Option<Report>,
}

/// All failed entries of a run.
#[derive(Default)]
pub(crate) struct Failures {
    kinds: BTreeMap<(Answer, Vec<RuleId>), Kind>,
    /// How many are explained in full.
    explained: usize,
    /// Entries that failed, counted.
    pub(crate) total: u64,
}

impl Failures {
    /// Explains up to this many kinds in full.
    pub(crate) fn explaining(explained: usize) -> Self {
        Self { explained, ..Self::default() }
    }

    /// Takes note of an entry, if it failed; gives the rules that it broke.
    pub(crate) fn note<M: PhysMemory>(
        &mut self,
        number: usize,
        profile: &CpuProfile,
        state: &State,
        memory: &M,
        attempt: &Attempt,
        entry: &VmEntry,
    ) -> Option<(Answer, Vec<&'static str>)> {
        let (answer, qualification) = match entry {
            VmEntry::Refused(None) => (Answer::FailInvalid, None),
            VmEntry::Refused(Some(error)) => (Answer::FailValid(error.0), None),
            VmEntry::Failed(_) => {
                let vmcs = &state.vmx.vmcs;
                (Answer::ExitReason(vmcs.get(Field::EXIT_REASON) as u32), Some(vmcs.get(Field::EXIT_QUALIFICATION)))
            }
            VmEntry::Entered(_) | VmEntry::NotModelled => return None,
        };
        self.total += 1;
        // A failed entry changes neither the launch state nor the pointers.
        let tried = KnownEntry {
            instruction: attempt.instruction,
            vmcs: &state.vmx.vmcs,
            executive: &state.vmx.vmcs,
            cpu: &attempt.cpu,
            vmx: state.vmx.state,
            memory,
            profile,
        };
        let rules = broken_rules(&tried);
        let names: Vec<&'static str> = rules.iter().map(|rule| rule.row().id).collect();
        let known = self.kinds.len();
        let explains = known < self.explained;
        let key = (answer, rules);
        if let Some(kind) = self.kinds.get_mut(&key) {
            kind.count += 1;
        } else if known < KINDS {
            let report = explains.then(|| explain_entry(&tried, happened(answer, attempt.instruction, qualification)));
            let kind = Kind {
                answer,
                rules: names.clone(),
                count: 1,
                cpu: number,
                rip: attempt.cpu.rip,
                tsc: state.tsc,
                report,
            };
            self.kinds.insert(key, kind);
        }
        Some((answer, names))
    }

    /// The kinds, in the order in which they were first met.
    pub(crate) fn kinds(&self) -> Vec<&Kind> {
        let mut kinds: Vec<&Kind> = self.kinds.values().collect();
        kinds.sort_by_key(|kind| (kind.tsc, kind.cpu));
        kinds
    }

    /// The explanations as text.
    pub(crate) fn text(&self) -> String {
        let mut out = String::new();
        let mut untold = 0;
        for kind in self.kinds() {
            let Some(report) = &kind.report else {
                untold += 1;
                continue;
            };
            let times = if kind.count == 1 { String::new() } else { format!(" ({} times)", kind.count) };
            let head = format!("VM entry at {:#x} on processor {}{times}: {}.", kind.rip, kind.cpu, kind.answer);
            out += "\n";
            out += &render_entry(report, &head);
        }
        if untold > 0 {
            out += &format!(
                "\n{untold} more kinds of failed VM entries; --explain N tells of N of them, --format json names the rules of all.\n"
            );
        }
        out
    }
}

fn happened(answer: Answer, instruction: EntryInstruction, qualification: Option<u64>) -> Happened {
    let instruction = Some(match instruction {
        EntryInstruction::Vmlaunch => VmInstruction::Vmlaunch,
        EntryInstruction::Vmresume => VmInstruction::Vmresume,
    });
    match answer {
        Answer::FailInvalid => Happened::NoReason,
        Answer::FailValid(number) => Happened::VmInstructionError { instruction, number },
        Answer::ExitReason(reason) => Happened::EntryFailed { reason, qualification },
    }
}

impl std::fmt::Display for Answer {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        use softvirt::vmx_model::errors::InstructionError;
        use softvirt::vmx_model::reasons::ExitReason;
        match *self {
            Self::FailInvalid => write!(f, "VMfailInvalid"),
            Self::FailValid(number) => write!(f, "VM-instruction error {}", InstructionError(number)),
            Self::ExitReason(reason) => write!(f, "exit reason {}", ExitReason(reason)),
        }
    }
}
