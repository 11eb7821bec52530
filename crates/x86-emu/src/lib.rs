//! An x86-64 processor in software.
//!
//! [`Processor`] is the state and what is remembered to be fast; [`Bus`] is what is around it. [`Processor::run`] executes instructions and
//! delivers events until something stops it. Virtualization is `vmx_model`'s and `softvirt_ept`'s: none of their rules is here.
//!
//! | module | answers |
//! |---|---|
//! | [`state`], [`flags`], [`x87`] | What is the whole state? |
//! | [`decode`], [`insn`], [`code`] | Which instructions stand here, and what is left of them once they are decoded? |
//! | [`memory`], `quick`, [`wide`] | How is memory reached, through segments, paging and EPT? And the ordinary access in a few instructions? |
//! | [`exec`], [`ops`] | What does an instruction do? One file for each family |
//! | [`float`] | What is the result of a floating-point operation? |
//! | [`xsave`] | Which state does the XSAVE feature set manage, and where does it lie? |
//! | [`run`], [`time`] | What comes between two instructions? How much time passes? |
//! | [`deliver`] | How does an event reach its handler, or become a double fault, a shutdown or a VM exit? |
//! | [`msrs`], [`pmu`], [`lbr`] | Which model-specific registers are there beside those of the `Cpu` and the bus? |
//! | [`segments`], [`far`], `gates`, `returns`, [`tasks`] | How does control go to another segment, privilege level or task? |
//! | `cet` | What do shadow stacks and indirect-branch tracking add to that? |
//! | [`cpuid`], [`concealed`], [`topology`] | What does the processor say that it is? |
//! | [`smm`] | What does a system-management interrupt do, and RSM? |
//! | [`vmx`] | How do the models' answers become what the processor does? |
//! | [`coverage`] | Which instruction forms are modelled, and why not the others? |
//!
//! # Not here yet
//! - x87 beyond its control and status words, FNINIT, FNCLEX and WAIT: arithmetic, loads and stores raise #UD. Its state is saved and restored.
//! - Vectors from SSE3 on, AES, AVX and AVX-512. Where each instruction form stands is [`coverage`]'s answer.
//! - What [`concealed`] keeps out of CPUID and the capability registers: transactions, SGX, Intel PT, user interrupts, key locker, lists of MSRs,
//!   FRED with its event delivery.
//! - Of VMX: the APIC-access page, posted interrupts, IPI virtualization, the dual-monitor treatment of SMM.
//! - SVM.
#![no_std]
#![forbid(unsafe_code)]
#![deny(missing_docs)]

extern crate alloc;

pub mod bus;
mod call_gate;
mod cet;
pub mod code;
pub mod concealed;
pub mod coverage;
pub mod cpuid;
pub mod decode;
pub mod deliver;
pub mod exec;
pub mod far;
pub mod flags;
pub mod float;
mod gates;
pub mod insn;
pub mod lbr;
pub mod memory;
pub mod msrs;
pub mod ops;
pub mod pmu;
mod quick;
mod returns;
pub mod run;
pub mod segments;
pub mod smm;
pub mod stack;
pub mod state;
pub mod tasks;
pub mod time;
pub mod topology;
pub mod vmx;
pub mod wide;
pub mod word;
pub mod x87;
pub mod xsave;

pub use bus::Bus;
pub use exec::{Attempt, Exec, Stop, Stopped, VmEntry};
pub use insn::Insn;
pub use run::{Observer, Processor, Ran};
pub use state::State;
