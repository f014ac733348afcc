//! What the log helper has done, in memory that outlives it.
//!
//! The master makes it and gives it to each log helper in turn; nobody else has it. A successor goes on
//! exactly where the last one was killed: what belongs together changes together. New values are listed in
//! a journal, and one store makes the list valid; whoever finds a valid list, itself or its successor,
//! carries it out, which may be done twice.
//!
//! In 64-bit words: the length of the journal, how many records came otherwise than by rings and how many of those
//! were lost by level, the journal as pairs of a word's number and its value, then eight words for each ring
//! and nine for each target. The master reads counts from it, for `status` and at the end.

use std::io;
use std::os::fd::{BorrowedFd, OwnedFd};
use std::sync::atomic::Ordering::{Acquire, Relaxed, Release};

use crate::log::ring::LEVELS;
use crate::sys::memory::SharedWords;

/// Rings at once: more than there are processes.
pub(crate) const RINGS_MAX: usize = 2560;

/// Targets at once: those of two configurations.
pub(crate) const TARGETS_MAX: usize = 16;

/// Words that change together: of each ring all but its number, and of the targets and the head all.
const JOURNAL_MAX: usize = RINGS_MAX * (RING_WORDS - 1) + TARGETS_MAX * TARGET_WORDS + JOURNAL_AT;

/// Words of a ring.
const RING_WORDS: usize = 8;

/// Words of a target.
const TARGET_WORDS: usize = 9;

const JOURNAL_LEN_AT: usize = 0;
const SENT_AT: usize = 1;
const SENT_LOST_AT: usize = 2;
const JOURNAL_AT: usize = 8;
const RINGS_AT: usize = JOURNAL_AT + 2 * JOURNAL_MAX;
const TARGETS_AT: usize = RINGS_AT + RINGS_MAX * RING_WORDS;
const WORDS: usize = TARGETS_AT + TARGETS_MAX * TARGET_WORDS;

/// A word of a ring.
#[derive(Clone, Copy, Debug)]
pub(crate) enum OfRing {
    /// Which one it is: a number that the master never uses again.
    Number = 0,
    /// Words taken of it.
    Cursor = 1,
    /// Records taken of it.
    Taken = 2,
    /// Refused records that were told of, by level from here on.
    Told = 3,
}

/// A word of a target.
#[derive(Clone, Copy, Debug)]
pub(crate) enum OfTarget {
    Number = 0,
    /// Bytes that were ever to be written.
    End = 1,
    /// Of these, the ones that are written; more may be, if it is a file.
    Done = 2,
    /// Of a file: its length minus the bytes written.
    Origin = 3,
    /// Of a file: its number on its device.
    Inode = 4,
    /// Records, and lines of what is missing there, that were written or are to be.
    Given = 5,
    /// Records that it did not take in time.
    Lost = 6,
    /// Of these, the ones that a line there tells of.
    Told = 7,
    /// Of the given ones, those that are to be written.
    Waiting = 8,
}

/// The log helper's own book.
#[derive(Debug)]
pub(crate) struct Ledger {
    words: SharedWords,
    /// What the next commit changes.
    staged: Vec<(usize, u64)>,
}

/// The place of a ring's word, or a target's.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Place(usize);

impl Place {
    /// Records that came over sockets, lines that were printed, and what the log helper says itself.
    pub(crate) const SENT: Self = Self(SENT_AT);

    /// Those of a level that were lost.
    pub(crate) fn sent_lost(level: usize) -> Self {
        assert!(level < LEVELS, "level {level}");
        Self(SENT_LOST_AT + level)
    }

    pub(crate) fn of_ring(slot: usize, word: OfRing) -> Self {
        Self::of_ring_at(slot, word as usize)
    }

    pub(super) fn told(slot: usize, level: usize) -> Self {
        Self::of_ring_at(slot, OfRing::Told as usize + level)
    }

    pub(crate) fn of_target(slot: usize, word: OfTarget) -> Self {
        assert!(slot < TARGETS_MAX, "slot {slot} of {TARGETS_MAX}");
        Self(TARGETS_AT + slot * TARGET_WORDS + word as usize)
    }

    fn of_ring_at(slot: usize, word: usize) -> Self {
        assert!(slot < RINGS_MAX && word < RING_WORDS, "slot {slot} of {RINGS_MAX}");
        Self(RINGS_AT + slot * RING_WORDS + word)
    }
}

impl Ledger {
    pub(crate) fn create() -> io::Result<Self> {
        Ok(Self { words: SharedWords::create("log ledger", WORDS)?, staged: Vec::new() })
    }

    /// The book of the last log helper; what it had begun to write into it is finished.
    pub(crate) fn attach(fd: OwnedFd) -> io::Result<Self> {
        let words = SharedWords::attach(fd)?;
        if words.words().len() != WORDS {
            return Err(io::Error::other("not a ledger"));
        }
        let mut ledger = Self { words, staged: Vec::new() };
        ledger.carry_out()?;
        Ok(ledger)
    }

    pub(crate) fn fd(&self) -> BorrowedFd<'_> {
        self.words.fd()
    }

    pub(crate) fn read(&self, Place(place): Place) -> u64 {
        self.words.words()[place].load(Relaxed)
    }

    /// What a ring's process has refused and was told, by level.
    pub(super) fn told(&self, slot: usize) -> [u64; LEVELS] {
        std::array::from_fn(|level| self.read(Place::told(slot, level)))
    }

    /// Changes one word, which stands for itself.
    pub(super) fn write(&self, Place(place): Place, value: u64) {
        self.words.words()[place].store(value, Release);
    }

    /// Changes it with the next commit.
    pub(super) fn stage(&mut self, Place(place): Place, value: u64) {
        self.staged.push((place, value));
    }

    /// The same, if it is another value.
    pub(super) fn stage_changed(&mut self, place: Place, value: u64) {
        if self.read(place) != value {
            self.stage(place, value);
        }
    }

    /// Everything that was staged has happened.
    pub(super) fn commit(&mut self) {
        if self.staged.is_empty() {
            return;
        }
        assert!(self.staged.len() <= JOURNAL_MAX, "invariant: a commit has room for all who stage");
        let words = self.words.words();
        for (pair, (place, value)) in words[JOURNAL_AT..RINGS_AT].chunks_exact(2).zip(&self.staged) {
            pair[0].store(*place as u64, Relaxed);
            pair[1].store(*value, Relaxed);
        }
        // The one store that makes it valid.
        words[JOURNAL_LEN_AT].store(self.staged.len() as u64, Release);
        self.staged.clear();
        let done = self.carry_out();
        debug_assert!(done.is_ok(), "invariant: places are checked where they are made");
    }

    fn carry_out(&mut self) -> io::Result<()> {
        let wrong = || io::Error::other("the ledger's journal is damaged");
        let words = self.words.words();
        let len = usize::try_from(words[JOURNAL_LEN_AT].load(Acquire)).unwrap_or(usize::MAX);
        let journal = words[JOURNAL_AT..RINGS_AT].get(..len.saturating_mul(2)).ok_or_else(wrong)?;
        for pair in journal.chunks_exact(2) {
            let place = pair[0].load(Relaxed) as usize;
            let is_allowed = place >= RINGS_AT || (SENT_AT..SENT_LOST_AT + LEVELS).contains(&place);
            let word = words.get(place).filter(|_| is_allowed).ok_or_else(wrong)?;
            word.store(pair[1].load(Relaxed), Relaxed);
        }
        // After them: whoever is killed in between leaves them to its successor.
        words[JOURNAL_LEN_AT].store(0, Release);
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn again(ledger: &Ledger) -> io::Result<Ledger> {
        Ledger::attach(ledger.fd().try_clone_to_owned().expect("dup"))
    }

    #[test]
    fn what_is_staged_happens_at_once_or_not_at_all() {
        let (cursor, end) = (Place::of_ring(3, OfRing::Cursor), Place::of_target(1, OfTarget::End));
        let mut ledger = Ledger::create().expect("create");
        ledger.stage(cursor, 7);
        ledger.stage(end, 9);
        assert_eq!((ledger.read(cursor), ledger.read(end)), (0, 0));
        ledger.commit();
        let next = again(&ledger).expect("attach");
        assert_eq!((next.read(cursor), next.read(end)), (7, 9));
        assert_eq!(next.read(Place::of_ring(3, OfRing::Taken)), 0);
    }

    #[test]
    fn a_successor_finishes_what_was_valid() {
        let (Place(cursor), end) = (Place::of_ring(3, OfRing::Cursor), Place::of_target(1, OfTarget::End));
        let ledger = Ledger::create().expect("create");
        let words = ledger.words.words();
        for (at, value) in [cursor as u64, 7, end.0 as u64, 9].into_iter().enumerate() {
            words[JOURNAL_AT + at].store(value, Relaxed);
        }
        assert_eq!(again(&ledger).expect("not valid yet").read(end), 0);
        words[JOURNAL_LEN_AT].store(2, Relaxed);
        let next = again(&ledger).expect("attach");
        assert_eq!((next.read(Place(cursor)), next.read(end), words[JOURNAL_LEN_AT].load(Relaxed)), (7, 9, 0));
    }

    #[test]
    fn a_damaged_journal_is_an_error() {
        for (len, place) in [(1, 0), (1, WORDS as u64), (JOURNAL_MAX as u64 + 1, RINGS_AT as u64), (u64::MAX / 2, 0)] {
            let ledger = Ledger::create().expect("create");
            ledger.words.words()[JOURNAL_AT].store(place, Relaxed);
            ledger.words.words()[JOURNAL_LEN_AT].store(len, Relaxed);
            assert!(again(&ledger).is_err(), "{len} {place}");
        }
    }
}
