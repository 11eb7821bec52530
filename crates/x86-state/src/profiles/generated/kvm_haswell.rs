// Generated from profiles/*.toml by `cargo xtask profiles`; do not edit.

use crate::feature::CpuidLeaf;
use crate::profile::{CpuProfile, RawProfile};
use crate::profiles::UNKNOWN;

/// KVM nested VMX as seen by an L1 guest (QEMU, dumps of December 2021 and June 2022, host CPU not stated); observed.
pub static KVM_HASWELL: CpuProfile = CpuProfile::new(RawProfile {
    name: "kvm-haswell",
    description: "KVM nested VMX as seen by an L1 guest (QEMU, dumps of December 2021 and June 2022, host CPU not stated); observed",
    source: "OBSERVED: lxylxy123456/uberxmhf@3172c09b8ebd branch notes bug_014/intercept_4_qemu.txt (vmx_msrs[0..11] and vmx_msr_efcr read by XMHF as L1 on KVM; 0x3a, 0x480-0x48b); linear_address_bits: not in the dumps: 48 because vmx_cr4_fixed1 does not allow CR4.LA57 (bit 12), which KVM derives from the guest's CPUID; physical_address_bits: not in the dumps: 40 is what QEMU gives a guest unless -cpu says otherwise; vmx_ept_vpid_cap: same branch, bug_082/README.md (MSR list read by LHV on KVM, basic 0x00d8100011e57ed0); vmx_true_entry_ctls: bug_082/README.md; vmx_true_exit_ctls: bug_082/README.md reads 0x007ffdff00036dfb there (and 0x007ffdff00036dff for 0x483); host-address-space-size put back as in 0x483 of intercept_4_qemu.txt; vmx_true_pinbased_ctls: bug_082/README.md; vmx_true_procbased_ctls: bug_082/README.md; vmx_vmfunc: bug_082/README.md",
    cpuid: CPUID,
    vmx: [
        Some(0xd8100011e57ed0), // 0x480 IA32_VMX_BASIC
        Some(0x7f00000016), // 0x481 IA32_VMX_PINBASED_CTLS
        Some(0xfff9fffe0401e172), // 0x482 IA32_VMX_PROCBASED_CTLS
        Some(0x7fffff00036dff), // 0x483 IA32_VMX_EXIT_CTLS
        Some(0xf3ff000011ff), // 0x484 IA32_VMX_ENTRY_CTLS
        Some(0x20000065), // 0x485 IA32_VMX_MISC
        Some(0x80000021), // 0x486 IA32_VMX_CR0_FIXED0
        Some(0xffffffff), // 0x487 IA32_VMX_CR0_FIXED1
        Some(0x2000), // 0x488 IA32_VMX_CR4_FIXED0
        Some(0x1727ff), // 0x489 IA32_VMX_CR4_FIXED1
        Some(0x2e), // 0x48a IA32_VMX_VMCS_ENUM
        Some(0x78ff00000000), // 0x48b IA32_VMX_PROCBASED_CTLS2
        Some(0xf0106334041), // 0x48c IA32_VMX_EPT_VPID_CAP
        Some(0x7f00000016), // 0x48d IA32_VMX_TRUE_PINBASED_CTLS
        Some(0xfff9fffe04006172), // 0x48e IA32_VMX_TRUE_PROCBASED_CTLS
        Some(0x7fffff00036dfb), // 0x48f IA32_VMX_TRUE_EXIT_CTLS
        Some(0xf3ff000011fb), // 0x490 IA32_VMX_TRUE_ENTRY_CTLS
        Some(0x1), // 0x491 IA32_VMX_VMFUNC
        Some(0x0), // 0x492 IA32_VMX_PROCBASED_CTLS3: absent
        Some(0x0), // 0x493 IA32_VMX_EXIT_CTLS2: absent
    ],
    feature_control: Some(0x5),
    physical_width: 40,
    linear_width: 48,
    ..UNKNOWN
});

const CPUID: &[CpuidLeaf] = &[];
