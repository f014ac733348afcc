//! An object on each line.

use super::plain::{CONTROLS_AHEAD, has_special};
use super::stamp::Stamp;
use super::{decimal, shown};
use crate::log::record::{Entry, Origin, Value};

/// More than a line has beside the texts of its record.
const FRAME_LEN_MAX: usize = 256;

/// Digits that surely fit an integer of 64 bits.
const SHORT_LEN_MAX: usize = 18;

pub(super) fn write(stamp: &mut Stamp, origin: &Origin, entry: &Entry<'_>, out: &mut Vec<u8>) {
    out.reserve(FRAME_LEN_MAX + entry.target.len() + entry.module.len() + origin.name.len() + entry.message.len());
    out.extend_from_slice(b"{\"time\":\"");
    stamp.write_microseconds(entry.time_us, out);
    out.extend_from_slice(b"\",\"level\":\"");
    out.extend_from_slice(level(entry.level));
    out.extend_from_slice(b"\",\"target\":");
    string(entry.target, out);
    if !entry.module.is_empty() {
        out.extend_from_slice(b",\"module\":");
        string(entry.module, out);
    }
    out.extend_from_slice(b",\"message\":");
    string(entry.message, out);
    write_origin(origin, out);
    if entry.sequence != 0 {
        out.extend_from_slice(b",\"sequence\":");
        decimal(entry.sequence, out);
    }
    if !entry.request.is_empty() {
        out.extend_from_slice(b",\"request\":");
        string(entry.request, out);
    }
    fields(entry, out);
    out.extend_from_slice(b"}\n");
}

fn level(level: log::Level) -> &'static [u8] {
    match level {
        log::Level::Error => b"error",
        log::Level::Warn => b"warn",
        log::Level::Info => b"info",
        log::Level::Debug => b"debug",
        log::Level::Trace => b"trace",
    }
}

fn write_origin(origin: &Origin, out: &mut Vec<u8>) {
    if !origin.name.is_empty() {
        out.extend_from_slice(b",\"process\":");
        string(&origin.name, out);
    }
    if let Some(worker) = origin.worker {
        out.extend_from_slice(b",\"worker\":");
        decimal(worker.0, out);
    }
    if let Some(generation) = origin.generation {
        out.extend_from_slice(b",\"generation\":");
        decimal(generation.0, out);
    }
    if origin.pid != 0 {
        out.extend_from_slice(b",\"pid\":");
        decimal(origin.pid, out);
    }
}

/// In an object of their own: none of them can pretend to be a key of ours.
fn fields(entry: &Entry<'_>, out: &mut Vec<u8>) {
    let mut before: &[u8] = b",\"fields\":{";
    for (key, value) in entry.fields.iter() {
        out.extend_from_slice(before);
        before = b",";
        string(key, out);
        out.push(b':');
        match value {
            Value::Null | Value::Bool(_) => out.extend_from_slice(shown(value).as_bytes()),
            Value::Number(text) if is_number(text) => out.extend_from_slice(text.as_bytes()),
            Value::Number(text) | Value::Text(text) => string(text, out),
        }
    }
    if !entry.fields.is_empty() {
        out.push(b'}');
    }
}

/// Whether it is a number of JSON's (RFC 8259 section 6) that a reader can hold: whoever has sent it may lie.
fn is_number(text: &str) -> bool {
    let digits = text.strip_prefix('-').unwrap_or(text);
    let whole = digits.bytes().take_while(u8::is_ascii_digit).count();
    if whole == 0 || (whole > 1 && digits.starts_with('0')) {
        return false;
    }
    if whole == digits.len() && whole <= SHORT_LEN_MAX {
        return true;
    }
    // Rust reads more than JSON has: `inf`, `+1`, `1.`, `.5`; the beginning has shut out all but the dot.
    let dot_is_followed = |at: usize| digits[at + 1..].starts_with(|next: char| next.is_ascii_digit());
    digits.find('.').is_none_or(dot_is_followed) && text.parse().is_ok_and(f64::is_finite)
}

fn string(text: &str, out: &mut Vec<u8>) {
    out.push(b'"');
    if has_special(text.as_bytes(), is_escaped) {
        escape(text.as_bytes(), out);
    } else {
        out.extend_from_slice(text.as_bytes());
    }
    out.push(b'"');
}

#[inline(always)]
fn is_escaped(byte: u8) -> bool {
    // No `matches!`, of which the compiler makes branches.
    (byte < 0x20) | (byte == b'"') | (byte == b'\\') | (byte == 0x7f) | (byte == CONTROLS_AHEAD)
}

/// What stands behind the backslash, RFC 8259 section 7: a letter or sign, `u` for the number of the
/// character; 0: no backslash.
const ESCAPES: [u8; 256] = {
    let mut escapes = [0; 256];
    let mut byte = 0;
    while byte < 0x20 {
        escapes[byte] = b'u';
        byte += 1;
    }
    escapes[0x08] = b'b';
    escapes[0x0c] = b'f';
    escapes[b'\n' as usize] = b'n';
    escapes[b'\r' as usize] = b'r';
    escapes[b'\t' as usize] = b't';
    escapes[b'"' as usize] = b'"';
    escapes[b'\\' as usize] = b'\\';
    // JSON does not ask for it; terminals do.
    escapes[0x7f] = b'u';
    escapes[CONTROLS_AHEAD as usize] = CONTROLS_AHEAD;
    escapes
};

fn escape(bytes: &[u8], out: &mut Vec<u8>) {
    let mut copied = 0;
    for (at, &byte) in bytes.iter().enumerate() {
        let (character, len, sign) = match ESCAPES[usize::from(byte)] {
            0 => continue,
            // The second byte of U+0080 to U+009F is the character's number.
            CONTROLS_AHEAD => match bytes.get(at + 1) {
                Some(&next @ ..=0x9f) => (next, 2, b'u'),
                Some(_) | None => continue,
            },
            sign => (byte, 1, sign),
        };
        out.extend_from_slice(&bytes[copied..at]);
        copied = at + len;
        out.extend_from_slice(&[b'\\', sign]);
        if sign == b'u' {
            let digit = |number: u8| b"0123456789abcdef"[usize::from(number)];
            out.extend_from_slice(&[b'0', b'0', digit(character >> 4), digit(character & 0xf)]);
        }
    }
    out.extend_from_slice(&bytes[copied..]);
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;
    use serde_json::{Value as Json, json};

    use super::super::Look;
    use super::super::examples::{entry, fields, worker, written};
    use super::*;

    fn line(origin: &Origin, entry: &Entry<'_>) -> String {
        String::from_utf8(written(Look::Json, origin, entry)).expect("text")
    }

    #[test]
    fn a_record_is_an_object_on_a_line() {
        let out = fields(&[("n", Value::Number("0.5")), ("b", Value::Bool(false)), ("none", Value::Null)]);
        let whole = line(&worker(), &Entry { request: "01ab", sequence: 7, ..entry("a \"b\"\n£\u{9b}", &out) });
        let expected = concat!(
            r#"{"time":"2023-11-14T22:13:20.999999Z","level":"info","target":"app","module":"app::orders","#,
            r#""message":"a \"b\"\n£\u009b","process":"worker 0 generation 1","worker":0,"generation":1,"pid":42,"#,
            r#""sequence":7,"request":"01ab","fields":{"n":0.5,"b":false,"none":null}}"#,
            "\n"
        );
        assert_eq!(whole, expected);
        let least = line(&Origin::default(), &Entry { module: "", ..entry("m", &[]) });
        let expected = r#"{"time":"2023-11-14T22:13:20.999999Z","level":"info","target":"app","message":"m"}"#;
        assert_eq!(least, format!("{expected}\n"));
    }

    #[test]
    fn only_numbers_are_written_as_numbers() {
        let whole = "1".repeat(400);
        let good = ["0", "-0", "7", "-12", "18446744073709551615", "0.5", "-1.5e-7", "1E+3", "100000000000000000000"];
        let bad =
            ["", "-", "+1", "01", "-01", "1.", ".5", "1.e5", "inf", "NaN", "1e", "1e999", "0x1", "1 ", "1}", &whole];
        for text in good {
            assert!(is_number(text), "{text}");
            serde_json::from_str::<Json>(text).expect(text);
        }
        for text in bad {
            assert!(!is_number(text), "{text}");
            let out = fields(&[("n", Value::Number(text))]);
            let read: Json = serde_json::from_str(&line(&worker(), &entry("m", &out))).expect(text);
            assert_eq!(read["fields"]["n"], json!(text));
        }
    }

    #[test]
    fn every_character_is_read_back() {
        let all: String = (0..=0x2ff).filter_map(char::from_u32).collect();
        let line = line(&worker(), &entry(&all, &[]));
        let read: Json = serde_json::from_str(&line).expect("JSON");
        assert_eq!(read["message"], json!(all));
        assert_eq!(line.matches(char::is_control).count(), 1, "the line break");
    }

    proptest! {
        #[test]
        fn whatever_is_said_is_read_back(
            message in any::<String>(), key in any::<String>(), value in ".*", number in "[-+0-9.eEinfNa]{0,12}",
        ) {
            let out = fields(&[(&key, Value::Text(&value)), ("the number", Value::Number(&number))]);
            let said = Entry { target: &key, module: &value, request: &message, ..entry(&message, &out) };
            let line = line(&Origin { name: value.clone(), ..worker() }, &said);
            let body = line.strip_suffix('\n').expect("a line");
            prop_assert!(!body.chars().any(char::is_control));
            let read: Json = serde_json::from_str(body).expect("JSON");
            prop_assert_eq!(&read["message"], &json!(message));
            prop_assert_eq!(&read["target"], &json!(key));
            prop_assert_eq!(&read["fields"][&key], &json!(value));
            match &read["fields"]["the number"] {
                Json::String(text) => prop_assert_eq!(text, &number),
                other => prop_assert!(other.is_number()),
            }
        }
    }
}
