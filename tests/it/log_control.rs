//! The log at run time, as the command line has it: followed, of another level for a while, its files anew.

use std::cell::Cell;
use std::fs;
use std::io::{BufRead, BufReader, Read};
use std::process::{Child, ChildStderr, Command, Output, Stdio};
use std::sync::mpsc::{Receiver, channel};

use forebay::testing::Server;
use nix::libc::{SIGCONT, SIGKILL, SIGSTOP, SIGTERM};
use serde_json::{Value, json};

use crate::client::{example, get};
use crate::peer::Peer;

/// Both ways of a record to the log helper.
const TRANSPORTS: [&str; 2] = ["ring", "socket"];

fn said(output: &Output) -> String {
    String::from_utf8_lossy(&[&output.stdout[..], &output.stderr].concat()).into_owned()
}

/// What a command says that must be carried out.
fn done(server: &Server, words: &[&str]) -> String {
    let output = server.command(words);
    assert!(output.status.success(), "{words:?}: {}", said(&output));
    said(&output)
}

/// The keeper, of whom every call is logged at level debug, and before it at level trace.
struct Whispers {
    server: Server,
    next: Cell<u64>,
}

impl Whispers {
    fn start(transport: &str) -> Self {
        let configuration = format!("[log]\nlevel = \"debug,hyper=info\"\ntransport = \"{transport}\"\n");
        let server = Server::of(example("keeper")).workers(1).configuration(&configuration).start();
        Self { server, next: Cell::new(0) }
    }

    /// Has a worker ask and the helper answer; waits until that is logged.
    fn ask(&self) -> Asked {
        let number = self.next.replace(self.next.get() + 1);
        get(self.server.address(), &format!("/again/{number}/0")).expect("an answer");
        self.server.wait_for_log(&format!("] again {number} is said"));
        self.server.wait_for_log(&format!("] asking {number} is said"));
        let log = self.server.log();
        let line = |text: &str| log.lines().find(|line| line.contains(text)).map(str::to_owned);
        Asked {
            worker: line(&format!("] asking {number} is said")).expect("it is there"),
            by_worker: line(&format!("] asking {number} is whispered")).is_some(),
            by_helper: line(&format!("] again {number} is whispered")).is_some(),
        }
    }

    /// Waits until this slot's worker and the helper whisper, or none of them does.
    fn wait_for(&self, slot: u16, whispered: bool) {
        let name = format!("worker {slot} generation 1]");
        self.server.wait_for(&format!("{name} and the helper whisper: {whispered}"), || {
            let asked = self.ask();
            let is_it = asked.worker.contains(&name) && (asked.by_worker, asked.by_helper) == (whispered, whispered);
            is_it.then_some(())
        });
    }
}

/// What was logged of one call.
struct Asked {
    worker: String,
    by_worker: bool,
    by_helper: bool,
}

#[test]
fn levels_rise_in_all_processes_and_return_by_themselves() {
    for transport in TRANSPORTS {
        let whispers = Whispers::start(transport);
        let server = &whispers.server;
        let asked = whispers.ask();
        assert!(!asked.by_worker && !asked.by_helper, "nobody whispers yet");
        let words = ["log", "--level", "trace", "--target", "keeper", "--for", "1h"];
        let answer = done(server, &words);
        assert!(answer.contains("level is debug,hyper=info,keeper=trace for 3600 s"), "{answer}");
        whispers.wait_for(0, true);
        // One that is born meanwhile.
        done(server, &["scale", "2"]);
        whispers.wait_for(1, true);
        let status = server.status();
        assert_eq!(status["log"]["raised"]["filter"], "keeper=trace", "{}", status["log"]);
        assert!(done(server, &["status"]).contains("keeper=trace for 59 min "));
        // A reload keeps it, for those who come with it too.
        done(server, &["reload"]);
        server.wait_for("a whisper of the new generation", || {
            let asked = whispers.ask();
            (asked.worker.contains("generation 2]") && asked.by_worker && asked.by_helper).then_some(())
        });
        // The second takes the place of the first.
        done(server, &["log", "--level", "keeper::whisper=trace", "--for", "300ms"]);
        server.wait_until("the level as configured", |status| status["log"]["raised"].is_null());
        server.wait_for("nobody whispers", || {
            let asked = whispers.ask();
            (!asked.by_worker && !asked.by_helper).then_some(())
        });
        server.wait_for_log("log level: debug,hyper=info, as configured");
        whispers.server.stop();
    }
}

#[test]
fn the_master_obeys_the_level_too_and_it_can_be_ended_early() {
    let server = Server::of(example("fixture")).workers(1).start();
    done(&server, &["log", "--level", "error", "--for", "1h"]);
    done(&server, &["scale", "2"]);
    server.wait_until("two workers", |status| status["workers"][1]["state"] == "serving");
    let answer = done(&server, &["log", "--level", "reset"]);
    assert!(answer.contains("the log's level is info, as configured"), "{answer}");
    done(&server, &["scale", "3"]);
    server.wait_for_log("worker 2 generation 1 pid ");
    assert!(!server.log().contains("worker 1 generation 1 pid "), "the master was to say errors only");
    assert_eq!(server.status()["log"]["raised"], Value::Null);
    server.stop();
}

/// A level that was said by flag or variable is no reason to do nothing.
#[test]
fn a_command_adds_to_what_beats_the_file() {
    let server = Server::of(example("keeper")).workers(1).argument("--log-level").argument("error").start();
    done(&server, &["log", "--level", "debug", "--target", "keeper", "--for", "1h"]);
    server.wait_for("what is said at level debug", || {
        get(server.address(), "/again/1/0").expect("an answer");
        server.log().contains("] again 1 is said").then_some(())
    });
    server.stop();
}

#[test]
fn how_the_log_is_doing_is_an_object_for_scripts() {
    let server = Server::of(example("fixture")).workers(1).start();
    let log: Value = serde_json::from_str(&done(&server, &["log", "--json"])).expect("an object");
    assert_eq!((&log["transport"], &log["targets"][0]["kind"]), (&json!("ring"), &json!("console")), "{log}");
    server.stop();
}

#[test]
fn what_is_wrong_is_told() {
    let server = Server::of(example("fixture")).workers(1).start();
    for words in [
        &["log", "--level", "debgu"][..],
        &["log", "--level", "hyper=loud"],
        &["log", "--level", "debug", "--for", "0"],
        &["log", "--level", "debug", "--for", "25h"],
        &["log", "--follow", "--level", "a=b=c"],
        &["log", "--target", "hyper"],
    ] {
        let output = server.command(words);
        assert_eq!(output.status.code(), Some(64), "{words:?}: {}", said(&output));
    }
    let mut peer = Peer::connect(&server.run_dir().join("control.sock"));
    for (method, argument) in [
        ("log_level", json!({"filter": "debgu", "for_ms": 1000})),
        ("log_level", json!({"filter": "debug"})),
        ("log_level", json!({"filter": "debug", "for_ms": 86_400_001})),
        ("log_level", json!({"filter": "a=debug,".repeat(600), "for_ms": 1})),
        ("log_follow", json!({"filter": ""})),
    ] {
        peer.say(&json!([0, 5, method, [argument]]));
        let answer = peer.hear();
        assert_eq!((&answer[1], &answer[2]["exit"]), (&json!(5), &json!(64)), "{answer}");
    }
    server.stop();
    let nowhere = tempfile::tempdir().expect("a directory");
    for words in [&["log"][..], &["log", "--follow"], &["log", "--reopen"], &["log", "--level", "debug"]] {
        let mut command = Command::new(example("fixture"));
        let output = command.args(words).arg("--run-dir").arg(nowhere.path()).output().expect("it starts");
        assert_eq!(output.status.code(), Some(69), "{words:?}: {}", said(&output));
    }
}

/// `log --follow`, and what it prints.
struct Tail {
    child: Child,
    lines: Receiver<String>,
    complaint: ChildStderr,
}

impl Tail {
    fn start(server: &Server, words: &[&str]) -> Self {
        let mut command = Command::new(example("fixture"));
        command.args(["log", "--follow"]).args(words).arg("--run-dir").arg(server.run_dir());
        let mut child = command.stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().expect("it starts");
        let (out, complaint) = (child.stdout.take().expect("a pipe"), child.stderr.take().expect("a pipe"));
        let (say, lines) = channel();
        std::thread::spawn(move || {
            BufReader::new(out).lines().map_while(Result::ok).for_each(|line| drop(say.send(line)));
        });
        Self { child, lines, complaint }
    }

    /// Has something logged until a line like this comes by; the lines before it, too.
    fn wait_for(&self, server: &Server, text: &str) -> Vec<String> {
        let mut all = Vec::new();
        server.wait_for(&format!("{text:?} of who follows"), || {
            get(server.address(), "/log/1").expect("an answer");
            all.extend(self.lines.try_iter());
            all.iter().any(|line| line.contains(text)).then_some(())
        });
        all
    }

    /// Its exit code, and what it says at the end.
    fn end(mut self) -> (Option<i32>, String) {
        let status = self.child.wait().expect("it ends");
        let mut complaint = String::new();
        self.complaint.read_to_string(&mut complaint).expect("text");
        (status.code(), complaint)
    }
}

#[test]
fn who_follows_sees_what_is_logged_over_the_death_of_the_log_helper() {
    for transport in TRANSPORTS {
        let configuration = format!("[log]\ntransport = \"{transport}\"\n");
        let server = Server::of(example("fixture")).workers(1).configuration(&configuration).start();
        let (tail, picky) =
            (Tail::start(&server, &["--target", "fixture"]), Tail::start(&server, &["--level", "warn"]));
        let lines = tail.wait_for(&server, "fixture worker 0 generation 1] record 0");
        assert!(lines.iter().all(|line| line.contains("INFO  fixture ")), "{lines:?}");
        let helper = server.helper("log");
        server.signal(helper, SIGKILL);
        server.wait_until("another log helper", |status| {
            status["helpers"]
                .as_array()
                .expect("helpers")
                .iter()
                .any(|found| found["name"] == "log" && found["state"] == "serving" && found["pid"] != json!(helper))
        });
        tail.wait_for(&server, "forebay] the log helper was replaced");
        tail.wait_for(&server, "fixture worker 0 generation 1] record 0");
        let once = Tail::start(&server, &["--json", "--count", "2", "--target", "fixture"]);
        let first = once.wait_for(&server, "record 0")[0].clone();
        let record: Value = serde_json::from_str(&first).expect("JSON");
        let known = json!([record["level"], record["process"], record["worker"], record["message"]]);
        assert_eq!(known, json!(["info", "worker 0 generation 1", 0, "record 0"]), "{record}");
        get(server.address(), "/log/1").expect("an answer");
        assert_eq!(once.end(), (Some(0), String::new()));
        let warned = picky.lines.try_iter().find(|line| line.contains("fixture worker"));
        assert_eq!(warned, None, "it wants warnings only");
        server.signal(server.pid(), SIGTERM);
        for tail in [tail, picky] {
            assert_eq!(tail.end(), (Some(69), "fixture: the daemon has stopped\n".to_owned()));
        }
        server.stop();
    }
}

#[test]
fn who_does_not_read_harms_nobody_and_is_told_what_is_missing() {
    for transport in TRANSPORTS {
        let configuration = format!("[log]\ntransport = \"{transport}\"\n");
        let server = Server::of(example("fixture")).workers(1).configuration(&configuration).start();
        let mut idle = Peer::connect(&server.run_dir().join("control.sock"));
        idle.say(&json!([0, 1, "log_follow", [{"filter": "trace"}]]));
        assert_eq!(idle.hear(), json!([1, 1, null, {}]));
        let helper = server.helper("log");
        // As many at once as a ring takes; in all more than is kept for who does not read.
        for round in 1..=12 {
            get(server.address(), "/log/1000").expect("an answer");
            let is_there = |log: &str| log.matches("] record 999\n").count() == round;
            server.wait_for("all records in the log", || is_there(&server.log()).then_some(()));
        }
        assert!(!server.log().contains(" lost here"), "nobody waits for who does not read");
        // What was kept comes first, and there are thousands of records of that.
        server.wait_for("a word of what is missing", || {
            get(server.address(), "/log/1").expect("an answer");
            let missed = (0..20).map(|_| {
                let heard = idle.hear();
                assert_eq!((&heard[0], &heard[1]), (&json!(2), &json!("log_record")), "{heard}");
                heard[2][0]["missed"].as_u64().expect("a number")
            });
            missed.max().filter(|&missed| missed > 0)
        });
        assert_eq!(server.helper("log"), helper, "it lives");
        server.stop();
    }
}

/// A server whose log is written to a file in a directory of its own.
fn with_a_file(transport: &str) -> (Server, tempfile::TempDir) {
    let directory = tempfile::tempdir().expect("a directory");
    fs::create_dir(directory.path().join("logs")).expect("mkdir");
    let file = directory.path().join("logs/app.log");
    let configuration = format!(
        "[log]\ntransport = \"{transport}\"\n\n[[log.target]]\nkind = \"console\"\n\n\
         [[log.target]]\nkind = \"file\"\npath = \"{}\"\n",
        file.display()
    );
    (Server::of(example("fixture")).workers(1).configuration(&configuration).start(), directory)
}

#[test]
fn reopen_returns_when_the_new_file_is_written_to() {
    for transport in TRANSPORTS {
        let (server, directory) = with_a_file(transport);
        let (file, old) = (directory.path().join("logs/app.log"), directory.path().join("logs/app.log.old"));
        for round in 0..3 {
            fs::rename(&file, &old).expect("rename");
            let answer = done(&server, &["log", "--reopen"]);
            assert!(answer.contains(&format!("reopened {}", file.display())), "{answer}");
            let len = fs::metadata(&old).expect("it is there").len();
            get(server.address(), "/log/1").expect("an answer");
            server.wait_for(&format!("a record in the file of round {round}"), || {
                fs::read_to_string(&file).ok().filter(|text| text.contains("] record 0"))
            });
            assert_eq!(fs::metadata(&old).expect("it is there").len(), len, "nobody writes to the old file any more");
        }
        // Not before: a log helper that stands still writes to nothing.
        let helper = server.helper("log");
        server.signal(helper, SIGSTOP);
        fs::rename(&file, &old).expect("rename");
        let mut command = Command::new(example("fixture"));
        let mut waiting = command
            .args(["log", "--reopen", "--run-dir"])
            .arg(server.run_dir())
            .stdout(Stdio::null())
            .spawn()
            .expect("it starts");
        server.wait_for("the new file", || file.exists().then_some(()));
        server.status();
        assert_eq!(waiting.try_wait().expect("wait"), None, "it waits");
        server.signal(helper, SIGCONT);
        assert!(waiting.wait().expect("it ends").success());
        server.stop();
    }
}

#[test]
fn a_file_that_cannot_be_reopened_stays_in_use() {
    let (server, directory) = with_a_file("ring");
    let (logs, away) = (directory.path().join("logs"), directory.path().join("away"));
    fs::rename(&logs, &away).expect("rename");
    let output = server.command(&["log", "--reopen"]);
    assert_eq!(output.status.code(), Some(1), "{}", said(&output));
    assert!(said(&output).contains("the old one stays in use: "), "{}", said(&output));
    get(server.address(), "/log/1").expect("an answer");
    server.wait_for("the record in the old file", || {
        fs::read_to_string(away.join("app.log")).ok().filter(|text| text.contains("] record 0"))
    });
    let target = |status: &Value| status["log"]["targets"][1].clone();
    let trouble = target(&server.status())["trouble"].as_str().map(str::to_owned);
    assert!(trouble.as_deref().is_some_and(|why| why.starts_with("cannot be reopened: ")), "{trouble:?}");
    assert!(done(&server, &["status"]).contains("app.log (cannot be reopened: "));
    fs::create_dir(&logs).expect("mkdir");
    server.wait_until("the file open again", |status| target(status)["trouble"].is_null());
    server.stop();
}

#[test]
fn the_log_is_shown_with_its_targets() {
    for transport in TRANSPORTS {
        let (server, _directory) = with_a_file(transport);
        get(server.address(), "/log/100").expect("an answer");
        let status = server.wait_until("the records in both targets", |status| {
            let targets = status["log"]["targets"].as_array().expect("targets");
            targets.iter().all(|target| target["written"].as_u64().is_some_and(|count| count > 100))
        });
        let log = &status["log"];
        let kinds: Vec<Value> =
            log["targets"].as_array().expect("targets").iter().map(|one| one["kind"].clone()).collect();
        assert_eq!((&log["transport"], json!(kinds)), (&json!(transport), json!(["console", "file"])), "{log}");
        assert!(log["produced"].as_u64().is_some_and(|count| count > 100), "{log}");
        let (short, whole) = (done(&server, &["status"]), done(&server, &["log"]));
        assert!(short.lines().any(|line| line.starts_with("log: console, /")), "{short}");
        assert!(whole.contains("level: info\n") && whole.contains("app.log  file"), "{whole}");
        server.stop();
    }
    let server = Server::of(example("fixture")).workers(1).start();
    let answer = done(&server, &["log", "--reopen"]);
    assert!(answer.contains("there is no file"), "{answer}");
    server.stop();
}
