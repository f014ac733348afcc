//! The HTTP clients of Node.js and of Python, with connections that they keep over reloads.

use std::io::{BufRead, BufReader};
use std::process::{Command, Stdio};

use forebay::testing::Server;
use serde_json::Value;

use super::{Program, beside, text};
use crate::client::example;
use crate::reload::commit;

/// Answers that a client must have been given over connections that it had used before.
const KEPT_MIN: u64 = 20;

/// Lets a script ask over five reloads. What it says for each client: none has a request that was lost, and none
/// asks twice. An answer that says `Connection: close`, and GOAWAY, take a new connection.
fn ask(program: &str, script: &str) {
    let server = Server::of(example("fixture")).configuration("[timeouts]\nstable = 0.2\n").start();
    let mut command = Command::new(program);
    command.arg(beside(script)).arg(format!("http://{}/echo", server.address())).stdin(Stdio::piped());
    let mut client = Program::start(&mut command);
    let mut words = BufReader::new(client.child().stdout.take().expect("a pipe"));
    let mut line = String::new();
    words.read_line(&mut line).expect("text");
    assert_eq!(line, "begun\n");
    for _ in 0..5 {
        commit(&server);
    }
    assert!(client.is_running(), "it has seen all of them");
    let output = client.finish();
    let said: Value = serde_json::from_reader(words).unwrap_or_else(|_| panic!("{}", text(&output)));
    for (name, tally) in said.as_object().expect("an object") {
        assert_eq!(tally["lost"], Value::Array(Vec::new()), "{name}");
        assert!(tally["answered"].as_u64() > Some(KEPT_MIN), "{name}: {tally}");
        // fetch does not tell.
        assert!(name == "fetch" || tally["again"].as_u64() > Some(KEPT_MIN), "{name}: {tally}");
    }
    server.stop();
}

#[test]
fn node_loses_nothing_over_reloads() {
    ask("node", "keep.js");
}

#[test]
fn python_loses_nothing_over_reloads() {
    // As Debian has it, with its packages, whichever else is in the way.
    ask("/usr/bin/python3", "keep.py");
}
