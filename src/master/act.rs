//! The supervisor's actions as system calls.

use std::hash::{BuildHasher, Hasher, RandomState};
use std::io;
use std::os::fd::{AsFd, BorrowedFd};
use std::time::{Duration, Instant};

use nix::sys::signal::Signal;

use super::release::Release;
use super::supervisor::{Action, Event, Progress, Report};
use super::{Master, RECORDS, report};
use crate::contract::ids::{Birth, Generation, HelperName, Role};
use crate::contract::orders::{Begin, ChildOrder, LogOrder, ZygoteOrder};
use crate::contract::tickets;
use crate::contract::time::{heartbeat_period, ms};
use crate::log::{logger, ring};
use crate::settings::{Listener, Settings, WorkerLimits, count_of_workers};

/// What a worker may need between its last connection and its end: `on_stop`.
const LAST_ACTS: Duration = Duration::from_secs(1);

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
            if let Some(log) = self.log.helper {
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
            (Role::Log, _) => self.begin_log(birth),
            (Role::Zygote(generation), _) => {
                let Settings { log_transport, log_ring, .. } = self.release(generation)?.settings;
                let ring = self.make_ring(birth, Role::Zygote(generation), log_transport, log_ring);
                let release = self.release(generation)?;
                let order = ZygoteOrder::Load {
                    generation,
                    filter: release.settings.log_level.clone(),
                    log_socket: Some(self.run_dir.log_socket_path()),
                    config_path: release.settings.file.clone(),
                    files: release.load.files(),
                    only_configuration: false,
                    has_ring: ring.is_some(),
                    secure: release.load.secure(),
                };
                let mut given = release.load.given(&self.children_lock);
                given.extend(ring.into_iter().flat_map(|number| self.ring_descriptors(number)));
                given.extend(release.load.secure_files());
                self.children.tell(birth, &order, &given)
            }
            (role @ Role::Worker(_, generation), record) => {
                self.make_output(role)?;
                let ring = self.ring_for(birth, role, generation);
                let has_tickets = self.has_tickets(generation);
                let Release { settings, listeners, .. } = self.release(generation)?;
                let proxied = self.listeners.proxied(listeners);
                let listeners = self.listeners.descriptors(listeners);
                self.begin_forked(birth, role, (record, ring, has_tickets), settings, (listeners, proxied))
            }
            (role @ Role::Helper(name, generation), record) => {
                self.make_output(role)?;
                let ring = if self.offers.is_foreign(generation, name) {
                    self.watch_foreign(birth, generation, name)?;
                    None
                } else {
                    self.ring_for(birth, role, generation)
                };
                let settings = &self.release(generation)?.settings;
                let socket = self.offers.socket(name).into_iter();
                self.begin_forked(birth, role, (record, ring, false), settings, (socket, Vec::new()))
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
        (record, ring, has_tickets): (Option<u32>, Option<u64>, bool),
        settings: &Settings,
        (listeners, proxied): (impl Iterator<Item = BorrowedFd<'a>>, Vec<bool>),
    ) -> io::Result<()> {
        let begin = Begin {
            role,
            record: record.unwrap_or_default(),
            drain_ms: ms(settings.timeouts.drain),
            hang_ms: ms(settings.timeouts.hang),
            filter: self.filter_of(role),
            requests_max: requests_max(&settings.worker),
            slow_turn_ms: ms(settings.worker.slow_turn),
            http: settings.http,
            access: settings.access.is_some(),
            proxied,
            log_socket: self.run_dir.log_socket_path(),
            ipc_dir: self.run_dir.ipc_dir(),
            state_dir: self.run_dir.state_dir(),
            has_ring: ring.is_some(),
            has_tickets,
        };
        let output = self.outputs[&role].writer.as_fd();
        let mut given = vec![self.children_lock.as_fd(), self.scoreboard.fd(), output];
        given.extend(ring.into_iter().flat_map(|number| self.ring_descriptors(number)));
        given.extend(self.tickets.memory().filter(|_| has_tickets));
        given.extend(listeners);
        self.children.tell(birth, &ChildOrder::Begin(Box::new(begin)), &given)
    }

    /// The ring of a process whose release knows what that is.
    fn ring_for(&mut self, birth: Birth, role: Role, generation: Generation) -> Option<u64> {
        let release = self.releases.get(&generation).filter(|release| release.ring == ring::VERSION)?;
        let Settings { log_transport, log_ring, .. } = release.settings;
        self.make_ring(birth, role, log_transport, log_ring)
    }

    /// Whether workers of this generation are given the keys of session tickets: they speak TLS, and know the
    /// layout. Without, every handshake is a whole one.
    fn has_tickets(&mut self, generation: Generation) -> bool {
        let wants = |release: &Release| {
            release.tickets == tickets::VERSION && release.settings.listeners().iter().any(Listener::is_secure)
        };
        let made = self.releases.get(&generation).is_some_and(wants).then(|| self.tickets.make());
        if let Some(Err(error)) = &made {
            log::error!(target: "forebay", "session tickets: cannot make their keys: {error}");
        }
        made.is_some_and(|made| made.is_ok())
    }

    /// What goes with an order that gives a ring.
    fn ring_descriptors(&self, number: u64) -> impl Iterator<Item = BorrowedFd<'_>> {
        self.log.rings.memory(number).into_iter().chain([self.log.rings.bell()])
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
                // It ends when it has taken all: this was the last record of all.
                logger::fall_silent();
                self.children.tell(birth, &LogOrder::Finish, &[])
            }
            None => Ok(()),
        }
    }

    /// A record of the scoreboard that no living process has.
    pub(super) fn free_record(&self) -> u32 {
        let taken = |record| self.children.iter().any(|(_, process)| process.record == Some(record));
        let free = (0..RECORDS).find(|&record| !taken(record));
        let record = free.expect("invariant: there are more records than processes");
        self.scoreboard.assign(record);
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
