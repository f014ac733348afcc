//! What clients send that mean no good, or know no better; byte for byte.

use std::fs::File;
use std::io::{Read, Write};
use std::net::{Shutdown, SocketAddr, TcpStream};
use std::time::Duration;

use forebay::testing::Server;

use crate::client::{connect, example};
use crate::reload::{SHORT, commit};
use crate::retirement::Idle;

/// Asked behind something: whether it is answered tells where that was thought to end.
const NEXT: &str = "GET /said?next HTTP/1.1\r\nHost: a\r\nConnection: close\r\n\r\n";

/// All that comes until the server closes the connection.
fn told(mut stream: &TcpStream) -> String {
    let mut bytes = Vec::new();
    // Closed with something of ours unread is a reset.
    let _ = stream.read_to_end(&mut bytes);
    String::from_utf8_lossy(&bytes).into_owned()
}

fn ask(address: SocketAddr, bytes: &str) -> String {
    let mut stream = connect(address);
    let _ = stream.write_all(bytes.as_bytes());
    told(&stream)
}

#[test]
fn a_request_that_two_could_read_in_two_ways_ends_its_connection() {
    let server = Server::of(example("lasting")).workers(1).start();
    let post = |head: &str, body: &str| format!("POST /said HTTP/1.1\r\nHost: a\r\n{head}\r\n\r\n{body}{NEXT}");
    // The answer, and why what comes behind has none.
    let refused = "HTTP/1.1 400";
    let taken = "HTTP/1.1 200";
    let table = [
        ("Content-Length: 5\r\nContent-Length: 6", "hello!", refused),
        ("Content-Length: 5, 5", "hello", refused),
        ("Content-Length: +5", "hello", refused),
        ("Content-Length: -5", "hello", refused),
        ("Content-Length: 0x5", "hello", refused),
        ("Content-Length : 5", "hello", refused),
        ("Transfer-Encoding: chunked, identity", "0\r\n\r\n", refused),
        ("Transfer-Encoding: xchunked", "0\r\n\r\n", refused),
        ("Transfer-Encoding: chunked\r\nTransfer-Encoding: identity", "0\r\n\r\n", refused),
        ("Transfer-Encoding : chunked", "0\r\n\r\n", refused),
        ("X: a\r\n Transfer-Encoding: chunked", "0\r\n\r\n", refused),
        ("X: a\rTransfer-Encoding: chunked", "0\r\n\r\n", refused),
        ("X\0: a", "", refused),
        // RFC 9112 6.3 lets a server read these by the encoding, if it ends the connection then.
        ("Content-Length: 5\r\nTransfer-Encoding: chunked", "0\r\n\r\n", taken),
        ("Transfer-Encoding: chunked\r\nContent-Length: 5", "0\r\n\r\n", taken),
        // The application is told that the body is broken, and what follows is nobody's request.
        ("Transfer-Encoding: chunked", "0x5\r\nhello\r\n0\r\n\r\n", taken),
        ("Transfer-Encoding: chunked", "5;a\n\r\nhello\r\n0\r\n\r\n", taken),
        ("Transfer-Encoding: chunked", "ffffffffffffffff1\r\nhello\r\n0\r\n\r\n", taken),
        ("Transfer-Encoding: chunked", "5\r\nhelloXX0\r\n\r\n", taken),
    ];
    for (head, body, status) in table {
        let answer = ask(server.address(), &post(head, body));
        assert!(answer.starts_with(status), "{head:?} {body:?}: {answer}");
        assert_eq!(
            answer.matches("HTTP/1.1 ").count() - usize::from(status == taken),
            1,
            "{head:?} {body:?}: {answer}"
        );
        assert!(!answer.contains("/said?next"), "{head:?} {body:?}: {answer}");
    }
    // HTTP/1.0 has no such encoding.
    let old = post("Transfer-Encoding: chunked", "0\r\n\r\n").replacen("HTTP/1.1", "HTTP/1.0", 1);
    let answer = ask(server.address(), &old);
    assert!(answer.starts_with(refused) && !answer.contains("?next"), "{answer}");
    server.stop();
}

#[test]
fn what_is_no_request_is_refused_and_its_connection_ended() {
    let server = Server::of(example("lasting")).workers(1).start();
    for bytes in ["HELLO\r\n\r\n", "GET /said\r\n\r\n", "GET  /said HTTP/1.1\r\n\r\n", "GET /said HTTP/3.1\r\n\r\n"] {
        let answer = ask(server.address(), &format!("{bytes}{NEXT}"));
        assert!(answer.starts_with("HTTP/1.1 400") && answer.ends_with("\r\n\r\n"), "{bytes:?}: {answer}");
    }
    for hosts in ["", "Host: a\r\nHost: b\r\n"] {
        let answer = ask(server.address(), &format!("GET /said HTTP/1.1\r\n{hosts}\r\n{NEXT}"));
        assert!(answer.starts_with("HTTP/1.1 400") && !answer.contains("/said?next"), "{hosts:?}: {answer}");
    }
    let tls = "\u{16}\u{3}\u{1}\0\u{2}\0\u{1}\0\u{1}\r\n\r\n";
    assert!(ask(server.address(), tls).starts_with("HTTP/1.1 400"));
    let many: String = (0..150).map(|number| format!("X{number}: 1\r\n")).collect();
    let answer = ask(server.address(), &format!("GET /said HTTP/1.1\r\n{many}\r\n"));
    assert!(answer.starts_with("HTTP/1.1 431"), "{answer}");
    server.stop();
}

#[test]
fn requests_in_a_row_are_answered_in_a_row() {
    let server = Server::of(example("lasting")).workers(1).start();
    let row: String = (0..200).map(|number| format!("GET /said?{number} HTTP/1.1\r\nHost: a\r\n\r\n")).collect();
    let answers = ask(server.address(), &format!("{row}{NEXT}"));
    let numbers = answers.split("GET /said?").skip(1).map(|rest| rest.split(' ').next().unwrap_or_default());
    let wanted = (0..200).map(|number| number.to_string()).chain(["next".to_owned()]);
    assert!(numbers.eq(wanted), "{answers}");
    server.stop();
}

#[test]
fn http_1_0_is_kept_open_when_it_asks_and_told_when_that_ends() {
    let server = Server::of(example("lasting")).workers(1).configuration(SHORT).start();
    let answer = ask(server.address(), &format!("GET /said HTTP/1.0\r\n\r\n{NEXT}"));
    assert!(answer.starts_with("HTTP/1.0 200") && !answer.contains("connection: keep-alive"), "{answer}");
    assert!(!answer.contains("?next"), "{answer}");

    let mut kept = connect(server.address());
    let mut hear = || {
        kept.write_all(b"GET /said HTTP/1.0\r\nConnection: keep-alive\r\n\r\n").expect("send");
        let mut answer = String::new();
        while !answer.ends_with(": 0") {
            let mut bytes = [0; 1024];
            let len = kept.read(&mut bytes).expect("an answer");
            assert!(len > 0, "{answer}");
            answer.push_str(&String::from_utf8_lossy(&bytes[..len]));
        }
        answer
    };
    for _ in 0..2 {
        assert!(hear().contains("\r\nconnection: keep-alive\r\n"));
    }
    // Its worker ends with the next answer.
    commit(&server);
    server.wait_for("the last answer", || {
        let answer = hear();
        let is_last = !answer.contains("keep-alive");
        assert!(!is_last || answer.contains("\r\nconnection: close\r\n"), "{answer}");
        is_last.then_some(())
    });
    assert_eq!(told(&kept), "");
    server.stop();
}

#[test]
fn an_answer_does_not_wait_for_the_next_request_of_its_row() {
    let server = Server::of(example("fixture")).workers(1).start();
    let release = server.directory().join("let-go");
    let mut client = Idle::open(server.address());
    let hold = format!("GET /hold{} HTTP/1.1\r\nHost: a\r\n\r\n", release.display());
    client.send(format!("GET / HTTP/1.1\r\nHost: a\r\n\r\n{hold}{}", NEXT.replace("/said", "/")).as_bytes());
    assert!(client.hear().0.starts_with("HTTP/1.1 200 "));
    assert!(client.stays(Duration::from_millis(100)), "the second is held");
    File::create(release).expect("let it go");
    for _ in 0..2 {
        assert!(client.hear().0.starts_with("HTTP/1.1 200 "));
    }
    server.stop();
}

#[test]
fn a_client_that_sends_no_more_has_a_second_for_its_answer() {
    let server = Server::of(example("fixture")).workers(1).start();
    for (sleep_ms, is_answered) in [(0, true), (300, true), (60_000, false)] {
        let mut stream = connect(server.address());
        write!(stream, "GET /sleep/{sleep_ms} HTTP/1.1\r\nHost: a\r\n\r\n").expect("send");
        stream.shutdown(Shutdown::Write).expect("as nc -N does");
        assert_eq!(told(&stream).starts_with("HTTP/1.1 200 "), is_answered, "{sleep_ms}");
    }
    server.stop();
}
