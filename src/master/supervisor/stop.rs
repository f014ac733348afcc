//! The end of what is not wanted any more, and of the whole: in which order, and by when.

use std::time::{Duration, Instant};

use super::{Action, Birth, Child, LOG_GRACE, Outcome, Phase, Report, Role, Stage, Supervisor, ZYGOTE_GRACE};

impl Supervisor {
    pub(super) fn stop(&mut self, outcome: Outcome, now: Instant) {
        if !self.stopping() {
            self.report(Report::Stopping { at_once: false });
            self.stop_by(now + self.crew.policy.timeouts.stop, outcome);
        }
    }

    pub(super) fn quit(&mut self, now: Instant) {
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
        self.abandon_the_run();
    }

    /// By when a stop under way is to be over.
    pub(crate) fn stop_deadline(&self) -> Option<Instant> {
        match self.phase {
            Phase::Stopping { deadline, .. } => Some(deadline),
            Phase::Starting | Phase::Serving | Phase::Over => None,
        }
    }

    /// Workers whose post is gone are asked to finish; who has not begun to serve is killed, also of
    /// helpers, whose others end in their order. A stop kills all of both at its limit.
    pub(super) fn end_the_unwanted(&mut self, now: Instant) {
        let late = self.stop_deadline().is_some_and(|deadline| deadline <= now);
        let stopping = self.stopping();
        let is_unwanted = |birth: &Birth, child: &Child| match child.role {
            Role::Worker(..) => !self.is_seated(*birth, child.role),
            Role::Helper(..) => {
                let begins = matches!(child.stage, Stage::Ordered { .. } | Stage::Booting { .. } | Stage::Ready);
                late || begins && (stopping || !self.is_seated(*birth, child.role))
            }
            Role::Log | Role::Zygote(_) => false,
        };
        let unwanted: Vec<(Birth, Stage)> = self
            .children
            .iter()
            .filter(|(birth, child)| is_unwanted(birth, child))
            .map(|(&birth, child)| (birth, child.stage.clone()))
            .collect();
        for (birth, stage) in unwanted {
            match stage {
                Stage::Booting { .. } | Stage::Ready => self.kill(birth, "not wanted any more".to_owned(), now),
                Stage::Serving if !late => {
                    let limit = self.drain_limit(birth, now);
                    self.drain(birth, self.stop_deadline().map_or(limit, |stop| stop.min(limit)), now);
                }
                Stage::Serving | Stage::Draining { .. } if late => {
                    self.kill(birth, "stopping at once".to_owned(), now);
                }
                // There is nobody to kill yet: without its zygote the order is forgotten.
                Stage::Ordered { .. } if late => {
                    if let Some(zygote) = self.children.get(&birth).and_then(|child| child.zygote) {
                        self.kill(zygote, "stopping at once".to_owned(), now);
                    }
                }
                Stage::Ordered { .. }
                | Stage::Serving
                | Stage::Draining { .. }
                | Stage::Aborting { .. }
                | Stage::Killed { .. }
                | Stage::Stuck => {}
            }
        }
        if !stopping {
            self.see_off(now);
        }
    }

    /// The stop, once the workers are gone: helpers, zygotes, the log helper, the end.
    pub(super) fn finish(&mut self, now: Instant) {
        let Phase::Stopping { deadline, outcome } = self.phase.clone() else { return };
        let late = deadline <= now;
        let waits_for = |role: fn(Role) -> bool| {
            self.children.values().any(|child| role(child.role) && child.stage != Stage::Stuck)
        };
        let workers = waits_for(|role| matches!(role, Role::Worker(..)));
        let helpers = waits_for(|role| matches!(role, Role::Helper(..)));
        let zygotes = waits_for(|role| matches!(role, Role::Zygote(_)));
        let logs = waits_for(|role| role == Role::Log);
        if workers {
            // They are ending, and nobody whom they may ask ends before them.
        } else if helpers {
            self.end_the_last_helper(deadline, now);
        } else if zygotes {
            self.end_all(|role| matches!(role, Role::Zygote(_)), ZYGOTE_GRACE, late, now);
        } else if logs {
            self.end_all(|role| role == Role::Log, LOG_GRACE, false, now);
        } else {
            self.phase = Phase::Over;
            self.act(Action::Exit(outcome));
        }
    }

    /// In reverse start order, one after the other: who is asked ends after those that ask it. Nobody
    /// who stays asks whom only another generation has.
    fn end_the_last_helper(&mut self, deadline: Instant, now: Instant) {
        let serving = self.crew.helpers.iter().filter_map(|helper| helper.post.occupant);
        let live = serving.chain(self.leaving_helpers()).rev().find_map(|birth| {
            let stage = &self.children.get(&birth)?.stage;
            (*stage != Stage::Stuck).then(|| (birth, stage.clone()))
        });
        let Some((birth, Stage::Ready | Stage::Serving)) = live else { return };
        self.drain(birth, deadline.min(self.drain_limit(birth, now)), now);
    }

    fn end_all(&mut self, role: fn(Role) -> bool, grace: Duration, late: bool, now: Instant) {
        let births: Vec<(Birth, Stage)> = self
            .children
            .iter()
            .filter(|(_, child)| role(child.role))
            .map(|(&birth, child)| (birth, child.stage.clone()))
            .collect();
        for (birth, stage) in births {
            match stage {
                Stage::Booting { .. } | Stage::Ready | Stage::Serving if late => {
                    self.kill(birth, "stopping at once".to_owned(), now);
                }
                Stage::Booting { .. } | Stage::Ready | Stage::Serving => self.drain(birth, now + grace, now),
                Stage::Ordered { .. }
                | Stage::Draining { .. }
                | Stage::Aborting { .. }
                | Stage::Killed { .. }
                | Stage::Stuck => {}
            }
        }
    }
}
