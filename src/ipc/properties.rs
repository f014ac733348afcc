//! Whatever comes on a connection, at whatever pace: nothing panics, no more is kept than came, and how
//! the bytes were cut makes no difference.

use proptest::collection::vec;
use proptest::prelude::*;
use serde_json::{Value, json};

use super::callee::{Asked, Callee, Limits};
use super::caller::Caller;
use super::envelope::Envelope;
use super::frame::{self, HEADER_LEN};
use super::message;

const LIMITS: Limits = Limits { frame_len_max: 64 * 1024, requests_max: 3, subscriptions_max: 3 };

/// What a decoder may keep beside what came: the smallest allocation, and half as much again.
const SPARE: usize = 64;

fn encoded(messages: &[Value]) -> Vec<Vec<u8>> {
    let frame = |message: &Value| {
        let mut out = Vec::new();
        frame::encode(message, &mut out);
        out
    };
    messages.iter().map(frame).collect()
}

fn to_a_helper() -> Vec<Vec<u8>> {
    encoded(&[
        json!([0, 1, "add", [{"by": 3}]]),
        json!([0, 2, "add", [{"by": 3}, 60_000], "later"]),
        json!([2, "add", [{"by": 3}, null]]),
        json!([5, 7]),
        json!([6, 7, "later"]),
        json!([7, 1]),
        json!([8, 1, 3]),
        json!([10, 1, "events", {"credit": 3, "later": [1]}]),
        json!([10, 2, "weather", {"credit": 3}]),
        json!([14, 1]),
        json!([3, 1, {"name": "again"}]),
        json!([99, {}]),
    ])
}

fn from_a_helper() -> Vec<Vec<u8>> {
    encoded(&[
        json!([1, 1, null, [1, 2, {"a": "b"}]]),
        json!([1, 2, {"code": "failed", "message": "no", "data": {"x": 1}}, null]),
        json!([5, 7]),
        json!([6, 7]),
        json!([9, {"code": "leaving", "reason": "ends"}]),
        json!([11, 1, 1_700_000_000_000_u64, 3, [{"a": 1}, {"b": [1, 2]}]]),
        json!([12, 1, 4, {"a": "x".repeat(100)}]),
        json!([13, 1, 5]),
        json!([15, 1, {"code": "no_topic", "message": "no"}]),
        json!([4, 1, {"name": "again", "version": "1", "frame_len_max": 1, "requests_max": 1, "subscriptions_max": 1}]),
    ])
}

/// What one byte or a few become.
#[derive(Clone, Debug)]
enum Harm {
    Flip(usize, u8),
    Remove(usize, usize),
    Repeat(usize, usize),
}

fn harms() -> impl Strategy<Value = Vec<Harm>> {
    let harm = prop_oneof![
        (any::<usize>(), 1_u8..).prop_map(|(at, bits)| Harm::Flip(at, bits)),
        (any::<usize>(), 1_usize..9).prop_map(|(at, len)| Harm::Remove(at, len)),
        (any::<usize>(), 1_usize..9).prop_map(|(at, len)| Harm::Repeat(at, len)),
    ];
    vec(harm, 0..4)
}

fn harmed(mut bytes: Vec<u8>, harms: &[Harm]) -> Vec<u8> {
    for harm in harms {
        if bytes.is_empty() {
            break;
        }
        let part = |at: usize, len: usize| {
            let at = at % bytes.len();
            at..bytes.len().min(at + len)
        };
        match *harm {
            Harm::Flip(at, bits) => {
                let at = at % bytes.len();
                bytes[at] ^= bits;
            }
            Harm::Remove(at, len) => drop(bytes.drain(part(at, len))),
            Harm::Repeat(at, len) => {
                let part = part(at, len);
                let again = bytes[part.clone()].to_vec();
                bytes.splice(part.start..part.start, again);
            }
        }
    }
    bytes
}

/// A greeting and these messages, with what became of them; or nothing but noise.
fn stream(greeting: Vec<u8>, known: Vec<Vec<u8>>) -> impl Strategy<Value = Vec<u8>> {
    let noise = vec(any::<u8>(), 0..200);
    let picked = (vec(proptest::sample::select(known), 0..12), noise.clone(), harms());
    let greeted = picked.prop_map(move |(messages, noise, harms)| {
        harmed([&greeting[..], &messages.concat(), &noise[..noise.len() / 8]].concat(), &harms)
    });
    prop_oneof![8 => greeted, 1 => noise]
}

fn hello() -> Vec<u8> {
    encoded(&[json!([3, 1, {"name": "worker 0", "frame_len_max": 5000}])]).concat()
}

fn welcome() -> Vec<u8> {
    let welcome =
        json!({"name": "helper", "version": "1", "frame_len_max": 9, "requests_max": 9, "subscriptions_max": 9});
    encoded(&[json!([4, 1, welcome])]).concat()
}

/// What a helper makes of it, and what it writes.
fn asked(stream: &[u8], cuts: &[usize]) -> (Vec<String>, Vec<u8>) {
    let mut callee = Callee::<u8>::new(LIMITS);
    let mut seen = Vec::new();
    let mut came = 0;
    for piece in pieces(stream, cuts) {
        callee.feed(piece);
        came += piece.len();
        assert!(callee.kept() <= 2 * came + SPARE, "{} bytes for {came}", callee.kept());
        loop {
            let next = callee.next();
            seen.push(format!("{next:?}"));
            match next {
                Ok(None) => {
                    seen.pop();
                    break;
                }
                Ok(Some(Asked::Hello)) => callee.welcome("helper", "1"),
                Ok(Some(Asked::Request { id, .. })) => callee.keep(id, 1),
                Ok(Some(Asked::Cancel { id })) => drop(callee.cancelled(id)),
                Ok(Some(Asked::Notification { .. } | Asked::Nothing)) => {}
                Err(_) => return (seen, callee.unsent().rest().to_vec()),
            }
        }
    }
    (seen, callee.unsent().rest().to_vec())
}

/// What a client makes of it, and what it writes.
fn told(stream: &[u8], cuts: &[usize]) -> (Vec<String>, Vec<u8>) {
    let mut caller = Caller::reading_at_most("test", 4096);
    let mut seen = Vec::new();
    for piece in pieces(stream, cuts) {
        caller.feed(piece);
        loop {
            match caller.next() {
                Ok(None) => break,
                Ok(Some(told)) => seen.push(format!("{told:?}")),
                Err(error) => {
                    seen.push(error.to_string());
                    return (seen, caller.unsent().clone());
                }
            }
        }
    }
    (seen, caller.unsent().clone())
}

/// The stream in pieces of these lengths, again and again.
fn pieces<'a>(mut stream: &'a [u8], cuts: &[usize]) -> Vec<&'a [u8]> {
    let mut lens = cuts.iter().cycle();
    let mut pieces = Vec::new();
    while !stream.is_empty() {
        let (piece, rest) = stream.split_at(stream.len().min(lens.next().copied().unwrap_or(stream.len())));
        pieces.push(piece);
        stream = rest;
    }
    pieces
}

proptest! {
    #[test]
    fn a_helper_makes_the_same_of_any_cut_of_any_stream(
        stream in stream(hello(), to_a_helper()),
        cuts in vec(1_usize..40, 1..5),
    ) {
        prop_assert_eq!(asked(&stream, &[]), asked(&stream, &cuts));
    }

    #[test]
    fn a_client_makes_the_same_of_any_cut_of_any_stream(
        stream in stream(welcome(), from_a_helper()),
        cuts in vec(1_usize..40, 1..5),
    ) {
        prop_assert_eq!(told(&stream, &[]), told(&stream, &cuts));
    }

    /// What is read of a message without looking for its end and with it, is the same, if it is whole.
    #[test]
    fn a_payload_is_what_another_reader_takes_for_it(
        body in (proptest::sample::select([to_a_helper(), from_a_helper()].concat()), harms())
            .prop_map(|(frame, harms)| harmed(frame[HEADER_LEN..].to_vec(), &harms)),
    ) {
        let whole = frame::decode::<Value>(&body).ok();
        if let Ok((_, mut envelope)) = Envelope::open(&body) {
            let value = envelope.clone().value();
            let _ = (message::requested(&body), message::to_log(&body, true), message::to_log(&body, false));
            let _ = message::outcome::<Value, Value>(&body);
            if let (Some(whole), Ok(value)) = (whole, value) {
                prop_assert_eq!(&frame::decode::<Value>(value).expect("a part of what is whole"), &whole[1]);
                prop_assert_eq!(envelope.clone().payload(), Ok(value));
                prop_assert!(envelope.element().is_ok() && envelope.end().is_ok());
            }
        }
    }
}

#[test]
fn valid_streams_are_read_to_their_end() {
    let stream = [hello(), to_a_helper()[..10].concat()].concat();
    let (seen, _) = asked(&stream, &[7]);
    assert!(seen.len() == 11 && seen.iter().all(|next| next.starts_with("Ok(")), "{seen:?}");
    let (seen, _) = told(&[welcome(), from_a_helper()[..9].concat()].concat(), &[7]);
    assert_eq!(seen.len(), 10, "{seen:?}");
}
