//! More than the log helper takes: it is refused, counted and told, lower levels first, and nobody waits.

use std::time::{Duration, Instant};

use forebay::testing::Server;
use nix::libc::{SIGCONT, SIGSTOP, SIGUSR1};

use super::book::Book;
use super::writers::Logged;
use super::{Site, Way, over_both_ways};
use crate::client::get;

/// No request waits for the log; the exact figure is a benchmark's.
const ANSWERED_WITHIN: Duration = Duration::from_secs(2);

/// More than a ring of 256 KiB, or the socket's 4 MiB, holds, five records each.
const ROUNDS: u32 = 20_000;

over_both_ways! {
    while_the_log_helper_stands_still_what_does_not_fit_is_counted_in_its_place,
    a_flood_that_does_not_end_keeps_the_log_helper_from_nothing,
}

/// Logs until what comes after a loss is there: so has the loss its place between two records.
fn log_again(site: &Site, server: &Server, logged: &mut Logged) {
    let address = server.address();
    server.wait_for("both to log again", || {
        logged.ask(address, "/number/10");
        Book::tail(&site.path("log.json")).has_the_last_of(logged).then_some(())
    });
    logged.assert_served();
}

fn while_the_log_helper_stands_still_what_does_not_fit_is_counted_in_its_place(way: Way) {
    let site = Site::narrow(way);
    // Whoever stands still is ended after a while: not in this test.
    let server = site.server("", "[timeouts]\nhang = 100\n").workers(2).start();
    let (address, log_helper) = (server.address(), server.helper("log"));
    let mut logged = Logged::default();
    logged.ask(address, "/number/10");
    server.signal(log_helper, SIGSTOP);
    let flooded: Vec<_> = (0..4)
        .map(|_| {
            std::thread::spawn(move || {
                let mut logged = Logged::default();
                logged.ask(address, &format!("/levels/{ROUNDS}"));
                logged
            })
        })
        .collect();
    let mut longest = Duration::ZERO;
    while !flooded.iter().all(std::thread::JoinHandle::is_finished) {
        let asked = Instant::now();
        assert_eq!(get(address, "/").expect("an answer").status, 200);
        longest = longest.max(asked.elapsed());
    }
    for client in flooded {
        logged.merge(client.join().expect("a client does not panic"));
    }
    println!("{} records, the longest request beside them took {} ms", logged.total(), longest.as_millis());
    assert!(longest < ANSWERED_WITHIN, "{longest:?}");
    server.signal(log_helper, SIGCONT);
    log_again(&site, &server, &mut logged);
    let book = site.stop(server);
    book.assert_in_order();
    let lost = book.assert_losses_are_told_in_their_place();
    println!("{lost} refused");
    assert!(lost > 0 && lost == book.lost());
    book.assert_written_and_refused_are(&logged);
    let of = |level: &str| -> u64 {
        let counts = book.lines.iter().filter_map(|line| line["fields"][format!("lost_{level}")].as_u64());
        counts.sum()
    };
    let by_level = ["error", "warn", "info", "debug", "trace"].map(of);
    assert!(by_level[1..].iter().all(|more| by_level[0] < *more), "lower levels are refused first: {by_level:?}");
    assert!(by_level[1] < by_level[4], "{by_level:?}");
}

/// For longer than a loop may stand still: the log helper beats, takes orders, and hears others.
fn a_flood_that_does_not_end_keeps_the_log_helper_from_nothing(way: Way) {
    let site = Site::narrow(way);
    let server = site.server("", "[timeouts]\nhang = 1.5\n").workers(2).start();
    let (address, log_helper) = (server.address(), server.helper("log"));
    let flooded: Vec<_> = (0..4)
        .map(|_| {
            std::thread::spawn(move || {
                let mut logged = Logged::default();
                logged.ask(address, "/flood/4000");
                logged
            })
        })
        .collect();
    let old = site.path("log.json.old");
    server.wait_for("the flood", || (site.written() > 1_000_000).then_some(()));
    std::fs::rename(site.path("log.json"), &old).expect("rename");
    server.signal(server.pid(), SIGUSR1);
    server.wait_for("records in the new file", || (site.written() > 0).then_some(()));
    assert!(!flooded.iter().all(std::thread::JoinHandle::is_finished), "while the flood goes on");
    let mut logged = Logged::default();
    for client in flooded {
        logged.merge(client.join().expect("a client does not panic"));
    }
    log_again(&site, &server, &mut logged);
    assert_eq!(server.helper("log"), log_helper, "it was not taken for one that hangs");
    let _ = site.stop(server);
    let book = Book::read(&[old, site.path("log.json")]);
    book.assert_in_order();
    let lost = book.assert_losses_are_told_in_their_place();
    println!("{} records, {lost} refused", logged.total());
    book.assert_written_and_refused_are(&logged);
}
