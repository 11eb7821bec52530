//! Control transfers between code segments: far JMP, CALL and RET, IRET.
//!
//! Shadow stacks and indirect-branch tracking are not modelled; profiles announce neither to the guest.
//!
//! Source: SDM 2A, CALL, IRET, JMP; SDM 2B, RET; SDM 3A 5.8, Privilege Level Checking When Transferring Program Control Between Code
//! Segments; 7.3, Task Switching.

use crate::bus::Bus;
use crate::exec::{Exec, Stopped};
use crate::segments::{Descriptor, null_stack, selector_error};
use softvirt_ept::Operation;
use x86_state::addr::is_canonical;
use x86_state::{AccessRights, CpuMode, Efer, Exception, Gpr, Rflags, Segment, SegmentRegister, Selector};

/// How a task switch came about.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum TaskSource {
    /// CALL.
    Call,
    /// JMP.
    Jump,
    /// IRET with NT set.
    Iret,
}

/// The flags that IRET and POPF restore at every privilege level.
const ALWAYS_RESTORED: Rflags = Rflags::CF
    .union(Rflags::PF)
    .union(Rflags::AF)
    .union(Rflags::ZF)
    .union(Rflags::SF)
    .union(Rflags::TF)
    .union(Rflags::DF)
    .union(Rflags::OF)
    .union(Rflags::NT);

impl<B: Bus> Exec<'_, B> {
    /// Far JMP to `selector:offset`; `bytes` is the operand size.
    pub fn far_jump(&mut self, selector: Selector, offset: u64, bytes: u8) -> Result<(), Stopped> {
        if self.enter_real_segment(selector, offset)? {
            return Ok(());
        }
        if selector.is_null() {
            return Err(self.gp());
        }
        let descriptor = self.descriptor(selector, Exception::GP)?;
        let rights = descriptor.rights();
        if rights.is_code() {
            self.check_code(&descriptor, selector, false)?;
            return self.enter_code(&descriptor, selector, cut(offset, bytes), u32::from(self.state.cpu.cpl()));
        }
        match self.system_target(&descriptor, selector)? {
            SystemTarget::CallGate { wide } => {
                let (code, target, offset) = self.gate_target(&descriptor, selector, wide)?;
                let cpl = u32::from(self.state.cpu.cpl());
                let dpl = code.rights().dpl();
                let allowed = if code.conforming() { dpl <= cpl } else { dpl == cpl };
                if !allowed {
                    return Err(self.fault_with(Exception::GP, selector_error(target)));
                }
                self.check_present(&code, target)?;
                self.enter_code(&code, target, offset, cpl)
            }
            SystemTarget::TaskGate => {
                let task = descriptor.gate_selector();
                self.switch_task(task, TaskSource::Jump)
            }
            SystemTarget::Task => self.switch_task(selector, TaskSource::Jump),
        }
    }

    /// Far CALL to `selector:offset`; `bytes` is the operand size.
    pub fn far_call(&mut self, selector: Selector, offset: u64, bytes: u8) -> Result<(), Stopped> {
        let back = (self.state.cpu.segments[SegmentRegister::Cs].selector, self.next_rip);
        let stack = self.state.cpu.gpr[Gpr::Rsp];
        if matches!(self.state.cpu.mode(), CpuMode::Real | CpuMode::Virtual8086) {
            let pointer = self.push_sized(stack, bytes, u64::from(back.0.0))?;
            let pointer = self.push_sized(pointer, bytes, back.1)?;
            self.enter_real_segment(selector, offset)?;
            self.set_stack_pointer(pointer);
            return Ok(());
        }
        if selector.is_null() {
            return Err(self.gp());
        }
        let descriptor = self.descriptor(selector, Exception::GP)?;
        let cpl = u32::from(self.state.cpu.cpl());
        if descriptor.rights().is_code() {
            self.check_code(&descriptor, selector, false)?;
            let pointer = self.push_sized(stack, bytes, u64::from(back.0.0))?;
            let pointer = self.push_sized(pointer, bytes, back.1)?;
            // The pointer is that of the old stack: its width is the old mode's.
            let mask = self.stack_mask();
            self.enter_code(&descriptor, selector, cut(offset, bytes), cpl)?;
            let rsp = &mut self.state.cpu.gpr[Gpr::Rsp];
            *rsp = *rsp & !mask | pointer & mask;
            return Ok(());
        }
        match self.system_target(&descriptor, selector)? {
            SystemTarget::CallGate { wide } => self.call_gate(&descriptor, selector, wide),
            SystemTarget::TaskGate => self.switch_task(descriptor.gate_selector(), TaskSource::Call),
            SystemTarget::Task => self.switch_task(selector, TaskSource::Call),
        }
    }

    /// Far RET; `bytes` is the operand size, `extra` the immediate.
    pub fn far_return(&mut self, bytes: u8, extra: u64) -> Result<(), Stopped> {
        let stack = self.state.cpu.gpr[Gpr::Rsp];
        let (offset, pointer) = self.pop_sized(stack, bytes)?;
        let (selector, pointer) = self.pop_sized(pointer, bytes)?;
        let selector = Selector(selector as u16);
        if self.enter_real_segment(selector, offset)? {
            self.set_stack_pointer(pointer.wrapping_add(extra));
            return Ok(());
        }
        let cpl = u32::from(self.state.cpu.cpl());
        let descriptor = self.return_target(selector, cpl)?;
        if selector.rpl() == cpl {
            let mask = self.stack_mask();
            self.enter_code(&descriptor, selector, offset, cpl)?;
            let rsp = &mut self.state.cpu.gpr[Gpr::Rsp];
            *rsp = *rsp & !mask | pointer.wrapping_add(extra) & mask;
            return Ok(());
        }
        let pointer = pointer.wrapping_add(extra);
        let (new_rsp, pointer) = self.pop_sized(pointer, bytes)?;
        let (new_ss, _) = self.pop_sized(pointer, bytes)?;
        let stack = self.outer_stack(Selector(new_ss as u16), &descriptor, selector.rpl())?;
        self.enter_code(&descriptor, selector, offset, selector.rpl())?;
        self.enter_outer(stack, new_rsp.wrapping_add(extra), selector.rpl());
        Ok(())
    }

    /// IRET; `bytes` is the operand size.
    pub fn interrupt_return(&mut self, bytes: u8) -> Result<(), Stopped> {
        let flags = self.rflags();
        let mode = self.state.cpu.mode();
        if mode == CpuMode::Virtual8086 && flags.iopl() < 3 {
            return Err(self.gp());
        }
        let long = self.state.cpu.efer.contains(Efer::LMA);
        if flags.contains(Rflags::NT) && !matches!(mode, CpuMode::Real | CpuMode::Virtual8086) {
            if long {
                return Err(self.gp());
            }
            let tr = self.state.cpu.segments[SegmentRegister::Tr];
            let link = self.system_linear(tr.base);
            let back: u16 = self.read_linear(link, self.system(Operation::Read))?;
            return self.switch_task(Selector(back), TaskSource::Iret);
        }
        let stack = self.state.cpu.gpr[Gpr::Rsp];
        let (offset, pointer) = self.pop_sized(stack, bytes)?;
        let (selector, pointer) = self.pop_sized(pointer, bytes)?;
        let (image, pointer) = self.pop_sized(pointer, bytes)?;
        let selector = Selector(selector as u16);
        let image = Rflags::from_bits_retain(image);
        match mode {
            CpuMode::Real => {
                self.enter_real_segment(selector, offset)?;
                let changed = ALWAYS_RESTORED | Rflags::IF | Rflags::IOPL | wide(bytes);
                self.restore_flags(image, changed);
                self.set_stack_pointer(pointer);
                return Ok(());
            }
            CpuMode::Virtual8086 => {
                self.enter_real_segment(selector, offset)?;
                self.restore_flags(image, ALWAYS_RESTORED | Rflags::IF | wide(bytes));
                self.set_stack_pointer(pointer);
                return Ok(());
            }
            _ => {}
        }
        let cpl = u32::from(self.state.cpu.cpl());
        if image.contains(Rflags::VM) && cpl == 0 && bytes == 4 && !long {
            return self.return_to_virtual_8086(selector, offset, image, pointer);
        }
        let descriptor = self.return_target(selector, cpl)?;
        let mut changed = ALWAYS_RESTORED | wide(bytes);
        if cpl <= u32::from(flags.iopl()) {
            changed |= Rflags::IF;
        }
        if cpl == 0 {
            changed |= Rflags::IOPL;
            if bytes > 2 {
                changed |= Rflags::VIF | Rflags::VIP;
            }
        }
        // IA-32e mode pops SS:RSP always if the operand is 64-bit, and for outer levels as elsewhere.
        if selector.rpl() == cpl && bytes != 8 {
            let mask = self.stack_mask();
            self.enter_code(&descriptor, selector, offset, cpl)?;
            let rsp = &mut self.state.cpu.gpr[Gpr::Rsp];
            *rsp = *rsp & !mask | pointer & mask;
        } else {
            let (new_rsp, pointer) = self.pop_sized(pointer, bytes)?;
            let (new_ss, _) = self.pop_sized(pointer, bytes)?;
            let stack = self.outer_stack(Selector(new_ss as u16), &descriptor, selector.rpl())?;
            self.enter_code(&descriptor, selector, offset, selector.rpl())?;
            if selector.rpl() == cpl {
                self.state.cpu.segments[SegmentRegister::Ss] = stack;
                self.state.cpu.gpr[Gpr::Rsp] = new_rsp;
            } else {
                self.enter_outer(stack, new_rsp, selector.rpl());
            }
        }
        self.restore_flags(image, changed);
        Ok(())
    }

    fn restore_flags(&mut self, image: Rflags, changed: Rflags) {
        let flags = self.rflags();
        self.state.cpu.rflags = flags.difference(changed) | image.intersection(changed) | Rflags::FIXED_1;
        self.caches.changed();
    }

    fn return_to_virtual_8086(
        &mut self,
        selector: Selector,
        offset: u64,
        image: Rflags,
        pointer: u64,
    ) -> Result<(), Stopped> {
        if offset > 0xffff {
            return Err(self.gp());
        }
        let mut values = [0; 6];
        let mut pointer = pointer;
        for value in &mut values {
            (*value, pointer) = self.pop_sized(pointer, 4)?;
        }
        self.rflags();
        let cpu = &mut self.state.cpu;
        let order =
            [SegmentRegister::Ss, SegmentRegister::Es, SegmentRegister::Ds, SegmentRegister::Fs, SegmentRegister::Gs];
        for (register, value) in order.into_iter().zip(&values[1..]) {
            cpu.segments[register] = Segment::real(Selector(*value as u16), AccessRights::V86);
        }
        cpu.segments[SegmentRegister::Cs] = Segment::real(selector, AccessRights::V86);
        cpu.gpr[Gpr::Rsp] = values[0];
        cpu.rflags = Rflags::from_bits_retain(image.bits() & 0x003f_7fd7) | Rflags::FIXED_1;
        self.next_rip = offset;
        self.caches.changed();
        Ok(())
    }

    /// In real-address and virtual-8086 mode: CS and the next instruction. `false` in protected mode, and nothing is done.
    fn enter_real_segment(&mut self, selector: Selector, offset: u64) -> Result<bool, Stopped> {
        match self.state.cpu.mode() {
            CpuMode::Real => {
                if offset > u64::from(self.state.cpu.segments[SegmentRegister::Cs].limit) {
                    return Err(self.gp());
                }
                self.load_real(SegmentRegister::Cs, selector);
            }
            CpuMode::Virtual8086 => {
                if offset > 0xffff {
                    return Err(self.gp());
                }
                self.state.cpu.segments[SegmentRegister::Cs] = Segment::real(selector, AccessRights::V86);
            }
            _ => return Ok(false),
        }
        self.next_rip = offset;
        self.caches.changed();
        Ok(true)
    }

    /// The checks of a direct transfer to a code segment.
    fn check_code(&mut self, descriptor: &Descriptor, selector: Selector, _gate: bool) -> Result<(), Stopped> {
        let cpl = u32::from(self.state.cpu.cpl());
        let dpl = descriptor.rights().dpl();
        let allowed = if descriptor.conforming() { dpl <= cpl } else { selector.rpl() <= cpl && dpl == cpl };
        if !allowed || self.has_both_l_and_d(descriptor) {
            return Err(self.fault_with(Exception::GP, selector_error(selector)));
        }
        self.check_present(descriptor, selector)
    }

    /// L and D both set in a code segment of IA-32e mode: #GP(selector).
    fn has_both_l_and_d(&self, descriptor: &Descriptor) -> bool {
        let rights = descriptor.rights();
        self.state.cpu.efer.contains(Efer::LMA) && rights.l() && rights.db()
    }

    fn check_present(&mut self, descriptor: &Descriptor, selector: Selector) -> Result<(), Stopped> {
        if descriptor.rights().p() { Ok(()) } else { Err(self.fault_with(Exception::NP, selector_error(selector))) }
    }

    /// The code segment that RET or IRET go back to.
    fn return_target(&mut self, selector: Selector, cpl: u32) -> Result<Descriptor, Stopped> {
        if selector.is_null() {
            return Err(self.gp());
        }
        let descriptor = self.descriptor(selector, Exception::GP)?;
        let dpl = descriptor.rights().dpl();
        let allowed = descriptor.rights().is_code()
            && selector.rpl() >= cpl
            && if descriptor.conforming() { dpl <= selector.rpl() } else { dpl == selector.rpl() };
        if !allowed || self.has_both_l_and_d(&descriptor) {
            return Err(self.fault_with(Exception::GP, selector_error(selector)));
        }
        self.check_present(&descriptor, selector)?;
        Ok(descriptor)
    }

    /// SS for a return to privilege level `rpl` through the code segment `code`.
    fn outer_stack(&mut self, selector: Selector, code: &Descriptor, rpl: u32) -> Result<Segment, Stopped> {
        if selector.is_null() {
            let long64 = self.state.cpu.efer.contains(Efer::LMA) && code.rights().l();
            if !long64 || rpl == 3 || selector.rpl() != rpl {
                return Err(self.gp());
            }
            return Ok(null_stack(selector, rpl));
        }
        self.check_stack_segment(selector, rpl, Exception::GP)
    }

    fn enter_outer(&mut self, stack: Segment, pointer: u64, rpl: u32) {
        self.state.cpu.segments[SegmentRegister::Ss] = stack;
        if self.long64() {
            self.state.cpu.gpr[Gpr::Rsp] = pointer;
        } else {
            self.set_stack_pointer(pointer);
        }
        self.drop_privileged_segments(rpl);
        self.caches.changed();
    }

    /// CS and the next instruction; the privilege level becomes `cpl`.
    ///
    /// SS.DPL is the CPL (SDM 3C 24.4.1): it follows, unless the caller loads SS itself.
    pub fn enter_code(
        &mut self,
        descriptor: &Descriptor,
        selector: Selector,
        offset: u64,
        cpl: u32,
    ) -> Result<(), Stopped> {
        let segment = Segment::from_descriptor(Selector(selector.0 & !3 | cpl as u16), descriptor.low | 1 << 40);
        let long64 = self.state.cpu.efer.contains(Efer::LMA) && segment.rights.l();
        let offset = if long64 { offset } else { offset & 0xffff_ffff };
        let fits = if long64 {
            is_canonical(offset, self.state.cpu.linear_width())
        } else {
            offset <= u64::from(segment.limit)
        };
        if !fits {
            return Err(self.gp());
        }
        self.mark_descriptor(descriptor, 1)?;
        self.state.cpu.segments[SegmentRegister::Cs] = segment;
        self.next_rip = offset;
        self.caches.changed();
        Ok(())
    }

    /// What a system descriptor is to a far JMP or CALL, after its privilege checks.
    fn system_target(&mut self, descriptor: &Descriptor, selector: Selector) -> Result<SystemTarget, Stopped> {
        let rights = descriptor.rights();
        let long = self.state.cpu.efer.contains(Efer::LMA);
        let target = match rights.typ() {
            _ if rights.s() => None,
            12 => Some(SystemTarget::CallGate { wide: true }),
            4 if !long => Some(SystemTarget::CallGate { wide: false }),
            5 if !long => Some(SystemTarget::TaskGate),
            1 | 9 if !long => Some(SystemTarget::Task),
            _ => None,
        };
        let cpl = u32::from(self.state.cpu.cpl());
        let privileged = rights.dpl() < cpl || rights.dpl() < selector.rpl();
        let Some(target) = target.filter(|_| !privileged) else {
            return Err(self.fault_with(Exception::GP, selector_error(selector)));
        };
        self.check_present(descriptor, selector)?;
        Ok(target)
    }

    /// The code segment that a call gate names, its selector and the offset.
    fn gate_target(
        &mut self,
        gate: &Descriptor,
        selector: Selector,
        wide: bool,
    ) -> Result<(Descriptor, Selector, u64), Stopped> {
        let long = self.state.cpu.efer.contains(Efer::LMA);
        let upper = if long { self.upper_half(gate, selector)? } else { 0 };
        let target = gate.gate_selector();
        if target.is_null() {
            return Err(self.gp());
        }
        let code = self.descriptor(target, Exception::GP)?;
        let rights = code.rights();
        let cpl = u32::from(self.state.cpu.cpl());
        let wrong_size = long && (!rights.l() || rights.db());
        if !rights.is_code() || rights.dpl() > cpl || wrong_size {
            return Err(self.fault_with(Exception::GP, selector_error(target)));
        }
        let offset = gate.gate_offset();
        Ok((code, target, if wide { offset | upper << 32 } else { offset & 0xffff }))
    }

    /// CALL through a call gate, to the same or a more privileged level.
    fn call_gate(&mut self, gate: &Descriptor, selector: Selector, wide: bool) -> Result<(), Stopped> {
        let long = self.state.cpu.efer.contains(Efer::LMA);
        let bytes = if long {
            8
        } else if wide {
            4
        } else {
            2
        };
        let (code, target, offset) = self.gate_target(gate, selector, wide)?;
        self.check_present(&code, target)?;
        let cpl = u32::from(self.state.cpu.cpl());
        let back = (self.state.cpu.segments[SegmentRegister::Cs].selector, self.next_rip);
        let old_stack = (self.state.cpu.segments[SegmentRegister::Ss].selector, self.state.cpu.gpr[Gpr::Rsp]);
        let dpl = code.rights().dpl();
        if code.conforming() || dpl == cpl {
            let pointer = self.push_sized(old_stack.1, bytes, u64::from(back.0.0))?;
            let pointer = self.push_sized(pointer, bytes, back.1)?;
            let mask = self.stack_mask();
            self.enter_code(&code, target, offset, cpl)?;
            let rsp = &mut self.state.cpu.gpr[Gpr::Rsp];
            *rsp = *rsp & !mask | pointer & mask;
            return Ok(());
        }
        let count = if long { 0 } else { gate.low >> 32 & 0x1f };
        let mut parameters = [0; 31];
        let mut from = old_stack.1;
        for parameter in parameters.iter_mut().take(count as usize) {
            (*parameter, from) = self.pop_sized(from, bytes)?;
        }
        let (stack, pointer) = self.inner_stack(dpl)?;
        // The new stack is used before it is loaded: by a copy of the processor's state that is put back if something faults.
        let before = self.state.cpu;
        self.state.cpu.segments[SegmentRegister::Ss] = stack;
        self.state.cpu.gpr[Gpr::Rsp] = pointer;
        self.caches.changed();
        let result =
            self.fill_inner_stack(&code, target, offset, dpl, bytes, old_stack, &parameters[..count as usize], back);
        if result.is_err() {
            self.state.cpu = before;
            self.caches.changed();
        }
        result
    }

    #[allow(clippy::too_many_arguments, reason = "what a call gate pushes")]
    fn fill_inner_stack(
        &mut self,
        code: &Descriptor,
        target: Selector,
        offset: u64,
        dpl: u32,
        bytes: u8,
        old_stack: (Selector, u64),
        parameters: &[u64],
        back: (Selector, u64),
    ) -> Result<(), Stopped> {
        self.enter_code(code, target, offset, dpl)?;
        let mut pointer = self.state.cpu.gpr[Gpr::Rsp];
        pointer = self.push_sized(pointer, bytes, u64::from(old_stack.0.0))?;
        pointer = self.push_sized(pointer, bytes, old_stack.1)?;
        for parameter in parameters.iter().rev() {
            pointer = self.push_sized(pointer, bytes, *parameter)?;
        }
        pointer = self.push_sized(pointer, bytes, u64::from(back.0.0))?;
        pointer = self.push_sized(pointer, bytes, back.1)?;
        self.set_stack_pointer(pointer);
        Ok(())
    }

    /// The stack of a more privileged level, from the TSS (SDM 3A 7.2).
    pub fn inner_stack(&mut self, dpl: u32) -> Result<(Segment, u64), Stopped> {
        let tr = self.state.cpu.segments[SegmentRegister::Tr];
        let invalid = selector_error(tr.selector);
        let read = self.system(Operation::Read);
        let long = self.state.cpu.efer.contains(Efer::LMA);
        let (offset, last) = match (long, tr.rights.typ() & 8 != 0) {
            (true, _) => (dpl * 8 + 4, 7),
            (false, true) => (dpl * 8 + 4, 5),
            (false, false) => (dpl * 4 + 2, 3),
        };
        if offset + last > tr.limit {
            return Err(self.fault_with(Exception::TS, invalid));
        }
        let at = self.system_linear(tr.base.wrapping_add(u64::from(offset)));
        if long {
            let pointer: u64 = self.read_linear(at, read)?;
            return Ok((null_stack(Selector(dpl as u16), dpl), pointer));
        }
        let (pointer, selector) = if last == 5 {
            let pointer: u32 = self.read_linear(at, read)?;
            let behind = self.system_linear(at.0.wrapping_add(4));
            (u64::from(pointer), self.read_linear::<u16>(behind, read)?)
        } else {
            let pointer: u16 = self.read_linear(at, read)?;
            let behind = self.system_linear(at.0.wrapping_add(2));
            (u64::from(pointer), self.read_linear::<u16>(behind, read)?)
        };
        let selector = Selector(selector);
        if selector.is_null() {
            return Err(self.fault_with(Exception::TS, selector_error(selector)));
        }
        Ok((self.check_stack_segment(selector, dpl, Exception::TS)?, pointer))
    }
}

/// What a system descriptor is to a far JMP or CALL.
enum SystemTarget {
    CallGate { wide: bool },
    TaskGate,
    Task,
}

/// The offset of a far pointer with that operand size.
const fn cut(offset: u64, bytes: u8) -> u64 {
    match bytes {
        2 => offset & 0xffff,
        4 => offset & 0xffff_ffff,
        _ => offset,
    }
}

/// The flags that only 32-bit and 64-bit images hold.
const fn wide(bytes: u8) -> Rflags {
    if bytes > 2 { Rflags::RF.union(Rflags::AC).union(Rflags::ID) } else { Rflags::empty() }
}
