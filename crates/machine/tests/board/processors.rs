//! Several processors: start-up, IPIs, sleep, timers, and how a machine ends.

use crate::support::*;
use softvirt_machine::{Config, ConfigError, Ended, Machine};
use x86_state::{ActivityState, profiles};

/// INIT and start-up IPI for processor 1.
fn start_other() -> Vec<u8> {
    [wrmsr(0x830, 1 << 32 | 0x4500), wrmsr(0x830, 1 << 32 | 0x4608)].concat()
}

/// Prints the processor's number; counts in [0x600]; at 20 the machine ends; else the other processor gets the interrupt.
fn ping_pong_handler() -> Vec<u8> {
    [
        // PUSHAD
        vec![0x66, 0x60],
        rdmsr(0x802),
        // ADD AL, '0'; OUT 0xE9, AL; INC WORD [0x600]; CMP WORD [0x600], 20; JB over the exit
        vec![0x04, b'0', 0xe6, 0xe9, 0xff, 0x06, 0x00, 0x06, 0x83, 0x3e, 0x00, 0x06, 20, 0x72, 9],
        out32(0xf4, 20),
        wrmsr(0x80b, 0),
        rdmsr(0x802),
        // XOR EAX, 1; MOV EDX, EAX; MOV EAX, VECTOR; MOV ECX, 0x830; WRMSR
        vec![0x66, 0x83, 0xf0, 1, 0x66, 0x89, 0xc2, 0x66, 0xb8, VECTOR, 0, 0, 0, 0x66, 0xb9, 0x30, 8, 0, 0, 0x0f, 0x30],
        // POPAD; IRET
        vec![0x66, 0x61, 0xcf],
    ]
    .concat()
}

#[test]
fn two_processors_play_ping_pong_by_ipi() {
    for seed in 0..5 {
        let first = [prologue(0x6000), start_other(), WAIT.to_vec()].concat();
        let second = [prologue(0x6800), wrmsr(0x830, VECTOR.into()), WAIT.to_vec()].concat();
        let config = Config { seed, ..config(2) };
        let mut machine = guest(&config, &[(CODE, first), (AP_CODE, second), (HANDLER, ping_pong_handler())]);
        assert_eq!(machine.run(100_000, &mut ()), Ended::DebugExit(20));
        assert_eq!(machine.console(), b"01".repeat(10));
        let counters = machine.counters();
        assert_eq!(counters.interrupts, 20);
        assert!(counters.cpus.iter().all(|cpu| cpu.instructions > 100 && cpu.asleep > 0), "{counters:?}");
    }
}

#[test]
fn other_processors_wait_and_alone_they_do_not_keep_the_machine_awake() {
    let mut machine = guest(&config(8), &[(CODE, [vec![0xfa], HLT.to_vec()].concat())]);
    assert_eq!(machine.run(1000, &mut ()), Ended::AllAsleep);
    let activities: Vec<_> = machine.cpus().map(|state| state.cpu.activity).collect();
    let mut expected = vec![ActivityState::WAIT_FOR_SIPI; 8];
    expected[0] = ActivityState::HLT;
    assert_eq!(activities, expected);
    let bootstrap: Vec<_> = machine.cpus().map(|state| state.cpu.apic_base).collect();
    assert_eq!(
        bootstrap,
        [0xfee0_0900, 0xfee0_0800, 0xfee0_0800, 0xfee0_0800, 0xfee0_0800, 0xfee0_0800, 0xfee0_0800, 0xfee0_0800]
    );
}

#[test]
fn a_start_up_ipi_for_a_processor_that_runs_is_lost() {
    // The first processor sends itself one, goes on, and prints.
    let code = [prologue(0x6000), wrmsr(0x830, 0x4608), vec![0xb0, b'x'], PRINT.to_vec(), out32(0xf4, 7)].concat();
    let mut machine = guest(&config(1), &[(CODE, code)]);
    assert_eq!(machine.run(10_000, &mut ()), Ended::DebugExit(7));
    assert_eq!(machine.console(), b"x");
    // And afterwards too, when the machine goes on.
    assert_eq!(machine.run(100, &mut ()), Ended::Limit);
}

#[test]
fn cpuid_tells_each_processor_its_apic_id() {
    // MOV EAX, 0xB; XOR ECX, ECX; CPUID; MOV AL, DL; ADD AL, '0'; OUT 0xE9, AL; CLI; HLT
    let tell = [0x66, 0xb8, 0xb, 0, 0, 0, 0x66, 0x31, 0xc9, 0x0f, 0xa2, 0x88, 0xd0, 0x04, b'0', 0xe6, 0xe9, 0xfa, 0xf4];
    let first = [prologue(0x6000), start_other(), tell.to_vec()].concat();
    let mut machine = guest(&config(2), &[(CODE, first), (AP_CODE, tell.to_vec())]);
    assert_eq!(machine.run(10_000, &mut ()), Ended::AllAsleep);
    let mut printed = machine.console().to_vec();
    printed.sort_unstable();
    assert_eq!(printed, b"01");
}

#[test]
fn sleep_skips_to_the_timer() {
    // One shot, divided by 1, a million ticks away; the handler ends the machine.
    let code =
        [prologue(0x6000), wrmsr(0x832, VECTOR.into()), wrmsr(0x83e, 0xb), wrmsr(0x838, 1_000_000), WAIT.to_vec()];
    let mut machine = guest(&config(1), &[(CODE, code.concat()), (HANDLER, out32(0xf4, 1))]);
    assert_eq!(machine.run(1000, &mut ()), Ended::DebugExit(1));
    let cpu = machine.counters().cpus[0];
    assert!((999_900..=1_000_000).contains(&cpu.asleep), "{cpu:?}");
    assert!(cpu.instructions < 100, "{cpu:?}");
}

#[test]
fn a_timer_fires_after_exactly_its_count() {
    // RDTSC before and in the handler; the time between them is the count and the way there.
    let before = [vec![0x0f, 0x31, 0x66, 0x89, 0xc3], wrmsr(0x838, 5000)].concat();
    let code = [prologue(0x6000), wrmsr(0x832, VECTOR.into()), wrmsr(0x83e, 0xb), vec![0xfb], before, vec![0xeb, 0xfe]]
        .concat();
    // RDTSC; SUB EAX, EBX; OUT 0xF4, EAX
    let handler = vec![0x0f, 0x31, 0x66, 0x29, 0xd8, 0x66, 0xe7, 0xf4];
    let mut machine = guest(&config(1), &[(CODE, code), (HANDLER, handler)]);
    // MOV, three MOVs and WRMSR stand between RDTSC and the start of the count, the WRMSR itself begins it.
    assert_eq!(machine.run(10_000, &mut ()), Ended::DebugExit(5000 + 5));
}

#[test]
fn an_interrupt_that_cannot_be_taken_does_not_keep_a_sleeping_machine_busy() {
    // A periodic timer, interrupts off, HLT: the first tick stays requested, and no other wakes it.
    let timer = [wrmsr(0x832, 1 << 17 | u64::from(VECTOR)), wrmsr(0x83e, 0xb), wrmsr(0x838, 100)].concat();
    let code = [prologue(0x6000), timer, HLT.to_vec()].concat();
    let mut machine = guest(&config(1), &[(CODE, code)]);
    assert_eq!(machine.run(1_000_000_000, &mut ()), Ended::AllAsleep);
}

#[test]
fn a_triple_fault_ends_the_machine_and_says_where() {
    // LIDT with limit 0, then INT3. CS:IP references the INT3.
    let code = [0x0f, 0x01, 0x1e, 0x10, 0x7c, 0xcc, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0];
    let (machine, ended) = run(&[&code]);
    assert_eq!(ended, Ended::TripleFault { cpu: 0 });
    assert_eq!(machine.cpus().next().unwrap().cpu.rip, 0x7c05);
}

#[test]
fn the_limit_is_exact_and_the_machine_goes_on_after_it() {
    let mut machine = guest(&config(1), &[(CODE, vec![0x40, 0xeb, 0xfd])]);
    for round in 1..=3 {
        assert_eq!(machine.run(1000, &mut ()), Ended::Limit);
        let state = machine.cpus().next().unwrap();
        assert_eq!((state.tsc, state.cpu.gpr.0[0]), (1000 * round, 500 * round));
    }
}

#[test]
fn a_repeated_instruction_stops_at_the_limit_too() {
    // XOR EDI, EDI; MOV ECX, -1; REP STOSB with a 16-bit address goes round in its segment.
    let code = vec![0x66, 0x31, 0xff, 0x66, 0xb9, 0xff, 0xff, 0xff, 0xff, 0xbb, 0, 0x10, 0x8e, 0xc3, 0xf3, 0xaa];
    let mut machine = guest(&config(1), &[(CODE, code)]);
    assert_eq!(machine.run(1000, &mut ()), Ended::Limit);
    let state = machine.cpus().next().unwrap();
    assert_eq!((state.tsc, state.cpu.rip), (1000, 0x7c0e));
    assert_eq!(state.cpu.gpr.0[1] & 0xffff, 0xffff - 996);
}

#[test]
fn the_time_stamp_counter_may_be_set_to_its_last_values() {
    // WRMSR of IA32_TIME_STAMP_COUNTER to -10, then 100 rounds and the end.
    let code = [wrmsr(0x10, u64::MAX - 9), vec![0xb9, 100, 0, 0xe2, 0xfe], out32(0xf4, 9)].concat();
    let mut machine = guest(&config(1), &[(CODE, code)]);
    assert_eq!(machine.run(10_000, &mut ()), Ended::DebugExit(9));
    let counted = machine.counters().cpus[0].instructions;
    assert!((100..200).contains(&counted), "{counted}");
}

#[test]
fn writes_of_the_counter_and_of_its_adjustment_agree() {
    // IA32_TSC_ADJUST (0x3B) := 1000, IA32_TIME_STAMP_COUNTER := 1_000_000; read the adjustment.
    let code = [wrmsr(0x3b, 1000), wrmsr(0x10, 1_000_000), rdmsr(0x3b), vec![0x66, 0xe7, 0xf4]].concat();
    let mut machine = guest(&config(1), &[(CODE, code)]);
    // Seven instructions were over when the counter was set: four, and three of the second WRMSR's.
    assert_eq!(machine.run(1000, &mut ()), Ended::DebugExit(1_000_000 - 7));
}

#[test]
fn there_is_no_machine_without_processors_or_with_half_a_page() {
    for (config, error) in [
        (config(0), ConfigError::Cpus(0)),
        (config(9), ConfigError::Cpus(9)),
        (Config { profile: &profiles::KVM_HASWELL, ..config(1) }, ConfigError::NoCpuid("kvm-haswell")),
        (Config { memory_bytes: 4096, ..config(1) }, ConfigError::Memory(4096)),
        (Config { memory_bytes: (2 << 20) + 1, ..config(1) }, ConfigError::Memory((2 << 20) + 1)),
        (Config { memory_bytes: 1 << 40, ..config(1) }, ConfigError::Memory(1 << 40)),
    ] {
        assert_eq!(Machine::new(&config).err(), Some(error));
    }
}

#[test]
fn shutdown_by_letters_ends_the_machine_and_other_letters_begin_anew() {
    let letters = |text: &str| text.bytes().flat_map(|letter| out8(0x8900, letter)).collect::<Vec<_>>();
    let (_, ended) = run(&[&letters("ShuShutdown"), &HLT]);
    assert_eq!(ended, Ended::Shutdown);
    let (_, ended) = run(&[&letters("Shutdow"), &[0xfa], &HLT]);
    assert_eq!(ended, Ended::AllAsleep);
}

#[test]
fn without_test_devices_the_debug_exit_is_not_there() {
    let config = Config { test_device: false, ..config(1) };
    let mut machine = guest(&config, &[(CODE, [out32(0xf4, 1), vec![0xfa], HLT.to_vec()].concat())]);
    assert_eq!(machine.run(1000, &mut ()), Ended::AllAsleep);
}

#[test]
fn an_nmi_wakes_a_processor_that_sleeps_with_interrupts_off() {
    // INT 2 to the handler, too; an NMI to itself is taken at once, so a second processor sends it.
    let nmi_vector = vec![0xc7, 0x06, 8, 0, 0x00, 0x81, 0xc7, 0x06, 10, 0, 0, 0];
    let first = [prologue(0x6000), nmi_vector, start_other(), HLT.to_vec(), vec![0xeb, 0xfd]].concat();
    let second = [prologue(0x6800), wrmsr(0x830, 0x4400), vec![0xfa], HLT.to_vec()].concat();
    let mut machine = guest(&config(2), &[(CODE, first), (AP_CODE, second), (HANDLER, out32(0xf4, 3))]);
    assert_eq!(machine.run(10_000, &mut ()), Ended::DebugExit(3));
    assert_eq!(machine.counters().nmis, 1);
}
