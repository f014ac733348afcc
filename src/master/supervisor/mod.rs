//! Who lives: a pure state machine, `(state, event, now) → actions`.
//!
//! It decides births, deaths, restarts, stop and deadlines. It makes no system call, reads no
//! clock and writes no log; `master/mod.rs` turns kernel facts into events and actions into
//! system calls. It knows processes by their [`Birth`] only, so it cannot act on a pid that was
//! reaped. `simulation.rs` drives it through random faults.
//!
//! A *post* is a place to be filled: the log helper, a generation's zygote, a helper of the
//! application, a worker slot. A *crew* is a generation's posts: one serves, and during a reload a
//! second one is proven beside it. A *child* is a process, from the decision to make it until it is
//! reaped; one without a post is on its way out. Every step ends in [`Supervisor::settle`], which
//! compares posts with children and orders what is missing.

mod crew;
mod events;
mod handover;
mod leaving;
mod post;
mod reload;
mod settle;
#[cfg(test)]
mod simulation;
mod stage;
mod stop;
mod succession;
mod view;

use std::collections::BTreeMap;
use std::time::{Duration, Instant};

use self::crew::Crew;
pub(crate) use self::events::{Action, Event, Fault, Next, Outcome, Progress, ReloadOutcome, Report};
use self::leaving::Leaving;
use self::post::{Jitter, Post};
use self::reload::Reloads;
use self::settle::seconds;
pub(crate) use self::stage::Stage;
#[cfg(test)]
use self::succession::WORN_AGE_MIN;
pub(crate) use self::succession::Wear;
pub(crate) use self::view::{Place, View};
use crate::contract::ids::{Birth, Generation, HelperName, Role, Slot, WORKERS_MAX};
use crate::contract::orders::HelperOffer;
use crate::settings::{Restart, Timeouts};

/// From SIGABRT to SIGKILL: time for a core dump to begin.
const ABORT_GRACE: Duration = Duration::from_secs(1);
/// From SIGKILL to giving a process up as one that cannot be killed.
const KILL_GRACE: Duration = Duration::from_secs(5);
/// For a zygote to end once its socket is closed.
const ZYGOTE_GRACE: Duration = Duration::from_secs(1);
/// For the log helper to write what is left.
const LOG_GRACE: Duration = Duration::from_secs(3);
/// What the master adds to a process's own drain limit before it ends the process.
const DRAIN_GRACE: Duration = Duration::from_secs(2);
/// A wake-up so much later than asked for means that the master did not run for a while.
const PAUSE_MIN: Duration = Duration::from_millis(500);
/// The longest time between two looks at the heartbeats.
const LOOK_MAX: Duration = Duration::from_secs(1);
/// So many workers, those included that still drain or cannot be killed: two generations. Helpers
/// are few, and there is always room for them.
const WORKERS_LIVE_MAX: usize = 2 * WORKERS_MAX as usize;

/// What the whole is doing.
#[derive(Clone, Debug, PartialEq)]
enum Phase {
    Starting,
    Serving,
    Stopping {
        deadline: Instant,
        outcome: Outcome,
    },
    /// The master was told that it may end.
    Over,
}

/// One process.
#[derive(Clone, Debug)]
pub(crate) struct Child {
    pub(crate) role: Role,
    pub(crate) stage: Stage,
    pub(crate) since: Instant,
    last_beat: Instant,
    /// What it was told at its birth: by this it is judged, whatever a reload changes.
    timeouts: Timeouts,
    /// Who owes an answer to the order for it, or owed it.
    zygote: Option<Birth>,
    /// Why the master ends it, for its obituary.
    reason: Option<String>,
    /// It was asked to make room for its successor: its end is no crash, however it ends.
    makes_room: bool,
    /// Why it is to be followed by another one, if it is.
    wear: Option<Wear>,
}

impl Child {
    /// Whether it does its work.
    fn serves(&self) -> bool {
        self.stage == Stage::Serving
    }

    /// Whether its loop should turn. A zygote waits in a read and has no heart to beat.
    fn beats(&self) -> bool {
        self.stage.has_heartbeat() && !matches!(self.role, Role::Zygote(_))
    }
}

/// What the master executes of the settings.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Policy {
    pub(crate) workers: u16,
    pub(crate) timeouts: Timeouts,
    pub(crate) restart: Restart,
    /// A worker that is older is followed by a new one.
    pub(crate) age_max: Option<Duration>,
}

/// The state of everything that is supervised.
#[derive(Debug)]
pub(crate) struct Supervisor {
    phase: Phase,
    log: Post,
    /// The generation that serves.
    crew: Crew,
    reloads: Reloads,
    /// What is left of other generations.
    leaving: Vec<Leaving>,
    children: BTreeMap<Birth, Child>,
    next_birth: u64,
    jitter: Jitter,
    /// The shortest of all generations so far: older processes are judged by it still.
    hang_min: Duration,
    /// When the next look is due; a later one means that the master was paused.
    due: Option<Instant>,
    actions: Vec<Action>,
}

impl Supervisor {
    /// Nothing lives yet; the first step orders everything.
    pub(crate) fn new(policy: Policy, seed: u64, now: Instant) -> Self {
        Self {
            phase: Phase::Starting,
            log: Post::new(now),
            crew: Crew::new(Generation(1), policy, now),
            reloads: Reloads::new(Generation(1)),
            leaving: Vec::new(),
            children: BTreeMap::new(),
            next_birth: 1,
            jitter: Jitter::new(seed),
            hang_min: policy.timeouts.hang,
            due: None,
            actions: Vec::new(),
        }
    }

    /// Takes in one fact and says what to do.
    pub(crate) fn step(&mut self, event: Event, now: Instant) -> Vec<Action> {
        // The master finishes its turn, and the end is told once.
        if self.phase == Phase::Over {
            return Vec::new();
        }
        self.notice_pause(now);
        match event {
            Event::Born(birth) => self.born(birth, now),
            Event::BirthFailed(birth, reason) => self.birth_failed(birth, reason, now),
            Event::Ready(birth) => self.ready(birth, now),
            Event::Loaded(zygote, helpers) => self.loaded(zygote, helpers, now),
            Event::Refused(birth, fault, reason) => self.refused(birth, fault, reason, now),
            Event::Broken(birth, reason) => self.kill(birth, reason, now),
            Event::Exited(birth, how) => self.exited(birth, how, now),
            Event::Heartbeat(birth, at) => {
                // Good news asks for nothing, and there are many: the turn ends with a `Tick`.
                self.heartbeat(birth, at);
                return std::mem::take(&mut self.actions);
            }
            Event::Worn(birth, wear) => self.worn(birth, wear),
            Event::Scale(workers) => self.scale(workers, now),
            Event::Restart(helper) => self.restart(helper, now),
            Event::Reload => self.ask_for_reload(),
            Event::Prepared(policy) => self.prepared(policy, now),
            Event::NotPrepared(reason) => self.not_prepared(reason),
            Event::Stop => match self.phase {
                Phase::Starting | Phase::Serving => self.stop(Outcome::Stopped, now),
                Phase::Stopping { .. } | Phase::Over => self.quit(now),
            },
            Event::Quit => self.quit(now),
            Event::Tick => {}
        }
        self.settle(now);
        self.due = self.deadline(now);
        std::mem::take(&mut self.actions)
    }

    /// When to come back with a `Tick` at the latest.
    pub(crate) fn due(&self) -> Option<Instant> {
        self.due
    }

    fn act(&mut self, action: Action) {
        self.actions.push(action);
    }

    fn report(&mut self, report: Report) {
        self.actions.push(Action::Report(report));
    }

    fn order(&mut self, role: Role, zygote: Option<Birth>, timeouts: Timeouts, now: Instant) -> Birth {
        let birth = Birth(self.next_birth);
        self.next_birth += 1;
        let stage = Stage::Ordered { deadline: now + timeouts.ready };
        let (since, last_beat) = (now, now);
        let (reason, makes_room, wear) = (None, false, None);
        let child = Child { role, stage, since, last_beat, timeouts, zygote, reason, makes_room, wear };
        self.children.insert(birth, child);
        birth
    }

    fn stopping(&self) -> bool {
        matches!(self.phase, Phase::Stopping { .. } | Phase::Over)
    }

    // ---- births -------------------------------------------------------------------------------

    fn born(&mut self, birth: Birth, now: Instant) {
        let Some(child) = self.children.get_mut(&birth) else { return };
        let role = child.role;
        child.stage = Stage::Booting { deadline: now + child.timeouts.ready };
        child.since = now;
        self.report(Report::Born(birth, role));
        // What a stop, or a hand-over, finds unborn is not wanted any more.
        let in_time = match role {
            Role::Helper(name, _) => !self.stopping() && !self.is_lent(name, birth),
            Role::Log | Role::Zygote(_) | Role::Worker(..) => true,
        };
        if self.post_of(birth).is_some() && in_time {
            self.act(Action::Begin(birth));
        }
    }

    fn birth_failed(&mut self, birth: Birth, reason: String, now: Instant) {
        let Some(child) = self.children.remove(&birth) else { return };
        if self.is_new(child.role) {
            return self.roll_back(Some(child.role), format!("cannot start: {reason}"), now);
        }
        if self.phase == Phase::Starting {
            let why = format!("cannot start {}: {reason}", child.role);
            self.stop(Outcome::Refused(why), now);
        }
        let jitter = self.jitter.next();
        let Some(post) = self.post_of(birth) else { return };
        let retry = post.birth_failed(now, jitter);
        if !post.is_news() || self.stopping() {
            return;
        }
        self.report(Report::BirthFailed { role: child.role, reason, retry });
    }

    fn loaded(&mut self, zygote: Birth, helpers: Vec<HelperOffer>, now: Instant) {
        if self.crew.zygote.occupant == Some(zygote) {
            self.crew.adopt(helpers, now);
        } else {
            self.newcomer_loaded(zygote, helpers, now);
        }
        self.ready(zygote, now);
    }

    fn ready(&mut self, birth: Birth, now: Instant) {
        let Some(child) = self.children.get_mut(&birth) else { return };
        if !matches!(child.stage, Stage::Booting { .. }) {
            return;
        }
        child.stage = Stage::Ready;
        child.last_beat = now;
        let role = child.role;
        self.report(Report::Ready(birth, role));
        if matches!(role, Role::Worker(..)) && self.is_new(role) {
            self.count_the_ready();
        }
    }

    fn refused(&mut self, birth: Birth, fault: Fault, reason: String, now: Instant) {
        let Some(child) = self.children.get_mut(&birth) else { return };
        let role = child.role;
        child.reason = Some(reason.clone());
        if self.is_new(role) {
            return self.roll_back(Some(role), reason, now);
        }
        if self.phase == Phase::Starting && matches!(role, Role::Zygote(_)) {
            let outcome = match fault {
                Fault::Application => Outcome::Failed(reason),
                Fault::Configuration => Outcome::Misconfigured(reason),
                Fault::System => Outcome::Refused(reason),
            };
            self.stop(outcome, now);
        }
    }

    fn heartbeat(&mut self, birth: Birth, at: Instant) {
        if let Some(child) = self.children.get_mut(&birth) {
            child.last_beat = child.last_beat.max(at);
        }
    }

    // ---- deaths -------------------------------------------------------------------------------

    fn exited(&mut self, birth: Birth, how: String, now: Instant) {
        let Some(child) = self.children.remove(&birth) else { return };
        self.forget_orders(birth, now);
        let how = match child.reason {
            Some(reason) => format!("{reason}: {how}"),
            None => how,
        };
        let role = child.role;
        if self.is_new(role) {
            let next = Next::Nothing;
            self.report(Report::Died { birth, role, how: how.clone(), next });
            return self.roll_back(Some(role), how, now);
        }
        if child.makes_room {
            if let Some(post) = self.post_of(birth) {
                post.left(&how, now);
            }
            return self.report(Report::Ended { birth, role, how });
        }
        let (restart, jitter) = (self.crew.policy.restart, self.jitter.next());
        let starting = self.phase == Phase::Starting;
        let wanted = !self.stopping() || (role == Role::Log && self.others_live());
        let next = self.post_of(birth).map(|post| post.died(&how, now, child.since, restart, jitter));
        let Some(next) = next.filter(|_| wanted) else {
            return self.report(Report::Ended { birth, role, how });
        };
        // At first start nobody is served yet: the error is of more use than patience.
        let gives_up = starting && (matches!(role, Role::Zygote(_)) || matches!(next, Next::RestartIn(_)));
        let next = if gives_up { Next::Nothing } else { next };
        self.report(Report::Died { birth, role, how: how.clone(), next });
        if gives_up {
            self.stop(Outcome::Failed(format!("{role}: {how}")), now);
        }
    }

    /// No zygote, no answer: whoever was born of its orders never begins, and ends by itself.
    fn forget_orders(&mut self, zygote: Birth, now: Instant) {
        let is_lost = |child: &Child| child.zygote == Some(zygote) && !child.stage.is_process();
        let lost: Vec<Birth> =
            self.children.iter().filter(|(_, child)| is_lost(child)).map(|(&birth, _)| birth).collect();
        for birth in lost {
            self.children.remove(&birth);
            if let Some(post) = self.post_of(birth) {
                post.vacate(now);
            }
            self.act(Action::Forget(birth));
        }
    }

    fn kill(&mut self, birth: Birth, reason: String, now: Instant) {
        let Some(child) = self.children.get_mut(&birth) else { return };
        if !child.stage.is_process() || child.stage.is_ending_hard() {
            return;
        }
        let role = child.role;
        child.stage = Stage::Killed { deadline: now + KILL_GRACE };
        child.reason.get_or_insert_with(|| reason.clone());
        self.report(Report::Ending { birth, role, reason: reason.clone() });
        self.act(Action::Kill(birth));
        if self.is_new(role) {
            self.roll_back(Some(role), reason, now);
        }
    }

    fn abort(&mut self, birth: Birth, reason: String, now: Instant) {
        let Some(child) = self.children.get_mut(&birth) else { return };
        let role = child.role;
        child.stage = Stage::Aborting { deadline: now + ABORT_GRACE };
        child.reason = Some(reason.clone());
        self.report(Report::Ending { birth, role, reason: reason.clone() });
        self.act(Action::Abort(birth));
        if self.is_new(role) {
            self.roll_back(Some(role), reason, now);
        }
    }

    /// When one that is asked to finish is late.
    fn drain_limit(&self, birth: Birth, now: Instant) -> Instant {
        let drain = self.children.get(&birth).map_or(Duration::ZERO, |child| child.timeouts.drain);
        now + drain + DRAIN_GRACE
    }

    fn drain(&mut self, birth: Birth, deadline: Instant, now: Instant) {
        if let Some(child) = self.children.get_mut(&birth) {
            if matches!(child.stage, Stage::Booting { .. }) {
                // Its loop has not turned yet, which is no sign of a hang.
                child.last_beat = now;
            }
            child.stage = Stage::Draining { deadline };
            self.act(Action::Drain(birth));
        }
    }

    // ---- what is wanted -----------------------------------------------------------------------

    fn scale(&mut self, workers: u16, now: Instant) {
        if self.stopping() {
            return;
        }
        let from = u16::try_from(self.crew.workers.len()).unwrap_or(u16::MAX);
        self.crew.workers.resize(usize::from(workers), Post::new(now));
        self.report(Report::Scaled { from, to: workers });
    }

    /// The helper's process is asked to finish; when it is gone, its post is filled again.
    fn restart(&mut self, name: HelperName, now: Instant) {
        if self.stopping() {
            return;
        }
        if self.is_handed_over(name) {
            return self.report(Report::NotRestarted(name));
        }
        let Some(helper) = self.crew.helper_mut(name) else { return };
        match helper.post.occupant {
            Some(birth) => self.make_room(birth, "restarting it", now),
            None => helper.post.vacate(now),
        }
    }

    /// This process of a helper is to end, and that is no crash.
    fn make_room(&mut self, birth: Birth, why: &'static str, now: Instant) {
        let Some(child) = self.children.get_mut(&birth) else { return };
        let role = child.role;
        match child.stage {
            Stage::Booting { .. } => {
                child.makes_room = true;
                self.kill(birth, why.to_owned(), now);
            }
            Stage::Ready | Stage::Serving => {
                child.makes_room = true;
                self.report(Report::MakingRoom(birth, role, why));
                self.drain(birth, self.drain_limit(birth, now), now);
            }
            // It has yet to begin.
            Stage::Ordered { .. }
            // It is ending, and what follows is what was asked for.
            | Stage::Draining { .. } | Stage::Aborting { .. } | Stage::Killed { .. } | Stage::Stuck => {}
        }
    }

    /// Whether anyone is left who may log: not who cannot be killed, or a stop would never end.
    fn others_live(&self) -> bool {
        self.children.values().any(|child| child.role != Role::Log && child.stage != Stage::Stuck)
    }

    /// The post that this process holds.
    fn post_of(&mut self, birth: Birth) -> Option<&mut Post> {
        if self.log.occupant == Some(birth) {
            return Some(&mut self.log);
        }
        let newcomer = self.reloads.newcomer_mut();
        self.crew.post_of(birth).or_else(|| newcomer.and_then(|crew| crew.post_of(birth)))
    }
}
