// Generated from profiles/*.toml by `cargo xtask profiles`; do not edit.

use crate::feature::CpuidLeaf;
use crate::profile::{CpuProfile, RawProfile};
use crate::profiles::UNKNOWN;

/// 12th Gen Intel(R) Core(TM) i9-12900K (Alder Lake-S), microcode 0x12.
pub static ALDER_LAKE: CpuProfile = CpuProfile::new(RawProfile {
    name: "alder-lake",
    description: "12th Gen Intel(R) Core(TM) i9-12900K (Alder Lake-S), microcode 0x12",
    source: "InstLatx64/InstLatx64@087af2c7d72c GenuineIntel/GenuineIntel0090672_AlderLake_01_LC_BC_CPUID.txt (AIDA64 register dump; MSR block read on 24 logical CPUs, all equal)",
    cpuid: CPUID,
    vmx: [
        Some(0x3da050000000013), // 0x480 IA32_VMX_BASIC
        Some(0xff00000016), // 0x481 IA32_VMX_PINBASED_CTLS
        Some(0xfffbfffe0401e172), // 0x482 IA32_VMX_PROCBASED_CTLS
        Some(0xf77fffff00036dff), // 0x483 IA32_VMX_EXIT_CTLS
        Some(0x76ffff000011ff), // 0x484 IA32_VMX_ENTRY_CTLS
        Some(0x7004c1e7), // 0x485 IA32_VMX_MISC
        Some(0x80000021), // 0x486 IA32_VMX_CR0_FIXED0
        Some(0xffffffff), // 0x487 IA32_VMX_CR0_FIXED1
        Some(0x2000), // 0x488 IA32_VMX_CR4_FIXED0
        Some(0x1ff6fff), // 0x489 IA32_VMX_CR4_FIXED1
        Some(0x2e), // 0x48a IA32_VMX_VMCS_ENUM
        Some(0xf5d7fff00000000), // 0x48b IA32_VMX_PROCBASED_CTLS2
        Some(0x10f0106f34141), // 0x48c IA32_VMX_EPT_VPID_CAP
        Some(0xff00000016), // 0x48d IA32_VMX_TRUE_PINBASED_CTLS
        Some(0xfffbfffe04006172), // 0x48e IA32_VMX_TRUE_PROCBASED_CTLS
        Some(0xf77fffff00036dfb), // 0x48f IA32_VMX_TRUE_EXIT_CTLS
        Some(0x76ffff000011fb), // 0x490 IA32_VMX_TRUE_ENTRY_CTLS
        None, // 0x491 IA32_VMX_VMFUNC: value unknown
        None, // 0x492 IA32_VMX_PROCBASED_CTLS3: value unknown
        None, // 0x493 IA32_VMX_EXIT_CTLS2: value unknown
    ],
    physical_width: 46,
    linear_width: 48,
    ..UNKNOWN
});

const CPUID: &[CpuidLeaf] = &[
    CpuidLeaf { leaf: 0x0, subleaf: 0x0, regs: [0x00000020, 0x756e6547, 0x6c65746e, 0x49656e69] },
    CpuidLeaf { leaf: 0x1, subleaf: 0x0, regs: [0x00090672, 0x00800800, 0x7ffafbff, 0xbfebfbff] },
    CpuidLeaf { leaf: 0x6, subleaf: 0x0, regs: [0x00dfcff5, 0x00000002, 0x00000409, 0x00000003] },
    CpuidLeaf { leaf: 0x7, subleaf: 0x0, regs: [0x00000001, 0x239ca7eb, 0x98c027ac, 0xfc1cc410] },
    CpuidLeaf { leaf: 0x7, subleaf: 0x1, regs: [0x00400810, 0x00000000, 0x00000000, 0x00000000] },
    CpuidLeaf { leaf: 0xa, subleaf: 0x0, regs: [0x07300605, 0x00000000, 0x00000007, 0x00008603] },
    CpuidLeaf { leaf: 0xd, subleaf: 0x0, regs: [0x00000207, 0x00000340, 0x00000a88, 0x00000000] },
    CpuidLeaf { leaf: 0xd, subleaf: 0x1, regs: [0x0000000f, 0x000003d0, 0x00019900, 0x00000000] },
    CpuidLeaf { leaf: 0x14, subleaf: 0x0, regs: [0x00000001, 0x0000005f, 0x00000007, 0x00000000] },
    CpuidLeaf { leaf: 0x14, subleaf: 0x1, regs: [0x02490002, 0x003f003f, 0x00000000, 0x00000000] },
    CpuidLeaf { leaf: 0x19, subleaf: 0x0, regs: [0x00000007, 0x00000014, 0x00000003, 0x00000000] },
    CpuidLeaf { leaf: 0x1c, subleaf: 0x0, regs: [0x4000000b, 0x00000007, 0x00000007, 0x00000000] },
    CpuidLeaf { leaf: 0x80000001, subleaf: 0x0, regs: [0x00000000, 0x00000000, 0x00000121, 0x2c100000] },
    CpuidLeaf { leaf: 0x80000007, subleaf: 0x0, regs: [0x00000000, 0x00000000, 0x00000000, 0x00000100] },
    CpuidLeaf { leaf: 0x80000008, subleaf: 0x0, regs: [0x0000302e, 0x00000000, 0x00000000, 0x00000000] },
];
