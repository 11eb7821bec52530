//! What does a dump tell a rule? A partial view of a VM entry, which also writes down what each rule asked and missed.

use softvirt_dump::{Dump, Happened, MsrEntry};
use std::borrow::Cow;
use std::cell::RefCell;
use vmx_model::rules::{RULE_COUNT, RuleId};
use vmx_model::view::{CpuInput, Input, VmxInput};
use vmx_model::{Control, EntryView, Field, Vmcs};
use x86_state::{CpuProfile, VmxMsr};

/// Where the VM-entry MSR-load list is put when the dump prints the list but not its address.
const LIST_ADDRESS: u64 = 0x1000;

/// One input as a rule met it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Asked {
    pub(crate) input: Input,
    pub(crate) known: bool,
}

/// A dump, seen as a VM entry on one processor.
pub(crate) struct DumpView<'a> {
    vmcs: Vmcs,
    profile: CpuProfile,
    list: Option<Cow<'a, [MsrEntry]>>,
    list_address: u64,
    given: &'a [(String, u64)],
    rules: RefCell<(RuleId, usize)>,
    /// What each rule asked, indexed by rule; empty unless recording.
    asked: RefCell<Vec<Vec<Asked>>>,
}

impl<'a> DumpView<'a> {
    /// The dump on a processor. Capabilities that the dump prints replace the processor's.
    pub(crate) fn new(dump: &'a Dump, profile: &CpuProfile) -> Self {
        let mut profile = *profile;
        for &(msr, value) in &dump.facts.capabilities {
            if let Some(known) = VmxMsr::ALL.into_iter().find(|known| known.index() == msr) {
                profile = profile.with_vmx(known, Some(value));
            }
        }
        let mut vmcs = dump.vmcs;
        let list = match &dump.facts.msr_lists.entry_load {
            Some(entries) => Some(Cow::Borrowed(entries.as_slice())),
            None => reported_entry(dump).map(|entry| Cow::Owned(vec![entry])),
        };
        if let Some(entries) = &list {
            if !vmcs.is_known(Field::VM_ENTRY_MSR_LOAD_COUNT) {
                vmcs.set(Field::VM_ENTRY_MSR_LOAD_COUNT, entries.len() as u64);
            }
        }
        let list_address = vmcs.try_get(Field::VM_ENTRY_MSR_LOAD_ADDRESS).unwrap_or(LIST_ADDRESS);

        Self {
            vmcs,
            profile,
            list,
            list_address,
            given: &dump.facts.given,
            rules: RefCell::new((RuleId::FIRST, 0)),
            asked: RefCell::default(),
        }
    }

    /// The same, writing down what each rule asks. A check then takes a hundred times as long.
    pub(crate) fn recording(self) -> Self {
        self.asked.replace(vec![Vec::new(); RULE_COUNT]);
        self
    }

    /// The same with the printed MSR-load list in memory, at an address of our choice if the dump does not print one.
    pub(crate) fn with_list_in_memory(mut self) -> Self {
        if self.list.is_some() {
            self.vmcs.set(Field::VM_ENTRY_MSR_LOAD_ADDRESS, self.list_address);
        }
        self
    }

    /// Does the dump print a VM-entry MSR-load list?
    pub(crate) fn has_list(&self) -> bool {
        self.list.is_some()
    }

    /// The VMCS as the rules see it.
    pub(crate) fn vmcs(&self) -> &Vmcs {
        &self.vmcs
    }

    /// What a rule asked in the check so far, in the order of asking.
    pub(crate) fn asked(&self, rule: RuleId) -> Vec<Asked> {
        self.asked.borrow().get(rule.index()).cloned().unwrap_or_default()
    }

    /// Did the rule ask for something of the state, not only of the processor model, that is known? Without that it is no evidence.
    pub(crate) fn knows_state(&self, rule: RuleId) -> bool {
        self.asked(rule).iter().any(|asked| asked.known && !asked.input.is_capability())
    }

    fn given(&self, key: &str) -> Option<u64> {
        self.given.iter().find(|(name, _)| name == key).map(|(_, value)| *value)
    }

    fn control_known(&self, control: Control) -> bool {
        match control.vector().activated_by() {
            Some(activator) if !self.control_known(activator) => false,
            Some(activator) if self.vmcs.get(activator.vector().field()) & activator.mask() == 0 => true,
            _ => self.vmcs.is_known(control.vector().field()),
        }
    }

    fn is_known(&self, input: Input) -> bool {
        match input {
            Input::Field(field) => self.vmcs.is_known(field),
            Input::Control(control) => self.control_known(control),
            Input::Cpu(input) => self.cpu(input).is_some(),
            Input::Vmx(input) => self.vmx(input).is_some(),
            Input::Memory => self.list.is_some(),
            Input::Capability(msr) => self.profile.vmx(msr).is_some(),
            Input::Feature(feature) => self.profile.has(feature).is_some(),
            Input::MsrMask(msr) => self.profile.mask(msr).unknown == 0,
            Input::PhysicalWidth | Input::LinearWidth => true,
        }
    }
}

/// The entry of the MSR-load list that the log says failed, where it prints the entry but not the list. It stands for the whole list: the entries
/// before it were loaded, those after it never looked at.
fn reported_entry(dump: &Dump) -> Option<MsrEntry> {
    dump.events.iter().rev().find_map(|event| match event.what {
        Happened::MsrLoadFailed { msr: Some(index), value: Some(value), .. } => {
            Some(MsrEntry { index, reserved: 0, value })
        }
        _ => None,
    })
}

/// The key under which a JSON or TOML file gives processor state.
pub(super) fn cpu_key(input: CpuInput) -> &'static str {
    match input {
        CpuInput::Rflags => "cpu.rflags",
        CpuInput::CsAccessRights => "cpu.cs_access_rights",
        CpuInput::Cpl => "cpu.cpl",
        CpuInput::Cr0 => "cpu.cr0",
        CpuInput::Cr3 => "cpu.cr3",
        CpuInput::Cr4 => "cpu.cr4",
        CpuInput::Efer => "cpu.efer",
        CpuInput::RtitCtl => "cpu.rtit_ctl",
        CpuInput::InSmm => "cpu.in_smm",
        CpuInput::MovSsBlocking => "cpu.mov_ss_blocking",
    }
}

/// The key under which a JSON or TOML file gives VMX state.
pub(super) fn vmx_key(input: VmxInput) -> &'static str {
    match input {
        VmxInput::Instruction => "vmx.instruction",
        VmxInput::Operation => "vmx.operation",
        VmxInput::CurrentVmcsPointer => "vmx.current_vmcs_pointer",
        VmxInput::CurrentVmcsIsShadow => "vmx.current_vmcs_is_shadow",
        VmxInput::LaunchState => "vmx.launch_state",
        VmxInput::VmxonPointer => "vmx.vmxon_pointer",
        VmxInput::ExecutiveLaunchState => "vmx.executive_launch_state",
        VmxInput::DualMonitorActive => "vmx.dual_monitor_active",
    }
}

// Each method stays out of line: the check is instantiated for this view as well, and a report may take a millisecond.
impl EntryView for DumpView<'_> {
    #[inline(never)]
    fn field(&self, field: Field) -> Option<u64> {
        self.vmcs.try_get(field)
    }

    #[inline(never)]
    fn executive_field(&self, _: Field) -> Option<u64> {
        None
    }

    #[inline(never)]
    fn cpu(&self, input: CpuInput) -> Option<u64> {
        self.given(cpu_key(input))
    }

    #[inline(never)]
    fn vmx(&self, input: VmxInput) -> Option<u64> {
        self.given(vmx_key(input))
    }

    #[inline(never)]
    fn phys_u64(&self, hpa: u64) -> Option<u64> {
        if let Some(value) = self.given(&format!("memory.{hpa:#x}")) {
            return Some(value);
        }
        let entries = self.list.as_deref()?;
        let offset = hpa.checked_sub(self.list_address)?;
        let entry = entries.get(usize::try_from(offset / 16).ok()?)?;
        match offset % 16 {
            0 => Some(u64::from(entry.index) | u64::from(entry.reserved) << 32),
            8 => Some(entry.value),
            _ => None,
        }
    }

    #[inline(never)]
    fn profile(&self) -> &CpuProfile {
        &self.profile
    }

    #[inline(never)]
    fn begin_group(&self, first: RuleId, count: usize) {
        *self.rules.borrow_mut() = (first, count);
    }

    #[inline(never)]
    fn begin_rule(&self, rule: RuleId) {
        *self.rules.borrow_mut() = (rule, 1);
    }

    #[inline(never)]
    fn note(&self, input: Input) {
        if self.asked.borrow().is_empty() {
            return;
        }
        let asked = Asked { input, known: self.is_known(input) };
        let (first, count) = *self.rules.borrow();
        for of_rule in &mut self.asked.borrow_mut()[first.index()..first.index() + count] {
            if !of_rule.contains(&asked) {
                of_rule.push(asked);
            }
        }
    }
}
