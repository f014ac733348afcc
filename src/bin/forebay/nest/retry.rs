//! When to connect again: exponential back-off with jitter.

use std::time::Duration;

/// A connection that stayed open for so long makes the next delay the shortest again.
pub(crate) const LIVED: Duration = Duration::from_secs(10);

/// Each delay is so many times the last one.
const FACTOR: u32 = 2;

/// How long to wait between two connections.
pub(crate) struct Backoff {
    shortest: Duration,
    longest: Duration,
    next: Duration,
}

impl Backoff {
    /// Delays from `shortest`, doubling up to `longest`, which wins if it is the smaller one.
    pub(crate) fn new(shortest: Duration, longest: Duration) -> Self {
        Self { shortest, longest, next: shortest.min(longest) }
    }

    /// The delay after a connection that was open for so long, zero if it never was.
    ///
    /// `dice` is from 0 to 1: the delay lies between half of the step and all of it, so that many
    /// clients that lost their connection together do not come back together.
    pub(crate) fn after(&mut self, open_for: Duration, dice: f64) -> Duration {
        if open_for >= LIVED {
            self.next = self.shortest.min(self.longest);
        }
        let step = self.next;
        self.next = step.saturating_mul(FACTOR).min(self.longest);
        jittered(step, dice)
    }
}

/// Between half of `delay` and all of it, as the dice say.
pub(crate) fn jittered(delay: Duration, dice: f64) -> Duration {
    delay.mul_f64(0.5 + dice.clamp(0.0, 1.0) / 2.0)
}

#[cfg(test)]
mod tests {
    use super::*;

    const SHORTEST: Duration = Duration::from_secs(1);
    const LONGEST: Duration = Duration::from_secs(60);

    #[test]
    fn delays_double_up_to_the_longest() {
        let mut backoff = Backoff::new(SHORTEST, LONGEST);
        let delays: Vec<f64> = (0..8).map(|_| backoff.after(Duration::ZERO, 1.0).as_secs_f64()).collect();
        assert_eq!(delays, [1.0, 2.0, 4.0, 8.0, 16.0, 32.0, 60.0, 60.0]);
    }

    #[test]
    fn the_dice_take_off_half_at_most() {
        for (dice, expected) in [(0.0, 0.5), (0.5, 0.75), (1.0, 1.0), (7.0, 1.0)] {
            let delay = Backoff::new(SHORTEST, LONGEST).after(Duration::ZERO, dice);
            assert_eq!(delay.as_secs_f64(), expected, "{dice}");
        }
    }

    #[test]
    fn only_a_connection_that_lived_starts_over() {
        let table = [(Duration::ZERO, 4.0), (LIVED - Duration::from_millis(1), 4.0), (LIVED, 1.0), (LONGEST, 1.0)];
        for (open_for, expected) in table {
            let mut backoff = Backoff::new(SHORTEST, LONGEST);
            backoff.after(Duration::ZERO, 1.0);
            backoff.after(Duration::ZERO, 1.0);
            assert_eq!(backoff.after(open_for, 1.0).as_secs_f64(), expected, "{open_for:?}");
        }
    }

    #[test]
    fn a_longest_below_the_shortest_wins() {
        let mut backoff = Backoff::new(LONGEST, SHORTEST);
        assert_eq!(backoff.after(Duration::ZERO, 1.0), SHORTEST);
        assert_eq!(backoff.after(LIVED, 1.0), SHORTEST);
    }
}
