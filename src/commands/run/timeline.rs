//! What has happened, in the order in which it happened? Entries, exits and events as lines for people and as JSON lines.

use super::failures::Failures;
use serde::Serialize;
use softvirt::machine::{CpuBus, Watch};
use softvirt::vmx_model::Exit;
use softvirt::vmx_model::describe;
use softvirt::vmx_model::interruption::Interruption;
use softvirt::vmx_model::reasons::ExitReason;
use softvirt::vmx_model::{EntryInstruction, Field};
use softvirt::x86_emu::{Attempt, Insn, State, VmEntry};
use softvirt::x86_state::{CpuProfile, Event};
use std::io::Write;

/// What a trace has.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, clap::ValueEnum)]
pub(crate) enum Level {
    /// VM entries, VM exits, and events delivered to a guest
    Exits,
    /// Each instruction, too
    Insns,
}

/// One thing that happened. Addresses and values are hexadecimal text, as every tool reads them.
#[derive(Debug, Serialize)]
#[serde(rename_all = "kebab-case", tag = "what")]
enum Happening<'a> {
    Instruction {
        rip: Hex,
        level: u8,
        text: &'a str,
    },
    Event {
        level: u8,
        vector: u8,
        event: String,
        rip: Hex,
    },
    Enter {
        instruction: &'a str,
        rip: Hex,
        #[serde(skip_serializing_if = "Option::is_none")]
        injects: Option<String>,
    },
    FailedEntry {
        instruction: &'a str,
        rip: Hex,
        answer: String,
        rules: &'a [&'static str],
    },
    Exit {
        reason: u32,
        name: String,
        qualification: Hex,
        rip: Hex,
        length: u64,
        information: String,
    },
}

/// A line of the trace.
#[derive(Debug, Serialize)]
struct Line<'a> {
    tsc: u64,
    cpu: usize,
    #[serde(flatten)]
    entry: Happening<'a>,
}

#[derive(Debug)]
struct Hex(u64);

impl Serialize for Hex {
    fn serialize<S: serde::Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_str(&format_args!("{:#x}", self.0))
    }
}

/// Where lines go.
pub(crate) struct Sinks<'a> {
    /// Lines for people.
    pub(crate) text: Option<Box<dyn Write + 'a>>,
    /// JSON lines.
    pub(crate) json: Option<Box<dyn Write + 'a>>,
    /// What the guest prints.
    pub(crate) serial: Option<Box<dyn Write + 'a>>,
}

/// Looks on while a machine runs.
pub(crate) struct Timeline<'a> {
    profile: &'a CpuProfile,
    level: Option<Level>,
    sinks: Sinks<'a>,
    /// Is the last serial line still open?
    open_line: bool,
    /// The failed entries.
    pub(crate) failures: Failures,
    /// The serial output, as far as it is kept.
    pub(crate) serial: Vec<u8>,
    /// The first error of a sink.
    pub(crate) error: Option<std::io::Error>,
}

/// How much of the serial output is kept for a JSON report.
const KEPT_SERIAL_BYTES: usize = 1 << 20;

impl<'a> Timeline<'a> {
    pub(crate) fn new(profile: &'a CpuProfile, level: Option<Level>, sinks: Sinks<'a>, explained: usize) -> Self {
        let failures = Failures::explaining(explained);
        Self { profile, level, sinks, open_line: false, failures, serial: Vec::new(), error: None }
    }

    fn line(&mut self, tsc: u64, cpu: usize, entry: Happening<'_>) {
        let line = Line { tsc, cpu, entry };
        if self.sinks.json.is_some() {
            let text = serde_json::to_string(&line).unwrap_or_default() + "\n";
            self.write_json(&text);
        }
        if self.sinks.text.is_some() {
            let text = text(&line);
            self.close_line();
            write_to(&mut self.sinks.text, text.as_bytes(), &mut self.error);
        }
    }

    fn write_json(&mut self, text: &str) {
        write_to(&mut self.sinks.json, text.as_bytes(), &mut self.error);
    }

    /// A line of the trace does not go on where the guest has left the serial line.
    fn close_line(&mut self) {
        if std::mem::take(&mut self.open_line) && self.sinks.serial.is_some() {
            write_to(&mut self.sinks.serial, b"\n", &mut self.error);
        }
    }

    /// Nothing more will come.
    pub(crate) fn finish(&mut self) {
        self.close_line();
        for sink in [&mut self.sinks.text, &mut self.sinks.json, &mut self.sinks.serial].into_iter().flatten() {
            if let Err(error) = sink.flush() {
                self.error.get_or_insert(error);
            }
        }
    }
}

fn write_to(sink: &mut Option<Box<dyn Write + '_>>, bytes: &[u8], first_error: &mut Option<std::io::Error>) {
    let Some(out) = sink else { return };
    if let Err(error) = out.write_all(bytes) {
        first_error.get_or_insert(error);
        // Who reads has gone; the run goes on.
        *sink = None;
    }
}

fn instruction(attempt: &Attempt) -> &'static str {
    match attempt.instruction {
        EntryInstruction::Vmlaunch => "VMLAUNCH",
        EntryInstruction::Vmresume => "VMRESUME",
    }
}

/// An event in words, as an information field has it.
fn event_words(event: &Event) -> String {
    Interruption::exit(event.info().0).to_string()
}

/// 1 in the hypervisor, 2 in its guest.
fn level_of(state: &State) -> u8 {
    1 + u8::from(state.vmx.in_guest())
}

/// Looks on at each instruction as well: what [`Level::Insns`] asks for.
pub(crate) struct Instructions<'a, 'b>(pub(crate) &'b mut Timeline<'a>);

impl Watch for Instructions<'_, '_> {
    fn instruction(&mut self, cpu: usize, state: &State, insn: &Insn<CpuBus>) {
        let text = insn.code.op_code().instruction_string();
        let entry = Happening::Instruction { rip: Hex(state.cpu.rip), level: level_of(state), text };
        self.0.line(state.tsc, cpu, entry);
    }

    fn delivered(&mut self, cpu: usize, state: &State, event: &Event) {
        self.0.delivered(cpu, state, event);
    }

    fn exited(&mut self, cpu: usize, state: &State, exit: &Exit) {
        self.0.exited(cpu, state, exit);
    }

    fn entered(&mut self, cpu: usize, state: &State, bus: &CpuBus, attempt: &Attempt, entry: &VmEntry) {
        self.0.entered(cpu, state, bus, attempt, entry);
    }

    fn serial(&mut self, byte: u8) {
        self.0.serial(byte);
    }
}

impl Watch for Timeline<'_> {
    const INSTRUCTIONS: bool = false;

    fn delivered(&mut self, cpu: usize, state: &State, event: &Event) {
        if self.level.is_some() && (state.vmx.in_guest() || self.level == Some(Level::Insns)) {
            let entry = Happening::Event {
                level: level_of(state),
                vector: event.vector,
                event: event_words(event),
                rip: Hex(state.cpu.rip),
            };
            self.line(state.tsc, cpu, entry);
        }
    }

    fn exited(&mut self, cpu: usize, state: &State, exit: &Exit) {
        if self.level.is_none() {
            return;
        }
        let vmcs = &state.vmx.vmcs;
        let reason = exit.reason.0;
        let name = exit.reason.row().map_or("unknown", |row| row.name).to_owned();
        let information = vmcs.get(Field::VM_EXIT_INTERRUPTION_INFO) as u32;
        let mut words = describe::field(Field::EXIT_QUALIFICATION, exit.qualification)
            .with_exit_reason(reason)
            .with_exit_interruption(information)
            .to_string();
        // What `describe` says of a 0 without a meaning.
        if words.starts_with("0: nothing to tell") {
            words.clear();
        }
        if let Some(event) = exit.event {
            words = format!("{}{}{words}", event_words(&event), if words.is_empty() { "" } else { "; " });
        }
        let entry = Happening::Exit {
            reason,
            name,
            qualification: Hex(exit.qualification),
            rip: Hex(vmcs.get(Field::GUEST_RIP)),
            length: exit.instruction_len_bytes.map_or(0, u64::from),
            information: words,
        };
        self.line(state.tsc, cpu, entry);
    }

    fn entered(&mut self, cpu: usize, state: &State, bus: &CpuBus, attempt: &Attempt, entry: &VmEntry) {
        let failed = self.failures.note(cpu, self.profile, state, bus, attempt, entry);
        if self.level.is_none() {
            return;
        }
        match (failed, entry) {
            (Some((answer, rules)), _) => {
                let rip = Hex(attempt.cpu.rip);
                let entry = Happening::FailedEntry {
                    instruction: instruction(attempt),
                    rip,
                    answer: answer.to_string(),
                    rules: &rules,
                };
                self.line(state.tsc, cpu, entry);
            }
            (None, VmEntry::Entered(injection)) => {
                let injects = injection.map(|injection| event_words(&injection.event));
                let entry = Happening::Enter { instruction: instruction(attempt), rip: Hex(state.cpu.rip), injects };
                self.line(state.tsc, cpu, entry);
            }
            (None, _) => {}
        }
    }

    fn serial(&mut self, byte: u8) {
        if self.serial.len() < KEPT_SERIAL_BYTES {
            self.serial.push(byte);
        }
        // Terminals need no carriage return; files are better without.
        if byte != b'\r' {
            self.open_line = byte != b'\n';
            write_to(&mut self.sinks.serial, &[byte], &mut self.error);
        }
    }
}

/// A line for people.
fn text(line: &Line<'_>) -> String {
    use anstyle::AnsiColor;
    const DIM: anstyle::Style = anstyle::Style::new().dimmed();
    const OUT: anstyle::Style = AnsiColor::Cyan.on_default();
    const IN: anstyle::Style = AnsiColor::Green.on_default();
    const BAD: anstyle::Style = AnsiColor::Red.on_default().bold();
    let head = format!("{DIM}{:>12} cpu {}{DIM:#}", line.tsc, line.cpu);
    match &line.entry {
        Happening::Instruction { rip, level, text } => format!("{head}  L{level}        {:#018x}  {text}\n", rip.0),
        Happening::Event { level, event, rip, .. } => {
            format!("{head}  L{level}        delivered: {event}; handler at {:#x}\n", rip.0)
        }
        Happening::Enter { instruction, rip, injects } => {
            let injects = injects.as_ref().map_or(String::new(), |event| format!("; injects {event}"));
            format!("{head}  {IN}L1 -> L2{IN:#}  {instruction} to {:#x}{injects}\n", rip.0)
        }
        Happening::FailedEntry { instruction, rip, answer, rules } => {
            format!("{head}  {BAD}L1{BAD:#}        {instruction} at {:#x}: {answer}: {}\n", rip.0, rules.join(", "))
        }
        Happening::Exit { reason, rip, information, .. } => {
            let information = if information.is_empty() { String::new() } else { format!("; {information}") };
            format!("{head}  {OUT}L2 -> L1{OUT:#}  exit {} at {:#x}{information}\n", ExitReason(*reason), rip.0)
        }
    }
}
