//! Shadow stacks: near calls and returns, the instructions, tokens, and which pages serve.

use crate::world::{CODE, Machine, PT, PT_32, STACK, fault};
use x86_state::{Cr4, Exception, Gpr, Rflags, SegmentRegister, Selector};

/// The page of the shadow stack: R/W 0, dirty 1.
pub(crate) const SHADOW: u64 = 0xa_0000;
/// The top of it.
pub(crate) const SSP: u64 = SHADOW + 0x800;
/// SH_STK_EN.
pub(crate) const ON: u64 = 1;
/// WR_SHSTK_EN.
const WRITES: u64 = 2;
/// Rights of a shadow-stack page: present, accessed, dirty.
pub(crate) const SUPERVISOR_PAGE: u64 = 0x61;
/// The same for users.
pub(crate) const USER_PAGE: u64 = 0x65;
const CF: u64 = 1;

/// 64-bit mode with a supervisor shadow stack.
pub(crate) fn supervisor() -> Machine {
    let mut machine = Machine::long64();
    machine.set_u64(PT + 8 * (SHADOW >> 12), SHADOW | SUPERVISOR_PAGE);
    let cpu = machine.cpu();
    cpu.cr4 |= Cr4::CET;
    cpu.cet.s_cet = ON;
    cpu.cet.ssp = SSP;
    machine
}

/// 64-bit mode at level 3 with a user's shadow stack.
pub(crate) fn user() -> Machine {
    let mut machine = Machine::long64();
    machine.set_u64(PT + 8 * (SHADOW >> 12), SHADOW | USER_PAGE);
    machine.enter_user();
    let cpu = machine.cpu();
    cpu.cr4 |= Cr4::CET;
    cpu.cet.u_cet = ON;
    cpu.cet.ssp = SSP;
    machine
}

/// 32-bit mode at level 0 with a supervisor shadow stack.
pub(crate) fn supervisor_32() -> Machine {
    let mut machine = Machine::paged32();
    machine.set_u32(PT_32 + 4 * (SHADOW >> 12), (SHADOW | SUPERVISOR_PAGE) as u32);
    let cpu = machine.cpu();
    cpu.cr4 |= Cr4::CET;
    cpu.cet.s_cet = ON;
    cpu.cet.ssp = SSP;
    machine
}

/// Compatibility mode with a supervisor shadow stack.
fn compatibility() -> Machine {
    let mut machine = supervisor();
    let code = &mut machine.cpu().segments[SegmentRegister::Cs];
    code.selector = Selector(0x38);
    code.rights.0 = 0xc09b;
    machine.processor.caches.changed();
    machine
}

fn cp(code: u32) -> (Exception, Option<u32>) {
    (Exception::CP, Some(code))
}

const GP: (Exception, Option<u32>) = (Exception::GP, Some(0));
const UD: (Exception, Option<u32>) = (Exception::UD, None);

const CALL_NEXT_BUT_ONE: [u8; 6] = [0xe8, 0x01, 0x00, 0x00, 0x00, 0x90];
const RET: [u8; 1] = [0xc3];
const INCSSPD_EAX: [u8; 4] = [0xf3, 0x0f, 0xae, 0xe8];
const INCSSPQ_RAX: [u8; 5] = [0xf3, 0x48, 0x0f, 0xae, 0xe8];
const RDSSPD_EAX: [u8; 4] = [0xf3, 0x0f, 0x1e, 0xc8];
const RDSSPQ_RAX: [u8; 5] = [0xf3, 0x48, 0x0f, 0x1e, 0xc8];
const SAVEPREVSSP: [u8; 4] = [0xf3, 0x0f, 0x01, 0xea];
const RSTORSSP_RAX: [u8; 4] = [0xf3, 0x0f, 0x01, 0x28];
const WRSSD_RAX_ECX: [u8; 4] = [0x0f, 0x38, 0xf6, 0x08];
const WRSSQ_RAX_RCX: [u8; 5] = [0x48, 0x0f, 0x38, 0xf6, 0x08];
const WRUSSQ_RAX_RCX: [u8; 6] = [0x66, 0x48, 0x0f, 0x38, 0xf5, 0x08];
const SETSSBSY: [u8; 4] = [0xf3, 0x0f, 0x01, 0xe8];
const CLRSSBSY_RAX: [u8; 4] = [0xf3, 0x0f, 0xae, 0x30];

#[test]
fn near_calls_push_on_both_stacks_and_returns_pop_both() {
    for mut machine in [supervisor(), user()] {
        machine.attempt(&CALL_NEXT_BUT_ONE).unwrap();
        assert_eq!((machine.cpu().cet.ssp, machine.u64(SSP - 8)), (SSP - 8, CODE + 5));
        machine.attempt(&RET).unwrap();
        assert_eq!((machine.cpu().cet.ssp, machine.cpu().rip, machine.gpr(Gpr::Rsp)), (SSP, CODE + 5, STACK));
    }
}

#[test]
fn indirect_calls_push_too() {
    let mut machine = supervisor();
    machine.cpu().gpr[Gpr::Rax] = 0x2_0000;
    machine.attempt(&[0xff, 0xd0]).unwrap();
    assert_eq!((machine.cpu().rip, machine.cpu().cet.ssp, machine.u64(SSP - 8)), (0x2_0000, SSP - 8, CODE + 2));
}

#[test]
fn a_call_of_the_next_instruction_leaves_the_shadow_stack_alone() {
    let mut machine = supervisor();
    machine.attempt(&[0xe8, 0, 0, 0, 0]).unwrap();
    assert_eq!((machine.cpu().cet.ssp, machine.gpr(Gpr::Rsp)), (SSP, STACK - 8));
}

#[test]
fn entries_have_4_bytes_outside_64_bit_mode() {
    for mut machine in [supervisor_32(), compatibility()] {
        machine.set_u64(SSP - 8, 0xeeee_eeee_eeee_eeee);
        machine.attempt(&CALL_NEXT_BUT_ONE).unwrap();
        assert_eq!((machine.cpu().cet.ssp, machine.u64(SSP - 8)), (SSP - 4, 0x0001_0005_eeee_eeee));
        machine.attempt(&RET).unwrap();
        assert_eq!((machine.cpu().cet.ssp, machine.cpu().rip), (SSP, CODE + 5));
    }
    // With a 16-bit operand the address is zero-extended.
    let mut machine = supervisor_32();
    machine.cpu().rip = 0x8000;
    machine.attempt(&[0x66, 0xe8, 0x01, 0x00]).unwrap();
    assert_eq!((machine.cpu().cet.ssp, machine.u32(SSP - 4)), (SSP - 4, 0x8004));
    machine.attempt(&[0x66, 0xc3]).unwrap();
    assert_eq!((machine.cpu().cet.ssp, machine.cpu().rip), (SSP, 0x8004));
}

#[test]
fn a_changed_return_address_is_a_control_protection_exception() {
    for (name, mut machine, address) in
        [("64 bits", supervisor(), CODE + 1), ("user", user(), CODE + 1), ("32 bits", supervisor_32(), CODE + 1)]
    {
        machine.set_u64(SSP, CODE);
        machine.set_u64(STACK, address);
        let before = *machine.cpu();
        assert_eq!(fault(machine.attempt(&RET)), cp(1), "{name}");
        assert_eq!(*machine.cpu(), before, "{name}");
    }
}

#[test]
fn nothing_is_pushed_while_any_of_the_switches_is_off() {
    for (name, cr4, s_cet) in [("CR4.CET", false, ON), ("SH_STK_EN", true, 0)] {
        let mut machine = supervisor();
        machine.cpu().cr4.set(Cr4::CET, cr4);
        machine.cpu().cet.s_cet = s_cet;
        machine.cpu().cet.u_cet = ON;
        machine.attempt(&CALL_NEXT_BUT_ONE).unwrap();
        assert_eq!(machine.cpu().cet.ssp, SSP, "{name}");
    }
}

#[test]
fn a_page_serves_as_a_shadow_stack_by_r_w_dirty_and_mode() {
    // Present, shadow stack, and by whom the access is made.
    let (p, w, u, ss) = (1, 2, 4, 0x40);
    for (name, is_user, rights, refused) in [
        ("supervisor", false, 0x61, None),
        ("user", true, 0x65, None),
        ("writable", false, 0x63, Some(p | w | ss)),
        ("clean", false, 0x21, Some(p | w | ss)),
        ("a user's page for the supervisor", false, 0x65, Some(p | w | ss)),
        ("a supervisor's page for the user", true, 0x61, Some(p | w | u | ss)),
        ("absent", false, 0x60, Some(w | ss)),
    ] {
        let mut machine = if is_user { user() } else { supervisor() };
        machine.set_u64(PT + 8 * (SHADOW >> 12), SHADOW | rights);
        let before = *machine.cpu();
        let result = machine.attempt(&CALL_NEXT_BUT_ONE);
        match refused {
            None => assert_eq!(result, Ok(()), "{name}"),
            Some(code) => {
                assert_eq!(fault(result), (Exception::PF, Some(code)), "{name}");
                assert_eq!(*machine.cpu(), before, "{name}");
            }
        }
    }
}

#[test]
fn a_read_of_what_is_no_shadow_stack_is_a_page_fault_too() {
    let mut machine = supervisor();
    machine.set_u64(STACK, CODE);
    machine.cpu().cet.ssp = STACK;
    assert_eq!(fault(machine.attempt(&RET)), (Exception::PF, Some(0x41)));
}

#[test]
fn ordinary_stores_do_not_reach_a_shadow_stack() {
    let mut machine = supervisor();
    machine.cpu().gpr[Gpr::Rax] = SSP;
    assert_eq!(fault(machine.attempt(&[0x88, 0x08])), (Exception::PF, Some(3))); // MOV [RAX], CL
    machine.attempt(&[0x8a, 0x08]).unwrap(); // MOV CL, [RAX]
}

#[test]
fn rdssp_reads_the_pointer_or_does_nothing() {
    for (name, mut machine, code, expected) in [
        ("64 bits", supervisor(), &RDSSPQ_RAX[..], SSP),
        ("32 bits", supervisor(), &RDSSPD_EAX, SSP),
        ("off", Machine::long64(), &RDSSPQ_RAX, u64::MAX),
        ("real-address mode", Machine::real(), &RDSSPD_EAX, u64::MAX),
    ] {
        machine.cpu().gpr[Gpr::Rax] = u64::MAX;
        machine.attempt(code).unwrap();
        assert_eq!(machine.gpr(Gpr::Rax), expected, "{name}");
    }
}

#[test]
fn incssp_moves_by_elements_and_touches_the_first_and_the_last() {
    for (name, code, count, moved) in [
        ("Q by 0", &INCSSPQ_RAX[..], 0, 0),
        ("Q by 3", &INCSSPQ_RAX, 3, 24),
        ("D by 3", &INCSSPD_EAX, 3, 12),
        ("bits 7:0 only", &INCSSPQ_RAX, 0x101, 8),
        ("to the end of the page", &INCSSPQ_RAX, 0xff, 0x7f8),
    ] {
        let mut machine = supervisor();
        machine.cpu().gpr[Gpr::Rax] = count;
        machine.attempt(code).unwrap();
        assert_eq!(machine.cpu().cet.ssp, SSP + moved, "{name}");
    }
    let mut machine = supervisor();
    machine.cpu().cet.ssp = SSP + 16;
    machine.cpu().gpr[Gpr::Rax] = 0xff;
    assert_eq!(fault(machine.attempt(&INCSSPQ_RAX)), (Exception::PF, Some(0x41)));
    assert_eq!(machine.cpu().cet.ssp, SSP + 16);
}

/// The other shadow stack of the tests that switch.
const OTHER: u64 = SHADOW + 0x400;

#[test]
fn rstorssp_and_saveprevssp_switch_as_the_manuals_figures_show() {
    let mut machine = supervisor();
    // A restore token for 64-bit mode: the SSP when it was made, and bit 0.
    machine.set_u64(OTHER - 8, OTHER | 1);
    machine.cpu().gpr[Gpr::Rax] = OTHER - 8;
    machine.cpu().rflags |= Rflags::CF | Rflags::ZF | Rflags::OF;
    machine.attempt(&RSTORSSP_RAX).unwrap();
    assert_eq!((machine.cpu().cet.ssp, machine.u64(OTHER - 8)), (OTHER - 8, SSP | 3));
    assert_eq!(machine.rflags().bits(), 2);
    machine.attempt(&SAVEPREVSSP).unwrap();
    assert_eq!((machine.cpu().cet.ssp, machine.u64(SSP - 8)), (OTHER, SSP | 1));
    // And back by the token that was saved.
    machine.cpu().gpr[Gpr::Rax] = SSP - 8;
    machine.attempt(&RSTORSSP_RAX).unwrap();
    assert_eq!(machine.u64(SSP - 8), OTHER | 3);
}

#[test]
fn rstorssp_tells_by_cf_of_a_hole_and_saveprevssp_leaves_one() {
    let mut machine = supervisor_32();
    machine.cpu().cet.ssp = SSP - 4;
    // Made at an SSP that is aligned to 4 bytes: the token lies below a hole.
    machine.set_u64(OTHER - 8, OTHER + 4);
    machine.cpu().gpr[Gpr::Rax] = OTHER - 8;
    machine.attempt(&RSTORSSP_RAX).unwrap();
    assert_eq!((machine.u64(OTHER - 8), machine.rflags().bits()), ((SSP - 4) | 2, 2 | CF));
    machine.set_u64(SSP - 16, u64::MAX);
    machine.set_u64(SSP - 8, u64::MAX);
    machine.attempt(&SAVEPREVSSP).unwrap();
    assert_eq!(machine.cpu().cet.ssp, OTHER + 4);
    // 4 bytes of zeros, and the token at the next 8 bytes.
    assert_eq!([machine.u64(SSP - 16), machine.u64(SSP - 8)], [SSP - 4, 0xffff_ffff_0000_0000]);
}

#[test]
fn rstorssp_refuses_tokens_that_are_not_its_own() {
    for (name, mut machine, token) in [
        ("another mode", supervisor(), OTHER),
        ("another mode", supervisor_32(), OTHER | 1),
        ("a previous-ssp token", supervisor(), OTHER | 3),
        ("another address", supervisor(), (OTHER + 16) | 1),
        ("above 4 GBytes", supervisor_32(), OTHER | 1 << 32),
    ] {
        machine.set_u64(OTHER - 8, token);
        machine.cpu().gpr[Gpr::Rax] = OTHER - 8;
        assert_eq!(fault(machine.attempt(&RSTORSSP_RAX)), cp(4), "{name}");
        assert_eq!((machine.u64(OTHER - 8), machine.cpu().cet.ssp), (token, SSP), "{name}");
    }
    let mut machine = supervisor();
    machine.cpu().gpr[Gpr::Rax] = OTHER - 4;
    assert_eq!(fault(machine.attempt(&RSTORSSP_RAX)), GP, "not aligned");
}

#[test]
fn saveprevssp_refuses_what_is_no_previous_ssp_token() {
    for (name, mut machine, ssp, token, carry) in [
        ("bit 1 is 0", supervisor(), SSP, OTHER | 1, false),
        ("not aligned", supervisor(), SSP - 4, OTHER | 3, false),
        ("CF in 64-bit mode", supervisor(), SSP, OTHER | 3, true),
        ("above 4 GBytes", supervisor_32(), SSP, OTHER | 1 << 32 | 2, false),
        ("a hole that is not 0", supervisor_32(), SSP, OTHER | 2, true),
    ] {
        machine.set_u64(ssp, token);
        machine.set_u32(SSP + 8, 1);
        machine.cpu().cet.ssp = ssp;
        machine.cpu().rflags.set(Rflags::CF, carry);
        assert_eq!(fault(machine.attempt(&SAVEPREVSSP)), GP, "{name}");
        assert_eq!(machine.cpu().cet.ssp, ssp, "{name}");
    }
}

#[test]
fn wrss_writes_the_current_levels_shadow_stack() {
    for mut machine in [supervisor(), user()] {
        machine.cpu().cet.s_cet |= WRITES;
        machine.cpu().cet.u_cet |= WRITES;
        machine.cpu().gpr[Gpr::Rcx] = 0x1122_3344_5566_7788;
        machine.cpu().gpr[Gpr::Rax] = SSP;
        machine.attempt(&WRSSQ_RAX_RCX).unwrap();
        machine.cpu().gpr[Gpr::Rax] = SSP + 12;
        machine.attempt(&WRSSD_RAX_ECX).unwrap();
        assert_eq!([machine.u64(SSP), machine.u64(SSP + 8)], [0x1122_3344_5566_7788, 0x5566_7788_0000_0000]);
        assert_eq!(fault(machine.attempt(&WRSSQ_RAX_RCX)), GP, "aligned to 4 bytes only");
        machine.cpu().gpr[Gpr::Rax] = STACK;
        let (exception, code) = fault(machine.attempt(&WRSSQ_RAX_RCX));
        assert_eq!((exception, code.unwrap() & 0x43), (Exception::PF, 0x43), "not a shadow stack");
    }
}

#[test]
fn wruss_writes_a_users_shadow_stack_from_level_0() {
    let mut machine = supervisor();
    machine.cpu().cet.s_cet = 0;
    machine.cpu().gpr[Gpr::Rax] = SSP;
    machine.cpu().gpr[Gpr::Rcx] = 0x1234;
    assert_eq!(fault(machine.attempt(&WRUSSQ_RAX_RCX)), (Exception::PF, Some(0x47)), "a user's access");
    let mut machine = supervisor();
    machine.set_u64(PT + 8 * (SHADOW >> 12), SHADOW | USER_PAGE);
    machine.cpu().gpr[Gpr::Rax] = SSP;
    machine.cpu().gpr[Gpr::Rcx] = 0x1234;
    machine.attempt(&WRUSSQ_RAX_RCX).unwrap();
    assert_eq!(machine.u64(SSP), 0x1234);
    let mut machine = user();
    machine.cpu().gpr[Gpr::Rax] = SSP;
    assert_eq!(fault(machine.attempt(&WRUSSQ_RAX_RCX)), GP, "level 3");
}

#[test]
fn setssbsy_takes_the_token_of_level_0_and_clrssbsy_frees_it() {
    let mut machine = supervisor();
    machine.cpu().cet.pl_ssp[0] = OTHER;
    machine.set_u64(OTHER, OTHER);
    machine.attempt(&SETSSBSY).unwrap();
    assert_eq!((machine.cpu().cet.ssp, machine.u64(OTHER)), (OTHER, OTHER | 1));
    assert_eq!(fault(machine.attempt(&SETSSBSY)), cp(5), "busy");
    machine.cpu().gpr[Gpr::Rax] = OTHER;
    machine.cpu().rflags |= Rflags::CF | Rflags::SF;
    machine.attempt(&CLRSSBSY_RAX).unwrap();
    assert_eq!((machine.cpu().cet.ssp, machine.u64(OTHER), machine.rflags().bits()), (0, OTHER, 2));
    machine.attempt(&CLRSSBSY_RAX).unwrap();
    assert_eq!((machine.u64(OTHER), machine.rflags().bits()), (OTHER, 2 | CF), "it was not busy");
}

#[test]
fn setssbsy_and_clrssbsy_need_aligned_tokens() {
    let mut machine = supervisor();
    machine.cpu().cet.pl_ssp[0] = OTHER + 4;
    machine.cpu().gpr[Gpr::Rax] = OTHER + 4;
    assert_eq!(fault(machine.attempt(&SETSSBSY)), GP);
    assert_eq!(fault(machine.attempt(&CLRSSBSY_RAX)), GP);
}

#[test]
fn instructions_are_undefined_while_shadow_stacks_are_off() {
    type Off = fn(&mut Machine);
    let cr4: Off = |machine| machine.cpu().cr4 -= Cr4::CET;
    let enable: Off = |machine| machine.cpu().cet.s_cet &= !ON;
    let writes: Off = |machine| machine.cpu().cet.s_cet = ON;
    for (name, code, off) in [
        ("INCSSPD", &INCSSPD_EAX[..], [cr4, enable]),
        ("SAVEPREVSSP", &SAVEPREVSSP, [cr4, enable]),
        ("RSTORSSP", &RSTORSSP_RAX, [cr4, enable]),
        ("WRSSQ", &WRSSQ_RAX_RCX, [enable, writes]),
        ("SETSSBSY", &SETSSBSY, [cr4, enable]),
        ("CLRSSBSY", &CLRSSBSY_RAX, [cr4, enable]),
        ("WRUSSQ", &WRUSSQ_RAX_RCX, [cr4, cr4]),
    ] {
        for off in off {
            let mut machine = supervisor();
            machine.cpu().cet.s_cet |= WRITES;
            off(&mut machine);
            assert_eq!(fault(machine.attempt(code)), UD, "{name}");
        }
    }
}

#[test]
fn instructions_are_undefined_in_real_and_virtual_8086_mode() {
    for code in [&INCSSPD_EAX[..], &SAVEPREVSSP, &SETSSBSY] {
        let mut machine = Machine::real();
        machine.cpu().cr4 |= Cr4::CET;
        machine.cpu().cet.s_cet = ON;
        assert_eq!(fault(machine.attempt(code)), UD);
        let mut machine = Machine::paged32();
        machine.cpu().cr4 |= Cr4::CET;
        machine.cpu().cet.u_cet = ON;
        machine.cpu().cet.s_cet = ON;
        machine.cpu().rflags |= Rflags::VM;
        assert_eq!(fault(machine.attempt(code)), UD);
    }
}

#[test]
fn cr4_cet_and_cr0_wp_go_together() {
    let mut machine = supervisor();
    machine.cpu().gpr[Gpr::Rax] = machine.processor.state.cpu.cr0.bits() & !(1 << 16);
    assert_eq!(fault(machine.attempt(&[0x0f, 0x22, 0xc0])), GP); // MOV CR0, RAX
    let mut machine = Machine::long64();
    machine.cpu().cr0 -= x86_state::Cr0::WP;
    machine.cpu().gpr[Gpr::Rax] = (machine.processor.state.cpu.cr4 | Cr4::CET).bits();
    assert_eq!(fault(machine.attempt(&[0x0f, 0x22, 0xe0])), GP); // MOV CR4, RAX
    machine.cpu().cr0 |= x86_state::Cr0::WP;
    machine.attempt(&[0x0f, 0x22, 0xe0]).unwrap();
    assert!(machine.cpu().cr4.contains(Cr4::CET));
}
