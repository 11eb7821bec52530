//! Where does an address lead? Guest paging, EPT, NPT, and the two-dimensional walk.
//!
//! For hypervisors and emulators that translate guest addresses in software and want to know exactly what a processor would
//! have done: which entry stopped the walk, what the guest or its hypervisor is told, which flags are set. If you only want
//! to read a few bytes of a Linux guest, a simple page-table reader is enough.
//!
//! | module | answers |
//! |---|---|
//! | [`entry`] | What does a bit of an entry mean, and which bits must be 0? |
//! | [`mode`] | Which paging mode is it, and what do the control registers make of an access? |
//! | [`linear`] | Which linear address does a pointer mean, tags (LAM, UAI) removed? |
//! | [`walk`](mod@walk) | Where does a linear address lead in the first dimension? |
//! | [`usual`] | The same at speed, while nothing is out of the ordinary |
//! | [`many`] | How are many addresses translated at once? |
//! | [`nested`] | What stands behind the guest's tables? |
//! | [`ept`] | Where does a guest-physical address lead under EPT? |
//! | [`npt`] | Where does it lead under AMD's nested paging? |
//! | [`fault`] | What does the processor report when a walk has failed? |
//! | [`mmu`] | Where does an address lead, by whatever is cached? TLB and walk caches together |
//! | [`tlb`] | Has this address been translated before? |
//! | [`cache`] | What has been read of the tables before? Paging-structure caches and guest-physical mappings |
//! | [`invalidate`] | What must a processor forget, and when? |
//! | [`memtype`] | Which memory type does an access have? |
//! | [`mtrr`] | Which memory type do the memory type range registers give an address? |
//!
//! ```
//! use softvirt_ept::{Access, Direct, Operation, Paging, PagingSupport, Privilege, walk};
//! use x86_state::{Cr0, Cr4, Efer, Gva, Hpa, mem::WordMemory};
//!
//! // A 1-GByte page at 0x4000_0000 for linear addresses from 0 on, writable by the supervisor.
//! let memory = WordMemory::new([(0x1000, 0x2003), (0x2000, 0x4000_0083)]);
//! let support = PagingSupport::new(46);
//! let paging = Paging::new(Cr0::PE | Cr0::PG, 0x1000, Cr4::PAE, Efer::LME | Efer::LMA, &support);
//!
//! let write = Access::new(Operation::Write, Privilege::Supervisor);
//! let found = walk(&memory, &paging, &Direct, Gva(0x12_3456), write).unwrap();
//! assert_eq!((found.hpa, found.page_bits), (Hpa(0x4012_3456), 30));
//! // The walk has set the accessed flags, and the dirty flag of the entry that maps the page.
//! assert_eq!(memory.words(), [(0x1000, 0x2023), (0x2000, 0x4000_00e3)]);
//!
//! let read = Access::new(Operation::Read, Privilege::User);
//! let failure = walk(&memory, &paging, &Direct, Gva(0), read).unwrap_err();
//! assert_eq!(failure.page_fault_error_code(&paging, read), 0b101); // present, user
//! ```
//!
//! # Not here yet
//! - RMP and VMPL checks of SEV-SNP; enclave accesses; transactional regions.
//! - Lint and composition of tables.
#![no_std]
#![forbid(unsafe_code)]
#![deny(missing_docs)]

pub mod cache;
pub mod entry;
pub mod ept;
pub mod fault;
pub mod invalidate;
pub mod linear;
pub mod many;
pub mod memtype;
pub mod mmu;
pub mod mode;
pub mod mtrr;
pub mod nested;
pub mod npt;
pub mod tlb;
pub mod usual;
pub mod walk;

pub use cache::{WalkCaches, WalkContext};
pub use entry::{AddressBits, PagingSupport};
pub use ept::{Ept, EptControls, EptSupport, Misconfiguration, PageModificationLog};
pub use fault::{Dimension, EptEvent, Failure, FailureKind, Purpose};
pub use invalidate::{Current, Invalidate, Invlpgb, Kind, Mapping, Retention, Space, Vendor};
pub use linear::{NotCanonical, Pointers, Reference};
pub use many::walk_many;
pub use memtype::{Behind, MemoryType, PatChoice, effective_memory_type};
pub use mmu::{AddressSpace, Mmu, MmuContext};
pub use mode::{Access, Hlat, Modifiers, Operation, Paging, Pdptes, Privilege};
pub use mtrr::{Block, MtrrRange, Mtrrs, Typed};
pub use nested::{Direct, SecondDimension};
pub use npt::{Npt, NptControls};
pub use tlb::{CachedPage, Context, Demand, Lookup, SecondRights, Tlb};
pub use usual::walk;
pub use walk::{CachingDimension, PdpteLoadFailure, Translation, load_pdptes, walk_cached};
