//! The run directory: where it is, who may enter, and that one master lives there.

use std::fs::{self, DirBuilder, File, OpenOptions, Permissions};
use std::io::{ErrorKind, Write};
use std::os::unix::fs::{DirBuilderExt, MetadataExt, OpenOptionsExt, PermissionsExt, chown};
use std::os::unix::net::UnixListener;
use std::path::{Path, PathBuf};

use interprocess::local_socket::{GenericFilePath, ListenerOptions, ToFsName};
use interprocess::os::unix::local_socket::ListenerOptionsExt;
use nix::fcntl::OFlag;
use nix::unistd::{Gid, Uid, getegid, geteuid};

use super::file_identity::is_one;
use crate::contract::ids::HelperName;
use crate::contract::{control, lock};
use crate::error::{Context, Error, Exit};
use crate::settings::{Service, is_safe_way};

/// The lock that one master holds for life; its content is for people.
const MASTER_LOCK: &str = "master.lock";

/// Where helpers' sockets are.
const IPC: &str = "ipc";

/// How reloads went.
const RELOADS: &str = "reload.json";

/// What helpers keep from one process to the next.
const STATE: &str = "state";

/// The run directory of the only master in it.
#[derive(Debug)]
pub(super) struct RunDir {
    path: PathBuf,
    /// Whose processes reach the sockets in `ipc/`, where it is not the master's own.
    gid: Option<Gid>,
    is_open: bool,
    /// The only descriptor of its file: closing another one would give up the lock.
    _lock: File,
}

impl RunDir {
    /// Makes the directory and takes its lock, or says who has it.
    ///
    /// The service's group may look into it and reach the sockets; with `is_open` everyone may come
    /// as far as the control socket, which looks at who it is.
    pub(super) fn take(path: &Path, service: Service, is_open: bool) -> Result<Self, Error> {
        is_safe_way(path).map_err(|error| {
            let what = "choose another run directory with --run-dir";
            Error::because(Exit::NoPermission, what, error)
        })?;
        if service.drops {
            is_reachable(path, service)?;
        }
        let gid = service.drops.then_some(service.gid);
        make_directory(path, if is_open { 0o751 } else { 0o750 }, None, gid)?;
        let lock = take_lock(path)?;
        make_directory(&path.join(IPC), 0o750, None, gid)?;
        make_directory(&path.join(STATE), 0o700, Some(service.uid), gid)?;
        Ok(Self { path: path.to_owned(), gid, is_open, _lock: lock })
    }

    pub(super) fn path(&self) -> &Path {
        &self.path
    }

    /// Whether this is one of the files that are made here, by whatever name.
    pub(super) fn owns(&self, path: &Path) -> bool {
        let lies_in = |directory: &Path| path.parent().is_some_and(|parent| is_one(parent, directory));
        let own = [MASTER_LOCK, lock::FILE, control::SOCKET, RELOADS, IPC, STATE];
        let has_own_name = own.iter().any(|own| path.file_name().is_some_and(|name| name == *own));
        lies_in(&self.path) && has_own_name
            || lies_in(&self.ipc_dir())
            || [MASTER_LOCK, lock::FILE].iter().any(|name| is_one(path, &self.path.join(name)))
    }

    /// The children's lock file.
    pub(super) fn children_lock(&self) -> Result<File, Error> {
        open(&self.path.join(lock::FILE))
    }

    /// The command line's way to the master.
    pub(super) fn control_socket(&self) -> Result<UnixListener, Error> {
        bind(&self.path.join(control::SOCKET), if self.is_open { 0o666 } else { 0o600 }, None)
    }

    /// Where the helpers' sockets are.
    pub(super) fn ipc_dir(&self) -> PathBuf {
        self.path.join(IPC)
    }

    pub(super) fn state_dir(&self) -> PathBuf {
        self.path.join(STATE)
    }

    pub(super) fn log_socket_path(&self) -> PathBuf {
        self.ipc_dir().join("log.sock")
    }

    /// Everyone's way to the log helper.
    pub(super) fn log_socket(&self) -> Result<UnixListener, Error> {
        bind(&self.log_socket_path(), 0o660, self.gid)
    }

    /// Everyone's way to this helper.
    pub(super) fn helper_socket(&self, name: HelperName) -> Result<UnixListener, Error> {
        bind(&self.helper_socket_path(name), 0o660, self.gid)
    }

    pub(super) fn helper_socket_path(&self, name: HelperName) -> PathBuf {
        self.ipc_dir().join(format!("{name}.sock"))
    }

    /// Nobody is called by this name any more.
    pub(super) fn remove_helper_socket(&self, name: HelperName) {
        remove(&self.helper_socket_path(name));
    }

    /// Says how reloads went, for scripts; the file is never seen half-written.
    pub(super) fn write_reloads(&self, text: &str) -> Result<(), Error> {
        let (path, new) = (self.path.join(RELOADS), self.path.join(format!("{RELOADS}.new")));
        let cannot = || format!("cannot write {}", path.display());
        fs::write(&new, text).or_refused(cannot)?;
        fs::set_permissions(&new, Permissions::from_mode(0o640)).or_refused(cannot)?;
        chown(&new, None, self.gid.map(Gid::as_raw)).or_refused(cannot)?;
        fs::rename(&new, &path).or_refused(cannot)
    }

    /// Whether everyone may come as far as the control socket, from now on.
    pub(super) fn open_to_all(&mut self, is_open: bool) -> Result<(), Error> {
        let cannot = || format!("cannot change {}", self.path.display());
        let (place, socket) = if is_open { (0o751, 0o666) } else { (0o750, 0o600) };
        self.is_open = is_open;
        if is_a_run_directory(&self.path) {
            fs::set_permissions(&self.path, Permissions::from_mode(place)).or_refused(cannot)?;
        }
        fs::set_permissions(self.path.join(control::SOCKET), Permissions::from_mode(socket)).or_refused(cannot)
    }

    /// Removes the sockets, these helpers' too, which nobody answers any more; locks, directories
    /// and what helpers keep stay.
    pub(super) fn leave(&self, helpers: impl Iterator<Item = HelperName>) {
        let ours = [self.path.join(control::SOCKET), self.log_socket_path()];
        for socket in ours.into_iter().chain(helpers.map(|name| self.helper_socket_path(name))) {
            remove(&socket);
        }
    }
}

fn remove(socket: &Path) {
    if let Err(error) = fs::remove_file(socket)
        && error.kind() != ErrorKind::NotFound
    {
        log::warn!("cannot remove {}: {error}", socket.display());
    }
}

/// Makes a directory, or accepts one that is ours and that nobody else may write.
fn make_directory(path: &Path, mode: u32, owner: Option<Uid>, group: Option<Gid>) -> Result<(), Error> {
    let cannot = || format!("cannot use the run directory {}", path.display());
    match DirBuilder::new().mode(mode).create(path) {
        Ok(()) => {}
        Err(error) if error.kind() == ErrorKind::AlreadyExists => {}
        Err(error) if error.kind() == ErrorKind::PermissionDenied => {
            let way_out = format!("cannot make the run directory {}: choose another with --run-dir", path.display());
            return Err(Error::because(Exit::NoPermission, way_out, error));
        }
        Err(error) => return Err(error).or_refused(cannot),
    }
    let found = fs::symlink_metadata(path).or_refused(cannot)?;
    let refuse = |why: &str| Err(Error::new(Exit::NoPermission, format!("{}: {why}", cannot())));
    if !found.is_dir() {
        return refuse("it is not a directory");
    }
    // What is given away may be an earlier service's: nobody but us can have put it there.
    if owner.is_none() && found.uid() != geteuid().as_raw() {
        return refuse(&format!("it belongs to uid {}", found.uid()));
    }
    if found.mode() & 0o022 != 0 {
        return refuse(&format!("others may write there (mode {:o}): chmod {mode:04o} it", found.mode() & 0o7777));
    }
    // One that holds anything else is somebody's home too, and stays as it is.
    if is_a_run_directory(path) {
        let raw = |gid: Option<Gid>| gid.unwrap_or(getegid()).as_raw();
        let owner = owner.unwrap_or(geteuid()).as_raw();
        if (found.uid(), found.gid()) != (owner, raw(group)) {
            chown(path, Some(owner), Some(raw(group))).or_refused(cannot)?;
        }
        fs::set_permissions(path, Permissions::from_mode(mode)).or_refused(cannot)?;
    }
    Ok(())
}

/// Whether the service's processes come as far as the run directory, whose sockets they need.
fn is_reachable(path: &Path, service: Service) -> Result<(), Error> {
    for above in path.ancestors().skip(1) {
        let Ok(found) = fs::metadata(above) else { continue };
        let class = if found.uid() == service.uid.as_raw() {
            0o100
        } else if found.gid() == service.gid.as_raw() {
            0o010
        } else {
            0o001
        };
        if found.mode() & class == 0 && !service.uid.is_root() {
            let (path, above, mode) = (path.display(), above.display(), found.mode() & 0o7777);
            let what = format!(
                "cannot use the run directory {path}: uid {} may not pass {above} (mode {mode:04o}), choose another \
                 with --run-dir",
                service.uid
            );
            return Err(Error::new(Exit::NoPermission, what));
        }
    }
    Ok(())
}

/// Whether it is empty, has been one, or is below one.
fn is_a_run_directory(path: &Path) -> bool {
    let has_lock = |place: &Path| fs::symlink_metadata(place.join(MASTER_LOCK)).is_ok();
    let is_empty = fs::read_dir(path).is_ok_and(|mut entries| entries.next().is_none());
    is_empty || has_lock(path) || path.parent().is_some_and(has_lock)
}

/// Takes the master's lock. The file is never removed: the lock is the truth, not the file.
fn take_lock(directory: &Path) -> Result<File, Error> {
    let path = directory.join(MASTER_LOCK);
    let mut file = open(&path)?;
    if let Some(owner) = lock::take(&file).or_refused(|| format!("cannot lock {}", path.display()))? {
        // The kernel's word: what stands in the file may be the last master's.
        let owner = if owner.as_raw() > 0 { format!("pid {owner}") } else { "in another pid namespace".to_owned() };
        let what = format!("already running ({owner}) with the run directory {}", directory.display());
        return Err(Error::new(Exit::Busy, what));
    }
    let written = file.set_len(0).and_then(|()| writeln!(file, "{}", std::process::id()));
    written.or_refused(|| format!("cannot write {}", path.display()))?;
    Ok(file)
}

fn open(path: &Path) -> Result<File, Error> {
    let mut options = OpenOptions::new();
    options.read(true).write(true).create(true).truncate(false).mode(0o600);
    options.custom_flags(OFlag::O_NOFOLLOW.bits() | OFlag::O_CLOEXEC.bits());
    options.open(path).or_refused(|| format!("cannot open {}", path.display()))
}

/// Binds a socket where only a stale one may be: the lock says that no other master lives here.
fn bind(path: &Path, mode: u32, group: Option<Gid>) -> Result<UnixListener, Error> {
    let cannot = || format!("cannot make the socket {}", path.display());
    match fs::remove_file(path) {
        Err(error) if error.kind() != ErrorKind::NotFound => return Err(error).or_refused(cannot),
        Ok(()) | Err(_) => {}
    }
    let name = path.to_fs_name::<GenericFilePath>().or_refused(cannot)?;
    // The name stays: a forked child that dropped its copy would remove it for everyone.
    let options = ListenerOptions::new().name(name).mode(mode).reclaim_name(false);
    let listener = options.create_sync().or_refused(cannot)?;
    // What bind(2) made is cut by the umask; nobody else can put anything in its place here.
    chown(path, None, group.map(Gid::as_raw)).or_refused(cannot)?;
    fs::set_permissions(path, Permissions::from_mode(mode)).or_refused(cannot)?;
    let descriptor: std::os::fd::OwnedFd = match listener {
        interprocess::local_socket::Listener::UdSocket(listener) => listener.into(),
    };
    let listener = UnixListener::from(descriptor);
    listener.set_nonblocking(true).or_refused(cannot)?;
    Ok(listener)
}
