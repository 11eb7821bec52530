//! Exceptions that exit, exits while an event is being delivered, and the triple fault.
//!
//! Source: SDM 3C (rev 077) 25.2, Other Causes of VM Exits; 27.2.1, Tables 27-1 (#DB) and 27-2 (task switches); 27.2.2, Information for VM Exits
//! Due to Vectored Events; 27.2.4, Information for VM Exits During Event Delivery; 25.4.2, Treatment of Task Switches.

use super::{cases, l2, stop};
use iced_x86::code_asm::*;
use softvirt::vmx_model::{Control, Field};
use softvirt_guests::code::Assembled;
use softvirt_guests::layout::{GDT, IDT_L2, TASK_32, TSS_L2};
use softvirt_guests::tables::gate_32;
use softvirt_guests::vmcs::Mode;

/// Not mapped by anything.
const MISSING: u64 = 0x80_0000_0000;

/// Puts a gate to the 32-bit task into L2's IDT.
fn task_gate(a: &mut CodeAssembler, vector: u64) -> Assembled {
    let gate = gate_32(TASK_32, 0, 0xe5);
    a.mov(dword_ptr(IDT_L2 + 8 * vector), gate as u32)?;
    a.mov(dword_ptr(IDT_L2 + 8 * vector + 4), (gate >> 32) as u32)
}

cases! {
    /// The interruption information has the vector in 7:0, the type in 10:8 (3: hardware exception), "error code" in 11, "valid" in 31.
    invalid_opcode: l2(|a| a.ud2()).set(&[(Field::EXCEPTION_BITMAP, 1 << 6)]).host(stop)
        .sees(&["exit 0 at 200000 event 80000306"]);
    divide_error: l2(|a| a.div(ecx)).set(&[(Field::EXCEPTION_BITMAP, 1 << 0)]).host(stop)
        .sees(&["exit 0 at 200000 event 80000300"]);
    general_protection: l2(|a| {
        a.mov(eax, 0xff8)?;
        a.mov(ds, eax)
    }).set(&[(Field::EXCEPTION_BITMAP, 1 << 13)]).host(stop).sees(&["exit 0 at 200005 event 80000b0d error ff8"]);
    /// The qualification is the linear address.
    page_fault: l2(|a| {
        a.mov(rax, MISSING)?;
        a.mov(dword_ptr(rax), ecx)
    }).set(&[(Field::EXCEPTION_BITMAP, 1 << 14)]).host(stop)
        .sees(&["exit 0 at 20000a qualification 8000000000 event 80000b0e error 2"]);
    /// Mask and match: with the bit 1, only page faults whose error code matches exit. This one is a read (W/R is 0), and is delivered.
    page_fault_that_does_not_match: l2(|a| {
        a.mov(rax, MISSING)?;
        a.mov(ecx, dword_ptr(rax))
    }).set(&[
        (Field::EXCEPTION_BITMAP, 1 << 14),
        (Field::PAGE_FAULT_ERROR_CODE_MASK, 2),
        (Field::PAGE_FAULT_ERROR_CODE_MATCH, 2),
    ]).handler(|a| a.cpuid()).host(stop).sees(&["exit 10 at 201000 length 2"]);
    /// The qualification is what DR6 would get: BS, bit 14.
    single_step: l2(|a| {
        a.pushfq()?;
        a.or(dword_ptr(rsp), 0x100)?;
        a.popfq()?;
        a.nop()
    }).set(&[(Field::EXCEPTION_BITMAP, 1 << 1)]).host(stop)
        .sees(&["exit 0 at 20000a qualification 4000 event 80000301"]);
    /// INT3 is a software exception (type 6), with an instruction length.
    breakpoint: l2(|a| a.int3()).set(&[(Field::EXCEPTION_BITMAP, 1 << 3)])
        .sees(&["exit 0 at 200000 event 80000603 length 1", "exit 18 at 200001 length 3"]);
    /// INT1 is a privileged software exception (type 5).
    int1: l2(|a| a.int1()).set(&[(Field::EXCEPTION_BITMAP, 1 << 1)])
        .sees(&["exit 0 at 200000 event 80000501 length 1", "exit 18 at 200001 length 3"]);
    /// INT 6 is no exception: the bitmap does not concern it, the handler runs.
    int_n_is_not_an_exception: l2(|a| a.int(6)).set(&[(Field::EXCEPTION_BITMAP, 1 << 6)]).handler(|a| a.cpuid())
        .sees(&["exit 10 at 201000 length 2", "exit 18 at 200002 length 3"]);
    /// The IDT is too short for anything: #UD, #GP, #DF, shutdown.
    triple_fault: l2(|a| a.ud2()).set(&[(Field::GUEST_IDTR_LIMIT, 0)]).host(stop).sees(&["exit 2 at 200000"]);
    /// #UD with an IDT that is too short is #GP with the IDT's entry as error code, and exits while #UD was being delivered.
    fault_during_delivery: l2(|a| a.ud2())
        .set(&[(Field::GUEST_IDTR_LIMIT, 0x5f), (Field::EXCEPTION_BITMAP, 1 << 13)]).host(stop)
        .sees(&["exit 0 at 200000 event 80000b0d error 33 vectoring 80000306"]);
    /// The same of INT 0x21: a software interrupt (type 4), whose length is told.
    fault_during_delivery_of_a_software_interrupt: l2(|a| a.int(0x21))
        .set(&[(Field::GUEST_IDTR_LIMIT, 0x5f), (Field::EXCEPTION_BITMAP, 1 << 13)]).host(stop)
        .sees(&["exit 0 at 200000 event 80000b0d error 10a vectoring 80000421 length 2"]);
    /// Two contributory faults make a double fault; with bit 8 that exits, and the first fault is not told.
    double_fault: l2(|a| {
        a.mov(eax, 0xff8)?;
        a.mov(ds, eax)
    }).set(&[(Field::GUEST_IDTR_LIMIT, 0x8f), (Field::EXCEPTION_BITMAP, 1 << 8)]).host(stop)
        .sees(&["exit 0 at 200005 event 80000b08"]);
    /// EPT denies the IDT: the violation happens while #UD is being delivered.
    ept_violation_during_delivery: l2(|a| a.ud2()).change(|h| {
        h.vmcs.ept();
        h.ept.push((IDT_L2, 0));
    }).host(stop).sees(&["exit 48 at 200000 qualification 781 linear 103060 physical 103060 vectoring 80000306"]);
    /// An injected event whose delivery faults.
    fault_during_delivery_of_an_injected_event: l2(|a| a.nop())
        .set(&[
            (Field::VM_ENTRY_INTERRUPTION_INFO, 0x8000_0b0d),
            (Field::VM_ENTRY_EXCEPTION_ERROR_CODE, 0x18),
            (Field::GUEST_IDTR_LIMIT, 0xcf),
            (Field::EXCEPTION_BITMAP, 1 << 8),
        ]).host(stop).sees(&["exit 0 at 200000 event 80000b08"]);
    /// The qualification has the selector of the TSS in 15:0 and the source in 31:30: 0 CALL, 1 IRET, 2 JMP, 3 a task gate in the IDT.
    task_switch_by_call: l2(|a| a.call_far(TASK_32, 0)).mode(Mode::Protected32)
        .sees(&["exit 9 at 200000 qualification 70 length 7", "exit 18 at 200007 length 3"]);
    task_switch_by_jmp: l2(|a| a.jmp_far(TASK_32, 0)).mode(Mode::Protected32)
        .sees(&["exit 9 at 200000 qualification 80000070 length 7", "exit 18 at 200007 length 3"]);
    task_switch_by_iret: l2(|a| {
        // The back link of L2's TSS; the TSS that it leads to is busy.
        a.mov(word_ptr(TSS_L2), u32::from(TASK_32))?;
        a.or(byte_ptr(GDT + u64::from(TASK_32) + 5), 2)?;
        a.pushfd()?;
        a.or(dword_ptr(esp), 1 << 14)?; // NT
        a.popfd()?;
        a.iretd()
    }).mode(Mode::Protected32).host(stop).sees(&["exit 9 at 200019 qualification 40000070 length 1"]);
    /// INT 0x30 through a task gate.
    task_switch_by_a_gate: l2(|a| {
        task_gate(a, 0x30)?;
        a.int(0x30)
    }).mode(Mode::Protected32).host(stop)
        .sees(&["exit 9 at 200014 qualification c0000070 vectoring 80000430 length 2"]);
    /// #UD through a task gate: no instruction length.
    task_switch_by_an_exception: l2(|a| {
        task_gate(a, 6)?;
        a.ud2()
    }).mode(Mode::Protected32).host(stop).sees(&["exit 9 at 200014 qualification c0000070 vectoring 80000306"]);
    /// Bit 12 of the interruption information: the IRET that faulted had unblocked virtual NMIs.
    page_fault_by_iret: l2(|a| {
        a.mov(rsp, MISSING)?;
        a.iretq()
    }).on(&[Control::NMI_EXITING, Control::VIRTUAL_NMIS])
        .set(&[(Field::GUEST_INTERRUPTIBILITY_STATE, 8), (Field::EXCEPTION_BITMAP, 1 << 14)]).host(stop)
        .sees(&["exit 0 at 20000a qualification 8000000000 event 80001b0e"]);
}
