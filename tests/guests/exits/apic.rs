//! What comes from outside: interrupts, NMIs, INIT and start-up IPIs; and the local APIC's registers that are virtualized.
//!
//! L2 reaches the local APIC itself, at its address in xAPIC mode, and interrupts itself.
//!
//! Source: SDM 3C (rev 077) 25.2, Other Causes of VM Exits; 27.2.1; 27.2.2; 29.1.4, EOI Virtualization; 29.5, Virtualizing MSR-Based APIC
//! Accesses.

use super::{again, cases, l2, stop};
use iced_x86::code_asm::*;
use softvirt::vmx_model::{Control, Field};
use softvirt_guests::code::{Assembled, Code};
use softvirt_guests::hypervisor::Hypervisor;
use softvirt_guests::layout::{MSR_BITMAPS, VIRTUAL_APIC};
use softvirt_guests::smp::{APIC, ICR, ICR_HIGH};

/// ICR: vector 0x31 to self.
const SELF_31: u32 = 0x4_4031;
/// ICR: NMI to the processor of ICR_HIGH.
const NMI: u32 = 0x4400;
/// ICR: INIT to the processor of ICR_HIGH.
const INIT: u32 = 0x4500;
/// ICR: start-up with vector 0x12 to the processor of ICR_HIGH.
const START_12: u32 = 0x4612;

/// Writes the ICR, with processor 0 as destination.
fn send(a: &mut CodeAssembler, command: u32) -> Assembled {
    a.mov(ebx, APIC as u32)?;
    a.mov(dword_ptr(rbx + ICR_HIGH), 0)?;
    a.mov(dword_ptr(rbx + ICR), command)
}

/// Waits for ever.
fn wait(a: &mut CodeAssembler) -> Assembled {
    let mut here = a.create_label();
    a.set_label(&mut here)?;
    a.jmp(here)
}

/// The second processor sends start-up IPIs to the first one, again and again.
fn start_the_first(a: &mut Code) -> Assembled {
    let mut here = a.create_label();
    a.enable_apic()?;
    a.place(&mut here)?;
    send(a, START_12)?;
    a.jmp(here)
}

fn x2apic(hypervisor: &mut Hypervisor) {
    let vmcs = &mut hypervisor.vmcs;
    for control in [
        Control::USE_TPR_SHADOW,
        Control::USE_MSR_BITMAPS,
        Control::VIRTUALIZE_X2APIC_MODE,
        Control::EXTERNAL_INTERRUPT_EXITING,
        Control::VIRTUAL_INTERRUPT_DELIVERY,
    ] {
        vmcs.on(control);
    }
    vmcs.set(Field::VIRTUAL_APIC_ADDRESS, VIRTUAL_APIC);
    vmcs.set(Field::MSR_BITMAPS_ADDRESS, MSR_BITMAPS);
    vmcs.set(Field::TPR_THRESHOLD, 0);
    vmcs.set(Field::GUEST_INTERRUPT_STATUS, 0);
    for field in
        [Field::EOI_EXIT_BITMAP_0, Field::EOI_EXIT_BITMAP_1, Field::EOI_EXIT_BITMAP_2, Field::EOI_EXIT_BITMAP_3]
    {
        vmcs.set(field, 0);
    }
}

cases! {
    /// The interrupt stays in the local APIC: no vector is told.
    external_interrupt: l2(|a| {
        a.sti()?;
        send(a, SELF_31)?;
        wait(a)
    }).on(&[Control::EXTERNAL_INTERRUPT_EXITING]).before(Code::enable_apic).host(stop).sees(&["exit 1 at 20001a"]);
    /// "Acknowledge interrupt on exit": the exit tells the vector (type 0). External interrupts exit whatever RFLAGS.IF is.
    external_interrupt_that_is_acknowledged: l2(|a| {
        send(a, SELF_31)?;
        wait(a)
    }).on(&[Control::EXTERNAL_INTERRUPT_EXITING, Control::ACKNOWLEDGE_INTERRUPT_ON_EXIT]).before(Code::enable_apic)
        .host(stop).sees(&["exit 1 at 200019 event 80000031"]);
    /// L2 takes its interrupts itself.
    external_interrupt_without_exiting: l2(|a| {
        a.sti()?;
        send(a, SELF_31)?;
        wait(a)
    }).before(Code::enable_apic).handler(|a| a.cpuid()).host(stop).sees(&["exit 10 at 201000 length 2"]);
    /// Type 2, vector 2.
    nmi: l2(|a| {
        send(a, NMI)?;
        wait(a)
    }).on(&[Control::NMI_EXITING]).before(Code::enable_apic).host(stop).sees(&["exit 0 at 200019 event 80000202"]);
    init: l2(|a| {
        send(a, INIT)?;
        wait(a)
    }).before(Code::enable_apic).host(stop).sees(&["exit 3 at 200019"]);
    /// L2 waits for a start-up IPI; the qualification is its vector.
    sipi: l2(|_| Ok(())).set(&[(Field::GUEST_ACTIVITY_STATE, 3)]).second(start_the_first).host(stop)
        .sees(&["exit 4 at 200000 qualification 12"]);
    /// WRMSR to the EOI register of the x2APIC: vector 0x31 is in service and in the EOI-exit bitmap, and becomes the qualification.
    virtualized_eoi: l2(|a| {
        a.mov(ecx, 0x80b)?;
        a.wrmsr()
    }).change(|h| {
        x2apic(h);
        h.vmcs.set(Field::GUEST_INTERRUPT_STATUS, 0x3100);
        h.vmcs.set(Field::EOI_EXIT_BITMAP_0, 1 << 0x31);
        h.memory.push((VIRTUAL_APIC + 0x110, (1u32 << 0x11).to_le_bytes().to_vec()));
    }).host(again).sees(&["exit 45 at 200007 qualification 31", "exit 18 at 200007 length 3"]);
    /// WRMSR to the self-IPI register of the x2APIC with a vector below 16: the hypervisor has to carry it out. The qualification is the
    /// register's offset.
    apic_write: l2(|a| {
        a.mov(ecx, 0x83f)?;
        a.mov(eax, 5)?;
        a.wrmsr()
    }).change(x2apic).host(again).sees(&["exit 56 at 20000c qualification 3f0", "exit 18 at 20000c length 3"]);
}
