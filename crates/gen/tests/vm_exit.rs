//! Does a VM exit return to the guest-state area what the VM entry took from it, and does what it stores enter again?

use proptest::prelude::*;
use softvirt_gen::strategies;
use std::cell::RefCell;
use vmx_model::builder::build;
use vmx_model::entry::{Entry, enter};
use vmx_model::exit::{Abort, Left, leave};
use vmx_model::fields::FieldType;
use vmx_model::reasons::ExitReason;
use vmx_model::rules::GuestKind;
use vmx_model::state::Words;
use vmx_model::view::{CpuInput, VmxInput};
use vmx_model::vmcs::LaunchState;
use vmx_model::{
    Control, Controls, EntryInstruction, EntryState, Exit, Field, KnownEntry, Operation, Vmx, check_entry,
};
use x86_state::{
    Cpu, CpuProfile, Cr0, Cr4, DebugCtl, Efer, Feature, Hpa, Interruptibility, Msr, MsrFile, PhysMemory, Platform,
    Rflags, SegmentRegister, profiles,
};

/// The words of a state; holes read as all ones and drop writes.
struct Memory(RefCell<Words>);

impl PhysMemory for Memory {
    fn read_u8(&self, address: Hpa) -> u8 {
        (self.0.borrow().get(address.0).unwrap_or(u64::MAX) >> (8 * (address.0 & 7))) as u8
    }
    fn write_u8(&self, address: Hpa, value: u8) {
        let word = self.0.borrow().get(address.0);
        if let Some(word) = word {
            let shift = 8 * (address.0 & 7);
            self.0.borrow_mut().set(address.0, word & !(0xff << shift) | u64::from(value) << shift);
        }
    }
}

/// Every register exists and is 0.
struct Registers;

impl MsrFile for Registers {
    fn read(&self, _msr: Msr) -> Option<u64> {
        Some(0)
    }
    fn write(&self, _msr: Msr, _value: u64) -> bool {
        true
    }
}

struct World {
    cpu: Cpu,
    vmx: Vmx,
    memory: Memory,
    profile: CpuProfile,
}

impl World {
    fn new(state: &EntryState) -> Self {
        let input = |input| state.cpu_input(input);
        let mut cpu = Cpu::reset(0);
        cpu.rflags = Rflags::from_bits_retain(input(CpuInput::Rflags));
        cpu.cr0 = Cr0::from_bits_retain(input(CpuInput::Cr0));
        cpu.cr3 = input(CpuInput::Cr3);
        cpu.cr4 = Cr4::from_bits_retain(input(CpuInput::Cr4));
        cpu.efer = Efer::from_bits_retain(input(CpuInput::Efer));
        cpu.rtit_ctl = input(CpuInput::RtitCtl);
        cpu.segments[SegmentRegister::Cs].rights.0 = input(CpuInput::CsAccessRights) as u32;
        let mut vmx = Vmx::new(&state.profile);
        vmx.vmcs = state.vmcs;
        vmx.state.operation = Operation::Root;
        vmx.state.vmxon_pointer = Hpa(state.vmx[VmxInput::VmxonPointer as usize]);
        vmx.state.current_vmcs = Some(Hpa(state.vmx[VmxInput::CurrentVmcsPointer as usize]));
        Self { cpu, vmx, memory: Memory(RefCell::new(state.memory)), profile: state.profile }
    }

    fn enter(&mut self, instruction: EntryInstruction) -> Entry {
        let platform = Platform { profile: &self.profile, memory: &self.memory, msrs: &Registers, tsc: 0 };
        enter(&mut self.vmx, &mut self.cpu, &platform, instruction)
    }

    fn leave(&mut self, exit: &Exit) -> Left {
        let platform = Platform { profile: &self.profile, memory: &self.memory, msrs: &Registers, tsc: 0 };
        leave(&mut self.vmx, &mut self.cpu, &platform, exit)
    }
}

/// The same state entered for the first time, without an MSR list; `None` in SMM.
fn ordinary(state: &EntryState) -> Option<EntryState> {
    let mut state = *state;
    state.set_vmx(VmxInput::Instruction, 0);
    state.set_vmx(VmxInput::LaunchState, 0);
    state.set(Field::VM_ENTRY_MSR_LOAD_COUNT, 0);
    (state.cpu_input(CpuInput::InSmm) == 0).then_some(state)
}

/// The bits of a guest-state field that entry and exit hand through, when the entry injects nothing and the exit is due to INIT.
///
/// What the manual excepts: bits that registers do not have, what is undefined in unusable segment registers, and registers that the entry
/// does not load.
fn handed_through(field: Field, state: &EntryState, controls: &Controls) -> u64 {
    let on = |control: Control| if controls.has(control) { u64::MAX } else { 0 };
    let pae = state.get(Field::GUEST_CR0) >> 31 & 1 == 1
        && state.get(Field::GUEST_CR4) >> 5 & 1 == 1
        && !controls.has(Control::IA32E_MODE_GUEST);
    for register in SegmentRegister::ALL {
        let unusable = state.rights(register) >> 16 & 1 == 1;
        let (base, limit, rights) = match (unusable, register) {
            (false, _) => (u64::MAX, u64::MAX, 0x1_f0ff),
            (true, SegmentRegister::Cs) => (u64::MAX, u64::MAX, 0x1_e000),
            (true, SegmentRegister::Ss) => (0, 0, 0x1_0060),
            (true, SegmentRegister::Fs | SegmentRegister::Gs) => (u64::MAX, 0, 0x1_0000),
            (true, _) => (0, 0, 0x1_0000),
        };
        if field == Field::guest_base(register) {
            return base;
        } else if field == Field::guest_limit(register) {
            return limit;
        } else if field == Field::guest_access_rights(register) {
            return rights;
        }
    }
    match field {
        // ET, 15:6, 17, 28:19, NW, CD and 63:32 are the processor's.
        Field::GUEST_CR0 => !0xffff_ffff_7ffa_ffd0,
        Field::GUEST_IA32_DEBUGCTL => on(Control::LOAD_DEBUG_CONTROLS),
        // 10 is always 1; 12, 14 and 15 are always 0.
        Field::GUEST_DR7 => on(Control::LOAD_DEBUG_CONTROLS) & !0xd400,
        Field::GUEST_IA32_PAT => on(Control::LOAD_PAT),
        Field::GUEST_IA32_EFER => on(Control::LOAD_EFER),
        Field::GUEST_IA32_PERF_GLOBAL_CTRL => on(Control::LOAD_PERF_GLOBAL_CTRL),
        Field::GUEST_IA32_BNDCFGS => on(Control::LOAD_BNDCFGS),
        Field::GUEST_IA32_RTIT_CTL => on(Control::LOAD_RTIT_CTL),
        Field::GUEST_IA32_LBR_CTL => on(Control::LOAD_LBR_CTL),
        Field::GUEST_IA32_PKRS => on(Control::LOAD_PKRS) & 0xffff_ffff,
        Field::GUEST_IA32_SPEC_CTRL => on(Control::LOAD_SPEC_CTRL),
        Field::GUEST_UINV => on(Control::LOAD_UINV) & 0xff,
        Field::GUEST_IA32_S_CET | Field::GUEST_SSP | Field::GUEST_IA32_INTERRUPT_SSP_TABLE_ADDR => {
            on(Control::LOAD_CET_STATE)
        }
        Field::GUEST_IA32_FRED_CONFIG
        | Field::GUEST_IA32_FRED_RSP1
        | Field::GUEST_IA32_FRED_RSP2
        | Field::GUEST_IA32_FRED_RSP3
        | Field::GUEST_IA32_FRED_STACK_LEVELS
        | Field::GUEST_IA32_FRED_SSP1
        | Field::GUEST_IA32_FRED_SSP2
        | Field::GUEST_IA32_FRED_SSP3 => on(Control::LOAD_FRED),
        Field::GUEST_PDPTE0 | Field::GUEST_PDPTE1 | Field::GUEST_PDPTE2 | Field::GUEST_PDPTE3 => {
            if pae {
                on(Control::ENABLE_EPT)
            } else {
                0
            }
        }
        // Blocking of SMIs is saved as 0, and so is enclave interruption where nothing was injected.
        Field::GUEST_INTERRUPTIBILITY_STATE if fred(state, controls) => 0b1001,
        Field::GUEST_INTERRUPTIBILITY_STATE => 0b1011,
        // Lost in the shutdown and wait-for-SIPI states.
        Field::GUEST_PENDING_DEBUG_EXCEPTIONS if state.get(Field::GUEST_ACTIVITY_STATE) > 1 => 0,
        _ => u64::MAX,
    }
}

/// Does the guest run with FRED transitions enabled? Then MOV SS blocks nothing, and exits save no blocking by it (FRED specification 9.6.1).
fn fred(state: &EntryState, controls: &Controls) -> bool {
    state.get(Field::GUEST_CR4) & Cr4::FRED.bits() != 0 && controls.has(Control::IA32E_MODE_GUEST)
}

/// Rules that may be broken once the guest has been left, and what the hypervisor has to do about it.
const DUTIES: [&str; 2] = [
    // The exit has cleared BS of a single-stepped guest with a shadow or in HLT (SDM 3C 26.3.1.5): set it again.
    "guest.pending_debug.bs_set",
    // The exit has left tracing on: "clear IA32_RTIT_CTL" was 0.
    "ctl.load_rtit_ctl.not_while_tracing",
];

/// Enters without injection and exits because of INIT. Answers whether the state entered.
fn round_trip(state: &EntryState) -> Result<bool, TestCaseError> {
    let Some(mut state) = ordinary(state) else { return Ok(false) };
    state.clear_bits(Field::VM_ENTRY_INTERRUPTION_INFO, 1 << 31);
    let mut world = World::new(&state);
    let Entry::Entered(_) = world.enter(EntryInstruction::Vmlaunch) else { return Ok(false) };
    let controls = world.vmx.guest.controls;
    let left = world.leave(&Exit::new(ExitReason::INIT_SIGNAL));
    for field in Field::all().filter(|field| field.row().kind == FieldType::Guest) {
        let mask = handed_through(field, &state, &controls);
        let (before, after) = (state.get(field), world.vmx.vmcs.get(field));
        prop_assert_eq!(before & mask, after & mask, "{:?}, left {:?}", field, left);
    }
    if fred(&state, &controls) {
        prop_assert_eq!(world.vmx.vmcs.get(Field::GUEST_INTERRUPTIBILITY_STATE) & 0b10, 0, "blocking by MOV SS");
    }
    Ok(true)
}

/// The rules that VMRESUME of what the exit has left would break.
fn broken(world: &World) -> Vec<&'static str> {
    let view = KnownEntry {
        instruction: EntryInstruction::Vmresume,
        vmcs: &world.vmx.vmcs,
        executive: &world.vmx.vmcs,
        cpu: &world.cpu,
        vmx: world.vmx.state,
        memory: &&world.memory,
        profile: &world.profile,
    };
    check_entry(&view).broken().map(|rule| rule.row().id).collect()
}

/// Enters, exits and looks at the rules again. Answers whether the state entered and the host came back.
fn enters_again(state: &EntryState, keeps_pending_debug: bool) -> Result<bool, TestCaseError> {
    let Some(state) = ordinary(state) else { return Ok(false) };
    let mut world = World::new(&state);
    // The entry checks BS against the field's BTF even if it does not load IA32_DEBUGCTL; then the guest runs with the BTF of the processor,
    // which is made the same here. `an_entry_that_does_not_load_debugctl_checks_the_wrong_btf` is about the other case.
    world.cpu.debugctl = DebugCtl::from_bits_retain(state.get(Field::GUEST_IA32_DEBUGCTL)) & DebugCtl::BTF;
    let Entry::Entered(_) = world.enter(EntryInstruction::Vmlaunch) else { return Ok(false) };
    world.vmx.state.launch_state = LaunchState::Launched;
    let exit = Exit { keeps_pending_debug, ..Exit::new(ExitReason::PREEMPTION_TIMER_EXPIRED) };
    if let Left::Abort(abort) = world.leave(&exit) {
        // What VM entry does not check: the MSR lists of the exit and the host's PDPTEs. Whether "host address-space size" has to be 1 the
        // rules cannot tell of a processor that may lack Intel 64 architecture.
        let unchecked = match abort {
            Abort::IA32E_TO_LEGACY => state.profile.has(Feature::LM).is_none(),
            _ => [Abort::SAVING_MSRS, Abort::LOADING_MSRS, Abort::HOST_PDPTES].contains(&abort),
        };
        prop_assert!(unchecked, "{}", abort);
        return Ok(false);
    }
    prop_assert_eq!(world.vmx.state.operation, Operation::Root);
    prop_assert!(!world.cpu.interruptibility.intersects(Interruptibility::STI | Interruptibility::MOV_SS));
    let broken: Vec<&str> = broken(&world)
        .into_iter()
        .filter(|id| !DUTIES.contains(id) || keeps_pending_debug && *id == DUTIES[0])
        .collect();
    prop_assert_eq!(broken, Vec::<&str>::new());
    Ok(true)
}

#[test]
fn the_usual_guests_make_the_round_trip() {
    for kind in [
        GuestKind::Long64,
        GuestKind::Compatibility,
        GuestKind::Protected32,
        GuestKind::Pae,
        GuestKind::Virtual8086,
        GuestKind::RealUnrestricted,
        GuestKind::Hlt,
        GuestKind::WaitForSipi,
    ] {
        let state = build(kind, &profiles::MAX);
        assert!(matches!(round_trip(&state), Ok(true)), "{kind:?}");
        assert!(matches!(enters_again(&state, true), Ok(true)), "{kind:?}");
    }
}

/// SDM 3C 26.3.1.5 names the field, whatever "load debug controls" is. So a halted guest that single-steps may enter with BS 0 thanks to the
/// field's BTF, while the processor's is 0; the exit saves the processor's, and the same guest does not enter again.
#[test]
fn an_entry_that_does_not_load_debugctl_checks_the_wrong_btf() {
    let mut state = build(GuestKind::Hlt, &profiles::MAX);
    state.set_bits(Field::GUEST_RFLAGS, Rflags::TF.bits());
    state.set_bits(Field::GUEST_IA32_DEBUGCTL, DebugCtl::BTF.bits());
    state.set_bits(Field::VM_EXIT_CONTROLS, Control::SAVE_DEBUG_CONTROLS.mask());
    for loads in [true, false] {
        if loads {
            state.set_bits(Field::VM_ENTRY_CONTROLS, Control::LOAD_DEBUG_CONTROLS.mask());
        } else {
            state.clear_bits(Field::VM_ENTRY_CONTROLS, Control::LOAD_DEBUG_CONTROLS.mask());
        }
        let mut world = World::new(&state);
        assert!(matches!(world.enter(EntryInstruction::Vmlaunch), Entry::Entered(_)), "loads {loads}");
        world.vmx.state.launch_state = LaunchState::Launched;
        let exit = Exit { keeps_pending_debug: true, ..Exit::new(ExitReason::PREEMPTION_TIMER_EXPIRED) };
        assert!(matches!(world.leave(&exit), Left::Host { .. }), "loads {loads}");
        let expected: &[&str] = if loads { &[] } else { &DUTIES[..1] };
        assert_eq!(broken(&world), expected, "loads {loads}");
    }
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 2000, failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn an_exit_returns_what_the_entry_took(case in strategies::valid_entry()) {
        round_trip(&case.state)?;
    }

    #[test]
    fn what_an_exit_stores_enters_again(case in strategies::valid_entry(), keeps in any::<bool>()) {
        enters_again(&case.state, keeps)?;
    }
}
