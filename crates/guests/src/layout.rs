//! Where is what in a guest's memory? Physical addresses; the identity mapping makes them linear addresses, too.
//!
//! Everything is between 1 MByte, where boot loaders like to put kernels, and [`END`]. Below 1 MByte there is only what a processor needs
//! that starts in real-address mode ([`TRAMPOLINE`]), put there at run time.

/// The multiboot header and the 32-bit code behind it.
pub const BOOT: u64 = 0x10_0000;
/// The GDT.
pub const GDT: u64 = 0x10_1000;
/// The TSS of the host.
pub const TSS: u64 = 0x10_1400;
/// The TSS of L2.
pub const TSS_L2: u64 = 0x10_1800;
/// A 32-bit TSS to switch tasks to.
pub const TSS_32: u64 = 0x10_1c00;
/// The IDT of the host: 256 entries of 16 bytes.
pub const IDT: u64 = 0x10_2000;
/// The IDT of L2: 256 entries of 16 bytes, or of 8.
pub const IDT_L2: u64 = 0x10_3000;
/// What a hypervisor writes to its VMCS: see [`crate::vmcs`].
pub const VMCS_ROWS: u64 = 0x10_4000;
/// The 64-bit code.
pub const CODE: u64 = 0x10_8000;
/// The 64-bit code of a second processor.
pub const CODE_AP: u64 = 0x10_f000;
/// The PML4 of the identity mapping; behind it the page-directory-pointer table and four page directories of 2-MByte pages.
pub const PAGING: u64 = 0x11_0000;
/// A page directory of 32-bit paging that maps 4 GByte to itself in 4-MByte pages.
pub const PAGING_32: u64 = 0x11_6000;
/// The EPT PML4; behind it the page-directory-pointer table, four page directories of 2-MByte pages, and two page tables for the first
/// 4 MByte.
pub const EPT: u64 = 0x11_8000;
/// The EPT entry of the 4-KByte page at this guest-physical address below 4 MByte.
#[must_use]
pub const fn ept_entry(gpa: u64) -> u64 {
    EPT + 0x6000 + 8 * (gpa >> 12)
}

/// The VMXON region.
pub const VMXON_REGION: u64 = 0x12_0000;
/// The VMCS region.
pub const VMCS_REGION: u64 = 0x12_1000;
/// The MSR bitmaps.
pub const MSR_BITMAPS: u64 = 0x12_2000;
/// The I/O bitmaps A and B.
pub const IO_BITMAPS: u64 = 0x12_3000;
/// The virtual-APIC page.
pub const VIRTUAL_APIC: u64 = 0x12_5000;
/// An MSR list.
pub const MSR_LIST: u64 = 0x12_6000;
/// The page-modification log.
pub const PML: u64 = 0x12_7000;
/// A page for what one guest needs: the EPTP list, SPP tables, bitmaps.
pub const SPARE: u64 = 0x12_8000;
/// Four more of them.
pub const SPARE_2: u64 = 0x12_9000;

/// What code keeps in memory.
pub const VARIABLES: u64 = 0x13_0000;
/// What is copied to [`TRAMPOLINE`], and the 32-bit code that goes on from there.
pub const TRAMPOLINE_COPY: u64 = 0x13_8000;
/// The top of the host's stack.
pub const STACK: u64 = 0x14_0000;
/// The top of the stack that the host's TSS has for level 0.
pub const STACK_0: u64 = 0x14_4000;
/// The top of the second processor's stack.
pub const STACK_AP: u64 = 0x14_8000;
/// The top of L2's stack.
pub const STACK_L2: u64 = 0x15_0000;
/// The top of the stack that L2's TSS has for level 0.
pub const STACK_L2_0: u64 = 0x15_8000;

/// L2's first instruction.
pub const L2: u64 = 0x20_0000;
/// Where all gates of [`IDT_L2`] lead.
pub const L2_HANDLER: u64 = 0x20_1000;
/// Data of L2.
pub const L2_DATA: u64 = 0x20_2000;
/// A page that guests are denied.
pub const L2_HOLE: u64 = 0x20_8000;
/// The end of what is used.
pub const END: u64 = 0x22_0000;

/// Where code of real-address mode is copied.
pub const TRAMPOLINE: u64 = 0x8000;

/// 64-bit code of level 0.
pub const CODE_64: u16 = 0x08;
/// Data of level 0.
pub const DATA: u16 = 0x10;
/// 32-bit code of level 0.
pub const CODE_32: u16 = 0x18;
/// 16-bit code of level 0, with base 0 and a limit of 64 KByte.
pub const CODE_16: u16 = 0x20;
/// 16-bit data of level 0, with base 0 and a limit of 64 KByte.
pub const DATA_16: u16 = 0x28;
/// 32-bit code of level 3.
pub const CODE_32_USER: u16 = 0x30 | 3;
/// Data of level 3.
pub const DATA_USER: u16 = 0x38 | 3;
/// 64-bit code of level 3.
pub const CODE_64_USER: u16 = 0x40 | 3;
/// The TSS of the host (16 bytes).
pub const TASK: u16 = 0x50;
/// The TSS of L2 (16 bytes).
pub const TASK_L2: u16 = 0x60;
/// The 32-bit TSS (8 bytes).
pub const TASK_32: u16 = 0x70;
/// The GDT's limit.
pub const GDT_LIMIT: u16 = 0x7f;
