//! All that one generation is started from and executed with, kept as long as any process of it lives.

use std::hash::{DefaultHasher, Hash, Hasher};
use std::path::Path;
use std::time::Duration;

use nix::sys::stat::Mode;
use toml::{Table, Value};

use super::file_identity;
use super::listeners::{Bound, LOCK_WAIT_SERVING, Listeners};
use super::pid_file::{PidFile, Succession};
use super::program::Load;
use super::run_dir::RunDir;
use super::supervisor::Policy;
use super::targets::{Chosen, Targets};
use crate::contract::orders::{HelperOffer, Manifest};
use crate::error::{Error, Exit};
use crate::settings::{Settings, default_run_dir};

pub(super) struct Release {
    pub(super) settings: Settings,
    pub(super) load: Load,
    pub(super) listeners: Bound,
    /// Until it is committed: what becomes of the pid file.
    pub(super) pid_file: Succession,
    /// The same: where the log is to go.
    pub(super) targets: Chosen,
    /// The layout of rings that its processes know, as their zygote says it.
    pub(super) ring: u32,
    /// The same of the keys of session tickets.
    pub(super) tickets: u32,
}

/// What the master has, and what a release may not take from it.
pub(super) struct Held<'a> {
    pub(super) pid_file: Option<&'a PidFile>,
    pub(super) run_dir: &'a RunDir,
    pub(super) listeners: &'a mut Listeners,
    pub(super) targets: &'a mut Targets,
}

impl Held<'_> {
    fn has_locked(&self, path: &Path) -> bool {
        self.run_dir.owns(path) || self.pid_file.is_some_and(|file| file.is_at(path))
    }
}

impl Release {
    /// Opens all that the settings name.
    pub(super) fn open(
        program: &Path,
        umask: Option<Mode>,
        settings: Settings,
        held: Held<'_>,
        patience: Duration,
    ) -> Result<Self, Error> {
        let service = settings.service().map_err(|why| Error::new(Exit::Config, why))?;
        let load = Load::open(program, &settings, umask, |path| held.has_locked(path))?;
        let bound = held.listeners.bind(&settings.listeners(), service, patience)?;
        // The last that can fail: whoever opens a file here has it closed when nothing comes of it.
        let targets = held.targets.choose(&settings, service)?;
        Ok(Self { settings, load, listeners: bound, pid_file: Succession::Same, targets, ring: 0, tickets: 0 })
    }

    /// The same for the next generation, or why that cannot follow the one that serves.
    pub(super) fn follow(
        &self,
        (program, name): (&Path, &str),
        umask: Option<Mode>,
        settings: Settings,
        held: Held<'_>,
    ) -> Result<Self, Error> {
        let (old, new) = (&self.settings, &settings);
        let wrong = |why| Error::new(Exit::Config, why);
        let (before, after) = (old.service().map_err(wrong)?, new.service().map_err(wrong)?);
        // What comes of them, not how they are written.
        let fixed = [
            ("run_dir", old.run_dir != new.run_dir && !is_the_one(held.run_dir.path(), new.run_dir.as_deref(), name)),
            ("user", before.uid != after.uid),
            ("group", before.gid != after.gid),
        ];
        if let Some((key, _)) = fixed.iter().find(|(_, is_changed)| *is_changed) {
            let what = format!("`{key}` has changed, which takes a stop and a start");
            return Err(Error::new(Exit::Config, what));
        }
        let pid_file = Succession::of(held.pid_file, new.pid_file.as_deref(), held.run_dir)?;
        Ok(Self { pid_file, ..Self::open(program, umask, settings, held, LOCK_WAIT_SERVING)? })
    }

    /// Why its program cannot be what its settings want, in the manifest's words.
    pub(super) fn needs_tls(&self, manifest: &Manifest) -> Option<String> {
        let listeners = self.settings.listeners();
        let secure = listeners.iter().find(|listener| manifest.tickets == 0 && listener.is_secure())?;
        let name = &secure.name;
        Some(format!("`listener.{name}.certificate`: this release of the program speaks no TLS"))
    }

    /// What the supervisor executes.
    pub(super) fn policy(&self) -> Policy {
        let settings = &self.settings;
        let (workers, age_max) = (settings.workers, settings.worker.age_max);
        Policy { workers, timeouts: settings.timeouts, restart: settings.restart, age_max }
    }

    /// Tells this helper's part of the configuration from another one: its section, the files that it
    /// names, and its build if that is its version.
    pub(super) fn digest(&self, offer: &HelperOffer) -> u64 {
        let mut hasher = DefaultHasher::new();
        offer.build.hash(&mut hasher);
        let text = String::from_utf8_lossy(&self.settings.source);
        let all: Table = text.parse().unwrap_or_default();
        let name = offer.name.as_str();
        let nested = all.get("helper").and_then(|helpers| helpers.get(name));
        let section = nested.or_else(|| all.get(name)).cloned().unwrap_or(Value::Table(Table::new()));
        // Keys stand in order in it.
        format!("{section:?}").hash(&mut hasher);
        if offer.reads_app {
            format!("{:?}", all.get("app")).hash(&mut hasher);
        }
        let is_its = |key: &str| {
            let section = key.strip_prefix("helper.").unwrap_or(key).split('.').next();
            section == Some(name) || offer.reads_app && section == Some("app")
        };
        self.load.hash_files(
            |path| self.settings.named_files.iter().any(|file| file.path == path && is_its(&file.key)),
            &mut hasher,
        );
        hasher.finish()
    }
}

/// Whether the run directory that is wanted, or that this program has by itself, is the one in use.
fn is_the_one(run_dir: &Path, wanted: Option<&Path>, name: &str) -> bool {
    let wanted = wanted.map_or_else(|| default_run_dir(name), Path::to_owned);
    wanted == run_dir || file_identity::is_one(run_dir, &wanted)
}

/// Reads the settings as a start would.
pub(super) fn read(file: Option<&Path>, overrides: &crate::settings::Overrides) -> Result<Settings, Error> {
    let (settings, mistakes) = Settings::read(file, overrides);
    mistakes.into_result().map(|()| settings)
}
