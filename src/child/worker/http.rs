//! HTTP/1.1 and HTTP/2 on a connection, by hyper, to the application's service.

use std::convert::Infallible;
use std::net::SocketAddr;
use std::pin::Pin;
use std::sync::Arc;
use std::time::Duration;

use http::{Request, Response};
use http_body::Body;
use hyper::body::Incoming;
use hyper_util::rt::{TokioExecutor, TokioTimer};
use hyper_util::server::conn::auto;
use hyper_util::server::graceful::GracefulConnection;
use tower_service::Service;

use super::clock::Clock;
use super::guard::{Guarded, Life};
use super::wire::Wire;
use crate::app::declare::{App, BoxFuture, Ends, Replica, Stream, Worker};
use crate::error::{BoxError, Result};

/// How long an idle connection waits for one more request when all stops: a client that sends one
/// just now does not know yet.
const LAST_REQUEST_GRACE: Duration = Duration::from_secs(1);

/// How long a client may take to send a request's head, and to be idle between two requests.
const HEADER_TIMEOUT: Duration = Duration::from_secs(30);

impl App {
    /// Builds the service of one replica. Runs once in every worker, on its loop.
    ///
    /// The closure opens what the replica has for itself (a database connection, a cache) and
    /// returns any tower service of HTTP requests, such as axum's `Router`. Its error, or
    /// exceeding `[timeouts] ready` (20 s), counts as a crash of the worker. Over a Unix socket
    /// requests have no `ConnectInfo`.
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
        S: Service<Request<Incoming>, Response = Response<B>, Error = Infallible> + Clone + Send + 'static,
        S::Future: Send,
        B: Body + Send + 'static,
        B::Data: Send,
        B::Error: Into<BoxError>,
    {
        self.http = Some(Box::new(|worker| {
            Box::pin(async move {
                let service = build(worker).await?;
                Ok(Box::new(Http { service, protocol: protocol() }) as Box<dyn Replica>)
            })
        }));
        self
    }
}

fn protocol() -> auto::Builder<TokioExecutor> {
    let mut builder = auto::Builder::new(TokioExecutor::new());
    // Not `pipeline_flush`: with it hyper keeps whole bodies for a client that does not read them.
    builder.http1().timer(Clock).header_read_timeout(HEADER_TIMEOUT);
    builder.http2().timer(TokioTimer::new());
    builder
}

/// The application's service with what speaks HTTP to it.
struct Http<S> {
    service: S,
    protocol: auto::Builder<TokioExecutor>,
}

impl<S, B> Replica for Http<S>
where
    S: Service<Request<Incoming>, Response = Response<B>, Error = Infallible> + Clone + Send + 'static,
    S::Future: Send,
    B: Body + Send + 'static,
    B::Data: Send,
    B::Error: Into<BoxError>,
{
    fn serve(&self, stream: Stream, peer: Option<SocketAddr>, ends: Arc<dyn Ends>) -> BoxFuture<()> {
        let next = ends.next();
        let life = Arc::new(Life::new(ends, peer));
        let wire = Wire::new(stream, life.clone());
        let service = Guarded::new(self.service.clone(), life.clone());
        let protocol = self.protocol.clone();
        Box::pin(async move {
            let mut connection = std::pin::pin!(protocol.serve_connection_with_upgrades(wire, service));
            let result = tokio::select! {
                result = connection.as_mut() => result,
                () = next => end(connection.as_mut(), &life).await,
            };
            // Without an await since hyper is done: who was waiting for the bytes has written none.
            life.hand_over();
            if let Err(error) = result {
                let peer = peer.map_or_else(|| "a Unix socket".to_owned(), |peer| peer.to_string());
                log::debug!("connection from {peer}: {error}");
            }
        })
    }
}

/// Ends a connection in its time, or cuts it when that is over.
async fn end<C: GracefulConnection>(connection: Pin<&mut C>, life: &Life) -> Result<(), C::Error> {
    tokio::select! {
        biased;
        () = life.ends().now() => {
            life.cut();
            Ok(())
        }
        result = finish(connection, life) => result,
    }
}

/// Ends a connection with its next answer, or when it has not been in use for the grace, after `soon`.
async fn finish<C: GracefulConnection>(mut connection: Pin<&mut C>, life: &Life) -> Result<(), C::Error> {
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
            result = connection.as_mut() => return result,
            () = unused => {}
        }
    }
    connection.as_mut().graceful_shutdown();
    connection.await
}
