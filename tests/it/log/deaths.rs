//! Processes that die right after they have logged, and the last lines of those that end in order.

use nix::libc::SIGTERM;

use super::{Site, Way, over_both_ways};
use crate::client::get;

/// Deaths of one test; two hundred are a benchmark's.
const DEATHS: usize = 20;

/// A core would be left behind.
const WITHOUT_CORES: &[&str] = &["prlimit", "--core=0:0"];

const AT_ONCE: &str = "[restart]\nintensity = 1000\nperiod = 1\n";

over_both_ways! {
    what_was_logged_before_a_death_is_in_the_file,
    twenty_workers_killed_after_a_log_call_have_said_it_once,
    the_last_line_of_the_last_worker_is_in_the_file,
    a_worker_that_nobody_waits_for_has_its_last_line_in_the_file,
}

/// Socket: errors and panics are sent at once, all else waits for the end of the loop's turn.
fn what_was_logged_before_a_death_is_in_the_file(way: Way) {
    let ends: &[(&str, &str)] = match way {
        Way::Ring => &[("kill", "killed by SIGKILL"), ("abort", "killed by SIGABRT"), ("segv", "killed by SIGSEGV")],
        Way::Socket => &[("kill-error", "killed by SIGKILL")],
    };
    let site = Site::new(way);
    let server = site.server("", AT_ONCE).workers(1).under(WITHOUT_CORES).start();
    let address = server.address();
    let mut words = Vec::new();
    for (number, (how, end)) in (1..).zip(ends) {
        let pid = get(address, "/").expect("an answer").body;
        get(address, &format!("/die/{how}")).expect_err("it dies before it answers");
        let status = server.wait_until("its successor", |status| {
            status["workers"][0]["restarts"] == number && status["state"] == "serving"
        });
        assert!(status["workers"][0]["last_exit"].as_str().is_some_and(|told| told.starts_with(end)), "{status}");
        words.push(format!("last words of {pid}"));
    }
    let pid = get(address, "/").expect("an answer").body;
    assert_eq!(get(address, "/die/panic").expect("the process lives").status, 204);
    let panicked = format!(": last words of {pid}\n");
    server.wait_for("the panic", || site.book_so_far().messages().any(|said| said.contains(&panicked)).then_some(()));
    // `Server::stop` takes a panic for a fault.
    let mut server = server;
    server.signal(server.pid(), SIGTERM);
    assert!(server.wait().success());
    let book = site.book_so_far();
    words.iter().for_each(|said| assert_eq!(book.count(said), 1, "{said}"));
}

fn twenty_workers_killed_after_a_log_call_have_said_it_once(way: Way) {
    let how = match way {
        Way::Ring => "/die/kill",
        Way::Socket => "/die/kill-error",
    };
    let site = Site::new(way);
    let server = site.server("", AT_ONCE).workers(2).start();
    let address = server.address();
    let mut seen = Vec::new();
    for number in 1..=DEATHS as u64 {
        seen.extend(server.workers());
        get(address, how).expect_err("it dies before it answers");
        server.wait_until("its successor", |status| {
            let workers = status["workers"].as_array().into_iter().flatten();
            status["state"] == "serving"
                && workers.filter_map(|worker| worker["restarts"].as_u64()).sum::<u64>() == number
        });
    }
    let left = server.workers();
    let book = site.stop(server);
    seen.retain(|pid| !left.contains(pid));
    seen.sort_unstable();
    seen.dedup();
    assert_eq!(seen.len(), DEATHS);
    let said: Vec<usize> = seen.iter().map(|pid| book.count(&format!("last words of {pid}"))).collect();
    assert_eq!(said, [1; DEATHS], "each has said it, once");
}

fn the_last_line_of_the_last_worker_is_in_the_file(way: Way) {
    for _ in 0..3 {
        let site = Site::new(way);
        let server = site.server("", "").workers(3).start();
        get(server.address(), "/number/1000").expect("an answer");
        let book = site.stop(server);
        for slot in 0..3 {
            assert_eq!(book.count(&format!("the last line of worker {slot}")), 1);
        }
        // The master's own way is another one than a socket.
        if way == Way::Socket {
            continue;
        }
        let after = book.lines.iter().position(|line| line["message"] == "the last line of worker 2").expect("it");
        let ended = |line: &serde_json::Value| {
            line["message"].as_str().is_some_and(|said| said.starts_with("worker 2 ") && said.contains("exited with 0"))
        };
        assert!(book.lines[after..].iter().any(ended));
    }
}

/// The master is killed: workers drain, the log helper ends after them.
fn a_worker_that_nobody_waits_for_has_its_last_line_in_the_file(way: Way) {
    let site = Site::new(way);
    let mut server = site.server("", "[timeouts]\ndrain = 2\nstop = 2\n").workers(2).start();
    get(server.address(), "/number/1000").expect("an answer");
    server.signal(server.pid(), nix::libc::SIGKILL);
    let _ = server.wait();
    server.wait_for("the end of all", || server.processes().is_empty().then_some(()));
    let book = site.book_so_far();
    for slot in 0..2 {
        assert_eq!(book.count(&format!("the last line of worker {slot}")), 1);
    }
}
