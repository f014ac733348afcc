//! A worker that writes garbage over its own ring: it harms itself alone.

use std::collections::BTreeMap;
use std::fs;
use std::time::{Duration, Instant};

use nix::libc::SIGKILL;
use serde_json::Value;

use super::writers::Logged;
use super::{Site, Way, stop};
use crate::client::get;

/// Of one second, what a log helper that has nothing to do may use of a processor on a busy machine.
const IDLE_SHARE_MAX: f64 = 0.3;

/// The socket has no memory that both share: what a peer there may say wrongly is in `tests/it/rules.rs`.
#[test]
fn a_worker_that_scribbles_over_its_ring_harms_itself_alone() {
    for what in ["all", "head", "records"] {
        let site = Site { ring: "1M", ..Site::new(Way::Ring) };
        let server = site.server("", "[restart]\nintensity = 100\nperiod = 1\n").workers(2).start();
        let (address, log_helper) = (server.address(), server.helper("log"));
        let mut logged = Logged::default();
        logged.ask(address, "/number/100");
        let hostile = get(address, &format!("/scribble/{what}")).expect("an answer").body;
        for _ in 0..40 {
            logged.ask(address, "/number/50");
        }
        let hostile: u32 = hostile.parse().expect("a pid");
        if what != "records" {
            server.wait_for("a word of it", || {
                site.book_so_far().messages().any(|said| said.starts_with("the log's ring of worker ")).then_some(())
            });
        }
        assert_idle(log_helper);
        assert_eq!(server.helper("log"), log_helper, "it lives");
        let slot = server.workers().iter().position(|pid| *pid == hostile).expect("it lives too");
        server.signal(hostile, SIGKILL);
        server.wait_until("its successor", |status| {
            status["workers"][slot]["restarts"] == 1 && status["state"] == "serving"
        });
        server.wait_for("the other one and the successor to log", || {
            logged.ask(address, "/number/50");
            (logged.of.keys().filter(|pid| **pid != u64::from(hostile)).count() == 2).then_some(())
        });
        assert_idle(log_helper);
        assert_eq!(server.helper("log"), log_helper, "it lives still");
        logged.assert_served();
        let refused = server.status()["log"]["refused"].clone();
        let counts = refused.as_object().expect("by level").values();
        assert_eq!(counts.filter_map(Value::as_u64).sum::<u64>(), 0, "{what}: nobody else has refused any: {refused}");
        // What a hostile process has counted need not add up, and that is said.
        let _ = stop(server);
        let sound: BTreeMap<_, _> = logged.of.into_iter().filter(|(pid, _)| *pid != u64::from(hostile)).collect();
        let book = site.book_so_far();
        assert_eq!(
            book.messages().find(|said| said.contains(" lost here")),
            None,
            "{what}: no count of its own is told"
        );
        book.assert_complete(&Logged { of: sound, ..Logged::default() });
    }
}

/// It neither spins nor waits for somebody's next lie.
fn assert_idle(pid: u32) {
    let used = || ticks(pid);
    let (before, begun) = (used(), Instant::now());
    std::thread::sleep(Duration::from_secs(1));
    let ticks_per_s = nix::unistd::sysconf(nix::unistd::SysconfVar::CLK_TCK).expect("sysconf").expect("a number");
    let share = (used() - before) as f64 / ticks_per_s as f64 / begun.elapsed().as_secs_f64();
    assert!(share < IDLE_SHARE_MAX, "the log helper uses {share:.2} of a processor");
}

/// Fields 14 and 15 of /proc/PID/stat, proc_pid_stat(5).
fn ticks(pid: u32) -> u64 {
    let stat = fs::read_to_string(format!("/proc/{pid}/stat")).expect("it lives");
    let fields = stat.rsplit_once(')').expect("its name").1.split_ascii_whitespace();
    fields.skip(11).take(2).map(|text| text.parse::<u64>().expect("a number")).sum()
}
