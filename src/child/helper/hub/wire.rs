//! What is said between the hub and those who use it: methods of the protocol, and their limits.
//!
//! Releases meet here: fields are added with a default, and none is changed.

use std::fmt;
use std::sync::Arc;

use serde::de::{DeserializeOwned, Error, Visitor};
use serde::{Deserialize, Deserializer, Serialize, Serializer};

use crate::child::helper::traits::Request;
use crate::ipc::frame;

/// Bytes of a topic's or a question's name.
pub(super) const NAME_LEN_MAX: usize = 64;

/// Bytes of a key.
pub(super) const KEY_LEN_MAX: usize = 256;

/// Bytes of a message, of what is asked, and of an answer.
pub(super) const MESSAGE_LEN_MAX: usize = 1024 * 1024;

/// Topics with their keys to which one session listens.
pub(super) const SUBSCRIPTIONS_MAX: usize = 16 * 1024;

/// Keys for which one session answers.
pub(super) const KEYS_MAX: usize = 16 * 1024;

/// A session: the connection of one process. Each process numbers its own.
pub(super) type Session = u64;

/// A topic, or a question, and the key within it.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub(super) struct Name {
    pub(super) of: String,
    pub(super) key: String,
}

/// A value that the hub passes on as it is, encoded.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Bytes(pub(super) Arc<[u8]>);

/// Begins a session, which lasts until the answer: until the connection or the hub ends.
#[derive(Serialize, Deserialize)]
pub(super) struct Attach {
    pub(super) session: Session,
    /// Who it is, for people.
    pub(super) caller: String,
    pub(super) topics: Vec<Name>,
    pub(super) keys: Vec<Since>,
}

/// A key, and since when it is held, in milliseconds of CLOCK_MONOTONIC: the latest holder has it.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct Since {
    pub(super) key: Name,
    pub(super) since_ms: u64,
}

/// Waits for what there is to tell this session.
#[derive(Serialize, Deserialize)]
pub(super) struct Take {
    pub(super) session: Session,
}

#[derive(Serialize, Deserialize)]
pub(super) struct Subscribe {
    pub(super) session: Session,
    pub(super) topic: Name,
}

#[derive(Serialize, Deserialize)]
pub(super) struct Unsubscribe {
    pub(super) session: Session,
    pub(super) topic: Name,
}

#[derive(Serialize, Deserialize)]
pub(super) struct Register {
    pub(super) session: Session,
    pub(super) held: Since,
}

#[derive(Serialize, Deserialize)]
pub(super) struct Unregister {
    pub(super) session: Session,
    pub(super) key: Name,
}

/// Tells all that listen to this topic.
#[derive(Serialize, Deserialize)]
pub(super) struct Publish {
    pub(super) topic: Name,
    pub(super) message: Bytes,
}

/// Asks whoever holds this key.
#[derive(Serialize, Deserialize)]
pub(super) struct Ask {
    pub(super) key: Name,
    pub(super) ask: Bytes,
}

/// What the holder of a key answers.
#[derive(Serialize, Deserialize)]
pub(super) struct Answered {
    pub(super) session: Session,
    pub(super) id: u64,
    pub(super) outcome: Outcome,
}

/// What there is, for people.
#[derive(Serialize, Deserialize)]
pub(super) struct Topics {}

/// How something asked has ended.
pub(super) type Outcome = Result<Bytes, Refusal>;

/// Why the hub, or the holder of a key, does not do it.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub(super) enum Refusal {
    /// No such session lasts.
    NotAttached,
    /// The hub ends: nothing was done, its successor will do it.
    Ending,
    NobodyThere,
    /// Who held the key was told and is gone.
    OutcomeUnknown,
    Panicked,
    /// The holder of the key has too much to answer already.
    Overloaded,
    /// A limit, in a sentence.
    Refused(String),
}

/// What a session is told, in order.
#[derive(Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct Batch {
    pub(super) items: Vec<Item>,
}

#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub(super) enum Item {
    /// The session has begun: what is published from here on is told, or counted as missed.
    Begun,
    /// So many messages of this topic did not fit: they came before those that follow.
    Missed {
        topic: Name,
        count: u64,
    },
    Message {
        topic: Name,
        message: Bytes,
    },
    Asked {
        id: u64,
        key: Name,
        ask: Bytes,
    },
    /// Another one holds it now.
    Replaced(Since),
}

/// What there is, for people: of each the first thousand.
#[derive(Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct Listing {
    pub(super) sessions: Vec<SessionLine>,
    pub(super) topics: Vec<TopicLine>,
    pub(super) keys: Vec<KeyLine>,
    /// Requests to holders of keys that are not answered.
    pub(super) asked: usize,
    /// Since this process began.
    pub(super) published: u64,
    pub(super) missed: u64,
}

#[derive(Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct SessionLine {
    pub(super) caller: String,
    pub(super) topics: usize,
    pub(super) keys: usize,
    /// Messages and bytes that it has not taken.
    pub(super) messages: usize,
    pub(super) bytes: usize,
}

#[derive(Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct TopicLine {
    pub(super) topic: String,
    pub(super) key: String,
    pub(super) sessions: usize,
}

#[derive(Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct KeyLine {
    pub(super) question: String,
    pub(super) key: String,
    pub(super) holder: String,
}

impl Request for Attach {
    const METHOD: &'static str = "attach";
    type Reply = ();
}

impl Request for Take {
    const METHOD: &'static str = "take";
    type Reply = Batch;
}

impl Request for Subscribe {
    const METHOD: &'static str = "subscribe";
    type Reply = ();
}

impl Request for Unsubscribe {
    const METHOD: &'static str = "unsubscribe";
    type Reply = ();
}

impl Request for Register {
    const METHOD: &'static str = "register";
    type Reply = ();
}

impl Request for Unregister {
    const METHOD: &'static str = "unregister";
    type Reply = ();
}

impl Request for Publish {
    const METHOD: &'static str = "publish";
    type Reply = ();
}

impl Request for Ask {
    const METHOD: &'static str = "ask";
    type Reply = Bytes;
}

impl Request for Answered {
    const METHOD: &'static str = "answered";
    type Reply = ();
}

impl Request for Topics {
    const METHOD: &'static str = "topics";
    const IDEMPOTENT: bool = true;
    type Reply = Listing;
}

impl Name {
    /// # Errors
    /// It is longer than the hub takes.
    pub(super) fn new(of: &str, key: &str) -> Result<Self, Refusal> {
        let name = Self { of: of.to_owned(), key: key.to_owned() };
        name.check().map(|()| name)
    }

    pub(super) fn check(&self) -> Result<(), Refusal> {
        let table = [("name", &self.of, NAME_LEN_MAX), ("key", &self.key, KEY_LEN_MAX)];
        match table.into_iter().find(|(_, text, max)| text.len() > *max) {
            Some((what, text, max)) => {
                Err(Refusal::Refused(format!("a {what} of {} bytes, {max} are allowed", text.len())))
            }
            None => Ok(()),
        }
    }
}

impl Bytes {
    pub(super) fn of<T: Serialize>(value: &T) -> Result<Self, Refusal> {
        let encoded = frame::encoded(value);
        let encoded = encoded.map_err(|error| Refusal::Refused(format!("it does not encode: {error}")))?;
        let bytes = Self(encoded.into());
        bytes.check().map(|()| bytes)
    }

    pub(super) fn check(&self) -> Result<(), Refusal> {
        let len = self.0.len();
        if len > MESSAGE_LEN_MAX {
            return Err(Refusal::Refused(format!("a message of {len} bytes, {MESSAGE_LEN_MAX} are allowed")));
        }
        Ok(())
    }

    pub(super) fn decode<T: DeserializeOwned>(&self) -> Result<T, String> {
        frame::decode(&self.0).map_err(|error| error.reason())
    }
}

impl fmt::Display for Refusal {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::NotAttached => "no such session is attached",
            Self::Ending => "the hub ends: its successor will do it",
            Self::NobodyThere => "nobody holds this key",
            Self::OutcomeUnknown => "who held the key is gone: the outcome is unknown",
            Self::Panicked => "who holds the key panicked: the log says where",
            Self::Overloaded => "who holds the key has too much to answer already",
            Self::Refused(why) => why,
        })
    }
}

impl Serialize for Bytes {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.serialize_bytes(&self.0)
    }
}

impl<'de> Deserialize<'de> for Bytes {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        deserializer.deserialize_bytes(Passed)
    }
}

/// Takes MessagePack's bytes and nothing else.
struct Passed;

impl Visitor<'_> for Passed {
    type Value = Bytes;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("bytes")
    }

    fn visit_bytes<E: Error>(self, bytes: &[u8]) -> Result<Bytes, E> {
        Ok(Bytes(bytes.into()))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_message_travels_as_bytes_and_nothing_else_is_one() {
        let message = Bytes::of(&("a", 7)).expect("short");
        let mut out = Vec::new();
        frame::append(&message, &mut out).expect("encodes");
        assert_eq!(out, b"\xc4\x04\x92\xa1a\x07");
        let back: Bytes = frame::decode(&out).expect("bytes");
        assert_eq!((&back, back.decode()), (&message, Ok(("a".to_owned(), 7))));
        for other in [&b"\xa1a"[..], b"\x07", b"\x91\x07", b"\xc0"] {
            assert!(frame::decode::<Bytes>(other).is_err(), "{other:x?}");
        }
    }

    #[test]
    fn what_is_too_long_is_refused_with_a_sentence() {
        let long = "x".repeat(NAME_LEN_MAX + 1);
        let refused = |refusal: Refusal| refusal.to_string();
        assert_eq!(Name::new(&long, "").map_err(refused), Err("a name of 65 bytes, 64 are allowed".to_owned()));
        assert!(Name::new(&long[1..], &"x".repeat(KEY_LEN_MAX)).is_ok());
        assert!(Name::new("a", &"x".repeat(KEY_LEN_MAX + 1)).is_err());
        assert!(Bytes::of(&vec![0_u8; MESSAGE_LEN_MAX - 5]).is_ok());
        assert!(Bytes::of(&vec![0_u8; MESSAGE_LEN_MAX]).is_err());
    }

    #[test]
    fn an_outcome_travels() {
        for outcome in [Ok(Bytes([7][..].into())), Err(Refusal::NobodyThere), Err(Refusal::Refused("why".to_owned()))] {
            let mut out = Vec::new();
            frame::append(&outcome, &mut out).expect("encodes");
            assert_eq!(frame::decode::<Outcome>(&out), Ok(outcome));
        }
    }
}
