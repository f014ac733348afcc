//! A file of vectors: what stands in it, and whether what was read is what should be.

use std::fmt;

use serde::Deserialize;
use serde::de::{Deserializer, MapAccess, SeqAccess, Visitor};
use serde_json::{Value, json};

use crate::ipc::frame;

#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct Vector {
    pub(super) name: String,
    pub(super) page: Option<String>,
    pub(super) rule: Option<String>,
    pub(super) after: Option<String>,
    #[serde(default)]
    pub(super) asked: Vec<Value>,
    pub(super) hex: Vec<Piece>,
    pub(super) meaning: Option<Vec<Value>>,
    pub(super) outcome: Outcome,
    #[serde(default)]
    pub(super) reply: Vec<Value>,
    #[serde(rename = "subtle")]
    _subtle: Option<String>,
}

#[derive(Debug, Deserialize)]
#[serde(untagged)]
pub(super) enum Piece {
    Once(String),
    Times { times: u32, hex: String },
}

#[derive(Clone, Debug, PartialEq, Deserialize)]
#[serde(rename_all = "lowercase")]
pub(super) enum Outcome {
    Accept,
    Error(Value),
    Close,
}

impl Piece {
    pub(super) fn bytes(&self) -> Vec<u8> {
        let read = |hex: &str| -> Vec<u8> {
            hex.split(' ').map(|pair| u8::from_str_radix(pair, 16).expect("two digits")).collect()
        };
        match self {
            Self::Once(hex) => read(hex),
            Self::Times { times, hex } => (0..*times)
                .flat_map(|number| {
                    let [a, b, c, d] = number.to_be_bytes();
                    read(&hex.replace("## ## ## ##", &format!("{a:02x} {b:02x} {c:02x} {d:02x}")))
                })
                .collect(),
        }
    }
}

/// Any value of MessagePack, as the vectors spell it in JSON.
#[derive(Debug, PartialEq)]
pub(super) struct Meant(pub(super) Value);

impl<'de> Deserialize<'de> for Meant {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        deserializer.deserialize_any(Spelling).map(Meant)
    }
}

struct Spelling;

impl<'de> Visitor<'de> for Spelling {
    type Value = Value;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("a value")
    }

    fn visit_unit<E>(self) -> Result<Value, E> {
        Ok(Value::Null)
    }

    fn visit_bool<E>(self, value: bool) -> Result<Value, E> {
        Ok(value.into())
    }

    fn visit_u64<E>(self, value: u64) -> Result<Value, E> {
        Ok(if value > 1 << 53 { json!({"$int": value.to_string()}) } else { value.into() })
    }

    fn visit_i64<E: serde::de::Error>(self, value: i64) -> Result<Value, E> {
        u64::try_from(value).map_or(Ok(value.into()), |value| self.visit_u64(value))
    }

    fn visit_f32<E>(self, value: f32) -> Result<Value, E> {
        Ok(value.into())
    }

    fn visit_f64<E>(self, value: f64) -> Result<Value, E> {
        Ok(value.into())
    }

    fn visit_str<E>(self, value: &str) -> Result<Value, E> {
        Ok(value.into())
    }

    fn visit_bytes<E>(self, value: &[u8]) -> Result<Value, E> {
        Ok(json!({"$bin": shown(value)}))
    }

    fn visit_newtype_struct<D: Deserializer<'de>>(self, deserializer: D) -> Result<Value, D::Error> {
        let (kind, Meant(bytes)) = <(i8, Meant)>::deserialize(deserializer)?;
        Ok(json!({"$ext": [kind, bytes["$bin"]]}))
    }

    fn visit_seq<A: SeqAccess<'de>>(self, mut items: A) -> Result<Value, A::Error> {
        let mut array = Vec::new();
        while let Some(Meant(item)) = items.next_element()? {
            array.push(item);
        }
        Ok(array.into())
    }

    fn visit_map<A: MapAccess<'de>>(self, mut entries: A) -> Result<Value, A::Error> {
        let mut map = serde_json::Map::new();
        while let Some((key, Meant(item))) = entries.next_entry::<String, Meant>()? {
            map.insert(key, item);
        }
        Ok(map.into())
    }
}

fn shown(bytes: &[u8]) -> String {
    bytes.iter().map(|byte| format!("{byte:02x}")).collect::<Vec<_>>().join(" ")
}

pub(super) fn meant(encoded: &[u8]) -> Value {
    frame::decode::<Meant>(encoded).expect("it was read already").0
}

pub(super) fn read(text: &str) -> Vec<Vector> {
    serde_json::from_str(text).expect("vectors")
}

/// Whether all is there that is expected; more is allowed at the end of arrays and in maps.
fn matches(expected: &Value, got: &Value) -> bool {
    match (expected, got) {
        (Value::Array(expected), Value::Array(got)) => {
            expected.len() <= got.len() && expected.iter().zip(got).all(|(expected, got)| matches(expected, got))
        }
        (Value::Object(expected), Value::Object(got)) => {
            expected.iter().all(|(key, expected)| got.get(key).is_some_and(|got| matches(expected, got)))
        }
        _ => expected == got,
    }
}

/// What a reader has made of a vector.
#[derive(Debug)]
pub(super) struct Reading {
    /// Each message, as far as the reader hands it on.
    pub(super) messages: Vec<Value>,
    pub(super) replies: Vec<Value>,
    pub(super) outcome: Outcome,
}

impl Reading {
    pub(super) fn new() -> Self {
        Self { messages: Vec::new(), replies: Vec::new(), outcome: Outcome::Accept }
    }

    pub(super) fn ended<E>(mut self, end: Result<(), E>) -> Self {
        if end.is_err() {
            self.outcome = Outcome::Close;
        }
        self
    }

    /// Whether this is what should come of the vector.
    pub(super) fn is_of(&self, vector: &Vector) -> bool {
        let all = |expected: &[Value], got: &[Value]| {
            expected.len() == got.len() && expected.iter().zip(got).all(|(expected, got)| matches(expected, got))
        };
        let meaning = vector.meaning.as_deref().filter(|_| vector.outcome != Outcome::Close);
        self.outcome == vector.outcome
            && meaning.is_none_or(|meaning| all(&self.messages, meaning))
            && (vector.reply.is_empty() || all(&vector.reply, &self.replies))
    }
}

/// Reads all vectors of a file; what comes to something else is shown, all at once.
pub(super) fn check((file, text): (&str, &str), reading: impl Fn(&Vector) -> Reading) {
    let wrong = read(text).into_iter().filter_map(|vector| {
        let reading = reading(&vector);
        (!reading.is_of(&vector)).then(|| format!("{file}: {}: {reading:?} is not of {vector:?}", vector.name))
    });
    let wrong: Vec<String> = wrong.collect();
    assert!(wrong.is_empty(), "{} are wrong\n{}", wrong.len(), wrong.join("\n"));
}
