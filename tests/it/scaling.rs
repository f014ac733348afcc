//! Workers that are scaled while a reload is under way.

use forebay::testing::{Builder, Server};
use serde_json::Value;

use crate::client::example;
use crate::reload::{SHORT, begin_reload, commit, configure, is_alone, kill_a_new_worker, said};

fn fixture() -> Builder {
    Server::of(example("fixture"))
}

fn count(status: &Value) -> usize {
    status["workers"].as_array().map_or(0, Vec::len)
}

#[test]
fn workers_that_are_asked_for_during_a_reload_are_the_new_generations_too() {
    let server = fixture().configuration("[timeouts]\nstable = 1\n").start();
    let reload = begin_reload(&server);
    server.wait_for_log("new workers accept");
    assert!(server.command(&["scale", "4"]).status.success());
    let output = reload.wait_with_output().expect("its end");
    assert_eq!(output.status.code(), Some(0), "{}", said(&output));
    let note = "`workers`: 2 configured, scaled to 4 workers while this reload was under way";
    assert!(said(&output).contains(note), "{}", said(&output));
    server.wait_until("four", |status| status["state"] == "serving" && is_alone(status) && count(status) == 4);
    // Until the next one.
    configure(&server, SHORT);
    let text = commit(&server);
    assert!(text.contains("`workers`: 2, as configured; it was scaled to 4 workers"), "{text}");
    server.wait_until("two", |status| is_alone(status) && count(status) == 2);
    server.stop();
}

#[test]
fn workers_that_are_asked_for_during_a_reload_stay_when_it_is_rolled_back() {
    let server = fixture().configuration("[timeouts]\nstable = 20\n").start();
    let reload = begin_reload(&server);
    server.wait_for_log("new workers accept");
    assert!(server.command(&["scale", "3"]).status.success());
    kill_a_new_worker(&server, 2);
    assert_eq!(reload.wait_with_output().expect("its end").status.code(), Some(1));
    server.wait_until("three", |status| status["state"] == "serving" && is_alone(status) && count(status) == 3);
    configure(&server, SHORT);
    assert!(commit(&server).contains("it was scaled to 3 workers"));
    server.stop();
}
