//! The vectors of `tests/vectors`, through both ends of every connection that the page knows.

mod file;

use std::collections::HashMap;

use serde::{Deserialize, Serialize};
use serde_json::{Value, json};

use self::file::{Meant, Outcome, Piece, Reading, Vector, check, meant, read};
use super::callee::{Asked, Callee, Limits};
use super::caller::{Caller, Told};
use super::course::Course;
use super::envelope::{self, Envelope};
use super::frame::{self, Decoder, FrameError};
use super::message::{self, Code, Failure, ToLog};
use crate::contract::control::{CONTROL_LEN_MAX, FOLLOWED, Followed, PROGRESS, Refusal, Step};

const FRAMES: (&str, &str) = ("frames.json", include_str!("../../tests/vectors/frames.json"));
const TO_HELPER: (&str, &str) = ("to_helper.json", include_str!("../../tests/vectors/to_helper.json"));
const TO_CLIENT: (&str, &str) = ("to_client.json", include_str!("../../tests/vectors/to_client.json"));
const TO_LOG: (&str, &str) = ("to_log.json", include_str!("../../tests/vectors/to_log.json"));
const TO_MASTER: (&str, &str) = ("to_master.json", include_str!("../../tests/vectors/to_master.json"));
const FROM_MASTER: (&str, &str) = ("from_master.json", include_str!("../../tests/vectors/from_master.json"));
const FILES: [(&str, &str); 6] = [FRAMES, TO_HELPER, TO_CLIENT, TO_LOG, TO_MASTER, FROM_MASTER];

const PAGE: &str = include_str!("../../ipc-protocol.md");

/// What a helper takes of a connection, as the page says it.
const LIMITS: Limits = Limits { frame_len_max: 16 << 20, requests_max: 1024, subscriptions_max: 4096 };

/// The longest record for the log, and the longest request to the master.
const LOG_LEN_MAX: u32 = (2 << 20) + (64 << 10);
const REQUEST_LEN_MAX: u32 = 64 << 10;

/// What the helper's clock says, in milliseconds.
const NOW_MS: u64 = 1000;

fn encoded<T: Serialize>(message: &T) -> Vec<u8> {
    let mut out = Vec::new();
    frame::encode(message, &mut out);
    out
}

/// The messages in what would be written.
fn whole_messages(bytes: &[u8]) -> Vec<Value> {
    let mut decoder = Decoder::new(u32::MAX);
    decoder.feed(bytes);
    let mut messages = Vec::new();
    while let Some(body) = decoder.next().expect("our own frames") {
        messages.push(meant(body));
    }
    messages
}

// To a helper.

#[derive(Deserialize)]
struct Again {
    number: u64,
    #[serde(rename = "ms")]
    _ms: u64,
}

#[derive(Deserialize)]
struct Long {
    len: usize,
    #[serde(rename = "ms")]
    _ms: u64,
}

/// What the helper of the vectors makes of a request, or of a notification. `None`: it waits.
fn answered(method: &str, params: &[u8]) -> Result<Option<Result<Vec<u8>, Code>>, FrameError> {
    let mut out = Vec::new();
    let read = match method {
        "again" => message::params::<Again>(params).map(|(again, deadline)| {
            message::result(&again.number, &mut out).expect("a number");
            deadline
        }),
        "long" => message::params::<Long>(params).map(|(long, deadline)| {
            message::result(&"x".repeat(long.len), &mut out).expect("a text");
            deadline
        }),
        "refuse" => message::whole(params).map(|()| {
            message::failed(&json!({"code": "failed", "data": "as it was told"}), &mut out).expect("an error");
            None
        }),
        "slow" => return message::params::<Again>(params).map(|_| None),
        "panic" => return message::whole(params).map(|()| Some(Err(Code::Panicked))),
        _ => return message::whole(params).map(|()| Some(Err(Code::NoMethod))),
    };
    Ok(Some(match read {
        Ok(Some(deadline_ms)) if deadline_ms <= NOW_MS => Err(Code::DeadlineExceeded),
        Ok(_) => Ok(out),
        Err(_) => message::whole(params).map(|()| Err(Code::BadParams))?,
    }))
}

/// Does what is asked in the bytes so far.
fn serve(callee: &mut Callee<()>, messages: &mut Vec<Value>) -> Result<(), String> {
    while let Some(asked) = callee.next().map_err(|violation| violation.to_string())? {
        match asked {
            Asked::Hello => {
                callee.welcome("helper keeper", "1");
                messages.push(json!([message::HELLO]));
            }
            Asked::Request { id, method, params } => {
                let answer = answered(method, params).map_err(|error| error.to_string())?;
                messages.push(json!([message::REQUEST, id, method, meant(params)]));
                match answer {
                    None => callee.keep(id, ()),
                    Some(Ok(outcome)) => callee.answer(id, &outcome),
                    Some(Err(code)) => callee.refuse(id, code, "as it was told"),
                }
            }
            Asked::Notification { method, params } => {
                answered(method, params).map_err(|error| error.to_string())?;
                messages.push(json!([message::NOTIFICATION, method, meant(params)]));
            }
            Asked::Cancel { id } => {
                callee.cancelled(id);
                messages.push(json!([message::CANCEL, id]));
            }
            Asked::Nothing => messages.push(json!([])),
        }
        if callee.wants_snapshot() {
            callee.snapshot(1, 0, &[0x90]);
        }
    }
    Ok(())
}

fn as_helper(vector: &Vector) -> Reading {
    let mut callee = Callee::new(LIMITS);
    let mut reading = Reading::new();
    if vector.after.is_some() {
        callee.feed(&encoded(&json!([3, 1, {"name": "x"}])));
        serve(&mut callee, &mut Vec::new()).expect("hello");
        callee.unsent().tail().clear();
    }
    let end = vector.hex.iter().try_for_each(|piece| {
        callee.feed(&piece.bytes());
        serve(&mut callee, &mut reading.messages)
    });
    reading.replies = whole_messages(callee.unsent().rest());
    let code = |reply: &Value| reply[2].get("code").cloned().filter(|_| reply[0] == 1 || reply[0] == 15);
    if let Some(code) = reading.replies.iter().find_map(code) {
        // What an unknown method is answered with is part of a vector where it is what that shows.
        let is_shown = matches!(vector.outcome, Outcome::Error(_));
        reading.outcome = if is_shown { Outcome::Error(code) } else { Outcome::Accept };
    }
    reading.ended(end)
}

#[test]
fn a_helper_takes_each_vector_as_it_should() {
    check(FRAMES, as_helper);
    check(TO_HELPER, as_helper);
}

// To a client.

/// A client that has said what the vector says it has.
struct Client {
    caller: Caller,
    courses: HashMap<u64, Course>,
    waiting: Vec<u64>,
}

impl Client {
    fn new(vector: &Vector) -> Self {
        let mut client = Self { caller: Caller::new("x"), courses: HashMap::new(), waiting: Vec::new() };
        if vector.after.is_some() {
            let limits =
                json!({"name": "x", "version": "1", "frame_len_max": 4096, "requests_max": 8, "subscriptions_max": 8});
            client.hear(&encoded(&json!([4, 1, limits]))).expect("welcome");
        }
        for asked in &vector.asked {
            let id = asked[1].as_u64().expect("an id");
            let number = |value: &Value| u32::try_from(value.as_u64().expect("a number")).expect("32 bits");
            match asked[0].as_u64() {
                Some(0) => client.waiting.push(id),
                Some(8) => client.courses.get_mut(&id).expect("it is open").grant(number(&asked[2])),
                Some(10) => drop(client.courses.insert(id, Course::new(number(&asked[3]["credit"])))),
                Some(14) => drop(client.courses.remove(&id)),
                _ => {}
            }
        }
        if vector.after.as_deref() == Some("snapshot") {
            client.hear(&encoded(&json!([11, 1, 1_700_000_000_000_u64, 41, [10]]))).expect("a snapshot");
        }
        client.caller.unsent().clear();
        client
    }

    /// Takes in bytes, and returns what they tell.
    fn hear(&mut self, bytes: &[u8]) -> Result<Vec<Value>, String> {
        let mut heard = Vec::new();
        self.caller.feed(bytes);
        while let Some(told) = self.caller.next().map_err(|error| error.to_string())? {
            heard.push(match told {
                Told::Welcome(welcome) => json!([4, Value::Null, welcome]),
                Told::Response { id, outcome } => {
                    let Some(place) = self.waiting.iter().position(|&known| known == u64::from(id)) else {
                        return Err("a response to nothing".to_owned());
                    };
                    self.waiting.remove(place);
                    match outcome {
                        Ok(result) => json!([1, id, Value::Null, meant(result)]),
                        Err(error) => {
                            let failure: Failure = envelope::named(error).map_err(|error| error.to_string())?;
                            json!([1, id, failure_of(&failure), Value::Null])
                        }
                    }
                }
                Told::Snapshot { id, epoch, sequence, events } => {
                    self.courses.get_mut(&id.into()).map_or(Ok(()), |course| course.snapshot(sequence))?;
                    json!([11, id, number(epoch), number(sequence), meant(events)])
                }
                Told::Event { id, sequence, event } => {
                    self.courses.get_mut(&id.into()).map_or(Ok(()), |course| course.event(sequence))?;
                    json!([12, id, number(sequence), meant(event)])
                }
                Told::Resync { id, missed } => {
                    self.courses.get_mut(&id.into()).into_iter().for_each(Course::resync);
                    json!([13, id, missed])
                }
                Told::End { id, failure } => json!([15, id, failure_of(&failure)]),
                Told::GoAway(away) => json!([9, {"reason": away.reason}]),
                Told::Pong(number) => json!([6, number]),
                Told::Nothing => json!([]),
            });
        }
        Ok(heard)
    }
}

/// A code of a later version is taken for `failed`.
fn failure_of(failure: &Failure) -> Value {
    let code = if failure.code == Code::Unknown { Code::Failed } else { failure.code };
    json!({"code": code})
}

fn number(value: u64) -> Value {
    meant(&encoded(&value)[frame::HEADER_LEN..])
}

#[test]
fn a_client_takes_each_vector_as_it_should() {
    check(TO_CLIENT, |vector| {
        let mut client = Client::new(vector);
        let mut reading = Reading::new();
        let end = vector.hex.iter().try_for_each(|piece| {
            reading.messages.extend(client.hear(&piece.bytes())?);
            Ok::<_, String>(())
        });
        reading.replies = whole_messages(client.caller.unsent());
        for message in &mut reading.messages {
            let Some(code) = message[2].get("code").cloned() else { continue };
            // The code of a later version is not in what the vector means.
            message[2] = Value::Null;
            message.as_array_mut().expect("a message").truncate(2);
            reading.outcome = Outcome::Error(code);
        }
        for welcome in reading.messages.iter_mut().filter(|message| message[0] == 4) {
            welcome[1] = vector.meaning.as_ref().map_or(Value::Null, |meaning| meaning[0][1].clone());
        }
        reading.ended(end)
    });
}

// To the log and to the master, and from it.

fn hear_for_the_log(decoder: &mut Decoder, is_greeted: &mut bool) -> Result<Vec<Value>, FrameError> {
    let mut heard = Vec::new();
    while let Some(body) = decoder.next()? {
        let told = message::to_log(body, *is_greeted)?;
        heard.push(match told {
            ToLog::Hello(hello) => json!([3, meant(body)[1], {"name": hello.name}]),
            ToLog::Record(sequence, record) => json!([16, sequence, record]),
        });
        *is_greeted = true;
        decoder.set_len_max(LOG_LEN_MAX);
    }
    Ok(heard)
}

#[test]
fn the_log_takes_each_vector_as_it_should() {
    check(TO_LOG, |vector| {
        let mut is_greeted = vector.after.is_some();
        let mut decoder = Decoder::new(if is_greeted { LOG_LEN_MAX } else { message::GREETING_LEN_MAX });
        let mut reading = Reading::new();
        let end = vector.hex.iter().try_for_each(|piece| {
            decoder.feed(&piece.bytes());
            reading.messages.extend(hear_for_the_log(&mut decoder, &mut is_greeted)?);
            Ok::<_, FrameError>(())
        });
        reading.ended(end)
    });
}

/// Reads a request as the master does.
fn requested(body: &[u8]) -> Result<Value, FrameError> {
    let (id, method, params) = message::requested(body)?;
    message::whole(params)?;
    Ok(json!([message::REQUEST, id, method, meant(params)]))
}

#[test]
fn the_master_takes_each_vector_as_it_should() {
    check(TO_MASTER, |vector| {
        let mut reading = Reading::new();
        let mut decoder = Decoder::new(REQUEST_LEN_MAX);
        let end = vector.hex.iter().try_for_each(|piece| {
            decoder.feed(&piece.bytes());
            while let Some(body) = decoder.next()? {
                reading.messages.push(requested(body)?);
            }
            Ok::<_, FrameError>(())
        });
        let mut reading = reading.ended(end);
        // Only the running master knows what it refuses and answers, and how many come at once.
        if matches!(vector.outcome, Outcome::Error(_)) || vector.rule.as_deref() == Some("M3") {
            reading.outcome = vector.outcome.clone();
        }
        reading.replies.clone_from(&vector.reply);
        reading
    });
}

#[test]
fn the_command_line_takes_each_vector_as_it_should() {
    check(FROM_MASTER, |vector| {
        let mut reading = Reading::new();
        let mut decoder = Decoder::new(CONTROL_LEN_MAX);
        vector.hex.iter().for_each(|piece| decoder.feed(&piece.bytes()));
        let body = decoder.next().expect("a frame").expect("a whole one");
        let (kind, _) = Envelope::open(body).expect("a message");
        if kind == message::NOTIFICATION {
            let step = message::notified::<Step>(body, PROGRESS).expect("a notification");
            let followed = || message::notified::<Followed>(body, FOLLOWED).expect("a notification");
            let followed = || followed().map_or(json!([]), |followed| json!([2, FOLLOWED, [followed]]));
            reading.messages.push(step.map_or_else(followed, |step| json!([2, PROGRESS, [step]])));
        } else {
            let (id, outcome) = message::outcome::<Meant, Refusal>(body).expect("a response");
            reading.messages.push(match outcome {
                Ok(Meant(result)) => json!([1, id, Value::Null, result]),
                Err(refusal) => {
                    reading.outcome = Outcome::Error(refusal.exit.into());
                    json!([1, id, refusal])
                }
            });
        }
        reading
    });
}

// The page and its vectors.

/// The examples of the page: names and bytes.
fn examples() -> HashMap<&'static str, Vec<u8>> {
    let blocks = PAGE.split("```hex ").skip(1).filter_map(|rest| rest.split("```").next()?.split_once('\n'));
    let bytes = |text: &str| Piece::Once(text.split_ascii_whitespace().collect::<Vec<_>>().join(" ")).bytes();
    blocks.map(|(name, text)| (name, bytes(text))).collect()
}

#[test]
fn every_example_of_the_page_is_a_vector() {
    let mut examples = examples();
    for (file, text) in FILES {
        for vector in read(text) {
            let Some(name) = &vector.page else { continue };
            let bytes: Vec<u8> = vector.hex.iter().flat_map(Piece::bytes).collect();
            assert_eq!(examples.remove(&name[..]), Some(bytes), "{file}: {}", vector.name);
            assert!(vector.meaning.is_some(), "{file}: {}", vector.name);
        }
    }
    assert!(examples.is_empty(), "{:?} are no vectors", examples.keys());
}

#[test]
fn a_vector_has_a_name_of_its_own_and_breaks_a_rule_that_there_is() {
    let (_, rules) = PAGE.split_once("\n| rule | who must keep it |").expect("the rules");
    let rules: Vec<&str> = rules.lines().filter_map(|line| line.strip_prefix("| `")?.split('`').next()).collect();
    for (file, text) in FILES {
        let mut names = Vec::new();
        for Vector { name, rule, outcome, .. } in read(text) {
            assert!(rule.as_deref().is_none_or(|rule| rules.contains(&rule)), "{file}: {name}");
            assert_eq!(rule.is_some(), outcome == Outcome::Close, "{file}: {name}");
            assert!(!names.contains(&name), "{file}: {name} comes twice");
            names.push(name);
        }
    }
}
