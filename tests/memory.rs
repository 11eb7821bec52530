//! Do `walk` and `lint-ept` bear any file? And the images that their transcripts use: this file makes them.
//!
//! After a change that is meant: `SOFTVIRT_BLESS=1 cargo test --test memory`, then `TRYCMD=overwrite cargo test --test cli`.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::{Command, Output};

/// Flags of ordinary entries.
const P: u64 = 1;
const RW: u64 = 2;
const US: u64 = 4;
const A: u64 = 0x20;
const D: u64 = 0x40;
const PS: u64 = 0x80;
const G: u64 = 0x100;
const NX: u64 = 1 << 63;
/// Flags of EPT entries.
const R: u64 = 1;
const W: u64 = 2;
const X: u64 = 4;
const WB: u64 = 6 << 3;
const PAGE: u64 = 0x80;

/// Memory from address 0 on, to be filled with tables.
struct Builder(Vec<u8>);

impl Builder {
    fn new(pages: usize) -> Self {
        Self(vec![0; pages * 0x1000])
    }

    /// Sets entry `index` of the table at `table`.
    fn put(&mut self, table: u64, index: u64, entry: u64) {
        let at = (table + 8 * index) as usize;
        self.0[at..at + 8].copy_from_slice(&entry.to_le_bytes());
    }

    /// Four levels of one entry each for addresses below 2 MBytes times `pd_index + 1`; the tables follow each other from `root` on.
    fn four_levels(&mut self, root: u64, pd_index: u64, pointer: impl Fn(u64) -> u64, flags: u64) {
        for (level, index) in [(0, 0), (1, 0), (2, pd_index)] {
            self.put(root + level * 0x1000, index, pointer(root + (level + 1) * 0x1000) | flags);
        }
    }
}

/// Guest memory starts here in the host of `nested.raw`.
const GUEST: u64 = 0x5000;

/// The guest's tables at guest-physical 0x1000 to 0x4fff, which is `at` to `at + 0x3fff` in the memory that is built.
fn guest_tables(memory: &mut Builder, at: u64) {
    let user = P | RW | US | A;
    memory.four_levels(at, 2, |table| table - at + 0x1000, user);
    let (pd, pt) = (at + 0x2000, at + 0x3000);
    for (index, entry) in [
        (0, 0x5000 | P | RW | US),              // a page, flags still clear
        (1, 0x6000 | user | D),                 // EPT: read-only
        (2, 0x7000 | user | D),                 // EPT: not present
        (3, 0x8000 | user | D),                 // EPT: misconfigured
        (4, 0xdead_b000),                       // not present
        (5, 0x5000 | P | A | G | NX | 3 << 59), // the supervisor's, read-only, key 3
        (6, 0x5000 | user | 1 << 50),           // reserved on a processor with 46 bits
    ] {
        memory.put(pt, index, entry);
    }
    memory.put(pd, 3, 0x20_0000 | user | D | PS | NX);
    memory.put(pd, 4, 0x9000 | user);
}

/// A guest under EPT (EPTP 0x105e, or 0x101e without flags) and under nested paging (nCR3 0xb000); CR3 is 0x1000.
fn nested() -> Vec<u8> {
    let mut memory = Builder::new(15);
    memory.four_levels(0x1000, 0, |table| table, R | W | X);
    for gpa in 1..=6 {
        let rights = if gpa == 6 { R | X } else { R | W | X };
        memory.put(0x4000, gpa, (GUEST + gpa * 0x1000) | rights | WB);
    }
    memory.put(0x4000, 8, (GUEST + 0x5000) | W | WB);
    memory.put(0x3000, 1, 0x20_0000 | R | W | X | WB | PAGE);
    guest_tables(&mut memory, GUEST + 0x1000);

    memory.four_levels(0xb000, 0, |table| table, P | RW | US | A);
    for gpa in 1..=6 {
        let write = if gpa == 6 { 0 } else { RW };
        memory.put(0xe000, gpa, (GUEST + gpa * 0x1000) | P | write | US);
    }
    memory.0
}

/// The same guest's memory as QEMU's dump-guest-memory writes it: a note, and two ranges with a hole between them.
fn core() -> Vec<u8> {
    let mut memory = Builder::new(6);
    guest_tables(&mut memory, 0x1000);
    let segments = [(4_u32, 0xe8_u64, 0_u64, 0x14_u64), (1, 0x1000, 0x1000, 0x5000), (1, 0x6000, 0x20_0000, 0x1000)];
    let mut file = Vec::new();
    file.extend([0x7f, b'E', b'L', b'F', 2, 1, 1, 0, 0, 0, 0, 0, 0, 0, 0, 0]);
    for half in [4_u16, 62] {
        file.extend(half.to_le_bytes());
    }
    file.extend(1_u32.to_le_bytes());
    for address in [0_u64, 64, 0] {
        file.extend(address.to_le_bytes());
    }
    file.extend(0_u32.to_le_bytes());
    for half in [64_u16, 56, segments.len() as u16, 0, 0, 0] {
        file.extend(half.to_le_bytes());
    }
    for (kind, offset, address, size) in segments {
        file.extend(kind.to_le_bytes());
        file.extend(0_u32.to_le_bytes());
        for word in [offset, 0, address, size, size, 0] {
            file.extend(word.to_le_bytes());
        }
    }
    for word in [5_u32, 0, 1] {
        file.extend(word.to_le_bytes());
    }
    file.extend(b"CORE\0\0\0\0");
    file.resize(0x1000, 0);
    file.extend(&memory.0[0x1000..]);
    file.resize(0x7000, 0x5a);
    file
}

/// One of each mistake; EPTP 0x101e.
fn mistakes() -> Vec<u8> {
    let all = R | W | X;
    let mut memory = Builder::new(8);
    for (table, index, entry) in [
        (0x1000, 0, 0x2000 | all),
        (0x1000, 1, 0x8000 | all),   // outside the image
        (0x1000, 511, 0x1000 | all), // the table itself
        (0x2000, 0, 0x3000 | all),
        (0x2000, 1, 0x4000 | R),                    // denies what the tables below permit
        (0x2000, 2, 0x3000 | all),                  // a table that is in use already
        (0x2000, 3, 0x6000),                        // not present, with the address of a table
        (0x2000, 4, 0x4000_1000 | all | WB | PAGE), // bit 12 is reserved
        (0x3000, 0, 0x5000 | all),
        (0x3000, 1, 0x20_0000 | all | WB | PAGE),
        (0x3000, 2, 0x40_0000 | all | 2 << 3 | PAGE), // memory type 2
        (0x3000, 3, 0x60_0000 | all | 2 << 3 | PAGE),
        (0x4000, 0, 0x80_0000 | R | W | WB | PAGE),
        (0x4000, 1, 0xa0_0000 | X | WB | PAGE),
        (0x5000, 0, 0x10_0000 | R | W | WB),
        (0x5000, 1, 0x10_1000 | R | W | WB),
        (0x5000, 2, 0x10_2000 | R | X | WB),
        (0x5000, 3, 0x10_3000 | W | WB),     // write without read
        (0x5000, 8, 0x10_1000 | R | W | WB), // alias of 1 and 2
        (0x5000, 9, 0x10_2000 | R | W | WB),
        (0x6000, 0, 0xc0_0000 | R | W | WB | PAGE),
    ] {
        memory.put(table, index, entry);
    }
    memory.0
}

/// Nothing to complain about; EPTP 0x101e, base 0x1000.
fn clean() -> Vec<u8> {
    let mut memory = Builder::new(2);
    memory.put(0, 0, 0x2000 | R | W | X);
    memory.put(0x1000, 0, R | X | WB | PAGE);
    memory.put(0x1000, 1, 0x4000_0000 | R | W | WB | PAGE);
    memory.0
}

fn images() -> [(&'static str, Vec<u8>); 4] {
    [("nested.raw", nested()), ("guest.core", core()), ("mistakes.raw", mistakes()), ("clean.raw", clean())]
}

#[test]
fn images_are_as_this_file_makes_them() {
    for (name, bytes) in images() {
        assert!(bytes.len() <= 64 << 10, "{name}");
        let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("testdata/memory").join(name);
        if std::env::var_os("SOFTVIRT_BLESS").is_some() {
            fs::write(&path, &bytes).expect("testdata can be written");
        }
        assert!(fs::read(&path).is_ok_and(|found| found == bytes), "{name}: SOFTVIRT_BLESS=1 makes it anew");
    }
}

/// A file in the tests' own directory.
fn file(name: &str, bytes: &[u8]) -> PathBuf {
    let path = Path::new(env!("CARGO_TARGET_TMPDIR")).join(name);
    fs::write(&path, bytes).expect("the target directory can be written");
    path
}

fn softvirt(args: &[&str], file: &Path) -> Output {
    Command::new(env!("CARGO_BIN_EXE_softvirt")).args(args).arg("--mem").arg(file).output().expect("the command starts")
}

const COMMANDS: [&[&str]; 9] = [
    &["lint-ept", "--eptp", "0x105e"],
    &["lint-ept", "--eptp", "0x1026", "--limit", "1000"],
    &["walk", "--cr3", "1000", "400000"],
    &["walk", "--cr3", "1000", "--access", "write", "--user", "--eptp", "105e", "400123"],
    &["walk", "--cr3", "1000", "--access", "fetch", "--ncr3", "b000", "400123"],
    &["walk", "--cr3", "1000", "--cr4", "0", "--efer", "0", "400123"],
    &["walk", "--cr3", "1020", "--cr4", "20", "--efer", "0", "--eptp", "1026", "400123"],
    &["walk", "--cr3", "ffffffffff000", "--eptp", "ffffffffff01e", "ffffffffffffffff"],
    &[
        "walk",
        "--cr3",
        "1000",
        "--cr4",
        "1020",
        "--ncr3",
        "1000",
        "--host-cr4",
        "0",
        "--host-efer",
        "0",
        "--access",
        "write",
        "0",
    ],
];

/// The command ends with one of its exit codes; it does not panic (101), and says something.
fn bears(path: &Path) {
    for args in COMMANDS {
        let output = softvirt(args, path);
        let code = output.status.code();
        assert!(
            matches!(code, Some(0..=2)),
            "{args:?} {}: {code:?} {}",
            path.display(),
            String::from_utf8_lossy(&output.stderr)
        );
        assert_eq!(code == Some(2), output.stdout.is_empty(), "{args:?} {}", path.display());
        assert!(!String::from_utf8_lossy(&output.stdout).contains("\n    read 0x"), "{args:?}: a read without a name");
    }
}

#[test]
fn truncated_files_are_borne() {
    for (name, bytes) in images() {
        for length in [0, 1, 7, 8, 63, 64, 100, 200, 0x1000, 0x1800, 0x3004] {
            bears(&file(&format!("truncated-{length}-{name}"), &bytes[..length.min(bytes.len())]));
        }
        bears(&file(&format!("whole-{name}"), &bytes));
    }
}

#[test]
fn zeros_ones_and_self_maps_are_borne() {
    bears(&file("zeros", &[0; 0x4000]));
    bears(&file("ones", &[0xff; 0x4000]));
    for flags in [R | W | X, R | W | X | WB, P | RW | US | A | D, R] {
        let mut memory = Builder::new(16);
        for index in 0..0x10 * 512 {
            memory.put(0, index, (index * 0x1000) & 0xf000 | flags);
        }
        bears(&file(&format!("everything-maps-everything-{flags:x}"), &memory.0));
        for index in 0..0x10 * 512 {
            memory.put(0, index, 0x1000 | flags);
        }
        bears(&file(&format!("self-map-{flags:x}"), &memory.0));
    }
}

#[test]
fn damaged_headers_are_borne() {
    // A fixed sequence: each byte of the header and of the segments, with a few values.
    let core = core();
    for at in 0..232 {
        for value in [0, 1, 0x7f, 0xff] {
            let mut bytes = core.clone();
            bytes[at] = value;
            let path = file("damaged.core", &bytes);
            let output = softvirt(COMMANDS[2], &path);
            assert!(matches!(output.status.code(), Some(0..=2)), "byte {at} = {value:#x}");
        }
    }
}

#[test]
fn the_file_is_never_written() {
    let bytes = nested();
    let path = file("never-written", &bytes);
    let output = softvirt(COMMANDS[3], &path);
    assert!(String::from_utf8_lossy(&output.stdout).contains("Flags set, in a copy"));
    assert!(fs::read(&path).is_ok_and(|after| after == bytes));
}

/// Words on the number of reads in the manual's walk: 4 guest entries and the page, each through 4 EPT entries.
#[test]
fn a_walk_of_4_by_4_levels_shows_24_entries() {
    let path = file("counted", &nested());
    let output = softvirt(&["walk", "--cr3", "1000", "--eptp", "101e", "--format", "json", "400000"], &path);
    assert_eq!(String::from_utf8_lossy(&output.stdout).matches("\"entry\"").count(), 24);
}
