use std::sync::atomic::AtomicU64;
use std::sync::atomic::Ordering::Relaxed;

use proptest::prelude::*;

use super::*;
use crate::contract::tickets::Keys;

const START: u64 = 5_000;

/// Keys that a master has made at that time, and a ticketer of these.
fn sealing() -> (Keys, Ticketer) {
    let keys = Keys::create(START, random::fill).expect("created");
    let ticketer = of(&keys, "public", || START);
    (keys, ticketer)
}

fn of(keys: &Keys, listener: &str, now_ms: fn() -> u64) -> Ticketer {
    let memory = keys.fd().try_clone_to_owned().expect("dup");
    let keys = Arc::new(KeyReader::attach(&memory).expect("attached"));
    Ticketer { now_ms, ..Ticketer::new(keys, listener) }
}

fn ticket(ticketer: &Ticketer) -> Vec<u8> {
    ticketer.encrypt(b"a session").expect("sealed")
}

#[test]
fn what_one_worker_seals_another_opens_and_no_two_tickets_are_the_same() {
    let (keys, one) = sealing();
    let other = of(&keys, "public", || START);
    let (first, second) = (ticket(&one), ticket(&one));
    assert_ne!(first[ID_LEN..], second[ID_LEN..]);
    for ticket in [first, second] {
        assert_eq!(other.decrypt(&ticket).as_deref(), Some(&b"a session"[..]));
        assert!(!ticket.windows(7).any(|part| part == b"session"));
    }
    assert!(one.enabled());
    assert_eq!(one.lifetime(), 43_200);
}

#[test]
fn a_ticket_with_any_bit_changed_is_none() {
    let (_keys, ticketer) = sealing();
    let good = ticket(&ticketer);
    for at in 0..good.len() {
        for bit in 0..8 {
            let mut bad = good.clone();
            bad[at] ^= 1 << bit;
            assert_eq!(ticketer.decrypt(&bad), None, "bit {bit} of byte {at}");
        }
    }
}

#[test]
fn a_ticket_that_is_cut_or_longer_is_none() {
    let (_keys, ticketer) = sealing();
    let good = ticket(&ticketer);
    for len in 0..good.len() {
        assert_eq!(ticketer.decrypt(&good[..len]), None, "{len} bytes");
        assert_eq!(ticketer.decrypt(&good[len + 1..]), None, "without the first {}", len + 1);
    }
    assert_eq!(ticketer.decrypt(&[&good[..], &[0]].concat()), None);
}

#[test]
fn a_ticket_of_another_daemon_or_listener_is_none() {
    let (keys, ticketer) = sealing();
    let (_others, foreign) = sealing();
    assert_eq!(ticketer.decrypt(&ticket(&foreign)), None);
    let neighbour = of(&keys, "internal", || START);
    assert_eq!(ticketer.decrypt(&ticket(&neighbour)), None);
    assert_eq!(of(&keys, "", || START).decrypt(&ticket(&ticketer)), None);
    // The same key under another one's id.
    let (mut claimed, theirs) = (ticket(&ticketer), ticket(&foreign));
    claimed[..ID_LEN].copy_from_slice(&theirs[..ID_LEN]);
    assert_eq!(foreign.decrypt(&claimed), None);
}

#[test]
fn a_key_opens_what_it_has_sealed_until_its_time_is_over() {
    static NOW: AtomicU64 = AtomicU64::new(START);
    let mut keys = Keys::create(START, random::fill).expect("created");
    let ticketer = of(&keys, "public", || NOW.load(Relaxed));
    let old = ticket(&ticketer);
    let mut pass = |time: u64| {
        NOW.store(START + time, Relaxed);
        keys.rotate(START + time).expect("rotated");
    };
    pass(PERIOD_MS);
    let new = ticket(&ticketer);
    assert_ne!(new[..ID_LEN], old[..ID_LEN], "sealed with the next key");
    assert!(ticketer.decrypt(&old).is_some() && ticketer.decrypt(&new).is_some());
    pass(2 * PERIOD_MS - 1);
    assert!(ticketer.decrypt(&old).is_some());
    pass(2 * PERIOD_MS);
    assert_eq!(ticketer.decrypt(&old), None);
    assert!(ticketer.decrypt(&new).is_some());
    // A master that stands still: what it does not change loses its time by itself.
    NOW.store(START + 5 * PERIOD_MS, Relaxed);
    assert_eq!((ticketer.encrypt(b"a session"), ticketer.decrypt(&new)), (None, None));
}

#[test]
fn what_is_too_long_is_neither_sealed_nor_looked_at() {
    let (_keys, ticketer) = sealing();
    let longest = ticketer.encrypt(&[7; SESSION_LEN_MAX]).expect("sealed");
    assert_eq!(longest.len(), TICKET_LEN_MAX);
    assert_eq!(ticketer.decrypt(&longest), Some(vec![7; SESSION_LEN_MAX]));
    assert_eq!(ticketer.encrypt(&[7; SESSION_LEN_MAX + 1]), None);
    assert_eq!(ticketer.decrypt(&vec![7; 1 << 20]), None);
    assert_eq!(ticketer.encrypt(b"").and_then(|ticket| ticketer.decrypt(&ticket)), Some(Vec::new()));
}

proptest! {
    #[test]
    fn whatever_is_sealed_opens(session in prop::collection::vec(any::<u8>(), 0..SESSION_LEN_MAX)) {
        let (_keys, ticketer) = sealing();
        let ticket = ticketer.encrypt(&session).expect("sealed");
        prop_assert_eq!(ticketer.decrypt(&ticket), Some(session));
    }

    #[test]
    fn whatever_comes_is_none(garbage in prop::collection::vec(any::<u8>(), 0..2 * TICKET_LEN_MAX), is_ours: bool) {
        let (_keys, ticketer) = sealing();
        let mut garbage = garbage;
        if is_ours && garbage.len() >= ID_LEN {
            garbage[..ID_LEN].copy_from_slice(&ticket(&ticketer)[..ID_LEN]);
        }
        prop_assert_eq!(ticketer.decrypt(&garbage), None);
    }
}
