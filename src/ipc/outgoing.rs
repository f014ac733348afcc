//! What is to be written to a peer, as far as the kernel does not have it yet.

use super::spare::Spare;

/// Bytes that were written and are kept in front of the others, at most, unless the others are more.
const WRITTEN_MAX: usize = 64 * 1024;

#[derive(Debug, Default)]
pub(crate) struct Outgoing {
    bytes: Vec<u8>,
    written: usize,
}

impl Outgoing {
    /// Where the next bytes are appended.
    pub(crate) fn tail(&mut self) -> &mut Vec<u8> {
        &mut self.bytes
    }

    /// What is to be written next.
    pub(crate) fn rest(&self) -> &[u8] {
        &self.bytes[self.written..]
    }

    pub(crate) fn len(&self) -> usize {
        self.bytes.len() - self.written
    }

    pub(crate) fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// So many bytes of the rest are written.
    pub(crate) fn wrote(&mut self, count: usize) {
        self.written += count;
        if self.is_empty() {
            self.bytes.clear();
            self.written = 0;
        } else if self.written > WRITTEN_MAX && self.written > self.len() {
            self.bytes.drain(..self.written);
            self.written = 0;
        }
    }

    /// Borrows a larger buffer while nothing is in its own.
    pub(crate) fn borrow_from(&mut self, spare: &mut Spare) {
        spare.lend(&mut self.bytes);
    }

    /// Gives it back unless something is in it.
    pub(crate) fn give_back(&mut self, spare: &mut Spare) {
        spare.take_back(&mut self.bytes);
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;
    use crate::ipc::spare::IDLE_CAPACITY;

    proptest! {
        #[test]
        fn what_goes_in_comes_out_in_order(steps in proptest::collection::vec((1_usize..100_000, 1_usize..100_000), 0..30)) {
            let (mut outgoing, mut next, mut seen) = (Outgoing::default(), 0_u8, 0_u8);
            for (more, less) in steps {
                for _ in 0..more {
                    outgoing.tail().push(next);
                    next = next.wrapping_add(1);
                }
                let count = less.min(outgoing.len());
                for &byte in &outgoing.rest()[..count] {
                    prop_assert_eq!(byte, seen);
                    seen = seen.wrapping_add(1);
                }
                outgoing.wrote(count);
                prop_assert!(outgoing.bytes.len() <= 2 * outgoing.len().max(WRITTEN_MAX));
                outgoing.give_back(&mut Spare::default());
                prop_assert!(!outgoing.is_empty() || outgoing.bytes.capacity() <= IDLE_CAPACITY);
            }
        }
    }
}
