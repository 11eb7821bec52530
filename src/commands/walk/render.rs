//! What does a walk look like, for people and for programs?

use super::Ended;
use super::options::Chosen;
use super::record::Update;
use super::steps::{Second, Step, Tables, Target};
use super::stop::{self, Event, Stop};
use crate::commands::image::Image;
use crate::commands::layout::{DIM, HEAD, beside, labelled};
use crate::commands::tables::{
    entry_name, entry_words, ept_entry_words, ept_words, rights_words, size_words, type_name,
};
use serde::Serialize;
use softvirt::ept::entry::{epte, pte};
use softvirt::ept::linear::{CR3_LAM_U48, CR3_LAM_U57, EFER_UAIE};
use softvirt::ept::{
    Access, Dimension, Ept, Hlat, MemoryType, Npt, Operation, PageModificationLog, Paging, Privilege, Translation,
};
use softvirt::vmx_model::describe::BitList;
use softvirt::x86_state::{Cr4, PagingMode};
use std::fmt::Write;

/// A walk that has ended.
pub(super) struct Walk<'a> {
    pub(super) image: &'a Image,
    pub(super) chosen: &'a Chosen,
    /// What the program has in its register.
    pub(super) pointer: u64,
    /// What it means.
    pub(super) gva: u64,
    /// Through SS?
    pub(super) stack: bool,
    pub(super) access: Access,
    pub(super) paging: &'a Paging,
    pub(super) second: &'a Second<'a>,
    pub(super) steps: &'a [Step],
    pub(super) updates: &'a [Update],
    pub(super) ended: &'a Ended,
}

#[derive(Serialize)]
pub(super) struct Report {
    memory: String,
    registers: Registers,
    guest_virtual: String,
    /// What a pointer with a tag means.
    #[serde(skip_serializing_if = "Option::is_none")]
    linear_address: Option<String>,
    access: String,
    paging: String,
    second_dimension: Option<String>,
    steps: Vec<StepReport>,
    updates: Vec<UpdateReport>,
    #[serde(flatten)]
    outcome: Outcome,
}

#[derive(Serialize)]
struct Registers {
    cr0: String,
    cr3: String,
    cr4: String,
    efer: String,
    /// The CPU in the core whose registers these are; `null` if they come from the command line.
    vcpu: Option<usize>,
    /// EFER is neither given nor in the core.
    efer_assumed: bool,
}

#[derive(Serialize)]
struct StepReport {
    /// "guest", "hlat", "ept", "npt", "spp"; `null` if the read has no name.
    dimension: Option<&'static str>,
    level: u8,
    name: &'static str,
    /// What the second dimension was asked for.
    r#for: Option<String>,
    /// Of the entry in the guest's dimension; of what is translated in the second.
    guest_physical: Option<String>,
    host_physical: String,
    entry: String,
    /// Not in the image: it reads as ones.
    missing: bool,
    /// The machine has it, the dump leaves it out: it reads as zeros.
    left_out: bool,
    words: String,
}

#[derive(Serialize)]
struct UpdateReport {
    host_physical: String,
    old: String,
    new: String,
    words: String,
}

#[derive(Serialize)]
#[serde(rename_all = "snake_case")]
enum Outcome {
    Translated(Box<Translated>),
    Stopped(Stop),
}

#[derive(Serialize)]
struct Translated {
    host_physical: String,
    guest_physical: String,
    page_bytes: u64,
    #[serde(skip)]
    page_bits: u8,
    guest_rights: String,
    second_rights: Option<String>,
    memory_type: Option<String>,
    /// The image holds the first byte of it.
    in_image: bool,
}

impl Report {
    pub(super) fn new(walk: &Walk<'_>) -> Self {
        let outcome = match walk.ended {
            Ended::Translated(found) => Outcome::Translated(Box::new(translated(walk, found))),
            Ended::Stopped(failure) => Outcome::Stopped(stop::explain(failure, walk)),
            Ended::BadPdptes => Outcome::Stopped(Stop {
                rule: bad_pdptes(walk),
                source: "SDM 3A 4.4.1, PDPTE Registers",
                event: Event::GeneralProtection,
            }),
            Ended::NotCanonical => Outcome::Stopped(Stop {
                rule: not_canonical(walk),
                source: "SDM 1 3.3.7.1, Canonical Addressing",
                event: Event::NotCanonical { exception: if walk.stack { "#SS(0)" } else { "#GP(0)" } },
            }),
        };
        Self {
            memory: walk.image.words(),
            registers: Registers {
                cr0: format!("{:#x}", walk.chosen.cr0.bits()),
                cr3: format!("{:#x}", walk.chosen.cr3),
                cr4: format!("{:#x}", walk.chosen.cr4.bits()),
                efer: format!("{:#x}", walk.chosen.efer.bits()),
                vcpu: walk.chosen.vcpu,
                efer_assumed: walk.chosen.efer_assumed,
            },
            guest_virtual: format!("{:#x}", walk.pointer),
            linear_address: (walk.gva != walk.pointer).then(|| format!("{:#x}", walk.gva)),
            access: access_words(walk.access),
            paging: paging_words(walk.paging),
            second_dimension: match walk.second {
                Second::Direct => None,
                Second::Ept(ept) => Some(ept_words(ept)),
                Second::Npt(npt) => Some(nested_words(npt)),
            },
            steps: walk.steps.iter().map(|step| step_report(walk, step)).collect(),
            updates: walk.updates.iter().map(|update| update_report(walk, update)).collect(),
            outcome,
        }
    }

    pub(super) fn text(&self) -> String {
        let mut what = format!("{}, {}", self.access, self.paging);
        if let Some(second) = &self.second_dimension {
            let _ = write!(what, ", {second}");
        }
        if let Some(linear) = &self.linear_address {
            let _ = write!(what, "; the pointer has a tag and means {linear}");
        }
        // The style goes in after the wrapping, which counts characters.
        let head = format!("{}: ", self.guest_virtual);
        let mut text =
            format!("{HEAD}{}{HEAD:#}", self.guest_virtual) + &beside(&head, &what)[self.guest_virtual.len()..];
        let _ = writeln!(text, "{DIM}{}{DIM:#}", self.memory);
        if let Some(vcpu) = self.registers.vcpu {
            let Registers { cr0, cr3, cr4, efer, .. } = &self.registers;
            let assumed = if self.registers.efer_assumed { " (assumed: the core does not hold it)" } else { "" };
            let _ = writeln!(
                text,
                "{DIM}CPU {vcpu} of the core: CR0 {cr0}, CR3 {cr3}, CR4 {cr4}; EFER {efer}{assumed}{DIM:#}"
            );
        }
        text.push('\n');
        let mut last = None;
        for step in &self.steps {
            let guest = matches!(step.dimension, Some("guest" | "hlat"));
            if !guest && step.r#for != last {
                if let Some(target) = &step.r#for {
                    let _ = writeln!(text, "    {DIM}for {target}{DIM:#}");
                }
            }
            last.clone_from(&step.r#for);
            let indent = if guest { "" } else { "    " };
            let missing = match (step.missing, step.left_out) {
                (true, _) => "NOT IN THE IMAGE, reads as ones: ",
                (false, true) => "LEFT OUT OF THE DUMP, reads as zeros: ",
                (false, false) => "",
            };
            let address = match (&step.guest_physical, &self.second_dimension) {
                (Some(gpa), Some(_)) if guest => format!("{gpa} (host {})", step.host_physical),
                _ => step.host_physical.clone(),
            };
            text += &beside(
                &format!("{indent}{} {address} = {}  ", step.name, step.entry),
                &format!("{missing}{}", step.words),
            );
        }
        if self.steps.is_empty() {
            text += "No entry was read.\n";
        }
        if !self.updates.is_empty() {
            text += "\nFlags set, in a copy (the file stays as it is):\n";
            for update in &self.updates {
                let _ = writeln!(text, "  {} {} -> {}  {}", update.host_physical, update.old, update.new, update.words);
            }
        }
        text.push('\n');
        match &self.outcome {
            Outcome::Translated(found) => text += &found.text(self.second_dimension.is_some()),
            Outcome::Stopped(stop) => text += &stop_text(stop),
        }
        if self.steps.iter().any(|step| step.missing) {
            text +=
                "\nnote: entries that are not in the image were taken for all ones, as a bus without memory answers\n";
        }
        if self.steps.iter().any(|step| step.left_out) {
            text += "\nnote: entries that the dump leaves out were taken for zeros, the pages that makedumpfile leaves out first\n";
        }
        text
    }
}

impl Translated {
    fn text(&self, two: bool) -> String {
        let outside = if self.in_image { "" } else { " (not in the image)" };
        // Without paging and without a second dimension there is no page; the walk says 52 bits.
        let page = if self.page_bits < 52 { format!(", {} page", size_words(self.page_bits)) } else { String::new() };
        let mut text = format!("{HEAD}host-physical {}{HEAD:#}{outside}{page}\n", self.host_physical);
        let mut row = |label: &str, words: &str| text += &labelled(label, 14, words);
        if two {
            row("guest-physical", &self.guest_physical);
        }
        row("guest rights", &self.guest_rights);
        if let Some(second) = &self.second_rights {
            row("second rights", second);
        }
        if let Some(memory_type) = &self.memory_type {
            row("memory type", memory_type);
        }
        text
    }
}

fn stop_text(stop: &Stop) -> String {
    // The style goes in after the wrapping, which counts characters.
    let text = beside("STOPPED  ", &format!("{} ({})", stop.rule, stop.source));
    let mut text = text.replacen("STOPPED", &format!("{HEAD}STOPPED{HEAD:#}"), 1);
    let mut row = |label: &str, words: &str| text += &labelled(label, 22, words);
    match &stop.event {
        Event::PageFault { error_code, words, cr2 } => {
            row("#PF error code", &format!("{error_code}: {words}"));
            row("CR2", cr2);
        }
        Event::GeneralProtection => row("#GP(0)", "at the MOV CR3 that loads this value"),
        Event::NotCanonical { exception } => row(exception, "at the instruction that makes this access"),
        Event::VmExit { reason, name, qualification, words, guest_physical_address, guest_linear_address, instead } => {
            row("VM exit", &format!("{reason}, {name}"));
            if let (Some(qualification), Some(words)) = (qualification, words) {
                row("exit qualification", &format!("{qualification}: {words}"));
            }
            if let Some(address) = guest_physical_address {
                row("guest-physical address", address);
            }
            if let Some(linear) = guest_linear_address {
                row("guest-linear address", linear);
            }
            if let Some(instead) = instead {
                row("or instead", instead);
            }
        }
        Event::NestedPageFault { exit_info_1, words, exit_info_2 } => {
            row("#VMEXIT", "400h, VMEXIT_NPF");
            row("EXITINFO1", &format!("{exit_info_1}: {words}"));
            row("EXITINFO2", &format!("{exit_info_2}, the guest-physical address"));
        }
        Event::Retry => row("retry", "the access is made again"),
    }
    text
}

/// How many bits had to be equal, and which were masked?
fn not_canonical(walk: &Walk<'_>) -> String {
    let chosen = walk.chosen;
    let width = if matches!(walk.paging.mode(), PagingMode::Level5) { 57 } else { 48 };
    let masks = [
        (chosen.cr3 & CR3_LAM_U57 != 0, "CR3.LAM_U57"),
        (chosen.cr3 & CR3_LAM_U48 != 0, "CR3.LAM_U48"),
        (chosen.cr4.contains(Cr4::LAM_SUP), "CR4.LAM_SUP"),
        (chosen.efer.bits() & EFER_UAIE != 0, "EFER.UAIE"),
    ];
    let masks: Vec<&str> = masks.iter().filter_map(|(on, name)| on.then_some(*name)).collect();
    let masks = if masks.is_empty() { String::new() } else { format!(", nor is it by {}", masks.join(", ")) };
    format!("{:#x} is not canonical ({width} bits){masks}: the processor walks nothing", walk.pointer)
}

/// Which of the four PDPTEs that MOV CR3 has read are not acceptable?
fn bad_pdptes(walk: &Walk<'_>) -> String {
    let bad = walk.steps.iter().filter(|step| step.tables == Some(Tables::Guest)).filter_map(|step| {
        let entry = step.read.value;
        let reserved = if entry & pte::PRESENT == 0 { 0 } else { walk.paging.reserved(3).set_in(3, entry) };
        (reserved != 0).then(|| format!("the PDPTE at {:#x} sets reserved {}", step.gpa, BitList(reserved)))
    });
    let bad: Vec<String> = bad.collect();
    format!("{}, so that MOV CR3 loads none", bad.join(", "))
}

fn access_words(access: Access) -> String {
    let operation = match (access.operation, access.shadow_stack) {
        (Operation::Read, false) => "read",
        (Operation::Write, false) => "write",
        (Operation::Read, true) => "shadow-stack read",
        (Operation::Write, true) => "shadow-stack write",
        (Operation::Fetch, _) => "instruction fetch",
    };
    let mode = match access.privilege {
        Privilege::User => "user-mode",
        Privilege::Supervisor => "supervisor-mode",
        Privilege::ImplicitSupervisor => "implicit supervisor-mode",
    };
    let bytes = if access.bytes == 1 { String::new() } else { format!(" of {} bytes", access.bytes) };
    format!("{mode} {operation}{bytes}")
}

fn paging_words(paging: &Paging) -> String {
    let hlat = match paging.hlat {
        Hlat::Off => String::new(),
        Hlat::All(root) => format!(", HLAT paging from {root:#x} for all addresses"),
        Hlat::UpperHalf(root) => format!(", HLAT paging from {root:#x} for addresses with bit 63"),
    };
    format!("{}{hlat}", mode_words(paging.mode()))
}

fn nested_words(npt: &Npt) -> String {
    let controls = npt.controls();
    let mut words = format!("nested paging, {}", mode_words(npt.host().mode()));
    for (on, name) in [
        (controls.gmet, "guest-mode execute trap"),
        (controls.supervisor_shadow_stack, "supervisor shadow-stack check"),
        (controls.read_only_guest_tables, "read-only guest page tables"),
    ] {
        if on {
            let _ = write!(words, ", {name}");
        }
    }
    words
}

fn mode_words(mode: PagingMode) -> &'static str {
    match mode {
        PagingMode::None => "paging off",
        PagingMode::Bits32 => "32-bit paging",
        PagingMode::Pae => "PAE paging",
        PagingMode::Level4 => "4-level paging",
        PagingMode::Level5 => "5-level paging",
    }
}

/// An entry, bit by bit.
fn words_of(walk: &Walk<'_>, step: &Step) -> String {
    let entry = step.read.value;
    match (step.tables, walk.second) {
        (None, _) => String::new(),
        (Some(Tables::Ept), Second::Ept(ept)) => ept_entry_words(ept, step.level, entry),
        (Some(Tables::Npt), Second::Npt(npt)) => entry_words(npt.host(), step.level, entry),
        (Some(Tables::SubPage), Second::Ept(ept)) => sub_page_words(ept, step, walk.access),
        (Some(Tables::Hlat), _) if entry & (pte::PRESENT | pte::RESTART) == pte::PRESENT | pte::RESTART => {
            "present, bit 11: restart with ordinary paging".to_owned()
        }
        _ => entry_words(walk.paging, step.level, entry),
    }
}

fn sub_page_words(ept: &Ept<'_>, step: &Step, access: Access) -> String {
    let entry = step.read.value;
    if step.level > 1 {
        let table = entry & ept.support().address.frame();
        return if entry & 1 == 0 { "not valid".to_owned() } else { format!("valid; table at {table:#x}") };
    }
    let first = (step.gpa & 0xfff) >> 7;
    let last = ((step.gpa & 0xfff) + u64::from(access.bytes) - 1).min(0xfff) >> 7;
    let denied: Vec<String> = (first..=last)
        .filter(|sub_page| entry >> (2 * sub_page) & 1 == 0)
        .map(|sub_page| sub_page.to_string())
        .collect();
    match (denied.is_empty(), first == last) {
        (true, true) => format!("sub-page {first} of 0 to 31 may be written (bit {})", 2 * first),
        (true, false) => format!("sub-pages {first} to {last} of 0 to 31 may be written"),
        (false, _) => format!("denied to write: sub-page {} of 0 to 31 (bits 2S)", denied.join(", ")),
    }
}

fn step_report(walk: &Walk<'_>, step: &Step) -> StepReport {
    let digits = 2 + 2 * usize::from(step.read.bytes);
    let second = step.tables.is_some_and(|tables| !tables.first_dimension());
    let target = second.then(|| match step.target {
        Target::Page => format!("the page, guest-physical {:#x}", step.gpa),
        Target::Table(level) => format!("the {} at {:#x}", entry_name(Dimension::Guest, level), step.gpa),
        Target::PdpteLoad => format!("the load of the PDPTEs from {:#x}", step.gpa),
    });
    StepReport {
        dimension: step.tables.map(Tables::id),
        level: step.level,
        name: step.tables.map_or("read", |tables| tables.entry_name(step.level)),
        r#for: target,
        guest_physical: step.tables.map(|_| format!("{:#x}", step.gpa)),
        host_physical: format!("{:#x}", step.read.at),
        entry: format!("{:#0digits$x}", step.read.value),
        missing: step.read.absent.missing > 0,
        left_out: step.read.absent.left_out > 0,
        words: words_of(walk, step),
    }
}

fn update_report(walk: &Walk<'_>, update: &Update) -> UpdateReport {
    let step = walk.steps.iter().find(|step| step.read.at == update.at);
    let words = match (log_of(walk), step.and_then(|step| Some((step.tables?, step.level)))) {
        (Some(log), None) => {
            format!(
                "page-modification log, entry {}: guest-physical {:#x}",
                (update.at - log.address.0) / 8,
                update.new
            )
        }
        (_, Some((tables, level))) => {
            let (accessed, dirty) =
                if tables == Tables::Ept { (epte::ACCESSED, epte::DIRTY) } else { (pte::ACCESSED, pte::DIRTY) };
            let new = update.new & !update.old;
            let flags = [(accessed, "accessed"), (dirty, "dirty")];
            let flags: Vec<&str> = flags.iter().filter(|(bit, _)| new & bit != 0).map(|(_, name)| *name).collect();
            format!("{}: {}", tables.entry_name(level), flags.join(", "))
        }
        (None, None) => "memory".to_owned(),
    };
    UpdateReport {
        host_physical: format!("{:#x}", update.at),
        old: format!("{:#x}", update.old),
        new: format!("{:#x}", update.new),
        words,
    }
}

fn log_of<'a>(walk: &Walk<'a>) -> Option<&'a PageModificationLog> {
    match walk.second {
        Second::Ept(ept) => ept.log(),
        _ => None,
    }
}

fn translated(walk: &Walk<'_>, found: &Translation) -> Translated {
    let off = walk.paging.mode() == PagingMode::None;
    let guest_rights = if off { "all: paging is off".to_owned() } else { guest_rights(found) };
    let (second_rights, memory_type) = match walk.second {
        Second::Direct => (None, None),
        Second::Ept(ept) => {
            let encoding = MemoryType::from_encoding((found.second_leaf >> 3 & 7) as u8);
            let ignore = if found.second_leaf & epte::IGNORE_PAT != 0 {
                ", the PAT is ignored"
            } else {
                ", combined with the guest's PAT type"
            };
            let memory_type = encoding.map(|encoding| format!("{} by EPT{ignore}", type_name(encoding)));
            (Some(rights_words(ept, found.second_rights)), memory_type)
        }
        Second::Npt(npt) => (Some(nested_rights(npt, found.second_rights)), None),
    };
    Translated {
        host_physical: format!("{:#x}", found.hpa.0),
        guest_physical: format!("{:#x}", found.gpa.0),
        page_bytes: 1 << found.page_bits,
        page_bits: found.page_bits,
        guest_rights,
        second_rights,
        memory_type,
        in_image: walk.image.holds(found.hpa.0),
    }
}

/// The AND of nested entries (NX inverted) in words.
pub(super) fn nested_rights(npt: &Npt, rights: u64) -> String {
    let write = if rights & pte::WRITE != 0 { "read, write" } else { "read" };
    let executable = rights & pte::EXECUTE_DISABLE != 0;
    let user = rights & pte::USER != 0;
    match (npt.controls().gmet, executable) {
        (_, false) => write.to_owned(),
        (true, true) => format!("{write}, execute in {} mode", if user { "user" } else { "supervisor and user" }),
        (false, true) => format!("{write}, execute"),
    }
}

fn guest_rights(found: &Translation) -> String {
    let mode = if found.guest_user() { "user" } else { "supervisor" };
    let write = if found.guest_writable() { "read, write" } else { "read" };
    let execute = if found.guest_executable() { ", execute" } else { "" };
    format!("{mode} page: {write}{execute}")
}
