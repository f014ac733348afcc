//! Jobs: when they run, that they run once, and what comes of those that do not.

use std::collections::BTreeSet;
use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

use forebay::testing::{Builder, Server};
use nix::libc::SIGKILL;
use serde_json::{Value, json};
use tempfile::TempDir;

use crate::client::example;
use crate::reload::{SHORT, commit, configure, said};

/// The clockwork, and the journal of its runs.
struct Clockwork {
    scratch: TempDir,
}

/// A line of the journal.
#[derive(Debug, PartialEq)]
struct Entry {
    job: String,
    pid: u32,
    missed: u64,
    due_ms: u64,
    what: String,
}

impl Clockwork {
    fn new() -> Self {
        Self { scratch: tempfile::tempdir().expect("a directory") }
    }

    /// Runs of `slow` and `many` last so long.
    fn settings(&self, hold_ms: u64) -> String {
        format!("{SHORT}[app]\njournal = \"{}\"\nhold_ms = {hold_ms}\n", self.journal().display())
    }

    fn serve(&self, hold_ms: u64) -> Builder {
        Server::of(example("clockwork")).configuration(&self.settings(hold_ms)).run_dir(self.run_dir())
    }

    fn run_dir(&self) -> PathBuf {
        self.scratch.path().join("run")
    }

    fn memory(&self) -> PathBuf {
        self.run_dir().join("state/schedule.json")
    }

    fn journal(&self) -> PathBuf {
        self.scratch.path().join("journal")
    }

    /// What this job has written; a line that is being written is none yet.
    fn entries(&self, job: &str) -> Vec<Entry> {
        let text = fs::read_to_string(self.journal()).unwrap_or_default();
        let whole = text.rsplit_once('\n').map_or("", |(whole, _)| whole);
        whole.lines().map(Entry::read).filter(|entry| entry.job == job).collect()
    }

    /// Waits until the job has written so many lines that are wished for.
    fn wait_for(&self, server: &Server, job: &str, count: usize, wish: impl Fn(&Entry) -> bool) -> Vec<Entry> {
        server.wait_for(&format!("{count} lines of {job}"), || {
            let entries = self.entries(job);
            (entries.iter().filter(|entry| wish(entry)).count() >= count).then_some(entries)
        })
    }
}

impl Entry {
    fn read(line: &str) -> Self {
        let words: Vec<&str> = line.split(' ').collect();
        let [job, pid, missed, due_ms, what] = words[..] else { panic!("{line:?}") };
        let number = |text: &str| text.parse::<u64>().expect("a number");
        let pid = u32::try_from(number(pid)).expect("a pid");
        Self { job: job.to_owned(), pid, missed: number(missed), due_ms: number(due_ms), what: what.to_owned() }
    }
}

/// How the jobs stand.
fn jobs(server: &Server) -> Value {
    let output = server.command(&["call", "schedule", r#"{"method":"jobs"}"#]);
    serde_json::from_slice(&output.stdout).unwrap_or_else(|_| panic!("{}", said(&output)))
}

fn standing(server: &Server, job: &str) -> Value {
    let jobs = jobs(server);
    jobs.as_array().expect("a list").iter().find(|known| known["job"] == job).expect(job).clone()
}

/// Has a job run: exit code and words.
fn run(server: &Server, job: &str) -> (Option<i32>, String) {
    let json = json!({"method": "run", "params": {"job": job}}).to_string();
    let output = server.command(&["call", "schedule", &json]);
    (output.status.code(), said(&output))
}

/// The runs of `slow` never overlap, whichever process has them: each that ends does so before another begins.
fn assert_one_at_a_time(entries: &[Entry]) {
    let mut busy: Option<&Entry> = None;
    for entry in entries {
        match (&entry.what[..], busy) {
            ("begins", None) => busy = Some(entry),
            // Its process was killed, or cancelled it.
            ("begins", Some(before)) if before.pid != entry.pid => busy = Some(entry),
            ("ends", Some(before)) if (before.pid, before.due_ms) == (entry.pid, entry.due_ms) => busy = None,
            _ => panic!("{entry:?} while {busy:?}: {entries:?}"),
        }
    }
}

#[test]
fn a_job_runs_once_in_the_whole_server_however_many_workers_there_are() {
    let clockwork = Clockwork::new();
    let server = clockwork.serve(0).workers(3).start();
    let entries = clockwork.wait_for(&server, "beat", 8, |_| true);
    let counts: Vec<String> = (1..=entries.len()).map(|count| count.to_string()).collect();
    assert_eq!(entries.iter().map(|entry| entry.what.clone()).collect::<Vec<_>>(), counts, "it asks a helper");
    let pids: BTreeSet<u32> = entries.iter().map(|entry| entry.pid).collect();
    assert_eq!(pids, BTreeSet::from([server.helper("schedule")]));
    for pair in entries.windows(2) {
        let (apart, beats) = (pair[1].due_ms - pair[0].due_ms, 200 * (pair[1].missed + 1));
        assert!(apart.abs_diff(beats) < 100, "{pair:?}: each due time is begun or missed");
    }
    let status = server.status();
    let helpers = status["helpers"].as_array().expect("helpers");
    let schedule = helpers.iter().find(|helper| helper["name"] == "schedule").expect("the schedule");
    let note = schedule["note"].as_str().expect("a note");
    assert!(note.starts_with("next: ") && note.contains(" at "), "{note}");
    assert_eq!(helpers.last(), Some(schedule), "the first to end");
    server.stop();
}

#[test]
fn a_run_whose_process_is_killed_is_not_repeated_and_what_was_missed_is_told() {
    let clockwork = Clockwork::new();
    let server = clockwork.serve(60_000).start();
    clockwork.wait_for(&server, "slow", 1, |entry| entry.what == "begins");
    let killed = server.helper("schedule");
    server.wait_for("a run to be missed", || (standing(&server, "slow")["missed"] != 0).then_some(()));
    server.signal(killed, SIGKILL);
    let entries = clockwork.wait_for(&server, "slow", 2, |entry| entry.what == "begins");
    assert_eq!(entries[0].pid, killed);
    assert!(entries[1].pid != killed && entries[1].missed > 0, "{entries:?}");
    assert!(entries[1].due_ms > entries[0].due_ms, "{entries:?}");
    server.wait_for_log("did not end with its process");
    assert!(server.log().contains("job slow: the run of "), "by name");
    let beats = clockwork.wait_for(&server, "beat", 1, |entry| entry.pid != killed);
    let dues: BTreeSet<u64> = beats.iter().map(|entry| entry.due_ms).collect();
    assert_eq!(dues.len(), beats.len(), "none twice: {beats:?}");
}

#[test]
fn a_reload_hands_the_jobs_over_and_there_are_never_two_of_one() {
    let clockwork = Clockwork::new();
    let server = clockwork.serve(400).start();
    for hold_ms in [401, 402, 403] {
        let count = clockwork.entries("slow").len() + 1;
        clockwork.wait_for(&server, "slow", count, |_| true);
        let before = server.helper("schedule");
        configure(&server, &clockwork.settings(hold_ms));
        let text = commit(&server);
        assert!(text.contains("helper schedule handed over"), "{text}");
        let entries = clockwork.wait_for(&server, "slow", 2, |entry| entry.pid == server.helper("schedule"));
        let last = entries.iter().rfind(|entry| entry.pid == before).expect("it ran");
        assert_eq!(last.what, "ends", "what runs is finished: {entries:?}");
        assert_one_at_a_time(&entries);
    }
    let before = server.helper("schedule");
    assert!(commit(&server).contains("schedule, release"), "the same build and configuration");
    assert_eq!(server.helper("schedule"), before);
    assert!(!server.log().contains("cancelled"), "{}", server.log());
    server.stop();
}

#[test]
fn a_run_that_does_not_end_within_the_drain_limit_is_cancelled_with_a_line_in_the_log() {
    let clockwork = Clockwork::new();
    let settings =
        format!("{}\n[timeouts]\nstable = 0.05\ndrain = 0.3\n", clockwork.settings(60_000).replace(SHORT, ""));
    let server = clockwork.serve(0).configuration(&settings).start();
    clockwork.wait_for(&server, "slow", 1, |entry| entry.what == "begins");
    assert!(server.command(&["restart", "schedule"]).status.success());
    server.wait_for_log("job slow: cancelled after 0.3 s");
    let entries = clockwork.wait_for(&server, "slow", 2, |entry| entry.what == "begins");
    assert_one_at_a_time(&entries);
    let memory = fs::read_to_string(clockwork.memory()).expect("it is remembered");
    assert!(!memory.contains("unfinished"), "{memory}");
}

#[test]
fn only_what_may_overlap_does() {
    let clockwork = Clockwork::new();
    let server = clockwork.serve(1000).start();
    let many = clockwork.wait_for(&server, "many", 1, |entry| entry.what == "ends");
    let first_end = many.iter().position(|entry| entry.what == "ends").expect("one has ended");
    assert!(first_end >= 2, "several at a time: {many:?}");
    let slow = clockwork.wait_for(&server, "slow", 2, |entry| entry.what == "begins");
    assert_one_at_a_time(&slow);
    let second = slow.iter().filter(|entry| entry.what == "begins").nth(1).expect("a second run");
    assert!(second.missed >= 2, "those meanwhile: {slow:?}");
    let told = server.log().matches("job slow: a run is missed, the last one is still busy").count();
    let begun = clockwork.entries("slow").iter().filter(|entry| entry.what == "begins").count();
    assert!((1..=begun).contains(&told), "{told} lines for {begun} runs");
    assert!(!server.log().contains("job many: "), "{}", server.log());
    server.stop();
}

#[test]
fn a_job_runs_by_command_and_its_error_or_panic_costs_that_run() {
    let clockwork = Clockwork::new();
    let server = clockwork.serve(60_000).start();
    let pid = server.helper("schedule");
    for (job, outcome, line) in [
        ("fails", "failed: the till is empty", "job fails: failed: the till is empty"),
        ("panics", "panicked", "job panics: panicked"),
        ("yearly", "done", ""),
    ] {
        let (code, text) = run(&server, job);
        assert_eq!(code, Some(0), "{text}");
        let ended = || Some(standing(&server, job)).filter(|standing| standing["last_outcome"] == outcome);
        let standing = server.wait_for(outcome, ended);
        assert_eq!((&standing["running"], &standing["missed"]), (&json!(0), &json!(0)), "{standing}");
        assert!(standing["last_begun"].is_string() && standing["next_due"].is_string(), "{standing}");
        server.wait_for_log(line);
    }
    assert_eq!(standing(&server, "yearly")["when"], "0 0 1 1 * UTC");
    assert_eq!(standing(&server, "beat")["when"], "every 200ms");
    assert_eq!(clockwork.entries("yearly").len(), 1);
    clockwork.wait_for(&server, "slow", 1, |_| true);
    let (code, text) = run(&server, "slow");
    assert_eq!(code, Some(1), "{text}");
    assert!(text.contains("job slow runs"), "{text}");
    let (code, text) = run(&server, "many");
    assert_eq!(code, Some(0), "it may overlap: {text}");
    let (code, text) = run(&server, "slwo");
    assert_eq!(code, Some(1), "{text}");
    assert!(text.contains("there is no job \"slwo\": beat, slow, many"), "{text}");
    assert_eq!(server.helper("schedule"), pid, "it lives");
}

/// Changes what is remembered of a job.
fn remember(file: &Path, job: &str, line: Value) {
    let text = fs::read(file).expect("it is remembered");
    let mut memory: Value = serde_json::from_slice(&text).expect("it is JSON");
    memory["jobs"][job] = line;
    fs::write(file, memory.to_string()).expect("write");
}

#[test]
fn what_was_missed_while_the_daemon_was_down_is_told_and_caught_up_on_once_where_that_is_wished() {
    let clockwork = Clockwork::new();
    clockwork.serve(0).start().stop();
    assert!(clockwork.entries("yearly").is_empty());
    let old = |when: &str| json!({"when": when, "since": "2020-06-01T00:00:00Z", "begun": null, "outcome": null});
    remember(&clockwork.memory(), "yearly", old("0 0 1 1 * UTC"));
    remember(&clockwork.memory(), "fails", old("0 0 1 1 *"));
    remember(&clockwork.memory(), "former", old("0 0 1 1 *"));
    let server = clockwork.serve(0).start();
    let entries = clockwork.wait_for(&server, "yearly", 1, |_| true);
    assert!(entries[0].missed >= 4, "{entries:?}");
    server.wait_for_log("job yearly: ");
    let log = server.log();
    assert!(log.contains(" runs missed since 20") && log.contains("job fails: "), "{log}");
    let fails = standing(&server, "fails");
    assert_eq!((fails["missed"].as_u64(), &fails["last_begun"]), (Some(entries[0].missed + 1), &Value::Null));
    assert!(log.contains("job former: forgotten"), "{log}");
    assert!(!fs::read_to_string(clockwork.memory()).expect("it is there").contains("former"));
    assert_eq!(clockwork.entries("yearly").len(), 1);
    server.stop();
}

#[test]
fn a_broken_memory_is_told_and_costs_nothing_else() {
    let clockwork = Clockwork::new();
    clockwork.serve(0).start().stop();
    fs::write(clockwork.memory(), "{\"jobs\":{\"be").expect("write");
    let server = clockwork.serve(0).start();
    server.wait_for_log("what was remembered of the jobs is unreadable and forgotten");
    let pid = server.helper("schedule");
    clockwork.wait_for(&server, "beat", 2, |entry| entry.pid == pid);
    server.stop();
}

#[test]
fn a_wrong_expression_is_an_error_of_the_start_and_of_check() {
    let clockwork = Clockwork::new();
    let mut server = clockwork.serve(0).variable("CLOCKWORK", "wrong").launch();
    let code = server.wait().code();
    let words = "job odd: the expression \"6 o'clock\" is wrong: ";
    let log = server.log();
    assert!(code == Some(1) && log.contains(words), "{code:?} {log}");
    let configuration = server.directory().join("configuration.toml");
    let mut check = Command::new(example("clockwork"));
    check.arg("check").arg("--config").arg(configuration).env("CLOCKWORK", "wrong");
    let output = check.output().expect("the program starts");
    let text = said(&output);
    assert_eq!(output.status.code(), Some(1), "{text}");
    assert!(text.contains("the application refuses: ") && text.contains(words), "{text}");
}
