//! One connection of a helper: reads what is asked, lets it run beside everything else, and
//! writes the answers.

use std::cell::{Cell, RefCell};
use std::future::Future;
use std::io;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::pin::Pin;
use std::rc::Rc;
use std::task::{Context, Poll, Waker, ready};
use std::time::Duration;

use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::net::UnixStream;
use tokio::task::AbortHandle;
use tokio::time::{Instant, Sleep};

use super::server::Desk;
use crate::app::declare::{LocalFuture, Unanswerable};
use crate::child::life::record;
use crate::contract::time::monotonic_ms;
use crate::ipc::callee::{Asked, Callee, Limits, Violation};
use crate::ipc::message::Code;

/// What one connection may have.
const LIMITS: Limits = Limits { frame_len_max: 16 * 1024 * 1024, requests_max: 1024, subscriptions_max: 4096 };

/// How long a peer may owe its hello, the rest of a frame, or the reading of what was sent.
const OWING_MAX: Duration = Duration::from_secs(10);

/// How long a connection without open requests lasts once everyone shall leave.
const LEAVING_GRACE: Duration = Duration::from_secs(1);

/// Bytes read at once.
const READ_LEN: usize = 64 * 1024;

/// What the task of a connection and the tasks of its requests share.
pub(super) struct Connection {
    callee: RefCell<Callee<AbortHandle>>,
    /// Notifications that are not done yet.
    notifications: Cell<u32>,
    /// The connection's task, while it waits.
    waker: RefCell<Option<Waker>>,
}

impl Default for Connection {
    fn default() -> Self {
        Self { callee: RefCell::new(Callee::new(LIMITS)), notifications: Cell::new(0), waker: RefCell::default() }
    }
}

impl Connection {
    pub(super) fn publish(&self, sequence: u64, event: &[u8]) {
        self.callee.borrow_mut().publish(sequence, event);
        self.wake();
    }

    /// Who it is, as it says.
    pub(super) fn peer(&self) -> String {
        self.callee.borrow().peer().unwrap_or("somebody without a name").to_owned()
    }

    /// Ends what nobody waits for any more.
    pub(super) fn abandon(&self) {
        self.callee.borrow_mut().abandon().for_each(|request| request.abort());
    }

    /// Runs a notification beside everything else, unless too many run already.
    fn run(self: &Rc<Self>, notification: LocalFuture<Vec<u8>>) {
        let running = self.notifications.get();
        if running >= LIMITS.requests_max {
            return log::warn!("{} tells too much at once: a notification is dropped", self.peer());
        }
        self.notifications.set(running + 1);
        let connection = self.clone();
        drop(tokio::task::spawn_local(async move {
            notification.await;
            connection.notifications.set(connection.notifications.get() - 1);
        }));
    }

    fn wake(&self) {
        if let Some(waker) = self.waker.borrow_mut().take() {
            waker.wake();
        }
    }
}

/// Serves a connection to its end; the error is why it was cut.
pub(super) async fn serve(stream: UnixStream, connection: &Rc<Connection>, desk: &Rc<Desk>) -> Result<(), Violation> {
    let serving = Serving {
        stream,
        connection: connection.clone(),
        desk: desk.clone(),
        writing: Vec::new(),
        written: 0,
        buffer: vec![0; READ_LEN].into_boxed_slice(),
        owing: None,
    };
    let mut serving = std::pin::pin!(serving);
    let mut closing = desk.closing.subscribe();
    tokio::select! {
        result = serving.as_mut() => return result,
        // The sender lives as long as the helper.
        _ = closing.wait_for(|closing| *closing) => connection.callee.borrow_mut().go_away("the helper ends"),
    }
    loop {
        // The peer hangs up when it has all its answers; one that does not is not waited for.
        match tokio::time::timeout(LEAVING_GRACE, serving.as_mut()).await {
            Ok(result) => return result,
            Err(_) if connection.callee.borrow().unanswered() == 0 => return Ok(()),
            Err(_) => {}
        }
    }
}

struct Serving {
    stream: UnixStream,
    connection: Rc<Connection>,
    desk: Rc<Desk>,
    writing: Vec<u8>,
    written: usize,
    buffer: Box<[u8]>,
    /// Runs while the peer owes something.
    owing: Option<Pin<Box<Sleep>>>,
}

impl Serving {
    /// Writes until nothing is left, or the socket takes no more.
    fn write(&mut self, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        loop {
            if self.written == self.writing.len() {
                self.writing.clear();
                self.written = 0;
                self.give_snapshots();
                std::mem::swap(&mut self.writing, self.connection.callee.borrow_mut().unsent());
                if self.writing.is_empty() {
                    return Poll::Ready(Ok(()));
                }
            }
            let rest = &self.writing[self.written..];
            match ready!(Pin::new(&mut self.stream).poll_write(context, rest)) {
                Ok(count) => self.written += count,
                Err(error) => return Poll::Ready(Err(error)),
            }
            self.owing = None;
        }
    }

    fn give_snapshots(&self) {
        if !self.connection.callee.borrow().wants_snapshot() {
            return;
        }
        let mut events = Vec::new();
        let taken = catch_unwind(AssertUnwindSafe(|| self.desk.singleton.snapshot(&mut events)));
        let mut callee = self.connection.callee.borrow_mut();
        match taken {
            Ok(Ok(())) => callee.snapshot(self.desk.bus.epoch(), self.desk.bus.sequence(), &events),
            Ok(Err(error)) => callee.end_subscriptions(&format!("the snapshot cannot be encoded: {error}")),
            Err(_) => callee.end_subscriptions("the snapshot panicked: the log says where"),
        }
    }

    /// Does what is asked in the bytes read so far.
    fn answer(&self, context: &mut Context<'_>) -> Result<(), Violation> {
        let now_ms = monotonic_ms();
        let Desk { name, version, .. } = &*self.desk;
        loop {
            let mut callee = self.connection.callee.borrow_mut();
            match callee.next()? {
                None => return Ok(()),
                Some(Asked::Nothing) => {}
                Some(Asked::Hello) => callee.welcome(name, version),
                Some(Asked::Request { id, method, params }) => {
                    let begun = self.call(method, params, now_ms);
                    // Before the request runs: it may publish, on this connection too.
                    drop(callee);
                    self.begin(id, begun, context);
                }
                Some(Asked::Notification { method, params }) => {
                    let begun = self.call(method, params, now_ms);
                    drop(callee);
                    match begun {
                        Ok(notification) => self.connection.run(notification),
                        Err(why) => log::debug!("a notification is dropped: {}", refusal(why).1),
                    }
                }
                Some(Asked::Cancel { id }) => {
                    if let Some(request) = callee.cancelled(id) {
                        request.abort();
                    }
                }
            }
        }
    }

    /// Reads a request; whatever panics in the application's types is this request's fault.
    fn call(&self, method: &str, params: &[u8], now_ms: u64) -> Result<LocalFuture<Vec<u8>>, Unanswerable> {
        let singleton = self.desk.singleton.clone();
        catch_unwind(AssertUnwindSafe(|| singleton.call(method, params, now_ms))).unwrap_or(Err(Unanswerable::Panicked))
    }

    /// Runs a request as far as it goes at once; what then waits gets a task of its own.
    fn begin(&self, id: u32, begun: Result<LocalFuture<Vec<u8>>, Unanswerable>, context: &mut Context<'_>) {
        if let Some(record) = record() {
            record.count_request();
        }
        let connection = &self.connection;
        let mut request = match begun {
            Ok(request) => request,
            Err(why) => {
                let (code, why) = refusal(why);
                return connection.callee.borrow_mut().refuse(id, code, &why);
            }
        };
        if let Poll::Ready(outcome) = request.as_mut().poll(context) {
            return connection.callee.borrow_mut().answer(id, &outcome);
        }
        let answering = connection.clone();
        let task = tokio::task::spawn_local(async move {
            let outcome = request.await;
            let mut callee = answering.callee.borrow_mut();
            if callee.settle(id) {
                callee.answer(id, &outcome);
            }
            drop(callee);
            answering.wake();
        });
        connection.callee.borrow_mut().keep(id, task.abort_handle());
    }

    /// Bounds the time for which the peer owes something.
    fn check_what_is_owed(&mut self, context: &mut Context<'_>) -> Result<(), Violation> {
        let owed = {
            let callee = self.connection.callee.borrow();
            if callee.peer().is_none() {
                Some("no hello")
            } else if callee.is_in_a_frame() {
                Some("half a frame, and nothing")
            } else if self.written < self.writing.len() {
                Some("it reads nothing")
            } else {
                None
            }
        };
        let Some(owed) = owed else {
            self.owing = None;
            return Ok(());
        };
        let limit = || Box::pin(tokio::time::sleep_until(Instant::now() + OWING_MAX));
        match self.owing.get_or_insert_with(limit).as_mut().poll(context) {
            Poll::Pending => Ok(()),
            Poll::Ready(()) => Err(Violation(format!("{owed} for {} s", OWING_MAX.as_secs()))),
        }
    }
}

impl Future for Serving {
    type Output = Result<(), Violation>;

    fn poll(self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<Self::Output> {
        let this = self.get_mut();
        *this.connection.waker.borrow_mut() = Some(context.waker().clone());
        loop {
            // A peer that is gone is no fault of its own.
            if let Poll::Ready(Err(_)) = this.write(context) {
                return Poll::Ready(Ok(()));
            }
            // Whoever does not read what was sent is not read from.
            if this.connection.callee.borrow_mut().is_full() {
                break;
            }
            let mut buffer = ReadBuf::new(&mut this.buffer);
            match Pin::new(&mut this.stream).poll_read(context, &mut buffer) {
                Poll::Pending => break,
                Poll::Ready(Ok(())) if !buffer.filled().is_empty() => {}
                Poll::Ready(Ok(()) | Err(_)) => return Poll::Ready(Ok(())),
            }
            this.connection.callee.borrow_mut().feed(buffer.filled());
            this.owing = None;
            this.answer(context)?;
        }
        this.check_what_is_owed(context)?;
        Poll::Pending
    }
}

fn refusal(why: Unanswerable) -> (Code, String) {
    match why {
        Unanswerable::NoMethod(known) => {
            (Code::NoMethod, format!("there is no such method; there are: {}", known.join(", ")))
        }
        Unanswerable::BadParams(why) => (Code::BadParams, why),
        Unanswerable::Panicked => (Code::Panicked, "its parameters could not be read: the log says where".to_owned()),
        Unanswerable::TooLate => (Code::DeadlineExceeded, "its deadline had passed when it came".to_owned()),
    }
}
