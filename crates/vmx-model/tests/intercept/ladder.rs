//! One literal table: each instruction without its controls, with them, and what comes before the intercept.

use crate::world::Want::{At, Exit, Gp, Normal, Told, Ud};
use crate::world::{OPERAND, SIMPLE, Want, World, long, memory, on_both};
use vmx_model::Control as C;
use vmx_model::intercept::table::Basis;
use vmx_model::intercept::{Guards, Row};
use vmx_model::reasons::ExitReason;
use vmx_model::{Effect, Field};
use x86_state::{
    Cr0, Cr4, Gpr, Instruction, MemoryOperand, Msr, Op, OpClass, Operand, Rflags, SegmentRegister, Size, Stage,
};

const RAX: Gpr = Gpr::Rax;
const RCX: Gpr = Gpr::Rcx;

/// On both backgrounds, after `change`.
fn case(name: &str, controls: &[C], instruction: Instruction, change: fn(&mut World), want: Want) {
    on_both(controls, |world| {
        change(world);
        assert_eq!(world.decide(&instruction), want, "{name}: {:?} with {controls:?}", instruction.op);
    });
}

fn nothing(_: &mut World) {}
fn user(world: &mut World) {
    world.cpl(3);
}

/// Without controls: most instructions run as ever, some exit, some do not exist.
#[test]
fn with_all_controls_0_only_the_unconditional_ones_exit() {
    let rm = memory(SIMPLE);
    let told = 0x01c1_8100;
    for (op, operand, want) in [
        (Op::Cpuid, Operand::None, Exit(10, 0)),
        (Op::Getsec, Operand::None, Exit(11, 0)),
        (Op::Hlt, Operand::None, Normal),
        (Op::Invd, Operand::None, Exit(13, 0)),
        (Op::Wbinvd, Operand::None, Normal),
        (Op::Wbnoinvd, Operand::None, Normal),
        (Op::Pause, Operand::None, Normal),
        (Op::Rsm, Operand::None, Normal),
        (Op::Iret, Operand::None, Normal),
        (Op::Monitor, Operand::None, Normal),
        (Op::Mwait { armed: true, extensions: 1 }, Operand::None, Normal),
        (Op::Umonitor, Operand::None, Ud),
        (Op::Umwait { register: RCX }, Operand::None, Ud),
        (Op::Tpause { register: RCX }, Operand::None, Ud),
        (Op::Rdtsc, Operand::None, Normal),
        (Op::Rdtscp, Operand::None, Ud),
        (Op::Rdpid, Operand::None, Ud),
        (Op::Rdpmc, Operand::None, Normal),
        (Op::Rdrand { register: RCX }, Operand::None, Normal),
        (Op::Rdseed { register: RCX }, Operand::None, Normal),
        (Op::MovToCr { number: 0, source: RAX, value: 0x8000_0031 }, Operand::None, Normal),
        (Op::MovToCr { number: 2, source: RAX, value: u64::MAX }, Operand::None, Normal),
        (Op::MovToCr { number: 3, source: RAX, value: u64::MAX }, Operand::None, Normal),
        (Op::MovToCr { number: 4, source: RAX, value: 0x2020 }, Operand::None, Normal),
        (Op::MovToCr { number: 8, source: RAX, value: u64::MAX }, Operand::None, Normal),
        (Op::MovFromCr { number: 0, destination: RAX }, Operand::None, Normal),
        (Op::MovFromCr { number: 3, destination: RAX }, Operand::None, Normal),
        (Op::MovFromCr { number: 4, destination: RAX }, Operand::None, Normal),
        (Op::MovFromCr { number: 8, destination: RAX }, Operand::None, Normal),
        (Op::Clts, Operand::None, Normal),
        (Op::Lmsw { source: 0xffff }, rm, Normal),
        (Op::Smsw, rm, Normal),
        (Op::MovToDr { number: 7, source: RAX }, Operand::None, Normal),
        (Op::MovFromDr { number: 7, destination: RAX }, Operand::None, Normal),
        (Op::Io { port: 0xffff, size_bytes: 4, input: true, immediate: false }, Operand::None, Normal),
        (Op::StringIo { port: 0xffff, size_bytes: 4, input: true, repeated: true }, rm, Normal),
        (Op::Rdmsr { msr: Msr::EFER }, Operand::None, Exit(31, 0)),
        (Op::Wrmsr { msr: Msr::EFER, value: 0 }, Operand::None, Exit(32, 0)),
        (Op::Wrmsrns { msr: Msr::EFER, value: 0 }, Operand::None, Exit(32, 1)),
        (Op::Rdmsrlist, Operand::None, Ud),
        (Op::Wrmsrlist, Operand::None, Ud),
        (Op::Urdmsr { msr: Msr(0x1b00) }, Operand::None, Exit(80, 0)),
        (Op::Uwrmsr { msr: Msr(0x1b00), value: 0 }, Operand::None, Exit(81, 0)),
        (Op::Xsetbv, Operand::None, Exit(55, 0)),
        (Op::Xsaves { components: u64::MAX }, rm, Ud),
        (Op::Xrstors { components: u64::MAX }, rm, Ud),
        (Op::Lgdt, rm, Normal),
        (Op::Lidt, rm, Normal),
        (Op::Sgdt, rm, Normal),
        (Op::Sidt, rm, Normal),
        (Op::Lldt, rm, Normal),
        (Op::Ltr, rm, Normal),
        (Op::Sldt, rm, Normal),
        (Op::Str, rm, Normal),
        (Op::Invlpg, rm, Normal),
        (Op::Invpcid { register: RCX }, rm, Ud),
        (Op::Encls { leaf: 0 }, Operand::None, Normal),
        (Op::Enclv { leaf: 0 }, Operand::None, Ud),
        (Op::Pconfig { leaf: 0 }, Operand::None, Ud),
        (Op::Loadiwkey { first: 1, second: 2 }, Operand::None, Normal),
        (Op::Enqcmd, rm, Normal),
        (Op::Enqcmds, rm, Normal),
        (Op::Seamcall, Operand::None, Exit(76, 0)),
        (Op::Tdcall, Operand::None, Exit(77, 0)),
        (Op::Invept { register: RCX }, rm, Told(50, 0, told | 0x1000_0000)),
        (Op::Invvpid { register: RCX }, rm, Told(53, 0, told | 0x1000_0000)),
        (Op::Vmcall, Operand::None, Exit(18, 0)),
        (Op::Vmclear, rm, Told(19, 0, told)),
        (Op::Vmfunc, Operand::None, Ud),
        (Op::Vmlaunch, Operand::None, Exit(20, 0)),
        (Op::Vmptrld, rm, Told(21, 0, told)),
        (Op::Vmptrst, rm, Told(22, 0, told)),
        (Op::Vmread { register: RCX }, rm, Told(23, 0, told | 0x1000_0000)),
        (Op::Vmresume, Operand::None, Exit(24, 0)),
        (Op::Vmwrite { register: RCX }, rm, Told(25, 0, told | 0x1000_0000)),
        (Op::Vmxoff, Operand::None, Exit(26, 0)),
        (Op::Vmxon, rm, Told(27, 0, told)),
    ] {
        let change = |world: &mut World| world.cpu.cr4 |= Cr4::OSXSAVE | Cr4::SMXE;
        case("no control", &[], long(op).with_operand(operand), change, want);
    }
}

#[test]
fn rows_that_exit_under_no_control_are_these() {
    for row in Row::TABLE {
        let exits = row.always && row.enabled_by.is_none() && row.class != OpClass::Rsm;
        let mut found = false;
        for op in UNCONDITIONALLY {
            found |= op == row.class;
        }
        assert_eq!(found, exits, "{}", row.class.mnemonic());
    }
}

const UNCONDITIONALLY: [OpClass; 23] = {
    use OpClass::*;
    [
        Cpuid, Getsec, Invd, Xsetbv, Invept, Invvpid, Vmcall, Vmclear, Vmlaunch, Vmptrld, Vmptrst, Vmresume, Vmxoff,
        Vmxon, Seamcall, Tdcall, Rdmsr, Wrmsr, Wrmsrns, Urdmsr, Uwrmsr, Vmread, Vmwrite,
    ]
};

/// One control, one exit; and the fault of privilege that comes before it.
#[test]
fn one_control_makes_one_exit() {
    let rm = memory(SIMPLE);
    let told = 0x01c1_8100;
    let none = Operand::None;
    for (control, op, operand, want, at_cpl_3) in [
        (C::HLT_EXITING, Op::Hlt, none, Exit(12, 0), Gp),
        (C::WBINVD_EXITING, Op::Wbinvd, none, Exit(54, 0), Gp),
        (C::WBINVD_EXITING, Op::Wbnoinvd, none, Exit(54, 1), Gp),
        (C::PAUSE_EXITING, Op::Pause, none, Exit(40, 0), Exit(40, 0)),
        (C::MONITOR_EXITING, Op::Monitor, none, Exit(39, 0), Ud),
        (C::MWAIT_EXITING, Op::Mwait { armed: false, extensions: 0 }, none, Exit(36, 0), Ud),
        (C::MWAIT_EXITING, Op::Mwait { armed: true, extensions: 0 }, none, Exit(36, 1), Ud),
        (C::RDTSC_EXITING, Op::Rdtsc, none, Exit(16, 0), Exit(16, 0)),
        (C::RDPMC_EXITING, Op::Rdpmc, none, Exit(15, 0), Gp),
        (C::RDRAND_EXITING, Op::Rdrand { register: RCX }, none, Told(57, 0, 0x1008), Told(57, 0, 0x1008)),
        (C::RDSEED_EXITING, Op::Rdseed { register: RCX }, none, Told(61, 0, 0x1008), Told(61, 0, 0x1008)),
        (C::MOV_DR_EXITING, Op::MovToDr { number: 7, source: RCX }, none, Exit(29, 0x107), Exit(29, 0x107)),
        (C::MOV_DR_EXITING, Op::MovFromDr { number: 4, destination: RCX }, none, Exit(29, 0x114), Exit(29, 0x114)),
        (C::DESCRIPTOR_TABLE_EXITING, Op::Sgdt, rm, Told(46, 0, told), Told(46, 0, told)),
        (C::DESCRIPTOR_TABLE_EXITING, Op::Sidt, rm, Told(46, 0, told | 1 << 28), Told(46, 0, told | 1 << 28)),
        (C::DESCRIPTOR_TABLE_EXITING, Op::Lgdt, rm, Told(46, 0, told | 2 << 28), Gp),
        (C::DESCRIPTOR_TABLE_EXITING, Op::Lidt, rm, Told(46, 0, told | 3 << 28), Gp),
        (C::DESCRIPTOR_TABLE_EXITING, Op::Sldt, rm, Told(47, 0, told), Told(47, 0, told)),
        (C::DESCRIPTOR_TABLE_EXITING, Op::Str, rm, Told(47, 0, told | 1 << 28), Told(47, 0, told | 1 << 28)),
        (C::DESCRIPTOR_TABLE_EXITING, Op::Lldt, rm, Told(47, 0, told | 2 << 28), Gp),
        (C::DESCRIPTOR_TABLE_EXITING, Op::Ltr, rm, Told(47, 0, told | 3 << 28), Gp),
        (C::INVLPG_EXITING, Op::Invlpg, rm, Exit(14, 0xffff_8000_1234_5678), Gp),
        (C::CR3_STORE_EXITING, Op::MovFromCr { number: 3, destination: RCX }, none, Exit(28, 0x113), Gp),
        (C::CR8_STORE_EXITING, Op::MovFromCr { number: 8, destination: RCX }, none, Exit(28, 0x118), Gp),
        (C::CR8_LOAD_EXITING, Op::MovToCr { number: 8, source: RCX, value: u64::MAX }, none, Exit(28, 0x108), Gp),
        (C::LOADIWKEY_EXITING, Op::Loadiwkey { first: 1, second: 2 }, none, Told(69, 0, 0x2000_0008), Gp),
    ] {
        let key_locker = |world: &mut World| world.cpu.cr4 |= Cr4::KL | Cr4::OSFXSR;
        case("CPL 0", &[control], long(op).with_operand(operand), key_locker, want);
        let user = |world: &mut World| {
            world.cpl(3);
            world.cpu.cr4 |= Cr4::KL | Cr4::OSFXSR;
        };
        case("CPL 3", &[control], long(op).with_operand(operand), user, at_cpl_3);
    }
}

/// Instructions that exist only with a control, and what they do with it.
#[test]
fn controls_that_turn_instructions_into_ud() {
    let (rm, none) = (memory(SIMPLE), Operand::None);
    let wait = C::ENABLE_USER_WAIT_AND_PAUSE;
    for (enable, op, operand, plain) in [
        (wait, Op::Umonitor, none, Normal),
        (wait, Op::Umwait { register: RCX }, none, Normal),
        (wait, Op::Tpause { register: RCX }, none, Normal),
        (C::ENABLE_RDTSCP, Op::Rdtscp, none, Normal),
        (C::ENABLE_RDTSCP, Op::Rdpid, none, Normal),
        (C::ENABLE_INVPCID, Op::Invpcid { register: RCX }, rm, Normal),
        (C::ENABLE_XSAVES_XRSTORS, Op::Xsaves { components: u64::MAX }, rm, Normal),
        (C::ENABLE_XSAVES_XRSTORS, Op::Xrstors { components: u64::MAX }, rm, Normal),
        (C::ENABLE_ENCLV_EXITING, Op::Enclv { leaf: 1 }, none, Normal),
        (C::ENABLE_PCONFIG, Op::Pconfig { leaf: 1 }, none, Normal),
        (C::ENABLE_MSR_LIST, Op::Rdmsrlist, none, Exit(78, 0)),
        (C::ENABLE_MSR_LIST, Op::Wrmsrlist, none, Exit(79, 0)),
    ] {
        let instruction = long(op).with_operand(operand);
        // #UD comes before everything else, at any privilege.
        let all_but_it = |world: &mut World| {
            world.on(C::INVLPG_EXITING);
            world.on(C::RDTSC_EXITING);
            world.cpl(3);
            world.cpu.cr4 |= Cr4::TSD;
        };
        case("disabled", &[], instruction, all_but_it, Ud);
        case("enabled", &[enable], instruction, nothing, plain);
        case(
            "not activated",
            &[enable],
            instruction,
            |world| {
                world.set(Field::PRIMARY_PROC_BASED_CONTROLS, 0);
            },
            Ud,
        );
    }
}

#[test]
fn enabled_instructions_that_exit() {
    let rm = memory(SIMPLE);
    let wait = [C::ENABLE_USER_WAIT_AND_PAUSE, C::RDTSC_EXITING];
    let tsd = |world: &mut World| {
        world.cpl(1);
        world.cpu.cr4 |= Cr4::TSD;
    };
    let umwait = Instruction::new(Op::Umwait { register: RCX }, 4);
    let tpause = Instruction::new(Op::Tpause { register: RCX }, 4);
    case("UMWAIT", &wait, umwait, user, Told(67, 0, 0x0808));
    case("UMWAIT", &wait, umwait, tsd, Gp);
    case("TPAUSE", &wait, tpause, user, Told(68, 0, 0x0808));
    case("TPAUSE", &wait, tpause, tsd, Gp);
    let invpcid = long(Op::Invpcid { register: RCX }).with_operand(rm);
    case("INVPCID", &[C::ENABLE_INVPCID, C::INVLPG_EXITING], invpcid, nothing, Told(58, 0, 0x11c1_8100));
    case("INVPCID", &[C::ENABLE_INVPCID, C::INVLPG_EXITING], invpcid, user, Gp);
    case("INVPCID", &[C::ENABLE_INVPCID, C::INVLPG_EXITING], invpcid, World::virtual_8086, Gp);
}

/// B-79: RDTSCP is #UD without "enable RDTSCP" and exits with "RDTSC exiting" if it is enabled.
#[test]
fn b_79_rdtscp_is_gated_by_both_controls() {
    let rdtscp = long(Op::Rdtscp);
    let tsd = |world: &mut World| {
        world.cpl(3);
        world.cpu.cr4 |= Cr4::TSD;
    };
    for (controls, change, want) in [
        (&[][..], nothing as fn(&mut World), Ud),
        (&[C::RDTSC_EXITING], nothing, Ud),
        (&[C::ENABLE_RDTSCP], nothing, Normal),
        (&[C::ENABLE_RDTSCP, C::RDTSC_EXITING], nothing, Exit(51, 0)),
        (&[C::ENABLE_RDTSCP, C::RDTSC_EXITING], user, Exit(51, 0)),
        (&[C::ENABLE_RDTSCP, C::RDTSC_EXITING], tsd, Gp),
        (&[C::RDTSC_EXITING], tsd, Ud),
    ] {
        case("RDTSCP", controls, rdtscp, change, want);
    }
}

/// Conditions of registers and mode, each with the control set that would make the instruction exit.
#[test]
fn faults_that_come_before_the_exit() {
    let rm = memory(SIMPLE);
    let umip = |world: &mut World| {
        world.cpl(3);
        world.cpu.cr4 |= Cr4::UMIP;
    };
    let tables = &[C::DESCRIPTOR_TABLE_EXITING][..];
    for op in [Op::Sgdt, Op::Sidt, Op::Sldt, Op::Str] {
        case("UMIP", tables, long(op).with_operand(rm), umip, Gp);
    }
    for op in [Op::Lldt, Op::Ltr, Op::Sldt, Op::Str] {
        for mode in [World::virtual_8086, World::real_mode] {
            case("not recognized", tables, Instruction::new(op, 3).with_operand(rm), mode, Ud);
        }
    }
    let sgdt = Instruction::new(Op::Sgdt, 3).with_operand(rm);
    case("SGDT in virtual-8086 mode", tables, sgdt, World::virtual_8086, Told(46, 0, 0x01c1_8880));
    case("SGDT in real-address mode", tables, sgdt, World::real_mode, Told(46, 0, 0x01c1_8880));
    case(
        "LGDT in real-address mode",
        tables,
        Instruction::new(Op::Lgdt, 3).with_operand(rm),
        World::real_mode,
        Told(46, 0, 0x21c1_8880),
    );
    case("LGDT in virtual-8086 mode", tables, Instruction::new(Op::Lgdt, 3).with_operand(rm), World::virtual_8086, Gp);
    case("HLT in virtual-8086 mode", &[C::HLT_EXITING], long(Op::Hlt), World::virtual_8086, Gp);
    case("HLT in real-address mode", &[C::HLT_EXITING], long(Op::Hlt), World::real_mode, Exit(12, 0));
    case("MONITOR in virtual-8086 mode", &[C::MONITOR_EXITING], long(Op::Monitor), World::virtual_8086, Ud);

    case("GETSEC without SMXE", &[], long(Op::Getsec), nothing, Ud);
    case(
        "GETSEC at CPL 3",
        &[],
        long(Op::Getsec),
        |world| {
            world.cpl(3);
            world.cpu.cr4 |= Cr4::SMXE;
        },
        Exit(11, 0),
    );
    case("XSETBV without OSXSAVE", &[], long(Op::Xsetbv), user, Ud);
    case(
        "XSETBV at CPL 3",
        &[],
        long(Op::Xsetbv),
        |world| {
            world.cpl(3);
            world.cpu.cr4 |= Cr4::OSXSAVE;
        },
        Gp,
    );
    case("INVD at CPL 1", &[], long(Op::Invd), |world| world.cpl(1), Gp);
    case("CPUID at CPL 3", &[], long(Op::Cpuid), user, Exit(10, 0));
    case("RDMSR at CPL 3", &[], long(Op::Rdmsr { msr: Msr(0xdead_beef) }), user, Gp);
    case("WRMSR at CPL 3", &[], long(Op::Wrmsr { msr: Msr::EFER, value: 0 }), user, Gp);
    case("WRMSRNS at CPL 3", &[], long(Op::Wrmsrns { msr: Msr::EFER, value: 0 }), user, Gp);

    let pce = |world: &mut World| {
        world.cpl(3);
        world.cpu.cr4 |= Cr4::PCE;
    };
    case("RDPMC with PCE", &[C::RDPMC_EXITING], long(Op::Rdpmc), pce, Exit(15, 0));
    let tsd = |world: &mut World| {
        world.cpl(3);
        world.cpu.cr4 |= Cr4::TSD;
    };
    case("RDTSC with TSD", &[C::RDTSC_EXITING], long(Op::Rdtsc), tsd, Gp);
    case("RDMSRLIST at CPL 3", &[C::ENABLE_MSR_LIST], long(Op::Rdmsrlist), user, Gp);
    case("RDMSRLIST outside 64-bit mode", &[C::ENABLE_MSR_LIST], long(Op::Rdmsrlist), World::mode_32, Ud);
}

/// Rev 092, 35.5: SEAMCALL is #UD in SMM and outside 64-bit mode; SEAMCALL and TDCALL are #GP(0) at CPL > 0 before they exit.
#[test]
fn seam_instructions_fault_before_they_exit() {
    for (name, op, change, want) in [
        ("SEAMCALL", Op::Seamcall, nothing as fn(&mut World), Exit(76, 0)),
        ("SEAMCALL at CPL 3", Op::Seamcall, user, Gp),
        ("SEAMCALL in SMM", Op::Seamcall, |world| world.cpu.in_smm = true, Ud),
        ("SEAMCALL in 32-bit mode", Op::Seamcall, World::mode_32, Ud),
        ("SEAMCALL in real-address mode", Op::Seamcall, World::real_mode, Ud),
        ("SEAMCALL in virtual-8086 mode", Op::Seamcall, World::virtual_8086, Ud),
        ("TDCALL", Op::Tdcall, nothing, Exit(77, 0)),
        ("TDCALL at CPL 3", Op::Tdcall, user, Gp),
        ("TDCALL in 32-bit mode", Op::Tdcall, World::mode_32, Exit(77, 0)),
        ("TDCALL in real-address mode", Op::Tdcall, World::real_mode, Exit(77, 0)),
        ("TDCALL in virtual-8086 mode", Op::Tdcall, World::virtual_8086, Gp),
    ] {
        case(name, &[], long(op), change, want);
    }
}

/// 25.1.3: MOV DR exits before #GP of privilege and #UD of CR4.DE. Without the control both are the instruction's own.
#[test]
fn mov_dr_exits_before_its_faults() {
    let change = |world: &mut World| {
        world.cpl(3);
        world.cpu.cr4 |= Cr4::DE;
    };
    let mov = long(Op::MovFromDr { number: 5, destination: RAX });
    case("exiting", &[C::MOV_DR_EXITING], mov, change, Exit(29, 0x15));
    case("virtual-8086 mode", &[C::MOV_DR_EXITING], mov, World::virtual_8086, Exit(29, 0x15));
    case("not exiting", &[], mov, change, Normal);
}

#[test]
fn key_locker_needs_its_control_bits() {
    let loadiwkey = long(Op::Loadiwkey { first: 0, second: 0 });
    for (cr4, em, want) in [
        (Cr4::KL | Cr4::OSFXSR, false, Told(69, 0, 0)),
        (Cr4::KL | Cr4::OSFXSR, true, Ud),
        (Cr4::KL, false, Ud),
        (Cr4::OSFXSR, false, Ud),
    ] {
        on_both(&[C::LOADIWKEY_EXITING], |world| {
            world.cpu.cr4 |= cr4;
            world.cpu.cr0.set(Cr0::EM, em);
            // #NM comes after the exit.
            world.cpu.cr0 |= Cr0::TS;
            assert_eq!(world.decide(&loadiwkey), want, "{cr4:?} {em}");
        });
    }
}

/// Leaf functions below 63 have a bit each; bit 63 has the others.
#[test]
fn bitmaps_of_leaf_functions() {
    for (bitmap, leaf, exits) in [
        (0, 0, false),
        (1, 0, true),
        (!1, 0, false),
        (1 << 62, 62, true),
        (1 << 63, 62, false),
        (1 << 63, 63, true),
        (1 << 63, 64, true),
        (1 << 63, u32::MAX, true),
        (!(1 << 63), u32::MAX, false),
        (1 << 31, 31 + 64, false),
    ] {
        for (field, enable, op, reason) in [
            (Field::ENCLS_EXITING_BITMAP, C::ENABLE_ENCLS_EXITING, Op::Encls { leaf }, ExitReason::ENCLS),
            (Field::ENCLV_EXITING_BITMAP, C::ENABLE_ENCLV_EXITING, Op::Enclv { leaf }, ExitReason::ENCLV),
            (Field::PCONFIG_EXITING_BITMAP, C::ENABLE_PCONFIG, Op::Pconfig { leaf }, ExitReason::PCONFIG),
        ] {
            on_both(&[enable], |world| {
                world.set(field, bitmap);
                let want = if exits { Exit(reason.0, 0) } else { Normal };
                assert_eq!(world.decide(&long(op)), want, "{op:?} {bitmap:#x}");
                // All three are #UD above CPL 0, before the exit.
                world.cpl(1);
                let fault = if bitmap == 0 && reason != ExitReason::ENCLS { Normal } else { Ud };
                assert_eq!(world.decide(&long(op)), fault, "{op:?} {bitmap:#x} at CPL 1");
            });
        }
    }
}

#[test]
fn sgx_is_ud_in_smm_and_unprotected_modes() {
    for change in [World::virtual_8086, World::real_mode, |world: &mut World| world.cpu.in_smm = true] {
        on_both(&[C::ENABLE_ENCLS_EXITING, C::ENABLE_ENCLV_EXITING], |world| {
            world.set(Field::ENCLS_EXITING_BITMAP, u64::MAX);
            world.set(Field::ENCLV_EXITING_BITMAP, u64::MAX);
            change(world);
            assert_eq!(world.decide(&long(Op::Encls { leaf: 0 })), Ud);
            assert_eq!(world.decide(&long(Op::Enclv { leaf: 0 })), Ud);
        });
    }
}

/// XSAVES and XRSTORS exit on a component that is in EDX:EAX, IA32_XSS and the bitmap.
#[test]
fn xss_exiting_bitmap() {
    for (components, xss, bitmap, exits) in [
        (0x100, 0x100, 0x100, true),
        (0x100, 0x100, !0x100, false),
        (0x100, !0x100, 0x100, false),
        (!0x100, 0x100, 0x100, false),
        (u64::MAX, u64::MAX, 1 << 63, true),
        (u64::MAX, u64::MAX, 0, false),
    ] {
        for (op, reason) in
            [(Op::Xsaves { components }, ExitReason::XSAVES), (Op::Xrstors { components }, ExitReason::XRSTORS)]
        {
            on_both(&[C::ENABLE_XSAVES_XRSTORS], |world| {
                world.cpu.cr4 |= Cr4::OSXSAVE;
                world.cpu.cr0 |= Cr0::TS;
                world.cpu.xss = xss;
                world.set(Field::XSS_EXITING_BITMAP, bitmap);
                let instruction = long(op).with_operand(memory(OPERAND));
                let want = if exits { Told(reason.0, 0xffff_ffff_ffff_fff8, 0x0199_8102) } else { Normal };
                assert_eq!(world.decide(&instruction), want, "{components:#x} {xss:#x} {bitmap:#x}");
                world.cpl(3);
                let want = if bitmap == 0 { Normal } else { Gp };
                assert_eq!(world.decide(&instruction), want);
            });
        }
    }
}

#[test]
fn rsm_exits_in_smm_only() {
    case("in SMM", &[], long(Op::Rsm), |world| world.cpu.in_smm = true, Exit(17, 0));
    case("outside SMM, where it is #UD by itself", &[], long(Op::Rsm), nothing, Normal);
}

#[test]
fn iret_and_the_blocking_of_nmis() {
    for (controls, want) in [
        (&[][..], Normal),
        (&[C::NMI_EXITING], Want::Instead(Effect::KeepNmiBlocking)),
        (&[C::NMI_EXITING, C::VIRTUAL_NMIS], Want::Instead(Effect::UnblockVirtualNmis)),
    ] {
        case("IRET", controls, long(Op::Iret), nothing, want);
        case("IRET", controls, long(Op::Iret), user, want);
    }
}

/// 25.1.3: a field's bit in the bitmap, and encodings that have none.
#[test]
fn vmcs_shadowing() {
    const READ: u64 = 0xa000;
    const WRITE: u64 = 0xb000;
    let instruction = |op| long(op).with_operand(Operand::Register(Gpr::Rdx));
    let read = instruction(Op::Vmread { register: RCX });
    let write = instruction(Op::Vmwrite { register: RCX });
    on_both(&[C::VMCS_SHADOWING], |world| {
        world.set(Field::VMREAD_BITMAP_ADDRESS, READ);
        world.set(Field::VMWRITE_BITMAP_ADDRESS, WRITE);
        world.memory.zero(READ, 4096);
        world.memory.zero(WRITE, 4096);
        world.memory.flip(READ, 0x6802);
        world.memory.flip(WRITE, 0x7fff);
        for (encoding, reads, writes) in [
            (0x6800, false, false),
            (0x6802, true, false),
            (0x7fff, false, true),
            (0x8000, true, true),
            (1 << 32, true, true),
            (1 << 63, true, true),
        ] {
            world.cpu.gpr[RCX] = encoding;
            let want = |exits, reason| if exits { Told(reason, 0, 0x1000_0410) } else { Normal };
            assert_eq!(world.decide(&read), want(reads, 23), "VMREAD {encoding:#x}");
            assert_eq!(world.decide(&write), want(writes, 25), "VMWRITE {encoding:#x}");
        }
        world.mode_32();
        world.cpu.gpr[RCX] = 1 << 63 | 0x6800;
        assert_eq!(world.decide(&read), Normal, "outside 64-bit mode bits 63:32 are not there");
    });
}

/// Bochs 608775cd5: what does not exit has its fault of privilege all the same; the exit comes before it.
#[test]
fn bochs_608775cd5_vmread_exits_before_the_privilege_check() {
    let read = long(Op::Vmread { register: RCX }).with_operand(Operand::Register(Gpr::Rdx));
    case("exits at CPL 3", &[], read, user, Told(23, 0, 0x1000_0410));
    case(
        "does not exit, and leaves #GP(0) to the instruction",
        &[C::VMCS_SHADOWING],
        read,
        |world| {
            world.set(Field::VMREAD_BITMAP_ADDRESS, 0xa000);
            world.memory.zero(0xa000, 4096);
            world.cpu.gpr[RCX] = 0x6800;
            world.cpl(3);
        },
        Normal,
    );
}

/// 25.5.6.2 and 25.5.6.3.
#[test]
fn vmfunc() {
    for (name, functions, eax, ecx, want) in [
        ("no such function", u64::MAX, 64, 0, Ud),
        ("no such function, disabled too", 0, u64::from(u32::MAX), 0, Ud),
        ("EPTP switching, disabled", 0, 0, 0, Exit(59, 0)),
        ("disabled function 63", 1, 63, 0, Exit(59, 0)),
        ("EPTP switching", 1, 0, 511, Normal),
        ("bits 63:32 do not matter", 1, 1 << 32, 1 << 32, Normal),
        ("beyond the EPTP list", 1, 0, 512, Exit(59, 0)),
    ] {
        on_both(&[C::ENABLE_VM_FUNCTIONS], |world| {
            world.set(Field::VM_FUNCTION_CONTROLS, functions);
            world.cpu.gpr[RAX] = eax;
            world.cpu.gpr[RCX] = ecx;
            for cpl in [0, 3] {
                world.cpl(cpl);
                assert_eq!(world.decide(&long(Op::Vmfunc)), want, "{name}");
            }
        });
    }
}

#[test]
fn vmfunc_exits_while_the_guest_is_traced_with_guest_physical_addresses() {
    for (trace_en, control, exits) in [(0, true, false), (1, true, true), (1, false, false), (!1, true, false)] {
        on_both(&[C::EPTP_SWITCHING], |world| {
            (world.cpu.gpr[RAX], world.cpu.gpr[RCX], world.cpu.rtit_ctl) = (0, 0, trace_en);
            if control {
                world.on(C::PT_USES_GUEST_PHYSICAL_ADDRESSES);
            }
            let want = if exits { Exit(59, 0) } else { Normal };
            assert_eq!(world.decide(&long(Op::Vmfunc)), want, "{trace_en:#x} {control}");
        });
    }
}

#[test]
fn invlpg_reports_32_bits_outside_64_bit_mode() {
    let operand = MemoryOperand { segment: SegmentRegister::Fs, ..OPERAND };
    let instruction = Instruction::new(Op::Invlpg, 3).with_operand(memory(operand));
    case("32-bit", &[C::INVLPG_EXITING], instruction, World::mode_32, Exit(14, 0x1234_5678));
}

/// The whole answer, once: nothing but what the manual lists is recorded.
#[test]
fn an_exit_records_length_and_clears_rf() {
    let outs = Op::StringIo { port: 0x3f8, size_bytes: 1, input: false, repeated: true };
    let mut instruction = Instruction::new(outs, 2).with_operand(memory(SIMPLE));
    instruction.address_size = Size::Bits32;
    case(
        "REP OUTSB",
        &[C::UNCONDITIONAL_IO_EXITING],
        instruction,
        |world| {
            world.cpu.gpr[RCX] = 1;
            world.cpu.rflags |= Rflags::RF;
            world.cpu.segments[SegmentRegister::Ds].rights = x86_state::AccessRights::DATA_32;
        },
        At(30, 0x03f8_0030, Some(0x0001_8080), OPERAND.linear.0),
    );
}

/// Where each intercept stands, against the sections that say so.
#[test]
fn stages() {
    for row in Row::TABLE {
        use OpClass::*;
        let expected = match row.class {
            MovToDr | MovFromDr => Stage::BeforePrivilege,
            Lmsw | Enqcmd | Enqcmds => Stage::AfterOperands,
            Getsec | Vmfunc | Invept | Invvpid => Stage::AfterInvalidOpcode,
            Vmcall | Vmclear | Vmlaunch | Vmptrld | Vmptrst | Vmread | Vmresume | Vmwrite | Vmxoff | Vmxon => {
                Stage::AfterInvalidOpcode
            }
            _ => Stage::AfterPrivilege,
        };
        assert_eq!(row.stage, expected, "{}", row.class.mnemonic());
        if expected == Stage::BeforePrivilege {
            assert_eq!(row.guards, Guards::NONE);
        }
    }
}

#[test]
fn what_is_not_modelled_says_so() {
    let named = Row::TABLE.iter().filter(|row| row.basis == Basis::NamedOnly).map(|row| row.class);
    assert!(named.eq([OpClass::Enqcmd, OpClass::Enqcmds]));
}

/// The mnemonics of 27.2.5 that have instruction information, and no others.
#[test]
fn instruction_information_is_recorded_for_the_instructions_of_27_2_5() {
    use OpClass::*;
    let listed = [
        Umwait, Tpause, Rdrand, Rdseed, StringIo, Xsaves, Xrstors, Lgdt, Lidt, Sgdt, Sidt, Lldt, Ltr, Sldt, Str,
        Invpcid, Loadiwkey, Invept, Invvpid, Vmclear, Vmptrld, Vmptrst, Vmread, Vmwrite, Vmxon,
    ];
    let informed = Row::TABLE.iter().filter(|row| row.information.table().is_some()).map(|row| row.class);
    assert!(informed.eq(listed));
}
