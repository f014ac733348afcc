//! What children print themselves: lines of their standard output and error.

use std::collections::BTreeMap;
use std::fs::File;
use std::io::{self, ErrorKind, Read};
use std::ops::ControlFlow;
use std::os::fd::{AsRawFd, OwnedFd};

use log::Level;
use mio::unix::SourceFd;
use mio::{Interest, Registry, Token};
use nix::fcntl::{FcntlArg, OFlag, fcntl};

use super::FIRST;
use super::lines::Lines;
use crate::log::logger::now_us;
use crate::log::loss;
use crate::log::record::{Entry, Origin};

/// The longest line, in bytes; a longer one is broken.
const LINE_LEN_MAX: usize = 64 * 1024;

/// The target of what was printed.
const OUTPUT: &str = "output";

/// Bytes read from one stream in one turn.
const READ_MAX: usize = 64 * 1024;

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
}

impl Captures {
    pub(super) fn add(&mut self, name: &str, source: OwnedFd, registry: &Registry) -> io::Result<()> {
        // The reading end is a description of its own: the children's writing end still blocks.
        fcntl(&source, FcntlArg::F_SETFL(OFlag::O_NONBLOCK))?;
        let number = FIRST + 1 + 2 * self.count;
        self.count += 1;
        registry.register(&mut SourceFd(&source.as_raw_fd()), Token(number), Interest::READABLE)?;
        let origin = Origin::named(name, 0);
        let stream = Stream { origin, source: File::from(source), line: Vec::new(), readable: true, is_behind: false };
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

    pub(super) fn read(&mut self, lines: &mut Lines) {
        let mut buffer = [0; 4096];
        self.streams.retain(|_, stream| {
            let mut left = READ_MAX;
            if stream.is_behind {
                stream.print_lines(lines);
            }
            while stream.readable && left > 0 && !lines.is_full() {
                left = left.saturating_sub(buffer.len());
                if stream.read(&mut buffer, lines).is_break() {
                    return false;
                }
            }
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
                if !self.line.is_empty() {
                    print(&self.origin, &self.line, lines);
                }
                return ControlFlow::Break(());
            }
            Ok(count) => {
                self.line.extend_from_slice(&buffer[..count]);
                self.print_lines(lines);
            }
            Err(error) if error.kind() == ErrorKind::Interrupted => {}
            Err(_) => self.readable = false,
        }
        ControlFlow::Continue(())
    }

    fn print_lines(&mut self, lines: &mut Lines) {
        let mut rest = &self.line[..];
        self.is_behind = false;
        while let Some((line, after)) = first_line(rest) {
            // Of a page of line feeds a hundred times as much is to be written.
            if lines.is_full() {
                self.is_behind = true;
                break;
            }
            print(&self.origin, line, lines);
            rest = after;
        }
        let printed = self.line.len() - rest.len();
        self.line.drain(..printed);
    }
}

/// A line that is whole, or has become too long, and what follows it.
fn first_line(bytes: &[u8]) -> Option<(&[u8], &[u8])> {
    match bytes.iter().take(LINE_LEN_MAX).position(|&byte| byte == b'\n') {
        Some(end) => Some((&bytes[..end], &bytes[end + 1..])),
        None => bytes.split_at_checked(LINE_LEN_MAX),
    }
}

fn print(origin: &Origin, line: &[u8], lines: &mut Lines) {
    let message = String::from_utf8_lossy(line);
    lines.add(origin, &Entry { level: Level::Info, target: OUTPUT, ..loss::entry(&message, now_us()) });
}
