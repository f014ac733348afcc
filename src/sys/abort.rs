//! SIGABRT from the master: the stack of a child's loop goes to standard error before it dies.
//!
//! What the handler does is more than a handler may do (it allocates): where that stands still too, the
//! master's SIGKILL comes a second later, and nothing is lost but the stack. Nobody would end a process
//! that abort(3) has stopped halfway, with the allocator's lock perhaps: that one dies at once.

use std::backtrace::Backtrace;
use std::io;
use std::os::fd::AsFd;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};

use nix::libc;
use nix::sys::signal::{SaFlags, SigAction, SigHandler, SigSet, Signal, sigaction};

/// The thread whose stack is of interest.
static LOOP: AtomicUsize = AtomicUsize::new(0);

/// The signal was sent to the process, and passed on to that thread.
static PASSED_ON: AtomicBool = AtomicBool::new(false);

/// From now on SIGABRT shows the stack of this thread.
pub(crate) fn show_this_stack() -> io::Result<()> {
    LOOP.store(this_thread(), Ordering::Relaxed);
    let action = SigAction::new(SigHandler::SigAction(show), SaFlags::SA_SIGINFO, SigSet::empty());
    // SAFETY: what the handler does beyond the async-signal-safe happens in a process that is to
    // die of this signal: a deadlock in it is ended by the master's SIGKILL.
    unsafe { sigaction(Signal::SIGABRT, &action) }?;
    Ok(())
}

extern "C" fn show(_: libc::c_int, info: *mut libc::siginfo_t, _: *mut libc::c_void) {
    let looping = LOOP.load(Ordering::Relaxed);
    // SAFETY: the kernel gives a handler with SA_SIGINFO a valid siginfo_t, sigaction(2).
    let is_from_outside = unsafe { (*info).si_code } == libc::SI_USER;
    if !is_from_outside && !PASSED_ON.load(Ordering::Relaxed) {
        // The end that the signal was raised for.
        let _ = signal_hook::low_level::emulate_default_handler(libc::SIGABRT);
        return;
    }
    // The kernel chooses any thread for a process's signal; pthread_kill(3) has another si_code.
    if looping != this_thread() {
        PASSED_ON.store(true, Ordering::Relaxed);
        // SAFETY: the loop's thread is joined by the main thread, which never detaches or reuses it.
        let passed_on = unsafe { libc::pthread_kill(looping as libc::pthread_t, libc::SIGABRT) };
        if passed_on == 0 {
            return;
        }
    }
    let stack = Backtrace::force_capture().to_string();
    // Below is how any task is run.
    let lines = stack.lines().take_while(|line| !line.contains(" tokio::runtime::task::"));
    let text = std::iter::once("SIGABRT: the stack of this process's loop").chain(lines);
    write_all(text.collect::<Vec<_>>().join("\n").as_bytes());
    write_all(b"\n");
    // The end that the signal was sent for.
    let _ = signal_hook::low_level::emulate_default_handler(libc::SIGABRT);
}

/// Not through std's lock on standard error, which this very thread may hold.
fn write_all(mut text: &[u8]) {
    let stderr = io::stderr();
    while let Ok(written) = nix::unistd::write(stderr.as_fd(), text)
        && written > 0
    {
        text = &text[written..];
    }
}

fn this_thread() -> usize {
    // SAFETY: pthread_self(3) has no conditions.
    unsafe { libc::pthread_self() as usize }
}
