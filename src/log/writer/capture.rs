//! What children print themselves: lines of their standard output and error.
//!
//! Whoever prints waits while its pipe is full, so all of them are read whatever becomes of the log: where it takes
//! nothing, lines are dropped and counted as refused records are. What lies in a pipe outlives a log helper; the
//! beginning of a line that it has read does not.

use std::collections::BTreeMap;
use std::fs::File;
use std::io::{self, ErrorKind, Read};
use std::ops::ControlFlow;
use std::os::fd::{AsRawFd, OwnedFd};
use std::time::{Duration, Instant};

use log::Level;
use mio::unix::SourceFd;
use mio::{Interest, Registry, Token};
use nix::fcntl::{FcntlArg, OFlag, fcntl};

use super::FIRST;
use super::lines::Lines;
use crate::log::logger::now_us;
use crate::log::loss;
use crate::log::record::{Entry, Origin};
use crate::log::ring::{LEVELS, index};

/// The longest line, in bytes; a longer one is broken.
const LINE_LEN_MAX: usize = 64 * 1024;

/// The target of what was printed.
const OUTPUT: &str = "output";

/// Bytes read from one stream in one turn.
const READ_MAX: usize = 64 * 1024;

/// A line that so long nothing was added to is told without its end.
const SILENCE: Duration = Duration::from_secs(1);

#[derive(Default)]
pub(super) struct Captures {
    streams: BTreeMap<usize, Stream>,
    /// How many there have been.
    count: usize,
}

struct Stream {
    /// Without a pid: whoever has this place may have printed it, or a process of its own.
    origin: Origin,
    source: File,
    /// What was read and not yet printed: less than a line, unless it `is_behind`.
    line: Vec<u8>,
    readable: bool,
    /// Whether whole lines wait for room.
    is_behind: bool,
    /// When something was read last.
    read_at: Instant,
    /// Whoever has printed there is gone: what was begun is not gone on with.
    has_ended: bool,
    /// Lines that were dropped and are not told of.
    lost: u64,
}

impl Captures {
    pub(super) fn add(&mut self, name: &str, source: OwnedFd, registry: &Registry) -> io::Result<()> {
        // The reading end is a description of its own: the children's writing end still blocks.
        fcntl(&source, FcntlArg::F_SETFL(OFlag::O_NONBLOCK))?;
        let number = FIRST + 1 + 2 * self.count;
        self.count += 1;
        registry.register(&mut SourceFd(&source.as_raw_fd()), Token(number), Interest::READABLE)?;
        let origin = Origin::named(name, 0);
        let stream = Stream {
            origin,
            source: File::from(source),
            line: Vec::new(),
            readable: true,
            is_behind: false,
            read_at: Instant::now(),
            has_ended: false,
            lost: 0,
        };
        self.streams.insert(number, stream);
        Ok(())
    }

    pub(super) fn is_readable(&mut self, number: usize) {
        if let Some(stream) = self.streams.get_mut(&number) {
            stream.readable = true;
        }
    }

    /// Whether nothing is known to wait.
    pub(super) fn is_quiet(&self) -> bool {
        self.streams.values().all(|stream| !stream.readable && !stream.is_behind)
    }

    /// The process of this name is gone.
    pub(super) fn end(&mut self, name: &str) {
        for stream in self.streams.values_mut().filter(|stream| stream.origin.name == name) {
            (stream.has_ended, stream.readable) = (true, true);
        }
    }

    /// When a line that was begun is to be told.
    pub(super) fn due(&self) -> Option<Instant> {
        let begun = self.streams.values().filter(|stream| !stream.line.is_empty());
        begun.map(|stream| stream.read_at + SILENCE).min()
    }

    /// `all_end`: nobody prints any more.
    pub(super) fn read(&mut self, all_end: bool, lines: &mut Lines) {
        let mut buffer = [0; 4096];
        self.streams.retain(|_, stream| {
            let mut left = READ_MAX;
            if stream.is_behind {
                stream.print_lines(lines);
            }
            while stream.readable && left > 0 && lines.take_output() {
                left = left.saturating_sub(buffer.len());
                if stream.read(&mut buffer, lines).is_break() {
                    return false;
                }
            }
            if !stream.readable {
                stream.come_to_an_end(all_end, lines);
            }
            stream.tell_of_losses(lines);
            true
        });
    }
}

impl Stream {
    /// Reads once; breaks at the end.
    fn read(&mut self, buffer: &mut [u8], lines: &mut Lines) -> ControlFlow<()> {
        match self.source.read(buffer) {
            // The master keeps a writing end until all who print there are gone.
            Ok(0) => {
                self.come_to_an_end(true, lines);
                return ControlFlow::Break(());
            }
            Ok(count) => {
                self.read_at = Instant::now();
                self.line.extend_from_slice(&buffer[..count]);
                self.print_lines(lines);
            }
            Err(error) if error.kind() == ErrorKind::Interrupted => {}
            Err(_) => self.readable = false,
        }
        ControlFlow::Continue(())
    }

    fn print_lines(&mut self, lines: &mut Lines) {
        let line = std::mem::take(&mut self.line);
        let mut rest = &line[..];
        self.is_behind = false;
        while let Some((line, after)) = first_line(rest) {
            // Of a page of line feeds a hundred times as much is to be written.
            if !lines.take_output() {
                self.is_behind = true;
                break;
            }
            self.print(line, lines);
            rest = after;
        }
        let printed = line.len() - rest.len();
        self.line = line;
        self.line.drain(..printed);
    }

    /// Prints what was begun, if its end is not to come, or not soon.
    fn come_to_an_end(&mut self, is_over: bool, lines: &mut Lines) {
        let is_over = std::mem::take(&mut self.has_ended) || is_over;
        if self.is_behind || self.line.is_empty() || !is_over && self.read_at.elapsed() < SILENCE {
            return;
        }
        let line = std::mem::take(&mut self.line);
        self.print(&line, lines);
    }

    /// One more, or one more that is missing.
    fn print(&mut self, line: &[u8], lines: &mut Lines) {
        self.tell_of_losses(lines);
        if lines.is_full() {
            self.lost += 1;
            return;
        }
        let message = String::from_utf8_lossy(line);
        lines.add_sent(&self.origin, &Entry { level: Level::Info, target: OUTPUT, ..loss::entry(&message, now_us()) });
    }

    fn tell_of_losses(&mut self, lines: &mut Lines) {
        if self.lost == 0 || lines.is_full() {
            return;
        }
        let mut lost = [0; LEVELS];
        lost[index(Level::Info)] = std::mem::take(&mut self.lost);
        loss::tell(lost, now_us(), |entry| lines.add_sent(&self.origin, entry));
    }
}

/// A line that is whole, or has become too long, and what follows it.
fn first_line(bytes: &[u8]) -> Option<(&[u8], &[u8])> {
    match bytes.iter().take(LINE_LEN_MAX + 1).position(|&byte| byte == b'\n') {
        Some(end) => Some((&bytes[..end], &bytes[end + 1..])),
        // One byte more must be there: that may be its end.
        None => bytes.split_at_checked(LINE_LEN_MAX).filter(|(_, after)| !after.is_empty()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_line_is_broken_when_it_is_too_long_and_not_before() {
        let (full, longer) = ([b'x'; LINE_LEN_MAX], [b'x'; LINE_LEN_MAX + 1]);
        assert_eq!(first_line(&full), None);
        assert_eq!(first_line(&[&full[..], b"\nab"].concat()), Some((&full[..], &b"ab"[..])));
        assert_eq!(first_line(&longer), Some((&full[..], &b"x"[..])));
        assert_eq!(first_line(b"a\nb\n"), Some((&b"a"[..], &b"b\n"[..])));
    }
}
