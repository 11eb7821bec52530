//! Which machine is it?

use softvirt_ept::Retention;
use std::fmt;
use x86_state::{CpuProfile, profiles};

/// The most processors.
pub const MOST_CPUS: u8 = 8;
/// The least RAM: conventional memory, and the first MByte that tables are in.
pub const LEAST_MEMORY: u64 = 1 << 20;
/// The most RAM: 64 GByte.
pub const MOST_MEMORY: u64 = 1 << 36;

/// What a machine is made of.
#[derive(Clone, Copy, Debug)]
pub struct Config<'a> {
    /// Which processor it has.
    pub profile: &'a CpuProfile,
    /// How many: 1 to [`MOST_CPUS`].
    pub cpus: u8,
    /// Bytes of RAM, a multiple of 4096 from [`LEAST_MEMORY`] to [`MOST_MEMORY`].
    pub memory_bytes: u64,
    /// What varies: how several processors interleave, and what RDRAND gives.
    pub seed: u64,
    /// What the TLB keeps.
    pub retention: Retention,
    /// Are the test device and the debug exit there?
    pub test_device: bool,
}

impl Default for Config<'static> {
    /// One processor that has everything, 128 MByte, the test devices.
    fn default() -> Self {
        Self {
            profile: &profiles::MAX,
            cpus: 1,
            memory_bytes: 128 << 20,
            seed: 0,
            retention: Retention::Lazy,
            test_device: true,
        }
    }
}

/// Why there is no such machine.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ConfigError {
    /// The number of processors is out of range.
    Cpus(u8),
    /// The size of RAM is out of range, or no multiple of 4096.
    Memory(u64),
    /// The host does not have so much memory.
    HostMemory(u64),
    /// Nothing is known of what CPUID says on this processor.
    NoCpuid(&'static str),
}

impl fmt::Display for ConfigError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Cpus(cpus) => write!(f, "{cpus} processors: there may be 1 to {MOST_CPUS}"),
            Self::Memory(bytes) => write!(
                f,
                "{bytes} bytes of RAM: there may be {LEAST_MEMORY} to {MOST_MEMORY}, in whole pages of 4096 bytes"
            ),
            Self::NoCpuid(name) => {
                write!(
                    f,
                    "processor \"{name}\": what its CPUID says is not known, and a guest would find it without any feature"
                )
            }
            Self::HostMemory(bytes) => write!(f, "{bytes} bytes of RAM: the host does not have them"),
        }
    }
}

impl std::error::Error for ConfigError {}

impl Config<'_> {
    /// Is there such a machine?
    ///
    /// # Errors
    /// Why there is not.
    pub fn check(&self) -> Result<(), ConfigError> {
        if !(1..=MOST_CPUS).contains(&self.cpus) {
            return Err(ConfigError::Cpus(self.cpus));
        }
        if self.profile.cpuid(1, 0).is_none() {
            return Err(ConfigError::NoCpuid(self.profile.name()));
        }
        let size_is_right =
            (LEAST_MEMORY..=MOST_MEMORY).contains(&self.memory_bytes) && self.memory_bytes % 0x1000 == 0;
        if size_is_right { Ok(()) } else { Err(ConfigError::Memory(self.memory_bytes)) }
    }
}
