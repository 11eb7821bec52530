//! RDTSC, waiting, PAUSE loops.

use crate::world::Want::{Exit, Instead, Normal};
use crate::world::{long, on_both};
use vmx_model::reasons::ExitReason;
use vmx_model::vmx::PauseLoop;
use vmx_model::{Control as C, Effect, Field, TscTransform, intercept};
use x86_state::{Gpr, Op, Rflags};

/// "use TSC scaling" means nothing without "use TSC offsetting"; "RDTSC exiting" goes before both.
#[test]
fn what_a_guest_sees_of_the_time_stamp_counter() {
    let (offset, multiplier) = (0xffff_ffff_ffff_fff0, Some(1 << 47));
    for (controls, transform) in [
        (&[][..], None),
        (&[C::USE_TSC_SCALING], None),
        (&[C::USE_TSC_OFFSETTING], Some(TscTransform { multiplier: None, offset })),
        (&[C::USE_TSC_OFFSETTING, C::USE_TSC_SCALING], Some(TscTransform { multiplier, offset })),
    ] {
        on_both(controls, |world| {
            world.set(Field::TSC_OFFSET, offset);
            world.set(Field::TSC_MULTIPLIER, 1 << 47);
            world.on(C::ENABLE_RDTSCP);
            world.on(C::ENABLE_USER_WAIT_AND_PAUSE);
            let register = Gpr::Rcx;
            let want = transform.map_or(Normal, |transform| Instead(Effect::Tsc(transform)));
            let ops = [(Op::Rdtsc, 16), (Op::Rdtscp, 51), (Op::Umwait { register }, 67), (Op::Tpause { register }, 68)];
            for (op, _) in ops {
                assert_eq!(world.decide(&long(op)), want, "{op:?} {controls:?}");
            }
            assert_eq!(intercept::tsc_transform(&world.vmx), transform.unwrap_or(TscTransform::IDENTITY));
            world.on(C::RDTSC_EXITING);
            for (op, reason) in ops {
                match world.decide(&long(op)) {
                    Exit(found, 0) | crate::world::Want::Told(found, 0, _) => assert_eq!(found, reason),
                    other => panic!("{other:?}"),
                }
            }
        });
    }
}

#[test]
fn scaling_comes_before_offsetting() {
    let half = TscTransform { multiplier: Some(1 << 47), offset: 0xffff_ffff_ffff_fff0 };
    for (tsc, seen) in [(0x100, 0x70), (0x101, 0x70), (0x20, 0), (0, 0xffff_ffff_ffff_fff0)] {
        assert_eq!(half.apply(tsc), seen, "{tsc:#x}");
    }
    let large = TscTransform { multiplier: Some(u64::MAX), offset: 0 };
    // (2^64 - 1)^2 >> 48, its low 64 bits: (2^128 - 2^65 + 1) >> 48 = 2^80 - 2^17.
    assert_eq!(large.apply(u64::MAX), 0u64.wrapping_sub(1 << 17));
}

/// 25.3, UMWAIT and TPAUSE: the virtual delay times 2^48, divided by the multiplier.
#[test]
fn delays_are_turned_back() {
    for (multiplier, delay, physical) in [
        (None, 1000, 1000),
        (Some(1 << 48), 1000, 1000),
        (Some(1 << 47), 1000, 2000),
        (Some(3 << 48), 1000, 333),
        (Some(0), 1000, u64::MAX),
        (Some(0), 0, u64::MAX),
    ] {
        let transform = TscTransform { multiplier, offset: 77 };
        assert_eq!(transform.physical_delay(delay), physical, "{multiplier:?}");
    }
}

/// 25.3, MWAIT: with ECX[0] and masked interrupts it does not wait if an interrupt window or a virtual interrupt is waited for.
#[test]
fn mwait_passes_on() {
    let window = C::INTERRUPT_WINDOW_EXITING;
    let delivery = C::VIRTUAL_INTERRUPT_DELIVERY;
    for (controls, extensions, interrupts, recognized, passes) in [
        (&[][..], 1, false, false, false),
        (&[], 1, false, true, false),
        (&[window], 1, false, false, true),
        (&[window], 1, true, false, false),
        (&[window], 0, false, false, false),
        (&[window], 2, false, false, false),
        (&[delivery], 1, false, false, false),
        (&[delivery], 1, false, true, true),
        (&[delivery], 1, true, true, false),
        (&[delivery], 0, false, true, false),
    ] {
        on_both(controls, |world| {
            world.cpu.rflags.set(Rflags::IF, interrupts);
            world.vmx.guest.virtual_interrupt_recognized = recognized;
            let mwait = long(Op::Mwait { armed: true, extensions });
            let want = if passes { Instead(Effect::Nothing) } else { Normal };
            assert_eq!(world.decide(&mwait), want, "{controls:?} {extensions} {interrupts} {recognized}");
            world.on(C::MWAIT_EXITING);
            assert_eq!(world.decide(&mwait), Exit(36, 1));
        });
    }
}

#[test]
fn pause_loop_exiting_looks_at_cpl_0_only() {
    on_both(&[C::PAUSE_LOOP_EXITING], |world| {
        assert_eq!(world.decide(&long(Op::Pause)), Instead(Effect::PauseLoop));
        world.cpl(3);
        assert_eq!(world.decide(&long(Op::Pause)), Normal);
        world.on(C::PAUSE_EXITING);
        assert_eq!(world.decide(&long(Op::Pause)), Exit(40, 0));
        world.cpl(0);
        assert_eq!(world.decide(&long(Op::Pause)), Exit(40, 0), "PAUSE exiting goes first");
    });
}

/// A gap of 10, a window of 25: what each PAUSE of a sequence does.
#[test]
fn pause_loops_exit_when_the_window_is_exceeded() {
    on_both(&[C::PAUSE_LOOP_EXITING], |world| {
        world.set(Field::PLE_GAP, 10);
        world.set(Field::PLE_WINDOW, 25);
        world.vmx.guest.pause_loop = PauseLoop::default();
        for (tsc, exits) in [
            // The first after VM entry begins a loop, however early.
            (5, false),
            (15, false),
            (25, false),
            // 25 after the first: not exceeded.
            (30, false),
            (31, true),
            // Still in the loop, unless a VM entry comes between.
            (32, true),
            // 11 after the last one: a new loop.
            (43, false),
            (53, false),
            (63, false),
            (68, false),
            (69, true),
        ] {
            let exit = intercept::pause_loop(&mut world.vmx, &world.cpu, &long(Op::Pause), tsc);
            assert_eq!(exit.map(|exit| exit.reason), exits.then_some(ExitReason::PAUSE), "{tsc}");
        }
        world.vmx.guest.pause_loop = PauseLoop::default();
        assert_eq!(intercept::pause_loop(&mut world.vmx, &world.cpu, &long(Op::Pause), 70), None, "after VM entry");
    });
}
