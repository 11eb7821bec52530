//! What do features later than SDM revision 077 demand of a VM entry?
//!
//! Source: public kernel headers and emulators; FRED specification 2.0.

use super::table::{Paragraph, rules};

rules! {}

pub(crate) const PARAGRAPHS: &[Paragraph] = &[];
