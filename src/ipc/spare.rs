//! A buffer that many connections use in turn: who is busy borrows it, who has nothing to keep gives it
//! back. So an idle one has no memory of its own to speak of, and a busy one does not grow it anew with
//! each turn.

use std::mem::swap;

/// Capacity that a connection keeps while it has nothing in it.
pub(crate) const IDLE_CAPACITY: usize = 512;

/// Capacity that is kept for the next one.
const SPARE_CAPACITY: usize = 256 * 1024;

#[derive(Debug, Default)]
pub(crate) struct Spare(Vec<u8>);

impl Spare {
    /// Lends the larger buffer to whoever has nothing in its own.
    pub(crate) fn lend(&mut self, buffer: &mut Vec<u8>) {
        if buffer.is_empty() && self.0.capacity() > buffer.capacity() {
            swap(&mut self.0, buffer);
        }
    }

    /// Takes it back from whoever has nothing in it any more.
    pub(crate) fn take_back(&mut self, buffer: &mut Vec<u8>) {
        if !buffer.is_empty() || buffer.capacity() <= IDLE_CAPACITY {
            return;
        }
        if buffer.capacity() <= SPARE_CAPACITY && buffer.capacity() > self.0.capacity() {
            swap(&mut self.0, buffer);
        }
        if buffer.capacity() > IDLE_CAPACITY {
            *buffer = Vec::new();
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn who_is_busy_has_the_large_one_and_who_is_idle_a_small_one() {
        let (mut spare, mut one, mut other) = (Spare::default(), Vec::with_capacity(9000), Vec::with_capacity(100));
        spare.take_back(&mut one);
        assert!(one.capacity() <= IDLE_CAPACITY && spare.0.capacity() >= 9000);
        spare.lend(&mut other);
        assert!(other.capacity() >= 9000);
        other.push(7);
        spare.take_back(&mut other);
        spare.lend(&mut other);
        assert_eq!(other, [7], "who has something in it keeps it");
        other.clear();
        spare.take_back(&mut other);
        assert!(other.capacity() <= IDLE_CAPACITY && spare.0.capacity() >= 9000);
        let mut huge = Vec::with_capacity(SPARE_CAPACITY + 1);
        spare.take_back(&mut huge);
        assert!(huge.capacity() == 0 && spare.0.capacity() < SPARE_CAPACITY, "nobody keeps that");
    }
}
