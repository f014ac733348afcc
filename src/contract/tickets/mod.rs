//! The keys of session tickets: made by the master, in memory that workers of all generations read.
//!
//! A key seals tickets for [`PERIOD_MS`] and opens them for as long again: a ticket lives for half of its key's time at
//! least (RFC 9325, section 3.4), far below the seven days of RFC 8446, section 4.6.1. Then it is written over, and what
//! it has sealed is nobody's any more. Another daemon, and this one after a restart, has others.
//!
//! Layout, version 1, in 64-bit words, each an atomic in native order: `fbytick1`, the version in its last letter; seven
//! that are zero and reserved; then three slots of eight words (a cache line):
//!
//! | word | |
//! |---|---|
//! | 0 | how often it was begun and finished to be written: odd while it is |
//! | 1 | the key's id, at random |
//! | 2 | when it begins to seal, in milliseconds of CLOCK_MONOTONIC |
//! | 3 to 6 | the key, 256 bits |
//! | 7 | zero, reserved |
//!
//! The slots hold the key before, the one that seals, and the next one, which every worker takes up by the clock: the
//! master writes only the slot of a key that has had its time, with one whose time is to come, and may be late. So a
//! reader never waits: a slot that is being written is one that it does not need.

#[cfg(feature = "tls")]
mod reader;

use std::io;
use std::os::fd::BorrowedFd;
use std::sync::atomic::Ordering::{Relaxed, Release};
use std::sync::atomic::fence;

#[cfg(feature = "tls")]
pub(crate) use self::reader::{Key, KeyReader};
use crate::sys::memory::OwnWords;

/// The layout that this release writes and reads.
pub(crate) const VERSION: u32 = 1;

/// How long a key seals: half a day.
pub(crate) const PERIOD_MS: u64 = 12 * 60 * 60 * 1000;

/// How soon a key is tried again that could not be made.
const RETRY_MS: u64 = 60 * 1000;

const MAGIC: u64 = u64::from_be_bytes(*b"fbytick1");
const HEADER_WORDS: usize = 8;
const SLOTS: usize = 3;
const SLOT_WORDS: usize = 8;
const WORDS: usize = HEADER_WORDS + SLOTS * SLOT_WORDS;

const MAGIC_AT: usize = 0;
const SEQUENCE: usize = 0;
const ID: usize = 1;
const SINCE: usize = 2;
const KEY: usize = 3;
const KEY_WORDS: usize = 4;

/// Fills all of it with random bytes.
type Random = fn(&mut [u8]) -> io::Result<()>;

/// The master's end.
#[derive(Debug)]
pub(crate) struct Keys {
    memory: OwnWords,
    random: Random,
    /// Where the next key is, and when its time comes.
    newest: usize,
    newest_since_ms: u64,
    /// When the one after that is to be made.
    due_ms: u64,
}

impl Keys {
    /// Makes the first key, of which the time has come, and the next one.
    pub(crate) fn create(now_ms: u64, random: Random) -> io::Result<Self> {
        let memory = OwnWords::create("ticket keys", WORDS)?;
        let mut keys = Self { memory, random, newest: 0, newest_since_ms: 0, due_ms: now_ms };
        keys.add(now_ms)?;
        keys.add(now_ms + PERIOD_MS)?;
        keys.due_ms = keys.newest_since_ms;
        keys.memory.words()[MAGIC_AT].store(MAGIC, Release);
        Ok(keys)
    }

    pub(crate) fn fd(&self) -> BorrowedFd<'_> {
        self.memory.fd()
    }

    /// When the keys are to be looked at again.
    pub(crate) fn due_ms(&self) -> u64 {
        self.due_ms
    }

    /// Makes the next key when the time of the one that was that has come; whether it was so.
    pub(crate) fn rotate(&mut self, now_ms: u64) -> io::Result<bool> {
        let before = self.newest;
        while self.due_ms <= now_ms {
            // One whose time has passed while this process did not run begins now.
            let made = self.add((self.newest_since_ms + PERIOD_MS).max(now_ms));
            self.due_ms = if made.is_ok() { self.newest_since_ms } else { now_ms + RETRY_MS };
            made?;
        }
        Ok(self.newest != before)
    }

    /// Writes a key over the oldest one.
    fn add(&mut self, since_ms: u64) -> io::Result<()> {
        let mut made = [0; (1 + KEY_WORDS) * size_of::<u64>()];
        (self.random)(&mut made)?;
        let (made, _) = made.as_chunks();
        let next = (self.newest + 1) % SLOTS;
        let slot = &self.memory.words()[HEADER_WORDS + next * SLOT_WORDS..][..SLOT_WORDS];
        let sequence = slot[SEQUENCE].load(Relaxed);
        slot[SEQUENCE].store(sequence | 1, Relaxed);
        // Before any word is another one: whoever has read such a word sees that it is being written.
        fence(Release);
        slot[SINCE].store(since_ms, Relaxed);
        let words = [&slot[ID]].into_iter().chain(&slot[KEY..KEY + KEY_WORDS]);
        words.zip(made).for_each(|(word, bytes)| word.store(u64::from_ne_bytes(*bytes), Relaxed));
        slot[SEQUENCE].store((sequence | 1) + 1, Release);
        (self.newest, self.newest_since_ms) = (next, since_ms);
        Ok(())
    }
}

#[cfg(all(test, feature = "tls"))]
mod tests {
    use std::cell::Cell;

    use super::*;
    use crate::sys::random;

    const START: u64 = 1_000;

    fn keys() -> (Keys, KeyReader) {
        let keys = Keys::create(START, random::fill).expect("created");
        let reader = reader_of(&keys);
        (keys, reader)
    }

    fn reader_of(keys: &Keys) -> KeyReader {
        KeyReader::attach(&keys.fd().try_clone_to_owned().expect("dup")).expect("attached")
    }

    fn current(reader: &KeyReader, now_ms: u64) -> u64 {
        reader.current(now_ms).expect("a key that seals").id
    }

    #[test]
    fn a_key_seals_for_a_period_and_opens_for_two() {
        let (mut keys, reader) = keys();
        let mut now = START;
        for _ in 0..10 {
            let id = current(&reader, now);
            assert_eq!(current(&reader, now + PERIOD_MS - 1), id, "to the end of its period");
            let next = current(&reader, now + PERIOD_MS);
            assert_ne!(next, id, "the next one is there before its time");
            assert!(reader.find(next, now + PERIOD_MS - 1).is_none(), "and opens nothing before it");
            assert!(!keys.rotate(now + PERIOD_MS - 1).expect("made"));
            now += PERIOD_MS;
            assert!(keys.rotate(now).expect("made"));
            assert_eq!(current(&reader, now), next);
            assert!(reader.find(id, now).is_some() && reader.find(id, now + PERIOD_MS - 1).is_some());
            assert!(reader.find(id, now + PERIOD_MS).is_none(), "after two periods");
        }
    }

    #[test]
    fn a_master_that_is_late_harms_nothing_and_makes_up_for_it() {
        let (mut keys, reader) = keys();
        let (first, second) = (current(&reader, START), current(&reader, START + PERIOD_MS));
        for late in [2 * PERIOD_MS, 3 * PERIOD_MS - 1] {
            assert_eq!(current(&reader, START + late), second, "until its time is over");
        }
        assert!(reader.current(START + 3 * PERIOD_MS).is_none(), "then nothing seals");
        let now = START + 100 * PERIOD_MS + 7;
        assert!(keys.rotate(now).expect("made"));
        assert_eq!(keys.due_ms(), now + PERIOD_MS);
        assert!(![first, second].contains(&current(&reader, now)));
        assert_ne!(current(&reader, now), current(&reader, now + PERIOD_MS));
        assert!([first, second].iter().all(|id| reader.find(*id, now).is_none()));
    }

    #[test]
    fn a_key_that_has_had_its_time_is_written_over() {
        let (mut keys, reader) = keys();
        let old = reader.current(START).expect("a key");
        let memory = |keys: &Keys| keys.memory.words().iter().map(|word| word.load(Relaxed)).collect::<Vec<_>>();
        let (words, _) = old.bytes.as_chunks();
        let words: Vec<u64> = words.iter().map(|bytes| u64::from_ne_bytes(*bytes)).collect();
        let is_there = |keys: &Keys| memory(keys).windows(KEY_WORDS).any(|part| part == words);
        assert!(is_there(&keys));
        keys.rotate(START + PERIOD_MS).expect("made");
        assert!(is_there(&keys), "it opens");
        keys.rotate(START + 2 * PERIOD_MS).expect("made");
        assert!(!is_there(&keys));
    }

    #[test]
    fn a_key_that_is_being_written_is_not_seen() {
        let (keys, reader) = keys();
        let id = current(&reader, START);
        let slot = HEADER_WORDS + ((keys.newest + SLOTS - 1) % SLOTS) * SLOT_WORDS;
        keys.memory.words()[slot + SEQUENCE].fetch_add(1, Relaxed);
        assert!(reader.find(id, START).is_none() && reader.current(START).is_none());
        keys.memory.words()[slot + SEQUENCE].fetch_add(1, Relaxed);
        assert_eq!(current(&reader, START), id);
    }

    /// Each key is one byte over and over, so that one of two keys' parts shows.
    #[test]
    fn a_reader_never_sees_parts_of_two_keys() {
        thread_local! { static BYTE: Cell<u8> = const { Cell::new(0) }; }
        let plain: Random = |bytes| {
            BYTE.set(BYTE.get().wrapping_add(1));
            bytes.fill(BYTE.get());
            Ok(())
        };
        let mut keys = Keys::create(START, plain).expect("created");
        let reader = reader_of(&keys);
        let stop = std::sync::atomic::AtomicBool::new(false);
        std::thread::scope(|scope| {
            let looking = scope.spawn(|| {
                let mut seen = 0_u64;
                while !stop.load(Relaxed) {
                    for key in (0..SLOTS).filter_map(|slot| reader.read(slot)) {
                        let byte = key.bytes[0];
                        assert!(key.bytes.iter().all(|one| *one == byte), "{:?}", key.bytes);
                        assert_eq!(key.id, u64::from_ne_bytes([byte; 8]));
                        seen += 1;
                    }
                }
                seen
            });
            for round in 1..200_000 {
                keys.rotate(START + round * PERIOD_MS).expect("made");
            }
            stop.store(true, Relaxed);
            assert!(looking.join().expect("no torn key") > 0);
        });
    }

    #[test]
    fn keys_that_cannot_be_made_are_tried_again_later() {
        thread_local! { static IS_DRY: Cell<bool> = const { Cell::new(false) }; }
        let random: Random = |bytes| if IS_DRY.get() { Err(io::Error::other("dry")) } else { random::fill(bytes) };
        let mut keys = Keys::create(START, random).expect("created");
        let (reader, now) = (reader_of(&keys), START + PERIOD_MS);
        let second = current(&reader, now);
        IS_DRY.set(true);
        assert!(keys.rotate(now).is_err());
        assert_eq!(keys.due_ms(), now + RETRY_MS);
        assert_eq!(current(&reader, now), second, "what there is stays");
        IS_DRY.set(false);
        assert!(!keys.rotate(now + RETRY_MS - 1).expect("nothing is due"));
        assert!(keys.rotate(now + RETRY_MS).expect("made"));
        assert_eq!(keys.due_ms(), now + PERIOD_MS);
    }

    #[test]
    fn other_memory_is_refused() {
        let other = OwnWords::create("test", WORDS).expect("create");
        assert!(KeyReader::attach(&other.fd().try_clone_to_owned().expect("dup")).is_err());
        let short = OwnWords::create("test", HEADER_WORDS).expect("create");
        short.words()[MAGIC_AT].store(MAGIC, Relaxed);
        assert!(KeyReader::attach(&short.fd().try_clone_to_owned().expect("dup")).is_err());
    }
}
