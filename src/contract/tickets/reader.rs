//! A worker's end of the ticket keys: it reads, and waits for nobody.

use std::io;
use std::os::fd::OwnedFd;
use std::sync::atomic::Ordering::Acquire;
use std::sync::atomic::fence;

use super::{HEADER_WORDS, ID, KEY, KEY_WORDS, MAGIC, MAGIC_AT, PERIOD_MS, SEQUENCE, SINCE, SLOT_WORDS, SLOTS, WORDS};
use crate::sys::memory::ReadWords;

/// A worker's end.
#[derive(Debug)]
pub(crate) struct KeyReader {
    memory: ReadWords,
}

/// A key whose time has come and is not over.
pub(crate) struct Key {
    pub(crate) id: u64,
    pub(crate) bytes: [u8; KEY_WORDS * size_of::<u64>()],
    since_ms: u64,
}

impl KeyReader {
    /// Maps what the master has made.
    pub(crate) fn attach(fd: &OwnedFd) -> io::Result<Self> {
        let memory = ReadWords::attach(fd)?;
        let fits = memory.len() >= WORDS && memory.load(MAGIC_AT) == MAGIC;
        if fits { Ok(Self { memory }) } else { Err(io::Error::other("not the ticket keys of this release's layout")) }
    }

    /// The key that seals.
    pub(crate) fn current(&self, now_ms: u64) -> Option<Key> {
        self.valid(now_ms).max_by_key(|key| key.since_ms)
    }

    /// The key of this id, which may open.
    pub(crate) fn find(&self, id: u64, now_ms: u64) -> Option<Key> {
        self.valid(now_ms).find(|key| key.id == id)
    }

    fn valid(&self, now_ms: u64) -> impl Iterator<Item = Key> {
        let is_valid = move |key: &Key| key.since_ms <= now_ms && now_ms - key.since_ms < 2 * PERIOD_MS;
        (0..SLOTS).filter_map(|slot| self.read(slot)).filter(is_valid)
    }

    /// The key there, whole; `None`: there is none, or it is being written.
    pub(super) fn read(&self, slot: usize) -> Option<Key> {
        let word = |at: usize| self.memory.load(HEADER_WORDS + slot * SLOT_WORDS + at);
        let before = word(SEQUENCE);
        // What is read below was written before that, or the second look sees that it was not.
        fence(Acquire);
        let (id, since_ms) = (word(ID), word(SINCE));
        let mut bytes = [0; KEY_WORDS * size_of::<u64>()];
        let (places, _) = bytes.as_chunks_mut();
        places.iter_mut().zip(KEY..).for_each(|(place, at)| *place = word(at).to_ne_bytes());
        fence(Acquire);
        let is_whole = before != 0 && before % 2 == 0 && word(SEQUENCE) == before;
        is_whole.then_some(Key { id, bytes, since_ms })
    }
}
