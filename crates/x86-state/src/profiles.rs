//! Which processors does softvirt know by name? One constant for each file of the repository's `profiles/` folder.
//!
//! `profiles/README.md` tells where the values come from and how to add a processor.

// The generator decides about the layout: `cargo xtask profiles --check` compares bytes.
#[rustfmt::skip]
mod generated;

pub use generated::*;

use crate::profile::{CpuProfile, Knobs, RawProfile};

/// A profile of which nothing is known: what a file does not state is as here.
///
/// The generated files end in `..UNKNOWN`, so that they compile after a field was added to [`RawProfile`].
const UNKNOWN: RawProfile = RawProfile {
    name: "",
    description: "",
    source: "",
    cpuid: &[],
    vmx: [None; 20],
    feature_control: None,
    smm_monitor_ctl: None,
    physical_width: 0,
    linear_width: 0,
    mktme_key_bits: 0,
    c_bit: None,
    knobs: Knobs::DEFAULT,
};

/// The profile of that name, as `--cpu` takes it: "skylake-sp".
#[must_use]
pub fn by_name(name: &str) -> Option<&'static CpuProfile> {
    ALL.iter().copied().find(|profile| profile.name() == name)
}
