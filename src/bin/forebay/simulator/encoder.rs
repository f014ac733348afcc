//! Events as bytes: Server-Sent Events with every freedom that the format leaves, and cuts in bad places.

use std::time::Duration;

use hyper::body::Bytes;
use serde::Deserialize;

use super::changes::Event;

/// The byte order mark that may stand at a stream's very start.
pub(super) const BYTE_ORDER_MARK: &[u8] = "\u{feff}".as_bytes();

/// How events are laid out.
#[derive(Clone, Copy, Debug, Default, Deserialize, PartialEq)]
#[serde(default, deny_unknown_fields)]
pub(super) struct Framing {
    pub(super) line_ending: LineEnding,
    /// Data in several `data:` lines.
    pub(super) multi_line: bool,
    /// A comment line before each event and within it.
    pub(super) comments: bool,
    /// For streams that open from now on.
    pub(super) byte_order_mark: bool,
    /// Byte by byte with this pause; 0 is at once.
    pub(super) drip_ms: u16,
}

#[derive(Clone, Copy, Debug, Default, Deserialize, PartialEq)]
#[serde(rename_all = "snake_case")]
pub(super) enum LineEnding {
    #[default]
    Lf,
    Cr,
    Crlf,
}

/// Where an event is cut in two.
#[derive(Clone, Copy, Debug, Deserialize, PartialEq)]
#[serde(rename_all = "snake_case")]
pub(super) enum CutAt {
    /// Between the two bytes of `ü`; in the middle of the data when it has only ASCII.
    Character,
    /// In the middle of the first `data:` line.
    Data,
    /// Before the last byte, which with CRLF is between the two of a line's end.
    LineEnd,
}

impl Framing {
    pub(super) fn drip(&self) -> Option<Duration> {
        (self.drip_ms > 0).then(|| Duration::from_millis(u64::from(self.drip_ms)))
    }

    pub(super) fn encode(&self, event: &Event) -> Bytes {
        let mut text = String::new();
        if self.comments {
            self.line(&mut text, ": a comment");
        }
        self.line(&mut text, &format!("event: {}", event.name));
        // JSON has no line ends of its own, so its pretty form is what makes several lines.
        let data = if self.multi_line { format!("{:#}", event.data) } else { event.data.to_string() };
        for line in data.lines() {
            self.line(&mut text, &format!("data: {line}"));
            if self.comments {
                self.line(&mut text, ":");
            }
        }
        self.line(&mut text, "");
        text.into()
    }

    pub(super) fn comment(&self) -> Bytes {
        let mut text = String::new();
        self.line(&mut text, ": nothing to say");
        self.line(&mut text, "");
        text.into()
    }

    fn line(&self, text: &mut String, line: &str) {
        text.push_str(line);
        text.push_str(match self.line_ending {
            LineEnding::Lf => "\n",
            LineEnding::Cr => "\r",
            LineEnding::Crlf => "\r\n",
        });
    }
}

/// The length of the first part.
pub(super) fn cut_point(event: &[u8], at: CutAt) -> usize {
    let leading = |byte: &u8| *byte >= 0b1100_0000;
    match (at, event.iter().position(leading)) {
        (CutAt::Character, Some(start)) => start + 1,
        (CutAt::Character, None) | (CutAt::Data, _) => {
            let start = event.windows(5).position(|window| window == b"data:").unwrap_or(0);
            let line = event[start..].iter().position(|byte| matches!(byte, b'\r' | b'\n'));
            start + line.unwrap_or(event.len() - start) / 2
        }
        (CutAt::LineEnd, _) => event.len().saturating_sub(1),
    }
}

#[cfg(test)]
mod tests {
    use serde_json::{Value, json};

    use super::*;

    #[test]
    fn events_have_their_line_ending() {
        let event = Event { name: "put", data: json!({"a": "ü"}) };
        let table = [
            (LineEnding::Lf, "event: put\ndata: {\"a\":\"ü\"}\n\n"),
            (LineEnding::Cr, "event: put\rdata: {\"a\":\"ü\"}\r\r"),
            (LineEnding::Crlf, "event: put\r\ndata: {\"a\":\"ü\"}\r\n\r\n"),
        ];
        for (line_ending, expected) in table {
            let framing = Framing { line_ending, ..Framing::default() };
            assert_eq!(framing.encode(&event), expected, "{line_ending:?}");
        }
    }

    #[test]
    fn null_is_written_out() {
        let event = Event { name: "keep-alive", data: Value::Null };
        assert_eq!(Framing::default().encode(&event), "event: keep-alive\ndata: null\n\n");
    }

    #[test]
    fn data_goes_over_several_lines_among_comments() {
        let event = Event { name: "put", data: json!({"a": [1]}) };
        let framing = Framing { multi_line: true, comments: true, ..Framing::default() };
        let expected = ": a comment\nevent: put\n\
            data: {\n:\ndata:   \"a\": [\n:\ndata:     1\n:\ndata:   ]\n:\ndata: }\n:\n\n";
        assert_eq!(framing.encode(&event), expected);
        assert_eq!(framing.comment(), ": nothing to say\n\n");
    }

    #[test]
    fn cuts_fall_where_they_hurt() {
        let event = "event: put\r\ndata: \"Küche\"\r\n\r\n".as_bytes();
        let character = cut_point(event, CutAt::Character);
        assert!(std::str::from_utf8(&event[..character]).is_err());
        assert_eq!(event[character - 1..=character], *"ü".as_bytes());
        let data = cut_point(event, CutAt::Data);
        assert_eq!(&event[..data], b"event: put\r\ndata: \"");
        assert_eq!(event[cut_point(event, CutAt::LineEnd)..], *b"\n");
        assert_eq!(cut_point(b"event: put\ndata: null\n\n", CutAt::Character), 16);
        for at in [CutAt::Character, CutAt::Data, CutAt::LineEnd] {
            assert_eq!(cut_point(b"", at), 0);
        }
    }
}
