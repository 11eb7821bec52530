//! What does a guest see of time, and when does waiting exit?
//!
//! Source: SDM 3C (rev 077) 24.6.5, Time-Stamp Counter Offset and Multiplier; 24.6.13, Controls for PAUSE-Loop Exiting; 25.1.3; 25.3.

use super::exit;
use super::table::Row;
use crate::control::Control;
use crate::exit::Exit;
use crate::fields::Field;
use crate::verdict::{Effect, TscTransform, Verdict};
use crate::vmx::Vmx;
use x86_state::{Cpu, Instruction, OpClass, Rflags};

/// What the guest sees of the time-stamp counter. "use TSC scaling" means nothing without "use TSC offsetting".
#[must_use]
pub fn tsc_transform(vmx: &Vmx) -> TscTransform {
    TscTransform::of(&vmx.guest.controls, &vmx.vmcs)
}

/// An instruction that reads the time-stamp counter, or waits for a value of it.
pub(super) fn read_tsc(vmx: &Vmx) -> Verdict {
    match vmx.guest.controls.has(Control::USE_TSC_OFFSETTING) {
        true => Verdict::Instead(Effect::Tsc(tsc_transform(vmx))),
        false => Verdict::Normal,
    }
}

/// MWAIT without "MWAIT exiting": it does not wait if it should end on masked interrupts, which the hypervisor waits for too.
pub(super) fn mwait(vmx: &Vmx, cpu: &Cpu, extensions: u32) -> Verdict {
    let guest = &vmx.guest;
    let normal = extensions & 1 == 0
        || cpu.rflags.contains(Rflags::IF)
        || !guest.controls.has(Control::INTERRUPT_WINDOW_EXITING) && !guest.recognizes_virtual_interrupt();
    if normal { Verdict::Normal } else { Verdict::Instead(Effect::Nothing) }
}

/// PAUSE without "PAUSE exiting" and with "PAUSE-loop exiting", which looks at CPL 0 only.
pub(super) fn pause(vmx: &Vmx, cpu: &Cpu) -> Verdict {
    if vmx.guest.controls.has(Control::PAUSE_LOOP_EXITING) && cpu.cpl() == 0 {
        Verdict::Instead(Effect::PauseLoop)
    } else {
        Verdict::Normal
    }
}

/// Counts a PAUSE for which [`decide`](super::decide) has said [`Effect::PauseLoop`]; the exit, if the loop has lasted too long.
///
/// `tsc` is the time-stamp counter without offset and scaling. The PAUSE that exits counts as an execution too; a VM entry starts anew
/// ([`PauseLoop::first`](crate::vmx::PauseLoop::first) is `None`).
#[must_use]
pub fn pause_loop(vmx: &mut Vmx, cpu: &Cpu, instruction: &Instruction, tsc: u64) -> Option<Exit> {
    let gap = vmx.vmcs.get(Field::PLE_GAP);
    let window = vmx.vmcs.get(Field::PLE_WINDOW);
    let state = &mut vmx.guest.pause_loop;
    let since_last = tsc.wrapping_sub(state.last);
    state.last = tsc;
    match state.first {
        Some(first) if since_last <= gap => {
            if tsc.wrapping_sub(first) <= window {
                return None;
            }
            match exit(Row::of(OpClass::Pause), cpu, instruction) {
                Verdict::Exit(exit) => Some(exit),
                _ => None,
            }
        }
        _ => {
            state.first = Some(tsc);
            None
        }
    }
}
