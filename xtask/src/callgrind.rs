//! How many instructions does a complete VM-entry check take? Counted by callgrind, so that the answer does not depend on the machine's load.

use std::path::Path;
use std::process::Command;

/// Runs the counting program twice under callgrind, with different numbers of checks, and reports the difference per check.
pub(crate) fn run() -> Result<(), String> {
    let root = Path::new(env!("CARGO_MANIFEST_DIR")).parent().ok_or("xtask has no parent folder")?;
    let built = Command::new("cargo")
        .args(["build", "--release", "--package", "vmx-model", "--example", "count_checks"])
        .current_dir(root)
        .status()
        .map_err(|error| format!("cargo: {error}"))?;
    if !built.success() {
        return Err("the counting program did not build".to_owned());
    }
    let target = std::env::var_os("CARGO_TARGET_DIR").map_or_else(|| root.join("target"), Into::into);
    let program = target.join("release/examples/count_checks");
    let rules = vmx_model::rules::RULE_COUNT as u64;
    println!("{:<28} {:>12} {:>12}", "a complete check of", "instructions", "per rule");
    for kind in ["long64", "protected32", "real", "long64-broken"] {
        let few = instructions(&program, kind, 10)?;
        let many = instructions(&program, kind, 1010)?;
        let each = (many - few) / 1000;
        println!("{kind:<28} {each:>12} {:>12.2}", each as f64 / rules as f64);
    }
    println!("({rules} rules)");
    Ok(())
}

fn instructions(program: &Path, kind: &str, checks: u32) -> Result<u64, String> {
    let output = Command::new("valgrind")
        .args(["--tool=callgrind", "--callgrind-out-file=/dev/null"])
        .arg(program)
        .args([kind, &checks.to_string()])
        .output()
        .map_err(|error| format!("valgrind: {error}; install it with your system's packages"))?;
    let text = String::from_utf8_lossy(&output.stderr);
    let line = text
        .lines()
        .find_map(|line| line.split_once("Collected :"))
        .ok_or_else(|| format!("callgrind said: {text}"))?;
    line.1.trim().parse().map_err(|error| format!("{:?}: {error}", line.1))
}
