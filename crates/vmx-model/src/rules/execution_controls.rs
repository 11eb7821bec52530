//! What must the VM-execution control fields hold? Reserved bits, bitmaps, NMIs, VPID, VM functions, shadowing, tracing, TSC scaling.
//!
//! Source: SDM 3C 26.2.1.1 (rev 077), VM-Execution Control Fields. Its paragraphs about the APIC are in `apic_controls`, those about EPT
//! in `ept_controls`.
//!
//! Bits 63:32 of addresses: the manual repeats the limit of IA32_VMX_BASIC\[48\] in footnotes at the bitmaps of I/O and MSRs, the addresses
//! of the APIC and the MSR areas, and not at later structures. We do as it does; no processor has both the bit and such a structure.

use super::table::{Paragraph, rules};
use crate::context::ExecutionControls;
use crate::control::{Control, ControlVector};
use crate::fields::Field;
use crate::insn::TRACE_EN;
use crate::view::CpuInput;
use x86_state::VmxMsr;

/// 1.0 as a TSC multiplier: 48 fractional bits.
const TSC_MULTIPLIER_ONE: u64 = 1 << 48;

/// The reading of 31.15.4.2 that rows about a VM-execution control and another kind of control share.
pub(super) const WHOSE_CONTROLS: &str = "In a return from SMM the VM-execution control is the executive VMCS's (31.15.4.2), and the \
    manual does not say whose VM-exit or VM-entry control is meant. We take the current VMCS's, which the VM entry uses.";

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
        "ctl.proc.reserved" at 2 {
            says "Reserved bits of the primary processor-based VM-execution controls are set as the capability MSR demands.";
            fails VmFailValid(7);
            reads [
                field(Field::PRIMARY_PROC_BASED_CONTROLS), cap(VmxMsr::Basic), cap(VmxMsr::ProcbasedCtls), cap(VmxMsr::TrueProcbasedCtls),
            ];
            holds |c| c.allowed(ControlVector::Proc)?.allows(c.field(Field::PRIMARY_PROC_BASED_CONTROLS)?);
            hint "The control word was not adjusted with IA32_VMX_(TRUE_)PROCBASED_CTLS: OR the low half in, AND with the high half.";
            breaks |s| s.clear_bits(Field::PRIMARY_PROC_BASED_CONTROLS, 1 << 1);
            mends |s| s.adjust(ControlVector::Proc);
        }
        "ctl.proc2.reserved" at 3 {
            says "If \"activate secondary controls\" is 1, secondary processor-based VM-execution controls that the processor lacks are 0.";
            fails VmFailValid(7);
            reads [
                field(Field::SECONDARY_PROC_BASED_CONTROLS), ctl(Control::ACTIVATE_SECONDARY_CONTROLS), cap(VmxMsr::ProcbasedCtls2),
                cap(VmxMsr::Basic), cap(VmxMsr::ProcbasedCtls), cap(VmxMsr::TrueProcbasedCtls),
            ];
            // A processor that lacks the activating control does not look at the vector.
            when |c| c.ctl(Control::ACTIVATE_SECONDARY_CONTROLS)? && c.supports(Control::ACTIVATE_SECONDARY_CONTROLS)?;
            holds |c| c.allowed(ControlVector::Proc2)?.allows(c.field(Field::SECONDARY_PROC_BASED_CONTROLS)?);
            hint "A feature was turned on without a look at bits 63:32 of IA32_VMX_PROCBASED_CTLS2; under a hypervisor many are missing.";
            breaks |s| { s.on(Control::WBINVD_EXITING); s.lacks(VmxMsr::ProcbasedCtls2, Control::WBINVD_EXITING.mask() << 32) };
            mends |s| s.adjust(ControlVector::Proc2);
        }
        "ctl.proc3.reserved" at 4 {
            says "If \"activate tertiary controls\" is 1, tertiary processor-based VM-execution controls that the processor lacks are 0.";
            fails VmFailValid(7);
            reads [
                field(Field::TERTIARY_PROC_BASED_CONTROLS), ctl(Control::ACTIVATE_TERTIARY_CONTROLS), cap(VmxMsr::ProcbasedCtls3),
                cap(VmxMsr::Basic), cap(VmxMsr::ProcbasedCtls), cap(VmxMsr::TrueProcbasedCtls),
            ];
            when |c| c.ctl(Control::ACTIVATE_TERTIARY_CONTROLS)? && c.supports(Control::ACTIVATE_TERTIARY_CONTROLS)?;
            holds |c| c.allowed(ControlVector::Proc3)?.allows(c.field(Field::TERTIARY_PROC_BASED_CONTROLS)?);
            hint "IA32_VMX_PROCBASED_CTLS3 is one 64-bit mask of allowed bits, not two halves as the MSRs of the other vectors.";
            breaks |s| { s.on(Control::LOADIWKEY_EXITING); s.lacks(VmxMsr::ProcbasedCtls3, Control::LOADIWKEY_EXITING.mask()) };
            mends |s| s.adjust(ControlVector::Proc3);
        }
        "ctl.cr3_target_count" at 5 {
            says "The CR3-target count is at most the number of CR3-target values that bits 24:16 of IA32_VMX_MISC report.";
            fails VmFailValid(7);
            reads [field(Field::CR3_TARGET_COUNT), cap(VmxMsr::Misc)];
            holds |c| c.field(Field::CR3_TARGET_COUNT)? <= c.cap(VmxMsr::Misc)? >> 16 & 0x1ff;
            hint "The count is not initialized, or 4 was taken for granted: a hypervisor may offer fewer to its guests.";
            doubt "The text says 4 and, for later processors, the number in IA32_VMX_MISC. We take the MSR; on real processors it is 4.";
            breaks |s| s.set(Field::CR3_TARGET_COUNT, 5);
            mends |s| {
                let most = s.profile.vmx(VmxMsr::Misc).map_or(0, |misc| misc >> 16 & 0x1ff);
                s.set(Field::CR3_TARGET_COUNT, most)
            };
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
        "ctl.io_bitmaps.a_width" at 6 {
            says "If \"use I/O bitmaps\" is 1, the address of I/O bitmap A sets no bit beyond the physical-address width, nor in 63:32 if \
                  IA32_VMX_BASIC bit 48 is 1.";
            fails VmFailValid(7);
            reads [field(Field::IO_BITMAP_A_ADDRESS), ctl(Control::USE_IO_BITMAPS), PHYSICAL_WIDTH, cap(VmxMsr::Basic)];
            when |c| c.ctl(Control::USE_IO_BITMAPS)?;
            holds |c| !c.structure_address_too_wide(c.field(Field::IO_BITMAP_A_ADDRESS)?)?;
            hint "A virtual address was written where the physical address belongs.";
            breaks |s| { s.on(Control::USE_IO_BITMAPS); s.set(Field::IO_BITMAP_A_ADDRESS, 1 << 63) };
            mends |s| s.narrow(Field::IO_BITMAP_A_ADDRESS);
        }
        "ctl.io_bitmaps.b_aligned" at 6 {
            says "If \"use I/O bitmaps\" is 1, bits 11:0 of the address of I/O bitmap B are 0.";
            fails VmFailValid(7);
            reads [field(Field::IO_BITMAP_B_ADDRESS), ctl(Control::USE_IO_BITMAPS)];
            when |c| c.ctl(Control::USE_IO_BITMAPS)?;
            holds |c| c.field(Field::IO_BITMAP_B_ADDRESS)? & 0xfff == 0;
            hint "The bitmap is not page aligned.";
            breaks |s| { s.on(Control::USE_IO_BITMAPS); s.set(Field::IO_BITMAP_B_ADDRESS, 0x6008) };
            mends |s| s.clear_bits(Field::IO_BITMAP_B_ADDRESS, 0xfff);
        }
        "ctl.io_bitmaps.b_width" at 6 {
            says "If \"use I/O bitmaps\" is 1, the address of I/O bitmap B sets no bit beyond the physical-address width, nor in 63:32 if \
                  IA32_VMX_BASIC bit 48 is 1.";
            fails VmFailValid(7);
            reads [field(Field::IO_BITMAP_B_ADDRESS), ctl(Control::USE_IO_BITMAPS), PHYSICAL_WIDTH, cap(VmxMsr::Basic)];
            when |c| c.ctl(Control::USE_IO_BITMAPS)?;
            holds |c| !c.structure_address_too_wide(c.field(Field::IO_BITMAP_B_ADDRESS)?)?;
            hint "A virtual address was written where the physical address belongs.";
            breaks |s| { s.on(Control::USE_IO_BITMAPS); s.set(Field::IO_BITMAP_B_ADDRESS, 1 << 63) };
            mends |s| s.narrow(Field::IO_BITMAP_B_ADDRESS);
        }
        "ctl.msr_bitmaps.aligned" at 7 {
            says "If \"use MSR bitmaps\" is 1, bits 11:0 of the address of the MSR bitmaps are 0.";
            fails VmFailValid(7);
            reads [field(Field::MSR_BITMAPS_ADDRESS), ctl(Control::USE_MSR_BITMAPS)];
            when |c| c.ctl(Control::USE_MSR_BITMAPS)?;
            holds |c| c.field(Field::MSR_BITMAPS_ADDRESS)? & 0xfff == 0;
            hint "The bitmaps are not page aligned.";
            breaks |s| { s.on(Control::USE_MSR_BITMAPS); s.set(Field::MSR_BITMAPS_ADDRESS, 0x6800) };
            mends |s| s.clear_bits(Field::MSR_BITMAPS_ADDRESS, 0xfff);
        }
        "ctl.msr_bitmaps.width" at 7 {
            says "If \"use MSR bitmaps\" is 1, the address of the MSR bitmaps sets no bit beyond the physical-address width, nor in 63:32 \
                  if IA32_VMX_BASIC bit 48 is 1.";
            fails VmFailValid(7);
            reads [field(Field::MSR_BITMAPS_ADDRESS), ctl(Control::USE_MSR_BITMAPS), PHYSICAL_WIDTH, cap(VmxMsr::Basic)];
            when |c| c.ctl(Control::USE_MSR_BITMAPS)?;
            holds |c| !c.structure_address_too_wide(c.field(Field::MSR_BITMAPS_ADDRESS)?)?;
            hint "A virtual address was written where the physical address belongs.";
            breaks |s| { s.on(Control::USE_MSR_BITMAPS); s.set(Field::MSR_BITMAPS_ADDRESS, 1 << 63) };
            mends |s| s.narrow(Field::MSR_BITMAPS_ADDRESS);
        }
        "ctl.virtual_nmis.needs_nmi_exiting" at 11 {
            says "If \"NMI exiting\" is 0, \"virtual NMIs\" is 0.";
            fails VmFailValid(7);
            reads [ctl(Control::NMI_EXITING), ctl(Control::VIRTUAL_NMIS)];
            when |c| !c.ctl(Control::NMI_EXITING)?;
            holds |c| !c.ctl(Control::VIRTUAL_NMIS)?;
            hint "Virtual NMIs only make sense where the hypervisor takes the real ones: set \"NMI exiting\", too.";
            breaks |s| { s.off(Control::NMI_EXITING); s.on(Control::VIRTUAL_NMIS) };
            mends |s| s.require(Control::VIRTUAL_NMIS, Control::NMI_EXITING);
        }
        "ctl.nmi_window_exiting.needs_virtual_nmis" at 12 {
            says "If \"virtual NMIs\" is 0, \"NMI-window exiting\" is 0.";
            fails VmFailValid(7);
            reads [ctl(Control::VIRTUAL_NMIS), ctl(Control::NMI_WINDOW_EXITING)];
            when |c| !c.ctl(Control::VIRTUAL_NMIS)?;
            holds |c| !c.ctl(Control::NMI_WINDOW_EXITING)?;
            hint "An NMI window was asked for on a processor, or in a mode, without virtual NMIs.";
            breaks |s| { s.off(Control::VIRTUAL_NMIS); s.on(Control::NMI_WINDOW_EXITING) };
            mends |s| s.require(Control::NMI_WINDOW_EXITING, Control::VIRTUAL_NMIS);
        }
        "ctl.vpid.not_zero" at 18 {
            says "If \"enable VPID\" is 1, the VPID is not 0000H.";
            fails VmFailValid(7);
            reads [field(Field::VPID), ctl(Control::ENABLE_VPID)];
            when |c| c.ctl(Control::ENABLE_VPID)?;
            holds |c| c.field(Field::VPID)? != 0;
            hint "VPID 0 tags the hypervisor's own translations; number guests from 1.";
            breaks |s| { s.on(Control::ENABLE_VPID); s.set(Field::VPID, 0) };
            mends |s| s.set(Field::VPID, 1);
        }
        "ctl.vm_functions.reserved" at 23 {
            says "If \"enable VM functions\" is 1, VM-function controls that the processor lacks are 0.";
            fails VmFailValid(7);
            reads [field(Field::VM_FUNCTION_CONTROLS), ctl(Control::ENABLE_VM_FUNCTIONS), cap(VmxMsr::Vmfunc)];
            when |c| c.ctl(Control::ENABLE_VM_FUNCTIONS)?;
            holds |c| c.allowed(ControlVector::VmFunction)?.allows(c.field(Field::VM_FUNCTION_CONTROLS)?);
            hint "Only bits that are 1 in IA32_VMX_VMFUNC may be 1; so far that is bit 0, EPTP switching.";
            breaks |s| { s.on(Control::ENABLE_VM_FUNCTIONS); s.set(Field::VM_FUNCTION_CONTROLS, 1 << 63) };
            mends |s| s.adjust(ControlVector::VmFunction);
        }
        "ctl.vmread_bitmap.aligned" at 24 {
            says "If \"VMCS shadowing\" is 1, bits 11:0 of the VMREAD-bitmap address are 0.";
            fails VmFailValid(7);
            reads [field(Field::VMREAD_BITMAP_ADDRESS), ctl(Control::VMCS_SHADOWING)];
            when |c| c.ctl(Control::VMCS_SHADOWING)?;
            holds |c| c.field(Field::VMREAD_BITMAP_ADDRESS)? & 0xfff == 0;
            hint "The bitmap is not page aligned.";
            breaks |s| { s.on(Control::VMCS_SHADOWING); s.set(Field::VMREAD_BITMAP_ADDRESS, 0x6800) };
            mends |s| s.clear_bits(Field::VMREAD_BITMAP_ADDRESS, 0xfff);
        }
        "ctl.vmread_bitmap.width" at 24 {
            says "If \"VMCS shadowing\" is 1, the VMREAD-bitmap address sets no bit beyond the physical-address width.";
            fails VmFailValid(7);
            reads [field(Field::VMREAD_BITMAP_ADDRESS), ctl(Control::VMCS_SHADOWING), PHYSICAL_WIDTH];
            when |c| c.ctl(Control::VMCS_SHADOWING)?;
            holds |c| !c.beyond_physical_width(c.field(Field::VMREAD_BITMAP_ADDRESS)?);
            hint "A virtual address was written where the physical address belongs.";
            breaks |s| { s.on(Control::VMCS_SHADOWING); s.set(Field::VMREAD_BITMAP_ADDRESS, 1 << 63) };
            mends |s| s.narrow(Field::VMREAD_BITMAP_ADDRESS);
        }
        "ctl.vmwrite_bitmap.aligned" at 24 {
            says "If \"VMCS shadowing\" is 1, bits 11:0 of the VMWRITE-bitmap address are 0.";
            fails VmFailValid(7);
            reads [field(Field::VMWRITE_BITMAP_ADDRESS), ctl(Control::VMCS_SHADOWING)];
            when |c| c.ctl(Control::VMCS_SHADOWING)?;
            holds |c| c.field(Field::VMWRITE_BITMAP_ADDRESS)? & 0xfff == 0;
            hint "The bitmap is not page aligned.";
            breaks |s| { s.on(Control::VMCS_SHADOWING); s.set(Field::VMWRITE_BITMAP_ADDRESS, 0x6800) };
            mends |s| s.clear_bits(Field::VMWRITE_BITMAP_ADDRESS, 0xfff);
        }
        "ctl.vmwrite_bitmap.width" at 24 {
            says "If \"VMCS shadowing\" is 1, the VMWRITE-bitmap address sets no bit beyond the physical-address width.";
            fails VmFailValid(7);
            reads [field(Field::VMWRITE_BITMAP_ADDRESS), ctl(Control::VMCS_SHADOWING), PHYSICAL_WIDTH];
            when |c| c.ctl(Control::VMCS_SHADOWING)?;
            holds |c| !c.beyond_physical_width(c.field(Field::VMWRITE_BITMAP_ADDRESS)?);
            hint "A virtual address was written where the physical address belongs.";
            breaks |s| { s.on(Control::VMCS_SHADOWING); s.set(Field::VMWRITE_BITMAP_ADDRESS, 1 << 63) };
            mends |s| s.narrow(Field::VMWRITE_BITMAP_ADDRESS);
        }
        "ctl.load_rtit_ctl.not_while_tracing" at 26 {
            says "If Intel PT is tracing at VM entry (IA32_RTIT_CTL.TraceEn, bit 0, is 1), \"load IA32_RTIT_CTL\" is 0.";
            fails VmFailValid(7);
            reads [cpu(CpuInput::RtitCtl), ctl(Control::LOAD_RTIT_CTL)];
            when |c| c.cpu(CpuInput::RtitCtl)? & TRACE_EN != 0;
            holds |c| !c.ctl(Control::LOAD_RTIT_CTL)?;
            hint "The host's own trace must be stopped (TraceEn cleared) before an entry that gives the guest its IA32_RTIT_CTL.";
            breaks |s| { s.set_cpu(CpuInput::RtitCtl, TRACE_EN); s.on(Control::LOAD_RTIT_CTL) };
            mends |s| if s.can_clear(Control::LOAD_RTIT_CTL) {
                s.off(Control::LOAD_RTIT_CTL)
            } else {
                // The control cannot give way, so an earlier stage does.
                s.set_cpu(CpuInput::RtitCtl, s.cpu_input(CpuInput::RtitCtl) & !TRACE_EN)
            };
        }
        "ctl.pt_guest_physical.needs_load_rtit_ctl" at 27 {
            says "If \"Intel PT uses guest physical addresses\" is 1, the VM-entry control \"load IA32_RTIT_CTL\" is 1.";
            fails VmFailValid(7);
            reads [ctl(Control::PT_USES_GUEST_PHYSICAL_ADDRESSES), ctl(Control::LOAD_RTIT_CTL)];
            when |c| c.ctl(Control::PT_USES_GUEST_PHYSICAL_ADDRESSES)?;
            holds |c| c.ctl(Control::LOAD_RTIT_CTL)?;
            hint "A guest that traces into its own memory needs its IA32_RTIT_CTL loaded on entry and cleared on exit.";
            doubt WHOSE_CONTROLS;
            breaks |s| {
                crate::builder::enable_ept(s);
                s.on(Control::PT_USES_GUEST_PHYSICAL_ADDRESSES);
                s.on(Control::CLEAR_RTIT_CTL)
            };
            mends |s| s.require(Control::PT_USES_GUEST_PHYSICAL_ADDRESSES, Control::LOAD_RTIT_CTL);
        }
        "ctl.pt_guest_physical.needs_clear_rtit_ctl" at 27 {
            says "If \"Intel PT uses guest physical addresses\" is 1, the VM-exit control \"clear IA32_RTIT_CTL\" is 1.";
            fails VmFailValid(7);
            reads [ctl(Control::PT_USES_GUEST_PHYSICAL_ADDRESSES), ctl(Control::CLEAR_RTIT_CTL)];
            when |c| c.ctl(Control::PT_USES_GUEST_PHYSICAL_ADDRESSES)?;
            holds |c| c.ctl(Control::CLEAR_RTIT_CTL)?;
            hint "A guest that traces into its own memory needs its IA32_RTIT_CTL loaded on entry and cleared on exit.";
            doubt WHOSE_CONTROLS;
            breaks |s| {
                crate::builder::enable_ept(s);
                s.on(Control::PT_USES_GUEST_PHYSICAL_ADDRESSES);
                s.on(Control::LOAD_RTIT_CTL)
            };
            mends |s| s.require(Control::PT_USES_GUEST_PHYSICAL_ADDRESSES, Control::CLEAR_RTIT_CTL);
        }
        "ctl.tsc_multiplier.not_zero" at 28 {
            says "If \"use TSC scaling\" is 1, the TSC multiplier is not 0.";
            fails VmFailValid(7);
            reads [field(Field::TSC_MULTIPLIER), ctl(Control::USE_TSC_SCALING)];
            when |c| c.ctl(Control::USE_TSC_SCALING)?;
            holds |c| c.field(Field::TSC_MULTIPLIER)? != 0;
            hint "The multiplier has 48 fractional bits: 1.0 is 1 << 48, and a field that was never written is 0.";
            breaks |s| { s.on(Control::USE_TSC_SCALING); s.set(Field::TSC_MULTIPLIER, 0) };
            mends |s| s.set(Field::TSC_MULTIPLIER, TSC_MULTIPLIER_ONE);
        }
    }
}

/// The paragraphs of the whole section, those of `apic_controls` and `ept_controls` included.
pub(crate) const PARAGRAPHS: &[Paragraph] = &[
    Paragraph::rules("26.2.1.1", 1, "reserved pin-based controls"),
    Paragraph::rules("26.2.1.1", 2, "reserved primary processor-based controls"),
    Paragraph::rules("26.2.1.1", 3, "reserved secondary processor-based controls"),
    Paragraph::rules("26.2.1.1", 4, "reserved tertiary processor-based controls"),
    Paragraph::rules("26.2.1.1", 5, "CR3-target count"),
    Paragraph::rules("26.2.1.1", 6, "I/O bitmaps"),
    Paragraph::rules("26.2.1.1", 7, "MSR bitmaps"),
    Paragraph::rules("26.2.1.1", 8, "virtual-APIC address"),
    Paragraph::rules("26.2.1.1", 9, "TPR threshold, bits 31:4"),
    Paragraph::rules("26.2.1.1", 10, "TPR threshold and VTPR"),
    Paragraph::rules("26.2.1.1", 11, "virtual NMIs without NMI exiting"),
    Paragraph::rules("26.2.1.1", 12, "NMI-window exiting without virtual NMIs"),
    Paragraph::rules("26.2.1.1", 13, "APIC-access address"),
    Paragraph::rules("26.2.1.1", 14, "APIC virtualization without TPR shadow"),
    Paragraph::rules("26.2.1.1", 15, "x2APIC mode together with APIC accesses"),
    Paragraph::rules("26.2.1.1", 16, "virtual-interrupt delivery without external-interrupt exiting"),
    Paragraph::rules("26.2.1.1", 17, "posted interrupts"),
    Paragraph::rules("26.2.1.1", 18, "VPID"),
    Paragraph::rules("26.2.1.1", 19, "EPT pointer"),
    Paragraph::rules("26.2.1.1", 20, "controls that need EPT"),
    Paragraph::rules("26.2.1.1", 21, "PML address"),
    Paragraph::rules("26.2.1.1", 22, "sub-page-permission-table pointer"),
    Paragraph::rules("26.2.1.1", 23, "VM functions and EPTP switching"),
    Paragraph::rules("26.2.1.1", 24, "VMREAD and VMWRITE bitmaps"),
    Paragraph::rules("26.2.1.1", 25, "virtualization-exception information address"),
    Paragraph::rules("26.2.1.1", 26, "loading IA32_RTIT_CTL while tracing"),
    Paragraph::rules("26.2.1.1", 27, "Intel PT with guest-physical addresses"),
    Paragraph::rules("26.2.1.1", 28, "TSC multiplier"),
    Paragraph::rules("26.2.1.1", 29, "HLAT pointer"),
];
