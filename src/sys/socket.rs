//! What neither nix nor socket2 wraps of sockets.

use std::io;
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, FromRawFd, OwnedFd};

use libc::{c_int, socklen_t};
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

/// TCP_DEFER_ACCEPT, in seconds: tcp(7). 0: off.
pub(crate) fn set_defer_accept(socket: &impl AsFd, seconds: u16) -> io::Result<()> {
    set_tcp(socket, libc::TCP_DEFER_ACCEPT, seconds)
}

/// TCP_FASTOPEN of a socket that listens, the length of its queue. 0: off.
pub(crate) fn set_fastopen(socket: &impl AsFd, queue_len: u16) -> io::Result<()> {
    set_tcp(socket, libc::TCP_FASTOPEN, queue_len)
}

fn set_tcp(socket: &impl AsFd, option: c_int, value: u16) -> io::Result<()> {
    let value = c_int::from(value);
    let len = size_of::<c_int>() as socklen_t;
    let descriptor = socket.as_fd().as_raw_fd();
    // SAFETY: `value` is an int of `len` bytes that lives until the call has returned, which only reads it.
    match unsafe { libc::setsockopt(descriptor, libc::IPPROTO_TCP, option, (&raw const value).cast(), len) } {
        -1 => Err(io::Error::last_os_error()),
        _ => Ok(()),
    }
}
