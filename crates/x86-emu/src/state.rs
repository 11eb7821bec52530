//! What is the whole state of the emulated processor? Plain data, to be cloned, compared and stored.

use crate::flags::Flags;
use crate::float::MXCSR_RESET;
use crate::msrs::Registers;
use crate::ops::wait::{Monitor, Wait};
use crate::smm::{Interrupted, IoInstruction};
use crate::x87::X87;
use vmx_model::Vmx;
use x86_state::{Cpu, CpuProfile};

/// The state of one processor. Caches of decoded instructions and translations are not part of it.
#[derive(Clone, Debug)]
pub struct State {
    /// Registers. RFLAGS' arithmetic flags are in `flags` until they are settled.
    pub cpu: Cpu,
    /// The arithmetic flags.
    pub flags: Flags,
    /// VMX.
    pub vmx: Vmx,
    /// XMM0 to XMM15.
    pub xmm: [u128; 16],
    /// MXCSR.
    pub mxcsr: u32,
    /// The x87 FPU.
    pub x87: X87,
    /// The time-stamp counter, which instructions advance.
    pub tsc: u64,
    /// How much time has passed beyond one for each instruction, by [`crate::time`].
    pub extra_time: u64,
    /// The range that MONITOR or UMONITOR watches, if it is armed.
    pub monitor: Option<Monitor>,
    /// The processor waits, by MWAIT, UMWAIT or TPAUSE.
    pub wait: Option<Wait>,
    /// The state of the generator behind RDRAND and RDSEED.
    pub random: u64,
    /// A repeated string instruction is at RIP, some of whose iterations are done.
    pub between_iterations: bool,
    /// Model-specific registers beside those of `cpu`.
    pub registers: Registers,
    /// The I/O instruction that was completed last; an SMI behind it records it.
    pub last_io: Option<IoInstruction>,
    /// What an SMI has interrupted: `Some` while the processor is in SMM.
    pub smm: Option<Interrupted>,
}

impl State {
    /// After reset.
    #[must_use]
    pub fn new(profile: &CpuProfile, seed: u64) -> Self {
        let signature = profile.cpuid(1, 0).map_or(0, |leaf| leaf.regs[0]);
        Self {
            cpu: Cpu::reset(signature),
            flags: Flags::default(),
            vmx: Vmx::new(profile),
            xmm: [0; 16],
            mxcsr: MXCSR_RESET,
            x87: X87::POWER_UP,
            tsc: 0,
            extra_time: 0,
            monitor: None,
            wait: None,
            random: seed | 1,
            between_iterations: false,
            registers: Registers::new(),
            last_io: None,
            smm: None,
        }
    }
}
