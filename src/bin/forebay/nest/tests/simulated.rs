//! The helper against the built-in simulator on its bad days.

use serde_json::from_str;
use tokio::net::TcpStream;

use super::*;
use crate::simulator::{Config as SimulatorConfig, Simulator};

/// A simulator that does nothing by itself but keep its streams alive.
async fn simulator() -> (Simulator, String) {
    let config = SimulatorConfig { keep_alive_s: 0.1, wall_s: 0.0, ..SimulatorConfig::default() };
    let simulator = Simulator::bind(config).await.expect("two ports");
    let url = simulator.url();
    (simulator, url)
}

/// Runs simulator and helper while the test looks on.
async fn run(simulator: Simulator, bench: &Bench, test: impl Future<Output = ()>) {
    tokio::select! {
        biased;
        () = bench.run(test) => {}
        outcome = simulator.serve() => panic!("the simulator ended: {outcome:?}"),
    }
}

/// The simulator's answer to a call of its own routes.
async fn call(url: &str, method: &str, path: &str, body: &str) -> Value {
    let mut connection = TcpStream::connect(url.trim_start_matches("http://")).await.expect("it listens");
    let len = body.len();
    let head = format!("{method} {path} HTTP/1.1\r\nhost: x\r\nconnection: close\r\ncontent-length: {len}\r\n\r\n");
    connection.write_all(format!("{head}{body}").as_bytes()).await.expect("it reads");
    let mut answer = String::new();
    connection.read_to_string(&mut answer).await.expect("it answers");
    assert!(answer.starts_with("HTTP/1.1 200"), "{body}: {answer}");
    let (_, body) = answer.split_once("\r\n\r\n").expect("a body");
    from_str(body).unwrap_or_else(|error| panic!("{error}: {body}"))
}

async fn fault(url: &str, fault: Value) {
    call(url, "POST", "/__simulator/faults", &fault.to_string()).await;
}

/// Never two connections at once, whatever happened.
async fn had_one_stream_at_a_time(url: &str) {
    let counts = call(url, "GET", "/__simulator", "").await;
    assert_eq!(counts["streams_open_max"], 1, "{counts}");
}

/// Someone at the wall sets a label that nobody had; the helper hears of it.
async fn hears(bench: &Bench, url: &str, label: &str) {
    fault(url, json!({"fault": "wall", "thermostat": null, "fields": {"label": label}})).await;
    bench.published(|event| is_label(event, label)).await;
}

fn impatient(config: &mut Config) {
    config.dead_link = Duration::from_millis(400);
}

#[tokio::test]
async fn a_write_is_echoed_and_comes_back_on_the_stream() {
    let (simulator, url) = simulator().await;
    let bench = Bench::new(&url, |_| {});
    run(simulator, &bench, async {
        bench.state(State::Open).await;
        assert_ne!(bench.nest.link.borrow().url.as_deref(), Some(&*url), "it was redirected");
        let id = bench.nest.document.borrow().thermostats().keys().next().expect("one").clone();
        let Value::Object(fields) = json!({"label": "Cellar"}) else { panic!("an object") };
        let echo = bench.nest.handle(Set { id, fields }).await;
        assert_eq!(echo, Ok(json!({"label": "Cellar"})));
        bench.published(|event| is_label(event, "Cellar")).await;
        had_one_stream_at_a_time(&url).await;
    })
    .await;
}

#[tokio::test]
async fn every_framing_is_read() {
    for line_ending in ["lf", "cr", "crlf"] {
        for (multi_line, comments, byte_order_mark) in [(true, true, true), (false, true, false), (true, false, false)]
        {
            let (simulator, url) = simulator().await;
            let bench = Bench::new(&url, |_| {});
            run(simulator, &bench, async {
                let framing = json!({"fault": "framing", "line_ending": line_ending, "multi_line": multi_line,
                    "comments": comments, "byte_order_mark": byte_order_mark});
                fault(&url, framing).await;
                bench.state(State::Open).await;
                // The next stream has it from its first byte on.
                fault(&url, json!({"fault": "end", "by": "clean"})).await;
                until(|| bench.times(State::Open) >= 2).await;
                for form in ["documents", "leaves", "patches"] {
                    fault(&url, json!({"fault": "changes", "form": form})).await;
                    hears(&bench, &url, form).await;
                }
                assert_eq!(bench.times(State::Waiting), 1, "{line_ending}: {:?}", bench.nest.link);
                had_one_stream_at_a_time(&url).await;
            })
            .await;
        }
    }
}

#[tokio::test]
async fn cuts_and_ends_are_survived() {
    let mut faults = Vec::new();
    for at in ["character", "data", "line_end"] {
        for then in ["resume", "stall", "clean", "fin", "reset"] {
            faults.push(json!({"fault": "cut", "at": at, "then": then, "pause_ms": 30}));
        }
    }
    faults.extend(["clean", "fin", "reset"].map(|by| json!({"fault": "end", "by": by})));
    faults
        .extend(["stall", "endless_line", "error", "cancel", "snapshot", "comment"].map(|name| json!({"fault": name})));
    let (simulator, url) = simulator().await;
    let bench = Bench::new(&url, impatient);
    // All of them on one helper, one after the other: each begins with what the last one left.
    let patience = PATIENCE * 3;
    let all = async {
        for (number, each) in faults.into_iter().enumerate() {
            bench.state(State::Open).await;
            fault(&url, each.clone()).await;
            hears(&bench, &url, &format!("label {number}")).await;
        }
        had_one_stream_at_a_time(&url).await;
    };
    let both = async {
        tokio::select! {
            biased;
            () = all => {}
            outcome = simulator.serve() => panic!("the simulator ended: {outcome:?}"),
            outcome = bench.nest.run() => panic!("the helper ended: {outcome:?}"),
        }
    };
    tokio::time::timeout(patience, both).await.unwrap_or_else(|_| panic!("still waiting: {:?}", bench.nest.link));
}

#[tokio::test]
async fn refusals_and_dead_hosts_are_waited_out() {
    let (simulator, url) = simulator().await;
    let bench = Bench::new(&url, |config| {
        config.unauthorized_retry = Duration::from_millis(50);
        impatient(config);
    });
    run(simulator, &bench, async {
        let refuse = |with: &str| json!({"fault": "refuse_streams", "with": with});
        let faults = [
            refuse("internal"),
            refuse("not_found"),
            refuse("unauthorized"),
            refuse("silence"),
            json!({"fault": "refuse_streams", "with": "unavailable", "retry_after": {"seconds": 1}}),
            json!({"fault": "refuse_connections", "port": "second", "times": 2}),
        ];
        for (number, each) in faults.into_iter().enumerate() {
            bench.state(State::Open).await;
            let opened = bench.times(State::Open);
            fault(&url, each.clone()).await;
            fault(&url, json!({"fault": "end", "by": "fin"})).await;
            until(|| bench.times(State::Open) > opened).await;
            hears(&bench, &url, &format!("label {number}")).await;
        }
        for to in ["loop", "dead"] {
            let waited = bench.times(State::Waiting);
            fault(&url, json!({"fault": "redirect", "to": to})).await;
            fault(&url, json!({"fault": "end", "by": "reset"})).await;
            until(|| bench.times(State::Waiting) > waited + 1).await;
            fault(&url, json!({"fault": "redirect", "to": "second"})).await;
            bench.state(State::Open).await;
        }
        had_one_stream_at_a_time(&url).await;
    })
    .await;
}

#[tokio::test]
async fn a_revoked_token_is_not_shown_again() {
    let (simulator, url) = simulator().await;
    let bench = Bench::new(&url, impatient);
    run(simulator, &bench, async {
        bench.state(State::Open).await;
        fault(&url, json!({"fault": "auth_revoked"})).await;
        bench.state(State::AuthRevoked).await;
        tokio::time::sleep(Duration::from_millis(300)).await;
        let counts = call(&url, "GET", "/__simulator", "").await;
        assert_eq!((&counts["streams_total"], &counts["streams_open"]), (&json!(1), &json!(0)), "{counts}");
    })
    .await;
}
