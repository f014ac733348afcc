//! The process's one logger.
//!
//! Until [`to_ring`] or [`to_helper`] it is env_logger's console. Into a ring a record is published when
//! the macro returns, by whatever thread. Over the socket records of the loop's own thread wait for the end
//! of its turn; those of other threads, errors and panics are written at once.

use std::cell::{Cell, RefCell};
use std::os::fd::OwnedFd;
use std::path::Path;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError, RwLock};

use log::{Level, LevelFilter, Log, Metadata, Record};
use nix::sys::time::TimeValLike;
use nix::time::{ClockId, clock_gettime};

use super::record::{ACCESS, Entry, Fields};
use super::ring::Ring;
use super::sender::Sender;
use super::spout::Spout;
use super::{encoding, request};
use crate::ipc::message::Hello;

static LOGGER: Logger = Logger {
    filter: RwLock::new(None),
    wanted_of_all: AtomicUsize::new(0),
    sink: Mutex::new(Sink::Nowhere),
    record_len_max: AtomicUsize::new(0),
    pending: AtomicBool::new(false),
};

/// The longest record over the socket, in bytes; of what is longer the end of the message is cut.
pub(crate) const MESSAGE_LEN_MAX: usize = 2 * 1024 * 1024;

/// Of a scratch that grew beyond this the memory is given back.
const SCRATCH_KEPT_MAX: usize = 64 * 1024;

thread_local! {
    /// Whether records of this thread may wait for the end of a turn.
    static TURNS: Cell<bool> = const { Cell::new(false) };
    /// Where records are formatted: outside the lock, because a `Display` may log again.
    static SCRATCH: RefCell<Vec<u8>> = const { RefCell::new(Vec::new()) };
}

struct Logger {
    filter: RwLock<Option<Arc<env_filter::Filter>>>,
    /// Records up to this level are wanted whatever they say, without a look at the filter; 0: none are.
    wanted_of_all: AtomicUsize,
    sink: Mutex<Sink>,
    /// How long a record may be on its way to the log helper; 0: it does not go there.
    record_len_max: AtomicUsize,
    /// Whether the sink holds records that wait for the end of a turn.
    pending: AtomicBool,
}

enum Sink {
    Nowhere,
    Console(Arc<env_logger::Logger>),
    Socket(Sender),
    Ring(Spout),
}

/// Logs to standard error, in env_logger's format.
pub(crate) fn to_console(filter: &str) {
    refilter(filter);
    install(console(filter), 0);
}

/// A process that was just forked: what leads to the log helper is its parent's.
pub(crate) fn forget_the_parents() {
    // What is wanted was decided before.
    install(console("trace"), 0);
}

fn console(filter: &str) -> Sink {
    Sink::Console(Arc::new(env_logger::Builder::new().parse_filters(filter).build()))
}

/// Logs to the log helper behind `socket` from now on, under `name`.
pub(crate) fn to_helper(filter: &str, socket: &Path, name: String) {
    refilter(filter);
    install(Sink::Socket(Sender::new(socket.to_owned(), &Hello::of(&name))), MESSAGE_LEN_MAX);
}

/// Logs into this ring from now on, and wakes the log helper by `wakeup`, an eventfd(2).
pub(crate) fn to_ring(filter: &str, ring: Ring, wakeup: OwnedFd) {
    refilter(filter);
    let spout = Spout::new(ring, wakeup);
    let len_max = spout.record_len_max();
    install(Sink::Ring(spout), len_max);
}

/// Logs what this filter wants from now on, to where it goes.
pub(crate) fn refilter(filter: &str) {
    // Most are one level and nothing else.
    let wanted_of_all = filter.trim().parse().unwrap_or(LevelFilter::Off);
    let filter = env_filter::Builder::new().parse(filter).build();
    log::set_max_level(filter.filter());
    *LOGGER.filter.write().unwrap_or_else(PoisonError::into_inner) = Some(Arc::new(filter));
    LOGGER.wanted_of_all.store(wanted_of_all as usize, Ordering::Relaxed);
    #[cfg(feature = "tracing")]
    super::layer::refiltered();
}

/// Logs what a request was answered, whatever the filter wants: with these fields, as
/// [`super::record::add_field`] encodes them.
pub(crate) fn access(level: Level, fields: &[u8], message: &str) {
    let len_max = LOGGER.record_len_max.load(Ordering::Relaxed);
    request::current(|request| {
        let entry = Entry {
            time_us: now_us(),
            level,
            target: ACCESS,
            module: "",
            message,
            fields: Fields::encoded(fields),
            request,
            sequence: 0,
        };
        with_scratch(|scratch| {
            encoding::encode_entry(&entry, len_max, scratch);
            LOGGER.send(level, scratch);
        });
    });
}

/// Connects to the log helper now and not with the first record: who runs out of descriptors later
/// can still say so.
pub(crate) fn connect() {
    LOGGER.flush_now();
}

/// This thread runs a loop and calls [`flush`] at the end of every turn.
pub(crate) fn batch_on_this_thread() {
    TURNS.set(true);
}

/// Writes what waits, as far as the socket takes it; whether something still waits. Costs one load
/// when nothing does.
pub(crate) fn flush() -> bool {
    if LOGGER.pending.load(Ordering::Relaxed) {
        LOGGER.flush_now();
    }
    LOGGER.pending.load(Ordering::Relaxed)
}

/// The last record of this process was logged. What lies in a ring is safe there; what waits for the socket
/// is waited for, `limit_ms` at most, and what is left then is printed on standard error.
pub(crate) fn close(limit_ms: u16) {
    if let Sink::Socket(sender) = &mut *lock(&LOGGER.sink) {
        sender.finish(limit_ms);
    }
    install(Sink::Nowhere, 0);
}

/// The same for the master, whose ring ends with it: what is not taken in this time is printed.
pub(crate) fn close_for_good(limit_ms: u16) {
    if let Sink::Ring(spout) = &mut *lock(&LOGGER.sink) {
        spout.finish(limit_ms);
    }
    close(limit_ms);
}

/// The last record of the master was logged: what lies in its ring waits for the log helper, or for
/// [`close_for_good`].
pub(crate) fn fall_silent() {
    LOGGER.record_len_max.store(0, Ordering::Relaxed);
}

fn install(sink: Sink, record_len_max: usize) {
    *lock(&LOGGER.sink) = sink;
    LOGGER.record_len_max.store(record_len_max, Ordering::Relaxed);
    // An application that has set a logger of its own keeps it.
    let _ = log::set_logger(&LOGGER);
}

fn lock(sink: &Mutex<Sink>) -> MutexGuard<'_, Sink> {
    sink.lock().unwrap_or_else(PoisonError::into_inner)
}

impl Logger {
    fn wants_all(&self, level: Level) -> bool {
        level as usize <= self.wanted_of_all.load(Ordering::Relaxed)
    }

    /// Not lent under the lock, because a `Display` may log again.
    fn filter(&self) -> Option<Arc<env_filter::Filter>> {
        self.filter.read().unwrap_or_else(PoisonError::into_inner).clone()
    }

    fn flush_now(&self) {
        if let Sink::Socket(sender) = &mut *lock(&self.sink) {
            sender.flush();
            self.pending.store(!sender.is_idle(), Ordering::Relaxed);
        }
    }

    /// Sends an encoded record on its way.
    fn send(&self, level: Level, encoded: &mut [u8]) {
        let mut sink = lock(&self.sink);
        match &mut *sink {
            Sink::Ring(spout) => {
                if let Some(wakeup) = spout.push(level, encoded) {
                    drop(sink);
                    wakeup.wake();
                }
            }
            Sink::Socket(sender) => self.send_over(sender, level, encoded),
            Sink::Console(_) | Sink::Nowhere => {}
        }
    }

    fn send_over(&self, sender: &mut Sender, level: Level, encoded: &[u8]) {
        let Some(decoded) = encoding::decode(encoded) else { return };
        let at_once = !TURNS.get() || level == Level::Error;
        sender.push(&decoded.entry);
        if at_once || sender.is_large() {
            sender.flush();
        }
        self.pending.store(!sender.is_idle(), Ordering::Relaxed);
    }

    /// For a process that is not the log helper's, or not yet.
    fn print(&self, record: &Record<'_>) {
        // Outside the lock, because a `Display` may log again.
        let console = match &*lock(&self.sink) {
            Sink::Console(console) => Some(console.clone()),
            Sink::Nowhere | Sink::Socket(_) | Sink::Ring(_) => None,
        };
        if let Some(console) = console {
            console.log(record);
        }
    }
}

impl Log for Logger {
    fn enabled(&self, metadata: &Metadata<'_>) -> bool {
        self.wants_all(metadata.level()) || self.filter().is_some_and(|filter| filter.enabled(metadata))
    }

    fn log(&self, record: &Record<'_>) {
        // A filter may have a pattern for the message.
        if !self.wants_all(record.level()) && !self.filter().is_some_and(|filter| filter.matches(record)) {
            return;
        }
        let len_max = self.record_len_max.load(Ordering::Relaxed);
        if len_max == 0 {
            return self.print(record);
        }
        with_scratch(|scratch| {
            request::current(|request| encoding::encode(record, now_us(), request, len_max, scratch));
            self.send(record.level(), scratch);
        });
    }

    fn flush(&self) {
        self.flush_now();
    }
}

/// Lends this thread's scratch, outside every lock.
fn with_scratch(use_it: impl FnOnce(&mut Vec<u8>)) {
    // It is taken while a `Display` of this very record logs, and gone while the thread ends: then a fresh
    // one serves.
    let mut scratch = SCRATCH.try_with(RefCell::take).unwrap_or_default();
    use_it(&mut scratch);
    if scratch.capacity() <= SCRATCH_KEPT_MAX {
        let _ = SCRATCH.try_with(|place| place.replace(scratch));
    }
}

/// Microseconds since 1970-01-01T00:00:00Z.
pub(crate) fn now_us() -> i64 {
    // Not `SystemTime`, which takes a quarter longer until it is a number.
    clock_gettime(ClockId::CLOCK_REALTIME).map_or(0, |now| now.num_microseconds())
}
