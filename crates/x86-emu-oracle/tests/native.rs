//! Every form that can run in user mode, against the host's processor.
#![cfg(all(target_arch = "x86_64", target_os = "linux"))]

use iced_x86::Code;
use std::collections::BTreeMap;
use x86_emu_oracle::case::Case;
use x86_emu_oracle::compare::{Compared, compare, host_has};
use x86_emu_oracle::forms::{self, Random};
use x86_emu_oracle::native::Native;
use x86_emu_oracle::{Emulated, End, emulated};

/// Cases of each form, unless `X86_EMU_ORACLE_CASES` says otherwise. `X86_EMU_ORACLE_FORMS` is what the names of the forms to be run contain.
const CASES: u32 = 100;

#[test]
fn every_form_agrees_with_the_host_in_64_bit_mode() {
    every_form_agrees_with_the_host(64);
}

#[test]
fn every_form_agrees_with_the_host_in_compatibility_mode() {
    every_form_agrees_with_the_host(32);
}

fn every_form_agrees_with_the_host(bits: u32) {
    let mut native = Native::new().expect("memory at fixed addresses");
    let mut emulated = Emulated::new(native.system_flags());
    let cases_each = std::env::var("X86_EMU_ORACLE_CASES").ok().and_then(|n| n.parse().ok()).unwrap_or(CASES);
    let (mut forms, mut cases, mut faults, mut skipped) = (0, 0, 0, Vec::new());
    let mut wrong: BTreeMap<String, (u32, String)> = BTreeMap::new();
    let wanted = std::env::var("X86_EMU_ORACLE_FORMS").unwrap_or_default();
    for code in Code::values().filter(|&code| emulated::is_computation(code)) {
        if !format!("{code:?}").contains(&wanted) {
            continue;
        }
        if !forms::is_testable(code, bits) || !host_has(code) {
            skipped.push(code);
            continue;
        }
        forms += 1;
        let mut random = Random::new(code as u64);
        for _ in 0..cases_each {
            let Some((instruction, case)) = forms::case(code, bits, &mut random) else { continue };
            let Some(Compared { expected, difference }) = compare(&mut native, &mut emulated, &instruction, &case)
            else {
                continue;
            };
            cases += 1;
            faults += u32::from(expected.end != End::Completed);
            if let Some(difference) = difference {
                let entry = wrong.entry(format!("{code:?}")).or_default();
                entry.0 += 1;
                if entry.0 == 1 {
                    let Case { code, gpr, flags, xmm, mxcsr, .. } = &case;
                    entry.1 =
                        format!("{code:02x?} gpr {gpr:x?} flags {flags:?} xmm {xmm:x?} mxcsr {mxcsr:#x}:{difference}");
                }
            }
        }
    }
    println!(
        "{bits} bits: {forms} forms, {cases} cases, {faults} of them faulting; not run: {} {skipped:?}",
        skipped.len()
    );
    for (code, (count, first)) in &wrong {
        println!("{code}: {count} times; {first}");
    }
    assert!(wrong.is_empty(), "{} forms differ", wrong.len());
}
