//! What must never happen, checked after every step.
//!
//! The rules keep a ledger of their own, from the events and the actions alone, so that they share
//! no mistake with the supervisor. `acts.rs` judges single actions, `state.rs` what
//! a step leaves.

mod acts;
mod ledger;
mod state;

use std::collections::BTreeMap;
use std::fmt::Display;
use std::time::{Duration, Instant};

use self::ledger::{Life, Phase, Place};
use super::world::World;
use crate::contract::ids::{Birth, Generation, HelperName, Role, Slot};
use crate::contract::orders::HelperOffer;
use crate::master::supervisor::{Event, LOOK_MAX, PAUSE_MIN, Policy};

/// The shortest wait for a place whose occupants die more often than the intensity.
const CRASH_REST: Duration = Duration::from_millis(50);
/// The shortest and the longest wait after a birth that failed.
const REFUSED_REST: Duration = Duration::from_millis(25);
const REFUSED_MAX: Duration = Duration::from_millis(500);
/// From the end of a stop's time to the end of the last process: workers that SIGKILL does not
/// end, then such a zygote, then the log helper's last records and such a log helper.
const STOP_GRACE: Duration = Duration::from_secs(20);

/// A rule that was broken, and how.
#[derive(Debug)]
pub(super) struct Violation {
    pub(super) rule: &'static str,
    pub(super) what: String,
}

pub(super) type Verdict = Result<(), Violation>;

/// `holds`, or else the rule is broken.
pub(super) fn require(holds: bool, rule: &'static str, what: impl Display) -> Verdict {
    if holds { Ok(()) } else { Err(Violation { rule, what: what.to_string() }) }
}

/// What the step under way must or may lead to.
#[derive(Default)]
struct Duty {
    /// Is told who it is, if it is wanted.
    newborn: Option<Birth>,
    /// The start cannot succeed.
    give_up: bool,
    /// Is asked to, or killed if it has not begun to work.
    makes_room: Option<Birth>,
}

pub(super) struct Rules {
    policy: Policy,
    now: Instant,
    phase: Phase,
    generation: Generation,
    wanted: u16,
    /// Once a zygote has said which there are.
    helpers: Vec<HelperOffer>,
    places: BTreeMap<Role, Place>,
    lives: BTreeMap<Birth, Life>,
    last_birth: Birth,
    /// When each pause ended, and how long it was.
    pauses: Vec<(Instant, Duration)>,
    duty: Duty,
}

impl Rules {
    pub(super) fn new(policy: Policy, now: Instant) -> Self {
        let generation = Generation(1);
        let mut rules = Self {
            policy,
            now,
            phase: Phase::Starting,
            generation,
            wanted: 0,
            helpers: Vec::new(),
            places: BTreeMap::from([(Role::Log, Place::new(now)), (Role::Zygote(generation), Place::new(now))]),
            lives: BTreeMap::new(),
            last_birth: Birth(0),
            pauses: Vec::new(),
            duty: Duty::default(),
        };
        rules.scale(policy.workers);
        rules
    }

    pub(super) fn is_over(&self) -> bool {
        self.phase == Phase::Over
    }

    pub(super) fn is_stopping(&self) -> bool {
        matches!(self.phase, Phase::Stopping { .. } | Phase::Over)
    }

    pub(super) fn paused(&mut self, until: Instant, lasts: Duration) {
        match self.pauses.last_mut() {
            // No step was made between the two: they are one.
            Some(last) if last.0 > self.now => *last = (until, last.1 + lasts),
            Some(_) | None => self.pauses.push((until, lasts)),
        }
    }

    /// Every place is filled by one who does its work, and nobody else lives.
    pub(super) fn is_whole(&self) -> bool {
        let works = |life: &Life| life.works() && !life.unwanted;
        self.lives.len() == self.places.len() && self.lives.values().all(works)
    }

    // ---- before the step: the fact --------------------------------------------------------------

    pub(super) fn before(&mut self, event: &Event, now: Instant) {
        self.now = now;
        self.duty = Duty::default();
        match event {
            Event::Born(birth) => {
                if let Some(life) = self.lives.get_mut(birth).filter(|life| life.born.is_none()) {
                    life.born = Some(now);
                    self.duty.newborn = Some(*birth);
                }
            }
            Event::BirthFailed(birth, _) => {
                self.duty.give_up = self.phase == Phase::Starting;
                self.remove(*birth, REFUSED_REST);
            }
            Event::Ready(birth) => self.ready(*birth),
            Event::Loaded(birth, offers) => {
                self.ready(*birth);
                self.adopt(offers);
            }
            Event::Refused(birth, ..) => {
                let zygote = self.lives.get(birth).is_some_and(Life::is_zygote);
                self.duty.give_up = zygote && self.phase == Phase::Starting;
            }
            Event::Broken(birth, _) => {
                if let Some(life) = self.lives.get_mut(birth).filter(|life| life.born.is_some()) {
                    life.broken = true;
                }
            }
            Event::Exited(birth, _) => self.died(*birth),
            Event::Heartbeat(birth, at) => {
                if let Some(life) = self.lives.get_mut(birth) {
                    life.heartbeat = Some(*at);
                }
            }
            Event::Scale(workers) => {
                if !self.is_stopping() {
                    self.scale(*workers);
                }
            }
            Event::Restart(helper) => {
                if !self.is_stopping() {
                    self.restart(*helper);
                }
            }
            Event::Stop => self.told_to_stop(self.policy.timeouts.stop),
            Event::Quit => self.told_to_stop(Duration::ZERO),
            Event::Tick => {}
        }
    }

    fn ready(&mut self, birth: Birth) {
        let expected = |life: &&mut Life| life.begun && !life.is_ending() && life.ready.is_none();
        if let Some(life) = self.lives.get_mut(&birth).filter(expected) {
            life.ready = Some(self.now);
        }
    }

    fn adopt(&mut self, offers: &[HelperOffer]) {
        if self.helpers.is_empty() {
            self.helpers = offers.to_vec();
            for offer in offers {
                self.places.insert(Role::Helper(offer.name, self.generation), Place::new(self.now));
            }
        }
    }

    fn restart(&mut self, name: HelperName) {
        let role = Role::Helper(name, self.generation);
        let now = self.now;
        match self.lives.iter_mut().find(|(_, life)| life.role == role) {
            Some((_, life)) if life.born.is_none() || life.is_ending() => {}
            Some((&birth, life)) => {
                life.makes_room = true;
                self.duty.makes_room = Some(birth);
            }
            None => {
                if let Some(place) = self.places.get_mut(&role) {
                    place.vacate(now, Duration::ZERO);
                    place.at_once = true;
                }
            }
        }
    }

    fn remove(&mut self, birth: Birth, rest: Duration) {
        let Some(life) = self.lives.remove(&birth) else {
            return;
        };
        if let Some(place) = self.places.get_mut(&life.role).filter(|_| life.holds_its_place()) {
            place.vacate(self.now, rest);
            place.at_once = life.makes_room;
        }
    }

    fn died(&mut self, birth: Birth) {
        let (now, restart) = (self.now, self.policy.restart);
        let mut rest = Duration::ZERO;
        if let Some(life) = self.lives.get(&birth).filter(|life| life.holds_its_place() && !life.makes_room)
            && let Some(place) = self.places.get_mut(&life.role)
        {
            place.deaths.push(now);
            place.deaths.retain(|&death| now - death <= restart.period);
            let loops = place.deaths.len() > restart.intensity as usize;
            if loops {
                rest = CRASH_REST.min(restart.backoff_max / 2);
            }
            self.duty.give_up = (loops || life.is_zygote()) && self.phase == Phase::Starting;
        }
        self.remove(birth, rest);
    }

    fn scale(&mut self, workers: u16) {
        let generation = self.generation;
        for slot in self.wanted..workers {
            self.places.insert(Role::Worker(Slot(slot), generation), Place::new(self.now));
        }
        for slot in workers..self.wanted {
            let role = Role::Worker(Slot(slot), generation);
            self.places.remove(&role);
            for life in self.lives.values_mut().filter(|life| life.role == role) {
                life.unwanted = true;
            }
        }
        self.wanted = workers;
    }

    fn told_to_stop(&mut self, within: Duration) {
        match self.phase {
            Phase::Starting | Phase::Serving => self.stop(within, true),
            Phase::Stopping { told, .. } if !self.is_late() => self.stop(Duration::ZERO, told),
            Phase::Stopping { .. } | Phase::Over => {}
        }
    }

    fn stop(&mut self, within: Duration, told: bool) {
        self.scale(0);
        // Nobody waits for a helper that does not work yet.
        for life in self.lives.values_mut().filter(|life| life.is_helper() && life.ready.is_none()) {
            life.unwanted = true;
        }
        self.phase = Phase::Stopping { since: self.now, within, told };
    }

    // ---- what is the case -----------------------------------------------------------------------

    fn holder(&self, role: Role) -> Option<&Life> {
        self.lives.values().find(|life| life.role == role && life.holds_its_place())
    }

    /// Whether all that must work before this place is filled does: at first start a helper comes
    /// after those it asks, and workers after all helpers.
    fn has_whom_it_needs(&self, role: Role) -> bool {
        let works = |name: HelperName| {
            let holder = self.holder(Role::Helper(name, self.generation));
            holder.is_some_and(|life| life.works() && !life.unkillable)
        };
        let needs = |offer: &HelperOffer| match role {
            Role::Log | Role::Zygote(_) => false,
            Role::Helper(name, _) => {
                self.helpers.iter().any(|asks| asks.name == name && asks.asks.contains(&offer.name))
            }
            Role::Worker(..) => true,
        };
        self.phase != Phase::Starting || self.helpers.iter().filter(|offer| needs(offer)).all(|offer| works(offer.name))
    }

    /// Of the helpers that live, the one that starts last.
    fn last_helper(&self) -> Option<&Life> {
        let live = |offer: &HelperOffer| {
            let role = Role::Helper(offer.name, self.generation);
            self.lives.values().find(|life| life.role == role && !life.unkillable)
        };
        self.helpers.iter().rev().find_map(live)
    }

    fn has_free_zygote(&self, generation: Generation) -> bool {
        let idle = |birth| !self.lives.values().any(|life| life.zygote == Some(birth) && life.born.is_none());
        self.lives.iter().any(|(&birth, life)| {
            life.role == Role::Zygote(generation) && life.ready.is_some() && !life.is_ending() && idle(birth)
        })
    }

    /// Whether anyone but the log helper lives who can be ended.
    fn others_live(&self) -> bool {
        self.lives.values().any(|life| life.role != Role::Log && !life.unkillable)
    }

    /// A stop's time is over.
    fn is_late(&self) -> bool {
        match self.phase {
            Phase::Stopping { since, within, .. } => self.has_passed(since, within),
            Phase::Starting | Phase::Serving | Phase::Over => false,
        }
    }

    /// When a stop's time is over, if it is not and nothing disturbs the clocks.
    fn stop_limit(&self) -> Option<Instant> {
        match self.phase {
            Phase::Stopping { since, within, .. } if self.pauses_since(since).0 == 0 => {
                Some(since + within).filter(|&limit| limit > self.now)
            }
            Phase::Starting | Phase::Serving | Phase::Stopping { .. } | Phase::Over => None,
        }
    }

    /// Whether so long a wait is over for certain: time in which nothing ran does not count.
    fn has_passed(&self, since: Instant, wait: Duration) -> bool {
        let (_, paused) = self.pauses_since(since);
        self.now >= since + wait + paused
    }

    /// Whether it may be over: of each pause the master misses the part before it was due, and
    /// short ones it does not notice.
    fn may_have_passed(&self, since: Instant, wait: Duration) -> bool {
        let (count, paused) = self.pauses_since(since);
        self.now + (LOOK_MAX + PAUSE_MIN) * count >= since + wait + paused
    }

    pub(super) fn pauses_since(&self, since: Instant) -> (u32, Duration) {
        let later = self.pauses.iter().filter(|(until, _)| *until > since);
        later.fold((0, Duration::ZERO), |(count, sum), (_, lasts)| (count + 1, sum + *lasts))
    }
}
