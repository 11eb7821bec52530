//! VM entries that fail after guest state has begun to be loaded: they look like VM exits.
//!
//! Source: SDM 3C (rev 077) 26.8, VM-Entry Failures During or After Loading Guest State; 26.4, Loading MSRs.

use super::{cases, l2};
use softvirt::vmx_model::{Control, Field};
use softvirt_guests::layout::MSR_LIST;
use softvirt_guests::tables::words;
use softvirt_guests::vmcs::Mode;
use softvirt_machine::Ended;

cases! {
    /// Bit 1 of RFLAGS is always 1.
    invalid_guest_state: l2(|_| Ok(())).set(&[(Field::GUEST_RFLAGS, 0)]).sees(&["failed 33 qualification 0"]);
    /// 4: the VMCS link pointer is neither all ones nor a VMCS region.
    invalid_link_pointer: l2(|_| Ok(())).set(&[(Field::VMCS_LINK_POINTER, 0x123)])
        .sees(&["failed 33 qualification 4"]);
    /// 3: an NMI cannot be injected while STI blocks events.
    injected_nmi_under_blocking_by_sti: l2(|_| Ok(()))
        .set(&[
            (Field::VM_ENTRY_INTERRUPTION_INFO, 0x8000_0202),
            (Field::GUEST_INTERRUPTIBILITY_STATE, 1),
            (Field::GUEST_RFLAGS, 0x202),
        ]).sees(&["failed 33 qualification 3"]);
    /// 2: a PDPTE of a PAE guest under EPT has a reserved bit.
    invalid_pdpte: l2(|_| Ok(())).mode(Mode::Protected32)
        .set(&[
            (Field::GUEST_CR4, 0x2020),
            (Field::GUEST_PDPTE0, 3),
            (Field::GUEST_PDPTE1, 0),
            (Field::GUEST_PDPTE2, 0),
            (Field::GUEST_PDPTE3, 0),
        ]).change(|h| h.vmcs.ept()).sees(&["failed 33 qualification 2"]);
    /// The second entry of the list names IA32_FS_BASE, which no list may load: the qualification counts from 1.
    msr_loading: l2(|_| Ok(()))
        .set(&[(Field::VM_ENTRY_MSR_LOAD_COUNT, 2), (Field::VM_ENTRY_MSR_LOAD_ADDRESS, MSR_LIST)])
        .change(|h| h.memory.push((MSR_LIST, words(&[0x174, 8, 0xc000_0100, 0]))))
        .sees(&["failed 34 qualification 2"]);
}

/// A control that is not allowed: VMLAUNCH fails before it begins, and no exit is there to be seen.
#[test]
fn a_refused_entry_is_no_exit() {
    use softvirt_guests::hypervisor::Hypervisor;
    let mut hypervisor = Hypervisor::new(Mode::Long64, |a| a.cpuid()).unwrap();
    hypervisor.vmcs.on(Control::ENABLE_VPID); // with VPID 0
    hypervisor.vmcs.set(Field::VPID, 0);
    let image = hypervisor.image(|_| Ok(()), super::stop).unwrap();
    let run = crate::world::run(&image.to_elf());
    assert_eq!(run.serial, "L1: VM entry failed, VM-instruction error 7\n");
    assert_eq!((run.ended, run.trace.as_str()), (Ended::DebugExit(1), ""));
}
