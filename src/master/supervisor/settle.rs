//! The end of every step: what is overdue is ended, what is missing is ordered.

use std::time::{Duration, Instant};

use super::crew::{Crew, HelperPost};
use super::post::Post;
use super::reload::Step;
use super::{
    Action, Birth, Child, Generation, HelperName, KILL_GRACE, LOOK_MAX, Outcome, PAUSE_MIN, Phase, Report, Role, Slot,
    Stage, Supervisor, Timeouts, WORKERS_LIVE_MAX,
};

impl Supervisor {
    /// When the master did not run for a while, neither did its clocks: every deadline starts
    /// anew. (SIGSTOP of the whole tree, a frozen cgroup, a suspended machine.)
    pub(super) fn notice_pause(&mut self, now: Instant) {
        let Some(gap) = self.due.map(|due| now.saturating_duration_since(due)) else { return };
        if gap < PAUSE_MIN.min(self.hang_min / 2) {
            return;
        }
        for child in self.children.values_mut() {
            // Not anew: on a machine that is short of time who hangs would never be found.
            child.last_beat = (child.last_beat + gap).min(now);
            if let Some(deadline) = child.stage.deadline_mut() {
                *deadline += gap;
            }
        }
        if let Phase::Stopping { deadline, .. } = &mut self.phase {
            *deadline += gap;
        }
        self.reloads.postpone(gap, now);
        // Noticed; the end of a step sets it again.
        self.due = None;
        self.report(Report::Paused(gap));
    }

    pub(super) fn settle(&mut self, now: Instant) {
        self.end_the_overdue(now);
        self.let_the_ready_serve();
        self.succeed();
        self.advance(now);
        self.follow_the_worn(now);
        self.end_the_unwanted(now);
        self.fill_the_posts(now);
        self.finish(now);
    }

    /// When something will be overdue or due.
    pub(super) fn deadline(&self, now: Instant) -> Option<Instant> {
        let children = self.children.values().flat_map(|child| {
            let hang = child.timeouts.hang;
            let look = (hang / 8).min(LOOK_MAX);
            let beat = child.beats().then(|| (child.last_beat + hang).min(now + look));
            [child.stage.deadline(), beat]
        });
        // A pause shows by coming late, so nobody's deadline is slept through in one go.
        let watch = (!self.children.is_empty()).then_some(now + LOOK_MAX);
        // Past its deadline a stop was acted on, and the children's own deadlines count.
        let stop = self.stop_deadline().filter(|&deadline| deadline > now);
        let whole = [watch, stop, self.reloads.deadline(), self.next_birthday(now)].into_iter().flatten();
        children.chain(self.vacancies()).flatten().chain(whole).min()
    }

    /// When the vacant posts that can be filled may be filled.
    fn vacancies(&self) -> impl Iterator<Item = Option<Instant>> {
        let log = (!self.stopping() || self.others_live()).then_some(&self.log);
        let crews = self.crews().filter(|_| !self.stopping());
        let forked = crews.flat_map(|crew| {
            let free = self.free_zygote(crew).map(|_| self.fillable(crew));
            std::iter::once(&crew.zygote).chain(free.into_iter().flatten().map(|(_, post)| post))
        });
        let posts = log.into_iter().chain(forked);
        posts.map(|post| post.occupant.is_none().then_some(post.not_before))
    }

    fn end_the_overdue(&mut self, now: Instant) {
        let births: Vec<Birth> = self.children.keys().copied().collect();
        for birth in births {
            let Some(child) = self.children.get(&birth) else { continue };
            let overdue = child.stage.deadline().is_some_and(|deadline| deadline <= now);
            match child.stage {
                Stage::Ordered { .. } if overdue => self.zygote_is_silent(birth, now),
                Stage::Booting { .. } if overdue => {
                    let limit = seconds(child.timeouts.ready);
                    self.kill(birth, format!("not ready within {limit}"), now);
                }
                Stage::Draining { .. } if overdue => self.kill(birth, "did not end in time".to_owned(), now),
                Stage::Aborting { .. } if overdue => {
                    self.set_stage(birth, Stage::Killed { deadline: now + KILL_GRACE });
                    self.act(Action::Kill(birth));
                }
                Stage::Killed { .. } if overdue => self.give_up(birth, now),
                Stage::Ready | Stage::Serving | Stage::Draining { .. } => self.end_if_hung(birth, now),
                Stage::Ordered { .. }
                | Stage::Booting { .. }
                | Stage::Aborting { .. }
                | Stage::Killed { .. }
                | Stage::Stuck => {}
            }
        }
    }

    fn end_if_hung(&mut self, birth: Birth, now: Instant) {
        let Some(child) = self.children.get(&birth) else { return };
        let hang = child.timeouts.hang;
        if child.beats() && now.saturating_duration_since(child.last_beat) >= hang {
            self.abort(birth, format!("hung for {}", seconds(hang)), now);
        }
    }

    /// The order was not answered: the zygote is as good as dead.
    fn zygote_is_silent(&mut self, birth: Birth, now: Instant) {
        match self.children.get(&birth).and_then(|child| child.zygote) {
            Some(zygote) if self.is_process(zygote) => {
                self.set_stage(birth, Stage::Ordered { deadline: now + KILL_GRACE * 2 });
                self.kill(zygote, "does not answer".to_owned(), now);
            }
            Some(_) | None => {}
        }
    }

    /// SIGKILL has not helped. A worker's slot is filled again; a helper must not live twice.
    fn give_up(&mut self, birth: Birth, now: Instant) {
        let Some(child) = self.children.get(&birth) else { return };
        let role = child.role;
        self.set_stage(birth, Stage::Stuck);
        self.report(Report::Unkillable(birth, role));
        // At first start its successor would fare no better, and each would stay for ever.
        if self.phase == Phase::Starting && self.post_of(birth).is_some() {
            self.stop(Outcome::Failed(format!("{role} cannot be killed")), now);
        }
        match role {
            Role::Worker(..) | Role::Zygote(_) => {
                self.forget_orders(birth, now);
                if let Some(post) = self.post_of(birth) {
                    post.vacate(now);
                }
            }
            Role::Log | Role::Helper(..) => {}
        }
    }

    fn let_the_ready_serve(&mut self) {
        let ready: Vec<(Birth, Role)> = self
            .children
            .iter()
            .filter(|(_, child)| child.stage == Stage::Ready)
            .map(|(&birth, child)| (birth, child.role))
            .collect();
        for (birth, role) in ready {
            // New workers wait for each other, and who has lost its post is about to be ended.
            let waits = matches!(role, Role::Worker(..)) && self.is_new(role);
            if waits || !self.is_seated(birth, role) {
                continue;
            }
            self.set_stage(birth, Stage::Serving);
            if role.is_forked() {
                self.act(Action::Accept(birth));
            }
        }
        if self.phase == Phase::Starting && self.is_complete() {
            self.phase = Phase::Serving;
            self.report(Report::Serving);
        }
    }

    fn fill_the_posts(&mut self, now: Instant) {
        if self.log.is_due(now) && (!self.stopping() || self.others_live()) {
            let birth = self.order(Role::Log, None, self.crew.policy.timeouts, now);
            self.log.fill(birth);
            self.act(Action::ForkLog(birth));
        }
        if self.stopping() {
            return;
        }
        let crews: Vec<(Generation, Timeouts)> =
            self.crews().map(|crew| (crew.generation, crew.policy.timeouts)).collect();
        for (generation, timeouts) in crews {
            let Some((role, zygote)) = self.crew_of(generation).and_then(|crew| self.next_to_make(crew, now)) else {
                continue;
            };
            let birth = self.order(role, zygote, timeouts, now);
            let newcomer = self.reloads.newcomer_mut().filter(|crew| crew.generation == generation);
            if let Some(post) = newcomer.unwrap_or(&mut self.crew).post(role) {
                post.fill(birth);
            }
            self.act(match zygote {
                Some(zygote) => Action::Fork { birth, role, zygote },
                None => Action::StartZygote(birth, generation),
            });
        }
    }

    /// What is to be ordered for this crew now, and from whom: its zygote, or something of its zygote.
    fn next_to_make(&self, crew: &Crew, now: Instant) -> Option<(Role, Option<Birth>)> {
        if crew.zygote.is_due(now) {
            return Some((Role::Zygote(crew.generation), None));
        }
        // One order at a time: it is answered in a fraction of a millisecond.
        let zygote = self.free_zygote(crew)?;
        let (role, _) = self.fillable(crew).find(|(_, post)| post.is_due(now))?;
        Some((role, Some(zygote)))
    }

    /// The posts that a crew's zygote may fill. At first a helper comes after those it asks, and
    /// workers after all helpers; later what dies is replaced whoever else is missing.
    fn fillable<'a>(&'a self, crew: &'a Crew) -> impl Iterator<Item = (Role, &'a Post)> {
        let generation = crew.generation;
        let new = self.reloads.run.as_ref().filter(|run| run.generation == generation);
        let first = self.phase == Phase::Starting || new.is_some();
        let filling = new.is_none_or(|run| run.step == Step::Filling && self.the_oldest_is_gone());
        let is_mine = move |name: HelperName| match new {
            None => !self.is_claimed(name),
            Some(run) if run.is_new(name) => filling,
            Some(_) => self.is_claimed(name),
        };
        // Whom only the serving generation has is asked there meanwhile.
        let serves = move |helper: &HelperPost| {
            self.serves(&helper.post) || new.is_some_and(|run| !run.is_new(helper.offer.name))
        };
        let stands = move |name: &HelperName| crew.helper(*name).is_some_and(serves);
        let helpers = crew.helpers.iter().filter(move |helper| {
            let name = helper.offer.name;
            is_mine(name) && self.is_free(name) && (!first || helper.offer.asks.iter().all(stands))
        });
        let room = filling && self.has_room() && (!first || crew.helpers.iter().all(serves));
        let workers = if room { crew.workers.as_slice() } else { &[] };
        let workers = (0..).zip(workers).map(|(slot, post)| (Slot(slot), post));
        let successor = crew.succession.iter().filter(move |_| room).map(|next| (next.slot, &next.post));
        let workers = workers.chain(successor).map(move |(slot, post)| (Role::Worker(slot, generation), post));
        helpers.map(move |helper| (Role::Helper(helper.offer.name, generation), &helper.post)).chain(workers)
    }

    /// The serving crew, and the one that is being proven.
    fn crews(&self) -> impl Iterator<Item = &Crew> {
        std::iter::once(&self.crew).chain(self.reloads.newcomer())
    }

    fn crew_of(&self, generation: Generation) -> Option<&Crew> {
        self.crews().find(|crew| crew.generation == generation)
    }

    /// Whether it holds a post: everyone else is on the way out.
    pub(super) fn is_seated(&self, birth: Birth, role: Role) -> bool {
        let is_it = |post: &Post| post.occupant == Some(birth);
        match role {
            Role::Log => is_it(&self.log),
            Role::Zygote(generation) => self.crew_of(generation).is_some_and(|crew| is_it(&crew.zygote)),
            // A helper that was kept is older than its crew.
            Role::Helper(name, _) => {
                self.crews().filter_map(|crew| crew.helper(name)).any(|helper| is_it(&helper.post))
            }
            Role::Worker(Slot(slot), generation) => self.crew_of(generation).is_some_and(|crew| {
                let succession = crew.succession.as_ref().map(|succession| &succession.post);
                crew.workers.get(usize::from(slot)).into_iter().chain(succession).any(is_it)
            }),
        }
    }

    /// Whether one worker more may be made.
    pub(super) fn has_room(&self) -> bool {
        self.children.values().filter(|child| matches!(child.role, Role::Worker(..))).count() < WORKERS_LIVE_MAX
    }

    /// The zygote, if it is loaded and owes no answer.
    fn free_zygote(&self, crew: &Crew) -> Option<Birth> {
        let zygote = crew.zygote.occupant?;
        let loaded = self.children.get(&zygote)?.stage == Stage::Serving;
        (loaded && !self.owes(zygote)).then_some(zygote)
    }

    /// Whether an order to this zygote is not answered.
    pub(super) fn owes(&self, zygote: Birth) -> bool {
        self.children.values().any(|child| child.zygote == Some(zygote) && !child.stage.is_process())
    }

    fn is_process(&self, birth: Birth) -> bool {
        self.children.get(&birth).is_some_and(|child| child.stage.is_process())
    }

    pub(super) fn set_stage(&mut self, birth: Birth, stage: Stage) {
        if let Some(child) = self.children.get_mut(&birth) {
            child.stage = stage;
        }
    }

    /// Whether every post has an occupant that does its work.
    pub(super) fn is_complete(&self) -> bool {
        let helpers = self.crew.helpers.iter().map(|helper| &helper.post);
        let mut posts = [&self.log, &self.crew.zygote].into_iter().chain(helpers).chain(&self.crew.workers);
        posts.all(|post| self.serves(post))
    }

    pub(super) fn serves(&self, post: &Post) -> bool {
        post.occupant.and_then(|birth| self.children.get(&birth)).is_some_and(Child::serves)
    }
}

/// A time as people write it: `10 s`, `0.5 s`.
pub(super) fn seconds(time: Duration) -> String {
    format!("{} s", time.as_secs_f64())
}
