//! Signals as events of the loop. The handlers only wake it.

use std::io;

use mio::{Interest, Registry, Token};
use signal_hook::consts::{SIGCHLD, SIGHUP, SIGINT, SIGQUIT, SIGTERM, SIGTTIN, SIGTTOU, SIGUSR1, SIGUSR2};
use signal_hook_mio::v1_0::Signals;

/// What a signal asks of the master.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Wish {
    /// A child has changed.
    Reap,
    Stop,
    Quit,
    OneMore,
    OneFewer,
    Reload,
    /// The files of the log.
    Reopen,
    /// Asked for by this name, and not served by this release.
    NotServed(&'static str),
}

/// The handlers, from now until the end.
pub(super) fn handle(registry: &Registry, token: Token) -> io::Result<Signals> {
    let mut signals = Signals::new([SIGCHLD, SIGHUP, SIGINT, SIGQUIT, SIGTERM, SIGTTIN, SIGTTOU, SIGUSR1, SIGUSR2])?;
    registry.register(&mut signals, token, Interest::READABLE)?;
    // What was sent since the start of the program arrives now.
    crate::sys::signals::unblock_all()?;
    Ok(signals)
}

/// What a signal means here.
pub(super) fn wish(signal: i32) -> Option<Wish> {
    Some(match signal {
        SIGCHLD => Wish::Reap,
        SIGTERM | SIGINT => Wish::Stop,
        SIGQUIT => Wish::Quit,
        SIGTTIN => Wish::OneMore,
        SIGTTOU => Wish::OneFewer,
        SIGHUP => Wish::Reload,
        SIGUSR1 => Wish::Reopen,
        SIGUSR2 => Wish::NotServed("SIGUSR2: replacing the master"),
        _ => return None,
    })
}
