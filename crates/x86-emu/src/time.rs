//! What takes more time than an instruction? The table of extra costs, in counts of the time-stamp counter.
//!
//! Everything else takes one count: an instruction, an iteration of a repeated one, an attempt that faults or exits. A VM entry and a VM exit take
//! hundreds of cycles on every processor, and software counts on it: that the VMX-preemption timer has ticked (every 2^5 counts as a rule) when a guest exits.

use crate::bus::Bus;
use crate::exec::Exec;

/// A VM entry, after the guest's state is loaded: the guest's timers run.
pub const VM_ENTRY: u64 = 200;
/// A VM exit, after the guest's state is saved.
pub const VM_EXIT: u64 = 200;
/// PAUSE: "as many as 140 cycles" from Skylake on (Optimization Reference Manual, Pause Latency in Skylake Client Microarchitecture). Loops that
/// wait for a time take fewer turns so. Where a VM entry asks for PAUSE-loop exiting it takes none, so that a PLE_Gap that fits the
/// processors before (about 10 cycles) still sees a loop.
pub const PAUSE: u64 = 139;

impl<B: Bus> Exec<'_, B> {
    /// Lets this much time pass.
    pub(crate) fn spend(&mut self, counts: u64) {
        self.state.tsc = self.state.tsc.wrapping_add(counts);
        self.state.extra_time = self.state.extra_time.wrapping_add(counts);
    }
}
