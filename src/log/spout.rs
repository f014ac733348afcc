//! A process's end of its ring, and the bell of the log helper.

use std::io::Write;
use std::os::fd::{AsFd, OwnedFd};
use std::sync::Arc;
use std::time::{Duration, Instant};

use log::Level;
use nix::poll::{PollTimeout, poll};

use super::encoding::decode;
use super::printable::Printable;
use super::ring::{Consumer, Producer, Pushed, Ring, Taken};

/// How often the end of the master looks whether its last records are taken.
const LOOK_AGAIN: Duration = Duration::from_millis(2);

pub(super) struct Spout {
    producer: Producer,
    bell: Bell,
}

/// An eventfd(2) that all processes have.
#[derive(Clone)]
pub(super) struct Bell(Arc<OwnedFd>);

impl Spout {
    pub(super) fn new(ring: Ring, bell: OwnedFd) -> Self {
        Self { producer: Producer::new(ring), bell: Bell(Arc::new(bell)) }
    }

    pub(super) fn record_len_max(&self) -> usize {
        self.producer.record_len_max()
    }

    /// Publishes a record, or refuses it; the bell, if it is to be rung.
    pub(super) fn push(&mut self, level: Level, encoded: &mut [u8]) -> Option<Bell> {
        match self.producer.push(level, encoded) {
            Pushed::Wake => Some(self.bell.clone()),
            Pushed::Published | Pushed::Refused => None,
        }
    }

    /// Waits until all is taken, `limit_ms` at most; prints the rest.
    pub(super) fn finish(&mut self, limit_ms: u16) {
        let deadline = Instant::now() + Duration::from_millis(u64::from(limit_ms));
        while self.is_untaken() && Instant::now() < deadline {
            self.bell.wake();
            // No event tells of it.
            let _ = poll(&mut [], PollTimeout::try_from(LOOK_AGAIN).unwrap_or(PollTimeout::ZERO));
        }
        if self.is_untaken() {
            self.print_the_rest();
        }
    }

    fn is_untaken(&self) -> bool {
        let (taken, published) = self.producer.untaken();
        taken != published
    }

    /// The last resort, for a helper that is gone for good.
    fn print_the_rest(&self) {
        let ring = self.producer.ring().fd().try_clone_to_owned().and_then(Ring::attach);
        let Ok(ring) = ring else { return };
        let (mut consumer, mut buffer) = (Consumer::new(ring, self.producer.untaken().0), Vec::new());
        let mut console = std::io::stderr().lock();
        while consumer.take(&mut buffer) == Taken::Record {
            let Some(decoded) = decode(&buffer) else { continue };
            let text = Printable { text: decoded.entry.message, line_break: "\n    " };
            // Whoever does not read is not there.
            let _ = writeln!(console, "{}: {text}", decoded.entry.target);
        }
        consumer.release(consumer.cursor());
    }
}

impl Bell {
    /// Wakes the log helper. A bell that has rung very often is full, and rings anyway.
    pub(super) fn wake(&self) {
        let _ = nix::unistd::write(self.0.as_fd(), &1_u64.to_ne_bytes());
    }
}
