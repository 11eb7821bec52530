//! Far RET and IRET: returns to the same or an outer privilege level, and to virtual-8086 mode.
//!
//! Source: SDM 2A, IRET/IRETD/IRETQ; SDM 2B, RET; SDM 3A 5.8.6, Returning from a Called Procedure.

use crate::bus::Bus;
use crate::exec::{Exec, Stopped};
use crate::far::{Entry, TaskSource};
use crate::segments::{Descriptor, null_stack, selector_error};
use softvirt_ept::Operation;
use x86_state::{AccessRights, CpuMode, Cr4, Efer, Exception, Gpr, Rflags, Segment, SegmentRegister, Selector};

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
        let pointer = pointer.wrapping_add(extra);
        if selector.rpl() == cpl {
            let mask = self.stack_mask();
            let entry = self.code_entry(&descriptor, selector, offset, cpl)?;
            self.mark_descriptor(&entry.descriptor, 1)?;
            let shadow = self.shadow_return_same_level(&entry, false)?;
            self.load_code(&entry);
            self.settle_shadow(shadow);
            let rsp = &mut self.state.cpu.gpr[Gpr::Rsp];
            *rsp = *rsp & !mask | pointer & mask;
            return Ok(());
        }
        let (new_rsp, pointer) = self.pop_sized(pointer, bytes)?;
        let (new_ss, _) = self.pop_sized(pointer, bytes)?;
        let stack = self.outer_stack(Selector(new_ss as u16), &descriptor, selector.rpl())?;
        let entry = self.code_entry(&descriptor, selector, offset, selector.rpl())?;
        self.mark_descriptor(&entry.descriptor, 1)?;
        let shadow = self.shadow_return_outer(&entry, selector.rpl() as u8)?;
        self.load_return(&entry, stack, new_rsp.wrapping_add(extra));
        self.settle_shadow(shadow);
        self.drop_privileged_segments(selector.rpl());
        Ok(())
    }

    /// IRET; `bytes` is the operand size.
    pub fn interrupt_return(&mut self, bytes: u8) -> Result<(), Stopped> {
        let flags = self.rflags();
        match self.state.cpu.mode() {
            CpuMode::Real => return self.return_in_real_mode(bytes),
            CpuMode::Virtual8086 => return self.return_in_virtual_8086(flags, bytes),
            _ => {}
        }
        let long = self.state.cpu.efer.contains(Efer::LMA);
        if flags.contains(Rflags::NT) {
            if long {
                return Err(self.gp());
            }
            let tr = self.state.cpu.segments[SegmentRegister::Tr];
            let link = self.system_linear(tr.base);
            let back: u16 = self.read_linear(link, self.system(Operation::Read))?;
            return self.switch_task(Selector(back), TaskSource::Iret);
        }
        let (selector, offset, image, pointer) = self.pop_frame(bytes)?;
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
        // An IRET that begins in 64-bit mode pops SS:RSP whatever its operand size is and wherever it goes.
        if selector.rpl() == cpl && !self.long64() {
            let mask = self.stack_mask();
            let entry = self.code_entry(&descriptor, selector, offset, cpl)?;
            self.mark_descriptor(&entry.descriptor, 1)?;
            let shadow = self.shadow_return_same_level(&entry, true)?;
            self.load_code(&entry);
            self.settle_shadow(shadow);
            let rsp = &mut self.state.cpu.gpr[Gpr::Rsp];
            *rsp = *rsp & !mask | pointer & mask;
        } else {
            let (new_rsp, pointer) = self.pop_sized(pointer, bytes)?;
            let (new_ss, _) = self.pop_sized(pointer, bytes)?;
            let stack = self.outer_stack(Selector(new_ss as u16), &descriptor, selector.rpl())?;
            let entry = self.code_entry(&descriptor, selector, offset, selector.rpl())?;
            self.mark_descriptor(&entry.descriptor, 1)?;
            let shadow = match selector.rpl() == cpl {
                true => self.shadow_return_same_level(&entry, true)?,
                false => self.shadow_return_outer(&entry, selector.rpl() as u8)?,
            };
            self.load_return(&entry, stack, new_rsp);
            self.settle_shadow(shadow);
            if selector.rpl() != cpl {
                self.drop_privileged_segments(selector.rpl());
            }
        }
        self.restore_flags(image, changed);
        Ok(())
    }

    /// What IRET pops first: CS, the instruction pointer, the flags; and the stack pointer behind them.
    fn pop_frame(&mut self, bytes: u8) -> Result<(Selector, u64, Rflags, u64), Stopped> {
        let stack = self.state.cpu.gpr[Gpr::Rsp];
        let (offset, pointer) = self.pop_sized(stack, bytes)?;
        let (selector, pointer) = self.pop_sized(pointer, bytes)?;
        let (image, pointer) = self.pop_sized(pointer, bytes)?;
        Ok((Selector(selector as u16), offset, Rflags::from_bits_retain(image), pointer))
    }

    fn return_in_real_mode(&mut self, bytes: u8) -> Result<(), Stopped> {
        let (selector, offset, image, pointer) = self.pop_frame(bytes)?;
        self.enter_real_segment(selector, offset)?;
        self.restore_flags(image, ALWAYS_RESTORED | Rflags::IF | Rflags::IOPL | wide(bytes));
        self.set_stack_pointer(pointer);
        Ok(())
    }

    /// With an IOPL below 3 it is #GP(0), except for IRETW under CR4.VME: VIF takes the image's IF, as it does for POPF.
    ///
    /// The manual's pseudo-code knows the IOPL alone. Without IRETW the handlers to which CR4.VME redirects INT n under such an IOPL (SDM 3B
    /// 20.3.3.5, Method 6), with the image of VIF that they are given, could not return; APM 3 (IRET) and Bochs have it too.
    fn return_in_virtual_8086(&mut self, flags: Rflags, bytes: u8) -> Result<(), Stopped> {
        let is_virtual = flags.iopl() < 3;
        if is_virtual && (bytes != 2 || !self.state.cpu.cr4.contains(Cr4::VME)) {
            return Err(self.gp());
        }
        let (selector, offset, image, pointer) = self.pop_frame(bytes)?;
        if !is_virtual {
            self.enter_real_segment(selector, offset)?;
            self.restore_flags(image, ALWAYS_RESTORED | Rflags::IF | wide(bytes));
        } else {
            let pending = flags.contains(Rflags::VIP) && image.contains(Rflags::IF);
            if pending || image.contains(Rflags::TF) {
                return Err(self.gp());
            }
            self.enter_real_segment(selector, offset)?;
            let mut image = image;
            image.set(Rflags::VIF, image.contains(Rflags::IF));
            self.restore_flags(image, ALWAYS_RESTORED | Rflags::VIF);
        }
        self.set_stack_pointer(pointer);
        Ok(())
    }

    fn restore_flags(&mut self, image: Rflags, changed: Rflags) {
        let flags = self.rflags();
        self.state.cpu.rflags = flags.difference(changed) | image.intersection(changed) | Rflags::FIXED_1;
        self.caches.transferred();
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
        self.shadow_return_to_virtual_8086()?;
        self.rflags();
        let cpu = &mut self.state.cpu;
        let order =
            [SegmentRegister::Ss, SegmentRegister::Es, SegmentRegister::Ds, SegmentRegister::Fs, SegmentRegister::Gs];
        let [stack_pointer, selectors @ ..] = values;
        for (register, value) in order.into_iter().zip(selectors) {
            cpu.segments[register] = Segment::real(Selector(value as u16), AccessRights::V86);
        }
        cpu.segments[SegmentRegister::Cs] = Segment::real(selector, AccessRights::V86);
        cpu.gpr[Gpr::Rsp] = stack_pointer;
        cpu.rflags = Rflags::from_bits_retain(image.bits() & 0x003f_7fd7) | Rflags::FIXED_1;
        self.next_rip = offset;
        self.caches.transferred();
        Ok(())
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

    /// CS, SS, the instruction pointer and the stack pointer. Of RSP a stack of 16 bits takes only as many.
    fn load_return(&mut self, entry: &Entry, stack: Segment, pointer: u64) {
        self.load_code(entry);
        self.state.cpu.segments[SegmentRegister::Ss] = stack;
        self.set_stack_pointer(pointer);
        self.caches.transferred();
    }
}

/// The flags that only 32-bit and 64-bit images hold.
const fn wide(bytes: u8) -> Rflags {
    if bytes > 2 { Rflags::RF.union(Rflags::AC).union(Rflags::ID) } else { Rflags::empty() }
}
