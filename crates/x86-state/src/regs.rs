//! What does each bit of a control, flag or debug register mean? Typed words whose unknown bits survive.
//!
//! Every type keeps all bits of the word it was made from (`from_bits_retain`), named or not: a register that a dump shows
//! is the register that a rule sees.
//!
//! Source: SDM 3A 2.3, System Flags and Fields in the EFLAGS Register; 2.5, Control Registers; 2.6, Extended Control
//! Registers; SDM 3B 17.2, Debug Registers; 17.4.1, IA32_DEBUGCTL MSR; SDM 3C 24.4.2, Guest Non-Register State (rev 077).

use bitflags::bitflags;

bitflags! {
    /// Control register CR0 (SDM 3A 2.5, Control Registers).
    #[derive(Clone, Copy, Debug, PartialEq, Eq, Default, Hash)]
    pub struct Cr0: u64 {
        /// Bit 0: protection enable.
        const PE = 1;
        /// Bit 1: monitor coprocessor.
        const MP = 1 << 1;
        /// Bit 2: emulation.
        const EM = 1 << 2;
        /// Bit 3: task switched.
        const TS = 1 << 3;
        /// Bit 4: extension type, always 1.
        const ET = 1 << 4;
        /// Bit 5: numeric error.
        const NE = 1 << 5;
        /// Bit 16: write protect.
        const WP = 1 << 16;
        /// Bit 18: alignment mask.
        const AM = 1 << 18;
        /// Bit 29: not write-through.
        const NW = 1 << 29;
        /// Bit 30: cache disable.
        const CD = 1 << 30;
        /// Bit 31: paging.
        const PG = 1 << 31;
        const _ = !0;
    }
}

bitflags! {
    /// Control register CR4 (SDM 3A 2.5, Control Registers; later bits from the feature's own specification).
    #[derive(Clone, Copy, Debug, PartialEq, Eq, Default, Hash)]
    pub struct Cr4: u64 {
        /// Bit 0: virtual-8086 mode extensions.
        const VME = 1;
        /// Bit 1: protected-mode virtual interrupts.
        const PVI = 1 << 1;
        /// Bit 2: time stamp disable.
        const TSD = 1 << 2;
        /// Bit 3: debugging extensions.
        const DE = 1 << 3;
        /// Bit 4: page size extensions.
        const PSE = 1 << 4;
        /// Bit 5: physical address extension.
        const PAE = 1 << 5;
        /// Bit 6: machine-check enable.
        const MCE = 1 << 6;
        /// Bit 7: page global enable.
        const PGE = 1 << 7;
        /// Bit 8: performance-monitoring counter enable.
        const PCE = 1 << 8;
        /// Bit 9: operating system support for FXSAVE and FXRSTOR.
        const OSFXSR = 1 << 9;
        /// Bit 10: operating system support for unmasked SIMD floating-point exceptions.
        const OSXMMEXCPT = 1 << 10;
        /// Bit 11: user-mode instruction prevention.
        const UMIP = 1 << 11;
        /// Bit 12: 57-bit linear addresses.
        const LA57 = 1 << 12;
        /// Bit 13: VMX enable.
        const VMXE = 1 << 13;
        /// Bit 14: SMX enable.
        const SMXE = 1 << 14;
        /// Bit 16: RDFSBASE and its siblings.
        const FSGSBASE = 1 << 16;
        /// Bit 17: process-context identifiers.
        const PCIDE = 1 << 17;
        /// Bit 18: XSAVE and extended states.
        const OSXSAVE = 1 << 18;
        /// Bit 19: Key Locker.
        const KL = 1 << 19;
        /// Bit 20: supervisor-mode execution prevention.
        const SMEP = 1 << 20;
        /// Bit 21: supervisor-mode access prevention.
        const SMAP = 1 << 21;
        /// Bit 22: protection keys for user-mode pages.
        const PKE = 1 << 22;
        /// Bit 23: control-flow enforcement technology.
        const CET = 1 << 23;
        /// Bit 24: protection keys for supervisor-mode pages.
        const PKS = 1 << 24;
        /// Bit 25: user interrupts.
        const UINTR = 1 << 25;
        /// Bit 27: linear address-space separation (later than rev 077).
        const LASS = 1 << 27;
        /// Bit 28: linear-address masking for supervisor pointers (later than rev 077).
        const LAM_SUP = 1 << 28;
        /// Bit 32: FRED transitions (FRED specification 4.2, Enabling in CR4).
        const FRED = 1 << 32;
        const _ = !0;
    }
}

bitflags! {
    /// RFLAGS (SDM 3A 2.3, System Flags and Fields in the EFLAGS Register).
    #[derive(Clone, Copy, Debug, PartialEq, Eq, Default, Hash)]
    pub struct Rflags: u64 {
        /// Bit 0: carry.
        const CF = 1;
        /// Bit 1: always 1.
        const FIXED_1 = 1 << 1;
        /// Bit 2: parity.
        const PF = 1 << 2;
        /// Bit 4: auxiliary carry.
        const AF = 1 << 4;
        /// Bit 6: zero.
        const ZF = 1 << 6;
        /// Bit 7: sign.
        const SF = 1 << 7;
        /// Bit 8: trap.
        const TF = 1 << 8;
        /// Bit 9: interrupt enable.
        const IF = 1 << 9;
        /// Bit 10: direction.
        const DF = 1 << 10;
        /// Bit 11: overflow.
        const OF = 1 << 11;
        /// Bits 13:12: I/O privilege level.
        const IOPL = 3 << 12;
        /// Bit 14: nested task.
        const NT = 1 << 14;
        /// Bit 16: resume.
        const RF = 1 << 16;
        /// Bit 17: virtual-8086 mode.
        const VM = 1 << 17;
        /// Bit 18: alignment check, access control.
        const AC = 1 << 18;
        /// Bit 19: virtual interrupt.
        const VIF = 1 << 19;
        /// Bit 20: virtual interrupt pending.
        const VIP = 1 << 20;
        /// Bit 21: CPUID can be used.
        const ID = 1 << 21;
        const _ = !0;
    }
}

impl Rflags {
    /// I/O privilege level: bits `[13:12]`.
    #[must_use]
    pub const fn iopl(self) -> u8 {
        (self.bits() >> 12 & 3) as u8
    }
}

bitflags! {
    /// IA32_EFER (SDM 4 table 2-2; AMD's bits from APM 2 3.1.7, Extended Feature Enable Register).
    #[derive(Clone, Copy, Debug, PartialEq, Eq, Default, Hash)]
    pub struct Efer: u64 {
        /// Bit 0: SYSCALL enable.
        const SCE = 1;
        /// Bit 8: IA-32e mode enable.
        const LME = 1 << 8;
        /// Bit 10: IA-32e mode active.
        const LMA = 1 << 10;
        /// Bit 11: execute-disable bit enable.
        const NXE = 1 << 11;
        /// Bit 12 (AMD): secure virtual machine enable.
        const SVME = 1 << 12;
        /// Bit 13 (AMD): long-mode segment limit enable.
        const LMSLE = 1 << 13;
        /// Bit 14 (AMD): fast FXSAVE and FXRSTOR.
        const FFXSR = 1 << 14;
        /// Bit 15 (AMD): translation cache extension.
        const TCE = 1 << 15;
        const _ = !0;
    }
}

bitflags! {
    /// Debug status register DR6 (SDM 3B 17.2.3, Debug Status Register (DR6)). RTM and BUS_LOCK are 0 when they report.
    #[derive(Clone, Copy, Debug, PartialEq, Eq, Default, Hash)]
    pub struct Dr6: u64 {
        /// Bits 3:0: breakpoint conditions 3 to 0.
        const B = 0xf;
        /// Bit 11: 0 if a bus lock was acquired (later than rev 077).
        const BUS_LOCK = 1 << 11;
        /// Bit 13: a debug register is about to be accessed.
        const BD = 1 << 13;
        /// Bit 14: single step.
        const BS = 1 << 14;
        /// Bit 15: task switch.
        const BT = 1 << 15;
        /// Bit 16: 0 if it happened inside an RTM region.
        const RTM = 1 << 16;
        const _ = !0;
    }
}

impl Dr6 {
    /// The value after reset (SDM 3A table 9-1).
    pub const RESET: Self = Self::from_bits_retain(0xffff_0ff0);
}

bitflags! {
    /// Debug control register DR7 (SDM 3B 17.2.4, Debug Control Register (DR7)).
    #[derive(Clone, Copy, Debug, PartialEq, Eq, Default, Hash)]
    pub struct Dr7: u64 {
        /// Bits 7:0: local (even) and global (odd) enables of breakpoints 0 to 3.
        const ENABLES = 0xff;
        /// Bit 8: local exact.
        const LE = 1 << 8;
        /// Bit 9: global exact.
        const GE = 1 << 9;
        /// Bit 10: always 1.
        const FIXED_1 = 1 << 10;
        /// Bit 11: advanced debugging of RTM regions.
        const RTM = 1 << 11;
        /// Bit 13: general detect.
        const GD = 1 << 13;
        /// Bits 31:16: condition and length of breakpoints 0 to 3, four bits each.
        const CONDITIONS = 0xffff << 16;
        const _ = !0;
    }
}

impl Dr7 {
    /// The value after reset (SDM 3A table 9-1).
    pub const RESET: Self = Self::FIXED_1;

    /// Is breakpoint `n` (0 to 3) enabled, locally or globally? False for other `n`.
    #[must_use]
    pub const fn enabled(self, n: u8) -> bool {
        n < 4 && self.bits() >> (2 * n) & 0b11 != 0
    }

    /// R/Wn of breakpoint `n` (0 to 3): 0 execution, 1 data write, 2 I/O, 3 data read or write.
    #[must_use]
    pub const fn condition(self, n: u8) -> u8 {
        (self.bits() >> (16 + 4 * (n & 3)) & 0b11) as u8
    }

    /// Length in bytes of breakpoint `n` (0 to 3), from LENn: 1, 2, 8 or 4.
    #[must_use]
    pub const fn len_bytes(self, n: u8) -> u8 {
        match self.bits() >> (18 + 4 * (n & 3)) & 0b11 {
            0 => 1,
            1 => 2,
            2 => 8,
            _ => 4,
        }
    }
}

bitflags! {
    /// IA32_DEBUGCTL (SDM 3B 17.4.1, IA32_DEBUGCTL MSR).
    #[derive(Clone, Copy, Debug, PartialEq, Eq, Default, Hash)]
    pub struct DebugCtl: u64 {
        /// Bit 0: last branch records.
        const LBR = 1;
        /// Bit 1: single-step on branches.
        const BTF = 1 << 1;
        /// Bit 2: debug exceptions for bus locks (later than rev 077).
        const BUS_LOCK_DETECT = 1 << 2;
        /// Bit 6: branch trace messages.
        const TR = 1 << 6;
        /// Bit 7: branch trace store.
        const BTS = 1 << 7;
        /// Bit 8: branch trace interrupt.
        const BTINT = 1 << 8;
        /// Bit 9: branch trace off at CPL 0.
        const BTS_OFF_OS = 1 << 9;
        /// Bit 10: branch trace off at CPL above 0.
        const BTS_OFF_USR = 1 << 10;
        /// Bit 11: freeze branch records on a performance-monitoring interrupt.
        const FREEZE_LBRS_ON_PMI = 1 << 11;
        /// Bit 12: freeze counters on a performance-monitoring interrupt.
        const FREEZE_PERFMON_ON_PMI = 1 << 12;
        /// Bit 13: performance-monitoring interrupts of the uncore.
        const ENABLE_UNCORE_PMI = 1 << 13;
        /// Bit 14: freeze while in SMM.
        const FREEZE_WHILE_SMM = 1 << 14;
        /// Bit 15: advanced debugging of RTM regions.
        const RTM_DEBUG = 1 << 15;
        const _ = !0;
    }
}

bitflags! {
    /// Extended control register XCR0 (SDM 3A 2.6, Extended Control Registers; bits 18:17 from SDM 1 13.1).
    #[derive(Clone, Copy, Debug, PartialEq, Eq, Default, Hash)]
    pub struct Xcr0: u64 {
        /// Bit 0: x87, always 1.
        const X87 = 1;
        /// Bit 1: SSE.
        const SSE = 1 << 1;
        /// Bit 2: AVX.
        const AVX = 1 << 2;
        /// Bit 3: MPX bound registers.
        const BNDREG = 1 << 3;
        /// Bit 4: MPX configuration and status.
        const BNDCSR = 1 << 4;
        /// Bit 5: opmask registers.
        const OPMASK = 1 << 5;
        /// Bit 6: upper halves of ZMM0 to ZMM15.
        const ZMM_HI256 = 1 << 6;
        /// Bit 7: ZMM16 to ZMM31.
        const HI16_ZMM = 1 << 7;
        /// Bit 9: PKRU.
        const PKRU = 1 << 9;
        /// Bit 17: AMX tile configuration.
        const TILECFG = 1 << 17;
        /// Bit 18: AMX tile data.
        const TILEDATA = 1 << 18;
        const _ = !0;
    }
}

bitflags! {
    /// What holds events back, in the VMCS's format (SDM 3C table 24-3, Format of Interruptibility State).
    #[derive(Clone, Copy, Debug, PartialEq, Eq, Default, Hash)]
    pub struct Interruptibility: u32 {
        /// Bit 0: blocking by STI.
        const STI = 1;
        /// Bit 1: blocking by MOV SS or POP SS.
        const MOV_SS = 1 << 1;
        /// Bit 2: blocking of SMIs.
        const SMI = 1 << 2;
        /// Bit 3: blocking of NMIs.
        const NMI = 1 << 3;
        /// Bit 4: the interruption happened in an enclave.
        const ENCLAVE = 1 << 4;
        const _ = !0;
    }
}

bitflags! {
    /// Debug exceptions recognized and not yet delivered, in the VMCS's format (SDM 3C table 24-4, Format of
    /// Pending-Debug-Exceptions).
    #[derive(Clone, Copy, Debug, PartialEq, Eq, Default, Hash)]
    pub struct PendingDebug: u64 {
        /// Bits 3:0: breakpoint conditions 3 to 0.
        const B = 0xf;
        /// Bit 11: a bus lock was acquired (later than rev 077); bit 12 is 1 then too.
        const BUS_LOCK = 1 << 11;
        /// Bit 12: at least one data or I/O breakpoint was met and enabled, or RTM or BUS_LOCK is 1.
        const ENABLED_BREAKPOINT = 1 << 12;
        /// Bit 14: single step.
        const BS = 1 << 14;
        /// Bit 15: the T flag of a new task. No VMCS has it: in VMX non-root operation task switches exit.
        const BT = 1 << 15;
        /// Bit 16: inside an RTM region.
        const RTM = 1 << 16;
        const _ = !0;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Each single bit of the word, and both extremes, come back as they went in, and set operations keep them.
    macro_rules! survives {
        ($($test:ident: $type:ident, $word:ty;)*) => {$(
            #[test]
            fn $test() {
                for bits in (0..<$word>::BITS).map(|n| 1 << n).chain([0, <$word>::MAX]) {
                    let value = $type::from_bits_retain(bits);
                    assert_eq!(value.bits(), bits);
                    assert_eq!((!!value).bits(), bits, "complement loses unnamed bits");
                    assert_eq!($type::from_bits(bits), Some(value));
                }
            }
        )*};
    }

    survives! {
        cr0_keeps_every_bit: Cr0, u64;
        cr4_keeps_every_bit: Cr4, u64;
        rflags_keeps_every_bit: Rflags, u64;
        efer_keeps_every_bit: Efer, u64;
        dr6_keeps_every_bit: Dr6, u64;
        dr7_keeps_every_bit: Dr7, u64;
        debugctl_keeps_every_bit: DebugCtl, u64;
        xcr0_keeps_every_bit: Xcr0, u64;
        interruptibility_keeps_every_bit: Interruptibility, u32;
        pending_debug_keeps_every_bit: PendingDebug, u64;
    }

    #[test]
    fn iopl_is_two_bits() {
        for (flags, iopl) in [(0x2, 0), (0x1002, 1), (0x2002, 2), (0x3202, 3), (!0x3000, 0)] {
            assert_eq!(Rflags::from_bits_retain(flags).iopl(), iopl, "{flags:#x}");
        }
    }

    #[test]
    fn dr7_describes_four_breakpoints() {
        // Breakpoint 0: local, execute, 1 byte. 1: global, write, 2 bytes. 2: off, I/O, 8 bytes. 3: both, access, 4 bytes.
        let dr7 = Dr7::from_bits_retain(0xfa50_04c9);
        for (n, enabled, condition, len) in [(0, true, 0, 1), (1, true, 1, 2), (2, false, 2, 8), (3, true, 3, 4)] {
            assert_eq!(
                (dr7.enabled(n), dr7.condition(n), dr7.len_bytes(n)),
                (enabled, condition, len),
                "breakpoint {n}"
            );
        }
        assert!(!Dr7::all().enabled(4));
    }
}
