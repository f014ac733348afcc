//! nginx and haproxy in front, with connections to the daemon that they keep.

use std::fs;
use std::io::{Read, Write};
use std::net::{SocketAddr, TcpStream};
use std::process::Command;

use forebay::testing::Server;
use nix::sys::signal::Signal;
use tempfile::TempDir;

use super::{Program, beside, free_address, text};
use crate::client::{connect, example};
use crate::listeners::address_of;
use crate::reload::{SHORT, commit};
use crate::traffic::{FRESH, KEPT, Traffic};

/// A proxy, and where it listens.
struct Front {
    program: Program,
    directory: TempDir,
    /// For HTTP.
    address: SocketAddr,
    /// For what it passes on as it comes, with a header of this version before it.
    first: SocketAddr,
    second: SocketAddr,
}

impl Front {
    fn nginx(server: &Server) -> Self {
        Self::start(server, "nginx.conf", |directory| {
            let mut nginx = Command::new("nginx");
            nginx.args(["-e", "stderr", "-p"]).arg(directory.path()).arg("-c").arg(directory.path().join("nginx.conf"));
            nginx
        })
    }

    fn haproxy(server: &Server) -> Self {
        Self::start(server, "haproxy.cfg", |directory| {
            let mut haproxy = Command::new("haproxy");
            haproxy.args(["-db", "-f"]).arg(directory.path().join("haproxy.cfg"));
            haproxy
        })
    }

    fn start(server: &Server, file: &str, command: impl FnOnce(&TempDir) -> Command) -> Self {
        let directory = tempfile::tempdir().expect("a directory");
        let [address, first, second] = [free_address(), free_address(), free_address()];
        let proxied = proxied(server).unwrap_or(server.address());
        let places = [
            ("BACKEND", server.address()),
            ("PROXIED", proxied),
            ("FRONT", address),
            ("FIRST", first),
            ("SECOND", second),
        ];
        let template = fs::read_to_string(beside(file)).expect("a template");
        let said = places.iter().fold(template, |said, (name, address)| said.replace(name, &address.to_string()));
        fs::write(directory.path().join(file), said).expect("write");
        let mut front = Self { program: Program::start(&mut command(&directory)), directory, address, first, second };
        server.wait_for("the proxy", || {
            assert!(front.program.is_running(), "{file}");
            [address, first].iter().all(|address| TcpStream::connect(address).is_ok()).then_some(())
        });
        front
    }

    /// Ends it; returns what it has said.
    fn stop(mut self) -> String {
        self.program.signal(Signal::SIGTERM);
        let said = text(&self.program.finish());
        self.directory.close().expect("remove");
        said
    }
}

/// Where the server wants a header of the PROXY protocol, if anywhere.
fn proxied(server: &Server) -> Option<SocketAddr> {
    let status = server.status();
    let is_there = status["listeners"].as_array().expect("listeners").iter().any(|one| one["name"] == "proxied");
    is_there.then(|| address_of(server, "proxied"))
}

fn lasting() -> Server {
    let proxied = "[listener.proxied]\naddress = \"127.0.0.1:0\"\nproxy_protocol = true\n";
    Server::of(example("lasting")).configuration(&format!("{SHORT}{proxied}")).start()
}

/// A connection that has sent this.
fn asking(address: SocketAddr, request: &str) -> TcpStream {
    let mut stream = connect(address);
    stream.write_all(request.as_bytes()).expect("send");
    stream
}

fn loses_nothing(front: fn(&Server) -> Front) {
    let server = Server::of(example("fixture")).configuration("[timeouts]\nstable = 0.2\n").start();
    let front = front(&server);
    let traffic = Traffic::start(front.address, &[(&KEPT, 4), (&FRESH, 2)]);
    for _ in 0..5 {
        commit(&server);
    }
    for (name, tally) in traffic.finish() {
        assert!(tally.lost.is_empty(), "{name}: {:?}", tally.losses);
        assert!(tally.answered > 50, "{name}: {}", tally.answered);
    }
    let said = front.stop();
    assert!(!said.contains("upstream"), "{said}");
    server.stop();
}

#[test]
fn nothing_is_lost_behind_nginx_over_reloads() {
    loses_nothing(Front::nginx);
}

#[test]
fn nothing_is_lost_behind_haproxy_over_reloads() {
    loses_nothing(Front::haproxy);
}

#[test]
fn what_a_proxy_says_of_a_client_is_left_as_it_is() {
    let server = lasting();
    let request = "GET /said HTTP/1.1\r\nHost: a\r\nX-Forwarded-For: 198.51.100.9\r\nConnection: close\r\n\r\n";
    for (front, forwarded) in
        [(Front::nginx as fn(&Server) -> Front, "198.51.100.9, 127.0.0.1"), (Front::haproxy, "198.51.100.9; 127.0.0.1")]
    {
        let front = front(&server);
        let mut answer = String::new();
        asking(front.address, request).read_to_string(&mut answer).expect("an answer");
        assert!(answer.contains(&format!(" for {forwarded} at ")), "{answer}");
        front.stop();
    }
    server.stop();
}

#[test]
fn events_pass_nginx_one_by_one_and_end_in_order_with_their_worker() {
    let server = lasting();
    let front = Front::nginx(&server);
    let mut stream = asking(front.address, "GET /events HTTP/1.1\r\nHost: a\r\nConnection: close\r\n\r\n");
    let (mut said, mut bytes) = (String::new(), [0; 4096]);
    while said.matches("data:").count() < 5 {
        let len = stream.read(&mut bytes).expect("events");
        assert!(len > 0, "{said}");
        said.push_str(&String::from_utf8_lossy(&bytes[..len]));
    }
    commit(&server);
    stream.read_to_string(&mut said).expect("the end");
    assert!(said.ends_with("\r\n0\r\n\r\n"), "{said}");
    assert!(!front.stop().contains("upstream"), "it has found nothing wrong");
    server.stop();
}

#[test]
fn the_header_that_a_proxy_sends_names_the_client() {
    let server = lasting();
    let request = "GET /said HTTP/1.1\r\nHost: a\r\nConnection: close\r\n\r\n";
    let (nginx, haproxy) = (Front::nginx(&server), Front::haproxy(&server));
    let is_named = |address: SocketAddr| {
        let mut stream = asking(address, request);
        let client = stream.local_addr().expect("an address");
        let mut answer = String::new();
        stream.read_to_string(&mut answer).expect("an answer");
        assert!(answer.contains(&format!(" of {client} for - at a")), "{client}: {answer}");
    };
    for address in [nginx.first, haproxy.first, haproxy.second] {
        is_named(address);
    }
    server.stop();
}
