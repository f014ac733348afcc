//! The application's service as hyper calls it: counted, introduced, and guarded against its panics.

use std::convert::Infallible;
use std::fmt;
use std::future::Future;
use std::net::SocketAddr;
use std::panic::{self, AssertUnwindSafe};
use std::pin::Pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU32, Ordering};
use std::task::{Context, Poll};

use http::header::{CONNECTION, HeaderValue, UPGRADE};
use http::{Method, Request, Response, StatusCode, Uri, Version};
use http_body::Body;
use hyper::body::Incoming;
use hyper_util::service::{TowerToHyperService, TowerToHyperServiceFuture};
use pin_project_lite::pin_project;
use tokio::sync::Notify;
use tower_service::Service;

use super::access::Visit;
use super::answer::{Answer, is};
use super::wear;
use crate::app::declare::{Ends, Kind};
use crate::child::turn::{self, Moment};
use crate::log::request::{self, RequestId, Scope};

/// Of a path, what the log shows.
const PATH_LEN_MAX: usize = 200;

/// A service whose panic is an answer: 500, and the connection lives on.
pub(super) struct Guarded<S> {
    service: TowerToHyperService<S>,
    life: Arc<Life>,
}

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
    /// What it will be when hyper has handed it over is a WebSocket.
    switches: AtomicBool,
    /// It is.
    is_socket: AtomicBool,
}

impl Life {
    pub(super) fn new(ends: Arc<dyn Ends>, peer: Option<SocketAddr>) -> Self {
        Self {
            ends,
            peer,
            asked: Notify::new(),
            ending: AtomicBool::new(false),
            stirs: AtomicBool::new(false),
            has_answered: AtomicBool::new(false),
            is_http2: AtomicBool::new(false),
            requests: AtomicU32::new(0),
            switches: AtomicBool::new(false),
            is_socket: AtomicBool::new(false),
        }
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
        self.is_socket.store(self.switches.load(Ordering::Relaxed), Ordering::Relaxed);
    }

    /// Whether what is read and written are a WebSocket's frames.
    pub(super) fn is_socket(&self) -> bool {
        self.is_socket.load(Ordering::Relaxed)
    }
}

/// A request whose answer is not whole.
pub(super) struct Asking {
    life: Arc<Life>,
    id: RequestId,
    /// `None`: nobody is told of it.
    visit: Option<Visit>,
}

impl Asking {
    pub(super) fn new<B>(life: &Arc<Life>, request: &Request<B>) -> Self {
        life.requests.fetch_add(1, Ordering::Relaxed);
        Self { life: life.clone(), id: RequestId::of(request.headers()), visit: Visit::begin(request) }
    }

    pub(super) fn life(&self) -> &Life {
        &self.life
    }

    /// What runs until this is dropped, runs for it.
    pub(super) fn enter(&self) -> Scope {
        request::enter(self.id)
    }

    pub(super) fn visit(&mut self) -> Option<&mut Visit> {
        self.visit.as_mut()
    }
}

impl Drop for Asking {
    fn drop(&mut self) {
        if let Some(visit) = &self.visit {
            let _scope = self.enter();
            visit.over(self.life.peer);
        }
        self.life.requests.fetch_sub(1, Ordering::Relaxed);
        self.life.stir();
    }
}

impl<S> Guarded<S> {
    pub(super) fn new(service: S, life: Arc<Life>) -> Self {
        Self { service: TowerToHyperService::new(service), life }
    }
}

impl<S, B> hyper::service::Service<Request<Incoming>> for Guarded<S>
where
    S: Service<Request<Incoming>, Response = Response<B>, Error = Infallible> + Clone,
    B: Body,
{
    type Response = Response<Answer<B>>;
    type Error = Infallible;
    type Future = Answering<TowerToHyperServiceFuture<S, Request<Incoming>>>;

    fn call(&self, mut request: Request<Incoming>) -> Self::Future {
        if let Some(peer) = self.life.peer {
            introduce(&mut request, peer);
        }
        if self.life.is_ending() {
            self.life.asked.notify_waiters();
        }
        wear::count();
        if request.version() >= Version::HTTP_2 {
            self.life.is_http2.store(true, Ordering::Relaxed);
        }
        let route = Route { method: request.method().clone(), uri: request.uri().clone() };
        let (began, asking) = (Some(Moment::now()), Some(Asking::new(&self.life, &request)));
        Answering { request: asking, route, began, answer: Some(self.service.call(request)) }
    }
}

/// Says where a request comes from, in the words of axum's extractors.
#[cfg(feature = "axum")]
fn introduce(request: &mut Request<Incoming>, peer: SocketAddr) {
    request.extensions_mut().insert(axum::extract::ConnectInfo(peer));
}

/// Says where a request comes from.
#[cfg(not(feature = "axum"))]
fn introduce(request: &mut Request<Incoming>, peer: SocketAddr) {
    request.extensions_mut().insert(peer);
}

pin_project! {
    /// An answer to come; the panic hook has logged the panic that is turned into one here.
    pub(super) struct Answering<F> {
        // `None`: it was dropped.
        #[pin]
        answer: Option<F>,
        // `None`: it is answered.
        request: Option<Asking>,
        route: Route,
        // Of the call, until it has been polled: that is one turn.
        began: Option<Moment>,
    }

    impl<F> PinnedDrop for Answering<F> {
        fn drop(this: Pin<&mut Self>) {
            let mut this = this.project();
            // Of a request whose client is gone the handler may still have something to say.
            let _scope = this.request.as_ref().map(Asking::enter);
            this.answer.set(None);
        }
    }
}

/// What was asked for, to be named.
struct Route {
    method: Method,
    uri: Uri,
}

impl fmt::Display for Route {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        // Not the query: it may be private. The rest is a client's choice, and so bounded.
        let path = self.uri.path();
        let shown = &path[..path.floor_char_boundary(PATH_LEN_MAX)];
        write!(f, "{} {shown}{}", self.method, if shown.len() < path.len() { "…" } else { "" })
    }
}

impl<F, B> Future for Answering<F>
where
    F: Future<Output = Result<Response<B>, Infallible>>,
    B: Body,
{
    type Output = Result<Response<Answer<B>>, Infallible>;

    fn poll(self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<Self::Output> {
        let mut this = self.project();
        let began = this.began.take().unwrap_or_else(Moment::now);
        let _scope = this.request.as_ref().map(Asking::enter);
        // Nobody polls what is answered.
        let Some(answer) = this.answer.as_mut().as_pin_mut() else { return Poll::Pending };
        let poll = panic::catch_unwind(AssertUnwindSafe(|| answer.poll(context)));
        turn::over(began, || this.route.to_string());
        let response = match poll {
            Ok(Poll::Pending) => return Poll::Pending,
            Ok(Poll::Ready(Ok(response))) => Some(response),
            Ok(Poll::Ready(Err(never))) => match never {},
            Err(_) => None,
        };
        // Within the scope: what the handler leaves behind may log when it is dropped.
        this.answer.set(None);
        let request = this.request.take();
        let Some(mut response) = response else {
            return Poll::Ready(Ok(Answer::failed(request)));
        };
        if let Some(Asking { life, .. }) = &request {
            if response.status() == StatusCode::SWITCHING_PROTOCOLS {
                // A connection that changes its protocol has other words for its end.
                life.switches.store(is(response.headers(), &UPGRADE, "websocket"), Ordering::Relaxed);
            } else if life.is_ending() && !life.is_http2() {
                response.headers_mut().insert(CONNECTION, HeaderValue::from_static("close"));
            }
        }
        Poll::Ready(Ok(Answer::of(response, request)))
    }
}
