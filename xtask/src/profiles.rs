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
    Io {
        path: PathBuf,
        source: std::io::Error,
    },
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
    let mut stale = Vec::new();
    for (name, text) in &wanted {
        let path = dir.join(name);
        if fs::read_to_string(&path).ok().as_ref() == Some(text) {
            continue;
        }
        stale.push(format!("  {name}"));
        if !check {
            let parent = path.parent().unwrap_or(&dir);
            fs::create_dir_all(parent).map_err(|source| Error::Io { path: parent.into(), source })?;
            fs::write(&path, text).map_err(|source| Error::Io { path, source })?;
        }
    }
    for name in leftover(&dir, &wanted)? {
        stale.push(format!("  {name} (no longer wanted)"));
        if !check {
            let path = dir.join(&name);
            fs::remove_file(&path).map_err(|source| Error::Io { path, source })?;
        }
    }
    if check && !stale.is_empty() {
        return Err(Error::Stale(stale));
    }
    println!("{}, {} {}", count(profiles.len(), "profile"), count(stale.len(), "file"), if check { "stale" } else { "written" });
    Ok(())
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

/// Files of the generated folder that no profile accounts for.
fn leftover(dir: &Path, wanted: &BTreeMap<String, String>) -> Result<Vec<String>, Error> {
    let names = entries(dir)?.into_iter().filter_map(|p| Some(p.file_name()?.to_str()?.to_owned()));
    Ok(names.filter(|name| !wanted.contains_key(name)).collect())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn generated_constants_are_current() {
        run(true).unwrap_or_else(|e| panic!("{e}"));
    }
}
