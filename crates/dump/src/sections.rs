//! How is a dump read that KVM or Xen printed? Both print "name = value" in three sections, guest, host and control state, in nearly
//! the same words; `kvm.rs` and `xen.rs` say which.
//!
//! The text is read as a stream of words: a name is looked up when its equals sign comes, as the last words before it, and the next word
//! is the value, wherever the line ends. So it does not matter where a mailer wrapped the lines, nor what a log put before them.

use crate::building::{Building, ListKind, quoted};
use crate::lines::{Line, Token, hex, tokens};
use crate::{DumpKind, kvm, names, xen};
use vmx_model::Field;
use x86_state::SegmentRegister;

/// The part of the dump that a line stands in.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Section {
    /// No header yet: the text begins in the middle of a dump.
    Unknown,
    Guest,
    Host,
    Control,
}

/// What a name without a section of its own belongs to: the line that it continues.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Subject {
    None,
    Cr0,
    Cr3,
    Cr4,
    Segment(SegmentRegister),
    Gdtr,
    Idtr,
    VmEntry,
    VmExit,
    IdtVectoring,
    SpecCtrl,
    FredGuest,
    FredHost,
    Msrs(ListKind),
    /// A line whose values are not VMCS fields.
    Foreign,
}

/// What a name's value is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Take {
    /// A field.
    Field(Field),
    /// A selector and an address, with a colon between.
    CsRip(Field, Field),
    /// Two bytes of the guest interrupt status, with a bar between.
    SviRvi,
    /// Guest IA32_EFER: the field, unless "(effective)" or "(autoload)" follows.
    Efer,
    /// Guest IA32_EFER in the MSR list.
    AutoloadEfer,
    /// CR3-target count, in decimal.
    TargetCount,
    /// CR3-target value.
    Target(Field),
    /// Parts of a segment register, of [`Subject::Segment`], GDTR or IDTR.
    Selector,
    Rights,
    Limit,
    Base,
    /// Parts of an MSR list's entry.
    MsrIndex,
    MsrValue,
    /// Known, and no VMCS field.
    Nothing,
}

/// A name that the programs print.
pub(crate) struct Key {
    pub(crate) section: Section,
    /// The line that the name must continue; [`Subject::None`]: any.
    pub(crate) subject: Subject,
    /// The name's words.
    pub(crate) name: &'static str,
    pub(crate) take: Take,
    /// Digits that the value is printed with at least.
    pub(crate) digits: usize,
    /// Whose it is, if only one of the programs prints it.
    pub(crate) only: Option<DumpKind>,
}

const fn key(section: Section, subject: Subject, name: &'static str, take: Take, digits: usize) -> Key {
    Key { section, subject, name, take, digits, only: None }
}

/// A row of a table of names.
pub(crate) const fn row(section: Section, name: &'static str, field: Field, digits: usize) -> Key {
    key(section, Subject::None, name, Take::Field(field), digits)
}

/// A row for a name that continues a line.
pub(crate) const fn part(section: Section, subject: Subject, name: &'static str, field: Field, digits: usize) -> Key {
    key(section, subject, name, Take::Field(field), digits)
}

/// A row with a value of its own kind.
pub(crate) const fn special(section: Section, subject: Subject, name: &'static str, take: Take, digits: usize) -> Key {
    key(section, subject, name, take, digits)
}

impl Key {
    /// Only this program prints it.
    pub(crate) const fn by(mut self, kind: DumpKind) -> Self {
        self.only = Some(kind);
        self
    }

    /// Are these the last words before the equals sign (newest last)?
    fn ends(&self, recent: &[&str]) -> bool {
        let mut words = recent.iter().rev();
        self.name.rsplit(' ').all(|part| words.next().is_some_and(|word| *word == part))
    }
}

fn keys() -> impl Iterator<Item = &'static Key> {
    names::COMMON.iter().chain(kvm::KEYS.iter()).chain(xen::KEYS.iter())
}

/// Words of a name that are remembered.
const RECENT: usize = 3;

/// A value that the next word gives.
#[derive(Clone, Copy, Debug)]
struct Awaiting<'a> {
    take: Option<Take>,
    /// The name; of a name that is not known, its last words.
    name: [&'a str; RECENT],
    digits: usize,
    line: usize,
}

impl Awaiting<'_> {
    fn name(&self) -> String {
        quoted(self.name.join(" ").trim())
    }
}

/// Reads the lines of one dump.
pub(crate) struct Sections<'a> {
    section: Section,
    subject: Subject,
    recent: [&'a str; RECENT],
    awaiting: Option<Awaiting<'a>>,
    /// A value whose last digits may be on the next line.
    broken: Option<(Awaiting<'a>, &'a str)>,
    /// IA32_EFER before the value that was read last, while the next word can say what that was.
    efer: Option<(Option<u64>, u64)>,
    /// Position in a row of Xen's segment table.
    column: usize,
    entry: usize,
    kvm: usize,
    xen: usize,
    /// Xen before 4.5.
    old_xen: bool,
    /// The exit qualification was printed with 8 digits.
    short_qualification: bool,
    values: usize,
    /// A section that ended: a guest-state header after it begins another dump.
    pub(crate) past_guest: bool,
}

impl<'a> Sections<'a> {
    pub(crate) fn new() -> Self {
        Self {
            section: Section::Unknown,
            subject: Subject::None,
            recent: [""; RECENT],
            awaiting: None,
            broken: None,
            efer: None,
            column: 0,
            entry: 0,
            kvm: 0,
            xen: 0,
            old_xen: false,
            short_qualification: false,
            values: 0,
            past_guest: false,
        }
    }

    pub(crate) fn enter(&mut self, section: Section) {
        self.section = section;
        self.subject = Subject::None;
        self.awaiting = None;
        self.past_guest = true;
    }

    pub(crate) fn vote(&mut self, kind: DumpKind) {
        match kind {
            DumpKind::Xen => self.xen += 1,
            _ => self.kvm += 1,
        }
    }

    /// Reads a line; returns how many values it gave.
    pub(crate) fn read(&mut self, line: &Line<'a>, building: &mut Building) -> usize {
        let before = self.values;
        if line.xen {
            self.vote(DumpKind::Xen);
        }
        if line.prefixed {
            if let Some(awaiting) = self.awaiting.take() {
                building.note(awaiting.line, format!("the value of \"{}\" is missing", awaiting.name()));
            }
            self.flush(building);
        }
        let mut words = tokens(line.text).peekable();
        let mut first = true;
        while let Some(token) = words.next() {
            match token {
                Token::Equals => self.equals(line.number),
                Token::Word(word) => self.word(word, first, words.peek().is_none(), line.number, building),
            }
            first = false;
        }
        self.values - before
    }

    /// A name ends: which is it?
    fn equals(&mut self, line: usize) {
        if self.awaiting.is_some() {
            return;
        }
        let found = self.find();
        if let Some(key) = found {
            if let Some(kind) = key.only {
                self.vote(kind);
            }
            if self.section == Section::Unknown {
                self.section = key.section;
            }
            if key.subject == Subject::None
                && !matches!(key.take, Take::Selector | Take::Rights | Take::Limit | Take::Base)
            {
                self.subject = if key.name == "SPEC_CTRL mask" { Subject::SpecCtrl } else { Subject::None };
            }
        }
        self.awaiting = Some(match found {
            Some(key) => Awaiting { take: Some(key.take), name: [key.name, "", ""], digits: key.digits, line },
            None => Awaiting { take: None, name: self.recent, digits: 0, line },
        });
        self.recent = [""; RECENT];
    }

    fn find(&self) -> Option<&'static Key> {
        let fits = |key: &Key| {
            key.ends(&self.recent)
                && (key.section == self.section || self.section == Section::Unknown)
                && (key.subject == Subject::None || key.subject == self.subject)
        };
        let mut best: Option<&'static Key> = None;
        let mut sections = 0u32;
        for key in keys().filter(|key| fits(key)) {
            sections |= 1 << key.section as u32;
            let rank = |key: &Key| (key.subject != Subject::None, key.name.len());
            if best.is_none_or(|best| rank(key) > rank(best)) {
                best = Some(key);
            }
        }
        // Without a section header, "RSP" may be the guest's or the host's.
        if self.section == Section::Unknown && sections.count_ones() > 1 { None } else { best }
    }

    fn word(&mut self, word: &'a str, first: bool, last: bool, line: usize, building: &mut Building) {
        if let Some((awaiting, start)) = self.broken.take() {
            let whole = [start, word].concat();
            match hex(&whole) {
                Some((_, digits))
                    if first
                        && digits == awaiting.digits
                        && word.len() == awaiting.digits - hex(start).map_or(0, |s| s.1) =>
                {
                    self.value(awaiting, &whole, awaiting.line, building);
                    return;
                }
                _ => self.value(awaiting, start, awaiting.line, building),
            }
        }
        if let Some(awaiting) = self.awaiting.take() {
            let short = hex(word).is_some_and(|(_, digits)| digits < awaiting.digits)
                && word.bytes().all(|b| b.is_ascii_alphanumeric());
            if last && short && matches!(awaiting.take, Some(Take::Field(_) | Take::Base)) {
                self.broken = Some((awaiting, word));
            } else {
                self.value(awaiting, word, line, building);
            }
            return;
        }
        if let Some((before, value)) = self.efer.take() {
            self.qualify_efer(word, before, value, building);
        }
        if let Some(subject) = self.subject_of(word) {
            self.subject = subject;
            self.column = 0;
        } else {
            self.table_word(word, line, building);
        }
        self.recent.rotate_left(1);
        self.recent[RECENT - 1] = word;
    }

    /// "(effective)" and "(autoload)" say that the EFER before them is not the VMCS field.
    fn qualify_efer(&mut self, word: &str, before: Option<u64>, value: u64, building: &mut Building) {
        let slot = match word {
            "(effective)" => &mut building.dump.facts.effective_efer,
            "(autoload)" => &mut building.dump.facts.autoload_efer,
            _ => return,
        };
        *slot = Some(value);
        match before {
            Some(before) => building.dump.vmcs.set(Field::GUEST_IA32_EFER, before),
            None => building.dump.vmcs.forget(Field::GUEST_IA32_EFER),
        }
    }

    fn subject_of(&self, word: &str) -> Option<Subject> {
        use SegmentRegister::{Cs, Ds, Es, Fs, Gs, Ldtr, Ss, Tr};
        let previous = self.recent[RECENT - 1];
        let guest = matches!(self.section, Section::Guest | Section::Unknown);
        let control = matches!(self.section, Section::Control | Section::Unknown);
        Some(match word {
            "CR0:" if guest => Subject::Cr0,
            "CR3:" if guest => Subject::Cr3,
            "CR4:" if guest => Subject::Cr4,
            "ES:" if guest => Subject::Segment(Es),
            "CS:" if guest => Subject::Segment(Cs),
            "SS:" if guest => Subject::Segment(Ss),
            "DS:" if guest => Subject::Segment(Ds),
            "FS:" if guest => Subject::Segment(Fs),
            "GS:" if guest => Subject::Segment(Gs),
            "LDTR:" if guest => Subject::Segment(Ldtr),
            "TR:" if guest => Subject::Segment(Tr),
            "GDTR:" if guest => Subject::Gdtr,
            "IDTR:" if guest => Subject::Idtr,
            "VMEntry:" if control => Subject::VmEntry,
            "VMExit:" if control => Subject::VmExit,
            "IDTVectoring:" if control => Subject::IdtVectoring,
            "ve_info:" => Subject::Foreign,
            "guest:" if previous == "FRED" => Subject::FredGuest,
            "host:" if previous == "FRED" => Subject::FredHost,
            "autoload:" if previous == "guest" => Subject::Msrs(ListKind::EntryLoad),
            "autoload:" if previous == "host" => Subject::Msrs(ListKind::ExitLoad),
            "autostore:" if previous == "guest" || previous == "MSR" => Subject::Msrs(ListKind::ExitStore),
            _ => return None,
        })
    }

    /// A word that is no name: in Xen's segment table it is the next column's value.
    fn table_word(&mut self, word: &str, line: usize, building: &mut Building) {
        if let Subject::Msrs(list) = self.subject {
            if let Some(index) = word.strip_suffix(':').and_then(|index| index.parse().ok()) {
                self.entry = index;
                let (slot, _) = list.slot(&mut building.dump.facts.msr_lists);
                slot.get_or_insert_default();
            }
            return;
        }
        // The access rights are printed with 5 digits, or with more if reserved bits are set.
        let columns: &[(Take, usize, usize)] = match self.subject {
            Subject::Segment(_) => {
                &[(Take::Selector, 4, 4), (Take::Rights, 5, 8), (Take::Limit, 8, 8), (Take::Base, 16, 16)]
            }
            Subject::Gdtr | Subject::Idtr => &[(Take::Limit, 8, 8), (Take::Base, 16, 16)],
            _ => return,
        };
        let Some(&(take, digits, most)) = columns.get(self.column) else { return };
        let plain = (digits..=most).contains(&word.len()) && word.bytes().all(|b| b.is_ascii_hexdigit());
        if !plain {
            self.column = usize::MAX;
            return;
        }
        self.column += 1;
        if self.column == 1 {
            self.vote(DumpKind::Xen);
        }
        self.section = Section::Guest;
        self.value(Awaiting { take: Some(take), name: [""; RECENT], digits, line }, word, line, building);
    }

    /// A value that the end of the text leaves incomplete.
    fn flush(&mut self, building: &mut Building) {
        if let Some((awaiting, start)) = self.broken.take() {
            self.value(awaiting, start, awaiting.line, building);
        }
    }

    fn value(&mut self, awaiting: Awaiting<'_>, word: &str, line: usize, building: &mut Building) {
        let Some(take) = awaiting.take else {
            let number = word.starts_with("0x") || word.len() >= 8;
            if self.section != Section::Unknown && number && hex(word).is_some() {
                let (name, value) = (awaiting.name(), quoted(word));
                building
                    .note(line, format!("\"{name}\" is no name that KVM or Xen prints; its value {value} is not used"));
            }
            return;
        };
        let pair = match take {
            Take::CsRip(..) => word.split_once(':'),
            Take::SviRvi => word.split_once('|'),
            _ => None,
        };
        if let (Take::CsRip(..) | Take::SviRvi, Some((high, low))) = (take, pair) {
            if let (Some((high, _)), Some((low, _))) = (hex(high), hex(low)) {
                self.values += 1;
                match take {
                    Take::CsRip(cs, rip) => {
                        building.set(cs, high, line);
                        building.set(rip, low, line);
                    }
                    _ => building.set(Field::GUEST_INTERRUPT_STATUS, (high << 8) | (low & 0xff), line),
                }
                return;
            }
        }
        let read = match take {
            Take::TargetCount => word.parse().ok().map(|count| (count, 1)),
            _ => hex(word),
        };
        let Some((value, digits)) = read else {
            let (name, word) = (awaiting.name(), quoted(word));
            building.note(line, format!("\"{name}\" is followed by \"{word}\", which is not a number"));
            return;
        };
        self.values += 1;
        self.store(take, value, digits, line, building);
    }

    fn store(&mut self, take: Take, value: u64, digits: usize, line: usize, building: &mut Building) {
        match take {
            Take::Field(field) => {
                if field == Field::EXIT_QUALIFICATION {
                    self.short_qualification = digits <= 8;
                }
                building.set(field, value, line);
            }
            Take::Efer => {
                let before = building.dump.vmcs.try_get(Field::GUEST_IA32_EFER);
                building.set(Field::GUEST_IA32_EFER, value, line);
                self.efer = Some((before, value));
            }
            Take::AutoloadEfer => {
                building.dump.facts.autoload_efer = Some(value);
                building.extend(line);
            }
            Take::TargetCount => {
                self.old_xen = true;
                building.set(Field::CR3_TARGET_COUNT, value, line);
            }
            Take::Target(field) => {
                building.set(field, value, line);
                if !self.old_xen {
                    let count = (field.encoding().index() - Field::CR3_TARGET_VALUE_0.encoding().index() + 1).into();
                    if building.dump.vmcs.try_get(Field::CR3_TARGET_COUNT).is_none_or(|before| before < count) {
                        building.dump.vmcs.forget(Field::CR3_TARGET_COUNT);
                        building.derive(
                            Field::CR3_TARGET_COUNT,
                            count,
                            line,
                            "as many CR3-target values are printed as the count says",
                        );
                    }
                }
            }
            Take::Selector | Take::Rights | Take::Limit | Take::Base => self.segment(take, value, line, building),
            Take::MsrIndex | Take::MsrValue => {
                if let Subject::Msrs(list) = self.subject {
                    building.list_entry(list, self.entry, line, |entry| match take {
                        Take::MsrIndex => entry.index = value as u32,
                        _ => entry.value = value,
                    });
                }
            }
            Take::Nothing | Take::CsRip(..) | Take::SviRvi => {}
        }
    }

    fn segment(&mut self, take: Take, value: u64, line: usize, building: &mut Building) {
        let field = match (self.subject, take) {
            (Subject::Segment(register), Take::Selector) => Field::guest_selector(register),
            (Subject::Segment(register), Take::Rights) => Field::guest_access_rights(register),
            (Subject::Segment(register), Take::Limit) => Field::guest_limit(register),
            (Subject::Segment(register), Take::Base) => Field::guest_base(register),
            (Subject::Gdtr, Take::Limit) => Field::GUEST_GDTR_LIMIT,
            (Subject::Gdtr, Take::Base) => Field::GUEST_GDTR_BASE,
            (Subject::Idtr, Take::Limit) => Field::GUEST_IDTR_LIMIT,
            (Subject::Idtr, Take::Base) => Field::GUEST_IDTR_BASE,
            _ => {
                self.values -= 1;
                return;
            }
        };
        building.set(field, value, line);
    }

    /// The dump is over.
    pub(crate) fn finish(&mut self, building: &mut Building) {
        if let Some(awaiting) = self.awaiting.take() {
            building
                .note(awaiting.line, format!("the value of \"{}\" is missing: the text ends there", awaiting.name()));
        }
        self.flush(building);
        building.dump.kind = if self.xen > self.kvm { DumpKind::Xen } else { DumpKind::Kvm };
        if building.dump.kind == DumpKind::Xen {
            xen::settle(self.old_xen, self.short_qualification, building);
        } else {
            kvm::settle(building);
        }
        building.event_from_reason();
    }
}
