//! Workers that have served for long enough: each is followed by a new one, and then ends.
//!
//! One slot at a time: the successor is made beside the old worker, and when it serves, it has the
//! slot, and the old one finishes its requests. One that fails is tried again as any other process,
//! and the old one serves on meanwhile. During a reload, which replaces all, nobody is followed.

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
}

/// Why a worker has served for long enough.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(crate) enum Wear {
    /// It has answered so many requests.
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
        if self.crew.succession.is_none()
            && let Some((birth, wear)) = self.next_to_follow(now)
            && let Some(role @ Role::Worker(slot, _)) = self.children.get(&birth).map(|child| child.role)
        {
            self.crew.succession = Some(Succession { slot, post: Post::new(now) });
            self.report(Report::Recycling(birth, role, wear));
        }
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
        let Some(Succession { slot, post }) = &self.crew.succession else { return };
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

    /// The oldest of those that are to be followed; none while too many that were are still there.
    fn next_to_follow(&mut self, now: Instant) -> Option<(Birth, Wear)> {
        self.mark_the_aged(now);
        let is_retired = |(birth, child): &(&Birth, &Child)| {
            let works = matches!(child.role, Role::Worker(..)) && child.stage != Stage::Stuck;
            works && !self.is_seated(**birth, child.role)
        };
        if self.children.iter().filter(is_retired).count() >= self.crew.workers.len() {
            return None;
        }
        let seated = self.crew.workers.iter().filter_map(|post| post.occupant);
        let worn = seated.filter_map(|birth| {
            let child = self.children.get(&birth).filter(|child| child.serves())?;
            let wear = child.wear.filter(|_| child.since + WORN_AGE_MIN <= now);
            Some((birth, wear?))
        });
        worn.min_by_key(|&(birth, _)| birth)
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

impl Child {
    /// Whether it works: who is not born has no age yet.
    fn serves(&self) -> bool {
        self.stage == Stage::Serving
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
