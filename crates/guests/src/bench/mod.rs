//! Guests whose speed is measured: floppy images that run on softvirt, on Bochs and on real machines alike.
//!
//! An image is loaded by a BIOS (its first 512 bytes, at 0x7c00) or put at 0x7c00 whole. It enters 64-bit mode, writes [`START`] to port
//! 0xe9, runs its loop, writes [`END`] there, and stops the machine by way of port 0x8900, as Bochs has it, or else by a triple fault. It
//! needs 64 MByte of RAM; the hypervisors among them need VMX with EPT.

mod boot;
mod hypervisor;
mod loops;

use iced_x86::IcedError;
use iced_x86::code_asm::CodeAssembler;

/// Written to port 0xe9 when the loop begins.
pub const START: u8 = b'<';
/// Written to port 0xe9 when the loop has ended.
pub const END: u8 = b'>';
/// Written to port 0xe9 when VMX is not to be had, or an exit was not expected.
pub const FAILED: u8 = b'!';
/// Where the image is in memory; execution begins there in real-address mode.
pub const LOAD_ADDRESS: u64 = 0x7c00;
/// RAM that every guest can do with.
pub const RAM_BYTES: u64 = 64 << 20;

/// A guest whose speed is measured.
#[derive(Clone, Copy)]
pub struct BenchGuest {
    /// Its name.
    pub name: &'static str,
    /// What it does, in a sentence.
    pub what: &'static str,
    /// Iterations that take an emulator of 100 million instructions a second about a second.
    pub usual_iterations: u32,
    body: Body,
}

/// Code in 64-bit mode between the two reports. `n` is the number of iterations.
type Body = fn(code: &mut CodeAssembler, n: u32) -> Result<(), IcedError>;

impl BenchGuest {
    /// The image, a multiple of 512 bytes, for a loop of `n` iterations.
    ///
    /// # Panics
    /// If the guest cannot be assembled, which a test excludes.
    #[must_use]
    pub fn image(&self, n: u32) -> Vec<u8> {
        boot::image(|code| (self.body)(code, n)).expect("it assembles")
    }
}

/// All of them.
#[must_use]
pub const fn all() -> &'static [BenchGuest] {
    &[
        BenchGuest {
            name: "integer",
            what: "arithmetic in registers, one block of 12 instructions",
            usual_iterations: 8_000_000,
            body: loops::integer,
        },
        BenchGuest {
            name: "branchy",
            what: "branches by pseudo-random bits, calls and returns",
            usual_iterations: 5_000_000,
            body: loops::branchy,
        },
        BenchGuest {
            name: "memory",
            what: "loads and stores in 32 KByte, 4-KByte pages",
            usual_iterations: 10_000,
            body: loops::memory,
        },
        BenchGuest {
            name: "paging",
            what: "one load and one store in each of 4096 pages of 4 KByte, over and over",
            usual_iterations: 1_500,
            body: loops::paging,
        },
        BenchGuest {
            name: "paging-ept",
            what: "the same as a guest in VMX non-root operation, under EPT with 4-KByte pages",
            usual_iterations: 1_500,
            body: hypervisor::paging,
        },
        BenchGuest {
            name: "cpuid-exit",
            what: "CPUID in VMX non-root operation; the hypervisor advances RIP and resumes",
            usual_iterations: 300_000,
            body: hypervisor::cpuid,
        },
    ]
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_guest_assembles_to_a_bootable_floppy_image() {
        for guest in all() {
            let image = guest.image(100_000);
            assert_eq!(image[510..512], [0x55, 0xaa], "{}", guest.name);
            assert_eq!(image.len() % 512, 0, "{}", guest.name);
            // The boot sector loads at most this much.
            assert!(image.len() <= 18 * 512, "{}", guest.name);
        }
    }
}
