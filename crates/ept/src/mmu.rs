//! Where does this address lead, by whatever is cached? A TLB and the caches of a walk together, as an emulator needs them.
//!
//! ```
//! use softvirt_ept::{Access, AddressSpace, Current, Direct, Invalidate, Mmu, Operation, Paging, PagingSupport, Privilege};
//! use softvirt_ept::{Retention, Space, Vendor};
//! use x86_state::{Cr0, Cr4, Efer, Gva, Hpa, PhysMemory, mem::WordMemory};
//!
//! let tables = [(0x1000, 0x2023), (0x2000, 0x3023), (0x3000, 0x4023), (0x4008, 0x9063)];
//! let memory = WordMemory::new(tables);
//! let paging = Paging::new(Cr0::PE | Cr0::PG, 0x1000, Cr4::PAE, Efer::LME | Efer::LMA, &PagingSupport::new(46));
//! // 128 translations with a number of ours for each page; 5 times 32 entries of tables.
//! let mut mmu = Mmu::<u32, 64, 2, 8, 4>::new(Retention::Lazy, Vendor::Intel, 0);
//! let space = AddressSpace { paging: &paging, second: &Direct, context: mmu.context(Space::linear(0), 0) };
//! let read = Access::new(Operation::Read, Privilege::Supervisor);
//! let demand = space.demand(read);
//!
//! // A payload is made when the page is walked to, and kept with it.
//! let found = mmu.translate(&memory, &space, Gva(0x1234), read, &demand, |found| found.hpa.0 as u32 >> 12);
//! assert_eq!(found, Ok((Hpa(0x9234), 9)));
//! let again = mmu.translate(&memory, &space, Gva(0x1678), read, &demand, |_| unreachable!("it is in the TLB"));
//! assert_eq!(again, Ok((Hpa(0x9678), 9)));
//!
//! mmu.invalidate(&Invalidate::Invlpg { current: Current { id: 0, pcid: 0 }, gva: Gva(0x1000), tce: false });
//! memory.write_u64(Hpa(0x4008), 0);
//! assert!(mmu.translate(&memory, &space, Gva(0x1678), read, &demand, |_| 0).is_err());
//! ```
//!
//! Source: SDM 3A 4.10.3.2, Using the Paging-Structure Caches to Translate Linear Addresses (rev 077); APM 2 5.5.3, TLB
//! Management (rev 3.44).

use x86_state::{Gva, Hpa, PagingMode, PhysMemory};

use crate::cache::{WalkCaches, WalkContext};
use crate::entry::pte;
use crate::fault::Failure;
use crate::invalidate::{Invalidate, Retention, Space, Vendor};
use crate::mode::{Access, Paging};
use crate::tlb::{CachedPage, Context, Demand, Lookup, Tlb};
use crate::walk::{CachingDimension, Translation, walk_cached};

/// Whose translations are looked up: made by [`Mmu::context`].
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct MmuContext {
    tlb: Context,
    walk: WalkContext,
}

/// How addresses are translated at present, and under which tags that is cached.
#[derive(Debug)]
pub struct AddressSpace<'a, S> {
    /// The first dimension.
    pub paging: &'a Paging,
    /// The second dimension.
    pub second: &'a S,
    /// The tags.
    pub context: MmuContext,
}

impl<S> AddressSpace<'_, S> {
    /// What an access asks of the TLB; to be kept until privilege, control registers or key rights change.
    #[must_use]
    pub const fn demand(&self, access: Access) -> Demand {
        Demand::new(self.paging, access)
    }
}

/// A TLB of `SETS` times `WAYS` translations, each with a payload, and [`WalkCaches`] of `WALK_SETS` and `WALK_WAYS`.
#[derive(Clone, Debug)]
pub struct Mmu<P: Copy, const SETS: usize, const WAYS: usize, const WALK_SETS: usize, const WALK_WAYS: usize> {
    tlb: Tlb<P, SETS, WAYS>,
    caches: WalkCaches<WALK_SETS, WALK_WAYS>,
    walks: u64,
}

impl<P: Copy, const SETS: usize, const WAYS: usize, const WALK_SETS: usize, const WALK_WAYS: usize>
    Mmu<P, SETS, WAYS, WALK_SETS, WALK_WAYS>
{
    /// With nothing cached. `filler` stands where no translation is cached; for `vendor` see [`WalkCaches::new`].
    #[must_use]
    pub const fn new(retention: Retention, vendor: Vendor, filler: P) -> Self {
        Self { tlb: Tlb::new(retention, filler), caches: WalkCaches::new(retention, vendor), walks: 0 }
    }

    /// The context of a space of linear or combined mappings and a PCID, to be asked for when one of them changes.
    ///
    /// A context older than 30 others is no longer valid, see [`WalkCaches::context`].
    pub fn context(&mut self, space: Space, pcid: u16) -> MmuContext {
        MmuContext { tlb: self.tlb.context(space, pcid), walk: self.caches.context(space, pcid) }
    }

    /// How many translations the TLB did not answer: walks, failed ones among them.
    #[must_use]
    pub const fn walks(&self) -> u64 {
        self.walks
    }

    /// Where `gva` leads for `access`, and the payload of its page. `demand` is that of the access, [`AddressSpace::demand`].
    ///
    /// `payload` is called when the page is not in the TLB; its answer belongs to the whole range of
    /// [`Translation::page_bits`]. The TLB's word alone is never a reason to fault, since a failure has to say which entry
    /// stopped it: a refused access is walked, and its answer replaces what was cached.
    ///
    /// # Errors
    /// What stopped the walk; to be followed by [`Invalidate::PageFault`] or [`Invalidate::EptViolation`].
    #[inline]
    pub fn translate<M, S>(
        &mut self,
        memory: &M,
        space: &AddressSpace<'_, S>,
        gva: Gva,
        access: Access,
        demand: &Demand,
        payload: impl FnOnce(&Translation) -> P,
    ) -> Result<(Hpa, P), Failure>
    where
        M: PhysMemory + ?Sized,
        S: CachingDimension,
    {
        match self.tlb.lookup(space.context.tlb, gva, demand) {
            Lookup::Hit { hpa, payload } => Ok((hpa, payload)),
            Lookup::Refused | Lookup::Miss => self.fill(memory, space, gva, access, payload),
        }
    }

    /// Where `gva` leads, if the TLB alone can say that the access is allowed.
    #[inline]
    pub fn lookup(&mut self, context: MmuContext, gva: Gva, demand: &Demand) -> Option<(Hpa, P)> {
        match self.tlb.lookup(context.tlb, gva, demand) {
            Lookup::Hit { hpa, payload } => Some((hpa, payload)),
            Lookup::Refused | Lookup::Miss => None,
        }
    }

    #[inline(never)]
    fn fill<M, S>(
        &mut self,
        memory: &M,
        space: &AddressSpace<'_, S>,
        gva: Gva,
        access: Access,
        payload: impl FnOnce(&Translation) -> P,
    ) -> Result<(Hpa, P), Failure>
    where
        M: PhysMemory + ?Sized,
        S: CachingDimension,
    {
        let AddressSpace { paging, second, context } = *space;
        self.walks = self.walks.wrapping_add(1);
        let found = walk_cached(memory, paging, second, gva, access, &mut self.caches, context.walk)?;
        let payload = payload(&found);
        if let Some(rights) = second.second_rights(&found, access) {
            // The entry was read before its dirty flag was set.
            let on = !matches!(paging.mode(), PagingMode::None);
            let set = if on && access.is_write() { pte::DIRTY } else { 0 };
            let left = Translation { guest_leaf: found.guest_leaf | set, ..found };
            self.tlb.insert(context.tlb, gva, CachedPage::new(paging, &left, rights), payload);
        }
        Ok((found.hpa, payload))
    }

    /// Forgets what the operation demands; with [`Retention::Strict`], everything.
    pub fn invalidate(&mut self, operation: &Invalidate) {
        self.tlb.invalidate(operation);
        self.caches.invalidate(operation);
    }

    /// Forgets everything, as a processor may at any time.
    pub fn clear(&mut self) {
        self.tlb.clear();
        self.caches.clear();
    }

    /// The translations, to be looked at.
    #[must_use]
    pub const fn tlb(&self) -> &Tlb<P, SETS, WAYS> {
        &self.tlb
    }

    /// The caches of the walk, to be looked at.
    #[must_use]
    pub const fn caches(&self) -> &WalkCaches<WALK_SETS, WALK_WAYS> {
        &self.caches
    }
}
