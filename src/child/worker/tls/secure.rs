//! A connection over TLS, of which whoever reads and writes sees what was said.
//!
//! The handshake is made by the first who reads or writes, so it is a part of the connection's life: it counts as open,
//! ends with the worker's drain, and a handshake that fails is an error of the connection like any other.

use std::io::{self, Error, ErrorKind, IoSlice};
use std::pin::Pin;
use std::task::{Context, Poll, ready};
use std::time::Duration;

use hyper::rt::{Read, ReadBufCursor, Write};
use hyper_util::rt::TokioIo;
use tokio::io::AsyncWrite;
use tokio::time::{Sleep, sleep};
use tokio_rustls::server::TlsStream;
use tokio_rustls::{Accept, TlsAcceptor};

use crate::app::declare::{Duplex, Stream};

/// How long a client may take for the handshake.
const HANDSHAKE_LIMIT: Duration = Duration::from_secs(30);

/// The bytes below.
type Below = TokioIo<Stream>;

pub(super) enum Secure {
    /// And when that is over.
    Handshake(Box<(Accept<Below>, Pin<Box<Sleep>>)>),
    Open(Box<TokioIo<TlsStream<Below>>>),
    /// The handshake has failed, and was told so.
    Failed,
}

impl Secure {
    pub(super) fn new(acceptor: &TlsAcceptor, stream: Stream) -> Self {
        let accept = acceptor.accept(TokioIo::new(stream));
        Self::Handshake(Box::new((accept, Box::pin(sleep(HANDSHAKE_LIMIT)))))
    }

    /// Goes on with the handshake; ready when that is over.
    fn poll_open(&mut self, context: &mut Context<'_>) -> Poll<io::Result<Pin<&mut TokioIo<TlsStream<Below>>>>> {
        if let Self::Handshake(handshake) = self {
            let (accept, limit) = &mut **handshake;
            let accepted = match Pin::new(accept).poll(context) {
                Poll::Ready(accepted) => accepted,
                Poll::Pending => {
                    ready!(limit.as_mut().poll(context));
                    Err(Error::new(ErrorKind::TimedOut, format!("not over within {} s", HANDSHAKE_LIMIT.as_secs())))
                }
            };
            match accepted {
                Ok(stream) => *self = Self::Open(Box::new(TokioIo::new(stream))),
                Err(error) => {
                    *self = Self::Failed;
                    return Poll::Ready(Err(Error::new(error.kind(), format!("TLS handshake: {error}"))));
                }
            }
        }
        match self {
            Self::Open(stream) => Poll::Ready(Ok(Pin::new(stream))),
            Self::Handshake(_) | Self::Failed => Poll::Ready(Err(ErrorKind::NotConnected.into())),
        }
    }
}

impl Duplex for Secure {
    fn has_unread(&self) -> bool {
        match self {
            Self::Handshake(handshake) => handshake.0.get_ref().is_some_and(|below| below.inner().has_unread()),
            Self::Open(stream) => {
                let (below, session) = stream.inner().get_ref();
                // It wants none where it holds what was said, or that nothing more will be.
                !session.wants_read() || below.inner().has_unread()
            }
            Self::Failed => false,
        }
    }
}

impl Read for Secure {
    fn poll_read(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
        buffer: ReadBufCursor<'_>,
    ) -> Poll<io::Result<()>> {
        ready!(self.poll_open(context))?.poll_read(context, buffer)
    }
}

impl Write for Secure {
    fn poll_write(mut self: Pin<&mut Self>, context: &mut Context<'_>, bytes: &[u8]) -> Poll<io::Result<usize>> {
        ready!(self.poll_open(context))?.poll_write(context, bytes)
    }

    fn poll_write_vectored(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
        bytes: &[IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        ready!(self.poll_open(context))?.poll_write_vectored(context, bytes)
    }

    /// They become one record.
    fn is_write_vectored(&self) -> bool {
        true
    }

    fn poll_flush(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        match &mut *self {
            Self::Open(stream) => Pin::new(stream).poll_flush(context),
            Self::Handshake(_) | Self::Failed => Poll::Ready(Ok(())),
        }
    }

    /// Says that nothing more will be said: without that a client cannot tell the end from an attack.
    fn poll_shutdown(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        match &mut *self {
            Self::Open(stream) => Pin::new(stream).poll_shutdown(context),
            Self::Handshake(handshake) => match handshake.0.get_mut() {
                Some(below) => Pin::new(below).poll_shutdown(context),
                None => Poll::Ready(Ok(())),
            },
            Self::Failed => Poll::Ready(Ok(())),
        }
    }
}
