//! What does a walk cost when more memory is mapped, with more levels? `cargo xtask plot` draws the answer.
//!
//! Each walk goes to another one of at most 16384 pages, in a random order, spread over the range; the floor loads the same
//! entries in the same order. Not by criterion, which cannot let the two take turns. Prints a line for each depth and range:
//! `DEPTH BYTES FLOOR WALK`, the last two in nanoseconds.
#![allow(unreachable_pub, reason = "shared with the other bench")]

mod worlds;

use softvirt_ept::Direct;
use worlds::{Behind, DEPTHS, READ, SPANS, World, depth, paired};

fn main() {
    // `cargo test --benches` only wants to know that it runs.
    let spans = if std::env::args().any(|argument| argument == "--bench") { &SPANS[..] } else { &SPANS[..1] };
    for name in DEPTHS {
        for span in spans {
            let Some(plan) = depth(name, *span, 1 << 14) else { continue };
            let world = World::new(plan);
            let (floor, walk) = match plan.behind {
                Behind::Nothing => paired(&world, &Direct, READ, world.loads()),
                _ => paired(&world, &world.ept(), READ, world.loads()),
            };
            println!("{name} {span} {floor:.2} {walk:.2}");
        }
    }
}
