//! A reload, as it should be.

use std::time::{Duration, Instant};

use super::{
    Generation, HelperName, HelperOffer, Life, Phase, Place, Policy, ReloadNumber, Role, Rules, Side, Slot, Verdict,
    require, seat,
};
use crate::master::supervisor::{ABORT_GRACE, DRAIN_GRACE, KILL_GRACE, Progress, ReloadOutcome, ZYGOTE_GRACE};

/// A generation that is being proven, or was and is rolled back.
pub(super) struct Trial {
    number: ReloadNumber,
    pub(super) generation: Generation,
    since: Instant,
    policy: Option<Policy>,
    offers: Option<Vec<HelperOffer>>,
    kept: Vec<HelperName>,
    changed: Vec<HelperName>,
    /// The helpers that are going over, or have gone.
    lent: Vec<HelperName>,
    handed_over: usize,
    pub(super) accepting: Option<Instant>,
    /// It will not serve; since when.
    refused: bool,
    rolling_back: Option<Instant>,
}

impl Trial {
    pub(super) fn is_rolling_back(&self) -> bool {
        self.refused || self.rolling_back.is_some()
    }

    pub(super) fn is_lent(&self, name: HelperName) -> bool {
        self.lent.contains(&name)
    }

    pub(super) fn is_only_new(&self, name: HelperName) -> bool {
        !self.kept.contains(&name) && !self.changed.contains(&name)
    }

    pub(super) fn policy(&self) -> Option<Policy> {
        self.policy
    }

    pub(super) fn has_loaded(&self) -> bool {
        self.offers.is_some()
    }

    /// The helpers that the serving generation does not have.
    pub(super) fn only_new(&self) -> Vec<&HelperOffer> {
        self.offers.iter().flatten().filter(|offer| self.is_only_new(offer.name)).collect()
    }
}

impl Rules {
    // ---- facts ----------------------------------------------------------------------------------

    pub(super) fn prepared(&mut self, policy: Policy) {
        let Some(trial) = self.trial.as_mut().filter(|trial| trial.policy.is_none()) else { return };
        trial.policy = Some(policy);
        let zygote = Role::Zygote(trial.generation);
        self.place_for(zygote);
    }

    pub(super) fn not_prepared(&mut self) {
        if let Some(trial) = self.trial.as_mut().filter(|trial| trial.policy.is_none()) {
            trial.refused = true;
            self.duty.roll_back = true;
        }
    }

    pub(super) fn trial_loaded(&mut self, offers: &[HelperOffer]) {
        let Some(trial) = self.trial.as_mut().filter(|trial| !trial.has_loaded()) else { return };
        let (generation, policy) = (trial.generation, trial.policy);
        for offer in offers {
            match self.serving.helpers.iter().find(|old| old.name == offer.name) {
                Some(old) if old.version == offer.version && old.digest == offer.digest => trial.kept.push(offer.name),
                Some(_) => trial.changed.push(offer.name),
                None => {}
            }
        }
        trial.offers = Some(offers.to_vec());
        let new: Vec<HelperName> = trial.only_new().iter().map(|offer| offer.name).collect();
        for name in new {
            self.place_for(Role::Helper(name, generation));
        }
        for slot in 0..policy.map_or(0, |policy| policy.workers) {
            self.place_for(Role::Worker(Slot(slot), generation));
        }
        self.duty.waits = true;
    }

    /// What is new has no place any more, and what was lent is the serving generation's again.
    fn end_the_trial(&mut self, stopping: bool) {
        let Some(trial) = self.trial.as_mut() else { return };
        let (generation, lent) = (trial.generation, trial.lent.clone());
        if trial.policy.is_some() {
            self.past.insert(generation, trial.offers.clone().unwrap_or_default());
        }
        self.places.retain(|_, place| place.owner != Some(generation));
        for &name in &lent {
            self.place_for(Role::Helper(name, self.serving.generation));
            // Who is not born yet has nothing to make room with.
            let unborn = |life: &&mut Life| life.is_named(name) && life.born.is_none() && life.home != Some(generation);
            for life in self.lives.values_mut().filter(unborn) {
                (life.unwanted, life.makes_room) = (stopping, false);
            }
        }
        for life in self.lives.values_mut().filter(|life| life.home == Some(generation)) {
            life.unwanted = true;
            life.rolled_back = !stopping;
            // Its place is somebody else's again.
            life.makes_room = !stopping && matches!(life.role, Role::Helper(name, _) if lent.contains(&name));
        }
    }

    pub(super) fn trial_is_stopped(&mut self) {
        let running = self.trial.as_ref().is_some_and(|trial| trial.rolling_back.is_none());
        if running {
            self.end_the_trial(true);
        }
        if let Some(trial) = &mut self.trial {
            trial.refused = true;
        }
    }

    // ---- what is said ---------------------------------------------------------------------------

    pub(super) fn promise(&mut self, number: ReloadNumber) -> Verdict {
        let asked = std::mem::take(&mut self.duty.promise);
        let later = number > self.begun && self.promised.iter().all(|&other| other <= self.begun || other == number);
        require(asked && later, "who asks gets the result of the next run", format_args!("{number:?}"))?;
        self.promised.insert(number);
        Ok(())
    }

    pub(super) fn prepare(&self, generation: Generation) -> Verdict {
        let trial = self.trial.as_ref().filter(|trial| trial.generation == generation && trial.policy.is_none());
        require(trial.is_some_and(|trial| trial.since == self.now), "a run begins with its settings", generation.0)
    }

    pub(super) fn progress(&mut self, number: ReloadNumber, generation: Generation, progress: &Progress) -> Verdict {
        if *progress == Progress::Begun {
            return self.begins(number, generation);
        }
        let now = self.now;
        let serves = self.serving.generation;
        let ready = self.is_filled();
        let Some(trial) = self.trial.as_mut().filter(|trial| (trial.number, trial.generation) == (number, generation))
        else {
            return match progress {
                // Just now it was on trial.
                Progress::Committed { .. } => require(serves == generation, "one reload runs at a time", number.0),
                _ => require(false, "one reload runs at a time", format_args!("{progress:?}")),
            };
        };
        match progress {
            Progress::Begun | Progress::Committed { .. } | Progress::RolledBack => Ok(()),
            Progress::ZygoteLoaded => require(trial.has_loaded(), "a zygote loads first", number.0),
            Progress::Waiting(oldest) => {
                let other = *oldest != generation && *oldest != serves;
                require(self.duty.waits && other, "a third generation waits for the oldest", oldest)
            }
            Progress::WorkersReady { ready, of } => {
                let all = trial.policy.map_or(0, |policy| usize::from(policy.workers));
                let workers = self.lives.values().filter(|life| life.is_worker() && life.home == Some(generation));
                let count = workers.filter(|life| life.works()).count();
                require((count, all) == (*ready, *of), "the ready are counted", format_args!("{count} of {all}"))
            }
            Progress::HandingOver(name) => {
                let next = trial.changed.get(trial.lent.len()) == Some(name) && trial.handed_over == trial.lent.len();
                require(next && ready, "helpers go over when all else is ready, one by one", name)?;
                trial.lent.push(*name);
                self.lend(*name);
                Ok(())
            }
            Progress::HandedOver { helper, .. } => {
                let last = trial.lent.last() == Some(helper) && trial.handed_over + 1 == trial.lent.len();
                trial.handed_over += 1;
                let works = self.lives.values().filter(|life| life.is_named(*helper));
                let works = works.map(|life| life.home == Some(generation) && life.works()).collect::<Vec<_>>();
                require(last && works == [true], "a helper goes over when its successor serves", helper)
            }
            Progress::Accepting => {
                let over = trial.handed_over == trial.changed.len();
                trial.accepting = Some(now);
                require(over && ready, "new workers accept when all else is done", number.0)
            }
            Progress::Stable(_) => {
                let (accepting, policy) = (trial.accepting, trial.policy);
                self.is_proven(accepting, policy)
            }
            Progress::RollingBack { .. } => self.rolls_back(),
        }
    }

    fn begins(&mut self, number: ReloadNumber, generation: Generation) -> Verdict {
        let may = self.trial.is_none() && self.phase == Phase::Serving;
        require(may, "one reload runs at a time, of what serves", number.0)?;
        let expected = number > self.begun && self.promised.contains(&number);
        require(expected, "a reload is asked for", number.0)?;
        let fresh = generation > self.serving.generation && self.past.keys().all(|&past| generation > past);
        require(fresh, "a generation's number is never used again", generation.0)?;
        self.begun = number;
        self.nobody_follows();
        self.trial = Some(Trial {
            number,
            generation,
            since: self.now,
            policy: None,
            offers: None,
            kept: Vec::new(),
            changed: Vec::new(),
            lent: Vec::new(),
            handed_over: 0,
            accepting: None,
            refused: false,
            rolling_back: None,
        });
        Ok(())
    }

    /// Whether all new workers and all helpers that only the new generation has are ready.
    fn is_filled(&self) -> bool {
        let Some(trial) = &self.trial else { return false };
        let works = |role: Role| self.holder(seat(role)).is_some_and(|life| life.works() && self.is_new(life));
        let workers = trial.policy.map_or(0, |policy| policy.workers);
        trial.has_loaded()
            && works(Role::Zygote(trial.generation))
            && (0..workers).all(|slot| works(Role::Worker(Slot(slot), trial.generation)))
            && trial.only_new().iter().all(|offer| works(Role::Helper(offer.name, trial.generation)))
    }

    /// The helper's place is the new generation's; whoever is in it makes room.
    fn lend(&mut self, name: HelperName) {
        let generation = self.trial.as_ref().map(|trial| trial.generation);
        let seat = seat(Role::Helper(name, Generation(0)));
        if let Some((&birth, life)) = self.lives.iter_mut().find(|(_, life)| life.is_named(name)) {
            life.makes_room = true;
            life.unwanted = true;
            if life.born.is_some() && !life.is_ending() && !life.unkillable {
                self.duty.makes_room = Some(birth);
            }
        }
        self.places.insert(seat, Place::new(generation, self.now));
    }

    fn rolls_back(&mut self) -> Verdict {
        let stopping = self.is_stopping();
        let stuck = self.is_in_the_way();
        let Some(trial) = &mut self.trial else { return Ok(()) };
        let fails = self.duty.roll_back || stopping || stuck;
        require(fails, "a reload fails only if something of it does", trial.number.0)?;
        require(trial.rolling_back.is_none(), "a reload is rolled back once", trial.number.0)?;
        trial.rolling_back = Some(self.now);
        self.duty.roll_back = false;
        if !stopping {
            self.end_the_trial(false);
        }
        Ok(())
    }

    /// Whether a process that SIGKILL does not end is where one of the new ones should be.
    fn is_in_the_way(&self) -> bool {
        let Some(trial) = &self.trial else { return false };
        let going_over = trial.lent.last().filter(|_| trial.handed_over < trial.lent.len());
        let wanted =
            |name: HelperName| going_over == Some(&name) || trial.only_new().iter().any(|offer| offer.name == name);
        let in_the_way = |life: &Life| matches!(life.role, Role::Helper(name, _) if wanted(name));
        self.lives.values().any(|life| life.unkillable && in_the_way(life))
    }

    // ---- the result -----------------------------------------------------------------------------

    pub(super) fn reloaded(&mut self, number: ReloadNumber, generation: Generation, how: &ReloadOutcome) -> Verdict {
        require(self.promised.remove(&number), "who asks gets one result", number.0)?;
        self.reloads += 1;
        self.last_reload = Some((self.now, matches!(how, ReloadOutcome::Committed { .. })));
        let Some(trial) = self.trial.take_if(|trial| trial.number == number) else {
            let refused = self.is_stopping() && matches!(how, ReloadOutcome::RolledBack { .. });
            return require(refused, "a result is that of a run", number.0);
        };
        require(trial.generation == generation, "a result is that of its generation", generation)?;
        match how {
            ReloadOutcome::Committed { kept } => {
                require(*kept == trial.kept, "who is the same is kept", format_args!("{kept:?}"))?;
                require(trial.handed_over == trial.changed.len(), "who has changed goes over", number.0)?;
                require(!trial.is_rolling_back() && !self.duty.roll_back, "what fails does not serve", number.0)?;
                require(trial.accepting.is_some(), "new workers accept first", number.0)?;
                self.commit(trial);
                Ok(())
            }
            ReloadOutcome::RolledBack { .. } => {
                require(trial.is_rolling_back(), "a result is told when it is so", number.0)?;
                self.is_undone(&trial)
            }
        }
    }

    /// All that is new works, and has for long enough.
    fn is_proven(&self, accepting: Option<Instant>, policy: Option<Policy>) -> Verdict {
        let stable = policy.map_or(Duration::ZERO, |policy| policy.timeouts.stable);
        let long = accepting.is_some_and(|since| self.may_have_passed(since, stable));
        require(long, "what is new stays alive for a while first", format_args!("{accepting:?}"))?;
        let new = self.lives.values().filter(|life| self.is_new(life));
        let idle = new.filter(|life| !life.works() || life.role.is_forked() && !life.accepted).count();
        require(self.is_filled() && idle == 0, "what serves works", format_args!("{idle} do not"))
    }

    fn commit(&mut self, trial: Trial) {
        let (Some(policy), Some(helpers)) = (trial.policy, trial.offers) else { return };
        let side = Side { generation: trial.generation, policy, helpers, workers: policy.workers };
        self.backoff_max = self.backoff_max.max(policy.restart.backoff_max);
        let old = std::mem::replace(&mut self.serving, side);
        self.past.insert(old.generation, old.helpers);
        for name in &trial.kept {
            let seat = seat(Role::Helper(*name, Generation(0)));
            if let Some(place) = self.places.get_mut(&seat) {
                place.owner = Some(trial.generation);
            }
            let held = |life: &&mut Life| life.is_named(*name) && !life.unwanted;
            for life in self.lives.values_mut().filter(held) {
                life.home = Some(trial.generation);
            }
        }
        self.places.retain(|_, place| place.owner != Some(old.generation));
        for life in self.lives.values_mut().filter(|life| life.home == Some(old.generation)) {
            life.unwanted = true;
        }
    }

    /// Nothing new is left but what finishes its requests, and what was lent is back; or that takes
    /// too long.
    fn is_undone(&self, trial: &Trial) -> Verdict {
        if self.is_stopping() || trial.policy.is_none() {
            return Ok(());
        }
        let patience = self.rollback_max(trial);
        let waited = trial.rolling_back.is_some_and(|since| self.may_have_passed(since, patience));
        let left = |life: &&Life| life.home == Some(trial.generation) && !life.unkillable;
        let left = || self.lives.values().filter(left);
        let workers = left().any(Life::is_worker);
        let disturbs = |life: &&Life| match life.role {
            Role::Log => false,
            Role::Zygote(_) => true,
            Role::Helper(name, _) => trial.is_lent(name) || !workers,
            Role::Worker(..) => !(life.accepted && life.drained.is_some() && life.killed.or(life.aborted).is_none()),
        };
        let left = left().filter(disturbs).count();
        require(left == 0 || waited, "a roll back leaves nothing behind", format_args!("{left} processes"))?;
        let back = |name: &HelperName| {
            let holder = self.holder(seat(Role::Helper(*name, Generation(0))));
            holder.is_some_and(|life| life.works() && life.home != Some(trial.generation))
        };
        let away = trial.lent.iter().find(|name| !back(name));
        require(away.is_none() || waited, "what was handed over comes back", format_args!("{away:?}"))
    }

    fn rollback_max(&self, trial: &Trial) -> Duration {
        let drain = trial.policy.map_or(Duration::ZERO, |policy| policy.timeouts.drain);
        drain + DRAIN_GRACE + ABORT_GRACE + KILL_GRACE + self.serving.policy.timeouts.ready
    }

    // ---- what a step leaves ---------------------------------------------------------------------

    /// When all that is new has stayed alive for long enough, if nothing disturbs the clocks.
    pub(super) fn proven_at(&self) -> Option<Instant> {
        let trial = self.trial.as_ref().filter(|trial| !trial.is_rolling_back())?;
        let accepting = trial.accepting.filter(|&since| self.pauses_since(since).0 == 0)?;
        Some(accepting + trial.policy?.timeouts.stable)
    }

    pub(super) fn check_trial(&self) -> Verdict {
        require(!self.duty.promise, "who asks is promised a result", "it is not")?;
        let waits = self.promised.iter().next().is_some() && self.trial.is_none();
        let may_wait = self.phase == Phase::Starting;
        require(!waits || may_wait, "a reload that is asked for begins", "nobody begins it")?;
        let Some(trial) = &self.trial else { return Ok(()) };
        require(!self.is_stopping(), "a stop ends a reload", trial.number.0)?;
        let rolls_back = trial.rolling_back.is_some();
        require(!self.duty.roll_back || rolls_back, "the first failure ends a reload", trial.number.0)?;
        let hopeless = trial.has_loaded() && !rolls_back && self.is_in_the_way();
        require(!hopeless, "a helper that cannot be killed is not waited for", trial.number.0)?;
        if let Some(since) = trial.rolling_back {
            let long = self.has_passed(since, self.rollback_max(trial));
            return require(!long, "a roll back ends in time", trial.number.0);
        }
        require(!self.has_passed(trial.since, self.trial_max(trial)), "a reload ends in time", trial.number.0)
    }

    /// How long a reload may take: what waits in it, waits for somebody with a limit.
    fn trial_max(&self, trial: &Trial) -> Duration {
        let old = self.serving.policy.timeouts;
        let new = trial.policy.map_or(old, |policy| policy.timeouts);
        let forked = trial.offers.as_ref().map_or(0, Vec::len) + trial.policy.map_or(0, |policy| policy.workers.into());
        let births = new.ready * 2 * (1 + forked as u32);
        let makes_room = old.ready + self.slowest_drain() + DRAIN_GRACE + ABORT_GRACE + KILL_GRACE;
        // The oldest ends: its workers, then its helpers one by one, then its zygote.
        let steps = 2 + self.past.values().map(Vec::len).max().unwrap_or(0);
        let ends = self.slowest_drain() + DRAIN_GRACE + ABORT_GRACE + KILL_GRACE;
        let waits = ends * steps as u32 + ZYGOTE_GRACE + Duration::from_secs(1);
        births + waits + makes_room * trial.changed.len() as u32 + new.stable + Duration::from_secs(1)
    }

    fn slowest_drain(&self) -> Duration {
        let drains = self.lives.values().map(|life| life.timeouts.drain);
        drains.max().unwrap_or_default().max(self.serving.policy.timeouts.drain)
    }
}
