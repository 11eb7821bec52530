//! What does a VM entry ignore in the guest-state area, segment registers apart?

use super::{ALL, CANONICAL_LOW, IgnoredRow, PHYSICAL, ignored, injected, off, on, pae_paging, single_step_is_checked};
use crate::control::Control;
use crate::fields::Field;
use crate::state::EntryState;
use crate::view::CpuInput;
use x86_state::SegmentRegister;

const BTF: u64 = 1 << 1;
/// CF, PF, AF, ZF, SF, DF, OF, NT, RF, AC, VIF, VIP, ID.
const FREE_FLAGS: u64 = 1
    | 1 << 2
    | 1 << 4
    | 1 << 6
    | 1 << 7
    | 1 << 10
    | 1 << 11
    | 1 << 14
    | 1 << 16
    | 1 << 18
    | 1 << 19
    | 1 << 20
    | 1 << 21;

fn sixty_four_bit(s: &EntryState) -> bool {
    on(s, Control::IA32E_MODE_GUEST) && s.rights(SegmentRegister::Cs) >> 13 & 1 == 1
}

/// PAE paging was in use before the VM entry: whether CR3 changes then matters.
fn pae_paging_before(s: &EntryState) -> bool {
    s.cpu_input(CpuInput::Cr0) >> 31 & 1 == 1
        && s.cpu_input(CpuInput::Cr4) >> 5 & 1 == 1
        && s.cpu_input(CpuInput::Efer) >> 8 & 1 == 0
}

pub(super) const REGISTERS: &[IgnoredRow] = ignored! {
    "SDM 3C 26.3.1.1, Checks on Guest Control Registers, Debug Registers, and MSRs" {
        // NW and CD.
        Field::GUEST_CR0, 0b11 << 29;
        Field::GUEST_CR3, PHYSICAL, if |s| !pae_paging(s) || on(s, Control::ENABLE_EPT);
        Field::GUEST_DR7, ALL, if |s| off(s, Control::LOAD_DEBUG_CONTROLS);
        Field::GUEST_DR7, 0xffff_ffff;
        // BTF is asked for beside pending debug exceptions (26.3.1.5).
        Field::GUEST_IA32_DEBUGCTL, !BTF, if |s| off(s, Control::LOAD_DEBUG_CONTROLS);
        Field::GUEST_IA32_DEBUGCTL, BTF, if |s| !single_step_is_checked(s);
        Field::GUEST_IA32_SYSENTER_CS, ALL;
        Field::GUEST_IA32_SYSENTER_ESP, CANONICAL_LOW;
        Field::GUEST_IA32_SYSENTER_EIP, CANONICAL_LOW;
        Field::GUEST_IA32_PERF_GLOBAL_CTRL, ALL, if |s| off(s, Control::LOAD_PERF_GLOBAL_CTRL);
        Field::GUEST_IA32_PAT, ALL, if |s| off(s, Control::LOAD_PAT);
        Field::GUEST_IA32_EFER, ALL, if |s| off(s, Control::LOAD_EFER);
        Field::GUEST_IA32_BNDCFGS, ALL, if |s| off(s, Control::LOAD_BNDCFGS);
        Field::GUEST_IA32_RTIT_CTL, ALL, if |s| off(s, Control::LOAD_RTIT_CTL);
        Field::GUEST_IA32_S_CET, ALL, if |s| off(s, Control::LOAD_CET_STATE);
        Field::GUEST_IA32_INTERRUPT_SSP_TABLE_ADDR, ALL, if |s| off(s, Control::LOAD_CET_STATE);
        Field::GUEST_IA32_INTERRUPT_SSP_TABLE_ADDR, CANONICAL_LOW;
        Field::GUEST_IA32_LBR_CTL, ALL, if |s| off(s, Control::LOAD_LBR_CTL);
        Field::GUEST_IA32_PKRS, ALL, if |s| off(s, Control::LOAD_PKRS);
        Field::GUEST_IA32_PKRS, 0xffff_ffff;
        // Loaded by VM entries that return from SMM, checked by none.
        Field::GUEST_SMBASE, ALL;
    }
    "SDM 3A 4.4.1, PDPTE Registers, Table 4-7" {
        // In a table that is read from memory at bits 31:5.
        Field::GUEST_CR3, 0x1f | 0xf << 32, if |s| !pae_paging_before(s);
    }
    "SDM 3C 26.3.1.3, Checks on Guest Descriptor-Table Registers" {
        Field::GUEST_GDTR_BASE, CANONICAL_LOW;
        Field::GUEST_IDTR_BASE, CANONICAL_LOW;
        Field::GUEST_GDTR_LIMIT, 0xffff;
        Field::GUEST_IDTR_LIMIT, 0xffff;
    }
    "SDM 3C 26.3.1.4, Checks on Guest RIP, RFLAGS, and SSP" {
        Field::GUEST_RSP, ALL;
        Field::GUEST_RIP, 0xffff_ffff;
        Field::GUEST_RIP, CANONICAL_LOW, if |s| sixty_four_bit(s);
        Field::GUEST_RFLAGS, FREE_FLAGS;
        // TF is asked for beside pending debug exceptions.
        Field::GUEST_RFLAGS, 1 << 8, if |s| !single_step_is_checked(s);
        // IF: beside blocking by STI and beside the injection of an external interrupt.
        Field::GUEST_RFLAGS, 1 << 9, if |s| s.get(Field::GUEST_INTERRUPTIBILITY_STATE) & 1 == 0 && injected(s) != Some(0);
        // IOPL: for guests that will use FRED transitions, with CPL 3 (FRED 2.0 9.5.2.3).
        Field::GUEST_RFLAGS, 0b11 << 12, if |s| off(s, Control::IA32E_MODE_GUEST);
        Field::GUEST_RFLAGS, 0b11 << 12, if |s| s.rights(SegmentRegister::Ss) >> 5 & 3 != 3;
        Field::GUEST_SSP, ALL, if |s| off(s, Control::LOAD_CET_STATE);
        Field::GUEST_SSP, 0xffff_fffc;
        // 26.3.2.3, Loading Guest RIP, RSP, RFLAGS, and SSP: outside 64-bit mode bits 63:32 must be 0.
        Field::GUEST_SSP, CANONICAL_LOW & !0b11, if |s| sixty_four_bit(s);
    }
    "FRED 2.0 9.5.2.2, State Checking of Guest FRED State" {
        Field::GUEST_IA32_FRED_CONFIG, ALL, if |s| off(s, Control::LOAD_FRED);
        Field::GUEST_IA32_FRED_RSP1, ALL, if |s| off(s, Control::LOAD_FRED);
        Field::GUEST_IA32_FRED_RSP2, ALL, if |s| off(s, Control::LOAD_FRED);
        Field::GUEST_IA32_FRED_RSP3, ALL, if |s| off(s, Control::LOAD_FRED);
        Field::GUEST_IA32_FRED_STACK_LEVELS, ALL;
        Field::GUEST_IA32_FRED_SSP1, ALL, if |s| off(s, Control::LOAD_FRED);
        Field::GUEST_IA32_FRED_SSP2, ALL, if |s| off(s, Control::LOAD_FRED);
        Field::GUEST_IA32_FRED_SSP3, ALL, if |s| off(s, Control::LOAD_FRED);
    }
    "later than SDM revision 077: fields whose control is 0" {
        Field::GUEST_UINV, ALL, if |s| off(s, Control::LOAD_UINV);
        Field::GUEST_UINV, 0xff;
        Field::GUEST_IA32_SPEC_CTRL, ALL, if |s| off(s, Control::LOAD_SPEC_CTRL);
        Field::GUEST_DEADLINE, ALL, if |s| off(s, Control::VIRTUALIZE_APIC_TIMER);
        // TDX: exists only in the VMCSs of a SEAM module.
        Field::TDX_RESERVED_GUEST_STATE, ALL;
    }
};

fn virtual_nmi_injection(s: &EntryState) -> bool {
    injected(s) == Some(2) && on(s, Control::VIRTUAL_NMIS)
}

fn rtm(s: &EntryState) -> bool {
    s.get(Field::GUEST_PENDING_DEBUG_EXCEPTIONS) >> 16 & 1 == 1
}

/// The PDPTE fields are checked.
fn pdpte_fields(s: &EntryState) -> bool {
    pae_paging(s) && on(s, Control::ENABLE_EPT)
}

fn not_present(s: &EntryState, field: Field) -> bool {
    s.get(field) & 1 == 0
}

/// Bits 11:9, PCD and PWT, and the address.
const PDPTE_FREE: u64 = PHYSICAL & !0xfff | 0b111 << 9 | 0b11 << 3;

pub(super) const NON_REGISTER: &[IgnoredRow] = ignored! {
    "SDM 3C 26.3.1.5, Checks on Guest Non-Register State" {
        Field::GUEST_INTERRUPTIBILITY_STATE, 1 << 3, if |s| !virtual_nmi_injection(s);
        // B3 to B0 and "enabled breakpoint".
        Field::GUEST_PENDING_DEBUG_EXCEPTIONS, 0x100f, if |s| !rtm(s);
        Field::GUEST_PENDING_DEBUG_EXCEPTIONS, 1 << 14, if |s| !rtm(s) && !single_step_is_checked(s);
        Field::VMX_PREEMPTION_TIMER_VALUE, ALL;
        Field::GUEST_INTERRUPT_STATUS, ALL;
        Field::PML_INDEX, ALL;
    }
    "SDM 3C 26.3.1.6, Checks on Guest Page-Directory-Pointer-Table Entries" {
        Field::GUEST_PDPTE0, ALL, if |s| !pdpte_fields(s);
        Field::GUEST_PDPTE1, ALL, if |s| !pdpte_fields(s);
        Field::GUEST_PDPTE2, ALL, if |s| !pdpte_fields(s);
        Field::GUEST_PDPTE3, ALL, if |s| !pdpte_fields(s);
        Field::GUEST_PDPTE0, !1, if |s| not_present(s, Field::GUEST_PDPTE0);
        Field::GUEST_PDPTE1, !1, if |s| not_present(s, Field::GUEST_PDPTE1);
        Field::GUEST_PDPTE2, !1, if |s| not_present(s, Field::GUEST_PDPTE2);
        Field::GUEST_PDPTE3, !1, if |s| not_present(s, Field::GUEST_PDPTE3);
        Field::GUEST_PDPTE0, PDPTE_FREE;
        Field::GUEST_PDPTE1, PDPTE_FREE;
        Field::GUEST_PDPTE2, PDPTE_FREE;
        Field::GUEST_PDPTE3, PDPTE_FREE;
    }
};
