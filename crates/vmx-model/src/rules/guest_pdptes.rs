//! When and how are the guest's page-directory-pointer-table entries checked?
//!
//! Source: SDM 3C 26.3.1.6 (rev 077), Checks on Guest Page-Directory-Pointer-Table Entries.

use super::table::{Paragraph, rules};

rules! {}

pub(crate) const PARAGRAPHS: &[Paragraph] = &[];
