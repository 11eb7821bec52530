//! RDMSR, WRMSR, the time-stamp counter, CPUID, performance counters and random numbers.
//!
//! Source: SDM 2B, RDMSR, RDPMC, RDRAND, RDSEED, RDTSC, RDTSCP; 2A, CPUID; 2D, WRMSR; SDM 4 table 2-2.

use crate::bus::Bus;
use crate::exec::{Exec, Stopped};
use crate::flags::ARITHMETIC;
use crate::insn::{Handler, Insn, Place};
use crate::msrs::{Beside, MICROCODE_REVISION, has_execute_disable};
use crate::state::State;
use crate::topology::Topology;
use crate::word::Word;
use iced_x86::Code;
use softvirt_ept::Invalidate;
use vmx_model::fields::Field;
use vmx_model::insn::restrictions::msr_context;
use vmx_model::msr_list;
use vmx_model::{Control, Effect};
use x86_state::msr::{self, MsrAnswer};
use x86_state::{Cr4, Efer, Feature, Gpr, Msr, MsrFile, Op, Platform, Rflags};

/// The handler of an instruction of this family.
#[must_use]
pub fn handler<B: Bus>(code: Code) -> Option<Handler<B>> {
    use Code::*;
    Some(match code {
        Rdmsr => rdmsr,
        Wrmsr => wrmsr,
        Rdtsc => rdtsc,
        Rdtscp => rdtscp,
        Rdpid_r32 | Rdpid_r64 => rdpid,
        Rdpmc => rdpmc,
        Cpuid => cpuid,
        Rdrand_r16 => random::<B, u16, false>,
        Rdrand_r32 => random::<B, u32, false>,
        Rdrand_r64 => random::<B, u64, false>,
        Rdseed_r16 => random::<B, u16, true>,
        Rdseed_r32 => random::<B, u32, true>,
        Rdseed_r64 => random::<B, u64, true>,
        _ => return None,
    })
}

impl<B: Bus> Exec<'_, B> {
    /// The value of a register; #GP(0) if RDMSR refuses it.
    fn read_msr(&mut self, register: Msr) -> Result<u64, Stopped> {
        if register == Msr::TSC {
            return Ok(self.state.tsc);
        }
        self.state.tsc = self.bus.now(self.state.tsc);
        let context = msr_context(&self.state.vmx, &self.state.cpu, self.profile);
        if matches!(msr::check_read(register, &context), MsrAnswer::Faults(_)) {
            return Err(self.gp());
        }
        let State { cpu, vmx, registers, tsc, .. } = &mut *self.state;
        let msrs = Beside::new(registers, *tsc, self.profile, self.bus);
        let platform = Platform { profile: self.profile, memory: self.bus, msrs: &msrs, tsc: *tsc };
        match msr_list::read_register(cpu, vmx, &platform, register) {
            Some(value) => Ok(value),
            None => Err(self.gp()),
        }
    }

    /// Writes a register; #GP(0) if WRMSR refuses the value.
    fn write_msr(&mut self, register: Msr, value: u64) -> Result<(), Stopped> {
        let context = msr_context(&self.state.vmx, &self.state.cpu, self.profile);
        if matches!(msr::check_write(register, value, &context), MsrAnswer::Faults(_)) {
            return Err(self.gp());
        }
        if register == Msr::XSS && value & !crate::xsave::supervisor_components(self.profile) != 0 {
            return Err(self.gp());
        }
        let concealed = register == Msr::EFER && Efer::from_bits_retain(value).contains(Efer::NXE);
        if concealed && !has_execute_disable(&self.state.registers, self.profile) {
            return Err(self.gp());
        }
        self.state.tsc = self.bus.now(self.state.tsc);
        let State { cpu, vmx, registers, tsc, .. } = &mut *self.state;
        let msrs = Beside::new(registers, *tsc, self.profile, self.bus);
        let platform = Platform { profile: self.profile, memory: self.bus, msrs: &msrs, tsc: *tsc };
        let written = msr_list::write_register(cpu, vmx, &platform, register, value);
        let moved = msrs.tsc();
        if !written {
            return Err(self.gp());
        }
        self.move_tsc(moved);
        if register == Msr::APIC_BASE {
            MsrFile::write(self.bus, register, value);
        }
        if register == Msr::EFER {
            self.caches.invalidate(&Invalidate::WriteEfer);
        }
        self.caches.changed();
        Ok(())
    }

    /// A VM entry or exit may have loaded IA32_APIC_BASE from its list of registers: the bus learns of a new value.
    pub(crate) fn apic_base_changed(&mut self, before: u64) {
        let after = self.state.cpu.apic_base;
        if after != before {
            MsrFile::write(self.bus, Msr::APIC_BASE, after);
        }
    }

    /// The time-stamp counter has been written. The VMX-preemption timer counts time, and does not notice (SDM 3C 25.5.1).
    pub(crate) fn move_tsc(&mut self, tsc: u64) {
        let by = tsc.wrapping_sub(self.state.tsc);
        if by != 0 {
            self.state.tsc = tsc;
            let State { vmx, smm, .. } = &mut *self.state;
            let guest = if vmx.in_guest() {
                Some(&mut vmx.guest)
            } else {
                smm.as_mut().and_then(|smm| smm.vmx.as_mut()).map(|vmx| &mut vmx.guest)
            };
            if let Some(guest) = guest.filter(|guest| guest.controls.has(Control::ACTIVATE_PREEMPTION_TIMER)) {
                let timer = &mut guest.preemption_timer;
                timer.loaded_at = timer.loaded_at.wrapping_add(by);
            }
            self.bus.tsc_moved(by);
        }
    }
}

fn rdmsr<B: Bus>(exec: &mut Exec<'_, B>, insn: &Insn<B>) -> Result<(), Stopped> {
    if exec.state.cpu.cpl() != 0 {
        return Err(exec.gp());
    }
    let register = Msr(exec.gpr::<u32>(1));
    let value = match exec.sensitive(insn, Op::Rdmsr { msr: register })? {
        Some(Effect::Read(value)) => value,
        Some(Effect::Tsc(transform)) => transform.apply(exec.state.tsc),
        _ => exec.read_msr(register)?,
    };
    exec.set_edx_eax(value);
    Ok(())
}

fn wrmsr<B: Bus>(exec: &mut Exec<'_, B>, insn: &Insn<B>) -> Result<(), Stopped> {
    if exec.state.cpu.cpl() != 0 {
        return Err(exec.gp());
    }
    let register = Msr(exec.gpr::<u32>(1));
    let value = exec.edx_eax();
    match exec.sensitive(insn, Op::Wrmsr { msr: register, value })? {
        None => exec.write_msr(register, value),
        Some(Effect::Write(value)) => exec.write_msr(register, value),
        Some(Effect::WriteVirtualApic(write)) => exec.write_virtual_apic(write),
        Some(Effect::WriteSpecCtrl { value, shadow }) => {
            exec.write_msr(register, value)?;
            exec.state.vmx.vmcs.set(Field::SPEC_CTRL_SHADOW, shadow);
            Ok(())
        }
        Some(Effect::SetGuestDeadline(deadline)) => {
            exec.state.vmx.vmcs.set(Field::GUEST_DEADLINE_SHADOW, deadline);
            Ok(())
        }
        Some(_) => Ok(()),
    }
}

/// CR4.TSD makes RDTSC and RDTSCP privileged, in protected mode.
fn time_allowed<B: Bus>(exec: &mut Exec<'_, B>) -> Result<(), Stopped> {
    let refused = exec.state.cpu.cr4.contains(Cr4::TSD) && exec.state.cpu.cpl() != 0;
    if refused { Err(exec.gp()) } else { Ok(()) }
}

fn time<B: Bus>(exec: &mut Exec<'_, B>, insn: &Insn<B>, op: Op) -> Result<u64, Stopped> {
    Ok(match exec.sensitive(insn, op)? {
        Some(Effect::Tsc(transform)) => transform.apply(exec.state.tsc),
        _ => exec.state.tsc,
    })
}

fn rdtsc<B: Bus>(exec: &mut Exec<'_, B>, insn: &Insn<B>) -> Result<(), Stopped> {
    time_allowed(exec)?;
    let tsc = time(exec, insn, Op::Rdtsc)?;
    exec.set_edx_eax(tsc);
    Ok(())
}

fn rdtscp<B: Bus>(exec: &mut Exec<'_, B>, insn: &Insn<B>) -> Result<(), Stopped> {
    exec.announced(Feature::RDTSCP)?;
    if exec.state.vmx.in_guest() {
        // "Enable RDTSCP" 0 is #UD, before the fault of CR4.TSD: the model has both.
        let tsc = time(exec, insn, Op::Rdtscp)?;
        exec.set_edx_eax(tsc);
    } else {
        time_allowed(exec)?;
        exec.set_edx_eax(exec.state.tsc);
    }
    exec.state.cpu.gpr[Gpr::Rcx] = exec.state.cpu.tsc_aux & 0xffff_ffff;
    Ok(())
}

fn rdpid<B: Bus>(exec: &mut Exec<'_, B>, insn: &Insn<B>) -> Result<(), Stopped> {
    exec.announced(Feature::RDPID)?;
    exec.sensitive(insn, Op::Rdpid)?;
    let value = exec.state.cpu.tsc_aux & 0xffff_ffff;
    exec.set(insn, 0, value)
}

fn rdpmc<B: Bus>(exec: &mut Exec<'_, B>, insn: &Insn<B>) -> Result<(), Stopped> {
    let user = exec.state.cpu.cpl() != 0;
    if user && !exec.state.cpu.cr4.contains(Cr4::PCE) {
        return Err(exec.gp());
    }
    exec.sensitive(insn, Op::Rdpmc)?;
    match exec.state.registers.pmu.counter(exec.gpr(1), exec.profile) {
        Some(value) => {
            exec.set_edx_eax(value);
            Ok(())
        }
        None => Err(exec.gp()),
    }
}

fn cpuid<B: Bus>(exec: &mut Exec<'_, B>, insn: &Insn<B>) -> Result<(), Stopped> {
    exec.sensitive(insn, Op::Cpuid)?;
    let State { cpu, registers, .. } = &*exec.state;
    let topology = Topology { processors: exec.bus.processors(), apic_id: exec.bus.apic_id() };
    let leaf = exec.gpr(0);
    let [eax, ebx, ecx, edx] = crate::cpuid::answer_in(exec.profile, cpu, registers, topology, leaf, exec.gpr(1));
    if leaf == 1 {
        // SDM 3A 9.11.7.1: the signature of the microcode update.
        exec.state.registers.bios_sign_id = MICROCODE_REVISION << 32;
    }
    for (register, value) in [(0, eax), (3, ebx), (1, ecx), (2, edx)] {
        exec.set_gpr::<u32>(register, value);
    }
    Ok(())
}

/// RDRAND and RDSEED draw from the state's generator (xorshift64*): the same seed gives the same numbers.
fn random<B: Bus, W: Word, const SEED: bool>(exec: &mut Exec<'_, B>, insn: &Insn<B>) -> Result<(), Stopped> {
    exec.announced(if SEED { Feature::RDSEED } else { Feature::RDRAND })?;
    let Place::Gpr(number) = insn.operands[0] else { return Err(exec.ud()) };
    let register = crate::vmx::gpr(number);
    exec.sensitive(insn, if SEED { Op::Rdseed { register } } else { Op::Rdrand { register } })?;
    let mut x = exec.state.random;
    x ^= x >> 12;
    x ^= x << 25;
    x ^= x >> 27;
    exec.state.random = x;
    exec.set(insn, 0, W::cut(x.wrapping_mul(0x2545_f491_4f6c_dd1d)))?;
    let flags = exec.rflags();
    exec.state.cpu.rflags = flags.difference(ARITHMETIC) | Rflags::CF;
    Ok(())
}

impl<B: Bus> Exec<'_, B> {
    /// #UD unless CPUID announces the feature.
    pub fn announced(&mut self, feature: Feature) -> Result<(), Stopped> {
        if self.profile.has(feature) == Some(true) { Ok(()) } else { Err(self.ud()) }
    }
}
