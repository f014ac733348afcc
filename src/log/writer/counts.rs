//! What a target was given, and what it has missed.

use super::ledger::{Ledger, OfTarget, Place};

#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) struct Counts {
    /// Records, and lines of what is missing there, that were written or are to be.
    pub(super) given: u64,
    /// Of these, the ones that are to be written.
    pub(super) waiting: u64,
    /// Records that it did not take in time.
    pub(super) lost: u64,
    /// Of these, the ones that a line there tells of.
    pub(super) told: u64,
    /// Of those that no line tells of, the ones that were missed before all that is to be written. A successor tells
    /// of them behind it.
    pub(super) before: u64,
}

impl Counts {
    /// As the last log helper has left them.
    pub(super) fn read(slot: usize, ledger: &Ledger) -> Self {
        let count = |word| ledger.read(Place::of_target(slot, word));
        let (given, waiting) = (count(OfTarget::Given), count(OfTarget::Waiting));
        Self { given, waiting, lost: count(OfTarget::Lost), told: count(OfTarget::Told), before: 0 }
    }

    /// Missed before what comes now, and not told.
    pub(super) fn missing(&self) -> u64 {
        self.lost - self.told - self.before
    }

    /// The next commit has them.
    pub(super) fn stage(&self, slot: usize, ledger: &mut Ledger) {
        self.words().into_iter().for_each(|(word, count)| ledger.stage_changed(Place::of_target(slot, word), count));
    }

    /// What a write has changed: it has happened.
    pub(super) fn note(&self, slot: usize, ledger: &Ledger) {
        self.words().into_iter().for_each(|(word, count)| ledger.write(Place::of_target(slot, word), count));
    }

    fn words(&self) -> [(OfTarget, u64); 4] {
        let Self { given, waiting, lost, told, before: _ } = *self;
        [(OfTarget::Given, given), (OfTarget::Waiting, waiting), (OfTarget::Lost, lost), (OfTarget::Told, told)]
    }
}
