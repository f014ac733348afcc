//! The locks of the run directory: one master at a time, and how it finds the survivors of the
//! last one.
//!
//! The master holds a record lock (fcntl(2)) on the whole of its file. Every process that a master
//! has made holds one on a byte of the children's file: the byte with the number of its pid. The
//! kernel names the holder to whoever asks, and takes the lock back when the process is gone,
//! however it ended. Such a lock is never inherited, so each process takes its own, and it goes
//! with any descriptor of the file that the process closes.

use std::fs::File;
use std::io;

use nix::errno::Errno;
use nix::fcntl::{FcntlArg, fcntl};
use nix::libc::{F_UNLCK, F_WRLCK, SEEK_SET, flock};
use nix::unistd::Pid;

/// The children's file in the run directory.
pub(crate) const FILE: &str = "children.lock";

/// Takes the whole file for this process, or says which process has a part of it.
///
/// Its id is 0 when it lives in another pid namespace.
pub(crate) fn take(file: &File) -> io::Result<Option<Pid>> {
    loop {
        match fcntl(file, FcntlArg::F_SETLK(&range(0, 0))) {
            Ok(_) => return Ok(None),
            Err(Errno::EACCES | Errno::EAGAIN) => {}
            Err(error) => return Err(error.into()),
        }
        // Nobody: whoever had it is gone meanwhile, and it is free.
        if let Some(holder) = holder(file)? {
            return Ok(Some(holder));
        }
    }
}

/// Takes this process's lock; it holds until `file` is closed.
pub(crate) fn hold(file: &File) -> io::Result<()> {
    fcntl(file, FcntlArg::F_SETLK(&range(i64::from(std::process::id()), 1)))?;
    Ok(())
}

/// Some process other than this one that holds a lock.
///
/// Its id is 0 when it lives in another pid namespace.
pub(crate) fn holder(file: &File) -> io::Result<Option<Pid>> {
    // Length 0: to the end of all files.
    let mut found = range(0, 0);
    fcntl(file, FcntlArg::F_GETLK(&mut found))?;
    Ok((i32::from(found.l_type) != F_UNLCK).then(|| Pid::from_raw(found.l_pid)))
}

fn range(start: i64, len: i64) -> flock {
    flock { l_type: F_WRLCK as i16, l_whence: SEEK_SET as i16, l_start: start, l_len: len, l_pid: 0 }
}
