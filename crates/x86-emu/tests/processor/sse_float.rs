//! Floating point of SSE and SSE2, literally: NaNs, denormals, rounding, exceptions. What a processor does with many more operands is
//! tested by x86-emu-oracle.

use crate::world::{CODE, Machine};
use x86_emu::Stop;
use x86_emu::flags::ARITHMETIC;
use x86_state::{Cr4, Exception, Gpr, Rflags};

const IE: u32 = 1;
const DE: u32 = 2;
const ZE: u32 = 4;
const OE: u32 = 8;
const UE: u32 = 0x10;
const PE: u32 = 0x20;
/// MXCSR after reset.
const MASKED: u32 = 0x1f80;
const DAZ: u32 = 0x40;
const DOWN: u32 = 1 << 13;
const UP: u32 = 2 << 13;
const TRUNCATE: u32 = 3 << 13;
const FTZ: u32 = 1 << 15;

const ADDSS: &[u8] = &[0xf3, 0x0f, 0x58, 0xc1];
const SUBSS: &[u8] = &[0xf3, 0x0f, 0x5c, 0xc1];
const MULSS: &[u8] = &[0xf3, 0x0f, 0x59, 0xc1];
const DIVSS: &[u8] = &[0xf3, 0x0f, 0x5e, 0xc1];
const SQRTSS: &[u8] = &[0xf3, 0x0f, 0x51, 0xc1];
const MINSS: &[u8] = &[0xf3, 0x0f, 0x5d, 0xc1];
const MAXSS: &[u8] = &[0xf3, 0x0f, 0x5f, 0xc1];
const RCPSS: &[u8] = &[0xf3, 0x0f, 0x53, 0xc1];
const RSQRTSS: &[u8] = &[0xf3, 0x0f, 0x52, 0xc1];
const CMPLTSS: &[u8] = &[0xf3, 0x0f, 0xc2, 0xc1, 1];
const CMPNEQSS: &[u8] = &[0xf3, 0x0f, 0xc2, 0xc1, 4];

const ONE: u32 = 0x3f80_0000;
const TWO: u32 = 0x4000_0000;
const THREE: u32 = 0x4040_0000;
const INFINITY: u32 = 0x7f80_0000;
const LARGEST: u32 = 0x7f7f_ffff;
const SMALLEST: u32 = 0x0080_0000;
const INDEFINITE: u32 = 0xffc0_0000;
const MINUS: u32 = 0x8000_0000;

/// Name, code, MXCSR, operands XMM0 and XMM1, result, flags.
type Vector = (&'static str, &'static [u8], u32, u32, u32, u32, u32);

#[rustfmt::skip]
const VECTORS: &[Vector] = &[
    ("1 + 2", ADDSS, MASKED, ONE, TWO, THREE, 0),
    ("1 / 3 to nearest", DIVSS, MASKED, ONE, THREE, 0x3eaa_aaab, PE),
    ("1 / 3 down", DIVSS, MASKED | DOWN, ONE, THREE, 0x3eaa_aaaa, PE),
    ("1 / 3 up", DIVSS, MASKED | UP, ONE, THREE, 0x3eaa_aaab, PE),
    ("1 / 3 truncated", DIVSS, MASKED | TRUNCATE, ONE, THREE, 0x3eaa_aaaa, PE),
    ("1 - 1 is +0", SUBSS, MASKED, ONE, ONE, 0, 0),
    ("1 - 1 down is -0", SUBSS, MASKED | DOWN, ONE, ONE, MINUS, 0),
    ("inf - inf", SUBSS, MASKED, INFINITY, INFINITY, INDEFINITE, IE),
    ("inf + inf", ADDSS, MASKED, INFINITY, INFINITY, INFINITY, 0),
    ("0 * inf", MULSS, MASKED, 0, INFINITY, INDEFINITE, IE),
    ("0 / 0", DIVSS, MASKED, 0, 0, INDEFINITE, IE),
    ("-1 / 0", DIVSS, MASKED, ONE | MINUS, 0, INFINITY | MINUS, ZE),
    ("inf / 0 is no division by zero", DIVSS, MASKED, INFINITY, 0, INFINITY, 0),
    ("a denormal / 0: the division by zero comes alone", DIVSS, MASKED, 1, 0, INFINITY, ZE),
    ("the first of two NaNs comes out", ADDSS, MASKED, 0x7fc0_0001, 0x7fc0_0002, 0x7fc0_0001, 0),
    ("a signaling NaN is made quiet", ADDSS, MASKED, ONE, 0xff80_0002, 0xffc0_0002, IE),
    ("the first NaN comes out, the second signals", ADDSS, MASKED, 0x7fc0_0001, 0x7f80_0002, 0x7fc0_0001, IE),
    ("a NaN hides a denormal", ADDSS, MASKED, 1, 0x7fc0_0001, 0x7fc0_0001, 0),
    ("a denormal operand", ADDSS, MASKED, ONE, 1, ONE, DE | PE),
    ("denormals as zeros", ADDSS, MASKED | DAZ, ONE, 1, ONE, 0),
    ("overflow to nearest", MULSS, MASKED, LARGEST, TWO, INFINITY, OE | PE),
    ("overflow truncated", MULSS, MASKED | TRUNCATE, LARGEST, TWO, LARGEST, OE | PE),
    ("an exact denormal does not underflow", DIVSS, MASKED, SMALLEST, TWO, 0x0040_0000, 0),
    ("an inexact denormal underflows", DIVSS, MASKED, SMALLEST, THREE, 0x002a_aaab, UE | PE),
    ("an exact denormal is flushed", DIVSS, MASKED | FTZ, SMALLEST | MINUS, TWO, MINUS, UE | PE),
    // The product is (1 - 2^-24) * 2^-126, which 24 bits hold: tiny, though the result is the smallest normal number.
    ("tiny, and rounded to the smallest normal", MULSS, MASKED | UP, 0x3fff_ffff, 0x0040_0000, SMALLEST, DE | UE | PE),
    // The product is (1 - 2^-26) * 2^-126: with more exponents it is rounded to the smallest normal number as well.
    ("not tiny once rounded with more exponents", MULSS, MASKED, 0x3f80_0400, 0x007f_fc00, SMALLEST, DE | PE),
    ("the root of 2", SQRTSS, MASKED, 0, TWO, 0x3fb5_04f3, PE),
    ("the root of a denormal", SQRTSS, MASKED, 0, 2, 0x1a80_0000, DE),
    ("the root of -0", SQRTSS, MASKED, 0, MINUS, MINUS, 0),
    ("the root of -1", SQRTSS, MASKED, 0, ONE | MINUS, INDEFINITE, IE),
    ("min of 0 and -0 is the second", MINSS, MASKED, 0, MINUS, MINUS, 0),
    ("min of -0 and 0 is the second", MINSS, MASKED, MINUS, 0, 0, 0),
    ("max with a NaN is the second, unchanged", MAXSS, MASKED, ONE, 0x7f80_0001, 0x7f80_0001, IE),
    ("max of a NaN is the second", MAXSS, MASKED, 0x7fc0_0000, ONE, ONE, IE),
    ("cmpltss of a quiet NaN is invalid", CMPLTSS, MASKED, ONE, 0x7fc0_0000, 0, IE),
    ("cmpneqss of a quiet NaN is not", CMPNEQSS, MASKED, ONE, 0x7fc0_0000, u32::MAX, 0),
    ("1 < 2", CMPLTSS, MASKED, ONE, TWO, u32::MAX, 0),
    ("1 / 2, about", RCPSS, MASKED, 0, TWO, 0x3f00_0000, 0),
    ("1 / 3, about", RCPSS, MASKED, 0, THREE, 0x3eaa_a800, 0),
    ("1 / a denormal", RCPSS, MASKED, 0, 1 | MINUS, INFINITY | MINUS, 0),
    ("1 / the largest number is flushed", RCPSS, MASKED, 0, LARGEST, 0, 0),
    ("1 / the root of 4, about", RSQRTSS, MASKED, 0, 0x4080_0000, 0x3f00_0000, 0),
    ("1 / the root of -1", RSQRTSS, MASKED, 0, ONE | MINUS, INDEFINITE, 0),
];

fn machine(mxcsr: u32, first: u128, second: u128) -> Machine {
    let mut machine = Machine::long64();
    machine.cpu().cr4 |= Cr4::OSXMMEXCPT;
    let state = &mut machine.processor.state;
    state.mxcsr = mxcsr;
    state.xmm[0] = first;
    state.xmm[1] = second;
    machine
}

fn exception(result: Result<(), Stop>) -> Option<Exception> {
    match result {
        Err(Stop::Raise(raised)) => Some(Exception(raised.event.vector)),
        _ => None,
    }
}

#[test]
fn each_vector_gives_its_result_and_flags() {
    const UPPER: u128 = 0x1111_2222_3333_4444_5555_6666 << 32;
    for (name, code, mxcsr, first, second, result, flags) in VECTORS {
        let mut machine = machine(*mxcsr, UPPER | u128::from(*first), (*second).into());
        assert_eq!(machine.attempt(code), Ok(()), "{name}");
        let state = &machine.processor.state;
        let found = (state.xmm[0] as u32, state.mxcsr & 0x3f);
        assert_eq!(found, (*result, *flags), "{name}: {:#x}, flags {:#x}", found.0, found.1);
        assert_eq!(state.xmm[0] >> 32 << 32, UPPER, "{name}: the upper lanes stay");
    }
}

#[test]
fn flags_accumulate() {
    let mut machine = machine(MASKED | ZE, ONE.into(), THREE.into());
    assert_eq!(machine.attempt(DIVSS), Ok(()));
    assert_eq!(machine.processor.state.mxcsr, MASKED | ZE | PE);
}

#[test]
fn an_exception_that_is_not_masked_leaves_the_operands() {
    let mut machine = machine(MASKED & !(ZE << 7), ONE.into(), 0);
    assert_eq!(exception(machine.attempt(DIVSS)), Some(Exception::XM));
    let state = &machine.processor.state;
    assert_eq!((state.xmm[0], state.mxcsr, state.cpu.rip), (ONE.into(), MASKED & !(ZE << 7) | ZE, CODE));
}

#[test]
fn without_osxmmexcpt_it_is_undefined() {
    let mut machine = machine(MASKED & !(ZE << 7), ONE.into(), 0);
    machine.cpu().cr4.remove(Cr4::OSXMMEXCPT);
    assert_eq!(exception(machine.attempt(DIVSS)), Some(Exception::UD));
    assert_eq!(machine.processor.state.mxcsr & 0x3f, ZE);
}

/// Lane 0 divides by zero, which is not masked; lane 1 is inexact, which would be told after it.
#[test]
fn exceptions_before_the_computation_come_alone() {
    let lanes = |low: u32, high: u32| u128::from(high) << 32 | u128::from(low);
    let mut machine = machine(MASKED & !(ZE << 7), lanes(ONE, ONE), lanes(0, THREE));
    assert_eq!(exception(machine.attempt(&[0x0f, 0x5e, 0xc1])), Some(Exception::XM));
    assert_eq!(machine.processor.state.mxcsr & 0x3f, IE | ZE, "lanes 2 and 3 are 0 / 0");
}

#[test]
fn an_exact_denormal_underflows_if_that_is_not_masked() {
    let mut machine = machine(MASKED & !(UE << 7), SMALLEST.into(), TWO.into());
    assert_eq!(exception(machine.attempt(DIVSS)), Some(Exception::XM));
    assert_eq!(machine.processor.state.mxcsr & 0x3f, UE);
}

#[test]
fn comiss_tells_the_order_and_clears_the_other_flags() {
    let rows = [
        (TWO, ONE, Rflags::empty(), 0),
        (ONE, TWO, Rflags::CF, 0),
        (ONE, ONE, Rflags::ZF, 0),
        (ONE, 0x7fc0_0000, Rflags::ZF | Rflags::PF | Rflags::CF, IE),
    ];
    for (first, second, flags, exceptions) in rows {
        let mut machine = machine(MASKED, first.into(), second.into());
        machine.cpu().rflags |= ARITHMETIC;
        assert_eq!(machine.attempt(&[0x0f, 0x2f, 0xc1]), Ok(()));
        assert_eq!((machine.rflags() & ARITHMETIC, machine.processor.state.mxcsr & 0x3f), (flags, exceptions));
    }
}

#[test]
fn conversions_that_do_not_fit_give_the_integer_indefinite() {
    let rows = [
        (&[0xf3, 0x0f, 0x2d, 0xc1][..], 0x4f00_0000, 0x8000_0000, IE),
        (&[0xf3, 0x48, 0x0f, 0x2d, 0xc1], 0x4f00_0000, 0x8000_0000, 0),
        (&[0xf3, 0x48, 0x0f, 0x2d, 0xc1], INFINITY, 1 << 63, IE),
        (&[0xf3, 0x0f, 0x2d, 0xc1], 0x3fc0_0000, 2, PE),
        (&[0xf3, 0x0f, 0x2c, 0xc1], 0x3fc0_0000, 1, PE),
        (&[0xf3, 0x0f, 0x2d, 0xc1], 0xbfc0_0000, 0xffff_fffe, PE),
        (&[0xf3, 0x0f, 0x2d, 0xc1], 1, 0, PE),
    ];
    for (code, source, expected, flags) in rows {
        let mut machine = machine(MASKED, 0, u128::from(source));
        assert_eq!(machine.attempt(code), Ok(()));
        let found = (machine.gpr(Gpr::Rax), machine.processor.state.mxcsr & 0x3f);
        assert_eq!(found, (expected, flags), "{code:02x?} {source:#x}");
    }
}

#[test]
fn conversions_between_formats_move_the_fraction_of_a_nan() {
    let mut machine = machine(MASKED, 0, 0x7f80_0001);
    assert_eq!(machine.attempt(&[0xf3, 0x0f, 0x5a, 0xc1]), Ok(()), "cvtss2sd");
    assert_eq!(machine.processor.state.xmm[0], 0x7ff8_0000_2000_0000);
    assert_eq!(machine.attempt(&[0xf2, 0x0f, 0x5a, 0xc0]), Ok(()), "cvtsd2ss");
    assert_eq!(machine.processor.state.xmm[0], 0x7ff8_0000_7fc0_0001);
    assert_eq!(machine.processor.state.mxcsr & 0x3f, IE);
}
