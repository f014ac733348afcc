//! The supervisor's reports as log lines. Their shape is interface: `WHO pid N: WHAT`.

use std::time::Duration;

use super::children::Children;
use super::supervisor::{Next, Report};
use crate::contract::ids::{Birth, Role};

/// Writes one report.
pub(super) fn log(report: &Report, children: &Children) {
    let who = |birth: Birth, role: Role| match children.pid(birth) {
        Some(pid) => format!("{role} pid {pid}"),
        None => role.to_string(),
    };
    match report {
        Report::Born(birth, role) => log::debug!(target: "forebay", "{}: started", who(*birth, *role)),
        Report::Ready(birth, role) => {
            let word = if matches!(role, Role::Zygote(_)) { "loaded" } else { "ready" };
            log::info!(target: "forebay", "{}: {word}", who(*birth, *role));
        }
        Report::Serving => {}
        Report::BirthFailed { role, reason, retry } => {
            log::error!(target: "forebay", "{role}: cannot start: {reason}; trying again in {}", ms(*retry));
        }
        Report::Died { birth, role, how, next } => {
            let next = match next {
                Next::Restart => "restarting".to_owned(),
                Next::RestartIn(delay) => format!("dies too often, restarting in {}", ms(*delay)),
                Next::Nothing => "giving up".to_owned(),
            };
            log::warn!(target: "forebay", "{}: {how}; {next}", who(*birth, *role));
        }
        Report::Ended { birth, role, how } => log::info!(target: "forebay", "{}: {how}", who(*birth, *role)),
        Report::Ending { birth, role, reason } => {
            log::warn!(target: "forebay", "{}: {reason}: ending it", who(*birth, *role));
        }
        Report::Restarting(birth, role) => {
            log::info!(target: "forebay", "{}: restarting it: finishing what it has begun", who(*birth, *role));
        }
        Report::Unkillable(birth, role) => {
            log::error!(target: "forebay", "{}: SIGKILL does not end it", who(*birth, *role));
        }
        Report::Paused(gap) => {
            log::info!(target: "forebay", "this process was paused for {}: deadlines start anew", ms(*gap));
        }
        Report::Scaled { from, to } => log::info!(target: "forebay", "workers: {from} -> {to}"),
        Report::Stopping { at_once: false } => log::info!(target: "forebay", "stopping: finishing open requests"),
        Report::Stopping { at_once: true } => log::info!(target: "forebay", "stopping at once"),
    }
}

fn ms(time: Duration) -> String {
    format!("{} ms", time.as_millis())
}
