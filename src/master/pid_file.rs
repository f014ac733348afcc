//! The pid file: the master's number for scripts, locked while the master lives.
//!
//! The lock is the truth, not the file: what a dead master has left there is written over. It goes with any
//! descriptor of the file that this process closes, so a file is known by what it is, before it is opened.

use std::fs::{self, File, Permissions};
use std::io::{self, Read, Seek, Write};
use std::os::unix::fs::{MetadataExt, OpenOptionsExt, PermissionsExt};
use std::path::{Path, PathBuf};

use nix::errno::Errno;
use nix::fcntl::OFlag;
use nix::unistd::geteuid;

use super::file_identity::FileIdentity;
use super::run_dir::RunDir;
use crate::contract::lock;
use crate::error::{Context, Error, Exit};
use crate::settings::is_safe_way;

/// The longest content of a pid file, in bytes.
const LEN_MAX: u64 = 32;

#[derive(Debug)]
pub(super) struct PidFile {
    path: PathBuf,
    /// The only descriptor of it: closing another one would give up the lock.
    file: File,
}

/// What the next generation's settings make of the pid file.
#[derive(Debug, Default)]
pub(super) enum Succession {
    /// It is the one there is, or there is none, as before.
    #[default]
    Same,
    /// It is the one there is, by another name.
    Respelled(PathBuf),
    /// It is another one, which is locked already; or there is none any more.
    Other(Option<PidFile>),
}

impl Succession {
    /// Compares what is wanted with the file there is.
    pub(super) fn of(now: Option<&PidFile>, wanted: Option<&Path>, run_dir: &RunDir) -> Result<Self, Error> {
        match (now, wanted) {
            (None, None) => Ok(Self::Same),
            (Some(now), Some(wanted)) if now.path == wanted => Ok(Self::Same),
            (Some(now), Some(wanted)) if is_there(wanted, &now.file) => Ok(Self::Respelled(wanted.to_owned())),
            (Some(_), None) => Ok(Self::Other(None)),
            (_, Some(wanted)) => PidFile::take(wanted, run_dir).map(|taken| Self::Other(Some(taken))),
        }
    }

    /// Puts it into force.
    pub(super) fn succeed(self, now: &mut Option<PidFile>) {
        match self {
            Self::Same => {}
            Self::Respelled(path) => now.iter_mut().for_each(|now| now.path.clone_from(&path)),
            Self::Other(next) => *now = next,
        }
    }
}

impl PidFile {
    /// Locks it and writes this process's number, or says why that is not safe.
    pub(super) fn take(path: &Path, run_dir: &RunDir) -> Result<Self, Error> {
        let cannot = || format!("cannot use the pid file {}", path.display());
        is_safe_way(path).or_refused(cannot)?;
        // Before it is opened: closing it would give up the lock of the run directory.
        if run_dir.owns(path) {
            let what = format!("`pid_file`: {} is the run directory's own, name another file", path.display());
            return Err(Error::new(Exit::Config, what));
        }
        let flags = OFlag::O_NOFOLLOW | OFlag::O_NONBLOCK;
        let mut options = File::options();
        options.read(true).write(true).create(true).truncate(false).mode(0o644).custom_flags(flags.bits());
        let refuse = |why: &str| Error::new(Exit::Refused, format!("{}: {why}", cannot()));
        let mut file = match options.open(path) {
            Err(error) if error.raw_os_error() == Some(Errno::ELOOP as i32) => {
                return Err(refuse("it is a symbolic link"));
            }
            opened => opened.or_refused(cannot)?,
        };
        is_sound(&mut file).map_err(|why| refuse(&why))?;
        if let Some(owner) = lock::take(&file).or_refused(cannot)? {
            let what = format!("already running: pid {owner} holds the pid file {}", path.display());
            return Err(Error::new(Exit::Busy, what));
        }
        // One that a master has removed at its end, between our opening and our lock, is nobody's.
        if !is_there(path, &file) {
            drop(file);
            return Self::take(path, run_dir);
        }
        file.set_len(0).or_refused(cannot)?;
        file.set_permissions(Permissions::from_mode(0o644)).or_refused(cannot)?;
        writeln!(file, "{}", std::process::id()).or_refused(cannot)?;
        Ok(Self { path: path.to_owned(), file })
    }
}

impl PidFile {
    /// Whether this path leads to it, over symbolic links too.
    pub(super) fn is_at(&self, path: &Path) -> bool {
        fs::canonicalize(path).is_ok_and(|path| is_there(&path, &self.file))
    }
}

impl Drop for PidFile {
    /// Removes it, unless something else lies there by now.
    fn drop(&mut self) {
        if is_there(&self.path, &self.file)
            && let Err(error) = fs::remove_file(&self.path)
        {
            log::warn!("cannot remove the pid file {}: {error}", self.path.display());
        }
    }
}

/// Whether this path names this file.
fn is_there(path: &Path, file: &File) -> bool {
    let identity = |found: io::Result<fs::Metadata>| found.ok().as_ref().map(FileIdentity::of);
    identity(file.metadata()).is_some_and(|ours| identity(fs::symlink_metadata(path)) == Some(ours))
}

/// Nothing of anyone else's is written over, and nothing that is no pid file.
fn is_sound(file: &mut File) -> Result<(), String> {
    let found = file.metadata().map_err(|error| error.to_string())?;
    if !found.is_file() {
        return Err("it is no regular file".to_owned());
    }
    if found.uid() != geteuid().as_raw() {
        return Err(format!("it belongs to uid {}", found.uid()));
    }
    if found.nlink() > 1 {
        return Err("it has another name too (a hard link)".to_owned());
    }
    let mut content = Vec::new();
    file.take(LEN_MAX + 1).read_to_end(&mut content).map_err(|error| error.to_string())?;
    let is_number = content.iter().all(|byte| byte.is_ascii_digit() || byte.is_ascii_whitespace());
    if content.len() as u64 > LEN_MAX || !is_number {
        return Err("it holds something else than a number: remove it, or name another".to_owned());
    }
    file.rewind().map_err(|error| error.to_string())
}
