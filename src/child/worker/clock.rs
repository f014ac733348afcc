//! Time as hyper measures how long a client takes.
//!
//! A process that goes on after a stop hears of its timers before it hears of its sockets: epoll_wait(2)
//! returns EINTR. What came meanwhile would be late for a clock that does not look there once more.

use std::future::Future;
use std::pin::Pin;
use std::task::{Context, Poll};
use std::time::{Duration, Instant};

use hyper::rt::{Sleep, Timer};
use pin_project_lite::pin_project;

#[derive(Clone, Copy, Debug)]
pub(super) struct Clock;

impl Timer for Clock {
    fn sleep(&self, time: Duration) -> Pin<Box<dyn Sleep>> {
        self.sleep_until(Instant::now() + time)
    }

    fn sleep_until(&self, deadline: Instant) -> Pin<Box<dyn Sleep>> {
        let wait = async move {
            tokio::time::sleep_until(deadline.into()).await;
            // Until the loop has looked at its sockets.
            tokio::task::yield_now().await;
        };
        Box::pin(Wait { wait })
    }
}

pin_project! {
    struct Wait<F> {
        #[pin]
        wait: F,
    }
}

impl<F: Future<Output = ()>> Future for Wait<F> {
    type Output = ();

    fn poll(self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<()> {
        self.project().wait.poll(context)
    }
}

impl<F: Future<Output = ()> + Send + Sync> Sleep for Wait<F> {}
