//! Which event does a VM entry inject, what is in force behind it, and what waits at the first instruction boundary? (SDM 3C 26.6, 26.7)

use crate::world::{TSC, World, entered};
use softvirt_ept::Invalidate;
use vmx_model::builder::{build, enable_ept};
use vmx_model::entry::{Delivery, Injection};
use vmx_model::rules::GuestKind::{
    self, Compatibility, Hlt, Long64, Protected32, RealUnrestricted, Virtual8086, WaitForSipi,
};
use vmx_model::vmcs::LaunchState;
use vmx_model::vmx::{NonRoot, PreemptionTimer};
use vmx_model::{Control, Controls, EntryInstruction, EntryState, Field, Operation, check_entry};
use x86_state::{ActivityState, Event, EventType, Interruptibility, PendingDebug, profiles};

const STI: u64 = 1;
const MOV_SS: u64 = 2;
const NMI_BLOCKED: u64 = 8;

const EXTERNAL: u64 = 0x8000_0030;
const NMI: u64 = 0x8000_0202;
const UD: u64 = 0x8000_0306;
const PF: u64 = 0x8000_0b0e;
const INT_80: u64 = 0x8000_0480;
const INT1: u64 = 0x8000_0501;
const INT3: u64 = 0x8000_0603;
const INTO: u64 = 0x8000_0604;
const PENDING_MTF: u64 = 0x8000_0700;

const IF: u64 = 1 << 9;
/// Pending debug exceptions: breakpoint 0 and "enabled breakpoint".
const BREAKPOINT_0: u64 = 1 | 1 << 12;

fn on_max(kind: GuestKind, change: impl FnOnce(&mut EntryState)) -> EntryState {
    let mut state = build(kind, &profiles::MAX);
    change(&mut state);
    let broken: Vec<_> = check_entry(&state).broken().map(|rule| rule.row().id).collect();
    assert!(broken.is_empty(), "{broken:?}");
    state
}

/// A state that injects the event of that word, with error code 5 and instruction length 2.
fn injecting(kind: GuestKind, word: u64, change: impl FnOnce(&mut EntryState)) -> EntryState {
    on_max(kind, |s| {
        s.set(Field::VM_ENTRY_INTERRUPTION_INFO, word);
        s.set(Field::VM_ENTRY_EXCEPTION_ERROR_CODE, 5);
        s.set(Field::VM_ENTRY_INSTRUCTION_LENGTH, 2);
        // External interrupts ask for IF; nothing else minds it.
        s.set_bits(Field::GUEST_RFLAGS, IF);
        change(s);
    })
}

fn injection(state: &EntryState) -> Option<Injection> {
    World::new(state).entered().inject
}

/// 26.6.1.1: what is pushed, and which privilege checks there are. A row for each type in each mode.
#[test]
fn vectored_events_by_type_and_mode() {
    const IDT: Delivery = Delivery::Idt;
    for (kind, word, error_code, adds_length, gate, redirection, delivery, external) in [
        (Long64, EXTERNAL, None, false, false, false, IDT, true),
        (Long64, NMI, None, false, false, false, IDT, true),
        (Long64, UD, None, false, false, false, IDT, true),
        (Long64, PF, Some(5), false, false, false, IDT, true),
        (Long64, INT_80, None, true, true, false, IDT, false),
        (Long64, INT1, None, true, false, false, IDT, true),
        (Long64, INT3, None, true, true, false, IDT, false),
        (Long64, INTO, None, true, true, false, IDT, false),
        (Compatibility, INT_80, None, true, true, false, IDT, false),
        (Protected32, PF, Some(5), false, false, false, IDT, true),
        (Protected32, INT3, None, true, true, false, IDT, false),
        (Virtual8086, INT_80, None, true, true, false, IDT, false),
        // No error code in real-address mode; no gates either.
        (RealUnrestricted, 0x8000_030d, None, false, false, false, Delivery::RealMode, true),
        (RealUnrestricted, INT_80, None, true, false, false, Delivery::RealMode, false),
        (RealUnrestricted, INT1, None, true, false, false, Delivery::RealMode, true),
    ] {
        let state = injecting(kind, word, |_| ());
        let rip = state.get(Field::GUEST_RIP);
        let found = injection(&state).unwrap();
        assert_eq!(u64::from(found.event.info().0), word);
        assert_eq!(found.event.error_code, error_code, "{kind:?} {word:#x}");
        assert_eq!(found.event.instruction_len_bytes, if adds_length { 2 } else { 0 }, "{kind:?} {word:#x}");
        assert_eq!(found.return_rip, if adds_length { rip + 2 } else { rip }, "{kind:?} {word:#x}");
        assert_eq!(found.checks_gate_privilege, gate, "{kind:?} {word:#x}");
        assert_eq!(found.redirection, redirection, "{kind:?} {word:#x}");
        assert_eq!((found.delivery, found.external()), (delivery, external), "{kind:?} {word:#x}");
    }
}

/// RFLAGS.VM = CR4.VME = 1, and software interrupts only.
#[test]
fn vme_redirects_software_interrupts_in_virtual_8086_mode() {
    for (kind, word, vme, redirection) in [
        (Virtual8086, INT_80, true, true),
        (Virtual8086, INT_80, false, false),
        (Virtual8086, INT3, true, false),
        (Virtual8086, EXTERNAL, true, false),
        (Protected32, INT_80, true, false),
        (RealUnrestricted, INT_80, true, false),
    ] {
        let state = injecting(kind, word, |s| {
            if vme {
                s.set_bits(Field::GUEST_CR4, 1)
            }
        });
        assert_eq!(injection(&state).unwrap().redirection, redirection, "{kind:?} {word:#x} VME {vme}");
    }
}

#[test]
fn the_return_address_has_32_bits_outside_64_bit_mode() {
    for (kind, rip, expected) in [
        (Protected32, 0xffff_ffff, 1),
        (Compatibility, 0xffff_fffe, 0),
        (Long64, 0xffff_ffff, 0x1_0000_0001),
        (Long64, 0x00ff_ffff_ffff_ffff, 0x0100_0000_0000_0001),
    ] {
        let state = injecting(kind, INT3, |s| s.set(Field::GUEST_RIP, rip));
        assert_eq!(injection(&state).unwrap().return_rip, expected, "{kind:?}");
        assert_eq!(entered(&state).cpu.rip, rip, "RIP itself stays");
    }
}

/// The error code has 32 bits in the field; of bits that do not count nothing is seen.
#[test]
fn fields_of_the_injection_count_only_while_the_valid_bit_is_1() {
    for ones in [0, u64::MAX] {
        let state = on_max(Long64, |s| {
            s.set(Field::VM_ENTRY_INTERRUPTION_INFO, ones & 0x7fff_ffff);
            s.set(Field::VM_ENTRY_EXCEPTION_ERROR_CODE, ones);
            s.set(Field::VM_ENTRY_INSTRUCTION_LENGTH, ones);
        });
        assert_eq!(injection(&state), None);
        let state = injecting(Long64, UD, |s| {
            s.set(Field::VM_ENTRY_EXCEPTION_ERROR_CODE, ones);
            s.set(Field::VM_ENTRY_INSTRUCTION_LENGTH, ones);
        });
        assert_eq!(injection(&state).unwrap().event, Event::exception(x86_state::Exception::UD));
    }
}

/// The valid bit is cleared by the next VM exit (24.8.3), not by the entry.
#[test]
fn an_entry_leaves_the_injected_event_in_its_field() {
    for word in [UD, INT3, PENDING_MTF] {
        assert_eq!(entered(&injecting(Long64, word, |_| ())).vmx.vmcs.get(Field::VM_ENTRY_INTERRUPTION_INFO), word);
    }
}

/// DR6, DR7 and IA32_DEBUGCTL are not modified by injection, even of vector 1.
#[test]
fn injection_of_a_debug_exception_leaves_the_debug_registers() {
    let state = injecting(Long64, 0x8000_0301, |s| {
        s.on(Control::LOAD_DEBUG_CONTROLS);
        s.set(Field::GUEST_DR7, 0x2400);
        s.set(Field::GUEST_IA32_DEBUGCTL, 1);
    });
    let mut world = World::new(&state);
    let dr6 = world.cpu.dr6;
    world.entered();
    assert_eq!((world.cpu.dr6, world.cpu.dr7.bits(), world.cpu.debugctl.bits()), (dr6, 0x2400, 1));
}

/// FRED specification 9.5.4: any event; the data are the field's, the length is saved for SYSCALL and SYSENTER too.
#[test]
fn fred_delivers_every_injected_event() {
    const FRED: u64 = 1 << 32;
    for (word, adds_length, nested, external) in [
        (EXTERNAL, false, false, true),
        (PF, false, false, true),
        (PF | 1 << 13, false, true, true),
        (INT_80, true, false, false),
        // Rev 092, 29.6.1.1: an exception nested in SYSCALL or SYSENTER clears EXT.
        (0x8000_0701, true, false, false),
        (0x8000_0702, true, false, false),
    ] {
        let state = injecting(Long64, word, |s| {
            s.set_bits(Field::GUEST_CR4, FRED);
            s.set(Field::INJECTED_EVENT_DATA, 0xfeed);
        });
        let found = injection(&state).unwrap();
        assert_eq!(found.delivery, Delivery::Fred { data: 0xfeed, nested }, "{word:#x}");
        assert!(!found.checks_gate_privilege);
        assert_eq!(found.external(), external, "{word:#x}");
        assert_eq!(found.return_rip - state.get(Field::GUEST_RIP), if adds_length { 2 } else { 0 }, "{word:#x}");
        assert_eq!(found.event.instruction_len_bytes, if adds_length { 2 } else { 0 });
        assert!(!entered(&state).guest().mtf_pending);
    }
}

// Pending MTF VM exits.

#[test]
fn a_pending_mtf_vm_exit_is_no_event_and_needs_no_control() {
    for monitor_trap_flag in [false, true] {
        let state = injecting(Long64, PENDING_MTF, |s| {
            if monitor_trap_flag {
                s.on(Control::MONITOR_TRAP_FLAG)
            }
        });
        let mut world = World::new(&state);
        assert_eq!(world.entered().inject, None);
        assert!(world.guest().mtf_pending);
    }
}

/// 25.5.2, Monitor Trap Flag: behind an injected vectored event; without one the first instruction is executed first.
#[test]
fn the_monitor_trap_flag_is_pending_behind_an_injected_event() {
    for (word, control, pending) in [(UD, true, true), (INT3, true, true), (0, true, false), (UD, false, false)] {
        let state = injecting(Long64, word, |s| {
            if control {
                s.on(Control::MONITOR_TRAP_FLAG)
            }
        });
        assert_eq!(entered(&state).guest().mtf_pending, pending, "{word:#x}, control {control}");
    }
}

// 26.7.1, Interruptibility State.

#[test]
fn shadows_survive_unless_the_entry_is_vectoring() {
    for (field, word, blocked) in [
        (STI, 0, Interruptibility::STI),
        (MOV_SS, 0, Interruptibility::MOV_SS),
        (0, 0, Interruptibility::empty()),
        (MOV_SS, INT3, Interruptibility::empty()),
        (MOV_SS, INT_80, Interruptibility::empty()),
        (STI, UD, Interruptibility::empty()),
        // Not vectoring.
        (STI, PENDING_MTF, Interruptibility::STI),
        (MOV_SS, PENDING_MTF, Interruptibility::MOV_SS),
    ] {
        let state = injecting(Long64, word, |s| s.set(Field::GUEST_INTERRUPTIBILITY_STATE, field));
        assert_eq!(entered(&state).cpu.interruptibility, blocked, "{field} {word:#x}");
    }
}

#[test]
fn mov_ss_blocks_nothing_under_fred() {
    let state = on_max(Long64, |s| {
        s.set(Field::GUEST_INTERRUPTIBILITY_STATE, MOV_SS);
        s.set_bits(Field::GUEST_CR4, 1 << 32);
    });
    assert_eq!(entered(&state).cpu.interruptibility, Interruptibility::empty());
}

/// Bit 3 is the blocking of NMIs or, with "virtual NMIs", of virtual NMIs. An injected NMI blocks virtual NMIs only.
#[test]
fn nmi_blocking_is_real_or_virtual() {
    for (virtual_nmis, field, word, blocked, virtual_blocked) in [
        (false, 0, 0, false, false),
        (false, NMI_BLOCKED, 0, true, false),
        (false, 0, NMI, false, false),
        (false, NMI_BLOCKED, NMI, true, false),
        (true, 0, 0, false, false),
        (true, NMI_BLOCKED, 0, false, true),
        (true, 0, NMI, false, true),
        (true, 0, UD, false, false),
        (true, NMI_BLOCKED, UD, false, true),
    ] {
        let state = injecting(Long64, word, |s| {
            s.set(Field::GUEST_INTERRUPTIBILITY_STATE, field);
            if virtual_nmis {
                s.on(Control::NMI_EXITING);
                s.on(Control::VIRTUAL_NMIS);
            }
        });
        // Blocking in the host does not reach the guest.
        for host in [Interruptibility::empty(), Interruptibility::NMI | Interruptibility::STI] {
            let mut world = World::new(&state);
            world.cpu.interruptibility = host;
            world.entered();
            let found = (world.cpu.interruptibility, world.guest().virtual_nmi_blocking);
            let real = if blocked { Interruptibility::NMI } else { Interruptibility::empty() };
            assert_eq!(found, (real, virtual_blocked), "virtual NMIs {virtual_nmis}, {field}, {word:#x}");
        }
    }
}

/// "If the VM entry was not executed in SMM, SMI blocking is unchanged by VM entry."
#[test]
fn smi_blocking_is_unchanged_outside_smm() {
    let state = on_max(Long64, |_| ());
    for host in [Interruptibility::empty(), Interruptibility::SMI] {
        let mut world = World::new(&state);
        world.cpu.interruptibility = host;
        world.entered();
        assert_eq!(world.cpu.interruptibility, host);
    }
}

// 26.7.2, Activity State.

#[test]
fn a_vectoring_entry_ends_in_the_active_state() {
    for (activity, word, expected) in [
        (0, 0, ActivityState::ACTIVE),
        (1, 0, ActivityState::HLT),
        (2, 0, ActivityState::SHUTDOWN),
        (3, 0, ActivityState::WAIT_FOR_SIPI),
        (1, EXTERNAL, ActivityState::ACTIVE),
        (1, NMI, ActivityState::ACTIVE),
        (2, NMI, ActivityState::ACTIVE),
        (1, PENDING_MTF, ActivityState::HLT),
    ] {
        let state = injecting(Long64, word, |s| s.set(Field::GUEST_ACTIVITY_STATE, activity));
        assert_eq!(entered(&state).cpu.activity, expected, "{activity} {word:#x}");
    }
}

/// NecoFuzz on KVM: a guest in shutdown or wait-for-SIPI took the outer processor there. Whether the state may be entered is
/// IA32_VMX_MISC[8:6]; after a failed entry the processor is active.
#[test]
fn b_81_an_activity_state_that_the_processor_lacks_is_never_entered() {
    use x86_state::VmxMsr;
    let misc = profiles::MAX.vmx(VmxMsr::Misc).unwrap();
    for (activity, bit) in [(1, 6), (2, 7), (3, 8)] {
        let profile = profiles::MAX.with_vmx(VmxMsr::Misc, Some(misc & !(1 << bit)));
        let mut state = build(Long64, &profile);
        state.set(Field::GUEST_ACTIVITY_STATE, activity);
        let mut world = World::new(&state);
        assert!(matches!(world.enter(), vmx_model::entry::Entry::Failed(_)), "{activity}");
        assert_eq!(world.cpu.activity, ActivityState::ACTIVE);
        assert_eq!(world.vmx.state.operation, Operation::Root);
    }
}

// 26.7.3, Delivery of Pending Debug Exceptions after VM Entry.

#[test]
fn pending_debug_exceptions_survive_by_injection_shadow_and_activity() {
    for (word, interruptibility, activity, survive) in [
        (0, 0, 0, true),
        (0, MOV_SS, 0, true),
        (0, STI, 0, true),
        (0, 0, 1, true),
        (0, 0, 2, false),
        (0, 0, 3, false),
        (EXTERNAL, 0, 0, false),
        (NMI, 0, 0, false),
        (UD, MOV_SS, 0, false),
        (INT1, MOV_SS, 0, false),
        (INT_80, 0, 0, false),
        (INT3, 0, 0, false),
        (INT_80, MOV_SS, 0, true),
        (INT3, MOV_SS, 0, true),
        (INTO, MOV_SS, 0, true),
        (INT3, STI, 0, false),
        (PENDING_MTF, 0, 0, true),
    ] {
        let state = injecting(Long64, word, |s| {
            s.set(Field::GUEST_INTERRUPTIBILITY_STATE, interruptibility);
            s.set(Field::GUEST_ACTIVITY_STATE, activity);
            s.set(Field::GUEST_PENDING_DEBUG_EXCEPTIONS, BREAKPOINT_0);
        });
        let mut world = World::new(&state);
        // What was pending in the host is none of the guest's.
        world.cpu.pending_debug = PendingDebug::BS;
        world.entered();
        let expected = if survive { BREAKPOINT_0 } else { 0 };
        assert_eq!(world.cpu.pending_debug.bits(), expected, "{word:#x}, {interruptibility}, activity {activity}");
    }
}

/// Rev 092, 29.7.3: there are no pending debug exceptions after a VM entry that injects by FRED event delivery, whatever the event.
#[test]
fn nothing_is_pending_behind_an_event_that_fred_delivers() {
    for (word, fred, survive) in [
        (INT_80, false, true),
        (INT_80, true, false),
        (INT3, true, false),
        (0x8000_0701, true, false),
        (UD, true, false),
        // Nothing is injected by FRED event delivery.
        (0, true, true),
        (PENDING_MTF, true, true),
    ] {
        let state = injecting(Long64, word, |s| {
            s.set(Field::GUEST_INTERRUPTIBILITY_STATE, MOV_SS);
            s.set(Field::GUEST_PENDING_DEBUG_EXCEPTIONS, BREAKPOINT_0);
            if fred {
                s.set_bits(Field::GUEST_CR4, 1 << 32);
            }
        });
        let expected = if survive { BREAKPOINT_0 } else { 0 };
        assert_eq!(entered(&state).cpu.pending_debug.bits(), expected, "{word:#x}, FRED {fred}");
    }
}

/// XSA-308: in an STI shadow with TF the single step must be pending already, and is after the entry.
#[test]
fn b_63_a_single_step_in_a_shadow_is_pending_after_the_entry() {
    const TF: u64 = 1 << 8;
    let state = on_max(Long64, |s| {
        s.set_bits(Field::GUEST_RFLAGS, TF | IF);
        s.set(Field::GUEST_INTERRUPTIBILITY_STATE, STI);
        s.set(Field::GUEST_PENDING_DEBUG_EXCEPTIONS, 1 << 14);
    });
    let cpu = entered(&state).cpu;
    assert_eq!((cpu.pending_debug, cpu.interruptibility), (PendingDebug::BS, Interruptibility::STI));
}

/// KVM 305d0ab4764d: a page fault of L1 was delivered between VMLAUNCH and the guest's first instruction. The manual has events of the
/// guest there (injected, pending debug exceptions, MTF, threshold, windows); of the host there must be none.
#[test]
fn b_15_nothing_of_the_host_is_delivered_after_the_entry() {
    let state = on_max(Long64, |_| ());
    let mut world = World::new(&state);
    world.cpu.pending_debug = PendingDebug::BS | PendingDebug::ENABLED_BREAKPOINT;
    world.cpu.interruptibility = Interruptibility::STI;
    world.vmx.guest.mtf_pending = true;
    world.vmx.guest.tpr_threshold_due = true;
    world.vmx.guest.virtual_nmi_blocking = true;
    let result = world.entered();
    assert_eq!(result.inject, None);
    assert_eq!(world.cpu.pending_debug, PendingDebug::empty());
    assert_eq!(world.cpu.interruptibility, Interruptibility::empty());
    assert_eq!(*world.guest(), NonRoot { controls: Controls::of(&state.vmcs), ..NonRoot::default() });
}

// 26.7.4 to 26.7.8: what the first instruction boundary finds.

#[test]
fn the_preemption_timer_starts_at_the_time_of_the_entry() {
    for (active, value) in [(true, 0), (true, 1), (true, 0xffff_ffff), (false, 7)] {
        let state = on_max(Long64, |s| {
            if active {
                s.on(Control::ACTIVATE_PREEMPTION_TIMER);
            }
            s.set(Field::VMX_PREEMPTION_TIMER_VALUE, value);
        });
        let expected =
            if active { PreemptionTimer { loaded_at: TSC, value: value as u32 } } else { PreemptionTimer::default() };
        assert_eq!(entered(&state).guest().preemption_timer, expected);
    }
}

const VIRTUAL_APIC: u64 = 0xb000;

/// 26.7.7: threshold above VTPR[7:4], with "use TPR shadow" and "virtualize APIC accesses" and without "virtual-interrupt delivery".
#[test]
fn the_tpr_threshold_is_compared_after_the_entry_only_with_apic_accesses_virtualized() {
    for (threshold, vtpr, accesses, delivery, activity, due) in [
        (3, 0x2f, true, false, 0, true),
        (3, 0x30, true, false, 0, false),
        (0, 0x00, true, false, 0, false),
        (15, 0xe0, true, false, 0, true),
        // Bytes 3:1 of VTPR do not count.
        (3, 0xffff_ff20, true, false, 0, true),
        // Without "virtualize APIC accesses" the threshold must not be above VTPR (26.2.1.1).
        (2, 0x20, false, false, 0, false),
        (3, 0x20, true, true, 0, false),
        (3, 0x20, true, false, 1, true),
        (3, 0x20, true, false, 2, true),
        (3, 0x20, true, false, 3, false),
    ] {
        let state = on_max(Long64, |s| {
            s.on(Control::USE_TPR_SHADOW);
            s.set(Field::VIRTUAL_APIC_ADDRESS, VIRTUAL_APIC);
            s.memory.set(VIRTUAL_APIC + 0x80, vtpr);
            s.set(Field::TPR_THRESHOLD, threshold);
            s.set(Field::GUEST_ACTIVITY_STATE, activity);
            if accesses {
                s.on(Control::VIRTUALIZE_APIC_ACCESSES);
                s.set(Field::APIC_ACCESS_ADDRESS, 0xc000);
            }
            if delivery {
                s.on(Control::EXTERNAL_INTERRUPT_EXITING);
                s.on(Control::VIRTUAL_INTERRUPT_DELIVERY);
            }
        });
        let due_found = entered(&state).guest().tpr_threshold_due;
        assert_eq!(due_found, due, "{threshold} {vtpr:#x} {accesses} {delivery} activity {activity}");
    }
}

/// 26.3.2.5: with "virtual-interrupt delivery" VPPR becomes the higher of VTPR and SVI, and RVI above it is recognized.
#[test]
fn virtual_interrupts_are_evaluated_after_the_entry() {
    const INTERRUPT_WINDOW: bool = true;
    for (delivery, window, vtpr, svi, rvi, vppr, recognized) in [
        (true, false, 0x20, 0x51, 0x60, 0x50, true),
        (true, false, 0x72, 0x51, 0x60, 0x72, false),
        (true, false, 0x52, 0x51, 0x60, 0x52, true),
        (true, false, 0x60, 0x00, 0x6f, 0x60, false),
        (true, INTERRUPT_WINDOW, 0x20, 0x51, 0x60, 0x50, false),
        (false, false, 0x20, 0x51, 0x60, 0xffff_ffff, false),
    ] {
        let state = on_max(Long64, |s| {
            s.on(Control::USE_TPR_SHADOW);
            s.set(Field::VIRTUAL_APIC_ADDRESS, VIRTUAL_APIC);
            s.memory.set(VIRTUAL_APIC + 0x80, vtpr);
            s.memory.set(VIRTUAL_APIC + 0xa0, 0xffff_ffff);
            s.set(Field::GUEST_INTERRUPT_STATUS, svi << 8 | rvi);
            if delivery {
                s.on(Control::EXTERNAL_INTERRUPT_EXITING);
                s.on(Control::VIRTUAL_INTERRUPT_DELIVERY);
            }
            if window {
                s.on(Control::INTERRUPT_WINDOW_EXITING);
            }
        });
        let world = entered(&state);
        assert_eq!(world.memory.word(VIRTUAL_APIC + 0xa0), vppr, "SVI {svi:#x}, RVI {rvi:#x}, VTPR {vtpr:#x}");
        assert_eq!(
            world.guest().virtual_interrupt_recognized,
            recognized,
            "SVI {svi:#x}, RVI {rvi:#x}, VTPR {vtpr:#x}"
        );
    }
}

/// Each control of the VMCS is in force; vectors that are not activated are not.
#[test]
fn controls_take_effect() {
    for (activated, expected) in [(false, false), (true, true)] {
        let state = on_max(Hlt, |s| {
            s.on(Control::HLT_EXITING);
            s.on(Control::RDRAND_EXITING);
            if !activated {
                s.off(Control::ACTIVATE_SECONDARY_CONTROLS);
            }
        });
        let world = entered(&state);
        assert!(world.guest().controls.has(Control::HLT_EXITING));
        assert_eq!(world.guest().controls.has(Control::RDRAND_EXITING), expected);
        assert_eq!(world.guest().controls, Controls::of(&state.vmcs));
        assert!(world.vmx.in_guest());
    }
}

#[test]
fn vmlaunch_makes_the_vmcs_launched_and_vmresume_leaves_it_so() {
    for (instruction, launched) in [(0, 0), (1, 1)] {
        let state = on_max(WaitForSipi, |s| {
            s.set_vmx(vmx_model::view::VmxInput::Instruction, instruction);
            s.set_vmx(vmx_model::view::VmxInput::LaunchState, launched);
        });
        let mut world = World::new(&state);
        assert_eq!(world.instruction == EntryInstruction::Vmresume, instruction == 1);
        world.entered();
        assert_eq!(world.vmx.state.launch_state, LaunchState::Launched);
        assert_eq!(world.vmx.state.operation, Operation::NonRoot);
    }
}

#[test]
fn translations_are_forgotten_by_enable_vpid() {
    for vpid in [false, true] {
        let state = on_max(Long64, |s| {
            enable_ept(s);
            if vpid {
                s.on(Control::ENABLE_VPID);
                s.set(Field::VPID, 7);
            }
        });
        assert_eq!(World::new(&state).entered().invalidate, Invalidate::VmEntry { vpid });
    }
}

#[test]
fn types_have_the_manuals_numbers() {
    for (word, kind) in [
        (EXTERNAL, EventType::EXTERNAL_INTERRUPT),
        (NMI, EventType::NMI),
        (PF, EventType::HARDWARE_EXCEPTION),
        (INT_80, EventType::SOFTWARE_INTERRUPT),
        (INT1, EventType::PRIVILEGED_SOFTWARE_EXCEPTION),
        (INT3, EventType::SOFTWARE_EXCEPTION),
    ] {
        assert_eq!(injection(&injecting(Long64, word, |_| ())).unwrap().event.kind, kind);
    }
}
