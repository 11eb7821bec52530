//! What must the guest's RIP, RFLAGS and SSP hold?
//!
//! Source: SDM 3C 26.3.1.4 (rev 077), Checks on Guest RIP, RFLAGS, and SSP; 26.3.2.3, Loading Guest RIP, RSP, RFLAGS, and SSP.

use super::table::{Paragraph, rules};
use crate::context::Context;
use crate::control::Control;
use crate::fields::Field;
use crate::state::EntryState;
use crate::view::EntryView;
use x86_state::addr::{canonicalize, upper_bits_identical};
use x86_state::profile::{Knobs, RipWidth};
use x86_state::{CpuProfile, EventType, Feature};

const CR0_PE: u64 = 1;
const CR4_LA57: u64 = 1 << 12;
const HIGH_HALF: u64 = 0xffff_ffff_0000_0000;
/// Bit 13 of the access rights.
const CS_L: u64 = 1 << 13;
/// Bits 63:22, 15, 5 and 3.
const RFLAGS_ZEROS: u64 = 0xffff_ffff_ffc0_8028;
const RFLAGS_ONE: u64 = 1 << 1;
const RFLAGS_IF: u64 = 1 << 9;
const RFLAGS_VM: u64 = 1 << 17;

/// The guest will be in 64-bit mode: IA-32e mode with CS.L.
#[inline(always)]
fn in_64_bit_mode<V: EntryView>(c: &Context<'_, V>) -> Option<bool> {
    Some(c.guest_ia32e()? && c.field(Field::GUEST_CS_ACCESS_RIGHTS)? & CS_L != 0)
}

/// How many bits of RIP count, for a processor that asks the paging mode.
const fn paging_mode_width(cr4: u64) -> u8 {
    if cr4 & CR4_LA57 != 0 { 57 } else { 48 }
}

fn rip_width(profile: &CpuProfile, cr4: u64) -> u8 {
    match profile.knobs().rip_width {
        RipWidth::Processor => profile.linear_width(),
        RipWidth::PagingMode => paging_mode_width(cr4),
    }
}

/// Makes bits 63:`width` copies of bit `width`.
fn make_upper_bits_identical(s: &mut EntryState, field: Field, width: u8) {
    s.set(field, canonicalize(s.get(field), width + 1));
}

rules! {
    "26.3.1.4" when |c| c.intel64()? => {
        "guest.rip.high" at 1 {
            says "On processors that support Intel 64, bits 63:32 of RIP are 0 if \"IA-32e mode guest\" is 0 or L (bit 13) in the access \
                rights of CS is 0.";
            fails InvalidGuestState { qualification: 0 };
            reads [
                field(Field::GUEST_RIP), field(Field::GUEST_CS_ACCESS_RIGHTS), ctl(Control::IA32E_MODE_GUEST), has(Feature::LM),
            ];
            when |c| !in_64_bit_mode(c)?;
            holds |c| c.field(Field::GUEST_RIP)? >> 32 == 0;
            hint "RIP was advanced with 64-bit arithmetic past FFFFFFFFH, or CS is no 64-bit code segment although the guest is in 64-bit \
                mode.";
            base Compatibility;
            breaks |s| s.set(Field::GUEST_RIP, 1 << 32);
            mends |s| s.clear_bits(Field::GUEST_RIP, HIGH_HALF);
        }
        "guest.rip.upper_bits" at 1 {
            says "If \"IA-32e mode guest\" and L (bit 13) in the access rights of CS are 1, the bits of RIP at and above the \
                linear-address width are identical.";
            fails InvalidGuestState { qualification: 0 };
            reads [
                field(Field::GUEST_RIP), field(Field::GUEST_CS_ACCESS_RIGHTS), ctl(Control::IA32E_MODE_GUEST), has(Feature::LM),
                LINEAR_WIDTH, field(Field::GUEST_CR4),
            ];
            when |c| in_64_bit_mode(c)?;
            holds |c| {
                let rip = c.field(Field::GUEST_RIP)?;
                match c.profile().knobs().rip_width {
                    RipWidth::Processor => c.upper_bits_identical(rip),
                    RipWidth::PagingMode => upper_bits_identical(rip, paging_mode_width(c.field(Field::GUEST_CR4)?)),
                }
            };
            hint "A branch target or return address that is not canonical was stored: a processor would have raised #GP, and so must the \
                hypervisor that emulates the branch.";
            doubt "The SDM takes the width that the processor supports, the 5-level paging paper (3.1) that of the guest's paging mode: \
                57 bits with CR4.LA57, else 48. The knob rip_width chooses; the default is the SDM's. Both ask less than canonical: bit \
                N-1 may differ from bits 63:N. Bochs has no such check in 64-bit mode.";
            // At the paging mode's width, which asks for more, so that CR4 counts.
            breaks |s| {
                s.profile = s.profile.with_knobs(Knobs { rip_width: RipWidth::PagingMode, ..*s.profile.knobs() });
                s.set(Field::GUEST_RIP, 1 << 48);
            };
            mends |s| make_upper_bits_identical(s, Field::GUEST_RIP, rip_width(&s.profile, s.get(Field::GUEST_CR4)));
        }
    }
    "26.3.1.4" when |c| true => {
        "guest.rflags.reserved_zeros" at 2 {
            says "Bits 63:22, 15, 5 and 3 of RFLAGS are 0.";
            fails InvalidGuestState { qualification: 0 };
            reads [field(Field::GUEST_RFLAGS)];
            holds |c| c.field(Field::GUEST_RFLAGS)? & RFLAGS_ZEROS == 0;
            hint "A value that is not RFLAGS was written to the field, or it is not initialized.";
            breaks |s| s.set_bits(Field::GUEST_RFLAGS, 1 << 15);
            mends |s| s.clear_bits(Field::GUEST_RFLAGS, RFLAGS_ZEROS);
        }
        "guest.rflags.reserved_one" at 2 {
            says "Bit 1 of RFLAGS is 1.";
            fails InvalidGuestState { qualification: 0 };
            reads [field(Field::GUEST_RFLAGS)];
            holds |c| c.field(Field::GUEST_RFLAGS)? & RFLAGS_ONE != 0;
            hint "RFLAGS was set to 0; the emptiest valid value is 2.";
            breaks |s| s.clear_bits(Field::GUEST_RFLAGS, RFLAGS_ONE);
            mends |s| s.set_bits(Field::GUEST_RFLAGS, RFLAGS_ONE);
        }
        "guest.rflags.vm_ia32e" at 2 {
            says "VM (bit 17) of RFLAGS is 0 if \"IA-32e mode guest\" is 1.";
            fails InvalidGuestState { qualification: 0 };
            reads [field(Field::GUEST_RFLAGS), ctl(Control::IA32E_MODE_GUEST)];
            when |c| c.guest_ia32e()?;
            holds |c| !c.guest_v86()?;
            hint "IA-32e mode has no virtual-8086 mode.";
            base Virtual8086;
            breaks |s| {
                s.on(Control::IA32E_MODE_GUEST);
                s.set_bits(Field::GUEST_CR4, 1 << 5);
                s.set(Field::GUEST_IA32_EFER, 1 << 8 | 1 << 10);
            };
            mends |s| s.clear_bits(Field::GUEST_RFLAGS, RFLAGS_VM);
        }
        "guest.rflags.vm_needs_pe" at 2 {
            says "VM (bit 17) of RFLAGS is 0 if PE (bit 0) of CR0 is 0.";
            fails InvalidGuestState { qualification: 0 };
            reads [field(Field::GUEST_RFLAGS), field(Field::GUEST_CR0)];
            when |c| c.field(Field::GUEST_CR0)? & CR0_PE == 0;
            holds |c| !c.guest_v86()?;
            hint "Real mode is run either as it is (\"unrestricted guest\") or in virtual-8086 mode, with CR0.PE 1; the two were mixed.";
            base Virtual8086;
            breaks |s| {
                s.on(Control::UNRESTRICTED_GUEST);
                crate::builder::enable_ept(s);
                s.clear_bits(Field::GUEST_CR0, CR0_PE | 1 << 31);
            };
            mends |s| s.clear_bits(Field::GUEST_RFLAGS, RFLAGS_VM);
        }
        "guest.rflags.if_for_interrupt" at 2 {
            says "IF (bit 9) of RFLAGS is 1 if the VM entry injects an external interrupt (valid bit 31 is 1, type bits 10:8 are 0).";
            fails InvalidGuestState { qualification: 0 };
            reads [field(Field::GUEST_RFLAGS), field(Field::VM_ENTRY_INTERRUPTION_INFO)];
            when |c| { let event = c.injection()?; event.is_valid() && event.kind() == EventType::EXTERNAL_INTERRUPT };
            holds |c| c.field(Field::GUEST_RFLAGS)? & RFLAGS_IF != 0;
            hint "An interrupt was injected while the guest has interrupts off: open an interrupt window and inject then.";
            breaks |s| s.set(Field::VM_ENTRY_INTERRUPTION_INFO, 1 << 31 | 0x20);
            mends |s| s.set_bits(Field::GUEST_RFLAGS, RFLAGS_IF);
        }
    }
    "26.3.1.4" when |c| c.ctl(Control::LOAD_CET_STATE)? => {
        "guest.ssp.aligned" at 3 {
            says "If \"load CET state\" is 1, bits 1:0 of SSP are 0.";
            fails InvalidGuestState { qualification: 0 };
            reads [field(Field::GUEST_SSP), ctl(Control::LOAD_CET_STATE)];
            holds |c| c.field(Field::GUEST_SSP)? & 3 == 0;
            hint "Shadow stacks hold entries of 4 or 8 bytes; the field is not initialized.";
            breaks |s| { s.on(Control::LOAD_CET_STATE); s.set(Field::GUEST_SSP, 2) };
            mends |s| s.clear_bits(Field::GUEST_SSP, 3);
        }
        "guest.ssp.upper_bits" at 3 {
            says "If \"load CET state\" is 1, on processors that support Intel 64 the bits of SSP at and above the processor's \
                linear-address width are identical.";
            fails InvalidGuestState { qualification: 0 };
            reads [field(Field::GUEST_SSP), ctl(Control::LOAD_CET_STATE), LINEAR_WIDTH, has(Feature::LM)];
            when |c| c.intel64()?;
            holds |c| c.upper_bits_identical(c.field(Field::GUEST_SSP)?);
            hint "The field is not initialized.";
            doubt "Bochs demands a canonical address. The manual says expressly that SSP need not be canonical: bit N-1 may differ from \
                bits 63:N.";
            breaks |s| { s.on(Control::LOAD_CET_STATE); s.set(Field::GUEST_SSP, 1 << 63) };
            mends |s| make_upper_bits_identical(s, Field::GUEST_SSP, s.profile.linear_width());
        }
    }
    "26.3.2.3" when |c| c.ctl(Control::LOAD_CET_STATE)? => {
        "guest.ssp.high" at 2 {
            says "If \"load CET state\" is 1, on processors that support Intel 64 bits 63:32 of SSP are 0 unless the guest will be in \
                64-bit mode.";
            fails InvalidGuestState { qualification: 0 };
            reads [
                field(Field::GUEST_SSP), field(Field::GUEST_CS_ACCESS_RIGHTS), ctl(Control::IA32E_MODE_GUEST),
                ctl(Control::LOAD_CET_STATE), has(Feature::LM),
            ];
            when |c| c.intel64()? && !in_64_bit_mode(c)?;
            holds |c| c.field(Field::GUEST_SSP)? >> 32 == 0;
            hint "A 64-bit shadow-stack pointer was kept for a guest in compatibility or protected mode.";
            doubt "26.3.2.3 states the demand and refers to 26.3.1.4, which lacks it. Bochs checks it; no processor leaves \
                such an SSP outside 64-bit mode.";
            base Compatibility;
            breaks |s| { s.on(Control::LOAD_CET_STATE); s.set(Field::GUEST_SSP, 1 << 32) };
            mends |s| s.clear_bits(Field::GUEST_SSP, HIGH_HALF);
        }
    }
}

pub(crate) const PARAGRAPHS: &[Paragraph] = &[
    Paragraph::rules("26.3.1.4", 1, "RIP"),
    Paragraph::rules("26.3.1.4", 2, "RFLAGS"),
    Paragraph::rules("26.3.1.4", 3, "SSP"),
    Paragraph::no_rule(
        "26.3.2.3",
        1,
        "bits 63:32 of RSP outside 64-bit mode",
        "the processor may ignore them; nothing is demanded",
    ),
    Paragraph::rules("26.3.2.3", 2, "bits 63:32 of RIP, RFLAGS and SSP outside 64-bit mode"),
];
