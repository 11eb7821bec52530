//! What do the rules ask again and again? The view with the effective controls worked out once, and the manual's terms as methods.

use crate::control::{Control, ControlVector};
use crate::fields::Field;
use crate::rules::msr_lists::{self, ListVerdict};
use crate::view::{CpuInput, EntryView, Input, VmxInput};
use core::cell::OnceCell;
use x86_state::profile::AllowedSettings;
use x86_state::{
    AccessRights, CpuProfile, Feature, InterruptionInfo, MaskedMsr, MsrMask, SegmentRegister, VmxMsr, addr,
};

/// A view and what follows from it for all rules.
///
/// During VM entries that return from SMM the VM-execution controls come from the executive VMCS, or count as 0 when the executive-VMCS
/// pointer is the VMXON pointer (SDM 3C 31.15.4.2 and 31.15.4.4). The context resolves this; rules ask as usual.
pub struct Context<'a, V: EntryView> {
    view: &'a V,
    /// Effective control vectors: inactive ones are 0.
    vectors: [u64; ControlVector::ALL.len()],
    vectors_known: u32,
    source: ExecutionControls,
    /// The verdict on the VM-entry MSR-load list, once a rule has asked for it.
    msr_load_list: OnceCell<ListVerdict>,
}

/// Where the VM-execution controls of a VM entry come from.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ExecutionControls {
    /// An ordinary VM entry: the current VMCS.
    Current,
    /// Return from SMM to VMX non-root operation: the executive VMCS.
    Executive,
    /// Return from SMM to VMX root operation: none; all count as 0 and are not checked.
    None,
    /// It is not known which.
    Unknown,
}

impl<'a, V: EntryView> Context<'a, V> {
    /// Works out the effective controls.
    #[must_use]
    #[inline]
    pub fn new(view: &'a V) -> Self {
        let mut context = Self {
            view,
            vectors: [0; 8],
            vectors_known: 0,
            source: ExecutionControls::Current,
            msr_load_list: OnceCell::new(),
        };
        context.source = context.find_source();
        for vector in ControlVector::ALL {
            let active = match vector.activated_by() {
                None => Some(true),
                Some(control) => context.ctl(control),
            };
            let value = match active {
                Some(false) => Some(0),
                Some(true) => context.field(vector.field()),
                None => None,
            };
            if let Some(value) = value {
                context.vectors[vector as usize] = value;
                context.vectors_known |= 1 << vector as u32;
            }
        }
        context
    }

    #[inline(always)]
    fn find_source(&self) -> ExecutionControls {
        // A VM entry returns from SMM if it is executed in SMM with "entry to SMM" 0 (SDM 3C 31.15.4).
        match self.view.cpu(CpuInput::InSmm) {
            Some(0) => return ExecutionControls::Current,
            None if !V::ALL_KNOWN => {
                // A dump says nothing of SMM. The dual-monitor treatment is so rare that a VMCS is taken for an ordinary one.
                return ExecutionControls::Current;
            }
            _ => {}
        }
        self.find_source_in_smm()
    }

    #[cold]
    #[inline(never)]
    fn find_source_in_smm(&self) -> ExecutionControls {
        let Some(entry) = self.view.field(Field::VM_ENTRY_CONTROLS) else { return ExecutionControls::Unknown };
        if entry & Control::ENTRY_TO_SMM.mask() != 0 {
            return ExecutionControls::Current;
        }
        match (self.view.field(Field::EXECUTIVE_VMCS_POINTER), self.view.vmx(VmxInput::VmxonPointer)) {
            (Some(executive), Some(vmxon)) if executive == vmxon => ExecutionControls::None,
            (Some(_), Some(_)) => ExecutionControls::Executive,
            _ => ExecutionControls::Unknown,
        }
    }

    /// The view.
    #[must_use]
    #[inline(always)]
    pub fn view(&self) -> &'a V {
        self.view
    }

    /// Where the VM-execution controls come from.
    #[must_use]
    #[inline(always)]
    pub fn execution_controls(&self) -> ExecutionControls {
        self.source
    }

    /// Does this VM entry return from SMM (executed in SMM, "entry to SMM" 0)?
    #[inline(always)]
    pub fn returns_from_smm(&self) -> Option<bool> {
        match self.source {
            ExecutionControls::Current => Some(false),
            ExecutionControls::Executive | ExecutionControls::None => Some(true),
            ExecutionControls::Unknown => None,
        }
    }

    /// A VMCS field. VM-execution control fields come from where [`Self::execution_controls`] says.
    #[inline(always)]
    pub fn field(&self, field: Field) -> Option<u64> {
        self.view.note(Input::Field(field));
        if self.source != ExecutionControls::Current && field.is_execution_control() {
            return self.execution_control_field(field);
        }
        self.view.field(field)
    }

    #[cold]
    #[inline(never)]
    fn execution_control_field(&self, field: Field) -> Option<u64> {
        match self.source {
            ExecutionControls::Current => self.view.field(field),
            ExecutionControls::Executive => self.view.executive_field(field),
            ExecutionControls::None => Some(0),
            ExecutionControls::Unknown => None,
        }
    }

    /// The effective setting of a control: 0 while its vector is not activated.
    #[inline(always)]
    pub fn ctl(&self, control: Control) -> Option<bool> {
        self.view.note(Input::Control(control));
        let vector = control.vector();
        if !V::ALL_KNOWN && self.vectors_known >> vector as u32 & 1 == 0 {
            return None;
        }
        Some(self.vectors[vector as usize] & control.mask() != 0)
    }

    /// What becomes of the VM-entry MSR-load list: worked out at the first call, so that all its rules cost one walk.
    #[inline(always)]
    pub(crate) fn msr_load_list(&self) -> &ListVerdict {
        self.msr_load_list.get_or_init(|| msr_lists::walk(self))
    }

    /// Processor state at VM entry.
    #[inline(always)]
    pub fn cpu(&self, input: CpuInput) -> Option<u64> {
        self.view.note(Input::Cpu(input));
        self.view.cpu(input)
    }

    /// VMX state outside the VMCS.
    #[inline(always)]
    pub fn vmx(&self, input: VmxInput) -> Option<u64> {
        self.view.note(Input::Vmx(input));
        self.view.vmx(input)
    }

    /// 8 bytes of physical memory.
    #[inline(always)]
    pub fn phys_u64(&self, hpa: u64) -> Option<u64> {
        self.view.note(Input::Memory);
        self.view.phys_u64(hpa)
    }

    /// The processor, for what the methods below do not offer.
    #[must_use]
    #[inline(always)]
    pub fn profile(&self) -> &'a CpuProfile {
        self.view.profile()
    }

    /// A VMX capability MSR.
    #[inline(always)]
    pub fn cap(&self, msr: VmxMsr) -> Option<u64> {
        self.view.note(Input::Capability(msr));
        self.profile().vmx(msr)
    }

    /// The settings of a control vector that the processor allows.
    #[inline(always)]
    pub fn allowed(&self, vector: ControlVector) -> Option<AllowedSettings> {
        for &msr in vector.capabilities() {
            self.view.note(Input::Capability(msr));
        }
        vector.allowed_settings(self.profile())
    }

    /// Does the processor support the 1-setting of a control? Of the control that activates its vector nothing is asked.
    #[inline(always)]
    pub fn supports(&self, control: Control) -> Option<bool> {
        Some(self.allowed(control.vector())?.may_be_one & control.mask() != 0)
    }

    /// Does the processor have the feature?
    #[inline(always)]
    pub fn has(&self, feature: Feature) -> Option<bool> {
        self.view.note(Input::Feature(feature));
        self.profile().has(feature)
    }

    /// The writable bits of an MSR.
    #[must_use]
    #[inline(always)]
    pub fn msr_mask(&self, msr: MaskedMsr) -> MsrMask {
        self.view.note(Input::MsrMask(msr));
        self.profile().mask(msr)
    }

    /// Does `value` set bits that are reserved in the MSR?
    #[inline(always)]
    pub fn sets_reserved(&self, msr: MaskedMsr, value: u64) -> Option<bool> {
        self.msr_mask(msr).reserved_in(value)
    }

    /// The processor supports Intel 64 architecture.
    #[inline(always)]
    pub fn intel64(&self) -> Option<bool> {
        self.has(Feature::LM)
    }

    /// Is `address` canonical for the processor's linear-address width?
    #[must_use]
    #[inline(always)]
    pub fn canonical(&self, address: u64) -> bool {
        self.view.note(Input::LinearWidth);
        addr::is_canonical(address, self.profile().linear_width())
    }

    /// Are the bits of `address` at and above the processor's linear-address width identical? Weaker than canonical by one bit.
    #[must_use]
    #[inline(always)]
    pub fn upper_bits_identical(&self, address: u64) -> bool {
        self.view.note(Input::LinearWidth);
        addr::upper_bits_identical(address, self.profile().linear_width())
    }

    /// Does `address` set bits beyond the processor's physical-address width?
    #[must_use]
    #[inline(always)]
    pub fn beyond_physical_width(&self, address: u64) -> bool {
        self.view.note(Input::PhysicalWidth);
        address & self.profile().physical_bits_beyond() != 0
    }

    /// Does the address of a VMX structure set bits that it must not: beyond the physical-address width, or in `[63:32]` if
    /// IA32_VMX_BASIC\[48\] is 1 (SDM 3D A.1)?
    #[inline(always)]
    pub fn structure_address_too_wide(&self, address: u64) -> Option<bool> {
        let limited = self.cap(VmxMsr::Basic)? >> 48 & 1 == 1;
        Some(self.beyond_physical_width(address) || (limited && address >> 32 != 0))
    }

    /// Does the last byte of an MSR area, 16 bytes for each of `count` entries from `address` on, lie too high in the same sense?
    ///
    /// The sum is worked out without loss: an area that wraps around lies too high. `count` is not 0.
    #[inline(always)]
    pub fn msr_area_end_too_wide(&self, address: u64, count: u64) -> Option<bool> {
        match address.checked_add(count * 16 - 1) {
            Some(last) => self.structure_address_too_wide(last),
            None => Some(true),
        }
    }

    /// The access rights of a guest segment register.
    #[inline(always)]
    pub fn rights(&self, register: SegmentRegister) -> Option<AccessRights> {
        Some(AccessRights(self.field(Field::guest_access_rights(register))? as u32))
    }

    /// The guest will be virtual-8086: RFLAGS.VM (bit 17) of the guest is 1.
    #[inline(always)]
    pub fn guest_v86(&self) -> Option<bool> {
        Some(self.field(Field::GUEST_RFLAGS)? >> 17 & 1 == 1)
    }

    /// The guest will be in IA-32e mode.
    #[inline(always)]
    pub fn guest_ia32e(&self) -> Option<bool> {
        self.ctl(Control::IA32E_MODE_GUEST)
    }

    /// The "unrestricted guest" VM-execution control.
    #[inline(always)]
    pub fn unrestricted(&self) -> Option<bool> {
        self.ctl(Control::UNRESTRICTED_GUEST)
    }

    /// The VM-entry interruption-information field.
    #[inline(always)]
    pub fn injection(&self) -> Option<InterruptionInfo> {
        Some(InterruptionInfo(self.field(Field::VM_ENTRY_INTERRUPTION_INFO)? as u32))
    }
}
