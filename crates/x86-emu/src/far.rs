//! Control transfers between code segments: far JMP and CALL, and what all far transfers have in common.
//!
//! Call gates are in `call_gate`, far RET and IRET in `returns`, task switches in [`crate::tasks`].
//!
//! Source: SDM 2A, CALL, JMP; SDM 3A 5.8, Privilege Level Checking When Transferring Program Control Between Code Segments; 7.3, Task
//! Switching.

use crate::bus::Bus;
use crate::exec::{Exec, Stopped};
use crate::segments::{Descriptor, selector_error};
use x86_state::addr::is_canonical;
use x86_state::{AccessRights, CpuMode, Efer, Exception, Gpr, Segment, SegmentRegister, Selector};

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

/// A place in a code segment that has passed all checks, before CS is loaded.
#[derive(Clone, Copy)]
pub(crate) struct Entry {
    /// CS as it will be.
    pub(crate) segment: Segment,
    /// The instruction pointer.
    pub(crate) offset: u64,
    /// Where the segment's descriptor is.
    pub(crate) descriptor: Descriptor,
    /// Is it 64-bit code?
    pub(crate) long: bool,
}

impl Entry {
    /// Its linear address.
    pub(crate) const fn linear(&self) -> u64 {
        if self.long { self.offset } else { self.segment.base.wrapping_add(self.offset) & 0xffff_ffff }
    }
}

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
        let cpl = u32::from(self.state.cpu.cpl());
        if descriptor.rights().is_code() {
            self.check_code(&descriptor, selector)?;
            let entry = self.code_entry(&descriptor, selector, cut(offset, bytes), cpl)?;
            self.check_ssp_reaches(&entry)?;
            self.enter_code(&entry)?;
            self.track_far(cpl as u8);
            return Ok(());
        }
        match self.system_target(&descriptor, selector)? {
            SystemTarget::CallGate { wide } => {
                let (code, target, offset) = self.gate_target(&descriptor, selector, wide)?;
                let dpl = code.rights().dpl();
                let allowed = if code.conforming() { dpl <= cpl } else { dpl == cpl };
                if !allowed {
                    return Err(self.fault_with(Exception::GP, selector_error(target)));
                }
                self.check_present(&code, target)?;
                let entry = self.code_entry(&code, target, offset, cpl)?;
                self.enter_code(&entry)?;
                self.track_far(cpl as u8);
                Ok(())
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
            self.check_real_offset(offset)?;
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
            self.check_code(&descriptor, selector)?;
            let pointer = self.push_sized(stack, bytes, u64::from(back.0.0))?;
            let pointer = self.push_sized(pointer, bytes, back.1)?;
            // The pointer is that of the old stack: its width is the old mode's.
            let mask = self.stack_mask();
            let entry = self.code_entry(&descriptor, selector, cut(offset, bytes), cpl)?;
            self.check_ssp_reaches(&entry)?;
            self.mark_descriptor(&entry.descriptor, 1)?;
            // The return address is as long as the one on the stack, but for 64-bit code.
            let offset = if self.long64() { back.1 } else { cut(back.1, bytes) };
            let shadow = self.shadow_same_level([u64::from(back.0.0), offset])?;
            self.load_code(&entry);
            self.settle_shadow(shadow);
            self.track_far(cpl as u8);
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

    /// An offset in the code segment of real-address or virtual-8086 mode: #GP(0) beyond its limit.
    fn check_real_offset(&mut self, offset: u64) -> Result<(), Stopped> {
        let last = match self.state.cpu.mode() {
            CpuMode::Real => self.state.cpu.segments[SegmentRegister::Cs].limit,
            _ => 0xffff,
        };
        if offset > u64::from(last) { Err(self.gp()) } else { Ok(()) }
    }

    /// In real-address and virtual-8086 mode: CS and the next instruction. `false` in protected mode, and nothing is done.
    pub(crate) fn enter_real_segment(&mut self, selector: Selector, offset: u64) -> Result<bool, Stopped> {
        let mode = self.state.cpu.mode();
        if !matches!(mode, CpuMode::Real | CpuMode::Virtual8086) {
            return Ok(false);
        }
        self.check_real_offset(offset)?;
        if mode == CpuMode::Real {
            self.load_real(SegmentRegister::Cs, selector);
        } else {
            self.state.cpu.segments[SegmentRegister::Cs] = Segment::real(selector, AccessRights::V86);
        }
        self.next_rip = offset;
        self.caches.transferred();
        Ok(true)
    }

    /// The checks of a direct transfer to a code segment.
    fn check_code(&mut self, descriptor: &Descriptor, selector: Selector) -> Result<(), Stopped> {
        let cpl = u32::from(self.state.cpu.cpl());
        let dpl = descriptor.rights().dpl();
        let allowed = if descriptor.conforming() { dpl <= cpl } else { selector.rpl() <= cpl && dpl == cpl };
        if !allowed || self.has_both_l_and_d(descriptor) {
            return Err(self.fault_with(Exception::GP, selector_error(selector)));
        }
        self.check_present(descriptor, selector)
    }

    /// L and D both set in a code segment of IA-32e mode: #GP(selector).
    pub(crate) fn has_both_l_and_d(&self, descriptor: &Descriptor) -> bool {
        let rights = descriptor.rights();
        self.state.cpu.efer.contains(Efer::LMA) && rights.l() && rights.db()
    }

    /// #NP(selector) if the segment or the gate is not present.
    pub(crate) fn check_present(&mut self, descriptor: &Descriptor, selector: Selector) -> Result<(), Stopped> {
        if descriptor.rights().p() { Ok(()) } else { Err(self.fault_with(Exception::NP, selector_error(selector))) }
    }

    /// A place in a code segment, for privilege level `cpl`: #GP(0) beyond the segment's limit, or if it is not canonical in 64-bit code.
    pub(crate) fn code_entry(
        &mut self,
        descriptor: &Descriptor,
        selector: Selector,
        offset: u64,
        cpl: u32,
    ) -> Result<Entry, Stopped> {
        let segment = Segment::from_descriptor(Selector(selector.0 & !3 | cpl as u16), descriptor.low | 1 << 40);
        let long = self.state.cpu.efer.contains(Efer::LMA) && segment.rights.l();
        let offset = if long { offset } else { offset & 0xffff_ffff };
        let fits =
            if long { is_canonical(offset, self.state.cpu.linear_width()) } else { offset <= u64::from(segment.limit) };
        if !fits {
            return Err(self.gp());
        }
        Ok(Entry { segment, offset, descriptor: *descriptor, long })
    }

    /// Marks the code segment as accessed and loads it: the last step of a transfer within a privilege level.
    pub(crate) fn enter_code(&mut self, entry: &Entry) -> Result<(), Stopped> {
        self.mark_descriptor(&entry.descriptor, 1)?;
        self.load_code(entry);
        Ok(())
    }

    /// CS and the next instruction.
    ///
    /// SS.DPL is the CPL (SDM 3C 24.4.1): a caller that changes the privilege level loads SS as well.
    pub(crate) fn load_code(&mut self, entry: &Entry) {
        self.state.cpu.segments[SegmentRegister::Cs] = entry.segment;
        self.next_rip = entry.offset;
        self.caches.transferred();
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
