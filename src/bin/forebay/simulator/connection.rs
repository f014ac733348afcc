//! One accepted connection: HTTP/1.1 on it, and the rough ways it may end.

use std::cell::Cell;
use std::io;
use std::pin::Pin;
use std::rc::Rc;
use std::task::{Context, Poll};
use std::time::Duration;

use hyper::server::conn::http1;
use hyper::service::service_fn;
use hyper_util::rt::{TokioIo, TokioTimer};
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::net::TcpStream;
use tokio::sync::Notify;

use super::Port;
use super::faults::Ending;
use super::http::{self, Caller};
use super::service::Service;

/// How long a client may take to send a request's head, and to be idle between two requests.
const HEADER_TIMEOUT: Duration = Duration::from_secs(30);

/// Ends a connection from outside, at once.
#[derive(Default)]
pub(super) struct Link {
    ending: Cell<Option<Ending>>,
    ended: Notify,
}

impl Link {
    /// Whether this was the first end of the connection.
    pub(super) fn end(&self, ending: Ending) -> bool {
        let first = self.ending.get().is_none();
        if first {
            self.ending.set(Some(ending));
            self.ended.notify_one();
        }
        first
    }
}

pub(super) async fn serve(service: Rc<Service>, stream: TcpStream, port: Port) {
    let Ok(local) = stream.local_addr() else {
        return;
    };
    // A byte that was sent alone must arrive alone.
    if let Err(error) = stream.set_nodelay(true) {
        log::debug!("connection without TCP_NODELAY: {error}");
    }
    let link = Rc::<Link>::default();
    let caller = Rc::new(Caller { port, host: local.ip(), link: link.clone() });
    let wire = Wire { stream, link: link.clone() };
    let connection = http1::Builder::new()
        .timer(TokioTimer::new())
        .header_read_timeout(HEADER_TIMEOUT)
        .serve_connection(TokioIo::new(wire), service_fn(|request| http::answer(&service, &caller, request)));
    tokio::select! {
        result = connection => if let Err(error) = result {
            log::debug!("connection: {error}");
        },
        () = link.ended.notified() => {}
    }
}

/// Closes a connection with a reset, unread and unsent data lost.
pub(super) fn reset(stream: &TcpStream) {
    if let Err(error) = stream.set_zero_linger() {
        log::debug!("connection closes instead of a reset: {error}");
    }
}

/// A socket that knows how it ends.
struct Wire {
    stream: TcpStream,
    link: Rc<Link>,
}

impl Drop for Wire {
    fn drop(&mut self) {
        if self.link.ending.get() == Some(Ending::Reset) {
            reset(&self.stream);
        }
    }
}

impl AsyncRead for Wire {
    fn poll_read(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
        buffer: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_read(context, buffer)
    }
}

impl AsyncWrite for Wire {
    fn poll_write(mut self: Pin<&mut Self>, context: &mut Context<'_>, bytes: &[u8]) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.stream).poll_write(context, bytes)
    }

    fn poll_flush(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_flush(context)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_shutdown(context)
    }
}
