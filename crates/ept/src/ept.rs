//! Where does a guest-physical address lead under Intel's extended page tables?
//!
//! This file holds what EPT *is*: controls, capabilities, and which entries are well formed. The walk is in `ept/walk.rs`.
//!
//! Source: SDM 3C 28.3.2 to 28.3.6 (rev 077); 5-level paper chapter 4, 5-Level EPT.

use core::cell::Cell;

use x86_state::{CpuProfile, Gpa, Hpa, PhysMemory, VmxMsr};

mod misconfigured;
mod walk;

pub use misconfigured::Misconfiguration;
pub use walk::{EptMapped, sub_page_vector};

use crate::entry::{AddressBits, ept_reserved_bits, epte};
use crate::fault::FailureKind;
use crate::mode::Usual;

/// What a processor's EPT supports, as far as it decides which entries are well formed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct EptSupport {
    /// Addresses.
    pub address: AddressBits,
    /// Execute-only translations (IA32_VMX_EPT_VPID_CAP\[0\]).
    pub execute_only: bool,
    /// 2-MByte pages (IA32_VMX_EPT_VPID_CAP\[16\]).
    pub page_2m: bool,
    /// 1-GByte pages (IA32_VMX_EPT_VPID_CAP\[17\]).
    pub page_1g: bool,
    /// Advanced VM-exit information for EPT violations (IA32_VMX_EPT_VPID_CAP\[22\]).
    pub advanced_exit_information: bool,
}

impl EptSupport {
    /// A present-day processor of the given physical-address width.
    #[must_use]
    pub const fn new(width: u8) -> Self {
        Self {
            address: AddressBits::new(width),
            execute_only: true,
            page_2m: true,
            page_1g: true,
            advanced_exit_information: true,
        }
    }

    /// What a profile says; an unknown capability counts as supported.
    #[must_use]
    pub const fn from_profile(profile: &CpuProfile) -> Self {
        let cap = match profile.vmx(VmxMsr::EptVpidCap) {
            Some(cap) => cap,
            None => u64::MAX,
        };
        Self {
            address: AddressBits::from_profile(profile),
            execute_only: cap & 1 != 0,
            page_2m: cap >> 16 & 1 != 0,
            page_1g: cap >> 17 & 1 != 0,
            advanced_exit_information: cap >> 22 & 1 != 0,
        }
    }
}

/// The VM-execution controls that the walk depends on.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct EptControls {
    /// "Mode-based execute control for EPT".
    pub mode_based_execute: bool,
    /// "EPT paging-write control".
    pub paging_write: bool,
    /// "Guest-paging verification"; means something together with paging-write control only.
    pub guest_paging_verification: bool,
    /// "Sub-page write permissions for EPT": the sub-page-permission-table pointer if the control is 1.
    pub sub_page: Option<Hpa>,
    /// "EPT-violation #VE".
    pub violation_ve: bool,
}

/// The page-modification log (SDM 3C 28.3.6, Page-Modification Logging).
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct PageModificationLog {
    /// The PML address VM-execution control field.
    pub address: Hpa,
    /// The PML index, which the walk counts down.
    pub index: Cell<u16>,
}

impl PageModificationLog {
    /// May a flag be set? Not if the index is beyond 511: that is a log-full event.
    fn has_room(&self) -> bool {
        self.index.get() < 512
    }

    fn append<M: PhysMemory + ?Sized>(&self, memory: &M, gpa: Gpa) {
        let index = self.index.get();
        memory.write_u64(self.address.offset(8 * u64::from(index)), gpa.page().0);
        self.index.set(index.wrapping_sub(1));
    }
}

/// The second dimension by EPT.
///
/// # Preconditions
/// The EPTP has passed VM entry's checks: a page-walk length of 4 or 5 (any other is treated as 4), no reserved bit.
#[derive(Clone, Copy, Debug)]
pub struct Ept<'a> {
    eptp: u64,
    controls: EptControls,
    support: EptSupport,
    log: Option<&'a PageModificationLog>,
    levels: u8,
    root: u64,
    frame: u64,
    table: Usual,
    page: Usual,
    /// The same with the dirty flag, if flags are enabled: for a write.
    page_dirty: Usual,
    /// Of levels 2 and 3; the memory type is looked at separately. Nothing is usual where the size is not supported.
    large: [Usual; 2],
    /// [`SecondDimension::usual_top`](crate::SecondDimension).
    usual_top: u8,
    /// The dirty flag if flags are enabled, otherwise 0.
    dirty: u64,
    /// What an access to a guest paging structure needs.
    table_need: u64,
}

impl<'a> Ept<'a> {
    /// EPT as the VMCS has it.
    #[must_use]
    pub const fn new(eptp: u64, controls: EptControls, support: &EptSupport) -> Self {
        let flags = eptp & 1 << 6 != 0;
        let accessed = if flags { epte::ACCESSED } else { 0 };
        let dirty = if flags { epte::DIRTY } else { 0 };
        let address = support.address;
        let levels = if eptp >> 3 & 7 == 4 { 5 } else { 4 };
        let page = Usual {
            mask: epte::READ | accessed | epte::MEMORY_TYPE | ept_reserved_bits(1, true, address),
            want: epte::READ | accessed | 6 << 3,
        };
        let set = epte::READ | accessed | epte::PAGE;
        let mut large = [Usual { mask: 0, want: !0 }; 2];
        if support.page_2m {
            large[0] = Usual { mask: set | ept_reserved_bits(2, true, address), want: set };
        }
        if support.page_1g {
            large[1] = Usual { mask: set | ept_reserved_bits(3, true, address), want: set };
        }
        Self {
            eptp,
            controls,
            support: *support,
            log: None,
            levels,
            root: eptp & address.frame(),
            frame: address.frame(),
            table: Usual {
                mask: epte::READ | accessed | ept_reserved_bits(5, false, address),
                want: epte::READ | accessed,
            },
            page,
            page_dirty: Usual { mask: page.mask | dirty, want: page.want | dirty },
            large,
            usual_top: if controls.guest_paging_verification && controls.paging_write { 0 } else { levels },
            dirty,
            table_need: if flags { epte::WRITE } else { epte::READ },
        }
    }

    /// With "enable PML" 1: this log. It works only if accessed and dirty flags are enabled, as VM entry demands.
    #[must_use]
    pub const fn with_log(mut self, log: &'a PageModificationLog) -> Self {
        self.log = Some(log);
        self
    }

    /// The controls.
    #[must_use]
    pub const fn controls(&self) -> &EptControls {
        &self.controls
    }

    /// What the processor supports.
    #[must_use]
    pub const fn support(&self) -> &EptSupport {
        &self.support
    }

    /// EPTP bit 6: accessed and dirty flags are enabled.
    #[must_use]
    pub const fn flags_enabled(&self) -> bool {
        self.eptp & 1 << 6 != 0
    }

    /// EPTP bit 7: access rights for supervisor shadow-stack pages are enforced.
    #[must_use]
    pub const fn supervisor_shadow_stack_control(&self) -> bool {
        self.eptp & 1 << 7 != 0
    }

    /// The page-modification log, if there is one.
    #[must_use]
    pub const fn log(&self) -> Option<&'a PageModificationLog> {
        self.log
    }

    /// The table of the highest level: bits `[M-1:12]` of the EPTP.
    #[must_use]
    pub const fn root(&self) -> Hpa {
        Hpa(self.root)
    }

    /// The page-walk length, 4 or 5.
    #[must_use]
    pub const fn levels(&self) -> u8 {
        self.levels
    }

    /// The bits any of which makes an entry present: 2:0, and 10 under mode-based execute control (SDM 3C 28.3.2).
    #[must_use]
    pub const fn presence(&self) -> u64 {
        7 | if self.controls.mode_based_execute { epte::EXECUTE_USER } else { 0 }
    }

    /// Is this entry present?
    #[must_use]
    pub const fn is_present(&self, entry: u64) -> bool {
        entry & self.presence() != 0
    }

    /// Does this entry map a page? Decided before its reserved bits are looked at (SDM 3C 28.3.2).
    #[must_use]
    pub const fn maps_page(&self, level: u8, entry: u64) -> bool {
        match level {
            1 => true,
            2 => self.support.page_2m && entry & epte::PAGE != 0,
            3 => self.support.page_1g && entry & epte::PAGE != 0,
            _ => false,
        }
    }

    /// The address in an entry of level 1 to 5, and log2 of the size of the page or table there.
    #[must_use]
    pub const fn leads_to(&self, level: u8, entry: u64) -> (Hpa, u8) {
        let bits = if self.maps_page(level, entry) { 12 + 9 * (level - 1) } else { 12 };
        (Hpa(entry & self.frame & !((1 << bits) - 1)), bits)
    }

    /// Why an entry stops the walk, if it does: step 1 of SDM 3C 28.3.3.3, with 28.3.3.1, EPT Misconfigurations.
    ///
    /// [`Ept::misconfigurations`] tells which of the conditions it is.
    #[must_use]
    pub const fn check_entry(&self, level: u8, entry: u64) -> Option<FailureKind> {
        if !self.is_present(entry) {
            Some(FailureKind::NotPresent)
        } else if self.is_misconfigured(level, entry) {
            Some(FailureKind::Misconfigured)
        } else {
            None
        }
    }
}
