//! Many who wait for a reload keep nobody from the control socket.

use forebay::testing::Server;
use serde_json::{Value, json};

use crate::client::example;
use crate::peer::Peer;
use crate::reload::{reload, reloads, said};

/// More than there are places for connections.
const CROWD: usize = 70;

/// So many may wait.
const WAITING_MAX: usize = 24;

/// A server with a reload under way that takes its time.
fn reloading() -> Server {
    let server = Server::of(example("fixture")).workers(1).configuration("[timeouts]\nstable = 8\n").start();
    server.signal(server.pid(), nix::libc::SIGHUP);
    server.wait_for_log("reload 1 generation 2: new workers accept");
    server
}

/// Somebody who has asked for a reload.
fn asker(server: &Server) -> Peer {
    let mut peer = Peer::connect(&server.run_dir().join("control.sock"));
    peer.say(&request(1, "reload"));
    peer
}

fn request(id: u32, method: &str) -> Value {
    json!([0, id, method, [{}]])
}

/// The next answer, past what is told on the way; `None`: the connection was closed.
fn answer(peer: &mut Peer) -> Option<Value> {
    loop {
        let heard = peer.hear_or_end()?;
        if heard[0] == 1 {
            return Some(heard);
        }
    }
}

#[test]
fn a_crowd_that_waits_for_a_reload_leaves_room_for_others() {
    let server = reloading();
    let crowd: Vec<Peer> = (0..WAITING_MAX).map(|_| asker(&server)).collect();
    server.wait_for("all of them", || (reloads(&server)["asked"] == 1 + WAITING_MAX).then_some(()));
    let refused = |_| {
        let mut peer = asker(&server);
        let refusal = answer(&mut peer).expect("an answer");
        assert_eq!(refusal[2]["exit"], 75, "{refusal}");
        peer
    };
    let others: Vec<Peer> = (WAITING_MAX..CROWD).map(refused).collect();
    let output = server.command(&["status", "--json"]);
    assert_eq!(output.status.code(), Some(0), "{}", said(&output));
    let output = reload(&server);
    assert_eq!(output.status.code(), Some(75), "{}", said(&output));
    assert!(said(&output).contains("24 reloads are waited for"), "{}", said(&output));
    // Who goes makes room.
    drop((crowd, others));
    server.wait_for("room", || {
        let mut peer = asker(&server);
        peer.say(&request(2, "status"));
        // Whoever is refused hears that first.
        (answer(&mut peer).expect("an answer")[1] == 2).then_some(())
    });
    assert!(server.command(&["stop"]).status.success());
    server.wait_for("the end", || server.processes().is_empty().then_some(()));
}

#[test]
fn whoever_waits_for_a_reload_may_ask_for_something_else_meanwhile() {
    let server = Server::of(example("fixture")).workers(1).configuration("[timeouts]\nstable = 3\n").start();
    let mut peer = asker(&server);
    server.wait_for_log("new workers accept");
    peer.say(&request(2, "status"));
    assert_eq!(answer(&mut peer).expect("an answer")[1], 2);
    // A connection that waits for nothing makes room for these.
    let crowd: Vec<Peer> = (0..CROWD).map(|_| Peer::connect(&server.run_dir().join("control.sock"))).collect();
    let result = answer(&mut peer).expect("an answer");
    assert_eq!((&result[1], &result[3]["generation"]), (&1.into(), &2.into()), "{result}");
    drop(crowd);
    server.stop();
}
