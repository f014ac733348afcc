//! The Common Log Format: a line for each request, as Apache writes it.
//!
//! `%h %l %u %t "%r" %>s %b` of mod_log_config (<https://httpd.apache.org/docs/2.4/mod/mod_log_config.html>),
//! escaped as its section "Format Notes" says.

use std::io::Write;
use std::net::SocketAddr;

use super::plain::has_special;
use super::stamp::Stamp;
use super::text;
use crate::log::record::{ACCESS, Entry, Fields, Origin, Value};

/// What stands for something that nobody knows.
const MISSING: &str = "-";

/// More than a line has beside the texts of its record.
const FRAME_LEN_MAX: usize = 128;

pub(super) fn write(stamp: &mut Stamp, origin: &Origin, entry: &Entry<'_>, out: &mut Vec<u8>) {
    if entry.target != ACCESS {
        return text::write(false, stamp, origin, entry, out);
    }
    let request = Request::of(entry.fields);
    out.reserve(FRAME_LEN_MAX + entry.fields.bytes().len());
    peer(request.peer, out);
    out.extend_from_slice(b" - - [");
    out.extend_from_slice(stamp.common(entry.time_us));
    out.extend_from_slice(b"] \"");
    request.line(out);
    out.extend_from_slice(b"\" ");
    escape(request.status, Blanks::Escaped, out);
    out.push(b' ');
    // `%b`: "a '-' rather than a 0 when no bytes are sent".
    escape(if request.bytes == "0" { MISSING } else { request.bytes }, Blanks::Escaped, out);
    out.push(b'\n');
}

/// What an access record says, as far as the format shows it.
struct Request<'a> {
    peer: &'a str,
    method: &'a str,
    path: &'a str,
    version: &'a str,
    status: &'a str,
    bytes: &'a str,
}

impl<'a> Request<'a> {
    fn of(fields: Fields<'a>) -> Self {
        let mut request =
            Self { peer: MISSING, method: MISSING, path: MISSING, version: MISSING, status: MISSING, bytes: MISSING };
        for (key, value) in fields.iter() {
            let place = match key {
                "peer" => &mut request.peer,
                "method" => &mut request.method,
                "path" => &mut request.path,
                "version" => &mut request.version,
                "status" => &mut request.status,
                "bytes" => &mut request.bytes,
                _ => continue,
            };
            match value {
                Value::Text(text) | Value::Number(text) if !text.is_empty() => *place = text,
                Value::Text(_) | Value::Number(_) | Value::Null | Value::Bool(_) => {}
            }
        }
        request
    }

    /// `GET /a HTTP/1.1`, or `-` if nothing of it is known.
    fn line(&self, out: &mut Vec<u8>) {
        if [self.method, self.path, self.version] == [MISSING; 3] {
            out.extend_from_slice(MISSING.as_bytes());
            return;
        }
        escape(self.method, Blanks::Escaped, out);
        out.push(b' ');
        escape(self.path, Blanks::Kept, out);
        out.push(b' ');
        escape(self.version, Blanks::Escaped, out);
    }
}

/// The address without the port: `%h` is a host.
fn peer(peer: &str, out: &mut Vec<u8>) {
    // An address of version 4 without a port, as workers tell it, is what is to be written.
    match peer.contains(':').then(|| peer.parse::<SocketAddr>()) {
        Some(Ok(address)) => {
            // A vector takes everything.
            let _ = write!(out, "{}", address.ip());
        }
        Some(Err(_)) | None => escape(peer, Blanks::Escaped, out),
    }
}

/// Where a blank would end a part of the line, it is escaped too.
#[derive(Clone, Copy)]
enum Blanks {
    Kept,
    Escaped,
}

/// "Non-printable and other special characters [...] are escaped using \xhh sequences [...] Exceptions from
/// this rule are " and \, which are escaped by prepending a backslash, and all whitespace characters, which are
/// written in their C-style notation".
fn escape(text: &str, blanks: Blanks, out: &mut Vec<u8>) {
    let is_plain_blank = matches!(blanks, Blanks::Kept);
    let is_special = |byte: u8| {
        !(0x20..0x7f).contains(&byte) | (byte == b'"') | (byte == b'\\') | ((byte == b' ') & !is_plain_blank)
    };
    if !has_special(text.as_bytes(), is_special) {
        out.extend_from_slice(text.as_bytes());
        return;
    }
    for byte in text.bytes() {
        match byte {
            byte if !is_special(byte) => out.push(byte),
            b'"' => out.extend_from_slice(b"\\\""),
            b'\\' => out.extend_from_slice(b"\\\\"),
            b'\n' => out.extend_from_slice(b"\\n"),
            b'\r' => out.extend_from_slice(b"\\r"),
            b'\t' => out.extend_from_slice(b"\\t"),
            0x0b => out.extend_from_slice(b"\\v"),
            0x0c => out.extend_from_slice(b"\\f"),
            byte => {
                let _ = write!(out, "\\x{byte:02x}");
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::super::Look;
    use super::super::examples::{entry, fields, worker, written};
    use super::*;

    fn line(pairs: &[(&str, Value<'_>)]) -> String {
        let out = fields(pairs);
        let said = Entry { target: ACCESS, ..entry("", &out) };
        String::from_utf8(written(Look::Common, &worker(), &said)).expect("text")
    }

    fn request(path: &str) -> String {
        let peer = ("peer", Value::Text("[2001:db8::1]:4711"));
        let answer = [("status", Value::Number("200")), ("bytes", Value::Number("2326"))];
        let request =
            [("method", Value::Text("GET")), ("path", Value::Text(path)), ("version", Value::Text("HTTP/1.1"))];
        line(&[[peer].as_slice(), &request, &answer].concat())
    }

    #[test]
    fn a_request_is_a_line_of_apaches() {
        let table = [
            ("/a", "/a"),
            ("/a b", "/a b"),
            ("/\"\\", "/\\\"\\\\"),
            ("/\n\r\t\x0b\x0c", "/\\n\\r\\t\\v\\f"),
            ("/\x1b\x7fé", "/\\x1b\\x7f\\xc3\\xa9"),
        ];
        for (path, shown) in table {
            let expected = format!("2001:db8::1 - - [14/Nov/2023:22:13:20 +0000] \"GET {shown} HTTP/1.1\" 200 2326\n");
            assert_eq!(request(path), expected);
        }
    }

    #[test]
    fn what_is_missing_is_a_dash() {
        type Row<'a> = (&'a [(&'a str, Value<'a>)], &'a str, &'a str);
        let table: [Row<'_>; 4] = [
            (&[], "-", "\"-\" - -"),
            (&[("path", Value::Text(""))], "-", "\"-\" - -"),
            (&[("method", Value::Text("GET")), ("bytes", Value::Number("0"))], "-", "\"GET - -\" - -"),
            (&[("peer", Value::Text("a b\"")), ("status", Value::Text("2 0"))], "a\\x20b\\\"", "\"-\" 2\\x200 -"),
        ];
        for (pairs, peer, rest) in table {
            assert_eq!(line(pairs), format!("{peer} - - [14/Nov/2023:22:13:20 +0000] {rest}\n"));
        }
    }

    #[test]
    fn other_records_are_text() {
        let out = String::from_utf8(written(Look::Common, &worker(), &entry("m", &[]))).expect("text");
        assert_eq!(out, "[2023-11-14T22:13:20Z INFO  app worker 0 generation 1] m\n");
    }

    proptest! {
        #[test]
        fn whatever_is_asked_is_one_line(path in any::<String>()) {
            let line = request(&path);
            let body = line.strip_suffix('\n').expect("a line");
            prop_assert!(body.bytes().all(|byte| (0x20..0x7f).contains(&byte)));
            let quotes = body.replace("\\\\", "").replace("\\\"", "").matches('"').count();
            prop_assert_eq!(quotes, 2);
        }
    }
}
