//! Looks at all connections of this worker from time to time: who keeps it waiting for too long, whose
//! buffers can be given back.
//!
//! So no request costs a timer. The time by which it goes is its own: while the process was stopped it stood
//! still, for what clients have sent meanwhile is not late.

use std::cell::RefCell;
use std::convert::Infallible;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Weak};
use std::time::Duration;

use tokio::time::Instant;

use super::clock::reach;
use super::connection::Life;
use super::limits::limits;
use crate::contract::time::ms;

/// How often it looks: limits are kept so exactly.
const PERIOD: Duration = Duration::from_millis(250);

/// A longer step of its time is a pause of the process.
const STEP_MAX: Duration = Duration::from_millis(500);

/// Its time, in milliseconds, never 0. A process is one worker, once.
static NOW_MS: AtomicU64 = AtomicU64::new(1);

thread_local! {
    /// Those that have ended since it looked last are there too.
    static LIVES: RefCell<Vec<Weak<Life>>> = const { RefCell::new(Vec::new()) };
}

/// The time since it began, as it last looked.
pub(super) fn now_ms() -> u64 {
    NOW_MS.load(Ordering::Relaxed)
}

/// From now on a connection is looked at.
pub(super) fn enroll(life: &Arc<Life>) {
    LIVES.with_borrow_mut(|lives| lives.push(Arc::downgrade(life)));
}

/// Looks, for ever.
pub(super) async fn keep() -> Infallible {
    let mut last = Instant::now();
    loop {
        reach(Instant::now() + PERIOD).await;
        let now = Instant::now();
        NOW_MS.fetch_add(ms((now - last).min(STEP_MAX)), Ordering::Relaxed);
        last = now;
        each_connection(|life| life.judge(now_ms(), limits()).into_iter().for_each(|verdict| life.tell(verdict)));
    }
}

/// Does something with every connection.
pub(super) fn each_connection(act: impl Fn(&Life)) {
    LIVES.with_borrow_mut(|lives| {
        lives.retain(|life| life.upgrade().inspect(|life| act(life)).is_some());
        // What a crowd has taken is not kept for ever.
        if lives.capacity() > 4 * lives.len() {
            lives.shrink_to(2 * lives.len());
        }
    });
}
