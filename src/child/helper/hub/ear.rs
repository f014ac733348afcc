//! What one listener has not heard yet: bounded, the oldest is dropped and counted.

use std::collections::VecDeque;
use std::task::{Poll, Waker};

use super::wire::{Bytes, Session};

/// Messages that one listener has not heard.
const MESSAGES_MAX: usize = 1024;

/// Bytes of them.
const LEN_MAX: usize = 4 * 1024 * 1024;

/// What a listener hears.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Heard<T> {
    /// What was published.
    Message(T),
    /// Messages were lost here, so many as far as that is known: this listener, or its process, did not
    /// keep up; `None`: the hub's process was replaced.
    Missed(Option<u64>),
}

#[derive(Debug)]
pub(super) struct Ear {
    /// Told in order.
    waiting: VecDeque<Heard<Bytes>>,
    messages: usize,
    len: usize,
    /// In which the hub was told last that it listens; `None`: nobody relies on that yet.
    session: Option<Session>,
    waker: Option<Waker>,
}

impl Ear {
    pub(super) fn new() -> Self {
        Self { waiting: VecDeque::new(), messages: 0, len: 0, session: None, waker: None }
    }

    /// Its listener relies on it from now on.
    pub(super) fn confirm(&mut self, session: Session) {
        self.session.get_or_insert(session);
    }

    /// A session has begun: what was said since an earlier one has ended is missed.
    pub(super) fn begin(&mut self, session: Session) {
        if self.session.replace(session).is_some_and(|before| before < session) {
            self.miss(None);
        }
    }

    pub(super) fn hear(&mut self, message: Bytes) {
        self.messages += 1;
        self.len += message.0.len();
        self.waiting.push_back(Heard::Message(message));
        while self.messages > MESSAGES_MAX || self.len > LEN_MAX {
            self.drop_oldest();
        }
        self.wake();
    }

    pub(super) fn miss(&mut self, count: Option<u64>) {
        // Without a message between them they are one gap.
        match self.waiting.back_mut() {
            Some(Heard::Missed(before)) => *before = sum(*before, count),
            Some(Heard::Message(_)) | None => self.waiting.push_back(Heard::Missed(count)),
        }
        self.wake();
    }

    pub(super) fn poll(&mut self, waker: &Waker) -> Poll<Heard<Bytes>> {
        let Some(heard) = self.waiting.pop_front() else {
            self.waker = Some(waker.clone());
            return Poll::Pending;
        };
        if let Heard::Message(message) = &heard {
            self.messages -= 1;
            self.len -= message.0.len();
        }
        Poll::Ready(heard)
    }

    /// Drops the oldest message: the gap in its place takes in those beside it.
    fn drop_oldest(&mut self) {
        let mut gap = Some(0);
        while let Some(heard) = self.waiting.pop_front() {
            match heard {
                Heard::Missed(count) => gap = sum(gap, count),
                Heard::Message(message) => {
                    gap = sum(gap, Some(1));
                    self.messages -= 1;
                    self.len -= message.0.len();
                    break;
                }
            }
        }
        if let Some(Heard::Missed(next)) = self.waiting.front_mut() {
            *next = sum(gap, *next);
        } else {
            self.waiting.push_front(Heard::Missed(gap));
        }
    }

    fn wake(&mut self) {
        if let Some(waker) = self.waker.take() {
            waker.wake();
        }
    }
}

/// One of which the number is unknown makes the sum unknown.
fn sum(one: Option<u64>, other: Option<u64>) -> Option<u64> {
    Some(one?.saturating_add(other?))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn message(number: u64) -> Bytes {
        Bytes(number.to_be_bytes()[..].into())
    }

    fn all(ear: &mut Ear) -> Vec<Heard<u64>> {
        let number = |message: Bytes| u64::from_be_bytes(message.0[..].try_into().expect("eight bytes"));
        let mut all = Vec::new();
        while let Poll::Ready(heard) = ear.poll(Waker::noop()) {
            all.push(match heard {
                Heard::Message(message) => Heard::Message(number(message)),
                Heard::Missed(count) => Heard::Missed(count),
            });
        }
        all
    }

    #[test]
    fn whoever_does_not_keep_up_hears_how_much_was_lost_and_then_the_rest() {
        let mut ear = Ear::new();
        (0..MESSAGES_MAX as u64 + 5).for_each(|number| ear.hear(message(number)));
        let heard = all(&mut ear);
        assert_eq!(heard[..2], [Heard::Missed(Some(5)), Heard::Message(5)]);
        assert_eq!(heard.len(), MESSAGES_MAX + 1);
        ear.hear(message(7));
        assert_eq!(all(&mut ear), [Heard::Message(7)]);
    }

    #[test]
    fn bytes_are_bounded_too() {
        let mut ear = Ear::new();
        (0..5).for_each(|_| ear.hear(Bytes(vec![0; LEN_MAX / 4].into())));
        assert_eq!(ear.poll(Waker::noop()), Poll::Ready(Heard::Missed(Some(1))));
    }

    #[test]
    fn a_new_session_is_one_gap_of_unknown_size_in_its_place() {
        let mut ear = Ear::new();
        ear.begin(1);
        ear.confirm(1);
        ear.begin(1);
        ear.hear(message(1));
        ear.begin(2);
        ear.miss(Some(3));
        ear.begin(2);
        ear.hear(message(2));
        assert_eq!(all(&mut ear), [Heard::Message(1), Heard::Missed(None), Heard::Message(2)]);
        (0..MESSAGES_MAX as u64).for_each(|number| ear.hear(message(number)));
        ear.begin(3);
        (0..2).for_each(|number| ear.hear(message(number)));
        assert_eq!(all(&mut ear)[0], Heard::Missed(Some(2)), "the later gap has its own place");
    }
}
