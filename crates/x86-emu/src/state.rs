//! What is the whole state of the emulated processor? Plain data, to be cloned, compared and stored.

use crate::flags::Flags;
use vmx_model::Vmx;
use x86_state::{Cpu, CpuProfile, Hpa};

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
    /// The time-stamp counter, which instructions advance.
    pub tsc: u64,
    /// The range that MONITOR watches, if it is armed.
    pub monitor: Option<Hpa>,
    /// The state of the generator behind RDRAND and RDSEED.
    pub random: u64,
    /// A repeated string instruction is at RIP, some of whose iterations are done.
    pub between_iterations: bool,
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
            mxcsr: 0x1f80,
            tsc: 0,
            monitor: None,
            random: seed | 1,
            between_iterations: false,
        }
    }
}
