//! What does firmware configuration tell? QEMU's fw_cfg device by its two I/O ports.
//!
//! Source: QEMU, docs/specs/fw_cfg.rst, "QEMU Firmware Configuration (fw_cfg) Device". No DMA interface: key 1 says so.

/// Port of the selector, 16 bits wide.
pub const SELECTOR: u16 = 0x510;
/// Port of the data, 8 bits wide.
pub const DATA: u16 = 0x511;

/// The device. Data is what the keys below say; all others are empty, and read as zeros.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct FwCfg {
    cpus: u16,
    memory_bytes: u64,
    key: u16,
    offset: usize,
}

impl FwCfg {
    /// For so many processors and bytes of RAM.
    #[must_use]
    pub fn new(cpus: u8, memory_bytes: u64) -> Self {
        Self { cpus: cpus.into(), memory_bytes, key: 0, offset: 0 }
    }

    /// Selects a key; reading starts at its first byte.
    pub fn select(&mut self, key: u16) {
        self.key = key;
        self.offset = 0;
    }

    /// The next byte.
    pub fn read(&mut self) -> u8 {
        let bytes = self.item();
        let byte = bytes.get(self.offset).copied().unwrap_or(0);
        self.offset = self.offset.saturating_add(1);
        byte
    }

    /// The data of the key, as far as it is not zero.
    ///
    /// Key 0x11 is the kernel's image in QEMU. kvm-unit-tests takes it for the end of usable memory and 0 for "no limit", which is what an
    /// empty item reads as.
    fn item(&self) -> [u8; 8] {
        match self.key {
            0x00 => u64::from_le_bytes(*b"QEMU\0\0\0\0"),
            // The traditional interface, and no DMA (bit 1).
            0x01 => 1,
            0x03 => self.memory_bytes,
            // Processors present, and the most that there may be.
            0x05 | 0x0f => self.cpus.into(),
            _ => 0,
        }
        .to_le_bytes()
    }
}
