//! Behind a proxy: the header before each connection says who the client is, and without it there is none.

use std::io::{Read, Write};
use std::net::{SocketAddr, TcpStream};
use std::os::unix::net::UnixStream;
use std::path::PathBuf;
use std::time::{Duration, Instant};

use forebay::testing::Server;
use nix::libc::SIGTERM;

use crate::client::{self, example, get};
use crate::farewell::connections;
use crate::listeners::address_of;
use crate::reload::{SHORT, commit};

/// What every header of version 2 begins with.
const SIGNATURE: &[u8] = b"\r\n\r\n\0\r\nQUIT\n";

const REQUEST: &[u8] = b"POST /said HTTP/1.1\r\nHost: a\r\nContent-Length: 5\r\nConnection: close\r\n\r\nhello";

/// A server that listens behind a proxy, over IPv4, IPv6 and a Unix socket, and plainly.
fn start() -> (Server, PathBuf) {
    let directory = tempfile::tempdir().expect("a directory").keep();
    let (socket, access) = (directory.join("socket"), directory.join("access.log"));
    let listener =
        |name: &str, address: &str| format!("[listener.{name}]\naddress = \"{address}\"\nproxy_protocol = true\n");
    let text = [
        format!("{SHORT}[log]\nlevel = \"info,forebay::child::worker::proxy=debug\"\n"),
        format!("[log.access]\npath = \"{}\"\n", access.display()),
        listener("v4", "127.0.0.1:0"),
        listener("v6", "[::1]:0"),
        listener("local", &format!("unix:{}", socket.display())),
    ];
    (Server::of(example("lasting")).configuration(&text.concat()).start(), directory)
}

fn binary(command: u8, family: u8, rest: &[u8]) -> Vec<u8> {
    let len = u16::try_from(rest.len()).expect("short").to_be_bytes();
    [SIGNATURE, &[0x20 | command, family], &len, rest].concat()
}

/// What is answered to these bytes, sent in pieces of such a length.
fn ask(mut stream: impl Read + Write, bytes: &[u8], piece_len: usize) -> String {
    for piece in bytes.chunks(piece_len) {
        // Who is refused may be told before all is said.
        if stream.write_all(piece).is_err() {
            break;
        }
    }
    let mut answer = Vec::new();
    let _ = stream.read_to_end(&mut answer);
    String::from_utf8(answer).expect("text")
}

/// What is sent in pieces goes in pieces.
fn connect(address: SocketAddr) -> TcpStream {
    let stream = client::connect(address);
    stream.set_nodelay(true).expect("set");
    stream
}

#[test]
fn the_client_is_whom_the_header_names() {
    let (server, directory) = start();
    let six = [&[0x20, 1, 0xd, 0xb8][..], &[0; 11], &[9], &[0; 15], &[1, 0x12, 0x67, 0, 80]].concat();
    let four = [192, 0, 2, 7, 10, 0, 0, 1, 0x12, 0x67, 0, 80];
    let host = [&four[..], b"\x02\0\x04host"].concat();
    // `None`: the socket's own.
    let headers: [(&[u8], Option<&str>); 8] = [
        (b"PROXY TCP4 192.0.2.7 10.0.0.1 4711 80\r\n", Some("192.0.2.7:4711")),
        (b"PROXY TCP6 2001:db8::9 ::1 4711 80\r\n", Some("[2001:db8::9]:4711")),
        (b"PROXY UNKNOWN\r\n", None),
        (&binary(1, 0x11, &four), Some("192.0.2.7:4711")),
        (&binary(1, 0x11, &host), Some("192.0.2.7:4711")),
        (&binary(1, 0x21, &six), Some("[2001:db8::9]:4711")),
        (&binary(1, 0x31, &[b'/'; 216]), None),
        (&binary(0, 0, &[]), None),
    ];
    for (header, source) in headers {
        for piece_len in [1, header.len(), header.len() + 7, 4096] {
            let bytes = [header, REQUEST].concat();
            let shown = header.escape_ascii();
            for name in ["v4", "v6"] {
                let stream = connect(address_of(&server, name));
                let peer = source.map_or_else(|| stream.local_addr().expect("an address").to_string(), str::to_owned);
                let answer = ask(stream, &bytes, piece_len);
                assert!(answer.contains(&format!("POST /said HTTP/1.1 of {peer} for - at a: 5")), "{shown}: {answer}");
            }
            let stream = UnixStream::connect(directory.join("socket")).expect("connect");
            let answer = ask(stream, &bytes, piece_len);
            assert!(answer.contains(&format!("of {} for", source.unwrap_or("nobody"))), "{shown}: {answer}");
        }
    }
    let log = || std::fs::read_to_string(directory.join("access.log")).unwrap_or_default();
    server.wait_for("all of the access log", || (log().lines().count() == 8 * 4 * 3).then_some(()));
    let of = |peer: &str| log().lines().filter(|line| line.starts_with(&format!("{peer} - - ["))).count();
    assert_eq!(["192.0.2.7", "2001:db8::9", "127.0.0.1", "::1", "unix"].map(of), [36, 24, 12, 12, 12], "{}", log());
    server.stop();
    std::fs::remove_dir_all(directory).expect("remove");
}

#[test]
fn whoever_has_no_header_is_closed_without_a_word() {
    let (server, directory) = start();
    let four = [192, 0, 2, 7, 10, 0, 0, 1, 0x12, 0x67, 0, 80];
    let wrong_sum = [&four[..], b"\x03\0\x04\0\0\0\0"].concat();
    let cases: [(&[u8], &str); 9] = [
        (b"", "it begins in another way"),
        (b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n", "it begins in another way"),
        (&[0x16, 3, 1, 2, 0, 1, 0, 1, 0xfc, 3, 3, 9, 9, 9, 9, 9], "it begins in another way"),
        (b"PROXY TCP4 192.0.2.7 10.0.0.1 4711 65536\r\n", "port"),
        (&[b"PROXY UNKNOWN ", &[b'x'; 200][..]].concat(), "it is too long"),
        (&binary(1, 0x11, &four[..11]), "address"),
        (&binary(1, 0x11, &wrong_sum), "its checksum is another"),
        (&binary(1, 0x11, &[0; 4081]), "it is too long"),
        (&binary(3, 0x11, &four), "ommand"),
    ];
    for (bytes, why) in cases {
        for piece_len in [1, 4096] {
            let answer = ask(connect(address_of(&server, "v4")), &[bytes, REQUEST].concat(), piece_len);
            assert_eq!(answer, "", "{}", bytes.escape_ascii());
        }
        server.wait_for(why, || refusals(&server).any(|line| line.contains(why)).then_some(()));
    }
    server.wait_for("all refusals", || (refusals(&server).count() == 18).then_some(()));
    assert_eq!(get(server.address(), "/").expect("an answer").status, 200, "where no proxy is expected");
    server.stop();
    std::fs::remove_dir_all(directory).expect("remove");
}

fn refusals(server: &Server) -> impl Iterator<Item = String> {
    let lines: Vec<String> = server.log().lines().map(str::to_owned).collect();
    lines.into_iter().filter(|line| line.contains(" closed, as it has no header of the PROXY protocol: "))
}

#[test]
fn a_silent_client_counts_and_a_worker_that_ends_does_not_wait_for_it() {
    let (server, directory) = start();
    let mut silent = connect(address_of(&server, "v4"));
    let mut slow = connect(address_of(&server, "v6"));
    slow.write_all(b"PROXY TCP4 192.0").expect("send");
    server.wait_until("both connections", |status| connections(status) == 2);
    // It may still speak while others serve on.
    commit(&server);
    slow.write_all(b".2.7 10.0.0.1 4711 80\r\n").expect("send");
    let answer = ask(&slow, REQUEST, 4096);
    assert!(answer.contains("of 192.0.2.7:4711 for - at a: 5"), "{answer}");
    let begun = Instant::now();
    server.signal(server.pid(), SIGTERM);
    assert_eq!(silent.read(&mut [0; 1]).expect("the end"), 0);
    assert!(begun.elapsed() < Duration::from_secs(15), "{:?}", begun.elapsed());
    server.stop();
    std::fs::remove_dir_all(directory).expect("remove");
}
