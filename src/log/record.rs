//! One record of the log, whichever way it has come, and who has said it.
//!
//! Everything is borrowed: a record is written where it was read, and copied by whoever keeps it.

use std::ops::Range;

use env_filter::Filter;
use log::kv::{self, Key, VisitSource, VisitValue};
use log::{Level, Metadata, Record};

use crate::contract::ids::{Generation, Role, Slot};

/// The target of the records that say what a request was answered: they go to `[log.access]`.
pub(crate) const ACCESS: &str = "access";

/// A record.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(crate) struct Entry<'a> {
    /// Microseconds since 1970-01-01T00:00:00Z.
    pub(crate) time_us: i64,
    pub(crate) level: Level,
    pub(crate) target: &'a str,
    /// The module it was logged in; empty: nobody says.
    pub(crate) module: &'a str,
    pub(crate) message: &'a str,
    pub(crate) fields: Fields<'a>,
    /// The id of the request that it was logged for; empty: for none.
    pub(crate) request: &'a str,
    /// Its number among all that its process has produced, refused ones too; 0: nobody counts.
    pub(crate) sequence: u64,
}

/// Who has said it.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct Origin {
    /// As a line shows it: `worker 0 generation 1`; empty for the master.
    pub(crate) name: String,
    pub(crate) worker: Option<Slot>,
    pub(crate) generation: Option<Generation>,
    /// As the kernel knows it; 0: not known.
    pub(crate) pid: i32,
}

/// Keys and values beside the message, in their order.
///
/// Encoded as one byte for the kind of the value, u16 for the length of the key, u32 for that of the value,
/// both little-endian, the key, the value.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct Fields<'a> {
    bytes: &'a [u8],
    /// The same, if it is text as a whole, as it is where nothing is long: then no part is looked at by itself.
    text: Option<&'a str>,
}

/// A value as JSON would have it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Value<'a> {
    Null,
    Bool(bool),
    /// As JSON writes it.
    Number(&'a str),
    Text(&'a str),
}

const NULL: u8 = b'0';
const BOOL: u8 = b'b';
const NUMBER: u8 = b'n';
const TEXT: u8 = b't';

/// The longest key, in bytes; of a longer one the end is cut off.
const KEY_LEN_MAX: usize = 256;

/// Bytes before a key.
const FIELD_HEADER_LEN: usize = 1 + 2 + 4;

impl Origin {
    /// A process that the master has made.
    pub(crate) fn of(role: Role, pid: i32) -> Self {
        let worker = match role {
            Role::Worker(slot, _) => Some(slot),
            Role::Log | Role::Zygote(_) | Role::Helper(..) => None,
        };
        Self { name: role.to_string(), worker, generation: role.generation(), pid }
    }

    /// One that says its name: if that is as a worker or a helper is called, it counts as one.
    pub(crate) fn named(name: &str, pid: i32) -> Self {
        let mut words = name.split(' ');
        let (kind, which) = (words.next(), words.next());
        let generation = name.rsplit_once(" generation ").and_then(|(_, number)| number.parse().ok()).map(Generation);
        let worker = which.filter(|_| kind == Some("worker") && generation.is_some());
        Self { name: name.to_owned(), worker: worker.and_then(|slot| slot.parse().ok()).map(Slot), generation, pid }
    }
}

impl Entry<'_> {
    /// Whether it passes this filter, which may have a pattern for the message.
    pub(crate) fn is_wanted_by(&self, filter: &Filter) -> bool {
        // A filter takes a record of the facade's.
        let metadata = Metadata::builder().level(self.level).target(self.target).build();
        filter.matches(&Record::builder().metadata(metadata).args(format_args!("{}", self.message)).build())
    }
}

impl<'a> Fields<'a> {
    /// What was encoded, or `None` if it was not.
    pub(crate) fn read(bytes: &'a [u8]) -> Option<Self> {
        let fields = Self::encoded(bytes);
        let mut at = 0;
        while at < bytes.len() {
            (_, at) = fields.field(at)?;
        }
        Some(fields)
    }

    /// What was encoded here.
    pub(crate) fn encoded(bytes: &'a [u8]) -> Self {
        Self { bytes, text: str::from_utf8(bytes).ok() }
    }

    pub(crate) fn is_empty(&self) -> bool {
        self.bytes.is_empty()
    }

    /// As they are encoded.
    pub(crate) fn bytes(&self) -> &'a [u8] {
        self.bytes
    }

    pub(crate) fn iter(self) -> impl Iterator<Item = (&'a str, Value<'a>)> {
        let mut at = 0;
        std::iter::from_fn(move || {
            let (found, end) = self.field(at)?;
            at = end;
            Some(found)
        })
    }

    /// The text or number of this key.
    pub(crate) fn get(&self, key: &str) -> Option<&'a str> {
        self.iter().find(|(found, _)| *found == key).and_then(|(_, value)| match value {
            Value::Text(text) | Value::Number(text) => Some(text),
            Value::Null | Value::Bool(_) => None,
        })
    }

    /// The field that begins here, and where it ends.
    fn field(&self, at: usize) -> Option<((&'a str, Value<'a>), usize)> {
        let (&kind, rest) = self.bytes.get(at..)?.split_first()?;
        let (key_len, rest) = rest.split_first_chunk()?;
        let (value_len, _) = rest.split_first_chunk()?;
        let start = at + FIELD_HEADER_LEN;
        let middle = start + usize::from(u16::from_le_bytes(*key_len));
        let end = middle.checked_add(u32::from_le_bytes(*value_len) as usize)?;
        let (key, text) = (self.part(start..middle)?, self.part(middle..end)?);
        let value = match kind {
            NULL => Value::Null,
            BOOL => Value::Bool(text == "true"),
            NUMBER => Value::Number(text),
            TEXT => Value::Text(text),
            _ => return None,
        };
        Some(((key, value), end))
    }

    fn part(&self, range: Range<usize>) -> Option<&'a str> {
        match self.text {
            Some(text) => text.get(range),
            None => str::from_utf8(self.bytes.get(range)?).ok(),
        }
    }
}

/// Adds a field to encoded ones.
pub(crate) fn add_field(key: &str, value: Value<'_>, out: &mut Vec<u8>) {
    let (kind, text) = match value {
        Value::Null => (NULL, ""),
        Value::Bool(true) => (BOOL, "true"),
        Value::Bool(false) => (BOOL, "false"),
        Value::Number(text) => (NUMBER, text),
        Value::Text(text) => (TEXT, text),
    };
    let start = begin_field(kind, key, out);
    out.extend_from_slice(text.as_bytes());
    end_field(start, out);
}

/// Adds what a record of the facade's has beside its message.
pub(crate) fn add_fields(source: &dyn kv::Source, out: &mut Vec<u8>) {
    // Nobody here refuses one.
    let _ = source.visit(&mut Encoder(out));
}

fn begin_field(kind: u8, key: &str, out: &mut Vec<u8>) -> usize {
    let key = &key[..key.floor_char_boundary(KEY_LEN_MAX)];
    let start = out.len();
    out.push(kind);
    out.extend_from_slice(&(key.len() as u16).to_le_bytes());
    out.extend_from_slice(&[0; 4]);
    out.extend_from_slice(key.as_bytes());
    start
}

fn end_field(start: usize, out: &mut [u8]) {
    let key_len = u16::from_le_bytes([out[start + 1], out[start + 2]]);
    let value_len = out.len() - start - FIELD_HEADER_LEN - usize::from(key_len);
    out[start + 3..start + FIELD_HEADER_LEN].copy_from_slice(&(value_len as u32).to_le_bytes());
}

struct Encoder<'a>(&'a mut Vec<u8>);

impl<'kvs> VisitSource<'kvs> for Encoder<'_> {
    fn visit_pair(&mut self, key: Key<'kvs>, value: kv::Value<'kvs>) -> Result<(), kv::Error> {
        value.visit(EncodedValue { key: key.as_str(), out: self.0 })
    }
}

struct EncodedValue<'a> {
    key: &'a str,
    out: &'a mut Vec<u8>,
}

impl EncodedValue<'_> {
    fn displayed(&mut self, kind: u8, value: impl std::fmt::Display) {
        use std::io::Write;

        let start = begin_field(kind, self.key, self.out);
        // A `Display` that fails has written what it could.
        let _ = write!(self.out, "{value}");
        end_field(start, self.out);
    }
}

impl VisitValue<'_> for EncodedValue<'_> {
    fn visit_any(&mut self, value: kv::Value<'_>) -> Result<(), kv::Error> {
        self.displayed(TEXT, value);
        Ok(())
    }

    fn visit_null(&mut self) -> Result<(), kv::Error> {
        add_field(self.key, Value::Null, self.out);
        Ok(())
    }

    fn visit_bool(&mut self, value: bool) -> Result<(), kv::Error> {
        add_field(self.key, Value::Bool(value), self.out);
        Ok(())
    }

    fn visit_i64(&mut self, value: i64) -> Result<(), kv::Error> {
        self.displayed(NUMBER, value);
        Ok(())
    }

    fn visit_u64(&mut self, value: u64) -> Result<(), kv::Error> {
        self.displayed(NUMBER, value);
        Ok(())
    }

    fn visit_f64(&mut self, value: f64) -> Result<(), kv::Error> {
        // JSON has no words for the others.
        self.displayed(if value.is_finite() { NUMBER } else { TEXT }, value);
        Ok(())
    }

    fn visit_str(&mut self, value: &str) -> Result<(), kv::Error> {
        add_field(self.key, Value::Text(value), self.out);
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn fields() -> Vec<u8> {
        let mut out = Vec::new();
        let source: [(&str, kv::Value<'_>); 5] = [
            ("id", kv::Value::from(-7)),
            ("who", kv::Value::from("é")),
            ("ok", kv::Value::from(true)),
            ("ratio", kv::Value::from(0.5)),
            ("none", kv::Value::null()),
        ];
        add_fields(&source, &mut out);
        out
    }

    #[test]
    fn what_the_facade_says_is_read_back_with_its_kinds() {
        let out = fields();
        let read: Vec<_> = Fields::read(&out).expect("ours").iter().collect();
        let expected = [
            ("id", Value::Number("-7")),
            ("who", Value::Text("é")),
            ("ok", Value::Bool(true)),
            ("ratio", Value::Number("0.5")),
            ("none", Value::Null),
        ];
        assert_eq!(read, expected);
        assert_eq!(Fields::read(&out).expect("ours").get("who"), Some("é"));
    }

    #[test]
    fn a_name_says_who_it_is_as_a_role_does() {
        let worker = Origin::of(Role::Worker(Slot(3), Generation(2)), 42);
        assert_eq!(Origin::named(&worker.name, 42), worker);
        let zygote = Origin::of(Role::Zygote(Generation(2)), 42);
        assert_eq!(Origin::named(&zygote.name, 42), zygote);
        let other = Origin::named("meter of the cellar", 0);
        assert_eq!((other.worker, other.generation), (None, None));
    }

    #[test]
    fn what_is_long_is_read_back_too() {
        let long = "é".repeat(200);
        let mut out = fields();
        add_field("long", Value::Text(&long), &mut out);
        let read = Fields::read(&out).expect("ours");
        assert_eq!((read.text, read.get("who"), read.get("long")), (None, Some("é"), Some(&*long)));
    }

    #[test]
    fn what_is_no_text_is_none() {
        let mut out = Vec::new();
        add_field("key", Value::Text("va\u{e9}lue"), &mut out);
        for at in [FIELD_HEADER_LEN, out.len() - 1] {
            let mut broken = out.clone();
            broken[at] = 0xff;
            assert_eq!(Fields::read(&broken), None);
        }
        // One letter in two parts.
        out[3] -= 4;
        assert_eq!(Fields::read(&out), None);
    }

    #[test]
    fn what_is_cut_is_none() {
        let out = fields();
        let whole: Vec<usize> = (0..=out.len()).filter(|&cut| Fields::read(&out[..cut]).is_some()).collect();
        assert_eq!(whole.len(), 6, "only between two fields");
    }

    #[test]
    fn a_long_key_is_cut_between_two_letters() {
        let mut out = Vec::new();
        add_field(&"é".repeat(KEY_LEN_MAX), Value::Number("1"), &mut out);
        let read = Fields::read(&out).expect("ours");
        assert_eq!(read.iter().next().map(|(key, _)| key.len()), Some(KEY_LEN_MAX));
    }
}
