//! What do the devices do that exist for tests alone? The debug exit, the test device of kvm-unit-tests, the shutdown port.
//!
//! Source: QEMU, hw/misc/debugexit.c (isa-debug-exit) and hw/misc/pc-testdev.c; Bochs, user manual, "shutdown port".

use std::cell::Cell;

/// Port of isa-debug-exit, as kvm-unit-tests places it.
pub const DEBUG_EXIT: u16 = 0xf4;
/// The port where writing the letters of [`SHUTDOWN`] turns the machine off.
pub const SHUTDOWN_PORT: u16 = 0x8900;
/// The letters.
pub const SHUTDOWN: &[u8] = b"Shutdown";
/// The port of the debug console: bytes written appear in the log, and reading gives 0xE9, unless the
/// test device is there, one of whose latches it is as well.
pub const CONSOLE: u16 = 0xe9;
/// Where the test device's memory is.
pub const MEMORY: u64 = 0xff00_0000;
/// How much of it there is.
pub const MEMORY_BYTES: usize = 0x1_0000;
/// The first port of its interrupt lines; port + n drives line n.
pub const LINES: u16 = 0x2000;

/// The part of pc-testdev that has state.
pub struct TestDevice {
    latch: u32,
    bytes: [u8; 4],
    memory: Box<[Cell<u8>]>,
}

impl Default for TestDevice {
    fn default() -> Self {
        Self { latch: 0, bytes: [0; 4], memory: (0..MEMORY_BYTES).map(|_| Cell::new(0)).collect() }
    }
}

impl TestDevice {
    /// Reads a port of [0xE0, 0xE4) (a latch of 32 bits, by its low bytes at any of the ports) or [0xE8, 0xEC) (bytes, each its own).
    #[must_use]
    pub fn read(&self, port: u16, size_bytes: u8) -> Option<u32> {
        match port {
            0xe0..=0xe3 => Some(self.latch >> (8 * u32::from(port & 3))),
            0xe8..=0xeb => {
                let bytes = self.bytes.iter().skip(usize::from(port & 3)).take(size_bytes.into());
                Some(bytes.zip(0..).fold(0, |value, (byte, n)| value | u32::from(*byte) << (8 * n)))
            }
            _ => None,
        }
    }

    /// Writes there; `false`: it is not the device's port.
    pub fn write(&mut self, port: u16, size_bytes: u8, value: u32) -> bool {
        match port {
            0xe0..=0xe3 => {
                let shift = 8 * u32::from(port & 3);
                let mask = (u32::MAX >> (32 - 8 * u32::from(size_bytes.clamp(1, 4)))) << shift;
                self.latch = self.latch & !mask | value << shift & mask;
            }
            // On a KVM host it makes the page of this address inaccessible for a moment; nothing of that can be seen here.
            0xe4 => {}
            0xe8..=0xeb => {
                let bytes = self.bytes.iter_mut().skip(usize::from(port & 3)).take(size_bytes.into());
                for (byte, new) in bytes.zip(value.to_le_bytes()) {
                    *byte = new;
                }
            }
            _ => return false,
        }
        true
    }

    /// A byte of its memory, if the address is there.
    #[must_use]
    pub fn byte(&self, at: u64) -> Option<&Cell<u8>> {
        self.memory.get(usize::try_from(at.checked_sub(MEMORY)?).ok()?)
    }

    /// Registers and memory, to be compared.
    pub(crate) fn digest(&self, mut add: impl FnMut(u64)) {
        add(self.latch.into());
        add(u32::from_le_bytes(self.bytes).into());
        for cell in &self.memory {
            add(cell.get().into());
        }
    }
}
