//! Who is accused? Small texts, one question each.

use softvirt::explain::{Report, Verdict, explain};
use softvirt::x86_state::profiles;

fn report(text: &str) -> Report {
    let dumps = softvirt_dump::parse(text).expect("the text is a dump");
    explain(&dumps[0], profiles::ALL)
}

fn accused(report: &Report) -> Vec<&str> {
    report.broken.iter().map(|rule| rule.id.as_str()).collect()
}

/// The CPUID of two profiles is not known, so that they cannot tell whether Intel 64 is there. The other processors can.
#[test]
fn a_rule_that_holds_nowhere_is_broken_although_some_profiles_cannot_tell() {
    let report = report("guest_ia32_sysenter_eip = \"0x8000000000000000\"\n");
    assert_eq!(accused(&report), ["guest.sysenter_eip.canonical"]);
    assert_eq!(report.verdict, Verdict::Broken);
    let rule = &report.broken[0];
    assert_eq!(rule.broken_on.len() + rule.cannot_tell_on.len(), rule.processors);
    assert_eq!(rule.cannot_tell_on, ["kvm-haswell", "kvm"]);
}

/// A base that is canonical with 57 bits only breaks its rule on most processors, not on all.
#[test]
fn what_some_processors_accept_is_no_accusation() {
    let report = report("host_gs_base = \"0xff3c22c2bf880000\"\n");
    assert_eq!(accused(&report), [""; 0]);
    assert!(report.depends_on_processor.iter().any(|rule| rule.id == "host.gs.base_canonical"));
    assert_eq!(report.verdict, Verdict::NothingBroken);
}
