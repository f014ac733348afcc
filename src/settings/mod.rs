//! What the master executes: defaults, the file, and above both what variables and flags say.
//!
//! `table` is the one list of all settings.

mod account;
mod address;
mod example;
mod file;
pub(crate) mod filter;
pub(crate) mod http;
mod key;
mod listener;
pub(crate) mod log;
mod overrides;
mod place;
mod table;

use std::fs;
use std::num::NonZeroUsize;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};
use std::time::Duration;

use nix::unistd::{Gid, Uid, getegid, geteuid};

pub(crate) use self::account::{Account, Group};
pub(crate) use self::address::Address;
pub(crate) use self::example::example;
pub(crate) use self::file::read_whole;
use self::http::Http;
pub(crate) use self::key::{Given, Key};
#[cfg(not(feature = "tls"))]
pub(crate) use self::listener::WITHOUT_TLS;
pub(crate) use self::listener::{Listener, TcpOptions};
use self::log::{Target, Transport};
pub(crate) use self::overrides::{Overrides, file_of};
pub(crate) use self::place::default_run_dir;
pub(crate) use self::table::{KEYS, sections};
use crate::contract::ids::WORKERS_MAX;
use crate::error::mistakes::Mistakes;
use crate::error::{Error, Exit};

/// Settings as they are in force.
#[derive(Clone, Debug, Default, PartialEq)]
pub(crate) struct Settings {
    listen: Vec<Address>,
    /// Whether anyone has said `listen`: where it is not, `[listener.NAME]` stands in its place.
    is_listen_said: bool,
    named: Vec<Listener>,
    pub(crate) workers: u16,
    /// `None`: the default place for the program's name and user.
    pub(crate) run_dir: Option<PathBuf>,
    pub(crate) pid_file: Option<PathBuf>,
    pub(crate) user: Option<Account>,
    pub(crate) group: Option<Group>,
    /// Who may control the daemon besides root and the master's user.
    pub(crate) control_uids: Vec<u32>,
    pub(crate) timeouts: Timeouts,
    pub(crate) restart: Restart,
    pub(crate) worker: WorkerLimits,
    pub(crate) http: Http,
    /// RUST_LOG's syntax.
    pub(crate) log_level: String,
    pub(crate) log_transport: Transport,
    /// Bytes of the memory that each process shares with the log helper: a power of two.
    pub(crate) log_ring: u64,
    /// Where records go; never none.
    pub(crate) targets: Vec<Target>,
    /// Where it goes what each request was answered, if anywhere.
    pub(crate) access: Option<Target>,
    /// Files of the application's sections, which the master opens.
    pub(crate) named_files: Vec<NamedFile>,
    /// The keys that the file says.
    said: Vec<&'static str>,
    /// Whether the application could look at the file too: there is none, or it is TOML.
    pub(crate) is_well_formed: bool,
    /// The file that was read.
    pub(crate) file: Option<PathBuf>,
    /// The file's bytes, for the application.
    pub(crate) source: Vec<u8>,
}

/// How long the master waits, and for what.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub(crate) struct Timeouts {
    /// For a zygote to load and for a worker to get ready.
    pub(crate) ready: Duration,
    /// For what a reload has made to stay alive before it replaces what was.
    pub(crate) stable: Duration,
    /// For a silent loop.
    pub(crate) hang: Duration,
    /// For one worker's open connections.
    pub(crate) drain: Duration,
    /// For the whole stop.
    pub(crate) stop: Duration,
}

/// When to start a dead process again: `intensity` times within `period` at once, then later and
/// later.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub(crate) struct Restart {
    pub(crate) intensity: u32,
    pub(crate) period: Duration,
    pub(crate) backoff_max: Duration,
}

/// What a worker may use until it is followed by a new one, and in one turn of its loop.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub(crate) struct WorkerLimits {
    pub(crate) requests_max: Option<u64>,
    /// In percent of `requests_max`: so many more at most, at random.
    pub(crate) requests_jitter: u64,
    /// Resident memory, in bytes.
    pub(crate) rss_max: Option<u64>,
    pub(crate) age_max: Option<Duration>,
    /// A longer turn of its loop is logged.
    pub(crate) slow_turn: Duration,
}

/// A file that a section of the application's, or a listener, names.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct NamedFile {
    /// `nest.token_file`
    pub(crate) key: String,
    /// As it is written there.
    pub(crate) path: PathBuf,
    /// Absolute.
    pub(crate) place: PathBuf,
}

/// Whom all processes but the master run as.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Service {
    pub(crate) uid: Uid,
    pub(crate) gid: Gid,
    /// Whether they become that, and give up all else that this process has.
    pub(crate) drops: bool,
}

/// The most addresses to listen on: they travel to a worker in one message, with a few others.
const LISTENERS_MAX: usize = 64;

/// The most certificates of all listeners: they and their keys travel to a zygote in one message, with other files.
const CERTIFICATES_MAX: usize = 64;

impl Settings {
    /// The defaults.
    pub(crate) fn new() -> Self {
        let mut settings = Self { workers: cores(), ..Self::default() };
        KEYS.iter().for_each(|key| key.reset(&mut settings));
        settings.targets = vec![Target::console()];
        settings.is_listen_said = false;
        settings.is_well_formed = true;
        settings
    }

    /// The defaults, changed by `file` and then by `overrides`, as far as they can be read, and
    /// what cannot.
    pub(crate) fn read(file: Option<&Path>, overrides: &Overrides) -> (Self, Mistakes) {
        let (mut settings, mut mistakes) = (Self::new(), Mistakes::default());
        if let Some(path) = file {
            let path = overrides.directory.join(path);
            settings.is_well_formed = false;
            file::read(&path, &overrides.directory, &mut settings, &mut mistakes);
            settings.file = Some(path);
        }
        overrides.apply(&mut settings, &mut mistakes);
        settings.start_paths_from(&overrides.directory);
        settings.check(&mut mistakes);
        (settings, mistakes)
    }

    /// For a process that changes its directory.
    fn start_paths_from(&mut self, directory: &Path) {
        for path in [&mut self.run_dir, &mut self.pid_file].into_iter().flatten() {
            *path = directory.join(&*path);
        }
        self.targets.iter_mut().chain(&mut self.access).for_each(|target| target.start_path_from(directory));
        for file in self.named_files.iter_mut().chain(self.named.iter_mut().flat_map(Listener::files)) {
            file.place = directory.join(&file.path);
        }
    }

    /// What no key says wrong by itself.
    fn check(&self, mistakes: &mut Mistakes) {
        let place = self.file.as_ref().map_or_else(|| "the settings".to_owned(), |file| file.display().to_string());
        let listeners = self.listeners();
        if listeners.len() > LISTENERS_MAX {
            let count = listeners.len();
            mistakes.add(&place, format!("there are {count} addresses to listen on, {LISTENERS_MAX} are allowed"));
        }
        let count = listeners.iter().map(|listener| listener.certificates.len()).sum::<usize>();
        if count > CERTIFICATES_MAX {
            mistakes.add(&place, format!("there are {count} certificates, {CERTIFICATES_MAX} are allowed"));
        }
        for (number, listener) in listeners.iter().enumerate() {
            if listeners[..number].iter().any(|other| other.name == listener.name) {
                let what = format!("[listener.{}] and `listen` are the same listener: keep one", listener.name);
                mistakes.add(&place, what);
            }
        }
        let logs = self.targets.iter().chain(&self.access).filter_map(Target::path);
        for path in logs.filter(|path| self.pid_file.as_deref() == Some(path)) {
            mistakes.add(&place, format!("{} is the pid file and one of the log's: keep one", path.display()));
        }
        if let Err(why) = self.service() {
            mistakes.add(&place, why);
        }
    }

    /// Where to listen.
    pub(crate) fn listeners(&self) -> Vec<Listener> {
        let plain = if self.is_listen_said || self.named.is_empty() { self.listen.clone() } else { Vec::new() };
        Listener::several(plain).into_iter().chain(self.named.iter().cloned()).collect()
    }

    /// Whom all processes but the master run as.
    pub(crate) fn service(&self) -> Result<Service, String> {
        let (uid, gid) = (geteuid(), getegid());
        let wanted_uid = self.user.as_ref().map_or(uid, |user| user.uid);
        let of_user = || match &self.user {
            Some(user) => user.gid.ok_or_else(|| format!("user {user} has no account: say its `group` too")),
            None => Ok(gid),
        };
        let wanted_gid = self.group.as_ref().map_or_else(of_user, |group| Ok(group.gid))?;
        let is_other = (wanted_uid, wanted_gid) != (uid, gid);
        if is_other && !uid.is_root() {
            let whom = match (&self.user, &self.group) {
                (Some(user), _) if wanted_uid != uid => format!("`user`: only root can become {user}"),
                (Some(_) | None, Some(group)) => format!("`group`: only root can change to group {group}"),
                (Some(_) | None, None) => "`user`: only root can change it".to_owned(),
            };
            return Err(format!("{whom}; start as root, or leave it out"));
        }
        Ok(Service { uid: wanted_uid, gid: wanted_gid, drops: uid.is_root() && is_other })
    }
}

/// Root makes and opens nothing below a directory that others can write, sticky ones excepted:
/// they could put something of theirs in its place.
pub(crate) fn is_safe_way(path: &Path) -> Result<(), Error> {
    if !geteuid().is_root() {
        return Ok(());
    }
    let parent = path.parent().map(|parent| fs::canonicalize(parent).unwrap_or_else(|_| parent.to_owned()));
    let resolved = parent.iter().flat_map(|parent| parent.ancestors());
    for above in path.ancestors().skip(1).chain(resolved).filter(|above| !above.as_os_str().is_empty()) {
        let Ok(found) = fs::metadata(above) else { continue };
        let is_open = found.mode() & 0o022 != 0 && found.mode() & 0o1000 == 0;
        if is_open || found.uid() != 0 {
            let (path, above, mode, owner) = (path.display(), above.display(), found.mode() & 0o7777, found.uid());
            let what =
                format!("{path} is not safe for root: others may write {above} (mode {mode:04o}, owner uid {owner})");
            return Err(Error::new(Exit::NoPermission, what));
        }
    }
    Ok(())
}

/// A number that counts workers.
pub(crate) fn worker_count(number: i64) -> Result<u16, String> {
    u16::try_from(number).ok().filter(|count| (1..=WORKERS_MAX).contains(count)).ok_or_else(worker_range)
}

/// `1 worker`, `3 workers`.
pub(crate) fn count_of_workers(count: u16) -> String {
    format!("{count} worker{}", if count == 1 { "" } else { "s" })
}

/// What a number of workers may be.
pub(crate) fn worker_range() -> String {
    format!("a number of workers is from 1 to {WORKERS_MAX}")
}

fn cores() -> u16 {
    let cores = std::thread::available_parallelism().map_or(1, NonZeroUsize::get);
    u16::try_from(cores).unwrap_or(WORKERS_MAX).min(WORKERS_MAX)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn more_addresses_than_a_worker_can_be_given_are_refused() {
        let read = |count: usize| {
            let mut overrides = Overrides::default();
            let listen = KEYS.iter().find(|key| key.name == "listen").expect("a key");
            overrides.say(listen, vec!["127.0.0.1:0"; count].join(","));
            Settings::read(None, &overrides).1
        };
        assert!(read(LISTENERS_MAX).is_empty());
        assert!(read(LISTENERS_MAX + 1).to_string().contains("65 addresses"));
    }

    #[test]
    fn the_files_of_the_log_start_where_others_do_and_none_is_the_pid_file() {
        let scratch = tempfile::tempdir().expect("a directory");
        let file = scratch.path().join("x.toml");
        let text =
            "pid_file = \"pid\"\n[[log.target]]\nkind = \"file\"\npath = \"a.log\"\n[log.access]\npath = \"b/c\"\n";
        let read = |text: &str| {
            fs::write(&file, text).expect("write");
            let mut overrides = Overrides::default();
            overrides.directory = "/srv".into();
            Settings::read(Some(&file), &overrides)
        };
        let (settings, mistakes) = read(text);
        assert!(mistakes.is_empty(), "{mistakes}");
        let paths: Vec<_> = settings.targets.iter().chain(&settings.access).filter_map(Target::path).collect();
        assert_eq!(paths, [Path::new("/srv/a.log"), Path::new("/srv/b/c")]);
        let (_, mistakes) = read(&text.replace("a.log", "pid"));
        assert!(mistakes.to_string().contains("/srv/pid is the pid file"), "{mistakes}");
    }
}
