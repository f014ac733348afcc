//! What this worker knows of the thermostats: a copy of what the `nest` helper knows, kept by its
//! events, ready to be answered.
//!
//! Readers never wait for the helper or for each other. Followers get each change once and in
//! order, from a queue that is bounded for all of them: who is too slow starts anew.

mod frame;
mod view;

use std::collections::VecDeque;
use std::sync::Arc;

use axum::body::Bytes;
use forebay::{Subscription, Update};
use tokio::sync::broadcast::error::RecvError;
use tokio::sync::{broadcast, watch};

use self::frame::Frame;
pub(crate) use self::frame::Position;
use self::view::{Start, View};
use crate::nest::{Link, NestEvent};

/// How many changes a follower may be behind.
const BACKLOG_MAX: usize = 256;

/// A handle to this worker's copy.
#[derive(Clone)]
pub(crate) struct Mirror(Arc<Shared>);

struct Shared {
    view: watch::Sender<View>,
    frames: broadcast::Sender<Frame>,
}

/// What is known of a thermostat.
#[derive(Debug, PartialEq)]
pub(crate) enum Found<T> {
    /// The upstream has told nothing yet.
    NotReady,
    No,
    Yes(T),
}

impl Mirror {
    pub(crate) fn new() -> Self {
        let view = watch::Sender::new(View::default());
        Self(Arc::new(Shared { view, frames: broadcast::Sender::new(BACKLOG_MAX) }))
    }

    /// Takes in whatever the helper tells; never ends.
    pub(crate) async fn keep(self, mut subscription: Subscription<NestEvent>) {
        loop {
            self.apply(subscription.next().await);
        }
    }

    pub(crate) fn apply(&self, update: Update<NestEvent>) {
        self.0.view.send_modify(|view| {
            // Within the change: a follower that starts now sees the view and the frames after it.
            if let Some(frame) = view.apply(update) {
                // Without followers there is nobody to tell.
                let _ = self.0.frames.send(frame);
            }
        });
    }

    /// All thermostats as a JSON array.
    pub(crate) fn list(&self) -> Option<Bytes> {
        self.0.view.borrow().list()
    }

    /// A thermostat as a JSON object.
    pub(crate) fn one(&self, id: &str) -> Found<Bytes> {
        self.0.view.borrow().one(id)
    }

    /// How the upstream is, as far as this worker has been told.
    pub(crate) fn link(&self) -> Option<Link> {
        self.0.view.borrow().link().cloned()
    }

    /// Follows from where a client was, or from the present.
    pub(crate) fn follow(&self, last: Option<Position>) -> Follower {
        // The guard holds changes off.
        let view = self.0.view.borrow();
        let start = view.start(last);
        Follower { mirror: self.clone(), frames: self.0.frames.subscribe(), start }
    }
}

/// Gets a snapshot where it needs one, and then every change.
pub(crate) struct Follower {
    mirror: Mirror,
    frames: broadcast::Receiver<Frame>,
    start: Start,
}

impl Follower {
    /// The next events as text, or a part of an event whose rest is there at once. The future may be
    /// dropped while it waits, and loses nothing.
    pub(crate) async fn next(&mut self) -> Bytes {
        loop {
            if let Some(text) = self.start.texts.pop_front() {
                return text;
            }
            match self.frames.recv().await {
                Ok(frame) if frame.position.is_until(self.start.after) => {}
                Ok(frame) => return frame.text,
                // Closed it cannot be: this holds a sender.
                Err(RecvError::Lagged(_) | RecvError::Closed) => *self = self.mirror.follow(None),
            }
        }
    }
}

impl Start {
    fn with(texts: impl IntoIterator<Item = Bytes>, after: Position) -> Self {
        Self { texts: VecDeque::from_iter(texts), after }
    }
}

#[cfg(test)]
pub(crate) mod tests;
