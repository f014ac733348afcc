//! A browser, without a window: event streams and WebSockets as pages have them, over reloads.

use std::io::{BufRead, BufReader, Write};
use std::process::{Command, Stdio};
use std::sync::mpsc::{self, Receiver};
use std::time::{Duration, Instant};

use forebay::testing::Server;
use serde_json::{Value, json};
use tempfile::TempDir;

use super::{Program, beside};
use crate::client::example;
use crate::reload::{SHORT, commit};
use crate::simulator::{Simulator, ask, first_thermostat, wait_for_state};

/// How long a page may take for anything, on a machine that has much to do.
const LIMIT: Duration = Duration::from_secs(60);

/// Chromium, with as many pages as are named.
struct Browser {
    node: Program,
    lines: Receiver<String>,
    _profile: TempDir,
}

impl Browser {
    fn start() -> Self {
        let profile = tempfile::tempdir().expect("a directory");
        let mut command = Command::new("node");
        command.arg(beside("browser.js")).arg(profile.path()).stdin(Stdio::piped());
        let mut node = Program::start(&mut command);
        let words = BufReader::new(node.child().stdout.take().expect("a pipe"));
        let (say, lines) = mpsc::channel();
        std::thread::spawn(move || words.lines().map_while(Result::ok).try_for_each(|line| say.send(line)));
        Self { node, lines, _profile: profile }
    }

    fn order(&mut self, order: &Value) {
        let input = self.node.child().stdin.as_mut().expect("a pipe");
        writeln!(input, "{order}").expect("it listens");
    }

    /// Goes to an address.
    fn visit(&mut self, page: &str, url: &str) {
        self.order(&json!({"page": page, "url": url}));
        self.hear(|line| line == format!("{page}: loaded"));
    }

    /// Runs this in a page.
    fn run(&mut self, page: &str, script: &str) {
        self.order(&json!({"page": page, "script": script}));
    }

    /// Waits for the next line that is as wished, and returns it.
    fn hear(&self, wish: impl Fn(&str) -> bool) -> String {
        let (deadline, mut heard) = (Instant::now() + LIMIT, Vec::new());
        loop {
            let left = deadline.saturating_duration_since(Instant::now());
            let line = self.lines.recv_timeout(left).unwrap_or_else(|_| panic!("another line than {heard:#?}"));
            if wish(&line) {
                return line;
            }
            heard.push(line);
        }
    }

    /// Closes it, so that no process of its own is left.
    fn close(self) {
        let output = self.node.finish();
        assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    }
}

#[test]
fn a_page_follows_events_over_a_reload_and_misses_none() {
    let simulator = Simulator::start();
    let server = simulator
        .gateway("c.browser", &format!("backoff_min_s = 0.05\nbackoff_max_s = 0.3\n{SHORT}"))
        .workers(1)
        .start();
    wait_for_state(&server, "open");
    let path = first_thermostat(&server);
    let mut browser = Browser::start();
    browser.visit("home", &format!("http://{}/thermostats", server.address()));
    browser.run(
        "home",
        "const source = new EventSource('/events');
         source.onopen = () => console.log('open');
         source.onerror = () => console.log('error', source.readyState);
         const tell = (event) => console.log(event.type, event.lastEventId, event.data);
         for (const type of ['snapshot', 'thermostat']) source.addEventListener(type, tell);",
    );
    browser.hear(|line| line == "home: open");
    let snapshot = browser.hear(|line| line.starts_with("home: snapshot "));
    assert!(snapshot.contains("target_temperature_c"), "{snapshot}");
    let change = |celsius: f64| {
        let (answer, _) = ask(&server, "PUT", &path, &json!({"target_temperature_c": celsius}).to_string());
        assert_eq!(answer.status, 200, "{answer:?}");
        format!("\"target_temperature_c\":{celsius:?}")
    };
    let first = change(23.5);
    browser.hear(|line| line.starts_with("home: thermostat ") && line.contains(&first));
    commit(&server);
    // 0: it connects again by itself, and says what it has had.
    browser.hear(|line| line == "home: error 0");
    let missed = change(24.5);
    let next = browser.hear(|line| line.starts_with("home: thermostat ") || line.starts_with("home: snapshot "));
    assert!(next.starts_with("home: thermostat ") && next.contains(&missed), "no snapshot again: {next}");
    browser.close();
    server.stop();
    simulator.stop();
}

#[test]
fn two_pages_talk_and_are_told_when_their_worker_ends() {
    let server = Server::of(example("chat")).configuration(SHORT).start();
    let mut browser = Browser::start();
    let enter = |person: &str| {
        format!(
            "socket = new WebSocket('ws://{}/room/lobby/{person}');
             socket.onmessage = (event) => console.log('heard', event.data);
             socket.onclose = (event) => console.log('closed', event.code, event.wasClean);",
            server.address()
        )
    };
    for person in ["ann", "bob"] {
        browser.run(person, &enter(person));
        browser.hear(|line| line == format!("{person}: heard you are in lobby"));
    }
    browser.run("ann", "socket.send('the water is rising')");
    browser.hear(|line| line == "bob: heard ann: the water is rising");
    commit(&server);
    let mut closed = [(); 2].map(|()| browser.hear(|line| line.contains(": closed ")));
    closed.sort();
    assert_eq!(closed, ["ann: closed 1001 true", "bob: closed 1001 true"]);
    // Whoever comes back is with those who serve.
    browser.run("ann", &enter("ann"));
    browser.hear(|line| line == "ann: heard you are in lobby");
    browser.close();
    server.stop();
}
