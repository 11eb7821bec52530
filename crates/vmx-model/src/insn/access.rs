//! What do VMREAD and VMWRITE move? Fields of each width, in each mode, from and to the current VMCS or a shadow VMCS.
//!
//! Source: SDM 3C (rev 077) 24.10, VMCS Types: Ordinary and Shadow; 24.11.2, VMREAD, VMWRITE, and Encodings of VMCS Fields; 30.3, VMX
//! Instructions.

use super::operands::wide;
use super::region;
use crate::fields::{Field, FieldEncoding};
use crate::known::Operation;
use crate::vmx::Vmx;
use x86_state::{Cpu, Hpa, PhysMemory, Platform};

/// Where the instruction finds its VMCS.
enum Place {
    /// On the processor.
    Current,
    /// In memory: the VMCS that the link pointer references.
    Linked(Hpa),
}

fn place(vmx: &Vmx) -> Place {
    match vmx.state.operation {
        Operation::NonRoot => Place::Linked(Hpa(vmx.vmcs.get(Field::VMCS_LINK_POINTER))),
        Operation::Outside | Operation::Root => Place::Current,
    }
}

/// What VMREAD gives its destination: 64 bits in 64-bit mode, else 32, zero-extended.
pub(super) fn read<M: PhysMemory + ?Sized>(vmx: &Vmx, cpu: &Cpu, memory: &M, encoding: FieldEncoding) -> u64 {
    let Some(field) = encoding.field() else { return 0 };
    let whole = match place(vmx) {
        Place::Current => vmx.vmcs.get(field),
        Place::Linked(region) => region::read_field(memory, region, field),
    };
    let value = if encoding.is_high() { whole >> 32 } else { whole };
    if wide(cpu) { value } else { value & 0xffff_ffff }
}

/// Does what VMWRITE does with its source, which has 64 bits in 64-bit mode, else 32, zero-extended.
pub(super) fn write<M, R>(vmx: &mut Vmx, platform: &Platform<'_, M, R>, encoding: FieldEncoding, source: u64)
where
    M: PhysMemory + ?Sized,
    R: ?Sized,
{
    let memory = platform.memory;
    let Some(field) = encoding.field() else { return };
    let replaced = |whole: u64| match encoding.is_high() {
        true => whole & 0xffff_ffff | source << 32,
        // Outside 64-bit mode bits 63:32 of a longer field become 0.
        false => source,
    };
    match place(vmx) {
        Place::Linked(region) => {
            let whole = region::read_field(memory, region, field);
            region::write_field(memory, region, field, replaced(whole));
        }
        Place::Current => vmx.set_field(platform, field, replaced(vmx.vmcs.get(field))),
    }
}
