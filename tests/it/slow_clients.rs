//! `slowhttptest` in all its modes: who is slow on purpose is shed at the limits, and others feel nothing.

use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

use forebay::testing::Server;

use crate::client::{example, get};
use crate::farewell::connections;

/// Connections of each attack.
const CONNECTIONS: &str = "200";

/// How long an attack lasts if nobody sheds it, in seconds: limits are 2 s.
const DURATION: &str = "20";

/// So many of them are open while it lasts, and so few when it is over, with those that ask.
const MANY: u64 = 100;
const FEW: u64 = 5;

/// What an answer may take on a busy machine.
const SOON: Duration = Duration::from_secs(2);

/// Starts an attack, asks beside it until it is over, and looks at how that was.
fn attack(program: &str, mode: &[&str], path: &str) {
    let limits = "[http]\nheader_timeout = 2\nbody_timeout = 2\nsend_timeout = 2\nkeepalive_timeout = 2\n";
    let server = Server::of(example(program)).workers(2).configuration(limits).start();
    let url = format!("http://{}{path}", server.address());
    let mut attacker = Command::new("slowhttptest");
    attacker.args(mode).args(["-c", CONNECTIONS, "-r", CONNECTIONS, "-i", "1", "-l", DURATION, "-p", "2", "-u", &url]);
    let attacker = attacker.stdin(Stdio::null()).stdout(Stdio::piped()).stderr(Stdio::piped()).spawn();
    let mut attacker = attacker.expect("slowhttptest is installed by scripts/test");
    let (mut longest, mut most) = (Duration::ZERO, 0);
    // One that does not look at what it reads does not notice its end.
    let is_noticed = loop {
        let begun = Instant::now();
        assert_eq!(get(server.address(), "/").expect("an answer").status, 200);
        longest = longest.max(begun.elapsed());
        let open = connections(&server.status());
        most = most.max(open);
        if attacker.try_wait().expect("it is ours").is_some() {
            break true;
        }
        if most > MANY && open < FEW {
            attacker.kill().expect("it is ours");
            break false;
        }
    };
    let output = attacker.wait_with_output().expect("its end");
    let report = String::from_utf8_lossy(&output.stdout);
    println!("{mode:?}: {most} connections, others waited for {} ms at most", longest.as_millis());
    assert!(!is_noticed || report.contains("No open connections left"), "{mode:?}: {report}");
    let mut available = report.lines().filter(|line| line.contains("service available"));
    assert!(available.all(|line| line.contains("YES")), "{mode:?}: {report}");
    assert!(longest < SOON, "{mode:?}: {longest:?}");
    server.wait_until("no connection", |status| connections(status) == 0);
    server.stop();
}

#[test]
fn slow_heads_are_shed() {
    attack("fixture", &["-H"], "/");
}

#[test]
fn slow_bodies_are_shed() {
    attack("fixture", &["-B"], "/echo");
}

#[test]
fn clients_that_read_slowly_are_shed() {
    attack("lasting", &["-X", "-w", "10", "-y", "20", "-n", "1", "-z", "5"], "/large/2");
}

#[test]
fn many_ranges_are_answered_like_any_other_request() {
    attack("fixture", &["-R"], "/");
}
