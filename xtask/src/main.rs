//! The project's chores: `cargo xtask --help` lists them.

mod callgrind;
mod ci;
mod docs;
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
    /// Write `docs/rules.md` and README's coverage table from the rule tables.
    Docs {
        /// Write nothing; fail if a document is stale.
        #[arg(long)]
        check: bool,
    },
    /// Count the instructions of a complete VM-entry check with callgrind.
    Callgrind,
    /// Run every step of CI.
    Ci,
}

fn main() -> ExitCode {
    let done: Result<(), String> = match Cli::parse().chore {
        Chore::Profiles { check } => profiles::run(check).map_err(|error| error.to_string()),
        Chore::Docs { check } => docs::run(check),
        Chore::Callgrind => callgrind::run(),
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
