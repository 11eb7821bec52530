//! NOP, reserved NOPs, prefetches, fences, and instructions on cache lines.
//!
//! Caches are not modelled: CLFLUSH, CLFLUSHOPT and CLWB translate their address, as a read would, and do nothing more. Prefetches and
//! CLDEMOTE do not even that. The bound registers of MPX are not modelled either: its instructions are the NOPs that they are while
//! bound checking is off.
//!
//! Source: SDM 2A 3.2, CLDEMOTE; CLFLUSH; CLFLUSHOPT; CLWB; LFENCE; SDM 2B 4.3, MFENCE; NOP; PREFETCHh; PREFETCHW; SFENCE;
//! SDM 1 17.3, Intel MPX.

use crate::bus::Bus;
use crate::exec::{Exec, Stopped};
use crate::insn::{Handler, Insn};
use iced_x86::Code::{self, *};
use softvirt_ept::Operation;

/// The handler of an instruction of this family.
#[must_use]
#[rustfmt::skip] // One line for each group of opcodes.
pub fn handler<B: Bus>(code: Code) -> Option<Handler<B>> {
    let handler: Handler<B> = match code {
        Nopw | Nopd | Nopq | Nop_rm16 | Nop_rm32 | Nop_rm64 => nop,
        Reservednop_rm16_r16_0F0D | Reservednop_rm32_r32_0F0D | Reservednop_rm64_r64_0F0D => nop,
        Reservednop_rm16_r16_0F18 | Reservednop_rm32_r32_0F18 | Reservednop_rm64_r64_0F18 => nop,
        Reservednop_rm16_r16_0F19 | Reservednop_rm32_r32_0F19 | Reservednop_rm64_r64_0F19 => nop,
        Reservednop_rm16_r16_0F1A | Reservednop_rm32_r32_0F1A | Reservednop_rm64_r64_0F1A => nop,
        Reservednop_rm16_r16_0F1B | Reservednop_rm32_r32_0F1B | Reservednop_rm64_r64_0F1B => nop,
        Reservednop_rm16_r16_0F1C | Reservednop_rm32_r32_0F1C | Reservednop_rm64_r64_0F1C => nop,
        Reservednop_rm16_r16_0F1D | Reservednop_rm32_r32_0F1D | Reservednop_rm64_r64_0F1D => nop,
        Reservednop_rm16_r16_0F1E | Reservednop_rm32_r32_0F1E | Reservednop_rm64_r64_0F1E => nop,
        Reservednop_rm16_r16_0F1F | Reservednop_rm32_r32_0F1F | Reservednop_rm64_r64_0F1F => nop,
        Prefetch_m8 | Prefetchw_m8 | Prefetchwt1_m8 => nop,
        Prefetchnta_m8 | Prefetcht0_m8 | Prefetcht1_m8 | Prefetcht2_m8 | Prefetchit0_m8 | Prefetchit1_m8 => nop,
        Prefetchreserved3_m8 | Prefetchreserved4_m8 | Prefetchreserved5_m8 => nop,
        Prefetchreserved6_m8 | Prefetchreserved7_m8 => nop,
        Cldemote_m8 => nop,
        Bndmk_bnd_m32 | Bndmk_bnd_m64 | Bndcl_bnd_rm32 | Bndcl_bnd_rm64 | Bndcu_bnd_rm32 | Bndcu_bnd_rm64 => nop,
        Bndcn_bnd_rm32 | Bndcn_bnd_rm64 | Bndmov_bnd_bndm64 | Bndmov_bnd_bndm128 => nop,
        Bndmov_bndm64_bnd | Bndmov_bndm128_bnd | Bndldx_bnd_mib | Bndstx_mib_bnd => nop,
        Lfence | Lfence_E9 | Lfence_EA | Lfence_EB | Lfence_EC | Lfence_ED | Lfence_EE | Lfence_EF => nop,
        Mfence | Mfence_F1 | Mfence_F2 | Mfence_F3 | Mfence_F4 | Mfence_F5 | Mfence_F6 | Mfence_F7 => nop,
        Sfence | Sfence_F9 | Sfence_FA | Sfence_FB | Sfence_FC | Sfence_FD | Sfence_FE | Sfence_FF => nop,
        Clflush_m8 | Clflushopt_m8 | Clwb_m8 => cache_line,
        _ => return None,
    };
    Some(handler)
}

fn nop<B: Bus>(_: &mut Exec<'_, B>, _: &Insn<B>) -> Result<(), Stopped> {
    Ok(())
}

fn cache_line<B: Bus>(exec: &mut Exec<'_, B>, insn: &Insn<B>) -> Result<(), Stopped> {
    let offset = exec.offset(&insn.memory);
    let linear = exec.linear(insn.memory.segment, offset, 1, false)?;
    exec.translate(linear, exec.data(Operation::Read))?;
    Ok(())
}
