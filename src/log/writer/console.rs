//! The console: standard error of the daemon, in env_logger's format.

use std::collections::VecDeque;
use std::fmt::Write;
use std::io::{self, IsTerminal};
use std::os::fd::AsFd;

use jiff::Timestamp;
use nix::poll::{PollFd, PollFlags, PollTimeout, poll};

use crate::ipc::message::LogRecord;
use crate::log::printable::Printable;

/// Bytes that may wait for a console that takes no more.
const WAITING_MAX: usize = 256 * 1024;

/// Bytes that a pipe takes without blocking once poll(2) says it is writable: PIPE_BUF, pipe(7).
const WRITE_MAX: usize = 4096;

pub(super) struct Console {
    waiting: VecDeque<u8>,
    line: String,
    colours: bool,
}

impl Console {
    pub(super) fn new() -> Self {
        let colours = io::stderr().is_terminal() && std::env::var_os("NO_COLOR").is_none();
        Self { waiting: VecDeque::new(), line: String::new(), colours }
    }

    /// Whether to come back later with more.
    pub(super) fn is_full(&self) -> bool {
        self.waiting.len() >= WAITING_MAX
    }

    pub(super) fn is_empty(&self) -> bool {
        self.waiting.is_empty()
    }

    /// Adds a record as a line.
    pub(super) fn add(&mut self, origin: &str, record: &LogRecord) {
        self.line.clear();
        let time = Timestamp::from_microsecond(record.time_us).unwrap_or_default();
        let (level, colour) = level(record.level);
        let (dim, colour, plain) = if self.colours { ("\x1b[90m", colour, "\x1b[0m") } else { ("", "", "") };
        let _ = write!(
            self.line,
            "{dim}[{plain}{time:.0} {colour}{level:<5}{plain} {}{}{}{dim}]{plain} {}",
            Printable { text: &record.target, line_break: "\\n" },
            if origin.is_empty() { "" } else { " " },
            Printable { text: origin, line_break: "\\n" },
            // Indented as env_logger does it: a message cannot pretend to be another record.
            Printable { text: &record.message, line_break: "\n    " },
        );
        self.line.push('\n');
        self.waiting.extend(self.line.as_bytes());
    }

    /// Writes what the console takes without blocking.
    pub(super) fn write(&mut self) {
        let console = io::stderr();
        while !self.waiting.is_empty() && is_writable(&console) {
            let (front, _) = self.waiting.as_slices();
            match nix::unistd::write(console.as_fd(), &front[..front.len().min(WRITE_MAX)]) {
                Ok(count) => drop(self.waiting.drain(..count)),
                Err(nix::errno::Errno::EINTR) => {}
                Err(nix::errno::Errno::EAGAIN) => return,
                // Nobody reads any more (`| head`, a closed terminal): the service goes on.
                Err(_) => self.waiting.clear(),
            }
        }
        if self.waiting.is_empty() && self.waiting.capacity() > 2 * WAITING_MAX {
            self.waiting = VecDeque::new();
        }
    }
}

fn is_writable(console: &io::Stderr) -> bool {
    let mut polled = [PollFd::new(console.as_fd(), PollFlags::POLLOUT)];
    poll(&mut polled, PollTimeout::ZERO).is_ok_and(|count| count > 0)
}

/// A level's name and colour, env_logger's.
pub(super) fn level(number: u32) -> (&'static str, &'static str) {
    match number {
        1 => ("ERROR", "\x1b[1;31m"),
        2 => ("WARN", "\x1b[33m"),
        3 => ("INFO", "\x1b[32m"),
        4 => ("DEBUG", "\x1b[34m"),
        _ => ("TRACE", "\x1b[36m"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_record_is_a_line_of_env_loggers_format() {
        let mut console = Console { waiting: VecDeque::new(), line: String::new(), colours: false };
        let record = LogRecord {
            time_us: 1_700_000_000_999_999,
            level: 3,
            target: "app".to_owned(),
            message: "two\nlines \x1b[2J\u{9b}".to_owned(),
        };
        console.add("worker 0", &record);
        let text = String::from_utf8(console.waiting.into()).expect("text");
        assert_eq!(text, "[2023-11-14T22:13:20Z INFO  app worker 0] two\n    lines \\u{1b}[2J\\u{9b}\n");
    }
}
