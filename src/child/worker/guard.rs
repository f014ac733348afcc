//! The application's service as hyper calls it: counted, introduced, and guarded against its panics.

use std::convert::Infallible;
use std::fmt;
use std::future::Future;
use std::net::SocketAddr;
use std::panic::{self, AssertUnwindSafe};
use std::pin::Pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::task::{Context, Poll};
use std::time::Instant;

use http::header::{CONNECTION, HeaderValue};
use http::{Method, Request, Response, StatusCode, Uri, Version};
use http_body::Body;
use http_body_util::{Either, Empty};
use hyper::body::Incoming;
use hyper_util::service::{TowerToHyperService, TowerToHyperServiceFuture};
use pin_project_lite::pin_project;
use tokio::sync::Notify;
use tower_service::Service;

use super::wear;
use crate::child::turn;

/// A service whose panic is an answer: 500, and the connection lives on.
pub(super) struct Guarded<S> {
    service: TowerToHyperService<S>,
    peer: Option<SocketAddr>,
    life: Arc<Life>,
}

/// What a connection and its requests tell each other.
#[derive(Default)]
pub(super) struct Life {
    /// Told of every request while ending.
    asked: Notify,
    /// The next answer is the last one, and says so.
    ending: AtomicBool,
    /// A request of HTTP/2 has come: GOAWAY says the end, and loses nothing.
    is_http2: AtomicBool,
}

impl Life {
    /// The next answer is the last one.
    pub(super) fn end(&self) {
        self.ending.store(true, Ordering::Relaxed);
    }

    /// Whether this is known to be HTTP/2; until the first request it is not.
    pub(super) fn is_http2(&self) -> bool {
        self.is_http2.load(Ordering::Relaxed)
    }

    /// Waits for the next request.
    pub(super) async fn asked(&self) {
        self.asked.notified().await;
    }
}

impl<S> Guarded<S> {
    pub(super) fn new(service: S, peer: Option<SocketAddr>, life: Arc<Life>) -> Self {
        Self { service: TowerToHyperService::new(service), peer, life }
    }
}

impl<S, B> hyper::service::Service<Request<Incoming>> for Guarded<S>
where
    S: Service<Request<Incoming>, Response = Response<B>, Error = Infallible> + Clone,
    B: Body,
{
    type Response = Response<Either<B, Empty<B::Data>>>;
    type Error = Infallible;
    type Future = Answering<TowerToHyperServiceFuture<S, Request<Incoming>>>;

    fn call(&self, mut request: Request<Incoming>) -> Self::Future {
        if let Some(peer) = self.peer {
            introduce(&mut request, peer);
        }
        if self.life.ending.load(Ordering::Relaxed) {
            self.life.asked.notify_waiters();
        }
        wear::count();
        let is_http2 = request.version() >= Version::HTTP_2;
        if is_http2 {
            self.life.is_http2.store(true, Ordering::Relaxed);
        }
        let route = Route { method: request.method().clone(), uri: request.uri().clone() };
        let began = Some(Instant::now());
        let life = (!is_http2).then(|| self.life.clone());
        Answering { life, route, began, answer: self.service.call(request) }
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
        #[pin]
        answer: F,
        // `None` where the protocol has other means to say the end.
        life: Option<Arc<Life>>,
        route: Route,
        // Of the call, until it has been polled: that is one turn.
        began: Option<Instant>,
    }
}

/// What was asked for, to be named.
struct Route {
    method: Method,
    uri: Uri,
}

impl fmt::Display for Route {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        // Not the query: it may be private.
        write!(f, "{} {}", self.method, self.uri.path())
    }
}

impl<F, B> Future for Answering<F>
where
    F: Future<Output = Result<Response<B>, Infallible>>,
    B: Body,
{
    type Output = Result<Response<Either<B, Empty<B::Data>>>, Infallible>;

    fn poll(self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<Self::Output> {
        let this = self.project();
        let began = this.began.take().unwrap_or_else(Instant::now);
        let polled = panic::catch_unwind(AssertUnwindSafe(|| this.answer.poll(context)));
        turn::over(began, || this.route.to_string());
        match polled {
            Ok(poll) => poll.map_ok(|response| {
                let mut response = response.map(Either::Left);
                // A connection that changes its protocol has other words for its end.
                let stays_http = response.status() != StatusCode::SWITCHING_PROTOCOLS;
                if stays_http && this.life.as_ref().is_some_and(|life| life.ending.load(Ordering::Relaxed)) {
                    response.headers_mut().insert(CONNECTION, HeaderValue::from_static("close"));
                }
                response
            }),
            Err(_) => {
                let mut response = Response::new(Either::Right(Empty::new()));
                *response.status_mut() = StatusCode::INTERNAL_SERVER_ERROR;
                Poll::Ready(Ok(response))
            }
        }
    }
}
