//! What must hold where FRED transitions are loaded, enabled or used for injection?
//!
//! Sources: "FRED 2.0" is Intel's document 346446, revision 2.0, sections 9.2 and 9.5. "SDM 3C rev 092" is what became of it in the manual
//! (326019-092US, June 2026; read in a translation, since only revision 077 is at hand). A row stands here if Linux (the nested-FRED
//! series for `arch/x86/kvm/vmx/nested.c`), Bochs (`bochs/cpu/vmx.cc`) or both agree with the document.
//!
//! FRED transitions are enabled after a VM entry if "IA-32e mode guest" is 1 and bit 32 (FRED) of guest CR4 is 1.

use super::host_address_space::legacy_host;
use super::table::{Paragraph, both, rules};
use crate::context::Context;
use crate::control::Control;
use crate::fields::Field;
use crate::state::EntryState;
use crate::view::EntryView;
use x86_state::addr::canonicalize;
use x86_state::{EventType, Feature, MaskedMsr, SegmentRegister, VmxMsr};

/// CR4.FRED. (FRED 2.0 says bit 29 in 9.5: a slip, since its own 3.2 and every later source say 32.)
const CR4_FRED: u64 = 1 << 32;
/// RFLAGS.IF.
const RFLAGS_IF: u64 = 1 << 9;
/// RFLAGS.IOPL.
const RFLAGS_IOPL: u64 = 3 << 12;
/// Nested exception, bit 13 of the VM-entry interruption-information field.
const NESTED_EXCEPTION: u64 = 1 << 13;
/// A valid "other event".
const OTHER_EVENT: u64 = 1 << 31 | (EventType::OTHER_EVENT.bits() as u64) << 8;

/// FRED transitions will be enabled after the entry. A processor without FRED does not look at the bit; one of which this is not known
/// counts as having it.
#[inline(always)]
pub(super) fn fred_enabled<V: EntryView>(c: &Context<'_, V>) -> Option<bool> {
    // Nothing is skipped, so that what a rule reads does not depend on the state.
    let exists = c.has(Feature::FRED) != Some(false);
    let wanted = c.field(Field::GUEST_CR4).map(|cr4| exists && cr4 & CR4_FRED != 0);
    both(c.guest_ia32e(), wanted)
}

/// The guest's privilege level: DPL of SS.
#[inline(always)]
fn ss_dpl<V: EntryView>(c: &Context<'_, V>) -> Option<u64> {
    Some(c.field(Field::GUEST_SS_ACCESS_RIGHTS)? >> 5 & 3)
}

/// Moves a valid 64-bit guest to another privilege level.
fn set_privilege_level(s: &mut EntryState, level: u32) {
    for register in [SegmentRegister::Cs, SegmentRegister::Ss] {
        s.set_rights_field(register, 6, 5, level);
        s.set(Field::guest_selector(register), s.get(Field::guest_selector(register)) & !3 | u64::from(level));
    }
}

/// What VM entry demands of injection on processors that support FRED.
pub(super) mod injection {
    use super::*;

    rules! {
        "9.5.1" when |c| c.injection()?.is_valid() => {
            "entry.injection.fred_vector" at 1 {
                says "If FRED transitions will be enabled and an event of type 7 (other event) is injected, its vector is at most 2.";
                fails VmFailValid(7);
                reads [
                    field(Field::VM_ENTRY_INTERRUPTION_INFO), field(Field::GUEST_CR4), ctl(Control::IA32E_MODE_GUEST), has(Feature::FRED),
                ];
                when |c| c.injection()?.kind() == EventType::OTHER_EVENT && fred_enabled(c)?;
                holds |c| c.injection()?.vector() <= 2;
                hint "0 is a pending MTF VM exit, 1 is SYSCALL, 2 is SYSENTER.";
                breaks |s| { s.set_bits(Field::GUEST_CR4, CR4_FRED); s.set(Field::VM_ENTRY_INTERRUPTION_INFO, OTHER_EVENT | 3) };
                mends |s| s.clear_bits(Field::VM_ENTRY_INTERRUPTION_INFO, 1 << 31);
            }
            "entry.injection.fred_length" at 1 {
                says "If FRED transitions will be enabled and SYSCALL or SYSENTER is injected, the instruction length is at most 15.";
                fails VmFailValid(7);
                reads [
                    field(Field::VM_ENTRY_INTERRUPTION_INFO), field(Field::VM_ENTRY_INSTRUCTION_LENGTH), field(Field::GUEST_CR4),
                    ctl(Control::IA32E_MODE_GUEST), has(Feature::FRED),
                ];
                when |c| c.injection()?.kind() == EventType::OTHER_EVENT
                    && matches!(c.injection()?.vector(), 1 | 2)
                    && fred_enabled(c)?;
                holds |c| c.field(Field::VM_ENTRY_INSTRUCTION_LENGTH)? <= 15;
                hint "The length goes to the guest's FRED stack frame and to RIP: 2 for SYSCALL and SYSENTER without prefixes.";
                doubt "FRED 2.0 does not mention it; SDM revision 092, Linux and Bochs demand it. Revision 092 also reserves length 0 for \
                       processors with IA32_VMX_MISC[30] = 1; Linux and Bochs do not, so that it is not demanded here.";
                breaks |s| {
                    s.set_bits(Field::GUEST_CR4, CR4_FRED);
                    s.set(Field::VM_ENTRY_INTERRUPTION_INFO, OTHER_EVENT | 1);
                    s.set(Field::VM_ENTRY_INSTRUCTION_LENGTH, 16);
                };
                mends |s| s.set(Field::VM_ENTRY_INSTRUCTION_LENGTH, 2);
            }
            "entry.injection.nested_type" at 3 {
                says "If the processor has VMX nested-exception support and bit 13 (nested exception) is injected, the type is 3 \
                      (hardware exception).";
                fails VmFailValid(7);
                reads [field(Field::VM_ENTRY_INTERRUPTION_INFO), cap(VmxMsr::Basic)];
                when |c| c.field(Field::VM_ENTRY_INTERRUPTION_INFO)? & NESTED_EXCEPTION != 0 && c.cap(VmxMsr::Basic)? >> 58 & 1 == 1;
                holds |c| c.injection()?.kind() == EventType::HARDWARE_EXCEPTION;
                hint "Bit 13 may be copied from the exit information only for exceptions; interrupts do not nest.";
                breaks |s| {
                    s.set_bits(Field::GUEST_RFLAGS, RFLAGS_IF);
                    s.set(Field::VM_ENTRY_INTERRUPTION_INFO, 1 << 31 | NESTED_EXCEPTION | 0x20);
                };
                mends |s| s.clear_bits(Field::VM_ENTRY_INTERRUPTION_INFO, NESTED_EXCEPTION);
            }
        }
    }
}

/// The same rules for the host's and for the guest's FRED state.
macro_rules! fred_state {
    (
        $section:literal if $load:ident fails $fails:expr;
        config $config:ident
            $config_reserved:literal $config_reserved_says:literal $config_canonical:literal $config_canonical_says:literal;
        $(rsp $rsp:ident $rsp_canonical:literal $rsp_canonical_says:literal $rsp_aligned:literal $rsp_aligned_says:literal;)*
        $(ssp $ssp:ident $ssp_canonical:literal $ssp_canonical_says:literal $ssp_aligned:literal $ssp_aligned_says:literal;)*
    ) => {
        rules! {
            $section when |c| c.ctl(Control::$load)? => {
                $config_reserved at 1 {
                    says $config_reserved_says;
                    fails $fails;
                    reads [field(Field::$config), ctl(Control::$load), msr_mask(MaskedMsr::FredConfig)];
                    holds |c| !c.sets_reserved(MaskedMsr::FredConfig, c.field(Field::$config)?)?;
                    hint "Bits 2, 5:4 and 11 are reserved.";
                    breaks |s| { s.on(Control::$load); s.set(Field::$config, 1 << 2) };
                    mends |s| s.clear_bits(Field::$config, s.profile.mask(MaskedMsr::FredConfig).reserved());
                }
                $config_canonical at 1 {
                    says $config_canonical_says;
                    fails $fails;
                    reads [field(Field::$config), ctl(Control::$load), LINEAR_WIDTH];
                    holds |c| c.canonical(c.field(Field::$config)?);
                    hint "Bits 63:12 are the page of the event handlers.";
                    breaks |s| { s.on(Control::$load); s.set(Field::$config, 1 << 63) };
                    mends |s| s.set(Field::$config, canonicalize(s.get(Field::$config), s.profile.linear_width()));
                }
                $($rsp_canonical at 2 {
                    says $rsp_canonical_says;
                    fails $fails;
                    reads [field(Field::$rsp), ctl(Control::$load), LINEAR_WIDTH];
                    holds |c| c.canonical(c.field(Field::$rsp)?);
                    hint "Stack levels 1 to 3 must have stack pointers even if they are not in use (0 will do).";
                    breaks |s| { s.on(Control::$load); s.set(Field::$rsp, 1 << 63) };
                    mends |s| s.set(Field::$rsp, canonicalize(s.get(Field::$rsp), s.profile.linear_width()));
                }
                $rsp_aligned at 2 {
                    says $rsp_aligned_says;
                    fails $fails;
                    reads [field(Field::$rsp), ctl(Control::$load)];
                    holds |c| c.field(Field::$rsp)? & 0x3f == 0;
                    hint "A FRED stack begins at a multiple of 64 bytes.";
                    breaks |s| { s.on(Control::$load); s.set(Field::$rsp, 0x20) };
                    mends |s| s.clear_bits(Field::$rsp, 0x3f);
                })*
                $($ssp_canonical at 3 {
                    says $ssp_canonical_says;
                    fails $fails;
                    reads [field(Field::$ssp), ctl(Control::$load), LINEAR_WIDTH];
                    holds |c| c.canonical(c.field(Field::$ssp)?);
                    hint "Stack levels 1 to 3 must have shadow-stack pointers even if they are not in use (0 will do).";
                    breaks |s| { s.on(Control::$load); s.set(Field::$ssp, 1 << 63) };
                    mends |s| s.set(Field::$ssp, canonicalize(s.get(Field::$ssp), s.profile.linear_width()));
                }
                $ssp_aligned at 3 {
                    says $ssp_aligned_says;
                    fails $fails;
                    reads [field(Field::$ssp), ctl(Control::$load)];
                    holds |c| c.field(Field::$ssp)? & 7 == 0;
                    hint "The pointer is 8-byte aligned and has no flags in its low bits.";
                    doubt "FRED 2.0 lets bit 0 be 1 (the \"verified\" bit) and demands 0 in bits 2:1. SDM revision 092 has no such bit; \
                           Linux and Bochs demand 0 in bits 2:0 as it does.";
                    breaks |s| { s.on(Control::$load); s.set(Field::$ssp, 1 << 2) };
                    mends |s| s.clear_bits(Field::$ssp, 7);
                })*
            }
        }
    };
}

/// What VM entry demands of the host's FRED state.
pub(super) mod host {
    use super::*;

    fred_state! {
        "9.5.2.1" if HOST_LOAD_FRED fails VmFailValid(8);
        config HOST_IA32_FRED_CONFIG
            "host.fred_config.reserved" "If VM exits load FRED state, host IA32_FRED_CONFIG sets no bit that is reserved in the MSR."
            "host.fred_config.canonical" "If VM exits load FRED state, host IA32_FRED_CONFIG is a canonical address.";
        rsp HOST_IA32_FRED_RSP1
            "host.fred_rsp1.canonical" "If VM exits load FRED state, host IA32_FRED_RSP1 is a canonical address."
            "host.fred_rsp1.aligned" "If VM exits load FRED state, bits 5:0 of host IA32_FRED_RSP1 are 0.";
        rsp HOST_IA32_FRED_RSP2
            "host.fred_rsp2.canonical" "If VM exits load FRED state, host IA32_FRED_RSP2 is a canonical address."
            "host.fred_rsp2.aligned" "If VM exits load FRED state, bits 5:0 of host IA32_FRED_RSP2 are 0.";
        rsp HOST_IA32_FRED_RSP3
            "host.fred_rsp3.canonical" "If VM exits load FRED state, host IA32_FRED_RSP3 is a canonical address."
            "host.fred_rsp3.aligned" "If VM exits load FRED state, bits 5:0 of host IA32_FRED_RSP3 are 0.";
        ssp HOST_IA32_FRED_SSP1
            "host.fred_ssp1.canonical" "If VM exits load FRED state, host IA32_FRED_SSP1 is a canonical address."
            "host.fred_ssp1.aligned" "If VM exits load FRED state, bits 2:0 of host IA32_FRED_SSP1 are 0.";
        ssp HOST_IA32_FRED_SSP2
            "host.fred_ssp2.canonical" "If VM exits load FRED state, host IA32_FRED_SSP2 is a canonical address."
            "host.fred_ssp2.aligned" "If VM exits load FRED state, bits 2:0 of host IA32_FRED_SSP2 are 0.";
        ssp HOST_IA32_FRED_SSP3
            "host.fred_ssp3.canonical" "If VM exits load FRED state, host IA32_FRED_SSP3 is a canonical address."
            "host.fred_ssp3.aligned" "If VM exits load FRED state, bits 2:0 of host IA32_FRED_SSP3 are 0.";
    }
}

/// What VM entry demands of the guest's FRED state.
pub(super) mod guest {
    use super::*;

    fred_state! {
        "9.5.2.2" if LOAD_FRED fails InvalidGuestState { qualification: 0 };
        config GUEST_IA32_FRED_CONFIG
            "guest.fred_config.reserved" "If VM entry loads FRED state, guest IA32_FRED_CONFIG sets no bit that is reserved in the MSR."
            "guest.fred_config.canonical" "If VM entry loads FRED state, guest IA32_FRED_CONFIG is a canonical address.";
        rsp GUEST_IA32_FRED_RSP1
            "guest.fred_rsp1.canonical" "If VM entry loads FRED state, guest IA32_FRED_RSP1 is a canonical address."
            "guest.fred_rsp1.aligned" "If VM entry loads FRED state, bits 5:0 of guest IA32_FRED_RSP1 are 0.";
        rsp GUEST_IA32_FRED_RSP2
            "guest.fred_rsp2.canonical" "If VM entry loads FRED state, guest IA32_FRED_RSP2 is a canonical address."
            "guest.fred_rsp2.aligned" "If VM entry loads FRED state, bits 5:0 of guest IA32_FRED_RSP2 are 0.";
        rsp GUEST_IA32_FRED_RSP3
            "guest.fred_rsp3.canonical" "If VM entry loads FRED state, guest IA32_FRED_RSP3 is a canonical address."
            "guest.fred_rsp3.aligned" "If VM entry loads FRED state, bits 5:0 of guest IA32_FRED_RSP3 are 0.";
        ssp GUEST_IA32_FRED_SSP1
            "guest.fred_ssp1.canonical" "If VM entry loads FRED state, guest IA32_FRED_SSP1 is a canonical address."
            "guest.fred_ssp1.aligned" "If VM entry loads FRED state, bits 2:0 of guest IA32_FRED_SSP1 are 0.";
        ssp GUEST_IA32_FRED_SSP2
            "guest.fred_ssp2.canonical" "If VM entry loads FRED state, guest IA32_FRED_SSP2 is a canonical address."
            "guest.fred_ssp2.aligned" "If VM entry loads FRED state, bits 2:0 of guest IA32_FRED_SSP2 are 0.";
        ssp GUEST_IA32_FRED_SSP3
            "guest.fred_ssp3.canonical" "If VM entry loads FRED state, guest IA32_FRED_SSP3 is a canonical address."
            "guest.fred_ssp3.aligned" "If VM entry loads FRED state, bits 2:0 of guest IA32_FRED_SSP3 are 0.";
    }
}

/// What VM entry demands of other host state because of FRED.
pub(super) mod host_mode {
    use super::*;

    rules! {
        "29.2.4" when |c| c.intel64()? => {
            "host.cr4.fred_legacy_host" at 3 {
                says "If \"host address-space size\" is 0, bit 32 (FRED) of host CR4 is 0.";
                fails VmFailValid(8);
                reads [field(Field::HOST_CR4), ctl(Control::HOST_ADDRESS_SPACE_SIZE), has(Feature::LM)];
                when |c| !c.ctl(Control::HOST_ADDRESS_SPACE_SIZE)?;
                holds |c| c.field(Field::HOST_CR4)? & CR4_FRED == 0;
                hint "FRED transitions exist in IA-32e mode only.";
                doubt "Not in FRED 2.0; SDM revision 092 and Linux agree.";
                base Protected32;
                breaks |s| { legacy_host(s); s.set_bits(Field::HOST_CR4, CR4_FRED) };
                mends |s| s.clear_bits(Field::HOST_CR4, CR4_FRED);
            }
        }
    }
}

/// What VM entry demands of other guest state because of FRED.
pub(super) mod guest_mode {
    use super::*;

    rules! {
        "29.3.1.1" when |c| !c.guest_ia32e()? => {
            "guest.cr4.fred_legacy_guest" at 6 {
                says "If \"IA-32e mode guest\" is 0, bit 32 (FRED) of guest CR4 is 0.";
                fails InvalidGuestState { qualification: 0 };
                reads [field(Field::GUEST_CR4), ctl(Control::IA32E_MODE_GUEST)];
                holds |c| c.field(Field::GUEST_CR4)? & CR4_FRED == 0;
                hint "FRED transitions exist in IA-32e mode only.";
                doubt "Not in FRED 2.0; SDM revision 092, Linux and Bochs agree.";
                base Protected32;
                breaks |s| s.set_bits(Field::GUEST_CR4, CR4_FRED);
                mends |s| s.clear_bits(Field::GUEST_CR4, CR4_FRED);
            }
        }
        "9.5.2.3" when |c| fred_enabled(c)? => {
            "guest.ss.fred_dpl" at 1 {
                says "If FRED transitions will be enabled, DPL (bits 6:5) of the guest SS access rights is 0 or 3.";
                fails InvalidGuestState { qualification: 0 };
                reads [
                    field(Field::GUEST_SS_ACCESS_RIGHTS), field(Field::GUEST_CR4), ctl(Control::IA32E_MODE_GUEST), has(Feature::FRED),
                ];
                holds |c| matches!(ss_dpl(c)?, 0 | 3);
                hint "Rings 1 and 2 do not exist while CR4.FRED is 1.";
                breaks |s| { s.set_bits(Field::GUEST_CR4, CR4_FRED); set_privilege_level(s, 1) };
                // FRED goes, the ring stays: another ring would need other segments.
                mends |s| s.clear_bits(Field::GUEST_CR4, CR4_FRED);
            }
            "guest.rflags.fred_iopl" at 2 {
                says "If FRED transitions will be enabled and the guest SS DPL is 3, bits 13:12 (IOPL) of guest RFLAGS are 0.";
                fails InvalidGuestState { qualification: 0 };
                reads [
                    field(Field::GUEST_RFLAGS), field(Field::GUEST_SS_ACCESS_RIGHTS), field(Field::GUEST_CR4),
                    ctl(Control::IA32E_MODE_GUEST), has(Feature::FRED),
                ];
                when |c| ss_dpl(c)? == 3;
                holds |c| c.field(Field::GUEST_RFLAGS)? & RFLAGS_IOPL == 0;
                hint "User code has no I/O privilege while CR4.FRED is 1: STI and CLI would not work with it.";
                breaks |s| {
                    s.set_bits(Field::GUEST_CR4, CR4_FRED);
                    set_privilege_level(s, 3);
                    s.set_bits(Field::GUEST_RFLAGS, RFLAGS_IOPL);
                };
                mends |s| s.clear_bits(Field::GUEST_RFLAGS, RFLAGS_IOPL);
            }
        }
        "29.3.1.2" when |c| fred_enabled(c)? => {
            "guest.cs.fred_l" at 4 {
                says "If FRED transitions will be enabled and the guest SS DPL is 0, bit 13 (L) of the guest CS access rights is 1.";
                fails InvalidGuestState { qualification: 0 };
                reads [
                    field(Field::GUEST_CS_ACCESS_RIGHTS), field(Field::GUEST_SS_ACCESS_RIGHTS), field(Field::GUEST_CR4),
                    ctl(Control::IA32E_MODE_GUEST), has(Feature::FRED),
                ];
                when |c| ss_dpl(c)? == 0;
                holds |c| c.rights(SegmentRegister::Cs)?.0 >> 13 & 1 == 1;
                hint "Ring 0 has no compatibility mode while CR4.FRED is 1.";
                doubt "Not in FRED 2.0; SDM revision 092, Linux and Bochs agree.";
                base Compatibility;
                breaks |s| s.set_bits(Field::GUEST_CR4, CR4_FRED);
                // FRED goes, the mode stays: 64-bit mode would need another RIP and other segments.
                mends |s| s.clear_bits(Field::GUEST_CR4, CR4_FRED);
            }
            "guest.interruptibility.fred_sti" at 4 {
                says "If FRED transitions will be enabled and the guest SS DPL is 3, bit 0 (blocking by STI) of interruptibility is 0.";
                fails InvalidGuestState { qualification: 0 };
                reads [
                    field(Field::GUEST_INTERRUPTIBILITY_STATE), field(Field::GUEST_SS_ACCESS_RIGHTS), field(Field::GUEST_CR4),
                    ctl(Control::IA32E_MODE_GUEST), has(Feature::FRED),
                ];
                when |c| ss_dpl(c)? == 3;
                holds |c| c.field(Field::GUEST_INTERRUPTIBILITY_STATE)? & 1 == 0;
                hint "STI faults in ring 3 with CR4.FRED = 1 and IOPL 0, so that it cannot have blocked interrupts.";
                doubt "Not in FRED 2.0; SDM revision 092, Linux and Bochs agree. They list it with the segments: qualification 0.";
                breaks |s| {
                    s.set_bits(Field::GUEST_CR4, CR4_FRED);
                    set_privilege_level(s, 3);
                    s.set_bits(Field::GUEST_RFLAGS, RFLAGS_IF);
                    s.set(Field::GUEST_INTERRUPTIBILITY_STATE, 1);
                };
                mends |s| s.clear_bits(Field::GUEST_INTERRUPTIBILITY_STATE, 1);
            }
        }
    }
}

pub(crate) const PARAGRAPHS: &[Paragraph] = &[
    Paragraph::rules("9.5.1", 1, "SYSCALL and SYSENTER as injected events"),
    Paragraph::no_rule(
        "9.5.1",
        2,
        "no check of \"deliver error code\"",
        "lifts demands of 26.2.1.3, whose rules make the exception",
    ),
    Paragraph::rules("9.5.1", 3, "nested exceptions as injected events"),
    Paragraph::rules("9.5.2.1", 1, "host IA32_FRED_CONFIG"),
    Paragraph::rules("9.5.2.1", 2, "host IA32_FRED_RSP1 to RSP3"),
    Paragraph::rules("9.5.2.1", 3, "host IA32_FRED_SSP1 to SSP3"),
    Paragraph::rules("9.5.2.2", 1, "guest IA32_FRED_CONFIG"),
    Paragraph::rules("9.5.2.2", 2, "guest IA32_FRED_RSP1 to RSP3"),
    Paragraph::rules("9.5.2.2", 3, "guest IA32_FRED_SSP1 to SSP3"),
    Paragraph::no_rule(
        "9.5.2.2",
        4,
        "guest IA32_PL0_SSP",
        "one source only: neither SDM 3C rev 092 nor Linux nor Bochs has the field (282CH)",
    ),
    Paragraph::rules("9.5.2.3", 1, "guest privilege levels with FRED"),
    Paragraph::rules("9.5.2.3", 2, "guest IOPL with FRED"),
    Paragraph::rules("29.2.4", 3, "FRED in a host outside IA-32e mode"),
    Paragraph::rules("29.3.1.1", 6, "FRED in a guest outside IA-32e mode"),
    Paragraph::rules("29.3.1.2", 4, "CS.L and blocking by STI with FRED"),
];
