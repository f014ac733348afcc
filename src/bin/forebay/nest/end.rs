//! Why a connection to the upstream ended, and what follows from it. Pure.

use std::fmt;
use std::time::Duration;

use super::link::State;
use super::retry::{Backoff, jittered};

/// Why there is no connection any more.
#[derive(Clone, Debug, PartialEq)]
pub(crate) enum End {
    /// Nothing came for so long.
    Silent(Duration),
    /// The upstream has ended it, as it may.
    Ended,
    /// It could not be made, or broke.
    Lost(String),
    /// The upstream says so in an `error` event.
    Failed(String),
    /// The upstream no longer lets us read.
    Cancelled(String),
    /// The upstream does not accept the token.
    Unauthorized,
    /// The upstream wants fewer connections, and may say when.
    RateLimited(Option<Duration>),
    /// The token was revoked.
    Revoked(String),
}

/// What to do then.
#[derive(Debug, PartialEq)]
pub(crate) enum Next {
    Again(Duration, State),
    Never,
}

impl End {
    /// What follows from it, when the connection had been open for so long; `dice` from 0 to 1.
    pub(crate) fn next(&self, backoff: &mut Backoff, open_for: Duration, rarely: Duration, dice: f64) -> Next {
        match self {
            Self::Silent(_)
            | Self::Ended
            | Self::Lost(_)
            | Self::Failed(_)
            | Self::Cancelled(_)
            | Self::RateLimited(None) => Next::Again(backoff.after(open_for, dice), State::Waiting),
            // It may ask for no delay at all, again and again.
            Self::RateLimited(Some(delay)) => Next::Again(backoff.after(open_for, dice).max(*delay), State::Waiting),
            // A wrong token will not become right by itself.
            Self::Unauthorized => Next::Again(jittered(rarely, dice), State::Unauthorized),
            Self::Revoked(_) => Next::Never,
        }
    }

    /// Whether the host that a redirect led to may be to blame.
    pub(crate) fn blames_the_host(&self) -> bool {
        match self {
            Self::Silent(_) | Self::Lost(_) | Self::Failed(_) | Self::Unauthorized => true,
            Self::Ended | Self::Cancelled(_) | Self::RateLimited(_) | Self::Revoked(_) => false,
        }
    }
}

impl fmt::Display for End {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Silent(limit) => write!(f, "the upstream is silent for {} s", limit.as_secs_f64()),
            Self::Ended => f.write_str("the upstream has ended the stream"),
            Self::Lost(why) => f.write_str(why),
            Self::Failed(what) => write!(f, "the upstream reports an error: {what}"),
            Self::Cancelled(what) => write!(f, "the upstream has cancelled the stream: {what}"),
            Self::Unauthorized => f.write_str("the upstream does not accept the token"),
            Self::RateLimited(_) => f.write_str("the upstream wants fewer connections"),
            Self::Revoked(what) => write!(f, "the upstream has revoked the token: {what}"),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_end_has_its_consequence() {
        let second = Duration::from_secs(1);
        let again = |seconds, state| Next::Again(seconds * second, state);
        let table = [
            (End::Silent(75 * second), again(1, State::Waiting)),
            (End::Ended, again(1, State::Waiting)),
            (End::Lost("cut".to_owned()), again(1, State::Waiting)),
            (End::Failed("x".to_owned()), again(1, State::Waiting)),
            (End::Cancelled("x".to_owned()), again(1, State::Waiting)),
            (End::RateLimited(None), again(1, State::Waiting)),
            (End::RateLimited(Some(120 * second)), again(120, State::Waiting)),
            (End::RateLimited(Some(Duration::ZERO)), again(1, State::Waiting)),
            (End::Unauthorized, again(300, State::Unauthorized)),
            (End::Revoked("x".to_owned()), Next::Never),
        ];
        for (end, expected) in table {
            let mut backoff = Backoff::new(second, 60 * second);
            assert_eq!(end.next(&mut backoff, Duration::ZERO, 300 * second, 1.0), expected, "{end}");
        }
    }

    #[test]
    fn an_upstream_that_always_asks_for_no_delay_is_asked_more_and_more_rarely() {
        let mut backoff = Backoff::new(Duration::from_secs(1), Duration::from_secs(60));
        for seconds in [1, 2, 4] {
            let next = End::RateLimited(Some(Duration::ZERO)).next(&mut backoff, Duration::ZERO, Duration::ZERO, 1.0);
            assert_eq!(next, Next::Again(Duration::from_secs(seconds), State::Waiting));
        }
    }

    #[test]
    fn it_reads_as_a_sentence() {
        let end = End::Silent(Duration::from_secs(75));
        assert_eq!(end.to_string(), "the upstream is silent for 75 s");
    }
}
