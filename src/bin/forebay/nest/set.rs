//! Writes to the upstream: `PUT`, and what its answer means.

use std::cell::Cell;
use std::time::{Duration, SystemTime};

use http::{Response, StatusCode};
use http_body_util::{BodyExt, Limited};
use hyper::body::{Bytes, Incoming};
use serde_json::Value;
use tokio::sync::Semaphore;

use super::api::{NestError, Set};
use super::depth::{self, DEPTH_MAX};
use super::link::State;
use super::retry_after::{Method, whole_seconds};
use super::{Nest, error_chain, excerpt, retry_after};

/// How long a write may take, its wait for others included.
pub(crate) const WRITE_TIMEOUT: Duration = Duration::from_secs(10);

/// How many writes are under way at the upstream at once.
const WRITES_MAX: usize = 4;

/// How many more may wait for that.
const WAITING_MAX: usize = 64;

/// The longest answer to a write, in bytes.
const ANSWER_LEN_MAX: usize = 64 * 1024;

/// The writes that are under way and those that wait.
pub(super) struct Writes {
    places: Semaphore,
    here: Cell<usize>,
}

impl Default for Writes {
    fn default() -> Self {
        Self { places: Semaphore::new(WRITES_MAX), here: Cell::new(0) }
    }
}

/// Counts a write until it ends or is given up.
struct Here<'a>(&'a Cell<usize>);

impl Drop for Here<'_> {
    fn drop(&mut self) {
        self.0.set(self.0.get() - 1);
    }
}

impl Nest {
    /// Writes, unless it is known that the upstream would refuse.
    pub(super) async fn set(&self, set: Set) -> Result<Value, NestError> {
        if self.link.borrow().state == State::AuthRevoked {
            return Err(NestError::Unauthorized);
        }
        self.must_be_known()?;
        if !self.document.borrow().thermostats().contains_key(&set.id) {
            return Err(NestError::UnknownThermostat { id: set.id });
        }
        if self.writes.here.get() >= WRITES_MAX + WAITING_MAX {
            return Err(NestError::Overloaded);
        }
        self.writes.here.set(self.writes.here.get() + 1);
        let _here = Here(&self.writes.here);
        match tokio::time::timeout(WRITE_TIMEOUT, self.write(&set)).await {
            Ok(outcome) => outcome,
            Err(_) => Err(NestError::Unreachable { reason: format!("no answer within {} s", WRITE_TIMEOUT.as_secs()) }),
        }
    }

    async fn write(&self, set: &Set) -> Result<Value, NestError> {
        let unreachable = |reason: String| NestError::Unreachable { reason: excerpt(&reason) };
        let _place = self.writes.places.acquire().await.map_err(|error| unreachable(error.to_string()))?;
        // After the wait: the write before this one may have been told to stop.
        if let Some(remaining) = self.retry_after.borrow().remaining(Method::Put, SystemTime::now()) {
            return Err(NestError::RateLimited { retry_after_s: Some(whole_seconds(remaining)), body: Value::Null });
        }
        let base = self.source.base().await.map_err(unreachable)?;
        let body = serde_json::to_vec(&set.fields).map_err(|error| unreachable(error.to_string()))?;
        let call = self.settings.protocol.write(&base, &set.id, Bytes::from(body)).map_err(unreachable)?;
        let answer = self.upstream.write(&call).await.map_err(unreachable)?;
        self.outcome(answer.response).await
    }

    async fn outcome(&self, response: Response<Incoming>) -> Result<Value, NestError> {
        let status = response.status();
        let asked_for = retry_after(response.headers());
        if let (StatusCode::TOO_MANY_REQUESTS, Some(delay)) = (status, asked_for.filter(|delay| !delay.is_zero())) {
            log::warn!("the upstream wants no writes for {} s", whole_seconds(delay));
            self.retry_after.borrow_mut().remember(Method::Put, delay, SystemTime::now());
        }
        let body = Limited::new(response.into_body(), ANSWER_LEN_MAX).collect().await;
        let body = body.map_err(|error| NestError::Unreachable { reason: error_chain(&*error) })?.to_bytes();
        let mut body = serde_json::from_slice(&body).unwrap_or_else(|_| text(&body));
        // As it stands within the answer, which has a depth of its own.
        depth::prune(&mut body, DEPTH_MAX);
        match status {
            status if status.is_success() => Ok(body),
            StatusCode::UNAUTHORIZED => Err(NestError::Unauthorized),
            StatusCode::TOO_MANY_REQUESTS => {
                Err(NestError::RateLimited { retry_after_s: asked_for.map(whole_seconds), body })
            }
            _ => Err(NestError::Refused { status: status.as_u16(), body }),
        }
    }
}

/// What is no JSON is passed on as text; nothing, as null.
fn text(body: &[u8]) -> Value {
    if body.is_empty() { Value::Null } else { Value::String(String::from_utf8_lossy(body).into_owned()) }
}
