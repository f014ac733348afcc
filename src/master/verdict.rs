//! How a reload ended, told to all who wait for it.
//!
//! Where a process is to blame, the log helper is asked for its last lines first, and not for long: it
//! may be the one that fails.

use std::time::{Duration, Instant};

use serde_json::json;

use super::Master;
use super::children::plain;
use super::rollout::Promised;
use crate::contract::control::{Refusal, Reloaded};
use crate::contract::ids::{Generation, ReloadNumber, Role};
use crate::contract::orders::{LogOrder, RECALLED_LEN_MAX, RECALLED_MAX};
use crate::contract::status::ReloadStatus;
use crate::error::{Chain, Exit};
use crate::ipc::message;

/// How long the log helper may take to recall what was said: it does so in a turn of its loop.
const RECALL_LIMIT: Duration = Duration::from_millis(500);

/// The end of one run.
pub(super) struct Verdict {
    pub(super) number: ReloadNumber,
    pub(super) generation: Generation,
    pub(super) took_ms: u64,
    pub(super) result: Result<Reloaded, String>,
}

/// One that is told when the log helper has answered, or then.
pub(super) struct Awaited {
    verdict: Verdict,
    until: Instant,
}

impl Master {
    /// Tells all who wait, and first gets what its culprit has said last.
    pub(super) fn judge(&mut self, verdict: Verdict, culprit: Option<Role>) {
        // One after the other: the next run can be over before the log helper has answered.
        self.conclude_the_awaited(&[]);
        let log = self.log.helper.filter(|&log| self.children.pid(log).is_some());
        let asked = culprit.zip(log).is_some_and(|(culprit, log)| {
            let order = LogOrder::Recall { number: verdict.number.0, name: culprit.to_string() };
            self.children.tell(log, &order, &[]).is_ok()
        });
        if asked {
            self.rollout.awaited = Some(Awaited { verdict, until: Instant::now() + RECALL_LIMIT });
        } else {
            self.conclude(verdict, Vec::new());
        }
    }

    /// What the log helper recalls. Nobody's words are believed: they are shown, as far as they can be.
    pub(super) fn recalled(&mut self, number: u64, lines: &[String]) {
        if self.rollout.awaited.as_ref().is_some_and(|awaited| awaited.verdict.number.0 == number) {
            self.conclude_the_awaited(lines);
        }
    }

    /// No answer of the log helper is waited for any longer.
    pub(super) fn conclude_the_overdue(&mut self, now: Instant) {
        if self.rollout.awaited.as_ref().is_some_and(|awaited| awaited.until <= now) {
            self.conclude_the_awaited(&[]);
        }
    }

    pub(super) fn conclude_the_awaited(&mut self, lines: &[String]) {
        if let Some(Awaited { verdict, .. }) = self.rollout.awaited.take() {
            let first = lines.len().saturating_sub(RECALLED_MAX);
            self.conclude(verdict, lines[first..].iter().map(|line| plain(line, RECALLED_LEN_MAX)).collect());
        }
    }

    fn conclude(&mut self, verdict: Verdict, last_lines: Vec<String>) {
        let Verdict { number, generation, took_ms, result } = verdict;
        let outcome = if result.is_ok() { "committed" } else { "rolled_back" }.to_owned();
        let reason = result.as_ref().err().cloned();
        let last = ReloadStatus { generation: generation.0, outcome, reason, last_lines: last_lines.clone(), took_ms };
        self.rollout.last = Some(last);
        self.is_news = true;
        let is_over = |promised: &mut Promised| promised.number == number;
        let done: Vec<Promised> = self.rollout.waiting.extract_if(.., is_over).collect();
        self.rollout.finished += done.iter().map(|promised| promised.count).sum::<u64>();
        self.write_reloads();
        let answer = result.map_err(|reason| Refusal { last_lines, ..Refusal::new(Exit::Failed, reason) });
        for (token, id) in done.into_iter().flat_map(|promised| promised.askers) {
            let mut out = Vec::new();
            message::response(id, &answer, &mut out);
            self.control.fulfil(token, &out, Instant::now());
        }
    }

    /// How many reloads were asked for and are over, and how the last one ended.
    pub(super) fn write_reloads(&mut self) {
        self.rollout.is_unwritten = false;
        let (asked, finished, last) = (self.rollout.asked, self.rollout.finished, &self.rollout.last);
        let text = json!({ "asked": asked, "finished": finished, "last": last }).to_string();
        if let Err(error) = self.run_dir.write_reloads(&format!("{text}\n")) {
            log::error!(target: "forebay", "{}", Chain(&error));
        }
    }
}

impl Awaited {
    pub(super) fn until(&self) -> Instant {
        self.until
    }
}
