//! On real files, as root and as anyone.

mod compression;
mod opening;
mod rotation;

use std::io::{Read, Write};
use std::os::unix::fs::{MetadataExt, PermissionsExt, symlink};
use std::os::unix::net::UnixListener;

use nix::sys::stat::Mode;
use nix::unistd::{Gid, getegid, geteuid, mkfifo};
use tempfile::TempDir;

use super::*;
use crate::error::Chain;
use crate::settings::log::Fsync;

const NUMBER: u64 = 7;
const AGE: Duration = Duration::from_secs(60 * 60);

/// A log in a directory of its own.
struct Scene {
    directory: TempDir,
    sink: FileSink,
    files: LogFiles,
    /// Where the log helper writes.
    descriptor: Option<File>,
}

impl Scene {
    fn new(change: impl FnOnce(&mut FileSink)) -> Self {
        let directory = tempfile::tempdir().expect("a directory");
        let mut sink = sink(directory.path().join("app.log"));
        change(&mut sink);
        Self { directory, sink, files: LogFiles::default(), descriptor: None }
    }

    /// With the file open.
    fn begun(change: impl FnOnce(&mut FileSink)) -> Self {
        let mut scene = Self::new(change);
        scene.add();
        scene
    }

    fn add(&mut self) {
        self.files.add(NUMBER, &self.sink, service()).expect("opened");
        self.descriptor = Some(self.files.descriptor(NUMBER).expect("a descriptor").into());
    }

    fn path(&self, name: &str) -> PathBuf {
        self.directory.path().join(name)
    }

    fn put(&self, name: &str, content: &str) {
        fs::write(self.path(name), content).expect("written");
    }

    fn read(&self, name: &str) -> String {
        fs::read_to_string(self.path(name)).unwrap_or_else(|error| error.to_string())
    }

    /// What the log helper does.
    fn write(&mut self, text: &str) {
        self.descriptor.as_mut().expect("a descriptor").write_all(text.as_bytes()).expect("written");
    }

    fn rotate(&mut self, now: SystemTime) -> Option<PathBuf> {
        let rotated = self.files.rotate(NUMBER, now).expect("rotated");
        self.descriptor = Some(rotated.descriptor.into());
        rotated.moved_to
    }

    /// All names in the directory but the log's, without its own.
    fn names(&self) -> Vec<String> {
        let entries = fs::read_dir(self.directory.path()).expect("listed");
        let name = |entry: fs::DirEntry| entry.file_name().into_string().expect("a name");
        let mut names: Vec<String> = entries.map(|entry| name(entry.expect("an entry"))).collect();
        names.retain(|name| name != "app.log");
        names.sort();
        names.iter().map(|name| name.strip_prefix("app.log.").unwrap_or(name).to_owned()).collect()
    }

    fn error(&mut self) -> String {
        let error = self.files.add(NUMBER, &self.sink, service()).expect_err("refused");
        Chain(&error).to_string()
    }
}

fn sink(path: PathBuf) -> FileSink {
    let (size, age, keep, keep_size) = (Some(100), Some(AGE), 10, None);
    FileSink { path, size, age, keep, keep_size, compress: false, fsync: Fsync::Never }
}

fn service() -> Service {
    Service { uid: geteuid(), gid: getegid(), drops: false }
}

fn at(seconds: u64) -> SystemTime {
    SystemTime::UNIX_EPOCH + Duration::from_secs(1_000_000_000 + seconds)
}

/// What the log helper does with it.
fn compress(compression: Compression) -> u64 {
    let mut text = String::new();
    File::from(compression.from).read_to_string(&mut text).expect("read");
    File::from(compression.to).write_all(format!("({text})").as_bytes()).expect("written");
    compression.id
}
