//! Who lives: a pure state machine, `(state, event, now) → actions`.
//!
//! It decides births, deaths, restarts, stop and deadlines. It makes no system call, reads no
//! clock and writes no log; `master/mod.rs` turns kernel facts into events and actions into
//! system calls. It knows processes by their [`Birth`] only, so it cannot act on a pid that was
//! reaped. `simulation.rs` drives it through random faults.
//!
//! A *post* is a place to be filled: the log helper, a generation's zygote, a worker slot. A
//! *child* is a process, from the decision to make it until it is reaped. Every step ends in
//! [`Supervisor::settle`], which compares posts with children and orders what is missing.

mod post;
mod settle;
#[cfg(test)]
mod simulation;
mod stage;
mod view;

use std::collections::BTreeMap;
use std::time::{Duration, Instant};

use self::post::{Jitter, Post};
pub(crate) use self::stage::Stage;
pub(crate) use self::view::{Place, View};
use crate::contract::ids::{Birth, Generation, Role, Slot, WORKERS_MAX};
use crate::settings::{Restart, Timeouts};

/// From SIGABRT to SIGKILL: time for a core dump to begin.
const ABORT_GRACE: Duration = Duration::from_secs(1);
/// From SIGKILL to giving a process up as one that cannot be killed.
const KILL_GRACE: Duration = Duration::from_secs(5);
/// For a zygote to end once its socket is closed.
const ZYGOTE_GRACE: Duration = Duration::from_secs(1);
/// For the log helper to write what is left.
const LOG_GRACE: Duration = Duration::from_secs(3);
/// What the master adds to a worker's own drain limit before it ends the worker.
const DRAIN_GRACE: Duration = Duration::from_secs(2);
/// A wake-up so much later than asked for means that the master did not run for a while.
const PAUSE_MIN: Duration = Duration::from_millis(500);
/// The longest time between two looks at the heartbeats.
const LOOK_MAX: Duration = Duration::from_secs(1);
/// The most processes, those included that still drain or cannot be killed: two generations.
const CHILDREN_MAX: usize = 2 * WORKERS_MAX as usize;

/// A fact, from the kernel or from a child.
#[derive(Clone, Debug)]
pub(crate) enum Event {
    /// The process ordered exists and is ours.
    Born(Birth),
    /// It could not be made.
    BirthFailed(Birth, String),
    /// It says it can do its work.
    Ready(Birth),
    /// It says why it cannot, and ends.
    Refused(Birth, String),
    /// It says what no child of ours says.
    Broken(Birth, String),
    /// It is dead and reaped; how it ended.
    Exited(Birth, String),
    /// When its loop last turned.
    Heartbeat(Birth, Instant),
    /// So many workers are wanted.
    Scale(u16),
    /// End in order.
    Stop,
    /// End at once.
    Quit,
    /// Nothing but time.
    Tick,
}

/// What to do in the world.
#[derive(Clone, Debug, PartialEq)]
pub(crate) enum Action {
    /// Make the log helper.
    ForkLog(Birth),
    /// Start a zygote; the answer is `Born` or `BirthFailed`.
    StartZygote(Birth, Generation),
    /// Order a worker from a zygote; the answer is `Born` or `BirthFailed`.
    ForkWorker {
        birth: Birth,
        role: Role,
        zygote: Birth,
    },
    /// The order will not be answered: drop what was prepared for it.
    Forget(Birth),
    /// Tell a newborn who it is.
    Begin(Birth),
    /// Let it take connections.
    Accept(Birth),
    /// Ask it to finish and end.
    Drain(Birth),
    Abort(Birth),
    Kill(Birth),
    /// Say it in the log.
    Report(Report),
    /// The master may end.
    Exit(Outcome),
}

/// What the log is told.
#[derive(Clone, Debug, PartialEq)]
pub(crate) enum Report {
    Born(Birth, Role),
    Ready(Birth, Role),
    /// All workers serve, for the first time.
    Serving,
    BirthFailed {
        role: Role,
        reason: String,
        retry: Duration,
    },
    /// A process that was still wanted has ended.
    Died {
        birth: Birth,
        role: Role,
        how: String,
        next: Next,
    },
    /// A process that was asked to end has ended.
    Ended {
        birth: Birth,
        role: Role,
        how: String,
    },
    /// The master ends it, because.
    Ending {
        birth: Birth,
        role: Role,
        reason: String,
    },
    Unkillable(Birth, Role),
    Paused(Duration),
    Scaled {
        from: u16,
        to: u16,
    },
    Stopping {
        at_once: bool,
    },
}

/// What follows a death.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(crate) enum Next {
    Restart,
    RestartIn(Duration),
    Nothing,
}

/// How the master ends.
#[derive(Clone, Debug, PartialEq)]
pub(crate) enum Outcome {
    /// As it was told.
    Stopped,
    /// The application cannot be started.
    Failed(String),
    /// The system refused a process.
    Refused(String),
}

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
    /// Why the master ends it, for its obituary.
    reason: Option<String>,
}

impl Child {
    /// Whether its loop should turn. A zygote waits in a read and has no heart to beat.
    fn beats(&self) -> bool {
        self.stage.has_heartbeat() && !matches!(self.role, Role::Zygote(_))
    }
}

/// One generation's posts.
#[derive(Clone, Debug)]
struct Crew {
    generation: Generation,
    zygote: Post,
    workers: Vec<Post>,
}

/// What the master executes of the settings.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Policy {
    pub(crate) workers: u16,
    pub(crate) timeouts: Timeouts,
    pub(crate) restart: Restart,
}

/// The state of everything that is supervised.
#[derive(Debug)]
pub(crate) struct Supervisor {
    policy: Policy,
    phase: Phase,
    log: Post,
    crew: Crew,
    children: BTreeMap<Birth, Child>,
    next_birth: u64,
    jitter: Jitter,
    /// When the next look is due; a later one means that the master was paused.
    due: Option<Instant>,
    actions: Vec<Action>,
}

impl Supervisor {
    /// Nothing lives yet; the first step orders everything.
    pub(crate) fn new(policy: Policy, seed: u64, now: Instant) -> Self {
        let workers = vec![Post::new(now); usize::from(policy.workers)];
        Self {
            policy,
            phase: Phase::Starting,
            log: Post::new(now),
            crew: Crew { generation: Generation(1), zygote: Post::new(now), workers },
            children: BTreeMap::new(),
            next_birth: 1,
            jitter: Jitter::new(seed),
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
            Event::Refused(birth, reason) => self.refused(birth, reason, now),
            Event::Broken(birth, reason) => self.kill(birth, reason, now),
            Event::Exited(birth, how) => self.exited(birth, how, now),
            Event::Heartbeat(birth, at) => {
                // Good news asks for nothing, and there are many: the turn ends with a `Tick`.
                self.heartbeat(birth, at);
                return std::mem::take(&mut self.actions);
            }
            Event::Scale(workers) => self.scale(workers, now),
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

    fn order(&mut self, role: Role, now: Instant) -> Birth {
        let birth = Birth(self.next_birth);
        self.next_birth += 1;
        let stage = Stage::Ordered { deadline: now + self.policy.timeouts.ready };
        self.children.insert(birth, Child { role, stage, since: now, last_beat: now, reason: None });
        birth
    }

    fn stopping(&self) -> bool {
        matches!(self.phase, Phase::Stopping { .. } | Phase::Over)
    }

    // ---- births -------------------------------------------------------------------------------

    fn born(&mut self, birth: Birth, now: Instant) {
        let Some(child) = self.children.get_mut(&birth) else { return };
        let role = child.role;
        child.stage = Stage::Booting { deadline: now + self.policy.timeouts.ready };
        child.since = now;
        self.report(Report::Born(birth, role));
        if self.post_of(birth).is_some() {
            self.act(Action::Begin(birth));
        }
    }

    fn birth_failed(&mut self, birth: Birth, reason: String, now: Instant) {
        let Some(child) = self.children.remove(&birth) else { return };
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

    fn ready(&mut self, birth: Birth, now: Instant) {
        let Some(child) = self.children.get_mut(&birth) else { return };
        if !matches!(child.stage, Stage::Booting { .. }) {
            return;
        }
        child.stage = Stage::Ready;
        child.last_beat = now;
        let role = child.role;
        self.report(Report::Ready(birth, role));
    }

    fn refused(&mut self, birth: Birth, reason: String, now: Instant) {
        let Some(child) = self.children.get_mut(&birth) else { return };
        child.reason = Some(reason.clone());
        if self.phase == Phase::Starting && matches!(child.role, Role::Zygote(_)) {
            self.stop(Outcome::Failed(reason), now);
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
        // One that could not be killed and dies at last owes nothing: its successor may.
        if self.crew.zygote.occupant == Some(birth) {
            self.forget_orders(now);
        }
        let how = match child.reason {
            Some(reason) => format!("{reason}: {how}"),
            None => how,
        };
        let role = child.role;
        let (restart, jitter) = (self.policy.restart, self.jitter.next());
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

    /// No zygote, no answer: whoever was born of these orders never begins, and ends by itself.
    fn forget_orders(&mut self, now: Instant) {
        let is_lost = |child: &Child| matches!((child.role, &child.stage), (Role::Worker(..), Stage::Ordered { .. }));
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
        self.report(Report::Ending { birth, role, reason });
        self.act(Action::Kill(birth));
    }

    fn abort(&mut self, birth: Birth, reason: String, now: Instant) {
        let Some(child) = self.children.get_mut(&birth) else { return };
        let role = child.role;
        child.stage = Stage::Aborting { deadline: now + ABORT_GRACE };
        child.reason = Some(reason.clone());
        self.report(Report::Ending { birth, role, reason });
        self.act(Action::Abort(birth));
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

    fn stop(&mut self, outcome: Outcome, now: Instant) {
        if !self.stopping() {
            self.report(Report::Stopping { at_once: false });
            self.stop_by(now + self.policy.timeouts.stop, outcome);
        }
    }

    fn quit(&mut self, now: Instant) {
        match self.phase.clone() {
            Phase::Over => return,
            Phase::Stopping { deadline, .. } if deadline <= now => {}
            Phase::Stopping { outcome, .. } => self.stop_by(now, outcome),
            Phase::Starting | Phase::Serving => self.stop_by(now, Outcome::Stopped),
        }
        self.report(Report::Stopping { at_once: true });
    }

    fn stop_by(&mut self, deadline: Instant, outcome: Outcome) {
        self.phase = Phase::Stopping { deadline, outcome };
        self.crew.workers.clear();
    }

    /// Whether anyone is left who may log: not who cannot be killed, or a stop would never end.
    fn others_live(&self) -> bool {
        self.children.values().any(|child| child.role != Role::Log && child.stage != Stage::Stuck)
    }

    /// The post that this process holds.
    fn post_of(&mut self, birth: Birth) -> Option<&mut Post> {
        let crew = &mut self.crew;
        let posts = std::iter::once(&mut self.log).chain(std::iter::once(&mut crew.zygote)).chain(&mut crew.workers);
        posts.into_iter().find(|post| post.occupant == Some(birth))
    }
}
