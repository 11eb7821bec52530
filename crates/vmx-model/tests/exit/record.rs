//! 27.2, Recording VM-Exit Information and Updating VM-Entry Control Fields.

use crate::world::World;
use vmx_model::exit::class;
use vmx_model::exit::record::FIELDS;
use vmx_model::fields::FieldType;
use vmx_model::reasons::{ExitReason, Records};
use vmx_model::synth::{self, ApicAccess, EptViolation};
use vmx_model::{Control, Exit, Field, Vmcs};
use x86_state::{Cr0, Efer, Event, EventType, Exception, Gpa, Gva, VmxMsr};

const INT3: Event = software(EventType::SOFTWARE_EXCEPTION, 3, 1);
const INT1: Event = software(EventType::PRIVILEGED_SOFTWARE_EXCEPTION, 1, 1);

const fn software(kind: EventType, vector: u8, len_bytes: u8) -> Event {
    Event { kind, vector, error_code: None, instruction_len_bytes: len_bytes }
}

fn recorded(exit: &Exit) -> Vmcs {
    let mut vmcs = Vmcs::new();
    exit.record(&mut vmcs);
    vmcs
}

#[test]
fn every_information_field_but_the_instruction_error_is_written() {
    for background in [0, u64::MAX] {
        let mut vmcs = Vmcs::new();
        for field in Field::all() {
            vmcs.set(field, background);
        }
        let before = vmcs;
        Exit::new(ExitReason::TRIPLE_FAULT).record(&mut vmcs);
        for field in Field::all() {
            let expected = match field {
                Field::EXIT_REASON => 2,
                _ if FIELDS.contains(&field) => 0,
                _ => before.get(field),
            };
            assert_eq!(vmcs.get(field), expected, "{field:?} on {background:#x}");
            let information = field.row().kind == FieldType::ReadOnly && field != Field::VM_INSTRUCTION_ERROR;
            assert_eq!(FIELDS.contains(&field), information, "{field:?}");
        }
    }
}

#[test]
fn interruption_information_of_events_that_exit_directly() {
    for (exit, reason, information, error_code, length) in [
        (synth::exception(Exception::UD, None), 0, 0x8000_0306, 0, 0),
        (synth::exception(Exception::GP, Some(0x18)), 0, 0x8000_0b0d, 0x18, 0),
        (synth::exception(Exception::CP, Some(3)), 0, 0x8000_0b15, 3, 0),
        (synth::page_fault(Gva(0x1000), 7), 0, 0x8000_0b0e, 7, 0),
        (synth::nmi(), 0, 0x8000_0202, 0, 0),
        (synth::int3(1), 0, 0x8000_0603, 0, 1),
        (synth::into(2), 0, 0x8000_0604, 0, 2),
        (synth::int1(1), 0, 0x8000_0501, 0, 1),
        (synth::external_interrupt(Some(0xef)), 1, 0x8000_00ef, 0, 0),
        (synth::external_interrupt(None), 1, 0, 0, 0),
        // No event but a hardware exception has an error code.
        (synth::event(Event { error_code: Some(5), ..Event::nmi() }), 0, 0x8000_0202, 0, 0),
    ] {
        let vmcs = recorded(&exit);
        assert_eq!(vmcs.get(Field::EXIT_REASON), reason, "{exit:?}");
        assert_eq!(vmcs.get(Field::VM_EXIT_INTERRUPTION_INFO), information, "{exit:?}");
        assert_eq!(vmcs.get(Field::VM_EXIT_INTERRUPTION_ERROR_CODE), error_code, "{exit:?}");
        assert_eq!(vmcs.get(Field::VM_EXIT_INSTRUCTION_LENGTH), length, "{exit:?}");
        assert_eq!(vmcs.get(Field::IDT_VECTORING_INFO), 0, "{exit:?}");
    }
}

#[test]
fn b_76_an_external_interrupt_is_told_exactly_if_it_was_acknowledged() {
    for (vector, expected) in [(Some(0x31), 0x8000_0031), (None, 0)] {
        let mut world = World::new();
        world.control(Control::ACKNOWLEDGE_INTERRUPT_ON_EXIT, vector.is_some());
        // Left over from an earlier exit.
        world.set(Field::VM_EXIT_INTERRUPTION_INFO, 0x8000_0b0d).exit(&synth::external_interrupt(vector));
        assert_eq!(world.get(Field::VM_EXIT_INTERRUPTION_INFO), expected);
    }
}

#[test]
fn idt_vectoring_information_tells_the_event_under_delivery() {
    for (event, information, error_code) in [
        (Event::external_interrupt(0x30), 0x8000_0030, 0),
        (Event::nmi(), 0x8000_0202, 0),
        (Event::exception_with_code(Exception::PF, 4), 0x8000_0b0e, 4),
        (Event::exception(Exception::UD), 0x8000_0306, 0),
        (Event::software_interrupt(0x80, 2), 0x8000_0480, 0),
        (INT1, 0x8000_0501, 0),
        (INT3, 0x8000_0603, 0),
    ] {
        let violation = EptViolation { read: true, delivering: Some(event), ..EptViolation::default() };
        for exit in [
            synth::page_fault(Gva(0), 0).during(event),
            synth::task_switch(0x28, synth::TaskSwitch::Gate { delivering: event }),
            synth::apic_access(ApicAccess::Delivery(0, event)),
            synth::ept_violation(Gpa(0), violation),
            synth::ept_misconfiguration(Gpa(0), Some(event)),
        ] {
            let vmcs = recorded(&exit);
            assert_eq!(vmcs.get(Field::IDT_VECTORING_INFO), information, "{exit:?}");
            assert_eq!(vmcs.get(Field::IDT_VECTORING_ERROR_CODE), error_code, "{exit:?}");
        }
    }
}

#[test]
fn the_length_of_a_software_event_under_delivery_is_told_where_the_manual_says_so() {
    let int = Event::software_interrupt(0x80, 2);
    let gp = Event::exception_with_code(Exception::GP, 0);
    let at = Gpa(0x1000);
    let violation = |delivering| synth::ept_violation(at, EptViolation { delivering, ..EptViolation::default() });
    for (name, exit, length) in [
        ("fault", synth::page_fault(Gva(0), 0).during(int), 2),
        ("fault during a fault", synth::page_fault(Gva(0), 0).during(gp), 0),
        ("task gate", synth::task_switch(8, synth::TaskSwitch::Gate { delivering: int }), 2),
        ("task gate of a fault", synth::task_switch(8, synth::TaskSwitch::Gate { delivering: gp }), 0),
        ("task switch by CALL", synth::task_switch(8, synth::TaskSwitch::Call { len_bytes: 7 }), 7),
        ("EPT violation", violation(Some(int)), 2),
        ("EPT violation of an instruction", violation(None), 0),
        ("log full", synth::page_modification_log_full(Some(int)), 2),
        ("SPP", synth::spp_related_event(true, at, Gva(0), Some(int)), 2),
        ("APIC access", synth::apic_access(ApicAccess::Delivery(0, int)), 2),
        // 27.2.5, footnote 2, excepts physical accesses (29.4.6.2), not guest-physical ones (29.4.6.1).
        ("guest-physical APIC access", synth::apic_access(ApicAccess::PhysicalDelivery(int)), 2),
        // Undefined, and 0 here.
        ("EPT misconfiguration", synth::ept_misconfiguration(at, Some(int)), 0),
        ("triple fault", synth::triple_fault(), 0),
    ] {
        assert_eq!(recorded(&exit).get(Field::VM_EXIT_INSTRUCTION_LENGTH), length, "{name}");
    }
}

/// FRED specification 9.6.3 and 9.5.4: the length treatment "will apply also to FRED event delivery, including FRED event delivery of SYSCALL
/// or SYSENTER".
#[test]
fn the_length_of_a_syscall_under_fred_delivery_is_told_like_that_of_int_n() {
    for vector in [1, 2] {
        let syscall = Event { kind: EventType::OTHER_EVENT, vector, ..Event::software_interrupt(0, 2) };
        let violation = EptViolation { delivering: Some(syscall), ..EptViolation::default() };
        for exit in [synth::page_fault(Gva(0), 0).during(syscall), synth::ept_violation(Gpa(0), violation)] {
            let vmcs = recorded(&exit);
            assert_eq!(vmcs.get(Field::IDT_VECTORING_INFO), 0x8000_0700 | u64::from(vector), "{exit:?}");
            assert_eq!(vmcs.get(Field::VM_EXIT_INSTRUCTION_LENGTH), 2, "{exit:?}");
        }
    }
}

#[test]
fn in_real_address_mode_events_have_no_error_code() {
    for (protected, information, vectoring, code) in
        [(true, 0x8000_0b0d, 0x8000_0b0a, 0x12), (false, 0x8000_030d, 0x8000_030a, 0)]
    {
        let mut world = World::new();
        world.cpu.cr0.set(Cr0::PE, protected);
        let during = Event::exception_with_code(Exception::TS, 0x12);
        world.exit(&synth::exception(Exception::GP, Some(0x12)).during(during));
        assert_eq!(world.get(Field::VM_EXIT_INTERRUPTION_INFO), information);
        assert_eq!(world.get(Field::VM_EXIT_INTERRUPTION_ERROR_CODE), code);
        assert_eq!(world.get(Field::IDT_VECTORING_INFO), vectoring);
        assert_eq!(world.get(Field::IDT_VECTORING_ERROR_CODE), code);
    }
}

#[test]
fn nmi_unblocking_is_reported_in_two_places() {
    let at = Gpa(0x1000);
    for (name, exit, information, qualification) in [
        ("fault", synth::page_fault(Gva(0x5000), 0), 0x8000_1b0e, 0x5000),
        ("EPT violation", synth::ept_violation(at, EptViolation::default()), 0, 0x1000),
        ("log full", synth::page_modification_log_full(None), 0, 0x1000),
        ("SPP", synth::spp_related_event(false, at, Gva(0), None), 0, 0x1000),
        ("instruction timeout", Exit::new(ExitReason::INSTRUCTION_TIMEOUT), 0, 0x1000),
        ("APIC access", synth::apic_access(ApicAccess::Read(0x20)), 0, 0x20),
        ("EPT misconfiguration", synth::ept_misconfiguration(at, None), 0, 0),
        ("double fault", synth::exception(Exception::DF, Some(0)), 0x8000_0b08, 0),
        // An NMI and an interrupt are no faults of IRET.
        ("NMI", synth::nmi(), 0x8000_0202, 0),
        ("interrupt", synth::external_interrupt(Some(0x30)), 0x8000_0030, 0),
    ] {
        let vmcs = recorded(&Exit { nmi_unblocking: true, ..exit });
        assert_eq!(vmcs.get(Field::VM_EXIT_INTERRUPTION_INFO), information, "{name}");
        assert_eq!(vmcs.get(Field::EXIT_QUALIFICATION), qualification, "{name}");
    }
}

#[test]
fn nmi_unblocking_is_defined_under_the_manuals_conditions_only() {
    let pf = synth::page_fault(Gva(0), 0);
    let int = Event::external_interrupt(0x30);
    for (nmi_exiting, virtual_nmis, exit, unblocked, bit) in [
        (false, false, pf, true, 1),
        (false, false, pf, false, 0),
        (true, false, pf, true, 0),
        (true, true, pf, true, 1),
        // The IDT-vectoring information is valid.
        (false, false, pf.during(int), true, 0),
    ] {
        let mut world = World::new();
        world.control(Control::NMI_EXITING, nmi_exiting).control(Control::VIRTUAL_NMIS, virtual_nmis);
        world.exit(&Exit { nmi_unblocking: unblocked, ..exit });
        assert_eq!(
            world.get(Field::VM_EXIT_INTERRUPTION_INFO) >> 12 & 1,
            bit,
            "NMI exiting {nmi_exiting}, {virtual_nmis}"
        );
    }
}

#[test]
fn bochs_247aca095_bits_above_the_basic_reason_need_their_cause() {
    for (control, bit) in [(Control::PREMATURELY_BUSY_SHADOW_STACK, 1u32 << 25), (Control::BUS_LOCK_DETECTION, 1 << 26)]
    {
        for on in [false, true] {
            let mut world = World::new();
            world.control(control, on).exit(&Exit::new(ExitReason(!0xffff | 10)));
            let expected = if on { 10 | bit } else { 10 };
            assert_eq!(world.get(Field::EXIT_REASON), expected.into(), "{control:?} {on}");
        }
    }
}

#[test]
fn the_injection_is_used_up_and_the_guests_mode_is_kept() {
    for (misc_bit_5, lma, before, after) in
        [(true, true, false, true), (true, false, true, false), (false, true, false, false), (false, false, true, true)]
    {
        let mut world = World::new();
        let misc =
            world.profile.vmx(VmxMsr::Misc).map(|misc| if misc_bit_5 { misc | 1 << 5 } else { misc & !(1 << 5) });
        world.profile = world.profile.with_vmx(VmxMsr::Misc, misc);
        world.cpu.efer.set(Efer::LMA, lma);
        world.control(Control::IA32E_MODE_GUEST, before).set(Field::VM_ENTRY_INTERRUPTION_INFO, 0x8000_0b0d);
        let controls = world.get(Field::VM_ENTRY_CONTROLS) & !(1 << 9);
        world.exit(&synth::cpuid());
        assert_eq!(world.get(Field::VM_ENTRY_INTERRUPTION_INFO), 0x0b0d, "only the valid bit is cleared");
        assert_eq!(
            world.get(Field::VM_ENTRY_CONTROLS),
            controls | u64::from(after) << 9,
            "{misc_bit_5} {lma} {before}"
        );
    }
}

#[test]
fn outside_64_bit_mode_linear_addresses_have_32_bits() {
    const WIDE: u64 = 0xffff_8000_1234_5678;
    for (long, expected) in [(true, WIDE), (false, WIDE & 0xffff_ffff)] {
        let mut world = World::new();
        if !long {
            world.cpu.segments[x86_state::SegmentRegister::Cs].rights = x86_state::AccessRights::CODE_32;
        }
        let mut fault = world.clone();
        fault.exit(&synth::page_fault(Gva(WIDE), 0));
        assert_eq!(fault.get(Field::EXIT_QUALIFICATION), expected);
        let mut invlpg = world.clone();
        invlpg.exit(&synth::invlpg(Gva(WIDE), 3));
        assert_eq!(invlpg.get(Field::EXIT_QUALIFICATION), expected);
        world.exit(&synth::ept_violation(
            Gpa(WIDE),
            EptViolation { linear: Some(Gva(WIDE)), ..EptViolation::default() },
        ));
        assert_eq!(world.get(Field::GUEST_LINEAR_ADDRESS), expected);
        assert_eq!(world.get(Field::GUEST_PHYSICAL_ADDRESS), WIDE, "guest-physical addresses keep their bits");
    }
}

#[test]
fn some_exits_are_not_considered_to_occur_during_delivery() {
    let int = Event::software_interrupt(0x80, 2);
    for (exit, valid) in [
        (synth::page_fault(Gva(0), 0), true),
        (synth::exception(Exception::DF, Some(0)), false),
        (synth::triple_fault(), false),
        (synth::nmi(), false),
        (synth::external_interrupt(Some(0x30)), false),
        (synth::cpuid(), false),
        (synth::preemption_timer(), false),
    ] {
        let vmcs = recorded(&exit.during(int));
        assert_eq!(vmcs.get(Field::IDT_VECTORING_INFO) >> 31 == 1, valid, "{exit:?}");
    }
}

#[test]
fn msr_data_is_recorded_for_wrmsrlist() {
    let exit = Exit { msr_data: Some(u64::MAX), ..Exit::instruction(ExitReason::WRMSRLIST, 5) };
    assert_eq!(recorded(&exit).get(Field::MSR_DATA), u64::MAX);
}

/// Rev 092 tells WRMSRNS from WRMSR by the exit qualification: the rows of reason 32 have to say that there is one.
#[test]
fn the_rows_of_wrmsr_have_the_qualification_that_tells_wrmsrns() {
    let row = ExitReason::WRMSR.row().unwrap();
    assert!(row.records().is_some_and(|records| records.contains(Records::QUALIFICATION)));
    assert_eq!(class::Row::of(ExitReason::WRMSR).unwrap().qualification, class::Defined::Always);
}
