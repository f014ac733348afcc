//! Who is at the other end of a Unix socket, and whether anybody still is.

use std::io::{self, ErrorKind};
use std::os::fd::AsFd;

use nix::sys::socket::{getsockopt, sockopt::PeerCredentials};
use nix::unistd::geteuid;

/// The user at the other end: who has connected, or at a client who has called listen
/// (SO_PEERCRED, unix(7)).
pub(crate) fn uid(socket: &impl AsFd) -> io::Result<u32> {
    Ok(getsockopt(socket, PeerCredentials)?.uid())
}

/// Whether a process of this user is one of the daemon's own: root's, or of this process's user.
pub(crate) fn is_ours(uid: u32) -> bool {
    uid == 0 || uid == geteuid().as_raw()
}

/// Whether the other side has closed the socket: before it read everything, for a reset.
pub(crate) fn is_end(error: &io::Error) -> bool {
    matches!(error.kind(), ErrorKind::BrokenPipe | ErrorKind::ConnectionReset)
}
