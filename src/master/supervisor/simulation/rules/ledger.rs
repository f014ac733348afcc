//! What the rules remember.

use std::time::{Duration, Instant};

use crate::contract::ids::{Birth, Generation, HelperName, Role};
use crate::settings::Timeouts;

/// What has happened to one process, from its order to its end.
#[derive(Debug)]
pub(super) struct Life {
    pub(super) role: Role,
    /// The generation that it is a part of now: a helper that is kept changes it.
    pub(super) home: Option<Generation>,
    /// What it was told at its birth.
    pub(super) timeouts: Timeouts,
    /// Who was asked to fork it.
    pub(super) zygote: Option<Birth>,
    pub(super) ordered: Instant,
    pub(super) born: Option<Instant>,
    pub(super) begun: bool,
    pub(super) ready: Option<Instant>,
    pub(super) accepted: bool,
    pub(super) heartbeat: Option<Instant>,
    pub(super) drained: Option<Instant>,
    pub(super) aborted: Option<Instant>,
    pub(super) killed: Option<Instant>,
    /// Its place is gone.
    pub(super) unwanted: bool,
    /// It broke the rules of the protocol.
    pub(super) broken: bool,
    pub(super) unkillable: bool,
    /// It was told to make room for its successor: its end is nobody's fault.
    pub(super) makes_room: bool,
    /// It has served for long enough.
    pub(super) worn: bool,
    /// It is to follow one that has: its place is that one's still.
    pub(super) follows: bool,
    /// Its generation was rolled back.
    pub(super) rolled_back: bool,
}

impl Life {
    pub(super) fn ordered(role: Role, zygote: Option<Birth>, timeouts: Timeouts, now: Instant) -> Self {
        Self {
            role,
            home: role.generation(),
            timeouts,
            zygote,
            ordered: now,
            born: None,
            begun: false,
            ready: None,
            accepted: false,
            heartbeat: None,
            drained: None,
            aborted: None,
            killed: None,
            unwanted: false,
            broken: false,
            unkillable: false,
            makes_room: false,
            worn: false,
            follows: false,
            rolled_back: false,
        }
    }

    pub(super) fn is_ending(&self) -> bool {
        self.drained.is_some() || self.aborted.is_some() || self.killed.is_some()
    }

    /// Whether nobody else may be made for its place. A helper that cannot be killed keeps it: there
    /// can only be one.
    pub(super) fn holds_its_place(&self) -> bool {
        !self.unwanted && !self.follows && (!self.unkillable || self.is_helper() || self.role == Role::Log)
    }

    /// Whether it does what it is there for.
    pub(super) fn works(&self) -> bool {
        self.ready.is_some() && !self.is_ending()
    }

    /// The place that it is in: a helper has one whatever its generation.
    pub(super) fn seat(&self) -> Seat {
        seat(self.role)
    }

    pub(super) fn is_named(&self, name: HelperName) -> bool {
        matches!(self.role, Role::Helper(of, _) if of == name)
    }

    pub(super) fn is_helper(&self) -> bool {
        matches!(self.role, Role::Helper(..))
    }

    pub(super) fn is_worker(&self) -> bool {
        matches!(self.role, Role::Worker(..))
    }

    pub(super) fn is_zygote(&self) -> bool {
        matches!(self.role, Role::Zygote(_))
    }
}

/// A place's name: the role, a helper's without its generation.
pub(super) type Seat = Role;

pub(super) fn seat(role: Role) -> Seat {
    match role {
        Role::Helper(name, _) => Role::Helper(name, Generation(0)),
        Role::Log | Role::Zygote(_) | Role::Worker(..) => role,
    }
}

/// The place of the log helper, a zygote, a helper or a worker.
#[derive(Debug)]
pub(super) struct Place {
    /// The generation that fills it.
    pub(super) owner: Option<Generation>,
    pub(super) vacant_since: Instant,
    /// It is not filled again before this has passed.
    pub(super) rest: Duration,
    pub(super) deaths: Vec<Instant>,
    /// Its last occupant made room: the next one does not wait.
    pub(super) at_once: bool,
}

impl Place {
    pub(super) fn new(owner: Option<Generation>, now: Instant) -> Self {
        Self { owner, vacant_since: now, rest: Duration::ZERO, deaths: Vec::new(), at_once: false }
    }

    pub(super) fn vacate(&mut self, now: Instant, rest: Duration) {
        self.vacant_since = now;
        self.rest = rest;
        self.at_once = false;
    }
}

#[derive(Clone, Copy, Debug, PartialEq)]
pub(super) enum Phase {
    Starting,
    Serving,
    /// To be over within `within` of `since`; `told`: somebody asked for it.
    Stopping {
        since: Instant,
        within: Duration,
        told: bool,
    },
    Over,
}
