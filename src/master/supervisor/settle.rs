//! The end of every step: what is overdue is ended, what is missing is ordered.

use std::time::{Duration, Instant};

use super::crew::HelperPost;
use super::post::Post;
use super::{
    Action, Birth, CHILDREN_MAX, Child, HelperName, KILL_GRACE, LOOK_MAX, Outcome, PAUSE_MIN, Phase, Report, Role,
    Slot, Stage, Supervisor,
};

impl Supervisor {
    /// When the master did not run for a while, neither did its clocks: every deadline starts
    /// anew. (SIGSTOP of the whole tree, a frozen cgroup, a suspended machine.)
    pub(super) fn notice_pause(&mut self, now: Instant) {
        let Some(gap) = self.due.map(|due| now.saturating_duration_since(due)) else { return };
        if gap < PAUSE_MIN.min(self.policy.timeouts.hang / 2) {
            return;
        }
        for child in self.children.values_mut() {
            child.last_beat = now;
            if let Some(deadline) = child.stage.deadline_mut() {
                *deadline += gap;
            }
        }
        if let Phase::Stopping { deadline, .. } = &mut self.phase {
            *deadline += gap;
        }
        // Noticed; the end of a step sets it again.
        self.due = None;
        self.report(Report::Paused(gap));
    }

    pub(super) fn settle(&mut self, now: Instant) {
        self.end_the_overdue(now);
        self.end_the_unwanted(now);
        self.let_the_ready_serve();
        self.fill_the_posts(now);
        self.finish(now);
    }

    /// When something will be overdue or due.
    pub(super) fn deadline(&self, now: Instant) -> Option<Instant> {
        let hang = self.policy.timeouts.hang;
        let look = (hang / 8).min(LOOK_MAX);
        let children = self.children.values().flat_map(|child| {
            let beat = child.beats().then(|| (child.last_beat + hang).min(now + look));
            [child.stage.deadline(), beat]
        });
        // A pause shows by coming late, so nobody's deadline is slept through in one go.
        let watch = (!self.children.is_empty()).then_some(now + LOOK_MAX);
        // Past its deadline a stop was acted on, and the children's own deadlines count.
        let stop = self.stop_deadline().filter(|&deadline| deadline > now);
        children.chain(self.vacancies()).flatten().chain(watch).chain(stop).min()
    }

    /// When the vacant posts that can be filled may be filled.
    fn vacancies(&self) -> impl Iterator<Item = Option<Instant>> {
        let log = (!self.stopping() || self.others_live()).then_some(&self.log);
        let zygote = (!self.stopping()).then_some(&self.crew.zygote);
        let free = self.zygote_is_free().filter(|_| !self.stopping());
        let forked = free.map(|_| self.fillable()).into_iter().flatten().map(|(_, post)| post);
        let posts = log.into_iter().chain(zygote).chain(forked);
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
                    let limit = seconds(self.policy.timeouts.ready);
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
        let hang = self.policy.timeouts.hang;
        let silent = |child: &Child| child.beats() && now.saturating_duration_since(child.last_beat) >= hang;
        if self.children.get(&birth).is_some_and(silent) {
            self.abort(birth, format!("hung for {}", seconds(hang)), now);
        }
    }

    /// The order was not answered: the zygote is as good as dead.
    fn zygote_is_silent(&mut self, birth: Birth, now: Instant) {
        let zygote = self.crew.zygote.occupant.filter(|&zygote| zygote != birth);
        match zygote {
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
                if matches!(role, Role::Zygote(_)) {
                    self.forget_orders(now);
                }
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
            let birth = self.order(Role::Log, now);
            self.log.fill(birth);
            self.act(Action::ForkLog(birth));
        }
        if self.stopping() {
            return;
        }
        if self.crew.zygote.is_due(now) {
            let generation = self.crew.generation;
            let birth = self.order(Role::Zygote(generation), now);
            self.crew.zygote.fill(birth);
            self.act(Action::StartZygote(birth, generation));
        }
        // One order at a time: it is answered in a fraction of a millisecond.
        let Some(zygote) = self.zygote_is_free() else { return };
        let Some((role, _)) = self.fillable().find(|(_, post)| post.is_due(now)) else { return };
        let birth = self.order(role, now);
        if let Some(post) = self.crew.post(role) {
            post.fill(birth);
        }
        self.act(Action::Fork { birth, role, zygote });
    }

    /// The posts that a zygote may fill. At first start a helper comes after those it asks, and
    /// workers after all helpers; later what dies is replaced whoever else is missing.
    fn fillable(&self) -> impl Iterator<Item = (Role, &Post)> {
        let crew = &self.crew;
        let generation = crew.generation;
        let starting = self.phase == Phase::Starting;
        let serves = |helper: &HelperPost| self.serves(&helper.post);
        let stands = move |name: &HelperName| crew.helpers.iter().any(|helper| helper.name == *name && serves(helper));
        let helpers = crew.helpers.iter().filter(move |helper| !starting || helper.asks.iter().all(stands));
        let room = self.children.len() < CHILDREN_MAX && (!starting || crew.helpers.iter().all(serves));
        let workers = if room { crew.workers.as_slice() } else { &[] };
        let workers = (0..).zip(workers).map(move |(slot, post)| (Role::Worker(Slot(slot), generation), post));
        helpers.map(move |helper| (Role::Helper(helper.name, generation), &helper.post)).chain(workers)
    }

    /// The zygote, if it is loaded and owes no answer.
    fn zygote_is_free(&self) -> Option<Birth> {
        let zygote = self.crew.zygote.occupant?;
        let loaded = self.children.get(&zygote)?.stage == Stage::Serving;
        let owes = self.children.values().any(|child| child.role.is_forked() && !child.stage.is_process());
        (loaded && !owes).then_some(zygote)
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

    fn serves(&self, post: &Post) -> bool {
        let child = post.occupant.and_then(|birth| self.children.get(&birth));
        child.is_some_and(|child| child.stage == Stage::Serving)
    }
}

/// A time as people write it: `10 s`, `0.5 s`.
fn seconds(time: Duration) -> String {
    format!("{} s", time.as_secs_f64())
}
