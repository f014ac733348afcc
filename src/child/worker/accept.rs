//! Taking connections from the listening sockets that all workers share.

use std::convert::Infallible;
use std::future::poll_fn;
use std::io::{self, ErrorKind};
use std::net::SocketAddr;
use std::os::fd::{AsFd, OwnedFd};
use std::sync::Arc;
use std::task::Poll;
use std::time::Duration;

use hyper_util::rt::TokioIo;
use tokio::io::unix::AsyncFd;
use tokio::io::{AsyncRead, Interest};
use tokio::net::{TcpStream, UnixStream};

use super::drain::Drain;
use super::gate::{Gate, Turn};
use super::proxy;
use super::tls::Tls;
use crate::app::declare::{Arrival, Duplex, Ends, Replica};
use crate::sys::socket;

/// How long a worker without descriptors leaves the queue to others.
const OUT_OF_DESCRIPTORS: Duration = Duration::from_millis(100);

/// How long a connection waits for the worker whose turn it is, before another one takes it.
const PATIENCE: Duration = Duration::from_millis(2);

/// How soon a worker that is full looks whether it still is: other workers' connections end without a word.
const FULL: Duration = Duration::from_millis(20);

/// After so many connections in a row the others of this worker have their turn.
const TAKEN_AT_ONCE: u32 = 16;

/// What a worker that retires takes at most from each queue that it leaves: nobody else may have it.
const REST_MAX: usize = 1024;

/// Takes connections from all listeners, for ever: those that are this worker's.
pub(super) async fn all(queue: &mut Queue, gate: &Gate, replica: &dyn Replica, drain: &Arc<Drain>) -> Infallible {
    let (mut exhausted, mut full) = (false, false);
    let (mut fewest_before, mut taken) = (None, 0_u32);
    gate.show(true);
    loop {
        queue.wait().await;
        let turn = gate.turn(drain.count());
        if full != (turn == Turn::Full) {
            full = !full;
            gate.show(!full);
        }
        match turn {
            Turn::Full => {
                tokio::time::sleep(FULL).await;
                continue;
            }
            // The one with the fewest has had its time, and has taken none.
            Turn::Others(fewest) if fewest_before != Some(fewest) => {
                let is_woken = tokio::time::timeout(PATIENCE, queue.edge()).await.is_ok();
                fewest_before = (!is_woken).then_some(fewest);
                continue;
            }
            Turn::Others(_) | Turn::Ours => fewest_before = None,
        }
        match queue.take() {
            Ok(Some(connection)) => {
                exhausted = false;
                serve(connection, replica, drain);
                taken = taken.wrapping_add(1);
                if taken % TAKEN_AT_ONCE == 0 {
                    tokio::task::yield_now().await;
                }
            }
            Ok(None) => {}
            Err(error) if is_peers_fault(&error) => log::debug!("a connection was lost in the queue: {error}"),
            // Descriptors or memory are short: others may have some; come back later.
            Err(error) => {
                if !std::mem::replace(&mut exhausted, true) {
                    log::error!("cannot accept: {error}; trying again every {} ms", OUT_OF_DESCRIPTORS.as_millis());
                }
                gate.show(false);
                tokio::time::sleep(OUT_OF_DESCRIPTORS).await;
                gate.show(true);
            }
        }
    }
}

/// Takes what waits now, and closes the listeners: an address that a reload has removed is nobody
/// else's any more.
pub(super) fn rest(mut queue: Queue, replica: &dyn Replica, drain: &Arc<Drain>) {
    queue.look_everywhere();
    for _ in 0..REST_MAX * queue.listeners.len() {
        match queue.take() {
            Ok(Some(taken)) => serve(taken, replica, drain),
            Err(error) if is_peers_fault(&error) => {}
            Ok(None) | Err(_) => return,
        }
    }
}

fn serve(arrival: Arrival, replica: &dyn Replica, drain: &Arc<Drain>) {
    drop(tokio::spawn(replica.serve(arrival, drain.clone())));
}

/// Errors of one connection that accept(2) passes on.
fn is_peers_fault(error: &io::Error) -> bool {
    matches!(
        error.kind(),
        ErrorKind::ConnectionAborted | ErrorKind::ConnectionReset | ErrorKind::Interrupted | ErrorKind::TimedOut
    )
}

/// The listeners, looked at in turn.
pub(super) struct Queue {
    listeners: Vec<Listener>,
    tls: Tls,
    next: usize,
    /// What connections are told that begin with something else than HTTP.
    ends: Arc<dyn Ends>,
}

struct Listener {
    socket: AsyncFd<OwnedFd>,
    is_unix: bool,
    /// A header of the PROXY protocol begins each connection.
    is_proxied: bool,
    /// A connection may wait.
    may_have: bool,
}

impl Queue {
    /// These sockets, and which of them are behind a proxy.
    pub(super) fn new(
        descriptors: Vec<OwnedFd>,
        (proxied, tls): (&[bool], Tls),
        ends: Arc<dyn Ends>,
    ) -> io::Result<Self> {
        let proxied = proxied.iter().copied().map(Some).chain(std::iter::repeat(None));
        let listeners = descriptors.into_iter().zip(proxied);
        let listeners = listeners.map(|(descriptor, is_proxied)| Listener::new(descriptor, is_proxied));
        Ok(Self { listeners: listeners.collect::<io::Result<_>>()?, tls, next: 0, ends })
    }

    /// Waits until a connection may wait somewhere.
    async fn wait(&mut self) {
        if !self.listeners.iter().any(|listener| listener.may_have) {
            self.edge().await;
        }
    }

    /// Waits until one more has come.
    async fn edge(&mut self) {
        poll_fn(|context| {
            let mut found = Poll::Pending;
            for listener in &mut self.listeners {
                // An error shows when it is taken from.
                while let Poll::Ready(ready) = listener.socket.poll_read_ready(context) {
                    ready.into_iter().for_each(|mut ready| ready.clear_ready());
                    listener.may_have = true;
                    found = Poll::Ready(());
                }
            }
            found
        })
        .await;
    }

    /// Whatever the loop has seen.
    fn look_everywhere(&mut self) {
        self.listeners.iter_mut().for_each(|listener| listener.may_have = true);
    }

    /// Takes one; `None`: none waits.
    fn take(&mut self) -> io::Result<Option<Arrival>> {
        for _ in 0..self.listeners.len() {
            self.next = (self.next + 1) % self.listeners.len();
            let listener = &mut self.listeners[self.next];
            if !listener.may_have {
                continue;
            }
            match listener.take(&self.ends) {
                Err(error) if error.kind() == ErrorKind::WouldBlock => listener.may_have = false,
                taken => return taken.map(|arrival| Some(arrival.through(self.tls.layer(self.next)))),
            }
        }
        Ok(None)
    }
}

impl Listener {
    /// The kernel says of which family a socket is. `None`: the master is older than what it would say here.
    fn new(descriptor: OwnedFd, is_proxied: Option<bool>) -> io::Result<Self> {
        let told = socket2::SockRef::from(&descriptor);
        let is_unix = told.local_addr()?.is_unix();
        if is_proxied.is_none() && !is_unix {
            // Nor has it told the socket that small answers go at once, for all whom it takes.
            told.set_tcp_nodelay(true)?;
        }
        #[expect(deprecated, reason = "what stands in its place is unsafe; an `OwnedFd` is open as long as this is")]
        let socket = AsyncFd::with_interest(descriptor, Interest::READABLE)?;
        // What waits already is seen as an edge.
        Ok(Self { socket, is_unix, is_proxied: is_proxied.unwrap_or(false), may_have: false })
    }

    fn take(&self, ends: &Arc<dyn Ends>) -> io::Result<Arrival> {
        let (connection, peer) = socket::accept(self.socket.as_fd())?;
        if self.is_unix {
            return Ok(self.arrival(UnixStream::from_std(connection.into())?, None, ends));
        }
        Ok(self.arrival(TcpStream::from_std(connection.into())?, peer.as_socket(), ends))
    }

    fn arrival<S>(&self, stream: S, peer: Option<SocketAddr>, ends: &Arc<dyn Ends>) -> Arrival
    where
        S: AsyncRead + AsFd + Unpin + Send + 'static,
        TokioIo<S>: Duplex,
    {
        if self.is_proxied {
            Arrival::Opening(Box::pin(proxy::open(stream, peer, ends.clone())))
        } else {
            Arrival::Open((Box::new(TokioIo::new(stream)), peer))
        }
    }
}
