//! Draining: no new connections, the open ones end as soon as they may, all within a limit.

use std::time::Duration;

use tokio::sync::watch;

use super::record;
use crate::app::declare::{BoxFuture, Ends};
use crate::child::master::Ending;

/// Counts the open connections and tells them to end.
#[derive(Clone)]
pub(super) struct Drain {
    pace: watch::Sender<Pace>,
    open: watch::Sender<u64>,
    limit: Duration,
}

/// How soon connections that nobody uses end.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(super) enum Pace {
    /// They stay: this worker does not drain.
    Serving,
    /// With their next answer: others serve on, and a client that is not told loses nothing.
    Lazy,
    /// Soon: nobody else will serve them.
    Prompt,
}

/// Kept by an open connection, which counts until this is dropped.
pub(super) struct Open(watch::Sender<u64>);

impl Drain {
    pub(super) fn new(limit: Duration) -> Self {
        Self { pace: watch::Sender::new(Pace::Serving), open: watch::Sender::new(0), limit }
    }

    /// From now on connections should end at this pace; a drain never becomes slower.
    pub(super) fn begin(&self, pace: Pace) {
        self.pace.send_if_modified(|now| {
            let is_sooner = *now < pace;
            *now = pace.max(*now);
            is_sooner
        });
    }

    /// Resolves when connections should end.
    pub(super) fn begun(&self) -> BoxFuture<()> {
        self.reached(Pace::Lazy)
    }

    /// When one connection should end.
    pub(super) fn ends(&self) -> Ends {
        Ends { next: self.begun(), soon: self.reached(Pace::Prompt) }
    }

    fn reached(&self, pace: Pace) -> BoxFuture<()> {
        let mut now = self.pace.subscribe();
        Box::pin(async move {
            // The sender lives as long as the worker; without it there is nothing to wait for.
            let _ = now.wait_for(|now| *now >= pace).await;
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

impl From<Ending> for Pace {
    fn from(ending: Ending) -> Self {
        match ending {
            Ending::Retired => Self::Lazy,
            Ending::Stopped | Ending::Orphaned => Self::Prompt,
        }
    }
}

fn count(open: &watch::Sender<u64>, change: impl FnOnce(u64) -> u64) {
    open.send_modify(|open| *open = change(*open));
    if let Some(record) = record() {
        record.set_connections(*open.borrow());
    }
}
