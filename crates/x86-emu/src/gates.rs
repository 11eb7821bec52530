//! How does an event go through a gate of the IDT? Protected mode, virtual-8086 mode and IA-32e mode.
//!
//! Source: SDM 2A 3.2 (rev 077), INT n/INTO/INT3/INT1, Operation; SDM 3A 6.12, Exception and Interrupt Handling; 6.14, Exception and
//! Interrupt Handling in 64-bit Mode.

use crate::bus::Bus;
use crate::deliver::Delivery;
use crate::exec::{Exec, Stop, Stopped};
use crate::memory::allows;
use crate::word::Word;
use softvirt_ept::{Access, Operation, Privilege};
use vmx_model::information::TaskSwitchSource;
use x86_state::addr::is_canonical;
use x86_state::{AccessRights, Cpu, CpuMode, Efer, Exception, Gpr, Gva, Rflags, Segment, SegmentRegister, Selector};

/// A stack to push on, before the processor's registers show it.
pub(crate) struct Stack {
    pub(crate) segment: Segment,
    pub(crate) pointer: u64,
    /// 0xffff, 0xffffffff or all ones: the bits of the stack pointer that are used.
    mask: u64,
    /// What the error code of #SS is.
    error: u32,
    access: Access,
    /// In 64-bit mode the segment has no say.
    flat: bool,
}

impl Stack {
    /// Puts the pointer into RSP: as many bits of it as the stack has.
    pub(crate) fn settle(&self, cpu: &mut Cpu) {
        let rsp = &mut cpu.gpr[Gpr::Rsp];
        *rsp = if self.mask == 0xffff { *rsp & !0xffff | self.pointer & 0xffff } else { self.pointer };
    }
}

/// The gate, as far as its type says.
struct Gate {
    selector: u16,
    offset: u64,
    /// 2, 4 or 8: the size of what is pushed.
    width: u64,
    /// An interrupt gate clears IF.
    interrupt: bool,
    /// The interrupt-stack-table entry; 0 is none.
    ist: u64,
}

/// The code segment that a gate leads to.
struct Target {
    segment: Segment,
    cpl: u8,
    /// Where the descriptor is, if it is to be marked as accessed.
    mark: Option<Gva>,
}

impl<B: Bus> Exec<'_, B> {
    /// How the processor itself reads descriptor tables and TSSs.
    pub(crate) fn system_read(&self) -> Access {
        self.system(Operation::Read)
    }

    /// The stack in use, with the error code that #SS has on it.
    pub(crate) fn stack_in_use(&self, error: u32) -> Stack {
        let cpu = &self.state.cpu;
        let segment = cpu.segments[SegmentRegister::Ss];
        let flat = self.long64();
        let mask = match (flat, segment.rights.db()) {
            (true, _) => u64::MAX,
            (false, true) => 0xffff_ffff,
            (false, false) => 0xffff,
        };
        Stack { segment, pointer: cpu.gpr[Gpr::Rsp] & mask, mask, error, access: self.data(Operation::Write), flat }
    }

    /// Pushes a value of 2, 4 or 8 bytes. RSP stays as it is.
    pub(crate) fn push_on(&mut self, stack: &mut Stack, width: u64, value: u64) -> Result<(), Stopped> {
        let pointer = stack.pointer.wrapping_sub(width) & stack.mask;
        let linear = self.stack_address(stack, pointer, width)?;
        if self.aligned && stack.access.is_user() && linear.0 % width != 0 {
            return Err(self.fault_with(Exception::AC, stack.error));
        }
        match width {
            2 => self.write_linear(linear, value as u16, stack.access)?,
            4 => self.write_linear(linear, value as u32, stack.access)?,
            _ => self.write_linear(linear, value, stack.access)?,
        }
        stack.pointer = pointer;
        Ok(())
    }

    fn stack_address(&mut self, stack: &Stack, pointer: u64, width: u64) -> Result<Gva, Stopped> {
        if stack.flat {
            let bits = self.state.cpu.linear_width();
            if is_canonical(pointer, bits) && is_canonical(pointer.wrapping_add(width - 1), bits) {
                return Ok(Gva(pointer));
            }
        } else if allows(&stack.segment, SegmentRegister::Ss, pointer, width, true, self.state.cpu.cr0) {
            return Ok(Gva(stack.segment.base.wrapping_add(pointer) & 0xffff_ffff));
        }
        Err(self.fault_with(Exception::SS, stack.error))
    }

    /// Is there room for `count` values? #SS if not.
    pub(crate) fn room(&mut self, stack: &Stack, count: u64, width: u64) -> Result<(), Stopped> {
        for n in 1..=count {
            self.stack_address(stack, stack.pointer.wrapping_sub(n * width) & stack.mask, width)?;
        }
        Ok(())
    }

    /// Reads a descriptor table or a TSS: `exception` with this error code if the address is not canonical.
    fn read_system<W: Word>(&mut self, address: u64, exception: Exception, error: u32) -> Result<W, Stopped> {
        match self.table_address(address, u64::from(W::BITS / 8)) {
            Some(linear) => self.read_linear(linear, self.system_read()),
            None => Err(self.fault_with(exception, error)),
        }
    }

    /// The descriptor of a selector and its address; `None` if it is not within its table.
    fn table_entry(&mut self, selector: u16) -> Result<Option<(Gva, u64)>, Stopped> {
        let cpu = &self.state.cpu;
        let (base, limit) = if selector & 4 == 0 {
            (cpu.gdtr.base, cpu.gdtr.limit)
        } else {
            let table = cpu.segments[SegmentRegister::Ldtr];
            if table.rights.unusable() {
                return Ok(None);
            }
            (table.base, table.limit)
        };
        let offset = u64::from(selector & !7);
        if offset + 7 > u64::from(limit) {
            return Ok(None);
        }
        let Some(address) = self.table_address(base.wrapping_add(offset), 8) else { return Ok(None) };
        Ok(Some((address, self.read_linear(address, self.system_read())?)))
    }

    /// Sets the accessed bit of a descriptor.
    pub(crate) fn mark_accessed(&mut self, descriptor: Gva) -> Result<(), Stopped> {
        let at = descriptor.offset(5);
        let rights: u8 = self.read_linear(at, self.system_read())?;
        self.write_linear(at, rights | 1, self.system(Operation::Write))
    }

    /// Delivers through the IDT.
    pub(crate) fn through_gate(&mut self, delivery: &Delivery) -> Result<(), Stopped> {
        let ext = u32::from(delivery.external);
        let Some(gate) = self.gate(delivery)? else { return Ok(()) };
        let target = self.target(&gate, ext)?;
        let cpu = &self.state.cpu;
        let from_v86 = cpu.mode() == CpuMode::Virtual8086;
        let inner = target.cpl < cpu.cpl();
        let (mut stack, new_ss) = if gate.width == 8 {
            (self.stack_long(&gate, &target, inner, ext)?, inner.then(|| null_stack(target.cpl)))
        } else if inner {
            let (stack, mark) = self.stack_of_level(target.cpl, ext)?;
            if let Some(mark) = mark {
                self.mark_accessed(mark)?;
            }
            let segment = stack.segment;
            (stack, Some(segment))
        } else {
            (self.stack_in_use(ext), None)
        };

        let cpu = &self.state.cpu;
        let selector = |register| u64::from(cpu.segments[register].selector.0);
        let mut image = cpu.rflags;
        image.set(Rflags::RF, delivery.resume_flag);
        // In the order in which they are pushed.
        let segments =
            [SegmentRegister::Gs, SegmentRegister::Fs, SegmentRegister::Ds, SegmentRegister::Es].map(selector);
        let old_stack = [selector(SegmentRegister::Ss), cpu.gpr[Gpr::Rsp]];
        let back = [image.bits(), selector(SegmentRegister::Cs), delivery.return_rip];
        let error_code = delivery.event.error_code.map(u64::from);
        let switches = inner || gate.width == 8;
        let count =
            3 + if switches { 2 } else { 0 } + if from_v86 { 4 } else { 0 } + if error_code.is_some() { 1 } else { 0 };
        self.room(&stack, count, gate.width)?;
        let reachable = match gate.width {
            8 => is_canonical(gate.offset, self.state.cpu.linear_width()),
            _ => gate.offset <= u64::from(target.segment.limit),
        };
        if !reachable {
            return Err(self.fault_with(Exception::GP, ext));
        }
        let parts: [&[u64]; 4] = [
            if from_v86 { &segments } else { &[] },
            if switches { &old_stack } else { &[] },
            &back,
            error_code.as_slice(),
        ];
        for value in parts.into_iter().flatten() {
            self.push_on(&mut stack, gate.width, *value)?;
        }
        if let Some(mark) = target.mark {
            self.mark_accessed(mark)?;
        }
        let shadow = self.shadow_event(target.cpl, gate.ist, [back[1], back[2]])?;

        // Nothing can fail any more.
        let cpu = &mut self.state.cpu;
        if from_v86 {
            for register in [SegmentRegister::Gs, SegmentRegister::Fs, SegmentRegister::Ds, SegmentRegister::Es] {
                cpu.segments[register] = Segment::NULL;
            }
        }
        if let Some(segment) = new_ss {
            cpu.segments[SegmentRegister::Ss] = segment;
            cpu.gpr[Gpr::Rsp] = stack.pointer;
        }
        stack.settle(cpu);
        cpu.segments[SegmentRegister::Cs] = target.segment;
        cpu.rip = gate.offset;
        cpu.rflags.remove(Rflags::TF | Rflags::VM | Rflags::RF | Rflags::NT);
        if gate.interrupt {
            cpu.rflags.remove(Rflags::IF);
        }
        self.settle_shadow(shadow);
        self.track_far(target.cpl);
        self.caches.transferred();
        Ok(())
    }

    /// The event's gate; `None` if it was a task gate, and the task has been switched.
    fn gate(&mut self, delivery: &Delivery) -> Result<Option<Gate>, Stopped> {
        let vector = u32::from(delivery.event.vector);
        let ext = u32::from(delivery.external);
        let of_vector = vector << 3 | 2;
        let long = self.state.cpu.efer.contains(Efer::LMA);
        let size = if long { 16 } else { 8 };
        let idtr = self.state.cpu.idtr;
        if vector * size + size - 1 > idtr.limit {
            return Err(self.fault_with(Exception::GP, of_vector | ext));
        }
        let address = idtr.base.wrapping_add(u64::from(vector * size));
        let low: u64 = self.read_system(address, Exception::GP, of_vector | ext)?;
        let high: u64 =
            if long { self.read_system(address.wrapping_add(8), Exception::GP, of_vector | ext)? } else { 0 };
        let typ = low >> 40 & 0x1f;
        let width = match typ {
            0x0e | 0x0f if long => 8,
            0x0e | 0x0f => 4,
            0x05..=0x07 if !long => 2,
            _ => return Err(self.fault_with(Exception::GP, of_vector | ext)),
        };
        if delivery.checks_gate_privilege && ((low >> 45 & 3) as u8) < self.state.cpu.cpl() {
            return Err(self.fault_with(Exception::GP, of_vector));
        }
        if low >> 47 & 1 == 0 {
            return Err(self.fault_with(Exception::NP, of_vector | ext));
        }
        let selector = (low >> 16) as u16;
        if typ == 5 {
            return self.through_task_gate(selector, delivery).map(|()| None);
        }
        let middle = if width == 2 { 0 } else { low >> 32 & 0xffff_0000 };
        let upper = if long { (high & 0xffff_ffff) << 32 } else { 0 };
        Ok(Some(Gate {
            selector,
            offset: low & 0xffff | middle | upper,
            width,
            interrupt: typ & 1 == 0,
            ist: if long { low >> 32 & 7 } else { 0 },
        }))
    }

    /// A task gate: the checks that come before a VM exit or the switch, and the switch.
    fn through_task_gate(&mut self, selector: u16, delivery: &Delivery) -> Result<(), Stopped> {
        let ext = u32::from(delivery.external);
        let of_selector = u32::from(selector & !3) | ext;
        let descriptor = match self.table_entry(selector)? {
            Some((_, descriptor)) if selector & 4 == 0 => descriptor,
            _ => return Err(self.fault_with(Exception::GP, of_selector)),
        };
        // An available TSS, of 16 or 32 bits.
        if !matches!(descriptor >> 40 & 0x1f, 1 | 9) {
            return Err(self.fault_with(Exception::GP, of_selector));
        }
        if descriptor >> 47 & 1 == 0 {
            return Err(self.fault_with(Exception::NP, of_selector));
        }
        // The old task's image has RF as a pushed one would; a task that is not left keeps its own.
        let before = self.state.cpu.rflags;
        self.state.cpu.rflags.set(Rflags::RF, delivery.resume_flag);
        self.next_rip = delivery.return_rip;
        let switched = self.switch_to(Selector(selector), TaskSwitchSource::IdtGate, false, Exception::GP);
        let switched = switched.map_err(|stopped| self.with_ext(stopped, ext));
        if switched.is_err() && self.state.cpu.segments[SegmentRegister::Tr].selector.0 != selector {
            self.state.cpu.rflags = before;
            return switched;
        }
        // The new task's instruction pointer is in force, even if the rest of it faults.
        self.state.cpu.rip = self.next_rip;
        switched?;
        if let Some(error_code) = delivery.event.error_code {
            let width = if descriptor >> 43 & 1 == 1 { 4 } else { 2 };
            let mut stack = self.stack_in_use(ext);
            self.push_on(&mut stack, width, error_code.into())?;
            stack.settle(&mut self.state.cpu);
        }
        Ok(())
    }

    /// Sets EXT in the error code of a fault of the task switch that an event has led to.
    fn with_ext(&mut self, stopped: Stopped, ext: u32) -> Stopped {
        if let Stop::Raise(raised) = &mut self.stop {
            let names_selector = [Exception::TS, Exception::NP, Exception::SS, Exception::GP];
            if names_selector.contains(&Exception(raised.event.vector)) {
                raised.event.error_code = raised.event.error_code.map(|code| code | ext);
            }
        }
        stopped
    }

    /// The code segment that a gate leads to, and the privilege level there.
    fn target(&mut self, gate: &Gate, ext: u32) -> Result<Target, Stopped> {
        let selector = gate.selector;
        if selector & !3 == 0 {
            return Err(self.fault_with(Exception::GP, ext));
        }
        let of_selector = u32::from(selector & !3) | ext;
        let Some((address, descriptor)) = self.table_entry(selector)? else {
            return Err(self.fault_with(Exception::GP, of_selector));
        };
        let mut segment = Segment::from_descriptor(Selector(selector), descriptor);
        let rights = segment.rights;
        let cpl = self.state.cpu.cpl();
        let dpl = rights.dpl() as u8;
        // In IA-32e mode handlers are 64-bit code (SDM 3A 6.14.1).
        let suits = rights.is_code() && (gate.width != 8 || rights.l() && !rights.db());
        if !suits || dpl > cpl {
            return Err(self.fault_with(Exception::GP, of_selector));
        }
        if !rights.p() {
            return Err(self.fault_with(Exception::NP, of_selector));
        }
        let conforming = rights.typ() & 4 != 0;
        let inner = !conforming && dpl < cpl;
        if self.state.cpu.mode() == CpuMode::Virtual8086 && (!inner || dpl != 0) {
            return Err(self.fault_with(Exception::GP, of_selector));
        }
        let cpl = if inner { dpl } else { cpl };
        segment.selector = Selector(selector & !3 | u16::from(cpl));
        segment.rights = AccessRights(rights.0 | 1);
        Ok(Target { segment, cpl, mark: (rights.0 & 1 == 0).then_some(address) })
    }

    /// The stack that the TSS has for an inner level, outside IA-32e mode, and its descriptor if that is to be marked as accessed.
    pub(crate) fn stack_of_level(&mut self, level: u8, ext: u32) -> Result<(Stack, Option<Gva>), Stopped> {
        let task = self.state.cpu.segments[SegmentRegister::Tr];
        let wide = task.rights.typ() & 8 != 0;
        let (at, last) = if wide {
            (u64::from(level) * 8 + 4, u64::from(level) * 8 + 9)
        } else {
            (u64::from(level) * 4 + 2, u64::from(level) * 4 + 5)
        };
        if last > u64::from(task.limit) {
            return Err(self.fault_with(Exception::TS, u32::from(task.selector.0 & !3) | ext));
        }
        let at = task.base.wrapping_add(at);
        let invalid = u32::from(task.selector.0 & !3) | ext;
        let (pointer, selector): (u64, u16) = if wide {
            let pointer: u32 = self.read_system(at, Exception::TS, invalid)?;
            (pointer.into(), self.read_system(at.wrapping_add(4), Exception::TS, invalid)?)
        } else {
            let pointer: u16 = self.read_system(at, Exception::TS, invalid)?;
            (pointer.into(), self.read_system(at.wrapping_add(2), Exception::TS, invalid)?)
        };
        if selector & !3 == 0 {
            return Err(self.fault_with(Exception::TS, ext));
        }
        let of_selector = u32::from(selector & !3) | ext;
        let Some((address, descriptor)) = self.table_entry(selector)? else {
            return Err(self.fault_with(Exception::TS, of_selector));
        };
        let mut segment = Segment::from_descriptor(Selector(selector), descriptor);
        let rights = segment.rights;
        let writable = rights.s() && !rights.is_code() && rights.typ() & 2 != 0;
        if selector & 3 != u16::from(level) || rights.dpl() != u32::from(level) || !writable {
            return Err(self.fault_with(Exception::TS, of_selector));
        }
        if !rights.p() {
            return Err(self.fault_with(Exception::SS, of_selector));
        }
        segment.rights = AccessRights(rights.0 | 1);
        let stack = Stack {
            segment,
            pointer,
            mask: if rights.db() { 0xffff_ffff } else { 0xffff },
            error: of_selector,
            access: at_level(level),
            flat: false,
        };
        Ok((stack, (rights.0 & 1 == 0).then_some(address)))
    }

    /// The stack in IA-32e mode: of the TSS for an inner level or by the interrupt-stack table, else the one in use; aligned to 16 bytes.
    fn stack_long(&mut self, gate: &Gate, target: &Target, inner: bool, ext: u32) -> Result<Stack, Stopped> {
        let pointer = match gate.ist {
            0 if !inner => self.state.cpu.gpr[Gpr::Rsp],
            0 => self.stack_pointer_of_task(u64::from(target.cpl) * 8 + 4, ext)?,
            ist => self.stack_pointer_of_task(ist * 8 + 28, ext)?,
        };
        Ok(self.flat_stack(pointer & !0xf, target.cpl, ext))
    }

    /// A stack pointer in a 64-bit TSS: #TS(TR) beyond its limit.
    pub(crate) fn stack_pointer_of_task(&mut self, at: u64, ext: u32) -> Result<u64, Stopped> {
        let task = self.state.cpu.segments[SegmentRegister::Tr];
        let invalid = u32::from(task.selector.0 & !3) | ext;
        if at + 7 > u64::from(task.limit) {
            return Err(self.fault_with(Exception::TS, invalid));
        }
        self.read_system(task.base.wrapping_add(at), Exception::TS, invalid)
    }

    /// A stack of 64-bit mode, for privilege level `cpl`.
    pub(crate) fn flat_stack(&self, pointer: u64, cpl: u8, error: u32) -> Stack {
        Stack { segment: Segment::NULL, pointer, mask: u64::MAX, error, access: at_level(cpl), flat: true }
    }
}

/// Writing at a privilege level.
fn at_level(level: u8) -> Access {
    Access::new(Operation::Write, if level == 3 { Privilege::User } else { Privilege::Supervisor })
}

/// SS after a change to level `cpl` in IA-32e mode: a null selector.
fn null_stack(cpl: u8) -> Segment {
    let rights = AccessRights(AccessRights::UNUSABLE | u32::from(cpl) << 5);
    Segment { selector: Selector(cpl.into()), rights, ..Segment::NULL }
}
