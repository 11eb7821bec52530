//! Which registers does a local APIC have, where, and what may software do with them? One table for both views.
//!
//! Source: SDM 3A (rev 077) table 10-1, Local APIC Register Address Map; table 10-6, Local APIC Register Address Map Supported by
//! x2APIC; 10.12.1.3, Reserved Bit Checking; APM 2 tables 16-2 and 16-6.

use x86_state::{Msr, MsrFault};

use crate::config::{Config, Vendor};
use crate::lvt::LvtEntry;
use crate::message::Icr;

/// A register of the local APIC. ISR, TMR and IRR are eight words each, of which [`Place`] names one.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Register {
    /// Local APIC ID.
    Id,
    /// Local APIC version.
    Version,
    /// Task priority.
    Tpr,
    /// Arbitration priority.
    Apr,
    /// Processor priority.
    Ppr,
    /// End of interrupt.
    Eoi,
    /// Remote read.
    RemoteRead,
    /// Logical destination.
    Ldr,
    /// Destination format.
    Dfr,
    /// Spurious-interrupt vector.
    Svr,
    /// In service.
    Isr,
    /// Trigger mode.
    Tmr,
    /// Interrupt request.
    Irr,
    /// Error status.
    Esr,
    /// An entry of the local vector table.
    Lvt(LvtEntry),
    /// Interrupt command: bits 31:0 in xAPIC mode, all 64 in x2APIC mode.
    Icr,
    /// Interrupt command, bits 63:32 in xAPIC mode.
    IcrHigh,
    /// Initial count of the timer.
    InitialCount,
    /// Current count of the timer.
    CurrentCount,
    /// Divide configuration of the timer.
    Divide,
    /// Self IPI.
    SelfIpi,
}

/// What software may do with a register.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Access {
    /// Nothing: there is no such register.
    Absent,
    /// Read.
    ReadOnly,
    /// Write.
    WriteOnly,
    /// Both.
    ReadWrite,
}

impl Access {
    /// May it be read?
    #[must_use]
    pub const fn reads(self) -> bool {
        matches!(self, Self::ReadOnly | Self::ReadWrite)
    }

    /// May it be written?
    #[must_use]
    pub const fn writes(self) -> bool {
        matches!(self, Self::WriteOnly | Self::ReadWrite)
    }
}

/// One register: where it is and who may do what.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Row {
    /// Which register.
    pub register: Register,
    /// The manual's name.
    pub name: &'static str,
    /// The offset on the register page. For SELF IPI, which has none, the one that its MSR would have.
    pub offset: u16,
    /// How many words it has, at 16-byte steps.
    pub words: u8,
    /// Its width in bits in x2APIC mode.
    pub width: u8,
    /// What memory accesses may do in xAPIC mode.
    pub xapic: Access,
    /// What RDMSR and WRMSR may do in x2APIC mode.
    pub x2apic: Access,
    /// The bits `[31:0]` that software may set, on a processor that has all there is. Others are reserved or read-only.
    pub writable: u32,
    /// The bits that hardware alone sets; a write of them is ignored in either mode.
    pub read_only: u32,
}

impl Row {
    /// The MSR through which it is reached in x2APIC mode, if it is: 0x800 + offset / 16.
    #[must_use]
    pub const fn msr(&self) -> Option<Msr> {
        match self.x2apic {
            Access::Absent => None,
            _ => Some(Msr(0x800 + (self.offset >> 4) as u32)),
        }
    }

    /// What memory accesses may do on this processor.
    #[must_use]
    pub const fn xapic_on(&self, config: &Config) -> Access {
        match self.register {
            Register::Lvt(entry) if !entry.exists(config) => Access::Absent,
            Register::Id if !config.id_writable => Access::ReadOnly,
            _ => self.xapic,
        }
    }

    /// What RDMSR and WRMSR may do on this processor.
    #[must_use]
    pub const fn x2apic_on(&self, config: &Config) -> Access {
        match self.register {
            Register::Lvt(entry) if !entry.exists(config) => Access::Absent,
            // Table 10-6 does not have it; APM 2 table 16-6 does.
            Register::Apr if matches!(config.vendor, Vendor::Intel) => Access::Absent,
            _ => self.x2apic,
        }
    }

    /// The bits that software may set on this processor.
    #[must_use]
    pub const fn writable_on(&self, config: &Config) -> u32 {
        match self.register {
            Register::Lvt(entry) => entry.writable(config),
            Register::Svr => {
                let absent =
                    if config.eoi_suppression { 0 } else { 1 << 12 } | if config.focus_checking { 0 } else { 1 << 9 };
                self.writable & !absent
            }
            _ => self.writable,
        }
    }
}

/// A register and which of its words.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Place {
    /// The register's row.
    pub row: &'static Row,
    /// The word, 0 to 7; 0 for a register that has one.
    pub word: u8,
}

impl Place {
    /// What is at this offset of the register page? The low four bits do not count. `None`: the offset is reserved.
    /// Whether the processor at hand has the register is [`Row::xapic_on`]'s to say.
    #[must_use]
    pub fn at_offset(offset: u16) -> Option<Self> {
        Self::at_index(offset >> 4).filter(|place| place.row.xapic != Access::Absent)
    }

    /// Which register is this MSR? `None`: none. Whether the processor at hand has it is [`Row::x2apic_on`]'s to say.
    #[must_use]
    pub fn of_msr(msr: Msr) -> Option<Self> {
        let index = u16::try_from(msr.0.checked_sub(0x800)?).ok()?;
        Self::at_index(index).filter(|place| place.row.x2apic != Access::Absent)
    }

    fn at_index(index: u16) -> Option<Self> {
        let row = TABLE.get(usize::from(*INDEX.get(usize::from(index))?))?;
        Some(Self { row, word: (index - (row.offset >> 4)) as u8 })
    }

    /// May RDMSR read this MSR in x2APIC mode?
    ///
    /// # Errors
    /// `NoSuchMsr`, `WriteOnly`; both are #GP(0).
    pub fn check_rdmsr(msr: Msr, config: &Config) -> Result<Self, MsrFault> {
        let place = Self::of_msr(msr).ok_or(MsrFault::NoSuchMsr)?;
        match place.row.x2apic_on(config) {
            Access::Absent => Err(MsrFault::NoSuchMsr),
            Access::WriteOnly => Err(MsrFault::WriteOnly),
            _ => Ok(place),
        }
    }

    /// May WRMSR write this value to this MSR in x2APIC mode?
    ///
    /// # Errors
    /// `NoSuchMsr`, `ReadOnly`, `ReservedBits`; all are #GP(0). Bits 63:32 are reserved but in the ICR; EOI and ESR take 0 alone.
    /// Read-only bits of the LVT (delivery status, remote IRR) are not reserved, so that what was read may be written back.
    pub fn check_wrmsr(msr: Msr, value: u64, config: &Config) -> Result<Self, MsrFault> {
        let place = Self::of_msr(msr).ok_or(MsrFault::NoSuchMsr)?;
        let row = place.row;
        match row.x2apic_on(config) {
            Access::Absent => return Err(MsrFault::NoSuchMsr),
            Access::ReadOnly => return Err(MsrFault::ReadOnly),
            _ => {}
        }
        let high = if row.width == 64 { 0xffff_ffff_0000_0000 } else { 0 };
        let reserved = value & !(high | u64::from(row.writable_on(config) | row.read_only));
        if reserved == 0 { Ok(place) } else { Err(MsrFault::ReservedBits(reserved)) }
    }
}

use Access::{Absent, ReadOnly, ReadWrite, WriteOnly};

const fn row(offset: u16, name: &'static str, register: Register, xapic: Access, x2apic: Access, writable: u32) -> Row {
    Row { register, name, offset, words: 1, width: 32, xapic, x2apic, writable, read_only: 0 }
}

const fn eight(offset: u16, name: &'static str, register: Register) -> Row {
    Row { words: 8, ..row(offset, name, register, ReadOnly, ReadOnly, 0) }
}

const fn lvt(offset: u16, name: &'static str, entry: LvtEntry) -> Row {
    // The most that any processor has.
    let writable = entry.writable(&Config::amd(0)) | entry.writable(&Config::intel(0));
    Row { read_only: entry.read_only(), ..row(offset, name, Register::Lvt(entry), ReadWrite, ReadWrite, writable) }
}

/// All registers, by offset.
#[rustfmt::skip]
pub static TABLE: &[Row] = &[
    //  offset name                               register               xAPIC      x2APIC     writable
    row(0x020, "local APIC ID",                   Register::Id,          ReadWrite, ReadOnly,  0xff00_0000),
    row(0x030, "local APIC version",              Register::Version,     ReadOnly,  ReadOnly,  0),
    row(0x080, "task priority (TPR)",             Register::Tpr,         ReadWrite, ReadWrite, 0xff),
    row(0x090, "arbitration priority (APR)",      Register::Apr,         ReadOnly,  ReadOnly,  0),
    row(0x0a0, "processor priority (PPR)",        Register::Ppr,         ReadOnly,  ReadOnly,  0),
    // Any value in xAPIC mode, 0 alone in x2APIC mode: the table's bits are those that WRMSR checks, here and for the ESR.
    row(0x0b0, "end of interrupt (EOI)",          Register::Eoi,         WriteOnly, WriteOnly, 0),
    row(0x0c0, "remote read (RRD)",               Register::RemoteRead,  ReadOnly,  Absent,    0),
    row(0x0d0, "logical destination (LDR)",       Register::Ldr,         ReadWrite, ReadOnly,  0xff00_0000),
    row(0x0e0, "destination format (DFR)",        Register::Dfr,         ReadWrite, Absent,    0xf000_0000),
    row(0x0f0, "spurious-interrupt vector (SVR)", Register::Svr,         ReadWrite, ReadWrite, 0x13ff),
    eight(0x100, "in-service (ISR)",              Register::Isr),
    eight(0x180, "trigger mode (TMR)",            Register::Tmr),
    eight(0x200, "interrupt request (IRR)",       Register::Irr),
    // Table 10-1 calls it read-only; 10.5.3 and table 10-6 have it as read/write.
    row(0x280, "error status (ESR)",              Register::Esr,         ReadWrite, ReadWrite, 0),
    lvt(0x2f0, "LVT CMCI",                        LvtEntry::Cmci),
    Row { width: 64,
    ..row(0x300, "interrupt command (ICR)",       Register::Icr,         ReadWrite, ReadWrite, Icr::WRITABLE_LOW) },
    row(0x310, "interrupt command (ICR), high",   Register::IcrHigh,     ReadWrite, Absent,    0xff00_0000),
    lvt(0x320, "LVT timer",                       LvtEntry::Timer),
    lvt(0x330, "LVT thermal sensor",              LvtEntry::Thermal),
    lvt(0x340, "LVT performance monitoring",      LvtEntry::Performance),
    lvt(0x350, "LVT LINT0",                       LvtEntry::Lint0),
    lvt(0x360, "LVT LINT1",                       LvtEntry::Lint1),
    lvt(0x370, "LVT error",                       LvtEntry::Error),
    row(0x380, "initial count",                   Register::InitialCount, ReadWrite, ReadWrite, u32::MAX),
    row(0x390, "current count",                   Register::CurrentCount, ReadOnly, ReadOnly,  0),
    row(0x3e0, "divide configuration",            Register::Divide,      ReadWrite, ReadWrite, 0b1011),
    row(0x3f0, "self IPI",                        Register::SelfIpi,     Absent,    WriteOnly, 0xff),
];

const NO_ROW: u8 = u8::MAX;

/// The row of each 16-byte step, so that an access finds its register in constant time.
static INDEX: [u8; 64] = index();

const fn index() -> [u8; 64] {
    let mut index = [NO_ROW; 64];
    let mut n = 0;
    while n < TABLE.len() {
        let mut word = 0;
        while word < TABLE[n].words {
            index[(TABLE[n].offset >> 4) as usize + word as usize] = n as u8;
            word += 1;
        }
        n += 1;
    }
    index
}
