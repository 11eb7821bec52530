//! What does a VM entry ignore in the host-state area?

use super::{ALL, CANONICAL_LOW, IgnoredRow, PHYSICAL, ignored, off, on};
use crate::control::Control;
use crate::fields::Field;

/// Bits 15:3 of a selector: RPL and TI are checked.
const INDEX: u64 = 0xfff8;

pub(super) const ROWS: &[IgnoredRow] = ignored! {
    "SDM 3C 26.2.2, Checks on Host Control Registers, MSRs, and SSP" {
        // NW and CD.
        Field::HOST_CR0, 0b11 << 29;
        Field::HOST_CR3, PHYSICAL;
        Field::HOST_IA32_SYSENTER_CS, ALL;
        Field::HOST_IA32_SYSENTER_ESP, CANONICAL_LOW;
        Field::HOST_IA32_SYSENTER_EIP, CANONICAL_LOW;
        Field::HOST_RSP, ALL;
        Field::HOST_IA32_PERF_GLOBAL_CTRL, ALL, if |s| off(s, Control::HOST_LOAD_PERF_GLOBAL_CTRL);
        Field::HOST_IA32_PAT, ALL, if |s| off(s, Control::HOST_LOAD_PAT);
        Field::HOST_IA32_EFER, ALL, if |s| off(s, Control::HOST_LOAD_EFER);
        Field::HOST_IA32_S_CET, ALL, if |s| off(s, Control::HOST_LOAD_CET_STATE);
        Field::HOST_SSP, ALL, if |s| off(s, Control::HOST_LOAD_CET_STATE);
        Field::HOST_IA32_INTERRUPT_SSP_TABLE_ADDR, ALL, if |s| off(s, Control::HOST_LOAD_CET_STATE);
        Field::HOST_IA32_INTERRUPT_SSP_TABLE_ADDR, CANONICAL_LOW;
        Field::HOST_IA32_PKRS, ALL, if |s| off(s, Control::HOST_LOAD_PKRS);
        Field::HOST_IA32_PKRS, 0xffff_ffff;
    }
    "SDM 3C 26.2.3, Checks on Host Segment and Descriptor-Table Registers" {
        Field::HOST_ES_SELECTOR, INDEX;
        Field::HOST_DS_SELECTOR, INDEX;
        Field::HOST_FS_SELECTOR, INDEX;
        Field::HOST_GS_SELECTOR, INDEX;
        Field::HOST_SS_SELECTOR, INDEX, if |s| on(s, Control::HOST_ADDRESS_SPACE_SIZE);
        Field::HOST_FS_BASE, CANONICAL_LOW;
        Field::HOST_GS_BASE, CANONICAL_LOW;
        Field::HOST_TR_BASE, CANONICAL_LOW;
        Field::HOST_GDTR_BASE, CANONICAL_LOW;
        Field::HOST_IDTR_BASE, CANONICAL_LOW;
    }
    "SDM 3C 26.2.4, Checks Related to Address-Space Size" {
        Field::HOST_RIP, 0xffff_ffff;
        Field::HOST_RIP, CANONICAL_LOW, if |s| on(s, Control::HOST_ADDRESS_SPACE_SIZE);
    }
    "FRED 2.0 9.5.2.1, State Checking of Host FRED State" {
        Field::HOST_IA32_FRED_CONFIG, ALL, if |s| off(s, Control::HOST_LOAD_FRED);
        Field::HOST_IA32_FRED_RSP1, ALL, if |s| off(s, Control::HOST_LOAD_FRED);
        Field::HOST_IA32_FRED_RSP2, ALL, if |s| off(s, Control::HOST_LOAD_FRED);
        Field::HOST_IA32_FRED_RSP3, ALL, if |s| off(s, Control::HOST_LOAD_FRED);
        Field::HOST_IA32_FRED_STACK_LEVELS, ALL;
        Field::HOST_IA32_FRED_SSP1, ALL, if |s| off(s, Control::HOST_LOAD_FRED);
        Field::HOST_IA32_FRED_SSP2, ALL, if |s| off(s, Control::HOST_LOAD_FRED);
        Field::HOST_IA32_FRED_SSP3, ALL, if |s| off(s, Control::HOST_LOAD_FRED);
    }
    "later than SDM revision 077: fields whose control is 0" {
        Field::HOST_IA32_SPEC_CTRL, ALL, if |s| off(s, Control::HOST_LOAD_SPEC_CTRL);
    }
};
