//! How many instructions does a complete VM-entry check take, how many a VM entry, a VM exit and the decision about an instruction, and how
//! many a page walk? Counted by callgrind, so that the answer does not depend on the machine's load.

use std::path::{Path, PathBuf};
use std::process::Command;

/// A program that does something a number of times: `PROGRAM KIND TIMES`.
pub(crate) struct Counter {
    program: PathBuf,
}

impl Counter {
    /// Builds an example of a package.
    pub(crate) fn build(package: &str, example: &str) -> Result<Self, String> {
        let built = Command::new("cargo")
            .args(["build", "--release", "--package", package, "--example", example])
            .current_dir(root()?)
            .status()
            .map_err(|error| format!("cargo: {error}"))?;
        if !built.success() {
            return Err(format!("{example} did not build"));
        }
        Ok(Self { program: target()?.join("release/examples").join(example) })
    }

    /// What the program lists if it is asked for nothing.
    fn kinds(&self) -> Result<Vec<String>, String> {
        let output = Command::new(&self.program).output().map_err(|error| format!("{:?}: {error}", self.program))?;
        Ok(String::from_utf8_lossy(&output.stdout).lines().map(str::to_owned).collect())
    }

    /// Instructions for each of `times`, from two runs of which one does it so many times more often than the other.
    pub(crate) fn each(&self, kind: &str, few: u32, times: u32) -> Result<f64, String> {
        let more = self.instructions(kind, few + times)?;
        let less = self.instructions(kind, few)?;
        let difference = more.checked_sub(less).ok_or_else(|| format!("{kind}: {less} instructions became {more}"))?;
        Ok(difference as f64 / f64::from(times))
    }

    fn instructions(&self, kind: &str, times: u32) -> Result<u64, String> {
        let output = Command::new("valgrind")
            .args(["--tool=callgrind", "--callgrind-out-file=/dev/null"])
            .arg(&self.program)
            .args([kind, &times.to_string()])
            .output()
            .map_err(|error| format!("valgrind: {error}; install it with your system's packages"))?;
        let text = String::from_utf8_lossy(&output.stderr);
        if !output.status.success() {
            return Err(format!("{kind}: {text}"));
        }
        let line = text
            .lines()
            .find_map(|line| line.split_once("Collected :"))
            .ok_or_else(|| format!("callgrind said: {text}"))?;
        line.1.trim().parse().map_err(|error| format!("{:?}: {error}", line.1))
    }
}

/// The folder of the workspace.
pub(crate) fn root() -> Result<&'static Path, String> {
    Path::new(env!("CARGO_MANIFEST_DIR")).parent().ok_or_else(|| "xtask has no parent folder".to_owned())
}

/// Where cargo puts what it builds.
fn target() -> Result<PathBuf, String> {
    let root = root()?;
    Ok(std::env::var_os("CARGO_TARGET_DIR").map_or_else(|| root.join("target"), |folder| root.join(folder)))
}

/// Prints the instructions of checks, transitions and walks.
pub(crate) fn run() -> Result<(), String> {
    let checks = Counter::build("vmx-model", "count_checks")?;
    let rules = vmx_model::rules::RULE_COUNT;
    println!("{:<28} {:>12} {:>12}", "a complete check of", "instructions", "per rule");
    for kind in ["long64", "protected32", "real", "long64-broken"] {
        let each = checks.each(kind, 10, 1000)?;
        println!("{kind:<28} {each:>12.0} {:>12.2}", each / rules as f64);
    }
    println!("({rules} rules)\n");

    let transitions = Counter::build("vmx-model", "count_transitions")?;
    println!("{:<28} {:>12}", "a transition or a decision", "instructions");
    for kind in transitions.kinds()? {
        println!("{kind:<28} {:>12.1}", transitions.each(&kind, 10, 1000)?);
    }
    println!();

    // Walks go round 64 addresses.
    let walks = Counter::build("softvirt-ept", "count_walks")?;
    println!("{:<28} {:>12}", "a page walk", "instructions");
    for kind in walks.kinds()? {
        println!("{kind:<28} {:>12.1}", walks.each(&kind, 64, 6400)?);
    }
    Ok(())
}
