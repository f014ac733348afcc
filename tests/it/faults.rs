//! The upstream's bad days, as the gateway's clients see them.

use std::time::{Duration, Instant};

use forebay::testing::Server;
use serde_json::{Value, json};

use crate::client::get;
use crate::follower::{Follower, has_label};
use crate::simulator::{Simulator, Streams, ask, first_thermostat, header, upstream, wait_for_state};

/// Writes a label; the answer and its JSON.
fn write_label(gateway: &Server, thermostat: &str) -> (crate::client::Answer, Value) {
    ask(gateway, "PUT", thermostat, r#"{"label":"written"}"#)
}

#[test]
fn a_token_that_is_not_accepted_is_said_to_be_and_tried_again() {
    const TOKEN: &str = "c.refused";
    let simulator = Simulator::start();
    simulator.fault(&json!({"fault": "unauthorized", "on": true}));
    let gateway = simulator.gateway(TOKEN, "unauthorized_retry_s = 0.3\n").start();
    let link = wait_for_state(&gateway, "unauthorized");
    assert!(link["reason"].as_str().is_some_and(|reason| reason.contains("token")), "{link}");
    assert_eq!(get(gateway.address(), "/thermostats").expect("an answer").status, 503, "nothing is known yet");
    assert_eq!(simulator.streams(TOKEN), Streams { open: 0, open_max: 0, total: 0 });
    simulator.fault(&json!({"fault": "unauthorized", "on": false}));
    wait_for_state(&gateway, "open");
    let thermostat = first_thermostat(&gateway);
    simulator.fault(&json!({"fault": "unauthorized", "on": true}));
    let (answer, body) = write_label(&gateway, &thermostat);
    assert_eq!((answer.status, &body["error"]), (502, &json!("unauthorized")));
    assert!(!gateway.log().contains(TOKEN), "no token in the log");
    gateway.stop();
    simulator.stop();
}

#[test]
fn retry_after_is_passed_on_and_outlives_the_helper() {
    const TOKEN: &str = "c.limited";
    let simulator = Simulator::start();
    let gateway = simulator.gateway(TOKEN, "").start();
    let thermostat = first_thermostat(&gateway);
    simulator.fault(&json!({"fault": "refuse_writes", "with": "blocked", "retry_after": {"seconds": 3600}}));
    let (answer, body) = write_label(&gateway, &thermostat);
    assert_eq!((answer.status, header(&answer, "retry-after")), (429, Some("3600")), "{body}");
    assert_eq!(body["error"], "Blocked", "the upstream's own words");
    let asked = || simulator.counts()["requests"]["write"].clone();
    let before = asked();
    let is_limited = || {
        let (answer, _) = write_label(&gateway, &thermostat);
        assert_eq!(answer.status, 429);
        let seconds: u64 = header(&answer, "retry-after").expect("a time").parse().expect("seconds");
        assert!((3500..=3600).contains(&seconds), "{seconds}");
    };
    is_limited();
    assert!(gateway.command(&["restart", "nest"]).status.success());
    simulator.wait_for_stream(TOKEN, 2);
    wait_for_state(&gateway, "open");
    is_limited();
    assert_eq!(asked(), before, "the upstream was not asked again");
    gateway.stop();
    simulator.stop();
}

#[test]
fn what_the_upstream_refuses_is_answered_in_its_words() {
    let simulator = Simulator::start();
    let gateway = simulator.gateway("c.wrong", "").start();
    wait_for_state(&gateway, "open");
    let thermostat = first_thermostat(&gateway);
    let table = [
        ("wrong_format", 400, "format-error"),
        ("not_allowed", 400, "not-allowed"),
        ("no_permission", 400, "no-write-permission"),
        ("low_battery", 400, "low-battery"),
        ("not_found", 404, "not-found"),
    ];
    for (with, status, anchor) in table {
        simulator.fault(&json!({"fault": "refuse_writes", "with": with}));
        let (answer, body) = write_label(&gateway, &thermostat);
        assert_eq!(answer.status, status, "{with}: {body}");
        assert!(body["type"].as_str().is_some_and(|kind| kind.ends_with(anchor)), "{with}: {body}");
        assert!(body["instance"].is_string() && body["details"].is_object(), "{with}: {body}");
    }
    for (with, status, error) in [
        ("internal", 502, "upstream_failed"),
        ("unavailable", 502, "upstream_failed"),
        ("unauthorized", 502, "unauthorized"),
    ] {
        simulator.fault(&json!({"fault": "refuse_writes", "with": with}));
        let (answer, body) = write_label(&gateway, &thermostat);
        assert_eq!((answer.status, body["error"].as_str()), (status, Some(error)), "{with}");
    }
    simulator.fault(&json!({"fault": "refuse_writes", "with": "blocked"}));
    let (answer, _) = write_label(&gateway, &thermostat);
    assert_eq!((answer.status, header(&answer, "retry-after")), (429, None), "no time, as the upstream says none");
    assert_eq!(write_label(&gateway, &thermostat).0.status, 200, "all is well again");
    gateway.stop();
    simulator.stop();
}

#[test]
fn a_stream_that_falls_silent_ends_and_is_opened_anew() {
    const TOKEN: &str = "c.silent";
    let simulator = Simulator::with("thermostats = 1\nkeep_alive_s = 0.2\n");
    let gateway = simulator.gateway(TOKEN, "dead_link_s = 2\n").start();
    wait_for_state(&gateway, "open");
    let mut follower = Follower::start(gateway.address(), None);
    let total = simulator.streams(TOKEN).total;
    simulator.fault(&json!({"fault": "stall"}));
    simulator.label("said into the void");
    // The next stream begins with how things stand.
    follower.until_event(has_label("said into the void"));
    gateway.wait_for_log("the upstream is silent for 2 s: connecting again in ");
    let streams = simulator.streams(TOKEN);
    assert!(streams.open_max == 1 && streams.total > total, "{streams:?}");
    drop(follower);
    gateway.stop();
    simulator.stop();
}

#[test]
fn events_are_understood_however_they_are_laid_out_and_cut() {
    const TOKEN: &str = "c.cut";
    let simulator = Simulator::start();
    let gateway = simulator.gateway(TOKEN, "").workers(1).start();
    wait_for_state(&gateway, "open");
    let mut follower = Follower::start(gateway.address(), None);
    let framings = [
        json!({"fault": "framing", "line_ending": "crlf", "byte_order_mark": true}),
        json!({"fault": "framing", "line_ending": "cr", "multi_line": true, "comments": true}),
        json!({"fault": "framing", "line_ending": "lf", "multi_line": true, "byte_order_mark": true}),
    ];
    let mut total = 1;
    for (number, framing) in framings.iter().enumerate() {
        simulator.fault(framing);
        // A mark stands at the beginning of a stream only.
        simulator.fault(&json!({"fault": "end", "by": "fin"}));
        total += 1;
        simulator.wait_for_stream(TOKEN, total);
        let label = format!("Küche №{number} 🔥");
        simulator.label(&label);
        follower.until_event(has_label(&label));
    }
    for (at, then) in [("character", "resume"), ("data", "resume"), ("line_end", "resume")] {
        simulator.fault(&json!({"fault": "cut", "at": at, "then": then, "pause_ms": 50}));
        let label = format!("über {at}");
        simulator.label(&label);
        follower.until_event(has_label(&label));
    }
    assert_eq!(simulator.streams(TOKEN), Streams { open: 1, open_max: 1, total }, "none of it ends a stream");
    for then in ["clean", "fin", "reset"] {
        simulator.fault(&json!({"fault": "cut", "at": "character", "then": then, "pause_ms": 10}));
        total += 1;
        simulator.wait_for_stream(TOKEN, total);
        let label = format!("nach {then} ü");
        simulator.label(&label);
        follower.until_event(has_label(&label));
    }
    drop(follower);
    gateway.stop();
    simulator.stop();
}

#[test]
fn a_revoked_token_is_the_end_until_the_helper_is_restarted() {
    const TOKEN: &str = "c.revoked";
    let simulator = Simulator::start();
    let gateway = simulator.gateway(TOKEN, "unauthorized_retry_s = 0.05\n").start();
    wait_for_state(&gateway, "open");
    let thermostat = first_thermostat(&gateway);
    let mut follower = Follower::start(gateway.address(), None);
    simulator.fault(&json!({"fault": "auth_revoked"}));
    let link = wait_for_state(&gateway, "auth_revoked");
    assert!(link["reason"].as_str().is_some_and(|reason| reason.contains("revoked")), "{link}");
    follower.until_event(|event| event.name == "upstream" && event.data["state"] == "auth_revoked");
    gateway.wait_for_log("not connecting again until this helper is restarted");
    let (answer, body) = write_label(&gateway, &thermostat);
    assert_eq!((answer.status, &body["error"]), (502, &json!("unauthorized")));
    assert_eq!(get(gateway.address(), &thermostat).expect("an answer").status, 200, "what is known is served on");
    // A bounded look at what does not happen: both delays before a next connection are shorter.
    let asked = || simulator.counts()["requests"]["stream"].clone();
    let (until, before) = (Instant::now() + Duration::from_millis(1500), asked());
    while Instant::now() < until {
        assert_eq!(asked(), before, "it asks again");
        std::thread::sleep(Duration::from_millis(50));
    }
    simulator.fault(&json!({"fault": "clear"}));
    assert!(gateway.command(&["restart", "nest"]).status.success());
    simulator.wait_for_stream(TOKEN, 2);
    wait_for_state(&gateway, "open");
    drop(follower);
    gateway.stop();
    simulator.stop();
}

#[test]
fn an_error_or_an_end_of_the_stream_means_one_more_after_a_while() {
    const TOKEN: &str = "c.errors";
    let simulator = Simulator::start();
    let gateway = simulator.gateway(TOKEN, "").start();
    wait_for_state(&gateway, "open");
    let mut follower = Follower::start(gateway.address(), None);
    let faults = [
        json!({"fault": "error"}),
        json!({"fault": "cancel"}),
        json!({"fault": "end", "by": "clean"}),
        json!({"fault": "end", "by": "reset"}),
    ];
    for (number, fault) in (2..).zip(&faults) {
        simulator.fault(fault);
        follower.until_event(|event| event.name == "upstream" && event.data["state"] == "waiting");
        simulator.wait_for_stream(TOKEN, number);
        follower.until_event(|event| event.name == "upstream" && event.data["state"] == "open");
    }
    simulator.fault(&json!({"fault": "refuse_streams", "with": "unavailable", "retry_after": {"seconds": 1}}));
    simulator.fault(&json!({"fault": "end"}));
    let asked = Instant::now();
    simulator.wait_for_stream(TOKEN, 6);
    assert!(asked.elapsed() >= Duration::from_millis(900), "Retry-After is kept");
    wait_for_state(&gateway, "open");
    assert_eq!(upstream(&gateway)["known"], true);
    drop(follower);
    gateway.stop();
    simulator.stop();
}
