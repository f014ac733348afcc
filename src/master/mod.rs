//! The master: it owns every socket and every child, and never runs application code.
//!
//! One thread, one loop. Kernel facts and children's reports become [`Event`]s for the
//! supervisor; its [`Action`]s become system calls (`act.rs`). Nothing else decides.

mod act;
mod check;
mod children;
mod control;
mod file_identity;
mod listeners;
mod log_control;
mod log_files;
mod log_level;
mod logging;
mod notify;
mod offers;
mod oom;
mod pid_file;
mod probe;
mod program;
mod pulse;
mod release;
mod report;
mod requests;
mod rings;
mod rollout;
mod run_dir;
mod signals;
mod spare;
mod status;
mod strays;
mod supervisor;
mod survivors;
mod targets;
mod tcp;
mod tickets;
mod verdict;

use std::collections::{BTreeMap, VecDeque};
use std::fs::File;
use std::hash::{BuildHasher, Hasher, RandomState};
use std::os::fd::OwnedFd;
use std::os::unix::net::UnixListener;
use std::path::PathBuf;
use std::time::{Duration, Instant};

use mio::{Events, Poll, Token};
use nix::sys::stat::Mode;
use signal_hook_mio::v1_0::Signals;

pub(crate) use self::check::check;
use self::children::{Children, Output, birth_of};
use self::control::ControlServer;
use self::listeners::{LOCK_WAIT, Listeners};
use self::logging::Log;
use self::notify::Notifier;
use self::offers::{Offers, Refusal};
use self::oom::OomKiller;
use self::pid_file::PidFile;
use self::probe::Probes;
pub(crate) use self::program::path as program_path;
use self::release::{Held, Release};
use self::rollout::Rollout;
use self::run_dir::RunDir;
use self::signals::Wish;
use self::supervisor::{Event, Fault, Outcome, Supervisor, Wear};
use self::targets::Targets;
use self::tickets::Tickets;
use self::verdict::Awaited;
use crate::contract::ids::{Birth, Generation, HELPERS_MAX, Role, WORKERS_MAX};
use crate::contract::orders::{self, ChildReport, Manifest, ZygoteReport};
use crate::contract::scoreboard::Scoreboard;
use crate::error::{Context, Error, Exit};
use crate::ipc::frame;
use crate::log::logger;
use crate::settings::{Overrides, Service, Settings, default_run_dir};

const SIGNALS: Token = Token(0);
const CONTROL: Token = Token(1);

/// How soon records are offered again to a log helper that took no more.
const LOG_RETRY: Duration = Duration::from_millis(20);

/// How long the last records are waited for at the end, in milliseconds.
const LAST_WORDS_MS: u16 = 1000;

/// Two records for each worker, because generations overlap, and some for helpers, which may be others
/// in each of them.
const RECORDS: u32 = 2 * WORKERS_MAX as u32 + 4 * HELPERS_MAX as u32;

/// The program that this is the master of.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Identity {
    pub(crate) name: &'static str,
    pub(crate) version: &'static str,
}

/// How a master was started.
pub(crate) struct Launch {
    pub(crate) identity: Identity,
    /// The path of the program, as it was started.
    pub(crate) program: PathBuf,
    /// What beats the configuration's file, in every reload too.
    pub(crate) overrides: Overrides,
    /// Of the application's processes, where it is not the master's own.
    pub(crate) umask: Option<Mode>,
    /// What to do once when all serve; it gives the log's console from then on.
    pub(crate) when_serving: Option<Box<dyn FnOnce() -> std::io::Result<OwnedFd>>>,
}

/// Runs until it is told to stop.
pub(crate) fn serve(launch: Launch, settings: Settings) -> Result<(), Error> {
    let identity = launch.identity;
    if let Some(odd) = launch.overrides.odd() {
        // In the log it might be nowhere.
        logging::say(identity.name, &format!("warning: {odd}"));
    }
    let mut master = Master::open(launch, settings)?;
    let outcome = master.run();
    master.listeners.shut();
    master.run_dir.leave(master.offers.all());
    logger::close_for_good(LAST_WORDS_MS);
    master.check_the_log().iter().for_each(|odd| logging::say(identity.name, odd));
    match outcome? {
        Outcome::Stopped => Ok(()),
        Outcome::Failed(reason) => Err(Error::new(Exit::Failed, format!("{} did not start: {reason}", identity.name))),
        Outcome::Refused(reason) => Err(Error::new(Exit::Refused, reason)),
        Outcome::Misconfigured(reason) => Err(Error::new(Exit::Config, reason)),
    }
}

struct Master {
    identity: Identity,
    /// Those of the generation that serves.
    settings: Settings,
    overrides: Overrides,
    service: Service,
    umask: Option<Mode>,
    program: PathBuf,
    /// Removed with the master, before the run directory is free for the next one.
    pid_file: Option<PidFile>,
    run_dir: RunDir,
    notifier: Notifier,
    when_serving: Option<Box<dyn FnOnce() -> std::io::Result<OwnedFd>>>,
    /// Whether something has happened that the service manager has not been told.
    is_news: bool,
    /// Where the log's console is, if it is not standard error.
    console: Option<OwnedFd>,
    children_lock: File,
    log_listener: UnixListener,
    listeners: Listeners,
    offers: Offers,
    /// The generation that serves, the one that is tried, and those of which some process lives.
    releases: BTreeMap<Generation, Release>,
    serving: Generation,
    rollout: Rollout,
    scoreboard: Scoreboard,
    tickets: Tickets,
    poll: Poll,
    signals: Signals,
    control: ControlServer,
    children: Children,
    probes: Probes,
    /// By the post whose occupants print there.
    outputs: BTreeMap<Role, Output>,
    log: Log,
    supervisor: Supervisor,
    oom: OomKiller,
    /// When memory was looked at last.
    weighed: Instant,
    started: Instant,
    outcome: Option<Outcome>,
}

impl Master {
    /// Takes possession of everything, in an order that harms nobody who runs already.
    fn open(launch: Launch, settings: Settings) -> Result<Self, Error> {
        let Launch { identity, program, overrides, umask, when_serving } = launch;
        logger::to_console(&settings.log_level);
        let service = settings.service().map_err(|why| Error::new(Exit::Config, why))?;
        let place = settings.run_dir.clone().unwrap_or_else(|| default_run_dir(identity.name));
        let run_dir = RunDir::take(&place, service, !settings.control_uids.is_empty())?;
        let pid_file = settings.pid_file.as_deref().map(|path| PidFile::take(path, &run_dir)).transpose()?;
        let children_lock = run_dir.children_lock()?;
        survivors::end(&children_lock)?;
        strays::end(&run_dir.ipc_dir(), None, |_| false);
        let mut listeners = Listeners::default();
        let mut targets = Targets::default();
        let held =
            Held { pid_file: pid_file.as_ref(), run_dir: &run_dir, listeners: &mut listeners, targets: &mut targets };
        let mut release = Release::open(&program, umask, settings.clone(), held, LOCK_WAIT)?;
        targets.commit(std::mem::take(&mut release.targets));
        let log_listener = run_dir.log_socket()?;
        let control_listener = run_dir.control_socket()?;
        let scoreboard = Scoreboard::create(RECORDS).or_refused(|| "cannot make the scoreboard".to_owned())?;
        // What falls to the master as subreaper: a worker's own children, and children made by the
        // double fork.
        nix::sys::prctl::set_child_subreaper(true).or_refused(|| "cannot become a subreaper".to_owned())?;
        let poll = Poll::new().or_refused(|| "cannot make an epoll instance".to_owned())?;
        let control = ControlServer::new(control_listener, settings.control_uids.clone(), poll.registry(), CONTROL)
            .or_refused(|| "cannot serve the control socket".to_owned())?;
        let log = Log::open(&settings, &run_dir, targets)?;
        let signals = signals::handle(poll.registry(), SIGNALS).or_refused(|| "cannot handle signals".to_owned())?;
        let notifier = Notifier::new().or_refused(|| "cannot tell the service manager".to_owned())?;
        let started = Instant::now();
        let policy = release.policy();
        let serving = Generation(1);
        let seed = RandomState::new().build_hasher().finish();
        Ok(Self {
            supervisor: Supervisor::new(policy, seed, started),
            identity,
            settings,
            overrides,
            service,
            umask,
            program,
            run_dir,
            pid_file,
            notifier,
            is_news: true,
            when_serving,
            console: None,
            children_lock,
            log_listener,
            listeners,
            offers: Offers::default(),
            releases: BTreeMap::from([(serving, release)]),
            serving,
            rollout: Rollout::default(),
            scoreboard,
            tickets: Tickets::default(),
            poll,
            signals,
            control,
            children: Children::default(),
            probes: Probes::default(),
            outputs: BTreeMap::new(),
            log,
            oom: OomKiller::watch(started),
            weighed: started,
            started,
            outcome: None,
        })
    }

    fn run(&mut self) -> Result<Outcome, Error> {
        let place = self.run_dir.path().display();
        let (name, version) = (self.identity.name, self.identity.version);
        log::info!(target: "forebay", "{name} {version}: starting, run directory {place}");
        if self.settings.user.is_none() && nix::unistd::geteuid().is_root() {
            log::warn!(target: "forebay", "all processes run as root: say `user` (--user) whom they shall run as instead");
        }
        self.warn_of_the_program();
        let mut events = Events::with_capacity(256);
        self.write_reloads();
        self.step(Event::Tick);
        loop {
            if let Some(outcome) = self.outcome.take() {
                return Ok(outcome);
            }
            let unsent = logger::flush();
            match self.poll.poll(&mut events, self.patience(unsent)) {
                Err(error) if error.kind() == std::io::ErrorKind::Interrupted => {}
                result => result.or_refused(|| "cannot wait for events".to_owned())?,
            }
            self.turn(&events);
        }
    }

    /// How long to wait for an event.
    fn patience(&self, unsent: bool) -> Option<Duration> {
        let now = Instant::now();
        let unsent = unsent.then_some(now + LOG_RETRY);
        let due = [
            self.supervisor.due(),
            self.control.due(),
            self.listeners.due(),
            self.probes.due(),
            self.rollout.awaited.as_ref().map(Awaited::until),
            self.log.due(),
            self.tickets.due(),
            unsent,
        ];
        // Rounded up: epoll counts in milliseconds, and a turn too early is a turn for nothing.
        due.into_iter().flatten().min().map(|due| due.saturating_duration_since(now) + Duration::from_millis(1))
    }

    fn warn_of_the_program(&self) {
        if let Some(risk) = program::risk(&self.program) {
            log::warn!(target: "forebay", "{risk}");
        }
    }

    fn turn(&mut self, events: &Events) {
        let now = Instant::now();
        if self.control.is_starved() {
            self.control.accept(self.poll.registry(), now);
        }
        for event in events {
            let token = event.token();
            if token == CONTROL {
                self.control.accept(self.poll.registry(), now);
            } else if let Some(birth) = birth_of(token) {
                self.hear(birth);
            } else if self.control.owns(token) {
                self.answer(token);
            } else {
                let signs = self.probes.hear(token, now);
                self.heed(signs);
            }
        }
        self.ask_foreign_helpers(now);
        // After the reports: what a child said before it died comes before its death.
        let wishes: Vec<Wish> = self.signals.pending().filter_map(signals::wish).collect();
        wishes.into_iter().for_each(|wish| self.grant(wish));
        self.control.close_the_silent(now);
        self.listeners.close_the_gone(now);
        self.conclude_the_overdue(now);
        self.feel_the_pulses();
        self.look_at_memory(now);
        self.look_at_the_logs(now);
        self.lower_the_level(now);
        self.tickets.rotate();
        self.step(Event::Tick);
        if self.rollout.is_unwritten {
            self.write_reloads();
        }
        self.notifier.flush();
        if std::mem::take(&mut self.is_news) {
            self.tell_the_manager();
        }
    }

    /// Feeds the supervisor, and what comes of it, until nothing more does.
    fn step(&mut self, event: Event) {
        let mut events = VecDeque::from([event]);
        while let Some(event) = events.pop_front() {
            let dead = match &event {
                Event::Exited(birth, how) => Some((*birth, how.starts_with("killed"))),
                _ => None,
            };
            for action in self.supervisor.step(event, Instant::now()) {
                events.extend(self.act(action));
            }
            if let Some((birth, is_killed)) = dead {
                self.end_ring(birth, is_killed);
                self.children.forget(birth);
                self.forget_the_gone();
            }
        }
    }

    /// The release of the generation that serves.
    fn serving(&self) -> &Release {
        self.releases.get(&self.serving).expect("invariant: the serving generation has a release")
    }

    fn urls(&self) -> String {
        self.listeners.urls(&self.serving().listeners)
    }

    /// Tells the service manager how things stand.
    fn tell_the_manager(&mut self) {
        let addresses = self.urls();
        self.notifier.status(&self.supervisor.view(), &addresses, self.rollout.last.as_ref());
    }

    fn grant(&mut self, wish: Wish) {
        let workers = self.supervisor.workers_wanted();
        match wish {
            Wish::Reap => self.reap(),
            Wish::Reload => self.ask_for_reload(None),
            Wish::Stop => self.step(Event::Stop),
            Wish::Quit => self.step(Event::Quit),
            Wish::OneMore => self.step(Event::Scale((workers + 1).min(WORKERS_MAX))),
            Wish::OneFewer => self.step(Event::Scale(workers.saturating_sub(1).max(1))),
            Wish::Reopen => {
                log::info!(target: "forebay", "SIGUSR1: the log's files are opened anew");
                // What could not be opened is said in the log.
                let _ = self.reopen_logs();
            }
            Wish::NotServed(what) => log::warn!(target: "forebay", "{what} is not part of this release"),
        }
    }

    fn reap(&mut self) {
        for death in self.children.reap(&mut self.oom) {
            // What it said before it died is in its socket still.
            self.hear(death.birth);
            // The other workers do not wait for it to take its share.
            if let Some(record) = self.children.get(death.birth).and_then(|process| process.record) {
                self.scoreboard.record(record).clear();
            }
            // Before its successor is ordered: what it has made must not live beside that.
            if let Some(Role::Helper(name, generation)) = self.role(death.birth)
                && self.offers.is_foreign(generation, name)
            {
                strays::end(&self.run_dir.ipc_dir(), Some(name), |pid| self.children.has(pid));
            }
            if death.is_refusal {
                self.children.forget(death.birth);
                self.step(Event::BirthFailed(death.birth, "the system refuses it a thread".to_owned()));
            } else {
                self.step(Event::Exited(death.birth, death.how));
            }
        }
    }

    /// What it is there for; `None` once it is forgotten.
    fn role(&self, birth: Birth) -> Option<Role> {
        self.children.get(birth).map(|process| process.role)
    }

    /// Takes in what a child says.
    fn hear(&mut self, birth: Birth) {
        let Some(role) = self.role(birth) else { return };
        match self.children.listen(birth) {
            Ok(frames) => frames.iter().for_each(|frame| self.understand(birth, role, frame)),
            Err(why) => self.step(Event::Broken(birth, format!("broke the rules ({why})"))),
        }
    }

    fn understand(&mut self, birth: Birth, role: Role, body: &[u8]) {
        let event = match role {
            Role::Log => frame::decode(body).map(|report| self.understand_log(birth, report)),
            Role::Helper(..) | Role::Worker(..) => frame::decode(body).map(|report| match report {
                ChildReport::Ready => Event::Ready(birth),
                ChildReport::Spent { requests } => Event::Worn(birth, Wear::Requests(requests)),
                ChildReport::Refused { reason } => Event::Refused(birth, Fault::Application, reason),
                ChildReport::Note { text } => {
                    self.children.note(birth, &text);
                    Event::Tick
                }
            }),
            Role::Zygote(generation) => {
                frame::decode(body).map(|report| self.understand_zygote(birth, generation, report))
            }
        };
        match event {
            Ok(event) => self.step(event),
            Err(error) => self.step(Event::Broken(birth, format!("broke the rules ({error})"))),
        }
    }

    fn understand_zygote(&mut self, zygote: Birth, generation: Generation, report: ZygoteReport) -> Event {
        match report {
            ZygoteReport::Loaded(manifest) => self.loaded(zygote, generation, &manifest),
            ZygoteReport::Refused { reason, misconfigured } => {
                let fault = if misconfigured { Fault::Configuration } else { Fault::Application };
                Event::Refused(zygote, fault, reason)
            }
            ZygoteReport::ForkFailed { birth, reason } => self.not_forked(birth, reason),
            ZygoteReport::Forked { birth, pid } => match self.children.reported(birth, pid) {
                Ok(None) => Event::Born(birth),
                Ok(Some(death)) => {
                    self.step(Event::Born(birth));
                    Event::Exited(death.birth, death.how)
                }
                Err(why) => Event::Broken(zygote, format!("broke the rules ({why})")),
            },
        }
    }

    fn loaded(&mut self, zygote: Birth, generation: Generation, manifest: &Manifest) -> Event {
        let Some(release) = self.releases.get(&generation) else { return Event::Tick };
        if manifest.name != self.identity.name {
            let (other, own) = (children::plain(&manifest.name, orders::NAME_LEN_MAX), self.identity.name);
            let why =
                format!("the application is called `{other}`, and this daemon is `{own}`: stop it and start that");
            return Event::Refused(zygote, Fault::Application, why);
        }
        if let Some(why) = release.needs_tls(manifest) {
            return Event::Refused(zygote, Fault::Configuration, why);
        }
        let taken = self.offers.take(generation, manifest, &self.run_dir, |offer| release.digest(offer));
        if let Some(release) = self.releases.get_mut(&generation) {
            release.ring = manifest.ring;
            release.tickets = manifest.tickets;
        }
        match taken {
            Ok(helpers) => Event::Loaded(zygote, helpers),
            Err(Refusal::Broken(why)) => Event::Broken(zygote, why),
            Err(Refusal::Unable(why)) => Event::Refused(zygote, Fault::System, why),
        }
    }

    fn not_forked(&mut self, birth: Birth, reason: String) -> Event {
        let ordered = self.children.get(birth).is_some_and(|process| process.pid.is_none());
        if !ordered {
            return Event::Tick;
        }
        self.children.forget(birth);
        Event::BirthFailed(birth, reason)
    }
}
