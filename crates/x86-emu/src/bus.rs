//! What does the processor reach outside itself? Memory, ports, the registers of its local APIC, and interrupts that wait.

use vmx_model::event::Pending;
use x86_state::{MsrFile, PhysMemory};

/// Everything around one processor. Methods take `&self`: memory and devices are shared, and have cells inside.
///
/// [`PhysMemory`] covers RAM and memory-mapped devices alike; [`MsrFile`] the registers that a `Cpu` does not hold (local APIC, MTRRs,
/// performance counters).
pub trait Bus: PhysMemory + MsrFile {
    /// IN: `size_bytes` is 1, 2 or 4. All ones where nothing answers.
    fn port_read(&self, port: u16, size_bytes: u8) -> u32;

    /// OUT: `size_bytes` is 1, 2 or 4.
    fn port_write(&self, port: u16, size_bytes: u8, value: u32);

    /// How many pages of RAM there are from address 0 on: only instructions in them are kept decoded.
    fn ram_pages(&self) -> usize;

    /// What waits for this processor at the next instruction boundary. Asked when [`Bus::attention`] says so. The processor itself fills in
    /// [`Pending::between_iterations`].
    fn pending(&self) -> Pending;

    /// Does anything wait, that is, would [`Bus::pending`] be anything but the default? Must be cheap: it is asked before every block.
    fn attention(&self) -> bool;

    /// Acknowledges the interrupt controller: the vector of the interrupt that it offers.
    fn acknowledge_interrupt(&self) -> u8;

    /// This event of [`Bus::pending`] has been taken: an NMI, an SMI, an INIT or a SIPI.
    fn taken(&self, event: Taken);

    /// The local APIC's task priority, CR8: bits `[3:0]`.
    fn task_priority(&self) -> u8;

    /// MOV to CR8.
    fn set_task_priority(&self, priority: u8);

    /// The time-stamp count of this processor at which something will come up by itself, such as an interrupt of a timer: no instruction is
    /// executed from then on until the bus names a later one. Asked before every block.
    fn tsc_of_next_event(&self) -> Option<u64>;
}

/// An event that the processor has taken from the bus.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Taken {
    /// The NMI.
    Nmi,
    /// The system-management interrupt.
    Smi,
    /// The INIT signal.
    Init,
    /// The startup IPI.
    Sipi,
}
