//! What one process has logged and the log helper has not yet taken.
//!
//! Bounded: of [`UNSENT_MAX`] bytes three quarters are for records of all levels, and each higher level has
//! a share of the rest for itself, as in a ring. What does not fit is dropped and counted, and the counts
//! are logged as soon as there is room again. Nothing here waits, except [`Sender::finish`].

use std::io::{ErrorKind, Write};
use std::os::unix::net::UnixStream;
use std::path::PathBuf;
use std::time::{Duration, Instant};

use socket2::{Domain, SockAddr, Socket, Type};

use crate::ipc::frame::HEADER_LEN;
use crate::ipc::log_record::LogRecord;
use crate::ipc::message::{self, Hello};
use crate::log::logger::now_us;
use crate::log::loss;
use crate::log::record::Entry;
use crate::log::ring::{LEVELS, index, share};

/// Bytes that may wait.
const UNSENT_MAX: usize = 4 * 1024 * 1024;

/// More than a record has that says what is missing.
const NOTE_LEN_MAX: usize = 512;

/// Bytes that are written without waiting for the end of a turn.
const LARGE: usize = 32 * 1024;

/// How long a helper that could not be reached is left alone.
const RECONNECT: Duration = Duration::from_millis(10);

pub(super) struct Sender {
    socket: PathBuf,
    hello: Vec<u8>,
    stream: Option<UnixStream>,
    not_before: Option<Instant>,
    /// Whole frames; the first may be written in part.
    unsent: Vec<u8>,
    /// Bytes of `unsent` that the kernel has.
    written: usize,
    /// The greeting of this connection, as far as it is not written.
    greeting: Vec<u8>,
    /// How many records there have been, those that were dropped too.
    sequence: u64,
    /// By level.
    dropped: [u64; LEVELS],
}

impl Sender {
    pub(super) fn new(socket: PathBuf, name: &Hello) -> Self {
        let mut hello = Vec::new();
        message::hello(name, &mut hello);
        Self {
            socket,
            hello,
            stream: None,
            not_before: None,
            unsent: Vec::new(),
            written: 0,
            greeting: Vec::new(),
            sequence: 0,
            dropped: [0; LEVELS],
        }
    }

    /// Whether nothing waits.
    pub(super) fn is_idle(&self) -> bool {
        self.unsent.is_empty() && !self.is_lossy()
    }

    /// Whether so much waits that it should go now.
    pub(super) fn is_large(&self) -> bool {
        self.unsent.len() - self.written >= LARGE
    }

    pub(super) fn push(&mut self, entry: &Entry<'_>) {
        self.sequence += 1;
        let note = if self.is_lossy() { NOTE_LEN_MAX } else { 0 };
        let len = note + entry.message.len() + entry.target.len() + entry.fields.bytes().len();
        if self.unsent.len() + len > share(UNSENT_MAX, entry.level) {
            self.dropped[index(entry.level)] += 1;
        } else {
            self.tell_of_the_dropped(entry.time_us);
            message::log(self.sequence, &LogRecord::of(entry), &mut self.unsent);
        }
    }

    fn is_lossy(&self) -> bool {
        self.dropped != [0; LEVELS]
    }

    /// Writes the loss in its place.
    fn tell_of_the_dropped(&mut self, time_us: i64) {
        if !self.is_lossy() {
            return;
        }
        let dropped = std::mem::take(&mut self.dropped);
        // It has the number of nobody: who counts finds the gap in front of the next one.
        loss::tell(dropped, time_us, |entry| message::log(0, &LogRecord::of(entry), &mut self.unsent));
    }

    /// Writes as much as the socket takes now.
    pub(super) fn flush(&mut self) {
        // A helper that was restarted is met in the second round.
        for _ in 0..2 {
            if self.stream.is_none() && !self.connect() {
                return;
            }
            match self.write() {
                Ok(()) if self.is_lossy() => self.tell_of_the_dropped(now_us()),
                Ok(()) => return,
                Err(error) if error.kind() == ErrorKind::WouldBlock => return,
                Err(_) => self.disconnect(),
            }
        }
    }

    /// Waits for the socket until everything is written, at most `limit_ms`; prints the rest.
    pub(super) fn finish(&mut self, limit_ms: u16) {
        let deadline = Instant::now() + Duration::from_millis(u64::from(limit_ms));
        while !self.is_idle() {
            self.flush();
            let left = deadline.saturating_duration_since(Instant::now());
            if self.is_idle() || left.is_zero() {
                break;
            }
            self.wait(left.min(RECONNECT * 2));
        }
        self.print_unsent();
    }

    fn wait(&self, time: Duration) {
        use nix::poll::{PollFd, PollFlags, PollTimeout, poll};
        use std::os::fd::AsFd;

        let timeout = PollTimeout::try_from(time).unwrap_or(PollTimeout::ZERO);
        let mut polled: Vec<PollFd<'_>> =
            self.stream.iter().map(|stream| PollFd::new(stream.as_fd(), PollFlags::POLLOUT)).collect();
        let _ = poll(&mut polled, timeout);
    }

    /// The last resort, for a helper that is gone for good.
    fn print_unsent(&mut self) {
        use crate::ipc::frame::Decoder;

        let mut decoder = Decoder::new(u32::MAX);
        decoder.feed(&self.unsent);
        let mut console = std::io::stderr().lock();
        while let Ok(Some(body)) = decoder.next() {
            if let Ok(message::ToLog::Record(_, record)) = message::to_log(body, true) {
                let _ = writeln!(console, "{}: {}", record.target, record.message.escape_debug());
            }
        }
        self.unsent.clear();
    }

    fn write(&mut self) -> std::io::Result<()> {
        let Some(stream) = &mut self.stream else { return Ok(()) };
        while !self.greeting.is_empty() {
            let count = stream.write(&self.greeting)?;
            self.greeting.drain(..count);
        }
        while self.written < self.unsent.len() {
            match stream.write(&self.unsent[self.written..]) {
                Ok(count) => self.written += count,
                Err(error) => {
                    self.forget_written();
                    return Err(error);
                }
            }
        }
        self.forget_written();
        Ok(())
    }

    /// Drops the frames that are written whole; what stays begins with a frame, so that another
    /// connection can begin with it.
    fn forget_written(&mut self) {
        let mut whole = 0;
        while let Some(header) = self.unsent[whole..].first_chunk::<HEADER_LEN>() {
            let end = whole + HEADER_LEN + u32::from_be_bytes(*header) as usize;
            if end > self.written {
                break;
            }
            whole = end;
        }
        self.unsent.drain(..whole);
        self.written -= whole;
        if self.unsent.is_empty() && self.unsent.capacity() > 2 * LARGE {
            self.unsent = Vec::new();
        }
    }

    fn disconnect(&mut self) {
        self.stream = None;
        self.written = 0;
    }

    /// Connects without waiting: a full backlog counts as a helper that cannot be reached.
    fn connect(&mut self) -> bool {
        if self.not_before.is_some_and(|time| Instant::now() < time) {
            return false;
        }
        let stream = (|| {
            let socket = Socket::new(Domain::UNIX, Type::STREAM.nonblocking(), None)?;
            socket.connect(&SockAddr::unix(&self.socket)?)?;
            Ok::<_, std::io::Error>(UnixStream::from(std::os::fd::OwnedFd::from(socket)))
        })();
        self.not_before = stream.is_err().then(|| Instant::now() + RECONNECT);
        self.stream = stream.ok();
        self.greeting.clone_from(&self.hello);
        self.stream.is_some()
    }
}

#[cfg(test)]
mod tests {
    use std::io::Read;
    use std::os::unix::net::UnixListener;

    use super::*;
    use crate::ipc::frame::Decoder;
    use crate::ipc::message::ToLog;

    fn record(message: &str) -> Entry<'_> {
        Entry { level: log::Level::Info, target: "test", ..loss::entry(message, 1) }
    }

    fn sequences(bytes: &[u8]) -> Vec<u64> {
        let mut decoder = Decoder::new(u32::MAX);
        decoder.feed(bytes);
        let mut seen = Vec::new();
        while let Ok(Some(body)) = decoder.next() {
            if let ToLog::Record(sequence, _) = message::to_log(body, true).expect("ours") {
                seen.push(sequence);
            }
        }
        seen
    }

    #[test]
    fn a_new_helper_gets_the_rest_from_a_whole_frame_on() {
        let directory = tempfile::tempdir().expect("directory");
        let path = directory.path().join("log.sock");
        let listener = UnixListener::bind(&path).expect("bind");
        let mut sender = Sender::new(path.clone(), &Hello::of("test"));
        (0..40).for_each(|_| sender.push(&record(&"x".repeat(32 * 1024))));
        sender.flush();
        assert!(!sender.is_idle(), "more than a socket takes");
        let (mut first, _) = listener.accept().expect("accept");
        let mut before = vec![0; 100_000];
        first.read_exact(&mut before).expect("read");
        sender.flush();
        drop(first);
        sender.flush();
        let (second, _) = listener.accept().expect("accept");
        let reader = std::thread::spawn(move || {
            let mut all = Vec::new();
            (&second).read_to_end(&mut all).expect("read");
            all
        });
        sender.finish(5000);
        drop(sender);
        let after = sequences(&reader.join().expect("reader"));
        let last = *after.last().expect("something");
        assert_eq!(last, 40, "the last record arrives");
        assert_eq!(after, (after[0]..=last).collect::<Vec<_>>(), "whole frames, in order");
    }

    #[test]
    fn what_does_not_fit_is_counted_in_its_place() {
        let directory = tempfile::tempdir().expect("directory");
        let mut sender = Sender::new(directory.path().join("nobody"), &Hello::of("test"));
        let large = "x".repeat(32 * 1024);
        (0..200).for_each(|_| sender.push(&record(&large)));
        assert!(sender.is_lossy() && sender.unsent.len() <= UNSENT_MAX);
        let before = sender.unsent.len();
        sender.push(&Entry { level: log::Level::Error, ..record("there is room for it") });
        assert!(!sender.is_lossy(), "it says what is missing before it");
        let told = &sender.unsent[before..];
        assert_eq!(sequences(told), [0, 201]);
        (0..200).for_each(|_| sender.push(&record(&large)));
        let dropped: u64 = sender.dropped.iter().sum();
        assert_eq!((dropped, sender.dropped[0]), (200, 0));
        sender.unsent.clear();
        sender.push(&record("next"));
        let mut decoder = Decoder::new(u32::MAX);
        decoder.feed(&sender.unsent);
        let mut next = || match message::to_log(decoder.next().expect("frame").expect("whole"), true).expect("ours") {
            ToLog::Record(sequence, record) => (sequence, record),
            ToLog::Hello(_) => panic!("no record"),
        };
        let (_, note) = next();
        assert!(note.message.starts_with(&format!("{dropped} records lost here")), "{}", note.message);
        assert_eq!(loss::told(&note.entry(0)).map(|told| told.iter().sum()), Some(dropped));
        assert_eq!((next().0, sender.is_lossy()), (402, false));
    }
}
