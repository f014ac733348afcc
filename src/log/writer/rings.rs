//! The rings of all processes, read as one.
//!
//! What has come in a turn is taken in the order of its times, whoever has said it. A record counts as
//! taken when the ledger has committed it together with what the targets have made of it.

use std::cmp::Ordering;
use std::collections::binary_heap::PeekMut;
use std::collections::{BTreeMap, BinaryHeap};
use std::io;
use std::os::fd::OwnedFd;

use super::ledger::{Ledger, OfRing, Place};
use super::lines::Lines;
use crate::contract::ids::Role;
use crate::contract::orders::{RECALLED_LEN_MAX, RECALLED_MAX, RingEnd, RingGiven};
use crate::log::encoding::{self, Decoded};
use crate::log::logger::now_us;
use crate::log::loss;
use crate::log::record::Origin;
use crate::log::ring::{Consumer, Counts, LEVELS, Ring, Taken};

/// A record with so many bytes of others behind it is not among the last lines of its process. To take note
/// of every one costs as much as to write it.
const REMEMBERED_LEN: usize = 2 * RECALLED_MAX * RECALLED_LEN_MAX;

/// A process that has broken its ring so often is not listened to any longer.
const BROKEN_MAX: u32 = 10;

#[derive(Default)]
pub(super) struct Rings {
    sources: BTreeMap<u64, Source>,
}

struct Source {
    slot: usize,
    origin: Origin,
    consumer: Consumer,
    /// The next record, if `is_loaded`.
    buffer: Vec<u8>,
    is_loaded: bool,
    /// How far the ring is taken, without what is loaded.
    cursor: u64,
    taken: u64,
    /// How many refused records were told of, by level.
    told: [u64; LEVELS],
    /// Whether that has changed since the last commit.
    is_told: bool,
    broken: u32,
    /// Its process is gone: nothing follows what is in it.
    has_ended: bool,
    /// Whether the next commit is about it too.
    is_touched: bool,
}

/// One with a loaded record; the first is the one whose record is the oldest.
struct Due<'a> {
    time_us: i64,
    source: &'a mut Source,
}

impl Ord for Due<'_> {
    fn cmp(&self, other: &Self) -> Ordering {
        let key = |due: &Self| (due.time_us, due.source.slot);
        key(other).cmp(&key(self))
    }
}

impl PartialOrd for Due<'_> {
    fn partial_cmp(&self, other: &Self) -> Option<Ordering> {
        Some(self.cmp(other))
    }
}

impl PartialEq for Due<'_> {
    fn eq(&self, other: &Self) -> bool {
        self.cmp(other).is_eq()
    }
}

impl Eq for Due<'_> {}

impl Rings {
    /// Takes a ring over, from where the last log helper has left it.
    pub(super) fn add(&mut self, given: RingGiven, memory: OwnedFd, ledger: &mut Ledger) -> io::Result<()> {
        let RingGiven { number, slot, role, pid } = given;
        let place = |word| Place::of_ring(slot, word);
        if ledger.read(place(OfRing::Number)) != number {
            for word in [OfRing::Cursor, OfRing::Taken] {
                ledger.stage(place(word), 0);
            }
            (0..LEVELS).for_each(|level| ledger.stage(Place::told(slot, level), 0));
            ledger.stage(place(OfRing::Number), number);
            ledger.commit();
        }
        let cursor = ledger.read(place(OfRing::Cursor));
        let source = Source {
            slot,
            origin: role.map_or_else(|| Origin { pid, ..Origin::default() }, |role: Role| Origin::of(role, pid)),
            consumer: Consumer::new(Ring::attach_used(memory)?, cursor),
            buffer: Vec::new(),
            is_loaded: false,
            cursor,
            taken: ledger.read(place(OfRing::Taken)),
            told: ledger.told(slot),
            is_told: false,
            broken: 0,
            has_ended: false,
            is_touched: false,
        };
        self.sources.insert(number, source);
        Ok(())
    }

    /// The process of this ring is gone; its name.
    pub(super) fn end(&mut self, number: u64) -> Option<&str> {
        let source = self.sources.get_mut(&number)?;
        source.has_ended = true;
        Some(&source.origin.name)
    }

    /// Whether one of them is of a process that is gone.
    pub(super) fn has_ended(&self) -> bool {
        self.sources.values().any(|source| source.has_ended)
    }

    /// Whether nothing is left in any of them.
    pub(super) fn is_empty(&self) -> bool {
        self.sources.values().all(|source| !source.has_more())
    }

    /// Takes what is there, until the targets take no more; whether there was something.
    pub(super) fn read(&mut self, lines: &mut Lines) -> bool {
        let mut any = false;
        let due =
            self.sources.values_mut().filter_map(|source| source.load(lines).map(|time_us| Due { time_us, source }));
        let mut due: BinaryHeap<Due<'_>> = due.collect();
        while !lines.is_full() {
            let Some(mut first) = due.peek_mut() else { break };
            any = true;
            first.source.pass(lines);
            match first.source.load(lines) {
                Some(time_us) => first.time_us = time_us,
                None => drop(PeekMut::pop(first)),
            }
        }
        drop(due);
        self.commit(lines);
        any
    }

    fn commit(&mut self, lines: &mut Lines) {
        for source in self.sources.values_mut().filter(|source| source.is_touched) {
            source.stage(&mut lines.ledger);
        }
        lines.commit();
        // After the commit: what is given back is overwritten.
        for source in self.sources.values_mut().filter(|source| source.is_touched) {
            source.release();
        }
    }

    /// Looks again by itself soon.
    pub(super) fn doze(&self) {
        self.sources.values().for_each(|source| source.consumer.doze());
    }

    /// Wants to be woken; false: there is something already.
    pub(super) fn sleep(&self) -> bool {
        let mut heard = self.sources.values().filter(|source| !source.is_given_up());
        heard.all(|source| source.consumer.sleep() && !source.is_loaded)
    }

    /// What was refused and not followed by a record that says so.
    pub(super) fn tell_of_losses(&mut self, lines: &mut Lines) {
        let mut any = false;
        let is_silent = |source: &Source| !source.is_given_up() && !source.has_more();
        for source in self.sources.values_mut().filter(|source| is_silent(source)) {
            if lines.is_full() {
                break;
            }
            let refused = source.consumer.counts().refused;
            any |= source.tell(refused, now_us(), lines);
        }
        if any {
            self.commit(lines);
        }
    }

    /// Those of the dead of which all is taken: they are not read again.
    pub(super) fn ended(&mut self) -> Vec<RingEnd> {
        let is_told = |source: &Source| source.consumer.counts().refused == source.told;
        let is_taken = |source: &Source| source.is_given_up() || !source.has_more() && is_told(source);
        let is_over = |source: &Source| source.has_ended && is_taken(source);
        let over: Vec<u64> =
            self.sources.iter().filter(|(_, source)| is_over(source)).map(|(&number, _)| number).collect();
        let end = |number| Some(RingEnd { number, taken: self.sources.remove(&number)?.taken });
        over.into_iter().filter_map(end).collect()
    }
}

impl Source {
    /// Whether nothing that it says is believed any more.
    fn is_given_up(&self) -> bool {
        self.broken >= BROKEN_MAX
    }

    fn has_more(&self) -> bool {
        !self.is_given_up() && (self.is_loaded || self.consumer.has_more())
    }

    /// Copies the next record out, if there is one; its time.
    fn load(&mut self, lines: &mut Lines) -> Option<i64> {
        while !self.is_loaded && !self.is_given_up() {
            match self.consumer.take(&mut self.buffer) {
                Taken::Nothing => return None,
                Taken::Broken(why) => self.complain(why, lines),
                Taken::Record => self.is_loaded = true,
            }
        }
        self.is_loaded.then(|| encoding::time_us(&self.buffer))
    }

    fn complain(&mut self, why: &str, lines: &mut Lines) {
        self.broken += 1;
        // A successor shall not complain of it again.
        (self.cursor, self.is_touched) = (self.consumer.cursor(), true);
        let what = if self.is_given_up() { "skipped, and nothing more is read there" } else { "skipped" };
        let who = if self.origin.name.is_empty() { "the master" } else { &self.origin.name };
        let message = format!("the log's ring of {who} is damaged: {why}: {what}");
        lines.warn(&message);
    }

    /// Gives the loaded record to all who want it.
    fn pass(&mut self, lines: &mut Lines) {
        let buffer = std::mem::take(&mut self.buffer);
        match encoding::decode(&buffer) {
            Some(Decoded { entry, refused }) => {
                if let Some(refused) = refused {
                    self.tell(refused, entry.time_us, lines);
                }
                if self.consumer.behind() > REMEMBERED_LEN {
                    lines.add_unremembered(&self.origin, &entry);
                } else {
                    lines.add(&self.origin, &entry);
                }
                self.taken += 1;
            }
            None => self.complain("a record is none", lines),
        }
        self.buffer = buffer;
        (self.is_loaded, self.is_touched) = (false, true);
        self.cursor = self.consumer.cursor();
    }

    /// Says in its place that records are missing.
    fn tell(&mut self, refused: [u64; LEVELS], time_us: i64, lines: &mut Lines) -> bool {
        // A hostile process may count backwards.
        let lost: [u64; LEVELS] = std::array::from_fn(|level| refused[level].saturating_sub(self.told[level]));
        let counts = Counts { refused, ..self.consumer.counts() };
        if self.told != refused && !counts.can_be(self.taken) {
            self.told = refused;
            (self.is_told, self.is_touched) = (true, true);
            self.complain("it counts what cannot be", lines);
            return true;
        }
        self.is_told |= self.told != refused;
        self.is_touched |= self.is_told;
        self.told = refused;
        if lost == [0; LEVELS] {
            return self.is_told;
        }
        loss::tell(lost, time_us, |entry| lines.add(&self.origin, entry));
        true
    }

    fn stage(&mut self, ledger: &mut Ledger) {
        ledger.stage(Place::of_ring(self.slot, OfRing::Cursor), self.cursor);
        ledger.stage(Place::of_ring(self.slot, OfRing::Taken), self.taken);
        if std::mem::take(&mut self.is_told) {
            self.told.iter().enumerate().for_each(|(level, count)| ledger.stage(Place::told(self.slot, level), *count));
        }
    }

    fn release(&mut self) {
        self.is_touched = false;
        self.consumer.release(self.cursor);
    }
}
