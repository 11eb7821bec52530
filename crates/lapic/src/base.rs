//! Is the local APIC there, where, and in which mode? IA32_APIC_BASE and its transitions.
//!
//! Source: SDM 3A 10.4.4 (rev 077), Local APIC Status and Location; 10.12.5, x2APIC State Transitions.

use x86_state::{Hpa, MsrFault};

use crate::config::Config;

/// IA32_APIC_BASE (MSR 0x1B).
///
/// ```text
///  63        MAXPHYADDR                12 11  10   9   8  7     0
/// |  reserved  |       APIC base         |EN|EXTD| 0 |BSP|reserved|
/// ```
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct ApicBase(pub u64);

/// How the local APIC is reached (table 10-5, x2APIC Operating Mode Configurations).
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum ApicMode {
    /// EN = 0, EXTD = 0: as if the processor had none.
    Disabled,
    /// EN = 1, EXTD = 0: registers in memory.
    XApic,
    /// EN = 1, EXTD = 1: registers as MSRs.
    X2Apic,
}

impl ApicBase {
    /// Bit 8, BSP: the bootstrap processor.
    pub const BSP: u64 = 1 << 8;
    /// Bit 10, EXTD: x2APIC mode.
    pub const EXTD: u64 = 1 << 10;
    /// Bit 11, EN: the local APIC is enabled.
    pub const EN: u64 = 1 << 11;
    /// Where the registers are after a reset.
    pub const DEFAULT_ADDRESS: u64 = 0xfee0_0000;

    /// The value after a reset: enabled, in xAPIC mode, at 0xFEE0_0000.
    ///
    /// APM 2 16.10, x2APIC Initialization, says that RESET clears AE; but AMD processors too come out of it with the local
    /// APIC enabled for their firmware, and SDM 3A 10.12.5.1 and 10.8.6.1 say so. Enabled for both vendors here.
    #[must_use]
    pub const fn reset(bootstrap: bool) -> Self {
        Self(Self::DEFAULT_ADDRESS | Self::EN | if bootstrap { Self::BSP } else { 0 })
    }

    /// The mode. EXTD without EN cannot be written; should it stand here all the same, it counts as disabled.
    #[must_use]
    pub const fn mode(self) -> ApicMode {
        match (self.0 & Self::EN != 0, self.0 & Self::EXTD != 0) {
            (true, false) => ApicMode::XApic,
            (true, true) => ApicMode::X2Apic,
            (false, _) => ApicMode::Disabled,
        }
    }

    /// Where the register page begins in physical memory, whatever the mode.
    #[must_use]
    pub const fn address(self) -> Hpa {
        Hpa(self.0 & 0x000f_ffff_ffff_f000)
    }

    /// Would WRMSR accept this value after the present one?
    ///
    /// # Errors
    /// `ReservedBits`: bits `[7:0]`, bit 9, EXTD without x2APIC, address bits beyond the physical width.
    /// `ApicTransition`: EXTD without EN, x2APIC to xAPIC, disabled to x2APIC (figure 10-27). Both are #GP(0).
    pub const fn check_write(self, value: u64, config: &Config) -> Result<ApicMode, MsrFault> {
        let beyond = if config.physical_width >= 64 { 0 } else { u64::MAX << config.physical_width };
        let no_x2apic = if config.x2apic { 0 } else { Self::EXTD };
        let reserved = value & (beyond | no_x2apic | 0x2ff);
        if reserved != 0 {
            return Err(MsrFault::ReservedBits(reserved));
        }
        let to = Self(value).mode();
        match (self.mode(), to) {
            (_, ApicMode::Disabled) if value & Self::EXTD != 0 => Err(MsrFault::ApicTransition),
            (ApicMode::X2Apic, ApicMode::XApic) | (ApicMode::Disabled, ApicMode::X2Apic) => {
                Err(MsrFault::ApicTransition)
            }
            _ => Ok(to),
        }
    }
}
