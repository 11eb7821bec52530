//! What stands in a profile file? Reading TOML into [`Profile`], with errors that name file and key.

use super::Problem;
use serde::{Deserialize, Deserializer};
use std::collections::BTreeMap;
use x86_state::feature::find_leaf;
use x86_state::{CpuidLeaf, VmxMsr};

/// A profile file; the README of `profiles/` describes each key.
#[derive(Clone, Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct Profile {
    /// Kebab case, the file's name.
    pub(crate) name: String,
    /// One line.
    pub(crate) description: String,
    /// Place in lists.
    pub(crate) order: u32,
    pub(crate) vendor: Vendor,
    /// CPUID.01H:EAX.
    pub(crate) cpuid_signature: Option<u32>,
    pub(crate) physical_address_bits: u8,
    pub(crate) linear_address_bits: u8,
    /// How many of the top physical-address bits are MKTME key bits.
    #[serde(default)]
    pub(crate) mktme_key_bits: u8,
    /// `default`, and exceptions by key.
    pub(crate) source: BTreeMap<String, String>,
    /// Rule of [`super::validate`] to the reason why this machine breaks it.
    #[serde(default)]
    pub(crate) allow: BTreeMap<String, String>,
    pub(crate) msr: BTreeMap<String, Number>,
    #[serde(default)]
    pub(crate) cpuid: Vec<Leaf>,
}

/// Who made the processor.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "lowercase")]
pub(crate) enum Vendor {
    Intel,
}

impl Vendor {
    /// What CPUID leaf 0 answers.
    pub(crate) const fn id(self) -> &'static str {
        match self {
            Self::Intel => "GenuineIntel",
        }
    }
}

/// A 64-bit number: a TOML integer, or a string "0x..." where bit 63 is set, since TOML's integers are signed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Number(pub(crate) u64);

impl<'de> Deserialize<'de> for Number {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        #[derive(Deserialize)]
        #[serde(untagged)]
        enum Form {
            Integer(i64),
            Text(String),
        }
        let bad =
            |what: &str| serde::de::Error::custom(format!("`{what}` is neither an integer nor a string like \"0x1f\""));
        match Form::deserialize(deserializer)? {
            Form::Integer(value) => u64::try_from(value).map(Self).map_err(|_| bad(&value.to_string())),
            Form::Text(text) => text
                .strip_prefix("0x")
                .and_then(|digits| u64::from_str_radix(digits, 16).ok())
                .map(Self)
                .ok_or_else(|| bad(&text)),
        }
    }
}

/// One answer of CPUID.
#[derive(Clone, Copy, Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct Leaf {
    pub(crate) leaf: u32,
    pub(crate) subleaf: u32,
    pub(crate) eax: u32,
    pub(crate) ebx: u32,
    pub(crate) ecx: u32,
    pub(crate) edx: u32,
}

/// Parses one file.
pub(crate) fn parse(file: &str, text: &str) -> Result<Profile, Problem> {
    toml::from_str(text).map_err(|e| Problem {
        file: file.to_owned(),
        key: e.span().map_or_else(String::new, |span| format!("line {}", 1 + text[..span.start].matches('\n').count())),
        rule: "schema",
        why: e.message().to_owned(),
    })
}

impl Profile {
    /// A VMX capability MSR as the processor has it: `None` unknown, 0 if the processor lacks it.
    pub(crate) fn vmx(&self, msr: VmxMsr) -> Option<u64> {
        match (self.stated(msr), self.exists(msr)) {
            (Some(value), _) => Some(value),
            (None, Some(false)) => Some(0),
            (None, _) => None,
        }
    }

    /// A VMX capability MSR as the file states it.
    pub(crate) fn stated(&self, msr: VmxMsr) -> Option<u64> {
        self.msr.get(msr.key()).map(|number| number.0)
    }

    /// Does the processor have the MSR? SDM 3D appendix A makes each depend on others.
    pub(crate) fn exists(&self, msr: VmxMsr) -> Option<bool> {
        let bit = |msr, bit: u32| self.vmx(msr).map(|value| value >> bit & 1 == 1);
        match msr {
            VmxMsr::TruePinbasedCtls | VmxMsr::TrueProcbasedCtls | VmxMsr::TrueExitCtls | VmxMsr::TrueEntryCtls => {
                bit(VmxMsr::Basic, 55)
            }
            VmxMsr::ProcbasedCtls2 => bit(VmxMsr::ProcbasedCtls, 32 + 31),
            VmxMsr::ProcbasedCtls3 => bit(VmxMsr::ProcbasedCtls, 32 + 17),
            VmxMsr::ExitCtls2 => bit(VmxMsr::ExitCtls, 32 + 31),
            VmxMsr::EptVpidCap => self.vmx(VmxMsr::ProcbasedCtls2).map(|v| v >> 32 & (1 << 1 | 1 << 5) != 0),
            VmxMsr::Vmfunc => bit(VmxMsr::ProcbasedCtls2, 32 + 13),
            VmxMsr::Basic
            | VmxMsr::PinbasedCtls
            | VmxMsr::ProcbasedCtls
            | VmxMsr::ExitCtls
            | VmxMsr::EntryCtls
            | VmxMsr::Misc
            | VmxMsr::Cr0Fixed0
            | VmxMsr::Cr0Fixed1
            | VmxMsr::Cr4Fixed0
            | VmxMsr::Cr4Fixed1
            | VmxMsr::VmcsEnum => Some(true),
        }
    }

    /// The CPUID leaves in x86-state's form.
    pub(crate) fn leaves(&self) -> Vec<CpuidLeaf> {
        self.cpuid
            .iter()
            .map(|l| CpuidLeaf { leaf: l.leaf, subleaf: l.subleaf, regs: [l.eax, l.ebx, l.ecx, l.edx] })
            .collect()
    }

    /// What CPUID answers, if the file tells.
    pub(crate) fn cpuid(&self, leaf: u32, subleaf: u32) -> Option<CpuidLeaf> {
        find_leaf(&self.leaves(), leaf, subleaf)
    }
}
