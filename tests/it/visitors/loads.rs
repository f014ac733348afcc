//! Load generators: what they count as failed, over reloads that follow at once.

use std::process::Command;

use forebay::testing::Server;

use super::{Program, text};
use crate::client::example;
use crate::reload::commit;

fn lasting() -> Server {
    Server::of(example("lasting")).configuration("[timeouts]\nstable = 0.2\n[log]\nlevel = 'warn'\n").start()
}

/// What a generator says that runs over three reloads.
fn over_reloads(server: &Server, program: &str, arguments: &[&str]) -> String {
    let mut generator =
        Program::start(Command::new(program).args(arguments).arg(format!("http://{}/", server.address())));
    for _ in 0..3 {
        commit(server);
    }
    assert!(generator.is_running(), "it has seen all of them");
    let output = generator.finish();
    assert!(output.status.success(), "{}", text(&output));
    text(&output)
}

/// The first number of the line that begins so.
fn number(said: &str, begin: &str) -> u64 {
    let rest = said.lines().find_map(|line| line.trim_start().strip_prefix(begin));
    let rest = rest.unwrap_or_else(|| panic!("{begin} in {said}"));
    rest.split_whitespace().next().and_then(|word| word.parse().ok()).expect("a number")
}

#[test]
fn h2load_loses_nothing_over_reloads() {
    let server = lasting();
    let said = over_reloads(&server, "h2load", &["--h1", "--clients", "8", "--duration", "5"]);
    assert!(number(&said, "requests:") > 1000, "{said}");
    assert!(said.contains(" 0 failed, 0 errored, 0 timeout") && said.contains(" 0 4xx, 0 5xx"), "{said}");
    server.stop();
}

/// No reload comes meanwhile: of what it has still to ask when GOAWAY comes, h2load asks nothing anew.
#[test]
fn h2load_has_many_streams_of_http_2_answered() {
    let server = lasting();
    for generation in 2..=4 {
        let arguments = ["--clients", "8", "--max-concurrent-streams", "64", "--requests", "20000"];
        let url = format!("http://{}/", server.address());
        let output = Program::start(Command::new("h2load").args(arguments).arg(url)).finish();
        let said = text(&output);
        assert!(said.contains("20000 succeeded, 0 failed, 0 errored, 0 timeout"), "{said}");
        assert!(commit(&server).contains(&format!("generation {generation} serves")));
    }
    server.stop();
}

/// It speaks HTTP/1.0, and keeps its connections open.
#[test]
fn ab_loses_nothing_over_reloads() {
    let server = lasting();
    // Its bodies are numbers of generations; without a limit on time it would end at 50,000 requests.
    let arguments = ["-q", "-k", "-l", "-c", "8", "-t", "5", "-n", "10000000"];
    let said = over_reloads(&server, "ab", &arguments);
    assert_eq!(number(&said, "Failed requests:"), 0, "{said}");
    assert!(!said.contains("Non-2xx") && number(&said, "Keep-Alive requests:") > 1000, "{said}");
    server.stop();
}
