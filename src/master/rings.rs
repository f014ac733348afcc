//! The memory that processes log into: made here, given to one process each, kept until the log helper has
//! taken all that is in it.

use std::collections::{BTreeMap, BTreeSet};
use std::io;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};

use nix::sys::eventfd::{EfdFlags, EventFd};

use crate::contract::ids::{Birth, Role};
use crate::contract::orders::{RingEnd, RingGiven};
use crate::log::ring::{LEVELS, Ring};
use crate::log::writer::ledger::{Ledger, OfRing, Place, RINGS_MAX};

/// The master's own ring. Others have numbers above it, from their births.
const OWN: u64 = 1;
const FIRST_OF_BIRTHS: u64 = 2;

pub(super) struct Rings {
    held: BTreeMap<u64, Held>,
    ledger: Ledger,
    bell: OwnedFd,
    /// Of those that are taken to the end.
    past: Sums,
}

struct Held {
    given: RingGiven,
    ring: Ring,
    /// Its process is gone; whether it was killed.
    ended: Option<bool>,
}

/// How many records there were, by the producers' own word and by the log helper's.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) struct Sums {
    pub(super) produced: u64,
    pub(super) refused: [u64; LEVELS],
    pub(super) taken: u64,
}

impl Sums {
    fn add(&mut self, other: Self) {
        self.produced = self.produced.saturating_add(other.produced);
        self.taken = self.taken.saturating_add(other.taken);
        for (sum, more) in self.refused.iter_mut().zip(other.refused) {
            *sum = sum.saturating_add(more);
        }
    }

    /// Produced, but neither taken nor refused.
    fn missing(&self) -> i128 {
        let refused: i128 = self.refused.iter().map(|count| i128::from(*count)).sum();
        i128::from(self.produced) - i128::from(self.taken) - refused
    }
}

impl Rings {
    pub(super) fn new() -> io::Result<Self> {
        let bell = EventFd::from_flags(EfdFlags::EFD_CLOEXEC | EfdFlags::EFD_NONBLOCK)?;
        Ok(Self { held: BTreeMap::new(), ledger: Ledger::create()?, bell: bell.into(), past: Sums::default() })
    }

    /// What each process wakes the log helper by.
    pub(super) fn bell(&self) -> BorrowedFd<'_> {
        self.bell.as_fd()
    }

    /// The log helpers' book.
    pub(super) fn ledger(&self) -> &Ledger {
        &self.ledger
    }

    /// The master's own, with the bell.
    pub(super) fn make_own(&mut self, len: u64) -> io::Result<(Ring, OwnedFd)> {
        let pid = std::process::id().cast_signed();
        self.make(OWN, None, pid, len)?;
        let memory = self.held[&OWN].ring.fd().try_clone_to_owned()?;
        Ok((Ring::attach(memory)?, self.bell.try_clone()?))
    }

    /// One for a process; its memory goes to that and to the log helper.
    pub(super) fn make_for(&mut self, birth: Birth, role: Role, pid: i32, len: u64) -> io::Result<RingGiven> {
        self.make(birth.0 + FIRST_OF_BIRTHS, Some(role), pid, len)
    }

    fn make(&mut self, number: u64, role: Option<Role>, pid: i32, len: u64) -> io::Result<RingGiven> {
        let taken: BTreeSet<usize> = self.held.values().map(|held| held.given.slot).collect();
        let slot = (0..RINGS_MAX)
            .find(|slot| !taken.contains(slot))
            .ok_or_else(|| io::Error::other("there are too many rings"))?;
        let given = RingGiven { number, slot, role, pid };
        self.held.insert(number, Held { given, ring: Ring::create(len)?, ended: None });
        Ok(given)
    }

    /// The memory of a ring.
    pub(super) fn memory(&self, number: u64) -> Option<BorrowedFd<'_>> {
        self.held.get(&number).map(|held| held.ring.fd())
    }

    /// All of them, for a log helper that is new.
    pub(super) fn all(&self) -> Vec<RingGiven> {
        self.held.values().map(|held| held.given).collect()
    }

    /// Those whose processes are gone.
    pub(super) fn ended(&self) -> Vec<u64> {
        self.held.iter().filter(|(_, held)| held.ended.is_some()).map(|(&number, _)| number).collect()
    }

    /// This process is gone; the number of its ring, if it had one.
    pub(super) fn end(&mut self, birth: Birth, is_killed: bool) -> Option<u64> {
        let number = birth.0 + FIRST_OF_BIRTHS;
        self.held.get_mut(&number)?.ended = Some(is_killed);
        Some(number)
    }

    /// The log helper has taken all of a ring; what does not add up.
    pub(super) fn taken(&mut self, RingEnd { number, taken }: RingEnd) -> Option<String> {
        if self.held.get(&number)?.ended.is_none() {
            return Some(format!("the log helper gives up the ring {number}, which is in use"));
        }
        let held = self.held.remove(&number)?;
        let sums = held.sums_said(taken);
        self.past.add(held.sums(taken));
        // One that was killed while it logged has counted a record that it did not publish.
        let may_miss = i128::from(held.ended == Some(true));
        let adds_up = (0..=may_miss).contains(&sums.missing());
        let who = held.given.role.map_or_else(|| "the master".to_owned(), |role| role.to_string());
        (!adds_up).then(|| {
            let Sums { produced, taken, refused } = sums;
            let refused = refused.iter().fold(0_u64, |sum, count| sum.saturating_add(*count));
            format!("the log of {who} does not add up: {produced} records, {taken} taken, {refused} refused")
        })
    }

    /// So far, over all processes, those that send over the socket or print too: what is on its way there is not
    /// counted.
    pub(super) fn sums(&self) -> Sums {
        let taken = self.ledger.read(Place::SENT);
        let refused: [u64; LEVELS] = std::array::from_fn(|level| self.ledger.read(Place::sent_lost(level)));
        let produced = refused.iter().fold(taken, |sum, lost| sum.saturating_add(*lost));
        let mut all = Sums { produced, refused, taken };
        all.add(self.past);
        for held in self.held.values() {
            all.add(held.sums(self.ledger.read(Place::of_ring(held.given.slot, OfRing::Taken))));
        }
        all
    }

    /// What the master itself has said and nobody took, at the very end.
    pub(super) fn own_missing(&self) -> i128 {
        self.held
            .get(&OWN)
            .map_or(0, |own| own.sums(self.ledger.read(Place::of_ring(own.given.slot, OfRing::Taken))).missing())
    }

    /// The same of all others whose rings were not taken to the end.
    pub(super) fn others_missing(&self) -> u64 {
        let missing = |held: &Held| {
            let taken = self.ledger.read(Place::of_ring(held.given.slot, OfRing::Taken));
            // One that was killed may have counted a record that it did not publish.
            u64::try_from(held.sums(taken).missing() - 1).unwrap_or(0)
        };
        self.held
            .iter()
            .filter(|(number, _)| **number != OWN)
            .fold(0, |sum, (_, held)| sum.saturating_add(missing(held)))
    }
}

impl Held {
    /// What of its counts can be; of others none are believed.
    fn sums(&self, taken: u64) -> Sums {
        match self.ring.counts() {
            counts if counts.can_be(taken) => Sums { produced: counts.produced, refused: counts.refused, taken },
            _ => Sums { produced: taken, refused: [0; LEVELS], taken },
        }
    }

    /// As they stand there.
    fn sums_said(&self, taken: u64) -> Sums {
        let counts = self.ring.counts();
        Sums { produced: counts.produced, refused: counts.refused, taken }
    }
}

#[cfg(test)]
mod tests {
    use log::Level;

    use super::*;
    use crate::contract::ids::{Generation, Slot};
    use crate::log::encoding::encode_entry;
    use crate::log::loss;
    use crate::log::ring::Producer;

    #[test]
    fn what_is_produced_is_taken_or_refused() {
        let mut rings = Rings::new().expect("rings");
        let role = Role::Worker(Slot(0), Generation(1));
        let given = rings.make_for(Birth(3), role, 42, 64 * 1024).expect("ring");
        let memory = rings.memory(given.number).expect("memory").try_clone_to_owned().expect("dup");
        let mut producer = Producer::new(Ring::attach(memory).expect("attach"));
        let mut out = Vec::new();
        for _ in 0..5 {
            encode_entry(&loss::entry("x", 1), 1000, &mut out);
            producer.push(Level::Info, &mut out);
        }
        assert_eq!(rings.sums(), Sums { produced: 5, ..Sums::default() });
        let end = |taken| RingEnd { number: given.number, taken };
        assert!(rings.taken(end(5)).expect("it lives").contains("in use"));
        assert_eq!(rings.end(Birth(3), true), Some(given.number));
        assert_eq!(rings.ended(), [given.number]);
        assert_eq!(rings.taken(end(4)), None, "one may be missing of a process that was killed");
        assert_eq!((rings.sums().taken, rings.all().len()), (4, 0));
        let given = rings.make_for(Birth(4), role, 42, 64 * 1024).expect("ring");
        rings.end(Birth(4), false);
        let odd = rings.taken(RingEnd { number: given.number, taken: 1 }).expect("one too many");
        assert!(odd.starts_with("the log of worker 0 generation 1 does not add up: 0 records, 1 taken"), "{odd}");
        assert_eq!(rings.sums(), Sums { produced: 6, refused: [0; LEVELS], taken: 5 }, "one of the first was missing");
    }
}
