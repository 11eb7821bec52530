//! What must hold before a change lands? The steps of CI, which a developer runs with `cargo xtask ci`.

use std::path::Path;
use std::process::Command;
use std::time::Instant;

struct Step {
    what: &'static str,
    folder: &'static str,
    command: &'static [&'static str],
    environment: &'static [(&'static str, &'static str)],
}

const fn step(what: &'static str, command: &'static [&'static str]) -> Step {
    Step { what, folder: ".", command, environment: &[] }
}

const STEPS: &[Step] = &[
    step("formatting", &["cargo", "fmt", "--all", "--check"]),
    step("generated profiles are current", &["cargo", "xtask", "profiles", "--check"]),
    step("generated documents are current", &["cargo", "xtask", "docs", "--check"]),
    step("lints", &["cargo", "clippy", "--workspace", "--all-targets", "--all-features", "--", "-D", "warnings"]),
    Step {
        what: "documentation without warnings",
        folder: ".",
        command: &["cargo", "doc", "--workspace", "--no-deps", "--all-features"],
        environment: &[("RUSTDOCFLAGS", "-D warnings")],
    },
    step("the slow tests", &["cargo", "test", "--test", "fuzz_seeds", "--", "--ignored"]),
    step("the everyday tests (README's command)", &["cargo", "test", "--workspace"]),
    Step {
        what: "the core crates need neither std nor an allocator",
        folder: "tests/no_std",
        command: &["cargo", "build", "--release"],
        environment: &[],
    },
    step("benchmarks build", &["cargo", "bench", "--workspace", "--no-run"]),
    Step { what: "fuzz targets build", folder: "fuzz", command: &["cargo", "build", "--release"], environment: &[] },
];

/// Runs every step; stops at the first that fails.
pub(crate) fn run() -> Result<(), String> {
    let root = Path::new(env!("CARGO_MANIFEST_DIR")).parent().ok_or("xtask has no parent folder")?;
    for (i, step) in STEPS.iter().enumerate() {
        println!("\n[{}/{}] {}: {}", i + 1, STEPS.len(), step.what, step.command.join(" "));
        let start = Instant::now();
        let status = Command::new(step.command[0])
            .args(&step.command[1..])
            .envs(step.environment.iter().copied())
            .current_dir(root.join(step.folder))
            .status()
            .map_err(|error| format!("{}: {error}", step.command[0]))?;
        if !status.success() {
            return Err(format!("{} failed ({status}); again with: {}", step.what, step.command.join(" ")));
        }
        println!("[{}/{}] {}: {:.0} s", i + 1, STEPS.len(), step.what, start.elapsed().as_secs_f64());
    }
    println!("\nall {} steps passed", STEPS.len());
    Ok(())
}
