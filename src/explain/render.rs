//! How does a report look on a terminal? Text with ANSI styles, which the printer strips where nobody can see them.

use super::report::{FieldWords, Report, RuleReport, Verdict};
use anstyle::{AnsiColor, Style};
use std::collections::BTreeMap;
use std::fmt::Write;

const WIDTH: usize = 110;
const BAD: Style = AnsiColor::Red.on_default().bold();
const GOOD: Style = AnsiColor::Green.on_default().bold();
const UNSURE: Style = AnsiColor::Yellow.on_default().bold();
const HEAD: Style = Style::new().bold();
const DIM: Style = Style::new().dimmed();

/// How much of the undecided rules the text tells. The JSON report always tells all.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Default)]
pub enum Detail {
    /// What is missing, and for how many rules.
    #[default]
    Summary,
    /// Each undecided rule.
    All,
}

/// The report as text. `path` is what the user called the file.
#[must_use]
pub fn render(report: &Report, path: &str, detail: Detail) -> String {
    let mut out = String::new();
    let label = report.label.as_deref().map_or(String::new(), |label| format!(" {label}"));
    line(
        &mut out,
        &format!(
            "{HEAD}{path}{HEAD:#}, lines {} to {}: {}{label}, {} of {} fields known",
            report.first_line, report.last_line, report.kind, report.known_fields, report.all_fields
        ),
    );
    for event in &report.events {
        wrapped(&mut out, &format!("  line {}: ", event.line), &event.text);
    }
    let style = match report.verdict {
        Verdict::Broken => BAD,
        Verdict::Suspected | Verdict::FailedUnexplained => UNSURE,
        Verdict::NothingBroken | Verdict::NotAVmcs => GOOD,
    };
    line(&mut out, "");
    let mut summary = String::new();
    wrapped(&mut summary, "", &report.summary);
    line(&mut out, &format!("{style}{}{style:#}", summary.trim_end()));

    for rule in &report.broken {
        rule_block(&mut out, rule, "BROKEN", BAD);
    }
    for rule in &report.suspected {
        rule_block(&mut out, rule, "SUSPECT", UNSURE);
    }
    depends(&mut out, report);
    undecided(&mut out, report, detail);
    if !report.words.is_empty() {
        heading(&mut out, "In words");
        fields(&mut out, &report.words, "  ");
    }
    if !report.notes.is_empty() {
        heading(&mut out, "Notes on the text");
        for note in &report.notes {
            wrapped(&mut out, "  ", note);
        }
    }
    out
}

/// The report on an entry that a running processor has tried: what is broken, without the outline of the VMCS. `head` says which entry it was.
#[must_use]
pub fn render_entry(report: &Report, head: &str) -> String {
    let mut out = String::new();
    let style = if report.verdict == Verdict::Broken { BAD } else { UNSURE };
    line(&mut out, &format!("{style}{head}{style:#}"));
    wrapped(&mut out, "", &report.summary);
    for rule in &report.broken {
        rule_block(&mut out, rule, "BROKEN", BAD);
    }
    out
}

/// Rules that break on the same processors share a line.
fn depends(out: &mut String, report: &Report) {
    if report.depends_on_processor.is_empty() {
        return;
    }
    heading(out, "Depends on the processor (no accusation): what would be broken, and where");
    let mut groups: Vec<(&[String], Vec<String>)> = Vec::new();
    for rule in &report.depends_on_processor {
        let name = match rule.matches_log {
            Some(true) => format!("{} (could be what the log reports)", rule.id),
            _ => rule.id.clone(),
        };
        match groups.iter_mut().find(|(on, _)| *on == rule.broken_on.as_slice()) {
            Some((_, rules)) => rules.push(name),
            None => groups.push((&rule.broken_on, vec![name])),
        }
    }
    for (on, rules) in groups {
        wrapped(out, "  ", &rules.join(", "));
        wrapped(out, &format!("    {DIM}on{DIM:#} "), &on.join(", "));
    }
}

fn undecided(out: &mut String, report: &Report, detail: Detail) {
    if report.undecided.is_empty() {
        return;
    }
    heading(out, "Cannot tell, because the text does not show what the rules need");
    if detail == Detail::All {
        for group in &report.undecided {
            wrapped(out, "  ", &group.missing.join(", "));
            wrapped(out, &format!("    {DIM}needed by{DIM:#} "), &group.rules.join(", "));
        }
        return;
    }
    let mut needed: BTreeMap<&str, usize> = BTreeMap::new();
    for group in &report.undecided {
        for input in &group.missing {
            *needed.entry(input).or_default() += group.rules.len();
        }
    }
    let mut inputs: Vec<(&str, usize)> = needed.into_iter().collect();
    inputs.sort_by_key(|&(name, rules)| (core::cmp::Reverse(rules), name));
    let list: Vec<String> = inputs.iter().map(|(name, rules)| format!("{name} ({rules})")).collect();
    let rules: usize = report.undecided.iter().map(|group| group.rules.len()).sum();
    wrapped(out, &format!("  {rules} rules wait for: "), &list.join(", "));
    wrapped(out, "  ", "In brackets: how many rules need it. With --undecided each rule is named.");
}

fn rule_block(out: &mut String, rule: &RuleReport, tag: &str, style: Style) {
    line(out, "");
    let aside = if rule.matches_log == Some(false) { " (not what was reported)" } else { "" };
    line(out, &format!("{style}{tag}{style:#}  {HEAD}{}{HEAD:#}{aside}", rule.id));
    wrapped(out, "  ", &rule.says);
    wrapped(out, &format!("  {DIM}manual{DIM:#}   "), &rule.source);
    wrapped(out, &format!("  {DIM}outcome{DIM:#}  "), &rule.consequence);
    line(out, &format!("  {DIM}is{DIM:#}"));
    fields(out, &rule.is, "    ");
    if !rule.had_to_be.is_empty() {
        line(out, &format!("  {DIM}had to be, for example{DIM:#}"));
        fields(out, &rule.had_to_be, "    ");
    }
    if !rule.missing.is_empty() {
        wrapped(out, &format!("  {DIM}unknown{DIM:#}  "), &rule.missing.join(", "));
    }
    wrapped(out, &format!("  {DIM}likely{DIM:#}   "), &rule.hint);
    if !rule.doubt.is_empty() {
        wrapped(out, &format!("  {DIM}doubt{DIM:#}    "), &rule.doubt);
    }
    let on = match rule.processors {
        1 => rule.broken_on.join(""),
        count if rule.broken_on.len() == count => format!("every processor looked at ({count})"),
        count if rule.broken_on.len() + rule.cannot_tell_on.len() == count && !rule.cannot_tell_on.is_empty() => {
            format!(
                "{} of {count} processors: {}; too little is known of the others",
                rule.broken_on.len(),
                if rule.broken_on.len() > rule.cannot_tell_on.len() {
                    format!("all but {}", rule.cannot_tell_on.join(", "))
                } else {
                    rule.broken_on.join(", ")
                }
            )
        }
        count => format!("{} of {count} processors: {}", rule.broken_on.len(), rule.broken_on.join(", ")),
    };
    wrapped(out, &format!("  {DIM}on{DIM:#}       "), &on);
}

fn fields(out: &mut String, fields: &[FieldWords], indent: &str) {
    let name_width = fields.iter().map(|field| field.name.len()).max().unwrap_or(0);
    let value_width = fields.iter().filter_map(|field| field.value.as_ref()).map(String::len).max().unwrap_or(0);
    for field in fields {
        let value = field.value.as_deref().unwrap_or("");
        let head = format!("{indent}{:name_width$}  {value:>value_width$}  ", field.name);
        wrapped(out, &head, &field.words);
    }
}

fn heading(out: &mut String, text: &str) {
    line(out, "");
    line(out, &format!("{HEAD}{text}{HEAD:#}"));
}

fn line(out: &mut String, text: &str) {
    let _ = writeln!(out, "{}", text.trim_end());
}

/// Writes `text` after `head`, wrapped at [`WIDTH`] columns, the further lines indented to the width of `head`.
fn wrapped(out: &mut String, head: &str, text: &str) {
    let indent = anstream::adapter::strip_str(head).to_string().chars().count();
    let mut column = indent;
    let mut pending = head.to_owned();
    let mut first = true;
    for word in text.split_whitespace() {
        let length = word.chars().count();
        if !first && column + 1 + length > WIDTH {
            line(out, &pending);
            pending = " ".repeat(indent);
            column = indent;
            first = true;
        }
        if !first {
            pending.push(' ');
            column += 1;
        }
        pending.push_str(word);
        column += length;
        first = false;
    }
    line(out, &pending);
}
