//! One listening socket as the settings describe it.

use std::path::Path;

use super::NamedFile;
use super::account::{Account, Group};
use super::address::Address;
use super::key::{Given, Key};
use super::table::path;

/// What is said of a certificate where nobody can use it.
pub(crate) const WITHOUT_TLS: &str = "this program was built without TLS: build it with the feature `tls` of forebay";

/// The longest queue that may be asked for.
const BACKLOG_MAX: i64 = 65_535;

/// `[listener.NAME]`, or one of `listen`.
#[derive(Clone, Debug, Default, PartialEq)]
pub(crate) struct Listener {
    pub(crate) name: String,
    /// `None` only while the section is being read.
    pub(crate) address: Option<Address>,
    /// Connections that may wait; the kernel caps it (net.core.somaxconn).
    pub(crate) backlog: i32,
    /// Of a Unix socket's file.
    pub(crate) mode: u32,
    /// The file's owner and group; the service's own if not said.
    pub(crate) owner: Option<Account>,
    pub(crate) group: Option<Group>,
    /// Files with chains of certificates, the first for clients that name none of these; none: it does not speak TLS.
    pub(crate) certificates: Vec<NamedFile>,
    /// The files of their private keys, in the same order; none: they stand in the certificates' files.
    pub(crate) certificate_keys: Vec<NamedFile>,
}

/// The keys of a `[listener.NAME]`.
pub(crate) const KEYS: &[Key<Listener>] = &[
    Key {
        name: "address",
        value: "ADDRESS",
        default: "(none)",
        meaning: "where this one listens: `\"0.0.0.0:80\"`, `\"[::]:80\"`, `\"unix:/run/app.sock\"`",
        is_list: false,
        set: |listener, given| {
            listener.address = Some(given.text()?.parse()?);
            Ok(())
        },
    },
    Key {
        name: "backlog",
        value: "N",
        default: "4096",
        meaning: "connections that may wait for a worker; the kernel's `net.core.somaxconn` caps it",
        is_list: false,
        set: |listener, given| match given.integer()? {
            count @ 1..=BACKLOG_MAX => {
                listener.backlog = i32::try_from(count).unwrap_or(i32::MAX);
                Ok(())
            }
            _ => Err(format!("a backlog is from 1 to {BACKLOG_MAX}")),
        },
    },
    Key {
        name: "mode",
        value: "MODE",
        default: "\"0660\"",
        meaning: "of a Unix socket: who may connect, as chmod(1) says it",
        is_list: false,
        set: |listener, given| {
            let wrong = || "a mode is written as \"0660\", octal, at most 0777".to_owned();
            let mode = given.text().map_err(|_| wrong())?;
            let is_octal = mode.bytes().all(|digit| matches!(digit, b'0'..=b'7'));
            let mode = u32::from_str_radix(mode, 8).ok().filter(|&mode| is_octal && mode <= 0o777);
            listener.mode = mode.ok_or_else(wrong)?;
            Ok(())
        },
    },
    Key {
        name: "owner",
        value: "USER",
        default: "(the service's user)",
        meaning: "of a Unix socket",
        is_list: false,
        set: |listener, given| {
            listener.owner = Some(Account::read(given)?);
            Ok(())
        },
    },
    Key {
        name: "group",
        value: "GROUP",
        default: "(the service's group)",
        meaning: "of a Unix socket",
        is_list: false,
        set: |listener, given| {
            listener.group = Some(Group::read(given)?);
            Ok(())
        },
    },
    Key {
        name: "certificate",
        value: "FILE",
        default: "(none)",
        meaning: "it speaks TLS: a PEM file with a chain of certificates, or a list of them: the name that a client asks for \
                  chooses, the first is for all others",
        is_list: true,
        set: |listener, given| {
            listener.certificates = files(listener, "certificate", given)?;
            Ok(())
        },
    },
    Key {
        name: "certificate_key",
        value: "FILE",
        default: "(in the certificate's file)",
        meaning: "a PEM file with the certificate's private key, or as many as there are certificates, in their order",
        is_list: true,
        set: |listener, given| {
            listener.certificate_keys = files(listener, "certificate_key", given)?;
            Ok(())
        },
    },
];

/// Files that the master opens; those of the application's sections are in the same way.
fn files(listener: &Listener, key: &str, given: &Given<'_>) -> Result<Vec<NamedFile>, String> {
    if cfg!(not(feature = "tls")) {
        return Err(WITHOUT_TLS.to_owned());
    }
    let named =
        |path| NamedFile { key: format!("listener.{}.{key}", listener.name), place: Path::new(&path).into(), path };
    let files: Vec<NamedFile> = given.each(|one| path(one).map(named))?;
    if files.is_empty() { Err("a file is wanted, this is an empty list".to_owned()) } else { Ok(files) }
}

impl Listener {
    /// Whether it speaks TLS.
    pub(crate) fn is_secure(&self) -> bool {
        !self.certificates.is_empty()
    }

    /// What is wrong with its keys together.
    pub(super) fn check(&self) -> Result<(), String> {
        let (certificates, keys) = (self.certificates.len(), self.certificate_keys.len());
        if keys > 0 && keys != certificates {
            return Err(format!(
                "`listener.{}.certificate_key`: there are {keys} of them, and {certificates} in `certificate`: each \
                 certificate has one, in the same order, or all stand in the certificates' files",
                self.name
            ));
        }
        Ok(())
    }

    /// All files that it names.
    pub(super) fn files(&mut self) -> impl Iterator<Item = &mut NamedFile> {
        self.certificates.iter_mut().chain(&mut self.certificate_keys)
    }

    /// With the defaults.
    pub(super) fn new(name: impl Into<String>) -> Self {
        let mut listener = Self { name: name.into(), ..Self::default() };
        KEYS.iter().for_each(|key| key.reset(&mut listener));
        listener
    }

    /// Those that `listen` is short for: `http`, `http1`, `http2`, …
    pub(super) fn several(addresses: Vec<Address>) -> Vec<Self> {
        let named = |(number, address)| {
            let name = if number == 0 { "http".to_owned() } else { format!("http{number}") };
            Self { address: Some(address), ..Self::new(name) }
        };
        addresses.into_iter().enumerate().map(named).collect()
    }
}
