//! From `profiles/*.toml` to constants of x86-state: read, validate, generate.
//!
//! The schema is described in `profiles/README.md`.

mod generate;
mod schema;
mod validate;

use schema::Profile;
use std::collections::BTreeMap;
use std::fmt;
use std::fs;
use std::path::{Path, PathBuf};

/// One thing that is wrong in a profile.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Problem {
    /// The file, or the profile's name.
    pub(crate) file: String,
    /// The key in question.
    pub(crate) key: String,
    /// The rule's id, as `[allow]` takes it.
    pub(crate) rule: &'static str,
    /// Why it cannot be.
    pub(crate) why: String,
}

impl fmt::Display for Problem {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}: {}: {} [{}]", self.file, self.key, self.why, self.rule)
    }
}

/// Why the chore failed.
#[derive(Debug, thiserror::Error)]
pub(crate) enum Error {
    /// A file could not be read or written.
    #[error("{}: {source}", path.display())]
    Io { path: PathBuf, source: std::io::Error },
    /// Some profiles describe machines that cannot be.
    #[error("{} in the profiles:\n{}", count(.0.len(), "problem"), lines(.0))]
    Invalid(Vec<Problem>),
    /// Generated files differ from what the profiles say.
    #[error("stale, run `cargo xtask profiles`:\n{}", .0.join("\n"))]
    Stale(Vec<String>),
}

fn count(n: usize, what: &str) -> String {
    format!("{n} {what}{}", if n == 1 { "" } else { "s" })
}

fn lines(problems: &[Problem]) -> String {
    problems.iter().map(|p| format!("  {p}")).collect::<Vec<_>>().join("\n")
}

fn root() -> &'static Path {
    Path::new(concat!(env!("CARGO_MANIFEST_DIR"), "/.."))
}

/// Reads and validates all profiles, in their order.
pub(crate) fn load() -> Result<Vec<Profile>, Error> {
    let mut profiles = Vec::new();
    let mut problems = Vec::new();
    for path in toml_files(&root().join("profiles"))? {
        let file = path.file_name().unwrap_or_default().to_string_lossy().into_owned();
        match schema::parse(&file, &read(&path)?) {
            Ok(profile) => {
                problems.extend(validate::profile(&file, &profile));
                profiles.push(profile);
            }
            Err(problem) => problems.push(problem),
        }
    }
    problems.extend(validate::collection(&profiles));
    profiles.sort_by_key(|p| p.order);
    if problems.is_empty() { Ok(profiles) } else { Err(Error::Invalid(problems)) }
}

/// The chore: writes the generated files, or with `check` compares them.
pub(crate) fn run(check: bool) -> Result<(), Error> {
    let profiles = load()?;
    let dir = root().join("crates/x86-state/src/profiles/generated");
    let wanted = generate::files(&profiles);
    let differences = differences(&dir, &wanted)?;
    if check && !differences.is_empty() {
        return Err(Error::Stale(differences.into_iter().map(|name| format!("  {name}")).collect()));
    }
    for name in &differences {
        let path = dir.join(name);
        match wanted.get(name) {
            Some(text) => fs::write(&path, text),
            None => fs::remove_file(&path),
        }
        .map_err(|source| Error::Io { path, source })?;
    }
    println!("{}: {}", count(profiles.len(), "profile"), count(differences.len(), "generated file") + " changed");
    Ok(())
}

/// Names of files that the folder lacks, has with another text, or has though no profile asks for them.
fn differences(dir: &Path, wanted: &BTreeMap<String, String>) -> Result<Vec<String>, Error> {
    let mut names: Vec<_> = wanted
        .iter()
        .filter(|(name, text)| fs::read_to_string(dir.join(name)).ok().as_ref() != Some(text))
        .map(|(name, _)| name.clone())
        .collect();
    let present = entries(dir)?.into_iter().filter_map(|path| Some(path.file_name()?.to_str()?.to_owned()));
    names.extend(present.filter(|name| !wanted.contains_key(name)));
    Ok(names)
}

fn read(path: &Path) -> Result<String, Error> {
    fs::read_to_string(path).map_err(|source| Error::Io { path: path.into(), source })
}

fn entries(dir: &Path) -> Result<Vec<PathBuf>, Error> {
    let io = |source| Error::Io { path: dir.into(), source };
    let mut paths = Vec::new();
    for entry in fs::read_dir(dir).map_err(io)? {
        paths.push(entry.map_err(io)?.path());
    }
    paths.sort();
    Ok(paths)
}

fn toml_files(dir: &Path) -> Result<Vec<PathBuf>, Error> {
    Ok(entries(dir)?.into_iter().filter(|p| p.extension().is_some_and(|e| e == "toml")).collect())
}

#[cfg(test)]
mod tests {
    use super::*;
    use vmx_model::control::{Control, ControlVector};
    use vmx_model::fields::Field;
    use x86_state::VmxMsr;

    #[test]
    fn generated_constants_are_current() {
        run(true).unwrap_or_else(|e| panic!("{e}"));
    }

    #[test]
    fn missing_changed_and_leftover_files_are_differences() {
        let dir = std::env::temp_dir().join(format!("softvirt-profiles-{}", std::process::id()));
        fs::create_dir_all(&dir).unwrap();
        for (name, text) in [("same.rs", "a"), ("changed.rs", "b"), ("leftover.rs", "c")] {
            fs::write(dir.join(name), text).unwrap();
        }
        let wanted = [("same.rs", "a"), ("changed.rs", "B"), ("missing.rs", "d")];
        let wanted = wanted.map(|(name, text)| (name.to_owned(), text.to_owned())).into();
        let found = differences(&dir, &wanted).unwrap();
        fs::remove_dir_all(&dir).unwrap();
        assert_eq!(found, ["changed.rs", "missing.rs", "leftover.rs"]);
    }

    fn max() -> Profile {
        load().unwrap_or_else(|e| panic!("{e}")).into_iter().find(|p| p.name == "max").expect("max.toml")
    }

    /// Vector, capability MSR, its lowest may-be-1 bit, and the default1 controls without a meaning.
    const VECTORS: [(ControlVector, VmxMsr, u32, u64); 8] = [
        (ControlVector::Pin, VmxMsr::TruePinbasedCtls, 32, 0x16),
        (ControlVector::Proc, VmxMsr::TrueProcbasedCtls, 32, 0x400_6172),
        (ControlVector::Proc2, VmxMsr::ProcbasedCtls2, 32, 0),
        (ControlVector::Proc3, VmxMsr::ProcbasedCtls3, 0, 0),
        (ControlVector::Exit, VmxMsr::TrueExitCtls, 32, 0x3_6dfb),
        (ControlVector::Exit2, VmxMsr::ExitCtls2, 0, 0),
        (ControlVector::Entry, VmxMsr::TrueEntryCtls, 32, 0x11fb),
        (ControlVector::VmFunction, VmxMsr::Vmfunc, 0, 0),
    ];

    #[test]
    fn max_allows_the_controls_of_the_model_and_forces_none() {
        let max = max();
        for (vector, msr, first, default1) in VECTORS {
            let modelled = Control::all().filter(|c| c.vector() == vector).fold(0, |mask, c| mask | c.mask());
            let value = max.vmx(msr).unwrap();
            assert_eq!(value >> first, modelled | default1, "{vector:?}: what may be 1");
            if first == 32 {
                assert_eq!(value & 0xffff_ffff, default1, "{vector:?}: what must be 1");
            }
        }
    }

    #[test]
    fn max_enumerates_the_fields_of_the_model() {
        let highest = Field::TABLE.iter().map(|row| row.encoding.index()).max().unwrap();
        assert_eq!(max().vmx(VmxMsr::VmcsEnum), Some(u64::from(highest) << 1));
    }
}
