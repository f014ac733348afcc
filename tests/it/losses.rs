//! Workers that die, stand still or spin under load: it costs their own requests, and nobody else's.

use std::collections::BTreeSet;
use std::fs::{self, File};
use std::time::{Duration, Instant};

use forebay::testing::{Builder, Server};
use nix::libc::SIGKILL;

use crate::client::{example, get};
use crate::hangs::pause;
use crate::trial::{Gone, Trial};

/// What a new worker may take on a busy machine; how long it takes is a matter of benchmarks.
const SOON: Duration = Duration::from_secs(10);

fn fixture() -> Builder {
    Server::of(example("fixture")).workers(3)
}

/// How many lines of the log hold this.
fn count(server: &Server, text: &str) -> usize {
    server.log().lines().filter(|line| line.contains(text)).count()
}

#[test]
fn workers_that_are_killed_take_nobody_elses_requests_with_them() {
    let trial = Trial::begin(fixture().start());
    let server = &trial.server;
    let mut gone = Vec::new();
    for round in 0..6 {
        let slot = round % 3;
        let before = server.workers();
        let ready = || server.log().lines().filter(|line| is_ready(line, slot)).count();
        let (was_ready, from) = (ready(), Instant::now());
        server.signal(before[slot], SIGKILL);
        server.wait_for("its successor", || (ready() > was_ready).then_some(()));
        let until = Instant::now();
        println!("worker {slot} replaced after {} ms", until.duration_since(from).as_millis());
        assert!(until.duration_since(from) < SOON);
        gone.push(Gone { pid: before[slot], from, until });
        let after = server.workers();
        for other in (0..3).filter(|&other| other != slot) {
            assert_eq!(after[other], before[other], "nobody else dies");
        }
        trial.go_on(2);
    }
    assert_eq!(count(server, ": killed by SIGKILL; restarting"), 6);
    let aftermath = trial.calm();
    aftermath.assert_lost_with(&gone);
    aftermath.stop();
}

fn is_ready(line: &str, slot: usize) -> bool {
    line.contains(&format!("] worker {slot} generation 1 pid ")) && line.ends_with(": ready")
}

#[test]
fn a_worker_that_stands_still_and_one_that_spins_are_named_and_lose_their_own_requests() {
    // A core would be left behind.
    let configuration = "[timeouts]\nhang = 2\n";
    let server = fixture().under(&["prlimit", "--core=0:0"]).configuration(configuration).start();
    let trial = Trial::begin(server);
    let server = &trial.server;
    let (address, before) = (server.address(), server.workers());
    let from = Instant::now();
    pause(server, before[0]);
    let status = server
        .wait_until("its successor", |status| status["workers"][0]["restarts"] == 1 && status["state"] == "serving");
    let mut gone = vec![Gone { pid: before[0], from, until: Instant::now() }];
    assert_eq!(status["workers"][0]["last_exit"], "hung for 2 s: killed by SIGKILL");
    server.wait_for_log(&format!("worker 0 generation 1 pid {}: hung for 2 s: ending it\n", before[0]));
    trial.go_on(2);
    let (from, before) = (Instant::now(), server.workers());
    let client = std::thread::spawn(move || get(address, "/spin"));
    let status = server.wait_until("the end of the one that spins", |status| {
        let mut workers = status["workers"].as_array().into_iter().flatten();
        status["state"] == "serving" && workers.any(|worker| worker["last_exit"] == "hung for 2 s: killed by SIGABRT")
    });
    client.join().expect("a client does not panic").expect_err("it was cut");
    let after = server.workers();
    let spun: Vec<usize> = (0..3).filter(|&slot| after[slot] != before[slot]).collect();
    assert_eq!(spun.len(), 1, "{status}");
    let pid = before[spun[0]];
    server.wait_for_log(&format!("worker {} generation 1 pid {pid}: hung for 2 s: killed by SIGABRT", spun[0]));
    gone.push(Gone { pid, from, until: Instant::now() });
    trial.go_on(2);
    let aftermath = trial.calm();
    aftermath.assert_lost_with(&gone);
    aftermath.stop();
}

#[test]
fn a_slot_whose_workers_exit_at_once_waits_longer_and_longer_and_disturbs_nobody() {
    let scratch = tempfile::tempdir().expect("a directory");
    let cause = scratch.path().join("cause");
    let configuration = "[restart]\nintensity = 2\nperiod = 5\nbackoff_max = 0.5\n";
    let fault = format!("exit-if {}", cause.display());
    let trial = Trial::begin(fixture().configuration(configuration).variable("FIXTURE", fault).start());
    let server = &trial.server;
    let before = server.workers();
    File::create(&cause).expect("make the cause");
    let from = Instant::now();
    server.signal(before[0], SIGKILL);
    let delayed = "exited with 0; dies too often, restarting in ";
    server.wait_for("some deaths", || (count(server, delayed) >= 8).then_some(()));
    let until = Instant::now();
    let status = server.status();
    assert_eq!(status["state"], "degraded");
    assert_eq!(server.log().matches("worker 0 generation 1 pid ").count(), count(server, "worker 0 generation 1 pid "));
    // One line a death, and nothing else of it.
    let deaths = count(server, "exited with 0; ");
    let lines = count(server, "worker 0 generation 1");
    assert!(lines <= deaths + 3, "{lines} lines of {deaths} deaths");
    let log = server.log();
    let delays = log.lines().filter_map(|line| line.split(delayed).nth(1)?.strip_suffix(" ms")?.parse().ok());
    let delays: Vec<u64> = delays.collect();
    println!("{delays:?}");
    assert!(delays.iter().all(|delay| *delay <= 500), "{delays:?}");
    let late: BTreeSet<u64> = delays[3..].iter().copied().collect();
    assert!(late.len() > 1 && late.iter().all(|delay| *delay >= 250), "jitter below the cap: {delays:?}");
    assert!(delays[0] < delays[3], "longer and longer: {delays:?}");
    fs::remove_file(&cause).expect("remove the cause");
    let status = server.wait_until("serving again", |status| status["state"] == "serving");
    assert_eq!(status["workers"][0]["last_exit"], "exited with 0");
    assert_eq!(server.workers()[1..], before[1..]);
    trial.go_on(2);
    let aftermath = trial.calm();
    aftermath.assert_lost_with(&[Gone { pid: before[0], from, until }]);
    aftermath.stop();
}
