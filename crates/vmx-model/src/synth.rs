//! How do I test my exit handler? VM exits as a processor makes them, without a guest.
//!
//! Each function gives an [`Exit`] whose parts agree: reason, qualification, addresses, interruption information, instruction length and
//! information. [`Exit::record`] writes it into a VMCS; what the handler reads beside it (RIP, general-purpose registers) the test sets itself.
//! An [`Exit`] also goes to [`leave`](crate::exit::leave), which saves the guest and loads the host.
//!
//! ```
//! use vmx_model::synth::{self, CrAccess};
//! use vmx_model::{Field, Vmcs};
//! use x86_state::Gpr;
//!
//! // The handler under test: it advances RIP over MOV to CR3 and tells which register held the new value.
//! fn handle(vmcs: &mut Vmcs) -> Option<u64> {
//!     let qualification = vmcs.get(Field::EXIT_QUALIFICATION);
//!     if vmcs.get(Field::EXIT_REASON) != 28 || qualification & 0x3f != 3 {
//!         return None;
//!     }
//!     vmcs.update(Field::GUEST_RIP, |rip| rip + 3);
//!     Some(qualification >> 8 & 0xf)
//! }
//!
//! let mut vmcs = Vmcs::new();
//! vmcs.set(Field::GUEST_RIP, 0x1000);
//! synth::cr_access(CrAccess::MovTo { cr: 3, gpr: Gpr::R9 }, 4).record(&mut vmcs); // REX.R makes it one byte longer
//! assert_eq!(handle(&mut vmcs), Some(9));
//! let next = 0x1000 + vmcs.get(Field::VM_EXIT_INSTRUCTION_LENGTH);
//! assert_ne!(vmcs.get(Field::GUEST_RIP), next, "found: the handler takes every MOV to CR3 for 3 bytes long");
//! ```
//!
//! What the manual leaves undefined is 0. SMM VM exits (reasons 5 and 6) are not here; VM-entry failures are
//! [`EntryFailure`](crate::exit::record::EntryFailure).
//!
//! Source: SDM 3C (rev 077) 27.2, Recording VM-Exit Information and Updating VM-Entry Control Fields, Tables 27-1 to 27-15.

mod operand;

pub use operand::{DescriptorTableAccess, Invalidation, MemoryInstruction, SelectorAccess};
pub use operand::{descriptor_table, field_read, field_write, invalidation, memory, selector};

use crate::exit::Exit;
use crate::information::{self, ControlRegisterAccess, IoAccess, TaskSwitchSource};
use crate::reasons::ExitReason;
use x86_state::{Event, EventType, Exception, Gpa, Gpr, Gva, SegmentRegister, Size};

macro_rules! plain {
    ($($name:ident $reason:ident $len_bytes:literal $mnemonic:literal;)*) => {
        $(#[doc = concat!($mnemonic, ", in its usual encoding of ", stringify!($len_bytes), " bytes; nothing else is recorded.")]
        #[must_use]
        pub const fn $name() -> Exit {
            Exit::instruction(ExitReason::$reason, $len_bytes)
        })*
    };
}

plain! {
    cpuid CPUID 2 "CPUID";
    getsec GETSEC 2 "GETSEC";
    hlt HLT 1 "HLT";
    invd INVD 2 "INVD";
    rdpmc RDPMC 2 "RDPMC";
    rdtsc RDTSC 2 "RDTSC";
    rdtscp RDTSCP 3 "RDTSCP";
    rsm RSM 2 "RSM";
    rdmsr RDMSR 2 "RDMSR";
    wrmsr WRMSR 2 "WRMSR";
    vmcall VMCALL 3 "VMCALL";
    vmlaunch VMLAUNCH 3 "VMLAUNCH";
    vmresume VMRESUME 3 "VMRESUME";
    vmxoff VMXOFF 3 "VMXOFF";
    vmfunc VMFUNC 3 "VMFUNC";
    monitor MONITOR 3 "MONITOR";
    pause PAUSE 2 "PAUSE";
    wbinvd WBINVD_OR_WBNOINVD 2 "WBINVD";
    xsetbv XSETBV 3 "XSETBV";
    encls ENCLS 3 "ENCLS";
    pconfig PCONFIG 3 "PCONFIG";
    enclv ENCLV 3 "ENCLV";
    seamcall SEAMCALL 4 "SEAMCALL";
    tdcall TDCALL 4 "TDCALL";
}

/// WBNOINVD: bit 0 of the qualification tells it from WBINVD.
#[must_use]
pub const fn wbnoinvd() -> Exit {
    Exit::instruction(ExitReason::WBINVD_OR_WBNOINVD, 3).qualified(1)
}

/// WRMSRNS: the qualification tells it from WRMSR (later than revision 077).
#[must_use]
pub const fn wrmsrns() -> Exit {
    Exit::instruction(ExitReason::WRMSR, 3).qualified(1)
}

/// MWAIT, with the monitor armed or not.
#[must_use]
pub const fn mwait(armed: bool) -> Exit {
    Exit::instruction(ExitReason::MWAIT, 3).qualified(armed as u64)
}

/// INVLPG of a linear address.
#[must_use]
pub const fn invlpg(linear: Gva, len_bytes: u8) -> Exit {
    Exit::instruction(ExitReason::INVLPG, len_bytes).qualified(linear.0)
}

/// An exception that exits directly. Page faults and debug exceptions have a qualification: [`page_fault`], [`debug_exception`].
#[must_use]
pub fn exception(exception: Exception, error_code: Option<u32>) -> Exit {
    event(Event { error_code, ..Event::exception(exception) })
}

/// An event that exits directly, with reason 0.
#[must_use]
pub fn event(event: Event) -> Exit {
    Exit::caused(ExitReason::EXCEPTION_OR_NMI, Some(event), None)
}

/// #PF at a linear address.
#[must_use]
pub fn page_fault(linear: Gva, error_code: u32) -> Exit {
    exception(Exception::PF, Some(error_code)).qualified(linear.0)
}

/// #DB with these causes, in the format of Table 27-1: bits 3:0 breakpoints, 13 BD, 14 BS, 16 RTM.
///
/// It is trap-like; set [`Exit::resume_flag`] to [`Set`](crate::exit::ResumeFlag::Set) for general detection (BD).
#[must_use]
pub fn debug_exception(causes: u64) -> Exit {
    exception(Exception::DB, None).qualified(causes)
}

/// An NMI.
#[must_use]
pub fn nmi() -> Exit {
    event(Event::nmi())
}

const fn software(kind: EventType, exception: Exception, len_bytes: u8) -> Event {
    Event { kind, instruction_len_bytes: len_bytes, ..Event::exception(exception) }
}

/// INT3 (#BP), of one byte without prefixes.
#[must_use]
pub fn int3(len_bytes: u8) -> Exit {
    event(software(EventType::SOFTWARE_EXCEPTION, Exception::BP, len_bytes))
}

/// INTO (#OF), of one byte without prefixes.
#[must_use]
pub fn into(len_bytes: u8) -> Exit {
    event(software(EventType::SOFTWARE_EXCEPTION, Exception::OF, len_bytes))
}

/// INT1 (#DB), of one byte without prefixes. Of its causes nothing is reported: the qualification is 0.
#[must_use]
pub fn int1(len_bytes: u8) -> Exit {
    event(software(EventType::PRIVILEGED_SOFTWARE_EXCEPTION, Exception::DB, len_bytes))
}

/// An external interrupt: with its vector if "acknowledge interrupt on exit" is 1, else without.
#[must_use]
pub fn external_interrupt(acknowledged: Option<u8>) -> Exit {
    Exit::caused(ExitReason::EXTERNAL_INTERRUPT, acknowledged.map(Event::external_interrupt), None)
}

macro_rules! bare {
    ($($name:ident $reason:ident $doc:literal;)*) => {
        $(#[doc = $doc]
        #[must_use]
        pub const fn $name() -> Exit {
            Exit::new(ExitReason::$reason)
        })*
    };
}

bare! {
    triple_fault TRIPLE_FAULT "A triple fault.";
    init INIT_SIGNAL "An INIT signal.";
    interrupt_window INTERRUPT_WINDOW "An interrupt window.";
    nmi_window NMI_WINDOW "An NMI window.";
    monitor_trap_flag MONITOR_TRAP_FLAG "The monitor trap flag.";
    tpr_below_threshold TPR_BELOW_THRESHOLD "VTPR fell below the TPR threshold.";
    preemption_timer PREEMPTION_TIMER_EXPIRED "The VMX-preemption timer expired.";
    bus_lock BUS_LOCK_ASSERTION "A bus lock, with bit 26 of the reason clear: set it in a VMCS that has the control.";
}

/// A start-up IPI.
#[must_use]
pub const fn sipi(vector: u8) -> Exit {
    Exit::new(ExitReason::SIPI).qualified(vector as u64)
}

/// EOI virtualization dismissed this vector.
#[must_use]
pub const fn virtualized_eoi(vector: u8) -> Exit {
    Exit::new(ExitReason::VIRTUALIZED_EOI).qualified(vector as u64)
}

/// A write to this offset of the virtual-APIC page; bits `[11:0]` count.
#[must_use]
pub const fn apic_write(offset: u16) -> Exit {
    Exit::new(ExitReason::APIC_WRITE).qualified((offset & 0xfff) as u64)
}

/// The source of a task switch (Table 27-2).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum TaskSwitch {
    /// CALL.
    Call {
        /// The instruction's length.
        len_bytes: u8,
    },
    /// IRET.
    Iret {
        /// The instruction's length.
        len_bytes: u8,
    },
    /// JMP.
    Jmp {
        /// The instruction's length.
        len_bytes: u8,
    },
    /// A task gate in the IDT, during the delivery of this event.
    Gate {
        /// The event.
        delivering: Event,
    },
}

/// A task switch to the TSS of a selector.
#[must_use]
pub fn task_switch(selector: u16, source: TaskSwitch) -> Exit {
    let (source, len_bytes, delivering) = match source {
        TaskSwitch::Call { len_bytes } => (TaskSwitchSource::Call, Some(len_bytes), None),
        TaskSwitch::Iret { len_bytes } => (TaskSwitchSource::Iret, Some(len_bytes), None),
        TaskSwitch::Jmp { len_bytes } => (TaskSwitchSource::Jmp, Some(len_bytes), None),
        TaskSwitch::Gate { delivering } => (TaskSwitchSource::IdtGate, None, Some(delivering)),
    };
    let mut exit = Exit::caused(ExitReason::TASK_SWITCH, None, delivering);
    exit.instruction_len_bytes = len_bytes;
    exit.qualified(information::task_switch(selector, source))
}

/// An access to a control register (Table 27-3).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum CrAccess {
    /// MOV to CR0, CR3, CR4 or CR8.
    MovTo {
        /// The control register's number.
        cr: u8,
        /// The source.
        gpr: Gpr,
    },
    /// MOV from CR3 or CR8.
    MovFrom {
        /// The control register's number.
        cr: u8,
        /// The destination.
        gpr: Gpr,
    },
    /// CLTS.
    Clts,
    /// LMSW.
    Lmsw {
        /// The source operand's value.
        source: u16,
        /// The linear address of a memory operand; `None` for a register.
        memory: Option<Gva>,
    },
}

/// An access to a control register, by an instruction of that length.
#[must_use]
pub const fn cr_access(access: CrAccess, len_bytes: u8) -> Exit {
    let exit = Exit::instruction(ExitReason::CONTROL_REGISTER_ACCESS, len_bytes);
    match access {
        CrAccess::MovTo { cr, gpr } => {
            exit.qualified(information::control_register(cr, ControlRegisterAccess::To, gpr))
        }
        CrAccess::MovFrom { cr, gpr } => {
            exit.qualified(information::control_register(cr, ControlRegisterAccess::From, gpr))
        }
        CrAccess::Clts => exit.qualified(information::control_register(0, ControlRegisterAccess::Clts, Gpr::Rax)),
        CrAccess::Lmsw { source, memory } => {
            let mut exit = exit.qualified(information::lmsw(source, memory.is_some()));
            exit.linear = memory;
            exit
        }
    }
}

/// MOV to a debug register (`write`) or from it (Table 27-4).
#[must_use]
pub const fn mov_dr(dr: u8, write: bool, gpr: Gpr, len_bytes: u8) -> Exit {
    Exit::instruction(ExitReason::MOV_DR, len_bytes).qualified(information::debug_register(dr, !write, gpr))
}

/// IN, OUT, INS or OUTS (Table 27-5).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Io {
    /// The port.
    pub port: u16,
    /// 1, 2 or 4.
    pub size_bytes: u8,
    /// IN or INS, not OUT or OUTS.
    pub input: bool,
    /// The port is an immediate byte, not DX.
    pub immediate: bool,
    /// INS or OUTS.
    pub string: Option<StringIo>,
}

/// What INS and OUTS have beside the port (Table 27-8).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct StringIo {
    /// With a REP prefix.
    pub repeated: bool,
    /// The address size.
    pub address_size: Size,
    /// The segment of OUTS; INS leaves it undefined.
    pub segment: SegmentRegister,
    /// The linear address of the memory operand; `None` if the segment is unusable.
    pub linear: Option<Gva>,
}

/// An I/O instruction of that length.
#[must_use]
pub fn io(io: Io, len_bytes: u8) -> Exit {
    let access = IoAccess {
        port: io.port,
        size_bytes: io.size_bytes,
        input: io.input,
        string: io.string.is_some(),
        repeated: io.string.is_some_and(|string| string.repeated),
        immediate: io.immediate,
    };
    let mut exit = Exit::instruction(ExitReason::IO_INSTRUCTION, len_bytes).qualified(access.qualification());
    if let Some(string) = io.string {
        exit.linear = string.linear;
        let segment = (!io.input).then_some(string.segment);
        exit.instruction_information = Some(information::string_io(string.address_size, segment));
    }
    exit
}

/// RDRAND or RDSEED into a register of that size (Table 27-12).
#[must_use]
pub const fn random(seed: bool, gpr: Gpr, size: Size, len_bytes: u8) -> Exit {
    let reason = if seed { ExitReason::RDSEED } else { ExitReason::RDRAND };
    register(Exit::instruction(reason, len_bytes), gpr, size)
}

/// UMWAIT of a register (Table 27-12).
#[must_use]
pub const fn umwait(gpr: Gpr, len_bytes: u8) -> Exit {
    register(Exit::instruction(ExitReason::UMWAIT, len_bytes), gpr, Size::Bits32)
}

/// TPAUSE of a register (Table 27-12).
#[must_use]
pub const fn tpause(gpr: Gpr, len_bytes: u8) -> Exit {
    register(Exit::instruction(ExitReason::TPAUSE, len_bytes), gpr, Size::Bits32)
}

const fn register(mut exit: Exit, gpr: Gpr, size: Size) -> Exit {
    exit.instruction_information = Some(information::register_operand(gpr, size));
    exit
}

/// LOADIWKEY of two XMM registers, 0 to 15 (Table 27-15).
#[must_use]
pub const fn loadiwkey(first: u8, second: u8, len_bytes: u8) -> Exit {
    let mut exit = Exit::instruction(ExitReason::LOADIWKEY, len_bytes);
    exit.instruction_information = Some(information::key_locker(first, second));
    exit
}

/// How the APIC-access page was accessed (Table 27-6).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ApicAccess {
    /// Linear, for a data read of an instruction, at this offset.
    Read(u16),
    /// Linear, for a data write of an instruction, at this offset.
    Write(u16),
    /// Linear, for an instruction fetch, at this offset.
    Fetch(u16),
    /// Linear, at this offset, during the delivery of this event.
    Delivery(u16, Event),
    /// Guest-physical, during the delivery of this event.
    PhysicalDelivery(Event),
    /// Guest-physical, for monitoring or trace: asynchronous to instruction execution.
    PhysicalMonitoring,
    /// Guest-physical, for an instruction.
    Physical,
}

/// An access to the APIC-access page.
#[must_use]
pub fn apic_access(access: ApicAccess) -> Exit {
    let (kind, offset, delivering) = match access {
        ApicAccess::Read(offset) => (0, offset, None),
        ApicAccess::Write(offset) => (1, offset, None),
        ApicAccess::Fetch(offset) => (2, offset, None),
        ApicAccess::Delivery(offset, event) => (3, offset, Some(event)),
        ApicAccess::PhysicalDelivery(event) => (10, 0, Some(event)),
        // Bit 16 beside the access type.
        ApicAccess::PhysicalMonitoring => (0x1b, 0, None),
        ApicAccess::Physical => (15, 0, None),
    };
    let qualification = (kind & 0xf) << 12 | (kind >> 4) << 16 | u64::from(offset & 0xfff);
    Exit::caused(ExitReason::APIC_ACCESS, None, delivering).qualified(qualification)
}

/// What the exit qualification of an EPT violation tells (Table 27-7). All `false` is a violation of nothing, for struct update.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Default)]
pub struct EptViolation {
    /// The access was a data read.
    pub read: bool,
    /// The access was a data write.
    pub write: bool,
    /// The access was an instruction fetch.
    pub fetch: bool,
    /// EPT allows reads.
    pub readable: bool,
    /// EPT allows writes.
    pub writable: bool,
    /// EPT allows fetches; with mode-based execute control, from supervisor-mode linear addresses.
    pub executable: bool,
    /// With mode-based execute control: EPT allows fetches from user-mode linear addresses.
    pub user_executable: bool,
    /// The linear address, where there is one.
    pub linear: Option<Gva>,
    /// The access was to the translation of the linear address; if not, to a paging-structure entry on the way.
    pub to_translation: bool,
    /// The access was one to a shadow stack.
    pub shadow_stack: bool,
    /// The event that was being delivered.
    pub delivering: Option<Event>,
}

/// An EPT violation at a guest-physical address. Advanced information (bits 9 to 11) is not given: it is 0.
#[must_use]
pub fn ept_violation(physical: Gpa, violation: EptViolation) -> Exit {
    let mut qualification = 0;
    for (bit, is_set) in [
        (0, violation.read),
        (1, violation.write),
        (2, violation.fetch),
        (3, violation.readable),
        (4, violation.writable),
        (5, violation.executable),
        (6, violation.user_executable),
        (7, violation.linear.is_some()),
        (8, violation.linear.is_some() && violation.to_translation),
        (13, violation.shadow_stack),
    ] {
        qualification |= u64::from(is_set) << bit;
    }
    let mut exit = Exit::caused(ExitReason::EPT_VIOLATION, None, violation.delivering).qualified(qualification);
    exit.linear = violation.linear;
    exit.physical = Some(physical);
    exit
}

/// An EPT misconfiguration met at a guest-physical address.
#[must_use]
pub fn ept_misconfiguration(physical: Gpa, delivering: Option<Event>) -> Exit {
    let mut exit = Exit::caused(ExitReason::EPT_MISCONFIGURATION, None, delivering);
    exit.physical = Some(physical);
    exit
}

/// The page-modification log is full.
#[must_use]
pub fn page_modification_log_full(delivering: Option<Event>) -> Exit {
    Exit::caused(ExitReason::PAGE_MODIFICATION_LOG_FULL, None, delivering)
}

/// An SPP miss or an SPP misconfiguration at a guest-physical address.
#[must_use]
pub fn spp_related_event(miss: bool, physical: Gpa, linear: Gva, delivering: Option<Event>) -> Exit {
    let mut exit = Exit::caused(ExitReason::SPP_RELATED_EVENT, None, delivering).qualified(u64::from(miss) << 11);
    exit.linear = Some(linear);
    exit.physical = Some(physical);
    exit
}
