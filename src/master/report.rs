//! The supervisor's reports as log lines. Their shape is interface: `WHO pid N: WHAT`.

use std::time::Duration;

use super::children::Children;
use super::supervisor::{Next, Progress, Report};
use crate::contract::ids::{Birth, HelperName, Role};

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
        Report::MakingRoom(birth, role, why) => {
            log::info!(target: "forebay", "{}: {why}: finishing what it has begun", who(*birth, *role));
        }
        Report::NotRestarted(name) => {
            log::info!(target: "forebay", "helper {name}: not restarted: a reload hands it over to a new process");
        }
        Report::Reload(number, generation, progress) => {
            let level = match progress {
                Progress::RollingBack { .. } => log::Level::Warn,
                Progress::Begun
                | Progress::ZygoteLoaded
                | Progress::Waiting(_)
                | Progress::WorkersReady { .. }
                | Progress::HandingOver(_)
                | Progress::HandedOver { .. }
                | Progress::Accepting
                | Progress::Stable(_)
                | Progress::Committed { .. }
                | Progress::RolledBack => log::Level::Info,
            };
            log::log!(target: "forebay", level, "reload {} {generation}: {}", number.0, said(progress));
        }
        Report::Recycling(birth, role, wear) => {
            log::info!(target: "forebay", "{}: {wear}: recycling it", who(*birth, *role));
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

/// How far a reload has come, in words.
pub(super) fn said(progress: &Progress) -> String {
    match progress {
        Progress::Begun => "begun".to_owned(),
        Progress::ZygoteLoaded => "zygote loaded".to_owned(),
        Progress::Waiting(oldest) => format!("two generations live at most: waiting for what is left of {oldest}"),
        Progress::WorkersReady { ready, of } => format!("workers ready {ready} of {of}"),
        Progress::HandingOver(helper) => format!("handing over helper {helper}"),
        Progress::HandedOver { helper, gap } => format!("helper {helper} handed over, away for {}", ms(*gap)),
        Progress::Accepting => "new workers accept".to_owned(),
        Progress::Stable(time) => format!("stable for {}", ms(*time)),
        Progress::Committed { kept } if kept.is_empty() => "committed".to_owned(),
        Progress::Committed { kept } => {
            let names: Vec<&str> = kept.iter().map(HelperName::as_str).collect();
            format!("committed, kept: {}", names.join(", "))
        }
        Progress::RollingBack { reason } => format!("rolling back: {reason}"),
        Progress::RolledBack => "rolled back".to_owned(),
    }
}

fn ms(time: Duration) -> String {
    format!("{} ms", time.as_millis())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::contract::ids::Generation;

    #[test]
    fn the_words_of_a_reload() {
        let name = |text| HelperName::parse(text).expect(text);
        let half = Duration::from_millis(500);
        let table = [
            (Progress::ZygoteLoaded, "zygote loaded"),
            (Progress::WorkersReady { ready: 2, of: 3 }, "workers ready 2 of 3"),
            (Progress::HandedOver { helper: name("nest"), gap: half }, "helper nest handed over, away for 500 ms"),
            (
                Progress::Waiting(Generation(1)),
                "two generations live at most: waiting for what is left of generation 1",
            ),
            (Progress::Stable(half), "stable for 500 ms"),
            (Progress::Committed { kept: Vec::new() }, "committed"),
            (Progress::Committed { kept: vec![name("nest"), name("hub")] }, "committed, kept: nest, hub"),
            (Progress::RollingBack { reason: "no memory".to_owned() }, "rolling back: no memory"),
        ];
        for (progress, words) in table {
            assert_eq!(said(&progress), words);
        }
    }
}
