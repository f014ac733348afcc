//! The master killed: what it leaves behind ends in order, and hinders no successor.

use std::fs::File;
use std::net::{SocketAddr, TcpListener};
use std::time::{Duration, Instant};

use forebay::testing::{Builder, Server};
use nix::libc::{SIGKILL, SIGSTOP};

use crate::client::{example, get};

fn fixture() -> Builder {
    Server::of(example("fixture"))
}

/// Starts a client whose request waits for the file `release` of the server's directory.
fn hold(server: &Server) -> std::thread::JoinHandle<std::io::Result<String>> {
    let path = format!("/hold{}", server.directory().join("release").display());
    let address = server.address();
    let client = std::thread::spawn(move || get(address, &path).map(|answer| answer.body));
    server.wait_until("a request in flight", |status| {
        let workers = status["workers"].as_array().into_iter().flatten();
        workers.filter_map(|worker| worker["connections"].as_u64()).sum::<u64>() == 1
    });
    client
}

fn kill_master(server: &mut Server) {
    server.signal(server.pid(), SIGKILL);
    server.wait();
}

/// Waits until none of its processes is left; the log helper must be the last.
fn wait_for_the_end(server: &Server, log: u32) {
    server.wait_for("the end of all processes", || {
        let log_lives = server.processes().iter().any(|&(pid, _)| pid == log);
        // After the look above: whoever is there now was there when the log helper was gone.
        let left = server.processes();
        assert!(log_lives || left.is_empty(), "the log helper ended before {left:?}");
        left.is_empty().then_some(())
    });
}

fn is_free(address: SocketAddr) -> bool {
    TcpListener::bind(address).is_ok()
}

#[test]
fn a_request_outlives_the_master_and_the_log_helper_writes_its_last_word() {
    let mut server = fixture().start();
    let (address, log) = (server.address(), server.helper("log"));
    let client = hold(&server);
    kill_master(&mut server);
    // All that has nothing to do ends: the other worker and the zygote.
    let left = server.wait_for("the end of the idle", || Some(server.processes()).filter(|left| left.len() == 2));
    assert!(left.iter().any(|&(pid, _)| pid == log), "{left:?}");
    File::create(server.directory().join("release")).expect("let the request go");
    let body = client.join().expect("a client does not panic").expect("an answer");
    assert!(left.iter().any(|(pid, _)| body == pid.to_string()));
    wait_for_the_end(&server, log);
    server.wait_for_log("] let go by ");
    assert_eq!(server.log().matches("the master is gone: draining").count(), 2, "each worker says so");
    assert!(is_free(address));
    let next = fixture().run_dir(server.run_dir()).listen(address).start();
    assert!(!next.log().contains("is left of an earlier master"));
    next.stop();
}

#[test]
fn an_orphan_that_does_not_finish_ends_at_the_drain_limit() {
    let mut server = fixture().configuration("[timeouts]\ndrain = 1\n").start();
    let (address, log) = (server.address(), server.helper("log"));
    let client = hold(&server);
    let killed = Instant::now();
    kill_master(&mut server);
    wait_for_the_end(&server, log);
    println!("all ended {} ms after the master, with a drain limit of 1 s", killed.elapsed().as_millis());
    assert!(killed.elapsed() > Duration::from_millis(900), "the request had its time");
    assert!(killed.elapsed() < Duration::from_secs(5));
    client.join().expect("a client does not panic").expect_err("it was cut");
    server.wait_for_log("drained for 1 s: 1 connection is cut");
    assert!(is_free(address));
}

#[test]
fn the_log_helper_stays_for_a_worker_that_it_has_not_heard_of() {
    let mut server = fixture().workers(1).start();
    let (address, worker, log) = (server.address(), server.workers()[0], server.helper("log"));
    let client = std::thread::spawn(move || get(address, "/spin"));
    server.wait_until("a worker that spins", |status| status["workers"][0]["requests"] == 1);
    server.signal(log, SIGKILL);
    server.wait_for("another log helper", || (server.log().matches("helper log pid ").count() == 3).then_some(()));
    let log = server.helper("log");
    kill_master(&mut server);
    server.wait_for("the zygote's end", || (server.processes().len() == 2).then_some(()));
    // A bounded look at what does not happen: the log helper looks every 20 ms.
    let until = Instant::now() + Duration::from_millis(300);
    while Instant::now() < until {
        assert!(server.processes().iter().any(|&(pid, _)| pid == log), "the log helper is gone");
    }
    server.signal(worker, SIGKILL);
    wait_for_the_end(&server, log);
    client.join().expect("a client does not panic").expect_err("it went with its worker");
}

#[test]
fn the_next_master_ends_a_stopped_survivor_and_takes_its_port() {
    let mut server = fixture().workers(1).start();
    let (address, worker) = (server.address(), server.workers()[0]);
    let client = std::thread::spawn(move || get(address, "/spin"));
    server.wait_until("a worker that spins", |status| status["workers"][0]["requests"] == 1);
    kill_master(&mut server);
    // Only now: the kernel continues what is stopped in a process group that becomes orphaned. The
    // worker spins, so that it does not notice in between that the master is gone.
    server.signal(worker, SIGSTOP);
    server.wait_for("the zygote's end", || (server.processes().len() == 2).then_some(()));
    assert!(!is_free(address), "the stopped worker has the port");
    let asked = Instant::now();
    let next = fixture().run_dir(server.run_dir()).listen(address).start();
    println!("started after {} ms beside a stopped survivor", asked.elapsed().as_millis());
    assert!(asked.elapsed() < Duration::from_secs(5));
    assert!(next.log().contains(&format!("pid {worker} is left of an earlier master: ending it\n")));
    // The log helper, which waited for the worker, was a survivor too or has ended meanwhile.
    assert!(server.processes().is_empty(), "{:?}", server.processes());
    client.join().expect("a client does not panic").expect_err("it went with its worker");
    assert_eq!(get(address, "/").expect("an answer").status, 200);
    next.stop();
}

#[test]
fn the_next_master_ends_a_zygote_that_loads_for_ever() {
    let mut server = fixture().variable("FIXTURE", "endless-preload").launch();
    let zygote = server.wait_for("a zygote that loads", || {
        let threads = |pid: u32| std::fs::read_dir(format!("/proc/{pid}/task")).map_or(0, Iterator::count);
        let mut processes = server.processes().into_iter();
        processes.find(|(pid, title)| title.ends_with("zygote generation 1") && threads(*pid) == 2)
    });
    kill_master(&mut server);
    let next = fixture().run_dir(server.run_dir()).start();
    assert!(next.log().contains(&format!("pid {} is left of an earlier master: ending it\n", zygote.0)));
    assert!(server.processes().is_empty(), "{:?}", server.processes());
    next.stop();
}
