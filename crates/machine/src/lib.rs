//! A deterministic PC around softvirt's processors.
//!
//! For whoever wants to run a hypervisor, a kernel or a test image without hardware virtualization, and see the same thing each time: the
//! same image, configuration and seed give the same instructions, the same output and the same final state.
//! What it has is what test images and small hypervisors touch; it is no replacement for an emulator with disks and a BIOS.
//!
//! | module | answers |
//! |---|---|
//! | [`config`] | Which machine is it? |
//! | [`machine`] | How does it run, and how does it end? |
//! | [`schedule`] | Whose turn is it, and for how long? |
//! | [`watch`] | Who looks on? |
//! | [`load`] | How does an image get in? |
//! | [`ram`] | What is in memory? |
//! | [`bus`] | What does a processor reach? |
//! | [`ioapic`], [`pic`], [`uart`], [`fw_cfg`], [`testdev`] | What does a device do? |
//!
//! ```
//! use softvirt_machine::{Config, Ended, Machine};
//!
//! // mov al, 'A'; out 0xe9, al; mov eax, 3; out 0xf4, eax
//! let image = [0xb0, b'A', 0xe6, 0xe9, 0x66, 0xb8, 3, 0, 0, 0, 0x66, 0xe7, 0xf4];
//! let mut machine = Machine::new(&Config::default()).unwrap();
//! machine.load_raw(&image, 0x7c00).unwrap();
//! assert_eq!(machine.run(100, &mut ()), Ended::DebugExit(3));
//! assert_eq!(machine.console(), b"A");
//! ```
//!
//! # Not here
//! - Disks, network, graphics, keyboard, PCI, the 8254 timer, the real-time clock, a BIOS. Their ports read as all ones. Of the keyboard controller and
//!   the clock there is what a reset needs; firmware knows no more than to boot the image again.
//! - Caches and memory types, errors of memory, DMA.
#![forbid(unsafe_code)]
#![deny(missing_docs)]

mod acpi;
mod board;
pub mod bus;
pub mod config;
mod devices;
mod elf;
pub mod fw_cfg;
pub mod ioapic;
pub mod load;
pub mod machine;
mod multiboot;
pub mod pic;
pub mod ram;
mod reset;
pub mod schedule;
mod smm;
pub mod testdev;
pub mod uart;
pub mod watch;

pub use bus::CpuBus;
pub use config::{Config, ConfigError};
pub use load::{Format, LoadError, Loaded, Module};
pub use machine::{Ended, Machine};
pub use watch::{Counters, CpuCounters, Watch};
