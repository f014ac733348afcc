//! The README's tables say what the program says of itself.

use std::collections::BTreeSet;
use std::fs;
use std::os::unix::fs::PermissionsExt;
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
    for command in ["serve", "check", "config", "status", "scale", "reload", "restart", "call", "events", "log", "stop"]
    {
        let help = help(&[command]);
        // What follows has a row for each key, which is documented as one.
        let own = help.split_once("Settings:").map_or(help.as_str(), |(own, _)| own);
        for line in own.lines().map(str::trim_start).filter(|line| line.contains("--")) {
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

/// Keys as `config` prints them, with their sections.
fn keys() -> BTreeSet<String> {
    let output = forebay(&["config"]);
    assert!(output.status.success());
    let mut section = String::new();
    let mut keys = BTreeSet::new();
    for line in String::from_utf8(output.stdout).expect("text").lines() {
        let line = line.trim_start_matches('#');
        if line.starts_with('[') {
            section = format!("{}.", line.trim_matches(['[', ']']));
        } else if let Some((key, _)) = line.split_once(" = ").filter(|_| !line.starts_with(' ')) {
            keys.insert(format!("{section}{key}"));
        }
    }
    keys
}

#[test]
fn the_keys_are_those_of_the_example_and_each_is_a_flag() {
    let reference = include_str!("../../CONFIGURATION.md");
    let rows = reference.lines().filter_map(|line| line.strip_prefix("| `")?.split('`').next());
    let documented: BTreeSet<&str> = rows.collect();
    let help = help(&["serve"]);
    for key in keys() {
        let key = key.strip_prefix("nest.").unwrap_or(&key);
        assert!(documented.contains(key), "{key}");
    }
    let below = ["listener.", "helper.", "nest.", "log.target.", "log.access."];
    let is_flag = |key: &&String| !below.iter().any(|section| key.starts_with(section));
    for key in keys().iter().filter(is_flag) {
        assert!(help.contains(&format!("--{} <", key.replace(['.', '_'], "-"))), "{key}");
    }
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

/// The unit with the program that was built in the place of the installed one.
fn unit() -> String {
    include_str!("../../scripts/forebay.service").replace("/usr/bin/forebay", env!("CARGO_BIN_EXE_forebay"))
}

#[test]
fn the_unit_for_systemd_is_clean() {
    let scratch = tempfile::tempdir().expect("a directory");
    let path = scratch.path().join("forebay.service");
    fs::write(&path, unit()).expect("write");
    let output =
        Command::new("systemd-analyze").arg("verify").arg(&path).output().expect("systemd-analyze(1) is there");
    let said = String::from_utf8_lossy(&[output.stdout, output.stderr].concat()).into_owned();
    assert!(output.status.success() && said.is_empty(), "{said}");
}

#[test]
fn the_capabilities_of_the_unit_are_enough() {
    if !nix::unistd::geteuid().is_root() {
        return println!("SKIPPED: giving up capabilities takes root");
    }
    let unit = unit();
    let line = unit.lines().find_map(|line| line.strip_prefix("CapabilityBoundingSet=")).expect("the line");
    let kept: Vec<String> = line.split(' ').map(|name| name.trim_start_matches("CAP_").to_lowercase()).collect();
    let bounding = format!("--bounding-set=-all,+{}", kept.join(",+"));
    let words = ["setpriv", &bounding, "--inh-caps=-all", "--no-new-privs", "--"];
    let scratch = tempfile::tempdir().expect("a directory");
    let server = Server::of(env!("CARGO_BIN_EXE_forebay")).under(&words).argument("--user").argument("nobody");
    fs::set_permissions(scratch.path(), fs::Permissions::from_mode(0o755)).expect("chmod");
    let server = server.run_dir(scratch.path().join("run")).start();
    server.signal(server.workers()[0], nix::libc::SIGKILL);
    server.wait_until("a new worker", |status| status["workers"][0]["restarts"] == 1 && status["state"] == "serving");
    // The master ends whoever does not end by itself, though it is another user's.
    let stopped = server.helper("nest");
    server.signal(stopped, nix::libc::SIGSTOP);
    server.signal(server.pid(), nix::libc::SIGTERM);
    server.wait_for_log("stopping");
    server.signal(server.pid(), nix::libc::SIGTERM);
    server.wait_for("its end", || (!std::path::Path::new(&format!("/proc/{stopped}")).exists()).then_some(()));
}
