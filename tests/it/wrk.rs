//! A client that nobody here wrote, without a pause, over reloads that follow at once.

use std::process::{Child, Command, Stdio};

use forebay::testing::Server;
use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;

use crate::client::example;
use crate::reload::commit;

/// Ended when dropped.
struct Wrk(Option<Child>);

impl Wrk {
    /// Ends it as Ctrl-C does; returns what it has seen.
    fn finish(mut self) -> String {
        let wrk = self.0.take().expect("it runs");
        kill(Pid::from_raw(wrk.id().cast_signed()), Signal::SIGINT).expect("it runs");
        let output = wrk.wait_with_output().expect("its end");
        String::from_utf8_lossy(&output.stdout).into_owned()
    }
}

impl Drop for Wrk {
    fn drop(&mut self) {
        if let Some(mut wrk) = self.0.take() {
            let _ = wrk.kill();
            let _ = wrk.wait();
        }
    }
}

#[test]
fn wrk_loses_nothing_over_sixteen_reloads() {
    let server = Server::of(example("fixture"))
        .workers(2)
        .configuration("[timeouts]\nstable = 0.2\n[log]\nlevel = 'warn'\n")
        .start();
    let url = format!("http://{}/", server.address());
    // Far longer than the reloads take: it is told to end.
    let arguments = ["--threads", "1", "--connections", "8", "--duration", "120", &url];
    let wrk = Wrk(Some(Command::new("wrk").args(arguments).stdout(Stdio::piped()).spawn().expect("wrk starts")));
    for generation in 2..=17 {
        assert!(commit(&server).contains(&format!("generation {generation} serves")));
    }
    let said = wrk.finish();
    println!("{said}");
    assert!(said.contains(" requests in "), "{said}");
    assert!(!said.contains("Socket errors") && !said.contains("Non-2xx"), "{said}");
    server.stop();
}
