//! Integer instructions, one literal vector each, in 64-bit mode. What a processor does with many more is tested by x86-emu-oracle.

use crate::world::Machine;
use x86_emu::Stop;
use x86_emu::flags::ARITHMETIC;
use x86_state::{Exception, Gpr, Rflags};

const CF: u64 = 1;
const PF: u64 = 1 << 2;
const AF: u64 = 1 << 4;
const ZF: u64 = 1 << 6;
const SF: u64 = 1 << 7;
const OF: u64 = 1 << 11;

/// RAX, RCX, RDX and the arithmetic flags, before and after.
type Registers = (u64, u64, u64, u64);

/// Name, code, before, after.
#[rustfmt::skip]
const VECTORS: &[(&str, &[u8], Registers, Registers)] = &[
    ("add al, cl: carry out, zero", &[0x00, 0xc8], (0x1_80, 0x80, 0, 0), (0x1_00, 0x80, 0, CF | PF | ZF | OF)),
    ("add eax, ecx clears the upper half", &[0x01, 0xc8], (!0, 2, 0, 0), (1, 2, 0, CF | AF)),
    ("add ah, cl", &[0x00, 0xcc], (0xff00, 1, 0, 0), (0, 1, 0, CF | PF | AF | ZF)),
    ("adc rax, rcx with carry", &[0x48, 0x11, 0xc8], (!0, 0, 0, CF), (0, 0, 0, CF | PF | AF | ZF)),
    ("sbb eax, eax spreads the carry", &[0x19, 0xc0], (5, 0, 0, CF), (0xffff_ffff, 0, 0, CF | PF | AF | SF)),
    ("sub ax, cx: overflow", &[0x66, 0x29, 0xc8], (0x8000, 1, 0, 0), (0x7fff, 1, 0, PF | AF | OF)),
    ("cmp leaves its operand", &[0x39, 0xc8], (1, 2, 0, 0), (1, 2, 0, CF | PF | AF | SF)),
    ("and clears carry and overflow", &[0x21, 0xc8], (0xf0, 0x0f, 0, CF | OF), (0, 0x0f, 0, PF | ZF)),
    ("inc leaves the carry", &[0xff, 0xc0], (0x7fff_ffff, 0, 0, CF), (0x8000_0000, 0, 0, CF | PF | AF | SF | OF)),
    ("dec leaves no carry", &[0xff, 0xc8], (0, 0, 0, 0), (0xffff_ffff, 0, 0, PF | AF | SF)),
    ("neg 0 has no borrow", &[0xf7, 0xd8], (0, 0, 0, CF), (0, 0, 0, PF | ZF)),
    ("not leaves all flags", &[0xf7, 0xd0], (0, 0, 0, CF | OF), (0xffff_ffff, 0, 0, CF | OF)),
    ("xadd of one register doubles it", &[0x0f, 0xc1, 0xc0], (3, 0, 0, 0), (6, 0, 0, PF)),
    ("cmpxchg ecx, edx: equal", &[0x0f, 0xb1, 0xd1], (5, 5, 7, 0), (5, 7, 7, PF | ZF)),
    ("cmpxchg ecx, edx: not equal", &[0x0f, 0xb1, 0xd1], (6, 5, 7, 0), (5, 5, 7, 0)),
    ("shl by 0 leaves all flags", &[0xd3, 0xe0], (1, 32, 0, CF | ZF | OF), (1, 32, 0, CF | ZF | OF)),
    ("shl by 0 clears the upper half", &[0xd3, 0xe0], (!0, 32, 0, 0), (0xffff_ffff, 32, 0, 0)),
    ("shl eax, 1: overflow is a change of sign", &[0xd1, 0xe0], (0x4000_0000, 0, 0, 0), (0x8000_0000, 0, 0, PF | SF | OF)),
    ("shl al, cl by more than the width", &[0xd2, 0xe0], (0xff, 9, 0, 0), (0, 9, 0, PF | ZF)),
    ("sar keeps the sign", &[0xd1, 0xf8], (0x8000_0001, 0, 0, 0), (0xc000_0000, 0, 0, CF | PF | SF)),
    ("rol al, 8 sets the carry", &[0xc0, 0xc0, 8], (0x81, 0, 0, 0), (0x81, 0, 0, CF)),
    ("rcl al, 9 changes nothing", &[0xc0, 0xd0, 9], (0x81, 0, 0, CF | OF), (0x81, 0, 0, CF)),
    ("rcr eax, 1 moves the carry in", &[0xd1, 0xd8], (1, 0, 0, CF), (0x8000_0000, 0, 0, CF | OF)),
    ("shld eax, ecx, 4", &[0x0f, 0xa4, 0xc8, 4], (0x1234_5678, 0x9abc_def0, 0, 0), (0x2345_6789, 0x9abc_def0, 0, CF | OF)),
    ("shrd rax, rcx, cl", &[0x48, 0x0f, 0xad, 0xc8], (0x10, 4, 0, 0), (0x4000_0000_0000_0001, 4, 0, OF)),
    ("mul cl: AX; ZF, undefined, is that of AL", &[0xf6, 0xe1], (0x10, 0x10, 0, 0), (0x100, 0x10, 0, CF | PF | ZF | OF)),
    ("mul rcx: RDX:RAX", &[0x48, 0xf7, 0xe1], (!0, !0, 0, 0), (1, !0, !1, CF | OF)),
    ("imul ecx: the upper half is a sign", &[0xf7, 0xe9], (0xffff_ffff, 1, 0, 0), (0xffff_ffff, 1, 0xffff_ffff, PF | SF)),
    ("imul eax, ecx, -2", &[0x6b, 0xc1, 0xfe], (0, 3, 0, 0), (0xffff_fffa, 3, 0, PF | SF)),
    ("div ecx", &[0xf7, 0xf1], (7, 2, 0, 0), (3, 2, 1, 0)),
    ("idiv cl: AH is the remainder, of the dividend's sign", &[0xf6, 0xf9], (0xfff9, 2, 0, 0), (0xfffd, 2, 0, 0)),
    ("bt eax, ecx takes the offset modulo 32", &[0x0f, 0xa3, 0xc8], (2, 33, 0, 0), (2, 33, 0, CF)),
    ("btr eax, 0", &[0x0f, 0xba, 0xf0, 0], (3, 0, 0, 0), (2, 0, 0, CF)),
    ("bsf of 0 leaves all 64 bits", &[0x0f, 0xbc, 0xc1], (!0, 0, 0, 0), (!0, 0, 0, ZF)),
    ("bsr eax, ecx", &[0x0f, 0xbd, 0xc1], (!0, 0x100, 0, ZF), (8, 0x100, 0, 0)),
    ("tzcnt of 0 is the width", &[0xf3, 0x0f, 0xbc, 0xc1], (0, 0, 0, 0), (32, 0, 0, CF)),
    ("lzcnt ax, cx", &[0x66, 0xf3, 0x0f, 0xbd, 0xc1], (0, 0x8000, 0, CF), (0, 0x8000, 0, ZF)),
    ("popcnt clears the others", &[0xf3, 0x0f, 0xb8, 0xc1], (0, 0xff, 0, CF | SF | OF), (8, 0xff, 0, 0)),
    ("andn eax, ecx, edx", &[0xc4, 0xe2, 0x70, 0xf2, 0xc2], (0, 0xf0, 0xff, 0), (0x0f, 0xf0, 0xff, PF)),
    ("pdep eax, ecx, edx", &[0xc4, 0xe2, 0x73, 0xf5, 0xc2], (0, 5, 0xf0f0, 0), (0x50, 5, 0xf0f0, 0)),
    ("pext eax, ecx, edx", &[0xc4, 0xe2, 0x72, 0xf5, 0xc2], (0, 0x1230, 0xf0f0, 0), (0x13, 0x1230, 0xf0f0, 0)),
    ("crc32 eax, cl", &[0xf2, 0x0f, 0x38, 0xf0, 0xc1], (0, 1, 0, 0), (0xf26b_8303, 1, 0, 0)),
    ("bswap eax", &[0x0f, 0xc8], (0x1122_3344, 0, 0, 0), (0x4433_2211, 0, 0, 0)),
    ("xchg eax, ecx", &[0x91], (1, 2, 0, 0), (2, 1, 0, 0)),
    ("nop leaves the upper half", &[0x90], (!0, 0, 0, 0), (!0, 0, 0, 0)),
    ("mov eax, eax clears the upper half", &[0x89, 0xc0], (!0, 0, 0, 0), (0xffff_ffff, 0, 0, 0)),
    ("movsx rax, cl", &[0x48, 0x0f, 0xbe, 0xc1], (0, 0x80, 0, 0), (!0x7f, 0x80, 0, 0)),
    ("movsxd rax, ecx", &[0x48, 0x63, 0xc1], (0, 0x8000_0000, 0, 0), (0xffff_ffff_8000_0000, 0x8000_0000, 0, 0)),
    ("lea eax, [ecx + edx*8 - 1]", &[0x67, 0x8d, 0x44, 0xd1, 0xff], (0, 0xffff_fff9, 1, 0), (0, 0xffff_fff9, 1, 0)),
    ("cmovz eax, ecx, not met, clears the upper half", &[0x0f, 0x44, 0xc1], (!0, 1, 0, 0), (0xffff_ffff, 1, 0, 0)),
    ("setl al: SF and OF differ", &[0x0f, 0x9c, 0xc0], (0, 0, 0, SF), (1, 0, 0, SF)),
    ("cdqe", &[0x48, 0x98], (0x8000_0000, 0, 0, 0), (0xffff_ffff_8000_0000, 0, 0, 0)),
    ("cqo", &[0x48, 0x99], (1 << 63, 0, 5, 0), (1 << 63, 0, !0, 0)),
    ("lahf", &[0x9f], (0, 0, 0, CF | ZF | OF), (0x4300, 0, 0, CF | ZF | OF)),
    ("sahf leaves OF", &[0x9e], (0xff00, 0, 0, OF), (0xff00, 0, 0, CF | PF | AF | ZF | SF | OF)),
    ("cmc", &[0xf5], (0, 0, 0, OF), (0, 0, 0, CF | OF)),
    ("endbr64", &[0xf3, 0x0f, 0x1e, 0xfa], (1, 2, 3, CF), (1, 2, 3, CF)),
    ("rdsspq rax without shadow stacks", &[0xf3, 0x48, 0x0f, 0x1e, 0xc8], (9, 0, 0, 0), (9, 0, 0, 0)),
];

fn machine((rax, rcx, rdx, flags): Registers) -> Machine {
    let mut machine = Machine::long64();
    let cpu = machine.cpu();
    cpu.gpr[Gpr::Rax] = rax;
    cpu.gpr[Gpr::Rcx] = rcx;
    cpu.gpr[Gpr::Rdx] = rdx;
    cpu.rflags = Rflags::from_bits_retain(flags | 2);
    machine
}

fn registers(machine: &mut Machine) -> Registers {
    let [rax, rcx, rdx] = [Gpr::Rax, Gpr::Rcx, Gpr::Rdx].map(|register| machine.gpr(register));
    (rax, rcx, rdx, (machine.rflags() & ARITHMETIC).bits())
}

#[test]
fn each_vector_gives_its_result() {
    for (name, code, before, after) in VECTORS {
        let mut machine = machine(*before);
        assert_eq!(machine.attempt(code), Ok(()), "{name}");
        assert_eq!(registers(&mut machine), *after, "{name}");
    }
}

fn exception(result: Result<(), Stop>) -> Option<Exception> {
    match result {
        Err(Stop::Raise(raised)) => Some(Exception(raised.event.vector)),
        _ => None,
    }
}

/// Name, code, registers before, the exception; registers stay.
const FAULTS: &[(&str, &[u8], Registers, Exception)] = &[
    ("div by 0", &[0xf7, 0xf1], (1, 0, 0, 0), Exception::DE),
    ("div: the quotient does not fit", &[0xf7, 0xf1], (0, 1, 1, 0), Exception::DE),
    ("idiv: the smallest by -1", &[0x48, 0xf7, 0xf9], (1 << 63, !0, !0, 0), Exception::DE),
    ("idiv: 128 bits by -1", &[0x48, 0xf7, 0xf9], (0, !0, 1 << 63, 0), Exception::DE),
    ("lock add with a register", &[0xf0, 0x01, 0xc8], (0, 0, 0, 0), Exception::UD),
    ("lock mov", &[0xf0, 0x89, 0x08], (0x1000, 0, 0, 0), Exception::UD),
    ("lock cmp", &[0xf0, 0x39, 0x08], (0x1000, 0, 0, 0), Exception::UD),
    ("lock bt", &[0xf0, 0x0f, 0xa3, 0x08], (0x1000, 0, 0, 0), Exception::UD),
    ("lea with a register", &[0x8d, 0xc0], (0, 0, 0, 0), Exception::UD),
    ("aaa in 64-bit mode", &[0x37], (0, 0, 0, 0), Exception::UD),
    ("cmpxchg16b that is not aligned", &[0x48, 0x0f, 0xc7, 0x08], (0x1008, 0, 0, 0), Exception::GP),
    ("a non-canonical address", &[0x8b, 0x08], (1 << 47, 0, 0, 0), Exception::GP),
    ("a page that is not mapped", &[0x8b, 0x08], (0x4000_0000, 0, 0, 0), Exception::PF),
    ("clflush of a page that is not mapped", &[0x0f, 0xae, 0x38], (0x4000_0000, 0, 0, 0), Exception::PF),
];

#[test]
fn each_fault_changes_nothing() {
    for (name, code, before, expected) in FAULTS {
        let mut machine = machine(*before);
        let result = machine.attempt(code);
        assert_eq!(exception(result), Some(*expected), "{name}");
        assert_eq!(registers(&mut machine), *before, "{name}");
    }
}

/// iced-x86 numbers SPL after BH: it must be RSP all the same.
#[test]
fn with_a_rex_prefix_the_fifth_byte_register_is_spl() {
    let mut machine = machine((0xff01, 1, 0, 0));
    machine.cpu().gpr[Gpr::Rsp] = 0x20;
    assert_eq!(machine.attempt(&[0x40, 0x00, 0xcc]), Ok(()), "add spl, cl");
    assert_eq!((machine.gpr(Gpr::Rsp), machine.gpr(Gpr::Rax)), (0x21, 0xff01));
}

#[test]
fn prefetch_of_an_unmapped_page_does_nothing() {
    let mut machine = machine((0x4000_0000, 0, 0, 0));
    assert_eq!(machine.attempt(&[0x0f, 0x18, 0x08]), Ok(()));
}

#[test]
fn bit_offsets_in_registers_reach_beyond_the_operand() {
    let mut machine = machine((0x1000, (-1_i64) as u64, 0, 0));
    assert_eq!(machine.attempt(&[0x48, 0x0f, 0xab, 0x08]), Ok(()), "bts [rax], rcx");
    assert_eq!(machine.u64(0xff8), 1 << 63);
}

#[test]
fn lock_add_to_memory() {
    let mut machine = machine((0x1000, 5, 0, 0));
    machine.set_u64(0x1000, 0xffff_ffff_0000_0001);
    assert_eq!(machine.attempt(&[0xf0, 0x01, 0x08]), Ok(()));
    assert_eq!(machine.u64(0x1000), 0xffff_ffff_0000_0006);
}

#[test]
fn cmpxchg16b_stores_both_halves() {
    let mut machine = machine((1, 4, 2, 0));
    machine.set_u64(0x1000, 1);
    machine.set_u64(0x1008, 2);
    machine.cpu().gpr[Gpr::Rbx] = 3;
    machine.cpu().gpr[Gpr::Rdi] = 0x1000;
    assert_eq!(machine.attempt(&[0xf0, 0x48, 0x0f, 0xc7, 0x0f]), Ok(()));
    assert_eq!((machine.u64(0x1000), machine.u64(0x1008)), (3, 4));
    assert!(machine.rflags().contains(Rflags::ZF));
}

#[test]
fn vex_is_undefined_in_real_mode() {
    let mut machine = Machine::real();
    assert_eq!(exception(machine.attempt(&[0xc4, 0xe2, 0x70, 0xf2, 0xc2])), Some(Exception::UD));
}
