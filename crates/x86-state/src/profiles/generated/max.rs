// Generated from profiles/*.toml by `cargo xtask profiles`; do not edit.

use crate::feature::CpuidLeaf;
use crate::profile::{CpuProfile, RawProfile};
use crate::profiles::UNKNOWN;

/// Everything that softvirt models, with as little forced as the manual permits; no processor like it was made.
pub static MAX: CpuProfile = CpuProfile::new(RawProfile {
    name: "max",
    description: "Everything that softvirt models, with as little forced as the manual permits; no processor like it was made",
    source: "made for softvirt: SDM revision 077, Intel's FRED specification, and for controls marked `later` crates/vmx-model/src/control.rs; laid out as on Sapphire Rapids where the manual leaves a number open",
    cpuid: CPUID,
    vmx: [
        Some(0x4da100053560001), // 0x480 IA32_VMX_BASIC
        Some(0xff00000016), // 0x481 IA32_VMX_PINBASED_CTLS
        Some(0xfffbfffe0401e172), // 0x482 IA32_VMX_PROCBASED_CTLS
        Some(0xffffffff00036dff), // 0x483 IA32_VMX_EXIT_CTLS
        Some(0x1ffffff000011ff), // 0x484 IA32_VMX_ENTRY_CTLS
        Some(0x7004c1e5), // 0x485 IA32_VMX_MISC
        Some(0x80000021), // 0x486 IA32_VMX_CR0_FIXED0
        Some(0xffffffff), // 0x487 IA32_VMX_CR0_FIXED1
        Some(0x2000), // 0x488 IA32_VMX_CR4_FIXED0
        Some(0x11bff7fff), // 0x489 IA32_VMX_CR4_FIXED1
        Some(0x52), // 0x48a IA32_VMX_VMCS_ENUM
        Some(0xdfffffff00000000), // 0x48b IA32_VMX_PROCBASED_CTLS2
        Some(0x10f0106f341c1), // 0x48c IA32_VMX_EPT_VPID_CAP
        Some(0xff00000016), // 0x48d IA32_VMX_TRUE_PINBASED_CTLS
        Some(0xfffbfffe04006172), // 0x48e IA32_VMX_TRUE_PROCBASED_CTLS
        Some(0xffffffff00036dfb), // 0x48f IA32_VMX_TRUE_EXIT_CTLS
        Some(0x1ffffff000011fb), // 0x490 IA32_VMX_TRUE_ENTRY_CTLS
        Some(0x1), // 0x491 IA32_VMX_VMFUNC
        Some(0x1df), // 0x492 IA32_VMX_PROCBASED_CTLS3
        Some(0xf), // 0x493 IA32_VMX_EXIT_CTLS2
    ],
    feature_control: Some(0x6ff07),
    smm_monitor_ctl: Some(0x0),
    physical_width: 52,
    linear_width: 57,
    ..UNKNOWN
});

const CPUID: &[CpuidLeaf] = &[
    CpuidLeaf { leaf: 0x0, subleaf: 0x0, regs: [0x0000001c, 0x756e6547, 0x6c65746e, 0x49656e69] },
    CpuidLeaf { leaf: 0x1, subleaf: 0x0, regs: [0x000f06f0, 0x00010800, 0x77fefbff, 0xbfebfbff] },
    CpuidLeaf { leaf: 0x5, subleaf: 0x0, regs: [0x00000040, 0x00000040, 0x00000003, 0x00002020] },
    CpuidLeaf { leaf: 0x6, subleaf: 0x0, regs: [0x00082084, 0x00000000, 0x00000009, 0x00000003] },
    CpuidLeaf { leaf: 0x7, subleaf: 0x0, regs: [0x00000002, 0xf3bfffff, 0xfbc17fee, 0xffdd4530] },
    CpuidLeaf { leaf: 0x7, subleaf: 0x1, regs: [0x0c4e1c70, 0x00000000, 0x00000000, 0x00040000] },
    CpuidLeaf { leaf: 0x7, subleaf: 0x2, regs: [0x00000000, 0x00000000, 0x00000000, 0x0000001f] },
    CpuidLeaf { leaf: 0xa, subleaf: 0x0, regs: [0x08300805, 0x00000000, 0x0000000f, 0x00008604] },
    CpuidLeaf { leaf: 0xd, subleaf: 0x0, regs: [0x000602ff, 0x00000240, 0x00002b00, 0x00000000] },
    CpuidLeaf { leaf: 0xd, subleaf: 0x1, regs: [0x0000001f, 0x00000240, 0x0001fd00, 0x00000000] },
    CpuidLeaf { leaf: 0xd, subleaf: 0x2, regs: [0x00000100, 0x00000240, 0x00000000, 0x00000000] },
    CpuidLeaf { leaf: 0xd, subleaf: 0x3, regs: [0x00000040, 0x000003c0, 0x00000000, 0x00000000] },
    CpuidLeaf { leaf: 0xd, subleaf: 0x4, regs: [0x00000040, 0x00000400, 0x00000000, 0x00000000] },
    CpuidLeaf { leaf: 0xd, subleaf: 0x5, regs: [0x00000040, 0x00000440, 0x00000000, 0x00000000] },
    CpuidLeaf { leaf: 0xd, subleaf: 0x6, regs: [0x00000200, 0x00000480, 0x00000000, 0x00000000] },
    CpuidLeaf { leaf: 0xd, subleaf: 0x7, regs: [0x00000400, 0x00000680, 0x00000000, 0x00000000] },
    CpuidLeaf { leaf: 0xd, subleaf: 0x8, regs: [0x00000080, 0x00000000, 0x00000001, 0x00000000] },
    CpuidLeaf { leaf: 0xd, subleaf: 0x9, regs: [0x00000008, 0x00000a80, 0x00000000, 0x00000000] },
    CpuidLeaf { leaf: 0xd, subleaf: 0xa, regs: [0x00000008, 0x00000000, 0x00000001, 0x00000000] },
    CpuidLeaf { leaf: 0xd, subleaf: 0xb, regs: [0x00000010, 0x00000000, 0x00000001, 0x00000000] },
    CpuidLeaf { leaf: 0xd, subleaf: 0xc, regs: [0x00000018, 0x00000000, 0x00000001, 0x00000000] },
    CpuidLeaf { leaf: 0xd, subleaf: 0xd, regs: [0x00000008, 0x00000000, 0x00000001, 0x00000000] },
    CpuidLeaf { leaf: 0xd, subleaf: 0xe, regs: [0x00000030, 0x00000000, 0x00000001, 0x00000000] },
    CpuidLeaf { leaf: 0xd, subleaf: 0xf, regs: [0x00000328, 0x00000000, 0x00000001, 0x00000000] },
    CpuidLeaf { leaf: 0xd, subleaf: 0x10, regs: [0x00000008, 0x00000000, 0x00000001, 0x00000000] },
    CpuidLeaf { leaf: 0xd, subleaf: 0x11, regs: [0x00000040, 0x00000ac0, 0x00000002, 0x00000000] },
    CpuidLeaf { leaf: 0xd, subleaf: 0x12, regs: [0x00002000, 0x00000b00, 0x00000006, 0x00000000] },
    CpuidLeaf { leaf: 0x12, subleaf: 0x0, regs: [0x00000063, 0x00000001, 0x00000000, 0x0000381f] },
    CpuidLeaf { leaf: 0x14, subleaf: 0x0, regs: [0x00000001, 0x000001ff, 0x0000000f, 0x00000000] },
    CpuidLeaf { leaf: 0x14, subleaf: 0x1, regs: [0x02490004, 0x003f3fff, 0x00000000, 0x00000000] },
    CpuidLeaf { leaf: 0x19, subleaf: 0x0, regs: [0x00000007, 0x00000015, 0x00000003, 0x00000000] },
    CpuidLeaf { leaf: 0x1b, subleaf: 0x0, regs: [0x00000001, 0x00000001, 0x00000000, 0x00000000] },
    CpuidLeaf { leaf: 0x1c, subleaf: 0x0, regs: [0x400000ff, 0x00000007, 0x00000007, 0x00000000] },
    CpuidLeaf { leaf: 0x80000000, subleaf: 0x0, regs: [0x80000008, 0x00000000, 0x00000000, 0x00000000] },
    CpuidLeaf { leaf: 0x80000001, subleaf: 0x0, regs: [0x00000000, 0x00000000, 0x00000121, 0x2c100800] },
    CpuidLeaf { leaf: 0x80000002, subleaf: 0x0, regs: [0x74666f73, 0x74726976, 0x78616d20, 0x00000000] },
    CpuidLeaf { leaf: 0x80000003, subleaf: 0x0, regs: [0x00000000, 0x00000000, 0x00000000, 0x00000000] },
    CpuidLeaf { leaf: 0x80000004, subleaf: 0x0, regs: [0x00000000, 0x00000000, 0x00000000, 0x00000000] },
    CpuidLeaf { leaf: 0x80000007, subleaf: 0x0, regs: [0x00000000, 0x00000000, 0x00000000, 0x00000100] },
    CpuidLeaf { leaf: 0x80000008, subleaf: 0x0, regs: [0x00003934, 0x00000200, 0x00000000, 0x00000000] },
];
