//! The connection that a client's clones share: one task keeps it up, writes what they ask, and
//! wakes whom an answer is for.

use std::future::Future;
use std::path::PathBuf;
use std::pin::Pin;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::task::{Context, Poll, Waker, ready};
use std::time::Duration;

use serde::Serialize;
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::net::UnixStream;
use tokio::sync::Notify;

use super::calls::{Calls, Outcome};
use super::error::CallError;
use super::subscription::Topics;
use crate::contract::time::{monotonic_ms, monotonic_ms_in};
use crate::ipc::caller::{Caller, Told};
use crate::ipc::frame::{FrameError, HEADER_LEN};
use crate::ipc::message::{GoAway, GoAwayCode};
use crate::ipc::{message, peer};

/// From one attempt to connect to the next.
pub(in crate::child::helper) const RETRY_MIN: Duration = Duration::from_millis(10);
pub(in crate::child::helper) const RETRY_MAX: Duration = Duration::from_secs(1);

/// The least time between two looks at the deadlines.
const SWEEP: Duration = Duration::from_millis(10);

/// The longest time between two, so that no timer is asked for more than it can do.
const PATIENCE: Duration = Duration::from_hours(1);

/// Unsent bytes from which on notifications are dropped.
const UNSENT_MAX: usize = 1024 * 1024;

/// Unsent bytes from which on requests wait.
const UNSENT_REQUESTS_MAX: usize = 64 * 1024 * 1024;

/// Unsent bytes beyond which a helper that pings on and reads nothing is left.
const UNREAD_MAX: usize = 2 * UNSENT_REQUESTS_MAX;

/// Bytes read at once.
const READ_LEN: usize = 64 * 1024;

/// What all clones and the task that carries share.
pub(crate) struct Link {
    state: Mutex<State>,
    /// Told when something is asked whose deadline comes before the next look at them.
    hurry: Notify,
    name: &'static str,
}

pub(super) struct State {
    phase: Phase,
    caller: Caller,
    pub(super) calls: Calls,
    pub(super) topics: Topics,
    /// The task's, while it waits.
    driver: Option<Waker>,
    /// When the deadlines are looked at next, whatever is asked until then.
    sweep_ms: u64,
    is_over: bool,
}

#[derive(Debug, PartialEq, Eq)]
enum Phase {
    /// Not connected, or not welcome yet: requests wait.
    Away,
    Open {
        requests_max: usize,
        frame_len_max: usize,
    },
    /// The helper asked for no more: what was sent is awaited.
    Leaving,
}

/// Ends the connection when the last clone is gone.
pub(crate) struct Lifeline(Arc<Link>);

/// One call, given up when dropped.
pub(super) struct Pending<'a> {
    link: &'a Link,
    id: u32,
}

impl Lifeline {
    /// Begins to connect, on this thread's loop.
    pub(super) fn new(path: PathBuf, name: &'static str, caller: &str) -> Arc<Self> {
        let state = State {
            phase: Phase::Away,
            caller: Caller::new(caller),
            calls: Calls::default(),
            topics: Topics::default(),
            driver: None,
            sweep_ms: u64::MAX,
            is_over: false,
        };
        let link = Arc::new(Link { state: Mutex::new(state), hurry: Notify::new(), name });
        drop(tokio::spawn(carry(link.clone(), path, caller.to_owned())));
        drop(tokio::spawn(sweep(link.clone())));
        Arc::new(Self(link))
    }

    pub(super) fn link(&self) -> &Link {
        &self.0
    }
}

impl Drop for Lifeline {
    fn drop(&mut self) {
        let mut state = self.0.lock();
        state.is_over = true;
        state.wake();
        self.0.hurry.notify_one();
    }
}

impl Link {
    pub(super) fn lock(&self) -> MutexGuard<'_, State> {
        // Nothing panics while it holds the lock; and if it did, the state would be whole.
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Begins a call: sends it, or lets it wait.
    pub(super) fn begin<P: Serialize, E>(
        &self,
        method: &str,
        params: &P,
        is_idempotent: bool,
        within: Duration,
    ) -> Result<Pending<'_>, CallError<E>> {
        let deadline_ms = monotonic_ms_in(within);
        let mut guard = self.lock();
        let state = &mut *guard;
        let id = state.calls.begin(is_idempotent, deadline_ms).ok_or(CallError::Overloaded)?;
        let sent = state.send(id, method, params, is_idempotent, deadline_ms);
        if let Err(error) = sent {
            state.calls.leave(id);
            return Err(error);
        }
        state.wake();
        if deadline_ms < state.sweep_ms {
            state.sweep_ms = deadline_ms;
            self.hurry.notify_one();
        }
        Ok(Pending { link: self, id })
    }

    pub(super) fn cast<P: Serialize>(&self, method: &str, params: &P) {
        let mut state = self.lock();
        let Phase::Open { frame_len_max, .. } = state.phase else {
            return log::debug!("{} is away: a notification of {method:?} is dropped", self.name);
        };
        let unsent = state.caller.unsent();
        let start = unsent.len();
        if start > UNSENT_MAX {
            return log::debug!("{} does not read: a notification of {method:?} is dropped", self.name);
        }
        match message::notification(method, params, unsent) {
            Ok(()) if unsent.len() - start - HEADER_LEN <= frame_len_max => state.wake(),
            Ok(()) => {
                log::error!("a notification of {method:?} is longer than {frame_len_max} bytes: it is dropped");
                unsent.truncate(start);
            }
            Err(error) => log::error!("a notification of {method:?} cannot be encoded: {error}"),
        }
    }
}

impl Pending<'_> {
    pub(super) fn poll(&mut self, context: &Context<'_>) -> Poll<Outcome> {
        match self.link.lock().calls.poll(self.id, context.waker()) {
            Some(outcome) => Poll::Ready(outcome),
            None => Poll::Pending,
        }
    }
}

impl Drop for Pending<'_> {
    fn drop(&mut self) {
        let mut state = self.link.lock();
        if state.calls.leave(self.id) {
            message::cancel(self.id, state.caller.unsent());
            state.wake();
        }
    }
}

impl State {
    fn send<P: Serialize, E>(
        &mut self,
        id: u32,
        method: &str,
        params: &P,
        is_idempotent: bool,
        deadline_ms: u64,
    ) -> Result<(), CallError<E>> {
        let not_encoded = |error: FrameError| CallError::BadRequest(format!("the request does not encode: {error}"));
        let room = match self.phase {
            Phase::Open { requests_max, .. } => {
                let is_read = self.caller.unsent().len() < UNSENT_REQUESTS_MAX;
                is_read && self.calls.on_the_wire() < requests_max && !self.calls.has_waiting()
            }
            Phase::Away | Phase::Leaving => false,
        };
        if room && !is_idempotent {
            let unsent = self.caller.unsent();
            let start = unsent.len();
            message::request_until(id, method, params, deadline_ms, unsent).map_err(not_encoded)?;
            let len = unsent.len() - start - HEADER_LEN;
            if let Err(error) = self.phase.check(len) {
                self.caller.unsent().truncate(start);
                return Err(error);
            }
            self.calls.sent(id);
            return Ok(());
        }
        let mut frame = Vec::new();
        message::request_until(id, method, params, deadline_ms, &mut frame).map_err(not_encoded)?;
        self.phase.check(frame.len() - HEADER_LEN)?;
        if room {
            self.caller.unsent().extend_from_slice(&frame);
            self.calls.sent_with_copy(id, frame);
            return Ok(());
        }
        if self.calls.wait(id, frame) { Ok(()) } else { Err(CallError::Overloaded) }
    }

    /// Lets the task look for what is new.
    pub(super) fn wake(&mut self) {
        if let Some(driver) = self.driver.take() {
            driver.wake();
        }
    }

    pub(super) fn unsent(&mut self) -> &mut Vec<u8> {
        self.caller.unsent()
    }

    pub(super) fn is_open(&self) -> bool {
        matches!(self.phase, Phase::Open { .. })
    }

    /// Sends what waits, as far as the helper takes it.
    fn send_waiting(&mut self) {
        let Phase::Open { requests_max, frame_len_max } = self.phase else { return };
        while self.calls.has_waiting()
            && self.calls.on_the_wire() < requests_max
            && self.caller.unsent().len() < UNSENT_REQUESTS_MAX
        {
            self.calls.send_next(frame_len_max + HEADER_LEN, self.caller.unsent());
        }
    }

    /// Takes in what was read. The error says why this connection is over.
    fn hear(&mut self, bytes: &[u8], name: &str) -> Result<(), String> {
        self.caller.feed(bytes);
        while let Some(told) = self.caller.next().map_err(|error| error.reason())? {
            match told {
                Told::Welcome(welcome) => {
                    let (requests_max, frame_len_max) = (welcome.requests_max as usize, welcome.frame_len_max as usize);
                    self.phase = Phase::Open { requests_max, frame_len_max };
                    self.topics.renew(self.caller.unsent());
                }
                Told::Response { id, outcome } => {
                    let outcome = match outcome {
                        Ok(result) => Outcome::Result(result.to_vec()),
                        Err(error) => Outcome::Error(error.to_vec()),
                    };
                    if !self.calls.answered(id, outcome) {
                        return Err(format!("an answer to {id}, which nobody asks"));
                    }
                }
                Told::Snapshot { id, epoch, sequence, events } => self.topics.snapshot(id, epoch, sequence, events)?,
                Told::Event { id, sequence, event } => self.topics.event(id, sequence, event)?,
                Told::Resync { id, missed } => {
                    log::debug!("{name}: subscription {id} missed {missed} events");
                    self.topics.resync(id, missed);
                }
                Told::End { id, failure } => log::warn!("{name} ended subscription {id}: {}", failure.message),
                Told::GoAway(GoAway { code: GoAwayCode::Leaving, .. }) => self.phase = Phase::Leaving,
                Told::GoAway(GoAway { code: GoAwayCode::RuleBroken, reason }) => {
                    return Err(format!("it says that a rule was broken here: {reason}"));
                }
                Told::GoAway(GoAway { code: GoAwayCode::NotAllowed, reason }) => {
                    return Err(format!("it does not listen: {reason}"));
                }
                Told::Pong(_) | Told::Nothing => {}
            }
        }
        if self.caller.unsent().len() > UNREAD_MAX {
            return Err(format!("it asks on and has left more than {} MiB unread", UNREAD_MAX >> 20));
        }
        self.send_waiting();
        Ok(())
    }
}

impl Phase {
    /// Whether the helper reads a frame of so many bytes, as far as it is known.
    fn check<E>(&self, len: usize) -> Result<(), CallError<E>> {
        match *self {
            Self::Open { frame_len_max, .. } if len > frame_len_max => {
                Err(CallError::BadRequest(format!("a request of {len} bytes, the helper takes {frame_len_max}")))
            }
            Self::Open { .. } | Self::Away | Self::Leaving => Ok(()),
        }
    }
}

/// Keeps the connection up until the last clone of the client is gone.
async fn carry(link: Arc<Link>, path: PathBuf, caller: String) {
    let mut patience = RETRY_MIN;
    while !link.lock().is_over {
        let ended = match connect(&path).await {
            Ok(stream) => Conversation::new(&link, stream).await,
            Err(error) => {
                log::debug!("cannot connect to {}: {error}", link.name);
                Ok(())
            }
        };
        let is_blameless = match ended {
            Ok(()) => true,
            // A helper that was killed with something unread: its successor is not to blame.
            Err(error) if peer::is_end(&error) => true,
            Err(error) => {
                log::warn!("the connection to {} has ended: {error}", link.name);
                false
            }
        };
        {
            let mut state = link.lock();
            if is_blameless && state.phase != Phase::Away {
                patience = RETRY_MIN;
            }
            state.phase = Phase::Away;
            state.caller = Caller::new(&caller);
            state.calls.lost();
            state.driver = None;
        }
        tokio::time::sleep(patience).await;
        patience = (patience * 2).min(RETRY_MAX);
    }
}

/// Connects, and looks who listens: the master bound the socket, as root or as this process's user.
async fn connect(path: &PathBuf) -> std::io::Result<UnixStream> {
    let stream = UnixStream::connect(path).await?;
    let uid = peer::uid(&stream)?;
    if !peer::is_ours(uid) {
        return Err(std::io::Error::other(format!("its socket belongs to uid {uid}")));
    }
    Ok(stream)
}

/// One connection, from the hello to its end.
struct Conversation<'a> {
    link: &'a Link,
    stream: UnixStream,
    writing: Vec<u8>,
    written: usize,
    buffer: Box<[u8]>,
}

impl<'a> Conversation<'a> {
    fn new(link: &'a Link, stream: UnixStream) -> Self {
        Self { link, stream, writing: Vec::new(), written: 0, buffer: vec![0; READ_LEN].into_boxed_slice() }
    }

    /// Writes until nothing is left, or the socket takes no more.
    fn write(&mut self, context: &mut Context<'_>) -> Poll<std::io::Result<()>> {
        loop {
            if self.written == self.writing.len() {
                self.writing.clear();
                self.written = 0;
                let mut state = self.link.lock();
                state.send_waiting();
                std::mem::swap(&mut self.writing, state.caller.unsent());
                if self.writing.is_empty() {
                    state.driver = Some(context.waker().clone());
                    return Poll::Ready(Ok(()));
                }
            }
            let rest = &self.writing[self.written..];
            match ready!(Pin::new(&mut self.stream).poll_write(context, rest)) {
                Ok(count) => self.written += count,
                Err(error) => return Poll::Ready(Err(error)),
            }
        }
    }

    /// Whether both sides are done with it.
    fn is_over(&self) -> bool {
        let state = self.link.lock();
        state.is_over || (state.phase == Phase::Leaving && state.calls.on_the_wire() == 0)
    }
}

impl Future for Conversation<'_> {
    type Output = std::io::Result<()>;

    fn poll(self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<Self::Output> {
        let this = self.get_mut();
        loop {
            let written = this.write(context);
            if this.is_over() {
                return Poll::Ready(Ok(()));
            }
            let mut buffer = ReadBuf::new(&mut this.buffer);
            let read = Pin::new(&mut this.stream).poll_read(context, &mut buffer);
            let heard = match read {
                Poll::Ready(Ok(())) => buffer.filled(),
                Poll::Ready(Err(error)) => return Poll::Ready(Err(error)),
                Poll::Pending => &[],
            };
            if !heard.is_empty() {
                // Also where nothing can be written any more: it may say why it has closed.
                if let Err(why) = this.link.lock().hear(heard, this.link.name) {
                    return Poll::Ready(Err(std::io::Error::other(why)));
                }
                continue;
            }
            return match written {
                Poll::Ready(Err(error)) => Poll::Ready(Err(error)),
                Poll::Ready(Ok(())) | Poll::Pending if read.is_pending() => Poll::Pending,
                // The helper has ended; its successor takes the next connection.
                Poll::Ready(Ok(())) | Poll::Pending => Poll::Ready(Ok(())),
            };
        }
    }
}

/// Ends calls whose deadline has passed: looks at them when the earliest has, not all the time.
async fn sweep(link: Arc<Link>) {
    loop {
        let next_ms = {
            let mut guard = link.lock();
            let state = &mut *guard;
            if state.is_over {
                return;
            }
            let late = state.calls.sweep(monotonic_ms());
            late.iter().for_each(|&id| message::cancel(id, state.caller.unsent()));
            if !late.is_empty() {
                state.wake();
            }
            state.sweep_ms = state.calls.next_deadline_ms().unwrap_or(u64::MAX);
            state.sweep_ms
        };
        let patience = Duration::from_millis(next_ms.saturating_sub(monotonic_ms())).min(PATIENCE);
        // Late or in a hurry: the next look is due.
        let _ = tokio::time::timeout(patience, link.hurry.notified()).await;
        tokio::time::sleep(SWEEP).await;
    }
}
