//! Which tables translate a guest's addresses? Each control that has a say, alone against everything else 0.

use softvirt_ept::{Access, Ept, EptControls, EptSupport, Hlat, Operation, Paging, PagingSupport, Privilege, walk};
use std::cell::Cell;
use vmx_model::event::{Circumstances, Reaction, translation_failure};
use vmx_model::known::Operation as VmxOperation;
use vmx_model::reasons::ExitReason;
use vmx_model::{Control, Controls, Exit, Field, Vmx, translation};
use x86_state::mem::WordMemory;
use x86_state::{AccessRights, Cpu, Cr0, Efer, Event, Gpa, Gva, Hpa, PhysMemory, SegmentRegister, profiles};

const EPTP: u64 = 0x201e;

fn guest(controls: &[Control]) -> Vmx {
    let mut vmx = Vmx::new(&profiles::MAX);
    vmx.state.operation = VmxOperation::NonRoot;
    for control in controls {
        for control in control.vector().activated_by().iter().chain([control]) {
            vmx.vmcs.update(control.vector().field(), |bits| bits | control.mask());
        }
    }
    vmx.vmcs.update(Field::PRIMARY_PROC_BASED_CONTROLS, |bits| bits | Control::ACTIVATE_SECONDARY_CONTROLS.mask());
    vmx.vmcs.set(Field::EPT_POINTER, EPTP);
    vmx.vmcs.set(Field::SUB_PAGE_PERMISSION_TABLE_POINTER, 0x5000);
    vmx.vmcs.set(Field::HLAT_POINTER, 0x6000);
    vmx.guest.controls = Controls::of(&vmx.vmcs);
    vmx
}

#[test]
fn each_control_of_ept_reaches_the_walk() {
    let none = EptControls::default();
    let support = EptSupport::from_profile(&profiles::MAX);
    for (control, expected) in [
        (Control::ENABLE_EPT, none),
        (Control::MODE_BASED_EXECUTE_CONTROL, EptControls { mode_based_execute: true, ..none }),
        (Control::EPT_PAGING_WRITE_CONTROL, EptControls { paging_write: true, ..none }),
        (Control::GUEST_PAGING_VERIFICATION, EptControls { guest_paging_verification: true, ..none }),
        (Control::SUB_PAGE_WRITE_PERMISSIONS, EptControls { sub_page: Some(Hpa(0x5000)), ..none }),
        (Control::EPT_VIOLATION_VE, EptControls { violation_ve: true, ..none }),
    ] {
        let found = translation::ept(&guest(&[Control::ENABLE_EPT, control]), &profiles::MAX, None);
        let expected = Ept::new(EPTP, expected, &support);
        assert_eq!(format!("{found:?}"), format!("{:?}", Some(expected)), "{}", control.name());
        assert!(translation::ept(&guest(&[]), &profiles::MAX, None).is_none());
    }
}

#[test]
fn hlat_paging_is_the_hypervisors() {
    let cpu = Cpu::reset(0);
    for (controls, prefix_size, expected) in [
        (&[][..], 1, None),
        (&[Control::ENABLE_HLAT], 0, Some(Hlat::All(0x6000))),
        (&[Control::ENABLE_HLAT], 1, Some(Hlat::UpperHalf(0x6000))),
    ] {
        let mut vmx = guest(controls);
        vmx.vmcs.set(Field::HLAT_PREFIX_SIZE, prefix_size);
        let paging: Paging = translation::paging(&vmx, &cpu, &PagingSupport::new(46));
        assert_eq!(paging.hlat, expected.unwrap_or(Hlat::Off), "{controls:?} {prefix_size}");
    }
}

/// A write of linear address 80H in protected mode without paging, which fails in EPT.
fn write(vmx: &mut Vmx, memory: &WordMemory<8>, circumstances: &Circumstances) -> Exit {
    let mut cpu = Cpu { cr0: Cr0::PE, efer: Efer::empty(), ..Cpu::reset(0) };
    cpu.segments[SegmentRegister::Cs].rights = AccessRights::CODE_32;
    let paging = translation::paging(vmx, &cpu, &PagingSupport::new(46));
    let log = translation::page_modification_log(vmx);
    let ept = translation::ept(vmx, &profiles::MAX, log.as_ref()).expect("EPT is on");
    let access = Access::new(Operation::Write, Privilege::Supervisor);
    let failure = walk(memory, &paging, &ept, Gva(0x80), access).expect_err("the walk fails");
    let reaction =
        translation_failure(vmx, &cpu, memory, &paging, Some(&ept), &failure, access, Gva(0x80), circumstances);
    if let Some(log) = &log {
        translation::store_page_modification_log(vmx, log);
    }
    match reaction {
        Reaction::Exit(exit) => exit,
        other => panic!("no exit: {other:?}"),
    }
}

/// EPT tables that map one page, with `leaf` as the last entry; `sub_page` is the first entry of the root of the sub-page tables.
fn tables(leaf: u64, sub_page: u64) -> WordMemory<8> {
    WordMemory::new([
        (0x2000, 0x3007),
        (0x3000, 0x4007),
        (0x4000, 0x7007),
        (0x7000, leaf),
        (0x5000, sub_page),
        (0x8000, 0),
        (0x8008, 0),
        (0x8ff8, 0),
    ])
}

/// 28.3.6: the index is outside 0 to 511, and an accessed flag would have to be logged.
#[test]
fn a_full_page_modification_log_exits_and_is_not_written() {
    let memory = tables(0x9007, 0);
    let int_80 = Event::software_interrupt(0x80, 2);
    for (circumstances, qualification) in [
        (Circumstances::default(), 0),
        (Circumstances { unblocks_nmi: true, ..Circumstances::default() }, 1 << 12),
        (Circumstances::during(int_80), 0),
    ] {
        let mut vmx = guest(&[Control::ENABLE_EPT, Control::ENABLE_PML]);
        // Bit 6: accessed and dirty flags.
        vmx.vmcs.set(Field::EPT_POINTER, EPTP | 1 << 6);
        vmx.vmcs.set(Field::PML_ADDRESS, 0x8000);
        vmx.vmcs.set(Field::PML_INDEX, 0xffff);
        let exit = write(&mut vmx, &memory, &circumstances);
        assert_eq!((exit.reason, exit.qualification), (ExitReason::PAGE_MODIFICATION_LOG_FULL, qualification));
        assert_eq!((exit.linear, exit.physical), (None, None));
        assert_eq!(exit.delivering, circumstances.delivering);
        assert_eq!(vmx.vmcs.get(Field::PML_INDEX), 0xffff);
        assert_eq!(memory.read_u64(Hpa(0x8000)), 0);
    }
}

/// 28.3.4: the page is write-protected and has sub-page permissions; the table's first entry is not valid (a miss) or has a reserved bit
/// set (a misconfiguration).
#[test]
fn sub_page_permissions_that_cannot_be_found_exit() {
    for (entry, qualification) in [(0, 1 << 11), (0x6003, 0)] {
        // Readable, executable, bit 61: sub-page write permissions.
        let memory = tables(0x9005 | 1 << 61, entry);
        let mut vmx = guest(&[Control::ENABLE_EPT, Control::SUB_PAGE_WRITE_PERMISSIONS]);
        let exit = write(&mut vmx, &memory, &Circumstances::default());
        assert_eq!((exit.reason, exit.qualification), (ExitReason::SPP_RELATED_EVENT, qualification), "{entry:#x}");
        assert_eq!((exit.linear, exit.physical), (Some(Gva(0x80)), Some(Gpa(0x80))));
    }
}

/// The log is on the processor while a walk runs; its index goes back to the VMCS.
#[test]
fn the_index_of_the_log_goes_back_to_the_vmcs() {
    let mut vmx = guest(&[Control::ENABLE_EPT, Control::ENABLE_PML]);
    vmx.vmcs.set(Field::PML_INDEX, 5);
    let log = translation::page_modification_log(&vmx).expect("the log is on");
    log.index.set(4);
    translation::store_page_modification_log(&mut vmx, &log);
    assert_eq!(vmx.vmcs.get(Field::PML_INDEX), 4);
    assert_eq!(log.index, Cell::new(4));
    assert!(translation::page_modification_log(&guest(&[])).is_none());
}
