//! Has this address been translated before? A tagged TLB for linear, combined and guest-physical translations.
//!
//! It caches what a walk has found, never what a walk has refused, and only after the walk has set the accessed flags
//! (SDM 3A 4.10.2.3, Details of TLB Use). What it must forget is said by [`Invalidate`]; [`Retention`] says whether it forgets
//! more than that.
//!
//! ```text
//! key   63      62:57   56:12         11:0
//!       global  space   page number   PCID
//!
//! data  63  62:59           58:56  55:54         53:52  51:12  11:0
//!       0   protection key  0      size of page  size   frame  rights
//! ```
//!
//! VPID (or ASID), EP4TA and the kind of mapping together are a *space*; the TLB numbers the 63 spaces used last, so that an
//! entry's whole tag and its page number are one word. Large pages are kept whole, and their 4-KByte parts beside them as
//! they are used, as 4.10.2.3 allows: but for the first use of a part, a hit is a hit at 4 KBytes. *Size* is that of the range
//! which translates alike, *size of page* that of the page in the first dimension.
//!
//! ```
//! use softvirt_ept::{Access, CachedPage, Current, Demand, Direct, Invalidate, Lookup, Operation, Paging, PagingSupport};
//! use softvirt_ept::{Privilege, Retention, SecondRights, Space, Tlb, walk};
//! use x86_state::{Cr0, Cr4, Efer, Gva, Hpa, mem::WordMemory};
//!
//! let memory = WordMemory::new([(0x1000, 0x2003), (0x2000, 0x4000_0083)]);
//! let paging = Paging::new(Cr0::PE | Cr0::PG, 0x1000, Cr4::PAE, Efer::LME | Efer::LMA, &PagingSupport::new(46));
//! let access = Access::new(Operation::Read, Privilege::Supervisor);
//! let demand = Demand::new(&paging, access);
//! let mut tlb = Tlb::<(), 64, 2>::new(Retention::Lazy, ());
//! let host = tlb.context(Space::linear(0), 0);
//!
//! assert_eq!(tlb.lookup(host, Gva(0x1234), &demand), Lookup::Miss);
//! let found = walk(&memory, &paging, &Direct, Gva(0x1234), access).unwrap();
//! tlb.insert(host, Gva(0x1234), CachedPage::new(&paging, &found, SecondRights::ALL), ());
//! // A 1-GByte page: another address of it is known too.
//! let hit = Lookup::Hit { hpa: Hpa(0x4012_3456), payload: () };
//! assert_eq!(tlb.lookup(host, Gva(0x12_3456), &demand), hit);
//!
//! let current = Current { id: 0, pcid: 0 };
//! tlb.invalidate(&Invalidate::Invlpg { current, gva: Gva(0), tce: false });
//! assert_eq!(tlb.lookup(host, Gva(0x12_3456), &demand), Lookup::Miss);
//! ```
//!
//! # Invariants
//! - A hit in the first way loads three words: key, data, payload. Each further way that is looked at loads one more.
//! - Eviction is round-robin within a set, free ways first; nothing depends on time or chance.
//!
//! Source: SDM 3A 4.10, Caching Translation Information; SDM 3C 28.4, Caching Translation Information (rev 077); APM 2 5.5,
//! Translation-Lookaside Buffer (rev 3.44).

mod page;
pub(crate) mod spaces;

use x86_state::{Gva, Hpa};

use crate::invalidate::{Addresses, Invalidate, Mapping, Retention, Scope, Space};
pub use page::{CachedPage, Demand, SecondRights};
use page::{FRAME, PAGE_SIZE_SHIFT, SIZE_SHIFT, SIZES};
use spaces::{Occupied, SPACE_SHIFT, Spaces};

const PCID: u64 = 0xfff;
const PAGE_NUMBER: u64 = 0x01ff_ffff_ffff_f000;
const GLOBAL: u64 = 1 << 63;

/// Whose translations are looked up: a space and a PCID. Made by [`Tlb::context`].
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Context(u64);

/// What the TLB answers.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Lookup<P> {
    /// The translation, and what its user keeps with it.
    Hit {
        /// The host-physical address.
        hpa: Hpa,
        /// The user's own.
        payload: P,
    },
    /// A translation is cached whose rights refuse the access. A processor may fault by it (Intel, a "spurious" fault after an
    /// upgrade, SDM 3A 4.10.4.3) or walk again to be sure (AMD, APM 2 5.5.3). Both end with an [`Invalidate`] for the address.
    Refused,
    /// Nothing is cached, or a walk has to set a dirty flag.
    Miss,
}

/// The TLB: `SETS` (a power of two) times `WAYS` translations, each with a payload.
#[derive(Clone, Debug)]
pub struct Tlb<P: Copy, const SETS: usize, const WAYS: usize> {
    keys: [[u64; WAYS]; SETS],
    data: [[u64; WAYS]; SETS],
    payloads: [[P; WAYS]; SETS],
    next: [u8; SETS],
    spaces: Spaces,
    occupied: Occupied,
    /// Bit n: an entry of size code n, or one of a page of that size, may be there. Bit 0 is not used.
    sizes: u8,
    retention: Retention,
}

impl<P: Copy, const SETS: usize, const WAYS: usize> Tlb<P, SETS, WAYS> {
    /// An empty TLB. `filler` stands where nothing is cached.
    #[must_use]
    pub const fn new(retention: Retention, filler: P) -> Self {
        const { assert!(SETS.is_power_of_two() && WAYS > 0 && WAYS < 256) };
        Self {
            keys: [[0; WAYS]; SETS],
            data: [[0; WAYS]; SETS],
            payloads: [[filler; WAYS]; SETS],
            next: [0; SETS],
            spaces: Spaces::new(),
            occupied: Occupied::nothing(),
            sizes: 0,
            retention,
        }
    }

    /// The context of a space and a PCID, to be asked for when one of them changes.
    ///
    /// At most 63 spaces are known at a time; a further one replaces the one whose context was asked for longest ago, and its
    /// translations are dropped. A context older than 62 other spaces is therefore no longer valid.
    pub fn context(&mut self, space: Space, pcid: u16) -> Context {
        let (tag, lost) = self.spaces.tag(space);
        if lost {
            self.retain(None, |key, _| (key ^ tag) >> SPACE_SHIFT & 63 != 0);
        }
        Context(tag | u64::from(pcid) & PCID)
    }

    #[inline(always)]
    const fn set_of(address: u64, bits: u8) -> usize {
        (address >> bits) as usize & (SETS - 1)
    }

    /// Does an entry with this key answer for a context and page? Global ones do with any PCID.
    #[inline(always)]
    const fn matches(key: u64, want: u64) -> bool {
        let differs = key ^ want;
        differs == 0 || differs & !PCID == GLOBAL
    }

    /// Looks up a canonical linear address, or a guest-physical address in a context of that kind.
    #[inline]
    pub fn lookup(&mut self, context: Context, address: Gva, demand: &Demand) -> Lookup<P> {
        let want = context.0 | address.0 & PAGE_NUMBER;
        let set = Self::set_of(address.0, 12);
        for way in 0..WAYS {
            // Load 1: the key. (One more for each way that is not it.)
            if Self::matches(self.keys[set][way], want) {
                // Load 2: frame and rights. Load 3: the payload. `demand` lives in registers.
                let data = self.data[set][way];
                if demand.allows(data) {
                    let hpa = Hpa(data & FRAME | address.page_offset());
                    return Lookup::Hit { hpa, payload: self.payloads[set][way] };
                }
                return if demand.refused(data) { Lookup::Refused } else { Lookup::Miss };
            }
        }
        self.lookup_large(context, address, demand)
    }

    /// Looks among the large pages; what it finds is copied as a 4-KByte part.
    #[cold]
    #[inline(never)]
    fn lookup_large(&mut self, context: Context, address: Gva, demand: &Demand) -> Lookup<P> {
        for (code, bits) in SIZES.into_iter().enumerate().skip(1) {
            if self.sizes >> code & 1 == 0 {
                continue;
            }
            let set = Self::set_of(address.0, bits);
            let want = context.0 | address.0 & PAGE_NUMBER & (u64::MAX << bits);
            for way in 0..WAYS {
                let (key, data) = (self.keys[set][way], self.data[set][way]);
                if Self::matches(key, want) && data >> SIZE_SHIFT & 3 == code as u64 {
                    let payload = self.payloads[set][way];
                    self.put_part(key & !PAGE_NUMBER, address, data, bits, payload);
                    return if demand.allows(data) {
                        let offset = address.0 & !(u64::MAX << bits);
                        Lookup::Hit { hpa: Hpa(data & FRAME & (u64::MAX << bits) | offset), payload }
                    } else if demand.refused(data) {
                        Lookup::Refused
                    } else {
                        Lookup::Miss
                    };
                }
            }
        }
        Lookup::Miss
    }

    /// Caches a translation. With [`Retention::Strict`] nothing is kept.
    ///
    /// `payload` belongs to the whole page of `found.page_bits` from which `page` was made, not only to `address`.
    pub fn insert(&mut self, context: Context, address: Gva, page: CachedPage, payload: P) {
        if self.retention == Retention::Strict {
            return;
        }
        let tag = context.0 | if page.global { GLOBAL } else { 0 };
        let code = page.data >> SIZE_SHIFT & 3;
        let bits = SIZES[code as usize];
        self.sizes |= 1 << code | 1 << (page.data >> PAGE_SIZE_SHIFT & 3);
        if code != 0 {
            let key = tag | address.0 & PAGE_NUMBER & (u64::MAX << bits);
            self.put(Self::set_of(address.0, bits), key, page.data, payload, Some(code));
        }
        self.put_part(tag, address, page.data, bits, payload);
    }

    fn put_part(&mut self, tag: u64, address: Gva, data: u64, bits: u8, payload: P) {
        // The frame of a large page has the low bits clear, so that the page's offset completes it.
        let part = data & !(FRAME & !(u64::MAX << bits)) | address.0 & FRAME & !(u64::MAX << bits);
        self.put(Self::set_of(address.0, 12), tag | address.0 & PAGE_NUMBER, part, payload, None);
    }

    /// Replaces what would answer for the same page (of the same size code, if one is given), or a free way, or the next one.
    fn put(&mut self, set: usize, key: u64, data: u64, payload: P, code: Option<u64>) {
        let keys = &self.keys[set];
        let same = |way: &usize| {
            let differs = keys[*way] ^ key;
            differs & !(PCID | GLOBAL) == 0
                && (differs & PCID == 0 || keys[*way] & GLOBAL != 0)
                && code.is_none_or(|code| self.data[set][*way] >> SIZE_SHIFT & 3 == code)
        };
        let free = |way: &usize| keys[*way] == 0;
        let way = (0..WAYS).find(same).or_else(|| (0..WAYS).find(free)).unwrap_or_else(|| {
            let way = usize::from(self.next[set]) % WAYS;
            self.next[set] = ((way + 1) % WAYS) as u8;
            way
        });
        self.occupied.add(set, key);
        self.keys[set][way] = key;
        self.data[set][way] = data;
        self.payloads[set][way] = payload;
    }

    /// Forgets what the operation demands; with [`Retention::Strict`], everything.
    pub fn invalidate(&mut self, operation: &Invalidate) {
        if self.retention == Retention::Strict {
            self.clear();
            return;
        }
        for scope in operation.scopes() {
            self.drop_scope(&scope);
        }
    }

    fn drop_scope(&mut self, scope: &Scope) {
        let in_scope = self.spaces.in_scope(scope, self.occupied.spaces);
        if in_scope == 0 {
            return;
        }
        // One address, and no large page anywhere: its set is the only one that can hold it.
        let set = match scope.addresses {
            Addresses::Some { first, count: 0, .. } if self.sizes & !1 == 0 => Some(Self::set_of(first, 12)),
            _ => None,
        };
        self.retain(set, |key, data| {
            // A scope does not ask for the space of a mapping whose space it has.
            in_scope >> (key >> SPACE_SHIFT & 63) & 1 == 0 || !scope.holds(&mapping(Space::linear(0), key, data))
        });
    }

    /// Looks at one set, or at all.
    fn retain(&mut self, set: Option<usize>, keep: impl Fn(u64, u64) -> bool) {
        if let Some(set) = set {
            for (key, data) in self.keys[set].iter_mut().zip(&self.data[set]) {
                if *key != 0 && !keep(*key, *data) {
                    *key = 0;
                }
            }
            return;
        }
        let before = core::mem::replace(&mut self.occupied, Occupied::nothing());
        self.sizes = 0;
        for set in before.sets(SETS) {
            for (key, data) in self.keys[set].iter_mut().zip(&self.data[set]) {
                if *key != 0 && !keep(*key, *data) {
                    *key = 0;
                }
                if *key != 0 {
                    self.sizes |= 1 << (*data >> SIZE_SHIFT & 3) | 1 << (*data >> PAGE_SIZE_SHIFT & 3);
                    self.occupied.add(set, *key);
                }
            }
        }
    }

    /// Forgets everything, as a processor may at any time.
    pub fn clear(&mut self) {
        self.retain(None, |_, _| false);
    }

    /// What it does with what it may forget.
    #[must_use]
    pub const fn retention(&self) -> Retention {
        self.retention
    }

    /// What is cached, in the order of its places. A large page is there as a whole and in parts.
    pub fn mappings(&self) -> impl Iterator<Item = (Mapping, P)> + '_ {
        let entries = self.keys.iter().flatten().zip(self.data.iter().flatten()).zip(self.payloads.iter().flatten());
        entries.filter_map(|((key, data), payload)| Some((mapping(self.spaces.of(*key)?, *key, *data), *payload)))
    }
}

/// The mapping of an entry of this space.
const fn mapping(space: Space, key: u64, data: u64) -> Mapping {
    Mapping {
        space,
        pcid: (key & PCID) as u16,
        global: key & GLOBAL != 0,
        structure: false,
        address: key & PAGE_NUMBER,
        bits: SIZES[(data >> SIZE_SHIFT & 3) as usize],
        page_bits: SIZES[(data >> PAGE_SIZE_SHIFT & 3) as usize],
    }
}
