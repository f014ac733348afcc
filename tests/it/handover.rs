//! Helpers over a reload: kept, handed over, given back; and a reload in hard times.

use std::fs;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use forebay::testing::{Builder, Server};
use nix::libc::{SIGHUP, SIGKILL, SIGSTOP};
use serde_json::Value;

use crate::client::{copy_program, example};
use crate::load::Load;
use crate::reload::{SHORT, commit, configure, is_alone, reloads, roll_back};
use crate::simulator::Simulator;

fn gateway(text: &str) -> Server {
    Server::of(env!("CARGO_BIN_EXE_forebay")).configuration(&format!("{SHORT}{text}")).start()
}

/// Waits until this helper serves as this generation's.
fn wait_for(server: &Server, helper: &str, generation: u64) {
    server.wait_until(helper, |status| {
        let mut helpers = status["helpers"].as_array().into_iter().flatten();
        let is_it = |one: &Value| one["name"] == helper && one["generation"] == generation && one["state"] == "serving";
        status["state"] == "serving" && helpers.any(is_it)
    });
}

#[test]
fn a_helper_of_the_same_build_and_configuration_keeps_its_process() {
    let server = gateway("");
    let (nest, simulator) = (server.helper("nest"), server.helper("simulator"));
    let text = commit(&server);
    assert!(text.contains("kept: simulator, release") && text.contains("nest, release"), "{text}");
    assert_eq!((server.helper("nest"), server.helper("simulator")), (nest, simulator));
    // Another configuration of one of them.
    configure(&server, &format!("{SHORT}[nest]\ndead_link_s = 70\n"));
    let text = commit(&server);
    assert!(text.contains("helper nest handed over, away for") && !text.contains("nest, release"), "{text}");
    assert_ne!(server.helper("nest"), nest);
    assert_eq!(server.helper("simulator"), simulator);
    // It was kept, and crashes: the serving generation has it again.
    server.signal(simulator, SIGKILL);
    wait_for(&server, "simulator", 3);
    server.stop();
}

#[test]
fn the_upstream_sees_one_connection_close_before_the_next_opens() {
    let simulator = Simulator::start();
    let server = simulator.gateway("c.handed", "").start();
    simulator.wait_for_stream("c.handed", 1);
    let text = fs::read_to_string(server.directory().join("configuration.toml")).expect("its configuration");
    for total in 2..=5 {
        configure(&server, &format!("{text}dead_link_s = {}\n[timeouts]\nstable = 0\n", 60 + total));
        commit(&server);
        // It fails if two were ever open at once.
        simulator.wait_for_stream("c.handed", total);
    }
    // Kept: the connection too.
    commit(&server);
    assert_eq!(simulator.streams("c.handed").total, 5);
    server.stop();
    simulator.stop();
}

#[test]
fn another_secret_is_another_configuration() {
    let scratch = tempfile::tempdir().expect("a directory");
    let (token, next) = (scratch.path().join("token"), scratch.path().join("next"));
    fs::write(&token, "c.one\n").expect("write");
    let server = gateway(&format!("[nest]\ntoken_file = \"{}\"\n", token.display()));
    assert!(commit(&server).contains("nest, release"));
    fs::write(&next, "c.two\n").expect("write");
    fs::rename(&next, &token).expect("rename");
    assert!(commit(&server).contains("helper nest handed over"));
    fs::remove_file(&token).expect("remove");
    assert!(roll_back(&server).contains("[nest]: cannot read"));
    server.stop();
}

/// Gives a copy of a program another build id, as another build has.
fn rebuild(from: &Path, to: &Path) {
    copy_program(from, to);
    let mut bytes = fs::read(to).expect("read");
    // The note: lengths of owner and content, type, owner. elf(5).
    let note = [&4_u32.to_ne_bytes()[..], &20_u32.to_ne_bytes(), &3_u32.to_ne_bytes(), b"GNU\0"].concat();
    let at = bytes.windows(note.len()).position(|window| window == note).expect("a build id") + note.len();
    bytes[at] ^= 0xff;
    let new = to.with_extension("new");
    fs::write(&new, bytes).expect("write");
    copy_program(&new, to);
}

/// Releases side by side, and the link that a server is started by.
struct Releases {
    directory: tempfile::TempDir,
}

impl Releases {
    /// `one` and `two` are builds of the same program.
    fn of(program: &str) -> Self {
        let releases = Self { directory: tempfile::tempdir().expect("a directory") };
        let place = |name: &str| releases.directory.path().join(name);
        copy_program(&example(program), &place("one"));
        rebuild(&example(program), &place("two"));
        releases.switch("one");
        releases
    }

    fn switch(&self, name: &str) {
        let (current, next) = (self.current(), self.directory.path().join("next"));
        std::os::unix::fs::symlink(self.directory.path().join(name), &next).expect("a link");
        fs::rename(next, current).expect("rename");
    }

    fn current(&self) -> PathBuf {
        self.directory.path().join("current")
    }

    fn serve(&self) -> Builder {
        Server::of(self.current()).configuration(SHORT)
    }
}

#[test]
fn another_build_of_a_helper_is_deployed() {
    let releases = Releases::of("counter");
    let server = releases.serve().start();
    let counter = server.helper("counter");
    for (release, number) in [("two", 2), ("one", 3), ("two", 4)] {
        releases.switch(release);
        let text = commit(&server);
        assert!(text.contains("helper counter handed over, away for"), "{text}");
        wait_for(&server, "counter", number);
    }
    assert_ne!(server.helper("counter"), counter);
    let counter = server.helper("counter");
    assert!(commit(&server).contains("kept: counter"), "the same build");
    assert_eq!(server.helper("counter"), counter);
    server.stop();
}

#[test]
fn a_helper_that_says_its_version_is_kept_over_builds() {
    let releases = Releases::of("ledger");
    let server = releases.serve().start();
    let ledger = server.helper("ledger");
    releases.switch("two");
    let text = commit(&server);
    assert!(text.contains("kept: ledger, release 7"), "{text}");
    assert_eq!(server.helper("ledger"), ledger);
    server.stop();
}

#[test]
fn two_releases_meet_one_helper_in_both_directions() {
    // The second release's requests and answers have a field more than the first one's.
    let releases = Releases { directory: tempfile::tempdir().expect("a directory") };
    let place = |name: &str| releases.directory.path().join(name);
    copy_program(&example("ledger"), &place("one"));
    copy_program(&example("ledger_next"), &place("two"));
    releases.switch("one");
    let server = releases.serve().start();
    let load = Load::start(server.address(), "/add/3", 4);
    for release in ["two", "one", "two", "one"] {
        releases.switch(release);
        let text = commit(&server);
        assert!(text.contains("helper ledger handed over"), "{text}");
    }
    for tally in load.finish() {
        assert!(tally.lost.is_empty() && tally.answered > 0, "{tally:?}");
    }
    server.stop();
}

#[test]
fn a_helper_that_does_not_let_go_is_proven_dead_before_its_successor_starts() {
    let server = gateway("[nest]\n");
    configure(&server, "[timeouts]\nstable = 0\nhang = 0.5\ndrain = 0.2\n[nest]\ndead_link_s = 71\n");
    let nest = server.helper("nest");
    server.signal(nest, SIGSTOP);
    server.signal(server.pid(), SIGHUP);
    server.wait_for_log("handing over helper nest");
    let json = server.wait_for("a result", || Some(reloads(&server)).filter(|json| json["finished"] == 1));
    assert!(json["last"]["outcome"].is_string(), "{json}");
    server.wait_until("serving", |status| status["state"] == "serving" && is_alone(status));
    assert_ne!(server.helper("nest"), nest);
    let titles: Vec<String> = server.processes().into_iter().map(|(_, title)| title).collect();
    assert_eq!(titles.iter().filter(|title| title.contains("helper nest")).count(), 1, "{titles:?}");
    let log = server.log();
    let (died, began) =
        (log.find(&format!("pid {nest}: ")).expect("its obituary"), log.rfind("helper nest").expect("it"));
    assert!(died < began, "{log}");
    server.stop();
}

// ---- hard times -------------------------------------------------------------------------------

#[test]
fn with_every_core_busy_no_time_out_is_taken_for_a_fault() {
    let server = Server::of(example("fixture")).workers(3).configuration("[timeouts]\nstable = 0.3\n").start();
    let stop = Arc::new(AtomicBool::new(false));
    let spin = |_| {
        let stop = stop.clone();
        std::thread::spawn(move || {
            while !stop.load(Ordering::Relaxed) {
                std::hint::spin_loop();
            }
        })
    };
    let busy: Vec<_> = (0..8).map(spin).collect();
    for _ in 0..3 {
        commit(&server);
    }
    stop.store(true, Ordering::Relaxed);
    busy.into_iter().for_each(|thread| thread.join().expect("it only spins"));
    server.stop();
}

#[test]
fn as_a_services_user_it_reloads_as_at_its_start_and_from_a_directory_that_is_gone() {
    if !nix::unistd::geteuid().is_root() {
        return println!("SKIPPED: changing the user takes root");
    }
    let scratch = tempfile::tempdir().expect("a directory");
    fs::set_permissions(scratch.path(), std::os::unix::fs::PermissionsExt::from_mode(0o755)).expect("chmod");
    let gone = scratch.path().join("gone");
    fs::create_dir(&gone).expect("a directory");
    let script = format!("cd {} && exec \"$@\"", gone.display());
    let text = format!("user = \"nobody\"\n{SHORT}");
    let server = Server::of(example("fixture")).configuration(&text).under(&["sh", "-c", &script, "sh"]);
    let server = server.run_dir(scratch.path().join("run")).start();
    fs::remove_dir(&gone).expect("nobody needs it");
    commit(&server);
    server.wait_until("one generation", is_alone);
    for pid in server.workers().into_iter().chain([server.helper("zygote")]) {
        let status = fs::read_to_string(format!("/proc/{pid}/status")).expect("its status");
        assert!(status.contains("\nUid:\t65534\t65534\t65534\t65534\n"), "{status}");
        assert!(status.contains("\nCapEff:\t0000000000000000\n") && status.contains("\nNoNewPrivs:\t1\n"), "{status}");
    }
    server.stop();
}
