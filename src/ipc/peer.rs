//! Who is at the other end of a Unix socket, whether anybody still is, and whether it reads.

use std::io::{self, ErrorKind, Write};
use std::os::fd::AsFd;
use std::time::{Duration, Instant};

use nix::sys::socket::{getsockopt, sockopt::PeerCredentials};
use nix::unistd::geteuid;

/// How often the log hears of those who were turned away.
const TOLD_EVERY: Duration = Duration::from_secs(1);

/// Those who were turned away: a crowd of them costs the log a line a second.
#[derive(Debug, Default)]
pub(crate) struct TurnedAway {
    /// Since that was told last.
    count: u64,
    told: Option<Instant>,
}

impl TurnedAway {
    /// One more.
    pub(crate) fn add(&mut self) {
        self.count += 1;
    }

    /// How many there were since the last line, if there shall be one now.
    pub(crate) fn due(&mut self, now: Instant) -> Option<u64> {
        let is_early = self.told.is_some_and(|told| now.saturating_duration_since(told) < TOLD_EVERY);
        if self.count == 0 || is_early {
            return None;
        }
        self.told = Some(now);
        Some(std::mem::take(&mut self.count))
    }

    /// The end of a line that tells of one, if it stands for so many.
    pub(crate) fn more(count: u64) -> String {
        if count > 1 { format!(" ({count} since the last line)") } else { String::new() }
    }
}

/// Writes until nothing is left, or the socket takes no more for now.
pub(crate) fn write(stream: &mut impl Write, unsent: &mut Vec<u8>) -> io::Result<()> {
    let mut written = 0;
    let end = loop {
        if written == unsent.len() {
            break Ok(());
        }
        match stream.write(&unsent[written..]) {
            Ok(count) => written += count,
            Err(error) if error.kind() == ErrorKind::WouldBlock => break Ok(()),
            Err(error) if error.kind() == ErrorKind::Interrupted => {}
            Err(error) => break Err(error),
        }
    };
    unsent.drain(..written);
    end
}

/// The user at the other end: who has connected, or at a client who has called listen
/// (SO_PEERCRED, unix(7)).
pub(crate) fn uid(socket: &impl AsFd) -> io::Result<u32> {
    Ok(getsockopt(socket, PeerCredentials)?.uid())
}

/// The same, and the process that has connected, or has called listen.
pub(crate) fn who(socket: &impl AsFd) -> io::Result<(u32, i32)> {
    let credentials = getsockopt(socket, PeerCredentials)?;
    Ok((credentials.uid(), credentials.pid()))
}

/// Whether a process of this user is one of the daemon's own: root's, or of this process's user.
pub(crate) fn is_ours(uid: u32) -> bool {
    uid == 0 || uid == geteuid().as_raw()
}

/// Whether the other side has closed the socket: before it read everything, for a reset.
pub(crate) fn is_end(error: &io::Error) -> bool {
    matches!(error.kind(), ErrorKind::BrokenPipe | ErrorKind::ConnectionReset)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_crowd_that_is_turned_away_is_told_once_a_second() {
        let (mut crowd, now) = (TurnedAway::default(), Instant::now());
        assert_eq!(crowd.due(now), None, "nobody");
        crowd.add();
        assert_eq!(crowd.due(now), Some(1));
        (0..5).for_each(|_| crowd.add());
        assert_eq!(crowd.due(now + TOLD_EVERY / 2), None);
        assert_eq!(crowd.due(now + TOLD_EVERY), Some(5));
        assert_eq!(crowd.due(now + 3 * TOLD_EVERY), None);
        assert_eq!((TurnedAway::more(1), TurnedAway::more(5)), (String::new(), " (5 since the last line)".to_owned()));
    }

    /// Takes so many bytes, three at a time.
    struct Narrow(usize);

    impl Write for Narrow {
        fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
            let count = bytes.len().min(3).min(self.0);
            self.0 -= count;
            if count == 0 { Err(ErrorKind::WouldBlock.into()) } else { Ok(count) }
        }

        fn flush(&mut self) -> io::Result<()> {
            Ok(())
        }
    }

    #[test]
    fn what_a_socket_does_not_take_stays() {
        let mut unsent = b"0123456789".to_vec();
        assert!(write(&mut Narrow(7), &mut unsent).is_ok());
        assert_eq!(unsent, b"789");
        assert!(write(&mut Narrow(9), &mut unsent).is_ok() && unsent.is_empty());
    }
}
