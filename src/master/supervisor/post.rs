//! A place to be filled, and when to fill it again: OTP's intensity and period, then back-off.

use std::collections::VecDeque;
use std::time::{Duration, Instant};

use super::Next;
use crate::contract::ids::Birth;
use crate::settings::Restart;

/// The first delay once the intensity is exceeded; it doubles up to `backoff_max`.
const BACKOFF_MIN: Duration = Duration::from_millis(100);

/// A birth that the system refused is tried again after this, doubling up to [`REFUSED_MAX`].
const REFUSED_MIN: Duration = Duration::from_millis(50);
const REFUSED_MAX: Duration = Duration::from_millis(500);

/// One line in the log for so many refused births in a row: every few seconds.
const REFUSALS_A_LINE: u32 = 10;

#[derive(Clone, Debug)]
pub(super) struct Post {
    pub(super) occupant: Option<Birth>,
    pub(super) not_before: Instant,
    pub(super) last_exit: Option<String>,
    pub(super) restarts: u64,
    /// Deaths within the last period.
    deaths: VecDeque<Instant>,
    delays: u32,
    refusals: u32,
}

impl Post {
    pub(super) fn new(now: Instant) -> Self {
        Self {
            occupant: None,
            not_before: now,
            last_exit: None,
            restarts: 0,
            deaths: VecDeque::new(),
            delays: 0,
            refusals: 0,
        }
    }

    pub(super) fn is_due(&self, now: Instant) -> bool {
        self.occupant.is_none() && self.not_before <= now
    }

    /// What `status` tells of the place goes on, whoever takes it over.
    pub(super) fn succeed(&mut self, other: &Self) {
        self.restarts += other.restarts;
        if self.last_exit.is_none() {
            self.last_exit.clone_from(&other.last_exit);
        }
    }

    /// How often its occupants have died, and how often one was refused last.
    pub(super) fn failures(&self) -> (u64, u32) {
        (self.restarts, self.refusals)
    }

    /// The occupant is ordered.
    pub(super) fn fill(&mut self, birth: Birth) {
        self.occupant = Some(birth);
    }

    /// Whether this refusal is worth a line: the first, and then one in so many.
    pub(super) fn is_news(&self) -> bool {
        self.refusals % REFUSALS_A_LINE == 1
    }

    /// Nobody's fault: fill it again at once.
    pub(super) fn vacate(&mut self, now: Instant) {
        self.occupant = None;
        self.not_before = now;
    }

    /// The occupant has made room as it was asked to: fill it again at once.
    pub(super) fn left(&mut self, how: &str, now: Instant) {
        self.vacate(now);
        self.last_exit = Some(how.to_owned());
        self.restarts += 1;
    }

    /// The system refused the birth; returns the time until the next try.
    pub(super) fn birth_failed(&mut self, now: Instant, jitter: f64) -> Duration {
        let delay = doubled(REFUSED_MIN, self.refusals, REFUSED_MAX).mul_f64(jitter);
        self.refusals += 1;
        self.occupant = None;
        self.not_before = now + delay;
        delay
    }

    /// The occupant, alive `since`, is dead; says when the next one follows.
    pub(super) fn died(&mut self, how: &str, now: Instant, since: Instant, policy: Restart, jitter: f64) -> Next {
        self.occupant = None;
        self.last_exit = Some(how.to_owned());
        self.restarts += 1;
        self.refusals = 0;
        if now.saturating_duration_since(since) >= policy.period {
            self.delays = 0;
        }
        self.deaths.push_back(now);
        while self.deaths.front().is_some_and(|&death| now.saturating_duration_since(death) > policy.period) {
            self.deaths.pop_front();
        }
        let intensity = usize::try_from(policy.intensity).unwrap_or(usize::MAX);
        if self.deaths.len() <= intensity && self.delays == 0 {
            self.not_before = now;
            return Next::Restart;
        }
        // Bounded: beyond the intensity one entry more says all.
        self.deaths.truncate(intensity.saturating_add(1));
        let delay = doubled(BACKOFF_MIN, self.delays, policy.backoff_max).mul_f64(jitter);
        self.delays += 1;
        self.not_before = now + delay;
        Next::RestartIn(delay)
    }
}

fn doubled(first: Duration, times: u32, max: Duration) -> Duration {
    first.saturating_mul(2_u32.saturating_pow(times)).min(max)
}

/// Random factors between 1/2 and 1, so that what died together does not come back together
/// (xorshift64*, Vigna 2016).
#[derive(Clone, Debug)]
pub(super) struct Jitter(u64);

impl Jitter {
    pub(super) fn new(seed: u64) -> Self {
        Self(seed | 1)
    }

    pub(super) fn next(&mut self) -> f64 {
        self.0 ^= self.0 >> 12;
        self.0 ^= self.0 << 25;
        self.0 ^= self.0 >> 27;
        let bits = self.0.wrapping_mul(0x2545_F491_4F6C_DD1D) >> 40;
        0.5 + bits as f64 / f64::from(1_u32 << 25)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const POLICY: Restart =
        Restart { intensity: 2, period: Duration::from_secs(10), backoff_max: Duration::from_secs(1) };

    #[test]
    fn at_once_up_to_the_intensity_then_later_and_later() {
        let start = Instant::now();
        let mut post = Post::new(start);
        let mut die = |after_ms| {
            let now = start + Duration::from_millis(after_ms);
            post.died("exited with 1", now, now, POLICY, 1.0)
        };
        assert_eq!(die(0), Next::Restart);
        assert_eq!(die(1), Next::Restart);
        assert_eq!(die(2), Next::RestartIn(Duration::from_millis(100)));
        assert_eq!(die(200), Next::RestartIn(Duration::from_millis(200)));
        for after in [500, 1000, 2000] {
            die(after);
        }
        assert_eq!(die(4000), Next::RestartIn(Duration::from_secs(1)), "capped");
    }

    #[test]
    fn who_lived_for_a_period_starts_anew() {
        let start = Instant::now();
        let mut post = Post::new(start);
        for _ in 0..4 {
            post.died("exited with 1", start, start, POLICY, 1.0);
        }
        let later = start + POLICY.period * 3;
        assert_eq!(post.died("exited with 1", later, start + POLICY.period, POLICY, 1.0), Next::Restart);
    }

    #[test]
    fn a_refused_birth_is_tried_again_within_half_a_second() {
        let now = Instant::now();
        let mut post = Post::new(now);
        let delays: Vec<u64> = (0..6).map(|_| post.birth_failed(now, 1.0).as_millis() as u64).collect();
        assert_eq!(delays, [50, 100, 200, 400, 500, 500]);
    }

    #[test]
    fn jitter_stays_between_a_half_and_one() {
        let mut jitter = Jitter::new(0);
        let all: Vec<f64> = (0..1000).map(|_| jitter.next()).collect();
        assert!(all.iter().all(|factor| (0.5..=1.0).contains(factor)));
        assert!(all.iter().any(|&factor| factor < 0.6) && all.iter().any(|&factor| factor > 0.9));
    }
}
