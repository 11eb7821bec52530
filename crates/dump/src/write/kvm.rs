//! How does KVM print a VMCS?

use super::{Reading, Text};
use crate::Facts;
use crate::event::MsrEntry;
use vmx_model::{Control, Field, Vmcs};
use x86_state::SegmentRegister::{Cs, Ds, Es, Fs, Gs, Ldtr, Ss, Tr};

/// A generation of `dump_vmcs`, named after a kernel that has it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum KvmGeneration {
    /// 4.3 to 4.9.
    V4_4,
    /// 4.10 to 5.10.
    V5_2,
    /// 5.11 to 5.18.
    V5_11,
    /// 5.19 to 6.9.
    V5_19,
    /// 6.18 on.
    V6_18,
}

impl KvmGeneration {
    /// All generations, oldest first.
    pub const ALL: [Self; 5] = [Self::V4_4, Self::V5_2, Self::V5_11, Self::V5_19, Self::V6_18];
}

const CR4_PAE: u64 = 1 << 5;
const EFER_LMA: u64 = 1 << 10;

/// Prints the VMCS as KVM does; from `facts` come the MSR lists and the effective IA32_EFER.
#[must_use]
pub fn kvm(vmcs: &Vmcs, facts: &Facts, generation: KvmGeneration) -> Text {
    let mut out = Reading::new(vmcs);
    if generation >= KvmGeneration::V5_11 {
        out.line(format!("VMCS {:016x}, last attempted VM-entry on CPU 3", facts.vmcs_pointer.unwrap_or(0)));
    }
    guest(&mut out, facts, generation);
    host(&mut out, facts, generation);
    control(&mut out, generation);
    out.text
}

/// Does the control bit count in `vmcs`?
fn on(out: &Reading<'_>, control: Control) -> bool {
    out.has(control.vector().field(), control.mask())
}

fn guest(out: &mut Reading<'_>, facts: &Facts, generation: KvmGeneration) {
    out.line("*** Guest State ***");
    for (name, actual, shadow, mask) in [
        ("CR0", Field::GUEST_CR0, Field::CR0_READ_SHADOW, Field::CR0_GUEST_HOST_MASK),
        ("CR4", Field::GUEST_CR4, Field::CR4_READ_SHADOW, Field::CR4_GUEST_HOST_MASK),
    ] {
        let (actual, shadow, mask) = (out.get(actual), out.get(shadow), out.get(mask));
        out.line(format!("{name}: actual=0x{actual:016x}, shadow=0x{shadow:016x}, gh_mask={mask:016x}"));
    }
    let cr3 = out.get(Field::GUEST_CR3);
    out.line(format!("CR3 = 0x{cr3:016x}"));
    let pae = out.has(Field::GUEST_CR4, CR4_PAE) && !out.has(Field::GUEST_IA32_EFER, EFER_LMA);
    if on(out, Control::ENABLE_EPT) && (pae || generation >= KvmGeneration::V5_11) {
        for (first, a, b) in
            [(0, Field::GUEST_PDPTE0, Field::GUEST_PDPTE1), (2, Field::GUEST_PDPTE2, Field::GUEST_PDPTE3)]
        {
            let (a, b) = (out.get(a), out.get(b));
            out.line(format!("PDPTR{first} = 0x{a:016x}  PDPTR{} = 0x{b:016x}", first + 1));
        }
    }
    let (rsp, rip) = (out.get(Field::GUEST_RSP), out.get(Field::GUEST_RIP));
    out.line(format!("RSP = 0x{rsp:016x}  RIP = 0x{rip:016x}"));
    let (rflags, dr7) = (out.get(Field::GUEST_RFLAGS), out.get(Field::GUEST_DR7));
    out.line(format!("RFLAGS=0x{rflags:08x}         DR7 = 0x{dr7:016x}"));
    sysenter(out, Field::GUEST_IA32_SYSENTER_ESP, Field::GUEST_IA32_SYSENTER_CS, Field::GUEST_IA32_SYSENTER_EIP);
    for (name, register) in [("CS:  ", Cs), ("DS:  ", Ds), ("SS:  ", Ss), ("ES:  ", Es), ("FS:  ", Fs), ("GS:  ", Gs)] {
        segment(out, name, register);
    }
    table(out, "GDTR:", Field::GUEST_GDTR_LIMIT, Field::GUEST_GDTR_BASE);
    segment(out, "LDTR:", Ldtr);
    table(out, "IDTR:", Field::GUEST_IDTR_LIMIT, Field::GUEST_IDTR_BASE);
    segment(out, "TR:  ", Tr);
    guest_msrs(out, facts, generation);
    let (debugctl, pending) = (out.get(Field::GUEST_IA32_DEBUGCTL), out.get(Field::GUEST_PENDING_DEBUG_EXCEPTIONS));
    out.line(format!("DebugCtl = 0x{debugctl:016x}  DebugExceptions = 0x{pending:016x}"));
    if on(out, Control::LOAD_PERF_GLOBAL_CTRL) {
        let value = out.get(Field::GUEST_IA32_PERF_GLOBAL_CTRL);
        out.line(format!("PerfGlobCtl = 0x{value:016x}"));
    }
    if on(out, Control::LOAD_BNDCFGS) {
        let value = out.get(Field::GUEST_IA32_BNDCFGS);
        out.line(format!("BndCfgS = 0x{value:016x}"));
    }
    let (interruptibility, activity) =
        (out.get(Field::GUEST_INTERRUPTIBILITY_STATE), out.get(Field::GUEST_ACTIVITY_STATE));
    out.line(format!("Interruptibility = {interruptibility:08x}  ActivityState = {activity:08x}"));
    if on(out, Control::VIRTUAL_INTERRUPT_DELIVERY) {
        let status = out.get(Field::GUEST_INTERRUPT_STATUS);
        out.line(format!("InterruptStatus = {status:04x}"));
    }
    if generation >= KvmGeneration::V5_11 {
        msrs(out, "guest autoload", facts.msr_lists.entry_load.as_deref(), Field::VM_ENTRY_MSR_LOAD_COUNT);
        msrs(out, "guest autostore", facts.msr_lists.exit_store.as_deref(), Field::VM_EXIT_MSR_STORE_COUNT);
    }
    if generation >= KvmGeneration::V6_18 && on(out, Control::LOAD_CET_STATE) {
        cet(out, Field::GUEST_IA32_S_CET, Field::GUEST_SSP, Field::GUEST_IA32_INTERRUPT_SSP_TABLE_ADDR);
    }
}

fn guest_msrs(out: &mut Reading<'_>, facts: &Facts, generation: KvmGeneration) {
    if generation < KvmGeneration::V5_11 {
        let printed = [Control::SAVE_PAT, Control::SAVE_EFER, Control::LOAD_PAT, Control::LOAD_EFER];
        if printed.into_iter().any(|control| on(out, control)) {
            let (efer, pat) = (out.get(Field::GUEST_IA32_EFER), out.get(Field::GUEST_IA32_PAT));
            out.line(format!("EFER =     0x{efer:016x}  PAT = 0x{pat:016x}"));
        }
        return;
    }
    if on(out, Control::LOAD_EFER) {
        let efer = out.get(Field::GUEST_IA32_EFER);
        out.line(format!("EFER= 0x{efer:016x}"));
    } else if let Some(efer) = facts.autoload_efer {
        out.line(format!("EFER= 0x{efer:016x} (autoload)"));
    } else {
        out.line(format!("EFER= 0x{:016x} (effective)", facts.effective_efer.unwrap_or(0)));
    }
    if on(out, Control::LOAD_PAT) {
        let pat = out.get(Field::GUEST_IA32_PAT);
        out.line(format!("PAT = 0x{pat:016x}"));
    }
}

fn sysenter(out: &mut Reading<'_>, esp: Field, cs: Field, eip: Field) {
    let (esp, cs, eip) = (out.get(esp), out.get(cs), out.get(eip));
    out.line(format!("Sysenter RSP={esp:016x} CS:RIP={cs:04x}:{eip:016x}"));
}

fn segment(out: &mut Reading<'_>, name: &str, register: x86_state::SegmentRegister) {
    let (selector, rights) = (out.get(Field::guest_selector(register)), out.get(Field::guest_access_rights(register)));
    let (limit, base) = (out.get(Field::guest_limit(register)), out.get(Field::guest_base(register)));
    out.line(format!("{name} sel=0x{selector:04x}, attr=0x{rights:05x}, limit=0x{limit:08x}, base=0x{base:016x}"));
}

fn table(out: &mut Reading<'_>, name: &str, limit: Field, base: Field) {
    let (limit, base) = (out.get(limit), out.get(base));
    out.line(format!("{name}                           limit=0x{limit:08x}, base=0x{base:016x}"));
}

fn msrs(out: &mut Reading<'_>, name: &str, list: Option<&[MsrEntry]>, count: Field) {
    let Some(list) = list.filter(|list| !list.is_empty()) else { return };
    out.text.fields.push(count);
    out.line(format!("MSR {name}:"));
    for (position, entry) in list.iter().enumerate() {
        out.line(format!("  {position:2}: msr=0x{:08x} value=0x{:016x}", entry.index, entry.value));
    }
}

fn cet(out: &mut Reading<'_>, s_cet: Field, ssp: Field, table: Field) {
    let (s_cet, ssp, table) = (out.get(s_cet), out.get(ssp), out.get(table));
    out.line(format!("S_CET = 0x{s_cet:016x}, SSP = 0x{ssp:016x}, SSP TABLE = 0x{table:016x}"));
}

fn host(out: &mut Reading<'_>, facts: &Facts, generation: KvmGeneration) {
    out.line("*** Host State ***");
    let (rip, rsp) = (out.get(Field::HOST_RIP), out.get(Field::HOST_RSP));
    out.line(format!("RIP = 0x{rip:016x}  RSP = 0x{rsp:016x}"));
    super::xen::host_segments(out);
    super::xen::host_tables(out);
    sysenter(out, Field::HOST_IA32_SYSENTER_ESP, Field::HOST_IA32_SYSENTER_CS, Field::HOST_IA32_SYSENTER_EIP);
    let (efer, pat) = (on(out, Control::HOST_LOAD_EFER), on(out, Control::HOST_LOAD_PAT));
    if generation < KvmGeneration::V5_11 {
        if efer || pat {
            let (efer, pat) = (out.get(Field::HOST_IA32_EFER), out.get(Field::HOST_IA32_PAT));
            out.line(format!("EFER = 0x{efer:016x}  PAT = 0x{pat:016x}"));
        }
    } else {
        if efer {
            let efer = out.get(Field::HOST_IA32_EFER);
            out.line(format!("EFER= 0x{efer:016x}"));
        }
        if pat {
            let pat = out.get(Field::HOST_IA32_PAT);
            out.line(format!("PAT = 0x{pat:016x}"));
        }
    }
    if on(out, Control::HOST_LOAD_PERF_GLOBAL_CTRL) {
        let value = out.get(Field::HOST_IA32_PERF_GLOBAL_CTRL);
        out.line(format!("PerfGlobCtl = 0x{value:016x}"));
    }
    if generation >= KvmGeneration::V5_11 {
        msrs(out, "host autoload", facts.msr_lists.exit_load.as_deref(), Field::VM_EXIT_MSR_LOAD_COUNT);
    }
    if generation >= KvmGeneration::V6_18 && on(out, Control::HOST_LOAD_CET_STATE) {
        cet(out, Field::HOST_IA32_S_CET, Field::HOST_SSP, Field::HOST_IA32_INTERRUPT_SSP_TABLE_ADDR);
    }
}

fn control(out: &mut Reading<'_>, generation: KvmGeneration) {
    out.line("*** Control State ***");
    let pin = out.get(Field::PIN_BASED_CONTROLS);
    let (primary, secondary) =
        (out.get(Field::PRIMARY_PROC_BASED_CONTROLS), out.get(Field::SECONDARY_PROC_BASED_CONTROLS));
    let (entry, exit) = (out.get(Field::VM_ENTRY_CONTROLS), out.get(Field::VM_EXIT_CONTROLS));
    if generation >= KvmGeneration::V5_19 {
        let tertiary = out.get(Field::TERTIARY_PROC_BASED_CONTROLS);
        out.line(format!("CPUBased=0x{primary:08x} SecondaryExec=0x{secondary:08x} TertiaryExec=0x{tertiary:016x}"));
        out.line(format!("PinBased=0x{pin:08x} EntryControls={entry:08x} ExitControls={exit:08x}"));
    } else {
        out.line(format!("PinBased={pin:08x} CPUBased={primary:08x} SecondaryExec={secondary:08x}"));
        out.line(format!("EntryControls={entry:08x} ExitControls={exit:08x}"));
    }
    super::xen::events(out);
    let offset = out.get(Field::TSC_OFFSET);
    out.line(format!("TSC Offset = 0x{offset:016x}"));
    if on(out, Control::USE_TSC_SCALING) {
        let multiplier = out.get(Field::TSC_MULTIPLIER);
        out.line(format!("TSC Multiplier = 0x{multiplier:016x}"));
    }
    if on(out, Control::USE_TPR_SHADOW) {
        let threshold = format!("TPR Threshold = 0x{:02x}", out.get(Field::TPR_THRESHOLD));
        if generation == KvmGeneration::V4_4 {
            out.line(threshold);
        } else {
            apic(out, threshold);
        }
    }
    if on(out, Control::PROCESS_POSTED_INTERRUPTS) {
        let vector = out.get(Field::POSTED_INTERRUPT_NOTIFICATION_VECTOR);
        out.line(format!("PostedIntrVec = 0x{vector:02x}"));
    }
    if on(out, Control::ENABLE_EPT) {
        let pointer = out.get(Field::EPT_POINTER);
        out.line(format!("EPT pointer = 0x{pointer:016x}"));
    }
    if generation <= KvmGeneration::V5_2 {
        super::xen::cr3_targets(out);
    }
    if on(out, Control::PAUSE_LOOP_EXITING) {
        let (gap, window) = (out.get(Field::PLE_GAP), out.get(Field::PLE_WINDOW));
        out.line(format!("PLE Gap={gap:08x} Window={window:08x}"));
    }
    if on(out, Control::ENABLE_VPID) {
        let vpid = out.get(Field::VPID);
        out.line(format!("Virtual processor ID = 0x{vpid:04x}"));
    }
    if generation >= KvmGeneration::V6_18 && on(out, Control::EPT_VIOLATION_VE) {
        let address = out.get(Field::VIRTUALIZATION_EXCEPTION_INFORMATION_ADDRESS);
        out.line(format!("VE info address = 0x{address:016x}"));
        out.line("ve_info: 0x00000030 0xffffffff 0x0000000000000181 0x0000000000001000 0x0000000000002000 0x0000");
    }
}

/// A line in pieces: KVM starts a new one only if virtual-interrupt delivery is on.
fn apic(out: &mut Reading<'_>, threshold: String) {
    if on(out, Control::VIRTUAL_INTERRUPT_DELIVERY) {
        let status = out.get(Field::GUEST_INTERRUPT_STATUS);
        out.line(format!("SVI|RVI = {:02x}|{:02x} ", status >> 8, status & 0xff));
        out.text.and(threshold);
    } else {
        out.line(threshold);
    }
    let address = out.get(Field::VIRTUAL_APIC_ADDRESS);
    let address = format!("virt-APIC addr = 0x{address:016x}");
    if on(out, Control::VIRTUALIZE_APIC_ACCESSES) {
        let access = out.get(Field::APIC_ACCESS_ADDRESS);
        out.line(format!("APIC-access addr = 0x{access:016x} "));
        out.text.and(address);
    } else {
        out.line(address);
    }
}
