//! Is a page walk right? A second walker, slow and in the order of the manual's sentences, and random tables for both.
//!
//! For tests and fuzzing, not for use: [`slow`] knows nothing of `softvirt-ept` and shares no code with it; [`check`] makes one
//! [`Case`], walks it with both, and panics if they differ in what software sees or in the memory they leave.
//!
//! | module | answers |
//! |---|---|
//! | [`slow`] | What does the manual say? |
//! | [`tables`] | Which words are in memory? Loops, self-maps, holes, the top of memory |
//! | [`case`] | Which registers and which access, from any bytes? |
//! | [`compare`] | Do the two walkers agree? |
//!
//! ```
//! for seed in 0_u8..100 {
//!     softvirt_ept_oracle::check(&softvirt_ept_oracle::Case::from_bytes(&[seed; 64]));
//! }
//! ```
#![deny(missing_docs)]

pub mod case;
pub mod compare;
pub mod slow;
pub mod tables;

pub use case::Case;
pub use compare::{Kind, check};
