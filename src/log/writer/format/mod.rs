//! How a record looks: one whole record at a time, appended to bytes.
//!
//! Whatever a record says, it stays one record: nothing in it can end it early, begin another one or be
//! obeyed by a terminal. What does not change from record to record is made once.

mod common_log;
mod journald;
mod json;
mod plain;
mod stamp;
mod syslog;
mod text;

use self::stamp::Stamp;
use std::io::IsTerminal;

use crate::log::record::{Entry, Origin, Value};

pub(super) use self::syslog::HEAD_LEN_MAX as SYSLOG_HEAD_LEN_MAX;

/// How records look.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Look {
    /// env_logger's.
    Text { colours: bool },
    /// An object on each line.
    Json,
    /// The Common Log Format, of access records; others are text.
    Common,
    /// RFC 5424, a datagram each.
    Syslog { facility: u8 },
    /// systemd's native protocol, a datagram each.
    Journald,
}

impl Look {
    /// Text, in colours where somebody sees them who has not said otherwise.
    pub(crate) fn text_on(stream: &impl IsTerminal) -> Self {
        Self::Text { colours: stream.is_terminal() && std::env::var_os("NO_COLOR").is_none() }
    }
}

/// What a receiver is told of this program.
#[derive(Clone, Debug)]
pub(crate) struct Names {
    pub(crate) program: String,
    pub(crate) host: String,
}

/// Gives records their look.
pub(crate) struct Formatter {
    look: Look,
    stamp: Stamp,
    /// What is the same in every record of this look.
    constant: Vec<u8>,
}

impl Formatter {
    pub(crate) fn new(look: Look, names: &Names) -> Self {
        let constant = match look {
            Look::Text { .. } | Look::Json | Look::Common => Vec::new(),
            Look::Syslog { .. } => syslog::names(names),
            Look::Journald => journald::names(names),
        };
        Self { look, stamp: Stamp::new(), constant }
    }

    /// Appends the record.
    pub(crate) fn write(&mut self, origin: &Origin, entry: &Entry<'_>, out: &mut Vec<u8>) {
        match self.look {
            Look::Text { colours } => text::write(colours, &mut self.stamp, origin, entry, out),
            Look::Json => json::write(&mut self.stamp, origin, entry, out),
            Look::Common => common_log::write(&mut self.stamp, origin, entry, out),
            Look::Syslog { facility } => {
                syslog::write(facility, &self.constant, &mut self.stamp, origin, entry, out);
            }
            Look::Journald => journald::write(&self.constant, &mut self.stamp, origin, entry, out),
        }
    }
}

/// A value where there are only texts.
fn shown(value: Value<'_>) -> &str {
    match value {
        Value::Null => "null",
        Value::Bool(true) => "true",
        Value::Bool(false) => "false",
        Value::Number(text) | Value::Text(text) => text,
    }
}

/// Appends a whole number.
fn decimal(number: impl itoa::Integer, out: &mut Vec<u8>) {
    out.extend_from_slice(itoa::Buffer::new().format(number).as_bytes());
}

/// A level as syslog counts it, RFC 5424 section 6.2.1; journald does it the same way.
fn severity(level: log::Level) -> u8 {
    match level {
        log::Level::Error => 3,
        log::Level::Warn => 4,
        log::Level::Info => 6,
        log::Level::Debug | log::Level::Trace => 7,
    }
}

/// What the tests of all looks begin with.
#[cfg(test)]
mod examples {
    use super::*;
    use crate::contract::ids::{Generation, Role, Slot};
    use crate::log::record::Fields;

    /// 2023-11-14T22:13:20.999999Z.
    pub(super) const TIME_US: i64 = 1_700_000_000_999_999;

    pub(super) fn worker() -> Origin {
        Origin::of(Role::Worker(Slot(0), Generation(1)), 42)
    }

    pub(super) fn entry<'a>(message: &'a str, fields: &'a [u8]) -> Entry<'a> {
        Entry {
            time_us: TIME_US,
            level: log::Level::Info,
            target: "app",
            module: "app::orders",
            message,
            fields: Fields::read(fields).expect("encoded"),
            request: "",
            sequence: 0,
        }
    }

    pub(super) fn fields(pairs: &[(&str, Value<'_>)]) -> Vec<u8> {
        let mut out = Vec::new();
        pairs.iter().for_each(|(key, value)| crate::log::record::add_field(key, *value, &mut out));
        out
    }

    pub(super) fn written(look: Look, origin: &Origin, entry: &Entry<'_>) -> Vec<u8> {
        let names = Names { program: "shop".to_owned(), host: "example.org".to_owned() };
        let mut out = Vec::new();
        Formatter::new(look, &names).write(origin, entry, &mut out);
        out
    }
}
