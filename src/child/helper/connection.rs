//! One connection of a helper: reads what is asked, lets it run beside everything else, and
//! writes the answers.

mod owing;

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

use self::owing::{Owed, Owing};
use super::server::Desk;
use crate::app::declare::{LocalFuture, Unanswerable};
use crate::child::life::record;
use crate::contract::time::monotonic_ms;
use crate::ipc::callee::{Asked, Callee, Limits, Violation};
use crate::ipc::message::{self, Code, GoAwayCode};

/// What one connection may have.
const LIMITS: Limits = Limits { frame_len_max: 16 * 1024 * 1024, requests_max: 1024, subscriptions_max: 4096 };

/// How long a connection lasts after its last answer once everyone shall leave.
const LEAVING_GRACE: Duration = Duration::from_secs(1);

/// Bytes read at once.
pub(super) const READ_LEN: usize = 64 * 1024;

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

/// Serves a connection to its end; the error is why it was cut, which its peer was told.
pub(super) async fn serve(stream: UnixStream, connection: &Rc<Connection>, desk: &Rc<Desk>) -> Result<(), Violation> {
    let (connection, desk) = (connection.clone(), desk.clone());
    let mut closing = desk.closing.subscribe();
    let owing = Owing::default();
    let mut serving = Serving { stream, connection, desk, owing, is_leaving: false, grace: None };
    tokio::select! {
        result = &mut serving => return result,
        // The sender lives as long as the helper.
        _ = closing.wait_for(|closing| *closing) => {}
    }
    serving.connection.callee.borrow_mut().go_away(GoAwayCode::Leaving, "the helper ends");
    serving.is_leaving = true;
    serving.await
}

struct Serving {
    stream: UnixStream,
    connection: Rc<Connection>,
    desk: Rc<Desk>,
    owing: Owing,
    /// Whether the peer was asked to leave.
    is_leaving: bool,
    /// Runs then while it has all its answers.
    grace: Option<Pin<Box<Sleep>>>,
}

impl Serving {
    /// Writes until nothing is left, or the socket takes no more.
    fn write(&mut self, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        loop {
            self.give_snapshots();
            ready!(self.write_unsent(context))?;
            if !self.connection.callee.borrow().wants_snapshot() {
                return Poll::Ready(Ok(()));
            }
        }
    }

    fn write_unsent(&mut self, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        let mut callee = self.connection.callee.borrow_mut();
        let unsent = callee.unsent();
        while !unsent.is_empty() {
            let count = ready!(Pin::new(&mut self.stream).poll_write(context, unsent.rest()))?;
            unsent.wrote(count);
            self.owing.has_read();
            self.grace = None;
        }
        Poll::Ready(Ok(()))
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

    /// Reads once, and takes in what came. False: the peer has closed the connection.
    fn read(&mut self, context: &mut Context<'_>) -> Poll<bool> {
        // Shared with all other connections: nobody reads while another one does.
        let mut buffer = self.desk.buffer.borrow_mut();
        let mut buffer = ReadBuf::new(&mut buffer);
        // A peer that is gone is no fault of its own.
        let is_open = ready!(Pin::new(&mut self.stream).poll_read(context, &mut buffer)).is_ok();
        let came = buffer.filled();
        if !is_open || came.is_empty() {
            return Poll::Ready(false);
        }
        self.connection.callee.borrow_mut().feed(came);
        self.owing.has_spoken();
        Poll::Ready(true)
    }

    /// Does what is asked in the bytes read so far. False: the peer has too much to read for all of it.
    fn answer(&self, context: &mut Context<'_>) -> Result<bool, Violation> {
        let Desk { name, version, .. } = &*self.desk;
        let mut now_ms = None;
        loop {
            let mut callee = self.connection.callee.borrow_mut();
            if callee.is_full() {
                return Ok(false);
            }
            match callee.next()? {
                None => return Ok(true),
                Some(Asked::Nothing) => {}
                Some(Asked::Hello) => callee.welcome(name, version),
                Some(Asked::Request { id, method, params }) => {
                    let begun = self.call(method, params, *now_ms.get_or_insert_with(monotonic_ms));
                    check_the_refused(&begun, params)?;
                    // Before the request runs: it may publish, on this connection too.
                    drop(callee);
                    self.begin(id, begun, context);
                }
                Some(Asked::Notification { method, params }) => {
                    let begun = self.call(method, params, *now_ms.get_or_insert_with(monotonic_ms));
                    check_the_refused(&begun, params)?;
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
    fn call(&self, method: &str, params: &[u8], now_ms: u64) -> Begun {
        let singleton = self.desk.singleton.clone();
        catch_unwind(AssertUnwindSafe(|| singleton.call(method, params, now_ms))).unwrap_or(Err(Unanswerable::Panicked))
    }

    /// Runs a request as far as it goes at once; what then waits gets a task of its own.
    fn begin(&self, id: u32, begun: Begun, context: &mut Context<'_>) {
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

    /// Goes on until the peer has to do something. True: the connection is over.
    fn turn(&mut self, context: &mut Context<'_>) -> Result<bool, Violation> {
        {
            let [read, unsent] = &mut *self.desk.spares.borrow_mut();
            self.connection.callee.borrow_mut().borrow_from(read, unsent);
        }
        loop {
            let is_done = self.answer(context)?;
            let has_room = match self.write(context) {
                // Whoever is gone is no fault of its own.
                Poll::Ready(Err(_)) => return Ok(true),
                Poll::Ready(Ok(())) if !is_done => continue,
                Poll::Ready(Ok(())) => true,
                Poll::Pending => is_done && !self.connection.callee.borrow().is_full(),
            };
            // Whoever does not read what was sent is not read from.
            if !has_room {
                break;
            }
            match self.read(context) {
                Poll::Pending => break,
                Poll::Ready(true) => {}
                Poll::Ready(false) => return Ok(true),
            }
        }
        self.check_what_is_owed(context)?;
        Ok(self.has_left(context))
    }

    /// Bounds the time for which the peer owes something.
    fn check_what_is_owed(&mut self, context: &mut Context<'_>) -> Result<(), Violation> {
        let mut callee = self.connection.callee.borrow_mut();
        callee.check_what_is_unread()?;
        let [read, unsent] = &mut *self.desk.spares.borrow_mut();
        callee.give_back(read, unsent);
        let owed = Owed {
            hello: callee.peer().is_none(),
            frame: callee.peer().is_some() && callee.is_in_a_frame() && !callee.is_full(),
            reading: !callee.unsent().is_empty(),
        };
        match self.owing.poll(owed, context) {
            Poll::Pending => Ok(()),
            Poll::Ready(why) => Err(Violation(why)),
        }
    }

    /// Whether the peer, which was asked to leave, had its time for it after its last answer.
    fn has_left(&mut self, context: &mut Context<'_>) -> bool {
        let mut callee = self.connection.callee.borrow_mut();
        if !self.is_leaving || callee.unanswered() > 0 || !callee.unsent().is_empty() {
            self.grace = None;
            return false;
        }
        let limit = || Box::pin(tokio::time::sleep_until(Instant::now() + LEAVING_GRACE));
        self.grace.get_or_insert_with(limit).as_mut().poll(context).is_ready()
    }
}

impl Future for Serving {
    type Output = Result<(), Violation>;

    fn poll(self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<Self::Output> {
        let this = self.get_mut();
        *this.connection.waker.borrow_mut() = Some(context.waker().clone());
        match this.turn(context) {
            Ok(true) => Poll::Ready(Ok(())),
            Ok(false) => Poll::Pending,
            Err(why) => {
                this.connection.callee.borrow_mut().go_away(GoAwayCode::RuleBroken, &why.0);
                // What the socket takes: nobody waits for a peer that breaks rules.
                let _ = this.write_unsent(context);
                Poll::Ready(Err(why))
            }
        }
    }
}

/// A request that runs, or why it does not.
type Begun = Result<LocalFuture<Vec<u8>>, Unanswerable>;

/// Nobody has seen the end of parameters that were refused: no message is answered that is none.
fn check_the_refused(begun: &Begun, params: &[u8]) -> Result<(), Violation> {
    if begun.is_err() { Ok(message::whole(params)?) } else { Ok(()) }
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
