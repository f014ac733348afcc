//! A target of the log while its section is being read.

use std::path::PathBuf;
use std::time::Duration;

use super::keys::JOURNALD;
use super::{FileSink, Format, Fsync, Sink, SyslogAddress, SyslogSink, Target};

/// What takes records.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Kind {
    Console,
    File,
    Syslog,
    Journald,
}

/// Everything that keys of any kind have said.
#[derive(Clone, Debug, Default)]
pub(crate) struct Draft {
    /// `None`: not known, as it is missing or wrong.
    pub(crate) kind: Option<Kind>,
    pub(super) level: Option<String>,
    pub(super) format: Format,
    pub(super) path: Option<PathBuf>,
    pub(super) size: Option<u64>,
    pub(super) age: Option<Duration>,
    pub(super) keep: u32,
    pub(super) keep_size: Option<u64>,
    pub(super) compress: bool,
    pub(super) fsync: Fsync,
    /// Has a default.
    pub(super) address: Option<SyslogAddress>,
    pub(super) facility: u8,
}

impl Kind {
    /// All, by name.
    pub(crate) fn words() -> [(&'static str, Self); 4] {
        [Self::Console, Self::File, Self::Syslog, Self::Journald].map(|kind| (kind.name(), kind))
    }

    pub(crate) fn name(self) -> &'static str {
        match self {
            Self::Console => "console",
            Self::File => "file",
            Self::Syslog => "syslog",
            Self::Journald => "journald",
        }
    }
}

impl Draft {
    /// What was described; `None` if something that it needs is missing.
    pub(crate) fn finish(self) -> Option<Target> {
        let sink = match self.kind? {
            Kind::Console => Sink::Console,
            Kind::File => Sink::File(FileSink {
                path: self.path?,
                size: self.size,
                age: self.age,
                keep: self.keep,
                keep_size: self.keep_size,
                compress: self.compress,
                fsync: self.fsync,
            }),
            Kind::Syslog => Sink::Syslog(SyslogSink { address: self.address?, facility: self.facility }),
            Kind::Journald => Sink::Journald(self.path.unwrap_or_else(|| JOURNALD.into())),
        };
        Some(Target { sink, format: self.format, level: self.level })
    }
}
