//! Times as processes tell each other: milliseconds, and moments of a clock that they share.

use std::time::Duration;

use nix::sys::time::TimeValLike;
use nix::time::{ClockId, clock_gettime};

/// A length of time.
pub(crate) fn ms(time: Duration) -> u64 {
    u64::try_from(time.as_millis()).unwrap_or(u64::MAX)
}

/// CLOCK_MONOTONIC, which is one clock for all processes.
pub(crate) fn monotonic_ms() -> u64 {
    now_ms(ClockId::CLOCK_MONOTONIC)
}

/// The same clock, after so much more time, and never before: the part of a millisecond that has passed
/// is not counted.
pub(crate) fn monotonic_ms_in(time: Duration) -> u64 {
    monotonic_ms().saturating_add(ms(time)).saturating_add(1)
}

/// The same clock as the kernel's last tick has left it, 1 to 10 ms ago: a fifth of the cost.
pub(crate) fn coarse_ms() -> u64 {
    now_ms(ClockId::CLOCK_MONOTONIC_COARSE)
}

/// How often a process shows that it is alive, if so long a silence ends it.
pub(crate) fn heartbeat_period(hang: Duration) -> Duration {
    (hang / 8).clamp(Duration::from_millis(10), Duration::from_secs(1))
}

fn now_ms(clock: ClockId) -> u64 {
    let now = clock_gettime(clock).expect("every Linux has this clock");
    now.num_milliseconds().unsigned_abs()
}
