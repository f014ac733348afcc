//! The process's one logger.
//!
//! Until [`to_helper`] it is env_logger's console; from then on records travel to the log helper.
//! Records of the loop's own thread wait for the end of its turn; those of other threads, errors
//! and panics are written at once.

use std::cell::{Cell, RefCell};
use std::fmt::Write;
use std::path::Path;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Mutex, MutexGuard, PoisonError, RwLock};
use std::time::{SystemTime, UNIX_EPOCH};

use log::{Level, Log, Metadata, Record};

use super::sender::Sender;
use crate::ipc::message::{Hello, LogRecord};

static LOGGER: Logger =
    Logger { filter: RwLock::new(None), sink: Mutex::new(Sink::Nowhere), pending: AtomicBool::new(false) };

/// The longest message of a record, in bytes; what is longer is cut.
pub(crate) const MESSAGE_LEN_MAX: usize = 2 * 1024 * 1024;

/// The longest target of a record, in characters.
const TARGET_LEN_MAX: usize = 256;

thread_local! {
    /// Whether records of this thread may wait for the end of a turn.
    static TURNS: Cell<bool> = const { Cell::new(false) };
    /// Where messages are formatted: outside the lock, because a `Display` may log again.
    static SCRATCH: RefCell<String> = const { RefCell::new(String::new()) };
}

struct Logger {
    filter: RwLock<Option<env_filter::Filter>>,
    sink: Mutex<Sink>,
    /// Whether the sink holds records that wait for the end of a turn.
    pending: AtomicBool,
}

enum Sink {
    Nowhere,
    Console(Box<env_logger::Logger>),
    Helper(Sender),
}

/// Logs to standard error, in env_logger's format.
pub(crate) fn to_console(filter: &str) {
    let console = env_logger::Builder::new().parse_filters(filter).build();
    install(filter, Sink::Console(Box::new(console)));
}

/// Logs to the log helper behind `socket` from now on, under `name`.
pub(crate) fn to_helper(filter: &str, socket: &Path, name: String) {
    install(filter, Sink::Helper(Sender::new(socket.to_owned(), &Hello::of(&name))));
}

/// Logs what this filter wants from now on, to where it goes.
pub(crate) fn refilter(filter: &str) {
    let filter = env_filter::Builder::new().parse(filter).build();
    log::set_max_level(filter.filter());
    *LOGGER.filter.write().unwrap_or_else(PoisonError::into_inner) = Some(filter);
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

/// Waits until everything is written, `limit_ms` at most; what is left then is printed on
/// standard error. For a process that ends.
pub(crate) fn close(limit_ms: u16) {
    let mut sink = lock(&LOGGER.sink);
    if let Sink::Helper(sender) = &mut *sink {
        sender.finish(limit_ms);
    }
    *sink = Sink::Nowhere;
}

fn install(filter: &str, sink: Sink) {
    refilter(filter);
    *lock(&LOGGER.sink) = sink;
    // An application that has set a logger of its own keeps it.
    let _ = log::set_logger(&LOGGER);
}

fn lock(sink: &Mutex<Sink>) -> MutexGuard<'_, Sink> {
    sink.lock().unwrap_or_else(PoisonError::into_inner)
}

impl Logger {
    fn flush_now(&self) {
        if let Sink::Helper(sender) = &mut *lock(&self.sink) {
            sender.flush();
            self.pending.store(!sender.is_idle(), Ordering::Relaxed);
        }
    }

    fn send(&self, record: &Record<'_>, message: &str) {
        let at_once = !TURNS.get() || record.level() == Level::Error;
        let mut sink = lock(&self.sink);
        let Sink::Helper(sender) = &mut *sink else { return };
        sender.push(LogRecord {
            time_us: now_us(),
            level: record.level() as u32,
            target: record.target().chars().take(TARGET_LEN_MAX).collect(),
            message: message.to_owned(),
        });
        if at_once || sender.is_large() {
            sender.flush();
        }
        self.pending.store(!sender.is_idle(), Ordering::Relaxed);
    }
}

impl Log for Logger {
    fn enabled(&self, metadata: &Metadata<'_>) -> bool {
        let filter = self.filter.read().unwrap_or_else(PoisonError::into_inner);
        filter.as_ref().is_some_and(|filter| filter.enabled(metadata))
    }

    fn log(&self, record: &Record<'_>) {
        if !self.enabled(record.metadata()) {
            return;
        }
        if let Sink::Console(console) = &*lock(&self.sink) {
            console.log(record);
            return;
        }
        with_message(record, |message| self.send(record, message));
    }

    fn flush(&self) {
        self.flush_now();
    }
}

/// Formats a record's message outside every lock.
fn with_message(record: &Record<'_>, use_it: impl FnOnce(&str)) {
    if let Some(message) = record.args().as_str() {
        return use_it(cut(message));
    }
    // The scratch is taken while a `Display` of this very record logs, and gone while the thread
    // ends: then a fresh string serves.
    let mut text = SCRATCH.try_with(RefCell::take).unwrap_or_default();
    text.clear();
    if write!(text, "{}", record.args()).is_err() {
        text.push_str(" (its formatting failed)");
    }
    use_it(cut(&text));
    if text.capacity() <= 64 * 1024 {
        let _ = SCRATCH.try_with(|scratch| scratch.replace(text));
    }
}

fn cut(message: &str) -> &str {
    if message.len() <= MESSAGE_LEN_MAX { message } else { &message[..message.floor_char_boundary(MESSAGE_LEN_MAX)] }
}

fn now_us() -> i64 {
    let since = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
    i64::try_from(since.as_micros()).unwrap_or(i64::MAX)
}
