//! A helper's listening end: who may connect, how many, and how they are told to leave.

use std::cell::RefCell;
use std::io::{self, ErrorKind};
use std::rc::Rc;
use std::time::{Duration, Instant};

use tokio::net::{UnixListener, UnixStream};
use tokio::sync::watch;

use super::bus::Bus;
use super::connection::{self, Connection, READ_LEN};
use crate::app::declare::Singleton;
use crate::child::life::record;
use crate::ipc::message::{self, GoAwayCode};
use crate::ipc::peer::{self, TurnedAway};
use crate::ipc::spare::Spare;

/// Connections at once. More wait in the socket's queue.
const CONNECTIONS_MAX: usize = 4096;

/// How long a helper that cannot accept leaves the queue alone.
const ACCEPT_RETRY: Duration = Duration::from_millis(100);

/// What a connection needs of the helper.
pub(super) struct Desk {
    pub(super) singleton: Rc<dyn Singleton>,
    pub(super) bus: Rc<Bus>,
    pub(super) name: String,
    pub(super) version: String,
    /// What is read at once, of whichever connection: an idle one needs none.
    pub(super) buffer: RefCell<Box<[u8]>>,
    /// For what was read and not yet taken, and for what is unsent, of the connection whose turn it is.
    pub(super) spares: RefCell<[Spare; 2]>,
    /// Whether everyone shall leave.
    pub(super) closing: watch::Sender<bool>,
    /// How many connections there are.
    open: watch::Sender<usize>,
}

/// The listening end.
pub(super) struct Server {
    listener: UnixListener,
    desk: Rc<Desk>,
    turned_away: RefCell<TurnedAway>,
}

impl Server {
    pub(super) fn new(
        listener: UnixListener,
        singleton: Rc<dyn Singleton>,
        bus: Rc<Bus>,
        name: String,
        version: String,
    ) -> Self {
        let (closing, open) = (watch::Sender::new(false), watch::Sender::new(0));
        let buffer = RefCell::new(vec![0; READ_LEN].into_boxed_slice());
        let spares = RefCell::default();
        let desk = Rc::new(Desk { singleton, bus, name, version, buffer, spares, closing, open });
        Self { listener, desk, turned_away: RefCell::default() }
    }

    /// Takes connections, for ever. Returns only what makes that impossible.
    pub(super) async fn accept(&self) -> io::Error {
        let mut open = self.desk.open.subscribe();
        let mut exhausted = false;
        loop {
            // The sender lives in `desk`.
            let _ = open.wait_for(|open| *open < CONNECTIONS_MAX).await;
            match self.listener.accept().await {
                Ok((stream, _)) => {
                    exhausted = false;
                    self.admit(stream);
                }
                Err(error) if error.kind() == ErrorKind::Interrupted => {}
                Err(error) => {
                    if !std::mem::replace(&mut exhausted, true) {
                        log::error!("cannot accept: {error}; trying again every {} ms", ACCEPT_RETRY.as_millis());
                    }
                    tokio::time::sleep(ACCEPT_RETRY).await;
                }
            }
        }
    }

    fn admit(&self, stream: UnixStream) {
        match peer::uid(&stream) {
            Ok(uid) if peer::is_ours(uid) => {}
            Ok(uid) => return self.refuse(&stream, uid),
            Err(error) => return log::warn!("who connects is unknown: {error}"),
        }
        let (desk, connection) = (self.desk.clone(), Rc::new(Connection::default()));
        desk.bus.add(&connection);
        count(&desk, 1);
        let open = Open { desk, connection };
        drop(tokio::task::spawn_local(async move {
            if let Err(why) = connection::serve(stream, &open.connection, &open.desk).await {
                log::warn!("the connection of {} is closed: {why}", open.connection.peer());
            }
        }));
    }

    /// Resolves when nobody is connected.
    pub(super) async fn is_left(&self) {
        let _ = self.desk.open.subscribe().wait_for(|open| *open == 0).await;
    }

    /// Asks everyone to leave, and waits for that, up to the limit.
    pub(super) async fn drain(&self, limit: Duration) {
        self.desk.closing.send_replace(true);
        if tokio::time::timeout(limit, self.is_left()).await.is_err() {
            let left = *self.desk.open.borrow();
            log::warn!("drained for {} s: {left} connections are cut", limit.as_secs_f64());
        }
    }

    /// Says why before anything is asked.
    fn refuse(&self, stream: &UnixStream, uid: u32) {
        let reason = format!("uid {uid} may not ask this helper: the daemon's own user and root may");
        let mut turned_away = self.turned_away.borrow_mut();
        turned_away.add();
        if let Some(count) = turned_away.due(Instant::now()) {
            log::warn!("a connection is closed: {reason}{}", TurnedAway::more(count));
        }
        let mut out = Vec::new();
        message::go_away(GoAwayCode::NotAllowed, &reason, &mut out);
        // It fits the socket's buffer, or its reader is gone.
        let _ = stream.try_write(&out);
    }
}

/// An open connection: whatever ends it, it is counted out.
struct Open {
    desk: Rc<Desk>,
    connection: Rc<Connection>,
}

impl Drop for Open {
    fn drop(&mut self) {
        self.connection.abandon();
        count(&self.desk, -1);
    }
}

fn count(desk: &Desk, change: isize) {
    desk.open.send_modify(|open| *open = open.saturating_add_signed(change));
    if let Some(record) = record() {
        record.set_connections(*desk.open.borrow() as u64);
    }
}
