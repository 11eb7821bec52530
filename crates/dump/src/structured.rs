//! What does a JSON or TOML file say? Fields by name or encoding, and the facts around them.
//!
//! ```toml
//! label = "L2 of bug 17"              # optional
//! [vmcs]                              # or the fields at the top level
//! guest_cr0 = 0x80050033              # softvirt's id or XMHF's name, in any case
//! "0x6802" = "0x1000"                 # or the encoding; an odd encoding is the high half of a 64-bit field
//! host_rsp = "0xffffc90000000000"     # integer, or a string: hexadecimal with "0x", else decimal
//! [capabilities]                      # capability MSRs, by number
//! "0x480" = "0x00da040000000004"
//! [cpu]                               # processor state at VM entry, by name; also [vmx] and [memory] (address = 8 bytes)
//! cr4 = 0x2020
//! [[msr_lists.entry_load]]            # also exit_load, exit_store
//! index = 0xc0000080
//! value = 0xd01
//! ```
//!
//! JSON has the same shape. Several dumps are an array of such objects at the top level (JSON) or of `vmcs` tables (both). Null is unknown. "cpu", "vmx" and
//! "memory" become [`Facts::given`](crate::Facts::given).

use crate::building::{Building, ListKind, quoted};
use crate::lines::number;
use crate::{Dump, DumpKind, Facts, MAX_DUMPS, ParseError, xmhf};
use serde::de::{Deserialize, Deserializer, MapAccess, SeqAccess, Visitor};
use std::fmt;
use vmx_model::FieldEncoding;

/// JSON or TOML, with the order and the repetitions of keys kept.
#[derive(Clone, Debug, PartialEq)]
enum Value {
    Null,
    Number(u64),
    /// A number that is none: negative beyond 64 bits, or with a fraction.
    Odd(String),
    Text(String),
    List(Vec<Value>),
    Table(Vec<(String, Value)>),
}

impl<'de> Deserialize<'de> for Value {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        deserializer.deserialize_any(ValueVisitor)
    }
}

struct ValueVisitor;

impl<'de> Visitor<'de> for ValueVisitor {
    type Value = Value;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("a number, a string, a list or a table")
    }

    fn visit_bool<E>(self, value: bool) -> Result<Value, E> {
        Ok(Value::Number(value.into()))
    }

    fn visit_u64<E>(self, value: u64) -> Result<Value, E> {
        Ok(Value::Number(value))
    }

    fn visit_i64<E>(self, value: i64) -> Result<Value, E> {
        // TOML has no integers beyond 63 bits; a negative one is the same 64 bits.
        Ok(Value::Number(value as u64))
    }

    fn visit_f64<E>(self, value: f64) -> Result<Value, E> {
        Ok(Value::Odd(value.to_string()))
    }

    fn visit_str<E>(self, value: &str) -> Result<Value, E> {
        Ok(Value::Text(value.to_owned()))
    }

    fn visit_unit<E>(self) -> Result<Value, E> {
        Ok(Value::Null)
    }

    fn visit_seq<A: SeqAccess<'de>>(self, mut seq: A) -> Result<Value, A::Error> {
        let mut list = Vec::new();
        while let Some(value) = seq.next_element()? {
            list.push(value);
        }
        Ok(Value::List(list))
    }

    fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<Value, A::Error> {
        let mut table = Vec::new();
        while let Some(entry) = map.next_entry()? {
            table.push(entry);
        }
        Ok(Value::Table(table))
    }
}

/// Reads the text if it is JSON (`Some`), with its mistakes as an error.
pub(crate) fn json(text: &str) -> Option<Result<Vec<Dump>, ParseError>> {
    let start = text.trim_start();
    // "[    2.77] ..." begins a log, "[{" or "[]" an array.
    let array = start.strip_prefix('[').is_some_and(|rest| rest.trim_start().starts_with(['{', ']']));
    if !start.starts_with('{') && !array {
        return None;
    }
    Some(match serde_json::from_str(text) {
        Ok(value) => dumps(value, DumpKind::Json, text),
        Err(error) => {
            Err(ParseError { line: error.line().max(1), last_line: error.line().max(1), expected: error.to_string() })
        }
    })
}

/// Reads the text if it is TOML with names that a field list has (`Some`), with its mistakes as an error.
pub(crate) fn toml(text: &str) -> Option<Result<Vec<Dump>, ParseError>> {
    if !looks_like_toml(text) {
        return None;
    }
    Some(match toml::from_str(text) {
        Ok(value) => dumps(value, DumpKind::Toml, text),
        Err(error) => {
            let line = error.span().map_or(1, |span| {
                1 + text.as_bytes()[..span.start.min(text.len())].iter().filter(|b| **b == b'\n').count()
            });
            Err(ParseError { line, last_line: line, expected: error.message().lines().collect::<Vec<_>>().join("; ") })
        }
    })
}

/// The tables that a file may have.
const TABLES: [&str; 6] = ["vmcs", "cpu", "vmx", "memory", "capabilities", "msr_lists"];

/// The first line that is neither blank nor a comment tells: a table header that we know, or a field's name or encoding, or a label.
///
/// A bare listing of XMHF's ("guest_CR0=0x11", without more) looks the same and is read the same, except where it has names without a value that
/// TOML knows; so for an unquoted name a second such line must agree.
fn looks_like_toml(text: &str) -> bool {
    let mut statements = text.lines().map(str::trim).filter(|line| !line.is_empty() && !line.starts_with('#'));
    let Some(first) = statements.next() else { return false };
    if let Some(header) = first.strip_prefix('[') {
        let header = header.trim_start_matches('[').split([']', '.']).next().unwrap_or("").trim();
        return TABLES.contains(&header);
    }
    let is_statement = |line: &str| {
        let Some((name, value)) = line.split_once('=') else { return false };
        let (name, value) = (name.trim().trim_matches('"'), value.trim());
        let known = name == "label" || name_or_encoding(name).is_some();
        let plain = value.starts_with('"')
            || number(value.split([' ', '#']).next().unwrap_or("")).is_some_and(|_| !value.contains(['{', ',', '/']));
        known && plain
    };
    is_statement(first) && statements.next().is_none_or(|second| second.starts_with('[') || is_statement(second))
}

fn name_or_encoding(name: &str) -> Option<xmhf::Named> {
    if let Some(encoding) = name.strip_prefix("0x").or_else(|| name.strip_prefix("0X")) {
        let encoding = FieldEncoding(u32::from_str_radix(encoding, 16).ok()?);
        return Some(xmhf::Named { field: encoding.field()?, high: encoding.is_high() });
    }
    xmhf::field(name)
}

/// One reader for one file.
struct Source<'a> {
    text: &'a str,
    /// Where the search for the next key begins: keys come in the order of the text.
    at: usize,
    line: usize,
    /// Searches that found nothing: an escaped key is not found, and searching in vain for each of many would take long.
    misses: usize,
}

/// Searches in vain after which no more are made.
const MAX_MISSES: usize = 64;

impl Source<'_> {
    /// The line of the next key with this text. Tables of TOML may be out of order; the line is then that of the key before.
    fn line_of(&mut self, key: &str) -> usize {
        if key.is_empty() || self.misses >= MAX_MISSES {
            return self.line;
        }
        match self.text[self.at..].find(key) {
            Some(found) => {
                self.line += self.text.as_bytes()[self.at..self.at + found].iter().filter(|b| **b == b'\n').count();
                self.at += found;
            }
            None => self.misses += 1,
        }
        self.line
    }
}

fn dumps(value: Value, kind: DumpKind, text: &str) -> Result<Vec<Dump>, ParseError> {
    let objects = match value {
        Value::List(objects) => objects,
        table => vec![table],
    };
    let mut source = Source { text, at: 0, line: 1, misses: 0 };
    let mut out = Vec::new();
    for object in objects {
        let Value::Table(table) = object else {
            return Err(ParseError {
                line: source.line,
                last_line: source.line,
                expected: "an object with fields was expected".to_owned(),
            });
        };
        // An array of tables under "vmcs" is several dumps that share the rest.
        let several =
            table.iter().position(|(key, value)| key.eq_ignore_ascii_case("vmcs") && matches!(value, Value::List(_)));
        match several {
            None => out.push(dump(table, kind, &mut source)?),
            Some(position) => {
                let Value::List(list) = table[position].1.clone() else { continue };
                let rest: Vec<_> =
                    table.into_iter().enumerate().filter(|(at, _)| *at != position).map(|(_, entry)| entry).collect();
                for one in list.into_iter().take(MAX_DUMPS) {
                    let mut table = vec![("vmcs".to_owned(), one)];
                    table.extend(rest.iter().cloned());
                    out.push(dump(table, kind, &mut source)?);
                }
            }
        }
        if out.len() >= MAX_DUMPS {
            out.truncate(MAX_DUMPS);
            break;
        }
    }
    let last_line = text.trim_end().lines().count().max(1);
    if out.iter().all(|dump| dump.vmcs.known_count() == 0 && dump.facts == Facts::default()) {
        let expected =
            "no field: expected names such as \"guest_cr0\" or encodings such as \"0x6800\" with values".to_owned();
        return Err(ParseError { line: 1, last_line, expected });
    }
    if let [only] = out.as_mut_slice() {
        (only.first_line, only.last_line) = (1, last_line);
    }
    Ok(out)
}

fn dump(table: Vec<(String, Value)>, kind: DumpKind, source: &mut Source<'_>) -> Result<Dump, ParseError> {
    let mut building = Building::new(kind, source.line);
    for (key, value) in table {
        let line = source.line_of(&key);
        entry(&key, value, line, &mut building, source)?;
    }
    for list in ListKind::ALL {
        building.settle_list(list, None);
    }
    building.event_from_instruction_error();
    building.event_from_reason();
    Ok(building.dump)
}

fn entry(
    key: &str,
    value: Value,
    line: usize,
    building: &mut Building,
    source: &mut Source<'_>,
) -> Result<(), ParseError> {
    match (key, value) {
        ("label", Value::Text(label)) => building.dump.label = Some(label),
        (_, Value::Table(table)) if key.eq_ignore_ascii_case("vmcs") => {
            for (name, value) in table {
                let line = source.line_of(&name);
                match (name.as_str(), value) {
                    ("label", Value::Text(label)) => building.dump.label = Some(label),
                    (_, value) => field(&name, value, line, building)?,
                }
            }
        }
        ("cpu" | "vmx" | "memory", Value::Table(table)) => {
            for (name, value) in table {
                let line = source.line_of(&name);
                if let Some(value) = scalar(&name, value, line)? {
                    building.dump.facts.given.push((format!("{key}.{name}"), value));
                    building.extend(line);
                }
            }
        }
        ("capabilities", Value::Table(table)) => {
            for (name, value) in table {
                let line = source.line_of(&name);
                match (number(&name).and_then(|msr| u32::try_from(msr).ok()), scalar(&name, value, line)?) {
                    (Some(msr), Some(value)) => building.dump.facts.capabilities.push((msr, value)),
                    (None, _) => building.note(line, format!("\"{}\" is no MSR number", quoted(&name))),
                    (_, None) => {}
                }
            }
        }
        ("msr_lists", Value::Table(lists)) => {
            for (name, value) in lists {
                let line = source.line_of(&name);
                msr_list(&name, value, line, building)?;
            }
        }
        (_, value) => field(key, value, line, building)?,
    }
    Ok(())
}

fn msr_list(name: &str, value: Value, line: usize, building: &mut Building) -> Result<(), ParseError> {
    let list = match name {
        "entry_load" => ListKind::EntryLoad,
        "exit_load" => ListKind::ExitLoad,
        "exit_store" => ListKind::ExitStore,
        _ => {
            building
                .note(line, format!("\"{}\" is no MSR list; entry_load, exit_load and exit_store are", quoted(name)));
            return Ok(());
        }
    };
    let Value::List(entries) = value else {
        return Err(ParseError {
            line,
            last_line: line,
            expected: format!("\"{name}\" must be a list of entries with index and value"),
        });
    };
    list.slot(&mut building.dump.facts.msr_lists).0.get_or_insert_default();
    for (position, value) in entries.into_iter().enumerate() {
        let Value::Table(parts) = value else {
            return Err(ParseError {
                line,
                last_line: line,
                expected: format!("entry {position} of \"{name}\" must have index and value"),
            });
        };
        for (part, value) in parts {
            let Some(value) = scalar(&part, value, line)? else { continue };
            building.list_entry(list, position, line, |entry| match part.as_str() {
                "index" => entry.index = value as u32,
                "reserved" => entry.reserved = value as u32,
                "value" | "data" => entry.value = value,
                _ => {}
            });
        }
    }
    Ok(())
}

fn field(name: &str, value: Value, line: usize, building: &mut Building) -> Result<(), ParseError> {
    let Some(named) = name_or_encoding(name) else {
        building.note(line, format!("\"{}\" is no field's name or encoding; it is not used", quoted(name)));
        return Ok(());
    };
    match scalar(name, value, line)? {
        Some(value) if named.high => building.set_high(named.field, value, line),
        Some(value) => building.set(named.field, value, line),
        None => {}
    }
    Ok(())
}

/// A single value; `None` if it is unknown.
fn scalar(name: &str, value: Value, line: usize) -> Result<Option<u64>, ParseError> {
    let wrong = |what: String| {
        let expected =
            format!("\"{}\" must be an integer or a string such as \"0x80050033\", not {what}", quoted(name));
        ParseError { line, last_line: line, expected }
    };
    match value {
        Value::Null => Ok(None),
        Value::Number(value) => Ok(Some(value)),
        Value::Text(text) => match number(text.trim()) {
            Some(value) => Ok(Some(value)),
            None if text.trim() == "unavailable" || text.trim() == "unknown" => Ok(None),
            None => Err(wrong(format!("\"{}\"", quoted(&text)))),
        },
        Value::Odd(text) => Err(wrong(text)),
        Value::List(_) => Err(wrong("a list".to_owned())),
        Value::Table(_) => Err(wrong("a table".to_owned())),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::parse;
    use vmx_model::Field;

    #[test]
    fn json_is_read_flat_and_under_vmcs() {
        for text in [
            r#"{"guest_cr0": "0x80050033", "0x6802": 4096}"#,
            r#"{"vmcs": {"GUEST_CR0": 2147811379, "guest_CR3": "0x1000", "guest_cr4": null}}"#,
        ] {
            let dumps = parse(text).unwrap();
            let [dump] = dumps.as_slice() else { panic!("{dumps:?}") };
            assert_eq!(dump.kind, DumpKind::Json);
            assert_eq!(dump.vmcs.try_get(Field::GUEST_CR0), Some(0x8005_0033));
            assert_eq!(dump.vmcs.try_get(Field::GUEST_CR3), Some(0x1000));
            assert_eq!(dump.vmcs.known_count(), 2);
            assert_eq!(dump.notes, []);
        }
    }

    #[test]
    fn the_example_of_the_module_is_read() {
        let text = r#"
label = "L2 of bug 17"
[vmcs]
guest_cr0 = 0x80050033
"0x2010" = "0x11111111"
"0x2011" = "0x22222222"
host_rsp = "0xffffc90000000000"
[capabilities]
"0x480" = "0x00da040000000004"
[cpu]
cr4 = 0x2020
[[msr_lists.entry_load]]
index = 0xc0000080
value = 0xd01
"#;
        let dumps = parse(text).unwrap();
        let [dump] = dumps.as_slice() else { panic!("{dumps:?}") };
        assert_eq!((dump.kind, dump.label.as_deref()), (DumpKind::Toml, Some("L2 of bug 17")));
        assert_eq!(dump.vmcs.try_get(Field::TSC_OFFSET), Some(0x2222_2222_1111_1111));
        assert_eq!(dump.vmcs.try_get(Field::HOST_RSP), Some(0xffff_c900_0000_0000));
        assert_eq!(dump.facts.capabilities, [(0x480, 0x00da_0400_0000_0004)]);
        assert_eq!(dump.facts.given, [("cpu.cr4".to_owned(), 0x2020)]);
        let entry = crate::MsrEntry { index: 0xc000_0080, reserved: 0, value: 0xd01 };
        assert_eq!(dump.facts.msr_lists.entry_load, Some(vec![entry]));
    }

    #[test]
    fn mistakes_are_told_with_their_line() {
        for (text, line) in [
            ("{\n\"guest_cr0\": 1,\n}", 3),
            ("{\n\"guest_cr0\": \"zero\"}", 2),
            ("[vmcs]\nguest_cr0 = 1\nguest_cr3 = \n", 3),
            ("[vmcs]\nguest_cr0 = 1\nguest_cr3 = [1]\n", 3),
            ("{}", 1),
        ] {
            assert_eq!(parse(text).map_err(|error| error.line), Err(line), "{text}");
        }
    }

    #[test]
    fn unknown_names_and_values_that_do_not_fit_are_noted() {
        let dumps =
            parse("{\"guest_cr0\": 1,\n\"gest_cr3\": 2,\n\"guest_cs_selector\": \"0x10000\",\n\"guest_cr0\": 5}")
                .unwrap();
        let notes: Vec<usize> = dumps[0].notes.iter().map(|note| note.line).collect();
        assert_eq!(notes, [2, 3, 4]);
        assert_eq!(dumps[0].vmcs.try_get(Field::GUEST_CS_SELECTOR), None);
        assert_eq!(dumps[0].vmcs.try_get(Field::GUEST_CR0), Some(5));
    }

    #[test]
    fn several_vmcss_are_several_dumps() {
        assert_eq!(parse("[[vmcs]]\nguest_cr0 = 1\n[[vmcs]]\nguest_cr0 = 2\n").unwrap().len(), 2);
        assert_eq!(parse("[{\"guest_cr0\": 1}, {\"guest_cr0\": 2}]").unwrap().len(), 2);
    }
}
