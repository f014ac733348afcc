//! The descriptors of this process: which are open, and which of them stay.

use std::fs::{self, File};
use std::io;
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, FromRawFd, OwnedFd, RawFd};

use nix::fcntl::{FcntlArg, FdFlag, fcntl};
use nix::poll::{PollFd, PollFlags, PollTimeout, poll};

/// Standard input, output and error: never closed here.
const STANDARD: RawFd = 2;

/// An open descriptor and what it refers to (`socket:[4711]`, `/var/lib/big.bin`).
#[derive(Debug, PartialEq, Eq)]
pub(crate) struct Open {
    pub(crate) number: RawFd,
    pub(crate) target: String,
}

/// All descriptors of this process above standard error, in order.
pub(crate) fn list() -> io::Result<Vec<Open>> {
    let mut open: Vec<Open> = fs::read_dir("/proc/self/fd")?
        .filter_map(|entry| {
            let entry = entry.ok()?;
            let number = entry.file_name().to_str()?.parse().ok()?;
            // The directory being read is itself gone when its target is asked for.
            let target = fs::read_link(entry.path()).ok()?;
            Some(Open { number, target: target.to_string_lossy().into_owned() })
        })
        .filter(|open| open.number > STANDARD && !open.target.ends_with("/fd"))
        .collect();
    open.sort_by_key(|open| open.number);
    Ok(open)
}

/// Closes every descriptor above standard error but `keep`.
///
/// For a process that was forked and shall have exactly what it is given. The caller forgets
/// (never drops) the objects that own the others.
pub(crate) fn close_all_but(keep: &[BorrowedFd<'_>]) {
    let mut keep: Vec<RawFd> = keep.iter().map(AsRawFd::as_raw_fd).collect();
    keep.sort_unstable();
    let mut first = STANDARD + 1;
    for kept in keep {
        if kept > first {
            close_range(first, kept - 1);
        }
        first = first.max(kept + 1);
    }
    close_range(first, RawFd::MAX);
}

fn close_range(first: RawFd, last: RawFd) {
    // SAFETY: closing descriptors touches no memory; the owners of those closed here are never
    // used again, which is the contract of `close_all_but`. Kernels since 5.9 have the call.
    unsafe {
        libc::syscall(libc::SYS_close_range, first, last, 0);
    }
}

/// Lets exec close every descriptor above standard error, also those that this process was itself
/// started with (a shell's, a supervisor's). Async-signal-safe.
pub(crate) fn close_on_exec() {
    let first = STANDARD + 1;
    // SAFETY: changes a flag of descriptors and touches no memory. Kernels since 5.11 know it.
    unsafe {
        libc::syscall(libc::SYS_close_range, first, RawFd::MAX, libc::CLOSE_RANGE_CLOEXEC);
    }
}

/// Makes `from` the descriptor `number` of this process, open across exec if `number` is a
/// standard one.
pub(crate) fn install(from: BorrowedFd<'_>, number: RawFd) -> io::Result<()> {
    // SAFETY: dup2 touches no memory. What was open under `number` is closed: callers use it for
    // standard streams, which no object owns, or right before exec.
    match unsafe { libc::dup2(from.as_raw_fd(), number) } {
        -1 => Err(io::Error::last_os_error()),
        _ => Ok(()),
    }
}

/// The first descriptor that a program is given by sd_listen_fds(3).
const LISTEN_FDS_START: RawFd = STANDARD + 1;

/// Prepares exec: the program has `listener` as descriptor 3 and `kept` somewhere above it, and nothing
/// else above standard error. What had the number 3 is gone, so this is for a process that does nothing
/// else any more.
pub(crate) fn pass_on(listener: OwnedFd, kept: File) -> io::Result<File> {
    close_on_exec();
    let above = |descriptor: BorrowedFd<'_>| fcntl(descriptor, FcntlArg::F_DUPFD(LISTEN_FDS_START + 1));
    // SAFETY: fcntl has just made it, and nothing else in this process knows it.
    let owned = |number: RawFd| unsafe { OwnedFd::from_raw_fd(number) };
    let raised = (owned(above(listener.as_fd())?), owned(above(kept.as_fd())?));
    // Before the number is given anew: one of them may have it.
    drop((listener, kept));
    let (listener, kept) = raised;
    install(listener.as_fd(), LISTEN_FDS_START)?;
    Ok(File::from(kept))
}

/// Takes possession of a descriptor that this process was started with.
///
/// Refused unless it is open; the caller says by its number what the contract with the parent is.
pub(crate) fn inherited(number: RawFd) -> io::Result<OwnedFd> {
    // SAFETY: only looked at until fcntl has shown that it is open.
    let borrowed = unsafe { BorrowedFd::borrow_raw(number) };
    fcntl(borrowed.as_fd(), FcntlArg::F_SETFD(FdFlag::FD_CLOEXEC))?;
    // SAFETY: it is open, was put there by the parent for this use, and nothing else in this
    // process owns it: this runs once, first thing.
    Ok(unsafe { OwnedFd::from_raw_fd(number) })
}

/// Whether a line can be written to this console, or pipe, without blocking.
pub(crate) fn takes_a_line(console: BorrowedFd<'_>) -> bool {
    let mut polled = [PollFd::new(console, PollFlags::POLLOUT)];
    poll(&mut polled, PollTimeout::ZERO).is_ok_and(|count| count > 0)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn lists_what_is_open() {
        let file = fs::File::open("/dev/null").expect("/dev/null");
        let open = list().expect("list");
        let entry = open.iter().find(|open| open.number == file.as_raw_fd()).expect("listed");
        assert_eq!(entry.target, "/dev/null");
    }
}
