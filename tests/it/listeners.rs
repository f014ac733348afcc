//! Listening sockets over reloads: one that goes answers whom it has taken.

use std::fs;
use std::io::{ErrorKind, Read, Write};
use std::net::{SocketAddr, TcpStream};
use std::time::Duration;

use forebay::testing::{Builder, Server};
use nix::libc::{SIGCONT, SIGHUP};

use crate::client::{example, get};
use crate::hangs::pause;
use crate::reload::{SHORT, commit, configure, is_alone};

fn fixture() -> Builder {
    Server::of(example("fixture"))
}

/// Clients in the queue of the address that goes.
const QUEUED: usize = 20;

/// Clients that the kernel has connected to an address that no generation listens on any more.
struct Queue {
    address: SocketAddr,
    /// The workers that may still take them; they stand still, as their master does.
    workers: Vec<u32>,
    clients: Vec<TcpStream>,
}

impl Queue {
    /// Removes an address that has a queue, and has the master stand still before it closes that.
    ///
    /// `None`: this machine was too busy to be in time. All go on then.
    fn leave(server: &Server) -> Option<Self> {
        configure(server, &format!("{SHORT}[listener.leaving]\naddress = \"127.0.0.1:0\"\n"));
        commit(server);
        server.wait_until("one generation", is_alone);
        let (address, workers) = (address_of(server, "leaving"), server.workers());
        workers.iter().for_each(|&worker| pause(server, worker));
        let mut clients: Vec<TcpStream> = (0..QUEUED).map(|_| asking(address).expect("a queue")).collect();
        configure(server, SHORT);
        let is_over = |server: &Server| server.log().matches(": committed").count();
        let before = is_over(server);
        server.signal(server.pid(), SIGHUP);
        // The line is written after the turn in which the old workers are told to drain.
        server.wait_for("the commit", || (is_over(server) > before).then_some(()));
        pause(server, server.pid());
        // One more: who is refused has come too late.
        match asking(address) {
            Ok(last) => clients.push(last),
            Err(_) => {
                workers.iter().chain([&server.pid()]).for_each(|&pid| server.signal(pid, SIGCONT));
                return None;
            }
        }
        Some(Self { address, workers, clients })
    }
}

fn address_of(server: &Server, name: &str) -> SocketAddr {
    let status = server.status();
    let mut listeners = status["listeners"].as_array().expect("listeners").iter();
    let found = listeners.find(|listener| listener["name"] == name).expect("a listener of this name");
    found["address"].as_str().expect("text").parse().expect("an address")
}

/// A client that has sent its request.
fn asking(address: SocketAddr) -> std::io::Result<TcpStream> {
    let mut stream = TcpStream::connect(address)?;
    stream.set_read_timeout(Some(Duration::from_secs(20)))?;
    stream.write_all(b"GET / HTTP/1.1\r\nHost: test\r\nConnection: close\r\n\r\n")?;
    Ok(stream)
}

fn answers(clients: Vec<TcpStream>) -> Vec<String> {
    let answer = |mut client: TcpStream| {
        let mut answer = String::new();
        client.read_to_string(&mut answer).expect("an answer to its end");
        assert!(answer.starts_with("HTTP/1.1 200"), "{answer:?}");
        answer
    };
    clients.into_iter().map(answer).collect()
}

fn is_refused(address: SocketAddr) -> bool {
    TcpStream::connect(address).is_err_and(|error| error.kind() == ErrorKind::ConnectionRefused)
}

#[test]
fn an_address_that_goes_answers_whom_the_kernel_had_taken() {
    let server = fixture().start();
    let Queue { address, workers, clients } = server.wait_for("a queue that is left in time", || Queue::leave(&server));
    workers.iter().for_each(|&worker| server.signal(worker, SIGCONT));
    for answer in answers(clients) {
        let body = answer.rsplit("\r\n").next().expect("a body");
        assert!(workers.iter().any(|worker| body.ends_with(&format!(" {worker}"))), "{answer}");
    }
    server.signal(server.pid(), SIGCONT);
    server.wait_for("an address that nobody has", || is_refused(address).then_some(()));
    server.wait_until("one generation", is_alone);
    assert_eq!(get(server.address(), "/").expect("an answer").status, 200);
    server.stop();
}

#[test]
fn an_address_that_goes_is_closed_whoever_keeps_a_copy_of_it() {
    let server = fixture().start();
    let Queue { address, workers, clients } = server.wait_for("a queue that is left in time", || Queue::leave(&server));
    let [busy, stuck] = workers[..] else { panic!("two workers: {workers:?}") };
    server.signal(busy, SIGCONT);
    assert_eq!(answers(clients).len(), QUEUED + 1, "by the one that goes on");
    server.signal(server.pid(), SIGCONT);
    server.wait_for("an address that nobody has", || is_refused(address).then_some(()));
    let stat = fs::read_to_string(format!("/proc/{stuck}/stat")).expect("it has its copy still");
    assert!(stat.contains(") T "), "{stat}");
    server.signal(stuck, SIGCONT);
    server.wait_until("one generation", is_alone);
    server.stop();
}
