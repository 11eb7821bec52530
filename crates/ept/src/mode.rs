//! Which paging mode is it, and what do the control registers make of an access?
//!
//! [`Paging`] is computed when a control register changes, not when an address is translated: it holds masks, so that a
//! feature that is off is a mask of zeros and costs nothing in the walk.
//!
//! Source: SDM 3A 4.1.1, Four Paging Modes; 4.1.3, Paging-Mode Modifiers; 4.6.1, Determination of Access Rights (rev 077).

use x86_state::{Cpu, Cr0, Cr4, Efer, Gva, PagingMode, Rflags};

use crate::entry::{PagingSupport, Reserved, pte, reserved_bits};

/// What an access does.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
pub enum Operation {
    /// Reads data.
    #[default]
    Read,
    /// Writes data. A read-modify-write access is a write.
    Write,
    /// Fetches an instruction.
    Fetch,
}

/// On whose behalf an access is made (SDM 3A 4.6.1).
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
pub enum Privilege {
    /// By a program at CPL 3; also the shadow-stack accesses of WRUSS.
    #[default]
    User,
    /// By a program at CPL 0 to 2.
    Supervisor,
    /// By the processor, to a system data structure (descriptor tables, TSS), at any CPL.
    ImplicitSupervisor,
}

/// One access to memory.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct Access {
    /// What it does.
    pub operation: Operation,
    /// For whom.
    pub privilege: Privilege,
    /// Is it a shadow-stack access? Never a fetch.
    pub shadow_stack: bool,
    /// How many bytes, from the address on; not beyond the page's end. Only sub-page permissions look at it.
    pub bytes: u16,
}

impl Access {
    /// An access of one byte.
    #[must_use]
    #[inline]
    pub const fn new(operation: Operation, privilege: Privilege) -> Self {
        Self { operation, privilege, shadow_stack: false, bytes: 1 }
    }

    /// This access made by the shadow-stack mechanism.
    #[must_use]
    pub const fn shadow_stack(mut self) -> Self {
        self.shadow_stack = true;
        self
    }

    /// Does it write?
    #[must_use]
    #[inline]
    pub const fn is_write(self) -> bool {
        matches!(self.operation, Operation::Write)
    }

    /// Is it an instruction fetch?
    #[must_use]
    #[inline]
    pub const fn is_fetch(self) -> bool {
        matches!(self.operation, Operation::Fetch)
    }

    /// Is it a user-mode access?
    #[must_use]
    #[inline]
    pub const fn is_user(self) -> bool {
        matches!(self.privilege, Privilege::User)
    }
}

/// Where PAE paging finds its four page-directory-pointer-table entries.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Pdptes {
    /// In registers, loaded and checked by MOV CR or by VM entry (SDM 3A 4.4.1, PDPTE Registers).
    Registers([u64; 4]),
    /// In memory, read and checked on demand in the walk: under nested paging (APM 2 15.25.10, Legacy PAE Mode), and natively
    /// on modern AMD processors (APM 2 5.5.3, TLB Management).
    InMemory,
}

/// Which linear addresses are translated by HLAT paging first (SDM 3A 4.5.1, Ordinary Paging and HLAT Paging).
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Hlat {
    /// None: the "enable HLAT" VM-execution control is 0.
    #[default]
    Off,
    /// Those with bit 63 set (prefix size 1), from this HLATP.
    UpperHalf(u64),
    /// All of them (prefix size 0), from this HLATP.
    All(u64),
}

/// The paging-mode modifiers that decide about access rights.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Modifiers {
    /// CR0.WP.
    pub write_protect: bool,
    /// CR4.SMEP.
    pub smep: bool,
    /// CR4.SMAP.
    pub smap: bool,
    /// CR4.PKE; always false outside 4-level and 5-level paging.
    pub pke: bool,
    /// CR4.PKS; always false outside 4-level and 5-level paging.
    pub pks: bool,
    /// CR4.PGE.
    pub global: bool,
    /// IA32_EFER.NXE, and a mode whose entries have an XD bit.
    pub execute_disable: bool,
    /// EFLAGS.AC.
    pub alignment_check: bool,
}

/// Masks for the usual entry of one level: present, well formed, accessed, not a large page. An address beyond 48 bits is not
/// usual: no second dimension has to ask whether it is too wide, then.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct Usual {
    pub(crate) mask: u64,
    pub(crate) want: u64,
}

/// Bits `[63:48]`.
pub(crate) const WIDE: u64 = !0 << 48;

/// One dimension of ordinary paging: how a linear address is translated at present.
///
/// # Invariants
/// The masks follow from the mode and the processor's support, as [`reserved_bits`] gives them.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Paging {
    mode: PagingMode,
    /// CR3, all 64 bits of it.
    pub cr3: u64,
    /// The PDPTEs of PAE paging.
    pub pdptes: Pdptes,
    /// Hypervisor-managed linear-address translation.
    pub hlat: Hlat,
    /// Bits of control registers that decide about access rights.
    pub modifiers: Modifiers,
    /// PKRU.
    pub pkru: u32,
    /// Bits `[31:0]` of IA32_PKRS.
    pub pkrs: u32,
    support: PagingSupport,
    reserved: [Reserved; 5],
    pub(crate) usual: [Usual; 5],
    pub(crate) frame: u64,
}

/// What the AND of all entries (XD inverted) must look like: `rights & care == want`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Rule {
    pub(crate) care: u64,
    pub(crate) want: u64,
    /// Protection keys or the shadow stack have a word in it.
    pub(crate) special: bool,
}

impl Paging {
    /// Paging as these registers have it, on a processor with this support.
    ///
    /// PDPTEs are taken from memory; set [`Paging::pdptes`] where there are registers. HLAT is off, PKRU and IA32_PKRS allow
    /// everything, EFLAGS.AC is 0.
    #[must_use]
    pub const fn new(cr0: Cr0, cr3: u64, cr4: Cr4, efer: Efer, support: &PagingSupport) -> Self {
        // SDM 3A 4.1.1 decides by LME; while CR0.PG is 1, LMA equals it.
        let mode = if !cr0.contains(Cr0::PG) {
            PagingMode::None
        } else if !cr4.contains(Cr4::PAE) {
            PagingMode::Bits32
        } else if !efer.contains(Efer::LME) {
            PagingMode::Pae
        } else if cr4.contains(Cr4::LA57) {
            PagingMode::Level5
        } else {
            PagingMode::Level4
        };
        let long = matches!(mode, PagingMode::Level4 | PagingMode::Level5);
        let nxe = efer.contains(Efer::NXE);
        let reserved = reserved_bits(mode, support, cr4.contains(Cr4::PSE), nxe);
        let frame = match mode {
            PagingMode::Bits32 => 0xffff_f000,
            _ => support.address.frame(),
        };
        let mut usual = [Usual { mask: 0, want: 0 }; 5];
        let mut level = 0;
        while level < 5 {
            let row = reserved[level];
            let (must_be_0, size) = match level {
                0 => (row.page, 0),
                _ if row.may_map_page => (row.table, pte::PAGE_SIZE),
                _ => (row.table, 0),
            };
            let set = pte::PRESENT | pte::ACCESSED;
            usual[level] = Usual { mask: set | must_be_0 | size | frame & WIDE, want: set };
            level += 1;
        }
        Self {
            mode,
            cr3,
            pdptes: Pdptes::InMemory,
            hlat: Hlat::Off,
            modifiers: Modifiers {
                write_protect: cr0.contains(Cr0::WP),
                smep: cr4.contains(Cr4::SMEP),
                smap: cr4.contains(Cr4::SMAP),
                pke: long && cr4.contains(Cr4::PKE),
                pks: long && cr4.contains(Cr4::PKS),
                global: cr4.contains(Cr4::PGE),
                execute_disable: nxe && (long || matches!(mode, PagingMode::Pae)),
                alignment_check: false,
            },
            pkru: 0,
            pkrs: 0,
            support: *support,
            reserved,
            usual,
            frame,
        }
    }

    /// Paging as a processor's registers have it, except PKRU, IA32_PKRS, HLAT and PDPTE registers, which not every use has.
    #[must_use]
    pub const fn of_cpu(cpu: &Cpu, support: &PagingSupport) -> Self {
        let mut paging = Self::new(cpu.cr0, cpu.cr3, cpu.cr4, cpu.efer, support);
        paging.modifiers.alignment_check = cpu.rflags.contains(Rflags::AC);
        paging
    }

    /// The paging mode.
    #[must_use]
    #[inline]
    pub const fn mode(&self) -> PagingMode {
        self.mode
    }

    /// What the processor supports.
    #[must_use]
    pub const fn support(&self) -> &PagingSupport {
        &self.support
    }

    /// The reserved bits of a level, 1 to 5.
    #[must_use]
    #[inline]
    pub const fn reserved(&self, level: u8) -> Reserved {
        self.reserved[(level - 1) as usize % 5]
    }

    /// The HLATP, if HLAT paging translates this address first.
    #[must_use]
    #[inline]
    pub const fn hlat_for(&self, gva: Gva) -> Option<u64> {
        match self.hlat {
            Hlat::All(root) => Some(root),
            Hlat::UpperHalf(root) if gva.0 >> 63 == 1 => Some(root),
            _ => None,
        }
    }

    /// What an access asks of the combined rights (SDM 3A 4.6.1, Determination of Access Rights).
    #[inline]
    pub(crate) const fn rule(&self, access: Access) -> Rule {
        let modifiers = &self.modifiers;
        let mut must_be_set = 0;
        let mut must_be_clear = 0;
        match access.operation {
            Operation::Read => {}
            Operation::Write => {
                if access.is_user() || modifiers.write_protect {
                    must_be_set |= pte::WRITE;
                }
            }
            Operation::Fetch => must_be_set |= pte::EXECUTE_DISABLE,
        }
        match access.privilege {
            Privilege::User => must_be_set |= pte::USER,
            Privilege::Supervisor | Privilege::ImplicitSupervisor => {
                let explicit = matches!(access.privilege, Privilege::Supervisor);
                let prevented = match access.operation {
                    Operation::Fetch => modifiers.smep,
                    _ => modifiers.smap && !(explicit && modifiers.alignment_check),
                };
                if prevented {
                    must_be_clear |= pte::USER;
                }
            }
        }
        let keys = (modifiers.pke || modifiers.pks) && !access.is_fetch();
        Rule { care: must_be_set | must_be_clear, want: must_be_set, special: keys || access.shadow_stack }
    }

    /// Does the protection key in `leaf` deny a data access to an address of the given mode (SDM 3A 4.6.2, Protection Keys)?
    #[must_use]
    pub const fn key_denies(&self, leaf: u64, user_address: bool, access: Access) -> bool {
        let modifiers = &self.modifiers;
        let (enabled, register) = if user_address { (modifiers.pke, self.pkru) } else { (modifiers.pks, self.pkrs) };
        if !enabled || access.is_fetch() {
            return false;
        }
        let key = leaf >> 59 & 0xf;
        let access_disable = register >> (2 * key) & 1 == 1;
        let write_disable = register >> (2 * key + 1) & 1 == 1;
        access_disable || write_disable && access.is_write() && (modifiers.write_protect || access.is_user())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_usual_entry_is_present_accessed_and_free_of_reserved_bits() {
        let support = PagingSupport::new(46);
        let long = Paging::new(Cr0::PE | Cr0::PG, 0, Cr4::PAE, Efer::LME, &support);
        assert_eq!(long.mode(), PagingMode::Level4);
        assert_eq!(long.usual[1].mask & pte::PAGE_SIZE, pte::PAGE_SIZE);
        assert_eq!(long.usual[0].mask & pte::PAT_4K, 0);
        assert_eq!(long.usual[3].want, pte::PRESENT | pte::ACCESSED);
        // PS means nothing in 32-bit paging without CR4.PSE.
        let legacy = Paging::new(Cr0::PE | Cr0::PG, 0, Cr4::empty(), Efer::empty(), &support);
        assert_eq!(legacy.usual[1].mask & pte::PAGE_SIZE, 0);
        assert_eq!(legacy.frame, 0xffff_f000);
    }

    #[test]
    fn keys_belong_to_long_mode_only() {
        let support = PagingSupport::new(46);
        let cr4 = Cr4::PAE | Cr4::PKE | Cr4::PKS;
        let pae = Paging::new(Cr0::PG, 0, cr4, Efer::empty(), &support);
        assert!(!pae.modifiers.pke && !pae.modifiers.pks);
        let long = Paging::new(Cr0::PG, 0, cr4, Efer::LME, &support);
        assert!(long.modifiers.pke && long.modifiers.pks);
    }
}
