//! Signal masks and dispositions.
//!
//! All signals are blocked from the first line of `main`, across every fork and exec, until the
//! new process has its own dispositions: no signal meets a process that is not ready for it.

use std::io;

use nix::sys::signal::{SaFlags, SigAction, SigHandler, SigSet, SigmaskHow, Signal, sigaction, sigprocmask};

/// What reaches a whole process group or everyone of our name, and is for the master alone.
pub(crate) const FOR_THE_MASTER: [Signal; 7] = [
    Signal::SIGHUP,
    Signal::SIGINT,
    Signal::SIGQUIT,
    Signal::SIGUSR1,
    Signal::SIGUSR2,
    Signal::SIGTTIN,
    Signal::SIGTTOU,
];

/// Blocks every signal in this thread, and so in the processes and threads it makes.
pub(crate) fn block_all() -> io::Result<()> {
    Ok(sigprocmask(SigmaskHow::SIG_SETMASK, Some(&SigSet::all()), None)?)
}

/// Makes a thread that no signal of the process reaches: `start` runs with all of them blocked, and its threads
/// inherit that.
pub(crate) fn start_without_signals<T>(start: impl FnOnce() -> io::Result<T>) -> io::Result<T> {
    let before = SigSet::all().thread_swap_mask(SigmaskHow::SIG_SETMASK)?;
    let started = start();
    before.thread_set_mask()?;
    started
}

/// Lets every signal through again: those that waited arrive at once.
pub(crate) fn unblock_all() -> io::Result<()> {
    Ok(sigprocmask(SigmaskHow::SIG_SETMASK, Some(&SigSet::empty()), None)?)
}

/// Ignores what is meant for the master, and TERM too where `term` says so; else that ends the process.
pub(crate) fn leave_to_the_master(term: bool) -> io::Result<()> {
    for signal in FOR_THE_MASTER {
        set(signal, SigHandler::SigIgn)?;
    }
    set(Signal::SIGTERM, if term { SigHandler::SigIgn } else { SigHandler::SigDfl })
}

/// A file that has reached the limit of its size (setrlimit(2)) is an error of write(2) and no death.
pub(crate) fn survive_large_files() -> io::Result<()> {
    set(Signal::SIGXFSZ, SigHandler::SigIgn)
}

/// Gives back the kernel's disposition, as after exec: for a child forked from a process with
/// handlers of its own.
pub(crate) fn forget_handlers() -> io::Result<()> {
    for signal in Signal::iterator() {
        if !matches!(signal, Signal::SIGKILL | Signal::SIGSTOP | Signal::SIGPIPE) {
            set(signal, SigHandler::SigDfl)?;
        }
    }
    Ok(())
}

fn set(signal: Signal, handler: SigHandler) -> io::Result<()> {
    let action = SigAction::new(handler, SaFlags::empty(), SigSet::empty());
    // SAFETY: SIG_IGN and SIG_DFL run no code of ours.
    unsafe { sigaction(signal, &action) }?;
    Ok(())
}
