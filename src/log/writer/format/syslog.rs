//! RFC 5424: `<14>1 2023-11-14T22:13:20.999999Z HOST PROGRAM PID TARGET [structured data] MESSAGE`.

use super::plain::has_special;
use super::stamp::Stamp;
use super::{Names, decimal, severity, shown};
use crate::log::record::{Entry, Origin};

/// The longest datagram: what rsyslog takes unless told otherwise (`maxMessageSize`). Of a longer message the
/// end is cut off, as section 6.1 has it.
const DATAGRAM_LEN_MAX: usize = 8 * 1024;

/// What stands before the message has at most so many bytes: who cuts a datagram to no less than this cuts
/// the message only, and what is left is valid.
pub(in crate::log::writer) const HEAD_LEN_MAX: usize = 4 * 1024;

/// The limits of section 6.
const HOST_LEN_MAX: usize = 255;
const PROGRAM_LEN_MAX: usize = 48;
const TARGET_LEN_MAX: usize = 32;
const NAME_LEN_MAX: usize = 32;
const FACILITY_MAX: u8 = 23;

/// More than a datagram has beside the texts of its record.
const FRAME_LEN_MAX: usize = 1024;

/// Left in the head for the brackets, and for the number of fields that it has no room for.
const RESERVED_LEN: usize = 64;

/// Who has said it. An SD-ID without `@` must be one that IANA knows (section 6.3.2), and none of those says
/// which of a program's processes it was; behind the `@` belongs an enterprise's number. The project has none:
/// this one is set aside for examples (RFC 5612), so nobody else's data can be mistaken for ours.
const ORIGIN_ID: &[u8] = b"forebay@32473";

/// What the application says beside the message: apart, so that its keys and ours cannot be mixed up.
const FIELDS_ID: &[u8] = b"fields@32473";

const BYTE_ORDER_MARK: &[u8] = "\u{feff}".as_bytes();

/// ` HOST PROGRAM `.
pub(super) fn names(names: &Names) -> Vec<u8> {
    let mut out = vec![b' '];
    word(&names.host, HOST_LEN_MAX, &mut out);
    out.push(b' ');
    word(&names.program, PROGRAM_LEN_MAX, &mut out);
    out.push(b' ');
    out
}

pub(super) fn write(
    facility: u8,
    names: &[u8],
    stamp: &mut Stamp,
    origin: &Origin,
    entry: &Entry<'_>,
    out: &mut Vec<u8>,
) {
    let start = out.len();
    out.reserve(FRAME_LEN_MAX + entry.fields.bytes().len() + entry.message.len().min(DATAGRAM_LEN_MAX));
    out.push(b'<');
    decimal(u32::from(facility.min(FACILITY_MAX)) * 8 + u32::from(severity(entry.level)), out);
    out.extend_from_slice(b">1 ");
    stamp.write_microseconds(entry.time_us, out);
    out.extend_from_slice(names);
    if origin.pid == 0 {
        out.push(b'-')
    } else {
        decimal(origin.pid, out)
    }
    out.push(b' ');
    word(entry.target, TARGET_LEN_MAX, out);
    out.push(b' ');
    let mut data = StructuredData { out, end: start + HEAD_LEN_MAX - RESERVED_LEN, left_out: 0 };
    data.write(origin, entry);
    message(entry.message, start + DATAGRAM_LEN_MAX, out);
}

/// Section 6.4: ASCII is any octets, other text begins with the mark. An empty one is left away.
fn message(message: &str, end: usize, out: &mut Vec<u8>) {
    if message.is_empty() {
        return;
    }
    out.push(b' ');
    if !message.is_ascii() {
        out.extend_from_slice(BYTE_ORDER_MARK);
    }
    let room = end.saturating_sub(out.len());
    out.extend_from_slice(&message.as_bytes()[..message.floor_char_boundary(room)]);
}

/// Printable ASCII without blanks, `_` for the rest, at most so long; `-` for nothing.
fn word(text: &str, len_max: usize, out: &mut Vec<u8>) {
    let printable = |character: char| if character.is_ascii_graphic() { character as u8 } else { b'_' };
    match text {
        "" => out.push(b'-'),
        text if text.len() <= len_max && is_word(text) => out.extend_from_slice(text.as_bytes()),
        text => out.extend(text.chars().take(len_max).map(printable)),
    }
}

fn is_word(text: &str) -> bool {
    !has_special(text.as_bytes(), |byte| !byte.is_ascii_graphic())
}

/// PARAM-NAME, section 6.3.3.
fn name(key: &str, out: &mut Vec<u8>) {
    let is_special = |byte: u8| !byte.is_ascii_graphic() | (byte == b'=') | (byte == b']') | (byte == b'"');
    let is_plain = |character: char| character.is_ascii() && !is_special(character as u8);
    let plain = |character: char| if is_plain(character) { character as u8 } else { b'_' };
    match key {
        "" => out.push(b'_'),
        key if key.len() <= NAME_LEN_MAX && !has_special(key.as_bytes(), is_special) => {
            out.extend_from_slice(key.as_bytes());
        }
        key => out.extend(key.chars().take(NAME_LEN_MAX).map(plain)),
    }
}

/// STRUCTURED-DATA, section 6.3, as far as there is room.
struct StructuredData<'a> {
    out: &'a mut Vec<u8>,
    /// Where the room ends.
    end: usize,
    left_out: u32,
}

impl StructuredData<'_> {
    fn write(&mut self, origin: &Origin, entry: &Entry<'_>) {
        let start = self.out.len();
        self.begin(ORIGIN_ID);
        let begun = self.out.len();
        self.origin(origin, entry);
        if self.out.len() == begun {
            self.out.truncate(start);
        } else {
            self.out.push(b']');
        }
        if !entry.fields.is_empty() {
            self.begin(FIELDS_ID);
            entry.fields.iter().for_each(|(key, value)| self.text(key, shown(value)));
            if self.left_out > 0 {
                self.end = usize::MAX;
                self.number("left_out", self.left_out);
            }
            self.out.push(b']');
        }
        if self.out.len() == start {
            self.out.push(b'-');
        }
    }

    fn begin(&mut self, id: &[u8]) {
        self.out.push(b'[');
        self.out.extend_from_slice(id);
    }

    fn origin(&mut self, origin: &Origin, entry: &Entry<'_>) {
        if !origin.name.is_empty() {
            self.text("process", &origin.name);
        }
        if let Some(worker) = origin.worker {
            self.number("worker", worker.0);
        }
        if let Some(generation) = origin.generation {
            self.number("generation", generation.0);
        }
        if entry.sequence != 0 {
            self.number("sequence", entry.sequence);
        }
        if !entry.request.is_empty() {
            self.text("request", entry.request);
        }
        // What the header could not take as it is.
        if entry.target.len() > TARGET_LEN_MAX || !is_word(entry.target) {
            self.text("target", entry.target);
        }
    }

    fn number(&mut self, key: &str, number: impl itoa::Integer) {
        self.text(key, itoa::Buffer::new().format(number));
    }

    /// A parameter: without the end of its value if there is no room for that, or not at all.
    fn text(&mut self, key: &str, value: &str) {
        let start = self.out.len();
        self.out.push(b' ');
        name(key, self.out);
        self.out.extend_from_slice(b"=\"");
        let begun = self.out.len();
        // One byte for the quote behind it.
        let complete = self.value(value, self.end.saturating_sub(1));
        if self.out.len() >= self.end || (self.out.len() == begun && !complete) {
            self.out.truncate(start);
            self.left_out += 1;
        } else {
            self.out.push(b'"');
        }
    }

    /// PARAM-VALUE: a backslash before each `"`, `\` and `]`.
    fn value(&mut self, value: &str, end: usize) -> bool {
        if self.out.len() + value.len() <= end && !has_special(value.as_bytes(), is_escaped) {
            self.out.extend_from_slice(value.as_bytes());
            return true;
        }
        let mut utf8 = [0; 4];
        for character in value.chars() {
            let is_escaped = character.is_ascii() && is_escaped(character as u8);
            if self.out.len() + usize::from(is_escaped) + character.len_utf8() > end {
                return false;
            }
            if is_escaped {
                self.out.push(b'\\');
            }
            self.out.extend_from_slice(character.encode_utf8(&mut utf8).as_bytes());
        }
        true
    }
}

#[inline(always)]
fn is_escaped(byte: u8) -> bool {
    (byte == b'"') | (byte == b'\\') | (byte == b']')
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::super::Look;
    use super::super::examples::{entry, fields, worker, written};
    use super::*;
    use crate::contract::ids::{Generation, Slot};
    use crate::log::record::Value;

    fn datagram(origin: &Origin, entry: &Entry<'_>) -> Vec<u8> {
        written(Look::Syslog { facility: 1 }, origin, entry)
    }

    /// SYSLOG-MSG, by the grammar of section 6.
    #[derive(Debug, PartialEq)]
    struct Parsed {
        header: Vec<String>,
        data: Vec<(String, Vec<(String, String)>)>,
        message: Option<String>,
    }

    struct Parser<'a>(&'a [u8]);

    impl Parser<'_> {
        fn expect(&mut self, text: &[u8]) {
            self.0 = self.0.strip_prefix(text).unwrap_or_else(|| panic!("{text:?} before {:?}", self.0));
        }

        fn run(&mut self, len_max: usize, is_part: impl Fn(u8) -> bool) -> String {
            let len = self.0.iter().take_while(|&&byte| is_part(byte)).count();
            assert!((1..=len_max).contains(&len), "{len} of {len_max}");
            let (run, rest) = self.0.split_at(len);
            self.0 = rest;
            String::from_utf8(run.to_vec()).expect("ASCII")
        }

        fn message(mut self) -> Parsed {
            self.expect(b"<");
            let mut header = vec![self.run(3, |byte| byte.is_ascii_digit())];
            self.expect(b">1 ");
            for len_max in [32, 255, 48, 128, 32] {
                header.push(self.run(len_max, |byte| byte.is_ascii_graphic()));
                self.expect(b" ");
            }
            let mut data = Vec::new();
            if self.0.starts_with(b"-") {
                self.expect(b"-");
            } else {
                data.push(self.element());
            }
            while self.0.starts_with(b"[") {
                data.push(self.element());
            }
            let message = (!self.0.is_empty()).then(|| {
                self.expect(b" ");
                let text = self.0.strip_prefix(BYTE_ORDER_MARK);
                assert!(text.is_some() || self.0.is_ascii());
                String::from_utf8(text.unwrap_or(self.0).to_vec()).expect("UTF-8")
            });
            Parsed { header, data, message }
        }

        fn element(&mut self) -> (String, Vec<(String, String)>) {
            let is_name = |byte: u8| byte.is_ascii_graphic() && !b"=]\"".contains(&byte);
            self.expect(b"[");
            let id = self.run(32, is_name);
            let mut parameters = Vec::new();
            while self.0.starts_with(b" ") {
                self.expect(b" ");
                let name = self.run(32, is_name);
                self.expect(b"=\"");
                parameters.push((name, self.value()));
                self.expect(b"\"");
            }
            self.expect(b"]");
            (id, parameters)
        }

        fn value(&mut self) -> String {
            let mut value = Vec::new();
            loop {
                match self.0 {
                    [b'"', ..] => return String::from_utf8(value).expect("UTF-8"),
                    [b'\\', escaped @ (b'"' | b'\\' | b']'), rest @ ..] => {
                        value.push(*escaped);
                        self.0 = rest;
                    }
                    [b']' | b'\\', ..] | [] => panic!("not escaped: {:?}", self.0),
                    [byte, rest @ ..] => {
                        value.push(*byte);
                        self.0 = rest;
                    }
                }
            }
        }
    }

    #[test]
    fn a_record_is_a_message_of_the_rfc() {
        let out = fields(&[("id", Value::Number("7")), ("a=]\"", Value::Null), ("a é", Value::Text("]\"\\\né"))]);
        let said = Entry { level: log::Level::Error, sequence: 9, request: "01ab", ..entry("two\nlines", &out) };
        let expected = concat!(
            "<11>1 2023-11-14T22:13:20.999999Z example.org shop 42 app ",
            "[forebay@32473 process=\"worker 0 generation 1\" worker=\"0\" generation=\"1\" sequence=\"9\" request=\"01ab\"]",
            "[fields@32473 id=\"7\" a___=\"null\" a__=\"\\]\\\"\\\\\né\"] two\nlines"
        );
        assert_eq!(String::from_utf8_lossy(&datagram(&worker(), &said)), expected);
    }

    #[test]
    fn what_is_not_there_is_left_away() {
        let nobody = Origin::default();
        let table = [
            (entry("m", &[]), "<14>1 2023-11-14T22:13:20.999999Z example.org shop - app - m"),
            (entry("", &[]), "<14>1 2023-11-14T22:13:20.999999Z example.org shop - app -"),
            (entry("é", &[]), "<14>1 2023-11-14T22:13:20.999999Z example.org shop - app - \u{feff}é"),
            (Entry { target: "", ..entry("m", &[]) }, "<14>1 2023-11-14T22:13:20.999999Z example.org shop - - - m"),
            (
                Entry { target: "a é", ..entry("m", &[]) },
                "<14>1 2023-11-14T22:13:20.999999Z example.org shop - a__ [forebay@32473 target=\"a é\"] m",
            ),
        ];
        for (said, expected) in table {
            assert_eq!(String::from_utf8_lossy(&datagram(&nobody, &said)), expected);
        }
    }

    #[test]
    fn levels_are_syslogs() {
        for (level, priority) in log::Level::iter().zip([11, 12, 14, 15, 15]) {
            let out = datagram(&worker(), &Entry { level, ..entry("m", &[]) });
            assert!(out.starts_with(format!("<{priority}>1 ").as_bytes()), "{level}");
        }
        let out = written(Look::Syslog { facility: 255 }, &worker(), &entry("m", &[]));
        assert!(out.starts_with(b"<190>1 "));
    }

    #[test]
    fn names_are_words_of_their_length() {
        let given = Names { program: "é ".repeat(100), host: String::new() };
        assert_eq!(names(&given), format!(" - {} ", "_".repeat(PROGRAM_LEN_MAX)).into_bytes());
    }

    #[test]
    fn a_long_message_loses_its_end() {
        for message in ["x".repeat(20_000), "é".repeat(20_000), format!("x{}", "é".repeat(20_000))] {
            let out = datagram(&worker(), &entry(&message, &[]));
            assert!((DATAGRAM_LEN_MAX - 1..=DATAGRAM_LEN_MAX).contains(&out.len()), "{}", out.len());
            assert!(message.starts_with(&Parser(&out).message().message.expect("a message")));
        }
    }

    #[test]
    fn many_fields_are_counted_that_have_no_room() {
        let text = "]é".repeat(700);
        let out = fields(&[("first", Value::Text(&text)), ("long", Value::Text(&text)), ("last", Value::Text("x"))]);
        let out = datagram(&worker(), &entry("m", &out));
        let parsed = Parser(&out).message();
        let [_, (_, fields)] = &parsed.data[..] else { panic!("{:?}", parsed.data) };
        assert_eq!(fields[0].1, text);
        assert!(fields[1].0 == "long" && fields[1].1.len() < text.len() && text.starts_with(&fields[1].1));
        assert_eq!(fields[2], ("left_out".to_owned(), "1".to_owned()));
        assert_eq!(parsed.message.as_deref(), Some("m"));
        assert!(out.len() <= HEAD_LEN_MAX + 2);
    }

    proptest! {
        #[test]
        fn whatever_is_said_is_read_back(
            message in any::<String>(), key in any::<String>(), value in any::<String>(), times in 1..3000_usize,
        ) {
            let long = value.repeat(times);
            let out = fields(&[(&key, Value::Text(&value)), (&value, Value::Text(&long)), (&key, Value::Text("x"))]);
            let said = Entry { target: &key, sequence: u64::MAX, request: &value, ..entry(&message, &out) };
            let origin = Origin { worker: Some(Slot(9)), generation: Some(Generation(u32::MAX)), ..worker() };
            let out = datagram(&origin, &said);
            prop_assert!(out.len() <= DATAGRAM_LEN_MAX);
            let parsed = Parser(&out).message();
            let head = out.len() - parsed.message.as_ref().map_or(0, String::len);
            prop_assert!(head <= HEAD_LEN_MAX + BYTE_ORDER_MARK.len() + 1);
            prop_assert_eq!(parsed.message.unwrap_or_default(), message);
            prop_assert_eq!(&parsed.data[1].1[0].1, &value);
        }
    }
}
