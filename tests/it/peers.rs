//! Peers on the Unix sockets that break the rules or do not read: nobody else notices.

use std::fs;
use std::path::PathBuf;
use std::time::Instant;

use forebay::testing::Server;
use serde_json::{Value, json};

use crate::client::{example, get};
use crate::peer::{Peer, frame};
use crate::simulator::first_thermostat;

/// What a process may grow by, in kB: a hundred bad peers of 64 KiB would show.
const GROWTH_MAX_KB: u64 = 8 * 1024;

fn socket(server: &Server, name: &str) -> PathBuf {
    server.run_dir().join(name)
}

/// The memory of a process, in kB.
fn resident_kb(pid: u32) -> u64 {
    let status = fs::read_to_string(format!("/proc/{pid}/status")).expect("a process");
    let line = status.lines().find_map(|line| line.strip_prefix("VmRSS:")).expect("its memory");
    line.trim().trim_end_matches(" kB").parse().expect("a number")
}

/// What is sent after a hello, or instead of one, and what the log says of it.
fn rules_broken() -> Vec<(bool, Vec<u8>, &'static str)> {
    let subscribe = |id: u32| frame(&json!([10, id, "events", {"credit": 1}]));
    let request = frame(&json!([0, 7, "set", [{"id": "x", "fields": {}}]]));
    vec![
        (false, b"GET / HTTP/1.1\r\n\r\n".to_vec(), "4096 are allowed"),
        (false, vec![0xff; 4], "4294967295 bytes"),
        (false, vec![0; 4], "empty"),
        (false, request.clone(), "before the hello"),
        (false, frame(&"garbage"), ""),
        (true, vec![0xff; 4], "4294967295 bytes"),
        (true, frame(&json!([99, 1])), "kind 99"),
        (true, (0..4097).flat_map(subscribe).collect(), "more than 4096 subscriptions"),
        (true, [subscribe(3), subscribe(3)].concat(), "subscription 3 exists already"),
        (true, frame(&json!([8, 1, -5])), ""),
    ]
}

#[test]
fn whoever_breaks_a_rule_of_a_helper_is_closed_with_the_reason() {
    let server = Server::of(env!("CARGO_BIN_EXE_forebay")).start();
    first_thermostat(&server);
    let path = socket(&server, "ipc/nest.sock");
    let mut well = Peer::greeted(&path, "a good peer");
    let (pid, before) = (server.helper("nest"), resident_kb(server.helper("nest")));
    for (number, (greeted, bytes, reason)) in rules_broken().into_iter().enumerate() {
        let name = format!("peer {number}");
        for _ in 0..10 {
            let mut peer = if greeted { Peer::greeted(&path, &name) } else { Peer::connect(&path) };
            peer.send(&bytes);
            while peer.hear_or_end().is_some() {}
        }
        let who = if greeted { name.as_str() } else { "somebody without a name" };
        let said = format!("the connection of {who} is closed: ");
        server.wait_for(&format!("{reason:?} of {who}"), || {
            server.log().lines().any(|line| line.contains(&said) && line.contains(reason)).then_some(())
        });
    }
    well.say(&json!([0, 1, "list", [{}]]));
    let answer = well.hear();
    assert!(answer[0] == 1 && answer[3].is_array(), "{answer}");
    assert_eq!((server.helper("nest"), server.status()["state"].as_str()), (pid, Some("serving")));
    let growth = resident_kb(pid).saturating_sub(before);
    assert!(growth < GROWTH_MAX_KB, "it has grown by {growth} kB");
    server.stop();
}

/// An id that comes again while its request is open.
#[test]
fn a_request_with_an_id_in_use_ends_that_connection_only() {
    let server = Server::of(example("keeper")).workers(1).start();
    let path = socket(&server, "ipc/keeper.sock");
    let slow = frame(&json!([0, 5, "slow", [{"number": 1, "ms": 60_000}]]));
    let mut twin = Peer::greeted(&path, "a twin");
    twin.send(&[slow.clone(), slow].concat());
    assert_eq!(twin.hear_or_end(), None);
    server.wait_for_log("the connection of a twin is closed: ");
    let mut many = Peer::greeted(&path, "a crowd");
    let requests: Vec<u8> =
        (0..1025).flat_map(|id| frame(&json!([0, id, "slow", [{"number": 1, "ms": 60_000}]]))).collect();
    many.send(&requests);
    assert_eq!(many.hear_or_end(), None);
    server.wait_for_log("more than 1024 requests");
    assert_eq!(get(server.address(), "/again/4/0").expect("an answer").body, "4");
    server.stop();
}

#[test]
fn whoever_owes_something_for_ten_seconds_is_closed() {
    let server = Server::of(env!("CARGO_BIN_EXE_forebay")).start();
    first_thermostat(&server);
    let path = socket(&server, "ipc/nest.sock");
    let helper = resident_kb(server.helper("nest"));
    let began = Instant::now();
    let mut silent: Vec<Peer> = (0..20).map(|_| Peer::connect(&path)).collect();
    let mut idle = Peer::greeted(&path, "an idle peer");
    // A frame of 16 MiB of which a little comes: what is not there takes no memory.
    let mut halves: Vec<Peer> = (0..20)
        .map(|number| {
            let mut half = Peer::greeted(&path, &format!("half {number}"));
            half.send(&(16_u32 << 20).to_be_bytes());
            half.send(&[0x94; 1000]);
            half
        })
        .collect();
    let mut control = Peer::connect(&socket(&server, "control.sock"));
    control.send(&[0, 0, 0, 100, 0x94]);
    // Half a hello to the log: it may stay, nobody waits for it.
    let mut log = Peer::connect(&socket(&server, "ipc/log.sock"));
    log.send(&[0, 0, 0, 100, 0x93]);
    for peer in silent.iter_mut().chain(&mut halves).chain([&mut control]) {
        assert_eq!(peer.hear_or_end(), None);
    }
    println!("closed after {} ms", began.elapsed().as_millis());
    server.wait_for_log("the connection of somebody without a name is closed: no hello for 10 s");
    server.wait_for_log("the connection of half 7 is closed: half a frame, and nothing for 10 s");
    idle.say(&json!([5, 77]));
    assert_eq!(idle.hear(), json!([6, 77]), "who owes nothing may be silent");
    let growth = resident_kb(server.helper("nest")).saturating_sub(helper);
    assert!(growth < GROWTH_MAX_KB, "it has grown by {growth} kB");
    server.stop();
}

#[test]
fn garbage_on_the_control_and_log_sockets_ends_nothing_else() {
    let server = Server::of(env!("CARGO_BIN_EXE_forebay")).start();
    let before = [server.pid(), server.helper("log")].map(|pid| (pid, resident_kb(pid)));
    let garbage: [&[u8]; 4] = [b"GET / HTTP/1.1\r\n\r\n", &[0xff; 64], &[0; 4], &[0, 0, 0, 1, 0xc1]];
    for bytes in garbage {
        for _ in 0..10 {
            for name in ["control.sock", "ipc/log.sock"] {
                let mut peer = Peer::connect(&socket(&server, name));
                peer.send(bytes);
                while peer.hear_or_end().is_some() {}
            }
        }
    }
    server.wait_for_log("control socket: a connection was closed: ");
    server.wait_for_log("log connection of \"\" closed: ");
    let record = json!([16, 1, {"time_us": 1, "level": 3, "target": "x", "message": "no hello before it"}]);
    let mut rude = Peer::connect(&socket(&server, "ipc/log.sock"));
    rude.say(&record);
    drop(rude);
    assert_eq!(crate::client::post(server.address(), "/", b"still written").expect("an answer").status, 202);
    server.wait_for_log("] still written");
    for (pid, memory) in before {
        let growth = resident_kb(pid).saturating_sub(memory);
        assert!(growth < GROWTH_MAX_KB, "{pid} has grown by {growth} kB");
    }
    server.stop();
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
