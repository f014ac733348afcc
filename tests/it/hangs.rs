//! Processes that live and do nothing: found by their heartbeat or their silence, ended, replaced.

use std::time::{Duration, Instant};

use forebay::testing::{Builder, Server};
use nix::libc::SIGSTOP;
use nix::sys::ptrace;
use nix::sys::wait::{WaitPidFlag, waitpid};
use nix::unistd::Pid;
use serde_json::Value;

use crate::client::{example, get};

fn fixture() -> Builder {
    Server::of(example("fixture"))
}

/// How a hung process ends that SIGABRT does not.
const HUNG: &str = "hung for 1 s: killed by SIGKILL";

/// Stops a process and returns when all its threads stand still.
pub(crate) fn pause(server: &Server, pid: u32) {
    server.signal(pid, SIGSTOP);
    let is_still = |stat: String| stat.rsplit_once(") ").is_some_and(|(_, fields)| fields.starts_with('T'));
    server.wait_for("all threads standing still", || {
        let mut threads = std::fs::read_dir(format!("/proc/{pid}/task")).expect("the process lives");
        let still = threads.all(|thread| {
            let path = thread.expect("its threads can be listed").path().join("stat");
            std::fs::read_to_string(path).is_ok_and(is_still)
        });
        still.then_some(())
    });
}

fn helper<'a>(status: &'a Value, name: &str) -> &'a Value {
    let mut helpers = status["helpers"].as_array().expect("helpers").iter();
    helpers.find(|helper| helper["name"] == name).expect("a helper of this name")
}

#[test]
fn a_stopped_worker_is_aborted_then_killed_and_replaced() {
    let server = fixture().configuration("[timeouts]\nhang = 1\n").start();
    let (address, workers) = (server.address(), server.workers());
    pause(&server, workers[0]);
    let stopped = Instant::now();
    while server.status()["workers"][0]["restarts"] == 0 {
        let answer = get(address, "/sleep/5").expect("the other worker answers");
        assert_ne!(answer.body, workers[0].to_string());
        assert!(stopped.elapsed() < Duration::from_secs(20), "the stopped worker is not found");
    }
    println!("a stopped worker was dead after {} ms, with hang = 1 s", stopped.elapsed().as_millis());
    assert!(stopped.elapsed() > Duration::from_millis(900), "not before its time");
    let status = server.wait_until("a new worker", |status| status["state"] == "serving");
    assert_eq!(status["workers"][0]["last_exit"], HUNG);
    assert_eq!(status["workers"][1]["pid"], workers[1]);
    let who = format!("worker 0 generation 1 pid {}", workers[0]);
    server.wait_for_log(&format!("{who}: hung for 1 s: ending it\n"));
    server.wait_for_log(&format!("{who}: {HUNG}; restarting\n"));
    server.stop();
}

#[test]
fn a_worker_in_an_endless_loop_is_ended_by_sigabrt() {
    // A core of it would be left behind.
    let server = fixture().under(&["prlimit", "--core=0:0"]).workers(1).configuration("[timeouts]\nhang = 1\n").start();
    let address = server.address();
    let client = std::thread::spawn(move || get(address, "/spin"));
    let status = server
        .wait_until("a new worker", |status| status["workers"][0]["restarts"] == 1 && status["state"] == "serving");
    assert_eq!(status["workers"][0]["last_exit"], "hung for 1 s: killed by SIGABRT");
    client.join().expect("a client does not panic").expect_err("it was cut");
    assert_eq!(get(address, "/").expect("an answer").status, 200);
    server.stop();
}

#[test]
fn a_stopped_log_helper_is_replaced_and_no_request_waits_for_it() {
    let server = fixture().configuration("[timeouts]\nhang = 1\n").start();
    let (address, log) = (server.address(), server.helper("log"));
    pause(&server, log);
    let mut number = 0;
    let mut longest = Duration::ZERO;
    let stopped = Instant::now();
    while helper(&server.status(), "log")["restarts"] == 0 {
        let asked = Instant::now();
        assert_eq!(get(address, "/log/10").expect("an answer").status, 200);
        longest = longest.max(asked.elapsed());
        number += 10;
        assert!(stopped.elapsed() < Duration::from_secs(20), "the stopped log helper is not found");
    }
    println!("{number} records logged meanwhile, the longest request took {} ms", longest.as_millis());
    assert!(longest < Duration::from_secs(1), "a request took {} ms", longest.as_millis());
    let status = server.wait_until("a new log helper", |status| status["state"] == "serving");
    assert_eq!(helper(&status, "log")["last_exit"], HUNG);
    // What was said to the stopped one (that it is being ended) died with it.
    server.wait_for_log(&format!("helper log pid {log}: {HUNG}; restarting\n"));
    assert_eq!(get(address, "/log/20").expect("an answer").status, 200);
    server.wait_for_log("] record 19\n");
    server.stop();
}

#[test]
fn a_silent_zygote_is_killed_and_the_slot_is_filled_by_the_next_one() {
    let server = fixture().configuration("[timeouts]\nready = 2\n").start();
    let (zygote, workers) = (server.helper("zygote"), server.workers());
    pause(&server, zygote);
    let killed = Instant::now();
    server.signal(workers[0], nix::libc::SIGKILL);
    let status = server
        .wait_until("a new worker", |status| status["workers"][0]["restarts"] == 1 && status["state"] == "serving");
    println!("refilled {} ms after its zygote fell silent, with ready = 2 s", killed.elapsed().as_millis());
    assert!(killed.elapsed() < Duration::from_secs(10));
    assert_eq!(helper(&status, "zygote")["last_exit"], "does not answer: killed by SIGKILL");
    server.wait_for_log(&format!("zygote generation 1 pid {zygote}: does not answer: ending it\n"));
    server.wait_for_log(&format!("zygote generation 1 pid {zygote}: does not answer: killed by SIGKILL; restarting\n"));
    assert_eq!(server.workers()[1], workers[1]);
    server.stop();
}

#[test]
fn a_worker_under_a_debugger_may_stand_still() {
    let server = fixture().workers(1).configuration("[timeouts]\nhang = 1\n").start();
    let worker = server.workers()[0];
    let threads: Vec<Pid> = std::fs::read_dir(format!("/proc/{worker}/task"))
        .expect("its threads")
        .filter_map(|entry| entry.ok()?.file_name().to_str()?.parse().ok())
        .map(Pid::from_raw)
        .collect();
    for &thread in &threads {
        ptrace::attach(thread).expect("one may trace the worker");
        waitpid(thread, Some(WaitPidFlag::__WALL)).expect("it stands still");
    }
    // A bounded look at what does not happen: nobody ends it.
    let until = Instant::now() + Duration::from_secs(3);
    while Instant::now() < until {
        let status = server.status();
        assert_eq!((&status["workers"][0]["pid"], &status["state"]), (&worker.into(), &"serving".into()));
    }
    for &thread in &threads {
        ptrace::detach(thread, None).expect("it goes on");
    }
    assert_eq!(get(server.address(), "/sleep/0").expect("an answer").body, worker.to_string());
    assert!(!server.log().contains("hung for"));
    server.stop();
}

#[test]
fn a_short_limit_finds_no_fault_with_who_is_idle() {
    let server = fixture().configuration("[timeouts]\nhang = 0.5\n").start();
    let (log, workers) = (server.helper("log"), server.workers());
    // A bounded look at what does not happen: three times the limit.
    let until = Instant::now() + Duration::from_millis(1200);
    while Instant::now() < until {
        assert_eq!((server.helper("log"), server.workers()), (log, workers.clone()));
    }
    assert!(!server.log().contains("hung for"));
    server.stop();
}
