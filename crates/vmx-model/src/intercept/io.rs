//! Does an I/O instruction exit?
//!
//! Source: SDM 3C (rev 077) 24.6.4, I/O-Bitmap Addresses; 25.1.3.

use super::bit_is_set;
use crate::control::Control;
use crate::fields::Field;
use crate::information::{IoAccess, io_access};
use crate::vmx::Vmx;
use x86_state::{Cpu, Gpr, Instruction, Op, PhysMemory};

/// Does the instruction exit?
///
/// A repeated string instruction whose count is 0 accesses no port and does not exit. The manual says so of the bitmaps only ("if it
/// attempts to access"); Bochs does so for both controls.
pub(super) fn intercepts<M: PhysMemory + ?Sized>(vmx: &Vmx, cpu: &Cpu, memory: &M, instruction: &Instruction) -> bool {
    let Some(access) = io_access(&instruction.op) else { return false };
    let counts = matches!(instruction.op, Op::StringIo { repeated: true, .. });
    if counts && cpu.gpr[Gpr::Rcx] & instruction.address_size.mask() == 0 {
        return false;
    }
    let controls = &vmx.guest.controls;
    if controls.has(Control::USE_IO_BITMAPS) {
        ports_intercepted(vmx, memory, &access)
    } else {
        controls.has(Control::UNCONDITIONAL_IO_EXITING)
    }
}

/// Is one of the ports of an access intercepted, or does the access wrap around port FFFF?
fn ports_intercepted<M: PhysMemory + ?Sized>(vmx: &Vmx, memory: &M, access: &IoAccess) -> bool {
    let (first, end) = (u32::from(access.port), u32::from(access.port) + u32::from(access.size_bytes));
    end > 0x1_0000
        || (first..end).any(|port| {
            // Bitmap A has ports 0000 to 7FFF, bitmap B the others.
            let bitmap = if port < 0x8000 { Field::IO_BITMAP_A_ADDRESS } else { Field::IO_BITMAP_B_ADDRESS };
            bit_is_set(memory, vmx.vmcs.get(bitmap), port & 0x7fff)
        })
}
