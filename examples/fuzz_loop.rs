//! Runs the body of a fuzz target on pseudo-random bytes, without a fuzzer: `fuzz_loop TARGET SECONDS [SEED] [FOLDER]`.
//!
//! The same seed gives the same cases. Inputs that make the body panic are counted by the place of the panic; the first of each is told, and
//! goes to the folder if there is one.

use std::collections::BTreeMap;
use std::path::Path;
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

fn main() {
    let mut arguments = std::env::args().skip(1);
    let target = arguments.next().unwrap_or_default();
    let seconds = arguments.next().and_then(|seconds| seconds.parse().ok()).unwrap_or(10);
    let mut random: u64 = arguments.next().and_then(|seed| seed.parse().ok()).unwrap_or(0x5eed);
    let folder = arguments.next();
    let Some((_, body)) = softvirt::fuzz::TARGETS.iter().find(|(name, _)| *name == target) else {
        eprintln!("targets: {:?}", softvirt::fuzz::TARGETS.iter().map(|(name, _)| name).collect::<Vec<_>>());
        std::process::exit(2);
    };
    let mut next = || {
        random = random.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mixed = (random ^ random >> 30).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        let mixed = (mixed ^ mixed >> 27).wrapping_mul(0x94d0_49bb_1331_11eb);
        mixed ^ mixed >> 31
    };
    let latest = Arc::new(Mutex::new((String::new(), String::new())));
    let told = Arc::clone(&latest);
    std::panic::set_hook(Box::new(move |panic| {
        let place = panic.location().map(ToString::to_string).unwrap_or_default();
        if let Ok(mut latest) = told.lock() {
            *latest = (place, panic.to_string());
        }
    }));
    let begin = Instant::now();
    let (mut cases, mut found) = (0_u64, BTreeMap::<String, (u64, String)>::new());
    while begin.elapsed() < Duration::from_secs(seconds) {
        for _ in 0..1000 {
            let words = next() % 80;
            let bytes: Vec<u8> = (0..words).flat_map(|_| next().to_le_bytes()).collect();
            cases += 1;
            if std::panic::catch_unwind(|| body(&bytes)).is_ok() {
                continue;
            }
            let (place, message) = latest.lock().map(|latest| latest.clone()).unwrap_or_default();
            let entry = found.entry(place).or_insert((0, message));
            entry.0 += 1;
            if let (1, Some(folder)) = (entry.0, &folder) {
                let name = format!("{target}-{cases}");
                if let Err(error) = std::fs::write(Path::new(folder).join(name), &bytes) {
                    eprintln!("{folder}: {error}");
                }
            }
        }
    }
    let elapsed = begin.elapsed().as_secs_f64();
    println!("{target}: {cases} cases in {elapsed:.1} s, {:.0} a second", cases as f64 / elapsed);
    for (times, message) in found.values() {
        println!("{times:>8} times {message}");
    }
    if !found.is_empty() {
        std::process::exit(1);
    }
}
