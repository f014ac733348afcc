//! The log helper killed, again and again: what it had not written its successor writes.

use std::time::{Duration, Instant};

use forebay::testing::Server;
use nix::libc::SIGKILL;

use super::writers::{Logged, Writers};
use super::{Site, Way, over_both_ways};

/// Kills of one test; two hundred are a benchmark's.
const KILLS: usize = 20;

/// No request waits for the log; how short that is on a quiet machine is a benchmark's matter.
const ANSWERED_WITHIN: Duration = Duration::from_secs(5);

/// Whoever dies is replaced at once, however often.
const AT_ONCE: &str = "[restart]\nintensity = 1000\nperiod = 1\n";

over_both_ways! {
    a_log_helper_killed_under_load_loses_nothing,
    a_log_helper_that_is_killed_as_soon_as_it_lives_stops_nobody,
    a_log_helper_killed_while_a_rotation_is_on_writes_to_one_file,
}

/// The log helper's process, if it has one: without asking the master, who may be busy.
fn log_helper(server: &Server) -> Option<u32> {
    server.processes().into_iter().find(|(_, title)| title == "chatter: helper log").map(|(pid, _)| pid)
}

/// Kills the log helper and waits for the next one.
fn kill_log_helper(server: &Server) {
    let before = server.wait_for("a log helper", || log_helper(server));
    server.signal(before, SIGKILL);
    server.wait_for("its successor", || log_helper(server).filter(|pid| *pid != before));
}

/// Socket: what the killed one had read and what lay in its sockets is gone; nothing is there twice.
fn a_log_helper_killed_under_load_loses_nothing(way: Way) {
    let site = Site::new(way);
    let server = site.server("", AT_ONCE).workers(3).start();
    let address = server.address();
    let writers = Writers::start(address, 4, 10);
    for _ in 0..KILLS {
        let before = site.written();
        server.wait_for("more records", || (site.written() > before + 20_000).then_some(()));
        kill_log_helper(&server);
    }
    let mut logged = writers.finish();
    logged.assert_served();
    println!("{} records, the longest request took {} ms", logged.total(), logged.longest.as_millis());
    assert!(logged.longest < ANSWERED_WITHIN);
    server.wait_until("serving", |status| status["state"] == "serving");
    let mut after = Logged::default();
    after.ask(address, "/number/100");
    let book = site.stop(server);
    match way {
        Way::Ring => {
            logged.merge(after);
            book.assert_complete(&logged);
            book.assert_losses_are_told_in_their_place();
        }
        Way::Socket => {
            println!("{} lost with the log helpers' sockets", book.absent(&logged));
            book.assert_in_order();
            assert_eq!(book.absent(&after), 0, "what comes after the last one is there");
        }
    }
}

/// Ring: kept up to the ring, the rest counted. Socket: kept up to 4 MiB for each process, but what it had handed to a
/// log helper that was killed then is lost.
fn a_log_helper_that_is_killed_as_soon_as_it_lives_stops_nobody(way: Way) {
    let site = Site::narrow(way);
    let rest = "[restart]\nintensity = 3\nperiod = 5\nbackoff_max = 0.3\n";
    let server = site.server("", rest).workers(2).start();
    let writers = Writers::start(server.address(), 3, 20);
    let (end, mut killed) = (Instant::now() + Duration::from_secs(4), 0);
    while Instant::now() < end {
        if let Some(pid) = log_helper(&server) {
            server.signal(pid, SIGKILL);
            killed += 1;
            server.wait_for("its end", || (log_helper(&server) != Some(pid)).then_some(()));
        }
        std::thread::sleep(Duration::from_millis(2));
    }
    let logged = writers.finish();
    logged.assert_served();
    assert!(killed > 5, "killed {killed} times");
    assert!(logged.longest < ANSWERED_WITHIN, "{:?}", logged.longest);
    server.wait_until("serving", |status| status["state"] == "serving");
    let book = site.stop(server);
    book.assert_in_order();
    println!("{} records, {killed} log helpers, {} lost", logged.total(), book.absent(&logged));
    if way == Way::Ring {
        book.assert_losses_are_told_in_their_place();
        book.assert_written_and_refused_are(&logged);
    }
}

/// Whoever was killed between the old file and the new one has written each line once.
fn a_log_helper_killed_while_a_rotation_is_on_writes_to_one_file(way: Way) {
    let site = Site::new(way);
    let server = site.server("", AT_ONCE).workers(2).start();
    let writers = Writers::start(server.address(), 3, 10);
    let mut files = Vec::new();
    for number in 0..KILLS / 2 {
        let before = site.written();
        server.wait_for("more records", || (site.written() > before + 5_000).then_some(()));
        let old = site.path(&format!("log.json.{number}"));
        std::fs::rename(site.path("log.json"), &old).expect("rename");
        files.push(old);
        server.signal(server.pid(), nix::libc::SIGUSR1);
        if let Some(pid) = log_helper(&server) {
            server.signal(pid, SIGKILL);
            server.wait_until("its end", |status| {
                let mut helpers = status["helpers"].as_array().into_iter().flatten();
                helpers.all(|helper| helper["pid"] != pid)
            });
        }
        server.wait_for("the new file", || site.path("log.json").exists().then_some(()));
    }
    let logged = writers.finish();
    logged.assert_served();
    // One that dies when all others are gone has no successor.
    server.wait_until("a log helper that lives", |status| status["state"] == "serving");
    let _ = site.stop(server);
    files.push(site.path("log.json"));
    let book = super::book::Book::read(&files);
    book.assert_in_order();
    if way == Way::Ring {
        book.assert_complete(&logged);
    }
}
