//! Peers on the Unix sockets that do not read, or not all at once: nobody else notices.

use std::fs;
use std::path::PathBuf;
use std::time::Instant;

use forebay::testing::Server;
use serde_json::{Value, json};

use crate::client::{example, get};
use crate::peer::Peer;

/// What a process may grow by, in kB: a hundred bad peers of 64 KiB would show.
pub(crate) const GROWTH_MAX_KB: u64 = 8 * 1024;

pub(crate) fn socket(server: &Server, name: &str) -> PathBuf {
    server.run_dir().join(name)
}

/// The memory of a process, in kB.
pub(crate) fn resident_kb(pid: u32) -> u64 {
    let status = fs::read_to_string(format!("/proc/{pid}/status")).expect("a process");
    let line = status.lines().find_map(|line| line.strip_prefix("VmRSS:")).expect("its memory");
    line.trim().trim_end_matches(" kB").parse().expect("a number")
}

/// The numbers of the events of a subscription up to this one, with what came between them.
fn until_note(peer: &mut Peer, number: u64) -> Vec<Value> {
    let mut heard = vec![peer.hear()];
    let is_last = |message: &Value| match message[0].as_u64() {
        Some(12) => message[3]["number"] == number,
        Some(11) => message[4][0]["number"] == number,
        _ => false,
    };
    while !heard.last().is_some_and(is_last) {
        heard.push(peer.hear());
    }
    heard
}

#[test]
fn a_panic_in_a_snapshot_ends_the_subscription_and_nothing_else() {
    let server = Server::of(crate::client::example("keeper")).variable("KEEPER", "shy").workers(1).start();
    let mut peer = Peer::greeted(&socket(&server, "ipc/keeper.sock"), "a subscriber");
    peer.say(&json!([10, 1, "events", {"credit": 9}]));
    let end = peer.hear();
    assert_eq!((&end[0], &end[1], &end[2]["code"]), (&json!(15), &json!(1), &json!("failed")), "{end}");
    peer.say(&json!([0, 1, "again", [{"number": 4, "ms": 0}]]));
    assert_eq!(peer.hear(), json!([1, 1, null, 4]), "the connection lives");
    server.wait_for_log("the keeper panics in its snapshot");
    drop(peer);
    server.wait_until("no connection but the worker's", |status| {
        let mut helpers = status["helpers"].as_array().into_iter().flatten();
        helpers.any(|helper| helper["name"] == "keeper" && helper["connections"] == 1)
    });
}

#[test]
fn a_subscriber_that_does_not_read_is_brought_up_to_date_and_nobody_waits_for_it() {
    let server = Server::of(example("keeper")).workers(1).start();
    let path = socket(&server, "ipc/keeper.sock");
    let subscribe = |credit: u32| json!([10, 1, "events", {"credit": credit}]);
    let (mut poor, mut lazy, mut eager) =
        (Peer::greeted(&path, "without credit"), Peer::greeted(&path, "does not read"), Peer::greeted(&path, "reads"));
    for (peer, credit) in [(&mut poor, 3), (&mut lazy, u32::MAX), (&mut eager, u32::MAX)] {
        peer.say(&subscribe(credit));
        let snapshot = peer.hear();
        assert_eq!((&snapshot[0], &snapshot[1], &snapshot[3]), (&json!(11), &json!(1), &json!(0)), "{snapshot}");
    }
    let before = resident_kb(server.helper("keeper"));
    // 12 MB: far more than the sockets and the helper keep for one who does not read.
    let began = Instant::now();
    for round in 1..=60 {
        let answer = get(server.address(), "/publish/20/10000").expect("an answer");
        assert_eq!(answer.body, (round * 20).to_string());
        let heard = until_note(&mut eager, round * 20);
        let sequences: Vec<u64> = heard.iter().filter_map(|event| event[2].as_u64()).collect();
        assert!(heard.iter().all(|event| event[0] == 12), "events and nothing else");
        assert!(sequences.iter().copied().eq(round * 20 - 19..=round * 20), "{sequences:?}");
    }
    println!("1200 events of 10 kB in {} ms beside two who do not read", began.elapsed().as_millis());
    let growth = resident_kb(server.helper("keeper")).saturating_sub(before);
    assert!(growth < GROWTH_MAX_KB, "the helper has grown by {growth} kB");
    for (peer, name) in [(&mut lazy, "lazy"), (&mut poor, "poor")] {
        if name == "poor" {
            assert_eq!(until_note(peer, 2).len(), 2, "what its credit was for");
            peer.say(&json!([8, 1, 1]));
        }
        let heard = until_note(peer, 1200);
        let resync = heard.iter().position(|message| message[0] == 13).expect("a resync");
        let last = heard[..resync].last().map_or(2, |event| event[2].as_u64().expect("a sequence"));
        let (missed, snapshot) = (heard[resync][2].as_u64().expect("a count"), &heard[resync + 1]);
        assert_eq!((snapshot[0].as_u64(), snapshot[3].as_u64()), (Some(11), Some(last + missed)), "{name}");
        assert!(missed > 0 && heard.len() < 1200, "{name}: {} heard, {missed} missed", heard.len());
        let after = heard[resync + 2..].iter().filter_map(|event| event[2].as_u64());
        assert!(after.eq(last + missed + 1..=1200), "{name}: no gap after the snapshot");
    }
    poor.say(&json!([8, 1, 1]));
    assert_eq!(get(server.address(), "/publish/1/1").expect("an answer").body, "1201");
    for peer in [&mut poor, &mut lazy, &mut eager] {
        assert_eq!(until_note(peer, 1201).len(), 1, "all go on");
    }
    server.stop();
}

#[test]
fn a_client_that_reads_little_is_sent_nothing_longer() {
    let server = Server::of(example("keeper")).workers(1).start();
    let mut peer = Peer::connect(&socket(&server, "ipc/keeper.sock"));
    peer.say(&json!([3, 1, {"name": "a display", "frame_len_max": 5000}]));
    assert_eq!(peer.hear()[0], 4);
    peer.say(&json!([0, 1, "long", [{"len": 5000, "ms": 0}]]));
    let refused = peer.hear();
    assert_eq!(
        (&refused[0], &refused[1], &refused[2]["code"]),
        (&json!(1), &json!(1), &json!("too_long")),
        "{refused}"
    );
    peer.say(&json!([0, 2, "long", [{"len": 4990, "ms": 0}]]));
    assert_eq!(peer.hear()[3].as_str().map(str::len), Some(4990));
    peer.say(&json!([10, 1, "events", {"credit": 9}]));
    assert_eq!(peer.hear()[0], 11);
    for (len, kinds) in [(10, &[12][..]), (6000, &[13, 11])] {
        assert_eq!(get(server.address(), &format!("/publish/1/{len}")).expect("an answer").status, 200);
        let heard: Vec<Value> = kinds.iter().map(|_| peer.hear()).collect();
        assert!(heard.iter().zip(kinds).all(|(message, kind)| message[0] == *kind), "{heard:?}");
    }
    server.stop();
}

/// Connections that are measured, after some that warm the helper up.
const IDLE: usize = 2000;
const WARM: usize = 100;

/// What the page says that an idle connection costs.
const IDLE_MAX_KB: u64 = 4;

#[test]
fn an_idle_connection_costs_a_helper_less_than_4_kib_after_it_was_used() {
    let server = Server::of(example("keeper")).workers(1).start();
    let path = socket(&server, "ipc/keeper.sock");
    let connect = |number: usize| {
        let mut peer = Peer::greeted(&path, &format!("idle {number}"));
        peer.say(&json!([10, 1, "events", {"credit": 9}]));
        assert_eq!(peer.hear()[0], 11);
        // One that is answered at once, and one that waits; both are longer than what a connection may keep.
        peer.say(&json!([0, 1, "long", [{"len": 20_000, "ms": 0, "ignored": "x".repeat(20_000)}]]));
        assert_eq!(peer.hear()[3].as_str().map(str::len), Some(20_000));
        peer.say(&json!([0, 2, "long", [{"len": 20_000, "ms": 1}]]));
        assert_eq!(peer.hear()[3].as_str().map(str::len), Some(20_000));
        peer
    };
    let warm: Vec<Peer> = (0..WARM).map(connect).collect();
    let before = resident_kb(server.helper("keeper"));
    let idle: Vec<Peer> = (0..IDLE).map(connect).collect();
    let growth = resident_kb(server.helper("keeper")).saturating_sub(before);
    println!("{} bytes for each of {IDLE} idle connections", growth * 1024 / IDLE as u64);
    assert!(growth < IDLE_MAX_KB * IDLE as u64, "{growth} kB for {IDLE}");
    drop((warm, idle));
    server.stop();
}
