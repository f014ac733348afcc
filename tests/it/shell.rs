//! Helpers from a shell script: `call`, `events` and `restart`.

use std::io::{BufRead, BufReader};
use std::process::{Command, Output, Stdio};

use forebay::testing::Server;
use nix::libc::SIGKILL;
use serde_json::{Value, json};

use crate::client::example;
use crate::simulator::{Simulator, first_thermostat};

fn complaint(output: &Output) -> String {
    String::from_utf8_lossy(&output.stderr).into_owned()
}

fn json_of(output: &Output) -> Value {
    serde_json::from_slice(&output.stdout).expect("JSON")
}

#[test]
fn call_prints_the_result_or_the_error_as_json() {
    let server = Server::of(env!("CARGO_BIN_EXE_forebay")).start();
    first_thermostat(&server);
    let output = server.command(&["call", "nest", r#"{"method":"list"}"#]);
    assert_eq!((output.status.code(), complaint(&output)), (Some(0), String::new()));
    assert_eq!(json_of(&output).as_array().map(Vec::len), Some(3));
    let output = server.command(&["call", "nest", r#"{"method":"get","params":{"id":"nobody"}}"#]);
    assert_eq!(output.status.code(), Some(1));
    let error = json_of(&output);
    assert_eq!((&error["code"], &error["data"]), (&json!("failed"), &json!({"unknown_thermostat": {"id": "nobody"}})));
    assert_eq!(complaint(&output), "forebay: the helper nest refuses: there is no thermostat nobody\n");
    let output = server.command(&["call", "nest", r#"{"method":"lsit"}"#]);
    assert_eq!((output.status.code(), json_of(&output)["code"].as_str()), (Some(1), Some("no_method")));
    assert!(complaint(&output).contains("get, link, list, set"), "{}", complaint(&output));
    let output = server.command(&["call", "nest", r#"{"method":"get","params":{"id":7}}"#]);
    assert_eq!((output.status.code(), json_of(&output)["code"].as_str()), (Some(1), Some("bad_params")));
    let table: [(&[&str], i32, &str); 6] = [
        (&["call", "nest", "list"], 64, "a call is JSON as"),
        (&["call", "nest", r#"{"methode":"list"}"#], 64, "a call is JSON as"),
        (&["call", "../nest", r#"{"method":"list"}"#], 64, ""),
        (&["call", "hub", r#"{"method":"list"}"#], 1, "simulator, nest"),
        (&["events", "hub"], 1, "simulator, nest"),
        (&["restart", "hub"], 1, "`nest`"),
    ];
    for (words, code, says) in table {
        let output = server.command(words);
        assert_eq!(output.status.code(), Some(code), "{words:?}: {}", complaint(&output));
        assert!(complaint(&output).contains(says), "{words:?}: {}", complaint(&output));
        assert!(output.stdout.is_empty(), "{words:?}");
    }
    server.stop();
}

#[test]
fn a_call_whose_outcome_is_unknown_ends_with_1_in_time_or_with_its_helper() {
    let server = Server::of(example("keeper")).workers(1).start();
    let slow = r#"{"method":"slow","params":{"number":1,"ms":60000}}"#;
    let output = server.command(&["call", "keeper", slow, "--timeout", "0.3"]);
    assert_eq!(output.status.code(), Some(1), "{}", complaint(&output));
    assert!(complaint(&output).contains("outcome is unknown"), "{}", complaint(&output));
    let call = Command::new(example("keeper"))
        .args(["call", "keeper", slow, "--timeout", "20", "--run-dir"])
        .arg(server.run_dir())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .expect("the program starts");
    let journal = server.run_dir().join("state/keeper.journal");
    server.wait_for("its request", || {
        let text = std::fs::read_to_string(&journal).unwrap_or_default();
        (text.lines().count() == 2).then_some(())
    });
    server.signal(server.helper("keeper"), SIGKILL);
    let output = call.wait_with_output().expect("it ends");
    assert_eq!(output.status.code(), Some(1));
    assert!(complaint(&output).contains("the outcome is unknown"), "{}", complaint(&output));
    server.stop();
}

#[test]
fn without_a_daemon_call_and_events_exit_69() {
    let scratch = tempfile::tempdir().expect("a directory");
    let table: [&[&str]; 3] =
        [&["call", "nest", r#"{"method":"list"}"#], &["events", "nest"], &["events", "nest", "--count", "1"]];
    for words in table {
        let output =
            Command::new(env!("CARGO_BIN_EXE_forebay")).args(words).arg("--run-dir").arg(scratch.path()).output();
        let output = output.expect("the program starts");
        assert_eq!(output.status.code(), Some(69), "{words:?}: {}", complaint(&output));
        assert!(complaint(&output).contains("not running"), "{words:?}: {}", complaint(&output));
    }
}

#[test]
fn events_tell_how_things_stand_and_go_on_over_a_restart() {
    let simulator = Simulator::start();
    let gateway = simulator.gateway("c.shell", "").start();
    first_thermostat(&gateway);
    let output = gateway.command(&["events", "nest", "--count", "1"]);
    assert_eq!((output.status.code(), json_of(&output)["snapshot"].is_array()), (Some(0), true));
    let mut events = Command::new(env!("CARGO_BIN_EXE_forebay"))
        .args(["events", "nest", "--run-dir"])
        .arg(gateway.run_dir())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .expect("the program starts");
    let mut lines = BufReader::new(events.stdout.take().expect("its output")).lines();
    let mut next = || -> Value { serde_json::from_str(&lines.next().expect("a line").expect("text")).expect("JSON") };
    let first = next();
    assert!(first["snapshot"].as_array().is_some_and(|all| !all.is_empty()), "{first}");
    simulator.label("heard in a shell");
    let event = next();
    assert_eq!(event["event"]["thermostat"]["fields"]["label"], "heard in a shell");
    assert_eq!(event["sequence"].as_u64(), first["sequence"].as_u64().map(|sequence| sequence + 1));
    let before = gateway.helper("nest");
    let output = gateway.command(&["restart", "nest"]);
    let now = gateway.helper("nest");
    assert_eq!(output.status.code(), Some(0), "{}", complaint(&output));
    assert_eq!(String::from_utf8_lossy(&output.stdout), format!("forebay: helper nest restarted, pid {now}\n"));
    assert_ne!(now, before);
    let again = std::iter::repeat_with(&mut next).find(|update| update["snapshot"].is_array()).expect("a snapshot");
    assert!(again["epoch"].as_u64() > first["epoch"].as_u64(), "{again} after {first}");
    let run_dir = gateway.run_dir().display().to_string();
    gateway.stop();
    let output = events.wait_with_output().expect("it ends");
    assert_eq!(output.status.code(), Some(69), "{}", complaint(&output));
    assert!(!complaint(&output).is_empty(), "it says why in {run_dir}");
    simulator.stop();
}
