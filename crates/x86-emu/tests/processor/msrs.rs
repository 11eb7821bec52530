//! RDMSR and WRMSR of the registers that are neither in the `Cpu` nor in the local APIC.

use crate::vmx;
use crate::world::Machine;
use vmx_model::{Control, Field};
use x86_emu::Stop;
use x86_emu::time::VM_ENTRY;
use x86_state::{Event, Exception, Gpr, Msr};

/// RDMSR; `None` is #GP(0).
pub(crate) fn rdmsr(machine: &mut Machine, msr: u32) -> Option<u64> {
    machine.cpu().gpr[Gpr::Rcx] = msr.into();
    accepted(machine.attempt(&[0x0f, 0x32])).then(|| machine.gpr(Gpr::Rax) | machine.gpr(Gpr::Rdx) << 32)
}

/// WRMSR; `false` is #GP(0).
pub(crate) fn wrmsr(machine: &mut Machine, msr: u32, value: u64) -> bool {
    machine.cpu().gpr[Gpr::Rcx] = msr.into();
    machine.cpu().gpr[Gpr::Rax] = value & 0xffff_ffff;
    machine.cpu().gpr[Gpr::Rdx] = value >> 32;
    accepted(machine.attempt(&[0x0f, 0x30]))
}

fn accepted(result: Result<(), Stop>) -> bool {
    match result {
        Ok(()) => true,
        Err(Stop::Raise(raised)) => {
            assert_eq!(raised.event, Event::exception_with_code(Exception::GP, 0));
            false
        }
        Err(other) => panic!("{other:?}"),
    }
}

#[test]
fn registers_have_their_values_after_reset() {
    let mut machine = Machine::long64();
    for (msr, value) in [
        (0x17, 0),
        (0x3b, 0),
        (0x8b, 0x1_0000_0000),
        (0xce, 0xa00),
        (0xcf, 0),
        (0xfe, 0x50a),
        (0x10a, 0x17b),
        (0x179, 0x104),
        (0x17a, 0),
        // Fast strings, counters, no BTS, no PEBS, MONITOR.
        (0x1a0, 0x4_1881),
        (0x1b0, 6),
        (0x2ff, 0),
        (0x345, 0x2001),
        (0x400, 0),
    ] {
        assert_eq!(rdmsr(&mut machine, msr), Some(value), "{msr:#x}");
    }
}

#[test]
fn registers_keep_what_is_written() {
    let mut machine = Machine::long64();
    for (msr, value) in [
        (0x8b, 0x1234),
        (0x17a, 7),
        (0x17b, u64::MAX),
        (0x1a0, 0x4_00c5_1889), // read-only bits as they are
        (0x1b0, 15),
        (0x200, 0x8_0000_0006),
        (0x213, 0xf_ffff_f000_0800),
        (0x250, 0x0606_0606_0606_0606),
        (0x259, 0x0101_0101_0101_0101),
        (0x26f, 0x0505_0505_0505_0505),
        (0x2ff, 0xc06),
        (0x400, u64::MAX),
        (0x40d, 0),
        (0x40e, 0x1234_5678_9abc_def0),
        (0x40f, u64::MAX),
    ] {
        assert!(wrmsr(&mut machine, msr, value), "{msr:#x}");
        assert_eq!(rdmsr(&mut machine, msr), Some(value), "{msr:#x}");
    }
}

#[test]
fn read_only_bits_of_misc_enable_keep_their_values() {
    let mut machine = Machine::long64();
    assert!(wrmsr(&mut machine, 0x1a0, 0));
    assert_eq!(rdmsr(&mut machine, 0x1a0), Some(0x1880));
}

#[test]
fn what_a_register_does_not_take_is_refused() {
    let mut machine = Machine::long64();
    for (msr, value) in [
        (0xfe, 0),      // IA32_MTRRCAP is read-only
        (0x10a, 0),     // as is IA32_ARCH_CAPABILITIES
        (0x17a, 8),     // reserved
        (0x17b, 1),     // neither all ones nor all zeros
        (0x1a0, 2),     // reserved
        (0x1b0, 16),    // reserved
        (0x200, 2),     // no such memory type
        (0x250, 2),     // no such memory type
        (0x2ff, 0x106), // reserved
        (0x401, 1),     // a status can only be cleared
        (0x410, 0),     // there are 4 banks
        (0x400, 0x8000_0000_0000_0000),
        (0x49, 2),  // reserved
        (0x1f2, 0), // there are no SMRRs
        (0x122, 0), // and there is no TSX
    ] {
        assert!(!wrmsr(&mut machine, msr, value), "{msr:#x} {value:#x}");
    }
}

#[test]
fn commands_are_taken_and_cannot_be_read() {
    let mut machine = Machine::long64();
    for msr in [0x49, 0x79, 0x10b] {
        assert!(wrmsr(&mut machine, msr, 1), "{msr:#x}");
        assert_eq!(rdmsr(&mut machine, msr), None, "{msr:#x}");
    }
}

#[test]
fn registers_of_what_is_concealed_do_not_exist() {
    let mut machine = Machine::long64();
    // IA32_RTIT_CTL, IA32_DS_AREA, IA32_LBR_CTL, IA32_XFD, IA32_FRED_CONFIG, IA32_BNDCFGS, IA32_PM_ENABLE, IA32_L2_MASK_0, IA32_TME_ACTIVATE.
    for msr in [0x570, 0x600, 0x14ce, 0x1c4, 0x1d4, 0xd90, 0x770, 0xc90, 0x982] {
        assert_eq!(rdmsr(&mut machine, msr), None, "{msr:#x}");
        assert!(!wrmsr(&mut machine, msr, 0), "{msr:#x}");
    }
}

#[test]
fn tsc_and_tsc_adjust_move_together() {
    let mut machine = Machine::long64();
    machine.processor.state.tsc = 1000;
    assert!(wrmsr(&mut machine, 0x10, 5000));
    // One count passes with the WRMSR itself, behind the write.
    assert_eq!((rdmsr(&mut machine, 0x10), rdmsr(&mut machine, 0x3b)), (Some(5001), Some(4000)));
    let before = machine.processor.state.tsc;
    assert!(wrmsr(&mut machine, 0x3b, 4000 - 3000));
    assert_eq!(machine.processor.state.tsc, before - 3000 + 1);
    assert_eq!(rdmsr(&mut machine, 0x3b), Some(1000));
    assert_eq!(machine.world.tsc_moved.get(), 1000);
}

#[test]
fn a_vm_entry_loads_the_tsc_and_the_exit_stores_it() {
    const LOAD: u64 = 0x6_0000;
    const STORE: u64 = 0x6_1000;
    let mut machine = vmx::machine(|state| {
        for (field, value) in [
            (Field::VM_ENTRY_MSR_LOAD_COUNT, 1),
            (Field::VM_ENTRY_MSR_LOAD_ADDRESS, LOAD),
            (Field::VM_EXIT_MSR_STORE_COUNT, 1),
            (Field::VM_EXIT_MSR_STORE_ADDRESS, STORE),
        ] {
            state.set(field, value);
        }
    });
    for (at, value) in [(LOAD, 0x10), (LOAD + 8, 0x1_0000_0000), (STORE, 0x10)] {
        machine.set_u64(at, value);
    }
    machine.load(vmx::GUEST, &[0x90, 0x90, 0x0f, 0xa2]);
    vmx::run(&mut machine);
    // VMLAUNCH and the two NOPs have taken a count each, the entry some more; CPUID has not been completed.
    assert_eq!(machine.u64(STORE + 8) >> 32, 1);
    assert!(machine.u64(STORE + 8) & 0xffff_ffff < 5 + VM_ENTRY);
}

#[test]
fn a_write_of_the_tsc_does_not_change_the_preemption_timer() {
    // The timer counts bit 5 of the TSC: 10 is 320 counts. The guest moves the TSC far ahead, and loops.
    let mut machine = vmx::machine(|state| {
        state.on(Control::ACTIVATE_PREEMPTION_TIMER);
        state.on(Control::USE_MSR_BITMAPS);
        state.set(Field::MSR_BITMAPS_ADDRESS, 0x6_2000);
        state.set(Field::VMX_PREEMPTION_TIMER_VALUE, 10);
    });
    // MOV ECX, 0x10; XOR EAX, EAX; MOV EDX, 0x1000; WRMSR; INC EBX; JMP -4
    machine
        .load(vmx::GUEST, &[0xb9, 0x10, 0, 0, 0, 0x31, 0xc0, 0xba, 0, 0x10, 0, 0, 0x0f, 0x30, 0xff, 0xc3, 0xeb, 0xfc]);
    while !machine.processor.state.vmx.in_guest() {
        machine.run(1);
    }
    let mut instructions = 0;
    while machine.processor.state.vmx.in_guest() {
        machine.run(1);
        instructions += 1;
    }
    assert!((288..=322).contains(&(instructions + VM_ENTRY)), "{instructions}");
}

#[test]
fn cpuid_puts_the_microcode_revision_into_its_register() {
    let mut machine = Machine::long64();
    assert!(wrmsr(&mut machine, 0x8b, 0));
    assert_eq!(rdmsr(&mut machine, 0x8b), Some(0));
    machine.cpu().gpr[Gpr::Rax] = 1;
    machine.attempt(&[0x0f, 0xa2]).unwrap();
    assert_eq!(rdmsr(&mut machine, 0x8b), Some(0x1_0000_0000));
}

#[test]
fn misc_enable_takes_monitor_away() {
    let mut machine = Machine::long64();
    assert!(wrmsr(&mut machine, 0x1a0, 1));
    machine.cpu().gpr[Gpr::Rcx] = 0;
    for code in [[0x0f, 0x01, 0xc8], [0x0f, 0x01, 0xc9]] {
        let Err(Stop::Raise(raised)) = machine.attempt(&code) else { panic!() };
        assert_eq!(raised.event, Event::exception(Exception::UD));
    }
}

#[test]
fn misc_enable_takes_execute_disable_away() {
    let mut machine = Machine::long64();
    assert!(wrmsr(&mut machine, 0xc000_0080, 0xd00));
    assert!(wrmsr(&mut machine, 0x1a0, 1 << 34));
    assert!(!wrmsr(&mut machine, 0xc000_0080, 0xd00));
    assert!(wrmsr(&mut machine, 0xc000_0080, 0x500));
}

#[test]
fn the_bus_learns_of_ia32_apic_base() {
    let mut machine = Machine::long64();
    machine.world.msrs.borrow_mut().push((Msr::APIC_BASE, 0));
    assert!(wrmsr(&mut machine, 0x1b, 0xfee0_0d00));
    assert_eq!(machine.world.msrs.borrow()[0].1, 0xfee0_0d00);
    assert_eq!(machine.cpu().apic_base, 0xfee0_0d00);
}
