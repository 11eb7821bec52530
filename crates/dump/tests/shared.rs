//! Are real machines' dumps read? Runs over `../shared/dumps` beside the checkout, where that folder exists; its texts are not ours to keep here.

use softvirt_dump::{Dump, DumpKind, Happened, MsrEntry, parse};
use std::fmt::Write as _;
use std::path::{Path, PathBuf};
use vmx_model::Field;

fn folder() -> Option<PathBuf> {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../../shared/dumps");
    if folder.is_dir() {
        Some(folder)
    } else {
        println!("skipped: no folder {}", folder.display());
        None
    }
}

/// The dumps of the file whose name begins so.
fn dumps(folder: &Path, number: &str) -> Vec<Dump> {
    let mut entries = std::fs::read_dir(folder).unwrap().map(|entry| entry.unwrap().path());
    let path = entries.find(|path| path.file_name().unwrap().to_string_lossy().starts_with(number)).unwrap();
    parse(std::fs::read(path).unwrap()).unwrap_or_else(|error| panic!("{number}: {error}"))
}

fn summary(dump: &Dump) -> String {
    let mut out = format!(
        "{:?} {:?} lines {}-{}, {} fields",
        dump.kind,
        dump.label,
        dump.first_line,
        dump.last_line,
        dump.vmcs.known_count()
    );
    for event in &dump.events {
        write!(out, "; line {}: {:x?}", event.line, event.what).unwrap();
    }
    write!(out, "; {} notes", dump.notes.len()).unwrap();
    out
}

#[test]
fn every_file_is_read() {
    let Some(folder) = folder() else { return };
    let mut paths: Vec<_> = std::fs::read_dir(folder).unwrap().map(|entry| entry.unwrap().path()).collect();
    paths.sort();
    for path in paths.iter().filter(|path| path.extension().is_some_and(|extension| extension == "txt")) {
        let name = path.file_name().unwrap().to_string_lossy();
        let dumps = parse(std::fs::read(path).unwrap()).unwrap_or_else(|error| panic!("{name}: {error}"));
        for dump in &dumps {
            println!("{name}: {}", summary(dump));
            for note in &dump.notes {
                println!("    line {}: {}", note.line, note.text);
            }
        }
    }
}

/// Number, the dump of the file, whose it is, how many fields it has at least, and values to find in it.
type Expected = (&'static str, usize, DumpKind, usize, &'static [(Field, u64)]);

/// KVM's full dumps have about 105 fields and Xen's about 108: they print no more. XMHF's have all that the processor has.
const EXPECTED: &[Expected] = &[
    (
        "002",
        0,
        DumpKind::Kvm,
        100,
        &[
            (Field::GUEST_DS_ACCESS_RIGHTS, 0xc0f2),
            (Field::GUEST_DS_BASE, 0),
            (Field::CR0_GUEST_HOST_MASK, 0xffff_ffff_ffff_fff7),
            (Field::GUEST_PENDING_DEBUG_EXCEPTIONS, 0),
            (Field::HOST_CR4, 0x1626e0),
            (Field::HOST_TR_BASE, 0xffff_fe00_0010_2000),
            (Field::PAGE_FAULT_ERROR_CODE_MATCH, 0),
            (Field::GUEST_IA32_PAT, 0x0007_0406_0007_0406),
            (Field::VM_ENTRY_INSTRUCTION_LENGTH, 2),
            (Field::VM_EXIT_INSTRUCTION_LENGTH, 1),
            (Field::VPID, 1),
        ],
    ),
    (
        "008",
        0,
        DumpKind::Kvm,
        100,
        &[(Field::GUEST_CR0, 0x30), (Field::TERTIARY_PROC_BASED_CONTROLS, 0), (Field::GUEST_PDPTE3, 0)],
    ),
    (
        "010",
        0,
        DumpKind::Kvm,
        100,
        &[(Field::GUEST_PDPTE3, 0x1c5_4001), (Field::VIRTUAL_APIC_ADDRESS, 0x1_5716_b000), (Field::TPR_THRESHOLD, 0)],
    ),
    (
        "011",
        0,
        DumpKind::Kvm,
        100,
        &[
            (Field::GUEST_INTERRUPT_STATUS, 0xec00),
            (Field::VIRTUAL_APIC_ADDRESS, 0x3_6052_4000),
            (Field::IDT_VECTORING_INFO, 0x8000_00ec),
        ],
    ),
    (
        "101",
        0,
        DumpKind::Xen,
        105,
        &[
            (Field::GUEST_RIP, 0xfff0),
            (Field::GUEST_CS_BASE, 0xffff_0000),
            (Field::GUEST_TR_ACCESS_RIGHTS, 0x8b),
            (Field::HOST_RSP, 0xffff_8320_259b_ff70),
            (Field::VM_ENTRY_INTERRUPTION_INFO, 0x8000_030d),
            (Field::VM_FUNCTION_CONTROLS, 0),
        ],
    ),
    (
        "104",
        0,
        DumpKind::Xen,
        105,
        &[(Field::GUEST_RIP, 0x209997), (Field::HOST_RSP, 0xffff_8300_9c05_7f70), (Field::VPID, 0xe)],
    ),
    ("109", 0, DumpKind::Xen, 2, &[(Field::GUEST_DR7, 0x4000_0000_0000_0001), (Field::GUEST_RFLAGS, 2)]),
    ("112", 0, DumpKind::Xen, 3, &[(Field::SECONDARY_PROC_BASED_CONTROLS, 0x14fb)]),
    ("202", 0, DumpKind::Qemu, 40, &[(Field::GUEST_CS_ACCESS_RIGHTS, 0xc09b), (Field::GUEST_TR_ACCESS_RIGHTS, 0x83)]),
    ("202", 1, DumpKind::Svm, 0, &[]),
    (
        "301",
        0,
        DumpKind::Xmhf,
        42,
        &[(Field::GUEST_CR0, 0x11), (Field::GUEST_TR_BASE, 0xff40_6000), (Field::GUEST_TR_LIMIT, 0x407b)],
    ),
    ("304", 0, DumpKind::Prose, 5, &[(Field::GUEST_TR_ACCESS_RIGHTS, 0x83), (Field::VM_ENTRY_CONTROLS, 0x13ff)]),
    ("306", 0, DumpKind::Xmhf, 2, &[(Field::GUEST_CS_SELECTOR, 0x10), (Field::GUEST_DS_SELECTOR, 0)]),
    (
        "307",
        0,
        DumpKind::Xmhf,
        120,
        &[(Field::VM_ENTRY_INTERRUPTION_INFO, 0x8000_0603), (Field::VM_ENTRY_INSTRUCTION_LENGTH, 0)],
    ),
    ("310", 0, DumpKind::Xmhf, 120, &[(Field::EXIT_REASON, 0x8000_0022), (Field::GUEST_CR0, 0x8001_0035)]),
    ("312", 1, DumpKind::Xmhf, 120, &[(Field::VM_ENTRY_MSR_LOAD_COUNT, 3)]),
    ("315", 3, DumpKind::Xmhf, 110, &[(Field::GUEST_RFLAGS, 0x46)]),
    (
        "316",
        0,
        DumpKind::Prose,
        2,
        &[(Field::GUEST_INTERRUPTIBILITY_STATE, 8), (Field::VM_ENTRY_INTERRUPTION_INFO, 0x8000_0202)],
    ),
    ("317", 0, DumpKind::Prose, 1, &[(Field::PRIMARY_PROC_BASED_CONTROLS, 0xb6a0_6dfa)]),
    ("401", 0, DumpKind::Qemu, 40, &[(Field::GUEST_CS_BASE, 0xffff_0000), (Field::GUEST_RFLAGS, 2)]),
];

#[test]
fn values_are_those_of_the_text() {
    let Some(folder) = folder() else { return };
    for &(number, position, kind, fields, values) in EXPECTED {
        let dumps = dumps(&folder, number);
        let dump = &dumps[position];
        assert_eq!(dump.kind, kind, "{number}");
        assert!(dump.vmcs.known_count() >= fields, "{number}: {}", dump.vmcs.known_count());
        for &(field, value) in values {
            assert_eq!(dump.vmcs.try_get(field), Some(value), "{number} {field:?}");
        }
    }
}

#[test]
fn what_the_text_lacks_is_unknown() {
    let Some(folder) = folder() else { return };
    for (number, position, field) in [
        ("008", 0, Field::HOST_CR3),
        ("010", 0, Field::GUEST_IA32_EFER),
        ("010", 0, Field::HOST_IA32_EFER),
        ("002", 0, Field::VMCS_LINK_POINTER),
        ("307", 0, Field::EPTP_INDEX),
        ("401", 0, Field::GUEST_CR0),
        ("409", 0, Field::GUEST_RFLAGS),
    ] {
        assert_eq!(dumps(&folder, number)[position].vmcs.try_get(field), None, "{number} {field:?}");
    }
}

#[test]
fn facts_beside_the_fields_are_kept() {
    let Some(folder) = folder() else { return };
    assert_eq!(dumps(&folder, "010")[0].facts.effective_efer, Some(0xd01));
    assert_eq!(dumps(&folder, "401")[0].facts.guest_visible.cr0, Some(0x6000_0010));
    let entry = MsrEntry { index: 0xc000_0080, reserved: 0, value: 0xd01 };
    for (number, position) in [("312", 1), ("315", 5)] {
        let dumps = dumps(&folder, number);
        let list = dumps[position].facts.msr_lists.entry_load.as_ref().unwrap();
        assert_eq!((list.len(), list[0]), (3, entry), "{number}");
    }
    let vmx = dumps(&folder, "315");
    assert!(vmx[0].facts.capabilities.contains(&(0x48e, 0xfff9_fffe_0400_6172)));
    assert!(vmx[1].facts.capabilities.contains(&(0x483, 0x0043_ffff_0003_6dff)));
    assert_eq!(dumps(&folder, "317")[0].facts.capabilities, [(0x48e, 0xeff9_fffe_0400_6172)]);
}

#[test]
fn the_log_tells_what_happened() {
    let Some(folder) = folder() else { return };
    let first = |number: &str| dumps(&folder, number)[0].events.first().map(|event| event.what.clone());
    let failed = |reason, qualification| Some(Happened::EntryFailed { reason, qualification });
    assert_eq!(first("002"), failed(0x8000_0021, Some(0)));
    assert_eq!(first("109"), failed(0x8000_0021, Some(0)));
    assert_eq!(first("110"), failed(0x8000_0022, Some(4)));
    assert_eq!(first("303"), failed(0x8000_0022, Some(1)));
    assert_eq!(first("409"), Some(Happened::NoReason));
    assert_eq!(first("308"), None);
    let load = Happened::MsrLoadFailed { entry: Some(14), msr: Some(0x68a), value: Some(0x1fff_8000_0010_2af0) };
    assert_eq!(dumps(&folder, "111")[0].events[1].what, load);
    for number in ["008", "010", "011", "104", "311", "313", "314"] {
        for dump in dumps(&folder, number) {
            assert!(dump.events.iter().all(|event| !event.what.is_entry_failure()), "{number}");
        }
    }
    for number in ["101", "112", "317", "401"] {
        assert!(matches!(first(number), Some(Happened::VmInstructionError { number: 7, .. })), "{number}");
    }
}
