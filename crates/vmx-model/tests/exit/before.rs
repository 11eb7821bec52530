//! 27.1, Architectural State Before a VM Exit.

use crate::world::World;
use vmx_model::Control;
use vmx_model::exit::before::{begin_delivery, begin_iret};
use x86_state::{ActivityState, DebugCtl, Dr6, Dr7, Event, EventType, Exception, Gva, Interruptibility, PendingDebug};

#[test]
fn delivery_of_any_event_wakes_the_processor_and_ends_shadows() {
    for event in [Event::nmi(), Event::external_interrupt(0x30), Event::exception(Exception::UD)] {
        let mut world = World::new();
        world.cpu.activity = ActivityState::HLT;
        world.cpu.interruptibility = Interruptibility::STI | Interruptibility::MOV_SS | Interruptibility::SMI;
        begin_delivery(&mut world.vmx, &mut world.cpu, &event, 0, false);
        assert_eq!(world.cpu.activity, ActivityState::ACTIVE);
        let nmi = if event.kind == EventType::NMI { Interruptibility::NMI } else { Interruptibility::empty() };
        assert_eq!(world.cpu.interruptibility, Interruptibility::SMI | nmi, "{event:?}");
    }
}

#[test]
fn a_debug_exception_updates_its_registers_unless_it_is_injected() {
    for (injected, dr6, dr7, debugctl, pending) in [
        // B0 instead of B3, BS added to BD, RTM (inverted) set again.
        (false, 0xffff_6ff1 | 1 << 16, 0x455, DebugCtl::empty(), PendingDebug::empty()),
        (true, 0xfffe_2ff8, 0x2455, DebugCtl::LBR | DebugCtl::BTF, PendingDebug::B),
    ] {
        let mut world = World::new();
        world.cpu.dr6 = Dr6::from_bits_retain(0xfffe_2ff8);
        world.cpu.dr7 = Dr7::from_bits_retain(0x2455);
        world.cpu.debugctl = DebugCtl::LBR | DebugCtl::BTF;
        world.cpu.pending_debug = PendingDebug::B;
        begin_delivery(&mut world.vmx, &mut world.cpu, &Event::exception(Exception::DB), 0x4001, injected);
        assert_eq!(world.cpu.dr6.bits(), dr6, "injected {injected}");
        assert_eq!(world.cpu.dr7.bits(), dr7);
        assert_eq!(world.cpu.debugctl, debugctl);
        assert_eq!(world.cpu.pending_debug, pending);
    }
}

#[test]
fn bus_locks_and_rtm_are_reported_by_zeros() {
    for (causes, dr6) in [(0x800, 0xffff_07f0), (0x1_0000, 0xfffe_0ff0), (0, 0xffff_0ff0)] {
        let mut world = World::new();
        world.cpu.dr6 = Dr6::RESET;
        begin_delivery(&mut world.vmx, &mut world.cpu, &Event::exception(Exception::DB), causes, false);
        assert_eq!(world.cpu.dr6.bits(), dr6, "{causes:#x}");
    }
}

#[test]
fn a_page_fault_updates_cr2_unless_it_is_injected() {
    for (injected, expected) in [(false, 0x1234), (true, 0)] {
        let mut world = World::new();
        let fault = Event::exception_with_code(Exception::PF, 2);
        begin_delivery(&mut world.vmx, &mut world.cpu, &fault, 0x1234, injected);
        assert_eq!(world.cpu.cr2, Gva(expected));
    }
    let mut world = World::new();
    begin_delivery(&mut world.vmx, &mut world.cpu, &Event::software_interrupt(14, 2), 0x1234, false);
    assert_eq!(world.cpu.cr2, Gva(0), "INT 14 is no page fault");
}

#[test]
fn an_nmi_blocks_nmis_or_virtual_nmis() {
    for (virtual_nmis, injected, before, blocked, virtual_blocked) in [
        (false, false, false, true, false),
        // 26.7.1 and FRED specification 9.5.4: injection does not change the blocking of NMIs.
        (false, true, false, false, false),
        (false, true, true, true, false),
        (true, true, false, false, true),
        (true, true, true, true, true),
    ] {
        let mut world = World::new();
        world.control(Control::NMI_EXITING, virtual_nmis).control(Control::VIRTUAL_NMIS, virtual_nmis);
        world.cpu.interruptibility.set(Interruptibility::NMI, before);
        begin_delivery(&mut world.vmx, &mut world.cpu, &Event::nmi(), 0, injected);
        let found = (world.cpu.interruptibility.contains(Interruptibility::NMI), world.vmx.guest.virtual_nmi_blocking);
        assert_eq!(found, (blocked, virtual_blocked), "virtual NMIs {virtual_nmis}, injected {injected}, {before}");
    }
}

#[test]
fn iret_unblocks_what_the_controls_say() {
    for (nmi_exiting, virtual_nmis, answer, nmi_after, virtual_after) in
        [(false, false, true, false, true), (true, false, false, true, true), (true, true, true, true, false)]
    {
        let mut world = World::new();
        world.control(Control::NMI_EXITING, nmi_exiting).control(Control::VIRTUAL_NMIS, virtual_nmis);
        world.cpu.interruptibility = Interruptibility::NMI;
        world.vmx.guest.virtual_nmi_blocking = true;
        assert_eq!(
            begin_iret(&mut world.vmx, &mut world.cpu),
            answer,
            "NMI exiting {nmi_exiting}, virtual {virtual_nmis}"
        );
        assert_eq!(world.cpu.interruptibility.contains(Interruptibility::NMI), nmi_after);
        assert_eq!(world.vmx.guest.virtual_nmi_blocking, virtual_after);
        if answer {
            assert!(!begin_iret(&mut world.vmx, &mut world.cpu), "nothing is blocked any more");
        }
    }
}
