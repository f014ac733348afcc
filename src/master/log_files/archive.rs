//! The rotated files of one log, in its directory: what lies there is the truth, nothing is remembered.

use std::collections::BTreeMap;
use std::ffi::OsString;
use std::fs;
use std::io::{self, ErrorKind};
use std::os::unix::ffi::OsStrExt;
use std::path::{Path, PathBuf};
use std::time::SystemTime;

use super::names::{Form, Rotated, Stamp, surplus};
use super::open;
use crate::sys::files::rename_to_new;

/// How many names in a row may be taken by what is none of ours.
const TAKEN_MAX: u32 = 100;

/// The rotated file of this stamp, in this form.
pub(super) fn name(path: &Path, stamp: &Stamp, form: Form) -> PathBuf {
    let mut name = OsString::from(path);
    name.push(format!(".{stamp}{}", form.ending()));
    name.into()
}

/// All of them, the oldest first; what others have put there under such a name is none.
pub(super) fn list(path: &Path) -> io::Result<Vec<Rotated>> {
    let mut found: BTreeMap<Stamp, Rotated> = BTreeMap::new();
    let own = path.file_name().unwrap_or_default().as_bytes();
    for entry in fs::read_dir(open::directory_of(path))? {
        let entry = entry?;
        let name = entry.file_name();
        let behind = name.as_bytes().strip_prefix(own).and_then(|rest| rest.strip_prefix(b"."));
        let text = behind.and_then(|behind| std::str::from_utf8(behind).ok());
        let Some((stamp, form)) = text.and_then(Stamp::parse) else { continue };
        // Not over a symbolic link; one that is gone by now is none.
        let Ok(metadata) = entry.metadata() else { continue };
        if open::is_ours(path, &metadata) {
            let rotated = found.entry(stamp.clone()).or_insert_with(|| Rotated::new(stamp));
            *rotated.bytes_of(form) = Some(metadata.len());
        }
    }
    Ok(found.into_values().collect())
}

/// Gives the log a name of its own, never that of another file.
pub(super) fn move_away(path: &Path, now: SystemTime) -> io::Result<Stamp> {
    let newest = list(path)?.pop().map(|newest| newest.stamp);
    let mut stamp = Stamp::new(now, newest.as_ref());
    for _ in 0..TAKEN_MAX {
        let Some(free) = stamp else { break };
        match rename(path, &name(path, &free, Form::Plain)) {
            Err(error) if error.kind() == ErrorKind::AlreadyExists => stamp = free.next(),
            result => return result.map(|()| free),
        }
    }
    Err(io::Error::new(ErrorKind::AlreadyExists, "all its next names are taken"))
}

/// Gives it its old name back.
pub(super) fn move_back(path: &Path, stamp: &Stamp) -> io::Result<()> {
    rename(&name(path, stamp, Form::Plain), path)
}

/// The compressed file takes the original's place, or goes where that cannot be.
///
/// The original goes first. Whoever is killed between the two leaves an unfinished file without an original, which
/// is complete: [`mend`] knows it by that.
pub(super) fn exchange(path: &Path, stamp: &Stamp) -> io::Result<()> {
    let compressed = name(path, stamp, Form::Compressed);
    let is_free = || match fs::symlink_metadata(&compressed) {
        Ok(_) => Err(io::Error::new(ErrorKind::AlreadyExists, format!("{} is there already", compressed.display()))),
        Err(_) => Ok(()),
    };
    is_free().and_then(|()| fs::remove_file(name(path, stamp, Form::Plain))).inspect_err(|_| discard(path, stamp))?;
    rename(&name(path, stamp, Form::Unfinished), &compressed)
}

/// Removes what is not complete; the original stays.
pub(super) fn discard(path: &Path, stamp: &Stamp) {
    let unfinished = name(path, stamp, Form::Unfinished);
    if let Err(error) = remove(&unfinished) {
        log::warn!(target: "forebay", "cannot remove {}: {error}", unfinished.display());
    }
}

/// Ends what a daemon that was killed has begun. `is_held` are those on which somebody works.
pub(super) fn mend(path: &Path, is_held: impl Fn(&Stamp) -> bool) -> io::Result<()> {
    for file in list(path)?.iter().filter(|file| file.unfinished.is_some() && !is_held(&file.stamp)) {
        let unfinished = name(path, &file.stamp, Form::Unfinished);
        match (file.plain, file.compressed) {
            (None, None) => rename(&unfinished, &name(path, &file.stamp, Form::Compressed))?,
            (Some(_), _) | (_, Some(_)) => remove(&unfinished)?,
        }
    }
    Ok(())
}

/// Removes those that are too many; `waits` are those that are yet to be compressed.
pub(super) fn prune(
    path: &Path,
    (keep, keep_size): (u32, Option<u64>),
    waits: impl Fn(&Rotated) -> bool,
    is_held: impl Fn(&Stamp) -> bool,
) -> io::Result<()> {
    let files = list(path)?;
    for file in surplus(&files, keep, keep_size, waits).into_iter().filter(|file| !is_held(&file.stamp)) {
        let forms = [(file.plain, Form::Plain), (file.compressed, Form::Compressed)];
        for (_, form) in forms.into_iter().filter(|(bytes, _)| bytes.is_some()) {
            remove(&name(path, &file.stamp, form))?;
        }
    }
    Ok(())
}

/// Removes a file, if it is there.
fn remove(path: &Path) -> io::Result<()> {
    match fs::remove_file(path) {
        Err(error) if error.kind() != ErrorKind::NotFound => Err(error),
        Ok(()) | Err(_) => Ok(()),
    }
}

fn rename(from: &Path, to: &Path) -> io::Result<()> {
    match rename_to_new(from, to) {
        // A file system or a kernel that cannot: then a look before, as nobody but us makes such names.
        Err(error) if matches!(error.raw_os_error(), Some(libc::EINVAL | libc::ENOSYS)) => {
            match fs::symlink_metadata(to) {
                Ok(_) => Err(ErrorKind::AlreadyExists.into()),
                Err(_) => fs::rename(from, to),
            }
        }
        result => result,
    }
}
