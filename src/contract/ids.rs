//! Names of processes, places and loads.

use std::fmt;

use serde::{Deserialize, Serialize};

/// One process's life, from the decision to make it until it is reaped. Never used twice.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
pub(crate) struct Birth(pub(crate) u64);

/// One load of one binary with one configuration, counted from 1.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
pub(crate) struct Generation(pub(crate) u32);

/// A worker's place, from 0. Its occupants change, it stays.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
pub(crate) struct Slot(pub(crate) u16);

/// The most workers of one generation.
pub(crate) const WORKERS_MAX: u16 = 1024;

/// What a process is there for.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
pub(crate) enum Role {
    Log,
    Zygote(Generation),
    Worker(Slot, Generation),
}

impl fmt::Display for Generation {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "generation {}", self.0)
    }
}

impl fmt::Display for Role {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Log => f.write_str("helper log"),
            Self::Zygote(generation) => write!(f, "zygote {generation}"),
            Self::Worker(slot, generation) => write!(f, "worker {} {generation}", slot.0),
        }
    }
}
