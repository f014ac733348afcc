//! What was written, read back: who has said what, in which order, and what is told to be missing.

use std::collections::{BTreeMap, BTreeSet};
use std::fs::{self, File};
use std::io::{Read, Seek, SeekFrom};
use std::ops::Range;
use std::path::{Path, PathBuf};

use serde_json::Value;

use super::writers::Logged;

/// Bytes at the end of a file that is too long to be read again and again.
const TAIL_LEN: u64 = 64 * 1024;

/// Records of the library's own among those that were refused, at most.
const OWN_MAX: u64 = 50;

/// The lines of one or more files that follow each other.
pub(super) struct Book {
    pub(super) lines: Vec<Value>,
}

/// What a process's lines say that is missing between them.
#[derive(Debug, Default, PartialEq, Eq)]
pub(super) struct Missing {
    /// Records that a line says are lost.
    pub(super) told: u64,
    /// Numbers that no record has.
    pub(super) gaps: u64,
    /// Where those two are not the same, by number.
    pub(super) odd: Vec<u64>,
}

impl Book {
    pub(super) fn read(paths: &[PathBuf]) -> Self {
        let texts =
            paths.iter().map(|path| fs::read(path).unwrap_or_else(|error| panic!("{}: {error}", path.display())));
        Self::of(&texts.collect::<Vec<_>>().concat())
    }

    /// The whole lines of a file that is being written, or is not there yet.
    pub(super) fn so_far(path: &Path) -> Self {
        let bytes = fs::read(path).unwrap_or_default();
        let whole = bytes.iter().rposition(|byte| *byte == b'\n').map_or(0, |at| at + 1);
        Self::of(&bytes[..whole])
    }

    /// Every line is an object, and the last one is whole.
    pub(super) fn of(bytes: &[u8]) -> Self {
        let text = std::str::from_utf8(bytes).expect("UTF-8");
        assert!(text.is_empty() || text.ends_with('\n'), "the last line is whole");
        let object = |line| serde_json::from_str(line).unwrap_or_else(|error| panic!("{error}: {line:?}"));
        Self { lines: text.lines().map(object).collect() }
    }

    pub(super) fn messages(&self) -> impl Iterator<Item = &str> {
        self.lines.iter().filter_map(|line| line["message"].as_str())
    }

    /// How many records say exactly this.
    pub(super) fn count(&self, message: &str) -> usize {
        self.messages().filter(|said| *said == message).count()
    }

    /// The numbers of the records of each process, in the order of the file.
    pub(super) fn numbers(&self) -> BTreeMap<u64, Vec<u64>> {
        let mut all: BTreeMap<u64, Vec<u64>> = BTreeMap::new();
        for line in &self.lines {
            let number = line["message"].as_str().and_then(|said| said.strip_prefix("record ")?.split(' ').next());
            if let (Some(number), Some(pid)) = (number, line["pid"].as_u64()) {
                all.entry(pid).or_default().push(number.parse().expect("a number"));
            }
        }
        all
    }

    /// All that was logged is there, each once and in its order, and nothing is said to be lost.
    pub(super) fn assert_complete(&self, logged: &Logged) {
        let numbers = self.numbers();
        for (pid, ranges) in &logged.of {
            let there = numbers.get(pid).map_or(&[][..], Vec::as_slice);
            let wrong = (0..).zip(there).find(|(expected, number)| expected != *number);
            assert_eq!(wrong, None, "process {pid}");
            let end = ranges.iter().map(|range| range.end).max().unwrap_or(0);
            assert!(there.len() as u64 >= end, "process {pid}: {} of {end}", there.len());
        }
        let lost =
            self.lines.iter().filter(|line| line["pid"].as_u64().is_some_and(|pid| logged.of.contains_key(&pid)));
        assert_eq!(lost.map(lost_there).sum::<u64>(), 0, "nothing of theirs is said to be lost");
    }

    /// No record of one process is there twice or before an earlier one.
    pub(super) fn assert_in_order(&self) {
        for (pid, numbers) in self.numbers() {
            let wrong = numbers.windows(2).find(|pair| pair[0] >= pair[1]);
            assert_eq!(wrong, None, "process {pid}");
        }
    }

    /// The last lines of such a file.
    pub(super) fn tail(path: &Path) -> Self {
        let Ok(mut file) = File::open(path) else { return Self::of(b"") };
        let len = file.metadata().map_or(0, |found| found.len());
        let mut bytes = Vec::new();
        let from = file.seek(SeekFrom::Start(len.saturating_sub(TAIL_LEN))).expect("seek");
        file.read_to_end(&mut bytes).expect("read");
        let start = if from == 0 { Some(0) } else { bytes.iter().position(|byte| *byte == b'\n').map(|at| at + 1) };
        let end = bytes.iter().rposition(|byte| *byte == b'\n').map(|at| at + 1);
        Self::of(start.zip(end).map_or(&[], |(start, end)| &bytes[start..end]))
    }

    /// Whether each process has said here the last that it was asked for.
    pub(super) fn has_the_last_of(&self, logged: &Logged) -> bool {
        let numbers = self.numbers();
        let last = |pid: &u64| numbers.get(pid).and_then(|all| all.last());
        logged.of.iter().all(|(pid, ranges)| last(pid) >= ranges.last().map(|range| range.end - 1).as_ref())
    }

    /// Of what was logged, how many are not there.
    pub(super) fn absent(&self, logged: &Logged) -> u64 {
        let numbers = self.numbers();
        let absent = |(pid, ranges): (&u64, &Vec<Range<u64>>)| {
            let there: BTreeSet<u64> = numbers.get(pid).into_iter().flatten().copied().collect();
            // Two requests at once have numbers in common.
            let logged: BTreeSet<u64> = ranges.iter().cloned().flatten().collect();
            logged.difference(&there).count() as u64
        };
        logged.of.iter().map(absent).sum()
    }

    /// What was produced is written or said to be lost.
    pub(super) fn assert_written_and_refused_are(&self, logged: &Logged) {
        let (absent, lost) = (self.absent(logged), self.lost());
        // A worker may have had something to say itself: that its loop stood still.
        let own = lost.checked_sub(absent).unwrap_or_else(|| panic!("{absent} are absent and {lost} said to be lost"));
        assert!(own <= OWN_MAX, "{absent} are absent and {lost} said to be lost");
    }

    /// Records that lines of the processes' own say are lost.
    pub(super) fn lost(&self) -> u64 {
        self.lines.iter().map(lost_there).sum()
    }

    /// What is missing between the records of each process, by the sequence number of all that it has said.
    pub(super) fn missing(&self) -> BTreeMap<u64, Missing> {
        let mut all: BTreeMap<u64, (u64, u64, Missing)> = BTreeMap::new();
        for line in &self.lines {
            let Some(pid) = line["pid"].as_u64() else { continue };
            let (last, told, missing) = all.entry(pid).or_default();
            missing.told += lost_there(line);
            *told += lost_there(line);
            let Some(sequence) = line["sequence"].as_u64() else { continue };
            let gap = sequence.saturating_sub(*last + 1);
            missing.gaps += gap;
            if gap != std::mem::take(told) {
                missing.odd.push(sequence);
            }
            *last = sequence;
        }
        // What nothing follows has no gap that could be seen.
        let ended = |(pid, (_, told, missing)): (u64, (u64, u64, Missing))| {
            (pid, Missing { gaps: missing.gaps + told, ..missing })
        };
        all.into_iter().map(ended).collect()
    }

    /// Each loss has a line in its place, and each such line its loss; how many there were in all.
    pub(super) fn assert_losses_are_told_in_their_place(&self) -> u64 {
        let missing = self.missing();
        for (pid, missing) in &missing {
            assert!(missing.odd.is_empty() && missing.told == missing.gaps, "process {pid}: {missing:?}");
        }
        missing.values().map(|missing| missing.gaps).sum()
    }
}

fn lost_there(line: &Value) -> u64 {
    let fields = line["fields"].as_object().into_iter().flatten();
    let ours = fields.filter(|(key, _)| line["target"] == "forebay" && key.starts_with("lost_"));
    ours.filter_map(|(_, count)| count.as_u64()).sum()
}
