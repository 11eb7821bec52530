//! What does an entry of page tables say in words, and where does it lead? For `walk` and `lint-ept`.

use super::Failure;
use softvirt::ept::entry::{AddressBits, ept_reserved_bits, epte, pte};
use softvirt::ept::{Dimension, Ept, EptControls, EptSupport, FailureKind, MemoryType, Paging, PagingSupport};
use softvirt::vmx_model::describe::BitList;
use softvirt::x86_state::{CpuProfile, PagingMode};

/// EPT with what its type keeps to itself.
#[derive(Clone, Copy)]
pub(crate) struct Extended {
    pub(crate) ept: Ept<'static>,
    pub(crate) root: u64,
    pub(crate) levels: u8,
}

impl Extended {
    /// EPT as an EPTP has it; all other EPT controls are 0. An EPTP that is only an address means 4 levels without flags.
    pub(crate) fn new(eptp: u64, support: &EptSupport) -> Result<Self, Failure> {
        let levels = match eptp >> 3 & 7 {
            3 => 4,
            4 => 5,
            0 if eptp & 0xfff == 0 => 4,
            other => {
                let levels = other + 1;
                return Err(Failure(format!(
                    "--eptp {eptp:#x}: bits 5:3 say {levels} levels, and must say 4 or 5 (3 or 4 in them)"
                )));
            }
        };
        let reserved = eptp & (support.address.reserved() | 0xfff << 52 | 0xf00);
        if reserved != 0 {
            return Err(Failure(format!("--eptp {eptp:#x}: {} must be 0 on this processor", BitList(reserved))));
        }
        let root = eptp & support.address.frame();
        Ok(Self { ept: Ept::new(eptp, EptControls::default(), support), root, levels })
    }

    /// The tables in words.
    pub(crate) fn words(&self) -> String {
        let flags = if self.ept.flags_enabled() { "with" } else { "without" };
        format!("{}-level EPT at {:#x} {flags} accessed and dirty flags", self.levels, self.root)
    }

    /// Does this entry map a page (SDM 3C 28.3.2, EPT Translation Mechanism)?
    pub(crate) fn maps_page(&self, level: u8, entry: u64) -> bool {
        let page = entry & epte::PAGE != 0;
        match level {
            1 => true,
            2 => self.ept.support().page_2m && page,
            3 => self.ept.support().page_1g && page,
            _ => false,
        }
    }

    /// The address in an entry, and log2 of the size of what it maps or points to.
    pub(crate) fn frame(&self, level: u8, entry: u64) -> (u64, u8) {
        large_frame(self.ept.support().address, level, self.maps_page(level, entry), entry)
    }

    /// What a present entry has that is not supported (SDM 3C 28.3.3.1, EPT Misconfigurations); `None` if nothing.
    pub(crate) fn misconfiguration(&self, level: u8, entry: u64) -> Option<String> {
        if self.ept.check_entry(level, entry) != Some(FailureKind::Misconfigured) {
            return None;
        }
        let page = self.maps_page(level, entry);
        let mut causes = Vec::new();
        match (entry & epte::READ != 0, entry & epte::WRITE != 0) {
            (false, true) => causes.push("write (bit 1) without read (bit 0)".to_owned()),
            (false, false) if !self.ept.support().execute_only => {
                causes.push("execute (bit 2) without read (bit 0), which this processor does not support".to_owned());
            }
            _ => {}
        }
        let reserved = entry & ept_reserved_bits(level, page, self.ept.support().address);
        if reserved != 0 {
            causes.push(format!("reserved {}", BitList(reserved)));
        }
        let memory_type = entry >> 3 & 7;
        if page && !epte::is_memory_type(memory_type) {
            causes.push(format!("undefined memory type {memory_type} (bits 5:3)"));
        }
        Some(causes.join(", "))
    }

    /// An EPT entry, bit by bit.
    pub(crate) fn entry_words(&self, level: u8, entry: u64) -> String {
        if entry & 7 == 0 {
            return not_present(entry);
        }
        let page = self.maps_page(level, entry);
        let (address, bits) = self.frame(level, entry);
        let mut words = vec![rights_words(entry)];
        if page {
            words.push(match MemoryType::from_encoding((entry >> 3 & 7) as u8) {
                Some(memory_type) => type_name(memory_type).to_owned(),
                None => format!("memory type {}", entry >> 3 & 7),
            });
        }
        let flag = |mask: u64, name: &'static str| (entry & mask != 0).then(|| name.to_owned());
        words.extend(page.then(|| flag(epte::IGNORE_PAT, "ignore PAT")).flatten());
        if self.ept.flags_enabled() {
            words.extend(flag(epte::ACCESSED, "accessed"));
            words.extend(page.then(|| flag(epte::DIRTY, "dirty")).flatten());
        }
        words.extend(flag(epte::EXECUTE_USER, "user execute (bit 10)"));
        if page {
            words.extend(flag(epte::VERIFY_GUEST_PAGING, "verify guest paging"));
            words.extend(flag(epte::PAGING_WRITE, "paging-write"));
            words.extend(flag(epte::SUPERVISOR_SHADOW_STACK, "supervisor shadow stack"));
        }
        words.extend((level == 1).then(|| flag(epte::SUB_PAGE, "sub-page permissions")).flatten());
        words.extend(flag(epte::SUPPRESS_VE, "suppress #VE"));
        format!("{}; {}", words.join(", "), leads(page, address, bits))
    }
}

/// EPT support of a profile; of any processor without one.
pub(crate) fn ept_support(profile: Option<&CpuProfile>) -> EptSupport {
    profile.map_or(EptSupport::new(52), EptSupport::from_profile)
}

/// Paging support of a profile; of any processor without one.
pub(crate) fn paging_support(profile: Option<&CpuProfile>) -> PagingSupport {
    profile.map_or(PagingSupport::new(52), PagingSupport::from_profile)
}

/// The name of an entry of a level in its dimension.
pub(crate) fn entry_name(dimension: Dimension, level: u8) -> &'static str {
    match (dimension, level) {
        (Dimension::Ept, 5) => "EPT PML5E",
        (Dimension::Ept, 4) => "EPT PML4E",
        (Dimension::Ept, 3) => "EPT PDPTE",
        (Dimension::Ept, 2) => "EPT PDE",
        (Dimension::Ept, _) => "EPT PTE",
        (Dimension::Npt, 5) => "nested PML5E",
        (Dimension::Npt, 4) => "nested PML4E",
        (Dimension::Npt, 3) => "nested PDPE",
        (Dimension::Npt, 2) => "nested PDE",
        (Dimension::Npt, _) => "nested PTE",
        (Dimension::Guest, 5) => "PML5E",
        (Dimension::Guest, 4) => "PML4E",
        (Dimension::Guest, 3) => "PDPTE",
        (Dimension::Guest, 2) => "PDE",
        (Dimension::Guest, _) => "PTE",
    }
}

/// Bits 2:0 of an EPT entry, or the AND of several.
pub(crate) fn rights_words(rights: u64) -> String {
    let names = [(epte::READ, "read"), (epte::WRITE, "write"), (epte::EXECUTE, "execute")];
    let set: Vec<&str> = names.iter().filter(|(bit, _)| rights & bit != 0).map(|(_, name)| *name).collect();
    if set.is_empty() { "nothing".to_owned() } else { set.join(", ") }
}

/// The size of a page, by its log2.
pub(crate) fn size_words(bits: u8) -> String {
    let (unit, shift) = match bits {
        0..20 => ("KByte", 10),
        20..30 => ("MByte", 20),
        _ => ("GByte", 30),
    };
    format!("{}-{unit}", 1_u64 << (bits - shift))
}

/// The manual's abbreviation of a memory type.
pub(crate) fn type_name(memory_type: MemoryType) -> &'static str {
    match memory_type {
        MemoryType::Uncacheable => "UC",
        MemoryType::WriteCombining => "WC",
        MemoryType::WriteThrough => "WT",
        MemoryType::WriteProtected => "WP",
        MemoryType::WriteBack => "WB",
        MemoryType::UncacheableMinus => "UC-",
        MemoryType::CacheDisabled => "CD",
        MemoryType::WriteCombiningPlus => "WC+",
    }
}

/// Does a present entry of ordinary tables map a page?
pub(crate) fn maps_page(paging: &Paging, level: u8, entry: u64) -> bool {
    level == 1 || entry & pte::PAGE_SIZE != 0 && paging.reserved(level).may_map_page
}

/// The address in an entry of ordinary tables, and log2 of the size of what it maps or points to.
pub(crate) fn frame(paging: &Paging, level: u8, entry: u64) -> (u64, u8) {
    let page = maps_page(paging, level, entry);
    match paging.mode() {
        PagingMode::Bits32 if page && level == 2 => (entry & 0xffc0_0000 | (entry & 0x1f_e000) << 19, 22),
        PagingMode::Bits32 => (entry & 0xffff_f000, 12),
        _ => large_frame(paging.support().address, level, page, entry),
    }
}

fn large_frame(address: AddressBits, level: u8, page: bool, entry: u64) -> (u64, u8) {
    let bits = if page { 12 + 9 * (level - 1) } else { 12 };
    (entry & address.frame() & !((1 << bits) - 1), bits)
}

/// An entry of ordinary tables, bit by bit.
pub(crate) fn entry_words(paging: &Paging, level: u8, entry: u64) -> String {
    if entry & pte::PRESENT == 0 {
        return not_present(entry);
    }
    let page = maps_page(paging, level, entry);
    let (address, bits) = frame(paging, level, entry);
    let long = matches!(paging.mode(), PagingMode::Level4 | PagingMode::Level5);
    let mut words = vec!["present"];
    let mut flag = |mask: u64, set: &'static str| {
        if entry & mask != 0 {
            words.push(set);
        }
    };
    // The PDPTEs of PAE paging have no rights and no flags.
    if !(paging.mode() == PagingMode::Pae && level == 3) {
        flag(pte::WRITE, "writable");
        flag(pte::USER, "user");
        flag(pte::ACCESSED, "accessed");
    }
    flag(pte::PWT, "PWT");
    flag(pte::PCD, "PCD");
    if page {
        flag(pte::DIRTY, "dirty");
        flag(pte::GLOBAL, "global");
        flag(if level == 1 { pte::PAT_4K } else { pte::PAT_LARGE }, "PAT");
    }
    if level > 1 && page {
        flag(pte::PAGE_SIZE, "PS");
    }
    if paging.mode() != PagingMode::Bits32 {
        flag(pte::EXECUTE_DISABLE, "NX");
    }
    let key =
        if page && long && entry >> 59 & 0xf != 0 { format!(", key {}", entry >> 59 & 0xf) } else { String::new() };
    format!("{}{key}; {}", words.join(", "), leads(page, address, bits))
}

/// The reserved bits that a present entry of ordinary tables sets.
pub(crate) fn reserved(paging: &Paging, level: u8, entry: u64) -> u64 {
    let reserved = paging.reserved(level);
    entry & if maps_page(paging, level, entry) { reserved.page } else { reserved.table }
}

fn not_present(entry: u64) -> String {
    match entry {
        0 => "not present".to_owned(),
        _ => "not present; the other bits mean nothing to the processor".to_owned(),
    }
}

fn leads(page: bool, address: u64, bits: u8) -> String {
    if page { format!("{} page at {address:#x}", size_words(bits)) } else { format!("table at {address:#x}") }
}
