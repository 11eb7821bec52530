//! Do the fuzz targets hold on the committed seeds, on their prefixes and on a bounded number of mutations? On stable Rust, without a fuzzer.

use std::path::{Path, PathBuf};

fn seeds(target: &str) -> Vec<(PathBuf, Vec<u8>)> {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("fuzz/seeds").join(target);
    let mut files: Vec<PathBuf> =
        std::fs::read_dir(&folder).expect("each target has seeds").map(|entry| entry.unwrap().path()).collect();
    if target == "dump_text" {
        let dumps = Path::new(env!("CARGO_MANIFEST_DIR")).join("testdata/dumps");
        files
            .extend(std::fs::read_dir(dumps).unwrap().map(|entry| entry.unwrap().path()).filter(|path| path.is_file()));
    }
    files.sort();
    assert!(!files.is_empty(), "{}: no seeds", folder.display());
    files.into_iter().map(|path| (path.clone(), std::fs::read(path).unwrap())).collect()
}

struct Xorshift(u64);

impl Xorshift {
    fn next(&mut self) -> u64 {
        self.0 ^= self.0 << 13;
        self.0 ^= self.0 >> 7;
        self.0 ^= self.0 << 17;
        self.0
    }
}

fn mutate(bytes: &mut Vec<u8>, random: &mut Xorshift) {
    if bytes.is_empty() {
        bytes.push(random.next() as u8);
        return;
    }
    let at = random.next() as usize % bytes.len();
    match random.next() % 4 {
        0 => bytes[at] = random.next() as u8,
        1 => bytes[at] ^= 1 << (random.next() % 8),
        2 => bytes.truncate(at),
        _ => {
            let to = random.next() as usize % bytes.len();
            let (from, to) = (at.min(to), at.max(to));
            let piece = bytes[from..to.min(from + 64)].to_vec();
            bytes.splice(at..at, piece);
        }
    }
}

fn run(target: &str, mutations: usize) {
    let (_, body) = softvirt::fuzz::TARGETS.iter().find(|(name, _)| *name == target).expect("a target");
    let mut random = Xorshift(0x5eed_5eed_5eed_5eed);
    body(&[]);
    for (path, seed) in seeds(target) {
        println!("{}", path.display());
        body(&seed);
        for _ in 0..mutations {
            let mut bytes = seed.clone();
            for _ in 0..=random.next() % 4 {
                mutate(&mut bytes, &mut random);
            }
            body(&bytes);
        }
    }
}

#[test]
fn dump_text_holds_on_its_seeds() {
    run("dump_text", 20);
}

#[test]
fn machine_holds_on_its_seeds() {
    run("machine", 20);
}

#[test]
fn vmx_check_holds_on_its_seeds() {
    run("vmx_check", 2000);
}

#[test]
fn vmx_exit_holds_on_its_seeds() {
    run("vmx_exit", 1000);
}

#[test]
fn vmx_insn_holds_on_its_seeds() {
    run("vmx_insn", 1000);
}

#[test]
fn walk_holds_on_its_seeds() {
    run("walk", 2000);
}

#[test]
#[ignore = "slow: `cargo xtask ci` runs it; the everyday run has the same with fewer mutations"]
fn every_target_holds_on_many_mutations() {
    run("dump_text", 400);
    run("machine", 1000);
    run("vmx_check", 50_000);
    run("vmx_exit", 20_000);
    run("vmx_insn", 20_000);
    run("walk", 50_000);
}

#[test]
fn each_target_has_a_wrapper_for_cargo_fuzz() {
    for (name, _) in softvirt::fuzz::TARGETS {
        let wrapper = Path::new(env!("CARGO_MANIFEST_DIR")).join(format!("fuzz/fuzz_targets/{name}.rs"));
        assert!(wrapper.is_file(), "{}", wrapper.display());
    }
}

/// A seed's name says what it leads to: a fuzzer starts from every kind of answer.
#[test]
fn each_seed_of_walk_leads_where_its_name_says() {
    for (path, seed) in seeds("walk") {
        let kind = softvirt_ept_oracle::check(&softvirt_ept_oracle::Case::from_bytes(&seed));
        let name = path.file_name().unwrap().to_string_lossy().into_owned();
        assert_eq!(name.split('-').next(), Some(format!("{kind:?}").as_str()), "{name}");
    }
}

/// A seed's name begins with its basic exit reason.
#[test]
fn each_seed_of_vmx_exit_exits_with_the_reason_of_its_name() {
    for (path, seed) in seeds("vmx_exit") {
        let name = path.file_name().unwrap().to_string_lossy().into_owned();
        let exit = softvirt::fuzz::vmx_exit::check(&softvirt::generate::GuestCase::from_bytes(&seed));
        let reason = exit.map(|exit| format!("{:02}", exit.reason.basic()));
        assert_eq!(name.split('-').next(), reason.as_deref(), "{name}");
    }
}

/// A seed's name is something that its sequence leads to.
#[test]
fn each_seed_of_vmx_insn_leads_where_its_name_says() {
    for (path, seed) in seeds("vmx_insn") {
        let name = path.file_name().unwrap().to_string_lossy().into_owned();
        let tally = softvirt::fuzz::vmx_insn::check(&softvirt::generate::SequenceCase::from_bytes(&seed));
        assert!(tally.keys().any(|met| met.replace(' ', "-") == name), "{name}: {tally:?}");
    }
}
