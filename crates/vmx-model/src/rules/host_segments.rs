//! What must the host-state fields for segment and descriptor-table registers hold?
//!
//! Source: SDM 3C 26.2.3 (rev 077), Checks on Host Segment and Descriptor-Table Registers.

use super::host_address_space::legacy_host;
use super::table::{Paragraph, rules};
use crate::control::Control;
use crate::fields::Field;
use x86_state::Feature;
use x86_state::addr::canonicalize;

// A null selector is mended with 8, the first entry of the GDT behind the null descriptor.
rules! {
    "26.2.3" when |c| true => {
        "host.cs.selector_rpl_ti" at 1 {
            says "RPL (bits 1:0) and TI (bit 2) of the host CS selector are 0.";
            fails VmFailValid(8);
            reads [field(Field::HOST_CS_SELECTOR)];
            holds |c| c.field(Field::HOST_CS_SELECTOR)? & 7 == 0;
            hint "Use the selector of the kernel's code segment as it stands in CS at CPL 0; bits 2:0 are not part of the index.";
            breaks |s| s.set(Field::HOST_CS_SELECTOR, 0x13);
            mends |s| s.clear_bits(Field::HOST_CS_SELECTOR, 7);
        }
        "host.ss.selector_rpl_ti" at 1 {
            says "RPL (bits 1:0) and TI (bit 2) of the host SS selector are 0.";
            fails VmFailValid(8);
            reads [field(Field::HOST_SS_SELECTOR)];
            holds |c| c.field(Field::HOST_SS_SELECTOR)? & 7 == 0;
            hint "Use the selector of the kernel's stack segment as it stands in SS at CPL 0.";
            breaks |s| s.set(Field::HOST_SS_SELECTOR, 0x1b);
            mends |s| s.clear_bits(Field::HOST_SS_SELECTOR, 7);
        }
        "host.ds.selector_rpl_ti" at 1 {
            says "RPL (bits 1:0) and TI (bit 2) of the host DS selector are 0.";
            fails VmFailValid(8);
            reads [field(Field::HOST_DS_SELECTOR)];
            holds |c| c.field(Field::HOST_DS_SELECTOR)? & 7 == 0;
            hint "DS often holds a user selector with RPL 3: write the field with bits 2:0 cleared, or 0, and restore DS after the exit.";
            breaks |s| s.set(Field::HOST_DS_SELECTOR, 0x2b);
            mends |s| s.clear_bits(Field::HOST_DS_SELECTOR, 7);
        }
        "host.es.selector_rpl_ti" at 1 {
            says "RPL (bits 1:0) and TI (bit 2) of the host ES selector are 0.";
            fails VmFailValid(8);
            reads [field(Field::HOST_ES_SELECTOR)];
            holds |c| c.field(Field::HOST_ES_SELECTOR)? & 7 == 0;
            hint "ES often holds a user selector with RPL 3: write the field with bits 2:0 cleared, or 0, and restore ES after the exit.";
            breaks |s| s.set(Field::HOST_ES_SELECTOR, 0x2b);
            mends |s| s.clear_bits(Field::HOST_ES_SELECTOR, 7);
        }
        "host.fs.selector_rpl_ti" at 1 {
            says "RPL (bits 1:0) and TI (bit 2) of the host FS selector are 0.";
            fails VmFailValid(8);
            reads [field(Field::HOST_FS_SELECTOR)];
            holds |c| c.field(Field::HOST_FS_SELECTOR)? & 7 == 0;
            hint "FS often holds a user or LDT selector: write 0 and restore FS after the exit.";
            breaks |s| s.set(Field::HOST_FS_SELECTOR, 0x0f);
            mends |s| s.clear_bits(Field::HOST_FS_SELECTOR, 7);
        }
        "host.gs.selector_rpl_ti" at 1 {
            says "RPL (bits 1:0) and TI (bit 2) of the host GS selector are 0.";
            fails VmFailValid(8);
            reads [field(Field::HOST_GS_SELECTOR)];
            holds |c| c.field(Field::HOST_GS_SELECTOR)? & 7 == 0;
            hint "GS often holds a user or LDT selector: write 0 and restore GS after the exit.";
            breaks |s| s.set(Field::HOST_GS_SELECTOR, 0x0c);
            mends |s| s.clear_bits(Field::HOST_GS_SELECTOR, 7);
        }
        "host.tr.selector_rpl_ti" at 1 {
            says "RPL (bits 1:0) and TI (bit 2) of the host TR selector are 0.";
            fails VmFailValid(8);
            reads [field(Field::HOST_TR_SELECTOR)];
            holds |c| c.field(Field::HOST_TR_SELECTOR)? & 7 == 0;
            hint "Write what STR returns; a TSS descriptor lies in the GDT, so that TI is 0.";
            breaks |s| s.set(Field::HOST_TR_SELECTOR, 0x43);
            mends |s| s.clear_bits(Field::HOST_TR_SELECTOR, 7);
        }
        "host.cs.selector_not_null" at 2 {
            says "The host CS selector is not 0.";
            fails VmFailValid(8);
            reads [field(Field::HOST_CS_SELECTOR)];
            holds |c| c.field(Field::HOST_CS_SELECTOR)? != 0;
            hint "The field was never written.";
            breaks |s| s.set(Field::HOST_CS_SELECTOR, 0);
            mends |s| { if s.get(Field::HOST_CS_SELECTOR) == 0 { s.set(Field::HOST_CS_SELECTOR, 8) } };
        }
        "host.tr.selector_not_null" at 2 {
            says "The host TR selector is not 0.";
            fails VmFailValid(8);
            reads [field(Field::HOST_TR_SELECTOR)];
            holds |c| c.field(Field::HOST_TR_SELECTOR)? != 0;
            hint "The host has no task register loaded (LTR), as in firmware and small kernels: VMX needs a TSS, if only a dummy.";
            breaks |s| s.set(Field::HOST_TR_SELECTOR, 0);
            mends |s| { if s.get(Field::HOST_TR_SELECTOR) == 0 { s.set(Field::HOST_TR_SELECTOR, 8) } };
        }
        "host.ss.selector_not_null" at 3 {
            says "If \"host address-space size\" is 0, the host SS selector is not 0.";
            fails VmFailValid(8);
            reads [field(Field::HOST_SS_SELECTOR), ctl(Control::HOST_ADDRESS_SPACE_SIZE)];
            when |c| !c.ctl(Control::HOST_ADDRESS_SPACE_SIZE)?;
            holds |c| c.field(Field::HOST_SS_SELECTOR)? != 0;
            hint "Only a 64-bit host may run with a null SS.";
            base Protected32;
            breaks |s| { legacy_host(s); s.set(Field::HOST_SS_SELECTOR, 0) };
            mends |s| { if s.get(Field::HOST_SS_SELECTOR) == 0 { s.set(Field::HOST_SS_SELECTOR, 8) } };
        }
        "host.fs.base_canonical" at 4 {
            says "On processors that support Intel 64, the host FS base is a canonical address.";
            fails VmFailValid(8);
            reads [field(Field::HOST_FS_BASE), LINEAR_WIDTH, has(Feature::LM)];
            when |c| c.intel64()?;
            holds |c| c.canonical(c.field(Field::HOST_FS_BASE)?);
            hint "Read the base from MSR 0xC0000100, not from the descriptor.";
            breaks |s| s.set(Field::HOST_FS_BASE, 1 << 63);
            mends |s| s.set(Field::HOST_FS_BASE, canonicalize(s.get(Field::HOST_FS_BASE), s.profile.linear_width()));
        }
        "host.gs.base_canonical" at 4 {
            says "On processors that support Intel 64, the host GS base is a canonical address.";
            fails VmFailValid(8);
            reads [field(Field::HOST_GS_BASE), LINEAR_WIDTH, has(Feature::LM)];
            when |c| c.intel64()?;
            holds |c| c.canonical(c.field(Field::HOST_GS_BASE)?);
            hint "Read the base from MSR 0xC0000101, not from the descriptor.";
            breaks |s| s.set(Field::HOST_GS_BASE, 1 << 63);
            mends |s| s.set(Field::HOST_GS_BASE, canonicalize(s.get(Field::HOST_GS_BASE), s.profile.linear_width()));
        }
        "host.gdtr.base_canonical" at 4 {
            says "On processors that support Intel 64, the host GDTR base is a canonical address.";
            fails VmFailValid(8);
            reads [field(Field::HOST_GDTR_BASE), LINEAR_WIDTH, has(Feature::LM)];
            when |c| c.intel64()?;
            holds |c| c.canonical(c.field(Field::HOST_GDTR_BASE)?);
            hint "SGDT stores a 10-byte operand: is the base read from offset 2, with all 8 bytes?";
            breaks |s| s.set(Field::HOST_GDTR_BASE, 1 << 63);
            mends |s| s.set(Field::HOST_GDTR_BASE, canonicalize(s.get(Field::HOST_GDTR_BASE), s.profile.linear_width()));
        }
        "host.idtr.base_canonical" at 4 {
            says "On processors that support Intel 64, the host IDTR base is a canonical address.";
            fails VmFailValid(8);
            reads [field(Field::HOST_IDTR_BASE), LINEAR_WIDTH, has(Feature::LM)];
            when |c| c.intel64()?;
            holds |c| c.canonical(c.field(Field::HOST_IDTR_BASE)?);
            hint "SIDT stores a 10-byte operand: is the base read from offset 2, with all 8 bytes?";
            breaks |s| s.set(Field::HOST_IDTR_BASE, 1 << 63);
            mends |s| s.set(Field::HOST_IDTR_BASE, canonicalize(s.get(Field::HOST_IDTR_BASE), s.profile.linear_width()));
        }
        "host.tr.base_canonical" at 4 {
            says "On processors that support Intel 64, the host TR base is a canonical address.";
            fails VmFailValid(8);
            reads [field(Field::HOST_TR_BASE), LINEAR_WIDTH, has(Feature::LM)];
            when |c| c.intel64()?;
            holds |c| c.canonical(c.field(Field::HOST_TR_BASE)?);
            hint "A 64-bit TSS descriptor has 16 bytes: are bits 63:32 of the base taken from its upper half?";
            breaks |s| s.set(Field::HOST_TR_BASE, 1 << 63);
            mends |s| s.set(Field::HOST_TR_BASE, canonicalize(s.get(Field::HOST_TR_BASE), s.profile.linear_width()));
        }
    }
}

pub(crate) const PARAGRAPHS: &[Paragraph] = &[
    Paragraph::rules("26.2.3", 1, "RPL and TI of the selectors"),
    Paragraph::rules("26.2.3", 2, "CS and TR selectors are not null"),
    Paragraph::rules("26.2.3", 3, "SS selector is not null in a 32-bit host"),
    Paragraph::rules("26.2.3", 4, "base addresses"),
];
