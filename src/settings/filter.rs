//! Which records are wanted, in RUST_LOG's syntax: `info,hyper=debug/a pattern`.

use env_filter::Builder;
use log::LevelFilter;

/// The longest filter that a command may say, in bytes.
const LEN_MAX: usize = 4096;

/// What would end a target's name within a filter.
const ENDS: [char; 4] = [',', '=', '/', ' '];

/// Whether it can be read. A word alone that is no level is a slip, and not the name of a target of which everything is
/// wanted and nothing else.
pub(super) fn check(text: &str) -> Result<(), String> {
    if is_one_word(text) {
        return level(text).map(drop);
    }
    // Of a wrong pattern the last line says what is wrong; those before it draw where.
    let last = |text: &str| text.lines().last().map_or_else(String::new, |line| line.replace("error: ", ""));
    Builder::new()
        .try_parse(text)
        .map(drop)
        .map_err(|error| format!("{text:?} is no filter: {}", last(&error.to_string())))
}

/// The same for one that a command says.
pub(crate) fn check_typed(text: &str) -> Result<(), String> {
    if text.len() > LEN_MAX {
        return Err(format!("a filter of {} bytes: the longest has {LEN_MAX}", text.len()));
    }
    if text.trim().is_empty() {
        return Err("an empty filter".to_owned());
    }
    check(text)
}

/// For `RUST_LOG`, where env_logger takes a word alone for a target: what it takes it for, if that is no level.
pub(super) fn of_lone_target(text: &str) -> Option<String> {
    (is_one_word(text) && level(text).is_err()).then(|| format!("{}=trace", text.trim()))
}

fn is_one_word(text: &str) -> bool {
    !text.trim().is_empty() && !text.contains(['=', ',', '/'])
}

/// This level of this target, and of all whose names begin with its.
pub(crate) fn of_target(text: &str, target: &str) -> Result<String, String> {
    if target.is_empty() || target.contains(ENDS) || target.contains(char::is_control) {
        return Err(format!("{target:?} is no target: it is a name as `hyper` or `hyper::client`"));
    }
    let filter = format!("{target}={}", level(text)?.as_str().to_ascii_lowercase());
    check_typed(&filter).map(|()| filter)
}

/// One filter, and what another one says beside it and instead of it.
pub(crate) fn joined(filter: &str, added: &str) -> String {
    let parts = |text: &str| match text.split_once('/') {
        Some((levels, pattern)) => (levels.to_owned(), Some(pattern.to_owned())),
        None => (text.to_owned(), None),
    };
    let ((levels, pattern), (more, other)) = (parts(filter), parts(added));
    let levels: Vec<String> = [levels, more].into_iter().filter(|levels| !levels.is_empty()).collect();
    let pattern = other.or(pattern).map_or_else(String::new, |pattern| format!("/{pattern}"));
    format!("{}{pattern}", levels.join(","))
}

fn level(text: &str) -> Result<LevelFilter, String> {
    let level = text.trim().parse();
    level.map_err(|_| {
        let word = text.trim();
        format!(
            "{text:?} is no level: there are error, warn, info, debug, trace and off; of a target alone, `{word}=trace`"
        )
    })
}

#[cfg(test)]
mod tests {
    use log::{Level, Metadata};

    use super::*;
    use crate::log::loss;

    #[test]
    fn what_is_added_counts_and_the_rest_stays() {
        let table = [
            ("info", "debug", "info,debug"),
            ("info", "hyper=debug", "info,hyper=debug"),
            ("", "hyper=debug", "hyper=debug"),
            ("info,hyper=warn", "hyper=trace", "info,hyper=warn,hyper=trace"),
            ("info/cat", "hyper=debug", "info,hyper=debug/cat"),
            ("info/cat", "debug/dog", "info,debug/dog"),
        ];
        for (filter, added, expected) in table {
            assert_eq!(joined(filter, added), expected);
            check(expected).expect(expected);
        }
        let wants = |filter: &str, level, target: &str| {
            Builder::new().parse(filter).build().enabled(&Metadata::builder().level(level).target(target).build())
        };
        let both = joined("info,hyper=warn", "debug");
        assert!(wants(&both, Level::Debug, "app") && !wants(&both, Level::Info, "hyper::client"));
        let both = joined("info,hyper=warn", "hyper=trace");
        assert!(!wants(&both, Level::Debug, "app") && wants(&both, Level::Trace, "hyper::client"));
    }

    #[test]
    fn a_pattern_is_a_regular_expression() {
        let filter = Builder::new().try_parse("info/record [12] ").expect("a pattern").build();
        let wants = |message: &str| {
            let entry = loss::entry(message, 0);
            entry.is_wanted_by(&filter)
        };
        assert!(wants("record 1 of many") && !wants("record 3 of many") && !wants("record [12] "));
        check("info/record [12").expect_err("it has no end");
    }

    #[test]
    fn a_slip_is_told() {
        for good in ["debug", "OFF", "info,hyper=debug", "hyper=", "debug/cat", "hyper,tower"] {
            check_typed(good).expect(good);
        }
        let long = "a=debug,".repeat(600);
        for wrong in ["", " ", "debgu", "hyper=loud", "a=b=c", "info/a/b", &long] {
            check_typed(wrong).expect_err(wrong);
        }
        check("infoo").expect_err("no level");
        assert_eq!(of_lone_target("hyper").as_deref(), Some("hyper=trace"));
        for other in ["", "info", "hyper=debug", "info,hyper"] {
            assert_eq!(of_lone_target(other), None, "{other}");
        }
        assert_eq!(of_target("DEBUG", "hyper::client").as_deref(), Ok("hyper::client=debug"));
        for (level, target) in [("debug", ""), ("debug", "a,b"), ("debug", "a=b"), ("debug", "a b"), ("a=debug", "b")] {
            of_target(level, target).expect_err(target);
        }
    }
}
