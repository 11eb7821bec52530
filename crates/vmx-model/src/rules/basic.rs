//! Which basic conditions must hold before a VM entry commences?
//!
//! Source: SDM 3C (rev 077) 26.1, Basic VM-Entry Checks; 30.3, VMX Instructions, VMLAUNCH/VMRESUME.

use super::table::{Paragraph, rules};

rules! {}

pub(crate) const PARAGRAPHS: &[Paragraph] = &[];
