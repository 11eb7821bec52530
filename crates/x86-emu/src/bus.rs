//! What does the processor reach outside itself? Memory, ports, the registers of its local APIC, and interrupts that wait.

use core::cell::Cell;
use vmx_model::event::Pending;
use x86_state::{Hpa, MsrFile, PhysMemory};

/// Everything around one processor. Methods take `&self`: memory and devices are shared, and have cells inside.
///
/// [`PhysMemory`] covers RAM and memory-mapped devices alike; [`MsrFile`] the registers that neither a `Cpu` nor
/// [`Registers`](crate::msrs::Registers) holds: those of the local APIC. A write of IA32_APIC_BASE is told to it as well, once the `Cpu`
/// has the value.
///
/// By default there is no port, no local APIC, nothing that waits and no timer: how much RAM there is has to be said.
pub trait Bus: PhysMemory + MsrFile {
    /// IN: `size_bytes` is 1, 2 or 4. All ones where nothing answers.
    fn port_read(&self, _port: u16, _size_bytes: u8) -> u32 {
        u32::MAX
    }

    /// OUT: `size_bytes` is 1, 2 or 4.
    fn port_write(&self, _port: u16, _size_bytes: u8, _value: u32) {}

    /// How many pages of RAM there are from address 0 on: only instructions in them are kept decoded.
    fn ram_pages(&self) -> usize;

    /// Is there RAM at this address, that is, nothing but memory: do reads have no effect, and reach writes no device? By default what
    /// [`Bus::ram_pages`] says. An answer that changes has to be followed by [`Caches::changed`](crate::memory::Caches::changed).
    #[inline]
    fn is_ram(&self, address: Hpa) -> bool {
        address.0 >> 12 < self.ram_pages() as u64
    }

    /// RAM from address 0 on, byte by byte. Where [`Bus::is_ram`] says yes, it is read and written without asking the bus, which is much
    /// faster. By default there is none, and the bus is asked.
    #[inline]
    fn ram(&self) -> &[Cell<u8>] {
        &[]
    }

    /// What waits for this processor at the next instruction boundary. Asked when [`Bus::attention`] says so. The processor itself fills in
    /// [`Pending::between_iterations`].
    fn pending(&self) -> Pending {
        Pending::default()
    }

    /// Does anything wait, that is, would [`Bus::pending`] be anything but the default? Must be cheap: it is asked before every block.
    #[inline]
    fn attention(&self) -> bool {
        self.pending() != Pending::default()
    }

    /// Acknowledges the interrupt controller: the vector of the interrupt that it offers.
    fn acknowledge_interrupt(&self) -> u8 {
        0
    }

    /// This event of [`Bus::pending`] has been taken: an NMI, an SMI, an INIT or a SIPI.
    fn taken(&self, _event: Taken) {}

    /// The processor has entered SMM, or is about to leave it: the SMI acknowledge transaction (SDM 3C 31.3.1, Entering SMM). Memory that
    /// is other memory in SMM is so from now on; a bus that has such memory tells
    /// [`CodePages::written`](crate::code::CodePages::written) of its pages.
    fn smm(&self, _active: bool) {}

    /// A performance counter has overflowed: the local APIC's interrupt of that name.
    fn performance_interrupt(&self) {}

    /// Software has moved the time-stamp counter by this much (modulo 2^64), by a write of it or of IA32_TSC_ADJUST: time has not passed.
    fn tsc_moved(&self, _by: u64) {}

    /// The local APIC's task priority, CR8: bits `[3:0]`.
    fn task_priority(&self) -> u8 {
        0
    }

    /// MOV to CR8.
    fn set_task_priority(&self, _priority: u8) {}

    /// The time-stamp count of this processor at which something will come up by itself, such as an interrupt of a timer: no instruction is
    /// executed from then on until the bus names a later one. Asked when a run begins, after every access to the bus beyond RAM, and after
    /// everything that is not ordinary.
    fn tsc_of_next_event(&self) -> Option<u64> {
        None
    }

    /// Tells the bus what time it is by this processor's time-stamp counter, whenever [`Bus::tsc_of_next_event`] is asked and before each access
    /// to a port, a model-specific register or memory that is not RAM. The answer becomes the counter.
    #[inline(always)]
    fn now(&self, tsc: u64) -> u64 {
        tsc
    }

    /// This processor's APIC ID, as CPUID tells it.
    fn apic_id(&self) -> u32 {
        0
    }

    /// How many processors there are, as CPUID tells it: cores of one package, one thread each.
    fn processors(&self) -> u32 {
        1
    }
}

/// An event that the processor has taken from the bus.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Taken {
    /// The NMI.
    Nmi,
    /// The system-management interrupt.
    Smi,
    /// The INIT signal, which resets the processor and its local APIC.
    Init,
    /// The INIT signal, which has caused a VM exit: it is no longer pending, and nothing is reset. SDM 3C 25.2 says that such exits do not "clear
    /// pending events"; that is read as those that an INIT otherwise clears, since hardware passes a test that demands this.
    InitExit,
    /// The startup IPI.
    Sipi,
}
