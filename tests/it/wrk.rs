//! A client that nobody here wrote, without a pause, over reloads that follow at once.

use std::process::Command;

use forebay::testing::Server;
use nix::sys::signal::Signal;

use crate::client::example;
use crate::reload::commit;
use crate::visitors::{Program, text};

#[test]
fn wrk_loses_nothing_over_sixteen_reloads() {
    let server = Server::of(example("fixture"))
        .workers(2)
        .configuration("[timeouts]\nstable = 0.2\n[log]\nlevel = 'warn'\n")
        .start();
    let url = format!("http://{}/", server.address());
    // Far longer than the reloads take: it is told to end.
    let arguments = ["--threads", "1", "--connections", "8", "--duration", "120", &url];
    let mut wrk = Program::start(Command::new("wrk").args(arguments));
    for generation in 2..=17 {
        assert!(commit(&server).contains(&format!("generation {generation} serves")));
    }
    // As Ctrl-C does.
    wrk.signal(Signal::SIGINT);
    let said = text(&wrk.finish());
    println!("{said}");
    assert!(said.contains(" requests in "), "{said}");
    assert!(!said.contains("Socket errors") && !said.contains("Non-2xx"), "{said}");
    server.stop();
}
