//! CBW, CWDE, CDQE, CWD, CDQ, CQO, and decimal arithmetic: AAA, AAS, AAM, AAD, DAA, DAS.
//!
//! Undefined flags: SF, ZF and PF of AAA and AAS follow AL; OF becomes 0 in all of them; CF and AF of AAM and AAD become 0.
//!
//! Source: SDM 2A 3.2, AAA; AAD; AAM; AAS; CBW/CWDE/CDQE; CWD/CDQ/CQO; DAA; DAS.

use crate::bus::Bus;
use crate::exec::{Exec, Stopped};
use crate::insn::{Handler, Insn};
use iced_x86::Code;
use x86_state::{Exception, Gpr};

/// The handler of an instruction of this family.
#[must_use]
pub fn handler<B: Bus>(code: Code) -> Option<Handler<B>> {
    let handler: Handler<B> = match code {
        Code::Cbw => cbw,
        Code::Cwde => cwde,
        Code::Cdqe => cdqe,
        Code::Cwd => cwd,
        Code::Cdq => cdq,
        Code::Cqo => cqo,
        Code::Aaa => aaa,
        Code::Aas => aas,
        Code::Aam_imm8 => aam,
        Code::Aad_imm8 => aad,
        Code::Daa => daa,
        Code::Das => das,
        _ => return None,
    };
    Some(handler)
}

const RAX: u8 = Gpr::Rax as u8;
const RDX: u8 = Gpr::Rdx as u8;

fn cbw<B: Bus>(exec: &mut Exec<'_, B>, _: &Insn<B>) -> Result<(), Stopped> {
    let value = exec.gpr::<u8>(RAX) as i8;
    exec.set_gpr(RAX, i16::from(value) as u16);
    Ok(())
}

fn cwde<B: Bus>(exec: &mut Exec<'_, B>, _: &Insn<B>) -> Result<(), Stopped> {
    let value = exec.gpr::<u16>(RAX) as i16;
    exec.set_gpr(RAX, i32::from(value) as u32);
    Ok(())
}

fn cdqe<B: Bus>(exec: &mut Exec<'_, B>, _: &Insn<B>) -> Result<(), Stopped> {
    let value = exec.gpr::<u32>(RAX) as i32;
    exec.set_gpr(RAX, i64::from(value) as u64);
    Ok(())
}

fn cwd<B: Bus>(exec: &mut Exec<'_, B>, _: &Insn<B>) -> Result<(), Stopped> {
    let sign = exec.gpr::<u16>(RAX) as i16 >> 15;
    exec.set_gpr(RDX, sign as u16);
    Ok(())
}

fn cdq<B: Bus>(exec: &mut Exec<'_, B>, _: &Insn<B>) -> Result<(), Stopped> {
    let sign = exec.gpr::<u32>(RAX) as i32 >> 31;
    exec.set_gpr(RDX, sign as u32);
    Ok(())
}

fn cqo<B: Bus>(exec: &mut Exec<'_, B>, _: &Insn<B>) -> Result<(), Stopped> {
    let sign = exec.gpr::<u64>(RAX) as i64 >> 63;
    exec.set_gpr(RDX, sign as u64);
    Ok(())
}

/// SF, ZF and PF from AL; CF and AF as given; OF 0.
fn finish<B: Bus>(exec: &mut Exec<'_, B>, al: u8, carry: bool, adjust: bool) {
    let carries = if carry { 3 << 6 } else { 0 } | if adjust { 8 } else { 0 };
    exec.state.flags.set(al, carries);
}

/// Does the lower digit of AL need a correction?
fn adjusts<B: Bus>(exec: &Exec<'_, B>) -> bool {
    exec.gpr::<u8>(RAX) & 15 > 9 || exec.state.flags.adjust(exec.state.cpu.rflags)
}

fn carries<B: Bus>(exec: &Exec<'_, B>) -> bool {
    exec.state.flags.carry(exec.state.cpu.rflags)
}

fn aaa<B: Bus>(exec: &mut Exec<'_, B>, _: &Insn<B>) -> Result<(), Stopped> {
    let adjusts = adjusts(exec);
    let ax = exec.gpr::<u16>(RAX);
    let ax = if adjusts { ax.wrapping_add(0x106) } else { ax } & 0xff0f;
    exec.set_gpr(RAX, ax);
    finish(exec, ax as u8, adjusts, adjusts);
    Ok(())
}

fn aas<B: Bus>(exec: &mut Exec<'_, B>, _: &Insn<B>) -> Result<(), Stopped> {
    let adjusts = adjusts(exec);
    let ax = exec.gpr::<u16>(RAX);
    let ax = if adjusts { ax.wrapping_sub(6).wrapping_sub(0x100) } else { ax } & 0xff0f;
    exec.set_gpr(RAX, ax);
    finish(exec, ax as u8, adjusts, adjusts);
    Ok(())
}

/// A base of 0 is #DE.
fn aam<B: Bus>(exec: &mut Exec<'_, B>, insn: &Insn<B>) -> Result<(), Stopped> {
    let base = insn.immediate as u8;
    let al = exec.gpr::<u8>(RAX);
    let (Some(high), Some(low)) = (al.checked_div(base), al.checked_rem(base)) else {
        return Err(exec.fault(Exception::DE));
    };
    exec.set_gpr(RAX, u16::from(high) << 8 | u16::from(low));
    finish(exec, low, false, false);
    Ok(())
}

fn aad<B: Bus>(exec: &mut Exec<'_, B>, insn: &Insn<B>) -> Result<(), Stopped> {
    let ax = exec.gpr::<u16>(RAX);
    let al = (ax as u8).wrapping_add(((ax >> 8) as u8).wrapping_mul(insn.immediate as u8));
    exec.set_gpr(RAX, u16::from(al));
    finish(exec, al, false, false);
    Ok(())
}

fn daa<B: Bus>(exec: &mut Exec<'_, B>, _: &Insn<B>) -> Result<(), Stopped> {
    let al = exec.gpr::<u8>(RAX);
    let low = adjusts(exec);
    let high = al > 0x99 || carries(exec);
    let result = al.wrapping_add(if low { 6 } else { 0 }).wrapping_add(if high { 0x60 } else { 0 });
    exec.set_gpr(RAX, result);
    finish(exec, result, high, low);
    Ok(())
}

/// The borrow of the lower digit's correction is a carry as well: AL below 6, which the upper digit alone does not show.
fn das<B: Bus>(exec: &mut Exec<'_, B>, _: &Insn<B>) -> Result<(), Stopped> {
    let al = exec.gpr::<u8>(RAX);
    let low = adjusts(exec);
    let high = al > 0x99 || carries(exec);
    let result = al.wrapping_sub(if low { 6 } else { 0 }).wrapping_sub(if high { 0x60 } else { 0 });
    exec.set_gpr(RAX, result);
    finish(exec, result, high || low && al < 6, low);
    Ok(())
}
