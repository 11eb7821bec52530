//! Which line belongs to which dump? Goes through the text once, hands each line to the reader whose format it is, and puts the dumps together.

mod listings;

use crate::building::Building;
use crate::event::{Happened, LogEvent, recognise};
use crate::lines::{Line, lines};
use crate::qemu::Registers;
use crate::sections::{Section, Sections};
use crate::xmhf::Debugger;
use crate::{Dump, DumpKind, MAX_DUMPS, ParseError, kvm, qemu, xen, xmhf};
use listings::{Listing, ListingKey, Loose};
use std::collections::BTreeMap;
use vmx_model::Field;

/// Lines without a value after which a dump of sections counts as over.
const QUIET_LINES: usize = 60;

/// A dump that KVM or Xen prints.
struct Sectioned<'a> {
    at: usize,
    sections: Sections<'a>,
    last_value_line: usize,
}

struct Reader<'a> {
    dumps: Vec<Building>,
    sectioned: BTreeMap<Option<u64>, Sectioned<'a>>,
    registers: Option<(usize, Registers<'a>)>,
    svm: Option<usize>,
    listings: BTreeMap<ListingKey, Listing>,
    finished_listings: Vec<Listing>,
    group: Option<&'a str>,
    loose: Vec<Loose>,
    capabilities: BTreeMap<(Option<String>, bool, u32), u64>,
    debugger: Debugger<'a>,
    /// A statement that may go on in the next line.
    unfinished: Option<Line<'a>>,
    /// Events of which the dump is not known yet, and whether Xen printed them.
    pending: Vec<(LogEvent, bool)>,
    vcpu: Option<String>,
    domain: Option<String>,
    /// What may be the first part of a header.
    header_start: Option<Line<'a>>,
    /// A dump's header that no value followed.
    bare_header: Option<usize>,
    full: bool,
    last_line: usize,
}

/// Reads the dumps of a log.
pub(crate) fn read(text: &str) -> Result<Vec<Dump>, ParseError> {
    let mut reader = Reader {
        dumps: Vec::new(),
        sectioned: BTreeMap::new(),
        registers: None,
        svm: None,
        listings: BTreeMap::new(),
        finished_listings: Vec::new(),
        group: None,
        loose: Vec::new(),
        capabilities: BTreeMap::new(),
        debugger: Debugger::default(),
        unfinished: None,
        pending: Vec::new(),
        vcpu: None,
        domain: None,
        header_start: None,
        bare_header: None,
        full: false,
        last_line: 1,
    };
    for line in lines(text) {
        if !line.text.is_empty() {
            reader.last_line = line.number;
        }
        // Lines that begin with a number sign are comments, as in softvirt's own test data.
        if !line.text.starts_with('#') {
            reader.line(&line);
        }
    }
    reader.finish()
}

impl<'a> Reader<'a> {
    fn start(&mut self, kind: DumpKind, line: usize) -> Option<usize> {
        if self.dumps.len() >= MAX_DUMPS {
            self.full = true;
            return None;
        }
        self.dumps.push(Building::new(kind, line));
        Some(self.dumps.len() - 1)
    }

    /// Events that the log told before this dump's values belong to it.
    fn claim(&mut self, at: usize) {
        for (event, _) in self.pending.drain(..) {
            let building = &mut self.dumps[at];
            building.extend(event.line);
            building.dump.events.push(event);
        }
    }

    fn line(&mut self, line: &Line<'a>) {
        if line.text.is_empty() {
            if line.cpu.is_some() {
                self.unfinished = Some(*line);
            }
            return;
        }
        if let Some(what) = recognise(line.text) {
            self.event(line, what);
            return;
        }
        if self.msr_of_failure(line) || self.header(line.text, line) {
            self.header_start = None;
            return;
        }
        if self.broken_header(line) || self.svm(line) || self.qemu(line) {
            return;
        }
        self.xmhf(line);
        self.sections(line);
    }

    fn event(&mut self, line: &Line<'a>, what: Happened) {
        if let Some(vcpu) = xen::vcpu(line.text) {
            self.vcpu = Some(vcpu.to_owned());
        }
        // QEMU reports the failure before it prints registers.
        self.registers_end();
        if self.pending.len() < crate::building::MAX_NOTES {
            self.pending.push((LogEvent { line: line.number, what }, line.xen));
        }
    }

    /// "  msr 00000681 val 1fff900000204c80 (mbz 0)" after Xen's "MSR loading (entry 2)".
    fn msr_of_failure(&mut self, line: &Line<'a>) -> bool {
        let Some((msr, value)) = xen::msr_entry(line.text) else { return false };
        let entry = match self.pending.last() {
            Some((LogEvent { what: Happened::EntryFailed { qualification, .. }, .. }, _)) => {
                qualification.and_then(|q| u32::try_from(q).ok())
            }
            _ => return false,
        };
        let what = Happened::MsrLoadFailed { entry, msr: Some(msr), value: Some(value) };
        self.pending.push((LogEvent { line: line.number, what }, line.xen));
        true
    }

    /// A header that a mailer broke off: "*** Guest", "State ***".
    fn broken_header(&mut self, line: &Line<'a>) -> bool {
        let start = self.header_start.take();
        if let (Some(start), false) = (start, line.prefixed) {
            let whole = [start.text, " ", line.text].concat();
            if self.header(&whole, &start) {
                return true;
            }
        }
        let starts =
            ["***", "*** Guest", "*** Guest State", "*** Host", "*** Host State", "*** Control", "*** Control State"];
        let pointer = line.text.starts_with("VMCS ") && line.text.contains(',');
        if starts.contains(&line.text) || pointer {
            self.header_start = Some(*line);
        }
        false
    }

    /// Lines around and between the sections of KVM's and Xen's dumps.
    fn header(&mut self, text: &str, line: &Line<'a>) -> bool {
        if let Some(section) = kvm::section(text) {
            self.registers_end();
            let begins = section == Section::Guest
                && self.sectioned.get(&line.caller).is_some_and(|open| open.sections.past_guest);
            if begins {
                self.sectioned_end(line.caller);
            }
            let Some(open) = self.sectioned_start(line) else { return true };
            open.sections.enter(section);
            let at = open.at;
            open.last_value_line = line.number;
            self.dumps[at].extend(line.number);
            self.bare_header = Some(line.number);
            return true;
        }
        if let Some((pointer, value)) = kvm::header(text) {
            self.sectioned_end(line.caller);
            let label = format!("VMCS {pointer}");
            let Some(open) = self.sectioned_start(line) else { return true };
            open.sections.vote(DumpKind::Kvm);
            let at = open.at;
            self.dumps[at].dump.label = Some(label);
            self.dumps[at].dump.facts.vmcs_pointer = value;
            self.bare_header = Some(line.number);
            return true;
        }
        if xen::begins_dump(text) {
            self.sectioned_end(line.caller);
            self.bare_header = Some(line.number);
            return true;
        }
        if let Some(domain) = xen::domain(text) {
            self.sectioned_end(line.caller);
            self.domain = Some(domain.to_owned());
            return true;
        }
        if let Some(vcpu) = xen::vcpu_line(text) {
            self.sectioned_end(line.caller);
            self.vcpu = Some(match &self.domain {
                Some(domain) => format!("d{domain}v{vcpu}"),
                None => format!("v{vcpu}"),
            });
            return true;
        }
        if let Some(group) = xmhf::group(line.text) {
            self.group = group;
            return true;
        }
        false
    }

    fn sectioned_start(&mut self, line: &Line<'a>) -> Option<&mut Sectioned<'a>> {
        if !self.sectioned.contains_key(&line.caller) {
            let at = self.start(DumpKind::Kvm, line.number)?;
            self.dumps[at].dump.label = self.vcpu.take();
            let mut sections = Sections::new();
            if line.xen || self.pending.iter().any(|(_, xen)| *xen) {
                sections.vote(DumpKind::Xen);
            }
            self.sectioned.insert(line.caller, Sectioned { at, sections, last_value_line: line.number });
            self.claim(at);
        }
        self.sectioned.get_mut(&line.caller)
    }

    fn sectioned_end(&mut self, caller: Option<u64>) {
        if let Some(mut open) = self.sectioned.remove(&caller) {
            open.sections.finish(&mut self.dumps[open.at]);
        }
    }

    fn sections(&mut self, line: &Line<'a>) {
        let caller = if self.sectioned.contains_key(&line.caller) {
            line.caller
        } else if line.caller.is_none() && self.sectioned.len() == 1 {
            // A line that was broken off has no caller of its own.
            *self.sectioned.keys().next().unwrap_or(&None)
        } else {
            line.caller
        };
        if let Some(open) = self.sectioned.get_mut(&caller) {
            if line.number - open.last_value_line > QUIET_LINES {
                self.sectioned_end(caller);
            } else {
                let at = open.at;
                let found = if line.xen && xen::listing(line, &mut self.dumps[at]) {
                    1
                } else {
                    open.sections.read(line, &mut self.dumps[at])
                };
                if found > 0 {
                    open.last_value_line = line.number;
                    self.bare_header = None;
                    self.claim(at);
                }
                return;
            }
        }
        // The text may begin in the middle of a dump.
        let after_failure = self.pending.iter().any(|(_, xen)| *xen == line.xen && line.xen);
        let mut probe = Building::new(DumpKind::Xen, line.number);
        let listing = line.xen && xen::listing(line, &mut probe);
        if !(listing || (line.text.contains('=') && (after_failure || speaks_of_a_vmcs(line.text)))) {
            return;
        }
        let found = listing || Sections::new().read(line, &mut probe) > 0;
        if found && self.sectioned_start(line).is_some() {
            self.sections(line);
        }
    }

    fn svm(&mut self, line: &Line<'a>) -> bool {
        let text = line.text;
        let begins = text.contains("VMCB Control Area")
            || text.contains("VMCB State Save Area")
            || text.contains("last attempted VMRUN");
        if begins {
            if self.svm.is_none() || text.contains("last attempted VMRUN") {
                self.svm = self.start(DumpKind::Svm, line.number);
                if let Some(at) = self.svm {
                    self.dumps[at].note(line.number, "a VMCB: this is AMD's SVM; there is no VMCS in it");
                    self.claim(at);
                }
            }
            self.registers_end();
        }
        let Some(at) = self.svm else { return false };
        let field = text.split_once(':').is_some_and(|(name, _)| {
            name.len() < 28
                && !name.is_empty()
                && name.chars().all(|c| c.is_ascii_alphanumeric() || c == '_' || c == ' ')
        });
        let broken_off = !line.prefixed && text.split_whitespace().all(|word| crate::lines::hex(word).is_some());
        if begins || (field && !text.contains('=')) || broken_off {
            self.dumps[at].extend(line.number);
            true
        } else {
            self.svm = None;
            false
        }
    }

    fn qemu(&mut self, line: &Line<'a>) -> bool {
        if qemu::begins(line.text) {
            self.registers_end();
            let Some(at) = self.start(DumpKind::Qemu, line.number) else { return true };
            self.registers = Some((at, Registers::new(line)));
            self.claim(at);
        }
        let Some((at, registers)) = self.registers.as_mut() else { return false };
        let at = *at;
        if registers.read(line, &mut self.dumps[at]) {
            return true;
        }
        self.registers_end();
        false
    }

    fn registers_end(&mut self) {
        if let Some((at, mut registers)) = self.registers.take() {
            registers.finish(&mut self.dumps[at]);
        }
    }

    fn finish(mut self) -> Result<Vec<Dump>, ParseError> {
        for caller in self.sectioned.keys().copied().collect::<Vec<_>>() {
            self.sectioned_end(caller);
        }
        self.registers_end();
        let listings = std::mem::take(&mut self.listings);
        self.finished_listings.extend(listings.into_values());
        self.settle_listings();
        self.settle_debugger();
        self.settle_pending();
        self.settle_hardware_error();
        let mut dumps: Vec<Dump> =
            self.dumps.into_iter().filter(|building| !building.is_empty()).map(|building| building.dump).collect();
        dumps.sort_by_key(|dump| dump.first_line);
        if self.full {
            if let Some(last) = dumps.last_mut() {
                let text = format!("the text has more than {MAX_DUMPS} dumps; the rest is not read");
                last.notes.push(crate::Note { line: last.last_line, text });
            }
        }
        if !dumps.is_empty() {
            return Ok(dumps);
        }
        Err(match self.bare_header {
            Some(line) => ParseError {
                line,
                last_line: self.last_line,
                expected: "a dump begins here, but no \"name = value\" line of it follows".to_owned(),
            },
            None => ParseError {
                line: 1,
                last_line: self.last_line,
                expected: "no line that a VMCS dump has, such as \"*** Guest State ***\" (KVM, Xen), \"guest_CR0=0x..\" (XMHF), \
                           \"EAX=.. EBX=..\" (QEMU), nor JSON or TOML with field names"
                    .to_owned(),
            },
        })
    }

    /// Events that no values followed belong to the last dump, or are all that the text has.
    fn settle_pending(&mut self) {
        if self.pending.is_empty() {
            return;
        }
        let last = self.dumps.iter().rposition(|building| !building.is_empty());
        let at = match last {
            Some(at) => at,
            None => {
                let xen = self.pending.iter().all(|(_, xen)| *xen);
                let line = self.pending[0].0.line;
                let Some(at) = self.start(if xen { DumpKind::Xen } else { DumpKind::Prose }, line) else { return };
                self.dumps[at].dump.label = self.vcpu.take();
                at
            }
        };
        self.claim(at);
    }

    /// QEMU tells which error KVM met; KVM's own dump does not. After VMfailValid its exit reason is an earlier exit's.
    fn settle_hardware_error(&mut self) {
        let told: Vec<LogEvent> = (self.dumps.iter())
            .filter(|building| building.dump.kind == DumpKind::Qemu)
            .flat_map(|building| &building.dump.events)
            .filter(|event| matches!(event.what, Happened::VmInstructionError { .. }))
            .cloned()
            .collect();
        let mut kvm = self.dumps.iter_mut().filter(|building| building.dump.kind == DumpKind::Kvm);
        let ([event], Some(building), None) = (told.as_slice(), kvm.next(), kvm.next()) else { return };
        let earlier = |event: &LogEvent| matches!(event.what, Happened::OrdinaryExit { .. });
        if building.dump.events.iter().any(earlier) {
            building.dump.events.retain(|event| !earlier(event));
            building.dump.events.push(event.clone());
            let line = building.line_of(Field::EXIT_REASON);
            building.note(line, "QEMU reports VMfailValid, so this exit reason is an earlier exit's");
        }
    }
}

/// Does a line have a word that only VMCS dumps have?
fn speaks_of_a_vmcs(text: &str) -> bool {
    const WORDS: [&str; 16] = [
        "gh_mask=",
        "DebugExceptions",
        "Interruptibility",
        "ActivityState",
        "EntryControls=",
        "ExitControls=",
        "PinBased=",
        "CPUBased=",
        "SecondaryExec=",
        "TRBase=",
        "GDTBase=",
        "intr_info=",
        "IDTVectoring:",
        "PFECmask=",
        "PLE Gap=",
        "attr=0x",
    ];
    WORDS.iter().any(|word| text.contains(word))
}
