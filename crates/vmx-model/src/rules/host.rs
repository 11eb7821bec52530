//! What must the host-state area hold?
//!
//! Source: SDM 3C (rev 077) 26.2.2 to 26.2.4.

use super::table::{Paragraph, rules};

rules! {}

pub(crate) const PARAGRAPHS: &[Paragraph] = &[];
