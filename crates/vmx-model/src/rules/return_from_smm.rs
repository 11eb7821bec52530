//! What do VM entries that return from SMM demand besides?
//!
//! Source: SDM 3C 31.15.4 (rev 077), VM Entries that Return from SMM.

use super::table::{Paragraph, rules};

rules! {}

pub(crate) const PARAGRAPHS: &[Paragraph] = &[];
