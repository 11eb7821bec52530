//! What is an accusation and what is not? All rules on all processors, weighed against what the log reports.

use super::report::{Conditional, Event, FieldWords, Report, RuleReport, Undecided, Verdict};
use super::view::{Asked, DumpView};
use super::words;
use softvirt_dump::{Dump, DumpKind, Happened};
use std::collections::{BTreeMap, BTreeSet};
use vmx_model::builder::blank;
use vmx_model::rules::{Consequence, RuleId, failing_msr_entry};
use vmx_model::view::Input;
use vmx_model::{Field, check_entry};
use x86_state::CpuProfile;

/// Answers of all rules on all processors.
struct Answers<'a> {
    profiles: &'a [&'a CpuProfile],
    broken_on: BTreeMap<RuleId, Vec<usize>>,
    undecided_on: BTreeMap<RuleId, Vec<usize>>,
    suspected_on: BTreeMap<RuleId, Vec<usize>>,
}

impl<'a> Answers<'a> {
    fn new(dump: &Dump, profiles: &'a [&'a CpuProfile]) -> Self {
        let mut answers =
            Self { profiles, broken_on: BTreeMap::new(), undecided_on: BTreeMap::new(), suspected_on: BTreeMap::new() };
        for (i, profile) in profiles.iter().enumerate() {
            let view = DumpView::new(dump, profile);
            let mut found = check_entry(&view);
            if view.has_list() {
                // The rules about list entries are asked with the list in memory; all others without, as its address may be our invention.
                let listed = check_entry(&DumpView::new(dump, profile).with_list_in_memory());
                for rule in RuleId::all().filter(|rule| rule.row().consequence == Consequence::MsrLoading) {
                    found.take_answer(rule, &listed);
                }
            }
            for rule in found.broken() {
                answers.broken_on.entry(rule).or_default().push(i);
            }
            for rule in found.unknown() {
                answers.undecided_on.entry(rule).or_default().push(i);
            }
            for rule in found.suspected() {
                answers.suspected_on.entry(rule).or_default().push(i);
            }
        }
        answers
    }

    /// The rules that are broken on every processor that can tell: they hold on none, and more processors can tell than cannot. The capabilities of
    /// some processors are known in part only; that must not hide a rule that all others find broken.
    fn broken_everywhere(&self) -> BTreeSet<RuleId> {
        let everywhere = |rule: &RuleId, broken: usize| {
            let cannot_tell = self.cannot_tell(*rule).len();
            broken + cannot_tell == self.profiles.len() && broken > cannot_tell
        };
        self.broken_on.iter().filter(|(rule, on)| everywhere(rule, on.len())).map(|(rule, _)| *rule).collect()
    }

    /// The processors on which nobody can tell whether the rule is broken.
    fn cannot_tell(&self, rule: RuleId) -> &[usize] {
        self.undecided_on.get(&rule).map_or(&[], Vec::as_slice)
    }

    /// The rules that could be the reported failure, on the processors that need the fewest of them to explain it.
    ///
    /// A processor on which nothing fits the report cannot be the one; one on which many rules break is probably not the one either.
    fn simplest_explanation(&self, failure: Failure) -> BTreeSet<RuleId> {
        self.fewest(&self.broken_on, failure)
    }

    /// The same among the rules that are only suspected, on the evidence of some state that the dump shows.
    fn simplest_suspicion(&self, dump: &Dump, failure: Failure) -> BTreeSet<RuleId> {
        let mut evident: BTreeMap<RuleId, Vec<usize>> = BTreeMap::new();
        for (i, profile) in self.profiles.iter().enumerate() {
            let view = DumpView::new(dump, profile).recording();
            let _ = check_entry(&view);
            for (rule, _) in self.suspected_on.iter().filter(|(_, on)| on.contains(&i)) {
                if view.knows_state(*rule) {
                    evident.entry(*rule).or_default().push(i);
                }
            }
        }
        self.fewest(&evident, failure)
    }

    fn fewest(&self, rules_on: &BTreeMap<RuleId, Vec<usize>>, failure: Failure) -> BTreeSet<RuleId> {
        let mut per_profile: Vec<BTreeSet<RuleId>> = vec![BTreeSet::new(); self.profiles.len()];
        for (rule, on) in rules_on {
            if failure.fits(rule.row().consequence) {
                on.iter().for_each(|&i| {
                    per_profile[i].insert(*rule);
                });
            }
        }
        let fewest = per_profile.iter().map(BTreeSet::len).filter(|&len| len > 0).min().unwrap_or(0);
        // Among equally short explanations the one that fits most processors: a control that two of them lack is no likely cause.
        let mut support: BTreeMap<BTreeSet<RuleId>, usize> = BTreeMap::new();
        for rules in per_profile.into_iter().filter(|rules| !rules.is_empty() && rules.len() == fewest) {
            *support.entry(rules).or_default() += 1;
        }
        let most = support.values().copied().max().unwrap_or(0);
        support.into_iter().filter(|(_, count)| *count == most).flat_map(|(rules, _)| rules).collect()
    }

    fn names(&self, on: &[usize]) -> Vec<String> {
        on.iter().map(|&i| self.profiles[i].name().to_owned()).collect()
    }
}

/// The failed VM entry that a log reports.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Failure {
    /// VM-instruction error, or the basic exit reason with bit 31 set.
    number: u32,
    qualification: Option<u64>,
}

impl Failure {
    const INVALID_GUEST_STATE: u32 = 0x8000_0021;
    const MSR_LOADING: u32 = 0x8000_0022;

    fn of(what: &Happened) -> Option<Self> {
        match *what {
            Happened::EntryFailed { reason, qualification } => {
                Some(Self { number: reason & 0x8000_ffff, qualification })
            }
            Happened::VmInstructionError { number, .. } => Some(Self { number, qualification: None }),
            Happened::MsrLoadFailed { entry, .. } => {
                Some(Self { number: Self::MSR_LOADING, qualification: entry.map(u64::from) })
            }
            _ => None,
        }
    }

    /// Would a rule with this consequence be reported like this?
    fn fits(self, consequence: Consequence) -> bool {
        match consequence {
            Consequence::VmFailValid(number) => u32::from(number) == self.number,
            Consequence::InvalidGuestState { qualification } => {
                self.number == Self::INVALID_GUEST_STATE
                    && self.qualification.is_none_or(|reported| reported == u64::from(qualification))
            }
            Consequence::MsrLoading => self.number == Self::MSR_LOADING,
            _ => false,
        }
    }
}

/// Explains one dump on the given processors (one, or all that might be it).
///
/// A rule is an accusation if it is broken on every processor that can tell; or, when the log reports a failed entry that no such rule accounts for, if it
/// accounts for the report on some processors. Everything else is reported as depending on the processor or as undecided.
#[must_use]
pub fn explain(dump: &Dump, profiles: &[&CpuProfile]) -> Report {
    let events: Vec<Event> = dump
        .events
        .iter()
        .map(|event| Event {
            line: event.line,
            text: words::happened(&event.what),
            entry_failure: event.what.is_entry_failure(),
        })
        .collect();
    // The last report counts: a log may tell of several entries before the one that was dumped.
    let failure = dump.events.iter().rev().find_map(|event| Failure::of(&event.what));

    let answers = Answers::new(dump, profiles);
    let mut accused = answers.broken_everywhere();
    if let Some(failure) = failure {
        if !accused.iter().any(|rule| failure.fits(rule.row().consequence)) {
            accused.extend(answers.simplest_explanation(failure));
        }
    } else if dump.kind == DumpKind::Qemu || dump.kind == DumpKind::Svm {
        // QEMU's registers are not the VMCS: without a reported failure they accuse nobody.
        accused.clear();
    }
    let no_vmcs = dump.kind == DumpKind::Svm || (dump.vmcs.known_count() == 0 && events.is_empty());

    let suspects = match failure {
        Some(failure) if !accused.iter().any(|rule| failure.fits(rule.row().consequence)) => {
            answers.simplest_suspicion(dump, failure)
        }
        _ => BTreeSet::new(),
    };
    let suspected: Vec<RuleReport> =
        suspects.iter().map(|&rule| rule_report(rule, dump, &answers, &answers.suspected_on[&rule], failure)).collect();

    let mut broken: Vec<RuleReport> =
        accused.iter().map(|&rule| rule_report(rule, dump, &answers, &answers.broken_on[&rule], failure)).collect();
    broken.sort_by_key(|rule| rule.matches_log == Some(false));
    let depends_on_processor = answers
        .broken_on
        .iter()
        .filter(|(rule, _)| !accused.contains(rule))
        .map(|(rule, on)| Conditional {
            id: rule.row().id.to_owned(),
            says: rule.row().says.to_owned(),
            broken_on: answers.names(on),
            matches_log: failure.map(|failure| failure.fits(rule.row().consequence)),
        })
        .collect();
    let verdict = match (no_vmcs, broken.is_empty(), failure) {
        (true, ..) => Verdict::NotAVmcs,
        (_, false, _) => Verdict::Broken,
        (_, true, Some(_)) if !suspected.is_empty() => Verdict::Suspected,
        (_, true, Some(_)) => Verdict::FailedUnexplained,
        (_, true, None) => Verdict::NothingBroken,
    };
    let undecided = undecided(dump, &answers, failure);
    Report {
        kind: dump.kind.to_string(),
        label: dump.label.clone(),
        first_line: dump.first_line,
        last_line: dump.last_line,
        known_fields: dump.vmcs.known_count(),
        all_fields: Field::COUNT,
        summary: summary(verdict, failure, &broken, &undecided, dump),
        events,
        verdict,
        broken,
        suspected,
        depends_on_processor,
        undecided,
        words: words::overview(&dump.vmcs),
        notes: notes(dump),
    }
}

fn rule_report(rule: RuleId, dump: &Dump, answers: &Answers<'_>, on: &[usize], failure: Option<Failure>) -> RuleReport {
    let row = rule.row();
    // Tell it on the newest of the processors concerned; the profiles stand in the order of their age.
    let profile = answers.profiles[on.last().copied().unwrap_or(0)];
    let view = DumpView::new(dump, profile).with_list_in_memory().recording();
    let _ = check_entry(&view);
    let asked = view.asked(rule);

    let printed = |asked: &Asked| !matches!(asked.input, Input::Field(field) if !dump.vmcs.is_known(field));
    let mut is: Vec<FieldWords> =
        asked.iter().filter(|asked| printed(asked)).filter_map(|&asked| words::input(asked, &view, profile)).collect();
    if row.consequence == Consequence::MsrLoading {
        is.extend(failing_msr_entry(&view).map(|failure| words::msr_entry(&failure, reported_number(dump))));
    }
    let is_suspicion = !answers.broken_on.contains_key(&rule);

    let mut mended = blank(profile);
    mended.vmcs = *view.vmcs();
    (row.mends)(&mut mended);
    let fields = Field::all().filter(|&field| dump.vmcs.is_known(field));
    let had_to_be = fields
        .filter(|&field| mended.get(field) != view.vmcs().get(field))
        .map(|field| words::field(field, mended.get(field)))
        .collect();

    RuleReport {
        id: row.id.to_owned(),
        says: row.says.to_owned(),
        source: row.section.to_string(),
        consequence: words::consequence(row.consequence),
        matches_log: failure.map(|failure| failure.fits(row.consequence)),
        missing: if is_suspicion { missing(&asked, &view) } else { Vec::new() },
        is,
        had_to_be,
        hint: row.hint.to_owned(),
        doubt: row.doubt.to_owned(),
        broken_on: answers.names(on),
        cannot_tell_on: if is_suspicion { Vec::new() } else { answers.names(answers.cannot_tell(rule)) },
        processors: answers.profiles.len(),
    }
}

/// The number of the failing MSR-load entry as the log reports it. It matters where the log prints the entry but not the list.
fn reported_number(dump: &Dump) -> Option<u32> {
    dump.facts.msr_lists.entry_load.is_none().then(|| {
        dump.events.iter().rev().find_map(|event| match event.what {
            Happened::MsrLoadFailed { entry, .. } => entry,
            _ => None,
        })
    })?
}

/// The inputs that a rule asked for and did not get, each once, in alphabetical order.
fn missing(asked: &[Asked], view: &DumpView<'_>) -> Vec<String> {
    let missing: BTreeSet<String> =
        asked.iter().filter(|asked| !asked.known).map(|asked| words::missing(asked.input, view.vmcs())).collect();
    missing.into_iter().collect()
}

/// Rules that no processor decides, grouped by what is missing. With a reported failure: only those that could account for it.
fn undecided(dump: &Dump, answers: &Answers<'_>, failure: Option<Failure>) -> Vec<Undecided> {
    let Some(profile) = answers.profiles.last() else { return Vec::new() };
    let view = DumpView::new(dump, profile).with_list_in_memory().recording();
    let _ = check_entry(&view);
    let mut groups: BTreeMap<Vec<String>, Vec<String>> = BTreeMap::new();
    for (rule, on) in &answers.undecided_on {
        let relevant = failure.is_none_or(|failure| failure.fits(rule.row().consequence));
        if on.len() < answers.profiles.len() || !relevant {
            continue;
        }
        groups.entry(missing(&view.asked(*rule), &view)).or_default().push(rule.row().id.to_owned());
    }
    let mut groups: Vec<Undecided> = groups.into_iter().map(|(missing, rules)| Undecided { missing, rules }).collect();
    groups.sort_by_key(|group| core::cmp::Reverse(group.rules.len()));
    groups
}

fn summary(
    verdict: Verdict,
    failure: Option<Failure>,
    broken: &[RuleReport],
    undecided: &[Undecided],
    dump: &Dump,
) -> String {
    let waiting: usize = undecided.iter().map(|group| group.rules.len()).sum();
    let witness = if dump.kind == DumpKind::Running { "processor" } else { "log" };
    match verdict {
        Verdict::NotAVmcs if dump.kind == DumpKind::Svm => {
            "This is a dump of AMD's SVM; there is no VMCS in it, and the VM-entry rules of VMX do not apply.".to_owned()
        }
        Verdict::NotAVmcs => "No VMCS field is known from this text.".to_owned(),
        Verdict::NothingBroken => {
            let exit = if dump.events.iter().any(|event| matches!(event.what, Happened::NoReason)) {
                "The log reports a failure, but not one that a processor gives for a VM entry. "
            } else {
                "The log reports no failed VM entry. "
            };
            format!("{exit}No rule that can be decided is broken; {waiting} cannot be decided.")
        }
        Verdict::Suspected => "The VM entry failed. No rule is broken for certain, but what follows would account for it; the text does not show \
             whether it applies."
            .to_owned(),
        Verdict::FailedUnexplained => format!(
            "The VM entry failed, but no rule that can be decided accounts for it: the cause is in what the text does not show. {waiting} rules \
             with this outcome cannot be decided."
        ),
        Verdict::Broken => {
            let fitting = broken.iter().filter(|rule| rule.matches_log == Some(true)).count();
            let rules = |count: usize| if count == 1 { "1 rule is".to_owned() } else { format!("{count} rules are") };
            match failure {
                None => format!("{} broken. The log does not say that a VM entry failed.", rules(broken.len())),
                Some(_) if fitting == broken.len() => {
                    format!("{} broken, as the {witness} reports.", rules(broken.len()))
                }
                Some(_) if fitting > 0 => {
                    format!("{} broken, {fitting} of them as the {witness} reports.", rules(broken.len()))
                }
                Some(_) => format!(
                    "{} broken, but none with the outcome that the log reports: the dump may show another moment, or the cause is in \
                     what it does not show.",
                    rules(broken.len())
                ),
            }
        }
    }
}

fn notes(dump: &Dump) -> Vec<String> {
    let mut notes: Vec<String> = dump.notes.iter().map(|note| format!("line {}: {}", note.line, note.text)).collect();
    let mut derived: BTreeMap<&str, Vec<&str>> = BTreeMap::new();
    for fact in &dump.facts.derived {
        derived.entry(fact.why).or_default().push(fact.field.id());
    }
    notes.extend(derived.into_iter().map(|(why, fields)| format!("{}: {why}", fields.join(", "))));
    if let Some(efer) = dump.facts.effective_efer {
        notes.push(format!("the guest runs with IA32_EFER = {efer:#x}, which no VMCS field loads"));
    }
    notes
}
