//! The upstream's stream: from the bytes of its body to its messages.
//!
//! Server-Sent Events by `sse-stream`, which takes any line ending, cuts anywhere and a byte order
//! mark, and ends with an error on text that is no UTF-8. It keeps an unfinished event of any
//! length, so the bytes are counted on their way into it.

use std::cell::Cell;
use std::io;
use std::pin::Pin;
use std::rc::Rc;
use std::task::{Context, Poll};

use forebay::BoxError;
use futures_util::stream::LocalBoxStream;
use futures_util::{Stream, StreamExt, TryStreamExt};
use http_body_util::BodyDataStream;
use hyper::body::{Body, Bytes};
use serde::Deserialize;
use serde_json::Value;
use sse_stream::{Sse, SseByteStream};

use super::error_chain;

/// The longest event, in bytes, with the comments before it. What one chunk brings beyond it is
/// taken, too: an event that ends in it may have begun in it.
const EVENT_LEN_MAX: usize = 16 * 1024 * 1024;

/// What the upstream says.
#[derive(Debug, PartialEq)]
pub(crate) enum Message {
    /// It has accepted; the document follows.
    Open,
    /// It is there.
    KeepAlive,
    /// The value at the path is replaced.
    Put { path: String, data: Value },
    /// The members of the value at the path are replaced, others stay.
    Patch { path: String, data: Value },
    /// We may no longer read.
    Cancel(String),
    /// The token is no longer valid.
    AuthRevoked(String),
    /// It has failed.
    Error(String),
    /// Something of a later version.
    Other(String),
}

/// Why there are no more messages.
#[derive(Clone, Debug, PartialEq)]
pub(crate) enum Stop {
    /// The upstream has ended the stream, as it may.
    Ended,
    /// It broke, or makes no sense.
    Broken(String),
}

/// Reads messages from a body. Dropping it closes the connection.
pub(crate) struct Messages {
    events: SseByteStream<Counted>,
    /// How many bytes have come since the last event.
    since_event: Rc<Cell<usize>>,
}

#[derive(Deserialize)]
struct Change {
    path: String,
    data: Value,
}

impl Messages {
    pub(crate) fn new<B>(body: B) -> Self
    where
        B: Body<Data = Bytes> + 'static,
        B::Error: Into<BoxError>,
    {
        Self::bounded(BodyDataStream::new(body).map_err(io::Error::other), EVENT_LEN_MAX)
    }

    fn bounded(bytes: impl Stream<Item = io::Result<Bytes>> + 'static, event_len_max: usize) -> Self {
        let since_event = Rc::new(Cell::new(0));
        let bytes = Counted { bytes: bytes.boxed_local(), since_event: since_event.clone(), event_len_max };
        Self { events: SseByteStream::new(bytes), since_event }
    }

    /// The next message, or why there is none: after that there is none ever.
    pub(crate) async fn next(&mut self) -> Result<Message, Stop> {
        match self.events.next().await {
            Some(Ok(event)) => {
                self.since_event.set(0);
                message(event).map_err(Stop::Broken)
            }
            Some(Err(error)) => Err(Stop::Broken(format!("the stream broke: {}", error_chain(&error)))),
            None => Err(Stop::Ended),
        }
    }
}

fn message(event: Sse) -> Result<Message, String> {
    let name = event.event.unwrap_or_default();
    let data = event.data.unwrap_or_default();
    let change = |data: &str| {
        serde_json::from_str::<Change>(data)
            .map_err(|error| format!("the upstream sent a {name} without sense: {error}"))
    };
    Ok(match name.as_str() {
        "open" => Message::Open,
        "keep-alive" => Message::KeepAlive,
        "put" => {
            let Change { path, data } = change(&data)?;
            Message::Put { path, data }
        }
        "patch" => {
            let Change { path, data } = change(&data)?;
            Message::Patch { path, data }
        }
        "cancel" => Message::Cancel(data),
        "auth_revoked" => Message::AuthRevoked(data),
        "error" => Message::Error(data),
        _ => Message::Other(name),
    })
}

/// A body's bytes, counted: an event that is too long ends them with an error.
struct Counted {
    bytes: LocalBoxStream<'static, io::Result<Bytes>>,
    since_event: Rc<Cell<usize>>,
    event_len_max: usize,
}

impl Stream for Counted {
    type Item = io::Result<Bytes>;

    fn poll_next(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<Option<Self::Item>> {
        if self.since_event.get() > self.event_len_max {
            let why = format!("an event is longer than {} bytes", self.event_len_max);
            return Poll::Ready(Some(Err(io::Error::other(why))));
        }
        let poll = self.bytes.poll_next_unpin(context);
        if let Poll::Ready(Some(Ok(bytes))) = &poll {
            self.since_event.set(self.since_event.get() + bytes.len());
        }
        poll
    }
}

#[cfg(test)]
mod tests {
    use futures_util::stream;
    use proptest::prelude::*;
    use serde_json::json;

    use super::*;

    /// Every kind of line; `↵` is a line ending.
    const TEXT: &str = concat!(
        ": a comment↵↵event: open↵data: null↵↵",
        "event: put↵data: {\"path\":\"/\",\"data\":{\"label\":\"Küche 🌡\"}}↵↵",
        ":↵event:keep-alive↵data:null↵↵↵↵",
        "id: 7↵retry: 10↵unknown: x↵event: patch↵data: {\"path\":\"/a\",↵data: \"data\":↵: between↵data: 21.50}↵↵",
        "event: put↵data:  {\"path\":\"/b\",\"data\":null}↵↵",
        "event: auth_revoked↵data: gone↵↵",
        "event: what↵↵",
        "event: cut↵data: {\"pa",
    );

    fn expected() -> Vec<Result<Message, Stop>> {
        vec![
            Ok(Message::Open),
            Ok(Message::Put { path: "/".to_owned(), data: json!({"label": "Küche 🌡"}) }),
            Ok(Message::KeepAlive),
            Ok(Message::Patch { path: "/a".to_owned(), data: json!(21.5) }),
            Ok(Message::Put { path: "/b".to_owned(), data: Value::Null }),
            Ok(Message::AuthRevoked("gone".to_owned())),
            Ok(Message::Other("what".to_owned())),
            Err(Stop::Ended),
        ]
    }

    /// All messages of a body that comes in these pieces, and why it ended.
    fn read_bounded(pieces: Vec<Bytes>, event_len_max: usize) -> Vec<Result<Message, Stop>> {
        let mut messages = Messages::bounded(stream::iter(pieces.into_iter().map(Ok)), event_len_max);
        let mut read = Vec::new();
        loop {
            let next = futures_util::FutureExt::now_or_never(messages.next()).expect("all bytes are there");
            let ended = next.is_err();
            read.push(next);
            if ended {
                return read;
            }
        }
    }

    fn read(pieces: Vec<Bytes>) -> Vec<Result<Message, Stop>> {
        read_bounded(pieces, EVENT_LEN_MAX)
    }

    fn texts() -> Vec<Bytes> {
        let endings = ["\n", "\r", "\r\n"].into_iter().map(|ending| TEXT.replace('↵', ending));
        endings.flat_map(|text| [format!("\u{feff}{text}"), text]).map(Bytes::from).collect()
    }

    /// The endings by turns, in an order in which none runs into the next.
    fn mixed(first: usize) -> Bytes {
        let mut endings = ["\n", "\r", "\r\n"].into_iter().cycle().skip(first);
        TEXT.chars()
            .map(|c| if c == '↵' { endings.next().expect("endless").to_owned() } else { c.to_string() })
            .collect::<String>()
            .into()
    }

    #[test]
    fn every_line_ending_and_every_cut() {
        for text in texts().into_iter().chain((0..3).map(mixed)) {
            assert_eq!(read(vec![text.clone()]), expected());
            for cut in 0..=text.len() {
                let pieces = vec![text.slice(..cut), text.slice(cut..)];
                assert_eq!(read(pieces), expected(), "cut at {cut} of {text:?}");
            }
            let bytes = (0..text.len()).map(|at| text.slice(at..=at)).collect();
            assert_eq!(read(bytes), expected(), "single bytes of {text:?}");
        }
    }

    proptest! {
        #[test]
        fn any_pieces(which in 0_usize..6, cuts in proptest::collection::vec(0_usize..600, 0..20)) {
            let text = texts().swap_remove(which);
            let mut cuts: Vec<usize> = cuts.into_iter().map(|cut| cut.min(text.len())).collect();
            cuts.extend([0, text.len()]);
            cuts.sort_unstable();
            let pieces = cuts.windows(2).map(|ends| text.slice(ends[0]..ends[1])).collect();
            prop_assert_eq!(read(pieces), expected());
        }

        #[test]
        fn any_bytes_end_without_a_panic(pieces in proptest::collection::vec(proptest::collection::vec(any::<u8>(), 0..40), 0..20)) {
            let read = read(pieces.into_iter().map(Bytes::from).collect());
            prop_assert!(read.last().is_some_and(Result::is_err));
        }
    }

    #[test]
    fn a_cut_within_an_event_loses_that_event_only() {
        let text = "event: open\ndata: null\n\nevent: put\ndata: {\"path\":\"/\",\"data\":\"ü\"}\n\n";
        let whole = Bytes::from(text);
        for end in text.find("event: put").expect("it is there")..text.len() {
            let read = read(vec![whole.slice(..end)]);
            assert_eq!(read.len(), 2, "{end}");
            assert_eq!(read[0], Ok(Message::Open), "{end}");
        }
    }

    #[test]
    fn what_makes_no_sense_ends_the_stream() {
        let table: [&[u8]; 6] = [
            b"event: put\ndata: {\"path\":\"/\"\n\n",
            b"event: put\ndata: {\"path\":\"/\"}\n\n",
            b"event: put\ndata: null\n\n",
            b"event: put\n\n",
            b"event: patch\ndata: {\"data\":1}\n\n",
            b"event: put\ndata: {\"path\":\"/\",\"data\":\"\xff\"}\n\n",
        ];
        for text in table {
            let read = read(vec![Bytes::from_static(text)]);
            assert!(matches!(read.first(), Some(Err(Stop::Broken(_)))), "{text:?}: {read:?}");
        }
    }

    #[test]
    fn an_event_that_is_too_long_ends_the_stream() {
        let line = Bytes::from_static(b"data: 0123456789\n");
        for (piece, is_comment) in
            [(line, false), (Bytes::from_static(b": 0123456789\n\n"), true), (Bytes::from_static(b"x"), false)]
        {
            let read = read_bounded(vec![piece; 200], 100);
            assert_eq!(read.len(), 1, "comment: {is_comment}");
            let Err(Stop::Broken(why)) = &read[0] else { panic!("{read:?}") };
            assert!(why.contains("longer than 100 bytes"), "{why}");
        }
        // Events as such may be as many as they like.
        let event = Bytes::from_static(b"event: open\ndata: null\n\n");
        assert_eq!(read_bounded(vec![event; 200], 100).len(), 201);
    }
}
