//! The log helper: a process of its own that alone writes the log.
//!
//! One thread, one mio loop. It takes records from every process over the log socket, and lines
//! that children print themselves. It never blocks on its target: while the target does not take
//! more, nothing more is read, and the senders count what they must drop. It ends when told so,
//! or when the master and all whom it has made are gone.

mod capture;
mod console;
mod memory;
mod peers;

use std::fs::File;
use std::io;
use std::os::fd::{AsFd, AsRawFd, OwnedFd};
use std::os::unix::net::{UnixListener, UnixStream};
use std::time::{Duration, Instant};

use mio::unix::SourceFd;
use mio::{Events, Interest, Poll, Token};

use self::capture::Captures;
use self::console::Console;
use self::memory::Memory;
use self::peers::Peers;
use crate::contract::lock;
use crate::contract::orders::{LogOrder, LogReport};
use crate::contract::scoreboard::Record;
use crate::ipc::message::LogRecord;
use crate::ipc::peer::is_end;
use crate::ipc::{channel, frame};
use crate::sys::{descriptors, passing};

/// Standard output and error, which is the console.
const STANDARD: [i32; 2] = [1, 2];

const MASTER: Token = Token(0);
const LISTENER: Token = Token(1);
/// Peers have even tokens, captured streams odd ones, from here on.
const FIRST: usize = 2;

/// How often the heart beats when nothing else happens: eight times within the limit, at least
/// and at most so often.
const BEAT_MIN: Duration = Duration::from_millis(10);
const BEAT_MAX: Duration = Duration::from_millis(500);

/// How often a target that took no more is asked again.
const RETRY: Duration = Duration::from_millis(20);

/// How long the last records are waited for after `Finish`.
const FINISH: Duration = Duration::from_secs(1);

/// What the log helper is given by the master.
pub(crate) struct Given<'a> {
    pub(crate) control: UnixStream,
    pub(crate) listener: UnixListener,
    pub(crate) heart: Record<'a>,
    /// How long the heart may stand still.
    pub(crate) hang: Duration,
    /// The children's lock file, in which this process holds its own lock.
    pub(crate) lock: &'a File,
    /// How long senders may outlive a master that is gone.
    pub(crate) orphaned_limit: Duration,
}

/// Runs until there is nothing more to log.
pub(crate) fn run(given: Given<'_>) -> io::Result<()> {
    let Given { control, listener, heart, hang, lock, orphaned_limit } = given;
    control.set_nonblocking(true)?;
    listener.set_nonblocking(true)?;
    let poll = Poll::new()?;
    let mut listener = mio::net::UnixListener::from_std(listener);
    poll.registry().register(&mut SourceFd(&control.as_raw_fd()), MASTER, Interest::READABLE)?;
    poll.registry().register(&mut listener, LISTENER, Interest::READABLE)?;
    let mut report = Vec::new();
    frame::encode(&LogReport::Ready, &mut report);
    passing::send(control.as_fd(), &report, &[])?;
    let writer = Writer {
        poll,
        control,
        peers: Peers::new(listener),
        captures: Captures::default(),
        lines: Lines { console: Console::new(), memory: Memory::default() },
        next_console: None,
        recalled: None,
        beat: (hang / 8).clamp(BEAT_MIN, BEAT_MAX),
        end: None,
        orphaned: false,
        orphaned_limit,
    };
    writer.run(heart, lock)
}

struct Writer {
    poll: Poll,
    control: UnixStream,
    peers: Peers,
    captures: Captures,
    lines: Lines,
    /// Where the console is to be from the end of this turn on.
    next_console: Option<OwnedFd>,
    /// Whose last lines are to be told at the end of this turn.
    recalled: Option<(u64, String)>,
    beat: Duration,
    /// When to end at the latest, once nobody will say more.
    end: Option<Instant>,
    /// Whether the master is gone without an order to finish.
    orphaned: bool,
    orphaned_limit: Duration,
}

/// Where everything goes that was said.
struct Lines {
    console: Console,
    memory: Memory,
}

impl Lines {
    fn add(&mut self, origin: &str, record: &LogRecord) {
        self.memory.note(origin, record);
        self.console.add(origin, record);
    }
}

impl Writer {
    fn run(mut self, heart: Record<'_>, lock: &File) -> io::Result<()> {
        let mut events = Events::with_capacity(256);
        loop {
            heart.beat();
            // Before the events: what someone said who is gone by now is among them.
            let alone = self.orphaned && lock::holder(lock)?.is_none();
            match self.poll.poll(&mut events, Some(self.patience())) {
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                result => result?,
            }
            for event in &events {
                match event.token() {
                    MASTER => self.obey()?,
                    LISTENER => self.peers.accept(self.poll.registry()),
                    Token(number) if number % 2 == 0 => self.peers.is_readable(number),
                    Token(number) => self.captures.is_readable(number),
                }
            }
            if self.peers.has_more() {
                self.peers.accept(self.poll.registry());
            }
            self.lines.console.write();
            self.captures.read(&mut self.lines);
            self.peers.read(&mut self.lines);
            self.lines.console.write();
            self.move_the_console()?;
            self.recall()?;
            if self.is_finished(alone) {
                return Ok(());
            }
        }
    }

    /// How long to wait for an event.
    fn patience(&self) -> Duration {
        if self.lines.console.is_full() {
            RETRY
        } else if !self.captures.is_quiet() {
            Duration::ZERO
        } else if self.end.is_some() || !self.lines.console.is_empty() {
            RETRY
        } else {
            self.beat
        }
    }

    /// Takes the master's orders; its end is one too.
    fn obey(&mut self) -> io::Result<()> {
        loop {
            // The master writes an order with one call: what has begun to come is there whole.
            match channel::receive(&self.control) {
                Ok(Some((LogOrder::Capture { name }, mut streams))) => {
                    if let Some(stream) = streams.pop() {
                        self.captures.add(name, stream, self.poll.registry())?;
                    }
                }
                Ok(Some((LogOrder::Console, mut streams))) => {
                    self.next_console = streams.pop();
                }
                Ok(Some((LogOrder::Recall { number, name }, _))) => self.recalled = Some((number, name)),
                Ok(Some((LogOrder::Finish, _))) => self.end_within(FINISH),
                Ok(None) => {
                    self.orphaned = self.end.is_none();
                    self.end_within(self.orphaned_limit);
                    return self.poll.registry().deregister(&mut SourceFd(&self.control.as_raw_fd()));
                }
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => return Ok(()),
                Err(error) => return Err(error),
            }
        }
    }

    /// At the end of the turn: what was said before the order is for the old one.
    fn move_the_console(&mut self) -> io::Result<()> {
        let Some(console) = self.next_console.take() else { return Ok(()) };
        STANDARD.iter().try_for_each(|&standard| descriptors::install(console.as_fd(), standard))
    }

    /// At the end of the turn: what the dead have said was there before the order.
    fn recall(&mut self) -> io::Result<()> {
        let Some((number, name)) = self.recalled.take() else { return Ok(()) };
        let mut report = Vec::new();
        frame::encode(&LogReport::Recalled { number, lines: self.lines.memory.recall(&name) }, &mut report);
        match passing::send(self.control.as_fd(), &report, &[]) {
            // Its end comes next.
            Err(error) if is_end(&error) => Ok(()),
            result => result.map(drop),
        }
    }

    fn end_within(&mut self, limit: Duration) {
        let end = Instant::now() + limit;
        self.end = Some(self.end.map_or(end, |earlier| earlier.min(end)));
    }

    fn is_finished(&self, alone: bool) -> bool {
        let Some(end) = self.end else { return false };
        let all_said = alone || !self.orphaned;
        let nothing_left =
            all_said && self.peers.is_empty() && self.captures.is_quiet() && self.lines.console.is_empty();
        nothing_left || Instant::now() >= end
    }
}
