//! `softvirt run`: boot an image on an emulated machine with VT-x, and tell what its hypervisor does.

pub(crate) mod ending;
pub(crate) mod failures;
mod summary;
mod timeline;

use super::{Answer, Failure, Format, cpu};
use softvirt::ept::Retention;
use softvirt::machine::{Config, Machine, Module};
use std::fs::File;
use std::io::{BufWriter, IsTerminal, Write};
use std::path::{Path, PathBuf};
use std::time::Instant;
use summary::Summary;
use timeline::{Instructions, Level, Sinks, Timeline};

/// What to run.
#[derive(clap::Args)]
#[command(after_help = format!("\
Examples:
  softvirt run                                         the demonstration: a small hypervisor and its guest
  softvirt run hypervisor.elf --trace exits            what a hypervisor does, exit by exit
  softvirt run kernel.elf --smp 2 --append \"root=/dev/x\" --module initrd
  softvirt run vmx.flat --append vmx_controls_test --explain 20
  softvirt run hypervisor.elf --trace-out trace.jsonl --format json

Images: ELF with a multiboot 1 header (32-bit protected mode), other ELF files, and raw images of 512 bytes and more, which start as a boot
sector does. Devices: local APICs, I/O APIC, 8259s, 16550 on COM1 (its output is printed), fw_cfg, debug-exit port 0xf4.
The same image, options and seed give the same run, always.

{}", ending::STATUSES))]
pub(crate) struct Args {
    /// The image; without one, the built-in demonstration
    #[arg(value_name = "IMAGE")]
    image: Option<PathBuf>,
    /// The processor: a name that `softvirt cpu` lists
    #[arg(long, value_name = "NAME", default_value = "max")]
    cpu: String,
    /// How many processors, 1 to 8
    #[arg(long, value_name = "N", default_value_t = 1, value_parser = clap::value_parser!(u8).range(1..=8))]
    smp: u8,
    /// How much memory: MiB, or with K, M or G
    #[arg(long, value_name = "SIZE", default_value = "128M", value_parser = size)]
    mem: u64,
    /// Arguments for the image, behind its name in the command line
    #[arg(long, value_name = "TEXT", default_value = "", allow_hyphen_values = true)]
    append: String,
    /// A file to load as a multiboot module; may be given again
    #[arg(long, value_name = "FILE")]
    module: Vec<PathBuf>,
    /// The seed of the order in which processors take turns, and of RDRAND
    #[arg(long, value_name = "N", default_value_t = 0)]
    seed: u64,
    /// What the processors' TLBs keep: all that the manual lets them keep (which shows a missing INVEPT, INVVPID or INVLPG), or nothing over any
    /// operation that invalidates something
    #[arg(long, value_name = "HOW", value_enum, default_value_t = Tlb::Lazy)]
    tlb: Tlb,
    /// How many instructions all processors together may execute
    #[arg(long, value_name = "N", default_value_t = 10_000_000_000)]
    max_instructions: u64,
    /// Print what happens, among what the guest prints
    #[arg(long, value_name = "WHAT", value_enum)]
    trace: Option<Level>,
    /// Write what happens to a file, as JSON lines
    #[arg(long, value_name = "FILE")]
    trace_out: Option<PathBuf>,
    /// Explain up to this many kinds of failed VM entries in full
    #[arg(long, value_name = "N", default_value_t = 5)]
    explain: usize,
    /// Print only what the guest prints
    #[arg(long, short)]
    quiet: bool,
}

/// What a TLB keeps.
#[derive(Clone, Copy, Debug, PartialEq, Eq, clap::ValueEnum)]
pub(crate) enum Tlb {
    /// All that the manual allows to be kept: a missing invalidation shows
    Lazy,
    /// Nothing that is stale: a changed table counts at once
    Strict,
}

impl From<Tlb> for Retention {
    fn from(tlb: Tlb) -> Self {
        match tlb {
            Tlb::Lazy => Self::Lazy,
            Tlb::Strict => Self::Strict,
        }
    }
}

/// A size: MiB, or with a suffix.
fn size(text: &str) -> Result<u64, String> {
    let shift = match text.chars().last() {
        Some('k' | 'K') => 10,
        Some('g' | 'G') => 30,
        _ => 20,
    };
    let digits = text.trim_end_matches(|c: char| c.is_ascii_alphabetic());
    let suffix = &text[digits.len()..];
    let known = suffix.is_empty() || ["k", "m", "g"].contains(&suffix.to_lowercase().as_str());
    let bytes = digits.parse::<u64>().ok().filter(|_| known).and_then(|number| number.checked_mul(1 << shift));
    bytes.ok_or_else(|| "a size is a number of MiB, or a number with K, M or G".to_owned())
}

pub(crate) fn run(args: &Args, format: Format) -> Result<Answer, Failure> {
    let profile = cpu::find(&args.cpu)?;
    let config = Config {
        cpus: args.smp,
        memory_bytes: args.mem,
        seed: args.seed,
        profile,
        retention: args.tlb.into(),
        ..Config::default()
    };
    let mut machine = Machine::new(&config).map_err(|error| Failure(error.to_string()))?;
    let name = load(&mut machine, args)?;

    let demonstrates = args.image.is_none();
    let text = format == Format::Text;
    let shown = if demonstrates { args.trace.or(Some(Level::Exits)) } else { args.trace };
    let stdout = || -> Box<dyn Write> { Box::new(anstream::AutoStream::auto(std::io::stdout())) };
    let sinks = Sinks {
        text: (text && shown.is_some() && !args.quiet).then(stdout),
        json: args.trace_out.as_deref().map(create).transpose()?,
        serial: text.then(|| -> Box<dyn Write> { Box::new(Serial) }),
    };
    let level = if args.trace_out.is_some() { shown.or(Some(Level::Exits)) } else { shown };
    let mut timeline = Timeline::new(profile, level, sinks, args.explain);
    let begun = Instant::now();
    let ended = match level {
        Some(Level::Insns) => machine.run(args.max_instructions, &mut Instructions(&mut timeline)),
        Some(Level::Exits) | None => machine.run(args.max_instructions, &mut timeline),
    };
    let seconds = begun.elapsed().as_secs_f64();
    timeline.finish();
    if let Some(error) = timeline.error.take().filter(|error| error.kind() != std::io::ErrorKind::BrokenPipe) {
        return Err(Failure(format!("cannot write what happened: {error}")));
    }
    let summary = Summary::new(&name, &machine, &ended, seconds, timeline);
    let answer = match format {
        Format::Json => Answer::json(&summary)?,
        Format::Text if args.quiet => Answer::fine(String::new()),
        Format::Text => Answer::fine(summary.text()),
    };
    Ok(answer.with_status(ending::status(&ended)))
}

/// Loads the image, or the demonstration; gives its name.
fn load(machine: &mut Machine, args: &Args) -> Result<String, Failure> {
    let (name, bytes) = match &args.image {
        Some(path) => (path.display().to_string(), read(path)?),
        None => {
            let guest = softvirt::guests::demonstration().map_err(|error| Failure(error.to_string()))?;
            (format!("the demonstration ({})", guest.name), guest.image)
        }
    };
    let files = args
        .module
        .iter()
        .map(|path| Ok((path.display().to_string(), read(path)?)))
        .collect::<Result<Vec<_>, Failure>>()?;
    let modules: Vec<Module<'_>> = files.iter().map(|(name, bytes)| Module { name, bytes }).collect();
    let command_line = if args.append.is_empty() { name.clone() } else { format!("{name} {}", args.append) };
    machine.load(&bytes, &command_line, &modules).map_err(|error| Failure(format!("{name}: {error}")))?;
    Ok(name)
}

fn read(path: &Path) -> Result<Vec<u8>, Failure> {
    std::fs::read(path).map_err(|error| Failure(format!("{}: {error}", path.display())))
}

fn create<'a>(path: &Path) -> Result<Box<dyn Write + 'a>, Failure> {
    let file = File::create(path).map_err(|error| Failure(format!("{}: {error}", path.display())))?;
    Ok(Box::new(BufWriter::new(file)))
}

/// What the guest prints, to standard output: at once on a terminal, line by line elsewhere.
struct Serial;

impl Write for Serial {
    fn write(&mut self, bytes: &[u8]) -> std::io::Result<usize> {
        let mut out = std::io::stdout().lock();
        let written = out.write(bytes)?;
        if out.is_terminal() {
            out.flush()?;
        }
        Ok(written)
    }

    fn flush(&mut self) -> std::io::Result<()> {
        std::io::stdout().flush()
    }
}
