//! The stack, flags on the stack, and string instructions: what depends on the mode, and what is begun again.

use crate::world::Machine;
use x86_emu::Stop;
use x86_state::{Cr4, Exception, Gpr, Rflags};

fn exception(result: Result<(), Stop>) -> Option<Exception> {
    match result {
        Err(Stop::Raise(raised)) => Some(Exception(raised.event.vector)),
        _ => None,
    }
}

#[test]
fn the_stack_pointer_wraps_at_16_bits_and_keeps_what_is_above() {
    let mut machine = Machine::real();
    machine.cpu().gpr[Gpr::Rsp] = 0x1234_0000;
    machine.cpu().gpr[Gpr::Rax] = 0xabcd;
    assert_eq!(machine.attempt(&[0x50]), Ok(()));
    assert_eq!(machine.gpr(Gpr::Rsp), 0x1234_fffe);
    assert_eq!(machine.u16(0x7000 + 0xfffe), 0xabcd);
}

#[test]
fn push_sp_pushes_the_value_from_before() {
    let mut machine = Machine::real();
    assert_eq!(machine.attempt(&[0x54]), Ok(()));
    assert_eq!(machine.u16(0x7000 + 0xffe), 0x1000);
}

#[test]
fn pop_of_memory_by_the_stack_pointer_uses_its_value_from_after() {
    let mut machine = Machine::long64();
    machine.cpu().gpr[Gpr::Rsp] = 0x1000;
    machine.set_u64(0x1000, 77);
    assert_eq!(machine.attempt(&[0x8f, 0x04, 0x24]), Ok(()));
    assert_eq!((machine.u64(0x1008), machine.gpr(Gpr::Rsp)), (77, 0x1008));
}

#[test]
fn pop_to_memory_that_faults_leaves_the_stack_pointer() {
    let mut machine = Machine::long64();
    machine.cpu().gpr[Gpr::Rsp] = 0x1000;
    machine.cpu().gpr[Gpr::Rax] = 0x4000_0000;
    assert_eq!(exception(machine.attempt(&[0x8f, 0x00])), Some(Exception::PF));
    assert_eq!(machine.gpr(Gpr::Rsp), 0x1000);
}

#[test]
fn pusha_and_popa_agree_on_everything_but_the_stack_pointer() {
    let mut machine = Machine::protected32();
    for (number, register) in Gpr::ALL.into_iter().enumerate().take(8).filter(|(_, register)| *register != Gpr::Rsp) {
        machine.cpu().gpr[register] = number as u64 + 0x100;
    }
    let before = machine.cpu().gpr;
    assert_eq!(machine.attempt(&[0x60]), Ok(()));
    assert_eq!(machine.gpr(Gpr::Rsp), crate::world::STACK - 32);
    assert_eq!(machine.u32(crate::world::STACK - 20), crate::world::STACK as u32);
    for register in [Gpr::Rax, Gpr::Rcx, Gpr::Rdx, Gpr::Rbx, Gpr::Rbp, Gpr::Rsi, Gpr::Rdi] {
        machine.cpu().gpr[register] = 0;
    }
    assert_eq!(machine.attempt(&[0x61]), Ok(()));
    assert_eq!(machine.cpu().gpr, before);
}

#[test]
fn enter_copies_frame_pointers() {
    let mut machine = Machine::long64();
    machine.cpu().gpr[Gpr::Rsp] = 0x2000;
    machine.cpu().gpr[Gpr::Rbp] = 0x3000;
    machine.set_u64(0x2ff8, 0x1111);
    assert_eq!(machine.attempt(&[0xc8, 0x10, 0, 2]), Ok(()));
    assert_eq!((machine.u64(0x1ff8), machine.u64(0x1ff0), machine.u64(0x1fe8)), (0x3000, 0x1111, 0x1ff8));
    assert_eq!((machine.gpr(Gpr::Rbp), machine.gpr(Gpr::Rsp)), (0x1ff8, 0x1fe8 - 0x10));
    assert_eq!(machine.attempt(&[0xc9]), Ok(()));
    assert_eq!((machine.gpr(Gpr::Rbp), machine.gpr(Gpr::Rsp)), (0x3000, 0x2000));
}

const SYSTEM: Rflags = Rflags::IF.union(Rflags::IOPL).union(Rflags::VIF).union(Rflags::VIP).union(Rflags::AC);

/// SDM 2B table 4-21: mode and privilege, RFLAGS before, what is popped, and the bits of `SYSTEM` and TF and NT after.
#[test]
fn popf_changes_what_the_privilege_allows() {
    let all = Rflags::from_bits_retain(!0);
    for (name, user, code, before, after) in [
        ("level 0, 16 bits", false, &[0x66, 0x9d][..], Rflags::empty(), Rflags::IF | Rflags::IOPL),
        ("level 0, 64 bits", false, &[0x9d][..], Rflags::empty(), Rflags::IF | Rflags::IOPL | Rflags::AC),
        ("level 3, IOPL 0", true, &[0x9d][..], Rflags::empty(), Rflags::AC),
        ("level 3, IOPL 3", true, &[0x9d][..], Rflags::IOPL, Rflags::IF | Rflags::IOPL | Rflags::AC),
        ("VIP and VIF stay", false, &[0x66, 0x9d][..], Rflags::VIP, Rflags::VIP | Rflags::IF | Rflags::IOPL),
    ] {
        let mut machine = Machine::long64();
        if user {
            machine.enter_user();
        }
        machine.cpu().rflags = before | Rflags::FIXED_1;
        machine.cpu().gpr[Gpr::Rsp] = 0x1000;
        machine.set_u64(0x1000, all.bits());
        assert_eq!(machine.attempt(code), Ok(()), "{name}");
        let rflags = machine.rflags();
        assert_eq!(rflags & SYSTEM, after, "{name}");
        assert!(rflags.contains(Rflags::TF | Rflags::NT | Rflags::DF | Rflags::CF), "{name}");
        assert!(!rflags.intersects(Rflags::RF | Rflags::VM), "{name}");
    }
}

/// Virtual-8086 mode: flat in the first megabyte, the segments of real-address mode.
fn virtual_8086(iopl: u64, vme: bool, more: Rflags) -> Machine {
    let mut machine = Machine::paged32();
    let real = Machine::real().cpu().segments;
    let cpu = machine.cpu();
    for register in x86_state::SegmentRegister::ALL.into_iter().take(6) {
        cpu.segments[register] = real[register];
        cpu.segments[register].rights = x86_state::AccessRights::V86;
    }
    cpu.rip = 0;
    cpu.gpr[Gpr::Rsp] = 0x1000;
    cpu.rflags = Rflags::VM | Rflags::FIXED_1 | Rflags::from_bits_retain(iopl << 12) | more;
    if vme {
        cpu.cr4 |= Cr4::VME;
    }
    machine.processor.caches.changed();
    machine
}

#[test]
fn pushf_in_virtual_8086_mode() {
    const PUSHF: &[u8] = &[0x9c];
    const PUSHFD: &[u8] = &[0x66, 0x9c];
    assert_eq!(exception(virtual_8086(0, false, Rflags::empty()).attempt(PUSHF)), Some(Exception::GP));
    assert_eq!(exception(virtual_8086(0, true, Rflags::empty()).attempt(PUSHFD)), Some(Exception::GP));
    let mut machine = virtual_8086(3, false, Rflags::IF);
    assert_eq!(machine.attempt(PUSHF), Ok(()));
    assert_eq!(machine.u16(0x7000 + 0xffe), 0x3202);
    // VIF stands in the place of IF, below an IOPL of 3.
    let mut machine = virtual_8086(0, true, Rflags::VIF);
    assert_eq!(machine.attempt(PUSHF), Ok(()));
    assert_eq!(machine.u16(0x7000 + 0xffe), 0x3202);
}

#[test]
fn popf_in_virtual_8086_mode() {
    let popf = |iopl, vme, before, popped, code: &[u8]| {
        let mut machine = virtual_8086(iopl, vme, before);
        machine.set_u16(0x7000 + 0x1000, popped);
        let result = machine.attempt(code);
        (exception(result), machine.rflags() & (Rflags::IF | Rflags::VIF | Rflags::IOPL))
    };
    const POPF: &[u8] = &[0x9d];
    const POPFD: &[u8] = &[0x66, 0x9d];
    let none = Rflags::empty();
    assert_eq!(popf(0, false, none, 0x200, POPF), (Some(Exception::GP), none));
    assert_eq!(popf(0, true, none, 0x200, POPFD), (Some(Exception::GP), none));
    assert_eq!(popf(0, true, none, 0x3200, POPF), (None, Rflags::VIF));
    assert_eq!(popf(0, true, Rflags::VIF, 0, POPF), (None, none));
    assert_eq!(popf(0, true, Rflags::VIP, 0x200, POPF), (Some(Exception::GP), none));
    assert_eq!(popf(0, true, none, 0x100, POPF), (Some(Exception::GP), none));
    assert_eq!(popf(3, false, none, 0x200, POPF), (None, Rflags::IF | Rflags::IOPL));
}

/// REP MOVSB whose fourth byte lies in a page that is not mapped: the registers tell how far it came.
#[test]
fn a_fault_between_iterations_finds_the_registers_advanced() {
    let mut machine = Machine::long64();
    machine.cpu().gpr[Gpr::Rsi] = 0x1000;
    machine.cpu().gpr[Gpr::Rdi] = crate::world::RAM_BYTES - 3;
    machine.set_u64(crate::world::PT + 8 * 511, (511 << 12) | 7);
    machine.cpu().gpr[Gpr::Rcx] = 10;
    assert_eq!(exception(machine.attempt(&[0xf3, 0xa4])), Some(Exception::PF));
    let registers = [Gpr::Rcx, Gpr::Rsi, Gpr::Rdi].map(|register| machine.gpr(register));
    assert_eq!(registers, [7, 0x1003, crate::world::RAM_BYTES]);
    assert_eq!(machine.cpu().rip, crate::world::CODE);
}

#[test]
fn single_stepping_stops_after_each_iteration() {
    let mut machine = Machine::long64();
    machine.cpu().rflags = Rflags::TF | Rflags::FIXED_1;
    machine.cpu().gpr[Gpr::Rdi] = 0x1000;
    machine.cpu().gpr[Gpr::Rcx] = 3;
    assert_eq!(machine.attempt(&[0xf3, 0xaa]), Ok(()));
    assert_eq!((machine.gpr(Gpr::Rcx), machine.cpu().rip), (2, crate::world::CODE));
}

#[test]
fn scas_and_cmps_stop_at_the_first_difference_or_match() {
    let mut machine = Machine::long64();
    machine.load(0x1000, b"abcdefgh");
    let cpu = machine.cpu();
    cpu.gpr[Gpr::Rdi] = 0x1000;
    cpu.gpr[Gpr::Rcx] = 8;
    cpu.gpr[Gpr::Rax] = u64::from(b'c');
    assert_eq!(machine.attempt(&[0xf2, 0xae]), Ok(()), "repne scasb");
    assert_eq!((machine.gpr(Gpr::Rcx), machine.gpr(Gpr::Rdi)), (5, 0x1003));
    assert!(machine.rflags().contains(Rflags::ZF));
    machine.load(0x2000, b"abcdXfgh");
    let cpu = machine.cpu();
    cpu.gpr[Gpr::Rsi] = 0x1000;
    cpu.gpr[Gpr::Rdi] = 0x2000;
    cpu.gpr[Gpr::Rcx] = 8;
    assert_eq!(machine.attempt(&[0xf3, 0xa6]), Ok(()), "repe cmpsb");
    assert_eq!((machine.gpr(Gpr::Rcx), machine.gpr(Gpr::Rsi)), (3, 0x1005));
    assert!(!machine.rflags().contains(Rflags::ZF));
}

#[test]
fn a_count_of_0_changes_nothing() {
    let mut machine = Machine::long64();
    machine.cpu().gpr[Gpr::Rdi] = 0x4000_0000;
    machine.cpu().gpr[Gpr::Rcx] = 0;
    let before = machine.cpu().gpr;
    assert_eq!(machine.attempt(&[0xf3, 0xaa]), Ok(()));
    assert_eq!(machine.cpu().gpr, before);
    assert_eq!(machine.cpu().rip, crate::world::CODE + 2);
}

#[test]
fn pointers_wrap_at_16_bits_and_go_down_with_the_direction_flag() {
    let mut machine = Machine::real();
    let cpu = machine.cpu();
    cpu.gpr[Gpr::Rsi] = 0x1234_0000;
    cpu.gpr[Gpr::Rax] = 0;
    cpu.rflags |= Rflags::DF;
    machine.load(0, &[0x5a]);
    assert_eq!(machine.attempt(&[0xac]), Ok(()), "lodsb");
    assert_eq!((machine.gpr(Gpr::Rsi), machine.gpr(Gpr::Rax)), (0x1234_ffff, 0x5a));
}

#[test]
fn xlat_indexes_by_al_alone() {
    let mut machine = Machine::long64();
    machine.load(0x1042, &[0x77]);
    machine.cpu().gpr[Gpr::Rbx] = 0x1000;
    machine.cpu().gpr[Gpr::Rax] = 0xffff_ff42;
    assert_eq!(machine.attempt(&[0xd7]), Ok(()));
    assert_eq!(machine.gpr(Gpr::Rax), 0xffff_ff77);
}

#[test]
fn decimal_adjustments() {
    // AX and CF | AF before, code, AX and CF | AF after.
    const AF: u64 = 1 << 4;
    for (name, code, before, after) in [
        ("aaa", &[0x37][..], (0x000a, 0), (0x0100, AF | 1)),
        ("aaa carries from AL to AH twice", &[0x37], (0x00ff, 0), (0x0205, AF | 1)),
        ("aas", &[0x3f], (0x020f, 0), (0x0109, AF | 1)),
        ("daa", &[0x27], (0x00ae, AF), (0x0014, AF | 1)),
        ("das", &[0x2f], (0x0003, AF), (0x00fd, AF | 1)),
        ("aam", &[0xd4, 10], (0x003f, 0), (0x0603, 0)),
        ("aad", &[0xd5, 10], (0x0603, 0), (0x003f, 0)),
        ("salc", &[0xd6], (0x0000, 1), (0x00ff, 1)),
    ] {
        let mut machine = Machine::protected32();
        machine.cpu().gpr[Gpr::Rax] = before.0;
        machine.cpu().rflags = Rflags::from_bits_retain(before.1 | 2);
        assert_eq!(machine.attempt(code), Ok(()), "{name}");
        let flags = (machine.rflags() & (Rflags::CF | Rflags::AF)).bits();
        assert_eq!((machine.gpr(Gpr::Rax), flags), after, "{name}");
    }
    let mut machine = Machine::protected32();
    assert_eq!(exception(machine.attempt(&[0xd4, 0])), Some(Exception::DE), "aam 0");
}
