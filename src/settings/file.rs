//! The configuration file: TOML, every key of the master's known, every error with file, line and
//! key. Tables that the master does not know are the application's, which checks them itself.

use std::fs;
use std::path::{Path, PathBuf};
use std::time::Duration;

use serde::{Deserialize, Deserializer};
use toml::Spanned;
use toml::de::{DeTable, DeValue};

use super::{Address, Settings, worker_range};
use crate::contract::ids::WORKERS_MAX;
use crate::error::{Error, Exit};

/// The longest configuration file, in bytes.
const FILE_LEN_MAX: u64 = 1024 * 1024;

/// The longest time that may be set: a year.
const SECONDS_MAX: f64 = 366.0 * 86_400.0;

/// The keys of [`Document`]: what has such a name is the master's, whatever it is.
const KEYS: [&str; 6] = ["listen", "workers", "run_dir", "timeouts", "restart", "log"];

/// Those of them that are tables.
pub(crate) const SECTIONS: &[&str] = KEYS.split_at(3).1;

/// The file as it is written. What is not there stays as it was.
#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Document {
    listen: Option<Listen>,
    workers: Option<Workers>,
    run_dir: Option<PathBuf>,
    #[serde(default)]
    timeouts: Timeouts,
    #[serde(default)]
    restart: Restart,
    #[serde(default)]
    log: Log,
}

#[derive(Deserialize)]
#[serde(untagged, expecting = "`listen` is an address, as \"127.0.0.1:8080\", or a list of them")]
enum Listen {
    One(Address),
    Several(NotEmpty),
}

/// Somewhere to listen.
struct NotEmpty(Vec<Address>);

struct Workers(u16);

#[derive(Default, Deserialize)]
#[serde(deny_unknown_fields)]
struct Timeouts {
    ready: Option<AtLeast<100>>,
    hang: Option<AtLeast<500>>,
    drain: Option<Seconds>,
    stop: Option<Seconds>,
}

#[derive(Default, Deserialize)]
#[serde(deny_unknown_fields)]
struct Restart {
    intensity: Option<u32>,
    period: Option<Seconds>,
    backoff_max: Option<Seconds>,
}

#[derive(Default, Deserialize)]
#[serde(deny_unknown_fields)]
struct Log {
    level: Option<Filter>,
}

/// A time, written as a number of seconds: `20`, `0.5`.
#[derive(Clone, Copy)]
struct Seconds(Duration);

/// A time below which nothing would work: so many milliseconds or more.
#[derive(Clone, Copy)]
struct AtLeast<const MS: u64>(Duration);

/// What is logged, in RUST_LOG's syntax.
struct Filter(String);

/// Reads the file at `path` into `settings`.
pub(super) fn read(path: &Path, settings: &mut Settings) -> Result<(), Error> {
    let cannot = |why: String| Error::new(Exit::Config, format!("cannot read {}: {why}", path.display()));
    let len = fs::metadata(path).map_err(|error| cannot(error.to_string()))?.len();
    if len > FILE_LEN_MAX {
        return Err(cannot(format!("it has {len} bytes, {FILE_LEN_MAX} are allowed")));
    }
    let text = fs::read_to_string(path).map_err(|error| cannot(error.to_string()))?;
    let document =
        parse(&text).map_err(|(line, why)| Error::new(Exit::Config, format!("{}:{line}: {why}", path.display())))?;
    document.apply(settings);
    settings.source = text.into_bytes();
    Ok(())
}

/// The document, or the line and the reason.
fn parse(text: &str) -> Result<Document, (usize, String)> {
    let read = || {
        let all = DeTable::parse(text)?;
        let span = all.span();
        let is_ours = |key: &str, value: &DeValue<'_>| KEYS.contains(&key) || !is_section(value);
        let all = all.into_inner().into_iter();
        let ours: DeTable<'_> = all.filter(|(key, value)| is_ours(key.get_ref(), value.get_ref())).collect();
        Document::deserialize(toml::Deserializer::from(Spanned::new(span, ours)))
    };
    read().map_err(|error: toml::de::Error| {
        let start = error.span().map_or(0, |span| span.start);
        let line = text.as_bytes()[..start.min(text.len())].iter().filter(|&&byte| byte == b'\n').count() + 1;
        (line, about(text.lines().nth(line - 1).unwrap_or_default(), error.message()))
    })
}

/// `[NAME]`, or the several of `[[NAME]]`.
fn is_section(value: &DeValue<'_>) -> bool {
    match value {
        DeValue::Table(_) => true,
        DeValue::Array(several) => !several.is_empty() && several.iter().all(|one| one.get_ref().is_table()),
        DeValue::String(_) | DeValue::Integer(_) | DeValue::Float(_) | DeValue::Boolean(_) | DeValue::Datetime(_) => {
            false
        }
    }
}

/// Says of which key of the line the message is, unless it does so itself.
fn about(line: &str, message: &str) -> String {
    let is_header = line.trim_start().starts_with('[');
    let key = line.split('=').next().unwrap_or_default().trim_matches(['[', ']', ' ', '\t']);
    if key.is_empty() || !(is_header || line.contains('=')) || message.contains(&format!("`{key}`")) {
        return message.to_owned();
    }
    format!("`{key}`: {message}")
}

impl Document {
    fn apply(self, settings: &mut Settings) {
        match self.listen {
            Some(Listen::One(address)) => settings.listen = vec![address],
            Some(Listen::Several(NotEmpty(addresses))) => settings.listen = addresses,
            None => {}
        }
        set(&mut settings.workers, self.workers.map(|workers| workers.0));
        if self.run_dir.is_some() {
            settings.run_dir = self.run_dir;
        }
        let time = |seconds: Option<Seconds>| seconds.map(|seconds| seconds.0);
        set(&mut settings.timeouts.ready, self.timeouts.ready.map(|ready| ready.0));
        set(&mut settings.timeouts.hang, self.timeouts.hang.map(|hang| hang.0));
        set(&mut settings.timeouts.drain, time(self.timeouts.drain));
        set(&mut settings.timeouts.stop, time(self.timeouts.stop));
        set(&mut settings.restart.intensity, self.restart.intensity);
        set(&mut settings.restart.period, time(self.restart.period));
        set(&mut settings.restart.backoff_max, time(self.restart.backoff_max));
        set(&mut settings.log_level, self.log.level.map(|level| level.0));
    }
}

fn set<T>(place: &mut T, value: Option<T>) {
    if let Some(value) = value {
        *place = value;
    }
}

impl<'de> Deserialize<'de> for NotEmpty {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        match Vec::deserialize(deserializer)? {
            addresses if addresses.is_empty() => Err(serde::de::Error::custom("nowhere to listen")),
            addresses => Ok(Self(addresses)),
        }
    }
}

impl<'de> Deserialize<'de> for Workers {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        match u16::try_from(i64::deserialize(deserializer)?) {
            Ok(count @ 1..=WORKERS_MAX) => Ok(Self(count)),
            _ => Err(serde::de::Error::custom(format!("`workers`: {}", worker_range()))),
        }
    }
}

impl<'de> Deserialize<'de> for Seconds {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let seconds = f64::deserialize(deserializer)?;
        if !(0.0..=SECONDS_MAX).contains(&seconds) {
            return Err(serde::de::Error::custom("a time is a number of seconds, not negative, at most a year"));
        }
        Ok(Self(Duration::from_secs_f64(seconds)))
    }
}

impl<'de, const MS: u64> Deserialize<'de> for AtLeast<MS> {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let Seconds(time) = Seconds::deserialize(deserializer)?;
        let least = Duration::from_millis(MS);
        if time < least {
            let why = format!("this time is at least {} seconds", least.as_secs_f64());
            return Err(serde::de::Error::custom(why));
        }
        Ok(Self(time))
    }
}

impl<'de> Deserialize<'de> for Filter {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let text = String::deserialize(deserializer)?;
        match env_filter::Builder::new().try_parse(&text) {
            Ok(_) => Ok(Self(text)),
            Err(error) => Err(serde::de::Error::custom(format!("`log.level`: {error}"))),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn load(text: &str) -> Result<Settings, (usize, String)> {
        let mut settings = Settings::default();
        parse(text)?.apply(&mut settings);
        Ok(settings)
    }

    #[test]
    fn what_the_file_says_is_in_force_and_the_rest_stays() {
        let settings =
            load("listen = [\"0.0.0.0:80\", \"[::1]:81\"]\nworkers = 7\n[timeouts]\ndrain = 0.5\n").expect("valid");
        assert_eq!(settings.listen.len(), 2);
        assert_eq!(settings.workers, 7);
        assert_eq!(settings.timeouts.drain, Duration::from_millis(500));
        assert_eq!(settings.timeouts.stop, Settings::default().timeouts.stop);
    }

    #[test]
    fn tables_that_the_master_does_not_know_are_the_applications() {
        let text = "workers = 3\n[nest]\nurl = \"x\"\n[app.database]\nport = 1\n[helper.hub]\na = [1]\n\
                    [[route]]\npath = \"/\"\n[[route]]\n[log]\nlevel = \"debug\"\n";
        let settings = load(text).expect("valid");
        assert_eq!((settings.workers, settings.log_level.as_str()), (3, "debug"));
        assert!(load("nest = { url = 1 }\nhub.name = 1\n").is_ok(), "these are tables too");
    }

    #[test]
    fn every_error_names_its_line_and_key() {
        let table = [
            ("workers = 0", 1, "workers"),
            ("\nworkers = -1", 2, "workers"),
            ("workers = 70000", 1, "workers"),
            ("listen = 8080", 1, "listen"),
            ("listen = []", 1, "listen"),
            ("workers = \"3\"", 1, "`workers`"),
            ("[restart]\nintensity = -1", 2, "`intensity`"),
            ("wrokers = 3", 1, "wrokers"),
            ("wrokers = 3\n[nest]\nurl = 1", 1, "expected one of `listen`"),
            ("ports = [1, 2]", 1, "`ports`"),
            ("ports = []", 1, "`ports`"),
            ("helper = true", 1, "`helper`"),
            ("workers = {}", 1, "workers"),
            ("[workers]\ncount = 3", 1, "workers"),
            ("log = 3", 1, "log"),
            ("[nest]\nurl = 1\n[timeouts]\nreddy = 3", 4, "reddy"),
            ("[nest]\nurl = ", 2, ""),
            ("[nest]\nurl = 1\nurl = 2", 3, "url"),
            ("[timeouts]\n\nreddy = 3", 3, "reddy"),
            ("[timeouts]\nready = -3", 2, "seconds"),
            ("[timeouts]\nhang = 0", 2, "at least 0.5 seconds"),
            ("[log]\nlevel = \"a=b=c\"", 2, "log.level"),
            ("workers = ", 1, ""),
        ];
        for (text, line, word) in table {
            let (at, why) = load(text).err().unwrap_or_else(|| panic!("{text:?} was accepted"));
            assert_eq!(at, line, "{text:?}: {why}");
            assert!(why.contains(word), "{text:?}: {why}");
        }
    }
}
