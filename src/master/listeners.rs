//! The listening sockets: bound once by the master, shared by all workers.

use std::fs::{self, File, Permissions};
use std::io;
use std::net::Shutdown;
use std::os::fd::{AsFd, BorrowedFd};
use std::os::unix::fs::{FileTypeExt, MetadataExt, PermissionsExt, chown};
use std::path::{Path, PathBuf};

use nix::errno::Errno;
use nix::fcntl::{Flock, FlockArg};
use nix::sys::stat::{Mode, umask};
use nix::unistd::geteuid;
use socket2::{Domain, Protocol, SockAddr, Socket, Type};

use crate::contract::status::ListenerStatus;
use crate::error::{Context, Error, Exit};
use crate::settings::{Address, Listener as Wanted, Service, is_safe_way};

pub(super) struct Listeners(Vec<Listener>);

struct Listener {
    name: String,
    address: Address,
    socket: Socket,
    /// Removed with the listener.
    _file: Option<SocketFile>,
}

/// A Unix socket's name in the file system, as long as it is ours.
struct SocketFile {
    path: PathBuf,
    identity: (u64, u64),
}

impl Listeners {
    /// Binds all addresses, or none.
    pub(super) fn bind(wanted: &[Wanted], service: Service) -> Result<Self, Error> {
        let bind = |wanted: &Wanted| {
            let address = wanted.address.clone().expect("a listener that is in force has an address");
            let cannot = || format!("cannot listen on {address}");
            match &address {
                Address::Tcp(_) => {
                    let (socket, address) = listen_tcp(&address, wanted.backlog).or_refused(cannot)?;
                    Ok(Listener { name: wanted.name.clone(), address, socket, _file: None })
                }
                Address::Unix(path) => {
                    is_safe_way(path).or_refused(cannot)?;
                    let (socket, file) = listen_unix(path, wanted, service).map_err(|error| error.about(&address))?;
                    Ok(Listener { name: wanted.name.clone(), address, socket, _file: Some(file) })
                }
            }
        };
        let mut listeners = Self(Vec::new());
        for wanted in wanted {
            listeners.0.push(bind(wanted)?);
        }
        Ok(listeners)
    }

    /// Ends the queues, whoever else holds them: a worker's own child that kept its copy must not
    /// take connections that nobody answers, nor keep the next master from listening.
    pub(super) fn shut(&self) {
        for listener in &self.0 {
            if let Err(error) = listener.socket.shutdown(Shutdown::Both) {
                log::warn!("cannot shut {}: {error}", listener.address);
            }
        }
    }

    pub(super) fn descriptors(&self) -> impl Iterator<Item = BorrowedFd<'_>> {
        self.0.iter().map(|listener| listener.socket.as_fd())
    }

    /// What to open in a browser.
    pub(super) fn urls(&self) -> Vec<String> {
        let url = |listener: &Listener| match &listener.address {
            Address::Tcp(address) => format!("http://{address}"),
            Address::Unix(_) => listener.address.to_string(),
        };
        self.0.iter().map(url).collect()
    }

    pub(super) fn status(&self) -> Vec<ListenerStatus> {
        let status =
            |listener: &Listener| ListenerStatus { name: listener.name.clone(), address: listener.address.to_string() };
        self.0.iter().map(status).collect()
    }
}

impl Drop for SocketFile {
    /// Removes the name, unless it is another socket's by now.
    fn drop(&mut self) {
        if fs::symlink_metadata(&self.path).is_ok_and(|found| (found.dev(), found.ino()) == self.identity)
            && let Err(error) = fs::remove_file(&self.path)
        {
            log::warn!("cannot remove {}: {error}", self.path.display());
        }
    }
}

/// Binds, and says where: port 0 means any.
fn listen_tcp(wanted: &Address, backlog: i32) -> io::Result<(Socket, Address)> {
    let Address::Tcp(address) = *wanted else { return Err(io::ErrorKind::InvalidInput.into()) };
    let socket = Socket::new(Domain::for_address(address), Type::STREAM.nonblocking(), Some(Protocol::TCP))?;
    // Connections of an earlier process may still be in TIME_WAIT: socket(7).
    socket.set_reuse_address(true)?;
    if address.is_ipv6() {
        socket.set_only_v6(true)?;
    }
    socket.bind(&address.into())?;
    socket.listen(backlog)?;
    let bound = socket.local_addr()?.as_socket().unwrap_or(address);
    Ok((socket, Address::Tcp(bound)))
}

/// Why a Unix socket was not bound.
enum Unbound {
    /// Something is in its place.
    Taken(&'static str),
    System(io::Error),
}

impl<E: Into<io::Error>> From<E> for Unbound {
    fn from(error: E) -> Self {
        Self::System(error.into())
    }
}

impl Unbound {
    fn about(self, address: &Address) -> Error {
        let what = format!("cannot listen on {address}");
        match self {
            Self::Taken(why) => Error::new(Exit::Refused, format!("{what}: {why}")),
            Self::System(error) => match Err::<(), _>(error).or_refused(|| what) {
                Err(error) => error,
                Ok(()) => unreachable!("invariant: an error stays one"),
            },
        }
    }
}

/// Binds a socket with its mode and owner from its first moment on, in the place of a stale one.
fn listen_unix(path: &Path, wanted: &Wanted, service: Service) -> Result<(Socket, SocketFile), Unbound> {
    // Two that find the same stale socket: the second finds the first one's.
    let directory = File::open(path.parent().unwrap_or(Path::new("/")))?;
    let _lock = Flock::lock(directory, FlockArg::LockExclusive).map_err(|(_, error)| error)?;
    make_room(path)?;
    let socket = Socket::new(Domain::UNIX, Type::STREAM.nonblocking(), None)?;
    // Nobody connects before the owner and the mode are right.
    let before = umask(Mode::from_bits_truncate(0o777));
    let bound = socket.bind(&SockAddr::unix(path)?);
    umask(before);
    bound?;
    let found = fs::symlink_metadata(path)?;
    let file = SocketFile { path: path.to_owned(), identity: (found.dev(), found.ino()) };
    let owner = wanted.owner.as_ref().map_or(service.uid, |owner| owner.uid);
    let group = wanted.group.as_ref().map_or(service.gid, |group| group.gid);
    let is_given = wanted.owner.is_some() || wanted.group.is_some();
    if is_given || geteuid().is_root() {
        chown(path, Some(owner.as_raw()), Some(group.as_raw()))?;
    }
    fs::set_permissions(path, Permissions::from_mode(wanted.mode))?;
    socket.listen(wanted.backlog)?;
    Ok((socket, file))
}

/// Removes a socket that nobody listens on, and nothing else.
fn make_room(path: &Path) -> Result<(), Unbound> {
    match fs::symlink_metadata(path) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(()),
        Err(error) => return Err(error.into()),
        Ok(found) if !found.file_type().is_socket() => {
            return Err(Unbound::Taken("there is something else of this name, and no socket"));
        }
        Ok(_) => {}
    }
    // Not waiting: a full queue is a living one.
    let probe = Socket::new(Domain::UNIX, Type::STREAM.nonblocking(), None)?;
    match probe.connect(&SockAddr::unix(path)?) {
        Err(error) if error.raw_os_error() == Some(Errno::ECONNREFUSED as i32) => Ok(fs::remove_file(path)?),
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(()),
        Err(error) if error.kind() == io::ErrorKind::PermissionDenied => Err(error.into()),
        Ok(()) | Err(_) => Err(Unbound::Taken("another process listens there")),
    }
}
