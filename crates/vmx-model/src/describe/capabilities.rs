//! What does a VMX capability MSR report? Words for its value.
//!
//! Source: SDM 3D appendix A (rev 077), VMX Capability Reporting Facility. IA32_VMX_EPT_VPID_CAP\[7\]: 5-level paging white paper
//! 4.2.1, Enumeration. IA32_VMX_BASIC\[58\]: FRED specification 9.2.

use super::bits::{BitList, List, Named};
use super::registers;
use crate::control::{Control, ControlVector};
use core::fmt::{self, Display};
use x86_state::profile::AllowedSettings;
use x86_state::{Cr0, Cr4, VmxMsr};

/// The words for the value of a VMX capability MSR.
///
/// ```
/// use vmx_model::describe;
/// use x86_state::VmxMsr;
///
/// let fixed = describe::capability(VmxMsr::Cr0Fixed0, 0x8000_0021);
/// assert_eq!(fixed.to_string(), "must be 1 in CR0: PE, NE, PG");
/// ```
#[must_use]
pub const fn capability(msr: VmxMsr, value: u64) -> CapabilityWords {
    CapabilityWords { msr, value }
}

/// Words for the value of a VMX capability MSR; see [`capability`].
#[derive(Clone, Copy, Debug)]
pub struct CapabilityWords {
    msr: VmxMsr,
    value: u64,
}

impl Display for CapabilityWords {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let value = self.value;
        match self.msr {
            VmxMsr::Basic => basic(f, value),
            VmxMsr::PinbasedCtls | VmxMsr::TruePinbasedCtls => settings(f, ControlVector::Pin, value),
            VmxMsr::ProcbasedCtls | VmxMsr::TrueProcbasedCtls => settings(f, ControlVector::Proc, value),
            VmxMsr::ExitCtls | VmxMsr::TrueExitCtls => settings(f, ControlVector::Exit, value),
            VmxMsr::EntryCtls | VmxMsr::TrueEntryCtls => settings(f, ControlVector::Entry, value),
            VmxMsr::ProcbasedCtls2 => settings(f, ControlVector::Proc2, value),
            VmxMsr::ProcbasedCtls3 => may_be_one(f, ControlVector::Proc3, value),
            VmxMsr::ExitCtls2 => may_be_one(f, ControlVector::Exit2, value),
            VmxMsr::Vmfunc => may_be_one(f, ControlVector::VmFunction, value),
            VmxMsr::Misc => misc(f, value),
            VmxMsr::Cr0Fixed0 => {
                f.write_str("must be 1 in CR0: ")?;
                registers::cr0(f, value)
            }
            VmxMsr::Cr0Fixed1 => {
                f.write_str("must be 0 in CR0 (bits with a name): ")?;
                registers::names::<Cr0>(f, !value, "none")
            }
            VmxMsr::Cr4Fixed0 => {
                f.write_str("must be 1 in CR4: ")?;
                registers::cr4(f, value)
            }
            VmxMsr::Cr4Fixed1 => {
                f.write_str("must be 0 in CR4 (bits with a name): ")?;
                registers::names::<Cr4>(f, !value, "none")
            }
            VmxMsr::VmcsEnum => write!(f, "highest index of a field encoding: {:#x}", value >> 1 & 0x1ff),
            VmxMsr::EptVpidCap => ept_vpid(f, value),
        }
    }
}

fn basic(f: &mut fmt::Formatter<'_>, value: u64) -> fmt::Result {
    write!(
        f,
        "VMCS revision {:#x}, region of {} bytes, memory type {}",
        value & 0x7fff_ffff,
        value >> 32 & 0x1fff,
        match value >> 50 & 0xf {
            0 => "UC",
            6 => "WB",
            _ => "not defined",
        }
    )?;
    let named = [
        (48, "structures below 4 GBytes only"),
        (49, "dual-monitor treatment"),
        (54, "INS and OUTS information"),
        (55, "default1 controls may be 0 (TRUE MSRs)"),
        (56, "hardware exceptions with or without error code"),
        (58, "nested exceptions (FRED)"),
    ];
    and_named(f, value, &named)
}

fn misc(f: &mut fmt::Formatter<'_>, value: u64) -> fmt::Result {
    write!(
        f,
        "preemption timer follows TSC bit {}, {} CR3-target values, {} MSRs in a list, MSEG revision {:#x}",
        value & 0x1f,
        value >> 16 & 0x1ff,
        512 * ((value >> 25 & 7) + 1),
        value >> 32
    )?;
    let named = [
        (5, "VM exits store EFER.LMA"),
        (6, "activity state HLT"),
        (7, "activity state shutdown"),
        (8, "activity state wait-for-SIPI"),
        (14, "Intel PT in VMX operation"),
        (15, "IA32_SMBASE in SMM"),
        (28, "VMXOFF may keep SMIs blocked"),
        (29, "VMWRITE of VM-exit information"),
        (30, "injection with instruction length 0"),
    ];
    and_named(f, value, &named)
}

fn ept_vpid(f: &mut fmt::Formatter<'_>, value: u64) -> fmt::Result {
    let named = Named(&[
        (0, "execute-only translations"),
        (6, "page-walk length 4"),
        (7, "page-walk length 5"),
        (8, "paging structures UC"),
        (14, "paging structures WB"),
        (16, "2-MByte pages"),
        (17, "1-GByte pages"),
        (20, "INVEPT"),
        (21, "accessed and dirty flags"),
        (22, "advanced information of EPT violations"),
        (23, "supervisor shadow-stack control"),
        (25, "INVEPT single-context"),
        (26, "INVEPT all-context"),
        (32, "INVVPID"),
        (40, "INVVPID individual-address"),
        (41, "INVVPID single-context"),
        (42, "INVVPID all-context"),
        (43, "INVVPID single-context-retaining-globals"),
    ]);
    named.write(f, value, "nothing")?;
    if value >> 48 & 0x3f != 0 {
        write!(f, ", HLAT prefix size up to {}", value >> 48 & 0x3f)?;
    }
    unnamed(f, value & !(named.mask() | 0x3f << 48))
}

fn and_named(f: &mut fmt::Formatter<'_>, value: u64, named: &[(u32, &str)]) -> fmt::Result {
    for (_, name) in named.iter().filter(|(bit, _)| value >> bit & 1 == 1) {
        write!(f, ", {name}")?;
    }
    Ok(())
}

fn unnamed(f: &mut fmt::Formatter<'_>, bits: u64) -> fmt::Result {
    if bits == 0 { Ok(()) } else { write!(f, "; no name known: {}", BitList(bits)) }
}

/// The 32-bit form: what must be 1, and what may be 1 besides.
fn settings(f: &mut fmt::Formatter<'_>, vector: ControlVector, value: u64) -> fmt::Result {
    let settings = AllowedSettings::from_halves(value);
    f.write_str("must be 1: ")?;
    vector_names(f, vector, settings.must_be_one)?;
    f.write_str("; may be 1: ")?;
    vector_names(f, vector, settings.may_be_one & !settings.must_be_one)
}

fn may_be_one(f: &mut fmt::Formatter<'_>, vector: ControlVector, value: u64) -> fmt::Result {
    f.write_str("may be 1: ")?;
    vector_names(f, vector, value)
}

fn vector_names(f: &mut fmt::Formatter<'_>, vector: ControlVector, value: u64) -> fmt::Result {
    let mut rest = value;
    let mut list = List::new(f);
    for control in Control::all().filter(|control| control.vector() == vector && value & control.mask() != 0) {
        rest &= !control.mask();
        list.item(format_args!("{}", control.name()))?;
    }
    if rest != 0 {
        list.item(format_args!("{}", BitList(rest)))?;
    }
    list.or("none")
}

#[cfg(test)]
mod tests {
    use super::*;
    extern crate std;
    use std::string::ToString;

    #[test]
    fn capabilities_of_kvm_on_haswell() {
        // XMHF's list of MSRs under KVM, December 2021.
        for (msr, value, words) in [
            (
                VmxMsr::Basic,
                0x00d8_1000_11e5_7ed0,
                "VMCS revision 0x11e57ed0, region of 4096 bytes, memory type WB, INS and OUTS information, \
                 default1 controls may be 0 (TRUE MSRs)",
            ),
            (
                VmxMsr::TruePinbasedCtls,
                0x0000_007f_0000_0016,
                "must be 1: bits 1, 2, 4; may be 1: external-interrupt exiting, NMI exiting, virtual NMIs, \
                 activate VMX-preemption timer",
            ),
            (
                VmxMsr::Misc,
                0x2000_0065,
                "preemption timer follows TSC bit 5, 0 CR3-target values, 512 MSRs in a list, MSEG revision 0x0, VM exits store \
                 EFER.LMA, activity state HLT, VMWRITE of VM-exit information",
            ),
            (VmxMsr::Cr4Fixed0, 0x2000, "must be 1 in CR4: VMXE"),
            (
                VmxMsr::Cr4Fixed1,
                0x0017_27ff,
                "must be 0 in CR4 (bits with a name): UMIP, LA57, SMXE, KL, SMAP, PKE, CET, PKS, UINTR, LASS, LAM_SUP, FRED",
            ),
            (VmxMsr::Cr0Fixed1, 0xffff_ffff, "must be 0 in CR0 (bits with a name): none"),
            (VmxMsr::VmcsEnum, 0x2e, "highest index of a field encoding: 0x17"),
            (VmxMsr::Vmfunc, 1, "may be 1: EPTP switching"),
            (VmxMsr::ProcbasedCtls3, 0, "may be 1: none"),
        ] {
            assert_eq!(capability(msr, value).to_string(), words, "{msr:?}");
        }
    }

    #[test]
    fn ept_and_vpid_capabilities() {
        assert_eq!(capability(VmxMsr::EptVpidCap, 0).to_string(), "nothing");
        assert_eq!(
            capability(VmxMsr::EptVpidCap, 0x0001_0101_0610_40c3).to_string(),
            "execute-only translations, page-walk length 4, page-walk length 5, paging structures WB, INVEPT, INVEPT single-context, \
             INVEPT all-context, INVVPID, INVVPID individual-address, HLAT prefix size up to 1; no name known: bit 1"
        );
    }
}
