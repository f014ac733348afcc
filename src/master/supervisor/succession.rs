//! Workers that have served for long enough: each is followed by a new one, and then ends.
//!
//! One slot at a time: the successor is made beside the old worker, and when it serves, it has the
//! slot, and the old one finishes its requests. One that fails is tried again as any other process,
//! for the next slot in turn, and the old ones serve on meanwhile. During a reload, which replaces all,
//! nobody is followed.

use std::fmt;
use std::time::{Duration, Instant};

use super::post::Post;
use super::{Birth, Child, Phase, Report, Role, Slot, Stage, Supervisor, seconds};

/// A worker is followed at this age at the earliest: a limit that makes no sense is no loop of births.
pub(super) const WORN_AGE_MIN: Duration = Duration::from_secs(1);

/// A slot whose next worker is made before the last one ends.
#[derive(Clone, Debug)]
pub(super) struct Succession {
    pub(super) slot: Slot,
    pub(super) post: Post,
    /// How often it had failed when it got to this slot.
    failures: (u64, u32),
}

/// Why a worker has served for long enough.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(crate) enum Wear {
    /// It has taken so many requests.
    Requests(u64),
    /// It uses so many bytes of memory.
    Memory(u64),
    /// It is so old.
    Age(Duration),
}

impl Supervisor {
    /// A worker has served for long enough.
    pub(super) fn worn(&mut self, birth: Birth, wear: Wear) {
        if let Some(child) = self.children.get_mut(&birth).filter(|child| matches!(child.role, Role::Worker(..))) {
            child.wear.get_or_insert(wear);
        }
    }

    /// The next succession begins when the last one is over.
    pub(super) fn follow_the_worn(&mut self, now: Instant) {
        if self.phase != Phase::Serving || self.reloads.run.is_some() {
            // Whoever was to follow has no post any more.
            self.crew.succession = None;
            return;
        }
        let last = match &self.crew.succession {
            // It is under way, or to be tried again for want of another slot.
            Some(succession) if !succession.has_failed() => return,
            Some(succession) => Some(succession.slot),
            None => None,
        };
        let Some((birth, slot, wear)) = self.next_to_follow(last, now) else { return };
        match &mut self.crew.succession {
            Some(succession) => {
                succession.failures = succession.post.failures();
                if succession.slot == slot {
                    return;
                }
                succession.slot = slot;
            }
            None => {
                let post = Post::new(now);
                self.crew.succession = Some(Succession { slot, failures: post.failures(), post });
            }
        }
        self.report(Report::Recycling(birth, Role::Worker(slot, self.crew.generation), wear));
    }

    /// When the next worker will be too old, or old enough to be followed, if that is waited for.
    pub(super) fn next_birthday(&self, now: Instant) -> Option<Instant> {
        let waited_for = self.phase == Phase::Serving && self.reloads.run.is_none();
        let births = self.crew.workers.iter().filter_map(|post| post.occupant).filter(|_| waited_for);
        let working = births.filter_map(|birth| self.children.get(&birth)).filter(|child| child.serves());
        let day = |child: &Child| {
            let age = if child.wear.is_some() { Some(WORN_AGE_MIN) } else { self.crew.policy.age_max };
            Some(child.since + age?)
        };
        working.filter_map(day).filter(|&day| day > now).min()
    }

    /// The successor takes the slot when it serves, or when the old worker has not waited.
    pub(super) fn succeed(&mut self) {
        let Some(Succession { slot, post, .. }) = &self.crew.succession else { return };
        let successor = post.occupant;
        let serves = self.serves(post);
        let Some(seat) = self.crew.workers.get_mut(usize::from(slot.0)) else {
            self.crew.succession = None;
            return;
        };
        match (seat.occupant, successor) {
            (Some(old), Some(successor)) if serves => {
                let child = self.children.get_mut(&old);
                let why = child.and_then(|child| {
                    let why = format!("recycled after {}", child.wear?);
                    child.reason.get_or_insert_with(|| why.clone());
                    Some(why)
                });
                seat.fill(successor);
                seat.restarts += 1;
                seat.last_exit = why.or(seat.last_exit.take());
            }
            (None, Some(successor)) => seat.fill(successor),
            (None, None) => {}
            (Some(_), Some(_) | None) => return,
        }
        self.crew.succession = None;
    }

    /// The next of those that are to be followed, after the slot that a successor has failed for: none at
    /// first while too many that were followed are still there.
    fn next_to_follow(&mut self, last: Option<Slot>, now: Instant) -> Option<(Birth, Slot, Wear)> {
        self.mark_the_aged(now);
        let is_retired = |(birth, child): &(&Birth, &Child)| {
            let works = matches!(child.role, Role::Worker(..)) && child.stage != Stage::Stuck;
            works && !self.is_seated(**birth, child.role)
        };
        if last.is_none() && self.children.iter().filter(is_retired).count() >= self.crew.workers.len() {
            return None;
        }
        let seated = (0..).zip(&self.crew.workers).filter_map(|(slot, post)| Some((Slot(slot), post.occupant?)));
        let worn = seated.filter_map(|(slot, birth)| {
            let child = self.children.get(&birth).filter(|child| child.serves())?;
            let wear = child.wear.filter(|_| child.since + WORN_AGE_MIN <= now);
            Some((birth, slot, wear?))
        });
        match last {
            // In turn: the slots behind the last one, then those before it, then itself.
            Some(last) => worn.min_by_key(|&(_, slot, _)| (slot <= last, slot)),
            None => worn.min_by_key(|&(birth, _, _)| birth),
        }
    }

    fn mark_the_aged(&mut self, now: Instant) {
        let Some(age_max) = self.crew.policy.age_max else { return };
        for birth in self.crew.workers.iter().filter_map(|post| post.occupant) {
            let child = self.children.get_mut(&birth).filter(|child| child.serves());
            if let Some(child) = child.filter(|child| child.since + age_max <= now) {
                child.wear.get_or_insert(Wear::Age(age_max));
            }
        }
    }
}

impl Succession {
    /// Whether a successor has failed that was made for this slot.
    fn has_failed(&self) -> bool {
        self.post.occupant.is_none() && self.post.failures() != self.failures
    }
}

impl fmt::Display for Wear {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Requests(1) => f.write_str("1 request"),
            Self::Requests(count) => write!(f, "{count} requests"),
            Self::Memory(bytes) => write!(f, "growing to {} MiB", bytes >> 20),
            Self::Age(age) => f.write_str(&seconds(*age)),
        }
    }
}
