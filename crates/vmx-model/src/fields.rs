//! Which fields does a VMCS have? One row for each: encoding, width, type, when it exists, and where it is described.
//!
//! Source: SDM 3D appendix B (rev 077), Field Encoding in VMCS; 3C 24.11.2, VMREAD, VMWRITE, and Encodings of VMCS Fields.
//! Fields that revision 077 does not list yet carry [`Source::Later`]: their encodings are facts on which public
//! kernel headers and emulators agree.
//!
//! ```text
//!  31            15 14 13 12 11 10 9        1  0
//! +----------------+-----+--+-----+----------+---+
//! |    reserved    |width| 0| type|  index   |acc|   acc: 0 full, 1 high half (64-bit fields only)
//! +----------------+-----+--+-----+----------+---+
//! ```

use crate::control::Control;
use core::fmt;
use x86_state::SegmentRegister;

/// Width of a field: bits `[14:13]` of its encoding.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(u8)]
pub enum Width {
    /// 16 bits.
    W16,
    /// 64 bits; the only width with a high-half encoding.
    W64,
    /// 32 bits.
    W32,
    /// 64 bits on processors with Intel 64, 32 bits otherwise.
    Natural,
}

impl Width {
    /// Width in bits on a processor that supports Intel 64.
    #[must_use]
    pub const fn bits(self) -> u32 {
        match self {
            Self::W16 => 16,
            Self::W32 => 32,
            Self::W64 | Self::Natural => 64,
        }
    }

    /// The bits that a field of this width can hold.
    #[must_use]
    pub const fn mask(self) -> u64 {
        u64::MAX >> (64 - self.bits())
    }
}

/// Type of a field: bits `[11:10]` of its encoding.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(u8)]
pub enum FieldType {
    /// VM-execution, VM-exit and VM-entry control fields.
    Control,
    /// VM-exit information; VMWRITE needs IA32_VMX_MISC\[29\].
    ReadOnly,
    /// Guest-state area.
    Guest,
    /// Host-state area.
    Host,
}

/// The condition under which a field exists on a processor.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Exists {
    /// On every processor.
    Always,
    /// On processors that support the 1-setting of this control.
    With(Control),
    /// On processors that support the 1-setting of either control.
    Either(Control, Control),
    /// Only in the VMCSs of a TDX module (SEAM); no ordinary hypervisor sees it.
    Seam,
}

/// Where a field is described.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Source {
    /// A section of SDM 3D appendix B, revision 077, such as "B.2.3".
    AppendixB(&'static str),
    /// Later than revision 077; taken from two public headers that agree (kernel, emulator or TDX module).
    Later,
}

impl fmt::Display for Source {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::AppendixB(section) => write!(f, "SDM 3D {section}"),
            Self::Later => f.write_str("later than SDM rev 077"),
        }
    }
}

/// A row of the field table.
#[derive(Clone, Copy, Debug)]
pub struct FieldRow {
    /// The full encoding (access type 0).
    pub encoding: FieldEncoding,
    /// Width.
    pub width: Width,
    /// Type.
    pub kind: FieldType,
    /// The condition under which it exists.
    pub exists: Exists,
    /// Where it is described.
    pub source: Source,
    /// softvirt's identifier: the constant's name in lower case, such as `guest_cr0`.
    pub id: &'static str,
    /// The manual's name.
    pub name: &'static str,
}

/// A 32-bit VMCS field encoding as VMREAD takes it; any value, known or not.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct FieldEncoding(pub u32);

impl FieldEncoding {
    /// Access type, bit 0: 1 for the high half of a 64-bit field.
    #[must_use]
    pub const fn is_high(self) -> bool {
        self.0 & 1 == 1
    }

    /// Index, bits `[9:1]`.
    #[must_use]
    pub const fn index(self) -> u32 {
        self.0 >> 1 & 0x1ff
    }

    /// The field that this encoding names (either half); `None` if no row has it.
    #[must_use]
    pub const fn field(self) -> Option<Field> {
        // Bits [31:15] and 12 are reserved to 0; high access is only for 64-bit fields.
        if self.0 & !0x6fff != 0 || self.index() >= SLOT_INDEXES as u32 {
            return None;
        }
        let dense = BY_ENCODING[slot(self.0)];
        if dense == NO_FIELD {
            return None;
        }
        let field = Field(dense);
        if self.is_high() && !matches!(field.row().width, Width::W64) {
            return None;
        }
        Some(field)
    }
}

impl fmt::Debug for FieldEncoding {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "FieldEncoding({:#06x})", self.0)
    }
}

/// A VMCS field that softvirt knows: an index into [`Field::TABLE`].
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Field(u8);

impl Field {
    /// Number of fields.
    pub const COUNT: usize = Self::TABLE.len();

    /// Every field, in ascending order of encodings.
    pub fn all() -> impl DoubleEndedIterator<Item = Field> + Clone {
        (0..Self::COUNT as u8).map(Field)
    }

    /// The position in [`Field::TABLE`], `0..Field::COUNT`.
    #[must_use]
    #[inline]
    pub const fn index(self) -> usize {
        self.0 as usize
    }

    /// The field at a position of the table.
    #[must_use]
    pub const fn from_index(index: usize) -> Option<Self> {
        if index < Self::COUNT { Some(Self(index as u8)) } else { None }
    }

    /// The row.
    #[must_use]
    #[inline]
    pub const fn row(self) -> &'static FieldRow {
        &Self::TABLE[self.0 as usize]
    }

    /// softvirt's identifier, such as `guest_cr0`.
    #[must_use]
    pub const fn id(self) -> &'static str {
        self.row().id
    }

    /// The manual's name.
    #[must_use]
    pub const fn name(self) -> &'static str {
        self.row().name
    }

    /// The full encoding.
    #[must_use]
    pub const fn encoding(self) -> FieldEncoding {
        self.row().encoding
    }

    /// The field with this identifier (case does not matter).
    #[must_use]
    pub fn by_id(id: &str) -> Option<Self> {
        Self::all().find(|field| field.id().eq_ignore_ascii_case(id))
    }

    /// Does the field hold a VM-execution control: one that VM entries that return from SMM take from the executive VMCS?
    ///
    /// VM-exit and VM-entry controls are of the control type too but come from the current VMCS (SDM 3C 31.15.4.2).
    #[must_use]
    pub const fn is_execution_control(self) -> bool {
        let row = self.row();
        matches!(row.kind, FieldType::Control)
            && !matches!(
                self,
                Self::VM_EXIT_MSR_STORE_ADDRESS
                    | Self::VM_EXIT_MSR_LOAD_ADDRESS
                    | Self::VM_ENTRY_MSR_LOAD_ADDRESS
                    | Self::EXECUTIVE_VMCS_POINTER
                    | Self::SECONDARY_VM_EXIT_CONTROLS
                    | Self::INJECTED_EVENT_DATA
                    | Self::VM_EXIT_CONTROLS
                    | Self::VM_EXIT_MSR_STORE_COUNT
                    | Self::VM_EXIT_MSR_LOAD_COUNT
                    | Self::VM_ENTRY_CONTROLS
                    | Self::VM_ENTRY_MSR_LOAD_COUNT
                    | Self::VM_ENTRY_INTERRUPTION_INFO
                    | Self::VM_ENTRY_EXCEPTION_ERROR_CODE
                    | Self::VM_ENTRY_INSTRUCTION_LENGTH
            )
    }

    const fn nth(first: Self, register: SegmentRegister) -> Self {
        Self(first.0 + register as u8)
    }

    /// The guest selector field of a segment register.
    #[must_use]
    #[inline]
    pub const fn guest_selector(register: SegmentRegister) -> Self {
        Self::nth(Self::GUEST_ES_SELECTOR, register)
    }

    /// The guest base-address field of a segment register.
    #[must_use]
    #[inline]
    pub const fn guest_base(register: SegmentRegister) -> Self {
        Self::nth(Self::GUEST_ES_BASE, register)
    }

    /// The guest limit field of a segment register.
    #[must_use]
    #[inline]
    pub const fn guest_limit(register: SegmentRegister) -> Self {
        Self::nth(Self::GUEST_ES_LIMIT, register)
    }

    /// The guest access-rights field of a segment register.
    #[must_use]
    #[inline]
    pub const fn guest_access_rights(register: SegmentRegister) -> Self {
        Self::nth(Self::GUEST_ES_ACCESS_RIGHTS, register)
    }
}

impl fmt::Debug for Field {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.id())
    }
}

const fn lower<const N: usize>(upper: &str) -> [u8; N] {
    let mut out = [0; N];
    let bytes = upper.as_bytes();
    let mut i = 0;
    while i < N {
        out[i] = bytes[i].to_ascii_lowercase();
        i += 1;
    }
    out
}

const fn utf8(bytes: &'static [u8]) -> &'static str {
    match core::str::from_utf8(bytes) {
        Ok(text) => text,
        Err(_) => "",
    }
}

macro_rules! fields {
    (@source LATER) => { Source::Later };
    (@source $section:literal) => { Source::AppendixB($section) };
    ($($name:ident = $encoding:literal, $width:ident, $kind:ident, $exists:expr, $source:tt, $text:literal;)*) => {
        #[allow(non_camel_case_types, clippy::upper_case_acronyms)]
        #[derive(Clone, Copy)]
        #[repr(u8)]
        enum Index { $($name,)* }

        impl Field {
            $(#[doc = concat!($text, ": encoding ", stringify!($encoding), ".")]
            pub const $name: Field = Field(Index::$name as u8);)*

            /// One row for each field, in ascending order of encodings.
            pub const TABLE: &'static [FieldRow] = {
                use Exists::*;
                &[$(FieldRow {
                    encoding: FieldEncoding($encoding),
                    width: Width::$width,
                    kind: FieldType::$kind,
                    exists: $exists,
                    source: fields!(@source $source),
                    id: {
                        const LOWER: [u8; stringify!($name).len()] = lower(stringify!($name));
                        utf8(&LOWER)
                    },
                    name: $text,
                },)*]
            };
        }
    };
}

fields! {
    VPID = 0x0000, W16, Control, With(Control::ENABLE_VPID), "B.1.1", "Virtual-processor identifier (VPID)";
    POSTED_INTERRUPT_NOTIFICATION_VECTOR = 0x0002, W16, Control, With(Control::PROCESS_POSTED_INTERRUPTS), "B.1.1", "Posted-interrupt notification vector";
    EPTP_INDEX = 0x0004, W16, Control, With(Control::EPT_VIOLATION_VE), "B.1.1", "EPTP index";
    HLAT_PREFIX_SIZE = 0x0006, W16, Control, With(Control::ENABLE_HLAT), "B.1.1", "HLAT prefix size";
    LAST_PID_POINTER_INDEX = 0x0008, W16, Control, With(Control::IPI_VIRTUALIZATION), LATER, "Last PID-pointer index";
    VIRTUAL_TIMER_VECTOR = 0x000a, W16, Control, With(Control::VIRTUALIZE_APIC_TIMER), LATER, "Virtual timer vector";
    GUEST_ES_SELECTOR = 0x0800, W16, Guest, Always, "B.1.2", "Guest ES selector";
    GUEST_CS_SELECTOR = 0x0802, W16, Guest, Always, "B.1.2", "Guest CS selector";
    GUEST_SS_SELECTOR = 0x0804, W16, Guest, Always, "B.1.2", "Guest SS selector";
    GUEST_DS_SELECTOR = 0x0806, W16, Guest, Always, "B.1.2", "Guest DS selector";
    GUEST_FS_SELECTOR = 0x0808, W16, Guest, Always, "B.1.2", "Guest FS selector";
    GUEST_GS_SELECTOR = 0x080a, W16, Guest, Always, "B.1.2", "Guest GS selector";
    GUEST_LDTR_SELECTOR = 0x080c, W16, Guest, Always, "B.1.2", "Guest LDTR selector";
    GUEST_TR_SELECTOR = 0x080e, W16, Guest, Always, "B.1.2", "Guest TR selector";
    GUEST_INTERRUPT_STATUS = 0x0810, W16, Guest, With(Control::VIRTUAL_INTERRUPT_DELIVERY), "B.1.2", "Guest interrupt status";
    PML_INDEX = 0x0812, W16, Guest, With(Control::ENABLE_PML), "B.1.2", "PML index";
    GUEST_UINV = 0x0814, W16, Guest, Either(Control::LOAD_UINV, Control::CLEAR_UINV), LATER, "Guest UINV";
    HOST_ES_SELECTOR = 0x0c00, W16, Host, Always, "B.1.3", "Host ES selector";
    HOST_CS_SELECTOR = 0x0c02, W16, Host, Always, "B.1.3", "Host CS selector";
    HOST_SS_SELECTOR = 0x0c04, W16, Host, Always, "B.1.3", "Host SS selector";
    HOST_DS_SELECTOR = 0x0c06, W16, Host, Always, "B.1.3", "Host DS selector";
    HOST_FS_SELECTOR = 0x0c08, W16, Host, Always, "B.1.3", "Host FS selector";
    HOST_GS_SELECTOR = 0x0c0a, W16, Host, Always, "B.1.3", "Host GS selector";
    HOST_TR_SELECTOR = 0x0c0c, W16, Host, Always, "B.1.3", "Host TR selector";
    IO_BITMAP_A_ADDRESS = 0x2000, W64, Control, Always, "B.2.1", "Address of I/O bitmap A";
    IO_BITMAP_B_ADDRESS = 0x2002, W64, Control, Always, "B.2.1", "Address of I/O bitmap B";
    MSR_BITMAPS_ADDRESS = 0x2004, W64, Control, With(Control::USE_MSR_BITMAPS), "B.2.1", "Address of MSR bitmaps";
    VM_EXIT_MSR_STORE_ADDRESS = 0x2006, W64, Control, Always, "B.2.1", "VM-exit MSR-store address";
    VM_EXIT_MSR_LOAD_ADDRESS = 0x2008, W64, Control, Always, "B.2.1", "VM-exit MSR-load address";
    VM_ENTRY_MSR_LOAD_ADDRESS = 0x200a, W64, Control, Always, "B.2.1", "VM-entry MSR-load address";
    EXECUTIVE_VMCS_POINTER = 0x200c, W64, Control, Always, "B.2.1", "Executive-VMCS pointer";
    PML_ADDRESS = 0x200e, W64, Control, With(Control::ENABLE_PML), "B.2.1", "PML address";
    TSC_OFFSET = 0x2010, W64, Control, Always, "B.2.1", "TSC offset";
    VIRTUAL_APIC_ADDRESS = 0x2012, W64, Control, With(Control::USE_TPR_SHADOW), "B.2.1", "Virtual-APIC address";
    APIC_ACCESS_ADDRESS = 0x2014, W64, Control, With(Control::VIRTUALIZE_APIC_ACCESSES), "B.2.1", "APIC-access address";
    POSTED_INTERRUPT_DESCRIPTOR_ADDRESS = 0x2016, W64, Control, With(Control::PROCESS_POSTED_INTERRUPTS), "B.2.1", "Posted-interrupt descriptor address";
    VM_FUNCTION_CONTROLS = 0x2018, W64, Control, With(Control::ENABLE_VM_FUNCTIONS), "B.2.1", "VM-function controls";
    EPT_POINTER = 0x201a, W64, Control, With(Control::ENABLE_EPT), "B.2.1", "EPT pointer (EPTP)";
    EOI_EXIT_BITMAP_0 = 0x201c, W64, Control, With(Control::VIRTUAL_INTERRUPT_DELIVERY), "B.2.1", "EOI-exit bitmap 0";
    EOI_EXIT_BITMAP_1 = 0x201e, W64, Control, With(Control::VIRTUAL_INTERRUPT_DELIVERY), "B.2.1", "EOI-exit bitmap 1";
    EOI_EXIT_BITMAP_2 = 0x2020, W64, Control, With(Control::VIRTUAL_INTERRUPT_DELIVERY), "B.2.1", "EOI-exit bitmap 2";
    EOI_EXIT_BITMAP_3 = 0x2022, W64, Control, With(Control::VIRTUAL_INTERRUPT_DELIVERY), "B.2.1", "EOI-exit bitmap 3";
    EPTP_LIST_ADDRESS = 0x2024, W64, Control, With(Control::EPTP_SWITCHING), "B.2.1", "EPTP-list address";
    VMREAD_BITMAP_ADDRESS = 0x2026, W64, Control, With(Control::VMCS_SHADOWING), "B.2.1", "VMREAD-bitmap address";
    VMWRITE_BITMAP_ADDRESS = 0x2028, W64, Control, With(Control::VMCS_SHADOWING), "B.2.1", "VMWRITE-bitmap address";
    VIRTUALIZATION_EXCEPTION_INFORMATION_ADDRESS = 0x202a, W64, Control, With(Control::EPT_VIOLATION_VE), "B.2.1", "Virtualization-exception information address";
    XSS_EXITING_BITMAP = 0x202c, W64, Control, With(Control::ENABLE_XSAVES_XRSTORS), "B.2.1", "XSS-exiting bitmap";
    ENCLS_EXITING_BITMAP = 0x202e, W64, Control, With(Control::ENABLE_ENCLS_EXITING), "B.2.1", "ENCLS-exiting bitmap";
    SUB_PAGE_PERMISSION_TABLE_POINTER = 0x2030, W64, Control, With(Control::SUB_PAGE_WRITE_PERMISSIONS), "B.2.1", "Sub-page-permission-table pointer (SPPTP)";
    TSC_MULTIPLIER = 0x2032, W64, Control, With(Control::USE_TSC_SCALING), "B.2.1", "TSC multiplier";
    TERTIARY_PROC_BASED_CONTROLS = 0x2034, W64, Control, With(Control::ACTIVATE_TERTIARY_CONTROLS), "B.2.1", "Tertiary processor-based VM-execution controls";
    ENCLV_EXITING_BITMAP = 0x2036, W64, Control, With(Control::ENABLE_ENCLV_EXITING), "B.2.1", "ENCLV-exiting bitmap";
    LOW_PASID_DIRECTORY_ADDRESS = 0x2038, W64, Control, With(Control::PASID_TRANSLATION), LATER, "Low PASID directory address";
    HIGH_PASID_DIRECTORY_ADDRESS = 0x203a, W64, Control, With(Control::PASID_TRANSLATION), LATER, "High PASID directory address";
    SHARED_EPT_POINTER = 0x203c, W64, Control, Seam, LATER, "Shared EPT pointer";
    PCONFIG_EXITING_BITMAP = 0x203e, W64, Control, With(Control::ENABLE_PCONFIG), "B.2.1", "PCONFIG-exiting bitmap";
    HLAT_POINTER = 0x2040, W64, Control, With(Control::ENABLE_HLAT), "B.2.1", "Hypervisor-managed linear-address translation pointer (HLATP)";
    PID_POINTER_TABLE_ADDRESS = 0x2042, W64, Control, With(Control::IPI_VIRTUALIZATION), LATER, "PID-pointer table address";
    SECONDARY_VM_EXIT_CONTROLS = 0x2044, W64, Control, With(Control::ACTIVATE_SECONDARY_EXIT_CONTROLS), "B.2.1", "Secondary VM-exit controls";
    SPEC_CTRL_MASK = 0x204a, W64, Control, With(Control::VIRTUALIZE_SPEC_CTRL), LATER, "IA32_SPEC_CTRL mask";
    SPEC_CTRL_SHADOW = 0x204c, W64, Control, With(Control::VIRTUALIZE_SPEC_CTRL), LATER, "IA32_SPEC_CTRL shadow";
    GUEST_DEADLINE_SHADOW = 0x204e, W64, Control, With(Control::VIRTUALIZE_APIC_TIMER), LATER, "Guest deadline shadow";
    INJECTED_EVENT_DATA = 0x2052, W64, Control, With(Control::LOAD_FRED), LATER, "Injected-event data";
    GUEST_PHYSICAL_ADDRESS = 0x2400, W64, ReadOnly, With(Control::ENABLE_EPT), "B.2.2", "Guest-physical address";
    MSR_DATA = 0x2402, W64, ReadOnly, With(Control::ENABLE_MSR_LIST), LATER, "MSR data";
    ORIGINAL_EVENT_DATA = 0x2404, W64, ReadOnly, With(Control::LOAD_FRED), LATER, "Original-event data";
    VMCS_LINK_POINTER = 0x2800, W64, Guest, Always, "B.2.3", "VMCS link pointer";
    GUEST_IA32_DEBUGCTL = 0x2802, W64, Guest, Always, "B.2.3", "Guest IA32_DEBUGCTL";
    GUEST_IA32_PAT = 0x2804, W64, Guest, Either(Control::LOAD_PAT, Control::SAVE_PAT), "B.2.3", "Guest IA32_PAT";
    GUEST_IA32_EFER = 0x2806, W64, Guest, Either(Control::LOAD_EFER, Control::SAVE_EFER), "B.2.3", "Guest IA32_EFER";
    GUEST_IA32_PERF_GLOBAL_CTRL = 0x2808, W64, Guest, With(Control::LOAD_PERF_GLOBAL_CTRL), "B.2.3", "Guest IA32_PERF_GLOBAL_CTRL";
    GUEST_PDPTE0 = 0x280a, W64, Guest, With(Control::ENABLE_EPT), "B.2.3", "Guest PDPTE0";
    GUEST_PDPTE1 = 0x280c, W64, Guest, With(Control::ENABLE_EPT), "B.2.3", "Guest PDPTE1";
    GUEST_PDPTE2 = 0x280e, W64, Guest, With(Control::ENABLE_EPT), "B.2.3", "Guest PDPTE2";
    GUEST_PDPTE3 = 0x2810, W64, Guest, With(Control::ENABLE_EPT), "B.2.3", "Guest PDPTE3";
    GUEST_IA32_BNDCFGS = 0x2812, W64, Guest, Either(Control::LOAD_BNDCFGS, Control::CLEAR_BNDCFGS), "B.2.3", "Guest IA32_BNDCFGS";
    GUEST_IA32_RTIT_CTL = 0x2814, W64, Guest, Either(Control::LOAD_RTIT_CTL, Control::CLEAR_RTIT_CTL), "B.2.3", "Guest IA32_RTIT_CTL";
    GUEST_IA32_LBR_CTL = 0x2816, W64, Guest, Either(Control::LOAD_LBR_CTL, Control::CLEAR_LBR_CTL), "B.2.3", "Guest IA32_LBR_CTL";
    GUEST_IA32_PKRS = 0x2818, W64, Guest, With(Control::LOAD_PKRS), "B.2.3", "Guest IA32_PKRS";
    GUEST_IA32_FRED_CONFIG = 0x281a, W64, Guest, Either(Control::LOAD_FRED, Control::SAVE_FRED), LATER, "Guest IA32_FRED_CONFIG";
    GUEST_IA32_FRED_RSP1 = 0x281c, W64, Guest, Either(Control::LOAD_FRED, Control::SAVE_FRED), LATER, "Guest IA32_FRED_RSP1";
    GUEST_IA32_FRED_RSP2 = 0x281e, W64, Guest, Either(Control::LOAD_FRED, Control::SAVE_FRED), LATER, "Guest IA32_FRED_RSP2";
    GUEST_IA32_FRED_RSP3 = 0x2820, W64, Guest, Either(Control::LOAD_FRED, Control::SAVE_FRED), LATER, "Guest IA32_FRED_RSP3";
    GUEST_IA32_FRED_STACK_LEVELS = 0x2822, W64, Guest, Either(Control::LOAD_FRED, Control::SAVE_FRED), LATER, "Guest IA32_FRED_STACK_LEVELS";
    GUEST_IA32_FRED_SSP1 = 0x2824, W64, Guest, Either(Control::LOAD_FRED, Control::SAVE_FRED), LATER, "Guest IA32_FRED_SSP1";
    GUEST_IA32_FRED_SSP2 = 0x2826, W64, Guest, Either(Control::LOAD_FRED, Control::SAVE_FRED), LATER, "Guest IA32_FRED_SSP2";
    GUEST_IA32_FRED_SSP3 = 0x2828, W64, Guest, Either(Control::LOAD_FRED, Control::SAVE_FRED), LATER, "Guest IA32_FRED_SSP3";
    GUEST_IA32_SPEC_CTRL = 0x282e, W64, Guest, With(Control::LOAD_SPEC_CTRL), LATER, "Guest IA32_SPEC_CTRL";
    GUEST_DEADLINE = 0x2830, W64, Guest, With(Control::VIRTUALIZE_APIC_TIMER), LATER, "Guest deadline";
    HOST_IA32_PAT = 0x2c00, W64, Host, With(Control::HOST_LOAD_PAT), "B.2.4", "Host IA32_PAT";
    HOST_IA32_EFER = 0x2c02, W64, Host, With(Control::HOST_LOAD_EFER), "B.2.4", "Host IA32_EFER";
    HOST_IA32_PERF_GLOBAL_CTRL = 0x2c04, W64, Host, With(Control::HOST_LOAD_PERF_GLOBAL_CTRL), "B.2.4", "Host IA32_PERF_GLOBAL_CTRL";
    HOST_IA32_PKRS = 0x2c06, W64, Host, With(Control::HOST_LOAD_PKRS), "B.2.4", "Host IA32_PKRS";
    HOST_IA32_FRED_CONFIG = 0x2c08, W64, Host, With(Control::HOST_LOAD_FRED), LATER, "Host IA32_FRED_CONFIG";
    HOST_IA32_FRED_RSP1 = 0x2c0a, W64, Host, With(Control::HOST_LOAD_FRED), LATER, "Host IA32_FRED_RSP1";
    HOST_IA32_FRED_RSP2 = 0x2c0c, W64, Host, With(Control::HOST_LOAD_FRED), LATER, "Host IA32_FRED_RSP2";
    HOST_IA32_FRED_RSP3 = 0x2c0e, W64, Host, With(Control::HOST_LOAD_FRED), LATER, "Host IA32_FRED_RSP3";
    HOST_IA32_FRED_STACK_LEVELS = 0x2c10, W64, Host, With(Control::HOST_LOAD_FRED), LATER, "Host IA32_FRED_STACK_LEVELS";
    HOST_IA32_FRED_SSP1 = 0x2c12, W64, Host, With(Control::HOST_LOAD_FRED), LATER, "Host IA32_FRED_SSP1";
    HOST_IA32_FRED_SSP2 = 0x2c14, W64, Host, With(Control::HOST_LOAD_FRED), LATER, "Host IA32_FRED_SSP2";
    HOST_IA32_FRED_SSP3 = 0x2c16, W64, Host, With(Control::HOST_LOAD_FRED), LATER, "Host IA32_FRED_SSP3";
    HOST_IA32_SPEC_CTRL = 0x2c1a, W64, Host, With(Control::HOST_LOAD_SPEC_CTRL), LATER, "Host IA32_SPEC_CTRL";
    PIN_BASED_CONTROLS = 0x4000, W32, Control, Always, "B.3.1", "Pin-based VM-execution controls";
    PRIMARY_PROC_BASED_CONTROLS = 0x4002, W32, Control, Always, "B.3.1", "Primary processor-based VM-execution controls";
    EXCEPTION_BITMAP = 0x4004, W32, Control, Always, "B.3.1", "Exception bitmap";
    PAGE_FAULT_ERROR_CODE_MASK = 0x4006, W32, Control, Always, "B.3.1", "Page-fault error-code mask";
    PAGE_FAULT_ERROR_CODE_MATCH = 0x4008, W32, Control, Always, "B.3.1", "Page-fault error-code match";
    CR3_TARGET_COUNT = 0x400a, W32, Control, Always, "B.3.1", "CR3-target count";
    VM_EXIT_CONTROLS = 0x400c, W32, Control, Always, "B.3.1", "Primary VM-exit controls";
    VM_EXIT_MSR_STORE_COUNT = 0x400e, W32, Control, Always, "B.3.1", "VM-exit MSR-store count";
    VM_EXIT_MSR_LOAD_COUNT = 0x4010, W32, Control, Always, "B.3.1", "VM-exit MSR-load count";
    VM_ENTRY_CONTROLS = 0x4012, W32, Control, Always, "B.3.1", "VM-entry controls";
    VM_ENTRY_MSR_LOAD_COUNT = 0x4014, W32, Control, Always, "B.3.1", "VM-entry MSR-load count";
    VM_ENTRY_INTERRUPTION_INFO = 0x4016, W32, Control, Always, "B.3.1", "VM-entry interruption-information field";
    VM_ENTRY_EXCEPTION_ERROR_CODE = 0x4018, W32, Control, Always, "B.3.1", "VM-entry exception error code";
    VM_ENTRY_INSTRUCTION_LENGTH = 0x401a, W32, Control, Always, "B.3.1", "VM-entry instruction length";
    TPR_THRESHOLD = 0x401c, W32, Control, With(Control::USE_TPR_SHADOW), "B.3.1", "TPR threshold";
    SECONDARY_PROC_BASED_CONTROLS = 0x401e, W32, Control, With(Control::ACTIVATE_SECONDARY_CONTROLS), "B.3.1", "Secondary processor-based VM-execution controls";
    PLE_GAP = 0x4020, W32, Control, With(Control::PAUSE_LOOP_EXITING), "B.3.1", "PLE_Gap";
    PLE_WINDOW = 0x4022, W32, Control, With(Control::PAUSE_LOOP_EXITING), "B.3.1", "PLE_Window";
    INSTRUCTION_TIMEOUT_CONTROL = 0x4024, W32, Control, With(Control::INSTRUCTION_TIMEOUT), LATER, "Instruction-timeout control";
    SEAM_GUEST_KEYID = 0x4026, W32, Control, Seam, LATER, "SEAM guest KeyID";
    VM_INSTRUCTION_ERROR = 0x4400, W32, ReadOnly, Always, "B.3.2", "VM-instruction error";
    EXIT_REASON = 0x4402, W32, ReadOnly, Always, "B.3.2", "Exit reason";
    VM_EXIT_INTERRUPTION_INFO = 0x4404, W32, ReadOnly, Always, "B.3.2", "VM-exit interruption information";
    VM_EXIT_INTERRUPTION_ERROR_CODE = 0x4406, W32, ReadOnly, Always, "B.3.2", "VM-exit interruption error code";
    IDT_VECTORING_INFO = 0x4408, W32, ReadOnly, Always, "B.3.2", "IDT-vectoring information field";
    IDT_VECTORING_ERROR_CODE = 0x440a, W32, ReadOnly, Always, "B.3.2", "IDT-vectoring error code";
    VM_EXIT_INSTRUCTION_LENGTH = 0x440c, W32, ReadOnly, Always, "B.3.2", "VM-exit instruction length";
    VM_EXIT_INSTRUCTION_INFO = 0x440e, W32, ReadOnly, Always, "B.3.2", "VM-exit instruction information";
    GUEST_ES_LIMIT = 0x4800, W32, Guest, Always, "B.3.3", "Guest ES limit";
    GUEST_CS_LIMIT = 0x4802, W32, Guest, Always, "B.3.3", "Guest CS limit";
    GUEST_SS_LIMIT = 0x4804, W32, Guest, Always, "B.3.3", "Guest SS limit";
    GUEST_DS_LIMIT = 0x4806, W32, Guest, Always, "B.3.3", "Guest DS limit";
    GUEST_FS_LIMIT = 0x4808, W32, Guest, Always, "B.3.3", "Guest FS limit";
    GUEST_GS_LIMIT = 0x480a, W32, Guest, Always, "B.3.3", "Guest GS limit";
    GUEST_LDTR_LIMIT = 0x480c, W32, Guest, Always, "B.3.3", "Guest LDTR limit";
    GUEST_TR_LIMIT = 0x480e, W32, Guest, Always, "B.3.3", "Guest TR limit";
    GUEST_GDTR_LIMIT = 0x4810, W32, Guest, Always, "B.3.3", "Guest GDTR limit";
    GUEST_IDTR_LIMIT = 0x4812, W32, Guest, Always, "B.3.3", "Guest IDTR limit";
    GUEST_ES_ACCESS_RIGHTS = 0x4814, W32, Guest, Always, "B.3.3", "Guest ES access rights";
    GUEST_CS_ACCESS_RIGHTS = 0x4816, W32, Guest, Always, "B.3.3", "Guest CS access rights";
    GUEST_SS_ACCESS_RIGHTS = 0x4818, W32, Guest, Always, "B.3.3", "Guest SS access rights";
    GUEST_DS_ACCESS_RIGHTS = 0x481a, W32, Guest, Always, "B.3.3", "Guest DS access rights";
    GUEST_FS_ACCESS_RIGHTS = 0x481c, W32, Guest, Always, "B.3.3", "Guest FS access rights";
    GUEST_GS_ACCESS_RIGHTS = 0x481e, W32, Guest, Always, "B.3.3", "Guest GS access rights";
    GUEST_LDTR_ACCESS_RIGHTS = 0x4820, W32, Guest, Always, "B.3.3", "Guest LDTR access rights";
    GUEST_TR_ACCESS_RIGHTS = 0x4822, W32, Guest, Always, "B.3.3", "Guest TR access rights";
    GUEST_INTERRUPTIBILITY_STATE = 0x4824, W32, Guest, Always, "B.3.3", "Guest interruptibility state";
    GUEST_ACTIVITY_STATE = 0x4826, W32, Guest, Always, "B.3.3", "Guest activity state";
    GUEST_SMBASE = 0x4828, W32, Guest, Always, "B.3.3", "Guest SMBASE";
    GUEST_IA32_SYSENTER_CS = 0x482a, W32, Guest, Always, "B.3.3", "Guest IA32_SYSENTER_CS";
    VMX_PREEMPTION_TIMER_VALUE = 0x482e, W32, Guest, With(Control::ACTIVATE_PREEMPTION_TIMER), "B.3.3", "VMX-preemption timer value";
    TDX_RESERVED_GUEST_STATE = 0x4830, W32, Guest, Seam, LATER, "Reserved 32-bit guest state (TDX)";
    HOST_IA32_SYSENTER_CS = 0x4c00, W32, Host, Always, "B.3.4", "Host IA32_SYSENTER_CS";
    CR0_GUEST_HOST_MASK = 0x6000, Natural, Control, Always, "B.4.1", "CR0 guest/host mask";
    CR4_GUEST_HOST_MASK = 0x6002, Natural, Control, Always, "B.4.1", "CR4 guest/host mask";
    CR0_READ_SHADOW = 0x6004, Natural, Control, Always, "B.4.1", "CR0 read shadow";
    CR4_READ_SHADOW = 0x6006, Natural, Control, Always, "B.4.1", "CR4 read shadow";
    CR3_TARGET_VALUE_0 = 0x6008, Natural, Control, Always, "B.4.1", "CR3-target value 0";
    CR3_TARGET_VALUE_1 = 0x600a, Natural, Control, Always, "B.4.1", "CR3-target value 1";
    CR3_TARGET_VALUE_2 = 0x600c, Natural, Control, Always, "B.4.1", "CR3-target value 2";
    CR3_TARGET_VALUE_3 = 0x600e, Natural, Control, Always, "B.4.1", "CR3-target value 3";
    EXIT_QUALIFICATION = 0x6400, Natural, ReadOnly, Always, "B.4.2", "Exit qualification";
    IO_RCX = 0x6402, Natural, ReadOnly, Always, "B.4.2", "I/O RCX";
    IO_RSI = 0x6404, Natural, ReadOnly, Always, "B.4.2", "I/O RSI";
    IO_RDI = 0x6406, Natural, ReadOnly, Always, "B.4.2", "I/O RDI";
    IO_RIP = 0x6408, Natural, ReadOnly, Always, "B.4.2", "I/O RIP";
    GUEST_LINEAR_ADDRESS = 0x640a, Natural, ReadOnly, Always, "B.4.2", "Guest-linear address";
    GUEST_CR0 = 0x6800, Natural, Guest, Always, "B.4.3", "Guest CR0";
    GUEST_CR3 = 0x6802, Natural, Guest, Always, "B.4.3", "Guest CR3";
    GUEST_CR4 = 0x6804, Natural, Guest, Always, "B.4.3", "Guest CR4";
    GUEST_ES_BASE = 0x6806, Natural, Guest, Always, "B.4.3", "Guest ES base";
    GUEST_CS_BASE = 0x6808, Natural, Guest, Always, "B.4.3", "Guest CS base";
    GUEST_SS_BASE = 0x680a, Natural, Guest, Always, "B.4.3", "Guest SS base";
    GUEST_DS_BASE = 0x680c, Natural, Guest, Always, "B.4.3", "Guest DS base";
    GUEST_FS_BASE = 0x680e, Natural, Guest, Always, "B.4.3", "Guest FS base";
    GUEST_GS_BASE = 0x6810, Natural, Guest, Always, "B.4.3", "Guest GS base";
    GUEST_LDTR_BASE = 0x6812, Natural, Guest, Always, "B.4.3", "Guest LDTR base";
    GUEST_TR_BASE = 0x6814, Natural, Guest, Always, "B.4.3", "Guest TR base";
    GUEST_GDTR_BASE = 0x6816, Natural, Guest, Always, "B.4.3", "Guest GDTR base";
    GUEST_IDTR_BASE = 0x6818, Natural, Guest, Always, "B.4.3", "Guest IDTR base";
    GUEST_DR7 = 0x681a, Natural, Guest, Always, "B.4.3", "Guest DR7";
    GUEST_RSP = 0x681c, Natural, Guest, Always, "B.4.3", "Guest RSP";
    GUEST_RIP = 0x681e, Natural, Guest, Always, "B.4.3", "Guest RIP";
    GUEST_RFLAGS = 0x6820, Natural, Guest, Always, "B.4.3", "Guest RFLAGS";
    GUEST_PENDING_DEBUG_EXCEPTIONS = 0x6822, Natural, Guest, Always, "B.4.3", "Guest pending debug exceptions";
    GUEST_IA32_SYSENTER_ESP = 0x6824, Natural, Guest, Always, "B.4.3", "Guest IA32_SYSENTER_ESP";
    GUEST_IA32_SYSENTER_EIP = 0x6826, Natural, Guest, Always, "B.4.3", "Guest IA32_SYSENTER_EIP";
    GUEST_IA32_S_CET = 0x6828, Natural, Guest, With(Control::LOAD_CET_STATE), "B.4.3", "Guest IA32_S_CET";
    GUEST_SSP = 0x682a, Natural, Guest, With(Control::LOAD_CET_STATE), "B.4.3", "Guest SSP";
    GUEST_IA32_INTERRUPT_SSP_TABLE_ADDR = 0x682c, Natural, Guest, With(Control::LOAD_CET_STATE), "B.4.3", "Guest IA32_INTERRUPT_SSP_TABLE_ADDR";
    HOST_CR0 = 0x6c00, Natural, Host, Always, "B.4.4", "Host CR0";
    HOST_CR3 = 0x6c02, Natural, Host, Always, "B.4.4", "Host CR3";
    HOST_CR4 = 0x6c04, Natural, Host, Always, "B.4.4", "Host CR4";
    HOST_FS_BASE = 0x6c06, Natural, Host, Always, "B.4.4", "Host FS base";
    HOST_GS_BASE = 0x6c08, Natural, Host, Always, "B.4.4", "Host GS base";
    HOST_TR_BASE = 0x6c0a, Natural, Host, Always, "B.4.4", "Host TR base";
    HOST_GDTR_BASE = 0x6c0c, Natural, Host, Always, "B.4.4", "Host GDTR base";
    HOST_IDTR_BASE = 0x6c0e, Natural, Host, Always, "B.4.4", "Host IDTR base";
    HOST_IA32_SYSENTER_ESP = 0x6c10, Natural, Host, Always, "B.4.4", "Host IA32_SYSENTER_ESP";
    HOST_IA32_SYSENTER_EIP = 0x6c12, Natural, Host, Always, "B.4.4", "Host IA32_SYSENTER_EIP";
    HOST_RSP = 0x6c14, Natural, Host, Always, "B.4.4", "Host RSP";
    HOST_RIP = 0x6c16, Natural, Host, Always, "B.4.4", "Host RIP";
    HOST_IA32_S_CET = 0x6c18, Natural, Host, With(Control::HOST_LOAD_CET_STATE), "B.4.4", "Host IA32_S_CET";
    HOST_SSP = 0x6c1a, Natural, Host, With(Control::HOST_LOAD_CET_STATE), "B.4.4", "Host SSP";
    HOST_IA32_INTERRUPT_SSP_TABLE_ADDR = 0x6c1c, Natural, Host, With(Control::HOST_LOAD_CET_STATE), "B.4.4", "Host IA32_INTERRUPT_SSP_TABLE_ADDR";
}

const NO_FIELD: u8 = u8::MAX;
// Indexes up to 0x29 are in use; a power of two keeps the slot computation a shift.
const SLOT_INDEXES: usize = 64;

const fn slot(encoding: u32) -> usize {
    let width_and_type = (encoding >> 13 & 3) << 2 | (encoding >> 10 & 3);
    width_and_type as usize * SLOT_INDEXES + (encoding >> 1 & 0x1ff) as usize
}

const BY_ENCODING: [u8; 16 * SLOT_INDEXES] = {
    let mut table = [NO_FIELD; 16 * SLOT_INDEXES];
    let mut i = 0;
    while i < Field::TABLE.len() {
        table[slot(Field::TABLE[i].encoding.0)] = i as u8;
        i += 1;
    }
    table
};

const _: () = {
    assert!(Field::TABLE.len() < NO_FIELD as usize);
    let mut i = 0;
    while i < Field::TABLE.len() {
        let row = &Field::TABLE[i];
        let encoding = row.encoding.0;
        assert!(encoding & !0x6ffe == 0, "reserved bits of an encoding are 0");
        assert!(encoding >> 13 & 3 == row.width as u32, "bits 14:13 are the width");
        assert!(encoding >> 10 & 3 == row.kind as u32, "bits 11:10 are the type");
        assert!(row.encoding.index() < SLOT_INDEXES as u32);
        assert!(i == 0 || Field::TABLE[i - 1].encoding.0 < encoding, "rows ascend");
        i += 1;
    }
};

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_table_has_every_known_field() {
        // 206 fields that a hypervisor can meet, and 0x4830, which is only in a TDX module's VMCSs.
        assert_eq!(Field::COUNT, 207);
        let with_high_halves: usize = Field::TABLE.iter().map(|row| if row.width == Width::W64 { 2 } else { 1 }).sum();
        assert_eq!(with_high_halves, 285);
    }

    #[test]
    fn encodings_lead_to_their_fields_and_back() {
        for field in Field::all() {
            let full = field.encoding();
            assert_eq!(full.field(), Some(field));
            let high = FieldEncoding(full.0 | 1);
            assert_eq!(high.field(), (field.row().width == Width::W64).then_some(field));
            assert_eq!(Field::by_id(field.id()), Some(field));
        }
    }

    #[test]
    fn unknown_encodings_name_no_field() {
        for encoding in [0x000c, 0x1000, 0x8000, 0x6c1e, 0xffff_ffff, 0x0001_0000, 0x03fe, 0x080f] {
            assert_eq!(FieldEncoding(encoding).field(), None, "{encoding:#x}");
        }
    }

    #[test]
    fn segment_fields_follow_the_register_order() {
        use SegmentRegister::*;
        assert_eq!(Field::guest_selector(Tr), Field::GUEST_TR_SELECTOR);
        assert_eq!(Field::guest_base(Ldtr), Field::GUEST_LDTR_BASE);
        assert_eq!(Field::guest_limit(Fs), Field::GUEST_FS_LIMIT);
        assert_eq!(Field::guest_access_rights(Gs), Field::GUEST_GS_ACCESS_RIGHTS);
    }
}
