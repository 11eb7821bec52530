//! What must a capability MSR look like?

use super::{Check, bits, range};
use x86_state::{Feature, VmxMsr};

/// The default1 class (A.2) of the vectors that have one: plain MSR, TRUE MSR, the bits.
const DEFAULT1: [(VmxMsr, VmxMsr, u64); 4] = [
    (VmxMsr::PinbasedCtls, VmxMsr::TruePinbasedCtls, 0x16),
    (VmxMsr::ProcbasedCtls, VmxMsr::TrueProcbasedCtls, 0x401_e172),
    (VmxMsr::ExitCtls, VmxMsr::TrueExitCtls, 0x3_6dff),
    (VmxMsr::EntryCtls, VmxMsr::TrueEntryCtls, 0x11ff),
];

pub(super) fn check(c: &mut Check<'_>) {
    existence(c);
    settings(c);
    default1(c);
    basic(c);
    misc(c);
    fixed(c);
    vmcs_enum(c);
    ept_vpid(c);
}

fn existence(c: &mut Check<'_>) {
    for msr in VmxMsr::ALL {
        if c.profile.stated(msr).is_some() && c.profile.exists(msr) == Some(false) {
            let condition = match msr {
                VmxMsr::ProcbasedCtls2 => "vmx_procbased_ctls bit 63 is 0",
                VmxMsr::ProcbasedCtls3 => "vmx_procbased_ctls bit 49 is 0",
                VmxMsr::ExitCtls2 => "vmx_exit_ctls bit 63 is 0",
                VmxMsr::EptVpidCap => "vmx_procbased_ctls2 bits 33 (EPT) and 37 (VPID) are 0",
                VmxMsr::Vmfunc => "vmx_procbased_ctls2 bit 45 is 0",
                _ => "vmx_basic bit 55 is 0",
            };
            c.fail(msr.key(), "existence", format!("the processor does not have it: {condition}"));
        }
    }
}

fn halves(value: u64) -> (u64, u64) {
    (value & 0xffff_ffff, value >> 32)
}

fn settings(c: &mut Check<'_>) {
    for msr in DEFAULT1.iter().flat_map(|&(plain, exact, _)| [plain, exact]) {
        let impossible = c.vmx(msr).map(halves).map_or(0, |(must, may)| must & !may);
        if impossible != 0 {
            c.fail(msr.key(), "settings", format!("must be 1 and must be 0: bits {}", bits(impossible)));
        }
    }
    let forced = c.vmx(VmxMsr::ProcbasedCtls2).map_or(0, |value| halves(value).0);
    if forced != 0 {
        let why = format!("A.3.3: bits 31:0 are always 0, here not {}", bits(forced));
        c.fail("vmx_procbased_ctls2", "secondary-flexible", why);
    }
}

fn default1(c: &mut Check<'_>) {
    let mut all_known = true;
    let mut some_may_be_0 = false;
    for (plain_msr, true_msr, class) in DEFAULT1 {
        let Some((must, may)) = c.vmx(plain_msr).map(halves) else {
            all_known = false;
            continue;
        };
        if class & !must != 0 {
            c.fail(
                plain_msr.key(),
                "default1",
                format!("default1 controls always read as 1 here: bits {}", bits(class & !must)),
            );
        }
        if c.profile.exists(true_msr) != Some(true) {
            continue;
        }
        let Some((true_must, true_may)) = c.vmx(true_msr).map(halves) else {
            all_known = false;
            continue;
        };
        if may != true_may {
            c.fail(
                true_msr.key(),
                "true-agrees",
                format!("{} differs in what may be 1: bits {}", plain_msr.key(), bits(may ^ true_may)),
            );
        }
        // The plain MSR is the TRUE one with the default1 class forced (A.3.1 to A.5: "exceptions are made").
        let wrong = (true_must ^ must) & !class | true_must & !must;
        if wrong != 0 {
            c.fail(
                true_msr.key(),
                "true-agrees",
                format!("{} differs in what must be 1: bits {}", plain_msr.key(), bits(wrong)),
            );
        }
        some_may_be_0 |= class & !true_must != 0;
    }
    if c.bit(VmxMsr::Basic, 55) == Some(true) && all_known && !some_may_be_0 {
        c.fail("vmx_basic", "true-flexible", "bit 55 says that a default1 control may be 0, but all must be 1");
    }
}

fn basic(c: &mut Check<'_>) {
    let Some(basic) = c.vmx(VmxMsr::Basic) else {
        return;
    };
    let key = VmxMsr::Basic.key();
    if basic >> 31 & 1 == 1 {
        c.fail(key, "basic-revision", "bit 31 is always 0: the revision identifier has 31 bits");
    }
    let size = basic >> 32 & 0x1fff;
    if size == 0 || size > 4096 {
        c.fail(key, "basic-size", format!("the VMCS region has 1 to 4096 bytes (44:32), here {size}"));
    }
    if basic >> 48 & 1 == 1 && c.has(Feature::LM) == Some(true) {
        c.fail(key, "basic-address-width", "bit 48 is always 0 on processors with Intel 64");
    }
    let memory_type = basic >> 50 & 0xf;
    if memory_type != 0 && memory_type != 6 {
        c.fail(key, "basic-memory-type", format!("the memory type (53:50) is 0 or 6, here {memory_type}"));
    }
    // Bit 57 is set on Alder Lake and later, which revision 077 does not explain; bit 58 is FRED's.
    let reserved = basic & (range(45, 47) | range(59, 63));
    if reserved != 0 {
        c.fail(key, "basic-reserved", format!("reserved bits are 1: {}", bits(reserved)));
    }
    if c.has(Feature::FRED) == Some(true) && basic >> 58 & 1 == 0 {
        c.fail(key, "basic-nested-exception", "FRED specification 9.2: a processor with FRED sets bit 58");
    }
}

fn misc(c: &mut Check<'_>) {
    let Some(misc) = c.vmx(VmxMsr::Misc) else {
        return;
    };
    let key = VmxMsr::Misc.key();
    let reserved = misc & (range(9, 13) | 1 << 31);
    if reserved != 0 {
        c.fail(key, "misc-reserved", format!("reserved bits are 1: {}", bits(reserved)));
    }
    let targets = misc >> 16 & 0x1ff;
    if targets > 256 {
        c.fail(key, "misc-cr3-targets", format!("there are at most 256 CR3 targets (24:16), here {targets}"));
    }
    // Bit 7 of the secondary controls.
    if c.bit(VmxMsr::ProcbasedCtls2, 32 + 7) == Some(true) && misc >> 5 & 1 == 0 {
        c.fail(key, "misc-unrestricted-guest", "bit 5 is 1 on any processor with \u{201c}unrestricted guest\u{201d}");
    }
    if misc >> 14 & 1 == 1 && c.has(Feature::INTEL_PT) == Some(false) {
        c.fail(key, "misc-pt", "bit 14: Intel PT in VMX operation, but CPUID has no Intel PT");
    }
}

fn fixed(c: &mut Check<'_>) {
    let pairs = [(VmxMsr::Cr0Fixed0, VmxMsr::Cr0Fixed1), (VmxMsr::Cr4Fixed0, VmxMsr::Cr4Fixed1)];
    for (fixed0, fixed1) in pairs {
        let impossible = c.vmx(fixed0).unwrap_or(0) & !c.vmx(fixed1).unwrap_or(u64::MAX);
        if impossible != 0 {
            let why = format!("fixed to 1 and, in {}, to 0: bits {}", fixed1.key(), bits(impossible));
            c.fail(fixed0.key(), "cr-fixed", why);
        }
    }
    if let Some(cr0) = c.vmx(VmxMsr::Cr0Fixed1) {
        // PE, NE, PG; no host could enter VMX operation without PE and PG (SDM 3C 23.7).
        let missing = (1 | 1 << 5 | 1 << 31) & !cr0;
        if missing != 0 {
            c.fail("vmx_cr0_fixed1", "cr-vmx", format!("VMX operation needs PE, NE and PG: bits {}", bits(missing)));
        }
    }
    if c.bit(VmxMsr::Cr4Fixed0, 13) == Some(false) {
        c.fail("vmx_cr4_fixed0", "cr-vmx", "VMXE (bit 13) is 1 in VMX operation (SDM 3C 23.8)");
    }
}

fn vmcs_enum(c: &mut Check<'_>) {
    let Some(value) = c.vmx(VmxMsr::VmcsEnum) else {
        return;
    };
    let reserved = value & !range(1, 9);
    if reserved != 0 {
        c.fail("vmx_vmcs_enum", "vmcs-enum", format!("reserved bits are 1: {}", bits(reserved)));
    } else if value == 0 {
        c.fail("vmx_vmcs_enum", "vmcs-enum", "the highest index of a field is not 0");
    }
}

fn ept_vpid(c: &mut Check<'_>) {
    let (Some(caps), Some(controls)) = (c.vmx(VmxMsr::EptVpidCap), c.vmx(VmxMsr::ProcbasedCtls2)) else {
        return;
    };
    let key = VmxMsr::EptVpidCap.key();
    // Bit 7, reserved in revision 077, is the page-walk length of 5 (5-Level Paging and 5-Level EPT, 4.2).
    let reserved = range(1, 5)
        | range(9, 13)
        | 1 << 15
        | range(18, 19)
        | 1 << 24
        | range(27, 31)
        | range(33, 39)
        | range(44, 47)
        | range(54, 63);
    if caps & reserved != 0 {
        c.fail(key, "ept-reserved", format!("reserved bits are 1: {}", bits(caps & reserved)));
    }
    let ept = controls >> 33 & 1 == 1;
    let of_ept = caps & 0xffff_ffff & !reserved;
    if ept && (caps & (1 << 6 | 1 << 7) == 0 || caps & (1 << 8 | 1 << 14) == 0) {
        c.fail(
            key,
            "ept-usable",
            "no EPT pointer would be valid: a walk length (6, 7) and a memory type (8, 14) are needed",
        );
    }
    if !ept && of_ept != 0 {
        c.fail(
            key,
            "ept-usable",
            format!("\u{201c}enable EPT\u{201d} cannot be 1, but capabilities of EPT are: bits {}", bits(of_ept)),
        );
    }
    let of_vpid = caps & (1 << 32 | range(40, 43));
    if controls >> 37 & 1 == 0 && of_vpid != 0 {
        c.fail(
            key,
            "vpid-caps",
            format!("\u{201c}enable VPID\u{201d} cannot be 1, but capabilities of VPID are: bits {}", bits(of_vpid)),
        );
    }
    for (instruction, bit, types) in [("INVEPT", 20, range(25, 26)), ("INVVPID", 32, range(40, 43))] {
        let there = caps >> bit & 1 == 1;
        if there != (caps & types != 0) {
            let what = if there { "without any type" } else { "types without the instruction" };
            c.fail(key, "invalidation-types", format!("{instruction} {what}: bit {bit}, types {}", bits(types)));
        }
    }
}
