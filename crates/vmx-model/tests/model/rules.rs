//! Does every row of the rule table keep its promises? One generated test for each row and each promise.

use std::cell::RefCell;
use std::collections::BTreeSet;
use vmx_model::builder::{build, supports};
use vmx_model::rules::{GuestKind, RuleId, Violations, check_entry};
use vmx_model::view::{CpuInput, Input, VmxInput};
use vmx_model::{EntryState, EntryView, Field};
use x86_state::{CpuProfile, profiles};

/// A view that writes down which rule asked for what.
struct Recorder<'a> {
    state: &'a EntryState,
    /// The rules on whose behalf questions are asked: one, or a whole group.
    rules: RefCell<Vec<RuleId>>,
    asked: RefCell<BTreeSet<(RuleId, Input)>>,
}

impl<'a> Recorder<'a> {
    fn new(state: &'a EntryState) -> Self {
        Self { state, rules: RefCell::default(), asked: RefCell::new(BTreeSet::new()) }
    }
}

impl EntryView for Recorder<'_> {
    #[inline(never)]
    fn field(&self, field: Field) -> Option<u64> {
        self.state.field(field)
    }
    #[inline(never)]
    fn executive_field(&self, field: Field) -> Option<u64> {
        self.state.executive_field(field)
    }
    #[inline(never)]
    fn cpu(&self, input: CpuInput) -> Option<u64> {
        EntryView::cpu(self.state, input)
    }
    #[inline(never)]
    fn vmx(&self, input: VmxInput) -> Option<u64> {
        EntryView::vmx(self.state, input)
    }
    #[inline(never)]
    fn phys_u64(&self, hpa: u64) -> Option<u64> {
        self.state.phys_u64(hpa)
    }
    #[inline(never)]
    fn profile(&self) -> &CpuProfile {
        &self.state.profile
    }
    #[inline(never)]
    fn begin_group(&self, first: RuleId, count: usize) {
        *self.rules.borrow_mut() = RuleId::all().skip(first.index()).take(count).collect();
    }
    #[inline(never)]
    fn begin_rule(&self, rule: RuleId) {
        *self.rules.borrow_mut() = vec![rule];
    }
    #[inline(never)]
    fn note(&self, input: Input) {
        self.asked.borrow_mut().extend(self.rules.borrow().iter().map(|&rule| (rule, input)));
    }
}

fn names(violations: &Violations) -> Vec<&'static str> {
    violations.broken().map(|rule| rule.row().id).collect()
}

/// Every rule, broken alone in its base state on the `max` profile.
fn broken_states() -> Vec<(RuleId, EntryState)> {
    RuleId::all()
        .map(|rule| {
            let row = rule.row();
            let mut state = build(row.base, &profiles::MAX);
            (row.breaks)(&mut state);
            (rule, state)
        })
        .collect()
}

#[test]
fn identifiers_are_unique_and_well_formed() {
    let mut seen = BTreeSet::new();
    for rule in RuleId::all() {
        let row = rule.row();
        assert!(seen.insert(row.id), "{} occurs twice", row.id);
        assert!(
            row.id.bytes().all(|b| b.is_ascii_lowercase() || b.is_ascii_digit() || b"._".contains(&b)),
            "{}",
            row.id
        );
        assert!(row.says.ends_with('.') && row.says.len() < 400, "{}: says one sentence", row.id);
        assert!(!row.hint.is_empty(), "{}: names the likely mistake", row.id);
        assert!(!row.reads.is_empty(), "{}: reads something", row.id);
        for implied in row.implies {
            assert!(RuleId::by_name(implied).is_some(), "{} implies {implied}, which is no rule", row.id);
        }
    }
}

#[test]
fn every_paragraph_has_rules_or_a_reason_and_every_rule_a_paragraph() {
    let paragraphs: BTreeSet<(&str, u8)> = vmx_model::rules::paragraphs().map(|p| (p.section, p.number)).collect();
    assert_eq!(paragraphs.len(), vmx_model::rules::paragraphs().count(), "a paragraph is listed twice");
    let with_rules: BTreeSet<(&str, u8)> =
        RuleId::all().map(|rule| (rule.row().section.number, rule.row().paragraph)).collect();
    let unlisted: Vec<_> = with_rules.difference(&paragraphs).collect();
    assert!(unlisted.is_empty(), "rules cite paragraphs that are not listed: {unlisted:?}");
    for paragraph in vmx_model::rules::paragraphs() {
        assert_ne!(
            with_rules.contains(&(paragraph.section, paragraph.number)),
            !paragraph.no_rule_because.is_empty(),
            "{paragraph:?}: has rules, or a reason for having none"
        );
    }
}

#[test]
fn valid_states_break_nothing_on_any_profile() {
    for profile in profiles::ALL {
        for kind in GuestKind::ALL {
            if supports(kind, profile) {
                let violations = check_entry(&build(kind, profile));
                assert_eq!(names(&violations), [""; 0], "{kind:?} on {}", profile.name());
            }
        }
    }
}

#[test]
fn with_everything_known_no_rule_is_undecided_on_max() {
    for kind in GuestKind::ALL {
        let violations = check_entry(&build(kind, &profiles::MAX));
        assert_eq!(violations.unknown().collect::<Vec<_>>(), [], "{kind:?}");
    }
}

#[test]
fn each_rule_broken_alone_yields_exactly_itself_and_what_it_implies() {
    let mut wrong = Vec::new();
    for (rule, state) in broken_states() {
        let mut expected: BTreeSet<&str> = rule.row().implies.iter().copied().collect();
        expected.insert(rule.row().id);
        let found: BTreeSet<&str> = names(&check_entry(&state)).into_iter().collect();
        if found != expected {
            wrong.push(format!("{}: expected {expected:?}, found {found:?}", rule.row().id));
        }
    }
    assert!(wrong.is_empty(), "{}", wrong.join("\n"));
}

#[test]
fn each_rule_can_be_mended() {
    let mut wrong = Vec::new();
    for (rule, mut state) in broken_states() {
        (rule.row().mends)(&mut state);
        if check_entry(&state).breaks(rule) {
            wrong.push(rule.row().id);
        }
    }
    assert!(wrong.is_empty(), "still broken after mending: {wrong:?}");
}

#[test]
fn no_rule_reads_what_it_does_not_declare() {
    let mut asked: BTreeSet<(RuleId, Input)> = BTreeSet::new();
    let mut states: Vec<EntryState> = GuestKind::ALL.into_iter().map(|kind| build(kind, &profiles::MAX)).collect();
    states.extend(broken_states().into_iter().map(|(_, state)| state));
    for state in &states {
        let recorder = Recorder::new(state);
        let _ = check_entry(&recorder);
        asked.extend(recorder.asked.borrow().iter());
    }
    let mut wrong = Vec::new();
    for rule in RuleId::all() {
        let read: BTreeSet<Input> = asked.iter().filter(|(of, _)| *of == rule).map(|(_, input)| *input).collect();
        let declared: BTreeSet<Input> = rule.row().reads.iter().copied().collect();
        if read != declared {
            wrong.push(format!(
                "{}: undeclared {:?}; declared but never read {:?}",
                rule.row().id,
                read.difference(&declared).collect::<Vec<_>>(),
                declared.difference(&read).collect::<Vec<_>>()
            ));
        }
    }
    assert!(wrong.is_empty(), "{}", wrong.join("\n"));
}

#[test]
fn a_recording_view_and_a_known_view_agree() {
    for (rule, state) in broken_states() {
        assert_eq!(check_entry(&state), check_entry(&Recorder::new(&state)), "{rule:?}");
    }
}
