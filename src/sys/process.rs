//! Making processes, and what one may know of another.
//!
//! A fork copies the calling thread only. Locks that other threads hold stay locked for ever in
//! the child, so everything here is for processes with a single thread.

use std::ffi::{CStr, OsStr};
use std::fs;
use std::io::{self, Read, Write};
use std::os::fd::{FromRawFd, OwnedFd};
use std::os::unix::ffi::OsStrExt;
use std::os::unix::process::CommandExt;
use std::path::PathBuf;
use std::process::{Command, Stdio};

use nix::sys::stat::{Mode, umask};
use nix::sys::wait::waitpid;
use nix::unistd::{ForkResult, Gid, Pid, Uid, fork};

/// Which side of a fork this is.
pub(crate) enum Forked {
    /// The process that called, with the new one's id.
    Parent(Pid),
    /// The new process.
    Child,
}

/// The names of the threads of this process, the caller's first.
pub(crate) fn threads() -> io::Result<Vec<String>> {
    let mut ids: Vec<u32> =
        fs::read_dir("/proc/self/task")?.filter_map(|entry| entry.ok()?.file_name().to_str()?.parse().ok()).collect();
    ids.sort_unstable();
    let name = |id| fs::read_to_string(format!("/proc/self/task/{id}/comm")).unwrap_or_default();
    Ok(ids.into_iter().map(|id| name(id).trim_end().to_owned()).collect())
}

/// Forks; the child runs `body` and exits with what it returns.
pub(crate) fn fork_into(body: impl FnOnce() -> u8) -> io::Result<Pid> {
    match fork_self()? {
        Forked::Parent(child) => Ok(child),
        Forked::Child => exit_now(body()),
    }
}

/// Forks: the child goes on with the caller's next line.
pub(crate) fn fork_self() -> io::Result<Forked> {
    // SAFETY: callers have one thread (the program refuses to serve otherwise, and the master makes
    // none), so the child's memory is consistent and it may do anything.
    match unsafe { fork() }? {
        ForkResult::Parent { child } => Ok(Forked::Parent(child)),
        ForkResult::Child => Ok(Forked::Child),
    }
}

/// Forks a sibling: a process whose parent is the caller's parent.
///
/// `CLONE_PARENT` where the kernel allows it. Else a double fork: the process between exits, and
/// the new one falls to the nearest subreaper, which is the master (prctl(2)).
pub(crate) fn fork_sibling() -> io::Result<Forked> {
    if !(cfg!(debug_assertions) && std::env::var_os("FOREBAY_FAULT_NO_CLONE_PARENT").is_some()) {
        match clone_parent() {
            Err(error) if matches!(error.raw_os_error(), Some(libc::EINVAL | libc::EPERM | libc::ENOSYS)) => {}
            result => return result,
        }
    }
    double_fork()
}

fn clone_parent() -> io::Result<Forked> {
    let flags = libc::CLONE_PARENT | libc::SIGCHLD;
    // SAFETY: like fork(): no new stack, no shared memory, one thread. glibc's handlers for fork
    // do not run: there is no other thread whose state they would mend.
    match unsafe { libc::syscall(libc::SYS_clone, flags, 0, 0, 0, 0) } {
        -1 => Err(io::Error::last_os_error()),
        0 => Ok(Forked::Child),
        pid => Ok(Forked::Parent(Pid::from_raw(pid as libc::pid_t))),
    }
}

fn double_fork() -> io::Result<Forked> {
    let (mut reader, mut writer) = io::pipe()?;
    // SAFETY: the zygote has one thread when it forks; it refuses otherwise.
    let ForkResult::Parent { child: between } = unsafe { fork() }? else {
        // SAFETY: the same; this process has but this thread.
        match unsafe { fork() } {
            Ok(ForkResult::Child) => return Ok(Forked::Child),
            Ok(ForkResult::Parent { child }) => {
                let told = writer.write_all(&child.as_raw().to_ne_bytes());
                exit_now(u8::from(told.is_err()));
            }
            Err(_) => exit_now(1),
        }
    };
    drop(writer);
    let mut pid = [0; 4];
    let read = reader.read_exact(&mut pid);
    // Only when the one between is gone is the new process the master's child.
    waitpid(between, None)?;
    read.map_err(|_| io::Error::from_raw_os_error(libc::EAGAIN))?;
    Ok(Forked::Parent(Pid::from_raw(libc::pid_t::from_ne_bytes(pid))))
}

/// The path this program was executed by, as the kernel was given it (AT_EXECFN, getauxval(3)).
pub(crate) fn executed_as() -> Option<PathBuf> {
    // SAFETY: getauxval reads this process's auxiliary vector.
    let address = unsafe { libc::getauxval(libc::AT_EXECFN) };
    if address == 0 {
        return None;
    }
    let start = std::ptr::with_exposed_provenance::<libc::c_char>(address as usize);
    // SAFETY: the kernel put a NUL-terminated string there, above the environment, and nothing
    // writes to it.
    let path = unsafe { CStr::from_ptr(start) };
    Some(PathBuf::from(OsStr::from_bytes(path.to_bytes())))
}

/// Removes a variable from this process's environment.
pub(crate) fn forget_variable(name: &str) {
    // SAFETY: called first thing in a process, while it has one thread.
    unsafe { std::env::remove_var(name) }
}

/// Ends this process without running anything that was registered for its end.
pub(crate) fn exit_now(code: u8) -> ! {
    // SAFETY: _exit returns to nobody and touches no memory.
    unsafe { libc::_exit(libc::c_int::from(code)) }
}

/// The number under which a zygote finds the socket to its master.
pub(crate) const CONTROL: i32 = 3;

/// A program to start with [`CONTROL`] as its only descriptor besides the standard ones.
pub(crate) struct Program<'a> {
    /// What to execute, by descriptor, so that nobody exchanges it in between.
    pub(crate) executable: &'a OwnedFd,
    pub(crate) argv0: &'a str,
    pub(crate) variables: &'a [(&'a str, String)],
    /// Variables of this process that it shall not have.
    pub(crate) without: &'a [&'a str],
    pub(crate) control: OwnedFd,
    pub(crate) output: OwnedFd,
    /// Whom it becomes before it is executed.
    pub(crate) drop_to: Option<(Uid, Gid)>,
    pub(crate) umask: Option<Mode>,
}

/// How much likelier than its parent a child is to be taken when memory is short, in thousandths of the memory there is.
const OOM_SCORE: i32 = 50;

/// Tells the kernel to take this process before its parent when memory is short: raising the score takes no right
/// (proc_pid_oom_score_adj(5)). Where it cannot be, the kernel chooses by size alone.
pub(crate) fn offer_to_the_oom_killer() {
    const SCORE: &str = "/proc/self/oom_score_adj";
    let own = fs::read_to_string(SCORE).ok().and_then(|text| text.trim().parse::<i32>().ok());
    let _ = own.map(|own| fs::write(SCORE, own.saturating_add(OOM_SCORE).min(1000).to_string()));
}

/// The last place of all that want to run: setpriority(2).
const NICE_MAX: libc::c_int = 19;

/// Lets everyone else run before the calling thread, for good; Linux keeps this by thread. Where it cannot be, it
/// runs as the others do.
pub(crate) fn let_all_others_first() {
    // SAFETY: setpriority(2) touches no memory; 0 is the calling thread.
    let _ = unsafe { libc::setpriority(libc::PRIO_PROCESS, 0, NICE_MAX) };
}

/// Starts a program; all signals stay blocked in it until it has its handlers.
pub(crate) fn start(program: Program<'_>) -> io::Result<Pid> {
    use std::os::fd::AsRawFd;

    let control = program.control.as_raw_fd();
    // While the other is open, its copy has another number than the one that is overwritten.
    let copy = (program.executable.as_raw_fd() == CONTROL).then(|| program.executable.try_clone()).transpose()?;
    let executable = copy.as_ref().unwrap_or(program.executable);
    let (drop_to, mask) = (program.drop_to, program.umask);
    let mut command = Command::new(format!("/proc/self/fd/{}", executable.as_raw_fd()));
    command
        .arg0(program.argv0)
        .envs(program.variables.iter().map(|(name, value)| (name, value)))
        .stdin(Stdio::null())
        .stdout(program.output.try_clone()?)
        .stderr(program.output);
    for name in program.without {
        command.env_remove(name);
    }
    // SAFETY: between fork and exec mostly async-signal-safe calls: sigprocmask, close_range, dup2,
    // fcntl, umask, set*id. Giving up capabilities and the OOM score allocate, which is sound in the child of a
    // process with a single thread, as every caller is.
    unsafe {
        command.pre_exec(move || {
            super::signals::block_all()?;
            super::descriptors::close_on_exec();
            // Before it becomes another user, to whom its own files of /proc do not belong.
            offer_to_the_oom_killer();
            if let Some(mask) = mask {
                umask(mask);
            }
            if let Some((uid, gid)) = drop_to {
                super::privileges::drop_to(uid, gid)?;
            }
            if control == CONTROL {
                return match libc::fcntl(CONTROL, libc::F_SETFD, 0) {
                    -1 => Err(io::Error::last_os_error()),
                    _ => Ok(()),
                };
            }
            match libc::dup2(control, CONTROL) {
                -1 => Err(io::Error::last_os_error()),
                _ => Ok(()),
            }
        });
    }
    let child = command.spawn()?;
    Ok(Pid::from_raw(child.id() as libc::pid_t))
}

/// A process that is not ours, held by the kernel so that its id cannot come to mean another.
pub(crate) struct Stranger {
    fd: OwnedFd,
}

impl Stranger {
    /// `None` when there is no such process.
    pub(crate) fn open(pid: Pid) -> io::Result<Option<Self>> {
        // SAFETY: pidfd_open(2) touches no memory.
        match unsafe { libc::syscall(libc::SYS_pidfd_open, pid.as_raw(), 0) } {
            -1 => match io::Error::last_os_error() {
                error if error.raw_os_error() == Some(libc::ESRCH) => Ok(None),
                error => Err(error),
            },
            // SAFETY: the kernel has just opened it for us.
            number => Ok(Some(Self { fd: unsafe { OwnedFd::from_raw_fd(number as libc::c_int) } })),
        }
    }

    pub(crate) fn kill(&self) -> io::Result<()> {
        use std::os::fd::AsRawFd;

        let no_info = std::ptr::null::<libc::siginfo_t>();
        let number = self.fd.as_raw_fd();
        // SAFETY: pidfd_send_signal(2) with no siginfo reads no memory of ours.
        match unsafe { libc::syscall(libc::SYS_pidfd_send_signal, number, libc::SIGKILL, no_info, 0) } {
            -1 => Err(io::Error::last_os_error()),
            _ => Ok(()),
        }
    }

    /// Waits until the process is dead; false when it still lives after `limit_ms`.
    pub(crate) fn is_dead_within(&self, limit_ms: u16) -> io::Result<bool> {
        use nix::poll::{PollFd, PollFlags, poll};
        use std::os::fd::AsFd;

        let mut polled = [PollFd::new(self.fd.as_fd(), PollFlags::POLLIN)];
        Ok(poll(&mut polled, limit_ms)? > 0)
    }
}
