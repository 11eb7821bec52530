//! The `softvirt` command: what does the user ask, and who answers?

mod commands;

use clap::{Parser, Subcommand};
use commands::Format;
use std::process::ExitCode;

/// Runs hypervisors without VT-x, explains failed VM entries (Intel VMX), walks page tables, and is the handbook to VMX.
///
/// A hypervisor whose VMLAUNCH or VMRESUME fails gets a number. softvirt reads the dump that the kernel or the hypervisor printed, checks
/// every rule of the manual, and says which are broken, by which fields, and what they had to be.
#[derive(Parser)]
#[command(name = "softvirt", version, after_help = EXAMPLES, subcommand_required = true, arg_required_else_help = true)]
struct Cli {
    /// How to print: for people, or for programs
    #[arg(long, global = true, value_enum, default_value_t = Format::Text)]
    format: Format,
    #[command(subcommand)]
    command: Command,
}

#[derive(Subcommand)]
enum Command {
    /// Boot an image on an emulated machine with VT-x: each VM exit, and why each failed VM entry failed
    Run(Box<commands::run::Args>),
    /// Run kvm-unit-tests' images, group by group, and say what passes
    Conformance(Box<commands::conformance::Args>),
    /// Measure how many instructions a second the emulated processor executes here
    Bench(commands::bench::Args),
    /// Say why a VM entry failed: read a dump, name every broken rule
    Explain(commands::explain::Args),
    /// List the VMCS fields, tell all about one, or put a value into words
    Fields(commands::fields::Args),
    /// List the rules of VM entry, or tell all about one
    Rules(commands::rules::Args),
    /// List the VM exits, or tell all about one: its cause, what it records, how the fields are laid out
    Exits(commands::exits::Args),
    /// List the processors that softvirt knows, or tell what one can do
    Cpu(commands::cpu::Args),
    /// Walk page tables in a memory image: every entry on the way, and what stops the access
    Walk(Box<commands::walk::Args>),
    /// Look for mistakes in all of an EPT: misconfigured, unreachable, writable and executable, aliased
    LintEpt(commands::lint_ept::Args),
}

const EXAMPLES: &str = "\
Examples:
  softvirt run                                 a small hypervisor and its guest, exit by exit
  softvirt run hypervisor.elf --trace exits    what does my hypervisor do?
  dmesg | softvirt explain -                   why did the VM entry fail?
  softvirt explain dump.txt --cpu skylake-sp   why does it fail on this processor?
  softvirt fields guest_cs_access_rights       one VMCS field
  softvirt fields exit_reason=0x80000021       a value in words
  softvirt rules guest.cr0                     the rules on guest CR0
  softvirt exits 48                            one VM exit and its information fields
  softvirt cpu kvm                             what KVM offers to a nested hypervisor
  softvirt walk --mem core --cr3 0x1000 0x7f00 where does an address lead?
  softvirt lint-ept --mem core --eptp 0x1001e  what is wrong in an EPT?

Exit codes: 0 nothing is wrong, 1 something was found, 2 bad use or unreadable input; `run` has more (softvirt run --help).";

fn main() -> ExitCode {
    let cli = Cli::parse();
    let answer = match &cli.command {
        Command::Run(args) => commands::run::run(args, cli.format),
        Command::Conformance(args) => commands::conformance::run(args, cli.format),
        Command::Bench(args) => commands::bench::run(args, cli.format),
        Command::Explain(args) => commands::explain::run(args, cli.format),
        Command::Fields(args) => commands::fields::run(args, cli.format),
        Command::Rules(args) => commands::rules::run(args, cli.format),
        Command::Exits(args) => commands::exits::run(args, cli.format),
        Command::Cpu(args) => commands::cpu::run(args, cli.format),
        Command::Walk(args) => commands::walk::run(args, cli.format),
        Command::LintEpt(args) => commands::lint_ept::run(args, cli.format),
    };
    commands::finish(answer)
}
