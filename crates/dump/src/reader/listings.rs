//! How are XMHF's statements put together into dumps? One dump for each label, group and CPU.

use super::Reader;
use crate::DumpKind;
use crate::building::{ListKind, quoted};
use crate::lines::Line;
use crate::xmhf::{self, MsrPart, Printed, Statement, Told, Traced};
use vmx_model::Field;

/// Fields that a listing has at least when its first field comes again and begins another listing.
const LISTING_FIELDS: usize = 8;

/// What tells listings apart: group, label and CPU.
pub(super) type ListingKey = (Option<String>, Option<String>, Option<u64>);

/// A listing of XMHF's.
pub(super) struct Listing {
    pub(super) at: usize,
    first: Field,
    /// Lines that hold nothing but a field.
    whole_lines: usize,
    group: Option<String>,
    label: String,
}

/// An entry of an MSR list that waits for its VMCS to be known.
pub(super) struct Loose {
    group: Option<String>,
    label: String,
    of: String,
    list: ListKind,
    index: usize,
    part: MsrPart,
    line: usize,
}

/// Entries of MSR lists, and capability MSRs, that may wait.
const MAX_LOOSE: usize = 4096;

impl<'a> Reader<'a> {
    pub(super) fn xmhf(&mut self, line: &Line<'a>) {
        if let Some(printed) = self.debugger.read(line.text, line.number) {
            match printed {
                Printed::Field(label, named, value) => {
                    let named_field = Statement::Field { label, named, told: Told::Value(value), whole_line: false };
                    self.statement(named_field, line);
                }
                Printed::Expression(label, expression) => {
                    if let Some(at) = self.listing(label, line, None) {
                        let text = format!("the value of the expression \"{}\" is not a field's", quoted(expression));
                        self.dumps[at].note(line.number, text);
                    }
                }
            }
        }
        let before = self.unfinished.take();
        match before {
            Some(start)
                if !line.prefixed
                    && (start.text.is_empty() || start.text.ends_with(['=', ')']) || line.text.starts_with('=')) =>
            {
                let whole = [start.text, " ", line.text].concat();
                xmhf::read(&whole, |statement| self.statement(statement, &start));
            }
            _ => {
                if let Some(start) = before.filter(|start| start.text.ends_with('=')) {
                    if let Some(at) = self.listings.values().map(|open| open.at).max() {
                        let text = format!("\"{}\" has no value", quoted(start.text));
                        self.dumps[at].note(start.number, text);
                    }
                }
                if line.text.contains('=') || line.text.starts_with("[cr0-") {
                    xmhf::read(line.text, |statement| self.statement(statement, line));
                }
            }
        }
        if xmhf::may_continue(line.text) {
            self.unfinished = Some(*line);
        }
    }

    /// The listing with this label, begun if there is none. `first` is the field that begins it.
    fn listing(&mut self, label: Option<&str>, line: &Line<'a>, first: Option<Field>) -> Option<usize> {
        let key = (self.group.map(str::to_owned), label.map(str::to_owned), line.cpu);
        if let (Some(open), Some(first)) = (self.listings.get(&key), first) {
            let building = &self.dumps[open.at];
            if open.first == first
                && building.dump.vmcs.is_known(first)
                && building.dump.vmcs.known_count() >= LISTING_FIELDS
            {
                let open = self.listings.remove(&key)?;
                self.finished_listings.push(open);
            }
        }
        if let Some(open) = self.listings.get(&key) {
            return Some(open.at);
        }
        let first = first?;
        let at = self.start(DumpKind::Xmhf, line.number)?;
        let name: Vec<&str> = self.group.into_iter().chain(label).collect();
        self.dumps[at].dump.label = (!name.is_empty()).then(|| name.join(" "));
        let group = key.0.clone();
        let label = label.unwrap_or("").to_owned();
        self.listings.insert(key, Listing { at, first, whole_lines: 0, group, label });
        Some(at)
    }

    fn statement(&mut self, statement: Statement<'_>, line: &Line<'a>) {
        let number = line.number;
        match statement {
            Statement::Field { label, named, told, whole_line } => {
                let Some(at) = self.listing(label, line, Some(named.field)) else { return };
                self.claim(at);
                let building = &mut self.dumps[at];
                match told {
                    Told::Value(value) if named.high => building.set_high(named.field, value, number),
                    Told::Value(value) => building.set(named.field, value, number),
                    Told::Unavailable => building.extend(number),
                    Told::Unreadable => {
                        building.note(number, format!("the value of {} is not a number", named.field.id()))
                    }
                }
                if whole_line {
                    let key = (self.group.map(str::to_owned), label.map(str::to_owned), line.cpu);
                    if let Some(listing) = self.listings.get_mut(&key) {
                        listing.whole_lines += 1;
                    }
                }
            }
            Statement::BaseLimit { base, limit, values } => {
                let Some(at) = self.listing(None, line, Some(base)) else { return };
                self.claim(at);
                self.dumps[at].set(base, values.0, number);
                self.dumps[at].set(limit, values.1, number);
            }
            Statement::Trace { what, value } => {
                let Some(at) = self.listing(Some(xmhf::OWN_VMCS), line, Some(Field::CR0_GUEST_HOST_MASK)) else {
                    return;
                };
                self.claim(at);
                match what {
                    Traced::Field(field) => self.dumps[at].replace(field, value, number),
                    Traced::Efer => self.dumps[at].dump.facts.guest_visible.efer = Some(value),
                }
            }
            Statement::Msr { label, of, list, index, part } => {
                if self.loose.len() < MAX_LOOSE {
                    let (label, of, group) = (label.to_owned(), of.to_owned(), self.group.map(str::to_owned));
                    self.loose.push(Loose { group, label, of, list, index, part, line: number });
                }
            }
            Statement::Capability { nested, msr, value } => {
                if self.capabilities.len() < MAX_LOOSE {
                    self.capabilities.insert((self.group.map(str::to_owned), nested, msr), value);
                }
            }
            Statement::Unknown { name } => {
                if let Some(at) = self.listings.values().map(|open| open.at).max() {
                    self.dumps[at].note(number, xmhf::unknown_name(name));
                }
            }
            Statement::Disagree { name, encoding } => {
                if let Some(at) = self.listings.values().map(|open| open.at).max() {
                    let name = quoted(name);
                    self.dumps[at].note(
                        number,
                        format!("\"{name}\" is not the field with encoding {encoding:#06x}; the encoding is used"),
                    );
                }
            }
        }
    }

    pub(super) fn settle_listings(&mut self) {
        for loose in std::mem::take(&mut self.loose) {
            let target = self.finished_listings.iter().filter(|listing| listing.group == loose.group).find(|listing| {
                let digits = loose.of.trim_start_matches(|c: char| !c.is_ascii_digit());
                let named = listing.label.ends_with(digits) && !digits.is_empty();
                named && (loose.label == "MSR" || listing.label.starts_with(&loose.label))
            });
            let Some(at) = target.map(|listing| listing.at) else { continue };
            self.dumps[at].list_entry(loose.list, loose.index, loose.line, |entry| match loose.part {
                MsrPart::Index(index) => entry.index = index as u32,
                MsrPart::Reserved(reserved) => entry.reserved = reserved as u32,
                MsrPart::Data(value) => entry.value = value,
                MsrPart::Both(index, value) => (entry.index, entry.value) = (index as u32, value),
            });
        }
        for listing in &self.finished_listings {
            // A hypervisor's guest (VMCS12) sees the capabilities that it is offered; the others run on the processor.
            let nested = listing.label.ends_with("12");
            let building = &mut self.dumps[listing.at];
            for ((group, of_nested, msr), value) in &self.capabilities {
                if *group == listing.group && *of_nested == nested {
                    building.dump.facts.capabilities.push((*msr, *value));
                }
            }
            for list in ListKind::ALL {
                building.settle_list(list, None);
            }
            if listing.whole_lines == 0 && building.dump.vmcs.known_count() < LISTING_FIELDS {
                building.dump.kind = DumpKind::Prose;
            }
            building.event_from_instruction_error();
            building.event_from_reason();
        }
    }

    /// In a debugger session in XMHF's check of a control vector, `val` is the vector, `fixed0` and `fixed1` are the halves of its capability MSR.
    pub(super) fn settle_debugger(&mut self) {
        let [val, fixed0, fixed1] = self.debugger.variables;
        let vectors = self.debugger.named.iter().copied().filter(|&field| xmhf::capability_of(field, 0).is_some());
        let vectors: Vec<Field> = vectors.collect();
        let (&[vector], Some((value, line))) = (vectors.as_slice(), val) else { return };
        let Some(at) = self.start(DumpKind::Prose, line) else { return };
        self.claim(at);
        let building = &mut self.dumps[at];
        building.derive(
            vector,
            value,
            line,
            "the debugger prints \"val\", and this is the only control vector that the text names",
        );
        if let (Some((must, _)), Some((may, _))) = (fixed0, fixed1) {
            if let Some(msr) = xmhf::capability_of(vector, must) {
                building.dump.facts.capabilities.push((msr, may << 32 | must & 0xffff_ffff));
            }
        }
    }
}
