//! A connection's bytes as hyper sees them, and the application once hyper has handed them over.
//!
//! The connection counts as open until this is dropped: so long its worker lives for it.

use std::future::poll_fn;
use std::io::{self, IoSlice};
use std::os::fd::{AsFd, AsRawFd};
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll, ready};
use std::time::Duration;

use hyper::body::Bytes;
use hyper::rt::{Read, ReadBuf, ReadBufCursor, Write};
use hyper_util::rt::TokioIo;
use nix::errno::Errno;
use nix::sys::socket::{MsgFlags, recv};
use socket2::SockRef;
use tokio::net::{TcpStream, UnixStream};
use tokio::task::AbortHandle;

use super::connection::Life;
use super::drain::Open;
use super::socket::{self, Shared, Socket};
use crate::app::declare::{Duplex, Stream};

/// What both of tokio's sockets have and no trait of tokio's says.
trait Readiness {
    fn poll_readable(&self, context: &mut Context<'_>) -> Poll<io::Result<()>>;
}

impl Readiness for TcpStream {
    fn poll_readable(&self, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        self.poll_read_ready(context)
    }
}

impl Readiness for UnixStream {
    fn poll_readable(&self, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        self.poll_read_ready(context)
    }
}

impl<T: Readiness + AsFd> Duplex for TokioIo<T>
where
    TokioIo<T>: Read + Write + Send + Unpin,
{
    fn has_unread(&self) -> bool {
        peek(self.inner(), &mut [0]).is_ok_and(|count| count > 0)
    }

    fn has_ended(&self) -> bool {
        // An error is the end too; who has looked has taken it away.
        match peek(self.inner(), &mut [0]) {
            Ok(count) => count == 0,
            Err(error) => ![Errno::EAGAIN, Errno::EINTR].contains(&error),
        }
    }

    fn may_be_http2(&self) -> bool {
        let mut first = [0; PREFACE.len()];
        // Whoever has said nothing may be anybody: when its worker drains it is not waited for. An error is for the
        // next read.
        let count = peek(self.inner(), &mut first).unwrap_or(0);
        PREFACE.starts_with(&first[..count])
    }

    fn forget_unsent(&self) {
        // Where this fails there is nothing to forget.
        let _ = SockRef::from(self.inner()).set_linger(Some(Duration::ZERO));
    }

    fn poll_readable(&mut self, context: &mut Context<'_>) -> Poll<()> {
        self.inner().poll_readable(context).map(drop)
    }
}

/// Looks at what has come, and leaves it there; does not block.
pub(super) fn peek(socket: &impl AsFd, buffer: &mut [u8]) -> nix::Result<usize> {
    recv(socket.as_fd().as_raw_fd(), buffer, MsgFlags::MSG_PEEK | MsgFlags::MSG_DONTWAIT)
}

/// How HTTP/2 begins (RFC 9113, section 3.4); no method of HTTP/1 does.
const PREFACE: &[u8] = b"PRI ";

pub(super) struct Wire {
    /// `None`: it is a WebSocket's now.
    carrier: Option<(Stream, Open)>,
    socket: Option<(Shared, AbortHandle)>,
    /// What was read and not used.
    unused: Bytes,
    /// Answers that are kept for a moment.
    kept: Vec<u8>,
    life: Arc<Life>,
}

/// So many bytes of answers are kept at most.
const KEPT_LEN_MAX: usize = 4096;

/// Who has the bytes.
enum Way<'a> {
    Plain(Pin<&'a mut Stream>),
    Socket(&'a Shared),
}

impl Wire {
    pub(super) fn new(stream: Stream, open: Open, life: Arc<Life>) -> Self {
        Self { carrier: Some((stream, open)), socket: None, unused: Bytes::new(), kept: Vec::new(), life }
    }

    pub(super) fn has_unread(&self) -> bool {
        self.carrier.as_ref().is_some_and(|(stream, _)| stream.has_unread())
    }

    /// Whether what comes next may be the beginning of HTTP/2.
    pub(super) fn may_be_http2(&self) -> bool {
        self.unused.is_empty() && self.carrier.as_ref().is_some_and(|(stream, _)| stream.may_be_http2())
    }

    /// Ends now, whatever the client has not taken.
    pub(super) fn cut(self) {
        self.carrier.iter().for_each(|(stream, _)| stream.forget_unsent());
    }

    /// Waits until something may be read, or the end.
    pub(super) async fn readable(&mut self) {
        let Some((stream, _)) = self.carrier.as_mut().filter(|_| self.unused.is_empty()) else { return };
        poll_fn(|context| stream.poll_readable(context)).await;
    }

    /// Says something, as far as it is taken at once, and that nothing follows.
    pub(super) async fn say_last(&mut self, bytes: &[u8]) {
        poll_fn(|context| {
            // Who does not take it is not waited for.
            let _ = Pin::new(&mut *self).poll_write(context, bytes);
            let _ = Pin::new(&mut *self).poll_shutdown(context);
            Poll::Ready(())
        })
        .await;
    }

    /// Takes what has come, for nobody; `false`: it was the end.
    pub(super) async fn skip(&mut self) -> bool {
        poll_fn(|context| {
            let mut bytes = [0; 4096];
            let mut buffer = ReadBuf::new(&mut bytes);
            let read = ready!(Pin::new(&mut *self).poll_read(context, buffer.unfilled()));
            Poll::Ready(read.is_ok() && !buffer.filled().is_empty())
        })
        .await
    }

    /// Is read once more.
    pub(super) fn put_back(&mut self, unused: &[u8]) {
        // A copy: what was read into is much larger, and to be given back.
        self.unused = Bytes::copy_from_slice(unused);
        self.kept = Vec::new();
    }

    /// Whether these bytes of an answer are kept, so that the next ones go with them.
    fn keep(&mut self, bytes: &[IoSlice<'_>]) -> Option<usize> {
        let len = bytes.iter().map(|bytes| bytes.len()).sum::<usize>();
        let is_kept = self.life.is_answered() && self.kept.len() + len <= KEPT_LEN_MAX;
        is_kept.then(|| {
            bytes.iter().for_each(|bytes| self.kept.extend_from_slice(bytes));
            self.life.keep();
            len
        })
    }

    /// Sends what was kept.
    fn poll_send(&mut self, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        if self.kept.is_empty() {
            return Poll::Ready(Ok(()));
        }
        // Nothing is kept for a socket.
        let Some((stream, _)) = &mut self.carrier else { return Poll::Ready(Ok(())) };
        while !self.kept.is_empty() {
            let poll = Pin::new(&mut *stream).poll_write(context, &self.kept);
            self.life.wrote(self.kept.len(), &poll);
            let count = ready!(poll)?;
            if count == 0 {
                return Poll::Ready(Err(io::ErrorKind::WriteZero.into()));
            }
            self.kept.drain(..count);
        }
        self.life.has_sent();
        // What lies between may hold it: who flushes next goes on with that.
        let poll = Pin::new(stream).poll_flush(context);
        self.has_tried(&poll);
        Poll::Ready(Ok(()))
    }

    /// Whether the client of a request that is worked on is taken for gone. hyper does not look: it would read for
    /// that, and take one that sends no more for one that wants no answer.
    fn is_alone(&mut self, context: &mut Context<'_>) -> bool {
        let Some((stream, _)) = &mut self.carrier else { return false };
        stream.poll_readable(context).is_ready() && stream.has_ended() && !self.life.holds_end()
    }

    /// What lies between, such as TLS, may hold the last bytes, which the client does not take either.
    fn has_tried<T>(&self, poll: &Poll<T>) {
        self.life.wrote(0, &if poll.is_ready() { Poll::Ready(Ok(0)) } else { Poll::Pending });
    }

    fn way(&mut self) -> Way<'_> {
        if self.life.is_socket()
            && let Some((stream, open)) = self.carrier.take()
        {
            let shared = Shared::new(Socket::new(stream, open).into());
            let farewell = tokio::spawn(socket::see_off(shared.clone(), self.life.ends().clone()));
            self.socket = Some((shared, farewell.abort_handle()));
        }
        match (&mut self.carrier, &self.socket) {
            (Some((stream, _)), _) => Way::Plain(Pin::new(stream)),
            (None, Some((shared, _))) => Way::Socket(shared),
            (None, None) => unreachable!("what is taken above is a socket's"),
        }
    }
}

impl Drop for Wire {
    fn drop(&mut self) {
        if let Some((shared, farewell)) = &self.socket {
            socket::lock(shared).end();
            farewell.abort();
        }
    }
}

impl Read for Wire {
    fn poll_read(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
        mut buffer: ReadBufCursor<'_>,
    ) -> Poll<io::Result<()>> {
        // Who does not take its answers is not read from.
        ready!(self.poll_send(context))?;
        if !self.unused.is_empty() {
            let count = self.unused.len().min(buffer.remaining());
            buffer.put_slice(&self.unused.split_to(count));
            // It came with an earlier request, and has its time from now on.
            self.life.came();
            return Poll::Ready(Ok(()));
        }
        match self.way() {
            Way::Plain(stream) => {
                let poll = stream.poll_read(context, buffer);
                if poll.is_ready() {
                    self.life.came();
                }
                // What says that nothing has come is the loop's last look, which may be long past.
                if self.life.is_ending() && (poll.is_ready() || self.has_unread()) {
                    self.life.stir();
                }
                poll
            }
            Way::Socket(shared) => socket::lock(shared).poll_read(context, buffer),
        }
    }
}

impl Write for Wire {
    fn poll_write(self: Pin<&mut Self>, context: &mut Context<'_>, bytes: &[u8]) -> Poll<io::Result<usize>> {
        self.poll_write_vectored(context, &[IoSlice::new(bytes)])
    }

    fn poll_write_vectored(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
        bytes: &[IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        if let Some(len) = self.keep(bytes) {
            return Poll::Ready(Ok(len));
        }
        ready!(self.poll_send(context))?;
        match self.way() {
            Way::Plain(stream) => {
                let poll = socket::write(stream.get_mut(), context, bytes);
                self.life.wrote(bytes.iter().map(|bytes| bytes.len()).sum(), &poll);
                poll
            }
            Way::Socket(shared) => socket::lock(shared).poll_write(context, bytes),
        }
    }

    fn is_write_vectored(&self) -> bool {
        match (&self.carrier, &self.socket) {
            (Some((stream, _)), _) => stream.is_write_vectored(),
            (None, Some((shared, _))) => socket::lock(shared).is_write_vectored(),
            (None, None) => false,
        }
    }

    fn poll_flush(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        if self.life.may_keep() {
            return Poll::Ready(Ok(()));
        }
        ready!(self.poll_send(context))?;
        match self.way() {
            Way::Plain(stream) => {
                let poll = stream.poll_flush(context);
                self.has_tried(&poll);
                ready!(poll)?;
                if self.life.is_asked() && self.is_alone(context) {
                    return Poll::Ready(Err(io::ErrorKind::ConnectionAborted.into()));
                }
                Poll::Ready(Ok(()))
            }
            Way::Socket(shared) => socket::lock(shared).poll_flush(context),
        }
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        ready!(self.poll_send(context))?;
        match self.way() {
            Way::Plain(stream) => {
                let poll = stream.poll_shutdown(context);
                self.has_tried(&poll);
                poll
            }
            Way::Socket(shared) => socket::lock(shared).poll_shutdown(context),
        }
    }
}
