//! From a bare fork to a process that knows who it is.

use std::fs::File;
use std::os::fd::{AsFd, OwnedFd};
use std::os::unix::net::UnixStream;

use crate::contract::lock;
use crate::contract::orders::{Begin, ChildOrder};
use crate::contract::scoreboard::Scoreboard;
use crate::error::Result;
use crate::ipc::channel;
use crate::log::logger;
use crate::log::ring::Ring;
use crate::sys::{descriptors, signals, title};

/// How long a process that ends waits for its last records to be taken, in milliseconds.
pub(super) const LAST_WORDS_MS: u16 = 1000;

/// What a process was given.
pub(super) struct Seat {
    pub(super) begin: Begin,
    pub(super) scoreboard: Scoreboard,
    /// The keys of session tickets.
    pub(super) tickets: Option<OwnedFd>,
    pub(super) listeners: Vec<OwnedFd>,
}

/// Waits for the first order and becomes what it says. `None`: the master did not want this
/// process after all, or is gone.
///
/// The file is to be held until the end: it tells the log helper and the next master that this
/// process exists.
pub(super) fn begin(name: &str, control: &UnixStream) -> Result<Option<(Seat, File)>> {
    title::set(&format!("{name}: newborn"));
    let Some((order, given)) = channel::receive(control)? else { return Ok(None) };
    let begin = match order {
        ChildOrder::Begin(begin) => *begin,
        ChildOrder::Drain { .. } => return Ok(None),
        ChildOrder::Accept | ChildOrder::Filter { .. } => return Err("the first order is not to begin".into()),
    };
    let mut given = given.into_iter();
    let mut next = || given.next().ok_or("descriptors are missing in the order to begin");
    let (lock_file, scoreboard, output) = (File::from(next()?), next()?, next()?);
    lock::hold(&lock_file)?;
    for standard in [1, 2] {
        descriptors::install(output.as_fd(), standard)?;
    }
    title::set(&format!("{name}: {}", begin.role));
    if begin.has_ring {
        let (ring, bell) = (next()?, next()?);
        logger::to_ring(&begin.filter, Ring::attach(ring)?, bell);
    } else {
        logger::to_helper(&begin.filter, &begin.log_socket, begin.role.to_string());
        logger::connect();
    }
    // TERM drains this process; until its loop looks at it, it is blocked.
    signals::leave_to_the_master(false)?;
    let scoreboard = Scoreboard::attach(scoreboard)?;
    let tickets = if begin.has_tickets { Some(next()?) } else { None };
    Ok(Some((Seat { begin, scoreboard, tickets, listeners: given.collect() }, lock_file)))
}
