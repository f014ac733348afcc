//! A record as the bytes that lie in a ring.
//!
//! Little-endian; a record is at least a header:
//!
//! | bytes | |
//! |---|---|
//! | 0 to 3 | the length of the whole, in bytes |
//! | 4 | the level: 1 error to 5 trace |
//! | 5 | 1: the counts of refused records follow the header; else 0 |
//! | 6, 7 | the length of the target |
//! | 8 to 15 | microseconds since 1970-01-01T00:00:00Z, signed |
//! | 16 to 23 | its number |
//! | 24 to 27 | the length of the message |
//! | 28, 29 | the length of the module |
//! | 30 | the length of the request's id |
//! | 31 | 0 |
//! | 32 to 35 | the length of the fields |
//! | 36 to 39 | 0 |
//!
//! Then five u64, if byte 5 says so: how many were refused so far, from error to trace. Then the target,
//! the module, the request's id, the message, the fields (`record::Fields`), without padding.

use log::{Level, Record};

use super::record::{Entry, Fields, add_fields};
use super::ring::LEVELS;

pub(crate) const HEADER_LEN: usize = 40;

/// The longest target and module, in bytes; what is longer is cut.
const NAME_LEN_MAX: usize = 256;

/// Fields that do not fit beside their message are left out, and this stands in their place.
const FIELDS_LEFT_OUT: &str = "fields_left_out";

/// A record that was read, and how many its process has refused until then, if it says so.
#[derive(Debug, PartialEq)]
pub(crate) struct Decoded<'a> {
    pub(crate) entry: Entry<'a>,
    pub(crate) refused: Option<[u64; LEVELS]>,
}

/// Writes all of a record but its number; the message is cut so that the whole is not longer than `len_max`.
pub(crate) fn encode(record: &Record<'_>, time_us: i64, request: &str, len_max: usize, out: &mut Vec<u8>) {
    let (target, module) = (name(record.target()), name(record.module_path().unwrap_or_default()));
    begin(record.level(), target, module, request, time_us, out);
    let start = out.len();
    match record.args().as_str() {
        Some(text) => out.extend_from_slice(text.as_bytes()),
        None => format(record.args(), out),
    }
    let message_len = cut(start, len_max, out);
    let start = out.len();
    add_fields(record.key_values(), out);
    end(start, message_len, len_max, out);
}

/// The same for a record that is not the facade's.
pub(crate) fn encode_entry(entry: &Entry<'_>, len_max: usize, out: &mut Vec<u8>) {
    begin(entry.level, name(entry.target), name(entry.module), entry.request, entry.time_us, out);
    let start = out.len();
    out.extend_from_slice(entry.message.as_bytes());
    let message_len = cut(start, len_max, out);
    let start = out.len();
    out.extend_from_slice(entry.fields.bytes());
    end(start, message_len, len_max, out);
}

/// Gives an encoded record its number.
pub(super) fn finish(record: &mut [u8], number: u64, has_counts: bool) {
    record[16..24].copy_from_slice(&number.to_le_bytes());
    if has_counts {
        let len = record.len() + LEVELS * size_of::<u64>();
        record[0..4].copy_from_slice(&(len as u32).to_le_bytes());
        record[5] = 1;
    }
}

/// The length of the record that begins with these bytes.
pub(super) fn len(first: [u8; 8]) -> usize {
    u32::from_le_bytes([first[0], first[1], first[2], first[3]]) as usize
}

/// The time of the record that begins with these bytes, unread.
pub(crate) fn time_us(record: &[u8]) -> i64 {
    record.get(8..16).and_then(|bytes| bytes.first_chunk()).copied().map_or(0, i64::from_le_bytes)
}

/// Reads a record; `None`: it is none.
pub(crate) fn decode(bytes: &[u8]) -> Option<Decoded<'_>> {
    let (header, rest) = bytes.split_first_chunk::<HEADER_LEN>()?;
    let level = *[Level::Error, Level::Warn, Level::Info, Level::Debug, Level::Trace]
        .get(usize::from(header[4]).checked_sub(1)?)?;
    let short = |at: usize| usize::from(u16::from_le_bytes([header[at], header[at + 1]]));
    let long = |at: usize| u32::from_le_bytes([header[at], header[at + 1], header[at + 2], header[at + 3]]) as usize;
    let word = |at: usize| header[at..at + 8].first_chunk().copied().unwrap_or_default();
    let (refused, rest) = match header[5] {
        0 => (None, rest),
        1 => counts(rest)?,
        _ => return None,
    };
    let (texts, fields) = rest.split_at_checked(rest.len().checked_sub(long(32))?)?;
    // All of them at once, and then only where one ends.
    let texts = std::str::from_utf8(texts).ok()?;
    let (target, texts) = texts.split_at_checked(short(6))?;
    let (module, texts) = texts.split_at_checked(short(28))?;
    let (request, message) = texts.split_at_checked(header[30].into())?;
    if message.len() != long(24) {
        return None;
    }
    let fields = Fields::read(fields)?;
    let (time_us, sequence) = (i64::from_le_bytes(word(8)), u64::from_le_bytes(word(16)));
    Some(Decoded { entry: Entry { time_us, level, target, module, message, fields, request, sequence }, refused })
}

type Counts = Option<[u64; LEVELS]>;

fn counts(bytes: &[u8]) -> Option<(Counts, &[u8])> {
    let (counts, rest) = bytes.split_at_checked(LEVELS * size_of::<u64>())?;
    let (words, _) = counts.as_chunks();
    let mut refused = [0; LEVELS];
    refused.iter_mut().zip(words).for_each(|(count, word)| *count = u64::from_le_bytes(*word));
    Some((Some(refused), rest))
}

fn name(text: &str) -> &str {
    &text[..text.floor_char_boundary(NAME_LEN_MAX)]
}

fn begin(level: Level, target: &str, module: &str, request: &str, time_us: i64, out: &mut Vec<u8>) {
    let request = &request[..request.floor_char_boundary(u8::MAX.into())];
    out.clear();
    let mut header = [0; HEADER_LEN];
    header[4] = level as u8;
    header[6..8].copy_from_slice(&(target.len() as u16).to_le_bytes());
    header[8..16].copy_from_slice(&time_us.to_le_bytes());
    header[28..30].copy_from_slice(&(module.len() as u16).to_le_bytes());
    header[30] = request.len() as u8;
    out.extend_from_slice(&header);
    for part in [target, module, request] {
        out.extend_from_slice(part.as_bytes());
    }
}

fn format(message: &std::fmt::Arguments<'_>, out: &mut Vec<u8>) {
    struct Bytes<'a>(&'a mut Vec<u8>);

    impl std::fmt::Write for Bytes<'_> {
        fn write_str(&mut self, text: &str) -> std::fmt::Result {
            self.0.extend_from_slice(text.as_bytes());
            Ok(())
        }
    }

    if std::fmt::write(&mut Bytes(out), *message).is_err() {
        out.extend_from_slice(b" (its formatting failed)");
    }
}

/// Cuts the message that begins at `start`, and says so in it; returns its length.
fn cut(start: usize, len_max: usize, out: &mut Vec<u8>) -> usize {
    if out.len() > len_max {
        let message = std::str::from_utf8(&out[start..]).unwrap_or_default();
        let mark = cut_mark(message.len());
        let len = message.floor_char_boundary(len_max.saturating_sub(start + mark.len()));
        out.truncate(start + len);
        out.extend_from_slice(&mark.as_bytes()[..mark.len().min(len_max.saturating_sub(start))]);
    }
    out.len() - start
}

/// What stands at the end of a message that was cut.
pub(crate) fn cut_mark(len: usize) -> String {
    format!(" (cut: it has {len} bytes)")
}

/// The fields begin at `start`: what they have taken, and the length of the whole.
fn end(start: usize, message_len: usize, len_max: usize, out: &mut Vec<u8>) {
    if out.len() > len_max {
        out.truncate(start);
        super::record::add_field(FIELDS_LEFT_OUT, super::record::Value::Bool(true), out);
        // A message of the full length leaves no room for it either.
        if out.len() > len_max {
            out.truncate(start);
        }
    }
    let (fields_len, len) = (out.len() - start, out.len());
    out[0..4].copy_from_slice(&(len as u32).to_le_bytes());
    out[24..28].copy_from_slice(&(message_len as u32).to_le_bytes());
    out[32..36].copy_from_slice(&(fields_len as u32).to_le_bytes());
}

#[cfg(test)]
mod tests {
    use log::kv;

    use super::*;

    fn encoded(len_max: usize, message: &str) -> Vec<u8> {
        let fields: [(&str, kv::Value<'_>); 1] = [("id", kv::Value::from(7))];
        let mut out = Vec::new();
        let mut record = |args| {
            encode(
                &Record::builder()
                    .args(args)
                    .level(Level::Warn)
                    .target("app")
                    .module_path(Some("app::module"))
                    .key_values(&fields)
                    .build(),
                -5,
                "r-1",
                len_max,
                &mut out,
            );
        };
        record(format_args!("{message}"));
        finish(&mut out, 9, false);
        out
    }

    #[test]
    fn a_record_is_read_back_whole() {
        let bytes = encoded(4096, "hello é");
        let Decoded { entry, refused } = decode(&bytes).expect("ours");
        assert_eq!((entry.time_us, entry.level, entry.target, entry.module), (-5, Level::Warn, "app", "app::module"));
        assert_eq!((entry.message, entry.request, entry.sequence, refused), ("hello é", "r-1", 9, None));
        assert_eq!(entry.fields.get("id"), Some("7"));
        let mut again = Vec::new();
        encode_entry(&entry, 4096, &mut again);
        finish(&mut again, 9, false);
        assert_eq!(again, bytes);
    }

    #[test]
    fn every_cut_and_every_wrong_byte_is_harmless() {
        let bytes = encoded(4096, "hello é");
        for end in 0..bytes.len() {
            assert_eq!(decode(&bytes[..end]), None, "cut at {end}");
        }
        for at in 0..bytes.len() {
            for value in [0, 1, 2, 0x7f, 0x80, 0xff] {
                let mut wrong = bytes.clone();
                wrong[at] = value;
                let _ = decode(&wrong);
            }
        }
    }

    #[test]
    fn what_is_too_long_is_cut_between_two_letters() {
        let long = "é".repeat(500);
        for len_max in [200, 201, 400] {
            let bytes = encoded(len_max, &long);
            assert!(bytes.len() <= len_max, "{} of {len_max}", bytes.len());
            let entry = decode(&bytes).expect("ours").entry;
            let text = entry.message.strip_suffix(" (cut: it has 1000 bytes)").expect("the mark");
            assert!(!text.is_empty() && text.chars().all(|letter| letter == 'é'));
        }
    }
}
