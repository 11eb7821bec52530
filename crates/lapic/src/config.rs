//! Which local APIC is it? What differs between processors, once and for all.
//!
//! Source: SDM 3A 10.4.8 (rev 077), Local APIC Version Register, and the sections that say "model specific".

use x86_state::{CpuProfile, Feature};

/// Whose local APIC: where the two vendors' manuals differ.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Vendor {
    /// SDM 3A chapter 10.
    Intel,
    /// APM 2 chapter 16. The extended register space (offsets from 400H on) is not modelled, and the version register says so.
    Amd,
}

/// What a processor's local APIC is and has. Nothing changes it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct Config {
    /// The x2APIC ID, unique in the machine; bits `[7:0]` are the initial xAPIC ID.
    pub id: u32,
    /// Is it the bootstrap processor (IA32_APIC_BASE\[8\] after a reset)?
    pub bootstrap: bool,
    /// Which manual holds.
    pub vendor: Vendor,
    /// The version number in the version register, 0x10 to 0x15.
    pub version: u8,
    /// Physical address width in bits, for the reserved bits of IA32_APIC_BASE.
    pub physical_width: u8,
    /// x2APIC mode exists (CPUID.1:ECX\[21\]).
    pub x2apic: bool,
    /// TSC-deadline mode exists (CPUID.1:ECX\[24\]).
    pub tsc_deadline: bool,
    /// SVR\[12\] exists: software may suppress the broadcast of EOIs (version register bit 24).
    pub eoi_suppression: bool,
    /// The LVT has an entry for corrected machine checks.
    pub lvt_cmci: bool,
    /// The LVT has an entry for the thermal sensor.
    pub lvt_thermal: bool,
    /// The LVT has an entry for performance counters.
    pub lvt_performance: bool,
    /// Software may change the xAPIC ID (SDM 3A 10.4.6, Local APIC ID: model specific).
    pub id_writable: bool,
    /// IPIs may ask for lowest-priority delivery in xAPIC mode (10.6.1: model specific). x2APIC mode has no encoding for it.
    pub lowest_priority_ipi: bool,
    /// SVR\[9\] exists, and a focus processor takes lowest-priority interrupts while it is 0 (10.6.2.4; APM 2 16.6.2).
    pub focus_checking: bool,
}

impl Config {
    /// A present-day Intel processor's: everything there but a writable ID and the focus processor; 46 address bits.
    #[must_use]
    pub const fn intel(id: u32) -> Self {
        Self {
            id,
            bootstrap: id == 0,
            vendor: Vendor::Intel,
            version: 0x15,
            physical_width: 46,
            x2apic: true,
            tsc_deadline: true,
            eoi_suppression: true,
            lvt_cmci: true,
            lvt_thermal: true,
            lvt_performance: true,
            id_writable: false,
            lowest_priority_ipi: true,
            focus_checking: false,
        }
    }

    /// A present-day AMD processor's, without the extended register space; 48 address bits.
    #[must_use]
    pub const fn amd(id: u32) -> Self {
        Self {
            vendor: Vendor::Amd,
            version: 0x10,
            physical_width: 48,
            eoi_suppression: false,
            lvt_cmci: false,
            focus_checking: true,
            ..Self::intel(id)
        }
    }

    /// The same with what a profile's CPUID says of x2APIC and TSC-deadline mode, and with its address width.
    /// Where the profile does not know, there is none.
    ///
    /// Nothing enumerates whether software may change the xAPIC ID (10.4.6: "some processors permit" it). The reading taken: processors without
    /// x2APIC do; of others the choice of `self` stays.
    #[must_use]
    pub fn with_profile(self, profile: &CpuProfile) -> Self {
        let x2apic = profile.has(Feature::X2APIC) == Some(true);
        Self {
            x2apic,
            id_writable: self.id_writable || !x2apic,
            tsc_deadline: profile.has(Feature::TSC_DEADLINE) == Some(true),
            physical_width: profile.physical_width(),
            ..self
        }
    }

    /// The version register: version `[7:0]`, number of LVT entries minus 1 `[23:16]`, EOI-broadcast suppression 24.
    #[must_use]
    pub const fn version_register(&self) -> u32 {
        // Timer, LINT0, LINT1 and error are always there.
        let more = self.lvt_cmci as u32 + self.lvt_thermal as u32 + self.lvt_performance as u32;
        self.version as u32 | (3 + more) << 16 | (self.eoi_suppression as u32) << 24
    }
}
