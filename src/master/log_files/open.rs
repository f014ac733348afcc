//! Opening a log file, and what is refused.
//!
//! Nothing here follows a symbolic link, blocks, or writes to what somebody else may have put there.

use std::fs::{self, File, Metadata, OpenOptions, Permissions};
use std::io::{self, ErrorKind};
use std::os::unix::fs::{FileTypeExt, MetadataExt, OpenOptionsExt, PermissionsExt, fchown};
use std::path::Path;

use nix::errno::Errno;
use nix::fcntl::{AT_FDCWD, AtFlags, OFlag};
use nix::unistd::{AccessFlags, faccessat, geteuid};

use crate::error::{Context, Error, Exit};
use crate::settings::{Service, is_safe_way};

/// Who may read it besides the master is the service's group, whatever the umask.
const MODE: u32 = 0o640;

/// How often a file may come and go between two looks at it.
const ATTEMPTS_MAX: u32 = 8;

/// A file to append to.
pub(super) struct Opened {
    pub(super) file: File,
    /// Else it is a character device.
    pub(super) is_regular: bool,
}

/// Opens what is there, or makes a file.
///
/// What it leads to never blocks a write: `O_NONBLOCK` stays, which regular files know nothing of.
pub(super) fn open(path: &Path, service: Service) -> Result<Opened, Error> {
    let cannot = || cannot_open(path);
    let refuse = |why: String| Error::new(Exit::Refused, format!("{}: {why}", cannot()));
    is_on_a_safe_way(path)?;
    for _ in 0..ATTEMPTS_MAX {
        // What is there first: O_CREAT would make the kernel refuse others' files in sticky directories (proc(5),
        // protected_regular) before we can say why.
        match options().append(true).open(path) {
            Err(error) if error.kind() == ErrorKind::NotFound => {}
            Err(error) => match explained(&error) {
                Some(why) => return Err(refuse(why.to_owned())),
                None => return Err(error).or_refused(cannot),
            },
            Ok(file) => {
                let found = file.metadata().or_refused(cannot)?;
                is_sound(path, &found).map_err(refuse)?;
                return Ok(Opened { file, is_regular: found.is_file() });
            }
        }
        match create(path, service) {
            Ok(file) => return Ok(Opened { file, is_regular: true }),
            Err(error) if error.kind() == ErrorKind::AlreadyExists => {}
            Err(error) if error.kind() == ErrorKind::NotFound => {
                return Err(refuse(no_directory(directory_of(path))));
            }
            Err(error) => return Err(error).or_refused(cannot),
        }
    }
    Err(refuse("it comes and goes".to_owned()))
}

/// Whether [`open`] would do it, as far as can be seen without making anything: for `check`.
pub(super) fn look(path: &Path) -> Result<(), Error> {
    is_on_a_safe_way(path)?;
    let refuse = |why: String| Error::new(Exit::Refused, format!("{}: {why}", cannot_open(path)));
    let found = match fs::symlink_metadata(path) {
        Ok(found) => found,
        Err(error) if error.kind() == ErrorKind::NotFound => {
            let directory = directory_of(path);
            if !directory.is_dir() {
                return Err(refuse(no_directory(directory)));
            }
            return may(directory, AccessFlags::W_OK | AccessFlags::X_OK).or_refused(|| cannot_open(path));
        }
        Err(error) => return Err(error).or_refused(|| cannot_open(path)),
    };
    let kind = found.file_type();
    let obstacle = [
        (kind.is_symlink(), Errno::ELOOP),
        (kind.is_dir(), Errno::EISDIR),
        (kind.is_fifo() || kind.is_socket(), Errno::ENXIO),
    ];
    if let Some(why) = obstacle.into_iter().find_map(|(is_there, errno)| is_there.then(|| explained(&errno.into()))?) {
        return Err(refuse(why.to_owned()));
    }
    is_sound(path, &found).map_err(refuse)?;
    may(path, AccessFlags::W_OK).or_refused(|| cannot_open(path))
}

/// With the rights that count when it is opened.
fn may(path: &Path, access: AccessFlags) -> io::Result<()> {
    Ok(faccessat(AT_FDCWD, path, access, AtFlags::AT_EACCESS)?)
}

fn cannot_open(path: &Path) -> String {
    format!("cannot open the log file {}", path.display())
}

fn no_directory(directory: &Path) -> String {
    format!("there is no directory {}: make it, or name another file", directory.display())
}

fn is_on_a_safe_way(path: &Path) -> Result<(), Error> {
    is_safe_way(path).map_err(|error| {
        let what = format!("{}: name a file in a directory that only root may write", cannot_open(path));
        Error::because(Exit::NoPermission, what, error)
    })
}

/// Makes a file where nothing is.
pub(super) fn create(path: &Path, service: Service) -> io::Result<File> {
    let file = options().append(true).create_new(true).mode(MODE).open(path)?;
    let given = || {
        if service.drops {
            fchown(&file, None, Some(service.gid.as_raw()))?;
        }
        file.set_permissions(Permissions::from_mode(MODE))
    };
    if let Err(error) = given() {
        // An empty file in its place would be in the way of the one that gets its name back.
        let _ = fs::remove_file(path);
        return Err(error);
    }
    Ok(file)
}

/// Opens a rotated file for who compresses it.
pub(super) fn open_to_read(path: &Path) -> io::Result<File> {
    let file = options().read(true).open(path)?;
    match is_ours(path, &file.metadata()?) {
        true => Ok(file),
        false => Err(io::Error::other("it is somebody else's, or no regular file")),
    }
}

/// Whether this is a regular file that nobody else can have put there.
pub(super) fn is_ours(path: &Path, found: &Metadata) -> bool {
    found.is_file() && is_sound(path, found).is_ok()
}

/// Where a file is; a bare name is in the current directory.
pub(super) fn directory_of(path: &Path) -> &Path {
    path.parent().filter(|parent| !parent.as_os_str().is_empty()).unwrap_or(Path::new("."))
}

/// Without O_NOCTTY a terminal could become the daemon's; std opens with O_CLOEXEC.
fn options() -> OpenOptions {
    let flags = OFlag::O_NOFOLLOW | OFlag::O_NONBLOCK | OFlag::O_NOCTTY;
    let mut options = File::options();
    options.custom_flags(flags.bits());
    options
}

/// What an error of open(2) means for a log file.
fn explained(error: &io::Error) -> Option<&'static str> {
    match error.raw_os_error().map(Errno::from_raw) {
        Some(Errno::ELOOP) => Some("it is a symbolic link: name the file that it leads to"),
        Some(Errno::EISDIR) => Some("it is a directory: name a file in it"),
        // A FIFO that nobody reads, too.
        Some(Errno::ENXIO) => Some("it is a FIFO or a socket: name a file"),
        Some(_) | None => None,
    }
}

fn is_sound(path: &Path, found: &Metadata) -> Result<(), String> {
    let kind = found.file_type();
    if kind.is_char_device() {
        return Ok(());
    }
    if !kind.is_file() {
        return Err("it is neither a regular file nor a character device: name a file".to_owned());
    }
    let is_shared = fs::metadata(directory_of(path)).is_ok_and(|directory| directory.mode() & 0o022 != 0);
    let is_own = found.uid() == 0 || found.uid() == geteuid().as_raw();
    if is_shared && !is_own {
        let uid = found.uid();
        return Err(format!("it belongs to uid {uid}, in a directory that others may write: name another file"));
    }
    if is_shared && found.nlink() > 1 {
        return Err("it has another name too (a hard link), in a directory that others may write".to_owned());
    }
    Ok(())
}
