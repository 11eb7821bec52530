//! What does the suite's unittests.cfg say: which image runs with how many processors, which arguments, on which machine?
//!
//! The format is kvm-unit-tests' (docs/unittests.txt there): sections of `key = value`, values in quotes or not.

use super::Failure;
use ini::{Ini, ParseOption};

/// One section: one way to run one image.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Entry {
    /// The section's name.
    pub(super) name: String,
    /// The image's file name.
    pub(super) file: String,
    /// How many processors.
    pub(super) cpus: u8,
    /// The arguments of the image.
    pub(super) arguments: Vec<String>,
    /// The machine that QEMU was to be.
    pub(super) qemu: Qemu,
    /// `i386` or `x86_64` if the entry is for one of them.
    pub(super) arch: Option<String>,
}

/// What matters here of QEMU's options.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(super) struct Qemu {
    /// `-cpu`: model, then features with `+`, `-` or `=`.
    pub(super) cpu: Option<String>,
    /// `-m`, in bytes.
    pub(super) memory_bytes: Option<u64>,
}

/// The most processors that an entry gets if it asks for as many as there are.
const MOST_CPUS: u8 = 4;

/// Reads the file's text; `path` is for messages.
pub(super) fn parse(text: &str, path: &str) -> Result<Vec<Entry>, Failure> {
    let options = ParseOption { enabled_quote: false, enabled_escape: false, ..ParseOption::default() };
    let ini = Ini::load_from_str_opt(text, options).map_err(|error| Failure(format!("{path}: {error}")))?;
    let mut entries = Vec::new();
    for (name, section) in &ini {
        let Some(name) = name else { continue };
        let bad = |what: &str, value: &str| Failure(format!("{path}: [{name}]: {what}: \"{value}\""));
        let Some(file) = section.get("file") else { return Err(bad("there is no", "file")) };
        let cpus = match section.get("smp").map(str::trim) {
            None => 1,
            Some("$MAX_SMP") => MOST_CPUS,
            Some(number) => number.parse().map_err(|_| bad("smp is no number of processors", number))?,
        };
        let arguments = section.get("test_args").unwrap_or_default();
        // Quotes around all of it, then words.
        let outer = split(arguments).ok_or_else(|| bad("test_args has an open quote", arguments))?;
        let arguments = outer.iter().flat_map(|word| word.split_whitespace()).map(str::to_owned).collect();
        let parameters = section.get("qemu_params").or_else(|| section.get("extra_params")).unwrap_or_default();
        let words = split(parameters).ok_or_else(|| bad("qemu_params has an open quote", parameters))?;
        let qemu = qemu(&words).ok_or_else(|| bad("qemu_params has a size that is none", parameters))?;
        let arch = section.get("arch").map(|arch| arch.trim().to_owned());
        entries.push(Entry { name: name.to_owned(), file: file.trim().to_owned(), cpus, arguments, qemu, arch });
    }
    Ok(entries)
}

fn split(text: &str) -> Option<Vec<String>> {
    shlex::split(text)
}

fn qemu(words: &[String]) -> Option<Qemu> {
    let mut found = Qemu::default();
    for pair in words.windows(2) {
        match pair[0].as_str() {
            "-cpu" => found.cpu = Some(pair[1].clone()),
            "-m" => found.memory_bytes = Some(size(&pair[1])?),
            _ => {}
        }
    }
    Some(found)
}

/// A size as QEMU takes it: MiB without a suffix.
fn size(text: &str) -> Option<u64> {
    let lower = text.to_lowercase();
    let (digits, shift) = match lower.chars().last()? {
        'k' => (&lower[..lower.len() - 1], 10),
        'm' => (&lower[..lower.len() - 1], 20),
        'g' => (&lower[..lower.len() - 1], 30),
        _ => (lower.as_str(), 20),
    };
    digits.parse::<u64>().ok()?.checked_mul(1 << shift)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_entry_has_processors_arguments_and_a_machine() {
        let text = "# remark\n[one]\nfile = vmx.flat\nsmp = 2\ntest_args = \"-a* b\"\nqemu_params = -cpu max,+vmx -m 4g\narch = x86_64\n\
            #[gone]\n[two]\nfile = x.flat\ntest_args = 'ipi'\nextra_params = -m 256\n";
        let found = parse(text, "cfg").map_err(|failure| failure.0).unwrap();
        assert_eq!(
            found,
            [
                Entry {
                    name: "one".into(),
                    file: "vmx.flat".into(),
                    cpus: 2,
                    arguments: vec!["-a*".into(), "b".into()],
                    qemu: Qemu { cpu: Some("max,+vmx".into()), memory_bytes: Some(4 << 30) },
                    arch: Some("x86_64".into()),
                },
                Entry {
                    name: "two".into(),
                    file: "x.flat".into(),
                    cpus: 1,
                    arguments: vec!["ipi".into()],
                    qemu: Qemu { cpu: None, memory_bytes: Some(256 << 20) },
                    arch: None,
                },
            ]
        );
    }

    #[test]
    fn what_is_wrong_is_said_with_its_section() {
        for (text, says) in [
            ("[a]\nsmp = 1\n", "cfg: [a]: there is no: \"file\""),
            ("[a]\nfile = x\nsmp = many\n", "cfg: [a]: smp is no number of processors: \"many\""),
            ("[a]\nfile = x\ntest_args = 'b\n", "cfg: [a]: test_args has an open quote: \"'b\""),
            ("[a]\nfile = x\nqemu_params = -m lots\n", "cfg: [a]: qemu_params has a size that is none: \"-m lots\""),
        ] {
            assert_eq!(parse(text, "cfg").unwrap_err().0, says);
        }
    }
}
