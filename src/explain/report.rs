//! What does a report hold? Plain data, for people through `render` and for programs as JSON.

use serde::Serialize;

/// The report on one dump.
#[derive(Clone, Debug, Serialize)]
pub struct Report {
    /// What the text is, such as "KVM VMCS dump".
    pub kind: String,
    /// What the text calls this VMCS.
    pub label: Option<String>,
    /// First line of the dump in the text, counted from 1.
    pub first_line: usize,
    /// Last line.
    pub last_line: usize,
    /// How many fields are known.
    pub known_fields: usize,
    /// How many fields there are.
    pub all_fields: usize,
    /// What the log says happened.
    pub events: Vec<Event>,
    /// The answer in one word.
    pub verdict: Verdict,
    /// The answer in a sentence or two.
    pub summary: String,
    /// Rules that are broken: on every processor looked at, or on those that the reported failure leaves.
    pub broken: Vec<RuleReport>,
    /// Rules whose demand is not met while the text does not show whether they apply: they could be what the log reports.
    pub suspected: Vec<RuleReport>,
    /// Rules that break on some of the processors only; not accusations.
    pub depends_on_processor: Vec<Conditional>,
    /// Rules of which nobody can tell, because inputs are unknown.
    pub undecided: Vec<Undecided>,
    /// Controls, exit reason, qualification and events in words.
    pub words: Vec<FieldWords>,
    /// What could not be read, and contradictions in the text.
    pub notes: Vec<String>,
}

/// The answer in one word.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "kebab-case")]
pub enum Verdict {
    /// At least one rule is broken.
    Broken,
    /// The log reports a failed VM entry, and some rule could account for it, but the text does not show whether that rule applies.
    Suspected,
    /// The log reports a failed VM entry but no rule that can be decided is broken.
    FailedUnexplained,
    /// Nothing is broken, and the log reports no failed VM entry.
    NothingBroken,
    /// There is no VMCS in this dump.
    NotAVmcs,
}

impl Verdict {
    /// Is something wrong with the VM entry: a rule broken, or a failure reported that nothing explains?
    #[must_use]
    pub const fn found_something(self) -> bool {
        matches!(self, Self::Broken | Self::Suspected | Self::FailedUnexplained)
    }
}

/// Something that the log says happened.
#[derive(Clone, Debug, Serialize)]
pub struct Event {
    /// The line.
    pub line: usize,
    /// In words.
    pub text: String,
    /// Is it a failed VM entry?
    pub entry_failure: bool,
}

/// A broken rule.
#[derive(Clone, Debug, Serialize)]
pub struct RuleReport {
    /// Identifier.
    pub id: String,
    /// What must hold.
    pub says: String,
    /// Section and title.
    pub source: String,
    /// What the processor does.
    pub consequence: String,
    /// Does the log report just this?
    pub matches_log: Option<bool>,
    /// The inputs as they are.
    pub is: Vec<FieldWords>,
    /// Fields as they had to be.
    pub had_to_be: Vec<FieldWords>,
    /// The likely mistake.
    pub hint: String,
    /// What is ambiguous about the rule; empty if nothing.
    pub doubt: String,
    /// The processors on which it is broken (or suspected).
    pub broken_on: Vec<String>,
    /// The processors of which too little is known to tell.
    pub cannot_tell_on: Vec<String>,
    /// Inputs that decide whether it applies and are unknown.
    pub missing: Vec<String>,
    /// How many processors were looked at.
    pub processors: usize,
}

/// A rule that breaks on some processors only.
#[derive(Clone, Debug, Serialize)]
pub struct Conditional {
    /// Identifier.
    pub id: String,
    /// What must hold.
    pub says: String,
    /// The processors on which it would be broken.
    pub broken_on: Vec<String>,
    /// Could it be the failure that the log reports?
    pub matches_log: Option<bool>,
}

/// Rules that wait for the same unknown inputs.
#[derive(Clone, Debug, Serialize)]
pub struct Undecided {
    /// The inputs that would have to be known.
    pub missing: Vec<String>,
    /// Identifiers of the rules.
    pub rules: Vec<String>,
}

/// A field, its value and its meaning.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct FieldWords {
    /// Identifier of the field, or the name of another input.
    pub name: String,
    /// The value in hexadecimal, where there is one.
    pub value: Option<String>,
    /// The meaning.
    pub words: String,
}
