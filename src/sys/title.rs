//! The process title: what `ps` shows.
//!
//! The kernel shows the bytes of the argument area. When the last of them is not NUL it shows one
//! string from the area's start, which may run on into the environment (`get_mm_cmdline` in
//! fs/proc/base.c): so any title can be exact, however long the arguments were.

use std::fs;
use std::ptr;
use std::sync::atomic::{AtomicBool, Ordering};

/// Bytes a zygote is given as its argument area, for its titles and those of what it forks.
pub(crate) const ZYGOTE_AREA_LEN: usize = 256;

/// Whether the bytes behind the arguments are ours to overwrite.
static ENVIRONMENT_MOVED: AtomicBool = AtomicBool::new(false);

/// Moves the environment to the heap, so that titles may overwrite where it was.
///
/// For a process that was started with arguments of any length. Call it first thing in `main`.
pub(crate) fn free_the_environment() {
    let variables: Vec<_> = std::env::vars_os().collect();
    // SAFETY: one thread, and nobody holds a pointer into the old block: this is the first thing
    // that `main` does.
    unsafe {
        libc::clearenv();
        for (name, value) in variables {
            std::env::set_var(name, value);
        }
    }
    ENVIRONMENT_MOVED.store(true, Ordering::Relaxed);
}

/// Makes the variables that this process was started with disappear from /proc/PID/environ.
///
/// For a process that was forked without exec; [`free_the_environment`] was called before.
pub(crate) fn wipe_the_environment() {
    let Some(area) = Area::find().filter(|_| ENVIRONMENT_MOVED.load(Ordering::Relaxed)) else { return };
    let start = ptr::with_exposed_provenance_mut::<u8>(area.args_end);
    // SAFETY: as in `set`: the variables have been moved, and nobody refers to where they were.
    unsafe { ptr::write_bytes(start, 0, area.end - area.args_end) };
}

/// Sets the title; does nothing where /proc does not say where the arguments lie.
///
/// A title longer than the arguments is cut there, unless [`free_the_environment`] was called.
pub(crate) fn set(title: &str) {
    let Some(area) = Area::find() else { return };
    let args_len = area.args_end - area.start;
    let len = title.len().min(area.end - area.start - 1);
    let start = ptr::with_exposed_provenance_mut::<u8>(area.start);
    // SAFETY: the kernel says that this process's argument and environment strings lie here; the
    // memory is writable and no reference to it exists: std copies what it hands out, and the
    // environment has been moved.
    unsafe {
        ptr::copy_nonoverlapping(title.as_ptr(), start, len);
        ptr::write_bytes(start.add(len), 0, 1);
        if len + 1 < args_len {
            ptr::write(start.add(args_len - 1), 1);
        }
    }
}

struct Area {
    start: usize,
    args_end: usize,
    end: usize,
}

impl Area {
    /// Fields 48 to 51 of /proc/self/stat, see proc_pid_stat(5).
    fn find() -> Option<Self> {
        let stat = fs::read_to_string("/proc/self/stat").ok()?;
        // The name in field 2 may hold anything, a parenthesis too; what follows the last one
        // begins with field 3.
        let fields: Vec<&str> = stat.rsplit_once(')')?.1.split_ascii_whitespace().collect();
        let field = |number: usize| fields.get(number - 3)?.parse::<usize>().ok();
        let (start, args_end, env_start, env_end) = (field(48)?, field(49)?, field(50)?, field(51)?);
        let more = env_start == args_end && ENVIRONMENT_MOVED.load(Ordering::Relaxed);
        let end = if more { env_end } else { args_end };
        (start > 0 && start < args_end && args_end <= end).then_some(Self { start, args_end, end })
    }
}
