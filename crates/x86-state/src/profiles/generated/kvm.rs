// Generated from profiles/*.toml by `cargo xtask profiles`; do not edit.

use crate::feature::CpuidLeaf;
use crate::profile::{CpuProfile, RawProfile};
use crate::profiles::UNKNOWN;

/// KVM (Linux 6.12) nested VMX as seen by an L1 guest, host Xeon Platinum 8570 (Emerald Rapids); computed from the source.
pub static KVM: CpuProfile = CpuProfile::new(RawProfile {
    name: "kvm",
    description: "KVM (Linux 6.12) nested VMX as seen by an L1 guest, host Xeon Platinum 8570 (Emerald Rapids); computed from the source",
    source: "COMPUTED: rules of Debian linux-source-6.12 6.12.117-1~deb12u1 arch/x86/kvm/vmx/nested.c (nested_vmx_setup_ctls_msrs, vmx_get_vmx_msr) and vmx.c (setup_vmcs_config, nested_vmx_cr_fixed1_bits_update), applied to the raw MSRs of emerald-rapids.toml; feature_control: observed in a KVM L1 under QEMU: lxylxy123456/uberxmhf branch notes bug_014/intercept_4_qemu.txt (vmx_msr_efcr)",
    cpuid: CPUID,
    vmx: [
        Some(0xd8100011e57ed0), // 0x480 IA32_VMX_BASIC
        Some(0xff00000016), // 0x481 IA32_VMX_PINBASED_CTLS
        Some(0xfff9fffe0401e172), // 0x482 IA32_VMX_PROCBASED_CTLS
        Some(0x7fffff00036dff), // 0x483 IA32_VMX_EXIT_CTLS
        Some(0xf3ff000011ff), // 0x484 IA32_VMX_ENTRY_CTLS
        Some(0x20000165), // 0x485 IA32_VMX_MISC
        Some(0x80000021), // 0x486 IA32_VMX_CR0_FIXED0
        Some(0xffffffff), // 0x487 IA32_VMX_CR0_FIXED1
        Some(0x2000), // 0x488 IA32_VMX_CR4_FIXED0
        Some(0x773fff), // 0x489 IA32_VMX_CR4_FIXED1
        Some(0x32), // 0x48a IA32_VMX_VMCS_ENUM
        Some(0x6137bff00000000), // 0x48b IA32_VMX_PROCBASED_CTLS2
        Some(0xf01063340c1), // 0x48c IA32_VMX_EPT_VPID_CAP
        Some(0xff00000016), // 0x48d IA32_VMX_TRUE_PINBASED_CTLS
        Some(0xfff9fffe04006172), // 0x48e IA32_VMX_TRUE_PROCBASED_CTLS
        Some(0x7fffff00036dfb), // 0x48f IA32_VMX_TRUE_EXIT_CTLS
        Some(0xf3ff000011fb), // 0x490 IA32_VMX_TRUE_ENTRY_CTLS
        Some(0x1), // 0x491 IA32_VMX_VMFUNC
        Some(0x0), // 0x492 IA32_VMX_PROCBASED_CTLS3: absent
        Some(0x0), // 0x493 IA32_VMX_EXIT_CTLS2: absent
    ],
    feature_control: Some(0x5),
    physical_width: 46,
    linear_width: 57,
    ..UNKNOWN
});

const CPUID: &[CpuidLeaf] = &[];
