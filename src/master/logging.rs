//! The log helper's births, what it is given and what it says, and the log's files.

use std::io;
use std::os::fd::{AsFd, BorrowedFd};
use std::os::unix::net::UnixStream;
use std::time::{Duration, Instant, SystemTime};

use super::Master;
use super::children::{Output, plain};
use super::supervisor::Event;
use super::targets::LOOK_EVERY;
use crate::contract::ids::{Birth, Role};
use crate::contract::lock;
use crate::contract::orders::{LogOrder, LogReport, RINGS_AT_ONCE};
use crate::error::Chain;
use crate::log::{logger, writer};
use crate::settings::log::Transport;
use crate::sys::{descriptors, privileges, process, signals, title};

/// What the log helper waits beyond the workers' own limit when the master is gone.
const ORPHANED_GRACE: Duration = Duration::from_secs(5);

/// The longest reason that is shown, in characters.
const REASON_LEN_MAX: usize = 200;

impl Master {
    pub(super) fn fork_log(&mut self, birth: Birth) -> io::Result<()> {
        let record = self.free_record();
        let control = self.children.prepare(birth, Role::Log, Some(record), self.poll.registry())?;
        // Before the fork: no signal may meet the new process with the master's handlers.
        signals::block_all()?;
        let forked = process::fork_into(|| self.become_log(record, control));
        signals::unblock_all()?;
        self.children.born(birth, forked?);
        Ok(())
    }

    /// In the new process: gives up all that is the master's.
    fn become_log(&self, record: u32, control: UnixStream) -> u8 {
        let run = || -> io::Result<()> {
            signals::forget_handlers()?;
            signals::leave_to_the_master(true)?;
            process::offer_to_the_oom_killer();
            title::wipe_the_environment();
            title::set(&format!("{}: {}", self.identity.name, Role::Log));
            let listener = self.log_listener.try_clone()?;
            let (ledger, bell) =
                (self.rings.ledger().fd().try_clone_to_owned()?, self.rings.bell().try_clone_to_owned()?);
            let kept = [
                control.as_fd(),
                listener.as_fd(),
                ledger.as_fd(),
                bell.as_fd(),
                self.scoreboard.fd(),
                self.children_lock.as_fd(),
            ];
            // Before its descriptor is closed: the master's own way to the last log helper.
            logger::to_console(&self.settings.log_level);
            if let Some(console) = &self.console {
                descriptors::install(console.as_fd(), 2)?;
            }
            descriptors::close_all_but(&kept);
            if self.service.drops {
                privileges::drop_to(self.service.uid, self.service.gid)?;
            }
            lock::hold(&self.children_lock)?;
            signals::unblock_all()?;
            writer::run(writer::Given {
                program: self.identity.name,
                control,
                listener,
                ledger,
                bell,
                heart: self.scoreboard.record(record),
                hang: self.settings.timeouts.hang,
                lock: &self.children_lock,
                orphaned_limit: self.settings.timeouts.drain + ORPHANED_GRACE,
            })
        };
        match run() {
            Ok(()) => 0,
            Err(error) => {
                log::error!("log helper: {error}");
                1
            }
        }
    }

    /// Gives a new log helper all that the last one had: it goes on where that stopped.
    pub(super) fn begin_log(&mut self, log: Birth) -> io::Result<()> {
        self.log_helper = Some(log);
        self.targets.files.helper_is_gone();
        self.switches.clear();
        self.tell_the_targets(log)?;
        for rings in self.rings.all().chunks(RINGS_AT_ONCE) {
            let memory: Vec<BorrowedFd<'_>> = rings.iter().filter_map(|ring| self.rings.memory(ring.number)).collect();
            self.children.tell(log, &LogOrder::Rings { rings: rings.to_vec() }, &memory)?;
        }
        for number in self.rings.ended() {
            self.children.tell(log, &LogOrder::RingEnds { number }, &[])?;
        }
        let outputs: Vec<(&Role, &Output)> = self.outputs.iter().collect();
        for outputs in outputs.chunks(RINGS_AT_ONCE) {
            let names = outputs.iter().map(|(post, _)| post.to_string()).collect();
            let readers: Vec<BorrowedFd<'_>> = outputs.iter().map(|(_, output)| output.reader.as_fd()).collect();
            self.children.tell(log, &LogOrder::Capture { names }, &readers)?;
        }
        self.compress_what_waits();
        Ok(())
    }

    fn tell_the_targets(&self, log: Birth) -> io::Result<()> {
        let targets = self.targets.iter().map(|held| held.given.clone()).collect();
        let descriptors = self.targets.descriptors()?;
        let borrowed: Vec<BorrowedFd<'_>> = descriptors.iter().map(AsFd::as_fd).collect();
        self.children.tell(log, &LogOrder::Targets { targets }, &borrowed)
    }

    /// The targets of the settings that are in force now.
    pub(super) fn retarget(&self) {
        if let Some(log) = self.log_helper
            && let Err(error) = self.tell_the_targets(log)
        {
            log::error!(target: "forebay", "cannot tell the log helper its targets: {error}");
        }
    }

    /// Where a post's occupants print: made at first need, and shown to the log helper.
    pub(super) fn make_output(&mut self, post: Role) -> io::Result<()> {
        if !self.outputs.contains_key(&post) {
            let output = Output::new(self.service)?;
            // One that has not begun is shown all of them then: a stream read twice is torn to pieces.
            if let Some(log) = self.log_helper {
                let order = LogOrder::Capture { names: vec![post.to_string()] };
                self.children.tell(log, &order, &[output.reader.as_fd()])?;
            }
            self.outputs.insert(post, output);
        }
        Ok(())
    }

    /// Gives up outputs of which the generation is gone. The log helper reads its end until all is read:
    /// while there is none, they stay.
    pub(super) fn forget_outputs(&mut self) {
        if self.log_helper.is_some_and(|log| self.children.pid(log).is_some()) {
            let is_of_use = |post: &Role| post.generation().is_none_or(|of| self.releases.contains_key(&of));
            self.outputs.retain(|post, _| is_of_use(post));
        }
    }

    /// A ring for a process that knows the layout and shall have one; it is shown to the log helper. Where
    /// there can be none, the socket is the way.
    pub(super) fn make_ring(&mut self, birth: Birth, role: Role, transport: Transport, len: u64) -> Option<u64> {
        let pid = self.children.pid(birth)?.as_raw();
        if transport == Transport::Socket {
            return None;
        }
        let made = self.rings.make_for(birth, role, pid, len).and_then(|given| {
            if let (Some(log), Some(memory)) = (self.log_helper, self.rings.memory(given.number)) {
                self.children.tell(log, &LogOrder::Rings { rings: vec![given] }, &[memory])?;
            }
            Ok(given.number)
        });
        made.inspect_err(|error| {
            log::warn!(target: "forebay", "{role} logs over the socket: there is no ring for it: {error}");
        })
        .ok()
    }

    /// This process is gone: what it has logged is taken, and its ring with it.
    pub(super) fn end_ring(&mut self, birth: Birth, is_killed: bool) {
        let Some(number) = self.rings.end(birth, is_killed) else { return };
        if let Some(log) = self.log_helper {
            // Whoever takes its place is told too.
            let _ = self.children.tell(log, &LogOrder::RingEnds { number }, &[]);
        }
    }

    /// Takes in what the log helper says.
    pub(super) fn understand_log(&mut self, log: Birth, report: LogReport) -> Event {
        match report {
            LogReport::Ready => return Event::Ready(log),
            LogReport::Recalled { number, lines } => self.recalled(number, &lines),
            LogReport::RingEnded(end) => {
                if let Some(odd) = self.rings.taken(end) {
                    log::error!(target: "forebay", "{odd}");
                }
            }
            LogReport::Switched { ticket } => self.switched(ticket),
            LogReport::Compressed { id, error } => {
                if let Some(reason) = &error {
                    log::error!(target: "forebay", "cannot compress a rotated file of the log: {}", plain(reason, REASON_LEN_MAX));
                }
                self.targets.files.compressed(id, error.map_or(Ok(()), Err));
                self.compress_what_waits();
            }
            LogReport::Trouble { target, reason } => self.target_is_in_trouble(target, reason),
        }
        Event::Tick
    }

    fn target_is_in_trouble(&mut self, target: u64, reason: Option<String>) {
        let Some(held) = self.targets.get(target) else { return };
        let name = held.name();
        match &reason {
            Some(reason) => {
                let reason = plain(reason, REASON_LEN_MAX);
                log::error!(target: "forebay", "the log cannot be written to {name}: {reason}; it is tried again, and what does not fit in between is counted");
            }
            None => log::warn!(target: "forebay", "the log is written to {name} again"),
        }
        self.troubles.retain(|(of, _)| *of != target);
        self.troubles.extend(reason.map(|reason| (target, reason)));
    }

    /// Opens all files of the log anew. Where that fails, the old file stays.
    pub(super) fn reopen_logs(&mut self) {
        let files = self.targets.file_numbers();
        let which = if files.is_empty() { "it has none" } else { "they are opened anew" };
        log::info!(target: "forebay", "SIGUSR1: the log's files: {which}");
        files.into_iter().for_each(|number| self.reopen_log(number));
    }

    fn reopen_log(&mut self, number: u64) {
        match self.targets.files.reopen(number) {
            Ok(file) => {
                if self.unopened.remove(&number) {
                    log::warn!(target: "forebay", "the log's file {} is open again", self.target_name(number));
                }
                self.switch(number, file.as_fd());
            }
            // Once for each trouble: it is tried again every second.
            Err(error) if self.unopened.insert(number) => {
                let name = self.target_name(number);
                log::error!(target: "forebay", "cannot reopen the log's file {name}, the old one stays in use: {}", Chain(&error));
            }
            Err(_) => {}
        }
    }

    fn target_name(&self, number: u64) -> String {
        self.targets.get(number).map(|held| held.name()).unwrap_or_default()
    }

    /// The log helper writes to this file from now on, and says when it does.
    fn switch(&mut self, target: u64, file: BorrowedFd<'_>) {
        let Some(log) = self.log_helper else { return };
        self.last_ticket += 1;
        let ticket = self.last_ticket;
        match self.children.tell(log, &LogOrder::Switch { target, ticket }, &[file]) {
            Ok(()) => self.switches.push(ticket),
            Err(error) => log::error!(target: "forebay", "cannot tell the log helper its file: {error}"),
        }
    }

    fn switched(&mut self, ticket: u64) {
        self.switches.retain(|waiting| *waiting != ticket);
        self.compress_what_waits();
    }

    /// Nothing that the log helper still writes to is compressed.
    fn compress_what_waits(&mut self) {
        let Some(log) = self.log_helper.filter(|_| self.switches.is_empty()) else { return };
        for number in self.targets.file_numbers() {
            if let Some(compression) = self.targets.files.compression(number) {
                let order = LogOrder::Compress { id: compression.id };
                let told = self.children.tell(log, &order, &[compression.from.as_fd(), compression.to.as_fd()]);
                if let Err(error) = told {
                    self.targets.files.compressed(compression.id, Err(error.to_string()));
                }
            }
        }
    }

    /// Whether the log's files are where they were, and small and young enough.
    pub(super) fn look_at_the_logs(&mut self, now: Instant) {
        if self.targets.file_numbers().is_empty() {
            self.targets.looked = None;
            return;
        }
        if self.targets.looked.is_some_and(|looked| now < looked + LOOK_EVERY) {
            return;
        }
        self.targets.looked = Some(now);
        for number in self.targets.files.moved() {
            self.reopen_log(number);
        }
        let wall = SystemTime::now();
        for number in self.targets.files.due(wall) {
            match self.targets.files.rotate(number, wall) {
                Ok(rotated) => {
                    if let Some(place) = &rotated.moved_to {
                        log::info!(target: "forebay", "the log's file was rotated: it is {} now", place.display());
                    }
                    self.switch(number, rotated.descriptor.as_fd());
                }
                Err(error) => {
                    let name = self.target_name(number);
                    log::error!(target: "forebay", "cannot rotate the log's file {name}: {}", Chain(&error));
                }
            }
        }
    }

    /// What the log itself is, in figures, at the end.
    pub(super) fn check_the_log(&self) -> Option<String> {
        let missing = self.rings.own_missing();
        (missing != 0).then(|| format!("{missing} of the master's own records are not in the log"))
    }
}
