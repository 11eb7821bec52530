//! The instructions of x87 and MMX that move control state only: FNINIT, FNCLEX, FNSTCW, FLDCW, FNSTSW, FNOP, WAIT, EMMS.
//!
//! Pending exceptions come from areas that FXRSTOR or XRSTOR load, and from FLDCW. With CR0.NE = 0 they would assert FERR#, which no machine
//! here listens to: nothing happens then.
//!
//! Source: SDM 2A 3.2, EMMS; FCLEX/FNCLEX; FINIT/FNINIT; FLDCW; FNOP; FSTCW/FNSTCW; FSTSW/FNSTSW; SDM 2C, WAIT/FWAIT; SDM 3A 2.5, Control Registers (EM, MP, TS, NE);
//! 12.2, The MMX State and MMX Register Aliasing.

use crate::bus::Bus;
use crate::exec::{Exec, Stopped};
use crate::insn::{Handler, Insn};
use iced_x86::Code;
use x86_state::{Cr0, Exception, SegmentRegister};

/// The handler of an instruction of this family.
#[must_use]
pub fn handler<B: Bus>(code: Code) -> Option<Handler<B>> {
    let handler: Handler<B> = match code {
        Code::Fninit => fninit,
        Code::Fnclex => fnclex,
        Code::Fnstcw_m2byte => fnstcw,
        Code::Fldcw_m2byte => fldcw,
        Code::Fnstsw_m2byte | Code::Fnstsw_AX => fnstsw,
        Code::Fnop => fnop,
        Code::Wait => wait,
        Code::Emms => emms,
        _ => return None,
    };
    Some(handler)
}

impl<B: Bus> Exec<'_, B> {
    /// May x87 instructions be executed? #NM with CR0.EM or CR0.TS.
    pub(super) fn x87(&mut self) -> Result<(), Stopped> {
        let unavailable = self.state.cpu.cr0.intersects(Cr0::EM | Cr0::TS);
        if unavailable { Err(self.fault(Exception::NM)) } else { Ok(()) }
    }

    /// #MF if an exception is pending, with CR0.NE.
    pub(super) fn x87_pending(&mut self) -> Result<(), Stopped> {
        let raises = self.state.x87.is_pending() && self.state.cpu.cr0.contains(Cr0::NE);
        if raises { Err(self.fault(Exception::MF)) } else { Ok(()) }
    }
}

fn fninit<B: Bus>(exec: &mut Exec<'_, B>, _: &Insn<B>) -> Result<(), Stopped> {
    exec.x87()?;
    exec.state.x87.initialize();
    Ok(())
}

fn fnclex<B: Bus>(exec: &mut Exec<'_, B>, _: &Insn<B>) -> Result<(), Stopped> {
    exec.x87()?;
    exec.state.x87.clear_exceptions();
    Ok(())
}

fn fnstcw<B: Bus>(exec: &mut Exec<'_, B>, insn: &Insn<B>) -> Result<(), Stopped> {
    exec.x87()?;
    exec.set(insn, 0, exec.state.x87.control)
}

fn fldcw<B: Bus>(exec: &mut Exec<'_, B>, insn: &Insn<B>) -> Result<(), Stopped> {
    exec.x87()?;
    exec.x87_pending()?;
    let control = exec.get(insn, 0)?;
    exec.state.x87.set_control(control);
    Ok(())
}

fn fnstsw<B: Bus>(exec: &mut Exec<'_, B>, insn: &Insn<B>) -> Result<(), Stopped> {
    exec.x87()?;
    exec.set(insn, 0, exec.state.x87.status)
}

/// It changes nothing but the instruction pointer of the unit.
fn fnop<B: Bus>(exec: &mut Exec<'_, B>, _: &Insn<B>) -> Result<(), Stopped> {
    exec.x87()?;
    exec.x87_pending()?;
    exec.state.x87.instruction = exec.state.cpu.rip;
    exec.state.x87.instruction_selector = exec.state.cpu.segments[SegmentRegister::Cs].selector.0;
    Ok(())
}

/// CR0.EM does not concern it, and CR0.TS only together with CR0.MP.
fn wait<B: Bus>(exec: &mut Exec<'_, B>, _: &Insn<B>) -> Result<(), Stopped> {
    if exec.state.cpu.cr0.contains(Cr0::MP | Cr0::TS) {
        return Err(exec.fault(Exception::NM));
    }
    exec.x87_pending()
}

/// An MMX instruction: CR0.EM makes it #UD.
fn emms<B: Bus>(exec: &mut Exec<'_, B>, _: &Insn<B>) -> Result<(), Stopped> {
    if exec.state.cpu.cr0.contains(Cr0::EM) {
        return Err(exec.ud());
    }
    exec.x87()?;
    exec.x87_pending()?;
    exec.state.x87.empty();
    Ok(())
}
