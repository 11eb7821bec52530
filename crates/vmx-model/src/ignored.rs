//! Which bits does a VM entry not look at? What the manual says its checks ignore, as a table of its own.
//!
//! It was written from the manual, not from the rules, so that each can be held against the other: changing these bits must change no
//! answer of [`check_entry`](crate::check_entry). A row speaks of the checks only; what the processor does with the bits afterwards is
//! another matter (the guest's RSP is ignored by the checks and loaded all the same).
//!
//! Source: SDM 3C 26.2 and 26.3.1 (rev 077), Checks on VMX Controls and Host-State Area, Checks on the Guest State Area. Fields later than
//! that revision: ignored while the control is 0 that brings them, as all such fields are.

mod controls;
mod guest;
mod host;
mod segments;

use crate::control::Control;
use crate::fields::Field;
use crate::state::EntryState;
use crate::view::{CpuInput, VmxInput};
use crate::vmcs::Vmcs;

/// Bits of a field that a VM entry ignores under a condition.
///
/// # Invariants
/// The condition depends on no bit that any row lets a VM entry ignore in the same state.
#[derive(Clone, Copy)]
pub struct IgnoredRow {
    /// A field of the current VMCS.
    pub field: Field,
    /// The bits; those beyond the field's width mean nothing.
    pub bits: u64,
    /// The state in which they are ignored.
    pub when: fn(&EntryState) -> bool,
    /// Where the manual says so, or names every bit that it checks and not these: manual, section and title.
    pub source: &'static str,
}

const TABLES: &[&[IgnoredRow]] = &[
    controls::EXECUTION,
    controls::RETURN_FROM_SMM,
    controls::EXIT,
    controls::ENTRY,
    controls::EXIT_INFORMATION,
    host::ROWS,
    guest::REGISTERS,
    guest::NON_REGISTER,
    segments::ROWS,
];

/// All rows.
pub fn rows() -> impl Iterator<Item = &'static IgnoredRow> {
    TABLES.iter().copied().flatten()
}

/// The bits of a field of the current VMCS that a VM entry ignores in this state.
#[must_use]
pub fn bits(state: &EntryState, field: Field) -> u64 {
    let bits = rows().filter(|row| row.field == field && (row.when)(state)).fold(0, |all, row| all | row.bits);
    bits & field.row().width.mask()
}

/// Makes rows of one section: `FIELD bits if |state| condition;`, or without a condition for bits that are never looked at.
macro_rules! ignored {
    (@when) => { |_| true };
    (@when $s:ident $when:expr) => { |$s| $when };
    ($($source:literal { $($field:expr, $bits:expr $(, if |$s:ident| $when:expr)?;)* })*) => {
        &[$($($crate::ignored::IgnoredRow {
            field: $field,
            bits: $bits,
            when: ignored!(@when $($s $when)?),
            source: $source,
        },)*)*]
    };
}
use ignored;

const ALL: u64 = u64::MAX;
/// What an address of 48 or 57 bits can change and stay canonical.
const CANONICAL_LOW: u64 = (1 << 47) - 1;
/// Every processor with VMX has at least 36 physical-address bits.
const PHYSICAL: u64 = (1 << 36) - 1;
/// The page of an address that must be aligned and must have no bit beyond bit 31 or the physical-address width.
const PAGE: u64 = 0xffff_f000;

/// The VM entry returns from SMM (31.15.4).
fn returns_from_smm(s: &EntryState) -> bool {
    s.cpu_input(CpuInput::InSmm) != 0 && s.get(Field::VM_ENTRY_CONTROLS) & Control::ENTRY_TO_SMM.mask() == 0
}

/// The VMCS whose VM-execution controls are in effect; `None` if all count as 0 (31.15.4.4).
fn controlling(s: &EntryState) -> Option<&Vmcs> {
    if !returns_from_smm(s) {
        Some(&s.vmcs)
    } else if s.get(Field::EXECUTIVE_VMCS_POINTER) == s.vmx[VmxInput::VmxonPointer as usize] {
        None
    } else {
        Some(&s.executive)
    }
}

/// The control is 1, and so is the one that activates its vector.
fn on(s: &EntryState, control: Control) -> bool {
    use crate::control::ControlVector::{Entry, Exit, Exit2};
    let vector = control.vector();
    let holder = match vector {
        Exit | Exit2 | Entry => Some(&s.vmcs),
        _ => controlling(s),
    };
    holder.is_some_and(|vmcs| vmcs.get(vector.field()) & control.mask() != 0)
        && vector.activated_by().is_none_or(|activator| on(s, activator))
}

fn off(s: &EntryState, control: Control) -> bool {
    !on(s, control)
}

/// Type of the event to be injected, bits 10:8, if bit 31 says that there is one.
fn injected(s: &EntryState) -> Option<u64> {
    let event = s.get(Field::VM_ENTRY_INTERRUPTION_INFO);
    (event >> 31 & 1 == 1).then_some(event >> 8 & 7)
}

fn virtual_8086(s: &EntryState) -> bool {
    s.get(Field::GUEST_RFLAGS) >> 17 & 1 == 1
}

/// CR0.PG and CR4.PAE are 1, "IA-32e mode guest" is 0.
fn pae_paging(s: &EntryState) -> bool {
    s.get(Field::GUEST_CR0) >> 31 & 1 == 1 && s.get(Field::GUEST_CR4) >> 5 & 1 == 1 && off(s, Control::IA32E_MODE_GUEST)
}

/// The guest is blocked by STI or by MOV SS, or halted: only then is BS checked.
fn single_step_is_checked(s: &EntryState) -> bool {
    s.get(Field::GUEST_INTERRUPTIBILITY_STATE) & 0b11 != 0 || s.get(Field::GUEST_ACTIVITY_STATE) == 1
}
