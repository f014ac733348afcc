//! Becoming someone with fewer rights, for good.

use std::io;

use caps::CapSet;
use nix::sys::prctl;
use nix::unistd::{Gid, Uid, setgroups, setresgid, setresuid, setuid};

/// Makes this process the user's and the group's, with no other groups. What root had beyond that
/// is gone: saved ids, capabilities, and what a set-user-ID program could bring back (prctl(2),
/// `PR_SET_NO_NEW_PRIVS`). For a process with a single thread.
pub(crate) fn drop_to(uid: Uid, gid: Gid) -> io::Result<()> {
    if !uid.is_root() {
        empty_the_bounding_set();
    }
    // The groups first: later there is no right to change them.
    setgroups(&[])?;
    setresgid(gid, gid, gid)?;
    if uid.is_root() {
        return Ok(());
    }
    // The kernel clears all capabilities but the inheritable ones: capabilities(7).
    setresuid(uid, uid, uid)?;
    caps::clear(None, CapSet::Inheritable).map_err(io::Error::other)?;
    prctl::set_no_new_privs()?;
    if setuid(Uid::from_raw(0)).is_ok() {
        return Err(io::Error::other("root can be had again"));
    }
    Ok(())
}

/// What no program executed later may have. Where the kernel refuses (a container without
/// `CAP_SETPCAP`), `no_new_privs` means the same.
fn empty_the_bounding_set() {
    for capability in caps::all() {
        let _ = caps::drop(None, CapSet::Bounding, capability);
    }
}
