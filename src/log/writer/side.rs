//! What may take long: forcing files to the disk, and compressing old ones, in a thread beside the loop.
//!
//! It gets descriptors and gives outcomes, and never names a file. Who waits to be forced to the disk goes before what
//! is compressed, in the midst of a file too. Nobody waits for its end: a file that is half compressed then is made
//! anew by the next daemon.

use std::collections::VecDeque;
use std::fs::File;
use std::io::{self, Read, Write};
use std::mem::take;
use std::os::fd::OwnedFd;
use std::os::unix::fs::MetadataExt;
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};
use std::thread;

use flate2::write::GzEncoder;
use mio::Waker;

use crate::sys::{process, signals};

/// Orders of each kind that may wait.
const WAITING_MAX: usize = 64;

/// Bytes read at once from what is compressed.
const BUFFER_LEN: usize = 64 * 1024;

/// The loop's end of it.
pub(super) struct Side {
    shared: Arc<Shared>,
}

/// What came of an order.
#[derive(Debug, PartialEq)]
pub(super) enum Done {
    Compressed {
        id: u64,
        outcome: Result<(), String>,
    },
    /// All that was written to the file before the order is on the disk.
    Synced {
        number: u64,
        outcome: Result<(), String>,
    },
}

struct Shared {
    desk: Mutex<Desk>,
    /// There is something on the desk, or the end has come.
    is_wanted: Condvar,
    /// Of the loop.
    waker: Waker,
}

/// What waits, and what is done.
#[derive(Default)]
struct Desk {
    syncs: VecDeque<Sync>,
    compressions: VecDeque<Compression>,
    done: Vec<Done>,
    /// Whether the thread was made.
    has_begun: bool,
    /// Whether a file is being forced to the disk.
    is_syncing: bool,
    is_ended: bool,
}

struct Sync {
    number: u64,
    /// Its device and its number there.
    identity: Option<(u64, u64)>,
    file: File,
}

struct Compression {
    id: u64,
    from: File,
    to: File,
}

enum Job {
    Sync(Sync),
    Compress(Compression),
}

impl Side {
    /// `waker` tells the loop that there are outcomes. The thread comes with the first order: most log helpers
    /// have none, and one that cannot be had when threads are short is not needed then.
    pub(super) fn new(waker: Waker) -> Self {
        Self { shared: Arc::new(Shared { desk: Mutex::default(), is_wanted: Condvar::new(), waker }) }
    }

    fn start(&self) -> io::Result<()> {
        let theirs = Arc::clone(&self.shared);
        // Whoever asks by a signal what the process does means the loop.
        signals::start_without_signals(|| {
            thread::Builder::new().name("side".to_owned()).spawn(move || {
                process::let_all_others_first();
                theirs.work();
            })
        })
        .map(drop)
    }

    /// Compresses one file into another, which is on the disk when it is done.
    pub(super) fn compress(&self, id: u64, from: OwnedFd, to: OwnedFd) {
        self.order(|desk| desk.compress(Compression { id, from: from.into(), to: to.into() }));
    }

    /// Forces to the disk what was written to this file, fdatasync(2); of one that already waits once.
    pub(super) fn sync(&self, number: u64, file: OwnedFd) {
        let file = File::from(file);
        let identity = file.metadata().ok().map(|found| (found.dev(), found.ino()));
        self.order(|desk| desk.sync(Sync { number, identity, file }));
    }

    /// The outcomes since the last call.
    pub(super) fn done(&self) -> Vec<Done> {
        take(&mut self.shared.desk().done)
    }

    /// Whether no file is to be forced to the disk any more.
    pub(super) fn is_synced(&self) -> bool {
        let desk = self.shared.desk();
        desk.syncs.is_empty() && !desk.is_syncing
    }

    fn order(&self, order: impl FnOnce(&mut Desk) -> bool) {
        let is_taken = order(&mut self.shared.desk());
        if !is_taken || !self.is_there() {
            return self.shared.wake();
        }
        self.shared.is_wanted.notify_one();
    }

    /// Whether there is a thread; where there can be none, what waits for it is answered.
    fn is_there(&self) -> bool {
        let has_begun = std::mem::replace(&mut self.shared.desk().has_begun, true);
        let Some(error) = (!has_begun).then(|| self.start().err()).flatten() else { return true };
        let mut desk = self.shared.desk();
        desk.has_begun = false;
        desk.refuse_all(&format!("there is no thread for it: {error}"));
        false
    }
}

impl Drop for Side {
    fn drop(&mut self) {
        self.shared.desk().is_ended = true;
        self.shared.is_wanted.notify_one();
    }
}

impl Desk {
    /// False when it is refused, which is an outcome.
    fn compress(&mut self, compression: Compression) -> bool {
        let is_taken = self.compressions.len() < WAITING_MAX;
        if is_taken {
            self.compressions.push_back(compression);
        } else {
            self.done.push(Done::Compressed { id: compression.id, outcome: Err(refusal()) });
        }
        is_taken
    }

    fn sync(&mut self, sync: Sync) -> bool {
        if sync.identity.is_some() && self.syncs.iter().any(|other| other.identity == sync.identity) {
            return true;
        }
        let is_taken = self.syncs.len() < WAITING_MAX;
        if is_taken {
            self.syncs.push_back(sync);
        } else {
            self.done.push(Done::Synced { number: sync.number, outcome: Err(refusal()) });
        }
        is_taken
    }

    fn refuse_all(&mut self, why: &str) {
        let syncs = take(&mut self.syncs).into_iter();
        self.done.extend(syncs.map(|sync| Done::Synced { number: sync.number, outcome: Err(why.to_owned()) }));
        let all = take(&mut self.compressions).into_iter();
        self.done.extend(all.map(|one| Done::Compressed { id: one.id, outcome: Err(why.to_owned()) }));
    }

    fn next_sync(&mut self) -> Option<Sync> {
        let sync = self.syncs.pop_front();
        self.is_syncing = sync.is_some();
        sync
    }
}

impl Shared {
    /// Nobody panics with the desk locked; if one did, what lies there is whole nonetheless.
    fn desk(&self) -> MutexGuard<'_, Desk> {
        self.desk.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn wake(&self) {
        // A counter that is full wakes too: eventfd(2).
        let _ = self.waker.wake();
    }

    fn work(&self) {
        while let Some(job) = self.next() {
            match job {
                Job::Sync(sync) => self.sync(sync),
                Job::Compress(compression) => self.compress(compression),
            }
        }
    }

    /// Waits for the next job; at the end none is begun but those that wait for the disk.
    fn next(&self) -> Option<Job> {
        let mut desk = self.desk();
        loop {
            if let Some(sync) = desk.next_sync() {
                return Some(Job::Sync(sync));
            }
            if desk.is_ended {
                return None;
            }
            if let Some(compression) = desk.compressions.pop_front() {
                return Some(Job::Compress(compression));
            }
            desk = self.is_wanted.wait(desk).unwrap_or_else(PoisonError::into_inner);
        }
    }

    fn sync(&self, Sync { number, file, .. }: Sync) {
        let outcome = match file.sync_data() {
            // A device, or a file system, that has no disk: fdatasync(2).
            Err(error) if matches!(error.raw_os_error(), Some(libc::EINVAL | libc::EROFS)) => Ok(()),
            result => result.map_err(|error| error.to_string()),
        };
        let mut desk = self.desk();
        desk.is_syncing = false;
        desk.done.push(Done::Synced { number, outcome });
        drop(desk);
        self.wake();
    }

    fn compress(&self, Compression { id, from, to }: Compression) {
        let outcome = self.copy(from, to).map_err(|error| error.to_string());
        self.desk().done.push(Done::Compressed { id, outcome });
        self.wake();
    }

    fn copy(&self, mut from: File, to: File) -> io::Result<()> {
        let mut encoder = GzEncoder::new(to, flate2::Compression::default());
        let mut buffer = vec![0; BUFFER_LEN];
        loop {
            self.is_to_go_on()?;
            match from.read(&mut buffer) {
                Ok(0) => return encoder.finish()?.sync_all(),
                Ok(count) => encoder.write_all(&buffer[..count])?,
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                Err(error) => return Err(error),
            }
        }
    }

    /// Between two pieces of a file: others first.
    fn is_to_go_on(&self) -> io::Result<()> {
        loop {
            // The desk is free again before the disk is waited for.
            let (next, is_ended) = {
                let mut desk = self.desk();
                (desk.next_sync(), desk.is_ended)
            };
            match next {
                Some(sync) => self.sync(sync),
                None if is_ended => return Err(io::Error::other("the log helper ends")),
                None => return Ok(()),
            }
        }
    }
}

fn refusal() -> String {
    format!("{WAITING_MAX} others wait already")
}

#[cfg(test)]
mod tests {
    use std::fs;
    use std::io::pipe;
    use std::path::Path;
    use std::time::{Duration, Instant};

    use flate2::read::GzDecoder;
    use mio::{Events, Poll, Token};

    use super::*;

    /// A loop that does nothing but wait.
    struct Turning {
        poll: Poll,
        side: Side,
    }

    impl Turning {
        fn start() -> Self {
            let poll = Poll::new().expect("a poll");
            let waker = Waker::new(poll.registry(), Token(7)).expect("a waker");
            Self { side: Side::new(waker), poll }
        }

        /// The next outcomes, so many at least.
        fn wait(&mut self, count: usize) -> Vec<Done> {
            let limit = Instant::now() + Duration::from_secs(30);
            let mut done = Vec::new();
            while done.len() < count {
                let left = limit.saturating_duration_since(Instant::now());
                assert!(!left.is_zero(), "{done:?}");
                self.poll.poll(&mut Events::with_capacity(8), Some(left)).expect("polled");
                done.extend(self.side.done());
            }
            done
        }
    }

    fn open(path: &Path) -> OwnedFd {
        File::options().append(true).create(true).open(path).expect("opened").into()
    }

    /// Returns when somebody reads it: a pipe does not hold so much.
    fn fill(writer: &mut io::PipeWriter) {
        writer.write_all(&vec![b'x'; 1 << 20]).expect("read");
    }

    fn null() -> OwnedFd {
        File::options().write(true).open("/dev/null").expect("opened").into()
    }

    #[test]
    fn what_is_compressed_is_the_same_when_it_is_unpacked() {
        let directory = tempfile::tempdir().expect("a directory");
        let mut turning = Turning::start();
        let noise: Vec<u8> = (0..300_000_u32).map(|number| (number.wrapping_mul(2_654_435_761) >> 24) as u8).collect();
        let lines = "worker 0 generation 2 pid 42: ready\n".repeat(20_000).into_bytes();
        for (id, content) in [Vec::new(), b"x".to_vec(), vec![b'y'; BUFFER_LEN], noise, lines].into_iter().enumerate() {
            let (from, to) = (directory.path().join("from"), directory.path().join(format!("{id}.gz")));
            fs::write(&from, &content).expect("written");
            turning.side.compress(id as u64, File::open(&from).expect("opened").into(), open(&to));
            assert_eq!(turning.wait(1), [Done::Compressed { id: id as u64, outcome: Ok(()) }]);
            let mut unpacked = Vec::new();
            GzDecoder::new(File::open(&to).expect("opened")).read_to_end(&mut unpacked).expect("unpacked");
            assert!(unpacked == content, "{id}: {} bytes of {}", unpacked.len(), content.len());
        }
    }

    #[test]
    fn a_full_disk_is_an_outcome() {
        let directory = tempfile::tempdir().expect("a directory");
        let from = directory.path().join("from");
        fs::write(&from, b"some lines").expect("written");
        let mut turning = Turning::start();
        turning.side.compress(3, File::open(&from).expect("opened").into(), open(Path::new("/dev/full")));
        turning.side.compress(4, null(), open(&directory.path().join("to")));
        let done = turning.wait(2);
        let [Done::Compressed { id: 3, outcome: Err(full) }, Done::Compressed { id: 4, outcome: Err(unreadable) }] =
            &done[..]
        else {
            panic!("{done:?}")
        };
        assert!(full.contains("No space left"), "{full}");
        assert!(unreadable.contains("Bad file descriptor"), "{unreadable}");
    }

    #[test]
    fn who_waits_for_the_disk_goes_before_the_rest_of_what_is_compressed() {
        let directory = tempfile::tempdir().expect("a directory");
        let mut turning = Turning::start();
        let (reader, mut writer) = pipe().expect("a pipe");
        turning.side.compress(1, reader.into(), open(&directory.path().join("to.gz")));
        fill(&mut writer);
        turning.side.sync(5, open(&directory.path().join("log")));
        writer.write_all(b"more").expect("written");
        assert_eq!(turning.wait(1), [Done::Synced { number: 5, outcome: Ok(()) }]);
        assert!(turning.side.is_synced());
        drop(writer);
        assert_eq!(turning.wait(1), [Done::Compressed { id: 1, outcome: Ok(()) }]);
        turning.side.sync(6, null());
        assert_eq!(turning.wait(1), [Done::Synced { number: 6, outcome: Ok(()) }], "nothing to force");
    }

    #[test]
    fn its_end_leaves_a_file_in_the_midst() {
        let directory = tempfile::tempdir().expect("a directory");
        let turning = Turning::start();
        let shared = Arc::downgrade(&turning.side.shared);
        let (reader, mut writer) = pipe().expect("a pipe");
        turning.side.compress(1, reader.into(), open(&directory.path().join("to.gz")));
        fill(&mut writer);
        drop(turning);
        // The end of the pipe is that of its reader: the thread has let go of it without reading all.
        let limit = Instant::now() + Duration::from_secs(30);
        while writer.write_all(b"more").is_ok() {
            assert!(Instant::now() < limit);
        }
        while shared.upgrade().is_some() {
            assert!(Instant::now() < limit);
            thread::yield_now();
        }
    }

    #[test]
    fn a_file_that_waits_already_is_joined_and_nothing_waits_without_a_limit() {
        let directory = tempfile::tempdir().expect("a directory");
        let mut desk = Desk::default();
        let sync = |number: u64, name: &str| {
            let file = File::from(open(&directory.path().join(name)));
            let found = file.metadata().expect("found");
            Sync { number, identity: Some((found.dev(), found.ino())), file }
        };
        for _ in 0..3 {
            assert!(desk.sync(sync(1, "one")) && desk.sync(sync(1, "the one before")));
        }
        assert_eq!(desk.syncs.len(), 2);
        assert!(desk.next_sync().is_some_and(|first| first.number == 1) && desk.is_syncing);
        assert!(desk.sync(sync(1, "one")), "what is under way began before this was written");
        assert_eq!(desk.syncs.len(), 2);
        for number in 2..WAITING_MAX {
            assert!(desk.sync(sync(number as u64, &number.to_string())), "{number}");
        }
        assert!(!desk.sync(sync(99, "too many")));
        assert!(desk.sync(sync(1, "one")), "it waits already");
        let compression = |id: u64| Compression { id, from: null().into(), to: null().into() };
        for id in 0..=WAITING_MAX {
            assert_eq!(desk.compress(compression(id as u64)), id < WAITING_MAX, "{id}");
        }
        let outcome = || Err(refusal());
        let refused =
            [Done::Synced { number: 99, outcome: outcome() }, Done::Compressed { id: 64, outcome: outcome() }];
        assert_eq!(desk.done, refused);
    }

    #[test]
    fn it_takes_no_signals_and_lets_all_others_first() {
        let turning = Turning::start();
        let (reader, writer) = pipe().expect("a pipe");
        turning.side.compress(1, reader.into(), null());
        // Until it reads, it may not have its place yet.
        let limit = Instant::now() + Duration::from_secs(30);
        let threads = || fs::read_dir("/proc/self/task").expect("listed").filter_map(Result::ok);
        let is_side = |path: &Path| fs::read_to_string(path.join("comm")).is_ok_and(|name| name.trim_end() == "side");
        let nice = |path: &Path| {
            let stat = fs::read_to_string(path.join("stat")).unwrap_or_default();
            stat.rsplit(") ").next().and_then(|rest| rest.split(' ').nth(16)).map(str::to_owned)
        };
        let ours = loop {
            assert!(Instant::now() < limit);
            let found = threads().map(|entry| entry.path()).find(|path| is_side(path));
            if let Some(path) = found.filter(|path| nice(path).as_deref() == Some("19")) {
                break path;
            }
            thread::yield_now();
        };
        let status = fs::read_to_string(ours.join("status")).unwrap_or_default();
        let blocked = status.lines().find_map(|line| line.strip_prefix("SigBlk:")).unwrap_or_default().trim();
        let mask = u64::from_str_radix(blocked, 16).unwrap_or_default();
        assert_ne!(mask & (1 << (libc::SIGABRT - 1)), 0, "{blocked}");
        drop(writer);
    }
}
