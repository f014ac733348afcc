//! What a reload takes: configuration, program and sockets of a generation.

use super::Master;
use super::supervisor::{Event, ReloadOutcome};
use crate::contract::ids::{Generation, ReloadNumber};

impl Master {
    /// Gets all that this generation is started from.
    pub(super) fn prepare(&mut self, generation: Generation) -> Event {
        Event::NotPrepared(format!("{generation}: a reload is not part of this release"))
    }

    /// Whoever asks for a reload now waits for this run.
    pub(super) fn promise(&mut self, number: ReloadNumber) {
        let _ = number;
    }

    /// A reload is over.
    pub(super) fn reloaded(&mut self, number: ReloadNumber, generation: Generation, outcome: ReloadOutcome) {
        let _ = (number, generation, outcome);
    }
}
