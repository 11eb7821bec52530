//! What did the program print, without what carried it here? Strips quote marks, timestamps and log prefixes from each line.
//!
//! A line that a mailer or terminal broke off is not joined here: the readers carry their state from line to line and need only to
//! know whether a line has a log prefix of its own ([`Line::prefixed`]), because a broken-off line has none.

/// One line of the text.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Line<'a> {
    /// Counted from 1.
    pub(crate) number: usize,
    /// The line without quote marks and prefixes.
    pub(crate) text: &'a str,
    /// The line had a log prefix (quote marks do not count).
    pub(crate) prefixed: bool,
    /// The line had the prefix "(XEN)".
    pub(crate) xen: bool,
    /// The task or CPU that printed it, from "[ T123]" or "[ C1]"; tells interleaved dumps apart.
    pub(crate) caller: Option<u64>,
    /// The CPU of "CPU(0x01):".
    pub(crate) cpu: Option<u64>,
}

/// Longest "[...]" that is taken for a timestamp.
const STAMP_CHARS: usize = 48;
/// More prefixes than this stand before no line.
const PREFIXES: usize = 12;
/// Module prefixes that kernels print.
const MODULES: [&str; 8] = ["kvm_intel:", "kvm_amd:", "kvm:", "KVM:", "VMX:", "SVM:", "kernel:", "vmx:"];

/// The lines of the text, stripped.
pub(crate) fn lines(text: &str) -> impl Iterator<Item = Line<'_>> {
    text.split('\n').enumerate().map(|(index, raw)| strip(raw, index + 1))
}

/// Strips one line.
fn strip(raw: &str, number: usize) -> Line<'_> {
    let mut text = raw.trim();
    while let Some(rest) = text.strip_prefix(['>', '|']) {
        text = rest.trim_start();
    }
    let mut line = Line { number, text, prefixed: false, xen: false, caller: None, cpu: None };
    for _ in 0..PREFIXES {
        if !strip_one(&mut line) {
            break;
        }
    }
    line
}

fn strip_one(line: &mut Line<'_>) -> bool {
    let text = line.text;
    if let Some(rest) = text.strip_prefix("(XEN)") {
        line.xen = true;
        return accept(line, rest);
    }
    if let Some(rest) = MODULES.iter().find_map(|module| text.strip_prefix(module)) {
        return accept(line, rest);
    }
    if let Some(inside) = text.strip_prefix('[') {
        let Some((stamp, rest)) = inside.split_once(']') else { return false };
        if !is_stamp(stamp) {
            return false;
        }
        if let Some(caller) = caller(stamp) {
            line.caller = Some(caller);
        }
        return accept(line, rest);
    }
    if let Some(inside) = text.strip_prefix('<') {
        return match inside.split_once('>') {
            Some((level, rest)) if is_digits(level) => accept(line, rest),
            _ => false,
        };
    }
    if let Some(inside) = text.strip_prefix("CPU(0x") {
        let Some((cpu, rest)) = inside.split_once("):") else { return false };
        let Ok(cpu) = u64::from_str_radix(cpu, 16) else { return false };
        line.cpu = Some(cpu);
        return accept(line, rest);
    }
    if !text.starts_with(|c: char| c.is_ascii_alphanumeric() || c == '<' || c == '(') {
        return false;
    }
    match cut_stamp(text).or_else(|| syslog(text)).or_else(|| ftrace(text)) {
        Some(rest) => accept(line, rest),
        None => false,
    }
}

fn accept<'a>(line: &mut Line<'a>, rest: &'a str) -> bool {
    line.text = rest.trim_start();
    line.prefixed = true;
    true
}

fn is_digits(text: &str) -> bool {
    !text.is_empty() && text.bytes().all(|b| b.is_ascii_digit())
}

/// Is this what stands between the brackets of a timestamp, a caller id or an elision?
fn is_stamp(stamp: &str) -> bool {
    let stamp = stamp.trim();
    if stamp == "…" || stamp == "..." {
        return true;
    }
    if stamp.len() > STAMP_CHARS || !stamp.bytes().any(|b| b.is_ascii_digit()) {
        return false;
    }
    if caller(stamp).is_some() {
        return true;
    }
    let clock = stamp.split_once(' ').map_or(stamp, |(day, rest)| {
        // "dmesg -T" writes "Fri Jun 18 12:00:00 2021".
        if day.len() == 3 && day.bytes().all(|b| b.is_ascii_alphabetic()) {
            rest.trim_start().trim_start_matches(|c: char| c.is_ascii_alphabetic())
        } else {
            stamp
        }
    });
    clock.bytes().all(|b| b.is_ascii_digit() || b" .:-/+,TZ".contains(&b))
}

/// The number of "T123" (task) or "C1" (processor).
fn caller(stamp: &str) -> Option<u64> {
    let stamp = stamp.trim();
    let (kind, number) = (stamp.as_bytes().first()?, stamp.get(1..)?);
    if !is_digits(number) {
        return None;
    }
    let number: u64 = number.parse().ok()?;
    match kind {
        b'T' => Some(number),
        b'C' => Some(1 << 63 | number),
        _ => None,
    }
}

/// A timestamp that lost its opening bracket: "   21.350774] ".
fn cut_stamp(text: &str) -> Option<&str> {
    let (stamp, rest) = text.split_once(']')?;
    let seconds = stamp.bytes().all(|b| b.is_ascii_digit() || b == b'.');
    (stamp.len() <= STAMP_CHARS && stamp.contains('.') && seconds).then_some(rest)
}

/// "Jun 18 12:00:00 host kernel: " and "2021-06-18T12:00:00+0000 host kernel: ".
fn syslog(text: &str) -> Option<&str> {
    let (first, rest) = word(text)?;
    let rest = if is_month(first) {
        let (day, rest) = word(rest)?;
        let (clock, rest) = word(rest)?;
        if !is_digits(day) || !is_clock(clock) {
            return None;
        }
        rest
    } else if is_date(first) {
        match word(rest) {
            Some((clock, rest)) if !first.contains('T') && is_clock(clock) => rest,
            _ if first.contains('T') => rest,
            _ => return None,
        }
    } else {
        return None;
    };
    let (_host, rest) = word(rest)?;
    let (tag, after) = word(rest)?;
    Some(if tag.ends_with(':') { after } else { rest })
}

fn is_month(text: &str) -> bool {
    ["Jan", "Feb", "Mar", "Apr", "May", "Jun", "Jul", "Aug", "Sep", "Oct", "Nov", "Dec"].contains(&text)
}

fn is_clock(text: &str) -> bool {
    text.len() >= 8 && text.matches(':').count() == 2 && text.bytes().all(|b| b.is_ascii_digit() || b":.".contains(&b))
}

fn is_date(text: &str) -> bool {
    let bytes = text.as_bytes();
    text.len() >= 10 && bytes[..4].iter().all(u8::is_ascii_digit) && bytes[4] == b'-' && bytes[7] == b'-'
}

/// ftrace's "comm-pid [cpu] flags seconds: function: ".
fn ftrace(text: &str) -> Option<&str> {
    let open = text.find(" [")?;
    let (_, pid) = text[..open].trim_end().rsplit_once('-')?;
    let (cpu, rest) = text[open + 2..].split_once(']')?;
    if !is_digits(pid) || !is_digits(cpu) {
        return None;
    }
    let mut rest = rest;
    // At most: flags and the timestamp.
    for _ in 0..3 {
        let (next, after) = word(rest)?;
        rest = after;
        let stamp = next.strip_suffix(':').unwrap_or("");
        if stamp.contains('.') && stamp.bytes().all(|b| b.is_ascii_digit() || b == b'.') && stamp.len() >= 3 {
            let (function, after) = word(rest)?;
            return Some(if function.ends_with(':') { after } else { rest });
        }
    }
    None
}

/// The first word and what follows it.
fn word(text: &str) -> Option<(&str, &str)> {
    let text = text.trim_start();
    if text.is_empty() {
        return None;
    }
    Some(text.split_once(char::is_whitespace).unwrap_or((text, "")))
}

/// A piece of a line: a word, or the sign between a name and its value.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Token<'a> {
    /// A word; words end at blanks, commas and equals signs.
    Word(&'a str),
    /// An equals sign.
    Equals,
}

/// The words and equals signs of a line.
pub(crate) fn tokens(text: &str) -> impl Iterator<Item = Token<'_>> {
    text.split(|c: char| c.is_whitespace() || c == ',').flat_map(|piece| {
        piece.split_inclusive('=').flat_map(|part| {
            let (word, equals) = match part.strip_suffix('=') {
                Some(word) => (word, true),
                None => (part, false),
            };
            let word = (!word.is_empty()).then_some(Token::Word(word));
            word.into_iter().chain(equals.then_some(Token::Equals))
        })
    })
}

/// A hexadecimal number with or without "0x", and how many digits it was written with. What follows the digits must not be a letter or digit.
pub(crate) fn hex(text: &str) -> Option<(u64, usize)> {
    let digits = text.strip_prefix("0x").or_else(|| text.strip_prefix("0X")).unwrap_or(text);
    let count = digits.bytes().take_while(u8::is_ascii_hexdigit).count();
    let ends = digits.as_bytes().get(count).is_none_or(|b| !b.is_ascii_alphanumeric() && *b != b'_');
    if count == 0 || count > 16 || !ends {
        return None;
    }
    Some((u64::from_str_radix(&digits[..count], 16).ok()?, count))
}

/// A number as C programmers write it: hexadecimal with "0x", else decimal.
pub(crate) fn number(text: &str) -> Option<u64> {
    if text.starts_with("0x") || text.starts_with("0X") {
        return hex(text).map(|(value, _)| value);
    }
    let count = text.bytes().take_while(u8::is_ascii_digit).count();
    let ends = text.as_bytes().get(count).is_none_or(|b| !b.is_ascii_alphanumeric() && *b != b'_');
    if ends { text[..count].parse().ok() } else { None }
}

/// The number that follows the first `mark` in the text.
pub(crate) fn number_after(text: &str, mark: &str) -> Option<u64> {
    let (_, rest) = text.split_once(mark)?;
    number(rest.trim_start())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn stripped(raw: &str) -> &str {
        strip(raw, 1).text
    }

    #[test]
    fn every_kind_of_prefix_is_stripped() {
        for raw in [
            "CR3 = 0x1",
            "[    2.614873] CR3 = 0x1",
            "[    2.614873][ T123] CR3 = 0x1",
            "[  T123] CR3 = 0x1",
            "   21.350774] CR3 = 0x1",
            "[ 5120.204817] kvm_intel: CR3 = 0x1",
            "> > [ 5120.204817] kvm_intel: CR3 = 0x1",
            "| kvm_intel: CR3 = 0x1",
            "Jun 18 12:00:01 host kernel: CR3 = 0x1",
            "Jun  8 12:00:01 host kernel: [12345.678901] kvm_intel: CR3 = 0x1",
            "2021-06-18T12:00:01.123456+00:00 host kernel: CR3 = 0x1",
            "2021-06-18 12:00:01 host kernel: CR3 = 0x1",
            "<3>[   12.000000] CR3 = 0x1",
            "[Fri Jun 18 12:00:00 2021] CR3 = 0x1",
            "[…] CR3 = 0x1",
            "[...] CR3 = 0x1",
            "(XEN) CR3 = 0x1",
            "(XEN) [2020-01-01 12:00:00] CR3 = 0x1",
            "(XEN) [2020-01-01 12:00:00.123] CR3 = 0x1",
            "  (XEN) [   64.118203] CR3 = 0x1",
            "CPU(0x01): CR3 = 0x1",
            " qemu-system-x86-4242  [003] d..1.   123.456789: dump_vmcs: CR3 = 0x1",
            " CPU 0/KVM-4242  [003] ....  123.456789: console: [  123.45] kvm_intel: CR3 = 0x1",
        ] {
            assert_eq!(stripped(raw), "CR3 = 0x1", "{raw}");
        }
    }

    #[test]
    fn what_is_no_prefix_stays() {
        for raw in ["[cr0-01] new shadow: 0x1", "[-------] CPL=0", "<rip> = 1", "1] 2", "May be 1 = 2", "[12 apples] 3"]
        {
            assert_eq!(strip(raw, 1).text, raw);
            assert!(!strip(raw, 1).prefixed);
        }
        assert_eq!(stripped("(XEN) >>> Domain 3 <<<"), ">>> Domain 3 <<<");
    }

    #[test]
    fn tokens_split_at_blanks_commas_and_equals_signs() {
        let found: Vec<_> = tokens("CS:   sel=0x0097, RSP = 1").collect();
        let expected = [
            Token::Word("CS:"),
            Token::Word("sel"),
            Token::Equals,
            Token::Word("0x0097"),
            Token::Word("RSP"),
            Token::Equals,
            Token::Word("1"),
        ];
        assert_eq!(found, expected);
    }

    #[test]
    fn numbers_end_where_they_end() {
        assert_eq!(hex("0x0000{2"), Some((0, 4)));
        assert_eq!(hex("80000021)"), Some((0x8000_0021, 8)));
        assert_eq!(hex("0x12345678123456781"), None);
        assert_eq!(hex("usb"), None);
        assert_eq!(hex(""), None);
        assert_eq!(number("8`"), Some(8));
        assert_eq!(number("0x8`"), Some(8));
        assert_eq!(number("8f"), None);
        assert_eq!(number_after("(entry 13).", "entry "), Some(13));
    }
}
