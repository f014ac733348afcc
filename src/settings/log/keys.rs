//! The keys of `[[log.target]]` and `[log.access]`.

use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::time::Duration;

use super::{Draft, Format, Fsync, Kind, SyslogAddress, Transport};
use crate::settings::address::socket_path;
use crate::settings::key::{Given, Key};
use crate::settings::table::{at_least_one, filter, time};

/// Where journald listens.
pub(super) const JOURNALD: &str = "/run/systemd/journal/socket";

/// The smallest size that a file is rotated at, in bytes.
const SIZE_MIN: u64 = 1024;

/// The shortest age that a file is rotated at: the names of rotated ones have seconds.
const AGE_MIN: Duration = Duration::from_secs(1);

/// The most rotated files that are kept: with each rotation they are all looked at.
const KEEP_MAX: u32 = 10_000;

/// The shortest time between two fsync(2).
const FSYNC_MIN: Duration = Duration::from_millis(100);

/// Facilities by the names of syslog(3), with their numbers in RFC 5424; `kern` is the kernel's alone.
const FACILITIES: &[(&str, u8)] = &[
    ("daemon", 3),
    ("user", 1),
    ("mail", 2),
    ("auth", 4),
    ("syslog", 5),
    ("lpr", 6),
    ("news", 7),
    ("uucp", 8),
    ("cron", 9),
    ("authpriv", 10),
    ("ftp", 11),
    ("local0", 16),
    ("local1", 17),
    ("local2", 18),
    ("local3", 19),
    ("local4", 20),
    ("local5", 21),
    ("local6", 22),
    ("local7", 23),
];

/// A section that describes targets.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Section {
    Target,
    Access,
}

/// A key, and the kinds of targets that have it.
#[derive(Debug)]
pub(crate) struct Row {
    pub(crate) kinds: &'static [Kind],
    pub(crate) key: Key<Draft>,
}

const ANY: &[Kind] = &[Kind::Console, Kind::File, Kind::Syslog, Kind::Journald];
const WITH_FORMAT: &[Kind] = &[Kind::Console, Kind::File];
const WITH_PATH: &[Kind] = &[Kind::File, Kind::Journald];
const FILE: &[Kind] = &[Kind::File];
const SYSLOG: &[Kind] = &[Kind::Syslog];

/// The keys of a `[[log.target]]`.
const KEYS: &[Row] = &[
    Row {
        kinds: ANY,
        key: Key {
            name: "kind",
            value: "KIND",
            default: "(none)",
            meaning: "what this target is: `\"console\"`, `\"file\"`, `\"syslog\"` or `\"journald\"`",
            is_list: false,
            set: kind,
        },
    },
    Row {
        kinds: ANY,
        key: Key {
            name: "level",
            value: "FILTER",
            default: "(all)",
            meaning: "which of the records that `log.level` lets through, in the same syntax",
            is_list: false,
            set: |draft, given| {
                draft.level = Some(filter(given)?);
                Ok(())
            },
        },
    },
    Row {
        kinds: WITH_FORMAT,
        key: Key {
            name: "format",
            value: "FORMAT",
            default: "\"text\"",
            meaning: "console, file: `\"text\"`, or `\"json\"`, an object on each line",
            is_list: false,
            set: |draft, given| {
                draft.format = given.one_of(&[("text", Format::Text), ("json", Format::Json)])?;
                Ok(())
            },
        },
    },
    Row {
        kinds: WITH_PATH,
        key: Key {
            name: "path",
            value: "FILE",
            default: "(none; of journald `/run/systemd/journal/socket`)",
            meaning: "file: where it is; journald: where its socket is",
            is_list: false,
            set: |draft, given| {
                let read = if draft.kind == Some(Kind::Journald) { journald } else { file };
                draft.path = Some(read(given.text()?)?);
                Ok(())
            },
        },
    },
    Row {
        kinds: FILE,
        key: Key {
            name: "size",
            value: "BYTES",
            default: "(no limit)",
            meaning: "file: rotated when it is so large; a number, at least 1024, or `\"100M\"` (K, M, G)",
            is_list: false,
            set: |draft, given| {
                let size = u64::try_from(given.bytes()?).ok().filter(|&size| size >= SIZE_MIN);
                draft.size = Some(size.ok_or_else(|| format!("a file is rotated at {SIZE_MIN} bytes at least"))?);
                Ok(())
            },
        },
    },
    Row {
        kinds: FILE,
        key: Key {
            name: "age",
            value: "SECONDS",
            default: "(no limit)",
            meaning: "file: rotated when it is so old; at least 1",
            is_list: false,
            set: |draft, given| time(draft.age.insert(Duration::ZERO), given, AGE_MIN),
        },
    },
    Row {
        kinds: FILE,
        key: Key {
            name: "keep",
            value: "N",
            default: "10",
            meaning: "file: so many rotated ones are kept; 0 to 10000",
            is_list: false,
            set: |draft, given| {
                let keep = u32::try_from(given.integer()?).ok().filter(|&keep| keep <= KEEP_MAX);
                draft.keep = keep.ok_or_else(|| format!("a number of files to keep is from 0 to {KEEP_MAX}"))?;
                Ok(())
            },
        },
    },
    Row {
        kinds: FILE,
        key: Key {
            name: "keep_size",
            value: "BYTES",
            default: "(no limit)",
            meaning: "file: and of these no more than are so large together",
            is_list: false,
            set: |draft, given| {
                draft.keep_size = Some(at_least_one(given.bytes()?, "a size")?);
                Ok(())
            },
        },
    },
    Row {
        kinds: FILE,
        key: Key {
            name: "compress",
            value: "BOOL",
            default: "false",
            meaning: "file: rotated ones are compressed with gzip",
            is_list: false,
            set: |draft, given| {
                draft.compress = given.truth()?;
                Ok(())
            },
        },
    },
    Row {
        kinds: FILE,
        key: Key {
            name: "fsync",
            value: "WHEN",
            default: "\"never\"",
            meaning: "file: when it is forced to the disk: `\"never\"`, after each record of level `\"error\"`, or every so many seconds, at least 0.1",
            is_list: false,
            set: |draft, given| {
                draft.fsync = fsync(given)?;
                Ok(())
            },
        },
    },
    Row {
        kinds: SYSLOG,
        key: Key {
            name: "address",
            value: "ADDRESS",
            default: "\"unix:/dev/log\"",
            meaning: "syslog: where it listens: `unix:/PATH`, `udp:ADDRESS:PORT`, `udp:[ADDRESS]:PORT`",
            is_list: false,
            set: |draft, given| {
                draft.address = Some(syslog(given.text()?)?);
                Ok(())
            },
        },
    },
    Row {
        kinds: SYSLOG,
        key: Key {
            name: "facility",
            value: "NAME",
            default: "\"daemon\"",
            meaning: "syslog: a name that syslog(3) has: `\"user\"`, `\"local0\"` to `\"local7\"`, …",
            is_list: false,
            set: |draft, given| {
                draft.facility = given.one_of(FACILITIES)?;
                Ok(())
            },
        },
    },
];

/// What `[log.access]` has in the place of theirs.
const ACCESS_KEYS: &[Row] = &[
    Row {
        kinds: ANY,
        key: Key {
            name: "kind",
            value: "KIND",
            default: "(`\"file\"` where a `path` is said, else `\"console\"`)",
            meaning: "as that of a target",
            is_list: false,
            set: kind,
        },
    },
    Row {
        kinds: WITH_FORMAT,
        key: Key {
            name: "format",
            value: "FORMAT",
            default: "\"common\"",
            meaning: "console, file: `\"common\"`, the Common Log Format, or `\"json\"`",
            is_list: false,
            set: |draft, given| {
                draft.format = given.one_of(&[("common", Format::Common), ("json", Format::Json)])?;
                Ok(())
            },
        },
    },
];

impl Section {
    pub(crate) const ALL: [Self; 2] = [Self::Target, Self::Access];

    pub(crate) fn name(self) -> &'static str {
        match self {
            Self::Target => "log.target",
            Self::Access => "log.access",
        }
    }

    /// As the file writes it.
    pub(crate) fn header(self) -> &'static str {
        match self {
            Self::Target => "[[log.target]]",
            Self::Access => "[log.access]",
        }
    }

    /// The keys that only this section has so.
    pub(crate) fn own(self) -> &'static [Row] {
        match self {
            Self::Target => KEYS,
            Self::Access => ACCESS_KEYS,
        }
    }

    /// All of its keys.
    pub(crate) fn rows(self) -> impl Iterator<Item = &'static Row> + Clone {
        let (own, shared) = match self {
            Self::Target => (KEYS, [].as_slice()),
            Self::Access => (ACCESS_KEYS, KEYS),
        };
        let is_own = move |row: &&Row| own.iter().any(|other| other.key.name == row.key.name);
        own.iter().chain(shared.iter().filter(move |row| !is_own(row)))
    }

    /// With the defaults.
    pub(crate) fn draft(self) -> Draft {
        let mut draft = Draft::default();
        self.rows().for_each(|row| row.key.reset(&mut draft));
        draft
    }
}

/// How records travel.
pub(crate) fn transport(given: &Given<'_>) -> Result<Transport, String> {
    given.one_of(&[("ring", Transport::Ring), ("socket", Transport::Socket)])
}

fn kind(draft: &mut Draft, given: &Given<'_>) -> Result<(), String> {
    draft.kind = Some(given.one_of(&Kind::words())?);
    Ok(())
}

fn file(text: &str) -> Result<PathBuf, String> {
    // `a/` is a directory, though its name is `a` for Rust.
    let is_one = !text.ends_with('/') && !text.contains('\0') && Path::new(text).file_name().is_some();
    if is_one { Ok(text.into()) } else { Err(format!("the path of a file is wanted, `{text}` is none")) }
}

fn journald(text: &str) -> Result<PathBuf, String> {
    socket_path(text, JOURNALD)
}

fn syslog(text: &str) -> Result<SyslogAddress, String> {
    if let Some(path) = text.strip_prefix("unix:") {
        return socket_path(path, "unix:/dev/log").map(SyslogAddress::Unix);
    }
    let address = text.strip_prefix("udp:").and_then(|address| address.parse().ok());
    // Nobody listens on port 0.
    let address = address.filter(|address: &SocketAddr| address.port() != 0);
    address.map(SyslogAddress::Udp).ok_or_else(|| {
        format!("`{text}` is no address of a syslog: write unix:/dev/log, udp:127.0.0.1:514 or udp:[::1]:514")
    })
}

fn fsync(given: &Given<'_>) -> Result<Fsync, String> {
    if given.number().is_ok() {
        let mut period = Duration::ZERO;
        return time(&mut period, given, FSYNC_MIN).map(|()| Fsync::Every(period));
    }
    let word = given.one_of(&[("never", Fsync::Never), ("error", Fsync::Error)]);
    word.map_err(|_| "\"never\", \"error\" or a number of seconds is wanted".to_owned())
}
