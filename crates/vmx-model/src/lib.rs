#![doc = include_str!("../README.md")]
#![no_std]
#![forbid(unsafe_code)]
#![deny(missing_docs)]
#![recursion_limit = "512"]

pub mod builder;
pub mod context;
pub mod control;
pub mod controls;
pub mod describe;
pub mod entry;
pub mod errors;
pub mod event;
pub mod exit;
pub mod fields;
pub mod handbook;
pub mod ignored;
pub mod information;
pub mod insn;
pub mod intercept;
pub mod interruption;
pub mod known;
pub mod msr_list;
pub mod outcome;
pub mod qualification;
pub mod reasons;
pub mod round;
pub mod rules;
pub mod state;
pub mod synth;
pub mod translation;
pub mod verdict;
pub mod view;
pub mod vmcs;
pub mod vmx;

pub use control::{Control, ControlVector};
pub use controls::Controls;
pub use exit::{EntryFailure, Exit};
pub use fields::{Field, FieldEncoding};
pub use known::{EntryInstruction, KnownEntry, Operation, VmxState};
pub use outcome::{Outcome, hardware_outcome};
pub use round::round_to_valid;
pub use rules::{RuleId, Violations, check_entry};
pub use state::EntryState;
pub use verdict::{Effect, TscTransform, Verdict};
pub use view::EntryView;
pub use vmcs::Vmcs;
pub use vmx::Vmx;
