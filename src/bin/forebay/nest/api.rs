//! What others may ask the helper, what it answers, and what it tells its subscribers.

use std::fmt;

use forebay::Request;
use serde::{Deserialize, Serialize};
use serde_json::{Map, Value};

use super::excerpt;
use super::link::Link;

/// A thermostat's or a structure's fields, as the upstream has them.
pub(crate) type Fields = Map<String, Value>;

/// A thermostat by its id.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub(crate) struct Thermostat {
    pub(crate) id: String,
    pub(crate) fields: Fields,
}

/// All thermostats that are known, sorted by id.
#[derive(Serialize, Deserialize)]
pub(crate) struct List {}

impl Request for List {
    const METHOD: &'static str = "list";
    const IDEMPOTENT: bool = true;
    type Reply = Vec<Thermostat>;
}

/// One thermostat.
#[derive(Serialize, Deserialize)]
pub(crate) struct Get {
    pub(crate) id: String,
}

impl Request for Get {
    const METHOD: &'static str = "get";
    const IDEMPOTENT: bool = true;
    type Reply = Fields;
}

/// How the connection to the upstream stands.
#[derive(Serialize, Deserialize)]
pub(crate) struct LinkState {}

impl Request for LinkState {
    const METHOD: &'static str = "link";
    const IDEMPOTENT: bool = true;
    type Reply = Link;
}

/// Writes fields of a thermostat. The answer is what the upstream says it has written.
///
/// Not sent twice: the second one could undo what someone has set at the wall in between.
#[derive(Serialize, Deserialize)]
pub(crate) struct Set {
    pub(crate) id: String,
    pub(crate) fields: Fields,
}

impl Request for Set {
    const METHOD: &'static str = "set";
    type Reply = Value;
}

/// What has changed.
///
/// A new helper knows no thermostats until the upstream has told it. When it has, the events of
/// all thermostats come first and [`Link::known`] after them.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub(crate) enum NestEvent {
    /// The connection to the upstream.
    Link(Link),
    /// A thermostat is new or has changed: all its fields.
    Thermostat { id: String, fields: Fields },
    /// A thermostat is gone.
    ThermostatRemoved { id: String },
    /// A structure is new or has changed: all its fields.
    Structure { id: String, fields: Fields },
    /// A structure is gone.
    StructureRemoved { id: String },
}

/// Why a request failed.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub(crate) enum NestError {
    /// The upstream has told nothing yet.
    NotReady,
    /// It knows no thermostat of this id.
    UnknownThermostat { id: String },
    /// It says no; `body` is its answer, text if that is no JSON.
    Refused { status: u16, body: Value },
    /// It wants fewer requests; also answered without asking while its last `Retry-After` runs.
    RateLimited { retry_after_s: Option<u64>, body: Value },
    /// It does not accept the token, or has revoked it.
    Unauthorized,
    /// It did not answer.
    Unreachable { reason: String },
    /// Too many writes wait already.
    Overloaded,
}

impl fmt::Display for NestError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::NotReady => f.write_str("the upstream has told nothing yet"),
            Self::UnknownThermostat { id } => write!(f, "there is no thermostat {id}"),
            Self::Refused { status, body } => {
                write!(f, "the upstream refuses with status {status}: {}", excerpt(&body.to_string()))
            }
            Self::RateLimited { retry_after_s: Some(seconds), .. } => {
                write!(f, "the upstream wants no writes for {seconds} s")
            }
            Self::RateLimited { retry_after_s: None, .. } => f.write_str("the upstream wants fewer writes"),
            Self::Unauthorized => f.write_str("the upstream does not accept the token"),
            Self::Unreachable { reason } => write!(f, "the upstream does not answer: {reason}"),
            Self::Overloaded => f.write_str("too many writes wait for the upstream"),
        }
    }
}

#[cfg(test)]
mod tests {
    use std::time::SystemTime;

    use serde::de::DeserializeOwned;
    use serde_json::json;

    use super::*;

    /// As it travels: MessagePack, structs as maps.
    fn travelled<T: Serialize + DeserializeOwned>(value: &T) -> T {
        let bytes = rmp_serde::to_vec_named(value).expect("it is written");
        rmp_serde::from_slice(&bytes).expect("it is read")
    }

    fn fields() -> Fields {
        let fields = json!({"a": 21.0, "b": 0.1, "c": 5, "d": u64::MAX, "e": -1, "f": null, "g": {"h": ["ü", true]}});
        fields.as_object().cloned().expect("an object")
    }

    #[test]
    fn the_readme_lists_the_methods() {
        let readme = include_str!("../../../../README.md");
        let (_, table) = readme.split_once("\n| `forebay call nest` |").expect("the table");
        let rows = table.lines().skip(2).take_while(|line| line.starts_with("| "));
        let calls = rows.filter_map(|row| row.split('`').nth(1));
        let calls = calls.map(|call| serde_json::from_str::<Value>(&call.replace('…', "")).expect("JSON"));
        let mut listed: Vec<String> = calls.map(|call| call["method"].as_str().expect("a method").to_owned()).collect();
        listed.sort_unstable();
        assert_eq!(listed, [Get::METHOD, LinkState::METHOD, List::METHOD, Set::METHOD]);
    }

    #[test]
    fn everything_travels_unchanged() {
        let id = || "a".to_owned();
        let link = Link::new(SystemTime::now()).open("http://a".to_owned(), SystemTime::now());
        let events = [
            NestEvent::Link(link),
            NestEvent::Thermostat { id: id(), fields: fields() },
            NestEvent::ThermostatRemoved { id: id() },
            NestEvent::Structure { id: id(), fields: fields() },
            NestEvent::StructureRemoved { id: id() },
        ];
        for event in &events {
            assert_eq!(&travelled(event), event);
        }
        let errors = [
            NestError::NotReady,
            NestError::UnknownThermostat { id: id() },
            NestError::Refused { status: 400, body: json!({"details": {"fields": [1.5]}}) },
            NestError::RateLimited { retry_after_s: None, body: Value::Null },
            NestError::Unauthorized,
            NestError::Unreachable { reason: id() },
            NestError::Overloaded,
        ];
        for error in &errors {
            assert_eq!(&travelled(error), error);
        }
        let set = travelled(&Set { id: id(), fields: fields() });
        assert_eq!(serde_json::to_string(&set.fields).expect("JSON"), serde_json::to_string(&fields()).expect("JSON"));
    }
}
