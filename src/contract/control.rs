//! What the command line asks of the master over `control.sock`: MessagePack-RPC methods.

use serde::{Deserialize, Serialize};

use crate::error::Exit;
use crate::ipc::log_record::LogRecord;
use crate::ipc::text;

/// The longest request or answer, in bytes.
pub(crate) const CONTROL_LEN_MAX: u32 = 4 * 1024 * 1024;

/// The socket's name in the run directory.
pub(crate) const SOCKET: &str = "control.sock";

/// `status`: answers with a `Status`.
pub(crate) const STATUS: &str = "status";
/// `scale`: takes a [`Scale`], answers with one that holds the count now wanted.
pub(crate) const SCALE: &str = "scale";
/// `restart`: takes a [`Restart`], answers when it is under way.
pub(crate) const RESTART: &str = "restart";
/// `reload`: takes nothing, answers when a run that began after it is over: with a [`Reloaded`], or why
/// it was rolled back, or not begun. On the way come [`PROGRESS`] notifications.
pub(crate) const RELOAD: &str = "reload";
/// `progress`: how far what was asked for has come, a [`Step`].
pub(crate) const PROGRESS: &str = "progress";
/// `stop`: answers when the stop has begun; the connection closes when the master is gone.
pub(crate) const STOP: &str = "stop";

/// `log_follow`: takes a [`Follow`], answers, and from then on come [`FOLLOWED`] notifications until the
/// connection closes.
pub(crate) const LOG_FOLLOW: &str = "log_follow";
/// `log_record`: a record that the log helper has just taken, a [`Followed`].
pub(crate) const FOLLOWED: &str = "log_record";

/// `log_level`: takes a [`Level`], answers with one that holds the filter now in force.
pub(crate) const LOG_LEVEL: &str = "log_level";
/// `log_reopen`: takes nothing, answers with a [`Reopened`] when the log is written to the files as they were
/// opened anew, or why one was not.
pub(crate) const LOG_REOPEN: &str = "log_reopen";

/// The longest time that a level may last, in milliseconds: a day.
pub(crate) const LEVEL_LASTS_MS_MAX: u64 = 86_400_000;

/// The id of a refusal that answers no request: whoever has connected may not ask, or has broken a rule.
pub(crate) const NO_REQUEST: u32 = 0;

/// A number of workers.
#[derive(Clone, Copy, Debug, Serialize, Deserialize)]
pub(crate) struct Scale {
    pub(crate) workers: u16,
}

/// The helper to be replaced, by name.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub(crate) struct Restart {
    #[serde(deserialize_with = "text::read")]
    pub(crate) helper: String,
}

/// A generation that serves.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub(crate) struct Reloaded {
    pub(crate) generation: u32,
    /// The helpers that kept their processes, with their releases.
    pub(crate) kept: Vec<String>,
    pub(crate) took_ms: u64,
    /// What the configuration says and is not in force, with the reason.
    #[serde(default)]
    pub(crate) notes: Vec<String>,
}

/// One step, in words.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub(crate) struct Step {
    #[serde(deserialize_with = "text::read")]
    pub(crate) text: String,
}

/// Which records to tell.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub(crate) struct Follow {
    /// In RUST_LOG's syntax.
    #[serde(deserialize_with = "text::read")]
    pub(crate) filter: String,
}

/// What is logged beside what the settings want, and for how long.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub(crate) struct Level {
    /// In RUST_LOG's syntax; empty: what the settings want, and no more.
    #[serde(deserialize_with = "text::read")]
    pub(crate) filter: String,
    /// In milliseconds, 1 to [`LEVEL_LASTS_MS_MAX`]; with an empty filter it does not count.
    #[serde(default)]
    pub(crate) for_ms: u64,
}

/// The files that were opened anew.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub(crate) struct Reopened {
    pub(crate) files: Vec<String>,
}

/// A record, and who has said it.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub(crate) struct Followed {
    /// `worker 0 generation 1`; empty: the master.
    #[serde(deserialize_with = "text::read")]
    pub(crate) process: String,
    pub(crate) worker: Option<u16>,
    pub(crate) generation: Option<u32>,
    /// 0: not known.
    pub(crate) pid: i32,
    /// Its number among all that its process has produced; 0: nobody counts.
    pub(crate) sequence: u64,
    /// So many before it were not told, because they were not read in time.
    pub(crate) missed: u64,
    pub(crate) record: LogRecord,
}

/// A request without arguments, an answer without content.
#[derive(Clone, Copy, Debug, Serialize, Deserialize)]
pub(crate) struct Nothing {}

/// Why a request failed, with the exit code it means for the command.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub(crate) struct Refusal {
    pub(crate) exit: u32,
    #[serde(deserialize_with = "text::read")]
    pub(crate) reason: String,
    /// What the process at fault has logged and printed last.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub(crate) last_lines: Vec<String>,
}

impl Refusal {
    pub(crate) fn new(exit: Exit, reason: String) -> Self {
        Self { exit: exit as u32, reason, last_lines: Vec::new() }
    }

    /// Why a connection of this user is closed before it asks.
    pub(crate) fn may_not_ask(uid: u32) -> Self {
        let reason = format!("uid {uid} may not control this daemon: root, its own user and `control_uids` may");
        Self::new(Exit::NoPermission, reason)
    }
}
