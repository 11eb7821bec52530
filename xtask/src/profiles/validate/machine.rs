//! Do name, sources, CPUID, widths, CR4 and IA32_FEATURE_CONTROL fit together?

use super::{Check, bits, range};
use x86_state::{Feature, VmxMsr};

/// Bits of CR4 that exist if and only if CPUID announces one of the features (SDM 3A 2.5, Control Registers; CR4 bits 25, 27, 28
/// and 32 by later specifications). PCE (8) needs none; VMXE (13) is the business of the rules cr-vmx and cpuid-vmx.
const CR4: &[(u32, &str, &[Feature])] = &[
    (0, "VME", &[Feature::VME]),
    (1, "PVI", &[Feature::VME]),
    (2, "TSD", &[Feature::TSC]),
    (3, "DE", &[Feature::DE]),
    (4, "PSE", &[Feature::PSE]),
    (5, "PAE", &[Feature::PAE]),
    (6, "MCE", &[Feature::MCE]),
    (7, "PGE", &[Feature::PGE]),
    (9, "OSFXSR", &[Feature::FXSR]),
    (10, "OSXMMEXCPT", &[Feature::SSE]),
    (11, "UMIP", &[Feature::UMIP]),
    (12, "LA57", &[Feature::LA57]),
    (14, "SMXE", &[Feature::SMX]),
    (16, "FSGSBASE", &[Feature::FSGSBASE]),
    (17, "PCIDE", &[Feature::PCID]),
    (18, "OSXSAVE", &[Feature::XSAVE]),
    (19, "KL", &[Feature::KL]),
    (20, "SMEP", &[Feature::SMEP]),
    (21, "SMAP", &[Feature::SMAP]),
    (22, "PKE", &[Feature::PKU]),
    (23, "CET", &[Feature::CET_SS, Feature::CET_IBT]),
    (24, "PKS", &[Feature::PKS]),
    (25, "UINTR", &[Feature::UINTR]),
    (27, "LASS", &[Feature::LASS]),
    (28, "LAM_SUP", &[Feature::LAM]),
    (32, "FRED", &[Feature::FRED]),
];

pub(super) fn check(c: &mut Check<'_>) {
    name(c);
    keys(c);
    sources(c);
    cpuid(c);
    widths(c);
    cr4(c);
    feature_control(c);
}

fn name(c: &mut Check<'_>) {
    let name = &c.profile.name;
    let kebab = !name.is_empty()
        && name
            .split('-')
            .all(|part| !part.is_empty() && part.bytes().all(|b| b.is_ascii_lowercase() || b.is_ascii_digit()))
        && name.as_bytes()[0].is_ascii_lowercase();
    if !kebab {
        c.fail("name", "name", format!("`{name}` is not in kebab case"));
    } else if c.file.strip_suffix(".toml") != Some(name) {
        c.fail("name", "name", format!("`{name}` is not the file's name"));
    }
    let description = &c.profile.description;
    if description.trim().is_empty() || description.contains('\n') {
        c.fail("description", "name", "one line of text is wanted");
    }
}

fn is_msr_key(key: &str) -> bool {
    key == "feature_control" || key == "smm_monitor_ctl" || VmxMsr::ALL.iter().any(|msr| msr.key() == key)
}

fn keys(c: &mut Check<'_>) {
    for key in c.profile.msr.keys().filter(|key| !is_msr_key(key)) {
        c.fail(format!("msr.{key}"), "key", "there is no such key");
    }
}

fn sources(c: &mut Check<'_>) {
    let source = &c.profile.source;
    if source.get("default").is_none_or(|text| text.trim().is_empty()) {
        c.fail("source.default", "source", "say where the values are from");
    }
    for key in source.keys() {
        let about_a_value = match key.as_str() {
            "default" | "physical_address_bits" | "linear_address_bits" => true,
            "cpuid" => !c.profile.cpuid.is_empty(),
            "cpuid_signature" => c.profile.cpuid_signature.is_some(),
            key => c.profile.msr.contains_key(key),
        };
        if !about_a_value {
            c.fail(format!("source.{key}"), "source", "the file has no such value");
        }
    }
}

fn cpuid(c: &mut Check<'_>) {
    let leaves = &c.profile.cpuid;
    for (i, leaf) in leaves.iter().enumerate() {
        let at = format!("cpuid {:#x}.{}", leaf.leaf, leaf.subleaf);
        if leaves[..i].iter().any(|l| (l.leaf, l.subleaf) == (leaf.leaf, leaf.subleaf)) {
            c.fail(at.clone(), "cpuid-duplicate", "stands twice");
        }
        let base = leaf.leaf & 0x8000_0000;
        let maximum = leaves.iter().find(|l| l.leaf == base && l.subleaf == 0).map(|l| l.eax);
        if maximum.is_some_and(|maximum| leaf.leaf > maximum) {
            c.fail(at.clone(), "cpuid-maximum", format!("lies above the highest leaf that {base:#x} reports"));
        }
        if leaf.leaf == 1 && leaf.ebx >> 24 != 0 {
            c.fail(
                at.clone(),
                "cpuid-apic-id",
                "EBX[31:24], the initial APIC ID, belongs to one logical processor: put it to 0",
            );
        }
    }
    if let Some(leaf) = c.profile.cpuid(0, 0) {
        let text = c.profile.vendor.id();
        // The string is in EBX, EDX, ECX, in this order.
        let answer: Vec<u8> = [1, 3, 2].iter().flat_map(|&reg: &usize| leaf.regs[reg].to_le_bytes()).collect();
        if answer != text.as_bytes() {
            c.fail("vendor", "cpuid-vendor", format!("CPUID leaf 0 does not say {text}"));
        }
    }
    if c.has(Feature::VMX) == Some(false) {
        c.fail("cpuid 0x1.0", "cpuid-vmx", "ECX[5] is 0: a processor without VMX has no capability MSRs");
    }
    let answer = c.profile.cpuid(1, 0).map(|leaf| leaf.regs[0]);
    if answer.zip(c.profile.cpuid_signature).is_some_and(|(answer, signature)| answer != signature) {
        c.fail("cpuid_signature", "cpuid-signature", format!("CPUID leaf 1 says {:#x}", answer.unwrap_or(0)));
    }
}

fn widths(c: &mut Check<'_>) {
    let (physical, linear) = (c.profile.physical_address_bits, c.profile.linear_address_bits);
    if !(32..=52).contains(&physical) {
        c.fail("physical_address_bits", "width-range", format!("32 to 52, not {physical}"));
    }
    let linear_widths: &[u8] = if c.has(Feature::LM) == Some(false) { &[32] } else { &[48, 57] };
    if !linear_widths.contains(&linear) {
        c.fail("linear_address_bits", "width-range", format!("one of {linear_widths:?}, not {linear}"));
    }
    if let Some(leaf) = c.profile.cpuid(0x8000_0008, 0) {
        let reported = (leaf.regs[0] as u8, (leaf.regs[0] >> 8) as u8);
        if reported != (physical, linear) {
            let why = format!(
                "leaf 0x80000008 says {} and {} bits, the file {physical} and {linear}",
                reported.0, reported.1
            );
            c.fail("physical_address_bits", "cpuid-widths", why);
        }
    }
    // CR4.LA57 exists with the feature (rule cr4-feature), which makes the linear width 57 (SDM 3A 4.1.4).
    let la57 = c.has(Feature::LA57).or(c.bit(VmxMsr::Cr4Fixed1, 12));
    if la57.is_some_and(|la57| la57 != (linear == 57)) {
        c.fail(
            "linear_address_bits",
            "la57-width",
            format!("{linear} bits do not fit LA57 = {}", u8::from(la57 == Some(true))),
        );
    }
    let keys = c.profile.mktme_key_bits;
    if keys > 15 {
        c.fail("mktme_key_bits", "mktme", format!("IA32_TME_ACTIVATE[35:32] is at most 15, not {keys}"));
    } else if keys > 0 && c.has(Feature::TME) == Some(false) {
        c.fail("mktme_key_bits", "mktme", "CPUID has no TME");
    }
}

fn cr4(c: &mut Check<'_>) {
    let Some(may) = c.vmx(VmxMsr::Cr4Fixed1) else {
        return;
    };
    for &(bit, name, features) in CR4 {
        let answers: Vec<_> = features.iter().map(|&f| c.has(f)).collect();
        let announced = if answers.contains(&Some(true)) {
            true
        } else if answers.iter().all(|answer| *answer == Some(false)) {
            false
        } else {
            continue;
        };
        if announced != (may >> bit & 1 == 1) {
            let features = features.iter().map(|&f| Feature::TABLE[f as usize].name).collect::<Vec<_>>().join(", ");
            let (cpuid, cr4) = if announced { ("has", "cannot be 1") } else { ("lacks", "may be 1") };
            c.fail(
                "vmx_cr4_fixed1",
                "cr4-feature",
                format!("CPUID {cpuid} {features}, but CR4.{name} (bit {bit}) {cr4}"),
            );
        }
    }
    let known = CR4.iter().fold(1 << 8 | 1 << 13, |mask, row| mask | 1 << row.0);
    if may & !known != 0 {
        c.fail("vmx_cr4_fixed1", "cr4-feature", format!("no bit of CR4 is known there: {}", bits(may & !known)));
    }
}

/// SDM 3C 23.7, Enabling and Entering VMX Operation; SDM 4 table 2-2.
fn feature_control(c: &mut Check<'_>) {
    let Some(value) = c.profile.msr.get("feature_control").map(|number| number.0) else {
        return;
    };
    let needs = [
        (1 << 1 | range(8, 15), Feature::SMX, "SMX"),
        (1 << 17, Feature::SGX_LC, "SGX launch control"),
        (1 << 18, Feature::SGX, "SGX"),
    ];
    for (mask, feature, name) in needs {
        if value & mask != 0 && c.has(feature) == Some(false) {
            c.fail("feature_control", "feature-control", format!("CPUID has no {name}: bits {}", bits(value & mask)));
        }
    }
    let unknown = value & !(range(0, 2) | range(8, 15) | range(17, 18) | 1 << 20);
    if unknown != 0 {
        c.fail("feature_control", "feature-control", format!("reserved bits are 1: {}", bits(unknown)));
    }
}
