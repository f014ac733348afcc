//! The zygote: it has loaded the application and forks, on the master's order, what shares it.
//!
//! One thread and one blocking read: nothing else may run in a process that forks. The
//! application's `preload` runs on a thread that is joined first, so that its thread-local random
//! numbers are not copied into every worker.

use std::ffi::CString;
use std::fs::File;
use std::io::{Read, Seek, SeekFrom};
use std::os::fd::OwnedFd;
use std::os::unix::net::UnixStream;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::{Duration, Instant};

use super::company::{self, Company};
use super::worker::tls::{TICKETS, Tls};
use super::{boot, foreign, life};
use crate::app::configuration::Configuration;
use crate::app::declare::{App, HttpFn, Neighbours, Preload, PreloadFn, Preloaded, Work};
use crate::app::secret::Opened;
use crate::contract::ids::{Generation, Role};
use crate::contract::lock;
use crate::contract::orders::{self, Begin, GivenFile, Manifest, ZygoteOrder, ZygoteReport};
use crate::error::mistakes::Mistakes;
use crate::error::{BoxError, Chain, Exit, Result};
use crate::ipc::channel;
use crate::log::logger;
use crate::log::ring::{self, Ring};
use crate::sys::process::{self, CONTROL, Forked};
use crate::sys::{build, descriptors, signals, title};

/// Runs a zygote until its master is gone, or, in a process it forked, that process.
pub(crate) fn run(app: App) -> Exit {
    match serve(app) {
        Ok(exit) => exit,
        Err(error) => {
            // Its output is captured, and whoever sets the variable by hand sees it.
            eprintln!("zygote: {}", Chain(&*error));
            logger::close(boot::LAST_WORDS_MS);
            Exit::Failed
        }
    }
}

fn serve(app: App) -> Result<Exit> {
    // What this process starts is no zygote.
    process::forget_variable(orders::ZYGOTE_VARIABLE);
    signals::leave_to_the_master(true)?;
    let control = UnixStream::from(descriptors::inherited(CONTROL)?);
    let name = app.name;
    let Some((order, given)) = channel::receive(&control)? else { return Ok(Exit::Done) };
    let ZygoteOrder::Load { generation, filter, log_socket, config_path, files, only_configuration, has_ring, secure } =
        order
    else {
        return Err("the first order is not to load".into());
    };
    let mut given = given.into_iter();
    let mut next = || given.next().ok_or("descriptors are missing in the order to load");
    let (lock_file, configuration) = (File::from(next()?), File::from(next()?));
    let opened = opened(files, &mut given)?;
    let role = Role::Zygote(generation);
    // It was executed by descriptor, whose number would be its name: `pkill NAME` shall find it.
    nix::sys::prctl::set_name(&CString::new(name)?)?;
    title::set(&format!("{name}: {role}"));
    lock::hold(&lock_file)?;
    signals::unblock_all()?;
    let mut of_ring = || if has_ring { given.next() } else { None };
    match (log_socket, of_ring(), of_ring()) {
        (Some(_), Some(ring), Some(bell)) => logger::to_ring(&filter, Ring::attach(ring)?, bell),
        (Some(socket), ..) => logger::to_helper(&filter, &socket, role.to_string()),
        (None, ..) => logger::to_console(&filter),
    }
    // Before `preload`: a descriptor of the logger's own is none that `preload` left open.
    logger::connect();
    crate::log::log_panics();
    let configured = configure(&app, configuration, config_path, opened, |configuration| {
        // After everything else: a release that does not know them takes no notice.
        Tls::load(secure, &mut given, configuration)
    });
    let (configuration, tls) = match configured {
        Ok(configured) => configured,
        Err(error) => return refuse(&control, &*error, true),
    };
    if only_configuration {
        return refuse(&control, &*BoxError::from("nothing else was asked"), false);
    }
    let loaded = match load(app, generation, configuration, tls) {
        Ok(loaded) => loaded,
        Err(error) => return refuse(&control, &*error, false),
    };
    let helpers = loaded.company.offers(loaded.version, &build::id())?;
    let version = Manifest::version_for(&helpers);
    let manifest = Manifest { version, name: name.to_owned(), helpers, ring: ring::VERSION, tickets: TICKETS };
    channel::send(&control, &ZygoteReport::Loaded(manifest))?;
    fork_on_order(Zygote { control, loaded, _lock: lock_file })
}

/// The application, loaded: what every process that is forked here starts from.
pub(super) struct Loaded {
    pub(super) name: &'static str,
    pub(super) version: &'static str,
    pub(super) http: HttpFn,
    pub(super) preloaded: Option<Preloaded>,
    pub(super) configuration: Configuration,
    pub(super) company: Company,
    pub(super) tls: Tls,
}

impl Loaded {
    /// What a process of this role knows of the helpers; a process asks once.
    pub(super) fn neighbours(&self, begin: &Begin) -> &'static Neighbours {
        Box::leak(Box::new(Neighbours {
            caller: begin.role.to_string(),
            ipc_dir: begin.ipc_dir.clone(),
            wanted: self.company.wanted.clone(),
            unwanted: self.company.unwanted.clone(),
            configuration: self.configuration.clone(),
        }))
    }
}

struct Zygote {
    control: UnixStream,
    loaded: Loaded,
    /// Held for life: it tells the next master that this process exists.
    _lock: File,
}

/// The files that came with the order, in its order.
fn opened(files: Vec<GivenFile>, given: &mut impl Iterator<Item = OwnedFd>) -> Result<Opened> {
    let take = |GivenFile { path, refused }| match refused {
        Some(why) => Ok((path, Err(why))),
        None => match given.next() {
            Some(descriptor) => Ok((path, Ok(Arc::new(File::from(descriptor))))),
            None => Err("files are missing in the order to load".into()),
        },
    };
    files.into_iter().map(take).collect()
}

/// Reads the file's bytes, which the master has read before, for the sections of the application, and the certificates.
fn configure(
    app: &App,
    mut bytes: File,
    path: Option<PathBuf>,
    opened: Opened,
    certificates: impl FnOnce(&Configuration) -> Result<Tls, Mistakes>,
) -> Result<(Configuration, Tls)> {
    let mut text = String::new();
    bytes.seek(SeekFrom::Start(0))?;
    bytes.read_to_string(&mut text)?;
    let file = path.map_or_else(|| "the configuration".to_owned(), |path| path.display().to_string());
    let configuration = Configuration::parse(&file, &text, opened)?;
    match (company::check(app, &configuration), certificates(&configuration)) {
        (Ok(()), Ok(tls)) => Ok((configuration, tls)),
        (Ok(()), Err(wrong)) => Err(wrong.to_string().into()),
        (Err(error), Ok(_)) => Err(error),
        (Err(error), Err(wrong)) => Err(format!("{wrong}\n{}", Chain(&*error)).into()),
    }
}

/// Loads the application.
fn load(app: App, generation: Generation, configuration: Configuration, tls: Tls) -> Result<Loaded> {
    if !app.mistakes.is_empty() {
        return Err(app.mistakes.join("\n").into());
    }
    let mut unwanted = Vec::new();
    for helper in &app.helpers {
        if let Work::Own(own) = helper.work
            && !(own.is_wanted)(&configuration)?
        {
            unwanted.push(helper.name);
        }
    }
    let mut declared = [&app.helpers[..], &foreign::declared(&app, &configuration)?].concat();
    // Who may ask every other one stands last: a stop ends it first.
    declared.sort_by_key(|helper| helper.given.is_some());
    let company = Company::of(&declared, |helper| !unwanted.contains(&helper.name))?;
    let preloaded = preload(app.preload, generation)?;
    let http = app.http.ok_or("App::http was never called")?;
    Ok(Loaded { name: app.name, version: app.version, http, preloaded, configuration, company, tls })
}

fn fork_on_order(zygote: Zygote) -> Result<Exit> {
    loop {
        logger::flush();
        let Some((order, mut given)) = channel::receive(&zygote.control)? else { return Ok(Exit::Done) };
        let ZygoteOrder::Fork { birth } = order else { return Err("loaded twice".into()) };
        let Some(control) = given.pop() else { return Err("an order to fork without a socket".into()) };
        match fork() {
            // The other descriptors close with what owns them in `zygote`.
            Ok(Forked::Child) => return Ok(become_child(zygote, control)),
            Ok(Forked::Parent(pid)) => {
                channel::send(&zygote.control, &ZygoteReport::Forked { birth, pid: pid.as_raw() })?;
            }
            Err(reason) => channel::send(&zygote.control, &ZygoteReport::ForkFailed { birth, reason })?,
        }
    }
}

/// Forks a sibling, or says why not.
fn fork() -> Result<Forked, String> {
    let threads = process::threads().map_err(|error| error.to_string())?;
    if threads.len() > 1 {
        return Err(format!("the zygote has more threads than its own: {}", threads.join(", ")));
    }
    process::fork_sibling().map_err(|error| error.to_string())
}

fn become_child(zygote: Zygote, control: OwnedFd) -> Exit {
    let Zygote { control: orders, loaded, _lock } = zygote;
    // Before anything else: a child that held these would keep the zygote alive for the master.
    drop((orders, _lock));
    logger::forget_the_parents();
    life::run(loaded, UnixStream::from(control))
}

/// Runs `preload` and looks at what it left behind.
fn preload(preload: Option<PreloadFn>, generation: Generation) -> Result<Option<Preloaded>> {
    let Some(preload) = preload else { return Ok(None) };
    let before = descriptors::list()?;
    let thread = std::thread::Builder::new().name("preload".to_owned());
    let generation = generation.0;
    let started = thread.spawn(move || preload(&Preload { generation }));
    let built = started.map_err(|error| format!("cannot start the thread for preload: {error}"))?.join();
    let built = built.map_err(|_| "preload panicked: its message is in the log")??;
    let threads = settled_threads()?;
    if threads.len() > 1 {
        let others = threads[1..].join(", ");
        return Err(format!("preload left threads behind that no worker would have: {others}").into());
    }
    let shared: Vec<String> = descriptors::list()?
        .into_iter()
        .filter(|open| !before.contains(open) && is_shared_state(&open.target))
        .map(|open| format!("descriptor {} ({})", open.number, open.target))
        .collect();
    if !shared.is_empty() {
        let what = shared.join(", ");
        return Err(format!("preload left {what} open, which all workers would share: open it in http").into());
    }
    Ok(Some(built))
}

/// The threads of this process once those that were joined are gone, or at last after a second.
///
/// The kernel wakes the joiner (`CLONE_CHILD_CLEARTID`, clone(2)) before it takes the ended thread
/// out of /proc/self/task.
fn settled_threads() -> Result<Vec<String>> {
    let deadline = Instant::now() + Duration::from_secs(1);
    loop {
        let threads = process::threads()?;
        if threads.len() == 1 || Instant::now() > deadline {
            return Ok(threads);
        }
        // No event tells of it.
        nix::poll::poll(&mut [], 1_u8)?;
    }
}

/// Whether processes that share this descriptor would disturb each other: sockets, pipes, and the
/// kernel's event objects do; files and shared memory are left to the application.
fn is_shared_state(target: &str) -> bool {
    ["socket:", "pipe:", "anon_inode:"].iter().any(|kind| target.starts_with(kind))
}

fn refuse(control: &UnixStream, error: &(dyn std::error::Error + 'static), misconfigured: bool) -> Result<Exit> {
    let reason = Chain(error).to_string();
    logger::close(boot::LAST_WORDS_MS);
    channel::send(control, &ZygoteReport::Refused { reason, misconfigured })?;
    Ok(Exit::Failed)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn sockets_are_shared_state_and_files_are_not() {
        assert!(is_shared_state("socket:[4711]") && is_shared_state("anon_inode:[eventpoll]"));
        assert!(!is_shared_state("/var/lib/big.bin") && !is_shared_state("/memfd:table (deleted)"));
    }
}
