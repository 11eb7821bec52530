//! How long does a complete VM-entry check take? One valid 64-bit VMCS, one broken one, and whole fuzz cases.
#![allow(missing_docs, reason = "criterion's macros make a public function")]

use criterion::{Criterion, Throughput, criterion_group, criterion_main};
use std::hint::black_box;
use vmx_model::builder::build;
use vmx_model::check_entry;
use vmx_model::rules::{GuestKind, RULE_COUNT};
use x86_state::profiles;

fn entry_check(c: &mut Criterion) {
    let mut group = c.benchmark_group("entry_check");
    group.throughput(Throughput::Elements(RULE_COUNT as u64));
    let valid = build(GuestKind::Long64, &profiles::MAX);
    group.bench_function("valid_64_bit", |b| b.iter(|| check_entry(black_box(&valid))));
    let mut broken = valid;
    broken.set_rights(x86_state::SegmentRegister::Tr, 0x83);
    group.bench_function("broken_tr", |b| b.iter(|| check_entry(black_box(&broken))));
    // The floor: reading every field once.
    group.bench_function("floor_read_every_field", |b| {
        b.iter(|| {
            let state = black_box(&valid);
            vmx_model::Field::all().fold(0, |sum: u64, field| sum.wrapping_add(state.vmcs.get(field)))
        });
    });
    group.finish();

    let mut group = c.benchmark_group("fuzz");
    group.throughput(Throughput::Elements(1));
    let mut random = 0x5eed_u64;
    let cases: Vec<Vec<u8>> = (0..256)
        .map(|_| {
            (0..400)
                .map(|_| {
                    random ^= random << 13;
                    random ^= random >> 7;
                    random ^= random << 17;
                    random as u8
                })
                .collect()
        })
        .collect();
    let mut next = 0;
    group.bench_function("vmx_check_case", |b| {
        b.iter(|| {
            next = (next + 1) % cases.len();
            softvirt::fuzz::vmx_check(black_box(&cases[next]));
        });
    });
    group.finish();
}

criterion_group!(benches, entry_check);
criterion_main!(benches);
