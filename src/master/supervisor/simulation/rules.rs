//! What must never happen, checked after every step.
//!
//! The rules keep a ledger of their own, from the events and the actions alone, so that they share
//! no mistake with the supervisor. `acts.rs` judges single actions, `trial.rs` a reload, `state.rs`
//! what a step leaves.

mod acts;
mod facts;
mod ledger;
mod state;
mod succession;
mod trial;

use std::collections::{BTreeMap, BTreeSet};
use std::fmt::Display;
use std::time::{Duration, Instant};

use self::ledger::{Life, Phase, Place, Seat, seat};
use self::succession::Succession;
use self::trial::Trial;
use super::world::World;
use crate::contract::ids::{Birth, Generation, HelperName, ReloadNumber, Role, Slot};
use crate::contract::orders::HelperOffer;
use crate::master::supervisor::{LOOK_MAX, PAUSE_MIN, Policy};

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
    /// Somebody has asked for a reload.
    promise: bool,
    /// The reload cannot succeed.
    roll_back: bool,
    /// A third generation has loaded.
    waits: bool,
}

/// A generation.
struct Side {
    generation: Generation,
    policy: Policy,
    /// Once a zygote has said which there are.
    helpers: Vec<HelperOffer>,
    workers: u16,
}

pub(super) struct Rules {
    now: Instant,
    phase: Phase,
    serving: Side,
    /// The longest of all generations so far: a place may rest still when another one serves.
    backoff_max: Duration,
    trial: Option<Trial>,
    succession: Option<Succession>,
    /// Results that somebody waits for.
    promised: BTreeSet<ReloadNumber>,
    begun: ReloadNumber,
    /// How many reloads have ended, and when and how the last one has.
    pub(super) reloads: u32,
    pub(super) last_reload: Option<(Instant, bool)>,
    /// Start orders of generations that do not serve any more.
    past: BTreeMap<Generation, Vec<HelperOffer>>,
    places: BTreeMap<Seat, Place>,
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
            now,
            phase: Phase::Starting,
            serving: Side { generation, policy, helpers: Vec::new(), workers: 0 },
            backoff_max: policy.restart.backoff_max,
            trial: None,
            succession: None,
            promised: BTreeSet::new(),
            begun: ReloadNumber(0),
            reloads: 0,
            last_reload: None,
            past: BTreeMap::new(),
            places: BTreeMap::from([
                (Role::Log, Place::new(None, now)),
                (Role::Zygote(generation), Place::new(Some(generation), now)),
            ]),
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

    pub(super) fn is_reloading(&self) -> bool {
        self.trial.is_some()
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

    // ---- what is the case -----------------------------------------------------------------------

    fn holder(&self, seat: Seat) -> Option<&Life> {
        self.lives.values().find(|life| life.seat() == seat && life.holds_its_place())
    }

    /// Whether a process of this helper lives, or may, whatever its generation.
    fn lives_somewhere(&self, name: HelperName) -> bool {
        self.lives.values().any(|life| life.is_named(name))
    }

    fn is_new(&self, life: &Life) -> bool {
        self.trial.as_ref().is_some_and(|trial| Some(trial.generation) == life.home && !trial.is_rolling_back())
    }

    /// Who is left of neither the serving generation nor the one on trial.
    fn is_oldest(&self, life: &Life) -> bool {
        let trial = self.trial.as_ref().map(|trial| trial.generation);
        life.home.is_some_and(|home| home != self.serving.generation && Some(home) != trial)
    }

    /// Whether all that must work before this place is filled does: at first a helper comes after
    /// those it asks, and workers after all helpers.
    fn has_whom_it_needs(&self, role: Role) -> bool {
        let trial = self.trial.as_ref().filter(|trial| role.generation() == Some(trial.generation));
        if trial.is_none() && self.phase != Phase::Starting {
            return true;
        }
        let helpers = match trial {
            Some(trial) if self.lives.values().any(|life| self.is_oldest(life) && !life.unkillable) => {
                // Whom the serving generation has goes over later.
                return matches!(role, Role::Helper(name, _) if !trial.is_only_new(name));
            }
            Some(trial) => trial.only_new(),
            None => self.serving.helpers.iter().collect(),
        };
        let works = |name: HelperName| {
            let holder = self.holder(seat(Role::Helper(name, Generation(0))));
            holder.is_some_and(|life| life.works() && !life.unkillable)
        };
        let asks = |name: HelperName| helpers.iter().find(|offer| offer.name == name).map(|offer| &offer.asks);
        helpers.iter().all(|needed| match role {
            Role::Log | Role::Zygote(_) => true,
            Role::Helper(name, _) => !asks(name).is_some_and(|asks| asks.contains(&needed.name)) || works(needed.name),
            Role::Worker(..) => works(needed.name),
        })
    }

    /// Whether somebody lives who may ask this helper: a worker of its generation, or a helper that
    /// starts after it.
    fn is_needed(&self, name: HelperName, home: Generation) -> bool {
        let order = if home == self.serving.generation { Some(&self.serving.helpers) } else { self.past.get(&home) };
        let place = |name: HelperName| order.into_iter().flatten().position(|offer| offer.name == name);
        let mut lives = self.lives.values().filter(|life| life.home == Some(home) && !life.unkillable);
        lives.any(|life| match life.role {
            Role::Log | Role::Zygote(_) => false,
            Role::Helper(other, _) => place(other) > place(name),
            Role::Worker(..) => true,
        })
    }

    fn has_free_zygote(&self, generation: Generation) -> bool {
        self.lives.iter().any(|(&birth, life)| {
            life.role == Role::Zygote(generation) && life.ready.is_some() && !life.is_ending() && !self.owes(birth)
        })
    }

    /// Whether an order to this zygote is not answered.
    fn owes(&self, zygote: Birth) -> bool {
        self.lives.values().any(|life| life.zygote == Some(zygote) && life.born.is_none())
    }

    fn live(&self, who: impl Fn(&Life) -> bool) -> bool {
        self.lives.values().any(|life| who(life) && !life.unkillable)
    }

    /// Whether anyone but the log helper lives who can be ended.
    fn others_live(&self) -> bool {
        self.live(|life| life.role != Role::Log)
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
