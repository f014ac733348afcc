//! What clients may take of a worker, and how long they may take for it.

use serde::{Deserialize, Serialize};

use super::Settings;

/// `[http]`; it travels to workers as it is.
#[derive(Clone, Copy, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(default = "Http::usual")]
pub(crate) struct Http {
    /// Open connections of one worker.
    pub(crate) connections: u64,
    /// Of all workers.
    pub(crate) connections_total: Option<u64>,
    /// Requests at a time in one worker.
    pub(crate) requests: Option<u64>,
    pub(crate) requests_per_connection: Option<u64>,
    /// Requests at a time on a connection of HTTP/2.
    pub(crate) streams: u32,
    /// Bytes of a request's head.
    pub(crate) header_len: u32,
    /// Bytes of a request's body; 0: any number.
    pub(crate) body_len: u64,
    /// Milliseconds for a request's head.
    pub(crate) header_ms: u64,
    /// For its body, and a second more for each KiB.
    pub(crate) body_ms: u64,
    /// For the application to begin its answer.
    pub(crate) request_ms: u64,
    /// For a client to take something of what waits for it.
    pub(crate) send_ms: u64,
    /// For the next request.
    pub(crate) keepalive_ms: u64,
}

impl Http {
    /// The defaults, for a master that knows none of this.
    pub(crate) fn usual() -> Self {
        Settings::new().http
    }
}
