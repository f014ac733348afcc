//! Everything, or the master alone, stands still for longer than `hang` and goes on, under load.

use std::time::Duration;

use forebay::testing::{Builder, Server};
use nix::libc::{SIGCONT, SIGSTOP};

use crate::client::{example, get};
use crate::hangs::pause;
use crate::held::Held;
use crate::retirement::{Idle, REQUEST};
use crate::trial::Trial;

/// Three times the limit for a silent loop.
const PAUSE: Duration = Duration::from_secs(3);

/// Longer than a silent loop is looked for: whoever is to be accused is accused by then.
const LOOKED_AT: Duration = Duration::from_millis(2500);

fn fixture() -> Builder {
    Server::of(example("fixture")).workers(3).configuration("[timeouts]\nhang = 1\n")
}

fn pids(server: &Server) -> Vec<u32> {
    [server.workers(), vec![server.pid(), server.helper("log"), server.helper("zygote")]].concat()
}

/// Nobody is accused, nobody has died, and all serve, also after the next looks at the heartbeats.
fn assert_unharmed(server: &Server, before: &[u32]) {
    // What is asserted is that something does not happen: that takes watching for a while.
    std::thread::sleep(LOOKED_AT);
    let log = server.log();
    for word in ["hung", "SIGABRT", "killed by", "restarting", "panicked"] {
        assert!(!log.contains(word), "{word:?} in the log");
    }
    assert_eq!(pids(server), before);
    assert_eq!(server.status()["state"], "serving");
    for _ in 0..20 {
        assert_eq!(get(server.address(), "/").expect("an answer").status, 200);
    }
}

/// Waits until all threads of a process stand still.
fn wait_for_standstill(server: &Server, pid: u32) {
    server.wait_for("standstill", || {
        let stat = std::fs::read_to_string(format!("/proc/{pid}/stat")).expect("a living process");
        stat.rsplit_once(") ").is_some_and(|(_, rest)| rest.starts_with('T')).then_some(())
    });
}

#[test]
fn when_everything_was_paused_nobody_is_killed() {
    let server = fixture().start();
    let before = pids(&server);
    let held = Held::start(&server, "release");
    let trial = Trial::begin(server);
    let server = &trial.server;
    server.signal_all(SIGSTOP);
    before.iter().for_each(|&pid| wait_for_standstill(server, pid));
    // The pause is the scenario.
    std::thread::sleep(PAUSE);
    server.signal_all(SIGCONT);
    server.wait_for_log("this process was paused for ");
    assert_unharmed(server, &before);
    assert!(before.contains(&held.let_go()), "a request outlives the pause");
    let aftermath = trial.calm();
    aftermath.assert_nothing_lost();
    aftermath.stop();
}

#[test]
fn when_the_master_alone_was_paused_nobody_is_killed() {
    let trial = Trial::begin(fixture().start());
    let server = &trial.server;
    let (before, address) = (pids(server), server.address());
    server.signal(server.pid(), SIGSTOP);
    wait_for_standstill(server, server.pid());
    // The pause is the scenario.
    std::thread::sleep(PAUSE);
    assert_eq!(get(address, "/").expect("an answer").status, 200, "workers need no master");
    server.signal(server.pid(), SIGCONT);
    server.wait_for_log("this process was paused for ");
    assert_unharmed(server, &before);
    let aftermath = trial.calm();
    aftermath.assert_nothing_lost();
    aftermath.stop();
}

#[test]
fn when_the_children_continue_after_the_master_nobody_is_killed() {
    let server = fixture().start();
    let before = pids(&server);
    server.signal_all(SIGSTOP);
    before.iter().for_each(|&pid| wait_for_standstill(&server, pid));
    // The pause is the scenario.
    std::thread::sleep(PAUSE);
    server.signal(server.pid(), SIGCONT);
    // The log helper stands still: the master's answer shows that it runs.
    assert_eq!(server.status()["state"], "serving");
    server.signal_all(SIGCONT);
    server.wait_for_log("this process was paused for ");
    assert_unharmed(&server, &before);
    server.stop();
}

/// A process that goes on learns that a connection was idle for too long before it learns what has come.
#[test]
fn a_request_is_in_time_though_its_worker_stood_still_until_it_was_late() {
    const IDLE_MAX: Duration = Duration::from_secs(30);
    let server = Server::of(example("fixture")).workers(1).start();
    let mut idle = Idle::on(&server, 0);
    std::thread::sleep(IDLE_MAX - PAUSE / 2);
    let worker = server.workers()[0];
    pause(&server, worker);
    idle.send(REQUEST);
    std::thread::sleep(PAUSE);
    server.signal(worker, SIGCONT);
    assert!(idle.hear().0.starts_with("HTTP/1.1 200 "));
    server.stop();
}
