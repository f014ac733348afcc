//! A client of a helper, for handlers and for other helpers.
//!
//! One connection carries the requests and subscriptions of all clones. `calls` keeps what is
//! asked, `link` carries it, `subscription` is what a subscriber holds.

mod calls;
mod error;
mod link;
mod subscription;

use std::future::poll_fn;
use std::marker::PhantomData;
use std::sync::Arc;
use std::time::Duration;

pub use self::error::CallError;
use self::link::{Lifeline, Link};
pub(super) use self::link::{RETRY_MAX, RETRY_MIN};
pub use self::subscription::{Subscription, Update};
use super::traits::{Answers, Interface, Request};
use crate::app::declare::Neighbours;
use crate::error::Result;

/// How long a call may take unless [`Client::with_deadline`] says otherwise.
pub(super) const DEADLINE: Duration = Duration::from_secs(5);

/// Asks one helper. Cheap to clone; all clones share a connection.
///
/// While the helper is restarted requests wait, up to 1024 of them and up to their deadlines.
///
/// ```
/// # use forebay::{Answers, Client, Request};
/// # async fn of<H: Answers<R>, R: Request>(client: Client<H>, request: R) {
/// match client.call(request).await {
///     Ok(reply) => drop(reply),
///     Err(error) => log::warn!("{error}"),
/// }
/// # }
/// ```
pub struct Client<H> {
    line: Arc<Lifeline>,
    deadline: Duration,
    helper: PhantomData<fn() -> H>,
}

impl<H> Clone for Client<H> {
    fn clone(&self) -> Self {
        Self { line: self.line.clone(), deadline: self.deadline, helper: PhantomData }
    }
}

impl<H: Interface> Client<H> {
    pub(crate) fn of(neighbours: &Neighbours, name: &str) -> Result<Self> {
        let found = neighbours.find::<H>(name)?;
        let path = neighbours.ipc_dir.join(format!("{}.sock", found.name));
        Ok(Self { line: Lifeline::new(path, found.name, &neighbours.caller), deadline: DEADLINE, helper: PhantomData })
    }

    /// The same client with another limit for each call; 5 s without this.
    #[must_use]
    pub fn with_deadline(&self, deadline: Duration) -> Self {
        Self { deadline, ..self.clone() }
    }

    /// Asks, and waits for the answer.
    ///
    /// Dropping the future gives the request up: the helper is told, and drops it at its next
    /// `await`.
    ///
    /// # Errors
    /// The helper's own error, or why there is no answer: see [`CallError`].
    pub async fn call<R: Request>(&self, request: R) -> Result<R::Reply, CallError<H::Error>>
    where
        H: Answers<R>,
    {
        let mut call = self.link().begin(R::METHOD, &request, R::IDEMPOTENT, self.deadline)?;
        poll_fn(|context| call.poll(context)).await.decode()
    }

    /// Tells, and waits for nothing. What cannot be sent soon is dropped.
    pub fn cast<R: Request>(&self, request: &R)
    where
        H: Answers<R>,
    {
        self.link().cast(R::METHOD, request);
    }

    /// Everything the helper publishes from now on, after a snapshot of how things stand.
    ///
    /// # Errors
    /// [`CallError::Overloaded`]: this client and its clones have 4096 subscriptions already.
    pub fn subscribe(&self) -> Result<Subscription<H::Event>, CallError<H::Error>> {
        Subscription::new(self.line.clone()).ok_or(CallError::Overloaded)
    }

    fn link(&self) -> &Link {
        self.line.link()
    }
}
