use std::sync::atomic::Ordering::Relaxed;

use log::Level;

use super::producer::Pushed;
use super::*;
use crate::log::encoding::{self, Decoded};
use crate::log::record::{Entry, Fields};

fn pair(len: u64) -> (Producer, Consumer) {
    let ours = Ring::create(len).expect("create");
    let theirs = Ring::attach(ours.fd().try_clone_to_owned().expect("dup")).expect("attach");
    (Producer::new(ours), Consumer::new(theirs, 0))
}

fn push(producer: &mut Producer, level: Level, message: &str) -> Pushed {
    let entry = Entry {
        time_us: 1,
        level,
        target: "test",
        module: "",
        message,
        fields: Fields::default(),
        request: "",
        sequence: 0,
    };
    let mut out = Vec::new();
    encoding::encode_entry(&entry, producer.record_len_max(), &mut out);
    producer.push(level, &mut out)
}

/// All that is there: number, length of the message, refusals told.
fn drain(consumer: &mut Consumer) -> Vec<(u64, usize, Option<u64>)> {
    let (mut all, mut buffer) = (Vec::new(), Vec::new());
    while consumer.take(&mut buffer) == Taken::Record {
        let Decoded { entry, refused } = encoding::decode(&buffer).expect("ours");
        all.push((entry.sequence, entry.message.len(), refused.map(|counts| counts.iter().sum())));
    }
    consumer.release(consumer.cursor());
    all
}

#[test]
fn records_of_every_length_come_out_as_they_went_in_however_often_the_ring_wraps() {
    let (mut producer, mut consumer) = pair(LEN_MIN);
    let mut number = 0;
    for round in 0..200_usize {
        let lens: Vec<usize> = (0..7).map(|step| (round * 31 + step * 977) % 5000).collect();
        for len in &lens {
            assert_ne!(push(&mut producer, Level::Info, &"x".repeat(*len)), Pushed::Refused);
        }
        let expected: Vec<_> = (number + 1..).zip(&lens).map(|(number, len)| (number, *len, None)).collect();
        number += lens.len() as u64;
        assert_eq!(drain(&mut consumer), expected, "round {round}");
    }
}

#[test]
fn whatever_its_process_has_written_over_the_header_a_reader_can_attach() {
    let ring = Ring::create(LEN_MIN).expect("create");
    (0..HEADER_WORDS).for_each(|at| ring.header(at).store(u64::MAX - 6, Relaxed));
    let dup = || ring.fd().try_clone_to_owned().expect("dup");
    assert!(Ring::attach(dup()).is_err());
    let mut consumer = Consumer::new(Ring::attach_used(dup()).expect("its size is right"), 0);
    assert!(matches!(consumer.take(&mut Vec::new()), Taken::Broken(_)));
    assert_eq!(consumer.take(&mut Vec::new()), Taken::Nothing);
}

#[test]
fn lower_levels_are_refused_first_and_the_loss_stands_in_its_place() {
    let (mut producer, mut consumer) = pair(LEN_MIN);
    let text = "x".repeat(1000);
    let fill = |producer: &mut Producer, level| {
        let mut accepted = 0;
        while push(producer, level, &text) != Pushed::Refused {
            accepted += 1;
        }
        accepted
    };
    let accepted: Vec<usize> = [Level::Trace, Level::Debug, Level::Info, Level::Warn, Level::Error]
        .into_iter()
        .map(|level| fill(&mut producer, level))
        .collect();
    assert!(accepted[0] * 1040 >= 65_536 * 70 / 100, "three quarters are for all: {accepted:?}");
    assert!(accepted[1..].iter().all(|&more| more >= 3), "and each higher level has a share of its own: {accepted:?}");
    let total: usize = accepted.iter().sum();
    let counts = consumer.counts();
    assert_eq!((counts.produced, counts.refused), (total as u64 + 5, [1; LEVELS]));
    assert_eq!(drain(&mut consumer).len(), total);
    push(&mut producer, Level::Info, "after");
    push(&mut producer, Level::Info, "and after");
    let number = total as u64 + 6;
    assert_eq!(drain(&mut consumer), [(number, 5, Some(5)), (number + 1, 9, None)]);
}

#[test]
fn the_helper_is_woken_once_and_only_when_it_wants_to_be() {
    let (mut producer, mut consumer) = pair(LEN_MIN);
    assert!(consumer.sleep());
    let pushed: Vec<Pushed> = (0..3).map(|_| push(&mut producer, Level::Info, "x")).collect();
    assert_eq!(pushed, [Pushed::Wake, Pushed::Published, Pushed::Published]);
    assert!(!consumer.sleep(), "there is something");
    drain(&mut consumer);
    consumer.doze();
    let woken_at = (0..100).find(|_| push(&mut producer, Level::Info, &"x".repeat(1000)) == Pushed::Wake);
    assert!((30..34).contains(&woken_at.expect("half is full")), "{woken_at:?}");
    assert_eq!(consumer.counts().wakes, 2);
}

#[test]
fn numbers_that_do_not_fit_are_skipped_and_what_follows_is_read() {
    let harms: [(usize, u64); 4] =
        [(HEAD_AT, u64::MAX), (HEAD_AT, 1 << 40), (HEADER_WORDS, u64::MAX), (HEADER_WORDS, 3)];
    for (word, value) in harms {
        let (mut producer, mut consumer) = pair(LEN_MIN);
        push(&mut producer, Level::Info, "first");
        producer.ring().header(word).store(value, Relaxed);
        let mut buffer = Vec::new();
        assert!(matches!(consumer.take(&mut buffer), Taken::Broken(_)), "word {word} {value}");
        // Who has written that goes on.
        assert!(consumer.take(&mut buffer) != Taken::Record, "word {word} {value}");
    }
}

#[test]
fn another_layout_is_refused() {
    for word in [MAGIC_AT, CAPACITY_AT] {
        let ring = Ring::create(LEN_MIN).expect("create");
        ring.header(word).store(1, Relaxed);
        assert!(Ring::attach(ring.fd().try_clone_to_owned().expect("dup")).is_err(), "word {word}");
    }
}

#[test]
fn two_sides_at_once_lose_nothing() {
    let (mut producer, mut consumer) = pair(LEN_MIN);
    let writer = std::thread::spawn(move || {
        let mut refused = 0;
        for number in 0..200_000_usize {
            refused += usize::from(push(&mut producer, Level::Error, &"y".repeat(number % 97)) == Pushed::Refused);
        }
        refused
    });
    let (mut taken, mut last) = (0, 0);
    let mut look = |consumer: &mut Consumer| {
        for (number, len, _) in drain(consumer) {
            assert!(number > last && len == (number as usize - 1) % 97, "record {number} has {len}");
            last = number;
            taken += 1;
        }
    };
    while !writer.is_finished() {
        look(&mut consumer);
    }
    look(&mut consumer);
    assert_eq!(taken + writer.join().expect("writer"), 200_000);
}
