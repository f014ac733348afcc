//! What each request was answered, one record for each; and by which id a request's lines are found.

use std::fs;
use std::io::{Read, Write};
use std::net::{Shutdown, SocketAddr, TcpStream};
use std::os::unix::net::UnixStream;
use std::path::{Path, PathBuf};
use std::time::Duration;

use forebay::testing::Server;
use serde_json::{Value, json};
use tempfile::TempDir;

use crate::client::{example, get, post, uninterrupted};
use crate::talker::Talker;

/// A server with one worker, and what it tells of requests and logs, as JSON.
struct Told {
    server: Server,
    directory: TempDir,
}

impl Told {
    fn of(program: &str) -> Self {
        Self::with(program, "")
    }

    fn with(program: &str, more: &str) -> Self {
        let directory = tempfile::tempdir().expect("a directory");
        let path = |name: &str| directory.path().join(name).display().to_string();
        let configuration = format!(
            "{more}\n[log.access]\nkind = \"file\"\npath = \"{}\"\nformat = \"json\"\n\n\
             [[log.target]]\nkind = \"file\"\npath = \"{}\"\nformat = \"json\"\n",
            path("access.log"),
            path("all.log")
        );
        let server = Server::of(example(program)).workers(1).configuration(&configuration).start();
        Self { server, directory }
    }

    fn address(&self) -> SocketAddr {
        self.server.address()
    }

    /// All requests that were told.
    fn requests(&self) -> Vec<Value> {
        lines(&self.directory.path().join("access.log"))
    }

    /// The one request whose path begins so, once it is told.
    fn request(&self, path: &str) -> Value {
        let begins = |line: &Value| line["path"].as_str().is_some_and(|told| told.starts_with(path));
        self.server.wait_for("the record of a request", || self.requests().into_iter().find(begins))
    }

    /// The id with which this was logged, once it is.
    fn id_of(&self, message: &str) -> Value {
        let place = self.directory.path().join("all.log");
        let begins = |line: &Value| line["message"].as_str().is_some_and(|logged| logged.starts_with(message));
        let line = self.server.wait_for(message, || lines(&place).into_iter().find(begins));
        line["request"].clone()
    }
}

/// The whole lines of a file, as JSON, what stands among the fields of a record beside the rest.
fn lines(path: &Path) -> Vec<Value> {
    let text = fs::read_to_string(path).unwrap_or_default();
    let whole = text.split_inclusive('\n').filter(|line| line.ends_with('\n'));
    whole.map(|line| flat(serde_json::from_str(line).expect("an object on each line"))).collect()
}

fn flat(mut line: Value) -> Value {
    if let Value::Object(fields) = line["fields"].take() {
        line.as_object_mut().expect("an object").extend(fields);
    }
    line
}

/// Some of an object's values.
fn some(line: &Value, keys: &[&str]) -> Value {
    keys.iter().map(|key| line[key].clone()).collect()
}

/// Sends this on a new connection.
fn send(address: SocketAddr, head: &str) -> TcpStream {
    let mut stream = TcpStream::connect(address).expect("connect");
    stream.write_all(head.replace('\n', "\r\n").as_bytes()).expect("send");
    stream
}

fn head_of(stream: &mut impl Read) -> String {
    let mut head = Vec::new();
    while !head.ends_with(b"\r\n\r\n") {
        let mut byte = [0];
        assert_eq!(uninterrupted(|| stream.read(&mut byte)).expect("an answer"), 1, "it was closed instead");
        head.push(byte[0]);
    }
    String::from_utf8(head).expect("text")
}

#[test]
fn a_request_is_told_with_all_that_is_known() {
    let told = Told::of("fixture");
    let answer = get(told.address(), "/sleep/30?token=secret").expect("an answer");
    let line = told.request("/sleep");
    let known = some(&line, &["method", "path", "version", "status", "bytes", "peer", "aborted"]);
    let len = answer.body.len();
    assert_eq!(known, json!(["GET", "/sleep/30?token=secret", "HTTP/1.1", 200, len, "127.0.0.1", null]), "{line}");
    let took_us = line["took_us"].as_u64().expect("a number");
    assert!((30_000..20_000_000).contains(&took_us), "{line}");
    assert_eq!(line["request"].as_str().map(str::len), Some(16), "{line}");
    assert_eq!(line["target"], "access");
    told.server.stop();
}

#[test]
fn requests_of_every_kind_are_told_once() {
    let told = Told::of("fixture");
    let address = told.address();
    head_of(&mut send(address, "HEAD / HTTP/1.1\nHost: test\n\n"));
    assert_eq!(get(address, "/nowhere").expect("an answer").status, 404);
    assert_eq!(get(address, "/panic").expect("an answer").status, 500);
    assert_eq!(post(address, "/echo", b"twelve bytes").expect("an answer").status, 200);
    let expecting = "POST /echo HTTP/1.0\nHost: test\nContent-Length: 4\nConnection: close\n\nfour";
    head_of(&mut send(address, expecting));
    let mut continued =
        send(address, "POST /echo?later HTTP/1.1\nHost: test\nContent-Length: 5\nExpect: 100-continue\n\n");
    assert!(head_of(&mut continued).starts_with("HTTP/1.1 100 "));
    continued.write_all(b"later").expect("send");
    assert!(head_of(&mut continued).starts_with("HTTP/1.1 200 "));
    told.request("/echo?later");
    let keys = ["method", "path", "version", "status", "bytes", "aborted"];
    let all: Vec<Value> = told.requests().iter().map(|line| some(line, &keys)).collect();
    let expected = [
        json!(["HEAD", "/", "HTTP/1.1", 200, 0, null]),
        json!(["GET", "/nowhere", "HTTP/1.1", 404, 0, null]),
        json!(["GET", "/panic", "HTTP/1.1", 500, 0, null]),
        json!(["POST", "/echo", "HTTP/1.1", 200, 12, null]),
        json!(["POST", "/echo", "HTTP/1.0", 200, 4, null]),
        json!(["POST", "/echo?later", "HTTP/1.1", 200, 5, null]),
    ];
    assert_eq!(all, expected);
    told.server.stop();
}

#[test]
fn requests_on_one_connection_have_an_id_each() {
    let told = Told::of("fixture");
    let mut stream = send(told.address(), "GET /print HTTP/1.1\nHost: test\n\n");
    head_of(&mut stream);
    stream.write_all(b"GET /print HTTP/1.1\r\nHost: test\r\n\r\n").expect("send");
    head_of(&mut stream);
    let two = told.server.wait_for("two records", || Some(told.requests()).filter(|all| all.len() == 2));
    assert_ne!(two[0]["request"], two[1]["request"]);
    told.server.stop();
}

#[test]
fn a_client_that_is_gone_is_told_before_and_within_its_answer() {
    let told = Told::of("fixture");
    let waiting = send(told.address(), "GET /tell/gone/600000 HTTP/1.1\nHost: test\nX-Request-Id: gone-1\n\n");
    told.id_of("gone begins");
    waiting.shutdown(Shutdown::Both).expect("it is open");
    drop(waiting);
    let line = told.request("/tell/gone");
    assert_eq!(some(&line, &["status", "bytes", "aborted", "request"]), json!([null, 0, true, "gone-1"]), "{line}");
    assert_eq!(told.id_of("gone is dropped"), "gone-1", "what the handler leaves behind is its own");
    let waiting = send(told.address(), "GET /tell/reset/600000 HTTP/1.1\nHost: test\n\n");
    told.id_of("reset begins");
    socket2::SockRef::from(&waiting).set_linger(Some(Duration::ZERO)).expect("it is open");
    drop(waiting);
    assert_eq!(some(&told.request("/tell/reset"), &["status", "aborted"]), json!([null, true]));
    told.server.stop();

    let told = Told::of("lasting");
    let mut reading = send(told.address(), "GET /download HTTP/1.1\nHost: test\n\n");
    head_of(&mut reading);
    drop(reading);
    let line = told.request("/download");
    assert_eq!(some(&line, &["status", "aborted"]), json!([200, true]), "{line}");
    assert!(line["bytes"].as_u64().is_some_and(|bytes| bytes < 150_000), "{line}");
    told.server.stop();
}

#[test]
fn a_stream_is_told_when_it_has_ended_and_a_websocket_when_it_begins() {
    let told = Told::of("lasting");
    let answer = get(told.address(), "/download").expect("an answer");
    assert_eq!(answer.status, 200);
    let line = told.request("/download");
    assert_eq!(some(&line, &["status", "bytes", "aborted"]), json!([200, 150_000, null]), "{line}");
    assert!(line["took_us"].as_u64().is_some_and(|took_us| took_us > 1_000_000), "it took its time: {line}");
    let mut talker = Talker::open(told.address(), "/echo");
    let line = told.request("/echo");
    assert_eq!(some(&line, &["status", "bytes", "aborted"]), json!([101, 0, null]), "{line}");
    talker.say("still here");
    talker.hear();
    assert_eq!(told.requests().len(), 2);
    // Nobody waits for its answer to Close.
    drop(talker);
    told.server.stop();
}

#[test]
fn over_a_unix_socket_the_peer_has_no_address() {
    let directory = tempfile::tempdir().expect("a directory");
    let path: PathBuf = directory.path().join("http.sock");
    let listener = format!("[listener.local]\naddress = \"unix:{}\"\n", path.display());
    let told = Told::with("fixture", &listener);
    let mut stream = UnixStream::connect(&path).expect("connect");
    stream.write_all(b"GET /print HTTP/1.1\r\nHost: test\r\n\r\n").expect("send");
    head_of(&mut stream);
    assert_eq!(told.request("/print")["peer"], "unix");
    told.server.stop();
}

#[test]
fn the_level_of_the_log_does_not_count_for_requests() {
    let told = Told::with("fixture", "[log]\nlevel = \"error\"\n");
    get(told.address(), "/log/3").expect("an answer");
    assert_eq!(told.request("/log/3")["status"], 200);
    told.server.stop();
}

#[test]
fn what_a_handler_logs_carries_the_id_of_its_request() {
    let told = Told::of("fixture");
    let address = told.address();
    let ask = move |name: &str, ms: u32| {
        let mut stream =
            send(address, &format!("GET /tell/{name}/{ms} HTTP/1.1\nHost: test\nX-Request-Id: {name}-id\n\n"));
        move || head_of(&mut stream)
    };
    // Each waits while the others begin and end.
    let answers: Vec<_> = [("a", 300), ("b", 200), ("c", 100)].map(|(name, ms)| ask(name, ms)).into();
    answers.into_iter().for_each(|mut answer| assert!(answer().starts_with("HTTP/1.1 200 ")));
    for name in ["a", "b", "c"] {
        for what in ["begins", "ends", "is dropped"] {
            assert_eq!(told.id_of(&format!("{name} {what}")), format!("{name}-id"), "{name} {what}");
        }
        assert_eq!(told.request(&format!("/tell/{name}"))["request"], format!("{name}-id"));
        let apart = told.id_of(&format!("{name} is apart"));
        assert!(apart.is_null(), "a task of its own: {apart}");
    }
    told.server.stop();
}

#[test]
fn a_request_without_an_id_of_its_own_is_given_one_that_its_handler_can_pass_on() {
    let told = Told::of("fixture");
    for (number, said) in ["", "X-Request-Id: with a space\n", "X-Request-Id:\n"].iter().enumerate() {
        let head = format!("GET /tell/n{number}/0 HTTP/1.1\nHost: test\n{said}Connection: close\n\n");
        let mut answer = String::new();
        send(told.address(), &head).read_to_string(&mut answer).expect("an answer");
        let id = answer.rsplit("\r\n").next().expect("a body").to_owned();
        assert!(id.len() == 16 && id.bytes().all(|byte| byte.is_ascii_hexdigit()), "{answer}");
        assert_eq!(told.id_of(&format!("n{number} begins")), id);
    }
    told.server.stop();
}

#[test]
fn a_panic_carries_the_id_and_ends_with_it() {
    let told = Told::of("fixture");
    let mut stream = send(told.address(), "GET /panic HTTP/1.1\nHost: test\nX-Request-Id: panics\n\n");
    assert!(head_of(&mut stream).starts_with("HTTP/1.1 500 "));
    let panicked = told.server.wait_for("its panic", || {
        let all = lines(&told.directory.path().join("all.log"));
        all.into_iter().find(|line| line["target"] == "panic")
    });
    assert_eq!(panicked["request"], "panics", "{panicked}");
    get(told.address(), "/tell/next/0").expect("an answer");
    assert_ne!(told.id_of("next begins"), "panics");
    told.server.stop();
}
