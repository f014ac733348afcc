//! TLS sessions that are taken up again: by any worker, of any generation, of this daemon and no other.

use std::fs;
use std::net::SocketAddr;
use std::path::{Path, PathBuf};

use nix::libc::SIGCONT;

use crate::hangs::pause;
use crate::https::{Certificates, address, fixture, openssl, said};
use crate::reload::{commit, is_alone};

const ASKING: &[u8] = b"GET / HTTP/1.1\r\nHost: one.test\r\nConnection: close\r\n\r\n";

/// Both versions, as openssl(1) takes and shows them.
const VERSIONS: [(&str, &str); 2] = [("-tls1_3", "TLSv1.3"), ("-tls1_2", "TLSv1.2")];

/// A client of one version, with the session that it keeps.
struct Client {
    version: (&'static str, &'static str),
    kept: PathBuf,
}

impl Client {
    /// One for each version, in this directory.
    fn both(directory: &Path) -> [Self; 2] {
        VERSIONS.map(|version| Self { version, kept: directory.join(version.1) })
    }

    /// Connects with what it keeps, if anything, keeps the new session, and returns whether the old one was taken up
    /// and which worker has answered.
    fn ask(&self, address: SocketAddr) -> (bool, u32) {
        let (flag, shown) = self.version;
        let kept = self.kept.to_str().expect("text");
        let mut words = vec![flag, "-servername", "one.test", "-sess_out", kept];
        if self.kept.exists() {
            words.extend(["-sess_in", kept]);
        }
        let output = openssl(address, &words, ASKING);
        let text = said(&output);
        let is_reused = text.contains(&format!("Reused, {shown}"));
        assert!(is_reused || text.contains(&format!("New, {shown}")), "{text}");
        assert!(!text.contains("unexpected eof"), "close_notify comes first: {text}");
        let body = text.lines().find_map(|line| line.split_once(' ').filter(|(slot, _)| slot.parse::<u16>().is_ok()));
        // What openssl(1) says next follows it directly.
        let pid = body.and_then(|(_, rest)| rest.split(|letter: char| !letter.is_ascii_digit()).next()?.parse().ok());
        (is_reused, pid.unwrap_or_else(|| panic!("no worker's answer: {text}")))
    }
}

#[test]
fn a_session_is_taken_up_by_every_worker() {
    let certificates = Certificates::of(&["one.test"]);
    let server = fixture(&certificates.listener(&["one.test"])).workers(4).start();
    let (address, workers) = (address(&server), server.workers());
    for client in Client::both(server.directory()) {
        assert!(!client.ask(address).0, "there is none yet");
        for _ in 0..2 {
            for worker in &workers {
                let others = || workers.iter().filter(|other| *other != worker);
                others().for_each(|other| pause(&server, *other));
                let asked = client.ask(address);
                others().for_each(|other| server.signal(*other, SIGCONT));
                assert_eq!(asked, (true, *worker), "{}", client.version.1);
            }
        }
    }
    server.stop();
}

#[test]
fn a_session_is_taken_up_after_reloads_and_not_after_a_restart() {
    let certificates = Certificates::of(&["one.test"]);
    let configuration = certificates.listener(&["one.test"]);
    let server = fixture(&configuration).start();
    let first = address(&server);
    let clients = Client::both(certificates.path("").as_path());
    for client in &clients {
        assert!(!client.ask(first).0, "there is none yet");
    }
    for _ in 0..2 {
        let before = server.workers();
        commit(&server);
        server.wait_until("one generation", is_alone);
        for client in &clients {
            let (is_reused, worker) = client.ask(first);
            assert!(is_reused && !before.contains(&worker), "{}", client.version.1);
        }
    }
    server.stop();
    let again = fixture(&configuration.replace("127.0.0.1:0", &first.to_string())).start();
    for client in &clients {
        assert!(!client.ask(first).0, "its keys are others");
        assert!(client.ask(first).0, "and a new session is as good");
    }
    again.stop();
}

#[test]
fn a_session_of_one_listener_is_none_of_another() {
    let certificates = Certificates::of(&["one.test"]);
    let secure = certificates.listener(&["one.test"]);
    let server = fixture(&format!("{secure}{}", secure.replace("listener.secure", "listener.other"))).start();
    for client in Client::both(server.directory()) {
        assert!(!client.ask(address(&server)).0, "there is none yet");
        let before = fs::read(&client.kept).expect("it is kept");
        assert!(!client.ask(crate::listeners::address_of(&server, "other")).0);
        fs::write(&client.kept, before).expect("write");
        assert!(client.ask(address(&server)).0);
    }
    server.stop();
}

#[test]
fn no_process_but_the_master_can_write_the_keys() {
    let certificates = Certificates::of(&["one.test"]);
    let server = fixture(&certificates.listener(&["one.test"])).start();
    let mapped = |pid: u32| -> Vec<String> {
        let maps = fs::read_to_string(format!("/proc/{pid}/maps")).expect("it lives");
        let ours = maps.lines().filter(|line| line.contains("/memfd:ticket keys"));
        ours.filter_map(|line| line.split(' ').nth(1)).map(str::to_owned).collect()
    };
    assert_eq!(mapped(server.pid()), ["rw-s"]);
    for (pid, title) in server.processes() {
        if server.workers().contains(&pid) {
            assert_eq!(mapped(pid), ["r--s"], "{title}");
        } else if pid != server.pid() {
            assert!(mapped(pid).is_empty(), "{title}");
        }
    }
    // And a log helper that is forked later.
    let log = server.helper("log");
    server.signal(log, nix::libc::SIGKILL);
    server.wait_until("a new one", |status| {
        let mut helpers = status["helpers"].as_array().expect("helpers").iter();
        helpers.any(|helper| helper["name"] == "log" && helper["state"] == "serving" && helper["pid"] != log)
    });
    assert!(mapped(server.helper("log")).is_empty());
    server.stop();
}
