// Generated from profiles/*.toml by `cargo xtask profiles`; do not edit.

use crate::feature::CpuidLeaf;
use crate::profile::{CpuProfile, RawProfile};
use crate::profiles::UNKNOWN;

/// Intel(R) Celeron(R) CPU J3455 @ 1.50GHz (Apollo Lake, Goldmont), microcode 0x1c.
pub static GOLDMONT: CpuProfile = CpuProfile::new(RawProfile {
    name: "goldmont",
    description: "Intel(R) Celeron(R) CPU J3455 @ 1.50GHz (Apollo Lake, Goldmont), microcode 0x1c",
    source: "InstLatx64/InstLatx64@087af2c7d72c GenuineIntel/GenuineIntel00506C9_Goldmont2_CPUID.txt (AIDA64 register dump; MSR block read on 1 logical CPU, all equal)",
    cpuid: CPUID,
    vmx: [
        Some(0xda040000000011), // 0x480 IA32_VMX_BASIC
        Some(0xff00000016), // 0x481 IA32_VMX_PINBASED_CTLS
        Some(0xfff9fffe0401e172), // 0x482 IA32_VMX_PROCBASED_CTLS
        Some(0x1ffffff00036dff), // 0x483 IA32_VMX_EXIT_CTLS
        Some(0x3ffff000011ff), // 0x484 IA32_VMX_ENTRY_CTLS
        Some(0x6004c1e7), // 0x485 IA32_VMX_MISC
        Some(0x80000021), // 0x486 IA32_VMX_CR0_FIXED0
        Some(0xffffffff), // 0x487 IA32_VMX_CR0_FIXED1
        Some(0x2000), // 0x488 IA32_VMX_CR4_FIXED0
        Some(0x3527ff), // 0x489 IA32_VMX_CR4_FIXED1
        Some(0x2e), // 0x48a IA32_VMX_VMCS_ENUM
        Some(0x1d6fff00000000), // 0x48b IA32_VMX_PROCBASED_CTLS2
        Some(0xf0106334141), // 0x48c IA32_VMX_EPT_VPID_CAP
        Some(0xff00000016), // 0x48d IA32_VMX_TRUE_PINBASED_CTLS
        Some(0xfff9fffe04006172), // 0x48e IA32_VMX_TRUE_PROCBASED_CTLS
        Some(0x1ffffff00036dfb), // 0x48f IA32_VMX_TRUE_EXIT_CTLS
        Some(0x3ffff000011fb), // 0x490 IA32_VMX_TRUE_ENTRY_CTLS
        None, // 0x491 IA32_VMX_VMFUNC: value unknown
        Some(0x0), // 0x492 IA32_VMX_PROCBASED_CTLS3: absent
        Some(0x0), // 0x493 IA32_VMX_EXIT_CTLS2: absent
    ],
    physical_width: 39,
    linear_width: 48,
    ..UNKNOWN
});

const CPUID: &[CpuidLeaf] = &[
    CpuidLeaf { leaf: 0x0, subleaf: 0x0, regs: [0x00000015, 0x756e6547, 0x6c65746e, 0x49656e69] },
    CpuidLeaf { leaf: 0x1, subleaf: 0x0, regs: [0x000506c9, 0x00200800, 0x4ff8ebbf, 0xbfebfbff] },
    CpuidLeaf { leaf: 0x6, subleaf: 0x0, regs: [0x00000057, 0x00000002, 0x00000001, 0x00000000] },
    CpuidLeaf { leaf: 0x7, subleaf: 0x0, regs: [0x00000000, 0x2294e283, 0x00000000, 0x00000000] },
    CpuidLeaf { leaf: 0xa, subleaf: 0x0, regs: [0x07300404, 0x00000000, 0x00000000, 0x00000603] },
    CpuidLeaf { leaf: 0xd, subleaf: 0x0, regs: [0x0000001b, 0x00000440, 0x00000440, 0x00000000] },
    CpuidLeaf { leaf: 0xd, subleaf: 0x1, regs: [0x0000000f, 0x000002c0, 0x00000100, 0x00000000] },
    CpuidLeaf { leaf: 0x14, subleaf: 0x0, regs: [0x00000001, 0x0000000f, 0x80000007, 0x00000000] },
    CpuidLeaf { leaf: 0x14, subleaf: 0x1, regs: [0x02490002, 0x003fffff, 0x00000000, 0x00000000] },
    CpuidLeaf { leaf: 0x80000001, subleaf: 0x0, regs: [0x00000000, 0x00000000, 0x00000101, 0x2c100000] },
    CpuidLeaf { leaf: 0x80000007, subleaf: 0x0, regs: [0x00000000, 0x00000000, 0x00000000, 0x00000100] },
    CpuidLeaf { leaf: 0x80000008, subleaf: 0x0, regs: [0x00003027, 0x00000000, 0x00000000, 0x00000000] },
];
