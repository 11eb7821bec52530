//! How is a dump put together? The dump that grows while lines are read, and the notes on what does not fit.

use crate::event::{Derived, Happened, LogEvent, MsrEntry, Note};
use crate::{Dump, DumpKind, Facts};
use vmx_model::{Field, Vmcs};

/// More notes than this are not kept: an adversary's text must not fill the memory.
pub(crate) const MAX_NOTES: usize = 200;
/// Longest piece of the text that a note quotes, in characters.
const QUOTED_CHARS: usize = 60;
/// Entries of one MSR list that are kept; no processor is specified to take more (IA32_VMX_MISC\[27:25\]).
pub(crate) const MAX_LIST: usize = 4096;

/// A dump that is being read.
#[derive(Debug)]
pub(crate) struct Building {
    pub(crate) dump: Dump,
    /// The line where each field was read, by position in the field table.
    read_at: Box<[usize]>,
}

impl Building {
    pub(crate) fn new(kind: DumpKind, line: usize) -> Self {
        let dump = Dump {
            kind,
            label: None,
            first_line: line,
            last_line: line,
            vmcs: Vmcs::unknown(),
            events: Vec::new(),
            facts: Facts::default(),
            notes: Vec::new(),
        };
        Self { dump, read_at: vec![0; Field::COUNT].into_boxed_slice() }
    }

    /// The dump reaches to this line.
    pub(crate) fn extend(&mut self, line: usize) {
        self.dump.first_line = self.dump.first_line.min(line);
        self.dump.last_line = self.dump.last_line.max(line);
    }

    /// Sets a field that the text prints. A value that does not fit is noted and leaves the field as it was.
    pub(crate) fn set(&mut self, field: Field, value: u64, line: usize) {
        if value & !field.row().width.mask() != 0 {
            let bits = field.row().width.bits();
            self.note(line, format!("{} has {bits} bits; {value:#x} does not fit and is not used", field.id()));
            return;
        }
        if let Some(before) = self.dump.vmcs.try_get(field) {
            if before != value {
                let there = self.read_at[field.index()];
                let text =
                    format!("{} is {before:#x} in line {there} and {value:#x} here; the last is kept", field.id());
                self.note(line, text);
            }
        }
        self.replace(field, value, line);
    }

    /// Sets a field whose value is known to change in the text.
    pub(crate) fn replace(&mut self, field: Field, value: u64, line: usize) {
        self.dump.vmcs.set(field, value);
        self.read_at[field.index()] = line;
        self.extend(line);
    }

    /// Sets the high half of a 64-bit field.
    pub(crate) fn set_high(&mut self, field: Field, value: u64, line: usize) {
        if value >> 32 != 0 {
            self.note(
                line,
                format!("the high half of {} has 32 bits; {value:#x} does not fit and is not used", field.id()),
            );
            return;
        }
        let low = self.dump.vmcs.get(field) & 0xffff_ffff;
        self.replace(field, value << 32 | low, line);
    }

    /// Sets a field that the text implies.
    pub(crate) fn derive(&mut self, field: Field, value: u64, line: usize, why: &'static str) {
        self.set(field, value, line);
        if !self.dump.facts.derived.iter().any(|derived| derived.field == field) {
            self.dump.facts.derived.push(Derived { field, why });
        }
    }

    /// The line where the field was read.
    pub(crate) fn line_of(&self, field: Field) -> usize {
        self.read_at[field.index()].max(1)
    }

    pub(crate) fn note(&mut self, line: usize, text: impl Into<String>) {
        match self.dump.notes.len() {
            n if n < MAX_NOTES => self.dump.notes.push(Note { line, text: text.into() }),
            MAX_NOTES => self.dump.notes.push(Note { line, text: "more notes from here on are left out".to_owned() }),
            _ => {}
        }
    }

    pub(crate) fn event(&mut self, line: usize, what: Happened) {
        self.dump.events.push(LogEvent { line, what });
    }

    /// Does the dump tell anything?
    pub(crate) fn is_empty(&self) -> bool {
        let facts = &self.dump.facts;
        self.dump.vmcs.known_count() == 0
            && self.dump.events.is_empty()
            && facts.msr_lists == Default::default()
            && facts.guest_visible == Default::default()
            && facts.capabilities.is_empty()
            && facts.given.is_empty()
            && self.dump.kind != DumpKind::Svm
    }

    /// What follows from the VM-instruction-error field, if its error is one of VMLAUNCH and VMRESUME.
    pub(crate) fn event_from_instruction_error(&mut self) {
        let Some(error) = self.dump.vmcs.try_get(Field::VM_INSTRUCTION_ERROR) else { return };
        let line = self.line_of(Field::VM_INSTRUCTION_ERROR);
        match error {
            0 => {}
            // SDM 3C 30.4, VM Instruction Error Numbers.
            4 | 5 | 7 | 8 | 25 | 26 => {
                self.event(line, Happened::VmInstructionError { instruction: None, number: error as u32 })
            }
            _ => {
                let text = format!(
                    "VM-instruction error {error} is not VMLAUNCH's or VMRESUME's; the dump's own VMREADs may have left it"
                );
                self.note(line, text);
            }
        }
    }

    /// What follows from the exit-reason field: the event that it stands for, unless the log says that VMLAUNCH or VMRESUME failed with
    /// VMfailValid, which leaves the field as an earlier exit set it.
    pub(crate) fn event_from_reason(&mut self) {
        let Some(reason) = self.dump.vmcs.try_get(Field::EXIT_REASON) else { return };
        let line = self.line_of(Field::EXIT_REASON);
        let qualification = self.dump.vmcs.try_get(Field::EXIT_QUALIFICATION);
        let told = |what: &Happened| match what {
            Happened::EntryFailed { reason: said, .. } | Happened::OrdinaryExit { reason: said, .. } => {
                u64::from(*said) == reason
            }
            _ => false,
        };
        if self.dump.events.iter().any(|event| told(&event.what)) {
            for event in &mut self.dump.events {
                if let Happened::EntryFailed { qualification: none @ None, .. } = &mut event.what {
                    *none = qualification;
                }
            }
            return;
        }
        if self
            .dump
            .events
            .iter()
            .any(|event| matches!(event.what, Happened::VmInstructionError { .. } | Happened::NoReason))
        {
            self.note(line, "the VM entry failed before it could set an exit reason: this one is an earlier exit's");
            return;
        }
        // An exit for reason 0 (exception or NMI) sets the interruption information; without it the field is as initialized.
        let interruption = self.dump.vmcs.try_get(Field::VM_EXIT_INTERRUPTION_INFO);
        if reason == 0 && interruption.is_some_and(|info| info >> 31 == 0) {
            return;
        }
        self.event(line, Happened::from_exit_reason(reason as u32, qualification));
    }

    /// A list that is longer than its count field ends where the count says; a count that the text does not tell is the list's length
    /// where `derive` says so.
    pub(crate) fn settle_list(&mut self, list: ListKind, derive: Option<&'static str>) {
        let (slot, field) = list.slot(&mut self.dump.facts.msr_lists);
        let Some(entries) = slot else { return };
        let len = entries.len() as u64;
        match self.dump.vmcs.try_get(field) {
            Some(count) if count < len => {
                entries.truncate(count as usize);
                let line = self.line_of(field);
                self.note(
                    line,
                    format!(
                        "{} is {count}; of the {len} entries printed the others are not part of the list",
                        field.id()
                    ),
                );
            }
            Some(_) => {}
            None => {
                if let Some(why) = derive {
                    self.derive(field, len, self.dump.last_line, why);
                }
            }
        }
    }

    /// Sets entry `index` of a list; `change` fills in what the line tells.
    pub(crate) fn list_entry(&mut self, list: ListKind, index: usize, line: usize, change: impl FnOnce(&mut MsrEntry)) {
        let (slot, _) = list.slot(&mut self.dump.facts.msr_lists);
        let entries = slot.get_or_insert_default();
        let len = entries.len();
        if index < len {
            change(&mut entries[index]);
        } else if index == len && index < MAX_LIST {
            let mut entry = MsrEntry { index: 0, reserved: 0, value: 0 };
            change(&mut entry);
            entries.push(entry);
        } else {
            self.note(
                line,
                format!("entry {index} of an MSR list stands where entry {len} is expected; it is not used"),
            );
            return;
        }
        self.extend(line);
    }
}

/// Which MSR list.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum ListKind {
    EntryLoad,
    ExitLoad,
    ExitStore,
}

impl ListKind {
    pub(crate) const ALL: [Self; 3] = [Self::EntryLoad, Self::ExitLoad, Self::ExitStore];

    pub(crate) fn slot(self, lists: &mut crate::MsrLists) -> (&mut Option<Vec<MsrEntry>>, Field) {
        match self {
            Self::EntryLoad => (&mut lists.entry_load, Field::VM_ENTRY_MSR_LOAD_COUNT),
            Self::ExitLoad => (&mut lists.exit_load, Field::VM_EXIT_MSR_LOAD_COUNT),
            Self::ExitStore => (&mut lists.exit_store, Field::VM_EXIT_MSR_STORE_COUNT),
        }
    }
}

/// A piece of the text as a note quotes it.
pub(crate) fn quoted(text: &str) -> String {
    let mut out: String = text.chars().take(QUOTED_CHARS).collect();
    if out.len() < text.len() {
        out.push('…');
    }
    out
}
