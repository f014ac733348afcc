//! Going to the background, as daemon(7) asks of a SysV daemon: a session of its own, the root
//! directory, a known umask, no terminal; and whoever started it waits until it serves.

use std::fs::File;
use std::io::{self, PipeReader, PipeWriter, Read, Write};
use std::os::fd::{AsFd, OwnedFd};
use std::rc::Rc;

use nix::sys::stat::{Mode, umask};
use nix::sys::wait::waitpid;
use nix::unistd::{chdir, setsid};

use crate::error::{Context, Error, Exit};
use crate::sys::process::{self, Forked};
use crate::sys::{descriptors, signals};

/// Which process this is after [`detach`].
pub(crate) enum Side {
    /// The one that was started: it ends like this.
    Starter(Exit),
    Daemon(Daemon),
}

/// The process in the background.
#[derive(Clone)]
pub(crate) struct Daemon {
    starter: Rc<PipeWriter>,
    /// The umask it was started with.
    pub(crate) umask: Mode,
}

/// Forks. In the process that was started it returns when the daemon serves or has failed.
pub(crate) fn detach() -> Result<Side, Error> {
    let cannot = || "cannot go to the background".to_owned();
    let (reader, writer) = io::pipe().or_refused(cannot)?;
    if let Forked::Parent(between) = process::fork_self().or_refused(cannot)? {
        drop(writer);
        waitpid(between, None).or_refused(cannot)?;
        // Ctrl-C ends the wait, not the daemon.
        signals::unblock_all().or_refused(cannot)?;
        return Ok(Side::Starter(wait(reader)));
    }
    drop(reader);
    // What this process was started with is nothing of ours.
    descriptors::close_all_but(&[writer.as_fd()]);
    setsid().or_refused(cannot)?;
    // Not the session's leader any more: it never gets a terminal by opening one.
    if let Forked::Parent(_) = process::fork_self().or_refused(cannot)? {
        process::exit_now(0);
    }
    chdir("/").or_refused(cannot)?;
    let umask = umask(Mode::empty());
    descriptors::install(null().or_refused(cannot)?.as_fd(), 0).or_refused(cannot)?;
    Ok(Side::Daemon(Daemon { starter: Rc::new(writer), umask }))
}

/// What the daemon says, or that it ended without a word.
fn wait(mut reader: PipeReader) -> Exit {
    let mut word = [0];
    match reader.read_exact(&mut word) {
        Ok(()) => Exit::from_code(word[0]),
        Err(_) => {
            // A closed terminal is no reason for another end.
            let _ = writeln!(io::stderr(), "the daemon was killed before it served");
            Exit::Failed
        }
    }
}

impl Daemon {
    /// It serves: lets the terminal go, then the starter. What the log's console is from now on: a
    /// file that standard error was led to stays, a terminal or a pipe does not.
    pub(crate) fn serving(&self) -> io::Result<OwnedFd> {
        let null = null()?;
        let console = File::from(io::stderr().as_fd().try_clone_to_owned()?);
        let console = if console.metadata()?.is_file() { console.into() } else { null.try_clone()? };
        for standard in [1, 2] {
            descriptors::install(null.as_fd(), standard)?;
        }
        self.tell(Exit::Done);
        Ok(console)
    }

    /// It ends; the first word counts, and whoever waits no more hears none.
    pub(crate) fn tell(&self, exit: Exit) {
        let _ = (&*self.starter).write_all(&[exit as u8]);
    }
}

fn null() -> io::Result<OwnedFd> {
    Ok(File::options().read(true).write(true).open("/dev/null")?.into())
}
