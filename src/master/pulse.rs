//! What the master looks at by itself: whether loops turn, and how large workers have become.

use std::time::{Duration, Instant};

use super::probe::Sign;
use super::supervisor::{Event, Wear};
use super::{Master, status};
use crate::contract::ids::{Birth, Role};
use crate::contract::time::monotonic_ms;

/// How often memory is looked at: that of the workers, where they have a limit, and whether the system has enough.
const WEIGH_EVERY: Duration = Duration::from_secs(1);

impl Master {
    /// Reads the heartbeats. A process that someone traces stands still without fault.
    pub(super) fn feel_the_pulses(&mut self) {
        let (now, now_ms) = (Instant::now(), monotonic_ms());
        let late = self.settings.timeouts.hang / 2;
        let mut beats = Vec::new();
        for (birth, process) in self.children.iter() {
            let (Some(record), Some(pid)) = (process.record, process.pid) else { continue };
            let at_ms = self.scoreboard.record(record).heartbeat_ms();
            if at_ms == 0 {
                continue;
            }
            // A hostile process may write any number: one from the future counts as now.
            let age = Duration::from_millis(now_ms.saturating_sub(at_ms));
            let at = if age > late && status::is_traced(pid) { Some(now) } else { now.checked_sub(age) };
            beats.extend(at.map(|at| (birth, at)));
        }
        for (birth, at) in beats {
            self.step(Event::Heartbeat(birth, at));
        }
    }

    /// Helpers in another language have no word on the scoreboard: they are asked over their sockets.
    pub(super) fn ask_foreign_helpers(&mut self, now: Instant) {
        let children = &self.children;
        self.probes.keep(|birth| children.get(birth).is_some());
        let signs = self.probes.ask(self.poll.registry(), now);
        self.heed(signs);
    }

    /// What they have shown is noted where the others note it themselves.
    pub(super) fn heed(&mut self, signs: Vec<Sign>) {
        for sign in signs {
            match sign {
                Sign::Ready(birth) => {
                    self.beat_for(birth);
                    self.step(Event::Ready(birth));
                }
                Sign::Alive(birth) => self.beat_for(birth),
                Sign::Broken(birth, why) => {
                    self.step(Event::Broken(birth, format!("broke a rule of the protocol ({why})")));
                }
            }
        }
    }

    fn beat_for(&self, birth: Birth) {
        if let Some(record) = self.children.get(birth).and_then(|process| process.record) {
            self.scoreboard.record(record).beat();
        }
    }

    /// The kernel says who was killed for memory, and who has become too large.
    pub(super) fn look_at_memory(&mut self, now: Instant) {
        if now.saturating_duration_since(self.weighed) < WEIGH_EVERY {
            return;
        }
        self.weighed = now;
        self.oom.look(now);
        let too_large = self.children.iter().filter_map(|(birth, process)| {
            let Role::Worker(_, generation) = process.role else { return None };
            let limit = self.releases.get(&generation)?.settings.worker.rss_max?;
            let rss = status::rss_bytes(process.pid?)?;
            (rss > limit).then_some((birth, rss))
        });
        for (birth, rss) in too_large.collect::<Vec<_>>() {
            self.step(Event::Worn(birth, Wear::Memory(rss)));
        }
    }
}
