//! Which model-specific registers does the processor have beside those of a `Cpu` and those of its surroundings? Plain data.
//!
//! [`Registers`] has what needs nothing outside: MTRRs, machine-check banks, performance counters, branch records, IA32_MISC_ENABLE and
//! so on. The bus is left with what belongs to devices: the local APIC (0x800 to 0x8FF, IA32_TSC_DEADLINE). [`Beside`] puts both behind
//! one [`MsrFile`].
//!
//! Values are checked by the table of [`x86_state::msr`]; here are the checks that it leaves open ("depends on the model").
//!
//! # Choices
//! - 10 variable MTRRs, the fixed ones, write-combining; no SMRRs. 4 banks of machine-check registers with IA32_MCG_CTL, without
//!   corrected-error interrupts. Memory types and machine checks have no effect.
//! - IA32_ARCH_CAPABILITIES: a processor without speculation is not affected by any of it.
//! - Microcode revision 1; an update is accepted and changes nothing.
//! - IA32_MISC_ENABLE: fast strings, thermal control, SpeedStep and xTPR messages have no effect. XD Bit Disable conceals the feature and makes EFER.NXE
//!   reserved; an NXE that is set stays in force.
//! - IA32_MPERF and IA32_APERF both count as the time-stamp counter does.
//!
//! Source: SDM 4 table 2-2 (rev 077), IA-32 Architectural MSRs; SDM 3A 11.11, Memory Type Range Registers; SDM 3B 15.3, Machine-Check
//! MSRs; 17.17.3, Time-Stamp Counter Adjustment; SDM 3A 9.11.7, Update Signature and Verification.

use crate::bus::Bus;
use crate::lbr::Lbr;
use crate::pmu::Pmu;
use core::cell::{Cell, RefCell};
use x86_state::addr::is_canonical;
use x86_state::{CpuProfile, Feature, Msr, MsrFile};

/// Banks of machine-check registers.
pub const BANKS: usize = 4;
/// Variable-range MTRRs, pairs of base and mask.
pub const VARIABLE_MTRRS: usize = 10;
/// The microcode revision.
pub const MICROCODE_REVISION: u64 = 1;

/// IA32_MISC_ENABLE: MONITOR and MWAIT are there.
const ENABLE_MONITOR: u64 = 1 << 18;
/// IA32_MISC_ENABLE: CPUID leaf 0 reports no more than 2.
const LIMIT_CPUID: u64 = 1 << 22;
/// IA32_MISC_ENABLE: there is no Execute Disable.
const XD_DISABLE: u64 = 1 << 34;
/// IA32_MISC_ENABLE: fast strings, thermal control, SpeedStep, xTPR messages, and the three above.
const MISC_ENABLE_WRITABLE: u64 = 1 | 1 << 3 | 1 << 16 | 1 << 23 | ENABLE_MONITOR | LIMIT_CPUID | XD_DISABLE;
/// IA32_MISC_ENABLE after reset: fast strings, no branch-trace store, no PEBS, MONITOR.
const MISC_ENABLE_RESET: u64 = 1 | 1 << 11 | 1 << 12 | ENABLE_MONITOR;
/// IA32_MISC_ENABLE: performance monitoring is there; read-only.
const PERFMON_AVAILABLE: u64 = 1 << 7;

/// RDCL_NO, IBRS_ALL, SKIP_L1DFL_VMENTRY, SSB_NO, MDS_NO, IF_PSCHANGE_MC_NO, TAA_NO.
const ARCH_CAPABILITIES: u64 = 1 | 1 << 1 | 1 << 3 | 1 << 4 | 1 << 5 | 1 << 6 | 1 << 8;
/// IA32_MTRRCAP: the number of variable MTRRs, fixed ones (8), write-combining (10).
const MTRRCAP: u64 = VARIABLE_MTRRS as u64 | 1 << 8 | 1 << 10;
/// IA32_MCG_CAP: the number of banks, IA32_MCG_CTL (8).
const MCG_CAP: u64 = BANKS as u64 | 1 << 8;

/// Registers of a processor beside its `Cpu`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Registers {
    /// IA32_TSC_ADJUST.
    pub tsc_adjust: u64,
    /// IA32_BIOS_SIGN_ID.
    pub bios_sign_id: u64,
    /// IA32_MISC_ENABLE.
    pub misc_enable: u64,
    /// IA32_UMWAIT_CONTROL.
    pub umwait_control: u64,
    /// Bases and masks of the variable MTRRs, in turns.
    pub mtrr_variable: [u64; 2 * VARIABLE_MTRRS],
    /// The fixed MTRRs: 64 KBytes, 16 KBytes (2), 4 KBytes (8).
    pub mtrr_fixed: [u64; 11],
    /// IA32_MTRR_DEF_TYPE.
    pub mtrr_def_type: u64,
    /// IA32_MCG_STATUS.
    pub mcg_status: u64,
    /// IA32_MCG_CTL.
    pub mcg_ctl: u64,
    /// CTL, STATUS, ADDR and MISC of each bank.
    pub mc_banks: [[u64; 4]; BANKS],
    /// What IA32_MPERF and IA32_APERF are ahead of the time-stamp counter.
    pub mperf_aperf: [u64; 2],
    /// IA32_PERF_CTL, IA32_CLOCK_MODULATION, IA32_THERM_INTERRUPT, IA32_THERM_STATUS.
    pub power: [u64; 4],
    /// IA32_ENERGY_PERF_BIAS.
    pub energy_perf_bias: u64,
    /// Performance monitoring.
    pub pmu: Pmu,
    /// Last-branch records.
    pub lbr: Lbr,
}

impl Registers {
    /// After RESET.
    #[must_use]
    pub fn new() -> Self {
        Self {
            tsc_adjust: 0,
            bios_sign_id: MICROCODE_REVISION << 32,
            misc_enable: MISC_ENABLE_RESET,
            umwait_control: 0,
            mtrr_variable: [0; 2 * VARIABLE_MTRRS],
            mtrr_fixed: [0; 11],
            mtrr_def_type: 0,
            mcg_status: 0,
            mcg_ctl: 0,
            mc_banks: [[0; 4]; BANKS],
            mperf_aperf: [0; 2],
            power: [0; 4],
            energy_perf_bias: 6,
            pmu: Pmu::default(),
            lbr: Lbr::default(),
        }
    }

    /// Are MONITOR and MWAIT enabled?
    #[must_use]
    pub const fn monitor_enabled(&self) -> bool {
        self.misc_enable & ENABLE_MONITOR != 0
    }

    /// Does CPUID leaf 0 report a highest leaf of 2?
    #[must_use]
    pub const fn limits_cpuid(&self) -> bool {
        self.misc_enable & LIMIT_CPUID != 0
    }

    /// Is Execute Disable concealed?
    #[must_use]
    pub const fn execute_disable_concealed(&self) -> bool {
        self.misc_enable & XD_DISABLE != 0
    }

    /// The value of a register; `None` if it is not here, or if RDMSR refuses it. `tsc` is the time-stamp counter.
    #[must_use]
    pub fn read(&self, msr: Msr, profile: &CpuProfile, tsc: u64) -> Option<u64> {
        Some(match msr.0 {
            // The Pentium's names for the registers of bank 0.
            0x0 => self.mc_banks[0][2],
            0x1 => self.mc_banks[0][1],
            // The size of MONITOR's filter, IA32_PLATFORM_ID, IA32_CORE_CAPABILITIES: 0.
            0x6 | 0x17 | 0xcf => 0,
            0x3b => self.tsc_adjust,
            0x8b => self.bios_sign_id,
            // MSR_PLATFORM_INFO of the Core processors: the maximum non-turbo ratio, 10 times 100 MHz; nothing else.
            0xce => 10 << 8,
            0xe1 => self.umwait_control,
            0xe7 | 0xe8 => tsc.wrapping_add(self.mperf_aperf[(msr.0 - 0xe7) as usize & 1]),
            0xfe => MTRRCAP,
            0x10a => ARCH_CAPABILITIES,
            0x179 => MCG_CAP,
            0x17a => self.mcg_status,
            0x17b => self.mcg_ctl,
            0x198 => 10 << 8,
            0x199..=0x19c => self.power[(msr.0 - 0x199) as usize & 3],
            0x1a0 => {
                let perfmon = profile.cpuid(0xa, 0).is_some_and(|leaf| leaf.regs[0] & 0xff != 0);
                self.misc_enable | if perfmon { PERFMON_AVAILABLE } else { 0 }
            }
            0x1b0 => self.energy_perf_bias,
            0x200..=0x213 => *self.mtrr_variable.get((msr.0 - 0x200) as usize)?,
            0x2ff => self.mtrr_def_type,
            0x400..=0x40f => self.mc_banks[(msr.0 >> 2) as usize & 3][msr.0 as usize & 3],
            _ => match fixed_mtrr(msr) {
                Some(n) => *self.mtrr_fixed.get(n)?,
                None => return self.pmu.read(msr, profile).or_else(|| self.lbr.read(msr, profile)),
            },
        })
    }

    /// Writes a register. `None` if it is not here; `Some(false)`: #GP(0), and nothing is written.
    ///
    /// The time-stamp counter moves with IA32_TSC_ADJUST: `tsc` is changed.
    pub fn write(&mut self, msr: Msr, value: u64, profile: &CpuProfile, tsc: &mut u64) -> Option<bool> {
        match msr.0 {
            0x0 | 0x1 => return Some(value == 0),
            0x10 => {
                self.tsc_adjust = self.tsc_adjust.wrapping_add(value.wrapping_sub(*tsc));
                *tsc = value;
            }
            0x3b => {
                *tsc = tsc.wrapping_add(value.wrapping_sub(self.tsc_adjust));
                self.tsc_adjust = value;
            }
            // Commands without an effect on what is modelled: barriers, flushes, a microcode update.
            0x49 | 0x79 | 0x10b => {}
            0x8b => self.bios_sign_id = value,
            0xe1 => self.umwait_control = value,
            0xe7 | 0xe8 => self.mperf_aperf[(msr.0 - 0xe7) as usize & 1] = value.wrapping_sub(*tsc),
            // RIPV, EIPV, MCIP.
            0x17a if value & !0b111 != 0 => return Some(false),
            0x17a => self.mcg_status = value,
            // 15.3.1.3: all ones or all zeros.
            0x17b if value != 0 && value != u64::MAX => return Some(false),
            0x17b => self.mcg_ctl = value,
            0x199..=0x19c => self.power[(msr.0 - 0x199) as usize & 3] = value,
            0x1a0 => {
                // Read-only bits keep what they are; the others are reserved.
                let read_only = PERFMON_AVAILABLE | 1 << 11 | 1 << 12;
                if value & !(MISC_ENABLE_WRITABLE | read_only) != 0 {
                    return Some(false);
                }
                self.misc_enable = self.misc_enable & read_only | value & MISC_ENABLE_WRITABLE;
            }
            0x1b0 => self.energy_perf_bias = value,
            0x200..=0x213 => *self.mtrr_variable.get_mut((msr.0 - 0x200) as usize)? = value,
            0x2ff => self.mtrr_def_type = value,
            0x400..=0x40f => {
                let accepted = match msr.0 & 3 {
                    // 15.3.2.1: all ones or all zeros; other values have no meaning, and canonical ones are taken.
                    0 => is_canonical(value, profile.linear_width()),
                    // 15.3.2.2: software may only clear it.
                    1 => value == 0,
                    _ => true,
                };
                if !accepted {
                    return Some(false);
                }
                self.mc_banks[(msr.0 >> 2) as usize & 3][msr.0 as usize & 3] = value;
            }
            _ => match fixed_mtrr(msr) {
                Some(n) => *self.mtrr_fixed.get_mut(n)? = value,
                None => {
                    return self.pmu.write(msr, value, profile).or_else(|| self.lbr.write(msr, value, profile));
                }
            },
        }
        Some(true)
    }
}

impl Default for Registers {
    fn default() -> Self {
        Self::new()
    }
}

/// Which of the fixed MTRRs is it?
const fn fixed_mtrr(msr: Msr) -> Option<usize> {
    match msr.0 {
        0x250 => Some(0),
        0x258 | 0x259 => Some((msr.0 - 0x257) as usize),
        0x268..=0x26f => Some((msr.0 - 0x265) as usize),
        _ => None,
    }
}

/// A processor's registers and those of its bus, as the models ask for them. The time-stamp counter can be written through it.
pub struct Beside<'a, B> {
    registers: RefCell<&'a mut Registers>,
    tsc: Cell<u64>,
    profile: &'a CpuProfile,
    bus: &'a B,
}

impl<'a, B: Bus> Beside<'a, B> {
    /// The registers of a processor and its bus.
    pub fn new(registers: &'a mut Registers, tsc: u64, profile: &'a CpuProfile, bus: &'a B) -> Self {
        Self { registers: RefCell::new(registers), tsc: Cell::new(tsc), profile, bus }
    }

    /// The time-stamp counter, which may have been written.
    #[must_use]
    pub fn tsc(&self) -> u64 {
        self.tsc.get()
    }
}

impl<B: Bus> MsrFile for Beside<'_, B> {
    fn read(&self, msr: Msr) -> Option<u64> {
        if write_only(msr) {
            return None;
        }
        let here = self.registers.borrow().read(msr, self.profile, self.tsc.get());
        here.or_else(|| self.bus.read(msr))
    }

    fn write(&self, msr: Msr, value: u64) -> bool {
        let mut tsc = self.tsc.get();
        let here = self.registers.borrow_mut().write(msr, value, self.profile, &mut tsc);
        self.tsc.set(tsc);
        here.unwrap_or_else(|| self.bus.write(msr, value))
    }
}

/// IA32_PRED_CMD, IA32_BIOS_UPDT_TRIG, IA32_FLUSH_CMD.
const fn write_only(msr: Msr) -> bool {
    matches!(msr.0, 0x49 | 0x79 | 0x10b)
}

/// Does CPUID announce Execute Disable as far as IA32_MISC_ENABLE allows it?
pub(crate) fn has_execute_disable(registers: &Registers, profile: &CpuProfile) -> bool {
    profile.has(Feature::NX) == Some(true) && !registers.execute_disable_concealed()
}
