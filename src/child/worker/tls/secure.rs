//! A connection over TLS, of which whoever reads and writes sees what was said.
//!
//! The handshake is made by the first who reads or writes, so it is a part of the connection's life: it counts as open,
//! has the time of its first request's head, ends with the worker's drain, and a handshake that fails is an error of
//! the connection like any other.

use std::io::{self, Error, ErrorKind, IoSlice};
use std::pin::Pin;
use std::task::{Context, Poll, ready};

use hyper::rt::{Read, ReadBufCursor, Write};
use hyper_util::rt::TokioIo;
use tokio::io::{AsyncBufRead, AsyncWrite};
use tokio_rustls::server::TlsStream;
use tokio_rustls::{Accept, TlsAcceptor};

use super::HTTP2;
use crate::app::declare::{Duplex, Stream};

/// The bytes below.
type Below = TokioIo<Stream>;
type Above = TokioIo<TlsStream<Below>>;

pub(super) enum Secure {
    Handshake(Box<Accept<Below>>),
    /// And whether the client has said that it sends nothing more.
    Open(Box<Above>, bool),
    /// For the next who reads or writes.
    Failed(Option<Error>),
}

impl Secure {
    pub(super) fn new(acceptor: &TlsAcceptor, stream: Stream) -> Self {
        Self::Handshake(Box::new(acceptor.accept(TokioIo::new(stream))))
    }

    /// Goes on with the handshake; ready when that is over.
    fn poll_handshake(&mut self, context: &mut Context<'_>) -> Poll<()> {
        if let Self::Handshake(accept) = self {
            *self = match ready!(Pin::new(&mut **accept).poll(context)) {
                Ok(stream) => Self::Open(Box::new(TokioIo::new(stream)), false),
                Err(error) => Self::Failed(Some(Error::new(error.kind(), format!("TLS handshake: {error}")))),
            };
        }
        Poll::Ready(())
    }

    fn poll_open(&mut self, context: &mut Context<'_>) -> Poll<io::Result<Pin<&mut Above>>> {
        ready!(self.poll_handshake(context));
        Poll::Ready(match self {
            Self::Open(stream, _) => Ok(Pin::new(stream)),
            Self::Failed(error) => Err(error.take().unwrap_or_else(|| ErrorKind::NotConnected.into())),
            Self::Handshake(_) => unreachable!("invariant: it is over"),
        })
    }
}

impl Duplex for Secure {
    fn has_unread(&self) -> bool {
        match self {
            Self::Handshake(accept) => accept.get_ref().is_some_and(|below| below.inner().has_unread()),
            Self::Open(stream, _) => {
                let (below, session) = stream.inner().get_ref();
                // It wants none where it holds what was said, or that nothing more will be.
                !session.wants_read() || below.inner().has_unread()
            }
            Self::Failed(_) => false,
        }
    }

    /// As far as that was found when it was last asked whether something may be read.
    fn has_ended(&self) -> bool {
        match self {
            Self::Open(_, has_ended) => *has_ended,
            Self::Handshake(_) => false,
            Self::Failed(_) => true,
        }
    }

    /// By what both have agreed on. Before that it may be.
    fn may_be_http2(&self) -> bool {
        match self {
            Self::Open(stream, _) => stream.inner().get_ref().1.alpn_protocol() == Some(HTTP2),
            Self::Handshake(_) | Self::Failed(_) => true,
        }
    }

    fn poll_readable(&mut self, context: &mut Context<'_>) -> Poll<()> {
        ready!(self.poll_handshake(context));
        let Self::Open(stream, has_ended) = self else { return Poll::Ready(()) };
        match ready!(Pin::new(stream.inner_mut()).poll_fill_buf(context)) {
            Ok(unread) => *has_ended = unread.is_empty(),
            Err(error) => *self = Self::Failed(Some(error)),
        }
        Poll::Ready(())
    }

    fn forget_unsent(&self) {
        let below = match self {
            Self::Handshake(accept) => accept.get_ref(),
            Self::Open(stream, _) => Some(stream.inner().get_ref().0),
            Self::Failed(_) => None,
        };
        below.into_iter().for_each(|below| below.inner().forget_unsent());
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
            Self::Open(stream, _) => Pin::new(stream).poll_flush(context),
            Self::Handshake(_) | Self::Failed(_) => Poll::Ready(Ok(())),
        }
    }

    /// Says that nothing more will be said: without that a client cannot tell the end from an attack.
    fn poll_shutdown(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        match &mut *self {
            Self::Open(stream, _) => Pin::new(stream).poll_shutdown(context),
            Self::Handshake(accept) => match accept.get_mut() {
                Some(below) => Pin::new(below).poll_shutdown(context),
                None => Poll::Ready(Ok(())),
            },
            Self::Failed(_) => Poll::Ready(Ok(())),
        }
    }
}

#[cfg(test)]
mod tests {
    use std::future::poll_fn;
    use std::sync::Arc;

    use hyper::rt::ReadBuf;
    use rcgen::{CertifiedKey, generate_simple_self_signed};
    use tokio::io::{AsyncReadExt, AsyncWriteExt};
    use tokio::net::UnixStream;
    use tokio_rustls::TlsConnector;
    use tokio_rustls::rustls::crypto::ring::default_provider;
    use tokio_rustls::rustls::pki_types::{PrivateKeyDer, ServerName};
    use tokio_rustls::rustls::{ClientConfig, RootCertStore, ServerConfig};

    use super::*;

    /// A server's end and a client's, before the handshake.
    fn ends() -> (Secure, TlsConnector, UnixStream) {
        let CertifiedKey { cert, signing_key } =
            generate_simple_self_signed(["one.test".to_owned()]).expect("a certificate");
        let (provider, key) = (Arc::new(default_provider()), PrivateKeyDer::try_from(signing_key.serialize_der()));
        let server = ServerConfig::builder_with_provider(provider.clone()).with_safe_default_protocol_versions();
        let server = server.expect("versions").with_no_client_auth();
        let server = server.with_single_cert(vec![cert.der().clone()], key.expect("a key")).expect("a key that fits");
        let mut roots = RootCertStore::empty();
        roots.add(cert.der().clone()).expect("a root");
        let client = ClientConfig::builder_with_provider(provider).with_safe_default_protocol_versions();
        let client = client.expect("versions").with_root_certificates(roots).with_no_client_auth();
        let (ours, theirs) = UnixStream::pair().expect("a pair");
        let secure = Secure::new(&TlsAcceptor::from(Arc::new(server)), Box::new(TokioIo::new(ours)));
        (secure, TlsConnector::from(Arc::new(client)), theirs)
    }

    /// Reads so many bytes at most.
    async fn read(secure: &mut Secure, len: usize) -> io::Result<Vec<u8>> {
        let mut bytes = vec![0; len];
        let mut buffer = ReadBuf::new(&mut bytes);
        poll_fn(|context| Pin::new(&mut *secure).poll_read(context, buffer.unfilled())).await?;
        Ok(buffer.filled().to_vec())
    }

    #[tokio::test]
    async fn a_handshake_that_fails_is_the_next_readers_error() {
        let (mut secure, _, mut client) = ends();
        client.write_all(b"GET / HTTP/1.1\r\n\r\n").await.expect("said plainly");
        assert_eq!((secure.has_unread(), secure.may_be_http2()), (true, true));
        poll_fn(|context| secure.poll_readable(context)).await;
        let error = read(&mut secure, 1).await.expect_err("no handshake").to_string();
        assert!(error.starts_with("TLS handshake: "), "{error}");
        assert_eq!(read(&mut secure, 1).await.expect_err("it is over").kind(), ErrorKind::NotConnected);
        let mut alert = Vec::new();
        drop(secure);
        client.read_to_end(&mut alert).await.expect("an alert");
        assert_eq!(alert.first(), Some(&21), "{alert:?}");
    }

    #[tokio::test]
    async fn what_was_said_is_unread_until_the_last_byte_of_it_is_read() {
        let (mut secure, connector, stream) = ends();
        let name = ServerName::try_from("one.test").expect("a name");
        let shaking = async {
            let mut client = connector.connect(name, stream).await.expect("a handshake");
            client.write_all(b"one").await.expect("sent");
            client
        };
        let (said, mut client) = tokio::join!(read(&mut secure, 3), shaking);
        assert_eq!(said.expect("read"), b"one");
        assert!(!secure.has_unread());
        client.write_all(b"other").await.expect("sent");
        assert!(secure.has_unread(), "the kernel has it");
        assert_eq!(read(&mut secure, 4).await.expect("read"), b"othe");
        assert!(secure.has_unread(), "this has it");
        poll_fn(|context| secure.poll_readable(context)).await;
        assert_eq!(read(&mut secure, 4).await.expect("read"), b"r");
        assert!(!secure.has_unread());
        poll_fn(|context| Pin::new(&mut secure).poll_shutdown(context)).await.expect("said");
        // Without close_notify this would be an error.
        assert_eq!(client.read(&mut [0]).await.expect("an end"), 0);
    }
}
