//! How long the loop takes for one turn: longer ones are logged, and the longest is in `status`.
//!
//! A request's handler is measured each time it is polled, so that its route can be named; whatever
//! else stands in the way shows as a heartbeat that comes late.

use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant};

use super::life::record;

/// In microseconds. A process has one loop.
static SLOW: AtomicU64 = AtomicU64::new(u64::MAX);
/// The longest turn since the last heartbeat that somebody was named for, in microseconds.
static NAMED: AtomicU64 = AtomicU64::new(0);

/// From now on longer turns are logged; `ZERO`: none is.
pub(super) fn watch(slow: Duration) {
    let slow = if slow.is_zero() { u64::MAX } else { us(slow) };
    SLOW.store(slow, Ordering::Relaxed);
}

/// A part of a turn that began then is over; who it was is asked only if it was slow.
pub(super) fn over(began: Instant, who: impl FnOnce() -> String) {
    let took = began.elapsed();
    if note(took) {
        NAMED.fetch_max(us(took), Ordering::Relaxed);
        log::warn!(target: "forebay", "{} held this process's loop for {} ms in one turn", who(), took.as_millis());
    }
}

/// A heartbeat has come so late.
pub(super) fn late(by: Duration) {
    let named = NAMED.swap(0, Ordering::Relaxed);
    if note(by) && us(by) > named {
        log::warn!(target: "forebay", "this process's loop stood still for {} ms", by.as_millis());
    }
}

/// Whether that is slow.
fn note(turn: Duration) -> bool {
    if let Some(record) = record() {
        record.note_turn(u64::try_from(turn.as_millis()).unwrap_or(u64::MAX));
    }
    us(turn) >= SLOW.load(Ordering::Relaxed)
}

fn us(time: Duration) -> u64 {
    u64::try_from(time.as_micros()).unwrap_or(u64::MAX)
}
