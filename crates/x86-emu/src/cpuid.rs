//! What does CPUID answer? What the profile says, as far as the emulator models it, with the bits that follow the state.
//!
//! Source: SDM 2A, CPUID.

use crate::msrs::Registers;
use crate::topology::Topology;
use x86_state::{Cpu, CpuMode, CpuProfile, Cr4, Feature};

/// Features that a profile may announce and the emulator does not model: CPUID conceals them.
pub const NOT_MODELLED: &[Feature] = &[
    Feature::SMX,
    Feature::SGX,
    Feature::HLE,
    Feature::RTM,
    Feature::MPX,
    Feature::INTEL_PT,
    Feature::KL,
    Feature::ENQCMD,
    Feature::SGX_LC,
    Feature::UINTR,
    Feature::PCONFIG,
    Feature::ARCH_LBR,
    Feature::LASS,
    Feature::FRED,
    Feature::LKGS,
    Feature::WRMSRNS,
    Feature::HRESET,
    Feature::MSRLIST,
    Feature::DS,
    Feature::DS_CPL,
    Feature::TME,
    Feature::XFD,
];

/// The leaf that tells the highest extended leaf.
const EXTENDED: u32 = 0x8000_0000;

/// EAX, EBX, ECX and EDX for a leaf and a subleaf.
#[must_use]
pub fn answer(profile: &CpuProfile, cpu: &Cpu, leaf: u32, subleaf: u32) -> [u32; 4] {
    let subleaf = if has_subleaves(leaf) { subleaf } else { 0 };
    let mut registers = profile.cpuid(leaf, subleaf).map_or([0; 4], |found| found.regs);
    crate::concealed::conceal(leaf, subleaf, &mut registers);
    match (leaf, subleaf) {
        (0xd, _) => registers = crate::xsave::leaf(profile, cpu, subleaf),
        // OSXSAVE follows CR4, APIC follows IA32_APIC_BASE.EN.
        (1, _) => {
            set(&mut registers[2], 27, cpu.cr4.contains(Cr4::OSXSAVE));
            let apic = registers[3] >> 9 & 1 == 1 && cpu.apic_base >> 11 & 1 == 1;
            set(&mut registers[3], 9, apic);
        }
        // A profile that does not record the highest extended leaf has recorded that leaf itself.
        (EXTENDED, _) if profile.cpuid(EXTENDED, 0).is_none() => {
            registers[0] = profile.raw().cpuid.iter().map(|found| found.leaf).max().unwrap_or(0).max(EXTENDED);
        }
        // OSPKE follows CR4.
        (7, 0) => set(&mut registers[2], 4, cpu.cr4.contains(Cr4::PKE)),
        // SYSCALL is announced in 64-bit mode only.
        (0x8000_0001, _) if cpu.mode() != CpuMode::Long64 => set(&mut registers[3], 11, false),
        _ => {}
    }
    registers
}

/// Does ECX select a part of this leaf? Elsewhere it is not looked at.
const fn has_subleaves(leaf: u32) -> bool {
    matches!(leaf, 4 | 7 | 0xb | 0xd | 0xf | 0x10 | 0x12 | 0x14 | 0x17 | 0x18 | 0x1b | 0x1d..=0x20 | 0x23 | 0x24)
}

/// The same with what depends on the machine, and on IA32_MISC_ENABLE.
#[must_use]
pub fn answer_in(
    profile: &CpuProfile,
    cpu: &Cpu,
    registers: &Registers,
    topology: Topology,
    leaf: u32,
    subleaf: u32,
) -> [u32; 4] {
    let mut answer = answer(profile, cpu, leaf, subleaf);
    let highest = profile.cpuid(0, 0).map_or(0, |leaf| leaf.regs[0]);
    topology.complete(leaf, subleaf, highest, &mut answer);
    match leaf {
        0 if registers.limits_cpuid() => answer[0] = answer[0].min(2),
        1 if !registers.monitor_enabled() => set(&mut answer[2], 3, false),
        0x8000_0001 if registers.execute_disable_concealed() => set(&mut answer[3], 20, false),
        _ => {}
    }
    answer
}

fn set(register: &mut u32, bit: u32, value: bool) {
    *register = *register & !(1 << bit) | u32::from(value) << bit;
}
