//! HTTP/1.1 and HTTP/2 on a connection, by hyper, to the application's service.

use std::convert::Infallible;
use std::future::poll_fn;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll};
use std::time::Duration;

use http::{Request, Response};
use http_body::Body;
use hyper::body::Incoming;
use hyper::server::conn::http1;
use hyper::service::HttpService;
use hyper_util::rt::{TokioExecutor, TokioTimer};
use hyper_util::server::conn::auto;
use tower_service::Service;

use super::body::RequestBody;
use super::connection::{Life, Verdict};
use super::drain::Open;
use super::guard::Guarded;
use super::limits::limits;
use super::wire::Wire;
use crate::app::declare::{App, Arrival, BoxFuture, Ends, Replica, Worker};
use crate::error::{BoxError, Result};
use crate::settings::http::Http;

/// How long an idle connection waits for one more request when all stops: a client that sends one
/// just now does not know yet.
pub(super) const LAST_REQUEST_GRACE: Duration = Duration::from_secs(1);

/// How long a client that was answered early may go on to send.
const LINGER: Duration = Duration::from_secs(2);

/// What a client is told whose request did not come in its time.
const TOO_SLOW: &[u8] = b"HTTP/1.1 408 Request Timeout\r\nconnection: close\r\ncontent-length: 0\r\n\r\n";

impl App {
    /// Builds the service of one replica. Runs once in every worker, on its loop.
    ///
    /// The closure opens what the replica has for itself (a database connection, a cache) and
    /// returns any tower service of HTTP requests, such as axum's `Router`. Its error, or
    /// exceeding `[timeouts] ready` (20 s), counts as a crash of the worker. Over a Unix socket
    /// requests have no `ConnectInfo`, unless `proxy_protocol` says who the client is.
    ///
    /// All requests of a worker share one thread. Code that blocks for more than a few milliseconds
    /// belongs into `tokio::task::spawn_blocking`: it runs on a pool of at most 16 threads in each
    /// worker, and more of it waits for one of them. What holds the loop for longer than
    /// `worker.slow_turn` (0.1 s) is logged with its route; for longer than `timeouts.hang` (10 s),
    /// the worker is ended with SIGABRT, its stack in the log, and replaced.
    ///
    /// ```
    /// use axum::{Router, routing::get};
    ///
    /// let app = forebay::App::new("hello").http(async |worker| {
    ///     let slot = worker.slot();
    ///     Ok(Router::new().route("/", get(async move || format!("replica {slot}"))))
    /// });
    /// ```
    pub fn http<F, S, B>(mut self, build: F) -> Self
    where
        F: AsyncFnOnce(Worker) -> Result<S> + Send + 'static,
        S: Service<Request<RequestBody>, Response = Response<B>, Error = Infallible> + Clone + Send + 'static,
        S::Future: Send,
        B: Body + Send + 'static,
        B::Data: Send,
        B::Error: Into<BoxError>,
    {
        self.http = Some(Box::new(|worker| {
            Box::pin(async move {
                let service = build(worker).await?;
                let protocol = Arc::new(Protocol::new(limits()));
                Ok(Box::new(Served { service, protocol }) as Box<dyn Replica>)
            })
        }));
        self
    }
}

/// What speaks HTTP on a connection.
struct Protocol {
    http1: http1::Builder,
    /// For who may speak HTTP/2: it looks which of both it is.
    either: auto::Builder<TokioExecutor>,
}

impl Protocol {
    fn new(limits: &Http) -> Self {
        // Not `pipeline_flush`: with it hyper keeps whole bodies for a client that does not read them. No
        // `header_read_timeout`: the watch does that, without a timer for each request. `half_close`: who is gone is
        // seen here.
        let (mut http1, mut either) = (http1::Builder::new(), auto::Builder::new(TokioExecutor::new()));
        http1.max_header_size(limits.header_len as usize).header_read_timeout(None).half_close(true);
        let mut first = either.http1();
        first.max_buf_size(limits.header_len as usize).header_read_timeout(None).half_close(true);
        let mut second = either.http2();
        second.timer(TokioTimer::new()).max_header_list_size(limits.header_len).max_concurrent_streams(limits.streams);
        Self { http1, either }
    }
}

/// The application's service with what speaks HTTP to it.
struct Served<S> {
    service: S,
    protocol: Arc<Protocol>,
}

impl<S, B> Replica for Served<S>
where
    S: Service<Request<RequestBody>, Response = Response<B>, Error = Infallible> + Clone + Send + 'static,
    S::Future: Send,
    B: Body + Send + 'static,
    B::Data: Send,
    B::Error: Into<BoxError>,
{
    fn serve(&self, arrival: Arrival, ends: Arc<dyn Ends>) -> BoxFuture<()> {
        // Before it has its turn: a drain that begins meanwhile waits for it.
        let open = Open::new(ends.clone());
        let (service, protocol) = (self.service.clone(), self.protocol.clone());
        Box::pin(async move {
            let Some((stream, peer)) = arrival.open().await else { return };
            let life = Life::begin(ends, peer);
            let mut wire = Wire::new(stream, open, life.clone());
            // While nothing comes it has no buffer, and hyper does not know it.
            while is_wanted(&mut wire, &life).await {
                let guarded = Guarded::new(service.clone(), life.clone());
                // Each in its own memory, which is given back.
                let left = if wire.may_be_http2() {
                    let connection = protocol.either.serve_connection_with_upgrades(wire, guarded);
                    Box::pin(speak_either(connection, life.clone())).await;
                    None
                } else {
                    let connection = protocol.http1.serve_connection(wire, guarded).with_upgrades();
                    Box::pin(speak_http1(connection, life.clone())).await
                };
                match left {
                    Some(left) => wire = left,
                    None => return,
                }
            }
        })
    }
}

async fn speak_either<C: Spoken<Error = BoxError>>(connection: C, life: Arc<Life>) {
    let mut connection = std::pin::pin!(connection);
    if let Outcome::Over(result) = run(connection.as_mut(), &life).await {
        is_over(&life, result);
    }
}

/// Gives the connection back when it is idle.
async fn speak_http1<S, B>(mut connection: Http1<S>, life: Arc<Life>) -> Option<Wire>
where
    Guarded<S>: HttpService<Incoming, ResBody = B, Error = Infallible>,
    B: Body + 'static,
    B::Error: Into<BoxError>,
{
    life.holds_buffers(true);
    let outcome = run(Pin::new(&mut connection), &life).await;
    life.holds_buffers(false);
    let verdict = match outcome {
        Outcome::Over(result) => {
            is_over(&life, result.map_err(Into::into));
            if life.leaves_unread()
                && let Some(parts) = connection.into_parts()
            {
                linger(parts.io, &life).await;
            }
            return None;
        }
        Outcome::Judged(verdict) => verdict,
    };
    let parts = connection.into_parts()?;
    let mut wire = parts.io;
    match verdict {
        Verdict::Park => {
            wire.put_back(&parts.read_buf);
            return Some(wire);
        }
        Verdict::NoHead => wire.say_last(TOO_SLOW).await,
        Verdict::TakesNothing => wire.cut(),
        Verdict::Done | Verdict::HasEnded | Verdict::Drains => {}
    }
    None
}

/// Takes what the client still sends, so that it can read its answer: what is unread makes the end a reset,
/// which may overtake that (RFC 9112, section 9.6).
async fn linger(mut wire: Wire, life: &Life) {
    let rest = async { while wire.skip().await {} };
    tokio::select! {
        () = rest => {}
        () = tokio::time::sleep(LINGER) => {}
        () = life.ends().soon() => {}
    }
}

fn is_over(life: &Life, result: Result<(), BoxError>) {
    // Without an await since hyper is done: who was waiting for the bytes has written none.
    life.hand_over();
    if let Err(error) = result {
        let peer = life.peer().map_or_else(|| "a Unix socket".to_owned(), |peer| peer.to_string());
        log::debug!("connection from {peer}: {error}");
    }
}

/// A connection as hyper serves it.
type Http1<S> = http1::UpgradeableConnection<Wire, Guarded<S>>;
type Either<'a, S> = auto::UpgradeableConnection<'a, Wire, Guarded<S>, TokioExecutor>;

/// What both have in common.
trait Spoken: Future<Output = Result<(), Self::Error>> {
    type Error;
    /// Ends when what is under way has ended; an idle one of HTTP/1 at once.
    fn shut_down(self: Pin<&mut Self>);
}

impl<S, B> Spoken for Http1<S>
where
    Guarded<S>: HttpService<Incoming, ResBody = B, Error = Infallible>,
    B: Body + 'static,
    B::Error: Into<BoxError>,
{
    type Error = hyper::Error;

    fn shut_down(self: Pin<&mut Self>) {
        self.graceful_shutdown();
    }
}

impl<S, B> Spoken for Either<'_, S>
where
    S: Service<Request<RequestBody>, Response = Response<B>, Error = Infallible> + Clone + Send + 'static,
    S::Future: Send,
    B: Body + Send + 'static,
    B::Data: Send,
    B::Error: Into<BoxError>,
{
    type Error = BoxError;

    fn shut_down(self: Pin<&mut Self>) {
        self.graceful_shutdown();
    }
}

/// Waits until something comes; `false`: the connection is not wanted any more.
async fn is_wanted(wire: &mut Wire, life: &Life) -> bool {
    tokio::select! {
        biased;
        () = wire.readable() => true,
        verdict = life.told() => match verdict {
            // hyper has words for the end.
            Verdict::Drains => true,
            // What says that nothing has come is the loop's last look, which may be long past.
            Verdict::Park | Verdict::NoHead | Verdict::Done | Verdict::TakesNothing | Verdict::HasEnded => {
                wire.has_unread()
            }
        }
    }
}

/// How a connection came back.
enum Outcome<E> {
    Over(Result<(), E>),
    Judged(Verdict),
}

/// A connection whose turns are hyper's.
struct Speech<'a, C> {
    connection: Pin<&'a mut C>,
    life: &'a Life,
}

impl<C: Spoken> Future for Speech<'_, C> {
    type Output = Result<(), C::Error>;

    fn poll(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<Self::Output> {
        let poll = self.connection.as_mut().poll(context);
        // It waits for something else than the client, who gets now what it has of its answers.
        if poll.is_pending() && self.life.keeps_no_longer() {
            return self.connection.as_mut().poll(context);
        }
        poll
    }
}

/// Lets hyper speak until the connection is over, or not to go on so.
async fn run<C: Spoken>(connection: Pin<&mut C>, life: &Life) -> Outcome<C::Error> {
    let mut speech = Speech { connection, life };
    loop {
        let verdict = tokio::select! {
            biased;
            result = &mut speech => return Outcome::Over(result),
            verdict = life.told() => verdict,
            // What is idle was found so by the look at the connection just before.
            () = poll_fn(|_| if life.is_to_park() { Poll::Ready(()) } else { Poll::Pending }) => Verdict::Park,
        };
        match verdict {
            Verdict::Drains => return Outcome::Over(end(speech).await),
            Verdict::Done => speech.connection.as_mut().shut_down(),
            // Since that was said something may have come.
            Verdict::Park if !life.is_idle() => {}
            Verdict::HasEnded => {}
            Verdict::Park | Verdict::NoHead | Verdict::TakesNothing => return Outcome::Judged(verdict),
        }
    }
}

/// Ends a connection in its time, or cuts it when that is over.
async fn end<C: Spoken>(speech: Speech<'_, C>) -> Result<(), C::Error> {
    let life = speech.life;
    tokio::select! {
        biased;
        () = life.ends().now() => {
            life.cut();
            Ok(())
        }
        result = finish(speech) => result,
    }
}

/// Ends a connection with its next answer, or when it has not been in use for the grace, after `soon`.
async fn finish<C: Spoken>(mut speech: Speech<'_, C>) -> Result<(), C::Error> {
    let life = speech.life;
    life.end();
    let unused = async {
        life.ends().soon().await;
        life.has_stirred();
        // The connection is looked at first each time: nothing lies between the last look and the end.
        while {
            tokio::time::sleep(LAST_REQUEST_GRACE).await;
            life.has_stirred()
        } {}
    };
    // hyper closes an idle HTTP/1 connection at once, and a request that is on its way is lost.
    if !life.is_http2() {
        tokio::select! {
            biased;
            // Before the connection is looked at: who does not wait yet is not told.
            () = life.asked() => {}
            result = &mut speech => return result,
            () = unused => {}
        }
    }
    speech.connection.as_mut().shut_down();
    speech.await
}
