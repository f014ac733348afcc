//! Those who watch the log go by: connections of the control socket that the master has passed on.
//!
//! Nobody waits for one: who does not read misses records, and is told how many.

use std::io::Write;
use std::os::fd::{AsFd, OwnedFd};
use std::os::unix::net::UnixStream;

use env_filter::{Builder, Filter};
use nix::poll::{PollFd, PollFlags, PollTimeout, poll};

use crate::contract::control::{FOLLOWED, Followed, NO_REQUEST, Nothing, Refusal};
use crate::error::Exit;
use crate::ipc::log_record::LogRecord;
use crate::ipc::{message, peer};
use crate::log::record::{Entry, Origin};

/// Followers at once; the next ones are turned away.
const FOLLOWERS_MAX: usize = 16;

/// Bytes that wait for one of them at most.
const UNREAD_MAX: usize = 1024 * 1024;

#[derive(Default)]
pub(super) struct Followers {
    all: Vec<Follower>,
}

struct Follower {
    stream: UnixStream,
    /// Whose it is, as the kernel says.
    uid: u32,
    filter: Filter,
    unread: Vec<u8>,
    /// Whether it has read something of late, and not all.
    is_behind: bool,
    missed: u64,
}

impl Followers {
    pub(super) fn add_one(&mut self, connection: OwnedFd, filter: &str) {
        let mut stream = UnixStream::from(connection);
        self.forget_the_gone();
        if self.all.len() >= FOLLOWERS_MAX {
            let reason = format!("{FOLLOWERS_MAX} follow the log already");
            let mut out = Vec::new();
            message::response(NO_REQUEST, &Err::<Nothing, _>(Refusal::new(Exit::Busy, reason)), &mut out);
            // It fits the socket's buffer, or its reader is gone.
            let _ = stream.write(&out);
            return;
        }
        let Ok(uid) = peer::uid(&stream) else { return };
        if stream.set_nonblocking(true).is_ok() {
            let filter = Builder::new().parse(filter).build();
            self.all.push(Follower { stream, uid, filter, unread: Vec::new(), is_behind: false, missed: 0 });
        }
    }

    /// Closes the connections of everybody else.
    pub(super) fn forget_all_but(&mut self, uids: &[u32]) {
        self.all.retain(|follower| uids.contains(&follower.uid));
    }

    /// Whether some may read more soon. One that does not read at all is looked at when something else happens.
    pub(super) fn are_behind(&self) -> bool {
        self.all.iter().any(|follower| follower.is_behind)
    }

    pub(super) fn add(&mut self, origin: &Origin, entry: &Entry<'_>) {
        self.all.iter_mut().for_each(|follower| follower.add(origin, entry));
    }

    /// Writes what they read without waiting; who is gone is forgotten.
    pub(super) fn write(&mut self) {
        self.all.retain_mut(Follower::write);
    }

    /// Lets go of those that have closed their end.
    pub(super) fn forget_the_gone(&mut self) {
        self.all.retain(|follower| {
            let mut polled = [PollFd::new(follower.stream.as_fd(), PollFlags::empty())];
            // Without being asked it tells of the end alone.
            !poll(&mut polled, PollTimeout::ZERO).is_ok_and(|count| count > 0)
        });
    }
}

impl Follower {
    fn add(&mut self, origin: &Origin, entry: &Entry<'_>) {
        if !entry.is_wanted_by(&self.filter) {
            return;
        }
        if self.unread.len() >= UNREAD_MAX {
            self.missed += 1;
            return;
        }
        let followed = Followed {
            process: origin.name.clone(),
            worker: origin.worker.map(|slot| slot.0),
            generation: origin.generation.map(|generation| generation.0),
            pid: origin.pid,
            sequence: entry.sequence,
            missed: std::mem::take(&mut self.missed),
            record: LogRecord::of(entry),
        };
        // Whatever a record holds has been encoded before.
        let _ = message::notification(FOLLOWED, &followed, &mut self.unread);
    }

    /// Whether it is still there.
    fn write(&mut self) -> bool {
        let before = self.unread.len();
        let is_there = peer::write(&mut self.stream, &mut self.unread).is_ok();
        self.is_behind = !self.unread.is_empty() && self.unread.len() < before;
        is_there
    }
}

#[cfg(test)]
mod tests {
    use std::io::Read;

    use super::*;
    use crate::ipc::frame::Decoder;
    use crate::log::loss;

    /// A follower of everything, and its own end.
    fn follow(followers: &mut Followers, filter: &str) -> UnixStream {
        let (ours, theirs) = UnixStream::pair().expect("pair");
        followers.add_one(ours.into(), filter);
        theirs
    }

    /// Reads what has come on a connection.
    fn read(stream: &mut UnixStream, bytes: &mut Vec<u8>) {
        stream.set_nonblocking(true).expect("a socket");
        // It ends where nothing has come.
        let _ = stream.read_to_end(bytes);
    }

    /// What was told: records, or a refusal.
    fn told(bytes: &[u8]) -> Vec<Result<Followed, Refusal>> {
        let mut decoder = Decoder::new(u32::MAX);
        decoder.feed(bytes);
        let mut all = Vec::new();
        while let Some(body) = decoder.next().expect("frames") {
            all.push(match message::notified::<Followed>(body, FOLLOWED).expect("ours") {
                Some(followed) => Ok(followed),
                None => Err(message::outcome::<Nothing, Refusal>(body).expect("ours").1.expect_err("a refusal")),
            });
        }
        all
    }

    #[test]
    fn who_does_not_read_misses_records_and_is_told_how_many() {
        let mut followers = Followers::default();
        let (mut idle, mut picky) = (follow(&mut followers, "trace"), follow(&mut followers, "error"));
        let large = "x".repeat(64 * 1024);
        for _ in 0..40 {
            followers.add(&Origin::default(), &loss::entry(&large, 1));
            followers.write();
        }
        assert!(!followers.are_behind(), "it reads nothing: nobody looks at it all the time");
        let mut bytes = Vec::new();
        while !followers.all[0].unread.is_empty() {
            read(&mut idle, &mut bytes);
            followers.write();
            assert!(followers.all[0].unread.is_empty() || followers.are_behind());
        }
        followers.add(&Origin::default(), &loss::entry("next", 1));
        followers.write();
        read(&mut idle, &mut bytes);
        let all: Vec<Followed> = told(&bytes).into_iter().map(|told| told.expect("a record")).collect();
        let missed: u64 = all.iter().map(|followed| followed.missed).sum();
        assert_eq!(all.len() as u64 + missed, 41);
        let last = all.last().expect("the next one");
        assert!(last.record.message == "next" && last.missed == missed && missed > 10, "{missed} missed");
        bytes.clear();
        read(&mut picky, &mut bytes);
        assert!(bytes.is_empty());
    }

    #[test]
    fn one_too_many_is_told_why_and_who_is_gone_makes_room() {
        let mut followers = Followers::default();
        let mut all: Vec<UnixStream> = (0..=FOLLOWERS_MAX).map(|_| follow(&mut followers, "trace")).collect();
        let (mut last, mut bytes) = (all.pop().expect("the last"), Vec::new());
        read(&mut last, &mut bytes);
        let refusal = told(&bytes).pop().expect("an answer").expect_err("a refusal");
        assert_eq!(refusal.exit, Exit::Busy as u32);
        all.pop();
        let _next = follow(&mut followers, "trace");
        assert_eq!(followers.all.len(), FOLLOWERS_MAX);
        followers.forget_all_but(&[nix::unistd::geteuid().as_raw()]);
        assert_eq!(followers.all.len(), FOLLOWERS_MAX);
        followers.forget_all_but(&[]);
        assert_eq!(followers.all.len(), 0);
    }
}
