//! What is due, what was missed, and when to look next: `(state, now) -> steps`, without a clock.
//!
//! A due time counts once: it is begun or it is missed. What counts as begun is remembered before the
//! run begins, so nothing that happens later has it begin again.

use std::collections::BTreeMap;
use std::time::{Duration, Instant};

use jiff::Timestamp;
use jiff::tz::TimeZone;

use super::when::{COUNT_MAX, Passed, When};

/// The longest sleep: a wall clock that was set is noticed after it.
const SLEEP_MAX: Duration = Duration::from_secs(60);

/// A run on the wall clock that is later than this is missed: the clock was set, or nothing ran here.
const LATE_MAX: Duration = Duration::from_secs(60);

/// A wall clock that goes back by more was wrong before: what it had been then is forgotten. One that
/// goes back by less has nothing run twice.
const BACK_MAX: Duration = Duration::from_secs(24 * 60 * 60);

/// The most runs of one job at a time, if it may overlap.
const OVERLAP_MAX: u32 = 64;

/// Both clocks: cron expressions are about the one, intervals about the other.
#[derive(Clone, Copy, Debug)]
pub(super) struct Moment {
    pub(super) wall: Timestamp,
    pub(super) steady: Instant,
}

/// A job, as far as it is about time.
#[derive(Clone, Debug)]
pub(super) struct Order {
    pub(super) name: &'static str,
    pub(super) when: When,
    pub(super) overlaps: bool,
    pub(super) catches_up: bool,
}

/// What survives the process.
#[derive(Clone, Debug, PartialEq)]
pub(super) struct Memory {
    /// The order it is about: of another one only the last run is still true.
    pub(super) when: String,
    /// Up to here every due time was begun, or missed and told: the last begun one, or the first sight.
    pub(super) since: Timestamp,
    /// When the last run began.
    pub(super) begun: Option<Timestamp>,
    /// How it ended.
    pub(super) outcome: Option<String>,
}

/// What the mechanism does, about the job of this number.
#[derive(Debug, PartialEq)]
pub(super) enum Step {
    Begin(Begin),
    /// So many runs were missed; the last thing that was well was then.
    Missed {
        job: usize,
        count: u64,
        since: Timestamp,
    },
    /// A run is missed because the last one is busy; told once for each that is.
    Busy {
        job: usize,
    },
    /// The last run has not ended with its process.
    Unfinished {
        job: usize,
        begun: Timestamp,
    },
}

/// A run that begins.
#[derive(Debug, PartialEq)]
pub(super) struct Begin {
    pub(super) job: usize,
    pub(super) due: Timestamp,
    /// Since the one before.
    pub(super) missed: u64,
}

/// All jobs.
pub(super) struct Plan {
    local: TimeZone,
    places: Vec<Place>,
}

/// One job, and how it stands.
#[derive(Debug)]
pub(super) struct Place {
    pub(super) order: Order,
    pub(super) memory: Memory,
    pub(super) running: u32,
    pub(super) missed: u64,
    next: Next,
    /// A run that is caught up on.
    owed: Option<Timestamp>,
    is_busy_told: bool,
}

/// The next due time.
#[derive(Clone, Copy, Debug)]
enum Next {
    /// `None`: never. Due times up to `until` have been looked at.
    Wall {
        next: Option<Timestamp>,
        until: Timestamp,
    },
    Steady(Instant),
}

impl Plan {
    /// What these jobs and this memory of them mean now.
    pub(super) fn new(
        orders: Vec<Order>,
        mut known: BTreeMap<String, Memory>,
        local: TimeZone,
        now: Moment,
    ) -> (Self, Vec<Step>) {
        let mut steps = Vec::new();
        let remember = |(job, order): (usize, Order)| {
            let memory = known.remove(order.name);
            Place::new(job, order, memory, &local, now, &mut steps)
        };
        let places = orders.into_iter().enumerate().map(remember).collect();
        (Self { local, places }, steps)
    }

    /// Looks at the clocks.
    pub(super) fn tick(&mut self, now: Moment) -> Vec<Step> {
        let mut steps = Vec::new();
        for (job, place) in self.places.iter_mut().enumerate() {
            place.tick(job, &self.local, now, &mut steps);
        }
        steps
    }

    /// Begins a run that somebody asks for, or says why not.
    pub(super) fn run_now(&mut self, name: &str, now: Moment) -> Result<Begin, String> {
        let Some(job) = self.places.iter().position(|place| place.order.name == name) else {
            let names: Vec<&str> = self.places.iter().map(|place| place.order.name).collect();
            return Err(format!("there is no job {name:?}: {}", names.join(", ")));
        };
        let place = &mut self.places[job];
        if !place.has_room() {
            return Err(format!("job {name} runs, and no more of it may"));
        }
        place.owed = None;
        // The clock may have been set back: what had its run has no second one.
        let since = place.previous(now).max(place.memory.since);
        let begin = place.begin(job, now.wall, now);
        place.memory.since = since;
        Ok(begin)
    }

    /// A run has ended.
    pub(super) fn ended(&mut self, job: usize, outcome: String) {
        let place = &mut self.places[job];
        place.running = place.running.saturating_sub(1);
        place.memory.outcome = Some(outcome);
    }

    /// How long nothing is due.
    pub(super) fn sleep(&self, now: Moment) -> Duration {
        self.places.iter().filter_map(|place| place.due_in(now)).min().unwrap_or(SLEEP_MAX).min(SLEEP_MAX)
    }

    /// What is due next.
    pub(super) fn upcoming(&self, now: Moment) -> Option<(&'static str, Timestamp)> {
        let due = |place: &Place| Some((place.order.name, place.due(now)?));
        self.places.iter().filter_map(due).min_by_key(|(_, due)| *due)
    }

    pub(super) fn places(&self) -> &[Place] {
        &self.places
    }
}

impl Place {
    fn new(
        job: usize,
        order: Order,
        known: Option<Memory>,
        local: &TimeZone,
        now: Moment,
        steps: &mut Vec<Step>,
    ) -> Self {
        let when = order.when.to_string();
        let fresh = Memory { when: when.clone(), since: now.wall, begun: None, outcome: None };
        let mut memory = known.unwrap_or_else(|| fresh.clone());
        if memory.when != when || is_far_ahead(memory.since, now) {
            (memory.when, memory.since) = (when, now.wall);
        }
        if let (Some(begun), None) = (memory.begun, &memory.outcome) {
            memory.outcome = Some("unfinished".to_owned());
            steps.push(Step::Unfinished { job, begun });
        }
        let since = memory.since;
        let (passed, next) = match &order.when {
            When::Cron(expression) => {
                let until = since.max(now.wall);
                let next = Next::Wall { next: expression.after(until, local), until };
                (expression.between(since, now.wall, local), next)
            }
            When::Every(interval) => {
                let away = Duration::try_from(now.wall.duration_since(since)).unwrap_or_default();
                let count = whole(away, *interval);
                let rest = remainder(away, *interval);
                let latest = now.wall - rest;
                let passed = (count > 0).then_some(Passed { count, latest });
                (passed, Next::Steady(now.steady + (*interval - rest)))
            }
        };
        let mut place = Self { order, memory, running: 0, missed: 0, next, owed: None, is_busy_told: false };
        if let Some(passed) = passed {
            place.owed = place.order.catches_up.then_some(passed.latest);
            place.miss(job, passed.count - u64::from(place.order.catches_up), steps);
        }
        place
    }

    fn tick(&mut self, job: usize, local: &TimeZone, now: Moment, steps: &mut Vec<Step>) {
        if let Some(due) = self.owed.take_if(|_| self.running == 0) {
            steps.push(Step::Begin(self.begin(job, due, now)));
        }
        let Some(passed) = self.pass(local, now) else { return };
        let late = match self.next {
            Next::Wall { .. } => now.wall.duration_since(passed.latest).unsigned_abs() > LATE_MAX,
            Next::Steady(_) => false,
        };
        if late && !self.order.catches_up {
            self.miss(job, passed.count, steps);
        } else if self.has_room() {
            self.miss(job, passed.count - 1, steps);
            steps.push(Step::Begin(self.begin(job, passed.latest, now)));
        } else {
            self.missed = self.missed.saturating_add(passed.count);
            if !std::mem::replace(&mut self.is_busy_told, true) {
                steps.push(Step::Busy { job });
            }
        }
    }

    /// Takes the due times that have passed.
    fn pass(&mut self, local: &TimeZone, now: Moment) -> Option<Passed> {
        match (&self.order.when, &mut self.next) {
            (When::Cron(expression), Next::Wall { next, until }) => {
                if is_far_ahead(*until, now) {
                    *until = now.wall;
                    *next = expression.after(now.wall, local);
                    self.memory.since = self.memory.since.min(now.wall);
                }
                if next.is_none_or(|next| next > now.wall) {
                    return None;
                }
                let passed = expression.between(*until, now.wall, local);
                *until = now.wall;
                *next = expression.after(now.wall, local);
                passed
            }
            (When::Every(interval), Next::Steady(next)) => {
                let late = now.steady.checked_duration_since(*next)?;
                let rest = remainder(late, *interval);
                *next = now.steady + (*interval - rest);
                Some(Passed { count: whole(late, *interval) + 1, latest: now.wall - rest })
            }
            (When::Cron(_), Next::Steady(_)) | (When::Every(_), Next::Wall { .. }) => None,
        }
    }

    fn miss(&mut self, job: usize, count: u64, steps: &mut Vec<Step>) {
        self.missed = self.missed.saturating_add(count);
        if count > 0 {
            steps.push(Step::Missed { job, count, since: self.memory.since });
        }
    }

    fn begin(&mut self, job: usize, due: Timestamp, now: Moment) -> Begin {
        self.running += 1;
        self.is_busy_told = false;
        self.memory.since = due;
        self.memory.begun = Some(now.wall);
        self.memory.outcome = None;
        Begin { job, due, missed: std::mem::take(&mut self.missed) }
    }

    fn has_room(&self) -> bool {
        self.running < if self.order.overlaps { OVERLAP_MAX } else { 1 }
    }

    /// The latest due time, where it can be told from the next one: an interval goes on from there.
    fn previous(&self, now: Moment) -> Timestamp {
        match (&self.order.when, self.next) {
            (When::Every(interval), Next::Steady(next)) => {
                now.wall - interval.saturating_sub(next.saturating_duration_since(now.steady))
            }
            (When::Cron(_) | When::Every(_), _) => now.wall,
        }
    }

    /// When it is due next, on the wall clock.
    pub(super) fn due(&self, now: Moment) -> Option<Timestamp> {
        match (self.owed, self.next) {
            (Some(due), _) => Some(due),
            (None, Next::Wall { next, .. }) => next,
            (None, Next::Steady(next)) => Some(now.wall + next.saturating_duration_since(now.steady)),
        }
    }

    fn due_in(&self, now: Moment) -> Option<Duration> {
        match (self.owed, self.next) {
            // It begins when the one that runs has ended, whose end wakes the loop.
            (Some(_), _) if self.running == 0 => Some(Duration::ZERO),
            (_, Next::Wall { next, .. }) => {
                next.map(|next| Duration::try_from(next.duration_since(now.wall)).unwrap_or_default())
            }
            (_, Next::Steady(next)) => Some(next.saturating_duration_since(now.steady)),
        }
    }
}

fn is_far_ahead(time: Timestamp, now: Moment) -> bool {
    Duration::try_from(time.duration_since(now.wall)).is_ok_and(|ahead| ahead > BACK_MAX)
}

/// How often the interval has passed whole, as far as that is counted.
fn whole(time: Duration, interval: Duration) -> u64 {
    u64::try_from(time.as_nanos() / interval.as_nanos()).unwrap_or(u64::MAX).min(COUNT_MAX)
}

fn remainder(time: Duration, interval: Duration) -> Duration {
    let rest = u64::try_from(time.as_nanos() % interval.as_nanos());
    // Ten years of nanoseconds fit.
    Duration::from_nanos(rest.unwrap_or_default())
}

#[cfg(test)]
mod tests;
