//! TLS of the listeners, by rustls: 1.2 and 1.3, HTTP/2 and HTTP/1.1 by ALPN, a certificate by the name asked for.
//!
//! The zygote reads certificates and keys, once for all workers of its generation (`certificates`, `chooser`). A worker
//! adds what seals session tickets (`ticketer`), and lays TLS over each connection (`secure`). A client comes back by a
//! ticket or by a whole handshake: no session is kept here, and no data is taken before the handshake is over.

mod certificates;
mod chooser;
mod secure;
mod ticketer;

use std::io;
use std::os::fd::OwnedFd;
use std::sync::Arc;

use tokio_rustls::TlsAcceptor;
use tokio_rustls::rustls::ServerConfig;
use tokio_rustls::rustls::crypto::{CryptoProvider, ring};
use tokio_rustls::rustls::server::NoServerSessionStorage;

use self::chooser::Chooser;
use self::secure::Secure;
use self::ticketer::Ticketer;
use crate::app::configuration::Configuration;
use crate::app::declare::Stream;
use crate::contract::orders::GivenListener;
use crate::contract::tickets::{self, KeyReader};
use crate::error::mistakes::Mistakes;

/// The layout of the keys of session tickets that workers of this release read.
pub(in crate::child) const TICKETS: u32 = tickets::VERSION;

/// What is spoken over TLS, the first rather than the second.
const PROTOCOLS: [&[u8]; 2] = [HTTP2, b"http/1.1"];
const HTTP2: &[u8] = b"h2";

/// The listeners that speak TLS.
#[derive(Default)]
pub(in crate::child) struct Tls {
    listeners: Vec<Listener>,
}

struct Listener {
    /// Its place among all.
    number: usize,
    name: String,
    config: Arc<ServerConfig>,
}

impl Tls {
    /// Reads the certificates and keys of these listeners, from the files that came with them, and says all that is
    /// wrong with them.
    pub(in crate::child) fn load(
        listeners: Vec<GivenListener>,
        given: &mut impl Iterator<Item = OwnedFd>,
        configuration: &Configuration,
    ) -> Result<Self, Mistakes> {
        let provider = Arc::new(ring::default_provider());
        let (mut loaded, mut mistakes) = (Vec::new(), Mistakes::default());
        for listener in listeners {
            let (number, name) = (listener.number, listener.name.clone());
            let certificates = certificates::load(listener, given, configuration, &provider, &mut mistakes);
            match Chooser::of(certificates).and_then(|chooser| config(&provider, chooser)) {
                Ok(config) => loaded.push(Listener { number, name, config: Arc::new(config) }),
                Err(error) => {
                    let place = configuration.place_of(&["listener", &name, "certificate"]);
                    mistakes.add(place, format!("`listener.{name}.certificate`: {error}"));
                }
            }
        }
        if mistakes.is_empty() { Ok(Self { listeners: loaded }) } else { Err(mistakes) }
    }

    /// From now on clients get session tickets, sealed with the master's keys.
    pub(in crate::child) fn seal_with(&mut self, keys: &OwnedFd) -> io::Result<()> {
        let keys = Arc::new(KeyReader::attach(keys)?);
        for listener in &mut self.listeners {
            let ticketer = Ticketer::new(keys.clone(), &listener.name);
            Arc::make_mut(&mut listener.config).ticketer = Arc::new(ticketer);
        }
        Ok(())
    }

    /// What makes a connection of this listener one as its application sees it.
    pub(super) fn layer(&self, number: usize) -> impl FnOnce(Stream) -> Stream + Send + 'static {
        let listener = self.listeners.iter().find(|listener| listener.number == number);
        let acceptor = listener.map(|listener| TlsAcceptor::from(listener.config.clone()));
        move |stream| match acceptor {
            Some(acceptor) => Box::new(Secure::new(&acceptor, stream)),
            None => stream,
        }
    }
}

fn config(provider: &Arc<CryptoProvider>, chooser: Chooser) -> Result<ServerConfig, tokio_rustls::rustls::Error> {
    let mut config = ServerConfig::builder_with_provider(provider.clone())
        .with_safe_default_protocol_versions()?
        .with_no_client_auth()
        .with_cert_resolver(Arc::new(chooser));
    config.alpn_protocols = PROTOCOLS.map(<[u8]>::to_vec).into();
    // What one worker kept the others would not know.
    config.session_storage = Arc::new(NoServerSessionStorage {});
    Ok(config)
}
