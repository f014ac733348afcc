//! The scoreboard: what each process says of itself in memory that all see.
//!
//! A header of eight words, then a record of sixteen words (two cache lines) for each process. All
//! words are 64-bit atomics in native order. The stride stands in the header and fields are only
//! ever appended, because releases mix. Each record has one writer; what it says is for display,
//! for balance, and for the hang check of that writer.

use std::io;
use std::os::fd::{BorrowedFd, OwnedFd};
use std::sync::atomic::AtomicU64;
use std::sync::atomic::Ordering::{Acquire, Relaxed, Release};

use super::time::monotonic_ms;
use crate::sys::memory::SharedWords;

const MAGIC: u64 = u64::from_be_bytes(*b"forebay1");
const HEADER_WORDS: usize = 8;
const STRIDE_WORDS: usize = 16;

const HEADER_MAGIC: usize = 0;
const HEADER_STRIDE: usize = 1;
const HEADER_RECORDS: usize = 2;
/// No record from this number on was ever used; 0: the master does not say.
const HEADER_USED: usize = 3;

/// A word of a record.
#[derive(Clone, Copy, Debug)]
enum Field {
    /// Monotonic milliseconds of the owner's last heartbeat.
    Heartbeat = 0,
    Connections = 1,
    Requests = 2,
    /// Milliseconds of the longest turn of the owner's loop.
    LongestTurn = 3,
    /// Of a worker: twice its generation, and one more while it takes connections.
    Serves = 4,
}

/// All records.
#[derive(Debug)]
pub(crate) struct Scoreboard {
    memory: SharedWords,
    stride: usize,
    records: u32,
}

impl Scoreboard {
    pub(crate) fn create(records: u32) -> io::Result<Self> {
        let words = HEADER_WORDS + records as usize * STRIDE_WORDS;
        let memory = SharedWords::create("scoreboard", words)?;
        memory.words()[HEADER_MAGIC].store(MAGIC, Relaxed);
        memory.words()[HEADER_STRIDE].store(STRIDE_WORDS as u64, Relaxed);
        memory.words()[HEADER_RECORDS].store(u64::from(records), Release);
        Ok(Self { memory, stride: STRIDE_WORDS, records })
    }

    /// Maps the master's scoreboard, of this release or another.
    pub(crate) fn attach(fd: OwnedFd) -> io::Result<Self> {
        let memory = SharedWords::attach(fd)?;
        let words = memory.words();
        let wrong = || io::Error::other("not a scoreboard");
        if words.len() < HEADER_WORDS || words[HEADER_MAGIC].load(Relaxed) != MAGIC {
            return Err(wrong());
        }
        let records = u32::try_from(words[HEADER_RECORDS].load(Acquire)).map_err(|_| wrong())?;
        let stride = usize::try_from(words[HEADER_STRIDE].load(Relaxed)).map_err(|_| wrong())?;
        let fits = stride.checked_mul(records as usize).is_some_and(|all| all <= words.len() - HEADER_WORDS);
        if stride < STRIDE_WORDS || !fits {
            return Err(wrong());
        }
        Ok(Self { memory, stride, records })
    }

    pub(crate) fn fd(&self) -> BorrowedFd<'_> {
        self.memory.fd()
    }

    /// Makes a record a new owner's; only the master does.
    pub(crate) fn assign(&self, number: u32) {
        self.record(number).clear();
        self.memory.words()[HEADER_USED].fetch_max(u64::from(number) + 1, Release);
    }

    /// The records of all workers.
    pub(crate) fn workers(&self) -> impl Iterator<Item = Record<'_>> {
        let used = u32::try_from(self.memory.words()[HEADER_USED].load(Acquire)).unwrap_or(u32::MAX);
        let end = if used == 0 { self.records } else { used.min(self.records) };
        (0..end).map(|number| self.record(number)).filter(|record| record.word(Field::Serves).load(Relaxed) != 0)
    }

    /// The record with this number; one that does not exist is the caller's bug.
    pub(crate) fn record(&self, number: u32) -> Record<'_> {
        assert!(number < self.records, "record {number} of {}", self.records);
        let start = HEADER_WORDS + number as usize * self.stride;
        Record { words: &self.memory.words()[start..start + self.stride] }
    }
}

/// One process's words.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Record<'a> {
    words: &'a [AtomicU64],
}

impl Record<'_> {
    fn word(&self, field: Field) -> &AtomicU64 {
        &self.words[field as usize]
    }

    /// When its owner is gone.
    pub(crate) fn clear(&self) {
        self.words.iter().for_each(|word| word.store(0, Relaxed));
    }

    pub(crate) fn beat(&self) {
        self.word(Field::Heartbeat).store(monotonic_ms(), Relaxed);
    }

    /// Monotonic milliseconds of the last heartbeat, 0 before the first.
    pub(crate) fn heartbeat_ms(&self) -> u64 {
        self.word(Field::Heartbeat).load(Relaxed)
    }

    pub(crate) fn connections(&self) -> u64 {
        self.word(Field::Connections).load(Relaxed)
    }

    pub(crate) fn set_connections(&self, open: u64) {
        self.word(Field::Connections).store(open, Relaxed);
    }

    /// Only for a worker: whether it takes connections now.
    pub(crate) fn set_taking(&self, generation: u32, takes: bool) {
        self.word(Field::Serves).store(u64::from(generation) << 1 | u64::from(takes), Relaxed);
    }

    /// Whether this is a worker of that generation that takes connections.
    pub(crate) fn takes_for(&self, generation: u32) -> bool {
        self.word(Field::Serves).load(Relaxed) == u64::from(generation) << 1 | 1
    }

    pub(crate) fn requests(&self) -> u64 {
        self.word(Field::Requests).load(Relaxed)
    }

    pub(crate) fn longest_turn_ms(&self) -> u64 {
        self.word(Field::LongestTurn).load(Relaxed)
    }

    /// Only for the record's owner.
    pub(crate) fn note_turn(&self, ms: u64) {
        if ms > self.longest_turn_ms() {
            self.word(Field::LongestTurn).store(ms, Relaxed);
        }
    }

    /// Returns how many there have been. Only for the record's owner, which has one thread that counts.
    pub(crate) fn count_request(&self) -> u64 {
        let requests = self.word(Field::Requests);
        let count = requests.load(Relaxed) + 1;
        requests.store(count, Relaxed);
        count
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_one_process_writes_another_reads() {
        let ours = Scoreboard::create(3).expect("create");
        ours.record(1).count_request();
        ours.record(1).set_connections(9);
        let theirs = Scoreboard::attach(ours.fd().try_clone_to_owned().expect("dup")).expect("attach");
        assert_eq!((theirs.record(1).requests(), theirs.record(1).connections()), (1, 9));
        assert_eq!((theirs.record(0).requests(), theirs.record(2).connections()), (0, 0));
    }

    #[test]
    fn a_worker_is_found_from_its_word_to_its_end() {
        let board = Scoreboard::create(5).expect("create");
        (0..3).for_each(|number| board.assign(number));
        board.record(1).set_taking(7, true);
        board.record(2).set_taking(7, false);
        board.record(2).set_connections(4);
        let open = || board.workers().map(|record| record.connections()).collect::<Vec<_>>();
        assert_eq!(open(), [0, 4]);
        assert_eq!([1, 2].map(|number| board.record(number).takes_for(7)), [true, false]);
        assert!(!board.record(1).takes_for(6));
        board.record(2).clear();
        assert_eq!(open(), [0]);
    }

    #[test]
    fn a_header_that_does_not_fit_its_memory_is_refused() {
        for (word, value) in
            [(HEADER_MAGIC, 1), (HEADER_STRIDE, 1), (HEADER_RECORDS, u64::MAX), (HEADER_RECORDS, 1 << 31)]
        {
            let board = Scoreboard::create(2).expect("create");
            board.memory.words()[word].store(value, Relaxed);
            assert!(Scoreboard::attach(board.fd().try_clone_to_owned().expect("dup")).is_err(), "word {word}");
        }
    }
}
