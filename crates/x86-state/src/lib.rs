//! What state does an x86 processor have?
#![no_std]
#![forbid(unsafe_code)]
#![deny(missing_docs)]

pub mod addr;
pub mod feature;
pub mod msr;
pub mod profile;
pub mod profiles;
pub mod segment;

pub use addr::{Gpa, Gva, Hpa};
pub use feature::{CpuidLeaf, Feature, FeatureSet};
pub use msr::{MaskedMsr, Msr, MsrMask};
pub use profile::{CpuProfile, Knobs, RawProfile, VmxMsr};
pub use segment::{AccessRights, SegmentRegister};
