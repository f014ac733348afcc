//! What a listener's options become: of its socket, of the connections that are accepted there, over reloads.

use std::io::Write;
use std::net::{SocketAddr, TcpListener, TcpStream};
use std::path::Path;
use std::process::Command;

use forebay::testing::{Builder, Server};
use serde_json::{Value, json};

use crate::client::{example, get};
use crate::listeners::address_of;
use crate::places::refused;
use crate::reload::{SHORT, commit, configure, roll_back};

fn fixture() -> Builder {
    Server::of(example("fixture")).workers(1)
}

fn with(address: &str, more: &str) -> String {
    format!("{SHORT}[listener.more]\naddress = \"{address}\"\n{more}\n")
}

/// The options of a process's sockets at this port: of the one that listens, and of connections.
fn options(pid: u32, port: u16) -> (Value, Vec<Value>) {
    let script = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/it/options.py");
    let output = Command::new("python3").arg(script).args([pid.to_string(), port.to_string()]).output();
    let output = output.expect("python3 starts");
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    let all: Vec<Value> = serde_json::from_slice(&output.stdout).expect("JSON");
    let (mut listening, connections): (Vec<Value>, _) = all.into_iter().partition(|one| one["listens"] == true);
    (listening.pop().expect("it listens there"), connections)
}

/// A connection that has been answered, and so is a worker's.
fn connection(address: SocketAddr) -> TcpStream {
    let mut stream = TcpStream::connect(address).expect("connect");
    stream.write_all(b"GET / HTTP/1.1\r\nHost: a\r\n\r\n").expect("send");
    assert!(std::io::Read::read(&mut stream, &mut [0; 1000]).expect("an answer") > 0);
    stream
}

const ALL: &str = "tcp_nodelay = false\ntcp_keepalive = 33\ntcp_defer_accept = 1\ntcp_user_timeout = 7.5\n\
                   tcp_fastopen = 16\n";

#[test]
fn options_are_the_sockets_and_those_of_its_connections() {
    let server = fixture().configuration(&with("127.0.0.1:0", ALL)).start();
    for (name, of_both, fastopen, defer_accept) in [
        ("http", json!({"nodelay": true, "keepalive": 60, "user_timeout_ms": 0, "v6_only": false}), 0, 0),
        ("more", json!({"nodelay": false, "keepalive": 33, "user_timeout_ms": 7500, "v6_only": false}), 16, 1),
    ] {
        let address = address_of(&server, name);
        let _connection = connection(address);
        let (socket, connections) = options(server.workers()[0], address.port());
        for one in [&socket, &connections[0]] {
            of_both
                .as_object()
                .expect("an object")
                .iter()
                .for_each(|(key, value)| assert_eq!(one[key], *value, "{key}"));
        }
        assert_eq!((&socket["fastopen"], &socket["defer_accept"]), (&json!(fastopen), &json!(defer_accept)), "{name}");
        assert_eq!(connections.len(), 1, "{name}");
        assert_eq!(options(server.pid(), address.port()).0, socket, "the master's is the same");
    }
    server.stop();
}

#[test]
fn options_count_anew_from_the_commit_on_and_not_before() {
    let address = TcpListener::bind("127.0.0.1:0").and_then(|listener| listener.local_addr()).expect("a port");
    let text = |more: &str| with(&address.to_string(), more);
    let fault = tempfile::NamedTempFile::new().expect("a file");
    let server =
        fixture().configuration(&text("")).variable("FIXTURE", format!("as {}", fault.path().display())).start();
    let seen = || options(server.pid(), address.port()).0;
    let before = seen();
    configure(&server, &text(ALL));
    std::fs::write(fault.path(), "refuse").expect("write");
    assert!(roll_back(&server).contains("no database"));
    assert_eq!(seen(), before);
    std::fs::write(fault.path(), "").expect("write");
    commit(&server);
    let values = |seen: &Value| {
        ["nodelay", "keepalive", "defer_accept", "user_timeout_ms", "fastopen"].map(|key| seen[key].clone())
    };
    assert_eq!(values(&seen()), [json!(false), json!(33), json!(1), json!(7500), json!(16)]);
    let _connection = connection(address);
    assert_eq!(options(server.workers()[0], address.port()).1[0]["keepalive"], 33);
    configure(&server, &text(""));
    commit(&server);
    assert_eq!(seen(), before);
    server.stop();
}

#[test]
fn the_widest_address_takes_both_families_unless_it_is_told_not_to() {
    let port = TcpListener::bind("[::]:0").and_then(|listener| listener.local_addr()).expect("a port").port();
    let (six, four) = (format!("[::]:{port}"), format!("0.0.0.0:{port}"));
    let is_served =
        |address: &str| get(address.parse().expect("an address"), "/").is_ok_and(|answer| answer.status == 200);
    let (of_six, of_four) = (format!("[::1]:{port}"), format!("127.0.0.1:{port}"));
    let server = fixture().configuration(&with(&six, "")).start();
    assert!(is_served(&of_six) && is_served(&of_four));

    // Another start that wants either part, and one of this daemon's own.
    let (code, log) = refused(fixture().configuration(&with(&six, "")));
    assert!(code == Some(71) && log.contains("with `ipv6_only = true` it leaves IPv4 to whoever has that"), "{log}");
    let both = |more: &str| format!("{}[listener.old]\naddress = \"{four}\"\n", with(&six, more));
    configure(&server, &both(""));
    let reason = roll_back(&server);
    assert!(reason.contains(&format!("{six} of this daemon's own is in the way: to have both")), "{reason}");
    assert!(reason.contains(&format!("say `ipv6_only = true` of {six}; else leave it out")), "{reason}");

    // What a socket takes lasts: first it goes, then it comes back as another one.
    configure(&server, &both("ipv6_only = true"));
    let reason = roll_back(&server);
    assert!(reason.contains(&format!("{six} of this daemon's own is in the way: leave it out in one")), "{reason}");
    configure(&server, SHORT);
    commit(&server);
    configure(&server, &both("ipv6_only = true"));
    commit(&server);
    assert!(is_served(&of_six) && is_served(&of_four));
    assert_eq!(options(server.workers()[0], port).0["listens"], true);
    server.stop();
}
