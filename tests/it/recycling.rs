//! Workers that have served for long enough are followed by new ones, and nobody notices.

use std::collections::BTreeSet;
use std::fs;
use std::time::{Duration, Instant};

use forebay::testing::{Builder, Server};
use serde_json::Value;

use crate::client::{example, get};
use crate::reload::{Releases, is_alone};
use crate::trial::Trial;

fn fixture() -> Builder {
    Server::of(example("fixture"))
}

/// How many workers serve.
fn serving(status: &Value) -> usize {
    let workers = status["workers"].as_array().expect("workers");
    workers.iter().filter(|worker| worker["state"] == "serving").count()
}

fn restarts(status: &Value) -> u64 {
    status["workers"].as_array().expect("workers").iter().filter_map(|worker| worker["restarts"].as_u64()).sum()
}

#[test]
fn recycled_after_so_many_requests_and_nothing_is_lost() {
    let trial = Trial::begin(fixture().workers(3).configuration("[worker]\nmax_requests = 100\n").start());
    let server = &trial.server;
    let deadline = Instant::now() + Duration::from_secs(30);
    // Whenever it is looked at, all slots serve.
    loop {
        let status = server.status();
        assert_eq!(status["state"], "serving", "{status}");
        assert!(serving(&status) >= 3, "{status}");
        if restarts(&status) >= 12 {
            break;
        }
        assert!(Instant::now() < deadline, "{status}");
    }
    let aftermath = trial.calm();
    aftermath.assert_nothing_lost();
    let log = aftermath.server.log();
    assert!(log.contains(" requests: recycling it"), "{log}");
    assert!(log.contains(": recycled after 1") && !log.contains("restarting"), "{log}");
    // Each reaches another number.
    let limits = log.lines().filter_map(|line| line.split("recycled after ").nth(1)?.split(' ').next());
    let limits: Vec<u64> = limits.map(|limit| limit.parse().expect("a number")).collect();
    assert!(limits.iter().all(|limit| (100..=110).contains(limit)), "{limits:?}");
    assert!(limits.iter().any(|limit| *limit != limits[0]), "{limits:?}");
    aftermath.stop();
}

#[test]
fn one_that_leaks_is_recycled_and_the_others_serve_on() {
    let server = fixture().workers(2).configuration("[worker]\nmax_rss = \"96M\"\n").start();
    let workers = server.workers();
    let answer = get(server.address(), "/leak/128").expect("an answer");
    let leaky: u32 = answer.body.split(' ').next().expect("a pid").parse().expect("a pid");
    let slot = workers.iter().position(|&pid| pid == leaky).expect("a worker's");
    server.wait_until("its successor", |status| restarts(status) == 1 && is_alone(status));
    let status = server.wait_until("the end of the old one", |status| {
        status["workers"].as_array().is_some_and(|workers| workers.len() == 2)
    });
    let last_exit = status["workers"][slot]["last_exit"].as_str().expect("how it ended");
    assert!(last_exit.starts_with("recycled after growing to 1"), "{last_exit}");
    assert_ne!(server.workers()[slot], leaky);
    assert_eq!(server.workers()[1 - slot], workers[1 - slot]);
    server.stop();
}

#[test]
fn several_that_leak_at_once_are_followed_one_at_a_time_and_nothing_is_lost() {
    let trial = Trial::begin(fixture().workers(3).configuration("[worker]\nmax_rss = \"96M\"\n").start());
    let server = &trial.server;
    let (address, before) = (server.address(), server.workers());
    let mut leaky = BTreeSet::new();
    let deadline = Instant::now() + Duration::from_secs(10);
    while !before.iter().all(|pid| leaky.contains(pid)) {
        assert!(Instant::now() < deadline, "{leaky:?} of {before:?}");
        let ask = |_| std::thread::spawn(move || get(address, "/leak/96"));
        let asked: Vec<_> = (0..4).map(ask).collect();
        for client in asked {
            let answer = client.join().expect("a client does not panic").expect("an answer");
            leaky.insert(answer.body.split(' ').next().expect("a pid").parse::<u32>().expect("a pid"));
        }
    }
    let deadline = Instant::now() + Duration::from_secs(20);
    let mut looks = 0;
    // Whenever it is looked at, all slots serve, and at most one successor is on its way.
    loop {
        let status = server.status();
        let workers = status["workers"].as_array().expect("workers");
        let rising = workers.iter().filter(|worker| worker["state"] == "starting").count();
        assert!(status["state"] == "serving" && serving(&status) >= 3 && rising <= 1, "{status}");
        looks += 1;
        let lives = |pid: &u32| workers.iter().any(|worker| worker["pid"] == *pid);
        if !before.iter().any(lives) && workers.len() == 3 {
            break;
        }
        assert!(Instant::now() < deadline, "{status}");
    }
    println!("{looks} looks");
    one_after_the_other(&server.log(), ": recycling it");
    let aftermath = trial.calm();
    aftermath.assert_nothing_lost();
    assert!(!aftermath.server.log().contains("are cut"));
    aftermath.stop();
}

/// After each that is to be followed its successor gets ready, before the next one.
fn one_after_the_other(log: &str, followed: &str) {
    let lines: Vec<&str> =
        log.lines().filter(|line| line.contains("recycling it") || line.contains(": ready")).collect();
    let after = lines.iter().position(|line| line.contains("recycling it")).expect("the first");
    for pair in lines[after..].chunks(2).filter(|pair| pair.len() == 2) {
        assert!(pair[0].contains(followed) && pair[1].contains(": ready"), "{pair:?} in {log}");
    }
}

#[test]
fn the_old_are_followed_one_after_the_other() {
    let server = fixture().workers(3).configuration("[worker]\nmax_age = 1\n").start();
    let first = server.workers();
    server.wait_until("all are new", |status| restarts(status) >= 3);
    one_after_the_other(&server.log(), ": 1 s: recycling it");
    assert!(first.iter().all(|pid| !server.workers().contains(pid)));
    server.stop();
}

#[test]
fn a_successor_that_fails_costs_nothing() {
    let releases = Releases::new();
    let configuration = "[worker]\nmax_requests = 10\n[restart]\nintensity = 1\nbackoff_max = 0.2\n";
    let server = releases.serve().workers(1).configuration(configuration).start();
    let worker = server.workers()[0];
    fs::write(releases.fault(), "exit").expect("write");
    (0..20).for_each(|_| assert_eq!(get(server.address(), "/").expect("an answer").status, 200));
    server.wait_for_log("dies too often");
    assert_eq!((server.workers(), server.status()["state"].as_str()), (vec![worker], Some("serving")));
    assert_eq!(get(server.address(), "/").expect("an answer").status, 200);
    fs::write(releases.fault(), "").expect("write");
    server.wait_until("its successor", |status| restarts(status) == 1 && serving(status) == 1 && is_alone(status));
    assert_ne!(server.workers(), [worker]);
    server.stop();
}
