//! The side of the log helper. Everything that it reads is input.

use std::sync::atomic::Ordering::{Acquire, Relaxed, Release, SeqCst};
use std::sync::atomic::fence;

use super::{ASLEEP, Counts, HEAD_AT, Ring, TAIL_AT, UNTIL_HALF, WAKE_AT, WORD_LEN, words_for};
use crate::log::encoding;

/// The only one that reads a ring.
#[derive(Debug)]
pub(crate) struct Consumer {
    ring: Ring,
    /// Words taken. The one in the ring is for the producer, who may write there too.
    cursor: u64,
    /// What was published when it was looked at last.
    head: u64,
}

/// What a look at the ring has brought.
#[derive(Debug, PartialEq, Eq)]
pub(crate) enum Taken {
    /// A record's bytes are in the buffer.
    Record,
    /// All of it is taken.
    Nothing,
    /// Its numbers do not fit each other: all that was published is skipped.
    Broken(&'static str),
}

impl Consumer {
    /// Reads on from `cursor`.
    pub(crate) fn new(ring: Ring, cursor: u64) -> Self {
        Self { ring, cursor, head: cursor }
    }

    pub(crate) fn cursor(&self) -> u64 {
        self.cursor
    }

    pub(crate) fn counts(&self) -> Counts {
        self.ring.counts()
    }

    /// Bytes behind the last record that are known to be published.
    pub(crate) fn behind(&self) -> usize {
        self.head.wrapping_sub(self.cursor) as usize * WORD_LEN
    }

    /// Whether something is published that was not taken.
    pub(crate) fn has_more(&self) -> bool {
        self.ring.header(HEAD_AT).load(Acquire) != self.cursor
    }

    /// Copies the next record out.
    pub(crate) fn take(&mut self, buffer: &mut Vec<u8>) -> Taken {
        if self.head == self.cursor {
            self.head = self.ring.header(HEAD_AT).load(Acquire);
        }
        let published = self.head.wrapping_sub(self.cursor);
        if published == 0 {
            return Taken::Nothing;
        }
        if published > self.ring.capacity as u64 {
            return self.skip("it has more in it than it can hold");
        }
        let (first, _) = self.ring.pieces(self.cursor, 1);
        let len = encoding::len(first[0].load(Relaxed).to_le_bytes());
        let count = words_for(len);
        if len < encoding::HEADER_LEN || count as u64 > published {
            return self.skip("a record's length goes beyond what is there");
        }
        self.copy(count, buffer);
        buffer.truncate(len);
        self.cursor += count as u64;
        Taken::Record
    }

    fn skip(&mut self, why: &'static str) -> Taken {
        self.cursor = self.head;
        Taken::Broken(why)
    }

    fn copy(&self, count: usize, buffer: &mut Vec<u8>) {
        let (first, second) = self.ring.pieces(self.cursor, count);
        // Not cleared first: what is there is overwritten.
        buffer.resize(count * WORD_LEN, 0);
        let (chunks, _) = buffer.as_chunks_mut::<WORD_LEN>();
        for (chunk, word) in chunks.iter_mut().zip(first.iter().chain(second)) {
            *chunk = word.load(Relaxed).to_le_bytes();
        }
    }

    /// Gives the room up to there back to the producer, once what was in it is safe.
    pub(crate) fn release(&self, cursor: u64) {
        self.ring.header(TAIL_AT).store(cursor, Release);
    }

    /// Wants to be woken with the next record; false: there is one.
    pub(crate) fn sleep(&self) -> bool {
        self.want(ASLEEP);
        !self.has_more()
    }

    /// Looks again by itself soon, and wants to be woken before that only when half of it is full.
    pub(crate) fn doze(&self) {
        self.want(UNTIL_HALF);
    }

    fn want(&self, wake: u64) {
        self.ring.header(WAKE_AT).store(wake, Relaxed);
        // The other half of the producer's.
        fence(SeqCst);
    }
}
