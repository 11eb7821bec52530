//! What do features later than SDM revision 077 demand of a VM entry? (FRED has a file of its own.)
//!
//! Sources: "SDM 3C rev 092" is the manual's revision of June 2026 (326019-092US; read in a translation, since only revision 077 is at
//! hand), chapter 29, VM Entries. A row stands here if a second source agrees: Bochs (`bochs/cpu/vmx.cc`) for IA32_SPEC_CTRL and UINV,
//! Linux (Intel's APIC-timer series for `arch/x86/kvm/vmx/nested.c`) for the APIC timer. Paragraphs are counted as in that revision; those
//! that say what revision 077 says are not repeated.

use super::table::{Paragraph, rules};
use crate::control::Control;
use crate::fields::Field;
use crate::state::EntryState;
use x86_state::MaskedMsr;

/// Virtual interrupts in a valid state, with a virtual-APIC page at `page`.
fn deliver_virtual_interrupts(s: &mut EntryState, page: u64) {
    s.on(Control::EXTERNAL_INTERRUPT_EXITING);
    s.on(Control::USE_TPR_SHADOW);
    s.set(Field::VIRTUAL_APIC_ADDRESS, page);
    s.on(Control::VIRTUAL_INTERRUPT_DELIVERY);
}

rules! {
    "29.2.1.1" when |c| c.ctl(Control::VIRTUALIZE_APIC_TIMER)? => {
        "ctl.apic_timer.needs_virtual_interrupts" at 25 {
            says "If \"APIC-timer virtualization\" is 1, \"virtual-interrupt delivery\" is 1.";
            fails VmFailValid(7);
            reads [ctl(Control::VIRTUALIZE_APIC_TIMER), ctl(Control::VIRTUAL_INTERRUPT_DELIVERY)];
            holds |c| c.ctl(Control::VIRTUAL_INTERRUPT_DELIVERY)?;
            hint "The guest's timer interrupt is a virtual interrupt: without their delivery it could not arrive.";
            breaks |s| s.on(Control::VIRTUALIZE_APIC_TIMER);
            mends |s| s.off(Control::VIRTUALIZE_APIC_TIMER);
        }
        "ctl.apic_timer.rdtsc_exiting" at 25 {
            says "If \"APIC-timer virtualization\" is 1, \"RDTSC exiting\" is 0.";
            fails VmFailValid(7);
            reads [ctl(Control::VIRTUALIZE_APIC_TIMER), ctl(Control::RDTSC_EXITING)];
            holds |c| !c.ctl(Control::RDTSC_EXITING)?;
            hint "The guest sets its deadline in terms of the time-stamp counter that it reads itself.";
            breaks |s| {
                deliver_virtual_interrupts(s, 0x7000);
                s.on(Control::VIRTUALIZE_APIC_TIMER);
                s.on(Control::RDTSC_EXITING);
            };
            mends |s| s.off(Control::VIRTUALIZE_APIC_TIMER);
        }
        "ctl.apic_timer.vector" at 25 {
            says "If \"APIC-timer virtualization\" is 1, bits 15:8 of the virtual timer vector are 0.";
            fails VmFailValid(7);
            reads [ctl(Control::VIRTUALIZE_APIC_TIMER), field(Field::VIRTUAL_TIMER_VECTOR)];
            holds |c| c.field(Field::VIRTUAL_TIMER_VECTOR)? <= 0xff;
            hint "The field is 16 bits wide; a vector has 8. Was the whole LVT entry written?";
            breaks |s| {
                deliver_virtual_interrupts(s, 0x7000);
                s.on(Control::VIRTUALIZE_APIC_TIMER);
                s.set(Field::VIRTUAL_TIMER_VECTOR, 0x1ec);
            };
            mends |s| s.clear_bits(Field::VIRTUAL_TIMER_VECTOR, 0xff00);
        }
    }
    "29.2.2" when |c| c.ctl(Control::HOST_LOAD_SPEC_CTRL)? => {
        "host.spec_ctrl.reserved" at 13 {
            says "If VM exits load IA32_SPEC_CTRL, its host field sets no bit that is reserved in the MSR.";
            fails VmFailValid(8);
            reads [field(Field::HOST_IA32_SPEC_CTRL), ctl(Control::HOST_LOAD_SPEC_CTRL), msr_mask(MaskedMsr::SpecCtrl)];
            holds |c| !c.sets_reserved(MaskedMsr::SpecCtrl, c.field(Field::HOST_IA32_SPEC_CTRL)?)?;
            hint "A mitigation bit that this processor's CPUID does not report.";
            breaks |s| { s.on(Control::HOST_LOAD_SPEC_CTRL); s.set(Field::HOST_IA32_SPEC_CTRL, 1 << 63) };
            mends |s| s.clear_bits(Field::HOST_IA32_SPEC_CTRL, s.profile.mask(MaskedMsr::SpecCtrl).reserved());
        }
    }
    "29.3.1.1" when |c| true => {
        "guest.uinv.high" at 15 {
            says "If VM entry loads UINV, bits 15:8 of the guest UINV field are 0.";
            fails InvalidGuestState { qualification: 0 };
            reads [field(Field::GUEST_UINV), ctl(Control::LOAD_UINV)];
            when |c| c.ctl(Control::LOAD_UINV)?;
            holds |c| c.field(Field::GUEST_UINV)? <= 0xff;
            hint "The user-interrupt notification vector is bits 39:32 of IA32_UINTR_MISC, 8 bits.";
            breaks |s| { s.on(Control::LOAD_UINV); s.set(Field::GUEST_UINV, 0x1ec) };
            mends |s| s.clear_bits(Field::GUEST_UINV, 0xff00);
        }
        "guest.spec_ctrl.reserved" at 17 {
            says "If VM entry loads IA32_SPEC_CTRL, its guest field sets no bit that is reserved in the MSR.";
            fails InvalidGuestState { qualification: 0 };
            reads [field(Field::GUEST_IA32_SPEC_CTRL), ctl(Control::LOAD_SPEC_CTRL), msr_mask(MaskedMsr::SpecCtrl)];
            when |c| c.ctl(Control::LOAD_SPEC_CTRL)?;
            holds |c| !c.sets_reserved(MaskedMsr::SpecCtrl, c.field(Field::GUEST_IA32_SPEC_CTRL)?)?;
            hint "A mitigation bit that this processor's CPUID does not report.";
            breaks |s| { s.on(Control::LOAD_SPEC_CTRL); s.set(Field::GUEST_IA32_SPEC_CTRL, 1 << 63) };
            mends |s| s.clear_bits(Field::GUEST_IA32_SPEC_CTRL, s.profile.mask(MaskedMsr::SpecCtrl).reserved());
        }
    }
}

const NO_CHECK: &str = "no source names a check of it at VM entry";

pub(crate) const PARAGRAPHS: &[Paragraph] = &[
    Paragraph::no_rule(
        "29.2.1.1",
        6,
        "PASID translation: bits 11:0 and width of both PASID-directory addresses",
        "one source only: SDM 3C rev 092",
    ),
    Paragraph::no_rule(
        "29.2.1.1",
        11,
        "IPI virtualization needs \"use TPR shadow\"",
        "one source only: SDM 3C rev 092",
    ),
    Paragraph::no_rule(
        "29.2.1.1",
        15,
        "IPI virtualization: bits 2:0 and width of the PID-pointer table's address, width of its last entry's",
        "one source only: SDM 3C rev 092",
    ),
    Paragraph::no_rule(
        "29.2.1.1",
        18,
        "\"PEBS uses guest physical addresses\" needs \"enable EPT\"",
        "one source only: SDM 3C rev 092; softvirt does not know the control",
    ),
    Paragraph::no_rule(
        "29.2.1.1",
        19,
        "shared EPT pointer in SEAM",
        "only a TDX module's VM entries, in SEAM VMX root operation, which softvirt does not model",
    ),
    Paragraph::rules("29.2.1.1", 25, "APIC-timer virtualization"),
    Paragraph::rules("29.2.2", 13, "host IA32_SPEC_CTRL"),
    Paragraph::rules("29.3.1.1", 15, "guest UINV"),
    Paragraph::rules("29.3.1.1", 17, "guest IA32_SPEC_CTRL"),
    Paragraph::no_rule("rev 078+", 1, "\"virtualize IA32_SPEC_CTRL\": mask and shadow", NO_CHECK),
    Paragraph::no_rule("rev 078+", 2, "HLAT prefix size", NO_CHECK),
    Paragraph::no_rule("rev 078+", 3, "instruction timeout and VMM bus-lock detection", NO_CHECK),
    Paragraph::no_rule("rev 078+", 4, "MSR-list instructions", NO_CHECK),
    Paragraph::no_rule(
        "rev 078+",
        5,
        "secondary VM-exit controls: \"prematurely busy shadow stack\", \"save FRED\"",
        NO_CHECK,
    ),
    Paragraph::no_rule("rev 078+", 6, "guest deadline and its shadow", NO_CHECK),
    Paragraph::no_rule("rev 078+", 7, "IA32_FRED_STKLVLS", "every value is valid"),
    Paragraph::no_rule(
        "rev 078+",
        8,
        "injected-event data",
        "every value is valid: it is what FRED event delivery saves",
    ),
];
