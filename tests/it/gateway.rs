//! The gateway's routes: what is read, written, refused and followed.

use std::time::{Duration, Instant};

use serde_json::{Value, json};

use crate::client::request;
use crate::follower::{Event, Follower, has_label};
use crate::simulator::{Simulator, ask, first_thermostat, wait_for_state};

#[test]
fn what_is_written_is_echoed_and_comes_back_by_every_way() {
    let simulator = Simulator::with("thermostats = 3\n");
    let gateway = simulator.gateway("c.routes", "").start();
    wait_for_state(&gateway, "open");
    let (answer, list) = ask(&gateway, "GET", "/thermostats", "");
    assert_eq!(answer.status, 200);
    let ids: Vec<&str> = list.as_array().expect("a list").iter().filter_map(|one| one["device_id"].as_str()).collect();
    assert!(ids.len() == 3 && ids.is_sorted(), "{ids:?}");
    for (id, listed) in ids.iter().zip(list.as_array().into_iter().flatten()) {
        let (answer, one) = ask(&gateway, "GET", &format!("/thermostats/{id}"), "");
        assert_eq!((answer.status, &one), (200, listed));
    }
    let path = format!("/thermostats/{}", ids[1]);
    let mut follower = Follower::start(gateway.address(), None);
    assert_eq!(follower.next().data, list, "a follower begins with the list");
    let written = json!({"target_temperature_c": 22.5, "label": "Küche"});
    let (answer, echo) = ask(&gateway, "PUT", &path, &written.to_string());
    assert_eq!((answer.status, &echo), (200, &written), "the upstream's answer");
    let told = follower.until_event(has_label("Küche"));
    let told = &told.last().expect("an event").data;
    assert_eq!((&told["device_id"], &told["target_temperature_c"]), (&json!(ids[1]), &json!(22.5)));
    drop(follower);
    gateway.wait_for("the same in every worker", || {
        let look = || ask(&gateway, "GET", &path, "").1;
        (0..8).all(|_| look() == *told).then_some(())
    });
    gateway.stop();
    simulator.stop();
}

#[test]
fn what_is_wrong_is_refused_with_its_reason_and_never_sent() {
    let simulator = Simulator::start();
    let gateway = simulator.gateway("c.wrongs", "").start();
    wait_for_state(&gateway, "open");
    let one = first_thermostat(&gateway);
    let too_long = format!("{{\"label\":\"{}\"}}", "x".repeat(64 * 1024));
    let table = [
        ("GET", "/thermostats/nobody", "", 404, "unknown_thermostat", ""),
        ("PUT", "/thermostats/nobody", r#"{"label":"x"}"#, 404, "unknown_thermostat", ""),
        ("PUT", &one, "{", 400, "bad_json", ""),
        ("PUT", &one, "[]", 400, "bad_json", ""),
        ("PUT", &one, "{}", 422, "wrong_field", ""),
        ("PUT", &one, r#"{"humidity":40}"#, 422, "wrong_field", "humidity"),
        ("PUT", &one, r#"{"target_temperature_c":99}"#, 422, "wrong_field", "target_temperature_c"),
        ("PUT", &one, r#"{"hvac_mode":"warm"}"#, 422, "wrong_field", "hvac_mode"),
        ("PUT", &one, &too_long, 413, "too_large", ""),
    ];
    for (method, path, body, status, error, field) in table {
        let (answer, said) = ask(&gateway, method, path, body);
        let shown = body.chars().take(40).collect::<String>();
        assert_eq!((answer.status, said["error"].as_str()), (status, Some(error)), "{method} {path} {shown}");
        assert_eq!(said["field"].as_str().unwrap_or_default(), field, "{shown}");
        assert!(said["message"].as_str().is_some_and(|message| !message.is_empty()), "{said}");
    }
    assert_eq!(request(gateway.address(), "DELETE", &one, b"").expect("an answer").status, 405);
    assert_eq!(simulator.counts()["requests"]["write"], Value::Null, "none of it was sent");
    gateway.stop();
    simulator.stop();
}

#[test]
fn a_client_that_comes_back_gets_what_it_missed_and_no_more() {
    let simulator = Simulator::start();
    let gateway = simulator.gateway("c.back", "").start();
    wait_for_state(&gateway, "open");
    let address = gateway.address();
    let mut first = Follower::start(address, None);
    let labels = ["one", "two", "three", "four"];
    labels.iter().for_each(|label| simulator.label(label));
    let seen = first.until_event(has_label("four"));
    let at = |label: &str| seen.iter().find(|event| event.name == "thermostat" && event.data["label"] == label);
    let last = at("two").expect("it was told").id.clone().expect("an id");
    // Whichever worker takes it: ids mean the same in all of them.
    for _ in 0..4 {
        let mut back = Follower::start(address, Some(&last));
        let missed: Vec<Event> = back.until_event(has_label("four"));
        assert_eq!(missed.iter().collect::<Vec<_>>(), [at("three").expect("told"), at("four").expect("told")]);
    }
    drop(first);
    for strange in ["1-1", "nonsense", "18446744073709551615-18446744073709551615"] {
        let mut back = Follower::start(address, Some(strange));
        let event = back.next();
        assert!(event.name == "snapshot" && has_label("four")(&event), "{strange}: {event:?}");
    }
    gateway.stop();
    simulator.stop();
}

#[test]
fn a_client_that_does_not_read_holds_nobody_up_and_starts_anew() {
    let simulator = Simulator::start();
    let gateway = simulator.gateway("c.slow", "").workers(1).start();
    wait_for_state(&gateway, "open");
    let mut lazy = Follower::narrow(gateway.address());
    let mut eager = Follower::start(gateway.address(), None);
    assert_eq!(eager.next().name, "snapshot");
    // A long label: the event has it twice, and the sockets are full the sooner.
    let label = |number: usize| format!("{number:0>255}");
    let (changes, began) = (900, Instant::now());
    let mut longest = Duration::ZERO;
    for number in 0..changes {
        let said = Instant::now();
        simulator.label(&label(number));
        let told = eager.until_event(has_label(&label(number)));
        assert_eq!((told.len(), told[0].name.as_str()), (1, "thermostat"), "each change, at once and by itself");
        longest = longest.max(said.elapsed());
    }
    println!("{changes} changes in {} ms, the longest took {} ms", began.elapsed().as_millis(), longest.as_millis());
    assert!(longest < Duration::from_secs(5));
    let told = lazy.until_event(has_label(&label(changes - 1)));
    assert_eq!(told[0].name, "snapshot");
    let anew = told.iter().skip(1).position(|event| event.name == "snapshot").expect("a second snapshot");
    assert!(told.len() < changes, "{} events: nothing was left out", told.len());
    let number = |event: &Event| event.data["label"].as_str().and_then(|label| label.parse::<usize>().ok());
    assert!(told[1..=anew].iter().filter_map(number).eq(0..anew), "in order up to the gap");
    simulator.label("the end");
    lazy.until_event(has_label("the end"));
    drop((lazy, eager));
    assert_eq!(simulator.streams("c.slow").total, 1, "the upstream feels nothing");
    gateway.stop();
    simulator.stop();
}
