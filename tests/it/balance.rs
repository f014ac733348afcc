//! How connections are shared among the workers, whoever stalls or dies.

use std::net::TcpStream;
use std::time::{Duration, Instant};

use forebay::testing::{Builder, Server};
use nix::libc::{SIGCONT, SIGKILL};
use serde_json::Value;

use crate::client::{example, get};
use crate::farewell::connections;
use crate::hangs::pause;
use crate::retirement::{Idle, REQUEST};

/// By so many two workers may differ: the slack of those with many, and what is taken at once.
const SPREAD_MAX: u64 = 9;

fn fixture(workers: u16) -> Builder {
    Server::of(example("fixture")).workers(workers)
}

fn of_each(status: &Value) -> Vec<u64> {
    let workers = status["workers"].as_array().into_iter().flatten();
    workers.filter_map(|worker| worker["connections"].as_u64()).collect()
}

/// The connections of each worker once all of these are taken.
fn shared(server: &Server, open: usize) -> Vec<u64> {
    let all = |status: &Value| connections(status) == open as u64;
    of_each(&server.wait_until("all connections taken", all))
}

fn spread(connections: &[u64]) -> u64 {
    connections.iter().max().expect("workers") - connections.iter().min().expect("workers")
}

#[test]
fn a_thousand_connections_are_shared_evenly_in_a_burst_and_one_by_one() {
    let server = fixture(8).start();
    let burst: Vec<_> = (0..1000).map(|_| TcpStream::connect(server.address()).expect("connect")).collect();
    let taken = shared(&server, burst.len());
    println!("in a burst: {taken:?}");
    assert!(spread(&taken) <= SPREAD_MAX, "{taken:?}");
    drop(burst);
    server.wait_until("no connection", |status| connections(status) == 0);
    let mut paced: Vec<_> = (0..300).map(|_| Idle::open(server.address())).collect();
    for idle in &mut paced {
        idle.send(REQUEST);
        idle.hear();
    }
    let taken = shared(&server, paced.len());
    println!("one by one: {taken:?}");
    assert!(spread(&taken) <= SPREAD_MAX, "{taken:?}");
    server.stop();
}

#[test]
fn a_worker_that_stands_still_gets_no_new_ones_and_keeps_nobody_waiting() {
    let server = fixture(3).start();
    let first: Vec<_> = (0..30).map(|_| TcpStream::connect(server.address()).expect("connect")).collect();
    let before = shared(&server, first.len());
    let stopped = server.workers()[0];
    pause(&server, stopped);
    // It has the fewest now, and others are waiting for it to take its share.
    let mut longest = Duration::ZERO;
    let held: Vec<_> = (0..30)
        .map(|_| {
            let begun = Instant::now();
            let mut idle = Idle::open(server.address());
            idle.send(REQUEST);
            idle.hear();
            longest = longest.max(begun.elapsed());
            idle
        })
        .collect();
    println!("answered after {} ms at most", longest.as_millis());
    assert!(longest < Duration::from_secs(1), "{longest:?}");
    let after = shared(&server, first.len() + held.len());
    assert_eq!(after[0], before[0], "{after:?}");
    assert!(spread(&after[1..]) <= SPREAD_MAX, "{after:?}");
    server.signal(stopped, SIGCONT);
    server.stop();
}

#[test]
fn a_worker_that_is_born_later_takes_what_comes_until_it_has_its_share() {
    let server = fixture(2).start();
    let first: Vec<_> = (0..100).map(|_| TcpStream::connect(server.address()).expect("connect")).collect();
    shared(&server, first.len());
    server.signal(server.workers()[1], SIGKILL);
    let status = server.wait_until("its successor", |status| {
        status["workers"][1]["restarts"] == 1 && status["workers"][1]["state"] == "serving"
    });
    let left = of_each(&status);
    assert_eq!(left[1], 0, "{left:?}");
    let later: Vec<_> = (0..40).map(|_| TcpStream::connect(server.address()).expect("connect")).collect();
    let now = shared(&server, later.len() + usize::try_from(left[0]).expect("a number"));
    // The other one may have taken one before it knew.
    assert!(now[1] >= 38, "{now:?}");
    assert_eq!(get(server.address(), "/").expect("an answer").status, 200);
    server.stop();
}
