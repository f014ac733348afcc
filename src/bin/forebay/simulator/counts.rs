//! What was asked for and answered: streams by token, requests by kind and status, the last ones in detail.

use std::collections::{BTreeMap, VecDeque};
use std::time::Duration;

use serde::Serialize;

/// Tokens that are counted apart; those that come later are counted together.
const TOKENS_MAX: usize = 1024;
const OTHER_TOKENS: &str = "(others)";

/// Requests that are remembered in detail.
const RECENT_MAX: usize = 64;

/// The longest path and token that are remembered, in characters.
const TEXT_LEN_MAX: usize = 256;

#[derive(Default, Serialize)]
pub(super) struct Counts {
    /// The wire form has names for these three, the same as for each token.
    #[serde(flatten)]
    all: Streams,
    tokens: BTreeMap<String, Streams>,
    redirects: u64,
    connections: u64,
    connections_refused: u64,
    streams_cut_off: u64,
    writes: u64,
    requests: BTreeMap<Kind, BTreeMap<u16, u64>>,
    recent: VecDeque<Request>,
}

/// Event streams, of one token or of all.
#[derive(Default, Serialize)]
struct Streams {
    streams_open: u64,
    /// The most that were ever open at the same time.
    streams_open_max: u64,
    streams_total: u64,
}

#[derive(Clone, Copy, Debug, Eq, Ord, PartialEq, PartialOrd, Serialize)]
#[serde(rename_all = "snake_case")]
pub(super) enum Kind {
    Stream,
    Read,
    Write,
    Other,
}

/// One request, its status 0 when it got no answer.
#[derive(Serialize)]
pub(super) struct Request {
    pub(super) at_ms: u64,
    pub(super) port: super::Port,
    pub(super) kind: Kind,
    pub(super) path: String,
    pub(super) token: Option<String>,
    pub(super) status: u16,
}

impl Counts {
    pub(super) fn stream_opened(&mut self, token: &str) {
        self.all.open();
        self.of(token).open();
    }

    pub(super) fn stream_gone(&mut self, token: &str) {
        self.all.close();
        self.of(token).close();
    }

    pub(super) fn connected(&mut self) {
        self.connections += 1;
    }

    pub(super) fn refused_connection(&mut self) {
        self.connections_refused += 1;
    }

    /// A client did not read what it was sent.
    pub(super) fn cut_off(&mut self) {
        self.streams_cut_off += 1;
    }

    pub(super) fn answered(&mut self, mut request: Request) {
        match (request.kind, request.status) {
            (_, 307) => self.redirects += 1,
            (Kind::Write, 200) => self.writes += 1,
            (Kind::Stream | Kind::Read | Kind::Write | Kind::Other, _) => {}
        }
        *self.requests.entry(request.kind).or_default().entry(request.status).or_default() += 1;
        shorten(&mut request.path);
        request.token.as_mut().map(shorten);
        if self.recent.len() == RECENT_MAX {
            self.recent.pop_front();
        }
        self.recent.push_back(request);
    }

    /// Counts of a token that was once counted apart stay apart, so that opening and closing match.
    fn of(&mut self, token: &str) -> &mut Streams {
        let mut token = token.to_owned();
        shorten(&mut token);
        if self.tokens.len() >= TOKENS_MAX && !self.tokens.contains_key(&token) {
            token = OTHER_TOKENS.to_owned();
        }
        self.tokens.entry(token).or_default()
    }
}

impl Streams {
    fn open(&mut self) {
        self.streams_open += 1;
        self.streams_total += 1;
        self.streams_open_max = self.streams_open_max.max(self.streams_open);
    }

    fn close(&mut self) {
        self.streams_open = self.streams_open.saturating_sub(1);
    }
}

/// Milliseconds for the report.
pub(super) fn milliseconds(duration: Duration) -> u64 {
    u64::try_from(duration.as_millis()).unwrap_or(u64::MAX)
}

fn shorten(text: &mut String) {
    if let Some((end, _)) = text.char_indices().nth(TEXT_LEN_MAX) {
        text.truncate(end);
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn streams_are_counted_by_token() {
        let mut counts = Counts::default();
        for token in ["a", "a", "b"] {
            counts.stream_opened(token);
        }
        counts.stream_gone("a");
        counts.stream_opened("a");
        counts.stream_gone("b");
        let report = json!(counts);
        assert_eq!(report["tokens"]["a"], json!({"streams_open": 2, "streams_open_max": 2, "streams_total": 3}));
        assert_eq!(report["tokens"]["b"], json!({"streams_open": 0, "streams_open_max": 1, "streams_total": 1}));
        assert_eq!((&report["streams_open"], &report["streams_open_max"]), (&json!(2), &json!(3)));
    }

    #[test]
    fn requests_are_counted_by_kind_and_status() {
        let mut counts = Counts::default();
        for (kind, status) in [(Kind::Stream, 307), (Kind::Stream, 200), (Kind::Write, 200), (Kind::Write, 400)] {
            counts.answered(request(kind, status));
        }
        let report = json!(counts);
        assert_eq!(report["requests"]["stream"], json!({"200": 1, "307": 1}));
        assert_eq!((&report["redirects"], &report["writes"]), (&json!(1), &json!(1)));
        assert_eq!(report["recent"][3]["status"], 400);
    }

    #[test]
    fn nothing_grows_without_end() {
        let mut counts = Counts::default();
        for number in 0..2 * TOKENS_MAX {
            counts.stream_opened(&number.to_string());
            counts.answered(Request { path: "ü".repeat(1000), ..request(Kind::Read, 200) });
        }
        assert_eq!((counts.tokens.len(), counts.recent.len()), (TOKENS_MAX + 1, RECENT_MAX));
        assert!(counts.recent.iter().all(|request| request.path.chars().count() == TEXT_LEN_MAX));
        for number in 0..2 * TOKENS_MAX {
            counts.stream_gone(&number.to_string());
        }
        assert!(counts.tokens.values().all(|streams| streams.streams_open == 0));
    }

    fn request(kind: Kind, status: u16) -> Request {
        Request { at_ms: 0, port: super::super::Port::Front, kind, path: "/".to_owned(), token: None, status }
    }
}
