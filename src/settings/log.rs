//! `[log]`, `[[log.target]]` and `[log.access]`: where records go, and how they look there.

mod draft;
mod keys;

use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::time::Duration;

use serde::{Deserialize, Serialize};

pub(super) use self::draft::{Draft, Kind};
pub(super) use self::keys::{Section, transport};

/// The most targets, `[log.access]` among them: the log helper writes each record to all of them in turn.
pub(crate) const TARGETS_MAX: usize = 8;

/// How records travel to the log helper.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) enum Transport {
    /// Through memory that each process shares with it.
    #[default]
    Ring,
    /// Over its Unix socket.
    Socket,
}

/// Where records go.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub(crate) struct Target {
    pub(crate) sink: Sink,
    pub(crate) format: Format,
    /// Which of them, in RUST_LOG's syntax; `None`: all.
    pub(crate) level: Option<String>,
}

/// What takes them.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub(crate) enum Sink {
    /// The daemon's standard error.
    Console,
    File(FileSink),
    Syslog(SyslogSink),
    /// systemd's, by its native protocol, at this socket.
    Journald(PathBuf),
}

/// A file, and what becomes of it when it is large or old.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub(crate) struct FileSink {
    pub(crate) path: PathBuf,
    /// Rotated when it has so many bytes.
    pub(crate) size: Option<u64>,
    /// Rotated when it is so old.
    pub(crate) age: Option<Duration>,
    /// So many rotated ones are kept.
    pub(crate) keep: u32,
    /// And of these at most so many bytes in all.
    pub(crate) keep_size: Option<u64>,
    /// Rotated ones are compressed with gzip.
    pub(crate) compress: bool,
    pub(crate) fsync: Fsync,
}

/// When what was written is forced to the disk.
#[derive(Clone, Copy, Debug, Default, PartialEq, Serialize, Deserialize)]
pub(crate) enum Fsync {
    #[default]
    Never,
    /// After a record of level error.
    Error,
    Every(Duration),
}

/// RFC 5424.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub(crate) struct SyslogSink {
    pub(crate) address: SyslogAddress,
    /// The facility's number, RFC 5424 section 6.2.1.
    pub(crate) facility: u8,
}

#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub(crate) enum SyslogAddress {
    Unix(PathBuf),
    Udp(SocketAddr),
}

/// How a record looks.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) enum Format {
    /// env_logger's.
    #[default]
    Text,
    /// An object on each line.
    Json,
    /// The Common Log Format, of `[log.access]` only.
    Common,
}

impl Target {
    /// What there is where nobody says otherwise.
    pub(crate) fn console() -> Self {
        Self { sink: Sink::Console, format: Format::Text, level: None }
    }

    /// Of a file, where it is.
    pub(crate) fn path(&self) -> Option<&Path> {
        match &self.sink {
            Sink::File(file) => Some(&file.path),
            Sink::Console | Sink::Syslog(_) | Sink::Journald(_) => None,
        }
    }

    /// As people know it.
    pub(crate) fn name(&self) -> String {
        match &self.sink {
            Sink::Console => "console".to_owned(),
            Sink::File(file) => file.path.display().to_string(),
            Sink::Syslog(syslog) => match &syslog.address {
                SyslogAddress::Unix(path) => format!("syslog {}", path.display()),
                SyslogAddress::Udp(address) => format!("syslog {address}"),
            },
            Sink::Journald(path) => format!("journald {}", path.display()),
        }
    }

    /// For a process that changes its directory.
    pub(super) fn start_path_from(&mut self, directory: &Path) {
        if let Sink::File(file) = &mut self.sink {
            file.path = directory.join(&file.path);
        }
    }
}
