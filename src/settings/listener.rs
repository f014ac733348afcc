//! One listening socket as the settings describe it.

use super::account::{Account, Group};
use super::address::Address;
use super::key::Key;

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
];

impl Listener {
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
