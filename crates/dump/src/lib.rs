//! What does this text say?
#![forbid(unsafe_code)]
#![deny(missing_docs)]

mod building;
mod event;
mod kvm;
mod lines;
mod qemu;
mod reader;
mod sections;
mod structured;
pub mod write;
mod xen;
mod xmhf;

pub use event::{Derived, Facts, GuestVisible, Happened, LogEvent, MsrEntry, MsrLists, Note, VmInstruction};

use core::fmt;
use vmx_model::Vmcs;

/// Whose dump it is.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub enum DumpKind {
    /// KVM's `dump_vmcs`.
    Kvm,
    /// Xen's `vmcs_dump_vcpu`.
    Xen,
    /// XMHF's field listings.
    Xmhf,
    /// QEMU's register dump: what QEMU holds for the guest, not the VMCS.
    Qemu,
    /// KVM's VMCB dump: SVM, so no VMCS.
    Svm,
    /// `name or encoding = value` in JSON.
    Json,
    /// `name or encoding = value` in TOML.
    Toml,
    /// Single values and failure messages in running text, such as a bug report.
    Prose,
}

impl fmt::Display for DumpKind {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Kvm => "KVM VMCS dump",
            Self::Xen => "Xen VMCS dump",
            Self::Xmhf => "XMHF field listing",
            Self::Qemu => "QEMU register dump",
            Self::Svm => "SVM dump; not a VMCS",
            Self::Json => "JSON field list",
            Self::Toml => "TOML field list",
            Self::Prose => "log lines and single values",
        })
    }
}

/// One dump: a partial VMCS and what else the text tells.
#[derive(Clone, Debug, PartialEq)]
pub struct Dump {
    /// Whose dump it is.
    pub kind: DumpKind,
    /// What the text calls this VMCS, such as "after02", or whose it is, such as "d2v0".
    pub label: Option<String>,
    /// First line of the text that belongs to the dump, counted from 1.
    pub first_line: usize,
    /// Last line of the text that belongs to the dump.
    pub last_line: usize,
    /// The fields that the text tells; all others are unknown.
    pub vmcs: Vmcs,
    /// What the log says happened, in the order of the text.
    pub events: Vec<LogEvent>,
    /// What the text tells that is not a VMCS field.
    pub facts: Facts,
    /// What could not be read, and contradictions.
    pub notes: Vec<Note>,
}

/// Why a text could not be read.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ParseError {
    /// The line of the text, counted from 1.
    pub line: usize,
    /// The last line that the error is about; the same as `line` if it is about one line.
    pub last_line: usize,
    /// What was found or expected there.
    pub expected: String,
}

impl fmt::Display for ParseError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if self.last_line > self.line {
            write!(f, "lines {}-{}: {}", self.line, self.last_line, self.expected)
        } else {
            write!(f, "line {}: {}", self.line, self.expected)
        }
    }
}

impl std::error::Error for ParseError {}

/// Dumps of one text that are read; the rest is left out, and a note says so.
pub const MAX_DUMPS: usize = 1000;

/// Reads every dump in `text`: a dmesg, a mail, a console log, a JSON or TOML file. Bytes that are not UTF-8 are replaced.
///
/// # Errors
/// If the text has nothing that a dump has, or is JSON or TOML with a mistake in it.
pub fn parse(text: impl AsRef<[u8]>) -> Result<Vec<Dump>, ParseError> {
    let text = String::from_utf8_lossy(text.as_ref());
    if text.trim().is_empty() {
        return Err(ParseError { line: 1, last_line: 1, expected: "the text is empty".to_owned() });
    }
    match structured::json(&text) {
        Some(Ok(dumps)) => return Ok(dumps),
        // A console log may begin with a brace.
        Some(Err(error)) => return reader::read(&text).map_err(|_| error),
        None => {}
    }
    structured::toml(&text).unwrap_or_else(|| reader::read(&text))
}
