//! Exceptions, failed walks and instruction boundaries: who exits, with which information, and who comes first?

use softvirt_ept::{Access, Direct, Operation, Paging, PagingSupport, Privilege, walk};
use vmx_model::entry::Injection;
use vmx_model::event::boundary::{LadderStep, completed, external_interrupt_exit, preemption_timer_expired};
use vmx_model::event::{Boundary, Circumstances, Pending, Raised, Reaction, boundary, exception, translation_failure};
use vmx_model::exit::{Abort, ResumeFlag};
use vmx_model::known::Operation as VmxOperation;
use vmx_model::reasons::ExitReason;
use vmx_model::vmx::PreemptionTimer;
use vmx_model::{Control, Controls, Exit, Field, Vmx, translation};
use x86_state::mem::WordMemory;
use x86_state::profile::{Knobs, NmiAfterSti, ShadowedExits};
use x86_state::{
    AccessRights, ActivityState, Cpu, Cr0, Cr4, Efer, Event, EventType, Exception, Gpa, Gva, Hpa, Interruptibility,
    PendingDebug, PhysMemory, Platform, Rflags, SegmentRegister, profiles,
};

/// A processor in VMX non-root operation with these controls and no others.
fn guest(controls: &[Control]) -> Vmx {
    let mut vmx = Vmx::new(&profiles::MAX);
    vmx.state.operation = VmxOperation::NonRoot;
    vmx.state.current_vmcs = Some(Hpa(0x1000));
    for control in controls {
        let activating = control.vector().activated_by();
        for control in activating.iter().chain([control]) {
            vmx.vmcs.update(control.vector().field(), |bits| bits | control.mask());
        }
    }
    vmx.guest.controls = Controls::of(&vmx.vmcs);
    vmx
}

/// A processor in 64-bit mode, at privilege level 0, that accepts interrupts.
fn cpu() -> Cpu {
    let mut cpu = Cpu::reset(0);
    cpu.cr0 = Cr0::PE | Cr0::PG;
    cpu.cr4 = Cr4::PAE;
    cpu.efer = Efer::LME | Efer::LMA;
    cpu.segments[SegmentRegister::Cs].rights = AccessRights(0xa09b);
    cpu.rflags = Rflags::FIXED_1 | Rflags::IF;
    cpu.rip = 0x1000;
    cpu
}

fn exit_of(reaction: Reaction) -> Exit {
    match reaction {
        Reaction::Exit(exit) => exit,
        other => panic!("no exit: {other:?}"),
    }
}

#[test]
fn the_exception_bitmap_selects_exceptions_by_vector() {
    for vector in (0..32).filter(|vector| *vector != 14) {
        let mut vmx = guest(&[]);
        let raised = Raised::new(Event::exception(Exception(vector)));
        let alone = Circumstances::default();
        vmx.vmcs.set(Field::EXCEPTION_BITMAP, !(1 << vector));
        assert_eq!(exception(&vmx, &cpu(), &raised, &alone), Reaction::Deliver(raised.event), "{vector}");
        vmx.vmcs.set(Field::EXCEPTION_BITMAP, 1 << vector);
        let exit = exit_of(exception(&vmx, &cpu(), &raised, &alone));
        assert_eq!((exit.reason, exit.event), (ExitReason::EXCEPTION_OR_NMI, Some(raised.event)), "{vector}");
    }
}

/// B-14: a page fault exits if and only if bit 14 equals "code and mask is match".
#[test]
fn b_14_page_faults_exit_by_mask_and_match() {
    for (bit, mask, matched, code, exits) in [
        // All page faults, no page faults (SDM 3C 25.2).
        (true, 0, 0, 0x7, true),
        (true, 0, 0xffff_ffff, 0x7, false),
        (false, 0, 0xffff_ffff, 0x7, true),
        (false, 0, 0, 0x7, false),
        // Only user accesses; only supervisor accesses.
        (true, 4, 4, 0x7, true),
        (true, 4, 4, 0x3, false),
        (false, 4, 4, 0x7, false),
        (false, 4, 4, 0x3, true),
        // Bits beyond the architecture's error codes are compared as well.
        (true, 0x8000_0000, 0x8000_0000, 0x7, false),
    ] {
        let mut vmx = guest(&[]);
        vmx.vmcs.set(Field::EXCEPTION_BITMAP, if bit { 1 << 14 } else { !(1 << 14) });
        vmx.vmcs.set(Field::PAGE_FAULT_ERROR_CODE_MASK, mask);
        vmx.vmcs.set(Field::PAGE_FAULT_ERROR_CODE_MATCH, matched);
        let raised = Raised::page_fault(Gva(0x1234), code);
        let exited = matches!(exception(&vmx, &cpu(), &raised, &Circumstances::default()), Reaction::Exit(_));
        assert_eq!(exited, exits, "bit 14 {bit}, mask {mask:#x}, match {matched:#x}, code {code:#x}");
    }
}

#[test]
fn software_interrupts_and_vectors_above_31_pass_the_bitmap() {
    let mut vmx = guest(&[]);
    vmx.vmcs.set(Field::EXCEPTION_BITMAP, u64::MAX);
    for event in [
        Event::software_interrupt(3, 2),
        Event::external_interrupt(13),
        Event::nmi(),
        Event { kind: EventType::HARDWARE_EXCEPTION, ..Event::exception(Exception(32)) },
    ] {
        let reaction = exception(&vmx, &cpu(), &Raised::new(event), &Circumstances::default());
        assert_eq!(reaction, Reaction::Deliver(event));
    }
}

/// B-53: a guest whose handlers of #AC or #DB fault again with the same would deliver for ever; a hypervisor that sets their bits gets each of
/// them, also while the one before is being delivered.
#[test]
fn b_53_alignment_checks_and_debug_exceptions_exit_even_during_their_own_delivery() {
    for event in [Event::exception_with_code(Exception::AC, 0), Event::exception(Exception::DB)] {
        let during = Circumstances::during(event);
        let mut vmx = guest(&[]);
        assert_eq!(exception(&vmx, &cpu(), &Raised::new(event), &during), Reaction::Deliver(event), "benign: serially");
        vmx.vmcs.set(Field::EXCEPTION_BITMAP, 1 << event.vector);
        let exit = exit_of(exception(&vmx, &cpu(), &Raised::new(event), &during));
        assert_eq!((exit.event, exit.delivering), (Some(event), Some(event)));
    }
}

#[test]
fn an_exception_that_exits_records_what_the_manual_asks_for() {
    let int3 =
        Event { kind: EventType::SOFTWARE_EXCEPTION, instruction_len_bytes: 1, ..Event::exception(Exception::BP) };
    let int1 = Event {
        kind: EventType::PRIVILEGED_SOFTWARE_EXCEPTION,
        ..Event { instruction_len_bytes: 1, ..Event::exception(Exception::DB) }
    };
    for (name, raised, qualification, len, resume_flag) in [
        ("#GP", Raised::new(Event::exception_with_code(Exception::GP, 0x10)), 0, None, ResumeFlag::Set),
        ("#PF", Raised::page_fault(Gva(0xffff_8000_0000_1234), 2), 0xffff_8000_0000_1234, None, ResumeFlag::Set),
        // DR6's bit 12 and those above 16 are no part of the qualification.
        ("single step", Raised::debug(0xffff_0000_0000_5000), 0x4000, None, ResumeFlag::Kept),
        ("general detect", Raised::debug(1 << 13), 0x2000, None, ResumeFlag::Set),
        ("breakpoint 3 in RTM", Raised::debug(0x1_0008), 0x1_0008, None, ResumeFlag::Kept),
        ("INT3", Raised::new(int3), 0, Some(1), ResumeFlag::Clear),
        ("INT1", Raised::new(int1), 0, Some(1), ResumeFlag::Clear),
        ("#DF", Raised::new(Event::exception_with_code(Exception::DF, 0)), 0, None, ResumeFlag::Kept),
    ] {
        let mut vmx = guest(&[]);
        vmx.vmcs.set(Field::EXCEPTION_BITMAP, u64::MAX);
        let exit = exit_of(exception(&vmx, &cpu(), &raised, &Circumstances::default()));
        let expected = Exit {
            qualification,
            instruction_len_bytes: len,
            resume_flag,
            event: Some(raised.event),
            ..Exit::new(ExitReason::EXCEPTION_OR_NMI)
        };
        assert_eq!(exit, expected, "{name}");
    }
}

#[test]
fn real_address_mode_has_no_error_codes_and_32_bit_code_no_upper_address_bits() {
    let mut vmx = guest(&[]);
    vmx.vmcs.set(Field::EXCEPTION_BITMAP, u64::MAX);
    let real = Cpu { cr0: Cr0::empty(), efer: Efer::empty(), ..cpu() };
    let raised = Raised::new(Event::exception_with_code(Exception::GP, 0));
    let exit = exit_of(exception(&vmx, &real, &raised, &Circumstances::default()));
    assert_eq!(exit.event, Some(Event::exception(Exception::GP)));

    let mut compatibility = cpu();
    compatibility.segments[SegmentRegister::Cs].rights = AccessRights(0xc09b);
    let raised = Raised::page_fault(Gva(0x1_0000_1234), 0);
    let exit = exit_of(exception(&vmx, &compatibility, &raised, &Circumstances::default()));
    assert_eq!(exit.qualification, 0x1234);
}

#[test]
fn nested_exceptions_exit_by_themselves_or_as_a_double_or_triple_fault() {
    let gp = Event::exception_with_code(Exception::GP, 0);
    let np = Event::exception_with_code(Exception::NP, 8);
    let df = Event::exception_with_code(Exception::DF, 0);
    let irq = Event::external_interrupt(13);
    let int_13 = Event::software_interrupt(13, 2);
    let triple = Reaction::Exit(Exit::new(ExitReason::TRIPLE_FAULT));
    // Bitmap, event being delivered, exception raised, reaction as (exit's event, its vectoring event) or delivery.
    for (name, bitmap, first, second, expected) in [
        ("#NP in #GP, no exits", 0, gp, np, Reaction::Deliver(df)),
        ("#NP in #DF, no exits", 0, df, np, triple),
        // A vector of 13 does not make an interrupt contributory.
        ("#NP in an interrupt", 0, irq, np, Reaction::Deliver(np)),
        ("#NP in INT 13", 0, int_13, np, Reaction::Deliver(np)),
        ("#NP in #GP, only #GP exits", 1 << 13, gp, np, Reaction::Deliver(df)),
    ] {
        let mut vmx = guest(&[]);
        vmx.vmcs.set(Field::EXCEPTION_BITMAP, bitmap);
        assert_eq!(exception(&vmx, &cpu(), &Raised::new(second), &Circumstances::during(first)), expected, "{name}");
    }
    for (name, bitmap, first, second, event, vectoring, len) in [
        ("the second exits", 1 << 11, gp, np, np, Some(gp), None),
        ("the second exits in a software interrupt", 1 << 11, int_13, np, np, Some(int_13), Some(2)),
        ("the second exits in a double fault", 1 << 11, df, np, np, Some(df), None),
        // 27.2.4: a double fault that exits is not considered to occur during event delivery.
        ("the double fault exits", 1 << 8, gp, np, df, None, None),
    ] {
        let mut vmx = guest(&[]);
        vmx.vmcs.set(Field::EXCEPTION_BITMAP, bitmap);
        let exit = exit_of(exception(&vmx, &cpu(), &Raised::new(second), &Circumstances::during(first)));
        assert_eq!((exit.event, exit.delivering, exit.instruction_len_bytes), (Some(event), vectoring, len), "{name}");
    }
}

#[test]
fn outside_non_root_operation_nothing_exits() {
    let mut vmx = guest(&[]);
    vmx.vmcs.set(Field::EXCEPTION_BITMAP, u64::MAX);
    vmx.state.operation = VmxOperation::Root;
    let df = Event::exception_with_code(Exception::DF, 0);
    let gp = Raised::new(Event::exception_with_code(Exception::GP, 0));
    assert_eq!(exception(&vmx, &cpu(), &gp, &Circumstances::default()), Reaction::Deliver(gp.event));
    assert_eq!(exception(&vmx, &cpu(), &gp, &Circumstances::during(df)), Reaction::Shutdown);
}

#[test]
fn nmi_unblocking_is_told_where_it_is_defined() {
    let unblocking = Circumstances { unblocks_nmi: true, ..Circumstances::default() };
    let during = Circumstances { delivering: Some(Event::nmi()), ..unblocking };
    let gp = Raised::new(Event::exception_with_code(Exception::GP, 0));
    let df = Raised::new(Event::exception_with_code(Exception::DF, 0));
    for (name, controls, raised, circumstances, expected) in [
        ("NMI exiting 0", &[][..], gp, unblocking, true),
        ("NMI exiting 1", &[Control::NMI_EXITING], gp, unblocking, false),
        ("virtual NMIs", &[Control::NMI_EXITING, Control::VIRTUAL_NMIS], gp, unblocking, true),
        ("during delivery", &[], gp, during, false),
        ("double fault", &[], df, unblocking, false),
    ] {
        let mut vmx = guest(controls);
        vmx.vmcs.set(Field::EXCEPTION_BITMAP, u64::MAX);
        let exit = exit_of(exception(&vmx, &cpu(), &raised, &circumstances));
        assert_eq!(exit.nmi_unblocking, expected, "{name}");
    }
}

/// EPT with a root and nothing in it; the information area at 0x8000 is free.
fn empty_ept() -> WordMemory<8> {
    let area = [0x8000, 0x8008, 0x8010, 0x8018, 0x8020].map(|address| (address, 0));
    WordMemory::new([(0x2000, 0), area[0], area[1], area[2], area[3], area[4], (0, 0), (0, 0)])
}

fn ept_guest(more: &[Control]) -> Vmx {
    let mut controls = vec![Control::ENABLE_EPT];
    controls.extend(more);
    let mut vmx = guest(&controls);
    vmx.vmcs.set(Field::EPT_POINTER, 0x201e);
    vmx.vmcs.set(Field::VIRTUALIZATION_EXCEPTION_INFORMATION_ADDRESS, 0x8000);
    vmx.vmcs.set(Field::EPTP_INDEX, 7);
    vmx
}

/// What becomes of a user-mode write to linear address 0x1234_5678 while paging is off in a protected-mode guest.
fn write_without_paging(vmx: &Vmx, memory: &WordMemory<8>, circumstances: &Circumstances) -> Reaction {
    let flat = Cpu { cr0: Cr0::PE, cr4: Cr4::empty(), efer: Efer::empty(), ..cpu() };
    let paging = translation::paging(vmx, &flat, &PagingSupport::new(46));
    let ept = translation::ept(vmx, &profiles::MAX, None).expect("EPT is on");
    let access = Access::new(Operation::Write, Privilege::User);
    let linear = Gva(0x1234_5678);
    let failure = walk(memory, &paging, &ept, linear, access).expect_err("nothing is mapped");
    translation_failure(vmx, &flat, memory, &paging, Some(&ept), &failure, access, linear, circumstances)
}

#[test]
fn an_ept_violation_exits_with_both_addresses() {
    let memory = empty_ept();
    let exit = exit_of(write_without_paging(&ept_guest(&[]), &memory, &Circumstances::default()));
    assert_eq!(exit.reason, ExitReason::EPT_VIOLATION);
    // A write to the translation of a linear address (bits 1, 7, 8); user-mode, writable, executable (bits 9 and 10) without paging.
    assert_eq!(exit.qualification, 0x782);
    assert_eq!((exit.linear, exit.physical), (Some(Gva(0x1234_5678)), Some(Gpa(0x1234_5678))));
    assert_eq!((exit.resume_flag, exit.event, exit.instruction_len_bytes), (ResumeFlag::Set, None, None));
}

#[test]
fn an_ept_violation_during_delivery_tells_the_event_and_its_instruction() {
    let memory = empty_ept();
    let int_80 = Event::software_interrupt(0x80, 2);
    let exit = exit_of(write_without_paging(&ept_guest(&[]), &memory, &Circumstances::during(int_80)));
    assert_eq!((exit.delivering, exit.instruction_len_bytes), (Some(int_80), Some(2)));
    assert_eq!(exit.resume_flag, ResumeFlag::Clear);
}

#[test]
fn an_iret_that_unblocked_nmis_is_told_in_the_qualification() {
    let memory = empty_ept();
    let circumstances = Circumstances { unblocks_nmi: true, ..Circumstances::default() };
    let exit = exit_of(write_without_paging(&ept_guest(&[]), &memory, &circumstances));
    assert_eq!(exit.qualification, 0x1782);
    let exit = exit_of(write_without_paging(&ept_guest(&[Control::NMI_EXITING]), &memory, &circumstances));
    assert_eq!(exit.qualification, 0x782);
}

#[test]
fn a_misconfiguration_tells_the_guest_physical_address_alone() {
    // Write without read.
    let memory = WordMemory::new([(0x2000, 2), (0, 0), (0, 0), (0, 0), (0, 0), (0, 0), (0, 0), (0, 0)]);
    let exit = exit_of(write_without_paging(&ept_guest(&[]), &memory, &Circumstances::default()));
    assert_eq!((exit.reason, exit.qualification), (ExitReason::EPT_MISCONFIGURATION, 0));
    assert_eq!((exit.linear, exit.physical), (None, Some(Gpa(0x1234_5678))));
}

#[test]
fn a_convertible_violation_fills_the_area_and_is_delivered() {
    let memory = empty_ept();
    let vmx = ept_guest(&[Control::EPT_VIOLATION_VE]);
    let reaction = write_without_paging(&vmx, &memory, &Circumstances::default());
    assert_eq!(reaction, Reaction::Deliver(Event::exception(Exception::VE)));
    // Table 25-1: reason, FFFFFFFFH; qualification; linear; physical; EPTP index.
    let area = [0, 8, 16, 24, 32].map(|offset| memory.read_u64(Hpa(0x8000 + offset)));
    assert_eq!(area, [0xffff_ffff_0000_0030, 0x782, 0x1234_5678, 0x1234_5678, 7]);
    // The area is in use now: the next one exits.
    let exit = exit_of(write_without_paging(&vmx, &memory, &Circumstances::default()));
    assert_eq!(exit.reason, ExitReason::EPT_VIOLATION);
}

#[test]
fn a_virtualization_exception_may_exit_and_is_suppressed_by_bit_63_and_by_delivery() {
    let memory = empty_ept();
    let mut vmx = ept_guest(&[Control::EPT_VIOLATION_VE]);
    let during = Circumstances::during(Event::nmi());
    assert_eq!(exit_of(write_without_paging(&vmx, &memory, &during)).reason, ExitReason::EPT_VIOLATION);
    vmx.vmcs.set(Field::EXCEPTION_BITMAP, 1 << 20);
    let exit = exit_of(write_without_paging(&vmx, &memory, &Circumstances::default()));
    assert_eq!((exit.reason, exit.event), (ExitReason::EXCEPTION_OR_NMI, Some(Event::exception(Exception::VE))));

    let suppressed = WordMemory::new([(0x2000, 1 << 63), (0x8000, 0), (0, 0), (0, 0), (0, 0), (0, 0), (0, 0), (0, 0)]);
    let exit = exit_of(write_without_paging(&vmx, &suppressed, &Circumstances::default()));
    assert_eq!(exit.reason, ExitReason::EPT_VIOLATION);
}

#[test]
fn a_page_fault_of_the_guests_own_tables_meets_the_bitmap() {
    let memory = WordMemory::new([(0x3000, 0)]);
    let mut vmx = guest(&[]);
    let paged = Cpu { cr3: 0x3000, ..cpu() };
    let paging: Paging = translation::paging(&vmx, &paged, &PagingSupport::new(46));
    let access = Access::new(Operation::Read, Privilege::User);
    let failure = walk(&memory, &paging, &Direct, Gva(0x1000), access).expect_err("nothing is mapped");
    let alone = Circumstances::default();
    let react =
        |vmx: &Vmx| translation_failure(vmx, &paged, &memory, &paging, None, &failure, access, Gva(0x1000), &alone);
    assert_eq!(react(&vmx), Reaction::Deliver(Event::exception_with_code(Exception::PF, 4)));
    vmx.vmcs.set(Field::EXCEPTION_BITMAP, 1 << 14);
    assert_eq!(exit_of(react(&vmx)).qualification, 0x1000);
}

fn platform<'a>(memory: &'a WordMemory<8>) -> Platform<'a, WordMemory<8>> {
    Platform::new(&profiles::MAX, memory)
}

/// Everything pending at once, everything exiting: what is left after the first is taken away, one after the other.
#[test]
fn the_ladder_is_the_manuals() {
    let memory = empty_ept();
    let mut vmx = guest(&[
        Control::BUS_LOCK_DETECTION,
        Control::NMI_EXITING,
        Control::VIRTUAL_NMIS,
        Control::NMI_WINDOW_EXITING,
        Control::INTERRUPT_WINDOW_EXITING,
        Control::EXTERNAL_INTERRUPT_EXITING,
        Control::ACTIVATE_PREEMPTION_TIMER,
    ]);
    vmx.guest.tpr_threshold_due = true;
    vmx.guest.mtf_pending = true;
    let mut cpu = Cpu { pending_debug: PendingDebug::BS, ..cpu() };
    let mut pending = Pending {
        machine_check: true,
        bus_lock: true,
        smi: true,
        init: true,
        sipi: Some(9),
        nmi: true,
        external_interrupt: true,
        between_iterations: false,
    };
    let reason = |boundary: Boundary| match boundary {
        Boundary::Exit(exit) => exit.reason,
        other => panic!("no exit: {other:?}"),
    };
    let ask = |vmx: &Vmx, cpu: &Cpu, pending: &Pending| boundary(vmx, cpu, &platform(&memory), pending);

    assert_eq!(ask(&vmx, &cpu, &pending), Boundary::Raise(Raised::new(Event::exception(Exception::MC))));
    pending.machine_check = false;
    assert_eq!(reason(ask(&vmx, &cpu, &pending)), ExitReason::BUS_LOCK_ASSERTION);
    pending.bus_lock = false;
    assert_eq!(reason(ask(&vmx, &cpu, &pending)), ExitReason::TPR_BELOW_THRESHOLD);
    vmx.guest.tpr_threshold_due = false;
    assert_eq!(ask(&vmx, &cpu, &pending), Boundary::Smi);
    pending.smi = false;
    assert_eq!(reason(ask(&vmx, &cpu, &pending)), ExitReason::INIT_SIGNAL);
    pending.init = false;
    // The SIPI is blocked in the active state.
    assert_eq!(reason(ask(&vmx, &cpu, &pending)), ExitReason::MONITOR_TRAP_FLAG);
    vmx.guest.mtf_pending = false;
    assert_eq!(ask(&vmx, &cpu, &pending), Boundary::Raise(Raised::debug(1 << 14)));
    cpu.pending_debug = PendingDebug::empty();
    assert_eq!(reason(ask(&vmx, &cpu, &pending)), ExitReason::PREEMPTION_TIMER_EXPIRED);
    vmx.guest.preemption_timer.value = 1;
    assert_eq!(reason(ask(&vmx, &cpu, &pending)), ExitReason::NMI_WINDOW);
    vmx.guest.virtual_nmi_blocking = true;
    assert_eq!(reason(ask(&vmx, &cpu, &pending)), ExitReason::EXCEPTION_OR_NMI);
    pending.nmi = false;
    assert_eq!(reason(ask(&vmx, &cpu, &pending)), ExitReason::INTERRUPT_WINDOW);
    cpu.rflags -= Rflags::IF;
    assert_eq!(reason(ask(&vmx, &cpu, &pending)), ExitReason::EXTERNAL_INTERRUPT);
    pending.external_interrupt = false;
    assert_eq!(ask(&vmx, &cpu, &pending), Boundary::Run);
}

#[test]
fn inactive_states_hold_back_what_the_manual_says() {
    // One letter for each step of the ladder, from the highest: x is held back.
    for (activity, blocked) in [
        (ActivityState::ACTIVE, ".....x......."),
        (ActivityState::HLT, ".....x......."),
        (ActivityState::SHUTDOWN, "..x..xx....xx"),
        (ActivityState::WAIT_FOR_SIPI, "xxxxx.xxxxxxx"),
    ] {
        let found: String =
            LadderStep::ALL.iter().map(|step| if step.blocked_in(activity) { 'x' } else { '.' }).collect();
        assert_eq!(found, blocked, "{activity:?}");
    }
}

#[test]
fn a_processor_with_nothing_to_do_sleeps_in_its_state() {
    let memory = empty_ept();
    for (activity, expected) in [
        (ActivityState::ACTIVE, Boundary::Run),
        (ActivityState::HLT, Boundary::Sleep),
        (ActivityState::SHUTDOWN, Boundary::Sleep),
        (ActivityState::WAIT_FOR_SIPI, Boundary::Sleep),
    ] {
        let cpu = Cpu { activity, ..cpu() };
        assert_eq!(boundary(&guest(&[]), &cpu, &platform(&memory), &Pending::default()), expected);
    }
}

/// 27.7: "RESET is the only event that wakes a logical processor from the VMX-abort shutdown state."
#[test]
fn nothing_wakes_a_processor_after_a_vmx_abort() {
    let memory = empty_ept();
    let all = [
        ("machine check", Pending { machine_check: true, ..Pending::default() }),
        ("SMI", Pending { smi: true, ..Pending::default() }),
        ("INIT", Pending { init: true, ..Pending::default() }),
        ("SIPI", Pending { sipi: Some(0x9a), ..Pending::default() }),
        ("NMI", Pending { nmi: true, ..Pending::default() }),
        ("interrupt", Pending { external_interrupt: true, ..Pending::default() }),
    ];
    for (name, pending) in all {
        let mut vmx = guest(&[]);
        vmx.state.operation = VmxOperation::Root;
        vmx.aborted = Some(Abort::LOADING_MSRS);
        let cpu = Cpu { activity: ActivityState::SHUTDOWN, ..cpu() };
        assert_eq!(boundary(&vmx, &cpu, &platform(&memory), &pending), Boundary::Sleep, "{name}");
    }
}

#[test]
fn a_sipi_exits_only_while_it_is_waited_for() {
    let memory = empty_ept();
    let pending = Pending { sipi: Some(0x9a), ..Pending::default() };
    let waiting = Cpu { activity: ActivityState::WAIT_FOR_SIPI, ..cpu() };
    let exit = Exit::new(ExitReason::SIPI).qualified(0x9a);
    assert_eq!(boundary(&guest(&[]), &waiting, &platform(&memory), &pending), Boundary::Exit(exit));
    assert_eq!(boundary(&guest(&[]), &cpu(), &platform(&memory), &pending), Boundary::Run);
    let mut outside = guest(&[]);
    outside.state.operation = VmxOperation::Outside;
    assert_eq!(boundary(&outside, &waiting, &platform(&memory), &pending), Boundary::Sipi(0x9a));
}

#[test]
fn init_is_blocked_in_root_operation_and_resets_outside() {
    let memory = empty_ept();
    let pending = Pending { init: true, ..Pending::default() };
    for (operation, expected) in [
        (VmxOperation::Outside, Boundary::Init),
        (VmxOperation::Root, Boundary::Run),
        (
            VmxOperation::NonRoot,
            Boundary::Exit(Exit { keeps_pending_debug: true, ..Exit::new(ExitReason::INIT_SIGNAL) }),
        ),
    ] {
        let mut vmx = guest(&[]);
        vmx.state.operation = operation;
        assert_eq!(boundary(&vmx, &cpu(), &platform(&memory), &pending), expected, "{operation:?}");
    }
}

/// B-76: only an acknowledged interrupt is in the interruption information.
#[test]
fn b_76_external_interrupts_are_acknowledged_if_the_control_says_so() {
    let memory = empty_ept();
    let pending = Pending { external_interrupt: true, ..Pending::default() };
    let masked = Cpu { rflags: Rflags::FIXED_1, ..cpu() };
    let exits = guest(&[Control::EXTERNAL_INTERRUPT_EXITING]);
    let plain = Exit::new(ExitReason::EXTERNAL_INTERRUPT);
    // RFLAGS.IF does not hold back interrupts that exit.
    for cpu in [&cpu(), &masked] {
        assert_eq!(boundary(&exits, cpu, &platform(&memory), &pending), Boundary::Exit(plain));
    }
    let acknowledges = guest(&[Control::EXTERNAL_INTERRUPT_EXITING, Control::ACKNOWLEDGE_INTERRUPT_ON_EXIT]);
    assert_eq!(boundary(&acknowledges, &masked, &platform(&memory), &pending), Boundary::AcknowledgeAndExit);
    let exit = external_interrupt_exit(Some(0x31), &Circumstances::default());
    assert_eq!(exit, Exit { event: Some(Event::external_interrupt(0x31)), ..plain });

    assert_eq!(boundary(&guest(&[]), &masked, &platform(&memory), &pending), Boundary::Run);
    assert_eq!(boundary(&guest(&[]), &cpu(), &platform(&memory), &pending), Boundary::DeliverExternalInterrupt);
}

#[test]
fn shadows_hold_back_exits_unless_the_processor_says_otherwise() {
    let memory = empty_ept();
    let vmx = guest(&[Control::EXTERNAL_INTERRUPT_EXITING, Control::NMI_EXITING]);
    for shadow in [Interruptibility::STI, Interruptibility::MOV_SS] {
        let cpu = Cpu { interruptibility: shadow, ..cpu() };
        for pending in
            [Pending { nmi: true, ..Pending::default() }, Pending { external_interrupt: true, ..Pending::default() }]
        {
            assert_eq!(boundary(&vmx, &cpu, &platform(&memory), &pending), Boundary::Run, "{shadow:?}");
            let eager = profiles::MAX.with_knobs(Knobs { shadowed_exits: ShadowedExits::Taken, ..Knobs::DEFAULT });
            let eager = Platform::new(&eager, &memory);
            assert!(matches!(boundary(&vmx, &cpu, &eager, &pending), Boundary::Exit(_)), "{shadow:?}");
        }
    }
}

#[test]
fn sti_holds_back_nmis_unless_the_processor_says_otherwise() {
    let memory = empty_ept();
    let pending = Pending { nmi: true, ..Pending::default() };
    let prompt = profiles::MAX.with_knobs(Knobs { nmi_after_sti: NmiAfterSti::Delivered, ..Knobs::DEFAULT });
    for (profile, shadow, expected) in [
        (&profiles::MAX, Interruptibility::empty(), Boundary::Deliver(Event::nmi())),
        (&profiles::MAX, Interruptibility::STI, Boundary::Run),
        (&profiles::MAX, Interruptibility::MOV_SS, Boundary::Run),
        (&prompt, Interruptibility::STI, Boundary::Deliver(Event::nmi())),
        (&prompt, Interruptibility::MOV_SS, Boundary::Run),
    ] {
        let cpu = Cpu { interruptibility: shadow, ..cpu() };
        let platform = Platform::new(profile, &memory);
        for vmx in [Vmx::new(profile), guest(&[])] {
            assert_eq!(boundary(&vmx, &cpu, &platform, &pending), expected, "{shadow:?}");
        }
    }
}

#[test]
fn nmis_are_blocked_by_nmis_except_where_they_are_virtual() {
    let memory = empty_ept();
    let pending = Pending { nmi: true, ..Pending::default() };
    let blocked = Cpu { interruptibility: Interruptibility::NMI, ..cpu() };
    let exit = Boundary::Exit(Exit { event: Some(Event::nmi()), ..Exit::new(ExitReason::EXCEPTION_OR_NMI) });
    for (controls, cpu, expected) in [
        (&[][..], &cpu(), Boundary::Deliver(Event::nmi())),
        (&[], &blocked, Boundary::Run),
        (&[Control::NMI_EXITING], &cpu(), exit),
        (&[Control::NMI_EXITING], &blocked, Boundary::Run),
        (&[Control::NMI_EXITING, Control::VIRTUAL_NMIS], &blocked, exit),
    ] {
        assert_eq!(boundary(&guest(controls), cpu, &platform(&memory), &pending), expected, "{controls:?}");
    }
}

#[test]
fn debug_traps_wait_for_the_end_of_mov_ss_and_need_a_valid_cause() {
    let memory = empty_ept();
    let vmx = guest(&[]);
    for (pending_debug, shadow, expected) in [
        // 26.7.3: valid are BS and "enabled breakpoint" only, which comes with a bus lock (rev 092, Table 27-4).
        (PendingDebug::BUS_LOCK, Interruptibility::empty(), Boundary::Run),
        (
            PendingDebug::BUS_LOCK | PendingDebug::ENABLED_BREAKPOINT,
            Interruptibility::empty(),
            Boundary::Raise(Raised::debug(1 << 11)),
        ),
        (PendingDebug::BS, Interruptibility::empty(), Boundary::Raise(Raised::debug(1 << 14))),
        (PendingDebug::BS, Interruptibility::MOV_SS, Boundary::Run),
        (PendingDebug::BS, Interruptibility::STI, Boundary::Raise(Raised::debug(1 << 14))),
        // Conditions that were met, and none of them enabled.
        (PendingDebug::B, Interruptibility::empty(), Boundary::Run),
        (PendingDebug::from_bits_retain(0x1004), Interruptibility::empty(), Boundary::Raise(Raised::debug(4))),
    ] {
        let cpu = Cpu { pending_debug, interruptibility: shadow, ..cpu() };
        assert_eq!(boundary(&vmx, &cpu, &platform(&memory), &Pending::default()), expected, "{pending_debug:?}");
    }
}

#[test]
fn repeated_strings_save_rf_as_1_when_an_interrupt_exits_between_iterations() {
    let memory = empty_ept();
    let vmx = guest(&[Control::EXTERNAL_INTERRUPT_EXITING]);
    let pending = Pending { external_interrupt: true, between_iterations: true, ..Pending::default() };
    let Boundary::Exit(exit) = boundary(&vmx, &cpu(), &platform(&memory), &pending) else { panic!("no exit") };
    assert_eq!(exit.resume_flag, ResumeFlag::Set);
}

#[test]
fn the_preemption_timer_counts_changes_of_one_bit_of_the_time_stamp_counter() {
    let vmx_with = |value, loaded_at| {
        let mut vmx = guest(&[Control::ACTIVATE_PREEMPTION_TIMER]);
        vmx.guest.preemption_timer = PreemptionTimer { loaded_at, value };
        vmx
    };
    // Bit 5 changes each 32 counts.
    let profile = profiles::MAX.with_vmx(x86_state::VmxMsr::Misc, Some(5));
    for (loaded_at, value, tsc, remaining) in [
        (0, 2, 31, 2),
        (0, 2, 32, 1),
        (0, 2, 63, 1),
        (0, 2, 64, 0),
        // Loaded just before a change.
        (31, 2, 32, 1),
        (31, 0, 31, 0),
        (0, u32::MAX, u64::MAX, 0),
        // A counter that was set back has not passed anything.
        (1000, 2, 0, 2),
    ] {
        let vmx = vmx_with(value, loaded_at);
        assert_eq!(
            vmx.guest.preemption_timer.remaining(tsc, PreemptionTimer::tsc_bit(&profile)),
            remaining,
            "{loaded_at} {value} {tsc}"
        );
        assert_eq!(preemption_timer_expired(&vmx, &profile, tsc), remaining == 0);
    }
    assert!(!preemption_timer_expired(&guest(&[]), &profile, u64::MAX));
}

#[test]
fn mtf_is_pending_after_every_completed_instruction_while_the_control_is_1() {
    let mut vmx = guest(&[]);
    completed(&mut vmx);
    assert!(!vmx.guest.mtf_pending);
    let mut vmx = guest(&[Control::MONITOR_TRAP_FLAG]);
    completed(&mut vmx);
    assert!(vmx.guest.mtf_pending);
}

/// 29.2.2: at the priority of interrupt windows, under the same conditions, and only with the controls that the section names.
#[test]
fn a_recognized_virtual_interrupt_is_delivered_at_the_priority_of_interrupt_windows() {
    let memory = empty_ept();
    let with = |controls: &[Control]| {
        let mut vmx = guest(controls);
        vmx.guest.virtual_interrupt_recognized = true;
        vmx
    };
    let delivering = with(&[Control::VIRTUAL_INTERRUPT_DELIVERY, Control::EXTERNAL_INTERRUPT_EXITING]);
    let window = with(&[Control::VIRTUAL_INTERRUPT_DELIVERY, Control::INTERRUPT_WINDOW_EXITING]);
    let masked = Cpu { rflags: Rflags::FIXED_1, ..cpu() };
    let shadowed = |interruptibility| Cpu { interruptibility, ..cpu() };
    let none = Pending::default();
    let interrupt = Pending { external_interrupt: true, ..none };
    let nmi = Pending { nmi: true, ..interrupt };
    let exit = Boundary::Exit(Exit::new(ExitReason::INTERRUPT_WINDOW));
    for (name, vmx, cpu, pending, expected) in [
        ("alone", delivering, cpu(), none, Boundary::DeliverVirtualInterrupt),
        ("over external interrupts", delivering, cpu(), interrupt, Boundary::DeliverVirtualInterrupt),
        ("under NMIs", delivering, cpu(), nmi, Boundary::Deliver(Event::nmi())),
        ("IF is 0", delivering, masked, none, Boundary::Run),
        ("after STI", delivering, shadowed(Interruptibility::STI), none, Boundary::Run),
        ("after MOV SS", delivering, shadowed(Interruptibility::MOV_SS), none, Boundary::Run),
        (
            "wakes from HLT",
            delivering,
            Cpu { activity: ActivityState::HLT, ..cpu() },
            none,
            Boundary::DeliverVirtualInterrupt,
        ),
        ("not in shutdown", delivering, Cpu { activity: ActivityState::SHUTDOWN, ..cpu() }, none, Boundary::Sleep),
        ("the window exits instead", window, cpu(), none, exit),
        ("without the control", with(&[]), cpu(), none, Boundary::Run),
    ] {
        assert_eq!(boundary(&vmx, &cpu, &platform(&memory), &pending), expected, "{name}");
    }
}

/// 27.2.4 and 27.2.5: the injected event is in the IDT-vectoring information, with the VM-entry instruction length if it is a software event.
#[test]
fn an_exit_during_an_injection_tells_the_injected_event() {
    // Valid, software interrupt 80H (type 4); #GP (type 3) with error code 8; external interrupt 30H.
    for (information, event, len) in [
        (0x8000_0480, Event::software_interrupt(0x80, 5), 5),
        (0x8000_0b0d, Event::exception_with_code(Exception::GP, 8), 0),
        (0x8000_0030, Event::external_interrupt(0x30), 0),
    ] {
        let mut vmx = guest(&[]);
        vmx.vmcs.set(Field::VM_ENTRY_INTERRUPTION_INFO, information);
        vmx.vmcs.set(Field::VM_ENTRY_EXCEPTION_ERROR_CODE, 8);
        vmx.vmcs.set(Field::VM_ENTRY_INSTRUCTION_LENGTH, 5);
        vmx.vmcs.set(Field::EXCEPTION_BITMAP, 1 << 11);
        let injection = Injection::of(&vmx.vmcs, &cpu()).expect("an event is injected");
        let np = Raised::new(Event::exception_with_code(Exception::NP, 0x40));
        let exit = exit_of(exception(&vmx, &cpu(), &np, &Circumstances::during_injection(&injection)));
        assert_eq!((exit.injected, exit.delivering), (true, Some(event)), "{information:#x}");
        exit.record(&mut vmx.vmcs);
        assert_eq!(vmx.vmcs.get(Field::IDT_VECTORING_INFO), information);
        assert_eq!(vmx.vmcs.get(Field::VM_EXIT_INSTRUCTION_LENGTH), len, "{information:#x}");
    }
    let memory = empty_ept();
    let during = Circumstances { injected: true, ..Circumstances::during(Event::nmi()) };
    assert!(exit_of(write_without_paging(&ept_guest(&[]), &memory, &during)).injected);
}

/// 25.5.2: after an event that is delivered before the first instruction, the exit is pending on the boundary behind it.
#[test]
fn mtf_exits_behind_a_delivered_event_and_not_before_it() {
    let memory = empty_ept();
    let mut vmx = guest(&[Control::MONITOR_TRAP_FLAG]);
    let pending = Pending { nmi: true, ..Pending::default() };
    assert_eq!(boundary(&vmx, &cpu(), &platform(&memory), &pending), Boundary::Deliver(Event::nmi()));
    completed(&mut vmx);
    let exit = Exit { keeps_pending_debug: true, ..Exit::new(ExitReason::MONITOR_TRAP_FLAG) };
    assert_eq!(boundary(&vmx, &cpu(), &platform(&memory), &Pending::default()), Boundary::Exit(exit));
}
