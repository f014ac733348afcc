//! The children of a master that was killed: found, ended, and proven dead before a new one opens
//! anything.

use std::fs::File;
use std::time::{Duration, Instant};

use nix::unistd::Pid;

use crate::contract::lock;
use crate::error::{Context, Error, Exit};
use crate::sys::process::Stranger;

/// How long a process may take to die of SIGKILL.
const DEATH_LIMIT: Duration = Duration::from_secs(5);

/// Ends whoever holds a lock on the children's lock file.
pub(super) fn end(lock_file: &File) -> Result<(), Error> {
    let deadline = Instant::now() + DEATH_LIMIT;
    while let Some(pid) = find(lock_file)? {
        if pid.as_raw() <= 0 {
            let what = "children of an earlier master live in another pid namespace: end them there";
            return Err(Error::new(Exit::Busy, what));
        }
        let cannot = || format!("cannot end pid {pid}, a child of an earlier master");
        let Some(process) = Stranger::open(pid).or_refused(cannot)? else { continue };
        // Between the question and the pidfd the id may have come to mean another process: only
        // one that still holds the lock is a survivor.
        if find(lock_file)? != Some(pid) {
            continue;
        }
        log::warn!(target: "forebay", "pid {pid} is left of an earlier master: ending it");
        process.kill().or_refused(cannot)?;
        let left = deadline.saturating_duration_since(Instant::now()).as_millis();
        if !process.is_dead_within(u16::try_from(left).unwrap_or(u16::MAX)).or_refused(cannot)? {
            let limit = DEATH_LIMIT.as_secs();
            return Err(Error::new(Exit::Busy, format!("{}: it does not die within {limit} s", cannot())));
        }
    }
    Ok(())
}

fn find(lock_file: &File) -> Result<Option<Pid>, Error> {
    lock::holder(lock_file).or_refused(|| "cannot read the locks of the run directory".to_owned())
}
