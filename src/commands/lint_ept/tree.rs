//! What stands in all tables of an EPT? Every table is read once for each set of rights that lead to it.
//!
//! # Invariants
//! - A descent has at most five levels; a table among its own ancestors is not entered again.
//! - A table reached twice with the same rights is read once: 512 entries that point to one table cost one visit, not 512.
//! - At most `limit` tables are read.

use super::findings::{Findings, Kind, Runs};
use crate::commands::image::Image;
use crate::commands::tables::{Extended, entry_name, rights_words};
use indicatif::ProgressBar;
use softvirt::ept::entry::epte;
use softvirt::ept::{Dimension, FailureKind};
use std::collections::{BTreeMap, BTreeSet};

/// Addresses in not-present entries that are looked at.
const SUSPECTS_KEPT: usize = 1 << 16;
const RIGHTS: u64 = 7;

/// What was read.
#[derive(Default)]
pub(super) struct Tally {
    pub(super) tables: u64,
    pub(super) pages: u64,
    /// Tables that were not read because of the limit.
    pub(super) beyond_limit: u64,
    pub(super) suspects_dropped: u64,
    pub(super) runs_dropped: u64,
    /// Visits that were spared because the table had been read already.
    pub(super) shared: u64,
}

/// A not-present entry that holds the address of what may be a table.
struct Suspect {
    table: u64,
    level: u8,
    gpa: u64,
    entry: (u64, u64),
}

pub(super) struct Tree<'a> {
    pub(super) image: &'a Image,
    pub(super) extended: &'a Extended,
    pub(super) limit: u64,
    pub(super) progress: &'a ProgressBar,
    pub(super) findings: Findings,
    pub(super) tally: Tally,
    runs: Runs,
    /// Tables by address, level and the rights above them, with the guest-physical address at which they were met first.
    seen: BTreeMap<(u64, u8, u64), u64>,
    /// Tables by address and level, whatever the rights.
    met: BTreeSet<(u64, u8)>,
    suspects: Vec<Suspect>,
}

impl<'a> Tree<'a> {
    pub(super) fn new(image: &'a Image, extended: &'a Extended, limit: u64, progress: &'a ProgressBar) -> Self {
        Self {
            image,
            extended,
            limit,
            progress,
            findings: Findings::default(),
            tally: Tally::default(),
            runs: Runs::default(),
            seen: BTreeMap::new(),
            met: BTreeSet::new(),
            suspects: Vec::new(),
        }
    }

    /// Reads everything.
    pub(super) fn lint(mut self) -> (Findings, Tally) {
        let (root, levels) = (self.extended.root, self.extended.levels);
        self.progress.set_length(0);
        self.table(root, levels, 0, RIGHTS, &mut Vec::new(), true);
        self.judge_suspects();
        self.tally.runs_dropped = self.runs.dropped;
        std::mem::take(&mut self.runs).aliases(&mut self.findings);
        (self.findings, self.tally)
    }

    /// The entries of a table; `None` if it is not wholly in the image.
    fn read(&self, table: u64) -> Option<Vec<u64>> {
        let mut bytes = vec![0; 4096];
        let whole = self.image.read(table, &mut bytes) == 0;
        whole.then(|| {
            let words = bytes.chunks_exact(8);
            words.map(|word| word.iter().rev().fold(0, |value, &byte| value << 8 | u64::from(byte))).collect()
        })
    }

    /// `upper` is the AND of the entries above, `path` the tables above. `parent_fresh`: the table above is read for the first time.
    fn table(&mut self, table: u64, level: u8, gpa: u64, upper: u64, path: &mut Vec<u64>, parent_fresh: bool) {
        let span = 1 << (12 + 9 * level);
        if path.contains(&table) {
            let why = format!("the table at {table:#x} is also one of the tables above it");
            self.findings.add(Kind::Loop, gpa, gpa + span, why, None);
            return;
        }
        if let Some(&first) = self.seen.get(&(table, level, upper)) {
            self.tally.shared += 1;
            if parent_fresh {
                let why = format!("the table at {table:#x}, also of guest-physical {first:#x}");
                self.findings.add(Kind::Aliased, gpa, gpa + span, why, None);
            }
            return;
        }
        if self.tally.tables >= self.limit {
            self.tally.beyond_limit += 1;
            return;
        }
        self.seen.insert((table, level, upper), gpa);
        let first_time = self.met.insert((table, level));
        if !first_time && parent_fresh {
            let why = format!("the table at {table:#x}, also of another range with other rights");
            self.findings.add(Kind::Aliased, gpa, gpa + span, why, None);
        }
        self.tally.tables += 1;
        self.progress.set_message(format!("{} tables", self.tally.tables));
        let Some(entries) = self.read(table) else {
            let why = format!("the table at {table:#x} is not, or not wholly, in the image");
            self.findings.add(Kind::OutsideImage, gpa, gpa + span, why, None);
            return;
        };
        path.push(table);
        // The bar counts what is present on the second level.
        let present = |entry: u64| entry & RIGHTS != 0;
        let counts = path.len() == 2;
        if counts {
            self.progress.inc_length(entries.iter().filter(|&&entry| present(entry)).count() as u64);
        }
        let step = span >> 9;
        for (index, entry) in (0..).zip(entries) {
            self.entry((table + 8 * index, entry), level, gpa + index * step, upper, path, first_time);
            if counts && present(entry) {
                self.progress.inc(1);
            }
        }
        path.pop();
    }

    fn entry(&mut self, at: (u64, u64), level: u8, gpa: u64, upper: u64, path: &mut Vec<u64>, first_time: bool) {
        let entry = at.1;
        let end = gpa + (1 << (12 + 9 * (level - 1)));
        match self.extended.ept.check_entry(level, entry) {
            Some(FailureKind::NotPresent) => {
                self.suspect(at, level, gpa);
                return;
            }
            Some(_) => {
                let why = self.extended.misconfiguration(level, entry).unwrap_or_default();
                let why = format!("{}: {why}", entry_name(Dimension::Ept, level));
                self.findings.add(Kind::Misconfigured, gpa, end, why, Some(at));
                return;
            }
            None => {}
        }
        let rights = upper & entry;
        let denied = entry & RIGHTS & !upper;
        if rights & RIGHTS == 0 {
            let why = format!(
                "{} permits {}, the entries above permit {}: together nothing",
                entry_name(Dimension::Ept, level),
                rights_words(entry),
                rights_words(upper)
            );
            self.findings.add(Kind::Unreachable, gpa, end, why, Some(at));
            return;
        }
        if denied != 0 {
            let why = format!(
                "{}: {} is permitted here and denied above",
                entry_name(Dimension::Ept, level),
                rights_words(denied)
            );
            self.findings.add(Kind::Unreachable, gpa, end, why, Some(at));
        }
        let (address, bits) = self.extended.frame(level, entry);
        if !self.extended.maps_page(level, entry) {
            self.table(address, level - 1, gpa, rights & RIGHTS, path, first_time);
            return;
        }
        self.tally.pages += 1;
        if rights & (epte::WRITE | epte::EXECUTE) == epte::WRITE | epte::EXECUTE {
            self.findings.add(Kind::WritableExecutable, gpa, end, rights_words(rights), Some(at));
        }
        if first_time {
            self.runs.add(gpa, address, 1 << bits);
        }
    }

    /// Remembers an entry that is not present and holds an address of the image, where a table could be.
    fn suspect(&mut self, at: (u64, u64), level: u8, gpa: u64) {
        let (table, _) = self.extended.frame(level, at.1 & !epte::PAGE);
        if level == 1 || table == 0 || !self.image.holds(table) {
            return;
        }
        if self.suspects.len() < SUSPECTS_KEPT {
            self.suspects.push(Suspect { table, level: level - 1, gpa, entry: at });
        } else {
            self.tally.suspects_dropped += 1;
        }
    }

    /// Which of the suspects are tables? Those that nothing else leads to, with at least one present entry and none misconfigured.
    fn judge_suspects(&mut self) {
        for suspect in std::mem::take(&mut self.suspects) {
            if self.met.contains(&(suspect.table, suspect.level)) {
                continue;
            }
            let Some(entries) = self.read(suspect.table) else { continue };
            let mut present = 0;
            let mut wrong = false;
            for entry in entries {
                match self.extended.ept.check_entry(suspect.level, entry) {
                    None => present += 1,
                    Some(FailureKind::NotPresent) => {}
                    Some(_) => wrong = true,
                }
            }
            if present > 0 && !wrong {
                let why = format!(
                    "the table at {:#x} (present entries: {present}): only an entry that is not present leads to it",
                    suspect.table
                );
                let end = suspect.gpa + (1 << (12 + 9 * suspect.level));
                self.findings.add(Kind::Unreachable, suspect.gpa, end, why, Some(suspect.entry));
            }
        }
    }
}
