//! Workers that are worn, step by step.

use std::time::Duration;

use super::play::{POLICY, Play, WORKER};
use crate::contract::ids::{Birth, Generation, Role, Slot};
use crate::master::supervisor::{Action, Event, Policy, Wear};

const OTHER: Birth = Birth(WORKER.0 + 1);

/// Who is made.
fn ordered(actions: &[Action]) -> Option<(Birth, Role)> {
    actions.iter().find_map(|action| match *action {
        Action::Fork { birth, role, .. } => Some((birth, role)),
        _ => None,
    })
}

fn worker(slot: u16) -> Role {
    Role::Worker(Slot(slot), Generation(1))
}

#[test]
fn a_successor_that_fails_keeps_no_other_slot_waiting() {
    let mut play = Play::serving(Policy { workers: 2, ..POLICY });
    play.wait(Duration::from_secs(1));
    let first = ordered(&play.tell(Event::Worn(WORKER, Wear::Requests(10)))).expect("a successor");
    assert_eq!(first.1, worker(0));
    assert_eq!(ordered(&play.tell(Event::Worn(OTHER, Wear::Requests(10)))), None, "one slot at a time");
    play.tell(Event::Born(first.0));
    let second = ordered(&play.exit(first.0)).expect("another one");
    assert_eq!(second.1, worker(1), "it is the other slot's turn");
    let served = play.answer(second.0);
    assert!(served.contains(&Action::Accept(second.0)) && served.contains(&Action::Drain(OTHER)), "{served:?}");
    assert_eq!(ordered(&served).map(|(_, role)| role), Some(worker(0)), "and then the first one's again");
}

#[test]
fn a_newborn_is_not_followed_at_once() {
    let mut play = Play::serving(POLICY);
    assert_eq!(ordered(&play.tell(Event::Worn(WORKER, Wear::Requests(1)))), None);
    let later = play.wait(Duration::from_secs(1));
    assert_eq!(ordered(&later).map(|(_, role)| role), Some(worker(0)));
}
