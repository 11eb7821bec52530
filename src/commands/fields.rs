//! `softvirt fields`: which VMCS fields are there, and what does a value mean?

use super::layout::{HEAD, Table, beside, labelled};
use super::{Answer, Failure, Format, unknown};
use serde::Serialize;
use softvirt::vmx_model::fields::{Exists, FieldType, Source, Width};
use softvirt::vmx_model::rules::RuleId;
use softvirt::vmx_model::view::Input;
use softvirt::vmx_model::{Control, Field, FieldEncoding, describe};

/// What to look up.
#[derive(clap::Args)]
#[command(after_help = "\
Examples:
  softvirt fields                                  every field
  softvirt fields guest_cr0                        one field
  softvirt fields 0x4402                           by its encoding (hexadecimal)
  softvirt fields selector                         all whose name contains it
  softvirt fields guest_cs_access_rights=0xa09b    a value in words
  softvirt fields exit_reason=48 exit_qualification=0x182")]
pub(crate) struct Args {
    /// A name, an encoding, a part of a name, or NAME=VALUE; everything if there is none
    #[arg(value_name = "NAME|ENCODING|PATTERN|NAME=VALUE")]
    queries: Vec<String>,
}

pub(crate) fn run(args: &Args, format: Format) -> Result<Answer, Failure> {
    if args.queries.iter().any(|query| query.contains('=')) {
        return values(&args.queries, format);
    }
    let mut found: Vec<Field> = Vec::new();
    for query in &args.queries {
        found.extend(look_up(query)?);
    }
    if args.queries.is_empty() {
        found.extend(Field::all());
    }
    found.sort();
    found.dedup();
    match (format, found.as_slice()) {
        (Format::Json, _) => Answer::json(&found.iter().map(|&field| Row::new(field)).collect::<Vec<_>>()),
        (Format::Text, &[field]) => Ok(Answer::fine(detail(field))),
        (Format::Text, _) => Ok(Answer::fine(list(&found))),
    }
}

/// The fields that a query means: one by its identifier or encoding, or all whose name contains it.
fn look_up(query: &str) -> Result<Vec<Field>, Failure> {
    if let Some(field) = Field::by_id(query) {
        return Ok(vec![field]);
    }
    if let Some(encoding) = encoding(query) {
        return match encoding.field() {
            Some(field) => Ok(vec![field]),
            None => Err(Failure(format!("no field that softvirt knows has the encoding {:#06x}", encoding.0))),
        };
    }
    let pattern = query.to_lowercase();
    let found: Vec<Field> = Field::all()
        .filter(|field| field.id().contains(&pattern) || field.name().to_lowercase().contains(&pattern))
        .collect();
    if found.is_empty() { Err(unknown("VMCS field", query, Field::all().map(Field::id))) } else { Ok(found) }
}

/// Encodings are hexadecimal in every header and manual: with 0x, with an h behind, or plain when there are four digits and more.
fn encoding(query: &str) -> Option<FieldEncoding> {
    let lower = query.to_lowercase();
    let digits = match lower.strip_prefix("0x").or_else(|| lower.strip_suffix('h')) {
        Some(digits) => digits,
        None if lower.len() >= 4 && lower.starts_with(|first: char| first.is_ascii_digit()) => lower.as_str(),
        None => return None,
    };
    u32::from_str_radix(digits, 16).ok().map(FieldEncoding)
}

/// `NAME=VALUE ...` in words. The exit reason among them decides about the qualification.
fn values(queries: &[String], format: Format) -> Result<Answer, Failure> {
    let mut given = Vec::new();
    for query in queries {
        let Some((name, value)) = query.split_once('=') else {
            return Err(Failure(format!("\"{query}\" stands among NAME=VALUE without a value")));
        };
        let field = match look_up(name)?.as_slice() {
            &[field] => field,
            several => return Err(Failure(format!("\"{name}\" means {} fields; a value needs one", several.len()))),
        };
        let number = number(value).ok_or_else(|| Failure(format!("\"{value}\" is no number (0x... or decimal)")))?;
        if number & !field.row().width.mask() != 0 {
            let bits = field.row().width.bits();
            return Err(Failure(format!("{number:#x} does not fit into {}, which has {bits} bits", field.id())));
        }
        given.push((field, number));
    }
    let value_of = |of: Field| given.iter().find(|(field, _)| *field == of).map(|(_, value)| *value as u32);
    let rows: Vec<Value> = given
        .iter()
        .map(|&(field, value)| {
            let mut words = describe::field(field, value);
            if let Some(reason) = value_of(Field::EXIT_REASON) {
                words = words.with_exit_reason(reason);
            }
            if let Some(information) = value_of(Field::VM_EXIT_INTERRUPTION_INFO) {
                words = words.with_exit_interruption(information);
            }
            Value { id: field.id(), value: format!("{value:#x}"), words: words.to_string() }
        })
        .collect();
    if format == Format::Json {
        return Answer::json(&rows);
    }
    let mut text = String::new();
    for row in rows {
        let words = if row.words.is_empty() { "just a number" } else { &row.words };
        text += &beside(&format!("{} = {}  ", row.id, row.value), words);
    }
    Ok(Answer::fine(text))
}

fn number(text: &str) -> Option<u64> {
    match text.to_lowercase().strip_prefix("0x") {
        Some(digits) => u64::from_str_radix(digits, 16).ok(),
        None => text.parse().ok(),
    }
}

#[derive(Serialize)]
struct Value {
    id: &'static str,
    value: String,
    words: String,
}

#[derive(Serialize)]
struct Row {
    id: &'static str,
    name: &'static str,
    encoding: String,
    /// The encoding of the high half; 64-bit fields only.
    encoding_high: Option<String>,
    bits: u32,
    width: &'static str,
    r#type: &'static str,
    exists: String,
    source: String,
    /// Rules that read it.
    rules: Vec<&'static str>,
}

impl Row {
    fn new(field: Field) -> Self {
        let row = field.row();
        let high = (row.width == Width::W64).then(|| format!("{:#06x}", row.encoding.0 | 1));
        Self {
            id: row.id,
            name: row.name,
            encoding: format!("{:#06x}", row.encoding.0),
            encoding_high: high,
            bits: row.width.bits(),
            width: width(row.width),
            r#type: kind(row.kind),
            exists: exists(row.exists),
            source: row.source.to_string(),
            rules: rules(field),
        }
    }
}

fn width(width: Width) -> &'static str {
    match width {
        Width::W16 => "16",
        Width::W32 => "32",
        Width::W64 => "64",
        Width::Natural => "natural",
    }
}

fn kind(kind: FieldType) -> &'static str {
    match kind {
        FieldType::Control => "control",
        FieldType::ReadOnly => "exit info",
        FieldType::Guest => "guest",
        FieldType::Host => "host",
    }
}

fn exists(exists: Exists) -> String {
    let quoted = |control: Control| format!("\"{}\" ({})", control.name(), control.vector().field().id());
    match exists {
        Exists::Always => "always".to_owned(),
        Exists::With(control) => quoted(control),
        Exists::Either(one, other) => format!("{} or {}", quoted(one), quoted(other)),
        Exists::Seam => "only in VMCSs of a TDX module".to_owned(),
    }
}

fn rules(field: Field) -> Vec<&'static str> {
    let reads = |input: &Input| match *input {
        Input::Field(of) => of == field,
        Input::Control(control) => control.vector().field() == field,
        _ => false,
    };
    RuleId::all().filter(|rule| rule.row().reads.iter().any(reads)).map(|rule| rule.row().id).collect()
}

fn list(fields: &[Field]) -> String {
    let mut table = Table::new(&["ENCODING", "WIDTH", "TYPE", "NAME", "SOURCE", "EXISTS WITH"]);
    for field in fields {
        let row = field.row();
        let source = match row.source {
            Source::AppendixB(section) => section.to_owned(),
            Source::Later => "later".to_owned(),
        };
        table.row([
            format!("{:#06x}", row.encoding.0),
            width(row.width).to_owned(),
            kind(row.kind).to_owned(),
            row.id.to_owned(),
            source,
            exists(row.exists),
        ]);
    }
    table.render(0)
}

fn detail(field: Field) -> String {
    let row = Row::new(field);
    let high = row.encoding_high.map_or(String::new(), |high| format!(", high half {high}"));
    let width = match row.width {
        "natural" => "natural: 64 bits, or 32 without Intel 64".to_owned(),
        bits => format!("{bits} bits"),
    };
    let rules = if row.rules.is_empty() { "none".to_owned() } else { row.rules.join(", ") };
    let mut text = format!("{HEAD}{}{HEAD:#}: {}\n", row.id, row.name);
    for (label, words) in [
        ("encoding", format!("{}{high}", row.encoding)),
        ("width", width),
        ("type", row.r#type.to_owned()),
        ("exists", if row.exists == "always" { row.exists } else { format!("with {}", row.exists) }),
        ("source", row.source),
        ("read by", rules),
    ] {
        text += &labelled(label, 8, &words);
    }
    text + &control_bits(field)
}

/// The bits of a control vector.
fn control_bits(field: Field) -> String {
    let controls: Vec<Control> = Control::all().filter(|control| control.vector().field() == field).collect();
    if controls.is_empty() {
        return String::new();
    }
    let mut table = Table::new(&["BIT", "SOURCE", "CONTROL"]);
    for control in controls {
        let row = control.row();
        let source = if row.later { "later" } else { "rev 077" };
        table.row([row.bit.to_string(), source.to_owned(), row.name.to_owned()]);
    }
    format!("\n{}", table.render(2))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn encodings_are_hexadecimal_in_all_the_usual_spellings() {
        for (query, expected) in [
            ("0x6800", Some(0x6800)),
            ("6800", Some(0x6800)),
            ("00006800H", Some(0x6800)),
            ("0x0", Some(0)),
            ("681e", Some(0x681e)),
            ("host", None),
            ("cr0", None),
            ("feed", None),
            ("17", None),
        ] {
            assert_eq!(encoding(query).map(|encoding| encoding.0), expected, "{query}");
        }
    }
}
