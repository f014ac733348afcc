//! The default run directory of a program.

use std::fs;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};

use nix::unistd::{AccessFlags, access, geteuid};

/// `/run/NAME` for root and where it is prepared for us, else `$XDG_RUNTIME_DIR/NAME`, else a
/// private directory under the temporary one.
pub(crate) fn default_run_dir(program: &str) -> PathBuf {
    let system = Path::new("/run").join(program);
    if geteuid().is_root() || is_ours(&system) {
        return system;
    }
    match std::env::var_os("XDG_RUNTIME_DIR").filter(|path| Path::new(path).is_absolute()) {
        Some(user) => Path::new(&user).join(program),
        None => std::env::temp_dir().join(format!("{program}-{}", geteuid())),
    }
}

fn is_ours(path: &Path) -> bool {
    fs::symlink_metadata(path).is_ok_and(|found| found.is_dir() && found.uid() == geteuid().as_raw())
        && access(path, AccessFlags::W_OK).is_ok()
}
