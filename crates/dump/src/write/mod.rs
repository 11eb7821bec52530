//! How does a VMCS look in each format? Prints states as KVM, Xen, XMHF and QEMU do, with the prefixes and line breaks that logs and mails add.
//!
//! This is test support: for round trips (print, parse, equal) and for the dumps in `testdata/dumps`. An unknown field is printed as 0.

mod carrier;
mod kvm;
mod qemu;
mod sample;
mod structured;
mod xen;
mod xmhf;

pub use carrier::{Carrier, Prefix, Quote};
pub use kvm::{KvmGeneration, kvm};
pub use qemu::{QemuWidth, qemu};
pub use sample::{guest_hlt, linux_guest, real_mode_guest, svm_stub};
pub use structured::{Keys, json, toml};
pub use xen::{XenGeneration, xen};
pub use xmhf::{XmhfForm, xmhf};

use vmx_model::{Field, Vmcs};

/// A text as the program prints it, and the fields that it tells.
#[derive(Clone, Debug, PartialEq, Eq, Default)]
pub struct Text {
    /// The lines. A line printed in several pieces (`pr_cont`) is so here too, because ftrace makes a line of each.
    pub lines: Vec<Vec<String>>,
    /// The fields whose values the text tells.
    pub fields: Vec<Field>,
}

impl Text {
    fn line(&mut self, text: impl Into<String>) {
        self.lines.push(vec![text.into()]);
    }

    /// Adds a piece to the last line.
    fn and(&mut self, text: impl Into<String>) {
        match self.lines.last_mut() {
            Some(line) => line.push(text.into()),
            None => self.line(text),
        }
    }

    /// Puts lines before the text.
    #[must_use]
    pub fn after(mut self, lines: &[&str]) -> Self {
        self.lines.splice(0..0, lines.iter().map(|line| vec![(*line).to_owned()]));
        self
    }

    /// Appends another text.
    #[must_use]
    pub fn then(mut self, other: Self) -> Self {
        self.lines.extend(other.lines);
        self.fields.extend(other.fields);
        self
    }

    /// Ends the text after this many lines.
    #[must_use]
    pub fn cut(mut self, lines: usize) -> Self {
        self.lines.truncate(lines);
        self
    }
}

/// Reads fields and remembers which.
struct Reading<'a> {
    vmcs: &'a Vmcs,
    text: Text,
}

impl<'a> Reading<'a> {
    fn new(vmcs: &'a Vmcs) -> Self {
        Self { vmcs, text: Text::default() }
    }

    /// The field's value, to be printed.
    fn get(&mut self, field: Field) -> u64 {
        self.text.fields.push(field);
        self.vmcs.get(field)
    }

    /// Does the field, which decides what is printed, have one of these bits?
    fn has(&self, field: Field, bits: u64) -> bool {
        self.vmcs.get(field) & bits != 0
    }

    fn line(&mut self, text: impl Into<String>) {
        self.text.line(text);
    }
}
