//! A reload commits or rolls back, and never breaks the service.

use std::fs;
use std::net::{SocketAddr, TcpListener};
use std::os::unix::fs::symlink;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Output, Stdio};

use forebay::testing::{Builder, Server};
use nix::libc::{SIGHUP, SIGKILL};
use serde_json::Value;

use crate::client::{copy_program, example, get};
use crate::load::Load;
use crate::traffic::{FRESH, IDLE, KEPT, SLOW, Traffic};

/// A short proof, so that tests are fast.
pub(crate) const SHORT: &str = "[timeouts]\nstable = 0.05\n";

fn fixture() -> Builder {
    Server::of(example("fixture")).configuration(SHORT)
}

pub(crate) fn reload(server: &Server) -> Output {
    server.command(&["reload"])
}

/// The same, by a process that waits for it; of the fixture.
pub(crate) fn begin_reload(server: &Server) -> Child {
    let mut asking = Command::new(example("fixture"));
    asking.arg("reload").arg("--run-dir").arg(server.run_dir()).stdout(Stdio::piped()).stderr(Stdio::piped());
    asking.spawn().expect("the program starts")
}

/// Kills one of a generation that is being proven.
pub(crate) fn kill_a_new_worker(server: &Server, generation: u64) {
    let status = server.status();
    let mut workers = status["workers"].as_array().expect("workers").iter();
    let new = workers.find(|worker| worker["generation"] == generation).and_then(|worker| worker["pid"].as_u64());
    server.signal(u32::try_from(new.expect("a new one")).expect("a pid"), SIGKILL);
}

pub(crate) fn said(output: &Output) -> String {
    String::from_utf8_lossy(&[&output.stdout[..], &output.stderr].concat()).into_owned()
}

/// A reload that takes over.
pub(crate) fn commit(server: &Server) -> String {
    let output = reload(server);
    assert_eq!(output.status.code(), Some(0), "{}", said(&output));
    said(&output)
}

/// A reload that is to leave everything as it was; returns why.
pub(crate) fn roll_back(server: &Server) -> String {
    server.wait_until("one generation", is_alone);
    let before = (server.workers(), server.helper("zygote"), server.status()["generation"].clone());
    let output = reload(server);
    assert_eq!(output.status.code(), Some(1), "{}", said(&output));
    let status = server.wait_until("what was", |status| status["state"] == "serving" && is_alone(status));
    assert_eq!((server.workers(), server.helper("zygote"), status["generation"].clone()), before, "{}", said(&output));
    assert_eq!(status["last_reload"]["outcome"], "rolled_back");
    let reason = status["last_reload"]["reason"].as_str().expect("a reason");
    assert!(said(&output).contains(reason), "{reason}: {}", said(&output));
    assert!(get(server.address(), "/").expect("an answer").status < 500);
    reason.to_owned()
}

/// Whether only one generation lives.
pub(crate) fn is_alone(status: &Value) -> bool {
    let workers = status["workers"].as_array().expect("workers");
    workers.iter().all(|worker| worker["generation"] == status["generation"])
}

pub(crate) fn configure(server: &Server, text: &str) {
    fs::write(server.directory().join("configuration.toml"), text).expect("write");
}

pub(crate) fn reloads(server: &Server) -> Value {
    let text = fs::read_to_string(server.run_dir().join("reload.json")).expect("it is there");
    serde_json::from_str(&text).expect("JSON")
}

#[test]
fn a_reload_replaces_every_worker_and_says_each_step() {
    let server = fixture().workers(3).start();
    let (before, zygote) = (server.workers(), server.helper("zygote"));
    let text = commit(&server);
    let steps = [
        "begun",
        "zygote loaded",
        "workers ready 3 of 3",
        "new workers accept",
        "stable for 50 ms",
        "committed",
        "generation 2 serves after",
    ];
    let mut rest = text.as_str();
    for step in steps {
        let (_, after) = rest.split_once(&format!("fixture: {step}")).unwrap_or_else(|| panic!("{step}: {text}"));
        rest = after;
    }
    let status = server.wait_until("one generation", |status| status["state"] == "serving" && is_alone(status));
    assert_eq!((&status["generation"], &status["last_reload"]["outcome"]), (&2.into(), &"committed".into()));
    assert!(server.workers().iter().all(|pid| !before.contains(pid)));
    assert_ne!(server.helper("zygote"), zygote);
    let json = reloads(&server);
    assert_eq!((&json["asked"], &json["finished"], &json["last"]["generation"]), (&1.into(), &1.into(), &2.into()));
    server.stop();
}

#[test]
fn a_hup_is_a_reload_that_a_script_can_check() {
    let server = fixture().start();
    assert_eq!(reloads(&server), serde_json::json!({"asked": 0, "finished": 0, "last": null}));
    server.signal(server.pid(), SIGHUP);
    let json = server.wait_for("its result", || Some(reloads(&server)).filter(|json| json["finished"] == 1));
    assert_eq!(json["last"]["outcome"], "committed");
    configure(&server, "workers = 0\n");
    server.signal(server.pid(), SIGHUP);
    let json = server.wait_for("its result", || Some(reloads(&server)).filter(|json| json["finished"] == 2));
    assert_eq!(json["last"]["outcome"], "rolled_back");
    server.stop();
}

#[test]
fn a_wrong_configuration_is_refused_with_file_line_and_key_and_a_crash_is_still_mended() {
    let server = fixture().start();
    configure(&server, "workers = 2\n[timeouts]\nstable = -1\nraedy = 3\n");
    let reason = roll_back(&server);
    let file = server.directory().join("configuration.toml");
    assert!(reason.starts_with(&format!("{}:3: `timeouts.stable`", file.display())), "{reason}");
    assert!(reason.contains(&format!("{}:4: ", file.display())), "{reason}");
    // Deleted: no word for the defaults.
    fs::remove_file(&file).expect("remove");
    assert!(roll_back(&server).starts_with(&format!("cannot read {}", file.display())));
    server.signal(server.workers()[0], SIGKILL);
    server.wait_until("a new worker", |status| status["workers"][0]["restarts"] == 1 && status["state"] == "serving");
    configure(&server, SHORT);
    commit(&server);
    server.stop();
}

/// A program that `current` leads to, as releases are deployed.
pub(crate) struct Releases {
    directory: tempfile::TempDir,
}

impl Releases {
    pub(crate) fn new() -> Self {
        let releases = Self { directory: tempfile::tempdir().expect("a directory") };
        releases.add("good", |program| copy_program(&example("fixture"), program));
        releases.switch("good");
        releases
    }

    pub(crate) fn add(&self, name: &str, make: impl FnOnce(&Path)) {
        fs::create_dir(self.directory.path().join(name)).expect("a directory");
        make(&self.directory.path().join(name).join("fixture"));
    }

    pub(crate) fn switch(&self, name: &str) {
        let (current, next) = (self.directory.path().join("current"), self.directory.path().join("next"));
        symlink(self.directory.path().join(name), &next).expect("a link");
        fs::rename(next, current).expect("rename");
    }

    /// A server of the program that `current` leads to now, whose fault is what the file says. Commands
    /// are another copy's.
    pub(crate) fn serve(&self) -> Builder {
        let program = self.directory.path().join("current/fixture").display().to_string();
        let script = format!("shift; exec {program} \"$@\"");
        fixture().under(&["sh", "-c", &script, "sh"]).variable("FIXTURE", format!("as {}", self.fault().display()))
    }

    pub(crate) fn fault(&self) -> PathBuf {
        self.directory.path().join("fault")
    }
}

#[test]
fn a_release_that_is_no_good_leaves_the_old_one_and_the_next_good_one_works() {
    let releases = Releases::new();
    releases.add("text", |program| fs::write(program, "no program\n").expect("write"));
    let server = releases.serve().configuration("[timeouts]\nstable = 0\nready = 0.5\n").start();
    let table = [
        ("good", "exit-7", "exited with 7"),
        ("good", "hang", "not ready within 0.5 s"),
        ("good", "refuse-preload", "the table is missing"),
        ("text", "", "Permission denied"),
        ("gone", "", "cannot open the program"),
    ];
    for (release, fault, why) in table {
        fs::write(releases.fault(), fault).expect("write");
        releases.switch(release);
        let reason = roll_back(&server);
        assert!(reason.contains(why), "{release} {fault}: {reason}");
        fs::write(releases.fault(), "").expect("write");
        // Also without a program on disk, and without its zygote.
        let restarts = server.status()["workers"][1]["restarts"].as_u64().expect("a count");
        server.signal(server.helper("zygote"), SIGKILL);
        server.signal(server.workers()[1], SIGKILL);
        server.wait_until("both again", |status| {
            status["state"] == "serving" && status["workers"][1]["restarts"] == restarts + 1
        });
    }
    releases.add("better", |program| copy_program(&example("fixture"), program));
    releases.switch("better");
    commit(&server);
    let worker = server.workers()[0];
    let maps = fs::read_to_string(format!("/proc/{worker}/maps")).expect("its maps");
    assert!(maps.contains("/better/fixture"), "{maps}");
    server.stop();
}

#[test]
fn new_workers_that_fail_are_no_reload() {
    let releases = Releases::new();
    let server = releases.serve().workers(3).configuration("[timeouts]\nstable = 0.3\nready = 0.5\n").start();
    let load = Load::start(server.address(), "/", 2);
    let table = [("refuse", "no database"), ("exit", ": exited with 0"), ("never", "not ready within 0.5 s")];
    for (fault, why) in table {
        fs::write(releases.fault(), fault).expect("write");
        let reason = roll_back(&server);
        assert!(reason.starts_with("worker ") && reason.contains(why), "{fault}: {reason}");
    }
    for tally in load.finish() {
        assert!(tally.lost.is_empty() && tally.answered > 0, "{tally:?}");
    }
    server.stop();
}

#[test]
fn a_new_worker_that_crashes_while_it_is_proven_rolls_back() {
    let server = fixture().configuration("[timeouts]\nstable = 20\n").start();
    let old = server.workers();
    let asking = begin_reload(&server);
    server.wait_for_log("new workers accept");
    let status = server.status();
    assert_eq!(status["state"], "reloading");
    let workers = status["workers"].as_array().expect("workers");
    assert_eq!(workers.len(), 4, "both generations are shown: {status}");
    kill_a_new_worker(&server, 2);
    let output = asking.wait_with_output().expect("its end");
    assert_eq!(output.status.code(), Some(1), "{}", said(&output));
    assert!(said(&output).contains("generation 2: killed by SIGKILL"), "{}", said(&output));
    server.wait_until("the old ones", |status| status["state"] == "serving" && is_alone(status));
    assert_eq!(server.workers(), old);
    server.stop();
}

#[test]
fn every_caller_gets_the_result_of_a_run_that_began_after_it_asked() {
    let server = fixture().configuration("[timeouts]\nstable = 0.5\n").start();
    let ask = || begin_reload(&server);
    let first = ask();
    server.wait_for_log("reload 1 generation 2: begun");
    server.wait_for_log("zygote loaded");
    // What they ask for is another configuration than the first one got.
    configure(&server, "workers = nonsense\n");
    let others = [ask(), ask(), ask()];
    server.signal(server.pid(), SIGHUP);
    assert_eq!(first.wait_with_output().expect("its end").status.code(), Some(0));
    for other in others {
        let output = other.wait_with_output().expect("its end");
        assert_eq!(output.status.code(), Some(1), "{}", said(&output));
        assert!(said(&output).contains("configuration.toml:1"), "{}", said(&output));
    }
    let json = server.wait_for("all over", || Some(reloads(&server)).filter(|json| json["finished"] == 5));
    assert_eq!(json["asked"], 5);
    assert!(!server.log().contains("reload 3"), "three requests and a signal are one run");
    server.stop();
}

#[test]
fn whoever_waits_behind_a_reload_that_fails_gets_its_own_result() {
    let server = fixture().configuration("[timeouts]\nstable = 20\n").start();
    let ask = || begin_reload(&server);
    let first = ask();
    server.wait_for_log("reload 1 generation 2: new workers accept");
    configure(&server, SHORT);
    let second = ask();
    server.wait_for("the second request", || (reloads(&server)["asked"] == 2).then_some(()));
    // The first one is over with the death of the last process that was new: the second begins in that moment.
    kill_a_new_worker(&server, 2);
    assert_eq!(first.wait_with_output().expect("its end").status.code(), Some(1));
    let output = second.wait_with_output().expect("its end");
    assert_eq!(output.status.code(), Some(0), "{}", said(&output));
    server.wait_until("the third generation", |status| status["generation"] == 3 && is_alone(status));
    server.stop();
}

#[test]
fn whoever_asked_may_go_and_the_reload_goes_on() {
    let server = fixture().configuration("[timeouts]\nstable = 0.3\n").start();
    let output = server.command(&["reload", "--timeout", "0.1"]);
    assert_eq!(output.status.code(), Some(75), "{}", said(&output));
    assert!(said(&output).contains("it goes on"), "{}", said(&output));
    let mut killed = begin_reload(&server);
    server.wait_for("the second run", || (reloads(&server)["asked"] == 2).then_some(()));
    killed.kill().expect("it lives");
    killed.wait().expect("its end");
    let status = server.wait_until("both", |status| status["generation"] == 3 && status["state"] == "serving");
    assert_eq!(status["last_reload"]["outcome"], "committed");
    server.stop();
}

#[test]
fn signals_at_any_moment_end_clean() {
    // During start-up: remembered.
    let server = fixture().launch();
    server.wait_for_log("starting, run directory");
    server.signal(server.pid(), SIGHUP);
    server.wait_until("the second generation", |status| status["generation"] == 2 && status["state"] == "serving");
    // TERM in the middle of one.
    configure(&server, "[timeouts]\nstable = 20\n");
    server.signal(server.pid(), SIGHUP);
    server.wait_for_log("reload 2 generation 3: new workers accept");
    server.stop();
}

#[test]
fn killing_the_master_at_each_step_leaves_nothing_and_the_port_free() {
    for step in ["begun", "zygote loaded", "workers ready 1 of 2", "new workers accept", "committed"] {
        let mut server = fixture().configuration("[timeouts]\nstable = 0.2\ndrain = 1\n").start();
        let address = server.address();
        server.signal(server.pid(), SIGHUP);
        server.wait_for_log(&format!("reload 1 generation 2: {step}"));
        server.signal(server.pid(), SIGKILL);
        server.wait();
        server.wait_for("the end of all", || server.processes().is_empty().then_some(()));
        fixture().listen(address).run_dir(server.run_dir()).start().stop();
    }
}

#[test]
fn killing_a_zygote_at_each_step_fails_clean_or_is_mended() {
    for step in ["begun", "zygote loaded", "workers ready 1 of 2", "new workers accept"] {
        let server = fixture().configuration("[timeouts]\nstable = 0.5\n").start();
        server.signal(server.pid(), SIGHUP);
        server.wait_for_log(&format!("reload 1 generation 2: {step}"));
        for (pid, title) in server.processes() {
            if title.contains("zygote") {
                server.signal(pid, SIGKILL);
            }
        }
        let json = server.wait_for("a result", || Some(reloads(&server)).filter(|json| json["finished"] == 1));
        let outcome = json["last"]["outcome"].as_str().expect("an outcome").to_owned();
        let status = server.wait_until("serving", |status| status["state"] == "serving" && is_alone(status));
        assert_eq!(status["generation"], if outcome == "committed" { 2 } else { 1 }, "{step}");
        server.signal(server.workers()[0], SIGKILL);
        server.wait_until("a new worker", |status| {
            status["workers"][0]["last_exit"] == "killed by SIGKILL" && status["state"] == "serving"
        });
        server.stop();
    }
}

#[test]
fn settings_change_and_those_that_cannot_say_so() {
    let scratch = tempfile::tempdir().expect("a directory");
    let (one, two) = (scratch.path().join("one.pid"), scratch.path().join("two.pid"));
    let config = |pid: &Path, level: &str, workers: u16| {
        format!(
            "pid_file = \"{}\"\nworkers = {workers}\n[timeouts]\nstable = 0\n[log]\nlevel = \"{level}\"\n",
            pid.display()
        )
    };
    let server = fixture().configuration(&config(&one, "warn,forebay=info", 5)).start();
    get(server.address(), "/log/1").expect("an answer");
    configure(&server, &config(&two, "info", 5));
    let text = commit(&server);
    assert!(text.contains("`workers`: --workers beats the file"), "{text}");
    assert_eq!(fs::read_to_string(&two).expect("it is there"), format!("{}\n", server.pid()));
    assert!(!one.exists());
    get(server.address(), "/log/3").expect("an answer");
    server.wait_for_log("record 2");
    assert_eq!(server.log().matches("record 0").count(), 1, "the first was below the level");
    for (text, key) in
        [("run_dir = \"/nowhere\"\n", None), ("user = \"nobody\"\n", Some("user")), ("group = 4242\n", Some("group"))]
    {
        configure(&server, text);
        // A flag beats the file, so that changes nothing.
        match key {
            None => drop(commit(&server)),
            Some(_) if !nix::unistd::geteuid().is_root() => {}
            Some(key) => {
                let reason = roll_back(&server);
                assert!(reason.contains(&format!("`{key}` has changed")), "{reason}");
            }
        }
    }
    server.stop();
}

/// Listeners `a` and `b` of a configuration.
fn listening(addresses: &[(&str, String)]) -> String {
    let one = |(name, address): &(&str, String)| format!("[listener.{name}]\naddress = \"{address}\"\n");
    format!("{SHORT}{}", addresses.iter().map(one).collect::<String>())
}

fn free_address() -> SocketAddr {
    TcpListener::bind("127.0.0.1:0").and_then(|listener| listener.local_addr()).expect("a port")
}

#[test]
fn listeners_come_and_go() {
    let scratch = tempfile::tempdir().expect("a directory");
    let path = scratch.path().join("app.sock");
    let (a, b) = (free_address(), free_address());
    let unix = ("c", format!("unix:{}", path.display()));
    let server = fixture().configuration(&listening(&[("a", a.to_string()), unix.clone()])).start();
    let identity = |path: &Path| std::os::unix::fs::MetadataExt::ino(&fs::metadata(path).expect("it is there"));
    let before = identity(&path);
    // One is added, the others stay.
    configure(&server, &listening(&[("a", a.to_string()), ("b", b.to_string()), unix.clone()]));
    commit(&server);
    assert_eq!(get(a, "/").expect("an answer").status + get(b, "/").expect("an answer").status, 400);
    assert_eq!(identity(&path), before);
    // One that somebody else has: nothing changes.
    let taken = TcpListener::bind("127.0.0.1:0").expect("a port");
    let other = taken.local_addr().expect("its address");
    let fresh = scratch.path().join("fresh.sock");
    let text = listening(&[("f", format!("unix:{}", fresh.display())), ("g", other.to_string())]);
    configure(&server, &text);
    assert!(roll_back(&server).contains(&format!("cannot listen on {other}: Address already in use")));
    assert!(!fresh.exists());
    assert_eq!(get(a, "/").expect("an answer").status + get(b, "/").expect("an answer").status, 400);
    // Both are removed.
    configure(&server, &listening(&[("b", b.to_string())]));
    commit(&server);
    server.wait_for("the end of the first", || std::net::TcpStream::connect(a).is_err().then_some(()));
    server.wait_for("the end of its name", || (!path.exists()).then_some(()));
    assert_eq!(get(b, "/").expect("an answer").status, 200);
    server.stop();
}

#[test]
fn what_was_scaled_lasts_until_the_next_reload_which_says_so() {
    let server = fixture().workers(1).start();
    assert!(server.command(&["scale", "3"]).status.success());
    server.wait_until("three", |status| status["workers"].as_array().is_some_and(|all| all.len() == 3));
    let text = commit(&server);
    assert!(text.contains("`workers`: 1, as configured; it was scaled to 3 workers"), "{text}");
    server.wait_until("one", |status| status["workers"].as_array().is_some_and(|all| all.len() == 1));
    assert!(!commit(&server).contains("scaled"));
    server.stop();
}

#[test]
fn sixteen_reloads_lose_no_request_of_any_client() {
    // Far from the drain limit: who is idle is asked again before it, and so before a third generation
    // hurries the first one.
    let server = fixture().configuration("[timeouts]\nstable = 0.1\n").start();
    let traffic = Traffic::start(server.address(), &[(&FRESH, 2), (&KEPT, 3), (&SLOW, 2), (&IDLE, 2)]);
    for generation in 2..=17 {
        assert!(commit(&server).contains(&format!("generation {generation} serves")));
        server.wait_until("one generation", is_alone);
    }
    // Every connection that is held is used once more, in turn.
    let before = traffic.ended();
    server.wait_for("a request on each idle connection", || {
        let mut clients = traffic.ended().into_iter().zip(&before);
        clients.all(|(now, before)| now >= before + IDLE.connections as u64).then_some(())
    });
    for (client, tally) in traffic.finish() {
        println!("{client}: {tally:?}");
        assert!(tally.lost.is_empty() && tally.closed_idle == 0 && tally.answered > 0, "{client}: {tally:?}");
        // Each reload finds some of its connections idle, and ends them by a word.
        assert!(client != IDLE.name || tally.told >= 16, "{client}: {tally:?}");
    }
    assert!(!server.log().contains("are cut"));
    server.stop();
}

#[test]
fn reloads_that_follow_at_once_wait_for_the_requests_of_the_one_before_the_last() {
    let server = fixture().configuration("[timeouts]\nstable = 0.01\n").start();
    let traffic = Traffic::start(server.address(), &[(&FRESH, 2), (&KEPT, 3), (&SLOW, 2)]);
    for generation in 2..=17 {
        assert!(commit(&server).contains(&format!("generation {generation} serves")));
    }
    assert!(server.log().contains("two generations live at most: waiting for what is left of generation"));
    for (client, tally) in traffic.finish() {
        assert!(tally.lost.is_empty() && tally.closed_idle == 0 && tally.answered > 0, "{client}: {tally:?}");
    }
    server.stop();
}

#[test]
fn a_slow_request_over_a_reload_is_answered_by_the_old_generation() {
    let server = fixture().start();
    let held = crate::held::Held::start(&server, "release");
    let old = server.workers();
    commit(&server);
    assert!(server.workers().iter().any(|pid| !old.contains(pid)));
    assert!(old.contains(&held.let_go()));
    server.wait_until("one generation", is_alone);
    server.stop();
}
