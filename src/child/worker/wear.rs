//! How much this worker has served: the master hears when it is enough.

use std::sync::atomic::{AtomicU64, Ordering};

use tokio::sync::Notify;

use super::record;

/// A process is one worker, once.
static REQUESTS_MAX: AtomicU64 = AtomicU64::new(u64::MAX);
static ENOUGH: Notify = Notify::const_new();

/// From now on so many requests are enough.
pub(super) fn limit(requests_max: Option<u64>) {
    REQUESTS_MAX.store(requests_max.unwrap_or(u64::MAX), Ordering::Relaxed);
}

/// Counts a request in.
pub(super) fn count() {
    let Some(record) = record() else { return };
    if record.count_request() == REQUESTS_MAX.load(Ordering::Relaxed) {
        ENOUGH.notify_one();
    }
}

/// Waits until it is enough, once; says how many requests that were.
pub(super) async fn enough() -> u64 {
    ENOUGH.notified().await;
    REQUESTS_MAX.load(Ordering::Relaxed)
}
