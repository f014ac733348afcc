//! What the master tells its children and what they tell it: the whole of it, on one page.
//!
//! Each is one frame over the child's own socket pair. A child that ends, or whose socket closes,
//! has said all it will say. Whatever comes from a child is input: the master believes nothing of
//! it that the kernel does not confirm.

use std::path::PathBuf;

use serde::{Deserialize, Serialize};

use super::ids::{Birth, Generation, Role};

/// The version of this page. A zygote says in its manifest which one its release speaks.
pub(crate) const VERSION: u32 = 1;

/// The longest order or report, in bytes.
pub(crate) const ORDER_LEN_MAX: u32 = 64 * 1024;

/// The variable whose presence makes a program a zygote instead of a master.
pub(crate) const ZYGOTE_VARIABLE: &str = "FOREBAY_ZYGOTE";

/// Master to zygote.
#[derive(Debug, Serialize, Deserialize)]
pub(crate) enum ZygoteOrder {
    /// Load the application. With it: the lock file of the children, the configuration.
    Load { generation: Generation, filter: String, log_socket: PathBuf },
    /// Fork a process. With it: the other end of the new child's socket pair.
    Fork { birth: Birth },
}

/// Zygote to master.
#[derive(Debug, Serialize, Deserialize)]
pub(crate) enum ZygoteReport {
    /// The application is loaded.
    Loaded(Manifest),
    /// The application does not want to run; the zygote exits.
    Refused { reason: String },
    /// The process ordered lives, as a child of the master.
    Forked { birth: Birth, pid: i32 },
    /// The process ordered could not be made.
    ForkFailed { birth: Birth, reason: String },
}

/// What a release says of itself when it is loaded.
#[derive(Debug, Serialize, Deserialize)]
pub(crate) struct Manifest {
    /// [`VERSION`] of the release.
    pub(crate) version: u32,
    /// The application's name.
    pub(crate) name: String,
}

/// Master to worker.
#[derive(Debug, Serialize, Deserialize)]
pub(crate) enum WorkerOrder {
    /// The first: who you are. With it, in this order: the lock file of the children, the
    /// scoreboard, a stream for standard output and error, the listeners.
    Begin(Begin),
    /// Take connections.
    Accept,
    /// Take no more, finish what is open, exit.
    Drain,
}

/// A worker's identity and what it executes of the settings.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub(crate) struct Begin {
    pub(crate) role: Role,
    /// This process's record in the scoreboard.
    pub(crate) record: u32,
    /// How long open connections may last once draining, in milliseconds.
    pub(crate) drain_ms: u64,
    /// How long the loop may be silent, in milliseconds.
    pub(crate) hang_ms: u64,
    /// Which log records are worth sending, in RUST_LOG's syntax.
    pub(crate) filter: String,
    /// The log helper's socket.
    pub(crate) log_socket: PathBuf,
}

/// Worker to master.
#[derive(Debug, Serialize, Deserialize)]
pub(crate) enum WorkerReport {
    /// The application's closure returned; connections can come.
    Ready,
    /// The application's closure failed; the worker exits.
    Refused { reason: String },
}

/// Master to log helper.
#[derive(Debug, Serialize, Deserialize)]
pub(crate) enum LogOrder {
    /// Read lines from this stream and log them under this name. With it: the stream.
    Capture { name: String },
    /// Everyone else is gone: write what is left, exit.
    Finish,
}

/// Log helper to master.
#[derive(Debug, Serialize, Deserialize)]
pub(crate) enum LogReport {
    /// It takes records.
    Ready,
}
