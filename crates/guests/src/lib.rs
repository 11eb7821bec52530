//! Bare-metal guests, assembled in Rust: small hypervisors and programs of every mode, as images that boot.
//!
//! For `softvirt run` without an image, for tests and for measurements. The images are multiboot 1 kernels that know nothing of softvirt:
//! they use a serial line at 3F8H and the isa-debug-exit device at F4H, and would do the same on a real processor.
//!
//! | module | answers |
//! |---|---|
//! | [`layout`] | Where is what in a guest's memory? |
//! | [`code`](mod@code) | How is code assembled that prints? |
//! | [`tables`] | Which tables does a guest begin with: paging, EPT, GDT, IDT? |
//! | [`image`] | How does it become a file that a boot loader loads? |
//! | [`boot`] | How does it come into 64-bit mode? |
//! | [`vmcs`] | How is a VMCS set up in machine code? |
//! | [`hypervisor`] | What does a small hypervisor do? |
//! | [`smp`] | How does a second processor start? |
//! | [`report`] | What does it say of a VM exit? |
//! | [`smoke`] | Does each mode of the processor work? |
//! | [`bench`](mod@bench) | Which loops are measured, on softvirt and on other emulators? |
//! | [`demonstration`](mod@demonstration) | What does a VM exit look like, and what does a failed VM entry? |
//!
//! A hypervisor whose guest executes CPUID once, and that prints the exit:
//!
//! ```
//! use softvirt_guests::hypervisor::Hypervisor;
//! use softvirt_guests::report::print_exit;
//! use softvirt_guests::vmcs::Mode;
//!
//! let hypervisor = Hypervisor::new(Mode::Long64, |a| a.cpuid())?;
//! let image = hypervisor.image(
//!     |_| Ok(()),
//!     |a, ways| {
//!         print_exit(a)?; // exit 10 at 200000 length 2
//!         a.jmp(ways.done)
//!     },
//! )?;
//! let file = image.to_elf();
//! assert_eq!(&file[..4], b"\x7fELF");
//! # Ok::<(), softvirt_guests::image::BuildError>(())
//! ```
#![forbid(unsafe_code)]
#![deny(missing_docs)]

pub mod bench;
pub mod boot;
pub mod code;
pub mod demonstration;
pub mod hypervisor;
pub mod image;
pub mod layout;
pub mod report;
pub mod smoke;
pub mod smp;
pub mod tables;
pub mod vmcs;

pub use demonstration::demonstration;

/// A guest: an image, and what it does.
#[derive(Clone, Debug)]
pub struct Guest {
    /// What it is called.
    pub name: &'static str,
    /// What it shows, in a sentence.
    pub what: &'static str,
    /// The file: a multiboot 1 kernel, or a boot sector of 512 bytes.
    pub image: Vec<u8>,
    /// What it prints on the serial line.
    pub serial: &'static str,
}
