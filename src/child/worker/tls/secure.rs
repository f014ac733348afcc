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
pub(super) const HANDSHAKE_LIMIT: Duration = Duration::from_secs(30);

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
    /// The handshake may take so long from now on.
    pub(super) fn new(acceptor: &TlsAcceptor, stream: Stream, limit: Duration) -> Self {
        let accept = acceptor.accept(TokioIo::new(stream));
        Self::Handshake(Box::new((accept, Box::pin(sleep(limit)))))
    }

    /// Goes on with the handshake; ready when that is over.
    fn poll_open(&mut self, context: &mut Context<'_>) -> Poll<io::Result<Pin<&mut TokioIo<TlsStream<Below>>>>> {
        if let Self::Handshake(handshake) = self {
            let (accept, limit) = &mut **handshake;
            let accepted = match Pin::new(accept).poll(context) {
                Poll::Ready(accepted) => accepted,
                Poll::Pending => {
                    ready!(limit.as_mut().poll(context));
                    Err(Error::new(ErrorKind::TimedOut, "the client takes too long"))
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

#[cfg(test)]
mod tests {
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
    fn ends(limit: Duration) -> (Secure, TlsConnector, UnixStream) {
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
        let secure = Secure::new(&TlsAcceptor::from(Arc::new(server)), Box::new(TokioIo::new(ours)), limit);
        (secure, TlsConnector::from(Arc::new(client)), theirs)
    }

    /// Reads so many bytes at most.
    async fn read(secure: &mut Secure, len: usize) -> io::Result<Vec<u8>> {
        let mut bytes = vec![0; len];
        let mut buffer = ReadBuf::new(&mut bytes);
        std::future::poll_fn(|context| Pin::new(&mut *secure).poll_read(context, buffer.unfilled())).await?;
        Ok(buffer.filled().to_vec())
    }

    #[tokio::test]
    async fn a_client_that_does_not_shake_hands_is_let_go() {
        let (mut secure, _, mut client) = ends(Duration::from_millis(50));
        client.write_all(&[0x16, 3, 1, 2, 0]).await.expect("the head of a hello");
        let error = read(&mut secure, 1).await.expect_err("it says no more");
        assert_eq!(error.kind(), ErrorKind::TimedOut);
        assert_eq!(read(&mut secure, 1).await.expect_err("it is over").kind(), ErrorKind::NotConnected);
        assert_eq!(client.read(&mut [0]).await.expect("an end"), 0, "the socket below is closed");
    }

    #[tokio::test]
    async fn what_was_said_is_unread_until_the_last_byte_of_it_is_read() {
        let (mut secure, connector, stream) = ends(HANDSHAKE_LIMIT);
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
        assert_eq!(read(&mut secure, 4).await.expect("read"), b"r");
        assert!(!secure.has_unread());
        std::future::poll_fn(|context| Pin::new(&mut secure).poll_shutdown(context)).await.expect("said");
        // Without close_notify this would be an error.
        assert_eq!(client.read(&mut [0]).await.expect("an end"), 0);
    }
}
