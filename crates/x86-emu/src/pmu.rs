//! What do performance counters count? Registers of architectural performance monitoring, versions 1 to 5, as CPUID leaf 0AH announces them.
//!
//! # What is counted
//! One instruction takes one cycle: cycles, reference cycles and issue slots are counts of the time-stamp counter while the processor
//! executes; instructions retired are those that complete. CPUID announces no other event (leaf 0AH, EBX); a counter with another event
//! stands still. While any counter is programmed, the processor looks at each instruction singly.
//!
//! # Readings
//! - A repeated string instruction retires once, when its last iteration is done; an instruction that faults or exits does not retire.
//! - Privilege (USR, OS) is that at which an instruction begins.
//! - CMASK and INV compare with the one instruction, or the one cycle, that there is at a time. EDGE is ignored: there are no
//!   interruptions of a condition to count.
//! - AnyThread counts the same, as there is one thread.
//!
//! Source: SDM 3B 19.2 (rev 077), Architectural Performance Monitoring; 17.4.7, Freezing LBR and Performance Counters on PMI; SDM 2B,
//! RDPMC.

use crate::concealed::PERFMON_EVENTS;
use x86_state::{Cpu, CpuProfile, DebugCtl, Feature, MaskedMsr, Msr};

/// General counters.
pub const GENERAL: usize = 8;
/// Fixed counters.
pub const FIXED: usize = 4;

const SELECT_USR: u64 = 1 << 16;
const SELECT_OS: u64 = 1 << 17;
const SELECT_INT: u64 = 1 << 20;
const SELECT_EN: u64 = 1 << 22;
const SELECT_INV: u64 = 1 << 23;

/// IA32_PERF_GLOBAL_STATUS: branch records are frozen.
pub const LBR_FROZEN: u64 = 1 << 58;
/// IA32_PERF_GLOBAL_STATUS: counters are frozen.
pub const COUNTERS_FROZEN: u64 = 1 << 59;

/// IA32_PERF_CAPABILITIES: full-width writes, and the format of last-branch records.
pub const CAPABILITIES: u64 = 1 << 13 | crate::lbr::FORMAT;

/// The registers of performance monitoring; IA32_PERF_GLOBAL_CTRL is in the `Cpu`.
#[derive(Clone, Debug, PartialEq, Eq, Default)]
pub struct Pmu {
    /// IA32_PMCx.
    pub counters: [u64; GENERAL],
    /// IA32_PERFEVTSELx.
    pub selects: [u64; GENERAL],
    /// IA32_FIXED_CTRx.
    pub fixed: [u64; FIXED],
    /// IA32_FIXED_CTR_CTRL.
    pub fixed_control: u64,
    /// IA32_PERF_GLOBAL_STATUS.
    pub status: u64,
    /// Is any counter programmed to count? IA32_PERF_GLOBAL_CTRL apart.
    programmed: bool,
}

/// What CPUID leaf 0AH says.
#[derive(Clone, Copy)]
struct Announced {
    version: u32,
    general: usize,
    general_mask: u64,
    fixed: usize,
    fixed_mask: u64,
    events_missing: u32,
}

impl Announced {
    fn of(profile: &CpuProfile) -> Self {
        let [eax, ebx, ecx, edx] = profile.cpuid(0xa, 0).map_or([0; 4], |leaf| leaf.regs);
        let version = eax & 0xff;
        let mask = |bits: u32| if bits >= 64 { u64::MAX } else { (1 << bits) - 1 };
        let listed = if version >= 5 { 32 - ecx.leading_zeros() } else { 0 };
        let fixed = if version >= 2 { (edx & 0x1f).max(listed) as usize } else { 0 };
        let general = if version == 0 { 0 } else { (eax >> 8 & 0xff) as usize };
        Self {
            version,
            general: general.min(GENERAL),
            general_mask: mask(eax >> 16 & 0xff),
            fixed: fixed.min(FIXED),
            fixed_mask: mask(edx >> 5 & 0xff),
            events_missing: ebx | !PERFMON_EVENTS,
        }
    }
}

/// An event that is counted.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Counted {
    Cycles,
    Instructions,
}

/// What a stretch of execution has to be counted: one instruction, or an attempt at one.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Stretch {
    /// How many counts of time it has taken.
    pub(crate) cycles: u64,
    /// Has the instruction retired?
    pub(crate) retired: bool,
    /// At privilege level 0?
    pub(crate) privileged: bool,
}

impl Pmu {
    /// Is any counter programmed to count? If so, each instruction has to be told to `count`.
    #[must_use]
    #[inline(always)]
    pub const fn is_programmed(&self) -> bool {
        self.programmed
    }

    /// The value of a register; `None` if there is none of that number.
    #[must_use]
    pub fn read(&self, msr: Msr, profile: &CpuProfile) -> Option<u64> {
        let announced = Announced::of(profile);
        let version = |least| (announced.version >= least).then_some(());
        match msr.0 {
            0xc1..=0xc8 => self.counters.get(..announced.general)?.get((msr.0 - 0xc1) as usize).copied(),
            0x4c1..=0x4c8 if profile.has(Feature::PDCM) == Some(true) => {
                self.counters.get(..announced.general)?.get((msr.0 - 0x4c1) as usize).copied()
            }
            0x186..=0x18d => self.selects.get(..announced.general)?.get((msr.0 - 0x186) as usize).copied(),
            0x309..=0x318 => self.fixed.get(..announced.fixed)?.get((msr.0 - 0x309) as usize).copied(),
            0x345 if profile.has(Feature::PDCM) == Some(true) => Some(CAPABILITIES),
            0x38d => version(2).map(|()| self.fixed_control),
            0x38e => version(2).map(|()| self.status),
            // It reads as 0, as it did when it was IA32_PERF_GLOBAL_OVF_CTRL.
            0x390 => version(2).map(|()| 0),
            0x391 => version(4).map(|()| 0),
            0x392 => version(4).map(|()| self.in_use(&announced)),
            _ => None,
        }
    }

    /// Writes a register. `None` if there is none of that number; `Some(false)`: #GP(0).
    pub fn write(&mut self, msr: Msr, value: u64, profile: &CpuProfile) -> Option<bool> {
        let announced = Announced::of(profile);
        let version = |least| (announced.version >= least).then_some(());
        let own = low(announced.general) | low(announced.fixed) << 32;
        match msr.0 {
            0xc1..=0xc8 => {
                let counter = self.counters.get_mut(..announced.general)?.get_mut((msr.0 - 0xc1) as usize)?;
                // 19.2.6: bits 31:0, sign-extended.
                *counter = value as u32 as i32 as u64 & announced.general_mask;
            }
            0x4c1..=0x4c8 if profile.has(Feature::PDCM) == Some(true) => {
                let counter = self.counters.get_mut(..announced.general)?.get_mut((msr.0 - 0x4c1) as usize)?;
                if value & !announced.general_mask != 0 {
                    return Some(false);
                }
                *counter = value;
            }
            0x186..=0x18d => {
                let select = self.selects.get_mut(..announced.general)?.get_mut((msr.0 - 0x186) as usize)?;
                // What the model decides: pin control has no pin, AnyThread no other thread; the rest does not exist.
                if value & !0xffff_ffff != 0 {
                    return Some(false);
                }
                *select = value;
            }
            0x309..=0x318 => {
                let counter = self.fixed.get_mut(..announced.fixed)?.get_mut((msr.0 - 0x309) as usize)?;
                if value & !announced.fixed_mask != 0 {
                    return Some(false);
                }
                *counter = value;
            }
            0x38d => {
                version(2)?;
                let mask = profile.mask(MaskedMsr::FixedCtrCtrl).writable;
                if value & !mask != 0 {
                    return Some(false);
                }
                self.fixed_control = value;
            }
            0x390 => {
                version(2)?;
                // OvfUncore (61) and ASCI (60) can be named, though nothing sets them; CondChgd and OvfDSBuffer as well.
                let frozen = if announced.version >= 4 { LBR_FROZEN | COUNTERS_FROZEN } else { 0 };
                if value & !(own | frozen | 0xf << 60) != 0 {
                    return Some(false);
                }
                self.status &= !value;
            }
            0x391 => {
                version(4)?;
                if value & !(own | LBR_FROZEN | COUNTERS_FROZEN | 0b111 << 60) != 0 {
                    return Some(false);
                }
                self.status |= value & (own | LBR_FROZEN | COUNTERS_FROZEN);
            }
            _ => return None,
        }
        let general = self.selects.iter().any(|select| select & SELECT_EN != 0);
        self.programmed = general || self.fixed_control & 0x3333_3333_3333_3333 != 0;
        Some(true)
    }

    /// IA32_PERF_GLOBAL_INUSE (19.2.4.3).
    fn in_use(&self, announced: &Announced) -> u64 {
        let mut bits = 0;
        for (n, select) in (0..).zip(self.selects.iter().take(announced.general)) {
            bits |= u64::from(select & 0xff != 0) << n | u64::from(select & SELECT_INT != 0) << 63;
        }
        for n in 0..announced.fixed {
            let control = self.fixed_control >> (4 * n);
            bits |= u64::from(control & 0b11 != 0) << (32 + n) | u64::from(control & 0b1000 != 0) << 63;
        }
        bits
    }

    /// RDPMC: the counter that ECX names; `None`: #GP(0).
    #[must_use]
    pub fn counter(&self, ecx: u32, profile: &CpuProfile) -> Option<u64> {
        let announced = Announced::of(profile);
        // Bits 31:16 are the kind of counter: 0 general, 4000H fixed. Metrics (2000H) do not exist.
        match ecx >> 16 {
            0 => self.counters.get(..announced.general)?.get(ecx as usize & 0xffff).copied(),
            0x4000 => self.fixed.get(..announced.fixed)?.get(ecx as usize & 0xffff).copied(),
            _ => None,
        }
    }

    /// Counts. `enabled` is IA32_PERF_GLOBAL_CTRL (all ones with version 1). Gives whether a counter has overflowed that is to interrupt.
    pub(crate) fn count(&mut self, stretch: &Stretch, enabled: u64, profile: &CpuProfile) -> bool {
        let announced = Announced::of(profile);
        if self.status & COUNTERS_FROZEN != 0 {
            return false;
        }
        let enabled = if announced.version >= 2 { enabled } else { u64::MAX };
        let mut interrupts = false;
        for n in 0..announced.general {
            let (Some(select), Some(counter)) = (self.selects.get(n), self.counters.get_mut(n)) else { continue };
            let level = if stretch.privileged { SELECT_OS } else { SELECT_USR };
            let on = select & SELECT_EN != 0 && select & level != 0 && enabled >> n & 1 == 1;
            let Some(event) = event(*select, announced.events_missing).filter(|_| on) else { continue };
            if add(counter, amount(event, *select, stretch), announced.general_mask) {
                self.status |= 1 << n;
                interrupts |= select & SELECT_INT != 0;
            }
        }
        for n in 0..announced.fixed {
            let control = self.fixed_control >> (4 * n);
            let level = if stretch.privileged { 1 } else { 2 };
            let on = control & level != 0 && enabled >> (32 + n) & 1 == 1;
            let Some(counter) = self.fixed.get_mut(n).filter(|_| on) else { continue };
            let event = if n == 0 { Counted::Instructions } else { Counted::Cycles };
            if add(counter, amount(event, 0, stretch), announced.fixed_mask) {
                self.status |= 1 << (32 + n);
                interrupts |= control & 0b1000 != 0;
            }
        }
        interrupts
    }

    /// Does freezing on an interrupt set bits of the status register (version 4 and later), rather than clear enable bits?
    #[must_use]
    pub(crate) fn freezes_by_status(profile: &CpuProfile) -> bool {
        Announced::of(profile).version >= 4
    }
}

/// An overflow interrupts: what IA32_DEBUGCTL asks for is frozen (17.4.7).
pub(crate) fn freeze(cpu: &mut Cpu, pmu: &mut Pmu, profile: &CpuProfile) {
    let by_status = Pmu::freezes_by_status(profile);
    if cpu.debugctl.contains(DebugCtl::FREEZE_PERFMON_ON_PMI) {
        if by_status {
            pmu.status |= COUNTERS_FROZEN;
        } else {
            cpu.perf_global_ctrl = 0;
        }
    }
    if cpu.debugctl.contains(DebugCtl::FREEZE_LBRS_ON_PMI) {
        if by_status {
            pmu.status |= LBR_FROZEN;
        } else {
            cpu.debugctl.remove(DebugCtl::LBR);
        }
    }
}

const fn low(count: usize) -> u64 {
    if count >= 64 { u64::MAX } else { (1 << count) - 1 }
}

/// The event of an event-select register, if it is one that is announced.
fn event(select: u64, missing: u32) -> Option<Counted> {
    // Event, unit mask, bit of CPUID.0AH:EBX (19.2.1.2, Pre-defined Architectural Performance Events).
    const EVENTS: [(u64, u32, Counted); 3] =
        [(0x003c, 0, Counted::Cycles), (0x00c0, 1, Counted::Instructions), (0x013c, 2, Counted::Cycles)];
    let found = EVENTS.iter().find(|(code, ..)| select & 0xffff == *code)?;
    (missing >> found.1 & 1 == 0).then_some(found.2)
}

/// How much there is to add.
const fn amount(event: Counted, select: u64, stretch: &Stretch) -> u64 {
    let happened = match event {
        Counted::Cycles => stretch.cycles,
        Counted::Instructions => stretch.retired as u64,
    };
    let threshold = select >> 24 & 0xff;
    let inverted = select & SELECT_INV != 0;
    match (threshold, inverted) {
        (0, _) => happened,
        // Cycles in which at least (fewer than) so many events happen: there is never more than one.
        (1, false) => happened,
        (_, false) => 0,
        (1, true) => stretch.cycles.saturating_sub(happened),
        (_, true) => stretch.cycles,
    }
}

/// Adds, and tells whether the counter has wrapped.
const fn add(counter: &mut u64, amount: u64, mask: u64) -> bool {
    let sum = counter.wrapping_add(amount);
    *counter = sum & mask;
    sum & !mask != 0
}
