//! Exit qualifications and instruction information, bit by bit as Tables 27-2 to 27-15 have them.

use crate::world::{OPERAND, SIMPLE, World, memory};
use vmx_model::exit::class;
use vmx_model::information::{
    self, ControlRegisterAccess, InformationKind as I, IoAccess, QualificationKind, TaskSwitchSource,
    instruction_information,
};
use vmx_model::intercept::table;
use vmx_model::reasons::{ExitReason, Status};
use x86_state::{AccessRights, Gpr, Gva, Instruction, MemoryOperand, Op, OpClass, Operand, SegmentRegister, Size};

fn information(kind: I, instruction: &Instruction) -> Option<u32> {
    instruction_information(kind, &World::new(false, &[]).cpu, instruction)
}

#[test]
fn table_27_2_task_switches() {
    for (source, bits) in [
        (TaskSwitchSource::Call, 0x0000_0028),
        (TaskSwitchSource::Iret, 0x4000_0028),
        (TaskSwitchSource::Jmp, 0x8000_0028),
        (TaskSwitchSource::IdtGate, 0xc000_0028),
    ] {
        assert_eq!(information::task_switch(0x28, source), bits);
    }
}

#[test]
fn table_27_3_control_register_accesses() {
    for (number, access, register, bits) in [
        (0, ControlRegisterAccess::To, Gpr::Rax, 0x000),
        (3, ControlRegisterAccess::To, Gpr::Rcx, 0x103),
        (4, ControlRegisterAccess::From, Gpr::Rdi, 0x714),
        (8, ControlRegisterAccess::To, Gpr::R15, 0xf08),
        (8, ControlRegisterAccess::From, Gpr::R8, 0x818),
        (0, ControlRegisterAccess::Clts, Gpr::Rax, 0x020),
    ] {
        assert_eq!(information::control_register(number, access, register), bits);
    }
    assert_eq!(information::lmsw(0xabcd, false), 0xabcd_0030);
    assert_eq!(information::lmsw(0x0001, true), 0x0001_0070);
}

#[test]
fn table_27_4_debug_registers() {
    assert_eq!(information::debug_register(7, false, Gpr::Rcx), 0x107);
    assert_eq!(information::debug_register(6, true, Gpr::R8), 0x816);
}

#[test]
fn table_27_5_io_instructions() {
    let io = |port, size_bytes, input, string, repeated, immediate| {
        IoAccess { port, size_bytes, input, string, repeated, immediate }.qualification()
    };
    for (bits, expected) in [
        (io(0x60, 1, true, false, false, true), 0x0060_0048),
        (io(0xcf8, 4, false, false, false, false), 0x0cf8_0003),
        (io(0x1f0, 2, true, true, true, false), 0x01f0_0039),
        (io(0x1f0, 2, false, true, false, false), 0x01f0_0011),
        (io(0xffff, 1, false, false, false, false), 0xffff_0000),
    ] {
        assert_eq!(bits, expected, "{expected:#x}");
    }
}

/// 27.2.1: sign-extended, RIP-relative with the next instruction's address, cut to the address size.
#[test]
fn displacements() {
    let mut world = World::new(false, &[]);
    world.cpu.rip = 0xffff_8000_0000_1000;
    let relative = MemoryOperand { rip_relative: true, base: None, index: None, ..OPERAND };
    for (name, size, operand, expected) in [
        ("64-bit", Size::Bits64, memory(OPERAND), 0xffff_ffff_ffff_fff8),
        ("32-bit", Size::Bits32, memory(OPERAND), 0xffff_fff8),
        ("16-bit", Size::Bits16, memory(OPERAND), 0xfff8),
        ("RIP-relative, 5 bytes long", Size::Bits64, memory(relative), 0xffff_8000_0000_0ffd),
        ("EIP-relative", Size::Bits32, memory(relative), 0x0000_0ffd),
        ("no displacement", Size::Bits64, memory(SIMPLE), 0),
        ("register", Size::Bits64, Operand::Register(Gpr::Rax), 0),
        ("nothing", Size::Bits64, Operand::None, 0),
    ] {
        let mut instruction = Instruction::new(Op::Lgdt, 5).with_operand(operand);
        instruction.address_size = size;
        assert_eq!(information::displacement(&world.cpu, &instruction), expected, "{name}");
    }
}

#[test]
fn table_27_8_ins_and_outs() {
    let string = |input, size, segment| {
        let mut instruction = Instruction::new(Op::StringIo { port: 0, size_bytes: 1, input, repeated: false }, 2)
            .with_operand(memory(MemoryOperand { segment, ..SIMPLE }));
        instruction.address_size = size;
        information(I::StringIo, &instruction)
    };
    for (found, expected) in [
        (string(false, Size::Bits16, SegmentRegister::Es), 0),
        (string(false, Size::Bits32, SegmentRegister::Ds), 0x0001_8080),
        (string(false, Size::Bits64, SegmentRegister::Gs), 0x0002_8100),
        // The segment of INS is undefined: 0.
        (string(true, Size::Bits64, SegmentRegister::Ds), 0x0000_0100),
    ] {
        assert_eq!(found, Some(expected), "{expected:#x}");
    }
}

#[test]
fn memory_operands_of_tables_27_9_10_11_13_14() {
    let at = |size, operand| {
        let mut instruction = Instruction::new(Op::Vmclear, 4).with_operand(memory(operand));
        instruction.address_size = size;
        information(I::Memory, &instruction)
    };
    let r15 = MemoryOperand {
        segment: SegmentRegister::Gs,
        base: Some(Gpr::R15),
        index: Some(Gpr::R14),
        scale_log2: 3,
        ..SIMPLE
    };
    for (found, expected) in [
        // RBX 3 << 23, RSI 6 << 18, DS 3 << 15, 64-bit 2 << 7, scale 4.
        (at(Size::Bits64, OPERAND), 0x0199_8102),
        (at(Size::Bits32, SIMPLE), 0x01c1_8080),
        (at(Size::Bits16, MemoryOperand { base: None, ..SIMPLE }), 0x0841_8000),
        (at(Size::Bits64, r15), 0x07ba_8103),
    ] {
        assert_eq!(found, Some(expected), "{expected:#x}");
    }
}

/// Bochs 7b2bb5072: the register that holds the type is reg2, bits 31:28.
#[test]
fn table_27_9_bochs_7b2bb5072_the_type_is_in_the_second_register() {
    for op in [Op::Invept { register: Gpr::R9 }, Op::Invvpid { register: Gpr::R9 }, Op::Invpcid { register: Gpr::R9 }] {
        let instruction = Instruction::new(op, 5).long().with_operand(memory(SIMPLE));
        assert_eq!(information(I::Invalidate, &instruction), Some(0x91c1_8100));
    }
}

#[test]
fn table_27_10_descriptor_tables() {
    let mut world = World::new(false, &[]);
    for (op, identity) in [(Op::Sgdt, 0), (Op::Sidt, 1), (Op::Lgdt, 2), (Op::Lidt, 3)] {
        let mut instruction = Instruction::new(op, 3).long().with_operand(memory(SIMPLE));
        let wanted = 0x01c1_8100 | identity << 28;
        assert_eq!(information(I::DescriptorTable, &instruction), Some(wanted), "size undefined in 64-bit mode");
        world.mode_32();
        (instruction.address_size, instruction.operand_size) = (Size::Bits32, Size::Bits32);
        let found = instruction_information(I::DescriptorTable, &world.cpu, &instruction);
        assert_eq!(found, Some(0x01c1_8880 | identity << 28), "32-bit");
        instruction.operand_size = Size::Bits16;
        let found = instruction_information(I::DescriptorTable, &world.cpu, &instruction);
        assert_eq!(found, Some(0x01c1_8080 | identity << 28), "16-bit");
    }
}

#[test]
fn table_27_11_ldtr_and_tr() {
    for (op, identity) in [(Op::Sldt, 0), (Op::Str, 1), (Op::Lldt, 2), (Op::Ltr, 3)] {
        let instruction = Instruction::new(op, 3).long();
        let register = instruction.with_operand(Operand::Register(Gpr::R13));
        assert_eq!(information(I::LdtrOrTr, &register), Some(0x0468 | identity << 28));
        let memory = instruction.with_operand(memory(OPERAND));
        assert_eq!(information(I::LdtrOrTr, &memory), Some(0x0199_8102 | identity << 28));
    }
}

/// Bochs c97bb62b6: the register is that of the destination, bits 6:3.
#[test]
fn table_27_12_bochs_c97bb62b6_destination_and_operand_size() {
    let rdx = Gpr::Rdx;
    for op in [
        Op::Rdrand { register: rdx },
        Op::Rdseed { register: rdx },
        Op::Tpause { register: rdx },
        Op::Umwait { register: rdx },
    ] {
        for (size, expected) in [(Size::Bits16, 0x0010), (Size::Bits32, 0x0810), (Size::Bits64, 0x1010)] {
            let mut instruction = Instruction::new(op, 4);
            instruction.operand_size = size;
            assert_eq!(information(I::Register, &instruction), Some(expected), "{op:?} {size:?}");
        }
    }
}

#[test]
fn table_27_14_vmread_and_vmwrite() {
    for op in [Op::Vmread { register: Gpr::R10 }, Op::Vmwrite { register: Gpr::R10 }] {
        let instruction = Instruction::new(op, 3).long();
        let register = instruction.with_operand(Operand::Register(Gpr::Rbp));
        assert_eq!(information(I::Vmcs, &register), Some(0xa000_0428));
        assert_eq!(information(I::Vmcs, &instruction.with_operand(memory(OPERAND))), Some(0xa199_8102));
    }
}

#[test]
fn table_27_15_loadiwkey() {
    let instruction = Instruction::new(Op::Loadiwkey { first: 9, second: 15 }, 5);
    assert_eq!(information(I::KeyLocker, &instruction), Some(0xf000_0048));
}

/// 27.2.1, guest-linear address: LMSW from memory, INS and OUTS with a usable segment.
#[test]
fn linear_addresses() {
    let outs = Op::StringIo { port: 0, size_bytes: 1, input: false, repeated: false };
    let with = |op| Instruction::new(op, 3).long().with_operand(memory(OPERAND));
    let mut world = World::new(false, &[]);
    world.cpu.segments[SegmentRegister::Ds].rights = AccessRights::NULL;
    let linear = |world: &World, instruction| information::linear(&world.cpu, &instruction);
    assert_eq!(linear(&world, with(Op::Lmsw { source: 0 })), Some(OPERAND.linear));
    let register = Instruction::new(Op::Lmsw { source: 0 }, 3).with_operand(Operand::Register(Gpr::Rax));
    assert_eq!(linear(&world, register), None);
    assert_eq!(linear(&world, with(outs)), Some(OPERAND.linear), "64-bit mode uses DS all the same");
    assert_eq!(linear(&world, with(Op::Invlpg)), None, "INVLPG has it in the qualification");
    world.mode_32();
    assert_eq!(linear(&world, with(outs)), None, "undefined while DS is unusable");
    world.cpu.segments[SegmentRegister::Ds].rights = AccessRights::DATA_32;
    assert_eq!(linear(&world, with(outs)), Some(Gva(0x1234_5678)), "bits 63:32 are cleared");
}

/// The rows of instructions and the rows of exit reasons: one says what an instruction records, the other what an exit of its reason does.
#[test]
fn rows_of_instructions_record_what_the_row_of_their_reason_says() {
    for row in table::Row::TABLE.iter().filter(|row| row.basis != table::Basis::NamedOnly) {
        let Some(reason) = row.reason else { continue };
        let of_reason = class::Row::of(reason).unwrap_or_else(|| panic!("{:?} has no row for {reason}", row.class));
        assert_eq!(of_reason.class, class::Class::Instruction, "{:?}", row.class);
        // IN and OUT share reason 30 with INS and OUTS, which alone have instruction information.
        if row.class != OpClass::Io {
            assert_eq!(row.information, of_reason.information, "{:?}", row.class);
        }
        let qualified = of_reason.qualification != class::Defined::Never;
        assert_eq!(row.qualification != QualificationKind::None, qualified, "{:?}", row.class);
    }
}

/// Every reason that instructions have is some instruction's.
#[test]
fn every_reason_of_the_instruction_class_has_an_instruction() {
    for of_reason in class::TABLE.iter().filter(|row| row.class == class::Class::Instruction) {
        let mut rows = table::Row::TABLE.iter();
        assert!(rows.any(|row| row.reason == Some(of_reason.reason)), "{}", of_reason.reason);
    }
    for row in ExitReason::TABLE.iter().filter(|row| matches!(row.status, Status::NamedOnly | Status::Disputed)) {
        let named = |other: &&table::Row| other.reason.is_some_and(|reason| reason.basic() == row.number);
        let basis = table::Row::TABLE.iter().find(named).map(|other| other.basis);
        assert!(basis.is_none_or(|basis| basis == table::Basis::NamedOnly), "{}", row.name);
    }
}
