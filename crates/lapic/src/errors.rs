//! What has gone wrong? The error status register.
//!
//! Source: SDM 3A 10.5.3 (rev 077), Error Handling.

bitflags::bitflags! {
    /// Errors, as the error status register has them. Those of the three-wire APIC bus (bits 3:0) do not occur here.
    #[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
    pub struct Errors: u32 {
        /// Bit 4: an IPI was to have lowest-priority delivery, which this processor cannot send. AMD processors have no such bit.
        const REDIRECTABLE_IPI = 1 << 4;
        /// Bit 5: a vector 0 to 15 was sent.
        const SEND_ILLEGAL_VECTOR = 1 << 5;
        /// Bit 6: a vector 0 to 15 came in, from outside, from the local vector table or from this APIC itself.
        const RECEIVE_ILLEGAL_VECTOR = 1 << 6;
        /// Bit 7: a reserved register was accessed in xAPIC mode.
        const ILLEGAL_REGISTER = 1 << 7;
    }
}

/// The error status register, and what is behind it.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
pub struct ErrorStatus {
    /// What a read returns: the errors up to the last write.
    pub visible: Errors,
    /// The errors since the last write.
    pub since_write: Errors,
    /// The error interrupt has been triggered since the last write, and is not triggered again before the next.
    pub triggered: bool,
}

impl ErrorStatus {
    /// Records errors. Do they trigger the error interrupt?
    ///
    /// "This write also rearms the APIC error interrupt triggering mechanism": read as one interrupt from one write to the
    /// next, spent even while the LVT entry is masked, since masking "only prevents delivery".
    pub const fn record(&mut self, errors: Errors) -> bool {
        self.since_write = self.since_write.union(errors);
        let triggers = !self.triggered && !errors.is_empty();
        self.triggered |= triggers;
        triggers
    }

    /// A write of the register, of whatever value: makes the errors since the last write readable, and rearms the interrupt.
    pub const fn write(&mut self) {
        *self = Self { visible: self.since_write, since_write: Errors::empty(), triggered: false };
    }
}
