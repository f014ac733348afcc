//! What the command line asks of the master over `control.sock`: MessagePack-RPC methods.

use serde::{Deserialize, Serialize};

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
/// `stop`: answers when the stop has begun; the connection closes when the master is gone.
pub(crate) const STOP: &str = "stop";

/// The id of a refusal that answers no request: whoever has connected may not ask.
pub(crate) const NO_REQUEST: u32 = 0;

/// A number of workers.
#[derive(Clone, Copy, Debug, Serialize, Deserialize)]
pub(crate) struct Scale {
    pub(crate) workers: u16,
}

/// The helper to be replaced, by name.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub(crate) struct Restart {
    pub(crate) helper: String,
}

/// A request without arguments, an answer without content.
#[derive(Clone, Copy, Debug, Serialize, Deserialize)]
pub(crate) struct Nothing {}

/// Why a request failed, with the exit code it means for the command.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub(crate) struct Refusal {
    pub(crate) exit: u8,
    pub(crate) reason: String,
}
