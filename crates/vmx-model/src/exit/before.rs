//! What has an event done to the processor by the time a VM exit begins?
//!
//! An event that exits *directly* (the exception bitmap, "NMI exiting", ...) has done nothing. One that exits *indirectly*, because its
//! delivery met another cause, has done part of its work: [`begin_delivery`]. IRET unblocks NMIs even if it faults or exits: [`begin_iret`].
//!
//! Source: SDM 3C (rev 077) 27.1, Architectural State Before a VM Exit; 25.3, Changes to Instruction Behavior in VMX Non-Root Operation
//! (IRET); SDM 3B 17.2.3, Debug Status Register (DR6); 17.4.2 and 17.4.3.
//!
//! Not modelled: last-branch and last-exception records; special bus cycles.

use crate::control::Control;
use crate::vmx::Vmx;
use x86_state::{
    ActivityState, Cpu, DebugCtl, Dr6, Dr7, Event, EventType, Exception, Gva, Interruptibility, PendingDebug,
};

/// What an event does to the processor's state, and whether it has done so when a VM exit begins.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Update {
    /// The event.
    pub event: &'static str,
    /// What it does.
    pub does: &'static str,
    /// Is it done if the event exits directly?
    pub directly: bool,
    /// Is it done if the event exits indirectly?
    pub indirectly: bool,
    /// Who does it: a function of softvirt, or whoever owns the state.
    pub by: &'static str,
}

/// The updates of 27.1, in the manual's order.
pub const UPDATES: &[Update] = &[
    Update {
        event: "debug exception",
        does: "updates DR6, DR7 and IA32_DEBUGCTL; no debug exceptions stay pending",
        directly: false,
        indirectly: true,
        by: "begin_delivery",
    },
    Update { event: "page fault", does: "updates CR2", directly: false, indirectly: true, by: "begin_delivery" },
    Update {
        event: "NMI",
        does: "blocks NMIs before the VM exit (directly: once it is complete)",
        directly: false,
        indirectly: true,
        by: "begin_delivery; directly: leave",
    },
    Update {
        event: "injected NMI, \"virtual NMIs\" 1",
        does: "sets virtual-NMI blocking",
        directly: false,
        indirectly: true,
        by: "begin_delivery",
    },
    Update {
        event: "external interrupt",
        does: "is acknowledged and no longer pending (directly: if \"acknowledge interrupt on exit\" is 1)",
        directly: false,
        indirectly: true,
        by: "the interrupt controller",
    },
    Update {
        event: "task switch",
        does: "clears L0 to L3 of DR7; changes TSSs, their descriptors, RFLAGS.NT and TR",
        directly: false,
        indirectly: false,
        by: "nobody: a task switch exits before it",
    },
    Update {
        event: "machine check",
        does: "updates the machine-check MSRs",
        directly: true,
        indirectly: true,
        by: "the machine-check event",
    },
    Update {
        event: "any, in an inactive state",
        does: "makes the processor active (MWAIT: directly too)",
        directly: false,
        indirectly: true,
        by: "begin_delivery",
    },
    Update {
        event: "any",
        does: "ends blocking by STI and by MOV SS",
        directly: false,
        indirectly: true,
        by: "begin_delivery",
    },
    Update {
        event: "#MF, and what was unblocked by it and given priority: INIT, SMI, NMI, external interrupt, machine check",
        does: "ends blocking by STI and by MOV SS",
        directly: true,
        indirectly: true,
        by: "end_shadows",
    },
    Update {
        event: "any",
        does: "changes CS, RIP, SS, RSP and RFLAGS",
        directly: false,
        indirectly: false,
        by: "nobody: only memory (the stack) may have changed",
    },
];

/// Does what an event does at the beginning of its delivery, before anything can go wrong with it.
///
/// `data` is what the exit qualification would tell of the event: of #DB its causes (Table 27-1), of #PF the linear address; else it is not
/// looked at. `injected` says that the event comes from VM entry.
///
/// An NMI blocks NMIs; with "virtual NMIs" only an injected one arrives here, and it sets virtual-NMI blocking. Without, an injected one leaves
/// the blocking as VM entry has loaded it: 26.7.1 has it by bit 3 of the interruptibility state alone, and the FRED specification, 9.5.4,
/// "not changed". (26.6.1.2 could be read to block NMIs at an exit from the delivery, as after an NMI of the guest's own.)
pub fn begin_delivery(vmx: &mut Vmx, cpu: &mut Cpu, event: &Event, data: u64, injected: bool) {
    cpu.activity = ActivityState::ACTIVE;
    end_shadows(cpu);
    let exception = Exception(event.vector);
    let debug = event.kind == EventType::PRIVILEGED_SOFTWARE_EXCEPTION
        || event.kind == EventType::HARDWARE_EXCEPTION && exception == Exception::DB;
    if debug {
        // Injection modifies none of these registers (26.6.1.1), and what becomes of pending ones then is VM entry's affair (26.7.3).
        if !injected {
            debug_exception(cpu, data);
            cpu.pending_debug = PendingDebug::empty();
        }
    } else if event.kind == EventType::HARDWARE_EXCEPTION && exception == Exception::PF && !injected {
        cpu.cr2 = Gva(data);
    } else if event.kind == EventType::NMI {
        if vmx.guest.controls.has(Control::VIRTUAL_NMIS) {
            vmx.guest.virtual_nmi_blocking = true;
        } else if !injected {
            cpu.interruptibility.insert(Interruptibility::NMI);
        }
    }
}

/// DR6, DR7 and IA32_DEBUGCTL after a debug exception with these causes.
fn debug_exception(cpu: &mut Cpu, causes: u64) {
    let reported = Dr6::from_bits_retain(causes);
    cpu.dr6.remove(Dr6::B);
    cpu.dr6.insert(reported.intersection(Dr6::B | Dr6::BD | Dr6::BS | Dr6::BT));
    // The exit qualification has these two inverted: DR6 clears them to report.
    cpu.dr6.set(Dr6::RTM, !reported.contains(Dr6::RTM));
    if reported.contains(Dr6::BUS_LOCK) {
        cpu.dr6.remove(Dr6::BUS_LOCK);
    }
    cpu.dr7.remove(Dr7::GD);
    cpu.debugctl.remove(DebugCtl::LBR | DebugCtl::BTF);
}

/// Ends blocking by STI and by MOV SS.
pub fn end_shadows(cpu: &mut Cpu) {
    cpu.interruptibility.remove(Interruptibility::STI | Interruptibility::MOV_SS);
}

/// Does what IRET does about NMIs before anything can go wrong with it, and answers whether that unblocked them: the value of
/// [`Exit::nmi_unblocking`](crate::Exit::nmi_unblocking) for a fault or exit that a memory access of this IRET causes.
pub fn begin_iret(vmx: &mut Vmx, cpu: &mut Cpu) -> bool {
    let controls = &vmx.guest.controls;
    if controls.has(Control::VIRTUAL_NMIS) {
        return core::mem::take(&mut vmx.guest.virtual_nmi_blocking);
    }
    if vmx.in_guest() && controls.has(Control::NMI_EXITING) {
        return false;
    }
    let blocked = cpu.interruptibility.contains(Interruptibility::NMI);
    cpu.interruptibility.remove(Interruptibility::NMI);
    blocked
}
