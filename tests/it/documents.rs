//! The README's tables say what the program says of itself.

use std::collections::BTreeSet;
use std::fs;
use std::process::{Command, Output};

use forebay::testing::Server;

const README: &str = include_str!("../../README.md");

/// The first column of the table under this header, without its code marks.
fn column(header: &str) -> Vec<&'static str> {
    let table = README.split_once(&format!("\n| {header} |")).expect("the table").1;
    let rows = table.lines().skip(2).take_while(|line| line.starts_with('|'));
    rows.map(|row| row.split('|').nth(1).expect("a first column").trim().trim_matches('`')).collect()
}

fn forebay(words: &[&str]) -> Output {
    Command::new(env!("CARGO_BIN_EXE_forebay")).args(words).output().expect("the program starts")
}

fn help(words: &[&str]) -> String {
    let output = forebay(&[words, &["--help"]].concat());
    assert!(output.status.success());
    String::from_utf8(output.stdout).expect("text")
}

#[test]
fn the_commands_are_those_of_the_help() {
    let help = help(&[]);
    let commands = help.split_once("Commands:\n").expect("commands").1.lines();
    let listed: BTreeSet<&str> =
        commands.take_while(|line| !line.is_empty()).filter_map(|line| line.split_whitespace().next()).collect();
    let documented: BTreeSet<&str> = column("command").iter().filter_map(|row| row.split(' ').next()).collect();
    assert_eq!(documented, listed);
}

#[test]
fn the_flags_are_those_of_the_help() {
    let mut listed = BTreeSet::new();
    for command in ["serve", "status", "scale", "restart", "call", "events", "stop"] {
        for line in help(&[command]).lines().map(str::trim_start).filter(|line| line.contains("--")) {
            let flag = line.split(' ').find(|word| word.starts_with("--")).expect("a flag");
            // What follows a flag in the list is its value; within a sentence it is not a flag's row.
            if line.starts_with('-') && flag != "--help" && flag != "--version" {
                listed.insert(flag.to_owned());
            }
        }
    }
    let documented: BTreeSet<String> =
        column("flag").iter().map(|row| row.split(' ').next().expect("a flag").to_owned()).collect();
    assert_eq!(documented, listed);
}

/// The keys that the program names when it meets one that it does not know.
fn known_keys(section: &str) -> BTreeSet<String> {
    let directory = tempfile::tempdir().expect("a directory");
    let file = directory.path().join("wrong.toml");
    let prefix = if section.is_empty() { String::new() } else { format!("[{section}]\n") };
    fs::write(&file, format!("{prefix}wrong = 1\n")).expect("write");
    let output = forebay(&["serve", "--config", file.to_str().expect("text")]);
    assert_eq!(output.status.code(), Some(78));
    let message = String::from_utf8(output.stderr).expect("text");
    let (_, known) = message.split_once("expected ").expect("what is known");
    known.split('`').skip(1).step_by(2).map(str::to_owned).collect()
}

#[test]
fn the_keys_are_those_of_the_program() {
    let sections = ["timeouts", "restart", "log"];
    let mut known = known_keys("");
    for section in sections {
        assert!(known.remove(section), "[{section}]");
        known.extend(known_keys(section).into_iter().map(|key| format!("{section}.{key}")));
    }
    assert_eq!(column("key").into_iter().map(str::to_owned).collect::<BTreeSet<_>>(), known);
}

#[test]
fn the_signals_are_those_that_the_master_catches() {
    let server = Server::of(env!("CARGO_BIN_EXE_forebay")).workers(1).start();
    let status = fs::read_to_string(format!("/proc/{}/status", server.pid())).expect("its status");
    let caught = status.lines().find_map(|line| line.strip_prefix("SigCgt:")).expect("caught signals");
    let caught = u64::from_str_radix(caught.trim(), 16).expect("a mask");
    let names: BTreeSet<String> = (1..32)
        .filter(|number| caught & (1 << (number - 1)) != 0)
        .filter_map(|number| nix::sys::signal::Signal::try_from(number).ok())
        // The first is the kernel's word to the master, the others are Rust's stack guard.
        .filter(|signal| !["SIGCHLD", "SIGSEGV", "SIGBUS"].contains(&signal.as_str()))
        .map(|signal| signal.as_str().trim_start_matches("SIG").to_owned())
        .collect();
    let rows = column("signal to the master");
    let documented: BTreeSet<String> = rows.iter().flat_map(|row| row.split(", ")).map(str::to_owned).collect();
    assert_eq!(documented, names);
    server.stop();
}

#[test]
fn the_exit_codes_are_those_of_the_code() {
    let source = include_str!("../../src/error.rs");
    let (_, codes) = source.split_once("enum Exit {").expect("the codes");
    let codes = codes.lines().take_while(|line| *line != "}");
    let codes: Vec<&str> =
        codes.filter_map(|line| line.split_once(" = ")).map(|(_, code)| code.trim_end_matches(',')).collect();
    assert_eq!(column("exit code"), codes);
}
