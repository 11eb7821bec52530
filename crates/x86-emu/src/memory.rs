//! How does the processor reach memory? Segments, then paging, then the bus.
//!
//! Source: SDM 3A 3.4, Logical and Linear Addresses; 5.3, Limit Checking; 4.1 to 4.11; SDM 3C 28.3 (rev 077).

use crate::bus::Bus;
use crate::code::{CodeCache, CodePages, Walked, Watched};
use crate::exec::{Exec, Stop, Stopped};
use crate::quick::Front;
use crate::state::State;
use crate::word::Word;
use core::cell::Cell;
use softvirt_ept::{
    Access, AddressSpace, Current, Demand, Direct, Ept, Failure, Invalidate, Mmu, MmuContext, Operation, Paging,
    PagingSupport, Pdptes, Pointers, Privilege, Reference, Retention, Space, Vendor,
};
use vmx_model::event::{Circumstances, Raised, translation_failure};
use vmx_model::intercept::Hot;
use vmx_model::translation;
use x86_state::{
    AccessRights, Cpu, CpuMode, CpuProfile, Cr0, Cr4, Exception, Gva, Hpa, Rflags, Segment, SegmentRegister,
};

/// A page of RAM below this number may hold decoded instructions; the payload of a translation is the page's number.
pub type Payload = u32;

type Translations = Mmu<Payload, 256, 4, 16, 4>;

/// What is remembered to be fast, and can be made again from the state: translations and decoded instructions.
pub struct Caches {
    mmu: Translations,
    /// Are translations forgotten as soon as an entry changes from which they were made?
    strict: bool,
    /// [`CodePages::tables_written`] when translations were last known to be right. Only counts if `strict`.
    heeded: u32,
    /// Which pages hold decoded instructions, and from which one they are fetched.
    pub code: CodeCache,
    /// The translations used last, for ordinary accesses.
    pub(crate) front: Front,
    /// How addresses are translated at present; made again when control registers, privilege or keys change.
    view: Option<View>,
    /// CS, SS or RFLAGS may have changed since the view was made.
    transferred: bool,
    /// The instructions that need no question in VMX non-root operation; made again after each VM entry.
    pub(crate) hot: Option<Hot>,
    support: PagingSupport,
}

/// How addresses are translated at present.
struct View {
    paging: Paging,
    pointers: Pointers,
    /// Was it 64-bit mode?
    code_64: bool,
    context: MmuContext,
    /// Read, write, fetch by the supervisor; the same by the user.
    demands: [Demand; 6],
    /// EPT, without its log.
    ept: Option<Ept<'static>>,
}

impl Caches {
    /// How many translations the TLB did not answer: walks, failed ones among them.
    #[must_use]
    pub const fn page_walks(&self) -> u64 {
        self.mmu.walks()
    }

    /// Nothing is cached. `pages` is shared by all that write the RAM.
    ///
    /// With [`Retention::Strict`] a change of the tables counts at once, as if nothing were cached: entries from which translations are made are
    /// watched, as instructions are. Tables beyond the RAM are walked each time.
    #[must_use]
    pub fn new(profile: &CpuProfile, retention: Retention, pages: CodePages) -> Self {
        Self {
            mmu: Mmu::new(Retention::Lazy, Vendor::Intel, 0),
            strict: retention == Retention::Strict,
            heeded: pages.tables_written(),
            code: CodeCache::new(pages),
            front: Front::new(),
            view: None,
            transferred: false,
            hot: None,
            support: PagingSupport::from_profile(profile),
        }
    }

    /// If translations are strict, and entries have been written from which some were made: all are forgotten.
    #[inline]
    pub(crate) fn heed(&mut self) {
        if self.strict && self.heeded != self.code.pages().tables_written() {
            self.forget_translations();
        }
    }

    #[cold]
    fn forget_translations(&mut self) {
        self.heeded = self.code.pages().tables_written();
        self.mmu.clear();
        self.code.leave();
        self.front.forget();
    }

    /// Forgets translations as the operation demands; all of them, if they are strict.
    pub fn invalidate(&mut self, operation: &Invalidate) {
        if self.strict {
            return self.forget_translations();
        }
        self.mmu.invalidate(operation);
        self.code.leave();
        self.front.forget();
    }

    /// Control registers, privilege, EFLAGS.AC, keys or the VMCS have changed: addresses may be translated otherwise from now on.
    pub fn changed(&mut self) {
        self.view = None;
        if self.strict {
            return self.forget_translations();
        }
        self.code.leave();
        self.front.forget();
    }

    /// CS, SS or RFLAGS have changed, or are about to, as events, far transfers and their returns change them, and nothing else on which
    /// translation depends: what is remembered stays, unless mode or EFLAGS.AC turn out to be others.
    pub(crate) fn transferred(&mut self) {
        self.transferred = true;
        self.front.close();
    }

    /// Registers are as they stay for now: is what is remembered still right?
    #[inline]
    pub(crate) fn settle(&mut self, cpu: &Cpu) {
        // Without a view nothing has been learned since the last change.
        if core::mem::take(&mut self.transferred) && self.view.as_ref().is_some_and(|view| !view.is_of(cpu)) {
            self.view = None;
            self.front.forget();
        }
    }

    /// How addresses are translated at present, with the translations and the pages of code.
    #[inline]
    fn view(&mut self, state: &State, profile: &CpuProfile) -> (&View, &mut Translations, &CodePages) {
        self.settle(&state.cpu);
        let Self { mmu, code, view, support, .. } = self;
        let view = view.get_or_insert_with(|| View::new(state, profile, support, mmu));
        (view, mmu, code.pages())
    }
}

impl View {
    fn new(state: &State, profile: &CpuProfile, support: &PagingSupport, mmu: &mut Translations) -> Self {
        let State { cpu, vmx, .. } = state;
        let mut paging = translation::paging(vmx, cpu, support);
        paging.pdptes = Pdptes::Registers(cpu.pdptes);
        let ept = translation::ept(vmx, profile, None);
        let Current { id, pcid } = translation::current(vmx, cpu);
        let space = match &ept {
            Some(_) => Space::combined(id, vmx.vmcs.get(vmx_model::Field::EPT_POINTER)),
            None => Space::linear(id),
        };
        let demand = |operation, privilege| Demand::new(&paging, Access::new(operation, privilege));
        let [read, write, fetch] = [Operation::Read, Operation::Write, Operation::Fetch];
        let demands = [
            demand(read, Privilege::Supervisor),
            demand(write, Privilege::Supervisor),
            demand(fetch, Privilege::Supervisor),
            demand(read, Privilege::User),
            demand(write, Privilege::User),
            demand(fetch, Privilege::User),
        ];
        let code_64 = cpu.mode() == CpuMode::Long64;
        Self {
            pointers: Pointers::of_cpu(cpu, code_64),
            code_64,
            context: mmu.context(space, pcid),
            demands,
            ept,
            paging,
        }
    }

    /// Is it the same with these registers, if only CS, SS and RFLAGS may differ?
    fn is_of(&self, cpu: &Cpu) -> bool {
        self.code_64 == (cpu.mode() == CpuMode::Long64)
            && self.paging.modifiers.alignment_check == cpu.rflags.contains(Rflags::AC)
    }
}

/// A page-sized part of an access.
const PAGE: u64 = 0x1000;

impl<B: Bus> Exec<'_, B> {
    /// Where a linear address leads for this access.
    #[inline]
    pub fn translate(&mut self, linear: Gva, access: Access) -> Result<Hpa, Stopped> {
        let demand = match access.operation {
            Operation::Read => 0,
            Operation::Write => 1,
            Operation::Fetch => 2,
        } + if access.is_user() { 3 } else { 0 };
        self.caches.heed();
        let (view, mmu, _) = self.caches.view(self.state, self.profile);
        let demand = if access.shadow_stack { Demand::new(&view.paging, access) } else { view.demands[demand] };
        if let Some((hpa, _)) = mmu.lookup(view.context, linear, &demand) {
            self.learn(linear, access, hpa);
            return Ok(hpa);
        }
        self.walk(linear, access, &demand)
    }

    /// The TLB has answered: [`Front`] may answer next time.
    #[inline]
    fn learn(&mut self, linear: Gva, access: Access, hpa: Hpa) {
        let Caches { front, code, .. } = &mut *self.caches;
        let ordinary = match access.privilege {
            Privilege::User => front.is_user(),
            Privilege::Supervisor => !front.is_user(),
            Privilege::ImplicitSupervisor => false,
        } && !access.shadow_stack;
        if !front.is_open() || !ordinary || access.is_fetch() || !self.bus.is_ram(hpa) {
            return;
        }
        if !access.is_write() || !code.pages().is_watched(hpa) {
            front.learn(linear.0, hpa, access.is_write());
        }
    }

    /// Walks the tables, or asks the TLB for what it cannot answer without them.
    #[inline(never)]
    fn walk(&mut self, linear: Gva, access: Access, demand: &Demand) -> Result<Hpa, Stopped> {
        let strict = self.caches.strict;
        let (view, mmu, pages) = self.caches.view(self.state, self.profile);
        let memory = Watched { bus: self.bus, pages };
        let memory = Walked { memory, watches: strict, unwatched: Cell::new(false) };
        let forgotten = pages.forgotten();
        let result = match &view.ept {
            None => {
                let space = AddressSpace { paging: &view.paging, second: &Direct, context: view.context };
                mmu.translate(&memory, &space, linear, access, demand, |found| (found.hpa.0 >> 12) as u32)
            }
            Some(_) => {
                let log = translation::page_modification_log(&self.state.vmx);
                let Some(ept) = translation::ept(&self.state.vmx, self.profile, log.as_ref()) else {
                    // The view is older than the controls: it must not be met again.
                    self.caches.changed();
                    return Err(self.retry());
                };
                let space = AddressSpace { paging: &view.paging, second: &ept, context: view.context };
                let result = mmu.translate(&memory, &space, linear, access, demand, |found| (found.hpa.0 >> 12) as u32);
                if let Some(log) = &log {
                    translation::store_page_modification_log(&mut self.state.vmx, log);
                }
                result
            }
        };
        // The flags that the walk has set may be in a page of instructions.
        self.leave |= pages.forgotten() != forgotten;
        if strict {
            if memory.unwatched.get() {
                mmu.clear();
            }
            let settled = pages.settled();
            self.caches.front.renew(settled);
        }
        match result {
            Ok((hpa, _)) => Ok(hpa),
            Err(failure) => Err(self.translation_failed(linear, access, &failure)),
        }
    }

    #[cold]
    fn retry(&mut self) -> Stopped {
        self.stop = Stop::Retry;
        Stopped
    }

    /// The walk has failed: page fault, #VE or VM exit. What led to the address is forgotten, as the manual demands.
    #[cold]
    fn translation_failed(&mut self, linear: Gva, access: Access, failure: &Failure) -> Stopped {
        let Some(view) = &self.caches.view else { return self.retry() };
        let current = translation::current(&self.state.vmx, &self.state.cpu);
        if failure.is_page_fault() {
            let raised = Raised::page_fault(linear, failure.page_fault_error_code(&view.paging, access));
            self.caches.invalidate(&Invalidate::PageFault { current, gva: linear });
            return self.raise(raised);
        }
        let circumstances = Circumstances {
            delivering: self.delivering,
            injected: self.injecting,
            unblocks_nmi: self.unblocks_nmi,
            between_iterations: false,
        };
        let State { cpu, vmx, .. } = &*self.state;
        let memory = Watched { bus: self.bus, pages: self.caches.code.pages() };
        let ept = view.ept.as_ref();
        let reaction =
            translation_failure(vmx, cpu, &memory, &view.paging, ept, failure, access, linear, &circumstances);
        let eptp = vmx.vmcs.get(vmx_model::Field::EPT_POINTER);
        self.caches.invalidate(&Invalidate::EptViolation { current, eptp, gpa: failure.gpa, gva: Some(linear) });
        self.stop = Stop::React(reaction);
        Stopped
    }

    /// The linear address of an access of `len_bytes` at `offset` of a segment, after the segment's checks.
    #[inline]
    pub fn linear(
        &mut self,
        register: SegmentRegister,
        offset: u64,
        len_bytes: u64,
        write: bool,
    ) -> Result<Gva, Stopped> {
        if self.long64() {
            let base = match register {
                SegmentRegister::Fs | SegmentRegister::Gs => self.state.cpu.segments[register].base,
                _ => 0,
            };
            return self.linear_64(register, base.wrapping_add(offset), len_bytes);
        }
        let segment = self.state.cpu.segments[register];
        if !allows(&segment, register, offset, len_bytes, write, self.state.cpu.cr0) {
            let exception = if register == SegmentRegister::Ss { Exception::SS } else { Exception::GP };
            return Err(self.fault_with(exception, 0));
        }
        Ok(Gva(segment.base.wrapping_add(offset) & 0xffff_ffff))
    }

    #[inline]
    fn linear_64(&mut self, register: SegmentRegister, address: u64, len_bytes: u64) -> Result<Gva, Stopped> {
        let pointers = self.caches.view(self.state, self.profile).0.pointers;
        let reference = match register {
            SegmentRegister::Ds | SegmentRegister::Es => Reference::Data,
            _ => Reference::OtherSegment,
        };
        let last = address.wrapping_add(len_bytes.wrapping_sub(1));
        match (pointers.linear(address, reference), pointers.linear(last, reference)) {
            (Ok(linear), Ok(_)) => Ok(linear),
            _ => {
                let exception = if register == SegmentRegister::Ss { Exception::SS } else { Exception::GP };
                Err(self.fault_with(exception, 0))
            }
        }
    }

    /// How this processor accesses data at present: by its CPL.
    #[inline(always)]
    pub fn data(&self, operation: Operation) -> Access {
        let user = self.state.cpu.cpl() == 3;
        Access::new(operation, if user { Privilege::User } else { Privilege::Supervisor })
    }

    /// An access of the processor's own to a descriptor table or a TSS: as the supervisor, whatever the CPL.
    #[inline(always)]
    pub fn system(&self, operation: Operation) -> Access {
        Access::new(operation, Privilege::ImplicitSupervisor)
    }

    /// Reads through a segment, looking at everything.
    #[inline(never)]
    pub(crate) fn read_slowly<W: Word>(&mut self, segment: SegmentRegister, offset: u64) -> Result<W, Stopped> {
        let linear = self.linear(segment, offset, u64::from(W::BITS / 8), false)?;
        self.check_alignment::<W>(linear)?;
        self.read_linear(linear, self.data(Operation::Read))
    }

    /// Writes through a segment, looking at everything.
    #[inline(never)]
    pub(crate) fn write_slowly<W: Word>(
        &mut self,
        segment: SegmentRegister,
        offset: u64,
        value: W,
    ) -> Result<(), Stopped> {
        let linear = self.linear(segment, offset, u64::from(W::BITS / 8), true)?;
        self.check_alignment::<W>(linear)?;
        self.write_linear(linear, value, self.data(Operation::Write))
    }

    /// #AC(0) for an operand that is not aligned to its size, at level 3 with CR0.AM and RFLAGS.AC (SDM 3A 6.15, Interrupt 17).
    #[inline(always)]
    fn check_alignment<W: Word>(&mut self, linear: Gva) -> Result<(), Stopped> {
        if self.aligned && linear.0 % u64::from(W::BITS / 8) != 0 {
            return Err(self.fault_with(Exception::AC, 0));
        }
        Ok(())
    }

    /// Reads at a linear address.
    #[inline]
    pub fn read_linear<W: Word>(&mut self, linear: Gva, access: Access) -> Result<W, Stopped> {
        let len = u64::from(W::BITS / 8);
        let hpa = self.translate(linear, access)?;
        if self.watching {
            self.watch(linear, len, access);
        }
        self.reach(hpa)?;
        if linear.0 & (PAGE - 1) <= PAGE - len {
            return Ok(self.load(hpa));
        }
        let first = PAGE - (linear.0 & (PAGE - 1));
        let second = self.translate(self.wrapped(linear, first), access)?;
        self.reach(second)?;
        let mut bytes = [0; 8];
        for n in 0..len {
            let at = if n < first { hpa.offset(n) } else { second.offset(n - first) };
            bytes[(n & 7) as usize] = self.load(at);
        }
        Ok(W::cut(u64::from_le_bytes(bytes)))
    }

    /// Writes at a linear address. Nothing is written if a part of it may not be.
    #[inline]
    pub fn write_linear<W: Word>(&mut self, linear: Gva, value: W, access: Access) -> Result<(), Stopped> {
        let len = u64::from(W::BITS / 8);
        let hpa = self.translate(linear, access)?;
        if self.watching {
            self.watch(linear, len, access);
        }
        self.reach(hpa)?;
        if linear.0 & (PAGE - 1) <= PAGE - len {
            self.store(hpa, value);
            return Ok(());
        }
        let first = PAGE - (linear.0 & (PAGE - 1));
        let second = self.translate(self.wrapped(linear, first), access)?;
        self.reach(second)?;
        for (n, byte) in (0..len).zip(value.to_u64().to_le_bytes()) {
            let at = if n < first { hpa.offset(n) } else { second.offset(n - first) };
            self.store(at, byte);
        }
        Ok(())
    }

    /// Reads, changes and writes, looking at everything.
    #[inline(never)]
    pub(crate) fn read_modify_write_slowly<W: Word>(
        &mut self,
        segment: SegmentRegister,
        offset: u64,
        lock: bool,
        change: impl FnMut(W) -> W,
    ) -> Result<(W, W), Stopped> {
        let mut change = change;
        let linear = self.linear(segment, offset, u64::from(W::BITS / 8), true)?;
        self.check_alignment::<W>(linear)?;
        let access = self.data(Operation::Write);
        let hpa = self.translate(linear, access)?;
        if self.watching {
            self.watch(linear, u64::from(W::BITS / 8), access);
        }
        self.reach(hpa)?;
        if lock && linear.0 % u64::from(W::BITS / 8) == 0 && W::BITS >= 32 {
            loop {
                let before: W = self.load(hpa);
                let after = change(before);
                let exchanged = if W::BITS == 32 {
                    self.bus.compare_exchange_u32(hpa, before.to_u64() as u32, after.to_u64() as u32).is_ok()
                } else {
                    self.bus.compare_exchange_u64(hpa, before.to_u64(), after.to_u64()).is_ok()
                };
                if exchanged {
                    self.wrote(hpa, u64::from(W::BITS / 8));
                    return Ok((before, after));
                }
            }
        }
        // Processors take turns between instructions: what is not aligned is atomic as well.
        let before = self.read_linear(linear, access)?;
        let after = change(before);
        self.write_linear(linear, after, access)?;
        Ok((before, after))
    }

    /// Notes the data breakpoints that an access meets (SDM 3B 17.2.5, Breakpoint Field Recognition). An instruction that does not complete
    /// meets none. The processor's own accesses to tables are not looked at.
    #[cold]
    fn watch(&mut self, linear: Gva, len_bytes: u64, access: Access) {
        const WRITE: u8 = 1;
        const READ_WRITE: u8 = 3;
        if access.privilege == Privilege::ImplicitSupervisor {
            return;
        }
        let writes = access.operation == Operation::Write;
        self.met |= self.breakpoints(|condition, at, watched| {
            // The length aligns the address.
            let at = at & !(watched - 1);
            let overlaps = linear.0 <= at.wrapping_add(watched - 1) && at <= linear.0.wrapping_add(len_bytes - 1);
            overlaps && (condition == READ_WRITE || condition == WRITE && writes)
        });
    }

    /// IN, OUT, INS and OUTS tell which ports they access, for I/O breakpoints (SDM 3B 17.2.4: with CR4.DE).
    pub fn watch_port(&mut self, port: u16, size_bytes: u8) {
        const IO: u8 = 2;
        if self.watching && self.state.cpu.cr4.contains(Cr4::DE) {
            let (first, last) = (u64::from(port), u64::from(port) + u64::from(size_bytes) - 1);
            self.met |= self.breakpoints(|condition, at, watched| {
                let at = at & !(watched - 1);
                condition == IO && first < at.wrapping_add(watched) && at <= last
            });
        }
    }

    /// Memory is being written: what was made of it is forgotten.
    #[inline(always)]
    fn wrote(&mut self, hpa: Hpa, len_bytes: u64) {
        if self.caches.code.pages().written_bytes(hpa, len_bytes) {
            self.caches.heed();
            self.leave = true;
        }
    }

    /// What is not RAM may be a device: an access may depend on the time, and change what waits and when the next event is.
    ///
    /// # Errors
    /// The instruction has to be begun again when the time is right.
    #[inline(always)]
    fn reach(&mut self, hpa: Hpa) -> Result<(), Stopped> {
        if self.bus.is_ram(hpa) { Ok(()) } else { self.reach_device() }
    }

    #[cold]
    #[inline(never)]
    fn reach_device(&mut self) -> Result<(), Stopped> {
        if self.behind {
            self.settle = true;
            return Err(self.retry());
        }
        self.leave = true;
        self.state.tsc = self.bus.now(self.state.tsc);
        Ok(())
    }

    #[inline(always)]
    fn load<W: Word>(&self, hpa: Hpa) -> W {
        W::cut(match W::BITS {
            8 => u64::from(self.bus.read_u8(hpa)),
            16 => u64::from(self.bus.read_u16(hpa)),
            32 => u64::from(self.bus.read_u32(hpa)),
            _ => self.bus.read_u64(hpa),
        })
    }

    #[inline(always)]
    fn store<W: Word>(&mut self, hpa: Hpa, value: W) {
        // What is written as it is already changes no instructions, and no translations.
        if self.caches.code.pages().is_watched(hpa) && self.bus.is_ram(hpa) && self.load::<W>(hpa) == value {
            return;
        }
        self.wrote(hpa, u64::from(W::BITS / 8));
        match W::BITS {
            8 => self.bus.write_u8(hpa, value.to_u64() as u8),
            16 => self.bus.write_u16(hpa, value.to_u64() as u16),
            32 => self.bus.write_u32(hpa, value.to_u64() as u32),
            _ => self.bus.write_u64(hpa, value.to_u64()),
        }
    }

    /// `linear` plus `bytes`, at the width of the mode.
    #[inline(always)]
    fn wrapped(&self, linear: Gva, bytes: u64) -> Gva {
        let sum = linear.0.wrapping_add(bytes);
        Gva(if self.long64() { sum } else { sum & 0xffff_ffff })
    }
}

/// Do a segment's type and limit allow the access (SDM 3A 5.3, Limit Checking; 5.4, Type Checking)? Outside 64-bit mode.
pub(crate) fn allows(
    segment: &Segment,
    register: SegmentRegister,
    offset: u64,
    len_bytes: u64,
    write: bool,
    cr0: Cr0,
) -> bool {
    let rights: AccessRights = segment.rights;
    if cr0.contains(Cr0::PE) {
        if rights.unusable() || !rights.p() {
            return false;
        }
        let code = rights.is_code();
        let second = rights.typ() & 2 != 0;
        // Code is never written; in data segments bit 1 of the type allows it.
        if write && (code || !second) {
            return false;
        }
        if !write && code && !second && register != SegmentRegister::Cs {
            return false;
        }
        let expand_down = !code && rights.typ() & 4 != 0;
        if expand_down {
            let top = if rights.db() { 0xffff_ffff } else { 0xffff };
            return offset > u64::from(segment.limit) && offset + (len_bytes - 1) <= top;
        }
    }
    offset + (len_bytes - 1) <= u64::from(segment.limit)
}
