//! What has been read of the tables before? Paging-structure caches and guest-physical mappings, for [`walk_cached`](crate::walk_cached).
//!
//! | cache | key | information |
//! |---|---|---|
//! | linear or combined structures | PCID, bits of the linear address above the region | the entry, the AND of the rights from the top down to it |
//! | guest-physical structures | bits of the guest-physical address above the region | the same of an EPT or nested entry |
//! | guest-physical translations | guest-physical page of 4 KBytes | page, leaf, the AND of the rights with and without the leaf |
//!
//! They hold entries that reference a table, with the accessed flag set, and translations whose flags were set; nothing that
//! is not present, misconfigured or sets a reserved bit (SDM 3A 4.10.3.1; SDM 3C 28.4.2). Of an entry the whole word is kept:
//! address, PCD and PWT, and for HLAT paging the restart flag. HLAT paging uses only what was cached in HLAT paging.
//!
//! A combined structure entry holds the guest-physical address of the next table; where that lies is a guest-physical
//! translation of its own. The manual's combined entries hold the host-physical address at once. Software cannot tell the
//! two apart unless it forgets an INVEPT: then the stale information here ends with that of the guest-physical translation.
//!
//! A structure entry is never global. It is an entry's word at the time of its use: what software changes in memory later is
//! not seen until an [`Invalidate`] drops it, or, with [`Retention::Strict`], at once.
//!
//! ```
//! use softvirt_ept::{Access, Direct, Operation, Paging, PagingSupport, Privilege, Retention, Space, Vendor};
//! use softvirt_ept::{WalkCaches, walk_cached};
//! use x86_state::{Cr0, Cr4, Efer, Gva, Hpa, PhysMemory, mem::WordMemory};
//!
//! let tables = [(0x1000, 0x2023), (0x2000, 0x3023), (0x3000, 0x4023), (0x4000, 0x9061), (0x4008, 0xa061)];
//! let memory = WordMemory::new(tables);
//! let paging = Paging::new(Cr0::PE | Cr0::PG, 0x1000, Cr4::PAE, Efer::LME | Efer::LMA, &PagingSupport::new(46));
//! let read = Access::new(Operation::Read, Privilege::Supervisor);
//! let mut caches = WalkCaches::<16, 4>::new(Retention::Lazy, Vendor::Intel);
//! let host = caches.context(Space::linear(0), 0);
//!
//! let found = walk_cached(&memory, &paging, &Direct, Gva(0), read, &mut caches, host).unwrap();
//! assert_eq!(found.hpa, Hpa(0x9000));
//! // The next page is found with the PTE alone: nothing above it is read again.
//! memory.write_u64(Hpa(0x1000), 0);
//! let found = walk_cached(&memory, &paging, &Direct, Gva(0x1000), read, &mut caches, host).unwrap();
//! assert_eq!(found.hpa, Hpa(0xa000));
//! ```
//!
//! # Invariants
//! - Eviction is round-robin within a set, free ways first; nothing depends on time or chance.
//! - A set is looked at for each level, the lowest first: at most four in each dimension, and one for a page.
//!
//! Source: SDM 3A 4.10.3, Paging-Structure Caches; SDM 3C 28.4, Caching Translation Information (rev 077); APM 2 5.5.3, TLB
//! Management (rev 3.44).

use x86_state::{Gpa, Gva};

use crate::fault::{Dimension, Failure};
use crate::invalidate::{Invalidate, Kind, Mapping, Retention, Scope, Space, Vendor};
use crate::tlb::spaces::{Occupied, SPACE_SHIFT, Spaces};

const PCID: u64 = 0xfff;
const ADDRESS: u64 = 0x01ff_ffff_ffff_f000;
const LEVEL_SHIFT: u32 = 12;
/// In the key's level: the PDE of 32-bit paging, for 4 MBytes.
const BITS32: u8 = 8;
const HLAT: u64 = 1 << 63;

/// All spaces.
const ALL: u64 = u64::MAX;

/// Whose structures are looked up: made by [`WalkCaches::context`].
///
/// ```text
/// key   63    62:57  56:22 (or less)  15:12  11:0
///       HLAT  space  linear address   level  PCID
/// ```
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct WalkContext {
    linear: u64,
    physical: u64,
}

impl WalkContext {
    /// The tag of linear or combined structures.
    pub(crate) const fn linear(self, hlat: bool) -> u64 {
        self.linear | if hlat { HLAT } else { 0 }
    }

    pub(crate) const fn physical(self) -> u64 {
        self.physical
    }
}

/// Keys and values in sets.
#[derive(Clone, Debug)]
struct Array<V: Copy, const SETS: usize, const WAYS: usize> {
    keys: [[u64; WAYS]; SETS],
    values: [[V; WAYS]; SETS],
    next: [u8; SETS],
    occupied: Occupied,
}

impl<V: Copy, const SETS: usize, const WAYS: usize> Array<V, SETS, WAYS> {
    const fn new(filler: V) -> Self {
        const { assert!(SETS.is_power_of_two() && WAYS > 0 && WAYS < 256) };
        Self { keys: [[0; WAYS]; SETS], values: [[filler; WAYS]; SETS], next: [0; SETS], occupied: Occupied::nothing() }
    }

    #[inline(always)]
    fn get(&self, number: u64, key: u64) -> Option<&V> {
        let set = number as usize & (SETS - 1);
        for way in 0..WAYS {
            if self.keys[set][way] == key {
                return Some(&self.values[set][way]);
            }
        }
        None
    }

    fn put(&mut self, number: u64, key: u64, value: V) {
        let set = number as usize & (SETS - 1);
        let keys = &self.keys[set];
        let way = (0..WAYS).find(|way| keys[*way] == key).or_else(|| (0..WAYS).find(|way| keys[*way] == 0));
        let way = way.unwrap_or_else(|| {
            let way = usize::from(self.next[set]) % WAYS;
            self.next[set] = ((way + 1) % WAYS) as u8;
            way
        });
        self.keys[set][way] = key;
        self.values[set][way] = value;
        self.occupied.add(set, key);
    }

    /// Looks at the entries, if any may be of the spaces whose bits are set in `spaces`.
    #[inline]
    fn retain(&mut self, spaces: u64, keep: impl Fn(u64) -> bool) {
        if self.occupied.spaces & spaces == 0 {
            return;
        }
        let before = core::mem::replace(&mut self.occupied, Occupied::nothing());
        for set in before.sets(SETS) {
            for key in &mut self.keys[set] {
                if *key != 0 && !keep(*key) {
                    *key = 0;
                }
                if *key != 0 {
                    self.occupied.add(set, *key);
                }
            }
        }
    }

    fn keys(&self) -> impl Iterator<Item = u64> + '_ {
        self.keys.iter().flatten().copied().filter(|key| *key != 0)
    }
}

/// A cached entry that references a table.
#[derive(Clone, Copy, Debug)]
#[doc(hidden)]
pub struct Upper {
    /// Its own level, 2 to 5.
    pub(crate) level: u8,
    pub(crate) entry: u64,
    /// The AND of the entries from the top down to it; XD inverted in ordinary tables.
    pub(crate) rights: u64,
}

/// A cached guest-physical translation.
#[derive(Clone, Copy, Debug)]
#[doc(hidden)]
pub struct KnownPage {
    /// The host-physical address of the 4-KByte page.
    pub(crate) hpa: u64,
    pub(crate) leaf: u64,
    pub(crate) rights: u64,
    /// The AND of the entries above the leaf.
    pub(crate) upper: u64,
    pub(crate) level: u8,
    pub(crate) page_bits: u8,
}

/// log2 of the size of the region that an entry of this level leads to.
const fn region_bits(level: u8, bits32: bool) -> u8 {
    if bits32 { 22 } else { 12 + 9 * (level - 1) }
}

/// The structure caches of one dimension: entries of level 2 apart from those above, which there are fewer of.
#[derive(Clone, Debug)]
pub(crate) struct Structures<const SETS: usize, const WAYS: usize> {
    directories: Array<(u64, u64), SETS, WAYS>,
    uppers: Array<(u64, u64), SETS, WAYS>,
    keeps: bool,
}

impl<const SETS: usize, const WAYS: usize> Structures<SETS, WAYS> {
    const fn new(keeps: bool) -> Self {
        Self { directories: Array::new((0, 0)), uppers: Array::new((0, 0)), keeps }
    }

    const fn key(tag: u64, address: u64, level: u8, bits32: bool) -> u64 {
        let code = level | if bits32 { BITS32 } else { 0 };
        tag | address & ADDRESS & (u64::MAX << region_bits(level, bits32)) | (code as u64) << LEVEL_SHIFT
    }

    /// The cached entry of level 2 and its rights, with any paging but 32-bit paging.
    #[inline(always)]
    pub(crate) fn directory(&self, tag: u64, address: u64) -> Option<(u64, u64)> {
        self.directories.get(address >> 21, Self::key(tag, address, 2, false)).copied()
    }

    /// The cached entry for an address that is nearest to its page, of a level up to `top`.
    #[inline(always)]
    pub(crate) fn find(&self, tag: u64, address: u64, top: u8, bits32: bool) -> Option<Upper> {
        if top < 2 {
            return None;
        }
        let number = address >> region_bits(2, bits32);
        if let Some(&(entry, rights)) = self.directories.get(number, Self::key(tag, address, 2, bits32)) {
            return Some(Upper { level: 2, entry, rights });
        }
        (3..=top.min(5)).find_map(|level| {
            let number = address >> region_bits(level, false);
            let &(entry, rights) = self.uppers.get(number, Self::key(tag, address, level, false))?;
            Some(Upper { level, entry, rights })
        })
    }

    pub(crate) fn put(&mut self, tag: u64, address: u64, upper: Upper, bits32: bool) {
        if !self.keeps {
            return;
        }
        let Upper { level, entry, rights } = upper;
        let array = if level == 2 { &mut self.directories } else { &mut self.uppers };
        array.put(address >> region_bits(level, bits32), Self::key(tag, address, level, bits32), (entry, rights));
    }

    fn retain(&mut self, spaces: u64, keep: impl Fn(u64) -> bool) {
        self.directories.retain(spaces, &keep);
        self.uppers.retain(spaces, &keep);
    }

    const fn occupied(&self) -> u64 {
        self.directories.occupied.spaces | self.uppers.occupied.spaces
    }
}

/// Guest-physical mappings: structures and translations.
#[derive(Clone, Debug)]
#[doc(hidden)]
pub struct Physical<const SETS: usize, const WAYS: usize> {
    pub(crate) structures: Structures<SETS, WAYS>,
    pages: Array<KnownPage, SETS, WAYS>,
}

impl<const SETS: usize, const WAYS: usize> Physical<SETS, WAYS> {
    const fn new(keeps: bool) -> Self {
        let filler = KnownPage { hpa: 0, leaf: 0, rights: 0, upper: 0, level: 1, page_bits: 12 };
        Self { structures: Structures::new(keeps), pages: Array::new(filler) }
    }

    #[inline(always)]
    pub(crate) fn page(&self, tag: u64, gpa: Gpa) -> Option<&KnownPage> {
        self.pages.get(gpa.0 >> 12, tag | gpa.0 & ADDRESS)
    }

    pub(crate) fn put_page(&mut self, tag: u64, gpa: Gpa, page: KnownPage) {
        if self.structures.keeps {
            self.pages.put(gpa.0 >> 12, tag | gpa.0 & ADDRESS, page);
        }
    }
}

/// The caches of a walk: five times `SETS` (a power of two) times `WAYS` entries.
#[derive(Clone, Debug)]
pub struct WalkCaches<const SETS: usize, const WAYS: usize> {
    pub(crate) linear: Structures<SETS, WAYS>,
    pub(crate) physical: Physical<SETS, WAYS>,
    spaces: Spaces,
    retention: Retention,
    vendor: Vendor,
}

impl<const SETS: usize, const WAYS: usize> WalkCaches<SETS, WAYS> {
    /// Empty caches.
    ///
    /// `vendor` decides what a walk does that fails: Intel's processors may report what cached entries say, and forget them by
    /// that (SDM 3A 4.10.4.3, Optional Invalidation); AMD's forget them and walk the tables in memory before they report a
    /// fault (APM 2 5.5.3, Use of Cached Entries When Reporting a Page Fault Exception).
    #[must_use]
    pub const fn new(retention: Retention, vendor: Vendor) -> Self {
        let keeps = matches!(retention, Retention::Lazy);
        Self {
            linear: Structures::new(keeps),
            physical: Physical::new(keeps),
            spaces: Spaces::new(),
            retention,
            vendor,
        }
    }

    /// The context of a space of linear or combined mappings and a PCID, to be asked for when one of them changes.
    ///
    /// The guest-physical mappings used with it are those of its EP4TA, or of its ASID. At most 63 spaces are known at a time,
    /// two for each context; further ones replace those asked for longest ago, whose entries are dropped. A context older
    /// than 30 others is therefore no longer valid.
    pub fn context(&mut self, space: Space, pcid: u16) -> WalkContext {
        let behind = match space.kind {
            Kind::Linear => Space { kind: Kind::GuestPhysical, ..space },
            Kind::Combined | Kind::GuestPhysical => Space { kind: Kind::GuestPhysical, id: 0, ..space },
        };
        let linear = self.tag(space) | u64::from(pcid) & PCID;
        WalkContext { linear, physical: self.tag(behind) }
    }

    fn tag(&mut self, space: Space) -> u64 {
        let (tag, lost) = self.spaces.tag(space);
        if lost {
            self.retain(ALL, |key, _| (key ^ tag) >> SPACE_SHIFT & 63 != 0);
        }
        tag
    }

    /// Are faults confirmed by a walk of the tables in memory?
    pub(crate) const fn confirms(&self) -> bool {
        matches!(self.vendor, Vendor::Amd)
    }

    /// Forgets what led to a fault.
    pub(crate) fn forget_leading(&mut self, context: WalkContext, gva: Gva, failure: &Failure) {
        let nested = matches!(failure.dimension, Dimension::Npt);
        let leads =
            |key: u64, structure, address: u64| (key ^ address) & ADDRESS & (u64::MAX << bits_of(key, structure)) == 0;
        self.retain(ALL, |key, structure| {
            let linear = (key ^ context.linear) & !HLAT & !ADDRESS & !(15 << LEVEL_SHIFT) == 0 && structure;
            let physical = nested && (key ^ context.physical) >> SPACE_SHIFT == 0;
            !(linear && leads(key, structure, gva.0) || physical && leads(key, structure, failure.gpa.0))
        });
    }

    /// Forgets what the operation demands; with [`Retention::Strict`], everything.
    pub fn invalidate(&mut self, operation: &Invalidate) {
        if self.retention == Retention::Strict {
            return;
        }
        for scope in operation.scopes() {
            self.drop_scope(&scope);
        }
    }

    fn drop_scope(&mut self, scope: &Scope) {
        let Physical { structures, pages } = &self.physical;
        let occupied = self.linear.occupied() | structures.occupied() | pages.occupied.spaces;
        let in_scope = self.spaces.in_scope(scope, occupied);
        if in_scope == 0 {
            return;
        }
        self.retain(in_scope, |key, structure| {
            // A scope does not ask for the space of a mapping whose space it has.
            in_scope >> (key >> SPACE_SHIFT & 63) & 1 == 0 || !scope.holds(&mapping(Space::linear(0), key, structure))
        });
    }

    /// Keeps entries by their key, if one may be of the given spaces; the second argument tells structures from translations.
    fn retain(&mut self, spaces: u64, keep: impl Fn(u64, bool) -> bool) {
        self.linear.retain(spaces, |key| keep(key, true));
        self.physical.structures.retain(spaces, |key| keep(key, true));
        self.physical.pages.retain(spaces, |key| keep(key, false));
    }

    /// Forgets everything, as a processor may at any time.
    pub fn clear(&mut self) {
        self.retain(ALL, |_, _| false);
    }

    /// What they do with what they may forget.
    #[must_use]
    pub const fn retention(&self) -> Retention {
        self.retention
    }

    /// What is cached, in the order of its places.
    pub fn mappings(&self) -> impl Iterator<Item = Mapping> + '_ {
        let structures = [&self.linear, &self.physical.structures].into_iter();
        let structures =
            structures.flat_map(|structures| structures.directories.keys().chain(structures.uppers.keys()));
        let keys = structures.map(|key| (key, true)).chain(self.physical.pages.keys().map(|key| (key, false)));
        keys.filter_map(|(key, structure)| Some(mapping(self.spaces.of(key)?, key, structure)))
    }
}

/// log2 of the size of the range of an entry.
const fn bits_of(key: u64, structure: bool) -> u8 {
    let code = (key >> LEVEL_SHIFT & 15) as u8;
    if !structure {
        12
    } else if code & BITS32 != 0 {
        region_bits(2, true)
    } else {
        region_bits(if code < 2 { 2 } else { code }, false)
    }
}

/// The mapping of an entry of this space.
const fn mapping(space: Space, key: u64, structure: bool) -> Mapping {
    let bits = bits_of(key, structure);
    Mapping {
        space,
        pcid: (key & PCID) as u16,
        global: false,
        structure,
        address: key & ADDRESS & (u64::MAX << bits),
        bits,
        page_bits: bits,
    }
}
