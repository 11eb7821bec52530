//! Does x86-emu do what a processor does? Instructions executed by both, with the same registers and memory.
//!
//! - [`case`]: an instruction with registers, flags and a page of memory; and what became of them.
//! - [`forms`]: every form of an instruction, with operands from random and edge values.
//! - [`emulated`]: x86-emu's answer.
//! - `native`: the answer of the host's processor (x86-64 Linux only), between guard pages.
//! - `compare`: both, and how they differ; the body of a fuzz target.
//! - [`undefined`]: which flags the manual leaves open, and are therefore not compared.

pub mod case;
#[cfg(all(target_arch = "x86_64", target_os = "linux"))]
pub mod compare;
pub mod emulated;
pub mod forms;
#[cfg(all(target_arch = "x86_64", target_os = "linux"))]
pub mod native;
pub mod undefined;

pub use case::{Case, End, Outcome};
pub use emulated::Emulated;
