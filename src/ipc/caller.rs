//! A client's side of one connection to a helper, without I/O: what the helper says.
//!
//! Whoever drives it feeds what was read, takes what is told, and writes what stands in
//! [`Caller::unsent`]. A helper that breaks a rule of `ipc-protocol.md` is an error, and ends the
//! connection.

use super::envelope::Envelope;
use super::frame::{Decoder, FrameError};
use super::message::{self, ANSWER_LEN_MAX, FRAME_LEN_MIN, Failure, GoAway, Hello, Welcome};
use super::value;

/// One connection.
#[derive(Debug)]
pub(crate) struct Caller {
    decoder: Decoder,
    unsent: Vec<u8>,
    is_welcome: bool,
}

/// What a helper tells.
#[derive(Debug, PartialEq)]
pub(crate) enum Told<'a> {
    /// From now on requests may be sent.
    Welcome(Welcome),
    /// The result of a request, or its error, as they are encoded.
    Response {
        id: u32,
        outcome: Result<&'a [u8], &'a [u8]>,
    },
    /// How things stand; as an array of events.
    Snapshot {
        id: u32,
        epoch: u64,
        sequence: u64,
        events: &'a [u8],
    },
    Event {
        id: u32,
        sequence: u64,
        event: &'a [u8],
    },
    /// Events were left out; a snapshot follows.
    Resync {
        id: u32,
        missed: u64,
    },
    /// The subscription is over.
    End {
        id: u32,
        failure: Failure,
    },
    /// No more requests on this connection; what is open will be answered, or it is closed.
    GoAway(GoAway),
    Pong(u64),
    /// What needs no answer, or has it already.
    Nothing,
}

impl Caller {
    /// Begins with the hello.
    pub(crate) fn new(name: &str) -> Self {
        Self::reading_at_most(name, ANSWER_LEN_MAX)
    }

    /// The same, of a client that takes no frame of more bytes than this.
    pub(crate) fn reading_at_most(name: &str, frame_len_max: u32) -> Self {
        let mut unsent = Vec::new();
        let frame_len_max = frame_len_max.max(FRAME_LEN_MIN);
        message::hello(&Hello { frame_len_max, ..Hello::of(name) }, &mut unsent);
        Self { decoder: Decoder::new(frame_len_max), unsent, is_welcome: false }
    }

    /// Takes in what was read.
    pub(crate) fn feed(&mut self, bytes: &[u8]) {
        self.decoder.feed(bytes);
    }

    /// What is to be written.
    pub(crate) fn unsent(&mut self) -> &mut Vec<u8> {
        &mut self.unsent
    }

    /// The next thing that is told. `None`: more bytes are needed.
    pub(crate) fn next(&mut self) -> Result<Option<Told<'_>>, FrameError> {
        let Self { decoder, unsent, is_welcome } = self;
        let Some(body) = decoder.next()? else { return Ok(None) };
        let (kind, mut envelope) = Envelope::open(body)?;
        // A helper that is leaving may say so first.
        if !*is_welcome && !matches!(kind, message::WELCOME | message::GO_AWAY) {
            return Err(FrameError::Malformed(format!("kind {kind} before the welcome")));
        }
        let told = match kind {
            message::WELCOME if *is_welcome => {
                return Err(FrameError::Malformed("a second welcome".to_owned()));
            }
            message::WELCOME => {
                let _version = envelope.id()?;
                let welcome = envelope.map()?;
                *is_welcome = true;
                Told::Welcome(welcome)
            }
            message::RESPONSE => {
                let (id, outcome) = message::responded(envelope)?;
                Told::Response { id, outcome }
            }
            message::SNAPSHOT => {
                let (id, epoch, sequence) = (envelope.id()?, envelope.number()?, envelope.number()?);
                let events = envelope.value()?;
                if !value::is_array(events) {
                    return Err(FrameError::Malformed("a snapshot that is no array".to_owned()));
                }
                Told::Snapshot { id, epoch, sequence, events }
            }
            message::EVENT => {
                Told::Event { id: envelope.id()?, sequence: envelope.number()?, event: envelope.value()? }
            }
            message::RESYNC => {
                let (id, missed) = (envelope.id()?, envelope.number()?);
                envelope.end()?;
                Told::Resync { id, missed }
            }
            message::END => Told::End { id: envelope.id()?, failure: envelope.map()? },
            message::GO_AWAY => Told::GoAway(envelope.map()?),
            message::PING => {
                let number = envelope.number()?;
                envelope.end()?;
                message::pong(number, unsent);
                Told::Nothing
            }
            message::PONG => {
                let number = envelope.number()?;
                envelope.end()?;
                Told::Pong(number)
            }
            _ => return Err(FrameError::Malformed(format!("kind {kind}, which no client takes"))),
        };
        Ok(Some(told))
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;
    use serde::Serialize;

    use super::*;
    use crate::ipc::frame;
    use crate::ipc::message::GoAwayCode;

    fn encoded<T: Serialize>(message: &T) -> Vec<u8> {
        let mut out = Vec::new();
        frame::encode(message, &mut out);
        out
    }

    /// A helper's words, whole.
    fn stream() -> Vec<u8> {
        let welcome = Welcome {
            name: "helper nest".to_owned(),
            version: "1.2".to_owned(),
            frame_len_max: 1,
            requests_max: 2,
            subscriptions_max: 3,
        };
        let mut out = Vec::new();
        message::welcome(&welcome, &mut out);
        message::response(3, &Ok::<_, ()>(5), &mut out);
        message::response(
            4,
            &Err::<(), _>(Failure { code: message::Code::Failed, message: "no".to_owned() }),
            &mut out,
        );
        message::snapshot(1, 7, 8, &[0x90], &mut out);
        message::event(1, 9, &[1], &mut out);
        message::resync(1, 2, &mut out);
        message::go_away(GoAwayCode::Leaving, "ends", &mut out);
        frame::encode(&(message::PING, 6), &mut out);
        out
    }

    #[test]
    fn every_truncation_gives_the_same_words() {
        let stream = stream();
        for cut in 0..=stream.len() {
            let mut caller = Caller::new("test");
            caller.unsent().clear();
            let mut told = Vec::new();
            for part in [&stream[..cut], &stream[cut..]] {
                caller.feed(part);
                while let Some(next) = caller.next().expect("valid") {
                    told.push(format!("{next:?}"));
                }
            }
            assert_eq!(told.len(), 8, "cut at {cut}");
            assert_eq!(told[1], "Response { id: 3, outcome: Ok([5]) }");
            assert!(told[2].contains("Err(["));
            assert_eq!(told[4], "Event { id: 1, sequence: 9, event: [1] }");
            assert_eq!(caller.unsent(), &encoded(&(message::PONG, 6)), "a ping is answered");
        }
    }

    #[test]
    fn a_helper_that_breaks_the_rules_is_left() {
        for frame in [
            encoded(&(message::EVENT, 1, 1, 1)),
            encoded(&"garbage"),
            encoded(&(message::WELCOME, 1, 7)),
            vec![0, 0, 0, 0],
            vec![0xff; 4],
        ] {
            let mut caller = Caller::new("test");
            caller.feed(&frame);
            assert!(caller.next().is_err(), "{frame:x?}");
        }
        let welcome = stream()[..4 + usize::from(stream()[3])].to_vec();
        for frame in [
            welcome,
            encoded(&(message::HELLO, 1)),
            encoded(&(message::RESPONSE, 1, ())),
            encoded(&(message::RESPONSE, 1, "no map", ())),
            encoded(&(message::SNAPSHOT, 1, 1, 1, "no array")),
            // Bytes behind the array: a result's, an event's and a pong's.
            vec![0, 0, 0, 6, 0x94, 1, 1, 0xc0, 1, 1],
            vec![0, 0, 0, 6, 0x94, 12, 1, 1, 1, 1],
            vec![0, 0, 0, 4, 0x92, 6, 1, 1],
        ] {
            let mut caller = Caller::new("test");
            caller.feed(&stream());
            while caller.next().expect("valid").is_some() {}
            caller.feed(&frame);
            assert!(caller.next().is_err(), "{frame:x?}");
        }
    }

    proptest! {
        #[test]
        fn garbage_never_panics(bytes in proptest::collection::vec(any::<u8>(), 0..200), kind in 0_u8..20) {
            let mut caller = Caller::new("test");
            caller.feed(&stream());
            let mut body = vec![0x94, kind];
            body.extend(&bytes);
            caller.feed(&u32::try_from(body.len()).expect("short").to_be_bytes());
            caller.feed(&body);
            while let Ok(Some(_)) = caller.next() {}
        }
    }
}
