//! The whole way, over the protocol, with a hub on a thread of this process.

use std::sync::atomic::{AtomicU32, Ordering};

use super::*;
use crate::app::configuration::Configuration;
use crate::child::helper::solo::{Place as Site, Solo};

struct Room;

impl Topic for Room {
    const NAME: &'static str = "room";
    type Message = u64;
}

struct Double;

impl Question for Double {
    const NAME: &'static str = "double";
    type Ask = u64;
    type Reply = u64;
}

fn site() -> (Site, Solo) {
    let site = Site::make("hub").expect("a directory");
    let hub = start(&site);
    (site, hub)
}

fn start(site: &Site) -> Solo {
    site.start::<Exchange>(Configuration::default()).expect("it starts")
}

fn join(site: &Site) -> Hub {
    let client = || site.client().expect("a client");
    Hub::new(client(), client(), "test").with_deadline(Duration::from_secs(20))
}

async fn numbers(listening: &mut Listening<Room>, count: u64) -> Vec<Heard<u64>> {
    let mut heard = Vec::new();
    for _ in 0..count {
        let next = tokio::time::timeout(Duration::from_secs(20), listening.next());
        heard.push(next.await.expect("something is heard"));
    }
    heard
}

fn messages(numbers: impl IntoIterator<Item = u64>) -> Vec<Heard<u64>> {
    numbers.into_iter().map(Heard::Message).collect()
}

#[tokio::test]
async fn everyone_who_listens_hears_all_in_order_and_nobody_else_does() {
    let (site, _hub) = site();
    let (one, other) = (join(&site), join(&site));
    let mut ears = vec![one.subscribe::<Room>("a").await.expect("room")];
    ears.push(one.subscribe("a").await.expect("room"));
    ears.push(other.subscribe("a").await.expect("room"));
    let mut elsewhere = other.subscribe::<Room>("b").await.expect("room");
    for number in 0..500 {
        one.publish::<Room>("a", &number).await.expect("published");
    }
    other.publish::<Room>("b", &7).await.expect("published");
    for ear in &mut ears {
        assert_eq!(numbers(ear, 500).await, messages(0..500));
    }
    assert_eq!(numbers(&mut elsewhere, 1).await, messages([7]));
    drop(ears);
    let listing = one.place.client.call(super::super::wire::Topics {});
    let listing = listing.await.expect("a list");
    assert!(listing.topics.iter().all(|line| line.key == "b" || line.sessions > 0), "{listing:?}");
}

#[tokio::test]
async fn a_listener_that_does_not_listen_misses_the_oldest_and_is_told() {
    let (site, _hub) = site();
    let hub = join(&site);
    let mut slow = hub.subscribe::<Room>("a").await.expect("room");
    let mut quick = hub.subscribe::<Room>("a").await.expect("room");
    for number in 0..1500 {
        hub.publish::<Room>("a", &number).await.expect("published");
        assert_eq!(numbers(&mut quick, 1).await, messages([number]));
    }
    let heard = numbers(&mut slow, 1025).await;
    assert_eq!(heard[0], Heard::Missed(Some(476)));
    assert_eq!(heard[1..], messages(476..1500));
}

#[tokio::test]
async fn a_request_reaches_the_holder_wherever_it_is() {
    let (site, _hub) = site();
    let (one, other) = (join(&site), join(&site));
    let nobody = one.request::<Double>("k", &1).await;
    assert_eq!(nobody, Err(CallError::Failed(HubError::NobodyThere)));
    let held = other.answer::<Double, _>("k", async |ask| ask * 2).await.expect("held");
    assert_eq!(one.request::<Double>("k", &21).await, Ok(42));
    assert_eq!(other.request::<Double>("k", &4).await, Ok(8), "its own process may ask too");
    let bad = other.answer::<Double, _>("bad", async |ask: u64| if ask == 0 { panic!("as told") } else { ask });
    let _bad = bad.await.expect("held");
    assert_eq!(one.request::<Double>("bad", &0).await, Err(CallError::Panicked));
    assert_eq!(one.request::<Double>("bad", &1).await, Ok(1), "only that request");
    drop(held);
    assert_eq!(other.request::<Double>("k", &1).await, Err(CallError::Failed(HubError::NobodyThere)));
}

#[tokio::test]
async fn the_latest_holder_is_asked_and_the_one_before_is_told() {
    let (site, _hub) = site();
    let (one, other) = (join(&site), join(&site));
    let mut first = one.answer::<Double, _>("k", async |_| 1).await.expect("held");
    let mut second = other.answer::<Double, _>("k", async |_| 2).await.expect("held");
    first.replaced().await;
    assert_eq!(one.request::<Double>("k", &0).await, Ok(2));
    drop(first);
    assert_eq!(one.request::<Double>("k", &0).await, Ok(2), "who was replaced lets nothing go");
    let third = other.answer::<Double, _>("k", async |_| 3).await.expect("held");
    second.replaced().await;
    drop(second);
    assert_eq!(one.request::<Double>("k", &0).await, Ok(3));
    drop(third);
}

#[tokio::test]
async fn a_holder_that_goes_leaves_the_outcome_unknown_and_its_deadline_is_the_askers() {
    let (site, _hub) = site();
    let (one, other) = (join(&site), join(&site));
    let begun = Arc::new(Notify::new());
    let told = begun.clone();
    let never = async move |_| {
        told.notify_one();
        std::future::pending::<u64>().await
    };
    let held = other.answer::<Double, _>("k", never).await.expect("held");
    let hasty = one.with_deadline(Duration::from_millis(50)).request::<Double>("k", &1).await;
    assert_eq!(hasty, Err(CallError::DeadlineExceeded));
    begun.notified().await;
    let (asked, ()) = tokio::join!(one.request::<Double>("k", &1), async {
        begun.notified().await;
        // The process's end is that of its connection.
        other.place.attending.abort();
    });
    assert_eq!(asked, Err(CallError::OutcomeUnknown));
    assert_eq!(one.request::<Double>("k", &1).await, Err(CallError::Failed(HubError::NobodyThere)));
    drop(held);
}

#[tokio::test]
async fn a_hub_that_was_replaced_has_everyone_again_and_every_listener_hears_of_it() {
    let (site, hub) = site();
    let (one, other) = (join(&site), join(&site));
    let mut ear = one.subscribe::<Room>("a").await.expect("room");
    let calls = Arc::new(AtomicU32::new(0));
    let counted = calls.clone();
    let count = async move |ask: u64| u64::from(counted.fetch_add(1, Ordering::Relaxed)) + ask;
    let _held = other.answer::<Double, _>("k", count).await.expect("held");
    other.publish::<Room>("a", &1).await.expect("published");
    assert_eq!(numbers(&mut ear, 1).await, messages([1]));
    drop(hub);
    let _hub = start(&site);
    assert_eq!(numbers(&mut ear, 1).await, [Heard::Missed(None)]);
    // What was on its way to the dead one has reached nobody.
    let asked = loop {
        match one.request::<Double>("k", &10).await {
            Err(CallError::OutcomeUnknown) => {}
            asked => break asked,
        }
    };
    assert_eq!(asked, Ok(10), "who held the key has said so again");
    assert_eq!(calls.load(Ordering::Relaxed), 1);
    let mut late = other.subscribe::<Room>("a").await.expect("room");
    while other.publish::<Room>("a", &3).await == Err(CallError::OutcomeUnknown) {}
    assert_eq!(numbers(&mut ear, 1).await, messages([3]), "nothing else, and nothing twice");
    assert_eq!(numbers(&mut late, 1).await, messages([3]), "a new listener has missed nothing");
}

#[tokio::test]
async fn a_limit_is_refused_with_a_sentence() {
    let (site, _hub) = site();
    let hub = join(&site);
    let long = "x".repeat(257);
    let refused = |why: &str| CallError::Failed(HubError::Refused(why.to_owned()));
    let why = "a key of 257 bytes, 256 are allowed";
    assert_eq!(hub.publish::<Room>(&long, &1).await, Err(refused(why)));
    assert_eq!(hub.subscribe::<Room>(&long).await.err(), Some(refused(why)));
    assert_eq!(hub.answer::<Double, _>(&long, async |ask| ask).await.err(), Some(refused(why)));
    assert_eq!(hub.request::<Double>(&long, &1).await, Err(refused(why)));
}
