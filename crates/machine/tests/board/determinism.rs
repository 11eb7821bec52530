//! The same seed gives the same run, in another process too; another seed another interleaving.

use crate::support::*;
use softvirt_machine::{Config, CpuBus, Ended, Machine, Watch};
use std::process::Command;
use x86_emu::{Insn, State};
use x86_state::Event;

/// Writes down everything that can be seen.
#[derive(Default)]
struct Trace(String);

impl Watch for Trace {
    fn instruction(&mut self, cpu: usize, state: &State, insn: &Insn<CpuBus>) {
        self.0 += &format!("{cpu} {} {:#x} {:?} {:x?}\n", state.tsc, state.cpu.rip, insn.code, state.cpu.gpr.0);
    }

    fn delivered(&mut self, cpu: usize, _state: &State, event: &Event) {
        self.0 += &format!("{cpu} {event:?}\n");
    }

    fn serial(&mut self, byte: u8) {
        self.0 += &format!("serial {byte:#x}\n");
    }

    fn console(&mut self, byte: u8) {
        self.0 += &format!("console {byte:#x}\n");
    }
}

/// Four processors print their numbers as fast as they can, with a random number from RDRAND between, until 300 are out. The first one sends its
/// to the serial port as well, and has a periodic timer.
fn crowd(seed: u64) -> Machine {
    // Everybody but the sender: INIT, start-up.
    let start = [wrmsr(0x830, 0xc_4500), wrmsr(0x830, 0xc_4608)].concat();
    let timer = [wrmsr(0x832, 1 << 17 | u64::from(VECTOR)), wrmsr(0x83e, 0xb), wrmsr(0x838, 150)].concat();
    // JMP 0:WORK
    let to_work = vec![0xea, WORK as u8, (WORK >> 8) as u8, 0, 0];
    // STI
    let first = [prologue(0x6000), start, timer, vec![0xfb], to_work.clone()].concat();
    // The others share a stack that nobody uses: interrupts are off.
    let others = [prologue(0x6800), to_work].concat();
    let work = [
        rdmsr(0x802),
        // ADD AL, '0'; OUT 0xE9, AL; MOV DX, 0x3F8; CMP AL, '0'; JNE +1; OUT DX, AL
        vec![0x04, b'0', 0xe6, 0xe9, 0xba, 0xf8, 3, 0x3c, b'0', 0x75, 1, 0xee],
        // RDRAND CX; AND CX, 15; INC CX; LOOP itself
        vec![0x0f, 0xc7, 0xf1, 0x83, 0xe1, 15, 0x41, 0xe2, 0xfe],
        // MOV AX, 1; LOCK XADD [0x600], AX; CMP AX, 300; JB +9 (over the exit)
        vec![0xb8, 1, 0, 0xf0, 0x0f, 0xc1, 0x06, 0, 6, 0x3d, 0x2c, 1, 0x72, 9],
        out32(0xf4, 0),
    ]
    .concat();
    let back = 0_u8.wrapping_sub(work.len() as u8 + 2);
    let work = [work, vec![0xeb, back]].concat();
    // PUSHAD; EOI; POPAD; IRET
    let handler = [vec![0x66, 0x60], wrmsr(0x80b, 0), vec![0x66, 0x61, 0xcf]].concat();
    let config = Config { seed, ..config(4) };
    guest(&config, &[(CODE, first), (AP_CODE, others), (HANDLER, handler), (WORK, work)])
}

/// Where the work is.
const WORK: u64 = 0x8200;

fn story(seed: u64) -> (String, String) {
    let mut machine = crowd(seed);
    let mut trace = Trace::default();
    let ended = machine.run(1_000_000, &mut trace);
    assert_eq!(ended, Ended::DebugExit(0));
    let console = String::from_utf8(machine.console().to_vec()).unwrap();
    let lines = trace.0.lines().count();
    let serial = machine.serial();
    let summary = format!("{lines} {:016x} {console} {serial:?} {:016x}", hash(&trace.0), machine.digest());
    (summary, console)
}

fn hash(text: &str) -> u64 {
    text.bytes().fold(0xcbf2_9ce4_8422_2325, |hash: u64, byte| (hash ^ u64::from(byte)).wrapping_mul(0x0100_0000_01b3))
}

const SEED: &str = "SOFTVIRT_MACHINE_TEST_SEED";

/// Not a test: what the other process does, which has the variable.
#[test]
fn child() {
    if let Ok(seed) = std::env::var(SEED) {
        println!("\nstory {}", story(seed.parse().unwrap()).0);
    }
}

fn in_another_process(seed: u64) -> String {
    let output = Command::new(std::env::current_exe().unwrap())
        .args(["--exact", "determinism::child", "--nocapture"])
        .env(SEED, seed.to_string())
        .output()
        .unwrap();
    let text = String::from_utf8(output.stdout).unwrap();
    text.lines().find_map(|line| line.strip_prefix("story ")).unwrap().to_string()
}

#[test]
fn two_processes_with_one_seed_see_the_same_trace_output_and_final_state() {
    let here = story(7).0;
    assert_eq!(in_another_process(7), here);
    assert_eq!(in_another_process(7), here);
}

#[test]
fn another_seed_gives_another_interleaving_of_all_processors() {
    let (_, first) = story(1);
    let (_, second) = story(2);
    assert_ne!(first, second);
    for console in [first, second] {
        for digit in "0123".chars() {
            assert!(console.matches(digit).count() > 20, "{console}");
        }
    }
}

#[test]
fn a_run_in_pieces_is_the_same_run() {
    let mut whole = crowd(3);
    let mut expected = Trace::default();
    assert_eq!(whole.run(1_000_000, &mut expected), Ended::DebugExit(0));
    let mut machine = crowd(3);
    let mut trace = Trace::default();
    let mut pieces = 0;
    while machine.run(77, &mut trace) == Ended::Limit {
        pieces += 1;
    }
    assert!(pieces > 20, "{pieces}");
    // When output is told depends on where the pieces end; what it is does not.
    let told = |line: &&str| !line.starts_with("serial") && !line.starts_with("console");
    assert!(trace.0.lines().filter(told).eq(expected.0.lines().filter(told)));
    assert_eq!((machine.serial(), machine.console()), (whole.serial(), whole.console()));
    assert_eq!(machine.digest(), whole.digest());
}

#[test]
fn the_digest_sees_memory_registers_and_devices() {
    let digest = |code: &[u8]| {
        let (machine, _) = run(&[code, &[0xfa], &HLT]);
        machine.digest()
    };
    // The same instructions in number; one changes a register, memory, a device.
    let same = digest(&[0x90, 0x90]);
    assert_eq!(same, digest(&[0x90, 0x90]));
    assert_ne!(same, digest(&[0x40, 0x90]));
    assert_ne!(digest(&[0xb0, 1, 0xe6, 0xe0]), digest(&[0xb0, 1, 0xe6, 0xe1]));
}
