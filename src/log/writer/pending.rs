//! What a target has still to write, in memory that outlives the log helper.
//!
//! Bytes have positions, counted since the target was made. New ones are staged, and come into being with
//! the ledger's next commit, together with the records that they were made of being taken.

use std::io;
use std::os::fd::OwnedFd;

use super::ledger::{Ledger, OfTarget, Place};
use crate::sys::memory::HeldBytes;

/// Bytes that wait at most, for each target.
pub(crate) const LEN: usize = 1024 * 1024;

/// From so many on nothing more is taken: one line of any length always has room beyond.
const FULL: usize = LEN / 2;

/// Beside a line of any length there is room for short ones of this process's own.
const SPARE: usize = 64 * 1024;

/// The longest line, or message, in bytes.
pub(super) const LINE_LEN_MAX: usize = LEN - FULL - SPARE;

/// So much can be gone back: there is room for short lines still.
const AGAIN_MAX: u64 = (LEN - SPARE) as u64;

pub(super) struct Pending {
    memory: HeldBytes,
    slot: usize,
    staged: Vec<u8>,
    end: u64,
    done: u64,
}

impl Pending {
    /// What the last log helper has left in this slot.
    pub(super) fn take(memory: OwnedFd, slot: usize, ledger: &Ledger) -> io::Result<Self> {
        let memory = HeldBytes::take(memory)?;
        let read = |word| ledger.read(Place::of_target(slot, word));
        let (end, done) = (read(OfTarget::End), read(OfTarget::Done));
        if memory.bytes().len() != LEN || end.checked_sub(done).is_none_or(|len| len > LEN as u64) {
            return Err(io::Error::other("what a target has to write is damaged"));
        }
        Ok(Self { memory, slot, staged: Vec::new(), end, done })
    }

    /// Whether to come back later with more.
    pub(super) fn is_full(&self) -> bool {
        self.len() + self.staged.len() >= FULL
    }

    pub(super) fn is_empty(&self) -> bool {
        self.end == self.done
    }

    /// Bytes that are to be written.
    pub(super) fn len(&self) -> usize {
        (self.end - self.done) as usize
    }

    /// The position of the first that is not written, and of the end.
    pub(super) fn positions(&self) -> (u64, u64) {
        (self.done, self.end)
    }

    /// Where to add what is next.
    pub(super) fn stage(&mut self) -> &mut Vec<u8> {
        &mut self.staged
    }

    /// What was staged is to be written, once the ledger has committed.
    pub(super) fn settle(&mut self, ledger: &mut Ledger) {
        if self.staged.is_empty() {
            return;
        }
        // There is nothing yet where this is copied to: the commit makes it so.
        let start = self.end as usize % LEN;
        let first = self.staged.len().min(LEN - start);
        let memory = self.memory.bytes_mut();
        memory[start..start + first].copy_from_slice(&self.staged[..first]);
        memory[..self.staged.len() - first].copy_from_slice(&self.staged[first..]);
        self.end += self.staged.len() as u64;
        self.staged.clear();
        ledger.stage(Place::of_target(self.slot, OfTarget::End), self.end);
    }

    /// How many records lie there, if they are lines: of one that has several all but the first begin with a space.
    /// One that is written in part counts.
    pub(super) fn lines(&self) -> u64 {
        let (first, second) = self.pieces();
        let bytes = first.iter().chain(second);
        let mut before = 0;
        let ends = bytes.filter(|&&byte| std::mem::replace(&mut before, byte) == b'\n' && byte != b' ').count();
        (ends + usize::from(before == b'\n')) as u64
    }

    /// All that is to be written, in two pieces where it wraps.
    pub(super) fn pieces(&self) -> (&[u8], &[u8]) {
        let start = self.done as usize % LEN;
        let first = self.len().min(LEN - start);
        let memory = self.memory.bytes();
        (&memory[start..start + first], &memory[..self.len() - first])
    }

    /// Goes back to the first record that begins at this position or behind it, as far as it is still here, or on to
    /// it: from there all is to be written, and nothing of one that was begun before. The next commit makes it so.
    pub(super) fn go_to_a_record(&mut self, position: u64, ledger: &mut Ledger) {
        let from = position.max(self.end.saturating_sub(AGAIN_MAX));
        self.done = (from..self.end).find(|&at| self.is_a_beginning(at)).unwrap_or(self.end);
        ledger.stage(Place::of_target(self.slot, OfTarget::Done), self.done);
    }

    fn is_a_beginning(&self, position: u64) -> bool {
        let byte = |position: u64| self.memory.bytes()[position as usize % LEN];
        position == 0 || byte(position - 1) == b'\n' && byte(position) != b' '
    }

    /// So many bytes of it are written.
    pub(super) fn advance(&mut self, count: usize, ledger: &Ledger) {
        self.done += (count as u64).min(self.end - self.done);
        ledger.write(Place::of_target(self.slot, OfTarget::Done), self.done);
    }

    /// Copies out so many bytes from `offset` on.
    pub(super) fn copy(&self, offset: usize, len: usize, out: &mut Vec<u8>) {
        out.clear();
        let (first, second) = self.pieces();
        let all = first.iter().chain(second);
        out.extend(all.skip(offset).take(len));
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn records_of_several_lines_are_counted_once() {
        let mut ledger = Ledger::create().expect("ledger");
        let mut pending = Pending::take(HeldBytes::make("test", LEN).expect("memory"), 0, &ledger).expect("take");
        assert_eq!(pending.lines(), 0);
        pending.stage().extend_from_slice(b"one\ntwo\n    of two lines\nthree\n");
        pending.settle(&mut ledger);
        for (written, left) in [(1, 3), (3, 2), (10, 2), (11, 1), (6, 0)] {
            pending.advance(written, &ledger);
            assert_eq!(pending.lines(), left, "after {written}");
        }
    }

    #[test]
    fn what_comes_once_more_begins_with_a_line() {
        let mut ledger = Ledger::create().expect("ledger");
        let mut pending = Pending::take(HeldBytes::make("test", LEN).expect("memory"), 0, &ledger).expect("take");
        let line = format!("{}\n", "x".repeat(999));
        for _ in 0..2000 {
            pending.stage().extend_from_slice(line.as_bytes());
            pending.settle(&mut ledger);
            ledger.commit();
            pending.advance(line.len(), &ledger);
        }
        let mut again = |position| {
            pending.go_to_a_record(position, &mut ledger);
            ledger.commit();
            let (first, second) = pending.pieces();
            [first, second].concat()
        };
        assert_eq!(again(1_998_000), line.repeat(2).as_bytes());
        assert_eq!(again(1_998_001), line.as_bytes());
        assert_eq!(
            again(1000),
            line.repeat(AGAIN_MAX as usize / line.len()).as_bytes(),
            "as many whole ones as may be"
        );
        assert_eq!(again(2_000_000), b"");
    }

    #[test]
    fn a_successor_finds_what_was_settled_and_not_what_was_only_staged() {
        let mut ledger = Ledger::create().expect("ledger");
        let memory = HeldBytes::make("test", LEN).expect("memory");
        let take = |ledger: &Ledger| Pending::take(memory.try_clone().expect("dup"), 2, ledger).expect("take");
        let mut pending = take(&ledger);
        let mut position = 0;
        for round in 0..30_u8 {
            let bytes = vec![round; 100_000];
            pending.stage().extend_from_slice(&bytes);
            pending.settle(&mut ledger);
            ledger.commit();
            pending.stage().extend_from_slice(b"lost with the helper");
            drop(pending);
            pending = take(&ledger);
            let (first, second) = pending.pieces();
            assert_eq!([first, second].concat(), bytes, "round {round}");
            position += 100_000;
            pending.advance(100_000, &ledger);
            assert_eq!(pending.positions(), (position, position));
        }
    }
}
