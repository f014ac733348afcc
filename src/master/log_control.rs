//! What the command line asks of the log: to follow it, another level for a while, its files anew.

use std::collections::BTreeSet;
use std::os::fd::AsFd;
use std::time::{Duration, Instant};

use mio::Token;
use nix::unistd::geteuid;

use super::Master;
use super::control::REOPENINGS_MAX;
use super::log_level::Raised;
use super::requests::response;
use super::rings::Sums;
use super::targets::Held;
use crate::contract::control::{Follow, LEVEL_LASTS_MS_MAX, Level, Nothing, Refusal, Reopened};
use crate::contract::orders::{LogOrder, TargetGiven};
use crate::contract::status::{LogStatus, RefusedStatus, TargetStatus};
use crate::error::Exit;
use crate::settings::filter;
use crate::settings::log::Transport;

/// One who waits until the log is written to files that were opened anew.
pub(super) struct Reopening {
    /// A connection and the id of its request.
    asker: (Token, u32),
    tickets: BTreeSet<u64>,
    outcome: Result<Reopened, Refusal>,
}

impl Master {
    /// Passes a connection on to the log helper, which tells it all that the filter wants.
    pub(super) fn pass_on(&mut self, token: Token, id: u32, follow: &Follow) -> Result<(), Refusal> {
        filter::check_typed(&follow.filter).map_err(|why| Refusal::new(Exit::Usage, why))?;
        let busy = |reason: &str| Refusal::new(Exit::Busy, reason.to_owned());
        let log = self.log.helper.filter(|&log| self.children.pid(log).is_some());
        let log = log.ok_or_else(|| busy("there is no log helper at the moment: try again"))?;
        // Before the order: the answer stands in front of all records.
        let answer = response(id, Ok(Nothing {}));
        let Some(connection) = self.control.give_away(token, &answer, self.poll.registry()) else {
            return Err(busy("this connection waits for another answer"));
        };
        let order = LogOrder::Follow { filter: follow.filter.clone() };
        if let Err(error) = self.children.tell(log, &order, &[connection.as_fd()]) {
            // The connection closes with this, and whoever is there asks again.
            log::error!(target: "forebay", "cannot pass a connection on to the log helper: {error}");
        }
        Ok(())
    }

    /// Whoever may not control this daemon any more follows its log no more.
    pub(super) fn revoke_followers(&self) {
        let Some(log) = self.log.helper else { return };
        let uids = [0, geteuid().as_raw()].into_iter().chain(self.settings.control_uids.iter().copied()).collect();
        if let Err(error) = self.children.tell(log, &LogOrder::MayFollow { uids }, &[]) {
            log::error!(target: "forebay", "cannot tell the log helper who may follow: {error}");
        }
    }

    /// Another level, for a while.
    pub(super) fn set_level(&mut self, Level { filter, for_ms }: Level) -> Result<Level, Refusal> {
        let wrong = |why: String| Refusal::new(Exit::Usage, why);
        let configured = self.settings.log_level.clone();
        if filter.is_empty() {
            self.raise_the_level(None);
            log::info!(target: "forebay", "log level: {configured}, as configured");
            return Ok(Level { filter: configured, for_ms: 0 });
        }
        filter::check_typed(&filter).map_err(wrong)?;
        let in_force = filter::joined(&configured, &filter);
        if !(1..=LEVEL_LASTS_MS_MAX).contains(&for_ms) {
            return Err(wrong(format!("a level lasts from 1 to {LEVEL_LASTS_MS_MAX} ms")));
        }
        let time = Duration::from_millis(for_ms);
        self.raise_the_level(Some(Raised::new(filter, Instant::now() + time)));
        log::info!(target: "forebay", "log level: {in_force} for {} s", time.as_secs_f64());
        Ok(Level { filter: in_force, for_ms })
    }

    /// Opens the log's files anew. The answer comes when they are written to.
    pub(super) fn reopen(&mut self, token: Token, id: u32) -> Result<(), Refusal> {
        let control = &self.control;
        self.log.reopenings.retain(|waiting| control.owns(waiting.asker.0));
        if self.log.reopenings.len() >= REOPENINGS_MAX {
            let reason = format!("{REOPENINGS_MAX} wait for the log's files already: try again when it is over");
            return Err(Refusal::new(Exit::Busy, reason));
        }
        let files = self.log.targets.file_numbers().into_iter().map(|number| self.log.name(number)).collect();
        let (tickets, reasons) = self.reopen_logs();
        let outcome = if reasons.is_empty() {
            Ok(Reopened { files })
        } else {
            Err(Refusal::new(Exit::Failed, reasons.join("\n")))
        };
        self.control.wait(token);
        self.log.reopenings.push(Reopening { asker: (token, id), tickets: tickets.into_iter().collect(), outcome });
        self.conclude_the_reopenings();
        Ok(())
    }

    /// Tells those who wait for nothing any more.
    pub(super) fn conclude_the_reopenings(&mut self) {
        let waits = |waiting: &Reopening| self.log.switches.iter().any(|(ticket, _)| waiting.tickets.contains(ticket));
        let (still, over): (Vec<_>, Vec<_>) = std::mem::take(&mut self.log.reopenings).into_iter().partition(waits);
        self.log.reopenings = still;
        for Reopening { asker: (token, id), outcome, .. } in over {
            self.control.fulfil(token, &response(id, outcome), Instant::now());
        }
    }

    /// How the log is doing.
    pub(super) fn log_status(&self, now: Instant) -> LogStatus {
        let Sums { produced, refused: [error, warn, info, debug, trace], taken } = self.log.rings.sums();
        let transport = match self.settings.log_transport {
            Transport::Ring => "ring",
            Transport::Socket => "socket",
        };
        LogStatus {
            transport: transport.to_owned(),
            level: self.settings.log_level.clone(),
            raised: self.log.raised.as_ref().map(|raised| raised.status(now)),
            produced,
            refused: RefusedStatus { error, warn, info, debug, trace },
            taken,
            targets: self.log.targets.iter().map(|held| self.target_status(held)).collect(),
        }
    }

    fn target_status(&self, held: &Held) -> TargetStatus {
        let TargetGiven { number, is_access, .. } = held.given;
        let (written, lost) = held.counts(self.log.rings.ledger());
        let unopened = self.log.unopened.get(&number).map(|why| format!("cannot be reopened: {why}"));
        TargetStatus {
            name: held.name(),
            kind: held.kind().to_owned(),
            access: is_access,
            written,
            lost,
            trouble: self.log.troubles.get(&number).cloned().or(unopened),
        }
    }
}
