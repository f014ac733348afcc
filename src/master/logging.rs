//! The log helper's births, what it is given and what it says, and the log's files.

use std::collections::BTreeMap;
use std::io::{self, Write};
use std::os::fd::{AsFd, BorrowedFd};
use std::os::unix::net::UnixStream;
use std::time::{Duration, Instant, SystemTime};

use super::Master;
use super::children::{Output, plain};
use super::log_control::Reopening;
use super::log_level::Raised;
use super::rings::Rings;
use super::run_dir::RunDir;
use super::supervisor::Event;
use super::targets::{LOOK_EVERY, Targets};
use crate::contract::ids::{Birth, Role};
use crate::contract::lock;
use crate::contract::orders::{LogOrder, LogReport, RINGS_AT_ONCE, RingGiven};
use crate::error::{Chain, Context, Error};
use crate::log::{logger, writer};
use crate::settings::Settings;
use crate::settings::log::Transport;
use crate::sys::descriptors::takes_a_line;
use crate::sys::{descriptors, privileges, process, signals, title};

/// What the log helper waits beyond the workers' own limit when the master is gone.
const ORPHANED_GRACE: Duration = Duration::from_secs(5);

/// The longest reason that is shown, in characters.
const REASON_LEN_MAX: usize = 200;

/// All that the master holds of the log.
pub(super) struct Log {
    /// The log helper that was given all that it needs.
    pub(super) helper: Option<Birth>,
    pub(super) rings: Rings,
    pub(super) targets: Targets,
    /// What is logged beside what the settings want, for a while.
    pub(super) raised: Option<Raised>,
    /// Files that the log helper was told of and does not write to yet: ticket and target.
    pub(super) switches: Vec<(u64, u64)>,
    last_ticket: u64,
    /// Who waits for some of them.
    pub(super) reopenings: Vec<Reopening>,
    /// Targets that take nothing, with the reason.
    pub(super) troubles: BTreeMap<u64, String>,
    /// Files that could not be opened anew, with the reason.
    pub(super) unopened: BTreeMap<u64, String>,
}

impl Log {
    /// Makes the memory of the log, and the master's own way to the log helper.
    pub(super) fn open(settings: &Settings, run_dir: &RunDir, targets: Targets) -> Result<Self, Error> {
        let cannot = || "cannot make the log's memory".to_owned();
        let mut rings = Rings::new().or_refused(cannot)?;
        match settings.log_transport {
            Transport::Ring => {
                let (ring, bell) = rings.make_own(settings.log_ring).or_refused(cannot)?;
                logger::to_ring(&settings.log_level, ring, bell);
            }
            Transport::Socket => {
                logger::to_helper(&settings.log_level, &run_dir.log_socket_path(), String::new());
                logger::batch_on_this_thread();
            }
        }
        Ok(Self {
            helper: None,
            rings,
            targets,
            raised: None,
            switches: Vec::new(),
            last_ticket: 0,
            reopenings: Vec::new(),
            troubles: BTreeMap::new(),
            unopened: BTreeMap::new(),
        })
    }

    /// When there is something to be done, if nothing happens before.
    pub(super) fn due(&self) -> Option<Instant> {
        [self.targets.due(), self.raised.as_ref().map(Raised::until)].into_iter().flatten().min()
    }

    /// What a target is called.
    pub(super) fn name(&self, number: u64) -> String {
        self.targets.get(number).map(|held| held.name()).unwrap_or_default()
    }
}

/// Says something where the log is not, or is no more.
pub(super) fn say(program: &str, what: &str) {
    let console = io::stderr();
    // A terminal that is closed or stopped is no reason for another end, or for none.
    if takes_a_line(console.as_fd()) {
        let _ = writeln!(console.lock(), "{program}: {what}");
    }
}

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
            signals::survive_large_files()?;
            process::offer_to_the_oom_killer();
            title::wipe_the_environment();
            title::set(&format!("{}: {}", self.identity.name, Role::Log));
            let listener = self.log_listener.try_clone()?;
            let (ledger, bell) =
                (self.log.rings.ledger().fd().try_clone_to_owned()?, self.log.rings.bell().try_clone_to_owned()?);
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
        self.log.helper = Some(log);
        self.log.targets.files.helper_is_gone();
        self.log.switches.clear();
        // What still is trouble for the new one it says itself.
        self.log.troubles.clear();
        self.tell_the_targets(log)?;
        self.hand_on_the_switches()?;
        self.show_rings(log, &self.log.rings.all())?;
        for number in self.log.rings.ended() {
            self.children.tell(log, &LogOrder::RingEnds { number }, &[])?;
        }
        let outputs: Vec<(&Role, &Output)> = self.outputs.iter().collect();
        self.show_outputs(log, &outputs)?;
        self.compress_what_waits();
        Ok(())
    }

    fn show_rings(&self, log: Birth, rings: &[RingGiven]) -> io::Result<()> {
        rings.chunks(RINGS_AT_ONCE).try_for_each(|rings| {
            let memory: Vec<BorrowedFd<'_>> =
                rings.iter().filter_map(|ring| self.log.rings.memory(ring.number)).collect();
            self.children.tell(log, &LogOrder::Rings { rings: rings.to_vec() }, &memory)
        })
    }

    fn show_outputs(&self, log: Birth, outputs: &[(&Role, &Output)]) -> io::Result<()> {
        outputs.chunks(RINGS_AT_ONCE).try_for_each(|outputs| {
            let names = outputs.iter().map(|(post, _)| post.to_string()).collect();
            let readers: Vec<BorrowedFd<'_>> = outputs.iter().map(|(_, output)| output.reader.as_fd()).collect();
            self.children.tell(log, &LogOrder::Capture { names }, &readers)
        })
    }

    /// A new one begins with the files of the last one, as far as that had come, and goes on with those that were
    /// to follow. Whoever waits for these has them when it does.
    fn hand_on_the_switches(&mut self) -> io::Result<()> {
        self.conclude_the_reopenings();
        for number in self.log.targets.file_numbers() {
            if let Some(next) = self.log.targets.files.next(number).map(|next| next.try_clone_to_owned()) {
                self.switch(number, next?.as_fd());
            }
        }
        Ok(())
    }

    fn tell_the_targets(&self, log: Birth) -> io::Result<()> {
        let targets = self.log.targets.iter().map(|held| held.given.clone()).collect();
        let descriptors = self.log.targets.descriptors()?;
        let borrowed: Vec<BorrowedFd<'_>> = descriptors.iter().map(AsFd::as_fd).collect();
        self.children.tell(log, &LogOrder::Targets { targets }, &borrowed)
    }

    /// The targets of the settings that are in force now.
    pub(super) fn retarget(&self) {
        if let Some(log) = self.log.helper
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
            if let Some(log) = self.log.helper {
                self.show_outputs(log, &[(&post, &output)])?;
            }
            self.outputs.insert(post, output);
        }
        Ok(())
    }

    /// Gives up outputs of which the generation is gone. The log helper reads its end until all is read:
    /// while there is none, they stay.
    pub(super) fn forget_outputs(&mut self) {
        if self.log.helper.is_some_and(|log| self.children.pid(log).is_some()) {
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
        let made = self.log.rings.make_for(birth, role, pid, len).and_then(|given| {
            if let Some(log) = self.log.helper {
                self.show_rings(log, &[given])?;
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
        let Some(number) = self.log.rings.end(birth, is_killed) else { return };
        if let Some(log) = self.log.helper {
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
                if let Some(odd) = self.log.rings.taken(end) {
                    log::error!(target: "forebay", "{odd}");
                }
            }
            LogReport::Switched { ticket } => self.switched(ticket),
            LogReport::Compressed { id, error } => {
                if let Some(reason) = &error {
                    log::error!(target: "forebay", "cannot compress a rotated file of the log: {}", plain(reason, REASON_LEN_MAX));
                }
                self.log.targets.files.compressed(id, error.map_or(Ok(()), Err));
                self.compress_what_waits();
            }
            LogReport::Large { target } => {
                let wall = SystemTime::now();
                if self.log.targets.files.due(wall).contains(&target) {
                    self.rotate_log(target, wall);
                }
            }
            LogReport::Trouble { target, reason } => self.target_is_in_trouble(target, reason),
        }
        Event::Tick
    }

    fn target_is_in_trouble(&mut self, target: u64, reason: Option<String>) {
        let Some(held) = self.log.targets.get(target) else { return };
        let name = held.name();
        match reason.map(|reason| plain(&reason, REASON_LEN_MAX)) {
            Some(reason) => {
                log::error!(target: "forebay", "the log cannot be written to {name}: {reason}; it is tried again, and what does not fit in between is counted");
                self.log.troubles.insert(target, reason);
            }
            None => {
                log::warn!(target: "forebay", "the log is written to {name} again");
                self.log.troubles.remove(&target);
            }
        }
    }

    /// Opens all files of the log anew; where that fails, the old file stays. Returns the tickets of those that
    /// the log helper is to switch to, and why others were not opened.
    pub(super) fn reopen_logs(&mut self) -> (Vec<u64>, Vec<String>) {
        let (mut tickets, mut reasons) = (Vec::new(), Vec::new());
        for number in self.log.targets.file_numbers() {
            match self.reopen_log(number) {
                Ok(ticket) => tickets.extend(ticket),
                Err(reason) => reasons.push(reason),
            }
        }
        (tickets, reasons)
    }

    fn reopen_log(&mut self, number: u64) -> Result<Option<u64>, String> {
        match self.log.targets.files.reopen(number) {
            Ok(file) => {
                if self.log.unopened.remove(&number).is_some() {
                    log::warn!(target: "forebay", "the log's file {} is open again", self.log.name(number));
                }
                Ok(self.switch(number, file.as_fd()))
            }
            Err(error) => {
                let (name, why) = (self.log.name(number), Chain(&error).to_string());
                let reason = format!("cannot reopen the log's file {name}, the old one stays in use: {why}");
                // Once for each trouble: it is tried again every second.
                if self.log.unopened.insert(number, why).is_none() {
                    log::error!(target: "forebay", "{reason}");
                }
                Err(reason)
            }
        }
    }

    /// The log helper writes to this file from now on, and says with the ticket when it does.
    fn switch(&mut self, target: u64, file: BorrowedFd<'_>) -> Option<u64> {
        let log = self.log.helper?;
        self.log.last_ticket += 1;
        let ticket = self.log.last_ticket;
        match self.children.tell(log, &LogOrder::Switch { target, ticket }, &[file]) {
            Ok(()) => {
                self.log.switches.push((ticket, target));
                Some(ticket)
            }
            Err(error) => {
                log::error!(target: "forebay", "cannot tell the log helper its file: {error}");
                None
            }
        }
    }

    fn switched(&mut self, ticket: u64) {
        let Some(at) = self.log.switches.iter().position(|(waiting, _)| *waiting == ticket) else { return };
        let (_, target) = self.log.switches.remove(at);
        if self.log.switches.iter().all(|(_, other)| *other != target) {
            self.log.targets.files.is_switched(target);
        }
        self.conclude_the_reopenings();
        self.compress_what_waits();
    }

    /// Nothing that the log helper still writes to is compressed.
    fn compress_what_waits(&mut self) {
        let Some(log) = self.log.helper.filter(|_| self.log.switches.is_empty()) else { return };
        for number in self.log.targets.file_numbers() {
            if let Some(compression) = self.log.targets.files.compression(number) {
                let order = LogOrder::Compress { id: compression.id };
                let told = self.children.tell(log, &order, &[compression.from.as_fd(), compression.to.as_fd()]);
                if let Err(error) = told {
                    self.log.targets.files.compressed(compression.id, Err(error.to_string()));
                }
            }
        }
    }

    /// Whether the log's files are where they were, and small and young enough.
    pub(super) fn look_at_the_logs(&mut self, now: Instant) {
        if self.log.targets.file_numbers().is_empty() {
            self.log.targets.looked = None;
            return;
        }
        if self.log.targets.looked.is_some_and(|looked| now < looked + LOOK_EVERY) {
            return;
        }
        self.log.targets.looked = Some(now);
        for number in self.log.targets.files.moved() {
            // What it says was said in the log.
            let _ = self.reopen_log(number);
        }
        let wall = SystemTime::now();
        for number in self.log.targets.files.due(wall) {
            self.rotate_log(number, wall);
        }
    }

    fn rotate_log(&mut self, number: u64, now: SystemTime) {
        match self.log.targets.files.rotate(number, now) {
            Ok(rotated) => {
                if let Some(place) = &rotated.moved_to {
                    log::info!(target: "forebay", "the log's file was rotated: it is {} now", place.display());
                }
                self.switch(number, rotated.descriptor.as_fd());
            }
            Err(error) => {
                let name = self.log.name(number);
                log::error!(target: "forebay", "cannot rotate the log's file {name}: {}", Chain(&error));
            }
        }
    }

    /// What is not in the log, at the end.
    pub(super) fn check_the_log(&self) -> Vec<String> {
        let (own, others) = (self.log.rings.own_missing(), self.log.rings.others_missing());
        let own = (own != 0).then(|| format!("{own} of the master's own records are not in the log"));
        let others = (others > 0).then(|| format!("{others} records of other processes are not in the log"));
        let missing = self.log.targets.missing(self.log.rings.ledger());
        let targets = missing.into_iter().map(|(name, count)| format!("{count} records are not in {name}"));
        own.into_iter().chain(others).chain(targets).collect()
    }
}
