//! What is a rule, and how does one row become a check? The row type, the fixed-size sets, and the macro that makes both from one text.

use crate::state::EntryState;
use crate::view::{EntryView, Input};
use core::fmt;

/// A section of the manual, with its title: numbers move between revisions.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Section {
    /// The volume or paper, such as "SDM 3C".
    pub document: &'static str,
    /// The number in revision 077.
    pub number: &'static str,
    /// The title.
    pub title: &'static str,
}

impl fmt::Display for Section {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} {}, {}", self.document, self.number, self.title)
    }
}

/// A paragraph of the manual that was read for rules, so that a reader sees that none was skipped.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Paragraph {
    /// The number of the section, such as "26.3.1.3".
    pub section: &'static str,
    /// Position in the section: the bulleted items of the first level, counted from 1.
    pub number: u8,
    /// What the paragraph is about, in a few words of ours.
    pub topic: &'static str,
    /// Why no rule comes from it. Empty if rules do.
    pub no_rule_because: &'static str,
}

impl Paragraph {
    /// A paragraph that rules come from.
    #[must_use]
    pub(crate) const fn rules(section: &'static str, number: u8, topic: &'static str) -> Self {
        Self { section, number, topic, no_rule_because: "" }
    }

    /// A paragraph that demands nothing of a VM entry.
    #[must_use]
    pub(crate) const fn no_rule(section: &'static str, number: u8, topic: &'static str, because: &'static str) -> Self {
        Self { section, number, topic, no_rule_because: because }
    }
}

/// What the processor does when a rule is broken (and nothing earlier is).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Consequence {
    /// #UD.
    InvalidOpcode,
    /// A VM exit to the hypervisor that runs this one: the instruction was executed in VMX non-root operation.
    VmExit,
    /// #GP(0).
    GeneralProtection,
    /// RFLAGS.CF is set; there is no current VMCS to hold an error number.
    VmFailInvalid,
    /// RFLAGS.ZF is set and the VM-instruction error field gets this number.
    VmFailValid(u8),
    /// VM-entry failure with exit reason 0x80000021 and this exit qualification.
    InvalidGuestState {
        /// The exit qualification.
        qualification: u8,
    },
    /// VM-entry failure with exit reason 0x80000022; the qualification is the number of the entry in the MSR-load list.
    MsrLoading,
}

/// The kind of guest from which a rule's negative test starts.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum GuestKind {
    /// 64-bit mode.
    Long64,
    /// Compatibility mode under IA-32e.
    Compatibility,
    /// 32-bit protected mode with 32-bit paging.
    Protected32,
    /// 32-bit protected mode with PAE paging.
    Pae,
    /// Virtual-8086 mode.
    Virtual8086,
    /// Real mode as an unrestricted guest.
    RealUnrestricted,
    /// 64-bit mode, halted.
    Hlt,
    /// Waiting for a startup IPI.
    WaitForSipi,
    /// A VM entry that returns from SMM to VMX non-root operation.
    ReturnFromSmm,
}

impl GuestKind {
    /// Every kind.
    pub const ALL: [Self; 9] = [
        Self::Long64,
        Self::Compatibility,
        Self::Protected32,
        Self::Pae,
        Self::Virtual8086,
        Self::RealUnrestricted,
        Self::Hlt,
        Self::WaitForSipi,
        Self::ReturnFromSmm,
    ];
}

/// A row of the rule table.
///
/// # Invariants
/// * `breaks`, applied to a valid state of kind `base`, breaks this rule and the rules in `implies`, and no other.
/// * `mends`, applied to a state that breaks the rule, yields one that does not.
/// * The check asks for nothing that is not in `reads`.
#[derive(Clone, Copy)]
pub struct RuleRow {
    /// Stable identifier, such as `guest.cr0.fixed`.
    pub id: &'static str,
    /// Where the manual demands it.
    pub section: Section,
    /// The number of the paragraph in that section, as `docs/rules.md` counts them.
    pub paragraph: u8,
    /// What must hold, in one sentence.
    pub says: &'static str,
    /// What the processor does otherwise.
    pub consequence: Consequence,
    /// What the check may look at.
    pub reads: &'static [Input],
    /// The likely mistake, for people.
    pub hint: &'static str,
    /// Where the manual is ambiguous or sources disagree: which reading was taken, and why. Empty if there is no doubt.
    pub doubt: &'static str,
    /// The kind of guest from which `breaks` starts.
    pub base: GuestKind,
    /// Identifiers of rules that cannot but break with this one.
    pub implies: &'static [&'static str],
    /// Breaks the rule in a valid state.
    pub breaks: fn(&mut EntryState),
    /// Mends the rule in any state.
    pub mends: fn(&mut EntryState),
}

impl fmt::Debug for RuleRow {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "RuleRow({})", self.id)
    }
}

/// Words of a [`RuleSet`].
const WORDS: usize = 8;
/// The most rules that a [`RuleSet`] holds.
pub const MAX_RULES: usize = WORDS * 64;

/// A set of rules, of fixed size.
#[derive(Clone, Copy, PartialEq, Eq, Default, Hash)]
pub struct RuleSet([u64; WORDS]);

impl fmt::Debug for RuleSet {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_set().entries(self.iter().map(super::RuleId::at)).finish()
    }
}

impl RuleSet {
    /// No rule.
    pub const EMPTY: Self = Self([0; WORDS]);

    /// Adds the rule at `index` if `condition` holds. Branch-free.
    #[inline(always)]
    pub fn insert_if(&mut self, index: usize, condition: bool) {
        self.0[index / 64] |= u64::from(condition) << (index % 64);
    }

    /// Adds the rule at `index`.
    pub fn insert(&mut self, index: usize) {
        self.insert_if(index, true);
    }

    /// Adds or removes the rule at `index`; an index beyond [`MAX_RULES`] is ignored.
    pub fn put(&mut self, index: usize, present: bool) {
        if let Some(word) = self.0.get_mut(index / 64) {
            *word = *word & !(1 << (index % 64)) | u64::from(present) << (index % 64);
        }
    }

    /// Is the rule at `index` in the set?
    #[must_use]
    #[inline]
    pub const fn contains(&self, index: usize) -> bool {
        index < MAX_RULES && self.0[index / 64] >> (index % 64) & 1 == 1
    }

    /// No rule at all?
    #[must_use]
    #[inline]
    pub fn is_empty(&self) -> bool {
        self.0.iter().fold(0, |all, word| all | word) == 0
    }

    /// How many rules.
    #[must_use]
    pub fn len(&self) -> usize {
        self.0.iter().map(|word| word.count_ones() as usize).sum()
    }

    /// The indexes, ascending.
    pub fn iter(&self) -> impl Iterator<Item = usize> + '_ {
        (0..MAX_RULES).filter(|&index| self.contains(index))
    }

    /// The rules in both sets.
    #[must_use]
    pub fn and(&self, other: &Self) -> Self {
        let mut set = *self;
        set.0.iter_mut().zip(other.0).for_each(|(word, mask)| *word &= mask);
        set
    }

    /// The rules in either set.
    #[must_use]
    pub fn or(&self, other: &Self) -> Self {
        let mut set = *self;
        set.0.iter_mut().zip(other.0).for_each(|(word, mask)| *word |= mask);
        set
    }
}

/// Kleene's "and" over three answers.
#[inline(always)]
pub(crate) fn both(a: Option<bool>, b: Option<bool>) -> Option<bool> {
    match (a, b) {
        (Some(false), _) | (_, Some(false)) => Some(false),
        (Some(true), Some(true)) => Some(true),
        _ => None,
    }
}

/// Kleene's "or" over three answers.
#[inline(always)]
pub(crate) fn either(a: Option<bool>, b: Option<bool>) -> Option<bool> {
    match (a, b) {
        (Some(true), _) | (_, Some(true)) => Some(true),
        (Some(false), Some(false)) => Some(false),
        _ => None,
    }
}

/// Records one rule's answer: it holds where it does not apply; it is broken if it applies and does not hold; otherwise nobody can tell,
/// and it is suspected if what it demands is not so and only whether it applies is unknown.
#[inline(always)]
pub(crate) fn record(
    index: usize,
    applies: Option<bool>,
    holds: impl FnOnce() -> Option<bool>,
    out: &mut super::Violations,
) {
    if applies == Some(false) {
        return;
    }
    match (applies, holds()) {
        (_, Some(true)) => {}
        (Some(true), Some(false)) => out.broken.insert(index),
        (_, demand) => {
            out.unknown.insert(index);
            out.suspected.insert_if(index, demand == Some(false));
        }
    }
}

/// Calls a function of a state; a place for type inference of the closures in rule rows.
#[inline(always)]
pub(crate) fn ask<V: EntryView, T>(
    context: &crate::context::Context<'_, V>,
    question: impl FnOnce(&crate::context::Context<'_, V>) -> Option<T>,
) -> Option<T> {
    question(context)
}

/// Makes a table of rules and the check over it from one text.
///
/// ```text
/// rules! {
///     "26.3.1.3" when |c| true => {            // section; condition of the whole group
///         "guest.gdtr.limit_high" at 2 {       // identifier; paragraph of the section
///             says "Bits 31:16 of the GDTR limit are 0.";
///             fails InvalidGuestState { qualification: 0 };
///             reads [field(Field::GUEST_GDTR_LIMIT)];
///             when |c| ...;                    // optional: condition of this row
///             holds |c| c.field(Field::GUEST_GDTR_LIMIT)? >> 16 == 0;
///             hint "...";
///             doubt "...";                     // optional
///             base RealUnrestricted;           // optional, Long64 otherwise
///             implies ["..."];                 // optional
///             breaks |s| s.set(Field::GUEST_GDTR_LIMIT, 0x1_0000);
///             mends |s| s.clear_bits(Field::GUEST_GDTR_LIMIT, 0xffff_0000);
///         }
///     }
/// }
/// ```
/// It yields `ROWS: &[RuleRow]` and `check(&Context<V>, base, &mut Violations)`, where `base` is the index of the first row.
/// Conditions and `holds` may use `?` on unknown inputs.
macro_rules! rules {
    (@or_default $default:expr, $given:expr) => { $given };
    (@or_default $default:expr,) => { $default };
    (@when $context:ident, $wc:ident, $when:expr) => { ask($context, |$wc| Some($when)) };
    (@when $context:ident,) => { Some(true) };
    (@id [] $id:literal) => { $id };
    (@id [$prefix:ident] $id:literal) => { concat!("guest.", stringify!($prefix), ".", $id) };
    (@table $prefix:tt $(
        $section:literal when |$gc:ident| $group:expr => {
            $($id:literal at $paragraph:literal {
                says $says:literal;
                fails $consequence:expr;
                reads [$($input:expr),* $(,)?];
                $(when |$wc:ident| $when:expr;)?
                holds |$hc:ident| $holds:expr;
                hint $hint:expr;
                $(doubt $doubt:expr;)?
                $(base $guest:ident;)?
                $(implies [$($implied:expr),* $(,)?];)?
                breaks |$bs:ident| $breaks:expr;
                mends |$ms:ident| $mends:expr;
            })*
        }
    )*) => {
        /// The rows, in the order of the check.
        pub(crate) const ROWS: &[$crate::rules::RuleRow] = {
            #[allow(unused_imports)]
            use $crate::rules::Consequence::*;
            #[allow(unused_imports)]
            use $crate::view::reads::*;
            &[$($($crate::rules::RuleRow {
                id: rules!(@id $prefix $id),
                section: $crate::rules::sections::section($section),
                paragraph: $paragraph,
                says: $says,
                consequence: $consequence,
                reads: &[$($input),*],
                hint: $hint,
                doubt: rules!(@or_default "", $($doubt)?),
                base: rules!(@or_default $crate::rules::GuestKind::Long64, $($crate::rules::GuestKind::$guest)?),
                implies: &[$($($implied),*)?],
                breaks: |$bs: &mut $crate::state::EntryState| { $breaks; },
                mends: |$ms: &mut $crate::state::EntryState| { $mends; },
            },)*)*]
        };

        /// Checks every rule of the table; `base` is the index of its first row.
        // One function a table: a single function of several hundred rules would take minutes to compile.
        #[inline(never)]
        pub(crate) fn check<V: $crate::view::EntryView>(
            context: &$crate::context::Context<'_, V>,
            base: usize,
            out: &mut $crate::rules::Violations,
        ) {
            #[allow(unused_imports)]
            use $crate::rules::table::{ask, both, record};
            #[allow(unused_mut)]
            let mut index = base;
            $({
                let rows = 0 $(+ { let _: &str = $id; 1 })*;
                context.view().begin_group($crate::rules::RuleId::at(index), rows);
                let group: Option<bool> = ask(context, |$gc| { let _ = $gc; Some($group) });
                if group != Some(false) {
                    #[allow(unused_mut, unused_variables, unused_assignments)]
                    let mut at = index;
                    $({
                        context.view().begin_rule($crate::rules::RuleId::at(at));
                        let applies = both(group, rules!(@when context, $($wc, $when)?));
                        record(at, applies, || ask(context, |$hc| { let _ = $hc; Some($holds) }), out);
                        at += 1;
                    })*
                    let _ = at;
                }
                index += rows;
            })*
            let _ = index;
        }
    };
    (prefix $prefix:ident; $($rest:tt)*) => { rules! { @table [$prefix] $($rest)* } };
    ($($rest:tt)*) => { rules! { @table [] $($rest)* } };
}
pub(crate) use rules;

/// Makes the same rules for several guest segment registers.
///
/// `segment_rules! { data in [ds: Ds, es: Es] { <as for rules!> } }` makes a module `data` with one table for each register, in which the
/// constant `SEG` is the register and every identifier begins with `guest.ds.` and so on.
macro_rules! segment_rules {
    ($name:ident in [$($lower:ident: $register:ident),* $(,)?] $body:tt) => {
        pub(crate) mod $name {
            use super::*;
            $(segment_rules! { @one $lower $register $body })*

            /// The rows of all registers.
            pub(crate) const ROWS: &[$crate::rules::RuleRow] = {
                const PARTS: &[&[$crate::rules::RuleRow]] = &[$($lower::ROWS),*];
                const COUNT: usize = 0 $(+ $lower::ROWS.len())*;
                const ALL: [$crate::rules::RuleRow; COUNT] = {
                    let mut all = [PARTS[0][0]; COUNT];
                    let (mut part, mut row, mut at) = (0, 0, 0);
                    while at < COUNT {
                        if row == PARTS[part].len() {
                            part += 1;
                            row = 0;
                        } else {
                            all[at] = PARTS[part][row];
                            row += 1;
                            at += 1;
                        }
                    }
                    all
                };
                &ALL
            };

            /// Checks the rules of all registers; `base` is the index of the first row.
            #[inline(always)]
            pub(crate) fn check<V: $crate::view::EntryView>(
                context: &$crate::context::Context<'_, V>,
                base: usize,
                out: &mut $crate::rules::Violations,
            ) {
                let mut base = base;
                $(
                    $lower::check(context, base, out);
                    base += const { $lower::ROWS.len() };
                )*
                let _ = base;
            }
        }
    };
    (@one $lower:ident $register:ident { $($body:tt)* }) => {
        mod $lower {
            #[allow(unused_imports)]
            use super::super::*;
            const SEG: x86_state::SegmentRegister = x86_state::SegmentRegister::$register;
            rules! { prefix $lower; $($body)* }
        }
    };
}
pub(crate) use segment_rules;
