//! What does an entry of page tables say in words, and where does it lead? For `walk` and `lint-ept`.

use super::Failure;
use softvirt::ept::entry::{epte, pte};
use softvirt::ept::{Dimension, Ept, EptControls, EptSupport, MemoryType, Misconfiguration, Paging, PagingSupport};
use softvirt::vmx_model::describe::BitList;
use softvirt::x86_state::{CpuProfile, PagingMode};

/// EPT as an EPTP and these controls have it. An EPTP that is only an address means 4 levels without flags.
pub(crate) fn ept(eptp: u64, controls: EptControls, support: &EptSupport) -> Result<Ept<'static>, Failure> {
    let bad = |words: String| Err(Failure(format!("--eptp {eptp:#x}: {words}")));
    if eptp & 0xfff != 0 {
        let levels = (eptp >> 3 & 7) + 1;
        if !matches!(levels, 4 | 5) {
            return bad(format!("bits 5:3 say {levels} levels, and must say 4 or 5 (3 or 4 in them)"));
        }
        if !matches!(eptp & 7, 0 | 6) {
            return bad(format!("bits 2:0 are {}, and must be 0 (uncacheable) or 6 (write-back)", eptp & 7));
        }
    }
    let reserved = eptp & (support.address.reserved() | 0xfff << 52 | 0xf00);
    if reserved != 0 {
        return bad(format!("{} must be 0 on this processor", BitList(reserved)));
    }
    Ok(Ept::new(eptp, controls, support))
}

/// The tables in words.
pub(crate) fn ept_words(ept: &Ept<'_>) -> String {
    let flags = if ept.flags_enabled() { "with" } else { "without" };
    let controls = ept.controls();
    let extras: Vec<&str> = [
        (ept.supervisor_shadow_stack_control(), "supervisor shadow-stack control"),
        (controls.mode_based_execute, "mode-based execute control"),
        (controls.paging_write, "paging-write control"),
        (controls.guest_paging_verification, "guest-paging verification"),
        (controls.sub_page.is_some(), "sub-page permissions"),
        (controls.violation_ve, "EPT-violation #VE"),
        (ept.log().is_some(), "page-modification log"),
    ]
    .into_iter()
    .filter_map(|(on, words)| on.then_some(words))
    .collect();
    let extras = if extras.is_empty() { String::new() } else { format!(", {}", extras.join(", ")) };
    format!("{}-level EPT at {:#x} {flags} accessed and dirty flags{extras}", ept.levels(), ept.root().0)
}

/// What a present entry has that is not supported; `None` if nothing.
pub(crate) fn misconfiguration(ept: &Ept<'_>, level: u8, entry: u64) -> Option<String> {
    let causes: Vec<String> = ept
        .misconfigurations(level, entry)
        .map(|(rule, bits)| match rule {
            Misconfiguration::Reserved => format!("reserved {}", BitList(bits)),
            Misconfiguration::MemoryType => format!("undefined memory type {} (bits 5:3)", (entry & bits) >> 3),
            rule => rule.words().to_owned(),
        })
        .collect();
    (!causes.is_empty()).then(|| causes.join(", "))
}

/// An EPT entry, bit by bit: those that mean something under these controls.
pub(crate) fn ept_entry_words(ept: &Ept<'_>, level: u8, entry: u64) -> String {
    if !ept.is_present(entry) {
        return not_present(entry);
    }
    let controls = ept.controls();
    let page = ept.maps_page(level, entry);
    let (address, bits) = ept.leads_to(level, entry);
    let mut words = vec![rights_words(ept, entry)];
    if page {
        words.push(match MemoryType::from_encoding((entry >> 3 & 7) as u8) {
            Some(memory_type) => type_name(memory_type).to_owned(),
            None => format!("memory type {}", entry >> 3 & 7),
        });
    }
    for (means_something, mask, name) in [
        (page, epte::IGNORE_PAT, "ignore PAT"),
        (ept.flags_enabled(), epte::ACCESSED, "accessed"),
        (ept.flags_enabled() && page, epte::DIRTY, "dirty"),
        (controls.guest_paging_verification && page, epte::VERIFY_GUEST_PAGING, "verify guest paging"),
        (controls.paging_write && page, epte::PAGING_WRITE, "paging-write"),
        (ept.supervisor_shadow_stack_control() && page, epte::SUPERVISOR_SHADOW_STACK, "supervisor shadow stack"),
        (controls.sub_page.is_some() && level == 1, epte::SUB_PAGE, "sub-page permissions"),
        (controls.violation_ve, epte::SUPPRESS_VE, "suppress #VE"),
    ] {
        if means_something && entry & mask != 0 {
            words.push(name.to_owned());
        }
    }
    format!("{}; {}", words.join(", "), leads(page, address.0, bits))
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
pub(crate) const fn entry_name(dimension: Dimension, level: u8) -> &'static str {
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

/// The rights in an EPT entry, or in the AND of several.
pub(crate) fn rights_words(ept: &Ept<'_>, rights: u64) -> String {
    let by_mode = ept.controls().mode_based_execute;
    let execute = if by_mode { "supervisor-mode execute" } else { "execute" };
    let names = [
        (epte::READ, "read"),
        (epte::WRITE, "write"),
        (epte::EXECUTE, execute),
        (if by_mode { epte::EXECUTE_USER } else { 0 }, "user-mode execute"),
    ];
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

/// The address in an entry of ordinary tables, and log2 of the size of what it maps or points to.
pub(crate) fn frame(paging: &Paging, level: u8, entry: u64) -> (u64, u8) {
    let page = paging.reserved(level).maps_page(level, entry);
    match paging.mode() {
        PagingMode::Bits32 if page && level == 2 => (entry & 0xffc0_0000 | (entry & 0x1f_e000) << 19, 22),
        PagingMode::Bits32 => (entry & 0xffff_f000, 12),
        _ => {
            let bits = if page { 12 + 9 * (level - 1) } else { 12 };
            (entry & paging.support().address.frame() & !((1 << bits) - 1), bits)
        }
    }
}

/// An entry of ordinary tables, bit by bit.
pub(crate) fn entry_words(paging: &Paging, level: u8, entry: u64) -> String {
    if entry & pte::PRESENT == 0 {
        return not_present(entry);
    }
    let page = paging.reserved(level).maps_page(level, entry);
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
    let reserved = paging.reserved(level).set_in(level, entry);
    let reserved = if reserved == 0 { String::new() } else { format!(", RESERVED {}", BitList(reserved)) };
    format!("{}{key}{reserved}; {}", words.join(", "), leads(page, address, bits))
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
