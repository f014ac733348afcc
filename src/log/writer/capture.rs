//! What children print themselves: lines of their standard output and error.

use std::collections::BTreeMap;
use std::fs::File;
use std::io::{self, ErrorKind, Read};
use std::os::fd::{AsRawFd, OwnedFd};

use mio::unix::SourceFd;
use mio::{Interest, Registry, Token};
use nix::fcntl::{FcntlArg, OFlag, fcntl};

use super::FIRST;
use super::console::Console;
use crate::ipc::message::LogRecord;

/// The longest line, in bytes; a longer one is broken.
const LINE_LEN_MAX: usize = 64 * 1024;

/// Bytes read from one stream in one turn.
const READ_MAX: usize = 64 * 1024;

#[derive(Default)]
pub(super) struct Captures {
    streams: BTreeMap<usize, Stream>,
}

struct Stream {
    name: String,
    source: File,
    line: Vec<u8>,
    readable: bool,
}

impl Captures {
    pub(super) fn add(&mut self, name: String, source: OwnedFd, registry: &Registry) -> io::Result<()> {
        // The reading end is a description of its own: the children's writing end still blocks.
        fcntl(&source, FcntlArg::F_SETFL(OFlag::O_NONBLOCK))?;
        let number = FIRST + 1 + 2 * self.streams.len();
        registry.register(&mut SourceFd(&source.as_raw_fd()), Token(number), Interest::READABLE)?;
        let stream = Stream { name, source: File::from(source), line: Vec::new(), readable: true };
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
        self.streams.values().all(|stream| !stream.readable)
    }

    pub(super) fn read(&mut self, console: &mut Console) {
        let mut buffer = [0; 4096];
        for stream in self.streams.values_mut() {
            let mut left = READ_MAX;
            while stream.readable && left > 0 && !console.is_full() {
                left = left.saturating_sub(buffer.len());
                stream.read(&mut buffer, console);
            }
        }
    }
}

impl Stream {
    fn read(&mut self, buffer: &mut [u8], console: &mut Console) {
        match self.source.read(buffer) {
            // The master keeps a writing end: this end comes with the master's.
            Ok(0) => self.readable = false,
            Ok(count) => {
                self.line.extend_from_slice(&buffer[..count]);
                self.print_lines(console);
            }
            Err(error) if error.kind() == ErrorKind::Interrupted => {}
            Err(_) => self.readable = false,
        }
    }

    fn print_lines(&mut self, console: &mut Console) {
        let mut rest = &self.line[..];
        while let Some(end) = rest.iter().position(|&byte| byte == b'\n') {
            print(&self.name, &rest[..end], console);
            rest = &rest[end + 1..];
        }
        if rest.len() >= LINE_LEN_MAX {
            print(&self.name, rest, console);
            rest = &[];
        }
        let printed = self.line.len() - rest.len();
        self.line.drain(..printed);
    }
}

fn print(name: &str, line: &[u8], console: &mut Console) {
    console.add(
        name,
        &LogRecord {
            time_us: jiff::Timestamp::now().as_microsecond(),
            level: log::Level::Info as u8,
            target: "output".to_owned(),
            message: String::from_utf8_lossy(line).into_owned(),
        },
    );
}
