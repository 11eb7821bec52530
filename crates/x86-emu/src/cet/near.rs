//! What do near calls, near returns and indirect branches do with shadow stacks and tracking? And what may stand at their targets?
//!
//! Source: SDM 1 18.3 (rev 077), Indirect Branch Tracking, with table 18-1; 18.3.6, Legacy Compatibility Treatment; SDM 2A, CALL, JMP;
//! 2B, RET.

use super::{Violation, control};
use crate::bus::Bus;
use crate::exec::{Exec, Stopped};
use crate::insn::Insn;
use iced_x86::Code;
use softvirt_ept::Operation;
use x86_state::addr::is_canonical;
use x86_state::{Efer, Gva, SegmentRegister};

impl<B: Bus> Exec<'_, B> {
    /// A near CALL pushes its return address, of `bytes`, on the shadow stack as well. To be called last of what may fault.
    #[inline(always)]
    pub(crate) fn shadow_call(&mut self, bytes: u8, back: u64) -> Result<(), Stopped> {
        if self.cet() { self.push_shadow(bytes, back) } else { Ok(()) }
    }

    #[cold]
    fn push_shadow(&mut self, bytes: u8, back: u64) -> Result<(), Stopped> {
        if self.cet_now() & control::SHADOW_STACK == 0 {
            return Ok(());
        }
        let stack = self.current_shadow_stack();
        let ssp = self.state.cpu.cet.ssp;
        let (ssp, stored) = match bytes {
            8 => (ssp.wrapping_sub(8), self.shadow_store(stack, ssp.wrapping_sub(8), back)),
            // An address of 16 bits takes 32.
            2 => (ssp.wrapping_sub(4), self.shadow_store(stack, ssp.wrapping_sub(4), back as u32 & 0xffff)),
            _ => (ssp.wrapping_sub(4), self.shadow_store(stack, ssp.wrapping_sub(4), back as u32)),
        };
        stored?;
        self.state.cpu.cet.ssp = self.ssp(ssp);
        Ok(())
    }

    /// A near RET to `target` compares it with the shadow stack's. To be called last of what may fault.
    #[inline(always)]
    pub(crate) fn shadow_return(&mut self, bytes: u8, target: u64) -> Result<(), Stopped> {
        if self.cet() { self.pop_shadow(bytes, target) } else { Ok(()) }
    }

    #[cold]
    fn pop_shadow(&mut self, bytes: u8, target: u64) -> Result<(), Stopped> {
        if self.cet_now() & control::SHADOW_STACK == 0 {
            return Ok(());
        }
        let stack = self.current_shadow_stack();
        let ssp = self.state.cpu.cet.ssp;
        let (found, size) = match bytes {
            8 => (self.shadow_load::<u64>(stack, ssp)?, 8),
            _ => (u64::from(self.shadow_load::<u32>(stack, ssp)?), 4),
        };
        if found != target {
            return Err(self.violates(Violation::NearReturn));
        }
        self.state.cpu.cet.ssp = self.ssp(ssp.wrapping_add(size));
        Ok(())
    }

    /// A shadow-stack pointer at the width of the mode.
    pub(crate) fn ssp(&self, ssp: u64) -> u64 {
        if self.long64() { ssp } else { ssp & 0xffff_ffff }
    }

    /// A near indirect JMP or CALL has been made: its target has to be ENDBRANCH, unless the no-track prefix counts.
    #[inline(always)]
    pub(crate) fn track_near(&mut self, no_track: bool) {
        if self.cet() {
            self.expect_endbranch(no_track);
        }
    }

    #[cold]
    fn expect_endbranch(&mut self, no_track: bool) {
        let now = self.cet_now();
        let tracks = now & (control::ENDBRANCH | control::SUPPRESS) == control::ENDBRANCH;
        if tracks && !(no_track && now & control::NO_TRACK != 0) {
            *self.tracker() |= control::WAITING;
        }
    }

    /// The register of the current level's tracker.
    fn tracker(&mut self) -> &mut u64 {
        // What comes next is looked at before it is executed.
        self.leave = true;
        let cpu = &mut self.state.cpu;
        if cpu.cpl() == 3 { &mut cpu.cet.u_cet } else { &mut cpu.cet.s_cet }
    }

    /// Has the next instruction to be ENDBRANCH?
    #[inline(always)]
    pub(crate) fn awaits_endbranch(&self) -> bool {
        self.cet() && self.tracker_waits()
    }

    #[cold]
    fn tracker_waits(&self) -> bool {
        const WAITS: u64 = control::ENDBRANCH | control::WAITING;
        self.cet_now() & WAITS == WAITS
    }

    /// ENDBR32 or ENDBR64, whichever belongs to the mode.
    pub(crate) fn endbranch(&mut self) {
        if self.cet_now() & control::ENDBRANCH != 0 {
            *self.tracker() &= !(control::WAITING | control::SUPPRESS);
        }
    }

    /// What stands at the target of an indirect branch is about to be executed: #CP unless it may stand there.
    pub(crate) fn check_branch_target(&mut self, insn: &Insn<B>) -> Result<(), Stopped> {
        let allowed = match insn.code {
            // Breakpoints come before #CP, and leave the tracker waiting for the instruction that they replace.
            Code::Int3 | Code::Int1 => true,
            Code::Endbr64 => self.long64(),
            Code::Endbr32 => !self.long64(),
            _ => false,
        };
        if allowed || !self.awaits_endbranch() {
            return Ok(());
        }
        let now = self.cet_now();
        if now & control::LEGACY == 0 || !self.is_legacy_code(now & control::BITMAP)? {
            return Err(self.violates(Violation::MissingEndbranch));
        }
        let suppress = if now & control::SUPPRESS_DISABLE == 0 { control::SUPPRESS } else { 0 };
        let tracker = self.tracker();
        *tracker = *tracker & !(control::WAITING | control::SUPPRESS) | suppress;
        Ok(())
    }

    /// Is the instruction at RIP in a page that the bitmap calls legacy code? One bit for each page, read as data at the current level.
    fn is_legacy_code(&mut self, bitmap: u64) -> Result<bool, Stopped> {
        let width = self.state.cpu.linear_width();
        let lip = self.linear_ip(self.state.cpu.rip);
        let index = if self.long64() { lip & ((1 << width) - 1) } else { lip };
        let at = bitmap.wrapping_add(index >> 15);
        let at = match self.state.cpu.efer.contains(Efer::LMA) {
            true if !is_canonical(at, width) => return Err(self.gp()),
            true => at,
            false => at & 0xffff_ffff,
        };
        let byte: u8 = self.read_linear(Gva(at), self.data(Operation::Read))?;
        Ok(byte >> (lip >> 12 & 7) & 1 == 1)
    }

    /// LIP, the linear address of an offset in CS.
    pub(crate) fn linear_ip(&self, offset: u64) -> u64 {
        if self.long64() {
            return offset;
        }
        self.state.cpu.segments[SegmentRegister::Cs].base.wrapping_add(offset) & 0xffff_ffff
    }
}
