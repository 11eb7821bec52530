//! How does a far CALL go through a call gate?
//!
//! Source: SDM 2A, CALL, Operation (CALL-GATE, MORE-PRIVILEGE, SAME-PRIVILEGE); SDM 3A 5.8.3 to 5.8.5, Call Gates; Accessing a Code Segment
//! Through a Call Gate; Stack Switching.

use crate::bus::Bus;
use crate::exec::{Exec, Stopped};
use crate::segments::{Descriptor, null_stack, selector_error};
use x86_state::{Efer, Exception, Gpr, SegmentRegister, Selector};

impl<B: Bus> Exec<'_, B> {
    /// The code segment that a call gate names, its selector and the offset.
    pub(crate) fn gate_target(
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
    pub(crate) fn call_gate(&mut self, gate: &Descriptor, selector: Selector, wide: bool) -> Result<(), Stopped> {
        let (code, target, offset) = self.gate_target(gate, selector, wide)?;
        self.check_present(&code, target)?;
        let cpl = u32::from(self.state.cpu.cpl());
        if code.conforming() || code.rights().dpl() == cpl {
            self.call_same_level(&code, target, offset, self.gate_bytes(wide))
        } else {
            self.call_inner_level(gate, &code, target, offset, self.gate_bytes(wide))
        }
    }

    /// The size of what a call gate pushes.
    fn gate_bytes(&self, wide: bool) -> u64 {
        match (self.state.cpu.efer.contains(Efer::LMA), wide) {
            (true, _) => 8,
            (false, true) => 4,
            (false, false) => 2,
        }
    }

    fn call_same_level(&mut self, code: &Descriptor, target: Selector, offset: u64, bytes: u64) -> Result<(), Stopped> {
        let cpu = &self.state.cpu;
        let cpl = cpu.cpl();
        let back = [u64::from(cpu.segments[SegmentRegister::Cs].selector.0), self.next_rip];
        // The target of a 64-bit gate is 64-bit code, and the stack a flat one before anything is pushed.
        let mut stack = match bytes {
            8 => self.flat_stack(cpu.gpr[Gpr::Rsp], cpl, 0),
            _ => self.stack_in_use(0),
        };
        self.room(&stack, 2, bytes)?;
        let entry = self.code_entry(code, target, offset, u32::from(cpl))?;
        for value in back {
            self.push_on(&mut stack, bytes, value)?;
        }
        self.mark_descriptor(&entry.descriptor, 1)?;
        let shadow = self.shadow_same_level(back)?;
        self.load_code(&entry);
        stack.settle(&mut self.state.cpu);
        self.settle_shadow(shadow);
        self.track_far(cpl);
        Ok(())
    }

    /// The new stack is that of the TSS; with it go the old stack pointer and as many parameters as the gate says.
    fn call_inner_level(
        &mut self,
        gate: &Descriptor,
        code: &Descriptor,
        target: Selector,
        offset: u64,
        bytes: u64,
    ) -> Result<(), Stopped> {
        let cpu = &self.state.cpu;
        let level = code.rights().dpl() as u8;
        let selector = |register| u64::from(cpu.segments[register].selector.0);
        let old_stack = [selector(SegmentRegister::Ss), cpu.gpr[Gpr::Rsp]];
        let back = [selector(SegmentRegister::Cs), self.next_rip];
        let (mut stack, mark) = match bytes {
            8 => {
                let pointer = self.stack_pointer_of_task(u64::from(level) * 8 + 4, 0)?;
                (self.flat_stack(pointer, level, 0), None)
            }
            _ => self.stack_of_level(level, 0)?,
        };
        let count = if bytes == 8 { 0 } else { gate.low >> 32 & 0x1f };
        self.room(&stack, 4 + count, bytes)?;
        let entry = self.code_entry(code, target, offset, u32::from(level))?;
        let mut parameters = [0; 31];
        let parameters = parameters.get_mut(..count as usize).unwrap_or_default();
        let mut from = old_stack[1];
        for parameter in parameters.iter_mut() {
            (*parameter, from) = self.pop_sized(from, bytes as u8)?;
        }
        for value in old_stack.iter().chain(parameters.iter().rev()).chain(&back) {
            self.push_on(&mut stack, bytes, *value)?;
        }
        if let Some(mark) = mark {
            self.mark_accessed(mark)?;
        }
        self.mark_descriptor(&entry.descriptor, 1)?;
        let shadow = self.shadow_inner_call(level, back)?;

        // Nothing can fail any more.
        self.load_code(&entry);
        let cpu = &mut self.state.cpu;
        cpu.segments[SegmentRegister::Ss] = match bytes {
            8 => null_stack(Selector(u16::from(level)), u32::from(level)),
            _ => stack.segment,
        };
        cpu.gpr[Gpr::Rsp] = stack.pointer;
        stack.settle(cpu);
        self.settle_shadow(shadow);
        self.track_far(level);
        Ok(())
    }
}
