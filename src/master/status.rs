//! What `status` says: the supervisor's view with the kernel's numbers.

use std::fs;
use std::time::Instant;

use nix::unistd::{Pid, SysconfVar, sysconf};

use super::Master;
use super::supervisor::{Place, View};
use crate::contract::ids::Role;
use crate::contract::scoreboard::Record;
use crate::contract::status::{HelperStatus, Status, WorkerStatus};
use crate::contract::time::monotonic_ms;

impl Master {
    pub(super) fn status(&self) -> Status {
        let now = Instant::now();
        let View { state, generation, places } = self.supervisor.view();
        let mut workers = Vec::new();
        let mut helpers = Vec::new();
        for place in places {
            match place.role {
                Role::Worker(..) => workers.push(self.worker(&place, now)),
                Role::Log => helpers.push(self.helper("log", self.identity.version, &place, now)),
                Role::Zygote(_) => helpers.push(self.helper("zygote", self.identity.version, &place, now)),
                Role::Helper(name, generation) => {
                    let version = self.offers.version(generation, name).unwrap_or_default();
                    helpers.push(self.helper(name.as_str(), version, &place, now));
                }
            }
        }
        Status {
            state: state.to_owned(),
            pid: std::process::id(),
            version: self.identity.version.to_owned(),
            generation: generation.0,
            uptime_s: (now - self.started).as_secs_f64(),
            program: Some(self.program.clone()),
            executable: self.serving().load.executable(),
            listeners: self.listeners.status(&self.serving().listeners),
            reloads_asked: self.rollout.asked,
            reloads_finished: self.rollout.finished,
            last_reload: self.rollout.last.clone(),
            workers,
            helpers,
            log: Some(self.log_status(now)),
        }
    }

    fn worker(&self, place: &Place, now: Instant) -> WorkerStatus {
        let process = place.birth.and_then(|birth| self.children.get(birth));
        let pid = process.and_then(|process| process.pid);
        let record = process.and_then(|process| process.record).map(|record| self.scoreboard.record(record));
        let Role::Worker(slot, generation) = place.role else {
            unreachable!("invariant: only workers' places come here");
        };
        WorkerStatus {
            slot: slot.0,
            pid: pid.map(|pid| pid.as_raw().unsigned_abs()),
            generation: generation.0,
            state: place.state.to_owned(),
            last_exit: place.last_exit.clone(),
            connections: record.map_or(0, |record| record.connections()),
            requests: record.map_or(0, |record| record.requests()),
            restarts: place.restarts,
            rss_bytes: pid.and_then(rss_bytes).unwrap_or(0),
            longest_turn_ms: record.map_or(0, |record| record.longest_turn_ms()),
            last_turn_ms: record.and_then(since_the_last_turn),
            uptime_s: place.since.map_or(0.0, |since| (now - since).as_secs_f64()),
        }
    }

    fn helper(&self, name: &str, version: &str, place: &Place, now: Instant) -> HelperStatus {
        let process = place.birth.and_then(|birth| self.children.get(birth));
        let pid = process.and_then(|process| process.pid);
        let record = process.and_then(|process| process.record).map(|record| self.scoreboard.record(record));
        let generation = match place.role {
            Role::Zygote(generation) | Role::Helper(_, generation) | Role::Worker(_, generation) => generation.0,
            Role::Log => 0,
        };
        HelperStatus {
            name: name.to_owned(),
            pid: pid.map(|pid| pid.as_raw().unsigned_abs()),
            generation,
            version: version.to_owned(),
            state: place.state.to_owned(),
            note: process.and_then(|process| process.note.clone()),
            last_exit: place.last_exit.clone(),
            connections: record.map_or(0, |record| record.connections()),
            requests: record.map_or(0, |record| record.requests()),
            restarts: place.restarts,
            rss_bytes: pid.and_then(rss_bytes).unwrap_or(0),
            longest_turn_ms: record.map_or(0, |record| record.longest_turn_ms()),
            last_turn_ms: record.and_then(since_the_last_turn),
            uptime_s: place.since.map_or(0.0, |since| (now - since).as_secs_f64()),
        }
    }
}

/// In milliseconds; `None` before the first.
fn since_the_last_turn(record: Record<'_>) -> Option<u64> {
    let beat = record.heartbeat_ms();
    (beat > 0).then(|| monotonic_ms().saturating_sub(beat))
}

/// Whether a debugger holds the process: TracerPid, proc_pid_status(5).
pub(super) fn is_traced(pid: Pid) -> bool {
    let Ok(status) = fs::read_to_string(format!("/proc/{pid}/status")) else { return false };
    status.lines().find_map(|line| line.strip_prefix("TracerPid:")).is_some_and(|tracer| tracer.trim() != "0")
}

/// Resident memory: the second field of /proc/PID/statm, in pages.
pub(super) fn rss_bytes(pid: Pid) -> Option<u64> {
    let statm = fs::read_to_string(format!("/proc/{pid}/statm")).ok()?;
    let pages: u64 = statm.split(' ').nth(1)?.parse().ok()?;
    let page = sysconf(SysconfVar::PAGE_SIZE).ok()??;
    Some(pages * page.unsigned_abs())
}
