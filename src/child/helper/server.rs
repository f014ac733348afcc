//! A helper's listening end: who may connect, how many, and how they are told to leave.

use std::io::{self, ErrorKind};
use std::rc::Rc;
use std::time::Duration;

use tokio::net::{UnixListener, UnixStream};
use tokio::sync::watch;

use super::bus::Bus;
use super::connection::{self, Connection};
use crate::app::declare::Singleton;
use crate::child::life::record;
use crate::ipc::peer;

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
    /// Whether everyone shall leave.
    pub(super) closing: watch::Sender<bool>,
    /// How many connections there are.
    open: watch::Sender<usize>,
}

/// The listening end.
pub(super) struct Server {
    listener: UnixListener,
    desk: Rc<Desk>,
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
        Self { listener, desk: Rc::new(Desk { singleton, bus, name, version, closing, open }) }
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
        let uid = peer::uid(&stream);
        if !uid.as_ref().is_ok_and(|&uid| peer::is_ours(uid)) {
            return log::warn!("a process of another user (uid {uid:?}) was turned away");
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
