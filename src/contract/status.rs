//! The answer to `status`, one object for people and scripts. Fields are added, never changed.

use std::fmt;
use std::path::PathBuf;

use serde::{Deserialize, Serialize};

/// The whole daemon.
#[derive(Debug, Serialize, Deserialize)]
pub(crate) struct Status {
    /// `starting`, `serving`, `reloading`, `degraded` (a slot or a helper is missing), `stopping`.
    pub(crate) state: String,
    /// Of the master.
    pub(crate) pid: u32,
    pub(crate) version: String,
    pub(crate) generation: u32,
    pub(crate) uptime_s: f64,
    /// The path that a reload starts the new generation from: as the daemon itself was started.
    #[serde(default)]
    pub(crate) program: Option<PathBuf>,
    /// The file that the generation which serves was started from, without symlinks.
    #[serde(default)]
    pub(crate) executable: Option<PathBuf>,
    pub(crate) listeners: Vec<ListenerStatus>,
    /// How many reloads were asked for, and how many of them are over.
    #[serde(default)]
    pub(crate) reloads_asked: u64,
    #[serde(default)]
    pub(crate) reloads_finished: u64,
    pub(crate) last_reload: Option<ReloadStatus>,
    pub(crate) workers: Vec<WorkerStatus>,
    pub(crate) helpers: Vec<HelperStatus>,
    #[serde(default)]
    pub(crate) log: Option<LogStatus>,
}

/// One listening socket.
#[derive(Debug, Serialize, Deserialize)]
pub(crate) struct ListenerStatus {
    pub(crate) name: String,
    pub(crate) address: String,
    #[serde(default)]
    pub(crate) tls: bool,
}

/// How the last reload ended.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub(crate) struct ReloadStatus {
    pub(crate) generation: u32,
    /// `committed` or `rolled_back`.
    pub(crate) outcome: String,
    pub(crate) reason: Option<String>,
    /// What the process at fault has logged and printed last.
    #[serde(default)]
    pub(crate) last_lines: Vec<String>,
    pub(crate) took_ms: u64,
}

impl fmt::Display for ReloadStatus {
    /// In one line: `rolled back after 20 ms: worker 0 generation 2: no database`.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match &self.reason {
            None => write!(f, "committed, generation {} after {} ms", self.generation, self.took_ms),
            Some(reason) => {
                let reason = reason.lines().map(str::trim).collect::<Vec<_>>().join("; ");
                write!(f, "rolled back after {} ms: {reason}", self.took_ms)
            }
        }
    }
}

/// One worker process, or a slot that waits for one.
#[derive(Debug, Serialize, Deserialize)]
pub(crate) struct WorkerStatus {
    pub(crate) slot: u16,
    pub(crate) pid: Option<u32>,
    pub(crate) generation: u32,
    /// `waiting`, `booting`, `ready`, `serving`, `draining`.
    pub(crate) state: String,
    /// How the slot's last occupant ended: `killed by SIGKILL`.
    pub(crate) last_exit: Option<String>,
    /// Open now.
    pub(crate) connections: u64,
    /// Answered by this process.
    pub(crate) requests: u64,
    /// Of the slot, since the daemon started.
    pub(crate) restarts: u64,
    pub(crate) rss_bytes: u64,
    /// The longest turn of its loop so far, in milliseconds.
    #[serde(default)]
    pub(crate) longest_turn_ms: u64,
    /// Since the last turn that is known, in milliseconds: a heartbeat comes every eighth of
    /// `timeouts.hang`, a second at most.
    #[serde(default)]
    pub(crate) last_turn_ms: Option<u64>,
    pub(crate) uptime_s: f64,
}

/// One helper process.
#[derive(Debug, Serialize, Deserialize)]
pub(crate) struct HelperStatus {
    pub(crate) name: String,
    pub(crate) pid: Option<u32>,
    pub(crate) generation: u32,
    pub(crate) version: String,
    /// As a worker's; also `stuck`: SIGKILL does not end it, and nobody may take its place.
    pub(crate) state: String,
    /// What the helper says of itself: `auth_revoked`.
    #[serde(default)]
    pub(crate) note: Option<String>,
    pub(crate) last_exit: Option<String>,
    /// Open now, on its socket.
    #[serde(default)]
    pub(crate) connections: u64,
    /// Taken by this process.
    #[serde(default)]
    pub(crate) requests: u64,
    pub(crate) restarts: u64,
    #[serde(default)]
    pub(crate) rss_bytes: u64,
    /// As a worker's.
    #[serde(default)]
    pub(crate) longest_turn_ms: u64,
    #[serde(default)]
    pub(crate) last_turn_ms: Option<u64>,
    pub(crate) uptime_s: f64,
}

/// The log, and what has become of it. `produced` is `refused`, `taken` and what is on its way.
#[derive(Debug, Serialize, Deserialize)]
pub(crate) struct LogStatus {
    /// `ring` or `socket`. Over the socket those records are counted that have come, and those that were dropped
    /// when the line that tells of it has come: what a killed process had in its buffer is nowhere.
    pub(crate) transport: String,
    /// What is logged as the settings have it, in RUST_LOG's syntax.
    pub(crate) level: String,
    /// What is logged beside it for a while.
    pub(crate) raised: Option<RaisedStatus>,
    /// Records, of all processes since the daemon started; lines that they have printed are some.
    pub(crate) produced: u64,
    /// Of these, the ones for which there was no room.
    pub(crate) refused: RefusedStatus,
    /// The ones that the log helper has.
    pub(crate) taken: u64,
    pub(crate) targets: Vec<TargetStatus>,
}

/// A level that was set by command.
#[derive(Debug, Serialize, Deserialize)]
pub(crate) struct RaisedStatus {
    pub(crate) filter: String,
    /// So long it lasts, in seconds.
    pub(crate) left_s: f64,
}

/// Refused records, by level.
#[derive(Debug, Serialize, Deserialize)]
pub(crate) struct RefusedStatus {
    pub(crate) error: u64,
    pub(crate) warn: u64,
    pub(crate) info: u64,
    pub(crate) debug: u64,
    pub(crate) trace: u64,
}

impl RefusedStatus {
    pub(crate) fn total(&self) -> u64 {
        let all = [self.error, self.warn, self.info, self.debug, self.trace];
        all.into_iter().fold(0, u64::saturating_add)
    }
}

/// Where the log goes.
#[derive(Debug, Serialize, Deserialize)]
pub(crate) struct TargetStatus {
    /// A file's path, `syslog /dev/log`.
    pub(crate) name: String,
    /// `console`, `file`, `syslog`, `journald`.
    pub(crate) kind: String,
    /// It takes the access records.
    pub(crate) access: bool,
    /// Records written to it since it is there, and lines that say where some are missing.
    pub(crate) written: u64,
    /// The ones that it did not take in time.
    pub(crate) lost: u64,
    /// Why it takes nothing, or is not the file that it should be.
    pub(crate) trouble: Option<String>,
}
