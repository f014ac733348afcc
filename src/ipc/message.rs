//! Messages: a frame whose content is one array, `[kind, …]`. The kinds are in `ipc-protocol.md`.
//!
//! Kinds 0, 1 and 2 are exactly MessagePack-RPC's request, response and notification. Everything
//! that is written is written here; each reader takes what it may be told.

use serde::de::DeserializeOwned;
use serde::{Deserialize, Serialize};

use super::envelope::{self, Envelope};
use super::frame::{self, FrameError};
use super::log_record::LogRecord;
use super::{text, value};

pub(crate) const REQUEST: u8 = 0;
pub(crate) const RESPONSE: u8 = 1;
pub(crate) const NOTIFICATION: u8 = 2;
pub(crate) const HELLO: u8 = 3;
pub(crate) const WELCOME: u8 = 4;
pub(crate) const PING: u8 = 5;
pub(crate) const PONG: u8 = 6;
pub(crate) const CANCEL: u8 = 7;
pub(crate) const CREDIT: u8 = 8;
pub(crate) const GO_AWAY: u8 = 9;
pub(crate) const SUBSCRIBE: u8 = 10;
pub(crate) const SNAPSHOT: u8 = 11;
pub(crate) const EVENT: u8 = 12;
pub(crate) const RESYNC: u8 = 13;
pub(crate) const UNSUBSCRIBE: u8 = 14;
pub(crate) const END: u8 = 15;
pub(crate) const LOG: u8 = 16;

/// The version of `ipc-protocol.md` that is spoken here.
pub(crate) const PROTOCOL: u32 = 1;

/// The longest frame before the hello, in bytes.
pub(crate) const GREETING_LEN_MAX: u32 = 4 * 1024;

/// The longest frame from a helper, in bytes, unless its client reads less.
pub(crate) const ANSWER_LEN_MAX: u32 = 64 * 1024 * 1024;

/// The shortest limit that a client can say: what is said to everybody is shorter.
pub(crate) const FRAME_LEN_MIN: u32 = 4 * 1024;

/// The longest name in a hello that is kept, in characters.
const NAME_LEN_MAX: usize = 128;

/// The first message on a connection: who speaks.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Hello {
    /// What a log line names as its origin: `worker 0 generation 1`.
    #[serde(deserialize_with = "text::read")]
    pub(crate) name: String,
    /// The longest frame that it reads, in bytes.
    #[serde(default = "Hello::reads_all", skip_serializing_if = "Hello::is_all")]
    pub(crate) frame_len_max: u32,
}

impl Hello {
    /// Who reads whatever a helper may send.
    pub(crate) fn of(name: &str) -> Self {
        Self { name: name.to_owned(), frame_len_max: ANSWER_LEN_MAX }
    }

    fn reads_all() -> u32 {
        ANSWER_LEN_MAX
    }

    #[expect(clippy::trivially_copy_pass_by_ref, reason = "serde hands over a reference")]
    fn is_all(frame_len_max: &u32) -> bool {
        *frame_len_max == ANSWER_LEN_MAX
    }

    /// Its name, cut to what is kept of it.
    fn cut(mut self) -> Self {
        if let Some((end, _)) = self.name.char_indices().nth(NAME_LEN_MAX) {
            self.name.truncate(end);
        }
        self
    }
}

/// A helper's answer to [`Hello`]: who it is, and what it takes.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Welcome {
    /// `helper nest generation 1`
    #[serde(deserialize_with = "text::read")]
    pub(crate) name: String,
    /// The helper's own version.
    #[serde(deserialize_with = "text::read")]
    pub(crate) version: String,
    /// The longest frame it reads from now on, in bytes.
    pub(crate) frame_len_max: u32,
    /// The most requests that may be unanswered on this connection.
    pub(crate) requests_max: u32,
    /// The most subscriptions of this connection.
    pub(crate) subscriptions_max: u32,
}

/// Why a request failed, or a subscription ended.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Failure {
    #[serde(deserialize_with = "text::named")]
    pub(crate) code: Code,
    /// For people.
    #[serde(default, deserialize_with = "text::read")]
    pub(crate) message: String,
}

/// What kind of failure, for programs.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub(crate) enum Code {
    /// The helper's own error stands in `data`.
    Failed,
    /// The request's handler panicked.
    Panicked,
    /// The helper has no such method.
    NoMethod,
    /// The parameters are not what the method takes.
    BadParams,
    /// The deadline passed before the request was begun.
    DeadlineExceeded,
    /// The caller cancelled it.
    Cancelled,
    /// Too much is asked at once; nothing was done.
    Overloaded,
    /// It was done, and its answer is longer than the client reads.
    TooLong,
    /// The helper has no such topic.
    NoTopic,
    /// A code of a later version.
    #[serde(other)]
    Unknown,
}

/// How a subscription begins: so many events may be sent.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Terms {
    pub(crate) credit: u32,
}

/// Why a connection takes no more requests.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct GoAway {
    #[serde(default, deserialize_with = "text::named")]
    pub(crate) code: GoAwayCode,
    /// For people.
    #[serde(deserialize_with = "text::read")]
    pub(crate) reason: String,
}

/// The same for programs.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub(crate) enum GoAwayCode {
    /// The client has broken a rule: the connection is closed.
    RuleBroken,
    /// Its user may not ask: the connection is closed.
    NotAllowed,
    /// This process ends: what was asked is answered. A code of a later version means this too.
    #[default]
    #[serde(other)]
    Leaving,
}

/// `[0, id, method, [params]]`
pub(crate) fn request<P: Serialize>(id: u32, method: &str, params: &P, out: &mut Vec<u8>) {
    frame::encode(&(REQUEST, id, method, (params,)), out);
}

/// `[0, id, method, [params, deadline]]`: the deadline is CLOCK_MONOTONIC's milliseconds.
///
/// Returns an error, and leaves `out` as it was, for parameters that do not encode.
pub(crate) fn request_until<P: Serialize>(
    id: u32,
    method: &str,
    params: &P,
    deadline_ms: u64,
    out: &mut Vec<u8>,
) -> Result<(), FrameError> {
    frame::try_encode(&(REQUEST, id, method, (params, deadline_ms)), out)
}

/// `[1, id, null, result]`, or `[1, id, error, null]`
pub(crate) fn response<E: Serialize, R: Serialize>(id: u32, outcome: &Result<R, E>, out: &mut Vec<u8>) {
    match outcome {
        Ok(result) => frame::encode(&(RESPONSE, id, (), result), out),
        Err(error) => frame::encode(&(RESPONSE, id, error, ()), out),
    }
}

/// `[1, id, …]`, the last two elements as [`result`] or [`failed`] wrote them.
pub(crate) fn answer(id: u32, outcome: &[u8], out: &mut Vec<u8>) {
    frame::encode_before::<_, 2>(&(RESPONSE, id), outcome, out);
}

/// The last two elements of a response that has a result.
pub(crate) fn result<R: Serialize>(result: &R, out: &mut Vec<u8>) -> Result<(), FrameError> {
    frame::append(&(), out)?;
    frame::append(result, out)
}

/// The last two elements of a response that has an error.
pub(crate) fn failed<E: Serialize>(error: &E, out: &mut Vec<u8>) -> Result<(), FrameError> {
    frame::append(error, out)?;
    frame::append(&(), out)
}

/// `[2, method, [params]]`
pub(crate) fn notification<P: Serialize>(method: &str, params: &P, out: &mut Vec<u8>) -> Result<(), FrameError> {
    frame::try_encode(&(NOTIFICATION, method, (params,)), out)
}

/// `[3, version, {name, frame_len_max}]`
pub(crate) fn hello(hello: &Hello, out: &mut Vec<u8>) {
    frame::encode(&(HELLO, PROTOCOL, hello), out);
}

/// `[4, version, {name, version, frame_len_max, requests_max, subscriptions_max}]`
pub(crate) fn welcome(welcome: &Welcome, out: &mut Vec<u8>) {
    frame::encode(&(WELCOME, PROTOCOL, welcome), out);
}

/// `[5, number]`
pub(crate) fn ping(number: u64, out: &mut Vec<u8>) {
    frame::encode(&(PING, number), out);
}

/// `[6, number]`
pub(crate) fn pong(number: u64, out: &mut Vec<u8>) {
    frame::encode(&(PONG, number), out);
}

/// `[7, id]`
pub(crate) fn cancel(id: u32, out: &mut Vec<u8>) {
    frame::encode(&(CANCEL, id), out);
}

/// `[8, id, events]`
pub(crate) fn credit(id: u32, events: u32, out: &mut Vec<u8>) {
    frame::encode(&(CREDIT, id, events), out);
}

/// `[9, {code, reason}]`
pub(crate) fn go_away(code: GoAwayCode, reason: &str, out: &mut Vec<u8>) {
    frame::encode(&(GO_AWAY, GoAway { code, reason: reason.to_owned() }), out);
}

/// `[10, id, topic, {credit}]`
pub(crate) fn subscribe(id: u32, topic: &str, terms: Terms, out: &mut Vec<u8>) {
    frame::encode(&(SUBSCRIBE, id, topic, terms), out);
}

/// `[11, id, epoch, sequence, events]`, the events as they are encoded already.
pub(crate) fn snapshot(id: u32, epoch: u64, sequence: u64, events: &[u8], out: &mut Vec<u8>) {
    frame::encode_before::<_, 1>(&(SNAPSHOT, id, epoch, sequence), events, out);
}

/// `[12, id, sequence, event]`, the event as it is encoded already.
pub(crate) fn event(id: u32, sequence: u64, event: &[u8], out: &mut Vec<u8>) {
    frame::encode_before::<_, 1>(&(EVENT, id, sequence), event, out);
}

/// `[13, id, missed]`
pub(crate) fn resync(id: u32, missed: u64, out: &mut Vec<u8>) {
    frame::encode(&(RESYNC, id, missed), out);
}

/// `[14, id]`
pub(crate) fn unsubscribe(id: u32, out: &mut Vec<u8>) {
    frame::encode(&(UNSUBSCRIBE, id), out);
}

/// `[15, id, error]`
pub(crate) fn end(id: u32, failure: &Failure, out: &mut Vec<u8>) {
    frame::encode(&(END, id, failure), out);
}

/// `[16, sequence, {time_us, level, target, message, …}]`
pub(crate) fn log(sequence: u64, record: &LogRecord, out: &mut Vec<u8>) {
    frame::encode(&(LOG, sequence, record), out);
}

/// The method a request asks for, with its id and its parameters.
pub(crate) fn requested(body: &[u8]) -> Result<(u32, &str, &[u8]), FrameError> {
    let (kind, mut envelope) = Envelope::open(body)?;
    expect(kind, REQUEST)?;
    Ok((envelope.id()?, envelope.text()?, arguments(envelope)?))
}

/// The parameters of a request or a notification, for [`params`].
#[inline]
pub(crate) fn arguments(envelope: Envelope<'_>) -> Result<&[u8], FrameError> {
    let params = envelope.payload()?;
    if value::is_array(params) {
        return Ok(params);
    }
    Err(FrameError::Malformed("params is no array".to_owned()))
}

/// A request's parameters, and its deadline if it has one. Whoever does not read them with this looks
/// through them with [`whole`].
pub(crate) fn params<P: DeserializeOwned>(params: &[u8]) -> Result<(P, Option<u64>), FrameError> {
    let mut rest = params;
    let count = rmp::decode::read_array_len(&mut rest).unwrap_or(0);
    if count == 0 {
        return Err(FrameError::Malformed("params is no array with one argument".to_owned()));
    }
    // Structs by position would break on one added field.
    if !value::is_map(rest) {
        return Err(FrameError::Malformed("the argument is no map: a request has named fields".to_owned()));
    }
    let payload = frame::take(&mut rest, 2)?;
    let deadline = if count > 1 { frame::take(&mut rest, 2)? } else { None };
    for _ in 2..count {
        value::take(&mut rest, 2)?;
    }
    value::end(rest)?;
    Ok((payload, deadline))
}

/// Whether parameters that were not read are what a message may carry at all.
pub(crate) fn whole(params: &[u8]) -> Result<(), FrameError> {
    value::check(params, 1)
}

/// A result, or an error, as they are encoded.
type Encoded<'a> = Result<&'a [u8], &'a [u8]>;

/// What a response says, and the id of its request.
pub(crate) fn responded(mut envelope: Envelope<'_>) -> Result<(u32, Encoded<'_>), FrameError> {
    let id = envelope.id()?;
    if envelope.nil()? {
        return Ok((id, Ok(envelope.value()?)));
    }
    let error = envelope.element()?;
    if !value::is_map(error) {
        return Err(FrameError::Malformed("an error that is no map".to_owned()));
    }
    envelope.value()?;
    Ok((id, Err(error)))
}

/// The same, decoded.
pub(crate) fn outcome<R, E>(body: &[u8]) -> Result<(u32, Result<R, E>), FrameError>
where
    R: DeserializeOwned,
    E: DeserializeOwned,
{
    let (kind, envelope) = Envelope::open(body)?;
    expect(kind, RESPONSE)?;
    let (id, outcome) = responded(envelope)?;
    Ok((
        id,
        match outcome {
            Ok(result) => Ok(frame::decode(result)?),
            Err(error) => Err(envelope::named(error)?),
        },
    ))
}

/// The parameter of a notification of this method; `None` for anything else.
pub(crate) fn notified<P: DeserializeOwned>(body: &[u8], method: &str) -> Result<Option<P>, FrameError> {
    let (kind, mut envelope) = Envelope::open(body)?;
    if kind != NOTIFICATION || envelope.text()? != method {
        return Ok(None);
    }
    Ok(Some(params(arguments(envelope)?)?.0))
}

/// Who says hello, in a version that was ever spoken.
pub(crate) fn greeting(kind: u8, mut envelope: Envelope<'_>) -> Result<Hello, FrameError> {
    if kind != HELLO {
        return Err(FrameError::Malformed(format!("a message of kind {kind} before the hello")));
    }
    // A later version of the same protocol only adds; version 0 was never spoken.
    if envelope.id()? == 0 {
        return Err(FrameError::Malformed("version 0 of the protocol".to_owned()));
    }
    envelope.map().map(Hello::cut)
}

/// What a client of the log helper says.
#[derive(Debug, PartialEq, Eq)]
pub(crate) enum ToLog {
    Hello(Hello),
    Record(u64, LogRecord),
}

/// Reads a message to the log helper; the first one is a hello.
pub(crate) fn to_log(body: &[u8], is_greeted: bool) -> Result<ToLog, FrameError> {
    let (kind, mut envelope) = Envelope::open(body)?;
    match kind {
        LOG if is_greeted => Ok(ToLog::Record(envelope.number()?, envelope.map()?)),
        kind if kind != HELLO && is_greeted => {
            Err(FrameError::Malformed(format!("a message of kind {kind}, which the log does not take")))
        }
        kind => greeting(kind, envelope).map(ToLog::Hello),
    }
}

fn expect(kind: u8, wanted: u8) -> Result<(), FrameError> {
    if kind == wanted {
        return Ok(());
    }
    Err(FrameError::Malformed(format!("kind {kind} where {wanted} is due")))
}

#[cfg(test)]
mod tests {
    use serde_json::{Value, json};

    use super::*;
    use crate::contract::control::{
        FOLLOWED, Follow, Followed, LOG_FOLLOW, LOG_LEVEL, LOG_REOPEN, Level, NO_REQUEST, Nothing, PROGRESS, RELOAD,
        RESTART, Refusal, Reloaded, Reopened, Restart, SCALE, STATUS, STOP, Scale, Step,
    };
    use crate::error::Exit;
    use crate::ipc::callee::{Callee, Limits};
    use crate::ipc::caller::Caller;
    use crate::ipc::log_record::LogFields;
    use crate::log::record::{Entry, Fields, Value as FieldValue, add_field};

    /// The protocol's own page: its examples are these tests' vectors.
    const PAGE: &str = include_str!("../../ipc-protocol.md");

    #[derive(Serialize)]
    struct Add {
        by: u32,
    }

    /// An example of the page: its name, as this code writes it, and what it means.
    type Example = (&'static str, Vec<u8>, Value);

    fn written(write: &dyn Fn(&mut Vec<u8>)) -> Vec<u8> {
        let mut out = Vec::new();
        write(&mut out);
        out
    }

    /// All examples, in the page's order.
    fn ours() -> Vec<Example> {
        [ours_to_a_helper(), ours_of_subscriptions(), ours_of_the_end(), ours_to_the_master()].concat()
    }

    fn ours_to_a_helper() -> Vec<Example> {
        let greeting = Welcome {
            name: "helper nest generation 1".to_owned(),
            version: "1.0".to_owned(),
            frame_len_max: 16_777_216,
            requests_max: 1024,
            subscriptions_max: 4096,
        };
        let display = Hello { frame_len_max: 65_536, ..Hello::of("a display") };
        let no_method = Failure { code: Code::NoMethod, message: "there is no such method".to_owned() };
        let until = |out: &mut Vec<u8>| request_until(7, "add", &Add { by: 3 }, 60_000, out).expect("encodes");
        vec![
            (
                "hello",
                written(&|out| hello(&Hello::of("worker 0 generation 1"), out)),
                json!([3, 1, {"name": "worker 0 generation 1"}]),
            ),
            (
                "hello_short",
                written(&|out| hello(&display, out)),
                json!([3, 1, {"name": "a display", "frame_len_max": 65_536}]),
            ),
            (
                "welcome",
                written(&|out| welcome(&greeting, out)),
                json!([4, 1, {"name": "helper nest generation 1", "version": "1.0", "frame_len_max": 16_777_216, "requests_max": 1024, "subscriptions_max": 4096}]),
            ),
            ("ping", frame_of(&(PING, 1)), json!([5, 1])),
            ("pong", written(&|out| pong(1, out)), json!([6, 1])),
            ("request", written(&until), json!([0, 7, "add", [{"by": 3}, 60_000]])),
            ("result", written(&|out| response(7, &Ok::<_, ()>(10), out)), json!([1, 7, null, 10])),
            (
                "error",
                written(&|out| response(7, &Err::<(), _>(no_method.clone()), out)),
                json!([1, 7, {"code": "no_method", "message": "there is no such method"}, null]),
            ),
            ("cancel", written(&|out| cancel(7, out)), json!([7, 7])),
            (
                "notification",
                written(&|out| notification("add", &Add { by: 3 }, out).expect("encodes")),
                json!([2, "add", [{"by": 3}]]),
            ),
        ]
    }

    fn ours_of_subscriptions() -> Vec<Example> {
        let no_topic = Failure { code: Code::NoTopic, message: "no such topic".to_owned() };
        vec![
            (
                "subscribe",
                written(&|out| subscribe(1, "events", Terms { credit: 256 }, out)),
                json!([10, 1, "events", {"credit": 256}]),
            ),
            ("credit", written(&|out| credit(1, 64, out)), json!([8, 1, 64])),
            (
                "snapshot",
                written(&|out| snapshot(1, 1_700_000_000_000, 41, &[0x91, 0x0a], out)),
                json!([11, 1, 1_700_000_000_000_u64, 41, [10]]),
            ),
            ("event", written(&|out| event(1, 42, &[0x0d], out)), json!([12, 1, 42, 13])),
            ("resync", written(&|out| resync(1, 12, out)), json!([13, 1, 12])),
            ("unsubscribe", written(&|out| unsubscribe(1, out)), json!([14, 1])),
            (
                "end",
                written(&|out| end(1, &no_topic, out)),
                json!([15, 1, {"code": "no_topic", "message": "no such topic"}]),
            ),
        ]
    }

    fn record(time_us: i64, target: &str, message: &str) -> LogRecord {
        LogRecord {
            time_us,
            level: 3,
            target: target.to_owned(),
            module: String::new(),
            message: message.to_owned(),
            fields: LogFields::default(),
            request: String::new(),
        }
    }

    fn ours_of_the_end() -> Vec<Example> {
        let again = "request 7 is not answered yet and comes again";
        let record = record(1_700_000_000_000_000, "app", "ready");
        vec![
            (
                "go_away",
                written(&|out| go_away(GoAwayCode::Leaving, "the helper ends", out)),
                json!([9, {"code": "leaving", "reason": "the helper ends"}]),
            ),
            (
                "go_away_rule_broken",
                written(&|out| go_away(GoAwayCode::RuleBroken, again, out)),
                json!([9, {"code": "rule_broken", "reason": again}]),
            ),
            (
                "log",
                written(&|out| log(1, &record, out)),
                json!([16, 1, {"time_us": 1_700_000_000_000_000_u64, "level": 3, "target": "app", "message": "ready"}]),
            ),
            (
                "log_more",
                written(&|out| log(2, &full_record(), out)),
                json!([16, 2, {
                    "time_us": 1_700_000_000_000_000_u64, "level": 4, "target": "app", "module": "app::orders",
                    "message": "paid", "fields": {"id": 7, "who": "ada"}, "request": "01ab",
                }]),
            ),
        ]
    }

    fn full_record() -> LogRecord {
        let mut fields = Vec::new();
        add_field("id", FieldValue::Number("7"), &mut fields);
        add_field("who", FieldValue::Text("ada"), &mut fields);
        LogRecord::of(&Entry {
            time_us: 1_700_000_000_000_000,
            level: log::Level::Debug,
            target: "app",
            module: "app::orders",
            message: "paid",
            fields: Fields::read(&fields).expect("encoded"),
            request: "01ab",
            sequence: 2,
        })
    }

    fn ours_to_the_master() -> Vec<Example> {
        let step = Step { text: "workers ready 2 of 3".to_owned() };
        let reloaded = Reloaded { generation: 2, kept: vec!["nest 1.0".to_owned()], took_ms: 1042, notes: Vec::new() };
        let busy = Refusal::new(Exit::Busy, "stopping".to_owned());
        let stranger = Refusal::may_not_ask(1000);
        let reason = &stranger.reason;
        let mut all = vec![
            ("status", written(&|out| request(4, STATUS, &Nothing {}, out)), json!([0, 4, "status", [{}]])),
            (
                "scale",
                written(&|out| request(1, SCALE, &Scale { workers: 3 }, out)),
                json!([0, 1, "scale", [{"workers": 3}]]),
            ),
            (
                "scaled",
                written(&|out| response(1, &Ok::<_, Refusal>(Scale { workers: 3 }), out)),
                json!([1, 1, null, {"workers": 3}]),
            ),
            (
                "restart",
                written(&|out| request(3, RESTART, &Restart { helper: "nest".to_owned() }, out)),
                json!([0, 3, "restart", [{"helper": "nest"}]]),
            ),
            ("reload", written(&|out| request(5, RELOAD, &Nothing {}, out)), json!([0, 5, "reload", [{}]])),
            (
                "progress",
                written(&|out| notification(PROGRESS, &step, out).expect("encodes")),
                json!([2, "progress", [{"text": "workers ready 2 of 3"}]]),
            ),
            (
                "reloaded",
                written(&|out| response(5, &Ok::<_, Refusal>(&reloaded), out)),
                json!([1, 5, null, {"generation": 2, "kept": ["nest 1.0"], "took_ms": 1042, "notes": []}]),
            ),
            ("stop", written(&|out| request(2, STOP, &Nothing {}, out)), json!([0, 2, "stop", [{}]])),
        ];
        all.extend(ours_of_the_log());
        all.extend([
            (
                "refused",
                written(&|out| response(2, &Err::<Nothing, _>(&busy), out)),
                json!([1, 2, {"exit": 75, "reason": "stopping"}, null]),
            ),
            (
                "not_allowed",
                written(&|out| response(NO_REQUEST, &Err::<Nothing, _>(&stranger), out)),
                json!([1, 0, {"exit": 77, "reason": reason}, null]),
            ),
        ]);
        all
    }

    fn ours_of_the_log() -> Vec<Example> {
        let follow = Follow { filter: "info,hyper=debug".to_owned() };
        let followed = Followed {
            process: "worker 0 generation 1".to_owned(),
            worker: Some(0),
            generation: Some(1),
            pid: 42,
            sequence: 7,
            missed: 0,
            record: record(1_700_000_000_000_000, "app", "ready"),
        };
        let level = |filter: &str| Level { filter: filter.to_owned(), for_ms: 60_000 };
        let reopened = Reopened { files: vec!["/var/log/app.log".to_owned()] };
        vec![
            (
                "log_follow",
                written(&|out| request(6, LOG_FOLLOW, &follow, out)),
                json!([0, 6, "log_follow", [{"filter": "info,hyper=debug"}]]),
            ),
            (
                "log_record",
                written(&|out| notification(FOLLOWED, &followed, out).expect("encodes")),
                json!([2, "log_record", [{
                    "process": "worker 0 generation 1", "worker": 0, "generation": 1, "pid": 42, "sequence": 7, "missed": 0,
                    "record": {"time_us": 1_700_000_000_000_000_u64, "level": 3, "target": "app", "message": "ready"},
                }]]),
            ),
            (
                "log_level",
                written(&|out| request(7, LOG_LEVEL, &level("hyper=debug"), out)),
                json!([0, 7, "log_level", [{"filter": "hyper=debug", "for_ms": 60_000}]]),
            ),
            (
                "log_level_set",
                written(&|out| response(7, &Ok::<_, Refusal>(level("info,hyper=debug")), out)),
                json!([1, 7, null, {"filter": "info,hyper=debug", "for_ms": 60_000}]),
            ),
            ("log_reopen", written(&|out| request(8, LOG_REOPEN, &Nothing {}, out)), json!([0, 8, "log_reopen", [{}]])),
            (
                "log_reopened",
                written(&|out| response(8, &Ok::<_, Refusal>(&reopened), out)),
                json!([1, 8, null, {"files": ["/var/log/app.log"]}]),
            ),
        ]
    }

    fn frame_of<T: Serialize>(message: &T) -> Vec<u8> {
        let mut out = Vec::new();
        frame::encode(message, &mut out);
        out
    }

    fn shown() -> Vec<(&'static str, Vec<u8>)> {
        let blocks = PAGE.split("```hex ").skip(1).map(|rest| rest.split("```").next().expect("its end"));
        let bytes = |text: &str| {
            let pairs = text.split_ascii_whitespace();
            pairs.map(|pair| u8::from_str_radix(pair, 16).expect("hex")).collect()
        };
        blocks.filter_map(|block| block.split_once('\n')).map(|(name, text)| (name, bytes(text))).collect()
    }

    #[test]
    fn every_example_of_the_page_is_what_we_write_and_means_what_it_should() {
        let shown = shown();
        let names: Vec<&str> = shown.iter().map(|(name, _)| *name).collect();
        assert_eq!(names, ours().iter().map(|(name, ..)| *name).collect::<Vec<_>>());
        for ((name, bytes), (_, ours, meaning)) in shown.into_iter().zip(ours()) {
            assert!(bytes == ours, "{name} should be {}", hex(&ours));
            assert_eq!(frame::decode::<Value>(&bytes[frame::HEADER_LEN..]), Ok(meaning), "{name}");
        }
    }

    fn hex(bytes: &[u8]) -> String {
        bytes.iter().map(|byte| format!("{byte:02x}")).collect::<Vec<_>>().join(" ")
    }

    /// Whoever may be told a message understands it as the page shows it.
    #[test]
    fn every_example_is_understood_by_whom_it_is_for() {
        let limits = Limits { frame_len_max: 1 << 20, requests_max: 9, subscriptions_max: 9 };
        let (mut callee, mut caller) = (Callee::<()>::new(limits), Caller::new("test"));
        for (name, bytes) in shown() {
            let body = &bytes[frame::HEADER_LEN..];
            let (kind, _) = Envelope::open(body).expect(name);
            match (name, kind) {
                ("status" | "scale" | "restart" | "reload" | "stop" | "log_follow" | "log_level" | "log_reopen", _) => {
                    let (_, method, arguments) = requested(body).expect(name);
                    let is_understood = match method {
                        SCALE => params::<Scale>(arguments).is_ok_and(|(scale, _)| scale.workers == 3),
                        RESTART => params::<Restart>(arguments).is_ok_and(|(restart, _)| restart.helper == "nest"),
                        LOG_FOLLOW => params::<Follow>(arguments).is_ok_and(|(follow, _)| follow.filter.len() == 16),
                        LOG_LEVEL => params::<Level>(arguments).is_ok_and(|(level, _)| level.for_ms == 60_000),
                        _ => params::<Nothing>(arguments).is_ok(),
                    };
                    assert!(method == name && is_understood, "{name}");
                }
                ("scaled", _) => assert!(matches!(outcome::<Scale, Refusal>(body), Ok((1, Ok(Scale { workers: 3 }))))),
                ("reloaded", _) => {
                    assert!(matches!(outcome::<Reloaded, Refusal>(body), Ok((5, Ok(Reloaded { took_ms: 1042, .. })))));
                }
                ("log_level_set", _) => {
                    assert!(matches!(outcome::<Level, Refusal>(body), Ok((7, Ok(Level { for_ms: 60_000, .. })))));
                }
                ("log_reopened", _) => assert!(matches!(outcome::<Reopened, Refusal>(body), Ok((8, Ok(_))))),
                ("log_record", _) => assert!(matches!(notified::<Followed>(body, FOLLOWED), Ok(Some(_)))),
                ("progress", _) => assert!(matches!(notified::<Step>(body, PROGRESS), Ok(Some(_)))),
                ("refused", _) => {
                    assert!(matches!(outcome::<Nothing, Refusal>(body), Ok((2, Err(Refusal { exit: 75, .. })))));
                }
                ("not_allowed", _) => {
                    assert!(matches!(outcome::<Nothing, Refusal>(body), Ok((0, Err(Refusal { exit: 77, .. })))));
                }
                ("log", _) => assert!(matches!(to_log(body, true), Ok(ToLog::Record(1, _)))),
                ("log_more", _) => assert_eq!(to_log(body, true), Ok(ToLog::Record(2, full_record()))),
                ("hello_short", _) => {
                    assert!(matches!(to_log(body, false), Ok(ToLog::Hello(Hello { frame_len_max: 65_536, .. }))));
                }
                (_, HELLO | REQUEST | NOTIFICATION | CANCEL | SUBSCRIBE | CREDIT | UNSUBSCRIBE) => {
                    callee.feed(&bytes);
                    assert!(callee.next().is_ok_and(|asked| asked.is_some()), "{name}");
                }
                (_, PING | PONG) => {
                    callee.feed(&bytes);
                    caller.feed(&bytes);
                    assert!(callee.next().is_ok_and(|asked| asked.is_some()), "{name}");
                    assert!(caller.next().is_ok_and(|told| told.is_some()), "{name}");
                }
                _ => {
                    caller.feed(&bytes);
                    assert!(caller.next().is_ok_and(|told| told.is_some()), "{name}");
                }
            }
        }
    }

    #[test]
    fn a_field_of_a_later_version_is_ignored_and_a_missing_one_is_not() {
        #[derive(Serialize)]
        struct Later {
            colour: &'static str,
            name: &'static str,
        }
        let out = frame_of(&(HELLO, 2, Later { colour: "blue", name: "hub" }));
        let read = to_log(&out[frame::HEADER_LEN..], false);
        assert_eq!(read, Ok(ToLog::Hello(Hello::of("hub"))));
        let out = frame_of(&(HELLO, 2, Nothing {}));
        assert!(to_log(&out[frame::HEADER_LEN..], false).is_err());
    }

    #[test]
    fn a_go_away_of_another_version_means_leaving() {
        for more in [json!({"reason": "x"}), json!({"code": "for_tea", "reason": "x", "until": 5})] {
            let body = rmp_serde::to_vec(&(GO_AWAY, more)).expect("encode");
            let (_, envelope) = Envelope::open(&body).expect("an array");
            assert_eq!(envelope.map(), Ok(GoAway { code: GoAwayCode::Leaving, reason: "x".to_owned() }));
        }
    }

    #[test]
    fn the_log_is_told_a_hello_first_and_nothing_but_records_after_it() {
        let record = record(1, "", "");
        let table = [
            (frame_of(&(HELLO, 1, Hello::of("hub"))), None, None),
            (frame_of(&(HELLO, 0, Hello::of("hub"))), Some("version 0"), Some("version 0")),
            (frame_of(&(LOG, 1, &record)), Some("kind 16 before the hello"), None),
            (frame_of(&(PING, 1)), Some("kind 5 before the hello"), Some("kind 5, which the log")),
            (frame_of(&(LOG, 1, "x")), Some("before the hello"), Some("no map")),
        ];
        for (bytes, before, after) in table {
            for (is_greeted, wrong) in [(false, before), (true, after)] {
                let said = to_log(&bytes[frame::HEADER_LEN..], is_greeted).err().map(|error| error.to_string());
                assert!(said.as_deref().map_or("", |said| said).contains(wrong.unwrap_or("")), "{said:?} {wrong:?}");
                assert_eq!(said.is_some(), wrong.is_some(), "{said:?} {wrong:?}");
            }
        }
    }

    #[test]
    fn bytes_behind_params_are_refused_and_elements_of_a_later_version_are_not() {
        let read = |bytes: &[u8]| params::<Nothing>(bytes).map(|(Nothing {}, deadline)| deadline);
        let later = rmp_serde::to_vec(&(json!({}), 5, "later", [1])).expect("encode");
        assert_eq!((read(&[0x91, 0x80]), read(&[0x92, 0x80, 0xc0]), read(&later)), (Ok(None), Ok(None), Ok(Some(5))));
        for bytes in [&[0x91, 0x80, 7][..], &[0x92, 0x80, 5, 7], &[&later[..], &[7]].concat(), &[0x92, 0x80], &[0x90]] {
            assert!(read(bytes).is_err(), "{bytes:x?}");
        }
        // The frame's array and that of the parameters are two of the 128.
        for (depth, is_read) in [(125, true), (126, false)] {
            let tower = (0..depth).fold(json!(1), |inner, _| json!([inner]));
            let bytes = rmp_serde::to_vec(&(json!({"ignored": tower}),)).expect("encode");
            assert_eq!((read(&bytes).is_ok(), whole(&bytes).is_ok()), (is_read, is_read), "{depth}");
        }
    }

    /// Releases mix during a reload: what one adds, reorders or does not know yet, the other reads.
    #[test]
    fn payloads_of_two_releases_meet() {
        #[derive(Serialize, Deserialize)]
        struct Before {
            id: u32,
            name: String,
        }
        #[derive(Serialize, Deserialize)]
        struct After {
            #[serde(default)]
            note: Option<String>,
            name: String,
            id: u32,
        }
        let old = frame_of(&(REQUEST, 1, "set", (Before { id: 7, name: "hall".to_owned() },)));
        let new =
            frame_of(&(REQUEST, 1, "set", (After { note: Some("x".to_owned()), name: "hall".to_owned(), id: 7 }, 5)));
        let arguments = |bytes: &[u8]| requested(&bytes[frame::HEADER_LEN..]).map(|(.., params)| params.to_vec());
        let (after, _) = params::<After>(&arguments(&old).expect("old")).expect("old as new");
        assert_eq!((after.id, &after.name[..], after.note), (7, "hall", None));
        let (before, deadline) = params::<Before>(&arguments(&new).expect("new")).expect("new as old");
        assert_eq!((before.id, &before.name[..], deadline), (7, "hall", Some(5)));
        assert!(params::<Before>(&[0x90]).is_err() && params::<Before>(&[0x80]).is_err());
        let positional = rmp_serde::to_vec(&(Before { id: 7, name: "hall".to_owned() },)).expect("encode");
        assert!(params::<Before>(&positional).is_err_and(|error| error.reason().contains("no map")));
    }

    #[test]
    fn every_truncation_is_an_error() {
        for (name, bytes, _) in ours() {
            let body = &bytes[frame::HEADER_LEN..];
            for cut in 0..body.len() {
                assert!(frame::decode::<Value>(&body[..cut]).is_err(), "{name} cut at {cut}");
                assert!(outcome::<Scale, Refusal>(&body[..cut]).is_err(), "{name} cut at {cut}");
                assert!(to_log(&body[..cut], false).is_err(), "{name} cut at {cut}");
                assert!(to_log(&body[..cut], true).is_err(), "{name} cut at {cut}");
            }
        }
    }
}
