//! How fast are the benchmark guests here, and on Bochs?
//!
//! `speed [ROUNDS [GUEST..]]`: rounds of softvirt and Bochs in turns, of each the fastest. What counts is the time on a processor
//! (`/proc/PID/schedstat`), between the two reports of the guest. Without `bochs` on the path only softvirt is measured.

mod bochs;
mod pc;

use softvirt_guests::bench;
use std::process::ExitCode;

fn main() -> ExitCode {
    let mut arguments = std::env::args().skip(1);
    let rounds: u32 = arguments.next().and_then(|rounds| rounds.parse().ok()).unwrap_or(3);
    let names: Vec<String> = arguments.collect();
    println!("{:12} {:>12} {:>10} {:>10} {:>8}", "guest", "instructions", "softvirt", "bochs", "ratio");
    for guest in bench::all().iter().filter(|guest| names.is_empty() || names.iter().any(|name| name == guest.name)) {
        let image = guest.image(guest.usual_iterations);
        let mut ours = f64::MAX;
        let mut theirs = None;
        let mut instructions = 0;
        for _ in 0..rounds {
            match pc::run(&image) {
                Ok(ran) => {
                    ours = ours.min(ran.seconds);
                    instructions = ran.instructions;
                }
                Err(error) => {
                    eprintln!("{}: {error}", guest.name);
                    return ExitCode::FAILURE;
                }
            }
            if let Some(seconds) = bochs::run(&image) {
                theirs = Some(seconds.min(theirs.unwrap_or(f64::MAX)));
            }
        }
        let millions = |seconds: f64| instructions as f64 / seconds / 1e6;
        let ours = millions(ours);
        print!("{:12} {instructions:12} {ours:8.1} M", guest.name);
        match theirs.map(millions) {
            Some(theirs) => println!(" {theirs:8.1} M {:8.2}", ours / theirs),
            None => println!(" {:>10} {:>8}", "-", "-"),
        }
    }
    ExitCode::SUCCESS
}

/// The time that a process has had on processors, in seconds.
fn on_processor(process: &str) -> Option<f64> {
    let text = std::fs::read_to_string(format!("/proc/{process}/schedstat")).ok()?;
    text.split(' ').next()?.parse::<f64>().ok().map(|nanoseconds| nanoseconds / 1e9)
}
