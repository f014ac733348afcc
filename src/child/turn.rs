//! How long the loop takes for one turn: longer ones are logged, and the longest is in `status`.
//!
//! A request's handler is measured each time it is polled, so that its route can be named; whatever
//! else stands in the way shows as a heartbeat that comes late.

use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use super::life::record;
use crate::contract::time::{coarse_ms, ms};

/// In milliseconds. A process has one loop.
static SLOW: AtomicU64 = AtomicU64::new(u64::MAX);
/// The longest turn since the last heartbeat that somebody was named for, in milliseconds.
static NAMED: AtomicU64 = AtomicU64::new(0);

/// More than two steps of the coarse clock.
const COARSE_MS: u64 = 20;

/// A moment, to a few milliseconds: every request looks at the clock twice, and the coarse one is cheap.
#[derive(Clone, Copy, Debug)]
pub(super) struct Moment(u64);

/// From now on longer turns are logged; `ZERO`: none is.
pub(super) fn watch(slow: Duration) {
    let slow = if slow.is_zero() { u64::MAX } else { ms(slow).max(1) };
    SLOW.store(slow, Ordering::Relaxed);
}

/// A part of a turn that began then is over; who it was is asked only if it was slow.
pub(super) fn over(began: Moment, who: impl FnOnce() -> String) {
    let took_ms = Moment::now().0.saturating_sub(began.0);
    if took_ms > 0 && note(took_ms) {
        NAMED.fetch_max(took_ms, Ordering::Relaxed);
        log::warn!(target: "forebay", "{} held this process's loop for {took_ms} ms in one turn", who());
    }
}

/// A heartbeat has come so late.
pub(super) fn late(by: Duration) {
    let (late_ms, named_ms) = (ms(by), NAMED.swap(0, Ordering::Relaxed));
    // What was named is not told twice: the coarse clock may have seen a little less of it.
    if note(late_ms) && late_ms > named_ms + COARSE_MS {
        log::warn!(target: "forebay", "this process's loop stood still for {late_ms} ms");
    }
}

/// Whether that is slow.
fn note(turn_ms: u64) -> bool {
    if let Some(record) = record() {
        record.note_turn(turn_ms);
    }
    turn_ms >= SLOW.load(Ordering::Relaxed)
}

impl Moment {
    pub(super) fn now() -> Self {
        Self(coarse_ms())
    }
}
