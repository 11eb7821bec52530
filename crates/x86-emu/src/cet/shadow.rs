//! How is a shadow stack reached, and what is a token? Loads, stores, and the exchange that takes and frees a token.
//!
//! Source: SDM 1 18.2.1 to 18.2.3 (rev 077), Shadow Stack Pointer; Terminology; Supervisor Shadow Stack Token; SDM 3A 4.6, Access Rights.

use crate::bus::Bus;
use crate::exec::{Exec, Stopped};
use crate::word::Word;
use softvirt_ept::{Access, Operation, Privilege};
use x86_state::addr::is_canonical;
use x86_state::{Efer, Gva};

/// In a supervisor shadow-stack token: the stack is in use.
const BUSY: u64 = 1;

/// How a shadow stack is addressed.
#[derive(Clone, Copy, Debug)]
pub(crate) struct ShadowStack {
    /// At which privilege level: level 3 is a user access.
    level: u8,
    /// Do addresses have 64 bits? They have 32 in compatibility mode and outside IA-32e mode.
    wide: bool,
}

impl ShadowStack {
    fn access(self, operation: Operation) -> Access {
        let privilege = if self.level == 3 { Privilege::User } else { Privilege::Supervisor };
        Access::new(operation, privilege).shadow_stack()
    }
}

impl<B: Bus> Exec<'_, B> {
    /// The shadow stack in use.
    pub(crate) fn current_shadow_stack(&self) -> ShadowStack {
        ShadowStack { level: self.state.cpu.cpl(), wide: self.long64() }
    }

    /// The shadow stack of a level, in a transfer that may go from compatibility to 64-bit mode or back.
    pub(crate) fn shadow_stack_of(&self, level: u8) -> ShadowStack {
        ShadowStack { level, wide: self.state.cpu.efer.contains(Efer::LMA) }
    }

    /// The manual does not say what an address is that is not canonical: #GP(0), as for other accesses without a segment.
    fn shadow_address(&mut self, stack: ShadowStack, address: u64, len_bytes: u64) -> Result<Gva, Stopped> {
        if !stack.wide {
            return Ok(Gva(address & 0xffff_ffff));
        }
        let width = self.state.cpu.linear_width();
        if is_canonical(address, width) && is_canonical(address.wrapping_add(len_bytes - 1), width) {
            Ok(Gva(address))
        } else {
            Err(self.gp())
        }
    }

    /// "shadow_stack_load" of 4 or 8 bytes.
    pub(crate) fn shadow_load<W: Word>(&mut self, stack: ShadowStack, address: u64) -> Result<W, Stopped> {
        let linear = self.shadow_address(stack, address, u64::from(W::BITS / 8))?;
        self.read_linear(linear, stack.access(Operation::Read))
    }

    /// "shadow_stack_store" of 4 or 8 bytes.
    pub(crate) fn shadow_store<W: Word>(&mut self, stack: ShadowStack, address: u64, value: W) -> Result<(), Stopped> {
        let linear = self.shadow_address(stack, address, u64::from(W::BITS / 8))?;
        self.write_linear(linear, value, stack.access(Operation::Write))
    }

    /// Replaces the 8 bytes at an address that is aligned to 8 bytes by what `change` makes of them, in one step; gives what was there.
    pub(crate) fn shadow_update(
        &mut self,
        stack: ShadowStack,
        address: u64,
        change: impl Fn(u64) -> u64,
    ) -> Result<u64, Stopped> {
        let linear = self.shadow_address(stack, address, 8)?;
        let access = stack.access(Operation::Write);
        let before: u64 = self.read_linear(linear, access)?;
        let after = change(before);
        // Processors take turns between instructions: a write that follows the read cannot be overtaken.
        self.write_linear(linear, after, access)?;
        Ok(before)
    }

    /// "shadow_stack_lock_cmpxchg8B": did the expected value stand there? Memory is written in any case.
    fn shadow_exchange(&mut self, stack: ShadowStack, at: u64, new: u64, expected: u64) -> Result<bool, Stopped> {
        let found = self.shadow_update(stack, at, |found| if found == expected { new } else { found })?;
        Ok(found == expected)
    }

    /// Marks the supervisor shadow-stack token at `ssp` as busy. `false` if it is none, or busy already.
    pub(crate) fn take_token(&mut self, stack: ShadowStack, ssp: u64) -> Result<bool, Stopped> {
        self.shadow_exchange(stack, ssp, ssp | BUSY, ssp)
    }

    /// Marks the busy token at `ssp` as free. `false` if it is none, or not busy.
    pub(crate) fn free_token(&mut self, stack: ShadowStack, ssp: u64) -> Result<bool, Stopped> {
        self.shadow_exchange(stack, ssp, ssp, ssp | BUSY)
    }

    /// Pushes CS, the linear instruction pointer and the SSP to return to below `ssp`; gives the new SSP.
    pub(crate) fn push_shadow_frame(
        &mut self,
        stack: ShadowStack,
        ssp: u64,
        [cs, lip, old_ssp]: [u64; 3],
    ) -> Result<u64, Stopped> {
        self.shadow_store(stack, ssp.wrapping_sub(8), cs)?;
        self.shadow_store(stack, ssp.wrapping_sub(16), lip)?;
        self.shadow_store(stack, ssp.wrapping_sub(24), old_ssp)?;
        Ok(ssp.wrapping_sub(24))
    }

    /// The same from any SSP: aligned to 8 bytes, with a hole of zeros if it was not.
    pub(crate) fn push_aligned_shadow_frame(
        &mut self,
        stack: ShadowStack,
        ssp: u64,
        frame: [u64; 3],
    ) -> Result<u64, Stopped> {
        self.shadow_store(stack, ssp.wrapping_sub(4), 0_u32)?;
        self.push_shadow_frame(stack, ssp & !7, frame)
    }
}
