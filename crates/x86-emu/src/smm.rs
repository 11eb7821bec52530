//! What does a system-management interrupt do, and what does RSM? The default treatment of SMIs and SMM.
//!
//! # Readings
//! - The manual keeps CR4 (32-bit map) and the hidden parts of segment registers "not readable", and says nothing of the limits of GDTR and
//!   IDTR, of PDPTE registers and of pending debug exceptions. Here they are all kept inside the processor ([`Interrupted`]). Selectors and
//!   the bases of GDT, IDT and LDT are written into SMRAM for the handler to read; RSM takes them from inside ("modifying these registers
//!   will result in unpredictable behavior").
//! - CR0, CR3, CR4 (64-bit map), DR6 and DR7 are loaded from SMRAM, because RSM checks what it finds there.
//! - IA32_EFER is 0 in SMM: the processor is neither in IA-32e mode nor on its way to it. General-purpose registers and DR6, which are
//!   undefined, stay as they are.
//! - Debug exceptions that are pending behind the SMI (blocked or of lower priority) are pending again after RSM.
//! - RSM to VMX non-root operation makes no MTF VM exit pending but the one that was at the SMI (31.14.2).
//! - After RSM with CR0.PG and IA32_EFER.LME but without CR4.PAE there would be no paging mode: shutdown.
//! - The fields for restarting HLT and I/O instructions do nothing if the SMI did not come behind such an instruction.
//! - The revision identifier is that of processors with the I/O fields: 30004H, and 30006H with the map of Intel 64. It announces
//!   relocation (bit 17) and I/O instruction restart (bit 16).
//!
//! # Not modelled
//! The dual-monitor treatment; freezing of counters and branch records in SMM (IA32_DEBUGCTL\[14\]).
//!
//! Source: SDM 3C chapter 31 (rev 077), System Management Mode, most of all 31.4.1, SMRAM State Save Map; 31.5.1, Initial SMM Execution
//! Environment; 31.10 to 31.12; 31.14, Default Treatment of SMIs and SMM with VMX Operation and SMX Operation.

use crate::bus::Bus;
use crate::code::Watched;
use crate::exec::{Exec, Led};
use softvirt_ept::{Invalidate, Vendor};
use vmx_model::known::{Operation, VmxState};
use vmx_model::vmx::{NonRoot, Vmx};
use vmx_model::{Control, Field, Vmcs};
use x86_state::cpu::Segments;
use x86_state::{
    AccessRights, ActivityState, Cpu, CpuProfile, Cr0, Cr4, DescriptorTable, Dr6, Dr7, Efer, Feature, Gpr, Hpa,
    Interruptibility, MaskedMsr, PendingDebug, PhysMemory, Rflags, Segment, SegmentRegister, Selector, VmxMsr, addr,
};

/// What the processor keeps of the interrupted program while it is in SMM, beside what it has written into SMRAM.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Interrupted {
    /// Segment registers with their hidden parts.
    pub segments: Segments,
    /// GDTR.
    pub gdtr: DescriptorTable,
    /// IDTR.
    pub idtr: DescriptorTable,
    /// The PDPTE registers.
    pub pdptes: [u64; 4],
    /// CR4 with VMXE.
    pub cr4: Cr4,
    /// RFLAGS.VM: part of the VMX-critical state.
    pub virtual_8086: bool,
    /// What blocked events.
    pub interruptibility: Interruptibility,
    /// Debug exceptions that were pending.
    pub pending_debug: PendingDebug,
    /// Executing, halted or shut down.
    pub activity: ActivityState,
    /// Between iterations of a repeated string instruction.
    pub between_iterations: bool,
    /// The I/O instruction, or the iteration of one, behind which the SMI came.
    pub io: Option<IoInstruction>,
    /// VMX operation as it was left; `None` if it was outside.
    pub vmx: Option<InterruptedVmx>,
}

/// VMX operation as an SMI has found it (SDM 3C 31.14.1, Default Treatment of SMI Delivery).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct InterruptedVmx {
    /// Root or non-root, with the pointers.
    pub state: VmxState,
    /// The current VMCS.
    pub vmcs: Vmcs,
    /// Virtual-NMI blocking, a pending MTF VM exit, the preemption timer.
    pub guest: NonRoot,
}

/// An I/O instruction, or an iteration of one, that has just been completed (SDM 3C 31.7.1, I/O State Implementation).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct IoInstruction {
    /// RIP of the instruction.
    pub rip: u64,
    /// RIP behind it, or the same again between iterations.
    pub next_rip: u64,
    /// The time-stamp count before it.
    pub tsc: u64,
    /// RCX, RSI and RDI before it.
    pub registers: [u64; 3],
    /// The I/O State field: port `[31:16]`, type `[7:4]`, length in bytes `[3:1]`, IO_SMI bit 0.
    pub io_state: u32,
    /// The linear address of the memory operand of INS and OUTS; else 0.
    pub address: u64,
}

/// The type field of an I/O instruction (SDM 3C table 31-6).
#[must_use]
pub(crate) const fn io_type(input: bool, string: bool, repeated: bool, immediate: bool) -> u32 {
    input as u32 | (string as u32) << 1 | (repeated as u32) << 2 | (immediate as u32) << 3
}

/// Offsets in the maps, added to SMBASE plus 8000H.
mod at {
    use x86_state::{Gpr, SegmentRegister};

    pub(super) const HALT_RESTART: u32 = 0x7f02;
    pub(super) const IO_RESTART: u32 = 0x7f00;
    pub(super) const REVISION: u32 = 0x7efc;
    pub(super) const SMBASE: u32 = 0x7ef8;
    /// In both maps.
    pub(super) const SELECTORS: [(u32, SegmentRegister); 8] = [
        (0x7fc4, SegmentRegister::Tr),
        (0x7fc0, SegmentRegister::Ldtr),
        (0x7fbc, SegmentRegister::Gs),
        (0x7fb8, SegmentRegister::Fs),
        (0x7fb4, SegmentRegister::Ds),
        (0x7fb0, SegmentRegister::Ss),
        (0x7fac, SegmentRegister::Cs),
        (0x7fa8, SegmentRegister::Es),
    ];
    pub(super) const IO_STATE: u32 = 0x7fa4;

    /// Table 31-3, SMRAM State Save Map for Intel 64 Architecture.
    pub(super) mod map_64 {
        use super::Gpr;

        pub(in crate::smm) const CR0: u32 = 0x7ff8;
        pub(in crate::smm) const CR3: u32 = 0x7ff0;
        pub(in crate::smm) const RFLAGS: u32 = 0x7fe8;
        pub(in crate::smm) const EFER: u32 = 0x7fe0;
        pub(in crate::smm) const RIP: u32 = 0x7fd8;
        pub(in crate::smm) const DR6: u32 = 0x7fd0;
        pub(in crate::smm) const DR7: u32 = 0x7fc8;
        pub(in crate::smm) const IO_ADDRESS: u32 = 0x7f9c;
        /// From 7F94H downwards, 8 bytes each.
        pub(in crate::smm) const FIRST_REGISTER: u32 = 0x7f94;
        pub(in crate::smm) const REGISTERS: [Gpr; 16] = [
            Gpr::Rdi,
            Gpr::Rsi,
            Gpr::Rbp,
            Gpr::Rsp,
            Gpr::Rbx,
            Gpr::Rdx,
            Gpr::Rcx,
            Gpr::Rax,
            Gpr::R8,
            Gpr::R9,
            Gpr::R10,
            Gpr::R11,
            Gpr::R12,
            Gpr::R13,
            Gpr::R14,
            Gpr::R15,
        ];
        pub(in crate::smm) const ENABLE_EPT: u32 = 0x7ee0;
        pub(in crate::smm) const EPTP: u32 = 0x7ed8;
        pub(in crate::smm) const SSP: u32 = 0x7ec8;
        pub(in crate::smm) const LDT_LOW: u32 = 0x7e9c;
        pub(in crate::smm) const IDT_LOW: u32 = 0x7e94;
        pub(in crate::smm) const GDT_LOW: u32 = 0x7e8c;
        pub(in crate::smm) const CR4: u32 = 0x7e40;
        pub(in crate::smm) const IO_RIP: u32 = 0x7de8;
        pub(in crate::smm) const IDT_HIGH: u32 = 0x7dd8;
        pub(in crate::smm) const LDT_HIGH: u32 = 0x7dd4;
        pub(in crate::smm) const GDT_HIGH: u32 = 0x7dd0;
    }

    /// Table 31-1, SMRAM State Save Map.
    pub(super) mod map_32 {
        use super::Gpr;

        pub(in crate::smm) const CR0: u32 = 0x7ffc;
        pub(in crate::smm) const CR3: u32 = 0x7ff8;
        pub(in crate::smm) const EFLAGS: u32 = 0x7ff4;
        pub(in crate::smm) const EIP: u32 = 0x7ff0;
        /// From 7FECH downwards, 4 bytes each.
        pub(in crate::smm) const FIRST_REGISTER: u32 = 0x7fec;
        pub(in crate::smm) const REGISTERS: [Gpr; 8] =
            [Gpr::Rdi, Gpr::Rsi, Gpr::Rbp, Gpr::Rsp, Gpr::Rbx, Gpr::Rdx, Gpr::Rcx, Gpr::Rax];
        pub(in crate::smm) const DR6: u32 = 0x7fcc;
        pub(in crate::smm) const DR7: u32 = 0x7fc8;
        pub(in crate::smm) const IO_ADDRESS: u32 = 0x7fa0;
    }
}

/// Does the processor write the map of Intel 64 architecture? It does with Intel 64, and on the models of table 31-2 in any case.
fn wide_map(profile: &CpuProfile) -> bool {
    let signature = profile.cpuid(1, 0).map_or(0, |leaf| leaf.regs[0]);
    let model = signature >> 12 & 0xf0 | signature >> 4 & 0xf;
    let listed = signature >> 8 & 0xf == 6 && matches!(model, 0x0f | 0x17 | 0x1c);
    listed || profile.has(Feature::LM) != Some(false)
}

const REVISION_32: u32 = 0x3_0004;
const REVISION_64: u32 = 0x3_0006;

/// The rights of segments in SMM: like those of real-address mode, with a limit of 4 GBytes.
const FLAT_REAL: AccessRights = AccessRights(AccessRights::REAL.0 | 1 << 15);

/// The state-save area of one processor, as memory.
struct SaveArea<'a, M> {
    memory: &'a M,
    smbase: u32,
}

impl<M: PhysMemory> SaveArea<'_, M> {
    /// 4 GBytes are addressed: what lies beyond wraps around.
    fn hpa(&self, offset: u32) -> Hpa {
        Hpa(u64::from(self.smbase.wrapping_add(0x8000).wrapping_add(offset)))
    }

    fn u16(&self, offset: u32) -> u16 {
        self.memory.read_u16(self.hpa(offset))
    }

    fn u32(&self, offset: u32) -> u32 {
        self.memory.read_u32(self.hpa(offset))
    }

    fn u64(&self, offset: u32) -> u64 {
        u64::from(self.u32(offset)) | u64::from(self.u32(offset.wrapping_add(4))) << 32
    }

    fn set_u32(&self, offset: u32, value: u32) {
        self.memory.write_u32(self.hpa(offset), value);
    }

    fn set_u64(&self, offset: u32, value: u64) {
        self.set_u32(offset, value as u32);
        self.set_u32(offset.wrapping_add(4), (value >> 32) as u32);
    }

    /// Writes the map. CR4.VMXE is 0 already; `vmx` is what it was before VMX operation was left.
    fn save(&self, cpu: &Cpu, vmx: &Vmx, io: Option<&IoInstruction>, wide: bool) {
        for (offset, register) in at::SELECTORS {
            self.set_u32(offset, u32::from(cpu.segments[register].selector.0));
        }
        self.set_u32(at::IO_STATE, io.map_or(0, |io| io.io_state));
        self.memory.write_u16(self.hpa(at::HALT_RESTART), u16::from(cpu.activity == ActivityState::HLT));
        self.memory.write_u16(self.hpa(at::IO_RESTART), 0);
        self.set_u32(at::REVISION, if wide { REVISION_64 } else { REVISION_32 });
        self.set_u32(at::SMBASE, self.smbase);
        let address = io.map_or(0, |io| io.address);
        if wide {
            self.save_64(cpu, vmx);
            self.set_u64(at::map_64::IO_ADDRESS, address);
            self.set_u64(at::map_64::IO_RIP, io.map_or(0, |io| io.rip));
        } else {
            self.save_32(cpu);
            self.set_u32(at::map_32::IO_ADDRESS, address as u32);
        }
    }

    fn save_64(&self, cpu: &Cpu, vmx: &Vmx) {
        use at::map_64::*;
        let with_ept = vmx.in_guest() && vmx.guest.controls.has(Control::ENABLE_EPT);
        for (offset, value) in [
            (CR0, cpu.cr0.bits()),
            (CR3, cpu.cr3),
            (CR4, cpu.cr4.bits()),
            (RFLAGS, cpu.rflags.bits()),
            (EFER, cpu.efer.bits()),
            (RIP, cpu.rip),
            (DR6, cpu.dr6.bits()),
            (DR7, cpu.dr7.bits()),
            (SSP, cpu.cet.ssp),
            (EPTP, if with_ept { vmx.vmcs.get(Field::EPT_POINTER) } else { 0 }),
        ] {
            self.set_u64(offset, value);
        }
        self.set_u32(ENABLE_EPT, u32::from(with_ept));
        for (n, register) in (0..).zip(REGISTERS) {
            self.set_u64(FIRST_REGISTER - 8 * n, cpu.gpr[register]);
        }
        for (low, high, base) in [
            (LDT_LOW, LDT_HIGH, cpu.segments[SegmentRegister::Ldtr].base),
            (IDT_LOW, IDT_HIGH, cpu.idtr.base),
            (GDT_LOW, GDT_HIGH, cpu.gdtr.base),
        ] {
            self.set_u32(low, base as u32);
            self.set_u32(high, (base >> 32) as u32);
        }
    }

    fn save_32(&self, cpu: &Cpu) {
        use at::map_32::*;
        for (offset, value) in [
            (CR0, cpu.cr0.bits()),
            (CR3, cpu.cr3),
            (EFLAGS, cpu.rflags.bits()),
            (EIP, cpu.rip),
            (DR6, cpu.dr6.bits()),
            (DR7, cpu.dr7.bits()),
        ] {
            self.set_u32(offset, value as u32);
        }
        for (n, register) in (0..).zip(REGISTERS) {
            self.set_u32(FIRST_REGISTER - 4 * n, cpu.gpr[register] as u32);
        }
    }

    /// Loads the registers that RSM takes from the map into `cpu`, unchecked. CR4 of the 32-bit map is not there.
    fn load(&self, cpu: &mut Cpu, wide: bool) {
        if wide {
            use at::map_64::*;
            cpu.cr0 = Cr0::from_bits_retain(self.u64(CR0));
            cpu.cr3 = self.u64(CR3);
            cpu.cr4 = Cr4::from_bits_retain(self.u64(CR4));
            cpu.rflags = Rflags::from_bits_retain(self.u64(RFLAGS));
            cpu.efer = Efer::from_bits_retain(self.u64(EFER));
            cpu.rip = self.u64(RIP);
            cpu.dr6 = Dr6::from_bits_retain(self.u64(DR6));
            cpu.dr7 = Dr7::from_bits_retain(self.u64(DR7));
            cpu.cet.ssp = self.u64(SSP);
            for (n, register) in (0..).zip(REGISTERS) {
                cpu.gpr[register] = self.u64(FIRST_REGISTER - 8 * n);
            }
        } else {
            use at::map_32::*;
            let double = |offset| u64::from(self.u32(offset));
            cpu.cr0 = Cr0::from_bits_retain(double(CR0));
            cpu.cr3 = double(CR3);
            cpu.rflags = Rflags::from_bits_retain(double(EFLAGS));
            cpu.rip = double(EIP);
            cpu.dr6 = Dr6::from_bits_retain(double(DR6));
            cpu.dr7 = Dr7::from_bits_retain(double(DR7));
            for (n, register) in (0..).zip(REGISTERS) {
                cpu.gpr[register] = double(FIRST_REGISTER - 4 * n);
            }
        }
        cpu.smbase = self.u32(at::SMBASE);
    }
}

impl<B: Bus> Exec<'_, B> {
    /// Delivers an SMI: the state goes to SMRAM, VMX operation is left, and the handler at SMBASE plus 8000H is next.
    pub(crate) fn enter_smm(&mut self) {
        self.state.flags.settle(&mut self.state.cpu.rflags);
        let wide = wide_map(self.profile);
        let cr4 = self.state.cpu.cr4;
        self.state.cpu.cr4.remove(Cr4::VMXE);
        self.state.cpu.in_smm = true;
        self.bus.smm(true);
        let io = self.io_just_completed();
        let memory = Watched { bus: self.bus, pages: self.caches.code.pages() };
        let area = SaveArea { memory: &memory, smbase: self.state.cpu.smbase };
        area.save(&self.state.cpu, &self.state.vmx, io.as_ref(), wide);

        let cpu = &mut self.state.cpu;
        self.state.smm = Some(Interrupted {
            segments: cpu.segments,
            gdtr: cpu.gdtr,
            idtr: cpu.idtr,
            pdptes: cpu.pdptes,
            cr4,
            virtual_8086: cpu.rflags.contains(Rflags::VM),
            interruptibility: cpu.interruptibility,
            pending_debug: cpu.pending_debug,
            activity: cpu.activity,
            between_iterations: self.state.between_iterations,
            io,
            vmx: leave_vmx_operation(&mut self.state.vmx),
        });
        set_handlers_environment(cpu);
        self.state.between_iterations = false;
        self.state.monitor = None;
        self.state.wait = None;
        self.caches.hot = None;
        self.caches.invalidate(&Invalidate::Smi { vendor: Vendor::Intel });
        self.caches.changed();
    }

    /// The I/O instruction, or the iteration of one, that was completed last of all.
    fn io_just_completed(&self) -> Option<IoInstruction> {
        let (rip, tsc) = (self.state.cpu.rip, self.state.tsc);
        self.state.last_io.filter(|io| io.next_rip == rip && io.tsc.wrapping_add(1) == tsc)
    }

    /// RSM: the interrupted program goes on, or the processor shuts down.
    ///
    /// # Preconditions
    /// The processor is in SMM.
    pub(crate) fn leave_smm(&mut self) {
        let wide = wide_map(self.profile);
        let area = SaveArea { memory: self.bus, smbase: self.state.cpu.smbase };
        let Some(kept) = self.state.smm else { return self.shut_down_at_rsm() };
        let mut cpu = self.state.cpu;
        cpu.cr4 = kept.cr4.difference(Cr4::VMXE);
        area.load(&mut cpu, wide);
        if !self.acceptable(&cpu) {
            return self.shut_down_at_rsm();
        }
        let (halt_restart, io_restart) = (area.u16(at::HALT_RESTART), area.u16(at::IO_RESTART));
        let io_rip = if wide { area.u64(at::map_64::IO_RIP) } else { kept.io.map_or(0, |io| io.rip) };

        cpu.cr0 = Cr0::from_bits_retain(cpu.cr0.bits() & crate::ops::control::CR0_EXISTING) | Cr0::ET;
        cpu.segments = kept.segments;
        (cpu.gdtr, cpu.idtr, cpu.pdptes) = (kept.gdtr, kept.idtr, kept.pdptes);
        cpu.interruptibility = kept.interruptibility.difference(Interruptibility::SMI);
        cpu.pending_debug = kept.pending_debug;
        cpu.activity = match kept.activity {
            ActivityState::HLT if halt_restart & 1 == 0 => ActivityState::ACTIVE,
            activity => activity,
        };
        if let (Some(io), 0xff) = (kept.io, io_restart & 0xff) {
            cpu.rip = io_rip;
            [cpu.gpr[Gpr::Rcx], cpu.gpr[Gpr::Rsi], cpu.gpr[Gpr::Rdi]] = io.registers;
        }
        cpu.dr6 = Dr6::from_bits_retain(cpu.dr6.bits() & 0x1_e00f | 0xfffe_0ff0);
        cpu.dr7 = Dr7::from_bits_retain(cpu.dr7.bits() & 0xffff_2bff | Dr7::FIXED_1.bits());
        cpu.cet.ssp = addr::canonicalize(cpu.cet.ssp, self.profile.linear_width());
        cpu.cr4.set(Cr4::VMXE, kept.cr4.contains(Cr4::VMXE));
        cpu.rflags = Rflags::from_bits_retain(cpu.rflags.bits() & FLAGS) | Rflags::FIXED_1;
        if let Some(vmx) = &kept.vmx {
            self.return_to_vmx_operation(&mut cpu, vmx, &kept);
        }
        settle_mode(&mut cpu, self.profile);
        cpu.in_smm = false;
        self.state.cpu = cpu;
        self.state.between_iterations = kept.between_iterations;
        self.state.smm = None;
        self.next_rip = self.state.cpu.rip;
        self.entry = Some(Led::OutOfSmm);
        self.caches.hot = None;
        self.caches.invalidate(&Invalidate::Rsm { vendor: Vendor::Intel });
        self.caches.changed();
        self.bus.smm(false);
    }

    /// Does RSM accept what the map has in control registers (31.3.2, Exiting From SMM; 31.14.2)?
    fn acceptable(&self, cpu: &Cpu) -> bool {
        let (cr0, cr4) = (cpu.cr0, cpu.cr4);
        let lma = cr0.contains(Cr0::PG) && cpu.efer.contains(Efer::LME);
        let wrong = cr4.bits() & !self.cr4_existing() != 0
            || cr4.contains(Cr4::VMXE)
            || cr0.contains(Cr0::PG) && !cr0.contains(Cr0::PE)
            || cr0.contains(Cr0::NW) && !cr0.contains(Cr0::CD)
            || cr4.contains(Cr4::PCIDE) && !lma
            || cr4.contains(Cr4::CET) && !cr0.contains(Cr0::WP)
            || lma && !cr4.contains(Cr4::PAE);
        !wrong
    }

    /// RSM fails: the processor shuts down where it is, in SMM.
    #[cold]
    fn shut_down_at_rsm(&mut self) {
        self.state.cpu.activity = ActivityState::SHUTDOWN;
        self.next_rip = self.state.cpu.rip;
    }

    /// 31.14.2: VMX operation is entered again, and what it fixes of the registers is as it has to be.
    fn return_to_vmx_operation(&mut self, cpu: &mut Cpu, kept: &InterruptedVmx, interrupted: &Interrupted) {
        let vmx = &mut self.state.vmx;
        vmx.state = kept.state;
        vmx.vmcs = kept.vmcs;
        vmx.guest = kept.guest;
        let unrestricted = vmx.in_guest() && vmx.guest.controls.has(Control::UNRESTRICTED_GUEST);
        let own = if unrestricted { Cr0::PE | Cr0::PG } else { Cr0::empty() };
        let fixed = |value: u64, zero, one| {
            value & self.profile.vmx(one).unwrap_or(u64::MAX) | self.profile.vmx(zero).unwrap_or(0)
        };
        let cr0 = Cr0::from_bits_retain(fixed(cpu.cr0.bits(), VmxMsr::Cr0Fixed0, VmxMsr::Cr0Fixed1));
        cpu.cr0 = cr0.difference(own) | cpu.cr0 & own;
        cpu.cr4 = Cr4::from_bits_retain(fixed(cpu.cr4.bits(), VmxMsr::Cr4Fixed0, VmxMsr::Cr4Fixed1));
        cpu.rflags.set(Rflags::VM, interrupted.virtual_8086);
        if !interrupted.virtual_8086 && !unrestricted {
            let level = cpu.segments[SegmentRegister::Ss].rights.dpl() as u16;
            for register in [SegmentRegister::Cs, SegmentRegister::Ss] {
                let selector = &mut cpu.segments[register].selector;
                selector.0 = selector.0 & !3 | level;
            }
        }
        if vmx.in_guest() && vmx.guest.controls.has(Control::VIRTUAL_NMIS) {
            cpu.interruptibility.remove(Interruptibility::NMI);
        }
    }
}

/// The flags that exist: bits 21:16, 14:6, 4, 2, 0.
const FLAGS: u64 = 0x3f_7fd5;

/// LMA follows from LME and CR0.PG; in IA-32e mode there is no virtual-8086 mode.
fn settle_mode(cpu: &mut Cpu, profile: &CpuProfile) {
    let efer = profile.mask(MaskedMsr::Efer).writable;
    cpu.efer = Efer::from_bits_retain(cpu.efer.bits() & efer);
    let long = cpu.efer.contains(Efer::LME) && cpu.cr0.contains(Cr0::PG);
    cpu.efer.set(Efer::LMA, long);
    if long {
        cpu.rflags.remove(Rflags::VM);
    }
}

/// Out of VMX operation: the controls of the guest have no effect in SMM, and VMX instructions are not to be had.
fn leave_vmx_operation(vmx: &mut Vmx) -> Option<InterruptedVmx> {
    if vmx.state.operation == Operation::Outside {
        return None;
    }
    let interrupted = InterruptedVmx { state: vmx.state, vmcs: vmx.vmcs, guest: vmx.guest };
    vmx.state = VmxState { operation: Operation::Outside, ..VmxState::default() };
    vmx.vmcs = Vmcs::new();
    vmx.guest = NonRoot::default();
    Some(interrupted)
}

/// Table 31-4, Processor Register Initialization in SMM.
fn set_handlers_environment(cpu: &mut Cpu) {
    cpu.rflags = Rflags::FIXED_1;
    cpu.rip = 0x8000;
    cpu.cr0.remove(Cr0::PE | Cr0::EM | Cr0::TS | Cr0::PG);
    cpu.cr4 = Cr4::empty();
    cpu.efer = Efer::empty();
    cpu.dr7 = Dr7::FIXED_1;
    let flat = |selector, base| Segment { selector, base, limit: u32::MAX, rights: FLAT_REAL };
    for register in
        [SegmentRegister::Ds, SegmentRegister::Es, SegmentRegister::Fs, SegmentRegister::Gs, SegmentRegister::Ss]
    {
        cpu.segments[register] = flat(Selector(0), 0);
    }
    cpu.segments[SegmentRegister::Cs] = flat(Selector((cpu.smbase >> 4) as u16), cpu.smbase.into());
    cpu.activity = ActivityState::ACTIVE;
    cpu.interruptibility = Interruptibility::SMI | Interruptibility::NMI;
    cpu.pending_debug = PendingDebug::empty();
}
