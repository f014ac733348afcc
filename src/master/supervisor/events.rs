//! What the supervisor is told, and what it says.

use std::time::{Duration, Instant};

use crate::contract::ids::{Birth, Generation, HelperName, Role};
use crate::contract::orders::HelperOffer;

/// A fact, from the kernel or from a child.
#[derive(Clone, Debug)]
pub(crate) enum Event {
    /// The process ordered exists and is ours.
    Born(Birth),
    /// It could not be made.
    BirthFailed(Birth, String),
    /// It says it can do its work.
    Ready(Birth),
    /// A zygote has loaded the application, whose helpers are these, in start order.
    Loaded(Birth, Vec<HelperOffer>),
    /// It cannot do its work, and ends; why.
    Refused(Birth, Fault, String),
    /// It says what no child of ours says.
    Broken(Birth, String),
    /// It is dead and reaped; how it ended.
    Exited(Birth, String),
    /// When its loop last turned.
    Heartbeat(Birth, Instant),
    /// So many workers are wanted.
    Scale(u16),
    /// This helper shall make room for a new process.
    Restart(HelperName),
    /// End in order.
    Stop,
    /// End at once.
    Quit,
    /// Nothing but time.
    Tick,
}

/// Whose fault it is that the application does not start.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(crate) enum Fault {
    Application,
    Configuration,
    System,
}

/// What to do in the world.
#[derive(Clone, Debug, PartialEq)]
pub(crate) enum Action {
    /// Make the log helper.
    ForkLog(Birth),
    /// Start a zygote; the answer is `Born` or `BirthFailed`.
    StartZygote(Birth, Generation),
    /// Order a helper or a worker from a zygote; the answer is `Born` or `BirthFailed`.
    Fork {
        birth: Birth,
        role: Role,
        zygote: Birth,
    },
    /// The order will not be answered: drop what was prepared for it.
    Forget(Birth),
    /// Tell a newborn who it is.
    Begin(Birth),
    /// Let it take connections, or calls.
    Accept(Birth),
    /// Ask it to finish and end.
    Drain(Birth),
    Abort(Birth),
    Kill(Birth),
    /// Say it in the log.
    Report(Report),
    /// The master may end.
    Exit(Outcome),
}

/// What the log is told.
#[derive(Clone, Debug, PartialEq)]
pub(crate) enum Report {
    Born(Birth, Role),
    Ready(Birth, Role),
    /// All helpers and workers serve, for the first time.
    Serving,
    BirthFailed {
        role: Role,
        reason: String,
        retry: Duration,
    },
    /// A process that was still wanted has ended.
    Died {
        birth: Birth,
        role: Role,
        how: String,
        next: Next,
    },
    /// A process that was asked to end has ended.
    Ended {
        birth: Birth,
        role: Role,
        how: String,
    },
    /// The master ends it, because.
    Ending {
        birth: Birth,
        role: Role,
        reason: String,
    },
    /// It was asked to make room for its successor.
    Restarting(Birth, Role),
    Unkillable(Birth, Role),
    Paused(Duration),
    Scaled {
        from: u16,
        to: u16,
    },
    Stopping {
        at_once: bool,
    },
}

/// What follows a death.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(crate) enum Next {
    Restart,
    RestartIn(Duration),
    Nothing,
}

/// How the master ends.
#[derive(Clone, Debug, PartialEq)]
pub(crate) enum Outcome {
    /// As it was told.
    Stopped,
    /// The application cannot be started.
    Failed(String),
    /// The system refused a process, or a socket.
    Refused(String),
    /// The application cannot be started with this configuration.
    Misconfigured(String),
}
