//! What can be asked of the simulator that the real service does only on its bad days.
//!
//! Some faults hold until they are changed, some meet the next calls, some happen at once. `help.txt`
//! is the table of them all.

mod held;

use std::time::{Duration, SystemTime};

use serde::Deserialize;
use serde_json::{Map, Value};

use super::Port;
use super::changes::Form;
use super::encoder::{CutAt, Framing};
use super::refusal::Refusal;
pub(super) use held::Faults;

/// The longest time that can be asked for.
const SECONDS_MAX: f64 = 86_400.0;

/// The shortest, so that no timer spins.
const SECONDS_MIN: f64 = 0.001;

#[derive(Debug, Deserialize)]
#[serde(tag = "fault", rename_all = "snake_case", deny_unknown_fields)]
pub(super) enum Fault {
    /// Everything as it was at the start; what waits for next calls is forgotten.
    Clear {},
    Redirect {
        to: RedirectTo,
    },
    Unauthorized {
        on: bool,
    },
    KeepAlive {
        seconds: f64,
    },
    Changes {
        form: Form,
    },
    Framing(Framing),
    Wall {
        #[serde(default)]
        thermostat: Option<String>,
        #[serde(default)]
        fields: Map<String, Value>,
        #[serde(default)]
        ambient_temperature_c: Option<f64>,
    },
    RefuseWrites(Refuse),
    RefuseStreams(Refuse),
    RefuseConnections {
        port: Port,
        #[serde(default = "once")]
        times: u32,
    },
    Snapshot {
        #[serde(default)]
        on: On,
    },
    Comment {
        #[serde(default)]
        on: On,
    },
    Error {
        #[serde(default)]
        on: On,
    },
    AuthRevoked {
        #[serde(default)]
        on: On,
    },
    Cancel {
        #[serde(default)]
        on: On,
    },
    Stall {
        #[serde(default)]
        on: On,
    },
    EndlessLine {
        #[serde(default)]
        on: On,
    },
    Cut {
        at: CutAt,
        #[serde(default)]
        then: Then,
        #[serde(default = "cut_pause_ms")]
        pause_ms: u16,
        #[serde(default)]
        on: On,
    },
    End {
        #[serde(default)]
        by: Ending,
        #[serde(default)]
        on: On,
    },
}

/// Where the front port sends its callers.
#[derive(Clone, Copy, Debug, Default, Deserialize, PartialEq)]
#[serde(rename_all = "snake_case")]
pub(super) enum RedirectTo {
    #[default]
    Second,
    /// Nowhere: it serves them itself.
    Off,
    /// To itself, without end.
    Loop,
    /// To a port where nobody listens.
    Dead,
}

#[derive(Clone, Copy, Debug, Deserialize, PartialEq)]
#[serde(deny_unknown_fields)]
pub(super) struct Refuse {
    pub(super) with: Answer,
    #[serde(default)]
    pub(super) retry_after: Option<RetryAfter>,
    #[serde(default = "once")]
    pub(super) times: u32,
}

/// What a call gets instead of being served.
#[derive(Clone, Copy, Debug, Deserialize, PartialEq)]
#[serde(rename_all = "snake_case")]
pub(super) enum Answer {
    Blocked,
    WrongFormat,
    NotAllowed,
    NoPermission,
    LowBattery,
    Unauthorized,
    NotFound,
    Internal,
    Unavailable,
    /// No answer, and no end of the connection.
    Silence,
}

#[derive(Clone, Copy, Debug, Deserialize, PartialEq)]
#[serde(rename_all = "snake_case")]
pub(super) enum RetryAfter {
    Seconds(u32),
    /// An HTTP date, that many seconds from now.
    Date(u32),
}

/// The streams that an act is for.
#[derive(Clone, Copy, Debug, Default, Deserialize, PartialEq)]
#[serde(rename_all = "snake_case")]
pub(super) enum On {
    /// Those that are open now.
    #[default]
    Open,
    /// The next one to open, right after its snapshot.
    Next,
}

#[derive(Clone, Copy, Debug, PartialEq)]
pub(super) enum Act {
    Snapshot,
    Comment,
    Error,
    AuthRevoked,
    Cancel,
    Stall,
    EndlessLine,
    Cut { at: CutAt, then: Then, pause: Duration },
    End(Ending),
}

/// What follows a cut.
#[derive(Clone, Copy, Debug, Default, Deserialize, PartialEq)]
#[serde(rename_all = "snake_case")]
pub(super) enum Then {
    /// The rest of the event, after the pause.
    #[default]
    Resume,
    Stall,
    Clean,
    Fin,
    Reset,
}

/// How a stream ends.
#[derive(Clone, Copy, Debug, Default, Deserialize, PartialEq)]
#[serde(rename_all = "snake_case")]
pub(super) enum Ending {
    /// As HTTP ends a body; the connection stays.
    Clean,
    /// The connection closes in the middle of the body.
    #[default]
    Fin,
    /// The connection is reset.
    Reset,
}

impl Fault {
    /// Reads what was posted; the error names the known faults.
    pub(super) fn parse(body: &[u8]) -> Result<Self, Refusal> {
        serde_json::from_slice(body).map_err(|error| Refusal::UnknownFault(error.to_string()))
    }

    /// What it asks of streams, if it is about them.
    pub(super) fn act(&self) -> Option<(Act, On)> {
        Some(match *self {
            Self::Snapshot { on } => (Act::Snapshot, on),
            Self::Comment { on } => (Act::Comment, on),
            Self::Error { on } => (Act::Error, on),
            Self::AuthRevoked { on } => (Act::AuthRevoked, on),
            Self::Cancel { on } => (Act::Cancel, on),
            Self::Stall { on } => (Act::Stall, on),
            Self::EndlessLine { on } => (Act::EndlessLine, on),
            Self::Cut { at, then, pause_ms, on } => {
                (Act::Cut { at, then, pause: Duration::from_millis(u64::from(pause_ms)) }, on)
            }
            Self::End { by, on } => (Act::End(by), on),
            Self::Clear {}
            | Self::Redirect { .. }
            | Self::Unauthorized { .. }
            | Self::KeepAlive { .. }
            | Self::Changes { .. }
            | Self::Framing(_)
            | Self::Wall { .. }
            | Self::RefuseWrites(_)
            | Self::RefuseStreams(_)
            | Self::RefuseConnections { .. } => return None,
        })
    }
}

impl Answer {
    /// The refusal of a call that wrote these fields; none for silence.
    pub(super) fn refusal(self, fields: Vec<String>) -> Option<Refusal> {
        Some(match self {
            Self::Blocked => Refusal::Blocked,
            Self::WrongFormat => {
                Refusal::WrongFormat { field: fields.join(","), value: "(the value that was written)".to_owned() }
            }
            Self::NotAllowed => Refusal::NotAllowed("Cannot change this now".to_owned()),
            Self::NoPermission => Refusal::NoPermission { fields },
            Self::LowBattery => Refusal::LowBattery,
            Self::Unauthorized => Refusal::Unauthorized,
            Self::NotFound => Refusal::NotFound,
            Self::Internal => Refusal::Internal,
            Self::Unavailable => Refusal::Unavailable("try again later"),
            Self::Silence => return None,
        })
    }
}

impl RetryAfter {
    /// The header's value.
    pub(super) fn value(self, now: SystemTime) -> String {
        match self {
            Self::Seconds(seconds) => seconds.to_string(),
            Self::Date(seconds) => httpdate::fmt_http_date(now + Duration::from_secs(u64::from(seconds))),
        }
    }
}

/// A time that was given in seconds: 0 is never, and no number is a refusal.
pub(super) fn interval(seconds: f64) -> Result<Option<Duration>, Refusal> {
    if !(0.0..=SECONDS_MAX).contains(&seconds) {
        let why = format!("{seconds} seconds are not between 0 and {SECONDS_MAX}");
        return Err(Refusal::NotAllowed(why));
    }
    Ok((seconds > 0.0).then(|| Duration::from_secs_f64(seconds.max(SECONDS_MIN))))
}

fn once() -> u32 {
    1
}

fn cut_pause_ms() -> u16 {
    100
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Every example of the table is read, and every fault has one.
    #[test]
    fn the_help_shows_every_fault() {
        let help = include_str!("help.txt");
        let examples: Vec<&str> = help.lines().filter(|line| line.starts_with("{\"fault\"")).collect();
        for example in &examples {
            let read = serde_json::Deserializer::from_str(example).into_iter::<Fault>().next();
            assert!(matches!(read, Some(Ok(_))), "{example}: {read:?}");
        }
        let unknown = Fault::parse(br#"{"fault":"flood"}"#).expect_err("no such fault");
        let Refusal::UnknownFault(text) = unknown else { panic!("another refusal: {unknown:?}") };
        let known: Vec<&str> = text.split('`').skip(3).step_by(2).collect();
        assert_eq!(known.len(), 19, "{text}");
        for name in known {
            let shown = |example: &&str| example.contains(&format!("\"fault\":\"{name}\""));
            assert!(examples.iter().any(shown), "{name} has no example");
        }
    }

    #[test]
    fn what_is_no_fault_is_refused() {
        for body in [
            "",
            "[]",
            "{}",
            r#"{"fault":"stall","on":"all"}"#,
            r#"{"fault":"stall","of":"open"}"#,
            r#"{"fault":"redirect"}"#,
            r#"{"fault":"framing","line_ending":"nel"}"#,
            r#"{"fault":"framing","speed":1}"#,
            r#"{"fault":"refuse_writes","with":"anger"}"#,
            r#"{"fault":"refuse_writes","with":"blocked","time":1}"#,
        ] {
            assert!(matches!(Fault::parse(body.as_bytes()), Err(Refusal::UnknownFault(_))), "{body}");
        }
    }

    #[test]
    fn intervals_have_bounds() {
        assert_eq!(interval(0.0), Ok(None));
        assert_eq!(interval(1.5), Ok(Some(Duration::from_millis(1500))));
        assert_eq!(interval(1e-9), Ok(Some(Duration::from_millis(1))));
        for seconds in [-1.0, f64::NAN, f64::INFINITY, 1e9] {
            assert!(interval(seconds).is_err(), "{seconds}");
        }
    }

    #[test]
    fn retry_after_has_two_forms() {
        let now = SystemTime::UNIX_EPOCH;
        assert_eq!(RetryAfter::Seconds(7).value(now), "7");
        assert_eq!(RetryAfter::Date(7).value(now), "Thu, 01 Jan 1970 00:00:07 GMT");
    }
}
