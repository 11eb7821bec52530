//! How do bytes become an access of a guest to memory? Random tables, EPT as the VMCS has it, one access.

use crate::instruction::one_in;
use arbitrary::{Result, Unstructured};
use softvirt_ept::{
    Access, Direct, Ept, EptControls, EptSupport, Failure, Operation, PageModificationLog, Paging, PagingSupport,
    Pdptes, Privilege, Translation,
};
use softvirt_ept_oracle::tables::{FIRST_32, FIRST_EPT, FIRST_SUB_PAGE, LOG_PAGE, Tables};
use std::cell::Cell;
use vmx_model::{Control, Vmx};
use x86_state::{Cpu, CpuProfile, Cr0, Cr4, Efer, Gva, Hpa};

/// An access, and the tables that it goes through. They lie in a memory of their own.
#[derive(Clone, Debug)]
pub struct WalkCase {
    /// The tables.
    pub tables: Tables,
    /// The guest's paging.
    pub paging: Paging,
    /// The linear address.
    pub linear: Gva,
    /// The access.
    pub access: Access,
    /// The EPT pointer; `None` without "enable EPT".
    pub eptp: Option<u64>,
    controls: EptControls,
    support: EptSupport,
    log: Option<PageModificationLog>,
}

impl WalkCase {
    /// An access in that guest. CR3 is made to point at the tables.
    pub(crate) fn arbitrary(u: &mut Unstructured<'_>, vmx: &Vmx, cpu: &mut Cpu, profile: &CpuProfile) -> Result<Self> {
        let has = |control| vmx.guest.controls.has(control);
        let seed: u64 = u.arbitrary()?;
        let noise = if one_in(u, 4)? { 20 } else { 1000 };
        let support = PagingSupport::from_profile(profile);
        let tables = Tables::new(seed, noise, u32::from(support.address.width), &[]);
        let bits_32 = cpu.cr0.contains(Cr0::PG) && !cpu.cr4.contains(Cr4::PAE);
        let root = u64::from(u.arbitrary::<u8>()? % 8) + if bits_32 { FIRST_32 } else { 0 };
        cpu.cr3 = root << 12;
        let mut paging = Paging::of_cpu(cpu, &support);
        if cpu.cr0.contains(Cr0::PG) && cpu.cr4.contains(Cr4::PAE) && !cpu.efer.contains(Efer::LMA) {
            cpu.pdptes = [0x1001, 0x2001, 0, 0x7001];
            paging.pdptes = Pdptes::Registers(cpu.pdptes);
        }
        let accessed = one_in(u, 2)?;
        let five = one_in(u, 4)?;
        let top = FIRST_EPT + if five { 8 } else { 6 } + u64::from(one_in(u, 2)?);
        let eptp = top << 12 | 6 | if five { 4 } else { 3 } << 3 | u64::from(accessed) << 6;
        let controls = EptControls {
            mode_based_execute: has(Control::MODE_BASED_EXECUTE_CONTROL),
            paging_write: has(Control::EPT_PAGING_WRITE_CONTROL),
            guest_paging_verification: has(Control::GUEST_PAGING_VERIFICATION),
            sub_page: has(Control::SUB_PAGE_WRITE_PERMISSIONS).then_some(Hpa(FIRST_SUB_PAGE << 12)),
            violation_ve: has(Control::EPT_VIOLATION_VE),
        };
        let index = if one_in(u, 3)? { 0xffff } else { u16::from(u.arbitrary::<u8>()?) };
        let log = (accessed && has(Control::ENABLE_PML))
            .then_some(PageModificationLog { address: Hpa(LOG_PAGE << 12), index: Cell::new(index) });
        let operation = [Operation::Read, Operation::Write, Operation::Fetch][usize::from(u.arbitrary::<u8>()? % 3)];
        let privilege = if one_in(u, 2)? { Privilege::User } else { Privilege::Supervisor };
        let mut access = Access::new(operation, privilege);
        if one_in(u, 8)? && operation != Operation::Fetch {
            access = access.shadow_stack();
        }
        let any: u64 = u.arbitrary()?;
        // A canonical address with 48 bits in every mode.
        let linear = if cpu.efer.contains(Efer::LMA) { ((any << 16) as i64 >> 16) as u64 } else { any & 0xffff_ffff };
        Ok(Self {
            tables,
            paging,
            linear: Gva(linear),
            access,
            eptp: has(Control::ENABLE_EPT).then_some(eptp),
            controls,
            support: EptSupport::from_profile(profile),
            log,
        })
    }

    /// The second dimension.
    #[must_use]
    pub fn ept(&self) -> Option<Ept<'_>> {
        let ept = Ept::new(self.eptp?, self.controls, &self.support);
        Some(match &self.log {
            Some(log) => ept.with_log(log),
            None => ept,
        })
    }

    /// Makes the access. Flags in the tables and the log are changed by it.
    ///
    /// # Errors
    /// Why there is no translation.
    pub fn walk(&self) -> core::result::Result<Translation, Failure> {
        match self.ept() {
            Some(ept) => softvirt_ept::walk(&self.tables, &self.paging, &ept, self.linear, self.access),
            None => softvirt_ept::walk(&self.tables, &self.paging, &Direct, self.linear, self.access),
        }
    }
}
