//! What waits for its turn: a reload behind another one, clients at an address that goes.

use std::fs;
use std::io::{Read, Write};
use std::net::{SocketAddr, TcpListener, TcpStream};

use forebay::testing::Server;
use nix::libc::{SIGCONT, SIGHUP, SIGSTOP};

use crate::client::{connect, example};
use crate::reload::{Releases, commit, configure, reloads};

#[test]
fn a_reload_behind_one_that_rolls_back_keeps_what_it_was_prepared_with() {
    let releases = Releases::new();
    let server = releases.serve().workers(1).configuration("[timeouts]\nstable = 0.05\nready = 1\n").start();
    fs::write(releases.fault(), "never").expect("write");
    server.signal(server.pid(), SIGHUP);
    server.wait_for_log("reload 1 generation 2: zygote loaded");
    server.signal(server.pid(), SIGHUP);
    server.wait_for("the second", || (reloads(&server)["asked"] == 2).then_some(()));
    fs::write(releases.fault(), "").expect("write");
    let json = server.wait_for("both results", || Some(reloads(&server)).filter(|json| json["finished"] == 2));
    assert_eq!((&json["last"]["generation"], &json["last"]["outcome"]), (&3.into(), &"committed".into()), "{json}");
    server.wait_for_log("reload 1 generation 2: rolled back");
    assert!(!server.log().contains("is gone"), "{}", server.log());
    server.stop();
}

#[test]
fn all_that_queue_at_an_address_that_goes_are_answered() {
    let taken = TcpListener::bind("127.0.0.1:0").expect("a port");
    let goes = taken.local_addr().expect("an address");
    drop(taken);
    let text = "[timeouts]\nstable = 0.05\n";
    let both = format!("{text}[listener.goes]\naddress = \"{goes}\"\n");
    let server = Server::of(example("fixture")).workers(1).configuration(&both).start();
    let worker = server.workers()[0];
    server.signal(worker, SIGSTOP);
    let queued: Vec<TcpStream> = (0..400).map(|_| asked(goes)).collect();
    configure(&server, text);
    commit(&server);
    server.signal(worker, SIGCONT);
    let answered = queued.into_iter().filter_map(answer).filter(|answer| answer.starts_with("HTTP/1.1 200")).count();
    assert_eq!(answered, 400);
    server.stop();
}

/// A client that has sent its request.
fn asked(address: SocketAddr) -> TcpStream {
    let mut stream = connect(address);
    stream.write_all(b"GET / HTTP/1.1\r\nHost: test\r\nConnection: close\r\n\r\n").expect("send");
    stream
}

/// What it is answered. `None`: the connection was lost.
fn answer(mut stream: TcpStream) -> Option<String> {
    let mut answer = String::new();
    stream.read_to_string(&mut answer).is_ok().then_some(answer)
}
