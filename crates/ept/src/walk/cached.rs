//! The walk that begins at the lowest entry that is cached, and remembers what it has read.
//!
//! It is the walk of [`super`], with its start moved down and the second dimension behind a cache ([`Behind`]). The walk that
//! finds the entry of level 2 cached and nothing out of the ordinary stands by itself, as in [`crate::usual`].
//!
//! Source: SDM 3A 4.10.3.2, Using the Paging-Structure Caches to Translate Linear Addresses (rev 077).

use core::cell::RefCell;

use super::behind::{Behind, CachingDimension};
use super::*;
use crate::cache::{Structures, Upper, WalkCaches, WalkContext};
use crate::mode::Hlat;

/// Translates `gva` for `access` like [`walk`](crate::walk()), with what `caches` hold for `context`, and adds to them.
///
/// While the caches agree with memory the answer is that of [`walk`](crate::walk()), failures included. A walk that fails adds
/// no linear or combined structures, though a processor may; guest-physical mappings are added as they are found. With
/// guest-paging verification every guest level is read, since each has a word in it.
///
/// # Errors
/// What stopped the walk. An entry that is no longer what memory holds may have: see [`WalkCaches::new`].
pub fn walk_cached<M, S, const SETS: usize, const WAYS: usize>(
    memory: &M,
    paging: &Paging,
    second: &S,
    gva: Gva,
    access: Access,
    caches: &mut WalkCaches<SETS, WAYS>,
    context: WalkContext,
) -> Result<Translation, Failure>
where
    M: PhysMemory + ?Sized,
    S: CachingDimension,
{
    match once(memory, paging, second, gva, access, caches, context) {
        Err(failure) if caches.confirms() => {
            caches.forget_leading(context, gva, &failure);
            walk_fully(memory, paging, second, gva, access)
        }
        answer => answer,
    }
}

#[inline(always)]
fn once<M, S, const SETS: usize, const WAYS: usize>(
    memory: &M,
    paging: &Paging,
    second: &S,
    gva: Gva,
    access: Access,
    caches: &mut WalkCaches<SETS, WAYS>,
    context: WalkContext,
) -> Result<Translation, Failure>
where
    M: PhysMemory + ?Sized,
    S: CachingDimension,
{
    let rule = paging.rule(access);
    let dirty = if access.is_write() { pte::DIRTY } else { 0 };
    let plain = !rule.special && matches!(paging.hlat, Hlat::Off) && !second.verifies();
    let mut read = None;
    if plain && matches!(paging.mode(), PagingMode::Level4 | PagingMode::Level5) {
        read = match usual_last_level(memory, paging, second, gva, access, rule, dirty, caches, context) {
            Ok(answer) => return answer,
            Err(read) => read,
        };
    }
    unusual(memory, paging, second, gva, access, rule, dirty, caches, context, read)
}

/// The walk with warm caches that takes place nearly always: the entry of level 2 is cached, the PTE is the usual one, and
/// the rights allow the access. Otherwise the PTE, if it has been read.
#[inline(always)]
#[allow(clippy::too_many_arguments, reason = "inlined: the arguments are constants or live in registers")]
fn usual_last_level<M, S, const SETS: usize, const WAYS: usize>(
    memory: &M,
    paging: &Paging,
    second: &S,
    gva: Gva,
    access: Access,
    rule: Rule,
    dirty: u64,
    caches: &mut WalkCaches<SETS, WAYS>,
    context: WalkContext,
) -> Result<Result<Translation, Failure>, Option<u64>>
where
    M: PhysMemory + ?Sized,
    S: CachingDimension,
{
    let tag = context.physical();
    let (upper, upper_rights) = caches.linear.directory(context.linear(false), gva.0).ok_or(None)?;
    let gpa = Gpa(upper & paging.frame | gva.0 >> 9 & 0xff8);
    let at = second.known_table(gpa, &caches.physical, tag).ok_or(None)?;
    let entry = memory.read_u64(at);
    let usual = paging.usual[0];
    let rights = upper_rights & (entry ^ pte::EXECUTE_DISABLE);
    if entry & (usual.mask | dirty) != usual.want | dirty || rights & rule.care != rule.want {
        return Err(Some(entry));
    }
    let gpa = Gpa(entry & paging.frame | gva.0 & 0xfff);
    let page = match second.known_page(gpa, access, rights, &caches.physical, tag) {
        Some(page) => page,
        None => match second.page_cached(memory, gpa, access, rights, &mut caches.physical, tag) {
            Ok(page) => page,
            Err(failure) => return Ok(Err(failure)),
        },
    };
    Ok(Ok(Translation {
        hpa: page.hpa,
        gpa,
        page_bits: if page.page_bits < 12 { page.page_bits } else { 12 },
        guest_page_bits: 12,
        guest_leaf: entry,
        guest_rights: rights,
        second_leaf: page.leaf,
        second_rights: page.rights,
    }))
}

/// All other walks. `read` is the PTE below a cached entry of level 2, if it has been read.
#[inline(never)]
#[allow(clippy::too_many_arguments, reason = "those of the walk, and the caches")]
fn unusual<M, S, const SETS: usize, const WAYS: usize>(
    memory: &M,
    paging: &Paging,
    second: &S,
    gva: Gva,
    access: Access,
    rule: Rule,
    dirty: u64,
    caches: &mut WalkCaches<SETS, WAYS>,
    context: WalkContext,
    read: Option<u64>,
) -> Result<Translation, Failure>
where
    M: PhysMemory + ?Sized,
    S: CachingDimension,
{
    let second = Behind { second, caches: RefCell::new(&mut caches.physical), tag: context.physical() };
    let mut part = Part { structures: &mut caches.linear, tag: context.linear(false), start: None };
    if matches!(paging.hlat, Hlat::Off) && !second.verifies() {
        if let Some(upper) = part.find(paging, gva).filter(|upper| upper.level == 2) {
            return last_level(memory, paging, &second, gva, access, rule, dirty, upper, read);
        }
    }
    whole(memory, paging, &second, gva, access, rule, dirty, &mut part, context)
}

/// The walk from wherever it begins. Out of line, so that the usual walk stays small.
#[inline(never)]
#[allow(clippy::too_many_arguments, reason = "those of the walk, and the caches")]
fn whole<M, S, const SETS: usize, const WAYS: usize>(
    memory: &M,
    paging: &Paging,
    second: &S,
    gva: Gva,
    access: Access,
    rule: Rule,
    dirty: u64,
    part: &mut Part<'_, SETS, WAYS>,
    context: WalkContext,
) -> Result<Translation, Failure>
where
    M: PhysMemory + ?Sized,
    S: SecondDimension,
{
    let mut trail = Trail::default();
    let found = match paging.hlat_for(gva) {
        None => part.ordinary(memory, paging, second, gva, dirty, &mut trail)?,
        Some(root) => hlat(memory, paging, second, gva, dirty, root, part, context, &mut trail)?,
    };
    let answer = finish(memory, paging, second, access, rule, dirty, &found, &trail)?;
    part.remember(paging, gva, found.level + 1, &trail);
    Ok(answer)
}

/// The walk below a cached entry of level 2, in all its cases.
#[inline(always)]
#[allow(clippy::too_many_arguments, reason = "inlined: the arguments are constants or live in registers")]
fn last_level<M, S>(
    memory: &M,
    paging: &Paging,
    second: &S,
    gva: Gva,
    access: Access,
    rule: Rule,
    dirty: u64,
    upper: Upper,
    read: Option<u64>,
) -> Result<Translation, Failure>
where
    M: PhysMemory + ?Sized,
    S: SecondDimension,
{
    let bits32 = matches!(paging.mode(), PagingMode::Bits32);
    let table = upper.entry & paging.frame;
    let gpa = Gpa(table | if bits32 { gva.0 >> 10 & 0xffc } else { gva.0 >> 9 & 0xff8 });
    let (hpa, mapped) = second.table(memory, gpa, 1)?;
    let entry = match read {
        Some(entry) => entry,
        None if bits32 => u64::from(memory.read_u32(hpa)),
        None => memory.read_u64(hpa),
    };
    let mut stale = false;
    let usual = paging.usual[0];
    if entry & (usual.mask | dirty) != usual.want | dirty {
        match examine(paging, 1, entry, dirty) {
            Verdict::Stops(kind) => return Err(Failure::guest(kind, 1, entry, upper.rights)),
            Verdict::Table { stale: flags } | Verdict::Page { stale: flags } => stale = flags,
        }
    }
    let rights = upper.rights & (entry ^ pte::EXECUTE_DISABLE);
    let address = entry & paging.frame | gva.0 & 0xfff;
    let refused = rights & rule.care != rule.want || rule.special;
    if refused || stale {
        let found = Found {
            leaf: entry,
            rights,
            upper: upper.rights,
            page_bits: 12,
            leaf_bits: 12,
            level: 1,
            top: 1,
            stale,
            ..Found::identity(address)
        };
        if refused && !allowed(paging, access, rule, &found) {
            return Err(Failure::guest(FailureKind::Rights, 1, entry, rights));
        }
        if stale {
            set_last_flags(memory, paging, second, &found, dirty, (hpa, gpa, mapped))?;
        }
    }
    let gpa = Gpa(address);
    let page = second.page(memory, gpa, access, rights)?;
    Ok(Translation {
        hpa: page.hpa,
        gpa,
        page_bits: page.page_bits.min(12),
        guest_page_bits: 12,
        guest_leaf: entry,
        guest_rights: rights,
        second_leaf: page.leaf,
        second_rights: page.rights,
    })
}

/// [`set_flags`] for a walk of one level.
#[cold]
#[inline(never)]
fn set_last_flags<M, S>(
    memory: &M,
    paging: &Paging,
    second: &S,
    found: &Found,
    dirty: u64,
    (at, gpa, mapped): (Hpa, Gpa, S::Mapped),
) -> Result<(), Failure>
where
    M: PhysMemory + ?Sized,
    S: SecondDimension,
{
    let mut trail = Trail::default();
    trail.at[0] = at;
    trail.gpa[0] = gpa;
    trail.entry[0] = found.leaf;
    trail.mapped[0] = mapped;
    set_flags(memory, paging, second, found, dirty, &trail)
}

/// The highest level whose entries are cached. The PDPTEs of PAE paging are, unless they are registers.
const fn top(paging: &Paging) -> u8 {
    match (paging.mode(), &paging.pdptes) {
        (PagingMode::None, _) => 0,
        (PagingMode::Bits32, _) | (PagingMode::Pae, Pdptes::Registers(_)) => 2,
        (PagingMode::Pae, Pdptes::InMemory) => 3,
        (PagingMode::Level4, _) => 4,
        (PagingMode::Level5, _) => 5,
    }
}

/// The part of a linear address that is translated.
const fn linear(paging: &Paging, gva: Gva) -> u64 {
    match paging.mode() {
        PagingMode::Level4 | PagingMode::Level5 => gva.0,
        _ => gva.0 & 0xffff_ffff,
    }
}

/// The structures that a walk uses: ordinary or HLAT ones.
struct Part<'a, const SETS: usize, const WAYS: usize> {
    structures: &'a mut Structures<SETS, WAYS>,
    tag: u64,
    start: Option<Upper>,
}

impl<const SETS: usize, const WAYS: usize> Part<'_, SETS, WAYS> {
    #[inline(always)]
    fn find(&mut self, paging: &Paging, gva: Gva) -> Option<Upper> {
        let bits32 = matches!(paging.mode(), PagingMode::Bits32);
        self.start = self.structures.find(self.tag, linear(paging, gva), top(paging), bits32);
        self.start
    }

    #[inline(always)]
    fn ordinary<M, S>(
        &mut self,
        memory: &M,
        paging: &Paging,
        second: &S,
        gva: Gva,
        dirty: u64,
        trail: &mut Trail<S::Mapped>,
    ) -> Result<Found, Failure>
    where
        M: PhysMemory + ?Sized,
        S: SecondDimension,
    {
        let start = if second.verifies() { None } else { self.find(paging, gva) };
        descend_from(memory, paging, second, gva, dirty, start, trail)
    }

    /// Caches the entries that were read, from `lowest` up. Their accessed flags are set by now.
    fn remember<T>(&mut self, paging: &Paging, gva: Gva, lowest: u8, trail: &Trail<T>) {
        remember_upper(self.structures, self.tag, paging, gva, self.start, lowest, trail);
    }
}

/// Caches the entries of a trail that were read, from `lowest` up to below `start`.
pub(crate) fn remember_upper<T, const SETS: usize, const WAYS: usize>(
    structures: &mut Structures<SETS, WAYS>,
    tag: u64,
    paging: &Paging,
    gva: Gva,
    start: Option<Upper>,
    lowest: u8,
    trail: &Trail<T>,
) {
    let (highest, mut rights) = start.map_or((top(paging), !0), |upper| (upper.level - 1, upper.rights));
    let bits32 = matches!(paging.mode(), PagingMode::Bits32);
    for level in (lowest.max(2)..=highest).rev() {
        let entry = trail.entry[level as usize - 1];
        // A PDPTE of PAE paging gives no rights and has no accessed flag.
        if !(matches!(paging.mode(), PagingMode::Pae) && level == 3) {
            rights &= (entry | pte::ACCESSED) ^ pte::EXECUTE_DISABLE;
        }
        structures.put(tag, linear(paging, gva), Upper { level, entry, rights }, bits32);
    }
}

/// The cached entry at which a walk of these tables begins.
#[inline(always)]
pub(crate) fn find_upper<const SETS: usize, const WAYS: usize>(
    structures: &Structures<SETS, WAYS>,
    tag: u64,
    paging: &Paging,
    gva: Gva,
) -> Option<Upper> {
    let bits32 = matches!(paging.mode(), PagingMode::Bits32);
    structures.find(tag, linear(paging, gva), top(paging), bits32)
}

/// [`descend`] from below a cached entry.
#[inline(always)]
pub(crate) fn descend_from<M, S>(
    memory: &M,
    paging: &Paging,
    second: &S,
    gva: Gva,
    dirty: u64,
    start: Option<Upper>,
    trail: &mut Trail<S::Mapped>,
) -> Result<Found, Failure>
where
    M: PhysMemory + ?Sized,
    S: SecondDimension,
{
    let address = linear(paging, gva);
    match (start, paging.mode(), &paging.pdptes) {
        (None, PagingMode::Pae, Pdptes::InMemory) => {
            let pdpte = pdpte(memory, paging, second, address)?;
            trail.entry[2] = pdpte;
            tables::<M, S, false, false>(memory, paging, second, pdpte & paging.frame, 2, address, dirty, trail)
        }
        (None, ..) => descend(memory, paging, second, gva, dirty, trail),
        (Some(upper), mode, _) => {
            let (table, below) = (upper.entry & paging.frame, upper.level - 1);
            let answer = if matches!(mode, PagingMode::Bits32) {
                tables::<M, S, true, false>(memory, paging, second, table, below, address, dirty, trail)
            } else {
                tables::<M, S, false, false>(memory, paging, second, table, below, address, dirty, trail)
            };
            with_upper(answer, upper.rights)
        }
    }
}

/// Adds the rights of the entries that were not read.
#[inline(always)]
fn with_upper(answer: Result<Found, Failure>, rights: u64) -> Result<Found, Failure> {
    match answer {
        Ok(found) => Ok(Found { rights: found.rights & rights, upper: found.upper & rights, ..found }),
        Err(failure) if matches!(failure.dimension, Dimension::Guest) => {
            Err(Failure { rights: failure.rights & rights, ..failure })
        }
        Err(failure) => Err(failure),
    }
}

/// HLAT paging and its restart: [`super::hlat`] with caches.
#[cold]
#[inline(never)]
#[allow(clippy::too_many_arguments, reason = "those of the walk, and the caches")]
fn hlat<M, S, const SETS: usize, const WAYS: usize>(
    memory: &M,
    paging: &Paging,
    second: &S,
    gva: Gva,
    dirty: u64,
    root: u64,
    part: &mut Part<'_, SETS, WAYS>,
    context: WalkContext,
    trail: &mut Trail<S::Mapped>,
) -> Result<Found, Failure>
where
    M: PhysMemory + ?Sized,
    S: SecondDimension,
{
    if !matches!(paging.mode(), PagingMode::Level4 | PagingMode::Level5) {
        return part.ordinary(memory, paging, second, gva, dirty, trail);
    }
    part.tag = context.linear(true);
    let start = if second.verifies() { None } else { part.find(paging, gva) };
    let first = match start {
        // SDM 3A 4.10.3.1: a cached entry with the restart flag restarts at once.
        Some(Upper { level, entry, .. }) if entry & pte::RESTART != 0 => {
            Found { page_bits: 12 + 9 * (level - 1), restart: true, ..Found::identity(0) }
        }
        _ => {
            let (table, below, rights) =
                start.map_or((root, top(paging), !0), |upper| (upper.entry, upper.level - 1, upper.rights));
            let table = table & paging.frame;
            let answer = tables::<M, S, false, true>(memory, paging, second, table, below, gva.0, dirty, trail);
            let first = with_upper(answer, rights)?;
            if !first.restart {
                return Ok(first);
            }
            set_flags(memory, paging, second, &first, 0, trail)?;
            // The entry that restarts is cached if it references a table.
            let page = paging.reserved(first.level).maps_page(first.level, first.leaf);
            part.remember(paging, gva, if page { first.level + 1 } else { first.level }, trail);
            first
        }
    };
    part.tag = context.linear(false);
    part.start = None;
    *trail = Trail::default();
    let found = part.ordinary(memory, paging, second, gva, dirty, trail)?;
    Ok(Found { page_bits: found.page_bits.min(first.page_bits), ..found })
}
