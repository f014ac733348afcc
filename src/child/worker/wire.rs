//! A connection's bytes as hyper sees them, and the application once hyper has handed them over.
//!
//! The connection counts as open until this is dropped: so long its worker lives for it.

use std::io::{self, IoSlice};
use std::mem::MaybeUninit;
use std::os::fd::AsFd;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll};

use hyper::rt::{Read, ReadBufCursor, Write};
use hyper_util::rt::TokioIo;
use socket2::SockRef;
use tokio::task::AbortHandle;

use super::drain::Open;
use super::guard::Life;
use super::socket::{self, Shared, Socket};
use crate::app::declare::{Duplex, Stream};

impl<T: AsFd> Duplex for TokioIo<T>
where
    TokioIo<T>: Read + Write + Send + Unpin,
{
    fn has_unread(&self) -> bool {
        // It does not block, and an error is for the next read.
        SockRef::from(self.inner()).peek(&mut [MaybeUninit::uninit()]).is_ok_and(|len| len > 0)
    }
}

pub(super) struct Wire {
    /// `None`: it is a WebSocket's now.
    carrier: Option<(Stream, Open)>,
    socket: Option<(Shared, AbortHandle)>,
    life: Arc<Life>,
}

/// Who has the bytes.
enum Way<'a> {
    Plain(Pin<&'a mut Stream>),
    Socket(&'a Shared),
}

impl Wire {
    pub(super) fn new(stream: Stream, life: Arc<Life>) -> Self {
        let open = Open::new(life.ends().clone());
        Self { carrier: Some((stream, open)), socket: None, life }
    }

    fn has_unread(&self) -> bool {
        self.carrier.as_ref().is_some_and(|(stream, _)| stream.has_unread())
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
        buffer: ReadBufCursor<'_>,
    ) -> Poll<io::Result<()>> {
        match self.way() {
            Way::Plain(mut stream) => {
                let poll = stream.as_mut().poll_read(context, buffer);
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
    fn poll_write(mut self: Pin<&mut Self>, context: &mut Context<'_>, bytes: &[u8]) -> Poll<io::Result<usize>> {
        match self.way() {
            Way::Plain(stream) => stream.poll_write(context, bytes),
            Way::Socket(shared) => socket::lock(shared).poll_write(context, &[IoSlice::new(bytes)]),
        }
    }

    fn poll_write_vectored(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
        bytes: &[IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        match self.way() {
            Way::Plain(stream) => stream.poll_write_vectored(context, bytes),
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
        match self.way() {
            Way::Plain(stream) => stream.poll_flush(context),
            Way::Socket(shared) => socket::lock(shared).poll_flush(context),
        }
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        match self.way() {
            Way::Plain(stream) => stream.poll_shutdown(context),
            Way::Socket(shared) => socket::lock(shared).poll_shutdown(context),
        }
    }
}
