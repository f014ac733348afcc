//! The keys of session tickets: made for the first worker that speaks TLS, and others in their place in time.

use std::io;
use std::os::fd::BorrowedFd;
use std::time::{Duration, Instant};

use crate::contract::tickets::Keys;
use crate::contract::time::monotonic_ms;
use crate::sys::random;

/// One for all generations: a client may come back to a worker of any.
#[derive(Default)]
pub(super) struct Tickets {
    keys: Option<Keys>,
}

impl Tickets {
    /// Makes the keys if there are none.
    pub(super) fn make(&mut self) -> io::Result<()> {
        if self.keys.is_none() {
            self.keys = Some(Keys::create(monotonic_ms(), random::fill)?);
        }
        Ok(())
    }

    pub(super) fn memory(&self) -> Option<BorrowedFd<'_>> {
        self.keys.as_ref().map(Keys::fd)
    }

    /// When the next key is to be made.
    pub(super) fn due(&self) -> Option<Instant> {
        let due_ms = self.keys.as_ref()?.due_ms();
        Some(Instant::now() + Duration::from_millis(due_ms.saturating_sub(monotonic_ms())))
    }

    /// Makes the next key when its time has come.
    pub(super) fn rotate(&mut self) {
        match self.keys.as_mut().map(|keys| keys.rotate(monotonic_ms())) {
            None | Some(Ok(false)) => {}
            Some(Ok(true)) => log::debug!(target: "forebay", "session tickets: a new key, and the oldest is no more"),
            Some(Err(error)) => log::error!(target: "forebay", "session tickets: cannot make a new key: {error}"),
        }
    }
}
