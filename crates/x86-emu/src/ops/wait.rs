//! MONITOR, MWAIT, UMONITOR, UMWAIT and TPAUSE: when does a processor wait, and what ends the wait?
//!
//! # How a wait is modelled
//! Control has passed to the next instruction, and [`State::wait`](crate::State) says until when nothing is executed. Whatever the bus has
//! to say ends a wait, masked interrupts included; so does the end of the processor's turn ([`Processor::run`](crate::Processor::run) is
//! called anew), if it waits for a store: processors take turns, and others can have stored only then. Both are among the
//! "implementation-dependent events" that the manual allows, so that no store is ever missed.
//!
//! Source: SDM 2B (rev 077), MONITOR, MWAIT, TPAUSE, UMONITOR, UMWAIT; SDM 3C 25.3, Changes to Instruction Behavior in VMX Non-Root
//! Operation.

use crate::bus::Bus;
use crate::exec::{Exec, Stopped};
use crate::flags::ARITHMETIC;
use crate::insn::{Handler, Insn, Place};
use iced_x86::Code;
use softvirt_ept::Operation;
use vmx_model::{Effect, TscTransform};
use x86_state::{Cr4, Feature, Gpr, Hpa, Op, Rflags};

/// The handler of an instruction of this family.
#[must_use]
pub fn handler<B: Bus>(code: Code) -> Option<Handler<B>> {
    use Code::*;
    Some(match code {
        Monitorw | Monitord | Monitorq => monitor,
        Mwait => mwait,
        Umonitor_r16 | Umonitor_r32 | Umonitor_r64 => umonitor,
        Umwait_r32 | Umwait_r64 => umwait,
        Tpause_r32 | Tpause_r64 => tpause,
        _ => return None,
    })
}

/// A range whose stores are watched.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Monitor {
    /// An address in it.
    pub hpa: Hpa,
    /// UMONITOR has armed it, for UMWAIT; else MONITOR, for MWAIT.
    pub user: bool,
}

/// The processor waits.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Wait {
    /// The time-stamp count that ends it, if one does.
    pub deadline: Option<u64>,
    /// The operating system's limit is nearer than what the instruction asks for: reaching it sets CF.
    pub limited: bool,
    /// A store to the monitored range ends it as well.
    pub for_store: bool,
}

/// MONITOR and MWAIT are #UD above privilege level 0 and while IA32_MISC_ENABLE disables them.
fn enabled<B: Bus>(exec: &mut Exec<'_, B>) -> Result<(), Stopped> {
    exec.announced(Feature::MONITOR)?;
    let enabled = exec.state.cpu.cpl() == 0 && exec.state.registers.monitor_enabled();
    if enabled { Ok(()) } else { Err(exec.ud()) }
}

fn monitor<B: Bus>(exec: &mut Exec<'_, B>, insn: &Insn<B>) -> Result<(), Stopped> {
    enabled(exec)?;
    exec.sensitive(insn, Op::Monitor)?;
    if exec.gpr::<u32>(1) != 0 {
        return Err(exec.gp());
    }
    let offset = exec.state.cpu.gpr[Gpr::Rax] & insn.memory.mask;
    arm(exec, insn, offset, false)
}

/// The range at an offset is watched, if a byte there may be read.
fn arm<B: Bus>(exec: &mut Exec<'_, B>, insn: &Insn<B>, offset: u64, user: bool) -> Result<(), Stopped> {
    let linear = exec.linear(insn.memory.segment, offset, 1, false)?;
    let hpa = exec.translate(linear, exec.data(Operation::Read))?;
    exec.state.monitor = Some(Monitor { hpa, user });
    Ok(())
}

fn mwait<B: Bus>(exec: &mut Exec<'_, B>, insn: &Insn<B>) -> Result<(), Stopped> {
    enabled(exec)?;
    let extensions = exec.gpr::<u32>(1);
    let armed = exec.state.monitor.is_some_and(|monitor| !monitor.user);
    let effect = exec.sensitive(insn, Op::Mwait { armed, extensions })?;
    // CPUID.05H:ECX[1]: masked interrupts may end the wait.
    let supported = exec.profile.cpuid(5, 0).map_or(0, |leaf| leaf.regs[2] >> 1 & 1);
    if extensions & !supported != 0 {
        return Err(exec.gp());
    }
    if armed && effect != Some(Effect::Nothing) {
        exec.state.wait = Some(Wait { deadline: None, limited: false, for_store: true });
    }
    exec.state.monitor = None;
    Ok(())
}

fn umonitor<B: Bus>(exec: &mut Exec<'_, B>, insn: &Insn<B>) -> Result<(), Stopped> {
    exec.announced(Feature::WAITPKG)?;
    exec.sensitive(insn, Op::Umonitor)?;
    let Place::Gpr(number) = insn.operands[0] else { return Err(exec.ud()) };
    let mask = match insn.code {
        Code::Umonitor_r16 => 0xffff,
        Code::Umonitor_r32 => 0xffff_ffff,
        _ => u64::MAX,
    };
    let offset = exec.gpr::<u64>(number) & mask;
    arm(exec, insn, offset, true)
}

fn umwait<B: Bus>(exec: &mut Exec<'_, B>, insn: &Insn<B>) -> Result<(), Stopped> {
    let Place::Gpr(number) = insn.operands[0] else { return Err(exec.ud()) };
    let wait = timed(exec, insn, Op::Umwait { register: crate::vmx::gpr(number) })?;
    if exec.state.monitor.is_some_and(|monitor| monitor.user) {
        exec.state.wait = wait.map(|wait| Wait { for_store: true, ..wait });
    }
    exec.state.monitor = None;
    Ok(())
}

fn tpause<B: Bus>(exec: &mut Exec<'_, B>, insn: &Insn<B>) -> Result<(), Stopped> {
    let Place::Gpr(number) = insn.operands[0] else { return Err(exec.ud()) };
    exec.state.wait = timed(exec, insn, Op::Tpause { register: crate::vmx::gpr(number) })?;
    Ok(())
}

/// What UMWAIT and TPAUSE have in common: the flags, and how long the wait is at most; `None` if the time has come.
fn timed<B: Bus>(exec: &mut Exec<'_, B>, insn: &Insn<B>, op: Op) -> Result<Option<Wait>, Stopped> {
    exec.announced(Feature::WAITPKG)?;
    let transform = match exec.sensitive(insn, op)? {
        Some(Effect::Tsc(transform)) => transform,
        _ => TscTransform::IDENTITY,
    };
    if exec.state.cpu.cr4.contains(Cr4::TSD) && exec.state.cpu.cpl() != 0 {
        return Err(exec.gp());
    }
    let state: u32 = exec.get(insn, 0)?;
    if state & !1 != 0 {
        return Err(exec.gp());
    }
    let flags = exec.rflags();
    exec.state.cpu.rflags = flags.difference(ARITHMETIC);
    let tsc = exec.state.tsc;
    let asked = exec.edx_eax().saturating_sub(transform.apply(tsc));
    let limit = exec.state.registers.umwait_control & 0xffff_fffc;
    let limited = limit != 0 && limit < asked;
    let delay = transform.physical_delay(if limited { limit } else { asked });
    // A time beyond the end of the counter does not come.
    let deadline = tsc.checked_add(delay);
    Ok((delay != 0).then_some(Wait { deadline, limited, for_store: false }))
}

impl<B: Bus> Exec<'_, B> {
    /// IRET, SYSRET, SYSEXIT and RET to another privilege level: UMWAIT will not wait on what UMONITOR has armed before.
    pub(crate) fn disarm_user_monitor(&mut self) {
        self.state.monitor = self.state.monitor.filter(|monitor| !monitor.user);
    }

    /// Waits, for at most this long. Gives for how long.
    #[cold]
    pub(crate) fn wait(&mut self, wait: &Wait, most: u64) -> u64 {
        let tsc = self.state.tsc;
        let left = wait.deadline.map_or(u64::MAX, |deadline| deadline.saturating_sub(tsc));
        if left == 0 || self.bus.attention() {
            self.state.wait = None;
            if left == 0 && wait.limited {
                let flags = self.rflags();
                self.state.cpu.rflags = flags | Rflags::CF;
            }
            return 0;
        }
        let time = left.min(most);
        self.state.tsc = tsc.wrapping_add(time);
        time
    }

    /// A turn of the processor begins: others may have stored to what it waits for.
    #[inline]
    pub(crate) fn begin_turn(&mut self) {
        if self.state.wait.is_some_and(|wait| wait.for_store) {
            self.state.wait = None;
        }
    }
}
