//! The state of the one connection to the upstream.

use std::time::{Duration, SystemTime, UNIX_EPOCH};

use serde::{Deserialize, Serialize};

/// Where the connection is in its life.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub(crate) enum State {
    /// It is being made, or nothing has come on it yet.
    Connecting,
    /// It has delivered the document, and every change since.
    Open,
    /// It ended and is made again at [`Link::retry_at_s`].
    Waiting,
    /// The upstream does not accept the token. It is asked again, rarely.
    Unauthorized,
    /// The upstream has revoked the token. It is not asked again until this helper is restarted.
    AuthRevoked,
}

/// How the connection stands, as subscribers and `/healthz` see it. Times are Unix seconds.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub(crate) struct Link {
    pub(crate) state: State,
    pub(crate) since_s: u64,
    /// Scheme, host and port that answered last.
    #[serde(default)]
    pub(crate) url: Option<String>,
    /// Why it is not open.
    #[serde(default)]
    pub(crate) reason: Option<String>,
    #[serde(default)]
    pub(crate) retry_at_s: Option<u64>,
    /// The document has come at least once in this helper's life.
    #[serde(default)]
    pub(crate) known: bool,
}

impl Link {
    /// Before the first connection.
    pub(crate) fn new(now: SystemTime) -> Self {
        Self {
            state: State::Connecting,
            since_s: unix_seconds(now),
            url: None,
            reason: None,
            retry_at_s: None,
            known: false,
        }
    }

    /// It, in a few words.
    pub(crate) fn note(&self) -> String {
        let state = match self.state {
            State::Connecting => "connecting",
            State::Open => "open",
            State::Waiting => "waiting",
            State::Unauthorized => "unauthorized",
            State::AuthRevoked => "auth_revoked",
        };
        match &self.reason {
            Some(reason) => format!("{state}: {reason}"),
            None => state.to_owned(),
        }
    }

    /// A connection is being made; why the last one ended is no longer news.
    pub(crate) fn connecting(&self, now: SystemTime) -> Self {
        Self { reason: None, retry_at_s: None, ..self.with(State::Connecting, now) }
    }

    /// The document has come.
    pub(crate) fn open(&self, url: String, now: SystemTime) -> Self {
        Self { url: Some(url), reason: None, retry_at_s: None, known: true, ..self.with(State::Open, now) }
    }

    /// It ended and is made again after `delay`.
    pub(crate) fn waiting(&self, state: State, reason: String, delay: Duration, now: SystemTime) -> Self {
        let retry_at_s = now.checked_add(delay).map(unix_seconds);
        Self { reason: Some(reason), retry_at_s, ..self.with(state, now) }
    }

    /// It ended for good.
    pub(crate) fn revoked(&self, reason: String, now: SystemTime) -> Self {
        Self { reason: Some(reason), retry_at_s: None, ..self.with(State::AuthRevoked, now) }
    }

    fn with(&self, state: State, now: SystemTime) -> Self {
        Self { state, since_s: unix_seconds(now), ..self.clone() }
    }
}

fn unix_seconds(time: SystemTime) -> u64 {
    time.duration_since(UNIX_EPOCH).map_or(0, |since| since.as_secs())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_known_stays_known() {
        let at = |seconds| UNIX_EPOCH + Duration::from_secs(seconds);
        let open = Link::new(at(1)).connecting(at(2)).open("http://a:1".to_owned(), at(3));
        assert_eq!((open.state, open.known, open.since_s), (State::Open, true, 3));
        let waiting = open.waiting(State::Waiting, "silent".to_owned(), Duration::from_secs(7), at(4));
        assert_eq!((waiting.known, waiting.retry_at_s), (true, Some(11)));
        assert_eq!(waiting.url.as_deref(), Some("http://a:1"));
        let connecting = waiting.connecting(at(11));
        assert_eq!((connecting.reason, connecting.retry_at_s), (None, None));
    }

    #[test]
    fn states_are_words_for_people() {
        let json = serde_json::to_string(&State::AuthRevoked).expect("JSON");
        assert_eq!(json, "\"auth_revoked\"");
    }
}
