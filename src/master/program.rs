//! The program that zygotes are started from, and how.

use std::fs::{self, File};
use std::hash::{DefaultHasher, Hash, Hasher};
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, OwnedFd};
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};

use nix::sys::stat::Mode;
use nix::unistd::{Pid, geteuid};

use super::file_identity::is_one;
use crate::app::secret;
use crate::contract::orders::{GivenFile, GivenListener, ZYGOTE_VARIABLE};
use crate::error::{Chain, Context, Error, Exit};
use crate::settings::{NamedFile, Service, Settings, is_safe_way, read_whole};
use crate::sys::process::{self, Program};
use crate::sys::title;

/// What is between the service manager and the master.
const MASTERS_VARIABLES: [&str; 6] =
    ["NOTIFY_SOCKET", "WATCHDOG_PID", "WATCHDOG_USEC", "LISTEN_PID", "LISTEN_FDS", "LISTEN_FDNAMES"];

/// One generation's load: what a zygote that dies is started again from.
#[derive(Debug)]
pub(super) struct Load {
    executable: OwnedFd,
    service: Service,
    /// Of the application's processes, where it is not the master's.
    umask: Option<Mode>,
    /// The configuration's bytes, sealed.
    configuration: OwnedFd,
    /// The files that the application's sections name.
    files: Vec<GivenFile>,
    /// Of those that could be read, in the same order.
    kept: Vec<Kept>,
    /// The listeners that speak TLS, and what of their files could be read: certificates, then keys.
    secure: Vec<(GivenListener, Vec<Kept>)>,
}

/// What a file held when the generation was prepared: whoever is born later finds that, even where the
/// file was written over.
#[derive(Debug)]
struct Kept {
    /// Sealed.
    content: OwnedFd,
    digest: u64,
}

impl Load {
    /// Opens the executable at `path`, keeps the configuration and the files that the settings name.
    ///
    /// Files that this process has locked are not: the lock goes when any descriptor of them is closed.
    pub(super) fn open(
        path: &Path,
        settings: &Settings,
        umask: Option<Mode>,
        is_locked: impl Fn(&Path) -> bool,
    ) -> Result<Self, Error> {
        let executable = secret::open(path).or_refused(|| format!("cannot open the program {}", path.display()))?;
        let configuration = crate::sys::memory::sealed_bytes("configuration", &settings.source)
            .or_refused(|| "cannot keep the configuration in memory".to_owned())?;
        let service = settings.service().map_err(|why| Error::new(Exit::Config, why))?;
        let open = |file: &NamedFile, kept: &mut Vec<Kept>| {
            let found =
                if is_locked(&file.place) { Err("the daemon has locked it for itself".to_owned()) } else { keep(file) };
            GivenFile { path: file.path.clone(), refused: found.map(|file| kept.push(file)).err() }
        };
        let mut kept = Vec::new();
        let files = settings.named_files.iter().map(|file| open(file, &mut kept)).collect();
        let listeners = settings.listeners().into_iter().enumerate();
        let secure = listeners.filter(|(_, listener)| listener.is_secure()).map(|(number, listener)| {
            let mut kept = Vec::new();
            let certificates = listener.certificates.iter().map(|file| open(file, &mut kept)).collect();
            let keys = listener.certificate_keys.iter().map(|file| open(file, &mut kept)).collect();
            (GivenListener { number, name: listener.name, certificates, keys }, kept)
        });
        let secure = secure.collect();
        Ok(Self { executable: executable.into(), service, umask, configuration, files, kept, secure })
    }

    /// Where the executable is, as the kernel says it.
    pub(super) fn executable(&self) -> Option<PathBuf> {
        fs::read_link(format!("/proc/self/fd/{}", self.executable.as_raw_fd())).ok()
    }

    /// What goes with the order to load: the lock file, the configuration, the files.
    pub(super) fn given<'a>(&'a self, lock_file: &'a File) -> Vec<BorrowedFd<'a>> {
        let kept = self.kept.iter().map(|kept| kept.content.as_fd());
        [lock_file.as_fd(), self.configuration.as_fd()].into_iter().chain(kept).collect()
    }

    /// Hashes the content of those files that are meant.
    pub(super) fn hash_files(&self, is_meant: impl Fn(&Path) -> bool, hasher: &mut impl Hasher) {
        let readable = self.files.iter().filter(|file| file.refused.is_none());
        for (_, kept) in readable.zip(&self.kept).filter(|(file, _)| is_meant(&file.path)) {
            kept.digest.hash(hasher);
        }
    }

    /// The files, as the order to load names them.
    pub(super) fn files(&self) -> Vec<GivenFile> {
        self.files.clone()
    }

    /// The listeners that speak TLS, as the order to load names them.
    pub(super) fn secure(&self) -> Vec<GivenListener> {
        self.secure.iter().map(|(listener, _)| listener.clone()).collect()
    }

    /// What goes with the order to load for them, after everything else.
    pub(super) fn secure_files(&self) -> impl Iterator<Item = BorrowedFd<'_>> {
        self.secure.iter().flat_map(|(_, kept)| kept).map(|kept| kept.content.as_fd())
    }

    /// Starts a zygote that finds `control` and prints to `output`.
    pub(super) fn start_zygote(&self, name: &str, control: OwnedFd, output: OwnedFd) -> std::io::Result<Pid> {
        let argv0 = format!("{:1$}", format!("{name}: zygote"), title::ZYGOTE_AREA_LEN);
        process::start(Program {
            executable: &self.executable,
            argv0: &argv0,
            variables: &[(ZYGOTE_VARIABLE, "1".to_owned())],
            without: &MASTERS_VARIABLES,
            control,
            output,
            drop_to: self.service.drops.then_some((self.service.uid, self.service.gid)),
            umask: self.umask,
        })
    }
}

fn keep(file: &NamedFile) -> Result<Kept, String> {
    is_safe_way(&file.place).map_err(|error| Chain(&error).to_string())?;
    let opened = secret::open(&file.place).map_err(|error| error.to_string())?;
    let content = read_whole(opened)?;
    let mut hasher = DefaultHasher::new();
    content.hash(&mut hasher);
    let content = crate::sys::memory::sealed_bytes("file", &content).map_err(|error| error.to_string())?;
    Ok(Kept { content, digest: hasher.finish() })
}

/// Why root should not execute the program there. It is said and not refused: who deploys is often another
/// user than root, whom root trusts.
pub(super) fn risk(path: &Path) -> Option<String> {
    if !geteuid().is_root() {
        return None;
    }
    let resolved = fs::canonicalize(path).ok()?;
    let found = fs::metadata(&resolved).ok()?;
    let (owner, mode) = (found.uid(), found.mode() & 0o7777);
    let why = match is_safe_way(path).and_then(|()| is_safe_way(&resolved)) {
        Err(error) => error.to_string(),
        Ok(()) if owner != 0 || mode & 0o022 != 0 => {
            format!("others may write {} (mode {mode:04o}, owner uid {owner})", resolved.display())
        }
        Ok(()) => return None,
    };
    Some(format!("the program may be replaced by others: {why}"))
}

/// The path this program was started by, absolute, as whoever started it sees it: a symlink on
/// the way to it that is switched later leads to the new release.
pub(crate) fn path() -> Result<PathBuf, Error> {
    let unknown = || Error::new(Exit::Refused, "cannot tell by which path this program was started");
    let started = process::executed_as().ok_or_else(unknown)?;
    if started.is_absolute() {
        return Ok(started);
    }
    let here = std::env::current_dir().or_refused(|| "cannot tell the working directory".to_owned())?;
    let named = std::env::var_os("PWD").map(PathBuf::from);
    Ok(named.filter(|named| named.is_absolute() && is_one(named, &here)).unwrap_or(here).join(started))
}
