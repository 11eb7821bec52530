//! Which MSR-load list entries fail a VM entry?
//!
//! Source: SDM 3C 26.4 (rev 077), Loading MSRs.

use super::table::{Paragraph, rules};

rules! {}

pub(crate) const PARAGRAPHS: &[Paragraph] = &[];
