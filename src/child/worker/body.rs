//! The body of a request: no longer and no slower than it may be.

use std::pin::Pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU8, AtomicU64, Ordering};
use std::task::{Context, Poll, ready};
use std::time::Duration;

use http::StatusCode;
use http_body::{Body, Frame, SizeHint};
use hyper::body::{Bytes, Incoming};
use tokio::time::Instant;

use super::clock::{Timer, reach};
use super::watch;
use crate::error::BoxError;
use crate::settings::http::Http;

/// The body of a request as it comes from the client, for [`App::http`](crate::App::http).
///
/// It ends with an error when it is longer than `http.max_body_size` (64 MiB) or slower than
/// `http.body_timeout` (30 s, and a second more for each KiB): whatever the service answers then, the client
/// is told 413 or 408 if no answer has begun. axum's extractors take it like any other.
#[derive(Debug)]
pub struct RequestBody {
    incoming: Incoming,
    /// `None`: it was empty from the beginning.
    meter: Option<Box<Meter>>,
}

/// A client that has sent so many bytes has a second more.
const BYTES_A_SECOND: u64 = 1024;

/// What has come of a body.
struct Meter {
    len: u64,
    len_max: u64,
    began: Instant,
    patience: Duration,
    /// Made when it is waited for.
    timer: Option<Timer>,
    reading: Arc<Reading>,
}

/// What a body and its answer tell each other.
#[derive(Debug, Default)]
pub(super) struct Reading {
    fault: AtomicU8,
    is_whole: AtomicBool,
    /// When it was over, by the watch's time, and one more; 0: it is not.
    over_ms: AtomicU64,
}

const TOO_LONG: u8 = 1;
const TOO_SLOW: u8 = 2;

impl RequestBody {
    /// With what is told of its reading; `None`: there is nothing to read.
    pub(super) fn new(incoming: Incoming, limits: &Http) -> (Self, Option<Arc<Reading>>) {
        if incoming.is_end_stream() {
            return (Self { incoming, meter: None }, None);
        }
        let reading = Arc::new(Reading::default());
        let meter = Meter {
            len: 0,
            len_max: if limits.body_len == 0 { u64::MAX } else { limits.body_len },
            began: Instant::now(),
            patience: Duration::from_millis(limits.body_ms),
            timer: None,
            reading: reading.clone(),
        };
        (Self { incoming, meter: Some(Box::new(meter)) }, Some(reading))
    }
}

impl Meter {
    /// Takes in what has come.
    fn take(&mut self, frame: &Frame<Bytes>) -> Result<(), BoxError> {
        self.len += frame.data_ref().map_or(0, |data| data.len() as u64);
        if self.len > self.len_max {
            self.reading.fault.store(TOO_LONG, Ordering::Relaxed);
            return Err(format!("the request's body has more than {} bytes", self.len_max).into());
        }
        Ok(())
    }

    /// Ready when nobody waits for the rest any more.
    fn poll_late(&mut self, context: &mut Context<'_>) -> Poll<BoxError> {
        loop {
            let deadline = self.began + self.patience + Duration::from_secs(self.len / BYTES_A_SECOND);
            let timer = self.timer.get_or_insert_with(|| Box::pin(reach(deadline)));
            ready!(timer.as_mut().poll(context));
            self.timer = None;
            if Instant::now() >= deadline {
                self.reading.fault.store(TOO_SLOW, Ordering::Relaxed);
                return Poll::Ready("the request's body comes too slowly".into());
            }
        }
    }
}

impl Drop for Meter {
    fn drop(&mut self) {
        self.reading.end();
    }
}

impl Reading {
    fn end(&self) {
        let _ = self.over_ms.compare_exchange(0, watch::now_ms() + 1, Ordering::Relaxed, Ordering::Relaxed);
    }

    /// Whether all of it was read.
    pub(super) fn is_whole(&self) -> bool {
        self.is_whole.load(Ordering::Relaxed)
    }

    /// Since when it is not waited for any more, by the watch's time.
    pub(super) fn over_ms(&self) -> Option<u64> {
        self.over_ms.load(Ordering::Relaxed).checked_sub(1)
    }

    /// What the client is to be told.
    pub(super) fn fault(&self) -> Option<StatusCode> {
        match self.fault.load(Ordering::Relaxed) {
            TOO_LONG => Some(StatusCode::PAYLOAD_TOO_LARGE),
            TOO_SLOW => Some(StatusCode::REQUEST_TIMEOUT),
            _ => None,
        }
    }
}

impl std::fmt::Debug for Meter {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Meter").field("len", &self.len).finish_non_exhaustive()
    }
}

impl Body for RequestBody {
    type Data = Bytes;
    type Error = BoxError;

    fn poll_frame(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<Option<Result<Frame<Bytes>, BoxError>>> {
        let Self { incoming, meter } = &mut *self;
        let poll = Pin::new(incoming).poll_frame(context);
        let Some(meter) = meter else { return poll.map_err(Into::into) };
        match poll {
            Poll::Ready(Some(Ok(frame))) => Poll::Ready(Some(meter.take(&frame).map(|()| frame))),
            Poll::Ready(end) => {
                meter.reading.is_whole.store(end.is_none(), Ordering::Relaxed);
                meter.reading.end();
                Poll::Ready(end.map(|error| error.map_err(Into::into)))
            }
            Poll::Pending => meter.poll_late(context).map(|late| Some(Err(late))),
        }
    }

    fn is_end_stream(&self) -> bool {
        self.incoming.is_end_stream()
    }

    fn size_hint(&self) -> SizeHint {
        self.incoming.size_hint()
    }
}
