//! The side that logs.
//!
//! Never waits. What does not fit is refused and counted, lower levels first, and the next record that
//! fits says so in its place.

use std::sync::atomic::AtomicU64;
use std::sync::atomic::Ordering::{Acquire, Relaxed, Release, SeqCst};

use log::Level;

use super::{
    ASLEEP, AWAKE, HEAD_AT, LEVELS, PRODUCED_AT, REFUSED_AT, Ring, TAIL_AT, UNTIL_HALF, WAKE_AT, WAKES_AT, WORD_LEN,
    index, share, words_for,
};
use crate::log::encoding::{self, HEADER_LEN};

/// The longest record is this part of the ring.
const RECORD_SHARE: usize = 4;

/// The only one that writes to a ring.
#[derive(Debug)]
pub(crate) struct Producer {
    ring: Ring,
    head: u64,
    /// The last tail that was read: there is at least so much room.
    tail: u64,
    produced: u64,
    refused: [u64; LEVELS],
    /// Whether some were refused since the last record that fitted.
    is_lossy: bool,
}

/// What became of a record.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Pushed {
    /// It is published.
    Published,
    /// It is published, and the log helper is to be woken.
    Wake,
    Refused,
}

impl Producer {
    /// Whoever gets a ring is its first and only writer.
    pub(crate) fn new(ring: Ring) -> Self {
        Self { ring, head: 0, tail: 0, produced: 0, refused: [0; LEVELS], is_lossy: false }
    }

    /// The longest encoded record, in bytes.
    pub(crate) fn record_len_max(&self) -> usize {
        self.ring.capacity * WORD_LEN / RECORD_SHARE - LEVELS * WORD_LEN
    }

    /// Publishes an encoded record, which gets its number here.
    pub(crate) fn push(&mut self, level: Level, record: &mut [u8]) -> Pushed {
        self.produced += 1;
        self.ring.header(PRODUCED_AT).store(self.produced, Relaxed);
        let losses = if self.is_lossy { LEVELS } else { 0 };
        let count = words_for(record.len()) + losses;
        if !self.has_room(level, count) {
            self.refused[index(level)] += 1;
            self.is_lossy = true;
            // Behind the count of all: whoever reads this one and then that finds that they fit.
            self.ring.header(REFUSED_AT + index(level)).store(self.refused[index(level)], Release);
            return Pushed::Refused;
        }
        encoding::finish(record, self.produced, self.is_lossy);
        let (head, rest) = record.split_at(HEADER_LEN);
        let mut at = self.copy(self.head, head);
        if self.is_lossy {
            at = self.copy(at, self.refused.map(u64::to_le_bytes).as_flattened());
            self.is_lossy = false;
        }
        self.head = self.copy(at, rest);
        // Published, and before the look at who sleeps: the helper says that it sleeps, then looks for records.
        // One of the two sees the other. A swap is what costs least.
        self.ring.header(HEAD_AT).swap(self.head, SeqCst);
        if self.is_to_wake() { Pushed::Wake } else { Pushed::Published }
    }

    /// What is published and not taken, for whoever must print it when nobody takes it any more.
    pub(crate) fn untaken(&self) -> (u64, u64) {
        (self.ring.header(TAIL_AT).load(Acquire), self.head)
    }

    pub(crate) fn ring(&self) -> &Ring {
        &self.ring
    }

    fn has_room(&mut self, level: Level, count: usize) -> bool {
        let limit = share(self.ring.capacity, level) as u64;
        limit.checked_sub(count as u64).is_some_and(|others| !self.is_used_beyond(others))
    }

    /// Whether more than so many words are not taken yet; the helper's word is asked for only if it matters.
    fn is_used_beyond(&mut self, limit: u64) -> bool {
        if self.used() > limit {
            let tail = self.ring.header(TAIL_AT).load(Acquire);
            // A number that cannot be leaves everything as it was.
            if self.head.wrapping_sub(tail) <= self.ring.capacity as u64 {
                self.tail = tail;
            }
        }
        self.used() > limit
    }

    fn used(&self) -> u64 {
        self.head - self.tail
    }

    /// Copies bytes to this place, in whole words; returns the place after them.
    fn copy(&self, position: u64, bytes: &[u8]) -> u64 {
        let count = words_for(bytes.len());
        let (first, second) = self.ring.pieces(position, count);
        let (near, far) = bytes.split_at(bytes.len().min(first.len() * WORD_LEN));
        store(first, near);
        store(second, far);
        position + count as u64
    }

    /// Whether the helper sleeps and nobody has woken it yet.
    fn is_to_wake(&mut self) -> bool {
        let is_due = match self.ring.header(WAKE_AT).load(SeqCst) {
            ASLEEP => true,
            UNTIL_HALF => self.is_used_beyond(self.ring.capacity as u64 / 2),
            _ => false,
        };
        if !is_due || self.ring.header(WAKE_AT).swap(AWAKE, SeqCst) == AWAKE {
            return false;
        }
        let wakes = self.ring.header(WAKES_AT);
        wakes.store(wakes.load(Relaxed) + 1, Relaxed);
        true
    }
}

/// Stores bytes as words; the last one is filled up with zeros.
fn store(words: &[AtomicU64], bytes: &[u8]) {
    let (whole, rest) = bytes.as_chunks::<WORD_LEN>();
    for (word, bytes) in words.iter().zip(whole) {
        word.store(u64::from_le_bytes(*bytes), Relaxed);
    }
    if let Some(word) = words.get(whole.len()) {
        // Not by way of memory: what was written as bytes is slow to be read as a word.
        word.store(rest.iter().rev().fold(0, |word, byte| word << u8::BITS | u64::from(*byte)), Relaxed);
    }
}
