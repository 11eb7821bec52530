//! BMI1, BMI2 and ADX: ANDN, BEXTR, BLSI, BLSMSK, BLSR, BZHI, PDEP, PEXT, MULX, RORX, SARX, SHLX, SHRX, ADCX, ADOX.
//!
//! Undefined flags: AF and PF (and SF of BEXTR) are as after a logical operation with that result.
//!
//! Source: SDM 2A 3.2, ADCX; ADOX; ANDN; BEXTR; BLSI; BLSMSK; BLSR; BZHI; SDM 2B 4.3, MULX; PDEP; PEXT; RORX; SARX/SHLX/SHRX;
//! SDM 2A 2.5.1, Exceptions Type 13: VEX is #UD in real-address and virtual-8086 mode.

use crate::bus::Bus;
use crate::exec::{Exec, Stopped};
use crate::insn::{Handler, Insn};
use crate::word::Word;
use iced_x86::Code::{self, *};
use x86_state::{CpuMode, Gpr, Rflags};

/// The handler of an instruction of this family.
#[must_use]
#[rustfmt::skip] // One line for each operation and width.
pub fn handler<B: Bus>(code: Code) -> Option<Handler<B>> {
    let handler: Handler<B> = match code {
        VEX_Andn_r32_r32_rm32 => andn::<B, u32>,
        VEX_Andn_r64_r64_rm64 => andn::<B, u64>,
        VEX_Blsr_r32_rm32 => blsr::<B, u32>,
        VEX_Blsr_r64_rm64 => blsr::<B, u64>,
        VEX_Blsmsk_r32_rm32 => blsmsk::<B, u32>,
        VEX_Blsmsk_r64_rm64 => blsmsk::<B, u64>,
        VEX_Blsi_r32_rm32 => blsi::<B, u32>,
        VEX_Blsi_r64_rm64 => blsi::<B, u64>,
        VEX_Bzhi_r32_rm32_r32 => bzhi::<B, u32>,
        VEX_Bzhi_r64_rm64_r64 => bzhi::<B, u64>,
        VEX_Pext_r32_r32_rm32 => pext::<B, u32>,
        VEX_Pext_r64_r64_rm64 => pext::<B, u64>,
        VEX_Pdep_r32_r32_rm32 => pdep::<B, u32>,
        VEX_Pdep_r64_r64_rm64 => pdep::<B, u64>,
        VEX_Mulx_r32_r32_rm32 => mulx::<B, u32>,
        VEX_Mulx_r64_r64_rm64 => mulx::<B, u64>,
        VEX_Bextr_r32_rm32_r32 => bextr::<B, u32>,
        VEX_Bextr_r64_rm64_r64 => bextr::<B, u64>,
        VEX_Shlx_r32_rm32_r32 => shlx::<B, u32>,
        VEX_Shlx_r64_rm64_r64 => shlx::<B, u64>,
        VEX_Sarx_r32_rm32_r32 => sarx::<B, u32>,
        VEX_Sarx_r64_rm64_r64 => sarx::<B, u64>,
        VEX_Shrx_r32_rm32_r32 => shrx::<B, u32>,
        VEX_Shrx_r64_rm64_r64 => shrx::<B, u64>,
        VEX_Rorx_r32_rm32_imm8 => rorx::<B, u32>,
        VEX_Rorx_r64_rm64_imm8 => rorx::<B, u64>,
        Adcx_r32_rm32 => adcx::<B, u32>,
        Adcx_r64_rm64 => adcx::<B, u64>,
        Adox_r32_rm32 => adox::<B, u32>,
        Adox_r64_rm64 => adox::<B, u64>,
        _ => return None,
    };
    Some(handler)
}

/// VEX prefixes exist in protected mode only.
#[inline(always)]
fn vex<B: Bus>(exec: &mut Exec<'_, B>) -> Result<(), Stopped> {
    match exec.state.cpu.mode() {
        CpuMode::Real | CpuMode::Virtual8086 => Err(exec.ud()),
        _ => Ok(()),
    }
}

/// SF and ZF from the result, CF as given, OF 0.
#[inline(always)]
fn finish<B: Bus, W: Word>(exec: &mut Exec<'_, B>, insn: &Insn<B>, result: u64, carry: bool) -> Result<(), Stopped> {
    exec.set(insn, 0, W::cut(result))?;
    exec.state.flags.shifted(W::cut(result), carry, false);
    Ok(())
}

fn andn<B: Bus, W: Word>(exec: &mut Exec<'_, B>, insn: &Insn<B>) -> Result<(), Stopped> {
    vex(exec)?;
    let source: W = exec.get(insn, 2)?;
    let inverted: W = exec.get(insn, 1)?;
    finish::<B, W>(exec, insn, !inverted.to_u64() & source.to_u64(), false)
}

fn blsr<B: Bus, W: Word>(exec: &mut Exec<'_, B>, insn: &Insn<B>) -> Result<(), Stopped> {
    vex(exec)?;
    let source = exec.get::<W>(insn, 1)?.to_u64();
    finish::<B, W>(exec, insn, source.wrapping_sub(1) & source, source == 0)
}

fn blsmsk<B: Bus, W: Word>(exec: &mut Exec<'_, B>, insn: &Insn<B>) -> Result<(), Stopped> {
    vex(exec)?;
    let source = exec.get::<W>(insn, 1)?.to_u64();
    finish::<B, W>(exec, insn, source.wrapping_sub(1) ^ source, source == 0)
}

fn blsi<B: Bus, W: Word>(exec: &mut Exec<'_, B>, insn: &Insn<B>) -> Result<(), Stopped> {
    vex(exec)?;
    let source = exec.get::<W>(insn, 1)?.to_u64();
    finish::<B, W>(exec, insn, source.wrapping_neg() & source, source != 0)
}

/// The lowest `count` bits.
#[inline(always)]
fn low(value: u64, count: u32) -> u64 {
    value & !u64::MAX.checked_shl(count).unwrap_or(0)
}

fn bzhi<B: Bus, W: Word>(exec: &mut Exec<'_, B>, insn: &Insn<B>) -> Result<(), Stopped> {
    vex(exec)?;
    let source: W = exec.get(insn, 1)?;
    let count = u32::from(exec.get::<u8>(insn, 2)?);
    finish::<B, W>(exec, insn, low(source.to_u64(), count), count >= W::BITS)
}

fn bextr<B: Bus, W: Word>(exec: &mut Exec<'_, B>, insn: &Insn<B>) -> Result<(), Stopped> {
    vex(exec)?;
    let source: W = exec.get(insn, 1)?;
    let control = exec.get::<W>(insn, 2)?.to_u64();
    let shifted = source.to_u64().checked_shr((control & 0xff) as u32).unwrap_or(0);
    finish::<B, W>(exec, insn, low(shifted, (control >> 8 & 0xff) as u32), false)
}

fn pdep<B: Bus, W: Word>(exec: &mut Exec<'_, B>, insn: &Insn<B>) -> Result<(), Stopped> {
    vex(exec)?;
    let mut mask = exec.get::<W>(insn, 2)?.to_u64();
    let mut source = exec.get::<W>(insn, 1)?.to_u64();
    let mut result = 0;
    while mask != 0 {
        if source & 1 == 1 {
            result |= mask & mask.wrapping_neg();
        }
        source >>= 1;
        mask &= mask - 1;
    }
    exec.set(insn, 0, W::cut(result))
}

fn pext<B: Bus, W: Word>(exec: &mut Exec<'_, B>, insn: &Insn<B>) -> Result<(), Stopped> {
    vex(exec)?;
    let mut mask = exec.get::<W>(insn, 2)?.to_u64();
    let source = exec.get::<W>(insn, 1)?.to_u64();
    let (mut result, mut bit) = (0, 1);
    while mask != 0 {
        if source & mask & mask.wrapping_neg() != 0 {
            result |= bit;
        }
        bit <<= 1;
        mask &= mask - 1;
    }
    exec.set(insn, 0, W::cut(result))
}

/// The lower half is written first: with one register for both the upper half stays.
fn mulx<B: Bus, W: Word>(exec: &mut Exec<'_, B>, insn: &Insn<B>) -> Result<(), Stopped> {
    vex(exec)?;
    let source: W = exec.get(insn, 2)?;
    let product = u128::from(exec.gpr::<W>(Gpr::Rdx as u8).to_u64()) * u128::from(source.to_u64());
    exec.set(insn, 1, W::cut(product as u64))?;
    exec.set(insn, 0, W::cut((product >> W::BITS) as u64))
}

#[inline(always)]
fn shift<B: Bus, W: Word>(
    exec: &mut Exec<'_, B>,
    insn: &Insn<B>,
    apply: impl Fn(W, u32) -> u64,
) -> Result<(), Stopped> {
    vex(exec)?;
    let source: W = exec.get(insn, 1)?;
    let count = u32::from(exec.get::<u8>(insn, 2)?) & (W::BITS - 1);
    exec.set(insn, 0, W::cut(apply(source, count)))
}

fn shlx<B: Bus, W: Word>(exec: &mut Exec<'_, B>, insn: &Insn<B>) -> Result<(), Stopped> {
    shift(exec, insn, |source: W, count| source.to_u64() << count)
}

fn shrx<B: Bus, W: Word>(exec: &mut Exec<'_, B>, insn: &Insn<B>) -> Result<(), Stopped> {
    shift(exec, insn, |source: W, count| source.to_u64() >> count)
}

fn sarx<B: Bus, W: Word>(exec: &mut Exec<'_, B>, insn: &Insn<B>) -> Result<(), Stopped> {
    shift(exec, insn, |source: W, count| (source.to_i64() >> count) as u64)
}

fn rorx<B: Bus, W: Word>(exec: &mut Exec<'_, B>, insn: &Insn<B>) -> Result<(), Stopped> {
    shift(exec, insn, |source: W, count| {
        let bits = source.to_u64();
        bits >> count | bits.checked_shl(W::BITS - count).unwrap_or(0)
    })
}

/// An addition that takes its carry from one flag and leaves it there; no other flag changes.
#[inline(always)]
fn add_with<B: Bus, W: Word>(exec: &mut Exec<'_, B>, insn: &Insn<B>, flag: Rflags) -> Result<(), Stopped> {
    let source: W = exec.get(insn, 1)?;
    let before: W = exec.get(insn, 0)?;
    let carry = u128::from(exec.rflags().contains(flag));
    let sum = u128::from(before.to_u64()) + u128::from(source.to_u64()) + carry;
    exec.set(insn, 0, W::cut(sum as u64))?;
    exec.state.cpu.rflags.set(flag, sum >> W::BITS & 1 == 1);
    Ok(())
}

fn adcx<B: Bus, W: Word>(exec: &mut Exec<'_, B>, insn: &Insn<B>) -> Result<(), Stopped> {
    add_with::<B, W>(exec, insn, Rflags::CF)
}

fn adox<B: Bus, W: Word>(exec: &mut Exec<'_, B>, insn: &Insn<B>) -> Result<(), Stopped> {
    add_with::<B, W>(exec, insn, Rflags::OF)
}
