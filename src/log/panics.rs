//! Panics as log records.

use std::backtrace::Backtrace;
use std::panic;

/// Logs every panic of this process with place and backtrace, at once.
pub(crate) fn log_panics() {
    panic::set_hook(Box::new(|info| {
        let thread = std::thread::current();
        let name = thread.name().unwrap_or("unnamed");
        let place = info.location().map_or_else(|| "an unknown place".to_owned(), ToString::to_string);
        let message = info.payload_as_str().unwrap_or("no message");
        let backtrace = Backtrace::force_capture();
        log::error!(target: "panic", "thread {name} panicked at {place}: {message}\n{backtrace}");
    }));
}
