//! Which of a listener's certificates a client gets.

use std::fmt;
use std::sync::Arc;

use tokio_rustls::rustls::client::verify_server_name;
use tokio_rustls::rustls::pki_types::{CertificateDer, ServerName};
use tokio_rustls::rustls::server::{ClientHello, ParsedCertificate, ResolvesServerCert};
use tokio_rustls::rustls::sign::CertifiedKey;
use tokio_rustls::rustls::{Error, SignatureScheme};

/// A listener's certificates, in the order in which the configuration names them.
pub(super) struct Chooser {
    all: Vec<Certificate>,
}

struct Certificate {
    certified: Arc<CertifiedKey>,
    /// The same certificate, to be asked for its names. Like what `preload` builds it is never freed.
    parsed: ParsedCertificate<'static>,
}

impl Chooser {
    pub(super) fn of(all: Vec<CertifiedKey>) -> Result<Self, Error> {
        Ok(Self { all: all.into_iter().map(Certificate::new).collect::<Result<_, _>>()? })
    }
}

impl ResolvesServerCert for Chooser {
    /// The first that is for the name that the client asks for, and whose key it understands; where there is none,
    /// or it asks for no name, the first of all: the client says what it thinks of it.
    fn resolve(&self, hello: ClientHello<'_>) -> Option<Arc<CertifiedKey>> {
        let name = hello.server_name().and_then(|name| ServerName::try_from(name).ok());
        let fits = |one: &&Certificate| name.as_ref().is_some_and(|name| one.fits(name, hello.signature_schemes()));
        self.all.iter().find(fits).or(self.all.first()).map(|one| one.certified.clone())
    }
}

impl Certificate {
    fn new(certified: CertifiedKey) -> Result<Self, Error> {
        let own: &'static CertificateDer<'static> =
            Box::leak(Box::new(certified.end_entity_cert()?.clone().into_owned()));
        Ok(Self { parsed: ParsedCertificate::try_from(own)?, certified: Arc::new(certified) })
    }

    fn fits(&self, name: &ServerName<'_>, schemes: &[SignatureScheme]) -> bool {
        verify_server_name(&self.parsed, name).is_ok() && self.certified.key.choose_scheme(schemes).is_some()
    }
}

impl fmt::Debug for Chooser {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Chooser").field("certificates", &self.all.len()).finish()
    }
}
