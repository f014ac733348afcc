//! Draining: no new connections, the open ones end as soon as they may, all within a limit.

use std::time::Duration;

use tokio::sync::watch;

use super::record;
use crate::app::declare::BoxFuture;

/// Counts the open connections and tells them to end.
#[derive(Clone)]
pub(super) struct Drain {
    draining: watch::Sender<bool>,
    open: watch::Sender<u64>,
    limit: Duration,
}

/// Kept by an open connection, which counts until this is dropped.
pub(super) struct Open(watch::Sender<u64>);

impl Drain {
    pub(super) fn new(limit: Duration) -> Self {
        Self { draining: watch::Sender::new(false), open: watch::Sender::new(0), limit }
    }

    /// From now on connections should end.
    pub(super) fn begin(&self) {
        self.draining.send_replace(true);
    }

    /// Resolves when connections should end.
    pub(super) fn begun(&self) -> BoxFuture<()> {
        let mut draining = self.draining.subscribe();
        Box::pin(async move {
            // The sender lives as long as the worker; without it there is nothing to wait for.
            let _ = draining.wait_for(|draining| *draining).await;
        })
    }

    /// Counts a connection in.
    pub(super) fn open(&self) -> Open {
        count(&self.open, |open| open + 1);
        Open(self.open.clone())
    }

    /// How many connections are open.
    pub(super) fn count(&self) -> u64 {
        *self.open.borrow()
    }

    /// Waits for the open connections, up to the limit; what is left then is cut.
    pub(super) async fn finish(&self) {
        let mut open = self.open.subscribe();
        let none = open.wait_for(|open| *open == 0);
        if tokio::time::timeout(self.limit, none).await.is_err() {
            let left = *self.open.borrow();
            log::warn!("drained for {} s: {left} connections are cut", self.limit.as_secs_f64());
        }
    }
}

impl Drop for Open {
    fn drop(&mut self) {
        count(&self.0, |open| open - 1);
    }
}

fn count(open: &watch::Sender<u64>, change: impl FnOnce(u64) -> u64) {
    open.send_modify(|open| *open = change(*open));
    if let Some(record) = record() {
        record.set_connections(*open.borrow());
    }
}
