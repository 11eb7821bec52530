//! `synth`: are the exits consistent, and do the words of the handbook agree with them?

use vmx_model::exit::class::{Class, Defined, Row, TABLE};
use vmx_model::information::InformationKind;
use vmx_model::qualification::Qualification;
use vmx_model::reasons::{ExitReason, Status};
use vmx_model::synth::{
    self, ApicAccess, CrAccess, DescriptorTableAccess, EptViolation, Invalidation, Io, MemoryInstruction,
    SelectorAccess, StringIo, TaskSwitch,
};
use vmx_model::{EntryFailure, Exit, Field, Vmcs};
use x86_state::{Event, Exception, Gpa, Gpr, Gva, MemoryOperand, Operand, SegmentRegister, Size};

const MEMORY: MemoryOperand = MemoryOperand {
    segment: SegmentRegister::Fs,
    base: Some(Gpr::Rbx),
    index: Some(Gpr::R10),
    scale_log2: 3,
    displacement: 0xffff_ffff_ffff_fff0,
    rip_relative: false,
    offset: 0x5000,
    linear: Gva(0x1_5000),
};
const PLAIN: MemoryOperand = MemoryOperand { base: None, index: None, scale_log2: 0, ..MEMORY };
const OUTS: StringIo =
    StringIo { repeated: true, address_size: Size::Bits64, segment: SegmentRegister::Gs, linear: Some(Gva(0x7000)) };

/// At least one exit of each reason that is not an SMM VM exit or an entry failure.
fn examples() -> Vec<Exit> {
    let memory = |instruction| synth::memory(instruction, &MEMORY, Size::Bits64, 7);
    let invalidation = |instruction| synth::invalidation(instruction, Gpr::Rcx, &MEMORY, Size::Bits64, 7);
    vec![
        synth::exception(Exception::UD, None),
        synth::page_fault(Gva(0x1000), 2),
        synth::debug_exception(0x4000),
        synth::nmi(),
        synth::int3(1),
        synth::external_interrupt(None),
        synth::external_interrupt(Some(0x30)),
        synth::triple_fault(),
        synth::init(),
        synth::sipi(0x9f),
        synth::interrupt_window(),
        synth::nmi_window(),
        synth::task_switch(0x28, TaskSwitch::Jmp { len_bytes: 5 }),
        synth::cpuid(),
        synth::getsec(),
        synth::hlt(),
        synth::invd(),
        synth::invlpg(Gva(0x8000), 3),
        synth::rdpmc(),
        synth::rdtsc(),
        synth::rsm(),
        synth::vmcall(),
        memory(MemoryInstruction::Vmclear),
        synth::vmlaunch(),
        memory(MemoryInstruction::Vmptrld),
        memory(MemoryInstruction::Vmptrst),
        synth::field_read(Gpr::Rax, &Operand::Register(Gpr::Rdx), Size::Bits64, 3),
        synth::vmresume(),
        synth::field_write(Gpr::Rax, &Operand::Memory(PLAIN), Size::Bits64, 4),
        synth::vmxoff(),
        memory(MemoryInstruction::Vmxon),
        synth::cr_access(CrAccess::MovTo { cr: 3, gpr: Gpr::Rax }, 3),
        synth::cr_access(CrAccess::Lmsw { source: 1, memory: Some(Gva(0x3000)) }, 4),
        synth::mov_dr(7, true, Gpr::Rax, 3),
        synth::io(Io { port: 0x3f8, size_bytes: 1, input: false, immediate: false, string: None }, 1),
        synth::io(Io { port: 0x3f8, size_bytes: 1, input: false, immediate: false, string: Some(OUTS) }, 2),
        synth::rdmsr(),
        synth::wrmsr(),
        synth::mwait(true),
        synth::monitor_trap_flag(),
        synth::monitor(),
        synth::pause(),
        synth::tpr_below_threshold(),
        synth::apic_access(ApicAccess::Write(0x300)),
        synth::virtualized_eoi(0x30),
        synth::descriptor_table(DescriptorTableAccess::Lidt, &MEMORY, Size::Bits64, None, 7),
        synth::selector(SelectorAccess::Ltr, &Operand::Register(Gpr::Rax), Size::Bits64, 3),
        synth::ept_violation(
            Gpa(0x9000),
            EptViolation { read: true, linear: Some(Gva(0x9000)), ..EptViolation::default() },
        ),
        synth::ept_misconfiguration(Gpa(0x9000), None),
        invalidation(Invalidation::Invept),
        synth::rdtscp(),
        synth::preemption_timer(),
        invalidation(Invalidation::Invvpid),
        synth::wbinvd(),
        synth::wbnoinvd(),
        synth::xsetbv(),
        synth::apic_write(0x300),
        synth::random(false, Gpr::Rax, Size::Bits64, 4),
        invalidation(Invalidation::Invpcid),
        synth::vmfunc(),
        synth::encls(),
        synth::random(true, Gpr::Rax, Size::Bits16, 4),
        synth::page_modification_log_full(None),
        memory(MemoryInstruction::Xsaves),
        memory(MemoryInstruction::Xrstors),
        synth::pconfig(),
        synth::spp_related_event(true, Gpa(0x9000), Gva(0x9000), None),
        synth::umwait(Gpr::Rax, 4),
        synth::tpause(Gpr::Rax, 4),
        synth::loadiwkey(1, 2, 5),
        synth::bus_lock(),
    ]
}

#[test]
fn every_reason_of_the_manual_has_an_example() {
    let examples = examples();
    for row in ExitReason::TABLE {
        // 5 and 6 are SMM VM exits.
        let failure = matches!(row.number, 33 | 34 | 41);
        if row.status == Status::Manual && !failure && !matches!(row.number, 5 | 6) {
            assert!(examples.iter().any(|exit| exit.reason.basic() == row.number), "{}", row.name);
        }
    }
}

fn agrees(defined: Defined, is_there: bool) -> bool {
    match defined {
        Defined::Never => !is_there,
        Defined::Sometimes => true,
        Defined::Always => is_there,
    }
}

#[test]
fn examples_have_what_the_row_of_their_reason_says() {
    for exit in examples() {
        let row = Row::of(exit.reason).unwrap();
        assert!(agrees(row.linear, exit.linear.is_some()), "{exit:?}");
        assert!(agrees(row.physical, exit.physical.is_some()), "{exit:?}");
        assert!(agrees(row.length, exit.instruction_len_bytes.is_some()), "{exit:?}");
        assert!(row.qualification != Defined::Never || exit.qualification == 0, "{exit:?}");
        // IN and OUT leave the instruction information undefined.
        let string = row.information != InformationKind::StringIo || exit.qualification >> 4 & 1 == 1;
        assert_eq!(
            exit.instruction_information.is_some(),
            row.information != InformationKind::None && string,
            "{exit:?}"
        );
    }
}

#[test]
fn every_class_has_a_row_and_says_what_rip_is() {
    for class in Class::ALL {
        assert!(TABLE.iter().any(|row| row.class == class), "{class:?}");
        assert!(!class.rip().is_empty());
    }
}

#[test]
fn qualifications_read_as_they_were_meant() {
    let violation = EptViolation {
        write: true,
        readable: true,
        executable: true,
        linear: Some(Gva(0x1000)),
        to_translation: false,
        ..EptViolation::default()
    };
    for (exit, words) in [
        (synth::cr_access(CrAccess::MovTo { cr: 3, gpr: Gpr::R9 }, 4), "MOV to CR3 from R9"),
        (synth::cr_access(CrAccess::MovFrom { cr: 8, gpr: Gpr::Rdi }, 4), "MOV from CR8 to RDI"),
        (synth::cr_access(CrAccess::Clts, 2), "CLTS"),
        (synth::cr_access(CrAccess::Lmsw { source: 0x1234, memory: None }, 3), "LMSW of 0x1234 from register"),
        (synth::cr_access(CrAccess::Lmsw { source: 9, memory: Some(Gva(1)) }, 3), "LMSW of 0x0009 from memory"),
        (synth::mov_dr(6, true, Gpr::Rbx, 3), "MOV to DR6 from RBX"),
        (synth::mov_dr(0, false, Gpr::R15, 4), "MOV from DR0 to R15"),
        (
            synth::io(Io { port: 0x70, size_bytes: 1, input: true, immediate: true, string: None }, 2),
            "IN of 1 byte, port 0x70 (immediate)",
        ),
        (
            synth::io(Io { port: 0xcf8, size_bytes: 4, input: false, immediate: false, string: Some(OUTS) }, 2),
            "REP OUTS of 4 bytes, port 0xcf8 (in DX)",
        ),
        (
            synth::task_switch(0x28, TaskSwitch::Gate { delivering: Event::nmi() }),
            "to the TSS of selector 0x0028, by a task gate in the IDT",
        ),
        (synth::task_switch(0x28, TaskSwitch::Iret { len_bytes: 1 }), "to the TSS of selector 0x0028, by IRET"),
        (synth::sipi(0x9f), "SIPI vector 0x9f (start at 0x9f000)"),
        (synth::mwait(true), "address-range monitoring is armed"),
        (synth::wbnoinvd(), "WBNOINVD"),
        (synth::invlpg(Gva(0x8000), 3), "linear address 0x8000"),
        (synth::virtualized_eoi(0x30), "vector 0x30"),
        (synth::apic_write(0xf3f0), "write at offset 0x3f0 of the virtual-APIC page"),
        (
            synth::apic_access(ApicAccess::Write(0x1300)),
            "linear access: data write during instruction execution, offset 0x300",
        ),
        (
            synth::apic_access(ApicAccess::PhysicalMonitoring),
            "guest-physical access for monitoring or trace, asynchronous to instruction execution",
        ),
        (
            synth::ept_violation(Gpa(0), violation),
            "data write; EPT allows read, execute; linear address valid, the access was to a paging-structure entry",
        ),
        (synth::spp_related_event(true, Gpa(0), Gva(0), None), "SPP miss"),
        (synth::spp_related_event(false, Gpa(0), Gva(0), None), "SPP misconfiguration"),
    ] {
        let qualification = Qualification { reason: exit.reason.0, value: exit.qualification };
        assert_eq!(qualification.to_string(), words);
    }
}

#[test]
fn instruction_information_is_that_of_the_tables() {
    const BASE_INDEX: u32 = 3 | 2 << 7 | 4 << 15 | 10 << 18 | 3 << 23;
    const NEITHER: u32 = 2 << 7 | 4 << 15 | 1 << 22 | 1 << 27;
    let wide = Size::Bits64;
    for (name, exit, information, qualification) in [
        (
            "27-8 OUTS",
            synth::io(Io { port: 0, size_bytes: 2, input: false, immediate: false, string: Some(OUTS) }, 2),
            2 << 7 | 5 << 15,
            0x31,
        ),
        // INS leaves the segment undefined.
        (
            "27-8 INS",
            synth::io(Io { port: 0, size_bytes: 2, input: true, immediate: false, string: Some(OUTS) }, 2),
            2 << 7,
            0x39,
        ),
        (
            "27-9",
            synth::invalidation(Invalidation::Invept, Gpr::R12, &MEMORY, wide, 7),
            BASE_INDEX | 12 << 28,
            MEMORY.displacement,
        ),
        (
            "27-10",
            synth::descriptor_table(DescriptorTableAccess::Lgdt, &PLAIN, wide, Some(Size::Bits32), 7),
            NEITHER | 1 << 11 | 2 << 28,
            PLAIN.displacement,
        ),
        (
            "27-11 register",
            synth::selector(SelectorAccess::Str, &Operand::Register(Gpr::R8), wide, 4),
            8 << 3 | 1 << 10 | 1 << 28,
            0,
        ),
        (
            "27-11 memory",
            synth::selector(SelectorAccess::Lldt, &Operand::Memory(PLAIN), wide, 4),
            NEITHER | 2 << 28,
            PLAIN.displacement,
        ),
        ("27-12", synth::random(true, Gpr::R9, wide, 4), 9 << 3 | 2 << 11, 0),
        ("27-12 UMWAIT", synth::umwait(Gpr::Rdi, 4), 7 << 3 | 1 << 11, 0),
        ("27-13", synth::memory(MemoryInstruction::Vmxon, &MEMORY, wide, 7), BASE_INDEX, MEMORY.displacement),
        (
            "27-14 register",
            synth::field_read(Gpr::Rcx, &Operand::Register(Gpr::Rsi), wide, 3),
            6 << 3 | 1 << 10 | 1 << 28,
            0,
        ),
        (
            "27-14 memory",
            synth::field_write(Gpr::R15, &Operand::Memory(MEMORY), wide, 8),
            BASE_INDEX | 15 << 28,
            MEMORY.displacement,
        ),
        ("27-15", synth::loadiwkey(9, 15, 5), 9 << 3 | 15 << 28, 0),
    ] {
        assert_eq!(exit.instruction_information, Some(information), "{name}");
        assert_eq!(exit.qualification, qualification, "{name}");
    }
}

#[test]
fn displacements_are_cut_to_the_address_size_and_rip_relative_ones_are_addresses() {
    let exit = synth::memory(MemoryInstruction::Vmclear, &MEMORY, Size::Bits32, 7);
    assert_eq!(exit.qualification, 0xffff_fff0);
    let relative = MemoryOperand { rip_relative: true, ..PLAIN };
    assert_eq!(synth::memory(MemoryInstruction::Vmclear, &relative, Size::Bits64, 7).qualification, 0x5000);
}

#[test]
fn an_entry_failure_writes_two_fields() {
    let mut vmcs = Vmcs::new();
    vmcs.set(Field::VM_EXIT_INSTRUCTION_LENGTH, 3);
    EntryFailure { reason: ExitReason::ENTRY_FAILURE_GUEST_STATE, qualification: 4 }.record(&mut vmcs);
    assert_eq!(vmcs.get(Field::EXIT_REASON), 0x8000_0021);
    assert_eq!(vmcs.get(Field::EXIT_QUALIFICATION), 4);
    assert_eq!(vmcs.get(Field::VM_EXIT_INSTRUCTION_LENGTH), 3);
}
