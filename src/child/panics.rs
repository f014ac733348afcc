//! A future whose panic is its result: what panics in one request answers that request.

use std::future::Future;
use std::panic::{self, AssertUnwindSafe};
use std::pin::Pin;
use std::task::{Context, Poll};

use pin_project_lite::pin_project;

use crate::error::Result;

pin_project! {
    /// The panic hook has logged the panic that is turned into an error here.
    pub(super) struct Caught<F> {
        #[pin]
        future: F,
    }
}

/// It panicked.
#[derive(Debug)]
pub(super) struct Panicked;

/// Runs code of the application under the name it has there; its panic is its error.
pub(super) async fn named<T>(what: &str, future: impl Future<Output = Result<T>>) -> Result<T> {
    let panicked = |_| Err(format!("{what} panicked: its message is in the log").into());
    Caught::new(future).await.unwrap_or_else(panicked)
}

impl<F: Future> Caught<F> {
    pub(super) fn new(future: F) -> Self {
        Self { future }
    }
}

impl<F: Future> Future for Caught<F> {
    type Output = Result<F::Output, Panicked>;

    fn poll(self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<Self::Output> {
        let future = self.project().future;
        match panic::catch_unwind(AssertUnwindSafe(|| future.poll(context))) {
            Ok(poll) => poll.map(Ok),
            Err(_) => Poll::Ready(Err(Panicked)),
        }
    }
}
