// Generated from profiles/*.toml by `cargo xtask profiles`; do not edit.

use crate::profile::CpuProfile;

mod alder_lake;
mod arrow_lake;
mod broadwell;
mod broadwell_ep;
mod cascade_lake;
mod coffee_lake;
mod comet_lake;
mod core2;
mod emerald_rapids;
mod goldmont;
mod gracemont;
mod granite_rapids;
mod haswell;
mod haswell_ep;
mod icelake_client;
mod icelake_sp;
mod ivy_bridge;
mod ivy_bridge_e;
mod kvm;
mod kvm_haswell;
mod lunar_lake;
mod max;
mod meteor_lake;
mod penryn;
mod raptor_lake;
mod rocket_lake;
mod sandy_bridge;
mod sandy_bridge_e;
mod sapphire_rapids;
mod silvermont;
mod skylake_client;
mod skylake_sp;
mod tiger_lake;
mod tremont;
mod westmere;
mod wildcat_lake;

pub use alder_lake::ALDER_LAKE;
pub use arrow_lake::ARROW_LAKE;
pub use broadwell::BROADWELL;
pub use broadwell_ep::BROADWELL_EP;
pub use cascade_lake::CASCADE_LAKE;
pub use coffee_lake::COFFEE_LAKE;
pub use comet_lake::COMET_LAKE;
pub use core2::CORE2;
pub use emerald_rapids::EMERALD_RAPIDS;
pub use goldmont::GOLDMONT;
pub use gracemont::GRACEMONT;
pub use granite_rapids::GRANITE_RAPIDS;
pub use haswell::HASWELL;
pub use haswell_ep::HASWELL_EP;
pub use icelake_client::ICELAKE_CLIENT;
pub use icelake_sp::ICELAKE_SP;
pub use ivy_bridge::IVY_BRIDGE;
pub use ivy_bridge_e::IVY_BRIDGE_E;
pub use kvm::KVM;
pub use kvm_haswell::KVM_HASWELL;
pub use lunar_lake::LUNAR_LAKE;
pub use max::MAX;
pub use meteor_lake::METEOR_LAKE;
pub use penryn::PENRYN;
pub use raptor_lake::RAPTOR_LAKE;
pub use rocket_lake::ROCKET_LAKE;
pub use sandy_bridge::SANDY_BRIDGE;
pub use sandy_bridge_e::SANDY_BRIDGE_E;
pub use sapphire_rapids::SAPPHIRE_RAPIDS;
pub use silvermont::SILVERMONT;
pub use skylake_client::SKYLAKE_CLIENT;
pub use skylake_sp::SKYLAKE_SP;
pub use tiger_lake::TIGER_LAKE;
pub use tremont::TREMONT;
pub use westmere::WESTMERE;
pub use wildcat_lake::WILDCAT_LAKE;

/// Every profile: by generation, Core and Xeon before Atom, then hypervisors, `max` last.
pub static ALL: &[&CpuProfile] = &[
    &CORE2,
    &PENRYN,
    &WESTMERE,
    &SANDY_BRIDGE,
    &SANDY_BRIDGE_E,
    &IVY_BRIDGE,
    &IVY_BRIDGE_E,
    &HASWELL,
    &HASWELL_EP,
    &BROADWELL,
    &BROADWELL_EP,
    &SKYLAKE_CLIENT,
    &SKYLAKE_SP,
    &COFFEE_LAKE,
    &CASCADE_LAKE,
    &COMET_LAKE,
    &ICELAKE_CLIENT,
    &TIGER_LAKE,
    &ICELAKE_SP,
    &ROCKET_LAKE,
    &ALDER_LAKE,
    &RAPTOR_LAKE,
    &SAPPHIRE_RAPIDS,
    &EMERALD_RAPIDS,
    &METEOR_LAKE,
    &LUNAR_LAKE,
    &ARROW_LAKE,
    &GRANITE_RAPIDS,
    &WILDCAT_LAKE,
    &SILVERMONT,
    &GOLDMONT,
    &TREMONT,
    &GRACEMONT,
    &KVM_HASWELL,
    &KVM,
    &MAX,
];
