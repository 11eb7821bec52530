//! Where do model-specific registers live? Those of [`Cpu`] in the processor's state, the others with whoever owns them.
//!
//! Nothing is checked here: [`check_read`](super::check_read) and [`check_write`](super::check_write) do that.

use super::Msr;
use crate::addr::Hpa;
use crate::cpu::Cpu;
use crate::mem::PhysMemory;
use crate::profile::CpuProfile;
use crate::regs::{DebugCtl, Efer};
use crate::segment::SegmentRegister;

/// The model-specific registers that a [`Cpu`] does not hold: time-stamp counter, performance counters, MTRRs, local APIC.
///
/// Methods take `&self`, as those of [`PhysMemory`] do: devices have cells inside.
pub trait MsrFile {
    /// The value of a register; `None` if it does not live here either.
    fn read(&self, msr: Msr) -> Option<u64>;

    /// Writes a register. `false` if it does not live here; nothing is written then.
    fn write(&self, msr: Msr, value: u64) -> bool;
}

/// No registers beside those of the [`Cpu`].
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct NoMsrs;

impl MsrFile for NoMsrs {
    fn read(&self, _msr: Msr) -> Option<u64> {
        None
    }

    fn write(&self, _msr: Msr, _value: u64) -> bool {
        false
    }
}

/// What is around a logical processor: which one it is, memory, other registers, and the time.
#[derive(Debug)]
pub struct Platform<'a, M: ?Sized, R: ?Sized = NoMsrs> {
    /// The processor.
    pub profile: &'a CpuProfile,
    /// Physical memory.
    pub memory: &'a M,
    /// The registers that the [`Cpu`] does not hold.
    pub msrs: &'a R,
    /// The time-stamp counter now, without any offset or scaling.
    pub tsc: u64,
}

impl<M: ?Sized, R: ?Sized> Clone for Platform<'_, M, R> {
    fn clone(&self) -> Self {
        *self
    }
}

impl<M: ?Sized, R: ?Sized> Copy for Platform<'_, M, R> {}

impl<'a, M: PhysMemory + ?Sized> Platform<'a, M> {
    /// A processor with memory, without further registers, at time 0.
    #[must_use]
    pub const fn new(profile: &'a CpuProfile, memory: &'a M) -> Self {
        Self { profile, memory, msrs: &NoMsrs, tsc: 0 }
    }
}

impl<M: PhysMemory + ?Sized, R: ?Sized> Platform<'_, M, R> {
    /// Eight bytes of physical memory at `address` plus `offset`.
    #[must_use]
    #[inline]
    pub fn read_u64(&self, address: u64, offset: u64) -> u64 {
        self.memory.read_u64(Hpa(address.wrapping_add(offset)))
    }
}

/// The value of a register that the processor's state holds; `None` for all others.
#[must_use]
pub fn read(cpu: &Cpu, msr: Msr) -> Option<u64> {
    Some(match msr {
        Msr::APIC_BASE => cpu.apic_base,
        Msr::SPEC_CTRL => cpu.spec_ctrl,
        Msr::SMBASE => u64::from(cpu.smbase),
        Msr::SYSENTER_CS => cpu.sysenter_cs,
        Msr::SYSENTER_ESP => cpu.sysenter_esp,
        Msr::SYSENTER_EIP => cpu.sysenter_eip,
        Msr::FRED_RSP0 => cpu.fred.rsp[0],
        Msr::FRED_RSP1 => cpu.fred.rsp[1],
        Msr::FRED_RSP2 => cpu.fred.rsp[2],
        Msr::FRED_RSP3 => cpu.fred.rsp[3],
        Msr::FRED_STKLVLS => cpu.fred.stack_levels,
        Msr::FRED_SSP1 => cpu.fred.ssp[0],
        Msr::FRED_SSP2 => cpu.fred.ssp[1],
        Msr::FRED_SSP3 => cpu.fred.ssp[2],
        Msr::FRED_CONFIG => cpu.fred.config,
        Msr::DEBUGCTL => cpu.debugctl.bits(),
        Msr::PAT => cpu.pat,
        Msr::PERF_GLOBAL_CTRL => cpu.perf_global_ctrl,
        Msr::RTIT_CTL => cpu.rtit_ctl,
        Msr::U_CET => cpu.cet.u_cet,
        Msr::S_CET => cpu.cet.s_cet,
        Msr::PL0_SSP => cpu.cet.pl_ssp[0],
        Msr::PL1_SSP => cpu.cet.pl_ssp[1],
        Msr::PL2_SSP => cpu.cet.pl_ssp[2],
        Msr::PL3_SSP => cpu.cet.pl_ssp[3],
        Msr::INTERRUPT_SSP_TABLE_ADDR => cpu.cet.interrupt_ssp_table_addr,
        Msr::PKRS => u64::from(cpu.pkrs),
        Msr::BNDCFGS => cpu.bndcfgs,
        Msr::XSS => cpu.xss,
        Msr::LBR_CTL => cpu.lbr_ctl,
        Msr::EFER => cpu.efer.bits(),
        Msr::STAR => cpu.star,
        Msr::LSTAR => cpu.lstar,
        Msr::CSTAR => cpu.cstar,
        Msr::FMASK => cpu.fmask,
        Msr::FS_BASE => cpu.segments[SegmentRegister::Fs].base,
        Msr::GS_BASE => cpu.segments[SegmentRegister::Gs].base,
        Msr::KERNEL_GS_BASE => cpu.kernel_gs_base,
        Msr::TSC_AUX => cpu.tsc_aux,
        _ => return None,
    })
}

/// Writes a register that the processor's state holds; `false` for all others, and nothing is written then.
///
/// IA32_EFER.LMA keeps its value, as with WRMSR. A write of IA32_TSC_AUX, IA32_PKRS or IA32_SMBASE keeps bits `[31:0]`.
pub fn write(cpu: &mut Cpu, msr: Msr, value: u64) -> bool {
    match msr {
        Msr::APIC_BASE => cpu.apic_base = value,
        Msr::SPEC_CTRL => cpu.spec_ctrl = value,
        Msr::SMBASE => cpu.smbase = value as u32,
        Msr::SYSENTER_CS => cpu.sysenter_cs = value,
        Msr::SYSENTER_ESP => cpu.sysenter_esp = value,
        Msr::SYSENTER_EIP => cpu.sysenter_eip = value,
        Msr::FRED_RSP0 => cpu.fred.rsp[0] = value,
        Msr::FRED_RSP1 => cpu.fred.rsp[1] = value,
        Msr::FRED_RSP2 => cpu.fred.rsp[2] = value,
        Msr::FRED_RSP3 => cpu.fred.rsp[3] = value,
        Msr::FRED_STKLVLS => cpu.fred.stack_levels = value,
        Msr::FRED_SSP1 => cpu.fred.ssp[0] = value,
        Msr::FRED_SSP2 => cpu.fred.ssp[1] = value,
        Msr::FRED_SSP3 => cpu.fred.ssp[2] = value,
        Msr::FRED_CONFIG => cpu.fred.config = value,
        Msr::DEBUGCTL => cpu.debugctl = DebugCtl::from_bits_retain(value),
        Msr::PAT => cpu.pat = value,
        Msr::PERF_GLOBAL_CTRL => cpu.perf_global_ctrl = value,
        Msr::RTIT_CTL => cpu.rtit_ctl = value,
        Msr::U_CET => cpu.cet.u_cet = value,
        Msr::S_CET => cpu.cet.s_cet = value,
        Msr::PL0_SSP => cpu.cet.pl_ssp[0] = value,
        Msr::PL1_SSP => cpu.cet.pl_ssp[1] = value,
        Msr::PL2_SSP => cpu.cet.pl_ssp[2] = value,
        Msr::PL3_SSP => cpu.cet.pl_ssp[3] = value,
        Msr::INTERRUPT_SSP_TABLE_ADDR => cpu.cet.interrupt_ssp_table_addr = value,
        Msr::PKRS => cpu.pkrs = value as u32,
        Msr::BNDCFGS => cpu.bndcfgs = value,
        Msr::XSS => cpu.xss = value,
        Msr::LBR_CTL => cpu.lbr_ctl = value,
        Msr::EFER => {
            let lma = cpu.efer.intersection(Efer::LMA);
            cpu.efer = Efer::from_bits_retain(value).difference(Efer::LMA).union(lma);
        }
        Msr::STAR => cpu.star = value,
        Msr::LSTAR => cpu.lstar = value,
        Msr::CSTAR => cpu.cstar = value,
        Msr::FMASK => cpu.fmask = value,
        Msr::FS_BASE => cpu.segments[SegmentRegister::Fs].base = value,
        Msr::GS_BASE => cpu.segments[SegmentRegister::Gs].base = value,
        Msr::KERNEL_GS_BASE => cpu.kernel_gs_base = value,
        Msr::TSC_AUX => cpu.tsc_aux = value & 0xffff_ffff,
        _ => return false,
    }
    true
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_written_is_read_back_and_only_known_registers_take_it() {
        let mut cpu = Cpu::reset(0);
        for index in (0..0x2000).chain(0xc000_0000..0xc000_0200) {
            let msr = Msr(index);
            let before = cpu;
            let value = 0x1000_u64 + u64::from(index);
            assert_eq!(write(&mut cpu, msr, value), read(&before, msr).is_some(), "{msr:?}");
            match msr {
                // LMA (bit 10) cannot be written.
                Msr::EFER => assert_eq!(cpu.efer.bits(), value & !Efer::LMA.bits()),
                _ => assert!(read(&cpu, msr).is_none_or(|read| read == value), "{msr:?}"),
            }
        }
    }

    #[test]
    fn lma_is_kept_by_writes_of_efer() {
        for lma in [Efer::empty(), Efer::LMA] {
            let mut cpu = Cpu { efer: lma, ..Cpu::reset(0) };
            assert!(write(&mut cpu, Msr::EFER, !lma.bits()));
            assert_eq!(cpu.efer.intersection(Efer::LMA), lma);
        }
    }
}
