//! A processor in VMX root operation with a little memory and one instruction, for tests of [`vmx_model::insn`].
#![allow(dead_code, unreachable_pub, reason = "each test file uses its part of this module")]

use std::cell::Cell;
use vmx_model::builder::build;
use vmx_model::insn::{self, OperandMemory, Outcome, region};
use vmx_model::known::Operation;
use vmx_model::rules::GuestKind;
use vmx_model::vmcs::LaunchState;
use vmx_model::{Control, Controls, Field, Vmx};
use x86_state::{
    Cpu, CpuProfile, Cr0, Cr4, Efer, Gpr, Gva, Hpa, Instruction, MemoryOperand, Op, Operand, PhysMemory, Platform,
    SegmentRegister, VmxMsr, profiles,
};

/// The VMXON region.
pub const VMXON: u64 = 0x1000;
/// The VMCS that is current at the start.
pub const CURRENT: u64 = 0x2000;
/// Another VMCS region with the right revision identifier.
pub const OTHER: u64 = 0x3000;
/// The region of a shadow VMCS.
pub const SHADOW: u64 = 0x4000;
/// The VMREAD bitmap, all zeros.
pub const VMREAD_BITMAP: u64 = 0x5000;
/// The VMWRITE bitmap, all zeros.
pub const VMWRITE_BITMAP: u64 = 0x6000;
/// The EPTP list.
pub const EPTP_LIST: u64 = 0x7000;
/// MSEG.
pub const MSEG: u64 = 0x8000;

/// 64 KBytes of memory from address 0; above it a hole.
#[derive(Clone, PartialEq)]
pub struct Ram(Vec<Cell<u8>>);

impl Default for Ram {
    fn default() -> Self {
        Self(vec![Cell::new(0); 0x1_0000])
    }
}

impl Ram {
    fn cell(&self, address: Hpa) -> Option<&Cell<u8>> {
        self.0.get(usize::try_from(address.0).ok()?)
    }
}

impl PhysMemory for Ram {
    fn read_u8(&self, address: Hpa) -> u8 {
        self.cell(address).map_or(0xff, Cell::get)
    }
    fn write_u8(&self, address: Hpa, value: u8) {
        if let Some(cell) = self.cell(address) {
            cell.set(value);
        }
    }
}

/// What a memory operand that cannot be accessed says.
pub const PAGE_FAULT: &str = "page fault";

/// The memory operand.
#[derive(Clone, Debug, PartialEq, Default)]
pub struct Operands {
    /// What a read finds.
    pub bytes: [u8; 16],
    /// What was written last.
    pub written: Option<Vec<u8>>,
    /// How many bytes each read wanted.
    pub reads: Vec<usize>,
    /// Accesses fault.
    pub faults: bool,
}

impl OperandMemory for Operands {
    type Error = &'static str;

    fn read(&mut self, _: &Vmx, _: &Cpu, _: &MemoryOperand, bytes: &mut [u8]) -> Result<(), &'static str> {
        if self.faults {
            return Err(PAGE_FAULT);
        }
        self.reads.push(bytes.len());
        bytes.copy_from_slice(&self.bytes[..bytes.len()]);
        Ok(())
    }

    fn write(&mut self, _: &Vmx, _: &Cpu, _: &MemoryOperand, bytes: &[u8]) -> Result<(), &'static str> {
        if self.faults {
            return Err(PAGE_FAULT);
        }
        self.written = Some(bytes.to_vec());
        Ok(())
    }
}

/// Everything around one instruction.
#[derive(Clone)]
pub struct World {
    pub profile: CpuProfile,
    pub vmx: Vmx,
    pub cpu: Cpu,
    pub ram: Ram,
    pub operands: Operands,
    pub instruction: Instruction,
}

impl std::fmt::Debug for World {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("World")
            .field("profile", &self.profile.name())
            .field("vmx", &self.vmx)
            .field("cpu", &self.cpu)
            .field("operands", &self.operands)
            .field("instruction", &self.instruction)
            .finish_non_exhaustive()
    }
}

/// A memory operand; nobody looks at its address.
pub const MEMORY: Operand = Operand::Memory(MemoryOperand {
    segment: SegmentRegister::Ds,
    base: Some(Gpr::Rsi),
    index: None,
    scale_log2: 0,
    displacement: 0,
    rip_relative: false,
    offset: 0x1234,
    linear: Gva(0x1234),
});

impl World {
    /// 64-bit VMX root operation on the processor that has everything, with a current, clear VMCS that would enter a 64-bit guest.
    pub fn root(op: Op) -> Self {
        let profile = profiles::MAX;
        let mut cpu = Cpu::reset(0);
        cpu.cr0 = Cr0::PE | Cr0::ET | Cr0::NE | Cr0::WP | Cr0::PG;
        cpu.cr4 = Cr4::PAE | Cr4::VMXE;
        cpu.cr3 = 0x10_0000;
        cpu.efer = Efer::LME | Efer::LMA;
        cpu.segments[SegmentRegister::Cs].rights.0 = 0xa09b;
        cpu.segments[SegmentRegister::Ss].rights.0 = 0xc093;
        let mut vmx = Vmx::new(&profile);
        vmx.state.operation = Operation::Root;
        vmx.state.vmxon_pointer = Hpa(VMXON);
        vmx.state.current_vmcs = Some(Hpa(CURRENT));
        vmx.vmcs = build(GuestKind::Long64, &profile).vmcs;
        let ram = Ram::default();
        let revision = profile.vmx(VmxMsr::Basic).unwrap() as u32 & 0x7fff_ffff;
        for address in [VMXON, CURRENT, OTHER] {
            ram.write_u32(Hpa(address), revision);
        }
        ram.write_u32(Hpa(SHADOW), revision | 1 << 31);
        region::store(&ram, Hpa(CURRENT), &vmx.vmcs, LaunchState::Clear);
        let instruction = Instruction::new(op, 4).long().with_operand(MEMORY);
        Self { profile, vmx, cpu, ram, operands: Operands::default(), instruction }
    }

    /// The same in VMX non-root operation, with these controls.
    pub fn guest(op: Op, controls: &[Control]) -> Self {
        let mut world = Self::root(op);
        world.enter_guest();
        for control in controls {
            world.on(*control);
        }
        world
    }

    /// As after a VM entry, without one.
    pub fn enter_guest(&mut self) {
        self.vmx.state.operation = Operation::NonRoot;
        self.vmx.guest.controls = Controls::of(&self.vmx.vmcs);
    }

    /// Turns a control on, and what activates it.
    pub fn on(&mut self, control: Control) {
        if let Some(activator) = control.vector().activated_by() {
            self.on(activator);
        }
        self.vmx.vmcs.update(control.vector().field(), |bits| bits | control.mask());
        self.follow_controls();
    }

    /// Turns a control off.
    pub fn off(&mut self, control: Control) {
        self.vmx.vmcs.update(control.vector().field(), |bits| bits & !control.mask());
        self.follow_controls();
    }

    fn follow_controls(&mut self) {
        if self.vmx.in_guest() {
            self.vmx.guest.controls = Controls::of(&self.vmx.vmcs);
        }
    }

    /// Clears bits of a capability MSR.
    pub fn lacks(&mut self, msr: VmxMsr, bits: u64) {
        self.profile = self.profile.with_vmx(msr, self.profile.vmx(msr).map(|value| value & !bits));
    }

    /// 32-bit protected mode.
    pub fn legacy(&mut self) {
        self.cpu.efer = Efer::empty();
        self.cpu.segments[SegmentRegister::Cs].rights.0 = 0xc09b;
    }

    /// The first eight bytes of the memory operand.
    pub fn pointer(&self) -> u64 {
        u64::from_le_bytes(self.operands.bytes[..8].try_into().unwrap())
    }

    pub fn set_pointer(&mut self, pointer: u64) {
        self.operands.bytes[..8].copy_from_slice(&pointer.to_le_bytes());
    }

    /// The 16 bytes of the memory operand.
    pub fn set_descriptor(&mut self, low: u64, high: u64) {
        self.set_pointer(low);
        self.operands.bytes[8..].copy_from_slice(&high.to_le_bytes());
    }

    pub fn descriptor(&self) -> [u64; 2] {
        [self.pointer(), u64::from_le_bytes(self.operands.bytes[8..].try_into().unwrap())]
    }

    pub fn run(&mut self) -> Outcome<&'static str> {
        let platform = Platform::new(&self.profile, &self.ram);
        insn::execute(&mut self.vmx, &mut self.cpu, &platform, &self.instruction, &mut self.operands)
    }

    /// Runs another instruction with a memory operand that begins with `pointer`.
    pub fn run_op(&mut self, op: Op, pointer: u64) -> Outcome<&'static str> {
        self.instruction = Instruction::new(op, 4).long().with_operand(MEMORY);
        self.set_pointer(pointer);
        self.run()
    }

    /// VMREAD from `encoding` into RAX.
    pub fn vmread(&mut self, encoding: u64) -> Outcome<&'static str> {
        self.cpu.gpr[Gpr::Rbx] = encoding;
        self.instruction =
            Instruction::new(Op::Vmread { register: Gpr::Rbx }, 3).long().with_operand(Operand::Register(Gpr::Rax));
        self.run()
    }

    /// VMWRITE of `value`, in RAX, to `encoding`.
    pub fn vmwrite(&mut self, encoding: u64, value: u64) -> Outcome<&'static str> {
        self.cpu.gpr[Gpr::Rbx] = encoding;
        self.cpu.gpr[Gpr::Rax] = value;
        self.instruction =
            Instruction::new(Op::Vmwrite { register: Gpr::Rbx }, 3).long().with_operand(Operand::Register(Gpr::Rax));
        self.run()
    }

    /// The VM-instruction error field of the current VMCS.
    pub fn error(&self) -> u64 {
        self.vmx.vmcs.get(Field::VM_INSTRUCTION_ERROR)
    }
}
