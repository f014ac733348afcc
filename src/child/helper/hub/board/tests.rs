use proptest::prelude::*;

use super::*;
use crate::child::helper::hub::wire::{KEY_LEN_MAX, MESSAGE_LEN_MAX};

fn name(key: &str) -> Name {
    Name { of: "room".to_owned(), key: key.to_owned() }
}

fn bytes(number: u64) -> Bytes {
    Bytes(number.to_be_bytes()[..].into())
}

fn since(key: &str, since_ms: u64) -> Since {
    Since { key: name(key), since_ms }
}

fn join(board: &mut Board, session: Session, topics: &[&str], keys: &[Since]) -> Vec<Session> {
    let topics = topics.iter().map(|key| name(key)).collect();
    let attach = Attach { session, caller: format!("worker {session}"), topics, keys: keys.to_vec() };
    board.attach(attach).expect("it begins")
}

/// A board with sessions 1 and 2, which have begun.
fn board() -> Board {
    let mut board = Board::default();
    for session in [1, 2] {
        assert!(join(&mut board, session, &[], &[]).is_empty());
        assert_eq!(items(&mut board, session), [Item::Begun]);
    }
    board
}

fn items(board: &mut Board, session: Session) -> Vec<Item> {
    board.take(session).expect("it is attached").unwrap_or_default().items
}

fn message(key: &str, number: u64) -> Item {
    Item::Message { topic: name(key), message: bytes(number) }
}

#[test]
fn a_message_reaches_those_who_listen_and_wakes_them_once() {
    let mut board = board();
    board.subscribe(1, name("a")).expect("attached");
    board.subscribe(2, name("a")).expect("attached");
    board.subscribe(2, name("b")).expect("attached");
    assert_eq!(board.publish(&name("a"), &bytes(1)), Ok(vec![1, 2]));
    assert_eq!(board.publish(&name("b"), &bytes(2)), Ok(vec![]), "it has something to take already");
    assert_eq!(board.publish(&name("c"), &bytes(3)), Ok(vec![]));
    assert_eq!(items(&mut board, 1), [message("a", 1)]);
    assert_eq!(items(&mut board, 2), [message("a", 1), message("b", 2)]);
    assert_eq!(board.take(2), Ok(None));
    board.unsubscribe(1, &name("a")).expect("attached");
    board.leave(2);
    assert_eq!(board.publish(&name("a"), &bytes(4)), Ok(vec![]));
    assert!(board.topics.is_empty(), "nothing is left of who has gone");
    assert_eq!(board.take(2), Err(Refusal::NotAttached));
}

#[test]
fn whoever_takes_nothing_loses_the_oldest_and_is_told_how_many_of_each() {
    let mut board = board();
    board.subscribe(1, name("a")).expect("attached");
    board.subscribe(1, name("b")).expect("attached");
    board.subscribe(2, name("a")).expect("attached");
    board.publish(&name("b"), &bytes(0)).expect("short");
    let all = MESSAGES_MAX as u64 + 10;
    for number in 1..=all {
        board.publish(&name("a"), &bytes(number)).expect("short");
        assert_eq!(items(&mut board, 2), [message("a", number)], "another one feels nothing");
    }
    let missed = |key: &str, count| Item::Missed { topic: name(key), count };
    let first = items(&mut board, 1);
    assert_eq!(first[..3], [missed("a", 10), missed("b", 1), message("a", 11)]);
    let mut rest = first[3..].to_vec();
    while let Some(batch) = board.take(1).expect("attached") {
        assert!(batch.items.len() <= BATCH_MAX);
        rest.extend(batch.items);
    }
    assert_eq!(rest, (12..=all).map(|number| message("a", number)).collect::<Vec<_>>());
    assert_eq!(board.list().missed, 11);
}

#[test]
fn bytes_are_bounded_too_and_a_batch_has_one_item_at_least() {
    let mut board = board();
    board.subscribe(1, name("a")).expect("attached");
    let long = Bytes(vec![7; MESSAGE_LEN_MAX].into());
    for _ in 0..9 {
        board.publish(&name("a"), &long).expect("as long as it may be");
    }
    let count = QUEUE_LEN_MAX / (MESSAGE_LEN_MAX + OVERHEAD);
    let first = items(&mut board, 1);
    assert_eq!(first.len(), 2, "what was missed, and one message");
    assert!(matches!(first[0], Item::Missed { count: missed, .. } if missed == 9 - count as u64));
    assert_eq!((1..).take_while(|_| !items(&mut board, 1).is_empty()).count(), count - 1);
    let longer = Bytes(vec![7; MESSAGE_LEN_MAX + 1].into());
    assert!(matches!(board.publish(&name("a"), &longer), Err(Refusal::Refused(_))));
}

#[test]
fn a_request_goes_to_the_holder_and_its_answer_to_who_asked() {
    let mut board = board();
    assert_eq!(board.ask(name("k"), bytes(1)), Err(Refusal::NobodyThere));
    assert_eq!(board.register(1, since("k", 5)), Ok(None));
    let (id, woken) = board.ask(name("k"), bytes(1)).expect("held");
    assert_eq!(woken, Some(1));
    assert!(!board.answered(1, id), "it was not taken");
    assert_eq!(items(&mut board, 1), [Item::Asked { id, key: name("k"), ask: bytes(1) }]);
    assert!(!board.answered(2, id), "another one was asked");
    assert!(board.answered(1, id));
    assert!(!board.answered(1, id), "answered twice");
    let (id, _) = board.ask(name("k"), bytes(2)).expect("held");
    board.withdraw(id);
    assert_eq!(board.take(1), Ok(None), "nobody waits for it any more");
}

#[test]
fn a_holder_that_dies_leaves_what_it_took_unknown_and_has_not_seen_the_rest() {
    let mut board = board();
    board.register(1, since("k", 5)).expect("attached");
    let (taken, _) = board.ask(name("k"), bytes(1)).expect("held");
    items(&mut board, 1);
    let (untaken, _) = board.ask(name("k"), bytes(2)).expect("held");
    let told = board.leave(1);
    assert_eq!(told, [(taken, Err(Refusal::OutcomeUnknown)), (untaken, Err(Refusal::NobodyThere))]);
    assert_eq!(board.ask(name("k"), bytes(3)), Err(Refusal::NobodyThere));
    assert!(board.asked.is_empty() && board.keys.is_empty());
}

#[test]
fn the_latest_holder_has_the_key_in_whatever_order_it_is_told() {
    let mut board = board();
    board.register(1, since("k", 5)).expect("attached");
    assert_eq!(board.register(2, since("k", 6)), Ok(Some(1)));
    assert_eq!(items(&mut board, 1), [Item::Replaced(since("k", 5))]);
    assert_eq!(board.register(1, since("k", 5)), Ok(Some(1)), "it is told again");
    assert_eq!(items(&mut board, 1), [Item::Replaced(since("k", 5))]);
    assert_eq!(board.ask(name("k"), bytes(1)).map(|(_, woken)| woken), Ok(Some(2)));
    board.unregister(1, &name("k")).expect("attached");
    assert!(board.ask(name("k"), bytes(1)).is_ok(), "it was another one's");
    assert!(join(&mut board, 3, &[], &[since("k", 9)]).is_empty(), "who is told has something to take already");
    board.unregister(3, &name("k")).expect("attached");
    assert_eq!(board.ask(name("k"), bytes(1)), Err(Refusal::NobodyThere));
}

#[test]
fn every_limit_is_said_in_a_sentence() {
    let mut board = board();
    let sentence = |refusal: Refusal| refusal.to_string();
    for number in 0..SUBSCRIPTIONS_MAX {
        board.subscribe(1, name(&number.to_string())).expect("room");
    }
    board.subscribe(1, name("0")).expect("it listens already");
    let refused = board.subscribe(1, name("more")).map_err(sentence);
    assert_eq!(refused, Err("16384 topics are listened to already".to_owned()));
    for number in 0..KEYS_MAX {
        board.register(1, since(&number.to_string(), 1)).expect("room");
    }
    let refused = board.register(1, since("more", 1)).map_err(sentence);
    assert_eq!(refused, Err("16384 keys are held already".to_owned()));
    assert!(board.subscribe(2, name(&"x".repeat(KEY_LEN_MAX + 1))).is_err());
    for number in 0..ASKED_MAX {
        board.ask(name("0"), bytes(number as u64)).expect("room");
    }
    assert_eq!(board.ask(name("0"), bytes(0)), Err(Refusal::Overloaded));
    for session in 3..=SESSIONS_MAX as u64 {
        join(&mut board, session, &[], &[]);
    }
    let attach = Attach { session: 0, caller: String::new(), topics: vec![], keys: vec![] };
    assert_eq!(board.attach(attach).map_err(sentence), Err("there are 1024 sessions already".to_owned()));
}

proptest! {
    /// Whatever happens in whatever order: what is published is told once, in order, or counted as
    /// missed; every request has one outcome at most; and nothing is left of who has gone.
    #[test]
    fn nothing_is_told_twice_out_of_order_or_kept_for_ever(
        steps in proptest::collection::vec((0_u8..9, 0_u64..3, 0_usize..2), 0..300)
    ) {
        let mut board = Board::default();
        let mut told: BTreeMap<(Session, Name), u64> = BTreeMap::new();
        let (mut number, mut open, mut taken) = (0, BTreeSet::new(), Vec::new());
        // Taken, and not waited for any more.
        let mut given_up = BTreeSet::new();
        for (step, session, which) in steps {
            let key = ["a", "b"][which];
            match step {
                0 => {
                    let attach = Attach { session, caller: String::new(), topics: vec![], keys: vec![] };
                    let _ = board.attach(attach);
                }
                1 => for (id, _) in board.leave(session) {
                    prop_assert!(open.remove(&id) || given_up.remove(&id), "an outcome of nothing");
                },
                2 => drop(board.subscribe(session, name(key))),
                3 => drop(board.unsubscribe(session, &name(key))),
                4 => {
                    number += 1;
                    for _ in board.publish(&name(key), &bytes(number)).expect("short") {}
                }
                5 => for item in board.take(session).ok().flatten().unwrap_or_default().items {
                    match item {
                        Item::Message { topic, message } => {
                            let now = u64::from_be_bytes(message.0[..].try_into().expect("a number"));
                            let before = told.insert((session, topic), now);
                            prop_assert!(before.is_none_or(|before| before < now));
                        }
                        Item::Asked { id, .. } => {
                            prop_assert!(open.contains(&id), "it was given up");
                            taken.push((session, id));
                        }
                        Item::Begun | Item::Missed { .. } | Item::Replaced(_) => {}
                    }
                },
                6 => drop(board.register(session, since(key, number))),
                7 => if let Ok((id, _)) = board.ask(name(key), bytes(number)) {
                    prop_assert!(open.insert(id));
                },
                _ => if which == 0 {
                    if let Some((session, id)) = taken.pop() {
                        prop_assert_eq!(board.answered(session, id), open.remove(&id) || given_up.remove(&id));
                    }
                } else if let Some(id) = open.pop_first() {
                    board.withdraw(id);
                    if taken.iter().any(|(_, known)| *known == id) {
                        given_up.insert(id);
                    }
                },
            }
            prop_assert_eq!(board.asked.len(), open.len() + given_up.len());
            for (session, seat) in &board.sessions {
                prop_assert_eq!(seat.asked, board.asked.values().filter(|asked| asked.holder == *session).count());
            }
        }
        board.sessions().into_iter().for_each(|session| drop(board.leave(session)));
        prop_assert!(board.topics.is_empty() && board.keys.is_empty() && board.asked.is_empty());
    }
}
