//! A record of the log as it travels over a socket.

use std::fmt;

use serde::de::{Error, IgnoredAny, MapAccess, SeqAccess, Visitor};
use serde::ser::SerializeMap;
use serde::{Deserialize, Deserializer, Serialize, Serializer};

use super::text;
use crate::log::record::{Entry, Fields, Value, add_field};

/// One record of a log.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct LogRecord {
    /// Microseconds since 1970-01-01T00:00:00Z.
    pub(crate) time_us: i64,
    /// 1 error, 2 warn, 3 info, 4 debug, 5 trace.
    pub(crate) level: u32,
    #[serde(deserialize_with = "text::read")]
    pub(crate) target: String,
    #[serde(default, skip_serializing_if = "String::is_empty", deserialize_with = "text::read")]
    pub(crate) module: String,
    #[serde(deserialize_with = "text::read")]
    pub(crate) message: String,
    #[serde(default, skip_serializing_if = "LogFields::is_empty")]
    pub(crate) fields: LogFields,
    /// The id of the request that it belongs to.
    #[serde(default, skip_serializing_if = "String::is_empty", deserialize_with = "text::read")]
    pub(crate) request: String,
}

/// Keys and values, encoded as [`Fields`]; a map on the wire.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct LogFields(Vec<u8>);

/// Of a client's keys and values, so many bytes are kept.
const FIELDS_LEN_MAX: usize = 64 * 1024;

impl LogRecord {
    pub(crate) fn of(entry: &Entry<'_>) -> Self {
        Self {
            time_us: entry.time_us,
            level: entry.level as u32,
            target: entry.target.to_owned(),
            module: entry.module.to_owned(),
            message: entry.message.to_owned(),
            fields: LogFields(entry.fields.bytes().to_vec()),
            request: entry.request.to_owned(),
        }
    }

    /// With its client's number.
    pub(crate) fn entry(&self, sequence: u64) -> Entry<'_> {
        Entry {
            time_us: self.time_us,
            level: level(self.level),
            target: &self.target,
            module: &self.module,
            message: &self.message,
            fields: Fields::read(&self.fields.0).unwrap_or_default(),
            request: &self.request,
            sequence,
        }
    }
}

/// The level of this number; one that there is none for counts as the lowest.
fn level(number: u32) -> log::Level {
    match number {
        1 => log::Level::Error,
        2 => log::Level::Warn,
        3 => log::Level::Info,
        4 => log::Level::Debug,
        _ => log::Level::Trace,
    }
}

impl LogFields {
    fn is_empty(&self) -> bool {
        self.0.is_empty()
    }
}

impl Serialize for LogFields {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        let fields = Fields::read(&self.0).unwrap_or_default();
        let mut map = serializer.serialize_map(Some(fields.iter().count()))?;
        for (key, value) in fields.iter() {
            match value {
                Value::Null => map.serialize_entry(key, &())?,
                Value::Bool(value) => map.serialize_entry(key, &value)?,
                Value::Text(text) => map.serialize_entry(key, text)?,
                Value::Number(text) => match (text.parse::<u64>(), text.parse::<i64>(), text.parse::<f64>()) {
                    (Ok(number), ..) => map.serialize_entry(key, &number)?,
                    (_, Ok(number), _) => map.serialize_entry(key, &number)?,
                    (.., Ok(number)) => map.serialize_entry(key, &number)?,
                    (.., Err(_)) => map.serialize_entry(key, text)?,
                },
            }
        }
        map.end()
    }
}

impl<'de> Deserialize<'de> for LogFields {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        deserializer.deserialize_map(FieldsVisitor)
    }
}

struct FieldsVisitor;

impl<'de> Visitor<'de> for FieldsVisitor {
    type Value = LogFields;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("a map of names and plain values")
    }

    fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<LogFields, A::Error> {
        let mut out = Vec::new();
        while let Some(key) = map.next_key::<Key>()? {
            let Plain(value) = map.next_value()?;
            let before = out.len();
            add_field(&key.0, value.as_value(), &mut out);
            if out.len() > FIELDS_LEN_MAX {
                out.truncate(before);
            }
        }
        Ok(LogFields(out))
    }
}

#[derive(Deserialize)]
struct Key(#[serde(deserialize_with = "text::read")] String);

/// A value that is none of several.
struct Plain(Owned);

enum Owned {
    Null,
    Bool(bool),
    Number(String),
    Text(String),
}

impl Owned {
    fn as_value(&self) -> Value<'_> {
        match self {
            Self::Null => Value::Null,
            Self::Bool(value) => Value::Bool(*value),
            Self::Number(text) => Value::Number(text),
            Self::Text(text) => Value::Text(text),
        }
    }
}

impl<'de> Deserialize<'de> for Plain {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        deserializer.deserialize_any(PlainVisitor).map(Plain)
    }
}

struct PlainVisitor;

impl<'de> Visitor<'de> for PlainVisitor {
    type Value = Owned;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("a plain value")
    }

    fn visit_unit<E: Error>(self) -> Result<Owned, E> {
        Ok(Owned::Null)
    }

    fn visit_bool<E: Error>(self, value: bool) -> Result<Owned, E> {
        Ok(Owned::Bool(value))
    }

    fn visit_i64<E: Error>(self, value: i64) -> Result<Owned, E> {
        Ok(Owned::Number(value.to_string()))
    }

    fn visit_u64<E: Error>(self, value: u64) -> Result<Owned, E> {
        Ok(Owned::Number(value.to_string()))
    }

    fn visit_f64<E: Error>(self, value: f64) -> Result<Owned, E> {
        let text = value.to_string();
        // JSON has no words for the others.
        Ok(if value.is_finite() { Owned::Number(text) } else { Owned::Text(text) })
    }

    fn visit_str<E: Error>(self, value: &str) -> Result<Owned, E> {
        Ok(Owned::Text(value.to_owned()))
    }

    fn visit_bytes<E: Error>(self, value: &[u8]) -> Result<Owned, E> {
        Ok(Owned::Text(String::from_utf8_lossy(value).into_owned()))
    }

    /// What stands in several lines of other formats has no place in a line: that there is something is told.
    fn visit_seq<A: SeqAccess<'de>>(self, mut all: A) -> Result<Owned, A::Error> {
        let mut count = 0;
        while all.next_element::<IgnoredAny>()?.is_some() {
            count += 1;
        }
        Ok(Owned::Text(format!("[{count} values]")))
    }

    fn visit_map<A: MapAccess<'de>>(self, mut all: A) -> Result<Owned, A::Error> {
        let mut count = 0;
        while all.next_entry::<IgnoredAny, IgnoredAny>()?.is_some() {
            count += 1;
        }
        Ok(Owned::Text(format!("{{{count} values}}")))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_record_travels_with_all_that_it_has() {
        let mut fields = Vec::new();
        for (key, value) in [
            ("a", Value::Number("-7")),
            ("b", Value::Number("18446744073709551615")),
            ("c", Value::Number("0.5")),
            ("d", Value::Text("é")),
            ("e", Value::Bool(true)),
            ("f", Value::Null),
        ] {
            add_field(key, value, &mut fields);
        }
        let entry = Entry {
            time_us: 5,
            level: log::Level::Debug,
            target: "app",
            module: "app::inner",
            message: "hello",
            fields: Fields::read(&fields).expect("fields"),
            request: "r-1",
            sequence: 3,
        };
        let bytes = rmp_serde::to_vec_named(&LogRecord::of(&entry)).expect("encode");
        let read: LogRecord = rmp_serde::from_slice(&bytes).expect("decode");
        assert_eq!(read.entry(3), entry);
    }

    #[test]
    fn values_that_have_no_place_in_a_line_are_counted() {
        let text = r#"{"list":[1,2,3],"map":{"a":1}}"#;
        let read: LogFields = serde_json::from_str(text).expect("fields");
        let fields = Fields::read(&read.0).expect("fields");
        assert_eq!((fields.get("list"), fields.get("map")), (Some("[3 values]"), Some("{1 values}")));
    }
}
