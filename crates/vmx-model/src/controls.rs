//! Which controls are in force? The eight vectors of a VMCS, as a processor in VMX non-root operation uses them.
//!
//! Source: SDM 3C (rev 077) 24.6.2, Processor-Based VM-Execution Controls: a vector whose activating control is 0 counts as 0.

use crate::control::{Control, ControlVector};
use crate::vmcs::Vmcs;

/// The effective values of all control vectors.
///
/// # Invariants
/// A vector whose activating control is 0 is 0.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Default)]
pub struct Controls {
    vectors: [u64; ControlVector::ALL.len()],
}

impl Controls {
    /// No control is in force.
    pub const NONE: Self = Self { vectors: [0; ControlVector::ALL.len()] };

    /// The controls of a VMCS whose fields are known.
    #[must_use]
    pub fn of(vmcs: &Vmcs) -> Self {
        let mut controls = Self::NONE;
        // A vector stands after the one that holds its activating control.
        for vector in ControlVector::ALL {
            if vector.activated_by().is_none_or(|control| controls.has(control)) {
                controls.vectors[vector as usize] = vmcs.get(vector.field());
            }
        }
        controls
    }

    /// Is the control 1?
    #[must_use]
    #[inline(always)]
    pub const fn has(&self, control: Control) -> bool {
        self.vectors[control.vector() as usize] & control.mask() != 0
    }

    /// One vector.
    #[must_use]
    #[inline(always)]
    pub const fn vector(&self, vector: ControlVector) -> u64 {
        self.vectors[vector as usize]
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::fields::Field;

    #[test]
    fn a_vector_that_is_not_activated_counts_as_zero() {
        let mut vmcs = Vmcs::new();
        for vector in ControlVector::ALL {
            vmcs.set(vector.field(), u64::MAX);
        }
        let all = Controls::of(&vmcs);
        assert!(Control::all().all(|control| all.has(control)));

        for vector in ControlVector::ALL {
            let Some(activating) = vector.activated_by() else { continue };
            let mut without = vmcs;
            without.update(activating.vector().field(), |bits| bits & !activating.mask());
            let controls = Controls::of(&without);
            assert_eq!(controls.vector(vector), 0, "{vector:?} without {activating:?}");
        }
    }

    #[test]
    fn each_vector_has_its_activator() {
        for (activator, activated) in [
            (Control::ACTIVATE_SECONDARY_CONTROLS, Control::ENABLE_EPT),
            (Control::ACTIVATE_TERTIARY_CONTROLS, Control::ENABLE_HLAT),
            (Control::ACTIVATE_SECONDARY_EXIT_CONTROLS, Control::PREMATURELY_BUSY_SHADOW_STACK),
        ] {
            let mut vmcs = Vmcs::new();
            vmcs.set(activated.vector().field(), activated.mask());
            assert!(!Controls::of(&vmcs).has(activated), "{activator:?}");
            vmcs.set(activator.vector().field(), activator.mask());
            assert!(Controls::of(&vmcs).has(activated), "{activator:?}");
        }
    }

    #[test]
    fn deactivation_reaches_vectors_behind_vectors() {
        let mut vmcs = Vmcs::new();
        for vector in ControlVector::ALL {
            vmcs.set(vector.field(), u64::MAX);
        }
        vmcs.update(Field::PRIMARY_PROC_BASED_CONTROLS, |bits| bits & !Control::ACTIVATE_SECONDARY_CONTROLS.mask());
        // "enable VM functions" is a secondary control.
        assert!(!Controls::of(&vmcs).has(Control::EPTP_SWITCHING));
    }
}
