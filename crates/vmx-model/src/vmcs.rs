//! What does a VMCS hold right now? A store with the speed of an array, partial states, and the layout in memory.
//!
//! Source: SDM 3C (rev 077) 24.2, Format of the VMCS Region; 24.11.2, VMREAD, VMWRITE, and Encodings of VMCS Fields.
//!
//! The layout of the data in the 4-KByte region is the processor's own affair. This is softvirt's, under its revision identifier:
//!
//! ```text
//! byte    0  VMCS revision identifier, bits [30:0]; bit 31 shadow-VMCS indicator
//! byte    4  VMX-abort indicator
//! byte    8  launch state: 0 clear, 1 launched
//! byte   16  field 0 of Field::TABLE, 8 bytes, little-endian; then one field every 8 bytes
//! ```

use crate::fields::{Field, FieldEncoding};
use core::fmt;

/// Size of a VMCS region in bytes.
pub const REGION_BYTES: usize = 4096;
/// Byte offset of the first field in a region.
pub const FIELDS_OFFSET_BYTES: usize = 16;
/// Byte offset of the VMX-abort indicator.
pub const ABORT_INDICATOR_OFFSET_BYTES: usize = 4;
/// Byte offset of the launch state.
pub const LAUNCH_STATE_OFFSET_BYTES: usize = 8;

/// Slots of the store: a power of two of at least [`Field::COUNT`], so that a `u8` index needs no bounds check.
const SLOTS: usize = 256;
const _: () = assert!(Field::COUNT <= SLOTS && FIELDS_OFFSET_BYTES + Field::COUNT * 8 <= REGION_BYTES);

/// The launch state of a VMCS (SDM 3C 24.11.3, Initializing a VMCS).
#[derive(Clone, Copy, Debug, PartialEq, Eq, Default)]
pub enum LaunchState {
    /// After VMCLEAR: VMLAUNCH is the instruction to use.
    #[default]
    Clear,
    /// After VMLAUNCH: VMRESUME is the instruction to use.
    Launched,
}

/// The fields of one VMCS; each is known or unknown.
///
/// # Invariants
/// A field's value never has a bit beyond its width; an unknown field's value is 0.
#[derive(Clone, Copy, PartialEq, Eq)]
pub struct Vmcs {
    values: [u64; SLOTS],
    known: [u64; SLOTS / 64],
}

impl Default for Vmcs {
    fn default() -> Self {
        Self::new()
    }
}

impl Vmcs {
    /// A VMCS with every field known to be 0.
    #[must_use]
    pub const fn new() -> Self {
        Self { values: [0; SLOTS], known: [u64::MAX; SLOTS / 64] }
    }

    /// A VMCS of which nothing is known.
    #[must_use]
    pub const fn unknown() -> Self {
        Self { values: [0; SLOTS], known: [0; SLOTS / 64] }
    }

    /// The field's value; 0 if it is unknown.
    #[must_use]
    #[inline(always)]
    pub const fn get(&self, field: Field) -> u64 {
        self.values[field.index() & (SLOTS - 1)]
    }

    /// The field's value, if it is known.
    #[must_use]
    #[inline]
    pub const fn try_get(&self, field: Field) -> Option<u64> {
        if self.is_known(field) { Some(self.get(field)) } else { None }
    }

    /// Is the field's value known?
    #[must_use]
    #[inline]
    pub const fn is_known(&self, field: Field) -> bool {
        self.known[field.index() / 64] >> (field.index() % 64) & 1 == 1
    }

    /// Sets the field and makes it known; bits beyond the field's width are dropped.
    #[inline]
    pub const fn set(&mut self, field: Field, value: u64) {
        self.values[field.index() & (SLOTS - 1)] = value & field.row().width.mask();
        self.known[field.index() / 64] |= 1 << (field.index() % 64);
    }

    /// Changes the field by a function of its value.
    pub fn update(&mut self, field: Field, change: impl FnOnce(u64) -> u64) {
        self.set(field, change(self.get(field)));
    }

    /// Makes the field unknown.
    pub const fn forget(&mut self, field: Field) {
        self.values[field.index()] = 0;
        self.known[field.index() / 64] &= !(1 << (field.index() % 64));
    }

    /// How many fields are known.
    #[must_use]
    pub fn known_count(&self) -> usize {
        Field::all().filter(|&field| self.is_known(field)).count()
    }

    /// What VMREAD of `encoding` would return: the whole field, or its high half in bits `[31:0]`.
    /// `None` if no field has the encoding or the field is unknown.
    #[must_use]
    pub const fn read(&self, encoding: FieldEncoding) -> Option<u64> {
        let Some(field) = encoding.field() else { return None };
        match self.try_get(field) {
            Some(value) if encoding.is_high() => Some(value >> 32),
            other => other,
        }
    }

    /// Does what VMWRITE of `encoding` would do to the field. `false` if no field has the encoding.
    ///
    /// A write of the high half keeps bits `[31:0]`; of an unknown field these count as 0.
    pub const fn write(&mut self, encoding: FieldEncoding, value: u64) -> bool {
        let Some(field) = encoding.field() else { return false };
        if encoding.is_high() {
            self.set(field, self.get(field) & 0xffff_ffff | value << 32);
        } else {
            self.set(field, value);
        }
        true
    }

    /// Writes the fields into a VMCS region in softvirt's layout. The header (bytes 0 to 15) is left alone; unknown fields are written as 0.
    pub fn store(&self, region: &mut [u8; REGION_BYTES]) {
        for (field, bytes) in Field::all().zip(region[FIELDS_OFFSET_BYTES..].chunks_exact_mut(8)) {
            bytes.copy_from_slice(&self.get(field).to_le_bytes());
        }
    }

    /// Reads the fields out of a VMCS region in softvirt's layout; every field becomes known.
    #[must_use]
    pub fn load(region: &[u8; REGION_BYTES]) -> Self {
        let mut vmcs = Self::new();
        for (field, bytes) in Field::all().zip(region[FIELDS_OFFSET_BYTES..].chunks_exact(8)) {
            let mut value = [0; 8];
            value.copy_from_slice(bytes);
            vmcs.set(field, u64::from_le_bytes(value));
        }
        vmcs
    }
}

impl fmt::Debug for Vmcs {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let mut map = f.debug_map();
        for field in Field::all() {
            if let Some(value) = self.try_get(field) {
                map.entry(&field, &format_args!("{value:#x}"));
            }
        }
        map.finish()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_unknown_field_is_not_zero() {
        let mut vmcs = Vmcs::unknown();
        assert_eq!(vmcs.try_get(Field::GUEST_CR0), None);
        vmcs.set(Field::GUEST_CR0, 0);
        assert_eq!(vmcs.try_get(Field::GUEST_CR0), Some(0));
        vmcs.forget(Field::GUEST_CR0);
        assert_eq!(vmcs, Vmcs::unknown());
    }

    #[test]
    fn set_drops_bits_beyond_the_width() {
        let mut vmcs = Vmcs::new();
        for field in Field::all() {
            vmcs.set(field, u64::MAX);
            assert_eq!(vmcs.get(field), field.row().width.mask(), "{field:?}");
        }
    }

    #[test]
    fn the_high_half_is_read_and_written_alone() {
        let mut vmcs = Vmcs::new();
        vmcs.set(Field::TSC_OFFSET, 0x1111_2222_3333_4444);
        assert_eq!(vmcs.read(FieldEncoding(0x2011)), Some(0x1111_2222));
        assert!(vmcs.write(FieldEncoding(0x2011), 0xaaaa_bbbb));
        assert_eq!(vmcs.get(Field::TSC_OFFSET), 0xaaaa_bbbb_3333_4444);
        assert!(!vmcs.write(FieldEncoding(0x6c1e), 1));
    }

    #[test]
    fn a_region_holds_every_field_and_leaves_the_header_alone() {
        let mut vmcs = Vmcs::new();
        for (i, field) in Field::all().enumerate() {
            vmcs.set(field, 0x0101_0101_0101_0101 * (i as u64 + 1));
        }
        let mut region = [0xa5; REGION_BYTES];
        vmcs.store(&mut region);
        assert_eq!(Vmcs::load(&region), vmcs);
        assert_eq!(region[..FIELDS_OFFSET_BYTES], [0xa5; FIELDS_OFFSET_BYTES]);
    }
}
