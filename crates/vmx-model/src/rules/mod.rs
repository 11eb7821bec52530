//! Which rules does a VM entry obey, and which of them does a state break? All tables, in the manual's order, as one.

pub(crate) mod table;

pub mod sections;

mod apic_controls;
mod basic;
mod entry_controls;
mod ept_controls;
mod execution_controls;
mod exit_controls;
mod fred;
mod guest_access_rights;
mod guest_activity;
mod guest_descriptor_tables;
mod guest_interruptibility;
mod guest_link_pointer;
mod guest_pdptes;
mod guest_pending_debug;
mod guest_registers;
mod guest_rip;
mod guest_segments;
mod guest_tr_ldtr;
mod host_address_space;
mod host_registers;
mod host_segments;
mod injection;
mod later_features;
pub(crate) mod msr_lists;
mod return_from_smm;

use crate::context::{Context, ExecutionControls};
use crate::control::Control;
use crate::fields::Field;
use crate::view::{CpuInput, EntryView, VmxInput};
pub use msr_lists::{MsrLoadFailure, failing_msr_entry, first_failing_msr_entry};
pub use table::{Consequence, GuestKind, MAX_RULES, Paragraph, RuleRow, RuleSet, Section};
use x86_state::CpuProfile;

macro_rules! tables {
    ($($($module:ident)::+,)*) => {
        const TABLES: &[&[RuleRow]] = &[$($($module)::+::ROWS,)*];

        #[inline(always)]
        fn check_all<V: EntryView>(context: &Context<'_, V>, out: &mut Violations) {
            let mut base = 0;
            $(
                $($module)::+::check(context, base, out);
                base += const { $($module)::+::ROWS.len() };
            )*
            let _ = base;
        }
    };
}

tables! {
    basic,
    return_from_smm,
    execution_controls,
    apic_controls,
    ept_controls,
    exit_controls,
    entry_controls,
    injection,
    fred::injection,
    host_registers,
    fred::host,
    host_segments,
    host_address_space,
    fred::host_mode,
    guest_registers,
    guest_segments,
    guest_segments::virtual_8086,
    guest_segments::code_base,
    guest_segments::narrow_bases,
    guest_segments::wide_bases,
    guest_access_rights::code_and_data,
    guest_access_rights::code,
    guest_access_rights::stack,
    guest_access_rights::data,
    guest_tr_ldtr::task,
    guest_tr_ldtr::local_table,
    guest_tr_ldtr::system,
    guest_descriptor_tables,
    guest_rip,
    guest_activity,
    guest_interruptibility,
    guest_pending_debug,
    guest_link_pointer,
    guest_pdptes,
    fred::guest,
    fred::guest_mode,
    later_features,
    msr_lists,
}

const PARAGRAPHS: &[&[Paragraph]] = &[
    basic::PARAGRAPHS,
    execution_controls::PARAGRAPHS,
    exit_controls::PARAGRAPHS,
    entry_controls::PARAGRAPHS,
    host_registers::PARAGRAPHS,
    host_segments::PARAGRAPHS,
    host_address_space::PARAGRAPHS,
    guest_registers::PARAGRAPHS,
    guest_segments::PARAGRAPHS,
    guest_descriptor_tables::PARAGRAPHS,
    guest_rip::PARAGRAPHS,
    guest_activity::PARAGRAPHS,
    guest_interruptibility::PARAGRAPHS,
    guest_pending_debug::PARAGRAPHS,
    guest_link_pointer::PARAGRAPHS,
    guest_pdptes::PARAGRAPHS,
    msr_lists::PARAGRAPHS,
    return_from_smm::PARAGRAPHS,
    fred::PARAGRAPHS,
    later_features::PARAGRAPHS,
];

/// Every paragraph of the manual that was read for rules, in order.
pub fn paragraphs() -> impl Iterator<Item = &'static Paragraph> {
    PARAGRAPHS.iter().copied().flatten()
}

/// Number of rules.
pub const RULE_COUNT: usize = {
    let mut count = 0;
    let mut i = 0;
    while i < TABLES.len() {
        count += TABLES[i].len();
        i += 1;
    }
    assert!(count <= MAX_RULES);
    count
};

/// A rule: an index into the table of all rules, in the order of the manual.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct RuleId(u16);

impl RuleId {
    /// The first rule.
    pub const FIRST: Self = Self(0);

    #[inline(always)]
    pub(crate) const fn at(index: usize) -> Self {
        Self(index as u16)
    }

    /// Every rule, in order.
    pub fn all() -> impl DoubleEndedIterator<Item = RuleId> + Clone {
        (0..RULE_COUNT as u16).map(RuleId)
    }

    /// The rule with this identifier.
    #[must_use]
    pub fn by_name(id: &str) -> Option<Self> {
        Self::all().find(|rule| rule.row().id == id)
    }

    /// The position in the order of all rules.
    #[must_use]
    pub const fn index(self) -> usize {
        self.0 as usize
    }

    /// The row.
    #[must_use]
    pub fn row(self) -> &'static RuleRow {
        let mut index = self.index();
        for table in TABLES {
            match table.get(index) {
                Some(row) => return row,
                None => index -= table.len(),
            }
        }
        // No constructor makes an index beyond the tables.
        &TABLES[0][0]
    }
}

impl core::fmt::Debug for RuleId {
    fn fmt(&self, f: &mut core::fmt::Formatter<'_>) -> core::fmt::Result {
        f.write_str(self.row().id)
    }
}

/// The answer of a complete check.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Default)]
pub struct Violations {
    /// Rules that are broken.
    pub broken: RuleSet,
    /// Rules of which nobody can tell, because an input is unknown. Empty if everything is known.
    pub unknown: RuleSet,
    /// Those of the unknown rules whose demand is not met: they are broken if they apply, which is what is unknown.
    pub suspected: RuleSet,
    /// The VM-execution controls are those of the executive VMCS: their failure has error number 25, not 7 (SDM 3C 30.4, note c).
    pub executive_controls: bool,
}

impl Violations {
    /// The broken rules, in the manual's order.
    pub fn broken(&self) -> impl Iterator<Item = RuleId> + '_ {
        self.broken.iter().map(RuleId::at)
    }

    /// The undecided rules, in the manual's order.
    pub fn unknown(&self) -> impl Iterator<Item = RuleId> + '_ {
        self.unknown.iter().map(RuleId::at)
    }

    /// The undecided rules that are broken if they apply, in the manual's order.
    pub fn suspected(&self) -> impl Iterator<Item = RuleId> + '_ {
        self.suspected.iter().map(RuleId::at)
    }

    /// Replaces the answer of one rule by that of another check.
    pub fn take_answer(&mut self, rule: RuleId, from: &Self) {
        self.broken.put(rule.index(), from.broken.contains(rule.index()));
        self.unknown.put(rule.index(), from.unknown.contains(rule.index()));
        self.suspected.put(rule.index(), from.suspected.contains(rule.index()));
    }

    /// Is no rule broken? Some may be undecided.
    #[must_use]
    pub fn none_broken(&self) -> bool {
        self.broken.is_empty()
    }

    /// What the processor does about this rule if it is broken: its row's consequence, but error 25 in place of 7 where the VM-execution
    /// controls are those of the executive VMCS.
    #[must_use]
    pub fn consequence(&self, rule: RuleId) -> Consequence {
        match rule.row().consequence {
            Consequence::VmFailValid(7) if self.executive_controls && rule.row().id.starts_with("ctl.") => {
                Consequence::VmFailValid(25)
            }
            consequence => consequence,
        }
    }

    /// Is this rule broken?
    #[must_use]
    pub const fn breaks(&self, rule: RuleId) -> bool {
        self.broken.contains(rule.index())
    }
}

/// Would VM entry with "enable EPT" accept this EPT pointer? EPTP switching and INVEPT ask so (SDM 3C 25.5.6.3, EPTP Switching; 30.3, VMX
/// Instructions, INVEPT). Rules that depend on capabilities nobody knows count as holding.
#[must_use]
pub fn eptp_is_valid(eptp: u64, profile: &CpuProfile) -> bool {
    let view = EptpView { eptp, profile };
    let mut out = Violations::default();
    ept_controls::check(&Context::new(&view), 0, &mut out);
    out.none_broken()
}

/// A VM entry in which "enable EPT" is the only control, and the EPT pointer the only other field that is not 0.
struct EptpView<'a> {
    eptp: u64,
    profile: &'a CpuProfile,
}

impl EntryView for EptpView<'_> {
    const ALL_KNOWN: bool = true;

    fn field(&self, field: Field) -> Option<u64> {
        Some(match field {
            Field::PRIMARY_PROC_BASED_CONTROLS => Control::ACTIVATE_SECONDARY_CONTROLS.mask(),
            Field::SECONDARY_PROC_BASED_CONTROLS => Control::ENABLE_EPT.mask(),
            Field::EPT_POINTER => self.eptp,
            _ => 0,
        })
    }
    fn executive_field(&self, _field: Field) -> Option<u64> {
        Some(0)
    }
    fn cpu(&self, _input: CpuInput) -> Option<u64> {
        Some(0)
    }
    fn vmx(&self, _input: VmxInput) -> Option<u64> {
        Some(0)
    }
    fn phys_u64(&self, _hpa: u64) -> Option<u64> {
        Some(u64::MAX)
    }
    fn profile(&self) -> &CpuProfile {
        self.profile
    }
}

/// Checks every rule of VM entry against a view: all violations, in a fixed order, without allocation.
///
/// The manual leaves the order of many checks open; the set does not depend on it. What one processor reports is
/// [`hardware_outcome`](crate::outcome::hardware_outcome).
#[must_use]
pub fn check_entry<V: EntryView>(view: &V) -> Violations {
    let context = Context::new(view);
    let executive_controls = context.execution_controls() == ExecutionControls::Executive;
    let mut out = Violations { executive_controls, ..Violations::default() };
    check_all(&context, &mut out);
    out
}
