//! What does the local APIC do? xAPIC, x2APIC, timer, interprocessor interrupts and priorities.
//!
//! For emulators and hypervisors that give their guests a local APIC and want the manual's behaviour in every corner: a
//! [`LocalApic`] is plain data, time is an argument, and what leaves it is a value ([`Effect`], [`Message`]) for the machine to
//! bring where it belongs. The parts that virtualization shares, priorities and vector sets, work on any register image.
//! If your guests need no more than a timer tick and an EOI, a stub of fifty lines will do.
//!
//! | module | answers |
//! |---|---|
//! | [`apic`] | What state is there, and what do reset, INIT and mode changes leave of it? |
//! | [`access`] | What does software read and write? |
//! | [`register`] | Which registers are there, where, and who may do what with them? |
//! | [`interrupt`] | What comes in, and what does the core get of it? |
//! | [`message`] | What goes from one interrupt controller to another? |
//! | [`destination`] | Is a message for this local APIC? Who takes a lowest-priority one? |
//! | [`priority`] | What may interrupt what? |
//! | [`vectors`] | Which vectors are in a 256-bit register? |
//! | [`lvt`] | How does a local interrupt reach the core? |
//! | [`timer`] | When does the timer fire? |
//! | [`base`](mod@base) | Is it there, where, and in which mode? |
//! | [`errors`] | What has gone wrong? |
//! | [`config`] | What differs between processors? |
//!
//! ```
//! use softvirt_lapic::{Config, Delivery, Destination, Effect, LocalApic, Message, Now, addresses};
//!
//! let now = Now::default();
//! let mut apics = [LocalApic::new(Config::intel(0)), LocalApic::new(Config::intel(1))];
//! for apic in &mut apics {
//!     let _ = apic.mmio_write(0xf0, 4, 0x1ff, now); // SVR: software enable
//! }
//!
//! // Processor 0 sends vector 0x41 to everyone else.
//! let Effect::Send(ipi) = apics[0].mmio_write(0x300, 4, 0x000c_4041, now) else { panic!() };
//! assert_eq!(ipi, Message::edge(Destination::Others, Delivery::Fixed, 0x41));
//! for (index, apic) in apics.iter_mut().enumerate() {
//!     if addresses(ipi.destination, apic, index == 0) {
//!         apic.accept(&ipi);
//!     }
//! }
//!
//! // Processor 1 takes it once its task priority is below class 4.
//! apics[1].set_cr8(4);
//! assert_eq!(apics[1].pending(), None);
//! apics[1].set_cr8(3);
//! assert_eq!(apics[1].acknowledge(), 0x41);
//! assert_eq!(apics[1].ppr(), 0x40);
//! assert_eq!(apics[1].mmio_write(0xb0, 4, 0, now), Effect::None); // EOI
//! assert_eq!(apics[1].ppr(), 0x30);
//! ```
//!
//! # Not here
//! - AMD's extended register space (offset 400H on: SEOI, IER, extended LVT) and remote read; the version register says so.
//! - The three-wire APIC bus of the P6 family and before: arbitration IDs, checksum and accept errors, retries.
#![no_std]
#![forbid(unsafe_code)]
#![deny(missing_docs)]

pub mod access;
pub mod apic;
pub mod base;
pub mod config;
pub mod destination;
pub mod errors;
pub mod interrupt;
pub mod lvt;
pub mod message;
pub mod priority;
pub mod register;
pub mod timer;
pub mod vectors;

pub use access::Effect;
pub use apic::{Latches, LocalApic, Pin};
pub use base::{ApicBase, ApicMode};
pub use config::{Config, Vendor};
pub use destination::{addresses, arbitrate};
pub use errors::{ErrorStatus, Errors};
pub use interrupt::EndOfInterrupt;
pub use lvt::{Lvt, LvtEntry};
pub use message::{Delivery, Destination, Icr, Message, Trigger};
pub use timer::{NextEvent, Now, Timer, TimerMode};
pub use vectors::VectorSet;

/// The example in the README is compiled and run with the others.
#[cfg(doctest)]
#[doc = include_str!("../README.md")]
struct Readme;
