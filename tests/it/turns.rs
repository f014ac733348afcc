//! Loops that stand still: who held them is named, and where.

use std::fs;
use std::time::Duration;

use forebay::testing::{Builder, Server};

use crate::client::{example, get};

fn fixture() -> Builder {
    Server::of(example("fixture")).workers(1)
}

#[test]
fn a_handler_that_blocks_its_loop_is_named() {
    let server = fixture().start();
    assert_eq!(get(server.address(), "/block/350?secret=1").expect("an answer").status, 200);
    server.wait_for_log("GET /block/350 held this process's loop for 3");
    let status = server.status();
    let longest = status["workers"][0]["longest_turn_ms"].as_u64().expect("a number");
    assert!((330..20_000).contains(&longest), "{status}");
    let last = server.wait_for("a heartbeat", || server.status()["workers"][0]["last_turn_ms"].as_u64());
    assert!(last < 20_000, "{last}");
    assert!(!server.log().contains("secret"), "{}", server.log());
    server.stop();
}

#[test]
fn a_task_that_blocks_the_loop_shows_as_a_late_heartbeat() {
    // A heartbeat comes every 62 ms.
    let server = fixture().configuration("[timeouts]\nhang = 0.5\n").start();
    assert_eq!(get(server.address(), "/stray/400").expect("an answer").status, 200);
    server.wait_for_log("this process's loop stood still for ");
    assert!(!server.log().contains("held this process's loop"), "{}", server.log());
    server.stop();
}

#[test]
fn quick_turns_are_not_worth_a_line() {
    let server = fixture().configuration("[worker]\nslow_turn = 60\n").start();
    assert_eq!(get(server.address(), "/block/200").expect("an answer").status, 200);
    let told = server.status()["workers"][0]["longest_turn_ms"].as_u64().expect("a number");
    assert!(told >= 180, "{told}");
    assert!(!server.log().contains("this process's loop"), "{}", server.log());
    server.stop();
}

#[test]
fn the_stack_of_a_loop_that_hangs_is_in_the_log() {
    let server = fixture().under(&["prlimit", "--core=0:0"]).configuration("[timeouts]\nhang = 1\n").start();
    let address = server.address();
    let client = std::thread::spawn(move || get(address, "/block/600000"));
    server.wait_until("a new worker", |status| status["workers"][0]["restarts"] == 1);
    server.wait_for_log("output worker 0 generation 1] SIGABRT: the stack of this process's loop");
    // The handler's own frame, by name.
    server.wait_for_log("fixture::block");
    client.join().expect("a client does not panic").expect_err("it was cut");
    server.stop();
}

#[test]
fn blocking_code_has_a_pool_that_is_bounded() {
    let server = fixture().configuration("[timeouts]\nhang = 1\n").start();
    let (address, worker) = (server.address(), server.workers()[0]);
    let clients: Vec<_> = (0..40).map(|_| std::thread::spawn(move || get(address, "/pool/300"))).collect();
    let threads = || fs::read_dir(format!("/proc/{worker}/task")).expect("its threads").count();
    // The main thread, the loop's, and the pool's.
    server.wait_for("a full pool", || (threads() == 18).then_some(()));
    assert_eq!(get(address, "/").expect("the loop turns").status, 200);
    for client in clients {
        assert!(threads() <= 18);
        assert_eq!(client.join().expect("a client does not panic").expect("an answer").status, 200);
    }
    server.wait_for("an idle pool", || (threads() == 2).then_some(Duration::ZERO));
    assert_eq!(server.workers(), [worker]);
    server.stop();
}
