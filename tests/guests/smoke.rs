//! Does each mode of the processor work from boot to the end?

use crate::world::{RAM_BYTES, run, run_in, run_on};
use softvirt_guests::boot::kernel;
use softvirt_guests::hypervisor::Hypervisor;
use softvirt_guests::report::print_exit;
use softvirt_guests::smoke;
use softvirt_guests::vmcs::Mode;
use softvirt_machine::{Config, Ended};

#[test]
fn a_kernel_in_64_bit_mode_prints() {
    let image = kernel(|a| {
        a.print("hello, world\n")?;
        a.exit(0)
    });
    let run = run(&image.unwrap().to_elf());
    assert_eq!((run.ended, run.serial.as_str()), (Ended::DebugExit(0), "hello, world\n"));
}

#[test]
fn an_exception_of_the_host_is_told() {
    let image = kernel(|a| a.ud2());
    let run = run(&image.unwrap().to_elf());
    assert_eq!(run.ended, Ended::DebugExit(0x7f));
    assert!(run.serial.starts_with("host: exception 6, error code 0 at 108"), "{}", run.serial);
}

#[test]
fn a_hypervisor_sees_cpuid() {
    let hypervisor = Hypervisor::new(Mode::Long64, |a| a.cpuid()).unwrap();
    let image = hypervisor.image(
        |_| Ok(()),
        |a, ways| {
            print_exit(a)?;
            a.jmp(ways.done)
        },
    );
    let run = run(&image.unwrap().to_elf());
    assert_eq!(run.serial, "exit 10 at 200000 length 2\n");
    assert_eq!(run.trace, run.serial);
    assert_eq!(run.ended, Ended::DebugExit(0));
}

macro_rules! guests {
    ($($name:ident)*) => {
        const NAMES: &[&str] = &[$(stringify!($name)),*];

        $(#[test]
        fn $name() {
            let guests = smoke::guests().unwrap();
            let guest = guests.iter().find(|guest| guest.name == stringify!($name)).unwrap();
            // A second processor is there for whoever starts it.
            let run = run_on(2, &guest.image);
            assert_eq!((run.serial.as_str(), run.ended), (guest.serial, Ended::DebugExit(0)));
        })*
    };
}

guests! { real_mode protected_16 protected_32 virtual_8086 compatibility long two_processors }

#[test]
fn every_guest_has_a_test() {
    let names: Vec<&str> = smoke::guests().unwrap().iter().map(|guest| guest.name).collect();
    assert_eq!(names, NAMES);
}

/// Whoever runs first, and for how long: the IPIs make the order.
#[test]
fn two_processors_agree_whatever_the_interleaving() {
    let guests = smoke::guests().unwrap();
    let guest = guests.iter().find(|guest| guest.name == "two_processors").unwrap();
    for seed in 0..8 {
        let config = Config { cpus: 2, seed, memory_bytes: RAM_BYTES, ..Config::default() };
        assert_eq!(run_in(&config, &guest.image).serial, guest.serial, "seed {seed}");
    }
}
