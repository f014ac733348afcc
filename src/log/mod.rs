//! The way of a log record: the `log` facade in every process, one writer for all.
//!
//! [`logger`] is what the macros reach; [`sender`] holds what is not yet written to the helper's
//! socket; [`writer`] is the log helper itself. A request never waits for any of it.

pub(crate) mod encoding;
#[cfg(feature = "tracing")]
pub(crate) mod layer;
pub(crate) mod logger;
pub(crate) mod loss;
mod panics;
pub(crate) mod printable;
pub(crate) mod record;
pub(crate) mod request;
pub(crate) mod ring;
mod sender;
mod spout;
pub(crate) mod writer;

pub(crate) use panics::log_panics;
