//! A helper's side of one connection, without I/O: what the peer asks, what is owed to it, and
//! what it may not do.
//!
//! Whoever drives it feeds what was read, takes what is asked, answers, and writes what stands in
//! [`Callee::unsent`]. Breaking a rule of `ipc-protocol.md` is an error, and ends the connection.

use std::collections::HashMap;
use std::fmt;

use super::envelope::Envelope;
use super::frame::{Decoder, FrameError, HEADER_LEN};
use super::message::{
    self, ANSWER_LEN_MAX, Code, FRAME_LEN_MIN, Failure, GREETING_LEN_MAX, GoAwayCode, Hello, Terms, Welcome,
};
use super::outgoing::Outgoing;
use super::spare::Spare;

/// Unsent bytes from which on a subscriber gets no more events, and nothing more is read from it.
pub(crate) const UNSENT_MAX: usize = 1024 * 1024;

/// Unsent bytes beyond which the connection ends.
const UNREAD_MAX: usize = 128 * 1024 * 1024;

/// The longest sentence of a failure that is not the application's own, in bytes.
const SENTENCE_LEN_MAX: usize = 1024;

/// Places for requests that are kept while none is open.
const IDLE_PLACES: usize = 16;

/// One connection.
#[derive(Debug)]
pub(crate) struct Callee<T> {
    decoder: Decoder,
    unsent: Outgoing,
    limits: Limits,
    /// Who speaks; `None` before the hello.
    peer: Option<String>,
    /// The longest frame that it reads, in bytes.
    reads: u32,
    /// Requests that were taken and are not answered yet, with what their driver keeps for each.
    unanswered: HashMap<u32, T>,
    subscriptions: Vec<Subscription>,
    /// Whether it has asked for more than may lie here.
    is_flooded: bool,
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
        Self(error.reason())
    }
}

impl<T> Callee<T> {
    pub(crate) fn new(limits: Limits) -> Self {
        Self {
            decoder: Decoder::new(GREETING_LEN_MAX),
            unsent: Outgoing::default(),
            limits,
            peer: None,
            reads: FRAME_LEN_MIN,
            unanswered: HashMap::new(),
            subscriptions: Vec::new(),
            is_flooded: false,
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
    pub(crate) fn unsent(&mut self) -> &mut Outgoing {
        &mut self.unsent
    }

    /// Whether so much is unsent that nothing more should be read, nor done of what was.
    pub(crate) fn is_full(&self) -> bool {
        self.unsent.len() >= UNSENT_MAX
    }

    /// Borrows buffers for what comes and goes now.
    pub(crate) fn borrow_from(&mut self, read: &mut Spare, unsent: &mut Spare) {
        self.decoder.borrow_from(read);
        self.unsent.borrow_from(unsent);
    }

    /// Gives back what memory is not needed while nothing happens.
    pub(crate) fn give_back(&mut self, read: &mut Spare, unsent: &mut Spare) {
        self.decoder.give_back(read);
        self.unsent.give_back(unsent);
        if self.unanswered.is_empty() && self.unanswered.capacity() > IDLE_PLACES {
            self.unanswered = HashMap::new();
        }
        if self.subscriptions.capacity() > IDLE_PLACES.max(2 * self.subscriptions.len()) {
            self.subscriptions.shrink_to_fit();
        }
    }

    /// Bytes that are kept of what was read.
    #[cfg(test)]
    pub(super) fn kept(&self) -> usize {
        self.decoder.kept()
    }

    /// The next thing that is asked. `None`: more bytes are needed.
    pub(crate) fn next(&mut self) -> Result<Option<Asked<'_>>, Violation> {
        let Self { decoder, unsent, limits, peer, reads, unanswered, subscriptions, .. } = self;
        let Some(body) = decoder.next()? else { return Ok(None) };
        let (kind, mut envelope) = Envelope::open(body)?;
        if peer.is_none() {
            let Hello { name, frame_len_max } = message::greeting(kind, envelope)?;
            *peer = Some(name);
            *reads = frame_len_max.clamp(FRAME_LEN_MIN, ANSWER_LEN_MAX);
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
                Asked::Request { id, method: envelope.text()?, params: message::arguments(envelope)? }
            }
            message::NOTIFICATION => {
                Asked::Notification { method: envelope.text()?, params: message::arguments(envelope)? }
            }
            message::PING => {
                let number = envelope.number()?;
                envelope.end()?;
                message::pong(number, unsent.tail());
                Asked::Nothing
            }
            message::PONG => {
                envelope.number()?;
                envelope.end()?;
                Asked::Nothing
            }
            message::CANCEL => {
                let id = envelope.id()?;
                envelope.end()?;
                Asked::Cancel { id }
            }
            message::CREDIT => {
                let (id, events) = (envelope.id()?, envelope.id()?);
                envelope.end()?;
                // For a subscription that was just ended it is late, and no fault.
                if let Some(subscription) = subscriptions.iter_mut().find(|known| known.id == id) {
                    subscription.credit = subscription.credit.saturating_add(events.into());
                }
                Asked::Nothing
            }
            message::SUBSCRIBE => {
                subscribe(envelope, *limits, subscriptions, unsent.tail())?;
                Asked::Nothing
            }
            message::UNSUBSCRIBE => {
                let id = envelope.id()?;
                envelope.end()?;
                subscriptions.retain(|known| known.id != id);
                Asked::Nothing
            }
            _ => return Err(Violation(format!("a message of kind {kind}, which no helper takes after the hello"))),
        };
        Ok(Some(asked))
    }

    /// Says who answers; from now on longer frames may come.
    pub(crate) fn welcome(&mut self, name: &str, version: &str) {
        let Limits { frame_len_max, requests_max, subscriptions_max } = self.limits;
        self.decoder.set_len_max(frame_len_max);
        let (name, version) = (cut(name).to_owned(), cut(version).to_owned());
        let welcome = Welcome { name, version, frame_len_max, requests_max, subscriptions_max };
        message::welcome(&welcome, self.unsent.tail());
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
        let is_read = outcome.len() <= self.reads as usize;
        if is_read && self.unsent.len() + outcome.len() > UNREAD_MAX {
            self.is_flooded = true;
            return;
        }
        if !send(&mut self.unsent, self.reads, outcome.len(), |out| message::answer(id, outcome, out)) {
            let why = format!("the answer has {} bytes, its client reads {}", outcome.len(), self.reads);
            self.refuse(id, Code::TooLong, &why);
        }
    }

    /// Whether the peer has left more unread than may lie here.
    pub(crate) fn check_what_is_unread(&self) -> Result<(), Violation> {
        if !self.is_flooded {
            return Ok(());
        }
        Err(Violation(format!("more than {} MiB of answers that it does not read", UNREAD_MAX >> 20)))
    }

    /// Answers with a failure that is not the application's own.
    pub(crate) fn refuse(&mut self, id: u32, code: Code, why: &str) {
        let failure = Failure { code, message: cut(why).to_owned() };
        message::response(id, &Err::<(), _>(failure), self.unsent.tail());
    }

    /// Tells the peer to ask no more here.
    pub(crate) fn go_away(&mut self, code: GoAwayCode, reason: &str) {
        message::go_away(code, cut(reason), self.unsent.tail());
    }

    /// Sends an event to every subscription that may have it now; the others fall behind.
    pub(crate) fn publish(&mut self, sequence: u64, event: &[u8]) {
        for subscription in &mut self.subscriptions {
            let may = !subscription.is_behind && subscription.credit > 0 && self.unsent.len() < UNSENT_MAX;
            let write = |out: &mut Vec<u8>| message::event(subscription.id, sequence, event, out);
            if may && send(&mut self.unsent, self.reads, event.len(), write) {
                subscription.credit -= 1;
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
        let Self { unsent, reads, subscriptions, peer, .. } = self;
        subscriptions.retain_mut(|known| {
            // The others get theirs when this was read.
            if !known.wants_snapshot() || unsent.len() >= UNSENT_MAX {
                return true;
            }
            let Subscription { id, missed, .. } = *known;
            let start = unsent.tail().len();
            if missed > 0 {
                message::resync(id, missed, unsent.tail());
            }
            let write = |out: &mut Vec<u8>| message::snapshot(id, epoch, sequence, events, out);
            let sent = send(unsent, *reads, events.len(), write);
            if !sent {
                unsent.tail().truncate(start);
                let why = format!("the snapshot has {} bytes, its client reads {reads}", events.len());
                end(known.id, Code::TooLong, &why, peer.as_deref(), unsent);
                return false;
            }
            known.credit -= 1;
            (known.is_behind, known.missed) = (false, 0);
            true
        });
    }

    /// Ends the subscriptions that cannot be told how things stand.
    pub(crate) fn end_subscriptions(&mut self, why: &str) {
        let Self { unsent, subscriptions, peer, .. } = self;
        for subscription in subscriptions.extract_if(.., |known| known.wants_snapshot()) {
            end(subscription.id, Code::Failed, why, peer.as_deref(), unsent);
        }
    }
}

impl Subscription {
    fn wants_snapshot(&self) -> bool {
        self.is_behind && self.credit > 0
    }
}

/// Appends a frame unless it is longer than the peer reads; `len` bytes of it are known to be in it.
fn send(unsent: &mut Outgoing, reads: u32, len: usize, write: impl FnOnce(&mut Vec<u8>)) -> bool {
    let (out, reads) = (unsent.tail(), reads as usize);
    let start = out.len();
    if len > reads {
        return false;
    }
    write(out);
    let fits = out.len() - start - HEADER_LEN <= reads;
    if !fits {
        out.truncate(start);
    }
    fits
}

/// Ends a subscription, and says so to the peer and in the log.
fn end(id: u32, code: Code, why: &str, peer: Option<&str>, unsent: &mut Outgoing) {
    log::error!("subscription {id} of {} ends: {why}", peer.unwrap_or_default());
    message::end(id, &Failure { code, message: cut(why).to_owned() }, unsent.tail());
}

fn cut(sentence: &str) -> &str {
    &sentence[..sentence.floor_char_boundary(SENTENCE_LEN_MAX)]
}

fn subscribe(
    mut envelope: Envelope<'_>,
    limits: Limits,
    subscriptions: &mut Vec<Subscription>,
    unsent: &mut Vec<u8>,
) -> Result<(), Violation> {
    let (id, topic) = (envelope.id()?, envelope.text()?);
    let Terms { credit } = envelope.map()?;
    if subscriptions.iter().any(|known| known.id == id) {
        return Err(Violation(format!("subscription {id} exists already")));
    }
    if subscriptions.len() >= limits.subscriptions_max as usize {
        return Err(Violation(format!("more than {} subscriptions", limits.subscriptions_max)));
    }
    if topic == TOPIC {
        subscriptions.push(Subscription { id, credit: credit.into(), is_behind: true, missed: 0 });
    } else {
        let message = format!("no topic {:?}: there is {TOPIC:?}", cut(topic));
        message::end(id, &Failure { code: Code::NoTopic, message: cut(&message).to_owned() }, unsent);
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
    use crate::ipc::frame;

    const LIMITS: Limits = Limits { frame_len_max: 64 * 1024, requests_max: 2, subscriptions_max: 2 };

    fn hello() -> Vec<u8> {
        let mut out = Vec::new();
        message::hello(&Hello::of("worker 0"), &mut out);
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
        callee.unsent().tail().clear();
        callee
    }

    /// The messages that were written, as values.
    fn written(callee: &mut Callee<u8>) -> Vec<serde_json::Value> {
        let mut decoder = Decoder::new(u32::MAX);
        decoder.feed(callee.unsent().rest());
        callee.unsent().tail().clear();
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
        let table: [(Vec<Vec<u8>>, &str); 18] = [
            (vec![vec![0, 0, 0, 0]], "empty"),
            (vec![vec![0xff; 4]], "4294967295 bytes"),
            (vec![encoded(&(message::RESPONSE, 1, (), ()))], "kind 1"),
            (vec![encoded(&(99, 1))], "kind 99"),
            (vec![encoded(&(message::REQUEST, 1))], "missing"),
            (vec![encoded(&"garbage")], "no array"),
            (vec![hello()], "kind 3"),
            (vec![[0, 0, 0, 4, 0x92, message::PING, 1, 1].to_vec()], "behind"),
            (vec![[0, 0, 0, 4, 0x92, message::PONG, 1, 1].to_vec()], "behind"),
            (vec![[0, 0, 0, 4, 0x92, message::CANCEL, 1, 1].to_vec()], "behind"),
            (vec![[0, 0, 0, 5, 0x93, message::CREDIT, 1, 1, 1].to_vec()], "behind"),
            (vec![[0, 0, 0, 4, 0x92, message::UNSUBSCRIBE, 1, 1].to_vec()], "behind"),
            (vec![encoded(&(message::REQUEST, 1, "add", Terms { credit: 1 }))], "no array"),
            (vec![encoded(&(message::NOTIFICATION, "add", 7))], "no array"),
            (vec![encoded(&(message::SUBSCRIBE, 1, TOPIC, 7))], "no map"),
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
            (encoded(&(message::HELLO, 0, Hello::of(""))), "version 0"),
            (encoded(&(message::HELLO, 1, Hello::of(&"x".repeat(5000)))), "4096 are allowed"),
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
        callee.unsent().tail().clear();
        assert!(callee.wants_snapshot(), "it is brought up to date once it reads");
    }

    /// One that reads frames of so many bytes.
    fn reading(frame_len_max: u32) -> Callee<u8> {
        let mut callee = Callee::new(LIMITS);
        let mut out = Vec::new();
        message::hello(&Hello { frame_len_max, ..Hello::of("a display") }, &mut out);
        callee.feed(&out);
        assert_eq!(callee.next(), Ok(Some(Asked::Hello)));
        callee
    }

    /// The lengths of the frames that were written.
    fn lengths(callee: &mut Callee<u8>) -> Vec<usize> {
        let mut decoder = Decoder::new(u32::MAX);
        decoder.feed(callee.unsent().rest());
        std::iter::from_fn(|| decoder.next().expect("our own frames").map(<[u8]>::len)).collect()
    }

    #[test]
    fn nothing_is_sent_that_is_longer_than_the_peer_reads() {
        let text = |len: usize| rmp_serde::to_vec(&"x".repeat(len)).expect("encode");
        for (said, reads) in [(10_000, 10_000), (0, 4096), (4095, 4096), (u32::MAX, 64 << 20)] {
            assert_eq!(reading(said).reads, reads);
        }
        let mut callee = reading(5000);
        // The frame's other bytes: 5 of an answer, 3 of the string, 4 of an event and 5 of a snapshot.
        callee.answer(3, &[&[0xc0][..], &text(4993)].concat());
        callee.answer(4, &[&[0xc0][..], &text(4994)].concat());
        assert_eq!(lengths(&mut callee)[0], 5000);
        let answers = written(&mut callee);
        assert_eq!((answers[0][3].as_str().map(str::len), &answers[1][2]["code"]), (Some(4993), &"too_long".into()));
        callee.feed(&encoded(&(message::SUBSCRIBE, 5, TOPIC, Terms { credit: 9 })));
        assert_eq!(callee.next(), Ok(Some(Asked::Nothing)));
        callee.snapshot(1, 0, &[&[0x91][..], &text(4990)].concat());
        callee.publish(1, &text(4993));
        assert_eq!(lengths(&mut callee), [4999, 5000]);
        callee.publish(2, &text(4994));
        assert!(callee.wants_snapshot(), "an event that is too long is missed");
        callee.snapshot(1, 2, &[&[0x91][..], &text(5000)].concat());
        assert!(!callee.wants_snapshot() && callee.subscriptions.is_empty(), "its subscription is over");
        let all = written(&mut callee);
        assert_eq!((all.len(), &all[2][0], &all[2][2]["code"]), (3, &message::END.into(), &"too_long".into()));
    }

    #[test]
    fn whoever_reads_little_is_still_told_what_is_wrong() {
        let mut callee = reading(0);
        let long = "ü".repeat(10_000);
        callee.welcome(&long, &long);
        callee.refuse(1, Code::NoMethod, &long);
        callee.go_away(GoAwayCode::RuleBroken, &long);
        callee.feed(&encoded(&(message::SUBSCRIBE, 5, &long, Terms { credit: 9 })));
        assert_eq!(callee.next(), Ok(Some(Asked::Nothing)));
        callee.feed(&encoded(&(message::SUBSCRIBE, 5, TOPIC, Terms { credit: 9 })));
        assert_eq!(callee.next(), Ok(Some(Asked::Nothing)));
        callee.end_subscriptions(&long);
        let lengths = lengths(&mut callee);
        assert!(lengths.len() == 5 && lengths.iter().all(|&len| len <= FRAME_LEN_MIN as usize), "{lengths:?}");
    }

    #[test]
    fn what_is_not_read_ends_the_connection_before_it_is_more_than_128_mib() {
        let mut callee = greeted();
        callee.answer(9, &vec![0xc0; UNREAD_MAX + 1]);
        assert_eq!((callee.check_what_is_unread(), &written(&mut callee)[0][2]["code"]), (Ok(()), &"too_long".into()));
        let answer = vec![0xc0; 30 << 20];
        for id in 0..4 {
            callee.answer(id, &answer);
            assert_eq!(callee.check_what_is_unread(), Ok(()));
        }
        callee.answer(4, &answer);
        assert!(callee.check_what_is_unread().is_err_and(|error| error.0.contains("128 MiB")));
        assert!(callee.unsent().len() <= UNREAD_MAX);
    }

    #[test]
    fn nothing_of_a_busy_time_is_kept_while_nothing_happens() {
        let mut callee = Callee::<u8>::new(Limits { requests_max: 1000, subscriptions_max: 1000, ..LIMITS });
        callee.feed(&hello());
        for id in 0..1000 {
            callee.feed(&encoded(&(message::SUBSCRIBE, id, TOPIC, Terms { credit: 1 })));
        }
        while callee.next().expect("valid").is_some() {}
        (0..1000).for_each(|id| callee.keep(id, 1));
        for id in 0..1000 {
            assert_eq!(callee.cancelled(id), Some(1));
            callee.feed(&encoded(&(message::UNSUBSCRIBE, id)));
        }
        while callee.next().expect("valid").is_some() {}
        let len = callee.unsent().len();
        callee.unsent().wrote(len);
        callee.give_back(&mut Spare::default(), &mut Spare::default());
        assert!(callee.unanswered.capacity() <= IDLE_PLACES && callee.subscriptions.capacity() <= IDLE_PLACES);
        assert!(callee.unsent().tail().capacity() <= 512);
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
            callee.unsent().tail().clear();
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
