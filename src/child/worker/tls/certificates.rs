//! Certificates and their private keys, from the files that the master has opened.

use std::fs::File;
use std::io::{Seek, SeekFrom};
use std::os::fd::OwnedFd;
use std::path::PathBuf;

use tokio_rustls::rustls::crypto::CryptoProvider;
use tokio_rustls::rustls::pki_types::pem::{self, PemObject};
use tokio_rustls::rustls::pki_types::{CertificateDer, PrivateKeyDer};
use tokio_rustls::rustls::sign::CertifiedKey;
use tokio_rustls::rustls::{Error, InconsistentKeys};

use crate::app::configuration::Configuration;
use crate::contract::orders::{GivenFile, GivenListener};
use crate::error::mistakes::Mistakes;
use crate::settings::read_whole;

/// What stands in a PEM file whose key is encrypted, as PKCS#8 (RFC 7468, section 11) and in the older way (RFC 1421).
const ENCRYPTED: [&[u8]; 2] = [b"-----BEGIN ENCRYPTED PRIVATE KEY-----", b"Proc-Type: 4,ENCRYPTED"];

/// Reads all of a listener's; what is wrong is told, each with its key of the configuration and its file.
pub(super) fn load(
    listener: GivenListener,
    given: &mut impl Iterator<Item = OwnedFd>,
    configuration: &Configuration,
    provider: &CryptoProvider,
    mistakes: &mut Mistakes,
) -> Vec<CertifiedKey> {
    let GivenListener { name, certificates, keys, .. } = listener;
    let mut open = |file| Pem::open(file, given);
    let certificates: Vec<Pem> = certificates.into_iter().map(&mut open).collect();
    let keys: Vec<Pem> = keys.into_iter().map(open).collect();
    let mut wrong = |key: &str, pem: &Pem, what: String| {
        let place = configuration.place_of(&["listener", &name, key]);
        mistakes.add(place, format!("`listener.{name}.{key}`: {}: {what}", pem.path.display()));
    };
    let mut loaded = Vec::new();
    for (number, certificate) in certificates.iter().enumerate() {
        let (key_file, key) = keys.get(number).map_or((certificate, "certificate"), |key| (key, "certificate_key"));
        let chain = certificate.chain().map_err(|what| wrong("certificate", certificate, what));
        // Whose file could not be opened is told once.
        let is_told = chain.is_err() && keys.is_empty() && certificate.content.is_err();
        let private = key_file.key().map_err(|what| {
            if !is_told {
                wrong(key, key_file, what)
            }
        });
        let (Ok(chain), Ok(private)) = (chain, private) else { continue };
        match CertifiedKey::from_der(chain, private, provider) {
            Ok(certified) => loaded.push(certified),
            Err(Error::InconsistentKeys(InconsistentKeys::KeyMismatch)) => {
                let first = certificate.path.display();
                wrong(key, key_file, format!("its private key is not that of the first certificate in {first}"));
            }
            Err(error @ Error::InvalidCertificate(_)) => wrong("certificate", certificate, error.to_string()),
            Err(error) => wrong(key, key_file, format!("its private key cannot be used: {error}")),
        }
    }
    loaded
}

/// A file of the configuration's.
struct Pem {
    path: PathBuf,
    /// Or why the master could not open it.
    content: Result<Vec<u8>, String>,
}

impl Pem {
    fn open(file: GivenFile, given: &mut impl Iterator<Item = OwnedFd>) -> Self {
        let content = match file.refused {
            Some(why) => Err(format!("cannot read it: {why}")),
            None => given.next().ok_or_else(|| "it has not come with the order to load".to_owned()).and_then(read),
        };
        Self { path: file.path, content }
    }

    /// All certificates in it, the one that was made for the key first.
    fn chain(&self) -> Result<Vec<CertificateDer<'static>>, String> {
        let content = self.content.as_ref().map_err(Clone::clone)?;
        let chain = CertificateDer::pem_slice_iter(content).collect::<Result<Vec<_>, _>>();
        match chain.map_err(|error| unreadable(&error))? {
            none if none.is_empty() => Err("there is no certificate in it, which begins -----BEGIN CERTIFICATE-----")?,
            chain => Ok(chain),
        }
    }

    /// The first private key in it.
    fn key(&self) -> Result<PrivateKeyDer<'static>, String> {
        let content = self.content.as_ref().map_err(Clone::clone)?;
        match PrivateKeyDer::from_pem_slice(content) {
            Ok(key) => Ok(key),
            Err(_) if ENCRYPTED.iter().any(|mark| content.windows(mark.len()).any(|part| part == *mark)) => {
                Err("its private key is encrypted, and there is nobody to ask for the passphrase: write it without \
                     one, as `openssl pkey -in FILE -out FILE` does, into a file that only root may read")?
            }
            Err(pem::Error::NoItemsFound) => {
                Err("there is no private key in it, which begins -----BEGIN PRIVATE KEY-----")?
            }
            Err(error) => Err(unreadable(&error)),
        }
    }
}

fn read(descriptor: OwnedFd) -> Result<Vec<u8>, String> {
    let mut file = File::from(descriptor);
    // The zygote that was here before has read it too.
    file.seek(SeekFrom::Start(0)).map_err(|error| error.to_string())?;
    read_whole(file)
}

/// Why this is no PEM, without any of it: it may be a key.
fn unreadable(error: &pem::Error) -> String {
    let what = match error {
        pem::Error::MissingSectionEnd { .. } => "a section that begins does not end",
        pem::Error::IllegalSectionStart { .. } => "a line that begins a section is not whole",
        pem::Error::Base64Decode(_) => "what stands in a section is not Base64",
        _ => "it cannot be read",
    };
    format!("it is no valid PEM: {what}")
}
