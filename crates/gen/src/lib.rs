//! Which states are worth trying? VM entries, guests and sequences of VMX instructions, made from bytes.
//!
//! One source, two users: a fuzzer hands over bytes, proptest makes them. Both become a case:
//!
//! | case | what it is |
//! |---|---|
//! | [`EntryCase`] | a VM entry on the edge between valid and invalid |
//! | [`GuestCase`] | a guest that was entered and has gone on since, and an instruction, an event or an access to memory |
//! | [`SequenceCase`] | a sequence of VMX instructions over several VMCS regions, with changes of mode and VM exits between them |
//!
//! An [`EntryCase`] is a processor, a state and a dial - valid, one chosen rule broken, or some bits away from valid. The rules themselves supply the knowledge: their `mends` round a state to a valid
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
mod guest;
mod instruction;
mod memory;
mod sequence;
#[cfg(feature = "proptest")]
pub mod strategies;
mod walk;

pub use entry::{Dial, EntryCase, arbitrary_state};
pub use guest::{EveryMsr, GuestCase, Happening};
pub use instruction::{event, instruction, memory_operand, op};
pub use memory::Sparse;
pub use sequence::{BITMAPS, Mode, REGIONS, SequenceCase, Step, Switch, VMXON_REGION};
pub use walk::WalkCase;
