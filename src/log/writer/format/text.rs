//! A line as env_logger writes it, with who has said it behind the target.
//!
//! This is where most records go: nothing is formatted that can be copied.

use std::io::Write;

use log::Level;

use super::plain::{CONTROLS_AHEAD, has_special, is_control};
use super::shown;
use super::stamp::Stamp;
use crate::log::printable::Printable;
use crate::log::record::{Entry, Origin};

/// More than a line has beside the texts of its record, colours included.
const FRAME_LEN_MAX: usize = 80;

const DIM: &[u8] = b"\x1b[90m";
const PLAIN: &[u8] = b"\x1b[0m";

pub(super) fn write(colours: bool, stamp: &mut Stamp, origin: &Origin, entry: &Entry<'_>, out: &mut Vec<u8>) {
    out.reserve(FRAME_LEN_MAX + entry.target.len() + origin.name.len() + entry.message.len());
    let second = stamp.second(entry.time_us);
    let (level, colour) = level(entry.level);
    if colours {
        out.extend_from_slice(DIM);
        out.push(b'[');
        out.extend_from_slice(PLAIN);
        out.extend_from_slice(second);
        out.extend_from_slice(b"Z ");
        out.extend_from_slice(colour);
        out.extend_from_slice(level);
        out.extend_from_slice(PLAIN);
    } else {
        out.push(b'[');
        out.extend_from_slice(second);
        out.extend_from_slice(b"Z ");
        out.extend_from_slice(level);
    }
    out.push(b' ');
    printable(entry.target, "\\n", out);
    if !origin.name.is_empty() {
        out.push(b' ');
        printable(&origin.name, "\\n", out);
    }
    if colours {
        out.extend_from_slice(DIM);
        out.push(b']');
        out.extend_from_slice(PLAIN);
        out.push(b' ');
    } else {
        out.extend_from_slice(b"] ");
    }
    // Indented as env_logger does it: a message cannot pretend to be another record.
    printable(entry.message, "\n    ", out);
    fields(entry, out);
    out.push(b'\n');
}

/// A level's name and colour, env_logger's.
fn level(level: Level) -> (&'static [u8; 5], &'static [u8]) {
    match level {
        Level::Error => (b"ERROR", b"\x1b[1;31m"),
        Level::Warn => (b"WARN ", b"\x1b[33m"),
        Level::Info => (b"INFO ", b"\x1b[32m"),
        Level::Debug => (b"DEBUG", b"\x1b[34m"),
        Level::Trace => (b"TRACE", b"\x1b[36m"),
    }
}

fn printable(text: &str, line_break: &str, out: &mut Vec<u8>) {
    if has_special(text.as_bytes(), is_control) {
        // A vector takes everything.
        let _ = write!(out, "{}", Printable { text, line_break });
    } else {
        out.extend_from_slice(text.as_bytes());
    }
}

/// ` key=value`, as env_logger does it. The request's id is not among them: a line would be half as long again,
/// and most ids say nothing to people. The other formats have it.
fn fields(entry: &Entry<'_>, out: &mut Vec<u8>) {
    for (name, value) in entry.fields.iter() {
        out.push(b' ');
        key(name, out);
        out.push(b'=');
        word(shown(value), out);
    }
}

/// A key, with `_` for what would end it.
fn key(name: &str, out: &mut Vec<u8>) {
    if has_special(name.as_bytes(), is_quoted) {
        let plain = |character: char| character > ' ' && !character.is_control() && !"\"\\=".contains(character);
        let name: String = name.chars().map(|character| if plain(character) { character } else { '_' }).collect();
        out.extend_from_slice(name.as_bytes());
    } else {
        out.extend_from_slice(name.as_bytes());
    }
}

/// A value; in quotes, with Rust's escapes, where it would not be one word otherwise.
fn word(text: &str, out: &mut Vec<u8>) {
    if text.is_empty() || has_special(text.as_bytes(), is_quoted) {
        // A vector takes everything.
        let _ = write!(out, "{text:?}");
    } else {
        out.extend_from_slice(text.as_bytes());
    }
}

#[inline(always)]
fn is_quoted(byte: u8) -> bool {
    // No `matches!`, of which the compiler makes branches.
    (byte <= b' ') | (byte == b'"') | (byte == b'\\') | (byte == b'=') | (byte == 0x7f) | (byte == CONTROLS_AHEAD)
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::super::Look;
    use super::super::examples::{entry, fields, worker, written};
    use super::*;
    use crate::log::record::Value;

    const LOOK: Look = Look::Text { colours: false };

    fn text(origin: &Origin, entry: &Entry<'_>) -> String {
        String::from_utf8(written(LOOK, origin, entry)).expect("text")
    }

    #[test]
    fn a_record_is_a_line_of_env_loggers_format() {
        let origin = Origin { name: "worker 0".to_owned(), ..Origin::default() };
        let table = [
            ("two\nlines \x1b[2J\u{9b}", "two\n    lines \\u{1b}[2J\\u{9b}"),
            ("a\ttab stays, £ and é as well", "a\ttab stays, £ and é as well"),
            ("", ""),
        ];
        for (message, shown) in table {
            let expected = format!("[2023-11-14T22:13:20Z INFO  app worker 0] {shown}\n");
            assert_eq!(text(&origin, &entry(message, &[])), expected);
        }
        let of_master = text(&Origin::default(), &Entry { level: Level::Warn, target: "a\nb", ..entry("m", &[]) });
        assert_eq!(of_master, "[2023-11-14T22:13:20Z WARN  a\\nb] m\n");
    }

    #[test]
    fn colours_are_env_loggers() {
        let out = written(Look::Text { colours: true }, &worker(), &entry("m", &[]));
        let expected =
            "\x1b[90m[\x1b[0m2023-11-14T22:13:20Z \x1b[32mINFO \x1b[0m app worker 0 generation 1\x1b[90m]\x1b[0m m\n";
        assert_eq!(String::from_utf8_lossy(&out), expected);
    }

    #[test]
    fn what_is_beside_the_message_follows_it() {
        let pairs = [
            ("id", Value::Number("-7")),
            ("ok", Value::Bool(true)),
            ("none", Value::Null),
            ("who", Value::Text("é")),
            ("said", Value::Text("a \"b\"\n\\ \u{9b}")),
            ("empty", Value::Text("")),
            ("a =\"\n", Value::Text("k=v")),
        ];
        let out = fields(&pairs);
        let line = text(&worker(), &Entry { request: "01ab", ..entry("m", &out) });
        let expected = r#"m id=-7 ok=true none=null who=é said="a \"b\"\n\\ \u{9b}" empty="" a____="k=v""#;
        assert_eq!(line, format!("[2023-11-14T22:13:20Z INFO  app worker 0 generation 1] {expected}\n"));
    }

    proptest! {
        #[test]
        fn whatever_is_said_is_one_record(message in "\\PC*|.*\n.*", key in ".*", value in ".*", target in ".*") {
            let out = fields(&[(&key, Value::Text(&value))]);
            let line = text(&worker(), &Entry { target: &target, request: &value, ..entry(&message, &out) });
            let body = line.strip_suffix('\n').expect("a line");
            prop_assert!(body.split('\n').skip(1).all(|more| more.starts_with("    ")));
            prop_assert!(!body.chars().any(|c| c.is_control() && c != '\n' && c != '\t'));
        }
    }

    #[test]
    #[ignore = "a measurement, of the release build"]
    fn measure() {
        const BATCH: u32 = 1000;
        let message = "x".repeat(150 - 55);
        let (origin, entry) = (worker(), entry(&message, &[]));
        let mut out = Vec::with_capacity(1 << 20);
        for look in [LOOK, Look::Json, Look::Common, Look::Syslog { facility: 1 }, Look::Journald] {
            let names = super::super::Names { program: "shop".to_owned(), host: "example.org".to_owned() };
            let mut formatter = super::super::Formatter::new(look, &names);
            let mut batch = || {
                out.clear();
                let start = std::time::Instant::now();
                for _ in 0..BATCH {
                    formatter.write(std::hint::black_box(&origin), std::hint::black_box(&entry), &mut out);
                }
                start.elapsed().as_nanos() / u128::from(BATCH)
            };
            // The best of them: others compute here too.
            let best = (0..1000).map(|_| batch()).min().expect("batches");
            println!("{look:?}: {best} ns");
        }
    }
}
