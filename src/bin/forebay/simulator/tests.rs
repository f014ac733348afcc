//! The simulator through real sockets: what it answers.

mod client;
mod faults;

use std::time::Duration;

use serde_json::{Value, json};

use super::{Config, Simulator};
use client::{End, Reply, call};

const TOKEN: (&str, &str) = ("Authorization", "Bearer c.one");
const EVENTS: (&str, &str) = ("Accept", "text/event-stream");

/// A simulator under test.
struct Bench {
    front: u16,
    second: u16,
    /// The first thermostat's path, and the second's.
    hallway: String,
    bedroom: String,
    home: String,
}

#[tokio::test]
async fn a_stream_begins_with_a_redirect_and_a_snapshot() {
    bench(async |bench| {
        let redirect = call(bench.front, "GET", "/devices?x=1", &[TOKEN, EVENTS], "").await.expect("an answer");
        assert_eq!(redirect.status, 307);
        assert_eq!(redirect.headers["location"], format!("http://127.0.0.1:{}/devices?x=1", bench.second));
        for port in [bench.front, bench.second] {
            let refused = call(port, "GET", "/", &[EVENTS], "").await.expect("an answer");
            assert_eq!(refused.status, 401);
            assert_eq!(refused.json().await["error"], "unauthorized");
        }
        let mut stream = bench.stream("/").await;
        assert_eq!(stream.headers["content-type"], "text/event-stream");
        assert_eq!(stream.event().await, ("open".to_owned(), Value::Null));
        let (name, data) = stream.event().await;
        assert_eq!((name.as_str(), &data["path"]), ("put", &json!("/")));
        assert_eq!(data["data"], bench.document("/").await);
        let report = bench.report().await;
        assert_eq!(report["tokens"]["c.one"], json!({"streams_open": 1, "streams_open_max": 1, "streams_total": 1}));
        assert_eq!(report["requests"]["stream"], json!({"200": 1, "307": 1, "401": 2}));
        assert_eq!(report["redirects"], 1);
        assert_eq!(report["recent"][0]["path"], "/devices");
    })
    .await;
}

#[tokio::test]
async fn a_write_is_echoed_and_arrives_on_all_streams() {
    bench(async |bench| {
        let (mut root, mut leaf) = (bench.opened("/").await, bench.opened(&bench.leaf("target_temperature_c")).await);
        let written = json!({"target_temperature_c": 24.3});
        let redirect =
            call(bench.front, "PUT", &bench.hallway, &[TOKEN], &written.to_string()).await.expect("an answer");
        assert_eq!(redirect.status, 307);
        assert!(redirect.headers["location"].ends_with(&format!(":{}{}", bench.second, bench.hallway)));
        let echo = bench.put(&bench.hallway, &written).await;
        assert_eq!(echo.status, 200);
        assert_eq!(echo.json().await, written);
        let (name, data) = root.event().await;
        assert_eq!((name.as_str(), &data["path"]), ("put", &json!("/")));
        let thermostat = data["data"].pointer(&bench.hallway).expect("the thermostat");
        assert_eq!(
            (&thermostat["target_temperature_c"], &thermostat["target_temperature_f"]),
            (&json!(24.5), &json!(76))
        );
        let expected = json!({"path": bench.leaf("target_temperature_c"), "data": 24.5});
        assert_eq!(leaf.event().await, ("put".to_owned(), expected));
        assert_eq!(bench.report().await["writes"], 1);
        let written = json!({"target_temperature_f": 70.4});
        assert_eq!(bench.put(&bench.hallway, &written).await.json().await, written);
        let expected = json!({"path": bench.leaf("target_temperature_c"), "data": 21.0});
        assert_eq!(leaf.event().await, ("put".to_owned(), expected));
        let (_, data) = root.event().await;
        assert_eq!(data["data"].pointer(&bench.leaf("target_temperature_f")), Some(&json!(70)));
        // What changes nothing is told to nobody.
        assert_eq!(bench.put(&bench.hallway, &written).await.status, 200);
        assert_eq!(root.silence().await, b"");
    })
    .await;
}

#[tokio::test]
async fn wrong_calls_are_refused() {
    bench(async |bench| {
        let table = [
            (
                bench.hallway.as_str(),
                json!({"target_temperature_c": 40}),
                400,
                "target_temperature_c value is too high: 40",
            ),
            (
                &bench.hallway,
                json!({"humidity": 40, "name": "x"}),
                400,
                "No write permission(s) for field(s): humidity,name",
            ),
            (&bench.bedroom, json!({"target_temperature_c": 20}), 400, "Cannot change target temperature while"),
            ("/devices/thermostats/nobody", json!({"label": "x"}), 404, "not found"),
            (&bench.home, json!({"away": "maybe"}), 400, "away 'maybe' is in wrong format"),
            ("/", json!({}), 400, "No write permission"),
        ];
        for (path, body, status, message) in table {
            let refused = bench.put(path, &body).await;
            assert_eq!(refused.status, status, "{path} {body}");
            let body = refused.json().await;
            assert!(body["message"].as_str().is_some_and(|text| text.starts_with(message)), "{body}");
            assert_eq!(body["instance"].as_str().map(str::len), Some(36));
        }
        let port = bench.second;
        let statuses = [
            call(port, "PUT", &bench.hallway, &[TOKEN], "{").await.map(|reply| reply.status),
            call(port, "PUT", &bench.hallway, &[], "{}").await.map(|reply| reply.status),
            call(port, "PUT", &bench.hallway, &[TOKEN], &" ".repeat(70_000)).await.map(|reply| reply.status),
            call(port, "DELETE", "/", &[TOKEN], "").await.map(|reply| reply.status),
            call(port, "GET", "/devices/cameras", &[TOKEN], "").await.map(|reply| reply.status),
            call(port, "GET", "/devices/cameras", &[TOKEN, EVENTS], "").await.map(|reply| reply.status),
        ];
        assert_eq!(statuses, [Ok(400), Ok(401), Ok(413), Ok(405), Ok(404), Ok(404)]);
    })
    .await;
}

#[tokio::test]
async fn redirects_go_where_they_are_told() {
    bench(async |bench| {
        let ask = async || call(bench.front, "GET", "/", &[TOKEN, EVENTS], "").await.expect("an answer");
        bench.fault(r#"{"fault":"redirect","to":"loop"}"#).await;
        assert_eq!(ask().await.headers["location"], format!("http://127.0.0.1:{}/", bench.front));
        bench.fault(r#"{"fault":"redirect","to":"dead"}"#).await;
        let location = ask().await.headers["location"].clone();
        let port = location.trim_end_matches('/').rsplit(':').next().and_then(|port| port.parse().ok());
        assert!(call(port.expect("a port"), "GET", "/", &[], "").await.is_err());
        bench.fault(r#"{"fault":"redirect","to":"off"}"#).await;
        assert_eq!(ask().await.status, 200);
        bench.fault(r#"{"fault":"clear"}"#).await;
        assert_eq!(ask().await.headers["location"], format!("http://127.0.0.1:{}/", bench.second));
    })
    .await;
}

#[tokio::test]
async fn tokens_go_bad() {
    bench(async |bench| {
        let bad = ("Authorization", "Bearer c.bad");
        let status = async |token| call(bench.second, "GET", "/", &[token, EVENTS], "").await.map(|reply| reply.status);
        assert_eq!(status(bad).await, Ok(401));
        bench.fault(r#"{"fault":"unauthorized","on":true}"#).await;
        assert_eq!(status(TOKEN).await, Ok(401));
        // The front port only redirects; whose token is bad is known behind it.
        assert_eq!(call(bench.front, "GET", "/", &[TOKEN, EVENTS], "").await.map(|reply| reply.status), Ok(307));
        bench.fault(r#"{"fault":"unauthorized","on":false}"#).await;
        let mut stream = bench.opened("/").await;
        assert_eq!(bench.fault(r#"{"fault":"auth_revoked"}"#).await, 1);
        assert_eq!(stream.event().await.0, "auth_revoked");
        assert_eq!(stream.end().await, (Vec::new(), End::Clean));
        assert_eq!(status(TOKEN).await, Ok(401));
        bench.fault(r#"{"fault":"clear"}"#).await;
        assert_eq!(status(TOKEN).await, Ok(200));
    })
    .await;
}

#[tokio::test]
async fn keep_alives_come_at_their_interval() {
    bench(async |bench| {
        let mut stream = bench.opened("/").await;
        assert_eq!(stream.silence().await, b"");
        bench.fault(r#"{"fault":"keep_alive","seconds":0.02}"#).await;
        for _ in 0..3 {
            assert_eq!(stream.event().await, ("keep-alive".to_owned(), Value::Null));
        }
        bench.fault(r#"{"fault":"keep_alive","seconds":0}"#).await;
        stream.silence().await;
    })
    .await;
}

#[tokio::test]
async fn changes_come_in_three_forms() {
    bench(async |bench| {
        let mut stream = bench.opened("/").await;
        let turn = |celsius: f64| format!(r#"{{"fault":"wall","fields":{{"target_temperature_c":{celsius}}}}}"#);
        bench.fault(&turn(24.0)).await;
        assert_eq!(stream.event().await.1["path"], "/");
        bench.fault(r#"{"fault":"changes","form":"leaves"}"#).await;
        bench.fault(&turn(24.5)).await;
        let mut paths = Vec::new();
        for _ in 0..3 {
            let (name, data) = stream.event().await;
            assert_eq!(name, "put");
            paths.push(data["path"].as_str().unwrap_or_default().to_owned());
        }
        let expected =
            ["last_connection", "target_temperature_c", "target_temperature_f"].map(|field| bench.leaf(field));
        assert_eq!(paths, expected);
        bench.fault(r#"{"fault":"changes","form":"patches"}"#).await;
        bench.fault(&turn(25.0)).await;
        let (name, data) = stream.event().await;
        assert_eq!((name.as_str(), &data["path"]), ("patch", &json!(bench.hallway)));
        assert_eq!(data["data"]["target_temperature_c"], json!(25.0));
        bench.fault(r#"{"fault":"wall"}"#).await;
        assert_eq!(stream.event().await.0, "patch");
    })
    .await;
}

#[tokio::test]
async fn the_wall_changes_by_itself() {
    let config = Config { wall_s: 0.01, ..quiet() };
    run(config, async |bench| {
        let mut stream = bench.opened("/").await;
        let (_, first) = stream.event().await;
        let (_, second) = stream.event().await;
        assert_ne!(first, second);
    })
    .await;
}

#[tokio::test]
async fn a_client_that_goes_is_counted_down_at_once() {
    bench(async |bench| {
        let streams = [bench.opened("/").await, bench.opened("/").await];
        bench.fault(r#"{"fault":"stall"}"#).await;
        bench.wait_for("streams_open", 2).await;
        drop(streams);
        bench.wait_for("streams_open", 0).await;
        let _third = bench.opened("/").await;
        let expected = json!({"streams_open": 1, "streams_open_max": 2, "streams_total": 3});
        assert_eq!(bench.report().await["tokens"]["c.one"], expected);
    })
    .await;
}

#[tokio::test]
async fn who_does_not_read_holds_up_nobody_and_is_cut_off() {
    let config = Config { thermostats: 30, ..quiet() };
    run(config, async |bench| {
        let lazy = bench.opened("/").await;
        let mut eager = bench.opened("/").await;
        for _ in 0..1000 {
            bench.fault(r#"{"fault":"wall"}"#).await;
            eager.until("\n\n").await;
            if bench.report().await["streams_cut_off"] == 1 {
                break;
            }
        }
        bench.wait_for("streams_cut_off", 1).await;
        bench.wait_for("streams_open", 1).await;
        assert_ne!(lazy.end().await.1, End::Clean);
    })
    .await;
}

#[tokio::test]
async fn the_control_routes_explain_themselves() {
    bench(async |bench| {
        let help = call(bench.front, "GET", "/__simulator/help", &[], "").await.expect("an answer").text().await;
        assert!(help.contains("{\"fault\":\"stall\""));
        for port in [bench.front, bench.second] {
            let refused =
                call(port, "POST", "/__simulator/faults", &[], r#"{"fault":"flood"}"#).await.expect("an answer");
            assert_eq!(refused.status, 400);
            let body = refused.json().await;
            let message = body["message"].as_str().unwrap_or_default();
            assert!(
                message.contains("flood") && message.contains("`stall`") && message.contains("`redirect`"),
                "{message}"
            );
        }
        let wall = r#"{"fault":"wall","thermostat":"nobody","fields":{"label":"x"}}"#;
        assert_eq!(
            call(bench.front, "POST", "/__simulator/faults", &[], wall).await.map(|reply| reply.status),
            Ok(404)
        );
        assert_eq!(call(bench.front, "PUT", "/__simulator", &[], "").await.map(|reply| reply.status), Ok(405));
        assert_eq!(call(bench.front, "GET", "/__simulator/x", &[], "").await.map(|reply| reply.status), Ok(404));
        assert_eq!(call(bench.front, "GET", "/__simulators", &[], "").await.map(|reply| reply.status), Ok(401));
    })
    .await;
}

#[tokio::test]
async fn what_cannot_be_is_refused_at_the_start() {
    let table = [
        (Config { structures: 0, ..quiet() }, "structures = 0 is not between 1 and 100"),
        (Config { thermostats: 1001, ..quiet() }, "thermostats = 1001 is not between 0 and 1000"),
        (Config { wall_s: -1.0, ..quiet() }, "wall_s = -1 is no time"),
        (Config { keep_alive_s: f64::NAN, ..quiet() }, "keep_alive_s = NaN is no time"),
    ];
    for (config, expected) in table {
        assert_eq!(Simulator::bind(config).await.err().map(|error| error.to_string()).as_deref(), Some(expected));
    }
    let taken = Simulator::bind(quiet()).await.expect("bound");
    let listen = Some(taken.front_address);
    let error = Simulator::bind(Config { listen, ..quiet() }).await.err().map(|error| error.to_string());
    assert!(error.is_some_and(|error| error.starts_with(&format!("cannot bind {}", taken.front_address))));
    assert_eq!(taken.url(), format!("http://{}", taken.front_address));
}

impl Bench {
    async fn stream(&self, path: &str) -> Reply {
        call(self.second, "GET", path, &[TOKEN, EVENTS], "").await.expect("an answer")
    }

    /// A stream after its snapshot.
    async fn opened(&self, path: &str) -> Reply {
        let mut stream = self.stream(path).await;
        assert_eq!(stream.event().await.0, "open");
        assert_eq!(stream.event().await.0, "put");
        stream
    }

    async fn put(&self, path: &str, body: &Value) -> Reply {
        call(self.second, "PUT", path, &[TOKEN], &body.to_string()).await.expect("an answer")
    }

    async fn document(&self, path: &str) -> Value {
        call(self.front, "GET", path, &[TOKEN], "").await.expect("an answer").json().await
    }

    /// How many streams it touched.
    async fn fault(&self, fault: &str) -> u64 {
        let reply = call(self.front, "POST", "/__simulator/faults", &[], fault).await.expect("an answer");
        assert_eq!(reply.status, 200, "{fault}");
        reply.json().await["streams"].as_u64().expect("a count")
    }

    async fn report(&self) -> Value {
        call(self.front, "GET", "/__simulator", &[], "").await.expect("an answer").json().await
    }

    async fn wait_for(&self, count: &str, expected: u64) {
        loop {
            let report = self.report().await;
            if report[count] == expected {
                return;
            }
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
    }

    fn leaf(&self, field: &str) -> String {
        format!("{}/{field}", self.hallway)
    }
}

async fn bench(test: impl AsyncFnOnce(&Bench)) {
    run(quiet(), test).await;
}

/// Runs the test beside a simulator, with a deadline for all of it.
async fn run(config: Config, test: impl AsyncFnOnce(&Bench)) {
    let simulator = Simulator::bind(config).await.expect("bound");
    let ports = simulator.ports;
    let document = simulator.world.document();
    let id = |place: &str| {
        let thermostats = document["devices"]["thermostats"].as_object().expect("thermostats");
        let found = thermostats.iter().find(|(_, thermostat)| thermostat["name"] == place);
        format!("/devices/thermostats/{}", found.expect("a thermostat").0)
    };
    let home = document["structures"].as_object().and_then(|structures| structures.keys().next()).expect("a structure");
    let bench = Bench {
        front: ports.front,
        second: ports.second,
        hallway: id("Hallway"),
        bedroom: id("Bedroom"),
        home: format!("/structures/{home}"),
    };
    tokio::select! {
        result = simulator.serve() => panic!("the simulator ended: {result:?}"),
        result = tokio::time::timeout(Duration::from_secs(60), test(&bench)) => result.expect("the test ends in time"),
    }
}

/// Nothing happens by itself.
fn quiet() -> Config {
    let bad_tokens = ["c.bad".to_owned()].into();
    Config { keep_alive_s: 0.0, wall_s: 0.0, bad_tokens, ..Config::default() }
}
