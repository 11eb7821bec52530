//! Which of our processors is meant by QEMU's `-cpu`?

use softvirt::vmx_model::Control;
use softvirt::x86_state::feature::CpuidReg;
use softvirt::x86_state::{CpuProfile, Feature, VmxMsr, profiles};

/// QEMU's model names, and the profile that comes nearest.
const MODELS: &[(&str, &str)] = &[
    ("qemu64", "penryn"),
    ("ivybridge", "ivy-bridge"),
    ("haswell", "haswell"),
    ("broadwell", "broadwell"),
    ("skylake-client", "skylake-client"),
    ("skylake-server", "skylake-sp"),
    ("cascadelake-server", "cascade-lake"),
    ("icelake-server", "icelake-sp"),
    ("sapphirerapids", "sapphire-rapids"),
];

/// Where CPUID has features that are no row of [`Feature::TABLE`], because no rule asks for them: leaf, subleaf, register, bit.
const MORE: &[(&str, u32, u32, CpuidReg, u8)] =
    &[("svm", 0x8000_0001, 0, CpuidReg::Ecx, 2), ("rdpru", 0x8000_0008, 0, CpuidReg::Ebx, 4)];

/// What QEMU calls otherwise than the manual.
const OTHER_NAMES: &[(&str, &str)] = &[("nx", "execute disable"), ("lm", "intel 64"), ("pdpe1gb", "1-gbyte pages")];

/// The processor that `-cpu` asks for; `default` stands for `max` and `host`, and for models that we have nothing like. What is asked for in
/// vain is added to `notes`.
pub(super) fn derive(cpu: Option<&str>, default: &'static CpuProfile, notes: &mut Vec<String>) -> &'static CpuProfile {
    let Some(cpu) = cpu else { return default };
    let mut parts = cpu.split(',');
    let model = parts.next().unwrap_or_default().to_lowercase();
    let base = match MODELS.iter().find(|(name, _)| *name == model) {
        Some((_, ours)) => profiles::by_name(ours).unwrap_or(default),
        None => {
            if model != "max" && model != "host" {
                notes.push(format!("no processor like QEMU's {model}: {} instead", default.name()));
            }
            default
        }
    };
    let mut derived = Derived { raw: *base.raw(), leaves: base.raw().cpuid.to_vec(), changed: false };
    for part in parts {
        if !derived.apply(part) {
            notes.push(format!("not applied: {part}"));
        }
    }
    derived.finish(base)
}

struct Derived {
    raw: softvirt::x86_state::profile::RawProfile,
    leaves: Vec<softvirt::x86_state::feature::CpuidLeaf>,
    changed: bool,
}

impl Derived {
    /// Applies `+feature`, `-feature` or `property=value`. `false`: nothing is known by this name.
    fn apply(&mut self, part: &str) -> bool {
        if let Some((key, value)) = part.split_once('=') {
            return match (key, value.parse::<u8>()) {
                ("phys-bits", Ok(bits)) => {
                    self.changed = true;
                    self.raw.physical_width = bits;
                    self.raw.linear_width = self.raw.linear_width.min(48);
                    self.set_physical_width(bits);
                    true
                }
                ("host-phys-bits", _) => true,
                ("vendor", _) => value == "GenuineIntel",
                _ => false,
            };
        }
        let (name, present) = match part.split_at_checked(1) {
            Some(("+", name)) => (name, true),
            Some(("-", name)) => (name, false),
            // The host's width: ours.
            _ => return part == "host-phys-bits",
        };
        if let Some(control) = vmx_control(name) {
            return self.set_control(control, present);
        }
        let wanted = OTHER_NAMES.iter().find(|(theirs, _)| *theirs == name).map_or(name, |(_, ours)| ours);
        let row = Feature::TABLE.iter().find(|row| row.name.to_lowercase().replace('_', "-") == wanted);
        if (wanted, present) == ("x2apic", true) {
            self.give_topology();
        }
        let more = MORE.iter().find(|row| row.0 == name);
        match (row, more) {
            (Some(row), _) => self.set(row.leaf, row.subleaf, row.reg, row.bit, present),
            (None, Some(&(_, leaf, subleaf, reg, bit))) => self.set(leaf, subleaf, reg, bit, present),
            (None, None) => false,
        }
    }

    fn set(&mut self, leaf: u32, subleaf: u32, reg: CpuidReg, bit: u8, present: bool) -> bool {
        let Some(answer) = self.leaves.iter_mut().find(|answer| answer.leaf == leaf && answer.subleaf == subleaf)
        else {
            // What is not there cannot be taken away.
            return !present;
        };
        let register = &mut answer.regs[reg as usize];
        let value = *register & !(1 << bit) | u32::from(present) << bit;
        self.changed |= *register != value;
        *register = value;
        true
    }

    /// A processor with x2APIC tells its x2APIC ID in leaf 0BH (SDM 3A 10.12.8.1, Consistency of APIC IDs and CPUID): there is such a leaf.
    fn give_topology(&mut self) {
        const TOPOLOGY: u32 = 0xb;
        if let Some(answer) = self.leaves.iter_mut().find(|answer| answer.leaf == 0) {
            self.changed |= answer.regs[0] < TOPOLOGY;
            answer.regs[0] = answer.regs[0].max(TOPOLOGY);
        }
    }

    fn set_physical_width(&mut self, bits: u8) {
        if let Some(answer) = self.leaves.iter_mut().find(|answer| answer.leaf == 0x8000_0008) {
            answer.regs[0] = answer.regs[0] & !0xff | u32::from(bits);
        }
    }

    fn set_control(&mut self, control: Control, present: bool) -> bool {
        let msr = VmxMsr::ProcbasedCtls2;
        let Some(Some(value)) = self.raw.vmx.get_mut(msr as usize) else { return false };
        let mask = control.mask() << 32;
        let changed = if present { *value | mask } else { *value & !mask };
        self.changed |= changed != *value;
        *value = changed;
        true
    }

    fn finish(self, base: &'static CpuProfile) -> &'static CpuProfile {
        if !self.changed {
            return base;
        }
        // A few for each run of the command.
        let cpuid = Box::leak(self.leaves.into_boxed_slice());
        Box::leak(Box::new(CpuProfile::new(softvirt::x86_state::profile::RawProfile { cpuid, ..self.raw })))
    }
}

/// QEMU's names of secondary processor-based controls that the suite's configuration switches.
fn vmx_control(name: &str) -> Option<Control> {
    Some(match name {
        "vmx-mbec" => Control::MODE_BASED_EXECUTE_CONTROL,
        _ => return None,
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn features_are_added_and_taken_away() {
        let mut notes = Vec::new();
        let found = derive(Some("qemu64,+pcid,-x2apic,+tsc-deadline,-pku"), &profiles::MAX, &mut notes);
        assert_eq!(found.has(Feature::PCID), Some(true));
        assert_eq!(found.has(Feature::X2APIC), Some(false));
        assert_eq!(found.has(Feature::TSC_DEADLINE), Some(true));
        assert_eq!(found.physical_width(), profiles::PENRYN.physical_width());
        assert_eq!(notes, Vec::<String>::new());
    }

    #[test]
    fn a_processor_that_gets_x2apic_has_the_leaf_of_its_id() {
        let highest = |found: &CpuProfile| found.cpuid(0, 0).map(|leaf| leaf.regs[0]);
        let derived = |cpu| derive(Some(cpu), &profiles::MAX, &mut Vec::new());
        assert_eq!(highest(derived("qemu64")), Some(0xa));
        assert_eq!(highest(derived("qemu64,+x2apic")), Some(0xb));
        assert_eq!(highest(derived("max,+x2apic")), highest(&profiles::MAX));
    }

    #[test]
    fn what_cannot_be_applied_is_noted() {
        let mut notes = Vec::new();
        let found = derive(Some("Opteron_G1,vendor=AuthenticAMD,+nonsense"), &profiles::MAX, &mut notes);
        assert_eq!(found.name(), "max");
        assert_eq!(
            notes,
            [
                "no processor like QEMU's opteron_g1: max instead",
                "not applied: vendor=AuthenticAMD",
                "not applied: +nonsense"
            ]
        );
    }

    #[test]
    fn widths_and_controls_change() {
        let mut notes = Vec::new();
        assert_eq!(
            derive(Some("IvyBridge,phys-bits=36,host-phys-bits=off"), &profiles::MAX, &mut notes).physical_width(),
            36
        );
        let found = derive(Some("max,host-phys-bits,+vmx,-vmx-mbec"), &profiles::MAX, &mut notes);
        let settings = found.proc2_settings().unwrap();
        assert_eq!(settings.may_be_one & Control::MODE_BASED_EXECUTE_CONTROL.mask(), 0);
        assert_eq!(notes, Vec::<String>::new());
    }
}
