//! An instruction, an event or an access to memory in any guest: what is decided, what the VM exit records, what the host and the guest get.

use softvirt_gen::{GuestCase, Happening, Sparse};
use vmx_model::event::{
    Boundary, Circumstances, Reaction, boundary, boundary::external_interrupt_exit, exception, translation_failure,
};
use vmx_model::exit::before::{begin_delivery, end_shadows};
use vmx_model::exit::{Abort, Left, leave};
use vmx_model::fields::FieldType;
use vmx_model::intercept::{Hot, decide, pause_loop, task_switch, write_virtual_apic};
use vmx_model::interruption::Place;
use vmx_model::reasons::{ExitReason, Records};
use vmx_model::vmcs::LaunchState;
use vmx_model::vmx::NonRoot;
use vmx_model::{
    Control, ControlVector, Controls, Effect, EntryInstruction, Exit, Field, KnownEntry, Operation, Verdict, Vmcs, Vmx,
    check_entry, insn,
};
use x86_state::profile::VmcsWriting;
use x86_state::{
    ActivityState, Cpu, CpuProfile, DebugCtl, Dr7, Efer, EventType, Exception, Feature, Gpr, Interruptibility,
    InterruptionInfo, PendingDebug, PhysMemory, Rflags, SegmentRegister,
};

/// Any guest, and anything that happens to it: the decision does not depend on what the controls disable, the VM exit records what its
/// reason records and nothing else, the host gets the state that the VMCS has for it, and what was saved can be entered again.
pub fn vmx_exit(bytes: &[u8]) {
    check(&GuestCase::from_bytes(bytes));
}

/// What a guest and its circumstances led to.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Decision {
    Verdict(Verdict),
    Reaction(Reaction),
    Boundary(Boundary),
}

/// The checks of [`vmx_exit`] for a case; the exit that it led to, if it led to one.
///
/// # Panics
/// If softvirt is wrong.
pub fn check(case: &GuestCase) -> Option<Exit> {
    let mut case = case.clone();
    // Flags in the tables change with the access, so it is made once.
    let failure = match &case.happening {
        Happening::Walk(walk, _) => Some(walk.walk().err()?),
        _ => None,
    };
    let decide_as = |vmx: &Vmx, memory: &Sparse| -> Decision {
        let platform = x86_state::Platform { memory, ..case.platform() };
        match &case.happening {
            Happening::Instruction(instruction) => Decision::Verdict(decide(vmx, &case.cpu, memory, instruction)),
            Happening::Exception(raised, circumstances) => {
                Decision::Reaction(exception(vmx, &case.cpu, raised, circumstances))
            }
            Happening::Boundary(pending) => Decision::Boundary(boundary(vmx, &case.cpu, &platform, pending)),
            Happening::TaskSwitch(selector, source, len_bytes, delivering) => {
                let circumstances = Circumstances { delivering: *delivering, ..Circumstances::default() };
                Decision::Reaction(Reaction::Exit(task_switch(*selector, *source, *len_bytes, &circumstances)))
            }
            Happening::Walk(walk, circumstances) => match &failure {
                Some(failure) => Decision::Reaction(translation_failure(
                    vmx,
                    &case.cpu,
                    memory,
                    &walk.paging,
                    walk.ept().as_ref(),
                    failure,
                    walk.access,
                    walk.linear,
                    circumstances,
                )),
                None => Decision::Reaction(Reaction::Retry),
            },
        }
    };
    let memory_before = case.memory.clone();
    let flipped = flipped(&case.vmx, case.noise);
    let blind = decide_as(&flipped, &memory_before.clone());
    let decision = decide_as(&case.vmx, &case.memory);
    assert_eq!(decision, blind, "{:?}: a disabled control decides", case.happening);
    if !matches!(case.happening, Happening::Walk(..)) {
        assert_eq!(case.memory, memory_before, "a decision writes no memory");
    }
    if let (Happening::Instruction(instruction), Decision::Verdict(verdict)) = (&case.happening, decision) {
        let hot = Hot::of(&case.vmx.guest.controls, &case.vmx.vmcs).contains(instruction.op.class());
        assert!(!hot || verdict == Verdict::Normal, "{instruction:?} is hot: {verdict:?}");
        agrees_with_execution(&case, instruction, &verdict);
    }
    let mut exit = exit_of(&mut case, decision)?;
    let delivering = match &case.happening {
        Happening::Exception(_, circumstances) | Happening::Walk(_, circumstances) => circumstances.delivering,
        Happening::TaskSwitch(.., delivering) => *delivering,
        _ => None,
    };
    if let Some(event) = delivering {
        // With "virtual NMIs" no NMI is delivered but one that was injected.
        exit.injected = event.kind == EventType::NMI && case.vmx.guest.controls.has(Control::VIRTUAL_NMIS);
        begin_delivery(&mut case.vmx, &mut case.cpu, &event, 0, exit.injected);
    }
    take(&mut case, &exit);
    Some(exit)
}

/// The exit that follows from a decision.
fn exit_of(case: &mut GuestCase, decision: Decision) -> Option<Exit> {
    let GuestCase { vmx, cpu, memory, tsc, happening, .. } = case;
    let exit = match decision {
        Decision::Verdict(Verdict::Exit(exit)) => exit,
        Decision::Verdict(Verdict::Instead(effect)) => {
            let Happening::Instruction(instruction) = happening else { return None };
            match effect {
                Effect::PauseLoop => pause_loop(vmx, cpu, instruction, *tsc)?,
                Effect::WriteVirtualApic(write) => {
                    let exit = write_virtual_apic(vmx, memory, write)?;
                    // The instruction is complete.
                    end_shadows(cpu);
                    cpu.rflags.remove(Rflags::RF);
                    exit
                }
                _ => return None,
            }
        }
        Decision::Reaction(Reaction::Exit(exit)) => exit,
        Decision::Boundary(Boundary::Exit(exit)) => exit,
        Decision::Boundary(Boundary::AcknowledgeAndExit) => {
            external_interrupt_exit(Some(case.noise as u8), &Circumstances::default())
        }
        Decision::Boundary(Boundary::Raise(raised)) => match exception(vmx, cpu, &raised, &Circumstances::default()) {
            Reaction::Exit(exit) => exit,
            _ => return None,
        },
        _ => return None,
    };
    Some(exit)
}

/// What an instruction of VMX does in a guest is what interception says of it.
fn agrees_with_execution(case: &GuestCase, instruction: &x86_state::Instruction, verdict: &Verdict) {
    struct NoOperand;
    impl insn::OperandMemory for NoOperand {
        type Error = ();
        fn read(&mut self, _: &Vmx, _: &Cpu, _: &x86_state::MemoryOperand, _: &mut [u8]) -> Result<(), ()> {
            Err(())
        }
        fn write(&mut self, _: &Vmx, _: &Cpu, _: &x86_state::MemoryOperand, _: &[u8]) -> Result<(), ()> {
            Err(())
        }
    }
    let (mut vmx, mut cpu) = (case.vmx, case.cpu);
    let memory = case.memory.clone();
    let platform = x86_state::Platform { memory: &memory, ..case.platform() };
    match insn::execute(&mut vmx, &mut cpu, &platform, instruction, &mut NoOperand) {
        // EPTP switching has conditions of its own behind the interception.
        insn::Outcome::Exit(exit) if exit.reason == ExitReason::VMFUNC && *verdict == Verdict::Normal => {}
        // A condition that comes before the interception ended it, or the model ends there.
        insn::Outcome::Ordinary | insn::Outcome::Fault(_) | insn::Outcome::NotModelled(_) => {}
        insn::Outcome::Exit(exit) => assert_eq!(*verdict, Verdict::Exit(exit), "{instruction:?}"),
        outcome => assert!(!matches!(verdict, Verdict::Exit(_)), "{instruction:?}: {outcome:?}, {verdict:?}"),
    }
}

/// Takes the exit, and looks at everything that it has left behind.
fn take(case: &mut GuestCase, exit: &Exit) {
    let controls = case.vmx.guest.controls;
    let (before, guest) = (case.vmx, case.cpu);
    put_pdptes(&guest, &case.memory, &case.profile);
    let memory = case.memory.clone();
    let (mut vmx, mut cpu) = (case.vmx, case.cpu);
    let left = leave(&mut vmx, &mut cpu, &case.platform(), exit);
    assert_eq!((vmx.state.operation, vmx.guest), (Operation::Root, NonRoot::default()));
    assert_eq!(vmx.state.current_vmcs, before.state.current_vmcs);
    check_memory(case, &before, &memory);
    match left {
        Left::Abort(abort) => {
            assert_eq!(vmx.aborted, Some(abort));
            assert_eq!(cpu.activity, ActivityState::SHUTDOWN);
            // What VM entry does not check: the MSR lists of the exit and the host's PDPTEs; and, of a processor that may lack Intel 64
            // architecture, whether "host address-space size" has to be 1.
            let unchecked = match abort {
                Abort::IA32E_TO_LEGACY => case.profile.has(Feature::LM).is_none(),
                _ => [Abort::SAVING_MSRS, Abort::LOADING_MSRS, Abort::HOST_PDPTES].contains(&abort),
            };
            assert!(unchecked, "{abort}");
        }
        Left::Host { .. } => {
            assert_eq!(vmx.aborted, None);
            check_fields(&before.vmcs, &vmx.vmcs);
            check_record(exit, &controls, &vmx.vmcs, guest.cr0.bits() & 1 == 0);
            check_guest(&guest, &vmx.vmcs, &before, exit);
            check_host(&cpu, &guest, &vmx.vmcs, &controls, exit, &case.profile);
            enters_again(case, vmx, &cpu, exit);
        }
    }
}

/// Puts the PDPTE registers where they came from, if the guest uses PAE paging.
///
/// Without their reserved bits, which no register has: a guest that keeps the host's registers (the same CR3, PAE paging in both) has here
/// whatever the case gave the host.
fn put_pdptes(guest: &Cpu, memory: &Sparse, profile: &CpuProfile) {
    let reserved = 0x1e6 | profile.physical_bits_beyond();
    if guest.cr0.bits() >> 31 & 1 == 1 && guest.cr4.bits() >> 5 & 1 == 1 && !guest.efer.contains(Efer::LMA) {
        // Where the PDPTE registers came from.
        for (offset, pdpte) in [0, 8, 16, 24].into_iter().zip(guest.pdptes) {
            memory.write_u64(x86_state::Hpa((guest.cr3 & 0xffff_ffe0) + offset), pdpte & !reserved);
        }
    }
}

/// Memory changes only where the exit stores MSRs, and in the region of the VMCS.
fn check_memory(case: &GuestCase, before: &Vmx, memory: &Sparse) {
    let stores = before.vmcs.get(Field::VM_EXIT_MSR_STORE_COUNT);
    let list = before.vmcs.get(Field::VM_EXIT_MSR_STORE_ADDRESS);
    let region = before.state.current_vmcs.map_or(u64::MAX, |region| region.0);
    let through = case.profile.knobs().vmcs_writing == VmcsWriting::WriteThrough;
    for (at, value) in case.memory.changes() {
        if memory.read_u64(x86_state::Hpa(at)) == value {
            continue;
        }
        let in_list = at.wrapping_sub(list & !7) <= 16 * stores;
        // Without writing through, the VMX-abort indicator is all that an exit writes there.
        let in_region = at & !0xfff == region & !0xfff && (through || at == region);
        assert!(in_list || in_region, "{at:#x} was written");
    }
}

/// An exit writes the guest-state area and the VM-exit information, and of the controls two bits.
fn check_fields(before: &Vmcs, after: &Vmcs) {
    for field in Field::all() {
        let may_change = match field {
            Field::VM_ENTRY_CONTROLS => Control::IA32E_MODE_GUEST.mask(),
            Field::VM_ENTRY_INTERRUPTION_INFO => u64::from(InterruptionInfo::VALID),
            Field::VM_INSTRUCTION_ERROR => 0,
            _ if matches!(field.row().kind, FieldType::Guest | FieldType::ReadOnly) => u64::MAX,
            _ => 0,
        };
        assert_eq!(before.get(field) & !may_change, after.get(field) & !may_change, "{field:?}");
    }
    assert_eq!(after.get(Field::VM_ENTRY_INTERRUPTION_INFO) & u64::from(InterruptionInfo::VALID), 0);
}

/// Bits of the exit qualification that the manual defines, for reasons where it is not all of them (27.2.1, Tables 27-1 to 27-7; from 74
/// on rev 092, 30.2.1). Of exceptions those of #DB; #PF has an address.
const QUALIFICATIONS: [(ExitReason, u64); 18] = [
    (ExitReason::EXCEPTION_OR_NMI, 0x1_680f),
    (ExitReason::SIPI, 0xff),
    (ExitReason::TASK_SWITCH, 0xc000_ffff),
    (ExitReason::CONTROL_REGISTER_ACCESS, 0xffff_0f7f),
    (ExitReason::MOV_DR, 0xf17),
    (ExitReason::IO_INSTRUCTION, 0xffff_007f),
    (ExitReason::MWAIT, 1),
    (ExitReason::APIC_ACCESS, 0x1_ffff),
    (ExitReason::VIRTUALIZED_EOI, 0xff),
    (ExitReason::EPT_VIOLATION, 0x1_ffff),
    (ExitReason::WBINVD_OR_WBNOINVD, 1),
    (ExitReason::APIC_WRITE, 0xfff),
    (ExitReason::PAGE_MODIFICATION_LOG_FULL, 1 << 12 | 1 << 16),
    (ExitReason::SPP_RELATED_EVENT, 1 << 11 | 1 << 12 | 1 << 16),
    (ExitReason::INSTRUCTION_TIMEOUT, 1 << 12 | 1),
    (ExitReason::RDMSRLIST, 0xffff_ffff),
    (ExitReason::WRMSRLIST, 0xffff_ffff),
    (ExitReason::WRMSR, 1),
];

/// The VM-exit information fields agree with the row of the reason: a field that the row does not name is 0, and an event that is not
/// there is not valid.
fn check_record(exit: &Exit, controls: &Controls, vmcs: &Vmcs, real_mode: bool) {
    let reason = ExitReason(vmcs.get(Field::EXIT_REASON) as u32);
    assert_eq!(reason.basic(), exit.reason.basic());
    assert_eq!(reason.undefined_bits(), 0, "{reason:?}");
    assert!(!reason.is_entry_failure(), "{reason:?}");
    let row = reason.row().unwrap_or_else(|| panic!("{reason:?} has no row"));
    let records = row.records().unwrap_or_else(|| panic!("nobody knows what {reason:?} records"));
    for (record, fields) in [
        (Records::QUALIFICATION, &[Field::EXIT_QUALIFICATION][..]),
        (Records::LINEAR, &[Field::GUEST_LINEAR_ADDRESS]),
        (Records::PHYSICAL, &[Field::GUEST_PHYSICAL_ADDRESS]),
        (Records::EVENT, &[Field::VM_EXIT_INTERRUPTION_INFO, Field::VM_EXIT_INTERRUPTION_ERROR_CODE]),
        (Records::VECTORING, &[Field::IDT_VECTORING_INFO, Field::IDT_VECTORING_ERROR_CODE]),
        (Records::LENGTH, &[Field::VM_EXIT_INSTRUCTION_LENGTH]),
        (Records::INFORMATION, &[Field::VM_EXIT_INSTRUCTION_INFO]),
    ] {
        for field in fields {
            assert!(records.contains(record) || vmcs.get(*field) == 0, "{reason:?} records {field:?}: {exit:?}");
        }
    }

    let qualification = vmcs.get(Field::EXIT_QUALIFICATION);
    let page_fault =
        exit.event.is_some_and(|event| event.kind == EventType::HARDWARE_EXCEPTION && event.vector == Exception::PF.0);
    if let (false, Some((_, defined))) =
        (page_fault, QUALIFICATIONS.iter().find(|(other, _)| other.basic() == reason.basic()))
    {
        assert_eq!(qualification & !defined, 0, "{reason:?}: undefined bits of the qualification");
    }

    let events = [
        (Place::Exit, Field::VM_EXIT_INTERRUPTION_INFO, Field::VM_EXIT_INTERRUPTION_ERROR_CODE),
        (Place::IdtVectoring, Field::IDT_VECTORING_INFO, Field::IDT_VECTORING_ERROR_CODE),
    ];
    for (place, information, code) in events {
        let (word, code) = (InterruptionInfo(vmcs.get(information) as u32), vmcs.get(code));
        assert_eq!(word.0 & place.undefined_bits(), 0, "{word:?}");
        assert!(word.is_valid() || word.0 == 0, "{word:?}");
        assert!(!word.is_valid() || place.uses(word.kind()), "{place:?}: {word:?}");
        assert!(word.has_error_code() || code == 0, "{word:?}: error code {code:#x}");
        assert!(!word.has_error_code() || !real_mode, "{word:?}");
    }
    if controls.has(Control::NMI_EXITING) && !controls.has(Control::VIRTUAL_NMIS) {
        let word = InterruptionInfo(vmcs.get(Field::VM_EXIT_INTERRUPTION_INFO) as u32);
        assert!(!word.nmi_unblocking(), "{word:?}");
    }
    let length = vmcs.get(Field::VM_EXIT_INSTRUCTION_LENGTH);
    assert!(length <= 15, "length {length}");
}

/// The registers of the guest are in the guest-state area.
fn check_guest(guest: &Cpu, vmcs: &Vmcs, before: &Vmx, exit: &Exit) {
    for (field, value) in [
        (Field::GUEST_RIP, guest.rip),
        (Field::GUEST_RSP, guest.gpr[Gpr::Rsp]),
        (Field::GUEST_CR0, guest.cr0.bits()),
        (Field::GUEST_CR3, guest.cr3),
        (Field::GUEST_CR4, guest.cr4.bits()),
        (Field::GUEST_GDTR_BASE, guest.gdtr.base),
        (Field::GUEST_IDTR_LIMIT, guest.idtr.limit.into()),
        (Field::GUEST_IA32_SYSENTER_CS, guest.sysenter_cs),
        (Field::GUEST_ACTIVITY_STATE, guest.activity.0.into()),
    ] {
        assert_eq!(vmcs.get(field), value & field.row().width.mask(), "{field:?}");
    }
    for register in SegmentRegister::ALL {
        assert_eq!(vmcs.get(Field::guest_selector(register)), u64::from(guest.segment(register).selector.0));
    }
    let rf = Rflags::RF.bits();
    assert_eq!(vmcs.get(Field::GUEST_RFLAGS) & !rf, guest.rflags.bits() & !rf);
    let saved = vmcs.get(Field::GUEST_RFLAGS) & rf != 0;
    match exit.resume_flag {
        vmx_model::exit::ResumeFlag::Clear => assert!(!saved),
        vmx_model::exit::ResumeFlag::Set => assert!(saved),
        vmx_model::exit::ResumeFlag::Kept => assert_eq!(saved, guest.rflags.contains(Rflags::RF)),
    }
    let nmi = vmcs.get(Field::GUEST_INTERRUPTIBILITY_STATE) >> 3 & 1 == 1;
    let blocked = if before.guest.controls.has(Control::VIRTUAL_NMIS) {
        before.guest.virtual_nmi_blocking
    } else {
        guest.interruptibility.contains(Interruptibility::NMI)
    };
    assert_eq!(nmi, blocked, "blocking by NMI");
}

/// The host has what the host-state area has for it.
fn check_host(cpu: &Cpu, guest: &Cpu, vmcs: &Vmcs, controls: &Controls, exit: &Exit, profile: &CpuProfile) {
    use SegmentRegister::{Cs, Ds, Es, Fs, Gs, Ss, Tr};
    let long = controls.has(Control::HOST_ADDRESS_SPACE_SIZE);
    assert_eq!(cpu.rip, vmcs.get(Field::HOST_RIP));
    assert_eq!(cpu.gpr[Gpr::Rsp], vmcs.get(Field::HOST_RSP));
    // VM entry checks these bits only where it is known that they are reserved.
    let reserved = profile.physical_bits_beyond() & if profile.has(Feature::LAM) == Some(true) { !CR3_LAM } else { !0 };
    assert_eq!(cpu.cr3, vmcs.get(Field::HOST_CR3) & !reserved, "CR3");
    assert_eq!((cpu.rflags, cpu.dr7), (Rflags::FIXED_1, Dr7::FIXED_1));
    // The general-purpose registers are the guest's.
    for register in Gpr::ALL.into_iter().filter(|register| *register != Gpr::Rsp) {
        assert_eq!(cpu.gpr[register], guest.gpr[register], "{register:?}");
    }
    assert_eq!((cpu.cr2, cpu.dr, cpu.dr6), (guest.cr2, guest.dr, guest.dr6));
    for (register, field) in [
        (Cs, Field::HOST_CS_SELECTOR),
        (Ss, Field::HOST_SS_SELECTOR),
        (Ds, Field::HOST_DS_SELECTOR),
        (Es, Field::HOST_ES_SELECTOR),
        (Fs, Field::HOST_FS_SELECTOR),
        (Gs, Field::HOST_GS_SELECTOR),
        (Tr, Field::HOST_TR_SELECTOR),
    ] {
        assert_eq!(u64::from(cpu.segment(register).selector.0), vmcs.get(field), "{register:?}");
    }
    assert_eq!((cpu.segment(Cs).rights.l(), cpu.segment(Cs).rights.db(), cpu.cpl()), (long, !long, 0));
    assert_eq!((cpu.gdtr.limit, cpu.idtr.limit), (0xffff, 0xffff));
    assert_eq!(cpu.activity, ActivityState::ACTIVE);
    assert_eq!(cpu.pending_debug, PendingDebug::empty());
    assert!(!cpu.interruptibility.intersects(Interruptibility::STI | Interruptibility::MOV_SS));
    let nmi = exit.reason.basic() == 0 && exit.event.is_some_and(|event| event.kind == EventType::NMI);
    let blocked = nmi || guest.interruptibility.contains(Interruptibility::NMI);
    assert_eq!(cpu.interruptibility.contains(Interruptibility::NMI), blocked);
    if vmcs.get(Field::VM_EXIT_MSR_LOAD_COUNT) == 0 {
        assert_eq!(cpu.debugctl, DebugCtl::empty());
        assert_eq!(cpu.sysenter_cs, vmcs.get(Field::HOST_IA32_SYSENTER_CS));
        assert_eq!(
            cpu.pat,
            if controls.has(Control::HOST_LOAD_PAT) { vmcs.get(Field::HOST_IA32_PAT) } else { guest.pat }
        );
    }
    if profile.has(Feature::LM) != Some(false) {
        assert_eq!(cpu.efer.contains(Efer::LMA), long);
    }
}

/// CR3.LAM_U57 and CR3.LAM_U48.
const CR3_LAM: u64 = 3 << 61;

/// Rules that may be broken once a guest has been left, and what the hypervisor has to do about it.
const DUTIES: [&str; 4] = [
    // The exit has cleared BS of a single-stepped guest with a shadow or in HLT (26.3.1.5): set it again.
    "guest.pending_debug.bs_set",
    // IA32_DEBUGCTL.BTF was not loaded or not saved with the debug controls: the field does not agree with the pending exceptions.
    "guest.pending_debug.bs_clear",
    // The exit has left tracing on: "clear IA32_RTIT_CTL" was 0.
    "ctl.load_rtit_ctl.not_while_tracing",
    // The guest has lowered VTPR below the threshold, which the exit has told: lower the threshold.
    "ctl.tpr_threshold.vtpr",
];

/// The guest can be entered again, with what the manual leaves to the hypervisor.
fn enters_again(case: &mut GuestCase, mut vmx: Vmx, cpu: &Cpu, exit: &Exit) {
    vmx.state.launch_state = LaunchState::Launched;
    // Bitmaps may hold anything; of what else VM entry looks at in memory, holes are the usual state.
    case.memory.refill(0xff);
    // The list of stored MSRs, or the region of the VMCS, may lie on the guest's tables.
    put_pdptes(&case.cpu, &case.memory, &case.profile);
    let view = KnownEntry {
        instruction: EntryInstruction::Vmresume,
        vmcs: &vmx.vmcs,
        executive: &vmx.vmcs,
        cpu,
        vmx: vmx.state,
        memory: &case.memory,
        profile: &case.profile,
    };
    let broken: Vec<&str> =
        check_entry(&view).broken().map(|rule| rule.row().id).filter(|id| !DUTIES.contains(id)).collect();
    let exact = case.vmx.guest.controls.has(Control::SAVE_DEBUG_CONTROLS);
    let debugctl_differs = DebugCtl::from_bits_retain(vmx.vmcs.get(Field::GUEST_IA32_DEBUGCTL)) != case.cpu.debugctl;
    assert!(
        !exact && debugctl_differs || !check_entry(&view).broken().any(|rule| rule.row().id == DUTIES[1]),
        "BS after {exit:?}"
    );
    assert!(broken.is_empty(), "{broken:?} after {exit:?}");
}

/// Does a decision look at the field under these controls?
fn is_active(vmx: &Vmx, field: Field) -> bool {
    let has = |control| vmx.guest.controls.has(control);
    let target = |n| has(Control::CR3_LOAD_EXITING) && vmx.vmcs.get(Field::CR3_TARGET_COUNT) > n;
    match field {
        Field::CR0_GUEST_HOST_MASK | Field::CR4_GUEST_HOST_MASK => true,
        // Where the mask is 1.
        Field::CR0_READ_SHADOW | Field::CR4_READ_SHADOW => true,
        Field::EXCEPTION_BITMAP | Field::PAGE_FAULT_ERROR_CODE_MASK | Field::PAGE_FAULT_ERROR_CODE_MATCH => true,
        Field::IO_BITMAP_A_ADDRESS | Field::IO_BITMAP_B_ADDRESS => has(Control::USE_IO_BITMAPS),
        Field::MSR_BITMAPS_ADDRESS => has(Control::USE_MSR_BITMAPS),
        Field::TSC_OFFSET => has(Control::USE_TSC_OFFSETTING),
        Field::TSC_MULTIPLIER => has(Control::USE_TSC_OFFSETTING) && has(Control::USE_TSC_SCALING),
        Field::VIRTUAL_APIC_ADDRESS => has(Control::USE_TPR_SHADOW) || has(Control::VIRTUALIZE_X2APIC_MODE),
        Field::XSS_EXITING_BITMAP => has(Control::ENABLE_XSAVES_XRSTORS),
        Field::ENCLS_EXITING_BITMAP => has(Control::ENABLE_ENCLS_EXITING),
        Field::ENCLV_EXITING_BITMAP => has(Control::ENABLE_ENCLV_EXITING),
        Field::PCONFIG_EXITING_BITMAP => has(Control::ENABLE_PCONFIG),
        Field::CR3_TARGET_COUNT => has(Control::CR3_LOAD_EXITING),
        Field::CR3_TARGET_VALUE_0 => target(0),
        Field::CR3_TARGET_VALUE_1 => target(1),
        Field::CR3_TARGET_VALUE_2 => target(2),
        Field::CR3_TARGET_VALUE_3 => target(3),
        Field::VMREAD_BITMAP_ADDRESS | Field::VMWRITE_BITMAP_ADDRESS => has(Control::VMCS_SHADOWING),
        Field::SPEC_CTRL_MASK | Field::SPEC_CTRL_SHADOW => has(Control::VIRTUALIZE_SPEC_CTRL),
        Field::GUEST_DEADLINE_SHADOW => has(Control::VIRTUALIZE_APIC_TIMER),
        Field::VIRTUALIZATION_EXCEPTION_INFORMATION_ADDRESS | Field::EPTP_INDEX => has(Control::EPT_VIOLATION_VE),
        _ => false,
    }
}

/// The same guest with other bits wherever the controls say that they do not matter.
fn flipped(vmx: &Vmx, noise: u64) -> Vmx {
    let mut other = *vmx;
    let mut random = noise | 1;
    let mut next = || {
        random ^= random << 13;
        random ^= random >> 7;
        random ^= random << 17;
        random
    };
    let controls = ControlVector::ALL.map(ControlVector::field);
    for field in Field::all().filter(|field| !controls.contains(field) && !is_active(vmx, *field)) {
        other.vmcs.update(field, |value| value ^ next());
    }
    for (mask, shadow) in
        [(Field::CR0_GUEST_HOST_MASK, Field::CR0_READ_SHADOW), (Field::CR4_GUEST_HOST_MASK, Field::CR4_READ_SHADOW)]
    {
        let unmasked = !vmx.vmcs.get(mask);
        other.vmcs.update(shadow, |bits| bits ^ next() & unmasked);
    }
    for vector in ControlVector::ALL {
        if vector.activated_by().is_some_and(|control| !vmx.guest.controls.has(control)) {
            other.vmcs.update(vector.field(), |value| value ^ next());
        }
    }
    let has = |control| vmx.guest.controls.has(control);
    if !has(Control::VIRTUAL_NMIS) {
        other.guest.virtual_nmi_blocking ^= next() & 1 == 1;
    }
    if !has(Control::ACTIVATE_PREEMPTION_TIMER) {
        other.guest.preemption_timer.value ^= next() as u32;
    }
    if !has(Control::VIRTUAL_INTERRUPT_DELIVERY) {
        other.guest.virtual_interrupt_recognized ^= next() & 1 == 1;
    }
    if !has(Control::PAUSE_LOOP_EXITING) {
        other.guest.pause_loop.last ^= next();
    }
    other
}
