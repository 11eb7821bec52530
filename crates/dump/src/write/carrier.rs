//! What do logs and mails do to a text? Prefixes, quote marks, line breaks.

use super::Text;
use std::fmt::Write as _;

/// What a log puts before each line.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Prefix {
    /// Nothing.
    None,
    /// `[ 5120.204817] `
    Dmesg,
    /// `[ 5120.204817][ T1234] `
    DmesgCaller,
    /// `[ 5120.204817] kvm_intel: `
    KvmIntel,
    /// `(XEN) `
    Xen,
    /// `(XEN) [2024-02-01 10:20:30] `
    XenDate,
    /// `(XEN) [   64.118203] `
    XenSeconds,
    /// `Feb  1 10:20:30 host kernel: [ 5120.204817] kvm_intel: `
    Syslog,
    /// `2024-02-01T10:20:30.123456+00:00 host kernel: `
    Journal,
    /// `     qemu-kvm-4321    [003] d..1.  5120.204817: dump_vmcs: `, and each piece of a line on its own.
    Ftrace,
    /// `[…] `, as people shorten timestamps.
    Ellipsis,
}

impl Prefix {
    /// All prefixes.
    pub const ALL: [Self; 11] = [
        Self::None,
        Self::Dmesg,
        Self::DmesgCaller,
        Self::KvmIntel,
        Self::Xen,
        Self::XenDate,
        Self::XenSeconds,
        Self::Syslog,
        Self::Journal,
        Self::Ftrace,
        Self::Ellipsis,
    ];

    /// The prefix of the `n`th line.
    fn of_line(self, n: usize) -> String {
        let micros = 204_817 + n % 1000 * 7;
        let second = n / 1000 % 60;
        match self {
            Self::None => String::new(),
            Self::Dmesg => format!("[ 5120.{micros:06}] "),
            Self::DmesgCaller => format!("[ 5120.{micros:06}][ T1234] "),
            Self::KvmIntel => format!("[ 5120.{micros:06}] kvm_intel: "),
            Self::Xen => "(XEN) ".to_owned(),
            Self::XenDate => format!("(XEN) [2024-02-01 10:20:{second:02}] "),
            Self::XenSeconds => format!("(XEN) [   64.{micros:06}] "),
            Self::Syslog => format!("Feb  1 10:20:{second:02} host kernel: [ 5120.{micros:06}] kvm_intel: "),
            Self::Journal => format!("2024-02-01T10:20:{second:02}.{micros:06}+00:00 host kernel: "),
            Self::Ftrace => format!("        qemu-kvm-4321    [003] d..1.  5120.{micros:06}: dump_vmcs: "),
            Self::Ellipsis => "[…] ".to_owned(),
        }
    }
}

/// How a mail quotes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Quote {
    /// Not at all.
    None,
    /// Lines are wrapped, then each gets "> ".
    Wrapped,
    /// Lines get "> " and are then wrapped: what was broken off has no mark.
    First,
}

/// What happens to a text on its way.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Carrier {
    /// What a log puts before each line.
    pub prefix: Prefix,
    /// Lines longer than this many characters are broken at the last blank before.
    pub wrap: Option<usize>,
    /// Quote marks.
    pub quote: Quote,
}

impl Carrier {
    /// The text as it is.
    pub const PLAIN: Self = Self { prefix: Prefix::None, wrap: None, quote: Quote::None };

    /// Carries the text.
    #[must_use]
    pub fn carry(self, text: &Text) -> String {
        let mut lines: Vec<String> = Vec::new();
        for pieces in &text.lines {
            if self.prefix == Prefix::Ftrace {
                lines.extend(pieces.iter().map(|piece| piece.trim_end().to_owned()));
            } else {
                lines.push(pieces.concat());
            }
        }
        let mut out = String::new();
        for (n, line) in lines.iter().enumerate() {
            let mark = |quoted: Quote| if self.quote == quoted { "> " } else { "" };
            let whole = format!("{}{}{line}", mark(Quote::First), self.prefix.of_line(n));
            for part in wrapped(&whole, self.wrap) {
                // Writing to a string does not fail.
                let _ = writeln!(out, "{}{part}", mark(Quote::Wrapped));
            }
        }
        out
    }
}

/// The parts of a line broken at blanks, each but the last with its blank at the end, as "format=flowed" has it.
fn wrapped(line: &str, columns: Option<usize>) -> Vec<&str> {
    let Some(columns) = columns else { return vec![line] };
    let mut parts = Vec::new();
    let mut rest = line;
    while rest.chars().count() > columns {
        let limit = rest.char_indices().nth(columns).map_or(rest.len(), |(at, _)| at);
        let indent = rest.len() - rest.trim_start().len();
        let blank =
            rest[..limit].rfind(' ').filter(|at| *at > indent).or_else(|| rest[limit..].find(' ').map(|at| at + limit));
        let Some(blank) = blank else { break };
        parts.push(&rest[..=blank]);
        rest = &rest[blank + 1..];
    }
    parts.push(rest);
    parts
}
