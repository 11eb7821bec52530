// Generated from profiles/*.toml by `cargo xtask profiles`; do not edit.

use crate::feature::CpuidLeaf;
use crate::profile::{CpuProfile, RawProfile};
use crate::profiles::UNKNOWN;

/// Intel(R) Xeon(R) 658X (Granite Rapids workstation), microcode 0x10001d0.
pub static GRANITE_RAPIDS: CpuProfile = CpuProfile::new(RawProfile {
    name: "granite-rapids",
    description: "Intel(R) Xeon(R) 658X (Granite Rapids workstation), microcode 0x10001d0",
    source: "InstLatx64/InstLatx64@087af2c7d72c GenuineIntel/GenuineIntel00A06D1_GraniteRapids_03_CPUID.txt (AIDA64 register dump; MSR block read on 48 logical CPUs, all equal)",
    cpuid: CPUID,
    vmx: [
        Some(0x3da050000000013), // 0x480 IA32_VMX_BASIC
        Some(0xff00000016), // 0x481 IA32_VMX_PINBASED_CTLS
        Some(0xfffbfffe0401e172), // 0x482 IA32_VMX_PROCBASED_CTLS
        Some(0xff7fffff00036dff), // 0x483 IA32_VMX_EXIT_CTLS
        Some(0x7effff000011ff), // 0x484 IA32_VMX_ENTRY_CTLS
        Some(0x7004c1e7), // 0x485 IA32_VMX_MISC
        Some(0x80000021), // 0x486 IA32_VMX_CR0_FIXED0
        Some(0xffffffff), // 0x487 IA32_VMX_CR0_FIXED1
        Some(0x2000), // 0x488 IA32_VMX_CR4_FIXED0
        Some(0x3f77fff), // 0x489 IA32_VMX_CR4_FIXED1
        Some(0x2e), // 0x48a IA32_VMX_VMCS_ENUM
        Some(0xcfff7fff00000000), // 0x48b IA32_VMX_PROCBASED_CTLS2
        Some(0x10f0106f341c1), // 0x48c IA32_VMX_EPT_VPID_CAP
        Some(0xff00000016), // 0x48d IA32_VMX_TRUE_PINBASED_CTLS
        Some(0xfffbfffe04006172), // 0x48e IA32_VMX_TRUE_PROCBASED_CTLS
        Some(0xff7fffff00036dfb), // 0x48f IA32_VMX_TRUE_EXIT_CTLS
        Some(0x7effff000011fb), // 0x490 IA32_VMX_TRUE_ENTRY_CTLS
        None, // 0x491 IA32_VMX_VMFUNC: value unknown
        None, // 0x492 IA32_VMX_PROCBASED_CTLS3: value unknown
        None, // 0x493 IA32_VMX_EXIT_CTLS2: value unknown
    ],
    physical_width: 52,
    linear_width: 57,
    ..UNKNOWN
});

const CPUID: &[CpuidLeaf] = &[
    CpuidLeaf { leaf: 0x0, subleaf: 0x0, regs: [0x00000024, 0x756e6547, 0x6c65746e, 0x49656e69] },
    CpuidLeaf { leaf: 0x1, subleaf: 0x0, regs: [0x000a06d1, 0x00800800, 0x7ffefbff, 0xbfebfbff] },
    CpuidLeaf { leaf: 0x6, subleaf: 0x0, regs: [0x0065cef7, 0x00000002, 0x00000001, 0x00000000] },
    CpuidLeaf { leaf: 0x7, subleaf: 0x0, regs: [0x00000002, 0xf3bfbffb, 0xbb417fee, 0xffdd4430] },
    CpuidLeaf { leaf: 0x7, subleaf: 0x1, regs: [0x40201d30, 0x00000001, 0x00000000, 0x000e4000] },
    CpuidLeaf { leaf: 0x7, subleaf: 0x2, regs: [0x00000000, 0x00000000, 0x00000000, 0x0000003f] },
    CpuidLeaf { leaf: 0xa, subleaf: 0x0, regs: [0x08300805, 0x00000000, 0x0000000f, 0x00008604] },
    CpuidLeaf { leaf: 0xd, subleaf: 0x0, regs: [0x000602e7, 0x00002b00, 0x00002b00, 0x00000000] },
    CpuidLeaf { leaf: 0xd, subleaf: 0x1, regs: [0x0000001f, 0x00002a80, 0x0001dd00, 0x00000000] },
    CpuidLeaf { leaf: 0x14, subleaf: 0x0, regs: [0x00000001, 0x0000005f, 0x00000007, 0x00000000] },
    CpuidLeaf { leaf: 0x14, subleaf: 0x1, regs: [0x02490002, 0x003f003f, 0x00000000, 0x00000000] },
    CpuidLeaf { leaf: 0x19, subleaf: 0x0, regs: [0x00000000, 0x00000000, 0x00000000, 0x00000000] },
    CpuidLeaf { leaf: 0x1c, subleaf: 0x0, regs: [0x4000000b, 0x00000007, 0x00000007, 0x00000000] },
    CpuidLeaf { leaf: 0x80000001, subleaf: 0x0, regs: [0x00000000, 0x00000000, 0x00000121, 0x2c100000] },
    CpuidLeaf { leaf: 0x80000007, subleaf: 0x0, regs: [0x00000000, 0x00000000, 0x00000000, 0x00000100] },
    CpuidLeaf { leaf: 0x80000008, subleaf: 0x0, regs: [0x00003934, 0x00000200, 0x00000000, 0x00000000] },
];
