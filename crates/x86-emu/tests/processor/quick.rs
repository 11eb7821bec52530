//! What is remembered to be fast changes nothing: neither blocks, nor the translations used last, nor time that is counted by block.

use crate::world::{CODE, CODE_0, INTERRUPT_GATE, Machine, PT, PT_32, RAM_BYTES};
use softvirt_ept::Retention;
use x86_emu::Ran;
use x86_state::{Cr0, Gpr, Hpa, PhysMemory};

/// Data of the tests.
const DATA: u64 = 0x4_0000;
const RW: u64 = 3;
const READ_ONLY: u64 = 1;

/// Everything that a program can see, as text to be compared.
fn visible(machine: &mut Machine) -> String {
    machine.rflags();
    let memory = (0..RAM_BYTES).step_by(8).fold(0_u64, |hash, at| {
        (hash ^ machine.world.read_u64(Hpa(at))).wrapping_mul(0x0100_0000_01b3).rotate_left(17)
    });
    let state = &machine.processor.state;
    format!("{:#?} {} {} {memory:#x}", state.cpu, state.tsc, state.between_iterations)
}

/// A machine full of noise, some of it aimed at itself.
fn noisy(mode: fn() -> Machine, seed: u64) -> Machine {
    let mut machine = mode();
    let bytes: Vec<u8> = crate::execution::noise(seed).take(0x1000).collect();
    machine.load(CODE, &bytes);
    for (register, value) in machine.cpu().gpr.0.iter_mut().zip(crate::execution::noise(!seed)) {
        *register = if value & 1 == 0 { CODE + u64::from(value) } else { u64::from(value) << 12 };
    }
    for vector in 0..32 {
        machine.gate(vector, CODE_0, CODE + 64 * u64::from(vector), INTERRUPT_GATE);
    }
    machine
}

#[test]
fn noise_runs_in_blocks_as_it_does_step_by_step() {
    const STEPS: u64 = 400;
    for seed in 1000..1060 {
        for mode in [Machine::real, Machine::protected32, Machine::paged32, Machine::long64] {
            let mut machines = [0; 3].map(|_| noisy(mode, seed));
            let [blocks, steps, forgetful] = &mut machines;
            blocks.run(STEPS);
            for _ in 0..STEPS {
                steps.run(1);
            }
            // Without anything that is remembered.
            for _ in 0..STEPS {
                forgetful.processor.caches.changed();
                forgetful.run(1);
            }
            let [blocks, steps, forgetful] = machines.each_mut().map(visible);
            assert_eq!(blocks, steps, "{seed}");
            assert_eq!(blocks, forgetful, "{seed}");
        }
    }
}

#[test]
fn a_budget_may_end_within_a_block() {
    // INC EAX four times; HLT
    let code = [0xff, 0xc0, 0xff, 0xc0, 0xff, 0xc0, 0xff, 0xc0, 0xf4];
    for budget in 0..5 {
        let mut machine = Machine::long64();
        machine.load(CODE, &code);
        assert_eq!(machine.run(budget), Ran::Budget);
        assert_eq!((machine.gpr(Gpr::Rax), machine.cpu().rip), (budget, CODE + 2 * budget));
        assert_eq!(machine.processor.state.tsc, budget);
    }
}

#[test]
fn a_fault_within_a_block_tells_the_time_and_the_instruction() {
    let mut machine = Machine::long64();
    machine.gate(0, CODE_0, 0x2_0000, INTERRUPT_GATE);
    machine.load(0x2_0000, &[0x0f, 0x31, 0x5b, 0xf4]); // RDTSC; POP RBX; HLT
    // INC ECX; INC ECX; XOR ECX, ECX; DIV ECX
    assert_eq!(machine.run_program(&[0xff, 0xc1, 0xff, 0xc1, 0x31, 0xc9, 0xf7, 0xf1]), Ran::Asleep);
    assert_eq!(machine.gpr(Gpr::Rbx), CODE + 6);
    // Three instructions and the attempt.
    assert_eq!(machine.gpr(Gpr::Rax), 4);
}

#[test]
fn the_time_is_right_within_a_block() {
    let mut machine = Machine::long64();
    // INC ECX; INC ECX; RDTSC; MOV EBX, EAX; INC ECX; RDTSC; HLT
    let code = [0xff, 0xc1, 0xff, 0xc1, 0x0f, 0x31, 0x89, 0xc3, 0xff, 0xc1, 0x0f, 0x31, 0xf4];
    assert_eq!(machine.run_program(&code), Ran::Asleep);
    assert_eq!((machine.gpr(Gpr::Rbx), machine.gpr(Gpr::Rax)), (2, 5));
}

#[test]
fn a_device_is_reached_at_the_right_time() {
    let mut machine = Machine::protected32();
    // INC ECX; INC ECX; ADD EAX, [0x300000]; INC ECX; MOV EBX, [0x300000]; HLT
    let code = [0x41, 0x41, 0x03, 0x05, 0, 0, 0x30, 0, 0x41, 0x8b, 0x1d, 0, 0, 0x30, 0, 0xf4];
    machine.cpu().gpr[Gpr::Rax] = 3;
    assert_eq!(machine.run_program(&code), Ran::Asleep);
    assert_eq!(*machine.world.reached.borrow(), [2, 4]);
    assert_eq!((machine.gpr(Gpr::Rax), machine.processor.state.tsc), (2, 6));
}

/// MOV RAX, [DATA]; MOV [DATA + 8], RAX; HLT
const COPY: [u8; 17] = [0x48, 0x8b, 0x04, 0x25, 0, 0, 4, 0, 0x48, 0x89, 0x04, 0x25, 8, 0, 4, 0, 0xf4];

fn run_again(machine: &mut Machine, at: u64) {
    machine.cpu().rip = at;
    machine.processor.state.cpu.activity = x86_state::ActivityState::ACTIVE;
    assert_eq!(machine.run(100), Ran::Asleep);
}

#[test]
fn invlpg_is_heeded_by_reads_and_writes() {
    const ELSEWHERE: u64 = 0x6_0000;
    let mut machine = Machine::long64();
    machine.set_u64(DATA, 1);
    machine.set_u64(ELSEWHERE, 2);
    machine.load(CODE, &COPY);
    machine.load(0x2_0000, &[0x0f, 0x01, 0x3c, 0x25, 0, 0, 4, 0, 0xf4]); // INVLPG [DATA]; HLT
    for _ in 0..3 {
        run_again(&mut machine, CODE);
    }
    machine.set_u64(PT + 8 * (DATA >> 12), ELSEWHERE | RW);
    // The TLB does not know yet.
    run_again(&mut machine, CODE);
    assert_eq!((machine.gpr(Gpr::Rax), machine.u64(ELSEWHERE + 8)), (1, 0));
    run_again(&mut machine, 0x2_0000);
    run_again(&mut machine, CODE);
    assert_eq!((machine.gpr(Gpr::Rax), machine.u64(ELSEWHERE + 8)), (2, 2));
}

#[test]
fn a_page_fault_forgets_where_the_page_was_fetched_from() {
    const SHARED: u64 = 0x3_0000;
    const COPY_OF_IT: u64 = 0x6_0000;
    let mut machine = Machine::long64();
    machine.load(SHARED, &[0xb0, 1, 0xc3]); // MOV AL, 1; RET
    machine.load(COPY_OF_IT, &[0xb0, 2, 0xc3]); // MOV AL, 2; RET
    let entry = PT + 8 * (SHARED >> 12);
    machine.set_u64(entry, SHARED | READ_ONLY);
    machine.gate(14, CODE_0, 0x2_0000, INTERRUPT_GATE);
    // ADD RSP, 8; MOV QWORD PTR [entry], COPY_OF_IT | RW; IRETQ: no INVLPG, since the fault has done it (SDM 3A 4.10.4.1).
    let mut handler = vec![0x48, 0x83, 0xc4, 8, 0x48, 0xc7, 0x04, 0x25];
    handler.extend((entry as u32).to_le_bytes());
    handler.extend((COPY_OF_IT as u32 | RW as u32).to_le_bytes());
    handler.extend([0x48, 0xcf]);
    machine.load(0x2_0000, &handler);
    // CALL SHARED; MOV EBX, EAX; MOV [SHARED + 0x100], EAX; CALL SHARED; HLT
    let code = [0xe8, 0xfb, 0xff, 1, 0, 0x89, 0xc3, 0x89, 0x04, 0x25, 0, 1, 3, 0, 0xe8, 0xed, 0xff, 1, 0, 0xf4];
    assert_eq!(machine.run_program(&code), Ran::Asleep);
    assert_eq!((machine.gpr(Gpr::Rbx) & 0xff, machine.gpr(Gpr::Rax) & 0xff), (1, 2));
}

#[test]
fn reading_a_page_often_does_not_allow_writing_to_it() {
    let mut machine = Machine::long64();
    machine.gate(14, CODE_0, 0x2_0000, INTERRUPT_GATE);
    machine.load(0x2_0000, &[0xf4]);
    machine.set_u64(PT + 8 * (DATA >> 12), DATA | READ_ONLY);
    // MOV ECX, 100; again: MOV RAX, [DATA]; DEC ECX; JNZ again; MOV [DATA], RAX
    let code = [
        0xb9, 100, 0, 0, 0, 0x48, 0x8b, 0x04, 0x25, 0, 0, 4, 0, 0xff, 0xc9, 0x75, 0xf4, 0x48, 0x89, 0x04, 0x25, 0, 0,
        4, 0,
    ];
    assert_eq!(machine.run_program(&code), Ran::Asleep);
    assert_eq!((machine.cpu().rip, machine.cpu().cr2.0), (0x2_0001, DATA));
}

#[test]
fn write_protection_that_is_switched_on_is_heeded() {
    let mut machine = Machine::long64();
    machine.gate(14, CODE_0, 0x2_0000, INTERRUPT_GATE);
    machine.load(0x2_0000, &[0xf4]);
    machine.cpu().cr0.remove(Cr0::WP);
    machine.processor.caches.changed();
    machine.set_u64(PT + 8 * (DATA >> 12), DATA | READ_ONLY);
    machine.load(CODE, &COPY);
    for _ in 0..3 {
        run_again(&mut machine, CODE);
        assert_eq!(machine.cpu().rip, CODE + 17);
    }
    // MOV RDX, CR0; BTS RDX, 16; MOV CR0, RDX; MOV [DATA + 8], RAX; HLT
    machine.load(CODE + 0x20, &[0x0f, 0x20, 0xc2, 0x48, 0x0f, 0xba, 0xea, 16, 0x0f, 0x22, 0xc2]);
    machine.load(CODE + 0x2b, &COPY[8..]);
    run_again(&mut machine, CODE + 0x20);
    assert_eq!(machine.cpu().rip, 0x2_0001);
}

#[test]
fn a_supervisor_page_stays_closed_to_the_user() {
    let mut machine = Machine::long64();
    machine.gate(14, CODE_0, 0x2_0000, INTERRUPT_GATE);
    machine.load(0x2_0000, &[0xf4]);
    machine.set_u64(PT + 8 * (DATA >> 12), DATA | RW);
    machine.load(CODE, &COPY);
    for _ in 0..3 {
        run_again(&mut machine, CODE);
    }
    machine.enter_user();
    run_again(&mut machine, CODE);
    assert_eq!((machine.cpu().rip, machine.cpu().cr2.0), (0x2_0001, DATA));
}

#[test]
fn a_page_of_data_may_become_code_and_be_written_again() {
    let mut machine = Machine::long64();
    // again: MOV [DATA], AL four times; CALL DATA; INC BYTE PTR [DATA + 1]; DEC ECX; JNZ again; HLT. DATA: MOV BL, imm8; ADD RDX, RBX; RET
    machine.load(DATA, &[0xb3, 0, 0x48, 0x01, 0xda, 0xc3]);
    machine.cpu().gpr[Gpr::Rax] = 0xb3;
    machine.cpu().gpr[Gpr::Rdx] = 0;
    machine.cpu().gpr[Gpr::Rcx] = 20;
    let mut code = Vec::new();
    for _ in 0..4 {
        code.extend([0x88, 0x04, 0x25, 0, 0, 4, 0]);
    }
    let call = DATA.wrapping_sub(CODE + code.len() as u64 + 5) as u32;
    code.push(0xe8);
    code.extend(call.to_le_bytes());
    code.extend([0xfe, 0x04, 0x25, 1, 0, 4, 0, 0xff, 0xc9]);
    let back = (-(code.len() as i64) - 2) as i8 as u8;
    code.extend([0x75, back, 0xf4]);
    assert_eq!(machine.run_program(&code), Ran::Asleep);
    assert_eq!(machine.gpr(Gpr::Rdx), (0..20).sum::<u64>());
}

#[test]
fn a_block_that_overwrites_its_own_later_instruction_executes_the_new_one() {
    for distance in [0, 2, 6] {
        let mut machine = Machine::long64();
        // MOV BYTE PTR [RIP + distance + 1], 7; INC ECX as often as the distance; MOV AL, 1; HLT
        let mut code = vec![0xc6, 0x05, distance + 1, 0, 0, 0, 7];
        for _ in 0..distance / 2 {
            code.extend([0xff, 0xc1]);
        }
        code.extend([0xb0, 1, 0xf4]);
        for _ in 0..2 {
            machine.load(CODE, &code);
            run_again(&mut machine, CODE);
            assert_eq!(machine.gpr(Gpr::Rax), 7, "{distance}");
        }
    }
}

/// Every access is as if nothing were remembered, although most need no walk: a processor that really forgets everything before each
/// instruction comes to the same.
#[test]
fn strict_translations_follow_tables_that_noise_overwrites() {
    const STEPS: u64 = 300;
    let mut tables_changed = 0;
    for seed in 2000..2200 {
        for (mode, table) in [(Machine::paged32 as fn() -> Machine, PT_32), (Machine::long64, PT)] {
            let mut machines = [0; 2].map(|_| {
                let mut machine = noisy(mode, seed);
                for (register, value) in machine.cpu().gpr.0.iter_mut().zip(crate::execution::noise(seed ^ 0x5555)) {
                    // The entries of the pages with the program, and those around them.
                    *register = table + (CODE >> 9) + 8 * u64::from(value & 15);
                }
                machine.strict();
                machine
            });
            let [blocks, forgetful] = &mut machines;
            blocks.run(STEPS);
            for _ in 0..STEPS {
                forgetful.processor.caches.changed();
                forgetful.run(1);
            }
            let untouched = noisy(mode, seed);
            tables_changed +=
                u32::from((0..512).any(|n| untouched.u64(table + 8 * n) | 0x60 != blocks.u64(table + 8 * n) | 0x60));
            let [blocks, forgetful] = machines.each_mut().map(visible);
            assert_eq!(blocks, forgetful, "{seed}");
        }
    }
    assert!(tables_changed > 100, "only {tables_changed} programs have changed their tables");
}

#[test]
fn retention_decides_whether_a_changed_table_counts_at_once() {
    let mut machine = Machine::long64();
    machine.strict();
    machine.set_u64(DATA, 1);
    machine.load(CODE, &COPY);
    for _ in 0..3 {
        run_again(&mut machine, CODE);
    }
    machine.set_u64(PT + 8 * (DATA >> 12), 0x6_0000 | RW);
    run_again(&mut machine, CODE);
    assert_eq!(machine.gpr(Gpr::Rax), 0, "with {:?} a changed table counts at once", Retention::Strict);
    let mut machine = Machine::long64();
    machine.set_u64(DATA, 1);
    machine.load(CODE, &COPY);
    for _ in 0..3 {
        run_again(&mut machine, CODE);
    }
    machine.set_u64(PT + 8 * (DATA >> 12), 0x6_0000 | RW);
    run_again(&mut machine, CODE);
    assert_eq!(machine.gpr(Gpr::Rax), 1, "with {:?} it does not without an invalidation", Retention::Lazy);
}
