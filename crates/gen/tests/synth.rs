//! Does `synth` make the exits that the model makes, in any guest: instructions, exceptions, interrupts, task switches, EPT violations?

use proptest::prelude::*;
use softvirt_ept::{EptEvent, Operation, Purpose};
use softvirt_gen::{GuestCase, Happening, strategies};
use vmx_model::event::{Boundary, Circumstances, Detail, Reaction, boundary, exception, translation_failure};
use vmx_model::information::TaskSwitchSource;
use vmx_model::intercept::{decide, task_switch};
use vmx_model::synth::{
    self, CrAccess, DescriptorTableAccess, EptViolation, Invalidation, Io, MemoryInstruction, SelectorAccess, StringIo,
    TaskSwitch,
};
use vmx_model::{Exit, Verdict};
use x86_state::{Cpu, CpuMode, Cr0, Event, EventType, Exception, Gva, Instruction, MemoryOperand, Op, Operand, Size};

/// The exit that `synth` makes for an instruction; `None` if `synth` has no function for it or its operand is not what its encoding demands.
///
/// What `synth` cannot know of the guest is done here: outside 64-bit mode linear addresses have 32 bits.
fn made(instruction: &Instruction, cpu: &Cpu) -> Option<Exit> {
    let len_bytes = instruction.len_bytes;
    let long = cpu.mode() == CpuMode::Long64;
    let address_size = instruction.address_size;
    let usual = |exit: Exit| Some(Exit { instruction_len_bytes: Some(len_bytes), ..exit });
    let operand: Option<&MemoryOperand> = instruction.operand.memory();
    let memory = |which| Some(synth::memory(which, operand?, address_size, len_bytes));
    let invalidation = |which, kind| Some(synth::invalidation(which, kind, operand?, address_size, len_bytes));
    let table = |which| {
        let size = if long { None } else { Some(instruction.operand_size) };
        Some(synth::descriptor_table(which, operand?, address_size, size, len_bytes))
    };
    let none = instruction.operand == Operand::None;
    let selector = |which| (!none).then(|| synth::selector(which, &instruction.operand, address_size, len_bytes));
    match instruction.op {
        Op::Cpuid => usual(synth::cpuid()),
        Op::Getsec => usual(synth::getsec()),
        Op::Hlt => usual(synth::hlt()),
        Op::Invd => usual(synth::invd()),
        Op::Wbinvd => usual(synth::wbinvd()),
        Op::Wbnoinvd => usual(synth::wbnoinvd()),
        Op::Pause => usual(synth::pause()),
        Op::Rsm => usual(synth::rsm()),
        Op::Monitor => usual(synth::monitor()),
        Op::Mwait { armed, .. } => usual(synth::mwait(armed)),
        // Their operand has 32 bits.
        Op::Umwait { register } if instruction.operand_size == Size::Bits32 => Some(synth::umwait(register, len_bytes)),
        Op::Tpause { register } if instruction.operand_size == Size::Bits32 => Some(synth::tpause(register, len_bytes)),
        Op::Rdtsc => usual(synth::rdtsc()),
        Op::Rdtscp => usual(synth::rdtscp()),
        Op::Rdpmc => usual(synth::rdpmc()),
        Op::Rdrand { register } => Some(synth::random(false, register, instruction.operand_size, len_bytes)),
        Op::Rdseed { register } => Some(synth::random(true, register, instruction.operand_size, len_bytes)),
        Op::MovToCr { number, source, .. } => {
            Some(synth::cr_access(CrAccess::MovTo { cr: number, gpr: source }, len_bytes))
        }
        Op::MovFromCr { number, destination } => {
            Some(synth::cr_access(CrAccess::MovFrom { cr: number, gpr: destination }, len_bytes))
        }
        Op::Clts => Some(synth::cr_access(CrAccess::Clts, len_bytes)),
        Op::Lmsw { source } => {
            let memory = operand.map(|operand| operand.linear);
            Some(synth::cr_access(CrAccess::Lmsw { source, memory }, len_bytes))
        }
        Op::MovToDr { number, source } => Some(synth::mov_dr(number, true, source, len_bytes)),
        Op::MovFromDr { number, destination } => Some(synth::mov_dr(number, false, destination, len_bytes)),
        Op::Io { port, size_bytes, input, immediate } => {
            Some(synth::io(Io { port, size_bytes, input, immediate, string: None }, len_bytes))
        }
        Op::StringIo { port, size_bytes, input, repeated } => {
            let operand = operand?;
            let usable = long || cpu.segment(operand.segment).rights.usable();
            let linear = usable.then_some(operand.linear);
            let string = StringIo { repeated, address_size, segment: operand.segment, linear };
            Some(synth::io(Io { port, size_bytes, input, immediate: false, string: Some(string) }, len_bytes))
        }
        Op::Rdmsr { .. } => usual(synth::rdmsr()),
        Op::Wrmsr { .. } => usual(synth::wrmsr()),
        Op::Xsetbv => usual(synth::xsetbv()),
        Op::Xsaves { .. } => memory(MemoryInstruction::Xsaves),
        Op::Xrstors { .. } => memory(MemoryInstruction::Xrstors),
        Op::Lgdt => table(DescriptorTableAccess::Lgdt),
        Op::Lidt => table(DescriptorTableAccess::Lidt),
        Op::Sgdt => table(DescriptorTableAccess::Sgdt),
        Op::Sidt => table(DescriptorTableAccess::Sidt),
        Op::Lldt => selector(SelectorAccess::Lldt),
        Op::Ltr => selector(SelectorAccess::Ltr),
        Op::Sldt => selector(SelectorAccess::Sldt),
        Op::Str => selector(SelectorAccess::Str),
        Op::Invlpg => Some(synth::invlpg(operand?.linear, len_bytes)),
        Op::Invpcid { register } => invalidation(Invalidation::Invpcid, register),
        Op::Invept { register } => invalidation(Invalidation::Invept, register),
        Op::Invvpid { register } => invalidation(Invalidation::Invvpid, register),
        Op::Encls { .. } => usual(synth::encls()),
        Op::Pconfig { .. } => usual(synth::pconfig()),
        Op::Loadiwkey { first, second } => Some(synth::loadiwkey(first, second, len_bytes)),
        Op::Vmcall => usual(synth::vmcall()),
        Op::Vmclear => memory(MemoryInstruction::Vmclear),
        Op::Vmptrld => memory(MemoryInstruction::Vmptrld),
        Op::Vmptrst => memory(MemoryInstruction::Vmptrst),
        Op::Vmxon => memory(MemoryInstruction::Vmxon),
        Op::Vmfunc => usual(synth::vmfunc()),
        Op::Vmlaunch => usual(synth::vmlaunch()),
        Op::Vmresume => usual(synth::vmresume()),
        Op::Vmxoff => usual(synth::vmxoff()),
        Op::Vmread { register } if !none => {
            Some(synth::field_read(register, &instruction.operand, address_size, len_bytes))
        }
        Op::Vmwrite { register } if !none => {
            Some(synth::field_write(register, &instruction.operand, address_size, len_bytes))
        }
        // Later than revision 077, or without a VM exit of their own.
        _ => None,
    }
}

/// How many cases of each kind were compared.
#[derive(Default, Debug)]
struct Compared {
    instructions: u32,
    exceptions: u32,
    boundaries: u32,
    task_switches: u32,
    violations: u32,
}

/// An exit as it is recorded: the length of a software event follows from the event, and may stand in the exit too.
fn recorded(case: &GuestCase, exit: &Exit) -> [u64; 16] {
    let mut vmcs = case.vmx.vmcs;
    exit.record(&mut vmcs);
    vmx_model::exit::record::FIELDS.map(|field| vmcs.get(field))
}

fn compare(case: &GuestCase, compared: &mut Compared) -> Result<(), TestCaseError> {
    match &case.happening {
        Happening::Instruction(instruction) => {
            let verdict = decide(&case.vmx, &case.cpu, &case.memory, instruction);
            if let (Verdict::Exit(exit), Some(made)) = (verdict, made(instruction, &case.cpu)) {
                prop_assert_eq!(exit, made, "{:?}", instruction);
                compared.instructions += 1;
            }
        }
        Happening::Exception(raised, circumstances) => {
            // What comes of other circumstances is in the exit's own parts, which `synth` leaves to the test.
            if *circumstances != Circumstances::default() {
                return Ok(());
            }
            let Reaction::Exit(exit) = exception(&case.vmx, &case.cpu, raised, circumstances) else { return Ok(()) };
            let Event { kind, vector, error_code, instruction_len_bytes } = raised.event;
            let error_code = error_code.filter(|_| case.cpu.cr0.contains(Cr0::PE));
            let long = case.cpu.mode() == CpuMode::Long64;
            let made = match (kind, raised.detail) {
                (EventType::PRIVILEGED_SOFTWARE_EXCEPTION, _) => synth::int1(instruction_len_bytes),
                (EventType::SOFTWARE_EXCEPTION, _) if Exception(vector) == Exception::BP => {
                    synth::int3(instruction_len_bytes)
                }
                (EventType::SOFTWARE_EXCEPTION, _) => synth::into(instruction_len_bytes),
                (_, Detail::PageFault(address)) => {
                    let address = if long { address } else { Gva(address.0 & 0xffff_ffff) };
                    synth::exception(Exception::PF, error_code).qualified(address.0)
                }
                // General detection is a fault, and the caller says so.
                (_, Detail::Debug(causes)) if causes >> 13 & 1 == 1 => return Ok(()),
                (_, Detail::Debug(causes)) => synth::debug_exception(causes),
                (_, Detail::None) => synth::exception(Exception(vector), error_code),
            };
            // A machine check keeps pending debug exceptions; `leave` finds that in the event too.
            let made = Exit { keeps_pending_debug: exit.keeps_pending_debug, ..made };
            prop_assert_eq!(recorded(case, &exit), recorded(case, &made), "{:?}", raised);
            compared.exceptions += 1;
        }
        Happening::Boundary(pending) => {
            if pending.between_iterations {
                return Ok(());
            }
            let made = match boundary(&case.vmx, &case.cpu, &case.platform(), pending) {
                Boundary::Exit(exit) => (
                    exit,
                    match exit.reason.basic() {
                        0 => synth::nmi(),
                        1 => synth::external_interrupt(None),
                        3 => synth::init(),
                        4 => synth::sipi(pending.sipi.unwrap_or(0)),
                        7 => synth::interrupt_window(),
                        8 => synth::nmi_window(),
                        37 => synth::monitor_trap_flag(),
                        43 => synth::tpr_below_threshold(),
                        52 => synth::preemption_timer(),
                        74 => synth::bus_lock(),
                        other => return Err(TestCaseError::fail(format!("an exit {other} at a boundary"))),
                    },
                ),
                Boundary::AcknowledgeAndExit => (
                    vmx_model::event::boundary::external_interrupt_exit(Some(0x31), &Circumstances::default()),
                    synth::external_interrupt(Some(0x31)),
                ),
                _ => return Ok(()),
            };
            // Whether pending debug exceptions are kept, `leave` finds by the reason.
            let (exit, made) = (made.0, Exit { keeps_pending_debug: made.0.keeps_pending_debug, ..made.1 });
            prop_assert_eq!(
                exit.saves_pending_debug(),
                Exit { keeps_pending_debug: false, ..exit }.saves_pending_debug()
            );
            prop_assert_eq!(exit, made);
            compared.boundaries += 1;
        }
        Happening::TaskSwitch(selector, source, len_bytes, delivering) => {
            let len_bytes = *len_bytes;
            let from = match (source, delivering) {
                (TaskSwitchSource::Call, _) => TaskSwitch::Call { len_bytes },
                (TaskSwitchSource::Iret, _) => TaskSwitch::Iret { len_bytes },
                (TaskSwitchSource::Jmp, _) => TaskSwitch::Jmp { len_bytes },
                (TaskSwitchSource::IdtGate, Some(delivering)) => TaskSwitch::Gate { delivering: *delivering },
                (TaskSwitchSource::IdtGate, None) => return Ok(()),
            };
            let circumstances = Circumstances { delivering: *delivering, ..Circumstances::default() };
            let exit = task_switch(*selector, *source, len_bytes, &circumstances);
            let made = synth::task_switch(*selector, from);
            prop_assert_eq!(recorded(case, &exit), recorded(case, &made));
            compared.task_switches += 1;
        }
        Happening::Walk(walk, circumstances) => {
            let (Some(ept), Err(failure)) = (walk.ept(), walk.walk()) else { return Ok(()) };
            if circumstances.delivering.is_some() || circumstances.unblocks_nmi {
                return Ok(());
            }
            let Some(EptEvent::Violation { .. }) = failure.ept_event(&ept, walk.access) else { return Ok(()) };
            let reaction = translation_failure(
                &case.vmx,
                &case.cpu,
                &case.memory,
                &walk.paging,
                Some(&ept),
                &failure,
                walk.access,
                walk.linear,
                circumstances,
            );
            // It may have become a virtualization exception.
            let Reaction::Exit(mut exit) = reaction else { return Ok(()) };
            if exit.reason.basic() != 48 {
                return Ok(());
            }
            // Not given by `synth`: advanced information, supervisor shadow-stack control, guest-paging verification.
            exit.qualification &= !(7 << 9 | 1 << 14 | 1 << 15);
            let to_translation = failure.purpose == Purpose::Page;
            let sets_flag = matches!(failure.purpose, Purpose::Table { write: true, .. });
            let long = case.cpu.mode() == CpuMode::Long64;
            let does = |operation| to_translation && walk.access.operation == operation;
            // 27.2.1, note 2: 0 if an entry is not present; no entry translates an address that is too wide.
            let absent =
                matches!(failure.kind, softvirt_ept::FailureKind::NotPresent | softvirt_ept::FailureKind::TooWide);
            let allows = |bit: u32| !absent && failure.rights >> bit & 1 == 1;
            let made = synth::ept_violation(
                failure.gpa,
                EptViolation {
                    read: does(Operation::Read) || !to_translation,
                    write: does(Operation::Write) || sets_flag,
                    fetch: does(Operation::Fetch),
                    readable: allows(0),
                    writable: allows(1),
                    executable: allows(2),
                    user_executable: allows(10) && ept.controls().mode_based_execute,
                    linear: Some(if long { walk.linear } else { Gva(walk.linear.0 & 0xffff_ffff) }),
                    to_translation,
                    shadow_stack: to_translation && walk.access.shadow_stack,
                    delivering: None,
                },
            );
            prop_assert_eq!(exit, made, "{:?}", failure);
            compared.violations += 1;
        }
    }
    Ok(())
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 2000, failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn synth_makes_what_the_model_makes(case in strategies::guest_case()) {
        compare(&case, &mut Compared::default())?;
    }
}

/// The same over a fixed sequence of bytes, with the proof that every kind of exit was among them.
#[test]
fn a_bounded_run_compares_every_kind_of_exit() {
    let mut random = 0x9e37_79b9_7f4a_7c15_u64;
    let mut bytes = [0; 480];
    let mut compared = Compared::default();
    for _ in 0..40_000 {
        for chunk in bytes.chunks_exact_mut(8) {
            random ^= random << 13;
            random ^= random >> 7;
            random ^= random << 17;
            chunk.copy_from_slice(&random.to_le_bytes());
        }
        if let Err(error) = compare(&GuestCase::from_bytes(&bytes), &mut compared) {
            panic!("{error}");
        }
    }
    let Compared { instructions, exceptions, boundaries, task_switches, violations } = compared;
    for (count, least) in
        [(instructions, 1000), (exceptions, 50), (boundaries, 50), (task_switches, 500), (violations, 20)]
    {
        assert!(count >= least, "{compared:?}");
    }
}
