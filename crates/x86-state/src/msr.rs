//! Which model-specific registers are there, and what does a write of one do? Numbers, masks, the table, the checks.
//!
//! - [`Msr`], the numbers: here.
//! - [`mask`]: which bits of a register may be written, computed once for each [`CpuProfile`](crate::CpuProfile).
//! - [`table`]: one row for each register that softvirt knows.
//! - [`check`]: what RDMSR and WRMSR answer, by the table.
//! - [`list`]: what becomes of an entry of an MSR list.
//! - [`mod@file`]: where the registers live.
//!
//! Source: SDM 4 table 2-2 (rev 077), IA-32 Architectural MSRs.

pub mod check;
pub mod file;
pub mod list;
pub mod mask;
pub mod table;
mod value;

#[cfg(test)]
mod cases;

pub use check::{MsrAnswer, MsrContext, MsrFault, check_read, check_write};
pub use file::{MsrFile, NoMsrs, Platform};
pub use list::{ListAnswer, ListFault, check_vm_entry_load, check_vm_exit_load, check_vm_exit_store};
pub use mask::{MaskedMsr, MsrMask};
pub use table::{Class, Exists, MsrFlags, MsrRow, row};

use core::fmt;

macro_rules! msrs {
    ($($name:ident = $index:literal, $text:literal;)*) => {
        /// The index of a model-specific register, as ECX holds it for RDMSR. Any 32-bit number: those without a name survive.
        #[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Default)]
        #[repr(transparent)]
        pub struct Msr(pub u32);

        impl Msr {
            $(#[doc = concat!($text, ".")] pub const $name: Self = Self($index);)*

            const NAMED: &'static [(Self, &'static str)] = &[$((Self::$name, $text),)*];
        }
    };
}

msrs! {
    TSC = 0x10, "IA32_TIME_STAMP_COUNTER";
    APIC_BASE = 0x1b, "IA32_APIC_BASE";
    FEATURE_CONTROL = 0x3a, "IA32_FEATURE_CONTROL";
    TSC_ADJUST = 0x3b, "IA32_TSC_ADJUST";
    SPEC_CTRL = 0x48, "IA32_SPEC_CTRL";
    PRED_CMD = 0x49, "IA32_PRED_CMD";
    BIOS_UPDT_TRIG = 0x79, "IA32_BIOS_UPDT_TRIG";
    BIOS_SIGN_ID = 0x8b, "IA32_BIOS_SIGN_ID";
    SMM_MONITOR_CTL = 0x9b, "IA32_SMM_MONITOR_CTL";
    SMBASE = 0x9e, "IA32_SMBASE";
    UMWAIT_CONTROL = 0xe1, "IA32_UMWAIT_CONTROL";
    MTRRCAP = 0xfe, "IA32_MTRRCAP";
    ARCH_CAPABILITIES = 0x10a, "IA32_ARCH_CAPABILITIES";
    FLUSH_CMD = 0x10b, "IA32_FLUSH_CMD";
    TSX_CTRL = 0x122, "IA32_TSX_CTRL";
    SYSENTER_CS = 0x174, "IA32_SYSENTER_CS";
    SYSENTER_ESP = 0x175, "IA32_SYSENTER_ESP";
    SYSENTER_EIP = 0x176, "IA32_SYSENTER_EIP";
    MISC_ENABLE = 0x1a0, "IA32_MISC_ENABLE";
    XFD = 0x1c4, "IA32_XFD";
    XFD_ERR = 0x1c5, "IA32_XFD_ERR";
    FRED_RSP0 = 0x1cc, "IA32_FRED_RSP0";
    FRED_RSP1 = 0x1cd, "IA32_FRED_RSP1";
    FRED_RSP2 = 0x1ce, "IA32_FRED_RSP2";
    FRED_RSP3 = 0x1cf, "IA32_FRED_RSP3";
    FRED_STKLVLS = 0x1d0, "IA32_FRED_STKLVLS";
    FRED_SSP1 = 0x1d1, "IA32_FRED_SSP1";
    FRED_SSP2 = 0x1d2, "IA32_FRED_SSP2";
    FRED_SSP3 = 0x1d3, "IA32_FRED_SSP3";
    FRED_CONFIG = 0x1d4, "IA32_FRED_CONFIG";
    DEBUGCTL = 0x1d9, "IA32_DEBUGCTL";
    LER_FROM_IP = 0x1dd, "IA32_LER_FROM_IP";
    LER_TO_IP = 0x1de, "IA32_LER_TO_IP";
    SMRR_PHYSBASE = 0x1f2, "IA32_SMRR_PHYSBASE";
    SMRR_PHYSMASK = 0x1f3, "IA32_SMRR_PHYSMASK";
    PAT = 0x277, "IA32_PAT";
    MTRR_DEF_TYPE = 0x2ff, "IA32_MTRR_DEF_TYPE";
    PERF_CAPABILITIES = 0x345, "IA32_PERF_CAPABILITIES";
    FIXED_CTR_CTRL = 0x38d, "IA32_FIXED_CTR_CTRL";
    PERF_GLOBAL_STATUS = 0x38e, "IA32_PERF_GLOBAL_STATUS";
    PERF_GLOBAL_CTRL = 0x38f, "IA32_PERF_GLOBAL_CTRL";
    PEBS_ENABLE = 0x3f1, "IA32_PEBS_ENABLE";
    VMX_BASIC = 0x480, "IA32_VMX_BASIC";
    RTIT_OUTPUT_BASE = 0x560, "IA32_RTIT_OUTPUT_BASE";
    RTIT_OUTPUT_MASK_PTRS = 0x561, "IA32_RTIT_OUTPUT_MASK_PTRS";
    RTIT_CTL = 0x570, "IA32_RTIT_CTL";
    RTIT_STATUS = 0x571, "IA32_RTIT_STATUS";
    RTIT_CR3_MATCH = 0x572, "IA32_RTIT_CR3_MATCH";
    DS_AREA = 0x600, "IA32_DS_AREA";
    U_CET = 0x6a0, "IA32_U_CET";
    S_CET = 0x6a2, "IA32_S_CET";
    PL0_SSP = 0x6a4, "IA32_PL0_SSP";
    PL1_SSP = 0x6a5, "IA32_PL1_SSP";
    PL2_SSP = 0x6a6, "IA32_PL2_SSP";
    PL3_SSP = 0x6a7, "IA32_PL3_SSP";
    INTERRUPT_SSP_TABLE_ADDR = 0x6a8, "IA32_INTERRUPT_SSP_TABLE_ADDR";
    TSC_DEADLINE = 0x6e0, "IA32_TSC_DEADLINE";
    PKRS = 0x6e1, "IA32_PKRS";
    BNDCFGS = 0xd90, "IA32_BNDCFGS";
    XSS = 0xda0, "IA32_XSS";
    LBR_CTL = 0x14ce, "IA32_LBR_CTL";
    LBR_DEPTH = 0x14cf, "IA32_LBR_DEPTH";
    HW_FEEDBACK_PTR = 0x17d0, "IA32_HW_FEEDBACK_PTR";
    EFER = 0xc000_0080, "IA32_EFER";
    STAR = 0xc000_0081, "IA32_STAR";
    LSTAR = 0xc000_0082, "IA32_LSTAR";
    CSTAR = 0xc000_0083, "IA32_CSTAR";
    FMASK = 0xc000_0084, "IA32_FMASK";
    FS_BASE = 0xc000_0100, "IA32_FS_BASE";
    GS_BASE = 0xc000_0101, "IA32_GS_BASE";
    KERNEL_GS_BASE = 0xc000_0102, "IA32_KERNEL_GS_BASE";
    TSC_AUX = 0xc000_0103, "IA32_TSC_AUX";
}

impl Msr {
    /// The manual's name: of this register, or of the group of registers that it belongs to. `None` if softvirt knows none.
    #[must_use]
    pub fn name(self) -> Option<&'static str> {
        Self::NAMED.iter().find(|(msr, _)| *msr == self).map(|(_, name)| *name).or_else(|| Some(row(self)?.name))
    }

    /// Is it in the range through which the local APIC is reached in x2APIC mode: bits `[31:8]` are 0x000008?
    ///
    /// SDM 3A 10.12.4 gives the range 0x800 to 0x8FF and, beside it, an expression that would reach to 0xFFF;
    /// SDM 3C 26.4 and 27.4 agree with the range.
    #[must_use]
    pub const fn is_x2apic(self) -> bool {
        self.0 >> 8 == 0x8
    }
}

impl fmt::Debug for Msr {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.name() {
            Some(name) => write!(f, "Msr({:#x} {name})", self.0),
            None => write!(f, "Msr({:#x})", self.0),
        }
    }
}

impl fmt::LowerHex for Msr {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::LowerHex::fmt(&self.0, f)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    extern crate std;
    use std::format;

    #[test]
    fn every_named_register_has_a_row_that_covers_it() {
        for &(msr, name) in Msr::NAMED {
            let row = row(msr).unwrap_or_else(|| panic!("{name} has no row"));
            assert!(row.first <= msr.0 && msr.0 <= row.last);
            if row.first == row.last {
                assert_eq!(row.name, name);
            }
        }
    }

    #[test]
    fn names_come_from_the_constant_then_from_the_row_then_are_missing() {
        assert_eq!(Msr(0x6a4).name(), Some("IA32_PL0_SSP"));
        assert_eq!(Msr(0xc3).name(), Some("IA32_PMCx"));
        assert_eq!(Msr(0xdead_beef).name(), None);
        assert_eq!(format!("{:?}", Msr::EFER), "Msr(0xc0000080 IA32_EFER)");
        assert_eq!(format!("{:?}", Msr(0xdead_beef)), "Msr(0xdeadbeef)");
    }

    #[test]
    fn x2apic_range_ends_at_8ff() {
        for (index, expected) in [(0x7ff, false), (0x800, true), (0x8ff, true), (0x900, false), (0x1_0800, false)] {
            assert_eq!(Msr(index).is_x2apic(), expected, "{index:#x}");
        }
    }
}
