//! What is to be sent as datagrams: messages one after the other, each with what is known of it before it.

use std::io;

use super::counts::Counts;
use super::datagram::{Datagrams, Sent};
use super::format::Formatter;
use super::ledger::Ledger;
use super::pending::Pending;
use crate::log::logger::now_us;
use crate::log::loss;
use crate::log::record::Origin;

/// What stands before a message.
#[derive(Clone, Copy, Debug, Default)]
pub(super) struct Head {
    pub(super) len: u64,
    /// It tells that so many records are missing; 0: it is a record.
    pub(super) missing: u64,
}

impl Head {
    pub(super) const LEN: usize = 2 * size_of::<u64>();

    pub(super) fn bytes(self) -> [u8; Self::LEN] {
        let mut bytes = [0; Self::LEN];
        bytes[..8].copy_from_slice(&self.len.to_ne_bytes());
        bytes[8..].copy_from_slice(&self.missing.to_ne_bytes());
        bytes
    }

    fn read(bytes: &[u8]) -> Self {
        let word = |at: usize| bytes[at..].first_chunk().map_or(0, |word| u64::from_ne_bytes(*word));
        Self { len: word(0), missing: word(8) }
    }
}

/// How many wait.
pub(super) fn count(pending: &Pending) -> u64 {
    let (mut count, mut at, mut head) = (0, 0, Vec::new());
    while at < pending.len() {
        pending.copy(at, Head::LEN, &mut head);
        at += Head::LEN + Head::read(&head).len as usize;
        count += 1;
    }
    count
}

/// Sends them one by one, each once: one that cannot be sent at all is thrown away and counted, and before the next
/// one that can be goes a line of what is missing there. How the last attempt ended; `None`: none has.
pub(super) fn send(
    datagrams: &mut Datagrams,
    pending: &mut Pending,
    counts: &mut Counts,
    formatter: &mut Formatter,
    ledger: &Ledger,
) -> Option<io::Result<()>> {
    let (mut head, mut message, mut ended) = (Vec::new(), Vec::new(), None);
    loop {
        let mut refused = None;
        if counts.before > 0 {
            message.clear();
            let text = loss::missing_here(counts.before);
            formatter.write(&Origin::default(), &loss::entry(&text, now_us()), &mut message);
            match datagrams.send(&message) {
                Sent::Done => {
                    counts.given += 1;
                    counts.told += std::mem::take(&mut counts.before);
                    ended = Some(Ok(()));
                }
                Sent::Later => return ended,
                Sent::Failed(error) => refused = Some(error),
            }
        }
        if pending.is_empty() {
            return refused.map(Err).or(ended);
        }
        pending.copy(0, Head::LEN, &mut head);
        let Head { len, missing } = Head::read(&head);
        if refused.is_none() {
            pending.copy(Head::LEN, len as usize, &mut message);
            match datagrams.send(&message) {
                Sent::Done => ended = Some(Ok(())),
                Sent::Later => return ended,
                Sent::Failed(error) => refused = Some(error),
            }
        }
        if let Some(error) = refused {
            counts.given -= 1;
            if missing > 0 {
                counts.told -= missing;
                counts.before += missing;
            } else {
                counts.lost += 1;
                counts.before += 1;
            }
            ended = Some(Err(error));
        }
        pending.advance(Head::LEN + len as usize, ledger);
    }
}
