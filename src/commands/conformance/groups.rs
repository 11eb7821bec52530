//! Which groups of tests does an image hold? Found in its own table, so that each can run in a fresh machine.
//!
//! kvm-unit-tests' vmx.flat has a table `vmx_tests` whose rows begin with a pointer to the group's name and which a null name ends; the image
//! takes names and patterns as arguments.

use super::config::Entry;
use object::{Object, ObjectSection, ObjectSymbol};

/// Images that hold groups: file, symbol of the table, names of groups that are run without being in the table.
const GROUPED: &[(&str, &str, &[&str])] = &[(
    "vmx.flat",
    "vmx_tests",
    &[
        "test_vmx_feature_control",
        "test_vmxon",
        "test_vmptrld",
        "test_vmclear",
        "test_vmptrst",
        "test_vmwrite_vmread",
        "test_vmcs_high",
        "test_vmcs_lifecycle",
        "test_vmx_caps",
        "test_vmread_flags_touch",
        "test_vmwrite_flags_touch",
    ],
)];

/// The names of the groups in an image that has any; `None` for an image that is one group, or whose table cannot be found.
pub(super) fn names(file: &str, image: &[u8]) -> Option<Vec<String>> {
    let (_, symbol, others) = GROUPED.iter().find(|(grouped, ..)| *grouped == file)?;
    let table = table(image, symbol)?;
    Some(others.iter().map(|name| (*name).to_owned()).chain(table).collect())
}

/// The names in a table of rows that begin with a pointer to a name. How long a row is follows from the names.
fn table(image: &[u8], symbol: &str) -> Option<Vec<String>> {
    const MOST: u64 = 4096;
    let file = object::File::parse(image).ok()?;
    let address = file.symbols().find(|candidate| candidate.name() == Ok(symbol))?.address();
    let word = |at: u64| -> Option<u64> {
        let bytes = bytes(&file, at)?.get(..8)?;
        Some(u64::from_le_bytes(bytes.try_into().ok()?))
    };
    let name = |at: u64| -> Option<String> {
        let bytes = bytes(&file, at)?;
        let len = bytes.iter().take(64).position(|&byte| byte == 0)?;
        let text = std::str::from_utf8(bytes.get(..len)?).ok()?;
        (!text.is_empty() && text.chars().all(|c| c.is_ascii_graphic() || c == ' ')).then(|| text.to_owned())
    };
    // Each row up to the null name must begin with a name, and code is no text. Of the lengths with which that is so, the right one gives
    // the most names: others meet a null pointer inside a row.
    let rows = |row_bytes: u64| -> Option<Vec<String>> {
        (0..MOST)
            .map(|n| word(address + n * row_bytes))
            .take_while(|pointer| *pointer != Some(0))
            .map(|pointer| name(pointer?))
            .collect()
    };
    (1..32).filter_map(|words| rows(words * 8)).max_by_key(Vec::len)
}

/// The image's bytes from a virtual address to the end of their section.
fn bytes<'a>(file: &object::File<'a>, address: u64) -> Option<&'a [u8]> {
    file.sections().find_map(|section| {
        let offset = address.checked_sub(section.address()).filter(|offset| *offset < section.size())?;
        section.data().ok()?.get(usize::try_from(offset).ok()?..)
    })
}

/// The groups that an entry's arguments choose, as vmx.flat chooses them: a pattern chooses, a pattern behind `-` excludes, and without a
/// chosen one all others are chosen. Spaces of names are underscores.
pub(super) fn chosen<'a>(entry: &Entry, names: &'a [String]) -> Vec<&'a String> {
    let (excluding, including): (Vec<&str>, Vec<&str>) =
        entry.arguments.iter().map(String::as_str).partition(|argument| argument.starts_with('-'));
    let meets = |pattern: &str, name: &str| glob(pattern, &name.replace(' ', "_"));
    names
        .iter()
        .filter(|name| !excluding.iter().any(|pattern| meets(pattern.trim_start_matches('-'), name)))
        .filter(|name| including.is_empty() || including.iter().any(|pattern| meets(pattern, name)))
        .collect()
}

/// Does a name meet a pattern in which `*` stands for anything?
pub(super) fn glob(pattern: &str, name: &str) -> bool {
    let mut parts = pattern.split('*');
    let first = parts.next().unwrap_or_default();
    let Some(mut rest) = name.strip_prefix(first) else { return false };
    let mut parts: Vec<&str> = parts.collect();
    let Some(last) = parts.pop() else { return rest.is_empty() };
    for part in parts {
        match rest.find(part) {
            Some(at) => rest = &rest[at + part.len()..],
            None => return false,
        }
    }
    rest.ends_with(last)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn entry(arguments: &[&str]) -> Entry {
        Entry {
            name: "e".into(),
            file: "vmx.flat".into(),
            cpus: 1,
            arguments: arguments.iter().map(|&argument| argument.to_owned()).collect(),
            qemu: super::super::config::Qemu::default(),
            arch: None,
        }
    }

    #[test]
    fn stars_stand_for_anything() {
        for (pattern, name, meets) in [
            ("abc", "abc", true),
            ("abc", "abcd", false),
            ("ab*", "abcd", true),
            ("*cd", "abcd", true),
            ("a*c*d", "abcd", true),
            ("a*a", "a", false),
            ("*", "", true),
            ("b*", "abcd", false),
        ] {
            assert_eq!(glob(pattern, name), meets, "{pattern} {name}");
        }
    }

    #[test]
    fn arguments_choose_groups() {
        let names: Vec<String> = ["EPT A/D", "ept_one", "ept_two", "null"].map(str::to_owned).to_vec();
        let choose = |arguments: &[&str]| chosen(&entry(arguments), &names).into_iter().cloned().collect::<Vec<_>>();
        assert_eq!(choose(&[]), names);
        assert_eq!(choose(&["ept*"]), ["ept_one", "ept_two"]);
        assert_eq!(choose(&["-ept*"]), ["EPT A/D", "null"]);
        assert_eq!(choose(&["-ept_one", "ept*", "EPT_A/D"]), ["EPT A/D", "ept_two"]);
    }

    #[test]
    fn what_is_no_image_has_no_groups() {
        assert_eq!(names("vmx.flat", b"\x7fELF\x01\x01\x01"), None);
        assert_eq!(names("other.flat", b""), None);
    }
}
