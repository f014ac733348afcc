//! Files by their names.

use std::ffi::CString;
use std::io;
use std::os::unix::ffi::OsStrExt;
use std::path::Path;

/// Gives a file another name, and never takes that from another one: renameat2(2). nix wraps it for glibc alone.
pub(crate) fn rename_to_new(from: &Path, to: &Path) -> io::Result<()> {
    let (from, to) = (CString::new(from.as_os_str().as_bytes())?, CString::new(to.as_os_str().as_bytes())?);
    let (here, flags) = (libc::AT_FDCWD, libc::RENAME_NOREPLACE);
    // SAFETY: both names are terminated and live until the call has returned; it writes to no memory.
    match unsafe { libc::syscall(libc::SYS_renameat2, here, from.as_ptr(), here, to.as_ptr(), flags) } {
        -1 => Err(io::Error::last_os_error()),
        _ => Ok(()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_name_is_never_taken_from_another_file() {
        let directory = tempfile::tempdir().expect("a directory");
        let [one, other, third] = ["one", "other", "third"].map(|name| directory.path().join(name));
        std::fs::write(&one, "1").expect("written");
        std::fs::write(&other, "2").expect("written");
        let refused = rename_to_new(&one, &other).expect_err("it is there");
        assert_eq!(refused.kind(), io::ErrorKind::AlreadyExists);
        rename_to_new(&one, &third).expect("it is free");
        assert_eq!(std::fs::read(&third).expect("read"), b"1");
        assert_eq!(rename_to_new(&one, &third).expect_err("it is gone").kind(), io::ErrorKind::NotFound);
    }
}
