//! The routes: what the two ports answer.

use std::convert::Infallible;
use std::net::IpAddr;
use std::rc::Rc;
use std::time::{Duration, SystemTime};

use http_body_util::{BodyExt, Either, Full, StreamBody};
use hyper::body::{Bytes, Incoming};
use hyper::header::{self, HeaderValue};
use hyper::{Method, Request, Response, StatusCode};
use serde_json::{Value, json};

use super::Port;
use super::connection::Link;
use super::counts::{self, Kind};
use super::faults::{Fault, Refuse};
use super::refusal::Refusal;
use super::service::Service;
use super::stream::Frames;

/// The longest body of a request, in bytes.
const BODY_LEN_MAX: usize = 64 * 1024;

/// How much of a longer one is read and thrown away, in bytes.
const DISCARDED_LEN_MAX: usize = 1024 * 1024;

/// How long a client may take to send it.
const BODY_TIMEOUT: Duration = Duration::from_secs(10);

/// What is for the tester and not part of the Nest API.
const CONTROL: &str = "/__simulator";

/// The table of all faults.
const HELP: &str = include_str!("help.txt");

type Body = Either<Full<Bytes>, StreamBody<Frames>>;

/// The connection that a request came on.
pub(super) struct Caller {
    pub(super) port: Port,
    /// The address that was called.
    pub(super) host: IpAddr,
    pub(super) link: Rc<Link>,
}

/// An answer that is not the one hoped for.
enum Unserved {
    Refused(Refusal),
    /// As a fault has it, with the fields that were written.
    Fault(Refuse, Vec<String>),
}

/// A request as far as its head says it.
struct Call {
    kind: Kind,
    path: String,
    /// The path with the query, for redirects.
    target: String,
    token: Option<String>,
}

pub(super) async fn answer(
    service: &Rc<Service>,
    caller: &Rc<Caller>,
    request: Request<Incoming>,
) -> Result<Response<Body>, Infallible> {
    let call = Call::read(&request);
    if call.path == CONTROL || call.path.strip_prefix(CONTROL).is_some_and(|rest| rest.starts_with('/')) {
        let answer = control(service, &call, request).await;
        return Ok(answer.unwrap_or_else(|refusal| refused(&refusal)));
    }
    let response = match serve(service, caller, &call, request).await {
        Ok(response) => Some(response),
        Err(Unserved::Refused(refusal)) => Some(refused(&refusal)),
        Err(Unserved::Fault(refuse, fields)) => refuse.with.refusal(fields).map(|refusal| {
            let mut response = refused(&refusal);
            let value = refuse.retry_after.map(|after| after.value(SystemTime::now()));
            if let Some(value) = value.and_then(|value| HeaderValue::try_from(value).ok()) {
                response.headers_mut().insert(header::RETRY_AFTER, value);
            }
            response
        }),
    };
    service.answered(counts::Request {
        at_ms: service.elapsed_ms(),
        port: caller.port,
        kind: call.kind,
        path: call.path,
        token: call.token,
        status: response.as_ref().map_or(0, |response| response.status().as_u16()),
    });
    match response {
        Some(response) => Ok(response),
        None => std::future::pending().await,
    }
}

async fn serve(
    service: &Rc<Service>,
    caller: &Caller,
    call: &Call,
    request: Request<Incoming>,
) -> Result<Response<Body>, Unserved> {
    // Before any answer: a client that is still sending would see a reset instead of it.
    let body = if call.kind == Kind::Write { body(request).await? } else { Bytes::new() };
    let token = call.token.as_deref().ok_or(Refusal::Unauthorized)?;
    let port = service.redirect(caller.port).filter(|_| matches!(call.kind, Kind::Stream | Kind::Write));
    if let Some(port) = port {
        return Ok(redirect(caller.host, port, &call.target));
    }
    service.check_token(token)?;
    let path: Vec<&str> = call.path.split('/').filter(|part| !part.is_empty()).collect();
    match call.kind {
        Kind::Stream => {
            if let Some(refuse) = service.take_stream_refusal() {
                return Err(Unserved::Fault(refuse, Vec::new()));
            }
            Ok(stream(service.open_stream(&path, token, caller.link.clone())?))
        }
        Kind::Write => {
            let written = serde_json::from_slice(&body).map_err(|_| Refusal::WrongFormat {
                field: "body".to_owned(),
                value: String::from_utf8_lossy(&body).into_owned(),
            })?;
            if let Some(refuse) = service.take_write_refusal() {
                return Err(Unserved::Fault(refuse, fields(&written)));
            }
            service.write(&path, &written)?;
            Ok(json_response(StatusCode::OK, &written))
        }
        Kind::Read => Ok(json_response(StatusCode::OK, &service.read(&path)?)),
        Kind::Other => Err(Refusal::WrongMethod.into()),
    }
}

async fn control(service: &Service, call: &Call, request: Request<Incoming>) -> Result<Response<Body>, Refusal> {
    let method = request.method().clone();
    match (call.path.strip_prefix(CONTROL).unwrap_or_default(), method) {
        ("" | "/", Method::GET) => Ok(json_response(StatusCode::OK, &service.report())),
        ("/help", Method::GET) => Ok(response(StatusCode::OK, "text/plain; charset=UTF-8", HELP.into())),
        ("/faults", Method::POST) => {
            let fault = Fault::parse(&body(request).await?)?;
            let touched = service.apply(fault)?;
            Ok(json_response(StatusCode::OK, &json!({ "streams": touched })))
        }
        ("" | "/" | "/help" | "/faults", _) => Err(Refusal::WrongMethod),
        _ => Err(Refusal::NotFound),
    }
}

impl Call {
    fn read(request: &Request<Incoming>) -> Self {
        let header = |name| request.headers().get(name).and_then(|value: &HeaderValue| value.to_str().ok());
        let events = header(header::ACCEPT).is_some_and(|accept| accept.contains("text/event-stream"));
        let kind = match *request.method() {
            Method::GET if events => Kind::Stream,
            Method::GET | Method::HEAD => Kind::Read,
            Method::PUT => Kind::Write,
            _ => Kind::Other,
        };
        let token = header(header::AUTHORIZATION).and_then(bearer).map(str::to_owned);
        let target = request.uri().path_and_query().map_or("/", |target| target.as_str()).to_owned();
        Self { kind, path: request.uri().path().to_owned(), target, token }
    }
}

impl From<Refusal> for Unserved {
    fn from(refusal: Refusal) -> Self {
        Self::Refused(refusal)
    }
}

/// The token of `Bearer TOKEN`; the scheme's case does not matter.
fn bearer(value: &str) -> Option<&str> {
    let (scheme, token) = value.split_once(' ')?;
    Some(token.trim()).filter(|token| scheme.eq_ignore_ascii_case("bearer") && !token.is_empty())
}

async fn body(request: Request<Incoming>) -> Result<Bytes, Refusal> {
    match tokio::time::timeout(BODY_TIMEOUT, read_body(request.into_body())).await {
        Ok(body) => body,
        Err(_) => Err(Refusal::TooSlow),
    }
}

/// What is too long is still read to some extent: closing on it would reset the connection under the answer.
async fn read_body(mut body: Incoming) -> Result<Bytes, Refusal> {
    let mut taken = Vec::new();
    let mut len = 0;
    while let Some(frame) = body.frame().await {
        // The client went away in the middle; nobody will read this.
        let frame = frame.map_err(|_| Refusal::TooSlow)?;
        let data = frame.into_data().unwrap_or_default();
        len += data.len();
        if len <= BODY_LEN_MAX {
            taken.extend_from_slice(&data);
        } else if len > DISCARDED_LEN_MAX {
            break;
        }
    }
    if len <= BODY_LEN_MAX { Ok(taken.into()) } else { Err(Refusal::TooLarge) }
}

fn fields(written: &Value) -> Vec<String> {
    written.as_object().map(|fields| fields.keys().cloned().collect()).unwrap_or_default()
}

fn redirect(host: IpAddr, port: u16, target: &str) -> Response<Body> {
    let authority = std::net::SocketAddr::new(host, port);
    let mut response = response(StatusCode::TEMPORARY_REDIRECT, "text/plain; charset=UTF-8", Bytes::new());
    if let Ok(location) = HeaderValue::try_from(format!("http://{authority}{target}")) {
        response.headers_mut().insert(header::LOCATION, location);
    }
    response
}

fn refused(refusal: &Refusal) -> Response<Body> {
    json_response(refusal.status(), &refusal.body(fastrand::u128(..)))
}

fn stream(frames: Frames) -> Response<Body> {
    let mut response = Response::new(Either::Right(StreamBody::new(frames)));
    let headers = response.headers_mut();
    headers.insert(header::CONTENT_TYPE, HeaderValue::from_static("text/event-stream"));
    headers.insert(header::CACHE_CONTROL, HeaderValue::from_static("no-cache"));
    response
}

fn json_response(status: StatusCode, value: &Value) -> Response<Body> {
    response(status, "application/json; charset=UTF-8", value.to_string().into())
}

fn response(status: StatusCode, content_type: &'static str, body: Bytes) -> Response<Body> {
    let mut response = Response::new(Either::Left(Full::new(body)));
    *response.status_mut() = status;
    response.headers_mut().insert(header::CONTENT_TYPE, HeaderValue::from_static(content_type));
    response
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn tokens_are_read() {
        let table = [
            ("Bearer c.abc", Some("c.abc")),
            ("bearer c.abc ", Some("c.abc")),
            ("Bearer ", None),
            ("Bearer", None),
            ("Basic dXNlcg==", None),
            ("", None),
        ];
        for (value, expected) in table {
            assert_eq!(bearer(value), expected, "{value}");
        }
    }
}
