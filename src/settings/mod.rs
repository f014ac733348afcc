//! What the master executes: defaults, the file, and above both what the command line says.

mod address;
mod file;
mod place;

use std::num::NonZeroUsize;
use std::path::{Path, PathBuf};
use std::time::Duration;

pub(crate) use address::Address;
pub(crate) use file::SECTIONS;
pub(crate) use place::default_run_dir;

use crate::contract::ids::WORKERS_MAX;
use crate::error::{Error, Exit};

/// Settings as they are in force.
#[derive(Clone, Debug, PartialEq)]
pub(crate) struct Settings {
    pub(crate) listen: Vec<Address>,
    pub(crate) workers: u16,
    /// `None`: the default place for the program's name and user.
    pub(crate) run_dir: Option<PathBuf>,
    pub(crate) timeouts: Timeouts,
    pub(crate) restart: Restart,
    /// RUST_LOG's syntax.
    pub(crate) log_level: String,
    /// The file that was read.
    pub(crate) file: Option<PathBuf>,
    /// The file's bytes, for the application.
    pub(crate) source: Vec<u8>,
}

/// How long the master waits, and for what.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(crate) struct Timeouts {
    /// For a zygote to load and for a worker to get ready.
    pub(crate) ready: Duration,
    /// For a silent loop.
    pub(crate) hang: Duration,
    /// For one worker's open connections.
    pub(crate) drain: Duration,
    /// For the whole stop.
    pub(crate) stop: Duration,
}

/// When to start a dead process again: `intensity` times within `period` at once, then later and
/// later.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(crate) struct Restart {
    pub(crate) intensity: u32,
    pub(crate) period: Duration,
    pub(crate) backoff_max: Duration,
}

/// What the command line says; it beats the file.
#[derive(Clone, Debug, Default)]
pub(crate) struct Overrides {
    pub(crate) listen: Vec<Address>,
    pub(crate) workers: Option<u16>,
    pub(crate) run_dir: Option<PathBuf>,
}

/// The most addresses to listen on: they travel to a worker in one message, with a few others.
const LISTENERS_MAX: usize = 64;

impl Default for Settings {
    fn default() -> Self {
        Self {
            listen: vec![Address::default()],
            workers: cores(),
            run_dir: None,
            timeouts: Timeouts {
                ready: Duration::from_secs(20),
                hang: Duration::from_secs(10),
                drain: Duration::from_secs(30),
                stop: Duration::from_secs(60),
            },
            restart: Restart { intensity: 5, period: Duration::from_secs(10), backoff_max: Duration::from_secs(5) },
            log_level: "info".to_owned(),
            file: None,
            source: Vec::new(),
        }
    }
}

impl Settings {
    /// The defaults, changed by `file` and then by `overrides`.
    pub(crate) fn load(file: Option<&Path>, overrides: &Overrides) -> Result<Self, Error> {
        let mut settings = Self::default();
        if let Some(path) = file {
            file::read(path, &mut settings)?;
            settings.file = Some(path.to_owned());
        }
        if !overrides.listen.is_empty() {
            settings.listen.clone_from(&overrides.listen);
        }
        if let Some(workers) = overrides.workers {
            settings.workers = workers;
        }
        if let Some(run_dir) = &overrides.run_dir {
            settings.run_dir = Some(run_dir.clone());
        }
        if settings.listen.len() > LISTENERS_MAX {
            let (count, max) = (settings.listen.len(), LISTENERS_MAX);
            return Err(Error::new(Exit::Config, format!("`listen` names {count} addresses, {max} are allowed")));
        }
        Ok(settings)
    }
}

/// The number of workers that `text` names, for the command line.
pub(crate) fn worker_count(text: &str) -> Result<u16, String> {
    let count = text.parse::<u16>().map_err(|_| worker_range())?;
    if (1..=WORKERS_MAX).contains(&count) { Ok(count) } else { Err(worker_range()) }
}

/// `1 worker`, `3 workers`.
pub(crate) fn count_of_workers(count: u16) -> String {
    format!("{count} worker{}", if count == 1 { "" } else { "s" })
}

/// What a number of workers may be.
pub(crate) fn worker_range() -> String {
    format!("a number of workers is from 1 to {WORKERS_MAX}")
}

/// `--config`, or the program's file in /etc if there is one.
pub(crate) fn file_of(program: &str, named: Option<&Path>) -> Result<Option<PathBuf>, Error> {
    if let Some(path) = named {
        let path = std::path::absolute(path)
            .map_err(|error| Error::because(Exit::Config, format!("cannot find {}", path.display()), error))?;
        return Ok(Some(path));
    }
    let default = PathBuf::from(format!("/etc/{program}.toml"));
    Ok(default.exists().then_some(default))
}

fn cores() -> u16 {
    let cores = std::thread::available_parallelism().map_or(1, NonZeroUsize::get);
    u16::try_from(cores).unwrap_or(WORKERS_MAX).min(WORKERS_MAX)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn more_addresses_than_a_worker_can_be_given_are_refused() {
        let listen = |count| Overrides { listen: vec![Address::default(); count], ..Overrides::default() };
        assert!(Settings::load(None, &listen(LISTENERS_MAX)).is_ok());
        let refused = Settings::load(None, &listen(LISTENERS_MAX + 1)).expect_err("too many");
        assert_eq!(refused.exit, Exit::Config);
    }
}
