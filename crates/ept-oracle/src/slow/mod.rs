//! What does the manual say? A walker that is slow and in the order of its sentences. It shares no code with `softvirt-ept`.
//!
//! Registers go in raw; what software sees comes out. Source: SDM 3A 4.3 to 4.8, SDM 3C 28.3 (rev 077), APM 2 5.10 and 15.25.

mod ept;
mod guest;
mod npt;
mod pointer;

use std::cell::Cell;

use x86_state::{Hpa, PhysMemory};

/// What an access does.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Op {
    /// Reads data.
    Read,
    /// Writes data.
    Write,
    /// Fetches an instruction.
    Fetch,
}

/// One access.
#[derive(Clone, Copy, Debug)]
pub struct Acc {
    /// What it does.
    pub op: Op,
    /// Is it a user-mode access?
    pub user: bool,
    /// Is it an implicit supervisor-mode access?
    pub implicit: bool,
    /// Is it a shadow-stack access?
    pub shadow: bool,
    /// Does it go through DS or ES? Otherwise through another segment; means something for data.
    pub data_segment: bool,
    /// Bytes.
    pub bytes: u16,
}

/// Registers, and what the processor supports.
#[derive(Clone, Copy, Debug)]
pub struct Regs {
    /// CR0.
    pub cr0: u64,
    /// CR3.
    pub cr3: u64,
    /// CR4.
    pub cr4: u64,
    /// IA32_EFER.
    pub efer: u64,
    /// CS.L.
    pub code_64: bool,
    /// EFLAGS.AC.
    pub ac: bool,
    /// PKRU.
    pub pkru: u32,
    /// IA32_PKRS.
    pub pkrs: u32,
    /// Physical-address width.
    pub width: u32,
    /// Address bits that select a key or encryption.
    pub key_bits: u64,
    /// 1-GByte pages are supported.
    pub page_1g: bool,
    /// PSE-36 is supported.
    pub pse36: bool,
    /// The PAT is supported.
    pub pat: bool,
    /// Bit 8 of a PML4E and a PML5E is reserved, as on AMD.
    pub upper_global_reserved: bool,
    /// PDPTE registers, if there are any.
    pub pdpte_registers: Option<[u64; 4]>,
    /// HLAT paging: HLATP, and whether the prefix size is 1.
    pub hlat: Option<(u64, bool)>,
}

/// EPT: the EPTP, VM-execution controls, capabilities.
#[derive(Clone, Copy, Debug)]
pub struct EptRegs {
    /// EPTP.
    pub eptp: u64,
    /// "Mode-based execute control for EPT".
    pub mbe: bool,
    /// "EPT paging-write control".
    pub paging_write: bool,
    /// "Guest-paging verification".
    pub verify: bool,
    /// "EPT-violation #VE".
    pub violation_ve: bool,
    /// The SPPTP, if "sub-page write permissions for EPT" is 1.
    pub sub_page: Option<u64>,
    /// PML address and index, if "enable PML" is 1.
    pub log: Option<(u64, u16)>,
    /// Execute-only translations are supported.
    pub execute_only: bool,
    /// 2-MByte pages are supported.
    pub page_2m: bool,
    /// 1-GByte pages are supported.
    pub page_1g: bool,
    /// Advanced VM-exit information for EPT violations is supported.
    pub advanced: bool,
}

/// The second dimension.
#[derive(Clone, Copy, Debug)]
pub enum Second {
    /// None.
    None,
    /// EPT.
    Ept(EptRegs),
    /// Nested paging: the host's registers, and bits 3, 4 and 6 of VMCB offset 090h.
    Npt {
        /// Registers of the host, with nCR3 in CR3.
        host: Regs,
        /// Guest-mode execute trap.
        gmet: bool,
        /// Supervisor shadow-stack check.
        sss: bool,
        /// Read-only guest page tables.
        rogpt: bool,
    },
}

/// What software sees.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Outcome {
    /// Memory is accessed.
    Page {
        /// The host-physical address.
        hpa: u64,
        /// log2 of the size of the smallest page on the way; 52 if there was none.
        page_bits: u32,
    },
    /// #GP or #SS: the pointer is not canonical.
    NotCanonical,
    /// A page fault, with its error code.
    PageFault(u32),
    /// An EPT violation.
    EptViolation {
        /// Exit qualification.
        qualification: u64,
        /// Guest-physical address.
        gpa: u64,
        /// May it become a virtualization exception?
        convertible: bool,
    },
    /// An EPT misconfiguration.
    EptMisconfiguration {
        /// Guest-physical address.
        gpa: u64,
    },
    /// An SPP-related event.
    SubPage {
        /// Is it an SPP miss?
        miss: bool,
        /// Guest-physical address.
        gpa: u64,
    },
    /// A page-modification log-full event.
    LogFull,
    /// A nested page fault.
    Npf {
        /// EXITINFO1.
        info: u64,
        /// EXITINFO2.
        gpa: u64,
    },
    /// An entry changed under the walk, which is possible here because tables lie in each other.
    Retry,
}

fn bit(value: u64, n: u32) -> bool {
    value >> n & 1 == 1
}

/// Bits high:low of `value`, in place.
fn field(value: u64, high: u32, low: u32) -> u64 {
    value & (u64::MAX >> (63 - high)) & (u64::MAX << low)
}

impl Regs {
    /// Bits M-1:low of an entry, as an address.
    fn address(&self, entry: u64, low: u32) -> u64 {
        field(entry, self.width - 1, low) & !self.key_bits
    }

    /// Bits 51:M of an entry, which must be 0.
    fn beyond_width(&self, entry: u64) -> u64 {
        if self.width < 52 { field(entry, 51, self.width) & !self.key_bits } else { 0 }
    }

    fn long(&self) -> bool {
        bit(self.cr0, 31) && bit(self.cr4, 5) && bit(self.efer, 8)
    }
}

/// The entries of the second dimension that translated one guest-physical address.
#[derive(Clone, Default)]
struct Through {
    entries: Vec<(u64, u64, bool)>, // address, value, maps a page
}

impl Through {
    fn all(&self, n: u32) -> bool {
        self.entries.iter().all(|(_, entry, _)| bit(*entry, n))
    }
    fn any(&self, n: u32) -> bool {
        self.entries.iter().any(|(_, entry, _)| bit(*entry, n))
    }
    fn leaf(&self) -> u64 {
        self.entries.last().map_or(0, |(_, entry, _)| *entry)
    }
    /// Is bit `n` set in every entry but the last?
    fn upper(&self, n: u32) -> bool {
        self.entries[..self.entries.len().saturating_sub(1)].iter().all(|(_, entry, _)| bit(*entry, n))
    }
}

struct GuestEntry {
    level: u32,
    gpa: u64,
    hpa: u64,
    entry: u64,
    through: Through,
}

/// How a walk through ordinary tables ends.
enum Walked {
    To {
        address: u64,
        page_bits: u32,
        entries: Vec<GuestEntry>,
        off: bool,
    },
    /// HLAT paging met bit 11.
    Restart {
        page_bits: u32,
        entries: Vec<GuestEntry>,
    },
    Fault {
        present: bool,
        reserved: bool,
    },
}

/// The slow walker, on a memory.
pub struct Slow<'a> {
    memory: &'a dyn PhysMemory,
    regs: Regs,
    second: Second,
    log_index: Cell<u16>,
}

impl std::fmt::Debug for Slow<'_> {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Slow").field("regs", &self.regs).field("second", &self.second).finish_non_exhaustive()
    }
}

impl<'a> Slow<'a> {
    /// A walker with these registers.
    pub fn new(memory: &'a dyn PhysMemory, regs: Regs, second: Second) -> Self {
        let index = match second {
            Second::Ept(EptRegs { log: Some((_, index)), .. }) => index,
            _ => 0,
        };
        Self { memory, regs, second, log_index: Cell::new(index) }
    }

    /// The PML index as it is now.
    #[must_use]
    pub fn log_index(&self) -> u16 {
        self.log_index.get()
    }

    /// Makes an access through a pointer: segment base and offset added.
    #[must_use]
    pub fn access(&self, pointer: u64, acc: Acc) -> Outcome {
        let Some(linear) = pointer::linear(&self.regs, pointer, acc) else { return Outcome::NotCanonical };
        match self.attempt(linear, acc) {
            Ok((hpa, page_bits)) => Outcome::Page { hpa, page_bits },
            Err(outcome) => outcome,
        }
    }

    /// Sets flags in an entry by a locked read-modify-write; false if other bits have changed since it was read.
    fn raise(&self, at: u64, entry: u64, set: u64, flags: u64, narrow: bool) -> bool {
        let found = if narrow { u64::from(self.memory.read_u32(Hpa(at))) } else { self.memory.read_u64(Hpa(at)) };
        if (found ^ entry) & !flags != 0 {
            return false;
        }
        if found & set != set {
            if narrow {
                self.memory.write_u32(Hpa(at), (found | set) as u32);
            } else {
                self.memory.write_u64(Hpa(at), found | set);
            }
        }
        true
    }
}
