//! What stands in all tables of an EPT? Every table is read once for each set of rights that lead to it.
//!
//! # Invariants
//! - A descent has at most five levels; a table among its own ancestors is not entered again.
//! - A table reached twice with the same rights is read once: 512 entries that point to one table cost one visit, not 512.
//! - At most `limit` tables are read.

use super::findings::{Findings, Kind, Runs};
use crate::commands::image::Image;
use crate::commands::tables::{entry_name, misconfiguration, rights_words};
use indicatif::ProgressBar;
use softvirt::ept::entry::epte;
use softvirt::ept::{Dimension, Ept, FailureKind};
use softvirt::x86_state::Hpa;
use std::collections::{BTreeSet, HashMap};

/// Addresses in not-present entries that are looked at.
const SUSPECTS_KEPT: usize = 1 << 16;

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

/// A table's address, its level and the rights above it in one word.
///
/// ```text
///  51:12    7      6:4    3              2:0
///  address  0      level  user execute   execute, write, read
/// ```
const fn visit(table: u64, level: u8, upper: u64) -> u64 {
    let user_execute = if upper & epte::EXECUTE_USER != 0 { 1 << 3 } else { 0 };
    table | (level as u64) << 4 | user_execute | upper & (epte::READ | epte::WRITE | epte::EXECUTE)
}

pub(super) struct Tree<'a> {
    pub(super) image: &'a Image,
    pub(super) ept: &'a Ept<'a>,
    pub(super) limit: u64,
    pub(super) progress: &'a ProgressBar,
    pub(super) findings: Findings,
    pub(super) tally: Tally,
    runs: Runs,
    /// The bits of an entry that are rights.
    rights: u64,
    /// Tables by [`visit`], with the guest-physical address at which they were met first. Asked for each entry that references a
    /// table, hundreds of millions of times in a hostile image: hence a hash map. Nobody looks at its order.
    seen: HashMap<u64, u64>,
    /// Tables by address and level, whatever the rights.
    met: BTreeSet<(u64, u8)>,
    suspects: Vec<Suspect>,
}

impl<'a> Tree<'a> {
    pub(super) fn new(image: &'a Image, ept: &'a Ept<'a>, limit: u64, progress: &'a ProgressBar) -> Self {
        Self {
            image,
            ept,
            rights: ept.presence(),
            limit,
            progress,
            findings: Findings::default(),
            tally: Tally::default(),
            runs: Runs::default(),
            seen: HashMap::new(),
            met: BTreeSet::new(),
            suspects: Vec::new(),
        }
    }

    /// Reads everything.
    pub(super) fn lint(mut self) -> (Findings, Tally) {
        let (root, levels) = (self.ept.root().0, self.ept.levels());
        self.progress.set_length(0);
        self.table(root, levels, 0, self.rights, &mut Vec::new(), true);
        self.judge_suspects();
        self.tally.runs_dropped = self.runs.dropped;
        std::mem::take(&mut self.runs).aliases(&mut self.findings);
        (self.findings, self.tally)
    }

    /// The entries of a table; `None` if it is not wholly in the image.
    fn read(&self, table: u64) -> Option<Vec<u64>> {
        let mut bytes = vec![0; 4096];
        let whole = self.image.read(table, &mut bytes).missing == 0;
        whole.then(|| {
            let words = bytes.chunks_exact(8);
            words.map(|word| word.iter().rev().fold(0, |value, &byte| value << 8 | u64::from(byte))).collect()
        })
    }

    /// `upper` is the AND of the entries above, `path` the tables above. `parent_fresh`: the table above is read for the first time.
    fn table(&mut self, table: u64, level: u8, gpa: u64, upper: u64, path: &mut Vec<u64>, parent_fresh: bool) {
        let span = 1 << (12 + 9 * level);
        if path.contains(&table) {
            self.findings.add(Kind::Loop, gpa, gpa + span, [table, 0, 0], None, || {
                format!("the table at {table:#x} is also one of the tables above it")
            });
            return;
        }
        let visit = visit(table, level, upper);
        if let Some(&first) = self.seen.get(&visit) {
            self.tally.shared += 1;
            if parent_fresh {
                self.findings.add(Kind::Aliased, gpa, gpa + span, [2, table, first], None, || {
                    format!("the table at {table:#x}, also of guest-physical {first:#x}")
                });
            }
            return;
        }
        if self.tally.tables >= self.limit {
            self.tally.beyond_limit += 1;
            return;
        }
        self.seen.insert(visit, gpa);
        let first_time = self.met.insert((table, level));
        if !first_time && parent_fresh {
            self.findings.add(Kind::Aliased, gpa, gpa + span, [3, table, 0], None, || {
                format!("the table at {table:#x}, also of another range with other rights")
            });
        }
        self.tally.tables += 1;
        self.progress.set_message(format!("{} tables", self.tally.tables));
        let Some(entries) = self.read(table) else {
            self.findings.add(Kind::OutsideImage, gpa, gpa + span, [table, 0, 0], None, || {
                format!("the table at {table:#x} is not, or not wholly, in the image")
            });
            return;
        };
        path.push(table);
        // The bar counts what is present on the second level.
        let ept = self.ept;
        let present = |entry: u64| ept.is_present(entry);
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
        let ept = self.ept;
        let entry = at.1;
        let end = gpa + (1 << (12 + 9 * (level - 1)));
        match self.ept.check_entry(level, entry) {
            Some(FailureKind::NotPresent) => {
                self.suspect(at, level, gpa);
                return;
            }
            Some(_) => {
                let wrong = ept.misconfigurations(level, entry).fold(0, |all, (_, bits)| all | bits);
                let page = u64::from(ept.maps_page(level, entry));
                let key = [u64::from(level) << 1 | page, wrong, entry & wrong & epte::MEMORY_TYPE];
                self.findings.add(Kind::Misconfigured, gpa, end, key, Some(at), || {
                    let why = misconfiguration(ept, level, entry).unwrap_or_default();
                    format!("{}: {why}", entry_name(Dimension::Ept, level))
                });
                return;
            }
            None => {}
        }
        let rights = upper & entry;
        let denied = entry & self.rights & !upper;
        if rights & self.rights == 0 {
            let key = [u64::from(level), entry & self.rights, upper & self.rights];
            self.findings.add(Kind::Unreachable, gpa, end, key, Some(at), || {
                let (here, above) = (rights_words(ept, entry), rights_words(ept, upper));
                let name = entry_name(Dimension::Ept, level);
                format!("{name} permits {here}, the entries above permit {above}: together nothing")
            });
            return;
        }
        if denied != 0 {
            self.findings.add(Kind::Unreachable, gpa, end, [u64::from(level), denied, 1 << 63], Some(at), || {
                let name = entry_name(Dimension::Ept, level);
                format!("{name}: {} is permitted here and denied above", rights_words(ept, denied))
            });
        }
        let (Hpa(address), bits) = self.ept.leads_to(level, entry);
        if !self.ept.maps_page(level, entry) {
            self.table(address, level - 1, gpa, rights & self.rights, path, first_time);
            return;
        }
        self.tally.pages += 1;
        let execute = (epte::EXECUTE | epte::EXECUTE_USER) & self.rights;
        if rights & epte::WRITE != 0 && rights & execute != 0 {
            let key = [rights & self.rights, 0, 0];
            self.findings.add(Kind::WritableExecutable, gpa, end, key, Some(at), || rights_words(ept, rights));
        }
        if first_time {
            self.runs.add(gpa, address, 1 << bits);
        }
    }

    /// Remembers an entry that is not present and holds an address of the image, where a table could be.
    fn suspect(&mut self, at: (u64, u64), level: u8, gpa: u64) {
        let (Hpa(table), _) = self.ept.leads_to(level, at.1 & !epte::PAGE);
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
                match self.ept.check_entry(suspect.level, entry) {
                    None => present += 1,
                    Some(FailureKind::NotPresent) => {}
                    Some(_) => wrong = true,
                }
            }
            if present > 0 && !wrong {
                let end = suspect.gpa + (1 << (12 + 9 * suspect.level));
                let table = suspect.table;
                let key = [table, present, 1 << 62];
                self.findings.add(Kind::Unreachable, suspect.gpa, end, key, Some(suspect.entry), || {
                    format!(
                        "the table at {table:#x} (present entries: {present}): only an entry that is not present leads to it"
                    )
                });
            }
        }
    }
}
