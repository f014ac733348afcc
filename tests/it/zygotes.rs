//! A zygote that is killed around an order to fork: the order is given again, and nobody lives twice.

use std::fs;
use std::os::unix::fs::MetadataExt;
use std::path::Path;
use std::time::{Duration, Instant};

use forebay::testing::{Builder, Server};
use nix::libc::{SIGCONT, SIGKILL, SIGTTIN};
use serde_json::Value;

use crate::client::{copy_program, example, get};
use crate::hangs::pause;
use crate::reload::configure;

/// Many deaths are mended at once.
const PATIENT: &str = "[restart]\nintensity = 1000\n";

/// The workers before and after each round.
const WORKERS: u16 = 2;

/// Master, log helper, zygote.
const OTHERS: usize = 3;

fn fixture() -> Builder {
    Server::of(example("fixture")).workers(WORKERS).configuration(PATIENT)
}

/// When the zygote is killed.
#[derive(Clone, Copy, Debug)]
enum Moment {
    /// Before the master knows what it is to order.
    Before,
    /// The order lies unread in the zygote's socket.
    Unread,
    /// The zygote has forked, and its answer lies unread in the master's socket.
    Forked,
    /// So long after the cause of the order: around its way, the fork, and the birth.
    After(Duration),
}

const MOMENTS: [Moment; 12] = [
    Moment::Before,
    Moment::Unread,
    Moment::Forked,
    after(0),
    after(50),
    after(100),
    after(200),
    after(400),
    after(800),
    after(1600),
    after(3200),
    after(6400),
];

const fn after(microseconds: u64) -> Moment {
    Moment::After(Duration::from_micros(microseconds))
}

/// What makes the master order a worker.
#[derive(Clone, Copy, Debug)]
enum Cause {
    /// One worker more is wanted.
    Scale,
    /// This slot's worker is killed.
    Crash(usize),
}

/// Kills the zygote at this moment of a birth, and waits until all is well.
fn kill_around_a_birth(server: &Server, cause: Cause, moment: Moment) {
    let (zygote, workers) = (server.helper("zygote"), server.workers());
    let happens = || match cause {
        Cause::Scale => server.signal(server.pid(), SIGTTIN),
        Cause::Crash(slot) => server.signal(workers[slot], SIGKILL),
    };
    let is_ordered = || match cause {
        Cause::Scale => server.status()["workers"][workers.len()].is_object(),
        Cause::Crash(slot) => server.log().contains(&format!("pid {}: killed by SIGKILL; restarting", workers[slot])),
    };
    match moment {
        Moment::Before => server.signal(zygote, SIGKILL),
        Moment::Unread | Moment::Forked => pause(server, zygote),
        Moment::After(_) => {}
    }
    let caused = Instant::now();
    happens();
    match moment {
        Moment::Before => {}
        Moment::Unread => server.wait_for("the order", || is_ordered().then_some(())),
        Moment::Forked => {
            server.wait_for("the order", || is_ordered().then_some(()));
            pause(server, server.pid());
            server.signal(zygote, SIGCONT);
            let is_newborn = |(_, title): &(u32, String)| title.contains("newborn");
            server.wait_for("the fork", || server.processes().iter().any(is_newborn).then_some(()));
        }
        // Not a sleep, which would be longer than all of this.
        Moment::After(time) => {
            while caused.elapsed() < time {
                std::hint::spin_loop();
            }
        }
    }
    server.signal(zygote, SIGKILL);
    // Not to one that runs: the kernel would take a TTIN from it that it has not heard yet, signal(7).
    if matches!(moment, Moment::Forked) {
        server.signal(server.pid(), SIGCONT);
    }
    let (wanted, replaced) = match cause {
        Cause::Scale => (workers.len() + 1, None),
        Cause::Crash(slot) => (workers.len(), Some((slot, workers[slot]))),
    };
    server.wait_until("all serving, with another zygote", |status| {
        let is_another = helper(status, "zygote")["pid"].as_u64().is_some_and(|pid| pid != u64::from(zygote));
        let is_new = replaced.is_none_or(|(slot, old)| status["workers"][slot]["pid"] != old);
        status["state"] == "serving" && is_another && is_new && serving(status) == wanted
    });
    for (slot, (now, before)) in server.workers().iter().zip(&workers).enumerate() {
        assert_eq!(now == before, replaced.is_none_or(|(other, _)| other != slot), "{cause:?} {moment:?}: slot {slot}");
    }
    // Whoever was born of an order that was forgotten ends by itself.
    server.wait_for("nobody else", || (server.processes().len() == OTHERS + wanted).then_some(()));
}

fn helper<'a>(status: &'a Value, name: &str) -> &'a Value {
    let mut helpers = status["helpers"].as_array().expect("helpers").iter();
    helpers.find(|helper| helper["name"] == name).expect("a helper of this name")
}

/// How many workers serve, if there are no others.
fn serving(status: &Value) -> usize {
    let workers = status["workers"].as_array().expect("workers");
    if workers.iter().all(|worker| worker["state"] == "serving") { workers.len() } else { 0 }
}

fn scale_back(server: &Server) {
    assert!(server.command(&["scale", &WORKERS.to_string()]).status.success());
    let all = OTHERS + usize::from(WORKERS);
    server.wait_for("the end of the last one", || (server.processes().len() == all).then_some(()));
}

#[test]
fn a_zygote_that_dies_around_a_scale_is_told_again() {
    let server = fixture().start();
    for moment in MOMENTS {
        kill_around_a_birth(&server, Cause::Scale, moment);
        scale_back(&server);
    }
    assert!(!server.log().contains("broke the rules"));
    server.stop();
}

#[test]
fn a_zygote_that_dies_around_the_rebirth_of_a_worker_is_told_again() {
    let server = fixture().start();
    for (round, moment) in MOMENTS.into_iter().enumerate() {
        kill_around_a_birth(&server, Cause::Crash(round % 2), moment);
        assert_eq!(get(server.address(), "/").expect("an answer").status, 200);
    }
    assert!(!server.log().contains("broke the rules"));
    server.stop();
}

/// Which file a process executes, or a path leads to.
fn file(path: impl AsRef<Path>) -> (u64, u64) {
    let found = fs::metadata(path).expect("it is there");
    (found.dev(), found.ino())
}

#[test]
fn whoever_is_born_later_is_of_the_program_and_the_configuration_that_were_started() {
    let scratch = tempfile::tempdir().expect("a directory");
    let (program, next) = (scratch.path().join("fixture"), scratch.path().join("next"));
    copy_program(&example("fixture"), &program);
    let script = format!("shift; exec {} \"$@\"", program.display());
    // What asks for the status is another copy.
    let server = fixture().under(&["sh", "-c", &script, "sh"]).start();
    let started = file(&program);
    let moments = [Moment::Before, Moment::Unread, Moment::Forked, after(200)];
    let all_are_of_it = || {
        for pid in server.workers().into_iter().chain([server.helper("zygote")]) {
            assert_eq!(file(format!("/proc/{pid}/exe")), started);
        }
    };
    // Another program and another configuration are in their places.
    fs::write(&next, "no program\n").expect("write");
    fs::rename(&next, &program).expect("rename");
    configure(&server, "no configuration\n");
    for moment in moments {
        kill_around_a_birth(&server, Cause::Scale, moment);
        kill_around_a_birth(&server, Cause::Crash(0), moment);
        all_are_of_it();
        scale_back(&server);
    }
    // Nothing is.
    fs::remove_file(&program).expect("remove");
    fs::remove_file(server.directory().join("configuration.toml")).expect("remove");
    for moment in moments {
        kill_around_a_birth(&server, Cause::Crash(1), moment);
        all_are_of_it();
    }
    assert_eq!(get(server.address(), "/").expect("an answer").status, 200);
    server.stop();
}
