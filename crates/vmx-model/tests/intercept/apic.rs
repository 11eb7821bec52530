//! CR8 and the virtual-APIC page.

use crate::world::Want::{Gp, Instead, Normal};
use crate::world::{World, long, on_both};
use vmx_model::exit::ResumeFlag;
use vmx_model::intercept::{ApicWrite, apic, write_virtual_apic};
use vmx_model::reasons::ExitReason;
use vmx_model::{Control as C, Effect, Exit, Field};
use x86_state::{Event, Gpr, Hpa, Msr, Op, PhysMemory};

const PAGE: u64 = 0xd000;

fn with_page(world: &mut World) {
    world.set(Field::VIRTUAL_APIC_ADDRESS, PAGE);
    world.memory.zero(PAGE, 4096);
}

fn word(world: &World, offset: u16) -> u32 {
    world.memory.read_u32(Hpa(PAGE + u64::from(offset)))
}

fn put(world: &World, offset: u16, value: u32) {
    world.memory.write_u32(Hpa(PAGE + u64::from(offset)), value);
}

/// 29.3.
#[test]
fn cr8_with_the_tpr_shadow() {
    let to = |value| long(Op::MovToCr { number: 8, source: Gpr::Rax, value });
    let from = long(Op::MovFromCr { number: 8, destination: Gpr::Rax });
    on_both(&[C::USE_TPR_SHADOW], |world| {
        with_page(world);
        put(world, apic::VTPR, 0xffff_ff5a);
        assert_eq!(world.decide(&from), Instead(Effect::Read(5)));
        assert_eq!(world.decide(&to(0xb)), Instead(Effect::WriteVirtualApic(ApicWrite::Cr8(0xb))));
        assert_eq!(world.decide(&to(0x10)), Gp);
        assert_eq!(world.decide(&to(1 << 63)), Gp);
        world.cpl(3);
        assert_eq!(world.decide(&from), Gp);
    });
    on_both(&[], |world| assert_eq!(world.decide(&from), Normal));
}

/// 29.1.2: a trap-like exit when bits 7:4 fall below the threshold; the write is done.
#[test]
fn tpr_below_threshold() {
    for (cr8, threshold, exits) in
        [(0, 0, false), (3, 4, true), (4, 4, false), (5, 4, false), (15, 15, false), (14, 15, true), (3, 0xf4, true)]
    {
        on_both(&[C::USE_TPR_SHADOW], |world| {
            with_page(world);
            put(world, apic::VTPR, u32::MAX);
            world.set(Field::TPR_THRESHOLD, threshold);
            let exit = write_virtual_apic(&mut world.vmx, &world.memory, ApicWrite::Cr8(cr8));
            assert_eq!(word(world, apic::VTPR), u32::from(cr8) << 4, "the rest is cleared");
            assert_eq!(exit.is_some(), exits, "{cr8} {threshold:#x}");
            if let Some(exit) = exit {
                assert_eq!((exit.reason, exit.qualification), (ExitReason::TPR_BELOW_THRESHOLD, 0));
                assert_eq!(exit.instruction_len_bytes, None, "undefined for trap-like exits");
                assert_eq!((exit.resume_flag, exit.keeps_pending_debug), (ResumeFlag::Kept, true));
            }
        });
    }
}

#[test]
fn writes_of_the_tpr_msr_store_eight_bytes() {
    on_both(&[C::USE_TPR_SHADOW, C::VIRTUALIZE_X2APIC_MODE], |world| {
        with_page(world);
        world.memory.write_u64(Hpa(PAGE + 0x80), u64::MAX);
        world.set(Field::TPR_THRESHOLD, 2);
        let write = ApicWrite::Msr { msr: Msr(0x808), value: 0x1f };
        let exit = write_virtual_apic(&mut world.vmx, &world.memory, write);
        assert_eq!(exit.map(|exit| exit.reason), Some(ExitReason::TPR_BELOW_THRESHOLD));
        assert_eq!(world.memory.read_u64(Hpa(PAGE + 0x80)), 0x1f);
    });
}

/// 29.1.2 and 29.1.3 with virtual-interrupt delivery: PPR from TPR and SVI, then evaluation; no exit.
#[test]
fn tpr_virtualization_with_virtual_interrupt_delivery() {
    for (cr8, svi, rvi, vppr, recognized) in [
        (5, 0x00, 0x60, 0x50, true),
        (6, 0x00, 0x6f, 0x60, false),
        (0, 0x51, 0x5f, 0x50, false),
        (0, 0x51, 0x60, 0x50, true),
        (5, 0x51, 0x60, 0x50, true),
        (6, 0x51, 0x60, 0x60, false),
        (0, 0, 0x0f, 0, false),
    ] {
        on_both(&[C::USE_TPR_SHADOW, C::VIRTUAL_INTERRUPT_DELIVERY], |world| {
            with_page(world);
            put(world, apic::VPPR, u32::MAX);
            world.set(Field::GUEST_INTERRUPT_STATUS, svi << 8 | rvi);
            let exit = write_virtual_apic(&mut world.vmx, &world.memory, ApicWrite::Cr8(cr8));
            assert_eq!(exit, None);
            assert_eq!(word(world, apic::VPPR), vppr, "{cr8} {svi:#x}");
            assert_eq!(world.vmx.guest.virtual_interrupt_recognized, recognized, "{cr8} {svi:#x} {rvi:#x}");
            world.on(C::INTERRUPT_WINDOW_EXITING);
            apic::evaluate_virtual_interrupts(&mut world.vmx, &world.memory);
            assert!(!world.vmx.guest.virtual_interrupt_recognized);
        });
    }
}

/// PPR virtualization keeps all eight bits of VTPR where it is not below SVI.
#[test]
fn ppr_has_the_low_bits_of_the_tpr_only() {
    on_both(&[C::USE_TPR_SHADOW, C::VIRTUAL_INTERRUPT_DELIVERY], |world| {
        with_page(world);
        for (vtpr, svi, vppr) in [(0x5f, 0x51, 0x5f), (0x5f, 0x61, 0x60), (0xffff_ff37, 0x31, 0x37)] {
            put(world, apic::VTPR, vtpr);
            world.set(Field::GUEST_INTERRUPT_STATUS, svi << 8);
            apic::virtualize_ppr(&world.vmx, &world.memory);
            assert_eq!(word(world, apic::VPPR), vppr, "{vtpr:#x} {svi:#x}");
        }
    });
}

/// 29.1.4: the interrupt in service is removed, the next lower one is in service, and the EOI-exit bitmap is asked for the old one.
#[test]
fn eoi_virtualization() {
    on_both(&[C::USE_TPR_SHADOW, C::VIRTUALIZE_X2APIC_MODE, C::VIRTUAL_INTERRUPT_DELIVERY], |world| {
        with_page(world);
        for bitmap in
            [Field::EOI_EXIT_BITMAP_0, Field::EOI_EXIT_BITMAP_1, Field::EOI_EXIT_BITMAP_2, Field::EOI_EXIT_BITMAP_3]
        {
            world.set(bitmap, 0);
        }
        world.set(Field::EOI_EXIT_BITMAP_3, 1 << (0xd1 - 0xc0));
        put(world, apic::VISR + 0x60, 1 << 0x11); // D1
        put(world, apic::VISR + 0x20, 1 << 0x0f); // 4F
        put(world, apic::VISR + 0x10, 1 << 0x1e); // 3E
        world.set(Field::GUEST_INTERRUPT_STATUS, 0xd100 | 0x45);
        let eoi = ApicWrite::Msr { msr: Msr(0x80b), value: 0 };

        let exit = write_virtual_apic(&mut world.vmx, &world.memory, eoi);
        assert_eq!(exit.map(|exit| (exit.reason, exit.qualification)), Some((ExitReason::VIRTUALIZED_EOI, 0xd1)));
        assert_eq!(world.vmx.vmcs.get(Field::GUEST_INTERRUPT_STATUS), 0x4f45);
        assert_eq!((word(world, apic::VISR + 0x60), word(world, apic::VPPR)), (0, 0x40));

        assert_eq!(write_virtual_apic(&mut world.vmx, &world.memory, eoi), None);
        assert_eq!(world.vmx.vmcs.get(Field::GUEST_INTERRUPT_STATUS), 0x3e45);
        assert!(world.vmx.guest.virtual_interrupt_recognized, "45 is above 3E");

        assert_eq!(write_virtual_apic(&mut world.vmx, &world.memory, eoi), None);
        assert_eq!(world.vmx.vmcs.get(Field::GUEST_INTERRUPT_STATUS), 0x0045);
        assert_eq!(write_virtual_apic(&mut world.vmx, &world.memory, eoi), None, "nothing in service");
    });
}

/// 29.1.5, and 29.5 for vectors below 16.
#[test]
fn self_ipi() {
    on_both(&[C::USE_TPR_SHADOW, C::VIRTUALIZE_X2APIC_MODE, C::VIRTUAL_INTERRUPT_DELIVERY], |world| {
        with_page(world);
        world.set(Field::GUEST_INTERRUPT_STATUS, 0x40);
        let mut send =
            |value| write_virtual_apic(&mut world.vmx, &world.memory, ApicWrite::Msr { msr: Msr(0x83f), value });
        let low = send(0x0f).map(|exit: Exit| (exit.reason, exit.qualification, exit.keeps_pending_debug));
        assert_eq!(low, Some((ExitReason::APIC_WRITE, 0x3f0, true)));
        assert_eq!((send(0x31), send(0xff)), (None, None));
        assert_eq!(word(world, apic::VIRR), 0, "a vector below 16 is not requested");
        assert_eq!(word(world, apic::VIRR + 0x10), 1 << 0x11);
        assert_eq!(word(world, apic::VIRR + 0x70), 1 << 31);
        assert_eq!(word(world, apic::SELF_IPI), 0xff, "the write is done");
        assert_eq!(world.vmx.vmcs.get(Field::GUEST_INTERRUPT_STATUS), 0xff);
        assert!(world.vmx.guest.virtual_interrupt_recognized);
    });
}

/// 29.2.2, the pseudocode: VISR, SVI, VPPR, VIRR, RVI.
#[test]
fn delivery_of_a_virtual_interrupt_moves_it_from_requested_to_in_service() {
    // RVI; bits of VIRR as (offset of the word, word); what VIRR's word becomes; the new RVI.
    for (vector, others, word_after, next) in [
        (0x51_u8, None, 0, 0),
        // A lower request in the same word; one in a lower word.
        (0x51, Some((0x220, 1 << 3)), 1 << 3, 0x43),
        (0x51, Some((0x200, 1 << 31)), 0, 0x1f),
    ] {
        on_both(&[C::USE_TPR_SHADOW, C::VIRTUAL_INTERRUPT_DELIVERY], |world| {
            with_page(world);
            // 51H is bit 17 of the third word.
            put(world, 0x220, 1 << 17);
            if let Some((offset, bits)) = others {
                put(world, offset, word(world, offset) | bits);
            }
            world.set(Field::GUEST_INTERRUPT_STATUS, 0x2000 | u64::from(vector));
            world.vmx.guest.virtual_interrupt_recognized = true;

            let event = apic::deliver_virtual_interrupt(&mut world.vmx, &world.memory);

            assert_eq!(event, Event::external_interrupt(vector));
            assert_eq!(word(world, 0x120), 1 << 17, "VISR");
            assert_eq!(word(world, apic::VPPR), 0x50);
            assert_eq!(word(world, 0x220), word_after, "VIRR");
            let status = u64::from(vector) << 8 | next;
            assert_eq!(world.vmx.vmcs.get(Field::GUEST_INTERRUPT_STATUS), status, "{others:?}");
            assert!(!world.vmx.guest.virtual_interrupt_recognized);
        });
    }
}
