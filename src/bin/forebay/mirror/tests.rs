//! The mirror fed by hand, and what its followers read.

use std::time::SystemTime;

use futures_util::FutureExt;
use serde_json::{Value, json};

use super::*;

/// A link that has delivered the document, or not yet.
pub(crate) fn link(known: bool) -> NestEvent {
    let link = Link::new(SystemTime::UNIX_EPOCH);
    NestEvent::Link(if known { link.open("http://up:1".to_owned(), SystemTime::UNIX_EPOCH) } else { link })
}

pub(crate) fn thermostat(id: &str, fields: Value) -> NestEvent {
    let Value::Object(fields) = fields else { panic!("an object") };
    NestEvent::Thermostat { id: id.to_owned(), fields }
}

fn labelled(id: &str, label: &str) -> NestEvent {
    thermostat(id, json!({"label": label}))
}

pub(crate) fn snapshot(epoch: u64, sequence: u64, events: Vec<NestEvent>) -> Update<NestEvent> {
    Update::Snapshot { epoch, sequence, missed: 0, events }
}

fn event(sequence: u64, event: NestEvent) -> Update<NestEvent> {
    Update::Event { sequence, event }
}

/// Two thermostats, at 5-10.
pub(crate) fn filled() -> Mirror {
    let mirror = Mirror::new();
    mirror.apply(snapshot(5, 10, vec![labelled("b", "Attic"), labelled("a", "Hall"), link(true)]));
    mirror
}

/// What a follower has to read now: ids and names, `5-10 snapshot`.
fn heard(follower: &mut Follower) -> Vec<String> {
    let mut text = Vec::new();
    while let Some(piece) = follower.next().now_or_never() {
        text.extend_from_slice(&piece);
    }
    let text = String::from_utf8(text).expect("text");
    let in_short = |event: &str| {
        let value = |name: &str| event.lines().find_map(|line| line.strip_prefix(name)).unwrap_or("-").to_owned();
        format!("{} {}", value("id: "), value("event: "))
    };
    text.split_terminator("\n\n").map(in_short).collect()
}

#[test]
fn nothing_is_answered_before_the_document_is_known() {
    let mirror = Mirror::new();
    let mut follower = mirror.follow(None);
    assert_eq!((mirror.list(), mirror.one("a")), (None, Found::NotReady));
    mirror.apply(snapshot(5, 1, vec![link(false)]));
    mirror.apply(event(2, labelled("a", "Hall")));
    assert_eq!((mirror.list(), mirror.one("a")), (None, Found::NotReady));
    assert_eq!(heard(&mut follower), [""; 0]);
    mirror.apply(event(3, link(true)));
    assert_eq!(mirror.list().expect("known"), r#"[{"device_id":"a","label":"Hall"}]"#);
    assert_eq!(mirror.one("b"), Found::No);
    assert_eq!(heard(&mut follower), ["- snapshot", "5-3 upstream"]);
}

#[test]
fn the_list_is_sorted_and_follows_each_change() {
    let mirror = filled();
    let hall = r#"{"device_id":"a","label":"Hall"}"#;
    let attic = r#"{"device_id":"b","label":"Attic"}"#;
    assert_eq!(mirror.list().expect("known"), format!("[{hall},{attic}]"));
    assert_eq!(mirror.one("b"), Found::Yes(Bytes::from(attic)));
    mirror.apply(event(11, NestEvent::ThermostatRemoved { id: "a".to_owned() }));
    assert_eq!(mirror.list().expect("known"), format!("[{attic}]"));
    mirror.apply(event(12, labelled("a", "Hall")));
    assert_eq!(mirror.list().expect("known"), format!("[{hall},{attic}]"));
}

#[test]
fn numbers_and_ids_stay_as_they_are() {
    let mirror = filled();
    let fields = json!({"device_id": "its own", "a": 21.0, "b": 0.1, "c": 5, "d": 1_700_000_000_123_u64, "e": -0.5});
    mirror.apply(event(11, thermostat("a", fields.clone())));
    let Found::Yes(text) = mirror.one("a") else { panic!("known") };
    assert_eq!(text, fields.to_string());
    assert!(fields.to_string().contains("21.0"));
}

#[test]
fn a_follower_hears_the_snapshot_and_each_change_once() {
    let mirror = filled();
    let mut follower = mirror.follow(None);
    mirror.apply(event(11, labelled("a", "Cellar")));
    mirror.apply(event(12, labelled("a", "Cellar")));
    mirror.apply(event(13, NestEvent::ThermostatRemoved { id: "unheard".to_owned() }));
    mirror.apply(event(14, link(true)));
    mirror.apply(event(15, NestEvent::StructureRemoved { id: "s".to_owned() }));
    mirror.apply(event(16, NestEvent::ThermostatRemoved { id: "b".to_owned() }));
    let expected =
        ["5-10 snapshot", "5-11 thermostat", "5-14 upstream", "5-15 structure_removed", "5-16 thermostat_removed"];
    assert_eq!(heard(&mut follower), expected);
}

#[test]
fn a_client_that_comes_back_hears_what_it_missed_or_a_snapshot() {
    let mirror = filled();
    for sequence in 11..=13 {
        mirror.apply(event(sequence, labelled("a", &sequence.to_string())));
    }
    let missed_two = ["5-12 thermostat", "5-13 thermostat", "5-14 thermostat"];
    let snapshot = ["5-13 snapshot", "5-14 thermostat"];
    let table: [(&str, &[&str]); 9] = [
        ("5-13", &["5-14 thermostat"]),
        ("5-11", &missed_two),
        ("5-10", &["5-11 thermostat", "5-12 thermostat", "5-13 thermostat", "5-14 thermostat"]),
        ("5-9", &snapshot),
        ("4-13", &snapshot),
        // Another worker was faster.
        ("5-14", &[]),
        ("5-200", &[]),
        ("5-13000", &snapshot),
        ("6-0", &snapshot),
    ];
    let mut followers: Vec<Follower> =
        table.iter().map(|(last, _)| mirror.follow(Some(last.parse().expect("a position")))).collect();
    mirror.apply(event(14, labelled("a", "14")));
    for (follower, (last, expected)) in followers.iter_mut().zip(table) {
        assert_eq!(heard(follower), expected, "{last}");
    }
}

#[test]
fn the_ring_keeps_the_newest_changes() {
    let mirror = filled();
    for sequence in 11..=400 {
        mirror.apply(event(sequence, labelled("a", &sequence.to_string())));
    }
    let oldest = 400 - 256;
    let heard_since = |sequence| heard(&mut mirror.follow(Some(Position { epoch: 5, sequence })));
    assert_eq!(heard_since(oldest).len(), 256);
    assert_eq!(heard_since(oldest)[0], "5-145 thermostat");
    assert_eq!(heard_since(oldest - 1), ["5-400 snapshot"]);
}

#[test]
fn who_is_too_slow_begins_anew_and_delays_nobody() {
    let mirror = filled();
    let (mut slow, mut quick) = (mirror.follow(None), mirror.follow(None));
    let mut quick_heard = 0;
    for sequence in 11..=1000 {
        mirror.apply(event(sequence, labelled("a", &sequence.to_string())));
        quick_heard += heard(&mut quick).len();
    }
    assert_eq!(quick_heard, 991);
    let first = heard(&mut slow);
    assert_eq!(first, ["5-10 snapshot", "5-1000 snapshot"]);
    mirror.apply(event(1001, labelled("a", "last")));
    assert_eq!(heard(&mut slow), ["5-1001 thermostat"]);
}

#[test]
fn a_gap_is_answered_with_a_snapshot() {
    let mirror = filled();
    let mut follower = mirror.follow(Some(Position { epoch: 5, sequence: 10 }));
    mirror.apply(snapshot(5, 20, vec![labelled("c", "New"), link(true)]));
    assert_eq!(heard(&mut follower), ["5-20 snapshot"]);
    assert_eq!(mirror.list().expect("known"), r#"[{"device_id":"c","label":"New"}]"#);
}

#[test]
fn what_the_last_helper_knew_is_answered_until_the_next_one_knows() {
    let mirror = filled();
    let mut follower = mirror.follow(Some(Position { epoch: 5, sequence: 10 }));
    let before = mirror.list();
    mirror.apply(snapshot(6, 0, vec![link(false)]));
    assert_eq!(mirror.list(), before);
    assert!(!mirror.link().expect("told").known);
    mirror.apply(event(1, labelled("a", "Hall")));
    mirror.apply(event(2, labelled("c", "New")));
    assert_eq!(
        mirror.list().expect("known").len(),
        before.expect("known").len() + r#",{"device_id":"c","label":"New"}"#.len()
    );
    mirror.apply(event(3, link(true)));
    assert_eq!(mirror.one("b"), Found::No);
    let expected = ["6-0 upstream", "6-2 thermostat", "- thermostat_removed", "6-3 upstream"];
    assert_eq!(heard(&mut follower), expected);
    // Who was at the old helper's end does not know all this.
    assert_eq!(heard(&mut mirror.follow(Some(Position { epoch: 5, sequence: 10 }))), ["6-3 snapshot"]);
}
