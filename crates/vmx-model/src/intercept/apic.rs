//! What follows a write to the virtual-APIC page? TPR, PPR, EOI and self-IPI virtualization; and the delivery of virtual interrupts.
//!
//! The virtual-APIC page is memory; the guest interrupt status (RVI, SVI) is the field of the current VMCS.
//!
//! Source: SDM 3C (rev 077) 29.1, Virtual APIC State; 29.2.1, Evaluation of Pending Virtual Interrupts; 29.2.2,
//! Virtual-Interrupt Delivery; 29.3; 29.5.

use crate::control::Control;
use crate::exit::Exit;
use crate::fields::Field;
use crate::reasons::ExitReason;
use crate::vmcs::Vmcs;
use crate::vmx::Vmx;
use x86_state::{Event, Hpa, Msr, PhysMemory};

/// Offset of the virtual task-priority register.
pub const VTPR: u16 = 0x80;
/// Offset of the virtual processor-priority register.
pub const VPPR: u16 = 0xa0;
/// Offset of the virtual end-of-interrupt register.
pub const VEOI: u16 = 0xb0;
/// Offset of the first 32 bits of the virtual interrupt-service register; the next 32 are 16 bytes further.
pub const VISR: u16 = 0x100;
/// Offset of the first 32 bits of the virtual interrupt-request register.
pub const VIRR: u16 = 0x200;
/// Offset that an APIC-write VM exit reports for a self-IPI.
pub const SELF_IPI: u16 = 0x3f0;

/// A write that goes to the virtual-APIC page.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ApicWrite {
    /// MOV to CR8: bits `[3:0]` of the source.
    Cr8(u8),
    /// WRMSR of the TPR (808), the EOI (80B) or the self-IPI register (83F), reserved bits checked.
    Msr {
        /// The register.
        msr: Msr,
        /// EDX:EAX.
        value: u64,
    },
}

impl ApicWrite {
    /// Where on the virtual-APIC page an x2APIC register lives.
    #[must_use]
    pub const fn offset_of(msr: Msr) -> u16 {
        ((msr.0 & 0xff) << 4) as u16
    }
}

fn address(vmx: &Vmx, offset: u16) -> Hpa {
    Hpa(vmx.vmcs.get(Field::VIRTUAL_APIC_ADDRESS)).offset(u64::from(offset))
}

/// Eight bytes of the virtual-APIC page.
pub(super) fn virtual_apic_u64<M: PhysMemory + ?Sized>(vmx: &Vmx, memory: &M, offset: u16) -> u64 {
    memory.read_u64(address(vmx, offset))
}

fn virtual_apic_u32<M: PhysMemory + ?Sized>(vmx: &Vmx, memory: &M, offset: u16) -> u32 {
    memory.read_u32(address(vmx, offset))
}

/// What MOV from CR8 reads: bits 7:4 of VTPR.
#[must_use]
pub fn task_priority<M: PhysMemory + ?Sized>(vmx: &Vmx, memory: &M) -> u8 {
    (virtual_apic_u32(vmx, memory, VTPR) >> 4 & 0xf) as u8
}

/// Does the write, and what the processor does after it; the trap-like exit that it leads to.
#[must_use]
pub fn write_virtual_apic<M: PhysMemory + ?Sized>(vmx: &mut Vmx, memory: &M, write: ApicWrite) -> Option<Exit> {
    let (msr, value) = match write {
        ApicWrite::Cr8(priority) => {
            memory.write_u32(address(vmx, VTPR), u32::from(priority & 0xf) << 4);
            return virtualize_tpr(vmx, memory);
        }
        ApicWrite::Msr { msr, value } => (msr, value),
    };
    let offset = ApicWrite::offset_of(msr);
    memory.write_u64(address(vmx, offset), value);
    match offset {
        VTPR => virtualize_tpr(vmx, memory),
        VEOI => virtualize_eoi(vmx, memory),
        SELF_IPI if value & 0xf0 == 0 => Some(Exit::trap(ExitReason::APIC_WRITE).qualified(u64::from(SELF_IPI))),
        SELF_IPI => {
            virtualize_self_ipi(vmx, memory, value as u8);
            None
        }
        _ => None,
    }
}

/// TPR virtualization (29.1.2), after VTPR is written.
#[must_use]
pub fn virtualize_tpr<M: PhysMemory + ?Sized>(vmx: &mut Vmx, memory: &M) -> Option<Exit> {
    if vmx.guest.controls.has(Control::VIRTUAL_INTERRUPT_DELIVERY) {
        virtualize_ppr(vmx, memory);
        evaluate_virtual_interrupts(vmx, memory);
        return None;
    }
    tpr_below_threshold(&vmx.vmcs, memory).then(|| Exit::trap(ExitReason::TPR_BELOW_THRESHOLD))
}

/// Is VTPR below the TPR threshold of that VMCS (29.1.2; at VM entry 26.7.7, VM Exits Induced by the TPR Threshold)? Which controls make the
/// processor ask is another question.
#[must_use]
pub fn tpr_below_threshold<M: PhysMemory + ?Sized>(vmcs: &Vmcs, memory: &M) -> bool {
    let vtpr = memory.read_u8(Hpa(vmcs.get(Field::VIRTUAL_APIC_ADDRESS)).offset(u64::from(VTPR)));
    is_below_threshold(vtpr.into(), vmcs.get(Field::TPR_THRESHOLD))
}

/// Are bits 7:4 of VTPR below bits 3:0 of the threshold?
pub(crate) const fn is_below_threshold(vtpr: u64, threshold: u64) -> bool {
    vtpr >> 4 & 0xf < threshold & 0xf
}

/// PPR virtualization (29.1.3).
pub fn virtualize_ppr<M: PhysMemory + ?Sized>(vmx: &Vmx, memory: &M) {
    let vtpr = virtual_apic_u32(vmx, memory, VTPR) & 0xff;
    let svi = u32::from(servicing(vmx));
    let vppr = if vtpr & 0xf0 >= svi & 0xf0 { vtpr } else { svi & 0xf0 };
    memory.write_u32(address(vmx, VPPR), vppr);
}

/// EOI virtualization (29.1.4).
#[must_use]
pub fn virtualize_eoi<M: PhysMemory + ?Sized>(vmx: &mut Vmx, memory: &M) -> Option<Exit> {
    const EOI_EXIT_BITMAPS: [Field; 4] =
        [Field::EOI_EXIT_BITMAP_0, Field::EOI_EXIT_BITMAP_1, Field::EOI_EXIT_BITMAP_2, Field::EOI_EXIT_BITMAP_3];
    let vector = servicing(vmx);
    let at = address(vmx, register_of(VISR, vector));
    memory.write_u32(at, memory.read_u32(at) & !(1 << (vector & 0x1f)));
    let highest = highest(vmx, memory, VISR);
    vmx.vmcs.update(Field::GUEST_INTERRUPT_STATUS, |status| status & 0xff | u64::from(highest) << 8);
    virtualize_ppr(vmx, memory);
    let bitmap = EOI_EXIT_BITMAPS[usize::from(vector >> 6)];
    if vmx.vmcs.get(bitmap) >> (vector & 0x3f) & 1 == 1 {
        return Some(Exit::trap(ExitReason::VIRTUALIZED_EOI).qualified(u64::from(vector)));
    }
    evaluate_virtual_interrupts(vmx, memory);
    None
}

/// Self-IPI virtualization (29.1.5).
pub fn virtualize_self_ipi<M: PhysMemory + ?Sized>(vmx: &mut Vmx, memory: &M, vector: u8) {
    let at = address(vmx, register_of(VIRR, vector));
    memory.write_u32(at, memory.read_u32(at) | 1 << (vector & 0x1f));
    let requesting = requesting(vmx).max(vector);
    vmx.vmcs.update(Field::GUEST_INTERRUPT_STATUS, |status| status & 0xff00 | u64::from(requesting));
    evaluate_virtual_interrupts(vmx, memory);
}

/// Evaluation of pending virtual interrupts (29.2.1).
pub fn evaluate_virtual_interrupts<M: PhysMemory + ?Sized>(vmx: &mut Vmx, memory: &M) {
    let vppr = virtual_apic_u32(vmx, memory, VPPR) as u8;
    vmx.guest.virtual_interrupt_recognized =
        !vmx.guest.controls.has(Control::INTERRUPT_WINDOW_EXITING) && requesting(vmx) >> 4 > vppr >> 4;
}

/// Delivery of the recognized virtual interrupt (29.2.2): what it does to the virtual-APIC page and the guest interrupt status. The event
/// given goes through the IDT without a VM exit.
///
/// # Preconditions
/// [`boundary`](crate::event::boundary()) has said [`DeliverVirtualInterrupt`](crate::event::Boundary::DeliverVirtualInterrupt).
#[must_use]
pub fn deliver_virtual_interrupt<M: PhysMemory + ?Sized>(vmx: &mut Vmx, memory: &M) -> Event {
    let vector = requesting(vmx);
    let in_service = address(vmx, register_of(VISR, vector));
    memory.write_u32(in_service, memory.read_u32(in_service) | 1 << (vector & 0x1f));
    memory.write_u32(address(vmx, VPPR), u32::from(vector & 0xf0));
    let request = address(vmx, register_of(VIRR, vector));
    memory.write_u32(request, memory.read_u32(request) & !(1 << (vector & 0x1f)));
    let next = highest(vmx, memory, VIRR);
    vmx.vmcs.set(Field::GUEST_INTERRUPT_STATUS, u64::from(next) | u64::from(vector) << 8);
    vmx.guest.virtual_interrupt_recognized = false;
    Event::external_interrupt(vector)
}

/// The highest vector whose bit is set in VISR or VIRR; 0 if none is.
fn highest<M: PhysMemory + ?Sized>(vmx: &Vmx, memory: &M, first: u16) -> u8 {
    let found = (0..8).rev().find_map(|word: u8| {
        let bits = virtual_apic_u32(vmx, memory, register_of(first, word * 32));
        (bits != 0).then(|| word * 32 + bits.ilog2() as u8)
    });
    found.unwrap_or(0)
}

/// Where bit `vector` of VISR or VIRR is.
const fn register_of(first: u16, vector: u8) -> u16 {
    first | (vector as u16 & 0xe0) >> 1
}

/// RVI, the requesting virtual interrupt: bits 7:0 of the guest interrupt status.
fn requesting(vmx: &Vmx) -> u8 {
    vmx.vmcs.get(Field::GUEST_INTERRUPT_STATUS) as u8
}

/// SVI, the virtual interrupt in service: bits 15:8.
fn servicing(vmx: &Vmx) -> u8 {
    (vmx.vmcs.get(Field::GUEST_INTERRUPT_STATUS) >> 8) as u8
}
