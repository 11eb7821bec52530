//! Makes VM entries, VM exits and intercept decisions, for callgrind to count: `count_transitions KIND TIMES`; without arguments it lists the
//! kinds. The bench `transitions` times the same.

#[path = "transitions/mod.rs"]
mod transitions;

use std::hint::black_box;
use transitions::{KINDS, Kind, World};

fn main() {
    let mut arguments = std::env::args().skip(1);
    let Some(name) = arguments.next() else {
        for (name, _) in KINDS {
            println!("{name}");
        }
        return;
    };
    let times: u32 = arguments.next().and_then(|count| count.parse().ok()).unwrap_or(1);
    let Some((_, kind)) = KINDS.iter().find(|(other, _)| *other == name) else {
        eprintln!("no such kind: {name}");
        std::process::exit(2);
    };
    let mut world = World::new(*kind);
    for _ in 0..times {
        run(&mut world, *kind);
    }
    black_box(&world);
}

#[inline(never)]
fn run(world: &mut World, kind: Kind) {
    world.run(kind);
}
