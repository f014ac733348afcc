//! Births and deaths, carried out: processes, the sockets to them, what they said.
//!
//! A child is known by the [`Birth`] the supervisor gave it. Its pid is the kernel's word: what
//! fork returned, or what a zygote said and the kernel confirmed.

use std::collections::BTreeMap;
use std::io::{self, Read};
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, OwnedFd};
use std::os::unix::net::UnixStream;
use std::time::Instant;

use mio::unix::SourceFd;
use mio::{Interest, Registry, Token};
use nix::errno::Errno;
use nix::fcntl::{FcntlArg, fcntl};
use nix::sys::signal::{Signal, kill};
use nix::sys::wait::{Id, WaitPidFlag, WaitStatus, waitid, waitpid};
use nix::unistd::{Pid, fchown};
use serde::Serialize;

use super::oom::OomKiller;
use crate::contract::ids::{Birth, Role};
use crate::contract::orders::{NOTE_LEN_MAX, ORDER_LEN_MAX};
use crate::error::Exit;
use crate::ipc::frame::{self, Decoder};
use crate::ipc::peer::is_end;
use crate::settings::Service;
use crate::sys::passing;

/// Children's tokens have this bit, so that they differ from all others.
const TOKEN_BIT: usize = 1 << 62;

/// Bytes taken from one child in one turn.
const READ_MAX: usize = 64 * 1024;

/// Bytes that a post's output holds while the log helper is away: what an unprivileged process may have, pipe(7).
const OUTPUT_LEN: i32 = 1024 * 1024;

/// Deaths of unknown processes that are remembered while an order to fork is unanswered.
const STRANGERS_MAX: usize = 64;

/// All processes this master has made, or ordered.
#[derive(Default)]
pub(super) struct Children {
    known: BTreeMap<Birth, Process>,
    /// Ended before a zygote told us of them: how, by pid.
    strangers: BTreeMap<i32, String>,
}

pub(super) struct Process {
    pub(super) role: Role,
    pub(super) pid: Option<Pid>,
    /// This process's record in the scoreboard.
    pub(super) record: Option<u32>,
    /// What it says of itself, for `status`.
    pub(super) note: Option<String>,
    /// Whether it was told who it is.
    pub(super) has_begun: bool,
    /// Whether it has reported anything.
    pub(super) has_spoken: bool,
    /// Whether it was sent SIGKILL from here.
    is_killed: bool,
    /// `None` once it broke the rules or closed it.
    control: Option<UnixStream>,
    decoder: Decoder,
}

/// A death, as waitpid(2) tells it.
pub(super) struct Death {
    pub(super) birth: Birth,
    pub(super) how: String,
    /// A worker or a helper that ended before it was one: the system refused it what it needs (a thread).
    pub(super) is_refusal: bool,
}

impl Children {
    /// Prepares a child's socket pair; returns the child's end.
    pub(super) fn prepare(
        &mut self,
        birth: Birth,
        role: Role,
        record: Option<u32>,
        registry: &Registry,
    ) -> io::Result<UnixStream> {
        let (ours, theirs) = UnixStream::pair()?;
        ours.set_nonblocking(true)?;
        registry.register(&mut SourceFd(&ours.as_raw_fd()), token(birth), Interest::READABLE)?;
        let decoder = Decoder::new(ORDER_LEN_MAX);
        self.known.insert(
            birth,
            Process {
                role,
                pid: None,
                record,
                note: None,
                has_begun: false,
                has_spoken: false,
                is_killed: false,
                control: Some(ours),
                decoder,
            },
        );
        Ok(theirs)
    }

    pub(super) fn get(&self, birth: Birth) -> Option<&Process> {
        self.known.get(&birth)
    }

    /// Whether this process is one of ours that lives.
    pub(super) fn has(&self, pid: Pid) -> bool {
        self.known.values().any(|process| process.pid == Some(pid))
    }

    pub(super) fn pid(&self, birth: Birth) -> Option<Pid> {
        self.known.get(&birth)?.pid
    }

    pub(super) fn iter(&self) -> impl Iterator<Item = (Birth, &Process)> {
        self.known.iter().map(|(&birth, process)| (birth, process))
    }

    /// Gives up what was prepared or is dead. A child that has not begun ends when its socket
    /// closes.
    pub(super) fn forget(&mut self, birth: Birth) {
        self.known.remove(&birth);
    }

    /// The process of this birth, made by ourselves.
    pub(super) fn born(&mut self, birth: Birth, pid: Pid) {
        if let Some(process) = self.known.get_mut(&birth) {
            process.pid = Some(pid);
        }
    }

    /// It was told who it is.
    pub(super) fn begun(&mut self, birth: Birth) {
        if let Some(process) = self.known.get_mut(&birth) {
            process.has_begun = true;
        }
    }

    /// The process of this birth, as a zygote tells it: an error unless the kernel says that it is
    /// a child of ours that we do not know yet. `Some`: it has ended meanwhile.
    pub(super) fn reported(&mut self, birth: Birth, pid: i32) -> Result<Option<Death>, String> {
        let Some(process) = self.known.get(&birth) else { return Err("an answer that nobody waits for".to_owned()) };
        if process.pid.is_some() || pid <= 0 || self.known.values().any(|known| known.pid == Some(Pid::from_raw(pid))) {
            return Err(format!("pid {pid} for a birth is another process's"));
        }
        if let Some(how) = self.strangers.remove(&pid) {
            return Ok(Some(Death { birth, how, is_refusal: false }));
        }
        let pid = Pid::from_raw(pid);
        let only_ask = WaitPidFlag::WEXITED | WaitPidFlag::WNOHANG | WaitPidFlag::WNOWAIT;
        match waitid(Id::Pid(pid), only_ask) {
            Ok(_) => self.born(birth, pid),
            Err(error) => return Err(format!("pid {pid} is no child of the master: {error}")),
        }
        Ok(None)
    }

    /// No order is unanswered: no stranger can turn out to be a child.
    pub(super) fn forget_strangers(&mut self) {
        self.strangers.clear();
    }

    /// Collects the dead, strangers included: as subreaper the master gets those of its children.
    pub(super) fn reap(&mut self, oom: &mut OomKiller) -> Vec<Death> {
        let mut deaths = Vec::new();
        let refused = format!("exited with {}", Exit::Refused as u8);
        loop {
            let (pid, how) = match waitpid(None, Some(WaitPidFlag::WNOHANG)) {
                Ok(WaitStatus::Exited(pid, code)) => (pid, format!("exited with {code}")),
                Ok(WaitStatus::Signaled(pid, signal, core)) => {
                    let is_others_work = signal == Signal::SIGKILL && !self.is_killed(pid);
                    let more = match (core, is_others_work) {
                        (true, _) => " (core dumped)",
                        (false, true) if oom.explains_a_death(Instant::now()) => " (out of memory)",
                        (false, _) => "",
                    };
                    (pid, format!("killed by {signal}{more}"))
                }
                Ok(_) | Err(Errno::ECHILD) => return deaths,
                Err(Errno::EINTR) => continue,
                Err(error) => {
                    log::error!(target: "forebay", "cannot wait for children: {error}");
                    return deaths;
                }
            };
            let known = self.known.iter().find(|(_, process)| process.pid == Some(pid));
            match known.map(|(&birth, process)| (birth, process.is_newborn())) {
                Some((birth, newborn)) => {
                    let is_refusal = newborn && how == refused;
                    deaths.push(Death { birth, how, is_refusal });
                }
                None if self.strangers.len() < STRANGERS_MAX => drop(self.strangers.insert(pid.as_raw(), how)),
                None => {}
            }
        }
    }

    /// Whether it was sent SIGKILL from here.
    fn is_killed(&self, pid: Pid) -> bool {
        self.known.values().any(|process| process.pid == Some(pid) && process.is_killed)
    }

    /// Sends a signal. The pid cannot mean another process: only we reap it.
    pub(super) fn signal(&mut self, birth: Birth, signal: Signal) {
        let Some(process) = self.known.get_mut(&birth) else { return };
        let Some(pid) = process.pid else { return };
        process.is_killed |= signal == Signal::SIGKILL;
        if let Err(error) = kill(pid, signal) {
            log::error!(target: "forebay", "cannot send {signal} to pid {pid}: {error}");
        }
    }

    /// Sends an order. An error means that the child does not read.
    pub(super) fn tell<T: Serialize>(&self, birth: Birth, order: &T, given: &[BorrowedFd<'_>]) -> io::Result<()> {
        let Some(control) = self.known.get(&birth).and_then(|process| process.control.as_ref()) else {
            return Ok(());
        };
        let mut out = Vec::new();
        frame::encode(order, &mut out);
        match passing::send(control.as_fd(), &out, given) {
            Ok(sent) if sent == out.len() => Ok(()),
            Ok(_) => Err(io::ErrorKind::WriteZero.into()),
            // Its end; waitpid says how.
            Err(error) if is_end(&error) => Ok(()),
            Err(error) => Err(error),
        }
    }

    /// Keeps what a child says of itself, as far as it can be shown.
    pub(super) fn note(&mut self, birth: Birth, text: &str) {
        let shown = plain(text, NOTE_LEN_MAX);
        if let Some(process) = self.known.get_mut(&birth) {
            process.note = (!shown.is_empty()).then_some(shown);
        }
    }

    /// Closes the socket to a child: for a zygote the order to end.
    pub(super) fn hang_up(&mut self, birth: Birth) {
        if let Some(process) = self.known.get_mut(&birth) {
            process.control = None;
        }
    }

    /// What a child has said, as frames; the error is why it is not listened to any longer.
    pub(super) fn listen(&mut self, birth: Birth) -> Result<Vec<Vec<u8>>, String> {
        let Some(process) = self.known.get_mut(&birth) else { return Ok(Vec::new()) };
        let said = process.listen();
        process.has_spoken |= said.as_ref().is_ok_and(|frames| !frames.is_empty());
        if said.is_err() {
            process.control = None;
        }
        said
    }
}

impl Process {
    /// Whether it was forked and has not come so far as to say anything.
    fn is_newborn(&self) -> bool {
        self.role.is_forked() && !self.has_spoken
    }

    fn listen(&mut self) -> Result<Vec<Vec<u8>>, String> {
        let Some(control) = &mut self.control else { return Ok(Vec::new()) };
        let mut frames = Vec::new();
        let mut buffer = [0; 4096];
        let mut taken = 0;
        loop {
            match control.read(&mut buffer) {
                Ok(0) => {
                    // Its end, or soon: waitpid says how.
                    self.control = None;
                    return Ok(frames);
                }
                Ok(count) => {
                    taken += count;
                    self.decoder.feed(&buffer[..count]);
                    while let Some(body) = self.decoder.next().map_err(|error| error.to_string())? {
                        frames.push(body.to_vec());
                    }
                    if taken > READ_MAX {
                        return Err(format!("more than {READ_MAX} bytes at once"));
                    }
                }
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => return Ok(frames),
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                Err(error) if is_end(&error) => {
                    self.control = None;
                    return Ok(frames);
                }
                Err(error) => return Err(error.to_string()),
            }
        }
    }
}

/// Of a child's text, what can be shown.
pub(super) fn plain(text: &str, len_max: usize) -> String {
    let letters = text.chars().map(|letter| if letter == '\n' { ' ' } else { letter });
    letters.filter(|letter| !letter.is_control()).take(len_max).collect()
}

/// Where output of a post's occupants goes; both ends outlive them.
pub(super) struct Output {
    pub(super) reader: OwnedFd,
    pub(super) writer: OwnedFd,
}

impl Output {
    pub(super) fn new(service: Service) -> io::Result<Self> {
        let (reader, writer) = io::pipe()?;
        // Where so much is not allowed, pipe(7), it has what pipes have.
        let _ = fcntl(&writer, FcntlArg::F_SETPIPE_SZ(OUTPUT_LEN));
        if service.drops {
            // So that what they start may open /dev/stderr.
            fchown(&writer, Some(service.uid), Some(service.gid))?;
        }
        Ok(Self { reader: reader.into(), writer: writer.into() })
    }
}

pub(super) fn token(birth: Birth) -> Token {
    Token(TOKEN_BIT | birth.0 as usize)
}

/// The child whose token this is.
pub(super) fn birth_of(token: Token) -> Option<Birth> {
    (token.0 & TOKEN_BIT != 0).then_some(Birth((token.0 & !TOKEN_BIT) as u64))
}
