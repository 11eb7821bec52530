//! Are real machines' dumps read? Runs over `../shared/dumps` beside the checkout, where that folder exists; its texts are not ours to keep here.

use softvirt_dump::{Dump, parse};
use std::fmt::Write as _;
use std::path::{Path, PathBuf};

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
    let mut out = format!("{:?} {:?} lines {}-{}, {} fields", dump.kind, dump.label, dump.first_line, dump.last_line, dump.vmcs.known_count());
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
