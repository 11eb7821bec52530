//! Who looks on while the machine runs, and what is counted?

use crate::board::Board;
use crate::bus::CpuBus;
use std::collections::BTreeMap;
use vmx_model::exit::Exit;
use vmx_model::reasons::ExitReason;
use x86_emu::run::Observer;
use x86_emu::{Attempt, Insn, State, VmEntry};
use x86_state::{Event, EventType};

/// Looks on. Each method does nothing unless it is overridden, and costs nothing then.
pub trait Watch {
    /// Is [`Watch::instruction`] to be called? Without, the machine runs faster.
    const INSTRUCTIONS: bool = true;

    /// This instruction is about to be executed; RIP references it.
    #[inline(always)]
    fn instruction(&mut self, _cpu: usize, _state: &State, _insn: &Insn<CpuBus>) {}

    /// This event has been delivered; RIP references its handler.
    fn delivered(&mut self, _cpu: usize, _state: &State, _event: &Event) {}

    /// A VM exit has been taken; RIP references the host's first instruction.
    fn exited(&mut self, _cpu: usize, _state: &State, _exit: &Exit) {}

    /// A VM entry has succeeded or failed. `attempt` is what was tried; `bus` is the memory for whoever reads it.
    fn entered(&mut self, _cpu: usize, _state: &State, _bus: &CpuBus, _attempt: &Attempt, _entry: &VmEntry) {}

    /// The serial port has sent a byte. This is told before the next event, VM exit or VM entry, and at the end of a turn: after what
    /// the processor did until then.
    fn serial(&mut self, _byte: u8) {}

    /// A byte has been written to the debug console, port 0xE9; told as for [`serial`](Self::serial).
    fn console(&mut self, _byte: u8) {}
}

impl Watch for () {
    const INSTRUCTIONS: bool = false;
}

/// What one processor has done.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct CpuCounters {
    /// Instructions, with each iteration of a repeated one and each attempt that faulted or exited: the time that it was awake.
    pub instructions: u64,
    /// The time that it slept.
    pub asleep: u64,
}

/// What all processors have done.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Counters {
    /// For each processor.
    pub cpus: Vec<CpuCounters>,
    /// VM exits by basic reason, failed VM entries not among them.
    pub exits: BTreeMap<ExitReason, u64>,
    /// VM entries that succeeded.
    pub entries: u64,
    /// VM entries that failed late, with an exit.
    pub failed_entries: u64,
    /// VM entries that were refused: VMfail.
    pub refused_entries: u64,
    /// Page faults delivered.
    pub page_faults: u64,
    /// Other exceptions delivered, software interrupts among them.
    pub exceptions: u64,
    /// External interrupts delivered.
    pub interrupts: u64,
    /// Non-maskable interrupts delivered.
    pub nmis: u64,
}

/// The most output of a device that is kept; of more, the older half goes.
const KEPT_BYTES: usize = 4 << 20;

/// What the devices have sent.
#[derive(Default)]
pub(crate) struct Output {
    pub(crate) serial: Vec<u8>,
    pub(crate) console: Vec<u8>,
}

impl Output {
    /// What the devices have sent since goes to whoever looks on, and is kept.
    pub(crate) fn collect(&mut self, board: &Board, watch: &mut impl Watch) {
        let mut devices = board.devices.borrow_mut();
        devices.serial.iter().for_each(|byte| watch.serial(*byte));
        devices.console.iter().for_each(|byte| watch.console(*byte));
        keep(&mut self.serial, &mut devices.serial);
        keep(&mut self.console, &mut devices.console);
    }
}

fn keep(kept: &mut Vec<u8>, new: &mut Vec<u8>) {
    kept.append(new);
    if kept.len() > KEPT_BYTES {
        kept.drain(..kept.len() - KEPT_BYTES / 2);
    }
}

/// Passes on what one processor does, and counts. What the devices have sent before an event is passed on before it.
pub(crate) struct Watching<'a, W> {
    pub(crate) cpu: usize,
    pub(crate) board: &'a Board,
    pub(crate) output: &'a mut Output,
    pub(crate) watch: &'a mut W,
    pub(crate) counters: &'a mut Counters,
}

impl<W: Watch> Observer<CpuBus> for Watching<'_, W> {
    const INSTRUCTIONS: bool = W::INSTRUCTIONS;

    #[inline(always)]
    fn instruction(&mut self, state: &State, insn: &Insn<CpuBus>) {
        self.watch.instruction(self.cpu, state, insn);
    }

    fn delivered(&mut self, state: &State, event: &Event) {
        let counter = match event.kind {
            EventType::EXTERNAL_INTERRUPT => &mut self.counters.interrupts,
            EventType::NMI => &mut self.counters.nmis,
            _ if event.vector == 14 => &mut self.counters.page_faults,
            _ => &mut self.counters.exceptions,
        };
        *counter += 1;
        self.output.collect(self.board, self.watch);
        self.watch.delivered(self.cpu, state, event);
    }

    fn exited(&mut self, state: &State, exit: &Exit) {
        *self.counters.exits.entry(exit.reason).or_default() += 1;
        self.output.collect(self.board, self.watch);
        self.watch.exited(self.cpu, state, exit);
    }

    fn entered(&mut self, state: &State, bus: &CpuBus, attempt: &Attempt, entry: &VmEntry) {
        match entry {
            VmEntry::Entered(_) => self.counters.entries += 1,
            VmEntry::Failed(_) => self.counters.failed_entries += 1,
            VmEntry::Refused(_) => self.counters.refused_entries += 1,
            VmEntry::NotModelled => {}
        }
        self.output.collect(self.board, self.watch);
        self.watch.entered(self.cpu, state, bus, attempt, entry);
    }
}
