//! Which branches were taken last? The last-branch-record stack of the Core processors.
//!
//! While IA32_DEBUGCTL.LBR is 1, the processor looks at each instruction singly and records each taken branch, interrupt and exception,
//! but no debug exception. While it is 0, none of this costs anything.
//!
//! # Choices
//! - How many entries there are and where is the model's (table 17-4), 32 for models that the table does not have. All of them say
//!   "64-bit LIP record format" in IA32_PERF_CAPABILITIES\[5:0\]: linear addresses without flags, since nothing is predicted.
//! - VM entries and VM exits are not recorded, and RSM is not.
//! - MSR_LER_FROM_LIP and MSR_LER_TO_LIP get the record that was the latest when an interrupt or exception came.
//!
//! Source: SDM 3B 17.4 (rev 077), Last Branch, Interrupt, and Exception Recording Overview; 17.4.8, LBR Stack, and table 17-4; 17.9.2,
//! Filtering of Last Branch Records; SDM 4 tables 2-3 and 2-15 for the numbers of the registers.

use crate::pmu::LBR_FROZEN;
use iced_x86::{Code, FlowControl};
use x86_state::{CpuProfile, Msr};

/// IA32_PERF_CAPABILITIES\[5:0\]: 64-bit linear addresses.
pub(crate) const FORMAT: u64 = 0b00_0001;
/// The most entries of a processor.
pub const MOST: usize = 32;

/// MSR_LBR_SELECT: no branches into privilege level 0; none into others; then by kind of branch, [`kind`].
const NOT_PRIVILEGED: u64 = 1;
const NOT_USER: u64 = 1 << 1;
const FAR: u64 = 1 << 8;
const SELECT: u64 = 0x1ff;

/// The registers.
#[derive(Clone, Debug, PartialEq, Eq, Default)]
pub struct Lbr {
    /// MSR_LASTBRANCH_x_FROM_IP.
    pub from: [u64; MOST],
    /// MSR_LASTBRANCH_x_TO_IP.
    pub to: [u64; MOST],
    /// MSR_LASTBRANCH_TOS: the number of the latest record.
    pub top: u64,
    /// MSR_LBR_SELECT.
    pub select: u64,
    /// MSR_LER_FROM_LIP and MSR_LER_TO_LIP.
    pub before_event: [u64; 2],
}

/// How many entries there are, and from where on: sources, destinations.
const fn place(profile: &CpuProfile) -> (u32, u32, u32) {
    let signature = match profile.cpuid(1, 0) {
        Some(leaf) => leaf.regs[0],
        None => 0,
    };
    let model = signature >> 12 & 0xf0 | signature >> 4 & 0xf;
    match model {
        0x0f | 0x17 | 0x1d => (4, 0x40, 0x60),
        0x1c | 0x26 | 0x27 | 0x35..=0x37 | 0x4a | 0x4c | 0x4d | 0x5a | 0x5d => (8, 0x40, 0x60),
        0x1a | 0x1e | 0x1f | 0x25 | 0x2a | 0x2c | 0x2d | 0x2e | 0x2f | 0x3a | 0x3c | 0x3d | 0x3e | 0x3f | 0x45
        | 0x46 | 0x47 | 0x4f | 0x56 => (16, 0x680, 0x6c0),
        _ => (32, 0x680, 0x6c0),
    }
}

/// Where a register is.
enum Place {
    From(usize),
    To(usize),
    Top,
    Select,
    BeforeEvent(usize),
}

fn find(msr: Msr, profile: &CpuProfile) -> Option<Place> {
    let (count, from, to) = place(profile);
    let within = |first: u32| msr.0.checked_sub(first).filter(|n| *n < count).map(|n| n as usize);
    Some(match msr.0 {
        0x1c9 => Place::Top,
        // Filtering came with Nehalem.
        0x1c8 if count >= 16 => Place::Select,
        0x1dd | 0x1de => Place::BeforeEvent((msr.0 - 0x1dd) as usize),
        _ => within(from).map(Place::From).or_else(|| within(to).map(Place::To))?,
    })
}

impl Lbr {
    /// The value of a register; `None` if there is none of that number.
    #[must_use]
    pub fn read(&self, msr: Msr, profile: &CpuProfile) -> Option<u64> {
        match find(msr, profile)? {
            Place::From(n) => self.from.get(n).copied(),
            Place::To(n) => self.to.get(n).copied(),
            Place::Top => Some(self.top),
            Place::Select => Some(self.select),
            Place::BeforeEvent(n) => self.before_event.get(n).copied(),
        }
    }

    /// Writes a register. `None` if there is none of that number; `Some(false)`: #GP(0).
    pub fn write(&mut self, msr: Msr, value: u64, profile: &CpuProfile) -> Option<bool> {
        match find(msr, profile)? {
            Place::From(n) => *self.from.get_mut(n)? = value,
            Place::To(n) => *self.to.get_mut(n)? = value,
            Place::BeforeEvent(n) => *self.before_event.get_mut(n)? = value,
            // Software may move it (SDM 4 tables 2-3 to 2-40: R/W); bits beyond an index are reserved.
            Place::Top if value >= u64::from(place(profile).0) => return Some(false),
            Place::Top => self.top = value,
            Place::Select if value & !SELECT != 0 => return Some(false),
            Place::Select => self.select = value,
        }
        Some(true)
    }

    /// Records a branch, unless it is filtered. `kind` is that of the branch, `privileged` the level that it leads to.
    pub(crate) fn record(&mut self, from: u64, to: u64, kind: u64, privileged: bool, profile: &CpuProfile) {
        let level = if privileged { NOT_PRIVILEGED } else { NOT_USER };
        if self.select & (kind | level) != 0 {
            return;
        }
        let (count, ..) = place(profile);
        self.top = (self.top + 1) % u64::from(count);
        let at = self.top as usize % MOST;
        (self.from[at], self.to[at]) = (from, to);
    }

    /// An interrupt or exception: the latest branch before it is kept, and it is recorded as a far branch.
    pub(crate) fn record_event(&mut self, from: u64, to: u64, privileged: bool, profile: &CpuProfile) {
        let at = self.top as usize % MOST;
        self.before_event = [self.from[at], self.to[at]];
        self.record(from, to, FAR, privileged, profile);
    }
}

/// Does IA32_PERF_GLOBAL_STATUS let branches be recorded?
pub(crate) const fn is_frozen(status: u64) -> bool {
    status & LBR_FROZEN != 0
}

/// The bit of MSR_LBR_SELECT that leaves out this kind of branch; `None` for what is no branch. And whether it is always taken.
pub(crate) fn kind(code: Code) -> Option<(u64, bool)> {
    let far = code.is_call_far() || code.is_call_far_indirect() || code.is_jmp_far() || code.is_jmp_far_indirect();
    Some(match code.flow_control() {
        _ if far => (FAR, true),
        FlowControl::ConditionalBranch => (1 << 2, false),
        FlowControl::Call if code.is_call_near() => (1 << 3, true),
        FlowControl::IndirectCall => (1 << 4, true),
        FlowControl::Return if matches!(code.mnemonic(), iced_x86::Mnemonic::Ret) => (1 << 5, true),
        FlowControl::IndirectBranch => (1 << 6, true),
        FlowControl::UnconditionalBranch => (1 << 7, true),
        FlowControl::Call | FlowControl::Return | FlowControl::Interrupt => (FAR, true),
        _ => return None,
    })
}
