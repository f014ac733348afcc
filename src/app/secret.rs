//! Files that the configuration names, opened by the master: it may read what the service may not.

use std::cell::RefCell;
use std::collections::BTreeMap;
use std::fs::File;
use std::io::{self, ErrorKind};
use std::os::unix::fs::{FileExt, OpenOptionsExt};
use std::path::{Path, PathBuf};
use std::sync::Arc;

use nix::fcntl::OFlag;
use serde::de::Error as _;
use serde::{Deserialize, Deserializer};

/// A file of secrets, as a key of the configuration whose name ends in `_file`.
///
/// The master opens such files of `[app]` and of helpers' sections when it reads the configuration,
/// so the service's user needs no right to read them: `0600` and root's is fine. A file that cannot
/// be opened, or has more than 1 MiB, is a mistake in the configuration. What it held then is kept, for
/// processes too that start later: one that is replaced or written over is read anew with the next
/// configuration.
///
/// ```
/// #[derive(serde::Deserialize)]
/// struct Settings {
///     password_file: forebay::SecretFile,
/// }
///
/// fn password(settings: &Settings) -> std::io::Result<String> {
///     Ok(settings.password_file.read_to_string(1024)?.trim().to_owned())
/// }
/// ```
#[derive(Clone, Debug)]
pub struct SecretFile {
    path: PathBuf,
    file: Arc<File>,
}

impl SecretFile {
    /// Opens a file as this process's user; for tests.
    ///
    /// # Errors
    /// It cannot be opened, or is no regular file.
    pub fn open(path: impl Into<PathBuf>) -> io::Result<Self> {
        let path = path.into();
        let file = open(&path)?;
        Ok(Self { path, file: Arc::new(file) })
    }

    /// The file's path, for messages.
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// The file's content, from its start.
    ///
    /// # Errors
    /// It has more than `len_max` bytes, is no text, or cannot be read.
    pub fn read_to_string(&self, len_max: usize) -> io::Result<String> {
        // By position: all processes of a generation share the descriptor.
        let mut bytes = vec![0; len_max + 1];
        let mut len = 0;
        while len < bytes.len() {
            match self.file.read_at(&mut bytes[len..], len as u64) {
                Ok(0) => break,
                Ok(count) => len += count,
                Err(error) if error.kind() == ErrorKind::Interrupted => {}
                Err(error) => return Err(error),
            }
        }
        if len > len_max {
            return Err(io::Error::other(format!("it has more than {len_max} bytes")));
        }
        bytes.truncate(len);
        String::from_utf8(bytes).map_err(|_| io::Error::other("it is no text"))
    }
}

/// The files that a master has opened, or why it could not.
pub(crate) type Opened = BTreeMap<PathBuf, Result<Arc<File>, String>>;

thread_local! {
    /// Those of the configuration that is being read.
    static OPENED: RefCell<Arc<Opened>> = RefCell::default();
}

/// Reads something of a configuration whose files are these.
pub(super) fn with<T>(opened: &Arc<Opened>, read: impl FnOnce() -> T) -> T {
    let before = OPENED.replace(opened.clone());
    let value = read();
    OPENED.set(before);
    value
}

/// Opens a regular file without waiting for anything.
pub(crate) fn open(path: &Path) -> io::Result<File> {
    let flags = OFlag::O_NONBLOCK | OFlag::O_NOCTTY;
    let file = File::options().read(true).custom_flags(flags.bits()).open(path)?;
    if file.metadata()?.is_file() { Ok(file) } else { Err(io::Error::other("it is no regular file")) }
}

impl<'de> Deserialize<'de> for SecretFile {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let path = PathBuf::deserialize(deserializer)?;
        let known = OPENED.with_borrow(|opened| opened.get(&path).cloned());
        // A key of another name, or no master: this process may be able to read it.
        let file = known.unwrap_or_else(|| open(&path).map(Arc::new).map_err(|error| error.to_string()));
        match file {
            Ok(file) => Ok(Self { path, file }),
            Err(why) => Err(D::Error::custom(format!("cannot read {}: {why}", path.display()))),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[derive(Debug, Deserialize)]
    struct Settings {
        key_file: SecretFile,
    }

    #[test]
    fn what_the_master_has_opened_is_read_and_not_opened_again() {
        let directory = tempfile::tempdir().expect("a directory");
        let path = directory.path().join("key");
        std::fs::write(&path, "secret\n").expect("write");
        let opened: Opened = [(path.clone(), open(&path).map(Arc::new).map_err(|error| error.to_string()))].into();
        let text = format!("key_file = '{}'", path.display());
        std::fs::remove_file(&path).expect("remove");
        let settings: Settings = with(&Arc::new(opened), || toml::from_str(&text)).expect("it was opened");
        for _ in 0..2 {
            assert_eq!(settings.key_file.read_to_string(7).expect("read"), "secret\n");
        }
        assert!(settings.key_file.read_to_string(6).is_err());
        let why = toml::from_str::<Settings>(&text).expect_err("it is gone").to_string();
        assert!(why.contains(&*path.display().to_string()) && why.contains("No such file"), "{why}");
    }

    #[test]
    fn why_the_master_could_not_open_it_is_told_and_only_files_are_opened() {
        let opened: Opened = [(PathBuf::from("/x"), Err("Permission denied".to_owned()))].into();
        let why = with(&Arc::new(opened), || toml::from_str::<Settings>("key_file = '/x'")).expect_err("no file");
        assert!(why.to_string().contains("cannot read /x: Permission denied"), "{why}");
        assert!(open(Path::new("/dev/zero")).is_err() && open(Path::new("/")).is_err());
    }
}
