//! A worker that is worn and followed by another one, as it should be.

use std::time::{Duration, Instant};

use super::{Life, Phase, Place, REFUSED_MAX, Role, Rules, Slot, Verdict, require};
use crate::contract::ids::Birth;
use crate::master::supervisor::{Supervisor, WORN_AGE_MIN};

/// A slot that is to have a new worker before the last one ends.
pub(super) struct Succession {
    slot: Slot,
    /// The successor's.
    pub(super) place: Place,
}

impl Rules {
    // ---- facts ----------------------------------------------------------------------------------

    pub(super) fn worn(&mut self, birth: Birth) {
        if let Some(life) = self.lives.get_mut(&birth).filter(|life| life.is_worker()) {
            life.worn = true;
        }
    }

    /// A successor has failed: its place is vacant for so long.
    pub(super) fn successor_is_gone(&mut self, rest: Duration) {
        if let Some(succession) = &mut self.succession {
            succession.place.vacate(self.now, rest);
        }
    }

    /// Nobody has this slot any more: who was to follow has it.
    pub(super) fn is_bereft(&mut self, role: Role) {
        if self.is_followed(role) {
            self.succession = None;
            for life in self.lives.values_mut().filter(|life| life.role == role) {
                life.follows = false;
            }
        }
    }

    /// Nobody is followed any more, and who was to follow is not wanted.
    pub(super) fn nobody_follows(&mut self) {
        self.succession = None;
        for life in self.lives.values_mut().filter(|life| life.follows) {
            (life.follows, life.unwanted) = (false, true);
        }
    }

    /// The slots from this one on are gone.
    pub(super) fn slots_are_gone(&mut self, first: u16) {
        self.succession.take_if(|succession| succession.slot.0 >= first);
    }

    fn is_followed(&self, role: Role) -> bool {
        let slot = self.succession.as_ref().map(|succession| succession.slot);
        matches!(role, Role::Worker(of, generation) if Some(of) == slot && generation == self.serving.generation)
    }

    fn is_worn(&self, life: &Life) -> bool {
        life.is_worker() && (life.worn || self.birthday(life).is_some_and(|day| day <= self.now))
    }

    /// When it is too old.
    fn birthday(&self, life: &Life) -> Option<Instant> {
        Some(life.born? + self.serving.policy.age_max?)
    }

    /// Who is to be followed.
    fn may_be_followed(&self, life: &Life) -> bool {
        let serves = life.home == Some(self.serving.generation) && life.works() && life.holds_its_place();
        let grown_up = life.born.is_some_and(|born| born + WORN_AGE_MIN <= self.now);
        serves && grown_up && !life.unkillable && self.is_worn(life)
    }

    /// Whether a succession may begin: none is under way, and not too many that were followed are there still.
    fn has_time_to_follow(&self) -> bool {
        let retired = self.lives.values().filter(|life| life.is_worker() && life.unwanted && !life.unkillable).count();
        let calm = self.phase == Phase::Serving && self.trial.is_none() && self.succession.is_none();
        calm && retired < usize::from(self.serving.workers)
    }

    // ---- what is done ---------------------------------------------------------------------------

    pub(super) fn begins_to_follow(&mut self, birth: Birth, role: Role) -> Verdict {
        let worn = self.lives.get(&birth).is_some_and(|life| life.role == role && self.may_be_followed(life));
        // After a failure it is another slot's turn; what fails is not tried again at once in that either.
        let fails = self.succession.is_some() && !self.has_successor() && !self.is_followed(role);
        let calm = self.phase == Phase::Serving && self.trial.is_none();
        let may = worn && (self.has_time_to_follow() || fails && calm);
        require(may, "the worn are followed, one slot at a time", role)?;
        if let Role::Worker(slot, _) = role {
            let new = || Place::new(role.generation(), self.now);
            let place = self.succession.take().map_or_else(new, |succession| succession.place);
            self.succession = Some(Succession { slot, place });
        }
        Ok(())
    }

    /// The place that an order fills: a successor's beside the one that it follows.
    pub(super) fn place_to_fill(&self, role: Role) -> Option<&Place> {
        let alone = self.holder(super::seat(role)).is_none();
        let successors = self.succession.as_ref().filter(|_| !alone && self.is_followed(role));
        let own = || self.places.get(&super::seat(role)).filter(|place| alone && place.owner == role.generation());
        successors.map(|succession| &succession.place).or_else(own)
    }

    /// Whether somebody follows, or is about to.
    pub(super) fn has_successor(&self) -> bool {
        self.lives.values().any(|life| life.follows && !life.unwanted && !life.unkillable)
    }

    /// The successor serves: the slot is its own, and the last one is to end.
    pub(super) fn takes_over(&mut self, birth: Birth) {
        let Some(role) = self.lives.get(&birth).filter(|life| life.follows && life.works()).map(|life| life.role)
        else {
            return;
        };
        for (&other, life) in self.lives.iter_mut().filter(|(_, life)| life.role == role) {
            life.follows = false;
            life.unwanted |= other != birth;
        }
        self.succession = None;
    }

    // ---- what a step leaves ---------------------------------------------------------------------

    pub(super) fn check_succession(&self, supervisor: &Supervisor) -> Verdict {
        let forgotten = self.lives.values().find(|life| self.has_time_to_follow() && self.may_be_followed(life));
        let what = forgotten.map_or_else(String::new, |life| format!("{} is not", life.role));
        require(forgotten.is_none(), "the worn are followed", what)?;
        let due = supervisor.due();
        let waits_for = |life: &&Life| {
            let watched = self.phase == Phase::Serving && self.trial.is_none() && life.holds_its_place();
            watched
                && life.is_worker()
                && life.works()
                && life.home == Some(self.serving.generation)
                && !life.unkillable
        };
        let day = |life: &Life| if life.worn { Some(life.born? + WORN_AGE_MIN) } else { self.birthday(life) };
        let next = self.lives.values().filter(waits_for).filter_map(day);
        let next = next.filter(|&day| day > self.now).min();
        let seen = next.is_none_or(|day| due.is_some_and(|due| due <= day));
        require(seen, "the worn are followed", "the next look comes after a birthday")?;
        let Some(succession) = &self.succession else { return Ok(()) };
        let idle = !self.has_successor() && self.has_free_zygote(self.serving.generation);
        let in_time = |due: Instant| due <= succession.place.vacant_since + self.backoff_max.max(REFUSED_MAX);
        let what = format_args!("the successor of slot {}", succession.slot.0);
        require(!idle || due.is_some_and(in_time), "no place is forgotten", what)
    }
}
