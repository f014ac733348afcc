//! Draining: no new connections, the open ones end as soon as they may, all within a limit.

use std::fmt;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, OnceLock};
use std::time::Duration;

use tokio::sync::{Notify, watch};
use tokio::time::Instant;

use super::connection::Verdict;
use super::record;
use super::watch::each_connection;
use crate::app::declare::{BoxFuture, Ends, Kind};
use crate::child::master::Ending;
use crate::contract::time::ms;

/// How long connections that are cut may take to say what they were: a turn of the loop or two.
const CUT_GRACE: Duration = Duration::from_millis(100);

/// Counts the open connections and tells them to end.
pub(super) struct Drain {
    pace: watch::Sender<Pace>,
    open: watch::Sender<u64>,
    begun: OnceLock<Instant>,
    /// From the beginning on, in milliseconds; a stop may leave less of it.
    limit_ms: AtomicU64,
    sooner: Notify,
    cut_sockets: AtomicU64,
    cut_requests: AtomicU64,
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
    /// Now: the limit has passed.
    Over,
}

/// Kept by an open connection, which counts until this is dropped.
pub(super) struct Open(Arc<dyn Ends>);

impl Drain {
    pub(super) fn new(limit: Duration) -> Self {
        Self {
            pace: watch::Sender::new(Pace::Serving),
            open: watch::Sender::new(0),
            begun: OnceLock::new(),
            limit_ms: AtomicU64::new(ms(limit)),
            sooner: Notify::new(),
            cut_sockets: AtomicU64::new(0),
            cut_requests: AtomicU64::new(0),
        }
    }

    /// From now on connections should end at this pace; a drain never becomes slower.
    pub(super) fn begin(&self, pace: Pace) {
        self.begun.get_or_init(Instant::now);
        self.pace.send_if_modified(|now| {
            let is_sooner = *now < pace;
            *now = pace.max(*now);
            is_sooner
        });
        each_connection(|life| life.tell(Verdict::Drains));
    }

    /// Nobody waits for this worker for longer than so long.
    pub(super) fn end_within(&self, time: Duration) {
        let since = self.begun.get_or_init(Instant::now).elapsed();
        self.limit_ms.fetch_min(ms(since.saturating_add(time)), Ordering::Relaxed);
        self.sooner.notify_one();
    }

    /// Resolves when this pace is reached.
    pub(super) fn reached(&self, pace: Pace) -> BoxFuture<()> {
        let mut now = self.pace.subscribe();
        Box::pin(async move {
            // The sender lives as long as the worker; without it there is nothing to wait for.
            let _ = now.wait_for(|now| *now >= pace).await;
        })
    }

    /// How many connections are open.
    pub(super) fn count(&self) -> u64 {
        *self.open.borrow()
    }

    /// When what is left is cut, or would have been.
    pub(super) fn deadline(&self) -> Instant {
        *self.begun.get_or_init(Instant::now) + self.limit()
    }

    /// Waits for the open connections, up to the limit, and cuts what is left then.
    pub(super) async fn finish(&self) {
        let mut open = self.open.subscribe();
        loop {
            tokio::select! {
                _ = open.wait_for(|open| *open == 0) => return,
                () = self.sooner.notified() => {}
                () = tokio::time::sleep_until(self.deadline()) => break,
            }
        }
        let left = self.count();
        self.begin(Pace::Over);
        let _ = tokio::time::timeout(CUT_GRACE, open.wait_for(|open| *open == 0)).await;
        let cut = Cut {
            left,
            sockets: self.cut_sockets.load(Ordering::Relaxed),
            requests: self.cut_requests.load(Ordering::Relaxed),
        };
        log::warn!("drained for {} s: {cut}", self.limit().as_secs_f64());
    }
}

impl Ends for Drain {
    fn have_begun(&self) -> bool {
        *self.pace.borrow() >= Pace::Lazy
    }

    fn next(&self) -> BoxFuture<()> {
        self.reached(Pace::Lazy)
    }

    fn soon(&self) -> BoxFuture<()> {
        self.reached(Pace::Prompt)
    }

    fn now(&self) -> BoxFuture<()> {
        self.reached(Pace::Over)
    }

    fn limit(&self) -> Duration {
        Duration::from_millis(self.limit_ms.load(Ordering::Relaxed))
    }

    fn has_opened(&self) {
        count(&self.open, |open| open + 1);
    }

    fn has_closed(&self) {
        count(&self.open, |open| open - 1);
    }

    fn has_cut(&self, kind: Kind) {
        let counter = match kind {
            Kind::WebSocket => &self.cut_sockets,
            Kind::Request => &self.cut_requests,
        };
        counter.fetch_add(1, Ordering::Relaxed);
    }
}

/// What was cut, by kind where it is known.
struct Cut {
    left: u64,
    sockets: u64,
    requests: u64,
}

impl fmt::Display for Cut {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let connections = if self.left == 1 { "connection is" } else { "connections are" };
        write!(f, "{} {connections} cut", self.left)?;
        let sockets = if self.sockets == 1 { "a WebSocket" } else { "WebSockets" };
        for (count, what) in [(self.sockets, sockets), (self.requests, "in a request")] {
            if count > 0 {
                write!(f, ", {count} of them {what}")?;
            }
        }
        Ok(())
    }
}

impl Open {
    pub(super) fn new(ends: Arc<dyn Ends>) -> Self {
        ends.has_opened();
        Self(ends)
    }
}

impl Drop for Open {
    fn drop(&mut self) {
        self.0.has_closed();
    }
}

impl From<Ending> for Pace {
    fn from(ending: Ending) -> Self {
        match ending {
            Ending::Retired => Self::Lazy,
            Ending::Stopped { .. } | Ending::Orphaned => Self::Prompt,
        }
    }
}

fn count(open: &watch::Sender<u64>, change: impl FnOnce(u64) -> u64) {
    open.send_modify(|open| *open = change(*open));
    if let Some(record) = record() {
        record.set_connections(*open.borrow());
    }
}
