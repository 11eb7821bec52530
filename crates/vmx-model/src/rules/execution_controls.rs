//! What must the VM-execution control fields hold?
//!
//! Source: SDM 3C 26.2.1.1 (rev 077), VM-Execution Control Fields.

use super::table::{Paragraph, rules};
use crate::context::ExecutionControls;
use crate::control::{Control, ControlVector};
use crate::fields::Field;
use x86_state::VmxMsr;

rules! {
    // A VM entry that returns from SMM to VMX root operation does not check these fields (31.15.4.2).
    "26.2.1.1" when |c| c.execution_controls() != ExecutionControls::None => {
        "ctl.pin.reserved" at 1 {
            says "Reserved bits of the pin-based VM-execution controls are set as the capability MSR demands.";
            fails VmFailValid(7);
            reads [field(Field::PIN_BASED_CONTROLS), cap(VmxMsr::Basic), cap(VmxMsr::PinbasedCtls), cap(VmxMsr::TruePinbasedCtls)];
            holds |c| c.allowed(ControlVector::Pin)?.allows(c.field(Field::PIN_BASED_CONTROLS)?);
            hint "The control word was not adjusted with IA32_VMX_(TRUE_)PINBASED_CTLS: OR the low half in, AND with the high half.";
            breaks |s| s.clear_bits(Field::PIN_BASED_CONTROLS, 1 << 1);
            mends |s| s.adjust(ControlVector::Pin);
        }
        "ctl.io_bitmaps.a_aligned" at 6 {
            says "If \"use I/O bitmaps\" is 1, bits 11:0 of the address of I/O bitmap A are 0.";
            fails VmFailValid(7);
            reads [field(Field::IO_BITMAP_A_ADDRESS), ctl(Control::USE_IO_BITMAPS)];
            when |c| c.ctl(Control::USE_IO_BITMAPS)?;
            holds |c| c.field(Field::IO_BITMAP_A_ADDRESS)? & 0xfff == 0;
            hint "The bitmap is not page aligned.";
            breaks |s| { s.on(Control::USE_IO_BITMAPS); s.set(Field::IO_BITMAP_A_ADDRESS, 0x6008) };
            mends |s| s.clear_bits(Field::IO_BITMAP_A_ADDRESS, 0xfff);
        }
    }
}

pub(crate) const PARAGRAPHS: &[Paragraph] = &[
    Paragraph::rules("26.2.1.1", 1, "reserved pin-based controls"),
    Paragraph::rules("26.2.1.1", 6, "I/O bitmaps"),
];
