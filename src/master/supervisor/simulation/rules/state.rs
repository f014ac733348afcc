//! What a step leaves: whether anything was forgotten.

use std::time::Instant;

use super::ledger::{Life, Phase};
use super::{Generation, REFUSED_MAX, Rules, STOP_GRACE, Verdict, World, require};
use crate::contract::ids::{Birth, Role};
use crate::master::supervisor::{ABORT_GRACE, Action, DRAIN_GRACE, KILL_GRACE, LOG_GRACE, Supervisor, ZYGOTE_GRACE};

impl Rules {
    pub(in super::super) fn after(&mut self, actions: &[Action], supervisor: &Supervisor, world: &World) -> Verdict {
        if self.is_over() {
            return require(world.left_behind() == 0, "nothing is left behind", "a worker that nobody told of");
        }
        let most = 8 + 4 * (self.lives.len() + self.places.len());
        require(actions.len() <= most, "a step is bounded", actions.len())?;
        let agreed = self.is_stopping() == supervisor.is_stopping();
        require(agreed, "a stop is begun at once, and is told", self.is_stopping())?;
        let gives_up = !self.duty.give_up || self.phase != Phase::Starting;
        require(gives_up, "a start that cannot succeed ends", "it goes on")?;
        if let Some(birth) = self.duty.newborn
            && let Some(life) = self.lives.get(&birth)
        {
            let begun = life.begun || life.unwanted;
            require(begun, "a process begins once, at its birth, if it is wanted", format_args!("{birth:?} does not"))?;
        }
        if let Some(life) = self.duty.makes_room.and_then(|birth| self.lives.get(&birth)) {
            require(life.is_ending(), "a helper that is to be restarted is asked to end", life.role)?;
        }
        if !self.is_stopping() && supervisor.is_complete() {
            let mut ours = self
                .places
                .iter()
                .filter(|(_, place)| place.owner.is_none_or(|owner| owner == self.serving.generation));
            let whole = ours.all(|(&seat, _)| self.holder(seat).is_some_and(Life::works));
            require(whole, "who misses one is degraded", "it says that it serves")?;
        }
        for (&birth, life) in &self.lives {
            self.check_waits(birth, life)?;
            self.check_work(birth, life)?;
        }
        self.check_due(supervisor)?;
        self.check_places(supervisor)?;
        self.check_succession(supervisor)?;
        self.check_trial()?;
        self.check_stop()
    }

    /// Every wait has a limit, and what follows then has begun.
    fn check_waits(&self, birth: Birth, life: &Life) -> Verdict {
        let rule = "every wait has a limit";
        let timeouts = life.timeouts;
        let Some(born) = life.born else {
            return self.check_order(birth, life);
        };
        if let Some(killed) = life.killed {
            let known = life.unkillable || !self.has_passed(killed, KILL_GRACE);
            return require(known, rule, format_args!("{birth:?} was killed long ago"));
        }
        if let Some(aborted) = life.aborted {
            return require(
                !self.has_passed(aborted, ABORT_GRACE),
                rule,
                format_args!("{birth:?} was aborted long ago"),
            );
        }
        if let Some(drained) = life.drained {
            let grace = match life.role {
                Role::Log => LOG_GRACE,
                Role::Zygote(_) => ZYGOTE_GRACE,
                Role::Helper(..) | Role::Worker(..) => timeouts.drain + DRAIN_GRACE,
            };
            return require(!self.has_passed(drained, grace), rule, format_args!("{birth:?} drains for too long"));
        }
        let booted = life.ready.is_some() || !self.has_passed(born, timeouts.ready);
        require(booted, rule, format_args!("{birth:?} is not ready"))
    }

    fn check_order(&self, birth: Birth, life: &Life) -> Verdict {
        let Some(zygote) = life.zygote else {
            let answered = life.ordered == self.now;
            return require(answered, "the master's own births are answered at once", format_args!("{birth:?} is not"));
        };
        let zygote = self.lives.get(&zygote).filter(|zygote| !zygote.unkillable);
        let Some(zygote) = zygote else {
            return require(false, "no order is left with the dead", format_args!("{birth:?} is"));
        };
        let overdue = self.is_late() || self.has_passed(life.ordered, life.timeouts.ready);
        let what = format_args!("the order for {birth:?} is not answered");
        require(!overdue || zygote.is_ending(), "every wait has a limit", what)
    }

    /// Who is ready works, who hangs is ended, who is not wanted is ending.
    fn check_work(&self, birth: Birth, life: &Life) -> Verdict {
        let ending = life.is_ending() || life.born.is_none() || life.unkillable;
        let waits = self.may_wait(birth, life);
        require(!life.unwanted || ending || waits, "the unwanted are ended", format_args!("{birth:?} is not"))?;
        let ended = life.aborted.or(life.killed).is_some() || life.unkillable;
        require(!life.broken || ended, "who breaks the protocol is killed", format_args!("{birth:?} is not"))?;
        let late = self.is_late() && life.role.is_forked() && life.born.is_some();
        require(!late || ended, "a stop ends in time", format_args!("{birth:?} goes on"))?;
        let Some(ready) = life.ready.filter(|_| !ending) else {
            return Ok(());
        };
        if life.role.is_forked() && !life.unwanted && !self.waits_for_the_others(life) {
            require(life.accepted, "who is ready serves at once", format_args!("{birth:?} does not"))?;
        }
        if !life.is_zygote() {
            let pause = self.pauses.last().map_or(ready, |&(until, _)| until);
            let sign = life.heartbeat.map_or(ready, |at| at.max(ready)).max(pause);
            let silence = self.now.saturating_duration_since(sign);
            let what = format_args!("{birth:?} is silent for {silence:?}");
            require(silence < life.timeouts.hang, "who hangs is ended", what)?;
        }
        Ok(())
    }

    /// Whether somebody who may ask it has to end first, or anybody else in a stop.
    fn may_wait(&self, birth: Birth, life: &Life) -> bool {
        let home = life.home.unwrap_or(Generation(0));
        match life.role {
            Role::Helper(name, _) if life.ready.is_some() => {
                self.is_stopping() || !life.makes_room && self.is_needed(name, home)
            }
            Role::Zygote(_) => {
                let forked = self.live(|other| other.role.is_forked() && other.home == Some(home));
                !life.rolled_back && (self.is_stopping() || forked || self.owes(birth))
            }
            Role::Log | Role::Helper(..) | Role::Worker(..) => false,
        }
    }

    fn check_due(&self, supervisor: &Supervisor) -> Verdict {
        let due = supervisor.due();
        let limit = self.stop_limit();
        require(
            limit.is_none_or(|limit| due.is_some_and(|due| due <= limit)),
            "a stop ends in time",
            "the next look comes after it",
        )?;
        let proven = self.proven_at();
        let seen = proven.is_none_or(|proven| proven > self.now && due.is_some_and(|due| due <= proven));
        require(seen, "what is proven serves", "the next look comes later")?;
        require(due.is_none_or(|due| due > self.now), "the next look is ahead", "it is in the past")?;
        let workers = self.serving.workers;
        require(workers == supervisor.workers_wanted(), "the workers wanted are those asked for", workers)
    }

    /// A vacant place that can be filled will be, in time.
    fn check_places(&self, supervisor: &Supervisor) -> Verdict {
        let longest = self.backoff_max.max(REFUSED_MAX);
        for (&seat, place) in &self.places {
            let owner = place.owner.unwrap_or(Generation(0));
            let fillable = match seat {
                Role::Log => !self.is_stopping() || self.others_live(),
                Role::Zygote(_) => !self.is_stopping(),
                Role::Helper(name, _) => {
                    let role = Role::Helper(name, owner);
                    let free = self.has_free_zygote(owner) && !self.lives_somewhere(name);
                    !self.is_stopping() && free && self.has_whom_it_needs(role)
                }
                Role::Worker(..) => !self.is_stopping() && self.has_free_zygote(owner) && self.has_whom_it_needs(seat),
            };
            if fillable && self.holder(seat).is_none() {
                let (role, new) = (seat, owner > self.serving.generation);
                require(!new, "a reload does not dawdle", role)?;
                require(!place.at_once, "who makes room is followed at once", role)?;
                let in_time = |due: Instant| due <= place.vacant_since + longest;
                let what = format_args!("{role} is vacant since {:?}", self.now - place.vacant_since);
                require(supervisor.due().is_some_and(in_time), "no place is forgotten", what)?;
            }
        }
        Ok(())
    }

    fn check_stop(&self) -> Verdict {
        match self.phase {
            Phase::Stopping { since, within, .. } => {
                let helpers = |life: &&Life| life.is_helper() && !life.unkillable;
                let ends = |life: &Life| life.is_ending() || life.born.is_none();
                let idle = !self.live(Life::is_worker)
                    && self.live(Life::is_helper)
                    && !self.lives.values().filter(helpers).any(ends);
                require(!idle, "after the workers the helpers end", "none of them does")?;
                let what = format_args!("{} processes live", self.lives.len());
                require(!self.has_passed(since, within + STOP_GRACE), "a stop ends in time", what)
            }
            Phase::Starting | Phase::Serving | Phase::Over => Ok(()),
        }
    }
}
