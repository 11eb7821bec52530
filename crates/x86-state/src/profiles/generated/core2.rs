// Generated from profiles/*.toml by `cargo xtask profiles`; do not edit.

use crate::feature::CpuidLeaf;
use crate::profile::{CpuProfile, RawProfile};
use crate::profiles::UNKNOWN;

/// Intel(R) Core(TM)2 CPU X6800 @ 2.93GHz (Conroe, Core 2, 65 nm), microcode 0xc6.
pub static CORE2: CpuProfile = CpuProfile::new(RawProfile {
    name: "core2",
    description: "Intel(R) Core(TM)2 CPU X6800 @ 2.93GHz (Conroe, Core 2, 65 nm), microcode 0xc6",
    source: "VirtualBox 6.1.36 CPU database, pop-os/virtualbox@0c8f1c05c61c src/VBox/VMM/VMMR3/cpus/Intel_Core2_X6800_2_93GHz.h (VBoxCpuReport dump; same file in VirtualBox/virtualbox)",
    cpuid: CPUID,
    vmx: [
        Some(0x1a040000000007), // 0x480 IA32_VMX_BASIC
        Some(0x1f00000016), // 0x481 IA32_VMX_PINBASED_CTLS
        Some(0x77b9fffe0401e172), // 0x482 IA32_VMX_PROCBASED_CTLS
        Some(0x3efff00036dff), // 0x483 IA32_VMX_EXIT_CTLS
        Some(0x1fff000011ff), // 0x484 IA32_VMX_ENTRY_CTLS
        Some(0x403c0), // 0x485 IA32_VMX_MISC
        Some(0x80000021), // 0x486 IA32_VMX_CR0_FIXED0
        Some(0xffffffff), // 0x487 IA32_VMX_CR0_FIXED1
        Some(0x2000), // 0x488 IA32_VMX_CR4_FIXED0
        Some(0x27ff), // 0x489 IA32_VMX_CR4_FIXED1
        Some(0x2c), // 0x48a IA32_VMX_VMCS_ENUM
        Some(0x0), // 0x48b IA32_VMX_PROCBASED_CTLS2: absent
        Some(0x0), // 0x48c IA32_VMX_EPT_VPID_CAP: absent
        Some(0x0), // 0x48d IA32_VMX_TRUE_PINBASED_CTLS: absent
        Some(0x0), // 0x48e IA32_VMX_TRUE_PROCBASED_CTLS: absent
        Some(0x0), // 0x48f IA32_VMX_TRUE_EXIT_CTLS: absent
        Some(0x0), // 0x490 IA32_VMX_TRUE_ENTRY_CTLS: absent
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
    CpuidLeaf { leaf: 0x0, subleaf: 0x0, regs: [0x0000000a, 0x756e6547, 0x6c65746e, 0x49656e69] },
    CpuidLeaf { leaf: 0x1, subleaf: 0x0, regs: [0x000006f6, 0x00020800, 0x0000e3bd, 0xbfebfbff] },
    CpuidLeaf { leaf: 0x6, subleaf: 0x0, regs: [0x00000001, 0x00000002, 0x00000001, 0x00000000] },
    CpuidLeaf { leaf: 0x7, subleaf: 0x0, regs: [0x00000000, 0x00000000, 0x00000000, 0x00000000] },
    CpuidLeaf { leaf: 0xa, subleaf: 0x0, regs: [0x07280202, 0x00000000, 0x00000000, 0x00000000] },
    CpuidLeaf { leaf: 0x80000001, subleaf: 0x0, regs: [0x00000000, 0x00000000, 0x00000001, 0x20100800] },
    CpuidLeaf { leaf: 0x80000007, subleaf: 0x0, regs: [0x00000000, 0x00000000, 0x00000000, 0x00000000] },
    CpuidLeaf { leaf: 0x80000008, subleaf: 0x0, regs: [0x00003024, 0x00000000, 0x00000000, 0x00000000] },
];
