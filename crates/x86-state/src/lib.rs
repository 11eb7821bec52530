//! What state does an x86 processor have?
//!
//! The ground floor of softvirt: plain values and tables, without `std` and without allocation. The models of VMX and SVM,
//! the page walks and the emulator stand on it, and a hypervisor project may too. It holds what a processor *is*; what
//! virtualization does with it is not here.
//!
//! | module | answers |
//! |---|---|
//! | [`addr`] | Where does an address live, and is it well formed? |
//! | [`regs`] | What does each bit of a control, flag or debug register mean? |
//! | [`segment`] | What does a segment register hold, in VMX's and in SVM's encoding? |
//! | [`cpu`] | What state does a logical processor have? |
//! | [`event`] | What interrupts a program? |
//! | [`instruction`] | What does virtualization need to know of an instruction? |
//! | [`feature`] | Which features exist, and where does CPUID announce them? |
//! | [`profile`] | Which processor is it? |
//! | [`profiles`] | Which processors does softvirt know by name? |
//! | [`msr`] | Which model-specific registers are there, and what does a write of one do? |
//! | [`mem`] | What is in physical memory? |
//!
//! ```
//! use x86_state::{Cpu, CpuMode, Cr0, Efer, Msr, MsrAnswer, MsrFault, msr, profiles};
//!
//! let skylake = profiles::by_name("skylake-sp").unwrap();
//! let mut cpu = Cpu::reset(0x50654);
//! assert_eq!(cpu.mode(), CpuMode::Real);
//!
//! // WRMSR may set LME, but not while paging is on, and never a reserved bit.
//! let lme = Efer::LME.bits();
//! assert_eq!(msr::check_write(Msr::EFER, lme, &cpu.msr_context(skylake)), MsrAnswer::Accepts);
//! let reserved = MsrAnswer::Faults(MsrFault::ReservedBits(2));
//! assert_eq!(msr::check_write(Msr::EFER, lme | 2, &cpu.msr_context(skylake)), reserved);
//! cpu.cr0 |= Cr0::PE | Cr0::PG;
//! let while_paging = MsrAnswer::Faults(MsrFault::LmeWhilePaging);
//! assert_eq!(msr::check_write(Msr::EFER, lme, &cpu.msr_context(skylake)), while_paging);
//! ```
#![no_std]
#![forbid(unsafe_code)]
#![deny(missing_docs)]

pub mod addr;
pub mod cpu;
pub mod event;
pub mod feature;
pub mod instruction;
pub mod mem;
pub mod msr;
pub mod profile;
pub mod profiles;
pub mod regs;
pub mod segment;

pub use addr::{Gpa, Gva, Hpa};
pub use cpu::{ActivityState, Cet, Cpu, CpuMode, DescriptorTable, Fred, Gpr, Gprs, PagingMode, Segments};
pub use event::{Event, EventType, Exception, ExceptionClass, InterruptionInfo};
pub use feature::{CpuidLeaf, CpuidReg, Feature, FeatureSet};
pub use instruction::{Instruction, MemoryOperand, Op, OpClass, Operand, Size, Stage};
pub use mem::PhysMemory;
pub use msr::{
    ListAnswer, ListFault, MaskedMsr, Msr, MsrAnswer, MsrContext, MsrFault, MsrFile, MsrMask, NoMsrs, Platform,
};
pub use profile::{AllowedSettings, CpuProfile, Knobs, RawProfile, VmxMsr};
pub use regs::{Cr0, Cr4, DebugCtl, Dr6, Dr7, Efer, Interruptibility, PendingDebug, Rflags, Xcr0};
pub use segment::{AccessRights, Segment, SegmentRegister, Selector, SvmAttributes};
