//! The rings of all processes, read as one.
//!
//! What has come in a turn is taken in the order of its times, whoever has said it. A record counts as
//! taken when the ledger has committed it together with what the targets have made of it.

use std::cmp::Reverse;
use std::collections::{BTreeMap, BinaryHeap};
use std::io;
use std::os::fd::OwnedFd;

use super::ledger::{JOURNAL_MAX, Ledger, OfRing, Place, RECORD_WORDS, TARGETS_MAX};
use super::lines::Lines;
use crate::contract::ids::Role;
use crate::contract::orders::{RingEnd, RingGiven};
use crate::log::encoding::{self, Decoded};
use crate::log::logger::now_us;
use crate::log::loss;
use crate::log::record::{Entry, Fields, Origin};
use crate::log::ring::{Consumer, LEVELS, Ring, Taken};

/// Rings that one commit covers.
const TOUCHED_MAX: usize = 256;

/// They have room in it, each with all its words, and the targets beside them.
const _: () = assert!(TOUCHED_MAX * (2 + LEVELS) + (1 + TARGETS_MAX) * RECORD_WORDS <= JOURNAL_MAX);

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
    is_touched: bool,
}

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
            consumer: Consumer::new(Ring::attach(memory)?, cursor),
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

    /// The process of this ring is gone.
    pub(super) fn end(&mut self, number: u64) {
        if let Some(source) = self.sources.get_mut(&number) {
            source.has_ended = true;
        }
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
        let mut due: BinaryHeap<Reverse<(i64, u64)>> = BinaryHeap::new();
        for (&number, source) in &mut self.sources {
            due.extend(source.load(lines).map(|time| Reverse((time, number))));
        }
        let mut touched = Vec::new();
        while !lines.is_full() && touched.len() < TOUCHED_MAX {
            let Some(Reverse((_, number))) = due.pop() else { break };
            let Some(source) = self.sources.get_mut(&number) else { break };
            if !std::mem::replace(&mut source.is_touched, true) {
                touched.push(number);
            }
            source.pass(lines);
            any = true;
            due.extend(source.load(lines).map(|time| Reverse((time, number))));
        }
        self.commit(&touched, lines);
        any
    }

    fn commit(&mut self, touched: &[u64], lines: &mut Lines) {
        for number in touched {
            if let Some(source) = self.sources.get_mut(number) {
                source.stage(&mut lines.ledger);
                source.is_touched = false;
            }
        }
        lines.commit();
        // After the commit: what is given back is overwritten.
        touched.iter().filter_map(|number| self.sources.get(number)).for_each(Source::release);
    }

    /// Looks again by itself soon.
    pub(super) fn doze(&self) {
        self.sources.values().for_each(|source| source.consumer.doze());
    }

    /// Wants to be woken; false: there is something already.
    pub(super) fn sleep(&self) -> bool {
        self.sources.values().fold(true, |silent, source| source.consumer.sleep() && !source.is_loaded && silent)
    }

    /// What was refused and not followed by a record that says so.
    pub(super) fn tell_of_losses(&mut self, lines: &mut Lines) {
        let mut touched = Vec::new();
        for (&number, source) in self.sources.iter_mut().filter(|(_, source)| !source.has_more()) {
            if lines.is_full() || touched.len() >= TOUCHED_MAX {
                break;
            }
            let refused = source.consumer.counts().refused;
            if source.tell(refused, now_us(), lines) {
                touched.push(number);
            }
        }
        if !touched.is_empty() {
            self.commit(&touched, lines);
        }
    }

    /// Those of the dead of which all is taken: they are not read again.
    pub(super) fn ended(&mut self) -> Vec<RingEnd> {
        let is_told = |source: &Source| source.consumer.counts().refused == source.told;
        let is_over = |source: &Source| source.has_ended && !source.has_more() && is_told(source);
        let over: Vec<u64> =
            self.sources.iter().filter(|(_, source)| is_over(source)).map(|(&number, _)| number).collect();
        let end = |number| Some(RingEnd { number, taken: self.sources.remove(&number)?.taken });
        over.into_iter().filter_map(end).collect()
    }
}

impl Source {
    fn has_more(&self) -> bool {
        self.broken < BROKEN_MAX && (self.is_loaded || self.consumer.has_more())
    }

    /// Copies the next record out, if there is one; its time.
    fn load(&mut self, lines: &mut Lines) -> Option<i64> {
        while !self.is_loaded && self.broken < BROKEN_MAX {
            match self.consumer.take(&mut self.buffer) {
                Taken::Nothing => return None,
                Taken::Broken(why) => self.complain(why, lines),
                Taken::Record => match encoding::decode(&self.buffer) {
                    Some(_) => self.is_loaded = true,
                    None => self.complain("a record is none", lines),
                },
            }
        }
        let time = self.buffer.get(8..16)?.first_chunk()?;
        self.is_loaded.then(|| i64::from_le_bytes(*time))
    }

    fn complain(&mut self, why: &str, lines: &mut Lines) {
        self.broken += 1;
        self.cursor = self.consumer.cursor();
        let what = if self.broken < BROKEN_MAX { "skipped" } else { "skipped, and nothing more is read there" };
        let who = if self.origin.name.is_empty() { "the master" } else { &self.origin.name };
        let message = format!("the log's ring of {who} is damaged: {why}: {what}");
        lines.add(&Origin::default(), &loss::entry(&message, now_us()));
    }

    /// Gives the loaded record to all who want it.
    fn pass(&mut self, lines: &mut Lines) {
        let buffer = std::mem::take(&mut self.buffer);
        if let Some(Decoded { entry, refused }) = encoding::decode(&buffer) {
            if let Some(refused) = refused {
                self.tell(refused, entry.time_us, lines);
            }
            lines.add(&self.origin, &entry);
            self.taken += 1;
        }
        self.buffer = buffer;
        self.is_loaded = false;
        self.cursor = self.consumer.cursor();
    }

    /// Says in its place that records are missing.
    fn tell(&mut self, refused: [u64; LEVELS], time_us: i64, lines: &mut Lines) -> bool {
        // A hostile process may count backwards.
        let lost: [u64; LEVELS] = std::array::from_fn(|level| refused[level].saturating_sub(self.told[level]));
        self.is_told |= self.told != refused;
        self.told = refused;
        if lost == [0; LEVELS] {
            return self.is_told;
        }
        let fields = loss::fields(lost);
        let fields = Fields::read(&fields).unwrap_or_default();
        lines.add(&self.origin, &Entry { fields, ..loss::entry(&loss::message(lost), time_us) });
        true
    }

    fn stage(&mut self, ledger: &mut Ledger) {
        ledger.stage(Place::of_ring(self.slot, OfRing::Cursor), self.cursor);
        ledger.stage(Place::of_ring(self.slot, OfRing::Taken), self.taken);
        if std::mem::take(&mut self.is_told) {
            self.told.iter().enumerate().for_each(|(level, count)| ledger.stage(Place::told(self.slot, level), *count));
        }
    }

    fn release(&self) {
        self.consumer.release(self.cursor);
    }
}
