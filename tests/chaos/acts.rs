//! What is done to the server: an order that a seed decides, whatever comes of it.

use std::time::Duration;

use nix::sys::signal::Signal;

/// Whom an act is done to; which of several the dice say.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Target {
    Worker,
    Helper,
    Zygote,
    Log,
    Master,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Act {
    Kill(Target),
    /// For less than half of the time after which a process counts as hung: nothing may come of it.
    Stop(Target),
    /// For longer than a hung process may live.
    StopLong(Target),
    /// To the master.
    Signal(Signal),
    /// Two in one breath.
    HupTwice,
    /// The command, and not waited for.
    Reload,
    /// The same with a configuration that cannot be read.
    ReloadBroken,
}

/// How often each comes, of all of them together.
const ACTS: [(u32, Act); 23] = [
    (8, Act::Kill(Target::Worker)),
    (3, Act::Kill(Target::Helper)),
    (3, Act::Kill(Target::Zygote)),
    (2, Act::Kill(Target::Log)),
    (5, Act::Stop(Target::Worker)),
    (2, Act::Stop(Target::Helper)),
    (2, Act::Stop(Target::Zygote)),
    (2, Act::Stop(Target::Log)),
    (3, Act::Stop(Target::Master)),
    (3, Act::StopLong(Target::Worker)),
    (1, Act::StopLong(Target::Helper)),
    (1, Act::StopLong(Target::Zygote)),
    (1, Act::StopLong(Target::Log)),
    (1, Act::StopLong(Target::Master)),
    (4, Act::Signal(Signal::SIGHUP)),
    (1, Act::HupTwice),
    (2, Act::Reload),
    (2, Act::ReloadBroken),
    (1, Act::Signal(Signal::SIGUSR1)),
    (3, Act::Signal(Signal::SIGTTIN)),
    (3, Act::Signal(Signal::SIGTTOU)),
    // Both at once often enough that they meet.
    (1, Act::Kill(Target::Worker)),
    (1, Act::Signal(Signal::SIGHUP)),
];

/// Between two acts, in milliseconds.
const PAUSE_MS: std::ops::Range<u64> = 10..400;

/// One throw of the dice.
#[derive(Debug)]
pub(crate) struct Throw {
    pub(crate) act: Act,
    /// Picks one of those it may be done to.
    pub(crate) which: usize,
    /// How far within its bounds a time is, from 0 to 1.
    pub(crate) share: f64,
    /// Until the next one.
    pub(crate) pause: Duration,
}

pub(crate) struct Dice(fastrand::Rng);

impl Dice {
    pub(crate) fn new(seed: u64) -> Self {
        Self(fastrand::Rng::with_seed(seed))
    }

    /// Draws as much each time, so that what comes of one act changes nothing in the order of the others.
    pub(crate) fn throw(&mut self) -> Throw {
        let mut rest = self.0.u32(0..ACTS.iter().map(|(weight, _)| weight).sum());
        let drawn = ACTS.iter().find(|(weight, _)| match rest.checked_sub(*weight) {
            Some(less) => {
                rest = less;
                false
            }
            None => true,
        });
        Throw {
            act: drawn.expect("the weights are those of the table").1,
            which: self.0.usize(..),
            share: self.0.f64(),
            pause: Duration::from_millis(self.0.u64(PAUSE_MS)),
        }
    }
}
