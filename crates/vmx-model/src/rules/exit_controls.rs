//! What must the VM-exit control fields hold?
//!
//! Source: SDM 3C 26.2.1.2 (rev 077), VM-Exit Control Fields.

use super::table::{Paragraph, rules};

rules! {}

pub(crate) const PARAGRAPHS: &[Paragraph] = &[];
