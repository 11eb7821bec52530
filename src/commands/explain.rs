//! `softvirt explain`: why did this VM entry fail?

use super::{Answer, Failure, Format, cpu};
use softvirt::dump;
use softvirt::explain::{Detail, Report, explain, render};
use softvirt::x86_state::{CpuProfile, profiles};
use std::io::Read;

/// What to explain.
#[derive(clap::Args)]
#[command(after_help = "\
Examples:
  dmesg | softvirt explain -
  softvirt explain mail.txt --cpu sapphire-rapids
  softvirt explain dump.txt --format json

Reads what KVM (dump_vmcs), Xen, XMHF and QEMU print, with log prefixes and quote marks, and JSON or TOML of NAME = VALUE.
Exit codes: 0 nothing is broken; 1 a rule is broken, or the log reports a failed VM entry that nothing in it explains; 2 the input cannot be read.")]
pub(crate) struct Args {
    /// The file with the dump; "-" reads standard input
    #[arg(value_name = "FILE|-")]
    file: String,
    /// The processor: a name that `softvirt cpu` lists, or "all" for every one that it could be
    #[arg(long, default_value = "all", value_name = "NAME|all")]
    cpu: String,
    /// Name each rule that cannot be decided, not only what is missing
    #[arg(long)]
    undecided: bool,
}

pub(crate) fn run(args: &Args, format: Format) -> Result<Answer, Failure> {
    let profiles: Vec<&CpuProfile> = match args.cpu.as_str() {
        "all" => profiles::ALL.to_vec(),
        name => vec![cpu::find(name)?],
    };
    let name = if args.file == "-" { "standard input" } else { &args.file };
    let text = read(&args.file).map_err(|error| Failure(format!("{name}: {error}")))?;
    let dumps = dump::parse(&text).map_err(|error| Failure(format!("{name}: {error}")))?;
    let reports: Vec<Report> = dumps.iter().map(|dump| explain(dump, &profiles)).collect();
    let found = reports.iter().any(|report| report.verdict.found_something());
    let detail = if args.undecided { Detail::All } else { Detail::Summary };
    let answer = match format {
        Format::Json => Answer::json(&reports)?,
        Format::Text => {
            let texts: Vec<String> = reports.iter().map(|report| render(report, name, detail)).collect();
            Answer::fine(texts.join("\n"))
        }
    };
    Ok(Answer { found, ..answer })
}

fn read(file: &str) -> std::io::Result<Vec<u8>> {
    if file != "-" {
        return std::fs::read(file);
    }
    let mut text = Vec::new();
    std::io::stdin().read_to_end(&mut text)?;
    Ok(text)
}
