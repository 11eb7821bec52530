//! What does this text say? Reads the VMCS dumps that kernels and hypervisors print, out of a dmesg, a console log or a mail, into partial VMCSs.
//!
//! Should I use this crate? If a VM entry failed and you have a log, `softvirt explain` does all of this and names the broken rule. Use the crate to
//! get at the fields yourself.
//!
//! ```
//! use softvirt_dump::{DumpKind, parse};
//! use vmx_model::Field;
//!
//! let log = "\
//! [ 12.345678] kvm_intel: *** Guest State ***
//! [ 12.345690] kvm_intel: CR0: actual=0x0000000080050033, shadow=0x0000000080050033,
//! gh_mask=fffffffffffefff7
//! [ 12.345702] kvm_intel: CR3 = 0x0000000004452000
//! ";
//! let dumps = parse(log)?;
//! assert_eq!(dumps[0].kind, DumpKind::Kvm);
//! assert_eq!(dumps[0].vmcs.try_get(Field::GUEST_CR3), Some(0x0445_2000));
//! assert_eq!(dumps[0].vmcs.try_get(Field::CR0_GUEST_HOST_MASK), Some(0xffff_ffff_fffe_fff7));
//! assert_eq!(dumps[0].vmcs.try_get(Field::GUEST_CR4), None); // unknown, not 0
//! # Ok::<(), softvirt_dump::ParseError>(())
//! ```
//!
//! What is read: KVM (4.3 on) and Xen (3.0.3 on) VMCS dumps with the failure messages around them, XMHF's listings, QEMU's register dump, fields in JSON
//! and TOML, single values in running text. KVM's VMCB dumps are recognised and not read. Line prefixes, quote marks and line wraps do not matter; lines
//! that begin with `#` are comments.
//!
//! Any bytes give a report or an error. Time and memory grow with the length of the text: at most [`MAX_DUMPS`] dumps, 200 notes on each and 4096 entries
//! of an MSR list are kept, and what is left out is noted.
//!
//! | module | answers |
//! |---|---|
//! | `lines` | What did the program print, without what carried it here? |
//! | `reader` | Which line belongs to which dump? |
//! | `sections`, `names`, `kvm`, `xen` | How are KVM's and Xen's dumps read? |
//! | `xmhf`, `qemu`, `structured` | How are the others? |
//! | `building`, `event` | What is a dump made of? |
//! | [`mod@write`] | How does a VMCS look in each format? (for tests) |

#![forbid(unsafe_code)]
#![deny(missing_docs)]

mod building;
mod event;
mod kvm;
mod lines;
mod names;
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
    /// No text: the entry of a processor that runs under our eyes.
    Running,
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
            Self::Running => "a running processor",
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
