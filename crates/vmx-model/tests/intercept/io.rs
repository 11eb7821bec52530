//! IN, OUT, INS and OUTS: the two controls and the bitmaps.

use crate::world::Want::{At, Exit, Normal};
use crate::world::{SIMPLE, World, long, memory, on_both};
use vmx_model::{Control as C, Field};
use x86_state::{Gpr, Instruction, Op, Size};

const A: u64 = 0xa000;
const B: u64 = 0xb000;

fn input(port: u16, size_bytes: u8) -> Instruction {
    long(Op::Io { port, size_bytes, input: true, immediate: false })
}

fn exit(port: u16, size_bytes: u8) -> crate::world::Want {
    Exit(30, u64::from(port) << 16 | 8 | u64::from(size_bytes - 1))
}

/// Bitmaps with a bit for every port in `ports`.
fn with_bitmaps(world: &mut World, ports: &[u64]) {
    world.set(Field::IO_BITMAP_A_ADDRESS, A);
    world.set(Field::IO_BITMAP_B_ADDRESS, B);
    world.memory.zero(A, 4096);
    world.memory.zero(B, 4096);
    for port in ports {
        world.memory.flip(if port >> 15 == 0 { A } else { B }, port & 0x7fff);
    }
}

#[test]
fn unconditional_io_exiting() {
    on_both(&[C::UNCONDITIONAL_IO_EXITING], |world| {
        for (port, size) in [(0, 1), (0x80, 2), (0xffff, 4)] {
            assert_eq!(world.decide(&input(port, size)), exit(port, size));
        }
        let out = long(Op::Io { port: 0xeb, size_bytes: 1, input: false, immediate: true });
        assert_eq!(world.decide(&out), Exit(30, 0x00eb_0040));
    });
}

#[test]
fn every_port_of_the_access_is_looked_up() {
    for controls in [&[C::USE_IO_BITMAPS][..], &[C::USE_IO_BITMAPS, C::UNCONDITIONAL_IO_EXITING]] {
        on_both(controls, |world| {
            with_bitmaps(world, &[0x63, 0x7fff, 0x8000, 0x9003]);
            for (port, size, exits) in [
                (0x60, 1, false),
                (0x60, 2, false),
                (0x60, 4, true),
                (0x62, 1, false),
                (0x62, 2, true),
                (0x63, 1, true),
                (0x64, 4, false),
                (0x7ffe, 1, false),
                (0x7ffe, 2, true),
                // From bitmap A into bitmap B.
                (0x7ffd, 4, true),
                (0x8000, 1, true),
                (0x8001, 4, false),
                (0x9000, 4, true),
                (0x1003, 1, false),
                (0xffff, 1, false),
                (0xfffc, 4, false),
            ] {
                let want = if exits { exit(port, size) } else { Normal };
                assert_eq!(world.decide(&input(port, size)), want, "{port:#x} {size}");
            }
        });
    }
}

#[test]
fn an_access_from_bitmap_a_into_b_looks_at_both() {
    on_both(&[C::USE_IO_BITMAPS], |world| {
        with_bitmaps(world, &[0x8001]);
        assert_eq!(world.decide(&input(0x7fff, 2)), Normal);
        assert_eq!(world.decide(&input(0x7fff, 4)), exit(0x7fff, 4));
    });
}

/// 25.1.3: an access that wraps around port FFFF exits, whatever the bitmaps say.
#[test]
fn wrapping_around_exits() {
    on_both(&[C::USE_IO_BITMAPS], |world| {
        with_bitmaps(world, &[]);
        for (port, size, wraps) in
            [(0xffff, 1, false), (0xffff, 2, true), (0xfffe, 2, false), (0xfffd, 4, true), (0xfffc, 4, false)]
        {
            let want = if wraps { exit(port, size) } else { Normal };
            assert_eq!(world.decide(&input(port, size)), want, "{port:#x} {size}");
        }
    });
}

#[test]
fn string_instructions_report_their_operand() {
    on_both(&[C::UNCONDITIONAL_IO_EXITING], |world| {
        world.cpu.gpr[Gpr::Rcx] = 1;
        let string = |input, repeated| {
            long(Op::StringIo { port: 0x1f0, size_bytes: 2, input, repeated }).with_operand(memory(SIMPLE))
        };
        let linear = SIMPLE.linear.0;
        assert_eq!(world.decide(&string(true, true)), At(30, 0x01f0_0039, Some(0x100), linear));
        assert_eq!(world.decide(&string(false, false)), At(30, 0x01f0_0011, Some(0x1_8100), linear));
    });
}

/// No port is accessed when the count is 0; the count has the address size.
#[test]
fn a_count_of_zero_does_not_exit() {
    on_both(&[C::UNCONDITIONAL_IO_EXITING], |world| {
        for (count, size, exits) in [
            (0, Size::Bits64, false),
            (1 << 32, Size::Bits64, true),
            (1 << 32, Size::Bits32, false),
            (1 << 16, Size::Bits32, true),
            (1 << 16, Size::Bits16, false),
        ] {
            world.cpu.gpr[Gpr::Rcx] = count;
            for repeated in [false, true] {
                let mut ins = long(Op::StringIo { port: 0, size_bytes: 1, input: true, repeated });
                ins.address_size = size;
                assert_eq!(world.decide(&ins) != Normal, exits || !repeated, "{count:#x} {size:?} {repeated}");
            }
        }
    });
}
