//! Which tables translate the guest's addresses? From the VMCS and the registers to the values that [`softvirt_ept`] walks with.
//!
//! Source: SDM 3C (rev 077) 24.6.11, Extended-Page-Table Pointer; 24.6.19, Control Field for Page-Modification Logging; 24.6.22,
//! Sub-Page-Permission-Table Pointer; 24.6.23, Fields Related to HLAT; 28.1, VPIDs.

use crate::control::Control;
use crate::fields::Field;
use crate::vmx::Vmx;
use core::cell::Cell;
use softvirt_ept::{Current, Ept, EptControls, EptSupport, Hlat, PageModificationLog, Paging, PagingSupport};
use x86_state::{Cpu, CpuProfile, Cr4, Hpa};

/// EPT as the current VMCS has it; `None` outside VMX non-root operation and without "enable EPT".
///
/// `log` is what [`page_modification_log`] gave; the caller hands it back to [`store_page_modification_log`] after the walk.
#[must_use]
pub fn ept<'a>(vmx: &Vmx, profile: &CpuProfile, log: Option<&'a PageModificationLog>) -> Option<Ept<'a>> {
    let has = |control| vmx.guest.controls.has(control);
    if !has(Control::ENABLE_EPT) {
        return None;
    }
    let sub_page = has(Control::SUB_PAGE_WRITE_PERMISSIONS);
    let controls = EptControls {
        mode_based_execute: has(Control::MODE_BASED_EXECUTE_CONTROL),
        paging_write: has(Control::EPT_PAGING_WRITE_CONTROL),
        guest_paging_verification: has(Control::GUEST_PAGING_VERIFICATION),
        sub_page: sub_page.then(|| Hpa(vmx.vmcs.get(Field::SUB_PAGE_PERMISSION_TABLE_POINTER))),
        violation_ve: has(Control::EPT_VIOLATION_VE),
    };
    let ept = Ept::new(vmx.vmcs.get(Field::EPT_POINTER), controls, &EptSupport::from_profile(profile));
    Some(match log {
        Some(log) => ept.with_log(log),
        None => ept,
    })
}

/// The page-modification log; `None` without "enable PML".
#[must_use]
pub fn page_modification_log(vmx: &Vmx) -> Option<PageModificationLog> {
    vmx.guest.controls.has(Control::ENABLE_PML).then(|| PageModificationLog {
        address: Hpa(vmx.vmcs.get(Field::PML_ADDRESS)),
        index: Cell::new(vmx.vmcs.get(Field::PML_INDEX) as u16),
    })
}

/// Puts the index back that a walk has counted down.
pub fn store_page_modification_log(vmx: &mut Vmx, log: &PageModificationLog) {
    vmx.vmcs.set(Field::PML_INDEX, u64::from(log.index.get()));
}

/// The paging of the processor, with what VMX adds to it (HLAT), PKRU and IA32_PKRS.
///
/// PDPTEs are taken from memory; a caller that keeps PDPTE registers sets [`Paging::pdptes`].
#[must_use]
pub fn paging(vmx: &Vmx, cpu: &Cpu, support: &PagingSupport) -> Paging {
    let mut paging = Paging::of_cpu(cpu, support);
    paging.pkru = cpu.pkru;
    paging.pkrs = cpu.pkrs;
    if vmx.guest.controls.has(Control::ENABLE_HLAT) {
        let pointer = vmx.vmcs.get(Field::HLAT_POINTER);
        // SDM 3A 4.5.1: any size but 0 makes bit 63 decide.
        paging.hlat =
            if vmx.vmcs.get(Field::HLAT_PREFIX_SIZE) == 0 { Hlat::All(pointer) } else { Hlat::UpperHalf(pointer) };
    }
    paging
}

/// With which VPID and PCID are translations cached? VPID 0 stands for the host, and for guests without "enable VPID".
#[must_use]
pub fn current(vmx: &Vmx, cpu: &Cpu) -> Current {
    let vpid = vmx.guest.controls.has(Control::ENABLE_VPID);
    Current {
        id: if vpid { vmx.vmcs.get(Field::VPID) as u16 } else { 0 },
        pcid: if cpu.cr4.contains(Cr4::PCIDE) { (cpu.cr3 & 0xfff) as u16 } else { 0 },
    }
}
