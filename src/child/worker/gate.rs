//! Whether a worker takes the next connection or leaves it to others.
//!
//! All workers of a generation wait at the same queue, and whoever is awake first would take most of it: a
//! worker looks in the scoreboard how many connections the others have, and takes one only if it has hardly
//! more than the one that has the fewest. Whoever does not take connections (it boots, drains, is full, is
//! dead) is not waited for, nor is who has shown no life for a while.

use super::record;
use crate::child::life::scoreboard;
use crate::contract::scoreboard::Record;
use crate::contract::time::coarse_ms;
use crate::settings::http::Http;

/// A worker may have so many connections more than another one: one for so many that this one has, within bounds.
const SLACK_SHARE: u64 = 16;
const SLACK_MIN: u64 = 1;
const SLACK_MAX: u64 = 8;

/// After so many periods without a heartbeat nobody waits for a worker.
const BEATS_MISSED: u64 = 2;

/// What a worker knows of its place among the others.
pub(super) struct Gate {
    generation: u32,
    connections_max: u64,
    total_max: u64,
    /// In milliseconds.
    silence_max: u64,
}

/// What the next connection is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Turn {
    Ours,
    /// Others have fewer: the fewest are so many.
    Others(u64),
    /// Nobody's of us: there are as many as there may be.
    Full,
}

impl Gate {
    pub(super) fn new(generation: u32, limits: &Http, heartbeat_ms: u64) -> Self {
        Self {
            generation,
            connections_max: limits.connections,
            total_max: limits.connections_total.unwrap_or(u64::MAX),
            silence_max: BEATS_MISSED * heartbeat_ms,
        }
    }

    /// Shows the others whether this worker takes connections.
    pub(super) fn show(&self, takes: bool) {
        if let Some(record) = record() {
            record.set_taking(self.generation, takes);
        }
    }

    /// Whose the next connection is, for a worker that has so many.
    pub(super) fn turn(&self, own: u64) -> Turn {
        match scoreboard() {
            Some(scoreboard) => self.judge(own, coarse_ms(), scoreboard.workers()),
            None => Turn::Ours,
        }
    }

    fn judge<'a>(&self, own: u64, now_ms: u64, workers: impl Iterator<Item = Record<'a>>) -> Turn {
        let (mut total, mut fewest) = (0, own);
        for worker in workers {
            let open = worker.connections();
            total += open;
            let is_waited_for =
                worker.takes_for(self.generation) && now_ms.saturating_sub(worker.heartbeat_ms()) <= self.silence_max;
            if is_waited_for {
                fewest = fewest.min(open);
            }
        }
        if own >= self.connections_max || total >= self.total_max {
            Turn::Full
        } else if own > fewest + (fewest / SLACK_SHARE).clamp(SLACK_MIN, SLACK_MAX) {
            Turn::Others(fewest)
        } else {
            Turn::Ours
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::contract::scoreboard::Scoreboard;
    use crate::contract::time::monotonic_ms;

    /// Workers of generation 1, each with so many connections, a while after their heartbeats: whose the next one
    /// is for the first.
    fn turn(open: &[u64], later_ms: u64, change: impl Fn(&Scoreboard)) -> Turn {
        let limits = Http { connections: 100, connections_total: Some(300), ..Http::usual() };
        let board = Scoreboard::create(8).expect("a scoreboard");
        for (number, open) in (0..).zip(open) {
            board.assign(number);
            board.record(number).beat();
            board.record(number).set_connections(*open);
            board.record(number).set_taking(1, true);
        }
        change(&board);
        Gate::new(1, &limits, 1000).judge(open[0], monotonic_ms() + later_ms, board.workers())
    }

    #[test]
    fn who_has_hardly_more_than_the_fewest_takes_the_next_one() {
        let table: [(&[u64], Turn); 8] = [
            (&[0, 0], Turn::Ours),
            (&[1, 0], Turn::Ours),
            (&[2, 0], Turn::Others(0)),
            (&[0, 90, 90], Turn::Ours),
            (&[37, 35, 90], Turn::Ours),
            (&[38, 35, 90], Turn::Others(35)),
            (&[100, 100], Turn::Full),
            (&[80, 80, 80, 60], Turn::Full),
        ];
        for (open, expected) in table {
            assert_eq!(turn(open, 0, |_| {}), expected, "{open:?}");
        }
    }

    #[test]
    fn nobody_waits_for_who_takes_none() {
        assert_eq!(turn(&[50, 0], 2500, |_| {}), Turn::Ours, "is silent");
        assert_eq!(turn(&[50, 0], 1000, |_| {}), Turn::Others(0));
        let drains = |board: &Scoreboard| board.record(1).set_taking(1, false);
        assert_eq!(turn(&[50, 0], 0, drains), Turn::Ours);
        let is_of_another_generation = |board: &Scoreboard| board.record(1).set_taking(2, true);
        assert_eq!(turn(&[50, 0], 0, is_of_another_generation), Turn::Ours);
        let is_dead = |board: &Scoreboard| board.record(1).clear();
        assert_eq!(turn(&[50, 0], 0, is_dead), Turn::Ours);
    }
}
