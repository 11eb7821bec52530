//! Runs guests in a machine, and keeps what they print and which exits the model takes.

use softvirt::vmx_model::Field;
use softvirt::vmx_model::exit::Exit;
use softvirt::vmx_model::reasons::ExitReason;
use softvirt::x86_state::CpuProfile;
use softvirt_guests::report::FIELDS;
use softvirt_machine::{Config, CpuBus, Ended, Machine, Watch};
use std::fmt::Write;
use x86_emu::{Attempt, State, VmEntry};

/// Enough for every guest: they end at 0x22_0000.
pub const RAM_BYTES: u64 = 4 << 20;
/// More than any guest needs.
const MOST_INSTRUCTIONS: u64 = 2_000_000;

/// What a run has come to.
#[derive(Debug, PartialEq, Eq)]
pub struct Run {
    /// Why the machine stopped: with isa-debug-exit, if all is well.
    pub ended: Ended,
    /// What was printed.
    pub serial: String,
    /// VM exits and late entry failures of all processors, as the model took them: lines like those of [`softvirt_guests::report`].
    pub trace: String,
}

/// Writes the lines that L1 should print, from what the model says.
#[derive(Default)]
struct Trace(String);

impl Watch for Trace {
    fn exited(&mut self, _: usize, state: &State, exit: &Exit) {
        self.0.push_str(&line(state, exit));
    }

    fn entered(&mut self, _: usize, state: &State, _: &CpuBus, _: &Attempt, entry: &VmEntry) {
        if let VmEntry::Failed(_) = entry {
            let field = |field| state.vmx.vmcs.get(field);
            let reason = ExitReason(field(Field::EXIT_REASON) as u32);
            let qualification = field(Field::EXIT_QUALIFICATION);
            let _ = writeln!(self.0, "failed {} qualification {qualification:x}", reason.basic());
        }
    }
}

fn line(state: &State, exit: &Exit) -> String {
    let mut line = format!("exit {} at {:x}", exit.reason.basic(), state.vmx.vmcs.get(Field::GUEST_RIP));
    let values = [
        exit.qualification,
        exit.linear.map_or(0, |linear| linear.0),
        exit.physical.map_or(0, |physical| physical.0),
        state.vmx.vmcs.get(Field::VM_EXIT_INTERRUPTION_INFO),
        exit.event.and_then(|event| event.error_code).unwrap_or(0).into(),
        state.vmx.vmcs.get(Field::IDT_VECTORING_INFO),
        exit.delivering.and_then(|event| event.error_code).unwrap_or(0).into(),
        exit.instruction_len_bytes.unwrap_or(0).into(),
        exit.instruction_information.unwrap_or(0).into(),
    ];
    for ((name, _), value) in FIELDS.iter().zip(values) {
        if value != 0 {
            let _ = write!(line, " {name} {value:x}");
        }
    }
    line.push('\n');
    line
}

/// Runs an image to its end on so many processors of this kind.
pub fn run_as(profile: &CpuProfile, cpus: u8, image: &[u8]) -> Run {
    run_in(&Config { profile, cpus, memory_bytes: RAM_BYTES, ..Config::default() }, image)
}

/// Runs an image to its end on so many processors.
pub fn run_on(cpus: u8, image: &[u8]) -> Run {
    run_in(&Config { cpus, memory_bytes: RAM_BYTES, ..Config::default() }, image)
}

/// Runs an image to its end on one processor.
pub fn run(image: &[u8]) -> Run {
    run_on(1, image)
}

/// Runs an image to its end.
pub fn run_in(config: &Config<'_>, image: &[u8]) -> Run {
    let mut machine = Machine::new(config).unwrap();
    machine.load(image, "guest", &[]).unwrap();
    let mut trace = Trace::default();
    let ended = machine.run(MOST_INSTRUCTIONS, &mut trace);
    Run { ended, serial: String::from_utf8_lossy(machine.serial()).into_owned(), trace: trace.0 }
}
