//! How does the processor fetch and execute? And does it notice when code changes?

use crate::world::{CODE, CODE_0, INTERRUPT_GATE, Machine, PT, STACK};
use x86_emu::Ran;
use x86_state::{Gpr, SegmentRegister};

#[test]
fn an_instruction_executes_in_each_mode() {
    for mut machine in [Machine::real(), Machine::protected32(), Machine::paged32(), Machine::long64()] {
        machine.cpu().gpr[Gpr::Rax] = 3;
        machine.cpu().gpr[Gpr::Rcx] = 4;
        let rip = machine.cpu().rip;
        machine.attempt(&[0x00, 0xc8]).unwrap(); // ADD AL, CL
        assert_eq!(machine.gpr(Gpr::Rax), 7);
        assert_eq!(machine.cpu().rip, rip + 2);
    }
}

#[test]
fn a_loop_runs_in_blocks_and_counts_time() {
    let mut machine = Machine::long64();
    // MOV ECX, 100; again: ADD RAX, RCX; DEC ECX; JNZ again; HLT
    let code = [0xb9, 100, 0, 0, 0, 0x48, 0x01, 0xc8, 0xff, 0xc9, 0x75, 0xf9, 0xf4];
    assert_eq!(machine.run_program(&code), Ran::Asleep);
    assert_eq!(machine.gpr(Gpr::Rax), 5050);
    assert_eq!(machine.processor.state.tsc, 302);
}

#[test]
fn the_budget_is_exact() {
    let mut machine = Machine::long64();
    machine.load(CODE, &[0xff, 0xc0, 0xeb, 0xfc]); // INC EAX; JMP back
    for (budget, eax) in [(0, 0), (1, 1), (1, 1), (7, 5), (1000, 505)] {
        assert_eq!(machine.run(budget), Ran::Budget);
        assert_eq!(machine.gpr(Gpr::Rax), eax, "{budget}");
    }
}

#[test]
fn code_may_overwrite_the_next_instruction() {
    let mut machine = Machine::long64();
    // MOV BYTE PTR [RIP + 1], 7; MOV AL, 1; HLT
    assert_eq!(machine.run_program(&[0xc6, 0x05, 1, 0, 0, 0, 7, 0xb0, 1, 0xf4]), Ran::Asleep);
    assert_eq!(machine.gpr(Gpr::Rax), 7);
}

#[test]
fn code_that_was_executed_before_may_be_overwritten() {
    let mut machine = Machine::long64();
    // again: MOV AL, 1; ADD BL, AL; INC BYTE PTR [again + 1]; CMP BL, 10; JB again; HLT
    let mut code = vec![0xb0, 1, 0x00, 0xc3, 0xfe, 0x04, 0x25];
    code.extend((CODE as u32 + 1).to_le_bytes());
    code.extend([0x80, 0xfb, 10, 0x72, 0xf0, 0xf4]);
    assert_eq!(machine.run_program(&code), Ran::Asleep);
    assert_eq!(machine.gpr(Gpr::Rbx), 1 + 2 + 3 + 4);
}

#[test]
fn code_written_through_an_alias_is_noticed() {
    const ALIAS: u64 = 0x5_0000;
    let mut machine = Machine::long64();
    machine.set_u64(PT + 8 * (ALIAS >> 12), CODE | 3);
    // again: MOV AL, 1; ADD BL, AL; INC BYTE PTR [alias of again + 1]; CMP BL, 10; JB again; HLT
    let mut code = vec![0xb0, 1, 0x00, 0xc3, 0xfe, 0x04, 0x25];
    code.extend((ALIAS as u32 + 1).to_le_bytes());
    code.extend([0x80, 0xfb, 10, 0x72, 0xf0, 0xf4]);
    assert_eq!(machine.run_program(&code), Ran::Asleep);
    assert_eq!(machine.gpr(Gpr::Rbx), 1 + 2 + 3 + 4);
}

#[test]
fn one_page_of_code_serves_two_addresses() {
    const ALIAS: u64 = 0x5_0000;
    let mut machine = Machine::long64();
    machine.set_u64(PT + 8 * (ALIAS >> 12), CODE | 3);
    machine.load(CODE, &[0x48, 0x8d, 0x05, 0, 0, 0, 0, 0xeb, 0x00, 0xf4]); // LEA RAX, [RIP]; JMP to HLT; HLT
    for at in [CODE, ALIAS, CODE] {
        machine.cpu().rip = at;
        machine.processor.state.cpu.activity = x86_state::ActivityState::ACTIVE;
        assert_eq!(machine.run(100), Ran::Asleep);
        assert_eq!((machine.gpr(Gpr::Rax), machine.cpu().rip), (at + 7, at + 10));
    }
}

#[test]
fn an_instruction_in_two_pages_is_fetched_from_both() {
    let mut machine = Machine::long64();
    // The second half of MOV EAX, imm32 is in a page that lies elsewhere in memory.
    machine.set_u64(PT + 8 * ((CODE >> 12) + 1), 0x6_0000 | 3);
    machine.load(CODE + 0xffd, &[0xb8, 0x11, 0x22]);
    machine.load(0x6_0000, &[0x33, 0x44, 0xf4]);
    machine.cpu().rip = CODE + 0xffd;
    machine.run(1);
    assert_eq!(machine.gpr(Gpr::Rax), 0x4433_2211);
    // A write to either page counts.
    machine.load(0x6_0000, &[0x55]);
    machine.load(CODE + 0xffe, &[0x99]);
    machine.cpu().rip = CODE + 0xffd;
    assert_eq!(machine.run(2), Ran::Budget);
    assert_eq!(machine.gpr(Gpr::Rax), 0x4455_2299);
}

#[test]
fn a_fetch_that_fails_in_the_second_page_tells_its_address() {
    let mut machine = Machine::long64();
    machine.set_u64(PT + 8 * ((CODE >> 12) + 1), 0);
    machine.gate(14, CODE_0, 0x2_0000, INTERRUPT_GATE);
    machine.load(0x2_0000, &[0xf4]);
    machine.load(CODE + 0xffd, &[0xb8, 0x11, 0x22]);
    machine.cpu().rip = CODE + 0xffd;
    machine.run(10);
    assert_eq!(machine.cpu().cr2.0, CODE + 0x1000);
    assert_eq!(machine.u64(STACK - 40), CODE + 0xffd);
}

#[test]
fn an_instruction_that_ends_with_its_page_needs_no_other() {
    let mut machine = Machine::long64();
    machine.set_u64(PT + 8 * ((CODE >> 12) + 1), 0);
    machine.load(CODE + 0xffe, &[0xb0, 0x77]);
    machine.cpu().rip = CODE + 0xffe;
    machine.run(1);
    assert_eq!(machine.gpr(Gpr::Rax), 0x77);
}

#[test]
fn fifteen_bytes_are_an_instruction_and_sixteen_are_not() {
    for (count, faults) in [(14, false), (15, true)] {
        let mut machine = Machine::long64();
        let mut code = vec![0x66; count];
        code.push(0x90);
        let result = machine.attempt(&code);
        assert_eq!(result.is_err(), faults, "{count} prefixes");
        if let Err(x86_emu::Stop::Raise(raised)) = result {
            assert_eq!((raised.event.vector, raised.event.error_code), (13, Some(0)));
        }
    }
}

#[test]
fn the_limit_of_cs_holds_for_every_byte() {
    for (limit, faults) in [(CODE + 4, false), (CODE + 3, true)] {
        let mut machine = Machine::protected32();
        machine.cpu().segments[SegmentRegister::Cs].limit = limit as u32;
        let result = machine.attempt(&[0xb8, 1, 0, 0, 0]); // MOV EAX, 1
        assert_eq!(result.is_err(), faults, "{limit:#x}");
        // Decoded already, and still checked.
        machine.cpu().segments[SegmentRegister::Cs].limit = CODE as u32 + 3;
        machine.cpu().rip = CODE;
        assert!(machine.attempt(&[]).is_err());
    }
}

#[test]
fn the_code_size_belongs_to_what_is_kept() {
    let mut machine = Machine::protected32();
    machine.load(CODE, &[0xb8, 1, 0, 2, 0]); // MOV EAX, 0x20001; as 16-bit code: MOV AX, 1; ADD AL, [BX + SI]
    machine.run(1);
    assert_eq!(machine.gpr(Gpr::Rax), 0x2_0001);
    machine.cpu().segments[SegmentRegister::Cs].rights.0 &= !(1 << 14);
    machine.cpu().gpr[Gpr::Rax] = 0;
    machine.cpu().rip = CODE;
    machine.run(1);
    assert_eq!((machine.gpr(Gpr::Rax), machine.cpu().rip), (1, CODE + 3));
}

#[test]
fn an_unknown_instruction_is_invalid() {
    let mut machine = Machine::long64();
    // 0F 0B is UD2, 06 is PUSH ES, which 64-bit mode lacks.
    for code in [[0x0f, 0x0b], [0x06, 0x90]] {
        let Err(x86_emu::Stop::Raise(raised)) = machine.attempt(&code) else { panic!("{code:x?}") };
        assert_eq!(raised.event.vector, 6);
    }
}

#[test]
fn a_repeated_instruction_lets_interrupts_in_and_goes_on() {
    let mut machine = Machine::long64();
    machine.gate(0x40, CODE_0, 0x2_0000, INTERRUPT_GATE);
    machine.load(0x2_0000, &[0x48, 0x8b, 0x5c, 0x24, 0x10, 0x48, 0xcf]); // MOV RBX, [RSP + 16]; IRETQ
    machine.cpu().gpr[Gpr::Rcx] = 100_000;
    machine.cpu().gpr[Gpr::Rdi] = 0x10_0000;
    machine.cpu().gpr[Gpr::Rsi] = 0x10_0000;
    machine.load(CODE, &[0xfb, 0xf3, 0xa4, 0xf4]); // STI; REP MOVSB; HLT
    machine.run(2);
    assert_ne!(machine.gpr(Gpr::Rcx), 0);
    assert_eq!(machine.cpu().rip, CODE + 1);
    machine.world.raise_interrupt(0x40);
    assert_eq!(machine.run(1_000_000), Ran::Asleep);
    assert_eq!(machine.gpr(Gpr::Rcx), 0);
    assert_eq!(machine.gpr(Gpr::Rbx) >> 16 & 1, 1, "RF is set in the image between iterations");
}

/// Bytes that look random, from a seed.
pub(crate) fn noise(seed: u64) -> impl Iterator<Item = u8> {
    let mut state = seed.wrapping_mul(0x9e37_79b9_7f4a_7c15) | 1;
    std::iter::repeat_with(move || {
        state ^= state << 13;
        state ^= state >> 7;
        state ^= state << 17;
        (state >> 32) as u8
    })
}

/// Whatever stands in memory is executed without panic or endless loop; arithmetic is checked in test builds.
#[test]
fn noise_is_executed_in_every_mode() {
    for seed in 0..200 {
        for mut machine in [Machine::real(), Machine::protected32(), Machine::paged32(), Machine::long64()] {
            let bytes: Vec<u8> = noise(seed).take(0x1000).collect();
            machine.load(CODE, &bytes);
            for (register, value) in machine.cpu().gpr.0.iter_mut().zip(noise(!seed)) {
                *register = u64::from(value) << 12;
            }
            // Every exception goes to code in the noise.
            for vector in 0..32 {
                machine.gate(vector, CODE_0, CODE + 64 * u64::from(vector), INTERRUPT_GATE);
            }
            for n in 0..8 {
                machine.cpu().rip = if machine.cpu().cr0.contains(x86_state::Cr0::PE) { CODE } else { 0 } + n;
                machine.processor.state.cpu.activity = x86_state::ActivityState::ACTIVE;
                machine.run(300);
            }
        }
    }
}
