//! What has been found, in ranges? Neighbours that say the same become one, and memory stays bounded.

use serde::Serialize;

/// Ranges of one kind that are kept; the others are counted.
const KEPT: usize = 10_000;

/// What can be wrong with a range of guest-physical addresses.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize)]
#[serde(rename_all = "snake_case")]
pub(super) enum Kind {
    /// A value that is not supported: an access is an EPT misconfiguration.
    Misconfigured,
    /// What an entry points to or permits and no access gets.
    Unreachable,
    /// Guest software can write code there.
    WritableExecutable,
    /// The host-physical memory is also mapped elsewhere.
    Aliased,
    /// A table that is its own ancestor.
    Loop,
    /// A table that is not in the image.
    OutsideImage,
}

impl Kind {
    pub(super) const ALL: [Self; 6] = [
        Self::Misconfigured,
        Self::Unreachable,
        Self::WritableExecutable,
        Self::Aliased,
        Self::Loop,
        Self::OutsideImage,
    ];

    /// The word at the start of a line.
    pub(super) const fn words(self) -> &'static str {
        match self {
            Self::Misconfigured => "misconfigured",
            Self::Unreachable => "unreachable",
            Self::WritableExecutable => "writable-and-executable",
            Self::Aliased => "aliased",
            Self::Loop => "loop",
            Self::OutsideImage => "outside-image",
        }
    }
}

/// What a range says, as numbers: ranges of a kind say the same if these are equal. Words are made only of what is kept.
pub(super) type Key = [u64; 3];

/// One range, guest-physical `[start, end)`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Finding {
    pub(super) kind: Kind,
    pub(super) start: u64,
    pub(super) end: u64,
    pub(super) why: String,
    key: Key,
    /// Where the first entry stands, and what it holds.
    pub(super) first: Option<(u64, u64)>,
    pub(super) entries: u64,
}

/// All findings of one kind.
#[derive(Default)]
struct OfKind {
    ranges: Vec<Finding>,
    dropped: u64,
    /// The end of the last range that was dropped, and what it said: its neighbours are not counted again.
    last_dropped: Option<(u64, Key)>,
}

/// Findings by kind, in the order of [`Kind::ALL`].
#[derive(Default)]
pub(super) struct Findings {
    kinds: [OfKind; Kind::ALL.len()],
}

impl Findings {
    /// Adds a range; it joins the last one of its kind if it continues it and says the same.
    pub(super) fn add(
        &mut self,
        kind: Kind,
        start: u64,
        end: u64,
        key: Key,
        entry: Option<(u64, u64)>,
        why: impl FnOnce() -> String,
    ) {
        let of_kind = &mut self.kinds[kind as usize];
        if let Some(last) = of_kind.last_dropped {
            of_kind.dropped += u64::from(last != (start, key));
            of_kind.last_dropped = Some((end, key));
            return;
        }
        if let Some(last) = of_kind.ranges.last_mut() {
            if last.end == start && last.key == key {
                last.end = end;
                last.entries += 1;
                return;
            }
        }
        if of_kind.ranges.len() == KEPT {
            of_kind.dropped = 1;
            of_kind.last_dropped = Some((end, key));
            return;
        }
        of_kind.ranges.push(Finding { kind, start, end, why: why(), key, first: entry, entries: 1 });
    }

    pub(super) fn is_empty(&self) -> bool {
        self.kinds.iter().all(|of_kind| of_kind.ranges.is_empty())
    }

    /// All that are kept, kind by kind.
    pub(super) fn all(&self) -> impl Iterator<Item = &Finding> {
        self.kinds.iter().flat_map(|of_kind| &of_kind.ranges)
    }

    /// How many ranges of a kind were found, and how many of them are not kept.
    pub(super) fn count(&self, kind: Kind) -> (u64, u64) {
        let of_kind = &self.kinds[kind as usize];
        (of_kind.ranges.len() as u64 + of_kind.dropped, of_kind.dropped)
    }
}

/// Guest-physical addresses from `gpa` on lead to host-physical ones from `hpa` on.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Run {
    hpa: u64,
    gpa: u64,
    bytes: u64,
}

/// Mappings, for the search for aliases: neighbours are one run.
#[derive(Default)]
pub(super) struct Runs {
    runs: Vec<Run>,
    pub(super) dropped: u64,
}

impl Runs {
    /// Runs that are kept: 96 MBytes.
    const KEPT: usize = 1 << 22;

    pub(super) fn add(&mut self, gpa: u64, hpa: u64, bytes: u64) {
        if let Some(last) = self.runs.last_mut() {
            if last.gpa + last.bytes == gpa && last.hpa + last.bytes == hpa {
                last.bytes += bytes;
                return;
            }
        }
        if self.runs.len() < Self::KEPT {
            self.runs.push(Run { hpa, gpa, bytes });
        } else {
            self.dropped += 1;
        }
    }

    /// Names each range whose memory an earlier range (by host-physical address) has too.
    ///
    /// Of several earlier ones it names the one that reaches farthest, so that each range that shares memory is named at least once.
    pub(super) fn aliases(mut self, findings: &mut Findings) {
        self.runs.sort_unstable_by_key(|run| (run.hpa, run.gpa));
        let mut farthest: Option<Run> = None;
        for run in self.runs {
            let Some(earlier) = farthest else {
                farthest = Some(run);
                continue;
            };
            let overlap = (earlier.hpa + earlier.bytes).min(run.hpa + run.bytes).saturating_sub(run.hpa);
            if overlap > 0 {
                let other = earlier.gpa + (run.hpa - earlier.hpa);
                findings.add(Kind::Aliased, run.gpa, run.gpa + overlap, [1, run.hpa, other], None, || {
                    format!("host-physical {:#x}, also at guest-physical {other:#x}", run.hpa)
                });
            }
            if run.hpa + run.bytes > earlier.hpa + earlier.bytes {
                farthest = Some(run);
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn neighbours_that_say_the_same_are_one_range() {
        let mut findings = Findings::default();
        for (start, key) in [(0, [0; 3]), (1, [0; 3]), (2, [1; 3]), (4, [1; 3])] {
            findings.add(Kind::Misconfigured, start, start + 1, key, None, String::new);
        }
        let ranges: Vec<_> = findings.all().map(|finding| (finding.start, finding.end, finding.entries)).collect();
        assert_eq!(ranges, [(0, 2, 2), (2, 3, 1), (4, 5, 1)]);
    }

    #[test]
    fn what_is_not_kept_is_counted() {
        let mut findings = Findings::default();
        for start in 0..KEPT as u64 + 5 {
            findings.add(Kind::Loop, 2 * start, 2 * start + 1, [0; 3], None, String::new);
        }
        assert_eq!(findings.count(Kind::Loop), (KEPT as u64 + 5, 5));
    }

    #[test]
    fn overlapping_runs_are_aliases() {
        let mut runs = Runs::default();
        runs.add(0, 0x10_0000, 0x1000);
        runs.add(0x1000, 0x10_1000, 0x1000);
        runs.add(0x8000, 0x10_1000, 0x1000);
        runs.add(0x9000, 0x20_0000, 0x1000);
        let mut findings = Findings::default();
        runs.aliases(&mut findings);
        let found: Vec<_> = findings.all().map(|finding| (finding.start, finding.end, finding.why.as_str())).collect();
        assert_eq!(found, [(0x8000, 0x9000, "host-physical 0x101000, also at guest-physical 0x1000")]);
    }
}
