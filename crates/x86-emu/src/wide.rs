//! How are operands of 16 bytes and whole areas reached in memory?
//!
//! They are read and written as quadwords. A write begins only when every page that it touches is known to be writable, so that a fault
//! leaves memory as it was.
//!
//! Source: SDM 3A 6.15, Interrupt 17—Alignment Check Exception (#AC) (rev 077); SDM 2A 2.4, AVX and SSE Instruction Exception Classification.

use crate::bus::Bus;
use crate::exec::{Exec, Stopped};
use core::cell::Cell;
use softvirt_ept::Operation;
use x86_state::{Exception, Gva, SegmentRegister};

const PAGE: u64 = 0x1000;

/// Must an operand of 16 bytes be aligned?
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Alignment {
    /// #GP(0) if it is not, whatever the segment.
    Required,
    /// MOVUPS and its like. The manual leaves open whether alignment checking concerns them: here it does, as for two quadwords.
    Free,
}

impl<B: Bus> Exec<'_, B> {
    /// Reads 16 bytes through a segment.
    ///
    /// # Errors
    /// What the segment, the alignment or a page raises.
    pub fn read_128(&mut self, segment: SegmentRegister, offset: u64, alignment: Alignment) -> Result<u128, Stopped> {
        if let Some(cells) = self.quick_128(segment, offset, alignment, false) {
            return Ok(u128::from_le_bytes(core::array::from_fn(|n| cells[n].get())));
        }
        let linear = self.linear_128(segment, offset, alignment, false)?;
        let access = self.data(Operation::Read);
        let low: u64 = self.read_linear(linear, access)?;
        let high: u64 = self.read_linear(self.advanced(linear, 8), access)?;
        Ok(u128::from(high) << 64 | u128::from(low))
    }

    /// Writes 16 bytes through a segment: all of them or none.
    ///
    /// # Errors
    /// What the segment, the alignment or a page raises.
    pub fn write_128(
        &mut self,
        segment: SegmentRegister,
        offset: u64,
        value: u128,
        alignment: Alignment,
    ) -> Result<(), Stopped> {
        if let Some(cells) = self.quick_128(segment, offset, alignment, true) {
            for (cell, byte) in cells.iter().zip(value.to_le_bytes()) {
                cell.set(byte);
            }
            return Ok(());
        }
        let linear = self.linear_128(segment, offset, alignment, true)?;
        if linear.0 % 16 != 0 {
            self.probe(linear, 16, Operation::Write)?;
        }
        let access = self.data(Operation::Write);
        self.write_linear(linear, value as u64, access)?;
        self.write_linear(self.advanced(linear, 8), (value >> 64) as u64, access)
    }

    /// The bytes of RAM of an access that needs no closer look ([`crate::quick`]).
    #[inline]
    fn quick_128(
        &self,
        segment: SegmentRegister,
        offset: u64,
        alignment: Alignment,
        write: bool,
    ) -> Option<&[Cell<u8>; 16]> {
        if alignment == Alignment::Required && self.quick_linear(segment, offset, 16)? % 16 != 0 {
            return None;
        }
        self.quick_cells(segment, offset, write)
    }

    fn linear_128(
        &mut self,
        segment: SegmentRegister,
        offset: u64,
        alignment: Alignment,
        write: bool,
    ) -> Result<Gva, Stopped> {
        let linear = self.linear(segment, offset, 16, write)?;
        match alignment {
            Alignment::Required if linear.0 % 16 != 0 => Err(self.gp()),
            Alignment::Free if self.aligned && linear.0 % 8 != 0 => Err(self.fault_with(Exception::AC, 0)),
            _ => Ok(linear),
        }
    }

    /// The linear address of an area of `len_bytes`, which must be aligned to `align_bytes`: #GP(0) if it is not. (The manual allows #AC
    /// in its place where alignment is checked.)
    ///
    /// # Errors
    /// What the segment raises, and #GP(0).
    pub fn area(
        &mut self,
        segment: SegmentRegister,
        offset: u64,
        len_bytes: u64,
        align_bytes: u64,
        write: bool,
    ) -> Result<Gva, Stopped> {
        let linear = self.linear(segment, offset, len_bytes, write)?;
        if linear.0 & (align_bytes - 1) != 0 { Err(self.gp()) } else { Ok(linear) }
    }

    /// May all of these bytes, at most 64 KBytes, be accessed so? Each page is translated.
    ///
    /// # Errors
    /// What the first page raises that may not.
    pub fn probe(&mut self, linear: Gva, len_bytes: u64, operation: Operation) -> Result<(), Stopped> {
        let access = self.data(operation);
        // Permissions may differ by 128 bytes of a page (SDM 3C 28.3.4, Sub-Page Write Permissions).
        const PART: u64 = 128;
        let last = len_bytes.saturating_sub(1).min(0xffff);
        self.translate(linear, access)?;
        let mut at = PART - (linear.0 & (PART - 1));
        while at <= last {
            let next = self.advanced(linear, at);
            if operation == Operation::Write || next.0 & (PAGE - 1) == 0 {
                self.translate(next, access)?;
            }
            at += PART;
        }
        Ok(())
    }

    /// `linear` plus `bytes`, at the width of the mode.
    #[inline(always)]
    #[must_use]
    pub fn advanced(&self, linear: Gva, bytes: u64) -> Gva {
        let sum = linear.0.wrapping_add(bytes);
        Gva(if self.long64() { sum } else { sum & 0xffff_ffff })
    }
}
