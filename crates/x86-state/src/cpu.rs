//! What state does a logical processor have? One plain value: registers, hidden parts, what is pending and what is blocked.
//!
//! Source: SDM 3A table 9-1 (rev 077), IA-32 and Intel 64 Processor States Following Power-up, Reset, or INIT;
//! SDM 3C 24.4, Guest-State Area, for what a processor has beside its registers.

use core::ops::{Index, IndexMut};

use crate::addr::Gva;
use crate::msr::MsrContext;
use crate::profile::CpuProfile;
use crate::regs::{Cr0, Cr4, DebugCtl, Dr6, Dr7, Efer, Interruptibility, PendingDebug, Rflags, Xcr0};
use crate::segment::{AccessRights, Segment, SegmentRegister, Selector};

/// A general-purpose register, in the order of instruction encodings.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
#[repr(u8)]
pub enum Gpr {
    /// RAX
    Rax,
    /// RCX
    Rcx,
    /// RDX
    Rdx,
    /// RBX
    Rbx,
    /// RSP
    Rsp,
    /// RBP
    Rbp,
    /// RSI
    Rsi,
    /// RDI
    Rdi,
    /// R8
    R8,
    /// R9
    R9,
    /// R10
    R10,
    /// R11
    R11,
    /// R12
    R12,
    /// R13
    R13,
    /// R14
    R14,
    /// R15
    R15,
}

impl Gpr {
    /// All sixteen, in encoding order.
    pub const ALL: [Self; 16] = [
        Self::Rax,
        Self::Rcx,
        Self::Rdx,
        Self::Rbx,
        Self::Rsp,
        Self::Rbp,
        Self::Rsi,
        Self::Rdi,
        Self::R8,
        Self::R9,
        Self::R10,
        Self::R11,
        Self::R12,
        Self::R13,
        Self::R14,
        Self::R15,
    ];

    /// The name in capitals, as "RAX".
    #[must_use]
    pub const fn name(self) -> &'static str {
        const NAMES: [&str; 16] = [
            "RAX", "RCX", "RDX", "RBX", "RSP", "RBP", "RSI", "RDI", "R8", "R9", "R10", "R11", "R12", "R13", "R14",
            "R15",
        ];
        NAMES[self as usize]
    }
}

/// The sixteen general-purpose registers, indexed by [`Gpr`].
#[derive(Clone, Copy, Debug, PartialEq, Eq, Default, Hash)]
pub struct Gprs(pub [u64; 16]);

impl Index<Gpr> for Gprs {
    type Output = u64;

    #[inline]
    fn index(&self, register: Gpr) -> &u64 {
        &self.0[register as usize]
    }
}

impl IndexMut<Gpr> for Gprs {
    #[inline]
    fn index_mut(&mut self, register: Gpr) -> &mut u64 {
        &mut self.0[register as usize]
    }
}

/// The eight segment registers, indexed by [`SegmentRegister`].
#[derive(Clone, Copy, Debug, PartialEq, Eq, Default, Hash)]
pub struct Segments(pub [Segment; 8]);

impl Index<SegmentRegister> for Segments {
    type Output = Segment;

    #[inline]
    fn index(&self, register: SegmentRegister) -> &Segment {
        &self.0[register as usize]
    }
}

impl IndexMut<SegmentRegister> for Segments {
    #[inline]
    fn index_mut(&mut self, register: SegmentRegister) -> &mut Segment {
        &mut self.0[register as usize]
    }
}

/// GDTR or IDTR.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Default, Hash)]
pub struct DescriptorTable {
    /// Linear base address.
    pub base: u64,
    /// Offset of the last byte; the architecture has 16 bits, VMCS fields have 32.
    pub limit: u32,
}

/// What a logical processor is doing, in the VMCS's encoding (SDM 3C 24.4.2, Guest Non-Register State). Any number survives.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Default, Hash)]
#[repr(transparent)]
pub struct ActivityState(pub u32);

impl ActivityState {
    /// 0: executing instructions.
    pub const ACTIVE: Self = Self(0);
    /// 1: inactive because of HLT.
    pub const HLT: Self = Self(1);
    /// 2: inactive because of a triple fault or another serious error.
    pub const SHUTDOWN: Self = Self(2);
    /// 3: inactive, waiting for a startup IPI.
    pub const WAIT_FOR_SIPI: Self = Self(3);

    /// The manual's name; `None` for states that it does not define.
    #[must_use]
    pub const fn name(self) -> Option<&'static str> {
        match self {
            Self::ACTIVE => Some("active"),
            Self::HLT => Some("HLT"),
            Self::SHUTDOWN => Some("shutdown"),
            Self::WAIT_FOR_SIPI => Some("wait-for-SIPI"),
            _ => None,
        }
    }
}

/// How instructions are read: the operating mode.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum CpuMode {
    /// Real-address mode: CR0.PE is 0.
    Real,
    /// Virtual-8086 mode: RFLAGS.VM is 1.
    Virtual8086,
    /// Protected mode with a 16-bit code segment.
    Protected16,
    /// Protected mode with a 32-bit code segment.
    Protected32,
    /// IA-32e mode with a 16-bit or 32-bit code segment (CS.L is 0; CS.D tells which).
    Compatibility,
    /// IA-32e mode with a 64-bit code segment.
    Long64,
}

/// How linear addresses are translated (SDM 3A 4.1.1, Four Paging Modes).
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum PagingMode {
    /// Not at all: CR0.PG is 0.
    None,
    /// 32-bit paging.
    Bits32,
    /// PAE paging.
    Pae,
    /// 4-level paging.
    Level4,
    /// 5-level paging.
    Level5,
}

/// Control-flow enforcement state.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Default, Hash)]
pub struct Cet {
    /// IA32_U_CET.
    pub u_cet: u64,
    /// IA32_S_CET.
    pub s_cet: u64,
    /// IA32_PL0_SSP to IA32_PL3_SSP.
    pub pl_ssp: [u64; 4],
    /// SSP, the shadow-stack pointer.
    pub ssp: u64,
    /// IA32_INTERRUPT_SSP_TABLE_ADDR.
    pub interrupt_ssp_table_addr: u64,
}

/// Registers of FRED transitions (FRED specification (rev 2.0) 4.3, New MSRs for Configuration of FRED Transitions).
#[derive(Clone, Copy, Debug, PartialEq, Eq, Default, Hash)]
pub struct Fred {
    /// IA32_FRED_CONFIG.
    pub config: u64,
    /// IA32_FRED_RSP0 to IA32_FRED_RSP3.
    pub rsp: [u64; 4],
    /// IA32_FRED_STKLVLS.
    pub stack_levels: u64,
    /// IA32_FRED_SSP1 to IA32_FRED_SSP3; IA32_FRED_SSP0 is IA32_PL0_SSP.
    pub ssp: [u64; 3],
}

/// The state of one logical processor.
///
/// It is a plain value: any field may hold any bits, and two processors are in the same state if the values are equal.
/// The x87, MMX, SSE and later vector registers belong to the emulator that uses them.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct Cpu {
    /// General-purpose registers.
    pub gpr: Gprs,
    /// Instruction pointer: an offset into CS.
    pub rip: u64,
    /// Flags.
    pub rflags: Rflags,
    /// CR0.
    pub cr0: Cr0,
    /// CR2: the linear address of the last page fault.
    pub cr2: Gva,
    /// CR3: the root of paging, with PCID or cache bits.
    pub cr3: u64,
    /// The PDPTE registers, which PAE paging uses on processors that have them (SDM 3A 4.4.1, PDPTE Registers): loaded by MOV to CR
    /// and by VMX transitions. Without PAE paging they mean nothing.
    pub pdptes: [u64; 4],
    /// CR4.
    pub cr4: Cr4,
    /// CR8: bits `[3:0]` are the task priority.
    pub cr8: u64,
    /// DR0 to DR3.
    pub dr: [u64; 4],
    /// DR6.
    pub dr6: Dr6,
    /// DR7.
    pub dr7: Dr7,
    /// Segment registers.
    pub segments: Segments,
    /// GDTR.
    pub gdtr: DescriptorTable,
    /// IDTR.
    pub idtr: DescriptorTable,
    /// IA32_EFER.
    pub efer: Efer,
    /// IA32_STAR.
    pub star: u64,
    /// IA32_LSTAR.
    pub lstar: u64,
    /// IA32_CSTAR.
    pub cstar: u64,
    /// IA32_FMASK.
    pub fmask: u64,
    /// IA32_KERNEL_GS_BASE. The bases of FS and GS are in `segments`.
    pub kernel_gs_base: u64,
    /// IA32_SYSENTER_CS.
    pub sysenter_cs: u64,
    /// IA32_SYSENTER_ESP.
    pub sysenter_esp: u64,
    /// IA32_SYSENTER_EIP.
    pub sysenter_eip: u64,
    /// IA32_PAT.
    pub pat: u64,
    /// IA32_DEBUGCTL.
    pub debugctl: DebugCtl,
    /// IA32_PERF_GLOBAL_CTRL.
    pub perf_global_ctrl: u64,
    /// IA32_BNDCFGS.
    pub bndcfgs: u64,
    /// IA32_RTIT_CTL.
    pub rtit_ctl: u64,
    /// IA32_LBR_CTL.
    pub lbr_ctl: u64,
    /// IA32_SPEC_CTRL.
    pub spec_ctrl: u64,
    /// IA32_TSC_AUX.
    pub tsc_aux: u64,
    /// IA32_APIC_BASE.
    pub apic_base: u64,
    /// SMBASE.
    pub smbase: u32,
    /// XCR0.
    pub xcr0: Xcr0,
    /// IA32_XSS.
    pub xss: u64,
    /// PKRU.
    pub pkru: u32,
    /// IA32_PKRS.
    pub pkrs: u32,
    /// Control-flow enforcement.
    pub cet: Cet,
    /// FRED transitions.
    pub fred: Fred,
    /// UINV, the vector of user-interrupt notifications: bits `[39:32]` of IA32_UINTR_MISC.
    pub uinv: u8,
    /// Executing, halted, shut down or waiting.
    pub activity: ActivityState,
    /// Shadows of STI and MOV SS, blocking of SMIs and NMIs.
    pub interruptibility: Interruptibility,
    /// Debug exceptions recognized but not yet delivered.
    pub pending_debug: PendingDebug,
    /// In system-management mode?
    pub in_smm: bool,
}

impl Cpu {
    /// IA32_PAT after reset: WB, WT, UC-, UC, twice (SDM 3A 11.12.4, Programming the PAT).
    pub const PAT_RESET: u64 = 0x0007_0406_0007_0406;

    /// The bootstrap processor after power-up or RESET (SDM 3A table 9-1), with `signature`, EAX of CPUID leaf 1, in EDX.
    ///
    /// Table 9-1 gives LDTR and TR the rights "present, R/W", which says nothing of their type. They are made an LDT and a busy
    /// TSS, the only types that a running processor's registers can have (SDM 3C 26.3.1.2, Checks on Guest Segment Registers).
    #[must_use]
    pub const fn reset(signature: u32) -> Self {
        const fn at_reset(selector: u16, base: u64, rights: AccessRights) -> Segment {
            Segment { selector: Selector(selector), base, limit: 0xffff, rights }
        }
        const DATA: Segment = at_reset(0, 0, AccessRights::REAL);
        const TABLE: DescriptorTable = DescriptorTable { base: 0, limit: 0xffff };
        let mut gpr = [0; 16];
        gpr[Gpr::Rdx as usize] = signature as u64;
        Self {
            gpr: Gprs(gpr),
            rip: 0xfff0,
            rflags: Rflags::FIXED_1,
            cr0: Cr0::from_bits_retain(0x6000_0010),
            cr2: Gva(0),
            cr3: 0,
            pdptes: [0; 4],
            cr4: Cr4::empty(),
            cr8: 0,
            dr: [0; 4],
            dr6: Dr6::RESET,
            dr7: Dr7::RESET,
            segments: Segments([
                DATA,
                at_reset(0xf000, 0xffff_0000, AccessRights::REAL),
                DATA,
                DATA,
                DATA,
                DATA,
                at_reset(0, 0, AccessRights::LDT),
                at_reset(0, 0, AccessRights::TSS_BUSY),
            ]),
            gdtr: TABLE,
            idtr: TABLE,
            efer: Efer::empty(),
            star: 0,
            lstar: 0,
            cstar: 0,
            fmask: 0,
            kernel_gs_base: 0,
            sysenter_cs: 0,
            sysenter_esp: 0,
            sysenter_eip: 0,
            pat: Self::PAT_RESET,
            debugctl: DebugCtl::empty(),
            perf_global_ctrl: 0,
            bndcfgs: 0,
            rtit_ctl: 0,
            lbr_ctl: 0,
            spec_ctrl: 0,
            tsc_aux: 0,
            // Enabled (bit 11), bootstrap processor (bit 8) (SDM 3A 10.4.4, Local APIC Status and Location).
            apic_base: 0xfee0_0900,
            // SDM 3C 31.4, SMRAM.
            smbase: 0x3_0000,
            xcr0: Xcr0::X87,
            xss: 0,
            pkru: 0,
            pkrs: 0,
            cet: Cet { u_cet: 0, s_cet: 0, pl_ssp: [0; 4], ssp: 0, interrupt_ssp_table_addr: 0 },
            fred: Fred { config: 0, rsp: [0; 4], stack_levels: 0, ssp: [0; 3] },
            uinv: 0,
            activity: ActivityState::ACTIVE,
            interruptibility: Interruptibility::empty(),
            pending_debug: PendingDebug::empty(),
            in_smm: false,
        }
    }

    /// One segment register.
    #[must_use]
    #[inline]
    pub const fn segment(&self, register: SegmentRegister) -> &Segment {
        &self.segments.0[register as usize]
    }

    /// The current privilege level, 0 to 3: 0 in real-address mode, 3 in virtual-8086 mode, else the DPL of SS
    /// (SDM 3C 24.4.1, Guest Register State: always equal to the CPL, even when SS is unusable).
    ///
    /// SVM keeps the CPL in a field of its own; loading a VMCB writes it to the DPL of SS.
    #[must_use]
    #[inline]
    pub const fn cpl(&self) -> u8 {
        match self.mode() {
            CpuMode::Real => 0,
            CpuMode::Virtual8086 => 3,
            _ => self.segment(SegmentRegister::Ss).rights.dpl() as u8,
        }
    }

    /// The operating mode.
    #[must_use]
    #[inline]
    pub const fn mode(&self) -> CpuMode {
        let code = self.segment(SegmentRegister::Cs).rights;
        if !self.cr0.contains(Cr0::PE) {
            CpuMode::Real
        } else if self.efer.contains(Efer::LMA) {
            if code.l() { CpuMode::Long64 } else { CpuMode::Compatibility }
        } else if self.rflags.contains(Rflags::VM) {
            CpuMode::Virtual8086
        } else if code.db() {
            CpuMode::Protected32
        } else {
            CpuMode::Protected16
        }
    }

    /// The paging mode (SDM 3A 4.1.1, Four Paging Modes).
    #[must_use]
    #[inline]
    pub const fn paging_mode(&self) -> PagingMode {
        if !self.cr0.contains(Cr0::PG) {
            PagingMode::None
        } else if !self.cr4.contains(Cr4::PAE) {
            PagingMode::Bits32
        } else if !self.efer.contains(Efer::LME) {
            PagingMode::Pae
        } else if self.cr4.contains(Cr4::LA57) {
            PagingMode::Level5
        } else {
            PagingMode::Level4
        }
    }

    /// How many bits a canonical linear address has in the present paging mode: 57 with 5-level paging, 48 with 4-level
    /// paging, 32 outside IA-32e mode.
    #[must_use]
    #[inline]
    pub const fn linear_width(&self) -> u8 {
        match self.paging_mode() {
            PagingMode::Level5 => 57,
            PagingMode::Level4 => 48,
            _ => 32,
        }
    }

    /// Does this state allow a maskable interrupt: IF set, no shadow of STI or MOV SS?
    #[must_use]
    pub const fn accepts_interrupts(&self) -> bool {
        let shadow = Interruptibility::STI.union(Interruptibility::MOV_SS);
        self.rflags.contains(Rflags::IF) && !self.interruptibility.intersects(shadow)
    }

    /// What an MSR access depends on, as far as this state tells it.
    #[must_use]
    pub const fn msr_context<'a>(&self, profile: &'a CpuProfile) -> MsrContext<'a> {
        let mut context = MsrContext::new(profile);
        context.cr0_pg = Some(self.cr0.contains(Cr0::PG));
        context.efer = Some(self.efer.bits());
        context.apic_base = Some(self.apic_base);
        context.rtit_ctl = Some(self.rtit_ctl);
        context.in_smm = Some(self.in_smm);
        context
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn reset_starts_in_real_mode_16_bytes_below_4_gbytes() {
        let cpu = Cpu::reset(0x306c3);
        assert_eq!(cpu.mode(), CpuMode::Real);
        assert_eq!(cpu.paging_mode(), PagingMode::None);
        assert_eq!(cpu.cpl(), 0);
        assert_eq!(cpu.segment(SegmentRegister::Cs).base + cpu.rip, 0xffff_fff0);
        assert_eq!(cpu.gpr[Gpr::Rdx], 0x306c3);
        assert_eq!(cpu.rflags.bits(), 2);
        assert!(!cpu.accepts_interrupts());
    }

    /// A processor with the given CR0, CR4, EFER, RFLAGS, access rights of CS and of SS.
    fn cpu(cr0: Cr0, cr4: Cr4, efer: Efer, rflags: Rflags, cs: u32, ss: u32) -> Cpu {
        let mut cpu = Cpu { cr0, cr4, efer, rflags, ..Cpu::reset(0) };
        cpu.segments[SegmentRegister::Cs].rights = AccessRights(cs);
        cpu.segments[SegmentRegister::Ss].rights = AccessRights(ss);
        cpu
    }

    #[test]
    fn mode_and_cpl_follow_the_control_bits() {
        let long = Efer::LME | Efer::LMA;
        let paged = Cr0::PE | Cr0::PG;
        for (name, cr0, efer, rflags, cs, ss, mode, cpl) in [
            ("real", Cr0::empty(), Efer::empty(), Rflags::empty(), 0x93, 0xf3, CpuMode::Real, 0),
            // VM means nothing without PE.
            ("big real", Cr0::empty(), Efer::empty(), Rflags::VM, 0xc093, 0x93, CpuMode::Real, 0),
            ("v86", paged, Efer::empty(), Rflags::VM, 0xf3, 0x93, CpuMode::Virtual8086, 3),
            ("16-bit", Cr0::PE, Efer::empty(), Rflags::empty(), 0x9b, 0x93, CpuMode::Protected16, 0),
            ("32-bit user", paged, Efer::empty(), Rflags::empty(), 0xc0fb, 0xc0f3, CpuMode::Protected32, 3),
            ("compatibility", paged, long, Rflags::empty(), 0xc0fb, 0xc0f3, CpuMode::Compatibility, 3),
            // SS is unusable with a null selector at CPL 0; its DPL is the CPL all the same.
            ("64-bit", paged, long, Rflags::empty(), 0xa09b, 0x1_0000, CpuMode::Long64, 0),
            ("64-bit user", paged, long, Rflags::empty(), 0xa0fb, 0x1_0060, CpuMode::Long64, 3),
            // L means nothing outside IA-32e mode.
            ("L in legacy mode", paged, Efer::empty(), Rflags::empty(), 0xa09b, 0x93, CpuMode::Protected16, 0),
        ] {
            let cpu = cpu(cr0, Cr4::empty(), efer, rflags, cs, ss);
            assert_eq!((cpu.mode(), cpu.cpl()), (mode, cpl), "{name}");
        }
    }

    #[test]
    fn paging_mode_follows_pg_pae_lme_and_la57() {
        for pg in [false, true] {
            for pae in [false, true] {
                for lme in [false, true] {
                    for la57 in [false, true] {
                        let mut cpu = Cpu::reset(0);
                        cpu.cr0.set(Cr0::PG, pg);
                        cpu.cr4.set(Cr4::PAE, pae);
                        cpu.cr4.set(Cr4::LA57, la57);
                        cpu.efer.set(Efer::LME, lme);
                        let (expected, width) = match (pg, pae, lme, la57) {
                            (false, ..) => (PagingMode::None, 32),
                            (_, false, ..) => (PagingMode::Bits32, 32),
                            (_, _, false, _) => (PagingMode::Pae, 32),
                            (.., false) => (PagingMode::Level4, 48),
                            (.., true) => (PagingMode::Level5, 57),
                        };
                        assert_eq!((cpu.paging_mode(), cpu.linear_width()), (expected, width));
                    }
                }
            }
        }
    }

    #[test]
    fn shadows_hold_interrupts_back() {
        let mut cpu = Cpu::reset(0);
        cpu.rflags |= Rflags::IF;
        for (blocked_by, accepts) in [
            (Interruptibility::empty(), true),
            (Interruptibility::STI, false),
            (Interruptibility::MOV_SS, false),
            (Interruptibility::NMI | Interruptibility::SMI, true),
        ] {
            cpu.interruptibility = blocked_by;
            assert_eq!(cpu.accepts_interrupts(), accepts, "{blocked_by:?}");
        }
    }

    #[test]
    fn registers_are_indexed_in_encoding_order() {
        let mut cpu = Cpu::reset(0);
        for (number, register) in Gpr::ALL.into_iter().enumerate() {
            cpu.gpr[register] = number as u64;
            assert_eq!(cpu.gpr.0[number], number as u64, "{}", register.name());
        }
        for (number, register) in SegmentRegister::ALL.into_iter().enumerate() {
            cpu.segments[register].limit = number as u32;
            assert_eq!(cpu.segments.0[number].limit, number as u32, "{}", register.name());
        }
    }

    #[test]
    fn activity_states_have_names_as_far_as_the_manual_goes() {
        assert_eq!(ActivityState(3).name(), Some("wait-for-SIPI"));
        assert_eq!(ActivityState(4).name(), None);
    }
}
