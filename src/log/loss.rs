//! What is said where records are missing.

use log::Level;

use super::record::{Entry, Fields, Value, add_field};
use super::ring::{COUNT_END, LEVELS};

/// The target of these lines, and of all others of this library's own.
pub(crate) const OWN_TARGET: &str = "forebay";

const LEVEL_NAMES: [&str; LEVELS] = ["error", "warn", "info", "debug", "trace"];

/// The fields that count them, by level.
const FIELD_NAMES: [&str; LEVELS] = ["lost_error", "lost_warn", "lost_info", "lost_debug", "lost_trace"];

/// `7 records lost here: they came faster than the log could be written (5 info, 2 debug)`
fn message(lost: [u64; LEVELS]) -> String {
    // A hostile process may count as it likes.
    let total = lost.iter().fold(0_u64, |sum, count| sum.saturating_add(*count));
    let each = lost.iter().zip(LEVEL_NAMES).filter(|(count, _)| **count > 0);
    let each: Vec<String> = each.map(|(count, name)| format!("{count} {name}")).collect();
    let records = if total == 1 { "record" } else { "records" };
    format!("{total} {records} lost here: they came faster than the log could be written ({})", each.join(", "))
}

/// The same for programs.
fn fields(lost: [u64; LEVELS]) -> Vec<u8> {
    let mut out = Vec::new();
    for (count, name) in lost.iter().zip(FIELD_NAMES).filter(|(count, _)| **count > 0) {
        add_field(name, Value::Number(&count.to_string()), &mut out);
    }
    out
}

/// How many are missing, if this record says that some are.
pub(crate) fn told(entry: &Entry<'_>) -> Option<[u64; LEVELS]> {
    if entry.target != OWN_TARGET || entry.fields.is_empty() {
        return None;
    }
    // What cannot be is not told.
    let count = |name: &str| entry.fields.get(name)?.parse().ok().filter(|&count: &u64| count < COUNT_END);
    let lost = FIELD_NAMES.map(|name| count(name).unwrap_or(0));
    (lost != [0; LEVELS]).then_some(lost)
}

/// What a target says where it has missed some.
pub(crate) fn missing_here(count: u64) -> String {
    format!("{count} records are missing here: this target did not take them in time")
}

/// Makes the record that says so, and gives it away.
pub(crate) fn tell(lost: [u64; LEVELS], time_us: i64, to: impl FnOnce(&Entry<'_>)) {
    let (message, fields) = (message(lost), fields(lost));
    to(&Entry { fields: Fields::read(&fields).unwrap_or_default(), ..entry(&message, time_us) });
}

/// A warning of this library's own.
pub(crate) fn entry(message: &str, time_us: i64) -> Entry<'_> {
    Entry {
        time_us,
        level: Level::Warn,
        target: OWN_TARGET,
        module: "",
        message,
        fields: Fields::default(),
        request: "",
        sequence: 0,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_loss_is_told_in_words_and_in_numbers() {
        let lost = [0, 0, 5, 2, 0];
        assert_eq!(
            message(lost),
            "7 records lost here: they came faster than the log could be written (5 info, 2 debug)"
        );
        let encoded = fields(lost);
        let entry = Entry { fields: Fields::read(&encoded).expect("ours"), ..entry("x", 0) };
        assert_eq!(told(&entry), Some(lost));
        assert_eq!(told(&Entry { target: "app", ..entry }), None);
        let encoded = fields([0, u64::MAX, 5, 0, 0]);
        let entry = Entry { fields: Fields::read(&encoded).expect("ours"), ..entry };
        assert_eq!(told(&entry), Some([0, 0, 5, 0, 0]), "nobody counts so far");
    }
}
