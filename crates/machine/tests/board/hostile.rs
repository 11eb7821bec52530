//! Nothing that a guest or an image can do makes the machine panic, hang, or grow without bound.

use crate::support::*;
use proptest::prelude::*;
use softvirt_machine::{Config, Ended, Machine};
use x86_emu::Bus;
use x86_emu::bus::Taken;
use x86_state::{Hpa, Msr};

/// An access to a device.
#[derive(Clone, Copy, Debug)]
enum Access {
    In(u16, u8),
    Out(u16, u8, u32),
    Load(u64, u8),
    Store(u64, u8, u64),
    Rdmsr(u32),
    Wrmsr(u32, u64),
    Acknowledge,
    Taken(u8),
    Cr8(u8),
    Time(u64),
}

fn port() -> impl Strategy<Value = u16> {
    prop_oneof![
        Just(0x20),
        Just(0x21),
        Just(0xa0),
        Just(0xa1),
        0x4d0..0x4d2_u16,
        0x3f8..0x400_u16,
        0x510..0x512_u16,
        0xe0..0xf5_u16,
        0x2000..0x2020_u16,
        Just(0x8900),
        any::<u16>(),
    ]
}

fn address() -> impl Strategy<Value = u64> {
    let apic = (0..0x40_u64).prop_map(|n| 0xfee0_0000 + 16 * n);
    let io_apic = prop_oneof![Just(0xfec0_0000_u64), Just(0xfec0_0010)];
    prop_oneof![
        4 => apic,
        4 => io_apic,
        1 => 0xfee0_0000..0xfee0_1000_u64,
        1 => 0xfec0_0000..0xfec0_1000_u64,
        1 => 0xfeff_fff0..0xff01_0010_u64,
        1 => 0x1f_fff0..0x20_0010_u64,
        1 => any::<u64>(),
    ]
}

fn msr() -> impl Strategy<Value = u32> {
    prop_oneof![4 => 0x800..0x840_u32, 1 => Just(0x1b), 1 => Just(0x6e0), 1 => Just(0x10), 1 => Just(0x3b), 2 => any::<u32>(), 2 => 0..0x400_u32]
}

fn value() -> impl Strategy<Value = u64> {
    prop_oneof![
        any::<u64>(),
        any::<u32>().prop_map(u64::from),
        any::<u8>().prop_map(u64::from),
        Just(0xfee0_0900),
        Just(0xfee0_0d00)
    ]
}

fn access() -> impl Strategy<Value = Access> {
    let size = prop_oneof![Just(1_u8), Just(2), Just(4)];
    let wide = prop_oneof![Just(1_u8), Just(2), Just(4), Just(8)];
    prop_oneof![
        2 => (port(), size.clone()).prop_map(|(port, size)| Access::In(port, size)),
        4 => (port(), size, any::<u32>()).prop_map(|(port, size, value)| Access::Out(port, size, value)),
        2 => (address(), wide.clone()).prop_map(|(at, size)| Access::Load(at, size)),
        4 => (address(), wide, value()).prop_map(|(at, size, value)| Access::Store(at, size, value)),
        1 => msr().prop_map(Access::Rdmsr),
        3 => (msr(), value()).prop_map(|(msr, value)| Access::Wrmsr(msr, value)),
        1 => Just(Access::Acknowledge),
        1 => (0..4_u8).prop_map(Access::Taken),
        1 => any::<u8>().prop_map(Access::Cr8),
        1 => any::<u64>().prop_map(Access::Time),
    ]
}

fn perform(bus: &impl Bus, access: Access) {
    match access {
        Access::In(port, size) => {
            bus.port_read(port, size);
        }
        Access::Out(port, size, value) => bus.port_write(port, size, value),
        Access::Load(at, 1) => {
            bus.read_u8(Hpa(at));
        }
        Access::Load(at, 2) => {
            bus.read_u16(Hpa(at));
        }
        Access::Load(at, 4) => {
            bus.read_u32(Hpa(at));
        }
        Access::Load(at, _) => {
            bus.read_u64(Hpa(at));
        }
        Access::Store(at, 1, value) => bus.write_u8(Hpa(at), value as u8),
        Access::Store(at, 2, value) => bus.write_u16(Hpa(at), value as u16),
        Access::Store(at, 4, value) => bus.write_u32(Hpa(at), value as u32),
        Access::Store(at, _, value) => bus.write_u64(Hpa(at), value),
        Access::Rdmsr(msr) => {
            bus.read(Msr(msr));
        }
        Access::Wrmsr(msr, value) => {
            bus.write(Msr(msr), value);
        }
        Access::Acknowledge => {
            bus.acknowledge_interrupt();
        }
        Access::Taken(which) => {
            bus.taken([Taken::Nmi, Taken::Smi, Taken::Init, Taken::Sipi][usize::from(which & 3)]);
        }
        Access::Cr8(priority) => bus.set_task_priority(priority & 0xf),
        Access::Time(tsc) => {
            bus.now(tsc);
        }
    }
}

proptest! {
    #![proptest_config(ProptestConfig { failure_persistence: None, ..ProptestConfig::with_cases(300) })]

    #[test]
    fn devices_take_any_accesses(accesses in prop::collection::vec((0..3_usize, access()), 1..200)) {
        let machine = Machine::new(&config(3)).unwrap();
        for (cpu, access) in accesses {
            let bus = machine.bus(cpu).unwrap();
            perform(bus, access);
            // What is asked before each block is the summary of what waits.
            prop_assert_eq!(bus.attention(), bus.pending() != Default::default());
        }
    }

    #[test]
    fn any_bytes_run_as_code_on_two_processors(code in prop::collection::vec(any::<u8>(), 512), seed in any::<u64>()) {
        let config = Config { seed, ..config(2) };
        let mut machine = guest(&config, &[(CODE, code.clone()), (AP_CODE, code), (0x40_000 - 0x40, vec![0xff; 0x40])]);
        machine.run(20_000, &mut ());
        let counted: u64 = machine.counters().cpus.iter().map(|cpu| cpu.instructions).sum();
        prop_assert!(counted <= 20_000);
    }

    #[test]
    fn any_bytes_may_be_an_image(mut image in prop::collection::vec(any::<u8>(), 0..600), kind in 0..4) {
        let start: &[u8] = match kind {
            0 => b"\x7fELF\x01\x01",
            1 => b"\x7fELF\x02\x01",
            2 => &[0x02, 0xb0, 0xad, 0x1b, 0, 0, 1, 0, 0xfe, 0x4f, 0x51, 0xe4],
            _ => &[],
        };
        for (byte, fixed) in image.iter_mut().zip(start) {
            *byte = *fixed;
        }
        let mut machine = machine();
        if machine.load(&image, "", &[]).is_ok() {
            machine.run(1000, &mut ());
        }
    }
}

#[test]
fn endless_output_does_not_grow_without_bound() {
    // MOV DX, 0x3F8; OUT DX, AL for ever.
    let mut machine = guest(&config(1), &[(CODE, vec![0xba, 0xf8, 3, 0xee, 0xeb, 0xfd])]);
    machine.run(12_000_000, &mut ());
    assert!(machine.serial().len() <= 4 << 20, "{}", machine.serial().len());
    assert!(machine.serial().len() >= 2 << 20);
}

#[test]
fn a_broadcast_init_to_everyone_resets_even_the_sender() {
    // All including self: 0x8_4500; then OUT 0xE9, AL. The bootstrap processor begins again at the reset vector, from where
    // firmware boots the program again, which never comes to its OUT.
    let code = [prologue(0x6000), wrmsr(0x830, 0x8_4500), PRINT.to_vec(), vec![0xeb, 0xfe]].concat();
    let mut machine = guest(&config(2), &[(CODE, code)]);
    assert_eq!(machine.run(2000, &mut ()), Ended::Limit);
    assert_eq!(machine.console(), b"");
}
