//! MOV to and from control and debug registers, CLTS, LMSW, SMSW, XGETBV and XSETBV.
//!
//! Source: SDM 2B, MOV (control registers) and MOV (debug registers), SMSW; 2A, CLTS, LMSW; 2D, XGETBV, XSETBV; SDM 3A 2.5, Control
//! Registers; 4.10.4, Invalidation of TLBs; SDM 3B 17.2, Debug Registers.

use crate::bus::Bus;
use crate::exec::{Exec, Stop, Stopped};
use crate::insn::{Handler, Insn, Place};
use crate::state::State;
use crate::xsave;
use iced_x86::Code;
use softvirt_ept::{Direct, Failure, Invalidate, Operation, PagingSupport, PdpteLoadFailure, Vendor, load_pdptes};
use vmx_model::event::{Circumstances, Raised, translation_failure};
use vmx_model::insn::restrictions::{check_cr0, check_cr4};
use vmx_model::intercept::apic;
use vmx_model::{Effect, translation};
use x86_state::{Cr0, Cr4, Dr6, Dr7, Efer, Feature, Gpr, Gva, Op, PagingMode, SegmentRegister, Xcr0};

/// The handler of an instruction of this family.
#[must_use]
pub fn handler<B: Bus>(code: Code) -> Option<Handler<B>> {
    use Code::*;
    Some(match code {
        Mov_cr_r32 | Mov_cr_r64 => mov_to_cr,
        Mov_r32_cr | Mov_r64_cr => mov_from_cr,
        Mov_dr_r32 | Mov_dr_r64 => mov_to_dr,
        Mov_r32_dr | Mov_r64_dr => mov_from_dr,
        Clts => clts,
        Lmsw_rm16 | Lmsw_r32m16 | Lmsw_r64m16 => lmsw,
        Smsw_rm16 | Smsw_r32m16 | Smsw_r64m16 => smsw,
        Xgetbv => xgetbv,
        Xsetbv => xsetbv,
        _ => return None,
    })
}

/// Bits of CR0 that exist (SDM 3A 2.5): all others are reserved or ignored.
pub(crate) const CR0_EXISTING: u64 = 0xe005_003f;

impl<B: Bus> Exec<'_, B> {
    /// Gives CR0 a value, as MOV to CR0, CLTS and LMSW do once VMX has had its word.
    pub fn write_cr0(&mut self, value: u64) -> Result<(), Stopped> {
        if value >> 32 != 0 {
            return Err(self.gp());
        }
        let before = self.state.cpu.cr0;
        let after = Cr0::from_bits_retain(value & CR0_EXISTING) | Cr0::ET;
        let has = |bit| after.contains(bit);
        // SDM 3A 2.5: CR4.CET needs CR0.WP.
        let unprotected = self.state.cpu.cr4.contains(Cr4::CET) && !has(Cr0::WP);
        if has(Cr0::PG) && !has(Cr0::PE) || has(Cr0::NW) && !has(Cr0::CD) || unprotected {
            return Err(self.gp());
        }
        if let Err(event) = check_cr0(&self.state.vmx, self.profile, after) {
            return Err(self.raise(Raised::new(event)));
        }
        let cpu = &self.state.cpu;
        let paging = (before.contains(Cr0::PG), has(Cr0::PG));
        let lme = cpu.efer.contains(Efer::LME);
        if paging == (false, true) && lme {
            let code_64 = cpu.segments[SegmentRegister::Cs].rights.l();
            if !cpu.cr4.contains(Cr4::PAE) || code_64 {
                return Err(self.gp());
            }
        }
        if paging == (true, false) && (self.long64() || cpu.cr4.contains(Cr4::PCIDE)) {
            return Err(self.gp());
        }
        let caches_paging = Cr0::PG | Cr0::CD | Cr0::NW;
        let pae = has(Cr0::PG) && self.state.cpu.cr4.contains(Cr4::PAE) && !lme;
        if pae && (before ^ after).intersects(caches_paging) {
            self.load_pdptes(self.state.cpu.cr3)?;
        }
        self.state.cpu.cr0 = after;
        if paging.0 != paging.1 && lme {
            self.state.cpu.efer.set(Efer::LMA, paging.1);
        }
        let id = translation::current(&self.state.vmx, &self.state.cpu).id;
        self.caches.invalidate(&Invalidate::MovCr0 { id, before, after });
        self.caches.changed();
        Ok(())
    }

    /// Loads the PDPTE registers from the table that CR3 references (SDM 3A 4.4.1).
    pub fn load_pdptes(&mut self, cr3: u64) -> Result<(), Stopped> {
        let support = PagingSupport::from_profile(self.profile);
        let ept = translation::ept(&self.state.vmx, self.profile, None);
        let loaded = match &ept {
            None => load_pdptes(self.bus, &support, &Direct, cr3),
            Some(ept) => load_pdptes(self.bus, &support, ept, cr3),
        };
        match loaded {
            Ok(pdptes) => {
                self.state.cpu.pdptes = pdptes;
                Ok(())
            }
            Err(PdpteLoadFailure::GeneralProtection) => Err(self.gp()),
            Err(PdpteLoadFailure::Second(failure)) => Err(self.pdpte_load_failed(&failure)),
        }
    }

    /// EPT stopped the load of the PDPTE registers: there is no linear address, and the access is a supervisor's read.
    #[cold]
    fn pdpte_load_failed(&mut self, failure: &Failure) -> Stopped {
        let Some(ept) = translation::ept(&self.state.vmx, self.profile, None) else { return self.gp() };
        let access = self.system(Operation::Read);
        let circumstances = Circumstances { delivering: self.delivering, ..Circumstances::default() };
        let paging = translation::paging(&self.state.vmx, &self.state.cpu, &PagingSupport::from_profile(self.profile));
        let State { cpu, vmx, .. } = &*self.state;
        let reaction =
            translation_failure(vmx, cpu, self.bus, &paging, Some(&ept), failure, access, Gva(0), &circumstances);
        self.stop = Stop::React(reaction);
        Stopped
    }

    fn write_cr3(&mut self, value: u64) -> Result<(), Stopped> {
        let cpu = &self.state.cpu;
        let pcide = cpu.cr4.contains(Cr4::PCIDE);
        let keep = pcide && value >> 63 == 1;
        let value = if pcide { value & !(1 << 63) } else { value };
        let long = cpu.efer.contains(Efer::LMA);
        // Bits 62:61 are LAM's, where CPUID announces it.
        let lam = if self.profile.has(Feature::LAM) == Some(true) { 3 << 61 } else { 0 };
        if long && value & self.profile.physical_bits_beyond() & !lam != 0 {
            return Err(self.gp());
        }
        let value = if long { value } else { value & 0xffff_ffff };
        if cpu.paging_mode() == PagingMode::Pae {
            self.load_pdptes(value)?;
        }
        self.state.cpu.cr3 = value;
        let current = translation::current(&self.state.vmx, &self.state.cpu);
        self.caches.invalidate(&Invalidate::MovCr3 { id: current.id, pcid: current.pcid, pcide, keep });
        self.caches.changed();
        Ok(())
    }

    fn write_cr4(&mut self, value: u64) -> Result<(), Stopped> {
        let after = Cr4::from_bits_retain(value);
        if value & !self.cr4_existing() != 0 {
            return Err(self.gp());
        }
        if let Err(event) = check_cr4(&self.state.vmx, &self.state.cpu, self.profile, after) {
            return Err(self.raise(Raised::new(event)));
        }
        let cpu = &self.state.cpu;
        let before = cpu.cr4;
        let long = cpu.efer.contains(Efer::LMA);
        let set = |bit| after.contains(bit) && !before.contains(bit);
        let wrong = long && (!after.contains(Cr4::PAE) || before.contains(Cr4::LA57) != after.contains(Cr4::LA57))
            || set(Cr4::PCIDE) && (!long || cpu.cr3 & 0xfff != 0)
            || after.contains(Cr4::CET) && !cpu.cr0.contains(Cr0::WP);
        if wrong {
            return Err(self.gp());
        }
        let reloading = Cr4::PSE | Cr4::PAE | Cr4::PGE | Cr4::SMEP;
        let pae = cpu.cr0.contains(Cr0::PG) && after.contains(Cr4::PAE) && !cpu.efer.contains(Efer::LME);
        if pae && (before ^ after).intersects(reloading) {
            self.load_pdptes(self.state.cpu.cr3)?;
        }
        let current = translation::current(&self.state.vmx, &self.state.cpu);
        self.state.cpu.cr4 = after;
        self.caches.invalidate(&Invalidate::MovCr4 { current, before, after, vendor: Vendor::Intel });
        self.caches.changed();
        Ok(())
    }

    /// Bits of CR4 that exist on this processor: each belongs to a feature.
    pub(crate) fn cr4_existing(&self) -> u64 {
        const BITS: [(Cr4, Feature); 25] = [
            (Cr4::VME, Feature::VME),
            (Cr4::PVI, Feature::VME),
            (Cr4::TSD, Feature::TSC),
            (Cr4::DE, Feature::DE),
            (Cr4::PSE, Feature::PSE),
            (Cr4::PAE, Feature::PAE),
            (Cr4::MCE, Feature::MCE),
            (Cr4::PGE, Feature::PGE),
            (Cr4::OSFXSR, Feature::FXSR),
            (Cr4::OSXMMEXCPT, Feature::SSE),
            (Cr4::UMIP, Feature::UMIP),
            (Cr4::LA57, Feature::LA57),
            (Cr4::VMXE, Feature::VMX),
            (Cr4::SMXE, Feature::SMX),
            (Cr4::FSGSBASE, Feature::FSGSBASE),
            (Cr4::PCIDE, Feature::PCID),
            (Cr4::OSXSAVE, Feature::XSAVE),
            (Cr4::SMEP, Feature::SMEP),
            (Cr4::SMAP, Feature::SMAP),
            (Cr4::PKE, Feature::PKU),
            (Cr4::PKS, Feature::PKS),
            (Cr4::LAM_SUP, Feature::LAM),
            (Cr4::KL, Feature::KL),
            (Cr4::CET, Feature::CET_SS),
            (Cr4::CET, Feature::CET_IBT),
        ];
        // CR4.PCE goes with the performance counters, which every processor with VMX has.
        BITS.iter()
            .filter(|(_, feature)| self.profile.has(*feature) == Some(true))
            .fold(Cr4::PCE.bits(), |bits, (bit, _)| bits | bit.bits())
    }
}

/// The value of a register operand at the width of MOV CR and MOV DR: 64 bits in 64-bit mode, else 32.
fn wide<B: Bus>(exec: &Exec<'_, B>, number: u8) -> u64 {
    if exec.long64() { exec.gpr::<u64>(number) } else { u64::from(exec.gpr::<u32>(number)) }
}

fn set_wide<B: Bus>(exec: &mut Exec<'_, B>, number: u8, value: u64) {
    if exec.long64() {
        exec.set_gpr(number, value);
    } else {
        exec.set_gpr(number, value as u32);
    }
}

fn mov_to_cr<B: Bus>(exec: &mut Exec<'_, B>, insn: &Insn<B>) -> Result<(), Stopped> {
    let [Place::Control(number), Place::Gpr(source), ..] = insn.operands else { return Err(exec.ud()) };
    if !matches!(number, 0 | 2 | 3 | 4 | 8) {
        return Err(exec.ud());
    }
    if exec.state.cpu.cpl() != 0 {
        return Err(exec.gp());
    }
    let value = wide(exec, source);
    let effect = exec.sensitive(insn, Op::MovToCr { number, source: crate::vmx::gpr(source), value })?;
    let value = match effect {
        Some(Effect::Write(value)) => value,
        Some(Effect::WriteVirtualApic(write)) => return exec.write_virtual_apic(write),
        _ => value,
    };
    match number {
        0 => exec.write_cr0(value),
        2 => {
            exec.state.cpu.cr2 = Gva(value);
            Ok(())
        }
        3 => exec.write_cr3(value),
        4 => exec.write_cr4(value),
        _ if value & !0xf != 0 => Err(exec.gp()),
        _ => {
            exec.bus.set_task_priority(value as u8);
            Ok(())
        }
    }
}

fn mov_from_cr<B: Bus>(exec: &mut Exec<'_, B>, insn: &Insn<B>) -> Result<(), Stopped> {
    let [Place::Gpr(destination), Place::Control(number), ..] = insn.operands else { return Err(exec.ud()) };
    if !matches!(number, 0 | 2 | 3 | 4 | 8) {
        return Err(exec.ud());
    }
    if exec.state.cpu.cpl() != 0 {
        return Err(exec.gp());
    }
    let op = Op::MovFromCr { number, destination: crate::vmx::gpr(destination) };
    let value = match exec.sensitive(insn, op)? {
        Some(Effect::Read(value)) => value,
        _ => match number {
            0 => exec.state.cpu.cr0.bits(),
            2 => exec.state.cpu.cr2.0,
            3 => exec.state.cpu.cr3,
            4 => exec.state.cpu.cr4.bits(),
            _ => u64::from(exec.bus.task_priority()),
        },
    };
    set_wide(exec, destination, value);
    Ok(())
}

fn clts<B: Bus>(exec: &mut Exec<'_, B>, insn: &Insn<B>) -> Result<(), Stopped> {
    if exec.state.cpu.cpl() != 0 {
        return Err(exec.gp());
    }
    match exec.sensitive(insn, Op::Clts)? {
        Some(Effect::Nothing) => Ok(()),
        Some(Effect::Write(value)) => exec.write_cr0(value),
        _ => exec.write_cr0(exec.state.cpu.cr0.difference(Cr0::TS).bits()),
    }
}

/// LMSW loads PE, MP, EM and TS, and never clears PE.
fn lmsw<B: Bus>(exec: &mut Exec<'_, B>, insn: &Insn<B>) -> Result<(), Stopped> {
    if exec.state.cpu.cpl() != 0 {
        return Err(exec.gp());
    }
    let source: u16 = exec.get(insn, 0)?;
    let ordinary = {
        let before = exec.state.cpu.cr0.bits();
        let low = u64::from(source) & 0xf | before & 1;
        before & !0xf | low
    };
    match exec.sensitive(insn, Op::Lmsw { source })? {
        Some(Effect::Write(value)) => exec.write_cr0(value),
        Some(Effect::Nothing) => Ok(()),
        _ => exec.write_cr0(ordinary),
    }
}

fn smsw<B: Bus>(exec: &mut Exec<'_, B>, insn: &Insn<B>) -> Result<(), Stopped> {
    if exec.state.cpu.cpl() > 0 && exec.state.cpu.cr4.contains(Cr4::UMIP) {
        return Err(exec.gp());
    }
    let value = match exec.sensitive(insn, Op::Smsw)? {
        Some(Effect::Read(value)) => value,
        _ => exec.state.cpu.cr0.bits(),
    };
    match insn.code {
        _ if insn.operands[0] == Place::Memory => exec.set(insn, 0, value as u16),
        Code::Smsw_rm16 => exec.set(insn, 0, value as u16),
        Code::Smsw_r32m16 => exec.set(insn, 0, value as u32),
        _ => exec.set(insn, 0, value),
    }
}

/// The debug register that a number means: DR4 and DR5 are DR6 and DR7 unless CR4.DE is 1, which makes them #UD.
fn debug_register<B: Bus>(exec: &mut Exec<'_, B>, number: u8) -> Result<u8, Stopped> {
    match number {
        0..=3 | 6 | 7 => Ok(number),
        4 | 5 if !exec.state.cpu.cr4.contains(Cr4::DE) => Ok(number + 2),
        _ => Err(exec.ud()),
    }
}

/// General detect: an access while DR7.GD is 1 is #DB, and nothing else happens.
fn general_detect<B: Bus>(exec: &mut Exec<'_, B>) -> Result<(), Stopped> {
    if exec.state.cpu.dr7.contains(Dr7::GD) { Err(exec.raise(Raised::debug(Dr6::BD.bits()))) } else { Ok(()) }
}

fn mov_to_dr<B: Bus>(exec: &mut Exec<'_, B>, insn: &Insn<B>) -> Result<(), Stopped> {
    let [Place::Debug(number), Place::Gpr(source), ..] = insn.operands else { return Err(exec.ud()) };
    // SDM 3C 25.1.3: the exit of MOV DR has priority over the faults of privilege and of CR4.DE.
    exec.sensitive(insn, Op::MovToDr { number, source: crate::vmx::gpr(source) })?;
    let number = debug_register(exec, number)?;
    if exec.state.cpu.cpl() != 0 {
        return Err(exec.gp());
    }
    general_detect(exec)?;
    let value = wide(exec, source);
    if number >= 6 && value >> 32 != 0 {
        return Err(exec.gp());
    }
    // The bits of RTM are fixed without it: DR6[16] is 1 then, DR7[11] 0.
    let rtm = u64::from(exec.profile.has(Feature::RTM) == Some(true));
    let cpu = &mut exec.state.cpu;
    match number {
        6 => cpu.dr6 = Dr6::from_bits_retain(value & 0xe00f | value & rtm << 16 | !rtm << 16 & 0x1_0000 | 0xfffe_0ff0),
        7 => cpu.dr7 = Dr7::from_bits_retain(value & 0xffff_23ff | value & rtm << 11 | 0x400),
        _ => cpu.dr[usize::from(number & 3)] = value,
    }
    exec.caches.changed();
    Ok(())
}

fn mov_from_dr<B: Bus>(exec: &mut Exec<'_, B>, insn: &Insn<B>) -> Result<(), Stopped> {
    let [Place::Gpr(destination), Place::Debug(number), ..] = insn.operands else { return Err(exec.ud()) };
    exec.sensitive(insn, Op::MovFromDr { number, destination: crate::vmx::gpr(destination) })?;
    let number = debug_register(exec, number)?;
    if exec.state.cpu.cpl() != 0 {
        return Err(exec.gp());
    }
    general_detect(exec)?;
    let value = match number {
        6 => exec.state.cpu.dr6.bits(),
        7 => exec.state.cpu.dr7.bits(),
        _ => exec.state.cpu.dr[usize::from(number & 3)],
    };
    set_wide(exec, destination, value);
    Ok(())
}

fn xgetbv<B: Bus>(exec: &mut Exec<'_, B>, _insn: &Insn<B>) -> Result<(), Stopped> {
    if !exec.state.cpu.cr4.contains(Cr4::OSXSAVE) {
        return Err(exec.ud());
    }
    let value = match exec.gpr::<u32>(1) {
        0 => exec.state.cpu.xcr0.bits(),
        1 if xsave::extensions(exec.profile) >> 2 & 1 == 1 => {
            exec.state.cpu.xcr0.bits() & exec.state.in_use_with_mxcsr()
        }
        _ => return Err(exec.gp()),
    };
    exec.set_gpr(0, value as u32);
    exec.set_gpr(2, (value >> 32) as u32);
    Ok(())
}

fn xsetbv<B: Bus>(exec: &mut Exec<'_, B>, insn: &Insn<B>) -> Result<(), Stopped> {
    if !exec.state.cpu.cr4.contains(Cr4::OSXSAVE) {
        return Err(exec.ud());
    }
    exec.sensitive(insn, Op::Xsetbv)?;
    if exec.state.cpu.cpl() != 0 || exec.gpr::<u32>(1) != 0 {
        return Err(exec.gp());
    }
    let value = u64::from(exec.gpr::<u32>(0)) | u64::from(exec.gpr::<u32>(2)) << 32;
    let after = Xcr0::from_bits_retain(value);
    // AVX, whose bits depend on each other, is not among the components.
    if value & !xsave::user_components(exec.profile) != 0 || !after.contains(Xcr0::X87) {
        return Err(exec.gp());
    }
    exec.state.cpu.xcr0 = after;
    Ok(())
}

impl<B: Bus> Exec<'_, B> {
    /// A write to the virtual-APIC page: the exit that follows it, if there is one, is trap-like.
    pub fn write_virtual_apic(&mut self, write: apic::ApicWrite) -> Result<(), Stopped> {
        match vmx_model::intercept::write_virtual_apic(&mut self.state.vmx, self.bus, write) {
            None => Ok(()),
            Some(exit) => Err(self.trap(exit)),
        }
    }

    /// Stops with an exit behind the instruction: RIP references the next one.
    #[cold]
    pub fn trap(&mut self, exit: vmx_model::exit::Exit) -> Stopped {
        self.state.cpu.rip = self.next_rip;
        self.exit(exit)
    }

    /// RAX and RDX get the halves of a value.
    pub(crate) fn set_edx_eax(&mut self, value: u64) {
        self.state.cpu.gpr[Gpr::Rax] = value & 0xffff_ffff;
        self.state.cpu.gpr[Gpr::Rdx] = value >> 32;
    }

    /// EDX:EAX.
    pub(crate) fn edx_eax(&self) -> u64 {
        self.state.cpu.gpr[Gpr::Rax] & 0xffff_ffff | self.state.cpu.gpr[Gpr::Rdx] << 32
    }
}
