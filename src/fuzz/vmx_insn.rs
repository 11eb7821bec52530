//! A sequence of VMX instructions over several VMCS regions, in any mode, root and non-root: what each step leaves and what it leaves alone.

use softvirt_gen::{BITMAPS, EveryMsr, Mode, REGIONS, SequenceCase, Sparse, Step, Switch, VMXON_REGION};
use std::collections::BTreeMap;
use vmx_model::builder::{build, supports};
use vmx_model::exit::{Exit, Left, leave};
use vmx_model::insn::{Ladder, OperandMemory, Outcome, execute, region};
use vmx_model::reasons::ExitReason;
use vmx_model::rules::GuestKind;
use vmx_model::vmcs::LaunchState;
use vmx_model::vmx::NonRoot;
use vmx_model::{
    EntryInstruction, Field, FieldEncoding, KnownEntry, Operation, Vmcs, Vmx, check_entry, hardware_outcome,
};
use x86_state::profile::VmcsWriting;
use x86_state::{
    AccessRights, ActivityState, Cpu, CpuProfile, Cr0, Cr4, Efer, Gpr, Hpa, Instruction, Interruptibility,
    MemoryOperand, Op, OpClass, Operand, PhysMemory, Platform, Rflags, SegmentRegister, VmxMsr,
};

/// Any sequence of VMX instructions: outcomes and flags agree, what does not complete leaves no trace, no VMCS mixes with another, memory
/// outside the regions stays, and the VMX state keeps its invariants.
pub fn vmx_insn(bytes: &[u8]) {
    check(&SequenceCase::from_bytes(bytes));
}

/// The memory operand of an instruction.
#[derive(Clone, Debug, PartialEq, Eq)]
struct Operands {
    bytes: [u8; 16],
    faults: bool,
    written: Option<Vec<u8>>,
}

/// The operand could not be accessed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Faulted;

impl OperandMemory for Operands {
    type Error = Faulted;

    fn read(&mut self, _: &Vmx, _: &Cpu, _: &MemoryOperand, bytes: &mut [u8]) -> Result<(), Faulted> {
        assert!(matches!(bytes.len(), 4 | 8 | 16), "{} bytes are read", bytes.len());
        if self.faults {
            return Err(Faulted);
        }
        bytes.copy_from_slice(&self.bytes[..bytes.len()]);
        Ok(())
    }

    fn write(&mut self, _: &Vmx, _: &Cpu, _: &MemoryOperand, bytes: &[u8]) -> Result<(), Faulted> {
        assert!(matches!(bytes.len(), 4 | 8), "{} bytes are written", bytes.len());
        if self.faults {
            return Err(Faulted);
        }
        self.written = Some(bytes.to_vec());
        Ok(())
    }
}

/// How often each outcome was met, by the name of its variant, and how many steps were made: for reports of what a run has tried.
pub type Tally = BTreeMap<&'static str, u64>;

struct World {
    profile: CpuProfile,
    vmx: Vmx,
    cpu: Cpu,
    memory: Sparse,
    /// The launch state of each region that an instruction has been given, as a textbook would keep it.
    launched: BTreeMap<u64, LaunchState>,
}

/// The checks of [`vmx_insn`] for a case, and what it led to.
///
/// # Panics
/// If softvirt is wrong.
pub fn check(case: &SequenceCase) -> Tally {
    let mut tally = Tally::new();
    let mut world = World::new(case);
    for step in &case.steps {
        let name = world.step(step);
        *tally.entry(name).or_default() += 1;
        world.check_invariants();
        if world.vmx.aborted.is_some() {
            break;
        }
    }
    tally
}

impl World {
    fn new(case: &SequenceCase) -> Self {
        let profile = case.profile;
        let mut cpu = Cpu::reset(0);
        mode(&mut cpu, Mode::Long64);
        // What VMX operation fixes (23.8).
        let fixed = |msr| profile.vmx(msr).unwrap_or(0);
        cpu.cr0 = Cr0::from_bits_retain(cpu.cr0.bits() | fixed(VmxMsr::Cr0Fixed0));
        cpu.cr4 = Cr4::from_bits_retain(cpu.cr4.bits() | fixed(VmxMsr::Cr4Fixed0));
        let memory = Sparse::new(vmx_model::state::Words::EMPTY, 0);
        let revision = profile.vmx(VmxMsr::Basic).unwrap_or(0) as u32 & 0x7fff_ffff;
        memory.write_u32(Hpa(VMXON_REGION), revision);
        for (n, address) in REGIONS.into_iter().enumerate() {
            let header = match n {
                3 => revision ^ 1,
                4 => revision | 1 << 31,
                _ => revision,
            };
            memory.write_u32(Hpa(address), header);
        }
        let mut vmx = Vmx::new(&profile);
        // Firmware has enabled VMX outside SMX operation, and locked the register.
        vmx.feature_control |= 0b101;
        let mut world = Self { profile, vmx, cpu, memory, launched: BTreeMap::new() };
        if case.in_root {
            world.vmx.state.operation = Operation::Root;
            world.vmx.state.vmxon_pointer = Hpa(VMXON_REGION);
            world.vmx.state.current_vmcs = Some(Hpa(REGIONS[0]));
            world.launched.insert(REGIONS[0], LaunchState::Clear);
            world.fill(GuestKind::Long64);
        }
        world
    }

    fn step(&mut self, step: &Step) -> &'static str {
        let in_guest = self.vmx.in_guest();
        match *step {
            Step::Execute { instruction, registers, operand, faults } => {
                for (register, value) in [Gpr::Rax, Gpr::Rcx, Gpr::Rdx, Gpr::Rbx].into_iter().zip(registers) {
                    self.cpu.gpr[register] = value;
                }
                let mut bytes = [0; 16];
                bytes[..8].copy_from_slice(&operand[0].to_le_bytes());
                bytes[8..].copy_from_slice(&operand[1].to_le_bytes());
                self.execute(&instruction, Operands { bytes, faults, written: None })
            }
            Step::Mode(to) if !in_guest => {
                mode(&mut self.cpu, to);
                "a mode"
            }
            Step::Switch(switch) if !in_guest => {
                self.switch(switch);
                "a switch"
            }
            Step::Fill(kind) if !in_guest => {
                self.fill(kind);
                "a filled VMCS"
            }
            Step::Field(field, value) if !in_guest && self.vmx.state.current_vmcs.is_some() => {
                let mut vmcs = self.vmx.vmcs;
                vmcs.set(field, value);
                self.set_vmcs(vmcs);
                "a field"
            }
            Step::Leave if in_guest => {
                self.leave();
                "a VM exit"
            }
            _ => "nothing",
        }
    }

    fn platform(&self) -> Platform<'_, Sparse, EveryMsr> {
        Platform { profile: &self.profile, memory: &self.memory, msrs: &EveryMsr, tsc: 0 }
    }

    fn switch(&mut self, switch: Switch) {
        let vmx = &mut self.vmx;
        match switch {
            // Fixed in VMX operation (23.8).
            Switch::Vmxe if vmx.state.operation == Operation::Outside => self.cpu.cr4 ^= Cr4::VMXE,
            Switch::Vmxe => {}
            Switch::Lock => vmx.feature_control ^= 1,
            Switch::Smm => self.cpu.in_smm ^= true,
            Switch::MovSs => self.cpu.interruptibility ^= Interruptibility::MOV_SS,
            // Never in VMX operation (23.8).
            Switch::A20m => vmx.a20m = !vmx.a20m && vmx.state.operation == Operation::Outside,
            Switch::Smx => vmx.smx ^= true,
            Switch::SmmMonitor => vmx.smm_monitor_ctl ^= 1,
            Switch::DualMonitor => vmx.state.dual_monitor_active ^= true,
        }
    }

    fn fill(&mut self, kind: GuestKind) {
        if self.vmx.state.current_vmcs.is_some() && supports(kind, &self.profile) {
            let mut vmcs = build(kind, &self.profile).vmcs;
            // The shadow VMCS, and bitmaps that intercept nothing.
            vmcs.set(Field::VMREAD_BITMAP_ADDRESS, BITMAPS);
            vmcs.set(Field::VMWRITE_BITMAP_ADDRESS, BITMAPS + 0x1000);
            self.set_vmcs(vmcs);
        }
    }

    /// As many VMWRITEs would.
    fn set_vmcs(&mut self, vmcs: Vmcs) {
        self.vmx.vmcs = vmcs;
        if let (Some(current), true) = (self.vmx.state.current_vmcs, self.writes_through()) {
            region::store(&self.memory, current, &vmcs, self.vmx.state.launch_state);
        }
    }

    fn writes_through(&self) -> bool {
        self.profile.knobs().vmcs_writing == VmcsWriting::WriteThrough
    }

    fn leave(&mut self) {
        let (mut vmx, mut cpu) = (self.vmx, self.cpu);
        let left = leave(&mut vmx, &mut cpu, &self.platform(), &Exit::new(ExitReason::INIT_SIGNAL));
        (self.vmx, self.cpu) = (vmx, cpu);
        if let Left::Host { .. } = left {
            assert_eq!(self.vmx.state.operation, Operation::Root);
        }
    }

    /// Executes an instruction, and looks at what it has changed.
    fn execute(&mut self, instruction: &Instruction, mut operands: Operands) -> &'static str {
        let (vmx_before, cpu_before, memory_before) = (self.vmx, self.cpu, self.memory.clone());
        let told = self.told(instruction);
        let (mut vmx, mut cpu) = (self.vmx, self.cpu);
        let outcome = execute(&mut vmx, &mut cpu, &self.platform(), instruction, &mut operands);
        (self.vmx, self.cpu) = (vmx, cpu);
        let class = instruction.op.class();

        self.check_flags(class, &outcome, &cpu_before);
        let entry = matches!(outcome, Outcome::Entered(_) | Outcome::EntryFailed(_));
        if !outcome.completes() && !entry {
            assert!(self.vmx == vmx_before, "{instruction:?}: {outcome:?} changes the VMX state");
            assert_eq!(self.cpu, cpu_before, "{instruction:?}: {outcome:?}");
            assert!(self.memory == memory_before, "{instruction:?}: {outcome:?} writes memory");
            assert_eq!(operands.written, None, "{instruction:?}: {outcome:?}");
        }
        if matches!(outcome, Outcome::FailInvalid | Outcome::FailValid(_)) {
            assert_eq!(self.vmx.state, vmx_before.state, "{instruction:?}");
            assert_eq!(operands.written, None, "{instruction:?}: {outcome:?}");
            self.check_only_the_error_changed(&vmx_before, matches!(outcome, Outcome::FailValid(_)));
        }
        if let Outcome::FailValid(error) = outcome {
            let row = error.row().unwrap_or_else(|| panic!("{error:?} is no number of Table 30-1"));
            assert!(row.instructions.contains(&class.mnemonic()), "{instruction:?}: {error:?}");
            assert_eq!(self.vmx.vmcs.get(Field::VM_INSTRUCTION_ERROR), u64::from(error.0));
            assert!(vmx_before.state.current_vmcs.is_some());
        }
        assert_eq!(outcome == Outcome::Ordinary, Ladder::of(class).is_none(), "{instruction:?}");
        assert!(!matches!(outcome, Outcome::Exit(_)) || vmx_before.in_guest(), "{instruction:?}: an exit from root");
        assert!(!entry || matches!(class, OpClass::Vmlaunch | OpClass::Vmresume), "{instruction:?}");
        if let Some(told) = told {
            assert!(told.agrees(&outcome), "{instruction:?}: the rules tell {told:?}, not {outcome:?}");
        }
        self.follow(class, &outcome, &operands, &vmx_before, instruction);
        self.check_memory(class, &outcome, &operands, &vmx_before, &memory_before);
        if outcome == Outcome::Succeed {
            self.read_back(instruction, &operands);
        }
        name(&outcome)
    }

    /// What the rules of VM entry say that VMLAUNCH or VMRESUME does; `None` for other instructions, and where the entry is not modelled.
    fn told(&self, instruction: &Instruction) -> Option<Told> {
        let instruction = match instruction.op {
            Op::Vmlaunch => EntryInstruction::Vmlaunch,
            Op::Vmresume => EntryInstruction::Vmresume,
            _ => return None,
        };
        if self.cpu.in_smm || self.vmx.state.dual_monitor_active {
            return None;
        }
        let view = KnownEntry {
            instruction,
            vmcs: &self.vmx.vmcs,
            executive: &self.vmx.vmcs,
            cpu: &self.cpu,
            vmx: self.vmx.state,
            memory: &self.memory,
            profile: &self.profile,
        };
        let violations = check_entry(&view);
        let undecided = violations.unknown().next().is_some();
        Some(Told { outcome: hardware_outcome(&violations, &self.profile, 0), undecided })
    }

    /// RFLAGS as the outcome says (30.2).
    fn check_flags<E>(&self, class: OpClass, outcome: &Outcome<E>, before: &Cpu) {
        let six = Rflags::CF | Rflags::PF | Rflags::AF | Rflags::ZF | Rflags::SF | Rflags::OF;
        let flags = self.cpu.rflags.intersection(six);
        let others = self.cpu.rflags.difference(six) == before.rflags.difference(six);
        // No VMX instructions in this sense; VMFUNC and INVPCID leave the flags alone.
        let plain = matches!(class, OpClass::Vmfunc | OpClass::Invpcid);
        match outcome {
            Outcome::Succeed | Outcome::Invalidate(_) if !plain => assert!(flags.is_empty() && others, "{class:?}"),
            Outcome::FailInvalid => assert!(flags == Rflags::CF && others, "{class:?}"),
            Outcome::FailValid(_) => assert!(flags == Rflags::ZF && others, "{class:?}"),
            Outcome::Entered(_) | Outcome::EntryFailed(_) => {}
            _ => assert_eq!(self.cpu.rflags, before.rflags, "{class:?}"),
        }
    }

    /// VMfail changes the VM-instruction error and nothing else.
    fn check_only_the_error_changed(&self, before: &Vmx, valid: bool) {
        let mut expected = *before;
        if valid {
            expected.vmcs.set(Field::VM_INSTRUCTION_ERROR, self.vmx.vmcs.get(Field::VM_INSTRUCTION_ERROR));
        }
        assert!(self.vmx == expected, "VMfail changes more than the error");
    }

    /// Keeps the launch states of the textbook.
    fn follow<E>(
        &mut self,
        class: OpClass,
        outcome: &Outcome<E>,
        operands: &Operands,
        before: &Vmx,
        instruction: &Instruction,
    ) {
        let pointer = pointer(operands);
        match (class, outcome) {
            (OpClass::Vmclear, Outcome::Succeed) => {
                self.launched.insert(pointer, LaunchState::Clear);
                let was_current = before.state.current_vmcs == Some(Hpa(pointer));
                let current = if was_current { None } else { before.state.current_vmcs };
                assert_eq!(self.vmx.state.current_vmcs, current, "VMCLEAR");
            }
            (OpClass::Vmptrld, Outcome::Succeed) => {
                assert_eq!(self.vmx.state.current_vmcs, Some(Hpa(pointer)));
                let launch_state = self.vmx.state.launch_state;
                let known = self.launched.entry(pointer).or_insert(launch_state);
                assert_eq!(*known, launch_state, "VMPTRLD of {pointer:#x}");
            }
            (OpClass::Vmptrst, Outcome::Succeed) => {
                let pointer = before.state.current_vmcs.map_or(u64::MAX, |current| current.0);
                assert_eq!(operands.written.as_deref(), Some(&pointer.to_le_bytes()[..]), "{instruction:?}");
            }
            (_, Outcome::Entered(_)) => {
                assert_eq!(self.vmx.state.operation, Operation::NonRoot);
                assert_eq!(self.vmx.state.launch_state, LaunchState::Launched);
                let current = self.vmx.state.current_vmcs.map_or(0, |current| current.0);
                let was = self.launched.insert(current, LaunchState::Launched);
                let needed = if class == OpClass::Vmlaunch { LaunchState::Clear } else { LaunchState::Launched };
                assert_eq!(was, Some(needed), "{class:?}");
            }
            (_, Outcome::EntryFailed(_)) => {
                assert_eq!(self.vmx.state.operation, Operation::Root);
                assert_eq!(self.vmx.state.launch_state, before.state.launch_state);
            }
            (OpClass::Vmxon, Outcome::Invalidate(_)) => {
                assert_eq!((self.vmx.state.operation, self.vmx.state.current_vmcs), (Operation::Root, None));
                assert_eq!(self.vmx.state.vmxon_pointer, Hpa(pointer));
            }
            (OpClass::Vmxoff, Outcome::Invalidate(_)) => {
                assert_eq!((self.vmx.state.operation, self.vmx.state.current_vmcs), (Operation::Outside, None));
                // What was not written back is lost, the launch state with it.
                if let Some(current) = before.state.current_vmcs {
                    self.launched.remove(&current.0);
                }
            }
            _ => {}
        }
    }

    /// Memory is written in the region of the current VMCS, of that which an instruction names, and of a linked shadow VMCS. VM entries
    /// write the virtual-APIC page besides, and VM exits their list of MSRs.
    fn check_memory<E>(
        &self,
        class: OpClass,
        outcome: &Outcome<E>,
        operands: &Operands,
        before: &Vmx,
        memory: &Sparse,
    ) {
        if matches!(outcome, Outcome::Entered(_) | Outcome::EntryFailed(_)) {
            return;
        }
        let page = |address: Hpa| address.0 & !0xfff;
        let mut pages: Vec<u64> = before.state.current_vmcs.into_iter().map(page).collect();
        match class {
            OpClass::Vmclear => pages.push(page(Hpa(pointer(operands)))),
            OpClass::Vmwrite if before.in_guest() => {
                pages = vec![page(Hpa(before.vmcs.get(Field::VMCS_LINK_POINTER)))];
            }
            // The virtual-APIC page: "VTPR bytes 3:1 may be cleared" by the checks of a VM entry that fails (26.2.1.1).
            OpClass::Vmlaunch | OpClass::Vmresume => {
                pages.push(page(Hpa(before.vmcs.get(Field::VIRTUAL_APIC_ADDRESS))))
            }
            _ => {}
        }
        for (at, value) in self.memory.changes() {
            let untouched = memory.read_u64(Hpa(at)) == value;
            assert!(untouched || pages.contains(&(at & !0xfff)), "{class:?} writes {at:#x}");
        }
        // No instruction writes the first four bytes of a region.
        for region in REGIONS {
            assert_eq!(self.memory.read_u32(Hpa(region)), memory.read_u32(Hpa(region)), "{class:?}: header");
        }
    }

    /// VMREAD of the field that VMWRITE has written gives what was written, as far as the field and the mode have bits for it.
    fn read_back(&mut self, instruction: &Instruction, operands: &Operands) {
        let Op::Vmwrite { register } = instruction.op else { return };
        if self.vmx.in_guest() {
            return;
        }
        let source = match instruction.operand {
            Operand::Register(source) => self.cpu.gpr[source],
            _ => pointer(operands),
        };
        let FieldEncoding(number) = FieldEncoding(self.cpu.gpr[register] as u32);
        let encoding = FieldEncoding(number);
        let width = match encoding.field() {
            Some(_) if encoding.is_high() => 0xffff_ffff,
            Some(field) => field.row().width.mask(),
            None => panic!("VMWRITE of {number:#x} succeeds"),
        };
        let long = self.cpu.mode() == x86_state::CpuMode::Long64;
        let size = if long { u64::MAX } else { 0xffff_ffff };
        let (mut vmx, mut cpu) = (self.vmx, self.cpu);
        let vmread = Instruction::new(Op::Vmread { register }, 3).long().with_operand(Operand::Register(Gpr::R8));
        let mut none = Operands { bytes: [0; 16], faults: true, written: None };
        let outcome = execute(&mut vmx, &mut cpu, &self.platform(), &vmread, &mut none);
        assert_eq!(outcome, Outcome::Succeed, "VMREAD of {number:#x}");
        assert_eq!(cpu.gpr[Gpr::R8], source & width & size, "VMREAD of {number:#x}");
        assert!(vmx == self.vmx, "VMREAD changes the VMX state");
    }

    /// What holds between any two steps.
    fn check_invariants(&self) {
        let Vmx { state, vmcs, guest, .. } = &self.vmx;
        if state.operation != Operation::NonRoot {
            assert_eq!(*guest, NonRoot::default(), "{:?}", state.operation);
        }
        match state.current_vmcs {
            Some(current) => {
                assert_ne!(state.operation, Operation::Outside, "a VMCS is current outside VMX operation");
                assert_eq!(self.launched.get(&current.0), Some(&state.launch_state), "{current:?}");
                let header = region::Header::read(&self.memory, current);
                assert_eq!(header.is_shadow(), state.current_is_shadow, "{current:?}");
                if self.writes_through() && self.vmx.aborted.is_none() {
                    let (stored, launch_state) = region::load(&self.memory, current);
                    for field in Field::all() {
                        assert_eq!(stored.get(field), vmcs.get(field), "{field:?} is written through");
                    }
                    assert_eq!(launch_state, state.launch_state);
                }
            }
            None => {
                assert_ne!(state.operation, Operation::NonRoot, "a guest has a VMCS");
                assert!(*vmcs == Vmcs::new(), "nothing is left of a VMCS that is not current");
                assert!(!state.current_is_shadow && state.launch_state == LaunchState::Clear);
            }
        }
        for (pointer, launch_state) in &self.launched {
            if state.current_vmcs != Some(Hpa(*pointer)) {
                assert_eq!(region::launch_state(&self.memory, Hpa(*pointer)), *launch_state, "{pointer:#x}");
            }
        }
        assert!(self.vmx.aborted.is_none() || self.cpu.activity == ActivityState::SHUTDOWN);
    }
}

/// What the rules of VM entry tell.
#[derive(Debug)]
struct Told {
    outcome: vmx_model::Outcome,
    undecided: bool,
}

impl Told {
    fn agrees<E>(&self, outcome: &Outcome<E>) -> bool {
        use vmx_model::Outcome as Rules;
        match (self.outcome, outcome) {
            (Rules::Entered, Outcome::Entered(_)) | (Rules::VmExit, Outcome::Exit(_)) => true,
            // An MSR list of which the table cannot tell.
            (Rules::Entered, Outcome::EntryFailed(_)) => self.undecided,
            (Rules::InvalidOpcode, Outcome::Fault(event)) => event.vector == 6,
            (Rules::GeneralProtection, Outcome::Fault(event)) => event.vector == 13,
            (Rules::VmFailInvalid, Outcome::FailInvalid) => true,
            (Rules::VmFailValid(number), Outcome::FailValid(error)) => error.0 == u32::from(number),
            (Rules::EntryFailed { .. }, Outcome::EntryFailed(_)) => true,
            _ => false,
        }
    }
}

fn name<E>(outcome: &Outcome<E>) -> &'static str {
    match outcome {
        Outcome::Succeed => "VMsucceed",
        Outcome::Invalidate(_) => "an invalidation",
        Outcome::FailInvalid => "VMfailInvalid",
        Outcome::FailValid(_) => "VMfailValid",
        Outcome::Fault(_) => "a fault",
        Outcome::Exit(_) => "an exit",
        Outcome::Entered(_) => "an entry",
        Outcome::EntryFailed(_) => "a failed entry",
        Outcome::Operand(_) => "an unreachable operand",
        Outcome::NotModelled(_) => "not modelled",
        Outcome::Ordinary => "ordinary",
    }
}

/// The first eight bytes of the memory operand.
fn pointer(operands: &Operands) -> u64 {
    u64::from_le_bytes(std::array::from_fn(|i| operands.bytes[i]))
}

/// The registers that make a mode.
fn mode(cpu: &mut Cpu, mode: Mode) {
    use SegmentRegister::{Cs, Ss};
    cpu.cr0.insert(Cr0::PE | Cr0::PG | Cr0::NE | Cr0::ET);
    cpu.cr4.insert(Cr4::PAE | Cr4::VMXE);
    cpu.efer = Efer::LME | Efer::LMA;
    cpu.rflags.remove(Rflags::VM);
    let (code, stack) = match mode {
        Mode::Long64 => (AccessRights::CODE_64, AccessRights::DATA_32),
        Mode::User64 => (AccessRights(0xa0fb), AccessRights(0xc0f3)),
        Mode::Compatibility => (AccessRights::CODE_32, AccessRights::DATA_32),
        Mode::Protected32 => {
            cpu.efer = Efer::empty();
            (AccessRights::CODE_32, AccessRights::DATA_32)
        }
        Mode::Virtual8086 => {
            cpu.efer = Efer::empty();
            cpu.rflags.insert(Rflags::VM);
            (AccessRights::V86, AccessRights::V86)
        }
        Mode::Real => {
            cpu.efer = Efer::empty();
            cpu.cr0.remove(Cr0::PE | Cr0::PG);
            (AccessRights::REAL, AccessRights::REAL)
        }
    };
    cpu.segments[Cs].rights = code;
    cpu.segments[Ss].rights = stack;
}
