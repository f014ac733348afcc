//! Bytes to a descriptor: the console, or a file.
//!
//! Of a file it is known how far it was written, by its length: a log helper that was killed after it had
//! written and before it noted that writes nothing twice.

use std::collections::VecDeque;
use std::fs::File;
use std::io::{self, ErrorKind, IoSlice};
use std::os::fd::{AsFd, BorrowedFd};
use std::time::{Duration, Instant};

use nix::errno::Errno;
use nix::sys::stat::{SFlag, fstat};
use nix::sys::uio::writev;

use super::datagram::PATIENCE;
use super::ledger::{Ledger, OfTarget, Place};
use super::pending::Pending;
use crate::sys::descriptors::takes_a_line;

/// Bytes that a pipe takes without blocking once poll(2) says it is writable: PIPE_BUF, pipe(7).
const ATOMIC_LEN: usize = 4096;

/// Lines of so long are written once more into a file that was truncated by somebody: so long may it take
/// from the end of a copy to the truncation, and from there until it is noticed. They are still in memory, half a MiB
/// of them at least.
const RECENT: Duration = Duration::from_millis(1100);

/// How exactly it is known when they were written.
const RECENT_STEP: Duration = Duration::from_millis(10);

pub(super) struct Stream {
    slot: usize,
    output: Output,
    /// What its length minus the position is, if it is a regular file.
    origin: Option<i64>,
    /// From when on what was written from which position on.
    recent: VecDeque<(Instant, u64)>,
    /// Since when it takes nothing, though it does not fail.
    blocked_since: Option<Instant>,
}

enum Output {
    /// Standard error, which may become another one.
    Console(io::Stderr),
    File(File),
}

impl AsFd for Output {
    fn as_fd(&self) -> BorrowedFd<'_> {
        match self {
            Self::Console(console) => console.as_fd(),
            Self::File(file) => file.as_fd(),
        }
    }
}

/// How far a write has come.
#[derive(Debug)]
pub(super) enum Written {
    All,
    /// It takes no more now.
    Later,
    /// Nobody reads any more: so many records are thrown away.
    Closed(u64, io::Error),
    Failed(io::Error),
}

impl Stream {
    /// Goes on where the last log helper stopped, if it is the file that it wrote to.
    pub(super) fn resume(file: Option<File>, pending: &mut Pending, slot: usize, ledger: &mut Ledger) -> Self {
        let output = file.map_or_else(|| Output::Console(io::stderr()), Output::File);
        let mut stream = Self { slot, output, origin: None, recent: VecDeque::new(), blocked_since: None };
        let read = |word| ledger.read(Place::of_target(slot, word));
        let (origin, inode) = (read(OfTarget::Origin).cast_signed(), read(OfTarget::Inode));
        if let Some((len, _)) = stream.regular().filter(|&(_, of)| of == inode) {
            let (done, end) = pending.positions();
            let reached = u64::try_from(len - origin).unwrap_or_default();
            if (done..=end).contains(&reached) {
                pending.advance((reached - done) as usize, ledger);
            }
        }
        stream.begin(pending, ledger);
        stream
    }

    /// From now on this file, at its end.
    pub(super) fn switch(&mut self, file: File, pending: &Pending, ledger: &mut Ledger) {
        self.output = Output::File(file);
        self.recent.clear();
        self.begin(pending, ledger);
    }

    /// For standard error that has become another one.
    pub(super) fn begin(&mut self, pending: &Pending, ledger: &mut Ledger) {
        let found = self.regular();
        self.origin = found.map(|(len, _)| len - pending.positions().0.cast_signed());
        let (origin, inode) = (self.origin.unwrap_or_default(), found.map_or(0, |(_, inode)| inode));
        ledger.stage(Place::of_target(self.slot, OfTarget::Origin), origin.cast_unsigned());
        ledger.stage(Place::of_target(self.slot, OfTarget::Inode), inode);
        ledger.commit();
    }

    /// Another descriptor of the file, to force what was written to the disk.
    pub(super) fn file(&self) -> Option<&File> {
        match &self.output {
            Output::Console(_) => None,
            Output::File(file) => Some(file),
        }
    }

    /// Writes what it takes without blocking.
    pub(super) fn write(&mut self, pending: &mut Pending, ledger: &mut Ledger) -> Written {
        // It may be truncated when nothing else is to be written.
        if self.is_watched() || !pending.is_empty() {
            self.look_for_truncation(pending, ledger);
        }
        while !pending.is_empty() {
            if !self.is_writable() {
                return self.blocked();
            }
            let (first, second) = pending.pieces();
            let written = match &self.output {
                Output::File(file) => writev(file, &[IoSlice::new(first), IoSlice::new(second)]),
                Output::Console(console) => nix::unistd::write(console, &first[..first.len().min(ATOMIC_LEN)]),
            };
            match written {
                Ok(count) => {
                    self.blocked_since = None;
                    self.remember(pending.positions().0);
                    pending.advance(count, ledger);
                }
                Err(Errno::EINTR) => {}
                Err(Errno::EAGAIN) => return self.blocked(),
                // `| head`, a closed terminal: the service goes on.
                Err(error @ (Errno::EPIPE | Errno::EIO | Errno::EBADF)) if self.file().is_none() => {
                    let lost = pending.lines();
                    pending.advance(pending.len(), ledger);
                    return Written::Closed(lost, error.into());
                }
                Err(error) => return Written::Failed(error.into()),
            }
        }
        Written::All
    }

    /// Whether it is a file that somebody may truncate who has missed the last lines.
    pub(super) fn is_watched(&self) -> bool {
        self.origin.is_some() && self.recent.back().is_some_and(|(since, _)| since.elapsed() <= RECENT)
    }

    /// How long the file is, if it is a regular one, as far as it is written from here.
    pub(super) fn len(&self, pending: &Pending) -> Option<u64> {
        self.origin.map(|origin| (origin + pending.positions().0.cast_signed()).max(0).cast_unsigned())
    }

    /// The length and the number of a regular file.
    fn regular(&self) -> Option<(i64, u64)> {
        let found = fstat(&self.output).ok()?;
        let is_regular = SFlag::from_bits_truncate(found.st_mode) & SFlag::S_IFMT == SFlag::S_IFREG;
        is_regular.then_some((found.st_size, found.st_ino))
    }

    /// A console may be a terminal that was stopped, or a pipe that nobody empties.
    fn is_writable(&self) -> bool {
        matches!(self.output, Output::File(_)) || takes_a_line(self.output.as_fd())
    }

    /// It takes nothing now; after a while that is trouble like any other.
    fn blocked(&mut self) -> Written {
        let since = *self.blocked_since.get_or_insert_with(Instant::now);
        if since.elapsed() < PATIENCE {
            return Written::Later;
        }
        Written::Failed(io::Error::new(ErrorKind::TimedOut, "nobody reads there"))
    }

    /// Whoever copies the file and then truncates it has missed what was written in between: that comes
    /// once more, in whole records, and nothing of one that was cut.
    fn look_for_truncation(&mut self, pending: &mut Pending, ledger: &mut Ledger) {
        let (Some(origin), Output::File(_)) = (self.origin, &self.output) else { return };
        let position = pending.positions().0;
        if self.regular().is_none_or(|(len, _)| len >= origin + position.cast_signed()) {
            return;
        }
        let since = self.recent.iter().find(|(until, _)| until.elapsed() <= RECENT).map_or(position, |(_, from)| *from);
        pending.go_to_a_record(since, ledger);
        self.begin(pending, ledger);
    }

    /// What comes now begins at this position.
    fn remember(&mut self, position: u64) {
        let now = Instant::now();
        if self.recent.back().is_none_or(|(since, _)| now - *since > RECENT_STEP) {
            self.recent.push_back((now, position));
        }
        while self.recent.front().is_some_and(|(since, _)| now - *since > RECENT) {
            self.recent.pop_front();
        }
    }
}

#[cfg(test)]
mod tests {
    use std::fs;
    use std::io::Write;

    use super::*;
    use crate::log::writer::pending;
    use crate::sys::memory::HeldBytes;

    struct Kit {
        ledger: Ledger,
        memory: std::os::fd::OwnedFd,
        directory: tempfile::TempDir,
    }

    impl Kit {
        fn new() -> Self {
            let memory = HeldBytes::make("test", pending::LEN).expect("memory");
            Self { ledger: Ledger::create().expect("ledger"), memory, directory: tempfile::tempdir().expect("place") }
        }

        fn open(&self, name: &str) -> File {
            let path = self.directory.path().join(name);
            File::options().append(true).create(true).open(path).expect("open")
        }

        fn start(&mut self, name: &str) -> (Pending, Stream) {
            let memory = self.memory.try_clone().expect("dup");
            let mut pending = Pending::take(memory, 0, &self.ledger).expect("take");
            let file = self.open(name);
            let stream = Stream::resume(Some(file), &mut pending, 0, &mut self.ledger);
            (pending, stream)
        }

        fn add(&mut self, pending: &mut Pending, text: &str) {
            pending.stage().extend_from_slice(text.as_bytes());
            pending.settle(&mut self.ledger);
            self.ledger.commit();
        }

        fn write(&mut self, pending: &mut Pending, stream: &mut Stream) {
            assert!(matches!(stream.write(pending, &mut self.ledger), Written::All));
        }

        fn read(&self, name: &str) -> String {
            fs::read_to_string(self.directory.path().join(name)).expect("read")
        }
    }

    #[test]
    fn what_was_written_and_not_noted_is_written_once() {
        let mut kit = Kit::new();
        let (mut pending, mut stream) = kit.start("log");
        kit.add(&mut pending, "first\n");
        kit.write(&mut pending, &mut stream);
        kit.add(&mut pending, "second\nthird\n");
        // Killed when the kernel has taken a part.
        stream.file().expect("a file").write_all(b"second\nth").expect("write");
        drop((pending, stream));
        let (mut pending, mut stream) = kit.start("log");
        kit.write(&mut pending, &mut stream);
        assert_eq!(kit.read("log"), "first\nsecond\nthird\n");
    }

    #[test]
    fn into_another_file_goes_what_is_left() {
        let mut kit = Kit::new();
        let (mut pending, mut stream) = kit.start("log");
        kit.add(&mut pending, "first\n");
        kit.write(&mut pending, &mut stream);
        kit.add(&mut pending, "second\n");
        drop((pending, stream));
        let (mut pending, mut stream) = kit.start("other");
        kit.write(&mut pending, &mut stream);
        let next = kit.open("next");
        stream.switch(next, &pending, &mut kit.ledger);
        kit.add(&mut pending, "third\n");
        kit.write(&mut pending, &mut stream);
        assert_eq!([kit.read("log"), kit.read("other"), kit.read("next")], ["first\n", "second\n", "third\n"]);
    }

    #[test]
    fn a_truncated_file_gets_the_last_lines_once_more() {
        let mut kit = Kit::new();
        let (mut pending, mut stream) = kit.start("log");
        kit.add(&mut pending, "first\n");
        kit.write(&mut pending, &mut stream);
        File::options().write(true).open(kit.directory.path().join("log")).expect("open").set_len(0).expect("truncate");
        kit.add(&mut pending, "second\n");
        kit.write(&mut pending, &mut stream);
        kit.add(&mut pending, "third\n");
        kit.write(&mut pending, &mut stream);
        assert_eq!(kit.read("log"), "first\nsecond\nthird\n");
    }

    #[test]
    fn what_is_left_of_a_record_that_was_cut_is_not_written() {
        let mut kit = Kit::new();
        let (mut pending, mut stream) = kit.start("log");
        kit.add(&mut pending, "first\n    and more\nsecond\n");
        // Of which the disk had room for a part, a good while ago.
        stream.file().expect("a file").write_all(b"first\n    and").expect("write");
        pending.advance("first\n    and".len(), &kit.ledger);
        File::options().write(true).open(kit.directory.path().join("log")).expect("open").set_len(0).expect("truncate");
        kit.write(&mut pending, &mut stream);
        assert_eq!(kit.read("log"), "second\n");
    }
}
