//! How does a profile become Rust? One file for each, and one that lists them.

use super::schema::Profile;
use std::collections::BTreeMap;
use std::fmt::Write;
use x86_state::VmxMsr;

const HEADER: &str = "// Generated from profiles/*.toml by `cargo xtask profiles`; do not edit.\n";

/// The files of `crates/x86-state/src/profiles/generated/`, name to text; `profiles` is in order.
pub(crate) fn files(profiles: &[Profile]) -> BTreeMap<String, String> {
    let mut files: BTreeMap<_, _> = profiles.iter().map(|p| (format!("{}.rs", module(p)), constant(p))).collect();
    files.insert("mod.rs".to_owned(), list(profiles));
    files
}

fn module(profile: &Profile) -> String {
    profile.name.replace('-', "_")
}

fn constant(profile: &Profile) -> String {
    let mut out = format!("{HEADER}\n");
    let name = module(profile).to_uppercase();
    out.push_str("use crate::feature::CpuidLeaf;\nuse crate::profile::{CpuProfile, RawProfile};\nuse crate::profiles::UNKNOWN;\n\n");
    write_doc(&mut out, profile);
    writeln!(out, "pub static {name}: CpuProfile = CpuProfile::new(RawProfile {{").unwrap();
    writeln!(out, "    name: {:?},", profile.name).unwrap();
    writeln!(out, "    description: {:?},", profile.description).unwrap();
    writeln!(out, "    source: {:?},", source(profile)).unwrap();
    writeln!(out, "    cpuid: CPUID,").unwrap();
    writeln!(out, "    vmx: [").unwrap();
    for msr in VmxMsr::ALL {
        let value = profile.vmx(msr).map_or_else(|| "None".to_owned(), |v| format!("Some({v:#x})"));
        writeln!(out, "        {value}, // {}", remark(profile, msr)).unwrap();
    }
    writeln!(out, "    ],").unwrap();
    for key in ["feature_control", "smm_monitor_ctl"] {
        if let Some(value) = profile.msr.get(key) {
            writeln!(out, "    {key}: Some({:#x}),", value.0).unwrap();
        }
    }
    writeln!(out, "    physical_width: {},", profile.physical_address_bits).unwrap();
    writeln!(out, "    linear_width: {},", profile.linear_address_bits).unwrap();
    if profile.mktme_key_bits != 0 {
        writeln!(out, "    mktme_key_bits: {},", profile.mktme_key_bits).unwrap();
    }
    writeln!(out, "    ..UNKNOWN\n}});\n").unwrap();
    write_leaves(&mut out, profile);
    out
}

fn write_doc(out: &mut String, profile: &Profile) {
    // Names such as Core(TM) and brackets are text here, not links.
    let description = profile.description.replace('[', "\\[").replace(']', "\\]");
    writeln!(out, "/// {description}.").unwrap();
}

fn remark(profile: &Profile, msr: VmxMsr) -> String {
    let state = match (profile.stated(msr), profile.exists(msr)) {
        (Some(_), _) => "",
        (None, Some(false)) => ": absent",
        (None, _) => ": value unknown",
    };
    format!("{:#x} {}{state}", msr.index(), msr.name())
}

/// The default source and the exceptions, in one line.
fn source(profile: &Profile) -> String {
    let mut text = profile.source.get("default").cloned().unwrap_or_default();
    for (key, note) in profile.source.iter().filter(|(key, _)| *key != "default") {
        write!(text, "; {key}: {note}").unwrap();
    }
    text
}

fn write_leaves(out: &mut String, profile: &Profile) {
    if profile.cpuid.is_empty() {
        out.push_str("const CPUID: &[CpuidLeaf] = &[];\n");
        return;
    }
    out.push_str("const CPUID: &[CpuidLeaf] = &[\n");
    for l in &profile.cpuid {
        writeln!(
            out,
            "    CpuidLeaf {{ leaf: {:#x}, subleaf: {:#x}, regs: [{:#010x}, {:#010x}, {:#010x}, {:#010x}] }},",
            l.leaf, l.subleaf, l.eax, l.ebx, l.ecx, l.edx
        )
        .unwrap();
    }
    out.push_str("];\n");
}

fn list(profiles: &[Profile]) -> String {
    let mut out = format!("{HEADER}\nuse crate::profile::CpuProfile;\n\n");
    // Declarations in rustfmt's order: by name.
    let mut modules: Vec<_> = profiles.iter().map(module).collect();
    modules.sort();
    for module in &modules {
        writeln!(out, "mod {module};").unwrap();
    }
    out.push('\n');
    for module in &modules {
        writeln!(out, "pub use {module}::{};", module.to_uppercase()).unwrap();
    }
    out.push_str("\n/// Every profile: by generation, Core and Xeon before Atom, then hypervisors, `max` last.\n");
    out.push_str("pub static ALL: &[&CpuProfile] = &[\n");
    for profile in profiles {
        writeln!(out, "    &{},", module(profile).to_uppercase()).unwrap();
    }
    out.push_str("];\n");
    out
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::profiles::schema::parse;

    #[test]
    fn a_constant_tells_absent_from_unknown() {
        // Secondary controls exist (bit 63) and were not read; TRUE MSRs (bit 55) and tertiary controls (bit 49) do not.
        let profile = parse(
            "a-cpu.toml",
            r#"
            name = "a-cpu"
            description = "A [made-up] CPU"
            order = 1
            vendor = "intel"
            physical_address_bits = 40
            linear_address_bits = 48
            [source]
            default = "here"
            vmx_basic = "there"
            [msr]
            feature_control = 5
            vmx_basic = 0x1a040000000007
            vmx_procbased_ctls = "0xf7b9fffe0401e172"
            "#,
        )
        .unwrap();
        let text = constant(&profile);
        for line in [
            "/// A \\[made-up\\] CPU.",
            "pub static A_CPU: CpuProfile = CpuProfile::new(RawProfile {",
            "    source: \"here; vmx_basic: there\",",
            "        Some(0x1a040000000007), // 0x480 IA32_VMX_BASIC",
            "        None, // 0x481 IA32_VMX_PINBASED_CTLS: value unknown",
            "        None, // 0x48b IA32_VMX_PROCBASED_CTLS2: value unknown",
            "        None, // 0x48c IA32_VMX_EPT_VPID_CAP: value unknown",
            "        Some(0x0), // 0x48d IA32_VMX_TRUE_PINBASED_CTLS: absent",
            "        Some(0x0), // 0x492 IA32_VMX_PROCBASED_CTLS3: absent",
            "    feature_control: Some(0x5),",
            "const CPUID: &[CpuidLeaf] = &[];",
        ] {
            assert!(text.lines().any(|l| l == line), "{line}\n\n{text}");
        }
        assert!(!text.contains("smm_monitor_ctl"));
    }
}
