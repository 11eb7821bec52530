//! Does the local APIC behave as SDM 3A chapter 10 (rev 077) says? Literal tables by section, then random sequences.

mod delivery;
mod ipis;
mod local;
mod modes;
mod properties;
mod registers;
mod support;
mod timer;
