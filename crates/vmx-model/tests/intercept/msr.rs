//! RDMSR, WRMSR and their later relatives: bitmaps and virtualized registers.

use crate::world::Want::{Exit, Gp, Instead, Normal};
use crate::world::{Want, World, long, on_both};
use vmx_model::intercept::{self, ApicWrite};
use vmx_model::{Control as C, Effect, Field, TscTransform, Verdict};
use x86_state::{Hpa, Instruction, Msr, Op, PhysMemory};

const BITMAPS: u64 = 0xc000;
const PAGE: u64 = 0xd000;

fn read(msr: u32) -> Instruction {
    long(Op::Rdmsr { msr: Msr(msr) })
}

fn write(msr: u32, value: u64) -> Instruction {
    long(Op::Wrmsr { msr: Msr(msr), value })
}

/// Clear bitmaps.
fn open(world: &mut World) {
    world.on(C::USE_MSR_BITMAPS);
    world.set(Field::MSR_BITMAPS_ADDRESS, BITMAPS);
    world.memory.zero(BITMAPS, 4096);
}

/// Bochs 9d5d33632: the index in the bitmap of high MSRs is ECX & 1FFF. B-74: no bitmaps, everything exits.
#[test]
fn bochs_9d5d33632_and_b_74_ranges_of_the_bitmaps() {
    on_both(&[], |world| {
        for msr in [0, 0x1fff, 0x2000, 0xbfff_ffff, 0xc000_0000, 0xc000_1fff, 0xc000_2000, u32::MAX] {
            assert_eq!(world.decide(&read(msr)), Exit(31, 0));
            assert_eq!(world.decide(&write(msr, 0)), Exit(32, 0));
        }
        open(world);
        for (msr, in_range) in [
            (0, true),
            (0x1fff, true),
            (0x2000, false),
            (0x8000_0000, false),
            (0xbfff_ffff, false),
            (0xc000_0000, true),
            (0xc000_1fff, true),
            (0xc000_2000, false),
            (u32::MAX, false),
        ] {
            let (reads, writes) = if in_range { (Normal, Normal) } else { (Exit(31, 0), Exit(32, 0)) };
            assert_eq!(world.decide(&read(msr)), reads, "{msr:#x}");
            assert_eq!(world.decide(&write(msr, 0)), writes, "{msr:#x}");
        }
    });
}

/// One bit in one of the four bitmaps intercepts one access to one register.
#[test]
fn one_bit_one_access() {
    for (offset, bit, reads, writes) in [
        (0, 0x174, Some(0x174), None),
        (0, 0x1fff, Some(0x1fff), None),
        (1024, 0x80, Some(0xc000_0080), None),
        (1024, 0x1fff, Some(0xc000_1fff), None),
        (2048, 0x174, None, Some(0x174)),
        (3072, 0, None, Some(0xc000_0000)),
    ] {
        on_both(&[], |world| {
            open(world);
            world.memory.flip(BITMAPS + offset, bit);
            for msr in [0x174, 0x175, 0x1fff, 0xc000_0000, 0xc000_0080, 0xc000_1fff, 0xc000_0174] {
                let want = |hit: Option<u32>, reason| if hit == Some(msr) { Exit(reason, 0) } else { Normal };
                assert_eq!(world.decide(&read(msr)), want(reads, 31), "read {msr:#x}");
                assert_eq!(world.decide(&write(msr, 0)), want(writes, 32), "write {msr:#x}");
                let wrmsrns = world.decide(&long(Op::Wrmsrns { msr: Msr(msr), value: 0 }));
                assert_eq!(wrmsrns, if writes == Some(msr) { Exit(32, 1) } else { Normal });
            }
        });
    }
}

/// 25.3: IA32_TIME_STAMP_COUNTER is scaled and offset, IA32_TSC_DEADLINE is not.
#[test]
fn the_time_stamp_counter() {
    on_both(&[], |world| {
        open(world);
        assert_eq!(world.decide(&read(0x10)), Normal);
        world.on(C::USE_TSC_OFFSETTING);
        world.set(Field::TSC_OFFSET, 5);
        world.set(Field::TSC_MULTIPLIER, 3 << 48);
        assert_eq!(world.decide(&read(0x10)), Instead(Effect::Tsc(TscTransform { multiplier: None, offset: 5 })));
        world.on(C::USE_TSC_SCALING);
        let scaled = TscTransform { multiplier: Some(3 << 48), offset: 5 };
        assert_eq!(world.decide(&read(0x10)), Instead(Effect::Tsc(scaled)));
        assert_eq!(world.decide(&read(0x6e0)), Normal);
        assert_eq!(world.decide(&write(0x10, 7)), Normal, "a write goes to the register itself");
    });
}

#[test]
fn microcode_updates_are_not_loaded() {
    on_both(&[], |world| {
        open(world);
        assert_eq!(world.decide(&write(0x79, 0x1000)), Instead(Effect::Nothing));
    });
}

/// Rev 092, 28.3; Bochs masks alike.
#[test]
fn spec_ctrl_under_its_control() {
    on_both(&[], |world| {
        open(world);
        world.cpu.spec_ctrl = 0b0101;
        assert_eq!(world.decide(&read(0x48)), Normal);
        assert_eq!(world.decide(&write(0x48, 1)), Normal);
        world.on(C::VIRTUALIZE_SPEC_CTRL);
        world.set(Field::SPEC_CTRL_SHADOW, 0x77);
        world.set(Field::SPEC_CTRL_MASK, 0b0011);
        assert_eq!(world.decide(&read(0x48)), Instead(Effect::Read(0x77)));
        let written = Effect::WriteSpecCtrl { value: 0b1001, shadow: 0b1010 };
        assert_eq!(world.decide(&write(0x48, 0b1010)), Instead(written));
    });
}

/// Rev 092, 28.3.
#[test]
fn the_deadline_under_apic_timer_virtualization() {
    on_both(&[C::VIRTUALIZE_APIC_TIMER], |world| {
        open(world);
        world.set(Field::GUEST_DEADLINE_SHADOW, 0x1234);
        assert_eq!(world.decide(&read(0x6e0)), Instead(Effect::Read(0x1234)));
        assert_eq!(world.decide(&write(0x6e0, 9)), Instead(Effect::SetGuestDeadline(9)));
    });
}

/// 29.5, RDMSR.
#[test]
fn reads_of_the_x2apic_range() {
    on_both(&[], |world| {
        open(world);
        world.set(Field::VIRTUAL_APIC_ADDRESS, PAGE);
        world.memory.write_u64(Hpa(PAGE + 0x80), 0x1111_2222_3333_4444);
        world.memory.write_u64(Hpa(PAGE + 0xff0), 0x5555_6666_7777_8888);
        let tpr = Instead(Effect::Read(0x1111_2222_3333_4444));
        let last = Instead(Effect::Read(0x5555_6666_7777_8888));
        world.on(C::APIC_REGISTER_VIRTUALIZATION);
        assert_eq!(world.decide(&read(0x808)), Normal, "without virtualized x2APIC mode");
        world.on(C::VIRTUALIZE_X2APIC_MODE);
        for (msr, want) in [(0x7ff, Normal), (0x808, tpr), (0x8ff, last), (0x900, Normal)] {
            assert_eq!(world.decide(&read(msr)), want, "{msr:#x}");
        }
        world
            .vmx
            .vmcs
            .update(Field::SECONDARY_PROC_BASED_CONTROLS, |bits| bits & !C::APIC_REGISTER_VIRTUALIZATION.mask());
        world.set(Field::CR3_TARGET_COUNT, 0);
        for (msr, want) in [(0x808, tpr), (0x80a, Normal), (0x8ff, Normal)] {
            assert_eq!(world.decide(&read(msr)), want, "{msr:#x} without register virtualization");
        }
    });
}

/// 29.5, WRMSR: which registers are special under which controls, and their reserved bits.
#[test]
fn writes_of_the_x2apic_range() {
    let (x2apic, delivery) = (C::VIRTUALIZE_X2APIC_MODE, C::VIRTUAL_INTERRUPT_DELIVERY);
    let to_page = |msr, value| Instead(Effect::WriteVirtualApic(ApicWrite::Msr { msr: Msr(msr), value }));
    for (controls, msr, value, want) in [
        (&[delivery][..], 0x808, 0x50, Normal),
        (&[x2apic], 0x808, 0x50, to_page(0x808, 0x50)),
        (&[x2apic], 0x808, 0xff, to_page(0x808, 0xff)),
        (&[x2apic], 0x808, 0x100, Gp),
        (&[x2apic], 0x808, 1 << 32, Gp),
        (&[x2apic], 0x80b, 0, Normal),
        (&[x2apic], 0x83f, 0x31, Normal),
        (&[x2apic, delivery], 0x80b, 0, to_page(0x80b, 0)),
        (&[x2apic, delivery], 0x80b, 1, Gp),
        (&[x2apic, delivery], 0x80b, 1 << 63, Gp),
        (&[x2apic, delivery], 0x83f, 0x31, to_page(0x83f, 0x31)),
        (&[x2apic, delivery], 0x83f, 0x131, Gp),
        (&[x2apic, delivery], 0x80a, 0, Normal),
        (&[x2apic, delivery], 0x830, 0, Normal),
    ] {
        on_both(controls, |world| {
            open(world);
            assert_eq!(world.decide(&write(msr, value)), want, "{msr:#x} {value:#x}");
        });
    }
}

/// Rev 092, 28.1.3: the qualification is 0 without bitmaps, else the index; WRMSRLIST tells the data.
#[test]
fn lists_of_msrs() {
    let list = |world: &World, op, msr, value| {
        intercept::listed_msr(&world.vmx, &world.cpu, &world.memory, &long(op), Msr(msr), value)
    };
    on_both(&[C::ENABLE_MSR_LIST], |world| {
        assert_eq!(world.decide(&long(Op::Rdmsrlist)), Exit(78, 0));
        assert_eq!(world.decide(&long(Op::Wrmsrlist)), Exit(79, 0));
        open(world);
        world.memory.flip(BITMAPS, 0x174);
        world.memory.flip(BITMAPS + 2048, 0x175);
        assert_eq!(world.decide(&long(Op::Rdmsrlist)), Normal);
        assert_eq!(world.decide(&long(Op::Wrmsrlist)), Normal);
        for (op, msr, want, data) in [
            (Op::Rdmsrlist, 0x174, Exit(78, 0x174), None),
            (Op::Rdmsrlist, 0x175, Normal, None),
            (Op::Wrmsrlist, 0x174, Normal, None),
            (Op::Wrmsrlist, 0x175, Exit(79, 0x175), Some(0x55)),
            (Op::Wrmsrlist, 0x4000, Exit(79, 0x4000), Some(0x55)),
            (Op::Wrmsrlist, 0x79, Instead(Effect::Nothing), None),
            (Op::Cpuid, 0x174, Normal, None),
        ] {
            let verdict = list(world, op, msr, 0x55);
            assert_eq!(Want::of(verdict), want, "{op:?} {msr:#x}");
            if let Verdict::Exit(exit) = verdict {
                assert_eq!(exit.msr_data, data);
                assert_eq!(exit.instruction_len_bytes, Some(3));
            }
        }
        world.on(C::USE_TSC_OFFSETTING);
        let offset = world.vmx.vmcs.get(Field::TSC_OFFSET);
        let tsc = Instead(Effect::Tsc(TscTransform { multiplier: None, offset }));
        assert_eq!(Want::of(list(world, Op::Rdmsrlist, 0x10, 0)), tsc);
    });
}

/// Rev 092, 28.1.3: user MSRs beyond the bitmaps exit, beyond the user-MSR bitmap they fault first.
#[test]
fn user_msrs() {
    on_both(&[], |world| {
        world.cpl(3);
        let ur = |msr| long(Op::Urdmsr { msr: Msr(msr) });
        let uw = |msr| long(Op::Uwrmsr { msr: Msr(msr), value: 0 });
        assert_eq!(world.decide(&ur(0x4000)), Gp);
        assert_eq!(world.decide(&uw(0x4000)), Gp);
        assert_eq!(world.decide(&ur(0x1b00)), Exit(80, 0));
        open(world);
        world.memory.flip(BITMAPS, 0x1b00);
        for (msr, reads, writes) in [
            (0x1b00, Exit(80, 0), Normal),
            (0x1b01, Normal, Normal),
            (0x2000, Exit(80, 0), Exit(81, 0)),
            (0x3fff, Exit(80, 0), Exit(81, 0)),
            (0x4000, Gp, Gp),
            (0xc000_0080, Gp, Gp),
        ] {
            assert_eq!(world.decide(&ur(msr)), reads, "{msr:#x}");
            assert_eq!(world.decide(&uw(msr)), writes, "{msr:#x}");
        }
        world.on(C::USE_TSC_OFFSETTING);
        assert!(matches!(world.decide(&ur(0x10)), Instead(Effect::Tsc(_))));
    });
}
