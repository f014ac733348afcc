//! The log's files on disk: opened, renamed, removed by the master alone.
//!
//! The log helper writes to the descriptors that it is given and never names a path. The master keeps a duplicate of
//! each, looks at it from time to time, and hands over another one when a file was moved or has been rotated. It
//! compresses nothing itself: it opens both files, and gives the result its name. Nothing is kept about rotated files:
//! their names say what they are.

mod archive;
mod names;
mod open;
#[cfg(test)]
mod tests;

use std::collections::{BTreeMap, BTreeSet};
use std::fs::{self, File, Metadata};
use std::io::{self, ErrorKind};
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::path::{Path, PathBuf};
use std::time::{Duration, SystemTime};

use self::names::{Form, Rotated as RotatedFile, Stamp};
use self::open::Opened;
use super::file_identity::FileIdentity;
use crate::error::{Context, Error, Exit};
use crate::settings::Service;
use crate::settings::log::FileSink;

/// How long a file that could not be rotated is left alone.
const RETRY: Duration = Duration::from_secs(60);

/// All files that are written to, by numbers that the caller gives.
#[derive(Debug, Default)]
pub(super) struct LogFiles {
    files: BTreeMap<u64, LogFile>,
    /// What the log helper is compressing.
    compressing: BTreeMap<u64, Compressing>,
    next_id: u64,
}

/// What a rotation has led to.
#[derive(Debug)]
pub(super) struct Rotated {
    /// Where to write from now on.
    pub(super) descriptor: OwnedFd,
    /// What the old file is called now; `None` when it was no longer at its path, or cannot be moved.
    pub(super) moved_to: Option<PathBuf>,
}

/// Something to compress for the log helper.
#[derive(Debug)]
pub(super) struct Compression {
    pub(super) from: OwnedFd,
    pub(super) to: OwnedFd,
    /// For [`LogFiles::compressed`].
    pub(super) id: u64,
}

#[derive(Debug)]
struct LogFile {
    sink: FileSink,
    service: Service,
    file: File,
    /// What the log helper may write to still: how far it has come there, only this file knows.
    previous: Option<File>,
    /// Else it is a character device, which is never rotated.
    is_regular: bool,
    /// From when its age counts.
    begun: SystemTime,
    /// When it could not be rotated.
    failed_at: Option<SystemTime>,
    /// Rotated files that could not be compressed; tried again after the next rotation.
    incompressible: BTreeSet<Stamp>,
}

#[derive(Debug)]
struct Compressing {
    number: u64,
    path: PathBuf,
    stamp: Stamp,
}

impl LogFiles {
    /// Opens a file; one of the same number gives way to it. What a killed daemon has left beside it is put in order,
    /// but not yet compressed: ask [`LogFiles::compression`] when the log helper is there.
    pub(super) fn add(&mut self, number: u64, sink: &FileSink, service: Service) -> Result<(), Error> {
        let Opened { file, is_regular } = open::open(&sink.path, service)?;
        let begun = begun(&file.metadata().or_refused(|| cannot_look_at(&sink.path))?);
        let (previous, failed_at, incompressible) = (None, None, BTreeSet::new());
        let file =
            LogFile { sink: sink.clone(), service, file, previous, is_regular, begun, failed_at, incompressible };
        self.files.insert(number, file);
        self.put_in_order(number);
        Ok(())
    }

    /// What [`LogFiles::add`] would refuse, as far as can be seen; makes nothing.
    pub(super) fn look(sink: &FileSink) -> Result<(), Error> {
        open::look(&sink.path)
    }

    /// Which file it is.
    pub(super) fn identity(&self, number: u64) -> Option<FileIdentity> {
        let file = self.files.get(&number)?;
        file.file.metadata().ok().as_ref().map(FileIdentity::of)
    }

    /// Forgets a file. What of it is being compressed is brought to its end.
    pub(super) fn remove(&mut self, number: u64) {
        self.files.remove(&number);
    }

    /// A duplicate of the descriptor that a log helper begins with: of the file that the last one wrote to. If
    /// another one was to follow, [`LogFiles::next`] is that.
    pub(super) fn descriptor(&self, number: u64) -> io::Result<OwnedFd> {
        let file = self.files.get(&number).ok_or(ErrorKind::NotFound)?;
        Ok(file.previous.as_ref().unwrap_or(&file.file).try_clone()?.into())
    }

    /// The file that the log helper shall write to and has not said that it does.
    pub(super) fn next(&self, number: u64) -> Option<BorrowedFd<'_>> {
        self.files.get(&number).filter(|file| file.previous.is_some()).map(|file| file.file.as_fd())
    }

    /// The log helper has said that it writes to the last file that it was given.
    pub(super) fn is_switched(&mut self, number: u64) {
        if let Some(file) = self.files.get_mut(&number) {
            file.previous = None;
        }
    }

    pub(super) fn path(&self, number: u64) -> Option<&Path> {
        self.files.get(&number).map(|file| &*file.sink.path)
    }

    /// Opens the path anew; if that cannot be, the old file stays.
    pub(super) fn reopen(&mut self, number: u64) -> Result<OwnedFd, Error> {
        self.get_mut(number)?.reopen()
    }

    /// Those whose path leads nowhere any more, or to another file.
    pub(super) fn moved(&self) -> Vec<u64> {
        self.files.iter().filter(|(_, file)| file.is_moved()).map(|(&number, _)| number).collect()
    }

    /// Those that are to be rotated.
    ///
    /// An empty file never is, and its age counts from the last time that it was seen empty. Else it counts from the
    /// file's birth, as the file system tells it (statx(2)), over all restarts of the daemon; one that does not
    /// tell has the time of the last write before the file was opened.
    pub(super) fn due(&mut self, now: SystemTime) -> Vec<u64> {
        self.files.iter_mut().filter_map(|(&number, file)| file.is_due(now).then_some(number)).collect()
    }

    /// Gives the file the name of this moment and opens its path anew. If that cannot be, it has its old name again.
    ///
    /// One that was moved meanwhile, or is a device, is opened anew and no more.
    pub(super) fn rotate(&mut self, number: u64, now: SystemTime) -> Result<Rotated, Error> {
        let file = self.get_mut(number)?;
        let rotated = file.rotate(now, open::open);
        file.failed_at = rotated.is_err().then_some(now);
        if rotated.is_ok() {
            file.incompressible.clear();
            self.put_in_order(number);
        }
        rotated
    }

    /// The oldest rotated file that is to be compressed, if none of this log is being: to be asked after
    /// [`LogFiles::add`], [`LogFiles::compressed`], and a rotation, each time only when the log helper has said that it
    /// writes no more to the file that was rotated last.
    pub(super) fn compression(&mut self, number: u64) -> Option<Compression> {
        let file = self.files.get_mut(&number).filter(|file| file.is_rotating() && file.sink.compress)?;
        let path = &file.sink.path;
        if self.compressing.values().any(|other| other.path == *path) {
            return None;
        }
        let mut waiting = archive::list(path).unwrap_or_else(|error| {
            log::warn!(target: "forebay", "cannot look for rotated files of {}: {error}", path.display());
            Vec::new()
        });
        waiting.retain(|rotated| file.waits(rotated));
        for RotatedFile { stamp, .. } in waiting {
            match open_both(&file.sink.path, &stamp, file.service) {
                Ok((from, to)) => {
                    let id = self.next_id;
                    self.next_id += 1;
                    self.compressing.insert(id, Compressing { number, path: file.sink.path.clone(), stamp });
                    return Some(Compression { from, to, id });
                }
                Err(error) => {
                    say_that_it_stays_plain(&archive::name(&file.sink.path, &stamp, Form::Plain), &error.to_string());
                    file.incompressible.insert(stamp);
                }
            }
        }
        None
    }

    /// What became of a compression: the compressed file takes the original's place, or the original stays. Returns
    /// whose it was, if that is still there.
    pub(super) fn compressed(&mut self, id: u64, outcome: Result<(), String>) -> Option<u64> {
        let Compressing { number, path, stamp } = self.compressing.remove(&id)?;
        let exchanged = match outcome {
            Ok(()) => archive::exchange(&path, &stamp).map_err(|error| error.to_string()),
            Err(why) => {
                archive::discard(&path, &stamp);
                Err(why)
            }
        };
        if let Err(why) = &exchanged {
            say_that_it_stays_plain(&archive::name(&path, &stamp, Form::Plain), why);
        }
        let file = self.files.get_mut(&number).filter(|file| file.sink.path == path)?;
        if exchanged.is_err() {
            file.incompressible.insert(stamp);
        }
        self.put_in_order(number);
        Some(number)
    }

    /// The log helper is gone: nobody compresses any more what it was given.
    pub(super) fn helper_is_gone(&mut self) {
        let ids: Vec<u64> = self.compressing.keys().copied().collect();
        for id in ids {
            self.compressed(id, Err("the log helper is gone".to_owned()));
        }
    }

    /// Ends what was begun by somebody who is gone, and removes what is too much.
    fn put_in_order(&self, number: u64) {
        let Some(file) = self.files.get(&number).filter(|file| file.is_rotating()) else { return };
        let FileSink { path, keep, keep_size, .. } = &file.sink;
        let is_held = |stamp: &Stamp| self.compressing.values().any(|held| held.path == *path && held.stamp == *stamp);
        let mended = archive::mend(path, is_held);
        let pruned = archive::prune(path, (*keep, *keep_size), |rotated| file.waits(rotated), is_held);
        for error in [mended, pruned].into_iter().filter_map(Result::err) {
            log::warn!(target: "forebay", "cannot put the rotated files of {} in order: {error}", path.display());
        }
    }

    fn get_mut(&mut self, number: u64) -> Result<&mut LogFile, Error> {
        self.files.get_mut(&number).ok_or_else(|| Error::new(Exit::Bug, format!("there is no log file {number}")))
    }
}

impl LogFile {
    /// Whether any of its rotated files are our business.
    fn is_rotating(&self) -> bool {
        self.is_regular && (self.sink.size.is_some() || self.sink.age.is_some())
    }

    fn is_moved(&self) -> bool {
        match (fs::symlink_metadata(&self.sink.path), self.file.metadata()) {
            (Ok(there), Ok(ours)) => FileIdentity::of(&there) != FileIdentity::of(&ours),
            (Err(error), _) => matches!(error.kind(), ErrorKind::NotFound | ErrorKind::NotADirectory),
            (Ok(_), Err(_)) => false,
        }
    }

    fn is_due(&mut self, now: SystemTime) -> bool {
        if !self.is_rotating() {
            return false;
        }
        let Ok(len) = self.file.metadata().map(|found| found.len()) else { return false };
        // Nothing was begun after now, unless the clock was set.
        if len == 0 || self.begun > now {
            self.begun = now;
        }
        let since = |moment: SystemTime| now.duration_since(moment).ok();
        let is_left_alone = self.failed_at.and_then(since).is_some_and(|passed| passed < RETRY);
        let is_large = self.sink.size.is_some_and(|size| len >= size);
        let is_old = self.sink.age.is_some_and(|age| since(self.begun).is_some_and(|passed| passed >= age));
        len > 0 && !is_left_alone && (is_large || is_old)
    }

    fn reopen(&mut self) -> Result<OwnedFd, Error> {
        let opened = open::open(&self.sink.path, self.service)?;
        self.take(opened)
    }

    /// Writes go there from now on, or, if no descriptor can be had for it, on to the old one.
    fn take(&mut self, opened: Opened) -> Result<OwnedFd, Error> {
        let cannot = || cannot_look_at(&self.sink.path);
        let descriptor = opened.file.try_clone().or_refused(cannot)?;
        let found = opened.file.metadata().or_refused(cannot)?;
        let old = std::mem::replace(&mut self.file, opened.file);
        self.previous.get_or_insert(old);
        (self.is_regular, self.begun) = (opened.is_regular, begun(&found));
        Ok(descriptor.into())
    }

    fn rotate(
        &mut self,
        now: SystemTime,
        open: impl Fn(&Path, Service) -> Result<Opened, Error>,
    ) -> Result<Rotated, Error> {
        if !self.is_regular || self.is_moved() {
            return Ok(Rotated { descriptor: self.reopen()?, moved_to: None });
        }
        let path = &self.sink.path;
        let stamp = archive::move_away(path, now).or_refused(|| format!("cannot rotate {}", path.display()))?;
        let moved_to = archive::name(path, &stamp, Form::Plain);
        let opened = open(path, self.service).inspect_err(|_| {
            // The log goes on there: it is found to have been moved, and opened anew when that can be.
            if let Err(error) = archive::move_back(path, &stamp) {
                let (old, new) = (path.display(), moved_to.display());
                log::warn!(target: "forebay", "cannot call {new} {old} again: {error}");
            }
        })?;
        let descriptor = self.take(opened)?;
        self.begun = now;
        Ok(Rotated { descriptor, moved_to: Some(moved_to) })
    }

    fn waits(&self, rotated: &RotatedFile) -> bool {
        self.sink.compress && rotated.is_plain() && !self.incompressible.contains(&rotated.stamp)
    }
}

fn begun(found: &Metadata) -> SystemTime {
    found.created().or_else(|_| found.modified()).unwrap_or(SystemTime::UNIX_EPOCH)
}

fn cannot_look_at(path: &Path) -> String {
    format!("cannot look at the log file {}", path.display())
}

fn say_that_it_stays_plain(path: &Path, why: &str) {
    log::warn!(target: "forebay", "cannot compress {}: {why}", path.display());
}

/// A rotated file and what it is compressed into.
fn open_both(path: &Path, stamp: &Stamp, service: Service) -> io::Result<(OwnedFd, OwnedFd)> {
    let from = open::open_to_read(&archive::name(path, stamp, Form::Plain))?;
    let to = open::create(&archive::name(path, stamp, Form::Unfinished), service)?;
    Ok((from.into(), to.into()))
}
