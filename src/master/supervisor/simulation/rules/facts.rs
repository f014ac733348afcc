//! What an event changes, before the supervisor has said anything.

use std::time::{Duration, Instant};

use super::{
    Birth, CRASH_REST, Duty, Generation, HelperName, HelperOffer, Life, Phase, Place, REFUSED_REST, Role, Rules, Slot,
    seat,
};
use crate::master::supervisor::Event;

impl Rules {
    pub(in super::super) fn before(&mut self, event: &Event, now: Instant) {
        self.now = now;
        self.duty = Duty::default();
        match event {
            Event::Born(birth) => {
                if let Some(life) = self.lives.get_mut(birth).filter(|life| life.born.is_none()) {
                    life.born = Some(now);
                    self.duty.newborn = Some(*birth);
                }
            }
            Event::BirthFailed(birth, _) => {
                self.duty.give_up = self.phase == Phase::Starting;
                self.fails(*birth);
                self.remove(*birth, REFUSED_REST);
            }
            Event::Ready(birth) => self.ready(*birth),
            Event::Loaded(birth, offers) => self.loaded(*birth, offers),
            Event::Refused(birth, ..) => {
                let zygote = self.lives.get(birth).is_some_and(Life::is_zygote);
                self.duty.give_up = zygote && self.phase == Phase::Starting;
                self.fails(*birth);
            }
            Event::Broken(birth, _) => {
                if let Some(life) = self.lives.get_mut(birth).filter(|life| life.born.is_some()) {
                    life.broken = true;
                    self.fails(*birth);
                }
            }
            Event::Exited(birth, _) => self.died(*birth),
            Event::Heartbeat(birth, at) => {
                if let Some(life) = self.lives.get_mut(birth) {
                    life.heartbeat = Some(*at);
                }
            }
            Event::Worn(birth, _) => self.worn(*birth),
            Event::Scale(workers) if !self.is_stopping() => self.scale(*workers),
            Event::Restart(helper) if !self.is_stopping() => self.restart(*helper),
            Event::Scale(_) | Event::Restart(_) => {}
            Event::Reload => self.duty.promise = true,
            Event::Prepared(policy) => self.prepared(*policy),
            Event::NotPrepared(_) => self.not_prepared(),
            Event::Stop => self.told_to_stop(self.serving.policy.timeouts.stop),
            Event::Quit => self.told_to_stop(Duration::ZERO),
            Event::Tick => {}
        }
    }

    /// What is new fails, and the reload with it.
    pub(super) fn fails(&mut self, birth: Birth) {
        self.duty.roll_back |= self.lives.get(&birth).is_some_and(|life| self.is_new(life));
    }

    fn ready(&mut self, birth: Birth) {
        let expected = |life: &&mut Life| life.begun && !life.is_ending() && life.ready.is_none();
        if let Some(life) = self.lives.get_mut(&birth).filter(expected) {
            life.ready = Some(self.now);
        }
    }

    fn loaded(&mut self, zygote: Birth, offers: &[HelperOffer]) {
        let home = self.lives.get(&zygote).and_then(|life| life.home);
        if home == Some(self.serving.generation) {
            self.adopt(offers);
        } else if self.lives.get(&zygote).is_some_and(|life| self.is_new(life)) {
            self.trial_loaded(offers);
        }
        self.ready(zygote);
    }

    fn adopt(&mut self, offers: &[HelperOffer]) {
        if self.serving.helpers.is_empty() {
            self.serving.helpers = offers.to_vec();
            for offer in offers {
                self.place_for(Role::Helper(offer.name, self.serving.generation));
            }
        }
    }

    pub(super) fn place_for(&mut self, role: Role) {
        self.places.insert(seat(role), Place::new(role.generation(), self.now));
    }

    fn restart(&mut self, name: HelperName) {
        let serving = self.serving.helpers.iter().any(|offer| offer.name == name);
        if !serving || self.trial.as_ref().is_some_and(|trial| trial.is_lent(name)) {
            return;
        }
        let seat = seat(Role::Helper(name, Generation(0)));
        let now = self.now;
        match self.lives.iter_mut().find(|(_, life)| life.seat() == seat && life.holds_its_place()) {
            Some((_, life)) if life.born.is_none() || life.is_ending() => {}
            Some((&birth, life)) => {
                life.makes_room = true;
                self.duty.makes_room = Some(birth);
            }
            None => {
                if let Some(place) = self.places.get_mut(&seat) {
                    place.vacate(now, Duration::ZERO);
                    place.at_once = true;
                }
            }
        }
    }

    pub(super) fn remove(&mut self, birth: Birth, rest: Duration) {
        let Some(life) = self.lives.remove(&birth) else {
            return;
        };
        if life.follows {
            return self.successor_is_gone(rest);
        }
        let held = life.holds_its_place();
        let alone = self.holder(life.seat()).is_none();
        let Some(place) = self.places.get_mut(&life.seat()) else { return };
        if held {
            place.vacate(self.now, rest);
            place.at_once = life.makes_room;
            self.is_bereft(life.role);
        } else if alone && life.is_helper() {
            // It stood in the way of another generation's.
            place.vacant_since = self.now;
        }
    }

    fn died(&mut self, birth: Birth) {
        let (now, restart) = (self.now, self.serving.policy.restart);
        let mut rest = Duration::ZERO;
        self.fails(birth);
        let life = self.lives.get(&birth);
        let place = match life {
            Some(life) if life.follows => self.succession.as_mut().map(|succession| &mut succession.place),
            Some(life) if life.holds_its_place() && !life.makes_room => self.places.get_mut(&life.seat()),
            Some(_) | None => None,
        };
        if let Some((life, place)) = life.zip(place) {
            place.deaths.push(now);
            place.deaths.retain(|&death| now - death <= restart.period);
            let loops = place.deaths.len() > restart.intensity as usize;
            if loops {
                rest = CRASH_REST.min(restart.backoff_max / 2);
            }
            self.duty.give_up = (loops || life.is_zygote()) && self.phase == Phase::Starting;
        }
        self.remove(birth, rest);
    }

    pub(super) fn scale(&mut self, workers: u16) {
        let generation = self.serving.generation;
        for slot in self.serving.workers..workers {
            self.place_for(Role::Worker(Slot(slot), generation));
        }
        self.slots_are_gone(workers);
        for slot in workers..self.serving.workers {
            let role = Role::Worker(Slot(slot), generation);
            self.places.remove(&role);
            for life in self.lives.values_mut().filter(|life| life.role == role) {
                (life.follows, life.unwanted) = (false, true);
            }
        }
        self.serving.workers = workers;
    }

    fn told_to_stop(&mut self, within: Duration) {
        match self.phase {
            Phase::Starting | Phase::Serving => self.stop(within, true),
            Phase::Stopping { told, .. } if !self.is_late() => self.stop(Duration::ZERO, told),
            Phase::Stopping { .. } | Phase::Over => {}
        }
    }

    pub(super) fn stop(&mut self, within: Duration, told: bool) {
        self.scale(0);
        self.trial_is_stopped();
        // Nobody waits for a helper that does not work yet.
        for life in self.lives.values_mut().filter(|life| life.is_helper() && life.ready.is_none()) {
            life.unwanted = true;
        }
        self.phase = Phase::Stopping { since: self.now, within, told };
    }
}
