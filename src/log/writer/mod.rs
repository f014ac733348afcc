//! The log helper: a process of its own that alone writes the log.
//!
//! One thread, one mio loop, and a second thread for what may take long. It takes records from the rings
//! of all processes, from those that send them over the log socket, and lines that children print
//! themselves. It never blocks on a target: while one that must have everything takes no more, no more
//! records are read, and the processes count what they must refuse; of what they print this one does.
//! What it has taken and not written lies in memory that outlives it. It ends when told so, or when the
//! master and all whom it has made are gone.

mod capture;
mod counts;
mod datagram;
mod followers;
pub(crate) mod format;
pub(crate) mod ledger;
mod lines;
mod memory;
mod messages;
mod outlet;
mod peers;
pub(crate) mod pending;
mod rings;
mod side;
mod stream;

use std::fs::{self, File};
use std::io;
use std::os::fd::{AsFd, AsRawFd, OwnedFd};
use std::os::unix::net::{UnixListener, UnixStream};
use std::time::{Duration, Instant};

use mio::unix::SourceFd;
use mio::{Events, Interest, Poll, Token, Waker};

use self::capture::Captures;
use self::format::Names;
use self::ledger::Ledger;
use self::lines::Lines;
use self::peers::Peers;
use self::rings::Rings;
use self::side::{Done, Side};
use crate::contract::lock;
use crate::contract::orders::{LogOrder, LogReport};
use crate::contract::scoreboard::Record;
use crate::ipc::peer::is_end;
use crate::ipc::{channel, frame};
use crate::sys::{descriptors, passing};

/// Standard output and error, which is the console.
const STANDARD: [i32; 2] = [1, 2];

const MASTER: Token = Token(0);
const LISTENER: Token = Token(1);
const BELL: Token = Token(2);
const SIDE: Token = Token(3);
/// Peers have even tokens, captured streams odd ones, from here on.
const FIRST: usize = 4;

/// How often the heart beats when nothing else happens: eight times within the limit, at least
/// and at most so often.
const BEAT_MIN: Duration = Duration::from_millis(10);
const BEAT_MAX: Duration = Duration::from_millis(500);

/// How often a target that took no more is asked again.
const RETRY: Duration = Duration::from_millis(20);

/// How often a queue of datagrams that was full is tried: some ten messages are room for more.
const REQUEUE: Duration = Duration::from_millis(1);

/// How soon a file is looked at again that was written to: whoever copies it and then truncates it has missed the
/// last lines.
const WATCH: Duration = Duration::from_millis(100);

/// How soon the rings are looked at again after there was something, without being woken: what comes in
/// that time costs nobody a system call.
const DOZE: Duration = Duration::from_millis(2);

/// How often the rings are read in one turn, at most: whoever logs without end must not keep the loop from
/// turning.
const ROUNDS_MAX: usize = 16;

/// How long the last records are waited for after `Finish`.
const FINISH: Duration = Duration::from_secs(1);

/// What the log helper is given by the master.
pub(crate) struct Given<'a> {
    pub(crate) program: &'a str,
    pub(crate) control: UnixStream,
    pub(crate) listener: UnixListener,
    pub(crate) ledger: OwnedFd,
    /// The eventfd(2) that processes wake it by.
    pub(crate) bell: OwnedFd,
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
    let Given { program, control, listener, ledger, bell, heart, hang, lock, orphaned_limit } = given;
    control.set_nonblocking(true)?;
    listener.set_nonblocking(true)?;
    let poll = Poll::new()?;
    let mut listener = mio::net::UnixListener::from_std(listener);
    poll.registry().register(&mut SourceFd(&control.as_raw_fd()), MASTER, Interest::READABLE)?;
    poll.registry().register(&mut listener, LISTENER, Interest::READABLE)?;
    poll.registry().register(&mut SourceFd(&bell.as_raw_fd()), BELL, Interest::READABLE)?;
    let side = Side::new(Waker::new(poll.registry(), SIDE)?);
    let host = fs::read_to_string("/proc/sys/kernel/hostname").unwrap_or_default().trim().to_owned();
    let names = Names { program: program.to_owned(), host };
    let writer = Writer {
        poll,
        control,
        bell,
        peers: Peers::new(listener),
        captures: Captures::default(),
        rings: Rings::default(),
        lines: Lines::new(Ledger::attach(ledger)?, names),
        side,
        next_console: None,
        recalled: None,
        switches: Vec::new(),
        beat: (hang / 8).clamp(BEAT_MIN, BEAT_MAX),
        alertness: Alertness::Looks,
        end: None,
        orphaned: false,
        orphaned_limit,
    };
    writer.run(heart, lock)
}

/// What the processes were told about waking this one.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Alertness {
    /// Nothing: it looks by itself in the next turn.
    Looks,
    /// It looks by itself soon, and wants to be woken when a ring is half full.
    Dozes,
    /// It wants to be woken with the next record.
    Sleeps,
}

struct Writer {
    poll: Poll,
    control: UnixStream,
    bell: OwnedFd,
    peers: Peers,
    captures: Captures,
    rings: Rings,
    lines: Lines,
    side: Side,
    /// Where the console is to be from the end of this turn on.
    next_console: Option<OwnedFd>,
    /// Whose last lines are to be told at the end of this turn.
    recalled: Option<(u64, String)>,
    /// Files that targets are to write to from the end of this turn on, with their tickets.
    switches: Vec<(u64, u64, OwnedFd)>,
    beat: Duration,
    alertness: Alertness,
    /// When to end at the latest, once nobody will say more.
    end: Option<Instant>,
    /// Whether the master is gone without an order to finish.
    orphaned: bool,
    orphaned_limit: Duration,
}

impl Writer {
    fn run(mut self, heart: Record<'_>, lock: &File) -> io::Result<()> {
        let mut is_ready = false;
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
                    BELL => self.silence_the_bell(),
                    SIDE => self.hear_the_side(),
                    Token(number) if number % 2 == 0 => self.peers.is_readable(number),
                    Token(number) => self.captures.is_readable(number),
                }
            }
            if self.peers.has_more() {
                self.peers.accept(self.poll.registry());
            }
            self.take();
            self.do_what_waits_for_the_end_of_a_turn()?;
            if self.lines.have_targets() && !std::mem::replace(&mut is_ready, true) {
                self.report(&LogReport::Ready)?;
            }
            if self.is_finished(alone) {
                return Ok(());
            }
        }
    }

    /// Reads what has come and writes it.
    fn take(&mut self) {
        // What would be taken before there is anywhere to write it to would be lost.
        if !self.lines.have_targets() {
            return;
        }
        let all_end = self.end.is_some() && !self.orphaned;
        self.captures.read(all_end, &mut self.lines);
        self.lines.write(&self.side);
        self.peers.read(&mut self.lines);
        self.lines.write(&self.side);
        let mut rounds = 0;
        // A file that is too large grows until the master, who is told at the end of the turn, has given another one.
        // At the end none comes.
        let goes_on = self.end.is_none();
        let rounds_max = |lines: &Lines| if goes_on && lines.wait_for_a_file() { 1 } else { ROUNDS_MAX };
        while rounds < rounds_max(&self.lines) && self.rings.read(&mut self.lines) {
            rounds += 1;
            self.lines.write(&self.side);
        }
        self.rest(rounds);
    }

    /// Decides how to wait for what comes next.
    fn rest(&mut self, rounds: usize) {
        if rounds == 0 || self.rings.has_ended() {
            self.rings.tell_of_losses(&mut self.lines);
            self.lines.write(&self.side);
        }
        self.alertness = if rounds == ROUNDS_MAX {
            Alertness::Looks
        } else if rounds > 0 || self.lines.is_full() {
            self.rings.doze();
            Alertness::Dozes
        } else if self.rings.sleep() {
            Alertness::Sleeps
        } else {
            Alertness::Looks
        };
    }

    /// How long to wait for an event.
    fn patience(&self) -> Duration {
        if self.lines.are_queueing() {
            return REQUEUE;
        }
        if self.lines.is_full() {
            let may_read = !self.captures.is_quiet() && self.lines.take_output();
            return if may_read { Duration::ZERO } else { RETRY };
        }
        let by_rings = match self.alertness {
            Alertness::Looks => Duration::ZERO,
            Alertness::Dozes => DOZE,
            Alertness::Sleeps => self.beat,
        };
        let by_rest = if !self.captures.is_quiet() {
            Duration::ZERO
        } else if self.end.is_some() || !self.lines.is_empty() || self.lines.followers.are_behind() {
            RETRY
        } else {
            let rest = if self.lines.is_watched() { WATCH } else { self.beat };
            let due = [self.lines.sync_due(), self.captures.due()].into_iter().flatten().min();
            due.map_or(rest, |due| due.saturating_duration_since(Instant::now()).min(rest))
        };
        by_rings.min(by_rest)
    }

    fn silence_the_bell(&self) {
        // It is a counter: one read takes all.
        let _ = nix::unistd::read(&self.bell, &mut [0; 8]);
    }

    fn hear_the_side(&mut self) {
        for done in self.side.done() {
            match done {
                Done::Compressed { id, outcome } => {
                    self.lines.reports.push(LogReport::Compressed { id, error: outcome.err() });
                }
                Done::Synced { number, outcome } => self.lines.synced(number, outcome),
            }
        }
    }

    /// Takes the master's orders; its end is one too.
    fn obey(&mut self) -> io::Result<()> {
        loop {
            // The master writes an order with one call: what has begun to come is there whole.
            match channel::receive(&self.control) {
                Ok(Some((order, given))) => self.carry_out(order, given)?,
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

    fn carry_out(&mut self, order: LogOrder, mut given: Vec<OwnedFd>) -> io::Result<()> {
        match order {
            LogOrder::Capture { names } => {
                for (name, stream) in names.iter().zip(given) {
                    self.captures.add(name, stream, self.poll.registry())?;
                }
            }
            LogOrder::Console => self.next_console = given.pop(),
            LogOrder::Recall { number, name } => self.recalled = Some((number, name)),
            LogOrder::Rings { rings } => {
                for (ring, memory) in rings.into_iter().zip(given) {
                    self.rings.add(ring, memory, &mut self.lines.ledger)?;
                }
            }
            LogOrder::RingEnds { number } => {
                if let Some(name) = self.rings.end(number) {
                    self.captures.end(name);
                }
            }
            LogOrder::Targets { targets } => self.lines.set_targets(&targets, given)?,
            LogOrder::Switch { target, ticket } => {
                self.switches.extend(given.pop().map(|file| (target, ticket, file)));
            }
            LogOrder::Compress { id } => {
                if let (Some(to), Some(from)) = (given.pop(), given.pop()) {
                    self.side.compress(id, from, to);
                }
            }
            LogOrder::Follow { filter } => {
                if let Some(connection) = given.pop() {
                    self.lines.followers.add_one(connection, &filter);
                }
            }
            LogOrder::MayFollow { uids } => self.lines.followers.forget_all_but(&uids),
            LogOrder::Finish => self.end_within(FINISH),
        }
        Ok(())
    }

    /// What was said before an order is meant for what was before it.
    fn do_what_waits_for_the_end_of_a_turn(&mut self) -> io::Result<()> {
        self.move_the_console()?;
        for (target, ticket, file) in std::mem::take(&mut self.switches) {
            self.lines.switch(target, file);
            self.lines.reports.push(LogReport::Switched { ticket });
        }
        // The dead have said all that they will say: it is there, and was read if nothing is left.
        let all_is_read = self.alertness != Alertness::Looks || self.rings.is_empty();
        if let Some((number, name)) = self.recalled.take_if(|_| all_is_read) {
            self.lines.reports.push(LogReport::Recalled { number, lines: self.lines.memory.recall(&name) });
        }
        let ended = self.rings.ended();
        self.lines.reports.extend(ended.into_iter().map(LogReport::RingEnded));
        for report in std::mem::take(&mut self.lines.reports) {
            self.report(&report)?;
        }
        self.lines.followers.forget_the_gone();
        Ok(())
    }

    fn move_the_console(&mut self) -> io::Result<()> {
        let Some(console) = self.next_console.take() else { return Ok(()) };
        STANDARD.iter().try_for_each(|&standard| descriptors::install(console.as_fd(), standard))?;
        self.lines.console_has_moved();
        Ok(())
    }

    fn report(&self, report: &LogReport) -> io::Result<()> {
        let mut out = Vec::new();
        frame::encode(report, &mut out);
        match passing::send(self.control.as_fd(), &out, &[]) {
            // Its end comes next, and one that does not read is ending too.
            Err(error) if is_end(&error) || error.kind() == io::ErrorKind::WouldBlock => Ok(()),
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
        let nothing_left = all_said
            && self.peers.is_empty()
            && self.captures.is_quiet()
            && self.rings.is_empty()
            && self.lines.is_empty()
            && self.side.is_synced();
        nothing_left || Instant::now() >= end
    }
}
