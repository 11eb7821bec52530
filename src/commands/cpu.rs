//! `softvirt cpu`: which processors does softvirt know, and what can one do?

use super::layout::{HEAD, Table, labelled};
use super::{Answer, Failure, Format, unknown};
use serde::Serialize;
use softvirt::vmx_model::{Control, ControlVector, describe};
use softvirt::x86_emu::concealed::{Concealed, concealed};
use softvirt::x86_state::{CpuProfile, Feature, VmxMsr, profiles};

/// What to look up.
#[derive(clap::Args)]
#[command(after_help = "\
Examples:
  softvirt cpu                the processors, oldest first
  softvirt cpu skylake-sp     everything about one
  softvirt cpu max            everything that softvirt models

The values come from real machines wherever a source says so; `profiles/*.toml` names the source of each.")]
pub(crate) struct Args {
    /// The processor; a list if there is none
    name: Option<String>,
}

pub(crate) fn run(args: &Args, format: Format) -> Result<Answer, Failure> {
    let Some(name) = &args.name else {
        return match format {
            Format::Json => {
                Answer::json(&profiles::ALL.iter().map(|profile| Summary::new(profile)).collect::<Vec<_>>())
            }
            Format::Text => Ok(Answer::fine(list())),
        };
    };
    let profile = find(name)?;
    match format {
        Format::Json => Answer::json(&Detail::new(profile)),
        Format::Text => Ok(Answer::fine(detail(profile))),
    }
}

/// The processor of that name; case does not matter.
pub(crate) fn find(name: &str) -> Result<&'static CpuProfile, Failure> {
    let names = || profiles::ALL.iter().map(|profile| profile.name());
    profiles::by_name(&name.to_lowercase()).ok_or_else(|| unknown("processor", name, names()))
}

#[derive(Serialize)]
struct Summary {
    name: &'static str,
    description: &'static str,
    source: &'static str,
    physical_address_bits: u8,
    linear_address_bits: u8,
    /// How many of the 20 VMX capability MSRs are known.
    known_capability_msrs: usize,
    /// How many of the CPUID features are known.
    known_features: usize,
}

impl Summary {
    fn new(profile: &CpuProfile) -> Self {
        let raw = profile.raw();
        Self {
            name: raw.name,
            description: raw.description,
            source: raw.source,
            physical_address_bits: raw.physical_width,
            linear_address_bits: raw.linear_width,
            known_capability_msrs: raw.vmx.iter().flatten().count(),
            known_features: Feature::ALL.iter().filter(|&&feature| profile.has(feature).is_some()).count(),
        }
    }
}

#[derive(Serialize)]
struct Msr {
    name: &'static str,
    index: String,
    /// `null` if it is not known.
    value: Option<String>,
    words: Option<String>,
}

#[derive(Serialize)]
struct ControlSetting {
    vector: &'static str,
    bit: u8,
    name: &'static str,
    /// `null` if it is not known.
    may_be_0: Option<bool>,
    may_be_1: Option<bool>,
}

#[derive(Serialize)]
struct Choice {
    question: &'static str,
    choice: String,
}

#[derive(Serialize)]
struct Detail {
    #[serde(flatten)]
    summary: Summary,
    mktme_key_bits: u8,
    c_bit: Option<u8>,
    msrs: Vec<Msr>,
    controls: Vec<ControlSetting>,
    features_present: Vec<&'static str>,
    features_absent: Vec<&'static str>,
    features_unknown: Vec<&'static str>,
    /// What the processor has and `softvirt run` does not announce, because the emulator lacks it.
    not_emulated: NotEmulated,
    choices: Vec<Choice>,
}

impl Detail {
    fn new(profile: &CpuProfile) -> Self {
        let raw = profile.raw();
        let features = |state: Option<bool>| {
            let all = Feature::ALL.iter().filter(|&&feature| profile.has(feature) == state);
            all.map(|&feature| Feature::TABLE[feature as usize].name).collect()
        };
        Self {
            summary: Summary::new(profile),
            mktme_key_bits: raw.mktme_key_bits,
            c_bit: raw.c_bit,
            msrs: msrs(profile),
            controls: Control::all().map(|control| setting(profile, control)).collect(),
            features_present: features(Some(true)),
            features_absent: features(Some(false)),
            features_unknown: features(None),
            not_emulated: NotEmulated::new(profile),
            choices: choices(profile),
        }
    }
}

/// What CPUID and the capability MSRs conceal under `softvirt run`.
#[derive(Serialize)]
struct NotEmulated {
    features: Vec<&'static str>,
    /// Flags without a name here: "CPUID.01H:ECX[0]".
    cpuid_flags: Vec<String>,
    controls: Vec<String>,
    vmx_capabilities: Vec<&'static str>,
}

impl NotEmulated {
    fn new(profile: &CpuProfile) -> Self {
        let mut all =
            Self { features: Vec::new(), cpuid_flags: Vec::new(), controls: Vec::new(), vmx_capabilities: Vec::new() };
        for item in concealed(profile) {
            match item {
                Concealed::Feature(feature) => all.features.push(Feature::TABLE[feature as usize].name),
                Concealed::Flag { leaf, subleaf, register, bit } => {
                    let subleaf = if subleaf == 0 { String::new() } else { format!(".{subleaf:X}") };
                    let register = format!("{register:?}").to_uppercase();
                    all.cpuid_flags.push(format!("{leaf:02X}H{subleaf}:{register}[{bit}]"));
                }
                Concealed::Control(control) => {
                    all.controls.push(format!("{} ({})", control.name(), control.vector().field().name()));
                }
                Concealed::Capability(words) => all.vmx_capabilities.push(words),
            }
        }
        all
    }

    /// Each list with its label; those that are empty are left out.
    fn lists(&self) -> Vec<(&'static str, String)> {
        [
            ("features", self.features.join(", ")),
            ("CPUID", self.cpuid_flags.join(", ")),
            ("controls", self.controls.join(", ")),
            ("VMX", self.vmx_capabilities.join(", ")),
        ]
        .into_iter()
        .filter(|(_, words)| !words.is_empty())
        .collect()
    }
}

fn setting(profile: &CpuProfile, control: Control) -> ControlSetting {
    let allowed = control.vector().allowed_settings(profile);
    ControlSetting {
        vector: control.vector().field().id(),
        bit: control.row().bit,
        name: control.name(),
        may_be_0: allowed.map(|allowed| allowed.must_be_one & control.mask() == 0),
        may_be_1: allowed.map(|allowed| allowed.may_be_one & control.mask() != 0),
    }
}

/// The capability MSRs with their words, then the two others that VMX depends on.
fn msrs(profile: &CpuProfile) -> Vec<Msr> {
    let msr = |name, index: u32, value: Option<u64>, words: Option<String>| Msr {
        name,
        index: format!("{index:#x}"),
        value: value.map(|value| format!("{value:#x}")),
        words,
    };
    let mut all: Vec<Msr> = VmxMsr::ALL
        .into_iter()
        .map(|of| {
            let value = profile.vmx(of);
            msr(of.name(), of.index(), value, value.map(|value| describe::capability(of, value).to_string()))
        })
        .collect();
    let raw = profile.raw();
    all.push(msr("IA32_FEATURE_CONTROL", 0x3a, raw.feature_control, raw.feature_control.map(feature_control)));
    all.push(msr("IA32_SMM_MONITOR_CTL", 0x9b, raw.smm_monitor_ctl, None));
    all
}

/// IA32_FEATURE_CONTROL (SDM 4 table 2-2): the bits that concern VMX.
fn feature_control(value: u64) -> String {
    let names = [(0, "locked"), (1, "VMX inside SMX"), (2, "VMX outside SMX")];
    let set: Vec<&str> = names.iter().filter(|(bit, _)| value >> bit & 1 == 1).map(|(_, name)| *name).collect();
    if set.is_empty() { "not locked, VMX not enabled".to_owned() } else { set.join(", ") }
}

/// The manual's "may"s, as the profile decides them.
fn choices(profile: &CpuProfile) -> Vec<Choice> {
    let knobs = profile.knobs();
    [
        ("invalid controls and invalid host state", format!("{:?}", knobs.control_host_order)),
        ("several failures of guest state", format!("{:?}", knobs.guest_failure_order)),
        ("whose width decides about RIP", format!("{:?}", knobs.rip_width)),
        ("PDPTEs checked without need", format!("{:?}", knobs.pdpte_recheck)),
        ("VMWRITE", format!("{:?}", knobs.vmcs_writing)),
        ("VTPR bytes 3:1 at VM entry", format!("{:?}", knobs.vtpr_bytes)),
        ("microcode MSRs in MSR lists", format!("{:?}", knobs.microcode_msrs)),
    ]
    .into_iter()
    .map(|(question, choice)| Choice { question, choice: spaced(&choice) })
    .collect()
}

/// "ControlsFirst" as "controls first".
fn spaced(name: &str) -> String {
    let mut out = String::new();
    for letter in name.chars() {
        if letter.is_uppercase() && !out.is_empty() {
            out.push(' ');
        }
        out.extend(letter.to_lowercase());
    }
    out
}

fn list() -> String {
    let mut table = Table::new(&["NAME", "PHYSICAL", "LINEAR", "MSRS", "CPUID", "DESCRIPTION"]);
    for profile in profiles::ALL {
        let summary = Summary::new(profile);
        let cpuid = match summary.known_features {
            0 => "unknown",
            known if known == Feature::ALL.len() => "known",
            _ => "partly",
        };
        table.row([
            summary.name.to_owned(),
            summary.physical_address_bits.to_string(),
            summary.linear_address_bits.to_string(),
            format!("{}/{}", summary.known_capability_msrs, VmxMsr::ALL.len()),
            cpuid.to_owned(),
            summary.description.to_owned(),
        ]);
    }
    table.render(0)
}

fn detail(profile: &CpuProfile) -> String {
    let detail = Detail::new(profile);
    let summary = &detail.summary;
    let mut text = format!("{HEAD}{}{HEAD:#}: {}\n", summary.name, summary.description);
    text += &labelled("source", 8, summary.source);
    let keys = match (detail.mktme_key_bits, detail.c_bit) {
        (0, None) => String::new(),
        (bits, None) => format!(", {bits} MKTME key bits"),
        (_, Some(bit)) => format!(", C-bit {bit}"),
    };
    let widths =
        format!("{} bits physical, {} bits linear{keys}", summary.physical_address_bits, summary.linear_address_bits);
    text += &labelled("widths", 8, &widths);
    text += &heading("VMX capability MSRs");
    for msr in &detail.msrs {
        let value = msr.value.as_deref().unwrap_or("unknown");
        // The controls have tables of their own below.
        let words = msr.words.as_ref().filter(|words| !words.contains("may be 1: "));
        let words = words.map_or(String::new(), |words| format!(": {words}"));
        text += &labelled(&format!("{} {}", msr.index, msr.name), 34, &format!("{value}{words}"));
    }
    for vector in ControlVector::ALL {
        text += &heading(vector.field().name());
        text += &vector_table(profile, vector, &detail.controls);
    }
    text += &heading("CPUID features");
    for (label, names) in [
        ("present", &detail.features_present),
        ("absent", &detail.features_absent),
        ("unknown", &detail.features_unknown),
    ] {
        if !names.is_empty() {
            text += &labelled(label, 8, &names.join(", "));
        }
    }
    let lists = detail.not_emulated.lists();
    if !lists.is_empty() {
        text += &heading("Not announced by softvirt run: the emulator lacks it");
        for (label, words) in lists {
            text += &labelled(label, 8, &words);
        }
    }
    text += &heading("Where the manual says \"may\"");
    for choice in &detail.choices {
        text += &labelled(choice.question, 40, &choice.choice);
    }
    text
}

fn heading(words: &str) -> String {
    format!("\n{HEAD}{words}{HEAD:#}\n")
}

/// One line for each control: may it be 0, may it be 1? Then the bits without a name.
fn vector_table(profile: &CpuProfile, vector: ControlVector, controls: &[ControlSetting]) -> String {
    let Some(allowed) = vector.allowed_settings(profile) else {
        return "  unknown\n".to_owned();
    };
    if allowed.may_be_one == 0 {
        return "  not supported: every bit must be 0\n".to_owned();
    }
    let mut table = Table::new(&["BIT", "0?", "1?", "CONTROL"]);
    let answer = |may: Option<bool>| if may == Some(true) { "yes" } else { "no" }.to_owned();
    let mut named = 0;
    for control in controls.iter().filter(|control| control.vector == vector.field().id()) {
        named |= 1 << control.bit;
        table.row([
            control.bit.to_string(),
            answer(control.may_be_0),
            answer(control.may_be_1),
            control.name.to_owned(),
        ]);
    }
    let mut text = table.render(2);
    let must = allowed.must_be_one & !named;
    let may = allowed.may_be_one & !allowed.must_be_one & !named;
    if must != 0 {
        text += &labelled("must be 1:", 0, &describe::BitList(must).to_string());
    }
    if may != 0 {
        text += &labelled("may be 1:", 0, &format!("{}, which have no name", describe::BitList(may)));
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_of_choices_become_words() {
        assert_eq!(spaced("ControlsFirst"), "controls first");
        assert_eq!(spaced("Kept"), "kept");
    }

    #[test]
    fn what_the_emulator_lacks_is_listed() {
        let max = detail(&profiles::MAX);
        let (_, list) = max.split_once("the emulator lacks it").unwrap();
        for words in ["Intel PT", "FRED", "01H:ECX[28]", "load IA32_RTIT_CTL", "dual-monitor treatment of SMM"] {
            assert!(list.contains(words), "{words}: {list}");
        }
        // And what it has is not.
        assert!(!list.contains("enable EPT"));
    }

    #[test]
    fn every_processor_prints() {
        for profile in profiles::ALL {
            assert!(detail(profile).contains(profile.name()));
        }
    }
}
