//! How long do a VM entry with its VM exit and the decision whether an instruction exits take? Each beside a floor in the same run.
#![allow(missing_docs, reason = "criterion's macros make a public function")]

#[path = "../crates/vmx-model/examples/transitions/mod.rs"]
mod transitions;

use criterion::{Criterion, criterion_group, criterion_main};
use transitions::{KINDS, World};

fn transitions(c: &mut Criterion) {
    let mut group = c.benchmark_group("transitions");
    for (name, kind) in KINDS {
        let mut world = World::new(*kind);
        group.bench_function(*name, |b| b.iter(|| world.run(*kind)));
    }
    group.finish();
}

criterion_group!(benches, transitions);
criterion_main!(benches);
