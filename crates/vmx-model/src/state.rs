//! A whole world for one VM entry, all of it known and all of it mutable: what rules break, mend and are tested on.

use crate::context::ExecutionControls;
use crate::control::{Control, ControlVector};
use crate::fields::Field;
use crate::view::{CpuInput, EntryView, VmxInput};
use crate::vmcs::Vmcs;
use x86_state::profile::AllowedSettings;
use x86_state::{CpuProfile, SegmentRegister, VmxMsr};

/// Words of memory that a state can define.
const WORDS: usize = 96;

/// A few 8-byte words of physical memory; every other address reads as all ones, as a hole does.
///
/// # Invariants
/// Addresses are multiples of 8 and occur once.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Words {
    cells: [(u64, u64); WORDS],
    len: usize,
}

impl Words {
    /// No word defined.
    pub const EMPTY: Self = Self { cells: [(0, 0); WORDS], len: 0 };

    /// The word that holds `hpa` (bits `[2:0]` are ignored); `None` if it is not defined.
    #[must_use]
    pub fn get(&self, hpa: u64) -> Option<u64> {
        self.cells[..self.len].iter().find(|cell| cell.0 == hpa & !7).map(|cell| cell.1)
    }

    /// Defines the word that holds `hpa`. Returns `false`, changing nothing, when all places are taken.
    pub fn set(&mut self, hpa: u64, value: u64) -> bool {
        let address = hpa & !7;
        if let Some(cell) = self.cells[..self.len].iter_mut().find(|cell| cell.0 == address) {
            cell.1 = value;
            return true;
        }
        if self.len == WORDS {
            return false;
        }
        self.cells[self.len] = (address, value);
        self.len += 1;
        true
    }
}

/// Everything that a VM entry looks at.
#[derive(Clone, Copy, Debug)]
pub struct EntryState {
    /// The current VMCS.
    pub vmcs: Vmcs,
    /// The executive VMCS, for VM entries that return from SMM.
    pub executive: Vmcs,
    /// Processor state, indexed by [`CpuInput`].
    pub cpu: [u64; CpuInput::COUNT],
    /// VMX state, indexed by [`VmxInput`].
    pub vmx: [u64; VmxInput::COUNT],
    /// Memory.
    pub memory: Words,
    /// The processor.
    pub profile: CpuProfile,
}

impl EntryView for EntryState {
    const ALL_KNOWN: bool = true;

    #[inline(always)]
    fn field(&self, field: Field) -> Option<u64> {
        Some(self.vmcs.get(field))
    }
    #[inline(always)]
    fn executive_field(&self, field: Field) -> Option<u64> {
        Some(self.executive.get(field))
    }
    #[inline(always)]
    fn cpu(&self, input: CpuInput) -> Option<u64> {
        Some(self.cpu[input as usize])
    }
    #[inline(always)]
    fn vmx(&self, input: VmxInput) -> Option<u64> {
        Some(self.vmx[input as usize])
    }
    fn phys_u64(&self, hpa: u64) -> Option<u64> {
        Some(self.memory.get(hpa).unwrap_or(u64::MAX))
    }
    #[inline(always)]
    fn profile(&self) -> &CpuProfile {
        &self.profile
    }
}

/// How rules read and change a state. The names are short because several hundred rules are written with them.
///
/// VM-execution control fields are those that the VM entry uses: the executive VMCS's when it returns from SMM to VMX non-root operation.
impl EntryState {
    /// Where this VM entry takes its VM-execution controls from.
    #[must_use]
    pub fn execution_controls(&self) -> ExecutionControls {
        let leaves_smm = self.cpu_input(CpuInput::InSmm) != 0
            && self.vmcs.get(Field::VM_ENTRY_CONTROLS) & Control::ENTRY_TO_SMM.mask() == 0;
        if !leaves_smm {
            ExecutionControls::Current
        } else if self.vmcs.get(Field::EXECUTIVE_VMCS_POINTER) == self.vmx[VmxInput::VmxonPointer as usize] {
            ExecutionControls::None
        } else {
            ExecutionControls::Executive
        }
    }

    fn home(&mut self, field: Field) -> &mut Vmcs {
        if field.is_execution_control() && self.execution_controls() == ExecutionControls::Executive {
            &mut self.executive
        } else {
            &mut self.vmcs
        }
    }

    /// A field's value.
    #[must_use]
    pub fn get(&self, field: Field) -> u64 {
        if field.is_execution_control() && self.execution_controls() == ExecutionControls::Executive {
            self.executive.get(field)
        } else {
            self.vmcs.get(field)
        }
    }

    /// Sets a field.
    pub fn set(&mut self, field: Field, value: u64) {
        self.home(field).set(field, value);
    }

    /// Sets bits of a field to 1.
    pub fn set_bits(&mut self, field: Field, bits: u64) {
        self.home(field).update(field, |value| value | bits);
    }

    /// Clears bits of a field.
    pub fn clear_bits(&mut self, field: Field, bits: u64) {
        self.home(field).update(field, |value| value & !bits);
    }

    /// Is the control in effect: its bit 1 and its vector activated? VM-execution controls are not in effect during VM entries that return
    /// from SMM to VMX root operation.
    #[must_use]
    pub fn ctl(&self, control: Control) -> bool {
        let vector = control.vector();
        if vector.field().is_execution_control() && self.execution_controls() == ExecutionControls::None {
            return false;
        }
        vector.activated_by().is_none_or(|activator| self.ctl(activator))
            && self.get(vector.field()) & control.mask() != 0
    }

    /// Sets a control bit to 1 and activates its vector. A vector that was inactive starts from all zeros (with the bits that must be 1).
    pub fn on(&mut self, control: Control) {
        let vector = control.vector();
        if let Some(activator) = vector.activated_by() {
            if !self.ctl(activator) {
                self.on(activator);
                let must = self.settings(vector).map_or(0, |settings| settings.must_be_one);
                self.set(vector.field(), must);
            }
        }
        self.set_bits(vector.field(), control.mask());
    }

    /// Clears a control bit.
    pub fn off(&mut self, control: Control) {
        self.clear_bits(control.vector().field(), control.mask());
    }

    /// The settings of a control vector that the processor allows, as far as they are known.
    #[must_use]
    pub fn settings(&self, vector: ControlVector) -> Option<AllowedSettings> {
        vector.allowed_settings(&self.profile)
    }

    /// Makes a control vector the nearest one that the processor allows.
    pub fn adjust(&mut self, vector: ControlVector) {
        if let Some(settings) = self.settings(vector) {
            self.home(vector.field()).update(vector.field(), |value| settings.adjust(value));
        }
    }

    /// May the control be 1 on this processor? Unknown capabilities count as no.
    #[must_use]
    pub fn can_set(&self, control: Control) -> bool {
        let vector = control.vector();
        vector.activated_by().is_none_or(|activator| self.can_set(activator))
            && self.settings(vector).is_some_and(|settings| settings.may_be_one & control.mask() != 0)
    }

    /// May the control be 0 on this processor?
    #[must_use]
    pub fn can_clear(&self, control: Control) -> bool {
        self.settings(control.vector()).is_none_or(|settings| settings.must_be_one & control.mask() == 0)
    }

    /// Mends "if `dependent` is 1, `requisite` is 1": turns the dependent control off where the processor allows, else the requisite on.
    pub fn require(&mut self, dependent: Control, requisite: Control) {
        if self.can_clear(dependent) {
            self.off(dependent);
        } else {
            self.on(requisite);
        }
    }

    /// Clears the bits of a field that the address of a VMX structure must not set (see
    /// [`Context::structure_address_too_wide`](crate::context::Context::structure_address_too_wide)).
    pub fn narrow(&mut self, field: Field) {
        let limited = self.profile.vmx(VmxMsr::Basic).is_some_and(|basic| basic >> 48 & 1 == 1);
        let high = if limited { 0xffff_ffff_0000_0000 } else { 0 };
        self.clear_bits(field, self.profile.physical_bits_beyond() | high);
    }

    /// Clears bits of a capability MSR: the processor lacks what they report.
    pub fn lacks(&mut self, msr: VmxMsr, bits: u64) {
        self.profile = self.profile.with_vmx(msr, self.profile.vmx(msr).map(|value| value & !bits));
    }

    /// Processor state.
    #[must_use]
    pub fn cpu_input(&self, input: CpuInput) -> u64 {
        self.cpu[input as usize]
    }

    /// Sets processor state.
    pub fn set_cpu(&mut self, input: CpuInput, value: u64) {
        self.cpu[input as usize] = value;
    }

    /// Sets VMX state.
    pub fn set_vmx(&mut self, input: VmxInput, value: u64) {
        self.vmx[input as usize] = value;
    }

    /// Access rights of a guest segment register.
    #[must_use]
    pub fn rights(&self, register: SegmentRegister) -> u32 {
        self.get(Field::guest_access_rights(register)) as u32
    }

    /// Sets the access rights of a guest segment register.
    pub fn set_rights(&mut self, register: SegmentRegister, rights: u32) {
        self.set(Field::guest_access_rights(register), u64::from(rights));
    }

    /// Replaces a field of bits `[high:low]` in the access rights of a guest segment register.
    pub fn set_rights_field(&mut self, register: SegmentRegister, high: u32, low: u32, value: u32) {
        let mask = (u32::MAX >> (31 - (high - low))) << low;
        self.set_rights(register, self.rights(register) & !mask | (value << low & mask));
    }
}
