//! Whether an action may be taken, and what it changes.

use super::{Life, Phase, Rules, Verdict, World, require, seat};
use crate::contract::ids::{Birth, Generation, Role};
use crate::master::supervisor::{
    ABORT_GRACE, Action, DRAIN_GRACE, KILL_GRACE, LOG_GRACE, Outcome, Report, ZYGOTE_GRACE,
};
use crate::settings::Timeouts;

impl Rules {
    pub(in super::super) fn act(&mut self, action: &Action, world: &World) -> Verdict {
        let now = self.now;
        require(!self.is_over(), "there is one end, and nothing after it", format_args!("{action:?}"))?;
        match *action {
            Action::ForkLog(birth) => self.fork_log(birth),
            Action::StartZygote(birth, generation) => self.start_zygote(birth, generation),
            Action::Fork { birth, role, zygote } => self.fork(birth, role, zygote),
            Action::Forget(birth) => self.forget(birth),
            Action::Begin(birth) => {
                let newborn = self.duty.newborn == Some(birth);
                let life = self.process(birth)?;
                let may = newborn && !life.begun && !life.unwanted;
                life.begun = true;
                let alone = !life.is_helper() || !world.has_double(birth);
                require(alone, "there is one process of a helper", format_args!("{birth:?} is another"))?;
                require(may, "a process begins once, at its birth, if it is wanted", format_args!("{birth:?}"))
            }
            Action::Accept(birth) => {
                let held = self.lives.get(&birth).is_some_and(|life| self.waits_for_the_others(life));
                self.takes_over(birth);
                let life = self.process(birth)?;
                let may = life.role.is_forked() && life.works() && !life.accepted && !life.unwanted;
                life.accepted = true;
                require(!held, "new workers accept when all are ready and all helpers handed over", life.role)?;
                require(may, "a helper or a worker accepts once, when it is ready", format_args!("{birth:?}"))
            }
            Action::Drain(birth) => {
                self.may_drain(birth)?;
                self.process(birth)?.drained = Some(now);
                Ok(())
            }
            Action::Abort(birth) => {
                self.may_abort(birth, world)?;
                self.fails(birth);
                self.process(birth)?.aborted = Some(now);
                Ok(())
            }
            Action::Kill(birth) => {
                self.may_kill(birth)?;
                self.fails(birth);
                self.process(birth)?.killed = Some(now);
                Ok(())
            }
            Action::Prepare(generation) => self.prepare(generation),
            Action::Promise(number) => self.promise(number),
            Action::Reloaded { number, generation, ref outcome } => self.reloaded(number, generation, outcome),
            Action::Report(ref report) => self.told(report),
            Action::Exit(ref outcome) => self.exit(outcome),
        }
    }

    /// The process of this birth, if there is one.
    fn process(&mut self, birth: Birth) -> Result<&mut Life, super::Violation> {
        let life = self.lives.get_mut(&birth).filter(|life| life.born.is_some());
        life.ok_or_else(|| super::Violation { rule: "nobody acts on the gone", what: format!("{birth:?}") })
    }

    // ---- births ---------------------------------------------------------------------------------

    /// The order for a process that fills a place.
    fn order(&mut self, birth: Birth, role: Role, zygote: Option<Birth>) -> Verdict {
        require(birth > self.last_birth, "no birth is used twice", format_args!("{birth:?}"))?;
        self.last_birth = birth;
        let Some(place) = self.place_to_fill(role) else {
            return require(false, "only what is wanted is made, once", role);
        };
        let rested = self.now >= place.vacant_since + place.rest;
        require(rested, "what fails is not tried again at once", role)?;
        let follows = self.holder(seat(role)).is_some();
        require(!follows || !self.has_successor(), "a place is filled once", role)?;
        let life = Life::ordered(role, zygote, self.timeouts_of(role.generation()), self.now);
        self.lives.insert(birth, Life { follows, ..life });
        Ok(())
    }

    fn timeouts_of(&self, generation: Option<Generation>) -> Timeouts {
        let serving = self.serving.policy.timeouts;
        let trial = self.trial.as_ref().filter(|trial| Some(trial.generation) == generation);
        trial.and_then(|trial| trial.policy()).map_or(serving, |policy| policy.timeouts)
    }

    fn fork_log(&mut self, birth: Birth) -> Verdict {
        let wanted = !self.is_stopping() || self.others_live();
        require(wanted, "only what is wanted is made", "helper log")?;
        self.order(birth, Role::Log, None)
    }

    fn start_zygote(&mut self, birth: Birth, generation: Generation) -> Verdict {
        require(!self.is_stopping(), "only what is wanted is made", "zygote")?;
        self.order(birth, Role::Zygote(generation), None)
    }

    fn fork(&mut self, birth: Birth, role: Role, zygote: Birth) -> Verdict {
        let generation = match role {
            Role::Helper(_, generation) | Role::Worker(_, generation) => generation,
            Role::Log | Role::Zygote(_) => return require(false, "a zygote makes helpers and workers", role),
        };
        require(!self.is_stopping(), "only what is wanted is made", role)?;
        let parent = self.process(zygote)?;
        let loaded = parent.role == Role::Zygote(generation) && parent.works();
        let what = format_args!("{role} from {zygote:?}");
        require(loaded && !self.owes(zygote), "one order at a time, to a zygote that is loaded", what)?;
        let order = "helpers start after those they ask, workers after all helpers";
        require(self.has_whom_it_needs(role), order, format_args!("{role} is early"))?;
        self.order(birth, role, Some(zygote))?;
        // Of whatever generation, ordered, ending, or not to be killed.
        let counts = |life: &&Life| life.is_helper() || !(life.is_ending() || life.unkillable);
        let living = self.lives.values().filter(|life| life.seat() == seat(role)).filter(counts).count();
        // Beside one that is worn, and works or is about to be replaced, its successor.
        let all = if self.lives[&birth].follows { 1..=2 } else { 1..=1 };
        require(all.contains(&living), "a helper or a slot has one process", role)
    }

    fn forget(&mut self, birth: Birth) -> Verdict {
        let unanswered = self.lives.get(&birth).is_some_and(|life| life.role.is_forked() && life.born.is_none());
        let zygote = self.lives.get(&birth).and_then(|life| self.lives.get(&life.zygote?));
        let answers = zygote.is_some_and(|zygote| !zygote.unkillable);
        let may = unanswered && !answers;
        require(may, "only an order that nobody will answer is forgotten", format_args!("{birth:?}"))?;
        self.remove(birth, std::time::Duration::ZERO);
        Ok(())
    }

    // ---- ends -----------------------------------------------------------------------------------

    /// Workers are asked to end when they are not wanted; then helpers, the last one first; then
    /// zygotes; then the log helper: of one generation, or of all. A helper also when it makes room.
    fn may_drain(&mut self, birth: Birth) -> Verdict {
        let life = self.process(birth)?;
        let (role, unwanted, makes_room) = (life.role, life.unwanted, life.makes_room);
        let first = life.drained.is_none() && life.aborted.is_none() && life.killed.is_none();
        require(first, "who is ending is not asked to", format_args!("{birth:?}"))?;
        let home = life.home.unwrap_or(Generation(0));
        let (stopping, serves) = (self.is_stopping(), home == self.serving.generation);
        let others = |life: &Life| life.is_helper() && life.home != Some(home);
        let may = match role {
            Role::Worker(..) => unwanted,
            Role::Helper(name, _) if stopping => {
                let last = !serves || !self.live(others);
                !self.live(Life::is_worker) && last && !self.is_needed(name, home)
            }
            Role::Helper(name, _) => makes_room || (unwanted && !self.is_needed(name, home)),
            Role::Zygote(_) if stopping => !self.live(|life| life.role.is_forked()),
            Role::Zygote(_) => {
                unwanted && !self.live(|life| life.role.is_forked() && life.home == Some(home)) && !self.owes(birth)
            }
            Role::Log => self.is_stopping() && !self.live(|life| life.role != Role::Log),
        };
        require(may, "workers end first, then helpers, then zygotes, then the log helper", role)
    }

    /// A new worker that is ready before the others, or before the helpers have gone over.
    pub(super) fn waits_for_the_others(&self, life: &Life) -> bool {
        let waits =
            self.trial.as_ref().is_some_and(|trial| trial.accepting.is_none() && life.home == Some(trial.generation));
        waits && life.is_worker()
    }

    fn may_abort(&mut self, birth: Birth, world: &World) -> Verdict {
        let life = self.process(birth)?;
        let (role, ready, drained, hang) = (life.role, life.ready, life.drained, life.timeouts.hang);
        let first = life.aborted.is_none() && life.killed.is_none() && !life.unkillable;
        require(first, "a signal is sent once", format_args!("SIGABRT to {birth:?}"))?;
        // Who boots has no heartbeat yet.
        let sign = ready.map_or(drained, |ready| life.heartbeat.max(Some(ready)));
        let silent = sign.is_some_and(|sign| self.now.saturating_duration_since(sign) >= hang);
        let hangs = silent && !world.is_well(birth) && !matches!(role, Role::Zygote(_));
        require(hangs, "the well are left alone", format_args!("SIGABRT to {birth:?}, {role}"))
    }

    fn may_kill(&mut self, birth: Birth) -> Verdict {
        self.process(birth)?;
        let life = &self.lives[&birth];
        let first = life.killed.is_none() && !life.unkillable;
        require(first, "a signal is sent once", format_args!("SIGKILL to {birth:?}"))?;
        let timeouts = life.timeouts;
        let passed = |since: Option<_>, wait| since.is_some_and(|since| self.may_have_passed(since, wait));
        let overdue = life.ready.is_none() && passed(life.born, timeouts.ready);
        let late = self.may_be_late();
        let for_role = match life.role {
            Role::Helper(..) => {
                let unready = (life.unwanted || life.makes_room) && life.ready.is_none();
                unready || late || passed(life.drained, timeouts.drain + DRAIN_GRACE)
            }
            Role::Worker(..) => {
                let unborn = life.unwanted && !life.accepted;
                unborn || (life.unwanted && late) || passed(life.drained, timeouts.drain + DRAIN_GRACE)
            }
            Role::Zygote(_) => {
                let owes = |order: &Life| order.zygote == Some(birth) && order.born.is_none();
                let silent = |order: &Life| owes(order) && (late || passed(Some(order.ordered), timeouts.ready));
                let last = late && !self.live(|life| life.role.is_forked());
                self.lives.values().any(silent) || last || life.rolled_back || passed(life.drained, ZYGOTE_GRACE)
            }
            Role::Log => passed(life.drained, LOG_GRACE),
        };
        let may = life.broken || overdue || for_role || passed(life.aborted, ABORT_GRACE);
        require(may, "the well are left alone", format_args!("SIGKILL to {birth:?}, {}", life.role))
    }

    fn may_be_late(&self) -> bool {
        match self.phase {
            Phase::Stopping { since, within, .. } => self.may_have_passed(since, within),
            Phase::Starting | Phase::Serving | Phase::Over => false,
        }
    }

    // ---- what is said ---------------------------------------------------------------------------

    fn told(&mut self, report: &Report) -> Verdict {
        match report {
            Report::Serving => {
                let whole = self
                    .places
                    .keys()
                    .all(|&seat| matches!(seat, Role::Zygote(_)) || self.holder(seat).is_some_and(Life::works));
                let first = self.phase == Phase::Starting;
                self.phase = Phase::Serving;
                require(whole && first, "serving is said once, when all serve", "it is not so")
            }
            Report::Unkillable(birth, role) => self.given_up(*birth, *role),
            Report::Recycling(birth, role, _) => self.begins_to_follow(*birth, *role),
            Report::Paused(gap) => {
                let true_gap = |&(until, lasts): &(_, _)| until == self.now && *gap <= lasts;
                let paused = self.pauses.last().is_some_and(true_gap);
                // Who stood still has proven nothing.
                if let Some(accepting) = self.trial.as_mut().and_then(|trial| trial.accepting.as_mut()) {
                    *accepting = self.now;
                }
                require(paused, "a pause is what nothing ran in", format_args!("{gap:?}"))
            }
            Report::Stopping { .. } => {
                if !self.is_stopping() {
                    let why = "the phase is past starting, or nothing failed";
                    require(self.duty.give_up, "the service ends only when it is told to", why)?;
                    self.stop(self.serving.policy.timeouts.stop, false);
                }
                Ok(())
            }
            Report::Reload(number, generation, progress) => self.progress(*number, *generation, progress),
            Report::NotRestarted(name) => {
                let lent = self.trial.as_ref().is_some_and(|trial| trial.is_lent(*name));
                require(lent, "only who goes over anyway is not restarted", name)
            }
            _ => Ok(()),
        }
    }

    fn given_up(&mut self, birth: Birth, role: Role) -> Verdict {
        let killed = self.process(birth)?.killed;
        let patient = killed.is_some_and(|killed| self.may_have_passed(killed, KILL_GRACE));
        require(patient, "nobody is given up early", format_args!("{birth:?}"))?;
        let life = self.process(birth)?;
        life.unkillable = true;
        let follows = std::mem::take(&mut life.follows);
        life.unwanted |= follows;
        let held = !life.unwanted;
        if follows {
            self.successor_is_gone(std::time::Duration::ZERO);
        }
        self.duty.give_up = held && self.phase == Phase::Starting;
        let now = self.now;
        if let Some(place) =
            self.places.get_mut(&seat(role)).filter(|_| held && !matches!(role, Role::Log | Role::Helper(..)))
        {
            place.vacate(now, std::time::Duration::ZERO);
            self.is_bereft(role);
        }
        Ok(())
    }

    fn exit(&mut self, outcome: &Outcome) -> Verdict {
        let left = self.lives.values().filter(|life| !life.unkillable).count();
        require(left == 0, "nothing is left behind", format_args!("{left} processes"))?;
        require(self.promised.is_empty(), "who asks gets one result", "somebody waits")?;
        let Phase::Stopping { told, .. } = self.phase else {
            return require(false, "the service ends only when it is told to", "it was not");
        };
        let what = format_args!("told: {told}, {outcome:?}");
        require(told == (*outcome == Outcome::Stopped), "the outcome says why", what)?;
        self.phase = Phase::Over;
        Ok(())
    }
}
