//! What does control-flow enforcement (CET) add? Shadow stacks and indirect-branch tracking.
//!
//! | module | answers |
//! |---|---|
//! | `shadow` | How is a shadow stack reached, and what is a token? |
//! | `near` | What do near calls, near returns and indirect branches do with it? |
//! | `far` | What do far transfers, system calls and events do with it? |
//! | `task` | What does a task switch do with it? |
//!
//! The instructions of shadow stacks are in [`crate::ops::shadow_stack`]. While CR4.CET is 0 all of this costs one test for each transfer.
//!
//! Source: SDM 1 chapter 18 (rev 077), Control-Flow Enforcement Technology (CET); SDM 3A 6.15, Interrupt 21, Control Protection Exception.

mod far;
mod near;
mod shadow;
mod task;

pub(crate) use task::ShadowTask;

use crate::bus::Bus;
use crate::exec::{Exec, Stopped};
use x86_state::{Cr0, Cr4, Exception, Rflags};

/// Bits of IA32_U_CET and IA32_S_CET (SDM 4, table 2-2).
pub(crate) mod control {
    /// SH_STK_EN: shadow stacks.
    pub(crate) const SHADOW_STACK: u64 = 1;
    /// WR_SHSTK_EN: WRSS.
    pub(crate) const WRITES: u64 = 1 << 1;
    /// ENDBR_EN: indirect-branch tracking.
    pub(crate) const ENDBRANCH: u64 = 1 << 2;
    /// LEG_IW_EN: the legacy code page bitmap is asked.
    pub(crate) const LEGACY: u64 = 1 << 3;
    /// NO_TRACK_EN: the no-track prefix counts.
    pub(crate) const NO_TRACK: u64 = 1 << 4;
    /// SUPPRESS_DIS: a branch to legacy code does not suppress tracking.
    pub(crate) const SUPPRESS_DISABLE: u64 = 1 << 5;
    /// SUPPRESS: tracking is suppressed.
    pub(crate) const SUPPRESS: u64 = 1 << 10;
    /// TRACKER: 1 is WAIT_FOR_ENDBRANCH, 0 is IDLE.
    pub(crate) const WAITING: u64 = 1 << 11;
    /// EB_LEG_BITMAP_BASE: the address of the legacy code page bitmap.
    pub(crate) const BITMAP: u64 = !0xfff;
}

/// What #CP reports: bits `[14:0]` of its error code.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Violation {
    /// NEAR-RET.
    NearReturn = 1,
    /// FAR-RET/IRET.
    FarReturn = 2,
    /// ENDBRANCH.
    MissingEndbranch = 3,
    /// RSTORSSP.
    Restore = 4,
    /// SETSSBSY.
    SetBusy = 5,
}

impl<B: Bus> Exec<'_, B> {
    /// Stops with #CP.
    #[cold]
    pub(crate) fn violates(&mut self, violation: Violation) -> Stopped {
        self.fault_with(Exception::CP, violation as u32)
    }

    /// Is CET on?
    #[inline(always)]
    pub(crate) fn cet(&self) -> bool {
        self.state.cpu.cr4.contains(Cr4::CET)
    }

    /// IA32_U_CET or IA32_S_CET, as in force at a privilege level of protected mode; 0 while CET is off. (`ShadowStackEnabled` and
    /// `EndbranchEnabled` of the manual are bits of it.)
    pub(crate) fn cet_control(&self, level: u8) -> u64 {
        let cpu = &self.state.cpu;
        match level {
            _ if !self.cet() || !cpu.cr0.contains(Cr0::PE) => 0,
            3 => cpu.cet.u_cet,
            _ => cpu.cet.s_cet,
        }
    }

    /// The same at the current privilege level: 0 in virtual-8086 mode.
    pub(crate) fn cet_now(&self) -> u64 {
        let cpu = &self.state.cpu;
        if cpu.rflags.contains(Rflags::VM) { 0 } else { self.cet_control(cpu.cpl()) }
    }

    /// Are shadow stacks on at a privilege level of protected mode?
    pub(crate) fn has_shadow_stack(&self, level: u8) -> bool {
        self.cet_control(level) & control::SHADOW_STACK != 0
    }
}
