//! The application's service as hyper calls it: counted, introduced, and guarded against its panics.

use std::convert::Infallible;
use std::fmt;
use std::future::Future;
use std::net::SocketAddr;
use std::panic::{self, AssertUnwindSafe};
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll, Waker, ready};
use std::time::Duration;

use http::header::{HOST, UPGRADE};
use http::uri::PathAndQuery;
use http::{Method, Request, Response, StatusCode, Version};
use http_body::Body;
use hyper::body::Incoming;
use pin_project_lite::pin_project;
use tokio::time::Instant;
use tower_service::Service;

use super::answer::{Answer, is};
use super::body::{Reading, RequestBody};
use super::clock::{Timer, reach};
use super::connection::{Asking, Life};
use super::limits::limits;
use super::{watch, wear};
use crate::child::turn::{self, Moment};

/// Of a path, what the log shows.
const PATH_LEN_MAX: usize = 200;

/// A service whose panic is an answer: 500, and the connection lives on.
pub(super) struct Guarded<S> {
    service: S,
    life: Arc<Life>,
}

impl<S> Guarded<S> {
    pub(super) fn new(service: S, life: Arc<Life>) -> Self {
        Self { service, life }
    }
}

impl<S, B> hyper::service::Service<Request<Incoming>> for Guarded<S>
where
    S: Service<Request<RequestBody>, Response = Response<B>, Error = Infallible> + Clone,
    B: Body,
{
    type Response = Response<Answer<B>>;
    type Error = Infallible;
    type Future = Answering<S>;

    fn call(&self, mut request: Request<Incoming>) -> Self::Future {
        if let Some(peer) = self.life.peer() {
            introduce(&mut request, peer);
        }
        if self.life.is_ending() {
            self.life.ask();
        }
        wear::count();
        if request.version() >= Version::HTTP_2 {
            self.life.speaks_http2();
        }
        let route = Route { method: request.method().clone(), target: request.uri().path_and_query().cloned() };
        let (began, asking) = (Moment::now(), Asking::new(&self.life, &request));
        let (mut refusal, has_body) = (refusal(&asking, &request), !request.body().is_end_stream());
        let (mut answer, mut reading) = (None, None);
        if refusal.is_none() {
            let request = request.map(|body| {
                let (body, its_reading) = RequestBody::new(body, limits());
                reading = its_reading;
                body
            });
            let _scope = asking.enter();
            match panic::catch_unwind(AssertUnwindSafe(|| Box::pin(Calling::begin(self.service.clone(), request)))) {
                Ok(calling) => answer = Some(calling),
                Err(_) => refusal = Some(StatusCode::INTERNAL_SERVER_ERROR),
            }
        }
        if refusal.is_some() && has_body {
            self.life.leave_unread();
        }
        let patience = Patience { began_ms: watch::now_ms(), reading, timer: None };
        Answering { request: Some(asking), route, began: Some(began), answer, refusal, patience }
    }
}

pin_project! {
    /// A call of the application's service, which may have to become ready first; most are, always.
    #[project = CallingNow]
    enum Calling<S: Service<R>, R> {
        // `None`: it has been called, and has panicked.
        Waiting { service: Box<S>, request: Option<Box<R>> },
        Called { #[pin] answer: S::Future },
    }
}

impl<S: Service<R, Error = Infallible>, R> Calling<S, R> {
    fn begin(mut service: S, request: R) -> Self {
        // Who is not ready is asked again, by who waits for it.
        match service.poll_ready(&mut Context::from_waker(Waker::noop())) {
            Poll::Ready(Ok(())) => Self::Called { answer: service.call(request) },
            Poll::Ready(Err(never)) => match never {},
            Poll::Pending => Self::Waiting { service: Box::new(service), request: Some(Box::new(request)) },
        }
    }
}

impl<S: Service<R, Error = Infallible>, R> Future for Calling<S, R> {
    type Output = Result<S::Response, Infallible>;

    fn poll(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<Self::Output> {
        loop {
            let answer = match self.as_mut().project() {
                CallingNow::Called { answer } => return answer.poll(context),
                CallingNow::Waiting { service, request } => {
                    ready!(service.poll_ready(context))?;
                    let Some(request) = request.take() else { return Poll::Pending };
                    service.call(*request)
                }
            };
            self.set(Self::Called { answer });
        }
    }
}

/// What is answered to a request that the application does not see.
fn refusal(asking: &Asking, request: &Request<Incoming>) -> Option<StatusCode> {
    let limits = limits();
    if asking.is_too_much(limits) {
        Some(StatusCode::SERVICE_UNAVAILABLE)
    } else if limits.body_len > 0 && request.body().size_hint().lower() > limits.body_len {
        Some(StatusCode::PAYLOAD_TOO_LARGE)
    } else if request.version() == Version::HTTP_11 && request.headers().get_all(HOST).iter().count() != 1 {
        // Whose it is nobody knows, and others may see it otherwise (RFC 9112, section 3.2).
        Some(StatusCode::BAD_REQUEST)
    } else {
        None
    }
}

/// How long the application is waited for.
struct Patience {
    /// By the watch's time.
    began_ms: u64,
    reading: Option<Arc<Reading>>,
    /// Made when it is waited for.
    timer: Option<Timer>,
}

impl Patience {
    /// What the client did wrong with the body.
    fn fault(&self) -> Option<StatusCode> {
        self.reading.as_ref().and_then(|reading| reading.fault())
    }

    /// Ready with what is to be said in the application's place.
    fn poll(&mut self, context: &mut Context<'_>) -> Poll<StatusCode> {
        if let Some(fault) = self.fault() {
            return Poll::Ready(fault);
        }
        let allowed = limits().request_ms;
        let mut left = allowed;
        loop {
            let deadline = || Instant::now() + Duration::from_millis(left);
            let timer = self.timer.get_or_insert_with(|| Box::pin(reach(deadline())));
            ready!(timer.as_mut().poll(context));
            self.timer = None;
            // While it waits for the body, the client is the one who is late.
            let read_ms = self.reading.as_ref().map_or(Some(self.began_ms), |reading| reading.over_ms());
            left = read_ms.map_or(allowed, |since| allowed.saturating_sub(watch::now_ms().saturating_sub(since)));
            if left == 0 {
                return Poll::Ready(StatusCode::GATEWAY_TIMEOUT);
            }
        }
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

/// A call of the application.
type Call<S> = Calling<S, Request<RequestBody>>;

/// An answer to come; the panic hook has logged the panic that is turned into one here.
pub(super) struct Answering<S: Service<Request<RequestBody>>> {
    /// `None`: it was dropped, or the application is not asked. In a place of its own: hyper moves this.
    answer: Option<Pin<Box<Call<S>>>>,
    /// What is answered in its place.
    refusal: Option<StatusCode>,
    patience: Patience,
    /// `None`: it is answered.
    request: Option<Asking>,
    route: Route,
    /// Of the call, until it has been polled: that is one turn.
    began: Option<Moment>,
}

impl<S: Service<Request<RequestBody>>> Drop for Answering<S> {
    fn drop(&mut self) {
        // Of a request whose client is gone the handler may still have something to say.
        let _scope = self.request.as_ref().map(Asking::enter);
        self.answer = None;
    }
}

/// What was asked for, to be named.
struct Route {
    method: Method,
    target: Option<PathAndQuery>,
}

impl fmt::Display for Route {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        // Not the query: it may be private. The rest is a client's choice, and so bounded.
        let path = self.target.as_ref().map_or("", PathAndQuery::path);
        let shown = &path[..path.floor_char_boundary(PATH_LEN_MAX)];
        write!(f, "{} {shown}{}", self.method, if shown.len() < path.len() { "…" } else { "" })
    }
}

impl<S, B> Future for Answering<S>
where
    S: Service<Request<RequestBody>, Response = Response<B>, Error = Infallible>,
    B: Body,
{
    type Output = Result<Response<Answer<B>>, Infallible>;

    fn poll(self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<Self::Output> {
        let this = self.get_mut();
        let began = this.began.take().unwrap_or_else(Moment::now);
        let _scope = this.request.as_ref().map(Asking::enter);
        if let Some(status) = this.refusal.take() {
            return Poll::Ready(Ok(Answer::refused(status, this.request.take())));
        }
        // Nobody polls what is answered.
        let Some(answer) = this.answer.as_mut() else { return Poll::Pending };
        let poll = panic::catch_unwind(AssertUnwindSafe(|| answer.as_mut().poll(context)));
        turn::over(began, || this.route.to_string());
        let outcome = match poll {
            Ok(Poll::Pending) => Err(ready!(this.patience.poll(context))),
            Ok(Poll::Ready(Ok(response))) => match this.patience.fault() {
                Some(fault) => Err(fault),
                None => Ok(response),
            },
            Ok(Poll::Ready(Err(never))) => match never {},
            Err(_) => Err(StatusCode::INTERNAL_SERVER_ERROR),
        };
        // Within the scope: what the handler leaves behind may log when it is dropped.
        this.answer = None;
        let request = this.request.take();
        if let Some(asking) =
            request.as_ref().filter(|_| this.patience.reading.as_ref().is_some_and(|it| !it.is_whole()))
        {
            asking.life().leave_unread();
        }
        let mut response = match outcome {
            Ok(response) => response,
            Err(status) => return Poll::Ready(Ok(Answer::refused(status, request))),
        };
        if let Some(asking) = &request {
            let status = response.status();
            if status == StatusCode::SWITCHING_PROTOCOLS || this.route.method == Method::CONNECT && status.is_success()
            {
                // A connection that changes its protocol has other words for its end.
                asking.life().switches(is(response.headers(), &UPGRADE, "websocket"));
            } else if asking.is_the_last(limits()) {
                asking.life().close_after(&mut response);
            }
        }
        Poll::Ready(Ok(Answer::of(response, request)))
    }
}

#[cfg(test)]
mod tests {
    use std::future::{Ready, ready};

    use super::*;

    /// Is ready when it has been asked so often.
    struct Slow(u32);

    impl Service<&'static str> for Slow {
        type Response = &'static str;
        type Error = Infallible;
        type Future = Ready<Result<&'static str, Infallible>>;

        fn poll_ready(&mut self, _: &mut Context<'_>) -> Poll<Result<(), Infallible>> {
            self.0 = self.0.saturating_sub(1);
            if self.0 == 0 { Poll::Ready(Ok(())) } else { Poll::Pending }
        }

        fn call(&mut self, request: &'static str) -> Self::Future {
            assert_eq!(self.0, 0, "it is called only when it is ready");
            ready(Ok(request))
        }
    }

    #[test]
    fn a_service_is_called_when_it_is_ready() {
        let mut context = Context::from_waker(Waker::noop());
        for pending in [0, 1, 2] {
            let mut calling = Box::pin(Calling::begin(Slow(pending + 1), "asked"));
            for _ in 1..pending {
                assert!(calling.as_mut().poll(&mut context).is_pending());
            }
            assert_eq!(calling.as_mut().poll(&mut context), Poll::Ready(Ok("asked")), "{pending}");
        }
    }
}
