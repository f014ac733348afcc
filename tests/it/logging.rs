//! The way of a record into the one writer's file.

use forebay::testing::Server;
use nix::libc::{SIGCONT, SIGSTOP, SIGTERM};

use crate::client::{example, get, post};

#[test]
fn what_preload_and_replicas_log_arrives() {
    let server = Server::of(example("article")).workers(1).start();
    server.wait_for_log("article zygote generation 1] the motto is read once");
    server.wait_for_log("article worker 0 generation 1] replica 0 knows that still waters run deep");
    server.stop();
}

#[test]
fn a_message_cannot_pretend_to_be_another_record() {
    let server = Server::of(env!("CARGO_BIN_EXE_forebay")).workers(1).start();
    let forged = b"first\n[2026-01-01T00:00:00Z ERROR forebay] forged \x1b[2J \xff";
    assert_eq!(post(server.address(), "/", forged).expect("an answer").status, 202);
    server.wait_for_log("first\n    [2026-01-01T00:00:00Z ERROR forebay] forged \\u{1b}[2J \u{fffd}\n");
    server.stop();
}

/// More than a socket's buffer, less than a sender or a ring of this size holds: it arrives though nothing
/// else happens.
#[test]
fn a_backlog_is_worked_off_while_the_worker_is_idle() {
    for configuration in ["[log]\nring = \"4M\"\n", "[log]\ntransport = \"socket\"\n"] {
        let server = Server::of(example("fixture")).workers(1).configuration(configuration).start();
        let (address, log_helper) = (server.address(), server.helper("log"));
        server.signal(log_helper, SIGSTOP);
        get(address, "/log/20000").expect("an answer though nobody writes the log");
        server.signal(log_helper, SIGCONT);
        server.wait_for_log("record 19999\n");
        let log = server.log();
        let records = log.lines().filter(|line| line.contains("fixture worker 0 generation 1] record "));
        assert_eq!(records.count(), 20_000, "all of them, each once: {configuration}");
        server.stop();
    }
}

/// The socket's sender keeps what is not yet written, in memory that grows.
#[test]
fn to_log_into_a_ring_takes_no_memory() {
    for (transport, is_free) in [("ring", true), ("socket", false)] {
        let configuration = format!("[log]\ntransport = \"{transport}\"\n");
        let server = Server::of(example("fixture")).workers(1).configuration(&configuration).start();
        let answer = get(server.address(), "/allocations/1000").expect("an answer");
        let count: u64 = answer.body.parse().expect("a number");
        assert!(count == 0 || !is_free, "{transport}: {count} allocations for 1000 records");
        server.wait_for_log("counted 999 number=999\n");
        server.stop();
    }
}

#[test]
fn a_filter_may_have_a_pattern_for_the_message() {
    let server = Server::of(example("fixture")).workers(1).configuration("[log]\nlevel = \"info/let go\"\n").start();
    get(server.address(), "/log/3").expect("an answer");
    get(server.address(), "/hold/dev/null").expect("an answer");
    server.wait_for_log("let go by dev/null\n");
    assert!(!server.log().contains("record "), "{}", server.log());
    server.stop();
}

#[test]
fn a_panic_of_the_applications_closure_is_the_reason_of_the_failed_start() {
    let mut server = Server::of(example("fixture")).workers(1).variable("FIXTURE", "panic").launch();
    assert_eq!(server.wait().code(), Some(1));
    let last = server.log().lines().last().map(str::to_owned);
    assert_eq!(
        last.as_deref(),
        Some(
            "fixture: fixture did not start: worker 0 generation 1: http panicked: its message is in the log: exited with 1"
        )
    );
    server.signal(server.pid(), SIGTERM);
}
