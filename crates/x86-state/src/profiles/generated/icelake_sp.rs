// Generated from profiles/*.toml by `cargo xtask profiles`; do not edit.

use crate::feature::CpuidLeaf;
use crate::profile::{CpuProfile, RawProfile};
use crate::profiles::UNKNOWN;

/// Intel(R) Xeon(R) Platinum 8351N CPU @ 2.40GHz (Ice Lake-SP), microcode 0xd000280.
pub static ICELAKE_SP: CpuProfile = CpuProfile::new(RawProfile {
    name: "icelake-sp",
    description: "Intel(R) Xeon(R) Platinum 8351N CPU @ 2.40GHz (Ice Lake-SP), microcode 0xd000280",
    source: "InstLatx64/InstLatx64@087af2c7d72c GenuineIntel/GenuineIntel00606A6_ICX_CPUID3.txt (AIDA64 register dump; MSR block read on 72 logical CPUs, all equal)",
    cpuid: CPUID,
    vmx: [
        Some(0xda050000000013), // 0x480 IA32_VMX_BASIC
        Some(0xff00000016), // 0x481 IA32_VMX_PINBASED_CTLS
        Some(0xfff9fffe0401e172), // 0x482 IA32_VMX_PROCBASED_CTLS
        Some(0x37fffff00036dff), // 0x483 IA32_VMX_EXIT_CTLS
        Some(0x6ffff000011ff), // 0x484 IA32_VMX_ENTRY_CTLS
        Some(0x7004c1e7), // 0x485 IA32_VMX_MISC
        Some(0x80000021), // 0x486 IA32_VMX_CR0_FIXED0
        Some(0xffffffff), // 0x487 IA32_VMX_CR0_FIXED1
        Some(0x2000), // 0x488 IA32_VMX_CR4_FIXED0
        Some(0x777fff), // 0x489 IA32_VMX_CR4_FIXED1
        Some(0x2e), // 0x48a IA32_VMX_VMCS_ENUM
        Some(0x4bdfffff00000000), // 0x48b IA32_VMX_PROCBASED_CTLS2
        Some(0xf01067341c1), // 0x48c IA32_VMX_EPT_VPID_CAP
        Some(0xff00000016), // 0x48d IA32_VMX_TRUE_PINBASED_CTLS
        Some(0xfff9fffe04006172), // 0x48e IA32_VMX_TRUE_PROCBASED_CTLS
        Some(0x37fffff00036dfb), // 0x48f IA32_VMX_TRUE_EXIT_CTLS
        Some(0x6ffff000011fb), // 0x490 IA32_VMX_TRUE_ENTRY_CTLS
        None, // 0x491 IA32_VMX_VMFUNC: value unknown
        Some(0x0), // 0x492 IA32_VMX_PROCBASED_CTLS3: absent
        Some(0x0), // 0x493 IA32_VMX_EXIT_CTLS2: absent
    ],
    physical_width: 46,
    linear_width: 57,
    ..UNKNOWN
});

const CPUID: &[CpuidLeaf] = &[
    CpuidLeaf { leaf: 0x0, subleaf: 0x0, regs: [0x0000001b, 0x756e6547, 0x6c65746e, 0x49656e69] },
    CpuidLeaf { leaf: 0x1, subleaf: 0x0, regs: [0x000606a6, 0x00800800, 0x7ffefbff, 0xbfebfbff] },
    CpuidLeaf { leaf: 0x6, subleaf: 0x0, regs: [0x00000077, 0x00000002, 0x00000009, 0x00000000] },
    CpuidLeaf { leaf: 0x7, subleaf: 0x0, regs: [0x00000000, 0xf3bfbfff, 0x40417f4e, 0xbc040412] },
    CpuidLeaf { leaf: 0xa, subleaf: 0x0, regs: [0x08300805, 0x00000000, 0x0000000f, 0x00008604] },
    CpuidLeaf { leaf: 0xd, subleaf: 0x0, regs: [0x000002e7, 0x00000a80, 0x00000a88, 0x00000000] },
    CpuidLeaf { leaf: 0xd, subleaf: 0x1, regs: [0x0000000f, 0x00000a00, 0x00000100, 0x00000000] },
    CpuidLeaf { leaf: 0x14, subleaf: 0x0, regs: [0x00000001, 0x0000000f, 0x00000007, 0x00000000] },
    CpuidLeaf { leaf: 0x14, subleaf: 0x1, regs: [0x02490002, 0x003f1fff, 0x00000000, 0x00000000] },
    CpuidLeaf { leaf: 0x19, subleaf: 0x0, regs: [0x00000000, 0x00000000, 0x00000000, 0x00000000] },
    CpuidLeaf { leaf: 0x80000001, subleaf: 0x0, regs: [0x00000000, 0x00000000, 0x00000121, 0x2c100000] },
    CpuidLeaf { leaf: 0x80000007, subleaf: 0x0, regs: [0x00000000, 0x00000000, 0x00000000, 0x00000100] },
    CpuidLeaf { leaf: 0x80000008, subleaf: 0x0, regs: [0x0000392e, 0x00000200, 0x00000000, 0x00000000] },
];
