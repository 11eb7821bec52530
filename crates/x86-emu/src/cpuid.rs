//! What does CPUID answer? What the profile says, as far as the emulator models it, with the bits that follow the state.
//!
//! Source: SDM 2A, CPUID.

use x86_state::{Cpu, CpuProfile, CpuidReg, Cr4, Feature};

/// Features that a profile may announce and the emulator does not model: CPUID conceals them.
pub const NOT_MODELLED: &[Feature] = &[
    Feature::SMX,
    Feature::SGX,
    Feature::HLE,
    Feature::RTM,
    Feature::MPX,
    Feature::INTEL_PT,
    Feature::CET_SS,
    Feature::CET_IBT,
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
    Feature::WAITPKG,
    Feature::XFD,
];

/// EAX, EBX, ECX and EDX for a leaf and a subleaf.
#[must_use]
pub fn answer(profile: &CpuProfile, cpu: &Cpu, leaf: u32, subleaf: u32) -> [u32; 4] {
    let mut registers = profile.cpuid(leaf, subleaf).map_or([0; 4], |found| found.regs);
    for feature in NOT_MODELLED {
        let row = &Feature::TABLE[*feature as usize];
        if row.leaf == leaf && row.subleaf == subleaf {
            let register = match row.reg {
                CpuidReg::Eax => 0,
                CpuidReg::Ebx => 1,
                CpuidReg::Ecx => 2,
                CpuidReg::Edx => 3,
            };
            registers[register] &= !(1 << row.bit);
        }
    }
    match (leaf, subleaf) {
        // OSXSAVE follows CR4.
        (1, _) => set(&mut registers[2], 27, cpu.cr4.contains(Cr4::OSXSAVE)),
        // OSPKE follows CR4.
        (7, 0) => set(&mut registers[2], 4, cpu.cr4.contains(Cr4::PKE)),
        _ => {}
    }
    registers
}

fn set(register: &mut u32, bit: u32, value: bool) {
    *register = *register & !(1 << bit) | u32::from(value) << bit;
}
