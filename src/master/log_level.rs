//! What the processes log: what the settings want, and for a while more, or less, on command.

use std::time::Instant;

use super::Master;
use crate::contract::ids::Role;
use crate::contract::orders::ChildOrder;
use crate::contract::status::RaisedStatus;
use crate::log::logger;
use crate::settings::filter::joined;

/// What was added by command to what the settings want.
#[derive(Debug)]
pub(super) struct Raised {
    /// In RUST_LOG's syntax.
    pub(super) filter: String,
    until: Instant,
}

impl Raised {
    pub(super) fn new(filter: String, until: Instant) -> Self {
        Self { filter, until }
    }

    pub(super) fn until(&self) -> Instant {
        self.until
    }

    pub(super) fn status(&self, now: Instant) -> RaisedStatus {
        let left_s = self.until.saturating_duration_since(now).as_secs_f64();
        RaisedStatus { filter: self.filter.clone(), left_s }
    }
}

impl Master {
    /// What a process of this role logs now.
    pub(super) fn filter_of(&self, role: Role) -> String {
        let release = role.generation().and_then(|generation| self.releases.get(&generation));
        let settings = match (role, release) {
            // One that was ordered before a commit, and is kept, logs what is wanted now.
            (Role::Helper(_, generation), _) if generation < self.serving => &self.settings,
            (_, Some(release)) => &release.settings,
            (_, None) => &self.settings,
        };
        self.with_what_was_added(&settings.log_level)
    }

    fn with_what_was_added(&self, level: &str) -> String {
        self.log.raised.as_ref().map_or_else(|| level.to_owned(), |raised| joined(level, &raised.filter))
    }

    /// The master, and those whom it has begun and who are meant, log what is wanted now.
    pub(super) fn refilter(&self, is_meant: impl Fn(Role) -> bool) {
        logger::refilter(&self.with_what_was_added(&self.settings.log_level));
        for (birth, child) in self.children.iter() {
            // One that has not begun is told with its first order, which says who it is; a zygote takes no orders
            // of this kind, and the log helper logs nothing itself.
            let obeys = matches!(child.role, Role::Helper(..) | Role::Worker(..)) && child.has_begun;
            if !obeys || !is_meant(child.role) {
                continue;
            }
            let order = ChildOrder::Filter { filter: self.filter_of(child.role) };
            if let Err(error) = self.children.tell(birth, &order, &[]) {
                log::error!(target: "forebay", "cannot tell {} the log's level: {error}", child.role);
            }
        }
    }

    /// From now on this is added to what the settings want; `None`: nothing is.
    pub(super) fn raise_the_level(&mut self, raised: Option<Raised>) {
        self.log.raised = raised;
        self.refilter(|_| true);
    }

    /// Ends what has lasted as long as it was to.
    pub(super) fn lower_the_level(&mut self, now: Instant) {
        if self.log.raised.as_ref().is_some_and(|raised| raised.until <= now) {
            self.raise_the_level(None);
            log::info!(target: "forebay", "log level: {}, as configured", self.settings.log_level);
        }
    }
}
