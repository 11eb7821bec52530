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
const XU: u64 = 1 << 10;
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

    /// The same for a table of 32-bit paging.
    fn put32(&mut self, table: u64, index: u64, entry: u64) {
        let at = (table + 4 * index) as usize;
        self.0[at..at + 4].copy_from_slice(&entry.to_le_bytes()[..4]);
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

/// A segment of a core.
struct Load {
    vaddr: u64,
    paddr: u64,
    memsz: u64,
    data: Vec<u8>,
}

impl Load {
    fn new(paddr: u64, data: &[u8]) -> Self {
        Self { vaddr: paddr, paddr, memsz: data.len() as u64, data: data.to_vec() }
    }
}

/// An ELF core, laid out as QEMU 7.2 was seen to lay it out: two section headers before the program headers, `e_ehsize` 8, notes, memory.
struct Core {
    bits: u8,
    machine: u16,
    notes: Vec<u8>,
    loads: Vec<Load>,
    /// Write PN_XNUM and leave the number of program headers to the first section header.
    many: bool,
}

const I386: u16 = 3;
const X86_64: u16 = 62;

impl Core {
    fn new(machine: u16, cpus: &[[u64; 3]], loads: Vec<Load>) -> Self {
        let notes = cpus.iter().flat_map(|cpu| cpu_notes(machine, *cpu)).collect();
        Self { bits: 64, machine, notes, loads, many: false }
    }

    fn bytes(&self) -> Vec<u8> {
        let wide = self.bits == 64;
        let (ehdr, shdr, phdr) = if wide { (64, 64, 56) } else { (52, 40, 32) };
        let phoff = ehdr + 2 * shdr;
        let count = self.loads.len() + 1;
        let half = |out: &mut Vec<u8>, value: u64| out.extend((value as u16).to_le_bytes());
        let word = |out: &mut Vec<u8>, value: u64| out.extend((value as u32).to_le_bytes());
        let long = |out: &mut Vec<u8>, value: u64| out.extend(&value.to_le_bytes()[..if wide { 8 } else { 4 }]);
        let mut out = vec![0x7f, b'E', b'L', b'F', 1 + u8::from(wide), 1, 1];
        out.resize(16, 0);
        half(&mut out, 4);
        half(&mut out, self.machine.into());
        word(&mut out, 1);
        for address in [0, phoff, ehdr] {
            long(&mut out, address as u64);
        }
        word(&mut out, 0);
        let phnum = if self.many { 0xffff } else { count };
        for value in [8, phdr, phnum, shdr, 2, 1] {
            half(&mut out, value as u64);
        }
        let sections = out.len();
        out.resize(phoff, 0);
        if self.many {
            let info = sections + if wide { 44 } else { 28 };
            out[info..info + 4].copy_from_slice(&(count as u32).to_le_bytes());
        }
        let mut offset = (phoff + phdr * count) as u64;
        let mut header = |kind: u64, vaddr: u64, paddr: u64, size: u64, memsz: u64| {
            word(&mut out, kind);
            if wide {
                word(&mut out, 0);
            }
            for value in [offset, vaddr, paddr, size, memsz] {
                long(&mut out, value);
            }
            if !wide {
                word(&mut out, 0);
            }
            long(&mut out, 0);
            offset += size;
        };
        let notes = self.notes.len() as u64;
        header(4, 0, 0, notes, notes);
        for load in &self.loads {
            header(1, load.vaddr, load.paddr, load.data.len() as u64, load.memsz);
        }
        out.extend(&self.notes);
        for load in &self.loads {
            out.extend(&load.data);
        }
        out
    }
}

/// The two notes of a CPU: NT_PRSTATUS, and QEMU's own with CR0, CR3 and CR4 (version 1, 440 bytes).
fn cpu_notes(machine: u16, [cr0, cr3, cr4]: [u64; 3]) -> Vec<u8> {
    let mut state = vec![0; 440];
    for (at, value) in [(0, 440 << 32 | 1), (392, cr0), (416, cr3), (424, cr4)] {
        state[at..at + 8].copy_from_slice(&u64::to_le_bytes(value));
    }
    let mut out = Vec::new();
    for (name, kind, description) in
        [(b"CORE\0\0\0\0", 1_u32, vec![0; if machine == X86_64 { 336 } else { 144 }]), (b"QEMU\0\0\0\0", 0, state)]
    {
        for value in [5, description.len() as u32, kind] {
            out.extend(value.to_le_bytes());
        }
        out.extend(name);
        out.extend(description);
    }
    out
}

/// The registers of the CPUs in `guest.core`: one in the guest, one that waits in real mode.
const CPUS: [[u64; 3]; 2] = [[0x8005_0033, 0x1000, 0x6a0], [0x10, 0, 0]];

/// The same guest's memory as QEMU's dump-guest-memory writes it: notes, and two ranges with a hole between them.
fn core() -> Vec<u8> {
    let mut memory = Builder::new(6);
    guest_tables(&mut memory, 0x1000);
    let loads = vec![Load::new(0x1000, &memory.0[0x1000..]), Load::new(0x20_0000, &[0x5a; 0x1000])];
    Core::new(X86_64, &CPUS, loads).bytes()
}

/// Tables of every paging mode, and an EPT (EPTP 0x1001e) in which guest-physical addresses below 0x16000 are host-physical ones.
///
/// | CR3 | mode | HLATP |
/// |---|---|---|
/// | 0x1000 | 32-bit | |
/// | 0x3020, 0x3040 | PAE; the second has a PDPTE that is not acceptable | |
/// | 0x7000 | 4-level | 0xb000 |
/// | 0x6000 | 5-level, over the same tables | |
fn modes() -> Vec<u8> {
    let user = P | RW | US | A;
    let mut memory = Builder::new(28);
    memory.put32(0x1000, 1, 0x2000 | user);
    memory.put32(0x1000, 2, 0x80_0000 | P | RW | A | D | PS);
    memory.put32(0x1000, 3, 0xc0_0000 | 1 << 13 | P | A | PS); // PSE-36: bit 13 is address bit 32
    memory.put32(0x2000, 0, 0x5000 | user | D);
    memory.put32(0x2000, 1, 0x5000 | P | A); // the supervisor's, read-only
    for (table, index, entry) in [
        (0x3020, 0, 0x4000 | P),
        (0x3020, 1, 0x5000), // not present
        (0x3040, 0, 0x4000 | P),
        (0x3040, 1, 0x4000 | P | A), // bit 5 is reserved
        (0x4000, 2, 0x5000 | user),
        (0x4000, 3, 0x60_0000 | user | D | PS | NX),
        (0x5000, 0, 0x1_0000_5000 | user | D),
        (0x6000, 0, 0x7000 | user),
        (0x6000, 511, 0x7000 | user),
        (0x7000, 0, 0x8000 | user),
        (0x7000, 511, 0x8000 | user),
        (0x8000, 0, 0x9000 | user),
        (0x8000, 1, 0x4000_0000 | P | RW | A | D | PS | G),
        (0x8000, 2, 0x1_9000 | user), // not present in EPT
        (0x8000, 3, 0x1_b000 | user), // read-only in EPT, with paging-write access
        (0x9000, 2, 0xa000 | user),
        (0x9000, 3, 0x20_0000 | user | D | PS),
        (0xa000, 0, 0x5000 | user | D),
        (0xa000, 1, 0x5000 | P | A | D),          // a supervisor shadow-stack page
        (0xa000, 2, 0x5000 | user | D | 5 << 59), // key 5
        (0xa000, 3, 0x1_5000 | user | D),         // EPT: sub-page permissions
        (0xa000, 4, 0x1_a000 | user | D),         // EPT: executable in user mode only
        (0xa000, 5, 0x1_c000 | user | D),         // EPT: misconfigured in three ways
        (0xa000, 6, 0x1_a000 | P | A),            // the supervisor's name of it
        (0xb000, 0, 0xc000 | user),
        (0xb000, 1, 0xc000 | P | A | 1 << 51), // a reserved bit on a processor with 46 bits
        (0xc000, 0, 0xd000 | user | 1 << 11),  // restart
        (0xc000, 1, 0x8000_0000 | user | D | PS),
        (0x1_0000, 0, 0x1_1000 | R | W | X | XU),
        (0x1_1000, 0, 0x1_2000 | R | W | X | XU),
        (0x1_1000, 1, 0x1_4000_0000 | R | W | WB | PAGE),
        (0x1_2000, 0, 0x1_3000 | R | W | X | XU),
        (0x1_2000, 1, 0x20_0000 | R | W | X | WB | PAGE),
        (0x1_3000, 0x15, 0x1_5000 | R | WB | 1 << 61),
        (0x1_3000, 0x1a, 0x1_a000 | R | WB | XU),
        (0x1_3000, 0x1b, 0x1_b000 | R | WB | 1 << 57 | 1 << 58),
        (0x1_3000, 0x1c, 1 << 50 | W | 7 << 3),
        (0x1_4000, 0, 0x1_6000 | 1), // the tables of sub-page permissions
        (0x1_6000, 0, 0x1_7000 | 1),
        (0x1_7000, 0, 0x1_8000 | 1),
        (0x1_7000, 1, 0x1_8000 | 3),                 // bit 1 is reserved
        (0x1_8000, 0x15, 0b0000_0100),               // sub-page 1
        (0x1_b000, 0, 0x20_0000 | P | RW | US | PS), // accessed flag clear
    ] {
        memory.put(table, index, entry);
    }
    for gpa in 1..0x15 {
        memory.put(0x1_3000, gpa, gpa << 12 | R | W | X | WB);
    }
    memory.0
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

fn images() -> [(&'static str, Vec<u8>); 5] {
    [
        ("modes.raw", modes()),
        ("nested.raw", nested()),
        ("guest.core", core()),
        ("mistakes.raw", mistakes()),
        ("clean.raw", clean()),
    ]
}

#[test]
fn images_are_as_this_file_makes_them() {
    for (name, bytes) in images() {
        assert!(bytes.len() <= 128 << 10, "{name}");
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

const COMMANDS: [&[&str]; 14] = [
    &["lint-ept", "--eptp", "0x105e"],
    &["lint-ept", "--eptp", "0x1026", "--limit", "1000"],
    &["walk", "--cr3", "1000", "400000"],
    &["walk", "--cr3", "1000", "--access", "write", "--user", "--eptp", "105e", "400123"],
    &["walk", "--cr3", "1000", "--access", "fetch", "--ncr3", "b000", "400123"],
    &["walk", "--cr3", "1000", "--cr4", "0", "--efer", "0", "400123"],
    &["walk", "--cr3", "1020", "--cr4", "20", "--efer", "0", "--eptp", "1026", "400123"],
    &["walk", "--cr3", "1000", "--eptp", "105e", "--pml", "1000", "--access", "write", "--ve", "--mbec", "400123"],
    &["walk", "--cr3", "1000", "--eptp", "101e", "--spptp", "1000", "--access", "write", "--bytes", "256", "401000"],
    &[
        "walk",
        "--cr3",
        "1000",
        "--eptp",
        "101e",
        "--hlatp",
        "2000",
        "--paging-write",
        "--verify-guest-paging",
        "400123",
    ],
    &["walk", "--cr3", "1000", "--ncr3", "b000", "--gmet", "--sss-check", "--read-only-guest-tables", "400123"],
    &[
        "walk",
        "--cr3",
        "1000",
        "--set",
        "cet",
        "--shadow-stack",
        "--access",
        "write",
        "--pdptes",
        "memory",
        "--clear",
        "lme",
        "0",
    ],
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
    for at in 0..64 + 2 * 64 + 3 * 56 {
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

/// B-88: ranges that are writable and executable at once are found, whichever level maps them, and a table without any passes.
#[test]
fn b_88_writable_and_executable_ranges_of_an_ept_are_listed() {
    let path = file("writable-executable", &mistakes());
    let output = softvirt(&["lint-ept", "--eptp", "101e"], &path);
    let text = String::from_utf8_lossy(&output.stdout).into_owned();
    let found: Vec<&str> = text.lines().filter(|line| line.starts_with("writable-and-executable")).collect();
    assert_eq!(found.len(), 1, "{text}");
    assert!(found[0].contains("0x200000-0x3fffff"), "{text}");
    assert_eq!(output.status.code(), Some(1));

    let path = file("nothing-writable-executable", &clean());
    let output = softvirt(&["lint-ept", "--base", "1000", "--eptp", "101e"], &path);
    assert_eq!(output.status.code(), Some(0), "{}", String::from_utf8_lossy(&output.stdout));
}

/// The host-physical address that the walk of an address in a core ends at.
fn translated(path: &Path, args: &[&str]) -> String {
    let output = softvirt(args, path);
    assert_eq!(output.status.code(), Some(0), "{}", String::from_utf8_lossy(&output.stderr));
    let text = String::from_utf8_lossy(&output.stdout).into_owned();
    let line = text.lines().find_map(|line| line.strip_prefix("host-physical ")).expect("a translation");
    line.split(',').next().expect("an address").to_owned()
}

/// `dump-guest-memory -p`: a segment for each mapping, so that one page has several, at physical address 0 too.
#[test]
fn a_core_in_paging_form_may_hold_a_page_many_times() {
    let mut memory = Builder::new(6);
    guest_tables(&mut memory, 0x1000);
    let loads = vec![
        Load { vaddr: 0xffff_8880_0000_0000, ..Load::new(0, &memory.0) },
        Load { vaddr: 0xffff_ffff_8000_0000, ..Load::new(0, &memory.0[..0x2000]) },
        Load { vaddr: 0x7000_0000, ..Load::new(0x3000, &memory.0[0x3000..0x4000]) },
    ];
    let path = file("paging-form.core", &Core::new(X86_64, &CPUS, loads).bytes());
    assert_eq!(translated(&path, &["walk", "400123"]), "0x5123");
}

#[test]
fn the_core_of_a_process_is_refused() {
    let loads = (1..4).map(|index| Load { paddr: 0, ..Load::new(index << 20, &[0; 16]) }).collect();
    let path = file("process.core", &Core::new(X86_64, &[], loads).bytes());
    let output = softvirt(&["walk", "--cr3", "1000", "0"], &path);
    assert_eq!(output.status.code(), Some(2));
    assert!(String::from_utf8_lossy(&output.stderr).contains("the core of a process"));
}

/// PAE paging of a machine that is not in long mode; no PC's core is 32-bit, since its ROM ends at 4 GBytes, but the format has it.
#[test]
fn a_32_bit_core_has_registers_too() {
    let cpu = [0x8000_0011, 0x3020, 0x20];
    for bits in [32, 64] {
        let loads = vec![Load::new(0, &modes())];
        let core = Core { bits, ..Core::new(I386, &[cpu], loads) };
        let path = file(&format!("pae-{bits}.core"), &core.bytes());
        assert_eq!(translated(&path, &["walk", "0x400010"]), "0x100005010 (not in the image)", "{bits}");
        let text = String::from_utf8_lossy(&softvirt(&["walk", "0x400010"], &path).stdout).into_owned();
        assert!(text.contains("PAE paging") && text.contains("EFER 0x800 (assumed"), "{text}");
    }
}

/// With 65535 segments and more, `e_phnum` does not suffice.
#[test]
fn a_core_with_more_segments_than_e_phnum_can_count_is_read() {
    let mut memory = Builder::new(6);
    guest_tables(&mut memory, 0x1000);
    let mut loads: Vec<Load> = (0..66_000).map(|index| Load::new(0x1000_0000 + (index << 12), &[])).collect();
    loads.push(Load::new(0, &memory.0));
    let core = Core { many: true, ..Core::new(X86_64, &CPUS, loads) };
    let path = file("many.core", &core.bytes());
    assert_eq!(translated(&path, &["walk", "400123"]), "0x5123");
}

/// `makedumpfile -E -d 1` leaves out pages of zeros: `p_filesz` is smaller than `p_memsz`.
#[test]
fn what_a_dump_leaves_out_reads_as_zeros_and_is_said_to() {
    let mut memory = Builder::new(4);
    memory.four_levels(0x1000, 2, |table| table, P | RW | US | A);
    let loads = vec![Load { memsz: 0x2_0000, ..Load::new(0, &memory.0) }];
    let path = file("left-out.core", &Core::new(X86_64, &CPUS, loads).bytes());
    let output = softvirt(&["walk", "400123"], &path);
    let text = String::from_utf8_lossy(&output.stdout);
    assert_eq!(output.status.code(), Some(1), "{text}");
    assert!(
        text.contains("PTE 0x4000 = 0x0000000000000000  LEFT OUT OF THE DUMP, reads as zeros: not present"),
        "{text}"
    );
}

/// Every table is shared 512 times by each level above: 2^36 paths, and four tables to read.
#[test]
fn tables_that_are_shared_at_every_level_are_read_once() {
    let mut memory = Builder::new(5);
    for table in 1..=4 {
        for index in 0..512 {
            memory.put(table << 12, index, ((table + 1) << 12 & 0x7000) | R | W | if table == 4 { WB } else { 0 });
        }
    }
    let path = file("shared", &memory.0);
    let output = softvirt(&["lint-ept", "--eptp", "101e"], &path);
    let text = String::from_utf8_lossy(&output.stdout);
    assert!(text.starts_with("4-level EPT at 0x1000 without accessed and dirty flags: 4 tables, 512 pages"), "{text}");
}
