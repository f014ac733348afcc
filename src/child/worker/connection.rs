//! What a connection, its requests and its worker tell each other.

use std::io;
use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU8, AtomicU32, AtomicU64, Ordering};
use std::task::Poll;

use http::header::{CONNECTION, HeaderValue};
use http::{Request, Response, Version};
use tokio::sync::Notify;

use super::access::Visit;
use super::answer::is;
use super::watch;
use crate::app::declare::{Ends, Kind};
use crate::log::request::{self, RequestId, Scope};
use crate::settings::http::Http;

/// Requests whose answers are not whole. A process is one worker, once.
static AT_ONCE: AtomicU64 = AtomicU64::new(0);

/// So long a connection in use has been idle when its buffers are given back. One that is not known to be in use
/// (after its first request, or a longer pause) gives them back at once: a crowd that only keeps its connections
/// open takes little, and who asks again and again has them ready.
const PARKED_AFTER_MS: u64 = 1000;

/// So long a client that sends nothing more is taken for one that waits for its answer.
const END_HELD_MS: u64 = 1000;

/// What a connection and its requests tell each other.
pub(super) struct Life {
    ends: Arc<dyn Ends>,
    /// `None`: it came over a Unix socket.
    peer: Option<SocketAddr>,
    /// Told of every request while ending, and of the last answer.
    asked: Notify,
    /// The next answer is the last one, and says so.
    ending: AtomicBool,
    /// Something came, or an answer went, since this was asked last.
    stirs: AtomicBool,
    /// An answer was ended because the connection ends.
    has_answered: AtomicBool,
    /// A request of HTTP/2 has come: GOAWAY says the end, and loses nothing.
    is_http2: AtomicBool,
    /// Answers that are not whole.
    requests: AtomicU32,
    /// All requests so far.
    count: AtomicU64,
    /// What it will be when hyper has handed it over is a WebSocket.
    switches: AtomicBool,
    /// It is.
    is_socket: AtomicBool,
    /// The last answer was the last one of HTTP here.
    changes: AtomicBool,
    /// A `Kept`.
    kept: AtomicU8,
    /// Of a request's body not all was read when it was answered.
    leaves_unread: AtomicBool,
    /// hyper has it, and holds buffers for it that it could do without.
    holds_buffers: AtomicBool,
    /// The last request came soon after the one before.
    is_in_use: AtomicBool,
    awaits: AtomicU8,
    /// By the watch's time, like the next.
    since_ms: AtomicU64,
    /// Since then the client has taken nothing of what waits for it; 0: nothing waits.
    blocked_ms: AtomicU64,
    /// Since then the client is known to send nothing more, while a request is open; 0: it is not.
    ended_ms: AtomicU64,
    /// A `Verdict`, or 0.
    verdict: AtomicU8,
    told: Notify,
}

/// What the worker waits for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(u8)]
enum Awaits {
    /// The rest of a request's head, or its first byte on a new connection.
    Head,
    /// The next request.
    Request,
    /// Nothing of the client that is timed here: a request is worked on, or hyper has handed it over.
    Nothing,
}

/// What is kept of answers, so that those to a pipeline go together.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(u8)]
enum Kept {
    Nothing,
    /// Until hyper reads, which it does when it has answered all that has come.
    UntilRead,
    /// hyper waits for something else.
    NoLonger,
}

/// What is to become of a connection.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(u8)]
pub(super) enum Verdict {
    /// Its buffers are to be given back.
    Park = 1,
    /// No whole head has come in its time.
    NoHead,
    /// No next request has come in its time, or there were enough.
    Done,
    /// It takes nothing.
    TakesNothing,
    /// The client was taken for one that waits; look again.
    HasEnded,
    /// The worker drains.
    Drains,
}

impl Verdict {
    const ALL: [Self; 6] = [Self::Park, Self::NoHead, Self::Done, Self::TakesNothing, Self::HasEnded, Self::Drains];
}

impl Life {
    /// Of a new connection, which is watched from now on.
    pub(super) fn begin(ends: Arc<dyn Ends>, peer: Option<SocketAddr>) -> Arc<Self> {
        let life = Arc::new(Self {
            ends,
            peer,
            asked: Notify::new(),
            ending: AtomicBool::new(false),
            stirs: AtomicBool::new(false),
            has_answered: AtomicBool::new(false),
            is_http2: AtomicBool::new(false),
            requests: AtomicU32::new(0),
            count: AtomicU64::new(0),
            switches: AtomicBool::new(false),
            is_socket: AtomicBool::new(false),
            changes: AtomicBool::new(false),
            kept: AtomicU8::new(Kept::Nothing as u8),
            leaves_unread: AtomicBool::new(false),
            holds_buffers: AtomicBool::new(false),
            is_in_use: AtomicBool::new(false),
            awaits: AtomicU8::new(Awaits::Head as u8),
            since_ms: AtomicU64::new(watch::now_ms()),
            blocked_ms: AtomicU64::new(0),
            ended_ms: AtomicU64::new(0),
            verdict: AtomicU8::new(0),
            told: Notify::new(),
        });
        watch::enroll(&life);
        life
    }

    /// When it shall end.
    pub(super) fn ends(&self) -> &Arc<dyn Ends> {
        &self.ends
    }

    /// The next answer is the last one.
    pub(super) fn end(&self) {
        self.ending.store(true, Ordering::Relaxed);
    }

    /// Whether the next answer is the last one.
    pub(super) fn is_ending(&self) -> bool {
        self.ending.load(Ordering::Relaxed)
    }

    pub(super) fn peer(&self) -> Option<SocketAddr> {
        self.peer
    }

    /// A request has come while it ends.
    pub(super) fn ask(&self) {
        self.asked.notify_waiters();
    }

    /// It is HTTP/2.
    pub(super) fn speaks_http2(&self) {
        self.is_http2.store(true, Ordering::Relaxed);
    }

    /// It will be a WebSocket, or something else.
    pub(super) fn switches(&self, to_socket: bool) {
        self.changes.store(true, Ordering::Relaxed);
        self.switches.store(to_socket, Ordering::Relaxed);
    }

    /// This answer is the last one, and says so where the protocol has words for that.
    pub(super) fn close_after<B>(&self, response: &mut Response<B>) {
        if self.is_http2() {
            self.tell(Verdict::Done);
        } else {
            response.headers_mut().insert(CONNECTION, HeaderValue::from_static("close"));
        }
    }

    /// It is in use.
    pub(super) fn stir(&self) {
        self.stirs.store(true, Ordering::Relaxed);
    }

    /// Whether it is in use, or was since this was asked last.
    pub(super) fn has_stirred(&self) -> bool {
        self.stirs.swap(false, Ordering::Relaxed) || self.requests.load(Ordering::Relaxed) > 0
    }

    /// An answer has ended because the connection ends: there is nothing to wait for.
    pub(super) fn answered(&self) {
        self.has_answered.store(true, Ordering::Relaxed);
        self.asked.notify_waiters();
    }

    /// It was cut.
    pub(super) fn cut(&self) {
        if self.requests.load(Ordering::Relaxed) > 0 {
            self.ends.has_cut(Kind::Request);
        }
    }

    /// Whether this is known to be HTTP/2; until the first request it is not.
    pub(super) fn is_http2(&self) -> bool {
        self.is_http2.load(Ordering::Relaxed)
    }

    /// Waits for the next request, unless there was the last answer.
    pub(super) async fn asked(&self) {
        if !self.has_answered.load(Ordering::Relaxed) {
            self.asked.notified().await;
        }
    }

    /// hyper has done its part.
    pub(super) fn hand_over(&self) {
        self.set_awaits(Awaits::Nothing);
        self.is_socket.store(self.switches.load(Ordering::Relaxed), Ordering::Relaxed);
    }

    /// Whether what is read and written are a WebSocket's frames.
    pub(super) fn is_socket(&self) -> bool {
        self.is_socket.load(Ordering::Relaxed)
    }

    fn begin_request(&self) {
        self.requests.fetch_add(1, Ordering::Relaxed);
        let is_first = self.count.fetch_add(1, Ordering::Relaxed) == 0;
        let idle_ms = watch::now_ms().saturating_sub(self.since_ms.load(Ordering::Relaxed));
        self.is_in_use.store(!is_first && idle_ms <= PARKED_AFTER_MS, Ordering::Relaxed);
        self.set_awaits(Awaits::Nothing);
        // hyper has read all that came before it.
        self.leaves_unread.store(false, Ordering::Relaxed);
    }

    fn awaits(&self, what: Awaits) -> bool {
        self.awaits.load(Ordering::Relaxed) == what as u8
    }

    fn set_awaits(&self, what: Awaits) {
        self.awaits.store(what as u8, Ordering::Relaxed);
        self.since_ms.store(watch::now_ms(), Ordering::Relaxed);
    }

    /// Bytes have come.
    pub(super) fn came(&self) {
        if self.awaits(Awaits::Request) && !self.is_http2() {
            self.set_awaits(Awaits::Head);
        }
    }

    /// Nothing is under way, and hyper knows nothing of it that is not known here.
    pub(super) fn is_idle(&self) -> bool {
        self.awaits(Awaits::Request)
            && self.blocked_ms.load(Ordering::Relaxed) == 0
            && !self.leaves_unread()
            && self.keeps(Kept::Nothing)
    }

    /// Whether what is written now is the end of an answer of HTTP/1, and nothing else is under way.
    pub(super) fn is_answered(&self) -> bool {
        self.awaits(Awaits::Request) && !self.is_http2() && !self.changes.load(Ordering::Relaxed)
    }

    fn keeps(&self, kept: Kept) -> bool {
        self.kept.load(Ordering::Relaxed) == kept as u8
    }

    /// An answer is kept.
    pub(super) fn keep(&self) {
        if self.keeps(Kept::Nothing) {
            self.kept.store(Kept::UntilRead as u8, Ordering::Relaxed);
        }
    }

    /// All that was kept is sent.
    pub(super) fn has_sent(&self) {
        self.kept.store(Kept::Nothing as u8, Ordering::Relaxed);
    }

    /// Whether what is kept may be kept on.
    pub(super) fn may_keep(&self) -> bool {
        self.keeps(Kept::UntilRead)
    }

    /// Nothing is kept any longer; whether something was.
    pub(super) fn keeps_no_longer(&self) -> bool {
        let kept = self.may_keep();
        if kept {
            self.kept.store(Kept::NoLonger as u8, Ordering::Relaxed);
        }
        kept
    }

    /// It answers a request whose body it has not read.
    pub(super) fn leave_unread(&self) {
        self.leaves_unread.store(true, Ordering::Relaxed);
    }

    pub(super) fn leaves_unread(&self) -> bool {
        self.leaves_unread.load(Ordering::Relaxed)
    }

    /// Whether a request of HTTP/1 is open.
    pub(super) fn is_asked(&self) -> bool {
        self.requests.load(Ordering::Relaxed) > 0 && !self.is_http2()
    }

    /// The client sends nothing more: whether that is not to be told yet.
    pub(super) fn holds_end(&self) -> bool {
        let now_ms = watch::now_ms();
        let since_ms = match self.ended_ms.load(Ordering::Relaxed) {
            0 => now_ms,
            since_ms => since_ms,
        };
        self.ended_ms.store(since_ms, Ordering::Relaxed);
        now_ms - since_ms <= END_HELD_MS
    }

    /// Whether its buffers are to be given back at once.
    pub(super) fn is_to_park(&self) -> bool {
        self.could_park() && !self.is_in_use.load(Ordering::Relaxed)
    }

    /// Whether it holds buffers for nothing.
    fn could_park(&self) -> bool {
        self.is_idle() && self.holds_buffers.load(Ordering::Relaxed)
    }

    /// hyper holds buffers for it, or no more.
    pub(super) fn holds_buffers(&self, holds: bool) {
        self.holds_buffers.store(holds, Ordering::Relaxed);
    }

    /// What became of writing so many bytes.
    pub(super) fn wrote(&self, len: usize, poll: &Poll<io::Result<usize>>) {
        let is_blocked = self.blocked_ms.load(Ordering::Relaxed) > 0;
        match poll {
            Poll::Pending if !is_blocked => self.block(watch::now_ms()),
            // The kernel takes more when a third of what it has is gone: who reads a few bytes now and then does
            // not come that far.
            Poll::Ready(Ok(taken)) if is_blocked => self.block(if *taken == len { 0 } else { watch::now_ms() }),
            Poll::Pending | Poll::Ready(_) => {}
        }
    }

    fn block(&self, since_ms: u64) {
        self.blocked_ms.store(since_ms, Ordering::Relaxed);
    }

    /// What is to become of it at this time of the watch's, if anything.
    pub(super) fn judge(&self, now_ms: u64, limits: &Http) -> Option<Verdict> {
        let waited = |since: &AtomicU64| now_ms.saturating_sub(since.load(Ordering::Relaxed));
        if self.awaits(Awaits::Nothing) && self.requests.load(Ordering::Relaxed) == 0 {
            return None;
        }
        if self.blocked_ms.load(Ordering::Relaxed) > 0 && waited(&self.blocked_ms) > limits.send_ms {
            return Some(Verdict::TakesNothing);
        }
        if self.is_asked() && self.ended_ms.load(Ordering::Relaxed) > 0 && waited(&self.ended_ms) > END_HELD_MS {
            return Some(Verdict::HasEnded);
        }
        let waited = waited(&self.since_ms);
        if self.awaits(Awaits::Head) && waited > limits.header_ms {
            return Some(Verdict::NoHead);
        }
        if self.awaits(Awaits::Request) && waited > limits.keepalive_ms {
            return Some(Verdict::Done);
        }
        (self.could_park() && waited > PARKED_AFTER_MS).then_some(Verdict::Park)
    }

    /// Tells the connection.
    pub(super) fn tell(&self, verdict: Verdict) {
        self.verdict.store(verdict as u8, Ordering::Relaxed);
        self.told.notify_one();
    }

    /// Waits for what is to become of it.
    pub(super) async fn told(&self) -> Verdict {
        loop {
            if self.ends.have_begun() {
                return Verdict::Drains;
            }
            let said = self.verdict.swap(0, Ordering::Relaxed);
            if let Some(verdict) = Verdict::ALL.into_iter().find(|verdict| *verdict as u8 == said) {
                return verdict;
            }
            self.told.notified().await;
        }
    }
}

/// A request whose answer is not whole.
pub(super) struct Asking {
    life: Arc<Life>,
    id: RequestId,
    version: Version,
    /// `None`: nobody is told of it.
    visit: Option<Box<Visit>>,
}

impl Asking {
    pub(super) fn new<B>(life: &Arc<Life>, request: &Request<B>) -> Self {
        life.begin_request();
        AT_ONCE.fetch_add(1, Ordering::Relaxed);
        let (id, version) = (RequestId::of(request.headers()), request.version());
        Self { life: life.clone(), id, version, visit: Visit::begin(request).map(Box::new) }
    }

    pub(super) fn life(&self) -> &Arc<Life> {
        &self.life
    }

    /// Whether it is one more than a worker may have at a time.
    pub(super) fn is_too_much(&self, limits: &Http) -> bool {
        limits.requests.is_some_and(|max| AT_ONCE.load(Ordering::Relaxed) > max)
    }

    /// Whether it is the last one that its connection may have.
    pub(super) fn is_the_last(&self, limits: &Http) -> bool {
        // Of a drain HTTP/2 has its own word.
        self.life.is_ending() && !self.life.is_http2()
            || limits.requests_per_connection.is_some_and(|max| self.life.count.load(Ordering::Relaxed) >= max)
    }

    /// An answer that says `Connection: close` says only that: hyper adds `keep-alive` for a client of HTTP/1.0
    /// that has asked for it, unless the answer is of that version too.
    pub(super) fn say_close_alone<B>(&self, response: &mut Response<B>) {
        if self.version == Version::HTTP_10 && is(response.headers(), &CONNECTION, "close") {
            *response.version_mut() = Version::HTTP_10;
        }
    }

    /// What runs until this is dropped, runs for it.
    pub(super) fn enter(&self) -> Scope {
        request::enter(self.id)
    }

    pub(super) fn visit(&mut self) -> Option<&mut Visit> {
        self.visit.as_deref_mut()
    }
}

impl Drop for Asking {
    fn drop(&mut self) {
        if let Some(visit) = &self.visit {
            let _scope = self.enter();
            visit.over(self.life.peer);
        }
        AT_ONCE.fetch_sub(1, Ordering::Relaxed);
        if self.life.requests.fetch_sub(1, Ordering::Relaxed) == 1 {
            self.life.set_awaits(Awaits::Request);
        }
        self.life.stir();
    }
}
