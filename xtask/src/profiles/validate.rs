//! Can this machine exist? Each rule has an id, and a test that breaks it alone.
//!
//! Source: SDM 3D appendix A (rev 077), VMX Capability Reporting Facility, where a rule names no other.
//!
//! - [`registers`]: what one capability MSR must look like, and MSRs that say the same thing twice.
//! - [`controls`]: control bits that are useless without others, or without state that CPUID announces.
//! - [`machine`]: CPUID, widths, CR4, IA32_FEATURE_CONTROL; names, sources and order of the files.

mod controls;
mod machine;
mod registers;
#[cfg(test)]
mod tests;

use super::Problem;
use super::schema::Profile;
use x86_state::{Feature, FeatureSet, VmxMsr};

/// Every rule: what `[allow]` can name.
pub(crate) const RULES: &[&str] = &[
    "allow",
    "basic-address-width",
    "basic-memory-type",
    "basic-nested-exception",
    "basic-reserved",
    "basic-revision",
    "basic-size",
    "control-dependency",
    "control-feature",
    "cpuid-apic-id",
    "cpuid-duplicate",
    "cpuid-maximum",
    "cpuid-signature",
    "cpuid-vendor",
    "cpuid-vmx",
    "cpuid-widths",
    "cr-fixed",
    "cr-vmx",
    "cr4-feature",
    "default1",
    "ept-reserved",
    "ept-usable",
    "existence",
    "feature-control",
    "invalidation-types",
    "key",
    "la57-width",
    "misc-cr3-targets",
    "misc-pt",
    "misc-reserved",
    "misc-unrestricted-guest",
    "mktme",
    "name",
    "order",
    "secondary-flexible",
    "settings",
    "source",
    "true-agrees",
    "true-flexible",
    "vmcs-enum",
    "vpid-caps",
    "width-range",
];

/// The problems of one profile, without those that its `[allow]` explains.
pub(crate) fn profile(file: &str, profile: &Profile) -> Vec<Problem> {
    let mut check = Check::new(file, profile);
    machine::check(&mut check);
    registers::check(&mut check);
    controls::check(&mut check);
    let mut problems = check.problems;
    let mut allow_problems = Vec::new();
    for (rule, reason) in &profile.allow {
        let before = problems.len();
        problems.retain(|p| p.rule != rule);
        let why = if !RULES.contains(&rule.as_str()) {
            "there is no such rule"
        } else if before == problems.len() {
            "the profile breaks no such rule: remove the line"
        } else if reason.trim().is_empty() {
            "say why the machine is so"
        } else {
            continue;
        };
        allow_problems.push(Problem {
            file: file.to_owned(),
            key: format!("allow.{rule}"),
            rule: "allow",
            why: why.to_owned(),
        });
    }
    problems.extend(allow_problems);
    problems
}

/// The problems between profiles.
pub(crate) fn collection(profiles: &[Profile]) -> Vec<Problem> {
    let mut problems = Vec::new();
    for (i, a) in profiles.iter().enumerate() {
        for b in &profiles[..i] {
            if a.order == b.order {
                problems.push(Problem {
                    file: format!("{}.toml", a.name),
                    key: "order".to_owned(),
                    rule: "order",
                    why: format!("{} is the place of `{}` too", a.order, b.name),
                });
            }
        }
    }
    problems
}

/// A profile under examination and what was found.
struct Check<'a> {
    file: &'a str,
    profile: &'a Profile,
    features: FeatureSet,
    problems: Vec<Problem>,
}

impl<'a> Check<'a> {
    fn new(file: &'a str, profile: &'a Profile) -> Self {
        let features = FeatureSet::from_cpuid(&profile.leaves());
        Self { file, profile, features, problems: Vec::new() }
    }

    fn fail(&mut self, key: impl Into<String>, rule: &'static str, why: impl Into<String>) {
        debug_assert!(RULES.contains(&rule), "{rule} is missing from RULES");
        self.problems.push(Problem { file: self.file.to_owned(), key: key.into(), rule, why: why.into() });
    }

    fn vmx(&self, msr: VmxMsr) -> Option<u64> {
        self.profile.vmx(msr)
    }

    fn bit(&self, msr: VmxMsr, bit: u32) -> Option<bool> {
        self.vmx(msr).map(|value| value >> bit & 1 == 1)
    }

    fn has(&self, feature: Feature) -> Option<bool> {
        self.features.has(feature)
    }
}

/// The numbers of the bits that are set: "3, 17".
fn bits(value: u64) -> String {
    (0..64).filter(|bit| value >> bit & 1 == 1).map(|bit| bit.to_string()).collect::<Vec<_>>().join(", ")
}

/// A mask of bits `first` to `last`.
const fn range(first: u32, last: u32) -> u64 {
    u64::MAX >> (63 - last) & u64::MAX << first
}
