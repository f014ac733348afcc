//! Those who watch the log go by: connections of the control socket that the master has passed on.
//!
//! Nobody waits for one: who does not read misses records, and is told how many.

use std::io::{ErrorKind, Write};
use std::os::fd::{AsFd, OwnedFd};
use std::os::unix::net::UnixStream;

use env_filter::{Builder, Filter};
use log::{Metadata, Record};
use nix::poll::{PollFd, PollFlags, PollTimeout, poll};

use crate::contract::control::{FOLLOWED, Followed};
use crate::ipc::log_record::LogRecord;
use crate::ipc::message;
use crate::log::record::{Entry, Origin};

/// Followers at once; the next ones are turned away.
const FOLLOWERS_MAX: usize = 16;

/// Bytes that wait for one of them at most.
const UNREAD_MAX: usize = 1024 * 1024;

#[derive(Default)]
pub(super) struct Followers {
    all: Vec<Follower>,
}

struct Follower {
    stream: UnixStream,
    filter: Filter,
    unread: Vec<u8>,
    missed: u64,
}

impl Followers {
    /// A connection that is closed is the answer to one too many.
    pub(super) fn add_one(&mut self, connection: OwnedFd, filter: &str) {
        let stream = UnixStream::from(connection);
        self.forget_the_gone();
        if self.all.len() < FOLLOWERS_MAX && stream.set_nonblocking(true).is_ok() {
            let filter = Builder::new().parse(filter).build();
            self.all.push(Follower { stream, filter, unread: Vec::new(), missed: 0 });
        }
    }

    pub(super) fn add(&mut self, origin: &Origin, entry: &Entry<'_>) {
        self.all.iter_mut().for_each(|follower| follower.add(origin, entry));
    }

    /// Writes what they read without waiting; who is gone is forgotten.
    pub(super) fn write(&mut self) {
        self.all.retain_mut(Follower::write);
    }

    /// Lets go of those that have closed their end.
    pub(super) fn forget_the_gone(&mut self) {
        self.all.retain(|follower| {
            let mut polled = [PollFd::new(follower.stream.as_fd(), PollFlags::empty())];
            // Without being asked it tells of the end alone.
            !poll(&mut polled, PollTimeout::ZERO).is_ok_and(|count| count > 0)
        });
    }
}

impl Follower {
    fn add(&mut self, origin: &Origin, entry: &Entry<'_>) {
        let metadata = Metadata::builder().level(entry.level).target(entry.target).build();
        let wants = self.filter.enabled(&metadata)
            && self
                .filter
                .matches(&Record::builder().metadata(metadata).args(format_args!("{}", entry.message)).build());
        if !wants {
            return;
        }
        if self.unread.len() >= UNREAD_MAX {
            self.missed += 1;
            return;
        }
        let followed = Followed {
            process: origin.name.clone(),
            worker: origin.worker.map(|slot| slot.0),
            generation: origin.generation.map(|generation| generation.0),
            pid: origin.pid,
            sequence: entry.sequence,
            missed: std::mem::take(&mut self.missed),
            record: LogRecord::of(entry),
        };
        // Whatever a record holds has been encoded before.
        let _ = message::notification(FOLLOWED, &followed, &mut self.unread);
    }

    /// Whether it is still there.
    fn write(&mut self) -> bool {
        while !self.unread.is_empty() {
            match self.stream.write(&self.unread) {
                Ok(count) => drop(self.unread.drain(..count)),
                Err(error) if error.kind() == ErrorKind::Interrupted => {}
                Err(error) => return error.kind() == ErrorKind::WouldBlock,
            }
        }
        true
    }
}
