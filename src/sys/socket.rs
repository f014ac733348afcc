//! What neither nix nor socket2 wraps of sockets.

use std::io;
use std::os::fd::{AsRawFd, BorrowedFd, FromRawFd, OwnedFd};

use socket2::SockAddr;

/// Takes the next connection, which does not block and does not survive an exec, with its peer's address: by one
/// system call, accept4(2).
pub(crate) fn accept(listener: BorrowedFd<'_>) -> io::Result<(OwnedFd, SockAddr)> {
    let flags = libc::SOCK_NONBLOCK | libc::SOCK_CLOEXEC;
    // SAFETY: the storage is as large as the length says, and the kernel writes both; a descriptor that is
    // returned is new, and nobody else's.
    unsafe {
        SockAddr::try_init(|storage, len| match libc::accept4(listener.as_raw_fd(), storage.cast(), len, flags) {
            -1 => Err(io::Error::last_os_error()),
            descriptor => Ok(OwnedFd::from_raw_fd(descriptor)),
        })
    }
}
