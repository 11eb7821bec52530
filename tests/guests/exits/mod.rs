//! Small hypervisors that raise each VM exit that an instruction or an event can raise.
//!
//! A case is what L2 executes, what differs from the usual VMCS, and what L1 sees: the lines that it prints, with every information field read
//! by VMREAD. The exits that the model has taken have to be the same. L2 ends with VMCALL, which shows where L1 has made it go on.

mod apic;
mod complete;
mod entries;
mod events;
mod faults;
mod instructions;
mod io_and_msrs;
mod memory;
mod modes;
mod registers;
mod vmx;

use crate::world;
use iced_x86::code_asm::CodeAssembler;
use softvirt::vmx_model::reasons::ExitReason;
use softvirt::vmx_model::{Control, Field};
use softvirt_guests::code::{Assembled, Code};
use softvirt_guests::hypervisor::{Hypervisor, Ways, handler};
use softvirt_guests::report::print_exit;
use softvirt_guests::smp::second_processor;
use softvirt_guests::vmcs::Mode;
use softvirt_machine::Ended;

/// Code of L2.
pub type Body = fn(&mut CodeAssembler) -> Assembled;
/// Code of L1, after the exit is printed. If it falls through, L2 goes on behind the instruction.
pub type Host = fn(&mut Code, Ways) -> Assembled;

/// A guest, and the exits that L1 sees.
#[derive(Clone, Copy)]
pub struct Case {
    mode: Mode,
    controls: &'static [Control],
    fields: &'static [(Field, u64)],
    guest: Body,
    handler: Option<Body>,
    host: Host,
    before: fn(&mut Code) -> Assembled,
    second: Option<fn(&mut Code) -> Assembled>,
    change: fn(&mut Hypervisor),
    expected: &'static [&'static str],
}

/// L2 executes this, in 64-bit mode at level 0.
pub fn l2(guest: Body) -> Case {
    Case {
        mode: Mode::Long64,
        controls: &[],
        fields: &[],
        guest,
        handler: None,
        host: |_, _| Ok(()),
        before: |_| Ok(()),
        second: None,
        change: |_| {},
        expected: &[],
    }
}

impl Case {
    /// In another mode.
    pub fn mode(self, mode: Mode) -> Self {
        Self { mode, ..self }
    }

    /// With these controls.
    pub fn on(self, controls: &'static [Control]) -> Self {
        Self { controls, ..self }
    }

    /// With these values in the VMCS.
    pub fn set(self, fields: &'static [(Field, u64)]) -> Self {
        Self { fields, ..self }
    }

    /// With this in L2's handler of all interrupts and exceptions.
    pub fn handler(self, handler: Body) -> Self {
        Self { handler: Some(handler), ..self }
    }

    /// With this in L1 at each exit.
    pub fn host(self, host: Host) -> Self {
        Self { host, ..self }
    }

    /// With this in L1 before VMX operation.
    pub fn before(self, before: fn(&mut Code) -> Assembled) -> Self {
        Self { before, ..self }
    }

    /// With a second processor, which executes this.
    pub fn second(self, second: fn(&mut Code) -> Assembled) -> Self {
        Self { second: Some(second), before: Code::start_others, ..self }
    }

    /// With any other change.
    pub fn change(self, change: fn(&mut Hypervisor)) -> Self {
        Self { change, ..self }
    }

    /// L1 prints these lines.
    pub fn sees(self, expected: &'static [&'static str]) -> Self {
        Self { expected, ..self }
    }

    /// The basic exit reasons that it shows.
    pub fn reasons(&self) -> Vec<u16> {
        let number = |line: &&str| line.split(' ').nth(1).and_then(|number| number.parse().ok());
        self.expected.iter().filter_map(number).collect()
    }

    /// Runs it and compares.
    #[track_caller]
    pub fn check(self) {
        let mut hypervisor = Hypervisor::new(self.mode, |a| {
            (self.guest)(a)?;
            a.zero_bytes()?;
            a.vmcall()
        })
        .unwrap();
        if let Some(body) = self.handler {
            hypervisor.handler = handler(self.mode, body).unwrap();
        }
        for control in self.controls {
            hypervisor.vmcs.on(*control);
        }
        for (field, value) in self.fields {
            hypervisor.vmcs.set(*field, *value);
        }
        (self.change)(&mut hypervisor);
        let exit = |a: &mut Code, ways: Ways| {
            print_exit(a)?;
            a.read_field(Field::EXIT_REASON)?;
            a.test(iced_x86::code_asm::eax, iced_x86::code_asm::eax)?;
            a.js(ways.done)?;
            a.cmp(iced_x86::code_asm::eax, i32::from(ExitReason::VMCALL.basic()))?;
            a.je(ways.done)?;
            (self.host)(a, ways)
        };
        let mut image = hypervisor.image(self.before, exit).unwrap();
        let cpus = match self.second {
            Some(program) => {
                second_processor(&mut image, program).unwrap();
                2
            }
            None => 1,
        };
        let run = world::run_on(cpus, &image.to_elf());
        let seen: Vec<&str> = run.serial.lines().collect();
        assert_eq!(seen, self.expected, "what L1 has read\n{:?}\n", run.ended);
        assert_eq!(run.trace, run.serial, "what the model has recorded");
        assert_eq!(run.ended, Ended::DebugExit(0));
    }
}

/// Cases with names: a test for each, and all of them for the test of completeness.
macro_rules! cases {
    ($($(#[$doc:meta])* $name:ident: $case:expr;)*) => {
        pub fn all() -> Vec<$crate::exits::Case> {
            vec![$($case),*]
        }

        $($(#[$doc])*
        #[test]
        fn $name() {
            $case.check();
        })*
    };
}
pub(crate) use cases;

/// L1 stops after the first exit.
pub fn stop(a: &mut Code, ways: Ways) -> Assembled {
    a.jmp(ways.done)
}

/// L1 resumes L2 at the same instruction.
pub fn again(a: &mut Code, ways: Ways) -> Assembled {
    a.jmp(ways.resume)
}
