//! An upstream in another daemon, and gateways that are its clients.

use std::fs;
use std::net::SocketAddr;

use forebay::testing::{Builder, Server};
use serde_json::{Value, json};

use crate::client::{Answer, get, request};

/// A daemon whose simulator is the upstream of the daemons under test.
pub(crate) struct Simulator {
    server: Server,
    address: SocketAddr,
}

/// The event streams that a token has and had.
#[derive(Debug, PartialEq)]
pub(crate) struct Streams {
    pub(crate) open: u64,
    pub(crate) open_max: u64,
    pub(crate) total: u64,
}

impl Simulator {
    /// One with one thermostat that nobody turns. Its own gateway connects once and never again,
    /// so that it takes no fault that is meant for another.
    pub(crate) fn start() -> Self {
        Self::with("thermostats = 1\n")
    }

    /// One with these settings.
    pub(crate) fn with(settings: &str) -> Self {
        let configuration =
            format!("[simulator]\nwall_s = 0\n{settings}[nest]\nbackoff_min_s = 3600\nbackoff_max_s = 3600\n");
        let server = Server::of(env!("CARGO_BIN_EXE_forebay")).workers(1).configuration(&configuration).start();
        let output = server.command(&["call", "simulator", r#"{"method":"url"}"#]);
        let url: String = serde_json::from_slice(&output.stdout).expect("a URL");
        let address = url.strip_prefix("http://").expect("plain HTTP").parse().expect("an address");
        let simulator = Self { server, address };
        simulator.server.wait_for("its own gateway", || (simulator.streams("c.simulator").open == 1).then_some(()));
        simulator
    }

    pub(crate) fn address(&self) -> SocketAddr {
        self.address
    }

    /// A gateway with this token, and more in its section `[nest]`.
    pub(crate) fn gateway(&self, token: &str, settings: &str) -> Builder {
        let file = self.server.directory().join(token);
        fs::write(&file, token).expect("write the token");
        let url = format!("http://{}", self.address);
        let mut text = format!("[nest]\nurl = \"{url}\"\ntoken_file = \"{}\"\n{settings}", file.display());
        if !settings.contains("backoff_max_s") {
            text.push_str("backoff_min_s = 0.05\nbackoff_max_s = 0.3\n");
        }
        Server::of(env!("CARGO_BIN_EXE_forebay")).configuration(&text)
    }

    /// Asks for a fault; returns how many streams it has touched.
    pub(crate) fn fault(&self, fault: &Value) -> Value {
        let body = fault.to_string();
        let answer = request(self.address, "POST", "/__simulator/faults", body.as_bytes()).expect("an answer");
        assert_eq!(answer.status, 200, "{fault}: {}", answer.body);
        serde_json::from_str(&answer.body).expect("JSON")
    }

    /// Somebody gives the first thermostat another label at the wall.
    pub(crate) fn label(&self, label: &str) {
        self.fault(&json!({"fault": "wall", "fields": {"label": label}}));
    }

    pub(crate) fn counts(&self) -> Value {
        let answer = get(self.address, "/__simulator").expect("an answer");
        serde_json::from_str(&answer.body).expect("JSON")
    }

    pub(crate) fn streams(&self, token: &str) -> Streams {
        let counts = &self.counts()["tokens"][token];
        let count = |name: &str| counts[name].as_u64().unwrap_or(0);
        Streams { open: count("streams_open"), open_max: count("streams_open_max"), total: count("streams_total") }
    }

    /// Waits until this token has opened so many streams, one at a time, and has one.
    pub(crate) fn wait_for_stream(&self, token: &str, total: u64) {
        self.server.wait_for(&format!("stream {total} of {token}"), || {
            let streams = self.streams(token);
            assert!(streams.open_max <= 1 && streams.total <= total, "{streams:?}");
            (streams.open == 1 && streams.total == total).then_some(())
        });
    }

    pub(crate) fn stop(self) {
        self.server.stop();
    }
}

/// What `/healthz` of a gateway says of its upstream.
pub(crate) fn upstream(gateway: &Server) -> Value {
    let answer = get(gateway.address(), "/healthz").expect("an answer");
    assert_eq!(answer.status, 200, "it serves whatever its upstream does");
    let health: Value = serde_json::from_str(&answer.body).expect("JSON");
    health["upstream"].clone()
}

/// Waits until the upstream is in this state for every worker; returns what one of them says.
///
/// Workers take turns at the socket as the kernel likes: several answers in a row are as good.
pub(crate) fn wait_for_state(gateway: &Server, state: &str) -> Value {
    let (address, tries) = (gateway.address(), 4 * gateway.workers().len());
    gateway.wait_for(&format!("the upstream {state}"), || {
        let one = || {
            let health: Value = serde_json::from_str(&get(address, "/healthz").ok()?.body).ok()?;
            Some(health["upstream"].clone()).filter(|upstream| upstream["state"] == state)
        };
        (0..tries).map(|_| one()).collect::<Option<Vec<Value>>>()?.pop()
    })
}

/// A path of a gateway, its answer as JSON.
pub(crate) fn ask(gateway: &Server, method: &str, path: &str, body: &str) -> (Answer, Value) {
    let answer = request(gateway.address(), method, path, body.as_bytes()).expect("an answer");
    let json = serde_json::from_str(&answer.body).unwrap_or(Value::Null);
    (answer, json)
}

/// The path of the first thermostat that a gateway knows.
pub(crate) fn first_thermostat(gateway: &Server) -> String {
    let address = gateway.address();
    gateway.wait_for("a thermostat", || {
        let list: Value = serde_json::from_str(&get(address, "/thermostats").ok()?.body).ok()?;
        Some(format!("/thermostats/{}", list[0]["device_id"].as_str()?))
    })
}

/// The value of a header, in lower case as it came.
pub(crate) fn header<'a>(answer: &'a Answer, name: &str) -> Option<&'a str> {
    answer.head.lines().find_map(|line| line.strip_prefix(name)?.strip_prefix(": "))
}
