//! Control and debug registers, I/O, INIT, and the T flag of a task.

use crate::world::{CODE, CODE_0, DATA_0, GDT, INTERRUPT_GATE, Machine, PT, STACK, descriptor};
use x86_emu::Stop;
use x86_state::{Cr0, Cr4, Dr6, Dr7, Event, Exception, Gpr, Rflags};

/// The exception that these bytes raise; `None` if they are executed.
fn raised(machine: &mut Machine, code: &[u8]) -> Option<Event> {
    match machine.attempt(code) {
        Ok(()) => None,
        Err(Stop::Raise(raised)) => Some(raised.event),
        Err(other) => panic!("{other:?}"),
    }
}

const GP_0: Event = Event::exception_with_code(Exception::GP, 0);

#[test]
fn a_new_task_with_the_t_flag_traps_before_its_first_instruction() {
    for (flag, trapped) in [(1, true), (0, false)] {
        let mut machine = Machine::protected32();
        const NEW: u64 = 0x4_0000;
        machine.set_u64(GDT + 0x50, descriptor(NEW, 0x67, 0x89));
        for (offset, value) in [
            (0x20, 0x3_0000_u32), // EIP
            (0x24, 2),
            (0x38, STACK as u32),
            (0x48, DATA_0.into()),
            (0x4c, CODE_0.into()),
            (0x50, DATA_0.into()),
            (0x54, DATA_0.into()),
            (0x64, flag),
        ] {
            machine.set_u32(NEW + offset, value);
        }
        machine.gate(1, CODE_0, 0x2_0000, INTERRUPT_GATE);
        machine.load(0x3_0000, &[0x90, 0xf4]);
        machine.load(CODE, &[0xea, 0, 0, 0, 0, 0x50, 0]); // JMP 0x50:0
        machine.run(2);
        if trapped {
            assert_eq!((machine.cpu().rip, machine.u32(STACK - 12)), (0x2_0000, 0x3_0000));
            assert_eq!(machine.cpu().dr6, Dr6::RESET | Dr6::BT);
        } else {
            assert_eq!((machine.cpu().rip, machine.cpu().dr6), (0x3_0001, Dr6::RESET));
        }
    }
}

#[test]
fn ltr_and_lldt_demand_a_canonical_base_by_the_processors_width() {
    const LTR_AX: [u8; 3] = [0x0f, 0x00, 0xd8];
    const LLDT_AX: [u8; 3] = [0x0f, 0x00, 0xd0];
    const SELECTOR: u16 = 0x60;
    let refused = Some(Event::exception_with_code(Exception::GP, SELECTOR.into()));
    for (code, rights) in [(LTR_AX, 0x89), (LLDT_AX, 0x82)] {
        for (upper, expected) in [
            (0xffff_8000, None),
            // Canonical for the 57 bits of this processor; the paging mode has 48.
            (0xff00_0000, None),
            (0x00ff_ffff, None),
            (0x0100_0000, refused),
            (0xaaaa_aaaa, refused),
        ] {
            let mut machine = Machine::long64();
            machine.cpu().gdtr.limit = 0x7f;
            machine.set_u64(GDT + u64::from(SELECTOR), descriptor(0x1000, 0x67, rights));
            machine.set_u64(GDT + u64::from(SELECTOR) + 8, upper);
            machine.cpu().gpr[Gpr::Rax] = SELECTOR.into();
            assert_eq!(raised(&mut machine, &code), expected, "{code:x?} {upper:#x}");
            let busy = machine.u64(GDT + u64::from(SELECTOR)) >> 41 & 1 == 1;
            assert_eq!(busy, rights == 0x82 || expected.is_none(), "{code:x?} {upper:#x}");
        }
    }
}

#[test]
fn debug_registers_keep_their_fixed_bits() {
    let mut machine = Machine::long64();
    for (value, dr6, dr7) in [(0, 0xffff_0ff0, 0x400), (0xffff_ffff, 0xffff_efff, 0xffff_27ff)] {
        machine.cpu().gpr[Gpr::Rax] = value;
        assert_eq!(raised(&mut machine, &[0x0f, 0x23, 0xf0]), None); // MOV DR6, RAX
        assert_eq!(machine.cpu().dr6.bits(), dr6 | value & 0xe00f);
        assert_eq!(raised(&mut machine, &[0x0f, 0x23, 0xf8]), None); // MOV DR7, RAX
        assert_eq!(machine.cpu().dr7.bits(), dr7);
        machine.cpu().dr7 = Dr7::FIXED_1;
    }
}

#[test]
fn wp_stays_while_cet_is_enabled() {
    let mut machine = Machine::long64();
    machine.cpu().cr4 |= Cr4::CET;
    machine.cpu().gpr[Gpr::Rax] = machine.cpu().cr0.difference(Cr0::WP).bits();
    assert_eq!(raised(&mut machine, &[0x0f, 0x22, 0xc0]), Some(GP_0));
    machine.cpu().cr4 -= Cr4::CET;
    assert_eq!(raised(&mut machine, &[0x0f, 0x22, 0xc0]), None);
}

#[test]
fn ins_reads_its_port_only_if_all_of_its_memory_takes_the_value() {
    let mut machine = Machine::long64();
    machine.set_u64(PT + 8 * 0x31, 0);
    machine.cpu().gpr[Gpr::Rdi] = 0x3_0ffe;
    let event = raised(&mut machine, &[0x6d]).unwrap(); // INSD
    assert_eq!(event.vector, Exception::PF.0);
    assert_eq!(machine.cpu().gpr[Gpr::Rdi], 0x3_0ffe);
    assert!(machine.world.ports.take().is_empty());
}

#[test]
fn init_keeps_what_table_9_1_calls_unchanged() {
    let mut machine = Machine::long64();
    machine.cpu().pkru = 0x1234;
    machine.cpu().cr0 |= Cr0::CD;
    machine.cpu().star = 5;
    machine.cpu().dr[2] = 7;
    machine.cpu().rflags |= Rflags::IF;
    machine.processor.state.registers.mtrr_def_type = 0xc06;
    let mut pending = machine.world.pending.get();
    pending.init = true;
    machine.world.pending.set(pending);
    machine.load(0xffff_fff0 & 0xf_fff0, &[0xf4]);
    machine.run(1);
    let cpu = *machine.cpu();
    assert_eq!((cpu.pkru, cpu.star, cpu.cr0.bits()), (0x1234, 5, 0x4000_0010));
    assert_eq!((cpu.dr[2], cpu.cr4, cpu.rflags.contains(Rflags::IF)), (0, Cr4::empty(), false));
    assert_eq!(machine.processor.state.registers.mtrr_def_type, 0xc06);
}
