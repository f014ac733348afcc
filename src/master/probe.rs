//! The master's own connections to helpers in another language: whether one is ready, and whether it
//! still answers.
//!
//! Such a process is a client's view of `ipc-protocol.md` away: ready with its welcome, alive with each
//! pong. What it sends is input like everything else, in short frames; a broken rule ends it.

use std::collections::BTreeMap;
use std::io::{self, ErrorKind, Read};
use std::path::PathBuf;
use std::time::{Duration, Instant};

use mio::net::UnixStream;
use mio::{Interest, Registry, Token};

use super::children::plain;
use crate::contract::ids::Birth;
use crate::ipc::caller::{Caller, Told};
use crate::ipc::message::{self, GoAway, GoAwayCode};
use crate::ipc::peer;

/// Tokens of these connections have this bit.
const TOKEN_BIT: usize = 1 << 61;

/// The longest frame that is read, in bytes.
const FRAME_LEN_MAX: u32 = 4096;

/// Bytes taken from one in one turn.
const READ_MAX: usize = 64 * 1024;

/// Bytes that one may leave unread.
const UNSENT_MAX: usize = 64 * 1024;

/// So much of what it says is shown, in characters.
const REASON_LEN_MAX: usize = 200;

/// From one attempt to connect to the next.
const RETRY: Duration = Duration::from_millis(100);

/// All of them.
#[derive(Default)]
pub(super) struct Probes {
    known: BTreeMap<Birth, Probe>,
}

struct Probe {
    path: PathBuf,
    /// From one ping to the next.
    every: Duration,
    /// When to connect, or to ping.
    due: Instant,
    line: Option<Line>,
    is_ready: bool,
    /// So many were sent: a pong has the number of its ping.
    pings: u64,
}

struct Line {
    stream: UnixStream,
    caller: Caller,
    /// The ping that has no pong yet.
    asked: Option<u64>,
}

/// What one has shown.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Sign {
    Ready(Birth),
    Alive(Birth),
    /// It does not keep to the protocol.
    Broken(Birth, String),
}

impl Probes {
    /// Asks this process from now on, at this socket, so often. False: the socket leads nowhere.
    pub(super) fn watch(
        &mut self,
        birth: Birth,
        path: PathBuf,
        every: Duration,
        registry: &Registry,
        now: Instant,
    ) -> bool {
        let line = Line::open(&path, token(birth), registry);
        let leads_nowhere = line.as_ref().err().is_some_and(is_cut_off);
        self.known.insert(birth, Probe { path, every, due: now, line: line.ok(), is_ready: false, pings: 0 });
        !leads_nowhere
    }

    /// Asks only those any more.
    pub(super) fn keep(&mut self, is_known: impl Fn(Birth) -> bool) {
        self.known.retain(|&birth, _| is_known(birth));
    }

    /// When somebody is to be asked.
    pub(super) fn due(&self) -> Option<Instant> {
        self.known.values().map(|probe| probe.due).min()
    }

    /// Asks whoever is due.
    pub(super) fn ask(&mut self, registry: &Registry, now: Instant) -> Vec<Sign> {
        let due = self.known.iter_mut().filter(|(_, probe)| probe.due <= now);
        due.filter_map(|(&birth, probe)| probe.ask(birth, registry, now)).collect()
    }

    /// What has come on the connection of this token.
    pub(super) fn hear(&mut self, token: Token, now: Instant) -> Vec<Sign> {
        let Some(birth) = birth_of(token) else { return Vec::new() };
        let signs = self.known.get_mut(&birth).map(|probe| probe.hear(birth, now)).unwrap_or_default();
        if matches!(signs.last(), Some(Sign::Broken(..))) {
            self.known.remove(&birth);
        }
        signs
    }
}

impl Probe {
    fn ask(&mut self, birth: Birth, registry: &Registry, now: Instant) -> Option<Sign> {
        let Some(line) = &mut self.line else {
            self.due = now + RETRY;
            return match Line::open(&self.path, token(birth), registry) {
                Ok(line) => {
                    self.line = Some(line);
                    None
                }
                // The fault is here: whether it answers is not known.
                Err(error) if is_scarcity(&error) => self.is_ready.then_some(Sign::Alive(birth)),
                // A process that takes nobody, or whose socket is gone, shows no life.
                Err(error) => {
                    log::debug!(target: "forebay", "cannot connect to {}: {error}", self.path.display());
                    None
                }
            };
        };
        self.due = now + self.every;
        // Until the welcome there is nothing to ask: `ready` bounds that.
        if self.is_ready && line.asked.is_none() {
            self.pings += 1;
            line.asked = Some(self.pings);
            message::ping(self.pings, line.caller.unsent());
            if line.write().is_err() {
                self.hang_up(now);
            }
        }
        None
    }

    fn hear(&mut self, birth: Birth, now: Instant) -> Vec<Sign> {
        let Some(line) = &mut self.line else { return Vec::new() };
        let mut signs = Vec::new();
        match line.hear(birth, &mut self.is_ready, &mut signs) {
            Ok(true) => {}
            Ok(false) => self.hang_up(now),
            Err(why) => {
                self.hang_up(now);
                signs.push(Sign::Broken(birth, why));
            }
        }
        signs
    }

    fn hang_up(&mut self, now: Instant) {
        self.line = None;
        self.due = now + RETRY;
    }
}

impl Line {
    fn open(path: &PathBuf, token: Token, registry: &Registry) -> io::Result<Self> {
        let mut stream = UnixStream::connect(path)?;
        registry.register(&mut stream, token, Interest::READABLE | Interest::WRITABLE)?;
        let mut line = Self { stream, caller: Caller::reading_at_most("master", FRAME_LEN_MAX), asked: None };
        line.write()?;
        Ok(line)
    }

    fn write(&mut self) -> io::Result<()> {
        peer::write(&mut self.stream, self.caller.unsent())
    }

    /// Takes in what has come; false: the connection has ended. The error is the rule that was broken.
    fn hear(&mut self, birth: Birth, is_ready: &mut bool, signs: &mut Vec<Sign>) -> Result<bool, String> {
        let mut buffer = [0; FRAME_LEN_MAX as usize];
        let mut taken = 0;
        loop {
            match self.stream.read(&mut buffer) {
                Ok(0) => return Ok(false),
                Ok(count) => {
                    taken += count;
                    self.caller.feed(&buffer[..count]);
                }
                // A ping of its own may be answered with more than the socket takes.
                Err(error) if error.kind() == ErrorKind::WouldBlock => return Ok(self.write().is_ok()),
                Err(error) if error.kind() == ErrorKind::Interrupted => {}
                Err(_) => return Ok(false),
            }
            if taken > READ_MAX {
                return Err(format!("more than {READ_MAX} bytes at once to the master"));
            }
            while let Some(told) = self.caller.next().map_err(|error| error.to_string())? {
                match told {
                    Told::Welcome(_) => {
                        signs.push(if std::mem::replace(is_ready, true) {
                            Sign::Alive(birth)
                        } else {
                            Sign::Ready(birth)
                        });
                    }
                    Told::Pong(number) if self.asked == Some(number) => {
                        self.asked = None;
                        signs.push(Sign::Alive(birth));
                    }
                    Told::GoAway(GoAway { code, reason }) => match code {
                        GoAwayCode::Leaving => return Ok(false),
                        GoAwayCode::RuleBroken | GoAwayCode::NotAllowed => {
                            return Err(format!("it turns the master away: {}", plain(&reason, REASON_LEN_MAX)));
                        }
                    },
                    Told::Nothing => {}
                    Told::Pong(_)
                    | Told::Response { .. }
                    | Told::Snapshot { .. }
                    | Told::Event { .. }
                    | Told::Resync { .. }
                    | Told::End { .. } => return Err("an answer to the master, which has not asked".to_owned()),
                }
            }
            if self.caller.unsent().len() > UNSENT_MAX {
                return Err(format!("more than {UNSENT_MAX} bytes of pongs that it does not read"));
            }
        }
    }
}

/// Whether nobody can come this way any more: the name is gone, or the socket behind it takes nobody.
fn is_cut_off(error: &io::Error) -> bool {
    matches!(error.kind(), ErrorKind::NotFound | ErrorKind::ConnectionRefused)
}

/// Whether this process has no more descriptors, or the system no memory.
fn is_scarcity(error: &io::Error) -> bool {
    matches!(error.raw_os_error(), Some(libc::EMFILE | libc::ENFILE | libc::ENOMEM | libc::ENOBUFS))
}

fn token(birth: Birth) -> Token {
    Token(TOKEN_BIT | birth.0 as usize)
}

fn birth_of(token: Token) -> Option<Birth> {
    (token.0 & TOKEN_BIT != 0).then_some(Birth((token.0 & !TOKEN_BIT) as u64))
}
