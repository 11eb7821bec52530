//! The project's chores: `cargo xtask --help` lists them.

mod callgrind;
mod ci;
mod coverage;
mod docs;
mod forms;
mod plot;
mod profiles;

use clap::{Parser, Subcommand};
use std::process::ExitCode;

#[derive(Parser)]
#[command(name = "cargo xtask", about = "softvirt's chores")]
struct Cli {
    #[command(subcommand)]
    chore: Chore,
}

#[derive(Subcommand)]
enum Chore {
    /// Validate `profiles/*.toml` and write the constants of x86-state from them.
    Profiles {
        /// Write nothing; fail if the constants are stale.
        #[arg(long)]
        check: bool,
    },
    /// Write the generated documents (`docs/rules.md`, `docs/coverage.md`, ...) and README's coverage table.
    Docs {
        /// Write nothing; fail if a document is stale.
        #[arg(long)]
        check: bool,
    },
    /// Count the instructions of complete VM-entry checks and of page walks with callgrind.
    Callgrind,
    /// Measure page walks against the size of the tables and draw `docs/page-walks.svg`.
    Plot,
    /// Run every step of CI.
    Ci,
}

fn main() -> ExitCode {
    let done: Result<(), String> = match Cli::parse().chore {
        Chore::Profiles { check } => profiles::run(check).map_err(|error| error.to_string()),
        Chore::Docs { check } => docs::run(check),
        Chore::Callgrind => callgrind::run(),
        Chore::Plot => plot::run(),
        Chore::Ci => ci::run(),
    };
    match done {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("error: {error}");
            ExitCode::FAILURE
        }
    }
}
