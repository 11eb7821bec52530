//! A processor about to enter a guest, made of an [`EntryState`]: what the tests of VM entry act on.

#![allow(dead_code, unreachable_pub, reason = "each test file uses its part")]

use std::cell::{Cell, RefCell};
use vmx_model::entry::{Entered, Entry, enter};
use vmx_model::state::Words;
use vmx_model::view::{CpuInput, VmxInput};
use vmx_model::vmcs::LaunchState;
use vmx_model::vmx::NonRoot;
use vmx_model::{EntryInstruction, EntryState, Operation, Vmx, VmxState};
use x86_state::{
    Cpu, CpuProfile, Cr0, Cr4, Efer, Hpa, Interruptibility, Msr, MsrFile, PhysMemory, Platform, Rflags, SegmentRegister,
};

/// The words of a state as a memory.
#[derive(Debug)]
pub struct Memory(pub RefCell<Words>);

impl Memory {
    pub fn word(&self, address: u64) -> u64 {
        self.0.borrow().get(address).unwrap_or(u64::MAX)
    }
}

impl PhysMemory for Memory {
    fn read_u8(&self, address: Hpa) -> u8 {
        (self.word(address.0) >> (8 * (address.0 & 7))) as u8
    }
    fn write_u8(&self, address: Hpa, value: u8) {
        let shift = 8 * (address.0 & 7);
        let word = self.word(address.0) & !(0xff << shift) | u64::from(value) << shift;
        // Holes stay holes.
        if self.0.borrow().get(address.0).is_some() {
            self.0.borrow_mut().set(address.0, word);
        }
    }
}

/// Registers outside the processor: all of them, or those below a number.
#[derive(Debug, Default)]
pub struct Registers {
    pub all: bool,
    pub written: Cell<Option<(Msr, u64)>>,
}

impl MsrFile for Registers {
    fn read(&self, msr: Msr) -> Option<u64> {
        match self.written.get() {
            _ if !self.all => None,
            Some((last, value)) if last == msr => Some(value),
            _ => Some(0),
        }
    }
    fn write(&self, msr: Msr, value: u64) -> bool {
        if self.all {
            self.written.set(Some((msr, value)));
        }
        self.all
    }
}

pub const TSC: u64 = 0x1234_5678_9abc;

pub struct World {
    pub cpu: Cpu,
    pub vmx: Vmx,
    pub memory: Memory,
    pub msrs: Registers,
    pub profile: CpuProfile,
    pub instruction: EntryInstruction,
}

impl World {
    pub fn new(state: &EntryState) -> Self {
        let input = |input: CpuInput| state.cpu[input as usize];
        let vmx = |input: VmxInput| state.vmx[input as usize];
        let launch = |launched: u64| if launched == 0 { LaunchState::Clear } else { LaunchState::Launched };

        let mut cpu = Cpu::reset(0);
        cpu.rflags = Rflags::from_bits_retain(input(CpuInput::Rflags));
        cpu.cr0 = Cr0::from_bits_retain(input(CpuInput::Cr0));
        cpu.cr3 = input(CpuInput::Cr3);
        cpu.cr4 = Cr4::from_bits_retain(input(CpuInput::Cr4));
        cpu.efer = Efer::from_bits_retain(input(CpuInput::Efer));
        cpu.rtit_ctl = input(CpuInput::RtitCtl);
        cpu.in_smm = input(CpuInput::InSmm) != 0;
        cpu.segments[SegmentRegister::Cs].rights.0 = input(CpuInput::CsAccessRights) as u32;
        cpu.segments[SegmentRegister::Ss].rights.0 = 0xc093 | (input(CpuInput::Cpl) as u32 & 3) << 5;
        cpu.interruptibility.set(Interruptibility::MOV_SS, input(CpuInput::MovSsBlocking) != 0);

        let mut processor = Vmx::new(&state.profile);
        processor.vmcs = state.vmcs;
        processor.state = VmxState {
            operation: Operation::Root,
            vmxon_pointer: Hpa(vmx(VmxInput::VmxonPointer)),
            current_vmcs: Some(Hpa(vmx(VmxInput::CurrentVmcsPointer))).filter(|pointer| pointer.0 != u64::MAX),
            current_is_shadow: vmx(VmxInput::CurrentVmcsIsShadow) != 0,
            launch_state: launch(vmx(VmxInput::LaunchState)),
            executive_launch_state: launch(vmx(VmxInput::ExecutiveLaunchState)),
            dual_monitor_active: vmx(VmxInput::DualMonitorActive) != 0,
        };
        let instruction = match vmx(VmxInput::Instruction) {
            0 => EntryInstruction::Vmlaunch,
            _ => EntryInstruction::Vmresume,
        };
        World {
            cpu,
            vmx: processor,
            memory: Memory(RefCell::new(state.memory)),
            msrs: Registers { all: true, ..Registers::default() },
            profile: state.profile,
            instruction,
        }
    }

    /// Enters. The processor, its VMX state and memory are then as the entry left them.
    pub fn enter(&mut self) -> Entry {
        let platform = Platform { profile: &self.profile, memory: &self.memory, msrs: &self.msrs, tsc: TSC };
        enter(&mut self.vmx, &mut self.cpu, &platform, self.instruction)
    }

    /// Enters, and must succeed.
    #[track_caller]
    pub fn entered(&mut self) -> Entered {
        match self.enter() {
            Entry::Entered(entered) => entered,
            other => panic!("{other:?}"),
        }
    }

    pub fn platform(&self) -> Platform<'_, Memory, Registers> {
        Platform { profile: &self.profile, memory: &self.memory, msrs: &self.msrs, tsc: TSC }
    }

    pub fn guest(&self) -> &NonRoot {
        &self.vmx.guest
    }
}

/// Enters the guest of a state, which must succeed.
#[track_caller]
pub fn entered(state: &EntryState) -> World {
    let mut world = World::new(state);
    world.entered();
    world
}
