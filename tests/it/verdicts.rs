//! Who asks for a reload that fails is told what the process at fault has said last.

use std::fs;

use nix::libc::{SIGCONT, SIGSTOP};
use serde_json::Value;

use crate::reload::{Releases, reload, said};

#[test]
fn what_the_culprit_said_last_is_part_of_the_result() {
    let releases = Releases::new();
    let server = releases.serve().workers(2).configuration("[timeouts]\nstable = 0\n").start();
    fs::write(releases.fault(), "complain").expect("write");
    let output = reload(&server);
    assert_eq!(output.status.code(), Some(1));
    let told = said(&output);
    let (_, lines) = told.split_once("what it said last:").expect("it said something");
    assert!(lines.contains("\nfixture:     ERROR fixture: table 5 is missing"), "{lines}");
    assert!(lines.contains("\nfixture:     INFO output: libdatabase: no [1mroute"), "{lines}");
    assert_eq!(lines.lines().filter(|line| !line.is_empty()).count(), 6, "{lines}");
    let last = server.status()["last_reload"]["last_lines"].clone();
    assert_eq!(last.as_array().map(Vec::len), Some(6), "{last}");
    let written = fs::read_to_string(server.run_dir().join("reload.json")).expect("it is there");
    let written: Value = serde_json::from_str(&written).expect("it is JSON");
    assert_eq!(written["last"]["last_lines"], last);
    // Nobody waits for a log helper that does not answer.
    let log = server.helper("log");
    server.signal(log, SIGSTOP);
    let output = reload(&server);
    server.signal(log, SIGCONT);
    assert_eq!(output.status.code(), Some(1));
    assert!(said(&output).contains("exited with 7") && !said(&output).contains("said last"), "{}", said(&output));
    server.stop();
}
