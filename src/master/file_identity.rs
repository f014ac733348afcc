//! What a file is, whatever it is called: its device and its number there.

use std::ffi::OsStr;
use std::fs::{self, Metadata};
use std::os::unix::fs::MetadataExt;
use std::path::Path;

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct FileIdentity(u64, u64);

impl FileIdentity {
    pub(super) fn of(found: &Metadata) -> Self {
        Self(found.dev(), found.ino())
    }

    /// Of what is there, over symbolic links.
    fn at(path: &Path) -> Option<Self> {
        fs::metadata(path).ok().as_ref().map(Self::of)
    }
}

/// Whether two paths lead to one file, or to one directory.
pub(super) fn is_one(one: &Path, other: &Path) -> bool {
    FileIdentity::at(one).is_some_and(|identity| FileIdentity::at(other) == Some(identity))
}

/// Where a file is or would be, whatever its directory is called.
pub(super) fn place(path: &Path) -> Option<(FileIdentity, &OsStr)> {
    let directory = path.parent().filter(|parent| !parent.as_os_str().is_empty()).unwrap_or(Path::new("."));
    Some((FileIdentity::at(directory)?, path.file_name()?))
}
