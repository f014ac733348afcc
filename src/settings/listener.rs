//! One listening socket as the settings describe it.

use std::path::Path;
use std::time::Duration;

use super::NamedFile;
use super::account::{Account, Group};
use super::address::Address;
use super::key::{Given, Key};
use super::table::{path, time};

/// What is said of a certificate where nobody can use it.
pub(crate) const WITHOUT_TLS: &str = "this program was built without TLS: build it with the feature `tls` of forebay";

/// The longest queue that may be asked for.
const BACKLOG_MAX: i64 = 65_535;

/// The longest idleness before a probe, in seconds: tcp(7).
const KEEPALIVE_MAX: u16 = 32_767;

/// The longest time that the kernel keeps a connection that says nothing, in seconds.
const DEFER_ACCEPT_MAX: u16 = 3600;

/// The longest time that it waits for a client's confirmation: it counts milliseconds in an int.
const USER_TIMEOUT_MAX: Duration = Duration::from_secs(86_400);

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
    /// A header of the PROXY protocol begins each connection.
    pub(crate) proxy_protocol: bool,
    /// `[::]` leaves IPv4 to others.
    pub(crate) ipv6_only: bool,
    pub(crate) tcp: TcpOptions,
}

/// What tcp(7) says of a socket; as it stands here by default, the kernel makes them.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct TcpOptions {
    pub(crate) nodelay: bool,
    /// In seconds; 0: off, as in what follows.
    pub(crate) keepalive: u16,
    pub(crate) defer_accept: u16,
    pub(crate) user_timeout: Duration,
    /// The length of a queue.
    pub(crate) fastopen: u16,
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
    Key {
        name: "proxy_protocol",
        value: "BOOL",
        default: "false",
        meaning: "each connection begins with a header of the PROXY protocol, version 1 or 2, that says who the client is; one that does not is closed",
        is_list: false,
        set: |listener, given| set(&mut listener.proxy_protocol, given.truth()?),
    },
    Key {
        name: "ipv6_only",
        value: "BOOL",
        default: "false",
        meaning: "`[::]` takes no IPv4, which another listener may have then",
        is_list: false,
        set: |listener, given| set(&mut listener.ipv6_only, given.truth()?),
    },
    Key {
        name: "tcp_nodelay",
        value: "BOOL",
        default: "true",
        meaning: "small answers go at once; `false`: the kernel may wait for more",
        is_list: false,
        set: |listener, given| set(&mut listener.tcp.nodelay, given.truth()?),
    },
    Key {
        name: "tcp_keepalive",
        value: "SECONDS",
        default: "60",
        meaning: "a connection on which nothing has come for so long is probed, and ended when nobody answers; 0: it is not",
        is_list: false,
        set: |listener, given| set(&mut listener.tcp.keepalive, whole(given, KEEPALIVE_MAX)?),
    },
    Key {
        name: "tcp_defer_accept",
        value: "SECONDS",
        default: "0",
        meaning: "workers are given a connection only when something has come on it, or after about so long; 0: at once",
        is_list: false,
        set: |listener, given| set(&mut listener.tcp.defer_accept, whole(given, DEFER_ACCEPT_MAX)?),
    },
    Key {
        name: "tcp_user_timeout",
        value: "SECONDS",
        default: "0",
        meaning: "a connection whose client has not confirmed for so long what was sent is ended; 0: when the kernel gives up",
        is_list: false,
        set: |listener, given| {
            time(&mut listener.tcp.user_timeout, given, Duration::ZERO)?;
            let is_allowed = listener.tcp.user_timeout <= USER_TIMEOUT_MAX;
            is_allowed.then_some(()).ok_or_else(|| format!("at most {} are allowed", USER_TIMEOUT_MAX.as_secs()))
        },
    },
    Key {
        name: "tcp_fastopen",
        value: "N",
        default: "0",
        meaning: "so many connections may bring their first bytes along before they are confirmed; `net.ipv4.tcp_fastopen` must allow it; 0: none",
        is_list: false,
        set: |listener, given| set(&mut listener.tcp.fastopen, whole(given, u16::MAX)?),
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

fn set<T>(place: &mut T, value: T) -> Result<(), String> {
    *place = value;
    Ok(())
}

/// A whole number from 0 on.
fn whole(given: &Given<'_>, max: u16) -> Result<u16, String> {
    let number = u16::try_from(given.integer()?).ok().filter(|&number| number <= max);
    number.ok_or_else(|| format!("a number from 0 to {max} is wanted"))
}

/// Why a key cannot be said of a listener at this address.
pub(super) fn misfit(key: &str, address: &Address) -> Option<String> {
    let (is_tcp, is_ipv6) = match address {
        Address::Tcp(address) => (true, address.is_ipv6()),
        Address::Unix(_) => (false, false),
    };
    let fault = match key {
        "ipv6_only" if !is_ipv6 => "is no address of IPv6",
        tcp if tcp.starts_with("tcp_") && !is_tcp => "has no TCP",
        _ => return None,
    };
    Some(format!("{address} {fault}: leave this out"))
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
