//! Why has this VM entry failed, all of whose inputs are at hand? The report on an entry that a running processor has just tried.

use super::report::Report;
use super::view::{cpu_key, vmx_key};
use softvirt_dump::{Dump, DumpKind, Facts, Happened, LogEvent};
use std::cell::RefCell;
use std::collections::BTreeMap;
use vmx_model::known::KnownEntry;
use vmx_model::rules::RuleId;
use vmx_model::view::{CpuInput, Input, VmxInput};
use vmx_model::{EntryView, Field, check_entry};
use x86_state::{CpuProfile, PhysMemory};

/// The report on one entry: with nothing unknown, every broken rule is there and none is in doubt. `what` is what the processor answered.
#[must_use]
pub fn explain_entry<M: PhysMemory>(entry: &KnownEntry<'_, M>, what: Happened) -> Report {
    let view = Noting { entry, read: RefCell::default() };
    let _ = check_entry(&view);
    let cpu = CpuInput::ALL.into_iter().map(|input| (cpu_key(input).to_owned(), entry.cpu(input)));
    let vmx = VmxInput::ALL.into_iter().map(|input| (vmx_key(input).to_owned(), entry.vmx(input)));
    let memory = view.read.into_inner().into_iter().map(|(hpa, value)| (format!("memory.{hpa:#x}"), Some(value)));
    let given = cpu.chain(vmx).chain(memory).filter_map(|(key, value)| Some((key, value?))).collect();
    let dump = Dump {
        kind: DumpKind::Running,
        label: None,
        first_line: 0,
        last_line: 0,
        vmcs: *entry.vmcs,
        events: vec![LogEvent { line: 0, what }],
        facts: Facts { given, ..Facts::default() },
        notes: Vec::new(),
    };
    super::explain(&dump, &[entry.profile])
}

/// The rules that this entry breaks, in the order of the tables.
#[must_use]
pub fn broken_rules<M: PhysMemory>(entry: &KnownEntry<'_, M>) -> Vec<RuleId> {
    check_entry(entry).broken().collect()
}

/// An entry whose checks note what they read of memory.
struct Noting<'a, 'e, M> {
    entry: &'a KnownEntry<'e, M>,
    read: RefCell<BTreeMap<u64, u64>>,
}

impl<M: PhysMemory> EntryView for Noting<'_, '_, M> {
    fn field(&self, field: Field) -> Option<u64> {
        self.entry.field(field)
    }

    fn executive_field(&self, field: Field) -> Option<u64> {
        self.entry.executive_field(field)
    }

    fn cpu(&self, input: CpuInput) -> Option<u64> {
        self.entry.cpu(input)
    }

    fn vmx(&self, input: VmxInput) -> Option<u64> {
        self.entry.vmx(input)
    }

    fn phys_u64(&self, hpa: u64) -> Option<u64> {
        let value = self.entry.phys_u64(hpa)?;
        self.read.borrow_mut().insert(hpa, value);
        Some(value)
    }

    fn profile(&self) -> &CpuProfile {
        self.entry.profile()
    }

    fn note(&self, _: Input) {}
}
