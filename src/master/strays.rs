//! What helpers in another language have left behind: processes that they made and that outlive them, a
//! shell's children, or one that has gone to the background. They hold the helper's socket, and maybe
//! what there can only be one of.
//!
//! A helper's environment says whose it is, and what it starts has a copy. A process can only name itself
//! so, and is ended for it.

use std::fs;
use std::path::Path;

use nix::unistd::Pid;

use crate::contract::ids::HelperName;
use crate::contract::orders::{IPC_DIR_VARIABLE, ROLE_VARIABLE};
use crate::sys::process::Stranger;

/// How long one may take to die of SIGKILL, in milliseconds.
const DEATH_LIMIT_MS: u16 = 500;

/// So often is looked again: one may make others until it is ended.
const LOOKS_MAX: usize = 8;

/// Ends what the helpers of this directory have left, or only the one of this name; none of those may live.
///
/// `ours` are spared: a daemon that a helper has started has that helper's environment too.
pub(super) fn end(ipc_dir: &Path, name: Option<HelperName>, ours: impl Fn(Pid) -> bool) {
    for _ in 0..LOOKS_MAX {
        let mut left = found(ipc_dir, name);
        left.retain(|&pid| pid != Pid::this() && !ours(pid));
        if left.is_empty() {
            return;
        }
        for pid in left {
            let whose =
                name.map_or_else(|| "a helper of an earlier master".to_owned(), |name| format!("helper {name}"));
            log::warn!(target: "forebay", "pid {pid} is left of {whose}: ending it");
            if let Err(error) = end_one(pid, || is_of(pid, ipc_dir, name)) {
                log::error!(target: "forebay", "cannot end pid {pid}: {error}");
            }
        }
    }
    log::error!(target: "forebay", "what helpers have left behind does not end: it lives beside their successors");
}

fn end_one(pid: Pid, is_still_it: impl Fn() -> bool) -> std::io::Result<()> {
    let Some(process) = Stranger::open(pid)? else { return Ok(()) };
    // Between the look and the pidfd the id may have come to mean another process.
    if is_still_it() {
        match process.kill() {
            // It has just died.
            Err(error) if error.raw_os_error() == Some(libc::ESRCH) => {}
            result => result?,
        }
        process.is_dead_within(DEATH_LIMIT_MS)?;
    }
    Ok(())
}

fn found(ipc_dir: &Path, name: Option<HelperName>) -> Vec<Pid> {
    let Ok(entries) = fs::read_dir("/proc") else { return Vec::new() };
    let pids = entries.filter_map(|entry| entry.ok()?.file_name().to_str()?.parse().ok()).map(Pid::from_raw);
    pids.filter(|&pid| is_of(pid, ipc_dir, name)).collect()
}

/// Whether the process's environment, as it was started with, says so. A zombie has none.
fn is_of(pid: Pid, ipc_dir: &Path, name: Option<HelperName>) -> bool {
    use std::os::unix::ffi::OsStrExt;

    let Ok(environment) = fs::read(format!("/proc/{pid}/environ")) else { return false };
    let place = [IPC_DIR_VARIABLE.as_bytes(), b"=", ipc_dir.as_os_str().as_bytes()].concat();
    let role =
        name.map_or_else(|| format!("{ROLE_VARIABLE}=helper "), |name| format!("{ROLE_VARIABLE}=helper {name} "));
    let has = |wanted: &dyn Fn(&[u8]) -> bool| environment.split(|&byte| byte == 0).any(wanted);
    has(&|variable| variable == place) && has(&|variable| variable.starts_with(role.as_bytes()))
}
