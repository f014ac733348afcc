//! One reload: a new generation is proven beside the one that serves, then it takes over, or
//! leaves nothing behind.
//!
//! The steps are Prepare (the master reads the configuration and opens the program), load, fill
//! (new helpers, then workers), hand over (`handover.rs`), prove, commit. Until the commit the
//! serving crew is supervised as ever. Nothing new is tried twice: its first failure ends the run.

use std::time::{Duration, Instant};

use super::crew::Crew;
use super::leaving::Leaving;
use super::{
    ABORT_GRACE, Action, Birth, Child, DRAIN_GRACE, Generation, HelperName, HelperOffer, KILL_GRACE, Phase, Policy,
    Progress, ReloadOutcome, Report, Role, Stage, Supervisor, WORKERS_LIVE_MAX,
};
use crate::contract::ids::ReloadNumber;

/// Why a helper's post is not filled beside a process that SIGKILL does not end.
pub(super) const ONLY_ONE: &str = "cannot be killed, and there can only be one";

/// The run under way, and what was asked for since it began.
#[derive(Debug)]
pub(super) struct Reloads {
    pub(super) run: Option<Run>,
    /// Asked for and not begun. One is enough: it reads the newest configuration.
    waiting: Option<ReloadNumber>,
    last: ReloadNumber,
    /// The last one that was loaded, or was to be: a number names one load for ever.
    last_generation: Generation,
}

/// One reload under way.
#[derive(Debug)]
pub(super) struct Run {
    number: ReloadNumber,
    pub(super) generation: Generation,
    pub(super) step: Step,
    /// From the start of its zygote until it serves or is rolled back.
    pub(super) crew: Option<Crew>,
    /// Helpers that both generations have, and that stay as they are.
    pub(super) kept: Vec<HelperName>,
    /// Helpers that go over to a new process, in start order.
    pub(super) changed: Vec<HelperName>,
    /// Of the changed ones so many were asked for, or have gone over.
    pub(super) lent: usize,
    /// Since when the one that goes over now is nobody's.
    pub(super) vacant_since: Option<Instant>,
    failure: Option<(Option<Role>, String)>,
}

#[derive(Clone, Debug, PartialEq)]
pub(super) enum Step {
    /// The master reads the configuration and opens the program.
    Preparing,
    /// The zygote loads the application.
    Loading,
    /// New helpers, then new workers get ready.
    Filling,
    /// Helpers that have changed go over, one after the other.
    HandingOver,
    /// All that is new works, and must stay alive until then.
    Proving { until: Instant },
    /// What is new ends, what was handed over comes back: by then at the latest it is over.
    RollingBack { until: Instant },
}

impl Reloads {
    pub(super) fn new(last_generation: Generation) -> Self {
        Self { run: None, waiting: None, last: ReloadNumber(0), last_generation }
    }

    /// The generation that is being proven.
    pub(super) fn newcomer(&self) -> Option<&Crew> {
        self.run.as_ref()?.crew.as_ref()
    }

    pub(super) fn newcomer_mut(&mut self) -> Option<&mut Crew> {
        self.run.as_mut()?.crew.as_mut()
    }

    pub(super) fn deadline(&self) -> Option<Instant> {
        match self.run.as_ref()?.step {
            Step::Proving { until } | Step::RollingBack { until } => Some(until),
            Step::Preparing | Step::Loading | Step::Filling | Step::HandingOver => None,
        }
    }

    /// Nothing ran for so long: that proves nothing.
    pub(super) fn postpone(&mut self, gap: Duration, now: Instant) {
        let stable = self.newcomer().map(|crew| crew.policy.timeouts.stable);
        match self.run.as_mut().map(|run| &mut run.step) {
            Some(Step::Proving { until }) => *until = now + stable.unwrap_or(gap),
            Some(Step::RollingBack { until }) => *until += gap,
            Some(Step::Preparing | Step::Loading | Step::Filling | Step::HandingOver) | None => {}
        }
    }
}

impl Supervisor {
    // ---- from outside -------------------------------------------------------------------------

    /// Whoever asks gets the result of a run that begins after this.
    pub(super) fn ask_for_reload(&mut self) {
        let next = ReloadNumber(self.reloads.last.0 + 1);
        let number = *self.reloads.waiting.get_or_insert(next);
        self.reloads.last = number;
        self.act(Action::Promise(number));
        if self.stopping() {
            self.refuse_the_waiting();
        }
    }

    pub(super) fn prepared(&mut self, policy: Policy, now: Instant) {
        let Some(run) = self.reloads.run.as_mut().filter(|run| run.step == Step::Preparing) else { return };
        self.reloads.last_generation = run.generation;
        run.crew = Some(Crew::new(run.generation, policy, now));
        self.hang_min = self.hang_min.min(policy.timeouts.hang);
        run.step = Step::Loading;
    }

    pub(super) fn not_prepared(&mut self, reason: String) {
        if let Some(run) = self.reloads.run.as_mut().filter(|run| run.step == Step::Preparing) {
            run.failure = Some((None, reason));
            self.end_the_run();
        }
    }

    /// The new generation says which helpers it has.
    pub(super) fn newcomer_loaded(&mut self, zygote: Birth, offers: Vec<HelperOffer>, now: Instant) {
        let Some(run) = self.reloads.run.as_mut().filter(|run| run.step == Step::Loading) else { return };
        let Some(crew) = run.crew.as_mut().filter(|crew| crew.zygote.occupant == Some(zygote)) else { return };
        crew.adopt(offers, now);
        run.step = Step::Filling;
        self.tell_apart_the_helpers();
        self.progress(Progress::ZygoteLoaded);
        // Not before: a release that does not even load hurries nobody.
        self.hurry_the_oldest();
    }

    // ---- the steps ----------------------------------------------------------------------------

    /// Goes on as far as it can.
    pub(super) fn advance(&mut self, now: Instant) {
        while self.goes_on(now) {}
    }

    fn goes_on(&mut self, now: Instant) -> bool {
        if self.stopping() {
            return false;
        }
        let Some(run) = &self.reloads.run else { return self.begin_the_next() };
        match run.step {
            Step::Preparing | Step::Loading => false,
            Step::Filling => self.fill(now),
            Step::HandingOver => self.hand_over(now),
            Step::Proving { until } if until <= now => {
                self.commit(now);
                true
            }
            Step::RollingBack { until } if until <= now || self.is_rolled_back() => {
                self.end_the_run();
                true
            }
            Step::Proving { .. } | Step::RollingBack { .. } => false,
        }
    }

    fn begin_the_next(&mut self) -> bool {
        if self.phase != Phase::Serving {
            return false;
        }
        let Some(number) = self.reloads.waiting.take() else { return false };
        let generation = Generation(self.reloads.last_generation.0 + 1);
        self.reloads.run = Some(Run {
            number,
            generation,
            step: Step::Preparing,
            crew: None,
            kept: Vec::new(),
            changed: Vec::new(),
            lent: 0,
            vacant_since: None,
            failure: None,
        });
        self.progress(Progress::Begun);
        self.act(Action::Prepare(generation));
        false
    }

    /// Whether all is there and the next step can begin, or this one has failed.
    fn fill(&mut self, now: Instant) -> bool {
        let Some(run) = &self.reloads.run else { return false };
        let Some(crew) = &run.crew else { return false };
        let helpers = || crew.helpers.iter().filter(|helper| run.is_new(helper.offer.name));
        if let Some(role) = helpers().find_map(|helper| self.stuck(helper.offer.name)) {
            self.roll_back(Some(role), ONLY_ONE.to_owned(), now);
            return true;
        }
        let vacant = crew.workers.iter().any(|post| post.occupant.is_none());
        if vacant && !self.has_room() && self.the_oldest_is_gone() {
            self.roll_back(None, format!("no room: {WORKERS_LIVE_MAX} workers live"), now);
            return true;
        }
        let is_ready = |birth: Birth| self.children.get(&birth).is_some_and(|child| child.stage == Stage::Ready);
        let workers = crew.workers.iter().all(|post| post.occupant.is_some_and(is_ready));
        let all = workers && helpers().all(|helper| self.serves(&helper.post));
        if let Some(run) = self.reloads.run.as_mut().filter(|_| all) {
            run.step = Step::HandingOver;
        }
        all
    }

    /// All is there and in the right hands: the new workers take their share.
    pub(super) fn prove(&mut self, now: Instant) {
        let Some(run) = &mut self.reloads.run else { return };
        let Some(crew) = &run.crew else { return };
        let until = now + crew.policy.timeouts.stable;
        run.step = Step::Proving { until };
        let workers: Vec<Birth> = crew.workers.iter().filter_map(|post| post.occupant).collect();
        self.progress(Progress::Accepting);
        for birth in workers {
            self.set_stage(birth, Stage::Serving);
            self.act(Action::Accept(birth));
        }
    }

    fn commit(&mut self, now: Instant) {
        let Some(mut run) = self.reloads.run.take() else { return };
        let Some(mut crew) = run.crew.take() else { return };
        let stable = crew.policy.timeouts.stable;
        self.report(Report::Reload(run.number, run.generation, Progress::Stable(stable)));
        for helper in &mut crew.helpers {
            let Some(old) = self.crew.helper_mut(helper.offer.name) else { continue };
            if run.kept.contains(&helper.offer.name) {
                helper.post = std::mem::replace(&mut old.post, super::Post::new(now));
            } else {
                helper.post.succeed(&old.post);
            }
        }
        crew.workers.iter_mut().zip(&self.crew.workers).for_each(|(new, old)| new.succeed(old));
        let old = std::mem::replace(&mut self.crew, crew);
        self.leaving.push(Leaving::of(&old));
        let kept = run.kept.clone();
        self.report(Report::Reload(run.number, run.generation, Progress::Committed { kept: kept.clone() }));
        let outcome = ReloadOutcome::Committed { kept };
        self.act(Action::Reloaded { number: run.number, generation: run.generation, outcome });
    }

    // ---- the way back -------------------------------------------------------------------------

    /// The first failure ends all that is new.
    pub(super) fn roll_back(&mut self, who: Option<Role>, reason: String, now: Instant) {
        let Some(run) = &mut self.reloads.run else { return };
        let Some(crew) = run.crew.take() else { return };
        let shown = who.map_or_else(|| reason.clone(), |who| format!("{who}: {reason}"));
        run.failure = Some((who, reason));
        let successors = &run.changed[..run.lent];
        let ending = crew.policy.timeouts.drain + DRAIN_GRACE + ABORT_GRACE + KILL_GRACE;
        run.step = Step::RollingBack { until: now + ending + self.crew.policy.timeouts.ready };
        let successors: Vec<Birth> = successors.iter().filter_map(|&name| crew.helper(name)?.post.occupant).collect();
        self.leaving.push(Leaving::of(&crew));
        self.progress(Progress::RollingBack { reason: shown });
        // Its orders are forgotten with it, and it makes nobody any more.
        if let Some(zygote) = crew.zygote.occupant {
            self.kill(zygote, "the reload is rolled back".to_owned(), now);
        }
        for birth in successors {
            self.make_room(birth, "the reload is rolled back", now);
        }
    }

    /// Whether nothing new is left but what finishes its requests, and those it may ask.
    fn is_rolled_back(&self) -> bool {
        let Some(run) = &self.reloads.run else { return false };
        let lent = &run.changed[..run.lent];
        let left = |child: &&Child| child.role.generation() == Some(run.generation) && child.stage != Stage::Stuck;
        let left = || self.children.values().filter(left);
        let workers = left().any(|child| matches!(child.role, Role::Worker(..)));
        let clear = left().all(|child| match child.role {
            Role::Log => true,
            Role::Zygote(_) => false,
            Role::Worker(..) => matches!(child.stage, Stage::Draining { .. }),
            Role::Helper(name, _) => workers && !lent.contains(&name),
        });
        clear && lent.iter().filter_map(|&name| self.crew.helper(name)).all(|helper| self.serves(&helper.post))
    }

    fn end_the_run(&mut self) {
        let Some(run) = &mut self.reloads.run else { return };
        let Some((who, reason)) = run.failure.take() else { return };
        let (number, generation) = (run.number, run.generation);
        if run.step == Step::Preparing {
            self.progress(Progress::RollingBack { reason: reason.clone() });
        }
        self.progress(Progress::RolledBack);
        self.reloads.run = None;
        self.act(Action::Reloaded { number, generation, outcome: ReloadOutcome::RolledBack { who, reason } });
    }

    /// A stop ends all there is, and nobody waits for a result for longer than this.
    pub(super) fn abandon_the_run(&mut self) {
        if let Some(run) = &mut self.reloads.run {
            run.failure.get_or_insert((None, "stopping".to_owned()));
            let crew = run.crew.take();
            self.leaving.extend(crew.as_ref().map(Leaving::of));
            self.end_the_run();
        }
        self.refuse_the_waiting();
    }

    fn refuse_the_waiting(&mut self) {
        let Some(number) = self.reloads.waiting.take() else { return };
        let generation = Generation(self.reloads.last_generation.0 + 1);
        let outcome = ReloadOutcome::RolledBack { who: None, reason: "stopping".to_owned() };
        self.act(Action::Reloaded { number, generation, outcome });
    }

    // ---- what is the case ---------------------------------------------------------------------

    /// Whether such a process belongs to the generation that is being proven.
    pub(super) fn is_new(&self, role: Role) -> bool {
        self.reloads.newcomer().is_some_and(|crew| role.generation() == Some(crew.generation))
    }

    pub(super) fn count_the_ready(&mut self) {
        let Some(crew) = self.reloads.newcomer() else { return };
        let is_ready = |birth: &Birth| self.children.get(birth).is_some_and(|child| child.stage == Stage::Ready);
        let ready = crew.workers.iter().filter_map(|post| post.occupant).filter(is_ready).count();
        let of = crew.workers.len();
        self.progress(Progress::WorkersReady { ready, of });
    }

    pub(super) fn progress(&mut self, progress: Progress) {
        if let Some(run) = &self.reloads.run {
            let report = Report::Reload(run.number, run.generation, progress);
            self.report(report);
        }
    }
}

impl Run {
    /// Whether only the new generation has a helper of this name.
    pub(super) fn is_new(&self, name: HelperName) -> bool {
        !self.kept.contains(&name) && !self.changed.contains(&name)
    }
}
