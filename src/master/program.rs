//! The program that zygotes are started from, and how.

use std::fs::{self, File};
use std::os::fd::OwnedFd;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};

use nix::unistd::Pid;

use crate::contract::orders::ZYGOTE_VARIABLE;
use crate::error::{Context, Error, Exit};
use crate::sys::process::{self, Program};
use crate::sys::title;

/// One generation's load: what a zygote that dies is started again from.
#[derive(Debug)]
pub(super) struct Load {
    executable: OwnedFd,
    /// The configuration's bytes, sealed.
    pub(super) configuration: OwnedFd,
}

impl Load {
    /// Opens the executable at `path` and seals the configuration.
    pub(super) fn open(path: &Path, configuration: &[u8]) -> Result<Self, Error> {
        let executable = File::open(path).or_refused(|| format!("cannot open the program {}", path.display()))?;
        let configuration = crate::sys::memory::sealed_bytes("configuration", configuration)
            .or_refused(|| "cannot keep the configuration in memory".to_owned())?;
        Ok(Self { executable: executable.into(), configuration })
    }

    /// Starts a zygote that finds `control` and prints to `output`.
    pub(super) fn start_zygote(&self, name: &str, control: OwnedFd, output: OwnedFd) -> std::io::Result<Pid> {
        let argv0 = format!("{:1$}", format!("{name}: zygote"), title::ZYGOTE_AREA_LEN);
        process::start(Program {
            executable: &self.executable,
            argv0: &argv0,
            variables: &[(ZYGOTE_VARIABLE, "1".to_owned())],
            control,
            output,
        })
    }
}

/// The path this program was started by, absolute, as whoever started it sees it: a symlink on
/// the way to it that is switched later leads to the new release.
pub(super) fn path() -> Result<PathBuf, Error> {
    let unknown = || Error::new(Exit::Refused, "cannot tell by which path this program was started");
    let started = process::executed_as().ok_or_else(unknown)?;
    if started.is_absolute() {
        return Ok(started);
    }
    let here = std::env::current_dir().or_refused(|| "cannot tell the working directory".to_owned())?;
    let named = std::env::var_os("PWD").map(PathBuf::from);
    Ok(named.filter(|named| named.is_absolute() && is_same(named, &here)).unwrap_or(here).join(started))
}

/// Whether two paths name one directory.
fn is_same(one: &Path, other: &Path) -> bool {
    let identity = |path: &Path| fs::metadata(path).map(|found| (found.dev(), found.ino())).ok();
    identity(one).is_some() && identity(one) == identity(other)
}
