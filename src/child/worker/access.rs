//! What each request was answered, as a record for `[log.access]`: one when its answer is over.
//!
//! Over is an answer when its body has ended, or was dropped because the client is gone. What hyper
//! itself refuses (a head that it cannot read) is no request, and has none.

use std::cell::RefCell;
use std::fmt::Write;
use std::net::SocketAddr;
use std::sync::atomic::{AtomicBool, Ordering};
use std::task::Poll;
use std::time::Instant;

use http::header::CONTENT_LENGTH;
use http::uri::PathAndQuery;
use http::{Method, Request, Response, StatusCode, Version};
use http_body::{Body, Frame};
use hyper::body::Buf;
use log::Level;

use crate::log::logger;
use crate::log::record::{Value, add_field};

/// Of a method and of a path with its query, what is told: both are a client's choice.
const METHOD_LEN_MAX: usize = 64;
const TARGET_LEN_MAX: usize = 8 * 1024;

/// Of a path, what the message shows.
const PATH_LEN_MAX: usize = 200;

/// Whether they are told. A process is one worker, once.
static IS_ON: AtomicBool = AtomicBool::new(false);

thread_local! {
    static SCRATCH: RefCell<Scratch> = RefCell::default();
}

/// Where a record is written.
#[derive(Default)]
struct Scratch {
    fields: Vec<u8>,
    text: String,
}

/// From now on each request is told, or none.
pub(super) fn tell(is_on: bool) {
    IS_ON.store(is_on, Ordering::Relaxed);
}

/// A request, and what has become of it so far.
pub(super) struct Visit {
    method: Method,
    target: Option<PathAndQuery>,
    version: Version,
    began: Instant,
    /// `None`: it is not answered.
    status: Option<StatusCode>,
    /// Of the answer's body, what hyper has been given.
    bytes: u64,
    /// What the answer's head has said of that.
    promised: Option<u64>,
    is_whole: bool,
}

impl Visit {
    /// A request whose head was just read; `None`: nobody is told of it.
    pub(super) fn begin<B>(request: &Request<B>) -> Option<Self> {
        IS_ON.load(Ordering::Relaxed).then(|| Self::of(request))
    }

    fn of<B>(request: &Request<B>) -> Self {
        Self {
            method: request.method().clone(),
            target: request.uri().path_and_query().cloned(),
            version: request.version(),
            began: Instant::now(),
            status: None,
            bytes: 0,
            promised: None,
            is_whole: false,
        }
    }

    /// It has got its answer's head.
    pub(super) fn answer<B: Body>(&mut self, response: &Response<B>) {
        let status = response.status();
        self.status = Some(status);
        let length = response.headers().get(CONTENT_LENGTH).and_then(|value| value.to_str().ok());
        self.promised = length.and_then(|length| length.parse().ok());
        self.is_whole = self.has_no_body(status) || self.promised == Some(0) || response.body().is_end_stream();
    }

    /// Whether hyper does not look at the body of such an answer.
    fn has_no_body(&self, status: StatusCode) -> bool {
        status.is_informational()
            || [StatusCode::NO_CONTENT, StatusCode::NOT_MODIFIED].contains(&status)
            || self.method == Method::HEAD
            || self.method == Method::CONNECT && status.is_success()
    }

    /// Its body was polled, and has nothing more if it says so of itself.
    pub(super) fn take<D: Buf, E>(&mut self, poll: &Poll<Option<Result<Frame<D>, E>>>, has_ended: bool) {
        match poll {
            Poll::Ready(Some(Ok(frame))) => {
                self.bytes += frame.data_ref().map_or(0, |data| data.remaining() as u64);
                // What hyper has got the promised length of, or trailers, it asks for no more.
                let is_all = self.promised.is_some_and(|promised| self.bytes >= promised);
                self.is_whole |= has_ended || is_all || frame.is_trailers();
            }
            Poll::Ready(None) => self.end(),
            Poll::Ready(Some(Err(_))) | Poll::Pending => {}
        }
    }

    /// Its body has ended.
    pub(super) fn end(&mut self) {
        self.is_whole = true;
    }

    /// Its answer is over.
    pub(super) fn over(&self, peer: Option<SocketAddr>) {
        let took_us = self.began.elapsed().as_micros();
        // The scratch is gone while the thread ends: then a fresh one serves.
        let mut scratch = SCRATCH.try_with(RefCell::take).unwrap_or_default();
        scratch.write(self, peer, took_us);
        logger::access(Level::Info, &scratch.fields, &scratch.text);
        let _ = SCRATCH.try_with(|place| place.replace(scratch));
    }
}

impl Scratch {
    fn write(&mut self, visit: &Visit, peer: Option<SocketAddr>, took_us: u128) {
        self.fields.clear();
        let method = cut(visit.method.as_str(), METHOD_LEN_MAX);
        let target = visit.target.as_ref().map_or("-", PathAndQuery::as_str);
        add_field("method", Value::Text(method), &mut self.fields);
        add_field("path", Value::Text(cut(target, TARGET_LEN_MAX)), &mut self.fields);
        add_field("version", Value::Text(version(visit.version)), &mut self.fields);
        match visit.status {
            Some(status) => add_field("status", Value::Number(status.as_str()), &mut self.fields),
            None => add_field("status", Value::Null, &mut self.fields),
        }
        self.add_number("bytes", visit.bytes);
        self.add_number("took_us", took_us);
        self.add_peer(peer);
        if !visit.is_whole {
            add_field("aborted", Value::Bool(true), &mut self.fields);
        }
        // Not the query: it may be private, and who wants it finds it in the field.
        let path = cut(target.split('?').next().unwrap_or(target), PATH_LEN_MAX);
        let status = visit.status.as_ref().map_or("-", StatusCode::as_str);
        let end = if visit.is_whole { "" } else { ", aborted" };
        let (mut bytes, mut took) = (itoa::Buffer::new(), itoa::Buffer::new());
        let (bytes, took) = (bytes.format(visit.bytes), took.format(took_us));
        let words = [method, " ", path, " ", status, " ", bytes, " B ", took, " µs", end];
        self.text.clear();
        words.into_iter().for_each(|word| self.text.push_str(word));
    }

    fn add_number(&mut self, key: &str, number: impl itoa::Integer) {
        add_field(key, Value::Number(itoa::Buffer::new().format(number)), &mut self.fields);
    }

    fn add_peer(&mut self, peer: Option<SocketAddr>) {
        self.text.clear();
        // A socket of IPv6 that takes both shows the older kind as a part of the newer one. Writing to a string
        // does not fail.
        let _ = match peer {
            Some(peer) => write!(self.text, "{}", peer.ip().to_canonical()),
            None => write!(self.text, "unix"),
        };
        add_field("peer", Value::Text(&self.text), &mut self.fields);
    }
}

fn cut(text: &str, len_max: usize) -> &str {
    &text[..text.floor_char_boundary(len_max)]
}

fn version(version: Version) -> &'static str {
    match version {
        Version::HTTP_09 => "HTTP/0.9",
        Version::HTTP_10 => "HTTP/1.0",
        Version::HTTP_2 => "HTTP/2.0",
        Version::HTTP_3 => "HTTP/3.0",
        _ => "HTTP/1.1",
    }
}

#[cfg(test)]
mod tests {
    use std::convert::Infallible;

    use http_body_util::{Empty, Full};
    use hyper::body::Bytes;

    use super::*;
    use crate::log::record::Fields;

    const PEER: &str = "[::ffff:192.0.2.7]:4711";

    fn visit(method: Method, uri: &str) -> Visit {
        Visit::of(&Request::builder().method(method).uri(uri).body(()).expect("a request"))
    }

    fn answer(status: u16, body: &'static str) -> Response<Full<Bytes>> {
        Response::builder().status(status).body(body.into()).expect("a response")
    }

    fn data(bytes: &'static [u8]) -> Poll<Option<Result<Frame<Bytes>, Infallible>>> {
        Poll::Ready(Some(Ok(Frame::data(bytes.into()))))
    }

    fn written(visit: &Visit, peer: Option<&str>) -> (String, String) {
        let mut scratch = Scratch { fields: vec![1], text: "left over".to_owned() };
        scratch.write(visit, peer.map(|peer| peer.parse().expect("an address")), 1234);
        let fields = Fields::read(&scratch.fields).expect("ours");
        let shown: Vec<String> = fields
            .iter()
            .map(|(key, value)| match value {
                Value::Null => format!("{key}=null"),
                Value::Bool(value) => format!("{key}={value}"),
                Value::Number(value) => format!("{key}={value}"),
                Value::Text(value) => format!("{key}={value:?}"),
            })
            .collect();
        (shown.join(" "), scratch.text)
    }

    #[test]
    fn an_answer_is_told_with_all_that_is_known() {
        let mut whole = visit(Method::GET, "/goods/7?token=secret");
        whole.answer(&answer(200, "seven"));
        whole.take(&data(b"seven"), true);
        let (fields, message) = written(&whole, Some(PEER));
        let expected = "method=\"GET\" path=\"/goods/7?token=secret\" version=\"HTTP/1.1\" status=200 bytes=5 \
                        took_us=1234 peer=\"192.0.2.7\"";
        assert_eq!(fields, expected);
        assert_eq!(message, "GET /goods/7 200 5 B 1234 µs");
    }

    #[test]
    fn a_client_that_is_gone_before_its_answer_is_told_too() {
        let (fields, message) = written(&visit(Method::POST, "/"), None);
        let expected = "method=\"POST\" path=\"/\" version=\"HTTP/1.1\" status=null bytes=0 took_us=1234 \
                        peer=\"unix\" aborted=true";
        assert_eq!(fields, expected);
        assert_eq!(message, "POST / - 0 B 1234 µs, aborted");
    }

    #[test]
    fn what_hyper_does_not_send_is_not_missing() {
        let table = [
            (Method::HEAD, 200, true),
            (Method::GET, 304, true),
            (Method::GET, 204, true),
            (Method::GET, 101, true),
            (Method::CONNECT, 200, true),
            (Method::CONNECT, 403, false),
            (Method::GET, 200, false),
            (Method::GET, 500, false),
        ];
        for (method, status, is_whole) in table {
            let mut visit = visit(method.clone(), "/");
            visit.answer(&answer(status, "not asked for"));
            assert_eq!(visit.is_whole, is_whole, "{method} {status}");
        }
        let mut empty = visit(Method::GET, "/");
        empty.answer(&Response::new(Empty::<Bytes>::new()));
        assert!(empty.is_whole);
    }

    #[test]
    fn an_answer_is_whole_when_it_has_ended_in_any_of_its_ways() {
        let promise = |length: &str| {
            let mut visit = visit(Method::GET, "/");
            let builder = Response::builder().header(CONTENT_LENGTH, length);
            visit.answer(&builder.body(Full::<Bytes>::from("12345678")).expect("a response"));
            visit
        };
        let trailers = || Poll::Ready(Some(Ok(Frame::trailers(http::HeaderMap::new()))));
        let table = [
            ("no end", "9", vec![data(b"1234")], false),
            ("it says so itself", "9", vec![Poll::Ready(None)], true),
            ("all that was promised", "8", vec![data(b"1234"), Poll::Pending, data(b"5678")], true),
            ("trailers", "x", vec![data(b"1234"), trailers()], true),
            ("waits", "8", vec![data(b"1234"), Poll::Pending], false),
        ];
        for (name, length, polls, is_whole) in table {
            let mut visit = promise(length);
            polls.iter().for_each(|poll| visit.take(poll, false));
            assert_eq!(visit.is_whole, is_whole, "{name}");
        }
        let mut failed = promise("8");
        failed.take::<Bytes, _>(&Poll::Ready(Some(Err("the disk is gone"))), false);
        assert!(!failed.is_whole);
    }

    #[test]
    fn what_a_client_chooses_has_an_end() {
        let method = Method::from_bytes(&[b'X'; 1000]).expect("a method");
        let long = visit(method, &format!("/{}?{}", "p".repeat(1000), "q".repeat(20_000)));
        let (fields, message) = written(&long, None);
        assert!(fields.len() < METHOD_LEN_MAX + TARGET_LEN_MAX + 200, "{}", fields.len());
        assert!(message.len() < METHOD_LEN_MAX + PATH_LEN_MAX + 50, "{message}");
    }
}
