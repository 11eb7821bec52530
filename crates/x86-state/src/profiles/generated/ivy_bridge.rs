// Generated from profiles/*.toml by `cargo xtask profiles`; do not edit.

use crate::feature::CpuidLeaf;
use crate::profile::{CpuProfile, RawProfile};
use crate::profiles::UNKNOWN;

/// Intel(R) Core(TM) i5-3570 CPU @ 3.40GHz (Ivy Bridge client), microcode not recorded.
pub static IVY_BRIDGE: CpuProfile = CpuProfile::new(RawProfile {
    name: "ivy-bridge",
    description: "Intel(R) Core(TM) i5-3570 CPU @ 3.40GHz (Ivy Bridge client), microcode not recorded",
    source: "VirtualBox 6.1.36 CPU database, pop-os/virtualbox@0c8f1c05c61c src/VBox/VMM/VMMR3/cpus/Intel_Core_i5_3570.h (VBoxCpuReport dump; same file in VirtualBox/virtualbox)",
    cpuid: CPUID,
    vmx: [
        Some(0xda040000000010), // 0x480 IA32_VMX_BASIC
        Some(0x7f00000016), // 0x481 IA32_VMX_PINBASED_CTLS
        Some(0xfff9fffe0401e172), // 0x482 IA32_VMX_PROCBASED_CTLS
        Some(0x7fffff00036dff), // 0x483 IA32_VMX_EXIT_CTLS
        Some(0xffff000011ff), // 0x484 IA32_VMX_ENTRY_CTLS
        Some(0x100401e5), // 0x485 IA32_VMX_MISC
        Some(0x80000021), // 0x486 IA32_VMX_CR0_FIXED0
        Some(0xffffffff), // 0x487 IA32_VMX_CR0_FIXED1
        Some(0x2000), // 0x488 IA32_VMX_CR4_FIXED0
        Some(0x1767ff), // 0x489 IA32_VMX_CR4_FIXED1
        Some(0x2a), // 0x48a IA32_VMX_VMCS_ENUM
        Some(0x8ff00000000), // 0x48b IA32_VMX_PROCBASED_CTLS2
        Some(0xf0106114141), // 0x48c IA32_VMX_EPT_VPID_CAP
        Some(0x7f00000016), // 0x48d IA32_VMX_TRUE_PINBASED_CTLS
        Some(0xfff9fffe04006172), // 0x48e IA32_VMX_TRUE_PROCBASED_CTLS
        Some(0x7fffff00036dfb), // 0x48f IA32_VMX_TRUE_EXIT_CTLS
        Some(0xffff000011fb), // 0x490 IA32_VMX_TRUE_ENTRY_CTLS
        Some(0x0), // 0x491 IA32_VMX_VMFUNC: absent
        Some(0x0), // 0x492 IA32_VMX_PROCBASED_CTLS3: absent
        Some(0x0), // 0x493 IA32_VMX_EXIT_CTLS2: absent
    ],
    feature_control: Some(0x5),
    physical_width: 36,
    linear_width: 48,
    ..UNKNOWN
});

const CPUID: &[CpuidLeaf] = &[
    CpuidLeaf { leaf: 0x0, subleaf: 0x0, regs: [0x0000000d, 0x756e6547, 0x6c65746e, 0x49656e69] },
    CpuidLeaf { leaf: 0x1, subleaf: 0x0, regs: [0x000306a9, 0x00100800, 0x7fbae3ff, 0xbfebfbff] },
    CpuidLeaf { leaf: 0x6, subleaf: 0x0, regs: [0x00000077, 0x00000002, 0x00000009, 0x00000000] },
    CpuidLeaf { leaf: 0x7, subleaf: 0x0, regs: [0x00000000, 0x00000281, 0x00000000, 0x00000000] },
    CpuidLeaf { leaf: 0xa, subleaf: 0x0, regs: [0x07300803, 0x00000000, 0x00000000, 0x00000603] },
    CpuidLeaf { leaf: 0xd, subleaf: 0x0, regs: [0x00000007, 0x00000340, 0x00000340, 0x00000000] },
    CpuidLeaf { leaf: 0x80000001, subleaf: 0x0, regs: [0x00000000, 0x00000000, 0x00000001, 0x28100800] },
    CpuidLeaf { leaf: 0x80000007, subleaf: 0x0, regs: [0x00000000, 0x00000000, 0x00000000, 0x00000100] },
    CpuidLeaf { leaf: 0x80000008, subleaf: 0x0, regs: [0x00003024, 0x00000000, 0x00000000, 0x00000000] },
];
