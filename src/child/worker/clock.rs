//! Time as it is measured how long a client takes.
//!
//! A process that goes on after a stop hears of its timers before it hears of its sockets: epoll_wait(2)
//! returns EINTR. What came meanwhile would be late for a clock that does not look there once more.

use std::future::Future;
use std::pin::Pin;

use tokio::time::Instant;

/// A wait that is kept from one look to the next.
pub(super) type Timer = Pin<Box<dyn Future<Output = ()> + Send + Sync>>;

/// Waits until then, and until the loop has looked at its sockets since.
pub(super) async fn reach(deadline: Instant) {
    tokio::time::sleep_until(deadline).await;
    tokio::task::yield_now().await;
}
