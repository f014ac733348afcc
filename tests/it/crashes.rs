//! Processes that die: what it costs, and that each is replaced.

use std::fs::{self, File};
use std::io::ErrorKind;
use std::net::TcpStream;
use std::time::{Duration, Instant};

use forebay::testing::{Builder, Server};
use nix::libc::{SIGKILL, SIGTERM};

use crate::client::{copy_program, example, get};
use crate::load::Load;

fn fixture() -> Builder {
    Server::of(example("fixture"))
}

/// How many lines of the log hold this.
fn count(server: &Server, text: &str) -> usize {
    server.log().lines().filter(|line| line.contains(text)).count()
}

#[test]
fn a_killed_worker_takes_its_own_requests_with_it_and_no_others() {
    let server = fixture().start();
    let (address, workers) = (server.address(), server.workers());
    let release = server.directory().join("release");
    let path = format!("/hold{}", release.display());
    let clients: Vec<_> = (0..12)
        .map(|_| {
            let path = path.clone();
            std::thread::spawn(move || get(address, &path))
        })
        .collect();
    let open = |status: &serde_json::Value, slot: usize| status["workers"][slot]["connections"].as_u64();
    let status = server.wait_until("12 requests in flight", |status| {
        open(status, 0).zip(open(status, 1)).is_some_and(|(one, other)| one + other == 12)
    });
    server.signal(workers[0], SIGKILL);
    server.wait_until("a new worker", |status| status["workers"][0]["restarts"] == 1);
    File::create(&release).expect("let the others go");
    let answers: Vec<_> = clients.into_iter().map(|client| client.join().expect("a client does not panic")).collect();
    let answered = answers.iter().flatten().count() as u64;
    assert_eq!(Some(answered), open(&status, 1), "what the other worker had is answered, the rest is lost");
    let from_the_other = |body: &str| body == workers[1].to_string();
    assert!(answers.iter().flatten().all(|answer| from_the_other(&answer.body)));
    server.stop();
}

#[test]
fn under_load_a_killed_worker_is_replaced_at_once_and_said_to_be() {
    let server = fixture().start();
    let workers = server.workers();
    let load = Load::start(server.address(), "/sleep/2", 6);
    server.wait_until("load on both workers", |status| {
        let busy = |slot: usize| status["workers"][slot]["requests"].as_u64().is_some_and(|count| count > 20);
        busy(0) && busy(1)
    });
    let killed = Instant::now();
    server.signal(workers[0], SIGKILL);
    server.wait_for("the new worker", || (count(&server, "] worker 0 generation 1 pid ") > 2).then_some(()));
    let took = killed.elapsed();
    println!("replaced after {} ms under load", took.as_millis());
    assert!(took < Duration::from_secs(2), "replaced after {} ms", took.as_millis());
    let status = server.wait_until("the new worker at work", |status| {
        status["workers"][0]["requests"].as_u64().is_some_and(|count| count > 20)
    });
    let worker = &status["workers"][0];
    assert_eq!((worker["restarts"].as_u64(), worker["last_exit"].as_str()), (Some(1), Some("killed by SIGKILL")));
    assert_ne!(worker["pid"], workers[0]);
    assert_eq!(status["workers"][1]["pid"], workers[1], "the other worker stays");
    let line = format!("worker 0 generation 1 pid {}: killed by SIGKILL; restarting\n", workers[0]);
    assert!(server.log().contains(&line), "who, how, and what follows");
    let tallies = load.finish();
    for tally in &tallies {
        assert!(tally.lost.len() <= 1, "a client has one request in flight: {tally:?}");
    }
    let lost: usize = tallies.iter().map(|tally| tally.lost.len()).sum();
    let answered: u32 = tallies.iter().map(|tally| tally.answered).sum();
    let longest = tallies.iter().map(|tally| tally.longest).max().unwrap_or_default();
    println!("{answered} requests answered, {lost} lost, the longest took {} ms", longest.as_millis());
    server.stop();
}

#[test]
fn the_only_worker_killed_means_a_wait_and_no_refusal() {
    let server = fixture().workers(1).start();
    let (address, worker) = (server.address(), server.workers()[0]);
    server.signal(worker, SIGKILL);
    server.wait_for("the worker's death", || count(&server, "killed by SIGKILL").gt(&0).then_some(()));
    let asked = Instant::now();
    let answer = get(address, "/sleep/0").expect("the queue outlives the worker");
    println!("answered by its successor after {} ms", asked.elapsed().as_millis());
    assert_ne!(answer.body, worker.to_string());
    server.stop();
}

#[test]
fn nobody_waits_for_the_child_that_a_dead_worker_leaves_behind() {
    let mut server = fixture().workers(1).start();
    let (address, worker) = (server.address(), server.workers()[0]);
    let child: u32 = get(address, "/child").expect("an answer").body.parse().expect("a pid");
    server.signal(worker, SIGKILL);
    server.wait_until("a new worker", |status| {
        status["workers"][0]["restarts"] == 1 && status["workers"][0]["state"] == "serving"
    });
    assert_eq!(get(address, "/").expect("an answer").status, 200);
    let asked = Instant::now();
    server.signal(server.pid(), SIGTERM);
    assert!(server.wait().success());
    println!("stopped after {} ms with a worker's child alive", asked.elapsed().as_millis());
    assert!(asked.elapsed() < Duration::from_secs(10), "nobody waits for it");
    let left: Vec<u32> = server.processes().into_iter().map(|(pid, _)| pid).collect();
    assert_eq!(left, [child], "it has everything open still");
    let refused = TcpStream::connect(address).expect_err("nobody takes connections");
    assert_eq!(refused.kind(), ErrorKind::ConnectionRefused);
    let next = fixture().run_dir(server.run_dir()).listen(address).start();
    assert_eq!(get(address, "/").expect("an answer").status, 200);
    next.stop();
}

#[test]
fn a_worker_that_exits_at_once_again_and_again_disturbs_no_other() {
    let scratch = tempfile::tempdir().expect("a directory");
    let cause = scratch.path().join("cause");
    let server = fixture()
        .workers(3)
        .configuration("[restart]\nintensity = 2\nperiod = 5\nbackoff_max = 0.4\n")
        .variable("FIXTURE", format!("exit-if {}", cause.display()))
        .start();
    let (address, workers) = (server.address(), server.workers());
    File::create(&cause).expect("make the cause");
    server.signal(workers[0], SIGKILL);
    server.wait_for_log("exited with 0; dies too often, restarting in ");
    // A bounded look at what does not happen: nothing else dies, the log is not flooded.
    let (until, before) = (Instant::now() + Duration::from_secs(3), server.log().lines().count());
    while Instant::now() < until {
        let status = server.status();
        assert_eq!(status["state"], "degraded");
        assert_eq!(
            (&status["workers"][1]["pid"], &status["workers"][2]["pid"]),
            (&workers[1].into(), &workers[2].into())
        );
        let answer = get(address, "/sleep/10").expect("an answer");
        assert!(workers[1..].iter().any(|pid| answer.body == pid.to_string()));
    }
    let lines = server.log().lines().count() - before;
    // Delays of 50 to 100, 100 to 200, then 200 to 400 ms, and one line for each death.
    assert!((4..=20).contains(&lines), "{lines} lines in 3 s");
    fs::remove_file(&cause).expect("remove the cause");
    let status = server.wait_until("serving again", |status| status["state"] == "serving");
    assert_eq!(status["workers"][0]["last_exit"], "exited with 0");
    let restarts = status["workers"][0]["restarts"].as_u64().expect("a count");
    assert!((5..=30).contains(&restarts), "{restarts} restarts");
    assert_eq!(server.workers()[1..], workers[1..]);
    server.stop();
}

#[test]
fn a_worker_that_exits_at_once_at_first_start_fails_the_start() {
    let asked = Instant::now();
    let mut server = fixture().variable("FIXTURE", "exit").launch();
    assert_eq!(server.wait().code(), Some(1));
    println!("gave up after {} ms", asked.elapsed().as_millis());
    assert!(asked.elapsed() < Duration::from_secs(10));
    let log = server.log();
    let reason = log.lines().last().unwrap_or_default();
    assert!(reason.starts_with("fixture: fixture did not start: worker "), "{reason}");
    assert!(reason.ends_with(" generation 1: exited with 0"), "{reason}");
    assert!(!log.contains("serving on"));
    assert!(server.processes().is_empty());
}

#[test]
fn a_killed_zygote_is_started_again_and_forks_again() {
    let server = fixture().start();
    let (zygote, workers) = (server.helper("zygote"), server.workers());
    server.signal(zygote, SIGKILL);
    server.wait_for_log(&format!("zygote generation 1 pid {zygote}: killed by SIGKILL; restarting\n"));
    server.wait_until("another zygote", |status| {
        let mut helpers = status["helpers"].as_array().expect("helpers").iter();
        helpers.any(|helper| helper["name"] == "zygote" && helper["restarts"] == 1 && helper["state"] == "serving")
    });
    assert_eq!(server.workers(), workers, "no worker needs its zygote");
    server.signal(workers[1], SIGKILL);
    let status = server
        .wait_until("another worker", |status| status["workers"][1]["restarts"] == 1 && status["state"] == "serving");
    assert_eq!(status["workers"][0]["pid"], workers[0]);
    server.stop();
}

#[test]
fn a_zygote_is_started_again_from_an_executable_that_is_deleted() {
    let scratch = tempfile::tempdir().expect("a directory");
    let copy = scratch.path().join("fixture");
    copy_program(&example("fixture"), &copy);
    let server = Server::of(&copy).workers(1).start();
    // From here on the program cannot be asked for its status: the log and the clients tell.
    let (address, zygote, worker) = (server.address(), server.helper("zygote"), server.workers()[0]);
    fs::remove_file(&copy).expect("delete the program");
    server.signal(zygote, SIGKILL);
    server.wait_for("another zygote", || (count(&server, ": loaded") == 2).then_some(()));
    server.signal(worker, SIGKILL);
    server.wait_for("another worker", || (count(&server, ": ready") == 3).then_some(()));
    assert_ne!(get(address, "/sleep/0").expect("an answer").body, worker.to_string());
    server.stop();
}

#[test]
fn a_killed_log_helper_is_replaced_and_what_is_logged_after_its_death_arrives() {
    let server = fixture().start();
    let (address, log) = (server.address(), server.helper("log"));
    assert_eq!(get(address, "/log/1").expect("an answer").status, 200);
    server.wait_for_log("] record 0\n");
    server.signal(log, SIGKILL);
    server.wait_for("its death", || server.processes().iter().all(|&(pid, _)| pid != log).then_some(()));
    // Perhaps before the new one lives: nobody waits for it.
    assert_eq!(get(address, "/log/3").expect("an answer").status, 200);
    server.wait_for_log("] record 1\n");
    server.wait_for_log("] record 2\n");
    server.wait_for_log(&format!("helper log pid {log}: killed by SIGKILL; restarting\n"));
    let status = server.wait_until("another log helper", |status| status["state"] == "serving");
    let helpers = status["helpers"].as_array().expect("helpers");
    let helper = helpers.iter().find(|helper| helper["name"] == "log").expect("a log helper");
    assert_eq!((helper["restarts"].as_u64(), helper["last_exit"].as_str()), (Some(1), Some("killed by SIGKILL")));
    server.stop();
}

#[test]
fn workers_that_end_before_they_are_told_to_are_not_accused() {
    let mut server = fixture().workers(8).start();
    // As systemd stops a service: the workers drain while the master's order is on its way.
    server.signal_all(SIGTERM);
    assert!(server.wait().success());
    let log = server.log();
    assert!(!log.contains("broke the rules") && !log.contains("ending it"));
    assert_eq!(count(&server, ": exited with 0"), 9, "eight workers and the zygote");
    assert!(server.processes().is_empty());
}
