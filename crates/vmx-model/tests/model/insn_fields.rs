//! What do VMREAD and VMWRITE move? Widths, modes, access types, and which fields there are; ordinary and shadow VMCSs.

use crate::insn_support::{CURRENT, MEMORY, SHADOW, VMREAD_BITMAP, VMWRITE_BITMAP, World};
use vmx_model::errors::InstructionError;
use vmx_model::fields::FieldType;
use vmx_model::insn::{Outcome, field_exists, region};
use vmx_model::{Control, Field, FieldEncoding};
use x86_state::profile::{Knobs, VmcsWriting};
use x86_state::{Gpr, Hpa, Instruction, Op, Operand, PhysMemory, VmxMsr, profiles};

const UNSUPPORTED: Outcome<&str> = Outcome::FailValid(InstructionError(12));
const READ_ONLY: Outcome<&str> = Outcome::FailValid(InstructionError(13));

/// Every digit tells its place.
const PATTERN: u64 = 0x8877_6655_4433_2211;
/// What was in the field or the destination before.
const OLD: u64 = 0xfedc_ba98_7654_3210;

/// One field of each width, and the high half of the 64-bit one.
const W16: u64 = 0x0800;
const W64: u64 = 0x2010;
const W64_HIGH: u64 = 0x2011;
const W32: u64 = 0x4800;
const NATURAL: u64 = 0x681e;

fn field(encoding: u64) -> Field {
    FieldEncoding(encoding as u32).field().unwrap()
}

fn world(long: bool) -> World {
    let mut world = World::root(Op::Vmxoff);
    if !long {
        world.legacy();
    }
    world
}

/// 64-bit mode or not, encoding, what VMREAD gives of a field that holds the pattern.
const READS: [(bool, u64, u64); 10] = [
    (true, W16, 0x2211),
    (true, W64, PATTERN),
    (true, W64_HIGH, 0x8877_6655),
    (true, W32, 0x4433_2211),
    (true, NATURAL, PATTERN),
    (false, W16, 0x2211),
    (false, W64, 0x4433_2211),
    (false, W64_HIGH, 0x8877_6655),
    (false, W32, 0x4433_2211),
    (false, NATURAL, 0x4433_2211),
];

#[test]
fn vmread_fills_a_register_of_the_mode() {
    for (long, encoding, value) in READS {
        let mut world = world(long);
        world.vmx.vmcs.set(field(encoding), PATTERN);
        world.cpu.gpr[Gpr::Rax] = OLD;
        assert_eq!(world.vmread(encoding), Outcome::Succeed, "{encoding:#x}");
        assert_eq!(world.cpu.gpr[Gpr::Rax], value, "{encoding:#x}, 64-bit mode {long}");
    }
}

#[test]
fn vmread_fills_4_bytes_of_memory_or_8_in_64_bit_mode() {
    for (long, encoding, value) in READS {
        let mut world = world(long);
        world.vmx.vmcs.set(field(encoding), PATTERN);
        world.cpu.gpr[Gpr::Rbx] = encoding;
        world.instruction = Instruction::new(Op::Vmread { register: Gpr::Rbx }, 3).with_operand(MEMORY);
        assert_eq!(world.run(), Outcome::Succeed);
        let bytes = value.to_le_bytes();
        let expected = if long { &bytes[..] } else { &bytes[..4] };
        assert_eq!(world.operands.written.as_deref(), Some(expected), "{encoding:#x}");
        assert_eq!(world.cpu.gpr[Gpr::Rax], 0);
    }
}

/// 64-bit mode or not, encoding, what a field that held `OLD` holds after VMWRITE of the pattern.
const WRITES: [(bool, u64, u64); 10] = [
    (true, W16, 0x2211),
    (true, W64, PATTERN),
    (true, W64_HIGH, 0x4433_2211_7654_3210),
    (true, W32, 0x4433_2211),
    (true, NATURAL, PATTERN),
    (false, W16, 0x2211),
    (false, W64, 0x4433_2211),
    (false, W64_HIGH, 0x4433_2211_7654_3210),
    (false, W32, 0x4433_2211),
    (false, NATURAL, 0x4433_2211),
];

#[test]
fn vmwrite_takes_a_register_of_the_mode() {
    for (long, encoding, value) in WRITES {
        let mut world = world(long);
        world.vmx.vmcs.set(field(encoding), OLD);
        assert_eq!(world.vmwrite(encoding, PATTERN), Outcome::Succeed, "{encoding:#x}");
        assert_eq!(world.vmx.vmcs.get(field(encoding)), value, "{encoding:#x}, 64-bit mode {long}");
    }
}

#[test]
fn vmwrite_takes_4_bytes_of_memory_or_8_in_64_bit_mode() {
    for (long, encoding, value) in WRITES {
        let mut world = world(long);
        world.vmx.vmcs.set(field(encoding), OLD);
        world.cpu.gpr[Gpr::Rbx] = encoding;
        world.set_descriptor(PATTERN, OLD);
        world.instruction = Instruction::new(Op::Vmwrite { register: Gpr::Rbx }, 3).with_operand(MEMORY);
        assert_eq!(world.run(), Outcome::Succeed);
        assert_eq!(world.operands.reads, [if long { 8 } else { 4 }]);
        assert_eq!(world.vmx.vmcs.get(field(encoding)), value, "{encoding:#x}, 64-bit mode {long}");
    }
}

#[test]
fn the_upper_half_of_the_encoding_counts_in_64_bit_mode_only() {
    for (long, encoding, supported) in [
        (true, NATURAL, true),
        (true, NATURAL | 1 << 32, false),
        (true, NATURAL | 1 << 63, false),
        (false, NATURAL | 1 << 32, true),
    ] {
        let expected = if supported { Outcome::Succeed } else { UNSUPPORTED };
        assert_eq!(world(long).vmread(encoding), expected, "{encoding:#x}, 64-bit mode {long}");
        assert_eq!(world(long).vmwrite(encoding, 0), expected, "{encoding:#x}, 64-bit mode {long}");
    }
}

#[test]
fn b_70_encodings_without_a_field_fail_with_12() {
    for encoding in [
        // High access of a 16-bit, a 32-bit and a natural-width field; bit 12; bit 15; an index that no field has; all ones.
        0x0801,
        0x4801,
        0x681f,
        0x1800,
        0x8800,
        0x6bfe,
        0xffff_ffff,
    ] {
        let mut world = world(true);
        world.cpu.gpr[Gpr::Rax] = OLD;
        assert_eq!(world.vmread(encoding), UNSUPPORTED, "{encoding:#x}");
        assert_eq!(world.cpu.gpr[Gpr::Rax], OLD);
        assert_eq!(world.error(), 12);
        assert_eq!(world.vmwrite(encoding, 0), UNSUPPORTED, "{encoding:#x}");
    }
}

#[test]
fn b_70_no_current_vmcs_is_vmfailinvalid_for_any_encoding() {
    for encoding in [NATURAL, 0xffff_ffff, 0x4402] {
        let mut world = world(true);
        world.vmx.state.current_vmcs = None;
        assert_eq!(world.vmread(encoding), Outcome::FailInvalid);
        assert_eq!(world.vmwrite(encoding, 0), Outcome::FailInvalid);
    }
}

#[test]
fn b_70_exit_information_is_read_only_without_vmx_misc_29() {
    let fields: Vec<Field> = Field::all().filter(|field| field_exists(&profiles::MAX, *field)).collect();
    for writable in [true, false] {
        for field in &fields {
            let mut world = world(true);
            if !writable {
                world.lacks(VmxMsr::Misc, 1 << 29);
            }
            let encoding = u64::from(field.encoding().0);
            let refused = field.row().kind == FieldType::ReadOnly && !writable;
            assert_eq!(world.vmread(encoding), Outcome::Succeed, "{field:?}");
            assert_eq!(world.vmwrite(encoding, 1), if refused { READ_ONLY } else { Outcome::Succeed }, "{field:?}");
        }
    }
}

#[test]
fn fields_exist_with_the_controls_that_use_them() {
    for (encoding, old, new) in [
        // VPID, EPT pointer, VMREAD bitmap, PML address, tertiary controls.
        (0x0000, &profiles::PENRYN, &profiles::WESTMERE),
        (0x201a, &profiles::PENRYN, &profiles::WESTMERE),
        (0x2026, &profiles::IVY_BRIDGE, &profiles::HASWELL),
        (0x200e, &profiles::HASWELL_EP, &profiles::BROADWELL_EP),
        (0x2034, &profiles::SKYLAKE_SP, &profiles::MAX),
    ] {
        let mut world = world(true);
        world.profile = *new;
        assert_eq!(world.vmread(encoding), Outcome::Succeed, "{encoding:#x} on {}", new.name());
        world.profile = *old;
        assert_eq!(world.vmread(encoding), UNSUPPORTED, "{encoding:#x} on {}", old.name());
        assert_eq!(world.vmread(NATURAL), Outcome::Succeed);
    }
}

#[test]
fn what_vmwrite_wrote_vmread_reads_in_every_field() {
    for long in [true, false] {
        for field in Field::all().filter(|field| field_exists(&profiles::MAX, *field)) {
            let mut world = world(long);
            let encoding = u64::from(field.encoding().0);
            assert_eq!(world.vmwrite(encoding, PATTERN), Outcome::Succeed, "{field:?}");
            assert_eq!(world.vmread(encoding), Outcome::Succeed);
            let size = if long { u64::MAX } else { 0xffff_ffff };
            assert_eq!(world.cpu.gpr[Gpr::Rax], PATTERN & field.row().width.mask() & size, "{field:?}");
        }
    }
}

#[test]
fn a_64_bit_field_is_built_from_two_halves_outside_64_bit_mode() {
    let mut world = world(false);
    world.vmx.vmcs.set(Field::TSC_OFFSET, OLD);
    assert_eq!(world.vmwrite(W64, 0x4433_2211), Outcome::Succeed);
    assert_eq!(world.vmwrite(W64_HIGH, 0x8877_6655), Outcome::Succeed);
    assert_eq!(world.vmx.vmcs.get(Field::TSC_OFFSET), PATTERN);
}

/// A guest whose hypervisor gave it a shadow VMCS.
fn shadowing() -> World {
    let mut world = World::guest(Op::Vmxoff, &[Control::VMCS_SHADOWING]);
    world.vmx.vmcs.set(Field::VMREAD_BITMAP_ADDRESS, VMREAD_BITMAP);
    world.vmx.vmcs.set(Field::VMWRITE_BITMAP_ADDRESS, VMWRITE_BITMAP);
    world.vmx.vmcs.set(Field::VMCS_LINK_POINTER, SHADOW);
    world
}

#[test]
fn a_guest_reads_and_writes_the_shadow_vmcs() {
    let mut world = shadowing();
    let before = world.vmx;
    region::write_field(&world.ram, Hpa(SHADOW), Field::GUEST_RIP, PATTERN);
    assert_eq!(world.vmread(NATURAL), Outcome::Succeed);
    assert_eq!(world.cpu.gpr[Gpr::Rax], PATTERN);
    assert_eq!(world.vmwrite(W64_HIGH, 7), Outcome::Succeed);
    assert_eq!(region::read_field(&world.ram, Hpa(SHADOW), Field::TSC_OFFSET), 7 << 32);
    assert!(world.vmx == before, "the current VMCS is as it was");
    // Its header and launch state, too.
    assert_eq!(world.ram.read_u64(Hpa(SHADOW + 8)), 0);
}

#[test]
fn b_80_the_control_and_the_bitmap_alone_decide_whether_a_guest_exits() {
    for (shadowing_on, read_bit, write_bit, read_exits, write_exits) in [
        (false, false, false, true, true),
        (true, false, false, false, false),
        (true, true, false, true, false),
        (true, false, true, false, true),
    ] {
        let mut world = shadowing();
        if !shadowing_on {
            world.off(Control::VMCS_SHADOWING);
        }
        let bit = |address: u64, set| {
            world.ram.write_u8(Hpa(address + NATURAL / 8), u8::from(set) << (NATURAL % 8));
        };
        bit(VMREAD_BITMAP, read_bit);
        bit(VMWRITE_BITMAP, write_bit);
        assert_eq!(matches!(world.vmread(NATURAL), Outcome::Exit(_)), read_exits);
        assert_eq!(matches!(world.vmwrite(NATURAL, 1), Outcome::Exit(_)), write_exits);
    }
}

#[test]
fn vmfail_in_a_guest_tells_the_number_in_the_current_vmcs() {
    let mut world = shadowing();
    // In the bitmaps' range, but no field.
    assert_eq!(world.vmread(0x0802 | 1), UNSUPPORTED);
    assert_eq!(world.error(), 12);
    assert_eq!(region::read_field(&world.ram, Hpa(SHADOW), Field::VM_INSTRUCTION_ERROR), 0);
    world.vmx.vmcs.set(Field::VMCS_LINK_POINTER, u64::MAX);
    assert_eq!(world.vmwrite(NATURAL, 0), Outcome::FailInvalid);
}

#[test]
fn vmwrite_reaches_memory_as_the_knob_says() {
    for (vmcs_writing, in_memory) in [(VmcsWriting::WriteBack, 0), (VmcsWriting::WriteThrough, PATTERN)] {
        let mut world = world(true);
        world.profile = world.profile.with_knobs(Knobs { vmcs_writing, ..Knobs::DEFAULT });
        region::write_field(&world.ram, Hpa(CURRENT), Field::GUEST_RIP, 0);
        assert_eq!(world.vmwrite(NATURAL, PATTERN), Outcome::Succeed);
        assert_eq!(region::read_field(&world.ram, Hpa(CURRENT), Field::GUEST_RIP), in_memory);
        assert_eq!(world.vmread(NATURAL), Outcome::Succeed);
        assert_eq!(world.cpu.gpr[Gpr::Rax], PATTERN);
    }
}

#[test]
fn root_operation_reads_and_writes_a_shadow_vmcs_that_is_current() {
    let mut world = world(true);
    assert_eq!(world.run_op(Op::Vmptrld, SHADOW), Outcome::Succeed);
    assert!(world.vmx.state.current_is_shadow);
    assert_eq!(world.vmwrite(NATURAL, PATTERN), Outcome::Succeed);
    assert_eq!(world.vmread(NATURAL), Outcome::Succeed);
    assert_eq!(world.cpu.gpr[Gpr::Rax], PATTERN);
    // But it does not enter (26.1).
    assert_eq!(world.run_op(Op::Vmlaunch, 0), Outcome::FailInvalid);
}

#[test]
fn operands_that_no_encoding_has_do_no_harm() {
    let mut world = world(true);
    world.cpu.gpr[Gpr::Rbx] = NATURAL;
    world.instruction = Instruction::new(Op::Vmread { register: Gpr::Rbx }, 3).with_operand(Operand::None);
    assert_eq!(world.run(), Outcome::Succeed);
    world.instruction = Instruction::new(Op::Vmwrite { register: Gpr::Rbx }, 3).with_operand(Operand::None);
    assert_eq!(world.run(), Outcome::Succeed);
    assert_eq!(world.vmx.vmcs.get(Field::GUEST_RIP), 0);
}
