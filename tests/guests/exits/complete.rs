//! Is every exit reason raised by some case, or listed here with why it cannot be?

use softvirt::vmx_model::reasons::{ExitReason as R, Status};

const DUAL_MONITOR: &str =
    "an SMM VM exit: only under the dual-monitor treatment of SMIs and SMM, which is not modelled";
const CONCEALED: &str = "the instruction is not modelled: CPUID conceals it, it is #UD";
const NAMED: &str = "the sources have the name only, or differ; not modelled";

/// Reasons that no case raises, and why.
const NOT_RAISED: &[(R, &str)] = &[
    (R::IO_SMI, DUAL_MONITOR),
    (R::OTHER_SMI, DUAL_MONITOR),
    (
        R::RSM,
        "outside SMM, RSM is #UD; inside, a guest runs only under the dual-monitor treatment, which is not modelled",
    ),
    (R::ENTRY_FAILURE_MACHINE_CHECK, "the machine has no machine-check events"),
    (R::APIC_ACCESS, "x86-emu does not look for the APIC-access page yet"),
    (R::GETSEC, "#UD comes first: SMX is not modelled, so CR4.SMXE cannot be 1"),
    (R::ENCLS, CONCEALED),
    (R::ENCLV, CONCEALED),
    (R::PCONFIG, CONCEALED),
    (R::LOADIWKEY, CONCEALED),
    (R::ENQCMD_PASID_TRANSLATION_FAILURE, NAMED),
    (R::ENQCMDS_PASID_TRANSLATION_FAILURE, NAMED),
    (R::BUS_LOCK_ASSERTION, "x86-emu has no buses to lock"),
    (R::INSTRUCTION_TIMEOUT, "no instruction of x86-emu takes long without a boundary"),
    (R::SEAMCALL, CONCEALED),
    (R::TDCALL, CONCEALED),
    (R::RDMSRLIST, CONCEALED),
    (R::WRMSRLIST, CONCEALED),
    (R::URDMSR, CONCEALED),
    (R::UWRMSR, CONCEALED),
    (R::RDMSR_IMMEDIATE, NAMED),
    (R::WRMSRNS_IMMEDIATE, NAMED),
];

fn raised() -> Vec<u16> {
    let cases = [
        super::apic::all(),
        super::entries::all(),
        super::events::all(),
        super::faults::all(),
        super::instructions::all(),
        super::io_and_msrs::all(),
        super::memory::all(),
        super::modes::all(),
        super::registers::all(),
        super::vmx::all(),
    ];
    cases.iter().flatten().flat_map(|case| case.reasons()).collect()
}

#[test]
fn every_reason_is_raised_or_told_why_not() {
    let raised = raised();
    for row in R::TABLE {
        let not = NOT_RAISED.iter().filter(|(reason, _)| reason.basic() == row.number).count();
        let reserved = usize::from(row.status == Status::Reserved);
        let ways = usize::from(raised.contains(&row.number)) + not + reserved;
        assert_eq!(ways, 1, "{} {}", row.number, row.name);
    }
}
