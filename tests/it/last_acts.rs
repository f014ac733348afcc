//! What an application does last in each replica.

use std::fs::File;
use std::time::{Duration, Instant};

use forebay::testing::{Builder, Server};
use nix::libc::{SIGKILL, SIGTERM};

use crate::client::{example, get};

fn lasting() -> Builder {
    Server::of(example("lasting"))
}

/// Where in the log this stands for the first time.
fn at(server: &Server, text: &str) -> usize {
    let log = server.log();
    log.find(text).unwrap_or_else(|| panic!("{text:?} is in the log"))
}

fn count(server: &Server, text: &str) -> usize {
    server.log().matches(text).count()
}

fn wait_for_nobody(server: &Server) {
    server.wait_for("the end of all processes", || server.processes().is_empty().then_some(()));
}

/// A request in flight that is let go by the file `release`.
fn hold(server: &Server) -> std::thread::JoinHandle<std::io::Result<String>> {
    let path = format!("/hold{}", server.directory().join("release").display());
    let address = server.address();
    let client = std::thread::spawn(move || get(address, &path).map(|answer| answer.body));
    server.wait_until("a request in flight", |status| status["workers"][0]["requests"] == 1);
    client
}

fn let_go(server: &Server, client: std::thread::JoinHandle<std::io::Result<String>>) {
    File::create(server.directory().join("release")).expect("let it go");
    assert_eq!(client.join().expect("a client does not panic").expect("an answer"), "held");
}

#[test]
fn the_last_acts_come_after_the_last_answer_in_their_order() {
    let mut server = lasting().workers(1).start();
    let client = hold(&server);
    server.signal(server.pid(), SIGTERM);
    server.wait_for_log("stopping: finishing open requests");
    assert_eq!(count(&server, "] first act"), 0, "a request is open");
    let_go(&server, client);
    assert!(server.wait().success());
    assert!(at(&server, "let go") < at(&server, "] first act"));
    assert!(at(&server, "] first act") < at(&server, "] last act"));
    assert_eq!(count(&server, "on_stop"), 0, "nothing to complain of");
}

#[test]
fn each_replica_that_retires_has_its_last_acts_and_no_other() {
    let server = lasting().workers(3).start();
    assert!(server.command(&["scale", "1"]).status.success());
    server.wait_for("two that have ended", || (count(&server, "] last act") == 2).then_some(()));
    assert!(server.command(&["reload"]).status.success());
    server.wait_for("all of the old generation", || (count(&server, "] last act") == 3).then_some(()));
    server.stop();
}

#[test]
fn a_last_act_that_fails_or_panics_is_logged_and_hinders_no_other() {
    for (fault, said) in [
        ("fail", "a closure of on_stop failed: the disk is full"),
        ("panic", "a closure of on_stop failed: on_stop panicked"),
    ] {
        let mut server = lasting().workers(1).variable("LASTING", fault).start();
        server.signal(server.pid(), SIGTERM);
        assert!(server.wait().success(), "{fault}");
        assert!(at(&server, "] first act") < at(&server, said), "{fault}");
        assert!(at(&server, said) < at(&server, "] last act"), "{fault}");
        assert_eq!(count(&server, "the last act panics") > 0, fault == "panic");
    }
}

#[test]
fn last_acts_without_an_end_are_cut_a_second_after_the_drain_limit() {
    let mut server =
        lasting().workers(1).configuration("[timeouts]\ndrain = 1\n").variable("LASTING", "endless").start();
    let client = hold(&server);
    let begun = Instant::now();
    server.signal(server.pid(), SIGTERM);
    assert!(server.wait().success());
    assert!(begun.elapsed() > Duration::from_millis(1900), "{} ms", begun.elapsed().as_millis());
    client.join().expect("a client does not panic").expect_err("it was cut");
    assert!(at(&server, " cut, 1 of them in a request") < at(&server, "] first act"), "first the connections");
    assert_eq!(count(&server, "on_stop: cut 1 s after the drain limit, 1 of 3 had ended"), 1);
    assert_eq!(count(&server, "] last act"), 0);
    assert_eq!(count(&server, "killed"), 0, "the worker ends by itself");
}

#[test]
fn a_stop_that_is_shorter_than_the_drain_limit_leaves_time_for_them() {
    let mut server = lasting().workers(1).configuration("[timeouts]\ndrain = 30\nstop = 3\n").start();
    let client = hold(&server);
    server.signal(server.pid(), SIGTERM);
    assert!(server.wait().success());
    client.join().expect("a client does not panic").expect_err("it was cut");
    assert!(at(&server, ": 1 connection is cut, 1 of them in a request") < at(&server, "] last act"), "all of it");
    assert_eq!(count(&server, "killed"), 0, "the worker ends by itself");
}

#[test]
fn an_orphan_has_its_last_acts_too() {
    let mut server = lasting().workers(1).start();
    let client = hold(&server);
    server.signal(server.pid(), SIGKILL);
    server.wait();
    server.wait_for_log("the master is gone: draining");
    let_go(&server, client);
    wait_for_nobody(&server);
    assert!(at(&server, "let go") < at(&server, "] first act"));
    assert!(at(&server, "] first act") < at(&server, "] last act"));
}

#[test]
fn who_did_not_start_has_no_last_acts() {
    let mut server = lasting().workers(1).variable("LASTING", "refuse").launch();
    assert!(!server.wait().success());
    assert!(at(&server, "no database") > 0);
    assert_eq!(count(&server, "act\n"), 0);
}
