//! The world around the supervisor: processes that live, fail and die by chance.
//!
//! It knows what is true; the supervisor knows what it is told. Nothing in here judges.

use std::collections::{BTreeMap, BTreeSet};
use std::time::{Duration, Instant};

use super::character::{Character, Weather};
use super::dice::Dice;
use crate::contract::ids::{Birth, Generation, Role};
use crate::contract::orders::HelperOffer;
use crate::master::supervisor::{Event, Policy};
use crate::settings::Timeouts;

/// What comes of the passing of time.
pub(super) enum Fact {
    Event(Event),
    /// Nothing runs for so long; `frozen`: the children neither.
    Pause {
        lasts: Duration,
        frozen: bool,
    },
}

#[derive(Clone, Debug)]
pub(super) enum Happening {
    /// The zygote has carried out an order.
    Answer {
        zygote: Birth,
        birth: Birth,
    },
    /// A process says this.
    Say(Birth, Event),
    Hang(Birth),
    /// It dies of a fault of its own.
    Doom(Birth),
    /// It dies as it must or should.
    Die(Birth),
    /// The kernel tells of its death.
    Reap(Birth),
    /// Somebody wants something of the master.
    Wish(Event),
    /// From now on so many births in a hundred fail.
    Trouble(u64),
    Pause {
        lasts: Duration,
        frozen: bool,
    },
    /// From now on nothing fails any more.
    Calm,
}

#[derive(Clone, Copy, Debug, PartialEq)]
pub(super) enum State {
    Ordered,
    Alive,
    /// Dead, and not reaped yet.
    Dead,
}

#[derive(Debug)]
pub(super) struct Process {
    pub(super) role: Role,
    /// Who is to fork it.
    pub(super) zygote: Option<Birth>,
    pub(super) state: State,
    pub(super) character: Character,
    /// What it was told when it was made.
    pub(super) timeouts: Timeouts,
    pub(super) made: Instant,
    pub(super) begun: bool,
    pub(super) ready: bool,
    pub(super) hung: Option<Instant>,
    /// The heartbeat that the supervisor was told last.
    pub(super) told: Option<Instant>,
    pub(super) killed: bool,
    pub(super) orders: u32,
}

/// One generation's settings, and its helpers.
#[derive(Clone, Debug)]
pub(super) struct Release {
    pub(super) policy: Policy,
    pub(super) offers: Vec<HelperOffer>,
}

pub(super) struct World {
    pub(super) dice: Dice,
    pub(super) weather: Weather,
    /// What each generation is like.
    pub(super) releases: BTreeMap<Generation, Release>,
    pub(super) serving: Generation,
    queue: BTreeMap<(Instant, u64), Happening>,
    sequence: u64,
    pub(super) processes: BTreeMap<Birth, Process>,
    /// Processes that a zygote made and could not tell of: they wait until their order is forgotten.
    pub(super) secrets: BTreeSet<Birth>,
    pub(super) faults: bool,
    /// Births in a hundred that fail.
    pub(super) trouble: u64,
    /// The first start has succeeded.
    pub(super) served: bool,
    /// Since when nothing fails any more.
    pub(super) calm_since: Option<Instant>,
    /// All loops stood still from the first moment to the second.
    frozen: Option<(Instant, Instant)>,
}

impl World {
    pub(super) fn new(dice: Dice, weather: Weather, first: Release) -> Self {
        Self {
            dice,
            weather,
            releases: BTreeMap::from([(Generation(1), first)]),
            serving: Generation(1),
            queue: BTreeMap::new(),
            sequence: 0,
            processes: BTreeMap::new(),
            secrets: BTreeSet::new(),
            faults: true,
            trouble: 0,
            served: false,
            calm_since: None,
            frozen: None,
        }
    }

    pub(super) fn push(&mut self, at: Instant, happening: Happening) {
        self.sequence += 1;
        self.queue.insert((at, self.sequence), happening);
    }

    /// When something happens next.
    pub(super) fn next(&self) -> Option<Instant> {
        self.queue.keys().next().map(|&(at, _)| at)
    }

    /// The next thing that has happened by now.
    pub(super) fn take(&mut self, now: Instant) -> Option<Vec<Fact>> {
        let entry = self.queue.first_entry()?;
        if entry.key().0 > now {
            return None;
        }
        let happening = entry.remove();
        Some(self.happen(happening, now))
    }

    /// The children stood still from `start` to `now`: what they were about to do comes later.
    pub(super) fn thaw(&mut self, start: Instant, now: Instant) {
        let gap = now - start;
        let queue = std::mem::take(&mut self.queue);
        self.queue = queue.into_iter().map(|((at, number), what)| ((at + gap, number), what)).collect();
        self.frozen = Some((start, now + self.dice.millis(0, 100)));
    }

    /// The heartbeats that are new since the last look.
    pub(super) fn beats(&mut self, now: Instant) -> Vec<Event> {
        let mut beats = Vec::new();
        let births: Vec<Birth> = self.processes.keys().copied().collect();
        for birth in births {
            let Some(at) = self.last_beat(birth, now) else {
                continue;
            };
            let Some(process) = self.processes.get_mut(&birth) else {
                continue;
            };
            if process.told != Some(at) {
                process.told = Some(at);
                beats.push(Event::Heartbeat(birth, at));
            }
        }
        beats
    }

    /// When its loop last turned, if it has one: who boots has none yet.
    fn last_beat(&self, birth: Birth, now: Instant) -> Option<Instant> {
        let process = self.processes.get(&birth)?;
        if process.state != State::Alive || !process.ready || matches!(process.role, Role::Zygote(_)) {
            return None;
        }
        let until = match self.frozen {
            Some((start, end)) if now < end => start.max(process.made),
            Some(_) | None => now,
        };
        let until = process.hung.map_or(until, |hung| hung.min(until));
        let period = process.timeouts.hang / 4;
        let turns = (until - process.made).as_millis() / period.as_millis();
        Some(process.made + period * u32::try_from(turns).expect("a run is short"))
    }

    /// Whether it lives and its loop turns.
    pub(super) fn is_well(&self, birth: Birth) -> bool {
        self.processes.get(&birth).is_some_and(|process| process.state == State::Alive && process.hung.is_none())
    }

    /// Processes that nobody has told to end.
    pub(super) fn left_behind(&self) -> usize {
        self.secrets.len()
    }

    pub(super) fn alive(&mut self, birth: Birth) -> Option<&mut Process> {
        self.processes.get_mut(&birth).filter(|process| process.state == State::Alive)
    }

    pub(super) fn fails(&mut self, chance: u64) -> bool {
        self.faults && self.dice.percent(chance)
    }

    fn happen(&mut self, happening: Happening, now: Instant) -> Vec<Fact> {
        let event = match happening {
            Happening::Answer { zygote, birth } => self.answer(zygote, birth, now),
            Happening::Say(birth, event) => self.say(birth, event),
            Happening::Hang(birth) => {
                let faults = self.faults;
                if let Some(process) = self.alive(birth).filter(|_| faults) {
                    process.hung.get_or_insert(now);
                }
                None
            }
            Happening::Doom(birth) => {
                if self.faults {
                    self.die(birth, now);
                }
                None
            }
            Happening::Die(birth) => {
                self.die(birth, now);
                None
            }
            Happening::Reap(birth) => return self.reap(birth),
            Happening::Wish(event) => Some(event),
            Happening::Trouble(trouble) => {
                self.trouble = if self.faults { trouble } else { 0 };
                None
            }
            Happening::Pause { lasts, frozen } => return vec![Fact::Pause { lasts, frozen }],
            Happening::Calm => {
                self.calm(now);
                None
            }
        };
        event.into_iter().map(Fact::Event).collect()
    }

    fn say(&mut self, birth: Birth, event: Event) -> Option<Event> {
        let faults = self.faults;
        let process = self.alive(birth)?;
        match event {
            Event::Ready(_) | Event::Loaded(..) if process.hung.is_some() => return None,
            Event::Ready(_) | Event::Loaded(..) => process.ready = true,
            Event::Broken(..) if !faults => return None,
            _ => {}
        }
        Some(event)
    }

    /// What a process says when it can do its work.
    pub(super) fn good_news(&self, birth: Birth, role: Role) -> Event {
        match role {
            Role::Zygote(generation) => Event::Loaded(birth, self.releases[&generation].offers.clone()),
            Role::Log | Role::Helper(..) | Role::Worker(..) => Event::Ready(birth),
        }
    }

    /// Whether another process than this does this one's work, or did and is not reaped.
    pub(super) fn has_double(&self, birth: Birth) -> bool {
        let Some(role) = self.processes.get(&birth).map(|process| process.role) else { return false };
        let same = |other: Role| match (role, other) {
            (Role::Helper(one, _), Role::Helper(other, _)) => one == other,
            (one, other) => one == other,
        };
        let double = |(&other, process): (&Birth, &Process)| other != birth && same(process.role) && process.begun;
        self.processes.iter().any(double)
    }

    fn answer(&mut self, zygote: Birth, birth: Birth, now: Instant) -> Option<Event> {
        self.alive(zygote)?;
        if !self.processes.contains_key(&birth) {
            // The master has given this order up; it takes an answer for a lie.
            return Some(Event::Broken(zygote, "an answer that nobody waits for".to_owned()));
        }
        if self.fails(self.trouble) {
            self.processes.remove(&birth);
            return Some(Event::BirthFailed(birth, "too many processes".to_owned()));
        }
        self.make(birth, now);
        Some(Event::Born(birth))
    }

    fn die(&mut self, birth: Birth, now: Instant) {
        let Some(process) = self.alive(birth) else {
            return;
        };
        process.state = State::Dead;
        let unanswered = |process: &Process| process.zygote == Some(birth) && process.state == State::Ordered;
        let lost: Vec<Birth> =
            self.processes.iter().filter(|(_, process)| unanswered(process)).map(|(&lost, _)| lost).collect();
        for order in lost {
            if self.dice.percent(50) {
                self.secrets.insert(order);
            }
        }
        let delay = Duration::from_millis(self.dice.pick(&[0, 0, 1, 3]));
        self.push(now + delay, Happening::Reap(birth));
    }

    fn reap(&mut self, birth: Birth) -> Vec<Fact> {
        let Some(process) = self.processes.remove(&birth) else {
            return Vec::new();
        };
        // What it said before it died comes before its death.
        let last_words = process.begun && !process.ready && self.dice.percent(10);
        let words = last_words.then(|| self.good_news(birth, process.role));
        let death = Event::Exited(birth, "ended".to_owned());
        words.into_iter().chain([death]).map(Fact::Event).collect()
    }

    /// The faults stop, and what could not be killed dies.
    fn calm(&mut self, now: Instant) {
        self.calm_since = Some(now);
        self.faults = false;
        self.trouble = 0;
        let mut dying = Vec::new();
        for (&birth, process) in &mut self.processes {
            process.character.mend(process.orders);
            if process.killed {
                dying.push(birth);
            }
        }
        for birth in dying {
            let delay = self.dice.millis(0, 100);
            self.push(now + delay, Happening::Die(birth));
        }
    }
}
