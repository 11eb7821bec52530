//! What comes between two instructions: windows, timers, the monitor trap flag.
//!
//! Source: SDM 3C (rev 077) 25.2, Other Causes of VM Exits; 25.5.1, VMX-Preemption Timer; 25.5.2, Monitor Trap Flag; 26.7.5 to 26.7.8.

use super::{again, cases, l2, stop};
use iced_x86::code_asm::*;
use softvirt::vmx_model::{Control, Field};
use softvirt_guests::code::Assembled;

fn loop_forever(a: &mut CodeAssembler) -> Assembled {
    let mut here = a.create_label();
    a.set_label(&mut here)?;
    a.jmp(here)
}

cases! {
    /// STI takes effect behind the next instruction.
    interrupt_window: l2(|a| {
        a.sti()?;
        a.nop()?;
        a.nop()
    }).on(&[Control::INTERRUPT_WINDOW_EXITING]).host(|a, ways| {
        a.change_field(Field::PRIMARY_PROC_BASED_CONTROLS, Control::INTERRUPT_WINDOW_EXITING.mask(), 0)?;
        a.jmp(ways.resume)
    }).sees(&["exit 7 at 200002", "exit 18 at 200003 length 3"]);
    /// Virtual NMIs are blocked until IRET.
    nmi_window: l2(|a| {
        a.nop()?;
        a.mov(rax, rsp)?;
        a.push(0x10)?;
        a.push(rax)?;
        a.pushfq()?;
        a.push(8)?;
        let mut after = a.create_label();
        a.lea(rcx, ptr(after))?;
        a.push(rcx)?;
        a.iretq()?;
        a.set_label(&mut after)?;
        a.nop()
    }).on(&[Control::NMI_EXITING, Control::VIRTUAL_NMIS, Control::NMI_WINDOW_EXITING])
        .set(&[(Field::GUEST_INTERRUPTIBILITY_STATE, 8)])
        .host(|a, ways| {
            a.change_field(Field::PRIMARY_PROC_BASED_CONTROLS, Control::NMI_WINDOW_EXITING.mask(), 0)?;
            a.jmp(ways.resume)
        }).sees(&["exit 8 at 200014", "exit 18 at 200015 length 3"]);
    /// An exit behind every instruction.
    monitor_trap_flag: l2(|a| {
        a.nop()?;
        a.inc(eax)
    }).on(&[Control::MONITOR_TRAP_FLAG]).host(again)
        .sees(&["exit 37 at 200001", "exit 37 at 200003", "exit 18 at 200003 length 3"]);
    /// A pending MTF VM exit is injected: it comes before the first instruction.
    injected_monitor_trap_flag: l2(|a| a.nop()).set(&[(Field::VM_ENTRY_INTERRUPTION_INFO, 0x8000_0700)]).host(again)
        .sees(&["exit 37 at 200000", "exit 18 at 200001 length 3"]);
    preemption_timer: l2(loop_forever).on(&[Control::ACTIVATE_PREEMPTION_TIMER])
        .set(&[(Field::VMX_PREEMPTION_TIMER_VALUE, 10)]).host(stop).sees(&["exit 52 at 200000"]);
    /// 0 expires at once.
    preemption_timer_of_0: l2(|a| a.cpuid()).on(&[Control::ACTIVATE_PREEMPTION_TIMER])
        .set(&[(Field::VMX_PREEMPTION_TIMER_VALUE, 0)]).host(stop).sees(&["exit 52 at 200000"]);
    /// The timer runs in the HLT state, too.
    preemption_timer_in_hlt: l2(|a| a.hlt()).on(&[Control::ACTIVATE_PREEMPTION_TIMER])
        .set(&[(Field::VMX_PREEMPTION_TIMER_VALUE, 10)]).host(stop).sees(&["exit 52 at 200001"]);
}
