//! What does a task switch do with shadow stacks and tracking?
//!
//! Source: SDM 3A 7.3 (rev 077), Task Switching, steps 3, 8 and 15; SDM 1 18.2.4, Shadow Stack Usage on Task Switch.

use super::{Violation, control};
use crate::bus::Bus;
use crate::exec::{Exec, Stopped};
use crate::segments::selector_error;
use softvirt_ept::Operation;
use vmx_model::information::TaskSwitchSource;
use x86_state::{Exception, Rflags, Segment, SegmentRegister, Selector};

/// The SSP in a 32-bit TSS.
const SSP: u64 = 104;
/// The limit that a TSS with an SSP has at least.
const LIMIT: u32 = 107;

/// What the old task leaves for the new one.
#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct ShadowTask {
    /// CS, LIP and SSP of the old task, for the new one's shadow stack.
    pushed: Option<[u64; 3]>,
    /// IRET: CS, LIP and SSP from the old task's shadow stack.
    popped: Option<[u64; 3]>,
    /// IA32_PL3_SSP, if it changes.
    level_3: Option<u64>,
    /// IRET leaves no shadow stack behind.
    drops: bool,
}

impl<B: Bus> Exec<'_, B> {
    /// Step 3: with CR4.CET a new task has a 32-bit TSS with an SSP, and an IRET begins with an SSP that is aligned to 8 bytes.
    pub(crate) fn check_shadow_task(&mut self, new: &Segment, source: TaskSwitchSource) -> Result<(), Stopped> {
        if !self.cet() {
            return Ok(());
        }
        let tr = self.state.cpu.segments[SegmentRegister::Tr].selector;
        let unaligned = self.state.cpu.cet.ssp & 7 != 0 && self.cet_now() & control::SHADOW_STACK != 0;
        if source == TaskSwitchSource::Iret && unaligned {
            return Err(self.fault_with(Exception::TS, selector_error(tr)));
        }
        if new.rights.typ() & 8 == 0 || new.limit < LIMIT {
            return Err(self.fault_with(Exception::TS, selector_error(new.selector)));
        }
        Ok(())
    }

    /// Step 8: what the old task's shadow stack gives. Faults are those of the old task.
    pub(crate) fn leave_shadow_task(&mut self, new: &Segment, source: TaskSwitchSource) -> Result<ShadowTask, Stopped> {
        let mut task = ShadowTask::default();
        if !self.cet() || self.cet_now() & control::SHADOW_STACK == 0 || source == TaskSwitchSource::Jmp {
            return Ok(task);
        }
        let read = self.system(Operation::Read);
        let code: u16 = self.read_linear(self.system_linear(new.base.wrapping_add(0x4c)), read)?;
        let flags: u32 = self.read_linear(self.system_linear(new.base.wrapping_add(0x24)), read)?;
        let v86 = u64::from(flags) & Rflags::VM.bits() != 0;
        let level = if v86 { 3 } else { Selector(code).rpl() as u8 };
        let cpl = self.state.cpu.cpl();
        let ssp = self.state.cpu.cet.ssp;
        let stack = self.shadow_stack_of(cpl);
        if source != TaskSwitchSource::Iret {
            if level < cpl && cpl == 3 {
                task.level_3 = Some(ssp);
            } else {
                let cs = self.state.cpu.segments[SegmentRegister::Cs].selector.0;
                task.pushed = Some([cs.into(), self.linear_ip(self.next_rip), ssp]);
            }
            return Ok(task);
        }
        let mut above = ssp;
        if level == cpl || level < 3 {
            let cs = self.shadow_load(stack, ssp.wrapping_add(16))?;
            let lip = self.shadow_load(stack, ssp.wrapping_add(8))?;
            task.popped = Some([cs, lip, self.shadow_load(stack, ssp)?]);
            above = ssp.wrapping_add(24);
        }
        // SSP is aligned: step 3. A token that is none is left alone.
        self.free_token(stack, above)?;
        task.drops = true;
        Ok(task)
    }

    /// The commit.
    pub(crate) fn switch_shadow_task(&mut self, task: &ShadowTask) {
        let cet = &mut self.state.cpu.cet;
        if let Some(ssp) = task.level_3 {
            cet.pl_ssp[3] = ssp;
        }
        if task.drops {
            cet.ssp = 0;
        }
    }

    /// Step 15, once the segments are loaded: the new task's shadow stack. Faults are those of the new task.
    pub(crate) fn enter_shadow_task(
        &mut self,
        new: &Segment,
        source: TaskSwitchSource,
        task: &ShadowTask,
    ) -> Result<(), Stopped> {
        if !self.cet() {
            return Ok(());
        }
        let level = self.state.cpu.cpl();
        let wrong = selector_error(new.selector);
        let enabled = self.cet_control(level);
        let v86 = self.state.cpu.rflags.contains(Rflags::VM);
        if v86 && enabled & (control::SHADOW_STACK | control::ENDBRANCH) != 0 {
            return Err(self.fault_with(Exception::TS, wrong));
        }
        let has_stack = enabled & control::SHADOW_STACK != 0;
        if source == TaskSwitchSource::Iret {
            return self.return_to_shadow_task(task, has_stack);
        }
        if has_stack {
            let at = self.system_linear(new.base.wrapping_add(SSP));
            let ssp = u64::from(self.read_linear::<u32>(at, self.system(Operation::Read))?);
            let stack = self.shadow_stack_of(level);
            if ssp & 7 != 0 || !self.take_token(stack, ssp)? {
                return Err(self.fault_with(Exception::TS, wrong));
            }
            self.state.cpu.cet.ssp = ssp;
            if let Some(frame) = task.pushed {
                self.state.cpu.cet.ssp = self.push_shadow_frame(stack, ssp, frame)?;
            }
        }
        self.track_far(level);
        Ok(())
    }

    fn return_to_shadow_task(&mut self, task: &ShadowTask, has_stack: bool) -> Result<(), Stopped> {
        let cs = u64::from(self.state.cpu.segments[SegmentRegister::Cs].selector.0);
        let here = [cs, self.linear_ip(self.next_rip)];
        if task.popped.is_some_and(|[cs, lip, _]| [cs, lip] != here) {
            return Err(self.violates(Violation::FarReturn));
        }
        if has_stack {
            let ssp = task.popped.map_or(self.state.cpu.cet.pl_ssp[3], |[.., ssp]| ssp);
            if ssp & 3 != 0 || ssp >> 32 != 0 {
                return Err(self.violates(Violation::FarReturn));
            }
            self.state.cpu.cet.ssp = ssp;
        }
        Ok(())
    }
}
