//! What do the bits of a control register or an MSR say? The names of those that are 1, and what is reserved.
//!
//! Source: the types of [`x86_state::regs`]; SDM 4 table 2-2 (rev 077), IA-32 Architectural MSRs, for the registers that have no type
//! there; SDM 3B 17.2.4, Debug Control Register (DR7); SDM 3A 11.12, Page Attribute Table (PAT).

use super::bits::{BitList, List, Named, reserved};
use bitflags::Flags;
use core::fmt;
use x86_state::{Cr0, Cr4, DebugCtl, Dr7, Efer, Rflags};

/// Writes the names of single-bit flags; returns the bits that have none.
fn flags<B: Flags<Bits = u64>>(list: &mut List<'_, '_>, value: u64) -> Result<u64, fmt::Error> {
    let mut rest = value;
    for flag in B::FLAGS {
        let bits = flag.value().bits();
        if flag.is_named() && bits.count_ones() == 1 && value & bits != 0 {
            list.item(format_args!("{}", flag.name()))?;
            rest &= !bits;
        }
    }
    Ok(rest)
}

fn plain<B: Flags<Bits = u64>>(f: &mut fmt::Formatter<'_>, value: u64) -> fmt::Result {
    let mut list = List::new(f);
    let rest = flags::<B>(&mut list, value)?;
    list.or("no bit")?;
    reserved(f, rest, u64::MAX)
}

/// Writes the names only; bits without one are left out.
pub(super) fn names<B: Flags<Bits = u64>>(f: &mut fmt::Formatter<'_>, value: u64, nothing: &str) -> fmt::Result {
    let mut list = List::new(f);
    flags::<B>(&mut list, value)?;
    list.or(nothing)
}

pub(super) fn cr0(f: &mut fmt::Formatter<'_>, value: u64) -> fmt::Result {
    plain::<Cr0>(f, value)
}

pub(super) fn cr4(f: &mut fmt::Formatter<'_>, value: u64) -> fmt::Result {
    plain::<Cr4>(f, value)
}

pub(super) fn efer(f: &mut fmt::Formatter<'_>, value: u64) -> fmt::Result {
    plain::<Efer>(f, value)
}

pub(super) fn debugctl(f: &mut fmt::Formatter<'_>, value: u64) -> fmt::Result {
    plain::<DebugCtl>(f, value)
}

pub(super) fn rflags(f: &mut fmt::Formatter<'_>, value: u64) -> fmt::Result {
    let flag = Rflags::from_bits_retain(value);
    let mut list = List::new(f);
    let fixed = Rflags::FIXED_1.bits();
    let rest = flags::<Rflags>(&mut list, value & !fixed)? & !Rflags::IOPL.bits();
    if flag.iopl() != 0 {
        list.item(format_args!("IOPL {}", flag.iopl()))?;
    }
    list.or("no flag")?;
    if value & fixed == 0 {
        f.write_str("; bit 1 is 0")?;
    }
    reserved(f, rest, u64::MAX)
}

pub(super) fn dr7(f: &mut fmt::Formatter<'_>, value: u64) -> fmt::Result {
    let dr7 = Dr7::from_bits_retain(value);
    let fixed = Dr7::FIXED_1.bits();
    let mut list = List::new(f);
    for n in (0..4).filter(|&n| dr7.enabled(n)) {
        let scope = ["", "local", "global", "local and global"][(value >> (2 * n) & 3) as usize];
        let condition = ["execution of", "write to", "I/O at", "read or write of"][usize::from(dr7.condition(n))];
        let bytes = dr7.len_bytes(n);
        let unit = if bytes == 1 { "byte" } else { "bytes" };
        list.item(format_args!("breakpoint {n} ({scope}): {condition} {bytes} {unit}"))?;
    }
    let rest = flags::<Dr7>(&mut list, value & !fixed)? & !(Dr7::ENABLES | Dr7::CONDITIONS).bits();
    list.or("no breakpoint")?;
    if value & fixed == 0 {
        f.write_str("; bit 10 is 0")?;
    }
    reserved(f, rest, u64::MAX)
}

pub(super) fn pat(f: &mut fmt::Formatter<'_>, value: u64) -> fmt::Result {
    let mut list = List::new(f);
    for (n, memory_type) in value.to_le_bytes().into_iter().enumerate() {
        match memory_type {
            0 => list.item(format_args!("PA{n} UC"))?,
            1 => list.item(format_args!("PA{n} WC"))?,
            4 => list.item(format_args!("PA{n} WT"))?,
            5 => list.item(format_args!("PA{n} WP"))?,
            6 => list.item(format_args!("PA{n} WB"))?,
            7 => list.item(format_args!("PA{n} UC-"))?,
            _ => list.item(format_args!("PA{n} reserved {memory_type:#x}"))?,
        }
    }
    Ok(())
}

pub(super) fn s_cet(f: &mut fmt::Formatter<'_>, value: u64) -> fmt::Result {
    let named = Named(&[
        (0, "SH_STK_EN"),
        (1, "WR_SHSTK_EN"),
        (2, "ENDBR_EN"),
        (3, "LEG_IW_EN"),
        (4, "NO_TRACK_EN"),
        (5, "SUPPRESS_DIS"),
        (10, "SUPPRESS"),
        (11, "TRACKER WAIT_FOR_ENDBRANCH"),
    ]);
    named.write(f, value, "no bit")?;
    if value >> 12 != 0 {
        write!(f, ", EB_LEG_BITMAP_BASE {:#x}", value & !0xfff)?;
    }
    reserved(f, value, 0x3c0)
}

pub(super) fn pkrs(f: &mut fmt::Formatter<'_>, value: u64) -> fmt::Result {
    let mut list = List::new(f);
    for key in 0..16 {
        match value >> (2 * key) & 3 {
            0 => {}
            1 => list.item(format_args!("key {key} AD"))?,
            2 => list.item(format_args!("key {key} WD"))?,
            _ => list.item(format_args!("key {key} AD WD"))?,
        }
    }
    list.or("no restriction")?;
    reserved(f, value, !0xffff_ffff)
}

pub(super) fn perf_global_ctrl(f: &mut fmt::Formatter<'_>, value: u64) -> fmt::Result {
    let mut list = List::new(f);
    for (words, counters) in [("general", value & 0xffff_ffff), ("fixed", value >> 32 & 0xffff)] {
        if counters != 0 {
            list.item(format_args!("{words} counters: {}", BitList(counters)))?;
        }
    }
    if value >> 48 & 1 == 1 {
        list.item(format_args!("performance metrics"))?;
    }
    list.or("no counter")?;
    reserved(f, value, 0xfffe << 48)
}

pub(super) fn bndcfgs(f: &mut fmt::Formatter<'_>, value: u64) -> fmt::Result {
    Named(&[(0, "EN"), (1, "BNDPRESERVE")]).write(f, value, "MPX off")?;
    if value >> 12 != 0 {
        write!(f, ", bound directory at {:#x}", value & !0xfff)?;
    }
    reserved(f, value, 0xffc)
}

pub(super) fn rtit_ctl(f: &mut fmt::Formatter<'_>, value: u64) -> fmt::Result {
    let mut list = List::new(f);
    const NAMES: [(u32, &str); 15] = [
        (0, "TraceEn"),
        (1, "CYCEn"),
        (2, "OS"),
        (3, "User"),
        (4, "PwrEvtEn"),
        (5, "FUPonPTW"),
        (6, "FabricEn"),
        (7, "CR3 filter"),
        (8, "ToPA"),
        (9, "MTCEn"),
        (10, "TSCEn"),
        (11, "DisRETC"),
        (12, "PTWEn"),
        (13, "BranchEn"),
        (56, "InjectPsbPmiOnEnable"),
    ];
    const FIELDS: [(u32, &str); 7] = [
        (14, "MTCFreq"),
        (19, "CYCThresh"),
        (24, "PSBFreq"),
        (32, "ADDR0_CFG"),
        (36, "ADDR1_CFG"),
        (40, "ADDR2_CFG"),
        (44, "ADDR3_CFG"),
    ];
    for (bit, name) in NAMES {
        if value >> bit & 1 == 1 {
            list.item(format_args!("{name}"))?;
        }
    }
    for (low, name) in FIELDS {
        if value >> low & 0xf != 0 {
            list.item(format_args!("{name} {}", value >> low & 0xf))?;
        }
    }
    list.or("no bit")?;
    // Revision 077 reserves 18, 23, [31:28], [55:48] and [63:57]; later ones define some of them.
    reserved(f, value, 0xfeff_0000_f084_0000)
}

pub(super) fn lbr_ctl(f: &mut fmt::Formatter<'_>, value: u64) -> fmt::Result {
    let named = Named(&[
        (0, "LBREn"),
        (1, "OS"),
        (2, "USR"),
        (3, "CALL_STACK"),
        (16, "COND"),
        (17, "NEAR_REL_JMP"),
        (18, "NEAR_IND_JMP"),
        (19, "NEAR_REL_CALL"),
        (20, "NEAR_IND_CALL"),
        (21, "NEAR_RET"),
        (22, "OTHER_BRANCH"),
    ]);
    named.write(f, value, "no bit")?;
    reserved(f, value, !named.mask())
}

pub(super) fn spec_ctrl(f: &mut fmt::Formatter<'_>, value: u64) -> fmt::Result {
    let named = Named(&[(0, "IBRS"), (1, "STIBP"), (2, "SSBD")]);
    named.write(f, value, "no bit")?;
    not_in_077(f, value, !named.mask())
}

pub(super) fn xss(f: &mut fmt::Formatter<'_>, value: u64) -> fmt::Result {
    let named = Named(&[(8, "PT"), (11, "CET_U"), (12, "CET_S"), (13, "HDC")]);
    named.write(f, value, "no component")?;
    not_in_077(f, value, !named.mask())
}

/// Bits that revision 077 does not name, in registers to which later revisions added some.
fn not_in_077(f: &mut fmt::Formatter<'_>, value: u64, mask: u64) -> fmt::Result {
    match value & mask {
        0 => Ok(()),
        bits => write!(f, "; not named in rev 077: {}", BitList(bits)),
    }
}
