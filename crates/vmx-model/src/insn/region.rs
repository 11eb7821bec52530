//! Where is a VMCS that is not current? In its region of memory, in the layout of [`crate::vmcs`].
//!
//! softvirt keeps the current VMCS on the processor ([`Vmx::vmcs`](crate::Vmx)) and every other VMCS, active or not, in memory. This is one of
//! the ways that the manual allows (a processor may keep an active VMCS in memory, on the processor, or both), and it shows software that
//! forgets VMCLEAR what it does: another processor, or an ordinary load, sees what was last written back.
//!
//! Source: SDM 3C (rev 077) 24.1, Overview; 24.2, Format of the VMCS Region; 24.10, VMCS Types: Ordinary and Shadow; 24.11.1, Software
//! Use of Virtual-Machine Control Structures.

use crate::fields::Field;
use crate::vmcs::{FIELDS_OFFSET_BYTES, LAUNCH_STATE_OFFSET_BYTES, LaunchState, Vmcs};
use x86_state::{Hpa, PhysMemory};

/// The first four bytes of a VMCS region or of the VMXON region.
///
/// ```text
///  31 30                                                             0
/// +--+---------------------------------------------------------------+
/// | S|                   VMCS revision identifier                    |
/// +--+---------------------------------------------------------------+
/// ```
/// S: the shadow-VMCS indicator.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Header(pub u32);

impl Header {
    /// The header of the region at this address.
    #[must_use]
    pub fn read<M: PhysMemory + ?Sized>(memory: &M, region: Hpa) -> Self {
        Self(memory.read_u32(region))
    }

    /// The VMCS revision identifier: bits `[30:0]`.
    #[must_use]
    pub const fn revision(self) -> u32 {
        self.0 & 0x7fff_ffff
    }

    /// The shadow-VMCS indicator: bit 31.
    #[must_use]
    pub const fn is_shadow(self) -> bool {
        self.0 >> 31 == 1
    }
}

const fn field_address(region: Hpa, field: Field) -> Hpa {
    region.offset((FIELDS_OFFSET_BYTES + 8 * field.index()) as u64)
}

/// The fields of the VMCS in that region, all of them known, and its launch state.
///
/// A region that was never initialized by VMCLEAR may hold anything: bits beyond a field's width are dropped, and a launch state other than
/// 1 counts as clear.
#[must_use]
pub fn load<M: PhysMemory + ?Sized>(memory: &M, region: Hpa) -> (Vmcs, LaunchState) {
    let mut vmcs = Vmcs::new();
    for field in Field::all() {
        vmcs.set(field, read_field(memory, region, field));
    }
    (vmcs, launch_state(memory, region))
}

/// Writes fields and launch state into the region. The first eight bytes stay: no processor writes the revision identifier.
pub fn store<M: PhysMemory + ?Sized>(memory: &M, region: Hpa, vmcs: &Vmcs, launch_state: LaunchState) {
    for field in Field::all() {
        write_field(memory, region, field, vmcs.get(field));
    }
    set_launch_state(memory, region, launch_state);
}

/// One field of the VMCS in that region.
#[must_use]
pub fn read_field<M: PhysMemory + ?Sized>(memory: &M, region: Hpa, field: Field) -> u64 {
    memory.read_u64(field_address(region, field)) & field.row().width.mask()
}

/// Writes one field of the VMCS in that region; bits beyond the field's width are dropped.
pub fn write_field<M: PhysMemory + ?Sized>(memory: &M, region: Hpa, field: Field, value: u64) {
    memory.write_u64(field_address(region, field), value & field.row().width.mask());
}

/// The launch state of the VMCS in that region.
#[must_use]
pub fn launch_state<M: PhysMemory + ?Sized>(memory: &M, region: Hpa) -> LaunchState {
    match memory.read_u32(region.offset(LAUNCH_STATE_OFFSET_BYTES as u64)) {
        1 => LaunchState::Launched,
        _ => LaunchState::Clear,
    }
}

/// Writes the launch state of the VMCS in that region.
pub fn set_launch_state<M: PhysMemory + ?Sized>(memory: &M, region: Hpa, launch_state: LaunchState) {
    let value = u32::from(launch_state == LaunchState::Launched);
    memory.write_u32(region.offset(LAUNCH_STATE_OFFSET_BYTES as u64), value);
}
