//! Frames and messages between processes, without any I/O of their own.
//!
//! Every socket of the project carries frames; what stands in them is the room's own business.
//! `ipc-protocol.md` is the law for those that others may speak.

pub(crate) mod callee;
pub(crate) mod caller;
pub(crate) mod channel;
pub(crate) mod course;
pub(crate) mod envelope;
pub(crate) mod frame;
pub(crate) mod log_record;
pub(crate) mod message;
pub(crate) mod outgoing;
pub(crate) mod peer;
pub(crate) mod spare;
pub(crate) mod text;
pub(crate) mod value;

#[cfg(test)]
mod properties;
#[cfg(test)]
mod vectors;
