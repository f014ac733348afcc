//! The listening sockets: bound once by the master, shared by all workers.

use std::collections::BTreeMap;
use std::fs::{self, File, Permissions};
use std::io;
use std::net::{Shutdown, SocketAddr};
use std::os::fd::{AsFd, AsRawFd, BorrowedFd};
use std::os::unix::fs::{FileTypeExt, MetadataExt, OpenOptionsExt, PermissionsExt, chown};
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use nix::errno::Errno;
use nix::fcntl::{Flock, FlockArg, OFlag};
use nix::sys::stat::{Mode, umask};
use nix::unistd::geteuid;
use socket2::{Domain, SockAddr, Socket, Type};

use super::file_identity::FileIdentity;
use super::tcp;
use crate::contract::status::ListenerStatus;
use crate::error::{Context, Error, Exit};
use crate::settings::{Address, Listener as Wanted, Service, TcpOptions, is_safe_way};

/// All that are open, whichever generation has them.
#[derive(Default)]
pub(super) struct Listeners {
    open: BTreeMap<ListenerId, Listener>,
    next: u32,
    /// No generation has them any more; their queues are being emptied until then.
    closing: Vec<(Instant, ListenerId, Listener)>,
}

/// One open socket, over all generations that listen on it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(super) struct ListenerId(u32);

/// A generation's listeners: as it wants them, and which sockets these are.
pub(super) type Bound = Vec<(Wanted, ListenerId)>;

/// How long others may hold the directories of all sockets that are bound at once: while nobody is
/// served, and while the loop has others to care for. Anybody can who may open such a directory.
pub(super) const LOCK_WAIT: Duration = Duration::from_secs(1);
pub(super) const LOCK_WAIT_SERVING: Duration = Duration::from_millis(100);
/// How long the workers that had a listener may empty its queue when it goes.
const CLOSING: Duration = Duration::from_millis(200);

struct Listener {
    /// As it was asked for; port 0 is any.
    wanted: Address,
    address: Address,
    /// It was bound so, which lasts.
    is_v6_only: bool,
    socket: Socket,
    options: TcpOptions,
    /// Removed with the listener.
    file: Option<SocketFile>,
}

/// A Unix socket's name in the file system, as long as it is ours.
struct SocketFile {
    path: PathBuf,
    identity: FileIdentity,
}

impl Listeners {
    /// Opens all addresses that are not open yet, or none; waits so long for locks, all in all.
    pub(super) fn bind(&mut self, wanted: &[Wanted], service: Service, patience: Duration) -> Result<Bound, Error> {
        let deadline = Instant::now() + patience;
        let (first_new, mut bound) = (self.next, Bound::new());
        for wanted in wanted {
            match self.bind_one(wanted, &bound, service, deadline) {
                Ok(id) => bound.push((wanted.clone(), id)),
                Err(error) => {
                    // What was new goes too.
                    self.open.retain(|id, _| id.0 < first_new);
                    return Err(error);
                }
            }
        }
        Ok(bound)
    }

    fn bind_one(
        &mut self,
        wanted: &Wanted,
        bound: &Bound,
        service: Service,
        deadline: Instant,
    ) -> Result<ListenerId, Error> {
        let address = wanted.address.clone().expect("a listener that is in force has an address");
        self.take_back(wanted);
        let is_free = |id: ListenerId| !bound.iter().any(|(_, taken)| *taken == id);
        let all = self.open.iter().filter(|(id, listener)| listener.is_as(wanted) && is_free(**id));
        let same = all.clone().find(|(_, listener)| listener.is_reachable());
        if let Some((&id, listener)) = same {
            let tried = listener.file.iter().try_for_each(|file| try_to_give(file, wanted, service));
            return tried.map(|()| id).or_refused(|| format!("cannot change {address}"));
        }
        if all.count() > 0 {
            log::warn!(target: "forebay", "{address}: its name is gone, or another's: listening there anew");
        }
        let cannot = || format!("cannot listen on {address}");
        let (is_v6_only, options) = (wanted.ipv6_only, wanted.tcp);
        let listener = match &address {
            Address::Tcp(wanted_address) => {
                let (socket, bound) = self.listen_tcp(*wanted_address, wanted)?;
                let bound = Address::Tcp(bound);
                Listener { wanted: address.clone(), address: bound, is_v6_only, socket, options, file: None }
            }
            Address::Unix(path) => {
                is_safe_way(path).or_refused(cannot)?;
                let (socket, file) =
                    listen_unix(path, wanted, service, deadline).map_err(|error| error.about(&address))?;
                let (wanted, file) = (address.clone(), Some(file));
                Listener { wanted, address: address.clone(), is_v6_only, socket, options, file }
            }
        };
        let id = ListenerId(self.next);
        self.next += 1;
        self.open.insert(id, listener);
        Ok(id)
    }

    /// One that has just gone and is wanted again: its address is free for nobody else yet.
    fn take_back(&mut self, wanted: &Wanted) {
        if let Some(index) = self.closing.iter().position(|(_, _, listener)| listener.is_as(wanted)) {
            let (_, id, listener) = self.closing.swap_remove(index);
            self.open.insert(id, listener);
        }
    }

    fn listen_tcp(&mut self, address: SocketAddr, wanted: &Wanted) -> Result<(Socket, SocketAddr), Error> {
        let is_in_the_way = |listener: &Listener| match listener.address {
            Address::Tcp(other) => tcp::overlap((address, wanted.ipv6_only), (other, listener.is_v6_only)),
            Address::Unix(_) => false,
        };
        let what = format!("cannot listen on {address}");
        let error = match tcp::listen(address, wanted) {
            Err(error) if error.kind() == io::ErrorKind::AddrInUse => error,
            result => return result.or_refused(|| what),
        };
        // Its time was for connections that may still come; nobody else waits for this one.
        let (gone, left) = std::mem::take(&mut self.closing).into_iter().partition(|(_, _, old)| is_in_the_way(old));
        self.closing = left;
        if !Vec::is_empty(&gone) {
            gone.iter().for_each(|(_, _, listener)| listener.shut());
            return tcp::listen(address, wanted).or_refused(|| what);
        }
        match self.open.values().find(|listener| is_in_the_way(listener)) {
            Some(own) => Err(Error::new(Exit::Refused, format!("{what}: {error}; {}", way_out(address, &own.address)))),
            None if tcp::takes_both(address, wanted.ipv6_only) => {
                let way_out = "with `ipv6_only = true` it leaves IPv4 to whoever has that";
                Err(Error::new(Exit::Refused, format!("{what}: {error}; {way_out}")))
            }
            None => Err(error).or_refused(|| what),
        }
    }

    /// These are wanted from now on, as they are wanted: queue, options, mode, owner.
    pub(super) fn keep(&mut self, bound: &Bound, service: Service, now: Instant) {
        let gone: Vec<ListenerId> =
            self.open.keys().copied().filter(|id| !bound.iter().any(|(_, kept)| kept == id)).collect();
        let gone = gone.into_iter().filter_map(|id| Some((id, self.open.remove(&id)?)));
        self.closing.extend(gone.map(|(id, listener)| (now + CLOSING, id, listener)));
        for (wanted, id) in bound {
            let Some(listener) = self.open.get_mut(id) else { continue };
            // A second listen(2) changes the queue's length only.
            let changed = listener.socket.listen(wanted.backlog).and_then(|()| match &listener.address {
                Address::Tcp(_) => {
                    tcp::change(&listener.socket, std::mem::replace(&mut listener.options, wanted.tcp), wanted.tcp)
                }
                Address::Unix(_) => listener.file.iter().try_for_each(|file| give(file, wanted, service)),
            });
            if let Err(error) = changed {
                log::error!(target: "forebay", "cannot change {}: {error}", listener.address);
            }
        }
    }

    /// When the next of those that go is to be closed.
    pub(super) fn due(&self) -> Option<Instant> {
        self.closing.iter().map(|(due, ..)| *due).min()
    }

    /// Closes what has had its time.
    pub(super) fn close_the_gone(&mut self, now: Instant) {
        self.closing.retain(|(due, _, listener)| {
            let is_over = *due <= now;
            if is_over {
                listener.shut();
            }
            !is_over
        });
    }

    /// Ends the queues, whoever else holds them: a worker's own child that kept its copy must not
    /// take connections that nobody answers, nor keep the next master from listening.
    pub(super) fn shut(&self) {
        self.open.values().chain(self.closing.iter().map(|(_, _, listener)| listener)).for_each(Listener::shut);
    }

    pub(super) fn descriptors<'a>(&'a self, bound: &'a Bound) -> impl Iterator<Item = BorrowedFd<'a>> {
        bound.iter().filter_map(|(_, id)| Some(self.open.get(id)?.socket.as_fd()))
    }

    /// Of each of these descriptors, whether a header of the PROXY protocol begins its connections.
    pub(super) fn proxied(&self, bound: &Bound) -> Vec<bool> {
        let is_open = |(_, id): &&(Wanted, ListenerId)| self.open.contains_key(id);
        bound.iter().filter(is_open).map(|(wanted, _)| wanted.proxy_protocol).collect()
    }

    /// What to open in a browser.
    pub(super) fn urls(&self, bound: &Bound) -> String {
        let url = |(wanted, id): &(Wanted, ListenerId)| match (&self.open.get(id)?.address, wanted.is_secure()) {
            (Address::Tcp(address), false) => Some(format!("http://{address}")),
            (Address::Tcp(address), true) => Some(format!("https://{address}")),
            (path @ Address::Unix(_), false) => Some(path.to_string()),
            (path @ Address::Unix(_), true) => Some(format!("{path} (TLS)")),
        };
        bound.iter().filter_map(url).collect::<Vec<_>>().join(" ")
    }

    pub(super) fn status(&self, bound: &Bound) -> Vec<ListenerStatus> {
        let status = |(wanted, id): &(Wanted, ListenerId)| {
            let address = self.open.get(id)?.address.to_string();
            Some(ListenerStatus { name: wanted.name.clone(), address, tls: wanted.is_secure() })
        };
        bound.iter().filter_map(status).collect()
    }
}

impl Listener {
    /// Whether this is the socket that is wanted: what a socket takes it cannot change.
    fn is_as(&self, wanted: &Wanted) -> bool {
        wanted.address.as_ref() == Some(&self.wanted) && wanted.ipv6_only == self.is_v6_only
    }

    /// Whether who connects to its address comes here: a Unix socket's name can become another's.
    fn is_reachable(&self) -> bool {
        self.file.as_ref().is_none_or(SocketFile::is_ours)
    }

    fn shut(&self) {
        if let Err(error) = self.socket.shutdown(Shutdown::Both) {
            log::warn!("cannot shut {}: {error}", self.address);
        }
    }
}

impl SocketFile {
    fn is_ours(&self) -> bool {
        fs::symlink_metadata(&self.path).is_ok_and(|found| FileIdentity::of(&found) == self.identity)
    }
}

impl Drop for SocketFile {
    /// Removes the name, unless it is another socket's by now.
    fn drop(&mut self) {
        if self.is_ours()
            && let Err(error) = fs::remove_file(&self.path)
        {
            log::warn!("cannot remove {}: {error}", self.path.display());
        }
    }
}

/// What to do when this address is wanted and one of this daemon's own is in the way.
fn way_out(wanted: SocketAddr, own: &Address) -> String {
    let one_by_one = "leave it out in one reload and add this in the next, or stop and start";
    let both = match *own {
        Address::Tcp(own) if own.is_ipv4() != wanted.is_ipv4() => {
            let wide = if own.is_ipv6() { own } else { wanted };
            format!("to have both, say `ipv6_only = true` of {wide}; else ")
        }
        Address::Tcp(_) | Address::Unix(_) => String::new(),
    };
    format!("{own} of this daemon's own is in the way: {both}{one_by_one}")
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
fn listen_unix(
    path: &Path,
    wanted: &Wanted,
    service: Service,
    deadline: Instant,
) -> Result<(Socket, SocketFile), Unbound> {
    let _lock = lock_directory(path, deadline)?;
    make_room(path)?;
    let socket = Socket::new(Domain::UNIX, Type::STREAM.nonblocking(), None)?;
    // Nobody connects before the owner and the mode are right.
    let before = umask(Mode::from_bits_truncate(0o777));
    let bound = socket.bind(&SockAddr::unix(path)?);
    umask(before);
    bound?;
    let found = fs::symlink_metadata(path)?;
    let file = SocketFile { path: path.to_owned(), identity: FileIdentity::of(&found) };
    give(&file, wanted, service)?;
    socket.listen(wanted.backlog)?;
    Ok((socket, file))
}

/// Two that find the same stale socket: the second finds the first one's. Whoever holds the lock for
/// longer means no good, and shall not keep us from starting.
fn lock_directory(path: &Path, deadline: Instant) -> io::Result<Option<Flock<File>>> {
    // Not waiting for who would write to a pipe of that name.
    let mut options = File::options();
    options.read(true).custom_flags(OFlag::O_DIRECTORY.bits());
    let mut directory = options.open(path.parent().unwrap_or(Path::new("/")))?;
    loop {
        directory = match Flock::lock(directory, FlockArg::LockExclusiveNonblock) {
            Ok(lock) => return Ok(Some(lock)),
            Err((_, error)) if error != Errno::EWOULDBLOCK => return Err(error.into()),
            Err(_) if Instant::now() >= deadline => return Ok(None),
            Err((directory, _)) => directory,
        };
        // No event tells of a lock.
        nix::poll::poll(&mut [], 5_u8)?;
    }
}

/// Gives a socket's name its owner and its mode: the name that we have bound, and no other that
/// somebody has put in its place, as its owner may in a sticky directory.
fn give(file: &SocketFile, wanted: &Wanted, service: Service) -> io::Result<()> {
    let held = hold(file)?;
    let path = &by_descriptor(&held);
    let owner = wanted.owner.as_ref().map_or(service.uid, |owner| owner.uid);
    let group = wanted.group.as_ref().map_or(service.gid, |group| group.gid);
    let is_given = wanted.owner.is_some() || wanted.group.is_some();
    if is_given || geteuid().is_root() {
        chown(path, Some(owner.as_raw()), Some(group.as_raw()))?;
    }
    fs::set_permissions(path, Permissions::from_mode(wanted.mode))
}

/// Finds out whether it can be given: owner and mode count from the commit on, and a refusal then would
/// come too late.
fn try_to_give(file: &SocketFile, wanted: &Wanted, service: Service) -> io::Result<()> {
    let held = hold(file)?;
    let before = held.metadata()?;
    let tried = give(file, wanted, service);
    let path = &by_descriptor(&held);
    let after = held.metadata()?;
    if (before.uid(), before.gid()) != (after.uid(), after.gid()) {
        chown(path, Some(before.uid()), Some(before.gid()))?;
    }
    if before.mode() != held.metadata()?.mode() {
        fs::set_permissions(path, before.permissions())?;
    }
    tried
}

/// Opens the name that we have bound.
fn hold(file: &SocketFile) -> io::Result<File> {
    let flags = OFlag::O_PATH | OFlag::O_NOFOLLOW;
    let held = File::options().read(true).custom_flags(flags.bits()).open(&file.path)?;
    if FileIdentity::of(&held.metadata()?) != file.identity {
        return Err(io::Error::other("somebody has put something else in its place"));
    }
    Ok(held)
}

fn by_descriptor(held: &File) -> PathBuf {
    PathBuf::from(format!("/proc/self/fd/{}", held.as_raw_fd()))
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
