//! From a helper to its subscribers.

use std::cell::{Cell, RefCell};
use std::rc::{Rc, Weak};
use std::time::{SystemTime, UNIX_EPOCH};

use super::connection::Connection;
use crate::app::declare::Publish;

/// Counts what is published and hands it to every connection.
pub(super) struct Bus {
    /// The process's start, in microseconds since 1970: a later process has a greater one.
    epoch: u64,
    sequence: Cell<u64>,
    connections: RefCell<Vec<Weak<Connection>>>,
}

impl Bus {
    pub(super) fn new() -> Self {
        let since = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
        let epoch = u64::try_from(since.as_micros()).unwrap_or(0);
        Self { epoch, sequence: Cell::new(0), connections: RefCell::default() }
    }

    pub(super) fn epoch(&self) -> u64 {
        self.epoch
    }

    /// The number of the last event.
    pub(super) fn sequence(&self) -> u64 {
        self.sequence.get()
    }

    pub(super) fn add(&self, connection: &Rc<Connection>) {
        let mut connections = self.connections.borrow_mut();
        connections.retain(|known| known.strong_count() > 0);
        connections.push(Rc::downgrade(connection));
    }
}

impl Publish for Bus {
    fn publish(&self, event: &[u8]) {
        self.sequence.set(self.sequence.get() + 1);
        for connection in self.connections.borrow().iter().filter_map(Weak::upgrade) {
            connection.publish(self.sequence.get(), event);
        }
    }
}
