//! Names of processes, places and loads.

use std::fmt;

use serde::{Deserialize, Deserializer, Serialize, Serializer};

/// One process's life, from the decision to make it until it is reaped. Never used twice.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
pub(crate) struct Birth(pub(crate) u64);

/// One load of one binary with one configuration, counted from 1.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
pub(crate) struct Generation(pub(crate) u32);

/// One run of the reload, counted from 1. Whoever asks for a reload is promised one.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) struct ReloadNumber(pub(crate) u64);

/// A worker's place, from 0. Its occupants change, it stays.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
pub(crate) struct Slot(pub(crate) u16);

/// The most workers of one generation.
pub(crate) const WORKERS_MAX: u16 = 1024;

/// The most helpers of an application.
pub(crate) const HELPERS_MAX: usize = 32;

/// The longest name of a helper, in bytes.
const NAME_LEN_MAX: usize = 31;

/// What a helper may not be called: other processes and sockets are.
const RESERVED: [&str; 5] = ["log", "zygote", "master", "worker", "control"];

/// The name of one of the application's helpers: its socket, its section, its line in the log.
///
/// Padded with zeros, which no name contains: so the order is that of the texts.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) struct HelperName([u8; NAME_LEN_MAX]);

/// What a process is there for.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
pub(crate) enum Role {
    Log,
    Zygote(Generation),
    /// The one process of this name.
    Helper(HelperName, Generation),
    Worker(Slot, Generation),
}

impl Role {
    /// The load that it is a part of; the log helper is of none.
    pub(crate) fn generation(self) -> Option<Generation> {
        match self {
            Self::Zygote(generation) | Self::Helper(_, generation) | Self::Worker(_, generation) => Some(generation),
            Self::Log => None,
        }
    }

    /// Whether a zygote forks it; the others the master makes itself.
    pub(crate) fn is_forked(self) -> bool {
        match self {
            Self::Helper(..) | Self::Worker(..) => true,
            Self::Log | Self::Zygote(_) => false,
        }
    }
}

impl HelperName {
    /// The name that `text` is, or what is wrong with it.
    pub(crate) fn parse(text: &str) -> Result<Self, String> {
        if RESERVED.contains(&text) {
            return Err(format!("no helper can be called `{text}`: forebay uses this name itself"));
        }
        check_name("helper", text)?;
        let mut bytes = [0; NAME_LEN_MAX];
        bytes[..text.len()].copy_from_slice(text.as_bytes());
        Ok(Self(bytes))
    }

    pub(crate) fn as_str(&self) -> &str {
        let len = self.0.iter().position(|&byte| byte == 0).unwrap_or(NAME_LEN_MAX);
        std::str::from_utf8(&self.0[..len]).expect("a name is ASCII")
    }
}

/// Whether it is a name for what the application declares: a helper, a job.
pub(crate) fn check_name(what: &str, text: &str) -> Result<(), String> {
    let fits = (1..=NAME_LEN_MAX).contains(&text.len())
        && text.starts_with(|first: char| first.is_ascii_lowercase())
        && text.bytes().all(|byte| matches!(byte, b'a'..=b'z' | b'0'..=b'9' | b'_' | b'-'));
    if fits {
        return Ok(());
    }
    let shown: String = text.chars().take(NAME_LEN_MAX + 1).collect();
    Err(format!("{shown:?} is no {what}'s name: 1 to {NAME_LEN_MAX} of a-z, 0-9, `_` and `-`, a letter first"))
}

impl fmt::Display for HelperName {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(self.as_str())
    }
}

impl fmt::Debug for HelperName {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.as_str())
    }
}

impl Serialize for HelperName {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.serialize_str(self.as_str())
    }
}

impl<'de> Deserialize<'de> for HelperName {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        Self::parse(&String::deserialize(deserializer)?).map_err(serde::de::Error::custom)
    }
}

impl fmt::Display for Generation {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "generation {}", self.0)
    }
}

impl fmt::Display for Role {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Log => f.write_str("helper log"),
            Self::Zygote(generation) => write!(f, "zygote {generation}"),
            Self::Helper(name, generation) => write!(f, "helper {name} {generation}"),
            Self::Worker(slot, generation) => write!(f, "worker {} {generation}", slot.0),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_name_is_short_and_plain_and_nobody_elses() {
        for good in ["nest", "n", "hub-2", "market_feed", "log2", &"n".repeat(NAME_LEN_MAX)] {
            let name = HelperName::parse(good).expect(good);
            assert_eq!(name.as_str(), good);
            assert_eq!(name.to_string(), good);
        }
        let long = "n".repeat(NAME_LEN_MAX + 1);
        for bad in ["", "Nest", "2nest", "-nest", "_nest", "ne st", "ne/st", "ne.st", "né", "nest\0", &long] {
            assert!(HelperName::parse(bad).is_err(), "{bad:?}");
        }
        for reserved in RESERVED {
            assert!(HelperName::parse(reserved).expect_err(reserved).contains(reserved));
        }
    }

    #[test]
    fn names_stand_in_the_order_of_their_texts() {
        let texts = ["a", "a-", "a1", "a_", "aa", "ab", "b"];
        let names: Vec<HelperName> = texts.iter().map(|text| HelperName::parse(text).expect(text)).collect();
        assert!(names.is_sorted() && texts.is_sorted());
    }

    #[test]
    fn a_name_travels_as_a_text_and_is_checked_where_it_arrives() {
        let name = HelperName::parse("nest").expect("a name");
        let text = serde_json::to_string(&name).expect("it encodes");
        assert_eq!(text, "\"nest\"");
        assert_eq!(serde_json::from_str::<HelperName>(&text).expect("it decodes"), name);
        assert!(serde_json::from_str::<HelperName>("\"log\"").is_err());
        assert!(serde_json::from_str::<HelperName>("\"../x\"").is_err());
    }

    #[test]
    fn roles_are_named_as_the_log_shows_them() {
        let name = HelperName::parse("nest").expect("a name");
        assert_eq!(Role::Helper(name, Generation(1)).to_string(), "helper nest generation 1");
        assert_eq!(Role::Worker(Slot(0), Generation(2)).to_string(), "worker 0 generation 2");
        assert_eq!(Role::Log.to_string(), "helper log");
    }
}
