//! Which processors does softvirt know by name? One constant for each file of the repository's `profiles/` folder.
//!
//! `profiles/README.md` tells where the values come from and how to add a processor.

// The generator decides about the layout: `cargo xtask profiles --check` compares bytes.
#[rustfmt::skip]
mod generated;

pub use generated::*;

use crate::profile::{CpuProfile, RawProfile};

/// A profile of which nothing is known: what a file does not state is as here.
///
/// The generated files end in `..UNKNOWN`, so that they compile after a field was added to [`RawProfile`].
const UNKNOWN: RawProfile = RawProfile::UNKNOWN;

/// The profile of that name, as `--cpu` takes it: "skylake-sp".
#[must_use]
pub fn by_name(name: &str) -> Option<&'static CpuProfile> {
    ALL.iter().copied().find(|profile| profile.name() == name)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::feature::Feature;
    use crate::profile::VmxMsr;

    #[test]
    fn each_profile_is_found_by_its_name() {
        for profile in ALL {
            assert!(core::ptr::eq(by_name(profile.name()).unwrap(), *profile), "{}", profile.name());
        }
        assert!(by_name("Skylake-SP").is_none());
        assert!(by_name("").is_none());
    }

    #[test]
    fn max_is_last_and_hypervisors_stand_before_it() {
        let mut names = ALL.iter().rev().map(|profile| profile.name());
        assert_eq!([names.next(), names.next(), names.next()], [Some("max"), Some("kvm"), Some("kvm-haswell")]);
        assert_eq!(ALL[0].name(), "core2");
    }

    #[test]
    fn every_profile_knows_its_basic_controls_and_widths() {
        for profile in ALL {
            let settings =
                [profile.pin_settings(), profile.proc_settings(), profile.exit_settings(), profile.entry_settings()];
            assert!(settings.iter().all(Option::is_some), "{}", profile.name());
            assert!(profile.physical_width() >= 32 && matches!(profile.linear_width(), 48 | 57), "{}", profile.name());
            assert!(!profile.raw().description.is_empty() && !profile.raw().source.is_empty());
        }
    }

    /// Does the profile allow this secondary control?
    fn secondary(profile: &CpuProfile, bit: u32) -> bool {
        profile.proc2_settings().unwrap().may_be_one >> bit & 1 == 1
    }

    #[test]
    fn secondary_controls_came_in_the_known_order() {
        // Control bit, first profile of the Core line that has it, one before that has not.
        for (bit, name, with, without) in [
            (0, "virtualize APIC accesses", &PENRYN, &CORE2),
            (1, "enable EPT", &WESTMERE, &PENRYN),
            (7, "unrestricted guest", &WESTMERE, &PENRYN),
            (9, "virtual-interrupt delivery", &HASWELL_EP, &IVY_BRIDGE_E),
            (13, "enable VM functions", &HASWELL, &IVY_BRIDGE),
            (17, "enable PML", &BROADWELL_EP, &HASWELL_EP),
            (20, "enable XSAVES/XRSTORS", &SKYLAKE_CLIENT, &BROADWELL_EP),
            (22, "mode-based execute control for EPT", &COFFEE_LAKE, &SKYLAKE_CLIENT),
            (30, "VMM bus-lock detection", &ICELAKE_SP, &CASCADE_LAKE),
        ] {
            assert!(secondary(with, bit), "{} has {name}", with.name());
            assert!(!secondary(without, bit), "{} lacks {name}", without.name());
        }
    }

    #[test]
    fn features_are_those_of_the_generation() {
        for (feature, with, without) in [
            (Feature::SMEP, &IVY_BRIDGE, &SANDY_BRIDGE),
            (Feature::SMAP, &BROADWELL, &HASWELL),
            (Feature::MPX, &SKYLAKE_SP, &BROADWELL_EP),
            (Feature::UMIP, &ICELAKE_CLIENT, &COMET_LAKE),
            (Feature::LA57, &ICELAKE_SP, &ICELAKE_CLIENT),
            (Feature::CET_SS, &TIGER_LAKE, &ICELAKE_CLIENT),
            (Feature::UINTR, &SAPPHIRE_RAPIDS, &ICELAKE_SP),
            (Feature::FRED, &WILDCAT_LAKE, &ARROW_LAKE),
        ] {
            assert_eq!(with.has(feature), Some(true), "{} has {feature:?}", with.name());
            assert_eq!(without.has(feature), Some(false), "{} lacks {feature:?}", without.name());
        }
    }

    #[test]
    fn registers_that_do_not_exist_are_zero_and_unread_ones_unknown() {
        // Core 2 has neither secondary controls nor TRUE MSRs; nobody read the tertiary controls of Emerald Rapids.
        assert_eq!(CORE2.vmx(VmxMsr::ProcbasedCtls2), Some(0));
        assert_eq!(CORE2.vmx(VmxMsr::EptVpidCap), Some(0));
        assert_eq!(CORE2.vmx(VmxMsr::TrueEntryCtls), Some(0));
        assert_eq!(EMERALD_RAPIDS.vmx(VmxMsr::ProcbasedCtls3), None);
        assert_eq!(EMERALD_RAPIDS.vmx(VmxMsr::ExitCtls2), None);
        assert_eq!(SKYLAKE_SP.vmx(VmxMsr::ProcbasedCtls3), Some(0));
        assert_eq!(SKYLAKE_SP.vmx(VmxMsr::Vmfunc), None);
        assert_eq!(SKYLAKE_CLIENT.vmx(VmxMsr::Vmfunc), Some(1));
    }

    #[test]
    fn hypervisors_without_cpuid_leave_features_unknown() {
        assert_eq!(KVM.has(Feature::VMX), None);
        assert_eq!(KVM_HASWELL.has(Feature::MPX), None);
    }

    #[test]
    fn max_knows_all_and_has_every_feature_of_a_processor() {
        for msr in VmxMsr::ALL {
            assert!(MAX.vmx(msr).is_some(), "{}", msr.name());
        }
        for &feature in Feature::ALL {
            // Software's convention, not a processor's feature.
            assert_eq!(MAX.has(feature), Some(feature != Feature::HYPERVISOR), "{feature:?}");
        }
        assert_eq!((MAX.physical_width(), MAX.linear_width()), (52, 57));
    }
}
