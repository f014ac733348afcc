//! One supervisor that is told what happens, step by step.

use std::collections::VecDeque;
use std::time::{Duration, Instant};

use crate::contract::ids::Birth;
use crate::master::supervisor::{Action, Event, Policy, Supervisor};
use crate::settings::{Restart, Timeouts};

pub(super) const POLICY: Policy = Policy {
    workers: 1,
    timeouts: Timeouts {
        ready: Duration::from_secs(20),
        stable: Duration::from_secs(1),
        hang: Duration::from_secs(10),
        drain: Duration::from_secs(5),
        stop: Duration::from_secs(8),
    },
    restart: Restart { intensity: 5, period: Duration::from_secs(10), backoff_max: Duration::from_secs(5) },
    age_max: None,
};

/// In this order everything is born.
pub(super) const LOG: Birth = Birth(1);
pub(super) const ZYGOTE: Birth = Birth(2);
pub(super) const WORKER: Birth = Birth(3);

/// A supervisor whose own births succeed, and whose children's hearts beat.
pub(super) struct Play {
    pub(super) supervisor: Supervisor,
    pub(super) now: Instant,
}

impl Play {
    pub(super) fn start(policy: Policy) -> Self {
        let now = Instant::now();
        let mut play = Self { supervisor: Supervisor::new(policy, 1, now), now };
        play.tell(Event::Tick);
        play
    }

    /// All of it serves.
    pub(super) fn serving(policy: Policy) -> Self {
        let mut play = Self::start(policy);
        play.tell(Event::Ready(LOG));
        play.tell(Event::Loaded(ZYGOTE, Vec::new()));
        for worker in 0..u64::from(policy.workers) {
            play.answer(Birth(WORKER.0 + worker));
        }
        assert_eq!(play.supervisor.view().state, "serving");
        play
    }

    pub(super) fn tell(&mut self, event: Event) -> Vec<Action> {
        let mut events = VecDeque::from([event]);
        let mut all = Vec::new();
        while let Some(event) = events.pop_front() {
            let actions = self.supervisor.step(event, self.now);
            events.extend(actions.iter().filter_map(|action| match action {
                Action::ForkLog(birth) | Action::StartZygote(birth, _) => Some(Event::Born(*birth)),
                _ => None,
            }));
            all.extend(actions);
        }
        all
    }

    /// The zygote has made this worker, and it is ready.
    pub(super) fn answer(&mut self, worker: Birth) -> Vec<Action> {
        let mut all = self.tell(Event::Born(worker));
        all.extend(self.tell(Event::Ready(worker)));
        all
    }

    pub(super) fn exit(&mut self, birth: Birth) -> Vec<Action> {
        self.tell(Event::Exited(birth, "exited with 0".to_owned()))
    }

    /// Lets time pass as the master does.
    pub(super) fn wait(&mut self, time: Duration) -> Vec<Action> {
        let until = self.now + time;
        let mut all = Vec::new();
        while self.now < until && !all.iter().any(|action| matches!(action, Action::Exit(_))) {
            self.now = self.supervisor.due().map_or(until, |due| due.clamp(self.now, until));
            for place in self.supervisor.view().places {
                let beat = place.birth.map(|birth| Event::Heartbeat(birth, self.now));
                all.extend(beat.into_iter().flat_map(|beat| self.tell(beat)));
            }
            all.extend(self.tell(Event::Tick));
        }
        all
    }

    /// Nothing runs.
    pub(super) fn pause(&mut self, time: Duration) -> Vec<Action> {
        self.now += time;
        self.tell(Event::Tick)
    }

    pub(super) fn live(&self) -> usize {
        self.supervisor.view().places.iter().filter(|place| place.birth.is_some()).count()
    }
}
