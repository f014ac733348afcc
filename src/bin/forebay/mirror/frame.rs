//! Server-Sent Events as followers get them: text that is made once for all of them.

use std::fmt;
use std::str::FromStr;

use axum::body::Bytes;

/// A place in the stream of changes: `epoch-sequence`, the id of the event there.
///
/// The helper counts, so that it means the same in all workers; a new helper begins a new epoch.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct Position {
    pub(crate) epoch: u64,
    pub(crate) sequence: u64,
}

/// The events of one change.
#[derive(Clone, Debug, PartialEq)]
pub(super) struct Frame {
    pub(super) position: Position,
    pub(super) text: Bytes,
}

impl Position {
    /// Whether it lies in the same epoch and not beyond `other`.
    pub(super) fn is_until(self, other: Self) -> bool {
        self.epoch == other.epoch && self.sequence <= other.sequence
    }
}

impl fmt::Display for Position {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}-{}", self.epoch, self.sequence)
    }
}

impl FromStr for Position {
    type Err = ();

    fn from_str(text: &str) -> Result<Self, ()> {
        let number = |text: &str| text.parse().map_err(|_| ());
        let (epoch, sequence) = text.split_once('-').ok_or(())?;
        Ok(Self { epoch: number(epoch)?, sequence: number(sequence)? })
    }
}

/// Events by name, with their JSON, which is one line.
///
/// The last one carries the id: who has seen only some of them asks for all again.
pub(super) fn text(position: Position, events: &[(&str, &[u8])]) -> Bytes {
    let mut text = Vec::new();
    for (at, (name, json)) in events.iter().enumerate() {
        if at + 1 == events.len() {
            text.extend_from_slice(format!("id: {position}\n").as_bytes());
        }
        text.extend_from_slice(format!("event: {name}\ndata: ").as_bytes());
        text.extend_from_slice(json);
        text.extend_from_slice(b"\n\n");
    }
    Bytes::from(text)
}

/// A snapshot in pieces, so that many clients that come at once share the long one.
pub(super) fn snapshot(position: Position, list: Bytes) -> [Bytes; 3] {
    let head = format!("id: {position}\nevent: snapshot\ndata: ");
    [head.into(), list, Bytes::from_static(b"\n\n")]
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn positions_are_read_as_they_are_written() {
        let position = Position { epoch: u64::MAX, sequence: 7 };
        assert_eq!(position.to_string().parse(), Ok(position));
        for text in ["", "-", "7", "7-", "-7", "1-2-3", "a-b", "1-99999999999999999999"] {
            assert_eq!(text.parse::<Position>(), Err(()), "{text}");
        }
    }

    #[test]
    fn the_last_event_has_the_id() {
        let position = Position { epoch: 3, sequence: 4 };
        let text = text(position, &[("a", b"{}"), ("b", b"[1]")]);
        assert_eq!(text, "event: a\ndata: {}\n\nid: 3-4\nevent: b\ndata: [1]\n\n");
        let pieces = snapshot(position, Bytes::from_static(b"[]"));
        assert_eq!(pieces.concat(), super::text(position, &[("snapshot", b"[]")]));
    }
}
