//! Which rights does a cached translation give, and which does an access ask for? The data word of an entry.
//!
//! Source: SDM 3A 4.6.1, Determination of Access Rights; 4.10.2.2, Caching Translations in TLBs (rev 077).

use x86_state::{Hpa, PagingMode};

use crate::entry::{epte, pte};
use crate::mode::{Access, Operation, Paging, Privilege};
use crate::{Ept, Npt, Translation};

pub(super) const FRAME: u64 = 0x000f_ffff_ffff_f000;
pub(super) const SIZE_SHIFT: u32 = 52;
pub(super) const PAGE_SIZE_SHIFT: u32 = 54;
const KEY_SHIFT: u32 = 59;
/// log2 of the page sizes that there are.
pub(super) const SIZES: [u8; 4] = [12, 21, 22, 30];

/// What bits 11:0 of the data word mean. Of the first dimension: W, U, X, and D of the entry that maps the page.
const WRITE: u64 = 1 << 1;
const USER: u64 = 1 << 2;
const EXECUTE: u64 = 1;
const DIRTY: u64 = 1 << 6;
/// Of the second dimension: the same, execution by the supervisor and by the user apart.
const SECOND_READ: u64 = 1 << 3;
const SECOND_WRITE: u64 = 1 << 4;
const SECOND_EXECUTE: u64 = 1 << 5;
const SECOND_EXECUTE_USER: u64 = 1 << 7;
const SECOND_DIRTY: u64 = 1 << 8;
/// In no entry: an access that asks for it is never answered from the TLB.
const NEVER: u64 = 1 << 9;
/// A mismatch in these is no refusal: a walk has to set a flag or to decide.
const NO_REFUSAL: u64 = DIRTY | SECOND_DIRTY | NEVER;

/// Which size code stands for a page of 2^`bits` bytes? The largest that is not larger.
const fn size_code(bits: u8) -> u64 {
    match bits {
        0..=20 => 0,
        21 => 1,
        22..=29 => 2,
        _ => 3,
    }
}

/// What an access asks of a cached translation. Computed when privilege, control registers, PKRU or IA32_PKRS change, not for
/// each access: nothing of it is in the TLB, since changes of CR0.WP, CR4.SMAP, EFLAGS.AC or PKRU invalidate nothing.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Demand {
    care: u64,
    want: u64,
    /// Bit n: protection key n denies the access to a supervisor-mode address; bit 16+n: to a user-mode address.
    denied_keys: u32,
}

impl Demand {
    /// What this access asks under this paging.
    ///
    /// Shadow-stack accesses are never answered from the TLB: their rights need more of the tables than it keeps.
    #[must_use]
    pub const fn new(paging: &Paging, access: Access) -> Self {
        let mut demand = Self::guest_physical(access);
        if matches!(paging.mode(), PagingMode::None) {
            return demand;
        }
        let rule = paging.rule(access);
        demand.care |= rule.care & (WRITE | USER) | rule.care >> 63;
        demand.want |= rule.want & (WRITE | USER) | rule.want >> 63;
        if access.is_write() {
            demand.care |= DIRTY;
            demand.want |= DIRTY;
        }
        let mut key = 0;
        while key < 16 && (paging.modifiers.pke || paging.modifiers.pks) {
            let leaf = key << KEY_SHIFT;
            demand.denied_keys |= (paging.key_denies(leaf, false, access) as u32) << key;
            demand.denied_keys |= (paging.key_denies(leaf, true, access) as u32) << (16 + key);
            key += 1;
        }
        demand
    }

    /// What this access asks of the second dimension alone, for guest-physical mappings.
    #[must_use]
    pub const fn guest_physical(access: Access) -> Self {
        let mut need = match access.operation {
            Operation::Read => SECOND_READ,
            Operation::Write => SECOND_WRITE | SECOND_DIRTY,
            Operation::Fetch if matches!(access.privilege, Privilege::User) => SECOND_EXECUTE_USER,
            Operation::Fetch => SECOND_EXECUTE,
        };
        if access.shadow_stack {
            need |= NEVER;
        }
        Self { care: need, want: need, denied_keys: 0 }
    }

    #[inline(always)]
    pub(super) const fn allows(&self, data: u64) -> bool {
        let key = (data >> KEY_SHIFT & 0xf) as u32 + (data & USER) as u32 * 4;
        data & self.care == self.want && self.denied_keys >> key & 1 == 0
    }

    /// Is it the rights that do not allow it?
    pub(super) const fn refused(&self, data: u64) -> bool {
        if self.care & NEVER != 0 {
            return false;
        }
        let rights = self.care & !NO_REFUSAL;
        let key = (data >> KEY_SHIFT & 0xf) as u32 + (data & USER) as u32 * 4;
        data & rights != self.want & !NO_REFUSAL || self.denied_keys >> key & 1 != 0
    }
}

/// What the second dimension allows of a page.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct SecondRights(u64);

impl SecondRights {
    /// There is no second dimension.
    pub const ALL: Self = Self(SECOND_READ | SECOND_WRITE | SECOND_EXECUTE | SECOND_EXECUTE_USER | SECOND_DIRTY);

    /// What EPT allows; `None` if the page must not be cached because sub-page permissions decide about writes.
    #[must_use]
    pub const fn of_ept(ept: &Ept<'_>, found: &Translation) -> Option<Self> {
        let rights = found.second_rights;
        if ept.controls().sub_page.is_some() && found.second_leaf & epte::SUB_PAGE != 0 && rights & epte::WRITE == 0 {
            return None;
        }
        // Which of the two rights counts is decided by the mode of the address, not of the access (SDM 3C 28.3.3.2).
        let by_user = ept.controls().mode_based_execute && found.guest_user();
        let execute = rights & if by_user { epte::EXECUTE_USER } else { epte::EXECUTE } != 0;
        let dirty = !ept.flags_enabled() || found.second_leaf & epte::DIRTY != 0;
        Some(Self::of(rights & epte::READ != 0, rights & epte::WRITE != 0, execute, execute, dirty))
    }

    /// What nested paging allows; `None` if the page must not be cached because it may be a supervisor shadow-stack page.
    #[must_use]
    pub const fn of_npt(npt: &Npt, found: &Translation) -> Option<Self> {
        let controls = npt.controls();
        let rights = found.second_rights;
        let mark = pte::EXECUTE_DISABLE | pte::USER;
        if controls.supervisor_shadow_stack && found.second_leaf & mark == pte::EXECUTE_DISABLE {
            return None;
        }
        let user = rights & pte::USER != 0;
        let reachable = user || controls.gmet;
        let execute = reachable && rights & pte::EXECUTE_DISABLE != 0;
        let dirty = found.second_leaf & pte::DIRTY != 0;
        let write = reachable && rights & pte::WRITE != 0;
        Some(Self::of(reachable, write, execute && !(controls.gmet && user), execute, dirty))
    }

    const fn of(read: bool, write: bool, execute: bool, execute_user: bool, dirty: bool) -> Self {
        let bits = [
            (read, SECOND_READ),
            (write, SECOND_WRITE),
            (execute, SECOND_EXECUTE),
            (execute_user, SECOND_EXECUTE_USER),
            (dirty, SECOND_DIRTY),
        ];
        let mut word = 0;
        let mut index = 0;
        while index < bits.len() {
            let (set, bit) = bits[index];
            word |= if set { bit } else { 0 };
            index += 1;
        }
        Self(word)
    }
}

/// A translation in the form in which it is cached.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct CachedPage {
    pub(super) data: u64,
    pub(super) global: bool,
}

impl CachedPage {
    /// What [`walk`](crate::walk()) has found.
    #[must_use]
    pub const fn new(paging: &Paging, found: &Translation, second: SecondRights) -> Self {
        let off = matches!(paging.mode(), PagingMode::None);
        let long = matches!(paging.mode(), PagingMode::Level4 | PagingMode::Level5);
        let rights = found.guest_rights & (WRITE | USER) | found.guest_rights >> 63 | found.guest_leaf & DIRTY;
        let rights = if off { WRITE | USER | EXECUTE | DIRTY } else { rights };
        let key = if long { found.protection_key() as u64 } else { 0 };
        let smaller = off || found.guest_page_bits < found.page_bits;
        let page = size_code(if smaller { found.page_bits } else { found.guest_page_bits });
        Self {
            data: Self::place(found.hpa, found.page_bits, page) | rights | second.0 | key << KEY_SHIFT,
            global: found.global(paging),
        }
    }

    /// A guest-physical translation, which [`Demand::guest_physical`] asks for.
    #[must_use]
    pub const fn guest_physical(hpa: Hpa, page_bits: u8, second: SecondRights) -> Self {
        Self { data: Self::place(hpa, page_bits, size_code(page_bits)) | second.0, global: false }
    }

    const fn place(hpa: Hpa, bits: u8, page: u64) -> u64 {
        let code = size_code(bits);
        let frame = hpa.0 & FRAME & (u64::MAX << SIZES[code as usize]);
        frame | code << SIZE_SHIFT | page << PAGE_SIZE_SHIFT
    }
}
