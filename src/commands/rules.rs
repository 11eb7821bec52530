//! `softvirt rules`: what does a VM entry demand, where does the manual say so, and what happens otherwise?

use super::layout::{HEAD, Table, labelled};
use super::{Answer, Failure, Format, unknown};
use serde::Serialize;
use softvirt::vmx_model::Field;
use softvirt::vmx_model::rules::sections::SECTIONS;
use softvirt::vmx_model::rules::{RuleId, RuleRow};
use softvirt::vmx_model::view::Input;

/// What to look up.
#[derive(clap::Args)]
#[command(after_help = "\
Examples:
  softvirt rules                          every rule, by section of the manual
  softvirt rules guest.gdtr.limit_high    one rule
  softvirt rules guest.cs                 all whose identifier contains it
  softvirt rules 26.3.1.3                 all of a section (SDM 3C rev 077)
  softvirt rules guest_rflags             all that read a VMCS field")]
pub(crate) struct Args {
    /// An identifier, a part of one, a section, or a VMCS field; everything if there is none
    #[arg(value_name = "ID|PATTERN|SECTION|FIELD")]
    query: Option<String>,
}

pub(crate) fn run(args: &Args, format: Format) -> Result<Answer, Failure> {
    let rules = match &args.query {
        None => RuleId::all().collect(),
        Some(query) => look_up(query)?,
    };
    match (format, rules.as_slice()) {
        (Format::Json, rules) => Answer::json(&rules.iter().map(|rule| Rule::new(rule.row())).collect::<Vec<_>>()),
        (Format::Text, &[rule]) => Ok(Answer::fine(detail(rule.row()))),
        (Format::Text, rules) => Ok(Answer::fine(list(rules))),
    }
}

fn look_up(query: &str) -> Result<Vec<RuleId>, Failure> {
    if let Some(rule) = RuleId::by_name(query) {
        return Ok(vec![rule]);
    }
    let pattern = query.to_lowercase();
    let field = Field::by_id(query).map(Input::Field);
    let found: Vec<RuleId> = RuleId::all()
        .filter(|rule| {
            let row = rule.row();
            row.section.number == query
                || row.id.contains(&pattern)
                || field.is_some_and(|field| row.reads.contains(&field))
        })
        .collect();
    if found.is_empty() { Err(unknown("rule", query, RuleId::all().map(|rule| rule.row().id))) } else { Ok(found) }
}

#[derive(Serialize)]
struct Rule {
    id: &'static str,
    says: &'static str,
    section: String,
    paragraph: u8,
    otherwise: String,
    reads: Vec<String>,
    hint: &'static str,
    doubt: Option<&'static str>,
    implies: &'static [&'static str],
}

impl Rule {
    fn new(row: &'static RuleRow) -> Self {
        Self {
            id: row.id,
            says: row.says,
            section: row.section.to_string(),
            paragraph: row.paragraph,
            otherwise: row.consequence.to_string(),
            reads: row.reads.iter().map(Input::to_string).collect(),
            hint: row.hint,
            doubt: (!row.doubt.is_empty()).then_some(row.doubt),
            implies: row.implies,
        }
    }
}

/// The rules, section by section.
fn list(rules: &[RuleId]) -> String {
    let mut text = String::new();
    for section in SECTIONS {
        let of_section: Vec<&RuleRow> =
            rules.iter().map(|rule| rule.row()).filter(|row| row.section == *section).collect();
        if of_section.is_empty() {
            continue;
        }
        let blank = if text.is_empty() { "" } else { "\n" };
        text += &format!("{blank}{HEAD}{section}{HEAD:#}\n");
        let mut table = Table::new(&["RULE", "SAYS"]);
        for row in of_section {
            table.row([row.id.to_owned(), row.says.to_owned()]);
        }
        text += &table.render(2);
    }
    text
}

fn detail(row: &'static RuleRow) -> String {
    let rule = Rule::new(row);
    let mut text = format!("{HEAD}{}{HEAD:#}\n", rule.id);
    text += &labelled("says", 9, rule.says);
    text += &labelled("manual", 9, &format!("{}, paragraph {}", rule.section, rule.paragraph));
    text += &labelled("otherwise", 9, &rule.otherwise);
    text += &labelled("reads", 9, &rule.reads.join(", "));
    text += &labelled("likely", 9, rule.hint);
    if let Some(doubt) = rule.doubt {
        text += &labelled("doubt", 9, doubt);
    }
    if !rule.implies.is_empty() {
        text += &labelled("implies", 9, &rule.implies.join(", "));
    }
    text
}
