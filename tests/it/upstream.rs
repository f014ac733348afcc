//! The one connection to the upstream: that there is never a second, whoever dies.

use std::collections::BTreeSet;

use forebay::testing::Server;
use nix::libc::SIGKILL;
use serde_json::json;

use crate::client::get;
use crate::follower::{Event, Follower, has_label};
use crate::simulator::{Simulator, Streams, first_thermostat, wait_for_state};

fn restarts(status: &serde_json::Value, name: &str) -> u64 {
    let mut helpers = status["helpers"].as_array().into_iter().flatten();
    let helper = helpers.find(|helper| helper["name"] == name && helper["state"] == "serving");
    helper.and_then(|helper| helper["restarts"].as_u64()).unwrap_or(0)
}

#[test]
fn eight_workers_and_two_hundred_clients_share_one_stream() {
    let simulator = Simulator::start();
    let gateway = simulator.gateway("c.shared", "").workers(8).start();
    wait_for_state(&gateway, "open");
    let address = gateway.address();
    let mut followers: Vec<Follower> = (0..200).map(|_| Follower::start(address, None)).collect();
    for follower in &mut followers {
        assert_eq!(follower.next().name, "snapshot", "how things stand comes first");
    }
    let labels: Vec<String> = (0..20).map(|number| format!("label {number}")).collect();
    labels.iter().for_each(|label| simulator.label(label));
    let seen: Vec<Vec<Event>> =
        followers.iter_mut().map(|follower| follower.until_event(has_label("label 19"))).collect();
    for events in &seen {
        assert_eq!(events, &seen[0], "all are told the same, with the same ids");
    }
    let told: Vec<&str> = seen[0].iter().filter_map(|event| event.data["label"].as_str()).collect();
    assert_eq!(told, labels, "each change once and in order");
    let positions: Vec<_> = seen[0].iter().map(|event| event.position().expect("an id")).collect();
    assert!(positions.is_sorted_by(|one, other| one.0 == other.0 && one.1 < other.1), "{positions:?}");
    let served = gateway.status();
    let served = served["workers"].as_array().expect("workers").iter();
    let busy = served.filter(|worker| worker["connections"].as_u64() > Some(0)).count();
    assert!(busy > 1, "more than one worker has clients");
    assert_eq!(simulator.streams("c.shared"), Streams { open: 1, open_max: 1, total: 1 });
    drop(followers);
    gateway.stop();
    simulator.stop();
}

#[test]
fn whoever_is_killed_there_is_one_stream() {
    const TOKEN: &str = "c.killed";
    let simulator = Simulator::start();
    let mut gateway = simulator.gateway(TOKEN, "").start();
    wait_for_state(&gateway, "open");
    let mut follower = Follower::start(gateway.address(), None);
    let mut epoch = follower.next().position().expect("an id").0;
    let mut label = 0;
    // A client stays through it all, and hears of what comes after.
    let mut is_told = |follower: &mut Follower| {
        label += 1;
        simulator.label(&label.to_string());
        let events = follower.until_event(has_label(&label.to_string()));
        let now = events.iter().filter_map(Event::position).next_back().expect("an id").0;
        let is_later = now > epoch;
        epoch = now;
        is_later
    };

    gateway.signal(gateway.helper("nest"), SIGKILL);
    simulator.wait_for_stream(TOKEN, 2);
    assert!(is_told(&mut follower), "another process, a later epoch");

    gateway.signal(gateway.helper("zygote"), SIGKILL);
    gateway.wait_until("another zygote", |status| restarts(status, "zygote") == 1);
    assert!(!is_told(&mut follower), "no helper needs its zygote");
    assert_eq!(simulator.streams(TOKEN), Streams { open: 1, open_max: 1, total: 2 });
    gateway.signal(gateway.helper("nest"), SIGKILL);
    simulator.wait_for_stream(TOKEN, 3);
    assert!(is_told(&mut follower), "the new zygote makes helpers too");

    let before = gateway.helper("nest");
    let output = gateway.command(&["restart", "nest"]);
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    assert_ne!(gateway.helper("nest"), before);
    simulator.wait_for_stream(TOKEN, 4);
    assert!(is_told(&mut follower));

    // The old one, which holds on to a client, and the new master meet.
    gateway.signal(gateway.pid(), SIGKILL);
    gateway.wait();
    let next = simulator.gateway(TOKEN, "").run_dir(gateway.run_dir()).start();
    simulator.wait_for_stream(TOKEN, 5);
    wait_for_state(&next, "open");
    assert!(gateway.processes().is_empty(), "{:?}", gateway.processes());
    let mut follower = Follower::start(next.address(), None);
    assert!(is_told(&mut follower));
    assert_eq!(simulator.streams(TOKEN), Streams { open: 1, open_max: 1, total: 5 });
    drop(follower);
    next.stop();
    simulator.stop();
}

#[test]
fn a_redirect_is_followed_with_the_token_and_found_again_when_it_leads_astray() {
    const TOKEN: &str = "c.redirected";
    let simulator = Simulator::start();
    let gateway = simulator.gateway(TOKEN, "").start();
    wait_for_state(&gateway, "open");
    let streams = || {
        let counts = simulator.counts();
        let recent = counts["recent"].as_array().cloned().unwrap_or_default().into_iter();
        let ours = recent.filter(|request| request["kind"] == "stream" && request["token"] == TOKEN);
        ours.map(|request| (request["port"].to_string(), request["status"].to_string())).collect::<BTreeSet<_>>()
    };
    let seen = |port: &str, status: &str| (format!("\"{port}\""), status.to_owned());
    let expected = BTreeSet::from([seen("front", "307"), seen("second", "200")]);
    assert_eq!(streams(), expected, "both were shown the token");
    for target in ["loop", "dead"] {
        simulator.fault(&json!({"fault": "redirect", "to": target}));
        simulator.fault(&json!({"fault": "end", "by": "reset"}));
        let waiting = wait_for_state_with_reason(&gateway);
        println!("redirected to {target}: {waiting}");
        assert_eq!(get(gateway.address(), "/thermostats").expect("an answer").status, 200, "what is known is served");
        let total = simulator.streams(TOKEN).total;
        simulator.fault(&json!({"fault": "redirect", "to": "second"}));
        simulator.wait_for_stream(TOKEN, total + 1);
        wait_for_state(&gateway, "open");
    }
    gateway.stop();
    simulator.stop();
}

/// Waits until the gateway says that it waits, and why.
fn wait_for_state_with_reason(gateway: &Server) -> String {
    let mut reason = String::new();
    gateway.wait_for("a wait with its reason", || {
        let upstream = crate::simulator::upstream(gateway);
        reason = upstream["reason"].as_str()?.to_owned();
        (upstream["state"] == "waiting" && upstream["retry_at_s"].is_u64()).then_some(())
    });
    reason
}

#[test]
fn an_upstream_that_is_gone_is_said_to_be_and_found_again() {
    const TOKEN: &str = "c.gone";
    let simulator = Simulator::start();
    let address = simulator.address();
    let gateway = simulator.gateway(TOKEN, "").start();
    wait_for_state(&gateway, "open");
    let thermostat = first_thermostat(&gateway);
    let before = get(gateway.address(), &thermostat).expect("an answer").body;
    simulator.stop();
    let reason = wait_for_state_with_reason(&gateway);
    assert!(reason.contains(&address.to_string()) || reason.contains("stream"), "{reason}");
    let answer = crate::client::request(gateway.address(), "PUT", &thermostat, br#"{"label":"x"}"#).expect("an answer");
    assert_eq!(answer.status, 503, "{}", answer.body);
    assert!(answer.body.contains("\"unreachable\"") && answer.head.contains("retry-after: "), "{answer:?}");
    let known = get(gateway.address(), &thermostat).expect("an answer");
    assert_eq!((known.status, known.body), (200, before), "what is known is served on");
    let simulator = Simulator::with(&format!("thermostats = 1\nlisten = \"{address}\"\n"));
    simulator.wait_for_stream(TOKEN, 1);
    wait_for_state(&gateway, "open");
    gateway.stop();
    simulator.stop();
}
