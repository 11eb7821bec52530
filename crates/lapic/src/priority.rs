//! What may interrupt what? Priority arithmetic on plain numbers, for the local APIC and for any register image of one.
//!
//! Source: SDM 3A 10.8.3 (rev 077), Interrupt, Task, and Processor Priority. APIC virtualization computes the same
//! (SDM 3C 29.1.3, PPR Virtualization, with SVI for ISRV; 29.2.1, Evaluation of Pending Virtual Interrupts, with RVI).

use crate::vectors::VectorSet;

/// The first vector that a local APIC delivers; 0 to 15 are illegal (10.5.2, Valid Interrupt Vectors).
pub const FIRST_LEGAL_VECTOR: u8 = 16;

/// The priority class of a vector or of a priority register: bits `[7:4]`.
#[must_use]
pub const fn class(vector: u8) -> u8 {
    vector >> 4
}

/// The processor priority, by the task priority and the highest vector in service (0 if there is none).
///
/// 10.8.3.1, Task and Processor Priorities. Where the classes are equal, the manual lets bits `[3:0]` be those of the TPR or 0;
/// here they are those of the TPR, as SDM 3C 29.1.3 has it for VPPR and APM 2 16.6.4 for AMD processors.
#[must_use]
pub const fn ppr(tpr: u8, isrv: u8) -> u8 {
    if class(tpr) >= class(isrv) { tpr } else { isrv & 0xf0 }
}

/// The arbitration priority: the lowest one gets a lowest-priority interrupt.
///
/// The class is the highest of the three. SDM 3A 10.6.2.4, Lowest Priority Delivery Mode, has
/// `max(TPR[7:4] AND ISRV[7:4], IRRV[7:4])`, which read as a bit-wise AND would rank a processor that serves class 5 under
/// task priority 3 as class 1; APM 2 16.6.2, Lowest Priority Messages and Arbitration, says the highest of the three, and
/// that is taken. The sub-class is the manual's: that of the TPR where the TPR alone decides, else 0.
#[must_use]
pub const fn apr(tpr: u8, irrv: u8, isrv: u8) -> u8 {
    if class(tpr) >= class(irrv) && class(tpr) > class(isrv) {
        return tpr;
    }
    let served = if class(tpr) > class(isrv) { tpr } else { isrv };
    (if class(irrv) > class(served) { irrv } else { served }) & 0xf0
}

/// May a requested vector interrupt a processor of this priority? Only if its class is higher.
#[must_use]
pub const fn interrupts(vector: u8, ppr: u8) -> bool {
    class(vector) > class(ppr)
}

/// The vector that is to be delivered next: the highest request, if it may interrupt.
#[must_use]
pub const fn deliverable(requests: &VectorSet, ppr: u8) -> Option<u8> {
    match requests.highest() {
        Some(vector) if interrupts(vector, ppr) => Some(vector),
        _ => None,
    }
}

/// CR8 by the task priority register (10.8.6.1, Interaction of Task Priorities between CR8 and APIC).
#[must_use]
pub const fn cr8_of_tpr(tpr: u8) -> u64 {
    class(tpr) as u64
}

/// The task priority register that a write of CR8 makes; bits `[63:4]` of CR8, which must be 0, do not count.
#[must_use]
pub const fn tpr_of_cr8(cr8: u64) -> u8 {
    (cr8 as u8 & 0xf) << 4
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn processor_priority_by_task_priority_and_vector_in_service() {
        for (tpr, isrv, expected) in [
            (0x00, 0x00, 0x00),
            (0x35, 0x00, 0x35), // the TPR's class is higher: its sub-class counts
            (0x35, 0x29, 0x35),
            (0x35, 0x3f, 0x35), // equal classes: model-specific, the TPR's sub-class here
            (0x30, 0x3f, 0x30),
            (0x35, 0x41, 0x40), // the vector's class is higher: sub-class 0
            (0x0f, 0x10, 0x10),
            (0xff, 0xff, 0xff),
        ] {
            assert_eq!(ppr(tpr, isrv), expected, "TPR {tpr:#x}, ISRV {isrv:#x}");
        }
    }

    #[test]
    fn arbitration_priority_by_task_request_and_service() {
        for (tpr, irrv, isrv, expected) in [
            (0x00, 0x00, 0x00, 0x00),
            (0x35, 0x00, 0x00, 0x35),
            (0x35, 0x3f, 0x00, 0x35), // not lower than the request, higher than the service
            (0x35, 0x41, 0x00, 0x40),
            (0x35, 0x00, 0x31, 0x30), // not higher than the service: sub-class 0
            (0x35, 0x20, 0x51, 0x50), // the service is the highest, whatever bits it shares with the TPR
            (0x35, 0x61, 0x51, 0x60),
        ] {
            assert_eq!(apr(tpr, irrv, isrv), expected, "TPR {tpr:#x}, IRRV {irrv:#x}, ISRV {isrv:#x}");
        }
    }

    #[test]
    fn only_a_higher_class_interrupts() {
        for (vector, ppr, expected) in [
            (0x10, 0x00, true),
            (0x0f, 0x00, false),
            (0x31, 0x2f, true),
            (0x3f, 0x30, false), // the sub-class does not count
            (0xff, 0xf0, false), // class 15 inhibits everything
            (0xf0, 0xef, true),
        ] {
            assert_eq!(interrupts(vector, ppr), expected, "{vector:#x} over {ppr:#x}");
            let mut requests = VectorSet::EMPTY;
            requests.insert(vector);
            assert_eq!(deliverable(&requests, ppr), expected.then_some(vector));
        }
        assert_eq!(deliverable(&VectorSet::EMPTY, 0), None);
    }

    #[test]
    fn cr8_is_the_class_of_the_tpr() {
        for (tpr, cr8) in [(0x00, 0), (0x35, 3), (0xff, 15)] {
            assert_eq!(cr8_of_tpr(tpr), cr8);
            assert_eq!(tpr_of_cr8(cr8), tpr & 0xf0, "a write of CR8 clears the sub-class");
        }
    }
}
