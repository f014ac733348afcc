//! What flags and variables say. A flag beats a variable, a variable beats the file.

use std::ffi::OsString;
use std::path::PathBuf;

use super::key::{Given, variable};
use super::table::{KEYS, LOG_LEVEL};
use super::{Settings, filter, key};
use crate::error::mistakes::Mistakes;

/// What env_logger reads, too.
const RUST_LOG: &str = "RUST_LOG";

/// Values by key, each with where it was said, the stronger after the weaker.
#[derive(Clone, Debug, Default)]
pub(crate) struct Overrides {
    said: Vec<Said>,
    /// Where relative paths start, those of the file too.
    pub(super) directory: PathBuf,
}

#[derive(Clone, Debug)]
struct Said {
    key: &'static key::Key<Settings>,
    /// `--workers`, `FOREBAY_WORKERS`.
    place: String,
    value: String,
}

impl Overrides {
    /// What this process's environment says to `program`.
    ///
    /// Other variables of its name are left alone: platforms set some (`FOREBAY_PORT`).
    pub(crate) fn of_environment(program: &str, mistakes: &mut Mistakes) -> Self {
        let all = Self::of_variables(program, |name| std::env::var_os(name), mistakes);
        // Where there is no directory any more, relative paths lead nowhere.
        Self { directory: std::env::current_dir().unwrap_or_default(), ..all }
    }

    /// Adds what is stronger.
    pub(crate) fn and(mut self, stronger: Self) -> Self {
        self.said.extend(stronger.said);
        self
    }

    fn of_variables(program: &str, get: impl Fn(&str) -> Option<OsString>, mistakes: &mut Mistakes) -> Self {
        let mut all = Self::default();
        for key in KEYS {
            let also = (key.name == LOG_LEVEL).then(|| RUST_LOG.to_owned());
            for place in also.into_iter().chain([key.variable(program)]) {
                let Some(value) = get(&place).filter(|value| !value.is_empty()) else { continue };
                match value.into_string() {
                    Ok(value) => all.said.push(Said { key, place, value }),
                    Err(_) => mistakes.add(place, "its value is no text"),
                }
            }
        }
        all
    }

    /// Adds a flag.
    pub(crate) fn say(&mut self, key: &'static key::Key<Settings>, value: String) {
        self.said.push(Said { key, place: format!("--{}", key.flag()), value });
    }

    /// What the file of these settings says and a flag or a variable beats, in words.
    pub(crate) fn beaten(&self, settings: &Settings) -> Vec<String> {
        let keys = settings.said.iter();
        let beats = |name: &&&str| self.said.iter().rev().find(|said| said.key.name == **name);
        keys.filter_map(|name| Some(format!("`{name}`: {} beats the file", beats(&name)?.place))).collect()
    }

    pub(super) fn apply(&self, settings: &mut Settings, mistakes: &mut Mistakes) {
        for Said { key, place, value } in &self.said {
            let meant = (place == RUST_LOG).then(|| filter::of_lone_target(value)).flatten();
            if let Err(why) = (key.set)(settings, &Given::Said(meant.as_ref().unwrap_or(value))) {
                mistakes.add(place.as_str(), why);
            }
        }
    }

    /// What is allowed and hardly meant.
    pub(crate) fn odd(&self) -> Option<String> {
        let Said { place, value, .. } = self.said.iter().rev().find(|said| said.key.name == LOG_LEVEL)?;
        let meant = (place == RUST_LOG).then(|| filter::of_lone_target(value)).flatten()?;
        Some(format!("RUST_LOG: `{value}` is no level: it is read as `{meant}`, and nothing else is logged"))
    }
}

/// `--config`, else the program's variable, else its file in /etc if there is one.
pub(crate) fn file_of(program: &str, flag: Option<PathBuf>) -> Option<PathBuf> {
    let said = || std::env::var_os(variable(program, "config")).filter(|path| !path.is_empty()).map(PathBuf::from);
    let default = || Some(PathBuf::from(format!("/etc/{program}.toml"))).filter(|path| path.exists());
    flag.or_else(said).or_else(default)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_flag_beats_a_variable_and_a_variable_the_file() {
        let mut mistakes = Mistakes::default();
        let get = |name: &str| match name {
            "HEAT_PUMP_WORKERS" => Some("7".into()),
            "HEAT_PUMP_TIMEOUTS_DRAIN" => Some("0.5".into()),
            "HEAT_PUMP_LISTEN" => Some("127.0.0.1:1, [::1]:2".into()),
            "RUST_LOG" => Some("warn".into()),
            "HEAT_PUMP_LOG_LEVEL" => Some("debug".into()),
            "HEAT_PUMP_USER" => Some("".into()),
            _ => None,
        };
        let mut all = Overrides::of_variables("heat-pump", get, &mut mistakes);
        let workers = KEYS.iter().find(|key| key.name == "workers").expect("a key");
        all.say(workers, "3".to_owned());
        let mut settings = Settings::new();
        all.apply(&mut settings, &mut mistakes);
        assert!(mistakes.is_empty(), "{mistakes}");
        assert_eq!((settings.workers, settings.listen.len(), settings.log_level.as_str()), (3, 2, "debug"));
        assert_eq!((settings.timeouts.drain.as_millis(), settings.user), (500, None));
    }

    /// As env_logger reads it, but not without a word.
    #[test]
    fn a_word_that_is_no_level_is_a_target_for_rust_log_alone() {
        let said = |name: &'static str, value: &'static str| {
            let (mut mistakes, mut settings) = (Mistakes::default(), Settings::new());
            let get = |asked: &str| (asked == name).then(|| value.into());
            let all = Overrides::of_variables("x", get, &mut mistakes);
            all.apply(&mut settings, &mut mistakes);
            (settings.log_level, all.odd().is_some(), mistakes.is_empty())
        };
        assert_eq!(said("RUST_LOG", "hyper"), ("hyper=trace".to_owned(), true, true));
        assert_eq!(said("RUST_LOG", "warn"), ("warn".to_owned(), false, true));
        assert!(!said("RUST_LOG", "info/[").2);
        assert!(!said("X_LOG_LEVEL", "infoo").2);
    }

    #[test]
    fn what_a_variable_says_wrong_is_said_of_it() {
        let mut mistakes = Mistakes::default();
        let get = |name: &str| (name == "X_WORKERS" || name == "X_TIMEOUTS_HANG").then(|| "0".into());
        let all = Overrides::of_variables("x", get, &mut mistakes);
        all.apply(&mut Settings::new(), &mut mistakes);
        let text = mistakes.to_string();
        assert!(text.contains("X_WORKERS: ") && text.contains("X_TIMEOUTS_HANG: "), "{text}");
    }
}
