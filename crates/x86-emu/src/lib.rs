//! An x86-64 processor in software.
//!
//! [`Processor`] is the state and what is remembered to be fast; [`Bus`] is what is around it. [`Processor::run`] executes instructions and
//! delivers events until something stops it. Virtualization is `vmx_model`'s and `softvirt_ept`'s: none of their rules is here.
//!
//! | module | answers |
//! |---|---|
//! | [`state`], [`flags`] | What is the whole state? |
//! | [`decode`], [`insn`], [`code`] | Which instruction stands here, and what is left of it once it is decoded? |
//! | [`memory`] | How is memory reached, through segments, paging and EPT? |
//! | [`exec`], [`ops`] | What does an instruction do? One file for each family |
//! | [`run`] | What comes between two instructions? |
//! | [`deliver`] | How does an event reach its handler, or become a double fault, a shutdown or a VM exit? |
//! | [`vmx`] | How do the models' answers become what the processor does? |
//!
//! # Not here yet
//! - x87, MMX, SSE and later vectors, XSAVE; WAITPKG; the instructions that read and write lists of MSRs.
//! - SMM (an SMI is handed to the caller), shadow stacks and indirect-branch tracking, FRED event delivery, last-branch records.
//! - A debug trap for the T flag of a new task.
//! - A comparison of its speed with other emulators.
#![no_std]
#![forbid(unsafe_code)]
#![deny(missing_docs)]

extern crate alloc;

pub mod bus;
pub mod code;
pub mod coverage;
pub mod cpuid;
pub mod decode;
pub mod deliver;
pub mod exec;
pub mod far;
pub mod flags;
mod gates;
pub mod insn;
pub mod memory;
pub mod ops;
pub mod run;
pub mod segments;
pub mod stack;
pub mod state;
pub mod tasks;
pub mod vmx;
pub mod word;

pub use bus::Bus;
pub use exec::{Exec, Stop, Stopped, VmEntry};
pub use insn::Insn;
pub use run::{Observer, Processor, Ran};
pub use state::State;
