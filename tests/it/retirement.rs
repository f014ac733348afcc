//! Workers that go while others serve on: what their clients notice of it.

use std::io::{BufRead, BufReader, ErrorKind, Read, Write};
use std::net::{SocketAddr, TcpStream};
use std::time::{Duration, Instant};

use forebay::testing::{Builder, Server};
use nix::libc::{SIGCONT, SIGKILL, SIGTERM};
use serde_json::Value;

use crate::client::{connect, example, uninterrupted};
use crate::hangs::pause;
use crate::traffic::{FRESH, IDLE, KEPT, SLOW, Traffic};

/// Longer than a stop waits for an idle connection, and far from every drain limit here.
const BEYOND_THE_GRACE: Duration = Duration::from_millis(2500);

/// What an end that waits for nobody may take on a busy machine; the drain limit is 30 s.
const SOON: Duration = Duration::from_secs(10);

pub(crate) const REQUEST: &[u8] = b"GET / HTTP/1.1\r\nHost: test\r\n\r\n";

fn fixture() -> Builder {
    Server::of(example("fixture"))
}

/// A connection with one request answered and none open.
pub(crate) struct Idle(BufReader<TcpStream>);

impl Idle {
    /// On this worker, whichever of them takes the first ones.
    pub(crate) fn on(server: &Server, slot: u16) -> Self {
        let address = server.address();
        server.wait_for("a connection on the worker", || {
            let mut idle = Self::open(address);
            idle.ask().1.starts_with(&format!("{slot} ")).then_some(idle)
        })
    }

    pub(crate) fn open(address: SocketAddr) -> Self {
        Self(BufReader::new(connect(address)))
    }

    /// Head and body of an answer.
    fn ask(&mut self) -> (String, String) {
        self.send(REQUEST);
        self.hear()
    }

    pub(crate) fn send(&mut self, bytes: &[u8]) {
        self.0.get_mut().write_all(bytes).expect("send");
    }

    /// What is beneath; nothing that has come is left here.
    pub(crate) fn stream(&self) -> &TcpStream {
        assert!(self.0.buffer().is_empty(), "{:?}", self.0.buffer());
        self.0.get_ref()
    }

    pub(crate) fn hear(&mut self) -> (String, String) {
        let mut head = String::new();
        while !head.ends_with("\r\n\r\n") {
            assert!(self.0.read_line(&mut head).expect("an answer") > 0, "closed after {head:?}");
        }
        let length = head.lines().find_map(|line| line.strip_prefix("content-length: ")).expect("a length");
        let mut body = vec![0; length.parse().expect("a number")];
        self.0.read_exact(&mut body).expect("a body");
        (head, String::from_utf8(body).expect("text"))
    }

    /// Whether the server keeps it for so long, and says nothing.
    pub(crate) fn stays(&self, time: Duration) -> bool {
        let stream = self.0.get_ref();
        stream.set_read_timeout(Some(time)).expect("a limit");
        let seen = uninterrupted(|| stream.peek(&mut [0]));
        stream.set_read_timeout(Some(Duration::from_secs(20))).expect("a limit");
        seen.is_err_and(|error| error.kind() == ErrorKind::WouldBlock)
    }

    pub(crate) fn wait_for_the_end(mut self) {
        assert_eq!(uninterrupted(|| self.0.read(&mut [0])).expect("an orderly end"), 0);
    }
}

fn workers(status: &Value) -> &[Value] {
    status["workers"].as_array().map_or(&[], Vec::as_slice)
}

/// Scales to one worker and waits until only the other ones' connections keep them.
fn retire_the_others(server: &Server) {
    assert!(server.command(&["scale", "1"]).status.success());
    server.wait_until("a worker that drains", |status| {
        workers(status).len() == 2 && workers(status)[1]["state"] == "draining"
    });
}

#[test]
fn an_idle_connection_outlives_the_retirement_of_its_worker_until_its_next_answer() {
    let server = fixture().workers(2).start();
    let mut idle = Idle::on(&server, 1);
    retire_the_others(&server);
    assert!(idle.stays(BEYOND_THE_GRACE), "it was closed");
    let (head, body) = idle.ask();
    assert!(body.starts_with("1 "), "its own worker answers: {body}");
    assert!(head.contains("connection: close\r\n"), "{head}");
    idle.wait_for_the_end();
    server.wait_until("the end of its worker", |status| workers(status).len() == 1);
    assert!(!server.log().contains("are cut"));
    server.stop();
}

#[test]
fn a_connection_that_stays_idle_is_cut_at_the_drain_limit_and_counted() {
    let server = fixture().workers(2).configuration("[timeouts]\ndrain = 3\n").start();
    let idle = Idle::on(&server, 1);
    retire_the_others(&server);
    assert!(idle.stays(BEYOND_THE_GRACE - Duration::from_secs(1)), "it was closed before the limit");
    idle.wait_for_the_end();
    server.wait_for_log("drained for 3 s: 1 connection is cut");
    server.wait_until("the end of its worker", |status| workers(status).len() == 1);
    server.stop();
}

#[test]
fn a_worker_that_gets_term_does_not_wait_for_idle_connections() {
    let server = fixture().workers(2).start();
    let idle = Idle::on(&server, 1);
    let asked = Instant::now();
    server.signal(server.workers()[1], SIGTERM);
    server.wait_for_log("SIGTERM: draining");
    idle.wait_for_the_end();
    server.wait_until("its successor", |status| workers(status)[1]["restarts"] == 1);
    assert!(asked.elapsed() < SOON, "{} ms", asked.elapsed().as_millis());
    server.stop();
}

#[test]
fn a_stop_does_not_wait_for_idle_connections_of_whomever() {
    let mut server = fixture().workers(2).start();
    let (retired, serving) = (Idle::on(&server, 1), Idle::on(&server, 0));
    retire_the_others(&server);
    let asked = Instant::now();
    server.signal(server.pid(), SIGTERM);
    assert!(server.wait().success());
    assert!(asked.elapsed() < SOON, "{} ms", asked.elapsed().as_millis());
    assert!(!server.log().contains("are cut"), "they had their grace");
    retired.wait_for_the_end();
    serving.wait_for_the_end();
}

#[test]
fn a_retired_worker_whose_master_dies_does_not_wait_for_idle_connections() {
    let mut server = fixture().workers(2).start();
    let retired = Idle::on(&server, 1);
    retire_the_others(&server);
    let killed = Instant::now();
    server.signal(server.pid(), SIGKILL);
    server.wait();
    server.wait_for("the end of all processes", || server.processes().is_empty().then_some(()));
    assert!(killed.elapsed() < SOON, "{} ms", killed.elapsed().as_millis());
    assert_eq!(server.log().matches("the master is gone: draining").count(), 2, "each worker says so, once");
    retired.wait_for_the_end();
}

/// A process that goes on after a stop learns first that its time is over, and then what has come
/// meanwhile: epoll_wait(2) returns EINTR.
#[test]
fn a_request_that_lies_unread_when_the_grace_ends_is_answered() {
    let server = fixture().workers(2).start();
    let (mut idle, pid) = server.wait_for("a worker that stands still within its grace", || {
        let idle = Idle::on(&server, 1);
        let pid = server.workers()[1];
        let drains = || server.log().matches("SIGTERM: draining").count();
        let before = drains();
        server.signal(pid, SIGTERM);
        server.wait_for("its drain", || (drains() > before).then_some(()));
        pause(&server, pid);
        // A machine that was busy for so long has let the grace pass.
        let is_open = idle.stays(Duration::from_millis(1));
        if !is_open {
            server.signal(pid, SIGCONT);
        }
        is_open.then_some((idle, pid))
    });
    idle.send(REQUEST);
    std::thread::sleep(BEYOND_THE_GRACE);
    server.signal(pid, SIGCONT);
    let (head, body) = idle.hear();
    assert!(body.starts_with("1 ") && head.contains("connection: close\r\n"), "{head}{body}");
    idle.wait_for_the_end();
    server.stop();
}

#[test]
fn a_request_that_is_on_its_way_when_the_grace_ends_is_answered() {
    let server = fixture().workers(2).start();
    let mut idle = Idle::on(&server, 1);
    server.signal(server.workers()[1], SIGTERM);
    server.wait_for_log("SIGTERM: draining");
    // Each piece well within the grace, all of them beyond it.
    let pieces = REQUEST.chunks(2);
    let hesitation = BEYOND_THE_GRACE / u32::try_from(pieces.len()).expect("a small number");
    for piece in pieces {
        std::thread::sleep(hesitation);
        idle.send(piece);
    }
    let (head, body) = idle.hear();
    assert!(body.starts_with("1 ") && head.contains("connection: close\r\n"), "{head}{body}");
    idle.wait_for_the_end();
    server.stop();
}

/// HTTP/2 can say that no more is taken while nothing is asked.
#[test]
fn an_idle_connection_of_http2_is_told_at_once() {
    const GOAWAY: u8 = 7;
    let server = fixture().workers(1).start();
    let mut stream = connect(server.address());
    // Empty SETTINGS, and HEADERS: GET http://test/ from HPACK's static table (RFC 7541, appendix A).
    let settings = [0, 0, 0, 4, 0, 0, 0, 0, 0];
    let headers = *b"\x00\x00\x09\x01\x05\x00\x00\x00\x01\x82\x84\x86\x41\x04test";
    stream.write_all(b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n").expect("send");
    stream.write_all(&[&settings[..], &headers].concat()).expect("send");
    let mut frame = || {
        let mut head = [0; 9];
        stream.read_exact(&mut head).expect("a frame");
        let mut payload = vec![0; usize::from(head[1]) * 256 + usize::from(head[2])];
        stream.read_exact(&mut payload).expect("its payload");
        head
    };
    // The end of the answer: DATA with END_STREAM.
    while !matches!(frame(), [_, _, _, 0, 1, ..]) {}
    server.signal(server.workers()[0], SIGTERM);
    while frame()[3] != GOAWAY {}
    // It waits for an answer to its PING now, or for this.
    drop(stream);
    server.stop();
}

#[test]
fn scaling_up_and_down_loses_nothing() {
    let server = fixture().workers(1).start();
    let traffic = Traffic::start(server.address(), &[(&FRESH, 2), (&KEPT, 3), (&SLOW, 2), (&IDLE, 2)]);
    for _ in 0..20 {
        for count in [3, 1] {
            assert!(server.command(&["scale", &count.to_string()]).status.success());
            server.wait_until("the workers wanted", |status| {
                workers(status).iter().filter(|worker| worker["state"] == "serving").count() == count
            });
            let before = traffic.ended();
            server.wait_for("a request of each client", || {
                traffic.ended().iter().zip(&before).all(|(now, before)| now > before).then_some(())
            });
        }
    }
    let tallies = traffic.finish();
    for (client, tally) in &tallies {
        println!("{client}: {tally:?}");
        assert!(tally.lost.is_empty() && tally.closed_idle == 0 && tally.answered > 0, "{client}: {tally:?}");
        assert!(tally.longest < SOON, "{client}: {tally:?}");
    }
    for kind in ["kept", "slow", "idle"] {
        let told = tallies.iter().any(|(client, tally)| *client == kind && tally.told > 0);
        assert!(told, "no {kind} connection was on a worker that retired");
    }
    server.stop();
}
