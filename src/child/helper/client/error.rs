//! Why a call has no reply.

use std::fmt;

use serde::Deserialize;
use serde::de::value::Error as ValueError;
use serde::de::{DeserializeOwned, IntoDeserializer};

use super::calls::Outcome;
use crate::ipc::frame::{self, FrameError};
use crate::ipc::message::Code;
use crate::ipc::text;

/// Why a call has no reply.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum CallError<E> {
    /// The helper answered with its own error.
    Failed(E),
    /// The request's handler panicked. What it had done until then is done.
    Panicked,
    /// No answer came within the deadline. The helper was told to give the request up.
    DeadlineExceeded,
    /// Too many requests wait already. This one was not sent.
    Overloaded,
    /// The helper died after it had got the request, which is not
    /// [idempotent](super::super::Request::IDEMPOTENT): it may have been carried out or not.
    OutcomeUnknown,
    /// The helper has no such method: it is of another release.
    NotHandled(String),
    /// The request or its answer is not what the other side understands.
    BadRequest(String),
}

/// An error as it comes.
#[derive(Deserialize)]
struct Failed<E> {
    #[serde(deserialize_with = "text::named")]
    code: Code,
    #[serde(default, deserialize_with = "text::read")]
    message: String,
    #[serde(default = "none")]
    data: Option<E>,
}

fn none<E>() -> Option<E> {
    None
}

impl Outcome {
    pub(super) fn decode<T: DeserializeOwned, E: DeserializeOwned>(self) -> Result<T, CallError<E>> {
        match self {
            Self::Result(bytes) => frame::decode(&bytes).map_err(not_understood),
            Self::Error(bytes) => Err(error(&bytes)),
            Self::Lost => Err(CallError::OutcomeUnknown),
            Self::Late => Err(CallError::DeadlineExceeded),
            Self::TooLong => Err(CallError::BadRequest("the request is longer than the helper reads".to_owned())),
        }
    }
}

fn error<E: DeserializeOwned>(bytes: &[u8]) -> CallError<E> {
    let Failed { code, message, data } = match frame::decode::<Failed<E>>(bytes) {
        Ok(failed) => failed,
        Err(error) => return not_understood(error),
    };
    match (code, data) {
        (Code::Failed, Some(error)) => CallError::Failed(error),
        // One in another language may have no more to say than a sentence.
        (Code::Failed, None) | (Code::Unknown, _) => match E::deserialize(message.as_str().into_deserializer()) {
            Ok::<_, ValueError>(error) => CallError::Failed(error),
            Err(_) => CallError::BadRequest(message),
        },
        (Code::Panicked, _) => CallError::Panicked,
        (Code::DeadlineExceeded, _) => CallError::DeadlineExceeded,
        (Code::Overloaded, _) => CallError::Overloaded,
        (Code::NoMethod, _) => CallError::NotHandled(message),
        // What is too long was done; its error says how long it is.
        (Code::BadParams | Code::Cancelled | Code::TooLong | Code::NoTopic, _) => CallError::BadRequest(message),
    }
}

fn not_understood<E>(error: FrameError) -> CallError<E> {
    CallError::BadRequest(format!("the answer is not understood: {error}"))
}

impl<E: fmt::Display> fmt::Display for CallError<E> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Failed(error) => error.fmt(f),
            Self::Panicked => f.write_str("the request's handler panicked"),
            Self::DeadlineExceeded => f.write_str("no answer within the deadline"),
            Self::Overloaded => f.write_str("too many requests wait already"),
            Self::OutcomeUnknown => f.write_str("the helper died before it answered: the outcome is unknown"),
            Self::NotHandled(why) | Self::BadRequest(why) => f.write_str(why),
        }
    }
}

impl<E: fmt::Debug + fmt::Display> std::error::Error for CallError<E> {}

#[cfg(test)]
mod tests {
    use serde::Serialize;

    use super::*;

    #[derive(Serialize)]
    struct Sent {
        message: &'static str,
        code: &'static str,
        data: Option<u8>,
        colour: &'static str,
    }

    #[test]
    fn every_code_has_its_error_and_unknown_fields_do_no_harm() {
        let table = [
            ("failed", Some(7), CallError::Failed(7)),
            ("failed", None, CallError::BadRequest("why".to_owned())),
            ("panicked", None, CallError::Panicked),
            ("overloaded", None, CallError::Overloaded),
            ("no_method", None, CallError::NotHandled("why".to_owned())),
            ("deadline_exceeded", None, CallError::DeadlineExceeded),
            ("too_long", None, CallError::BadRequest("why".to_owned())),
            ("of_a_later_version", None, CallError::BadRequest("why".to_owned())),
        ];
        for (code, data, wanted) in table {
            let sent = Sent { message: "why", code, data, colour: "blue" };
            let mut bytes = Vec::new();
            frame::append(&sent, &mut bytes).expect("encode");
            assert_eq!(Outcome::Error(bytes).decode::<(), u8>(), Err(wanted), "{code}");
        }
        let mut bytes = Vec::new();
        frame::append(&Sent { message: "why", code: "failed", data: None, colour: "" }, &mut bytes).expect("encode");
        let sentence = Outcome::Error(bytes).decode::<(), String>();
        assert_eq!(sentence, Err(CallError::Failed("why".to_owned())), "an error that is a sentence");
    }
}
