//! What the supervisor is told, and what it says.

use std::time::{Duration, Instant};

use super::{Policy, Wear};
use crate::contract::ids::{Birth, Generation, HelperName, ReloadNumber, Role};
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
    /// This worker has served for long enough; why.
    Worn(Birth, Wear),
    /// So many workers are wanted.
    Scale(u16),
    /// This helper shall make room for a new process.
    Restart(HelperName),
    /// Replace all by a new generation; the answer is `Promise`.
    Reload,
    /// What `Prepare` asked for is there; these are the settings.
    Prepared(Policy),
    /// The configuration, or the program, is of no use; why.
    NotPrepared(String),
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
    /// Read the configuration and open the program for this generation; the answer, `Prepared` or
    /// `NotPrepared`, is waited for without a limit.
    Prepare(Generation),
    /// Whoever has asked for a reload in this step gets the result of this run.
    Promise(ReloadNumber),
    /// A run is over. What only a generation that was rolled back needs may go.
    Reloaded {
        number: ReloadNumber,
        generation: Generation,
        outcome: ReloadOutcome,
    },
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
    /// It was asked to make room for its successor, because.
    MakingRoom(Birth, Role, &'static str),
    /// A worker has served for long enough; its successor is made.
    Recycling(Birth, Role, Wear),
    Unkillable(Birth, Role),
    Paused(Duration),
    Scaled {
        from: u16,
        to: u16,
    },
    /// Not while a reload hands it over: its next process is a new one anyway.
    NotRestarted(HelperName),
    Reload(ReloadNumber, Generation, Progress),
    Stopping {
        at_once: bool,
    },
}

/// How far a reload has come.
#[derive(Clone, Debug, PartialEq)]
pub(crate) enum Progress {
    Begun,
    ZygoteLoaded,
    /// What is left of this generation is hurried, and waited for: two live at most.
    Waiting(Generation),
    WorkersReady {
        ready: usize,
        of: usize,
    },
    /// The old process of this helper is asked to make room.
    HandingOver(HelperName),
    /// Its successor serves. The gap: from the death of the old process, or from its post being found
    /// vacant.
    HandedOver {
        helper: HelperName,
        gap: Duration,
    },
    /// The new workers accept beside the old ones.
    Accepting,
    /// All that is new has stayed alive for so long.
    Stable(Duration),
    Committed {
        kept: Vec<HelperName>,
    },
    /// What is new ends, because.
    RollingBack {
        reason: String,
    },
    /// All is again as it was.
    RolledBack,
}

/// How a reload ended.
#[derive(Clone, Debug, PartialEq)]
pub(crate) enum ReloadOutcome {
    /// The new generation serves; these helpers kept their processes.
    Committed { kept: Vec<HelperName> },
    /// The old generation serves as before.
    RolledBack {
        /// Who has failed, if it was a process.
        who: Option<Role>,
        reason: String,
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
