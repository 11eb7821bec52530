//! What must a processor forget? One value for each operation that invalidates cached translations.
//!
//! Models return an [`Invalidate`] and touch no cache; a cache asks it about each mapping that it holds. A processor *may*
//! forget anything at any time (SDM 3A 4.10.2.2; SDM 3C 28.4.3.2), so there are two answers, see [`Retention`].
//!
//! Source: SDM 3A 4.10.4.1, Operations that Invalidate TLBs and Paging-Structure Caches; SDM 3C 28.4.3.1, Operations that
//! Invalidate Cached Mappings (rev 077); APM 2 5.5.3, TLB Management; 15.16, TLB Control (rev 3.44).

use x86_state::{Cr0, Cr4, Gpa, Gva};

/// What a mapping translates (SDM 3C 28.4.1, Information That May Be Cached).
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Kind {
    /// A linear address, by ordinary paging alone. On AMD also by ordinary and nested paging: there the ASID is the only tag.
    Linear,
    /// A linear address, by guest paging and EPT.
    Combined,
    /// A guest-physical address, by EPT or nested paging.
    GuestPhysical,
}

/// The tag of a mapping, without its PCID.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct Space {
    /// What is translated.
    pub kind: Kind,
    /// VPID or ASID; 0 for guest-physical mappings by EPT, which have none.
    pub id: u16,
    /// EP4TA: bits `[51:12]` of the EPTP, in place; 0 where EPT has no part in it.
    pub ep4ta: u64,
}

impl Space {
    /// Linear mappings of a VPID, or on AMD of an ASID, with and without nested paging.
    #[must_use]
    pub const fn linear(id: u16) -> Self {
        Self { kind: Kind::Linear, id, ep4ta: 0 }
    }

    /// Combined mappings of a VPID under this EPTP.
    #[must_use]
    pub const fn combined(vpid: u16, eptp: u64) -> Self {
        Self { kind: Kind::Combined, id: vpid, ep4ta: ep4ta(eptp) }
    }

    /// Guest-physical mappings under this EPTP.
    #[must_use]
    pub const fn guest_physical(eptp: u64) -> Self {
        Self { kind: Kind::GuestPhysical, id: 0, ep4ta: ep4ta(eptp) }
    }

    /// Nested translations of an ASID.
    #[must_use]
    pub const fn nested(asid: u16) -> Self {
        Self { kind: Kind::GuestPhysical, id: asid, ep4ta: 0 }
    }
}

/// Bits `[51:12]` of an EPTP (SDM 3C 28.4.2).
const fn ep4ta(eptp: u64) -> u64 {
    eptp & 0x000f_ffff_ffff_f000
}

/// What a cache holds about one range of addresses.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Mapping {
    /// Its tag.
    pub space: Space,
    /// PCID with which it was made; 0 for guest-physical mappings.
    pub pcid: u16,
    /// Is it a global translation?
    pub global: bool,
    /// Is it a paging-structure-cache entry?
    pub structure: bool,
    /// An address in the range.
    pub address: u64,
    /// log2 of the size of the range.
    pub bits: u8,
    /// log2 of the size of the page in the first dimension; at least `bits`. INVLPG drops all the parts of a page.
    pub page_bits: u8,
}

/// Which of the things that a processor may do does it do?
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
pub enum Retention {
    /// Keeps whatever may be kept: software that forgot to invalidate meets a stale translation.
    #[default]
    Lazy,
    /// Forgets whatever may be forgotten, that is everything at once: nothing is ever stale.
    Strict,
}

/// Whose rules for MOV to CR0 and CR4?
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Vendor {
    /// SDM 3A 4.10.4.1.
    Intel,
    /// APM 2 5.5.3.
    Amd,
}

/// Who executes.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct Current {
    /// VPID (0 outside VMX non-root operation and without "enable VPID") or ASID (0 in the host).
    pub id: u16,
    /// Bits `[11:0]` of CR3 if CR4.PCIDE is 1, otherwise 0.
    pub pcid: u16,
}

/// The operands of INVLPGB (APM 3, INVLPGB).
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct Invlpgb {
    /// rAX\[0\] and `[63:12]`: the first page, or all addresses.
    pub gva: Option<Gva>,
    /// rAX\[1\] and EDX`[27:16]`: one PCID, or all.
    pub pcid: Option<u16>,
    /// rAX\[2\] and EDX`[15:0]`: one ASID, or all.
    pub asid: Option<u16>,
    /// rAX\[3\]: global translations too.
    pub globals: bool,
    /// rAX\[4\]: no upper-level entries.
    pub final_translation_only: bool,
    /// rAX\[5\]: nested translations too.
    pub nested: bool,
    /// ECX`[15:0]`: how many further pages.
    pub count: u16,
    /// ECX\[31\]: the pages are 2 MBytes apart, not 4 KBytes.
    pub step_2m: bool,
}

/// An operation that invalidates cached translations.
///
/// The operation has passed its checks: what ends in a fault, VMfail or an intercept invalidates nothing. An INVLPG or
/// INVLPGA with an address that is not canonical is no operation and has no value here.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[allow(missing_docs, reason = "the fields are the operands and are named as in the manual")]
pub enum Invalidate {
    /// INVLPG. `tce` is EFER.TCE of AMD's processors: upper-level entries for other addresses stay.
    Invlpg { current: Current, gva: Gva, tce: bool },
    /// INVPCID type 0, individual address.
    InvpcidAddress { id: u16, pcid: u16, gva: Gva },
    /// INVPCID type 1, single context.
    InvpcidSingle { id: u16, pcid: u16 },
    /// INVPCID type 2, all contexts including globals.
    InvpcidAllAndGlobals { id: u16 },
    /// INVPCID type 3, all contexts.
    InvpcidAll { id: u16 },
    /// MOV to CR0, LMSW, CLTS.
    MovCr0 { id: u16, before: Cr0, after: Cr0 },
    /// MOV to CR3. `pcid` is the new one; `keep` is bit 63 of the operand and means something only if `pcide`.
    MovCr3 { id: u16, pcid: u16, pcide: bool, keep: bool },
    /// MOV to CR4.
    MovCr4 { current: Current, before: Cr4, after: Cr4, vendor: Vendor },
    /// WRMSR to EFER: neither manual asks for anything. (LMA changes only together with CR0.PG.)
    WriteEfer,
    /// A task switch.
    TaskSwitch { id: u16, changes_cr3: bool },
    /// A page fault for this address.
    PageFault { current: Current, gva: Gva },
    /// VM entry; `vpid` is "enable VPID".
    VmEntry { vpid: bool },
    /// VM exit; `vpid` is "enable VPID".
    VmExit { vpid: bool },
    /// EPTP-switching VMFUNC; `vpid` is "enable VPID".
    EptpSwitch { vpid: bool },
    /// An EPT violation for this guest-physical address; `gva` if it was the translation of a linear address.
    EptViolation { current: Current, eptp: u64, gpa: Gpa, gva: Option<Gva> },
    /// INVVPID type 0, individual address.
    InvvpidAddress { vpid: u16, gva: Gva },
    /// INVVPID type 1, single context.
    InvvpidSingle { vpid: u16 },
    /// INVVPID type 2, all contexts.
    InvvpidAll,
    /// INVVPID type 3, single context retaining globals.
    InvvpidSingleRetainingGlobals { vpid: u16 },
    /// INVEPT type 1, single context.
    InveptSingle { eptp: u64 },
    /// INVEPT type 2, all contexts.
    InveptAll,
    /// VMXON and VMXOFF.
    VmxonVmxoff,
    /// Delivery of an SMI.
    Smi { vendor: Vendor },
    /// RSM.
    Rsm { vendor: Vendor },
    /// INVLPGA.
    Invlpga { asid: u16, gva: Gva },
    /// INVLPGB, on the processor that executes it and on those that receive the broadcast.
    Invlpgb(Invlpgb),
    /// VMRUN with this TLB_CONTROL for the ASID of its VMCB. Reserved encodings ask for nothing.
    TlbControl { value: u8, asid: u16 },
    /// #VMEXIT.
    SvmExit,
    /// A write to an MTRR, an IORR or another MSR that affects translation, on AMD.
    MtrrWrite,
    /// Power-up, reset.
    Reset,
}

impl Invalidate {
    /// Does the operation drop this mapping?
    #[must_use]
    pub fn drops(&self, mapping: &Mapping, retention: Retention) -> bool {
        match retention {
            Retention::Lazy => self.scopes().iter().any(|scope| scope.has(&mapping.space) && scope.holds(mapping)),
            Retention::Strict => true,
        }
    }

    /// What must be dropped, in at most two parts.
    pub(crate) const fn scopes(&self) -> [Scope; 2] {
        const LINEAR: Scope = Scope::linear(Ids::Any);
        let one = match *self {
            // SDM 3A 4.10.4.1, for the current VPID and all EP4TAs (SDM 3C 28.4.3.1).
            Self::Invlpg { current, gva, tce } => {
                let structures = if tce { Structures::Leading } else { Structures::All };
                Scope { structures, ..LINEAR.of(current.id).pcid(current.pcid).at(gva) }
            }
            Self::InvpcidAddress { id, pcid, gva } => LINEAR.of(id).pcid(pcid).at(gva).keep_globals(),
            Self::InvpcidSingle { id, pcid } => LINEAR.of(id).pcid(pcid).keep_globals(),
            Self::InvpcidAllAndGlobals { id } => LINEAR.of(id),
            Self::InvpcidAll { id } => LINEAR.of(id).keep_globals(),
            // Intel names only the change from 1 to 0. But combined mappings made while CR0.PG is 0 (SDM 3C 28.4.2) carry the
            // same tags as later ones, and no system could start if they were used; AMD names both changes.
            Self::MovCr0 { id, before, after } if before.contains(Cr0::PG) != after.contains(Cr0::PG) => LINEAR.of(id),
            Self::MovCr3 { id, pcide: false, .. } => LINEAR.of(id).pcid(0).keep_globals(),
            Self::MovCr3 { id, pcid, keep: false, .. } => LINEAR.of(id).pcid(pcid).keep_globals(),
            Self::MovCr4 { current, before, after, vendor } => mov_cr4(current, before, after, vendor),
            // Tasks are switched only outside IA-32e mode, with PCID 0.
            Self::TaskSwitch { id, changes_cr3: true } => LINEAR.of(id).pcid(0).keep_globals(),
            // Only the structures that lead to the address, says the footnote. The purpose named there, that the fault does
            // not recur, includes global translations made with another PCID, which the access would use.
            Self::PageFault { current, gva } => {
                Scope { globals: Globals::Drop, ..LINEAR.of(current.id).pcid(current.pcid).at(gva) }
            }
            // SDM 3C 26.3.2.5 and 27.5.5, Updating Non-Register State.
            Self::VmEntry { vpid: false } | Self::VmExit { vpid: false } => LINEAR.of(0),
            // SDM 3C 25.5.6.3, EPTP Switching: combined mappings only.
            Self::EptpSwitch { vpid: false } => Scope { kinds: COMBINED, ..LINEAR.of(0) },
            Self::EptViolation { current, eptp, gpa, gva } => {
                let physical =
                    Scope { addresses: Addresses::one(gpa.0, false), ..Scope::under(Some(ep4ta(eptp)), PHYSICAL) };
                let Some(gva) = gva else { return [physical, Scope::NOTHING] };
                let combined = Scope::under(Some(ep4ta(eptp)), COMBINED).of(current.id).pcid(current.pcid);
                return [physical, Scope { addresses: Addresses::one(gva.0, false), ..combined }];
            }
            // SDM 3C 28.4.3.1: for all PCIDs and EP4TAs.
            Self::InvvpidAddress { vpid, gva } => LINEAR.of(vpid).at(gva),
            Self::InvvpidSingle { vpid } => LINEAR.of(vpid),
            Self::InvvpidAll => Scope::linear(Ids::NonZero),
            Self::InvvpidSingleRetainingGlobals { vpid } => LINEAR.of(vpid).keep_globals(),
            // For all VPIDs and PCIDs; linear mappings stay (28.4.3.2).
            Self::InveptSingle { eptp } => Scope::under(Some(ep4ta(eptp)), COMBINED | PHYSICAL),
            Self::InveptAll => Scope::under(None, COMBINED | PHYSICAL),
            // SDM 3C 31.14.1, Default Treatment of SMI Delivery; 31.14.2, Default Treatment of RSM. APM 2 15.16.1: all ASIDs.
            Self::Smi { vendor: Vendor::Intel } => LINEAR.of(0),
            Self::Rsm { vendor: Vendor::Intel } => LINEAR,
            Self::Smi { vendor: Vendor::Amd } | Self::Rsm { vendor: Vendor::Amd } => Scope::EVERYTHING,
            // APM 2 15.16.2: any PCID, global or not. It may drop all upper-level entries, and must drop those that lead there.
            Self::Invlpga { asid, gva } => LINEAR.of(asid).at(gva),
            Self::Invlpgb(operands) => return invlpgb(operands),
            // APM 2 table 15-9, TLB Control Byte Encodings.
            Self::TlbControl { value: 1, .. } | Self::MtrrWrite | Self::Reset => Scope::EVERYTHING,
            Self::TlbControl { value: 3, asid } => Scope::EVERYTHING.of(asid),
            Self::TlbControl { value: 7, asid } => Scope::EVERYTHING.of(asid).keep_globals(),
            Self::TlbControl { .. }
            | Self::MovCr0 { .. }
            | Self::MovCr3 { .. }
            | Self::WriteEfer
            | Self::TaskSwitch { .. }
            | Self::VmEntry { .. }
            | Self::VmExit { .. }
            | Self::EptpSwitch { .. }
            | Self::VmxonVmxoff
            | Self::SvmExit => Scope::NOTHING,
        };
        [one, Scope::NOTHING]
    }
}

const fn mov_cr4(current: Current, before: Cr4, after: Cr4, vendor: Vendor) -> Scope {
    let changed = before.symmetric_difference(after);
    let set = changed.intersection(after);
    let cleared = changed.intersection(before);
    let all = Scope::linear(Ids::Is(current.id));
    if changed.contains(Cr4::PGE) || cleared.contains(Cr4::PCIDE) {
        return all;
    }
    match vendor {
        Vendor::Intel if changed.contains(Cr4::PAE) || set.contains(Cr4::SMEP) => {
            Scope { globals: Globals::DropOfPcid, ..all.pcid(current.pcid) }
        }
        Vendor::Amd if changed.intersects(Cr4::PAE.union(Cr4::PSE)) || set.contains(Cr4::PKE) => all,
        _ => Scope::NOTHING,
    }
}

const fn invlpgb(operands: Invlpgb) -> [Scope; 2] {
    let ids = match operands.asid {
        Some(asid) => Ids::Is(asid),
        None => Ids::Any,
    };
    let addresses = match operands.gva {
        Some(gva) => {
            let step_bits = if operands.step_2m { 21 } else { 12 };
            Addresses::Some { first: gva.0 & !0xfff, count: operands.count, step_bits, parts: true }
        }
        None => Addresses::All,
    };
    let linear = Scope {
        pcid: operands.pcid,
        globals: if operands.globals { Globals::Drop } else { Globals::Keep },
        addresses,
        structures: if operands.final_translation_only { Structures::None } else { Structures::All },
        ..Scope::linear(ids)
    };
    let nested = if operands.nested { Scope { ids, ..Scope::under(None, PHYSICAL) } } else { Scope::NOTHING };
    [linear, nested]
}

const LINEAR: u8 = 1;
const COMBINED: u8 = 2;
const PHYSICAL: u8 = 4;

#[derive(Clone, Copy)]
enum Ids {
    Any,
    NonZero,
    Is(u16),
}

#[derive(Clone, Copy)]
enum Globals {
    Keep,
    Drop,
    /// Only those made with the scope's PCID.
    DropOfPcid,
}

#[derive(Clone, Copy)]
enum Structures {
    None,
    /// Those that would be used for the scope's addresses.
    Leading,
    All,
}

/// Which addresses a scope is about.
#[derive(Clone, Copy)]
pub(crate) enum Addresses {
    All,
    /// `count` further addresses, each 2^`step_bits` bytes on. With `parts`, all parts of their pages too.
    Some {
        first: u64,
        count: u16,
        step_bits: u8,
        parts: bool,
    },
}

impl Addresses {
    const fn one(first: u64, parts: bool) -> Self {
        Self::Some { first, count: 0, step_bits: 12, parts }
    }

    /// Is one of them in the range of 2^`bits` bytes around `address`? Bits `[63:57]` are copies of bit 56 or of no meaning.
    const fn meet(self, address: u64, bits: u8) -> bool {
        const WIDTH: u64 = (1 << 57) - 1;
        let Self::Some { first, count, step_bits, .. } = self else { return true };
        if bits >= 57 || (first ^ address) & WIDTH & (u64::MAX << bits) == 0 {
            return true;
        }
        let base = address & (u64::MAX << bits);
        let ahead = base.wrapping_sub(first) & WIDTH;
        let steps = (ahead + ((1 << step_bits) - 1)) >> step_bits;
        let beyond = (steps << step_bits).wrapping_sub(ahead);
        steps <= count as u64 && beyond < 1 << bits
    }
}

/// A set of mappings.
#[derive(Clone, Copy)]
pub(crate) struct Scope {
    kinds: u8,
    ids: Ids,
    ep4ta: Option<u64>,
    pcid: Option<u16>,
    globals: Globals,
    pub(crate) addresses: Addresses,
    structures: Structures,
}

impl Scope {
    const NOTHING: Self = Self::under(None, 0);
    const EVERYTHING: Self = Self::under(None, LINEAR | COMBINED | PHYSICAL);

    const fn under(ep4ta: Option<u64>, kinds: u8) -> Self {
        Self {
            kinds,
            ids: Ids::Any,
            ep4ta,
            pcid: None,
            globals: Globals::Drop,
            addresses: Addresses::All,
            structures: Structures::Leading,
        }
    }

    const fn linear(ids: Ids) -> Self {
        Self { ids, ..Self::under(None, LINEAR | COMBINED) }
    }

    const fn of(self, id: u16) -> Self {
        Self { ids: Ids::Is(id), ..self }
    }

    const fn pcid(self, pcid: u16) -> Self {
        Self { pcid: Some(pcid), ..self }
    }

    const fn at(self, gva: Gva) -> Self {
        Self { addresses: Addresses::one(gva.0, true), ..self }
    }

    const fn keep_globals(self) -> Self {
        Self { globals: Globals::Keep, ..self }
    }

    /// Can it hold mappings of this space?
    pub(crate) fn has(&self, space: &Space) -> bool {
        let kind = match space.kind {
            Kind::Linear => LINEAR,
            Kind::Combined => COMBINED,
            Kind::GuestPhysical => PHYSICAL,
        };
        let id = match self.ids {
            Ids::Any => true,
            Ids::NonZero => space.id != 0,
            Ids::Is(id) => space.id == id,
        };
        self.kinds & kind != 0 && id && self.ep4ta.is_none_or(|ep4ta| ep4ta == space.ep4ta)
    }

    /// Does it hold this mapping, whose space it has?
    #[inline]
    pub(crate) fn holds(&self, mapping: &Mapping) -> bool {
        let pcid = self.pcid.is_none_or(|pcid| pcid == mapping.pcid);
        if mapping.structure {
            return pcid
                && match self.structures {
                    Structures::None => false,
                    Structures::Leading => self.addresses.meet(mapping.address, mapping.bits),
                    Structures::All => true,
                };
        }
        let tag = match self.globals {
            Globals::Keep => pcid && !mapping.global,
            Globals::Drop => pcid || mapping.global,
            Globals::DropOfPcid => pcid,
        };
        let parts = matches!(self.addresses, Addresses::Some { parts: true, .. });
        tag && self.addresses.meet(mapping.address, if parts { mapping.page_bits } else { mapping.bits })
    }
}
