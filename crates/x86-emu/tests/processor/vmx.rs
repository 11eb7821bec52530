//! A small hypervisor in machine code runs guests: entries, exits, injected events, EPT.

use crate::world::{CODE, CODE_0, GDT, IDT, INTERRUPT_GATE, Machine, PML4, PT, STACK, TSS};
use vmx_model::builder::build;
use vmx_model::exit::Abort;
use vmx_model::fields::FieldType;
use vmx_model::insn::field_exists;
use vmx_model::reasons::ExitReason;
use vmx_model::rules::GuestKind;
use vmx_model::vmx::PreemptionTimer;
use vmx_model::{Control, EntryState, Field};
use x86_emu::time::{VM_ENTRY, VM_EXIT};
use x86_emu::{Attempt, Observer, Ran, State, VmEntry};
use x86_state::{Cr4, Event, Gpr, SegmentRegister, VmxMsr};

/// The operands of VMXON and VMPTRLD: two addresses.
const POINTERS: u64 = 0x3_0000;
/// Encoding and value of each field that L1 writes; all ones end it.
const TABLE: u64 = 0x3_1000;
const VMXON_REGION: u64 = 0x4_1000;
const VMCS_REGION: u64 = 0x4_2000;
/// Where the host goes on after an exit.
const HOST: u64 = 0x1_8000;
/// Where the guest begins.
pub(crate) const GUEST: u64 = 0x2_0000;
const GUEST_STACK: u64 = 0x7_0000;
/// A handler of the guest's.
const HANDLER: u64 = 0x2_1000;
/// EPT: four tables, one page each, with 4-KByte pages for RAM.
const EPT: u64 = 0x10_0000;
/// EPT entry `n` for page `n`.
const EPT_PT: u64 = EPT + 0x3000;

/// VMXON, VMCLEAR, VMPTRLD, VMWRITE of the table, VMLAUNCH. Behind them: R15 is 0xbad, RBX the VM-instruction error.
const L1: &[u8] = &[
    0xf3, 0x0f, 0xc7, 0x34, 0x25, 0x00, 0x00, 0x03, 0x00, // vmxon  QWORD PTR ds:0x30000
    0x76, 0x33, // jbe    0x1003e
    0x66, 0x0f, 0xc7, 0x34, 0x25, 0x08, 0x00, 0x03, 0x00, // vmclear QWORD PTR ds:0x30008
    0x76, 0x28, // jbe    0x1003e
    0x0f, 0xc7, 0x34, 0x25, 0x08, 0x00, 0x03, 0x00, // vmptrld QWORD PTR ds:0x30008
    0x76, 0x1e, // jbe    0x1003e
    0xbe, 0x00, 0x10, 0x03, 0x00, // mov    esi,0x31000
    0x48, 0x8b, 0x06, // mov    rax,QWORD PTR [rsi]
    0x83, 0xf8, 0xff, // cmp    eax,0xffffffff
    0x74, 0x0e, // je     0x1003b
    0x48, 0x8b, 0x56, 0x08, // mov    rdx,QWORD PTR [rsi+0x8]
    0x0f, 0x79, 0xc2, // vmwrite rax,rdx
    0x76, 0x08, // jbe    0x1003e
    0x83, 0xc6, 0x10, // add    esi,0x10
    0xeb, 0xea, // jmp    0x10025
    0x0f, 0x01, 0xc2, // vmlaunch
    0x41, 0xbf, 0xad, 0x0b, 0x00, 0x00, // mov    r15d,0xbad
    0xb8, 0x00, 0x44, 0x00, 0x00, // mov    eax,0x4400
    0x0f, 0x78, 0xc3, // vmread rbx,rax
    0xf4, // hlt
];

/// Exit reason to RBX, qualification to RCX, instruction length to RDX, the guest's RIP to RSI; HLT, and on from there VMRESUME.
const L1_EXIT: &[u8] = &[
    0xb8, 0x02, 0x44, 0x00, 0x00, // mov    eax,0x4402
    0x0f, 0x78, 0xc3, // vmread rbx,rax
    0xb8, 0x00, 0x64, 0x00, 0x00, // mov    eax,0x6400
    0x0f, 0x78, 0xc1, // vmread rcx,rax
    0xb8, 0x0c, 0x44, 0x00, 0x00, // mov    eax,0x440c
    0x0f, 0x78, 0xc2, // vmread rdx,rax
    0xb8, 0x1e, 0x68, 0x00, 0x00, // mov    eax,0x681e
    0x0f, 0x78, 0xc6, // vmread rsi,rax
    0xf4, // hlt
    0x0f, 0x01, 0xc3, // vmresume
];

const CPUID: [u8; 2] = [0x0f, 0xa2];

/// A machine with L1 in memory, about to execute it, and a 64-bit guest in the same address space; `change` changes the VMCS.
pub(crate) fn machine(change: impl FnOnce(&mut EntryState)) -> Machine {
    let mut machine = Machine::long64();
    let mut state = build(GuestKind::Long64, machine.profile);
    for (field, value) in [
        (Field::HOST_CR3, PML4),
        (Field::HOST_RIP, HOST),
        (Field::HOST_RSP, STACK),
        (Field::HOST_CS_SELECTOR, CODE_0.into()),
        (Field::HOST_SS_SELECTOR, 0x10),
        (Field::HOST_GDTR_BASE, GDT),
        (Field::HOST_IDTR_BASE, IDT),
        (Field::HOST_TR_BASE, TSS),
        (Field::GUEST_CR3, PML4),
        (Field::GUEST_RIP, GUEST),
        (Field::GUEST_RSP, GUEST_STACK),
        (Field::GUEST_GDTR_BASE, GDT),
        (Field::GUEST_IDTR_BASE, IDT),
        (Field::GUEST_TR_BASE, TSS),
    ] {
        state.set(field, value);
    }
    change(&mut state);
    let mut at = TABLE;
    for field in Field::all() {
        if field.row().kind == FieldType::ReadOnly || !field_exists(machine.profile, field) {
            continue;
        }
        machine.set_u64(at, field.encoding().0.into());
        machine.set_u64(at + 8, state.get(field));
        at += 16;
    }
    machine.set_u64(at, u64::MAX);
    let revision = machine.profile.vmx(VmxMsr::Basic).unwrap() as u32 & 0x7fff_ffff;
    for (n, region) in (0..).zip([VMXON_REGION, VMCS_REGION]) {
        machine.set_u64(POINTERS + 8 * n, region);
        machine.set_u32(region, revision);
    }
    machine.load(CODE, L1);
    machine.load(HOST, L1_EXIT);
    machine.cpu().cr4 |= Cr4::VMXE;
    machine.processor.caches.changed();
    machine
}

/// EPT that maps RAM to itself, and its pointer.
pub(crate) fn ept(machine: &mut Machine) {
    for level in 0..3 {
        machine.set_u64(EPT + 0x1000 * level, (EPT + 0x1000 * (level + 1)) | 7);
    }
    for page in 0..512 {
        machine.set_u64(EPT_PT + 8 * page, page << 12 | 0x37);
    }
}

pub(crate) fn with_ept(state: &mut EntryState) {
    state.on(Control::ENABLE_EPT);
    state.set(Field::EPT_POINTER, EPT | 0x1e);
}

/// Runs until the processor sleeps in the host.
pub(crate) fn run(machine: &mut Machine) {
    assert_eq!(machine.run(10_000), Ran::Asleep);
    assert!(!machine.processor.state.vmx.in_guest(), "asleep in the guest");
    assert_eq!(machine.gpr(Gpr::R15), 0, "VM-instruction error {}", machine.gpr(Gpr::Rbx));
}

/// Reason, qualification and guest RIP as L1 has read them.
pub(crate) fn exit(machine: &Machine) -> (ExitReason, u64, u64) {
    (ExitReason(machine.gpr(Gpr::Rbx) as u32), machine.gpr(Gpr::Rcx), machine.gpr(Gpr::Rsi))
}

#[test]
fn cpuid_of_a_guest_exits_to_l1() {
    let mut machine = machine(|_| {});
    machine.load(GUEST, &[0x90, 0x0f, 0xa2]);
    run(&mut machine);
    assert_eq!(exit(&machine), (ExitReason(10), 0, GUEST + 1));
    assert_eq!(machine.gpr(Gpr::Rdx), 2, "instruction length");
}

#[test]
fn cpuid_of_a_guest_under_ept_exits_to_l1() {
    let mut machine = machine(with_ept);
    ept(&mut machine);
    machine.load(GUEST, &CPUID);
    run(&mut machine);
    assert_eq!(exit(&machine), (ExitReason(10), 0, GUEST));
}

#[test]
fn l1_skips_the_instruction_and_resumes() {
    let mut machine = machine(|_| {});
    machine.load(GUEST, &[0x0f, 0xa2, 0x0f, 0x01, 0xc1]); // CPUID; VMCALL
    run(&mut machine);
    // L1 sleeps in front of VMRESUME: ADD RSI, RDX; MOV EAX, 0x681e; VMWRITE RAX, RSI; VMRESUME
    machine.load(HOST + 0x21, &[0x48, 0x01, 0xd6, 0xb8, 0x1e, 0x68, 0, 0, 0x0f, 0x79, 0xc6, 0x0f, 0x01, 0xc3]);
    machine.cpu().activity = x86_state::ActivityState::ACTIVE;
    run(&mut machine);
    assert_eq!(exit(&machine), (ExitReason::VMCALL, 0, GUEST + 2));
}

#[test]
fn an_ept_violation_tells_both_addresses() {
    const HOLE: u64 = 0x5_0000;
    let mut machine = machine(with_ept);
    ept(&mut machine);
    machine.set_u64(EPT_PT + 8 * (HOLE >> 12), 0);
    // MOV [0x50008], AL
    machine.load(GUEST, &[0x88, 0x04, 0x25, 0x08, 0x00, 0x05, 0x00]);
    run(&mut machine);
    let (reason, qualification, rip) = exit(&machine);
    assert_eq!((reason, rip), (ExitReason::EPT_VIOLATION, GUEST));
    assert_eq!(qualification & 0x1ff, 0x182, "write, nothing allowed, linear address valid and translated");
    assert_eq!(machine.processor.state.vmx.vmcs.get(Field::GUEST_PHYSICAL_ADDRESS), HOLE + 8);
    assert_eq!(machine.processor.state.vmx.vmcs.get(Field::GUEST_LINEAR_ADDRESS), HOLE + 8);
}

#[test]
fn a_guest_takes_its_own_page_faults() {
    const MISSING: u64 = 0x5_0000;
    let mut machine = machine(|_| {});
    machine.set_u64(PT + 8 * (MISSING >> 12), 0);
    machine.gate(14, CODE_0, HANDLER, INTERRUPT_GATE);
    machine.load(HANDLER, &CPUID);
    machine.load(GUEST, &[0x88, 0x04, 0x25, 0x00, 0x00, 0x05, 0x00]);
    run(&mut machine);
    assert_eq!(exit(&machine), (ExitReason(10), 0, HANDLER));
    assert_eq!(machine.u64(GUEST_STACK - 48), 2, "error code");
    assert_eq!(machine.u64(GUEST_STACK - 40), GUEST);
}

#[test]
fn the_exception_bitmap_makes_exceptions_exit() {
    let mut machine = machine(|state| state.set(Field::EXCEPTION_BITMAP, 1 << 6));
    machine.load(GUEST, &[0x0f, 0x0b]); // UD2
    run(&mut machine);
    assert_eq!(exit(&machine), (ExitReason::EXCEPTION_OR_NMI, 0, GUEST));
    assert_eq!(machine.processor.state.vmx.vmcs.get(Field::VM_EXIT_INTERRUPTION_INFO), 0x8000_0306);
}

#[test]
fn a_triple_fault_of_the_guest_exits() {
    let mut machine = machine(|state| state.set(Field::GUEST_IDTR_LIMIT, 0));
    machine.load(GUEST, &[0x0f, 0x0b]);
    run(&mut machine);
    assert_eq!(exit(&machine), (ExitReason::TRIPLE_FAULT, 0, GUEST));
}

#[test]
fn an_injected_interrupt_reaches_the_guests_handler() {
    let mut machine = machine(|state| {
        state.set(Field::VM_ENTRY_INTERRUPTION_INFO, 0x8000_0031);
        state.set(Field::GUEST_RFLAGS, 0x202);
    });
    machine.gate(0x31, CODE_0, HANDLER, INTERRUPT_GATE);
    machine.load(HANDLER, &CPUID);
    run(&mut machine);
    assert_eq!(exit(&machine), (ExitReason(10), 0, HANDLER));
    assert_eq!((machine.u64(GUEST_STACK - 40), machine.u64(GUEST_STACK - 24)), (GUEST, 0x202));
}

#[test]
fn an_exit_in_the_delivery_of_an_injected_event_tells_the_event() {
    let mut machine = machine(|state| {
        with_ept(state);
        state.set(Field::VM_ENTRY_INTERRUPTION_INFO, 0x8000_0031);
        state.set(Field::GUEST_RFLAGS, 0x202);
    });
    ept(&mut machine);
    machine.gate(0x31, CODE_0, HANDLER, INTERRUPT_GATE);
    machine.set_u64(EPT_PT + 8 * ((GUEST_STACK - 8) >> 12), 0);
    run(&mut machine);
    assert_eq!(exit(&machine).0, ExitReason::EPT_VIOLATION);
    assert_eq!(exit(&machine).2, GUEST);
    assert_eq!(machine.processor.state.vmx.vmcs.get(Field::IDT_VECTORING_INFO), 0x8000_0031);
}

#[test]
fn an_external_interrupt_exits_and_waits() {
    let mut machine = machine(|state| {
        state.on(Control::EXTERNAL_INTERRUPT_EXITING);
        state.set(Field::GUEST_RFLAGS, 0x202);
    });
    machine.load(GUEST, &[0xf4, 0xf4]);
    assert_eq!(machine.run(10_000), Ran::Asleep);
    assert!(machine.processor.state.vmx.in_guest());
    machine.world.raise_interrupt(0x55);
    run(&mut machine);
    assert_eq!(exit(&machine), (ExitReason::EXTERNAL_INTERRUPT, 0, GUEST + 1));
    assert!(machine.world.pending.get().external_interrupt, "not acknowledged");
    assert_eq!(machine.processor.state.vmx.vmcs.get(Field::GUEST_ACTIVITY_STATE), 1);
}

#[test]
fn acknowledge_on_exit_takes_the_vector() {
    let mut machine = machine(|state| {
        state.on(Control::EXTERNAL_INTERRUPT_EXITING);
        state.on(Control::ACKNOWLEDGE_INTERRUPT_ON_EXIT);
    });
    machine.load(GUEST, &[0xeb, 0xfe]); // JMP $
    machine.world.raise_interrupt(0x55);
    run(&mut machine);
    assert_eq!(exit(&machine).0, ExitReason::EXTERNAL_INTERRUPT);
    assert_eq!(machine.processor.state.vmx.vmcs.get(Field::VM_EXIT_INTERRUPTION_INFO), 0x8000_0055);
    assert!(!machine.world.pending.get().external_interrupt);
}

#[test]
fn the_monitor_trap_flag_exits_after_each_instruction() {
    let mut machine = machine(|state| state.on(Control::MONITOR_TRAP_FLAG));
    machine.load(GUEST, &[0x90, 0xeb, 0x10]); // NOP; JMP +16
    run(&mut machine);
    assert_eq!(exit(&machine), (ExitReason::MONITOR_TRAP_FLAG, 0, GUEST + 1));
    machine.cpu().activity = x86_state::ActivityState::ACTIVE;
    run(&mut machine);
    assert_eq!(exit(&machine), (ExitReason::MONITOR_TRAP_FLAG, 0, GUEST + 0x13));
}

#[test]
fn the_preemption_timer_exits_at_its_instruction() {
    let mut machine = machine(|state| {
        state.on(Control::ACTIVATE_PREEMPTION_TIMER);
        state.set(Field::VMX_PREEMPTION_TIMER_VALUE, 100);
    });
    machine.load(GUEST, &[0xff, 0xc0, 0xeb, 0xfc]); // INC EAX; JMP back
    let mut seen = Seen::default();
    assert_eq!(machine.processor.run_observed(&machine.world, machine.profile, 1_000_000, &mut seen), Ran::Asleep);
    assert_eq!(exit(&machine).0, ExitReason::PREEMPTION_TIMER_EXPIRED);
    // The timer counts changes of one bit of the time-stamp counter, from the one before VMLAUNCH was complete.
    let bit = PreemptionTimer::tsc_bit(machine.profile);
    let loaded_at = seen.entered_at - 1 - VM_ENTRY;
    assert_eq!(seen.exited_at - VM_EXIT, ((loaded_at >> bit) + 100) << bit);
}

#[test]
fn the_preemption_timer_wakes_a_guest_from_hlt() {
    let mut machine = machine(|state| {
        state.on(Control::ACTIVATE_PREEMPTION_TIMER);
        state.set(Field::VMX_PREEMPTION_TIMER_VALUE, 100);
    });
    machine.load(GUEST, &[0xf4]);
    assert_eq!(machine.run(10_000), Ran::Asleep);
    assert!(machine.processor.state.vmx.in_guest());
    let at = machine.processor.wakes_at(machine.profile).unwrap();
    machine.processor.state.tsc = at - 1;
    assert_eq!(machine.run(10), Ran::Asleep);
    assert!(machine.processor.state.vmx.in_guest());
    machine.processor.state.tsc = at;
    run(&mut machine);
    assert_eq!(exit(&machine), (ExitReason::PREEMPTION_TIMER_EXPIRED, 0, GUEST + 1));
}

#[test]
fn interrupt_window_exits_as_soon_as_interrupts_are_possible() {
    let mut machine = machine(|state| state.on(Control::INTERRUPT_WINDOW_EXITING));
    machine.load(GUEST, &[0x90, 0xfb, 0x90, 0x90]); // NOP; STI; NOP; NOP
    run(&mut machine);
    assert_eq!(exit(&machine), (ExitReason::INTERRUPT_WINDOW, 0, GUEST + 3));
}

#[test]
fn a_guest_state_that_is_not_valid_fails_the_entry() {
    let mut machine = machine(|state| state.set(Field::GUEST_RFLAGS, 0));
    run(&mut machine);
    assert_eq!(exit(&machine).0, ExitReason(0x8000_0021));
}

#[test]
fn a_control_that_is_not_valid_fails_vmlaunch() {
    let mut machine = machine(|state| state.set(Field::PIN_BASED_CONTROLS, 0));
    assert_eq!(machine.run(10_000), Ran::Asleep);
    assert_eq!((machine.gpr(Gpr::R15), machine.gpr(Gpr::Rbx)), (0xbad, 7));
}

#[test]
fn a_host_msr_that_cannot_be_loaded_aborts() {
    const LIST: u64 = 0x6_0000;
    let mut machine = machine(|state| {
        state.set(Field::VM_EXIT_MSR_LOAD_COUNT, 1);
        state.set(Field::VM_EXIT_MSR_LOAD_ADDRESS, LIST);
    });
    machine.set_u64(LIST, 0xc000_0100); // IA32_FS_BASE may not be in the list
    machine.load(GUEST, &CPUID);
    assert_eq!(machine.run(10_000), Ran::Aborted(Abort::LOADING_MSRS));
    assert_eq!(machine.u32(VMCS_REGION + 4), 4);
    assert_eq!(machine.run(10), Ran::Aborted(Abort::LOADING_MSRS));
}

#[test]
fn vmx_instructions_reach_memory_operands_through_paging() {
    const MISSING: u64 = 0x5_0000;
    let mut machine = machine(|_| {});
    machine.set_u64(PT + 8 * (MISSING >> 12), 0);
    machine.gate(14, CODE_0, HANDLER, INTERRUPT_GATE);
    machine.load(HANDLER, &[0xf4]);
    // VMXON [0x50000]
    machine.load(CODE, &[0xf3, 0x0f, 0xc7, 0x34, 0x25, 0x00, 0x00, 0x05, 0x00]);
    machine.run(10);
    assert_eq!(machine.cpu().cr2.0, MISSING);
    assert_eq!(machine.u64(STACK - 40), CODE);
}

#[test]
fn a_guests_paging_is_its_own() {
    // The guest's page tables map CODE's page elsewhere; the host sees its own again after the exit.
    const TABLES: u64 = 0x12_0000;
    let mut machine = machine(|state| state.set(Field::GUEST_CR3, TABLES));
    for level in 0..3 {
        machine.set_u64(TABLES + 0x1000 * level, (TABLES + 0x1000 * (level + 1)) | 7);
    }
    for page in 0..512 {
        machine.set_u64(TABLES + 0x3000 + 8 * page, page << 12 | 7);
    }
    machine.set_u64(TABLES + 0x3000 + 8 * (HOST >> 12), GUEST | 7);
    machine.load(GUEST, &[0x48, 0x8b, 0x04, 0x25, 0x00, 0x80, 0x01, 0x00, 0x0f, 0xa2]); // MOV RAX, [HOST]; CPUID
    machine.run(10_000);
    assert_eq!(exit(&machine), (ExitReason(10), 0, GUEST + 8));
    assert_eq!(machine.cpu().segments[SegmentRegister::Cs].selector.0, CODE_0);
}

#[test]
fn code_that_a_vm_exit_overwrites_is_decoded_again() {
    // The exit stores an MSR over the host's first instructions: IA32_SYSENTER_CS of the guest, whose bytes are MOV BL, 7; HLT.
    const LIST: u64 = 0x6_0000;
    let mut machine = machine(|state| {
        state.set(Field::VM_EXIT_MSR_STORE_COUNT, 1);
        state.set(Field::VM_EXIT_MSR_STORE_ADDRESS, LIST);
        state.set(Field::GUEST_IA32_SYSENTER_CS, 0x00f4_07b3);
        state.set(Field::HOST_RIP, LIST + 8);
    });
    machine.set_u64(LIST, 0x174);
    machine.load(LIST + 8, &[0xb3, 9, 0xe9]); // MOV BL, 9; JMP to L1
    let jump = (CODE as i64 - (LIST as i64 + 15)) as u32;
    machine.set_u32(LIST + 11, jump);
    machine.load(GUEST, &CPUID);
    machine.cpu().rip = LIST + 8;
    assert_eq!(machine.run(10_000), Ran::Asleep);
    assert_eq!((machine.gpr(Gpr::Rbx), machine.cpu().rip), (7, LIST + 11));
}

/// What an observer has seen.
#[derive(Default)]
struct Seen {
    instructions: u64,
    events: Vec<u8>,
    exits: Vec<u32>,
    entries: u64,
    entered_at: u64,
    exited_at: u64,
    tried_at: u64,
    refused: Option<u32>,
}

impl Observer<crate::world::World> for Seen {
    fn instruction(&mut self, _state: &State, _insn: &x86_emu::Insn<crate::world::World>) {
        self.instructions += 1;
    }

    fn delivered(&mut self, _state: &State, event: &Event) {
        self.events.push(event.vector);
    }

    fn exited(&mut self, state: &State, exit: &vmx_model::Exit) {
        self.exited_at = state.tsc;
        self.exits.push(exit.reason.0);
    }

    fn entered(&mut self, state: &State, _bus: &crate::world::World, attempt: &Attempt, entry: &VmEntry) {
        self.tried_at = attempt.cpu.rip;
        if let VmEntry::Refused(Some(error)) = entry {
            self.refused = Some(error.0);
        }
        self.entered_at = state.tsc;
        self.entries += 1;
    }
}

#[test]
fn an_observer_sees_instructions_events_entries_and_exits() {
    let mut machine = machine(|state| {
        state.set(Field::VM_ENTRY_INTERRUPTION_INFO, 0x8000_0031);
        state.set(Field::GUEST_RFLAGS, 0x202);
    });
    machine.gate(0x31, CODE_0, HANDLER, INTERRUPT_GATE);
    machine.load(HANDLER, &CPUID);
    let mut seen = Seen::default();
    machine.processor.run_observed(&machine.world, machine.profile, 10_000, &mut seen);
    assert_eq!((seen.events, seen.exits, seen.entries), (vec![0x31], vec![10], 1));
    let state = &machine.processor.state;
    assert_eq!(seen.instructions + state.extra_time, state.tsc);
}

#[test]
fn an_observer_learns_of_a_refused_entry_and_where_it_was_tried() {
    let mut machine = machine(|state| state.set(Field::CR3_TARGET_COUNT, 5));
    let mut seen = Seen::default();
    machine.processor.run_observed(&machine.world, machine.profile, 10_000, &mut seen);
    assert_eq!((seen.entries, seen.refused), (1, Some(7)));
    // VMLAUNCH, behind which L1 goes on and reads the error.
    assert_eq!((seen.tried_at, machine.gpr(Gpr::Rbx), machine.gpr(Gpr::R15)), (CODE + 0x3b, 7, 0xbad));
}

/// A guest of noise, under EPT that misses pages, leads nowhere but to the guest, the host or a stop.
#[test]
fn noise_is_executed_in_a_guest() {
    for seed in 1..200u64 {
        let mut machine = machine(|state| {
            with_ept(state);
            state.set(Field::EXCEPTION_BITMAP, seed.wrapping_mul(0x9e37_79b9) & 0xffff_ffff);
            if seed % 3 == 0 {
                state.on(Control::MONITOR_TRAP_FLAG);
            }
        });
        ept(&mut machine);
        machine.set_u64(EPT_PT + 8 * (seed % 0x100), 0);
        let mut state = seed;
        for at in 0..0x800 {
            state = state.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
            machine.load(GUEST + at, &[(state >> 40) as u8]);
        }
        for vector in 0..32 {
            machine.gate(vector, CODE_0, GUEST + 32 * u64::from(vector), INTERRUPT_GATE);
        }
        machine.run(2_000);
        machine.world.raise_nmi();
        machine.run(2_000);
    }
}

/// MOV EAX, -1; XOR EDX, EDX; MOV EDI, 0x50000; XSAVES [RDI]; CPUID.
const XSAVES: &[u8] = &[0xb8, 0xff, 0xff, 0xff, 0xff, 0x31, 0xd2, 0xbf, 0, 0, 5, 0, 0x0f, 0xc7, 0x2f, 0x0f, 0xa2];
/// Where XSAVES is in it.
const AT_XSAVES: u64 = GUEST + 12;
/// CET_U, in IA32_XSS.
const CET_U: u64 = 1 << 11;

/// A guest that executes XSAVES, with IA32_XSS and the XSS-exiting bitmap; #UD exits.
fn saving(enabled: bool, in_xss: u64, bitmap: u64) -> Machine {
    let mut machine = machine(|state| {
        state.set(Field::GUEST_CR4, state.get(Field::GUEST_CR4) | Cr4::OSXSAVE.bits());
        state.set(Field::EXCEPTION_BITMAP, 1 << 6);
        state.set(Field::XSS_EXITING_BITMAP, bitmap);
        if enabled {
            state.on(Control::ENABLE_XSAVES_XRSTORS);
        } else {
            state.off(Control::ENABLE_XSAVES_XRSTORS);
        }
    });
    machine.cpu().xss = in_xss;
    machine.load(GUEST, XSAVES);
    run(&mut machine);
    machine
}

#[test]
fn xsaves_exits_for_components_of_the_xss_exiting_bitmap() {
    assert_eq!(exit(&saving(true, CET_U, CET_U)), (ExitReason::XSAVES, 0, AT_XSAVES));
}

#[test]
fn xsaves_of_other_components_is_executed() {
    for (in_xss, bitmap) in [(CET_U, CET_U << 1), (0, CET_U)] {
        let machine = saving(true, in_xss, bitmap);
        assert_eq!(exit(&machine), (ExitReason(10), 0, AT_XSAVES + 3), "{in_xss:#x} {bitmap:#x}");
        assert_eq!(machine.u64(0x5_0208) >> 63, 1, "the area is compacted");
    }
}

#[test]
fn xsaves_is_undefined_unless_its_control_is_1() {
    assert_eq!(exit(&saving(false, CET_U, CET_U)), (ExitReason::EXCEPTION_OR_NMI, 0, AT_XSAVES));
}
