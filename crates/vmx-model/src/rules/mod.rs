//! Which rules does a VM entry obey, and which of them does a state break? All tables, in the manual's order, as one.

pub(crate) mod table;

pub mod sections;

mod basic;
mod entry_controls;
mod execution_controls;
mod exit_controls;
mod guest_descriptor_tables;
mod guest_non_register;
mod guest_pdptes;
mod guest_registers;
mod guest_rip;
mod guest_segments;
mod host;
mod later_features;
mod msr_lists;
mod return_from_smm;

use crate::context::Context;
use crate::view::EntryView;
pub use table::{Consequence, GuestKind, MAX_RULES, Paragraph, RuleRow, RuleSet, Section};

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
    exit_controls,
    entry_controls,
    host,
    guest_registers,
    guest_segments::code_and_data,
    guest_descriptor_tables,
    guest_rip,
    guest_non_register,
    guest_pdptes,
    later_features,
    msr_lists,
}

const PARAGRAPHS: &[&[Paragraph]] = &[
    basic::PARAGRAPHS,
    execution_controls::PARAGRAPHS,
    exit_controls::PARAGRAPHS,
    entry_controls::PARAGRAPHS,
    host::PARAGRAPHS,
    guest_registers::PARAGRAPHS,
    guest_segments::PARAGRAPHS,
    guest_descriptor_tables::PARAGRAPHS,
    guest_rip::PARAGRAPHS,
    guest_non_register::PARAGRAPHS,
    guest_pdptes::PARAGRAPHS,
    msr_lists::PARAGRAPHS,
    return_from_smm::PARAGRAPHS,
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

    /// Replaces the answer of one rule by that of another check.
    pub fn take_answer(&mut self, rule: RuleId, from: &Self) {
        self.broken.put(rule.index(), from.broken.contains(rule.index()));
        self.unknown.put(rule.index(), from.unknown.contains(rule.index()));
    }

    /// Is no rule broken? Some may be undecided.
    #[must_use]
    pub fn none_broken(&self) -> bool {
        self.broken.is_empty()
    }

    /// Is this rule broken?
    #[must_use]
    pub const fn breaks(&self, rule: RuleId) -> bool {
        self.broken.contains(rule.index())
    }
}

/// Checks every rule of VM entry against a view: all violations, in a fixed order, without allocation.
///
/// The manual leaves the order of many checks open; the set does not depend on it. What one processor reports is
/// [`hardware_outcome`](crate::outcome::hardware_outcome).
#[must_use]
pub fn check_entry<V: EntryView>(view: &V) -> Violations {
    let context = Context::new(view);
    let mut out = Violations::default();
    check_all(&context, &mut out);
    out
}
