//! `softvirt conformance`: does machine code that others wrote against hardware find what it expects? kvm-unit-tests' images, group by group.

mod config;
mod groups;
mod output;
mod processor;
mod report;

use super::run::Tlb;
use super::{Answer, Failure, Format, cpu};
use indicatif::{ProgressBar, ProgressDrawTarget, ProgressStyle};
use output::Output;
use report::{GroupResult, Notes, Outcome, Report};
use softvirt::machine::{Config, Ended, Machine, Module, Watch};
use softvirt::x86_state::CpuProfile;
use std::collections::BTreeMap;
use std::io::{IsTerminal, Write};
use std::path::{Path, PathBuf};
use std::sync::Mutex;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Instant;

/// What to run.
#[derive(clap::Args)]
#[command(after_help = "\
Examples:
  softvirt conformance --images kvm-unit-tests/x86
  softvirt conformance --images kvm-unit-tests/x86 --filter 'vmx/*' --jobs 4
  softvirt conformance --images kvm-unit-tests/x86 --filter vmx/vmx_mtf_test --show

Build the images with the suite's own ./configure and make; softvirt runs them unmodified. unittests.cfg beside them says which images run with
which arguments, processors and memory; an image that is not there is left out. vmx.flat runs group by group, each in a fresh machine.

pass    every check passed, at least one of them was made
fail    a check failed
skip    the image made no check: what it needs is not announced
hang    the instruction limit was reached, or every processor slept
abort   the image gave up, or the machine stopped (triple fault, VMX abort)

Exit codes: 0 no group failed, hung or aborted; 1 some did; 2 bad use.")]
pub(crate) struct Args {
    /// The folder with the images (*.flat) and, where there is one, unittests.cfg
    #[arg(long, value_name = "DIR")]
    images: PathBuf,
    /// Only groups whose name meets one of these patterns (`*` stands for anything), such as 'vmx/*' or smptest
    #[arg(long, value_name = "PATTERN")]
    filter: Vec<String>,
    /// How many groups run at the same time [default: one for each processor of this computer]
    #[arg(long, value_name = "N")]
    jobs: Option<usize>,
    /// The processor where the configuration asks for QEMU's "max" or for none
    #[arg(long, value_name = "NAME", default_value = "max")]
    cpu: String,
    /// How many instructions a group may execute
    #[arg(long, value_name = "N", default_value_t = 40_000_000_000)]
    max_instructions: u64,
    /// The seed of the order in which processors take turns
    #[arg(long, value_name = "N", default_value_t = 0)]
    seed: u64,
    /// What the processors' TLBs keep; the suite does without some invalidations that the manual asks for
    #[arg(long, value_name = "HOW", value_enum, default_value_t = Tlb::Strict)]
    tlb: Tlb,
    /// Show what failed in each group, and the last lines of those that hung or gave up
    #[arg(long)]
    show: bool,
    /// A file of reasons, `"group" = "why"` in TOML: they stand in the table beside groups that do not pass
    #[arg(long, value_name = "FILE")]
    notes: Option<PathBuf>,
    /// List the groups and run nothing
    #[arg(long)]
    list: bool,
    /// Print the table in Markdown, as docs/conformance.md has it
    #[arg(long, conflicts_with = "show")]
    markdown: bool,
}

/// One group, ready to run.
struct Group {
    name: String,
    image: PathBuf,
    arguments: Vec<String>,
    cpus: u8,
    memory_bytes: u64,
    profile: &'static CpuProfile,
    /// Is the image told that there is a test device?
    test_device: bool,
    notes: Vec<String>,
}

/// Images that take a test device for a sign of KVM, and then try what KVM adds to a processor (hypercalls; 32-bit SYSCALL on Intel's).
const TAKE_TEST_DEVICE_FOR_KVM: [&str; 2] = ["apic.flat", "syscall.flat"];

/// What QEMU gives a machine of which the configuration says nothing.
const USUAL_MEMORY_BYTES: u64 = 128 << 20;

pub(crate) fn run(args: &Args, format: Format) -> Result<Answer, Failure> {
    let profile = cpu::find(&args.cpu)?;
    let groups = plan(args, profile)?;
    if groups.is_empty() {
        return Err(Failure(format!("{}: no group is left to run", args.images.display())));
    }
    if args.list {
        return Ok(Answer::fine(groups.iter().map(|group| group.name.clone() + "\n").collect()));
    }
    let notes = args.notes.as_deref().map_or_else(|| Ok(Notes::default()), Notes::read)?;
    let results = run_all(args, &groups)?;
    let report = Report::new(results, &notes);
    let answer = match (format, args.markdown) {
        (Format::Json, _) => Answer::json(&report)?,
        (Format::Text, true) => Answer::fine(report.markdown()),
        (Format::Text, false) => Answer::fine(report.text(args.show)),
    };
    Ok(Answer { found: report.found_something(), ..answer })
}

/// All groups, in the configuration's order.
fn plan(args: &Args, profile: &'static CpuProfile) -> Result<Vec<Group>, Failure> {
    let path = args.images.join("unittests.cfg");
    let mut entries = match std::fs::read_to_string(&path) {
        Ok(text) => config::parse(&text, &path.display().to_string())?,
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => Vec::new(),
        Err(error) => return Err(Failure(format!("{}: {error}", path.display()))),
    };
    let files = images(&args.images)?;
    let arch = architecture(&entries, &files);
    entries.retain(|entry| arch.is_none() || entry.arch.is_none() || entry.arch == arch);
    // Images that no entry names run as they are.
    for file in files {
        if !entries.iter().any(|entry| entry.file == file) {
            entries.push(config::Entry {
                name: file.trim_end_matches(".flat").to_owned(),
                file,
                cpus: 1,
                arguments: Vec::new(),
                qemu: config::Qemu::default(),
                arch: None,
            });
        }
    }
    let mut names: BTreeMap<String, Option<Vec<String>>> = BTreeMap::new();
    let mut planned = Vec::new();
    for entry in entries {
        let image = args.images.join(&entry.file);
        if !image.is_file() {
            continue;
        }
        if !names.contains_key(&entry.file) {
            let bytes = std::fs::read(&image).map_err(|error| Failure(format!("{}: {error}", image.display())))?;
            names.insert(entry.file.clone(), groups::names(&entry.file, &bytes));
        }
        let mut notes = Vec::new();
        let profile = processor::derive(entry.qemu.cpu.as_deref(), profile, &mut notes);
        let group = |name: String, arguments: Vec<String>| Group {
            name,
            image: image.clone(),
            arguments,
            cpus: entry.cpus.clamp(1, 8),
            memory_bytes: entry.qemu.memory_bytes.unwrap_or(USUAL_MEMORY_BYTES),
            profile,
            test_device: !TAKE_TEST_DEVICE_FOR_KVM.contains(&entry.file.as_str()),
            notes: notes.clone(),
        };
        match names.get(&entry.file) {
            Some(Some(names)) => {
                let chosen = groups::chosen(&entry, names);
                planned.extend(chosen.into_iter().map(|test| {
                    let test = test.replace(' ', "_");
                    group(format!("{}/{test}", entry.name), vec![test])
                }));
            }
            _ => planned.push(group(entry.name.clone(), entry.arguments.clone())),
        }
    }
    let wanted = |group: &Group| args.filter.iter().any(|pattern| groups::glob(pattern, &group.name));
    planned.retain(|group| args.filter.is_empty() || wanted(group));
    Ok(planned)
}

/// For which architecture the images are built, if one of them says: the one for which alone the configuration has it.
fn architecture(entries: &[config::Entry], files: &[String]) -> Option<String> {
    let only = |file: &String| {
        let mut named = entries.iter().filter(|entry| entry.file == *file).map(|entry| entry.arch.as_ref());
        let first = named.next()??;
        named.all(|arch| arch == Some(first)).then(|| first.clone())
    };
    files.iter().find_map(only)
}

/// The names of the images in a folder, sorted.
fn images(folder: &Path) -> Result<Vec<String>, Failure> {
    let unreadable = |error: std::io::Error| Failure(format!("{}: {error}", folder.display()));
    let mut found = Vec::new();
    for entry in std::fs::read_dir(folder).map_err(unreadable)? {
        let name = entry.map_err(unreadable)?.file_name().to_string_lossy().into_owned();
        if name.ends_with(".flat") {
            found.push(name);
        }
    }
    found.sort();
    Ok(found)
}

/// Runs the groups, some at a time; results are in the groups' order.
fn run_all(args: &Args, groups: &[Group]) -> Result<Vec<GroupResult>, Failure> {
    let jobs = args.jobs.unwrap_or_else(|| std::thread::available_parallelism().map_or(1, usize::from)).clamp(1, 64);
    let bar = progress_bar(groups.len() as u64);
    let next = AtomicUsize::new(0);
    let results: Mutex<Vec<(usize, Result<GroupResult, Failure>)>> = Mutex::new(Vec::new());
    std::thread::scope(|scope| {
        for _ in 0..jobs.min(groups.len()) {
            scope.spawn(|| {
                loop {
                    let index = next.fetch_add(1, Ordering::Relaxed);
                    let Some(group) = groups.get(index) else { break };
                    bar.set_message(group.name.clone());
                    let result = run_one(args, group);
                    if let (true, Ok(result)) = (bar.is_hidden(), &result) {
                        // Where nobody sees a bar, a log has a line for each group.
                        let done = results.lock().unwrap_or_else(std::sync::PoisonError::into_inner).len() + 1;
                        let line = format!("[{done}/{}] {}", groups.len(), result.line());
                        // Nothing is left to do if standard error cannot be written to.
                        let _ = writeln!(std::io::stderr(), "{line}");
                    }
                    results.lock().unwrap_or_else(std::sync::PoisonError::into_inner).push((index, result));
                    bar.inc(1);
                }
            });
        }
    });
    bar.finish_and_clear();
    let mut results = results.into_inner().unwrap_or_else(std::sync::PoisonError::into_inner);
    results.sort_by_key(|(index, _)| *index);
    results.into_iter().map(|(_, result)| result).collect()
}

fn progress_bar(len: u64) -> ProgressBar {
    if !std::io::stderr().is_terminal() {
        return ProgressBar::hidden();
    }
    let bar = ProgressBar::with_draw_target(Some(len), ProgressDrawTarget::stderr());
    match ProgressStyle::with_template("{bar:40} {pos}/{len} {elapsed} {msg}") {
        Ok(style) => bar.with_style(style),
        Err(_) => bar,
    }
}

/// Listens to the serial line.
#[derive(Default)]
struct Listener(Output);

impl Watch for Listener {
    const INSTRUCTIONS: bool = false;

    fn serial(&mut self, byte: u8) {
        self.0.byte(byte);
    }
}

/// Runs one group in a machine of its own.
fn run_one(args: &Args, group: &Group) -> Result<GroupResult, Failure> {
    let image = &group.image;
    let failed = |what: &dyn std::fmt::Display| Failure(format!("{}: {what}", image.display()));
    let bytes = std::fs::read(image).map_err(|error| failed(&error))?;
    let begun = Instant::now();
    let mut machine = Machine::new(&Config {
        cpus: group.cpus,
        memory_bytes: group.memory_bytes,
        seed: args.seed,
        profile: group.profile,
        retention: args.tlb.into(),
        ..Config::default()
    })
    .map_err(|error| failed(&error))?;
    let command_line = std::iter::once(image.display().to_string())
        .chain(group.arguments.iter().cloned())
        .collect::<Vec<_>>()
        .join(" ");
    let environment = format!("NR_CPUS={}\nMEMSIZE={}\n", group.cpus, group.memory_bytes.div_ceil(1 << 20))
        + &format!("TEST_DEVICE={}\n", u8::from(group.test_device));
    let module = Module { name: "environment", bytes: environment.as_bytes() };
    machine.load(&bytes, &command_line, &[module]).map_err(|error| failed(&error))?;
    let mut listener = Listener::default();
    let ended = machine.run(args.max_instructions, &mut listener);
    let mut output = listener.0;
    output.finish();
    Ok(GroupResult {
        name: group.name.clone(),
        outcome: outcome(ended, &output),
        ended: super::run::ending::words(&ended),
        instructions: machine.counters().cpus.iter().map(|cpu| cpu.instructions).sum(),
        seconds: begun.elapsed().as_secs_f64(),
        notes: group.notes.clone(),
        output,
    })
}

/// What has become of a group: its exit value, and what it printed.
fn outcome(ended: Ended, output: &Output) -> Outcome {
    // The values that the suite's images write to the debug-exit port.
    const PASS: u32 = 0;
    const ALL_SKIPPED: u32 = 38;
    const GAVE_UP: u32 = 63;
    match ended {
        Ended::DebugExit(PASS) if output.failed == 0 && output.passed == 0 && output.skipped != 0 => Outcome::Skip,
        Ended::DebugExit(PASS) if output.failed == 0 => Outcome::Pass,
        Ended::DebugExit(ALL_SKIPPED) => Outcome::Skip,
        Ended::DebugExit(GAVE_UP) => Outcome::Abort,
        Ended::DebugExit(_) => Outcome::Fail,
        Ended::Limit | Ended::AllAsleep => Outcome::Hang,
        _ => Outcome::Abort,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_architecture_is_told_by_an_image_that_only_one_has() {
        let text = "[a]\nfile = both.flat\n[b]\nfile = both.flat\narch = x86_64\n[c]\nfile = long.flat\narch = x86_64\n[d]\nfile = short.flat\narch = i386\n";
        let entries = config::parse(text, "cfg").map_err(|failure| failure.0).unwrap();
        for (files, expected) in [
            (&["both.flat", "long.flat"][..], Some("x86_64")),
            (&["both.flat", "short.flat"], Some("i386")),
            (&["both.flat", "other.flat"], None),
        ] {
            let files: Vec<String> = files.iter().map(|file| (*file).to_owned()).collect();
            assert_eq!(architecture(&entries, &files).as_deref(), expected, "{files:?}");
        }
    }
}
