//! Do the processor's mode, the guest's and the host's fit together: 64-bit or not?
//!
//! Source: SDM 3C 26.2.4 (rev 077), Checks Related to Address-Space Size.

use super::table::{Paragraph, rules};
use crate::control::Control;
use crate::fields::Field;
use crate::state::EntryState;
use crate::view::CpuInput;
use x86_state::Feature;
use x86_state::addr::canonicalize;

/// CR4.PAE.
const CR4_PAE: u64 = 1 << 5;
/// CR4.PCIDE.
const CR4_PCIDE: u64 = 1 << 17;
/// IA32_EFER.LME and LMA.
const EFER_LME_LMA: u64 = 1 << 8 | 1 << 10;
/// IA32_EFER.LMA.
const EFER_LMA: u64 = 1 << 10;
/// Bits `[63:32]`.
const HIGH: u64 = 0xffff_ffff_0000_0000;

/// The reading of 26.2.4 that its rows on controls share.
const ERROR_NUMBER: &str = "The manual puts checks of two controls here, outside of its list of control checks (26.2.1), and does not \
    say whether they count as controls (error 7) or as host state (8). KVM, Bochs and VirtualBox report 8; kvm-unit-tests accepts either.";

/// Makes the host of a valid state a valid 32-bit host, without changing what mode the processor is in.
fn legacy_host_state(s: &mut EntryState) {
    s.off(Control::HOST_ADDRESS_SPACE_SIZE);
    s.clear_bits(Field::HOST_IA32_EFER, EFER_LME_LMA);
    s.clear_bits(Field::HOST_CR4, CR4_PCIDE);
    s.set(Field::HOST_RIP, 0x8100_0000);
}

/// Turns a valid state into one of a valid VM entry from outside IA-32e mode, with a 32-bit host. The guest must be outside it too.
pub(super) fn legacy_host(s: &mut EntryState) {
    s.set_cpu(CpuInput::Efer, s.cpu_input(CpuInput::Efer) & !EFER_LME_LMA);
    s.set_cpu(CpuInput::CsAccessRights, 0xc09b);
    legacy_host_state(s);
}

/// Puts the processor into IA-32e mode, or out of it.
fn set_processor_mode(s: &mut EntryState, ia32e: bool) {
    let efer = s.cpu_input(CpuInput::Efer) & !EFER_LME_LMA;
    s.set_cpu(CpuInput::Efer, if ia32e { efer | EFER_LME_LMA } else { efer });
    s.set_cpu(CpuInput::CsAccessRights, if ia32e { 0xa09b } else { 0xc09b });
}

/// Makes a control 0, if the processor allows.
fn off_if_possible(s: &mut EntryState, control: Control) -> bool {
    let possible = s.can_clear(control);
    if possible {
        s.off(control);
    }
    possible
}

rules! {
    "26.2.4" when |c| c.intel64()? => {
        "host.address_space.guest_outside_ia32e" at 1 {
            says "If the processor is outside IA-32e mode at VM entry, the \"IA-32e mode guest\" VM-entry control is 0.";
            fails VmFailValid(8);
            reads [ctl(Control::IA32E_MODE_GUEST), cpu(CpuInput::Efer), has(Feature::LM)];
            when |c| c.cpu(CpuInput::Efer)? & EFER_LMA == 0;
            holds |c| !c.ctl(Control::IA32E_MODE_GUEST)?;
            hint "A 32-bit host cannot run a 64-bit guest: the hypervisor itself has to run in 64-bit mode.";
            doubt ERROR_NUMBER;
            implies ["host.address_space.guest_legacy_host"];
            breaks |s| legacy_host(s);
            // Where the control cannot be 0, every guest is a 64-bit one, and the processor has to be in IA-32e mode.
            mends |s| if !off_if_possible(s, Control::IA32E_MODE_GUEST) { set_processor_mode(s, true) };
        }
        "host.address_space.host_outside_ia32e" at 1 {
            says "If the processor is outside IA-32e mode at VM entry, the \"host address-space size\" VM-exit control is 0.";
            fails VmFailValid(8);
            reads [ctl(Control::HOST_ADDRESS_SPACE_SIZE), cpu(CpuInput::Efer), has(Feature::LM)];
            when |c| c.cpu(CpuInput::Efer)? & EFER_LMA == 0;
            holds |c| !c.ctl(Control::HOST_ADDRESS_SPACE_SIZE)?;
            hint "The host after a VM exit has the mode that it has at VM entry: the control follows IA32_EFER.LMA.";
            doubt ERROR_NUMBER;
            base Protected32;
            breaks |s| set_processor_mode(s, false);
            mends |s| if !off_if_possible(s, Control::HOST_ADDRESS_SPACE_SIZE) { set_processor_mode(s, true) };
        }
        "host.address_space.host_in_ia32e" at 2 {
            says "If the processor is in IA-32e mode at VM entry, the \"host address-space size\" VM-exit control is 1.";
            fails VmFailValid(8);
            reads [ctl(Control::HOST_ADDRESS_SPACE_SIZE), cpu(CpuInput::Efer), has(Feature::LM)];
            when |c| c.cpu(CpuInput::Efer)? & EFER_LMA != 0;
            holds |c| c.ctl(Control::HOST_ADDRESS_SPACE_SIZE)?;
            hint "A 64-bit hypervisor must set bit 9 of the VM-exit controls, whatever the mode of its guest.";
            doubt ERROR_NUMBER;
            base Protected32;
            breaks |s| legacy_host_state(s);
            mends |s| {
                if s.can_set(Control::HOST_ADDRESS_SPACE_SIZE) {
                    s.on(Control::HOST_ADDRESS_SPACE_SIZE);
                } else {
                    set_processor_mode(s, false);
                }
            };
        }
        "host.address_space.guest_legacy_host" at 3 {
            says "If \"host address-space size\" is 0, the \"IA-32e mode guest\" VM-entry control is 0.";
            fails VmFailValid(8);
            reads [ctl(Control::IA32E_MODE_GUEST), ctl(Control::HOST_ADDRESS_SPACE_SIZE), has(Feature::LM)];
            when |c| !c.ctl(Control::HOST_ADDRESS_SPACE_SIZE)?;
            holds |c| !c.ctl(Control::IA32E_MODE_GUEST)?;
            hint "Both controls of a 64-bit guest must be set: bit 9 of the VM-entry controls and bit 9 of the VM-exit controls.";
            doubt ERROR_NUMBER;
            implies ["host.address_space.host_in_ia32e"];
            breaks |s| legacy_host_state(s);
            // The processor's own mode tells which of the two controls is wrong.
            mends |s| {
                if s.cpu_input(CpuInput::Efer) & EFER_LMA != 0 && s.can_set(Control::HOST_ADDRESS_SPACE_SIZE) {
                    s.on(Control::HOST_ADDRESS_SPACE_SIZE);
                } else if !off_if_possible(s, Control::IA32E_MODE_GUEST) {
                    s.on(Control::HOST_ADDRESS_SPACE_SIZE);
                    set_processor_mode(s, true);
                }
            };
        }
        "host.cr4.pcide_legacy_host" at 3 {
            says "If \"host address-space size\" is 0, bit 17 (PCIDE) of host CR4 is 0.";
            fails VmFailValid(8);
            reads [field(Field::HOST_CR4), ctl(Control::HOST_ADDRESS_SPACE_SIZE), has(Feature::LM)];
            when |c| !c.ctl(Control::HOST_ADDRESS_SPACE_SIZE)?;
            holds |c| c.field(Field::HOST_CR4)? & CR4_PCIDE == 0;
            hint "Process-context identifiers exist in IA-32e mode only.";
            base Protected32;
            breaks |s| { legacy_host(s); s.set_bits(Field::HOST_CR4, CR4_PCIDE) };
            mends |s| s.clear_bits(Field::HOST_CR4, CR4_PCIDE);
        }
        "host.rip.high_legacy_host" at 3 {
            says "If \"host address-space size\" is 0, bits 63:32 of host RIP are 0.";
            fails VmFailValid(8);
            reads [field(Field::HOST_RIP), ctl(Control::HOST_ADDRESS_SPACE_SIZE), has(Feature::LM)];
            when |c| !c.ctl(Control::HOST_ADDRESS_SPACE_SIZE)?;
            holds |c| c.field(Field::HOST_RIP)? >> 32 == 0;
            hint "Was a 32-bit address sign-extended, or \"host address-space size\" forgotten?";
            base Protected32;
            breaks |s| { legacy_host(s); s.set(Field::HOST_RIP, 0xffff_ffff_8100_0000) };
            mends |s| s.clear_bits(Field::HOST_RIP, HIGH);
        }
        "host.s_cet.high_legacy_host" at 3 {
            says "If VM exits load CET state and \"host address-space size\" is 0, bits 63:32 of host IA32_S_CET are 0.";
            fails VmFailValid(8);
            reads [
                field(Field::HOST_IA32_S_CET), ctl(Control::HOST_LOAD_CET_STATE), ctl(Control::HOST_ADDRESS_SPACE_SIZE), has(Feature::LM),
            ];
            when |c| c.ctl(Control::HOST_LOAD_CET_STATE)? && !c.ctl(Control::HOST_ADDRESS_SPACE_SIZE)?;
            holds |c| c.field(Field::HOST_IA32_S_CET)? >> 32 == 0;
            hint "The legacy code-page bitmap must lie in the low 4 GBytes of a 32-bit host.";
            base Protected32;
            breaks |s| { legacy_host(s); s.on(Control::HOST_LOAD_CET_STATE); s.set(Field::HOST_IA32_S_CET, 1 << 32) };
            mends |s| s.clear_bits(Field::HOST_IA32_S_CET, HIGH);
        }
        "host.ssp.high_legacy_host" at 3 {
            says "If VM exits load CET state and \"host address-space size\" is 0, bits 63:32 of host SSP are 0.";
            fails VmFailValid(8);
            reads [field(Field::HOST_SSP), ctl(Control::HOST_LOAD_CET_STATE), ctl(Control::HOST_ADDRESS_SPACE_SIZE), has(Feature::LM)];
            when |c| c.ctl(Control::HOST_LOAD_CET_STATE)? && !c.ctl(Control::HOST_ADDRESS_SPACE_SIZE)?;
            holds |c| c.field(Field::HOST_SSP)? >> 32 == 0;
            hint "The shadow stack must lie in the low 4 GBytes of a 32-bit host.";
            base Protected32;
            breaks |s| { legacy_host(s); s.on(Control::HOST_LOAD_CET_STATE); s.set(Field::HOST_SSP, 1 << 32) };
            mends |s| s.clear_bits(Field::HOST_SSP, HIGH);
        }
        "host.cr4.pae_64_bit_host" at 4 {
            says "If \"host address-space size\" is 1, bit 5 (PAE) of host CR4 is 1.";
            fails VmFailValid(8);
            reads [field(Field::HOST_CR4), ctl(Control::HOST_ADDRESS_SPACE_SIZE), has(Feature::LM)];
            when |c| c.ctl(Control::HOST_ADDRESS_SPACE_SIZE)?;
            holds |c| c.field(Field::HOST_CR4)? & CR4_PAE != 0;
            hint "Copy the CR4 that the host runs with, not the guest's.";
            breaks |s| s.clear_bits(Field::HOST_CR4, CR4_PAE);
            mends |s| s.set_bits(Field::HOST_CR4, CR4_PAE);
        }
        "host.rip.canonical" at 4 {
            says "If \"host address-space size\" is 1, host RIP is a canonical address.";
            fails VmFailValid(8);
            reads [field(Field::HOST_RIP), ctl(Control::HOST_ADDRESS_SPACE_SIZE), LINEAR_WIDTH, has(Feature::LM)];
            when |c| c.ctl(Control::HOST_ADDRESS_SPACE_SIZE)?;
            holds |c| c.canonical(c.field(Field::HOST_RIP)?);
            hint "The address of the exit handler was truncated or not sign-extended.";
            breaks |s| s.set(Field::HOST_RIP, 1 << 63);
            mends |s| s.set(Field::HOST_RIP, canonicalize(s.get(Field::HOST_RIP), s.profile.linear_width()));
        }
        "host.s_cet.canonical" at 4 {
            says "If VM exits load CET state and \"host address-space size\" is 1, host IA32_S_CET is a canonical address.";
            fails VmFailValid(8);
            reads [
                field(Field::HOST_IA32_S_CET), ctl(Control::HOST_LOAD_CET_STATE), ctl(Control::HOST_ADDRESS_SPACE_SIZE),
                LINEAR_WIDTH, has(Feature::LM),
            ];
            when |c| c.ctl(Control::HOST_LOAD_CET_STATE)? && c.ctl(Control::HOST_ADDRESS_SPACE_SIZE)?;
            holds |c| c.canonical(c.field(Field::HOST_IA32_S_CET)?);
            hint "Bits 63:12 are the address of the legacy code-page bitmap.";
            breaks |s| { s.on(Control::HOST_LOAD_CET_STATE); s.set(Field::HOST_IA32_S_CET, 1 << 63) };
            mends |s| s.set(Field::HOST_IA32_S_CET, canonicalize(s.get(Field::HOST_IA32_S_CET), s.profile.linear_width()));
        }
        "host.ssp.canonical" at 4 {
            says "If VM exits load CET state and \"host address-space size\" is 1, host SSP is a canonical address.";
            fails VmFailValid(8);
            reads [
                field(Field::HOST_SSP), ctl(Control::HOST_LOAD_CET_STATE), ctl(Control::HOST_ADDRESS_SPACE_SIZE),
                LINEAR_WIDTH, has(Feature::LM),
            ];
            when |c| c.ctl(Control::HOST_LOAD_CET_STATE)? && c.ctl(Control::HOST_ADDRESS_SPACE_SIZE)?;
            holds |c| c.canonical(c.field(Field::HOST_SSP)?);
            hint "The field must be written when \"load CET state\" is set, even if the host has no shadow stack (0 will do).";
            breaks |s| { s.on(Control::HOST_LOAD_CET_STATE); s.set(Field::HOST_SSP, 1 << 63) };
            mends |s| s.set(Field::HOST_SSP, canonicalize(s.get(Field::HOST_SSP), s.profile.linear_width()));
        }
        "host.interrupt_ssp_table.canonical" at 5 {
            says "If VM exits load CET state, host IA32_INTERRUPT_SSP_TABLE_ADDR is a canonical address.";
            fails VmFailValid(8);
            reads [
                field(Field::HOST_IA32_INTERRUPT_SSP_TABLE_ADDR), ctl(Control::HOST_LOAD_CET_STATE), LINEAR_WIDTH, has(Feature::LM),
            ];
            when |c| c.ctl(Control::HOST_LOAD_CET_STATE)?;
            holds |c| c.canonical(c.field(Field::HOST_IA32_INTERRUPT_SSP_TABLE_ADDR)?);
            hint "The field must be written when \"load CET state\" is set, even if the host has no interrupt shadow stacks (0 will do).";
            breaks |s| { s.on(Control::HOST_LOAD_CET_STATE); s.set(Field::HOST_IA32_INTERRUPT_SSP_TABLE_ADDR, 1 << 63) };
            mends |s| {
                let address = s.get(Field::HOST_IA32_INTERRUPT_SSP_TABLE_ADDR);
                s.set(Field::HOST_IA32_INTERRUPT_SSP_TABLE_ADDR, canonicalize(address, s.profile.linear_width()));
            };
        }
    }
    "26.2.4" when |c| !c.intel64()? => {
        "host.address_space.guest_without_intel64" at 6 {
            says "On processors that do not support Intel 64, the \"IA-32e mode guest\" VM-entry control is 0.";
            fails VmFailValid(8);
            reads [ctl(Control::IA32E_MODE_GUEST), has(Feature::LM)];
            holds |c| !c.ctl(Control::IA32E_MODE_GUEST)?;
            hint "The processor has no 64-bit mode.";
            doubt ERROR_NUMBER;
            base Protected32;
            breaks |s| {
                legacy_host(s);
                s.profile = s.profile.with_feature(Feature::LM, false);
                s.off(Control::LOAD_EFER);
                s.on(Control::IA32E_MODE_GUEST);
            };
            mends |s| s.off(Control::IA32E_MODE_GUEST);
        }
        "host.address_space.host_without_intel64" at 6 {
            says "On processors that do not support Intel 64, the \"host address-space size\" VM-exit control is 0.";
            fails VmFailValid(8);
            reads [ctl(Control::HOST_ADDRESS_SPACE_SIZE), has(Feature::LM)];
            holds |c| !c.ctl(Control::HOST_ADDRESS_SPACE_SIZE)?;
            hint "The processor has no 64-bit mode.";
            doubt ERROR_NUMBER;
            base Protected32;
            breaks |s| {
                legacy_host(s);
                s.profile = s.profile.with_feature(Feature::LM, false);
                s.off(Control::HOST_LOAD_EFER);
                s.on(Control::HOST_ADDRESS_SPACE_SIZE);
            };
            mends |s| s.off(Control::HOST_ADDRESS_SPACE_SIZE);
        }
    }
}

pub(crate) const PARAGRAPHS: &[Paragraph] = &[
    Paragraph::rules("26.2.4", 1, "VM entry from outside IA-32e mode"),
    Paragraph::rules("26.2.4", 2, "VM entry from IA-32e mode"),
    Paragraph::rules("26.2.4", 3, "a host outside IA-32e mode"),
    Paragraph::rules("26.2.4", 4, "a 64-bit host"),
    Paragraph::rules("26.2.4", 5, "interrupt SSP table of the host"),
    Paragraph::rules("26.2.4", 6, "processors without Intel 64"),
];
