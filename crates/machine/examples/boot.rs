//! Boots an image and prints what it sends to the serial port, then how it ended.
//!
//! ```text
//! boot IMAGE [cpus=N] [mem=MiB] [seed=N] [limit=N] [cpu=PROFILE] [trace=exits] [env=NAME=VALUE]... [-- COMMAND LINE]
//! ```

use softvirt_machine::{Config, Machine, Module, Watch};
use std::io::Write;
use vmx_model::exit::Exit;
use x86_emu::State;
use x86_state::{Event, profiles};

struct Print {
    exits: bool,
    events: bool,
}

impl Watch for Print {
    const INSTRUCTIONS: bool = false;

    fn serial(&mut self, byte: u8) {
        let _ = std::io::stdout().write_all(&[byte]);
    }

    fn console(&mut self, byte: u8) {
        let _ = std::io::stdout().write_all(&[byte]);
    }

    fn exited(&mut self, cpu: usize, state: &State, exit: &Exit) {
        if self.exits {
            println!("[{cpu}] {:#x} exit {:?} {:#x}", state.tsc, exit.reason, exit.qualification);
        }
    }

    fn delivered(&mut self, cpu: usize, state: &State, event: &Event) {
        if self.events {
            println!("[{cpu}] {:#x} {event:?} to {:#x} cr2 {:#x}", state.tsc, state.cpu.rip, state.cpu.cr2);
        }
    }
}

fn main() -> Result<(), Box<dyn std::error::Error>> {
    let mut arguments = std::env::args().skip(1);
    let Some(path) = arguments.next() else { return Err("which image?".into()) };
    let mut config = Config::default();
    let mut limit = 1_000_000_000;
    let mut print = Print { exits: false, events: false };
    let mut command_line = path.clone();
    let mut environment = String::new();
    while let Some(argument) = arguments.next() {
        match argument.split_once('=') {
            Some(("cpus", value)) => config.cpus = value.parse()?,
            Some(("mem", value)) => config.memory_bytes = value.parse::<u64>()? << 20,
            Some(("seed", value)) => config.seed = value.parse()?,
            Some(("limit", value)) => limit = value.parse()?,
            Some(("cpu", value)) => config.profile = profiles::by_name(value).ok_or("no such processor")?,
            Some(("env", line)) => {
                environment.push_str(line);
                environment.push('\n');
            }
            Some(("trace", "exits")) => print.exits = true,
            Some(("trace", "events")) => (print.exits, print.events) = (true, true),
            _ if argument == "--" => {
                for word in arguments.by_ref() {
                    command_line.push(' ');
                    command_line.push_str(&word);
                }
            }
            _ => return Err(format!("what is {argument}?").into()),
        }
    }
    let module = [Module { name: "environment", bytes: environment.as_bytes() }];
    let modules = if environment.is_empty() { &[][..] } else { &module[..] };
    let mut machine = Machine::new(&config)?;
    let loaded = machine.load(&std::fs::read(&path)?, &command_line, modules)?;
    println!("{loaded:x?}");
    let begun = std::time::Instant::now();
    let ended = machine.run(limit, &mut print);
    let seconds = begun.elapsed().as_secs_f64();
    println!("{ended:?}");
    for (index, state) in machine.cpus().enumerate() {
        let cpu = &state.cpu;
        println!("[{index}] rip {:#x} {:?} {:?} gpr {:x?}", cpu.rip, cpu.mode(), cpu.activity, cpu.gpr.0);
    }
    let counters = machine.counters();
    println!("{counters:?}");
    let instructions: u64 = counters.cpus.iter().map(|cpu| cpu.instructions).sum();
    println!("{instructions} instructions, {:.1} million a second", instructions as f64 / seconds / 1e6);
    Ok(())
}
