//! What do far transfers, system calls and events do with shadow stacks and tracking?
//!
//! The functions here check, read and write memory, and tell the SSP to come; [`ShadowSwitch`] is put into force when nothing can fail
//! any more. A token is taken or freed last.
//!
//! Source: SDM 1 18.2.3, 18.3.3 (rev 077); SDM 2A, CALL, INT n, IRET, JMP; SDM 2B, RET, SYSCALL, SYSENTER, SYSEXIT, SYSRET; SDM 3A
//! 6.12.1.1, Shadow Stack Usage on Transfers to Interrupt and Exception Handling Routines.

use super::{Violation, control};
use crate::bus::Bus;
use crate::exec::{Exec, Stopped};
use crate::far::Entry;
use softvirt_ept::Operation;
use x86_state::addr::{canonicalize, is_canonical};
use x86_state::{Efer, Rflags};

/// What becomes of the registers of shadow stacks.
#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct ShadowSwitch {
    /// SSP, if it changes.
    ssp: Option<u64>,
    /// IA32_PL3_SSP, if it changes.
    level_3: Option<u64>,
}

/// Where a more privileged handler's shadow stack is, or a handler's by the interrupt-stack table.
#[derive(Clone, Copy, Debug)]
enum Source {
    /// IA32_PLx_SSP.
    Level,
    /// An entry of the table at IA32_INTERRUPT_SSP_TABLE_ADDR.
    Table(u64),
}

impl<B: Bus> Exec<'_, B> {
    /// Puts a switch into force.
    #[inline(always)]
    pub(crate) fn settle_shadow(&mut self, switch: ShadowSwitch) {
        let cet = &mut self.state.cpu.cet;
        if let Some(ssp) = switch.level_3 {
            cet.pl_ssp[3] = ssp;
        }
        if let Some(ssp) = switch.ssp {
            cet.ssp = ssp;
        }
    }

    /// A far JMP, CALL, SYSCALL, SYSENTER, event or task switch has reached this level: its first instruction has to be ENDBRANCH.
    #[inline(always)]
    pub(crate) fn track_far(&mut self, level: u8) {
        if self.cet() && self.cet_control(level) & control::ENDBRANCH != 0 {
            let cet = &mut self.state.cpu.cet;
            let tracker = if level == 3 { &mut cet.u_cet } else { &mut cet.s_cet };
            *tracker = *tracker & !control::SUPPRESS | control::WAITING;
        }
    }

    /// A shadow stack above 4 GBytes cannot be taken to code that is not 64-bit code: #GP(0), for a far JMP and CALL.
    pub(crate) fn check_ssp_reaches(&mut self, entry: &Entry) -> Result<(), Stopped> {
        let beyond = self.cet()
            && self.cet_now() & control::SHADOW_STACK != 0
            && !entry.long
            && self.state.cpu.cet.ssp >> 32 != 0;
        if beyond { Err(self.gp()) } else { Ok(()) }
    }

    /// A far CALL or an event within a privilege level; `back` is where it came from, CS and the offset.
    pub(crate) fn shadow_same_level(&mut self, [cs, offset]: [u64; 2]) -> Result<ShadowSwitch, Stopped> {
        if !self.cet() || self.cet_now() & control::SHADOW_STACK == 0 {
            return Ok(ShadowSwitch::default());
        }
        let ssp = self.state.cpu.cet.ssp;
        let stack = self.shadow_stack_of(self.state.cpu.cpl());
        let ssp = self.push_aligned_shadow_frame(stack, ssp, [cs, self.linear_ip(offset), ssp])?;
        Ok(ShadowSwitch { ssp: Some(ssp), level_3: None })
    }

    /// A CALL through a call gate to a more privileged level.
    pub(crate) fn shadow_inner_call(&mut self, level: u8, back: [u64; 2]) -> Result<ShadowSwitch, Stopped> {
        if self.cet() { self.shadow_inner(level, back, Source::Level) } else { Ok(ShadowSwitch::default()) }
    }

    /// An event whose handler runs at `level`; `ist` is the entry of the interrupt-stack table, or 0.
    pub(crate) fn shadow_event(&mut self, level: u8, ist: u64, back: [u64; 2]) -> Result<ShadowSwitch, Stopped> {
        if !self.cet() {
            return Ok(ShadowSwitch::default());
        }
        let inner = level < self.state.cpu.cpl();
        match ist {
            0 if inner => self.shadow_inner(level, back, Source::Level),
            0 => self.shadow_same_level(back),
            _ if inner => self.shadow_inner(level, back, Source::Table(ist)),
            _ => self.shadow_by_table(level, back, ist),
        }
    }

    fn shadow_inner(&mut self, level: u8, [cs, offset]: [u64; 2], source: Source) -> Result<ShadowSwitch, Stopped> {
        let from = self.state.cpu.cpl();
        let old_ssp = self.state.cpu.cet.ssp;
        let mut switch = ShadowSwitch::default();
        if from == 3 && self.cet_now() & control::SHADOW_STACK != 0 {
            switch.level_3 = Some(self.saved_ssp(old_ssp));
        }
        if self.has_shadow_stack(level) {
            let ssp = match source {
                Source::Level => self.state.cpu.cet.pl_ssp[usize::from(level & 3)],
                Source::Table(ist) => self.ssp_by_table(ist)?,
            };
            let lip = self.linear_ip(offset);
            let ssp = self.enter_shadow_stack(level, ssp, (from != 3).then_some([cs, lip, old_ssp]))?;
            switch.ssp = Some(ssp);
        }
        Ok(switch)
    }

    /// The interrupt-stack table switches stacks within a level, too.
    fn shadow_by_table(&mut self, level: u8, [cs, offset]: [u64; 2], ist: u64) -> Result<ShadowSwitch, Stopped> {
        if !self.has_shadow_stack(level) {
            return Ok(ShadowSwitch::default());
        }
        let ssp = self.ssp_by_table(ist)?;
        let frame = [cs, self.linear_ip(offset), self.state.cpu.cet.ssp];
        let ssp = self.enter_shadow_stack(level, ssp, Some(frame))?;
        Ok(ShadowSwitch { ssp: Some(ssp), level_3: None })
    }

    /// The shadow stack that belongs to an entry of the interrupt-stack table.
    fn ssp_by_table(&mut self, ist: u64) -> Result<u64, Stopped> {
        let at = self.state.cpu.cet.interrupt_ssp_table_addr.wrapping_add(ist << 3);
        match self.table_address(at, 8) {
            Some(linear) => self.read_linear(linear, self.system(Operation::Read)),
            None => Err(self.gp()),
        }
    }

    /// Takes the token at `ssp` and pushes the frame, if there is one: #GP(0) unless token and frame lie within 32 aligned bytes and the
    /// token is that of this address, and free. Gives the new SSP.
    ///
    /// Both lie in one page: what may fault is the access to the token.
    fn enter_shadow_stack(&mut self, level: u8, ssp: u64, frame: Option<[u64; 3]>) -> Result<u64, Stopped> {
        let contained = ssp & !0x1f == ssp.wrapping_sub(24) & !0x1f;
        let too_high = !self.state.cpu.efer.contains(Efer::LMA) && ssp >> 32 != 0;
        if ssp & 7 != 0 || !contained || too_high {
            return Err(self.gp());
        }
        let stack = self.shadow_stack_of(level);
        if !self.take_token(stack, ssp)? {
            return Err(self.gp());
        }
        match frame {
            Some(frame) => self.push_shadow_frame(stack, ssp, frame),
            None => Ok(ssp),
        }
    }

    /// SSP as it is kept in IA32_PL3_SSP: canonical by the processor's width in IA-32e mode.
    fn saved_ssp(&self, ssp: u64) -> u64 {
        let long = self.state.cpu.efer.contains(Efer::LMA);
        if long { canonicalize(ssp, self.profile.linear_width()) } else { ssp }
    }

    /// The frame at SSP has to be that of the return to `entry`: #CP if not. Gives the SSP that it holds.
    fn check_shadow_frame(&mut self, entry: &Entry) -> Result<u64, Stopped> {
        let ssp = self.state.cpu.cet.ssp;
        let stack = self.shadow_stack_of(self.state.cpu.cpl());
        let cs: u64 = self.shadow_load(stack, ssp.wrapping_add(16))?;
        let lip: u64 = self.shadow_load(stack, ssp.wrapping_add(8))?;
        let previous: u64 = self.shadow_load(stack, ssp)?;
        if cs != u64::from(entry.segment.selector.0) || lip != entry.linear() || previous & 3 != 0 {
            return Err(self.violates(Violation::FarReturn));
        }
        Ok(previous)
    }

    /// SSP has to be aligned to 8 bytes where a far return begins.
    fn check_ssp_aligned(&mut self) -> Result<(), Stopped> {
        if self.state.cpu.cet.ssp & 7 != 0 { Err(self.violates(Violation::FarReturn)) } else { Ok(()) }
    }

    /// An SSP for the code that is returned to: #GP(0) above 4 GBytes, or if it is not canonical in 64-bit code.
    fn check_returned_ssp(&mut self, entry: &Entry, ssp: u64) -> Result<(), Stopped> {
        let fits = if entry.long { is_canonical(ssp, self.state.cpu.linear_width()) } else { ssp >> 32 == 0 };
        if fits { Ok(()) } else { Err(self.gp()) }
    }

    /// Far RET or IRET within a privilege level. An IRET in IA-32e mode may come from a stack of the interrupt-stack table, whose token it
    /// frees.
    pub(crate) fn shadow_return_same_level(&mut self, entry: &Entry, iret: bool) -> Result<ShadowSwitch, Stopped> {
        if !self.cet() || self.cet_now() & control::SHADOW_STACK == 0 {
            return Ok(ShadowSwitch::default());
        }
        self.check_ssp_aligned()?;
        let previous = self.check_shadow_frame(entry)?;
        self.check_returned_ssp(entry, previous)?;
        let above = self.state.cpu.cet.ssp.wrapping_add(24);
        if iret && self.state.cpu.efer.contains(Efer::LMA) && previous != above {
            let stack = self.shadow_stack_of(self.state.cpu.cpl());
            self.free_token(stack, above)?;
        }
        Ok(ShadowSwitch { ssp: Some(previous), level_3: None })
    }

    /// Far RET or IRET to an outer privilege level.
    pub(crate) fn shadow_return_outer(&mut self, entry: &Entry, level: u8) -> Result<ShadowSwitch, Stopped> {
        if !self.cet() {
            return Ok(ShadowSwitch::default());
        }
        let cpl = self.state.cpu.cpl();
        let from = self.has_shadow_stack(cpl);
        let mut above = self.state.cpu.cet.ssp;
        let mut previous = self.state.cpu.cet.pl_ssp[3];
        if from {
            self.check_ssp_aligned()?;
            if level != 3 {
                previous = self.check_shadow_frame(entry)?;
                above = above.wrapping_add(24);
            }
        }
        let mut ssp = above;
        if self.has_shadow_stack(level) {
            self.check_returned_ssp(entry, previous)?;
            ssp = previous;
        }
        if from {
            let stack = self.shadow_stack_of(cpl);
            self.free_token(stack, above)?;
        }
        Ok(ShadowSwitch { ssp: Some(ssp), level_3: None })
    }

    /// IRET to virtual-8086 mode, which knows neither shadow stacks nor tracking: #GP(0) if level 3 has either.
    pub(crate) fn shadow_return_to_virtual_8086(&mut self) -> Result<(), Stopped> {
        if !self.cet() {
            return Ok(());
        }
        if self.cet_control(3) & (control::SHADOW_STACK | control::ENDBRANCH) != 0 {
            return Err(self.gp());
        }
        if self.has_shadow_stack(0) {
            self.check_ssp_aligned()?;
            let ssp = self.state.cpu.cet.ssp;
            let stack = self.shadow_stack_of(0);
            self.free_token(stack, ssp)?;
        }
        Ok(())
    }

    /// SYSCALL and SYSENTER, before the level changes: the program's SSP is kept, and level 0 begins without one.
    pub(crate) fn shadow_system_call(&mut self) {
        if !self.cet() {
            return;
        }
        let v86 = self.state.cpu.rflags.contains(Rflags::VM);
        if !v86 && self.has_shadow_stack(self.state.cpu.cpl()) {
            self.state.cpu.cet.pl_ssp[3] = self.saved_ssp(self.state.cpu.cet.ssp);
        }
        if self.has_shadow_stack(0) {
            self.state.cpu.cet.ssp = 0;
        }
        self.track_far(0);
    }

    /// SYSRET and SYSEXIT: the program's SSP is back.
    pub(crate) fn shadow_system_return(&mut self) {
        if self.cet() && self.has_shadow_stack(3) {
            self.state.cpu.cet.ssp = self.state.cpu.cet.pl_ssp[3];
        }
    }
}
