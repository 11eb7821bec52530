//! Do the core crates need std or an allocator? This library has neither and links against them: if they did, it would not build.
#![no_std]

use core::panic::PanicInfo;
use softvirt_ept::{Access, Direct, Operation, Paging, PagingSupport, Privilege, walk};
use softvirt_lapic::{Config, Effect, LocalApic, NextEvent, Now};
use vmx_model::builder::build;
use vmx_model::event::{Boundary, Circumstances, Pending, Raised, Reaction, boundary, exception};
use vmx_model::exit::{Left, leave};
use vmx_model::insn::{self, OperandMemory};
use vmx_model::intercept::decide;
use vmx_model::rules::GuestKind;
use vmx_model::{Field, Operation as VmxOperation, Outcome, Verdict, Vmx, check_entry, hardware_outcome};
use vmx_model::{handbook, round_to_valid, synth};
use x86_state::mem::WordMemory;
use x86_state::{
    AccessRights, Cpu, Cr0, Cr4, Efer, Event, Exception, Gva, Hpa, Instruction, MemoryOperand, Op, Platform,
    SegmentRegister, profiles,
};

#[panic_handler]
fn panic(_: &PanicInfo<'_>) -> ! {
    loop {}
}

/// Walks a table of one entry a level: 0 if it leads where it should.
#[unsafe(no_mangle)]
pub extern "C" fn softvirt_no_std_walk() -> u32 {
    let memory = WordMemory::new([(0x1000, 0x2003), (0x2000, 0x4000_0083)]);
    let paging = Paging::new(Cr0::PE | Cr0::PG, 0x1000, Cr4::PAE, Efer::LME | Efer::LMA, &PagingSupport::new(46));
    let access = Access::new(Operation::Read, Privilege::Supervisor);
    match walk(&memory, &paging, &Direct, Gva(0x12_3456), access) {
        Ok(found) if found.hpa == Hpa(0x4012_3456) => 0,
        _ => 1,
    }
}

/// Starts the timer of a local APIC and lets it fire: 0 if its vector comes.
#[unsafe(no_mangle)]
pub extern "C" fn softvirt_no_std_lapic() -> u32 {
    let mut apic = LocalApic::new(Config::intel(0));
    let now = Now::default();
    for (offset, value) in [(0xf0, 0x1ff), (0x320, 0x41), (0x380, 10)] {
        if apic.mmio_write(offset, 4, value, now) != Effect::None {
            return 1;
        }
    }
    let Some(NextEvent::Bus(bus)) = apic.next_event() else { return 2 };
    apic.advance(Now { bus, tsc: 0 });
    u32::from(apic.acknowledge() != 0x41)
}

/// Builds a state, checks it, rounds it: 0 if it enters.
#[unsafe(no_mangle)]
pub extern "C" fn softvirt_no_std_proof() -> u32 {
    let mut state = build(GuestKind::Long64, &profiles::MAX);
    let violations = check_entry(&state);
    if hardware_outcome(&violations, &state.profile, 0) != Outcome::Entered {
        return 1;
    }
    u32::from(round_to_valid(&mut state).is_err())
}

/// No instruction here has a memory operand.
struct NoMemory;

impl OperandMemory for NoMemory {
    type Error = ();
    fn read(&mut self, _: &Vmx, _: &Cpu, _: &MemoryOperand, _: &mut [u8]) -> Result<(), ()> {
        Err(())
    }
    fn write(&mut self, _: &Vmx, _: &Cpu, _: &MemoryOperand, _: &[u8]) -> Result<(), ()> {
        Err(())
    }
}

/// VMLAUNCH, a boundary, an exception, CPUID, and the VM exit: 0 if the host is back with reason 10.
#[unsafe(no_mangle)]
pub extern "C" fn softvirt_no_std_operation() -> u32 {
    let memory = WordMemory::<0>::new([]);
    let platform = Platform::new(&profiles::MAX, &memory);
    let mut cpu = Cpu::reset(0);
    (cpu.cr0, cpu.cr4, cpu.efer) = (Cr0::PE | Cr0::PG | Cr0::NE, Cr4::PAE | Cr4::VMXE, Efer::LME | Efer::LMA);
    cpu.segments[SegmentRegister::Cs].rights = AccessRights::CODE_64;
    let mut vmx = Vmx::new(&profiles::MAX);
    vmx.state.operation = VmxOperation::Root;
    vmx.state.current_vmcs = Some(Hpa(0x2000));
    vmx.vmcs = build(GuestKind::Long64, &profiles::MAX).vmcs;

    let launch = Instruction::new(Op::Vmlaunch, 3).long();
    match insn::execute(&mut vmx, &mut cpu, &platform, &launch, &mut NoMemory) {
        insn::Outcome::Entered(_) => {}
        _ => return 1,
    }
    if boundary(&vmx, &cpu, &platform, &Pending::default()) != Boundary::Run {
        return 2;
    }
    let raised = Raised::new(Event::exception(Exception::UD));
    if exception(&vmx, &cpu, &raised, &Circumstances::default()) != Reaction::Deliver(raised.event) {
        return 3;
    }
    let Verdict::Exit(exit) = decide(&vmx, &cpu, &memory, &Instruction::new(Op::Cpuid, 2).long()) else { return 4 };
    if exit != synth::cpuid() || !handbook::qualification(exit.reason).is_empty() {
        return 5;
    }
    match leave(&mut vmx, &mut cpu, &platform, &exit) {
        Left::Host { .. } if vmx.vmcs.get(Field::EXIT_REASON) == 10 => 0,
        _ => 6,
    }
}
