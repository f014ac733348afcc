//! A ring of records in memory that a process shares with the log helper.
//!
//! The master makes one for each process (`sys::memory`: sealed, preallocated) and keeps it until all of it
//! is written: it outlives both sides. One process writes, under a lock of its own; the log helper reads.
//!
//! Layout, version 1, in 64-bit words, each an atomic in native order:
//!
//! | word | owner | |
//! |---|---|---|
//! | 0 | master | `fbyring1`, the layout's version in its last letter |
//! | 1 | master | the capacity in words, a power of two |
//! | 8 | producer | words published since the ring was made: the one store that publishes a record |
//! | 9 | producer | records produced, refused ones too |
//! | 10 to 14 | producer | of these the refused ones, by level: error, warn, info, debug, trace |
//! | 15 | producer | how often it has woken the log helper |
//! | 16 | log helper | words taken: for the producer only, the helper's own cursor lies where no producer can write |
//! | 24 | both | whether the helper is to be woken: 0 no, 1 with the next record, 2 when half is full |
//! | 32 | producer | the records, each in whole words (`encoding`) |
//!
//! Every other word up to 32 is zero and reserved. What is written here is the producer's word: the helper
//! copies before it looks, and believes no number that does not fit.

mod consumer;
mod producer;

use std::io;
use std::os::fd::{BorrowedFd, OwnedFd};
use std::sync::atomic::AtomicU64;
use std::sync::atomic::Ordering::{Acquire, Relaxed, Release};

use log::Level;

pub(crate) use self::consumer::{Consumer, Taken};
pub(crate) use self::producer::{Producer, Pushed};
use crate::sys::memory::SharedWords;

const MAGIC: u64 = u64::from_be_bytes(*b"fbyring1");
const WORD_LEN: usize = size_of::<u64>();

const HEADER_WORDS: usize = 32;
const MAGIC_AT: usize = 0;
const CAPACITY_AT: usize = 1;
const HEAD_AT: usize = 8;
const PRODUCED_AT: usize = 9;
const REFUSED_AT: usize = 10;
const WAKES_AT: usize = 15;
const TAIL_AT: usize = 16;
const WAKE_AT: usize = 24;

/// The layout that this release writes and reads.
pub(crate) const VERSION: u32 = 1;

/// Nobody counts so far: at a record a nanosecond it takes two years.
pub(crate) const COUNT_END: u64 = 1 << 56;

/// Levels, of which refusals are counted.
pub(crate) const LEVELS: usize = 5;

const SHARES: usize = 16;
const LOWEST_SHARES: usize = SHARES * 3 / 4;

/// The least capacity, in bytes.
pub(crate) const LEN_MIN: u64 = 64 * 1024;

/// Whether the helper is to be woken.
const AWAKE: u64 = 0;
const ASLEEP: u64 = 1;
const UNTIL_HALF: u64 = 2;

/// The memory of a ring.
#[derive(Debug)]
pub(crate) struct Ring {
    memory: SharedWords,
    capacity: usize,
}

/// How many records a process has produced, and how many of these were refused, by its own word.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct Counts {
    pub(crate) produced: u64,
    pub(crate) refused: [u64; LEVELS],
    pub(crate) wakes: u64,
}

impl Counts {
    /// Whether a process can have counted so, of whose records so many were taken before: only one that writes into
    /// its own ring counts otherwise.
    pub(crate) fn can_be(&self, taken: u64) -> bool {
        let refused = self.refused.iter().try_fold(taken, |sum, count| sum.checked_add(*count));
        self.produced < COUNT_END && refused.is_some_and(|refused| refused <= self.produced)
    }
}

impl Ring {
    /// Makes one of so many bytes, a power of two.
    pub(crate) fn create(len: u64) -> io::Result<Self> {
        let capacity = (usize::try_from(len.max(LEN_MIN)).map_err(io::Error::other)? / WORD_LEN).next_power_of_two();
        let memory = SharedWords::create("log ring", HEADER_WORDS + capacity)?;
        memory.words()[CAPACITY_AT].store(capacity as u64, Relaxed);
        memory.words()[WAKE_AT].store(ASLEEP, Relaxed);
        memory.words()[MAGIC_AT].store(MAGIC, Release);
        Ok(Self { memory, capacity })
    }

    /// Maps one that the master has made.
    pub(crate) fn attach(fd: OwnedFd) -> io::Result<Self> {
        let ring = Self::attach_used(fd)?;
        let fits = ring.header(MAGIC_AT).load(Relaxed) == MAGIC
            && ring.header(CAPACITY_AT).load(Relaxed) == ring.capacity as u64;
        if fits { Ok(ring) } else { Err(not_ours()) }
    }

    /// Maps one of the master's that a process has had: what its header says may be anything by now. How large it
    /// is nobody can change.
    pub(crate) fn attach_used(fd: OwnedFd) -> io::Result<Self> {
        let memory = SharedWords::attach(fd)?;
        let capacity = memory.words().len().saturating_sub(HEADER_WORDS);
        if capacity.is_power_of_two() { Ok(Self { memory, capacity }) } else { Err(not_ours()) }
    }

    pub(crate) fn fd(&self) -> BorrowedFd<'_> {
        self.memory.fd()
    }

    pub(crate) fn counts(&self) -> Counts {
        let count = |at: usize| self.header(at).load(Acquire);
        // In this order: whoever counts a refusal has counted the record before.
        let refused = std::array::from_fn(|level| count(REFUSED_AT + level));
        Counts { refused, produced: count(PRODUCED_AT), wakes: count(WAKES_AT) }
    }

    fn header(&self, at: usize) -> &AtomicU64 {
        &self.memory.words()[at]
    }

    /// The words of so many from `position` on, in two pieces where they wrap.
    fn pieces(&self, position: u64, count: usize) -> (&[AtomicU64], &[AtomicU64]) {
        let data = &self.memory.words()[HEADER_WORDS..];
        let start = position as usize & (self.capacity - 1);
        let first = count.min(self.capacity - start);
        (&data[start..start + first], &data[..count - first])
    }
}

/// The place of a level among the counters.
pub(crate) fn index(level: Level) -> usize {
    level as usize - 1
}

/// Of so much room, what records of this level may use: three quarters are for all, and each higher level
/// has a sixteenth more.
pub(crate) fn share(room: usize, level: Level) -> usize {
    room / SHARES * (LOWEST_SHARES + (LEVELS - 1 - index(level)))
}

fn not_ours() -> io::Error {
    io::Error::other("not a ring of this release's layout")
}

fn words_for(len: usize) -> usize {
    len.div_ceil(WORD_LEN)
}

#[cfg(test)]
mod tests;
