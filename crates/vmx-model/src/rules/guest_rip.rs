//! What must the guest's RIP, RFLAGS and SSP fields hold?
//!
//! Source: SDM 3C 26.3.1.4 (rev 077), Checks on Guest RIP, RFLAGS, and SSP.

use super::table::{Paragraph, rules};

rules! {}

pub(crate) const PARAGRAPHS: &[Paragraph] = &[];
