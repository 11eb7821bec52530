//! How has a run ended: in words, as an exit status, and where did each processor stand?

use softvirt::machine::{Ended, Machine};
use softvirt::vmx_model::Operation;
use softvirt::x86_emu::State;
use softvirt::x86_state::{CpuMode, SegmentRegister};

/// The exit statuses, for `--help`.
pub(crate) const STATUSES: &str = "\
Exit codes:
  0        the guest wrote 0 to the debug-exit port (0xf4), or asked for shutdown (\"Shutdown\" to port 0x8900)
  1        the guest wrote 1
  2        bad use, or an image that cannot be loaded
  3        triple fault
  4        every processor sleeps, and nothing will wake one
  5        the limit of instructions is reached
  6        VMX abort
  7        something that is not modelled
  64 + N   the guest wrote N, from 2 to 62; 127 stands for all greater values";

/// The exit status of the command.
pub(crate) fn status(ended: &Ended) -> u8 {
    match *ended {
        Ended::DebugExit(value @ 0..=1) => value as u8,
        Ended::DebugExit(value) => 64 + value.min(63) as u8,
        Ended::Shutdown => 0,
        Ended::TripleFault { .. } => 3,
        Ended::AllAsleep => 4,
        Ended::Limit => 5,
        Ended::Aborted { .. } => 6,
        Ended::NotModelled { .. } => 7,
    }
}

/// The end in a sentence.
pub(crate) fn words(ended: &Ended) -> String {
    match ended {
        Ended::DebugExit(value) => format!("the guest wrote {value} to the debug-exit port"),
        Ended::Shutdown => "the guest asked for shutdown".to_owned(),
        Ended::TripleFault { cpu } => format!("triple fault on processor {cpu}"),
        Ended::AllAsleep => "every processor sleeps, and nothing will wake one".to_owned(),
        Ended::Limit => "the limit of instructions is reached".to_owned(),
        Ended::Aborted { cpu, abort } => format!("VMX abort {} on processor {cpu}", abort.0),
        Ended::NotModelled { cpu } => format!("processor {cpu} met something that is not modelled"),
    }
}

/// Has it ended otherwise than the guest wished?
pub(crate) const fn is_stuck(ended: &Ended) -> bool {
    !matches!(ended, Ended::DebugExit(_) | Ended::Shutdown)
}

/// Where each processor stands, a line each.
pub(crate) fn positions(machine: &Machine) -> Vec<String> {
    machine.cpus().enumerate().map(|(number, state)| format!("processor {number}: {}", position(state))).collect()
}

fn position(state: &State) -> String {
    let cpu = &state.cpu;
    let mode = match cpu.mode() {
        CpuMode::Real => "real mode",
        CpuMode::Virtual8086 => "virtual-8086 mode",
        CpuMode::Protected16 => "16-bit protected mode",
        CpuMode::Protected32 => "32-bit protected mode",
        CpuMode::Compatibility => "compatibility mode",
        CpuMode::Long64 => "64-bit mode",
    };
    let operation = match state.vmx.state.operation {
        Operation::Outside => "",
        Operation::Root => ", VMX root operation",
        Operation::NonRoot => ", VMX non-root operation",
    };
    let smm = if cpu.in_smm { ", SMM" } else { "" };
    let code = cpu.segment(SegmentRegister::Cs).selector.0;
    let activity = cpu.activity.name().unwrap_or("in a state of its own");
    format!("{activity}, {mode}{operation}{smm}, CS:RIP {code:#06x}:{:#x}, TSC {}", cpu.rip, state.tsc)
}
