//! What must the guest's control registers, debug registers and MSR fields hold?
//!
//! Source: SDM 3C 26.3.1.1 (rev 077), Checks on Guest Control Registers, Debug Registers, and MSRs.

use super::table::{Paragraph, rules};

rules! {}

pub(crate) const PARAGRAPHS: &[Paragraph] = &[];
