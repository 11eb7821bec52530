//! What must the VM-entry control fields hold, event injection included?
//!
//! Source: SDM 3C 26.2.1.3 (rev 077), VM-Entry Control Fields.

use super::table::{Paragraph, rules};

rules! {}

pub(crate) const PARAGRAPHS: &[Paragraph] = &[];
