//! What does a task switch do? Outside VMX non-root operation, where it exits instead.
//!
//! Source: SDM 3A 7.2.1, Task-State Segment (TSS); 7.3, Task Switching; 7.6, 16-Bit Task-State Segment; SDM 3C 25.4.2 (rev 077).

use crate::bus::Bus;
use crate::cet::ShadowTask;
use crate::exec::{Exec, Stopped};
use crate::far::TaskSource;
use crate::segments::{Descriptor, null_stack, selector_error};
use softvirt_ept::{Direct, Invalidate, Operation, PdpteLoadFailure, load_pdptes};
use vmx_model::event::Circumstances;
use vmx_model::information::TaskSwitchSource;
use vmx_model::intercept;
use x86_state::{AccessRights, Cr0, Exception, Gpr, PagingMode, Rflags, Segment, SegmentRegister, Selector};

/// The eight general registers in the order of a TSS.
const REGISTERS: [Gpr; 8] = [Gpr::Rax, Gpr::Rcx, Gpr::Rdx, Gpr::Rbx, Gpr::Rsp, Gpr::Rbp, Gpr::Rsi, Gpr::Rdi];
/// The segment registers in the order of a TSS.
const SEGMENTS: [SegmentRegister; 6] = [
    SegmentRegister::Es,
    SegmentRegister::Cs,
    SegmentRegister::Ss,
    SegmentRegister::Ds,
    SegmentRegister::Fs,
    SegmentRegister::Gs,
];

/// Where a TSS keeps what; the 16-bit one lacks CR3, FS and GS.
struct Layout {
    word_bytes: u64,
    cr3: Option<u64>,
    ip: u64,
    flags: u64,
    registers: u64,
    segments: u64,
    segment_count: usize,
    ldt: u64,
    limit: u32,
}

const BITS_32: Layout = Layout {
    word_bytes: 4,
    cr3: Some(0x1c),
    ip: 0x20,
    flags: 0x24,
    registers: 0x28,
    segments: 0x48,
    segment_count: 6,
    ldt: 0x60,
    limit: 0x67,
};

const BITS_16: Layout = Layout {
    word_bytes: 2,
    cr3: None,
    ip: 0x0e,
    flags: 0x10,
    registers: 0x12,
    segments: 0x22,
    segment_count: 4,
    ldt: 0x2a,
    limit: 0x2b,
};

impl Layout {
    const fn of(rights: AccessRights) -> &'static Self {
        if rights.typ() & 8 != 0 { &BITS_32 } else { &BITS_16 }
    }
}

impl<B: Bus> Exec<'_, B> {
    /// Switches to the task of a TSS selector, by CALL, JMP or IRET. (Task gates in the IDT are the affair of event delivery, which calls
    /// [`Exec::switch_to`].)
    pub fn switch_task(&mut self, selector: Selector, source: TaskSource) -> Result<(), Stopped> {
        let busy = source == TaskSource::Iret;
        let exception = if busy { Exception::TS } else { Exception::GP };
        let source = match source {
            TaskSource::Call => TaskSwitchSource::Call,
            TaskSource::Jump => TaskSwitchSource::Jmp,
            TaskSource::Iret => TaskSwitchSource::Iret,
        };
        self.switch_to(selector, source, busy, exception)
    }

    /// Switches to the task of a TSS selector: `busy` if its descriptor has to be busy, `exception` if it does not fit.
    pub fn switch_to(
        &mut self,
        selector: Selector,
        source: TaskSwitchSource,
        busy: bool,
        exception: Exception,
    ) -> Result<(), Stopped> {
        let wrong = selector_error(selector);
        if selector.ti() {
            return Err(self.fault_with(exception, wrong));
        }
        let descriptor = self.descriptor(selector, exception)?;
        let rights = descriptor.rights();
        let is_tss = !rights.s() && matches!(rights.typ(), 1 | 3 | 9 | 11);
        if !is_tss || (rights.typ() & 2 != 0) != busy {
            return Err(self.fault_with(exception, wrong));
        }
        if !rights.p() {
            return Err(self.fault_with(Exception::NP, wrong));
        }
        let new = Segment::from_descriptor(selector, descriptor.low | 2 << 40);
        let layout = Layout::of(rights);
        if new.limit < layout.limit {
            return Err(self.fault_with(Exception::TS, wrong));
        }
        self.check_shadow_task(&new, source)?;
        if self.state.vmx.in_guest() {
            let len = (self.next_rip.wrapping_sub(self.state.cpu.rip) & 0xf) as u8;
            let circumstances =
                Circumstances { delivering: self.delivering, injected: self.injecting, ..Circumstances::default() };
            let exit = intercept::task_switch(selector.0, source, len, &circumstances);
            return Err(self.exit(exit));
        }
        self.check_reachable(&descriptor, new.base, layout.limit, source)?;
        let shadow = self.leave_shadow_task(&new, source)?;
        self.leave_task(&descriptor, source)?;
        let nested = matches!(source, TaskSwitchSource::Call | TaskSwitchSource::IdtGate);
        let link = nested.then_some(self.state.cpu.segments[SegmentRegister::Tr].selector);
        self.enter_task(new, layout, link, source, &shadow)
    }

    /// Step 5 of the manual: what is stored and loaded before the switch is committed is in memory. Behind it the old task can be left
    /// without a way back.
    fn check_reachable(
        &mut self,
        new: &Descriptor,
        new_base: u64,
        new_limit: u32,
        source: TaskSwitchSource,
    ) -> Result<(), Stopped> {
        let tr = self.state.cpu.segments[SegmentRegister::Tr];
        // The busy flags.
        let leaves = matches!(source, TaskSwitchSource::Jmp | TaskSwitchSource::Iret);
        let old = if leaves { Some(self.descriptor(tr.selector, Exception::TS)?) } else { None };
        let new = (source != TaskSwitchSource::Iret).then_some(*new);
        for descriptor in [old, new].into_iter().flatten() {
            self.translate(descriptor.at.offset(5), self.system(Operation::Write))?;
        }
        let old = Layout::of(tr.rights);
        let [read, write] = [Operation::Read, Operation::Write];
        for (base, offset, operation) in [
            (tr.base, old.ip, write),
            (tr.base, old.limit.into(), write),
            (new_base, 0, if leaves { read } else { write }),
            (new_base, new_limit.into(), read),
        ] {
            let at = self.system_linear(base.wrapping_add(offset));
            self.translate(at, self.system(operation))?;
        }
        Ok(())
    }

    /// Stores the old task, and moves the busy bits.
    fn leave_task(&mut self, new: &Descriptor, source: TaskSwitchSource) -> Result<(), Stopped> {
        let tr = self.state.cpu.segments[SegmentRegister::Tr];
        let layout = Layout::of(tr.rights);
        let mut flags = self.rflags();
        if source == TaskSwitchSource::Iret {
            flags -= Rflags::NT;
        }
        let old = match source {
            TaskSwitchSource::Jmp | TaskSwitchSource::Iret => Some(self.descriptor(tr.selector, Exception::TS)?),
            _ => None,
        };
        let cpu = self.state.cpu;
        let word = layout.word_bytes;
        self.store_word(tr.base.wrapping_add(layout.ip), word, self.next_rip)?;
        self.store_word(tr.base.wrapping_add(layout.flags), word, flags.bits())?;
        for (n, register) in (0..).zip(REGISTERS) {
            self.store_word(tr.base.wrapping_add(layout.registers + n * word), word, cpu.gpr[register])?;
        }
        for (n, register) in (0..).zip(SEGMENTS.into_iter().take(layout.segment_count)) {
            let selector = cpu.segments[register].selector;
            self.store_word(tr.base.wrapping_add(layout.segments + n * word), 2, u64::from(selector.0))?;
        }
        // The new task becomes busy first: what may still fault leaves the old one as it was.
        if source != TaskSwitchSource::Iret {
            self.mark_descriptor(new, 2)?;
        }
        if let Some(old) = old {
            // The old task is no longer busy.
            self.write_linear(old.at, old.low & !(2 << 40), self.system(Operation::Write))?;
        }
        Ok(())
    }

    /// Loads the new task. From here on faults are those of the new task.
    fn enter_task(
        &mut self,
        new: Segment,
        layout: &Layout,
        link: Option<Selector>,
        source: TaskSwitchSource,
        shadow: &ShadowTask,
    ) -> Result<(), Stopped> {
        let word = layout.word_bytes;
        if let Some(link) = link {
            self.store_word(new.base, 2, u64::from(link.0))?;
        }
        let mut words = [0; 10];
        for (n, value) in (0..).zip(&mut words) {
            *value = self.load_word(new.base.wrapping_add(layout.ip + n * word), word)?;
        }
        let mut selectors = [0; 6];
        for (n, selector) in (0..).zip(selectors.iter_mut().take(layout.segment_count)) {
            *selector = self.load_word(new.base.wrapping_add(layout.segments + n * word), 2)? as u16;
        }
        let ldt = Selector(self.load_word(new.base.wrapping_add(layout.ldt), 2)? as u16);
        let cr3 = match layout.cr3 {
            Some(offset) => Some(self.load_word(new.base.wrapping_add(offset), 4)?),
            None => None,
        };
        let trap = layout.word_bytes == 4 && self.load_word(new.base.wrapping_add(0x64), 2)? & 1 == 1;

        let [ip, flags, registers @ ..] = words;
        self.rflags();
        let cpu = &mut self.state.cpu;
        let mut flags = Rflags::from_bits_retain(flags & 0x003f_7fd7) | Rflags::FIXED_1;
        if link.is_some() {
            flags |= Rflags::NT;
        }
        cpu.rflags = flags;
        for (register, value) in REGISTERS.into_iter().zip(registers) {
            cpu.gpr[register] = value;
        }
        cpu.segments[SegmentRegister::Tr] = new;
        cpu.cr0 |= Cr0::TS;
        // SDM 3B 17.2.4: a task switch clears the local breakpoint enables.
        cpu.dr7 = x86_state::Dr7::from_bits_retain(cpu.dr7.bits() & !0x155);
        // Faults from here on return to the new task's first instruction.
        cpu.rip = ip;
        self.next_rip = ip;
        self.switch_shadow_task(shadow);
        if let Some(cr3) = cr3.filter(|_| self.state.cpu.cr0.contains(Cr0::PG)) {
            self.load_cr3_of_task(cr3)?;
        }
        self.caches.changed();
        self.load_segments_of_task(ldt, selectors, layout.segment_count)?;
        self.enter_shadow_task(&new, source, shadow)?;
        if self.next_rip > u64::from(self.state.cpu.segments[SegmentRegister::Cs].limit) {
            return Err(self.gp());
        }
        if trap {
            self.state.cpu.pending_debug |= x86_state::PendingDebug::BT;
        }
        Ok(())
    }

    fn load_cr3_of_task(&mut self, cr3: u64) -> Result<(), Stopped> {
        let changes = self.state.cpu.cr3 != cr3;
        if self.state.cpu.paging_mode() == PagingMode::Pae {
            let support = softvirt_ept::PagingSupport::from_profile(self.profile);
            match load_pdptes(self.bus, &support, &Direct, cr3) {
                Ok(pdptes) => self.state.cpu.pdptes = pdptes,
                Err(PdpteLoadFailure::GeneralProtection | PdpteLoadFailure::Second(_)) => return Err(self.gp()),
            }
        }
        self.state.cpu.cr3 = cr3;
        self.caches.invalidate(&Invalidate::TaskSwitch { id: 0, changes_cr3: changes });
        Ok(())
    }

    fn load_segments_of_task(&mut self, ldt: Selector, selectors: [u16; 6], count: usize) -> Result<(), Stopped> {
        for (register, selector) in SEGMENTS.into_iter().zip(selectors) {
            self.state.cpu.segments[register] = Segment { selector: Selector(selector), ..Segment::NULL };
        }
        // The privilege level is that of CS, even if CS or SS turn out to be wrong.
        let code = Selector(selectors[1]);
        self.state.cpu.segments[SegmentRegister::Ss] = null_stack(Selector(selectors[2]), code.rpl());
        if self.state.cpu.rflags.contains(Rflags::VM) {
            for (register, selector) in SEGMENTS.into_iter().zip(selectors) {
                self.state.cpu.segments[register] = Segment::real(Selector(selector), AccessRights::V86);
            }
        }
        self.load_ldt_of_task(ldt)?;
        if self.state.cpu.rflags.contains(Rflags::VM) {
            return Ok(());
        }
        // CS first: its RPL is the privilege level under which the others are checked.
        if code.is_null() {
            return Err(self.fault_with(Exception::TS, selector_error(code)));
        }
        let descriptor = self.descriptor(code, Exception::TS)?;
        let dpl = descriptor.rights().dpl();
        let fits = if descriptor.conforming() { dpl <= code.rpl() } else { dpl == code.rpl() };
        if !descriptor.rights().is_code() || !fits {
            return Err(self.fault_with(Exception::TS, selector_error(code)));
        }
        if !descriptor.rights().p() {
            return Err(self.fault_with(Exception::NP, selector_error(code)));
        }
        self.mark_descriptor(&descriptor, 1)?;
        self.state.cpu.segments[SegmentRegister::Cs] = Segment::from_descriptor(code, descriptor.low | 1 << 40);
        let stack = Selector(selectors[2]);
        if stack.is_null() {
            return Err(self.fault_with(Exception::TS, selector_error(stack)));
        }
        self.state.cpu.segments[SegmentRegister::Ss] = self.check_stack_segment(stack, code.rpl(), Exception::TS)?;
        self.caches.changed();
        for (register, selector) in SEGMENTS.into_iter().zip(selectors).take(count) {
            if matches!(register, SegmentRegister::Cs | SegmentRegister::Ss) {
                continue;
            }
            self.load_segment(register, Selector(selector)).map_err(|stopped| self.as_invalid_tss(stopped))?;
        }
        Ok(())
    }

    /// A segment of a new task that would be #GP is #TS.
    fn as_invalid_tss(&mut self, stopped: Stopped) -> Stopped {
        if let crate::exec::Stop::Raise(raised) = &mut self.stop {
            if raised.event.vector == Exception::GP.0 {
                raised.event.vector = Exception::TS.0;
            }
        }
        stopped
    }

    fn load_ldt_of_task(&mut self, selector: Selector) -> Result<(), Stopped> {
        self.state.cpu.segments[SegmentRegister::Ldtr] = Segment { selector, ..Segment::NULL };
        let loaded = self.load_ldt(selector);
        if let (Err(_), crate::exec::Stop::Raise(raised)) = (&loaded, &mut self.stop) {
            if matches!(Exception(raised.event.vector), Exception::GP | Exception::NP) {
                raised.event.vector = Exception::TS.0;
            }
        }
        loaded
    }

    fn store_word(&mut self, address: u64, bytes: u64, value: u64) -> Result<(), Stopped> {
        let at = self.system_linear(address);
        let access = self.system(Operation::Write);
        if bytes == 2 {
            self.write_linear(at, value as u16, access)
        } else {
            self.write_linear(at, value as u32, access)
        }
    }

    fn load_word(&mut self, address: u64, bytes: u64) -> Result<u64, Stopped> {
        let at = self.system_linear(address);
        let access = self.system(Operation::Read);
        if bytes == 2 {
            Ok(u64::from(self.read_linear::<u16>(at, access)?))
        } else {
            Ok(u64::from(self.read_linear::<u32>(at, access)?))
        }
    }
}
