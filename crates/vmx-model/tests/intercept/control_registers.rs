//! MOV CR, CLTS, LMSW and SMSW: masks, shadows, targets.

use crate::world::Want::{At, Exit, Gp, Instead, Normal, Ud};
use crate::world::{OPERAND, World, long, memory, on_both};
use vmx_model::Effect::{Nothing, Read, Write};
use vmx_model::insn::restrictions::{check_cr0, check_cr4};
use vmx_model::known::Operation;
use vmx_model::{Control as C, Field};
use x86_state::{Cr0, Cr4, Gpr, Instruction, Op, Operand, Size, VmxMsr, profiles};

fn to(number: u8, value: u64) -> Instruction {
    long(Op::MovToCr { number, source: Gpr::Rdx, value })
}

fn from(number: u8) -> Instruction {
    long(Op::MovFromCr { number, destination: Gpr::Rdx })
}

/// Registers, masks and shadows with every combination of three bits in one byte: bit 0 register, bit 1 mask, bit 2 shadow.
const REGISTER: u64 = 0b1010_1010;
const MASK: u64 = 0b1100_1100;
const SHADOW: u64 = 0b1111_0000;

fn masked(world: &mut World) {
    world.cpu.cr0 = Cr0::from_bits_retain(REGISTER);
    world.cpu.cr4 = Cr4::from_bits_retain(REGISTER);
    for (mask, shadow) in
        [(Field::CR0_GUEST_HOST_MASK, Field::CR0_READ_SHADOW), (Field::CR4_GUEST_HOST_MASK, Field::CR4_READ_SHADOW)]
    {
        world.set(mask, MASK);
        world.set(shadow, SHADOW);
    }
}

#[test]
fn mov_from_cr0_and_cr4_mix_register_and_shadow() {
    on_both(&[], |world| {
        masked(world);
        world.cpu.cr0 = Cr0::from_bits_retain(REGISTER | 1);
        for (number, wanted) in [(0, 0b1110_0011), (4, 0b1110_0010)] {
            assert_eq!(world.decide(&from(number)), Instead(Read(wanted)));
        }
        assert_eq!(world.decide(&from(2)), Normal);
        assert_eq!(world.decide(&from(3)), Normal);
    });
}

#[test]
fn mov_from_cr_with_every_bit_masked_reads_the_shadow() {
    on_both(&[], |world| {
        masked(world);
        world.set(Field::CR0_GUEST_HOST_MASK, u64::MAX);
        world.set(Field::CR0_READ_SHADOW, 0xffff_ffff_0000_0000);
        assert_eq!(world.decide(&from(0)), Instead(Read(0xffff_ffff_0000_0000)));
    });
}

/// It exits if a masked bit differs from the shadow; else masked bits stay as they are in the register.
#[test]
fn mov_to_cr0_and_cr4() {
    on_both(&[], |world| {
        masked(world);
        for (value, want) in [
            // Masked bits equal the shadow: 11..00.. ; the others are written, the masked ones stay 10..10..
            (0b1100_0000, Some(0b1000_1000)),
            (0b1111_0011, Some(0b1011_1011)),
            (0b0100_0000, None),
            (0b1100_0100, None),
            (REGISTER, None),
        ] {
            for number in [0, 4] {
                let wanted = match want {
                    Some(written) => Instead(Write(written)),
                    None => Exit(28, 0x200 | u64::from(number)),
                };
                assert_eq!(world.decide(&to(number, value)), wanted, "{value:#b}");
            }
        }
        world.cpl(3);
        world.cpu.cr0 |= Cr0::PE;
        assert_eq!(world.decide(&to(0, REGISTER)), Gp);
    });
}

#[test]
fn a_32_bit_operand_has_no_upper_half() {
    on_both(&[], |world| {
        world.mode_32();
        world.set(Field::CR0_GUEST_HOST_MASK, 1 << 63 | 1);
        world.set(Field::CR0_READ_SHADOW, 1);
        world.cpu.cr0 = Cr0::PE;
        let mov = Instruction::new(Op::MovToCr { number: 0, source: Gpr::Rax, value: 1 << 63 | 0x11 }, 3);
        assert_eq!(world.decide(&mov), Instead(Write(0x11)));
    });
}

#[test]
fn other_control_registers_are_ud() {
    on_both(&[C::CR3_LOAD_EXITING, C::CR3_STORE_EXITING], |world| {
        for number in [1, 5, 6, 7, 9, 15, 255] {
            assert_eq!(world.decide(&to(number, 0)), Ud);
            assert_eq!(world.decide(&from(number)), Ud);
        }
    });
}

/// Only the first n targets count, n being the CR3-target count.
#[test]
fn cr3_targets() {
    on_both(&[C::CR3_LOAD_EXITING], |world| {
        for (target, value) in [
            (Field::CR3_TARGET_VALUE_0, 0x1000),
            (Field::CR3_TARGET_VALUE_1, 0x2000),
            (Field::CR3_TARGET_VALUE_2, 0x3000),
            (Field::CR3_TARGET_VALUE_3, 0x4000),
        ] {
            world.set(target, value);
        }
        for count in [0, 1, 2, 3, 4, 5, 0xffff_ffff] {
            world.set(Field::CR3_TARGET_COUNT, count);
            for (n, value) in [(1, 0x1000), (2, 0x2000), (3, 0x3000), (4, 0x4000), (u64::MAX, 0x1001)] {
                let want = if n <= count { Normal } else { Exit(28, 0x203) };
                assert_eq!(world.decide(&to(3, value)), want, "{value:#x} with {count}");
            }
        }
    });
    on_both(&[], |world| assert_eq!(world.decide(&to(3, 0x1001)), Normal));
}

#[test]
fn clts_by_mask_and_shadow() {
    for (mask, shadow, want) in [
        (0, 0, Normal),
        (0, 8, Normal),
        (8, 0, Instead(Nothing)),
        (8, !8, Instead(Nothing)),
        (8, 8, Exit(28, 0x20)),
        (!8, 8, Normal),
    ] {
        on_both(&[], |world| {
            world.set(Field::CR0_GUEST_HOST_MASK, mask);
            world.set(Field::CR0_READ_SHADOW, shadow);
            assert_eq!(world.decide(&long(Op::Clts)), want, "{mask:#x} {shadow:#x}");
            world.cpl(3);
            let want = if mask == 0 { Normal } else { Gp };
            assert_eq!(world.decide(&long(Op::Clts)), want, "at CPL 3");
        });
    }
}

/// LMSW never clears PE, so only a PE of 1 can differ from the shadow.
#[test]
fn lmsw_by_mask_and_shadow() {
    for (name, mask, shadow, source, cr0, want) in [
        ("no mask", 0, 0, 0xffff, 1, Normal),
        ("mask above bit 3", !0xf, 0, 0xffff, 1, Normal),
        ("PE masked, source clears it", 1, 1, 0, 1, Instead(Write(1))),
        ("PE masked and 0 in the shadow, source sets it", 1, 0, 1, 1, Exit(28, 0x0001_0030)),
        ("PE masked and 0 in the shadow, source 0", 1, 0, 0, 1, Instead(Write(1))),
        ("PE masked and 1 in the shadow, source sets it", 1, 1, 1, 0, Instead(Write(0))),
        ("TS differs", 8, 8, 7, 1, Exit(28, 0x0007_0030)),
        ("TS agrees", 8, 8, 0xa, 1, Instead(Write(3))),
        ("TS agrees, and stays 1", 8, 0, 0, 9, Instead(Write(9))),
        ("bits above 3 are not looked at", !0xf, 0, 0xfff0, 1, Normal),
        ("PE not masked is set, never cleared", 8, 0, 1, 0, Instead(Write(1))),
        ("PE not masked is never cleared", 8, 0, 0, 0x31, Instead(Write(0x31))),
        ("all masked", u64::MAX, 0xf, 0xf, 0x31, Instead(Write(0x31))),
    ] {
        on_both(&[], |world| {
            world.cpu.cr0 = Cr0::from_bits_retain(cr0);
            world.set(Field::CR0_GUEST_HOST_MASK, mask);
            world.set(Field::CR0_READ_SHADOW, shadow);
            let lmsw = long(Op::Lmsw { source }).with_operand(Operand::Register(Gpr::Rax));
            assert_eq!(world.decide(&lmsw), want, "{name}");
        });
    }
}

#[test]
fn lmsw_from_memory_has_a_linear_address() {
    on_both(&[], |world| {
        world.set(Field::CR0_GUEST_HOST_MASK, 1);
        world.set(Field::CR0_READ_SHADOW, 0);
        let lmsw = long(Op::Lmsw { source: 1 }).with_operand(memory(OPERAND));
        assert_eq!(world.decide(&lmsw), At(28, 0x0001_0070, None, OPERAND.linear.0));
        world.mode_32();
        assert_eq!(world.decide(&lmsw), At(28, 0x0001_0070, None, 0x1234_5678));
        world.cpl(2);
        assert_eq!(world.decide(&lmsw), Gp);
    });
}

/// 25.3, SMSW, note: memory and 16-bit registers take 16 bits, 32-bit registers 32.
#[test]
fn smsw_reads_as_much_as_it_stores() {
    let register = Operand::Register(Gpr::Rax);
    for (size, operand, wanted) in [
        (Size::Bits64, register, 0xffff_ffff_8005_0031),
        (Size::Bits32, register, 0x8005_0031),
        (Size::Bits16, register, 0x0031),
        (Size::Bits64, memory(OPERAND), 0x0031),
    ] {
        on_both(&[], |world| {
            world.cpu.cr0 = Cr0::from_bits_retain(0x8005_0033);
            world.set(Field::CR0_GUEST_HOST_MASK, 0xffff_ffff_0000_0002);
            world.set(Field::CR0_READ_SHADOW, 0xffff_ffff_0000_0000);
            let mut smsw = long(Op::Smsw).with_operand(operand);
            smsw.operand_size = size;
            assert_eq!(world.decide(&smsw), Instead(Read(wanted)), "{size:?}");
            world.cpl(3);
            assert_eq!(world.decide(&smsw), Instead(Read(wanted)), "{size:?} at CPL 3");
            world.cpu.cr4 |= Cr4::UMIP;
            assert_eq!(world.decide(&smsw), Gp);
        });
    }
}

#[test]
fn values_that_vmx_operation_does_not_support() {
    let mut profile = profiles::MAX;
    for (msr, value) in [
        (VmxMsr::Cr0Fixed0, 0x8000_0021),
        (VmxMsr::Cr0Fixed1, 0xffff_ffff),
        (VmxMsr::Cr4Fixed0, 0x2000),
        (VmxMsr::Cr4Fixed1, 0x3767ff),
    ] {
        profile = profile.with_vmx(msr, Some(value));
    }
    let mut world = World::new(false, &[]);
    let cr0 = |world: &World, value| check_cr0(&world.vmx, &profile, Cr0::from_bits_retain(value)).is_ok();
    let cr4 = |world: &World, value| check_cr4(&world.vmx, &world.cpu, &profile, Cr4::from_bits_retain(value)).is_ok();
    assert!(cr0(&world, 0x8000_0021) && !cr0(&world, 0x21) && !cr0(&world, 0x8000_0020) && !cr0(&world, 0x8000_0001));
    assert!(!cr0(&world, 0x1_8000_0021));
    assert!(cr4(&world, 0x2000) && !cr4(&world, 0) && !cr4(&world, 0x402000));

    world.on(C::UNRESTRICTED_GUEST);
    assert!(cr0(&world, 0x20) && cr0(&world, 0x21) && !cr0(&world, 0x8000_0001), "only PE and PG are free");
    world.vmx.state.operation = Operation::Root;
    assert!(!cr0(&world, 0x20), "the control is of non-root operation");
    world.vmx.state.operation = Operation::Outside;
    assert!(cr0(&world, 0) && cr4(&world, 0));
}
