//! systemd's native protocol (<https://systemd.io/JOURNAL_NATIVE_PROTOCOL/>): fields by name, one after another.
//!
//! The time is the record's own: it may have waited, and what the journal itself notes is when it came.

use super::stamp::Stamp;
use super::{Names, decimal, severity, shown};
use crate::log::record::{Entry, Origin};

/// The longest name of a field that the journal keeps.
const NAME_LEN_MAX: usize = 64;

/// Stands before a key that would otherwise be no name, or one of ours or of systemd's.
const PREFIX: &[u8] = b"FIELD_";

/// Names that are not the application's to give, and beginnings of such.
const TAKEN: [&[u8]; 4] = [b"MESSAGE", b"PRIORITY", b"TARGET", b"CODE_MODULE"];
const TAKEN_BEGINNINGS: [&[u8]; 4] = [b"FOREBAY_", b"SYSLOG_", b"OBJECT_", b"COREDUMP_"];

/// More than an entry has beside the texts of its record.
const FRAME_LEN_MAX: usize = 512;

pub(super) fn names(names: &Names) -> Vec<u8> {
    let mut out = Vec::new();
    field(b"SYSLOG_IDENTIFIER", &names.program, &mut out);
    out
}

pub(super) fn write(names: &[u8], stamp: &mut Stamp, origin: &Origin, entry: &Entry<'_>, out: &mut Vec<u8>) {
    out.reserve(FRAME_LEN_MAX + entry.message.len() + entry.fields.bytes().len());
    field(b"MESSAGE", entry.message, out);
    number(b"PRIORITY", severity(entry.level), out);
    out.extend_from_slice(names);
    field(b"TARGET", entry.target, out);
    if !entry.module.is_empty() {
        field(b"CODE_MODULE", entry.module, out);
    }
    out.extend_from_slice(b"FOREBAY_TIME=");
    stamp.write_microseconds(entry.time_us, out);
    out.push(b'\n');
    write_origin(origin, out);
    if entry.sequence != 0 {
        number(b"FOREBAY_SEQUENCE", entry.sequence, out);
    }
    if !entry.request.is_empty() {
        field(b"FOREBAY_REQUEST", entry.request, out);
    }
    for (key, value) in entry.fields.iter() {
        let (name, len) = name(key);
        field(&name[..len], shown(value), out);
    }
}

fn write_origin(origin: &Origin, out: &mut Vec<u8>) {
    if !origin.name.is_empty() {
        field(b"FOREBAY_PROCESS", &origin.name, out);
    }
    if let Some(worker) = origin.worker {
        number(b"FOREBAY_WORKER", worker.0, out);
    }
    if let Some(generation) = origin.generation {
        number(b"FOREBAY_GENERATION", generation.0, out);
    }
    if origin.pid != 0 {
        // The journal's own `_PID` is the log helper's; this is what its readers show instead.
        number(b"SYSLOG_PID", origin.pid, out);
        number(b"FOREBAY_PID", origin.pid, out);
    }
}

fn number(name: &[u8], number: impl itoa::Integer, out: &mut Vec<u8>) {
    out.extend_from_slice(name);
    out.push(b'=');
    decimal(number, out);
    out.push(b'\n');
}

/// `NAME=value`, or with its length if there are line breaks in it.
fn field(name: &[u8], value: &str, out: &mut Vec<u8>) {
    out.extend_from_slice(name);
    if value.as_bytes().contains(&b'\n') {
        out.push(b'\n');
        out.extend_from_slice(&(value.len() as u64).to_le_bytes());
    } else {
        out.push(b'=');
    }
    out.extend_from_slice(value.as_bytes());
    out.push(b'\n');
}

/// The name of an application's field: A-Z, 0-9 and `_`, a letter first; the journal drops an entry's others,
/// and those that begin with `_` are for it alone to set.
fn name(key: &str) -> ([u8; NAME_LEN_MAX], usize) {
    let mut name = [b'_'; NAME_LEN_MAX];
    let upper = |character: char| if character.is_ascii_alphanumeric() { character.to_ascii_uppercase() } else { '_' };
    let mut len = 0;
    for (place, character) in name.iter_mut().zip(key.chars()) {
        *place = upper(character) as u8;
        len += 1;
    }
    let plain = &name[..len];
    let is_taken = TAKEN.contains(&plain) || TAKEN_BEGINNINGS.iter().any(|beginning| plain.starts_with(beginning));
    if is_taken || !plain.first().is_some_and(u8::is_ascii_uppercase) {
        name.copy_within(..NAME_LEN_MAX - PREFIX.len(), PREFIX.len());
        name[..PREFIX.len()].copy_from_slice(PREFIX);
        len = (len + PREFIX.len()).min(NAME_LEN_MAX);
    }
    (name, len)
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::super::Look;
    use super::super::examples::{entry, fields, worker, written};
    use super::*;
    use crate::log::record::Value;

    /// The fields of one entry, by the protocol's rules.
    fn parse(mut rest: &[u8]) -> Vec<(String, String)> {
        let mut fields = Vec::new();
        while !rest.is_empty() {
            let end = rest.iter().position(|&byte| byte == b'\n').expect("a line");
            let (line, after) = (&rest[..end], &rest[end + 1..]);
            let (name, value) = if let Some(equals) = line.iter().position(|&byte| byte == b'=') {
                rest = after;
                (&line[..equals], &line[equals + 1..])
            } else {
                let (len, after) = after.split_first_chunk().expect("a length");
                let (value, after) = after.split_at(u64::from_le_bytes(*len) as usize);
                rest = after.strip_prefix(b"\n").expect("a line break");
                (line, value)
            };
            assert!((1..=64).contains(&name.len()) && name[0].is_ascii_uppercase());
            assert!(name.iter().all(|byte| matches!(byte, b'A'..=b'Z' | b'0'..=b'9' | b'_')));
            let text = |bytes: &[u8]| String::from_utf8(bytes.to_vec()).expect("UTF-8");
            fields.push((text(name), text(value)));
        }
        fields
    }

    #[test]
    fn a_record_is_an_entry() {
        let pairs = [("order_id", Value::Number("7")), ("Retry", Value::Bool(true)), ("note", Value::Text("a\nb"))];
        let out = fields(&pairs);
        let said = Entry { level: log::Level::Error, sequence: 9, request: "01ab", ..entry("two\nlines", &out) };
        let out = written(Look::Journald, &worker(), &said);
        assert!(out.starts_with(b"MESSAGE\n\x09\0\0\0\0\0\0\0two\nlines\nPRIORITY=3\n"));
        let expected = [
            ("MESSAGE", "two\nlines"),
            ("PRIORITY", "3"),
            ("SYSLOG_IDENTIFIER", "shop"),
            ("TARGET", "app"),
            ("CODE_MODULE", "app::orders"),
            ("FOREBAY_TIME", "2023-11-14T22:13:20.999999Z"),
            ("FOREBAY_PROCESS", "worker 0 generation 1"),
            ("FOREBAY_WORKER", "0"),
            ("FOREBAY_GENERATION", "1"),
            ("SYSLOG_PID", "42"),
            ("FOREBAY_PID", "42"),
            ("FOREBAY_SEQUENCE", "9"),
            ("FOREBAY_REQUEST", "01ab"),
            ("ORDER_ID", "7"),
            ("RETRY", "true"),
            ("NOTE", "a\nb"),
        ];
        assert_eq!(parse(&out), expected.map(|(name, value)| (name.to_owned(), value.to_owned())));
    }

    #[test]
    fn a_key_becomes_a_name() {
        let long = "k".repeat(100);
        let table = [
            ("order.id", "ORDER_ID"),
            ("message", "FIELD_MESSAGE"),
            ("message_id", "MESSAGE_ID"),
            ("Priority", "FIELD_PRIORITY"),
            ("syslog_pid", "FIELD_SYSLOG_PID"),
            ("_pid", "FIELD__PID"),
            ("1st", "FIELD_1ST"),
            ("é", "FIELD__"),
            ("", "FIELD_"),
            (&long, &"K".repeat(NAME_LEN_MAX)),
            (&format!("_{long}"), &format!("FIELD__{}", "K".repeat(NAME_LEN_MAX - 7))),
        ];
        for (key, expected) in table {
            let (name, len) = name(key);
            assert_eq!(String::from_utf8_lossy(&name[..len]), expected, "{key}");
        }
    }

    proptest! {
        #[test]
        fn whatever_is_said_is_read_back(
            message in any::<String>(), key in any::<String>(), value in "(?s)[\n=]*.*", request in "(?s).+",
        ) {
            let out = fields(&[(&key, Value::Text(&value))]);
            let said = Entry { target: &key, module: &value, request: &request, ..entry(&message, &out) };
            let parsed = parse(&written(Look::Journald, &worker(), &said));
            let all = |name: &str| -> Vec<&str> {
                parsed.iter().filter(|(found, _)| found == name).map(|(_, value)| value.as_str()).collect()
            };
            prop_assert_eq!(all("MESSAGE"), [&message]);
            prop_assert_eq!(all("PRIORITY"), ["6"]);
            prop_assert_eq!(all("TARGET"), [&key]);
            prop_assert_eq!(all("FOREBAY_REQUEST"), [&request]);
            prop_assert_eq!(&parsed.last().expect("a field").1, &value);
        }
    }
}
