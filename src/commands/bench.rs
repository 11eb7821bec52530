//! `softvirt bench`: how many instructions a second does the emulated processor execute here?

use super::layout::Table;
use super::run::ending;
use super::{Answer, Failure, Format, cpu};
use serde::Serialize;
use softvirt::guests::bench::{self, BenchGuest};
use softvirt::machine::{Config, Ended, Machine, Watch};
use std::time::Instant;

/// What to measure.
#[derive(clap::Args)]
#[command(after_help = "\
Examples:
  softvirt bench                   every loop
  softvirt bench paging --rounds 5 those whose name contains it; the fastest of five rounds counts
  softvirt bench --format json

Each guest is a boot sector with one loop; what counts is the time between its first and its last sign at port 0xe9. Times differ from computer to
computer and from minute to minute: compare runs that were made in turns.")]
pub(crate) struct Args {
    /// A part of a loop's name; every loop if there is none
    #[arg(value_name = "NAME")]
    names: Vec<String>,
    /// How often each loop runs; the fastest counts
    #[arg(long, value_name = "N", default_value_t = 3, value_parser = clap::value_parser!(u32).range(1..=1000))]
    rounds: u32,
    /// How many iterations, in percent of the usual number
    #[arg(long, value_name = "PERCENT", default_value_t = 100, value_parser = clap::value_parser!(u32).range(1..=1000))]
    length: u32,
    /// The processor: a name that `softvirt cpu` lists
    #[arg(long, value_name = "NAME", default_value = "max")]
    cpu: String,
}

/// One loop's fastest round.
#[derive(Serialize)]
struct Measured {
    name: &'static str,
    what: &'static str,
    instructions: u64,
    seconds: f64,
    instructions_per_second: u64,
    vm_exits: u64,
}

pub(crate) fn run(args: &Args, format: Format) -> Result<Answer, Failure> {
    let names = || bench::all().iter().map(|guest| guest.name);
    for wanted in &args.names {
        if !names().any(|name| name.contains(wanted.as_str())) {
            return Err(super::unknown("loop", wanted, names()));
        }
    }
    let chosen = bench::all()
        .iter()
        .filter(|guest| args.names.is_empty() || args.names.iter().any(|wanted| guest.name.contains(wanted.as_str())));
    let measured = chosen.map(|guest| fastest(args, guest)).collect::<Result<Vec<_>, Failure>>()?;
    match format {
        Format::Json => Answer::json(&measured),
        Format::Text => {
            let mut table = Table::new(&["loop", "M insns/s", "M insns", "VM exits", "what it does"]);
            for one in &measured {
                table.row([
                    one.name.to_owned(),
                    format!("{:9.1}", one.instructions_per_second as f64 / 1e6),
                    format!("{:7.1}", one.instructions as f64 / 1e6),
                    format!("{:8}", one.vm_exits),
                    one.what.to_owned(),
                ]);
            }
            Ok(Answer::fine(table.render(0)))
        }
    }
}

/// Notes the times of the two signs.
#[derive(Default)]
struct Signs {
    start: Option<Instant>,
    end: Option<Instant>,
}

impl Watch for Signs {
    fn console(&mut self, byte: u8) {
        match byte {
            bench::START => self.start = Some(Instant::now()),
            bench::END => self.end = Some(Instant::now()),
            _ => {}
        }
    }
}

fn fastest(args: &Args, guest: &BenchGuest) -> Result<Measured, Failure> {
    let mut best: Option<Measured> = None;
    for _ in 0..args.rounds {
        let round = measure(args, guest)?;
        if best.as_ref().is_none_or(|best| round.seconds < best.seconds) {
            best = Some(round);
        }
    }
    best.ok_or_else(|| Failure("no round was run".to_owned()))
}

fn measure(args: &Args, guest: &BenchGuest) -> Result<Measured, Failure> {
    // A loop has at most some dozens of instructions an iteration.
    const MOST: u64 = 1 << 40;
    let failed = |what: &dyn std::fmt::Display| Failure(format!("{}: {what}", guest.name));
    let iterations = u64::from(guest.usual_iterations) * u64::from(args.length) / 100;
    let image = guest.image(u32::try_from(iterations.max(1)).unwrap_or(u32::MAX));
    let config = Config { profile: cpu::find(&args.cpu)?, memory_bytes: 64 << 20, ..Config::default() };
    let mut machine = Machine::new(&config).map_err(|error| failed(&error))?;
    machine.load(&image, "", &[]).map_err(|error| failed(&error))?;
    let mut signs = Signs::default();
    let ended = machine.run(MOST, &mut signs);
    let Signs { start: Some(start), end: Some(end) } = signs else {
        return Err(failed(&format!("the loop did not come to its end: {}", ending::words(&ended))));
    };
    if !matches!(ended, Ended::Shutdown | Ended::DebugExit(0)) {
        return Err(failed(&ending::words(&ended)));
    }
    let counters = machine.counters();
    let instructions: u64 = counters.cpus.iter().map(|cpu| cpu.instructions).sum();
    let seconds = end.duration_since(start).as_secs_f64();
    Ok(Measured {
        name: guest.name,
        what: guest.what,
        instructions,
        seconds,
        instructions_per_second: if seconds > 0.0 { (instructions as f64 / seconds) as u64 } else { 0 },
        vm_exits: counters.exits.values().sum(),
    })
}
