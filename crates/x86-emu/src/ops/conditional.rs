//! SETcc and CMOVcc.
//!
//! Source: SDM 2A 3.2, CMOVcc; SDM 2B 4.3, SETcc.

use crate::bus::Bus;
use crate::exec::{Exec, Stopped};
use crate::insn::{Handler, Insn};
use crate::word::Word;
use iced_x86::Code::{self, *};

/// The handler of an instruction of this family.
#[must_use]
#[rustfmt::skip] // One line for each condition and width.
pub fn handler<B: Bus>(code: Code) -> Option<Handler<B>> {
    let handler: Handler<B> = match code {
        Seto_rm8 => setcc::<B, 0>,
        Cmovo_r16_rm16 => cmov::<B, u16, 0>,
        Cmovo_r32_rm32 => cmov::<B, u32, 0>,
        Cmovo_r64_rm64 => cmov::<B, u64, 0>,
        Setno_rm8 => setcc::<B, 1>,
        Cmovno_r16_rm16 => cmov::<B, u16, 1>,
        Cmovno_r32_rm32 => cmov::<B, u32, 1>,
        Cmovno_r64_rm64 => cmov::<B, u64, 1>,
        Setb_rm8 => setcc::<B, 2>,
        Cmovb_r16_rm16 => cmov::<B, u16, 2>,
        Cmovb_r32_rm32 => cmov::<B, u32, 2>,
        Cmovb_r64_rm64 => cmov::<B, u64, 2>,
        Setae_rm8 => setcc::<B, 3>,
        Cmovae_r16_rm16 => cmov::<B, u16, 3>,
        Cmovae_r32_rm32 => cmov::<B, u32, 3>,
        Cmovae_r64_rm64 => cmov::<B, u64, 3>,
        Sete_rm8 => setcc::<B, 4>,
        Cmove_r16_rm16 => cmov::<B, u16, 4>,
        Cmove_r32_rm32 => cmov::<B, u32, 4>,
        Cmove_r64_rm64 => cmov::<B, u64, 4>,
        Setne_rm8 => setcc::<B, 5>,
        Cmovne_r16_rm16 => cmov::<B, u16, 5>,
        Cmovne_r32_rm32 => cmov::<B, u32, 5>,
        Cmovne_r64_rm64 => cmov::<B, u64, 5>,
        Setbe_rm8 => setcc::<B, 6>,
        Cmovbe_r16_rm16 => cmov::<B, u16, 6>,
        Cmovbe_r32_rm32 => cmov::<B, u32, 6>,
        Cmovbe_r64_rm64 => cmov::<B, u64, 6>,
        Seta_rm8 => setcc::<B, 7>,
        Cmova_r16_rm16 => cmov::<B, u16, 7>,
        Cmova_r32_rm32 => cmov::<B, u32, 7>,
        Cmova_r64_rm64 => cmov::<B, u64, 7>,
        Sets_rm8 => setcc::<B, 8>,
        Cmovs_r16_rm16 => cmov::<B, u16, 8>,
        Cmovs_r32_rm32 => cmov::<B, u32, 8>,
        Cmovs_r64_rm64 => cmov::<B, u64, 8>,
        Setns_rm8 => setcc::<B, 9>,
        Cmovns_r16_rm16 => cmov::<B, u16, 9>,
        Cmovns_r32_rm32 => cmov::<B, u32, 9>,
        Cmovns_r64_rm64 => cmov::<B, u64, 9>,
        Setp_rm8 => setcc::<B, 10>,
        Cmovp_r16_rm16 => cmov::<B, u16, 10>,
        Cmovp_r32_rm32 => cmov::<B, u32, 10>,
        Cmovp_r64_rm64 => cmov::<B, u64, 10>,
        Setnp_rm8 => setcc::<B, 11>,
        Cmovnp_r16_rm16 => cmov::<B, u16, 11>,
        Cmovnp_r32_rm32 => cmov::<B, u32, 11>,
        Cmovnp_r64_rm64 => cmov::<B, u64, 11>,
        Setl_rm8 => setcc::<B, 12>,
        Cmovl_r16_rm16 => cmov::<B, u16, 12>,
        Cmovl_r32_rm32 => cmov::<B, u32, 12>,
        Cmovl_r64_rm64 => cmov::<B, u64, 12>,
        Setge_rm8 => setcc::<B, 13>,
        Cmovge_r16_rm16 => cmov::<B, u16, 13>,
        Cmovge_r32_rm32 => cmov::<B, u32, 13>,
        Cmovge_r64_rm64 => cmov::<B, u64, 13>,
        Setle_rm8 => setcc::<B, 14>,
        Cmovle_r16_rm16 => cmov::<B, u16, 14>,
        Cmovle_r32_rm32 => cmov::<B, u32, 14>,
        Cmovle_r64_rm64 => cmov::<B, u64, 14>,
        Setg_rm8 => setcc::<B, 15>,
        Cmovg_r16_rm16 => cmov::<B, u16, 15>,
        Cmovg_r32_rm32 => cmov::<B, u32, 15>,
        Cmovg_r64_rm64 => cmov::<B, u64, 15>,
        _ => return None,
    };
    Some(handler)
}

fn setcc<B: Bus, const CONDITION: u8>(exec: &mut Exec<'_, B>, insn: &Insn<B>) -> Result<(), Stopped> {
    let met = exec.condition(CONDITION);
    exec.set(insn, 0, u8::from(met))
}

/// Memory is read, and the upper half of a 32-bit destination cleared, whether or not the condition is met.
fn cmov<B: Bus, W: Word, const CONDITION: u8>(exec: &mut Exec<'_, B>, insn: &Insn<B>) -> Result<(), Stopped> {
    let source: W = exec.get(insn, 1)?;
    let value = if exec.condition(CONDITION) { source } else { exec.get(insn, 0)? };
    exec.set(insn, 0, value)
}
