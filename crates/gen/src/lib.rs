//! Which states are worth trying? VM entries made from bytes, on the edge between valid and invalid.
//!
//! One source, two users: a fuzzer hands over bytes, proptest makes them. Both become an [`EntryCase`]: a processor, a state and a dial -
//! valid, one chosen rule broken, or some bits away from valid. The rules themselves supply the knowledge: their `mends` round a state to a valid
//! one, their `breaks` leave it through one chosen door.
//!
//! ```
//! use softvirt_gen::{Dial, EntryCase};
//! use vmx_model::check_entry;
//!
//! let bytes: Vec<u8> = (0..200).collect();
//! let case = EntryCase::from_bytes(&bytes);
//! let violations = check_entry(&case.state);
//! match case.dial {
//!     Dial::Valid => assert!(violations.none_broken()),
//!     Dial::OneRule(rule) => assert!(violations.breaks(rule)),
//!     Dial::BitsAway(_) => {} // anything may be
//! }
//! ```
#![forbid(unsafe_code)]
#![deny(missing_docs)]

pub mod coverage;
mod entry;
#[cfg(feature = "proptest")]
pub mod strategies;

pub use entry::{Dial, EntryCase, arbitrary_state};
