//! A 64-bit guest and its hypervisor, for counting and timing what passes between them.
#![allow(dead_code, unreachable_pub, reason = "the bench and the example use their parts")]

use std::hint::black_box;
use vmx_model::builder::build;
use vmx_model::entry::{Entry, enter};
use vmx_model::exit::{Exit, Left, leave};
use vmx_model::intercept::{Hot, decide};
use vmx_model::reasons::ExitReason;
use vmx_model::rules::GuestKind;
use vmx_model::vmcs::LaunchState;
use vmx_model::{Control, EntryInstruction, Field, KnownEntry, Operation, Verdict, Vmx, check_entry};
use x86_state::mem::WordMemory;
use x86_state::{
    AccessRights, Cpu, CpuProfile, Cr0, Cr4, Efer, Gpr, Hpa, Instruction, Msr, Op, OpClass, Platform, SegmentRegister,
    profiles,
};

/// What is counted.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Kind {
    /// VMRESUME and the exit of CPUID.
    EntryAndExit,
    /// The rule check that the entry makes, alone.
    Check,
    /// The exit alone, from a copy of the guest.
    Exit,
    /// The copies that [`Kind::Exit`] makes, alone.
    Copy,
    /// Every field of a VMCS read and written once: the floor of an entry and an exit.
    FieldFloor,
    /// CPUID: exits.
    Cpuid,
    /// RDMSR of a register whose bit in the bitmap is 0: no exit.
    RdmsrBitmap,
    /// HLT without "HLT exiting", asked of the table.
    Hlt,
    /// The same, asked of the set of hot instructions first.
    HltHot,
    /// MOV to CR3 with "CR3-load exiting": exits.
    MovToCr3,
    /// MOV to CR3 without "CR3-load exiting": no exit.
    MovToCr3Free,
    /// A decision's floor: one load of a control vector and a test of one bit, behind a call.
    BitFloor,
}

/// The kinds and their names.
pub const KINDS: &[(&str, Kind)] = &[
    ("entry-and-exit", Kind::EntryAndExit),
    ("entry-check", Kind::Check),
    ("exit-and-copies", Kind::Exit),
    ("copies", Kind::Copy),
    ("floor-every-field", Kind::FieldFloor),
    ("cpuid-exit", Kind::Cpuid),
    ("rdmsr-bitmap-no-exit", Kind::RdmsrBitmap),
    ("hlt-no-exit", Kind::Hlt),
    ("hlt-no-exit-hot", Kind::HltHot),
    ("mov-to-cr3-exit", Kind::MovToCr3),
    ("mov-to-cr3-no-exit", Kind::MovToCr3Free),
    ("floor-one-bit", Kind::BitFloor),
];

type Memory = WordMemory<4>;

/// A processor with a guest that is ready to be resumed, or that runs.
pub struct World {
    profile: CpuProfile,
    memory: Memory,
    pub vmx: Vmx,
    pub cpu: Cpu,
    hot: Hot,
    instruction: Instruction,
    copy: (Vmx, Cpu),
}

/// Where the MSR bitmaps are.
const BITMAPS: u64 = 0x4_0000;

impl World {
    pub fn new(kind: Kind) -> Self {
        let profile = profiles::MAX;
        let mut state = build(GuestKind::Long64, &profile);
        let mut wanted = vec![Control::USE_MSR_BITMAPS];
        if kind == Kind::MovToCr3 {
            wanted.push(Control::CR3_LOAD_EXITING);
        }
        for control in wanted {
            state.on(control);
        }
        state.set(Field::MSR_BITMAPS_ADDRESS, BITMAPS);
        let mut cpu = Cpu::reset(0);
        cpu.cr0 = Cr0::PE | Cr0::ET | Cr0::NE | Cr0::WP | Cr0::PG;
        cpu.cr4 = Cr4::PAE | Cr4::VMXE;
        cpu.efer = Efer::LME | Efer::LMA;
        cpu.segments[SegmentRegister::Cs].rights = AccessRights::CODE_64;
        cpu.segments[SegmentRegister::Ss].rights = AccessRights::DATA_32;
        let mut vmx = Vmx::new(&profile);
        vmx.vmcs = state.vmcs;
        vmx.state.operation = Operation::Root;
        vmx.state.vmxon_pointer = Hpa(0x1000);
        vmx.state.current_vmcs = Some(Hpa(0x2000));
        vmx.state.launch_state = LaunchState::Launched;
        // The word of IA32_EFER, in the bitmap for reads of registers from C0000000 on.
        let memory = WordMemory::new([(BITMAPS + 1024 + 16, 0), (0x10, 0), (0x18, 0), (0x20, 0)]);
        let instruction = match kind {
            Kind::RdmsrBitmap => Instruction::new(Op::Rdmsr { msr: Msr::EFER }, 2),
            Kind::Hlt | Kind::HltHot => Instruction::new(Op::Hlt, 1),
            Kind::MovToCr3 | Kind::MovToCr3Free => {
                Instruction::new(Op::MovToCr { number: 3, source: Gpr::Rax, value: 0x5000 }, 3).long()
            }
            _ => Instruction::new(Op::Cpuid, 2),
        };
        let copy = (vmx, cpu);
        let mut world = Self { profile, memory, vmx, cpu, hot: Hot::default(), instruction, copy };
        if !matches!(kind, Kind::EntryAndExit | Kind::Check | Kind::FieldFloor) {
            world.enter();
            world.hot = Hot::of(&world.vmx.guest.controls, &world.vmx.vmcs);
            world.copy = (world.vmx, world.cpu);
        }
        world
    }

    fn enter(&mut self) {
        let platform = Platform::new(&self.profile, &self.memory);
        let entry = enter(&mut self.vmx, &mut self.cpu, &platform, EntryInstruction::Vmresume);
        assert!(matches!(entry, Entry::Entered(_)), "{entry:?}");
    }

    fn leave(&mut self) {
        let platform = Platform::new(&self.profile, &self.memory);
        let left = leave(&mut self.vmx, &mut self.cpu, &platform, &Exit::instruction(ExitReason::CPUID, 2));
        assert!(matches!(left, Left::Host { .. }), "{left:?}");
    }

    fn decide(&self) -> Verdict {
        decide(black_box(&self.vmx), black_box(&self.cpu), &self.memory, black_box(&self.instruction))
    }

    /// Does it once.
    pub fn run(&mut self, kind: Kind) {
        match kind {
            Kind::EntryAndExit => {
                self.enter();
                self.leave();
            }
            Kind::Check => {
                let view = KnownEntry {
                    instruction: EntryInstruction::Vmresume,
                    vmcs: &self.vmx.vmcs,
                    executive: &self.vmx.vmcs,
                    cpu: &self.cpu,
                    vmx: self.vmx.state,
                    memory: &&self.memory,
                    profile: &self.profile,
                };
                assert!(check_entry(black_box(&view)).none_broken());
            }
            Kind::Exit => {
                (self.vmx, self.cpu) = black_box(self.copy);
                self.leave();
            }
            Kind::Copy => (self.vmx, self.cpu) = black_box(self.copy),
            Kind::FieldFloor => {
                let vmcs = black_box(&mut self.vmx.vmcs);
                let sum = Field::all().fold(0_u64, |sum, field| sum.wrapping_add(vmcs.get(field)));
                let sum = black_box(sum);
                for field in Field::all() {
                    vmcs.set(field, sum);
                }
                // The VMCS is never entered.
                black_box(vmcs);
            }
            Kind::HltHot => {
                if !black_box(self.hot).contains(OpClass::Hlt) {
                    black_box(self.decide());
                }
            }
            Kind::BitFloor => {
                black_box(black_box(&self.vmx).guest.controls.has(Control::HLT_EXITING));
            }
            _ => {
                black_box(self.decide());
            }
        }
    }
}
