//! The control socket's server: who may ask, and how long for; `requests.rs` has the answers.
//!
//! Whoever connects may say anything: only root, the daemon's own user and `control_uids` are listened
//! to, each connection is bounded in bytes and in time, and none of them can make the loop wait.

use std::collections::BTreeMap;
use std::io::{self, ErrorKind, Read, Write};
use std::os::fd::OwnedFd;
use std::os::unix::net::UnixListener;
use std::time::{Duration, Instant};

use mio::net::UnixStream;
use mio::{Interest, Registry, Token};

use super::spare::Spare;
use crate::contract::control::{CONTROL_LEN_MAX, NO_REQUEST, Nothing, PROGRESS, Refusal, Step};
use crate::error::Exit;
use crate::ipc::frame::Decoder;
use crate::ipc::peer::TurnedAway;
use crate::ipc::{message, peer};

/// Connections at once; the oldest makes room for a new one.
const PEERS_MAX: usize = 64;

/// Of those that wait for the end of a reload, and of those that wait for the end of this process, at
/// most so many: clearly fewer than there are places, so that there is always one for who asks next.
pub(super) const WAITING_MAX: usize = 24;

/// Of those that wait for the log's files.
pub(super) const REOPENINGS_MAX: usize = 8;

const _: () = assert!(2 * WAITING_MAX + REOPENINGS_MAX < PEERS_MAX);

/// Connections taken in one turn.
const ACCEPTS_MAX: usize = 64;

/// Requests of one connection in one turn.
const REQUESTS_MAX: usize = 64;

/// How long a connection may be silent.
const SILENCE_MAX: Duration = Duration::from_secs(10);

/// How long a connection may be silent that has taken the last descriptor from the next one.
const FIRST_WORD: Duration = Duration::from_millis(500);

/// The longest request, in bytes: they carry a few numbers.
const REQUEST_LEN_MAX: u32 = 64 * 1024;

/// Tokens of connections begin here.
const FIRST: usize = 16;

pub(super) struct ControlServer {
    listener: mio::net::UnixListener,
    /// Who may ask, besides root and this process's user.
    allowed: Vec<u32>,
    peers: BTreeMap<usize, Peer>,
    next: usize,
    spare: Spare,
    /// Whether someone waits for whom there was no descriptor.
    starved: bool,
    /// Whether someone waits for the next turn.
    has_more: bool,
    turned_away: TurnedAway,
}

struct Peer {
    stream: UnixStream,
    /// Whose it is, as the kernel says.
    uid: u32,
    decoder: Decoder,
    unsent: Vec<u8>,
    deadline: Instant,
    /// It waits for the end of this process: its socket stays open until then.
    until_the_end: bool,
    /// So many answers to it take their time.
    awaited: usize,
    /// It asks no more.
    has_finished: bool,
    /// Its user may ask no more: it gets what it waits for.
    is_revoked: bool,
}

/// Why a connection ends.
enum End {
    /// Nobody is there any more.
    Gone,
    /// A rule was broken.
    Broken(String),
}

impl ControlServer {
    pub(super) fn new(
        listener: UnixListener,
        allowed: Vec<u32>,
        registry: &Registry,
        token: Token,
    ) -> io::Result<Self> {
        let mut listener = mio::net::UnixListener::from_std(listener);
        registry.register(&mut listener, token, Interest::READABLE)?;
        Ok(Self {
            listener,
            allowed,
            peers: BTreeMap::new(),
            next: FIRST,
            spare: Spare::new()?,
            starved: false,
            has_more: false,
            turned_away: TurnedAway::default(),
        })
    }

    /// Whether [`ControlServer::accept`] should be tried again without an event.
    pub(super) fn is_starved(&self) -> bool {
        self.starved || self.has_more
    }

    /// When the most silent connection is to be closed.
    pub(super) fn due(&self) -> Option<Instant> {
        if self.has_more {
            return Some(Instant::now());
        }
        let early = if self.starved { SILENCE_MAX - FIRST_WORD } else { Duration::ZERO };
        self.peers.values().filter(|peer| !peer.is_patient()).map(|peer| peer.deadline - early).min()
    }

    /// Closes what was silent for too long.
    pub(super) fn close_the_silent(&mut self, now: Instant) {
        let is_silent = |peer: &Peer| !peer.is_patient() && peer.deadline <= now;
        let silent: Vec<usize> =
            self.peers.iter().filter(|(_, peer)| is_silent(peer)).map(|(&number, _)| number).collect();
        for number in silent {
            let why = format!("it was silent for {} s", SILENCE_MAX.as_secs());
            // No fault that anybody has to hear of: a command that was interrupted leaves it too.
            log::debug!(target: "forebay", "control socket: a connection was closed: {why}");
            self.part(Token(number), why);
        }
    }

    /// Makes room; false when everyone waits for us, or has been silent for less than this.
    fn close_the_oldest(&mut self, silent_for: Duration, now: Instant) -> bool {
        let is_silent = |peer: &Peer| !peer.is_patient() && peer.deadline + silent_for <= now + SILENCE_MAX;
        let oldest = self.peers.iter().find(|(_, peer)| is_silent(peer)).map(|(&number, _)| number);
        oldest.is_some_and(|oldest| self.peers.remove(&oldest).is_some())
    }

    pub(super) fn accept(&mut self, registry: &Registry, now: Instant) {
        self.starved = false;
        self.has_more = false;
        for _ in 0..ACCEPTS_MAX {
            let accepted = match self.listener.accept() {
                // Out of descriptors `status` still answers: that is what the spare one is for.
                Err(error) if matches!(error.raw_os_error(), Some(libc::EMFILE | libc::ENFILE)) => {
                    // Who has just come is heard before it makes room for the next.
                    self.starved = !self.spare.release() && !self.close_the_oldest(FIRST_WORD, now);
                    if self.starved {
                        return;
                    }
                    self.listener.accept()
                }
                accepted => accepted,
            };
            match accepted {
                Ok((stream, _)) => self.admit(stream, registry, now),
                Err(error) if error.kind() == ErrorKind::Interrupted => {}
                Err(_) => return,
            }
        }
        // A crowd: everything else has its turn before the rest of it.
        self.has_more = true;
    }

    fn admit(&mut self, stream: UnixStream, registry: &Registry, now: Instant) {
        match peer::uid(&stream) {
            Ok(uid) if self.may_ask(uid) => self.seat(stream, uid, registry, now),
            Ok(uid) => self.turn_away(stream, uid, now),
            Err(error) => log::warn!(target: "forebay", "control socket: who connects is unknown: {error}"),
        }
    }

    fn may_ask(&self, uid: u32) -> bool {
        peer::is_ours(uid) || self.allowed.contains(&uid)
    }

    fn seat(&mut self, mut stream: UnixStream, uid: u32, registry: &Registry, now: Instant) {
        if self.peers.len() >= PEERS_MAX && !self.close_the_oldest(Duration::ZERO, now) {
            return;
        }
        let token = Token(self.next);
        if registry.register(&mut stream, token, Interest::READABLE | Interest::WRITABLE).is_ok() {
            let decoder = Decoder::new(REQUEST_LEN_MAX);
            let deadline = now + SILENCE_MAX;
            let peer = Peer {
                stream,
                uid,
                decoder,
                unsent: Vec::new(),
                deadline,
                until_the_end: false,
                awaited: 0,
                has_finished: false,
                is_revoked: false,
            };
            self.peers.insert(self.next, peer);
            self.next += 1;
        }
    }

    /// Whether this token is a connection of ours.
    pub(super) fn owns(&self, token: Token) -> bool {
        self.peers.contains_key(&token.0)
    }

    /// The requests that have come whole on this connection.
    pub(super) fn requests(&mut self, token: Token) -> Vec<Vec<u8>> {
        let Some(peer) = self.peers.get_mut(&token.0) else { return Vec::new() };
        match peer.read().and_then(|requests| peer.write().map(|()| requests)) {
            Ok(_) if peer.is_revoked => Vec::new(),
            Ok(requests) => requests,
            Err(End::Gone) => {
                self.close(token);
                Vec::new()
            }
            Err(End::Broken(why)) => {
                self.cut(token, why);
                Vec::new()
            }
        }
    }

    /// Closes the connection of whoever has broken a rule.
    pub(super) fn cut(&mut self, token: Token, why: String) {
        log::warn!(target: "forebay", "control socket: a connection was closed: {why}");
        self.part(token, why);
    }

    /// Says why, as far as the socket takes it, and closes.
    fn part(&mut self, token: Token, why: String) {
        if let Some(peer) = self.peers.get_mut(&token.0) {
            peer.unsent.extend_from_slice(&no_answer(Refusal::new(Exit::Usage, why)));
            let _ = peer.write();
        }
        self.close(token);
    }

    /// Sends an answer, now or as the peer reads.
    pub(super) fn answer(&mut self, token: Token, bytes: &[u8], now: Instant) {
        let Some(peer) = self.peers.get_mut(&token.0) else { return };
        peer.unsent.extend_from_slice(bytes);
        peer.deadline = now + SILENCE_MAX;
        if peer.write().is_err() {
            self.close(token);
        } else if peer.unsent.len() > CONTROL_LEN_MAX as usize {
            self.cut(token, "it does not read its answers".to_owned());
        }
    }

    /// Tells those who wait how far what they wait for has come.
    pub(super) fn tell_step(&mut self, waiting: impl IntoIterator<Item = Token>, text: String, now: Instant) {
        let mut out = Vec::new();
        if message::notification(PROGRESS, &Step { text }, &mut out).is_ok() {
            waiting.into_iter().for_each(|token| self.answer(token, &out, now));
        }
    }

    /// Whether someone may wait here without taking from others what is in reserve for all.
    pub(super) fn may_wait(&mut self) -> bool {
        self.spare.refill();
        self.spare.is_whole()
    }

    /// An answer will come when it is there.
    pub(super) fn wait(&mut self, token: Token) {
        if let Some(peer) = self.peers.get_mut(&token.0) {
            peer.awaited += 1;
        }
    }

    /// Sends an answer that was waited for.
    pub(super) fn fulfil(&mut self, token: Token, bytes: &[u8], now: Instant) {
        if let Some(peer) = self.peers.get_mut(&token.0) {
            peer.awaited = peer.awaited.saturating_sub(1);
        }
        self.answer(token, bytes, now);
        self.dismiss(token);
    }

    /// Keeps a connection open until the end of this process; false where too many wait for that.
    pub(super) fn keep_until_the_end(&mut self, token: Token) -> bool {
        let others = self.peers.iter().filter(|(number, peer)| **number != token.0 && peer.until_the_end).count();
        let has_room = others < WAITING_MAX;
        if let Some(peer) = self.peers.get_mut(&token.0).filter(|_| has_room) {
            peer.until_the_end = true;
        }
        has_room
    }

    /// These may ask from now on, besides root and this process's user. Connections of others end: at
    /// once, or with the answer that they wait for.
    pub(super) fn allow(&mut self, allowed: Vec<u32>) {
        self.allowed = allowed;
        let revoked: Vec<usize> =
            self.peers.iter().filter(|(_, peer)| !self.may_ask(peer.uid)).map(|(&number, _)| number).collect();
        for number in revoked {
            let Some(peer) = self.peers.get_mut(&number) else { continue };
            log::info!(target: "forebay", "control socket: uid {} may ask no more", peer.uid);
            peer.is_revoked = true;
            peer.has_finished = true;
            if !peer.is_patient() {
                self.close(Token(number));
            }
        }
    }

    /// Gives a connection away after a last answer: it is nobody's here any more. `None`: it waits for another
    /// answer, or does not read.
    pub(super) fn give_away(&mut self, token: Token, last: &[u8], registry: &Registry) -> Option<OwnedFd> {
        if self.peers.get(&token.0)?.is_patient() {
            return None;
        }
        let mut peer = self.peers.remove(&token.0)?;
        self.spare.refill();
        peer.unsent.extend_from_slice(last);
        // Its descriptor may live on elsewhere, and epoll(7) would go on to tell of it.
        registry.deregister(&mut peer.stream).ok()?;
        let is_written = peer.write().is_ok() && peer.unsent.is_empty();
        is_written.then(|| peer.stream.into())
    }

    /// Closes a connection that asks no more and has all its answers.
    pub(super) fn dismiss(&mut self, token: Token) {
        let done = |peer: &Peer| peer.has_finished && peer.unsent.is_empty() && !peer.is_patient();
        if self.peers.get(&token.0).is_some_and(done) {
            self.close(token);
        }
    }

    pub(super) fn close(&mut self, token: Token) {
        self.peers.remove(&token.0);
        self.spare.refill();
    }
}

impl ControlServer {
    /// Says why before anything is asked: whoever floods the socket costs nobody a place, and the log
    /// a line a second.
    fn turn_away(&mut self, stream: UnixStream, uid: u32, now: Instant) {
        self.turned_away.add();
        if let Some(count) = self.turned_away.due(now) {
            let more = TurnedAway::more(count);
            log::warn!(target: "forebay", "control socket: uid {uid}, who may not, was turned away{more}");
        }
        refuse(stream, uid);
    }
}

fn refuse(mut stream: UnixStream, uid: u32) {
    // It fits the socket's buffer, or its reader is gone.
    let _ = stream.write(&no_answer(Refusal::may_not_ask(uid)));
}

/// What answers no request: the connection is closed after it.
fn no_answer(refusal: Refusal) -> Vec<u8> {
    let mut out = Vec::new();
    message::response(NO_REQUEST, &Err::<Nothing, _>(refusal), &mut out);
    out
}

impl Peer {
    /// Whether it is silent because it waits for us.
    fn is_patient(&self) -> bool {
        self.until_the_end || self.awaited > 0
    }

    fn read(&mut self) -> Result<Vec<Vec<u8>>, End> {
        let mut requests = Vec::new();
        let mut buffer = [0; 4096];
        loop {
            match self.stream.read(&mut buffer) {
                Ok(0) if requests.is_empty() && self.unsent.is_empty() => return Err(End::Gone),
                Ok(0) => {
                    self.has_finished = true;
                    return Ok(requests);
                }
                Ok(count) => self.decoder.feed(&buffer[..count]),
                Err(error) if error.kind() == ErrorKind::WouldBlock => return Ok(requests),
                Err(error) if error.kind() == ErrorKind::Interrupted => {}
                Err(_) => return Err(End::Gone),
            }
            while let Some(body) = self.decoder.next().map_err(|error| End::Broken(error.reason()))? {
                requests.push(body.to_vec());
            }
            if requests.len() > REQUESTS_MAX {
                return Err(End::Broken(format!("more than {REQUESTS_MAX} requests at once")));
            }
        }
    }

    fn write(&mut self) -> Result<(), End> {
        peer::write(&mut self.stream, &mut self.unsent).map_err(|_| End::Gone)
    }
}

#[cfg(test)]
mod tests {
    use mio::Poll;

    use super::*;

    /// A user that no test runs as.
    const SOMEBODY: u32 = 4242;

    struct Place {
        _directory: tempfile::TempDir,
        poll: Poll,
        server: ControlServer,
    }

    impl Place {
        fn open(allowed: Vec<u32>) -> Self {
            let directory = tempfile::tempdir().expect("a directory");
            let listener = UnixListener::bind(directory.path().join("control.sock")).expect("a socket");
            let poll = Poll::new().expect("an epoll instance");
            let server = ControlServer::new(listener, allowed, poll.registry(), Token(1)).expect("a server");
            Self { _directory: directory, poll, server }
        }

        /// A connection of this user: its other end, and its token.
        fn seat(&mut self, uid: u32) -> (std::os::unix::net::UnixStream, Token) {
            let (ours, theirs) = UnixStream::pair().expect("a pair");
            self.server.seat(ours, uid, self.poll.registry(), Instant::now());
            let theirs = std::os::unix::net::UnixStream::from(std::os::fd::OwnedFd::from(theirs));
            (theirs, Token(self.server.next - 1))
        }
    }

    #[test]
    fn who_may_ask_no_more_loses_the_open_connection_too() {
        let mut place = Place::open(vec![SOMEBODY]);
        let ((_one, idle), (mut other, waiting)) = (place.seat(SOMEBODY), place.seat(SOMEBODY));
        let (_ours, own) = place.seat(nix::unistd::geteuid().as_raw());
        place.server.wait(waiting);
        place.server.allow(vec![SOMEBODY]);
        assert!(place.server.owns(idle) && place.server.owns(waiting));
        place.server.allow(Vec::new());
        assert!(!place.server.owns(idle) && place.server.owns(waiting) && place.server.owns(own));
        // It gets what it waits for, and nothing else that it asks.
        let mut request = Vec::new();
        message::request(2, "stop", &Nothing {}, &mut request);
        other.write_all(&request).expect("room in the buffer");
        assert!(place.server.requests(waiting).is_empty());
        place.server.fulfil(waiting, b"answer", Instant::now());
        assert!(!place.server.owns(waiting));
    }

    #[test]
    fn whoever_does_not_read_its_answers_is_closed() {
        let mut place = Place::open(vec![SOMEBODY]);
        let (_theirs, token) = place.seat(SOMEBODY);
        for _ in 0..5 {
            assert!(place.server.owns(token));
            place.server.answer(token, &[0; 1024 * 1024], Instant::now());
        }
        assert!(!place.server.owns(token));
    }

    #[test]
    fn whoever_is_silent_is_told_and_closed() {
        let mut place = Place::open(vec![SOMEBODY]);
        let (mut theirs, token) = place.seat(SOMEBODY);
        place.server.close_the_silent(Instant::now());
        assert!(place.server.owns(token));
        place.server.close_the_silent(Instant::now() + SILENCE_MAX);
        assert!(!place.server.owns(token));
        let mut said = Vec::new();
        theirs.read_to_end(&mut said).expect("the end");
        let mut decoder = Decoder::new(CONTROL_LEN_MAX);
        decoder.feed(&said);
        let body = decoder.next().expect("a frame").expect("a whole one");
        let (id, outcome) = message::outcome::<Nothing, Refusal>(body).expect("a response");
        let refusal = outcome.expect_err("a refusal");
        assert_eq!((id, refusal.exit), (NO_REQUEST, Exit::Usage as u32));
        assert!(refusal.reason.contains("silent for 10 s"), "{}", refusal.reason);
    }

    #[test]
    fn a_connection_is_patient_until_all_its_answers_are_there() {
        let mut place = Place::open(Vec::new());
        let (_theirs, token) = place.seat(SOMEBODY);
        let later = Instant::now() + 2 * SILENCE_MAX;
        place.server.wait(token);
        place.server.wait(token);
        for answer in [b"one", b"two"] {
            place.server.answer(token, b"of something else", Instant::now());
            place.server.close_the_silent(later);
            assert!(place.server.owns(token));
            place.server.fulfil(token, answer, Instant::now());
        }
        place.server.close_the_silent(later);
        assert!(!place.server.owns(token));
    }

    #[test]
    fn not_everybody_may_wait_for_the_end() {
        let mut place = Place::open(Vec::new());
        let seats: Vec<_> = (0..=WAITING_MAX).map(|_| place.seat(SOMEBODY)).collect();
        let kept = seats.iter().filter(|(_, token)| place.server.keep_until_the_end(*token)).count();
        assert_eq!(kept, WAITING_MAX);
        assert!(place.server.keep_until_the_end(seats[0].1), "it is one of them");
    }
}
