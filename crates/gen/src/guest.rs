//! How do bytes become a guest that something happens to? A processor in VMX non-root operation, entered and gone on since, and one event or
//! instruction.

use crate::entry::interesting;
use crate::instruction::{event, hardware_exception, instruction, one_in, pick};
use crate::memory::Sparse;
use crate::{arbitrary_state, walk::WalkCase};
use arbitrary::{Arbitrary, Result, Unstructured};
use vmx_model::builder::{CURRENT_VMCS_POINTER, VMXON_POINTER, build};
use vmx_model::entry::{Entry, enter};
use vmx_model::event::{Circumstances, Pending, Raised};
use vmx_model::information::TaskSwitchSource;
use vmx_model::rules::GuestKind;
use vmx_model::view::{CpuInput, VmxInput};
use vmx_model::{Control, EntryInstruction, EntryState, Field, Operation, Vmx, round_to_valid};
use x86_state::{
    ActivityState, Cpu, CpuMode, CpuProfile, Cr0, Cr4, DebugCtl, Dr6, Efer, Event, EventType, Exception, Gpr, Gva, Hpa,
    Instruction, Interruptibility, Msr, MsrFile, OpClass, PendingDebug, Platform, Rflags, SegmentRegister, VmxMsr,
    profiles,
};

/// Every register exists, holds 0 and takes every value.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct EveryMsr;

impl MsrFile for EveryMsr {
    fn read(&self, _msr: Msr) -> Option<u64> {
        Some(0)
    }
    fn write(&self, _msr: Msr, _value: u64) -> bool {
        true
    }
}

/// What happens to a guest.
#[derive(Clone, Debug)]
pub enum Happening {
    /// It executes this instruction.
    Instruction(Instruction),
    /// This exception is raised.
    Exception(Raised, Circumstances),
    /// It reaches an instruction boundary.
    Boundary(Pending),
    /// It accesses memory.
    Walk(Box<WalkCase>, Circumstances),
    /// It switches tasks: selector, source, instruction length and the event that met a task gate.
    TaskSwitch(u16, TaskSwitchSource, u8, Option<Event>),
}

/// A guest, and what happens to it.
#[derive(Clone, Debug)]
pub struct GuestCase {
    /// The processor.
    pub profile: CpuProfile,
    /// VMX state: non-root operation.
    pub vmx: Vmx,
    /// The guest's registers.
    pub cpu: Cpu,
    /// Memory. Bitmaps that nobody has written are all zeros, all ones or every second bit.
    pub memory: Sparse,
    /// The time-stamp counter.
    pub tsc: u64,
    /// What happens.
    pub happening: Happening,
    /// Bits to be put where they must not matter.
    pub noise: u64,
}

impl GuestCase {
    /// Makes a case from any bytes; the same bytes make the same case. Bytes that run out count as zeros.
    #[must_use]
    pub fn from_bytes(bytes: &[u8]) -> Self {
        let mut source = Unstructured::new(bytes);
        match Self::arbitrary(&mut source) {
            Ok(case) => case,
            // Fixed-size values never fail, and no others are asked for.
            Err(error) => unreachable!("{error}"),
        }
    }

    /// What is around the processor.
    #[must_use]
    pub fn platform(&self) -> Platform<'_, Sparse, EveryMsr> {
        Platform { profile: &self.profile, memory: &self.memory, msrs: &EveryMsr, tsc: self.tsc }
    }
}

impl<'a> Arbitrary<'a> for GuestCase {
    fn arbitrary(u: &mut Unstructured<'a>) -> Result<Self> {
        // What happens comes first: a short input is a simple guest to which anything may happen.
        let what = u.arbitrary::<u8>()?;
        let class = OpClass::ALL[usize::from(u.arbitrary::<u8>()?) % OpClass::ALL.len()];
        let noise = u.arbitrary()?;
        let fill = pick(u, &[0xff, 0, 0x55])?;
        let mut guest = entered(u)?;
        go_on(&mut guest, u)?;
        let happening = match what % 16 {
            0..8 => {
                guest.cpu.activity = ActivityState::ACTIVE;
                Happening::Instruction(instruction(u, &guest.cpu, class)?)
            }
            8 | 9 => Happening::Exception(raised(u)?, circumstances(u)?),
            10 | 11 => Happening::Boundary(pending(u)?),
            12 => {
                let (selector, len_bytes) = (u.arbitrary()?, 1 + u.arbitrary::<u8>()? % 15);
                let source = pick(
                    u,
                    &[TaskSwitchSource::Call, TaskSwitchSource::Iret, TaskSwitchSource::Jmp, TaskSwitchSource::IdtGate],
                )?;
                let gate = source == TaskSwitchSource::IdtGate;
                Happening::TaskSwitch(selector, source, len_bytes, if gate { Some(event(u)?) } else { None })
            }
            _ => {
                let walk = WalkCase::arbitrary(u, &guest.vmx, &mut guest.cpu, &guest.profile)?;
                Happening::Walk(Box::new(walk), circumstances(u)?)
            }
        };
        guest.memory.refill(fill);
        let Guest { profile, vmx, cpu, memory, tsc } = guest;
        Ok(Self { profile, vmx, cpu, memory, tsc, happening, noise })
    }
}

struct Guest {
    profile: CpuProfile,
    vmx: Vmx,
    cpu: Cpu,
    memory: Sparse,
    tsc: u64,
}

/// A state that can be entered for the first time, with more of what makes guests exit than [`arbitrary_state`] has by itself.
fn ready(u: &mut Unstructured<'_>) -> Result<EntryState> {
    let mut state = arbitrary_state(u)?;
    for _ in 0..u.arbitrary::<u8>()? % 8 {
        let field = pick(u, &INTERCEPTING)?;
        state.set(field, interesting(u)?);
    }
    state.set_cpu(CpuInput::InSmm, 0);
    state.set_vmx(VmxInput::Instruction, 0);
    state.set_vmx(VmxInput::LaunchState, 0);
    state.set_vmx(VmxInput::VmxonPointer, VMXON_POINTER);
    state.set_vmx(VmxInput::CurrentVmcsPointer, CURRENT_VMCS_POINTER);
    state.set(Field::VM_ENTRY_MSR_LOAD_COUNT, 0);
    let valid = round_to_valid(&mut state).is_ok();
    debug_assert!(valid, "every state can be rounded to a valid one");
    // The rounding may have brought a list back, or SMM.
    state.set(Field::VM_ENTRY_MSR_LOAD_COUNT, 0);
    Ok(state)
}

/// Fields that decide what exits.
const INTERCEPTING: [Field; 24] = [
    Field::CR0_GUEST_HOST_MASK,
    Field::CR4_GUEST_HOST_MASK,
    Field::CR0_READ_SHADOW,
    Field::CR4_READ_SHADOW,
    Field::EXCEPTION_BITMAP,
    Field::PAGE_FAULT_ERROR_CODE_MASK,
    Field::PAGE_FAULT_ERROR_CODE_MATCH,
    Field::CR3_TARGET_COUNT,
    Field::CR3_TARGET_VALUE_0,
    Field::CR3_TARGET_VALUE_3,
    Field::TSC_OFFSET,
    Field::PLE_GAP,
    Field::PLE_WINDOW,
    Field::XSS_EXITING_BITMAP,
    Field::ENCLS_EXITING_BITMAP,
    Field::ENCLV_EXITING_BITMAP,
    Field::PCONFIG_EXITING_BITMAP,
    Field::EOI_EXIT_BITMAP_0,
    Field::EOI_EXIT_BITMAP_2,
    Field::GUEST_INTERRUPT_STATUS,
    Field::TPR_THRESHOLD,
    Field::VMX_PREEMPTION_TIMER_VALUE,
    Field::SPEC_CTRL_MASK,
    Field::SPEC_CTRL_SHADOW,
];

/// A guest at its first instruction.
fn entered(u: &mut Unstructured<'_>) -> Result<Guest> {
    let state = ready(u)?;
    let tsc = u64::from(u.arbitrary::<u32>()?);
    if let Some(guest) = try_enter(&state, tsc) {
        return Ok(guest);
    }
    // A rule that is undecided on this processor does not hold, or the entry would return from SMM.
    let usual = build(GuestKind::Long64, &profiles::MAX);
    match try_enter(&usual, tsc) {
        Some(guest) => Ok(guest),
        None => unreachable!("a usual guest enters"),
    }
}

/// The processor of a state in VMX root operation.
pub(crate) fn root(state: &EntryState) -> (Vmx, Cpu) {
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
    (vmx, cpu)
}

fn try_enter(state: &EntryState, tsc: u64) -> Option<Guest> {
    let (mut vmx, mut cpu) = root(state);
    let (profile, memory) = (state.profile, Sparse::new(state.memory, 0xff));
    let platform = Platform { profile: &profile, memory: &memory, msrs: &EveryMsr, tsc };
    let entry = enter(&mut vmx, &mut cpu, &platform, EntryInstruction::Vmlaunch);
    matches!(entry, Entry::Entered(_)).then_some(Guest { profile, vmx, cpu, memory, tsc })
}

/// What a guest can do to its processor without an exit: every change leaves a state that a VM entry would accept.
fn go_on(guest: &mut Guest, u: &mut Unstructured<'_>) -> Result<()> {
    let Guest { profile, vmx, cpu, tsc, .. } = guest;
    *tsc += u64::from(u.arbitrary::<u16>()?) << (u.arbitrary::<u8>()? % 32);
    // The event that was injected is delivered.
    for register in [Gpr::Rax, Gpr::Rcx, Gpr::Rbx, Gpr::R9] {
        cpu.gpr[register] = interesting(u)?;
    }
    if one_in(u, 3)? {
        cpu.activity = ActivityState::ACTIVE;
    }
    let toggles = Rflags::CF | Rflags::ZF | Rflags::TF | Rflags::IF | Rflags::RF | Rflags::AC | Rflags::NT;
    let toggled = Rflags::from_bits_retain(u64::from(u.arbitrary::<u32>()?)).intersection(toggles);
    let active = cpu.activity == ActivityState::ACTIVE;
    if active {
        cpu.rflags ^= toggled;
        cpu.interruptibility.remove(Interruptibility::STI | Interruptibility::MOV_SS);
        match u.arbitrary::<u8>()? % 4 {
            1 if cpu.rflags.contains(Rflags::IF) => cpu.interruptibility.insert(Interruptibility::STI),
            2 => cpu.interruptibility.insert(Interruptibility::MOV_SS),
            _ => {}
        }
    }
    if one_in(u, 4)? && cpu.activity.0 <= ActivityState::HLT.0 {
        cpu.pending_debug = PendingDebug::ENABLED_BREAKPOINT | PendingDebug::from_bits_retain(1);
        let steps = cpu.rflags.contains(Rflags::TF) && !cpu.debugctl.contains(DebugCtl::BTF);
        cpu.pending_debug.set(PendingDebug::BS, steps);
    } else {
        cpu.pending_debug = PendingDebug::empty();
    }
    cpu.cr0 ^= Cr0::from_bits_retain(u.arbitrary::<u8>()?.into()).intersection(Cr0::TS | Cr0::MP | Cr0::EM);
    let free = Cr4::TSD | Cr4::DE | Cr4::PCE | Cr4::OSFXSR | Cr4::OSXSAVE | Cr4::UMIP | Cr4::SMXE | Cr4::KL;
    let fixed = profile.vmx(VmxMsr::Cr4Fixed0).unwrap_or(0);
    let may = profile.vmx(VmxMsr::Cr4Fixed1).unwrap_or(0) & !fixed;
    cpu.cr4 ^= Cr4::from_bits_retain(u64::from(u.arbitrary::<u32>()?) & may).intersection(free);
    cpu.cr2 = Gva(u.arbitrary::<u16>()?.into());
    cpu.dr6 ^= Dr6::from_bits_retain(u64::from(u.arbitrary::<u8>()?) & 0xf);
    cpu.xss = interesting(u)?;
    let distance = u64::from(u.arbitrary::<u8>()?);
    if cpu.mode() == CpuMode::Long64 {
        // A canonical address with 48 bits is one with 57.
        let rip = cpu.rip.wrapping_add(distance);
        cpu.rip = if x86_state::addr::is_canonical(rip, 48) { rip } else { cpu.rip };
    } else {
        cpu.rip = cpu.rip.wrapping_add(distance) & 0xffff_ffff;
    }
    let has = |control| vmx.guest.controls.has(control);
    if has(Control::VIRTUAL_NMIS) && one_in(u, 3)? {
        vmx.guest.virtual_nmi_blocking ^= true;
    }
    if one_in(u, 3)? && active {
        vmx_model::event::boundary::completed(vmx);
    }
    if one_in(u, 3)? {
        vmx.guest.pause_loop.first = Some(u64::from(u.arbitrary::<u32>()?));
        vmx.guest.pause_loop.last = u64::from(u.arbitrary::<u32>()?);
    }
    Ok(())
}

fn circumstances(u: &mut Unstructured<'_>) -> Result<Circumstances> {
    let delivering = if one_in(u, 2)? { Some(event(u)?) } else { None };
    // An IRET delivers nothing and repeats nothing.
    let unblocks_nmi = one_in(u, 4)? && delivering.is_none();
    let between_iterations = one_in(u, 4)? && delivering.is_none() && !unblocks_nmi;
    Ok(Circumstances { delivering, injected: false, unblocks_nmi, between_iterations })
}

fn raised(u: &mut Unstructured<'_>) -> Result<Raised> {
    Ok(match u.arbitrary::<u8>()? % 8 {
        0 | 1 => Raised::page_fault(Gva(interesting(u)?), u32::from(u.arbitrary::<u16>()?)),
        2 => Raised::debug(u64::from(u.arbitrary::<u32>()?) & 0x1_680f),
        3 => {
            let software = |kind, exception| Event { kind, instruction_len_bytes: 1, ..Event::exception(exception) };
            Raised::new(pick(
                u,
                &[
                    software(EventType::SOFTWARE_EXCEPTION, Exception::BP),
                    software(EventType::SOFTWARE_EXCEPTION, Exception::OF),
                    software(EventType::PRIVILEGED_SOFTWARE_EXCEPTION, Exception::DB),
                ],
            )?)
        }
        _ => {
            let event = hardware_exception(u)?;
            match Exception(event.vector) {
                Exception::PF => Raised::page_fault(Gva(interesting(u)?), event.error_code.unwrap_or(0)),
                Exception::DB => Raised::debug(1),
                _ => Raised::new(event),
            }
        }
    })
}

fn pending(u: &mut Unstructured<'_>) -> Result<Pending> {
    let bits = u.arbitrary::<u16>()?;
    let on = |n: u16| bits >> n & 1 == 1;
    Ok(Pending {
        machine_check: on(0) && on(8),
        bus_lock: on(1),
        smi: on(2) && on(9),
        init: on(3) && on(10),
        sipi: if on(4) { Some(u.arbitrary()?) } else { None },
        nmi: on(5),
        external_interrupt: on(6),
        between_iterations: on(7) && on(11),
    })
}
