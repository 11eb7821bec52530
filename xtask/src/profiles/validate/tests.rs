//! Each rule is broken alone, in an otherwise valid file.

use super::*;
use crate::profiles::schema::parse;

/// A small valid machine: what a Skylake-SP says, less most of CPUID.
const VALID: &str = r#"
name = "some-cpu"
description = "Some CPU"
order = 10
vendor = "intel"
cpuid_signature = 0x50654
physical_address_bits = 46
linear_address_bits = 48

[source]
default = "made for this test"

[msr]
feature_control = 0x5
vmx_basic = 0xda040000000004
vmx_pinbased_ctls = 0xff00000016
vmx_procbased_ctls = "0xfff9fffe0401e172"
vmx_exit_ctls = 0x1ffffff00036dff
vmx_entry_ctls = 0x3ffff000011ff
vmx_misc = 0x7004c1e7
vmx_cr0_fixed0 = 0x80000021
vmx_cr0_fixed1 = 0xffffffff
vmx_cr4_fixed0 = 0x2000
vmx_cr4_fixed1 = 0x7767ff
vmx_vmcs_enum = 0x2e
vmx_procbased_ctls2 = 0x25f7fff00000000
vmx_ept_vpid_cap = 0xf0106734141
vmx_true_pinbased_ctls = 0xff00000016
vmx_true_procbased_ctls = "0xfff9fffe04006172"
vmx_true_exit_ctls = 0x1ffffff00036dfb
vmx_true_entry_ctls = 0x3ffff000011fb

[[cpuid]]
leaf = 0x0
subleaf = 0
eax = 0x00000016
ebx = 0x756e6547
ecx = 0x6c65746e
edx = 0x49656e69

[[cpuid]]
leaf = 0x1
subleaf = 0
eax = 0x00050654
ebx = 0x00400800
ecx = 0x7ffefbff
edx = 0xbfebfbff

[[cpuid]]
leaf = 0x7
subleaf = 0
eax = 0x00000000
ebx = 0xd39ffffb
ecx = 0x00000008
edx = 0x00000000

[[cpuid]]
leaf = 0x80000001
subleaf = 0
eax = 0x00000000
ebx = 0x00000000
ecx = 0x00000121
edx = 0x2c100000

[[cpuid]]
leaf = 0x80000008
subleaf = 0
eax = 0x0000302e
ebx = 0x00000000
ecx = 0x00000000
edx = 0x00000000
"#;

/// Rule, key that the message names, edits (from, to).
type Case = (&'static str, &'static str, &'static [(&'static str, &'static str)]);

const CASES: &[Case] = &[
    ("name", "name", &[("\"some-cpu\"", "\"other-cpu\"")]),
    ("name", "name", &[("\"some-cpu\"", "\"Some CPU\"")]),
    ("name", "description", &[("\"Some CPU\"", "\"\"")]),
    ("key", "msr.vmx_basics", &[("[msr]", "[msr]\nvmx_basics = 1")]),
    ("source", "source.default", &[("\"made for this test\"", "\" \"")]),
    ("source", "source.vmx_vmfunc", &[("\n[msr]", "vmx_vmfunc = \"elsewhere\"\n[msr]")]),
    ("allow", "allow.no-rule", &[("\n[msr]", "[allow]\nno-rule = \"so\"\n[msr]")]),
    ("allow", "allow.default1", &[("\n[msr]", "[allow]\ndefault1 = \"nothing breaks it\"\n[msr]")]),
    ("allow", "allow.vmcs-enum", &[("= 0x2e\n", "= 0x2f\n"), ("\n[msr]", "[allow]\nvmcs-enum = \" \"\n[msr]")]),
    // A VM functions bit that secondary controls do not allow; BASIC without TRUE MSRs.
    ("existence", "vmx_vmfunc", &[("0x25f7fff0", "0x25f5fff0"), ("[msr]", "[msr]\nvmx_vmfunc = 1")]),
    ("existence", "vmx_procbased_ctls3", &[("[msr]", "[msr]\nvmx_procbased_ctls3 = 1")]),
    ("existence", "vmx_exit_ctls2", &[("[msr]", "[msr]\nvmx_exit_ctls2 = 1")]),
    // Bit 8, which has no meaning, must be 1 and must be 0.
    (
        "settings",
        "vmx_pinbased_ctls",
        &[
            ("0xff00000016", "0xff00000116"),
            ("vmx_true_pinbased_ctls = 0xff00000016", "vmx_true_pinbased_ctls = 0xff00000116"),
        ],
    ),
    ("secondary-flexible", "vmx_procbased_ctls2", &[("0x25f7fff00000000", "0x25f7fff00000002")]),
    ("default1", "vmx_exit_ctls", &[("vmx_exit_ctls = 0x1ffffff00036dff", "vmx_exit_ctls = 0x1ffffff00036dfb")]),
    ("true-agrees", "vmx_true_entry_ctls", &[("vmx_true_entry_ctls = 0x3ffff", "vmx_true_entry_ctls = 0x7ffff")]),
    (
        "true-agrees",
        "vmx_true_pinbased_ctls",
        &[("vmx_true_pinbased_ctls = 0xff00000016", "vmx_true_pinbased_ctls = 0xff00000017")],
    ),
    ("true-agrees", "vmx_true_entry_ctls", &[("vmx_entry_ctls = 0x3ffff000011ff", "vmx_entry_ctls = 0x3ffff000013ff")]),
    (
        "true-flexible",
        "vmx_basic",
        &[
            ("0xfff9fffe04006172", "0xfff9fffe0401e172"),
            ("0x1ffffff00036dfb", "0x1ffffff00036dff"),
            ("0x3ffff000011fb", "0x3ffff000011ff"),
        ],
    ),
    ("basic-revision", "vmx_basic", &[("0xda040000000004", "0xda040080000004")]),
    ("basic-size", "vmx_basic", &[("0xda040000000004", "0xda000000000004")]),
    ("basic-size", "vmx_basic", &[("0xda040000000004", "0xda100100000004")]),
    ("basic-address-width", "vmx_basic", &[("0xda040000000004", "0xdb040000000004")]),
    ("basic-memory-type", "vmx_basic", &[("0xda040000000004", "0xd6040000000004")]),
    ("basic-reserved", "vmx_basic", &[("0xda040000000004", "0x8da040000000004")]),
    (
        "basic-nested-exception",
        "vmx_basic",
        &[
            ("eax = 0x00000000\nebx = 0xd39ffffb", "eax = 0x00000001\nebx = 0xd39ffffb"),
            (
                "[[cpuid]]\nleaf = 0x80000008",
                "[[cpuid]]\nleaf = 7\nsubleaf = 1\neax = 0x20000\nebx = 0\necx = 0\nedx = 0\n\n[[cpuid]]\nleaf = 0x80000008",
            ),
            ("vmx_cr4_fixed1 = 0x7767ff", "vmx_cr4_fixed1 = 0x1007767ff"),
        ],
    ),
    ("misc-reserved", "vmx_misc", &[("0x7004c1e7", "0x7004e1e7")]),
    ("misc-cr3-targets", "vmx_misc", &[("0x7004c1e7", "0x7101c1e7")]),
    ("misc-unrestricted-guest", "vmx_misc", &[("0x7004c1e7", "0x7004c1c7")]),
    ("misc-pt", "vmx_misc", &[("0xd39ffffb", "0xd19ffffb")]),
    ("cr-fixed", "vmx_cr0_fixed0", &[("0x80000021", "0x180000021")]),
    ("cr-fixed", "vmx_cr4_fixed0", &[("vmx_cr4_fixed0 = 0x2000", "vmx_cr4_fixed0 = 0xa000")]),
    ("cr-vmx", "vmx_cr0_fixed1", &[("0x80000021", "0x21"), ("0xffffffff", "0x7fffffff")]),
    ("cr-vmx", "vmx_cr4_fixed0", &[("vmx_cr4_fixed0 = 0x2000", "vmx_cr4_fixed0 = 0x0")]),
    // Without SMAP (21); with CET (23); with a bit that nobody knows (31).
    ("cr4-feature", "vmx_cr4_fixed1", &[("0x7767ff", "0x5767ff")]),
    ("cr4-feature", "vmx_cr4_fixed1", &[("0x7767ff", "0xf767ff")]),
    ("cr4-feature", "vmx_cr4_fixed1", &[("0x7767ff", "0x807767ff")]),
    ("vmcs-enum", "vmx_vmcs_enum", &[("= 0x2e\n", "= 0x42e\n")]),
    ("vmcs-enum", "vmx_vmcs_enum", &[("= 0x2e\n", "= 0x0\n")]),
    ("ept-reserved", "vmx_ept_vpid_cap", &[("0xf0106734141", "0xf0106734143")]),
    ("ept-usable", "vmx_ept_vpid_cap", &[("0xf0106734141", "0xf0106734101")]),
    ("ept-usable", "vmx_ept_vpid_cap", &[("0xf0106734141", "0xf0106730041")]),
    // EPT off with all that needs it: unrestricted guest, PML, mode-based execute control; the VM functions are unknown.
    ("ept-usable", "vmx_ept_vpid_cap", &[("0x25f7fff0", "0x21d7f7d0")]),
    ("vpid-caps", "vmx_ept_vpid_cap", &[("0x25f7fff0", "0x25f7fdf0")]),
    ("invalidation-types", "vmx_ept_vpid_cap", &[("0xf0106734141", "0xf0106634141")]),
    ("invalidation-types", "vmx_ept_vpid_cap", &[("0xf0106734141", "0x106734141")]),
    // Posted interrupts without virtual-interrupt delivery; unrestricted guest without EPT would break ept-usable too.
    ("control-dependency", "vmx_pinbased_ctls", &[("0x25f7fff0", "0x25f7dff0")]),
    (
        "control-dependency",
        "vmx_exit_ctls",
        &[
            ("vmx_pinbased_ctls = 0xff", "vmx_pinbased_ctls = 0xbf"),
            ("vmx_true_pinbased_ctls = 0xff", "vmx_true_pinbased_ctls = 0xbf"),
        ],
    ),
    // RDSEED exiting without RDSEED; clear IA32_BNDCFGS and load IA32_BNDCFGS without MPX.
    ("control-feature", "vmx_procbased_ctls2", &[("0xd39ffffb", "0xd39bfffb")]),
    (
        "control-feature",
        "vmx_entry_ctls",
        &[
            ("0xd39ffffb", "0xd39fbffb"),
            ("0x1ffffff0", "0x17fffff0"),
            ("vmx_true_exit_ctls = 0x1ffffff0", "vmx_true_exit_ctls = 0x17fffff0"),
        ],
    ),
    ("feature-control", "feature_control", &[("feature_control = 0x5", "feature_control = 0x20005")]),
    ("feature-control", "feature_control", &[("feature_control = 0x5", "feature_control = 0x15")]),
    ("cpuid-duplicate", "cpuid 0x7.0", &[("leaf = 0x80000001", "leaf = 0x7")]),
    (
        "cpuid-maximum",
        "cpuid 0x17.0",
        &[(
            "[[cpuid]]\nleaf = 0x80000008",
            "[[cpuid]]\nleaf = 0x17\nsubleaf = 0\neax = 0\nebx = 0\necx = 0\nedx = 0\n\n[[cpuid]]\nleaf = 0x80000008",
        )],
    ),
    ("cpuid-apic-id", "cpuid 0x1.0", &[("ebx = 0x00400800", "ebx = 0x02400800")]),
    ("cpuid-vendor", "vendor", &[("ebx = 0x756e6547", "ebx = 0x68747541")]),
    ("cpuid-vmx", "cpuid 0x1.0", &[("ecx = 0x7ffefbff", "ecx = 0x7ffefbdf")]),
    ("cpuid-signature", "cpuid_signature", &[("cpuid_signature = 0x50654", "cpuid_signature = 0x50655")]),
    ("cpuid-widths", "physical_address_bits", &[("physical_address_bits = 46", "physical_address_bits = 39")]),
    (
        "width-range",
        "physical_address_bits",
        &[("physical_address_bits = 46", "physical_address_bits = 53"), ("0x0000302e", "0x00003035")],
    ),
    (
        "width-range",
        "linear_address_bits",
        &[("linear_address_bits = 48", "linear_address_bits = 47"), ("0x0000302e", "0x00002f2e")],
    ),
    (
        "la57-width",
        "linear_address_bits",
        &[("linear_address_bits = 48", "linear_address_bits = 57"), ("0x0000302e", "0x0000392e")],
    ),
    ("mktme", "mktme_key_bits", &[("linear_address_bits = 48", "linear_address_bits = 48\nmktme_key_bits = 16")]),
    ("mktme", "mktme_key_bits", &[("linear_address_bits = 48", "linear_address_bits = 48\nmktme_key_bits = 6")]),
];

fn edited(edits: &[(&str, &str)]) -> String {
    edits.iter().fold(VALID.to_owned(), |text, (from, to)| {
        assert!(text.contains(from), "nothing to edit: {from}");
        text.replacen(from, to, 1)
    })
}

fn problems(text: &str) -> Vec<Problem> {
    match parse("some-cpu.toml", text) {
        Ok(p) => profile("some-cpu.toml", &p),
        Err(problem) => vec![problem],
    }
}

#[test]
fn the_valid_machine_breaks_no_rule() {
    assert_eq!(problems(VALID), []);
}

#[test]
fn each_case_breaks_its_rule_at_its_key() {
    for (rule, key, edits) in CASES {
        let found = problems(&edited(edits));
        assert!(
            found.iter().any(|p| p.rule == *rule && p.key == *key),
            "{rule} at {key} was wanted of {edits:?}:\n{found:#?}"
        );
        assert!(found.iter().all(|p| !p.why.is_empty() && p.file == "some-cpu.toml"));
    }
}

#[test]
fn each_rule_is_broken_alone_by_some_case() {
    let mut untested = RULES.to_vec();
    // Between files: `two_profiles_cannot_share_a_place`.
    untested.retain(|rule| *rule != "order");
    for (rule, _, edits) in CASES {
        if problems(&edited(edits)).iter().all(|p| p.rule == *rule) {
            untested.retain(|other| other != rule);
        }
    }
    assert_eq!(untested, [""; 0], "no case breaks these alone");
}

#[test]
fn allow_silences_a_rule_that_has_a_reason() {
    let text =
        edited(&[("0x7004c1e7", "0x7004e1e7"), ("\n[msr]", "[allow]\nmisc-reserved = \"seen in two dumps\"\n[msr]")]);
    assert_eq!(problems(&text), []);
}

#[test]
fn two_profiles_cannot_share_a_place() {
    let a = parse("some-cpu.toml", VALID).unwrap();
    let mut b = a.clone();
    b.name = "other-cpu".to_owned();
    let found = collection(&[a.clone(), b.clone()]);
    assert_eq!(found.len(), 1);
    assert_eq!((found[0].rule, found[0].file.as_str()), ("order", "other-cpu.toml"));
    b.order = 20;
    assert_eq!(collection(&[a, b]), []);
}

#[test]
fn a_file_of_another_shape_is_reported_with_its_line() {
    for (from, to, line, why) in [
        ("order = 10", "orders = 10", "line 4", "unknown field `orders`"),
        ("vendor = \"intel\"", "vendor = \"acme\"", "line 5", "unknown variant `acme`"),
        ("vmx_misc = 0x7004c1e7", "vmx_misc = \"7004c1e7\"", "line 20", "neither an integer nor a string"),
    ] {
        let found = problems(&edited(&[(from, to)]));
        assert_eq!(found.len(), 1, "{found:#?}");
        assert_eq!(found[0].rule, "schema");
        assert!(found[0].why.contains(why), "{found:#?}");
        assert_eq!(found[0].key, line, "{found:#?}");
    }
}

#[test]
fn a_message_names_file_key_reason_and_rule() {
    let found = problems(&edited(&[("0x25f7fff0", "0x25f7dff0")]));
    let text = found[0].to_string();
    assert_eq!(
        text,
        "some-cpu.toml: vmx_pinbased_ctls: \u{201c}process posted interrupts\u{201d} may be 1, but needs \
         \u{201c}virtual-interrupt delivery\u{201d}, which may not [control-dependency]"
    );
}
