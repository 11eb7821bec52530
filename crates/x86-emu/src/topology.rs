//! Which processors are there, and which of them is this one? What CPUID tells of it, which no profile can know.
//!
//! One package with one thread a core; all caches of the profile are the core's own, but the last level, which all share.
//!
//! Source: SDM 2A 3.2 (rev 077), CPUID, leaves 01H, 04H, 0BH and 1FH; SDM 3A 8.9.1, Hierarchical Mapping of Shared Resources.

/// The processors of a machine, as one of them sees them.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Topology {
    /// How many there are; 0 counts as 1.
    pub processors: u32,
    /// The x2APIC ID of this one.
    pub apic_id: u32,
}

impl Default for Topology {
    /// One processor, with ID 0.
    fn default() -> Self {
        Self { processors: 1, apic_id: 0 }
    }
}

impl Topology {
    /// How many bits an APIC ID needs.
    const fn id_bits(self) -> u32 {
        match self.processors {
            0 | 1 => 0,
            more => 32 - (more - 1).leading_zeros(),
        }
    }

    /// Puts what depends on the machine into CPUID's answer for a leaf. `highest` is the highest basic leaf.
    pub fn complete(self, leaf: u32, subleaf: u32, highest: u32, registers: &mut [u32; 4]) {
        let several = self.processors > 1;
        let places = 1_u32.checked_shl(self.id_bits()).unwrap_or(0);
        match leaf {
            1 => {
                // Initial APIC ID; how many IDs the package has, which means something with HTT.
                registers[1] = registers[1] & 0xffff | (self.apic_id & 0xff) << 24 | (places & 0xff) << 16;
                registers[3] = registers[3] & !(1 << 28) | u32::from(several) << 28;
            }
            4 if registers[0] & 0x1f != 0 => {
                let shared = registers[0] >> 5 & 7 >= 3;
                let others = places.wrapping_sub(1);
                let sharing = if shared { others } else { 0 };
                registers[0] = registers[0] & 0x3fff | (sharing & 0xfff) << 14 | (others & 0x3f) << 26;
            }
            0xb | 0x1f if leaf <= highest => {
                let (shift, processors, level) = match subleaf {
                    0 => (0, 1, 1),
                    1 => (self.id_bits(), self.processors.max(1), 2),
                    _ => (0, 0, 0),
                };
                *registers = [shift, processors, level << 8 | subleaf & 0xff, self.apic_id];
            }
            _ => {}
        }
    }
}
