//! The supervisor's actions as system calls.

use std::hash::{BuildHasher, Hasher, RandomState};
use std::io;
use std::os::fd::{AsFd, BorrowedFd};
use std::os::unix::net::UnixStream;
use std::time::{Duration, Instant};

use nix::sys::signal::Signal;

use super::children::Output;
use super::release::Release;
use super::supervisor::{Action, Event, Progress, Report};
use super::{Master, RECORDS, report};
use crate::contract::ids::{Birth, Generation, HelperName, Role};
use crate::contract::lock;
use crate::contract::orders::{Begin, ChildOrder, LogOrder, ZygoteOrder};
use crate::contract::time::{heartbeat_period, ms};
use crate::log::{logger, writer};
use crate::settings::{Settings, WorkerLimits, count_of_workers};
use crate::sys::{descriptors, privileges, process, signals, title};

/// What a worker may need between its last connection and its end: `on_stop`.
const LAST_ACTS: Duration = Duration::from_secs(1);

/// What the log helper waits beyond the workers' own limit when the master is gone.
const ORPHANED_GRACE: Duration = Duration::from_secs(5);

impl Master {
    /// Carries out one action; what comes of it is the supervisor's next event.
    pub(super) fn act(&mut self, action: Action) -> Option<Event> {
        let result = match action {
            Action::ForkLog(birth) => {
                let result = self.fork_log(birth);
                return Some(self.tried(birth, result));
            }
            Action::StartZygote(birth, generation) => {
                let result = self.start_zygote(birth, generation);
                return Some(self.tried(birth, result));
            }
            Action::Fork { birth, role, zygote } => return self.order_fork(birth, role, zygote),
            Action::Forget(birth) => {
                self.children.forget(birth);
                return None;
            }
            Action::Begin(birth) => {
                let begun = self.begin(birth);
                self.children.begun(birth);
                begun.map_err(|error| (birth, error))
            }
            Action::Accept(birth) => self.children.tell(birth, &ChildOrder::Accept, &[]).map_err(|e| (birth, e)),
            Action::Drain(birth) => self.drain(birth).map_err(|error| (birth, error)),
            Action::Abort(birth) => {
                self.children.signal(birth, Signal::SIGABRT);
                return None;
            }
            Action::Kill(birth) => {
                self.children.signal(birth, Signal::SIGKILL);
                return None;
            }
            Action::Prepare(generation) => return Some(self.prepare(generation)),
            Action::Promise(number) => {
                self.promise(number);
                return None;
            }
            Action::Reloaded { number, generation, outcome } => {
                return self.reloaded(number, generation, outcome).map(Event::Scale);
            }
            Action::Report(line) => {
                report::log(&line, &self.children);
                self.follow(&line);
                return None;
            }
            Action::Exit(outcome) => {
                self.conclude_the_awaited(&[]);
                self.outcome = Some(outcome);
                return None;
            }
        };
        result.err().map(|(birth, error)| Event::Broken(birth, format!("does not take orders ({error})")))
    }

    /// What else a report means to those outside.
    fn follow(&mut self, report: &Report) {
        match report {
            Report::Serving => {
                self.announce();
                self.notifier.ready();
                self.detach();
            }
            Report::Reload(number, _, progress) => {
                self.tell_progress(*number, progress);
                if let Progress::Waiting(oldest) = progress {
                    self.hurry_workers(|generation| generation == *oldest);
                }
            }
            Report::Stopping { .. } => {
                self.notifier.stopping();
                self.hurry_workers(|_| true);
            }
            Report::Born(..)
            | Report::Ready(..)
            | Report::BirthFailed { .. }
            | Report::Died { .. }
            | Report::Ended { .. }
            | Report::Ending { .. }
            | Report::MakingRoom(..)
            | Report::NotRestarted(_)
            | Report::Recycling(..)
            | Report::Unkillable(..)
            | Report::Paused(_) => {}
            Report::Scaled { to, .. } => self.scaled(*to),
        }
        self.is_news = true;
    }

    /// Who was retired waits for its clients, and is waited for itself now. Others hear it twice.
    fn hurry_workers(&self, whose: impl Fn(Generation) -> bool) {
        let is_meant = |role: Role| matches!(role, Role::Worker(_, generation) if whose(generation));
        let workers = self.children.iter().filter(|(_, process)| is_meant(process.role));
        for (birth, process) in workers {
            if let Err(error) =
                self.children.tell(birth, &ChildOrder::Drain { lazily: false, within_ms: self.stop_leaves() }, &[])
            {
                log::warn!(target: "forebay", "cannot hurry {}: {error}", process.role);
            }
        }
    }

    /// Lets go of whoever waits for this moment, and of the terminal.
    fn detach(&mut self) {
        let Some(detach) = self.when_serving.take() else { return };
        // Before the order: what was said until now is for the terminal.
        logger::flush();
        let shown = detach().and_then(|console| {
            if let Some(log) = self.reader_of_outputs {
                self.children.tell(log, &LogOrder::Console, &[console.as_fd()])?;
            }
            self.console = Some(console);
            Ok(())
        });
        if let Err(error) = shown {
            log::error!(target: "forebay", "cannot leave the terminal: {error}");
        }
    }

    /// What the supervisor is told of a birth that this process tried itself.
    fn tried(&mut self, birth: Birth, result: io::Result<()>) -> Event {
        match result {
            Ok(()) => Event::Born(birth),
            Err(error) => self.not_born(birth, &error),
        }
    }

    fn not_born(&mut self, birth: Birth, error: &io::Error) -> Event {
        self.children.forget(birth);
        Event::BirthFailed(birth, error.to_string())
    }

    fn fork_log(&mut self, birth: Birth) -> io::Result<()> {
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
            let kept = [control.as_fd(), listener.as_fd(), self.scoreboard.fd(), self.children_lock.as_fd()];
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
            let heart = self.scoreboard.record(record);
            let orphaned_limit = self.settings.timeouts.drain + ORPHANED_GRACE;
            let (hang, lock) = (self.settings.timeouts.hang, &self.children_lock);
            writer::run(writer::Given { control, listener, heart, hang, lock, orphaned_limit })
        };
        match run() {
            Ok(()) => 0,
            Err(error) => {
                log::error!("log helper: {error}");
                1
            }
        }
    }

    fn start_zygote(&mut self, birth: Birth, generation: Generation) -> io::Result<()> {
        let role = Role::Zygote(generation);
        let control = self.children.prepare(birth, role, None, self.poll.registry())?;
        self.make_output(role)?;
        let output = self.outputs[&role].writer.try_clone()?;
        let pid = self.release(generation)?.load.start_zygote(self.identity.name, control.into(), output)?;
        self.children.born(birth, pid);
        Ok(())
    }

    fn order_fork(&mut self, birth: Birth, role: Role, zygote: Birth) -> Option<Event> {
        self.children.forget_strangers();
        let record = self.free_record();
        let ordered = self
            .children
            .prepare(birth, role, Some(record), self.poll.registry())
            .and_then(|theirs| self.children.tell(zygote, &ZygoteOrder::Fork { birth }, &[theirs.as_fd()]));
        ordered.err().map(|error| self.not_born(birth, &error))
    }

    /// Tells a newborn who it is.
    fn begin(&mut self, birth: Birth) -> io::Result<()> {
        let Some(process) = self.children.get(birth) else { return Ok(()) };
        match (process.role, process.record) {
            (Role::Log, _) => self.hand_over_outputs(birth),
            (Role::Zygote(generation), _) => {
                let release = self.release(generation)?;
                let order = ZygoteOrder::Load {
                    generation,
                    filter: release.settings.log_level.clone(),
                    log_socket: Some(self.run_dir.log_socket_path()),
                    config_path: release.settings.file.clone(),
                    files: release.load.files(),
                    only_configuration: false,
                };
                self.children.tell(birth, &order, &release.load.given(&self.children_lock))
            }
            (role @ Role::Worker(_, generation), record) => {
                self.make_output(role)?;
                let Release { settings, listeners, .. } = self.release(generation)?;
                let listeners = self.listeners.descriptors(listeners);
                self.begin_forked(birth, role, record, settings, &settings.log_level, listeners)
            }
            (role @ Role::Helper(name, generation), record) => {
                self.make_output(role)?;
                if self.offers.is_foreign(generation, name) {
                    self.watch_foreign(birth, generation, name)?;
                }
                let settings = &self.release(generation)?.settings;
                // One that was ordered before a commit, and is kept, logs what is wanted now.
                let Settings { log_level, .. } = if generation < self.serving { &self.settings } else { settings };
                self.begin_forked(birth, role, record, settings, log_level, self.offers.socket(name).into_iter())
            }
        }
    }

    /// Asks it from its birth on. What was the program before it may have taken the socket's name away, or
    /// shut the socket down: then it gets a new one.
    fn watch_foreign(&mut self, birth: Birth, generation: Generation, name: HelperName) -> io::Result<()> {
        let every = heartbeat_period(self.release(generation)?.settings.timeouts.hang);
        let path = self.run_dir.helper_socket_path(name);
        let (registry, now) = (self.poll.registry(), Instant::now());
        if !self.probes.watch(birth, path.clone(), every, registry, now) {
            log::warn!(target: "forebay", "the socket of helper {name} leads nowhere any more: it is bound anew");
            self.offers.bind_anew(name, &self.run_dir).map_err(io::Error::other)?;
            self.probes.watch(birth, path, every, self.poll.registry(), now);
        }
        Ok(())
    }

    /// What this generation is started from.
    fn release(&self, generation: Generation) -> io::Result<&Release> {
        self.releases.get(&generation).ok_or_else(|| io::Error::other(format!("{generation} is gone")))
    }

    fn begin_forked<'a>(
        &'a self,
        birth: Birth,
        role: Role,
        record: Option<u32>,
        settings: &Settings,
        filter: &str,
        listeners: impl Iterator<Item = BorrowedFd<'a>>,
    ) -> io::Result<()> {
        let begin = Begin {
            role,
            record: record.unwrap_or_default(),
            drain_ms: ms(settings.timeouts.drain),
            hang_ms: ms(settings.timeouts.hang),
            filter: filter.to_owned(),
            requests_max: requests_max(&settings.worker),
            slow_turn_ms: ms(settings.worker.slow_turn),
            log_socket: self.run_dir.log_socket_path(),
            ipc_dir: self.run_dir.ipc_dir(),
            state_dir: self.run_dir.state_dir(),
        };
        let output = self.outputs[&role].writer.as_fd();
        let mut given = vec![self.children_lock.as_fd(), self.scoreboard.fd(), output];
        given.extend(listeners);
        self.children.tell(birth, &ChildOrder::Begin(begin), &given)
    }

    /// What a stop leaves for open connections, in milliseconds: then there is time for last acts.
    fn stop_leaves(&self) -> Option<u64> {
        let left = self.supervisor.stop_deadline()?.saturating_duration_since(Instant::now());
        Some(ms(left.saturating_sub(LAST_ACTS).max(left / 2)))
    }

    fn drain(&mut self, birth: Birth) -> io::Result<()> {
        match self.role(birth) {
            Some(Role::Helper(name, generation)) if self.offers.is_foreign(generation, name) => {
                self.children.signal(birth, Signal::SIGTERM);
                Ok(())
            }
            Some(Role::Helper(..) | Role::Worker(..)) => {
                let lazily = !self.supervisor.is_stopping();
                self.children.tell(birth, &ChildOrder::Drain { lazily, within_ms: self.stop_leaves() }, &[])
            }
            Some(Role::Zygote(_)) => {
                self.children.hang_up(birth);
                Ok(())
            }
            Some(Role::Log) => {
                log::info!(target: "forebay", "stopped");
                // Before its last order: the master's own last records, and no more after them.
                logger::close(super::LAST_WORDS_MS);
                self.children.tell(birth, &LogOrder::Finish, &[])
            }
            None => Ok(()),
        }
    }

    /// Where a post's occupants print: made at first need, and shown to the log helper.
    fn make_output(&mut self, post: Role) -> io::Result<()> {
        if !self.outputs.contains_key(&post) {
            let output = Output::new(self.service)?;
            // One that has not begun is shown all of them then: a stream read twice is torn to pieces.
            if let Some(log) = self.reader_of_outputs {
                self.show_output(log, post, &output)?;
            }
            self.outputs.insert(post, output);
        }
        Ok(())
    }

    /// Gives up outputs of which the generation is gone. The log helper reads its end until all is read:
    /// while there is none, they stay.
    pub(super) fn forget_outputs(&mut self) {
        if self.reader_of_outputs.is_some_and(|log| self.children.pid(log).is_some()) {
            let is_of_use = |post: &Role| post.generation().is_none_or(|of| self.releases.contains_key(&of));
            self.outputs.retain(|post, _| is_of_use(post));
        }
    }

    /// A new log helper reads on where the last one stopped.
    fn hand_over_outputs(&mut self, log: Birth) -> io::Result<()> {
        self.reader_of_outputs = Some(log);
        self.outputs.iter().try_for_each(|(&post, output)| self.show_output(log, post, output))
    }

    fn show_output(&self, log: Birth, post: Role, output: &Output) -> io::Result<()> {
        self.children.tell(log, &LogOrder::Capture { name: post.to_string() }, &[output.reader.as_fd()])
    }

    /// A record of the scoreboard that no living process has.
    fn free_record(&self) -> u32 {
        let taken = |record| self.children.iter().any(|(_, process)| process.record == Some(record));
        let free = (0..RECORDS).find(|&record| !taken(record));
        let record = free.expect("invariant: there are more records than processes");
        self.scoreboard.record(record).clear();
        record
    }

    /// Says plainly that it works, and what one may want to do next.
    fn announce(&self) {
        let pid = std::process::id();
        let workers = count_of_workers(self.supervisor.workers_wanted());
        let took = self.started.elapsed().as_millis();
        let urls = self.urls();
        let program = self.program.display();
        let place = match &self.settings.run_dir {
            Some(run_dir) => format!(" --run-dir {}", run_dir.display()),
            None => String::new(),
        };
        log::info!(target: "forebay", "serving on {urls} with {workers} after {took} ms, master pid {pid}");
        log::info!(target: "forebay", "to look: {program} status{place}");
        // In the background there is no terminal, nor in a moment.
        let at_the_terminal = if self.when_serving.is_none() { "Ctrl-C, " } else { "" };
        log::info!(target: "forebay", "to stop: {at_the_terminal}kill {pid}, or {program} stop{place}");
        log::info!(target: "forebay", "to reload: kill -HUP {pid}, or {program} reload{place}");
    }
}

/// After how many requests a worker is worn: not all of them after the same number.
fn requests_max(limits: &WorkerLimits) -> Option<u64> {
    let most = limits.requests_max?;
    let spread = most.saturating_mul(limits.requests_jitter) / 100;
    let chance = RandomState::new().build_hasher().finish();
    Some(most.saturating_add(chance % spread.saturating_add(1)))
}
