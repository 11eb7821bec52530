//! Which control bits steer a VM entry, non-root operation and a VM exit? One row for each bit of each control vector.
//!
//! Source: SDM 3C (rev 077) 24.6.1, 24.6.2, 24.6.14, 24.7.1, 24.8.1, Tables 24-5 to 24-8, 24-10, 24-13 and 24-15. Bits that the
//! revision does not define yet are marked `later`: public kernel headers and emulators agree on their place.

use crate::fields::Field;
use core::fmt;
use x86_state::profile::AllowedSettings;
use x86_state::{CpuProfile, VmxMsr};

/// A vector of control bits, one VMCS field each.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
#[repr(u8)]
pub enum ControlVector {
    /// Pin-based VM-execution controls.
    Pin,
    /// Primary processor-based VM-execution controls.
    Proc,
    /// Secondary processor-based VM-execution controls.
    Proc2,
    /// Tertiary processor-based VM-execution controls (64 bits).
    Proc3,
    /// Primary VM-exit controls.
    Exit,
    /// Secondary VM-exit controls (64 bits).
    Exit2,
    /// VM-entry controls.
    Entry,
    /// VM-function controls (64 bits).
    VmFunction,
}

impl ControlVector {
    /// All vectors.
    pub const ALL: [Self; 8] =
        [Self::Pin, Self::Proc, Self::Proc2, Self::Proc3, Self::Exit, Self::Exit2, Self::Entry, Self::VmFunction];

    /// The field that holds the vector.
    #[must_use]
    #[inline]
    pub const fn field(self) -> Field {
        match self {
            Self::Pin => Field::PIN_BASED_CONTROLS,
            Self::Proc => Field::PRIMARY_PROC_BASED_CONTROLS,
            Self::Proc2 => Field::SECONDARY_PROC_BASED_CONTROLS,
            Self::Proc3 => Field::TERTIARY_PROC_BASED_CONTROLS,
            Self::Exit => Field::VM_EXIT_CONTROLS,
            Self::Exit2 => Field::SECONDARY_VM_EXIT_CONTROLS,
            Self::Entry => Field::VM_ENTRY_CONTROLS,
            Self::VmFunction => Field::VM_FUNCTION_CONTROLS,
        }
    }

    /// The control that activates the vector; while it is 0 every bit of the vector counts as 0.
    #[must_use]
    #[inline]
    pub const fn activated_by(self) -> Option<Control> {
        match self {
            Self::Proc2 => Some(Control::ACTIVATE_SECONDARY_CONTROLS),
            Self::Proc3 => Some(Control::ACTIVATE_TERTIARY_CONTROLS),
            Self::Exit2 => Some(Control::ACTIVATE_SECONDARY_EXIT_CONTROLS),
            Self::VmFunction => Some(Control::ENABLE_VM_FUNCTIONS),
            Self::Pin | Self::Proc | Self::Exit | Self::Entry => None,
        }
    }

    /// The capability MSRs that report the vector's allowed settings.
    #[must_use]
    #[inline(always)]
    pub const fn capabilities(self) -> &'static [VmxMsr] {
        use VmxMsr::*;
        match self {
            Self::Pin => &[Basic, PinbasedCtls, TruePinbasedCtls],
            Self::Proc => &[Basic, ProcbasedCtls, TrueProcbasedCtls],
            Self::Proc2 => &[ProcbasedCtls2],
            Self::Proc3 => &[ProcbasedCtls3],
            Self::Exit => &[Basic, ExitCtls, TrueExitCtls],
            Self::Exit2 => &[ExitCtls2],
            Self::Entry => &[Basic, EntryCtls, TrueEntryCtls],
            Self::VmFunction => &[Vmfunc],
        }
    }

    /// The settings that a processor allows, if its capabilities are known.
    #[must_use]
    #[inline(always)]
    pub const fn allowed_settings(self, profile: &CpuProfile) -> Option<AllowedSettings> {
        match self {
            Self::Pin => profile.pin_settings(),
            Self::Proc => profile.proc_settings(),
            Self::Proc2 => profile.proc2_settings(),
            Self::Proc3 => profile.proc3_settings(),
            Self::Exit => profile.exit_settings(),
            Self::Exit2 => profile.exit2_settings(),
            Self::Entry => profile.entry_settings(),
            Self::VmFunction => profile.vmfunc_settings(),
        }
    }

    /// The kind of control, in the manual's words.
    #[must_use]
    pub const fn kind(self) -> &'static str {
        match self {
            Self::Pin | Self::Proc | Self::Proc2 | Self::Proc3 => "VM-execution control",
            Self::Exit | Self::Exit2 => "VM-exit control",
            Self::Entry => "VM-entry control",
            Self::VmFunction => "VM-function control",
        }
    }
}

/// A row of the control table.
#[derive(Clone, Copy, Debug)]
pub struct ControlRow {
    /// The vector.
    pub vector: ControlVector,
    /// The bit of the vector.
    pub bit: u8,
    /// The manual's name, such as "enable EPT".
    pub name: &'static str,
    /// Not in SDM revision 077 yet.
    pub later: bool,
    /// The name of its constant in [`Control`].
    pub constant: &'static str,
}

/// A control bit: an index into [`Control::TABLE`].
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Control(u8);

impl Control {
    /// Every control, vector by vector, in ascending order of bits.
    pub fn all() -> impl DoubleEndedIterator<Item = Control> + Clone {
        (0..Self::TABLE.len() as u8).map(Control)
    }

    /// The row.
    #[must_use]
    #[inline]
    pub const fn row(self) -> &'static ControlRow {
        &Self::TABLE[self.0 as usize]
    }

    /// The vector that holds the bit.
    #[must_use]
    #[inline]
    pub const fn vector(self) -> ControlVector {
        self.row().vector
    }

    /// The bit as a mask over its vector.
    #[must_use]
    #[inline]
    pub const fn mask(self) -> u64 {
        1 << self.row().bit
    }

    /// The manual's name.
    #[must_use]
    pub const fn name(self) -> &'static str {
        self.row().name
    }
}

impl fmt::Debug for Control {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "\u{201c}{}\u{201d} {}", self.name(), self.vector().kind())
    }
}

macro_rules! controls {
    (@later) => { false };
    (@later later) => { true };
    ($($vector:ident { $($bit:literal $name:ident = $text:literal $($later:ident)?;)* })*) => {
        #[allow(non_camel_case_types, clippy::upper_case_acronyms)]
        #[derive(Clone, Copy)]
        #[repr(u8)]
        enum Index { $($($name,)*)* }

        impl Control {
            $($(#[doc = concat!("\u{201c}", $text, "\u{201d}: bit ", stringify!($bit), " of [`ControlVector::", stringify!($vector), "`].")]
            pub const $name: Control = Control(Index::$name as u8);)*)*

            /// One row for each control bit.
            pub const TABLE: &'static [ControlRow] = &[$($(ControlRow {
                vector: ControlVector::$vector,
                bit: $bit,
                name: $text,
                later: controls!(@later $($later)?),
                constant: stringify!($name),
            },)*)*];
        }
    };
}

controls! {
    Pin {
        0 EXTERNAL_INTERRUPT_EXITING = "external-interrupt exiting";
        3 NMI_EXITING = "NMI exiting";
        5 VIRTUAL_NMIS = "virtual NMIs";
        6 ACTIVATE_PREEMPTION_TIMER = "activate VMX-preemption timer";
        7 PROCESS_POSTED_INTERRUPTS = "process posted interrupts";
    }
    Proc {
        2 INTERRUPT_WINDOW_EXITING = "interrupt-window exiting";
        3 USE_TSC_OFFSETTING = "use TSC offsetting";
        7 HLT_EXITING = "HLT exiting";
        9 INVLPG_EXITING = "INVLPG exiting";
        10 MWAIT_EXITING = "MWAIT exiting";
        11 RDPMC_EXITING = "RDPMC exiting";
        12 RDTSC_EXITING = "RDTSC exiting";
        15 CR3_LOAD_EXITING = "CR3-load exiting";
        16 CR3_STORE_EXITING = "CR3-store exiting";
        17 ACTIVATE_TERTIARY_CONTROLS = "activate tertiary controls";
        19 CR8_LOAD_EXITING = "CR8-load exiting";
        20 CR8_STORE_EXITING = "CR8-store exiting";
        21 USE_TPR_SHADOW = "use TPR shadow";
        22 NMI_WINDOW_EXITING = "NMI-window exiting";
        23 MOV_DR_EXITING = "MOV-DR exiting";
        24 UNCONDITIONAL_IO_EXITING = "unconditional I/O exiting";
        25 USE_IO_BITMAPS = "use I/O bitmaps";
        27 MONITOR_TRAP_FLAG = "monitor trap flag";
        28 USE_MSR_BITMAPS = "use MSR bitmaps";
        29 MONITOR_EXITING = "MONITOR exiting";
        30 PAUSE_EXITING = "PAUSE exiting";
        31 ACTIVATE_SECONDARY_CONTROLS = "activate secondary controls";
    }
    Proc2 {
        0 VIRTUALIZE_APIC_ACCESSES = "virtualize APIC accesses";
        1 ENABLE_EPT = "enable EPT";
        2 DESCRIPTOR_TABLE_EXITING = "descriptor-table exiting";
        3 ENABLE_RDTSCP = "enable RDTSCP";
        4 VIRTUALIZE_X2APIC_MODE = "virtualize x2APIC mode";
        5 ENABLE_VPID = "enable VPID";
        6 WBINVD_EXITING = "WBINVD exiting";
        7 UNRESTRICTED_GUEST = "unrestricted guest";
        8 APIC_REGISTER_VIRTUALIZATION = "APIC-register virtualization";
        9 VIRTUAL_INTERRUPT_DELIVERY = "virtual-interrupt delivery";
        10 PAUSE_LOOP_EXITING = "PAUSE-loop exiting";
        11 RDRAND_EXITING = "RDRAND exiting";
        12 ENABLE_INVPCID = "enable INVPCID";
        13 ENABLE_VM_FUNCTIONS = "enable VM functions";
        14 VMCS_SHADOWING = "VMCS shadowing";
        15 ENABLE_ENCLS_EXITING = "enable ENCLS exiting";
        16 RDSEED_EXITING = "RDSEED exiting";
        17 ENABLE_PML = "enable PML";
        18 EPT_VIOLATION_VE = "EPT-violation #VE";
        19 CONCEAL_VMX_FROM_PT = "conceal VMX from PT";
        20 ENABLE_XSAVES_XRSTORS = "enable XSAVES/XRSTORS";
        21 PASID_TRANSLATION = "PASID translation" later;
        22 MODE_BASED_EXECUTE_CONTROL = "mode-based execute control for EPT";
        23 SUB_PAGE_WRITE_PERMISSIONS = "sub-page write permissions for EPT";
        24 PT_USES_GUEST_PHYSICAL_ADDRESSES = "Intel PT uses guest physical addresses";
        25 USE_TSC_SCALING = "use TSC scaling";
        26 ENABLE_USER_WAIT_AND_PAUSE = "enable user wait and pause";
        27 ENABLE_PCONFIG = "enable PCONFIG";
        28 ENABLE_ENCLV_EXITING = "enable ENCLV exiting";
        30 BUS_LOCK_DETECTION = "VMM bus-lock detection" later;
        31 INSTRUCTION_TIMEOUT = "instruction timeout" later;
    }
    Proc3 {
        0 LOADIWKEY_EXITING = "LOADIWKEY exiting";
        1 ENABLE_HLAT = "enable HLAT";
        2 EPT_PAGING_WRITE_CONTROL = "EPT paging-write control";
        3 GUEST_PAGING_VERIFICATION = "guest-paging verification";
        4 IPI_VIRTUALIZATION = "IPI virtualization" later;
        6 ENABLE_MSR_LIST = "enable MSR-list instructions" later;
        7 VIRTUALIZE_SPEC_CTRL = "virtualize IA32_SPEC_CTRL" later;
        8 VIRTUALIZE_APIC_TIMER = "APIC-timer virtualization" later;
    }
    Exit {
        2 SAVE_DEBUG_CONTROLS = "save debug controls";
        9 HOST_ADDRESS_SPACE_SIZE = "host address-space size";
        12 HOST_LOAD_PERF_GLOBAL_CTRL = "load IA32_PERF_GLOBAL_CTRL";
        15 ACKNOWLEDGE_INTERRUPT_ON_EXIT = "acknowledge interrupt on exit";
        18 SAVE_PAT = "save IA32_PAT";
        19 HOST_LOAD_PAT = "load IA32_PAT";
        20 SAVE_EFER = "save IA32_EFER";
        21 HOST_LOAD_EFER = "load IA32_EFER";
        22 SAVE_PREEMPTION_TIMER = "save VMX-preemption timer value";
        23 CLEAR_BNDCFGS = "clear IA32_BNDCFGS";
        24 HOST_CONCEAL_VMX_FROM_PT = "conceal VMX from PT";
        25 CLEAR_RTIT_CTL = "clear IA32_RTIT_CTL";
        26 CLEAR_LBR_CTL = "clear IA32_LBR_CTL";
        27 CLEAR_UINV = "clear UINV" later;
        28 HOST_LOAD_CET_STATE = "load CET state";
        29 HOST_LOAD_PKRS = "load PKRS";
        30 SAVE_PERF_GLOBAL_CTRL = "save IA32_PERF_GLOBAL_CTL";
        31 ACTIVATE_SECONDARY_EXIT_CONTROLS = "activate secondary controls";
    }
    Exit2 {
        0 SAVE_FRED = "save guest FRED state" later;
        1 HOST_LOAD_FRED = "load host FRED state" later;
        2 HOST_LOAD_SPEC_CTRL = "load IA32_SPEC_CTRL" later;
        3 PREMATURELY_BUSY_SHADOW_STACK = "prematurely busy shadow stack" later;
    }
    Entry {
        2 LOAD_DEBUG_CONTROLS = "load debug controls";
        9 IA32E_MODE_GUEST = "IA-32e mode guest";
        10 ENTRY_TO_SMM = "entry to SMM";
        11 DEACTIVATE_DUAL_MONITOR = "deactivate dual-monitor treatment";
        13 LOAD_PERF_GLOBAL_CTRL = "load IA32_PERF_GLOBAL_CTRL";
        14 LOAD_PAT = "load IA32_PAT";
        15 LOAD_EFER = "load IA32_EFER";
        16 LOAD_BNDCFGS = "load IA32_BNDCFGS";
        17 ENTRY_CONCEAL_VMX_FROM_PT = "conceal VMX from PT";
        18 LOAD_RTIT_CTL = "load IA32_RTIT_CTL";
        19 LOAD_UINV = "load UINV" later;
        20 LOAD_CET_STATE = "load CET state";
        21 LOAD_LBR_CTL = "load guest IA32_LBR_CTL";
        22 LOAD_PKRS = "load PKRS";
        23 LOAD_FRED = "load guest FRED state" later;
        24 LOAD_SPEC_CTRL = "load IA32_SPEC_CTRL" later;
    }
    VmFunction {
        0 EPTP_SWITCHING = "EPTP switching";
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn no_two_controls_share_a_bit_and_rows_ascend() {
        for pair in Control::TABLE.windows(2) {
            assert!((pair[0].vector, pair[0].bit) < (pair[1].vector, pair[1].bit), "{pair:?}");
        }
    }

    #[test]
    fn bits_fit_their_vectors() {
        for row in Control::TABLE {
            assert!(u32::from(row.bit) < row.vector.field().row().width.bits(), "{row:?}");
        }
    }
}
