//! MONITOR, MWAIT, UMONITOR, UMWAIT and TPAUSE: what makes a processor wait, for how long, and what ends it.

use crate::msrs::wrmsr;
use crate::vmx;
use crate::world::{CODE, CODE_0, INTERRUPT_GATE, Machine, PT};
use vmx_model::reasons::ExitReason;
use vmx_model::{Control, Field};
use x86_emu::{Ran, Stop};
use x86_state::{Cr4, Event, Exception, Gpr, Rflags};

const MONITOR: [u8; 3] = [0x0f, 0x01, 0xc8];
const MWAIT: [u8; 3] = [0x0f, 0x01, 0xc9];
const UMONITOR_RBX: [u8; 4] = [0xf3, 0x0f, 0xae, 0xf3];
const UMWAIT_EBX: [u8; 4] = [0xf2, 0x0f, 0xae, 0xf3];
const TPAUSE_EBX: [u8; 4] = [0x66, 0x0f, 0xae, 0xf3];
/// What is monitored.
const WATCHED: u64 = 0x3_0000;

/// A machine with these instructions and NOPs behind them; RBX is the monitored address.
fn machine(code: &[&[u8]]) -> Machine {
    let mut machine = Machine::long64();
    let code = code.concat();
    machine.load(CODE, &code);
    machine.load(CODE + code.len() as u64, &[0x90; 64]);
    machine.cpu().gpr[Gpr::Rax] = WATCHED;
    machine.cpu().gpr[Gpr::Rbx] = WATCHED;
    machine.cpu().gpr[Gpr::Rdx] = 0;
    machine
}

/// How many counts pass in one turn of `budget` until the first NOP is about to be executed, and how many are left of them.
fn waited(machine: &mut Machine, budget: u64) -> u64 {
    let before = machine.processor.state.tsc;
    assert_eq!(machine.run(budget), Ran::Budget);
    assert_eq!(machine.processor.state.tsc - before, budget);
    budget - (machine.cpu().rip - CODE)
}

#[test]
fn pause_takes_time() {
    let mut machine = machine(&[&[0xf3, 0x90]]);
    let before = machine.processor.state.tsc;
    assert_eq!(machine.step(), Ran::Budget);
    assert_eq!(machine.processor.state.tsc - before, 140);
    assert_eq!(machine.cpu().rip, CODE + 2);
}

#[test]
fn mwait_waits_until_the_turn_ends() {
    let mut machine = machine(&[&MONITOR, &MWAIT]);
    assert_eq!(machine.run(50), Ran::Budget);
    assert_eq!((machine.cpu().rip, machine.processor.state.tsc), (CODE + 6, 50));
    assert!(machine.processor.state.wait.is_some());
    machine.run(1);
    assert_eq!(machine.cpu().rip, CODE + 7);
}

#[test]
fn mwait_without_monitor_does_not_wait() {
    let mut machine = machine(&[&MWAIT]);
    machine.run(5);
    assert_eq!(machine.cpu().rip, CODE + 7);
}

#[test]
fn mwait_does_not_wait_twice_for_one_monitor() {
    let mut machine = machine(&[&MONITOR, &MWAIT, &MWAIT]);
    machine.run(2);
    machine.run(2);
    assert_eq!(machine.cpu().rip, CODE + 10);
}

#[test]
fn the_two_kinds_of_monitors_do_not_work_for_each_other() {
    for code in [&[&UMONITOR_RBX[..], &MWAIT][..], &[&MONITOR, &UMWAIT_EBX]] {
        let mut machine = machine(code);
        machine.cpu().gpr[Gpr::Rcx] = 0;
        machine.cpu().gpr[Gpr::Rdx] = 0;
        machine.run(1);
        machine.cpu().gpr[Gpr::Rbx] = 0;
        machine.cpu().gpr[Gpr::Rdx] = u64::MAX;
        machine.run(2);
        assert_eq!((machine.cpu().rip, machine.processor.state.wait), (CODE + 8, None));
    }
}

#[test]
fn an_interrupt_ends_mwait_and_returns_behind_it() {
    let mut machine = machine(&[&MONITOR, &MWAIT]);
    machine.gate(0x40, CODE_0, 0x2_0000, INTERRUPT_GATE);
    machine.cpu().rflags |= Rflags::IF;
    machine.run(2);
    machine.world.raise_interrupt(0x40);
    machine.run(1);
    assert_eq!((machine.cpu().rip, machine.u64(crate::world::STACK - 40)), (0x2_0000, CODE + 6));
    assert_eq!(machine.processor.state.wait, None);
}

#[test]
fn a_masked_interrupt_ends_waiting_too() {
    let mut machine = machine(&[&TPAUSE_EBX]);
    machine.cpu().gpr[Gpr::Rbx] = 0;
    machine.cpu().gpr[Gpr::Rdx] = 1;
    machine.world.raise_interrupt(0x40);
    machine.run(3);
    assert_eq!(machine.cpu().rip, CODE + 6);
}

#[test]
fn ecx_of_mwait_takes_one_bit() {
    for (ecx, accepted) in [(0, true), (1, true), (2, false)] {
        let mut machine = machine(&[]);
        machine.cpu().gpr[Gpr::Rcx] = ecx;
        assert_eq!(machine.attempt(&MWAIT).is_ok(), accepted, "{ecx}");
    }
}

#[test]
fn tpause_waits_until_the_time_stamp_counter_reaches_its_operand() {
    let mut machine = machine(&[&TPAUSE_EBX]);
    machine.cpu().rflags |= Rflags::CF | Rflags::ZF;
    machine.cpu().gpr[Gpr::Rbx] = 1;
    machine.cpu().gpr[Gpr::Rax] = 20;
    // 20 counts, of which 0 are TPAUSE itself: it begins at 0 and counts as one.
    assert_eq!(waited(&mut machine, 30), 30 - 4 - 10);
    assert_eq!(machine.cpu().rip, CODE + 4 + 10);
    assert!(!machine.rflags().intersects(Rflags::CF | Rflags::ZF));
}

#[test]
fn tpause_goes_on_in_the_next_turn() {
    let mut machine = machine(&[&TPAUSE_EBX]);
    machine.cpu().gpr[Gpr::Rbx] = 0;
    machine.cpu().gpr[Gpr::Rax] = 20;
    for _ in 0..20 {
        machine.run(1);
        assert_eq!(machine.cpu().rip, CODE + 4);
    }
    machine.run(1);
    assert_eq!(machine.cpu().rip, CODE + 5);
}

#[test]
fn the_operating_systems_limit_sets_cf() {
    // IA32_UMWAIT_CONTROL, EDX:EAX; CF, and how many counts have passed when the first NOP begins.
    for (control, asked, cf, time) in
        [(40, 100, true, 40), (40, 30, false, 30), (0, 100, false, 100), (43 & !2, 100, true, 40)]
    {
        let mut machine = machine(&[&TPAUSE_EBX]);
        assert!(wrmsr(&mut machine, 0xe1, control));
        machine.load(CODE, &TPAUSE_EBX);
        machine.cpu().rip = CODE;
        machine.processor.state.tsc = 0;
        machine.cpu().gpr[Gpr::Rbx] = 0;
        machine.cpu().gpr[Gpr::Rax] = asked;
        machine.cpu().gpr[Gpr::Rdx] = 0;
        machine.run(time);
        assert_eq!(machine.cpu().rip, CODE + 4);
        machine.run(1);
        assert_eq!(machine.cpu().rip, CODE + 5);
        assert_eq!(machine.rflags().contains(Rflags::CF), cf, "{control} {asked}");
    }
}

#[test]
fn umwait_waits_only_after_umonitor() {
    for (code, waits) in [(&[&UMONITOR_RBX[..], &UMWAIT_EBX][..], true), (&[&[0x90; 4][..], &UMWAIT_EBX], false)] {
        let mut machine = machine(code);
        machine.run(if waits { 1 } else { 4 });
        machine.cpu().gpr[Gpr::Rbx] = 0;
        machine.cpu().gpr[Gpr::Rax] = 1000;
        machine.cpu().gpr[Gpr::Rdx] = 0;
        machine.run(10);
        let rip = CODE + 8 + if waits { 0 } else { 9 };
        assert_eq!(machine.cpu().rip, rip, "{waits}");
    }
}

#[test]
fn iret_disarms_umonitor() {
    let mut machine = machine(&[&UMONITOR_RBX]);
    machine.run(1);
    assert!(machine.processor.state.monitor.is_some());
    let _ = machine.attempt(&[0x48, 0xcf]);
    assert_eq!(machine.processor.state.monitor, None);
}

#[test]
fn umonitor_reads_its_byte_and_takes_a_segment() {
    let mut machine = machine(&[]);
    machine.set_u64(PT + 8 * (WATCHED >> 12), 0);
    let Err(Stop::Raise(raised)) = machine.attempt(&UMONITOR_RBX) else { panic!() };
    assert_eq!(raised.event.vector, Exception::PF.0);
    // With FS, whose base leads to another page.
    machine.cpu().segments[x86_state::SegmentRegister::Fs].base = 0x1000;
    machine.attempt(&[0x64, 0xf3, 0x0f, 0xae, 0xf3]).unwrap();
    assert_eq!(machine.processor.state.monitor.map(|monitor| monitor.hpa.0), Some(WATCHED + 0x1000));
}

#[test]
fn faults_of_umwait_and_tpause() {
    for code in [&UMWAIT_EBX, &TPAUSE_EBX] {
        let mut reserved = machine(&[]);
        reserved.cpu().gpr[Gpr::Rbx] = 2;
        let mut user = machine(&[]);
        user.cpu().gpr[Gpr::Rbx] = 0;
        user.cpu().cr4 |= Cr4::TSD;
        user.enter_user();
        for mut machine in [reserved, user] {
            let Err(Stop::Raise(raised)) = machine.attempt(code) else { panic!() };
            assert_eq!(raised.event, Event::exception_with_code(Exception::GP, 0));
        }
    }
}

/// A guest that executes this with these registers.
fn guest(code: &[u8], change: impl FnOnce(&mut vmx_model::EntryState)) -> Machine {
    let mut machine = vmx::machine(change);
    machine.load(vmx::GUEST, code);
    while !machine.processor.state.vmx.in_guest() {
        machine.run(1);
    }
    machine.cpu().gpr[Gpr::Rbx] = 0;
    machine
}

#[test]
fn tpause_in_a_guest_is_undefined_unless_enabled() {
    let mut machine = guest(&TPAUSE_EBX, |state| {
        state.set(Field::EXCEPTION_BITMAP, 1 << 6);
    });
    vmx::run(&mut machine);
    assert_eq!(vmx::exit(&machine).0, ExitReason(0));
}

#[test]
fn tpause_in_a_guest_exits_with_rdtsc_exiting() {
    let mut machine = guest(&TPAUSE_EBX, |state| {
        state.on(Control::ENABLE_USER_WAIT_AND_PAUSE);
        state.on(Control::RDTSC_EXITING);
    });
    vmx::run(&mut machine);
    assert_eq!(vmx::exit(&machine), (ExitReason(68), 0, vmx::GUEST));
}

#[test]
fn tpause_in_a_guest_waits_on_the_guests_counter() {
    // The guest's counter runs at double speed, 1000 ahead.
    let mut machine = guest(&[TPAUSE_EBX[0], TPAUSE_EBX[1], TPAUSE_EBX[2], TPAUSE_EBX[3], 0x0f, 0xa2], |state| {
        state.on(Control::ENABLE_USER_WAIT_AND_PAUSE);
        state.on(Control::USE_TSC_OFFSETTING);
        state.on(Control::USE_TSC_SCALING);
        state.set(Field::TSC_OFFSET, 1000);
        state.set(Field::TSC_MULTIPLIER, 2 << 48);
    });
    let start = machine.processor.state.tsc;
    machine.cpu().gpr[Gpr::Rax] = start * 2 + 1000 + 300;
    machine.cpu().gpr[Gpr::Rdx] = 0;
    machine.run(1);
    let wait = machine.processor.state.wait.unwrap();
    assert_eq!(wait.deadline, Some(start + 150));
}

#[test]
fn a_virtual_interrupt_reaches_the_guests_handler() {
    let mut machine = vmx::machine(|state| {
        state.on(Control::USE_TPR_SHADOW);
        state.on(Control::EXTERNAL_INTERRUPT_EXITING);
        state.on(Control::VIRTUALIZE_X2APIC_MODE);
        state.on(Control::VIRTUAL_INTERRUPT_DELIVERY);
        state.set(Field::VIRTUAL_APIC_ADDRESS, 0x6_0000);
        state.set(Field::GUEST_INTERRUPT_STATUS, 0x41);
        state.set(Field::GUEST_RFLAGS, 0x202);
    });
    machine.set_u32(0x6_0000 + 0x220, 2); // VIRR: vector 0x41
    machine.gate(0x41, CODE_0, 0x2_1000, INTERRUPT_GATE);
    machine.load(0x2_1000, &[0x0f, 0xa2]); // CPUID
    machine.load(vmx::GUEST, &[0x90]);
    vmx::run(&mut machine);
    assert_eq!(vmx::exit(&machine), (ExitReason(10), 0, 0x2_1000));
    assert_eq!(machine.u32(0x6_0000 + 0x120), 2); // VISR
    assert_eq!(machine.u32(0x6_0000 + 0x220), 0);
}
