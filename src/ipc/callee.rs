//! A helper's side of one connection, without I/O: what the peer asks, what is owed to it, and
//! what it may not do.
//!
//! Whoever drives it feeds what was read, takes what is asked, answers, and writes what stands in
//! [`Callee::unsent`]. Breaking a rule of `ipc-protocol.md` is an error, and ends the connection.

use std::collections::HashMap;
use std::fmt;

use super::envelope::Envelope;
use super::frame::{self, Decoder, FrameError};
use super::message::{self, Code, Failure, Hello, Reason, Terms, Welcome};

/// The longest frame before the hello, in bytes.
pub(crate) const GREETING_LEN_MAX: u32 = 4 * 1024;

/// Unsent bytes from which on a subscriber gets no more events, and nothing more is read from it.
pub(crate) const UNSENT_MAX: usize = 1024 * 1024;

/// The longest payload that is sent, in bytes: the peer reads frames of up to 64 MiB.
const PAYLOAD_LEN_MAX: usize = 64 * 1024 * 1024 - 1024;

/// The longest name in a hello that is kept, in characters.
const NAME_LEN_MAX: usize = 128;

/// One connection.
#[derive(Debug)]
pub(crate) struct Callee<T> {
    decoder: Decoder,
    unsent: Vec<u8>,
    limits: Limits,
    /// Who speaks; `None` before the hello.
    peer: Option<String>,
    /// Requests that were taken and are not answered yet, with what their driver keeps for each.
    unanswered: HashMap<u32, T>,
    subscriptions: Vec<Subscription>,
}

/// What a peer may have of one connection.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Limits {
    pub(crate) frame_len_max: u32,
    pub(crate) requests_max: u32,
    pub(crate) subscriptions_max: u32,
}

#[derive(Debug)]
struct Subscription {
    id: u32,
    /// So many events may still be sent.
    credit: u64,
    /// It gets a snapshot before the next event.
    is_behind: bool,
    /// Events that it did not get since it fell behind.
    missed: u64,
}

/// What a peer asks.
#[derive(Debug, PartialEq, Eq)]
pub(crate) enum Asked<'a> {
    /// It said who it is. To be answered with [`Callee::welcome`].
    Hello,
    /// To be answered with this id, or kept by [`Callee::keep`].
    Request {
        id: u32,
        method: &'a str,
        params: &'a [u8],
    },
    Notification {
        method: &'a str,
        params: &'a [u8],
    },
    /// To be answered by [`Callee::cancelled`].
    Cancel {
        id: u32,
    },
    /// What needs no answer, or has it already.
    Nothing,
}

/// Why the connection ends.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Violation(pub(crate) String);

impl fmt::Display for Violation {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

impl From<FrameError> for Violation {
    fn from(error: FrameError) -> Self {
        Self(error.to_string())
    }
}

impl<T> Callee<T> {
    pub(crate) fn new(limits: Limits) -> Self {
        Self {
            decoder: Decoder::new(GREETING_LEN_MAX),
            unsent: Vec::new(),
            limits,
            peer: None,
            unanswered: HashMap::new(),
            subscriptions: Vec::new(),
        }
    }

    /// Who speaks; `None` before the hello.
    pub(crate) fn peer(&self) -> Option<&str> {
        self.peer.as_deref()
    }

    /// Takes in what was read.
    pub(crate) fn feed(&mut self, bytes: &[u8]) {
        self.decoder.feed(bytes);
    }

    /// Whether the peer owes the rest of a frame.
    pub(crate) fn is_in_a_frame(&self) -> bool {
        self.decoder.has_part()
    }

    /// What is to be written.
    pub(crate) fn unsent(&mut self) -> &mut Vec<u8> {
        &mut self.unsent
    }

    /// Whether so much is unsent that nothing more should be read.
    pub(crate) fn is_full(&self) -> bool {
        self.unsent.len() >= UNSENT_MAX
    }

    /// The next thing that is asked. `None`: more bytes are needed.
    pub(crate) fn next(&mut self) -> Result<Option<Asked<'_>>, Violation> {
        let Self { decoder, unsent, limits, peer, unanswered, subscriptions } = self;
        let Some(body) = decoder.next()? else { return Ok(None) };
        let (kind, mut envelope) = Envelope::open(body)?;
        if peer.is_none() {
            *peer = Some(greeting(kind, envelope)?);
            return Ok(Some(Asked::Hello));
        }
        let asked = match kind {
            message::REQUEST => {
                let id = envelope.id()?;
                if unanswered.contains_key(&id) {
                    return Err(Violation(format!("request {id} is not answered yet and comes again")));
                }
                if unanswered.len() >= limits.requests_max as usize {
                    return Err(Violation(format!("more than {} requests without an answer", limits.requests_max)));
                }
                Asked::Request { id, method: envelope.text()?, params: envelope.payload()? }
            }
            message::NOTIFICATION => Asked::Notification { method: envelope.text()?, params: envelope.payload()? },
            message::PING => {
                message::pong(envelope.number()?, unsent);
                Asked::Nothing
            }
            message::CANCEL => Asked::Cancel { id: envelope.id()? },
            message::CREDIT => {
                let (id, events) = (envelope.id()?, envelope.id()?);
                // For a subscription that was just ended it is late, and no fault.
                if let Some(subscription) = subscriptions.iter_mut().find(|known| known.id == id) {
                    subscription.credit = subscription.credit.saturating_add(events.into());
                }
                Asked::Nothing
            }
            message::SUBSCRIBE => {
                subscribe(envelope, *limits, subscriptions, unsent)?;
                Asked::Nothing
            }
            message::UNSUBSCRIBE => {
                let id = envelope.id()?;
                subscriptions.retain(|known| known.id != id);
                Asked::Nothing
            }
            _ => return Err(Violation(format!("a message of kind {kind}, which no helper takes"))),
        };
        Ok(Some(asked))
    }

    /// Says who answers; from now on longer frames may come.
    pub(crate) fn welcome(&mut self, name: &str, version: &str) {
        let Limits { frame_len_max, requests_max, subscriptions_max } = self.limits;
        self.decoder.set_len_max(frame_len_max);
        let (name, version) = (name.to_owned(), version.to_owned());
        message::welcome(&Welcome { name, version, frame_len_max, requests_max, subscriptions_max }, &mut self.unsent);
    }

    /// Keeps a request open; `kept` belongs to whoever drives it.
    pub(crate) fn keep(&mut self, id: u32, kept: T) {
        self.unanswered.insert(id, kept);
    }

    /// Whether a kept request still waits for its answer; afterwards it does not.
    pub(crate) fn settle(&mut self, id: u32) -> bool {
        self.unanswered.remove(&id).is_some()
    }

    /// Answers that a request was given up, and returns what was kept for it. One that was
    /// answered already has its answer.
    pub(crate) fn cancelled(&mut self, id: u32) -> Option<T> {
        let kept = self.unanswered.remove(&id)?;
        self.refuse(id, Code::Cancelled, "cancelled by the caller");
        Some(kept)
    }

    /// How many requests are open.
    pub(crate) fn unanswered(&self) -> usize {
        self.unanswered.len()
    }

    /// Gives up every open request.
    pub(crate) fn abandon(&mut self) -> impl Iterator<Item = T> {
        self.unanswered.drain().map(|(_, kept)| kept)
    }

    /// Answers; `outcome` is what `message::result` or `message::failed` wrote.
    pub(crate) fn answer(&mut self, id: u32, outcome: &[u8]) {
        if outcome.len() > PAYLOAD_LEN_MAX {
            let why = format!("the answer has {} bytes, {PAYLOAD_LEN_MAX} are allowed", outcome.len());
            return self.refuse(id, Code::Failed, &why);
        }
        message::answer(id, outcome, &mut self.unsent);
    }

    /// Answers with a failure that is not the application's own.
    pub(crate) fn refuse(&mut self, id: u32, code: Code, why: &str) {
        message::response(id, &Err::<(), _>(Failure { code, message: why.to_owned() }), &mut self.unsent);
    }

    /// Asks the peer to ask no more here.
    pub(crate) fn go_away(&mut self, reason: &str) {
        message::go_away(&Reason { reason: reason.to_owned() }, &mut self.unsent);
    }

    /// Sends an event to every subscription that may have it now; the others fall behind.
    pub(crate) fn publish(&mut self, sequence: u64, event: &[u8]) {
        let mut room = self.unsent.len() < UNSENT_MAX;
        for subscription in &mut self.subscriptions {
            let fits = room && event.len() <= PAYLOAD_LEN_MAX;
            if !subscription.is_behind && subscription.credit > 0 && fits {
                subscription.credit -= 1;
                message::event(subscription.id, sequence, event, &mut self.unsent);
                room = self.unsent.len() < UNSENT_MAX;
            } else {
                subscription.is_behind = true;
                subscription.missed += 1;
            }
        }
    }

    /// Whether a subscription could be sent a snapshot now, and needs one.
    pub(crate) fn wants_snapshot(&self) -> bool {
        self.unsent.len() < UNSENT_MAX && self.subscriptions.iter().any(Subscription::wants_snapshot)
    }

    /// Sends the snapshot to those that need one; events after `sequence` follow it.
    pub(crate) fn snapshot(&mut self, epoch: u64, sequence: u64, events: &[u8]) {
        if events.len() > PAYLOAD_LEN_MAX {
            let why = format!("the snapshot has {} bytes, {PAYLOAD_LEN_MAX} are allowed", events.len());
            return self.end_subscriptions(&why);
        }
        for subscription in self.subscriptions.iter_mut().filter(|known| known.wants_snapshot()) {
            // The others get theirs when this was read.
            if self.unsent.len() >= UNSENT_MAX {
                break;
            }
            if subscription.missed > 0 {
                message::resync(subscription.id, subscription.missed, &mut self.unsent);
            }
            message::snapshot(subscription.id, epoch, sequence, events, &mut self.unsent);
            subscription.credit -= 1;
            subscription.is_behind = false;
            subscription.missed = 0;
        }
    }
}

impl<T> Callee<T> {
    /// Ends the subscriptions that cannot be told how things stand.
    pub(crate) fn end_subscriptions(&mut self, why: &str) {
        log::error!("subscriptions of {} end: {why}", self.peer().unwrap_or_default());
        for subscription in self.subscriptions.extract_if(.., |known| known.wants_snapshot()) {
            let failure = Failure { code: Code::Failed, message: why.to_owned() };
            message::end(subscription.id, &failure, &mut self.unsent);
        }
    }
}

impl Subscription {
    fn wants_snapshot(&self) -> bool {
        self.is_behind && self.credit > 0
    }
}

fn greeting(kind: u8, mut envelope: Envelope<'_>) -> Result<String, Violation> {
    if kind != message::HELLO {
        return Err(Violation(format!("a message of kind {kind} before the hello")));
    }
    let version = envelope.id()?;
    // A later version of the same protocol only adds; version 0 was never spoken.
    if version == 0 {
        return Err(Violation("version 0 of the protocol".to_owned()));
    }
    let Hello { name } = frame::decode(envelope.payload()?)?;
    Ok(name.chars().take(NAME_LEN_MAX).collect())
}

fn subscribe(
    mut envelope: Envelope<'_>,
    limits: Limits,
    subscriptions: &mut Vec<Subscription>,
    unsent: &mut Vec<u8>,
) -> Result<(), Violation> {
    let (id, topic) = (envelope.id()?, envelope.text()?);
    let Terms { credit } = frame::decode(envelope.payload()?)?;
    if subscriptions.iter().any(|known| known.id == id) {
        return Err(Violation(format!("subscription {id} exists already")));
    }
    if subscriptions.len() >= limits.subscriptions_max as usize {
        return Err(Violation(format!("more than {} subscriptions", limits.subscriptions_max)));
    }
    if topic == TOPIC {
        subscriptions.push(Subscription { id, credit: credit.into(), is_behind: true, missed: 0 });
    } else {
        let message = format!("no topic {topic:?}: there is {TOPIC:?}");
        message::end(id, &Failure { code: Code::NoTopic, message }, unsent);
    }
    Ok(())
}

/// The one topic of every helper.
pub(crate) const TOPIC: &str = "events";

#[cfg(test)]
mod tests {
    use proptest::prelude::*;
    use serde::Serialize;

    use super::*;

    const LIMITS: Limits = Limits { frame_len_max: 64 * 1024, requests_max: 2, subscriptions_max: 2 };

    fn hello() -> Vec<u8> {
        let mut out = Vec::new();
        message::hello(&Hello { name: "worker 0".to_owned() }, &mut out);
        out
    }

    fn encoded<T: Serialize>(message: &T) -> Vec<u8> {
        let mut out = Vec::new();
        frame::encode(message, &mut out);
        out
    }

    /// A callee that has been greeted and has said so.
    fn greeted() -> Callee<u8> {
        let mut callee = Callee::new(LIMITS);
        callee.feed(&hello());
        assert_eq!(callee.next(), Ok(Some(Asked::Hello)));
        callee.welcome("helper nest", "1.2");
        callee.unsent().clear();
        callee
    }

    /// The messages that were written, as values.
    fn written(callee: &mut Callee<u8>) -> Vec<serde_json::Value> {
        let mut decoder = Decoder::new(u32::MAX);
        decoder.feed(callee.unsent());
        callee.unsent().clear();
        let mut messages = Vec::new();
        while let Some(body) = decoder.next().expect("our own frames") {
            messages.push(frame::decode(body).expect("our own messages"));
        }
        messages
    }

    #[test]
    fn breaking_a_rule_ends_the_connection_and_says_which() {
        let request = |id: u32| encoded(&(message::REQUEST, id, "add", ((),)));
        let subscribe = |id: u32| encoded(&(message::SUBSCRIBE, id, TOPIC, Terms { credit: 1 }));
        let table: [(Vec<Vec<u8>>, &str); 10] = [
            (vec![vec![0, 0, 0, 0]], "empty"),
            (vec![vec![0xff; 4]], "4294967295 bytes"),
            (vec![encoded(&(message::RESPONSE, 1, (), ()))], "kind 1"),
            (vec![encoded(&(99, 1))], "kind 99"),
            (vec![encoded(&(message::REQUEST, 1))], "missing"),
            (vec![encoded(&"garbage")], "no array"),
            (vec![encoded(&(message::SUBSCRIBE, 1, TOPIC, 7))], "malformed"),
            (vec![subscribe(1), subscribe(1)], "exists already"),
            (vec![subscribe(1), subscribe(2), subscribe(3)], "more than 2 subscriptions"),
            (vec![encoded(&(message::CREDIT, 1, u64::MAX))], "32 bits"),
        ];
        for (frames, words) in table {
            let mut callee = greeted();
            frames.iter().for_each(|frame| callee.feed(frame));
            let error = loop {
                match callee.next() {
                    Ok(Some(_)) => {}
                    Ok(None) => panic!("{words}: accepted"),
                    Err(violation) => break violation.to_string(),
                }
            };
            assert!(error.contains(words), "{words}: {error}");
        }
        let mut callee = greeted();
        [1, 1].iter().for_each(|&id| callee.feed(&request(id)));
        assert!(matches!(callee.next(), Ok(Some(Asked::Request { id: 1, method: "add", .. }))));
        callee.keep(1, 7);
        assert!(callee.next().expect_err("twice").to_string().contains("comes again"));
        let mut callee = greeted();
        callee.keep(1, 7);
        callee.keep(2, 7);
        callee.feed(&request(3));
        assert!(callee.next().expect_err("too many").to_string().contains("more than 2 requests"));
    }

    #[test]
    fn nothing_is_heard_before_the_hello_and_no_long_frame() {
        for (frame, words) in [
            (encoded(&(message::PING, 1)), "before the hello"),
            (encoded(&(message::HELLO, 0, Hello { name: String::new() })), "version 0"),
            (encoded(&(message::HELLO, 1, Hello { name: "x".repeat(5000) })), "4096 are allowed"),
        ] {
            let mut callee = Callee::<u8>::new(LIMITS);
            callee.feed(&frame);
            assert!(callee.next().expect_err(words).to_string().contains(words));
        }
    }

    #[test]
    fn every_truncation_waits_for_more() {
        let mut stream = hello();
        stream.extend(encoded(&(message::REQUEST, 9, "add", ((), 5_u64))));
        stream.extend(encoded(&(message::SUBSCRIBE, 1, TOPIC, Terms { credit: 3 })));
        for cut in 0..stream.len() {
            let mut callee = Callee::<u8>::new(LIMITS);
            let mut seen = Vec::new();
            for part in [&stream[..cut], &stream[cut..]] {
                callee.feed(part);
                while let Some(asked) = callee.next().expect("valid") {
                    seen.push(format!("{asked:?}"));
                }
            }
            assert_eq!(seen.len(), 3, "cut at {cut}: {seen:?}");
        }
    }

    #[test]
    fn a_cancelled_request_is_answered_once() {
        let mut callee = greeted();
        callee.keep(4, 7);
        assert_eq!((callee.cancelled(4), callee.cancelled(4), callee.settle(4)), (Some(7), None, false));
        let answers = written(&mut callee);
        assert_eq!((answers.len(), &answers[0][2]["code"]), (1, &"cancelled".into()));
    }

    #[test]
    fn a_subscriber_gets_what_it_has_credit_for_then_a_resync() {
        let mut callee = greeted();
        callee.feed(&encoded(&(message::SUBSCRIBE, 5, TOPIC, Terms { credit: 2 })));
        assert_eq!(callee.next(), Ok(Some(Asked::Nothing)));
        assert!(callee.wants_snapshot());
        callee.snapshot(77, 10, &[0x91, 1]);
        // [0x02]: the events themselves are the application's.
        (11..14).for_each(|sequence| callee.publish(sequence, &[2]));
        assert!(!callee.wants_snapshot(), "it has no credit");
        callee.feed(&encoded(&(message::CREDIT, 5, 2)));
        assert_eq!(callee.next(), Ok(Some(Asked::Nothing)));
        assert!(callee.wants_snapshot());
        callee.snapshot(77, 13, &[0x91, 3]);
        callee.publish(14, &[4]);
        let all: Vec<String> = written(&mut callee).iter().map(ToString::to_string).collect();
        assert_eq!(all, ["[11,5,77,10,[1]]", "[12,5,11,2]", "[13,5,2]", "[11,5,77,13,[3]]", "[12,5,14,4]"]);
    }

    #[test]
    fn a_peer_that_does_not_read_is_sent_a_bounded_amount() {
        let mut callee = greeted();
        callee.feed(&encoded(&(message::SUBSCRIBE, 5, TOPIC, Terms { credit: u32::MAX })));
        assert_eq!(callee.next(), Ok(Some(Asked::Nothing)));
        callee.snapshot(1, 0, &[0x90]);
        let event = vec![0; 10_000];
        (1..1000).for_each(|sequence| callee.publish(sequence, &event));
        assert!(callee.is_full() && callee.unsent().len() < UNSENT_MAX + 2 * event.len());
        callee.unsent().clear();
        assert!(callee.wants_snapshot(), "it is brought up to date once it reads");
    }

    #[test]
    fn what_a_peer_would_not_read_is_refused_and_not_sent() {
        let mut callee = greeted();
        callee.answer(3, &vec![0xc0; PAYLOAD_LEN_MAX + 1]);
        assert_eq!(written(&mut callee)[0][2]["code"], "failed");
        callee.feed(&encoded(&(message::SUBSCRIBE, 5, TOPIC, Terms { credit: 9 })));
        assert_eq!(callee.next(), Ok(Some(Asked::Nothing)));
        callee.snapshot(1, 0, &[0x90]);
        callee.publish(1, &vec![0xc0; PAYLOAD_LEN_MAX + 1]);
        assert!(callee.wants_snapshot(), "an event that is too long is missed");
        callee.snapshot(1, 1, &vec![0xc0; PAYLOAD_LEN_MAX + 1]);
        assert!(!callee.wants_snapshot(), "its subscription is over");
        let all = written(&mut callee);
        assert_eq!((all.len(), &all[1][0], &all[1][2]["code"]), (2, &message::END.into(), &"failed".into()));
    }

    #[test]
    fn many_snapshots_are_not_written_at_once() {
        let mut callee = Callee::<u8>::new(Limits { subscriptions_max: 100, ..LIMITS });
        callee.feed(&hello());
        for id in 0..100 {
            callee.feed(&encoded(&(message::SUBSCRIBE, id, TOPIC, Terms { credit: 1 })));
        }
        while callee.next().expect("valid").is_some() {}
        let events = vec![0xc0; 100_000];
        let mut rounds = 0;
        while callee.wants_snapshot() {
            callee.snapshot(1, 0, &events);
            assert!(callee.unsent().len() < UNSENT_MAX + 2 * events.len());
            callee.unsent().clear();
            rounds += 1;
        }
        assert!(rounds > 5, "{rounds}");
    }

    #[test]
    fn an_unknown_topic_is_refused_and_the_connection_lives() {
        let mut callee = greeted();
        callee.feed(&encoded(&(message::SUBSCRIBE, 5, "weather", Terms { credit: 1 })));
        callee.feed(&encoded(&(message::PING, 3)));
        for _ in 0..2 {
            assert_eq!(callee.next(), Ok(Some(Asked::Nothing)));
        }
        let answers = written(&mut callee);
        assert_eq!(answers[0][2]["code"], "no_topic");
        assert_eq!(answers[1].to_string(), "[6,3]");
    }

    proptest! {
        #[test]
        fn garbage_after_the_hello_never_panics(
            bytes in proptest::collection::vec(any::<u8>(), 0..200),
            kind in 0_u8..20,
        ) {
            let mut callee = greeted();
            let mut body = vec![0x94, kind];
            body.extend(&bytes);
            callee.feed(&u32::try_from(body.len()).expect("short").to_be_bytes());
            callee.feed(&body);
            while let Ok(Some(_)) = callee.next() {}
        }
    }
}
