//! Does each instruction look at its conditions in the manual's order? One literal table for each instruction.
//!
//! A row breaks one condition in a world in which the instruction would succeed. Alone it gives the outcome that the row names; of two
//! broken conditions the one that stands first in the table decides. The tables are written from SDM 3C 30.3 (rev 077), not from the ladders;
//! that the ladders have the same rungs in the same order is a test, too.

use crate::insn_support::{CURRENT, EPTP_LIST, MSEG, OTHER, PAGE_FAULT, VMXON, World};
use softvirt_ept::Invalidate;
use vmx_model::errors::InstructionError;
use vmx_model::insn::{Ladder, NotModelled, Outcome, Rung};
use vmx_model::known::Operation;
use vmx_model::vmcs::LaunchState;
use vmx_model::{Control, Field, VmxState};
use x86_state::{
    Cr0, Cr4, Event, Exception, Feature, Gpr, Gva, Hpa, Op, OpClass, Operand, PhysMemory, Rflags, SegmentRegister,
    VmxMsr,
};

/// How an instruction ends.
#[derive(Clone, Copy, Debug, PartialEq)]
enum Ends {
    Ud,
    Gp,
    /// VM exit with this basic exit reason.
    Exit(u16),
    FailInvalid,
    /// VMfail; without a current VMCS VMfailInvalid.
    Fail(u32),
    PageFault,
    SmmVmExit,
}
use Ends::*;

/// The rung's name, what breaks it, how the instruction then ends.
#[derive(Clone, Copy)]
struct Step(&'static str, fn(&mut World), Ends);

struct Table {
    class: OpClass,
    /// A world in which the instruction succeeds.
    world: fn() -> World,
    /// Its outcome there.
    succeeds: Outcome<&'static str>,
    steps: &'static [Step],
    /// Pairs of conditions that cannot both be broken.
    exclusive: &'static [(&'static str, &'static str)],
}

const REGISTER: Step = Step("RegisterOperand", |w| w.instruction.operand = Operand::Register(Gpr::Rsi), Ud);
const OUTSIDE: Step = Step("OutsideVmx", |w| w.vmx.state.operation = Operation::Outside, Ud);
const REAL: Step = Step("RealMode", |w| w.cpu.cr0.remove(Cr0::PE), Ud);
const V86: Step = Step("Virtual8086", |w| w.cpu.rflags.insert(Rflags::VM), Ud);
const COMPATIBILITY: Step = Step("CompatibilityMode", |w| w.cpu.segments[SegmentRegister::Cs].rights.0 = 0xc09b, Ud);
const CPL: Step = Step("UserMode", |w| w.cpu.segments[SegmentRegister::Ss].rights.0 |= 3 << 5, Gp);
const READ: Step = Step("Read", |w| w.operands.faults = true, PageFault);
const MISALIGNED: fn(&mut World) = |w| w.set_pointer(w.pointer() | 0x800);
const TOO_WIDE: fn(&mut World) = |w| w.set_pointer(w.pointer() | 1 << 52);
const VMXON_POINTER: fn(&mut World) = |w| w.set_pointer(VMXON);

const fn exits(reason: u16) -> Step {
    Step("Intercept", World::enter_guest, Exit(reason))
}

const OPERATION: (&str, &str) = ("OutsideVmx", "Intercept");
/// The VMXON pointer was checked at VMXON: it is aligned and narrow enough.
const POINTERS: [(&str, &str); 2] = [("PointerMisaligned", "IsVmxonPointer"), ("PointerTooWide", "IsVmxonPointer")];

fn with_pointer(op: Op, pointer: u64) -> World {
    let mut world = World::root(op);
    world.set_pointer(pointer);
    world
}

fn with_descriptor(op: Op, kind: u64, low: u64, high: u64) -> World {
    let mut world = World::root(op);
    world.cpu.gpr[Gpr::Rcx] = kind;
    world.set_descriptor(low, high);
    world
}

const VMCLEAR: Table = Table {
    class: OpClass::Vmclear,
    world: || with_pointer(Op::Vmclear, OTHER),
    succeeds: Outcome::Succeed,
    steps: &[
        REGISTER,
        OUTSIDE,
        REAL,
        V86,
        COMPATIBILITY,
        exits(19),
        CPL,
        READ,
        Step("PointerMisaligned", MISALIGNED, Fail(2)),
        Step("PointerTooWide", TOO_WIDE, Fail(2)),
        Step("IsVmxonPointer", VMXON_POINTER, Fail(3)),
    ],
    exclusive: &[OPERATION, POINTERS[0], POINTERS[1]],
};

const VMPTRLD: Table = Table {
    class: OpClass::Vmptrld,
    world: || with_pointer(Op::Vmptrld, OTHER),
    succeeds: Outcome::Succeed,
    steps: &[
        REGISTER,
        OUTSIDE,
        REAL,
        V86,
        COMPATIBILITY,
        exits(21),
        CPL,
        READ,
        Step("PointerMisaligned", MISALIGNED, Fail(9)),
        Step("PointerTooWide", TOO_WIDE, Fail(9)),
        Step("IsVmxonPointer", VMXON_POINTER, Fail(10)),
        Step("WrongRevision", |w| w.ram.write_u16(Hpa(OTHER), 0x5a5a), Fail(11)),
        Step(
            "ShadowUnsupported",
            |w| {
                w.ram.write_u8(Hpa(OTHER + 3), w.ram.read_u8(Hpa(OTHER + 3)) | 0x80);
                w.lacks(VmxMsr::ProcbasedCtls2, 1 << 46);
            },
            Fail(11),
        ),
    ],
    exclusive: &[OPERATION, POINTERS[0], POINTERS[1]],
};

const VMPTRST: Table = Table {
    class: OpClass::Vmptrst,
    world: || World::root(Op::Vmptrst),
    succeeds: Outcome::Succeed,
    steps: &[
        REGISTER,
        OUTSIDE,
        REAL,
        V86,
        COMPATIBILITY,
        exits(22),
        CPL,
        Step("Destination", |w| w.operands.faults = true, PageFault),
    ],
    exclusive: &[OPERATION],
};

/// GUEST_RIP.
const ENCODING: u64 = 0x681e;

const VMREAD: Table = Table {
    class: OpClass::Vmread,
    world: || {
        let mut world = World::root(Op::Vmread { register: Gpr::Rbx });
        world.cpu.gpr[Gpr::Rbx] = ENCODING;
        world
    },
    succeeds: Outcome::Succeed,
    steps: &[
        OUTSIDE,
        REAL,
        V86,
        COMPATIBILITY,
        exits(23),
        CPL,
        Step("NoVmcs", |w| w.vmx.state.current_vmcs = None, FailInvalid),
        Step("FieldUnsupported", |w| w.cpu.gpr[Gpr::Rbx] = 0x7ffe, Fail(12)),
        Step("Destination", |w| w.operands.faults = true, PageFault),
    ],
    exclusive: &[OPERATION],
};

const VMWRITE: Table = Table {
    class: OpClass::Vmwrite,
    world: || {
        let mut world = World::root(Op::Vmwrite { register: Gpr::Rbx });
        // The exit reason, on a processor that lets VMWRITE modify it.
        world.cpu.gpr[Gpr::Rbx] = 0x4402;
        world
    },
    succeeds: Outcome::Succeed,
    steps: &[
        OUTSIDE,
        REAL,
        V86,
        COMPATIBILITY,
        exits(25),
        CPL,
        Step("NoVmcs", |w| w.vmx.state.current_vmcs = None, FailInvalid),
        Step("Source", |w| w.operands.faults = true, PageFault),
        Step("FieldUnsupported", |w| w.cpu.gpr[Gpr::Rbx] = 0x7ffe, Fail(12)),
        Step("FieldReadOnly", |w| w.lacks(VmxMsr::Misc, 1 << 29), Fail(13)),
    ],
    exclusive: &[OPERATION],
};

const VMXOFF: Table = Table {
    class: OpClass::Vmxoff,
    world: || World::root(Op::Vmxoff),
    succeeds: Outcome::Invalidate(Invalidate::VmxonVmxoff),
    steps: &[
        OUTSIDE,
        REAL,
        V86,
        COMPATIBILITY,
        exits(26),
        CPL,
        Step("DualMonitorActive", |w| w.vmx.state.dual_monitor_active = true, Fail(23)),
    ],
    exclusive: &[OPERATION],
};

const VMXON_TABLE: Table = Table {
    class: OpClass::Vmxon,
    world: || {
        let mut world = with_pointer(Op::Vmxon, VMXON);
        world.vmx.state = VmxState { operation: Operation::Outside, ..VmxState::default() };
        world
    },
    succeeds: Outcome::Invalidate(Invalidate::VmxonVmxoff),
    steps: &[
        REGISTER,
        REAL,
        Step("VmxDisabled", |w| w.cpu.cr4.remove(Cr4::VMXE), Ud),
        V86,
        COMPATIBILITY,
        exits(27),
        CPL,
        Step(
            "InVmxRoot",
            |w| {
                w.vmx.state.operation = Operation::Root;
                w.vmx.state.current_vmcs = Some(Hpa(CURRENT));
            },
            Fail(15),
        ),
        Step("A20m", |w| w.vmx.a20m = true, Gp),
        Step("Cr0Unsupported", |w| w.cpu.cr0.remove(Cr0::NE), Gp),
        Step("Cr4Unsupported", |w| w.cpu.cr4 |= Cr4::from_bits_retain(1 << 40), Gp),
        Step("FeatureControlUnlocked", |w| w.vmx.feature_control &= !1, Gp),
        Step(
            "VmxInSmxDisabled",
            |w| {
                w.vmx.smx = true;
                w.vmx.feature_control &= !2;
            },
            Gp,
        ),
        Step("VmxOutsideSmxDisabled", |w| w.vmx.feature_control &= !4, Gp),
        READ,
        Step("PointerMisaligned", MISALIGNED, FailInvalid),
        Step("PointerTooWide", TOO_WIDE, FailInvalid),
        Step("WrongRevision", |w| w.ram.write_u16(Hpa(VMXON), 0x5a5a), FailInvalid),
        Step("ShadowIndicator", |w| w.ram.write_u8(Hpa(VMXON + 3), w.ram.read_u8(Hpa(VMXON + 3)) | 0x80), FailInvalid),
    ],
    exclusive: &[("Intercept", "InVmxRoot")],
};

/// Write-back, 4 levels.
const EPTP: u64 = 0x9000 | 3 << 3 | 6;

const INVEPT: Table = Table {
    class: OpClass::Invept,
    world: || with_descriptor(Op::Invept { register: Gpr::Rcx }, 1, EPTP, 0),
    succeeds: Outcome::Invalidate(Invalidate::InveptSingle { eptp: EPTP }),
    steps: &[
        REGISTER,
        OUTSIDE,
        REAL,
        V86,
        COMPATIBILITY,
        Step("EptUnsupported", |w| w.lacks(VmxMsr::ProcbasedCtls2, 1 << 33), Ud),
        Step("InveptUnsupported", |w| w.lacks(VmxMsr::EptVpidCap, 1 << 20), Ud),
        exits(50),
        CPL,
        Step("TypeUnsupported", |w| w.lacks(VmxMsr::EptVpidCap, 1 << 25), Fail(28)),
        READ,
        Step("EptpInvalid", |w| w.set_pointer(EPTP | 1 << 11), Fail(28)),
    ],
    exclusive: &[OPERATION],
};

const INVVPID: Table = Table {
    class: OpClass::Invvpid,
    world: || with_descriptor(Op::Invvpid { register: Gpr::Rcx }, 0, 5, 0x7000),
    succeeds: Outcome::Invalidate(Invalidate::InvvpidAddress { vpid: 5, gva: Gva(0x7000) }),
    steps: &[
        REGISTER,
        OUTSIDE,
        REAL,
        V86,
        COMPATIBILITY,
        Step("VpidUnsupported", |w| w.lacks(VmxMsr::ProcbasedCtls2, 1 << 37), Ud),
        Step("InvvpidUnsupported", |w| w.lacks(VmxMsr::EptVpidCap, 1 << 32), Ud),
        exits(53),
        CPL,
        Step("TypeUnsupported", |w| w.lacks(VmxMsr::EptVpidCap, 1 << 40), Fail(28)),
        READ,
        Step("InvvpidReserved", |w| w.set_pointer(w.pointer() | 1 << 16), Fail(28)),
        Step("VpidZero", |w| w.set_pointer(w.pointer() & !0xffff), Fail(28)),
        Step("InvvpidNotCanonical", |w| w.set_descriptor(w.pointer(), 1 << 60), Fail(28)),
    ],
    exclusive: &[OPERATION],
};

const INVPCID: Table = Table {
    class: OpClass::Invpcid,
    world: || {
        let mut world = World::guest(Op::Invpcid { register: Gpr::Rcx }, &[Control::ENABLE_INVPCID]);
        world.off(Control::INVLPG_EXITING);
        world.set_descriptor(0, 0x7000);
        world
    },
    succeeds: Outcome::Invalidate(Invalidate::InvpcidAddress { id: 0, pcid: 0, gva: Gva(0x7000) }),
    steps: &[
        REGISTER,
        Step("InvpcidUnsupported", |w| w.profile = w.profile.with_feature(Feature::INVPCID, false), Ud),
        Step("InvpcidDisabled", |w| w.off(Control::ENABLE_INVPCID), Ud),
        Step("Virtual8086", V86.1, Gp),
        CPL,
        Step("Intercept", |w| w.on(Control::INVLPG_EXITING), Exit(58)),
        Step("InvpcidType", |w| w.cpu.gpr[Gpr::Rcx] = 4, Gp),
        READ,
        Step("InvpcidReserved", |w| w.set_pointer(w.pointer() | 1 << 12), Gp),
        Step("PcidWithoutPcide", |w| w.set_pointer(w.pointer() | 1), Gp),
        Step("InvpcidNotCanonical", |w| w.set_descriptor(w.pointer(), 1 << 60), Gp),
    ],
    exclusive: &[],
};

const VMCALL: Table = Table {
    class: OpClass::Vmcall,
    world: || {
        let mut world = World::root(Op::Vmcall);
        world.vmx.smm_monitor_ctl = MSEG | 1;
        // Revision 0, as IA32_VMX_MISC has it; IA-32e mode.
        world.ram.write_u32(Hpa(MSEG + 4), 1);
        world
    },
    succeeds: Outcome::NotModelled(NotModelled::ActivateDualMonitor),
    steps: &[
        OUTSIDE,
        exits(18),
        V86,
        COMPATIBILITY,
        CPL,
        Step("NoMonitorToCall", |w| w.vmx.smm_monitor_ctl &= !1, Fail(1)),
        Step("DualMonitorActive", |w| w.vmx.state.dual_monitor_active = true, SmmVmExit),
        Step("NoCurrentVmcs", |w| w.vmx.state.current_vmcs = None, FailInvalid),
        Step("LaunchStateNotClear", |w| w.vmx.state.launch_state = LaunchState::Launched, Fail(19)),
        Step("ExitControlsInvalid", |w| w.vmx.vmcs.set(Field::VM_EXIT_CONTROLS, 0), Fail(20)),
        Step("MsegRevision", |w| w.ram.write_u32(Hpa(MSEG), 1), Fail(22)),
        Step("MsegFeatures", |w| w.ram.write_u32(Hpa(MSEG + 4), 3), Fail(24)),
    ],
    exclusive: &[OPERATION],
};

const VMFUNC: Table = Table {
    class: OpClass::Vmfunc,
    world: || {
        let mut world = World::guest(
            Op::Vmfunc,
            &[Control::EPTP_SWITCHING, Control::ENABLE_EPT, Control::PT_USES_GUEST_PHYSICAL_ADDRESSES],
        );
        world.vmx.vmcs.set(Field::EPTP_LIST_ADDRESS, EPTP_LIST);
        world.vmx.vmcs.set(Field::EPT_POINTER, EPTP);
        world.ram.write_u64(Hpa(EPTP_LIST + 8 * 3), EPTP);
        world.cpu.gpr[Gpr::Rcx] = 3;
        // Any privilege level may use it.
        CPL.1(&mut world);
        world
    },
    succeeds: Outcome::Invalidate(Invalidate::EptpSwitch { vpid: false }),
    steps: &[
        Step("NotNonRoot", |w| w.vmx.state.operation = Operation::Root, Ud),
        Step("VmFunctionsDisabled", |w| w.off(Control::ENABLE_VM_FUNCTIONS), Ud),
        Step("FunctionTooLarge", |w| w.cpu.gpr[Gpr::Rax] = 64, Ud),
        Step("FunctionDisabled", |w| w.off(Control::EPTP_SWITCHING), Exit(59)),
        Step("SwitchTraced", |w| w.cpu.rtit_ctl = 1, Exit(59)),
        Step("ListIndex", |w| w.cpu.gpr[Gpr::Rcx] = 512, Exit(59)),
        Step("ListEntryInvalid", |w| w.ram.write_u64(Hpa(EPTP_LIST + 8 * 3), 0), Exit(59)),
    ],
    exclusive: &[],
};

const fn entry(class: OpClass, world: fn() -> World, steps: &'static [Step]) -> Table {
    // The outcome has a type of its own; `Ordinary` stands for "a VM entry".
    Table { class, world, succeeds: Outcome::Ordinary, steps, exclusive: &[OPERATION] }
}

const NO_VMCS: Step = Step("Enter", |w| w.vmx.state.current_vmcs = None, FailInvalid);
const VMLAUNCH: Table = entry(
    OpClass::Vmlaunch,
    || World::root(Op::Vmlaunch),
    &[OUTSIDE, REAL, V86, COMPATIBILITY, exits(20), CPL, NO_VMCS],
);
const VMRESUME: Table = entry(
    OpClass::Vmresume,
    || {
        let mut world = World::root(Op::Vmresume);
        world.vmx.state.launch_state = LaunchState::Launched;
        world
    },
    &[OUTSIDE, REAL, V86, COMPATIBILITY, exits(24), CPL, NO_VMCS],
);

/// Outside VMX operation, about to execute GETSEC\[SENTER\].
const GETSEC: Table = Table {
    class: OpClass::Getsec,
    world: || {
        let mut world = World::root(Op::Getsec);
        world.vmx.state = VmxState { operation: Operation::Outside, ..VmxState::default() };
        world.cpu.cr4 |= Cr4::SMXE;
        world.cpu.gpr[Gpr::Rax] = 4;
        world.cpu.gpr[Gpr::Rbx] = 0x1_0000;
        world.cpu.gpr[Gpr::Rcx] = 64;
        world
    },
    succeeds: Outcome::NotModelled(NotModelled::Getsec { leaf: 4 }),
    steps: &[
        Step("SmxDisabled", |w| w.cpu.cr4.remove(Cr4::SMXE), Ud),
        exits(11),
        Step("LeafUndefined", |w| w.cpu.gpr[Gpr::Rax] = 9, Ud),
        Step("LeafInVmx", |w| w.vmx.state.operation = Operation::Root, Gp),
        Step("LeafMode", CPL.1, Gp),
        Step("LeafCache", |w| w.cpu.cr0.insert(Cr0::CD), Gp),
        Step("LeafProcessor", |w| w.cpu.apic_base &= !(1 << 8), Gp),
        Step("LeafInSmm", |w| w.cpu.in_smm = true, Gp),
        Step("LeafMeasured", |w| w.vmx.smx = true, Gp),
        Step("LeafFeatureControl", |w| w.vmx.feature_control &= !(1 << 15), Gp),
        Step("LeafOperands", |w| w.cpu.gpr[Gpr::Rbx] |= 1, Gp),
    ],
    exclusive: &[("Intercept", "LeafInVmx")],
};

const TABLES: [&Table; 16] = [
    &INVEPT,
    &INVVPID,
    &VMCALL,
    &VMCLEAR,
    &VMFUNC,
    &VMLAUNCH,
    &VMRESUME,
    &VMPTRLD,
    &VMPTRST,
    &VMREAD,
    &VMWRITE,
    &VMXOFF,
    &VMXON_TABLE,
    &INVPCID,
    &GETSEC,
    // The same instruction again, where its shadow VMCS is: 30.3 puts the VM exit in the same place.
    &VMREAD_OF_A_SHADOW,
];

/// In VMX non-root operation with "VMCS shadowing".
const VMREAD_OF_A_SHADOW: Table = Table {
    class: OpClass::Vmread,
    world: || {
        let mut world = World::guest(Op::Vmread { register: Gpr::Rbx }, &[Control::VMCS_SHADOWING]);
        world.vmx.vmcs.set(Field::VMREAD_BITMAP_ADDRESS, crate::insn_support::VMREAD_BITMAP);
        world.vmx.vmcs.set(Field::VMCS_LINK_POINTER, crate::insn_support::SHADOW);
        world.cpu.gpr[Gpr::Rbx] = ENCODING;
        world
    },
    succeeds: Outcome::Succeed,
    steps: &[
        OUTSIDE,
        REAL,
        V86,
        COMPATIBILITY,
        Step("Intercept", |w| w.off(Control::VMCS_SHADOWING), Exit(23)),
        CPL,
        Step("NoVmcs", |w| w.vmx.vmcs.set(Field::VMCS_LINK_POINTER, u64::MAX), FailInvalid),
        Step("FieldUnsupported", |w| w.cpu.gpr[Gpr::Rbx] = 0x7ffe, Fail(12)),
        Step("Destination", |w| w.operands.faults = true, PageFault),
    ],
    exclusive: &[],
};

fn rung_name(rung: &Rung) -> String {
    match rung {
        Rung::If(condition, _) => format!("{condition:?}"),
        Rung::Read { .. } => "Read".into(),
        other => format!("{other:?}"),
    }
}

/// What the instruction must do in this world if this is the first rung that applies.
fn expected(world: &World, ends: Ends) -> Outcome<&'static str> {
    match ends {
        Ud => Outcome::Fault(Event::exception(Exception::UD)),
        Gp => Outcome::Fault(Event::exception_with_code(Exception::GP, 0)),
        FailInvalid => Outcome::FailInvalid,
        Fail(_) if world.vmx.state.current_vmcs.is_none() => Outcome::FailInvalid,
        Fail(number) => Outcome::FailValid(InstructionError(number)),
        PageFault => Outcome::Operand(PAGE_FAULT),
        SmmVmExit => Outcome::NotModelled(NotModelled::SmmVmExit),
        Exit(_) => Outcome::Ordinary,
    }
}

fn assert_ends(world: &World, ends: Ends, name: &str) {
    let mut after = world.clone();
    let outcome = after.run();
    match (ends, &outcome) {
        (Exit(reason), Outcome::Exit(exit)) => {
            assert_eq!(exit.reason.0, u32::from(reason), "{name}");
            assert_eq!(exit.instruction_len_bytes, Some(4), "{name}");
        }
        _ => assert_eq!(outcome, expected(world, ends), "{name}"),
    }
    assert_traces(world, &after, &outcome, name);
}

/// What is left behind: flags and the error number by VMfail, nothing by all else.
fn assert_traces(before: &World, after: &World, outcome: &Outcome<&'static str>, name: &str) {
    let mut vmx = before.vmx;
    let mut cpu = before.cpu;
    let flags = Rflags::CF | Rflags::PF | Rflags::AF | Rflags::ZF | Rflags::SF | Rflags::OF;
    match outcome {
        Outcome::FailInvalid => cpu.rflags = cpu.rflags.difference(flags) | Rflags::CF,
        Outcome::FailValid(error) => {
            cpu.rflags = cpu.rflags.difference(flags) | Rflags::ZF;
            vmx.vmcs.set(Field::VM_INSTRUCTION_ERROR, error.0.into());
        }
        _ => assert!(!outcome.completes(), "{name}"),
    }
    assert!(after.vmx == vmx, "{name}: VMX state");
    assert_eq!(after.cpu, cpu, "{name}");
    assert!(after.ram == before.ram, "{name}: memory");
    assert_eq!(after.operands.written, None, "{name}");
}

/// All six flags set, so that those that must be cleared are seen to be.
fn noisy(mut world: World) -> World {
    world.cpu.rflags |= Rflags::CF | Rflags::PF | Rflags::AF | Rflags::ZF | Rflags::SF | Rflags::OF | Rflags::DF;
    world
}

#[test]
fn ladders_have_the_rungs_of_the_tables_in_their_order() {
    for table in TABLES {
        // Nothing can end an instruction where physical memory is read.
        let ends = |rung: &&Rung| !matches!(rung, Rung::Region | Rung::ListEntry);
        let rungs: Vec<String> = Ladder::of(table.class).unwrap().rungs.iter().filter(ends).map(rung_name).collect();
        let steps: Vec<&str> = table.steps.iter().map(|step| step.0).collect();
        assert_eq!(rungs, steps, "{:?}", table.class);
    }
    let missing = Ladder::TABLE.iter().find(|ladder| !TABLES.iter().any(|table| table.class == ladder.class));
    assert!(missing.is_none(), "{missing:?}");
}

#[test]
fn instructions_succeed_where_nothing_is_broken() {
    for table in TABLES {
        let outcome = noisy((table.world)()).run();
        match table.class {
            OpClass::Vmlaunch | OpClass::Vmresume => {
                assert!(matches!(outcome, Outcome::Entered(_)), "{:?}: {outcome:?}", table.class);
            }
            class => assert_eq!(outcome, table.succeeds, "{class:?}"),
        }
    }
}

#[test]
fn one_broken_condition_gives_its_outcome() {
    for table in TABLES {
        for Step(name, breaks, ends) in table.steps {
            let mut world = noisy((table.world)());
            breaks(&mut world);
            assert_ends(&world, *ends, &format!("{:?} {name}", table.class));
        }
    }
}

#[test]
fn of_two_broken_conditions_the_first_decides() {
    for table in TABLES {
        for (i, first) in table.steps.iter().enumerate() {
            for second in &table.steps[i + 1..] {
                let pair = (first.0, second.0);
                if table.exclusive.contains(&pair) {
                    continue;
                }
                for (one, other) in [(first, second), (second, first)] {
                    let mut world = noisy((table.world)());
                    one.1(&mut world);
                    other.1(&mut world);
                    assert_ends(&world, first.2, &format!("{:?} {pair:?}", table.class));
                }
            }
        }
    }
}

#[test]
fn success_clears_six_flags_and_the_instructions_that_are_not_vmxs_keep_them() {
    let six = Rflags::CF | Rflags::PF | Rflags::AF | Rflags::ZF | Rflags::SF | Rflags::OF;
    for table in TABLES {
        let before = noisy((table.world)());
        let mut after = before.clone();
        let outcome = after.run();
        let expected = match table.class {
            OpClass::Vmlaunch | OpClass::Vmresume => continue,
            OpClass::Vmcall | OpClass::Vmfunc | OpClass::Invpcid | OpClass::Getsec => before.cpu.rflags,
            _ => before.cpu.rflags.difference(six),
        };
        assert_eq!(after.cpu.rflags, expected, "{:?}: {outcome:?}", table.class);
        assert_eq!(after.cpu.rip, before.cpu.rip, "{:?}", table.class);
    }
}

#[test]
fn b_03_vmxon_faults_in_the_order_ud_exit_gp() {
    // #UD of CR4.VMXE against the #GP of everything else.
    let mut world = (VMXON_TABLE.world)();
    for name in ["UserMode", "A20m", "Cr0Unsupported", "FeatureControlUnlocked"] {
        VMXON_TABLE.steps.iter().find(|step| step.0 == name).unwrap().1(&mut world);
    }
    assert_ends(&world, Gp, "all #GP");
    world.enter_guest();
    assert_ends(&world, Exit(27), "in a guest");
    world.cpu.cr4.remove(Cr4::VMXE);
    assert_ends(&world, Ud, "CR4.VMXE");
}

#[test]
fn b_21_cpl_3_is_general_protection_in_root_operation_only() {
    for table in TABLES {
        if !table.steps.iter().any(|step| step.0 == "UserMode") {
            continue;
        }
        let mut world = (table.world)();
        CPL.1(&mut world);
        assert_ends(&world, Gp, &format!("{:?}", table.class));
    }
}

#[test]
fn b_52_without_vmxon_every_vmx_instruction_is_undefined() {
    for table in TABLES {
        if matches!(table.class, OpClass::Vmxon | OpClass::Invpcid | OpClass::Getsec) {
            continue;
        }
        for vmxe in [false, true] {
            let mut world = (table.world)();
            world.vmx.state = VmxState { operation: Operation::Outside, ..VmxState::default() };
            world.cpu.cr4.set(Cr4::VMXE, vmxe);
            assert_ends(&world, Ud, &format!("{:?}, CR4.VMXE {vmxe}", table.class));
        }
    }
}

#[test]
fn getsec_leaves_fault_where_the_manual_says() {
    const UD: Outcome<&str> = Outcome::Fault(Event::exception(Exception::UD));
    const GP: Outcome<&str> = Outcome::Fault(Event::exception_with_code(Exception::GP, 0));
    // Leaf; outside VMX operation, in VMX root operation, at CPL 3, in SMX operation.
    let runs = |leaf| Outcome::NotModelled(NotModelled::Getsec { leaf });
    for (leaf, [outside, root, user, measured]) in [
        (0, [runs(0), runs(0), runs(0), runs(0)]),
        (1, [UD, UD, UD, UD]),
        (2, [runs(2), GP, GP, runs(2)]),
        (3, [GP, GP, GP, GP]),
        (4, [runs(4), GP, GP, GP]),
        (5, [GP, GP, GP, runs(5)]),
        (6, [runs(6), runs(6), runs(6), runs(6)]),
        (7, [GP, GP, GP, runs(7)]),
        (8, [GP, GP, GP, runs(8)]),
        (9, [UD, UD, UD, UD]),
        (u32::MAX, [UD, UD, UD, UD]),
    ] {
        let mut world = (GETSEC.world)();
        world.cpu.gpr[Gpr::Rax] = leaf.into();
        if leaf == 7 {
            world.cpu.gpr[Gpr::Rbx] = 0;
        }
        assert_eq!(world.clone().run(), outside, "{leaf}");
        let mut other = world.clone();
        other.vmx.state.operation = Operation::Root;
        assert_eq!(other.run(), root, "{leaf} in VMX operation");
        let mut other = world.clone();
        CPL.1(&mut other);
        assert_eq!(other.run(), user, "{leaf} at CPL 3");
        world.vmx.smx = true;
        assert_eq!(world.run(), measured, "{leaf} in SMX operation");
    }
}

#[test]
fn senter_adds_base_and_size_without_losing_the_carry() {
    for (base, len_bytes, faults) in
        [(0xffff_f000_u64, 0xfc0, false), (0xffff_f000, 0x1000, true), (0x1_0000, 65, true), (0x1_0800, 64, true)]
    {
        let mut world = (GETSEC.world)();
        world.cpu.gpr[Gpr::Rbx] = base;
        world.cpu.gpr[Gpr::Rcx] = len_bytes;
        assert_eq!(matches!(world.run(), Outcome::Fault(_)), faults, "{base:#x} {len_bytes}");
    }
}

#[test]
fn other_instructions_are_left_alone() {
    let mut world = World::root(Op::Cpuid);
    let before = world.clone();
    assert_eq!(world.run(), Outcome::Ordinary);
    assert!(world.vmx == before.vmx && world.cpu == before.cpu);
}
