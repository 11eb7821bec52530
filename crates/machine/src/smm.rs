//! What happens in system-management mode? What firmware has left there: a handler that returns at once.
//!
//! Each processor has an SMBASE of its own in the range that PCs reserve for this, 0xA0000 to 0xBFFFF, as firmware relocates it. The range is
//! ordinary RAM here and open to everybody: there is no display whose memory it would hide.
//!
//! Source: SDM 3C 30.4 (rev 077), SMRAM; 30.11, SMBASE Relocation.

use crate::bus::CpuBus;
use x86_state::{Hpa, PhysMemory};

/// RSM.
const HANDLER: [u8; 2] = [0x0f, 0xaa];
/// The handler's entry, from SMBASE on.
const ENTRY: u64 = 0x8000;

/// The SMBASE of a processor: they differ by more than a state-save area takes.
#[must_use]
pub(crate) fn base(index: usize) -> u32 {
    0xa_0000 + 0x1000 * (index as u32 & 7)
}

/// Puts the handler there.
pub(crate) fn install(bus: &CpuBus, base: u32) {
    bus.write_bytes(Hpa(u64::from(base) + ENTRY), &HANDLER);
}
