//! Shadow stacks in far transfers, events, returns, system calls and task switches.

use crate::cet_shadow_stack::{ON, SHADOW, SSP, SUPERVISOR_PAGE, USER_PAGE, supervisor, supervisor_32, user};
use crate::world::{
    CODE, CODE_0, CODE_3, CODE32_0, DATA_0, DATA_3, GDT, INTERRUPT_GATE, Machine, PT, PT_32, STACK, STACK_0, TASK, TSS,
    descriptor, fault,
};
use x86_state::{Cr4, Exception, Gpr, Rflags, SegmentRegister};

const HANDLER: u64 = 0x2_0000;
/// The supervisor's shadow stack, in transfers between levels: the token is the last of 32 aligned bytes.
const PAGE_0: u64 = 0xb_0000;
const TOKEN: u64 = PAGE_0 + 0x7f8;
const BUSY: u64 = 1;
const GP: (Exception, Option<u32>) = (Exception::GP, Some(0));
const FAR: (Exception, Option<u32>) = (Exception::CP, Some(2));

/// Level 3 with a shadow stack, and one of level 0 behind IA32_PL0_SSP.
fn user_and_supervisor() -> Machine {
    let mut machine = user();
    machine.set_u64(PT + 8 * (PAGE_0 >> 12), PAGE_0 | SUPERVISOR_PAGE);
    machine.set_u64(TOKEN, TOKEN);
    machine.cpu().cet.s_cet = ON;
    machine.cpu().cet.pl_ssp[0] = TOKEN;
    machine
}

fn frame(machine: &Machine, at: u64) -> [u64; 3] {
    [16, 8, 0].map(|offset| machine.u64(at + offset))
}

#[test]
fn an_event_within_a_level_pushes_cs_lip_and_ssp() {
    let mut machine = supervisor();
    machine.gate(0x80, CODE_0, HANDLER, INTERRUPT_GATE);
    machine.load(CODE, &[0xcd, 0x80]);
    machine.load(HANDLER, &[0x48, 0xcf]);
    machine.step();
    assert_eq!(machine.cpu().cet.ssp, SSP - 24);
    assert_eq!(frame(&machine, SSP - 24), [CODE_0.into(), CODE + 2, SSP]);
    machine.step();
    assert_eq!((machine.cpu().rip, machine.cpu().cet.ssp), (CODE + 2, SSP), "IRET pops it");
}

#[test]
fn a_frame_is_aligned_above_a_hole_of_zeros() {
    let mut machine = supervisor();
    machine.cpu().cet.ssp = SSP - 4;
    machine.set_u64(SSP - 8, u64::MAX);
    machine.gate(6, CODE_0, HANDLER, INTERRUPT_GATE);
    machine.load(CODE, &[0x0f, 0x0b]);
    machine.load(HANDLER, &[0x48, 0xcf]);
    machine.step();
    assert_eq!((machine.cpu().cet.ssp, machine.u64(SSP - 8)), (SSP - 32, 0xffff_ffff_0000_0000));
    assert_eq!(frame(&machine, SSP - 32), [CODE_0.into(), CODE, SSP - 4]);
    machine.step();
    assert_eq!((machine.cpu().rip, machine.cpu().cet.ssp), (CODE, SSP - 4));
}

#[test]
fn an_event_from_level_3_takes_the_token_and_its_return_frees_it() {
    let mut machine = user_and_supervisor();
    machine.gate(6, CODE_0, HANDLER, INTERRUPT_GATE);
    machine.load(CODE, &[0x0f, 0x0b]);
    machine.load(HANDLER, &[0x48, 0xcf]);
    machine.step();
    let cet = machine.cpu().cet;
    assert_eq!((cet.ssp, cet.pl_ssp[3], machine.u64(TOKEN)), (TOKEN, SSP, TOKEN | BUSY));
    machine.step();
    let cet = machine.cpu().cet;
    assert_eq!((machine.cpu().cpl(), cet.ssp, machine.u64(TOKEN)), (3, SSP, TOKEN));
}

#[test]
fn an_event_from_a_level_between_pushes_a_frame_above_which_the_token_stands() {
    let mut machine = user_and_supervisor();
    // Level 1: code 0x51, data 0x59.
    machine.set_u64(GDT + 0x50, 0x00af_bb00_0000_ffff);
    machine.set_u64(PT + 8 * (SHADOW >> 12), SHADOW | SUPERVISOR_PAGE);
    let cpu = machine.cpu();
    cpu.segments[SegmentRegister::Cs].selector.0 = 0x51;
    cpu.segments[SegmentRegister::Cs].rights.0 = 0xa0bb;
    cpu.segments[SegmentRegister::Ss].selector.0 = 1;
    cpu.segments[SegmentRegister::Ss].rights.0 = 1 << 16 | 1 << 5;
    machine.processor.caches.changed();
    machine.gate(6, CODE_0, HANDLER, INTERRUPT_GATE);
    machine.load(CODE, &[0x0f, 0x0b]);
    machine.load(HANDLER, &[0x48, 0xcf]);
    machine.step();
    assert_eq!((machine.cpu().cet.ssp, machine.u64(TOKEN)), (TOKEN - 24, TOKEN | BUSY));
    assert_eq!(frame(&machine, TOKEN - 24), [0x51, CODE, SSP]);
    machine.step();
    assert_eq!((machine.cpu().cpl(), machine.cpu().cet.ssp, machine.u64(TOKEN)), (1, SSP, TOKEN));
}

#[test]
fn what_is_wrong_with_a_token_is_a_general_protection_fault() {
    for (name, ssp, token) in [
        ("busy", TOKEN, TOKEN | BUSY),
        ("of another address", TOKEN, TOKEN + 32),
        ("a reserved bit", TOKEN, TOKEN | 2),
        ("not aligned to 8 bytes", TOKEN + 4, TOKEN + 4),
        ("frame in another 32 bytes", TOKEN - 8, TOKEN - 8),
    ] {
        let mut machine = user_and_supervisor();
        machine.set_u64(ssp & !7, token);
        machine.cpu().cet.pl_ssp[0] = ssp;
        machine.gate(0x80, CODE_0, HANDLER, INTERRUPT_GATE | 0x60);
        machine.load(CODE, &[0xcd, 0x80]);
        // #GP meets the same token: a double fault, and then a triple one.
        machine.gate(13, CODE_0, HANDLER, INTERRUPT_GATE);
        machine.step();
        assert_eq!(machine.processor.state.cpu.activity, x86_state::ActivityState::SHUTDOWN, "{name}");
        assert_eq!(machine.u64(ssp & !7), token, "{name}");
    }
}

/// The table of shadow stacks that belongs to the interrupt-stack table.
const TABLE: u64 = 0x4_0000;

/// A gate for vector 0x80 by IST entry 1, with the stack 0x7_0000 and the shadow stack at `TOKEN`.
fn by_table(machine: &mut Machine) {
    machine.set_u64(TSS + 0x24, 0x7_0000);
    machine.cpu().cet.interrupt_ssp_table_addr = TABLE;
    machine.set_u64(TABLE + 8, TOKEN);
    machine.set_u64(PT + 8 * (PAGE_0 >> 12), PAGE_0 | SUPERVISOR_PAGE);
    machine.set_u64(TOKEN, TOKEN);
    machine.gate(0x80, CODE_0, HANDLER, INTERRUPT_GATE | 0x60);
    machine.load(crate::world::IDT + 16 * 0x80 + 4, &[1]);
    machine.load(CODE, &[0xcd, 0x80]);
    machine.load(HANDLER, &[0x48, 0xcf]);
}

#[test]
fn the_interrupt_stack_table_has_a_table_of_shadow_stacks_beside_it() {
    let mut machine = supervisor();
    by_table(&mut machine);
    machine.step();
    assert_eq!((machine.cpu().cet.ssp, machine.u64(TOKEN)), (TOKEN - 24, TOKEN | BUSY));
    assert_eq!(frame(&machine, TOKEN - 24), [CODE_0.into(), CODE + 2, SSP]);
    machine.step();
    // IRET within the level has come from another stack: it frees the token.
    assert_eq!((machine.cpu().cet.ssp, machine.u64(TOKEN), machine.cpu().rip), (SSP, TOKEN, CODE + 2));

    let mut machine = user();
    machine.cpu().cet.s_cet = ON;
    by_table(&mut machine);
    machine.step();
    let cet = machine.cpu().cet;
    assert_eq!((cet.ssp, cet.pl_ssp[3], machine.u64(TOKEN)), (TOKEN, SSP, TOKEN | BUSY));
    machine.step();
    assert_eq!((machine.cpu().cet.ssp, machine.u64(TOKEN), machine.cpu().cpl()), (SSP, TOKEN, 3));
}

/// CALL m16:32 through a pointer at 0x3_0000, in 64-bit mode.
fn call_far(machine: &mut Machine, selector: u16, offset: u32) -> [u8; 7] {
    machine.set_u32(0x3_0000, offset);
    machine.set_u16(0x3_0004, selector);
    [0xff, 0x1c, 0x25, 0x00, 0x00, 0x03, 0x00]
}

#[test]
fn far_calls_and_returns_within_a_level_use_frames() {
    let mut machine = supervisor();
    let code = call_far(&mut machine, CODE_0, HANDLER as u32);
    machine.attempt(&code).unwrap();
    assert_eq!(frame(&machine, SSP - 24), [CODE_0.into(), CODE + 7, SSP]);
    assert_eq!(machine.cpu().cet.ssp, SSP - 24);
    machine.attempt(&[0xcb]).unwrap();
    assert_eq!((machine.cpu().rip, machine.cpu().cet.ssp), (CODE + 7, SSP));
}

#[test]
fn a_far_frame_holds_the_linear_address() {
    let mut machine = supervisor_32();
    machine.set_u64(GDT + 0x50, 0x00cf_9b01_0000_ffff); // code with base 0x10000
    machine.cpu().segments[SegmentRegister::Cs].base = 0x1_0000;
    machine.cpu().segments[SegmentRegister::Cs].selector.0 = 0x50;
    machine.cpu().rip = 0;
    machine.processor.caches.changed();
    machine.attempt(&[0x9a, 0x00, 0x00, 0x02, 0x00, CODE_0 as u8, 0x00]).unwrap();
    assert_eq!(frame(&machine, SSP - 24), [0x50, 0x1_0007, SSP]);
    machine.attempt(&[0xcb]).unwrap();
    assert_eq!((machine.cpu().rip, machine.cpu().cet.ssp), (7, SSP));
}

#[test]
fn frames_that_do_not_match_refuse_far_returns() {
    let good = [u64::from(CODE_0), HANDLER, SSP];
    for (name, ssp, [cs, lip, previous], expected) in [
        ("CS", SSP - 24, [u64::from(CODE32_0), HANDLER, SSP], FAR),
        ("bits of CS beyond 15", SSP - 24, [1 << 16 | u64::from(CODE_0), HANDLER, SSP], FAR),
        ("LIP", SSP - 24, [good[0], HANDLER + 1, SSP], FAR),
        ("an SSP that is not aligned to 4 bytes", SSP - 24, [good[0], HANDLER, SSP + 2], FAR),
        ("an SSP that is not canonical", SSP - 24, [good[0], HANDLER, 0x8000_0000_0000], GP),
        ("SSP not aligned to 8 bytes", SSP - 28, good, FAR),
    ] {
        for code in [&[0x48, 0xcb][..], &[0x48, 0xcf]] {
            let mut machine = supervisor();
            for (value, at) in [HANDLER, CODE_0.into(), 2, STACK, DATA_0.into()].into_iter().zip((STACK..).step_by(8)) {
                machine.set_u64(at, value);
            }
            machine.set_u64(SSP - 8, cs);
            machine.set_u64(SSP - 16, lip);
            machine.set_u64(SSP - 24, previous);
            machine.cpu().cet.ssp = ssp;
            let before = *machine.cpu();
            assert_eq!(fault(machine.attempt(code)), expected, "{name}");
            assert_eq!(*machine.cpu(), before, "{name}");
        }
    }
}

#[test]
fn a_return_to_an_outer_level_without_a_busy_token_goes_on() {
    let mut machine = user_and_supervisor();
    machine.cpu().segments[SegmentRegister::Ss].rights.0 &= !0x60;
    machine.cpu().segments[SegmentRegister::Cs].rights.0 &= !0x60;
    machine.processor.caches.changed();
    machine.cpu().cet.ssp = TOKEN;
    machine.cpu().cet.pl_ssp[3] = SSP;
    for (value, at) in [HANDLER, CODE_3.into(), 2, STACK, DATA_3.into()].into_iter().zip((STACK..).step_by(8)) {
        machine.set_u64(at, value);
    }
    machine.attempt(&[0x48, 0xcf]).unwrap();
    assert_eq!((machine.cpu().cet.ssp, machine.u64(TOKEN)), (SSP, TOKEN));
}

#[test]
fn a_shadow_stack_above_4_gbytes_stays_with_64_bit_code() {
    let mut machine = supervisor();
    machine.cpu().cet.ssp = 0x1_0000_0000;
    let call = call_far(&mut machine, CODE32_0, HANDLER as u32);
    assert_eq!(fault(machine.attempt(&call)), GP);
    let mut jump = call;
    jump[1] = 0x2c;
    assert_eq!(fault(machine.attempt(&jump)), GP);
    machine.set_u16(0x3_0004, CODE_0);
    machine.attempt(&jump).unwrap();
    // And a return to compatibility mode does not bring one.
    let mut machine = supervisor();
    machine.set_u64(STACK, HANDLER);
    machine.set_u64(STACK + 8, CODE32_0.into());
    machine.set_u64(SSP, 0x1_0000_0000);
    machine.set_u64(SSP + 8, HANDLER);
    machine.set_u64(SSP + 16, CODE32_0.into());
    assert_eq!(fault(machine.attempt(&[0x48, 0xcb])), GP);
}

#[test]
fn a_call_gate_to_an_inner_level_takes_the_token() {
    let mut machine = user_and_supervisor();
    machine.set_u64(GDT + 0x50, 0x0002_ec00_0008_0000);
    let code = call_far(&mut machine, 0x53, 0);
    machine.attempt(&code).unwrap();
    let cet = machine.cpu().cet;
    assert_eq!((machine.cpu().rip, cet.ssp, cet.pl_ssp[3]), (HANDLER, TOKEN, SSP));
    assert_eq!(machine.u64(TOKEN), TOKEN | BUSY);
    machine.attempt(&[0x48, 0xcb]).unwrap();
    assert_eq!((machine.cpu().rip, machine.cpu().cet.ssp, machine.u64(TOKEN)), (CODE + 7, SSP, TOKEN));
}

#[test]
fn a_fault_behind_which_a_gate_is_taken_again_finds_the_token_free() {
    let mut machine = user_and_supervisor();
    machine.set_u64(GDT + 0x50, 0x0002_ec00_0008_0000);
    machine.set_u64(TSS + 4, 0x5_0000);
    machine.set_u64(PT + 8 * 0x4f, 0);
    let code = call_far(&mut machine, 0x53, 0);
    let before = *machine.cpu();
    assert_eq!(fault(machine.attempt(&code)).0, Exception::PF);
    assert_eq!((*machine.cpu(), machine.u64(TOKEN)), (before, TOKEN));
}

#[test]
fn system_calls_keep_the_users_ssp_and_clear_it() {
    for (call, back) in [(&[0x0f, 0x05][..], &[0x48, 0x0f, 0x07][..]), (&[0x0f, 0x34], &[0x48, 0x0f, 0x35])] {
        let mut machine = user_and_supervisor();
        let cpu = machine.cpu();
        cpu.star = 0x0020_0008_0000_0000;
        cpu.lstar = HANDLER;
        cpu.sysenter_cs = 8;
        cpu.sysenter_eip = HANDLER;
        cpu.gpr[Gpr::Rdx] = CODE;
        machine.attempt(call).unwrap();
        let cet = machine.cpu().cet;
        assert_eq!((cet.ssp, cet.pl_ssp[3]), (0, SSP));
        machine.attempt(back).unwrap();
        assert_eq!((machine.cpu().cpl(), machine.cpu().cet.ssp), (3, SSP));
    }
}

#[test]
fn system_calls_leave_ssp_to_levels_without_shadow_stacks() {
    let mut machine = user();
    machine.cpu().star = 0x0020_0008_0000_0000;
    machine.cpu().lstar = HANDLER;
    machine.attempt(&[0x0f, 0x05]).unwrap();
    let cet = machine.cpu().cet;
    assert_eq!((cet.ssp, cet.pl_ssp[3]), (SSP, SSP));
}

#[test]
fn an_ssp_is_kept_in_canonical_form() {
    let mut machine = user();
    machine.cpu().star = 0x0020_0008_0000_0000;
    machine.cpu().lstar = HANDLER;
    machine.cpu().cet.ssp = 0x0100_0000_0000_0000;
    machine.attempt(&[0x0f, 0x05]).unwrap();
    assert_eq!(machine.cpu().cet.pl_ssp[3], 0xff00_0000_0000_0000, "by 57 bits, which this processor has");
}

#[test]
fn iret_to_virtual_8086_mode_frees_the_token_and_wants_no_cet_there() {
    let frame = [0x34, 0x1000, 0x2_0202, 0x100, 0x1000, 0, 0, 0, 0];
    for (name, u_cet, ssp, token, expected) in [
        ("as it should be", 0, SSP, SSP | BUSY, Ok(SSP)),
        ("no token", 0, SSP, 0, Ok(0)),
        ("shadow stacks for users", ON, SSP, SSP | BUSY, Err(GP)),
        ("tracking for users", 4, SSP, SSP | BUSY, Err(GP)),
        ("SSP not aligned", 0, SSP + 4, 0, Err(FAR)),
    ] {
        let mut machine = supervisor_32();
        for (value, at) in frame.into_iter().zip((STACK..).step_by(4)) {
            machine.set_u32(at, value);
        }
        machine.cpu().cet.u_cet = u_cet;
        machine.cpu().cet.ssp = ssp;
        machine.set_u64(SSP, token);
        match expected {
            Ok(after) => {
                machine.attempt(&[0xcf]).unwrap();
                assert_eq!((machine.cpu().cpl(), machine.u64(SSP)), (3, after), "{name}");
            }
            Err(expected) => assert_eq!(fault(machine.attempt(&[0xcf])), expected, "{name}"),
        }
    }
}

#[test]
fn an_event_from_virtual_8086_mode_pushes_no_frame() {
    let mut machine = supervisor_32();
    machine.set_u32(PT_32 + 4 * (PAGE_0 >> 12), (PAGE_0 | SUPERVISOR_PAGE) as u32);
    machine.set_u64(TOKEN, TOKEN);
    machine.cpu().cet.pl_ssp = [TOKEN, 0, 0, 0x1230];
    let cpu = machine.cpu();
    cpu.rflags |= Rflags::VM | Rflags::IOPL;
    for register in [SegmentRegister::Cs, SegmentRegister::Ss] {
        cpu.segments[register] = x86_state::Segment::real(x86_state::Selector(0x1000), x86_state::AccessRights::V86);
    }
    cpu.rip = 0;
    machine.processor.caches.changed();
    machine.gate(6, CODE_0, HANDLER, INTERRUPT_GATE);
    machine.load(CODE, &[0x0f, 0x0b]);
    machine.step();
    let cet = machine.cpu().cet;
    assert_eq!((machine.cpu().rip, cet.ssp, cet.pl_ssp[3]), (HANDLER, TOKEN, 0x1230));
    assert_eq!((machine.u64(TOKEN), machine.gpr(Gpr::Rsp)), (TOKEN | BUSY, STACK_0 - 36));
}

/// Two tasks of level 0 in 32-bit mode: the new one at `HANDLER`, with the token of its shadow stack at `TOKEN`.
fn tasks() -> Machine {
    const NEW: u64 = 0x6_0000;
    let mut machine = supervisor_32();
    machine.set_u32(PT_32 + 4 * (PAGE_0 >> 12), (PAGE_0 | SUPERVISOR_PAGE) as u32);
    machine.set_u64(TOKEN, TOKEN);
    machine.set_u64(GDT + u64::from(TASK), descriptor(TSS, 0x6b, 0x8b));
    machine.set_u64(GDT + 0x50, descriptor(NEW, 0x6b, 0x89));
    let cr3 = machine.cpu().cr3 as u32;
    machine.set_u32(TSS + 0x1c, cr3);
    for (offset, value) in [
        (0x1c, cr3),
        (0x20, HANDLER as u32),
        (0x24, 2),
        (0x38, 0x7_0000),
        (0x4c, CODE_0.into()),
        (0x50, DATA_0.into()),
        (104, TOKEN as u32),
    ] {
        machine.set_u32(NEW + offset, value);
    }
    machine
}

const CALL_TASK: [u8; 7] = [0x9a, 0, 0, 0, 0, 0x50, 0];
const JMP_TASK: [u8; 7] = [0xea, 0, 0, 0, 0, 0x50, 0];

#[test]
fn a_called_task_has_its_own_shadow_stack_with_the_callers_frame() {
    let mut machine = tasks();
    machine.attempt(&CALL_TASK).unwrap();
    assert_eq!((machine.cpu().rip, machine.cpu().cet.ssp, machine.u64(TOKEN)), (HANDLER, TOKEN - 24, TOKEN | BUSY));
    assert_eq!(frame(&machine, TOKEN - 24), [CODE_0.into(), CODE + 7, SSP]);
    machine.attempt(&[0xcf]).unwrap();
    assert_eq!((machine.cpu().rip, machine.cpu().cet.ssp, machine.u64(TOKEN)), (CODE + 7, SSP, TOKEN));
}

#[test]
fn a_task_that_is_jumped_to_gets_no_frame() {
    let mut machine = tasks();
    machine.attempt(&JMP_TASK).unwrap();
    assert_eq!((machine.cpu().cet.ssp, machine.u64(TOKEN)), (TOKEN, TOKEN | BUSY));
}

#[test]
fn iret_compares_the_frame_with_the_task_that_it_returns_to() {
    for (name, offset, value) in
        [("CS", 16, 0), ("LIP", 8, CODE), ("SSP", 0, SSP + 2), ("SSP above 4 GBytes", 0, 1 << 32)]
    {
        let mut machine = tasks();
        machine.attempt(&CALL_TASK).unwrap();
        machine.set_u64(TOKEN - 24 + offset, value);
        assert_eq!(fault(machine.attempt(&[0xcf])), FAR, "{name}");
        // In the context of the task that was returned to.
        assert_eq!(
            (machine.cpu().segments[SegmentRegister::Tr].selector.0, machine.cpu().rip),
            (TASK, CODE + 7),
            "{name}"
        );
    }
}

#[test]
fn what_is_wrong_with_a_tasks_shadow_stack_is_an_invalid_tss() {
    for (name, change, committed) in [
        ("limit", (|machine| machine.set_u64(GDT + 0x50, descriptor(0x6_0000, 0x6a, 0x89))) as fn(&mut Machine), false),
        ("16 bits", |machine| machine.set_u64(GDT + 0x50, descriptor(0x6_0000, 0x6b, 0x81)), false),
        ("alignment", |machine| machine.set_u32(0x6_0068, TOKEN as u32 + 4), true),
        ("busy", |machine| machine.set_u64(TOKEN, TOKEN | BUSY), true),
        ("another address", |machine| machine.set_u64(TOKEN, TOKEN + 8), true),
        ("virtual-8086 mode", virtual_8086_task, true),
    ] {
        let mut machine = tasks();
        change(&mut machine);
        assert_eq!(fault(machine.attempt(&CALL_TASK)), (Exception::TS, Some(0x50)), "{name}");
        let task = machine.cpu().segments[SegmentRegister::Tr].selector.0;
        assert_eq!(task == 0x50, committed, "{name}");
    }
}

/// Level 3 has shadow stacks, and the new task begins in virtual-8086 mode.
fn virtual_8086_task(machine: &mut Machine) {
    machine.cpu().cet.u_cet = ON;
    machine.set_u32(0x6_0024, 0x2_0002);
    machine.set_u32(0x6_0020, 0);
}

#[test]
fn iret_from_a_task_with_an_ssp_that_is_not_aligned_is_an_invalid_tss_of_its_own() {
    let mut machine = tasks();
    machine.cpu().rflags |= Rflags::NT;
    machine.set_u16(TSS, 0x50);
    machine.set_u64(GDT + 0x50, descriptor(0x6_0000, 0x6b, 0x8b));
    machine.cpu().cet.ssp = SSP + 4;
    assert_eq!(fault(machine.attempt(&[0xcf])), (Exception::TS, Some(TASK.into())));
}

#[test]
fn pages_of_users_and_supervisors_do_not_mix_in_transfers() {
    let mut machine = user_and_supervisor();
    machine.set_u64(PT + 8 * (PAGE_0 >> 12), PAGE_0 | USER_PAGE);
    machine.set_u64(GDT + 0x50, 0x0002_ec00_0008_0000);
    let code = call_far(&mut machine, 0x53, 0);
    assert_eq!(fault(machine.attempt(&code)), (Exception::PF, Some(0x43)));
    assert!(machine.cpu().cr4.contains(Cr4::CET));
}
