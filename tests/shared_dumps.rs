//! Does `explain` name the cause that each real dump's story tells? Dumps of real machines stand beside the checkout, not in it; without them the
//! test says so and passes.

use softvirt::explain::{Report, Verdict, explain};
use std::path::{Path, PathBuf};

/// What the report on a file must say.
enum Expected {
    /// These rules are accused, in some dump of the file.
    Broken(&'static [&'static str]),
    /// This rule is not an accusation but stands under "depends on the processor" in some dump.
    Depends(&'static str),
    /// The log reports a failure, and the rule is suspected of it; nobody is accused.
    Suspected(&'static str),
    /// The rule is among the undecided ones, and nobody is accused.
    Undecided(&'static str),
    /// The log reports a failed entry that nothing in the text explains; nobody is accused.
    Unexplained,
    /// Nothing is broken.
    Healthy,
    /// There is no VMCS in it.
    NotAVmcs,
}
use Expected::*;

const FILES: &[(&str, Expected)] = &[
    ("002", Broken(&["guest.ds.type_accessed", "guest.es.type_accessed"])),
    ("008", Healthy),
    ("010", Healthy),
    ("011", Healthy),
    ("101", Broken(&["entry.injection.error_code_required"])),
    ("104", Healthy),
    ("109", Suspected("guest.dr7.high")),
    ("110", Broken(&["msr.entry_load.wrmsr"])),
    ("111", Broken(&["msr.entry_load.wrmsr"])),
    ("112", Broken(&["ctl.x2apic_mode.excludes_apic_accesses"])),
    ("202", NotAVmcs),
    ("301", Broken(&["guest.cr0.fixed_ones"])),
    ("302", Broken(&["guest.cr0.fixed_ones"])),
    ("303", Undecided("msr.entry_load.wrmsr")),
    ("304", Broken(&["guest.tr.type_ia32e"])),
    ("305", Broken(&["guest.cr0.fixed_ones"])),
    ("306", Unexplained),
    ("307", Depends("entry.injection.instruction_length_zero")),
    ("308", Healthy),
    ("309", Undecided("msr.entry_load.wrmsr")),
    ("310", Undecided("msr.entry_load.wrmsr")),
    ("311", Healthy),
    ("312", Broken(&["msr.entry_load.wrmsr"])),
    ("313", Healthy),
    ("314", Healthy),
    ("315", Broken(&["msr.entry_load.wrmsr"])),
    ("316", Undecided("guest.interruptibility.nmi_virtual_nmis")),
    ("317", Broken(&["ctl.proc.reserved"])),
    ("401", Unexplained),
    ("409", Healthy),
];

fn folder() -> Option<PathBuf> {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("../shared/dumps");
    folder.is_dir().then_some(folder)
}

fn reports(path: &Path) -> Result<Vec<Report>, String> {
    let text = std::fs::read(path).map_err(|error| error.to_string())?;
    let dumps = softvirt_dump::parse(&text).map_err(|error| error.to_string())?;
    Ok(dumps.iter().map(|dump| explain(dump, softvirt::x86_state::profiles::ALL)).collect())
}

fn accused(reports: &[Report]) -> Vec<&str> {
    reports.iter().flat_map(|report| &report.broken).map(|rule| rule.id.as_str()).collect()
}

fn check(expected: &Expected, reports: &Result<Vec<Report>, String>) -> Result<(), String> {
    let reports = reports.as_ref().map_err(Clone::clone)?;
    let accused = accused(reports);
    let has = |wanted: &str, found: Vec<&str>| {
        if found.contains(&wanted) { Ok(()) } else { Err(format!("{wanted} is missing among {found:?}")) }
    };
    let nobody_accused = if accused.is_empty() { Ok(()) } else { Err(format!("accused: {accused:?}")) };
    match expected {
        Broken(rules) => rules.iter().try_for_each(|rule| has(rule, accused.clone())),
        Depends(rule) => {
            nobody_accused?;
            has(rule, reports.iter().flat_map(|r| &r.depends_on_processor).map(|rule| rule.id.as_str()).collect())
        }
        Undecided(rule) => {
            nobody_accused?;
            has(rule, reports.iter().flat_map(|r| &r.undecided).flat_map(|u| &u.rules).map(String::as_str).collect())
        }
        Suspected(rule) => {
            nobody_accused?;
            has(rule, reports.iter().flat_map(|r| &r.suspected).map(|rule| rule.id.as_str()).collect())
        }
        Unexplained => {
            nobody_accused?;
            reports
                .iter()
                .any(|report| report.verdict == Verdict::FailedUnexplained)
                .then_some(())
                .ok_or_else(|| "the failure is not reported".to_owned())
        }
        Healthy => nobody_accused,
        NotAVmcs => reports
            .iter()
            .any(|report| report.verdict == Verdict::NotAVmcs)
            .then_some(())
            .ok_or_else(|| format!("{:?}", reports.iter().map(|report| report.verdict).collect::<Vec<_>>())),
    }
}

#[test]
fn each_real_dump_is_explained() {
    let Some(folder) = folder() else {
        println!("no real dumps beside the checkout: nothing to try");
        return;
    };
    let mut files: Vec<PathBuf> = std::fs::read_dir(folder).unwrap().map(|entry| entry.unwrap().path()).collect();
    files.sort();
    let mut wrong = Vec::new();
    for path in &files {
        let name = path.file_stem().unwrap().to_string_lossy().into_owned();
        let reports = reports(path);
        let verdict = match &reports {
            Err(error) => format!("unreadable: {error}"),
            Ok(reports) => reports
                .iter()
                .map(|report| {
                    let rules: Vec<&str> = report.broken.iter().map(|rule| rule.id.as_str()).collect();
                    format!("{:?} {rules:?}", report.verdict)
                })
                .collect::<Vec<_>>()
                .join("; "),
        };
        println!("| {name} | {verdict} |");
        // A file that the table does not name must not make the tool panic; what it says is for people to judge.
        if let Some((_, expected)) = FILES.iter().find(|(prefix, _)| name.starts_with(prefix)) {
            if let Err(why) = check(expected, &reports) {
                wrong.push(format!("{name}: {why}"));
            }
        }
    }
    assert!(wrong.is_empty(), "{}", wrong.join("\n"));
}
