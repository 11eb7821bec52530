//! What does a walk look like, for people and for programs?

use super::Ended;
use super::record::Update;
use super::steps::{Second, Step, Target};
use super::stop::{self, Event, Stop};
use crate::commands::image::Image;
use crate::commands::layout::{DIM, HEAD, beside, labelled};
use crate::commands::tables::{entry_name, entry_words, rights_words, size_words, type_name};
use serde::Serialize;
use softvirt::ept::entry::{epte, pte};
use softvirt::ept::{Access, Dimension, MemoryType, Operation, Paging, Translation};
use softvirt::x86_state::PagingMode;
use std::fmt::Write;

/// A walk that has ended.
pub(super) struct Walk<'a> {
    pub(super) image: &'a Image,
    pub(super) gva: u64,
    pub(super) access: Access,
    pub(super) paging: &'a Paging,
    pub(super) second: &'a Second,
    pub(super) steps: &'a [Step],
    pub(super) updates: &'a [Update],
    pub(super) ended: &'a Ended,
}

#[derive(Serialize)]
pub(super) struct Report {
    memory: String,
    guest_virtual: String,
    access: String,
    paging: String,
    second_dimension: Option<String>,
    steps: Vec<StepReport>,
    updates: Vec<UpdateReport>,
    #[serde(flatten)]
    outcome: Outcome,
}

#[derive(Serialize)]
struct StepReport {
    /// "guest", "ept", "npt"; `null` if the read has no name.
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
            Ended::Stopped(failure) => {
                Outcome::Stopped(stop::explain(failure, walk.paging, walk.second, walk.access, walk.gva, walk.steps))
            }
            Ended::BadPdptes => Outcome::Stopped(Stop {
                rule: "a PDPTE is present and sets a reserved bit, so that MOV CR3 does not load it".to_owned(),
                source: "SDM 3A 4.4.1, PDPTE Registers",
                event: Event::GeneralProtection,
            }),
        };
        Self {
            memory: walk.image.words(),
            guest_virtual: format!("{:#x}", walk.gva),
            access: access_words(walk.access),
            paging: mode_words(walk.paging.mode()).to_owned(),
            second_dimension: match walk.second {
                Second::Direct => None,
                Second::Ept(extended) => Some(extended.words()),
                Second::Npt(npt) => Some(format!("nested paging, {}", mode_words(npt.host().mode()))),
            },
            steps: walk.steps.iter().map(|step| step_report(walk, step)).collect(),
            updates: walk.updates.iter().map(|update| update_report(walk, update)).collect(),
            outcome,
        }
    }

    pub(super) fn text(&self) -> String {
        let mut text = format!("{HEAD}{}{HEAD:#}: {}, {}", self.guest_virtual, self.access, self.paging);
        if let Some(second) = &self.second_dimension {
            let _ = write!(text, ", {second}");
        }
        let _ = write!(text, "\n{DIM}{}{DIM:#}\n\n", self.memory);
        let mut last = None;
        for step in &self.steps {
            let guest = step.dimension == Some("guest");
            if !guest && step.r#for != last {
                if let Some(target) = &step.r#for {
                    let _ = writeln!(text, "    {DIM}for {target}{DIM:#}");
                }
            }
            last.clone_from(&step.r#for);
            let indent = if guest { "" } else { "    " };
            let missing = if step.missing { "NOT IN THE IMAGE, reads as ones: " } else { "" };
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
        Event::VmExit { reason, name, qualification, words, guest_physical_address, guest_linear_address } => {
            row("VM exit", &format!("{reason}, {name}"));
            if let (Some(qualification), Some(words)) = (qualification, words) {
                row("exit qualification", &format!("{qualification}: {words}"));
            }
            row("guest-physical address", guest_physical_address);
            if let Some(linear) = guest_linear_address {
                row("guest-linear address", linear);
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

fn access_words(access: Access) -> String {
    let operation = match access.operation {
        Operation::Read => "read",
        Operation::Write => "write",
        Operation::Fetch => "instruction fetch",
    };
    let mode = if access.is_user() { "user" } else { "supervisor" };
    format!("{mode}-mode {operation}")
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

/// The tables that an entry belongs to, in words.
fn words_of(walk: &Walk<'_>, dimension: Dimension, level: u8, entry: u64) -> String {
    match (dimension, walk.second) {
        (Dimension::Ept, Second::Ept(extended)) => extended.entry_words(level, entry),
        (Dimension::Npt, Second::Npt(npt)) => entry_words(npt.host(), level, entry),
        _ => entry_words(walk.paging, level, entry),
    }
}

fn step_report(walk: &Walk<'_>, step: &Step) -> StepReport {
    let digits = 2 + 2 * usize::from(step.read.bytes);
    let dimension = step.dimension;
    let guest = dimension == Some(Dimension::Guest);
    let target = (dimension.is_some() && !guest).then(|| match step.target {
        Target::Page => format!("the page, guest-physical {:#x}", step.gpa),
        Target::Table(level) => format!("the {} at {:#x}", entry_name(Dimension::Guest, level), step.gpa),
        Target::PdpteLoad => format!("the load of the PDPTEs from {:#x}", step.gpa),
    });
    let entry = step.read.value;
    StepReport {
        dimension: dimension.map(|dimension| match dimension {
            Dimension::Guest => "guest",
            Dimension::Ept => "ept",
            Dimension::Npt => "npt",
        }),
        level: step.level,
        name: dimension.map_or("read", |dimension| entry_name(dimension, step.level)),
        r#for: target,
        guest_physical: dimension.map(|_| format!("{:#x}", step.gpa)),
        host_physical: format!("{:#x}", step.read.at),
        entry: format!("{entry:#0digits$x}"),
        missing: step.read.missing,
        words: dimension.map_or(String::new(), |dimension| words_of(walk, dimension, step.level, entry)),
    }
}

fn update_report(walk: &Walk<'_>, update: &Update) -> UpdateReport {
    let step = walk.steps.iter().find(|step| step.read.at == update.at);
    let dimension = step.and_then(|step| step.dimension);
    let (accessed, dirty) = match dimension {
        Some(Dimension::Ept) => (epte::ACCESSED, epte::DIRTY),
        _ => (pte::ACCESSED, pte::DIRTY),
    };
    let new = update.new & !update.old;
    let flags = [(accessed, "accessed"), (dirty, "dirty")];
    let flags: Vec<&str> = flags.iter().filter(|(bit, _)| new & bit != 0).map(|(_, name)| *name).collect();
    let name = match (dimension, step) {
        (Some(dimension), Some(step)) => entry_name(dimension, step.level),
        _ => "memory",
    };
    UpdateReport {
        host_physical: format!("{:#x}", update.at),
        old: format!("{:#x}", update.old),
        new: format!("{:#x}", update.new),
        words: format!("{name}: {}", flags.join(", ")),
    }
}

fn translated(walk: &Walk<'_>, found: &Translation) -> Translated {
    let off = walk.paging.mode() == PagingMode::None;
    let guest_rights = if off { "all: paging is off".to_owned() } else { guest_rights(found) };
    let (second_rights, memory_type) = match walk.second {
        Second::Direct => (None, None),
        Second::Ept(_) => {
            let encoding = MemoryType::from_encoding((found.second_leaf >> 3 & 7) as u8);
            let ignore = if found.second_leaf & epte::IGNORE_PAT != 0 {
                ", the PAT is ignored"
            } else {
                ", combined with the guest's PAT type"
            };
            let memory_type = encoding.map(|encoding| format!("{} by EPT{ignore}", type_name(encoding)));
            (Some(rights_words(found.second_rights)), memory_type)
        }
        Second::Npt(_) => {
            let write = if found.second_rights & pte::WRITE != 0 { "read, write" } else { "read" };
            let execute = if found.second_rights & pte::EXECUTE_DISABLE != 0 { ", execute" } else { "" };
            (Some(format!("{write}{execute}")), None)
        }
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

fn guest_rights(found: &Translation) -> String {
    let mode = if found.guest_user() { "user" } else { "supervisor" };
    let write = if found.guest_writable() { "read, write" } else { "read" };
    let execute = if found.guest_executable() { ", execute" } else { "" };
    format!("{mode} page: {write}{execute}")
}
