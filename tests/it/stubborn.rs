//! Whoever does not end by itself: requests, workers, and what workers leave behind.

use std::io::Read;
use std::net::TcpStream;
use std::time::{Duration, Instant};

use forebay::testing::{Builder, Server};
use nix::libc::{SIGHUP, SIGKILL};

use crate::client::{example, get, uninterrupted};
use crate::hangs::pause;
use crate::reload::{commit, is_alone, reloads};
use crate::traffic::{FRESH, KEPT, SLOW};
use crate::trial::{Gone, Trial};

fn fixture() -> Builder {
    Server::of(example("fixture"))
}

#[test]
fn sixteen_hangups_in_ten_seconds_lose_no_request() {
    let server = fixture().configuration("[timeouts]\nstable = 0.1\n").start();
    // Who is idle may be closed a second after its worker's generation is not even the last but one.
    let trial = Trial::under(server, &[(&FRESH, 2), (&KEPT, 3), (&SLOW, 2)]);
    let server = &trial.server;
    let begun = Instant::now();
    for number in 1..=16 {
        server.signal(server.pid(), SIGHUP);
        server.wait_for("the request", || (reloads(server)["asked"] == number).then_some(()));
        // The pace is the scenario.
        std::thread::sleep((begun + number * Duration::from_millis(625)).saturating_duration_since(Instant::now()));
    }
    println!("16 in {} ms", begun.elapsed().as_millis());
    let json = server.wait_for("all results", || Some(reloads(server)).filter(|json| json["finished"] == 16));
    assert_eq!(json["last"]["outcome"], "committed");
    assert!(!server.log().contains("rolling back"));
    server.wait_until("one generation", is_alone);
    let aftermath = trial.calm();
    aftermath.assert_nothing_lost();
    aftermath.stop();
}

#[test]
fn over_a_reload_what_outlasts_the_drain_limit_is_cut_and_counted_and_nobody_else_is() {
    let server = fixture().workers(1).configuration("[timeouts]\nstable = 0.1\ndrain = 5\n").start();
    let trial = Trial::begin(server);
    let server = &trial.server;
    let address = server.address();
    let path = format!("/hold{}", server.directory().join("never").display());
    let client = std::thread::spawn(move || get(address, &path));
    let short = std::thread::spawn(move || get(address, "/sleep/2000"));
    let mut silent = TcpStream::connect(address).expect("connect");
    let old = server.workers();
    // All are taken when the reload begins.
    trial.go_on(3);
    commit(server);
    let committed = Instant::now();
    let answer = short.join().expect("a client does not panic").expect("it is within the limit");
    assert!(old.iter().any(|pid| answer.body == pid.to_string()), "its own worker answers: {}", answer.body);
    client.join().expect("a client does not panic").expect_err("it was cut");
    println!("cut {} ms after the commit", committed.elapsed().as_millis());
    assert_eq!(uninterrupted(|| silent.read(&mut [0])).expect("an orderly end"), 0);
    server.wait_for_log("drained for 5 s: 2 connections are cut, 1 of them in a request");
    server.wait_until("one generation", is_alone);
    assert_eq!(server.log().matches("are cut").count(), 1, "everybody else was told");
    let aftermath = trial.calm();
    aftermath.assert_nothing_lost();
    aftermath.stop();
}

#[test]
fn a_worker_that_does_not_heed_its_notice_is_killed_at_the_limit() {
    let configuration = "[timeouts]\nstable = 0.1\ndrain = 3\nhang = 60\n";
    let trial = Trial::begin(fixture().configuration(configuration).start());
    let server = &trial.server;
    let deaf = server.workers()[0];
    let from = Instant::now();
    pause(server, deaf);
    commit(server);
    server.wait_until("one generation", is_alone);
    let gone = Gone { pid: deaf, from, until: Instant::now() };
    let line = format!("worker 0 generation 1 pid {deaf}: ");
    let how = server.log().lines().filter(|text| text.contains(&line)).map(str::to_owned).collect::<Vec<_>>();
    assert!(how.iter().any(|text| text.contains("killed by SIGKILL")), "{how:?}");
    trial.go_on(2);
    let mut aftermath = trial.calm();
    aftermath.assert_lost_with(&[gone]);
    // The same for a stop, which takes no longer and exits 0.
    pause(&aftermath.server, aftermath.server.workers()[1]);
    let asked = Instant::now();
    aftermath.stop_at_once(&[]);
    assert!(asked.elapsed() > Duration::from_secs(3), "it had its time");
    assert!(aftermath.server.log().contains("killed by SIGKILL"));
}

#[test]
fn a_workers_child_that_keeps_everything_open_is_waited_for_by_nobody() {
    let server = fixture().workers(1).configuration("[timeouts]\nstable = 0.1\ndrain = 10\n").start();
    let trial = Trial::begin(server);
    let server = &trial.server;
    let address = server.address();
    let child = || get(address, "/child").expect("an answer").body.parse::<u32>().expect("a pid");
    let first = child();
    // Neither a reload, nor the log helper's successor, nor a stop.
    let asked = Instant::now();
    commit(server);
    server.wait_until("one generation", is_alone);
    println!("the old generation was gone after {} ms", asked.elapsed().as_millis());
    let log = server.helper("log");
    server.signal(log, SIGKILL);
    server.wait_until("another log helper", |status| {
        let mut helpers = status["helpers"].as_array().into_iter().flatten();
        helpers.any(|helper| helper["name"] == "log" && helper["restarts"] == 1 && helper["state"] == "serving")
    });
    assert!(server.processes().iter().any(|&(pid, _)| pid == first), "it lives");
    // This one keeps a way to the log helper that lives.
    get(address, "/log/1").expect("an answer");
    server.wait_for_log("] record 0\n");
    let second = child();
    assert!(!server.log().contains("are cut"));
    trial.go_on(2);
    let aftermath = trial.calm();
    aftermath.assert_nothing_lost();
    let asked = Instant::now();
    aftermath.stop_beside(&[first, second]);
    assert!(asked.elapsed() < Duration::from_secs(10), "nobody waits for it: {} ms", asked.elapsed().as_millis());
}
