//! What `tests/fuzz` feeds with bytes: a function for each reader of what a peer may say.
//!
//! The bytes are a stream, as a socket gives it. Whatever they are, no reader may panic; what must
//! hold besides is asserted here. Only with `--cfg fuzzing`, and in tests, is this part of the crate.

use std::collections::HashMap;
use std::fmt::Debug;

use serde::Serialize;
use serde::de::DeserializeOwned;
use serde_json::{Map, Value};

use crate::contract::control::{Nothing, Refusal, Restart, Scale, Step};
use crate::contract::orders::{ChildOrder, ChildReport, LogOrder, LogReport, ORDER_LEN_MAX, ZygoteOrder, ZygoteReport};
use crate::ipc::callee::{Asked, Callee, Limits, UNSENT_MAX};
use crate::ipc::caller::{Caller, Told};
use crate::ipc::frame::{self, Decoder, FrameError, HEADER_LEN};
use crate::ipc::message::{self, Code, Failure, ToLog};
use crate::log::printable::Printable;

/// The longest frame of most streams here, in bytes. Frames of the real limits find nothing more.
const FRAME_LEN_MAX: u32 = 64 * 1024;

/// The same where it is a frame's length that matters: the fuzzer's streams are short.
const SHORT_LEN_MAX: u32 = 256;

/// However a stream is cut, it holds the frames that stand in it, and ends with the same error.
pub fn frames(stream: &[u8]) {
    let expected = standing(stream);
    for piece in [stream.len().max(1), piece_len(stream)] {
        assert_eq!(cut(stream, piece), expected, "in pieces of {piece} bytes");
    }
}

/// A helper's side answers what it is asked, and a client's side understands all it says.
pub fn helper(stream: &[u8]) {
    let limits = Limits { frame_len_max: FRAME_LEN_MAX, requests_max: 2, subscriptions_max: 2 };
    let (mut callee, mut client, mut sequence) = (Callee::<()>::new(limits), Client::new(), 0);
    for piece in stream.chunks(piece_len(stream)) {
        callee.feed(piece);
        loop {
            let answered = match callee.next() {
                Err(_) => return client.listen(&mut callee),
                Ok(None) => break,
                Ok(Some(asked)) => Answer::to(&asked),
            };
            if let Answer::Result(id, _) | Answer::Refused(id, _) | Answer::Later(id) = answered {
                *client.waiting.entry(id).or_default() += 1;
            }
            answered.give(&mut callee);
            sequence += 1;
            callee.publish(sequence, &[0x07]);
            if callee.wants_snapshot() {
                callee.snapshot(1, sequence, &[0x91, 0x07]);
            }
            client.listen(&mut callee);
            assert!(callee.unanswered() <= limits.requests_max as usize, "more requests than were allowed");
        }
    }
    client.listen(&mut callee);
}

/// A client's side takes what a helper says, and reads it as its callers do.
pub fn client(stream: &[u8]) {
    let mut caller = Caller::new("fuzz");
    let greeting = caller.unsent().len();
    for piece in stream.chunks(piece_len(stream)) {
        caller.feed(piece);
        while let Ok(Some(told)) = caller.next() {
            match told {
                Told::Response { outcome: Ok(result), .. } => drop(frame::decode::<Value>(result)),
                Told::Response { outcome: Err(error), .. } => {
                    drop(frame::decode::<Value>(error));
                    drop(frame::decode::<Failure>(error));
                }
                Told::Snapshot { events, .. } => drop(frame::decode::<Vec<Value>>(events)),
                Told::Event { event, .. } => drop(frame::decode::<Value>(event)),
                Told::Welcome(_)
                | Told::Resync { .. }
                | Told::End { .. }
                | Told::GoAway(_)
                | Told::Pong(_)
                | Told::Nothing => {}
            }
        }
    }
    // The longest pong has 15 bytes, the shortest ping has 7.
    assert!(caller.unsent().len() <= greeting + 3 * stream.len(), "more answers than questions");
}

/// The log helper's reader; what it shows makes no terminal obey.
pub fn log(stream: &[u8]) {
    let mut is_greeted = false;
    each(stream, FRAME_LEN_MAX, |body| match message::to_log(body, is_greeted) {
        Ok(ToLog::Record(number, record)) => {
            let mut again = Vec::new();
            message::log(number, &record, &mut again);
            let shown = Printable { text: &record.message, line_break: "\n    " }.to_string();
            assert!(shown.chars().all(|c| !c.is_control() || c == '\t' || c == '\n'), "{shown:?}");
            assert_eq!(message::to_log(&again[HEADER_LEN..], true), Ok(ToLog::Record(number, record)));
        }
        Ok(ToLog::Hello(_)) => is_greeted = true,
        Err(_) => {}
    });
}

/// The master's reader of the control socket, and the command line's.
pub fn control(stream: &[u8]) {
    each(stream, FRAME_LEN_MAX, |body| {
        if let Ok((_, _, arguments)) = message::requested(body) {
            drop(message::params::<Nothing>(arguments));
            drop(message::params::<Scale>(arguments));
            drop(message::params::<Restart>(arguments));
            drop(message::params::<Map<String, Value>>(arguments));
        }
        drop(message::outcome::<Value, Refusal>(body));
        drop(message::notified::<Step>(body, "progress"));
    });
}

/// What the master and its children tell each other.
pub fn orders(stream: &[u8]) {
    each(stream, ORDER_LEN_MAX, |body| {
        reads_what_it_writes::<ZygoteOrder>(body);
        reads_what_it_writes::<ZygoteReport>(body);
        reads_what_it_writes::<ChildOrder>(body);
        reads_what_it_writes::<ChildReport>(body);
        reads_what_it_writes::<LogOrder>(body);
        reads_what_it_writes::<LogReport>(body);
    });
}

/// What was understood is the same when it is said again.
fn reads_what_it_writes<T: Serialize + DeserializeOwned + Debug>(body: &[u8]) {
    let Ok(order) = frame::decode::<T>(body) else { return };
    let mut again = Vec::new();
    frame::encode(&order, &mut again);
    let read = frame::decode::<T>(&again[HEADER_LEN..]).expect("what was written is understood");
    assert_eq!(format!("{order:?}"), format!("{read:?}"));
}

/// In how long pieces a stream is fed: the stream itself says so, and stays what it is.
fn piece_len(stream: &[u8]) -> usize {
    let last = stream.last().copied().unwrap_or_default();
    usize::from(last % 64) + 1
}

fn each(stream: &[u8], len_max: u32, mut read: impl FnMut(&[u8])) {
    let mut decoder = Decoder::new(len_max);
    for piece in stream.chunks(piece_len(stream)) {
        decoder.feed(piece);
        while let Ok(Some(body)) = decoder.next() {
            read(body);
        }
    }
}

/// The contents of a stream's frames, and the error that it ends with.
type Frames = (Vec<Vec<u8>>, Option<FrameError>);

/// As the decoder cuts them, fed in pieces of this length.
fn cut(stream: &[u8], piece: usize) -> Frames {
    let (mut decoder, mut bodies) = (Decoder::new(SHORT_LEN_MAX), Vec::new());
    for piece in stream.chunks(piece) {
        decoder.feed(piece);
        loop {
            match decoder.next() {
                Err(error) => return (bodies, Some(error)),
                Ok(None) => break,
                Ok(Some(body)) => bodies.push(body.to_vec()),
            }
        }
    }
    (bodies, None)
}

/// As they stand there: the rules of the page, without the decoder.
fn standing(mut stream: &[u8]) -> Frames {
    let mut bodies = Vec::new();
    while let Some((header, behind)) = stream.split_first_chunk::<HEADER_LEN>() {
        let len = u32::from_be_bytes(*header);
        if len == 0 {
            return (bodies, Some(FrameError::Empty));
        }
        if len > SHORT_LEN_MAX {
            return (bodies, Some(FrameError::TooLong { len, max: SHORT_LEN_MAX }));
        }
        let Some((body, next)) = behind.split_at_checked(len as usize) else { break };
        bodies.push(body.to_vec());
        stream = next;
    }
    (bodies, None)
}

/// What a helper does with what it is asked.
enum Answer {
    Welcome,
    Result(u32, Map<String, Value>),
    Refused(u32, String),
    Later(u32),
    Cancelled(u32),
    Nothing,
}

impl Answer {
    fn to(asked: &Asked<'_>) -> Self {
        match *asked {
            Asked::Hello => Self::Welcome,
            // For these it takes its time: then there is something to cancel, or too much at once.
            Asked::Request { id, .. } if id % 2 == 1 => Self::Later(id),
            Asked::Request { id, params, .. } => match message::params(params) {
                Ok((arguments, _)) => Self::Result(id, arguments),
                Err(error) => Self::Refused(id, error.reason()),
            },
            Asked::Notification { params, .. } => {
                drop(message::params::<Map<String, Value>>(params));
                Self::Nothing
            }
            Asked::Cancel { id } => Self::Cancelled(id),
            Asked::Nothing => Self::Nothing,
        }
    }

    fn give(self, callee: &mut Callee<()>) {
        match self {
            Self::Welcome => callee.welcome("helper fuzz", "1"),
            Self::Result(id, arguments) => {
                let mut outcome = Vec::new();
                match message::result(&arguments, &mut outcome) {
                    Ok(()) => callee.answer(id, &outcome),
                    Err(error) => callee.refuse(id, Code::Failed, &error.reason()),
                }
            }
            Self::Refused(id, why) => callee.refuse(id, Code::BadParams, &why),
            Self::Later(id) => callee.keep(id, ()),
            Self::Cancelled(id) => drop(callee.cancelled(id)),
            Self::Nothing => {}
        }
    }
}

/// Hears all that a helper says, and whether it keeps its own rules.
struct Client {
    caller: Caller,
    /// How many answers it must still expect for an id.
    waiting: HashMap<u32, usize>,
    /// The last event of each subscription.
    sequences: HashMap<u32, u64>,
}

impl Client {
    fn new() -> Self {
        Self { caller: Caller::new("fuzz"), waiting: HashMap::new(), sequences: HashMap::new() }
    }

    fn listen(&mut self, callee: &mut Callee<()>) {
        let Self { caller, waiting, sequences } = self;
        assert!(callee.unsent().len() < 2 * UNSENT_MAX, "more than a peer may leave unread");
        caller.feed(callee.unsent().rest());
        let len = callee.unsent().len();
        callee.unsent().wrote(len);
        while let Some(told) = caller.next().expect("a client understands what a helper says") {
            match told {
                Told::Response { id, .. } => {
                    let open = waiting.get_mut(&id).filter(|open| **open > 0);
                    *open.expect("a response answers a request that waits") -= 1;
                }
                Told::Snapshot { id, sequence, .. } => drop(sequences.insert(id, sequence)),
                Told::Event { id, sequence, .. } => {
                    let last = sequences.insert(id, sequence);
                    assert_eq!(last, Some(sequence - 1), "events follow their snapshot without a gap");
                }
                Told::End { id, .. } => drop(sequences.remove(&id)),
                Told::Welcome(_) | Told::Resync { .. } | Told::GoAway(_) | Told::Pong(_) | Told::Nothing => {}
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    const READERS: [fn(&[u8]); 6] = [frames, helper, client, log, control, orders];

    /// The examples of the page, whole frames.
    fn examples() -> Vec<Vec<u8>> {
        let blocks = include_str!("../ipc-protocol.md").split("```hex ").skip(1);
        let words = blocks.filter_map(|block| block.split("```").next()?.split_once('\n'));
        let byte = |pair| u8::from_str_radix(pair, 16).expect("hex");
        words.map(|(_, hex)| hex.split_ascii_whitespace().map(byte).collect()).collect()
    }

    #[test]
    fn every_example_passes_every_reader_alone_and_behind_a_greeting() {
        let examples = examples();
        let greetings: Vec<&Vec<u8>> = examples.iter().filter(|frame| matches!(frame[5], 3 | 4)).collect();
        assert!(greetings.len() >= 2, "hello and welcome");
        for frame in &examples {
            READERS.iter().for_each(|read| read(frame));
            for greeting in &greetings {
                READERS.iter().for_each(|read| read(&[greeting, &frame[..]].concat()));
            }
        }
    }

    proptest! {
        #[test]
        fn no_garbage_behind_a_greeting_makes_a_reader_panic(
            bodies in proptest::collection::vec(proptest::collection::vec(any::<u8>(), 1..40), 0..6),
        ) {
            let mut stream = examples().concat();
            for body in bodies {
                stream.extend(u32::try_from(body.len()).expect("short").to_be_bytes());
                stream.extend(body);
            }
            READERS.iter().for_each(|read| read(&stream));
        }
    }
}
