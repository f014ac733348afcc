//! HTTP to the upstream: one call, wherever it is redirected to.
//!
//! A redirect gets the same method, body and Authorization, as the upstream expects. The host at
//! its end is remembered, so that the next call goes there at once, and forgotten when it fails.

use std::cell::{OnceCell, RefCell};
use std::error::Error;
use std::time::Duration;

use http::header::{ACCEPT, AUTHORIZATION, CONTENT_TYPE, HeaderValue, LOCATION, USER_AGENT};
use http::{Method, Request, Response, StatusCode, Uri};
use http_body_util::Full;
use hyper::body::{Bytes, Incoming};
use hyper_rustls::{HttpsConnector, HttpsConnectorBuilder};
use hyper_util::client::legacy::connect::HttpConnector;
use hyper_util::client::legacy::{Client, Error as ClientError};
use hyper_util::rt::{TokioExecutor, TokioTimer};

use super::{error_chain, redirect};

/// How often one call is redirected, or sent once more because the remembered host is away.
const HOPS_MAX: usize = 10;

/// How long one address of a host may take to accept a connection.
const CONNECT_TIMEOUT: Duration = Duration::from_secs(10);

/// How long a connection waits for the next write. Servers close idle ones after 5 s or more, and
/// a write that meets that end is lost.
const IDLE_TIMEOUT: Duration = Duration::from_secs(4);

/// How many connections wait so.
const IDLE_MAX: usize = 4;

const AGENT: HeaderValue = HeaderValue::from_static(concat!("forebay/", env!("CARGO_PKG_VERSION")));

/// What is asked.
pub(crate) struct Call {
    pub(crate) method: Method,
    /// Without a redirect.
    pub(crate) uri: Uri,
    pub(crate) accept: &'static str,
    /// JSON.
    pub(crate) body: Bytes,
}

/// What was answered, and by whom.
pub(crate) struct Answer {
    pub(crate) response: Response<Incoming>,
    pub(crate) origin: String,
}

/// The clients of one helper. The stream and the writes have connections of their own.
pub(crate) struct Upstream {
    streams: Clients,
    writes: Clients,
    authorization: Option<HeaderValue>,
    remembered: RefCell<Option<Remembered>>,
}

/// A host that a redirect led to.
#[derive(Clone)]
struct Remembered {
    /// Scheme, host and port that redirected.
    from: String,
    host: Uri,
}

impl Upstream {
    pub(crate) fn new(authorization: Option<HeaderValue>) -> Self {
        Self { streams: Clients::new(0), writes: Clients::new(IDLE_MAX), authorization, remembered: RefCell::new(None) }
    }

    /// Opens the stream. Its connection is used for nothing else and ends with the body.
    pub(crate) async fn stream(&self, call: &Call) -> Result<Answer, String> {
        self.follow(&self.streams, call).await
    }

    /// Writes.
    pub(crate) async fn write(&self, call: &Call) -> Result<Answer, String> {
        self.follow(&self.writes, call).await
    }

    /// The next call starts where it would without redirects.
    pub(crate) fn forget(&self) {
        self.remembered.replace(None);
    }

    async fn follow(&self, clients: &Clients, call: &Call) -> Result<Answer, String> {
        let mut uri = self.start(&call.uri);
        for _ in 0..=HOPS_MAX {
            let at_remembered =
                self.remembered.borrow().as_ref().is_some_and(|r| redirect::origin(&r.host) == redirect::origin(&uri));
            let response = match clients.send(&uri, self.request(&uri, call)?).await {
                Ok(response) => response,
                Err(error) => {
                    self.forget();
                    if at_remembered && !error.was_sent {
                        uri = call.uri.clone();
                        continue;
                    }
                    return Err(format!("cannot reach {}: {}", redirect::origin(&uri), error.why));
                }
            };
            if !is_redirect(response.status()) {
                self.remember(call, &uri, response.status());
                return Ok(Answer { response, origin: redirect::origin(&uri) });
            }
            let location = response.headers().get(LOCATION).and_then(|location| location.to_str().ok());
            let location =
                location.ok_or_else(|| format!("{} redirects without saying where to", redirect::origin(&uri)))?;
            uri = redirect::target(&uri, location)?;
        }
        self.forget();
        Err(format!("more than {HOPS_MAX} redirects, the last one to {}", redirect::origin(&uri)))
    }

    fn start(&self, uri: &Uri) -> Uri {
        match &*self.remembered.borrow() {
            Some(remembered) if remembered.from == redirect::origin(uri) => {
                redirect::at_origin_of(uri, &remembered.host)
            }
            Some(_) | None => uri.clone(),
        }
    }

    /// Only a redirect that changes nothing but the host can be foreseen for other paths.
    fn remember(&self, call: &Call, uri: &Uri, status: StatusCode) {
        let from = redirect::origin(&call.uri);
        if !status.is_success() || uri.path_and_query() != call.uri.path_and_query() {
            return;
        }
        let host = (from != redirect::origin(uri)).then(|| Remembered { from, host: uri.clone() });
        self.remembered.replace(host);
    }

    fn request(&self, uri: &Uri, call: &Call) -> Result<Request<Full<Bytes>>, String> {
        let mut request = Request::builder()
            .method(call.method.clone())
            .uri(uri)
            .header(ACCEPT, call.accept)
            .header(USER_AGENT, AGENT);
        if let Some(authorization) = &self.authorization {
            request = request.header(AUTHORIZATION, authorization);
        }
        if !call.body.is_empty() {
            request = request.header(CONTENT_TYPE, "application/json");
        }
        request
            .body(Full::new(call.body.clone()))
            .map_err(|error| format!("cannot ask {}: {error}", redirect::origin(uri)))
    }
}

fn is_redirect(status: StatusCode) -> bool {
    [StatusCode::MOVED_PERMANENTLY, StatusCode::FOUND, StatusCode::TEMPORARY_REDIRECT, StatusCode::PERMANENT_REDIRECT]
        .contains(&status)
}

/// Clients for http and, once it is needed, for https: loading the system's roots takes a while.
struct Clients {
    idle_max: usize,
    plain: Client<HttpConnector, Full<Bytes>>,
    secure: OnceCell<Client<HttpsConnector<HttpConnector>, Full<Bytes>>>,
}

struct SendError {
    why: String,
    /// The host may have carried it out.
    was_sent: bool,
}

impl Clients {
    fn new(idle_max: usize) -> Self {
        Self { idle_max, plain: builder(idle_max).build(connector()), secure: OnceCell::new() }
    }

    async fn send(&self, uri: &Uri, request: Request<Full<Bytes>>) -> Result<Response<Incoming>, SendError> {
        let response = if uri.scheme() == Some(&http::uri::Scheme::HTTPS) {
            self.secure()?.request(request).await
        } else {
            self.plain.request(request).await
        };
        response.map_err(SendError::from)
    }

    fn secure(&self) -> Result<&Client<HttpsConnector<HttpConnector>, Full<Bytes>>, SendError> {
        if let Some(client) = self.secure.get() {
            return Ok(client);
        }
        let roots = HttpsConnectorBuilder::new().with_native_roots();
        let roots =
            roots.map_err(|error| SendError { why: format!("no trusted certificates: {error}"), was_sent: false })?;
        let mut http = connector();
        http.enforce_http(false);
        let https = roots.https_only().enable_http1().wrap_connector(http);
        Ok(self.secure.get_or_init(|| builder(self.idle_max).build(https)))
    }
}

impl From<ClientError> for SendError {
    fn from(error: ClientError) -> Self {
        let why = error.source().map_or_else(|| error.to_string(), error_chain);
        Self { why, was_sent: !error.is_connect() }
    }
}

fn connector() -> HttpConnector {
    let mut connector = HttpConnector::new();
    connector.set_connect_timeout(Some(CONNECT_TIMEOUT));
    connector.set_nodelay(true);
    connector
}

fn builder(idle_max: usize) -> hyper_util::client::legacy::Builder {
    let mut builder = Client::builder(TokioExecutor::new());
    builder.pool_timer(TokioTimer::new()).pool_idle_timeout(IDLE_TIMEOUT).pool_max_idle_per_host(idle_max);
    builder
}
