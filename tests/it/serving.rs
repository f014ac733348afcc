//! The main job: replicas answer, one process logs.

use std::collections::BTreeSet;
use std::io::{Read, Write};
use std::os::unix::fs::PermissionsExt;

use forebay::testing::Server;

use crate::client::{example, get, post, uninterrupted};

fn gateway() -> forebay::testing::Builder {
    Server::of(env!("CARGO_BIN_EXE_forebay"))
}

#[test]
fn every_replica_answers_and_says_which_it_is() {
    let server = gateway().workers(3).start();
    let address = server.address();
    let seen = server.wait_for("answers of all replicas", || {
        let answers = (0..60).map(|_| get(address, "/healthz").expect("an answer"));
        let names: BTreeSet<String> = answers
            .map(|answer| {
                assert_eq!(answer.status, 200);
                let server = answer.head.lines().find(|line| line.starts_with("server: "));
                server.expect("a server header").to_owned()
            })
            .collect();
        (names.len() == 3).then_some(names)
    });
    let expected: Vec<String> = (0..3).map(|slot| format!("server: forebay/{slot}")).collect();
    assert_eq!(seen.into_iter().collect::<Vec<_>>(), expected);
    server.stop();
}

#[test]
fn a_posted_body_is_logged_by_the_one_writer() {
    let server = gateway().start();
    let answer = post(server.address(), "/", b"water is rising").expect("an answer");
    assert_eq!(answer.status, 202);
    server.wait_for_log("] water is rising\n");
    server.stop();
}

#[test]
fn a_body_over_the_limit_is_refused_and_one_at_the_limit_is_logged_as_far_as_a_record_has_room() {
    let server = gateway().start();
    let limit = 1024 * 1024;
    let too_long = post(server.address(), "/", &vec![b'x'; limit + 1]).expect("an answer");
    assert_eq!(too_long.status, 413);
    let longest = post(server.address(), "/", &vec![b'y'; limit]).expect("an answer");
    assert_eq!(longest.status, 202);
    // A record has a quarter of the ring.
    server.wait_for_log(&"y".repeat(limit / 4 - 512));
    server.wait_for_log(&format!("y (cut: it has {limit} bytes)\n"));
    server.stop();
}

#[test]
fn a_panic_costs_one_request() {
    let server = Server::of(example("fixture")).workers(1).start();
    let worker = server.workers()[0];
    assert_eq!(get(server.address(), "/panic").expect("an answer").status, 500);
    server.wait_for_log("the fixture panics in a handler");
    assert!(server.log().contains("fixture::panic"), "a backtrace with the handler's name");
    assert_eq!(server.workers()[0], worker, "the worker lives");
    assert_eq!(get(server.address(), "/").expect("an answer").status, 200);
}

#[test]
fn what_children_print_is_logged_with_their_name() {
    let server = Server::of(example("fixture")).workers(1).start();
    get(server.address(), "/print").expect("an answer");
    server.wait_for_log("output worker 0 generation 1] printed by the fixture");
    server.wait_for_log("output worker 0 generation 1] complained by the fixture");
    server.stop();
}

/// A client that keeps its connection does not know that the server ends.
#[test]
fn a_request_sent_while_stopping_on_a_kept_connection_is_answered_and_is_the_last() {
    let server = gateway().workers(1).start();
    let mut stream = std::net::TcpStream::connect(server.address()).expect("connect");
    let mut ask = || {
        stream.write_all(b"POST / HTTP/1.1\r\nHost: test\r\nContent-Length: 1\r\n\r\nx").expect("send");
        let mut answer = Vec::new();
        // 202 has no body.
        while !answer.ends_with(b"\r\n\r\n") {
            let mut byte = [0];
            assert_eq!(uninterrupted(|| stream.read(&mut byte)).expect("an answer"), 1, "it was closed instead");
            answer.push(byte[0]);
        }
        String::from_utf8(answer).expect("text")
    };
    assert!(!ask().contains("connection: close"));
    server.signal(server.pid(), nix::libc::SIGTERM);
    server.wait_for_log("stopping");
    // The worker hears of it a little later than the log.
    server.wait_for("the last answer", || ask().contains("connection: close").then_some(()));
    server.stop();
}

#[test]
fn root_makes_nothing_below_a_directory_that_others_can_write() {
    let directory = tempfile::tempdir().expect("a directory");
    let open = directory.path().join("open");
    std::fs::create_dir(&open).expect("make it");
    std::fs::set_permissions(&open, std::fs::Permissions::from_mode(0o777)).expect("open it");
    let mut server = gateway().run_dir(open.join("run")).launch();
    if nix::unistd::geteuid().is_root() {
        assert_eq!(server.wait().code(), Some(77));
        assert!(server.log().contains("others may write"), "{}", server.log());
        assert!(!open.join("run").exists());
    }
}

#[test]
fn an_event_stream_ends_when_its_worker_does_and_nobody_waits_for_the_limit() {
    let mut server = gateway().workers(1).start();
    let mut stream = std::net::TcpStream::connect(server.address()).expect("connect");
    stream.write_all(b"GET /events HTTP/1.1\r\nHost: forebay\r\n\r\n").expect("write");
    let mut first = [0; 1024];
    assert!(uninterrupted(|| stream.read(&mut first)).expect("an answer") > 0);
    server.signal(server.pid(), nix::libc::SIGTERM);
    let mut rest = Vec::new();
    stream.read_to_end(&mut rest).expect("an orderly end");
    assert!(rest.ends_with(b"0\r\n\r\n"), "the last chunk: {:?}", String::from_utf8_lossy(&rest));
    assert!(server.wait().success());
    assert!(!server.log().contains("are cut"), "it ended by itself");
}
