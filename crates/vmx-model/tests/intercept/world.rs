//! A processor in VMX non-root operation with memory, on either of two opposite backgrounds.

use std::cell::RefCell;
use std::collections::BTreeMap;
use vmx_model::control::{Control, ControlVector};
use vmx_model::known::Operation;
use vmx_model::{Controls, Effect, Exit, Field, Verdict, Vmx, intercept};
use x86_state::{
    AccessRights, Cpu, Cr0, Cr4, Efer, Event, Exception, Gpr, Gprs, Gva, Hpa, Instruction, MemoryOperand, Op, Operand,
    PhysMemory, Rflags, SegmentRegister, profiles,
};

/// Memory that is one byte everywhere until it is written.
#[derive(Clone, Debug)]
pub(crate) struct Memory {
    pub(crate) fill: u8,
    pub(crate) bytes: RefCell<BTreeMap<u64, u8>>,
}

impl Memory {
    pub(crate) fn new(fill: u8) -> Self {
        Self { fill, bytes: RefCell::default() }
    }

    /// Clears `len` bytes.
    pub(crate) fn zero(&self, address: u64, len: u64) {
        for offset in 0..len {
            self.write_u8(Hpa(address + offset), 0);
        }
    }

    /// Flips one bit of a bitmap.
    pub(crate) fn flip(&self, bitmap: u64, bit: u64) {
        let at = Hpa(bitmap + bit / 8);
        self.write_u8(at, self.read_u8(at) ^ 1 << (bit % 8));
    }
}

impl PhysMemory for Memory {
    fn read_u8(&self, address: Hpa) -> u8 {
        self.bytes.borrow().get(&address.0).copied().unwrap_or(self.fill)
    }
    fn write_u8(&self, address: Hpa, value: u8) {
        self.bytes.borrow_mut().insert(address.0, value);
    }
}

#[derive(Clone, Debug)]
pub(crate) struct World {
    pub(crate) vmx: Vmx,
    pub(crate) cpu: Cpu,
    pub(crate) memory: Memory,
}

/// What a decision says, without what every instruction exit has in common.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(crate) enum Want {
    Normal,
    Ud,
    Gp,
    /// Reason and qualification, no instruction information, no linear address.
    Exit(u32, u64),
    /// Reason, qualification, instruction information.
    Told(u32, u64, u32),
    /// Reason, qualification, instruction information, linear address.
    At(u32, u64, Option<u32>, u64),
    Instead(Effect),
}

impl Want {
    pub(crate) fn of(verdict: Verdict) -> Self {
        match verdict {
            Verdict::Normal => Self::Normal,
            Verdict::Fault(event) if event == Event::exception(Exception::UD) => Self::Ud,
            Verdict::Fault(event) if event == Event::exception_with_code(Exception::GP, 0) => Self::Gp,
            Verdict::Fault(event) => panic!("{event:?}"),
            Verdict::Instead(effect) => Self::Instead(effect),
            Verdict::Exit(exit) => {
                let Exit { reason, qualification, instruction_information, linear, .. } = exit;
                match (instruction_information, linear) {
                    (None, None) => Self::Exit(reason.0, qualification),
                    (Some(information), None) => Self::Told(reason.0, qualification, information),
                    (information, Some(Gva(linear))) => Self::At(reason.0, qualification, information, linear),
                }
            }
        }
    }
}

/// Fields that make instructions exit or act otherwise by themselves, without a control.
pub(crate) const SELF_ACTING: [Field; 6] = [
    Field::CR0_GUEST_HOST_MASK,
    Field::CR4_GUEST_HOST_MASK,
    Field::XSS_EXITING_BITMAP,
    Field::ENCLV_EXITING_BITMAP,
    Field::PCONFIG_EXITING_BITMAP,
    Field::CR3_TARGET_COUNT,
];

impl World {
    /// 64-bit mode, CPL 0. Everything that should not matter is 0 or all ones: `background` chooses.
    pub(crate) fn new(background: bool, controls: &[Control]) -> Self {
        let fill = if background { u64::MAX } else { 0 };
        let mut vmx = Vmx::new(&profiles::MAX);
        vmx.state.operation = Operation::NonRoot;
        vmx.state.current_vmcs = Some(Hpa(0x2000));
        for field in Field::all() {
            vmx.vmcs.set(field, fill);
        }
        for field in ControlVector::ALL.map(ControlVector::field).into_iter().chain(SELF_ACTING) {
            vmx.vmcs.set(field, 0);
        }
        let mut cpu = Cpu::reset(0);
        cpu.gpr = Gprs([fill; 16]);
        cpu.cr0 = Cr0::PE | Cr0::PG | Cr0::NE;
        cpu.cr4 = Cr4::PAE | Cr4::VMXE;
        cpu.efer = Efer::LME | Efer::LMA;
        cpu.xss = fill;
        cpu.spec_ctrl = fill;
        cpu.segments[SegmentRegister::Cs].rights = AccessRights::CODE_64;
        cpu.segments[SegmentRegister::Ss].rights = AccessRights::DATA_32;
        cpu.rip = 0x1000;
        let mut world = Self { vmx, cpu, memory: Memory::new(fill as u8) };
        for &control in controls {
            world.on(control);
        }
        world
    }

    /// Sets a control, and those that activate its vector.
    pub(crate) fn on(&mut self, control: Control) {
        if let Some(activator) = control.vector().activated_by() {
            self.on(activator);
        }
        self.vmx.vmcs.update(control.vector().field(), |bits| bits | control.mask());
        self.vmx.guest.controls = Controls::of(&self.vmx.vmcs);
    }

    pub(crate) fn set(&mut self, field: Field, value: u64) {
        self.vmx.vmcs.set(field, value);
        self.vmx.guest.controls = Controls::of(&self.vmx.vmcs);
    }

    pub(crate) fn cpl(&mut self, cpl: u32) {
        let rights = &mut self.cpu.segments[SegmentRegister::Ss].rights;
        rights.0 = rights.0 & !0x60 | cpl << 5;
    }

    pub(crate) fn mode_32(&mut self) {
        self.cpu.efer = Efer::empty();
        self.cpu.segments[SegmentRegister::Cs].rights = AccessRights::CODE_32;
    }

    pub(crate) fn virtual_8086(&mut self) {
        self.mode_32();
        self.cpu.rflags |= Rflags::VM;
    }

    pub(crate) fn real_mode(&mut self) {
        self.mode_32();
        self.cpu.cr0 = Cr0::NE;
    }

    pub(crate) fn decide(&self, instruction: &Instruction) -> Want {
        let verdict = intercept::decide(&self.vmx, &self.cpu, &self.memory, instruction);
        if let Verdict::Exit(exit) = verdict {
            assert_eq!(exit.instruction_len_bytes, Some(instruction.len_bytes));
            let common = Exit::instruction(exit.reason, instruction.len_bytes);
            assert_eq!(
                Exit { qualification: 0, linear: None, instruction_information: None, ..exit },
                common,
                "only what Want compares may differ"
            );
        }
        Want::of(verdict)
    }
}

/// Runs a test on both backgrounds.
pub(crate) fn on_both(controls: &[Control], test: impl Fn(&mut World)) {
    for background in [false, true] {
        test(&mut World::new(background, controls));
    }
}

/// A 64-bit instruction of three bytes.
pub(crate) fn long(op: Op) -> Instruction {
    Instruction::new(op, 3).long()
}

/// DS:[RBX + 4 * RSI - 8], somewhere.
pub(crate) const OPERAND: MemoryOperand = MemoryOperand {
    segment: SegmentRegister::Ds,
    base: Some(Gpr::Rbx),
    index: Some(Gpr::Rsi),
    scale_log2: 2,
    displacement: -8_i64 as u64,
    rip_relative: false,
    offset: 0x7000,
    linear: Gva(0xffff_8000_1234_5678),
};

/// [`OPERAND`] without index and displacement.
pub(crate) const SIMPLE: MemoryOperand = MemoryOperand { index: None, scale_log2: 0, displacement: 0, ..OPERAND };

pub(crate) fn memory(operand: MemoryOperand) -> Operand {
    Operand::Memory(operand)
}
