//! What clients may take of a worker, and how long: who takes more is told so, and others feel nothing.

use std::io::{ErrorKind, Read, Write};
use std::net::TcpStream;
use std::time::{Duration, Instant};

use forebay::testing::{Builder, Server};
use serde_json::Value;

use crate::client::{connect, example, get, post, uninterrupted};
use crate::held::Held;
use crate::retirement::{Idle, REQUEST};

/// Beyond every limit that is set here, on a busy machine.
const PATIENCE: Duration = Duration::from_secs(20);

/// How exactly limits are kept: the watch looks so often, and takes the last look for the present.
const EARLY: Duration = Duration::from_millis(500);

fn fixture(http: &str) -> Builder {
    Server::of(example("fixture")).workers(1).configuration(&format!("[http]\n{http}\n"))
}

/// What comes until the server closes, and after how long it does.
fn rest(mut stream: &TcpStream) -> (String, Duration) {
    let (begun, mut said, mut buffer) = (Instant::now(), Vec::new(), [0; 4096]);
    loop {
        match uninterrupted(|| stream.read(&mut buffer)) {
            Ok(0) => break,
            Ok(count) => said.extend_from_slice(&buffer[..count]),
            Err(error) if error.kind() == ErrorKind::ConnectionReset => break,
            Err(error) => panic!("{error} after {:?}", String::from_utf8_lossy(&said)),
        }
    }
    (String::from_utf8(said).expect("text"), begun.elapsed())
}

/// Sends the bytes one by one, with so long between two, until the server has closed or all are sent.
fn trickle(mut stream: &TcpStream, bytes: &[u8], pause: Duration) {
    for byte in bytes {
        stream.set_read_timeout(Some(pause)).expect("a limit");
        match uninterrupted(|| stream.peek(&mut [0])) {
            Err(error) if error.kind() == ErrorKind::WouldBlock => {}
            _ => break,
        }
        if stream.write_all(&[*byte]).is_err() {
            break;
        }
    }
    stream.set_read_timeout(Some(PATIENCE)).expect("a limit");
}

#[test]
fn a_head_that_does_not_come_in_its_time_is_answered_408_and_silence_with_silence() {
    let server = fixture("header_timeout = 1").start();
    let slow = connect(server.address());
    let begun = Instant::now();
    let silent = connect(server.address());
    let head = format!("GET / HTTP/1.1\r\n{}", "X-Long: more\r\n".repeat(50));
    trickle(&slow, head.as_bytes(), Duration::from_millis(50));
    let (said, _) = rest(&slow);
    assert!(said.starts_with("HTTP/1.1 408 "), "{said}");
    assert!(begun.elapsed() >= EARLY, "{:?}", begun.elapsed());
    assert_eq!(rest(&silent).0, "");
    // The second head of a connection has as long from its first byte, whenever that comes.
    let mut second = Idle::open(server.address());
    for pause in [1, 1500] {
        assert!(second.stays(Duration::from_millis(pause)));
        second.send(REQUEST);
        second.hear();
    }
    second.send(b"GET");
    assert!(second.hear().0.starts_with("HTTP/1.1 408 "));
    second.wait_for_the_end();
    assert_eq!(get(server.address(), "/").expect("an answer").status, 200);
    server.stop();
}

#[test]
fn a_head_that_has_begun_behind_a_request_has_its_time_and_keeps_nobody_waiting() {
    let server = fixture("header_timeout = 1").start();
    for (requests, begun) in [(1, "G"), (2, "G"), (1, "\r"), (2, "\r\n")] {
        let mut client = Idle::open(server.address());
        client.send(&[&REQUEST.repeat(requests), begun.as_bytes()].concat());
        let sent = Instant::now();
        (0..requests).for_each(|_| assert!(client.hear().0.starts_with("HTTP/1.1 200 ")));
        assert_eq!(get(server.address(), "/").expect("others are answered").status, 200);
        let (said, _) = rest(client.stream());
        assert!(said.starts_with("HTTP/1.1 408 "), "{requests} {begun:?}: {said}");
        assert!((EARLY..PATIENCE).contains(&sent.elapsed()), "{requests} {begun:?}: {:?}", sent.elapsed());
    }
    server.stop();
}

#[test]
fn a_head_that_is_too_large_is_answered_431() {
    let server = fixture("max_header_size = \"8K\"").start();
    let head = |len: usize| format!("/?{}", "x".repeat(len));
    assert_eq!(get(server.address(), &head(7000)).expect("an answer").status, 200);
    let mut stream = connect(server.address());
    write!(stream, "GET / HTTP/1.1\r\nX-Long: {}\r\n\r\n", "x".repeat(9000)).expect("send");
    let (said, _) = rest(&stream);
    assert!(said.starts_with("HTTP/1.1 431 "), "{said}");
    server.stop();
}

#[test]
fn a_body_that_is_too_long_is_answered_413_however_it_comes() {
    let server = fixture("max_body_size = \"1K\"").start();
    let (fits, long) = ([b'x'; 1024], [b'x'; 1025]);
    assert_eq!(post(server.address(), "/echo", &fits).expect("an answer").body.len(), fits.len());
    assert_eq!(post(server.address(), "/echo", &long).expect("an answer").status, 413);
    // One that sends all of it, before it reads: more than a socket takes.
    let mut stream = connect(server.address());
    let much = vec![b'x'; 8 << 20];
    write!(stream, "POST /echo HTTP/1.1\r\nHost: test\r\nContent-Length: {}\r\n\r\n", much.len()).expect("send");
    stream.write_all(&much).expect("all is taken");
    assert!(rest(&stream).0.starts_with("HTTP/1.1 413 "));
    for (body, status) in [(&fits[..], "200"), (&long[..], "413")] {
        let mut stream = connect(server.address());
        write!(stream, "POST /echo HTTP/1.1\r\nHost: test\r\nTransfer-Encoding: chunked\r\nConnection: close\r\n\r\n")
            .expect("send");
        for piece in body.chunks(100) {
            write!(stream, "{:x}\r\n", piece.len()).expect("send");
            stream.write_all(&[piece, b"\r\n"].concat()).expect("send");
        }
        stream.write_all(b"0\r\n\r\n").expect("send");
        let (said, _) = rest(&stream);
        assert!(said.starts_with(&format!("HTTP/1.1 {status} ")), "{said}");
    }
    server.stop();
}

#[test]
fn a_body_that_comes_too_slowly_is_answered_408() {
    let server = fixture("body_timeout = 1").start();
    let mut slow = connect(server.address());
    write!(slow, "POST /echo HTTP/1.1\r\nHost: test\r\nContent-Length: 200\r\n\r\n").expect("send");
    let begun = Instant::now();
    trickle(&slow, &[b'x'; 200], Duration::from_millis(50));
    let (said, _) = rest(&slow);
    assert!(said.starts_with("HTTP/1.1 408 "), "{said}");
    assert!(begun.elapsed() >= Duration::from_secs(1), "{:?}", begun.elapsed());
    // As slow, with a second more for each KiB.
    let mut steady = connect(server.address());
    write!(steady, "POST /echo HTTP/1.1\r\nHost: test\r\nConnection: close\r\nContent-Length: 12288\r\n\r\n")
        .expect("send");
    for piece in [b'x'; 12288].chunks(2048) {
        trickle(&steady, &piece[..1], Duration::from_millis(300));
        steady.write_all(&piece[1..]).expect("send");
    }
    assert!(rest(&steady).0.starts_with("HTTP/1.1 200 "));
    server.stop();
}

#[test]
fn an_answer_that_does_not_begin_in_its_time_is_504_and_the_body_has_its_own() {
    let server = fixture("request_timeout = 1").start();
    let begun = Instant::now();
    let mut kept = Idle::open(server.address());
    kept.send(b"GET /sleep/60000 HTTP/1.1\r\nHost: test\r\n\r\n");
    let (head, _) = kept.hear();
    assert!(head.starts_with("HTTP/1.1 504 "), "{head}");
    assert!((EARLY..PATIENCE).contains(&begun.elapsed()), "{:?}", begun.elapsed());
    kept.send(REQUEST);
    assert!(kept.hear().0.starts_with("HTTP/1.1 200 "), "the connection goes on");
    let mut slow = connect(server.address());
    write!(slow, "POST /echo HTTP/1.1\r\nHost: test\r\nConnection: close\r\nContent-Length: 50\r\n\r\n").expect("send");
    trickle(&slow, &[b'x'; 50], Duration::from_millis(50));
    let (said, _) = rest(&slow);
    assert!(said.starts_with("HTTP/1.1 200 "), "{said}");
    server.stop();
}

#[test]
fn a_connection_waits_for_its_next_request_so_long() {
    let server = fixture("keepalive_timeout = 2").start();
    let mut kept = Idle::open(server.address());
    let mut answered = Instant::now();
    for _ in 0..3 {
        kept.send(REQUEST);
        kept.hear();
        answered = Instant::now();
        assert!(kept.stays(Duration::from_millis(1300)), "after {:?}", answered.elapsed());
    }
    kept.wait_for_the_end();
    assert!(answered.elapsed() >= Duration::from_secs(2) - EARLY, "{:?}", answered.elapsed());
    server.wait_until("no connection", |status| status["workers"][0]["connections"] == 0);
    server.stop();
}

#[test]
fn an_idle_connection_goes_on_where_it_was_whatever_lies_in_between() {
    let server = fixture("").start();
    let mut kept = Idle::open(server.address());
    // A part of the next request comes with this one: the worker has read it when the connection falls idle.
    let mut sent = 0;
    for part in [0, 7, 0, 3, 0] {
        kept.send(&[&REQUEST[sent..], &REQUEST[..part]].concat());
        kept.hear();
        sent = part;
        assert!(kept.stays(Duration::from_millis(1700)));
    }
    server.stop();
}

#[test]
fn one_request_too_many_at_a_time_is_answered_503_and_told_when_to_come_again() {
    let server = fixture("max_requests = 2").start();
    let held = [Held::start(&server, "first"), Held::start(&server, "second")];
    let mut kept = Idle::open(server.address());
    kept.send(REQUEST);
    let (head, _) = kept.hear();
    assert!(head.starts_with("HTTP/1.1 503 ") && head.contains("\r\nretry-after: 1\r\n"), "{head}");
    for held in held {
        held.let_go();
    }
    kept.send(REQUEST);
    assert!(kept.hear().0.starts_with("HTTP/1.1 200 "), "the connection goes on");
    server.stop();
}

#[test]
fn the_last_request_of_a_connection_is_answered_with_close() {
    let server = fixture("max_requests_per_connection = 3").start();
    let mut kept = Idle::open(server.address());
    for number in 1..=3 {
        kept.send(REQUEST);
        let (head, _) = kept.hear();
        assert_eq!(head.contains("\r\nconnection: close\r\n"), number == 3, "{head}");
    }
    kept.wait_for_the_end();
    server.stop();
}

#[test]
fn connections_over_the_limit_wait_in_the_queue_until_others_end() {
    for (workers, limit) in [(1, "max_connections = 2"), (2, "max_connections = 1"), (2, "max_connections_total = 2")] {
        let server = fixture(limit).workers(workers).start();
        let mut kept: Vec<_> = (0..2).map(|_| Idle::open(server.address())).collect();
        for kept in &mut kept {
            kept.send(REQUEST);
            kept.hear();
        }
        let mut waiting = Idle::open(server.address());
        waiting.send(REQUEST);
        assert!(waiting.stays(Duration::from_millis(500)), "{workers} with {limit}");
        drop(kept.pop());
        waiting.hear();
        server.stop();
    }
}

#[test]
fn a_client_that_takes_nothing_of_its_answer_is_cut() {
    let server = Server::of(example("lasting")).workers(1).configuration("[http]\nsend_timeout = 1\n").start();
    let mut greedy = connect(server.address());
    greedy.write_all(b"GET /large/64 HTTP/1.1\r\nHost: test\r\n\r\n").expect("send");
    let connections = |status: &Value| status["workers"][0]["connections"].as_u64();
    server.wait_until("its connection", |status| connections(status) == Some(1));
    server.wait_until("its end", |status| connections(status) == Some(0));
    let (said, _) = rest(&greedy);
    assert!(said.len() < 64 << 20, "{}", said.len());
    let whole = get(server.address(), "/large/64").expect("an answer");
    assert_eq!(whole.body.len(), 64 << 20, "who takes it gets all");
    server.stop();
}
