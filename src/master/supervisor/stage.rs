//! A process's life, and when each part of it is over.

use std::time::Instant;

/// Where a process stands.
#[derive(Clone, Debug, PartialEq)]
pub(crate) enum Stage {
    /// Its birth is ordered; there is no process that we know of.
    Ordered {
        deadline: Instant,
    },
    /// It lives and is not ready.
    Booting {
        deadline: Instant,
    },
    /// It waits for the word to do its work.
    Ready,
    Serving,
    /// It was asked to finish.
    Draining {
        deadline: Instant,
    },
    /// SIGABRT was sent.
    Aborting {
        deadline: Instant,
    },
    /// SIGKILL was sent.
    Killed {
        deadline: Instant,
    },
    /// SIGKILL does not end it.
    Stuck,
}

impl Stage {
    /// Whether there is a process to act on.
    pub(super) fn is_process(&self) -> bool {
        !matches!(self, Self::Ordered { .. })
    }

    /// Whether a signal that ends it was sent.
    pub(super) fn is_ending_hard(&self) -> bool {
        matches!(self, Self::Aborting { .. } | Self::Killed { .. } | Self::Stuck)
    }

    /// Whether its loop should turn.
    pub(super) fn has_heartbeat(&self) -> bool {
        matches!(self, Self::Ready | Self::Serving | Self::Draining { .. })
    }

    pub(super) fn deadline(&self) -> Option<Instant> {
        match self {
            Self::Ordered { deadline }
            | Self::Booting { deadline }
            | Self::Draining { deadline }
            | Self::Aborting { deadline }
            | Self::Killed { deadline } => Some(*deadline),
            Self::Ready | Self::Serving | Self::Stuck => None,
        }
    }

    pub(super) fn deadline_mut(&mut self) -> Option<&mut Instant> {
        match self {
            Self::Ordered { deadline }
            | Self::Booting { deadline }
            | Self::Draining { deadline }
            | Self::Aborting { deadline }
            | Self::Killed { deadline } => Some(deadline),
            Self::Ready | Self::Serving | Self::Stuck => None,
        }
    }

    /// The word for it in `status`.
    pub(crate) fn name(&self) -> &'static str {
        match self {
            Self::Ordered { .. } => "waiting",
            Self::Booting { .. } => "booting",
            Self::Ready => "ready",
            Self::Serving => "serving",
            Self::Draining { .. } | Self::Aborting { .. } | Self::Killed { .. } | Self::Stuck => "draining",
        }
    }
}
