//! What a helper publishes, as one subscriber gets it.

use std::collections::{BTreeMap, VecDeque};
use std::future::poll_fn;
use std::marker::PhantomData;
use std::sync::Arc;
use std::task::{Poll, Waker};

use serde::de::DeserializeOwned;

use super::link::Lifeline;
use crate::ipc::callee::TOPIC;
use crate::ipc::course::Course;
use crate::ipc::frame;
use crate::ipc::message::{self, Terms};

/// The most subscriptions of a connection, as helpers allow them.
const SUBSCRIPTIONS_MAX: usize = 4096;

/// The most updates that lie here for one subscriber.
const WINDOW: u32 = 256;

/// So many taken updates are reported to the helper at once.
const REPORT: u32 = WINDOW / 4;

/// Everything a helper publishes, for one subscriber, in order.
///
/// It holds at most 256 updates that were not taken; whoever falls further behind gets a new
/// snapshot instead of what is missing, and so does everyone after a restart of the helper.
pub struct Subscription<E> {
    line: Arc<Lifeline>,
    id: u32,
    event: PhantomData<fn() -> E>,
}

/// What a subscriber is told.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Update<E> {
    /// How things stand: replaces everything that was told before.
    Snapshot {
        /// Names the helper's process: another one counts from 0 again. Later ones are greater.
        epoch: u64,
        /// The number of the last event that is part of it.
        sequence: u64,
        /// So many events were left out before it, because they were not taken in time. 0 at the beginning,
        /// and after a restart of the helper: how many those were that nobody has got is not known.
        missed: u64,
        /// What [`Helper::snapshot`](super::super::Helper::snapshot) said.
        events: Vec<E>,
    },
    /// What has changed.
    Event {
        /// One more than that of the update before.
        sequence: u64,
        /// What was published.
        event: E,
    },
}

/// All subscriptions of a connection.
#[derive(Default)]
pub(super) struct Topics {
    known: BTreeMap<u32, Topic>,
    next_id: u32,
}

struct Topic {
    updates: VecDeque<Raw>,
    /// What may be told next on this connection.
    course: Course,
    /// Left out before the snapshot that comes next.
    missed: u64,
    /// Taken and not reported.
    taken: u32,
    waker: Option<Waker>,
}

/// An update, its events encoded.
enum Raw {
    Snapshot { epoch: u64, sequence: u64, missed: u64, events: Vec<u8> },
    Event { sequence: u64, event: Vec<u8> },
}

impl<E: DeserializeOwned> Subscription<E> {
    /// `None`: there are too many.
    pub(super) fn new(line: Arc<Lifeline>) -> Option<Self> {
        let id = {
            let mut state = line.link().lock();
            let id = state.topics.add()?;
            if state.is_open() {
                message::subscribe(id, TOPIC, Terms { credit: WINDOW }, state.unsent());
                state.wake();
            }
            id
        };
        Some(Self { line, id, event: PhantomData })
    }

    /// Waits for the next update. It never ends; dropping the future loses nothing.
    pub async fn next(&mut self) -> Update<E> {
        loop {
            let decoded = match poll_fn(|context| self.poll_next(context.waker())).await {
                Raw::Snapshot { epoch, sequence, missed, events } => {
                    frame::decode(&events).map(|events| Update::Snapshot { epoch, sequence, missed, events })
                }
                Raw::Event { sequence, event } => frame::decode(&event).map(|event| Update::Event { sequence, event }),
            };
            match decoded {
                Ok(update) => return update,
                Err(error) => log::error!("an event of another release is not understood: {error}"),
            }
        }
    }

    fn poll_next(&self, waker: &Waker) -> Poll<Raw> {
        let mut state = self.line.link().lock();
        let is_open = state.is_open();
        let Some(topic) = state.topics.get(self.id) else { return Poll::Pending };
        let Some(update) = topic.updates.pop_front() else {
            topic.waker = Some(waker.clone());
            return Poll::Pending;
        };
        topic.taken += 1;
        if topic.taken >= REPORT && is_open {
            let taken = std::mem::take(&mut topic.taken);
            topic.course.grant(taken);
            message::credit(self.id, taken, state.unsent());
            state.wake();
        }
        Poll::Ready(update)
    }
}

impl<E> Drop for Subscription<E> {
    fn drop(&mut self) {
        let mut state = self.line.link().lock();
        state.topics.known.remove(&self.id);
        if state.is_open() {
            message::unsubscribe(self.id, state.unsent());
            state.wake();
        }
    }
}

impl Topics {
    fn add(&mut self) -> Option<u32> {
        if self.known.len() >= SUBSCRIPTIONS_MAX {
            return None;
        }
        self.next_id = self.next_id.wrapping_add(1);
        let topic = Topic { updates: VecDeque::new(), course: Course::new(WINDOW), missed: 0, taken: 0, waker: None };
        self.known.insert(self.next_id, topic);
        Some(self.next_id)
    }

    /// Subscribes again, on a new connection.
    pub(super) fn renew(&mut self, out: &mut Vec<u8>) {
        for (&id, topic) in &mut self.known {
            let lying = u32::try_from(topic.updates.len()).unwrap_or(WINDOW);
            // What lies here is taken before the new snapshot, and counts when it is.
            let credit = WINDOW.saturating_sub(lying);
            (topic.taken, topic.missed, topic.course) = (0, 0, Course::new(credit));
            message::subscribe(id, TOPIC, Terms { credit }, out);
        }
    }

    /// The error is the rule that the helper has broken.
    pub(super) fn snapshot(&mut self, id: u32, epoch: u64, sequence: u64, events: &[u8]) -> Result<(), String> {
        // One that was just ended may be told a little more.
        let Some(topic) = self.get(id) else { return Ok(()) };
        topic.course.snapshot(sequence)?;
        let missed = std::mem::take(&mut topic.missed);
        topic.push(Raw::Snapshot { epoch, sequence, missed, events: events.to_vec() });
        Ok(())
    }

    pub(super) fn event(&mut self, id: u32, sequence: u64, event: &[u8]) -> Result<(), String> {
        let Some(topic) = self.get(id) else { return Ok(()) };
        topic.course.event(sequence)?;
        topic.push(Raw::Event { sequence, event: event.to_vec() });
        Ok(())
    }

    /// Events were left out: a snapshot comes next.
    pub(super) fn resync(&mut self, id: u32, missed: u64) {
        if let Some(topic) = self.get(id) {
            topic.missed = topic.missed.saturating_add(missed);
            topic.course.resync();
        }
    }

    fn get(&mut self, id: u32) -> Option<&mut Topic> {
        self.known.get_mut(&id)
    }
}

impl Topic {
    /// Bounded by the credit: what lies here, and what may come, are [`WINDOW`] together.
    fn push(&mut self, update: Raw) {
        self.updates.push_back(update);
        if let Some(waker) = self.waker.take() {
            waker.wake();
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn no_more_lies_here_than_there_is_credit_for_and_what_ended_is_ignored() {
        let mut topics = Topics::default();
        let id = topics.add().expect("room");
        topics.snapshot(id, 1, 0, &[0x90]).expect("in order");
        let refused = (1..).find_map(|sequence| topics.event(id, sequence, &[1]).err());
        assert!(refused.is_some_and(|why| why.contains("credit")));
        assert_eq!(topics.get(id).map(|topic| topic.updates.len()), Some(WINDOW as usize));
        assert_eq!(topics.event(99, 7, &[1]), Ok(()), "one that was ended may be told a little more");
    }

    #[test]
    fn a_new_connection_begins_with_a_snapshot_and_with_the_room_there_is() {
        let mut topics = Topics::default();
        let id = topics.add().expect("room");
        topics.snapshot(id, 1, 4, &[0x90]).expect("in order");
        (5..10).for_each(|sequence| topics.event(id, sequence, &[1]).expect("in order"));
        let mut out = Vec::new();
        topics.renew(&mut out);
        let mut wanted = Vec::new();
        message::subscribe(id, TOPIC, Terms { credit: WINDOW - 6 }, &mut wanted);
        assert_eq!(out, wanted);
        assert!(topics.event(id, 10, &[1]).is_err(), "it belongs to the old one");
    }
}
