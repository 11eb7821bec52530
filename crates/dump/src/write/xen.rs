//! How does Xen print a VMCS? Also the lines that KVM prints in the same words.

use super::{Reading, Text};
use crate::Facts;
use vmx_model::{Control, Field, Vmcs};
use x86_state::SegmentRegister::{self, Cs, Ds, Es, Fs, Gs, Ldtr, Ss, Tr};

/// A generation of `vmcs_dump_vcpu`, named after a release that has it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum XenGeneration {
    /// 3.2 to 4.5.
    V4_4,
    /// 4.6 to 4.18.
    V4_12,
    /// 4.19 on.
    V4_19,
}

impl XenGeneration {
    /// All generations, oldest first.
    pub const ALL: [Self; 3] = [Self::V4_4, Self::V4_12, Self::V4_19];
}

/// Prints the VMCS as Xen does; `facts` tell whether IA32_EFER is loaded by the MSR list.
#[must_use]
pub fn xen(vmcs: &Vmcs, facts: &Facts, generation: XenGeneration) -> Text {
    let mut out = Reading::new(vmcs);
    if generation == XenGeneration::V4_4 {
        old(&mut out);
    } else {
        guest(&mut out, facts, generation);
        host(&mut out);
        control(&mut out, generation);
    }
    out.text
}

fn on(out: &Reading<'_>, control: Control) -> bool {
    out.has(control.vector().field(), control.mask())
}

fn control_registers(out: &mut Reading<'_>) {
    for (name, actual, shadow, mask) in [
        ("CR0", Field::GUEST_CR0, Field::CR0_READ_SHADOW, Field::CR0_GUEST_HOST_MASK),
        ("CR4", Field::GUEST_CR4, Field::CR4_READ_SHADOW, Field::CR4_GUEST_HOST_MASK),
    ] {
        let (actual, shadow, mask) = (out.get(actual), out.get(shadow), out.get(mask));
        out.line(format!("{name}: actual=0x{actual:016x}, shadow=0x{shadow:016x}, gh_mask={mask:016x}"));
    }
}

fn sysenter(out: &mut Reading<'_>, esp: Field, cs: Field, eip: Field) {
    let (esp, cs, eip) = (out.get(esp), out.get(cs), out.get(eip));
    out.line(format!("Sysenter RSP={esp:016x} CS:RIP={cs:04x}:{eip:016x}"));
}

fn guest_sysenter(out: &mut Reading<'_>) {
    sysenter(out, Field::GUEST_IA32_SYSENTER_ESP, Field::GUEST_IA32_SYSENTER_CS, Field::GUEST_IA32_SYSENTER_EIP);
}

/// The rows of the segment table: name, selector, rights, limit, base; of GDTR and IDTR limit and base.
fn segments(out: &mut Reading<'_>, mut print: impl FnMut(&mut Reading<'_>, &str, Option<(u64, u64)>, u64, u64)) {
    let rows: [(&str, Option<SegmentRegister>); 10] = [
        ("CS", Some(Cs)),
        ("DS", Some(Ds)),
        ("SS", Some(Ss)),
        ("ES", Some(Es)),
        ("FS", Some(Fs)),
        ("GS", Some(Gs)),
        ("GDTR", None),
        ("LDTR", Some(Ldtr)),
        ("IDTR", None),
        ("TR", Some(Tr)),
    ];
    for (name, register) in rows {
        let (limit, base) = match (register, name) {
            (Some(register), _) => (Field::guest_limit(register), Field::guest_base(register)),
            (None, "GDTR") => (Field::GUEST_GDTR_LIMIT, Field::GUEST_GDTR_BASE),
            (None, _) => (Field::GUEST_IDTR_LIMIT, Field::GUEST_IDTR_BASE),
        };
        let own = register
            .map(|register| (out.get(Field::guest_selector(register)), out.get(Field::guest_access_rights(register))));
        let (limit, base) = (out.get(limit), out.get(base));
        print(out, name, own, limit, base);
    }
}

fn guest(out: &mut Reading<'_>, facts: &Facts, generation: XenGeneration) {
    out.line("*** Guest State ***");
    control_registers(out);
    let cr3 = out.get(Field::GUEST_CR3);
    out.line(format!("CR3 = 0x{cr3:016x}"));
    if on(out, Control::ENABLE_EPT) && out.has(Field::GUEST_CR4, 1 << 5) && !on(out, Control::IA32E_MODE_GUEST) {
        for (first, a, b) in
            [(0, Field::GUEST_PDPTE0, Field::GUEST_PDPTE1), (2, Field::GUEST_PDPTE2, Field::GUEST_PDPTE3)]
        {
            let (a, b) = (out.get(a), out.get(b));
            out.line(format!("PDPTE{first} = 0x{a:016x}  PDPTE{} = 0x{b:016x}", first + 1));
        }
    }
    let (rsp, rip) = (out.get(Field::GUEST_RSP), out.get(Field::GUEST_RIP));
    // The registers that Xen holds differ from the VMCS's here, so that a reader that mixes them up is found out.
    out.line(format!("RSP = 0x{rsp:016x} (0x{:016x})  RIP = 0x{rip:016x} (0x{:016x})", rsp ^ 0x10, rip ^ 1));
    let (rflags, dr7) = (out.get(Field::GUEST_RFLAGS), out.get(Field::GUEST_DR7));
    out.line(format!("RFLAGS=0x{rflags:08x} (0x{:08x})  DR7 = 0x{dr7:016x}", rflags ^ 1));
    guest_sysenter(out);
    out.line("       sel  attr  limit   base");
    segments(out, |out, name, own, limit, base| {
        out.line(match own {
            Some((selector, rights)) => format!("{name:>4}: {selector:04x} {rights:05x} {limit:08x} {base:016x}"),
            None => format!("{name:>4}:            {limit:08x} {base:016x}"),
        });
    });
    let (source, efer) = match facts.autoload_efer {
        Some(efer) => ("MSR LL", efer),
        None => ("VMCS", out.get(Field::GUEST_IA32_EFER)),
    };
    let pat = out.get(Field::GUEST_IA32_PAT);
    out.line(format!("EFER({source}) = 0x{efer:016x}  PAT = 0x{pat:016x}"));
    let (timer, smbase) = (out.get(Field::VMX_PREEMPTION_TIMER_VALUE), out.get(Field::GUEST_SMBASE));
    out.line(format!("PreemptionTimer = 0x{timer:08x}  SM Base = 0x{smbase:08x}"));
    let (debugctl, pending) = (out.get(Field::GUEST_IA32_DEBUGCTL), out.get(Field::GUEST_PENDING_DEBUG_EXCEPTIONS));
    out.line(format!("DebugCtl = 0x{debugctl:016x}  DebugExceptions = 0x{pending:016x}"));
    if on(out, Control::LOAD_PERF_GLOBAL_CTRL) || on(out, Control::LOAD_BNDCFGS) {
        let (perf, bnd) = (out.get(Field::GUEST_IA32_PERF_GLOBAL_CTRL), out.get(Field::GUEST_IA32_BNDCFGS));
        out.line(format!("PerfGlobCtl = 0x{perf:016x}  BndCfgS = 0x{bnd:016x}"));
    }
    let (interruptibility, activity) =
        (out.get(Field::GUEST_INTERRUPTIBILITY_STATE), out.get(Field::GUEST_ACTIVITY_STATE));
    out.line(format!("Interruptibility = {interruptibility:08x}  ActivityState = {activity:08x}"));
    if on(out, Control::VIRTUAL_INTERRUPT_DELIVERY) {
        let status = out.get(Field::GUEST_INTERRUPT_STATUS);
        out.line(format!("InterruptStatus = {status:04x}"));
    }
    if generation >= XenGeneration::V4_19 && on(out, Control::VIRTUALIZE_SPEC_CTRL) {
        let (mask, shadow) = (out.get(Field::SPEC_CTRL_MASK), out.get(Field::SPEC_CTRL_SHADOW));
        out.line(format!("SPEC_CTRL mask = 0x{mask:016x}  shadow = 0x{shadow:016x}"));
    }
}

/// "CS=0010 SS=0018 ..", in the order that KVM and newer Xen print.
pub(super) fn host_segments(out: &mut Reading<'_>) {
    let names = [
        ("CS", Field::HOST_CS_SELECTOR),
        ("SS", Field::HOST_SS_SELECTOR),
        ("DS", Field::HOST_DS_SELECTOR),
        ("ES", Field::HOST_ES_SELECTOR),
        ("FS", Field::HOST_FS_SELECTOR),
        ("GS", Field::HOST_GS_SELECTOR),
        ("TR", Field::HOST_TR_SELECTOR),
    ];
    let parts = names.map(|(name, field)| format!("{name}={:04x}", out.get(field)));
    out.line(parts.join(" "));
}

/// The bases and control registers.
pub(super) fn host_tables(out: &mut Reading<'_>) {
    let (fs, gs, tr) = (out.get(Field::HOST_FS_BASE), out.get(Field::HOST_GS_BASE), out.get(Field::HOST_TR_BASE));
    out.line(format!("FSBase={fs:016x} GSBase={gs:016x} TRBase={tr:016x}"));
    let (gdt, idt) = (out.get(Field::HOST_GDTR_BASE), out.get(Field::HOST_IDTR_BASE));
    out.line(format!("GDTBase={gdt:016x} IDTBase={idt:016x}"));
    let (cr0, cr3, cr4) = (out.get(Field::HOST_CR0), out.get(Field::HOST_CR3), out.get(Field::HOST_CR4));
    out.line(format!("CR0={cr0:016x} CR3={cr3:016x} CR4={cr4:016x}"));
}

fn host_sysenter(out: &mut Reading<'_>) {
    sysenter(out, Field::HOST_IA32_SYSENTER_ESP, Field::HOST_IA32_SYSENTER_CS, Field::HOST_IA32_SYSENTER_EIP);
}

fn host(out: &mut Reading<'_>) {
    out.line("*** Host State ***");
    let (rip, rsp) = (out.get(Field::HOST_RIP), out.get(Field::HOST_RSP));
    out.line(format!("RIP = 0x{rip:016x} (vmx_asm_vmexit_handler)  RSP = 0x{rsp:016x}"));
    host_segments(out);
    host_tables(out);
    host_sysenter(out);
    if on(out, Control::HOST_LOAD_PAT) || on(out, Control::HOST_LOAD_EFER) {
        let (efer, pat) = (out.get(Field::HOST_IA32_EFER), out.get(Field::HOST_IA32_PAT));
        out.line(format!("EFER = 0x{efer:016x}  PAT = 0x{pat:016x}"));
    }
    if on(out, Control::HOST_LOAD_PERF_GLOBAL_CTRL) {
        let value = out.get(Field::HOST_IA32_PERF_GLOBAL_CTRL);
        out.line(format!("PerfGlobCtl = 0x{value:016x}"));
    }
}

/// The exception bitmap, event injection and exit information.
pub(super) fn events(out: &mut Reading<'_>) {
    let bitmap = out.get(Field::EXCEPTION_BITMAP);
    let (mask, matching) = (out.get(Field::PAGE_FAULT_ERROR_CODE_MASK), out.get(Field::PAGE_FAULT_ERROR_CODE_MATCH));
    out.line(format!("ExceptionBitmap={bitmap:08x} PFECmask={mask:08x} PFECmatch={matching:08x}"));
    for (name, info, error, length) in [
        (
            "VMEntry",
            Field::VM_ENTRY_INTERRUPTION_INFO,
            Field::VM_ENTRY_EXCEPTION_ERROR_CODE,
            Field::VM_ENTRY_INSTRUCTION_LENGTH,
        ),
        (
            "VMExit",
            Field::VM_EXIT_INTERRUPTION_INFO,
            Field::VM_EXIT_INTERRUPTION_ERROR_CODE,
            Field::VM_EXIT_INSTRUCTION_LENGTH,
        ),
    ] {
        let (info, error, length) = (out.get(info), out.get(error), out.get(length));
        out.line(format!("{name}: intr_info={info:08x} errcode={error:08x} ilen={length:08x}"));
    }
    let (reason, qualification) = (out.get(Field::EXIT_REASON), out.get(Field::EXIT_QUALIFICATION));
    out.line(format!("        reason={reason:08x} qualification={qualification:016x}"));
    vectoring(out);
}

fn vectoring(out: &mut Reading<'_>) {
    let (info, error) = (out.get(Field::IDT_VECTORING_INFO), out.get(Field::IDT_VECTORING_ERROR_CODE));
    out.line(format!("IDTVectoring: info={info:08x} errcode={error:08x}"));
}

/// As many CR3-target values as the count says, two on a line.
pub(super) fn cr3_targets(out: &mut Reading<'_>) {
    let fields =
        [Field::CR3_TARGET_VALUE_0, Field::CR3_TARGET_VALUE_1, Field::CR3_TARGET_VALUE_2, Field::CR3_TARGET_VALUE_3];
    let count = out.vmcs.get(Field::CR3_TARGET_COUNT).min(4) as usize;
    if count > 0 {
        out.text.fields.push(Field::CR3_TARGET_COUNT);
    }
    for (row, pair) in fields[..count].chunks(2).enumerate() {
        let values = pair
            .iter()
            .enumerate()
            .map(|(column, &field)| format!("target{}={:016x}", row * 2 + column, out.get(field)));
        let line = format!("CR3 {}", values.collect::<Vec<_>>().join(" "));
        out.line(line);
    }
}

fn control(out: &mut Reading<'_>, generation: XenGeneration) {
    out.line("*** Control State ***");
    let (pin, primary) = (out.get(Field::PIN_BASED_CONTROLS), out.get(Field::PRIMARY_PROC_BASED_CONTROLS));
    let secondary = out.get(Field::SECONDARY_PROC_BASED_CONTROLS);
    if generation >= XenGeneration::V4_19 {
        let tertiary = out.get(Field::TERTIARY_PROC_BASED_CONTROLS);
        out.line(format!("PinBased={pin:08x} CPUBased={primary:08x}"));
        out.line(format!("SecondaryExec={secondary:08x} TertiaryExec={tertiary:016x}"));
    } else {
        out.line(format!("PinBased={pin:08x} CPUBased={primary:08x} SecondaryExec={secondary:08x}"));
    }
    let (entry, exit) = (out.get(Field::VM_ENTRY_CONTROLS), out.get(Field::VM_EXIT_CONTROLS));
    out.line(format!("EntryControls={entry:08x} ExitControls={exit:08x}"));
    events(out);
    let (offset, multiplier) = (out.get(Field::TSC_OFFSET), out.get(Field::TSC_MULTIPLIER));
    out.line(format!("TSC Offset = 0x{offset:016x}  TSC Multiplier = 0x{multiplier:016x}"));
    if on(out, Control::USE_TPR_SHADOW) {
        let (threshold, vector) = (out.get(Field::TPR_THRESHOLD), out.get(Field::POSTED_INTERRUPT_NOTIFICATION_VECTOR));
        out.line(format!("TPR Threshold = 0x{threshold:02x}  PostedIntrVec = 0x{vector:02x}"));
    }
    if on(out, Control::ENABLE_EPT) {
        let (pointer, index) = (out.get(Field::EPT_POINTER), out.get(Field::EPTP_INDEX));
        out.line(format!("EPT pointer = 0x{pointer:016x}  EPTP index = 0x{index:04x}"));
    }
    cr3_targets(out);
    if on(out, Control::PAUSE_LOOP_EXITING) {
        let (gap, window) = (out.get(Field::PLE_GAP), out.get(Field::PLE_WINDOW));
        out.line(format!("PLE Gap={gap:08x} Window={window:08x}"));
    }
    if on(out, Control::ENABLE_VPID) || on(out, Control::ENABLE_VM_FUNCTIONS) {
        let (vpid, functions) = (out.get(Field::VPID), out.get(Field::VM_FUNCTION_CONTROLS));
        out.line(format!("Virtual processor ID = 0x{vpid:04x} VMfunc controls = {functions:016x}"));
    }
}

/// The format of Xen 3.2 to 4.5.
fn old(out: &mut Reading<'_>) {
    out.line("*** Guest State ***");
    control_registers(out);
    let (cr3, count) = (out.get(Field::GUEST_CR3), out.get(Field::CR3_TARGET_COUNT));
    out.line(format!("CR3: actual=0x{cr3:016x}, target_count={count}"));
    for (first, a, b) in [
        (0, Field::CR3_TARGET_VALUE_0, Field::CR3_TARGET_VALUE_1),
        (2, Field::CR3_TARGET_VALUE_2, Field::CR3_TARGET_VALUE_3),
    ] {
        let (a, b) = (out.get(a), out.get(b));
        out.line(format!("     target{first}={a:016x}, target{}={b:016x}", first + 1));
    }
    let (rsp, rip) = (out.get(Field::GUEST_RSP), out.get(Field::GUEST_RIP));
    out.line(format!("RSP = 0x{rsp:016x} (0x{:016x})  RIP = 0x{rip:016x} (0x{:016x})", rsp ^ 0x10, rip ^ 1));
    let (rflags, dr7) = (out.get(Field::GUEST_RFLAGS), out.get(Field::GUEST_DR7));
    out.line(format!("RFLAGS=0x{rflags:016x} (0x{:016x})  DR7 = 0x{dr7:016x}", rflags ^ 1));
    guest_sysenter(out);
    segments(out, |out, name, own, limit, base| {
        out.line(match own {
            Some((selector, rights)) => {
                format!("{name}: sel=0x{selector:04x}, attr=0x{rights:05x}, limit=0x{limit:08x}, base=0x{base:016x}")
            }
            None => format!("{name}:                           limit=0x{limit:08x}, base=0x{base:016x}"),
        });
    });
    let (pat, offset) = (out.get(Field::GUEST_IA32_PAT), out.get(Field::TSC_OFFSET));
    out.line(format!("Guest PAT = 0x{pat:016x}"));
    out.line(format!("TSC Offset = {offset:016x}"));
    let (debugctl, pending) = (out.get(Field::GUEST_IA32_DEBUGCTL), out.get(Field::GUEST_PENDING_DEBUG_EXCEPTIONS));
    out.line(format!("DebugCtl={debugctl:016x} DebugExceptions={pending:016x}"));
    let (interruptibility, activity) =
        (out.get(Field::GUEST_INTERRUPTIBILITY_STATE), out.get(Field::GUEST_ACTIVITY_STATE));
    out.line(format!("Interruptibility={interruptibility:04x} ActivityState={activity:04x}"));

    out.line("*** Host State ***");
    let (rsp, rip) = (out.get(Field::HOST_RSP), out.get(Field::HOST_RIP));
    out.line(format!("RSP = 0x{rsp:016x}  RIP = 0x{rip:016x}"));
    host_segments(out);
    host_tables(out);
    host_sysenter(out);
    let pat = out.get(Field::HOST_IA32_PAT);
    out.line(format!("Host PAT = 0x{pat:016x}"));

    out.line("*** Control State ***");
    let (pin, primary) = (out.get(Field::PIN_BASED_CONTROLS), out.get(Field::PRIMARY_PROC_BASED_CONTROLS));
    let secondary = out.get(Field::SECONDARY_PROC_BASED_CONTROLS);
    out.line(format!("PinBased={pin:08x} CPUBased={primary:08x} SecondaryExec={secondary:08x}"));
    let (entry, exit) = (out.get(Field::VM_ENTRY_CONTROLS), out.get(Field::VM_EXIT_CONTROLS));
    out.line(format!("EntryControls={entry:08x} ExitControls={exit:08x}"));
    let bitmap = out.get(Field::EXCEPTION_BITMAP);
    out.line(format!("ExceptionBitmap={bitmap:08x}"));
    let (info, error) = (out.get(Field::VM_ENTRY_INTERRUPTION_INFO), out.get(Field::VM_ENTRY_EXCEPTION_ERROR_CODE));
    let length = out.get(Field::VM_ENTRY_INSTRUCTION_LENGTH);
    out.line(format!("VMEntry: intr_info={info:08x} errcode={error:08x} ilen={length:08x}"));
    let (info, error) = (out.get(Field::VM_EXIT_INTERRUPTION_INFO), out.get(Field::VM_EXIT_INTERRUPTION_ERROR_CODE));
    // This Xen prints the VM-entry instruction length a second time.
    out.line(format!("VMExit: intr_info={info:08x} errcode={error:08x} ilen={length:08x}"));
    let (reason, qualification) = (out.get(Field::EXIT_REASON), out.get(Field::EXIT_QUALIFICATION));
    out.line(format!("        reason={reason:08x} qualification={:08x}", qualification as u32));
    vectoring(out);
    let threshold = out.get(Field::TPR_THRESHOLD);
    out.line(format!("TPR Threshold = 0x{threshold:02x}"));
    let (pointer, vpid) = (out.get(Field::EPT_POINTER), out.get(Field::VPID));
    out.line(format!("EPT pointer = 0x{pointer:016x}"));
    out.line(format!("Virtual processor ID = 0x{vpid:04x}"));
}
