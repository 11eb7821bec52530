//! SMIs, the handler's environment, RSM, and VMX operation around them.

use crate::vmx;
use crate::world::{CODE, CODE_0, DATA_0, GDT, IDT, Machine, PML4, STACK, TASK};
use vmx_model::reasons::ExitReason;
use vmx_model::{Control, Field, Operation};
use x86_emu::bus::Taken;
use x86_emu::{Observer, Ran, State, Stop};
use x86_state::{
    ActivityState, Cr0, Cr4, Dr7, Efer, Event, Exception, Feature, Gpr, Interruptibility, Rflags, SegmentRegister,
    Selector, profiles,
};

/// SMBASE after reset.
const SMBASE: u64 = 0x3_0000;
/// Offsets of the maps are added to this.
const MAP: u64 = SMBASE + 0x8000;
const RSM: [u8; 2] = [0x0f, 0xaa];
const NOP: u8 = 0x90;

/// A machine with this handler of SMIs.
fn with_handler(mut machine: Machine, handler: &[u8]) -> Machine {
    machine.load(SMBASE + 0x8000, handler);
    machine
}

fn raise_smi(machine: &Machine) {
    let mut pending = machine.world.pending.get();
    pending.smi = true;
    machine.world.pending.set(pending);
}

/// Delivers an SMI, which waits at the next boundary.
fn enter(machine: &mut Machine) {
    raise_smi(machine);
    assert_eq!(machine.run(1), Ran::Budget);
    assert!(machine.cpu().in_smm);
}

#[test]
fn an_smi_writes_the_map_of_intel_64() {
    let mut machine = Machine::long64();
    for (n, register) in (0x11..).zip(Gpr::ALL) {
        machine.cpu().gpr[register] = n << 32 | n;
    }
    machine.cpu().rflags |= Rflags::CF | Rflags::IF;
    machine.cpu().dr7 = Dr7::from_bits_retain(0x402);
    machine.cpu().cet.ssp = 0x1234_5678_9abc;
    machine.cpu().idtr.base = 0xffff_8000_1234_5000;
    machine.cpu().cr4 |= Cr4::VMXE;
    machine.processor.caches.changed();
    enter(&mut machine);
    for (offset, value) in [
        (0x7ff8, 0x8001_0031), // CR0
        (0x7ff0, PML4),
        (0x7fe8, 0x203), // RFLAGS
        (0x7fe0, 0xd01), // IA32_EFER
        (0x7fd8, CODE),  // RIP
        (0x7fd0, 0xffff_0ff0),
        (0x7fc8, 0x402),
        (0x7f94, 0x18_0000_0018),   // RDI
        (0x7f8c, 0x17_0000_0017),   // RSI
        (0x7f84, 0x16_0000_0016),   // RBP
        (0x7f7c, 0x15_0000_0015),   // RSP
        (0x7f74, 0x14_0000_0014),   // RBX
        (0x7f6c, 0x13_0000_0013),   // RDX
        (0x7f64, 0x12_0000_0012),   // RCX
        (0x7f5c, 0x11_0000_0011),   // RAX
        (0x7f54, 0x19_0000_0019),   // R8
        (0x7f1c, 0x20_0000_0020),   // R15
        (0x7ec8, 0x1234_5678_9abc), // SSP
        (0x7e40, 0x220),            // CR4: VMXE is 0
    ] {
        assert_eq!(machine.u64(MAP + offset), value, "{offset:#x}");
    }
    for (offset, value) in [
        (0x7fc4, u32::from(TASK)),
        (0x7fc0, 0),
        (0x7fb0, DATA_0.into()),
        (0x7fac, CODE_0.into()),
        (0x7fa4, 0), // no I/O
        (0x7f00, 0), // neither restart
        (0x7efc, 0x3_0006),
        (0x7ef8, 0x3_0000),
        (0x7ee0, 0),           // no EPT
        (0x7e94, 0x1234_5000), // IDT
        (0x7dd8, 0xffff_8000),
        (0x7e8c, GDT as u32),
        (0x7dd0, 0),
    ] {
        assert_eq!(machine.u32(MAP + offset), value, "{offset:#x}");
    }
}

#[test]
fn an_smi_writes_the_other_map_without_intel_64() {
    let mut machine = Machine::protected32();
    machine.profile = Box::leak(Box::new(profiles::MAX.with_feature(Feature::LM, false)));
    for (n, register) in (0x11..).zip(Gpr::ALL) {
        machine.cpu().gpr[register] = n;
    }
    enter(&mut machine);
    for (offset, value) in [
        (0x7ffc, 0x31), // CR0
        (0x7ff4, 2),
        (0x7ff0, CODE as u32),
        (0x7fec, 0x18), // EDI
        (0x7fe8, 0x17),
        (0x7fe4, 0x16),
        (0x7fe0, 0x15),
        (0x7fdc, 0x14),
        (0x7fd8, 0x13),
        (0x7fd4, 0x12),
        (0x7fd0, 0x11), // EAX
        (0x7fcc, 0xffff_0ff0),
        (0x7fc8, 0x400),
        (0x7fac, CODE_0.into()),
        (0x7efc, 0x3_0004),
        (0x7ef8, 0x3_0000),
        (0x7fd8 - 0x180, 0), // nothing where the other map has something
    ] {
        assert_eq!(machine.u32(MAP + offset), value, "{offset:#x}");
    }
    machine.load(MAP, &RSM);
    machine.run(1);
    assert_eq!((machine.cpu().rip, machine.gpr(Gpr::Rdi)), (CODE, 0x18));
}

#[test]
fn the_handler_begins_in_a_flat_real_mode_with_everything_blocked() {
    let mut machine = Machine::long64();
    machine.cpu().cr0 |= Cr0::TS | Cr0::EM;
    machine.cpu().rflags |= Rflags::IF | Rflags::TF;
    machine.cpu().dr7 = Dr7::from_bits_retain(0x4ff);
    enter(&mut machine);
    let cpu = machine.cpu();
    assert_eq!((cpu.rip, cpu.rflags, cpu.dr7), (0x8000, Rflags::FIXED_1, Dr7::FIXED_1));
    assert_eq!((cpu.cr0, cpu.cr4, cpu.efer), (Cr0::ET | Cr0::NE | Cr0::WP, Cr4::empty(), Efer::empty()));
    let code = cpu.segments[SegmentRegister::Cs];
    assert_eq!((code.selector, code.base, code.limit), (Selector(0x3000), 0x3_0000, u32::MAX));
    for register in
        [SegmentRegister::Ds, SegmentRegister::Es, SegmentRegister::Fs, SegmentRegister::Gs, SegmentRegister::Ss]
    {
        let segment = cpu.segments[register];
        assert_eq!((segment.selector, segment.base, segment.limit), (Selector(0), 0, u32::MAX), "{register:?}");
    }
    assert_eq!(cpu.interruptibility, Interruptibility::SMI | Interruptibility::NMI);
    assert_eq!(machine.world.taken.take(), [Taken::Smi]);
}

#[test]
fn the_handler_reaches_4_gbytes() {
    // MOV EAX, [0x1F0000] with a 32-bit address; MOV [0x100000], EAX.
    let handler = [0x67, 0x66, 0xa1, 0, 0, 0x1f, 0, 0x67, 0x66, 0xa3, 0, 0, 0x10, 0, 0x0f, 0xaa];
    let mut machine = with_handler(Machine::long64(), &handler);
    raise_smi(&machine);
    machine.run(4);
    assert!(!machine.cpu().in_smm);
    assert_eq!(machine.u32(0x10_0000), PML4 as u32 + 0x1007);
}

#[test]
fn rsm_brings_back_every_register() {
    for machine in [Machine::real(), Machine::protected32(), Machine::paged32(), Machine::long64()] {
        let mut machine = with_handler(machine, &RSM);
        for (n, register) in (0x111_u64..).zip(Gpr::ALL) {
            machine.cpu().gpr[register] = n;
        }
        machine.cpu().rflags |= Rflags::OF | Rflags::ZF;
        machine.cpu().segments[SegmentRegister::Fs].base = 0x1234_5678;
        machine.cpu().interruptibility = Interruptibility::STI;
        let before = *machine.cpu();
        raise_smi(&machine);
        assert_eq!(machine.run(2), Ran::Budget);
        assert_eq!(*machine.cpu(), before);
        assert_eq!(machine.processor.state.smm, None);
        // And it runs in the mode that it was in.
        machine.cpu().rflags -= Rflags::OF;
        machine.run_program(&[NOP, 0xf4]);
        assert_eq!(machine.cpu().activity, ActivityState::HLT);
    }
}

#[test]
fn the_handler_changes_what_the_map_calls_writable() {
    let mut machine = Machine::long64();
    enter(&mut machine);
    machine.set_u64(MAP + 0x7f5c, 0x1111_2222_3333_4444); // RAX
    machine.set_u64(MAP + 0x7f1c, 5); // R15
    machine.set_u64(MAP + 0x7fd8, CODE + 0x100); // RIP
    machine.set_u64(MAP + 0x7fe8, 0xffff_ffff_ffc0_8043); // RFLAGS: ZF, CF, and bits that do not exist
    machine.set_u64(MAP + 0x7fe0, 0xd00); // SCE off
    machine.set_u64(MAP + 0x7ec8, 0x01ff_ffff_ffff_f000); // SSP, not canonical with 57 bits
    machine.load(MAP, &RSM);
    machine.run(1);
    assert_eq!((machine.gpr(Gpr::Rax), machine.gpr(Gpr::R15)), (0x1111_2222_3333_4444, 5));
    assert_eq!((machine.cpu().rip, machine.rflags().bits()), (CODE + 0x100, 0x43));
    assert_eq!(machine.cpu().efer, Efer::LME | Efer::LMA | Efer::NXE);
    assert_eq!(machine.cpu().cet.ssp, 0xffff_ffff_ffff_f000);
}

#[test]
fn smbase_moves_with_rsm() {
    let mut machine = Machine::long64();
    enter(&mut machine);
    machine.set_u32(MAP + 0x7ef8, 0xa_1230);
    machine.load(MAP, &RSM);
    machine.run(1);
    assert_eq!(machine.cpu().smbase, 0xa_1230);
    enter(&mut machine);
    let code = machine.cpu().segments[SegmentRegister::Cs];
    assert_eq!((code.selector.0, code.base), (0xa123, 0xa_1230));
    assert_eq!(machine.u64(0xa_1230 + 0x8000 + 0x7fd8), CODE);
}

#[test]
fn rsm_is_undefined_outside_smm() {
    let mut machine = Machine::long64();
    let Err(Stop::Raise(raised)) = machine.attempt(&RSM) else { panic!() };
    assert_eq!(raised.event, Event::exception(Exception::UD));
}

#[test]
fn hlt_is_restarted_unless_the_handler_says_otherwise() {
    // The flag as the handler leaves it, and what the processor does then.
    for (flag, activity) in [(1, ActivityState::HLT), (0, ActivityState::ACTIVE)] {
        let mut machine = Machine::long64();
        assert_eq!(machine.run_program(&[0xf4, NOP]), Ran::Asleep);
        enter(&mut machine);
        assert_eq!(machine.u16(MAP + 0x7f02), 1);
        assert_eq!(machine.u64(MAP + 0x7fd8), CODE + 1);
        machine.set_u16(MAP + 0x7f02, flag);
        machine.load(MAP, &RSM);
        machine.run(1);
        assert_eq!((machine.cpu().activity, machine.cpu().rip), (activity, CODE + 1), "flag {flag}");
    }
}

#[test]
fn the_halt_flag_means_nothing_if_the_processor_was_not_halted() {
    let mut machine = Machine::long64();
    enter(&mut machine);
    assert_eq!(machine.u16(MAP + 0x7f02), 0);
    machine.set_u16(MAP + 0x7f02, 1);
    machine.load(MAP, &RSM);
    machine.run(1);
    assert_eq!(machine.cpu().activity, ActivityState::ACTIVE);
}

#[test]
fn a_second_smi_waits_for_rsm_and_comes_before_the_program() {
    let mut machine = with_handler(Machine::long64(), &[NOP, 0x0f, 0xaa]);
    enter(&mut machine);
    raise_smi(&machine);
    machine.run(1);
    assert_eq!(machine.cpu().rip, 0x8001);
    machine.run(2); // RSM; SMI
    assert!(machine.cpu().in_smm);
    assert_eq!(machine.u64(MAP + 0x7fd8), CODE);
}

#[test]
fn nmis_are_blocked_in_smm_and_taken_behind_rsm() {
    let mut machine = with_handler(Machine::real(), &[NOP, 0x0f, 0xaa]);
    machine.vector(2, 0x2000, 0);
    enter(&mut machine);
    machine.world.raise_nmi();
    machine.run(2);
    assert!(!machine.cpu().in_smm);
    machine.run(1);
    assert_eq!(machine.cpu().segments[SegmentRegister::Cs].selector, Selector(0x2000));
    assert_eq!(machine.world.taken.take(), [Taken::Smi, Taken::Nmi]);
}

#[test]
fn nmis_that_were_blocked_are_blocked_behind_rsm_whatever_iret_does_in_smm() {
    // SP is 0x1000 in the handler: IRET to 3000:8001 (the frame is put there), then RSM.
    let mut machine = with_handler(Machine::real(), &[0xcf, 0x0f, 0xaa]);
    machine.cpu().interruptibility = Interruptibility::NMI;
    enter(&mut machine);
    machine.load(0x1000, &[0x01, 0x80, 0x00, 0x30, 0x02, 0x00]);
    machine.run(1);
    assert_eq!(machine.cpu().interruptibility, Interruptibility::SMI);
    machine.run(1);
    assert_eq!(machine.cpu().interruptibility, Interruptibility::NMI);
}

#[test]
fn init_waits_for_rsm() {
    let mut machine = with_handler(Machine::long64(), &[NOP, 0x0f, 0xaa]);
    enter(&mut machine);
    let mut pending = machine.world.pending.get();
    pending.init = true;
    machine.world.pending.set(pending);
    machine.run(1);
    assert_eq!(machine.world.taken.take(), [Taken::Smi]);
    machine.run(1);
    machine.run(1);
    assert_eq!(machine.world.taken.take(), [Taken::Init]);
}

#[test]
fn rsm_shuts_down_on_what_control_registers_do_not_take() {
    // Offset and value of a quadword of the map of a processor in 64-bit mode.
    for (offset, value, why) in [
        (0x7e40, 0x8000_0220, "a reserved bit of CR4"),
        (0x7e40, 0x2220, "CR4.VMXE"),
        (0x7ff8, 0x8001_0030, "PG without PE"),
        (0x7ff8, 0xa001_0031, "NW without CD"),
        (0x7ff8, 0x0001_0031, "PCIDE outside IA-32e mode"),
        (0x7ff8, 0x8000_0031, "CET without WP"),
        (0x7e40, 0x0200, "IA-32e mode without PAE"),
    ] {
        let mut machine = with_handler(Machine::long64(), &RSM);
        machine.cpu().cr4 |= match why {
            "PCIDE outside IA-32e mode" => Cr4::PCIDE,
            "CET without WP" => Cr4::CET,
            _ => Cr4::empty(),
        };
        enter(&mut machine);
        machine.set_u64(MAP + offset, value);
        assert_eq!(machine.run(10), Ran::Shutdown, "{why}");
        assert_eq!((machine.cpu().in_smm, machine.cpu().rip), (true, 0x8000), "{why}");
    }
}

#[test]
fn an_smi_behind_an_io_instruction_records_it() {
    // The instruction at RIP, the I/O state field, the memory address. DX is 0x1234, RSI and RDI are 0x4_0000 and 0x5_0000, RCX is 3.
    for (code, state, address) in [
        (&[0xe6, 0x80][..], 0x0080_0083, 0),        // OUT 0x80, AL: out immediate, 1 byte
        (&[0xef][..], 0x1234_0009, 0),              // OUT DX, EAX: out DX, 4 bytes
        (&[0x66, 0xed][..], 0x1234_0015, 0),        // IN AX, DX: in DX, 2 bytes
        (&[0xe4, 0x60][..], 0x0060_0093, 0),        // IN AL, 0x60: in immediate
        (&[0x6c][..], 0x1234_0033, 0x5_0000),       // INSB
        (&[0x6f][..], 0x1234_0029, 0x4_0000),       // OUTSD
        (&[0xf3, 0x6c][..], 0x1234_0073, 0x5_0000), // REP INSB
        (&[0xf3, 0x66, 0x6f][..], 0x1234_0065, 0x4_0000), // REP OUTSW
    ] {
        let mut machine = io_machine(code);
        machine.run(1);
        let rip = machine.cpu().rip;
        enter(&mut machine);
        assert_eq!(machine.u32(MAP + 0x7fa4), state, "{code:x?}");
        assert_eq!(machine.u64(MAP + 0x7f9c), address, "{code:x?}");
        assert_eq!(machine.u64(MAP + 0x7de8), CODE, "{code:x?}");
        assert_eq!(machine.u64(MAP + 0x7fd8), rip, "{code:x?}");
    }
}

fn io_machine(code: &[u8]) -> Machine {
    let mut machine = Machine::long64();
    machine.load(CODE, code);
    machine.load(CODE + code.len() as u64, &[NOP, NOP]);
    for (register, value) in [(Gpr::Rdx, 0x1234), (Gpr::Rsi, 0x4_0000), (Gpr::Rdi, 0x5_0000), (Gpr::Rcx, 3)] {
        machine.cpu().gpr[register] = value;
    }
    machine
}

#[test]
fn an_smi_one_instruction_later_records_no_io() {
    let mut machine = io_machine(&[0xe6, 0x80]);
    machine.run(2);
    enter(&mut machine);
    assert_eq!((machine.u32(MAP + 0x7fa4), machine.u64(MAP + 0x7de8)), (0, 0));
}

#[test]
fn an_io_instruction_is_restarted_if_the_handler_asks_for_it() {
    for (restart, writes) in [(0xff, 2), (0, 1)] {
        let mut machine = io_machine(&[0xe6, 0x80]);
        machine.run(1);
        enter(&mut machine);
        machine.set_u16(MAP + 0x7f00, restart);
        machine.load(MAP, &RSM);
        machine.run(2);
        assert_eq!(machine.world.ports.take().len(), writes, "{restart:#x}");
    }
}

#[test]
fn an_iteration_of_a_string_instruction_is_restarted_with_its_registers() {
    let mut machine = io_machine(&[0xf3, 0x6c]);
    machine.world.port_value.set(0x55);
    machine.run(1);
    assert_eq!((machine.gpr(Gpr::Rcx), machine.gpr(Gpr::Rdi)), (2, 0x5_0001));
    enter(&mut machine);
    machine.set_u16(MAP + 0x7f00, 0xff);
    machine.load(MAP, &RSM);
    machine.run(1);
    assert_eq!((machine.gpr(Gpr::Rcx), machine.gpr(Gpr::Rdi), machine.cpu().rip), (3, 0x5_0000, CODE));
}

#[test]
fn restart_without_an_io_instruction_means_nothing() {
    let mut machine = io_machine(&[NOP]);
    machine.run(1);
    enter(&mut machine);
    machine.set_u16(MAP + 0x7f00, 0xff);
    machine.load(MAP, &RSM);
    machine.run(1);
    assert_eq!(machine.cpu().rip, CODE + 1);
}

#[test]
fn a_pending_single_step_trap_comes_behind_rsm() {
    let mut machine = with_handler(Machine::long64(), &RSM);
    machine.load(CODE, &[NOP, NOP]);
    machine.cpu().rflags |= Rflags::TF;
    machine.gate(1, CODE_0, 0x2_0000, crate::world::INTERRUPT_GATE);
    machine.run(1);
    raise_smi(&machine);
    machine.run(3); // SMI; RSM; #DB
    assert_eq!((machine.cpu().rip, machine.u64(STACK - 40)), (0x2_0000, CODE + 1));
}

#[test]
fn single_step_in_the_handler_ends_with_rsm() {
    let mut machine = with_handler(Machine::long64(), &RSM);
    enter(&mut machine);
    machine.cpu().rflags |= Rflags::TF;
    machine.run(1);
    assert_eq!((machine.cpu().rip, machine.cpu().pending_debug.bits()), (CODE, 0));
}

#[test]
fn smis_wait_in_the_wait_for_sipi_state() {
    let mut machine = Machine::real();
    machine.cpu().activity = ActivityState::WAIT_FOR_SIPI;
    raise_smi(&machine);
    assert_eq!(machine.run(1), Ran::Asleep);
    let mut pending = machine.world.pending.get();
    pending.sipi = Some(0x20);
    machine.world.pending.set(pending);
    machine.run(1);
    // The SIPI first, then the SMI before the first instruction.
    assert!(machine.cpu().in_smm);
    assert_eq!((machine.u32(MAP + 0x7fac), machine.u64(MAP + 0x7fd8)), (0x2000, 0));
}

/// VMXE cannot be set in SMM: MOV EAX, 0x2000; MOV CR4, EAX.
const SET_VMXE: [u8; 9] = [0x66, 0xb8, 0, 0x20, 0, 0, 0x0f, 0x22, 0xe0];

#[test]
fn vmxe_is_reserved_in_smm() {
    let mut machine = with_handler(Machine::long64(), &SET_VMXE);
    enter(&mut machine);
    machine.run(1);
    let Err(Stop::Raise(raised)) = machine.attempt(&SET_VMXE[6..]) else { panic!() };
    assert_eq!(raised.event, Event::exception_with_code(Exception::GP, 0));
}

/// A guest that executes two NOPs and CPUID, in front of the first NOP.
fn guest(change: impl FnOnce(&mut vmx_model::EntryState)) -> Machine {
    let mut machine = vmx::machine(change);
    machine.load(vmx::GUEST, &[NOP, NOP, 0x0f, 0xa2]);
    machine.load(MAP, &RSM);
    while !machine.processor.state.vmx.in_guest() {
        assert_eq!(machine.run(1), Ran::Budget);
    }
    machine
}

#[test]
fn an_smi_leaves_vmx_non_root_operation_and_rsm_comes_back() {
    let mut machine = guest(|_| {});
    let before = machine.processor.state.vmx;
    let cpu = *machine.cpu();
    enter(&mut machine);
    let vmx = &machine.processor.state.vmx;
    assert_eq!((vmx.state.operation, vmx.state.current_vmcs), (Operation::Outside, None));
    assert_eq!(machine.u64(MAP + 0x7fd8), vmx::GUEST);
    assert_eq!(machine.u64(MAP + 0x7e40) & 0x2000, 0);
    machine.run(1);
    assert_eq!(machine.processor.state.vmx, before);
    assert_eq!(*machine.cpu(), cpu);
    vmx::run(&mut machine);
    assert_eq!(vmx::exit(&machine), (ExitReason(10), 0, vmx::GUEST + 2));
}

#[test]
fn an_smi_leaves_vmx_root_operation_and_rsm_comes_back() {
    let mut machine = vmx::machine(|_| {});
    machine.load(vmx::GUEST, &[0x0f, 0xa2]);
    machine.load(MAP, &RSM);
    machine.run(1); // VMXON
    assert_eq!(machine.processor.state.vmx.state.operation, Operation::Root);
    let before = machine.processor.state.vmx;
    enter(&mut machine);
    assert_eq!(machine.processor.state.vmx.state.operation, Operation::Outside);
    machine.run(1);
    assert_eq!(machine.processor.state.vmx, before);
    assert!(machine.cpu().cr4.contains(Cr4::VMXE));
    vmx::run(&mut machine);
    assert_eq!(vmx::exit(&machine), (ExitReason(10), 0, vmx::GUEST));
}

#[test]
fn the_map_says_whether_ept_was_in_use() {
    let mut machine = vmx::machine(vmx::with_ept);
    vmx::ept(&mut machine);
    machine.load(vmx::GUEST, &[NOP, 0x0f, 0xa2]);
    machine.load(MAP, &RSM);
    while !machine.processor.state.vmx.in_guest() {
        machine.run(1);
    }
    enter(&mut machine);
    let eptp = machine.processor.state.smm.as_ref().unwrap().vmx.unwrap().vmcs.get(Field::EPT_POINTER);
    assert_eq!((machine.u32(MAP + 0x7ee0), machine.u64(MAP + 0x7ed8)), (1, eptp));
    vmx::run(&mut machine);
    assert_eq!(vmx::exit(&machine).0, ExitReason(10));
}

#[test]
fn rsm_makes_the_bits_that_vmx_fixes_as_they_have_to_be() {
    let mut machine = guest(|_| {});
    enter(&mut machine);
    let cr0 = machine.u64(MAP + 0x7ff8);
    machine.set_u64(MAP + 0x7ff8, cr0 & !0x20); // NE
    machine.run(1);
    assert_eq!(machine.cpu().cr0.bits(), cr0);
}

#[test]
fn rsm_to_a_guest_makes_the_rpls_the_privilege_level() {
    let mut machine = guest(|_| {});
    machine.cpu().segments[SegmentRegister::Ss].selector.0 |= 3;
    enter(&mut machine);
    machine.run(1);
    assert_eq!(machine.cpu().segments[SegmentRegister::Ss].selector.rpl(), 0);
}

#[test]
fn a_pending_mtf_exit_comes_behind_rsm() {
    let mut machine = guest(|state| {
        state.on(Control::MONITOR_TRAP_FLAG);
    });
    machine.run(1); // NOP
    assert!(machine.processor.state.vmx.guest.mtf_pending);
    enter(&mut machine);
    vmx::run(&mut machine);
    assert_eq!(vmx::exit(&machine), (ExitReason(37), 0, vmx::GUEST + 1));
}

#[test]
fn rsm_before_the_first_instruction_makes_no_mtf_exit_pending() {
    let mut machine = guest(|state| {
        state.on(Control::MONITOR_TRAP_FLAG);
    });
    enter(&mut machine);
    vmx::run(&mut machine);
    assert_eq!(vmx::exit(&machine), (ExitReason(37), 0, vmx::GUEST + 1));
}

#[test]
fn virtual_nmi_blocking_survives_and_nmis_are_not_blocked() {
    let mut machine = guest(|state| {
        state.on(Control::NMI_EXITING);
        state.on(Control::VIRTUAL_NMIS);
        state.set(Field::GUEST_INTERRUPTIBILITY_STATE, 8);
    });
    assert!(machine.processor.state.vmx.guest.virtual_nmi_blocking);
    enter(&mut machine);
    machine.run(1);
    assert!(machine.processor.state.vmx.guest.virtual_nmi_blocking);
    assert!(!machine.cpu().interruptibility.contains(Interruptibility::NMI));
}

#[derive(Default)]
struct Told(Vec<bool>);

impl Observer<crate::world::World> for Told {
    fn entered_smm(&mut self, state: &State) {
        assert_eq!(state.cpu.rip, 0x8000);
        self.0.push(true);
    }

    fn left_smm(&mut self, state: &State) {
        assert_eq!(state.cpu.rip, CODE);
        self.0.push(false);
    }
}

#[test]
fn an_observer_and_the_bus_learn_of_smm() {
    let mut machine = with_handler(Machine::long64(), &RSM);
    raise_smi(&machine);
    let mut told = Told::default();
    machine.processor.run_observed(&machine.world, machine.profile, 2, &mut told);
    assert_eq!(told.0, [true, false]);
    assert_eq!(machine.world.smm.take(), [true, false]);
    assert_eq!(machine.cpu().idtr.base, IDT);
}
