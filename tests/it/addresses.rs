//! Listeners over reloads: addresses that go and come back, are widened, or are not reachable any more.

use std::fs;
use std::io::{Read, Write};
use std::net::{SocketAddr, TcpListener};
use std::os::unix::fs::{MetadataExt, PermissionsExt};
use std::os::unix::net::{UnixListener, UnixStream};
use std::path::Path;

use forebay::testing::{Builder, Server};

use crate::client::{example, get};
use crate::reload::{SHORT, commit, configure, roll_back};

fn fixture() -> Builder {
    Server::of(example("fixture")).configuration(SHORT)
}

/// A configuration with one more listener.
fn with(address: &str, more: &str) -> String {
    format!("{SHORT}[listener.more]\naddress = \"{address}\"\n{more}\n")
}

fn free_address() -> SocketAddr {
    TcpListener::bind("127.0.0.1:0").and_then(|listener| listener.local_addr()).expect("a port")
}

/// Whether someone answers on a Unix socket.
fn is_served(path: &Path) -> bool {
    let Ok(mut stream) = UnixStream::connect(path) else { return false };
    stream.write_all(b"GET / HTTP/1.0\r\n\r\n").expect("ask");
    let mut answer = String::new();
    stream.read_to_string(&mut answer).is_ok() && answer.starts_with("HTTP/1.0 200")
}

#[test]
fn an_address_that_has_just_gone_comes_back() {
    let address = free_address();
    let server = fixture().start();
    for _ in 0..3 {
        configure(&server, &with(&address.to_string(), ""));
        commit(&server);
        assert_eq!(get(address, "/").expect("an answer").status, 200);
        configure(&server, SHORT);
        commit(&server);
    }
    server.wait_for("its end", || get(address, "/").is_err().then_some(()));
    server.stop();
}

#[test]
fn what_is_in_the_way_of_a_wider_address_is_named_with_the_way_out() {
    let address = free_address();
    let wide = format!("0.0.0.0:{}", address.port());
    let server = fixture().configuration(&with(&address.to_string(), "")).start();
    configure(&server, &with(&wide, ""));
    let reason = roll_back(&server);
    assert!(reason.contains(&format!("cannot listen on {wide}: Address already in use")), "{reason}");
    assert!(reason.contains(&format!("{address} of this daemon's own is in the way: leave it out")), "{reason}");
    assert_eq!(get(address, "/").expect("an answer").status, 200);
    // The way out, without a pause.
    configure(&server, SHORT);
    commit(&server);
    configure(&server, &with(&wide, ""));
    commit(&server);
    assert_eq!(get(address, "/").expect("an answer").status, 200);
    server.stop();
}

#[test]
fn a_socket_that_has_lost_its_name_gets_it_back_or_the_reload_says_why_not() {
    let scratch = tempfile::tempdir().expect("a directory");
    let path = scratch.path().join("app.sock");
    let server = fixture().configuration(&with(&format!("unix:{}", path.display()), "")).start();
    assert!(is_served(&path));
    fs::remove_file(&path).expect("it is there");
    commit(&server);
    server.wait_for_log("its name is gone, or another's: listening there anew");
    assert!(is_served(&path));
    // Another process has taken its place.
    fs::remove_file(&path).expect("it is there");
    let other = UnixListener::bind(&path).expect("the place is free");
    assert!(roll_back(&server).contains("another process listens there"));
    // And has gone, and left the name behind.
    drop(other);
    commit(&server);
    assert!(is_served(&path));
    server.stop();
    assert!(!path.exists());
}

#[test]
fn an_owner_that_cannot_be_given_is_no_reload_and_a_mode_counts_from_the_commit_on() {
    let scratch = tempfile::tempdir().expect("a directory");
    let path = scratch.path().join("app.sock");
    let address = format!("unix:{}", path.display());
    let server = fixture().configuration(&with(&address, "mode = \"0600\""));
    let is_root = nix::unistd::geteuid().is_root();
    let (server, owner) = match is_root {
        true => (server.under(&["setpriv", "--bounding-set=-chown", "--inh-caps=-chown", "--"]), "nobody"),
        false => (server, "root"),
    };
    let server = server.start();
    let before = fs::metadata(&path).expect("it is there");
    configure(&server, &with(&address, &format!("mode = \"0666\"\nowner = \"{owner}\"")));
    assert!(roll_back(&server).contains(&format!("cannot change {address}: Operation not permitted")));
    let after = fs::metadata(&path).expect("it is there");
    assert_eq!((after.permissions().mode(), after.uid()), (before.permissions().mode(), before.uid()));
    configure(&server, &with(&address, "mode = \"0666\""));
    commit(&server);
    assert_eq!(fs::metadata(&path).expect("it is there").permissions().mode() & 0o777, 0o666);
    assert!(is_served(&path));
    server.stop();
}
