//! What people see: the last reload's result, words that a terminal shows and does not obey, help.

use std::os::unix::net::UnixDatagram;
use std::process::{Command, Output};
use std::time::Duration;

use forebay::testing::Server;

use crate::client::example;
use crate::reload::{SHORT, commit, configure, said};

fn out(output: &Output) -> String {
    String::from_utf8_lossy(&output.stdout).into_owned()
}

#[test]
fn the_last_reloads_result_is_shown_to_people_and_to_the_service_manager() {
    let scratch = tempfile::tempdir().expect("a directory");
    let path = scratch.path().join("notify");
    let manager = UnixDatagram::bind(&path).expect("a socket");
    manager.set_read_timeout(Some(Duration::from_millis(20))).expect("a limit");
    let server = Server::of(example("fixture")).configuration(SHORT).variable("NOTIFY_SOCKET", &path).start();
    let told = |what: &str| {
        server.wait_for(what, || {
            let mut buffer = [0; 4096];
            let count = manager.recv(&mut buffer).ok()?;
            let text = String::from_utf8_lossy(&buffer[..count]).into_owned();
            (text.starts_with("STATUS=serving: 2 of 2") && text.contains(what)).then_some(text)
        })
    };
    let status = || out(&server.command(&["status"]));
    assert!(!status().contains("last reload"));
    commit(&server);
    assert!(status().contains("\nlast reload: committed, generation 2 after "), "{}", status());
    told("; last reload: committed, generation 2 after ");
    // Two mistakes: one line.
    configure(&server, "workers = 0\nwrokers = 1\n");
    assert_eq!(server.command(&["reload"]).status.code(), Some(1));
    let text = status();
    let line = text.lines().find(|line| line.starts_with("last reload: rolled back after ")).expect("the line");
    assert!(line.contains("configuration.toml:1: `workers`") && line.contains("; "), "{line}");
    assert!(line.contains("configuration.toml:2: "), "{line}");
    let text = told("; last reload: rolled back after ");
    assert!(text.contains("configuration.toml:1: `workers`") && !text.trim_end().contains('\n'), "{text:?}");
    server.stop();
}

#[test]
fn a_terminal_does_not_obey_what_the_master_says() {
    let server = Server::of(example("fixture")).configuration(SHORT).start();
    configure(&server, "[timeouts]\n\"\\u001b[31mred\\u0007\" = 1\n");
    let file = server.directory().join("configuration.toml");
    let mut check = Command::new(example("fixture"));
    let check = check.args(["check", "--config"]).arg(file).output().expect("the program starts");
    for (what, output) in
        [("check", check), ("reload", server.command(&["reload"])), ("status", server.command(&["status"]))]
    {
        let text = said(&output);
        assert!(text.contains("\\u{1b}[31mred\\u{7}"), "{what}: {text:?}");
        assert!(!text.chars().any(|letter| letter.is_control() && letter != '\n'), "{what}: {text:?}");
    }
    let reason = server.status()["last_reload"]["reason"].to_string();
    assert!(reason.contains("\\u001b[31mred"), "{reason}");
    server.stop();
}

#[test]
fn a_reload_during_the_first_start_says_what_it_waits_for() {
    let server =
        Server::of(example("fixture")).variable("FIXTURE", "never").configuration("[timeouts]\nready = 2\n").launch();
    server.wait_until("the start", |status| status["state"] == "starting");
    let output = server.command(&["reload", "--timeout", "1"]);
    assert_eq!(output.status.code(), Some(75), "{}", said(&output));
    let words = "fixture: the first start is under way: waiting for it\n";
    assert!(String::from_utf8_lossy(&output.stdout).contains(words), "{}", said(&output));
}

#[test]
fn help_names_the_programs_own_files() {
    for words in [&["--help"][..], &["serve", "--help"], &["status", "--help"]] {
        let output = Command::new(example("fixture")).args(words).output().expect("the program starts");
        let text = out(&output);
        assert!(text.contains("/etc/fixture.toml") && !text.contains("/NAME"), "{text}");
    }
}

#[test]
fn a_daemon_in_the_background_is_not_stopped_by_a_key() {
    let scratch = tempfile::tempdir().expect("a directory");
    let run = |words: &[&str]| {
        let mut command = Command::new(example("fixture"));
        command.args(words).arg("--run-dir").arg(scratch.path().join("run")).output().expect("the program starts")
    };
    let output = run(&["serve", "--daemon", "--listen", "127.0.0.1:0", "--workers", "1"]);
    let stopped = run(&["stop"]);
    assert!(output.status.success() && stopped.status.success(), "{}", said(&output));
    assert!(said(&output).contains("to stop: kill ") && !said(&output).contains("Ctrl-C"), "{}", said(&output));
}
