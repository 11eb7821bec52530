//! What must be forgotten after INVEPT, INVVPID, INVPCID and VM function 0, and which operands do they refuse?

use crate::insn_support::{EPTP_LIST, World};
use softvirt_ept::Invalidate;
use vmx_model::errors::InstructionError;
use vmx_model::insn::Outcome;
use vmx_model::known::Operation;
use vmx_model::rules::eptp_is_valid;
use vmx_model::{Control, Field};
use x86_state::{
    Cr0, Cr4, Efer, Event, Exception, Gpr, Gva, Hpa, Op, PhysMemory, Rflags, SegmentRegister, VmxMsr, profiles,
};

const ERROR_28: Outcome<&str> = Outcome::FailValid(InstructionError(28));
const GP: Outcome<&str> = Outcome::Fault(Event::exception_with_code(Exception::GP, 0));
const VMFUNC_EXIT: u16 = 59;

/// 4 levels, write-back.
const EPTP: u64 = 0x9000 | 3 << 3 | 6;
/// Canonical with 57 bits, not with 48.
const ONLY_57: u64 = 0x0080_0000_0000_0000;

fn runs(op: Op, kind: u64, low: u64, high: u64, change: fn(&mut World)) -> Outcome<&'static str> {
    let mut world = World::root(op);
    world.cpu.gpr[Gpr::Rcx] = kind;
    world.set_descriptor(low, high);
    change(&mut world);
    world.run()
}

#[test]
fn invept_types() {
    let op = Op::Invept { register: Gpr::Rcx };
    let same: fn(&mut World) = |_| {};
    let legacy: fn(&mut World) = World::legacy;
    for (kind, eptp, change, expected) in [
        (1, EPTP, same, Outcome::Invalidate(Invalidate::InveptSingle { eptp: EPTP })),
        // The EPTP matters for type 1 only; the reserved half of the descriptor never.
        (2, u64::MAX, same, Outcome::Invalidate(Invalidate::InveptAll)),
        (1, u64::MAX, same, ERROR_28),
        (0, EPTP, same, ERROR_28),
        (3, EPTP, same, ERROR_28),
        (u64::MAX, EPTP, same, ERROR_28),
        (2, EPTP, |w| w.lacks(VmxMsr::EptVpidCap, 1 << 26), ERROR_28),
        // The register has 64 bits in 64-bit mode, else 32.
        (1 << 32 | 1, EPTP, same, ERROR_28),
        (1 << 32 | 1, EPTP, legacy, Outcome::Invalidate(Invalidate::InveptSingle { eptp: EPTP })),
    ] {
        assert_eq!(runs(op, kind, eptp, u64::MAX, change), expected, "type {kind:#x}, EPTP {eptp:#x}");
    }
}

#[test]
fn invept_and_vmfunc_take_the_eptps_that_vm_entry_takes() {
    for (eptp, valid) in [
        (EPTP, true),
        (0x9000 | 3 << 3, true),
        (0x9000 | 3 << 3 | 4, false),
        (0x9000 | 2 << 3 | 6, false),
        // 5 levels, accessed and dirty flags, supervisor shadow stacks: this processor has them.
        (0x9000 | 4 << 3 | 6, true),
        (EPTP | 1 << 6, true),
        (EPTP | 1 << 7, true),
        (EPTP | 1 << 8, false),
        (EPTP | 1 << 52, false),
        (EPTP | 1 << 51, true),
        (0, false),
        (u64::MAX, false),
    ] {
        assert_eq!(eptp_is_valid(eptp, &profiles::MAX), valid, "{eptp:#x}");
        let invept = runs(Op::Invept { register: Gpr::Rcx }, 1, eptp, 0, |_| {});
        assert_eq!(matches!(invept, Outcome::Invalidate(_)), valid, "INVEPT {eptp:#x}");
        let mut world = switching();
        world.ram.write_u64(Hpa(EPTP_LIST), eptp);
        // The same page-walk length.
        world.vmx.vmcs.set(Field::EPT_POINTER, 0x1_2345 & !0x38 | eptp & 0x38);
        assert_eq!(matches!(world.run(), Outcome::Invalidate(_)), valid, "VMFUNC {eptp:#x}");
        assert_eq!(world.vmx.vmcs.get(Field::EPT_POINTER) == eptp, valid, "{eptp:#x}");
    }
    let without_flags = profiles::MAX.vmx(VmxMsr::EptVpidCap).map(|capability| capability & !(1 << 21));
    let old = profiles::MAX.with_vmx(VmxMsr::EptVpidCap, without_flags);
    assert!(!eptp_is_valid(EPTP | 1 << 6, &old));
}

#[test]
fn invvpid_types() {
    let op = Op::Invvpid { register: Gpr::Rcx };
    let same: fn(&mut World) = |_| {};
    let narrow: fn(&mut World) = |w| w.profile = w.profile.with_widths(52, 48);
    let address = Outcome::Invalidate(Invalidate::InvvpidAddress { vpid: 7, gva: Gva(0x5000) });
    for (kind, low, high, change, expected) in [
        (0, 7, 0x5000, same, address),
        (1, 7, u64::MAX, same, Outcome::Invalidate(Invalidate::InvvpidSingle { vpid: 7 })),
        (2, 7, u64::MAX, same, Outcome::Invalidate(Invalidate::InvvpidAll)),
        (3, 0xffff, 0, same, Outcome::Invalidate(Invalidate::InvvpidSingleRetainingGlobals { vpid: 0xffff })),
        // VPID 0 is the host's.
        (0, 0, 0x5000, same, ERROR_28),
        (1, 0, 0, same, ERROR_28),
        (2, 0, 0, same, Outcome::Invalidate(Invalidate::InvvpidAll)),
        (3, 0, 0, same, ERROR_28),
        // Reserved bits are checked for each type.
        (0, 1 << 16 | 7, 0x5000, same, ERROR_28),
        (2, 1 << 63, 0, same, ERROR_28),
        (4, 7, 0, same, ERROR_28),
        (1 << 32, 7, 0x5000, same, ERROR_28),
        (1 << 32, 7, 0x5000, World::legacy, address),
        (3, 7, 0, |w| w.lacks(VmxMsr::EptVpidCap, 1 << 43), ERROR_28),
        // The processor's width decides, not the paging mode, which has 48 bits here.
        (0, 7, ONLY_57, same, Outcome::Invalidate(Invalidate::InvvpidAddress { vpid: 7, gva: Gva(ONLY_57) })),
        (0, 7, ONLY_57, narrow, ERROR_28),
        (1, 7, ONLY_57, narrow, Outcome::Invalidate(Invalidate::InvvpidSingle { vpid: 7 })),
    ] {
        assert_eq!(runs(op, kind, low, high, change), expected, "type {kind:#x}, {low:#x}, {high:#x}");
    }
}

#[test]
fn b_55_invvpid_of_an_address_that_is_not_canonical_fails_with_28() {
    for address in [1 << 60, 0xaaaa_aaaa_aaaa_aaaa, 0x0100_0000_0000_0000] {
        assert_eq!(runs(Op::Invvpid { register: Gpr::Rcx }, 0, 7, address, |_| {}), ERROR_28, "{address:#x}");
    }
}

/// 64-bit mode with PCIDs, outside VMX operation.
fn with_pcids(world: &mut World) {
    world.vmx.state.operation = Operation::Outside;
    world.cpu.cr4 |= Cr4::PCIDE;
}

#[test]
fn invpcid_types() {
    let op = Op::Invpcid { register: Gpr::Rcx };
    let pcids: fn(&mut World) = with_pcids;
    let without: fn(&mut World) = |w| w.vmx.state.operation = Operation::Outside;
    let address = |pcid| Outcome::Invalidate(Invalidate::InvpcidAddress { id: 0, pcid, gva: Gva(0x5000) });
    for (kind, low, high, change, expected) in [
        (0, 9, 0x5000, pcids, address(9)),
        (1, 0xfff, u64::MAX >> 1, pcids, Outcome::Invalidate(Invalidate::InvpcidSingle { id: 0, pcid: 0xfff })),
        (2, 9, u64::MAX >> 1, pcids, Outcome::Invalidate(Invalidate::InvpcidAllAndGlobals { id: 0 })),
        (3, 9, u64::MAX >> 1, pcids, Outcome::Invalidate(Invalidate::InvpcidAll { id: 0 })),
        (4, 0, 0, pcids, GP),
        (1 << 32, 0, 0, pcids, GP),
        (0, 1 << 12, 0, pcids, GP),
        (3, 1 << 63, 0, pcids, GP),
        (0, 9, 1 << 60, pcids, GP),
        (
            0,
            9,
            ONLY_57,
            |w| {
                with_pcids(w);
                w.profile = w.profile.with_widths(52, 48)
            },
            GP,
        ),
        // Without PCIDs only PCID 0 exists; types 2 and 3 do not look.
        (0, 0, 0x5000, without, address(0)),
        (0, 1, 0x5000, without, GP),
        (1, 1, 0, without, GP),
        (2, 1, 0, without, Outcome::Invalidate(Invalidate::InvpcidAllAndGlobals { id: 0 })),
        (3, 1, 0, without, Outcome::Invalidate(Invalidate::InvpcidAll { id: 0 })),
    ] {
        assert_eq!(runs(op, kind, low, high, change), expected, "type {kind:#x}, {low:#x}, {high:#x}");
    }
}

#[test]
fn invpcid_works_in_real_and_compatibility_mode() {
    let op = Op::Invpcid { register: Gpr::Rcx };
    let all = Outcome::Invalidate(Invalidate::InvpcidAll { id: 0 });
    let real: fn(&mut World) = |w| {
        w.vmx.state.operation = Operation::Outside;
        w.cpu.cr0 = Cr0::ET;
        w.cpu.efer = Efer::empty();
        // VM means nothing without PE.
        w.cpu.rflags |= Rflags::VM;
    };
    assert_eq!(runs(op, 1 << 32 | 3, 0, 0, real), all);
    assert_eq!(runs(op, 3, 0, 0, |w| w.cpu.segments[SegmentRegister::Cs].rights.0 = 0xc09b), all);
}

#[test]
fn invpcid_in_a_guest_concerns_its_vpid() {
    for (vpid_on, id) in [(true, 0x55), (false, 0)] {
        let mut world = World::guest(Op::Invpcid { register: Gpr::Rcx }, &[Control::ENABLE_INVPCID]);
        world.off(Control::INVLPG_EXITING);
        world.vmx.vmcs.set(Field::VPID, 0x55);
        if vpid_on {
            world.on(Control::ENABLE_VPID);
        }
        world.cpu.gpr[Gpr::Rcx] = 3;
        assert_eq!(world.run(), Outcome::Invalidate(Invalidate::InvpcidAll { id }));
    }
}

/// A guest that may switch EPT pointers; entry 0 of its list is valid.
fn switching() -> World {
    let mut world = World::guest(Op::Vmfunc, &[Control::ENABLE_EPT, Control::EPTP_SWITCHING]);
    world.vmx.vmcs.set(Field::EPTP_LIST_ADDRESS, EPTP_LIST);
    world.vmx.vmcs.set(Field::EPT_POINTER, EPTP);
    world.ram.write_u64(Hpa(EPTP_LIST), EPTP);
    world
}

/// Rev 092, 28.5.7.3: an entry is valid if bits 5:3 are those of the current EPTP and it would not make VM entry fail.
#[test]
fn eptp_switching_does_not_change_the_page_walk_length() {
    const FIVE_LEVELS: u64 = 0x9000 | 4 << 3 | 6;
    for (current, entry, switches) in [
        (EPTP, EPTP, true),
        (FIVE_LEVELS, FIVE_LEVELS, true),
        (EPTP, FIVE_LEVELS, false),
        (FIVE_LEVELS, EPTP, false),
        // Other bits may change.
        (EPTP, EPTP | 1 << 6, true),
    ] {
        let mut world = switching();
        world.vmx.vmcs.set(Field::EPT_POINTER, current);
        world.ram.write_u64(Hpa(EPTP_LIST), entry);
        match world.run() {
            Outcome::Exit(exit) => assert_eq!((switches, exit.reason.basic()), (false, VMFUNC_EXIT), "{entry:#x}"),
            outcome => {
                assert_eq!((switches, outcome), (true, Outcome::Invalidate(Invalidate::EptpSwitch { vpid: false })))
            }
        }
        assert_eq!(world.vmx.vmcs.get(Field::EPT_POINTER), if switches { entry } else { current });
    }
}

#[test]
fn eptp_switching_loads_the_entry_that_ecx_selects() {
    for (rcx, selected) in [(0, 0), (511, 511), (0xffff_ffff_0000_0007, 7)] {
        let mut world = switching();
        let wanted = EPTP + 0x1000 * selected;
        world.ram.write_u64(Hpa(EPTP_LIST + 8 * selected), wanted);
        world.cpu.gpr[Gpr::Rcx] = rcx;
        // Bits 63:32 of RAX do not count.
        world.cpu.gpr[Gpr::Rax] = 1 << 32;
        let before = world.cpu;
        assert_eq!(world.run(), Outcome::Invalidate(Invalidate::EptpSwitch { vpid: false }));
        assert_eq!(world.vmx.vmcs.get(Field::EPT_POINTER), wanted);
        assert_eq!(world.vmx.vmcs.get(Field::EPTP_INDEX), selected);
        assert_eq!(world.cpu, before, "no register and no flag");
    }
}

#[test]
fn eptp_switching_writes_the_index_where_virtualization_exceptions_are_supported() {
    let mut world = switching();
    world.lacks(VmxMsr::ProcbasedCtls2, 1 << 50);
    world.on(Control::ENABLE_VPID);
    world.vmx.vmcs.set(Field::EPTP_INDEX, 0x33);
    assert_eq!(world.run(), Outcome::Invalidate(Invalidate::EptpSwitch { vpid: true }));
    assert_eq!(world.vmx.vmcs.get(Field::EPTP_INDEX), 0x33);
}

#[test]
fn vmfunc_exits_for_functions_that_are_not_enabled_and_faults_beyond_63() {
    for (rax, exits) in [(1, true), (63, true), (64, false), (0xffff_ffff, false), (1 << 32 | 1, true)] {
        let mut world = switching();
        // A bit that VM entry would refuse does not make a function.
        world.vmx.vmcs.set(Field::VM_FUNCTION_CONTROLS, u64::MAX);
        world.enter_guest();
        world.cpu.gpr[Gpr::Rax] = rax;
        match world.run() {
            Outcome::Exit(exit) => {
                assert!(exits, "{rax:#x}");
                assert_eq!((exit.reason.basic(), exit.qualification), (VMFUNC_EXIT, 0));
            }
            outcome => {
                assert!(!exits, "{rax:#x}");
                assert_eq!(outcome, Outcome::Fault(Event::exception(Exception::UD)));
            }
        }
    }
}
