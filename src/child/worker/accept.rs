//! Taking connections from the listening sockets that all workers share.

use std::convert::Infallible;
use std::future::poll_fn;
use std::io::{self, ErrorKind};
use std::net::SocketAddr;
use std::os::fd::OwnedFd;
use std::sync::Arc;
use std::task::{Context, Poll};
use std::time::Duration;

use hyper_util::rt::TokioIo;
use tokio::net::{TcpListener, UnixListener};

use super::drain::Drain;
use crate::app::declare::{Replica, Stream};

/// How long a worker without descriptors leaves the queue to others.
const OUT_OF_DESCRIPTORS: Duration = Duration::from_millis(100);

/// Open connections for which a worker lets one turn pass between two accepts, and the most turns.
const CONNECTIONS_A_TURN: u64 = 4;
const TURNS_MAX: u64 = 16;

/// What a worker that retires takes at most from each queue that it leaves: nobody else may have it.
const REST_MAX: usize = 1024;

/// Takes connections from all listeners, for ever.
pub(super) async fn all(queue: &mut Queue, replica: &dyn Replica, drain: &Arc<Drain>) -> Infallible {
    let mut exhausted = false;
    loop {
        match poll_fn(|context| queue.poll_accept(context)).await {
            Ok(taken) => {
                exhausted = false;
                serve(taken, replica, drain);
                // The next in the queue is for whoever has less to do: turns of the loop, the more of
                // them the more this worker has.
                for _ in 0..=drain.count().min(TURNS_MAX * CONNECTIONS_A_TURN) / CONNECTIONS_A_TURN {
                    tokio::task::yield_now().await;
                }
            }
            Err(error) if is_peers_fault(&error) => log::debug!("a connection was lost in the queue: {error}"),
            // Descriptors or memory are short: others may have some; come back later.
            Err(error) => {
                if !std::mem::replace(&mut exhausted, true) {
                    log::error!("cannot accept: {error}; trying again every {} ms", OUT_OF_DESCRIPTORS.as_millis());
                }
                tokio::time::sleep(OUT_OF_DESCRIPTORS).await;
            }
        }
    }
}

/// Takes what waits now, and closes the listeners: an address that a reload has removed is nobody
/// else's any more.
pub(super) async fn rest(mut queue: Queue, replica: &dyn Replica, drain: &Arc<Drain>) {
    for _ in 0..REST_MAX * queue.listeners.len() {
        // Without tokio's budget, which makes a full queue seem empty after 128 connections.
        let next = tokio::task::unconstrained(poll_fn(|context| Poll::Ready(queue.poll_accept(context))));
        match next.await {
            Poll::Ready(Ok(taken)) => serve(taken, replica, drain),
            Poll::Ready(Err(error)) if is_peers_fault(&error) => {}
            Poll::Ready(Err(_)) | Poll::Pending => return,
        }
    }
}

fn serve((stream, peer): Taken, replica: &dyn Replica, drain: &Arc<Drain>) {
    drop(tokio::spawn(replica.serve(stream, peer, drain.clone())));
}

/// Errors of one connection that accept(2) passes on.
fn is_peers_fault(error: &io::Error) -> bool {
    matches!(
        error.kind(),
        ErrorKind::ConnectionAborted | ErrorKind::ConnectionReset | ErrorKind::Interrupted | ErrorKind::TimedOut
    )
}

/// A connection, and where it comes from.
type Taken = (Stream, Option<SocketAddr>);

/// The listeners, looked at in turn.
pub(super) struct Queue {
    listeners: Vec<Listener>,
    next: usize,
}

enum Listener {
    Tcp(TcpListener),
    Unix(UnixListener),
}

impl Queue {
    pub(super) fn new(descriptors: Vec<OwnedFd>) -> io::Result<Self> {
        Ok(Self { listeners: descriptors.into_iter().map(Listener::new).collect::<io::Result<_>>()?, next: 0 })
    }

    fn poll_accept(&mut self, context: &mut Context<'_>) -> Poll<io::Result<Taken>> {
        for _ in 0..self.listeners.len() {
            self.next = (self.next + 1) % self.listeners.len();
            if let Poll::Ready(accepted) = self.listeners[self.next].poll_accept(context) {
                return Poll::Ready(accepted);
            }
        }
        Poll::Pending
    }
}

impl Listener {
    /// The kernel says of which family a socket is.
    fn new(descriptor: OwnedFd) -> io::Result<Self> {
        let is_unix = socket2::SockRef::from(&descriptor).local_addr()?.is_unix();
        Ok(if is_unix {
            Self::Unix(UnixListener::from_std(descriptor.into())?)
        } else {
            Self::Tcp(TcpListener::from_std(descriptor.into())?)
        })
    }

    fn poll_accept(&self, context: &mut Context<'_>) -> Poll<io::Result<Taken>> {
        match self {
            Self::Tcp(listener) => listener.poll_accept(context).map_ok(|(stream, peer)| {
                // Small answers go at once; where this fails the peer is gone already.
                let _ = stream.set_nodelay(true);
                (Box::new(TokioIo::new(stream)) as Stream, Some(peer))
            }),
            Self::Unix(listener) => {
                listener.poll_accept(context).map_ok(|(stream, _)| (Box::new(TokioIo::new(stream)) as Stream, None))
            }
        }
    }
}
